//! What a run has found, and the report made of it.

use super::report::{
    EdgeReport, Generator, Kind, LoadReport, MemoryReport, Phase, Server, Workload,
};
use super::rounds::Rounds;
use super::server::Target;
use super::settings::LoadSettings;
use super::tally::Tally;
use super::watch::{ResourceUsage, Seen, ServerMetrics};
use std::time::Duration;

/// What the server's processes used, and when; `None` where they could not be looked at.
#[derive(Debug)]
pub struct Usage {
    /// Before any request.
    pub at_ready: Option<ResourceUsage>,
    /// When the rounds began.
    pub after_warm_up: Option<ResourceUsage>,
    /// When they were over.
    pub after_rounds: Option<ResourceUsage>,
    /// After the last answer.
    pub at_end: Option<ResourceUsage>,
    /// The most in any look until the rounds began.
    pub most_before: ResourceUsage,
    /// The most since then.
    pub most_after: ResourceUsage,
    /// What it said of itself after the last answer.
    pub says: ServerMetrics,
}

impl Usage {
    fn report(&self, target: &Target) -> Option<MemoryReport> {
        let at_ready = self.at_ready?;
        let after_warm_up = self.after_warm_up.unwrap_or(at_ready);
        let at_end = self.at_end.unwrap_or(after_warm_up);
        let most_measured = self.most_after.most(after_warm_up).most(at_end);
        let count = |figure: f64| figure as u64;
        Some(MemoryReport {
            bound_bytes: target.bound.map(|(bound, _)| bound),
            bound_from: target.bound.map(|(_, from)| from),
            constant_bytes: target.metrics.constant.map(count),
            at_ready,
            after_warm_up,
            most: self.most_before.most(at_ready).most(most_measured),
            most_measured,
            at_end,
            process_bytes: self.says.process.map(count),
            outside_bytes: self.says.outside.map(count),
            heap_allocations: self.says.heap_allocations.map(count),
        })
    }

    /// Cores that the server used in the rounds, which took so long.
    fn cores(&self, took: Duration) -> Option<f64> {
        let (before, after) = self.after_warm_up.zip(self.after_rounds)?;
        let cpu_ms = after.cpu_ms.saturating_sub(before.cpu_ms);
        Some(cpu_ms as f64 / 1000.0 / took.as_secs_f64())
    }
}

/// All that a run has found.
#[derive(Debug)]
pub struct Findings<'m> {
    /// With what the server was loaded.
    pub workload: Workload,
    /// What came back.
    pub rounds: Rounds<'m>,
    /// What the server used.
    pub usage: Usage,
    /// Where sizes stop fitting.
    pub edges: Vec<EdgeReport>,
    /// What happened when.
    pub phases: Vec<Phase>,
    /// What was seen from the side.
    pub seen: Seen,
    /// Why the server could not be loaded to the end.
    pub broken_off: Option<String>,
}

impl Findings<'_> {
    /// All of it, not judged yet.
    pub fn report(self, settings: &LoadSettings, target: Target) -> LoadReport {
        let total = self.rounds.total();
        let buckets = target.metrics.buckets.map(|it| it.total() as u32);
        LoadReport {
            version: env!("CARGO_PKG_VERSION"),
            fine: false,
            notes: self.notes(settings, &target, &total),
            memory: self.usage.report(&target),
            ordinary: self.rounds.comparison(),
            kinds: (settings.mix.iter().zip(&total))
                .map(|(entry, tally)| Kind::new(entry, tally))
                .collect(),
            unavailable: self.rounds.unavailable(buckets),
            generator: self.generator(&total),
            curves: self.rounds.curves(),
            server: Server {
                command: (!settings.command.is_empty()).then(|| settings.command.clone()),
                target: format!("http://{}", target.host),
                pids: target.pids,
                has_metrics: target.admin.is_some(),
                arena_bytes: target.metrics.arena.map(|bytes| bytes as u64),
                kept_bytes: self.usage.says.kept.map(|bytes| bytes as u64),
            },
            wrong: self.broken_off.into_iter().collect(),
            load: self.workload,
            edges: self.edges,
            phases: self.phases,
            looks: self.seen.looks,
        }
    }

    fn generator(&self, total: &[Tally]) -> Generator {
        Generator {
            late_p50_us: self.rounds.lateness.quantile(0.5),
            late_p99_us: self.rounds.lateness.quantile(0.99),
            resent: total.iter().map(|tally| tally.resent).sum(),
            cores: self.rounds.cores,
            server_cores: self.usage.cores(self.rounds.took),
        }
    }

    /// What should be known, beyond figures.
    fn notes(&self, settings: &LoadSettings, target: &Target, total: &[Tally]) -> Vec<String> {
        let mut notes = target.notes.clone();
        if target.pids.is_empty() {
            notes.push("memory was not looked at: there is no --pid".to_owned());
        } else if let Some(why) = &self.seen.blind {
            notes.push(format!("memory could not be looked at all the time: {why}"));
        }
        let mut mix = settings.mix.iter();
        if settings.has_hungry() && !mix.any(|entry| entry.hungry && entry.range.is_some()) {
            notes.push(
                "no edge was looked for: no hungry kind of request has a range such as {100..2000}"
                    .to_owned(),
            );
        }
        let unsent: u64 = total.iter().map(|tally| tally.unsent).sum();
        if unsent > 0 {
            notes.push(format!(
                "{unsent} requests were not sent, because all connections were busy and the backlog was full: the rate is more \
                 than the server can do, and latencies are better than they would be"
            ));
        }
        notes
    }
}
