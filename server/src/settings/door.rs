//! `--door`: the application as a process of its own, called by front ends and other clients at a path.

use super::front::default_loops;
use super::values::{
    parse_count, parse_duration, parse_group, parse_mode, parse_user, with_variable,
};
use clap::Args;
use clap::builder::{PathBufValueParser, TypedValueParser};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;
use transom_doors::{NameTooLong, check_path};

/// Channels on a machine with few cores.
const CHANNELS_LEAST: u32 = 16;

/// The flags of a door at a path.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Door", mut_args = with_variable)]
pub struct DoorSettings {
    /// Serve a door at this path, and no HTTP: `transom serve` is the front end then
    ///
    /// Of the flags of a front end, those of the log, of --admin, --drain-timeout and --handover-timeout
    /// still hold; the others have no effect.
    #[arg(
        long,
        value_parser = PathBufValueParser::new().try_map(door_path),
        value_name = "PATH",
        conflicts_with = "listen"
    )]
    pub door: Option<PathBuf>,

    /// Who may open the door, as permissions of its path: those who may write to it
    #[arg(
        long,
        value_parser = parse_mode,
        value_name = "OCTAL",
        default_value = "0600",
        requires = "door",
        conflicts_with = "listen"
    )]
    pub door_mode: u32,

    /// User who owns the door's path [default: the one who starts it]
    #[arg(long, value_parser = parse_user, value_name = "USER|UID", requires = "door", conflicts_with = "listen")]
    pub door_owner: Option<u32>,

    /// Group that owns the door's path [default: that of the one who starts it]
    #[arg(long, value_parser = parse_group, value_name = "GROUP|GID", requires = "door", conflicts_with = "listen")]
    pub door_group: Option<u32>,

    /// How long to wait for another process that serves this path to leave it; 0 not at all
    #[arg(
        long,
        value_parser = parse_duration,
        value_name = "TIME",
        default_value = "0",
        requires = "door",
        conflicts_with = "listen"
    )]
    pub door_wait: Duration,

    /// Channels that may be open at once: a front end opens one for each of its loops, and there are two
    /// front ends while one takes over from another [default: 2 for each core, and 16 at least]
    #[arg(
        long,
        value_name = "N",
        value_parser = parse_count::<NonZeroU32>,
        requires = "door",
        conflicts_with = "listen"
    )]
    pub door_channels: Option<NonZeroU32>,

    /// Of these, how many one user may have [default: all of --door-channels]
    #[arg(
        long,
        value_name = "N",
        value_parser = parse_count::<NonZeroU32>,
        requires = "door",
        conflicts_with = "listen"
    )]
    pub door_channels_per_user: Option<NonZeroU32>,
}

impl DoorSettings {
    /// Channels: as set, or enough for two front ends of this machine that have as many loops as they have by
    /// default.
    #[must_use]
    pub fn channels(&self) -> u32 {
        let by_default = || default_loops().saturating_mul(2).max(CHANNELS_LEAST);
        self.door_channels.map_or_else(by_default, NonZeroU32::get)
    }

    /// Channels of one user: as set, or as many as there may be.
    #[must_use]
    pub fn channels_per_user(&self) -> u32 {
        self.door_channels_per_user
            .map_or_else(|| self.channels(), NonZeroU32::get)
    }
}

/// A path that a door can have.
fn door_path(path: PathBuf) -> Result<PathBuf, NameTooLong> {
    check_path(&path).map(|()| path)
}
