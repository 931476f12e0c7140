//! What can be told: whom to ask for it, and whether the process is ready.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use transom_arena::{Bound, BucketState};
use transom_front::{LoopFigures, LoopStats};
use transom_log::LogHandle;
use transom_log::access::AccessLog;
use transom_platform::Application;
use transom_wire::histogram::Histogram;

/// What is told of a front end.
pub(crate) struct FrontView {
    /// One of each loop.
    pub stats: Vec<Arc<LoopStats>>,
    /// Connections of all loops together.
    pub connections_max: usize,
    /// Slots that lost calls of forwards keep which loops do not serve.
    pub slots_lost: Arc<AtomicU64>,
}

impl FrontView {
    pub(super) fn figures(&self) -> LoopFigures {
        let mut figures = LoopFigures::default();
        for stats in &self.stats {
            figures.add(stats);
        }
        figures.slots_lost += self.slots_lost.load(Ordering::Relaxed);
        figures
    }

    /// Of all loops together; `None` if there is none.
    pub(super) fn request_time(&self) -> Option<Histogram> {
        let time = LoopStats::default().request_time;
        for stats in &self.stats {
            time.add(&stats.request_time);
        }
        (!self.stats.is_empty()).then_some(time)
    }
}

/// What is told of how an application's process is replaced when buckets are lost.
pub(crate) struct RecycleView {
    /// In a word: that of `--recycle`.
    pub way: &'static str,
    /// Lost buckets at which it is.
    pub limit: u32,
    /// How often instances of this server were, one after the other.
    pub recycles: Arc<AtomicU64>,
}

/// What is told.
pub(crate) struct Admin {
    pub application: Option<&'static Application>,
    pub recycle: Option<RecycleView>,
    pub front: Option<FrontView>,
    pub bound: Bound,
    /// The addresses of the region.
    pub region: Range<usize>,
    pub logs: LogHandle,
    pub access: Option<AccessLog>,
    /// `--admin-host`.
    pub(super) hosts: Vec<String>,
    pub(super) started: Instant,
    /// Unix time of the start.
    pub(super) started_at: Duration,
    pub(super) draining: AtomicBool,
}

/// What a process has that can be told of.
pub(crate) struct Told<'t> {
    pub application: Option<&'static Application>,
    pub recycle: Option<RecycleView>,
    pub front: Option<FrontView>,
    pub bound: &'t Bound,
    pub region: Range<usize>,
    pub logs: &'t LogHandle,
    pub access: Option<&'t AccessLog>,
}

impl Admin {
    /// Begins to count the time. It lives as long as the process, because handlers in buckets refer to it.
    pub(crate) fn new(told: Told<'_>, hosts: &[String]) -> &'static Self {
        Box::leak(Box::new(Admin {
            application: told.application,
            recycle: told.recycle,
            front: told.front,
            bound: told.bound.clone(),
            region: told.region,
            logs: told.logs.clone(),
            access: told.access.cloned(),
            hosts: hosts.to_vec(),
            started: Instant::now(),
            started_at: unix_time(),
            draining: AtomicBool::new(false),
        }))
    }

    /// From now on the process is not ready.
    pub(crate) fn drains(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Why the process should get no new requests, in a word.
    pub(super) fn why_not_ready(&self) -> Option<&'static str> {
        if self.is_draining() {
            return Some("draining");
        }
        if self.has_lost_all() {
            return Some("buckets-lost");
        }
        let free = |state| matches!(state, BucketState::Unbound | BucketState::Idle);
        let has_free = |application: &Application| {
            let mut buckets = application.buckets().iter();
            buckets.any(|bucket| free(bucket.state()))
        };
        match self.application {
            Some(application) if !has_free(application) => Some("no-bucket"),
            Some(application) if application.is_refused_threads() => Some("no-thread"),
            _ => None,
        }
    }

    /// Whether no bucket is left that could serve.
    pub(super) fn has_lost_all(&self) -> bool {
        self.application
            .is_some_and(|application| application.lost().total() >= application.buckets().len())
    }
}

pub(super) fn unix_time() -> Duration {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default()
}
