//! The formulas compared with a simulation: servers, a queue, requests that come, one after the other.

use super::erlang::erlang_b;
use super::queue::Queue;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// SplitMix64: the same numbers on every machine.
struct Numbers(u64);

impl Numbers {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        // Of (0, 1]: its logarithm is a number.
        ((z >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    fn exponential(&mut self) -> f64 {
        -self.uniform().ln()
    }

    fn normal(&mut self) -> f64 {
        (2.0 * self.exponential()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

/// Distributions of the time for which a bucket is held, all with mean 1.
#[derive(Debug, Clone, Copy, PartialEq)]
enum ServiceDistribution {
    Fixed,
    Uniform,
    Exponential,
    /// Half of the requests hold a bucket very shortly, and a few very long: sigma is 1.5.
    LogNormal,
}

impl ServiceDistribution {
    const ALL: [ServiceDistribution; 4] = [
        ServiceDistribution::Fixed,
        ServiceDistribution::Uniform,
        ServiceDistribution::Exponential,
        ServiceDistribution::LogNormal,
    ];

    fn one(self, numbers: &mut Numbers) -> f64 {
        match self {
            ServiceDistribution::Fixed => 1.0,
            ServiceDistribution::Uniform => 2.0 * numbers.uniform(),
            ServiceDistribution::Exponential => numbers.exponential(),
            ServiceDistribution::LogNormal => (1.5 * numbers.normal() - 1.125).exp(),
        }
    }

    fn squared_variation(self) -> f64 {
        match self {
            ServiceDistribution::Fixed => 0.0,
            ServiceDistribution::Uniform => 1.0 / 3.0,
            ServiceDistribution::Exponential => 1.0,
            ServiceDistribution::LogNormal => 2.25f64.exp() - 1.0,
        }
    }
}

/// A time, in an order.
#[derive(PartialEq, PartialOrd)]
struct At(f64);

impl Eq for At {}

#[expect(clippy::derive_ord_xor_partial_ord, reason = "no time here is not a number")]
impl Ord for At {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// The share of requests that fail, and its standard error.
#[derive(Debug)]
struct Failed {
    share: f64,
    error: f64,
}

/// Arrivals of a batch. Many mean service times long, so that batches hardly depend on each other.
const BATCH: usize = 5_000;

fn simulate(
    times: ServiceDistribution,
    buckets: u32,
    load: f64,
    queue: Queue,
    batches: usize,
    seed: u64,
) -> Failed {
    let mut numbers = Numbers(seed);
    let mut now = 0.0;
    // When each bucket will have served all that has been promised to it, the earliest first.
    let mut free: BinaryHeap<_> = (0..buckets).map(|_| Reverse(At(0.0))).collect();
    // When each request that waits will leave the queue, one way or the other.
    let mut waiting: BinaryHeap<Reverse<At>> = BinaryHeap::new();
    let mut one = |numbers: &mut Numbers| {
        now += numbers.exponential() / load;
        while waiting.peek().is_some_and(|Reverse(At(left))| *left <= now) {
            waiting.pop();
        }
        let Some(Reverse(At(earliest))) = free.peek() else {
            return true;
        };
        let start = earliest.max(now);
        if start > now {
            if waiting.len() >= queue.places as usize {
                return true;
            }
            // Requests that come later wait behind this one, so its fate is known already.
            let gives_up = now + queue.patience;
            waiting.push(Reverse(At(start.min(gives_up))));
            if start > gives_up {
                return true;
            }
        }
        free.pop();
        free.push(Reverse(At(start + times.one(numbers))));
        false
    };
    let mut batch =
        |numbers: &mut Numbers| (0..BATCH).filter(|_| one(numbers)).count() as f64 / BATCH as f64;
    // From an empty system to one in balance.
    batch(&mut numbers);
    let shares: Vec<f64> = (0..batches).map(|_| batch(&mut numbers)).collect();
    let count = batches as f64;
    let share = shares.iter().sum::<f64>() / count;
    let squares: f64 = shares.iter().map(|one| (one - share).powi(2)).sum();
    Failed {
        share,
        error: (squares / (count - 1.0) / count).sqrt(),
    }
}

/// Four standard errors: once in 16,000 by chance, and the seeds are fixed. `power` is how large an error may
/// be at most, as a part of what is expected, for the comparison to say something.
fn assert_agrees(expected: f64, found: &Failed, power: f64, what: &str) {
    assert!(
        found.error < power * expected,
        "{what}: too few requests to say anything: {found:?}"
    );
    assert!(
        (found.share - expected).abs() < 4.0 * found.error,
        "{what}: {expected} by formula, simulated {found:?}"
    );
}

#[test]
fn erlang_b_holds_for_every_distribution_of_times() {
    for times in ServiceDistribution::ALL {
        for (buckets, load) in [(10u32, 8.0), (25, 20.0)] {
            let no_queue = Queue {
                places: 0,
                patience: 0.0,
            };
            let found = simulate(times, buckets, load, no_queue, 120, 1);
            let what = format!("{times:?}, {buckets} buckets, {load} Erlangs");
            assert_agrees(erlang_b(buckets, load), &found, 0.035, &what);
        }
    }
}

#[test]
fn the_queue_holds_for_exponential_times() {
    for (buckets, load, places, patience) in [
        (10, 9.0, 5, f64::INFINITY),
        (10, 9.0, 40, 0.5),
        (20, 19.0, 8, 0.3),
        (5, 7.0, 30, 2.0),
    ] {
        let queue = Queue { places, patience };
        let found = simulate(
            ServiceDistribution::Exponential,
            buckets,
            load,
            queue,
            100,
            2,
        );
        let outcome = queue.outcome(buckets, load);
        let what = format!("{queue:?}, {buckets} buckets, {load} Erlangs: {outcome:?}");
        assert_agrees(outcome.failed(), &found, 0.05, &what);
    }
}

/// The factors are what docs/memory.md says of the estimate.
#[test]
fn for_other_times_the_queue_is_an_estimate() {
    for times in ServiceDistribution::ALL {
        for (buckets, load, places, patience) in [
            (10, 9.0, 20, f64::INFINITY),
            (20, 19.0, 100, 1.0),
            (20, 18.0, 40, 0.5),
        ] {
            let queue = Queue { places, patience };
            let found = simulate(times, buckets, load, queue, 80, 3);
            let estimate = queue
                .for_variability(times.squared_variation())
                .outcome(buckets, load)
                .failed();
            assert!(
                estimate > found.share / 1.5 && estimate < 3.0 * found.share,
                "{times:?}, {queue:?}, {buckets} buckets, {load} Erlangs: {estimate} estimated, simulated {found:?}"
            );
        }
    }
}
