//! When requests are due. A schedule depends on nothing that the server does: that is what makes the load
//! open-loop.

use super::mix::Entry;
use super::random::Random;
use std::time::Duration;

/// How requests follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Arrivals {
    /// As many independent clients: intervals are exponential, so that requests come in clusters
    Poisson,
    /// Evenly, as a metronome
    Constant,
}

/// A request that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Since the beginning of the phase.
    pub at: Duration,
    /// Which entry of the mix.
    pub entry: usize,
    /// Its size, if it has a range.
    pub size: u64,
}

/// What the requests of one entry are drawn from, so that an entry's arrivals are the same whichever others
/// there are.
#[derive(Debug)]
struct Stream {
    entry: usize,
    /// Requests a second once the ramp is over.
    rate: f64,
    random: Random,
    /// Requests that would be due by now, were each due at a whole number.
    position: f64,
    next: Arrival,
}

/// All arrivals of a phase, in order.
#[derive(Debug)]
pub struct Schedule<'m> {
    mix: &'m [Entry],
    arrivals: Arrivals,
    ramp: f64,
    length: Duration,
    streams: Vec<Stream>,
}

/// What a phase's schedule is made from.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Requests a second, if every entry of the mix were sent.
    pub rate: f64,
    /// How they follow each other.
    pub arrivals: Arrivals,
    /// The time in which the rate rises from nothing, in a straight line.
    pub ramp: Duration,
    /// The length of the phase.
    pub length: Duration,
    /// Two phases with the same seed have the same arrivals of an entry.
    pub seed: u64,
}

impl<'m> Schedule<'m> {
    /// The arrivals of those entries that `takes` part.
    pub fn new(mix: &'m [Entry], takes: impl Fn(&Entry) -> bool, shape: Shape) -> Self {
        let mut schedule = Schedule {
            mix,
            arrivals: shape.arrivals,
            ramp: shape.ramp.as_secs_f64(),
            length: shape.length,
            streams: Vec::new(),
        };
        for (entry, kind) in mix.iter().enumerate().filter(|(_, kind)| takes(kind)) {
            let seed = shape.seed.wrapping_mul(31).wrapping_add(entry as u64);
            let mut stream = Stream {
                entry,
                rate: shape.rate * kind.share,
                random: Random::new(seed),
                position: 0.0,
                next: Arrival {
                    at: Duration::ZERO,
                    entry,
                    size: 0,
                },
            };
            if shape.arrivals == Arrivals::Constant {
                // Each entry at its own offset, so that they are not synchronous.
                stream.position = stream.random.part() - 1.0;
            }
            schedule.advance(&mut stream);
            schedule.streams.push(stream);
        }
        schedule
    }

    fn advance(&self, stream: &mut Stream) {
        stream.position += match self.arrivals {
            Arrivals::Poisson => stream.random.exponential(),
            Arrivals::Constant => 1.0,
        };
        let seconds = time_of(stream.position, stream.rate, self.ramp);
        stream.next = Arrival {
            at: Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX),
            entry: stream.entry,
            size: self.mix[stream.entry].draw(&mut stream.random),
        };
    }

    /// When the next request is due; `None` when the phase is over.
    pub fn next_at(&self) -> Option<Duration> {
        let next = self.streams.iter().map(|stream| stream.next.at).min();
        next.filter(|at| *at < self.length)
    }
}

impl Iterator for Schedule<'_> {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        self.next_at()?;
        let (n, _) = (self.streams.iter().enumerate()).min_by_key(|(_, stream)| stream.next.at)?;
        let arrival = self.streams[n].next;
        let mut stream = self.streams.swap_remove(n);
        self.advance(&mut stream);
        self.streams.push(stream);
        Some(arrival)
    }
}

/// The time, in seconds, at which so many requests are due, when the rate has risen in a straight line during
/// the ramp.
fn time_of(position: f64, rate: f64, ramp: f64) -> f64 {
    let during_ramp = rate * ramp / 2.0;
    if position < during_ramp {
        (2.0 * position * ramp / rate).sqrt()
    } else {
        ramp + (position - during_ramp) / rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mix() -> Vec<Entry> {
        ["GET /10 95%", "GET /{100..2000} 5%"]
            .map(|text| text.parse().expect("a kind of request"))
            .to_vec()
    }

    fn shape(arrivals: Arrivals, ramp: u64) -> Shape {
        Shape {
            rate: 10_000.0,
            arrivals,
            ramp: Duration::from_secs(ramp),
            length: Duration::from_secs(10),
            seed: 7,
        }
    }

    #[test]
    fn arrivals_are_in_order_at_the_rate_and_in_shares() {
        for arrivals in [Arrivals::Poisson, Arrivals::Constant] {
            let mix = mix();
            let all: Vec<_> = Schedule::new(&mix, |_| true, shape(arrivals, 0)).collect();
            assert!(all.is_sorted_by_key(|arrival| arrival.at));
            assert!(all.last().expect("many").at < Duration::from_secs(10));
            // 100,000 are expected; the deviation of a Poisson process is 316.
            assert!(all.len().abs_diff(100_000) < 2000, "{}", all.len());
            let hungry = all.iter().filter(|arrival| arrival.entry == 1).count();
            assert!(hungry.abs_diff(5000) < 500, "{hungry}");
        }
    }

    #[test]
    fn ordinary_requests_are_due_at_the_same_times_with_and_without_hungry_ones() {
        let mix = mix();
        let shape = shape(Arrivals::Poisson, 0);
        let alone: Vec<_> = Schedule::new(&mix, |entry| !entry.hungry, shape).collect();
        let both = Schedule::new(&mix, |_| true, shape);
        let beside: Vec<_> = both.filter(|arrival| arrival.entry == 0).collect();
        assert_eq!(alone, beside);
    }

    #[test]
    fn a_ramp_sends_half_as_many() {
        let mix = mix();
        let all: Vec<_> = Schedule::new(&mix, |_| true, shape(Arrivals::Constant, 10)).collect();
        assert!(all.len().abs_diff(50_000) < 10, "{}", all.len());
        let half = Duration::from_secs(5);
        let first_half = all.iter().filter(|arrival| arrival.at < half).count();
        assert!(first_half.abs_diff(12_500) < 10, "{first_half}");
    }

    #[test]
    fn poisson_intervals_vary_as_they_should() {
        let mix = mix();
        let shape = shape(Arrivals::Poisson, 0);
        let times: Vec<f64> = Schedule::new(&mix, |entry| !entry.hungry, shape)
            .map(|arrival| arrival.at.as_secs_f64())
            .collect();
        let intervals: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = intervals.iter().sum::<f64>() / intervals.len() as f64;
        let squares = intervals.iter().map(|interval| (interval - mean).powi(2));
        let deviation = (squares.sum::<f64>() / intervals.len() as f64).sqrt();
        // Of an exponential distribution they are the same.
        assert!((deviation / mean - 1.0).abs() < 0.05, "{deviation} {mean}");
    }
}
