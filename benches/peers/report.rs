//! The report of a run: tables on the terminal, and the page with its plots.

use crate::bars::Verdict;
use crate::machine;
use crate::measure::{Pace, Row};
use crate::plots::{self, rounded};
use crate::servers::{Kind, Place};
use crate::statistics::{Spread, ratio};
use crate::workloads::{Method, Workload};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// A workload and what came out.
pub struct Result {
    /// The workload.
    pub workload: Workload,
    /// Its servers, in its order.
    pub rows: Vec<Row>,
    /// How wrk was called, without the port.
    pub wrk: String,
}

/// What is known of a run as a whole.
pub struct Run {
    /// How it was called.
    pub command: String,
    /// When it began.
    pub began: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// The load averages before it.
    pub load: String,
    /// Its pace.
    pub pace: Pace,
    /// Versions of the servers, or why one was left out.
    pub versions: Vec<(Kind, std::result::Result<String, String>)>,
    /// Which commit ours is.
    pub commit: String,
    /// Other builds of ours: their names.
    pub builds: Vec<String>,
    /// Workloads for which there was no time.
    pub left_out: Vec<&'static str>,
}

/// The table of a workload.
pub fn table(result: &Result) -> String {
    let mut text = match result.workload.method {
        Method::Rounds => rounds_table(result),
        Method::Start => start_table(&result.rows),
        Method::Attack => attack_table(&result.rows),
    };
    for row in &result.rows {
        for note in &row.notes {
            let _ = write!(text, "\n- {}: {}", row.name, note.replace('|', "\\|"));
        }
    }
    if result.rows.iter().any(|row| !row.notes.is_empty()) {
        text.push('\n');
    }
    text
}

fn rounds_table(result: &Result) -> String {
    let Result { workload, rows, .. } = result;
    let baseline = workload.baseline;
    let idle = rows.iter().any(|row| row.idle.is_some());
    let cpu = |row: &Row| row.figures(|sample| sample.cpu_us);
    let base = rows
        .iter()
        .find(|row| row.name == baseline)
        .map(cpu)
        .unwrap_or_default();
    let mut text = format!(
        "| server | CPU µs/request | ÷ {baseline} | requests/s | p50 µs | p99 µs | memory MiB |{} others |\n|---|---:|---:|---:|---:|---:|---:|{}---:|\n",
        if idle { " bytes/idle connection |" } else { "" },
        if idle { "---:|" } else { "" },
    );
    for row in rows {
        let of = |figure: &dyn Fn(&crate::measure::Sample) -> f64| {
            spread(Spread::of(row.figures(figure).into_iter().flatten()))
        };
        let relative = if row.name == baseline {
            "1".into()
        } else {
            spread(ratio(&cpu(row), &base))
        };
        let _ = write!(
            text,
            "| {} | {} | {relative} | {} | {} | {} | {} |",
            row.name,
            of(&|sample| sample.cpu_us),
            of(&|sample| sample.counts.rate),
            median(row, |sample| sample.counts.p50_us),
            median(row, |sample| sample.counts.p99_us),
            median(row, |sample| sample.resident as f64 / (1 << 20) as f64),
        );
        if idle {
            let bytes = row.idle.as_ref().map_or("–".into(), |idle| {
                let grown = format!("{:.0}", idle.grown);
                idle.planned.map_or(grown.clone(), |planned| {
                    format!("{grown}, planned {planned:.0}")
                })
            });
            let _ = write!(text, " {bytes} |");
        }
        let others = Spread::of(row.figures(|sample| sample.others).into_iter().flatten());
        let _ = writeln!(
            text,
            " {} |",
            others.map_or("–".into(), |others| format!("{:.2}", others.max))
        );
    }
    text
}

fn start_table(rows: &[Row]) -> String {
    let mut text = "| server | ms to the first answer |\n|---|---:|\n".to_owned();
    for row in rows {
        let _ = writeln!(
            text,
            "| {} | {} |",
            row.name,
            spread(Spread::of(row.ready_ms.iter().flatten().copied()))
        );
    }
    text
}

fn attack_table(rows: &[Row]) -> String {
    let mut text = "| server | MiB before | at most | at the end | attackers: 2xx/s | refused/s \
                    | ordinary client: requests/s, before | under attack | p50 µs, before | under attack | p99 µs, before | under attack |\n\
                    |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n"
        .to_owned();
    for row in rows {
        let Some(attack) = &row.attack else {
            let _ = writeln!(text, "| {} |{}", row.name, " – |".repeat(11));
            continue;
        };
        let mib = |bytes: Option<u64>| {
            bytes.map_or("–".into(), |bytes| {
                rounded(bytes as f64 / (1 << 20) as f64)
            })
        };
        let (before, during): (Vec<_>, Vec<_>) =
            attack.memory.iter().partition(|(at, _)| *at < 0.0);
        let good = attack
            .attackers
            .as_ref()
            .map_or(["0".into(), "0".into()], |counts| {
                let failed = counts.failed as f64 / counts.requests as f64 * counts.rate;
                [rounded(counts.rate - failed), rounded(failed)]
            });
        let _ = write!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            row.name,
            mib(before.last().map(|(_, bytes)| *bytes)),
            mib(during.iter().map(|(_, bytes)| *bytes).max()),
            mib(during.last().map(|(_, bytes)| *bytes)),
            good[0],
            good[1],
        );
        let ordinary = |figure: fn(&crate::wrk::Counts) -> f64| {
            [&attack.undisturbed, &attack.ordinary].map(|counts| {
                counts
                    .as_ref()
                    .map_or("nothing".into(), |counts| rounded(figure(counts)))
            })
        };
        for [before, during] in [
            ordinary(|counts| counts.rate),
            ordinary(|counts| counts.p50_us),
            ordinary(|counts| counts.p99_us),
        ] {
            let _ = write!(text, " {before} | {during} |");
        }
        text.push('\n');
    }
    text
}

/// The table of the bars.
pub fn bars_table(verdicts: &[Verdict]) -> String {
    let mut text = "| workload | bar | must be | was | |\n|---|---|---|---:|---|\n".to_owned();
    for verdict in verdicts {
        let outcome = match verdict.figure {
            None => "not measured",
            Some(_) if verdict.holds() => "met",
            Some(_) => "**missed**",
        };
        let Verdict {
            workload,
            bar,
            figure,
        } = verdict;
        let _ = writeln!(
            text,
            "| {workload} | {bar} | {} | {} | {outcome} |",
            bar.limit,
            spread(*figure)
        );
    }
    text
}

fn spread(spread: Option<Spread>) -> String {
    spread.map_or("–".into(), |Spread { median, min, max }| {
        if min == max {
            rounded(median)
        } else {
            format!("{} ({}–{})", rounded(median), rounded(min), rounded(max))
        }
    })
}

/// wrk tells a time of 0 where it does not know one.
fn median(row: &Row, figure: fn(&crate::measure::Sample) -> f64) -> String {
    let known = row
        .figures(figure)
        .into_iter()
        .flatten()
        .filter(|figure| *figure > 0.0);
    Spread::of(known).map_or("–".into(), |spread| rounded(spread.median))
}

/// Writes the page, and its pictures to `images` beside it.
pub fn write(
    page: &Path,
    run: &Run,
    results: &[Result],
    verdicts: &[Verdict],
    place: &Place,
) -> std::result::Result<(), String> {
    let folder = page.parent().unwrap_or(Path::new(".")).join("images");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut text = head(run);
    if !verdicts.is_empty() {
        text += "## The bars\n\nWhat this project holds itself to. Each is judged by the median over the rounds; beside it stand the least and the greatest.\n\n";
        text += &bars_table(verdicts);
    }
    for result in results {
        let Workload {
            name, title, about, ..
        } = &result.workload;
        let _ = write!(
            text,
            "\n## {title}\n\n{about}\n\n```sh\n{}\n```\n\n{}",
            result.wrk,
            table(result)
        );
        let file = format!("peers-{name}.svg");
        if plot(&folder.join(&file), result).map_err(|error| format!("{file}: {error}"))? {
            let _ = write!(text, "\n![{title}](images/{file})\n");
        }
    }
    text += &commands(results, place);
    fs::write(page, text).map_err(|error| format!("{}: {error}", page.display()))
}

/// False if there is nothing to draw.
fn plot(path: &Path, result: &Result) -> std::result::Result<bool, Box<dyn std::error::Error>> {
    let Result { workload, rows, .. } = result;
    let ours = |row: &Row| {
        workload
            .contestants
            .iter()
            .any(|contestant| contestant.name == row.name && contestant.kind.is_ours())
    };
    let figures = |of: &dyn Fn(&Row) -> Vec<Option<f64>>| -> Vec<(String, bool, Vec<f64>)> {
        let rows = rows.iter().map(|row| {
            (
                row.name.clone(),
                ours(row),
                of(row).into_iter().flatten().collect(),
            )
        });
        rows.filter(|(_, _, runs): &(_, _, Vec<f64>)| !runs.is_empty())
            .collect()
    };
    let (title, figures) = match workload.method {
        Method::Rounds => (
            "CPU µs per request",
            figures(&|row| row.figures(|sample| sample.cpu_us)),
        ),
        Method::Start => (
            "ms to the first answer",
            figures(&|row| row.ready_ms.clone()),
        ),
        Method::Attack => {
            let some = rows.iter().any(|row| row.attack.is_some());
            if some {
                plots::attack(path, rows)?;
            }
            return Ok(some);
        }
    };
    if figures.is_empty() {
        return Ok(false);
    }
    plots::bars(path, &format!("{}: {title}", workload.title), &figures)?;
    Ok(true)
}

fn head(run: &Run) -> String {
    let Run { pace, .. } = run;
    let date = httpdate::fmt_http_date(run.began);
    let mut text = format!(
        "# Beside other servers

Every server has one CPU to itself, wrk has another, and they take turns: A B C, A B C, and so on. A machine is not the same
from minute to minute, so that only figures from the same minutes can be compared: a ratio is taken within each round, and what is
told is the median over the rounds, with the least and the greatest in parentheses. Absolute figures are of this machine on that day.

The leading figure is the **CPU time that the server needs per request**, user and system, of all its processes. It tells what is
left for the application, and it still tells servers apart where wrk is at its limit and requests/s do not.

- *Memory* is what is resident at the end of a run, what is shared among a server's processes counted once. Ours is there in
  full before the first request, and does not grow with what clients do.
- *Others* is how busy anything else kept these CPUs in the worst run, in CPUs. Where it is not near 0, believe the figures less.

This page and its pictures are written by `benches/peers/run.sh`, which installs and builds what it needs (`--help` has its flags).

| | |
|---|---|
| when | {date}, {} minutes |
| machine | {} |
| load averages before | {} |
| CPUs | server {}, wrk {} |
| runs | {} rounds of {} s, after {} s to warm up; 3 rounds at most where no bar is judged |
| Transom | commit {} |
| built with | {}, `-O3`, fat LTO |
| wrk | {} |
| command | `{}` |
",
        run.took.as_secs().div_ceil(60),
        machine::description(),
        run.load,
        pace.server,
        pace.client,
        pace.rounds,
        pace.seconds,
        pace.warm_up,
        run.commit,
        machine::first_line(&["rustc", "--version"]).unwrap_or_default(),
        machine::first_line(&["wrk", "-v"]).unwrap_or_default().split(" [").next().unwrap_or_default(),
        run.command,
    );
    text += "\n| server | what | version |\n|---|---|---|\n";
    for (kind, version) in &run.versions {
        let version = version
            .clone()
            .unwrap_or_else(|why| format!("skipped: {why}"));
        let _ = writeln!(text, "| {kind} | {} | {version} |", kind.what());
    }
    for build in &run.builds {
        let _ = writeln!(text, "| …@{build} | another build of Transom | |");
    }
    if !run.left_out.is_empty() {
        let _ = write!(
            text,
            "\nThere was no time left for: {}.\n",
            run.left_out.join(", ")
        );
    }
    text.push('\n');
    text
}

/// How each server was started, once for each way. Ports and folders are of no interest.
fn commands(results: &[Result], place: &Place) -> String {
    let mut text = "\n## How the servers were started\n\n<details><summary>Each command once; nginx.conf and others are in \
                    <code>benches/peers/servers.rs</code></summary>\n\n```sh\n"
        .to_owned();
    let mut told = BTreeSet::new();
    for row in results.iter().flat_map(|result| &result.rows) {
        for command in &row.commands {
            let line = command.join(" ");
            let line = plain(&line, place);
            if told.insert(line.clone()) {
                let _ = writeln!(text, "{line}");
            }
        }
    }
    text + "```\n\n</details>\n"
}

fn plain(line: &str, place: &Place) -> String {
    let mut line = line.to_owned();
    for (folder, name) in [
        (&place.scratch, "$SCRATCH"),
        (&place.peers, "target/peers/release"),
        (&place.ours, "target/release"),
        (&place.sources, "benches/peers/servers"),
    ] {
        line = line.replace(&folder.display().to_string(), name);
    }
    without_ports(&line)
}

/// With `PORT` in place of the ports that the harness gives out.
fn without_ports(line: &str) -> String {
    let digits = |c: char| c.is_ascii_digit();
    let mut text = String::new();
    let mut rest = line;
    while let Some(start) = rest.find(digits) {
        let len = rest[start..]
            .find(|c| !digits(c))
            .unwrap_or(rest.len() - start);
        let number = &rest[start..start + len];
        let is_port = len == 5 && (18_080..32_768).contains(&number.parse().unwrap_or(0));
        text += &rest[..start];
        text += if is_port { "PORT" } else { number };
        rest = &rest[start + len..];
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_of_no_interest() {
        assert_eq!(
            without_ports("a --listen 127.0.0.1:18081 /x/door-18090/y"),
            "a --listen 127.0.0.1:PORT /x/door-PORT/y"
        );
        assert_eq!(
            without_ports("--buckets 16384 8080"),
            "--buckets 16384 8080"
        );
        assert_eq!(without_ports("18080"), "PORT");
    }

    #[test]
    fn a_spread_has_its_ends_beside_it() {
        assert_eq!(spread(Spread::of([5.0, 6.0, 7.25])), "6.00 (5.00–7.25)");
        assert_eq!(spread(Spread::of([150_000.4])), "150,000");
        assert_eq!(spread(None), "–");
    }
}
