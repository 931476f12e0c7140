//! Counts of what came back. They have a fixed size, however many requests there are.

use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::Duration;

/// The longest latency that is told from longer ones.
const LATENCY_MAX: Duration = Duration::from_secs(600);

/// Latencies to three digits, from a microsecond or so.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    /// None yet.
    pub fn new() -> Self {
        let max = LATENCY_MAX.as_nanos() as u64;
        Latencies(Histogram::new_with_bounds(1000, max, 3).expect("these bounds are valid"))
    }

    /// Adds one.
    pub fn record(&mut self, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.0.saturating_record(nanoseconds);
    }

    /// Adds those of another.
    pub fn add(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency that this part of them, from 0 to 1, did not exceed; in microseconds. `None` if there are
    /// none.
    pub fn quantile(&self, part: f64) -> Option<f64> {
        (!self.0.is_empty()).then(|| self.0.value_at_quantile(part) as f64 / 1000.0)
    }
}

/// Why a request got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// No connection could be made.
    NotConnected,
    /// The connection ended before the answer did.
    Cut,
    /// Bytes that are no answer.
    Garbled,
    /// The answer took longer than `--timeout`.
    TimedOut,
}

impl Failure {
    /// In words, for a summary.
    pub fn name(self) -> &'static str {
        match self {
            Failure::NotConnected => "not connected",
            Failure::Cut => "cut",
            Failure::Garbled => "garbled",
            Failure::TimedOut => "timed out",
        }
    }
}

/// What became of the requests of one kind.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Requests that the schedule had.
    pub due: u64,
    /// Requests that found all connections busy and the backlog full.
    pub unsent: u64,
    /// Requests sent again, because the connection had been closed before they reached the server.
    pub resent: u64,
    /// Answers by status code.
    pub statuses: BTreeMap<u16, u64>,
    /// Answers that said `transom-diagnostic: bucket-exhausted`.
    pub exhausted: u64,
    /// Requests without an answer.
    pub failures: BTreeMap<Failure, u64>,
    /// From when a request was due to its answer's last byte.
    pub latencies: Latencies,
    /// The largest size that was answered well.
    pub largest_good: Option<u64>,
    /// The smallest size that got a 500.
    pub smallest_failed: Option<u64>,
}

/// Whether a status is an answer to what was asked.
pub fn is_good(status: u16) -> bool {
    (200..400).contains(&status)
}

impl Tally {
    /// Nothing yet.
    pub fn new() -> Self {
        Tally {
            due: 0,
            unsent: 0,
            resent: 0,
            statuses: BTreeMap::new(),
            exhausted: 0,
            failures: BTreeMap::new(),
            latencies: Latencies::new(),
            largest_good: None,
            smallest_failed: None,
        }
    }

    /// Counts an answer to a request of this size.
    pub fn answer(&mut self, status: u16, exhausted: bool, size: Option<u64>, latency: Duration) {
        *self.statuses.entry(status).or_default() += 1;
        self.exhausted += u64::from(exhausted);
        self.latencies.record(latency);
        if is_good(status) {
            self.largest_good = self.largest_good.max(size);
        } else if status == 500
            && let Some(size) = size
        {
            self.smallest_failed = Some(self.smallest_failed.map_or(size, |least| least.min(size)));
        }
    }

    /// Counts a request without an answer.
    pub fn failure(&mut self, failure: Failure) {
        *self.failures.entry(failure).or_default() += 1;
    }

    /// Adds what another has counted.
    pub fn add(&mut self, other: &Tally) {
        self.due += other.due;
        self.unsent += other.unsent;
        self.resent += other.resent;
        self.exhausted += other.exhausted;
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        for (failure, count) in &other.failures {
            *self.failures.entry(*failure).or_default() += count;
        }
        self.latencies.add(&other.latencies);
        self.largest_good = self.largest_good.max(other.largest_good);
        let least = [self.smallest_failed, other.smallest_failed];
        self.smallest_failed = least.into_iter().flatten().min();
    }

    /// Answers with this status.
    pub fn status(&self, status: u16) -> u64 {
        self.statuses.get(&status).copied().unwrap_or(0)
    }

    /// Answers below 400.
    pub fn good(&self) -> u64 {
        let good = self.statuses.iter().filter(|(status, _)| is_good(**status));
        good.map(|(_, count)| count).sum()
    }

    /// Requests that were sent and failed, except those that the server had no room for (503).
    pub fn failed(&self) -> u64 {
        let bad = self
            .statuses
            .iter()
            .filter(|(status, _)| !is_good(**status) && **status != 503);
        let bad: u64 = bad.map(|(_, count)| count).sum();
        bad + self.failures.values().sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_all_that_is_neither_good_nor_a_503() {
        let mut tally = Tally::new();
        let took = Duration::from_micros(250);
        tally.answer(200, false, Some(300), took);
        tally.answer(500, true, Some(340), took);
        tally.answer(500, true, Some(1000), took);
        tally.answer(503, false, Some(200), took);
        tally.failure(Failure::Cut);
        let mut sum = Tally::new();
        sum.add(&tally);
        sum.add(&tally);
        assert_eq!((sum.good(), sum.failed(), sum.status(503)), (2, 6, 2));
        assert_eq!(sum.exhausted, 4);
        assert_eq!(
            (sum.largest_good, sum.smallest_failed),
            (Some(300), Some(340))
        );
        assert_eq!(sum.latencies.count(), 8);
        let median = sum.latencies.quantile(0.5).expect("there are some");
        assert!((median - 250.0).abs() < 1.0, "{median}");
        assert_eq!(Latencies::new().quantile(0.5), None);
    }
}
