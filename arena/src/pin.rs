//! The pin: a bucket is not used again while an allocation of its last request is live.
//!
//! Its own thread counts what it makes and gives back, in a plain cell; other threads count here what they free. The
//! difference is what is live. It names its atomics and its sleep through `crate::futex` only, so that `tests/loom.rs`
//! can run this very file on modelled ones.

use crate::futex::{AtomicU32, Ordering, wait, wake};

#[derive(Debug)]
pub(crate) struct Pin {
    /// Allocations that other threads have freed since the last reset.
    freed_afar: AtomicU32,
    /// 1 while the owner sleeps, or is about to, until `freed_afar` changes.
    waits: AtomicU32,
}

impl Pin {
    pub(crate) fn new() -> Self {
        Pin {
            freed_afar: AtomicU32::new(0),
            waits: AtomicU32::new(0),
        }
    }

    /// By any thread: an allocation was freed that the owner counts.
    pub(crate) fn freed_from_afar(&self) {
        // One total order with the owner's store to `waits` and load of the count: either the owner sees this free, or
        // we see that it waits. Release, in that: what the freeing thread did to the block happens before its reuse.
        self.freed_afar.fetch_add(1, Ordering::SeqCst);
        if self.waits.load(Ordering::SeqCst) == 1 {
            wake(&self.freed_afar, 1);
        }
    }

    /// By the owner: how many others have freed.
    #[inline]
    pub(crate) fn freed(&self) -> u32 {
        self.freed_afar.load(Ordering::Acquire)
    }

    /// By the owner: sleeps until others have freed `owed`.
    pub(crate) fn wait_until_freed(&self, owed: u32) {
        self.waits.store(1, Ordering::SeqCst);
        loop {
            // The count first, then the decision, then sleep only if the count has not moved since.
            let freed = self.freed_afar.load(Ordering::SeqCst);
            if freed == owed {
                break;
            }
            wait(&self.freed_afar, freed);
        }
        self.waits.store(0, Ordering::SeqCst);
    }

    /// By the owner, when nothing is live: starts from zero.
    #[inline]
    pub(crate) fn reset(&self) {
        self.freed_afar.store(0, Ordering::Relaxed);
    }
}
