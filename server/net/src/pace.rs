//! How slow a client may be.
//!
//! A client is given a time, the stall. Waiting for the client uses it up; every byte earns some of it back,
//! at the minimum rate, but never more than was given at first. So one rule cuts both a client that does
//! nothing for the stall and one that goes on for ever with a little in every stall, however much was moved
//! before. While the client waits for the server, nothing is used up.

/// The slowest that is allowed.
#[derive(Debug, Clone, Copy)]
pub struct PaceLimit {
    /// How long nothing may happen.
    pub stall_ns: u64,
    /// Bytes a second in the long run; 0: any number of them.
    pub rate: u64,
}

const NS_PER_SECOND: u64 = 1_000_000_000;

/// What one client has used up, in nanoseconds of the loop's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    used_ns: u64,
    /// When it was counted last; meaningless while the client is not waited for.
    since_ns: u64,
}

impl Pace {
    /// The client is waited for from now on, and has all of its time.
    #[inline]
    pub fn begin(&mut self, now_ns: u64) {
        self.used_ns = 0;
        self.since_ns = now_ns;
    }

    /// The client is not waited for any more.
    #[inline]
    pub fn pause(&mut self, now_ns: u64) {
        self.used_ns = self.used_ns(now_ns);
    }

    /// After a pause: the client is waited for again, and has what it had left.
    #[inline]
    pub fn resume(&mut self, now_ns: u64) {
        self.since_ns = now_ns;
    }

    /// Bytes have come, or have been taken.
    #[inline]
    pub fn earn(&mut self, limit: PaceLimit, bytes: u64, now_ns: u64) {
        let earned = match limit.rate {
            _ if bytes == 0 => 0,
            0 => limit.stall_ns,
            rate => bytes.saturating_mul(NS_PER_SECOND) / rate,
        };
        let used = self.used_ns(now_ns).min(limit.stall_ns);
        self.used_ns = used.saturating_sub(earned);
        self.since_ns = now_ns;
    }

    /// For how long the client has been behind.
    #[inline]
    pub fn used_ns(&self, now_ns: u64) -> u64 {
        self.used_ns + now_ns.saturating_sub(self.since_ns)
    }

    /// Whether nothing is left of the time.
    #[inline]
    pub fn is_over(&self, limit: PaceLimit, now_ns: u64) -> bool {
        self.used_ns(now_ns) >= limit.stall_ns
    }

    /// When it is used up, in milliseconds, if nothing happens until then.
    #[inline]
    pub fn due_ms(&self, limit: PaceLimit) -> u64 {
        let left_ns = limit.stall_ns.saturating_sub(self.used_ns);
        // One more, because the loop's clock is cut to milliseconds.
        self.since_ns.saturating_add(left_ns) / 1_000_000 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: PaceLimit = PaceLimit {
        stall_ns: 10 * NS_PER_SECOND,
        rate: 100,
    };

    /// Seconds until a client is cut that moves `bytes` every `ms`.
    fn cut_after(limit: PaceLimit, bytes: u64, ms: u64) -> Option<u64> {
        let mut pace = Pace::default();
        pace.begin(0);
        for n in 1..100_000 {
            let now = n * ms * 1_000_000;
            if pace.is_over(limit, now) {
                return Some(now / NS_PER_SECOND);
            }
            pace.earn(limit, bytes, now);
        }
        None
    }

    #[test]
    fn who_keeps_the_rate_goes_on_for_ever_in_steps_of_any_size() {
        assert_eq!(cut_after(LIMIT, 1, 10), None);
        assert_eq!(cut_after(LIMIT, 100, 1000), None);
        assert_eq!(cut_after(LIMIT, 950, 9500), None);
        let fast = PaceLimit {
            rate: 100_000_000,
            ..LIMIT
        };
        assert_eq!(cut_after(fast, 100_000_000, 1000), None);
    }

    #[test]
    fn who_is_slower_is_cut_when_the_stall_is_used_up() {
        assert_eq!(cut_after(LIMIT, 0, 1000), Some(10));
        // Half the rate uses up half of the time.
        assert_eq!(cut_after(LIMIT, 50, 1000), Some(19));
        assert_eq!(cut_after(LIMIT, 1, 1000), Some(11));
        assert_eq!(cut_after(LIMIT, 1_000_000, 11_000), Some(11), "a stall");
    }

    #[test]
    fn what_was_fast_before_does_not_count() {
        let mut pace = Pace::default();
        pace.begin(0);
        pace.earn(LIMIT, u64::MAX, NS_PER_SECOND);
        assert_eq!(pace.used_ns(NS_PER_SECOND), 0);
        assert_eq!(pace.due_ms(LIMIT), 11_001);
    }

    #[test]
    fn without_a_rate_any_byte_is_enough() {
        let limit = PaceLimit { rate: 0, ..LIMIT };
        assert_eq!(cut_after(limit, 1, 9000), None);
        assert_eq!(cut_after(limit, 0, 1000), Some(10));
    }

    #[test]
    fn another_limit_is_not_held_against_the_client() {
        let mut pace = Pace::default();
        pace.begin(0);
        let longer = PaceLimit {
            stall_ns: 100 * LIMIT.stall_ns,
            ..LIMIT
        };
        pace.earn(longer, 1, NS_PER_SECOND);
        assert!(pace.used_ns(NS_PER_SECOND) <= NS_PER_SECOND);
        assert!(!pace.is_over(longer, 20 * NS_PER_SECOND));
    }

    #[test]
    fn a_pause_takes_nothing_and_gives_nothing() {
        let mut pace = Pace::default();
        pace.begin(0);
        pace.pause(4 * NS_PER_SECOND);
        pace.resume(50 * NS_PER_SECOND);
        assert_eq!(pace.used_ns(50 * NS_PER_SECOND), 4 * NS_PER_SECOND);
        assert!(!pace.is_over(LIMIT, 55 * NS_PER_SECOND));
        assert!(pace.is_over(LIMIT, 56 * NS_PER_SECOND));
    }
}
