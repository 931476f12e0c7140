//! One run from beginning to end: ready, capacity, warm-up, rounds, edges.

use super::edge::{self, Prober};
use super::engine::{Engine, Limits, PhaseResult, Progress, Source};
use super::metrics;
use super::mix::Entry;
use super::random::Random;
use super::report::{
    Comparison, Curve, Demands, EdgeReport, Generator, Kind, LoadReport, MemoryReport, Phase,
    Prediction, Quantiles, Ratio, Server, Side, Unavailable, Workload,
};
use super::schedule::{Schedule, Shape};
use super::settings::{LoadSettings, Rate};
use super::tally::{Latencies, Tally};
use super::target::{PidSetting, Started, Url, who_listens_on};
use super::watch::{ResourceUsage, Seen, ServerMetrics, Subject, Watch};
use crate::admin_client::AdminAddress;
use crate::plan::erlang::erlang_b;
use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the first connection may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// Whom to load, and what is known of it.
#[derive(Debug)]
struct Target {
    started: Option<Started>,
    address: SocketAddr,
    host: String,
    pids: Vec<i32>,
    admin: Option<AdminAddress>,
    /// What it said of itself before it was loaded.
    figures: ServerMetrics,
    bound: Option<(u64, &'static str)>,
    notes: Vec<String>,
}

impl Target {
    fn new(settings: &LoadSettings) -> Result<Self, String> {
        let given = settings.target.as_ref().map(Url::resolve).transpose()?;
        let mut started = None;
        let mut said = Default::default();
        if !settings.command.is_empty() {
            if let Some(address) = given
                && TcpStream::connect_timeout(&address, CONNECT_PATIENCE).is_ok()
            {
                return Err(format!(
                    "--target: somebody listens on {address} already, before the command is started"
                ));
            }
            let log = settings.server_log.as_ref().map(|path| {
                File::create(path)
                    .map_err(|error| format!("--server-log {}: {error}", path.display()))
            });
            let mut server = Started::new(&settings.command, log.transpose()?)?;
            said = server.wait_until_ready(given, settings.start_timeout)?;
            started = Some(server);
        }
        let address = given
            .or(said.listen)
            .ok_or("there is no address: give --target http://HOST:PORT")?;
        TcpStream::connect_timeout(&address, CONNECT_PATIENCE)
            .map_err(|error| format!("nobody accepts connections at {address}: {error}"))?;

        let mut notes = Vec::new();
        let pids = pids(settings, started.as_ref(), address)?;
        let said_admin = said.admin.as_deref().and_then(|text| text.parse().ok());
        let mut admin = settings.admin.clone().or(said_admin);
        let figures = match admin.as_ref().map(metrics::fetch) {
            None => ServerMetrics::default(),
            Some(Ok(metrics)) => ServerMetrics::of(&metrics),
            Some(Err(why)) if settings.admin.is_some() => return Err(format!("--admin: {why}")),
            Some(Err(why)) => {
                notes.push(format!("no metrics: {why}"));
                admin = None;
                ServerMetrics::default()
            }
        };
        let bound = settings.bound.map(|bound| (bound.get() as u64, "--bound"));
        let bound = bound
            .or(figures.bound.map(|bound| (bound as u64, "metrics")))
            .or(said.bound.map(|bound| (bound, "log")));
        Ok(Target {
            started,
            address,
            host: settings
                .target
                .as_ref()
                .map_or_else(|| address.to_string(), |url| url.host.clone()),
            pids,
            admin,
            figures,
            bound,
            notes,
        })
    }

    /// Its memory now; `None` if it is not looked at.
    fn memory(&self) -> Result<Option<ResourceUsage>, String> {
        match self.pids.is_empty() {
            true => Ok(None),
            false => ResourceUsage::of(&self.pids).map(Some),
        }
    }

    /// What it says of itself now.
    fn figures_now(&self) -> ServerMetrics {
        let metrics = self
            .admin
            .as_ref()
            .and_then(|admin| metrics::fetch(admin).ok());
        metrics.map_or(ServerMetrics::default(), |metrics| {
            ServerMetrics::of(&metrics)
        })
    }
}

fn pids(
    settings: &LoadSettings,
    started: Option<&Started>,
    address: SocketAddr,
) -> Result<Vec<i32>, String> {
    let mut pids = Vec::new();
    for pid in &settings.pid {
        match pid {
            PidSetting::Pid(pid) => pids.push(*pid),
            PidSetting::Auto => pids.extend(who_listens_on(address)?),
        }
    }
    if let Some(started) = started
        && settings.pid.is_empty()
    {
        // A wrapper such as `sh -c` may stay between us and the server.
        pids = who_listens_on(address).unwrap_or_else(|_| vec![started.pid()]);
    }
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

/// What one kind of phase has seen, over its rounds.
#[derive(Debug)]
struct Sum {
    /// By entry of the mix.
    tallies: Vec<Tally>,
    /// Each round's quantiles of ordinary requests.
    rounds: Vec<Quantiles>,
}

impl Sum {
    fn new(mix: &[Entry]) -> Self {
        Sum {
            tallies: mix.iter().map(|_| Tally::new()).collect(),
            rounds: Vec::new(),
        }
    }

    fn add(&mut self, mix: &[Entry], outcome: &PhaseResult) {
        for (sum, tally) in self.tallies.iter_mut().zip(&outcome.tallies) {
            sum.add(tally);
        }
        let ordinary = together(mix, &outcome.tallies, false);
        self.rounds.extend(Quantiles::of(&ordinary.latencies));
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

/// A run, as far as it has come.
struct Run<'s> {
    settings: &'s LoadSettings,
    target: Target,
    engine: Engine<'s>,
    watch: Watch,
    began: Instant,
    phases: Vec<Phase>,
    /// Nobody answers any more.
    gone: bool,
}

impl<'s> Run<'s> {
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
}

/// Loads a server.
///
/// # Errors
/// Why it could not be done. What the server did wrong is in the report instead.
pub fn run(settings: &LoadSettings) -> Result<LoadReport, String> {
    let target = Target::new(settings)?;
    let began = Instant::now();
    let at_ready = target.memory()?;
    let progress = Arc::new(Progress::default());
    let limits = Limits {
        connections: settings.connections as usize,
        backlog: settings.backlog as usize,
        timeout: settings.timeout,
    };
    let engine = Engine::new(
        &settings.mix,
        target.address,
        &target.host,
        limits,
        progress.clone(),
    )
    .map_err(|error| format!("epoll: {error}"))?;
    let subject = Subject {
        pids: target.pids.clone(),
        admin: target.admin.clone(),
        interval: settings.sample_every,
    };
    let mut run = Run {
        settings,
        target,
        engine,
        watch: Watch::start(subject, began, progress),
        began,
        phases: Vec::new(),
        gone: false,
    };

    let (rate, capacity) = match settings.rate {
        Rate::PerSecond(rate) => (rate, None),
        Rate::OfCapacity(part) => {
            let capacity = run.capacity()?;
            (capacity * part, Some(capacity))
        }
    };
    let warm_up = settings.ramp + settings.warm_up;
    if !warm_up.is_zero() && !run.gone {
        let source = run.open(rate, false, settings.ramp, warm_up, 0);
        run.phase("warm-up", warm_up, source)?;
    }

    // A server that has ended is told of in the report.
    let after_warm_up = run.target.memory().ok().flatten();
    let most_before = run.watch.most();
    run.watch.mark();
    let measured = measure(&mut run, rate)?;
    let server_cores =
        after_warm_up
            .zip(run.target.memory().ok().flatten())
            .map(|(before, after)| {
                after.cpu_ms.saturating_sub(before.cpu_ms) as f64
                    / 1000.0
                    / measured.took.as_secs_f64()
            });
    let edges = if run.gone {
        Vec::new()
    } else {
        find_edges(&mut run)?
    };

    let at_end = run.target.memory().ok().flatten();
    let heap_allocations = run.target.figures_now().heap_allocations;
    let most_after = run.watch.most();
    let ended = run.target.started.as_mut().and_then(Started::ended);
    let Run {
        target,
        watch,
        phases,
        gone,
        ..
    } = run;
    let seen = watch.stop();

    let memory = at_ready.map(|at_ready| {
        let after_warm_up = after_warm_up.unwrap_or(at_ready);
        let at_end = at_end.unwrap_or(after_warm_up);
        let most_measured = most_after.most(after_warm_up).most(at_end);
        MemoryReport {
            bound_bytes: target.bound.map(|(bound, _)| bound),
            bound_from: target.bound.map(|(_, from)| from),
            constant_bytes: target.figures.constant.map(|constant| constant as u64),
            at_ready,
            after_warm_up,
            most: most_before.most(at_ready).most(most_measured),
            most_measured,
            at_end,
            heap_allocations: heap_allocations.map(|allocations| allocations as u64),
        }
    });
    let load = Workload {
        rate,
        capacity,
        arrivals: settings.arrivals,
        connections: limits.connections,
        rounds: settings.rounds as usize,
        phase_seconds: settings.phase().as_secs_f64(),
    };
    let mut report = assemble(settings, target, load, measured, &seen);
    report.memory = memory;
    report.edges = edges;
    report.phases = phases;
    report.looks = seen.looks;
    report.generator.server_cores = server_cores;
    match ended {
        Some(how) => report.wrong.push(format!("the server has ended: {how}")),
        None if gone => report.wrong.push("nobody answers any more".to_owned()),
        None => {}
    }
    report.judge(Demands {
        p99: settings.p99_limit,
        growth: settings.growth_limit,
    });
    Ok(report)
}

/// What the rounds have seen.
#[derive(Debug)]
struct MeasuredRounds {
    alone: Sum,
    beside: Option<Sum>,
    lateness: Latencies,
    took: Duration,
    cores: f64,
    /// Buckets busy on average beside hungry requests.
    busy: Option<f64>,
}

fn measure(run: &mut Run<'_>, rate: f64) -> Result<MeasuredRounds, String> {
    let settings = run.settings;
    let mix = &settings.mix;
    let mut alone = Sum::new(mix);
    let mut beside = settings.has_hungry().then(|| Sum::new(mix));
    let mut lateness = Latencies::new();
    let this = [std::process::id().cast_signed()];
    let cpu = ResourceUsage::of(&this).map_or(0, |memory| memory.cpu_ms);
    let measuring = Instant::now();
    let (mut held, mut held_in) = (0.0, 0.0);
    for round in 1..=u64::from(settings.rounds) {
        if run.gone {
            break;
        }
        let source = run.open(rate, false, Duration::ZERO, settings.phase(), round);
        let outcome = run.phase("ordinary", settings.phase(), source)?;
        lateness.add(&outcome.lateness);
        alone.add(mix, &outcome);
        if let Some(beside) = &mut beside
            && !run.gone
        {
            let before = run.target.figures_now().calls;
            // The same seed: ordinary requests are due at the same times as before.
            let source = run.open(rate, true, Duration::ZERO, settings.phase(), round);
            let outcome = run.phase("hungry", settings.phase(), source)?;
            lateness.add(&outcome.lateness);
            beside.add(mix, &outcome);
            if let Some(((_, before), (_, after))) = before.zip(run.target.figures_now().calls) {
                held += after - before;
                held_in += outcome.took.as_secs_f64();
            }
        }
    }
    let took = measuring.elapsed();
    let cpu = ResourceUsage::of(&this).map_or(cpu, |memory| memory.cpu_ms) - cpu;
    Ok(MeasuredRounds {
        alone,
        beside,
        lateness,
        took,
        cores: cpu as f64 / 1000.0 / took.as_secs_f64(),
        busy: (held_in > 0.0).then(|| held / held_in),
    })
}

fn find_edges(run: &mut Run<'_>) -> Result<Vec<EdgeReport>, String> {
    let settings = run.settings;
    let from = run.began.elapsed().as_secs_f64();
    let mut edges = Vec::new();
    for entry in settings.mix.iter().filter(|entry| entry.hungry) {
        let Some((range, _)) = &entry.range else {
            continue;
        };
        run.watch.phase("edge", settings.timeout);
        let mut prober = Prober {
            entry,
            address: run.target.address,
            host: &run.target.host,
            timeout: settings.timeout,
            stream: None,
        };
        edges.push(EdgeReport {
            request: entry.to_string(),
            edge: edge::find(range, |size| prober.ask(size)),
        });
    }
    run.ended("edge", from);
    Ok(edges)
}

fn assemble(
    settings: &LoadSettings,
    target: Target,
    load: Workload,
    measured: MeasuredRounds,
    seen: &Seen,
) -> LoadReport {
    let mix = &settings.mix;
    let MeasuredRounds {
        alone,
        beside,
        lateness,
        ..
    } = &measured;
    let mut total = Sum::new(mix);
    let sums = [Some(alone), beside.as_ref()];
    for sum in sums.into_iter().flatten() {
        total
            .tallies
            .iter_mut()
            .zip(&sum.tallies)
            .for_each(|(total, tally)| total.add(tally));
    }
    let ordinary_alone = together(mix, &alone.tallies, false);
    let ordinary_beside = beside
        .as_ref()
        .map(|beside| together(mix, &beside.tallies, false));
    let hungry = beside
        .as_ref()
        .map(|beside| together(mix, &beside.tallies, true));
    let beside_rounds = beside.as_ref().map_or(&[][..], |beside| &beside.rounds);
    let ratio = |of| Ratio::of(&alone.rounds, beside_rounds, of);

    let mut curves = vec![Curve::new("ordinary, alone", &ordinary_alone.latencies)];
    if let (Some(beside), Some(hungry)) = (&ordinary_beside, &hungry) {
        curves.push(Curve::new("ordinary, beside hungry", &beside.latencies));
        curves.push(Curve::new("hungry", &hungry.latencies));
    }
    let in_both = |of: fn(&Tally) -> u64| {
        let with_hungry = beside.as_ref().unwrap_or(alone);
        with_hungry.tallies.iter().map(of).sum::<u64>()
    };
    let of = in_both(|tally| tally.due);
    let buckets = target.figures.buckets.map(|buckets| buckets.total() as u32);
    let predicted = measured.busy.zip(buckets).map(|(busy, buckets)| {
        let share = erlang_b(buckets, busy);
        Prediction {
            buckets,
            busy,
            share,
            expected: share * of as f64,
        }
    });

    let mut notes = target.notes;
    if target.pids.is_empty() {
        notes.push("memory was not looked at: there is no --pid".to_owned());
    } else if let Some(why) = &seen.blind {
        notes.push(format!("memory could not be looked at all the time: {why}"));
    }
    if settings.has_hungry()
        && !mix
            .iter()
            .any(|entry| entry.hungry && entry.range.is_some())
    {
        notes.push(
            "no edge was looked for: no hungry kind of request has a range such as {100..2000}"
                .to_owned(),
        );
    }
    let unsent: u64 = total.tallies.iter().map(|tally| tally.unsent).sum();
    if unsent > 0 {
        notes.push(format!(
            "{unsent} requests were not sent, because all connections were busy and the backlog was full: the rate is more \
             than the server can do, and latencies are better than they would be"
        ));
    }
    LoadReport {
        version: env!("CARGO_PKG_VERSION"),
        fine: false,
        wrong: Vec::new(),
        notes,
        server: Server {
            command: (!settings.command.is_empty()).then(|| settings.command.clone()),
            target: format!("http://{}", target.host),
            pids: target.pids,
            has_metrics: target.admin.is_some(),
            arena_bytes: target.figures.arena.map(|bytes| bytes as u64),
        },
        load,
        memory: None,
        ordinary: Comparison {
            alone: Side::new(&ordinary_alone, &alone.rounds),
            beside: ordinary_beside
                .as_ref()
                .map(|tally| Side::new(tally, beside_rounds)),
            p50_ratio: ratio(|round| round.p50_us),
            p99_ratio: ratio(|round| round.p99_us),
            p999_ratio: ratio(|round| round.p999_us),
            alone_rounds: alone.rounds.clone(),
            beside_rounds: beside_rounds.to_vec(),
        },
        kinds: mix
            .iter()
            .zip(&total.tallies)
            .map(|(entry, tally)| kind(entry, tally))
            .collect(),
        edges: Vec::new(),
        unavailable: Unavailable {
            observed: in_both(|tally| tally.status(503)),
            of,
            predicted,
        },
        generator: Generator {
            late_p50_us: lateness.quantile(0.5),
            late_p99_us: lateness.quantile(0.99),
            resent: total.tallies.iter().map(|tally| tally.resent).sum(),
            cores: measured.cores,
            server_cores: None,
        },
        phases: Vec::new(),
        looks: Vec::new(),
        curves,
    }
}

fn kind(entry: &Entry, tally: &Tally) -> Kind {
    Kind {
        request: entry.to_string(),
        share: entry.share,
        hungry: entry.hungry,
        statuses: tally.statuses.clone(),
        exhausted: tally.exhausted,
        failures: tally
            .failures
            .iter()
            .map(|(failure, count)| (failure.name(), *count))
            .collect(),
        largest_good: tally.largest_good,
        smallest_failed: tally.smallest_failed,
        p50_us: tally.latencies.quantile(0.5),
        p99_us: tally.latencies.quantile(0.99),
    }
}
