//! One run from beginning to end: ready, capacity, warm-up, rounds, edges.

use super::edge::{self, Prober};
use super::engine::{Engine, Limits, PhaseResult, Progress, Source};
use super::findings::{Findings, Usage};
use super::random::Random;
use super::report::{Demands, EdgeReport, LoadReport, Phase, Workload};
use super::rounds::{Rounds, Sum};
use super::schedule::{Schedule, Shape};
use super::server::Target;
use super::settings::{LoadSettings, Rate};
use super::tally::Latencies;
use super::target::Started;
use super::watch::{ResourceUsage, Subject, Watch};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A run, as far as it has come.
struct Run<'s> {
    settings: &'s LoadSettings,
    target: Target,
    engine: Engine<'s>,
    watch: Watch,
    began: Instant,
    phases: Vec<Phase>,
    /// The server answers no more.
    gone: bool,
}

impl<'s> Run<'s> {
    /// Starts to watch the server; nothing is sent yet. `began` is the beginning of time.
    fn new(settings: &'s LoadSettings, target: Target, began: Instant) -> Result<Self, String> {
        let progress = Arc::new(Progress::default());
        let limits = Limits {
            connections: settings.connections as usize,
            backlog: settings.backlog as usize,
            timeout: settings.timeout,
        };
        let (address, host) = (target.address, &target.host);
        let engine = Engine::new(&settings.mix, address, host, limits, progress.clone())
            .map_err(|error| format!("epoll: {error}"))?;
        let subject = Subject {
            pids: target.pids.clone(),
            admin: target.admin.clone(),
            interval: settings.sample_every,
        };
        Ok(Run {
            settings,
            target,
            engine,
            watch: Watch::start(subject, began, progress),
            began,
            phases: Vec::new(),
            gone: false,
        })
    }

    fn phase(
        &mut self,
        name: &'static str,
        length: Duration,
        source: Source<'_>,
    ) -> Result<PhaseResult, String> {
        self.watch.phase(name, length);
        let from = self.began.elapsed().as_secs_f64();
        let outcome = (self.engine.run(source)).map_err(|error| format!("epoll: {error}"))?;
        self.gone |= outcome.gone;
        self.ended(name, from);
        Ok(outcome)
    }

    fn ended(&mut self, name: &'static str, from: f64) {
        let to = self.began.elapsed().as_secs_f64();
        self.phases.push(Phase { name, from, to });
    }

    fn open(
        &self,
        rate: f64,
        hungry: bool,
        ramp: Duration,
        length: Duration,
        seed: u64,
    ) -> Source<'s> {
        let shape = Shape {
            rate,
            arrivals: self.settings.arrivals,
            ramp,
            length,
            seed: self.settings.seed.wrapping_add(seed),
        };
        Source::Open(Schedule::new(
            &self.settings.mix,
            |entry| hungry || !entry.hungry,
            shape,
        ))
    }

    /// Answers a second when a request is sent as soon as another is answered.
    fn capacity(&mut self) -> Result<f64, String> {
        let mix = self.settings.mix.iter().enumerate();
        let length = self.settings.capacity_time;
        let source = Source::Closed {
            entries: mix
                .filter(|(_, entry)| !entry.hungry)
                .map(|(n, _)| n)
                .collect(),
            length,
            random: Random::new(self.settings.seed),
        };
        let outcome = self.phase("capacity", length, source)?;
        let answers: u64 = outcome
            .tallies
            .iter()
            .map(|tally| tally.latencies.count())
            .sum();
        match answers {
            0 => Err(format!(
                "no request was answered in {length:?}, so that --rate as a part of capacity means nothing"
            )),
            answers => Ok(answers as f64 / outcome.took.as_secs_f64()),
        }
    }

    /// Requests a second, and the capacity if that had to be measured for it.
    fn rate(&mut self) -> Result<(f64, Option<f64>), String> {
        match self.settings.rate {
            Rate::PerSecond(rate) => Ok((rate, None)),
            Rate::OfCapacity(part) => {
                let capacity = self.capacity()?;
                Ok((capacity * part, Some(capacity)))
            }
        }
    }

    fn warm_up(&mut self, rate: f64) -> Result<(), String> {
        let ramp = self.settings.ramp;
        let length = ramp + self.settings.warm_up;
        if !length.is_zero() && !self.gone {
            let source = self.open(rate, false, ramp, length, 0);
            self.phase("warm-up", length, source)?;
        }
        Ok(())
    }

    fn measure(
        &mut self,
        name: &'static str,
        rate: f64,
        hungry: bool,
        round: u64,
    ) -> Result<PhaseResult, String> {
        let length = self.settings.phase();
        let source = self.open(rate, hungry, Duration::ZERO, length, round);
        self.phase(name, length, source)
    }

    fn rounds(&mut self, rate: f64) -> Result<Rounds<'s>, String> {
        let settings = self.settings;
        let mix = &settings.mix;
        let mut alone = Sum::new(mix);
        let mut beside = settings.has_hungry().then(|| Sum::new(mix));
        let mut lateness = Latencies::new();
        let this = [std::process::id().cast_signed()];
        let cpu = ResourceUsage::of(&this).map_or(0, |memory| memory.cpu_ms);
        let measuring = Instant::now();
        let (mut held, mut held_in) = (0.0, 0.0);
        for round in 1..=u64::from(settings.rounds) {
            if self.gone {
                break;
            }
            let outcome = self.measure("ordinary", rate, false, round)?;
            lateness.add(&outcome.lateness);
            alone.add(&outcome);
            if let Some(beside) = &mut beside
                && !self.gone
            {
                let before = self.target.metrics_now().calls;
                // The same seed: ordinary requests are due at the same times as before.
                let outcome = self.measure("hungry", rate, true, round)?;
                lateness.add(&outcome.lateness);
                beside.add(&outcome);
                if let Some(((_, before), (_, after))) = before.zip(self.target.metrics_now().calls)
                {
                    held += after - before;
                    held_in += outcome.took.as_secs_f64();
                }
            }
        }
        let took = measuring.elapsed();
        let cpu = ResourceUsage::of(&this).map_or(cpu, |memory| memory.cpu_ms) - cpu;
        Ok(Rounds {
            alone,
            beside,
            lateness,
            took,
            cores: cpu as f64 / 1000.0 / took.as_secs_f64(),
            busy: (held_in > 0.0).then(|| held / held_in),
        })
    }

    /// Looks for the edge of each hungry kind of request that has a range, if the server answers.
    fn edges(&mut self) -> Vec<EdgeReport> {
        if self.gone {
            return Vec::new();
        }
        let settings = self.settings;
        let from = self.began.elapsed().as_secs_f64();
        let mut edges = Vec::new();
        for entry in settings.mix.iter().filter(|entry| entry.hungry) {
            let Some((range, _)) = &entry.range else {
                continue;
            };
            self.watch.phase("edge", settings.timeout);
            let mut prober = Prober {
                entry,
                address: self.target.address,
                host: &self.target.host,
                timeout: settings.timeout,
                stream: None,
            };
            edges.push(EdgeReport {
                request: entry.to_string(),
                edge: edge::find(range, |size| prober.ask(size)),
            });
        }
        self.ended("edge", from);
        edges
    }
}

/// Loads a server.
///
/// # Errors
/// Why it could not be done. What the server did wrong is in the report instead.
pub fn run(settings: &LoadSettings) -> Result<LoadReport, String> {
    let target = Target::new(settings)?;
    let began = Instant::now();
    let at_ready = target.memory()?;
    let mut run = Run::new(settings, target, began)?;
    let (rate, capacity) = run.rate()?;
    run.warm_up(rate)?;

    // A server that has ended is told of in the report.
    let after_warm_up = run.target.memory().ok().flatten();
    let most_before = run.watch.most();
    run.watch.mark();
    let rounds = run.rounds(rate)?;
    let after_rounds = run.target.memory().ok().flatten();
    let edges = run.edges();

    let usage = Usage {
        at_ready,
        after_warm_up,
        after_rounds,
        at_end: run.target.memory().ok().flatten(),
        most_before,
        says: run.target.metrics_now(),
        most_after: run.watch.most(),
    };
    let ended = run.target.started.as_mut().and_then(Started::ended);
    let broken_off = match ended {
        Some(how) => Some(format!("the server has ended: {how}")),
        None => run
            .gone
            .then(|| "the server does not answer any more".to_owned()),
    };
    let findings = Findings {
        workload: Workload {
            rate,
            capacity,
            arrivals: settings.arrivals,
            connections: settings.connections as usize,
            rounds: settings.rounds as usize,
            phase_seconds: settings.phase().as_secs_f64(),
        },
        rounds,
        usage,
        edges,
        phases: run.phases,
        seen: run.watch.stop(),
        broken_off,
    };
    let mut report = findings.report(settings, run.target);
    report.judge(Demands {
        p99: settings.p99_limit,
        growth: settings.growth_limit,
    });
    Ok(report)
}
