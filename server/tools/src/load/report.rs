//! The findings, and whether they are good: the same figures for the summary, the JSON and the page.

use super::edge::Edge;
use super::mix::Entry;
use super::schedule::Arrivals;
use super::tally::{Latencies, Tally};
use super::units;
use super::watch::{Look, ResourceUsage};
use serde::Serialize;
use std::collections::BTreeMap;
use transom_plot::grouped;

/// Points of a curve for each factor of ten in its tail.
const POINTS_PER_DECADE: u32 = 20;

/// All that `--json` says. Times are in microseconds where a name ends in `_us`, else in seconds.
#[derive(Debug, Serialize)]
pub struct LoadReport {
    /// The version of `transom`.
    pub version: &'static str,
    /// Whether the exit status is 0.
    pub fine: bool,
    /// Why it is not.
    pub wrong: Vec<String>,
    /// What else should be known.
    pub notes: Vec<String>,
    /// The server that was loaded.
    pub server: Server,
    /// With what.
    pub load: Workload,
    /// Its memory, if it could be looked at.
    pub memory: Option<MemoryReport>,
    /// Ordinary requests, with and without hungry ones.
    pub ordinary: Comparison,
    /// By kind of request.
    pub kinds: Vec<Kind>,
    /// Where sizes stop fitting, by kind of request that has a range.
    pub edges: Vec<EdgeReport>,
    /// Requests that the server had no room for.
    pub unavailable: Unavailable,
    /// The load tester itself.
    pub generator: Generator,
    /// What happened when.
    pub phases: Vec<Phase>,
    /// Memory and buckets over time.
    pub looks: Vec<Look>,
    /// Latency by class: the percentile curves.
    pub curves: Vec<Curve>,
}

/// The server that was loaded.
#[derive(Debug, Serialize)]
pub struct Server {
    /// The command, if it was started here.
    pub command: Option<Vec<String>>,
    /// Its URL.
    pub target: String,
    /// The processes whose memory was looked at.
    pub pids: Vec<i32>,
    /// Whether it has metrics.
    pub has_metrics: bool,
    /// Bytes of a bucket that a request may allocate.
    pub arena_bytes: Option<u64>,
    /// Bytes that its buckets kept of what requests left, after the last answer.
    pub kept_bytes: Option<u64>,
}

/// With what.
#[derive(Debug, Serialize)]
pub struct Workload {
    /// Requests a second, all kinds together.
    pub rate: f64,
    /// What the server did when it was asked as fast as it answered, ordinary requests only.
    pub capacity: Option<f64>,
    /// How requests follow each other.
    pub arrivals: Arrivals,
    /// Connections.
    pub connections: usize,
    /// How often both phases were run, in turn.
    pub rounds: usize,
    /// The length of one phase.
    pub phase_seconds: f64,
}

/// A server's memory.
#[derive(Debug, Serialize)]
pub struct MemoryReport {
    /// The bytes that it should not pass.
    pub bound_bytes: Option<u64>,
    /// Where it is from: `metrics`, `log` or `--bound`.
    pub bound_from: Option<&'static str>,
    /// What of the bound is for the program itself (`--constant`), if the server has metrics.
    pub constant_bytes: Option<u64>,
    /// What of the bound is outside of the region, if the server has metrics.
    pub process_bytes: Option<u64>,
    /// What was resident outside of the region after the last answer, as the server counts it.
    pub outside_bytes: Option<u64>,
    /// At the first look, before any request.
    pub at_ready: ResourceUsage,
    /// When the measured phases began.
    pub after_warm_up: ResourceUsage,
    /// The largest figures of any look, warm-up included.
    pub most: ResourceUsage,
    /// The largest figures after the warm-up.
    pub most_measured: ResourceUsage,
    /// After the last answer.
    pub at_end: ResourceUsage,
    /// Allocations outside of the region since "ready", as the server counts them.
    pub heap_allocations: Option<u64>,
}

/// Figures of a class of requests in one kind of phase.
#[derive(Debug, Default, Serialize)]
pub struct Side {
    /// Requests that the schedule had.
    pub due: u64,
    /// Answers below 400.
    pub good: u64,
    /// 503s.
    pub unavailable: u64,
    /// Requests that failed in any other way.
    pub failed: u64,
    /// Requests that found all connections busy and the backlog full.
    pub unsent: u64,
    /// Median of the rounds.
    pub p50_us: Option<f64>,
    /// Median of the rounds.
    pub p99_us: Option<f64>,
    /// Median of the rounds.
    pub p999_us: Option<f64>,
}

/// The quantiles of one round, in microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Quantiles {
    /// Half were no slower.
    pub p50_us: f64,
    /// 99 % were no slower.
    pub p99_us: f64,
    /// 99.9 % were no slower.
    pub p999_us: f64,
}

impl Quantiles {
    /// Those of some latencies, if there are any.
    pub fn of(latencies: &Latencies) -> Option<Self> {
        Some(Quantiles {
            p50_us: latencies.quantile(0.5)?,
            p99_us: latencies.quantile(0.99)?,
            p999_us: latencies.quantile(0.999)?,
        })
    }
}

/// How a quantile moved between two phases of one round.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratio {
    /// Of the rounds.
    pub median: f64,
    /// Of the rounds.
    pub least: f64,
    /// Of the rounds.
    pub most: f64,
}

/// Ordinary requests side by side.
#[derive(Debug, Default, Serialize)]
pub struct Comparison {
    /// Without hungry requests.
    pub alone: Side,
    /// Beside hungry ones; absent if the mix has none.
    pub beside: Option<Side>,
    /// Each round's quantiles without hungry requests.
    pub alone_rounds: Vec<Quantiles>,
    /// Each round's quantiles beside hungry ones.
    pub beside_rounds: Vec<Quantiles>,
    /// Beside hungry ones, over alone, round by round.
    pub p50_ratio: Option<Ratio>,
    /// The same.
    pub p99_ratio: Option<Ratio>,
    /// The same.
    pub p999_ratio: Option<Ratio>,
}

/// One kind of request, over all measured phases.
#[derive(Debug, Serialize)]
pub struct Kind {
    /// As in the mix.
    pub request: String,
    /// Of all requests, from 0 to 1.
    pub share: f64,
    /// Whether its failures are its own fault.
    pub hungry: bool,
    /// Answers by status code.
    pub statuses: BTreeMap<u16, u64>,
    /// Answers that said that a bucket was exhausted.
    pub exhausted: u64,
    /// Requests without an answer, by reason.
    pub failures: BTreeMap<&'static str, u64>,
    /// The largest size that was answered well under load.
    pub largest_good: Option<u64>,
    /// The smallest size that got a 500 under load.
    pub smallest_failed: Option<u64>,
    /// All of its latencies.
    pub p50_us: Option<f64>,
    /// The same.
    pub p99_us: Option<f64>,
}

/// Where sizes stop fitting.
#[derive(Debug, Serialize)]
pub struct EdgeReport {
    /// As in the mix.
    pub request: String,
    /// Where.
    #[serde(flatten)]
    pub edge: Edge,
}

/// 503s, and how many there should have been.
#[derive(Debug, Serialize)]
pub struct Unavailable {
    /// In the phases with all kinds of requests.
    pub observed: u64,
    /// Of so many answers.
    pub of: u64,
    /// By Erlang's formula, if the server has metrics.
    pub predicted: Option<Prediction>,
}

/// What Erlang's formula says of buckets without a queue. Requests that wait for a bucket make it an upper
/// bound.
#[derive(Debug, Serialize)]
pub struct Prediction {
    /// Buckets.
    pub buckets: u32,
    /// Of them busy, on average: calls a second times the seconds that each held its bucket.
    pub busy: f64,
    /// The part of requests that find all of them busy.
    pub share: f64,
    /// That, of all requests.
    pub expected: f64,
}

/// The load tester itself.
#[derive(Debug, Serialize)]
pub struct Generator {
    /// From when a request was due to when the generator looked: half of them.
    pub late_p50_us: Option<f64>,
    /// The same for 99 %.
    pub late_p99_us: Option<f64>,
    /// Requests sent again, because the connection had been closed before they reached the server.
    pub resent: u64,
    /// Cores that it used in the measured phases, watching included.
    pub cores: f64,
    /// Cores that the server used in the measured phases.
    pub server_cores: Option<f64>,
}

/// What was going on.
#[derive(Debug, Serialize)]
pub struct Phase {
    /// `warm-up`, `capacity`, `ordinary`, `hungry` or `edge`.
    pub name: &'static str,
    /// Since the load tester began.
    pub from: f64,
    /// The same.
    pub to: f64,
}

/// The latencies of a class of requests.
#[derive(Debug, Serialize)]
pub struct Curve {
    /// Which.
    pub name: &'static str,
    /// Part from 0 to 1, and the latency in microseconds that it did not exceed.
    pub points: Vec<(f64, f64)>,
}

impl Curve {
    /// The curve of some latencies, as far into the tail as there are any.
    pub fn new(name: &'static str, latencies: &Latencies) -> Self {
        let tail = (latencies.count().max(1) as f64).log10();
        let steps = (tail * f64::from(POINTS_PER_DECADE)) as u32;
        let part = |step: u32| 1.0 - 10f64.powf(-f64::from(step) / f64::from(POINTS_PER_DECADE));
        let points =
            (0..=steps).filter_map(|step| Some((part(step), latencies.quantile(part(step))?)));
        Curve {
            name,
            points: points.collect(),
        }
    }
}

impl Kind {
    /// What became of an entry of the mix.
    pub fn new(entry: &Entry, tally: &Tally) -> Self {
        let failures = tally.failures.iter();
        Kind {
            request: entry.to_string(),
            share: entry.share,
            hungry: entry.hungry,
            statuses: tally.statuses.clone(),
            exhausted: tally.exhausted,
            failures: failures
                .map(|(failure, count)| (failure.name(), *count))
                .collect(),
            largest_good: tally.largest_good,
            smallest_failed: tally.smallest_failed,
            p50_us: tally.latencies.quantile(0.5),
            p99_us: tally.latencies.quantile(0.99),
        }
    }
}

impl Side {
    /// Of a class's counts over all rounds, and each round's quantiles.
    pub fn new(tally: &Tally, rounds: &[Quantiles]) -> Self {
        let median = |of: fn(&Quantiles) -> f64| median(rounds.iter().map(of).collect());
        Side {
            due: tally.due,
            good: tally.good(),
            unavailable: tally.status(503),
            failed: tally.failed(),
            unsent: tally.unsent,
            p50_us: median(|round| round.p50_us),
            p99_us: median(|round| round.p99_us),
            p999_us: median(|round| round.p999_us),
        }
    }
}

impl Ratio {
    /// Of the rounds' pairs.
    pub fn of(
        alone: &[Quantiles],
        beside: &[Quantiles],
        what: fn(&Quantiles) -> f64,
    ) -> Option<Self> {
        let pairs = alone.iter().zip(beside);
        let ratios: Vec<f64> = pairs
            .map(|(alone, beside)| what(beside) / what(alone).max(1.0))
            .collect();
        Some(Ratio {
            median: median(ratios.clone())?,
            least: ratios.iter().copied().reduce(f64::min)?,
            most: ratios.iter().copied().reduce(f64::max)?,
        })
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        len if len % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

/// What the operator does not accept, besides what is always wrong.
#[derive(Debug, Clone, Copy)]
pub struct Demands {
    /// The most that p99 of ordinary requests may move, as a factor.
    pub p99: Option<f64>,
    /// The most that memory may grow after the warm-up, in parts of it.
    pub growth: Option<f64>,
}

impl LoadReport {
    /// Finds what is wrong.
    pub fn judge(&mut self, demands: Demands) {
        let mut wrong = Vec::new();
        if let Some(memory) = &self.memory {
            judge_memory(memory, self.server.pids.len(), demands, &mut wrong);
        } else if demands.growth.is_some() {
            wrong
                .push("--growth-limit cannot be judged: there is no process to look at".to_owned());
        }
        self.judge_ordinary(demands, &mut wrong);
        for kind in &self.kinds {
            let lost: u64 = kind.failures.values().sum();
            if kind.hungry && lost > 0 {
                wrong.push(format!("{lost} of {} got no answer at all", kind.request));
            }
            let edge = self.edges.iter().find(|edge| edge.request == kind.request);
            if let Some(Edge::Between { fits, .. }) = edge.map(|edge| &edge.edge)
                && let Some(size) = kind.smallest_failed
                && size <= *fits
            {
                let kept = self.server.kept_bytes.filter(|kept| *kept > 0);
                wrong.push(format!(
                    "{}: {size} got 500 under load, though {fits} fits otherwise{}",
                    kind.request,
                    kept.map_or(String::new(), hint_at_kept)
                ));
            }
        }
        self.wrong.extend(wrong);
        self.fine = self.wrong.is_empty();
    }

    fn judge_ordinary(&self, demands: Demands, wrong: &mut Vec<String>) {
        let Comparison { alone, beside, .. } = &self.ordinary;
        for (side, when) in [
            (Some(alone), "alone"),
            (beside.as_ref(), "beside hungry ones"),
        ] {
            let Some(side) = side else { continue };
            if side.failed > 0 {
                let (failed, due) = (grouped(side.failed), grouped(side.due));
                wrong.push(format!("{failed} of {due} ordinary requests failed {when}"));
            }
            if side.good == 0 {
                wrong.push(format!("no ordinary request was answered well {when}"));
            }
        }
        if let Some(beside) = beside {
            if beside.unsent > 0 && alone.unsent == 0 {
                wrong.push(format!(
                    "{} ordinary requests found all connections busy and the backlog full, but only beside hungry ones",
                    grouped(beside.unsent)
                ));
            }
            // Without a prediction, what happens without hungry requests stands in for it.
            let expected = match &self.unavailable.predicted {
                Some(prediction) => prediction.share * beside.due as f64,
                None => alone.unavailable as f64 / alone.due.max(1) as f64 * beside.due as f64,
            };
            if beside.unavailable as f64 > expected + 3.0 * expected.sqrt() {
                wrong.push(format!(
                    "{} ordinary requests got 503 beside hungry ones, where {expected:.1} were to be expected",
                    grouped(beside.unavailable)
                ));
            }
        }
        if let Some(limit) = demands.p99 {
            match self.ordinary.p99_ratio {
                Some(ratio) if ratio.median > limit => wrong.push(format!(
                    "p99 of ordinary requests moved by {:.2}× beside hungry ones, more than {limit}× (--p99-limit)",
                    ratio.median
                )),
                Some(_) => {}
                None => wrong.push("--p99-limit cannot be judged: there is nothing to compare".to_owned()),
            }
        }
    }
}

fn judge_memory(
    memory: &MemoryReport,
    processes: usize,
    demands: Demands,
    wrong: &mut Vec<String>,
) {
    if let Some(bound) = memory.bound_bytes {
        let high_water = memory
            .most
            .high_water_bytes
            .max(memory.at_end.high_water_bytes);
        let most = memory
            .most
            .rss_bytes
            .max(high_water.saturating_sub(ResourceUsage::high_water_error()));
        if most > bound {
            let hint = match processes {
                1 => hint_at_constant(memory, most, bound),
                _ => None,
            };
            wrong.push(format!(
                "the bound was passed: {} of {}{}",
                units::bytes(most),
                units::bytes(bound),
                hint.unwrap_or_default()
            ));
        }
    }
    if let Some(limit) = demands.growth {
        let (before, most) = (
            memory.after_warm_up.rss_bytes,
            memory.most_measured.rss_bytes,
        );
        if most as f64 > before as f64 * (1.0 + limit) {
            wrong.push(format!(
                "memory grew by {} after the warm-up, more than {:.2} % (--growth-limit)",
                units::change(before, most),
                limit * 100.0
            ));
        }
    }
}

/// Why one bucket may have less room than another: what a bucket keeps may cut its arena in pieces.
fn hint_at_kept(kept: u64) -> String {
    format!(
        " (buckets keep {} of what requests left, and such blocks may lie in the middle of an arena: make what lasts in \
         App::each_thread or App::warm_up; docs/exhaustion.md, \"What is kept in the middle\")",
        units::bytes(kept)
    )
}

/// What to do if the server has given its bound itself, and only the program is larger than the bound says.
/// If it has allocated outside of the region, that may be the cause.
fn hint_at_constant(memory: &MemoryReport, most: u64, bound: u64) -> Option<String> {
    let is_its_own = memory.bound_from.is_some_and(|from| from != "--bound");
    let has_grown = memory.heap_allocations.is_some_and(|n| n > 0);
    if !is_its_own || has_grown && memory.at_ready.rss_bytes <= bound {
        return None;
    }
    // As the server computes it for the WARN at its start. Without metrics only the sums are known.
    let counted = memory.outside_bytes.zip(memory.process_bytes);
    let (outside, process) = counted.unwrap_or((most, bound));
    let enough = transom::constant_for(outside, process, memory.constant_bytes.unwrap_or(0))?;
    let todo = match memory.constant_bytes {
        Some(_) => format!("start it with --constant {enough}"),
        None => format!("raise its --constant by {enough}"),
    };
    Some(format!(
        " (the server's program is larger than its sum says: {todo})"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn latencies(us: &[u64]) -> Latencies {
        let mut latencies = Latencies::new();
        us.iter()
            .for_each(|us| latencies.record(Duration::from_micros(*us)));
        latencies
    }

    #[test]
    fn rounds_are_compared_in_pairs() {
        let round = |p99_us| Quantiles {
            p50_us: 1.0,
            p99_us,
            p999_us: 1.0,
        };
        let alone = [round(100.0), round(200.0), round(400.0)];
        let beside = [round(110.0), round(260.0), round(400.0)];
        let ratio = Ratio::of(&alone, &beside, |round| round.p99_us).expect("three rounds");
        assert!((ratio.median - 1.1).abs() < 1e-9 && (ratio.most - 1.3).abs() < 1e-9);
        assert_eq!(Ratio::of(&[], &[], |round| round.p99_us), None);
        assert_eq!(median(vec![3.0, 1.0]), Some(2.0));
    }

    #[test]
    fn curves_go_as_far_as_there_are_latencies() {
        let curve = Curve::new("x", &latencies(&(1..=1000).collect::<Vec<_>>()));
        let (part, latency) = *curve.points.last().expect("points");
        assert!(
            (part - 0.999).abs() < 1e-6 && (latency - 999.0).abs() < 2.0,
            "{part} {latency}"
        );
        assert!(curve.points.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1));
        assert!(Curve::new("none", &latencies(&[])).points.is_empty());
    }

    fn report() -> LoadReport {
        let memory = |rss_bytes| ResourceUsage {
            rss_bytes,
            ..ResourceUsage::default()
        };
        let side = || Side {
            due: 1000,
            good: 1000,
            ..Side::default()
        };
        LoadReport {
            version: "",
            fine: false,
            wrong: Vec::new(),
            notes: Vec::new(),
            server: Server {
                command: None,
                target: String::new(),
                pids: vec![1],
                has_metrics: true,
                arena_bytes: None,
                kept_bytes: None,
            },
            load: Workload {
                rate: 1000.0,
                capacity: None,
                arrivals: Arrivals::Poisson,
                connections: 1,
                rounds: 1,
                phase_seconds: 1.0,
            },
            memory: Some(MemoryReport {
                bound_bytes: Some(110_000_000),
                bound_from: Some("metrics"),
                constant_bytes: Some(6 << 20),
                process_bytes: Some(10 << 20),
                outside_bytes: Some(20 << 20),
                at_ready: memory(100_000_000),
                after_warm_up: memory(100_000_000),
                most: memory(100_500_000),
                most_measured: memory(100_500_000),
                at_end: memory(100_000_000),
                heap_allocations: Some(0),
            }),
            ordinary: Comparison {
                alone: side(),
                beside: Some(side()),
                p99_ratio: Some(Ratio {
                    median: 1.2,
                    least: 1.0,
                    most: 1.5,
                }),
                ..Comparison::default()
            },
            kinds: vec![Kind {
                request: "GET /{1..9}".to_owned(),
                share: 0.05,
                hungry: true,
                statuses: BTreeMap::from([(500, 10)]),
                exhausted: 10,
                failures: BTreeMap::new(),
                largest_good: Some(4),
                smallest_failed: Some(5),
                p50_us: None,
                p99_us: None,
            }],
            edges: vec![EdgeReport {
                request: "GET /{1..9}".to_owned(),
                edge: Edge::Between {
                    fits: 4,
                    status: 500,
                    exhausted: true,
                    requests: 6,
                },
            }],
            unavailable: Unavailable {
                observed: 0,
                of: 1000,
                predicted: None,
            },
            generator: Generator {
                late_p50_us: None,
                late_p99_us: None,
                resent: 0,
                cores: 0.0,
                server_cores: None,
            },
            phases: Vec::new(),
            looks: Vec::new(),
            curves: Vec::new(),
        }
    }

    const NONE: Demands = Demands {
        p99: None,
        growth: None,
    };

    /// What is wrong with a report that is fine except for this change.
    fn wrong(demands: Demands, change: impl FnOnce(&mut LoadReport)) -> String {
        let mut report = report();
        change(&mut report);
        report.judge(demands);
        assert_eq!(report.fine, report.wrong.is_empty());
        report.wrong.join("; ")
    }

    #[test]
    fn what_is_well_is_fine() {
        assert_eq!(wrong(NONE, |_| {}), "");
        let demands = Demands {
            p99: Some(1.3),
            growth: Some(0.01),
        };
        assert_eq!(wrong(demands, |_| {}), "");
    }

    #[test]
    fn what_is_not_is_told() {
        let memory = |report: &mut LoadReport, rss| {
            if let Some(memory) = &mut report.memory {
                memory.most.rss_bytes = rss;
            }
        };
        assert!(wrong(NONE, |report| memory(report, 110_000_001)).contains("bound was passed"));
        let hint = |change: fn(&mut MemoryReport)| {
            wrong(NONE, |report| {
                memory(report, 120_000_000);
                change(report.memory.as_mut().expect("it is there"));
            })
        };
        // 10 MiB more outside of the region, and one to spare.
        assert!(hint(|_| {}).contains("start it with --constant 17MiB"));
        // From the sums alone: 9.5 MiB more.
        let of_log = hint(|memory| {
            memory.constant_bytes = None;
            memory.outside_bytes = None;
        });
        assert!(of_log.contains("raise its --constant by 11MiB"), "{of_log}");
        let others: [fn(&mut MemoryReport); 2] = [
            |memory| memory.bound_from = Some("--bound"),
            |memory| memory.heap_allocations = Some(1),
        ];
        for other in others {
            assert!(!hint(other).contains("--constant"));
        }
        let two = wrong(NONE, |report| {
            memory(report, 120_000_000);
            report.server.pids.push(2);
        });
        assert!(two.contains("bound was passed") && !two.contains("--constant"));
        let beside = |change: fn(&mut Side)| {
            wrong(NONE, |report| {
                change(report.ordinary.beside.as_mut().expect("it is there"));
            })
        };
        assert!(
            beside(|side| side.failed = 1).contains("1 of 1,000 ordinary requests failed beside")
        );
        assert!(beside(|side| side.unavailable = 1).contains("503"));
        assert!(beside(|side| side.unsent = 1).contains("backlog"));
        assert!(beside(|side| side.good = 0).contains("no ordinary request"));
        let p99 = Demands {
            p99: Some(1.1),
            ..NONE
        };
        assert!(wrong(p99, |_| {}).contains("1.20×"));
        assert!(wrong(p99, |report| report.ordinary.p99_ratio = None).contains("cannot be judged"));
        let growth = Demands {
            growth: Some(0.001),
            ..NONE
        };
        assert!(wrong(growth, |_| {}).contains("+0.50 %"));
        assert!(wrong(growth, |report| report.memory = None).contains("cannot be judged"));
        assert!(
            wrong(NONE, |report| report.kinds[0].smallest_failed = Some(4))
                .contains("4 got 500 under load, though 4 fits otherwise")
        );
        let cut_in_pieces = wrong(NONE, |report| {
            report.kinds[0].smallest_failed = Some(4);
            report.server.kept_bytes = Some(20 << 10);
        });
        assert!(cut_in_pieces.contains("buckets keep 20 KiB of what requests left"));
        let cut = |report: &mut LoadReport| report.kinds[0].failures = BTreeMap::from([("cut", 2)]);
        assert!(wrong(NONE, cut).contains("no answer at all"));
    }

    #[test]
    fn unavailable_requests_are_well_if_they_were_to_be_expected() {
        let predicted = |report: &mut LoadReport, share| {
            report
                .ordinary
                .beside
                .as_mut()
                .expect("it is there")
                .unavailable = 50;
            report.unavailable.predicted = Some(Prediction {
                buckets: 8,
                busy: 5.0,
                share,
                expected: share * 1000.0,
            });
        };
        assert_eq!(wrong(NONE, |report| predicted(report, 0.05)), "");
        assert!(wrong(NONE, |report| predicted(report, 0.001)).contains("1.0 were to be expected"));
    }
}
