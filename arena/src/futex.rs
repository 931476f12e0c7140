//! A word to sleep on.

pub(crate) use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::time::Duration;

/// Leaves `errno` as it was: `free` must not change it, and may have to wait for our locks.
pub(crate) fn silently<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: the address of this thread's errno.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    let result = f();
    // SAFETY: as above.
    unsafe { *errno = before };
    result
}

/// Sleeps while `*word == expected`. Returns on a wake, a signal, or at once when the word differs.
pub fn wait(word: &AtomicU32, expected: u32) {
    // SAFETY: the word outlives the call; FUTEX_WAIT with a null timeout reads it and nothing else.
    silently(|| unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            expected,
            std::ptr::null::<libc::timespec>(),
        );
    });
}

/// As [`wait`], for so long at most.
pub fn wait_for(word: &AtomicU32, expected: u32, timeout: Duration) {
    let timeout = libc::timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: the word and the timeout outlive the call; FUTEX_WAIT reads both and nothing else.
    silently(|| unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            expected,
            &raw const timeout,
        );
    });
}

/// Wakes up to `count` sleepers. Async-signal-safe.
pub fn wake(word: &AtomicU32, count: i32) {
    // SAFETY: FUTEX_WAKE uses the address as a key only.
    silently(|| unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
            count,
        );
    });
}
