//! What a front end needs, with or without an application of its own.

use super::values::{
    level_parser, parse_count, parse_duration, parse_host, parse_mode, with_variable,
};
use clap::{ArgAction, Args, ValueEnum};
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;
use std::time::Duration;
use tracing::level_filters::LevelFilter;
use transom_arena::Bytes;
use transom_http::peer::Trusted;
use transom_net::ListenAddress;

/// The flags of a front end: loops, connections, HTTP, times, logs.
#[derive(Debug, Clone, Args)]
#[command(mut_args = with_variable)]
pub struct FrontSettings {
    /// Threads of the front end, each with its own connections [default: one per core]
    #[arg(long, value_name = "N", value_parser = parse_count::<NonZeroU16>, help_heading = "Serving")]
    pub loops: Option<NonZeroU16>,

    /// Connections held at once, over all loops; more wait in the kernel's backlog. A tcp:// forward holds as
    /// many at most beside them, and has a slot of its door for each
    #[arg(
        long,
        value_name = "N",
        value_parser = parse_count::<NonZeroU32>,
        default_value = "1024",
        help_heading = "Serving"
    )]
    pub connections: NonZeroU32,

    /// Of these, how many one address may have, over all loops (of IPv6, one network of 64 bits); more are
    /// closed as soon as they are accepted. Behind a proxy, the address is the one that its PROXY header
    /// names, and connections of those that --forwarded believes are not counted [default: all of them]
    #[arg(long, value_name = "N", value_parser = parse_count::<NonZeroU32>, help_heading = "Serving")]
    pub connections_per_address: Option<NonZeroU32>,

    /// Connections that may wait to be accepted, per listener. What the kernel does not grant is said at the
    /// start
    #[arg(
        long,
        value_name = "N",
        value_parser = parse_count::<NonZeroU16>,
        default_value = "1024",
        help_heading = "Serving"
    )]
    pub backlog: NonZeroU16,

    /// A second address, for the operator of the server: metrics, health and a live page, answered by a loop,
    /// slots and a bucket that are kept aside for it [default: none]
    #[arg(long, value_name = "ADDRESS:PORT|unix:PATH|systemd:NAME", help_heading = "Serving")]
    pub admin: Option<ListenAddress>,

    /// Names by which --admin may be asked, beside addresses and names without a dot; others get a 421. May
    /// be given more than once
    #[arg(long, value_name = "NAME", value_parser = parse_host, value_delimiter = ',', help_heading = "Serving")]
    pub admin_host: Vec<String>,

    /// Take only IPv6 at `[::]`. Without, IPv4 comes there too, unless 0.0.0.0 is listened on at the same
    /// port
    #[arg(
        long,
        value_name = "BOOL",
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value = "false",
        hide_default_value = true,
        help_heading = "Serving"
    )]
    pub ipv6_only: bool,

    /// Permissions of the Unix sockets that are listened on: who may connect is who may write to them
    #[arg(long, value_parser = parse_mode, value_name = "OCTAL", default_value = "0660", help_heading = "Serving")]
    pub listen_mode: u32,

    /// Whether connections begin with a header of the PROXY protocol (version 1 or 2) that says who the
    /// client is
    ///
    /// require: all do; those that do not are closed, and so are connections from others than --trust says
    #[arg(long, value_enum, default_value = "off", help_heading = "Proxies")]
    pub proxy_protocol: ProxySetting,

    /// Bytes of the longest PROXY header of version 2; a connection with a longer one is closed. At most
    /// --head-limit
    #[arg(long, value_name = "SIZE", default_value = "4KiB", help_heading = "Proxies")]
    pub proxy_header_limit: Bytes,

    /// Which field of a request says who the client is, if it comes from those that --trust names: the
    /// rightmost address in it that they do not have
    #[arg(long, value_enum, default_value = "off", help_heading = "Proxies")]
    pub forwarded: ForwardedSetting,

    /// Proxies that are believed: ADDRESS, ADDRESS/PREFIX, or unix: for clients of Unix sockets. May be given
    /// more than once
    #[arg(
        long,
        value_name = "ADDRESS/PREFIX|unix:",
        value_delimiter = ',',
        help_heading = "Proxies"
    )]
    pub trust: Vec<Trusted>,

    /// Requests on one connection before it is closed
    #[arg(
        long,
        value_name = "N",
        value_parser = parse_count::<NonZeroU32>,
        default_value = "1000000",
        help_heading = "Serving"
    )]
    pub requests_per_connection: NonZeroU32,

    /// Unfinished heads (and small bodies) kept per loop; when they run out the slowest gets a 408
    #[arg(
        long,
        value_name = "N",
        value_parser = parse_count::<NonZeroU16>,
        default_value = "256",
        help_heading = "Memory"
    )]
    pub partial_heads: NonZeroU16,

    /// Bytes of the longest head, request line included
    #[arg(long, value_name = "SIZE", default_value = "16KiB", help_heading = "Memory")]
    pub head_limit: Bytes,

    /// Bytes of the largest request body; a larger one gets a 413
    #[arg(long, value_name = "SIZE", default_value = "1GiB", help_heading = "Memory")]
    pub body_limit: Bytes,

    /// Bytes that the kernel may hold of what a client has sent (it doubles them for its own bookkeeping).
    /// What it does not grant is said at the start
    #[arg(long, value_name = "SIZE", default_value = "32KiB", help_heading = "Memory")]
    pub receive_buffer: Bytes,

    /// Bytes that the kernel may hold of datagrams that a udp forward has not taken yet (doubled likewise): a
    /// small one takes about 800. What it does not grant is said at the start
    #[arg(long, value_name = "SIZE", default_value = "1MiB", help_heading = "Memory")]
    pub datagram_buffer: Bytes,

    /// Bytes that the kernel may hold of what a client has not taken yet (doubled likewise). What it does not
    /// grant is said at the start
    #[arg(long, value_name = "SIZE", default_value = "64KiB", help_heading = "Memory")]
    pub send_buffer: Bytes,

    /// Bytes that a channel to a door of another process may have; a door that wants more is not opened
    #[arg(long, value_name = "SIZE", default_value = "21MiB", help_heading = "Memory")]
    pub channel_limit: Bytes,

    /// How long a request may wait for a bucket before it gets a 503
    #[arg(long, value_parser = parse_duration, value_name = "TIME", default_value = "1s", help_heading = "Time")]
    pub queue_timeout: Duration,

    /// How long a request may take in all before it gets a 504; 0 for ever
    #[arg(long, value_parser = parse_duration, value_name = "TIME", default_value = "60s", help_heading = "Time")]
    pub deadline: Duration,

    /// How long a head may take from its first byte to its last
    #[arg(long, value_parser = parse_duration, value_name = "TIME", default_value = "10s", help_heading = "Time")]
    pub header_timeout: Duration,

    /// How long a client that sends a body may send none of it; every byte gives some of that time back
    /// (--body-rate)
    #[arg(long, value_parser = parse_duration, value_name = "TIME", default_value = "30s", help_heading = "Time")]
    pub body_timeout: Duration,

    /// Bytes a second that a body must come with in the long run: who is slower uses up --body-timeout; 0 for
    /// any rate
    #[arg(long, value_name = "SIZE", default_value = "1KiB", help_heading = "Time")]
    pub body_rate: Bytes,

    /// How long a client may take none of its answer; every byte gives some of that time back (--write-rate)
    #[arg(long, value_parser = parse_duration, value_name = "TIME", default_value = "30s", help_heading = "Time")]
    pub write_timeout: Duration,

    /// Bytes a second at which a client must take its answers in the long run: who is slower uses up
    /// --write-timeout; 0 for any rate
    #[arg(long, value_name = "SIZE", default_value = "1KiB", help_heading = "Time")]
    pub write_rate: Bytes,

    /// How long a connection may stay open without a request; of a tcp:// forward, without a byte either way
    /// (not of tcp://unix:, whose sockets have no clocks)
    #[arg(long, value_parser = parse_duration, value_name = "TIME", default_value = "75s", help_heading = "Time")]
    pub idle_timeout: Duration,

    /// How long the process goes on accepting once it is told to stop, while /ready of --admin says 503
    /// already: until load balancers have seen that. A second signal ends it. Then comes --drain-timeout
    #[arg(long, value_parser = parse_duration, value_name = "TIME", default_value = "0", help_heading = "Time")]
    pub drain_delay: Duration,

    /// How long requests in progress get to end once the process is told to stop (docker stop and others kill
    /// after 10s)
    #[arg(long, value_parser = parse_duration, value_name = "TIME", default_value = "8s", help_heading = "Time")]
    pub drain_timeout: Duration,

    /// How long a new instance may take to be ready, to which the listeners are handed at SIGUSR2 or by
    /// --recycle
    ///
    /// The new instance is the program at the same path, with the same arguments and environment. When it is
    /// ready the old one drains; until that has ended, both have their memory. If it does not become ready,
    /// it is killed. After SIGUSR2 the old one then goes on; if it was to be replaced (--recycle), it drains
    /// and exits with status 75.
    #[arg(long, value_parser = parse_duration, value_name = "TIME", default_value = "30s", help_heading = "Time")]
    pub handover_timeout: Duration,

    /// How log lines look: auto is human on a terminal and JSON elsewhere
    #[arg(long, value_enum, default_value = "human", help_heading = "Logs")]
    pub log: LogSetting,

    /// The least severe log line that is written
    #[arg(long, value_name = "LEVEL", value_parser = level_parser(), default_value = "info", help_heading = "Logs")]
    pub log_level: LevelFilter,

    /// Log lines that may wait to be written; more are dropped and counted
    #[arg(
        long,
        value_name = "N",
        value_parser = parse_count::<NonZeroU16>,
        default_value = "512",
        help_heading = "Logs"
    )]
    pub log_queue: NonZeroU16,

    /// Bytes of the process that no other flag sets: code, libraries, and what the program has allocated when
    /// it is ready. A larger program has more, and its log says so
    #[arg(long, value_name = "SIZE", default_value = "6MiB", help_heading = "Memory")]
    pub constant: Bytes,

    /// Write a line for each request: off, combined (as Apache and nginx do, with more behind it), or json
    #[arg(long, value_enum, default_value = "off", help_heading = "Logs")]
    pub access_log: AccessLogSetting,

    /// File that the lines of --access-log are appended to; opened anew on SIGHUP, as logrotate wants it
    /// [default: standard output]
    #[arg(long, value_name = "PATH", help_heading = "Logs")]
    pub access_log_file: Option<PathBuf>,

    /// Lines of --access-log that may wait to be written; more are dropped and counted
    #[arg(
        long,
        value_name = "N",
        value_parser = parse_count::<NonZeroU16>,
        default_value = "1024",
        help_heading = "Logs"
    )]
    pub access_log_queue: NonZeroU16,

    /// Print the memory equation of these settings and exit, without serving
    #[arg(long, help_heading = "Serving")]
    pub check: bool,

    /// The flags that have another value than their default, without dashes; of a front end for applications
    /// in other processes.
    #[arg(skip)]
    pub(crate) given: Vec<String>,
}

/// `--proxy-protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProxySetting {
    /// None does
    Off,
    /// All do
    Require,
}

/// `--forwarded`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ForwardedSetting {
    /// None
    Off,
    /// Forwarded (RFC 7239)
    Forwarded,
    /// X-Forwarded-For
    XForwardedFor,
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

/// `--access-log`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AccessLogSetting {
    /// No line
    Off,
    /// The combined log format, and behind it what that does not have
    Combined,
    /// One JSON object per request
    Json,
}

/// Loops where it is not set how many: one for each core.
pub(super) fn default_loops() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1))
}

impl FrontSettings {
    /// Loops: as set, or one per core.
    #[must_use]
    pub fn loops(&self) -> u32 {
        self.loops
            .map_or_else(default_loops, |n| u32::from(n.get()))
    }

    /// The settings of the loop that is kept aside for `--admin`: as these, but small, and for clients that
    /// are known.
    pub(crate) fn for_admin(&self) -> FrontSettings {
        FrontSettings {
            loops: Some(NonZeroU16::MIN),
            connections: const { NonZeroU32::new(32).expect("not 0") },
            connections_per_address: None,
            partial_heads: const { NonZeroU16::new(8).expect("not 0") },
            head_limit: Bytes(8 << 10),
            body_limit: Bytes(4 << 10),
            proxy_protocol: ProxySetting::Off,
            forwarded: ForwardedSetting::Off,
            trust: Vec::new(),
            access_log: AccessLogSetting::Off,
            access_log_file: None,
            // One bucket answers all of them, so no request may hold it for long.
            write_timeout: Duration::from_secs(2),
            write_rate: Bytes(256 << 10),
            header_timeout: Duration::from_secs(2),
            ..self.clone()
        }
    }

    /// The flags that SIGHUP gives new values while the server runs, without dashes: no memory was set aside
    /// for them.
    pub(crate) const CHANGEABLE: [&str; 19] = [
        "connections-per-address",
        "proxy-protocol",
        "proxy-header-limit",
        "forwarded",
        "trust",
        "requests-per-connection",
        "body-limit",
        "queue-timeout",
        "deadline",
        "header-timeout",
        "body-timeout",
        "body-rate",
        "write-timeout",
        "write-rate",
        "idle-timeout",
        "drain-delay",
        "drain-timeout",
        "handover-timeout",
        "log-level",
    ];

    /// Takes over the values of [`FrontSettings::CHANGEABLE`], and no others.
    pub(crate) fn change_to(&mut self, new: &FrontSettings) {
        // What addresses are counted in is there or not.
        if self.connections_per_address.is_some() && new.connections_per_address.is_some() {
            self.connections_per_address = new.connections_per_address;
        }
        self.proxy_protocol = new.proxy_protocol;
        self.proxy_header_limit = new.proxy_header_limit;
        self.forwarded = new.forwarded;
        self.trust = new.trust.clone();
        self.requests_per_connection = new.requests_per_connection;
        self.body_limit = new.body_limit;
        self.queue_timeout = new.queue_timeout;
        self.deadline = new.deadline;
        self.header_timeout = new.header_timeout;
        self.body_timeout = new.body_timeout;
        self.body_rate = new.body_rate;
        self.write_timeout = new.write_timeout;
        self.write_rate = new.write_rate;
        self.idle_timeout = new.idle_timeout;
        self.drain_delay = new.drain_delay;
        self.drain_timeout = new.drain_timeout;
        self.handover_timeout = new.handover_timeout;
        self.log_level = new.log_level;
    }

    /// Connections that one loop has room for. The kernel spreads them by a hash, so a loop may get more than
    /// its share: by six times the deviation that is to be expected, and a little more where they are few, it
    /// has room for those.
    #[must_use]
    pub fn connections_per_loop(&self) -> u32 {
        let all = self.connections.get();
        match self.loops() {
            1 => all,
            loops => {
                let share = all.div_ceil(loops);
                let more = share.isqrt().saturating_mul(6).saturating_add(16);
                share.saturating_add(more).min(all)
            }
        }
    }

    /// Connections of all loops together.
    #[must_use]
    pub fn connections_in_all(&self) -> usize {
        self.connections.get() as usize
    }

    /// The deadline in nanoseconds, `None` for none.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        Some(self.deadline).filter(|deadline| !deadline.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    #[command(no_binary_name = true)]
    struct Only {
        #[command(flatten)]
        front: FrontSettings,
    }

    /// A value of each flag that is not its default.
    const OTHERS: [(&str, &str); 36] = [
        ("loops", "3"),
        ("connections", "77"),
        ("connections-per-address", "7"),
        ("backlog", "7"),
        ("admin", "127.0.0.1:9"),
        ("listen-mode", "0600"),
        ("proxy-protocol", "require"),
        ("forwarded", "forwarded"),
        ("trust", "10.0.0.0/8"),
        ("requests-per-connection", "7"),
        ("partial-heads", "7"),
        ("proxy-header-limit", "7KiB"),
        ("head-limit", "8KiB"),
        ("body-limit", "7"),
        ("receive-buffer", "7KiB"),
        ("send-buffer", "7KiB"),
        ("channel-limit", "7MiB"),
        ("queue-timeout", "7s"),
        ("deadline", "7s"),
        ("header-timeout", "7s"),
        ("body-timeout", "7s"),
        ("body-rate", "7"),
        ("write-timeout", "7s"),
        ("write-rate", "7"),
        ("idle-timeout", "7s"),
        ("drain-delay", "7s"),
        ("drain-timeout", "7s"),
        ("admin-host", "a.b"),
        ("handover-timeout", "7s"),
        ("log", "json"),
        ("log-level", "debug"),
        ("log-queue", "7"),
        ("constant", "7MiB"),
        ("access-log", "json"),
        ("access-log-file", "/a"),
        ("access-log-queue", "7"),
    ];

    fn parse(words: &[String]) -> FrontSettings {
        Only::try_parse_from(words).expect("flags").front
    }

    #[test]
    fn what_changes_in_place_is_what_the_list_says() {
        // Counting addresses cannot begin, only change.
        let base = "--connections-per-address=9".to_owned();
        let before = parse(std::slice::from_ref(&base));
        for (name, value) in OTHERS {
            let word = format!("--{name}={value}");
            let after = match name {
                "connections-per-address" => parse(&[word]),
                _ => parse(&[base.clone(), word]),
            };
            let mut changed = before.clone();
            changed.change_to(&after);
            let (changed, before, after) = (
                format!("{changed:?}"),
                format!("{before:?}"),
                format!("{after:?}"),
            );
            assert_ne!(before, after, "--{name}");
            let listed = FrontSettings::CHANGEABLE.contains(&name);
            assert_eq!(changed, if listed { after } else { before }, "--{name}");
        }
        let known = |name: &&&str| OTHERS.iter().any(|(other, _)| other == *name);
        assert_eq!(
            FrontSettings::CHANGEABLE.iter().filter(known).count(),
            FrontSettings::CHANGEABLE.len()
        );
    }
}
