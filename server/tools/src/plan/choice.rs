//! Servers that could be started, what each of them would do under a load, and the search for those that meet
//! a target.

use super::erlang::erlang_b;
use super::metrics::{Above, Measurements, ServiceTimes};
use super::queue::{GradeOfService, Queue};
use std::num::NonZeroU32;
use transom::{Plan, PlanError, Settings};
use transom_arena::{BUCKETS_MAX, BucketGeometry, Bytes, GeometryError, PAGE};

/// The part of an arena that allocations cannot have: bumpalo's footer and its rounding.
const ARENA_OVERHEAD: usize = 64;

/// What is asked of a server.
#[derive(Debug, Clone)]
pub struct Demand {
    /// Requests a second.
    pub rate: f64,
    /// For how long each holds a bucket.
    pub times: ServiceTimes,
    /// The share of requests that may fail for want of memory.
    pub target: f64,
    /// Bytes that there are.
    pub memory: Option<usize>,
    /// Requests that can be there at once at most, because the proxy in front has no more connections.
    pub front_connections: Option<u32>,
}

/// A server that could be started. What is not said here is as in [`Planner::base`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    pub buckets: u32,
    pub bucket_size: Bytes,
    /// Slots of a channel, if not the default.
    pub slots: Option<NonZeroU32>,
    pub connections: NonZeroU32,
    /// Requests that are meant to wait at once; `None` if none is meant to, and the target holds without.
    pub queue: Option<u32>,
}

/// How many requests are meant to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    None,
    Places(u32),
    /// As many as there are connections beyond the buckets.
    Connections,
}

impl Waiting {
    /// For how many requests places are asked for.
    #[must_use]
    pub fn places(self) -> u32 {
        match self {
            Waiting::Places(places) => places,
            Waiting::None | Waiting::Connections => 0,
        }
    }
}

/// A configuration with all that is computed of it.
#[derive(Debug, Clone)]
pub struct Evaluation {
    pub configuration: Configuration,
    /// Its memory equation.
    pub plan: Plan,
    /// P(503) if no request waits.
    pub without_queue: f64,
    /// What the queue has: places, and what becomes of requests.
    pub places: u32,
    pub with_queue: GradeOfService,
    /// Requests that outgrow its arena; `None` if that was not measured.
    pub above: Option<Above>,
    /// Whether the target is met.
    pub meets: bool,
    /// Whether there is that much memory.
    pub fits: bool,
}

impl Evaluation {
    /// P(503), with or without a queue, as the target is held against it.
    #[must_use]
    pub fn judged(&self) -> f64 {
        if self.configuration.queue.is_some() {
            self.with_queue.failed()
        } else {
            self.without_queue
        }
    }

    /// Bytes of the whole process.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.plan.bound.total()
    }

    /// Whether it is good enough.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.meets && self.fits
    }
}

/// Compares servers.
#[derive(Debug)]
pub struct Planner<'a> {
    pub demand: Demand,
    pub measured: Option<&'a Measurements>,
    /// All flags, as they were given.
    pub base: &'a Settings,
    /// Whether these were given, and so must hold.
    pub connections_given: bool,
    pub slots_given: bool,
}

impl Planner<'_> {
    /// The configuration with so many buckets; `None` if it takes more connections than may be.
    fn configuration(
        &self,
        buckets: u32,
        bucket_size: Bytes,
        as_many_slots: bool,
        waiting: Waiting,
    ) -> Option<Configuration> {
        let base = self.base.front.connections;
        let queue = match waiting {
            Waiting::None => None,
            Waiting::Places(places) => Some(places),
            Waiting::Connections => Some(base.get().saturating_sub(buckets)),
        };
        let needed = NonZeroU32::new(buckets.checked_add(queue.unwrap_or(0))?)?;
        let connections = if self.connections_given {
            (needed <= base).then_some(base)?
        } else {
            needed.max(base)
        };
        Some(Configuration {
            buckets,
            bucket_size,
            slots: if as_many_slots {
                NonZeroU32::new(buckets)
            } else {
                self.base.channel.slots
            },
            connections,
            queue,
        })
    }

    /// The flags of a configuration, all others as given.
    #[must_use]
    pub fn settings(&self, configuration: &Configuration) -> Settings {
        let mut settings = self.base.clone();
        settings.application.buckets = configuration.buckets;
        settings.application.bucket_size = configuration.bucket_size;
        settings.channel.slots = configuration.slots;
        settings.front.connections = configuration.connections;
        settings
    }

    fn plan(&self, configuration: &Configuration) -> Result<Plan, PlanError> {
        Plan::for_another_machine(&self.settings(configuration))
    }

    /// P(503) without a queue, and with one, at some rate.
    #[must_use]
    pub fn overload(&self, configuration: &Configuration, rate: f64) -> (f64, GradeOfService) {
        let buckets = configuration.buckets;
        let load = rate * self.demand.times.mean;
        if self
            .demand
            .front_connections
            .is_some_and(|front| front <= buckets)
        {
            return (0.0, GradeOfService::default());
        }
        let queue = Queue {
            places: self.places(configuration),
            patience: self.base.front.queue_timeout.as_secs_f64() / self.demand.times.mean,
        };
        let queue = queue.for_variability(self.demand.times.squared_variation);
        (erlang_b(buckets, load), queue.outcome(buckets, load))
    }

    /// Requests that can wait at once: as many as are meant to, or as there are connections for.
    fn places(&self, configuration: &Configuration) -> u32 {
        let all = self
            .demand
            .front_connections
            .map_or(configuration.connections.get(), |front| {
                front.min(configuration.connections.get())
            });
        let beyond = all.saturating_sub(configuration.buckets);
        configuration
            .queue
            .map_or(beyond, |queue| queue.min(beyond))
    }

    fn judged(&self, configuration: &Configuration, rate: f64) -> f64 {
        let (without, with) = self.overload(configuration, rate);
        match configuration.queue {
            Some(_) => with.failed(),
            None => without,
        }
    }

    /// The share of requests that outgrow a bucket, as far as that was measured, and 0 if it was not.
    fn outgrown(&self, above: Option<Above>) -> f64 {
        above.map_or(0.0, |above| above.share())
    }

    fn above(&self, arena: usize) -> Option<Above> {
        let measured = self.measured.filter(|measured| measured.samples() > 0)?;
        Some(measured.above(arena.saturating_sub(ARENA_OVERHEAD)))
    }

    /// The part of the target that is left for a 503, if these buckets are outgrown as measured. If nothing
    /// is: all of it, so that the number of buckets still means something.
    fn left_for_503(&self, target: f64, bucket_size: Bytes) -> Result<f64, PlanError> {
        let geometry = BucketGeometry::new(bucket_size, self.base.application.stack_size)?;
        let left = target - self.outgrown(self.above(geometry.arena_size()));
        Ok(if left > 0.0 { left } else { target })
    }

    /// All that is computed of a configuration.
    ///
    /// # Errors
    /// [`PlanError`], if it cannot be served with.
    pub fn evaluate(&self, configuration: Configuration) -> Result<Evaluation, PlanError> {
        let plan = self.plan(&configuration)?;
        let (without_queue, with_queue) = self.overload(&configuration, self.demand.rate);
        let above = self.above(plan.bucket.arena_size());
        let judged = self.judged(&configuration, self.demand.rate);
        let bytes = plan.bound.total();
        Ok(Evaluation {
            places: self.places(&configuration),
            meets: judged + self.outgrown(above) <= self.demand.target,
            fits: self.demand.memory.is_none_or(|memory| bytes <= memory),
            configuration,
            plan,
            without_queue,
            with_queue,
            above,
        })
    }

    /// A given number of buckets.
    #[must_use]
    pub fn given(&self, buckets: u32, size: Bytes, waiting: Waiting) -> Option<Configuration> {
        self.configuration(buckets, size, false, waiting)
    }

    /// The fewest buckets that meet a target, whatever memory there is; `None` if there can be no such
    /// number.
    ///
    /// # Errors
    /// [`PlanError`], if buckets of that size cannot be.
    pub fn fewest(
        &self,
        bucket_size: Bytes,
        as_many_slots: bool,
        waiting: Waiting,
        target: f64,
    ) -> Result<Option<Configuration>, PlanError> {
        let target = self.left_for_503(target, bucket_size)?;
        let of = |buckets| self.configuration(buckets, bucket_size, as_many_slots, waiting);
        let fewest = first(1, BUCKETS_LIMIT, |buckets| {
            // Beyond what there can be, the search goes back.
            Ok(of(buckets).is_none_or(|c| self.judged(&c, self.demand.rate) <= target))
        })?;
        Ok(fewest.and_then(of))
    }

    /// The most buckets that fit the memory and for which there are connections; `None` if not one does.
    ///
    /// # Errors
    /// [`PlanError`], if buckets of that size cannot be.
    pub fn most(
        &self,
        bucket_size: Bytes,
        waiting: Waiting,
    ) -> Result<Option<Configuration>, PlanError> {
        let Some(memory) = self.demand.memory else {
            return Ok(None);
        };
        let of = |buckets| self.configuration(buckets, bucket_size, false, waiting);
        let too_many = first(2, BUCKETS_LIMIT + 1, |buckets| match of(buckets) {
            Some(c) if buckets <= BUCKETS_LIMIT => Ok(self.plan(&c)?.bound.total() > memory),
            _ => Ok(true),
        })?;
        let most = of(too_many.unwrap_or(BUCKETS_LIMIT + 1) - 1);
        match &most {
            Some(c) if self.plan(c)?.bound.total() > memory => Ok(None),
            _ => Ok(most),
        }
    }

    /// The smallest queue with which so many buckets meet the target; `None` if none is large enough.
    ///
    /// # Errors
    /// [`PlanError`], if buckets of that size cannot be.
    pub fn smallest_queue(
        &self,
        buckets: u32,
        bucket_size: Bytes,
    ) -> Result<Option<Configuration>, PlanError> {
        let target = self.left_for_503(self.demand.target, bucket_size)?;
        let of = |places| self.configuration(buckets, bucket_size, false, Waiting::Places(places));
        let most = self
            .base
            .front
            .connections
            .get()
            .saturating_sub(buckets)
            .max(1);
        let fewest = first(1, most, |places| {
            Ok(of(places).is_none_or(|c| self.judged(&c, self.demand.rate) <= target))
        })?;
        Ok(fewest.and_then(of))
    }

    /// The bucket that at most half of the target outgrows, which leaves the other half for a 503: as large
    /// as what was measured asks for, and as small. What it may keep (`--keep`, by default half of its arena)
    /// is enough for what a bucket was seen to keep. `None` if nothing was measured.
    ///
    /// # Errors
    /// [`PlanError`], if there is no such bucket with this stack.
    pub fn measured_size(&self) -> Result<Option<Bytes>, PlanError> {
        let smallest = |measured: &Measurements| {
            let arena = measured.smallest_arena(self.demand.target / 2.0)?;
            let keep = self.base.application.keep;
            let to_keep = keep.unwrap_or(Bytes(2 * measured.least_keep().get()));
            Some(to_keep.get().max(arena + ARENA_OVERHEAD))
        };
        let Some(arena) = self.measured.and_then(smallest) else {
            return Ok(None);
        };
        let stack = self.base.application.stack_size;
        let least = match BucketGeometry::new(Bytes(0), stack) {
            Err(GeometryError::BucketTooSmall { least, .. }) => least,
            Err(other) => return Err(other.into()),
            Ok(geometry) => Bytes(geometry.bucket_size()),
        };
        let smallest = BucketGeometry::new(least, stack)?;
        let beside = smallest.bucket_size() - smallest.arena_size();
        let wanted = arena.next_multiple_of(PAGE) + beside;
        Ok(Some(Bytes(wanted).max(least)))
    }

    /// The largest rate at which a configuration meets the target, to three digits, rounded down; `None` if
    /// there is none, infinite if every rate does.
    ///
    /// # Errors
    /// [`PlanError`], if buckets of that size cannot be.
    pub fn largest_rate(&self, evaluation: &Evaluation) -> Option<f64> {
        let left = self.demand.target - self.outgrown(evaluation.above);
        if left <= 0.0 {
            return None;
        }
        let configuration = &evaluation.configuration;
        let meets = |rate: f64| self.judged(configuration, rate) <= left;
        let mut high = f64::from(configuration.buckets) / self.demand.times.mean;
        while meets(high) {
            high *= 2.0;
            if high > 1e15 {
                return Some(f64::INFINITY);
            }
        }
        let mut low = 0.0;
        while high - low > 1e-4 * high {
            let middle = f64::midpoint(low, high);
            if meets(middle) {
                low = middle;
            } else {
                high = middle;
            }
        }
        Some(low)
    }
}

/// The most buckets that there can be.
#[expect(clippy::cast_possible_truncation, reason = "16,384")]
pub const BUCKETS_LIMIT: u32 = BUCKETS_MAX as u32;

/// The first number from `low` to `high` for which something holds that then holds for all larger ones.
fn first(
    mut low: u32,
    mut high: u32,
    mut holds: impl FnMut(u32) -> Result<bool, PlanError>,
) -> Result<Option<u32>, PlanError> {
    if !holds(high)? {
        return Ok(None);
    }
    while low < high {
        let middle = low.midpoint(high);
        if holds(middle)? {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Ok(Some(high))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use proptest::prelude::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        settings: Settings,
    }

    fn settings() -> Settings {
        Command::parse_from(["test", "--loops", "1", "--queue-timeout", "50ms"]).settings
    }

    fn planner(base: &Settings, rate: f64, mean: f64, target: f64) -> Planner<'_> {
        Planner {
            demand: Demand {
                rate,
                times: ServiceTimes {
                    mean,
                    squared_variation: 1.0,
                    samples: 0,
                },
                target,
                memory: Some(256 << 20),
                front_connections: None,
            },
            measured: None,
            base,
            connections_given: false,
            slots_given: false,
        }
    }

    const SIZE: Bytes = Bytes::kib(512);

    #[test]
    fn the_first_is_found_wherever_it_is() {
        for sought in 1..=10 {
            assert_eq!(first(1, 10, |n| Ok(n >= sought)).ok(), Some(Some(sought)));
        }
        assert_eq!(first(1, 10, |_| Ok(false)).ok(), Some(None));
    }

    #[test]
    fn with_a_bucket_for_each_connection_in_front_nothing_fails() {
        let base = settings();
        let mut planner = planner(&base, 1e6, 0.1, 1e-4);
        planner.demand.front_connections = Some(32);
        let found = planner.fewest(SIZE, false, Waiting::None, 1e-4);
        let found = found.expect("it adds up").expect("there is one");
        assert_eq!(found.buckets, 32);
        let evaluation = planner.evaluate(found).expect("it adds up");
        assert_eq!((evaluation.judged(), evaluation.places), (0.0, 0));
        assert_eq!(planner.largest_rate(&evaluation), Some(f64::INFINITY));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn one_less_would_be_too_few_and_one_more_too_many(
            load in 0.1f64..200.0, exponent in 1.0f64..6.0, places in 0u32..50,
        ) {
            let base = settings();
            let target = 10f64.powf(-exponent);
            let planner = planner(&base, load / 0.01, 0.01, target);
            let judged = |buckets, waiting| {
                let configuration = planner.given(buckets, SIZE, waiting).expect("connections enough");
                planner.evaluate(configuration).expect("it adds up")
            };
            for waiting in [Waiting::None, Waiting::Places(places)] {
                let fewest = planner.fewest(SIZE, false, waiting, target).expect("it adds up").expect("some");
                prop_assert!(judged(fewest.buckets, waiting).meets);
                prop_assert!(fewest.buckets == 1 || !judged(fewest.buckets - 1, waiting).meets);

                let most = planner.most(SIZE, waiting).expect("it adds up").expect("one at least");
                prop_assert!(judged(most.buckets, waiting).fits);
                prop_assert!(!judged(most.buckets + 1, waiting).fits);

                let evaluation = judged(fewest.buckets, waiting);
                let rate = planner.largest_rate(&evaluation).expect("there is one");
                prop_assert!(planner.judged(&evaluation.configuration, rate) <= target);
                prop_assert!(planner.judged(&evaluation.configuration, rate * 1.001) > target);
                prop_assert!(rate >= planner.demand.rate * 0.999);
            }
        }
    }
}
