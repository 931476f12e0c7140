//! One row: a fresh server, a warm-up, the requests, and what must hold after them.

use crate::client;
use crate::load::{Load, Tally};
use crate::server::{Figures, Launch, Server};
use rows::{Prints, Row};
use std::collections::BTreeSet;
use std::time::Duration;

/// What a server's resident memory may grow by after the warm-up, as parts of a hundred.
const GROWTH_MAX_PERCENT: u64 = 1;

/// Lines of the server's log that are shown for a row that fails.
const SHOWN: usize = 3;

/// How much to send.
#[derive(Debug, Clone, Copy)]
pub struct Amount {
    /// Requests that are not measured: statics are made, threads started, pages touched for the first time.
    pub warm_up: u64,
    /// Requests after these.
    pub requests: u64,
    /// Connections.
    pub concurrency: usize,
    /// How long warm-up and requests may take, each.
    pub time: Duration,
}

/// What came of a row.
#[derive(Debug, Default)]
pub struct Outcome {
    /// All requests were answered as they must be.
    pub answered: bool,
    /// Requests after the warm-up, and how many a second.
    pub requests: Option<(u64, f64)>,
    /// Resident KiB when the server was ready.
    pub at_ready: Option<u64>,
    /// After the warm-up.
    pub before: Option<u64>,
    /// After the requests.
    pub after: Option<u64>,
    /// What the metrics say at the end.
    pub figures: Option<Figures>,
    /// Why it was not run.
    pub skipped: Option<String>,
    /// What does not hold.
    pub faults: Vec<String>,
    /// Lines of the server's log that may say why.
    pub lines: Vec<String>,
}

/// Runs a row to its end, whatever the server does.
pub fn judge(row: &Row, launch: &Launch<'_>, amount: Amount) -> Outcome {
    let mut outcome = Outcome::default();
    if let Some(variable) = &row.needs
        && std::env::var_os(variable).is_none()
    {
        let why = std::env::var(format!("{variable}_MISSING"));
        outcome.skipped = Some(why.unwrap_or_else(|_| format!("{variable} is not set")));
        return outcome;
    }
    match launch.start(row) {
        Ok(mut server) => {
            load(&mut server, row, amount, &mut outcome);
            end(server, row, amount, &mut outcome);
        }
        Err(why) => outcome.faults.push(why),
    }
    outcome
}

fn load(server: &mut Server, row: &Row, amount: Amount, outcome: &mut Outcome) {
    let mut load = match Load::new(server.address, row, amount.concurrency, amount.time) {
        Ok(load) => load,
        Err(error) => return outcome.faults.push(format!("the row is wrong: {error}")),
    };
    outcome.at_ready = server.resident_kib().ok();
    let warm_up = load.run(amount.warm_up);
    // The metrics are asked for before each measurement: answering them touches memory too.
    outcome.figures = server.figures_at_rest().ok();
    outcome.before = server.resident_kib().ok();
    if !warm_up.is_good() {
        return outcome.blame(&warm_up, " of the warm-up");
    }
    let tally = load.run(amount.requests);
    outcome.requests = Some((tally.sent, tally.rate()));
    outcome.blame(&tally, "");
    outcome.answered = tally.is_good();
    match server.figures_at_rest() {
        Ok(figures) => outcome.figures = Some(figures),
        Err(why) => outcome.faults.push(why),
    }
    outcome.after = server.resident_kib().ok();
    outcome.judge_growth();
}

/// What must hold when no request is left.
fn end(mut server: Server, row: &Row, amount: Amount, outcome: &mut Outcome) {
    if let Some(status) = server.ended() {
        outcome
            .faults
            .push(format!("the server has ended: {status}"));
    } else {
        match client::get(server.address, "/") {
            Ok(reply) if reply.status == 200 => {}
            Ok(reply) => outcome
                .faults
                .push(format!("GET / afterwards: status {}", reply.status)),
            Err(trouble) => outcome.faults.push(format!("GET / afterwards: {trouble}")),
        }
        match server.figures_at_rest() {
            Ok(figures) => {
                let lost = figures
                    .taken
                    .iter()
                    .map(|(state, count)| format!("{count} {state}"));
                let lost: Vec<_> = lost.collect();
                if !lost.is_empty() {
                    outcome
                        .faults
                        .push(format!("buckets lost: {}", lost.join(", ")));
                }
            }
            Err(why) => outcome.faults.push(why),
        }
        match server.end() {
            Ok(Some(status)) if status.success() => {}
            Ok(Some(status)) => outcome.faults.push(format!("{status} at its end")),
            Ok(None) => outcome
                .faults
                .push("does not end within 10 s of SIGTERM".to_owned()),
            Err(error) => outcome
                .faults
                .push(format!("cannot be told to end: {error}")),
        }
    }
    let lines = server.lines();
    if let (Some(prints), true) = (&row.prints, outcome.answered) {
        outcome.faults.extend(missing(prints, &lines, amount));
    }
    if !outcome.faults.is_empty() {
        let telling = |line: &&String| {
            let words = [" WARN ", "ERROR", "error", "panicked"];
            words.iter().any(|word| line.contains(word)) && !line.contains(" INFO ")
        };
        let telling = lines.iter().filter(telling).take(SHOWN).cloned();
        outcome.lines.extend(telling);
    }
}

/// What is wrong with what was printed.
fn missing(prints: &Prints, lines: &[String], amount: Amount) -> Option<String> {
    let number = |line: &String| -> Option<u64> {
        let (_, rest) = line.split_once(&prints.text)?;
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        rest[..end].parse().ok()
    };
    let printed: Vec<u64> = lines.iter().filter_map(number).collect();
    let distinct: BTreeSet<u64> = printed.iter().copied().collect();
    let sent = amount.warm_up + amount.requests;
    let found = distinct.iter().filter(|&&n| n < sent).count() as u64;
    let wanted = if prints.each { sent } else { 1 };
    if found < wanted {
        Some(format!(
            "{found} of {sent} requests have their line {:?}",
            prints.text
        ))
    } else if printed.len() > distinct.len() {
        Some(format!(
            "{} lines {:?} were written twice",
            printed.len() - distinct.len(),
            prints.text
        ))
    } else {
        None
    }
}

impl Outcome {
    fn blame(&mut self, tally: &Tally, part: &str) {
        let sent = tally.sent;
        for (mistake, times) in &tally.bad {
            self.faults
                .push(format!("{mistake}: {times} of {sent} requests{part}"));
        }
        self.faults
            .extend(tally.gave_up.map(|why| format!("given up: {why}")));
        let example = tally.example.as_ref();
        self.lines
            .extend(example.map(|body| format!("a body that came: {body:?}")));
    }

    fn judge_growth(&mut self) {
        let (Some(before), Some(after)) = (self.before, self.after) else {
            return self.faults.push("its memory could not be read".to_owned());
        };
        if after * 100 > before * (100 + GROWTH_MAX_PERCENT) {
            let percent = (after - before) as f64 / before as f64 * 100.0;
            self.faults
                .push(format!("resident memory grew by {percent:.1} %"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AMOUNT: Amount = Amount {
        warm_up: 1,
        requests: 2,
        concurrency: 1,
        time: Duration::from_secs(1),
    };

    fn missing_of(each: bool, lines: &[&str]) -> Option<String> {
        let text = "line ".to_owned();
        let lines: Vec<String> = lines.iter().map(|&line| line.to_owned()).collect();
        missing(&Prints { text, each }, &lines, AMOUNT)
    }

    #[test]
    fn each_request_must_have_its_line_once() {
        assert_eq!(missing_of(true, &["a line 0.", "line 2", "line 1 x"]), None);
        assert!(missing_of(true, &["line 0", "line 1"]).is_some());
        assert!(missing_of(true, &["line 0", "line 1", "line 1"]).is_some());
        assert!(missing_of(true, &["line 0", "line 1", "line 3"]).is_some());
        assert!(missing_of(true, &["line 0", "line 1", "line 2", "line 2"]).is_some());
    }

    #[test]
    fn one_line_is_enough_for_a_log_that_may_drop_some() {
        assert_eq!(missing_of(false, &["line 1"]), None);
        assert!(missing_of(false, &["line x"]).is_some());
    }

    #[test]
    fn growth_of_more_than_one_per_cent_is_a_fault() {
        let faults = |before, after| {
            let mut outcome = Outcome {
                before,
                after,
                ..Outcome::default()
            };
            outcome.judge_growth();
            outcome.faults.len()
        };
        assert_eq!(faults(Some(20_000), Some(20_200)), 0);
        assert_eq!(faults(Some(20_000), Some(19_000)), 0);
        assert_eq!(faults(Some(20_000), Some(20_201)), 1);
        assert_eq!(faults(Some(20_000), None), 1);
    }
}
