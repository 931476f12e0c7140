//! Random numbers from a seed, so that a run can be repeated.

use std::ops::RangeInclusive;

/// A source of random numbers with a seed.
#[derive(Debug, Clone)]
pub struct Random(fastrand::Rng);

impl Random {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Random(fastrand::Rng::with_seed(seed))
    }

    /// A number of a range, each as likely as the others.
    pub fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        self.0.u64(range)
    }

    /// A number from 0 to less than 1.
    pub fn part(&mut self) -> f64 {
        self.0.f64()
    }

    /// An interval of mean 1.
    pub fn exponential(&mut self) -> f64 {
        // It is less than 1, so the logarithm is finite.
        -(1.0 - self.part()).ln()
    }
}
