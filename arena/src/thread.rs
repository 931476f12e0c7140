//! What this thread is bound to: the words that the allocator reads.

use crate::bucket::Bucket;
use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) struct Thread {
    /// The bucket whose arena takes this thread's allocations; null: they go elsewhere. Read by every
    /// allocation.
    pub aim: Cell<*const Bucket>,
    /// The bucket whose request this thread is running, whatever it allocates from at the moment.
    pub bound: Cell<*const Bucket>,
    /// How many closures have turned the allocations of this thread to the shared heap.
    pub outside: Cell<u32>,
    /// What it was aimed at before the first of them.
    pub aim_before: Cell<*const Bucket>,
    /// Raised when closures are given up that have not returned: what they hold and note is not theirs any
    /// more.
    pub era: Cell<u64>,
    /// The pool of the shared heap that they allocate from.
    pub pool: Cell<usize>,
    /// The cell that they change, by its address; 0: none.
    pub owner: Cell<usize>,
    /// Bytes that they have made there, less what they have freed.
    pub net: Cell<isize>,
    /// How many cells are locked for writing: then an allocation that does not fit the shared heap must not
    /// jump.
    pub writing: Cell<u32>,
    /// How many functions of the C heap are on the stack.
    pub in_c: Cell<u32>,
    /// The registers, as one number, when the kernel last sent a fault that has no address.
    pub at_fault: Cell<u64>,
    /// Memory that the next allocation which fits is given (start, bytes), to build an arena in place.
    pub carve: Cell<(*mut u8, usize)>,
    /// While an arena's bump is thrown away: the arena whose chunk is not freed.
    pub discard: Cell<*const Discard>,
}

thread_local! {
    static THREAD: Thread = const {
        Thread {
            aim: Cell::new(ptr::null()),
            bound: Cell::new(ptr::null()),
            outside: Cell::new(0),
            aim_before: Cell::new(ptr::null()),
            era: Cell::new(0),
            pool: Cell::new(0),
            owner: Cell::new(0),
            net: Cell::new(0),
            writing: Cell::new(0),
            in_c: Cell::new(0),
            at_fault: Cell::new(0),
            carve: Cell::new((ptr::null_mut(), 0)),
            discard: Cell::new(ptr::null()),
        }
    };
}

/// Const-initialised and without a destructor, so this is one thread-pointer-relative address: no lazy
/// registration, and safe to use in a signal handler, in the dynamic linker, and during thread exit.
#[inline(always)]
pub(crate) fn thread<R>(f: impl FnOnce(&Thread) -> R) -> R {
    THREAD.with(f)
}

/// The number of this thread's present era. No other era of a thread that serves requests has it, on whatever
/// thread; all threads that never have share 0, because nothing is given up there.
pub(crate) fn era() -> u64 {
    thread(|t| t.era.get())
}

/// Another era begins: closures that have begun before have nothing to give back when they end.
pub(crate) fn begin_era() {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let era = NEXT.fetch_add(1, Ordering::Relaxed);
    thread(|t| t.era.set(era));
}

/// The bucket this thread is bound to, if it is running a request.
#[inline(always)]
pub(crate) fn bound() -> Option<&'static Bucket> {
    // SAFETY: `bound` is null or points to a control block in the region, which lives for ever.
    unsafe { thread(|t| t.bound.get()).as_ref() }
}

/// An arena whose bump is being thrown away, and how many bytes of it the bump's other chunks were.
#[derive(Debug)]
pub(crate) struct Discard {
    memory: usize,
    len: usize,
    mark: usize,
    pub below: Cell<usize>,
    pub above: Cell<usize>,
}

impl Discard {
    pub(crate) fn of(memory: usize, len: usize, mark: usize) -> Self {
        Discard {
            memory,
            len,
            mark,
            below: Cell::new(0),
            above: Cell::new(0),
        }
    }

    /// Whether a block of so many bytes lies in that arena. The arena's own chunk is no block: it begins
    /// where the arena does, and has more than half of it.
    pub(crate) fn takes(&self, block: usize, size: usize) -> bool {
        let lies_in_it = block.wrapping_sub(self.memory) < self.len;
        let is_the_arena = block == self.memory && size > self.len / 2;
        if lies_in_it && !is_the_arena {
            let count = if block < self.mark {
                &self.below
            } else {
                &self.above
            };
            count.set(count.get() + size);
        }
        lies_in_it
    }
}
