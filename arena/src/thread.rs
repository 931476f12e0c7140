//! What this thread is bound to: the four words that the allocator reads.

use crate::bucket::Bucket;
use std::cell::Cell;
use std::ptr;

pub(crate) struct Thread {
    /// The bucket whose arena takes this thread's allocations; null: they go elsewhere. Read by every allocation.
    pub aim: Cell<*const Bucket>,
    /// The bucket whose request this thread is running, whatever it allocates from at the moment.
    pub bound: Cell<*const Bucket>,
    /// How many `outside` closures are on the stack.
    pub outside: Cell<u32>,
    /// Memory that the next allocation which fits is given (start, bytes), to build an arena in place.
    pub carve: Cell<(*mut u8, usize)>,
}

thread_local! {
    static THREAD: Thread = const {
        Thread {
            aim: Cell::new(ptr::null()),
            bound: Cell::new(ptr::null()),
            outside: Cell::new(0),
            carve: Cell::new((ptr::null_mut(), 0)),
        }
    };
}

/// Const-initialised and without a destructor, so this is one thread-pointer-relative address: no lazy registration, and
/// safe to use in a signal handler and during thread exit.
#[inline(always)]
pub(crate) fn thread<R>(f: impl FnOnce(&Thread) -> R) -> R {
    THREAD.with(f)
}

/// The bucket this thread is bound to, if it is running a request.
#[inline(always)]
pub(crate) fn bound() -> Option<&'static Bucket> {
    // SAFETY: `bound` is null or points to a control block in the region, which lives for ever.
    unsafe { thread(|t| t.bound.get()).as_ref() }
}
