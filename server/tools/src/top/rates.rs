//! Counters per second, over the last second or so.

use std::collections::VecDeque;
use transom::snapshot::{Application, Snapshot};

/// How far back a rate looks, in milliseconds of the server's time.
const WINDOW_MS: u64 = 1000;

/// The counters that have a rate.
#[derive(Debug, Clone, Copy)]
pub struct Counters {
    at_ms: u64,
    pid: u32,
    /// Calls submitted, or where there is no front end, ended.
    pub requests: u64,
    /// 4xx.
    pub client_errors: u64,
    /// 5xx.
    pub server_errors: u64,
    /// 503.
    pub rejected: u64,
    /// Exhausted requests.
    pub exhausted: u64,
}

impl Counters {
    /// The counters of a snapshot.
    #[must_use]
    pub fn of(snapshot: &Snapshot) -> Self {
        let (front, application) = (&snapshot.front, &snapshot.application);
        let calls = application.as_ref().map_or(0, |it| it.calls);
        Counters {
            at_ms: snapshot.uptime_ms,
            pid: snapshot.pid,
            requests: front.as_ref().map_or(calls, |it| it.requests),
            client_errors: front.as_ref().map_or(0, |it| it.client_errors),
            server_errors: front.as_ref().map_or(0, |it| it.server_errors),
            rejected: front.as_ref().map_or(0, |it| it.rejected),
            exhausted: application.as_ref().map_or(0, Application::exhausted),
        }
    }
}

/// The samples of the last second or so, at least two once they are there.
#[derive(Debug, Default)]
pub struct Rates(VecDeque<Counters>);

impl Rates {
    /// Adds a snapshot's counters. Those of a server that has been started anew replace all before.
    pub fn add(&mut self, sample: Counters) {
        if let Some(last) = self.0.back() {
            if sample.pid != last.pid || sample.at_ms < last.at_ms {
                self.0.clear();
            } else if sample.at_ms == last.at_ms {
                return;
            }
        }
        self.0.push_back(sample);
        while self.0.len() > 2 && self.0[1].at_ms + WINDOW_MS <= sample.at_ms {
            self.0.pop_front();
        }
    }

    /// How many a second; `None` before the second sample.
    #[must_use]
    pub fn per_second(&self, counter: impl Fn(&Counters) -> u64) -> Option<f64> {
        let (first, last) = (self.0.front()?, self.0.back()?);
        let time_ms = last.at_ms.checked_sub(first.at_ms).filter(|it| *it > 0)?;
        let count = counter(last).saturating_sub(counter(first));
        Some(count as f64 * 1000.0 / time_ms as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(pid: u32, at_ms: u64, requests: u64) -> Counters {
        Counters {
            at_ms,
            pid,
            requests,
            client_errors: 0,
            server_errors: 0,
            rejected: 0,
            exhausted: 0,
        }
    }

    #[test]
    fn looks_back_a_second() {
        let mut rates = Rates::default();
        rates.add(sample(1, 1000, 0));
        assert_eq!(rates.per_second(|it| it.requests), None);
        for step in 1..=20 {
            rates.add(sample(1, 1000 + step * 250, step * step));
        }
        // From 5,000 to 6,000 ms: 16² to 20².
        assert_eq!(rates.per_second(|it| it.requests), Some(144.0));
    }

    #[test]
    fn a_server_started_anew_begins_anew() {
        let mut rates = Rates::default();
        rates.add(sample(1, 60_000, 1_000_000));
        rates.add(sample(1, 61_000, 1_000_500));
        rates.add(sample(2, 62_000, 10));
        assert_eq!(rates.per_second(|it| it.requests), None);
        rates.add(sample(2, 63_000, 40));
        assert_eq!(rates.per_second(|it| it.requests), Some(30.0));
        // In a container the new process has the number of the old one.
        rates.add(sample(2, 100, 0));
        assert_eq!(rates.per_second(|it| it.requests), None);
    }
}
