//! wrk: how it is started, and what it prints.

use crate::machine::Cpus;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// What clients do to a server.
#[derive(Debug, Clone)]
pub struct Load {
    /// Connections at once.
    pub connections: u32,
    /// Threads of wrk.
    pub threads: u32,
    /// Path of the requests.
    pub path: String,
    /// A field of each request, such as `Connection: close`.
    pub field: Option<&'static str>,
    /// A script, if the requests are not plain GETs.
    pub script: Option<PathBuf>,
}

/// What wrk has counted.
#[derive(Debug, Clone, PartialEq)]
pub struct Counts {
    /// Answers.
    pub requests: u64,
    /// Answers a second.
    pub rate: f64,
    /// Half of the answers took at most so many µs.
    pub p50_us: f64,
    /// 99 of 100 did.
    pub p99_us: f64,
    /// Answers that were neither 2xx nor 3xx.
    pub failed: u64,
    /// Connections and requests that failed, in wrk's words; empty if none.
    pub errors: String,
}

impl Load {
    /// The arguments of wrk, itself included.
    pub fn command(&self, port: u16, seconds: u32, cpus: &Cpus) -> Vec<String> {
        let mut words: Vec<String> = ["taskset", "-c", &cpus.to_string(), "wrk"]
            .map(String::from)
            .into();
        words.push(format!("-t{}", self.threads));
        words.push(format!("-c{}", self.connections));
        words.push(format!("-d{seconds}s"));
        words.extend(["--latency", "--timeout", "30s"].map(String::from));
        if let Some(field) = self.field {
            words.extend(["-H".to_owned(), field.to_owned()]);
        }
        if let Some(script) = &self.script {
            words.extend(["-s".to_owned(), script.display().to_string()]);
        }
        words.push(format!("http://127.0.0.1:{port}{}", self.path));
        words
    }

    /// Starts wrk. It ends by itself.
    pub fn start(&self, port: u16, seconds: u32, cpus: &Cpus) -> Result<Child, String> {
        let words = self.command(port, seconds, cpus);
        // So that it does not outlive us: the server does not either.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .args(&words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        child.map_err(|error| format!("wrk did not start: {error}"))
    }
}

/// Waits for wrk and reads what it prints.
pub fn finish(child: Child) -> Result<Counts, String> {
    let output = child
        .wait_with_output()
        .map_err(|error| format!("wrk: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "wrk: {}: {}{}",
            output.status,
            text.trim(),
            complaint.trim()
        ));
    }
    parse(&text).ok_or_else(|| "no answer".into())
}

/// What wrk's report says. `None` if it is not one, or nothing was answered.
fn parse(report: &str) -> Option<Counts> {
    let (mut requests, mut rate, mut p50_us, mut p99_us) = (None, None, None, None);
    let (mut failed, mut errors) = (0, String::new());
    for line in report.lines().map(str::trim) {
        if let Some(time) = line.strip_prefix("50%") {
            p50_us = p50_us.or_else(|| microseconds(time.trim()));
        } else if let Some(time) = line.strip_prefix("99%") {
            p99_us = p99_us.or_else(|| microseconds(time.trim()));
        } else if let Some((count, _)) = line.split_once(" requests in ") {
            requests = count.parse().ok();
        } else if let Some(number) = line.strip_prefix("Requests/sec:") {
            rate = number.trim().parse().ok();
        } else if let Some(number) = line.strip_prefix("Non-2xx or 3xx responses:") {
            failed = number.trim().parse().ok()?;
        } else if let Some(what) = line.strip_prefix("Socket errors:") {
            let some = what
                .split(',')
                .map(str::trim)
                .filter(|kind| !kind.ends_with(" 0"));
            errors = some.collect::<Vec<_>>().join(", ");
        }
    }
    Some(Counts {
        requests: requests.filter(|&requests| requests > 0)?,
        rate: rate?,
        p50_us: p50_us?,
        p99_us: p99_us?,
        failed,
        errors,
    })
}

/// A time as wrk prints it: `203.00us`, `1.15ms`, `4.28s`, `1.05m`.
fn microseconds(time: &str) -> Option<f64> {
    let number = time.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let scale = match &time[number.len()..] {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "m" => 60e6,
        "h" => 3600e6,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "\
Running 5s test @ http://127.0.0.1:18080/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   420.71us  199.50us   9.06ms   99.10%
    Req/Sec   144.71k     3.50k  149.24k    74.00%
  Latency Distribution
     50%  407.00us
     75%  432.00us
     90%  466.00us
     99%    2.38ms
  722710 requests in 5.00s, 89.60MB read
Requests/sec: 144542.25
Transfer/sec:     17.92MB
";

    #[test]
    fn a_report_without_failures() {
        let counts = parse(REPORT).unwrap();
        let expected = Counts {
            requests: 722_710,
            rate: 144_542.25,
            p50_us: 407.0,
            p99_us: 2380.0,
            failed: 0,
            errors: String::new(),
        };
        assert_eq!(counts, expected);
    }

    #[test]
    fn failures_and_errors_are_told() {
        let report = REPORT.replace(
            "Requests/sec:",
            "  Socket errors: connect 0, read 3, write 0, timeout 12\n  Non-2xx or 3xx responses: 50308\nRequests/sec:",
        );
        let counts = parse(&report).unwrap();
        assert_eq!(counts.failed, 50_308);
        assert_eq!(counts.errors, "read 3, timeout 12");
    }

    #[test]
    fn no_answer_is_no_report() {
        assert_eq!(
            parse(&REPORT.replace("722710 requests", "0 requests")),
            None
        );
        assert_eq!(
            parse("unable to connect to 127.0.0.1:1 Connection refused\n"),
            None
        );
        assert_eq!(parse(""), None);
    }

    #[test]
    fn times_in_all_units() {
        assert_eq!(microseconds("203.00us"), Some(203.0));
        assert_eq!(microseconds("1.15ms"), Some(1150.0));
        assert_eq!(microseconds("4.28s"), Some(4_280_000.0));
        assert_eq!(microseconds("1.50m"), Some(90e6));
        assert_eq!(microseconds("12"), None);
        assert_eq!(microseconds("fast"), None);
    }
}
