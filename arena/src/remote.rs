//! Blocks of one owner that other threads have freed: a stack onto which any thread pushes, and which only
//! the owner empties.
//!
//! Any thread may free a block, but only the owner changes what the block was part of. So another thread
//! writes into the block which block was freed before it, and how long it is, and the owner takes all of them
//! at once. A push is a loop around one compare-and-swap. The swap that takes them cannot fail. No thread
//! takes a single one, so a head that is the same again is the same stack (no ABA).
//!
//! It names its atomics through `crate::futex` only, so that `tests/loom.rs` can run this very file on
//! modelled ones.

use crate::futex::{AtomicPtr, Ordering};
use std::ptr::{self, NonNull};

/// What is written into a freed block; every block has room for it.
#[derive(Debug)]
#[repr(C)]
struct Freed {
    before: *mut Freed,
    size: usize,
}

/// The stack.
#[derive(Debug)]
pub(crate) struct Remote {
    last: AtomicPtr<()>,
}

impl Remote {
    pub(crate) fn new() -> Self {
        Remote {
            last: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// By any thread: this block was freed.
    ///
    /// # Safety
    /// The block has `size` bytes, at least 16, aligned to 8; it is the owner's, and this thread has freed
    /// it: it is not used before the owner takes it.
    pub(crate) unsafe fn push(&self, block: NonNull<u8>, size: usize) {
        let freed = block.cast::<Freed>();
        let mut before = self.last.load(Ordering::Relaxed);
        loop {
            // SAFETY: by the caller's promise the block is long enough, and ours.
            unsafe {
                freed.write(Freed {
                    before: before.cast(),
                    size,
                });
            }
            // Release: what was done with the block, and what was written into it, happens before the owner
            // takes it.
            let pushed = self.last.compare_exchange_weak(
                before,
                freed.as_ptr().cast(),
                Ordering::Release,
                Ordering::Relaxed,
            );
            match pushed {
                Ok(_) => return,
                Err(other) => before = other,
            }
        }
    }

    /// Whether there is one. May be out of date at once.
    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.last.load(Ordering::Relaxed).is_null()
    }

    /// By the owner: takes all that were freed before this, newest first.
    pub(crate) fn take_all(&self, mut each: impl FnMut(NonNull<u8>, usize)) {
        // Acquire: what other threads did with the blocks is over.
        let mut last = self
            .last
            .swap(ptr::null_mut(), Ordering::Acquire)
            .cast::<Freed>();
        while let Some(freed) = NonNull::new(last) {
            // SAFETY: on the stack lie blocks that `push` has written, and they are the owner's now.
            let Freed { before, size } = unsafe { freed.read() };
            last = before;
            each(freed.cast(), size);
        }
    }
}
