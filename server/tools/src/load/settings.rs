//! The flags.

use super::mix::{self, Entry};
use super::schedule::Arrivals;
use super::target::{PidSetting, Url};
use crate::admin_client::AdminAddress;
use clap::Args;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use transom::parse_duration;
use transom_arena::Bytes;

/// The end of `--help`.
pub const EXAMPLES: &str = "\
Examples:
  transom load --mix 'GET /10 95%' --mix 'GET /{100..2000} 5%' -- target/release/oom --listen 127.0.0.1:0
  transom load --target http://127.0.0.1:8080 --pid auto --rate 20000 --html report.html --mix …

SIZE is a number of bytes, or one with KiB, MiB, GiB. TIME is a number with ms, s, m, h.";

/// The shortest phase that says anything.
const PHASE_MIN: Duration = Duration::from_millis(100);

/// The flags of `transom load`.
#[derive(Debug, Args)]
pub struct LoadSettings {
    /// The server's URL. Not needed for one of ours that is started here: its log says where it listens
    #[arg(long, value_name = "http://HOST:PORT", help_heading = "Server")]
    pub target: Option<Url>,

    /// The server's process, whose memory is watched: a number, several, or auto for the processes that
    /// listen on the target's port
    ///
    /// For a server that is started here, auto is the default; for others, not to look at all.
    #[arg(long, value_name = "auto|PID", value_delimiter = ',', help_heading = "Server")]
    pub pid: Vec<PidSetting>,

    /// Where the server's metrics are. For one of ours that is started here, its log says so
    #[arg(long, value_name = "http://HOST:PORT|unix:PATH", help_heading = "Server")]
    pub admin: Option<AdminAddress>,

    /// The memory that the server should not pass, instead of what its metrics or its log say
    #[arg(long, value_name = "SIZE", help_heading = "Server")]
    pub bound: Option<Bytes>,

    /// How long a server that is started here may take until it is ready
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration, help_heading = "Server")]
    pub start_timeout: Duration,

    /// Where to keep the log of a server that is started here
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub server_log: Option<PathBuf>,

    /// A server to start, with its arguments; it is ended afterwards
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,

    /// A kind of request and its share: 'GET /10 95%', 'GET /{100..2000} 5%'. More than once; shares add up
    /// to 100%
    ///
    /// A range in braces stands for a size that is drawn for each request, in the application's own unit.
    /// Requests with a range are taken to be hungry: they may fail. The word ordinary or hungry after the
    /// share says otherwise.
    #[arg(long, value_name = "METHOD PATH SHARE", required = true, help_heading = "Load")]
    pub mix: Vec<Entry>,

    /// Requests a second, or a part of what the server can do, which is measured first: 20000 or 70%
    #[arg(long, value_name = "N|N%", default_value = "70%", help_heading = "Load")]
    pub rate: Rate,

    /// The time of all measured phases together
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration, help_heading = "Load")]
    pub duration: Duration,

    /// How often to measure without and with hungry requests, in turn
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(1..=100), help_heading = "Load")]
    pub rounds: u32,

    /// Ordinary requests before anything is measured
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration, help_heading = "Load")]
    pub warm_up: Duration,

    /// The time in which the rate rises from nothing, before the warm-up
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_duration, help_heading = "Load")]
    pub ramp: Duration,

    /// How long to measure what the server can do, for --rate N%
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_duration, help_heading = "Load")]
    pub capacity_time: Duration,

    /// How requests follow each other
    #[arg(long, value_enum, default_value = "poisson", help_heading = "Load")]
    pub arrivals: Arrivals,

    /// Connections, which are kept open
    #[arg(long, value_name = "N", default_value = "64", value_parser = clap::value_parser!(u32).range(1..=10_000), help_heading = "Load")]
    pub connections: u32,

    /// Requests that may wait for a connection; one more is not sent, and counted
    #[arg(long, value_name = "N", default_value = "10000", value_parser = clap::value_parser!(u32).range(1..=10_000_000), help_heading = "Load")]
    pub backlog: u32,

    /// The longest that an answer may take
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration, help_heading = "Load")]
    pub timeout: Duration,

    /// What random numbers begin with: the same seed sends the same requests at the same times
    #[arg(long, value_name = "N", default_value = "1", help_heading = "Load")]
    pub seed: u64,

    /// Time between two looks at the server's memory and metrics
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = parse_duration, help_heading = "Report")]
    pub sample_every: Duration,

    /// Fail if p99 of ordinary requests moves by more than this factor beside hungry ones
    #[arg(long, value_name = "1.3x", value_parser = parse_factor, help_heading = "Report")]
    pub p99_limit: Option<f64>,

    /// Fail if memory grows by more than this after the warm-up
    #[arg(long, value_name = "1%", value_parser = parse_percent, help_heading = "Report")]
    pub growth_limit: Option<f64>,

    /// All figures, as JSON; - for standard output
    #[arg(long, value_name = "FILE|-", help_heading = "Report")]
    pub json: Option<PathBuf>,

    /// The report with plots, as one page
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub html: Option<PathBuf>,

    /// The plots, each as a file, in a folder
    #[arg(long, value_name = "FOLDER", help_heading = "Report")]
    pub plots: Option<PathBuf>,
}

impl LoadSettings {
    /// Checks what the flags mean together.
    ///
    /// # Errors
    /// What is wrong, with the flag's name.
    pub fn check(&self) -> Result<(), String> {
        mix::check(&self.mix)?;
        if self.target.is_none() && self.command.is_empty() {
            return Err(
                "there is no server: give --target http://HOST:PORT, or a command to start after --".to_owned(),
            );
        }
        if self.server_log.is_some() && self.command.is_empty() {
            return Err("--server-log: only a server that is started here has a log".to_owned());
        }
        if self.phase() < PHASE_MIN {
            return Err(format!(
                "--duration {:?} is too short for --rounds {}: a phase would last {:?}, less than {PHASE_MIN:?}",
                self.duration,
                self.rounds,
                self.phase()
            ));
        }
        let zero = [
            ("--timeout", self.timeout),
            ("--sample-every", self.sample_every),
            ("--capacity-time", self.capacity_time),
        ];
        match zero.into_iter().find(|(_, time)| time.is_zero()) {
            Some((flag, _)) => Err(format!("{flag}: it must be more than 0")),
            None => Ok(()),
        }
    }

    /// Whether the mix has hungry requests.
    pub fn has_hungry(&self) -> bool {
        self.mix.iter().any(|entry| entry.hungry)
    }

    /// The length of one phase.
    pub fn phase(&self) -> Duration {
        self.duration
            / if self.has_hungry() {
                2 * self.rounds
            } else {
                self.rounds
            }
    }
}

/// `--rate`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// Requests a second.
    PerSecond(f64),
    /// Of what the server can do, from 0.
    OfCapacity(f64),
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.ends_with('%') {
            let part = parse_percent(text)?;
            return match part > 0.0 {
                true => Ok(Rate::OfCapacity(part)),
                false => Err(format!("{text:?} is no rate: nothing would be sent")),
            };
        }
        text.parse()
            .ok()
            .filter(|rate| *rate > 0.0 && *rate <= 10_000_000.0)
            .map(Rate::PerSecond)
            .ok_or_else(|| {
                format!("{text:?} is not a rate: write requests a second, or a part of what the server can do, as in 70%")
            })
    }
}

fn parse_percent(text: &str) -> Result<f64, String> {
    let number = text
        .strip_suffix('%')
        .and_then(|number| number.trim_end().parse::<f64>().ok());
    number
        .filter(|percent| *percent >= 0.0 && *percent <= 1000.0)
        .map(|percent| percent / 100.0)
        .ok_or_else(|| format!("{text:?} is not a part: write a number and %, as in 70%"))
}

fn parse_factor(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches(['x', '×']);
    (number
        .parse::<f64>()
        .ok()
        .filter(|factor| *factor > 0.0 && factor.is_finite()))
    .ok_or_else(|| format!("{text:?} is not a factor: write it as in 1.3x"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        settings: LoadSettings,
    }

    const MIX: [&str; 4] = ["--mix", "GET /10 95%", "--mix", "GET /{1..9} 5%"];

    fn settings(flags: &[&str]) -> Result<LoadSettings, String> {
        let words = ["load"].iter().chain(&MIX).chain(flags);
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        line.settings.check().map(|()| line.settings)
    }

    #[test]
    fn what_is_wrong_has_its_flag_in_it() {
        for (flags, part) in [
            (&[][..], "--target"),
            (&["--target", "nowhere"], "--target"),
            (&["--target", "http://a:1", "--rate", "fast"], "--rate"),
            (&["--target", "http://a:1", "--rate", "0"], "--rate"),
            (&["--target", "http://a:1", "--rate", "0%"], "--rate"),
            (&["--target", "http://a:1", "--duration", "5"], "--duration"),
            (
                &["--target", "http://a:1", "--duration", "100ms"],
                "--rounds",
            ),
            (&["--target", "http://a:1", "--pid", "me"], "--pid"),
            (&["--target", "http://a:1", "--timeout", "0"], "--timeout"),
            (
                &["--target", "http://a:1", "--p99-limit", "often"],
                "--p99-limit",
            ),
            (
                &["--target", "http://a:1", "--growth-limit", "1"],
                "--growth-limit",
            ),
            (
                &["--target", "http://a:1", "--server-log", "x"],
                "--server-log",
            ),
            (&["--target", "http://a:1", "--mix", "GET /1 5%"], "--mix"),
            (&["--target", "http://a:1", "--mix", "GET /1"], "--mix"),
        ] {
            let error = settings(flags).expect_err(part);
            assert!(error.contains(part), "{flags:?}: {error}");
        }
    }

    #[test]
    fn a_command_comes_last() {
        let settings = settings(&[
            "--rate",
            "70%",
            "--p99-limit",
            "1.3x",
            "--",
            "oom",
            "--buckets",
            "8",
        ])
        .expect("fine");
        assert_eq!(settings.command, ["oom", "--buckets", "8"]);
        assert_eq!(settings.rate, Rate::OfCapacity(0.7));
        assert_eq!(settings.p99_limit, Some(1.3));
        assert_eq!(settings.phase(), Duration::from_secs(5));
    }
}
