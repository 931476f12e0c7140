//! The atomics, the fence and the futex that every rule of this crate is written with.
//!
//! Exists so that the model checker runs the very functions that production runs: under
//! `--cfg loom` the same names come from `loom`, which explores their interleavings and
//! weak orderings. It knows nothing of slots, threads or channels.

use std::time::Duration;

#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering, fence};

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering, fence};

/// Stands between two `SeqCst` accesses of a thread, to different words, whose order another thread relies
/// on. In production it is nothing: all `SeqCst` accesses have one order, which is that of the program. The
/// model checker treats them as acquire and release (so its manual says) and is given a fence. One in
/// production would cost some 10 ns.
#[inline(always)]
pub fn in_order() {
    #[cfg(loom)]
    fence(Ordering::SeqCst);
}

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

    /// Sleeps if this word, which only this process can reach, still holds `expected`, until it is woken
    /// through it or through `public`, a word that other processes can reach. They can write it as well, to
    /// no avail: any value will do, and who changes it at the wrong moment has us return early, as a wake
    /// does. Where the kernel cannot wait for two (before Linux 5.16), only through this one.
    pub fn wait_either(&self, expected: u32, public: &Futex) {
        #[repr(C)]
        struct Waiter {
            value: u64,
            address: u64,
            flags: u32,
            reserved: u32,
        }
        const SIZE_U32: u32 = 2;
        const PRIVATE: u32 = 128;
        let waiter = |word: &AtomicU32, value: u32, flags| Waiter {
            value: value.into(),
            address: word.as_ptr().addr() as u64,
            flags: SIZE_U32 | flags,
            reserved: 0,
        };
        let waiters = [
            waiter(&self.0, expected, PRIVATE),
            waiter(&public.0, public.0.load(Ordering::Relaxed), 0),
        ];
        // SAFETY: two waiters, laid out as futex_waitv(2) has them, that name live, aligned words; no
        // timeout. The call reads the words and writes nothing.
        let result = unsafe {
            libc::syscall(
                libc::SYS_futex_waitv,
                waiters.as_ptr(),
                waiters.len(),
                0,
                std::ptr::null::<libc::timespec>(),
                libc::CLOCK_MONOTONIC,
            )
        };
        if result < 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS) {
            self.wait_privately(expected);
        }
    }

    /// Sleeps on a word that only this process can reach if it still holds `expected`. May return early (a
    /// signal, a late wake of an earlier sleep): callers look at their own condition.
    pub fn wait_privately(&self, expected: u32) {
        // SAFETY: as in `wait_on`.
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

    /// Wakes the sleeper on a word that only this process can reach. Async-signal-safe.
    pub fn wake_privately(&self) -> bool {
        // SAFETY: as in `wake`.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                self.0.as_ptr(),
                libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
                1,
            ) > 0
        }
    }

    /// Wakes everybody who sleeps on a word that strangers can sleep on too, and says whether there was
    /// somebody.
    pub fn wake_all(&self) -> bool {
        // SAFETY: as in `wake`.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                self.0.as_ptr(),
                libc::FUTEX_WAKE,
                libc::c_int::MAX,
            ) > 0
        }
    }

    /// The same on a word that other processes can reach, for a second at most.
    pub fn wait_a_while(&self, expected: u32) {
        self.wait_for(expected, Duration::from_secs(1));
    }

    /// The same for `timeout` at most.
    pub fn wait_for(&self, expected: u32, timeout: Duration) {
        wait_on(&self.0, expected, Some(timeout));
    }

    /// Wakes one sleeper, if there is one, and says whether there was. Async-signal-safe.
    pub fn wake(&self) -> bool {
        // SAFETY: as in `wait_on`; FUTEX_WAKE uses the address only as a key.
        unsafe { libc::syscall(libc::SYS_futex, self.0.as_ptr(), libc::FUTEX_WAKE, 1) > 0 }
    }
}

/// Sleeps on `word` if it still holds `expected`, for `timeout` at most.
#[cfg(not(loom))]
pub fn wait_on(word: &AtomicU32, expected: u32, timeout: Option<Duration>) {
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
    queue: loom::sync::Arc<Queue>,
}

/// Where a sleeper is queued: for two words, if it can be woken through either.
#[cfg(loom)]
#[derive(Debug)]
struct Queue {
    asleep: loom::sync::Mutex<bool>,
    woken: loom::sync::Condvar,
}

#[cfg(loom)]
impl Default for Futex {
    fn default() -> Self {
        Self {
            word: AtomicU32::new(0),
            queue: loom::sync::Arc::new(Queue {
                asleep: loom::sync::Mutex::new(false),
                woken: loom::sync::Condvar::new(),
            }),
        }
    }
}

#[cfg(loom)]
impl Futex {
    /// A word whose sleeper can also be woken through `other`.
    pub fn beside(other: &Futex) -> Self {
        Self {
            word: AtomicU32::new(0),
            queue: loom::sync::Arc::clone(&other.queue),
        }
    }

    /// The atomic word itself.
    pub fn word(&self) -> &AtomicU32 {
        &self.word
    }

    /// See the production twin.
    pub fn wait(&self, expected: u32) {
        let mut asleep = self.queue.asleep.lock().unwrap();
        if self.word.load(Ordering::Relaxed) != expected {
            return;
        }
        *asleep = true;
        while *asleep {
            asleep = self.queue.woken.wait(asleep).unwrap();
        }
    }

    /// See the production twin; the model's public word shares the queue, and is always 0.
    pub fn wait_either(&self, expected: u32, _public: &Futex) {
        self.wait(expected);
    }

    /// See the production twin.
    pub fn wait_privately(&self, expected: u32) {
        self.wait(expected);
    }

    /// See the production twin; here nothing may rely on the second.
    pub fn wait_a_while(&self, expected: u32) {
        self.wait(expected);
    }

    /// See the production twin; here nothing may rely on the time.
    pub fn wait_for(&self, expected: u32, _timeout: Duration) {
        self.wait(expected);
    }

    /// See the production twin.
    pub fn wake(&self) -> bool {
        let mut asleep = self.queue.asleep.lock().unwrap();
        if std::mem::replace(&mut *asleep, false) {
            self.queue.woken.notify_one();
            return true;
        }
        false
    }

    /// See the production twin.
    pub fn wake_privately(&self) -> bool {
        self.wake()
    }

    /// See the production twin.
    pub fn wake_all(&self) -> bool {
        self.wake()
    }
}
