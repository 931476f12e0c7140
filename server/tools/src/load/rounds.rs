//! What the measured phases have found, without and with hungry requests, and what follows from it.

use super::engine::PhaseResult;
use super::mix::Entry;
use super::report::{Comparison, Curve, Prediction, Quantiles, Ratio, Side, Unavailable};
use super::tally::{Latencies, Tally};
use crate::plan::erlang::erlang_b;
use std::time::Duration;

/// What one kind of phase has seen, over its rounds.
#[derive(Debug)]
pub struct Sum<'m> {
    mix: &'m [Entry],
    /// By entry of the mix.
    tallies: Vec<Tally>,
    /// Each round's, of ordinary requests.
    quantiles: Vec<Quantiles>,
}

impl<'m> Sum<'m> {
    /// Nothing yet.
    pub fn new(mix: &'m [Entry]) -> Self {
        Sum {
            mix,
            tallies: mix.iter().map(|_| Tally::new()).collect(),
            quantiles: Vec::new(),
        }
    }

    /// Adds a round's phase.
    pub fn add(&mut self, phase: &PhaseResult) {
        for (sum, tally) in self.tallies.iter_mut().zip(&phase.tallies) {
            sum.add(tally);
        }
        let ordinary = together(self.mix, &phase.tallies, false);
        self.quantiles.extend(Quantiles::of(&ordinary.latencies));
    }

    fn class(&self, hungry: bool) -> Tally {
        together(self.mix, &self.tallies, hungry)
    }

    fn side(&self) -> Side {
        Side::new(&self.class(false), &self.quantiles)
    }
}

/// All ordinary, or all hungry, requests.
fn together(mix: &[Entry], tallies: &[Tally], hungry: bool) -> Tally {
    let mut sum = Tally::new();
    let of_class = mix
        .iter()
        .zip(tallies)
        .filter(|(entry, _)| entry.hungry == hungry);
    of_class.for_each(|(_, tally)| sum.add(tally));
    sum
}

/// What all rounds have seen.
#[derive(Debug)]
pub struct Rounds<'m> {
    /// Without hungry requests.
    pub alone: Sum<'m>,
    /// With them; absent if the mix has none.
    pub beside: Option<Sum<'m>>,
    /// How late the generator itself was.
    pub lateness: Latencies,
    /// How long all of them took.
    pub took: Duration,
    /// Cores that the load tester used.
    pub cores: f64,
    /// Buckets busy on average beside hungry requests.
    pub busy: Option<f64>,
}

impl Rounds<'_> {
    /// By entry of the mix.
    pub fn total(&self) -> Vec<Tally> {
        let mut total = self.alone.tallies.clone();
        if let Some(beside) = &self.beside {
            for (total, tally) in total.iter_mut().zip(&beside.tallies) {
                total.add(tally);
            }
        }
        total
    }

    /// Ordinary requests side by side.
    pub fn comparison(&self) -> Comparison {
        let alone = &self.alone.quantiles;
        let beside = self.beside.as_ref();
        let beside = beside.map_or(&[][..], |beside| &beside.quantiles);
        let ratio = |of| Ratio::of(alone, beside, of);
        Comparison {
            alone: self.alone.side(),
            beside: self.beside.as_ref().map(Sum::side),
            p50_ratio: ratio(|round| round.p50_us),
            p99_ratio: ratio(|round| round.p99_us),
            p999_ratio: ratio(|round| round.p999_us),
            alone_rounds: alone.clone(),
            beside_rounds: beside.to_vec(),
        }
    }

    /// Latency by class.
    pub fn curves(&self) -> Vec<Curve> {
        let curve = |name, sum: &Sum<'_>, hungry| Curve::new(name, &sum.class(hungry).latencies);
        let mut curves = vec![curve("ordinary, alone", &self.alone, false)];
        if let Some(beside) = &self.beside {
            curves.push(curve("ordinary, beside hungry", beside, false));
            curves.push(curve("hungry", beside, true));
        }
        curves
    }

    /// 503s in the phases with all kinds of requests, and how many there should have been with so many
    /// buckets.
    pub fn unavailable(&self, buckets: Option<u32>) -> Unavailable {
        let all = self.beside.as_ref().unwrap_or(&self.alone);
        let sum = |what: fn(&Tally) -> u64| all.tallies.iter().map(what).sum::<u64>();
        let of = sum(|tally| tally.due);
        let predicted = self.busy.zip(buckets).map(|(busy, buckets)| {
            let share = erlang_b(buckets, busy);
            Prediction {
                buckets,
                busy,
                share,
                expected: share * of as f64,
            }
        });
        Unavailable {
            observed: sum(|tally| tally.status(503)),
            of,
            predicted,
        }
    }
}
