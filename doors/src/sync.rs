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

/// A 32-bit word that threads can sleep on, as futex(2) defines it, in any process that has it
/// mapped, if only for reading.
///
/// `repr(transparent)` in production, because these words lie in channel memory.
#[cfg(not(loom))]
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Futex(AtomicU32);

#[cfg(not(loom))]
impl Futex {
    /// The atomic word itself.
    pub fn word(&self) -> &AtomicU32 {
        &self.0
    }

    /// Sleeps if the word still holds `expected`. May return early (a signal, a late wake of an
    /// earlier sleep): callers look at their own condition.
    pub fn wait(&self, expected: u32) {
        wait_on(&self.0, expected, None);
    }

    /// The same, for a second at most.
    pub fn wait_a_while(&self, expected: u32) {
        wait_on(&self.0, expected, Some(std::time::Duration::from_secs(1)));
    }

    /// Wakes one sleeper, if there is one, and says whether there was. Async-signal-safe.
    pub fn wake(&self) -> bool {
        // SAFETY: as in `wait_on`; FUTEX_WAKE uses the address only as a key.
        unsafe { libc::syscall(libc::SYS_futex, self.0.as_ptr(), libc::FUTEX_WAKE, 1) > 0 }
    }
}

/// Sleeps on `word` if it still holds `expected`, for `timeout` at most.
#[cfg(not(loom))]
pub fn wait_on(word: &AtomicU32, expected: u32, timeout: Option<std::time::Duration>) {
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: timeout.as_secs() as libc::time_t,
        tv_nsec: libc::c_long::from(timeout.subsec_nanos()),
    });
    let timeout = timeout
        .as_ref()
        .map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the address is that of a live, aligned 32-bit atomic borrowed for the call; the
    // timeout is null or valid for the call. FUTEX_WAIT reads the word and writes no memory of
    // ours. Not FUTEX_PRIVATE: the one who wakes may be another process.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            expected,
            timeout,
        );
    }
}

/// The futex of the model, for one sleeper per word: the kernel compares the word and queues the
/// sleeper as one step, and a wake says whether somebody was queued.
#[cfg(loom)]
#[derive(Debug)]
pub struct Futex {
    word: AtomicU32,
    queued: loom::sync::Mutex<bool>,
    queue: loom::sync::Condvar,
}

#[cfg(loom)]
impl Default for Futex {
    fn default() -> Self {
        Self {
            word: AtomicU32::new(0),
            queued: loom::sync::Mutex::new(false),
            queue: loom::sync::Condvar::new(),
        }
    }
}

#[cfg(loom)]
impl Futex {
    /// The atomic word itself.
    pub fn word(&self) -> &AtomicU32 {
        &self.word
    }

    /// See the production twin.
    pub fn wait(&self, expected: u32) {
        let mut queued = self.queued.lock().unwrap();
        if self.word.load(Ordering::Relaxed) != expected {
            return;
        }
        *queued = true;
        while *queued {
            queued = self.queue.wait(queued).unwrap();
        }
    }

    /// See the production twin; here nothing may rely on the second.
    pub fn wait_a_while(&self, expected: u32) {
        self.wait(expected);
    }

    /// See the production twin.
    pub fn wake(&self) -> bool {
        let mut queued = self.queued.lock().unwrap();
        if std::mem::replace(&mut *queued, false) {
            self.queue.notify_one();
            return true;
        }
        false
    }
}
