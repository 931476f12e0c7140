//! The one clock of this crate, `CLOCK_MONOTONIC` in nanoseconds, and the CPU that we are on.
//!
//! `std::time::Instant` hides its number, and deadlines travel through channels as numbers.

/// Nanoseconds of `CLOCK_MONOTONIC`. About 25 ns (vDSO), async-signal-safe.
pub fn now_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a timespec that the call may write; CLOCK_MONOTONIC exists on every kernel
    // we run on, so the call cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The CPU that this thread runs on now; a hint. A few nanoseconds (rseq or vDSO).
#[cfg(not(target_os = "illumos"))]
pub fn current_cpu() -> u32 {
    // SAFETY: no arguments. A failure, on kernels that lack it, is some large number; `Cpu` makes it unknown.
    unsafe { libc::sched_getcpu() as u32 }
}
