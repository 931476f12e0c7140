//! What `transom plan` prints: a page for a reader, or the same numbers as JSON.

use super::alternatives::{Alternative, cheapest, least_memory};
use super::choice::{Evaluation, Planner};
use super::values::{share, size, time};
use serde::Serialize;
use std::fmt;
use transom::snapshot::Addend;
use transom_arena::{Bound, Bytes, Place};

/// All of it. Times are in seconds, sizes in bytes, probabilities are shares of the requests.
#[derive(Debug, Serialize)]
pub struct PlanReport {
    /// Flags to start the server with.
    pub flags: String,
    pub met: bool,
    pub fits: bool,
    pub target: f64,
    pub judged_on: Judged,
    pub memory: MemoryBudget,
    pub load: OfferedLoad,
    pub configuration: PlannedServer,
    pub burst: Option<Burst>,
    pub p500: Option<Outgrown>,
    /// Requests a second; none, if no rate meets the target, or if every rate does.
    pub largest_rate: Option<f64>,
    /// Whether every rate does, because more requests than there are buckets cannot be there.
    pub any_rate: bool,
    pub alternatives: Vec<Row>,
    /// The alternative that meets the target with the least memory, if it is a change for the better.
    pub cheapest: Option<Row>,
    /// If nothing meets the target within the memory: how much would be enough.
    pub memory_needed: Option<usize>,
    pub notes: Vec<String>,
    #[serde(skip)]
    equation: Bound,
}

/// Which P(503) the target is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Judged {
    WithoutQueue,
    WithQueue,
}

#[derive(Debug, Serialize)]
pub struct MemoryBudget {
    pub limit: Option<usize>,
    pub bound: usize,
    pub region: usize,
    pub process: usize,
    pub kernel: usize,
    /// As in `/buckets.json`.
    pub equation: Vec<Addend<&'static str>>,
}

#[derive(Debug, Serialize)]
pub struct OfferedLoad {
    pub rate: f64,
    pub service_seconds: f64,
    pub squared_variation: f64,
    pub service_from: String,
    pub erlangs: f64,
}

/// What a configuration is, and what it does.
#[derive(Debug, Serialize)]
pub struct PlannedServer {
    pub buckets: u32,
    pub bucket_size: usize,
    pub arena_size: usize,
    pub slots: u32,
    pub loops: u32,
    pub connections: u32,
    pub queue_places: u32,
    pub queue_timeout_seconds: f64,
    pub utilisation: f64,
    pub p503_without_queue: f64,
    pub p503_with_queue: f64,
    pub waits: f64,
}

#[derive(Debug, Serialize)]
pub struct Burst {
    pub factor: f64,
    pub rate: f64,
    pub p503_without_queue: f64,
    pub p503_with_queue: f64,
    /// For how long it may last before the queue is full or too slow; none, if the buckets keep up.
    pub absorbed_seconds: Option<f64>,
}

/// Requests that outgrow their bucket.
#[derive(Debug, Serialize)]
pub struct Outgrown {
    pub share: f64,
    /// With 95 % confidence.
    pub at_most: f64,
    pub samples: u64,
    pub outgrown_at_least: u64,
    pub outgrown_at_most: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub what: String,
    pub flags: String,
    pub buckets: u32,
    pub bucket_size: usize,
    pub queue: Option<u32>,
    pub bytes: usize,
    pub p503: f64,
    pub p500: Option<f64>,
    /// The share that waits, if requests may.
    pub waits: f64,
    pub largest_rate: Option<f64>,
    pub meets: bool,
    pub fits: bool,
}

impl Row {
    fn new(planner: &Planner, one: &Alternative, paste: &dyn Fn(&Evaluation) -> String) -> Self {
        let evaluation = &one.evaluation;
        Row {
            what: one.what.clone(),
            flags: paste(evaluation),
            buckets: evaluation.configuration.buckets,
            bucket_size: evaluation.configuration.bucket_size.get(),
            queue: evaluation.configuration.queue,
            bytes: evaluation.bytes(),
            p503: evaluation.judged(),
            p500: evaluation.above.map(|above| above.share()),
            waits: evaluation.with_queue.waited,
            largest_rate: planner
                .largest_rate(evaluation)
                .filter(|rate| rate.is_finite()),
            meets: evaluation.meets,
            fits: evaluation.fits,
        }
    }
}

fn memory(planner: &Planner, bound: &Bound) -> MemoryBudget {
    MemoryBudget {
        limit: planner.demand.memory,
        bound: bound.total(),
        region: bound.bytes_in(Place::Region),
        process: bound.bytes_in(Place::Process),
        kernel: bound.bytes_in(Place::Kernel),
        equation: bound.terms().iter().map(Addend::of).collect(),
    }
}

fn burst(planner: &Planner, this: &Evaluation, factor: f64) -> Burst {
    let rate = planner.demand.rate * factor;
    let (without, with) = planner.overload(&this.configuration, rate);
    let timeout = planner.base.front.queue_timeout.as_secs_f64();
    let buckets = f64::from(this.configuration.buckets);
    let capacity = buckets / planner.demand.times.mean;
    // As a fluid: what comes beyond what the buckets serve fills the idle buckets, then the queue as far as
    // it is served in time.
    let idle = (buckets - planner.demand.rate * planner.demand.times.mean).max(0.0);
    let room = idle + f64::from(this.places).min(timeout * capacity);
    Burst {
        factor,
        rate,
        p503_without_queue: without,
        p503_with_queue: with.failed(),
        absorbed_seconds: (rate > capacity && with.failed() > 0.0)
            .then(|| room / (rate - capacity)),
    }
}

impl PlanReport {
    /// Puts together what was computed. `paste` writes the flags of a configuration, `service_from` says
    /// where times come from.
    pub fn new(
        planner: &Planner,
        this: &Evaluation,
        others: &[Alternative],
        burst_factor: Option<f64>,
        service_from: String,
        notes: Vec<String>,
        paste: &dyn Fn(&Evaluation) -> String,
    ) -> Self {
        let demand = &planner.demand;
        let settings = planner.settings(&this.configuration);
        let erlangs = demand.rate * demand.times.mean;
        let buckets = this.configuration.buckets;
        let rate = planner.largest_rate(this);
        let row = |one: &Alternative| Row::new(planner, one, paste);
        let cheapest = cheapest(this, others).map(row);
        let needed = least_memory(this, others).map(Evaluation::bytes);
        PlanReport {
            flags: paste(this),
            met: this.meets,
            fits: this.fits,
            target: demand.target,
            judged_on: if this.configuration.queue.is_some() {
                Judged::WithQueue
            } else {
                Judged::WithoutQueue
            },
            memory: memory(planner, &this.plan.bound),
            load: OfferedLoad {
                rate: demand.rate,
                service_seconds: demand.times.mean,
                squared_variation: demand.times.squared_variation,
                service_from,
                erlangs,
            },
            configuration: PlannedServer {
                buckets,
                bucket_size: this.plan.bucket.bucket_size(),
                arena_size: this.plan.bucket.arena_size(),
                slots: this.plan.channel.slots,
                loops: this.plan.loops,
                connections: settings.front.connections.get(),
                queue_places: this.places,
                queue_timeout_seconds: settings.front.queue_timeout.as_secs_f64(),
                utilisation: erlangs * (1.0 - this.with_queue.failed()) / f64::from(buckets),
                p503_without_queue: this.without_queue,
                p503_with_queue: this.with_queue.failed(),
                waits: this.with_queue.waited,
            },
            burst: burst_factor.map(|factor| burst(planner, this, factor)),
            p500: this.above.map(|above| Outgrown {
                share: above.share(),
                at_most: above.upper_limit(),
                samples: above.samples,
                outgrown_at_least: above.at_least,
                outgrown_at_most: above.at_most,
            }),
            largest_rate: rate.filter(|rate| rate.is_finite()),
            any_rate: rate.is_some_and(f64::is_infinite),
            alternatives: others.iter().map(row).collect(),
            memory_needed: needed.filter(|_| !this.passes() && cheapest.is_none()),
            cheapest,
            notes,
            equation: this.plan.bound.clone(),
        }
    }

    fn passed(&self) -> bool {
        self.met && self.fits
    }

    fn judged_on(&self) -> &'static str {
        match self.judged_on {
            Judged::WithoutQueue => "without a queue",
            Judged::WithQueue => "with the queue",
        }
    }
}

/// A line of the page: what, and what it is.
fn line(f: &mut fmt::Formatter<'_>, what: &str, is: impl fmt::Display) -> fmt::Result {
    writeln!(f, "{what:<15} {is}")
}

impl fmt::Display for PlanReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.equation)?;
        self.fmt_memory(f)?;
        self.fmt_overload(f)?;
        self.fmt_outgrown(f)?;
        self.fmt_verdict(f)?;
        self.fmt_alternatives(f)?;
        self.fmt_advice(f)
    }
}

impl PlanReport {
    fn fmt_memory(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bound = self.memory.bound;
        let of = match self.memory.limit {
            None => String::new(),
            Some(limit) if bound <= limit => {
                format!(" of {}: {} are left", Bytes(limit), size(limit - bound))
            }
            Some(limit) => format!(" of {}: {} too much", Bytes(limit), size(bound - limit)),
        };
        line(f, "memory", format!("{}{of}", size(bound)))?;
        let (load, now) = (&self.load, &self.configuration);
        line(
            f,
            "offered load",
            format!(
                "{:.2} Erlangs: {} requests/s, which hold a bucket for {} each ({})",
                load.erlangs,
                load.rate,
                time(load.service_seconds),
                load.service_from,
            ),
        )?;
        line(
            f,
            "buckets",
            format!(
                "{} of {}, {:.1} % of them busy on average",
                now.buckets,
                Bytes(now.bucket_size),
                100.0 * now.utilisation
            ),
        )
    }

    fn fmt_overload(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let now = &self.configuration;
        let queue = format!(
            "with {} places and {}",
            now.queue_places,
            time(now.queue_timeout_seconds)
        );
        line(
            f,
            "P(503)",
            format!(
                "{:<9} without a queue (Erlang B: whatever the distribution of times)",
                share(now.p503_without_queue)
            ),
        )?;
        line(
            f,
            "",
            format!(
                "{:<9} {queue} (M/M/N/K with impatience: an estimate); {} wait",
                share(now.p503_with_queue),
                share(now.waits)
            ),
        )?;
        let Some(burst) = &self.burst else {
            return Ok(());
        };
        line(
            f,
            &format!("P(503) at {}x", burst.factor),
            format!(
                "{:<9} without a queue, at {} requests/s",
                share(burst.p503_without_queue),
                burst.rate
            ),
        )?;
        let lasts = burst.absorbed_seconds.map_or(String::new(), |seconds| {
            format!(", once that has lasted {} or so", time(seconds))
        });
        line(
            f,
            "",
            format!(
                "{:<9} {queue} (an estimate){lasts}",
                share(burst.p503_with_queue)
            ),
        )
    }

    fn fmt_outgrown(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arena = Bytes(self.configuration.arena_size);
        let Some(outgrown) = &self.p500 else {
            return line(
                f,
                "P(500)",
                format!(
                    "unknown: how many requests need more than an arena of {arena} was not measured (--from-metrics)"
                ),
            );
        };
        let count = match (outgrown.outgrown_at_least, outgrown.outgrown_at_most) {
            (0, 0) => "none".to_owned(),
            (least, most) if least == most => most.to_string(),
            (least, most) => format!("{least} to {most}"),
        };
        line(
            f,
            "P(500)",
            format!(
                "{:<9} {count} of {} measured requests need more than an arena of {arena}; at most {} with 95 % confidence",
                share(outgrown.share),
                outgrown.samples,
                share(outgrown.at_most),
            ),
        )
    }

    fn fmt_verdict(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.met { "met" } else { "MISSED" };
        let sum = if self.p500.is_some() {
            "P(503) + P(500)"
        } else {
            "P(503)"
        };
        let memory = if self.fits {
            ""
        } else {
            "; but there is not that much memory"
        };
        line(
            f,
            "target",
            format!(
                "{:<9} {verdict} by {sum} {}{memory}",
                share(self.target),
                self.judged_on()
            ),
        )?;
        let rate = match self.largest_rate {
            Some(rate) => format!(
                "{} requests/s meet the target, by buckets alone: whether the CPUs can do as many is not known",
                rounded_down(rate)
            ),
            None if self.any_rate => {
                "any: there are as many buckets as requests can be here at once".to_owned()
            }
            None => "none meets the target: too many requests outgrow these buckets".to_owned(),
        };
        line(f, "largest rate", rate)
    }

    fn fmt_alternatives(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.alternatives.is_empty() {
            return Ok(());
        }
        writeln!(
            f,
            "\n{:<24} {:>7} {:>8} {:>6} {:>10} {:>9} {:>9} {:>9} {:>9}  target",
            "alternatives", "buckets", "of", "queue", "memory", "P(503)", "P(500)", "wait", "rate"
        )?;
        for row in &self.alternatives {
            writeln!(
                f,
                "{:<24} {:>7} {:>8} {:>6} {:>10} {:>9} {:>9} {:>9} {:>9}  {}",
                row.what,
                row.buckets,
                Bytes(row.bucket_size).to_string(),
                row.queue.map_or("-".to_owned(), |queue| queue.to_string()),
                size(row.bytes),
                share(row.p503),
                row.p500.map_or("unknown".to_owned(), share),
                share(row.waits),
                row.largest_rate
                    .map_or("-".to_owned(), |rate| rounded_down(rate).to_string()),
                match (row.meets, row.fits) {
                    (true, true) => "met",
                    (true, false) => "too much memory",
                    (false, _) => "missed",
                }
            )?;
        }
        Ok(())
    }

    fn fmt_advice(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for note in &self.notes {
            writeln!(f, "\nnote: {note}")?;
        }
        writeln!(f)?;
        if self.passed() {
            line(f, "flags", &self.flags)?;
        }
        match (&self.cheapest, self.memory_needed) {
            (Some(row), _) => {
                let heading = if self.passed() {
                    "cheaper"
                } else {
                    "cheapest change"
                };
                let bytes = size(row.bytes);
                line(
                    f,
                    heading,
                    format!("{}, {bytes}; {} wait", row.what, share(row.waits)),
                )?;
                line(f, "", &row.flags)?;
                match row.queue.filter(|_| self.judged_on == Judged::WithoutQueue) {
                    Some(queue) => line(
                        f,
                        "",
                        format!(
                            "and let requests wait, as a server does: plan with --queue {queue}"
                        ),
                    ),
                    None => Ok(()),
                }
            }
            (None, Some(needed)) => line(
                f,
                "cheapest change",
                format!(
                    "more memory: nothing above meets the target in less than --memory {}",
                    Bytes(up_to_mib(needed))
                ),
            ),
            (None, None) if self.passed() => Ok(()),
            (None, None) => line(
                f,
                "cheapest change",
                "none of these meets the target: fewer requests, shorter ones, or requests that need less memory would",
            ),
        }
    }
}

fn up_to_mib(bytes: usize) -> usize {
    bytes.next_multiple_of(1 << 20)
}

/// To three digits, never up: the rate that is printed meets the target.
fn rounded_down(rate: f64) -> f64 {
    #[expect(clippy::cast_possible_truncation, reason = "a rate has a few digits")]
    let digits = 2 - rate.log10().floor() as i32;
    let scale = 10f64.powi(digits.max(0));
    if digits >= 0 {
        (rate * scale).floor() / scale
    } else {
        let step = 10f64.powi(-digits);
        (rate / step).floor() * step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_rounded_down() {
        for (rate, rounded) in [
            (1234.9, 1230.0),
            (999.9, 999.0),
            (12.39, 12.3),
            (0.019_99, 0.0199),
            (56_789.0, 56_700.0),
        ] {
            assert!((rounded_down(rate) / rounded - 1.0).abs() < 1e-12, "{rate}");
        }
    }
}
