//! The process heap: what is allocated outside requests, and is counted once the process has started.
//!
//! It is the C library's. Where the malloc family of this program is ours ([`crate::c_heap`]), the C
//! library's own is called by the names that it keeps for that, so that nothing of it lands in a request.

use crate::panic::{FRAMES_MAX, callers};
use std::alloc::Layout;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

static SEALED: AtomicBool = AtomicBool::new(false);
static AFTER_SEAL: AtomicU64 = AtomicU64::new(0);
static ATTACHING: AtomicU64 = AtomicU64::new(0);
static FORBIDDEN: AtomicBool = AtomicBool::new(false);

/// Says that start-up is over: from here on, allocations from the process heap are counted.
pub fn seal() {
    SEALED.store(true, Ordering::SeqCst);
}

/// Allocations (and reallocations) from the process heap since [`seal`]. Zero is what a Transom process aims
/// at.
#[must_use]
pub fn process_heap_allocations() -> u64 {
    AFTER_SEAL.load(Ordering::Relaxed)
}

/// Allocations (and reallocations) from the process heap since [`seal`] by threads, or parts of them, that
/// open doors: see [`count_attaching_apart`]. [`process_heap_allocations`] has none of them.
#[must_use]
pub fn attaching_allocations() -> u64 {
    ATTACHING.load(Ordering::Relaxed)
}

thread_local! {
    static ATTACHES: Cell<bool> = const { Cell::new(false) };
}

/// Says that this thread opens doors from now on, and serves no request: what a channel needs besides its
/// memory is allocated when another process lets us in, and freed with the channel. The equation limits the
/// number of channels. It is counted by [`attaching_allocations`].
pub fn count_attaching_apart() {
    ATTACHES.set(true);
}

/// Runs `attach`, which opens or frees a channel, on a thread that does other things as well: see
/// [`count_attaching_apart`].
pub fn attaching<T>(attach: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            ATTACHES.set(self.0);
        }
    }
    let _restore = Restore(ATTACHES.replace(true));
    attach()
}

/// Keeps the C library from mapping or extending memory after start: one malloc arena instead of one per
/// thread, no trimming, and headroom at the top of the heap for what it allocates itself (a thread's table of
/// thread-local storage, 272 bytes each). Call once, first thing; the headroom is part of the equation's
/// process constant.
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

/// Makes an allocation from the process heap after [`seal`] fatal: the process says where it was made and
/// aborts. For tests.
pub fn forbid_process_heap() {
    FORBIDDEN.store(true, Ordering::SeqCst);
}

/// Counts an allocation, or a reallocation.
pub(crate) fn count() {
    // A thread that ends, and has no such word any more, opens no door.
    if ATTACHES.try_with(Cell::get).unwrap_or(false) {
        ATTACHING.fetch_add(u64::from(SEALED.load(Ordering::Relaxed)), Ordering::Relaxed);
        return;
    }
    if SEALED.load(Ordering::Relaxed) && AFTER_SEAL.fetch_add(1, Ordering::Relaxed) == 0 {
        note_culprit();
        if FORBIDDEN.load(Ordering::Relaxed) {
            die();
        }
    }
}

/// Ends the process. It allocates too, but that is not the first allocation, so this is not called again.
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

/// What made the first allocation after [`seal`]: its return addresses.
static CULPRIT: [AtomicUsize; FRAMES_MAX] = [const { AtomicUsize::new(0) }; FRAMES_MAX];

#[cold]
#[inline(never)]
fn note_culprit() {
    let (frames, count) = callers();
    for (place, frame) in CULPRIT.iter().zip(&frames[..count]) {
        place.store(*frame, Ordering::Relaxed);
    }
}

/// The return addresses of the first allocation from the process heap since [`seal`], innermost first, as
/// offsets that `addr2line -e BINARY` takes; zeros after the last, and all zeros if there was none.
#[must_use]
pub fn first_process_heap_allocation() -> [usize; 32] {
    std::array::from_fn(|n| CULPRIT[n].load(Ordering::Relaxed))
}

/// A block, counted. Null if there is none.
///
/// # Safety
/// The size is not zero.
pub(crate) unsafe fn allocate(layout: Layout) -> *mut u8 {
    count();
    // SAFETY: the caller's promise.
    unsafe { imp::allocate(layout) }
}

/// The same, zeroed: fresh pages need no second zeroing.
///
/// # Safety
/// The size is not zero.
pub(crate) unsafe fn allocate_zeroed(layout: Layout) -> *mut u8 {
    count();
    // SAFETY: the caller's promise.
    unsafe { imp::allocate_zeroed(layout) }
}

/// A block of another size with the same bytes, counted. Null if there is none; then the old one is as it
/// was.
///
/// # Safety
/// The block came from here with this layout; the size is not zero and does not overflow when rounded to the
/// alignment.
pub(crate) unsafe fn reallocate(block: *mut u8, old: Layout, new_size: usize) -> *mut u8 {
    count();
    // SAFETY: the caller's promise.
    unsafe { imp::reallocate(block, old, new_size) }
}

/// # Safety
/// The block came from here with this layout, and is not used again.
pub(crate) unsafe fn deallocate(block: *mut u8, layout: Layout) {
    // SAFETY: the caller's promise.
    unsafe { imp::deallocate(block, layout) }
}

/// The C library's own functions: `malloc` is ours.
#[cfg(all(feature = "c-heap", not(miri)))]
mod imp {
    use crate::c_heap::library::{
        __libc_calloc, __libc_free, __libc_malloc, __libc_memalign, __libc_realloc,
    };
    use std::alloc::Layout;
    use std::ptr;

    /// What `malloc` aligns to.
    const ALIGN: usize = 16;

    pub(super) unsafe fn allocate(layout: Layout) -> *mut u8 {
        // SAFETY: they take any size; an alignment is a power of two.
        unsafe {
            if layout.align() <= ALIGN {
                __libc_malloc(layout.size()).cast()
            } else {
                __libc_memalign(layout.align(), layout.size()).cast()
            }
        }
    }

    pub(super) unsafe fn allocate_zeroed(layout: Layout) -> *mut u8 {
        if layout.align() <= ALIGN {
            // SAFETY: it takes any size.
            return unsafe { __libc_calloc(1, layout.size()) }.cast();
        }
        // SAFETY: the caller's promise; the block has that size.
        unsafe {
            let block = allocate(layout);
            if !block.is_null() {
                block.write_bytes(0, layout.size());
            }
            block
        }
    }

    pub(super) unsafe fn reallocate(block: *mut u8, old: Layout, new_size: usize) -> *mut u8 {
        if old.align() <= ALIGN {
            // SAFETY: the block came from the same functions.
            return unsafe { __libc_realloc(block.cast(), new_size) }.cast();
        }
        // SAFETY: the caller's promise; the blocks do not overlap.
        unsafe {
            let new = allocate(Layout::from_size_align_unchecked(new_size, old.align()));
            if !new.is_null() {
                ptr::copy_nonoverlapping(block, new, old.size().min(new_size));
                deallocate(block, old);
            }
            new
        }
    }

    pub(super) unsafe fn deallocate(block: *mut u8, _: Layout) {
        // SAFETY: the block came from the same functions.
        unsafe { __libc_free(block.cast()) };
    }
}

#[cfg(not(all(feature = "c-heap", not(miri))))]
mod imp {
    use std::alloc::{GlobalAlloc, Layout, System};

    pub(super) unsafe fn allocate(layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    pub(super) unsafe fn allocate_zeroed(layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    pub(super) unsafe fn reallocate(block: *mut u8, old: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { System.realloc(block, old, new_size) }
    }

    pub(super) unsafe fn deallocate(block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }
}
