//! The pin: a bucket is not used again while an allocation of its last request is live.
//!
//! Its own thread counts what it makes and gives back, in a plain cell; other threads count here what they free. The
//! difference is what is live. It names its atomics and its sleep through `crate::futex` only, so that `tests/loom.rs`
//! can run this very file on modelled ones.

use crate::futex::{AtomicU32, Ordering, wait, wake};

/// Set while the owner sleeps, or is about to.
const OWNER_WAITS: u32 = 1;
/// One allocation freed. Counted above the flag, so that a free and the look at the flag are one step, and an overflow
/// (after two thousand million frees of one request) falls off the top.
const ONE: u32 = 2;

#[derive(Debug)]
pub(crate) struct Pin {
    /// Allocations that other threads have freed since the last reset, and [`OWNER_WAITS`].
    freed: AtomicU32,
}

impl Pin {
    pub(crate) fn new() -> Self {
        Pin {
            freed: AtomicU32::new(0),
        }
    }

    /// By any thread: an allocation was freed that the owner counts.
    pub(crate) fn freed_from_afar(&self) {
        // Release: what this thread did to the block happens before its bytes are used again.
        let before = self.freed.fetch_add(ONE, Ordering::Release);
        if before & OWNER_WAITS != 0 {
            wake(&self.freed, 1);
        }
    }

    /// By the owner: how many of the `counted` by itself are live, modulo 2³¹.
    #[inline]
    pub(crate) fn live(&self, counted: u32) -> u32 {
        counted.wrapping_sub(self.freed()) & (u32::MAX / ONE)
    }

    /// By the owner: how many others have freed.
    #[inline]
    pub(crate) fn freed(&self) -> u32 {
        self.freed.load(Ordering::Acquire) / ONE
    }

    /// By the owner: sleeps until none of the `counted` by itself is live.
    pub(crate) fn wait_until_free(&self, counted: u32) {
        let done = counted.wrapping_mul(ONE) | OWNER_WAITS;
        let mut now = self.freed.fetch_or(OWNER_WAITS, Ordering::Acquire) | OWNER_WAITS;
        while now != done {
            // Sleeps only on the value that was found wanting: a free in between has changed it.
            wait(&self.freed, now);
            now = self.freed.load(Ordering::Acquire);
        }
        self.freed.fetch_and(!OWNER_WAITS, Ordering::Relaxed);
    }

    /// By the owner, when nothing is live: starts from zero.
    #[inline]
    pub(crate) fn reset(&self) {
        self.freed.store(0, Ordering::Relaxed);
    }
}
