//! What an application needs: its buckets, its state, and the channels over which it is called.

use super::values::{parse_count, parse_duration, with_variable};
use clap::{Args, ValueEnum};
use std::num::NonZeroU32;
use std::time::Duration;
use transom_arena::{BucketGeometry, Bytes, Policy, Wipe};

/// The flags of the region in which handlers live.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Memory", mut_args = with_variable)]
pub struct ApplicationSettings {
    /// Buckets: requests that can be in a handler at once. Each has a thread, started when it is first needed
    #[arg(long, value_name = "N", default_value = "64")]
    pub buckets: u32,

    /// Bytes of one bucket: stack, arena, and 76KiB or so of reserve
    #[arg(long, value_name = "SIZE", default_value = "2MiB")]
    pub bucket_size: Bytes,

    /// Bytes of a bucket that are its stack
    #[arg(long, value_name = "SIZE", default_value = "128KiB")]
    pub stack_size: Bytes,

    /// Bytes for requests that have outgrown their bucket, so that they can return before they get their 500.
    /// 0 for none: then such a request ends at once, and its bucket is lost
    #[arg(long, value_name = "SIZE", default_value = "16MiB")]
    pub overdraft: Bytes,

    /// Bytes of the overdraft that one request may have [default: a quarter]
    #[arg(long, value_name = "SIZE")]
    pub overdraft_per_request: Option<Bytes>,

    /// Bytes for what C libraries allocate in requests (`malloc`)
    #[arg(long, value_name = "SIZE", default_value = "16MiB")]
    pub c_heap: Bytes,

    /// Bytes of the C heap that one request may have [default: a quarter]
    #[arg(long, value_name = "SIZE")]
    pub c_heap_per_request: Option<Bytes>,

    /// Bytes that a bucket may keep of what its requests leave: thread-locals, lazy values, entries of caches
    /// [default: half of the arena]
    #[arg(long, value_name = "SIZE")]
    pub keep: Option<Bytes>,

    /// How long a bucket that keeps more may rest, before it counts as lost
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub keep_timeout: Duration,

    /// Bytes of state that outlives requests (`Shared`)
    #[arg(long, value_name = "SIZE", default_value = "1MiB")]
    pub shared_heap: Bytes,

    /// Leave the region untouched at start; the kernel provides it page by page
    #[arg(long)]
    pub lazy: bool,

    /// Lock the region in physical memory
    #[arg(long)]
    pub lock: bool,

    /// Ask for huge pages in the region, where its parts are large enough
    #[arg(long)]
    pub huge_pages: bool,

    /// Say in a field Transom-Memory of every response how much of its bucket's arena the request has used
    /// (development)
    #[arg(long)]
    pub memory_header: bool,

    /// Abort, with a backtrace, when anything is allocated outside the region after the start (tests)
    #[arg(long)]
    pub strict_heap: bool,

    /// What happens to an arena's bytes between two requests
    #[arg(long, value_enum, default_value = "none")]
    pub wipe: WipeSetting,

    /// What happens to a request that outgrows its bucket through an ordinary allocation or its stack
    /// [default: as the application promises]
    ///
    /// overdraft: what does not fit comes from the overdraft, the handler returns, and its client gets a 500.
    /// escape: its client gets a 500, its handler is left by a jump, its bucket is used again; only for
    /// applications whose author has promised the escape contract
    #[arg(long, value_enum)]
    pub on_exhaustion: Option<OnExhaustion>,

    /// Lost buckets at which the process is replaced, as --recycle says [default: half of the buckets]
    ///
    /// A bucket is lost when its request was parked (--on-exhaustion), or when its handler has not returned 5
    /// s after the request's deadline; then until it returns
    #[arg(long, value_name = "N", value_parser = parse_count::<NonZeroU32>)]
    pub lost_limit: Option<NonZeroU32>,

    /// The former name of --lost-limit
    #[arg(long, value_name = "N", value_parser = parse_count::<NonZeroU32>, hide = true)]
    pub parked_limit: Option<NonZeroU32>,

    /// How the process is replaced when --lost-limit buckets are lost
    ///
    /// handover: it starts a new instance of its program, hands over its listeners or its door once that is
    /// ready (--handover-timeout), and drains; until it has ended, both have their memory. exit: it drains
    /// and exits with status 75, to be started anew by its supervisor. auto: handover where that is possible;
    /// the line "ready" says which it is, and why
    #[arg(long, value_enum, value_name = "HOW", default_value = "auto")]
    pub recycle: RecycleSetting,
}

/// `--recycle`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RecycleSetting {
    /// Hand over where that is possible, else exit
    Auto,
    /// Hand over to a new instance; where that is not possible, do not start
    Handover,
    /// Drain and exit with status 75
    Exit,
}

/// The flags of a channel: one for each loop, or for each client of a door.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Memory", mut_args = with_variable)]
pub struct ChannelSettings {
    /// Calls in flight per loop, in a handler or waiting for one [default: twice the buckets, 16 to 4096]
    #[arg(long, value_name = "N", value_parser = parse_count::<NonZeroU32>)]
    pub slots: Option<NonZeroU32>,

    /// Bytes of a request in its slot: head, decoded path, index of fields, body. A larger body streams
    /// through it
    #[arg(long, value_name = "SIZE", default_value = "64KiB")]
    pub request_size: Bytes,

    /// Bytes of a reply in its slot. A larger body streams through it
    #[arg(long, value_name = "SIZE", default_value = "64KiB")]
    pub reply_size: Bytes,
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
    /// Let the handler return, with memory from the overdraft, and answer 500
    #[value(alias = "park")]
    Overdraft,
    /// Answer 500 and leave the handler by a jump
    Escape,
}

impl From<OnExhaustion> for Policy {
    fn from(setting: OnExhaustion) -> Self {
        match setting {
            OnExhaustion::Overdraft => Policy::Overdraft,
            OnExhaustion::Escape => Policy::Escape,
        }
    }
}

impl ApplicationSettings {
    /// What one request may have of the overdraft.
    #[must_use]
    pub fn overdraft_per_request(&self) -> usize {
        let quarter = self.overdraft.get() / 4;
        self.overdraft_per_request.map_or(quarter, Bytes::get)
    }

    /// What one request may have of the C heap.
    #[must_use]
    pub fn c_heap_per_request(&self) -> usize {
        let quarter = self.c_heap.get() / 4;
        self.c_heap_per_request.map_or(quarter, Bytes::get)
    }

    /// What a bucket may keep of what its requests leave.
    #[must_use]
    pub fn keep(&self, bucket: &BucketGeometry) -> usize {
        self.keep.map_or(bucket.arena_size() / 2, Bytes::get)
    }

    /// What `--keep` must be at least where a bucket was seen to keep `kept_max` bytes: an eighth more, as a
    /// step of the histograms is, in whole KiB.
    #[must_use]
    pub fn least_keep(kept_max: usize) -> Bytes {
        Bytes((kept_max + kept_max / 8).next_multiple_of(1 << 10))
    }

    /// Lost buckets at which the process is replaced.
    #[must_use]
    pub fn lost_limit(&self) -> u32 {
        self.lost_limit
            .or(self.parked_limit)
            .map_or_else(|| self.buckets.div_ceil(2), NonZeroU32::get)
    }

    /// The name by which that limit was set.
    pub(crate) fn lost_limit_flag(&self) -> &'static str {
        match (self.lost_limit, self.parked_limit) {
            (None, Some(_)) => "--parked-limit",
            _ => "--lost-limit",
        }
    }
}
