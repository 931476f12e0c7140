//! The three-state mutex of Ulrich Drepper ("Futexes Are Tricky", section 6, mutex3), as functions over its
//! word.
//!
//! It names its atomics and its sleep through `crate::futex` only, so that `tests/loom.rs` can run this very
//! file on modelled ones.

use crate::futex::{AtomicU32, Ordering, wait, wake};

pub(crate) const FREE: u32 = 0;
const HELD: u32 = 1;
/// Held, and a thread sleeps or is about to.
const CONTENDED: u32 = 2;

#[inline]
pub(crate) fn try_lock(state: &AtomicU32) -> bool {
    state
        .compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed)
        .is_ok()
}

#[inline]
pub(crate) fn lock(state: &AtomicU32) {
    if !try_lock(state) {
        lock_slow(state);
    }
}

#[cold]
fn lock_slow(state: &AtomicU32) {
    while state.swap(CONTENDED, Ordering::Acquire) != FREE {
        wait(state, CONTENDED);
    }
}

#[inline]
pub(crate) fn unlock(state: &AtomicU32) {
    if state.swap(FREE, Ordering::Release) == CONTENDED {
        wake(state, 1);
    }
}
