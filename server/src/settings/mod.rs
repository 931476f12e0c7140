//! The command line: every limit is a flag with a default, and an environment variable `TRANSOM_…`.
//!
//! Parsing checks what a single value can show; [`crate::plan`] checks what they mean together. Nothing is
//! clamped: a setting that cannot hold is refused by the name of its flag. Where the kernel has limits of its
//! own, a WARN says so.

mod application;
mod asked;
mod door;
pub(crate) mod file;
mod front;
mod values;

pub use application::{
    ApplicationSettings, ChannelSettings, OnExhaustion, RecycleSetting, WipeSetting,
};
pub use door::DoorSettings;
pub use file::ForwardSettings;
pub use front::{AccessLogSetting, ForwardedSetting, FrontSettings, LogSetting, ProxySetting};
pub use values::{parse_count, parse_duration};
pub(crate) use values::{parse_door_owner, with_variable};

use clap::Args;
use std::num::NonZeroU32;
use transom_net::ListenAddress;

/// The flags that every application has: with a front end of its own, or behind a door.
#[derive(Debug, Clone, Args)]
#[command(mut_args = with_variable)]
pub struct Settings {
    /// Where to serve HTTP: ADDRESS:PORT, unix:PATH, systemd: or systemd:NAME. May be given more than once
    ///
    /// systemd:NAME are the sockets of a socket unit with that FileDescriptorName=, systemd: all that are not
    /// named.
    #[arg(
        long,
        value_name = "ADDRESS:PORT|unix:PATH|systemd:NAME",
        value_delimiter = ',',
        default_value = "127.0.0.1:8080",
        help_heading = "Serving"
    )]
    pub listen: Vec<ListenAddress>,

    /// What handlers live in.
    #[command(flatten)]
    pub application: ApplicationSettings,

    /// What carries calls.
    #[command(flatten)]
    pub channel: ChannelSettings,

    /// What owns the sockets, unless a door takes their place.
    #[command(flatten)]
    pub front: FrontSettings,

    /// The door at a path, instead of a front end.
    #[command(flatten)]
    pub door: DoorSettings,
}

impl Settings {
    /// Slots per channel: as set, or twice the buckets, so that a thread that becomes free finds the next
    /// call waiting.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.channel.slots.map_or_else(
            || {
                self.application
                    .buckets
                    .saturating_mul(2)
                    .clamp(16, SLOTS_MAX)
            },
            NonZeroU32::get,
        )
    }

    /// Spare slots per channel. A request that is lost keeps its slot for ever, and a spare one takes its
    /// place; so there are as many as requests may be lost before the process is replaced, and any channel
    /// may be the one that loses them.
    #[must_use]
    pub fn spare_slots(&self) -> u32 {
        self.application.lost_limit().min(SLOTS_MAX)
    }
}

/// The most slots of a channel, and the most spare ones.
pub const SLOTS_MAX: u32 = 4096;

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
        assert_eq!(settings.application.buckets, 64);
        assert_eq!(settings.slots(), 128);
        assert_eq!(settings.application.lost_limit(), 32);
        assert_eq!(settings.application.recycle, RecycleSetting::Auto);
        assert_eq!(settings.spare_slots(), 32);
    }

    #[test]
    fn the_former_name_of_the_limit_is_still_taken() {
        for flag in ["--lost-limit", "--parked-limit"] {
            let settings = parse(&[flag, "5"]).expect(flag).application;
            assert_eq!(
                (settings.lost_limit(), settings.lost_limit_flag()),
                (5, flag)
            );
        }
    }

    #[test]
    fn a_wrong_value_names_its_flag() {
        for (arguments, part) in [
            (["--bucket-size", "64KB"], "--bucket-size"),
            (["--queue-timeout", "5"], "--queue-timeout"),
            (["--listen", "localhost"], "--listen"),
            (["--listen", "unix:x.sock"], "--listen"),
            (["--listen-mode", "rw"], "--listen-mode"),
            (["--trust", "10.0.0.1/8"], "--trust"),
            (["--proxy-protocol", "maybe"], "--proxy-protocol"),
            (["--forwarded", "both"], "--forwarded"),
            (["--loops", "0"], "--loops"),
            (["--door-mode", "rw"], "--door-mode"),
            (["--door-owner", "no such one"], "--door-owner"),
            (["--door-group", "no such one"], "--door-group"),
            (["--door-wait", "5"], "--door-wait"),
            (["--door-channels", "0"], "--door-channels"),
            (["--channel-limit", "1MB"], "--channel-limit"),
            (["--lost-limit", "0"], "--lost-limit"),
            (["--parked-limit", "0"], "--parked-limit"),
            (["--recycle", "never"], "--recycle"),
        ] {
            let error = parse(&arguments).expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_door_takes_the_place_of_an_address() {
        let settings =
            parse(&["--door", "/run/hello.door", "--door-mode", "0660"]).expect("it is enough");
        assert_eq!(settings.door.door, Some("/run/hello.door".into()));
        assert_eq!(settings.door.door_mode, 0o660);
        assert_eq!(settings.door.channels_per_user(), 16);
        for (arguments, part) in [
            (
                &["--door", "/d", "--listen", "127.0.0.1:80"][..],
                "--listen",
            ),
            (&["--door-mode", "0660"], "--door <PATH>"),
            (&["--door-channels", "5"], "--door <PATH>"),
        ] {
            let error = parse(arguments).expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
