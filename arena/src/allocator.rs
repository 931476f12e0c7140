//! The global allocator of every Transom binary.
//!
//! | what allocates | from what |
//! |---|---|
//! | a thread bound to a bucket | that bucket's arena; what does not fit ends the request by a jump, or comes from the overdraft |
//! | the same inside [`outside`](crate::outside) or while a [`Shared`](crate::Shared) is locked for writing | the shared heap, then the overdraft |
//! | the same while it panics or cleans up | the arena, then the panic room in the bucket's reserve, then the overdraft |
//! | every other thread | the process heap, counted once the process is sealed |
//!
//! A block goes back to where its address lies, whichever thread frees it.

use crate::bucket::{self, Bucket, Home};
use crate::granules::rounded;
use crate::process_heap;
use crate::recovery::{self, STACK_MARGIN, ensure_stack};
use crate::shared;
use crate::thread::{Discard, bound, thread};
use crate::{overdraft, pool};
use bumpalo::Bump;
use std::alloc::{GlobalAlloc, Layout};
use std::ptr::{self, NonNull};

/// Declare it with `#[global_allocator]`. `transom-platform` does so for every binary that uses it.
#[derive(Debug, Clone, Copy, Default)]
pub struct TransomAllocator;

/// Runs `build`; the first allocation in it that fits is given exactly `[memory, memory + len)`.
///
/// # Safety
/// The memory is aligned to 16, valid for `len` bytes and referred to by nothing else.
pub(crate) unsafe fn carve<R>(memory: NonNull<u8>, len: usize, build: impl FnOnce() -> R) -> R {
    thread(|t| t.carve.set((memory.as_ptr(), len)));
    let result = build();
    thread(|t| t.carve.set((ptr::null_mut(), 0)));
    result
}

/// Drops a bump that has other chunks than the arena `[memory, memory + len)`. The arena itself is not freed.
/// Gives how many bytes of other chunks had been made in the arena, below the mark and above it: they are not
/// live any more.
pub(crate) fn discard(bump: Bump, memory: usize, len: usize, mark: usize) -> (usize, usize) {
    let discard = Discard::of(memory, len, mark);
    thread(|t| t.discard.set(&raw const discard));
    drop(bump);
    thread(|t| t.discard.set(ptr::null()));
    (discard.below.get(), discard.above.get())
}

// SAFETY: every path returns null or a block of at least `layout.size()` bytes at its alignment that nothing
// else has: from the arena's heap, talc or the system allocator, each of which guarantees that, from the
// panic room (a bump cursor), or the carved memory, given out once. A block is given back to where its
// address lies.
unsafe impl GlobalAlloc for TransomAllocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let aim = thread(|t| t.aim.get());
        // SAFETY: `aim` is null or a bucket of the region, bound to this thread.
        match unsafe { aim.as_ref() } {
            Some(bucket) => match bucket.heap().allocate_at_tip(layout) {
                Some(block) => block.as_ptr(),
                None => allocate_in(bucket, layout),
            },
            None => allocate_elsewhere(layout),
        }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let aim = thread(|t| t.aim.get());
        // SAFETY: as in `alloc`; GlobalAlloc's contract says that the block is not null, was made with this
        // layout, and is not used again. At the tip of this arena's run lies a block of this arena.
        unsafe {
            match aim.as_ref() {
                Some(bucket)
                    if bucket
                        .heap()
                        .deallocate_at_tip(NonNull::new_unchecked(block), layout) => {}
                Some(bucket) => deallocate_in(bucket, block, layout),
                None => deallocate_elsewhere(block, layout),
            }
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if on_process_heap() {
            // SAFETY: GlobalAlloc's contract, passed on.
            return unsafe { process_heap::allocate_zeroed(layout) };
        }
        // SAFETY: GlobalAlloc's contract, passed on.
        let block = unsafe { self.alloc(layout) };
        if !block.is_null() {
            // SAFETY: just allocated with this size.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, old: Layout, new_size: usize) -> *mut u8 {
        let aim = thread(|t| t.aim.get());
        // SAFETY: as in `alloc`.
        if let Some(bucket) = unsafe { aim.as_ref() }
            && bucket.heap().owns(block as usize)
        {
            // SAFETY: GlobalAlloc's contract: the size does not overflow when rounded to the alignment.
            let new = unsafe { Layout::from_size_align_unchecked(new_size, old.align()) };
            // SAFETY: the block lies in this arena and is live.
            unsafe {
                let block = NonNull::new_unchecked(block);
                if new_size <= old.size() {
                    return bucket.heap().shrink(block, old, new).as_ptr();
                }
                if let Ok(grown) = bucket.heap().grow(block, old, new) {
                    return grown.as_ptr();
                }
            }
        }
        // SAFETY: GlobalAlloc's contract, passed on.
        unsafe { reallocate_elsewhere(self, block, old, new_size) }
    }
}

#[inline(never)]
fn allocate_in(bucket: &'static Bucket, layout: Layout) -> *mut u8 {
    match bucket.heap().allocate(layout) {
        Ok(block) => block.as_ptr(),
        Err(_) => recovery::does_not_fit(bucket, layout),
    }
}

/// # Safety
/// As `GlobalAlloc::dealloc`; this thread's allocations are aimed at the bucket.
#[inline(never)]
unsafe fn deallocate_in(bucket: &'static Bucket, block: *mut u8, layout: Layout) {
    if bucket.heap().owns(block as usize) {
        // SAFETY: the block lies in this arena, so `alloc` made it there with this layout; GlobalAlloc's
        // contract says that it is not null and not used again.
        unsafe {
            let block = NonNull::new_unchecked(block);
            bucket.heap().deallocate(block, layout);
        }
    } else {
        // SAFETY: GlobalAlloc's contract, passed on.
        unsafe { deallocate_elsewhere(block, layout) }
    }
}

/// Whether an allocation that this thread makes now would come from the process heap.
fn on_process_heap() -> bool {
    thread(|t| {
        t.aim.get().is_null()
            && t.bound.get().is_null()
            && t.outside.get() == 0
            && t.carve.get().0.is_null()
    })
}

#[cold]
#[inline(never)]
fn allocate_elsewhere(layout: Layout) -> *mut u8 {
    if on_process_heap() {
        return from_process_heap(layout);
    }
    let (carved, len) = thread(|t| t.carve.get());
    if !carved.is_null() {
        let fits = layout.size() <= len && layout.size() > len / 2;
        if fits && carved.addr().is_multiple_of(layout.align()) {
            thread(|t| t.carve.set((ptr::null_mut(), 0)));
            return carved;
        }
        return from_process_heap(layout);
    }
    if thread(|t| t.outside.get()) > 0 {
        return shared::allocate(layout)
            .unwrap_or_else(|| recovery::shared_heap_does_not_fit(layout));
    }
    match bound() {
        Some(bucket) => recovery::while_failing(bucket, layout),
        None => from_process_heap(layout),
    }
}

pub(crate) fn from_process_heap(layout: Layout) -> *mut u8 {
    ensure_stack(STACK_MARGIN);
    // SAFETY: the layout is a caller's of GlobalAlloc::alloc, whose size is not zero.
    unsafe { process_heap::allocate(layout) }
}

/// # Safety
/// As `GlobalAlloc::dealloc`.
#[inline(never)]
unsafe fn deallocate_elsewhere(block: *mut u8, layout: Layout) {
    // SAFETY: GlobalAlloc's contract: not null.
    let at = unsafe { NonNull::new_unchecked(block) };
    // SAFETY: set for as long as the value that it points to lives, by `discard`, on this thread.
    if let Some(discard) = unsafe { thread(|t| t.discard.get()).as_ref() }
        && discard.takes(block as usize, rounded(layout.size()))
    {
        return;
    }
    match bucket::home_of(block as usize) {
        Home::Arena(bucket) => {
            // SAFETY: the block lies in this arena; GlobalAlloc's contract.
            unsafe {
                if thread(|t| ptr::eq(t.bound.get(), bucket)) {
                    bucket.heap().deallocate(at, layout);
                } else {
                    bucket.freed_from_afar(at, rounded(layout.size()));
                }
            }
        }
        // SAFETY: it was made there; GlobalAlloc's contract.
        Home::Reserve(bucket) => unsafe {
            if thread(|t| ptr::eq(t.bound.get(), bucket)) {
                bucket.freed_in_panic_room();
            } else {
                bucket.freed_from_afar(at, rounded(layout.size()));
            }
        },
        // SAFETY: the address lies in the shared heap, so it was allocated there; GlobalAlloc's contract.
        Home::SharedHeap => unsafe { shared::deallocate(at, layout) },
        // SAFETY: the same of the overdraft.
        Home::Overdraft => unsafe { overdraft::deallocate(at) },
        Home::Process => {
            ensure_stack(STACK_MARGIN);
            // SAFETY: it lies in no heap of ours, so it came from the process heap.
            unsafe { process_heap::deallocate(block, layout) }
        }
    }
}

/// # Safety
/// As `GlobalAlloc::realloc`.
#[cold]
#[inline(never)]
unsafe fn reallocate_elsewhere(
    allocator: &TransomAllocator,
    block: *mut u8,
    old: Layout,
    new_size: usize,
) -> *mut u8 {
    // SAFETY: GlobalAlloc's contract, as above.
    let new = unsafe { Layout::from_size_align_unchecked(new_size, old.align()) };
    let home = bucket::home_of(block as usize);
    let stays = match home {
        // A value made at start that grows inside a request moves into the region, as far as that has room.
        Home::Process => on_process_heap(),
        // So does what a closure of a `Shared` has returned: from here on it is the request's own.
        Home::SharedHeap => bound().is_none_or(shared::is_inside),
        Home::Arena(_) | Home::Reserve(_) | Home::Overdraft => false,
    };
    if stays && matches!(home, Home::Process) {
        ensure_stack(STACK_MARGIN);
        // SAFETY: it came from the process heap.
        return unsafe { process_heap::reallocate(block, old, new_size) };
    }
    if let (Home::SharedHeap, Some(at)) = (&home, NonNull::new(block))
        // SAFETY: it lies in the shared heap and is live.
        && unsafe { shared::resize(at, old, new_size) }
    {
        return block;
    }
    let target = if stays {
        shared::allocate(new).unwrap_or_else(|| recovery::shared_heap_does_not_fit(new))
    } else {
        // SAFETY: new.size() is not zero by GlobalAlloc's contract.
        unsafe { allocator.alloc(new) }
    };
    if let (Some(from), Some(to)) = (NonNull::new(block), NonNull::new(target)) {
        // SAFETY: both blocks are valid for the smaller size and do not overlap; the old one is not used
        // again.
        unsafe {
            pool::copy(from, to, old.size().min(new_size));
            allocator.dealloc(block, old);
        }
    }
    target
}
