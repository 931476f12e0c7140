//! What requests leave in their buckets: thread-locals, lazy values, entries of caches.
//!
//! What is kept costs its bytes for as long as it is live. The log names its route once. If it is more than
//! may be kept (`--keep`), the thread ends after the request, which runs the destructors of its
//! thread-locals, and another one takes its place on the same bucket. If it is still more then, because other
//! threads own it, the bucket rests until it is not. A bucket whose thread does not end, or that gets no new
//! one, is reported and lost, like one that rests too long.
//!
//! A few bytes in the middle of the arena can cost more than their size: the blocks of later requests have to
//! fit beside them. A bucket is **cut** when a request has found no piece for what would have fit in the
//! bytes that are free, and all but the largest piece is more than may be kept. Its thread is replaced too,
//! once. If that does not help, the bucket goes on: it has less than it should, which is better than a bucket
//! that takes no requests. When too many have been cut for as long as one may rest, the process is replaced.
//! What lies above the lowest entry counts only for requests that can use it: requests that escape cannot,
//! and `request.arena()` cannot.

mod cuts;
mod leaving;
mod preparing;
mod tending;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use transom_arena::{BucketState, Pieces};
use transom_doors::now_ns;

/// How often a bucket that rests is looked at, and one whose thread ends or cannot be started.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How often the log says that no thread can be started, while none can.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// What is known of all buckets of an application.
#[derive(Debug)]
pub(crate) struct Keeping {
    /// Requests that left something.
    left: AtomicU64,
    /// A thread has left because of what was kept, or because it was spoilt, and its bucket may have no other
    /// one yet.
    some_left: AtomicBool,
    /// How often a thread was ended.
    ended: AtomicU64,
    absences: Box<[Absence]>,
    cuts: Box<[Cut]>,
    /// One more than the bucket whose first thread is being started; 0: there is none.
    starts: AtomicU32,
    /// When it was last said that no thread can be started; 0: never.
    said_ns: AtomicU64,
    /// When it was last said that a thread ends because of what it keeps; 0: never.
    left_said_ns: AtomicU64,
    /// The same of a thread that a request has left inside a panic.
    spoilt_said_ns: AtomicU64,
}

impl Keeping {
    /// For so many buckets.
    pub(crate) fn new(buckets: u32) -> Self {
        Keeping {
            left: AtomicU64::new(0),
            some_left: AtomicBool::new(false),
            ended: AtomicU64::new(0),
            absences: (0..buckets).map(|_| Absence::default()).collect(),
            cuts: (0..buckets).map(|_| Cut::default()).collect(),
            starts: AtomicU32::new(0),
            said_ns: AtomicU64::new(0),
            left_said_ns: AtomicU64::new(0),
            spoilt_said_ns: AtomicU64::new(0),
        }
    }

    /// The first thread of a bucket is being started.
    pub(crate) fn begins_to_start(&self, bucket: u32) {
        self.absence(bucket).reach(Stage::Prepares);
        self.starts.store(bucket + 1, Ordering::SeqCst);
    }

    /// The bucket is in service.
    pub(crate) fn serves(&self, bucket: u32) {
        self.absence(bucket).reach(Stage::Serves);
        // None of the other buckets has its first thread started meanwhile: one follows the other.
        let _ = self
            .starts
            .compare_exchange(bucket + 1, 0, Ordering::SeqCst, Ordering::Relaxed);
    }

    /// How far a bucket in that state is on its way into service, and since when it is on it: a
    /// `CLOCK_MONOTONIC` time in nanoseconds, or 0.
    pub(crate) fn way_of(&self, bucket: u32, state: BucketState) -> (Stage, u64) {
        let starts = self.starts.load(Ordering::SeqCst).checked_sub(1);
        match starts.filter(|_| state == BucketState::Unbound) {
            Some(first) if first != bucket => (Stage::Waits, self.absence(first).since_ns()),
            _ => (
                self.absence(bucket).stage(),
                self.absence(bucket).since_ns(),
            ),
        }
    }

    pub(crate) fn left(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }

    pub(crate) fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// What is known of what a bucket's pieces are.
    fn cut(&self, bucket: u32) -> &Cut {
        &self.cuts[bucket as usize]
    }

    /// That of a bucket.
    pub(crate) fn absence(&self, bucket: u32) -> &Absence {
        &self.absences[bucket as usize]
    }
}

/// How far a bucket that keeps too much is on its way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Stage {
    /// It is in service, or has never had a thread.
    Serves,
    /// Its thread runs the destructors of its thread-locals.
    Ends,
    /// Its thread is gone, and it has no other one.
    HasNone,
    /// Its new thread is started, or runs what is to run before the first call.
    Prepares,
    /// Its new thread waits for less to be kept.
    Rests,
    /// It has never had a thread, and gets one after another bucket has its first.
    Waits,
}

/// Since when a bucket takes no requests because of what it keeps, and how far it is on its way back. Its
/// thread writes it; from when that thread has left until the next one is there, the one that tends does.
#[derive(Debug, Default)]
pub(crate) struct Absence {
    stage: AtomicU32,
    /// 0: it does take requests.
    since_ns: AtomicU64,
}

impl Absence {
    pub(crate) fn stage(&self) -> Stage {
        const STAGES: [Stage; 4] = [Stage::Ends, Stage::HasNone, Stage::Prepares, Stage::Rests];
        let stage = self.stage.load(Ordering::SeqCst);
        let found = STAGES.into_iter().find(|&one| one as u32 == stage);
        found.unwrap_or(Stage::Serves)
    }

    /// A `CLOCK_MONOTONIC` time in nanoseconds, or 0.
    pub(crate) fn since_ns(&self) -> u64 {
        self.since_ns.load(Ordering::Relaxed)
    }

    fn reach(&self, stage: Stage) {
        if stage == Stage::Serves {
            self.since_ns.store(0, Ordering::Relaxed);
        } else if self.since_ns() == 0 {
            self.since_ns.store(now_ns(), Ordering::Relaxed);
        }
        self.stage.store(stage as u32, Ordering::SeqCst);
    }
}

/// How often a bucket that is cut is checked again: its free blocks are sorted for that.
const LOOK_AT_PIECES: Duration = Duration::from_millis(250);

/// Whether a bucket is cut. Its thread writes it. Times are `CLOCK_MONOTONIC`, in nanoseconds.
#[derive(Debug, Default)]
struct Cut {
    /// 0: it is not.
    since_ns: AtomicU64,
    /// When that was looked at last.
    looked_ns: AtomicU64,
    /// The request that found no piece could have only what lies below all that is kept.
    is_below: AtomicBool,
}

impl Cut {
    /// A request has found that none of these is large enough.
    fn note(&self, pieces: Pieces) {
        let is_below = pieces == Pieces::BelowTheKept;
        self.is_below.store(is_below, Ordering::Relaxed);
    }

    /// The pieces of which one has to be large.
    fn pieces(&self) -> Pieces {
        match self.is_below.load(Ordering::Relaxed) {
            true => Pieces::BelowTheKept,
            false => Pieces::All,
        }
    }

    fn since_ns(&self) -> u64 {
        self.since_ns.load(Ordering::Relaxed)
    }

    /// Whether it is time to look again.
    fn is_to_be_looked_at(&self) -> bool {
        let looked_ns = self.looked_ns.load(Ordering::Relaxed);
        now_ns().saturating_sub(looked_ns) >= LOOK_AT_PIECES.as_nanos() as u64
    }
}
