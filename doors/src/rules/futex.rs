//! The futex that every rule of this crate sleeps on. The model checker has another one in its place,
//! `tests/loom/futex.rs`.

use std::time::Duration;

use crate::rules::sync::{AtomicU32, Ordering};

/// A 32-bit word that threads can sleep on, as futex(2) defines it, in any process that has it
/// mapped, if only for reading.
///
/// `repr(transparent)`, because these words lie in channel memory.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Futex(AtomicU32);

impl Futex {
    /// The atomic word itself.
    pub fn word(&self) -> &AtomicU32 {
        &self.0
    }

    /// Sleeps if this word, which only this process can reach, still holds `expected`, until it is woken
    /// through it or through `public`, a word that other processes can reach. They can write it as well, but
    /// any value will do, and a change at the wrong moment only makes us return early, as a wake does. Where
    /// the kernel cannot wait for two (before Linux 5.16), only through this one.
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

    /// Wakes all threads that sleep on a word that other processes' threads can sleep on too. Says whether
    /// there was one.
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
fn wait_on(word: &AtomicU32, expected: u32, timeout: Option<Duration>) {
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: timeout.as_secs() as libc::time_t,
        tv_nsec: libc::c_long::from(timeout.subsec_nanos()),
    });
    let timeout = timeout
        .as_ref()
        .map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the address is that of a live, aligned 32-bit atomic borrowed for the call; the
    // timeout is null or valid for the call. FUTEX_WAIT reads the word and writes no memory of
    // ours. Not FUTEX_PRIVATE: another process may do the waking.
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
