//! The atomics, the fence and the futex that every rule of this crate is written with.
//!
//! Exists so that the model checker runs the very functions that production runs: under
//! `--cfg loom` the same names come from `loom`, which explores their interleavings and
//! weak orderings. It knows nothing of slots, threads or channels.

#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering, fence};

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering, fence};

/// A value alone on its cache line, so that writers of neighbours do not disturb it.
///
/// 64 bytes is the line of every x86-64 and of nearly every AArch64 server CPU.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Line<T>(pub T);

/// A 32-bit word that threads can sleep on, as futex(2) defines it.
///
/// `repr(transparent)` in production, because turn words lie in channel memory.
#[cfg(not(loom))]
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Futex(AtomicU32);

#[cfg(not(loom))]
impl Futex {
    /// A word that starts as `value`.
    pub const fn new(value: u32) -> Self {
        Self(AtomicU32::new(value))
    }

    /// The atomic word itself.
    pub fn word(&self) -> &AtomicU32 {
        &self.0
    }

    /// Sleeps if the word still holds `expected`. May return early (a signal, a late wake of an
    /// earlier sleep): callers loop on their own condition.
    pub fn wait(&self, expected: u32) {
        // SAFETY: the address is that of a live, aligned 32-bit atomic borrowed for the call; a
        // null timeout means "no timeout". FUTEX_WAIT reads the word and writes no memory of ours.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                self.0.as_ptr(),
                libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                expected,
                std::ptr::null::<libc::timespec>(),
            );
        }
    }

    /// Wakes one sleeper, if there is one. Async-signal-safe.
    pub fn wake(&self) {
        // SAFETY: as in `wait`; FUTEX_WAKE uses the address only as a key.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                self.0.as_ptr(),
                libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
                1,
            );
        }
    }
}

/// The futex of the model, for one sleeper per word. The kernel compares the word and queues the
/// sleeper as one step; here a wake between the two is kept for the sleeper instead, which comes to
/// the same, and sleeps may end early, as they do in the kernel.
#[cfg(loom)]
#[derive(Debug)]
pub struct Futex {
    word: AtomicU32,
    queue: loom::sync::Notify,
}

#[cfg(loom)]
impl Futex {
    /// A word that starts as `value`.
    pub fn new(value: u32) -> Self {
        Self {
            word: AtomicU32::new(value),
            queue: loom::sync::Notify::new(),
        }
    }

    /// The atomic word itself.
    pub fn word(&self) -> &AtomicU32 {
        &self.word
    }

    /// See the production twin.
    pub fn wait(&self, expected: u32) {
        if self.word.load(Ordering::Relaxed) == expected {
            self.queue.wait();
        }
    }

    /// See the production twin.
    pub fn wake(&self) {
        self.queue.notify();
    }
}
