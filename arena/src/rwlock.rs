//! A lock for one writer or several readers, as functions over its word. Another thread can release it, if it
//! proves that the holder will never come back.
//!
//! A writer that waits keeps new readers out, so that readers that come and go cannot keep it waiting for
//! ever. The last holder wakes all threads that sleep, and they try again.
//!
//! It names its atomics and its sleep through `crate::futex` only, so that `tests/loom.rs` can run this very
//! file on modelled ones.

use crate::futex::{AtomicU32, Ordering, wait, wake};

pub(crate) const FREE: u32 = 0;
/// A writer holds it.
const WRITER: u32 = 1 << 31;
/// A thread sleeps, or is about to.
const SLEEPERS: u32 = 1 << 30;
/// A writer waits.
const WANTED: u32 = 1 << 29;
/// The rest counts readers.
const READERS: u32 = WANTED - 1;

/// Takes the lock for reading.
pub(crate) fn read(state: &AtomicU32) {
    acquire(state, |now| now & (WRITER | WANTED) == 0, |now| now + 1, 0);
}

/// Takes the lock for writing.
pub(crate) fn write(state: &AtomicU32) {
    let is_free = |now| now & (WRITER | READERS) == 0;
    // A writer that still waits sets its bit again when it is woken.
    acquire(state, is_free, |now| (now & SLEEPERS) | WRITER, WANTED);
}

fn acquire(state: &AtomicU32, may: impl Fn(u32) -> bool, taken: impl Fn(u32) -> u32, says: u32) {
    let mut now = state.load(Ordering::Relaxed);
    loop {
        let next = if may(now) {
            taken(now)
        } else {
            now | SLEEPERS | says
        };
        let changed = next == now
            || match state.compare_exchange(now, next, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => true,
                Err(other) => {
                    now = other;
                    false
                }
            };
        if !changed {
            continue;
        }
        if may(now) {
            return;
        }
        wait(state, next);
        now = state.load(Ordering::Relaxed);
    }
}

/// Gives up what [`read`] took.
pub(crate) fn unlock_read(state: &AtomicU32) {
    let mut now = state.load(Ordering::Relaxed);
    loop {
        let left = now - 1;
        // The last holder clears the word: threads that sleep say again what they want.
        let next = if left & READERS == 0 { FREE } else { left };
        match state.compare_exchange(now, next, Ordering::Release, Ordering::Relaxed) {
            Ok(_) if next == FREE && now & SLEEPERS != 0 => return wake(state, i32::MAX),
            Ok(_) => return,
            Err(other) => now = other,
        }
    }
}

/// Gives up what [`write`] took.
pub(crate) fn unlock_write(state: &AtomicU32) {
    if state.swap(FREE, Ordering::Release) & SLEEPERS != 0 {
        wake(state, i32::MAX);
    }
}
