//! The kernel's clocks.

use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Seconds since 1970, to the tick: enough for a `Date`, and cheaper.
#[must_use]
pub fn unix_seconds() -> u64 {
    u64::try_from(clock_gettime(ClockId::RealtimeCoarse).tv_sec).unwrap_or(0)
}

/// A time as the kernel takes it.
pub fn timespec(time: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: time.as_secs() as libc::time_t,
        tv_nsec: libc::c_long::from(time.subsec_nanos()),
    }
}
