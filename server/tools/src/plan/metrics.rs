//! What a server has measured of its requests, from the text of its `/metrics` (docs/metrics.md).

use crate::prometheus::{Sample, number};
use std::collections::BTreeMap;
use transom::ApplicationSettings;
use transom_arena::Bytes;

const MEMORY: &str = "transom_route_memory_bytes";
const MEMORY_MAX: &str = "transom_route_memory_max_bytes";
const SECONDS: &str = "transom_call_seconds";
const ARENA: &str = "transom_arena_size_bytes";
const OUTSIDE: &str = "transom_resident_outside_region_bytes";
const BOUND: &str = "transom_bound_bytes";
const TERM: &str = "transom_bound_term_bytes";
const KEPT_MAX: &str = "transom_kept_max_bytes";
const THREADS_REPLACED: &str = "transom_threads_replaced_total";

/// Measurements of all routes, since the server's start.
#[derive(Debug, Clone, Default)]
pub struct Measurements {
    /// What of a bucket requests had for their allocations, where they were measured.
    pub arena_size: Option<usize>,
    /// The most that a bucket has kept of what its requests have left.
    pub kept_max: usize,
    /// Threads that were ended because their buckets kept more than `--keep`.
    pub threads_replaced: usize,
    /// Bytes of the process in memory outside of its region; 0 if that was not measured.
    pub outside: usize,
    /// What the memory equation has for these.
    pub process: usize,
    /// Its addend for the program itself.
    constant: usize,
    /// The server is an application behind a door: its equation has a term that only such a server has.
    pub is_behind_a_door: bool,
    routes: BTreeMap<String, RouteHistograms>,
}

#[derive(Debug, Clone, Default)]
struct RouteHistograms {
    /// Arena bytes that requests needed.
    memory: Histogram,
    /// The most of these.
    memory_max: Option<f64>,
    /// For how long requests held a bucket.
    seconds: Histogram,
}

/// Counts up to bounds, in the order of the bounds.
#[derive(Debug, Clone, Default)]
struct Histogram {
    /// Upper bound, and how many were at or below it. The last bound is infinite.
    steps: Vec<(f64, u64)>,
    sum: f64,
}

/// For how long requests hold a bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ServiceTimes {
    /// The mean, in seconds.
    pub mean: f64,
    /// The variance in squares of the mean.
    pub squared_variation: f64,
    /// How many were measured.
    pub samples: u64,
}

/// Requests that need more than an arena has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Above {
    /// At least so many: those beyond the next bound of the histogram.
    pub at_least: u64,
    /// At most so many: those beyond the bound before.
    pub at_most: u64,
    /// How many were measured.
    pub samples: u64,
}

#[expect(clippy::cast_precision_loss, reason = "counts and sizes are far below 2^52")]
fn float(n: u64) -> f64 {
    n as f64
}

impl Above {
    /// The share of requests that need more, as far as the histogram can tell: what is in the step in which
    /// the arena's size lies counts as more.
    #[must_use]
    pub fn share(&self) -> f64 {
        float(self.at_most) / float(self.samples.max(1))
    }

    /// What the share is at most, with 95 % confidence: where none was seen, three in so many (the rule of
    /// three), else two standard errors above what was seen.
    #[must_use]
    pub fn upper_limit(&self) -> f64 {
        let (seen, samples) = (float(self.at_most), float(self.samples.max(1)));
        let limit = if self.at_most == 0 {
            3.0 / samples
        } else {
            (seen + 2.0 * seen.sqrt() + 2.0) / samples
        };
        limit.min(1.0)
    }
}

impl Histogram {
    fn samples(&self) -> u64 {
        self.steps.last().map_or(0, |(_, count)| *count)
    }

    /// How many were at or below the largest bound that is not above `value`: surely no more than it.
    fn surely_within(&self, value: f64) -> u64 {
        let within = self.steps.iter().rev().find(|(bound, _)| *bound <= value);
        within.map_or(0, |(_, count)| *count)
    }

    /// How many were at or below the smallest bound that is not below `value`: all that can be.
    fn perhaps_within(&self, value: f64) -> u64 {
        let within = self.steps.iter().find(|(bound, _)| *bound >= value);
        within.map_or(0, |(_, count)| *count)
    }
}

impl Measurements {
    /// Reads the Prometheus text format, of which it needs a few metrics and skips the others.
    ///
    /// # Errors
    /// A sentence with the line, or with the metric that does not add up.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut measured = Measurements::default();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let sample = Sample::read(line)
                .ok_or_else(|| format!("line {number} is no metric: {line:?}"))?;
            measured
                .take(&sample)
                .map_err(|why| format!("line {number}, {}: {why}", sample.name))?;
        }
        for (name, route) in &mut measured.routes {
            for (metric, histogram) in [(MEMORY, &mut route.memory), (SECONDS, &mut route.seconds)]
            {
                histogram.finish().map_err(|why| {
                    format!("{metric} of route {name:?} {why}; was the page saved whole?")
                })?;
            }
        }
        if measured.arena_size.is_none() && measured.routes.is_empty() {
            return Err(format!(
                "there is no {ARENA}, {MEMORY} or {SECONDS}: this is not the /metrics of an application, but of something else"
            ));
        }
        Ok(measured)
    }

    fn take(&mut self, sample: &Sample) -> Result<(), String> {
        match sample.name.as_str() {
            ARENA => self.arena_size = Some(whole(sample.value)?),
            OUTSIDE => self.outside = whole(sample.value)?,
            BOUND if sample.label("place") == Some("process") => {
                self.process = whole(sample.value)?;
            }
            TERM if sample.label("term") == Some("constant") => {
                self.constant = whole(sample.value)?;
            }
            TERM if sample.label("term") == Some("snapshots") => self.is_behind_a_door = true,
            KEPT_MAX => self.kept_max = whole(sample.value)?,
            THREADS_REPLACED => self.threads_replaced = whole(sample.value)?,
            _ => return self.take_of_route(sample),
        }
        Ok(())
    }

    fn take_of_route(&mut self, sample: &Sample) -> Result<(), String> {
        let (metric, suffix) = [MEMORY, SECONDS]
            .iter()
            .find_map(|metric| Some((*metric, sample.name.strip_prefix(metric)?)))
            .unwrap_or((sample.name.as_str(), ""));
        if ![MEMORY, SECONDS, MEMORY_MAX].contains(&metric) {
            return Ok(());
        }
        let route = sample.label("route").ok_or("there is no label route")?;
        let route = self.routes.entry(route.to_owned()).or_default();
        if metric == MEMORY_MAX {
            route.memory_max = Some(sample.value);
            return Ok(());
        }
        let histogram = if metric == MEMORY {
            &mut route.memory
        } else {
            &mut route.seconds
        };
        match suffix {
            "_bucket" => {
                let bound = sample.label("le").ok_or("there is no label le")?;
                let bound = number(bound).ok_or_else(|| format!("le={bound:?} is no number"))?;
                let count = whole(sample.value)?;
                histogram.steps.push((bound, count as u64));
            }
            "_sum" => histogram.sum = sample.value,
            _ => {}
        }
        Ok(())
    }

    /// How many requests have been measured for their memory.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.routes
            .values()
            .map(|route| route.memory.samples())
            .sum()
    }

    /// How many requests need more than `arena` bytes.
    #[must_use]
    pub fn above(&self, arena: usize) -> Above {
        let arena = float(arena as u64);
        let mut above = Above {
            at_least: 0,
            at_most: 0,
            samples: self.samples(),
        };
        for route in self.routes.values() {
            let samples = route.memory.samples();
            if route.memory_max.is_some_and(|most| most <= arena) {
                continue; // Whatever the histogram's steps are: none does.
            }
            above.at_most += samples - route.memory.surely_within(arena);
            above.at_least += samples - route.memory.perhaps_within(arena);
        }
        above
    }

    /// The most that a request has needed, and its route.
    #[must_use]
    pub fn largest(&self) -> Option<(usize, &str)> {
        let routes = self.routes.iter();
        let most = routes.filter_map(|(name, route)| Some((route.memory_max?, name.as_str())));
        let (most, name) = most.max_by(|one, other| one.0.total_cmp(&other.0))?;
        Some((whole(most).ok()?, name))
    }

    /// The smallest arena that at most this share of requests outgrows, to a page; at most what the largest
    /// has needed. `None` if nothing has been measured, or if it was not said what the largest was.
    #[must_use]
    pub fn smallest_arena(&self, share: f64) -> Option<usize> {
        if self.samples() == 0 {
            return None;
        }
        let bounds = self.routes.values().flat_map(|route| &route.memory.steps);
        let mut sizes: Vec<usize> = bounds.filter_map(|(bound, _)| whole(*bound).ok()).collect();
        sizes.extend(self.largest().map(|(most, _)| most));
        sizes.sort_unstable();
        sizes.dedup();
        sizes
            .into_iter()
            .find(|size| self.above(*size).share() <= share)
    }

    /// What `--keep` must be at least for what a bucket was seen to keep.
    #[must_use]
    pub fn least_keep(&self) -> Bytes {
        ApplicationSettings::least_keep(self.kept_max)
    }

    /// The `--constant` that the server has, or a larger one if it has more in memory than its sum says; 0 if
    /// it does not say its sum. Behind a door there is memory of its clients in it, which is no part of its
    /// sum: that tells nothing.
    #[must_use]
    pub fn constant(&self) -> Bytes {
        let [outside, process, constant] =
            [self.outside, self.process, self.constant].map(|n| n as u64);
        let larger = transom::constant_for(outside, process, constant)
            .filter(|_| constant > 0 && !self.is_behind_a_door);
        larger.unwrap_or(Bytes(self.constant))
    }

    /// For how long requests of all routes hold a bucket. The mean is exact; the variation takes each step's
    /// middle. `None` if no request has been measured.
    #[must_use]
    pub fn times(&self) -> Option<ServiceTimes> {
        let routes = || self.routes.values().map(|route| &route.seconds);
        let samples: u64 = routes().map(Histogram::samples).sum();
        let sum: f64 = routes().map(|times| times.sum).sum();
        if samples == 0 || sum <= 0.0 {
            return None;
        }
        let mean = sum / float(samples);
        let (mut first, mut second) = (0.0, 0.0);
        for times in routes() {
            let (mut low, mut counted) = (0.0, 0);
            for &(bound, count) in &times.steps {
                let middle = match (low, bound) {
                    (low, bound) if bound.is_infinite() => low,
                    (0.0, bound) => bound / 2.0,
                    (low, bound) => f64::sqrt(low * bound),
                };
                let here = float(count - counted);
                first += here * middle;
                second += here * middle * middle;
                (low, counted) = (bound, count);
            }
        }
        // The shape is the histogram's, so it is compared with the histogram's own mean.
        let own_mean = first / float(samples);
        Some(ServiceTimes {
            mean,
            squared_variation: (second / float(samples) / own_mean.powi(2) - 1.0).max(0.0),
            samples,
        })
    }
}

impl Histogram {
    /// Puts the steps in order, and looks whether they can be the steps of a histogram.
    fn finish(&mut self) -> Result<(), &'static str> {
        self.steps.sort_by(|one, other| one.0.total_cmp(&other.0));
        let Some((last, _)) = self.steps.last() else {
            return Ok(());
        };
        if !last.is_infinite() {
            return Err("has no bucket le=\"+Inf\"");
        }
        if self.steps.windows(2).any(|pair| pair[0].1 > pair[1].1) {
            return Err("counts less up to a larger bound");
        }
        if self.steps.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err("has the same bound twice");
        }
        if !self.sum.is_finite() || self.sum < 0.0 {
            return Err("has a sum that is no number of bytes or seconds");
        }
        Ok(())
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
fn whole(value: f64) -> Result<usize, String> {
    if value >= 0.0 && value < (1u64 << 52) as f64 {
        Ok(value.ceil() as usize)
    } else {
        Err(format!("{value} is no count or size"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"
# HELP transom_arena_size_bytes what
# TYPE transom_arena_size_bytes gauge
transom_arena_size_bytes 348096
transom_calls_total 1000
transom_route_memory_bytes_bucket{route="/{kib}",le="1024"} 100
transom_route_memory_bytes_bucket{route="/{kib}",le="2048"} 900
transom_route_memory_bytes_bucket{route="/{kib}",le="4096"} 998
transom_route_memory_bytes_bucket{route="/{kib}",le="+Inf"} 1000
transom_route_memory_bytes_sum{route="/{kib}"} 2.5e6
transom_route_memory_bytes_count{route="/{kib}"} 1000
transom_route_memory_max_bytes{route="/{kib}"} 100000
transom_route_memory_bytes_bucket{route="a \"quoted\" } one",le="1024"} 10
transom_route_memory_bytes_bucket{le="+Inf",route="a \"quoted\" } one"} 10
transom_route_memory_max_bytes{route="a \"quoted\" } one"} 900
transom_call_seconds_bucket{route="/{kib}",le="0.001"} 0 1700000000000
transom_call_seconds_bucket{route="/{kib}",le="0.002"} 500
transom_call_seconds_bucket{route="/{kib}",le="+Inf"} 500
transom_call_seconds_sum{route="/{kib}"} 0.75
"#;

    fn measured() -> Measurements {
        Measurements::read(PAGE).expect("a page of metrics")
    }

    #[test]
    fn what_is_above_is_bounded_by_the_steps_of_the_histogram() {
        let measured = measured();
        assert_eq!(measured.arena_size, Some(348_096));
        assert_eq!(measured.samples(), 1010);
        let above = |arena| {
            let above = measured.above(arena);
            (above.at_least, above.at_most)
        };
        assert_eq!(above(2048), (100, 100), "at a bound it is known");
        assert_eq!(above(3000), (2, 100), "between two bounds it is not");
        assert_eq!(above(5000), (0, 2));
        assert_eq!(above(100_000), (0, 0), "the largest is known exactly");
        assert_eq!(above(100), (900, 1010));
        assert_eq!(measured.largest(), Some((100_000, "/{kib}")));
    }

    #[test]
    fn an_arena_is_as_small_as_the_share_allows() {
        let measured = measured();
        assert_eq!(measured.smallest_arena(0.2), Some(2048));
        assert_eq!(measured.smallest_arena(2.0 / 1010.0), Some(4096));
        assert_eq!(measured.smallest_arena(1e-6), Some(100_000));
        assert_eq!(Measurements::default().smallest_arena(0.5), None);
    }

    #[test]
    fn where_none_was_seen_three_in_so_many_are_possible() {
        let none = measured().above(100_000);
        assert_eq!(none.share(), 0.0);
        assert!((none.upper_limit() - 3.0 / 1010.0).abs() < 1e-12);
        let some = measured().above(2048);
        assert!(some.upper_limit() > some.share() && some.upper_limit() < 0.13);
    }

    #[test]
    fn times_have_the_mean_of_the_sum_and_the_shape_of_the_steps() {
        let times = measured().times().expect("500 of them");
        assert!((times.mean - 0.0015).abs() < 1e-12);
        assert_eq!(times.samples, 500);
        assert!(times.squared_variation < 1e-9, "all are in one step");
        // Times 0.1 and 10 in equal numbers, in steps around them.
        let text = "transom_call_seconds_bucket{route=\"/\",le=\"0.08\"} 0\n\
                    transom_call_seconds_bucket{route=\"/\",le=\"0.125\"} 50\n\
                    transom_call_seconds_bucket{route=\"/\",le=\"8\"} 50\n\
                    transom_call_seconds_bucket{route=\"/\",le=\"12.5\"} 100\n\
                    transom_call_seconds_bucket{route=\"/\",le=\"+Inf\"} 100\n\
                    transom_call_seconds_sum{route=\"/\"} 505";
        let times = Measurements::read(text)
            .expect("it is right")
            .times()
            .expect("100");
        assert!(
            (times.squared_variation - 0.9606).abs() < 0.001,
            "{times:?}"
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let bucket = |le: &str, n: u32| {
            format!("transom_call_seconds_bucket{{route=\"/\",le=\"{le}\"}} {n}\n")
        };
        for (text, part) in [
            ("<html>\n".to_owned(), "line 1"),
            (
                "process_resident_memory_bytes 5\n".to_owned(),
                "not the /metrics",
            ),
            (String::new(), "not the /metrics"),
            ("\ntransom_arena_size_bytes -5\n".to_owned(), "line 2"),
            ("transom_arena_size_bytes\n".to_owned(), "line 1"),
            (
                "transom_call_seconds_bucket{le=\"1\"} 5\n".to_owned(),
                "label route",
            ),
            (
                "transom_call_seconds_bucket{route=\"/\"} 5\n".to_owned(),
                "label le",
            ),
            (
                "transom_call_seconds_bucket{route=\"/} 5\n".to_owned(),
                "line 1",
            ),
            (bucket("1", 5), "+Inf"),
            (bucket("1", 5) + &bucket("+Inf", 4), "counts less"),
            (
                bucket("1", 5) + &bucket("1", 5) + &bucket("+Inf", 5),
                "twice",
            ),
            (bucket("one", 5), "is no number"),
        ] {
            let why = Measurements::read(&text).expect_err(part);
            assert!(why.contains(part), "{text:?}: {why}");
        }
    }
}
