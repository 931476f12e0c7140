//! What C libraries allocate: `malloc` and its family are ours in every program that has this crate.
//!
//! | what calls | from what |
//! |---|---|
//! | a thread that runs a request | the **C heap**, a part of the region, as far as the request's quota goes; then `NULL` and `ENOMEM`, which is C's own contract |
//! | the same, small blocks | the C heap, a little beyond the quota; where others have filled it, what is left for the C library, as long as the request has little |
//! | the C library itself, on such a thread, blocks of up to a page | the C heap, further beyond the quota: parts of it do not expect to get nothing |
//! | the dynamic linker, and what registers a thread-local's destructor | the C heap, and then the process heap: they end the process if they get nothing |
//! | every other thread | the process heap, by the names that the C library keeps for it (`__libc_malloc`) |
//!
//! A block goes back to where its address lies, whichever thread frees it. One that outlives its request
//! stays charged to the heap, and to no request. `abort` is ours too: on a thread that runs a request it ends
//! that request, and its thread sleeps for ever.
//!
//! It works before `main` and in the dynamic linker: it uses no thread-local that is made lazily, takes no
//! lock before the region is there, and finds nothing by `dlsym`.

mod family;
pub(crate) mod library;

use crate::bound::PAGE;
use crate::bucket::{self, Bucket};
use crate::events::USES_C;
use crate::exhaustion::CRefusal;
use crate::pool::{self, Charged, Claim, Refused, Unsuitable};
use crate::recovery::{STACK_MARGIN, ensure_stack, has_library_stack, has_stack, is_stack_left};
use crate::region::Part;
use crate::thread::{bound, thread};
use std::alloc::Layout;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

/// What `malloc` aligns to.
const ALIGN: usize = 16;

/// A block has room for a pointer at least: see [`PENDING`].
const SIZE_MIN: usize = size_of::<*mut ()>();

/// A sixteenth of the heap is for callers that rank higher than most. Half of that is for callers of the next
/// [`Rank`], and so on.
const RESERVE_SHIFT: u32 = 4;

/// A request may have this much beyond its quota for each rank.
const EXTRA: usize = 64 << 10;

/// A request that has no more than this has little.
const LITTLE: usize = 4 << 10;

/// A small block. Most blocks that a request needs to fail in good order are no larger.
const SMALL: usize = 256;

/// What is done for a caller that must not fail when there is too little stack for the heap: glibc's own
/// allocator takes less.
const LITTLE_STACK: usize = 2 << 10;

/// The kind of caller that wants a block. Callers that cope worse with getting none may have more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Any,
    Small,
    /// `getaddrinfo` crashes if the name service gets nothing at its first use.
    CLibrary,
    /// Ends the process if it gets nothing.
    MustNotFail,
}

impl Rank {
    fn of(size: usize, caller: usize) -> Self {
        let is_in =
            |place: &OnceLock<Range<usize>>| place.get().is_some_and(|it| it.contains(&caller));
        if is_in(&LINKER) || is_in(&REGISTERING) {
            Rank::MustNotFail
        } else if size <= PAGE && is_in(&C_LIBRARY) {
            Rank::CLibrary
        } else if size <= SMALL {
            Rank::Small
        } else {
            Rank::Any
        }
    }

    /// Bytes beyond its quota that a request may have.
    fn extra(self) -> usize {
        EXTRA * self as usize
    }

    /// Bytes of the heap that are not for this rank.
    fn reserve(self) -> usize {
        match self {
            Rank::MustNotFail => 0,
            rank => C_HEAP.pool().len() >> (RESERVE_SHIFT + rank as u32),
        }
    }
}

static C_HEAP: Charged = Charged::new(|number| &bucket::numbered(number).c_account);
static QUOTA: AtomicUsize = AtomicUsize::new(0);
static REFUSED: AtomicU64 = AtomicU64::new(0);
static RAN_OUT: AtomicU64 = AtomicU64::new(0);
static CALLS: AtomicU64 = AtomicU64::new(0);

/// Where the dynamic linker is loaded, and the C library, and where of it destructors of thread-locals are
/// registered.
static LINKER: OnceLock<Range<usize>> = OnceLock::new();
static C_LIBRARY: OnceLock<Range<usize>> = OnceLock::new();
static REGISTERING: OnceLock<Range<usize>> = OnceLock::new();

/// Blocks that were freed with too little stack left for the heap's lock: each holds the one before it. They
/// are given back by the next call that takes the lock.
static PENDING: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());

/// The same for blocks of the C library's own allocator, which has a lock too.
static PENDING_ELSEWHERE: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());

/// Gives the C heap its memory, and says how much of it a request may have. Once per process, before any
/// thread is bound to a bucket. With a part of no bytes there is no C heap: then C libraries get nothing
/// inside requests.
///
/// # Errors
/// [`CHeapError`].
pub fn install_c_heap(part: Part, quota: usize) -> Result<(), CHeapError> {
    let len = part.len();
    if len > 0 && (quota == 0 || quota > len) {
        return Err(CHeapError::Quota { quota, len });
    }
    let linker = library::find_linker().ok_or(CHeapError::NoLinker)?;
    LINKER.set(linker).map_err(|_| CHeapError::Installed)?;
    C_LIBRARY.get_or_init(|| library::find_c_library().unwrap_or_default());
    REGISTERING.get_or_init(library::registering_a_destructor);
    C_HEAP.pool().install(part).map_err(|error| match error {
        Unsuitable::Installed => CHeapError::Installed,
        Unsuitable::TooSmall => CHeapError::TooSmall { bytes: len },
    })?;
    QUOTA.store(quota, Ordering::SeqCst);
    Ok(())
}

/// Why there is no C heap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CHeapError {
    /// Called twice.
    #[error("this process has its C heap already")]
    Installed,
    /// Too small to begin with.
    #[error("--c-heap: {bytes} bytes cannot hold anything; give it at least 64KiB")]
    TooSmall {
        /// What was given.
        bytes: usize,
    },
    /// No quota, or one that is larger than the whole.
    #[error(
        "--c-heap-per-request is {quota} bytes; it must be at least 1 and at most --c-heap, which is {len} bytes"
    )]
    Quota {
        /// What was given.
        quota: usize,
        /// What there is.
        len: usize,
    },
    /// The dynamic linker was not found among what is loaded.
    #[error(
        "the dynamic linker is not among the objects that are loaded: this program must be linked dynamically, or built without the feature c-heap"
    )]
    NoLinker,
}

/// What the C heap holds, and what it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CHeapUsage {
    /// Bytes in use.
    pub used: usize,
    /// Of that, bytes of blocks that have outlived their requests.
    pub kept: usize,
    /// The most bytes that one request has had.
    pub most: usize,
    /// Bytes of all of it.
    pub size: usize,
    /// Calls of `malloc`, `calloc`, `realloc` and the like in requests.
    pub calls: u64,
    /// Calls that got nothing, because the request had its quota or the heap was full.
    pub refused: u64,
    /// Of these, those for which the heap had no such piece, whatever their requests had.
    pub ran_out: u64,
}

/// What the C heap holds now.
#[must_use]
pub fn c_heap_usage() -> CHeapUsage {
    CHeapUsage {
        used: C_HEAP.pool().used(),
        kept: C_HEAP.kept(),
        most: C_HEAP.most(),
        size: C_HEAP.pool().len(),
        calls: CALLS.load(Ordering::Relaxed),
        refused: REFUSED.load(Ordering::Relaxed),
        ran_out: RAN_OUT.load(Ordering::Relaxed),
    }
}

/// Whether an address lies in the C library or the dynamic linker. Async-signal-safe.
pub(crate) fn is_of_the_c_library(address: usize) -> bool {
    [&C_LIBRARY, &LINKER]
        .iter()
        .any(|place| place.get().is_some_and(|it| it.contains(&address)))
}

/// The request in this bucket has ended, or will never end: what it has left is charged to no request. How
/// many bytes that is.
#[cold]
pub(crate) fn settle(bucket: &Bucket) -> usize {
    bucket.events.remove(USES_C);
    C_HEAP.settle(&bucket.c_account)
}

/// While there is one, this thread is inside the heap: it must not be left by a jump, and the C library may
/// have called.
struct Inside;

impl Inside {
    fn enter() -> Self {
        thread(|t| t.in_c.set(t.in_c.get() + 1));
        Inside
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        thread(|t| t.in_c.set(t.in_c.get() - 1));
    }
}

/// What a caller of this rank may have, for the request in this bucket.
fn claim(bucket: &Bucket, rank: Rank) -> Claim<'_> {
    let number = u16::try_from(bucket.index()).expect("at most BUCKETS_MAX");
    Claim {
        account: Some((&bucket.c_account, number)),
        limit: QUOTA.load(Ordering::Relaxed) + rank.extra(),
        reserve: rank.reserve(),
        debtor: 0,
    }
}

/// A block for the request in this bucket, or null.
fn allocate_in(bucket: &Bucket, layout: Layout, caller: usize) -> *mut u8 {
    let _inside = Inside::enter();
    CALLS.fetch_add(1, Ordering::Relaxed);
    if !bucket.events.any(USES_C) {
        bucket.events.add(USES_C);
    }
    let rank = Rank::of(layout.size(), caller);
    let has_stack = match rank {
        Rank::Any | Rank::Small => has_stack(STACK_MARGIN),
        Rank::CLibrary | Rank::MustNotFail => has_library_stack(STACK_MARGIN),
    };
    let block = if has_stack {
        free_pending();
        C_HEAP
            .allocate(layout, claim(bucket, rank))
            .or_else(|why| match why {
                // A request that has little must be able to fail in good order, whatever others have taken:
                // the standard library aborts if it gets nothing for a thread's handle.
                Refused::Full
                    if rank == Rank::Small && C_HEAP.charged(&bucket.c_account) < LITTLE =>
                {
                    C_HEAP.allocate(layout, claim(bucket, Rank::CLibrary))
                }
                why => Err(why),
            })
    } else {
        Err(Refused::Full)
    };
    match block {
        Ok(block) => block.as_ptr(),
        Err(_) if rank == Rank::MustNotFail => {
            ensure_stack(LITTLE_STACK); // the request ends here, and not in the allocator
            // SAFETY: it takes any size and any alignment that is a power of two.
            unsafe { library::__libc_memalign(layout.align(), layout.size()).cast() }
        }
        Err(why) => {
            REFUSED.fetch_add(1, Ordering::Relaxed);
            let is_full = why == Refused::Full;
            if is_full {
                RAN_OUT.fetch_add(1, Ordering::Relaxed);
            }
            bucket.c_refused.set(Some(CRefusal {
                asked: layout.size(),
                is_full,
            }));
            ptr::null_mut()
        }
    }
}

/// The layout of a block of C's; none for a size that nothing can have.
fn layout(size: usize, align: usize) -> Option<Layout> {
    Layout::from_size_align(size.max(SIZE_MIN), align.max(ALIGN)).ok()
}

fn owns(block: *mut u8) -> bool {
    C_HEAP.pool().owns(block.addr())
}

/// # Safety
/// The block is one of this heap's, live, and not used again.
unsafe fn deallocate(block: NonNull<u8>) {
    let _inside = Inside::enter();
    // What frees can be put off, and the request goes on.
    if !is_stack_left(STACK_MARGIN) {
        // SAFETY: by the caller's promise the block is ours, and it has room for a pointer.
        return unsafe { put_off(&PENDING, block) };
    }
    free_pending();
    // SAFETY: by the caller's promise.
    unsafe { C_HEAP.deallocate(block) };
}

/// # Safety
/// The block was made by the C library's own allocator, is live, and not used again.
unsafe fn deallocate_elsewhere(block: NonNull<u8>) {
    let _inside = Inside::enter();
    if is_stack_left(STACK_MARGIN) {
        // SAFETY: by the caller's promise.
        unsafe { library::__libc_free(block.as_ptr().cast()) };
    } else {
        // SAFETY: by the caller's promise; its smallest block has room for three pointers.
        unsafe { put_off(&PENDING_ELSEWHERE, block) };
    }
}

/// # Safety
/// The block has room for a pointer, belongs to the allocator whose list this is, and is not used again.
unsafe fn put_off(list: &AtomicPtr<u8>, block: NonNull<u8>) {
    let mut before = list.load(Ordering::Relaxed);
    loop {
        // SAFETY: a block has room for a pointer, is aligned to 16, and is not used any more.
        unsafe { block.cast::<*mut u8>().write(before) };
        let pushed = list.compare_exchange_weak(
            before,
            block.as_ptr(),
            Ordering::Release,
            Ordering::Relaxed,
        );
        match pushed {
            Ok(_) => return,
            Err(other) => before = other,
        }
    }
}

fn free_pending() {
    let take_all = |list: &AtomicPtr<u8>, free: unsafe fn(NonNull<u8>)| {
        if list.load(Ordering::Relaxed).is_null() {
            return;
        }
        let mut last = list.swap(ptr::null_mut(), Ordering::Acquire);
        while let Some(block) = NonNull::new(last) {
            // SAFETY: `put_off` has pushed it, and the swap has taken it once.
            unsafe {
                last = block.cast::<*mut u8>().read();
                free(block);
            }
        }
    };
    take_all(&PENDING, |block| {
        // SAFETY: as above: a block of this heap.
        unsafe { C_HEAP.deallocate(block) };
    });
    take_all(&PENDING_ELSEWHERE, |block| {
        // SAFETY: as above: a block of the C library's.
        unsafe { library::__libc_free(block.as_ptr().cast()) };
    });
}

/// Another size for a block of this heap; null if there is none, then the block is as it was.
///
/// # Safety
/// The block is live; the size is not zero.
unsafe fn reallocate(block: NonNull<u8>, size: usize, caller: usize) -> *mut u8 {
    let _inside = Inside::enter();
    let size = size.max(SIZE_MIN);
    // SAFETY: by the caller's promise.
    let had = unsafe { C_HEAP.size_of(block) };
    let running = bound();
    if has_stack(STACK_MARGIN) {
        let claim = match running {
            Some(bucket) => claim(bucket, Rank::of(size, caller)),
            None => Claim {
                account: None,
                limit: 0,
                reserve: 0,
                debtor: 0,
            },
        };
        // SAFETY: by the caller's promise.
        if unsafe { C_HEAP.resize(block, size, claim) } {
            return block.as_ptr();
        }
    }
    // SAFETY: it takes any size.
    let new = unsafe { family::allocate(size, ALIGN, caller) };
    if let Some(new) = NonNull::new(new) {
        // SAFETY: both are live and have so many bytes; the old one is not used again.
        unsafe {
            pool::copy(block, new, had.min(size));
            deallocate(block);
        }
    }
    new
}

pub(crate) fn hold() {
    C_HEAP.pool().hold();
}

/// # Safety
/// As [`Pool::release`](crate::pool::Pool::release).
pub(crate) unsafe fn release() {
    // SAFETY: by the caller's promise.
    unsafe { C_HEAP.pool().release() };
}
