//! Runs servers beside each other, and tells what they cost and how they compare. `run.sh` builds everything
//! and starts this.

mod bars;
mod http;
mod machine;
mod measure;
mod plots;
mod report;
mod servers;
mod statistics;
mod workloads;
mod wrk;

use bars::Verdict;
use clap::{Parser, Subcommand};
use machine::Cpus;
use measure::Pace;
use report::{Result as Outcome, Run};
use servers::{Kind, Place, find};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};
use workloads::{Method, Workload};

/// Seconds of an attack, in which also the servers that give in to it answer some requests.
const ATTACK: u32 = 5;

/// Runs servers beside each other, pinned to one CPU, wrk on another, in turns, and tells medians, spreads
/// and ratios
///
/// The leading figure is the server's CPU time per request; then requests/s, times, memory. A run of
/// everything writes docs/benchmarks.md and its pictures; a run of a part prints its tables only, unless
/// --output says where to write.
#[derive(Parser)]
#[command(
    name = "run.sh",
    bin_name = "benches/peers/run.sh",
    args_conflicts_with_subcommands = true
)]
struct Flags {
    #[command(subcommand)]
    part: Option<Part>,

    /// Only these workloads (--list names them)
    #[arg(long, value_name = "WORKLOAD,…", value_delimiter = ',')]
    only: Vec<String>,

    /// Only these servers (--list names them)
    #[arg(long, value_name = "SERVER,…", value_delimiter = ',')]
    servers: Vec<String>,

    /// Another build of ours beside this one: a release folder with peer-transom and the others. May be given
    /// more than once
    #[arg(long, value_name = "NAME=FOLDER", value_parser = parse_build)]
    also: Vec<(String, PathBuf)>,

    /// Runs of each server in a workload; 3 at most where no bar depends on it
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Seconds of a run
    #[arg(long, value_name = "S", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    duration: u32,

    /// Seconds that each server is warmed up for, once in a workload
    #[arg(long, value_name = "S", default_value_t = 1)]
    warm_up: u32,

    /// One round of 1 s, cold: whether everything works, not how fast it is
    #[arg(long, conflicts_with_all = ["rounds", "duration", "warm_up"])]
    quick: bool,

    /// Measure only what the bars need, and fail if one is missed
    #[arg(long)]
    check: bool,

    /// Minutes after which no further workload is begun
    #[arg(long, value_name = "MINUTES", default_value_t = 25)]
    limit: u32,

    /// The servers' CPUs
    #[arg(long, value_name = "N,…", default_value = "0")]
    server_cpu: Cpus,

    /// wrk's CPUs
    #[arg(long, value_name = "N,…", default_value = "1")]
    client_cpu: Cpus,

    /// The page that is written; its pictures go to images beside it
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Say which workloads and servers there are, and end
    #[arg(long)]
    list: bool,
}

#[derive(Subcommand)]
enum Part {
    /// Hold idle connections until standard input ends (the harness starts itself so)
    #[command(hide = true)]
    Hold { port: u16, connections: u32 },
}

fn parse_build(text: &str) -> Result<(String, PathBuf), String> {
    let (name, folder) = text.split_once('=').ok_or("expected NAME=FOLDER")?;
    let folder = PathBuf::from(folder);
    let program = folder.join("peer-transom");
    if program.is_file() {
        Ok((name.to_owned(), folder))
    } else {
        Err(format!(
            "there is no {} (cargo build --release -p transom-benches makes it)",
            program.display()
        ))
    }
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let done = match flags.part {
        Some(Part::Hold { port, connections }) => measure::hold(port, connections).map(|()| true),
        None => run(&flags),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("run.sh: {error}");
            ExitCode::from(2)
        }
    }
}

/// False if `--check` was asked for and a bar is missed.
fn run(flags: &Flags) -> Result<bool, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .ok_or("this package has no folder above it")?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let ours = program
        .parent()
        .ok_or("this program is in no folder")?
        .to_path_buf();
    let peers = ours.parent().unwrap_or(&ours).join("peers/release");
    let place = Place::new(ours, peers, root.join("benches/peers/servers"))
        .map_err(|error| format!("no folder to work in: {error}"))?;

    let all_cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let cpus = u32::try_from(all_cpus).map_err(|error| error.to_string())?;
    let every = workloads::all(&place.scratch, cpus)
        .map_err(|error| format!("scripts for wrk: {error}"))?;
    if flags.list {
        for workload in &every {
            println!("{:<12} {}", workload.name, workload.title);
        }
        println!("servers: {}", Kind::ALL.map(Kind::name).join(" "));
        return Ok(true);
    }
    check_machine(flags, cpus)?;
    let versions: Vec<_> = Kind::ALL.map(|kind| (kind, place.version(kind))).into();
    let chosen = choose(every, flags, &versions)?;
    let pace = if flags.quick {
        pace(flags, [1, 1, 1, 0])
    } else {
        pace(flags, [flags.rounds, flags.duration, ATTACK, flags.warm_up])
    };

    for (kind, version) in &versions {
        match version {
            Ok(version) => eprintln!("{kind:<10} {version}"),
            Err(why) => eprintln!("{kind:<10} skipped: {why}"),
        }
    }
    let seconds: f64 = chosen
        .iter()
        .map(|workload| measure::estimate(workload, &pace))
        .sum();
    let (load, commit) = (machine::load_average(), commit(root));
    eprintln!(
        "about {:.0} minutes; load averages {load} (others' work shows in the figures)",
        (seconds / 60.0).ceil()
    );

    let (began, clock) = (SystemTime::now(), Instant::now());
    let limit = Duration::from_secs(60 * u64::from(flags.limit));
    let (mut results, mut verdicts, mut left_out): (Vec<Outcome>, Vec<Verdict>, Vec<&str>) =
        Default::default();
    for workload in chosen {
        if clock.elapsed() > limit {
            eprintln!(
                "{}: left out, --limit {} has passed",
                workload.name, flags.limit
            );
            left_out.push(workload.name);
            verdicts.extend(bars::judge(&workload, &[]));
            continue;
        }
        eprintln!(
            "{} ({:.0} s since the start)",
            workload.title,
            clock.elapsed().as_secs_f64()
        );
        let rows = measure::measure(&workload, &place, &flags.also, &pace);
        verdicts.extend(bars::judge(&workload, &rows));
        let wrk = wrk_commands(&workload, &pace);
        let result = Outcome {
            workload,
            rows,
            wrk,
        };
        println!(
            "\n## {}\n\n{}",
            result.workload.title,
            report::table(&result)
        );
        results.push(result);
    }
    if !verdicts.is_empty() {
        println!("\n{}", report::bars_table(&verdicts));
    }

    let whole = flags.only.is_empty()
        && flags.servers.is_empty()
        && flags.also.is_empty()
        && !flags.quick
        && !flags.check;
    let page = flags
        .output
        .clone()
        .or_else(|| whole.then(|| root.join("docs/benchmarks.md")));
    if let Some(page) = page {
        let run = Run {
            command: command(),
            began,
            took: clock.elapsed(),
            load,
            pace,
            versions,
            commit,
            builds: flags.also.iter().map(|(name, _)| name.clone()).collect(),
            left_out,
        };
        report::write(&page, &run, &results, &verdicts, &place)?;
        eprintln!("written: {}", page.display());
    }
    Ok(!flags.check || verdicts.iter().all(Verdict::holds))
}

fn pace(flags: &Flags, [rounds, seconds, attack, warm_up]: [u32; 4]) -> Pace {
    Pace {
        rounds,
        seconds,
        attack,
        warm_up,
        server: flags.server_cpu.clone(),
        client: flags.client_cpu.clone(),
    }
}

fn check_machine(flags: &Flags, cpus: u32) -> Result<(), String> {
    for program in ["wrk", "taskset", "setpriv"] {
        find(program).ok_or_else(|| {
            format!("{program} is not installed (run.sh installs it when it is root on Debian)")
        })?;
    }
    for (flag, these) in [
        ("--server-cpu", &flags.server_cpu),
        ("--client-cpu", &flags.client_cpu),
    ] {
        if let Some(none) = these.0.iter().find(|cpu| **cpu >= cpus) {
            return Err(format!(
                "{flag} {these}: there is no CPU {none}; this machine lets us use 0 to {}",
                cpus - 1
            ));
        }
    }
    if let Some(both) = flags
        .server_cpu
        .0
        .iter()
        .find(|cpu| flags.client_cpu.0.contains(cpu))
    {
        return Err(format!(
            "--server-cpu and --client-cpu both have CPU {both}: what the clients use of it, the server lacks"
        ));
    }
    Ok(())
}

/// The workloads that the flags select, without servers that are not installed, and with other builds of
/// ours.
fn choose(
    every: Vec<Workload>,
    flags: &Flags,
    versions: &[(Kind, Result<String, String>)],
) -> Result<Vec<Workload>, String> {
    for name in &flags.only {
        if every.iter().all(|workload| workload.name != name) {
            return Err(format!(
                "--only {name}: no workload is called so (--list names them)"
            ));
        }
    }
    for name in &flags.servers {
        if Kind::ALL.iter().all(|kind| kind.name() != name) {
            return Err(format!(
                "--servers {name}: no server is called so (--list names them)"
            ));
        }
    }
    let there = |kind: Kind| {
        versions
            .iter()
            .any(|(other, version)| *other == kind && version.is_ok())
    };
    let wanted = |kind: Kind| {
        flags.servers.is_empty() || flags.servers.iter().any(|name| name == kind.name())
    };
    let mut chosen = Vec::new();
    for mut workload in every {
        if !flags.only.is_empty() && !flags.only.iter().any(|name| name == workload.name) {
            continue;
        }
        let in_bars = |name: &str| {
            workload
                .bars
                .iter()
                .any(|bar| bar.ours == name || bar.theirs == Some(name))
        };
        workload.contestants.retain(|contestant| {
            there(contestant.kind)
                && wanted(contestant.kind)
                && (!flags.check || in_bars(&contestant.name))
        });
        let ours: Vec<_> = workload
            .contestants
            .iter()
            .filter(|contestant| contestant.kind.is_ours())
            .cloned()
            .collect();
        for (number, (build, _)) in flags.also.iter().enumerate() {
            for mut contestant in ours.iter().cloned() {
                contestant.name = format!("{}@{build}", contestant.name);
                contestant.build = Some(number);
                workload.contestants.push(contestant);
            }
        }
        if !workload.contestants.is_empty() {
            chosen.push(workload);
        }
    }
    if chosen.is_empty() {
        return Err("--only and --servers leave nothing to measure".into());
    }
    Ok(chosen)
}

/// How wrk is called in a workload, a line for each way.
fn wrk_commands(workload: &Workload, pace: &Pace) -> String {
    if workload.method == Method::Start {
        return "# no load: the process is started, and asked once".into();
    }
    let seconds = if workload.method == Method::Attack {
        pace.attack
    } else {
        pace.seconds
    };
    let mut lines: Vec<String> = Vec::new();
    for contestant in &workload.contestants {
        let client = contestant
            .cpus
            .as_ref()
            .map_or(&pace.client, |[_, client]| client);
        let words = contestant.load.command(1, seconds, client);
        let words = words.iter().map(|word| match Path::new(word).file_name() {
            Some(file) if word.ends_with(".lua") => file.to_string_lossy().into_owned(),
            _ if word.contains(' ') => format!("'{word}'"),
            _ => word.replace("127.0.0.1:1/", "127.0.0.1:PORT/"),
        });
        let line = words.collect::<Vec<_>>().join(" ");
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines.join("\n")
}

fn command() -> String {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    ["benches/peers/run.sh".to_owned()]
        .into_iter()
        .chain(arguments)
        .collect::<Vec<_>>()
        .join(" ")
}

/// The commit that was measured, if its folder says so.
fn commit(root: &Path) -> String {
    let root = root.display().to_string();
    let described = machine::first_line(&[
        "git",
        "-C",
        &root,
        "describe",
        "--always",
        "--dirty",
        "--abbrev=10",
    ]);
    described.unwrap_or_else(|| "unknown".into())
}
