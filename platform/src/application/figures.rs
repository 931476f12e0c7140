//! [`Figures`]: the numbers that an application reports about itself.

use super::Application;
use crate::lost::Lost;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use transom_arena::{Bucket, BucketState, parked};

/// What an application has done so far, and what it is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// How calls went.
    pub calls: CallFigures,
    /// What they have left.
    pub kept: KeptFigures,
    /// The threads that serve them.
    pub threads: ThreadFigures,
    /// Buckets that are parked, and lost until the process is replaced.
    pub buckets_parked: usize,
    /// Buckets that are lost now, for any reason.
    pub lost: Lost,
    /// The most arena bytes that any request had in use at once.
    pub high_water: usize,
    /// The deepest stack seen, in bytes.
    pub stack_high_water: usize,
    /// Log lines about requests that went wrong and were not written, because there had been twenty in that
    /// second.
    pub unlogged: u64,
}

/// How calls went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallFigures {
    /// Those that have ended, one way or another.
    pub ended: u64,
    /// Of these, those that outgrew their arena.
    pub exhausted_arena: u64,
    /// That overflowed their stack.
    pub exhausted_stack: u64,
    /// That found the shared heap full.
    pub exhausted_shared_heap: u64,
    /// That panicked.
    pub panicked: u64,
    /// The most bytes that an allocation has asked for and not got.
    pub largest_refused: u64,
}

/// What requests have left in their buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptFigures {
    /// Calls that left memory in use in their buckets when they ended.
    pub left: u64,
    /// Bytes that buckets keep of what earlier requests left.
    pub bytes: usize,
    /// The most that one bucket has kept.
    pub max: usize,
    /// Buckets that rest now: they keep too much, or have not got another thread yet.
    pub buckets_resting: usize,
}

/// Door server threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadFigures {
    /// Those that were started.
    pub started: u32,
    /// Threads that were ended because their buckets kept too much, and replaced.
    pub ended: u64,
    /// Attempts to start one that the system has refused.
    pub refused: u64,
}

impl Application {
    /// What has happened so far.
    #[must_use]
    pub fn figures(&self) -> Figures {
        Figures {
            calls: self.call_figures(),
            kept: self.kept_figures(),
            threads: self.thread_figures(),
            buckets_parked: parked(self.buckets),
            lost: self.lost(),
            high_water: self
                .buckets
                .iter()
                .map(Bucket::high_water)
                .max()
                .unwrap_or(0),
            stack_high_water: self
                .buckets
                .iter()
                .map(Bucket::stack_high_water)
                .max()
                .unwrap_or(0),
            unlogged: self.lines.unlogged() + self.signs.lines.unlogged(),
        }
    }

    fn call_figures(&self) -> CallFigures {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CallFigures {
            ended: load(&self.counters.calls),
            exhausted_arena: load(&self.counters.exhausted_arena),
            exhausted_stack: load(&self.counters.exhausted_stack),
            exhausted_shared_heap: load(&self.counters.exhausted_shared_heap),
            panicked: load(&self.counters.panicked),
            largest_refused: load(&self.counters.largest_refused),
        }
    }

    fn kept_figures(&self) -> KeptFigures {
        let rests = |bucket: &&Bucket| bucket.state() == BucketState::Resting;
        KeptFigures {
            left: self.keeping.left(),
            buckets_resting: self.buckets.iter().filter(rests).count(),
            bytes: self.buckets.iter().map(Bucket::kept).sum(),
            max: self.buckets.iter().map(Bucket::kept_max).max().unwrap_or(0),
        }
    }

    fn thread_figures(&self) -> ThreadFigures {
        ThreadFigures {
            started: self
                .door
                .get()
                .map_or(0, |door| door.info().threads.started),
            ended: self.keeping.ended(),
            refused: self.counters.threads_refused.load(Ordering::Relaxed),
        }
    }
}

impl fmt::Debug for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Application")
            .field("figures", &self.figures())
            .finish_non_exhaustive()
    }
}
