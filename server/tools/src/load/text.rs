//! The summary.

use super::edge::Edge;
use super::report::{Kind, LoadReport, MemoryReport, Ratio, Side};
use super::units::{bytes, change, time};
use std::fmt::Write;
use transom_plot::grouped;

/// The first line: what came of it.
pub fn verdict(report: &LoadReport) -> String {
    if !report.fine {
        return format!("NOT WELL: {}", report.wrong.join("; "));
    }
    let bound = report.memory.as_ref().map(|memory| memory.bound_bytes);
    let bound = match bound {
        Some(Some(_)) => "the bound was kept",
        Some(None) => "no bound is known",
        None => "memory was not looked at",
    };
    match report.ordinary.beside {
        Some(_) => format!("WELL: {bound}, no neighbour suffered"),
        None => format!("WELL: {bound}, no ordinary request failed"),
    }
}

/// All of it.
pub fn summary(report: &LoadReport) -> String {
    let mut out = String::new();
    let mut line = |name: &str, text: String| {
        let _ = writeln!(out, "{name:<10} {text}");
    };
    let server = &report.server;
    let pids: Vec<String> = server.pids.iter().map(i32::to_string).collect();
    let pids = match pids.is_empty() {
        true => "memory not looked at (no --pid)".to_owned(),
        false => format!("pid {}", pids.join(", ")),
    };
    let command = server
        .command
        .as_ref()
        .map(|words| format!("  {}", words.join(" ")));
    line(
        "server",
        format!("{}  {pids}{}", server.target, command.unwrap_or_default()),
    );
    line("load", load(report));
    match &report.memory {
        Some(memory) => self::memory(memory, &mut line),
        None => line("memory", "not looked at".to_owned()),
    }
    let details = details(report).into_iter();
    for (name, text) in details.filter(|(name, _)| *name != ORDINARY) {
        line(name, text);
    }
    format!("{}\n\n{out}\n{}", verdict(report), table(report))
}

/// The name of what is said of ordinary requests, which the summary has in its table.
const ORDINARY: &str = "ordinary";

/// What was found beside memory and times: names, and sentences.
pub fn details(report: &LoadReport) -> Vec<(&'static str, String)> {
    let edges = report.edges.iter();
    let edges = edges.map(|it| ("edge", format!("{}: {}", it.request, edge(&it.edge))));
    let name = |hungry| if hungry { "hungry" } else { ORDINARY };
    let kinds = report.kinds.iter().map(|it| (name(it.hungry), kind(it)));
    let counts = [
        ("503", unavailable(report)),
        ("generator", generator(report)),
    ];
    let notes = report.notes.iter().map(|note| ("note", note.clone()));
    edges.chain(kinds).chain(counts).chain(notes).collect()
}

/// With what the server was loaded.
pub fn load(report: &LoadReport) -> String {
    let load = &report.load;
    let capacity = match load.capacity {
        Some(capacity) => format!(
            " ({:.0} % of the {} that it can)",
            load.rate / capacity * 100.0,
            grouped(capacity as u64)
        ),
        None => String::new(),
    };
    let phases = match report.ordinary.beside {
        Some(_) => format!(
            "{} × ({1:.1} s without and {1:.1} s with hungry ones)",
            load.rounds, load.phase_seconds
        ),
        None => format!("{} × {:.1} s", load.rounds, load.phase_seconds),
    };
    let arrivals = match load.arrivals {
        super::schedule::Arrivals::Poisson => "Poisson",
        super::schedule::Arrivals::Constant => "constant",
    };
    format!(
        "{} requests/s{capacity}, {arrivals}, {} connections, {phases}",
        grouped(load.rate as u64),
        load.connections
    )
}

fn memory(memory: &MemoryReport, line: &mut impl FnMut(&str, String)) {
    let most = memory.most.rss_bytes;
    let bound = match (memory.bound_bytes, memory.bound_from) {
        (Some(bound), Some(from)) => format!(
            "bound {} ({from}), largest seen {} ({:.1} % of it)",
            bytes(bound),
            bytes(most),
            most as f64 / bound as f64 * 100.0
        ),
        _ => format!("no bound, largest seen {}", bytes(most)),
    };
    line("memory", bound);
    let (ready, warm, end) = (&memory.at_ready, &memory.after_warm_up, &memory.at_end);
    line(
        "",
        format!(
            "ready {} → warm {} → largest after that {} ({}) → end {}; VmHWM {}",
            bytes(ready.rss_bytes),
            bytes(warm.rss_bytes),
            bytes(memory.most_measured.rss_bytes),
            change(warm.rss_bytes, memory.most_measured.rss_bytes),
            bytes(end.rss_bytes),
            bytes(end.high_water_bytes)
        ),
    );
    let heap = match memory.heap_allocations {
        Some(allocations) => format!(", allocations outside the region {}", grouped(allocations)),
        None => String::new(),
    };
    line(
        "",
        format!(
            "since ready: mappings {} → {}, threads {} → {}, descriptors {} → {}, faults {:+} ({:+} from disk){heap}",
            ready.mappings,
            memory.most.mappings,
            ready.threads,
            memory.most.threads,
            ready.descriptors,
            memory.most.descriptors,
            end.minor_faults.cast_signed() - ready.minor_faults.cast_signed(),
            end.major_faults.cast_signed() - ready.major_faults.cast_signed(),
        ),
    );
}

/// Where an edge lies, in a sentence.
fn edge(edge: &Edge) -> String {
    match edge {
        Edge::Between {
            fits,
            status,
            exhausted,
            requests,
        } => format!(
            "the largest request that fits: {fits}; {} got {status}{} ({requests} requests)",
            fits + 1,
            if *exhausted { ", bucket-exhausted" } else { "" }
        ),
        Edge::AllFit { largest } => format!("no edge: even {largest} fits"),
        Edge::NoneFits { smallest, status } => {
            format!("even {smallest} does not fit: it got {status}")
        }
        Edge::Unclear { why } => format!("not found: {why}"),
    }
}

/// What became of one kind of request.
fn kind(kind: &Kind) -> String {
    let mut parts: Vec<String> = (kind.statuses.iter())
        .map(|(status, n)| match (status, kind.exhausted) {
            (500, exhausted) if exhausted == *n => {
                format!("{status} × {} (all bucket-exhausted)", grouped(*n))
            }
            (500, exhausted) if exhausted > 0 => {
                format!(
                    "{status} × {} ({} bucket-exhausted)",
                    grouped(*n),
                    grouped(exhausted)
                )
            }
            _ => format!("{status} × {}", grouped(*n)),
        })
        .collect();
    parts.extend(
        kind.failures
            .iter()
            .map(|(name, n)| format!("{name} × {}", grouped(*n))),
    );
    let sizes = match (kind.largest_good, kind.smallest_failed) {
        (Some(good), Some(failed)) => format!("; largest 200: {good}, smallest 500: {failed}"),
        (Some(good), None) => format!("; largest 200: {good}"),
        (None, Some(failed)) => format!("; smallest 500: {failed}"),
        (None, None) => String::new(),
    };
    format!("{}: {}{sizes}", kind.request, parts.join(", "))
}

/// 503s, and how many there should have been.
fn unavailable(report: &LoadReport) -> String {
    let found = &report.unavailable;
    let (observed, of) = (grouped(found.observed), grouped(found.of));
    match &found.predicted {
        Some(predicted) => {
            let expected = match predicted.expected {
                expected if expected < 0.01 => "none".to_owned(),
                expected => format!("{expected:.2}"),
            };
            format!(
                "{observed} of {of}; Erlang's formula expects at most {expected} ({} buckets, {:.2} busy on average)",
                predicted.buckets, predicted.busy
            )
        }
        None => format!("{observed} of {of} (no metrics to predict them from: --admin)"),
    }
}

/// How well the load tester did its own work.
fn generator(report: &LoadReport) -> String {
    let generator = &report.generator;
    let late = generator.late_p50_us.zip(generator.late_p99_us);
    let late = late.map_or(String::new(), |(p50, p99)| {
        format!("late by p50 {}, p99 {}; ", time(p50), time(p99))
    });
    let server = match generator.server_cores {
        Some(cores) => format!(" (the server {cores:.2})"),
        None => String::new(),
    };
    let resent = match generator.resent {
        0 => String::new(),
        n => format!(", {} sent again after a connection was closed", grouped(n)),
    };
    format!("{late}{:.2} cores{server}{resent}", generator.cores)
}

/// The rows of the table that compares ordinary requests: a heading, and cells.
pub fn rows(report: &LoadReport) -> Vec<(String, Vec<String>)> {
    let side = |side: &Side| {
        let time = |us: Option<f64>| us.map_or("–".to_owned(), time);
        let numbers = [side.due, side.failed, side.unavailable, side.unsent];
        let times = [time(side.p50_us), time(side.p99_us), time(side.p999_us)];
        times.into_iter().chain(numbers.map(grouped)).collect()
    };
    let ordinary = &report.ordinary;
    let mut rows = vec![("alone".to_owned(), side(&ordinary.alone))];
    if let Some(beside) = &ordinary.beside {
        rows.push(("beside hungry ones".to_owned(), side(beside)));
        let ratios = [ordinary.p50_ratio, ordinary.p99_ratio, ordinary.p999_ratio];
        let show = |what: fn(&Ratio) -> f64| {
            ratios
                .map(|ratio| {
                    ratio
                        .as_ref()
                        .map_or("–".to_owned(), |ratio| format!("{:.2}×", what(ratio)))
                })
                .to_vec()
        };
        rows.push(("ratio, median round".to_owned(), show(|ratio| ratio.median)));
        if ordinary.beside_rounds.len() > 1 {
            rows.push(("best round".to_owned(), show(|ratio| ratio.least)));
            rows.push(("worst round".to_owned(), show(|ratio| ratio.most)));
        }
    }
    rows
}

/// The columns of [`rows`].
pub const COLUMNS: [&str; 7] = ["p50", "p99", "p99.9", "due", "failed", "503", "not sent"];

fn table(report: &LoadReport) -> String {
    let mut out = format!("{:<20}", "ordinary requests");
    for column in COLUMNS {
        let _ = write!(out, " {column:>9}");
    }
    for (heading, cells) in rows(report) {
        let _ = write!(out, "\n{heading:<20}");
        for cell in cells {
            let _ = write!(out, " {cell:>9}");
        }
    }
    out.push('\n');
    out
}
