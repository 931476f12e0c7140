//! Asks each route of the server `crates` again and again, checks what must hold, and prints a table.
//!
//! A route has a server process of its own, so that no crate spoils the row of another.
//! After the warm-up, that is the route's first requests, which make its statics, start its threads and
//! touch its pages, the server's resident memory must not grow by more than 1 %, however many requests
//! follow. A row that fails makes the exit status 1.

mod client;
mod judge;
mod load;
mod server;
mod upstream;

use clap::Parser;
use judge::{Amount, Outcome, judge};
use rows::Row;
use server::Launch;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;
use std::{env, fs, process};

/// Sends requests to each route of the server `crates`, and checks what must hold.
#[derive(Parser)]
#[command(args_override_self = true)]
struct Flags {
    /// The server, target/release/crates for example
    server: PathBuf,
    /// Requests to each route, after the warm-up
    #[arg(long, default_value_t = 10_000)]
    requests: u64,
    /// Requests before these [default: a tenth of --requests, 100 at least]
    #[arg(long)]
    warm_up: Option<u64>,
    /// Connections
    #[arg(long, default_value_t = 16)]
    concurrency: usize,
    /// Buckets of the server
    #[arg(long, default_value_t = 4)]
    buckets: u32,
    /// Seconds that the requests to a route may take
    #[arg(long, default_value_t = 240)]
    row_time: u64,
    /// Only routes whose path starts so; may be given more than once
    #[arg(long)]
    only: Vec<String>,
}

/// How many rows ended how.
#[derive(Default)]
struct Sum {
    passed: usize,
    failed: usize,
    skipped: usize,
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let flags = Flags::parse();
    let mut rows = rows_of(&flags.server)?;
    let chosen = |row: &Row| {
        flags.only.is_empty() || flags.only.iter().any(|path| row.path.starts_with(path))
    };
    rows.retain(chosen);
    if rows.is_empty() {
        return Err("there is no such route".into());
    }
    let directory = env::temp_dir().join(format!("transom-crates-{}", process::id()));
    fs::create_dir(&directory)?;
    let sum = run(&flags, &rows, &directory);
    fs::remove_dir_all(&directory)?;
    let Sum {
        passed,
        failed,
        skipped,
    } = sum?;
    println!("\n{passed} passed, {failed} failed, {skipped} skipped");
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What the server says that it can do.
fn rows_of(server: &Path) -> Result<Vec<Row>, Box<dyn Error>> {
    let output = Command::new(server).arg("--rows").output()?;
    if !output.status.success() {
        return Err(format!("{} --rows: {}", server.display(), output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn run(flags: &Flags, rows: &[Row], directory: &Path) -> Result<Sum, Box<dyn Error>> {
    let launch = Launch {
        binary: &flags.server,
        buckets: flags.buckets,
        upstream: upstream::start()?,
        directory,
    };
    let amount = Amount {
        warm_up: flags.warm_up.unwrap_or((flags.requests / 10).max(100)),
        requests: flags.requests,
        concurrency: flags.concurrency,
        time: Duration::from_secs(flags.row_time),
    };
    println!(
        "| route | uses | requests | a second | RSS: ready → warm-up → end, KiB | arena, KiB | C heap, KiB | kept, bytes | result |"
    );
    println!("|---|---|---:|---:|---|---:|---:|---:|---|");
    let mut sum = Sum::default();
    let mut failed = Vec::new();
    for row in rows {
        let outcome = judge(row, &launch, amount);
        print_line(row, &outcome);
        if outcome.skipped.is_some() {
            sum.skipped += 1;
        } else if outcome.faults.is_empty() {
            sum.passed += 1;
        } else {
            sum.failed += 1;
            failed.push((row, outcome));
        }
    }
    for (row, outcome) in &failed {
        println!("\n{}", row.path);
        for line in outcome.faults.iter().chain(&outcome.lines) {
            println!("    {line}");
        }
    }
    Ok(sum)
}

fn print_line(row: &Row, outcome: &Outcome) {
    let number = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
    let (requests, rate) = outcome.requests.unzip();
    let figures = outcome.figures.as_ref();
    let result = match (&outcome.skipped, outcome.faults.as_slice()) {
        (Some(why), _) => format!("skipped: {why}"),
        (None, []) => "passed".to_owned(),
        (None, faults) => format!(
            "**failed**: {}",
            faults.join("; ").replace('|', "\\|").replace('\n', " ")
        ),
    };
    println!(
        "| `{}` | {} | {} | {} | {} → {} → {} | {} | {} | {} | {result} |",
        row.path,
        row.uses,
        number(requests),
        number(rate.map(|rate| rate as u64)),
        number(outcome.at_ready),
        number(outcome.before),
        number(outcome.after),
        number(figures.map(|figures| figures.arena.div_ceil(1 << 10))),
        number(figures.map(|figures| figures.c_heap.div_ceil(1 << 10))),
        number(figures.and_then(|figures| figures.kept)),
    );
}
