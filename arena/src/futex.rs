//! A mutex that can be unlocked by whoever proves that its holder will never come back, and a word to sleep on.
//!
//! `std::sync::Mutex` cannot be released without its guard, and the guard of a handler that was left by an escape no
//! longer exists. The three-state mutex is Ulrich Drepper's ("Futexes Are Tricky", section 6, mutex3).

use std::sync::atomic::{AtomicU32, Ordering};

/// Sleeps while `*word == expected`. Returns on a wake, a signal, or at once when the word differs.
pub fn wait(word: &AtomicU32, expected: u32) {
    // SAFETY: the word outlives the call; FUTEX_WAIT with a null timeout reads it and nothing else.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            expected,
            std::ptr::null::<libc::timespec>(),
        )
    };
}

/// Wakes up to `count` sleepers. Async-signal-safe.
pub fn wake(word: &AtomicU32, count: i32) {
    // SAFETY: FUTEX_WAKE uses the address as a key only.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
            count,
        )
    };
}

const FREE: u32 = 0;
const HELD: u32 = 1;
const CONTENDED: u32 = 2;

/// The mutex. Not reentrant, not fair.
#[derive(Debug)]
pub struct RawMutex {
    state: AtomicU32,
}

// SAFETY: `lock` returns only after this thread has changed FREE to HELD or CONTENDED, and only `unlock` stores FREE, so
// at most one holder exists at a time; acquire and release order the critical sections.
unsafe impl lock_api::RawMutex for RawMutex {
    #[allow(
        clippy::declare_interior_mutable_const,
        reason = "required by the trait"
    )]
    const INIT: Self = RawMutex {
        state: AtomicU32::new(FREE),
    };

    type GuardMarker = lock_api::GuardSend;

    #[inline]
    fn lock(&self) {
        if !self.try_lock() {
            self.lock_slow();
        }
    }

    #[inline]
    fn try_lock(&self) -> bool {
        self.state
            .compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    #[inline]
    unsafe fn unlock(&self) {
        if self.state.swap(FREE, Ordering::Release) == CONTENDED {
            wake(&self.state, 1);
        }
    }
}

impl RawMutex {
    #[cold]
    fn lock_slow(&self) {
        while self.state.swap(CONTENDED, Ordering::Acquire) != FREE {
            wait(&self.state, CONTENDED);
        }
    }
}
