//! How long a door's handlers take, roughly: the one number that the wake and growth policies ask
//! for.
//!
//! More threads slow tiny handlers down: with no work to do, one thread carried 6.1 M calls/s and
//! four carried 3.2 M, because they fight over cache lines and wake each other (measured, 2 CPUs).
//! Handlers longer than a wake gain by more threads.

use crate::rules::sync::{AtomicU32, Ordering};

/// Above this a handler is worth a second thread: about what a wake costs both sides.
const SLOW_NS: u32 = 5_000;
/// A new door is taken for slow: too many threads cost a little throughput, too few can cost
/// everything.
const START_NS: u32 = 50_000;
/// What a nudge puts in the average's place: slow, but forgotten after some thirty short calls,
/// because on a loaded machine a thread that has lost its CPU looks like one that blocks.
const NUDGED_NS: u32 = 2 * SLOW_NS;
/// A single sample counts for at most this, so that one interrupted handler does not make a fast
/// door slow (its weight is 1/32), two in a row do, and even minutes are forgotten after a hundred calls.
const SAMPLE_MAX_NS: u64 = 100_000;
/// Samples are gathered per thread and folded this many at a time: the shared word stays clean.
const FOLD: u32 = 16;

/// A door's moving average of service time. Racy by intent: a lost update loses one sample.
/// A view.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace<'a> {
    average_ns: &'a AtomicU32,
}

/// One thread's samples that have not been folded yet.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    sum_ns: u32,
    count: u32,
}

impl<'a> Pace<'a> {
    /// A view of a new door's word.
    pub fn begin(average_ns: &'a AtomicU32) -> Self {
        average_ns.store(START_NS, Ordering::Relaxed);
        Self { average_ns }
    }

    /// A view of a door's word.
    pub fn new(average_ns: &'a AtomicU32) -> Self {
        Self { average_ns }
    }

    pub fn average_ns(self) -> u32 {
        self.average_ns.load(Ordering::Relaxed)
    }

    pub fn is_slow(self) -> bool {
        self.average_ns() > SLOW_NS
    }

    /// How many idle threads are worth waking for so many calls that have just been published, while
    /// `running` threads are about to look for work. If handlers are short, one takes them all, sooner than a
    /// second one would wake up; `nudge` backs this.
    pub fn threads_for(self, calls: u32, running: u32) -> u32 {
        if self.is_slow() {
            calls.saturating_sub(running)
        } else {
            u32::from(running == 0)
        }
    }

    /// A call was found waiting although a thread was counted as running: whatever the average
    /// says, that thread blocks.
    pub fn assume_slow(self) {
        if self.average_ns() < NUDGED_NS {
            self.average_ns.store(NUDGED_NS, Ordering::Relaxed);
        }
    }

    fn fold(self, samples: &mut Samples) {
        if samples.count == 0 {
            return;
        }
        let mean = i64::from(samples.sum_ns / samples.count);
        let average = i64::from(self.average_ns());
        // 16 samples weigh one half, a single one 1/32.
        let folded = average + (mean - average) * i64::from(samples.count) / i64::from(2 * FOLD);
        if folded != average {
            self.average_ns.store(folded as u32, Ordering::Relaxed);
        }
        *samples = Samples::default();
    }
}

impl Samples {
    /// Notes that a call took `ns`.
    pub fn note(&mut self, ns: u64, pace: Pace<'_>) {
        let sample = ns.min(SAMPLE_MAX_NS) as u32;
        self.sum_ns += sample;
        self.count += 1;
        // A slow call is counted at once: other calls may be waiting for that.
        if self.count == FOLD || sample > SLOW_NS {
            pace.fold(self);
        }
    }

    /// Notes that `calls` calls took `ns` together. If that is much, one of them took it.
    pub fn note_several(&mut self, ns: u64, calls: u32, pace: Pace<'_>) {
        let calls = u64::from(calls.max(1));
        if ns > calls * u64::from(SLOW_NS) {
            self.note(
                ns.saturating_sub((calls - 1) * u64::from(pace.average_ns())),
                pace,
            );
        } else {
            self.note(ns / calls, pace);
        }
    }

    /// Folds what is left; before sleeping.
    pub fn flush(&mut self, pace: Pace<'_>) {
        pace.fold(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_door_is_taken_for_slow_and_learns_within_a_hundred_calls() {
        let word = AtomicU32::new(0);
        let pace = Pace::begin(&word);
        let mut samples = Samples::default();
        assert!(pace.is_slow());
        for _ in 0..100 {
            samples.note(200, pace);
        }
        assert!(!pace.is_slow());
    }

    #[test]
    fn one_long_call_is_an_accident_and_two_make_a_fast_door_slow_until_it_is_forgotten() {
        let word = AtomicU32::new(0);
        let pace = Pace::begin(&word);
        let mut samples = Samples::default();
        for _ in 0..1000 {
            samples.note(200, pace);
        }
        samples.note(60_000_000_000, pace);
        assert!(!pace.is_slow());
        samples.note(60_000_000_000, pace);
        assert!(pace.is_slow());
        for _ in 0..100 {
            samples.note(200, pace);
        }
        assert!(!pace.is_slow());
    }

    #[test]
    fn one_long_call_among_several_short_ones_is_seen() {
        let word = AtomicU32::new(0);
        let pace = Pace::begin(&word);
        let mut samples = Samples::default();
        for _ in 0..1000 {
            samples.note_several(8 * 200, 8, pace);
        }
        assert!(!pace.is_slow() && (150..250).contains(&pace.average_ns()));
        for _ in 0..2 {
            samples.note_several(7 * 200 + 60_000_000, 8, pace);
        }
        assert!(pace.is_slow());
    }

    #[test]
    fn a_nudge_makes_a_door_slow_for_a_few_calls() {
        let word = AtomicU32::new(0);
        let pace = Pace::begin(&word);
        let mut samples = Samples::default();
        for _ in 0..1000 {
            samples.note(200, pace);
        }
        pace.assume_slow();
        assert!(pace.is_slow());
        for _ in 0..32 {
            samples.note(200, pace);
        }
        assert!(!pace.is_slow());
    }
}
