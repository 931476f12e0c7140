//! What becomes of the requests that find all buckets busy, if they wait: in order, in a limited number of
//! places, and for a limited time.
//!
//! The model is M/M/N/K with impatience: requests come as a Poisson process, hold one of N buckets for
//! exponentially distributed times, at most K - N of them wait, and one that has waited for the queue timeout
//! leaves with a 503. For that model the formulas are exact (Brandt and Brandt, "On the M(n)/M(n)/s queue
//! with impatient calls", 1999, for a fixed patience). The virtual wait x has, beyond p, the share of time in
//! which just one bucket is free, the density
//!
//! ```text
//! p · λ · exp(λ·min(x, τ) − N·μ·x)        so that, with ρ = λ/(N·μ), y = N·μ·τ and j requests that wait,
//! p · w(j),  w(j) = ρ^(j+1) · Pr(Poisson(y) > j)  +  ρ · (ρ·y)^j/j! · exp(−y)
//! ```
//!
//! Without places it is Erlang's loss formula; with places and unlimited patience it is M/M/N/K, and with
//! unlimited places too, Erlang C. Times that are not exponentially distributed are taken into account as
//! Allen and Cunneen do: waits, and the number of requests that wait, are (1 + c²)/2 times what they would
//! be, with c² the variance in squares of the mean. That makes the result an estimate: `simulation` shows how
//! good it is.

use super::erlang::inverse_erlang_b;

/// The waiting room in front of the buckets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Queue {
    /// Requests that may wait at once.
    pub places: u32,
    /// How long one may wait, in mean service times. May be infinite.
    pub patience: f64,
}

/// What becomes of requests: what traffic theory calls so. All are shares of those that come.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct GradeOfService {
    /// Turned away at once: no bucket and no place.
    pub blocked: f64,
    /// Turned away after the whole queue timeout.
    pub timed_out: f64,
    /// Had to wait, whether they got a bucket in the end or not.
    pub waited: f64,
}

impl GradeOfService {
    /// The share that is answered 503.
    #[must_use]
    pub fn failed(&self) -> f64 {
        self.blocked + self.timed_out
    }
}

impl Queue {
    /// As Allen and Cunneen scale it, for times with this squared coefficient of variation (1: exponential,
    /// as it is).
    #[must_use]
    pub fn for_variability(self, squared_variation: f64) -> Queue {
        let factor = 2.0 / (1.0 + squared_variation);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "rounded down on purpose; a float saturates"
        )]
        let places = (f64::from(self.places) * factor) as u32;
        Queue {
            places,
            patience: self.patience * factor,
        }
    }

    /// What becomes of requests at so many buckets (at least 1) and a load in Erlangs (more than 0).
    #[must_use]
    pub fn outcome(self, buckets: u32, load: f64) -> GradeOfService {
        let n = f64::from(buckets);
        let (ln_rho, y) = ((load / n).ln(), n * self.patience);
        // Logarithms, because with a thousand places the terms leave the range of numbers. The time in which
        // a bucket is free is the unit of all of them.
        let mut outcome = LogSums::default();
        outcome.add_free(inverse_erlang_b(buckets - 1, load).ln());
        let tails = ln_poisson_tails(y, self.places);
        // ln((ρ·y)^j/j! · e^−y), for j = 0, 1, …
        let mut expiring = if y.is_finite() { -y } else { f64::NEG_INFINITY };
        for (j, tail) in (0..=self.places).zip(tails) {
            let j = f64::from(j);
            if j > 0.0 && y.is_finite() {
                expiring += ln_rho + y.ln() - j.ln();
            }
            let here = ln_add((j + 1.0) * ln_rho + tail, ln_rho + expiring);
            outcome.add_waiting(here, ln_rho + expiring);
        }
        outcome.shares()
    }
}

/// Logarithms of sums over the states of the queue, all relative to the same unit.
#[derive(Debug)]
struct LogSums {
    free: f64,
    /// States in which an arrival waits.
    waiting: f64,
    /// The last state, in which it does not.
    full: f64,
    timed_out: f64,
    last_expiring: f64,
}

impl Default for LogSums {
    fn default() -> Self {
        let nothing = f64::NEG_INFINITY;
        LogSums {
            free: nothing,
            waiting: nothing,
            full: nothing,
            timed_out: nothing,
            last_expiring: nothing,
        }
    }
}

impl LogSums {
    fn add_free(&mut self, ln_weight: f64) {
        self.free = ln_add(self.free, ln_weight);
    }

    /// The next state: the one before, which was the last, now has a place left.
    fn add_waiting(&mut self, ln_weight: f64, ln_expiring: f64) {
        self.waiting = ln_add(self.waiting, self.full);
        self.timed_out = ln_add(self.timed_out, self.last_expiring);
        self.full = ln_weight;
        self.last_expiring = ln_expiring;
    }

    fn shares(&self) -> GradeOfService {
        let total = ln_add(ln_add(self.free, self.waiting), self.full);
        if total == f64::INFINITY {
            // A bucket is practically always free: 1/B was too large for a number.
            return GradeOfService::default();
        }
        GradeOfService {
            blocked: (self.full - total).exp(),
            timed_out: (self.timed_out - total).exp(),
            waited: (self.waiting - total).exp(),
        }
    }
}

/// ln(e^a + e^b).
fn ln_add(a: f64, b: f64) -> f64 {
    let (more, less) = if a >= b { (a, b) } else { (b, a) };
    if less == f64::NEG_INFINITY || more == f64::INFINITY {
        more
    } else {
        more + (less - more).exp().ln_1p()
    }
}

/// ln Pr(Poisson(`mean`) > j) for j from 0 to `most`.
fn ln_poisson_tails(mean: f64, most: u32) -> Vec<f64> {
    let length = most as usize + 1;
    // So far below the mean the tail differs from 1 by less than exp(-0.4 · mean), which is 1e-41 at least.
    if mean > 4.0 * (f64::from(most) + 60.0) {
        return vec![0.0; length];
    }
    if mean == 0.0 {
        return vec![f64::NEG_INFINITY; length];
    }
    // So far above it, what is left is less than a number's last digit of what has been added up.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most a few times `most`"
    )]
    let end = (f64::from(most).max(mean) + 10.0 * mean.sqrt() + 60.0) as usize;
    let mut ln_term = -mean;
    let mut tails: Vec<f64> = (1..=end)
        .map(|k| {
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            let k = k as f64;
            ln_term += (mean / k).ln();
            ln_term
        })
        .collect();
    for k in (0..end - 1).rev() {
        tails[k] = ln_add(tails[k], tails[k + 1]);
    }
    tails.truncate(length);
    tails
}

#[cfg(test)]
mod tests {
    use super::super::erlang::erlang_b;
    use super::*;
    use proptest::prelude::*;

    fn queue(places: u32, patience: f64) -> Queue {
        Queue { places, patience }
    }

    fn assert_close(one: f64, other: f64, what: &str) {
        assert!(
            (one - other).abs() <= 1e-9 * one.abs().max(other.abs()) + 1e-300,
            "{what}: {one:e} and {other:e}"
        );
    }

    /// M/M/N/K as textbooks have it: a birth-death chain, its last state's share of the sum.
    fn chain(buckets: u32, places: u32, load: f64) -> (f64, f64) {
        let mut weights = vec![1.0f64];
        for state in 1..=buckets + places {
            let last = weights[weights.len() - 1];
            weights.push(last * load / f64::from(state.min(buckets)));
        }
        let total: f64 = weights.iter().sum();
        let last = weights[weights.len() - 1];
        let waiting = &weights[buckets as usize..weights.len() - 1];
        (last / total, waiting.iter().sum::<f64>() / total)
    }

    #[test]
    fn without_places_or_patience_it_is_erlang_b() {
        for (buckets, load) in [(1, 0.5), (20, 12.0), (64, 60.0), (30, 90.0), (1000, 900.0)] {
            for no_queue in [queue(0, f64::INFINITY), queue(0, 3.0), queue(50, 0.0)] {
                let failed = no_queue.outcome(buckets, load).failed();
                assert_close(
                    failed,
                    erlang_b(buckets, load),
                    &format!("{buckets}, {load}, {no_queue:?}"),
                );
            }
        }
    }

    #[test]
    fn with_endless_patience_it_is_the_textbooks_chain() {
        for (buckets, places, load) in [(1, 5, 0.9), (20, 10, 19.0), (8, 64, 9.5), (40, 100, 30.0)]
        {
            let outcome = queue(places, f64::INFINITY).outcome(buckets, load);
            let (blocked, waited) = chain(buckets, places, load);
            assert_close(outcome.blocked, blocked, "blocked");
            assert_close(outcome.waited, waited, "waited");
            assert_eq!(outcome.timed_out, 0.0);
        }
    }

    #[test]
    fn with_places_without_end_it_is_erlang_c() {
        for (buckets, load) in [(1u32, 0.5), (10, 8.0), (35, 30.0)] {
            let b = erlang_b(buckets, load);
            let rho = load / f64::from(buckets);
            let c = b / (1.0 - rho * (1.0 - b));
            let outcome = queue(20_000, f64::INFINITY).outcome(buckets, load);
            assert_close(outcome.waited, c, "Erlang C");
            assert_eq!(outcome.failed(), 0.0);
        }
        // A tabled value: 10 servers, 8 Erlangs.
        let waited = queue(20_000, f64::INFINITY).outcome(10, 8.0).waited;
        assert!((waited - 0.4092).abs() < 5e-5, "{waited}");
    }

    #[test]
    fn with_places_without_end_patience_costs_what_barrer_has() {
        // M/M/N+D in closed form, by the virtual wait's density alone.
        for (buckets, load, patience) in [(5u32, 4.0, 1.0), (20, 19.0, 0.3), (64, 80.0, 2.0)] {
            let n = f64::from(buckets);
            let (surplus, rho) = (load - n, load / n);
            let grown = (surplus * patience).exp();
            let lost = rho * grown;
            let total =
                1.0 / erlang_b(buckets - 1, load) + load * (grown - 1.0) / surplus + rho * grown;
            let outcome = queue(5_000, patience).outcome(buckets, load);
            assert_close(
                outcome.timed_out,
                lost / total,
                &format!("{buckets}, {load}"),
            );
            assert!(outcome.blocked < 1e-100);
        }
    }

    #[test]
    fn overload_loses_what_is_over() {
        let outcome = queue(1000, 50.0).outcome(64, 640.0);
        assert!((outcome.failed() - 0.9).abs() < 1e-6, "{outcome:?}");
        assert!(outcome.failed() <= 1.0);
    }

    #[test]
    fn extremes_are_numbers() {
        for (buckets, load, queue) in [
            (1, 1e-9, queue(0, 0.0)),
            (16_384, 1e-3, queue(100_000, 1e9)),
            (16_384, 1e6, queue(100_000, 1e-9)),
            (1, 1e9, queue(1_000, 1e6)),
            (4, 4.0, queue(1_000_000, 1e4)),
        ] {
            let outcome = queue.outcome(buckets, load);
            for share in [outcome.blocked, outcome.timed_out, outcome.waited] {
                assert!(
                    (0.0..=1.0 + 1e-9).contains(&share),
                    "{queue:?}: {outcome:?}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn what_comes_is_served_or_fails(
            buckets in 1u32..100, load in 0.1f64..200.0, places in 0u32..300, patience in 0.0f64..20.0,
        ) {
            // The rate at which requests are served is that at which they come, less those that fail; and
            // buckets are never busier than they can be.
            let outcome = queue(places, patience).outcome(buckets, load);
            let served = load * (1.0 - outcome.failed());
            prop_assert!((0.0..=1.0).contains(&outcome.failed()));
            prop_assert!(served <= f64::from(buckets) * (1.0 + 1e-9));
            prop_assert!(outcome.timed_out <= outcome.waited * (1.0 + 1e-9));
        }

        #[test]
        fn more_of_anything_but_load_fails_less(
            buckets in 1u32..100, load in 0.1f64..200.0, places in 0u32..300, patience in 0.01f64..20.0,
        ) {
            let failed = |queue: Queue, buckets, load| queue.outcome(buckets, load).failed();
            let here = failed(queue(places, patience), buckets, load) * (1.0 + 1e-9) + 1e-300;
            prop_assert!(failed(queue(places + 1, patience), buckets, load) <= here);
            prop_assert!(failed(queue(places, patience * 1.1), buckets, load) <= here);
            prop_assert!(failed(queue(places, patience), buckets + 1, load) <= here);
            prop_assert!(failed(queue(places, patience), buckets, load * 0.9) <= here);
            prop_assert!(here <= erlang_b(buckets, load) * (1.0 + 1e-6) + 1e-290);
        }
    }
}
