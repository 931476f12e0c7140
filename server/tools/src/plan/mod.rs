//! `transom plan`: computes flags from memory, rate and latency, and says what they will and will not hold.
//!
//! The memory equation is the server's own ([`transom::Plan`]). [`erlang`] and [`queue`] compute how many
//! requests find no bucket; what a server has measured ([`metrics`]) tells how many outgrow theirs;
//! [`choice`] searches, and [`report`] prints.

mod alternatives;
mod choice;
pub mod erlang;
mod fetch;
mod metrics;
mod notes;
mod queue;
mod report;
#[cfg(test)]
mod simulation;
mod values;

use self::alternatives::alternatives;
use self::choice::{BUCKETS_LIMIT, Configuration, Demand, Evaluation, Planner, Waiting};
use self::metrics::{Measurements, ServiceTimes};
use self::report::PlanReport;
use self::values::{parse_factor, parse_rate, parse_share, parse_time};
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args, Command};
use std::num::NonZeroU32;
use std::process::ExitCode;
use std::time::Duration;
use transom::{PlanError, Settings};
use transom_arena::Bytes;

/// Exit status of a plan that does not hold, and of one that cannot be made.
const MISSED: u8 = 1;
const BAD_USAGE: u8 = 2;

/// The flags of `transom plan`.
#[derive(Debug, Args)]
pub struct PlanFlags {
    /// Memory that there is for the process, with what the kernel holds for it: the limit of its cgroup
    /// [default: no limit]
    #[arg(long, value_name = "SIZE", help_heading = "Plan")]
    memory: Option<Bytes>,

    /// Requests a second
    #[arg(long, value_name = "N", value_parser = parse_rate, help_heading = "Plan")]
    rate: Option<f64>,

    /// For how long a request holds a bucket, on average: the time of its handler, whatever it waits for
    /// included [default: as measured, with --from-metrics]
    #[arg(long, value_name = "TIME", value_parser = parse_time, help_heading = "Plan")]
    latency: Option<Duration>,

    /// For how long at least the slowest 1 % do. It says how much these times vary, which matters for the
    /// queue only: they are taken to be log-normal [default: exponential times, whose p99 is 4.6 times the
    /// mean]
    #[arg(long, value_name = "TIME", value_parser = parse_time, requires = "latency", help_heading = "Plan")]
    p99: Option<Duration>,

    /// How many times --rate a burst has. It is reported, and the target is not held against it
    #[arg(long, value_name = "FACTOR", value_parser = parse_factor, help_heading = "Plan")]
    burst: Option<f64>,

    /// Requests that are meant to wait for a bucket at once, in slots or as connections left unread, for
    /// --queue-timeout at most. The target is then held against P(503) with this queue; without the flag,
    /// against that without any
    ///
    /// The server has no such limit of its own: as many can wait as there are --connections beyond the
    /// buckets, and that is what P(503) with a queue is reported for if the flag is not given. So a plan with
    /// fewer places is on the safe side.
    #[arg(long, value_name = "N", help_heading = "Plan")]
    queue: Option<u32>,

    /// The share of requests that may fail for want of memory: P(503), and P(500) where that was measured
    #[arg(long, value_name = "SHARE", value_parser = parse_share, default_value = "1e-4", help_heading = "Plan")]
    target: f64,

    /// Connections that a proxy in front has to this server at most. Each carries one request at a time, so
    /// no more can be here at once; --connections is set to it if it is not given
    ///
    /// With as many buckets nothing is refused. With fewer, a request for which the proxy has no connection
    /// left counts as one that got a 503, although it may wait there.
    #[arg(long, value_name = "N", value_parser = transom::parse_count::<NonZeroU32>, help_heading = "Plan")]
    front_connections: Option<NonZeroU32>,

    /// What a server has measured: http://ADDRESS:PORT/metrics or unix:SOCKET of its --admin, or a file with
    /// that page
    ///
    /// It says how many requests outgrow a bucket of some size, for how long they hold one, what buckets
    /// keep, and what the program itself takes (--constant). Without --bucket-size, buckets become as large
    /// as half of the target allows, so that the other half is left for a 503, and as --keep takes (by
    /// default half of the arena).
    #[arg(long, value_name = "URL|FILE", help_heading = "Plan")]
    from_metrics: Option<String>,

    /// Print the numbers as JSON
    #[arg(long, help_heading = "Plan")]
    json: bool,

    /// All flags of an application.
    #[command(flatten)]
    settings: Settings,
}

/// What stands below the flags in `transom plan --help`.
pub const AFTER_HELP: &str = "\
--buckets and --bucket-size evaluate a given server; without --buckets, the fewest that meet the target are found.

P(503) without a queue is Erlang B: the share of requests that find all buckets busy. It holds for any distribution of the times
for which requests hold a bucket, if they come independently of each other (a Poisson process). P(503) with a queue is M/M/N/K
with impatience, exact for exponential times and one queue in order; for others, waits and queues are taken to be
(1 + c²)/2 times as long, with c² the variance of the times in squares of their mean (Allen and Cunneen): an estimate. Both
are of a load that stays; a burst is taken to stay, too.

P(500) is the share of measured requests that need more than an arena; it knows nothing of stacks, nor of requests that were not
sent yet.

The exit status is 0 if the target is met within the memory, 1 if it is not or the plan cannot be written, 2 if there is nothing to compute.";

/// Prints the plan. `line` is what the command line of `transom plan` was parsed to.
pub fn run(flags: &PlanFlags, line: &ArgMatches) -> ExitCode {
    let report = match plan(flags, line) {
        Ok(report) => report,
        Err(why) => {
            eprintln!("error: {why}");
            return ExitCode::from(BAD_USAGE);
        }
    };
    let text = if flags.json {
        serde_json::to_string_pretty(&report).expect("numbers and texts") + "\n"
    } else {
        report.to_string()
    };
    let printed = transom::print_asked(format_args!("{text}"));
    if printed != ExitCode::SUCCESS {
        return printed;
    }
    if report.met && report.fits {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(MISSED)
    }
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
enum NoPlan {
    #[error(transparent)]
    Settings(#[from] PlanError),
    #[error("{0}")]
    Usage(String),
    #[error("--from-metrics {0}")]
    Metrics(String),
}

/// Whether a flag was given, and is not what it is by default.
fn is_given(line: &ArgMatches, id: &str) -> bool {
    let source = line.value_source(id);
    source.is_some_and(|source| source != ValueSource::DefaultValue)
}

fn plan(flags: &PlanFlags, line: &ArgMatches) -> Result<PlanReport, NoPlan> {
    let measured = measurements(flags, line)?;
    let measured = measured.as_ref();
    let rate = flags.rate.ok_or_else(|| {
        NoPlan::Usage(
            "--rate is missing: say how many requests a second there will be, as in --rate 2000 (one page of metrics cannot tell)"
                .to_owned(),
        )
    })?;
    let (times, service_from) = times(flags, measured)?;
    let base = Base::new(flags, line, measured)?;
    // What they mean together is checked first, as at the start of a server.
    let here = transom::Plan::for_another_machine(&base.settings)?;
    let planner = Planner {
        demand: Demand {
            rate,
            times,
            target: flags.target,
            memory: flags.memory.map(Bytes::get),
            front_connections: flags.front_connections.map(NonZeroU32::get),
        },
        measured,
        base: &base.settings,
        connections_given: base.connections_given,
        slots_given: is_given(line, "slots"),
    };

    let measured_size = planner.measured_size()?;
    let bucket_size = match measured_size {
        Some(size) if !is_given(line, "bucket_size") => size,
        _ => base.settings.application.bucket_size,
    };
    let waiting = flags.queue.map_or(Waiting::None, Waiting::Places);
    let configuration = choose(&planner, is_given(line, "buckets"), bucket_size, waiting)?;
    let this = planner.evaluate(configuration)?;
    let others = alternatives(&planner, &this, measured_size)?;

    let paste = |evaluation: &Evaluation| paste(&planner, &base.kept, &evaluation.configuration);
    let mut notes = Vec::from_iter(base.note);
    notes.extend(notes::of(&this, &planner, here.loops));
    Ok(PlanReport::new(
        &planner,
        &this,
        &others,
        flags.burst,
        service_from,
        notes,
        &paste,
    ))
}

/// What a server has measured, if it is asked, and of such a server as is planned.
fn measurements(flags: &PlanFlags, line: &ArgMatches) -> Result<Option<Measurements>, NoPlan> {
    let Some(source) = &flags.from_metrics else {
        return Ok(None);
    };
    let text = fetch::read(source).map_err(NoPlan::Metrics)?;
    let measured =
        Measurements::read(&text).map_err(|why| NoPlan::Metrics(format!("{source}: {why}")))?;
    let is_door_planned = flags.settings.door.door.is_some();
    if measured.is_behind_a_door && !is_door_planned && !is_given(line, "listen") {
        return Err(NoPlan::Metrics(format!(
            "{source}: this was measured in an application behind a door, which has no connections of its own: give --door PATH to \
             plan that, or --listen ADDRESS to plan a server with its own front end"
        )));
    }
    Ok(Some(measured))
}

/// What every configuration starts from.
struct Base {
    settings: Settings,
    /// What was given of it, but for what a configuration says itself.
    kept: Vec<String>,
    /// Whether the connections must be so many.
    connections_given: bool,
    /// What the measurements say of it.
    note: Option<String>,
}

impl Base {
    fn new(
        flags: &PlanFlags,
        line: &ArgMatches,
        measured: Option<&Measurements>,
    ) -> Result<Self, NoPlan> {
        let mut base = Base {
            settings: flags.settings.clone(),
            kept: kept_flags(line),
            connections_given: is_given(line, "connections"),
            note: None,
        };
        let front = &mut base.settings.front;
        if let Some(measured) = measured
            && measured.constant() > front.constant
        {
            let is_given = is_given(line, "constant");
            base.note = Some(notes::on_constant(measured, is_given));
            if !is_given {
                front.constant = measured.constant();
                base.kept.push(format!("--constant {}", front.constant));
            }
        }
        match flags.front_connections {
            Some(most) if base.connections_given && most > front.connections => {
                return Err(NoPlan::Usage(format!(
                    "--front-connections is {most}, but --connections {} is all that this server would have: raise that, or leave it out",
                    front.connections
                )));
            }
            Some(most) if !base.connections_given => {
                front.connections = most;
                base.connections_given = true;
            }
            _ => {}
        }
        Ok(base)
    }
}

/// The configuration that the report is about: as given, or the fewest buckets that meet the target. If these
/// are more than the memory holds, or there is no such number, the most that there can be.
fn choose(
    planner: &Planner,
    buckets_given: bool,
    bucket_size: Bytes,
    waiting: Waiting,
) -> Result<Configuration, NoPlan> {
    let too_few = |buckets: u32| {
        NoPlan::Usage(format!(
            "--connections (or --front-connections) is {}, which is less than the {buckets} buckets and --queue {} take: each request \
             comes over a connection of its own",
            planner.base.front.connections,
            waiting.places()
        ))
    };
    if buckets_given {
        let buckets = planner.base.application.buckets;
        let configuration = planner.given(buckets, bucket_size, waiting);
        return configuration.ok_or_else(|| too_few(buckets));
    }
    let fewest = planner.fewest(bucket_size, false, waiting, planner.demand.target)?;
    if let Some(fewest) = &fewest
        && planner.evaluate(fewest.clone())?.fits
    {
        return Ok(fewest.clone());
    }
    // What is too much for the memory is cut to what it holds, if it holds anything.
    let most = planner.most(bucket_size, waiting)?;
    most.or(fewest).map_or_else(
        || none_at_all(planner, bucket_size, waiting).ok_or_else(|| too_few(1)),
        Ok,
    )
}

/// Nothing meets the target, and no memory is the limit: as many buckets as there are connections for.
fn none_at_all(planner: &Planner, size: Bytes, waiting: Waiting) -> Option<Configuration> {
    let most = if planner.connections_given {
        let connections = planner.base.front.connections.get();
        connections.saturating_sub(waiting.places())
    } else {
        BUCKETS_LIMIT
    };
    let buckets = most.min(BUCKETS_LIMIT);
    planner
        .given(buckets, size, waiting)
        .filter(|_| buckets > 0)
}

/// For how long requests hold a bucket, and where that is from.
fn times(
    flags: &PlanFlags,
    measured: Option<&Measurements>,
) -> Result<(ServiceTimes, String), NoPlan> {
    if let Some(latency) = flags.latency {
        let mean = latency.as_secs_f64();
        let squared_variation = match flags.p99 {
            Some(p99) => log_normal_variation(p99.as_secs_f64() / mean).map_err(NoPlan::Usage)?,
            None => 1.0,
        };
        let times = ServiceTimes {
            mean,
            squared_variation,
            samples: 0,
        };
        let from = match flags.p99 {
            Some(_) => format!("--latency; c² is {squared_variation:.2} by --p99"),
            None => "--latency; taken to be exponential".to_owned(),
        };
        return Ok((times, from));
    }
    let Some(measured) = measured else {
        return Err(NoPlan::Usage(
            "--latency is missing: say for how long a request holds a bucket on average, as in --latency 20ms, or let a server say it \
             (--from-metrics)"
                .to_owned(),
        ));
    };
    let times = measured.times().ok_or_else(|| {
        NoPlan::Metrics(format!(
            "{}: no call has been measured there (transom_call_seconds); send some requests first, or give --latency",
            flags.from_metrics.as_deref().unwrap_or_default()
        ))
    })?;
    let from = format!(
        "measured, {} of them; c² is {:.2}",
        times.samples, times.squared_variation
    );
    Ok((times, from))
}

/// The 99th percentile of the standard normal distribution.
const Z99: f64 = 2.326_347_874;

/// The squared coefficient of variation of log-normal times whose p99 is so many times their mean.
fn log_normal_variation(ratio: f64) -> Result<f64, String> {
    if ratio < 1.0 {
        return Err("--p99 is less than --latency, which is the mean".to_owned());
    }
    // p99/mean = exp(z·σ − σ²/2): of the two solutions the less varied one.
    let discriminant = Z99 * Z99 - 2.0 * ratio.ln();
    if discriminant < 0.0 {
        return Err(format!(
            "--p99 is {ratio:.1} times --latency; log-normal times have {:.1} at most. Measured times say more: --from-metrics",
            (Z99 * Z99 / 2.0).exp()
        ));
    }
    let sigma = Z99 - discriminant.sqrt();
    Ok((sigma * sigma).exp_m1())
}

/// What was given of an application's flags, but for those that a configuration says itself.
fn kept_flags(line: &ArgMatches) -> Vec<String> {
    let of_settings = Settings::augment_args(Command::new("plan"));
    let mut kept = Vec::new();
    for flag in of_settings.get_arguments() {
        let (id, Some(name)) = (flag.get_id().as_str(), flag.get_long()) else {
            continue;
        };
        if !is_given(line, id)
            || ["buckets", "bucket-size", "slots", "connections", "check"].contains(&name)
        {
            continue;
        }
        if matches!(flag.get_action(), ArgAction::Set | ArgAction::Append) {
            let values = line.get_raw(id).into_iter().flatten();
            kept.extend(
                values.map(|value| format!("--{name} {}", quoted(&value.to_string_lossy()))),
            );
        } else if line.get_flag(id) {
            kept.push(format!("--{name}"));
        }
    }
    kept
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=@%+[]".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// The flags of a configuration, to start a server with.
fn paste(planner: &Planner, kept: &[String], configuration: &Configuration) -> String {
    let mut words = vec![
        format!("--buckets {}", configuration.buckets),
        format!("--bucket-size {}", configuration.bucket_size),
    ];
    if let Some(slots) = configuration.slots {
        words.push(format!("--slots {slots}"));
    }
    if planner.connections_given || configuration.connections != planner.base.front.connections {
        words.push(format!("--connections {}", configuration.connections));
    }
    words.extend_from_slice(kept);
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_p99_says_how_much_times_vary() {
        for sigma in [0.0f64, 0.1, 0.5, 1.0, 2.0] {
            let ratio = (Z99 * sigma - sigma * sigma / 2.0).exp();
            let variation = log_normal_variation(ratio).expect("there is a solution");
            let own = (sigma * sigma).exp_m1();
            assert!((variation - own).abs() < 1e-6 * (1.0 + own), "{sigma}");
        }
        assert!(log_normal_variation(0.9).is_err());
        assert!(log_normal_variation(15.1).is_err());
    }

    #[test]
    fn words_are_quoted_where_a_shell_would_see_more_in_them() {
        assert_eq!(quoted("127.0.0.1:80"), "127.0.0.1:80");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
