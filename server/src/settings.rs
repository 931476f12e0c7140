//! The command line: every limit is a flag with a default, and an environment variable `TRANSOM_…`.
//!
//! Parsing checks what a single value can show; [`crate::plan`] checks what they mean together. Nothing is clamped: a
//! setting that cannot hold is refused by the name of its flag.

use crate::log::LogFormat;
use clap::{Args, ValueEnum};
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;
use tracing::level_filters::LevelFilter;
use transom_arena::{Bytes, Policy, Wipe};

/// The flags that every Transom server has.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// Address to serve HTTP on. May be given more than once
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        env = "TRANSOM_LISTEN",
        value_delimiter = ',',
        default_value = "127.0.0.1:8080",
        help_heading = "Serving"
    )]
    pub listen: Vec<SocketAddr>,

    /// Threads of the front end, each with its own connections [default: one per core]
    #[arg(
        long,
        env = "TRANSOM_LOOPS",
        value_name = "N",
        help_heading = "Serving"
    )]
    pub loops: Option<NonZeroU16>,

    /// Connections held at once, over all loops; more wait in the kernel's backlog
    #[arg(
        long,
        env = "TRANSOM_CONNECTIONS",
        value_name = "N",
        default_value = "1024",
        help_heading = "Serving"
    )]
    pub connections: NonZeroU32,

    /// Connections that may wait to be accepted, per listener
    #[arg(
        long,
        env = "TRANSOM_BACKLOG",
        value_name = "N",
        default_value = "1024",
        help_heading = "Serving"
    )]
    pub backlog: NonZeroU16,

    /// Requests on one connection before it is closed
    #[arg(
        long,
        env = "TRANSOM_REQUESTS_PER_CONNECTION",
        value_name = "N",
        default_value = "1000000",
        help_heading = "Serving"
    )]
    pub requests_per_connection: NonZeroU32,

    /// Buckets: requests that can be in a handler at once. Each has a thread, started when it is first needed
    #[arg(
        long,
        env = "TRANSOM_BUCKETS",
        value_name = "N",
        default_value = "64",
        help_heading = "Memory"
    )]
    pub buckets: u32,

    /// Bytes of one bucket: stack, arena, and 44KiB or so of guard pages and reserve
    #[arg(
        long,
        env = "TRANSOM_BUCKET_SIZE",
        value_name = "SIZE",
        default_value = "512KiB",
        help_heading = "Memory"
    )]
    pub bucket_size: Bytes,

    /// Bytes of a bucket that are its stack
    #[arg(
        long,
        env = "TRANSOM_STACK_SIZE",
        value_name = "SIZE",
        default_value = "128KiB",
        help_heading = "Memory"
    )]
    pub stack_size: Bytes,

    /// Calls in flight per loop, in a handler or waiting for one [default: twice the buckets, 16 to 4096]
    #[arg(long, env = "TRANSOM_SLOTS", value_name = "N", help_heading = "Memory")]
    pub slots: Option<NonZeroU32>,

    /// Bytes of a request in its slot: head, decoded path, index of fields, body. A larger body streams through it
    #[arg(
        long,
        env = "TRANSOM_REQUEST_SIZE",
        value_name = "SIZE",
        default_value = "64KiB",
        help_heading = "Memory"
    )]
    pub request_size: Bytes,

    /// Bytes of a reply in its slot. A larger body streams through it
    #[arg(
        long,
        env = "TRANSOM_REPLY_SIZE",
        value_name = "SIZE",
        default_value = "64KiB",
        help_heading = "Memory"
    )]
    pub reply_size: Bytes,

    /// Bytes of state that outlives requests (`Shared`)
    #[arg(
        long,
        env = "TRANSOM_SHARED_HEAP",
        value_name = "SIZE",
        default_value = "1MiB",
        help_heading = "Memory"
    )]
    pub shared_heap: Bytes,

    /// Unfinished heads (and small bodies) kept per loop; when they run out the oldest gets a 408
    #[arg(
        long,
        env = "TRANSOM_PARTIAL_HEADS",
        value_name = "N",
        default_value = "256",
        help_heading = "Memory"
    )]
    pub partial_heads: NonZeroU16,

    /// Bytes of the longest head, request line included
    #[arg(
        long,
        env = "TRANSOM_HEAD_LIMIT",
        value_name = "SIZE",
        default_value = "16KiB",
        help_heading = "Memory"
    )]
    pub head_limit: Bytes,

    /// Bytes of the largest request body; a larger one gets a 413
    #[arg(
        long,
        env = "TRANSOM_BODY_LIMIT",
        value_name = "SIZE",
        default_value = "1GiB",
        help_heading = "Memory"
    )]
    pub body_limit: Bytes,

    /// Bytes that the kernel may hold of what a client has sent (it doubles them for its own bookkeeping)
    #[arg(
        long,
        env = "TRANSOM_RECEIVE_BUFFER",
        value_name = "SIZE",
        default_value = "32KiB",
        help_heading = "Memory"
    )]
    pub receive_buffer: Bytes,

    /// Bytes that the kernel may hold of what a client has not taken yet (doubled likewise)
    #[arg(
        long,
        env = "TRANSOM_SEND_BUFFER",
        value_name = "SIZE",
        default_value = "64KiB",
        help_heading = "Memory"
    )]
    pub send_buffer: Bytes,

    /// Leave the region untouched at start; the kernel provides it page by page
    #[arg(long, env = "TRANSOM_LAZY", help_heading = "Memory")]
    pub lazy: bool,

    /// Lock the region in physical memory
    #[arg(long, env = "TRANSOM_LOCK", help_heading = "Memory")]
    pub lock: bool,

    /// Ask for huge pages in the region, where its parts are large enough
    #[arg(long, env = "TRANSOM_HUGE_PAGES", help_heading = "Memory")]
    pub huge_pages: bool,

    /// What happens to an arena's bytes between two requests
    #[arg(
        long,
        env = "TRANSOM_WIPE",
        value_enum,
        default_value = "none",
        help_heading = "Memory"
    )]
    pub wipe: WipeSetting,

    /// What happens to a request that outgrows its bucket through an ordinary allocation or its stack
    /// [default: as the application promises]
    ///
    /// park: its client gets a 500, its thread and bucket are lost until the process is replaced. escape: its client
    /// gets a 500, its handler is left by a jump, its bucket is used again; only for applications whose author has
    /// promised the escape contract
    #[arg(
        long,
        env = "TRANSOM_ON_EXHAUSTION",
        value_enum,
        help_heading = "Memory"
    )]
    pub on_exhaustion: Option<OnExhaustion>,

    /// Parked buckets at which the process drains and exits with status 75, to be started anew by whoever supervises it
    /// [default: half of the buckets]
    #[arg(
        long,
        env = "TRANSOM_PARKED_LIMIT",
        value_name = "N",
        help_heading = "Memory"
    )]
    pub parked_limit: Option<NonZeroU32>,

    /// How long a request may wait for a bucket before it gets a 503
    #[arg(long, env = "TRANSOM_QUEUE_TIMEOUT", value_parser = parse_duration, value_name = "TIME", default_value = "1s", help_heading = "Time")]
    pub queue_timeout: Duration,

    /// How long a request may take in all before it gets a 504; 0 for ever
    #[arg(long, env = "TRANSOM_DEADLINE", value_parser = parse_duration, value_name = "TIME", default_value = "60s", help_heading = "Time")]
    pub deadline: Duration,

    /// How long a head may take from its first byte to its last
    #[arg(long, env = "TRANSOM_HEADER_TIMEOUT", value_parser = parse_duration, value_name = "TIME", default_value = "10s", help_heading = "Time")]
    pub header_timeout: Duration,

    /// How long a body may take
    #[arg(long, env = "TRANSOM_BODY_TIMEOUT", value_parser = parse_duration, value_name = "TIME", default_value = "30s", help_heading = "Time")]
    pub body_timeout: Duration,

    /// How long a client may take none of its answer
    #[arg(long, env = "TRANSOM_WRITE_TIMEOUT", value_parser = parse_duration, value_name = "TIME", default_value = "30s", help_heading = "Time")]
    pub write_timeout: Duration,

    /// How long a connection may stay open without a request
    #[arg(long, env = "TRANSOM_IDLE_TIMEOUT", value_parser = parse_duration, value_name = "TIME", default_value = "75s", help_heading = "Time")]
    pub idle_timeout: Duration,

    /// How long requests in progress get to end once the process is told to stop
    #[arg(long, env = "TRANSOM_DRAIN_TIMEOUT", value_parser = parse_duration, value_name = "TIME", default_value = "10s", help_heading = "Time")]
    pub drain_timeout: Duration,

    /// How log lines look: auto is human on a terminal and JSON elsewhere
    #[arg(
        long,
        env = "TRANSOM_LOG",
        value_enum,
        default_value = "human",
        help_heading = "Logs"
    )]
    pub log: LogSetting,

    /// The least severe log line that is written: off, error, warn, info, debug
    #[arg(
        long,
        env = "TRANSOM_LOG_LEVEL",
        value_name = "LEVEL",
        default_value = "info",
        help_heading = "Logs"
    )]
    pub log_level: LevelFilter,

    /// Log lines that may wait to be written; more are dropped and counted
    #[arg(
        long,
        env = "TRANSOM_LOG_QUEUE",
        value_name = "N",
        default_value = "512",
        help_heading = "Logs"
    )]
    pub log_queue: NonZeroU16,

    /// Print the memory equation of these settings and exit, without serving
    #[arg(long, env = "TRANSOM_CHECK", help_heading = "Serving")]
    pub check: bool,
}

/// `--wipe`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WipeSetting {
    /// Nothing
    None,
    /// Zeroed
    Zero,
    /// Overwritten with 0xDB, so that a use after the request's end shows
    Poison,
}

impl From<WipeSetting> for Wipe {
    fn from(setting: WipeSetting) -> Self {
        match setting {
            WipeSetting::None => Wipe::None,
            WipeSetting::Zero => Wipe::Zero,
            WipeSetting::Poison => Wipe::Poison,
        }
    }
}

/// `--on-exhaustion`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnExhaustion {
    /// Answer 500, then let the thread sleep for ever
    Park,
    /// Answer 500 and leave the handler by a jump
    Escape,
}

impl From<OnExhaustion> for Policy {
    fn from(setting: OnExhaustion) -> Self {
        match setting {
            OnExhaustion::Park => Policy::Park,
            OnExhaustion::Escape => Policy::Escape,
        }
    }
}

/// `--log`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogSetting {
    /// Human on a terminal, JSON elsewhere
    Auto,
    /// One readable line per event
    Human,
    /// One JSON object per line
    Json,
}

impl From<LogSetting> for LogFormat {
    fn from(setting: LogSetting) -> Self {
        match setting {
            LogSetting::Auto => LogFormat::Auto,
            LogSetting::Human => LogFormat::Human,
            LogSetting::Json => LogFormat::Json,
        }
    }
}

impl Settings {
    /// Loops: as set, or one per core.
    #[must_use]
    pub fn loops(&self) -> u32 {
        self.loops.map_or_else(
            || {
                std::thread::available_parallelism()
                    .map_or(1, |n| u32::try_from(n.get()).unwrap_or(1))
            },
            |n| u32::from(n.get()),
        )
    }

    /// Slots per loop: as set, or twice the buckets, so that a thread that becomes free finds the next call waiting.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.slots.map_or_else(
            || self.buckets.saturating_mul(2).clamp(16, SLOTS_MAX),
            NonZeroU32::get,
        )
    }

    /// Connections of one loop.
    #[must_use]
    pub fn connections_per_loop(&self) -> u32 {
        self.connections.get().div_ceil(self.loops())
    }

    /// Parked buckets at which the process is replaced.
    #[must_use]
    pub fn parked_limit(&self) -> u32 {
        self.parked_limit
            .map_or_else(|| self.buckets.div_ceil(2), NonZeroU32::get)
    }

    /// The deadline in nanoseconds, `None` for none.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        Some(self.deadline).filter(|deadline| !deadline.is_zero())
    }
}

/// The most slots of a channel.
pub const SLOTS_MAX: u32 = 4096;

/// Reads `250ms`, `10s`, `2m`, `1h` or `0`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor_ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" if number.bytes().all(|b| b == b'0') => 0,
        _ => {
            return Err(format!(
                "{text:?} is not a time: write a whole number and ms, s, m or h, as in 250ms"
            ));
        }
    };
    let most = u64::from(u32::MAX);
    number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(factor_ms))
        .filter(|&ms| ms <= most)
        .map(Duration::from_millis)
        .ok_or_else(|| {
            format!(
                "{text:?} is not a time between 0 and {} days",
                most / 86_400_000
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        settings: Settings,
    }

    fn parse(arguments: &[&str]) -> Result<Settings, clap::Error> {
        Command::try_parse_from(std::iter::once(&"test").chain(arguments))
            .map(|command| command.settings)
    }

    #[test]
    fn defaults_are_complete() {
        let settings = parse(&[]).expect("defaults");
        assert_eq!(settings.buckets, 64);
        assert_eq!(settings.slots(), 128);
        assert_eq!(settings.parked_limit(), 32);
    }

    #[test]
    fn times_have_units_and_limits() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        for wrong in [
            "",
            "5",
            "ms",
            "-1s",
            "1.5s",
            "1d",
            "99999999999999999999s",
            "2000h",
        ] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_wrong_value_names_its_flag() {
        for (arguments, part) in [
            (["--bucket-size", "64KB"], "--bucket-size"),
            (["--queue-timeout", "5"], "--queue-timeout"),
            (["--listen", "localhost"], "--listen"),
            (["--loops", "0"], "--loops"),
        ] {
            let error = parse(&arguments).expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
