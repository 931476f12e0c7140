//! A mutex that another thread can unlock, if it proves that the holder will never come back.
//!
//! `std::sync::Mutex` cannot be released without its guard, and the guard of a handler that was left by an
//! escape no longer exists. What the threads agree on is in `mutex.rs`, apart from the system calls, so that
//! it can be modelled.

use crate::futex::AtomicU32;
use crate::mutex;

/// The mutex. Not reentrant, not fair.
#[derive(Debug)]
pub struct RawMutex {
    state: AtomicU32,
}

// SAFETY: `lock` returns only after this thread has changed FREE to something else, and only `unlock` stores
// FREE, so at most one holder exists at a time; acquire and release order the critical sections.
unsafe impl lock_api::RawMutex for RawMutex {
    #[allow(clippy::declare_interior_mutable_const, reason = "required by the trait")]
    const INIT: Self = RawMutex {
        state: AtomicU32::new(mutex::FREE),
    };

    type GuardMarker = lock_api::GuardSend;

    #[inline]
    fn lock(&self) {
        mutex::lock(&self.state);
    }

    #[inline]
    fn try_lock(&self) -> bool {
        mutex::try_lock(&self.state)
    }

    #[inline]
    unsafe fn unlock(&self) {
        mutex::unlock(&self.state);
    }
}
