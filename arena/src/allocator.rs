//! The global allocator of every Transom binary.
//!
//! | who allocates | from what |
//! |---|---|
//! | a thread bound to a bucket | that bucket's arena |
//! | the same inside [`outside`](crate::outside) or while a [`Shared`](crate::Shared) is locked for writing | the shared heap |
//! | the same while it panics or cleans up, once the arena is full | the panic room in the bucket's reserve, then the process heap |
//! | every other thread | the process heap, counted once the process is sealed |
//!
//! A block goes back to where its address lies, whichever thread frees it.

use crate::bucket::{self, Bucket, Home};
use crate::panic::{FRAMES_MAX, callers};
use crate::recovery::{self, STACK_MARGIN, ensure_stack};
use crate::shared;
use crate::thread::{bound, thread};
use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// Declare it with `#[global_allocator]`. `transom-platform` does so for every binary that uses it.
#[derive(Debug, Clone, Copy, Default)]
pub struct TransomAllocator;

static SEALED: AtomicBool = AtomicBool::new(false);
static AFTER_SEAL: AtomicU64 = AtomicU64::new(0);
static FORBIDDEN: AtomicBool = AtomicBool::new(false);

/// Says that start-up is over: from here on, allocations from the process heap are counted.
pub fn seal() {
    SEALED.store(true, Ordering::SeqCst);
}

/// Allocations (and reallocations) from the process heap since [`seal`]. Zero is what a Transom process aims at.
#[must_use]
pub fn process_heap_allocations() -> u64 {
    AFTER_SEAL.load(Ordering::Relaxed)
}

/// Keeps the C library from mapping or extending memory after start: one malloc arena instead of one per thread, no
/// trimming, and headroom at the top of the heap for what it allocates itself (a thread's table of thread-local
/// storage, 272 bytes each). Call once, first thing; the headroom is part of the equation's process constant.
pub fn settle_process_heap(headroom_bytes: usize) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let pad = i32::try_from(headroom_bytes).unwrap_or(i32::MAX);
        // SAFETY: mallopt sets parameters of malloc.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, 1);
            libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
            libc::mallopt(libc::M_TOP_PAD, pad);
        }
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    let _ = headroom_bytes;
}

/// Makes an allocation from the process heap after [`seal`] fatal: the process says where it was made and aborts. For
/// tests.
pub fn forbid_process_heap() {
    FORBIDDEN.store(true, Ordering::SeqCst);
}

fn count() {
    if SEALED.load(Ordering::Relaxed) && AFTER_SEAL.fetch_add(1, Ordering::Relaxed) == 0 {
        note_culprit();
        if FORBIDDEN.load(Ordering::Relaxed) {
            die();
        }
    }
}

/// Ends the process. It allocates itself, which by now is nobody's second first allocation.
#[cold]
#[inline(never)]
fn die() -> ! {
    let backtrace = std::backtrace::Backtrace::force_capture();
    eprintln!(
        "fatal: memory was allocated outside the region after the start (--strict-heap), by thread {:?}:\n{backtrace}",
        std::thread::current().name().unwrap_or("(unnamed)")
    );
    std::process::abort();
}

/// Who made the first allocation after [`seal`]: its return addresses.
static CULPRIT: [AtomicUsize; FRAMES_MAX] = [const { AtomicUsize::new(0) }; FRAMES_MAX];

#[cold]
#[inline(never)]
fn note_culprit() {
    let (frames, count) = callers();
    for (place, frame) in CULPRIT.iter().zip(&frames[..count]) {
        place.store(*frame, Ordering::Relaxed);
    }
}

/// The return addresses of the first allocation from the process heap since [`seal`], innermost first, as offsets that
/// `addr2line -e BINARY` takes; zeros after the last, and all zeros if there was none.
#[must_use]
pub fn first_process_heap_allocation() -> [usize; 32] {
    std::array::from_fn(|n| CULPRIT[n].load(Ordering::Relaxed))
}

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

// SAFETY: every path returns null or a block of at least `layout.size()` bytes at its alignment that nothing else has:
// from bumpalo, talc or the system allocator, each of which guarantees that, from the panic room (a bump cursor), or the
// carved memory, given out once. A block is given back to where its address lies.
unsafe impl GlobalAlloc for TransomAllocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let aim = thread(|t| t.aim.get());
        // SAFETY: `aim` is null or a bucket of the region, bound to this thread.
        match unsafe { aim.as_ref() } {
            Some(bucket) => allocate_in(bucket, layout),
            None => allocate_elsewhere(layout),
        }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let aim = thread(|t| t.aim.get());
        // SAFETY: as in `alloc`.
        if let Some(bucket) = unsafe { aim.as_ref() }
            && bucket.heap().owns(block as usize)
        {
            // SAFETY: the block lies in this arena, so `alloc` made it there with this layout; GlobalAlloc's contract
            // says that it is not null and not used again.
            unsafe {
                bucket
                    .heap()
                    .deallocate(NonNull::new_unchecked(block), layout);
            }
            return;
        }
        // SAFETY: GlobalAlloc's contract, passed on.
        unsafe { deallocate_elsewhere(block, layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if on_process_heap() {
            count();
            // SAFETY: GlobalAlloc's contract, passed on. Fresh pages need no second zeroing.
            return unsafe { System.alloc_zeroed(layout) };
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
            let moved = unsafe {
                let block = NonNull::new_unchecked(block);
                if new_size >= old.size() {
                    bucket.heap().grow(block, old, new)
                } else {
                    bucket.heap().shrink(block, old, new)
                }
            };
            if let Ok(moved) = moved {
                return moved.as_ptr();
            }
        }
        // SAFETY: GlobalAlloc's contract, passed on.
        unsafe { reallocate_elsewhere(self, block, old, new_size) }
    }
}

#[inline(always)]
fn allocate_in(bucket: &Bucket, layout: Layout) -> *mut u8 {
    match bucket.heap().allocate(layout) {
        Ok(block) => block.as_ptr(),
        Err(_) => recovery::does_not_fit(bucket, layout).as_ptr(),
    }
}

/// Whether an allocation made now by this thread would come from the process heap.
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
        Some(bucket) => from_panic_room(bucket, layout).as_ptr(),
        None => from_process_heap(layout),
    }
}

/// For a thread that is panicking or cleaning up: the failure path must not depend on the arena that is full. If even the
/// process heap has nothing, null would end the process; so the request ends for ever instead.
pub(crate) fn from_panic_room(bucket: &Bucket, layout: Layout) -> NonNull<u8> {
    bucket
        .allocate_in_panic_room(layout)
        .or_else(|| NonNull::new(from_process_heap(layout)))
        .unwrap_or_else(|| recovery::nothing_is_left(bucket, layout))
}

pub(crate) fn from_process_heap(layout: Layout) -> *mut u8 {
    count();
    ensure_stack(STACK_MARGIN);
    // SAFETY: the layout is a caller's of GlobalAlloc::alloc, whose size is not zero.
    unsafe { System.alloc(layout) }
}

/// # Safety
/// As `GlobalAlloc::dealloc`.
#[inline(never)]
unsafe fn deallocate_elsewhere(block: *mut u8, layout: Layout) {
    match bucket::home_of(block as usize) {
        Home::Arena(bucket) => {
            if thread(|t| ptr::eq(t.bound.get(), bucket)) {
                // SAFETY: the block lies in this arena, which belongs to this thread; GlobalAlloc's contract.
                unsafe {
                    bucket
                        .heap()
                        .deallocate(NonNull::new_unchecked(block), layout);
                }
            } else {
                bucket.freed_from_afar();
            }
        }
        Home::Reserve(bucket) => {
            // Its bytes come back with the bucket; only the count must be right.
            if thread(|t| ptr::eq(t.bound.get(), bucket)) {
                bucket.heap().count_deallocation();
            } else {
                bucket.freed_from_afar();
            }
        }
        Home::SharedHeap => {
            // SAFETY: the address lies in the shared heap, so it was allocated there; GlobalAlloc's contract.
            unsafe { shared::deallocate(NonNull::new_unchecked(block), layout) }
        }
        Home::Process => {
            ensure_stack(STACK_MARGIN);
            // SAFETY: it lies in none of ours, so the system allocator made it.
            unsafe { System.dealloc(block, layout) }
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
        // A value made at start that grows inside a request stays where it is: the arena is gone with the request.
        // Inside `outside` it moves to the shared heap.
        Home::Process => thread(|t| t.outside.get()) == 0,
        Home::SharedHeap => true,
        Home::Arena(_) | Home::Reserve(_) => false,
    };
    if stays && matches!(home, Home::Process) {
        count();
        ensure_stack(STACK_MARGIN);
        // SAFETY: the system allocator made it.
        return unsafe { System.realloc(block, old, new_size) };
    }
    let target = if stays {
        shared::allocate(new).unwrap_or_else(|| recovery::shared_heap_does_not_fit(new))
    } else {
        // SAFETY: new.size() is not zero by GlobalAlloc's contract.
        unsafe { allocator.alloc(new) }
    };
    if !target.is_null() {
        // SAFETY: both blocks are valid for the smaller size and do not overlap; the old one is not used again.
        unsafe {
            ptr::copy_nonoverlapping(block, target, old.size().min(new_size));
            allocator.dealloc(block, old);
        }
    }
    target
}
