//! What requests leave in their buckets: thread-locals, lazy values, entries of caches.
//!
//! It costs its bytes, for as long as it is live. Its route is named once in the log. Where it is more than may be kept
//! (`--keep`), the thread ends after the request, which runs the destructors of its thread-locals, and another one takes
//! its place on the same bucket. Where it is still more then, because it belongs to others, the bucket rests until it is
//! not.

use crate::application::Application;
use crate::meter::{Leave, RouteMeter};
use crate::own_log::{error, info, warn};
use std::panic::Location;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;
use transom_arena::{Bucket, Failed, Tenant};

/// Runs once on each door server thread before its first call.
pub type EachThread = Box<dyn Fn() + Send + Sync>;

/// How often a bucket that rests is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What is known of all buckets of an application.
#[derive(Debug, Default)]
pub(crate) struct Keeping {
    /// Requests that left something.
    left: AtomicU64,
    /// Threads that have ended because of what was kept, or are about to, and whose buckets have no other one yet.
    ending: AtomicU32,
    /// How often a thread was ended.
    ended: AtomicU64,
}

impl Keeping {
    pub(crate) fn left(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }

    pub(crate) fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }
}

impl Application {
    /// A request has left so many bytes. Says so, once for each route.
    #[cold]
    pub(crate) fn note_left(
        &self,
        meter: &RouteMeter,
        left: usize,
        change: Option<&'static Location<'static>>,
    ) {
        self.keeping().left.fetch_add(1, Ordering::Relaxed);
        if !meter.is_first_to_leave() {
            return;
        }
        let route = meter.route;
        match change {
            None => info!(
                route,
                bytes = left,
                "requests of this route keep memory in the bucket of their thread; if it is the same each time, have it \
                 made before the first request (Router::warm)"
            ),
            Some(place) => info!(
                route,
                bytes = left,
                changed = %place,
                "requests of this route keep memory in the bucket of their thread; if it is the same each time, have it \
                 made before the first request (Router::warm), and if it was put into the Shared that is changed there, \
                 clone it inside the closure"
            ),
        }
    }

    /// Whether so many bytes are more than a bucket may keep.
    pub(crate) fn keeps_too_much(&self, kept: usize) -> bool {
        kept > self.keep_limit()
    }

    /// A thread leaves its bucket because of what is kept there.
    #[cold]
    pub(crate) fn thread_leaves(&self) {
        self.keeping().ended.fetch_add(1, Ordering::Relaxed);
        self.keeping().ending.fetch_add(1, Ordering::SeqCst);
        (self.options().on_leave)();
    }

    /// Starts threads in the places of those that have left and are gone. When to look again, if some are not gone yet.
    ///
    /// To be called by one thread, now and then and after `ApplicationOptions::on_leave`.
    pub fn tend(&'static self) -> Option<Duration> {
        if self.keeping().ending.load(Ordering::SeqCst) == 0 {
            return None;
        }
        for place in 0..self.buckets().len() {
            let gone = self.buckets().get(place).is_some_and(Bucket::has_ended);
            if gone {
                self.keeping().ending.fetch_sub(1, Ordering::SeqCst);
                if !self.is_revoked()
                    && let Err(error) = self.start_thread(place)
                {
                    error!(
                        bucket = place,
                        "a door server thread cannot be started anew: {error}; check `ulimit -u` and the cgroup's pids.max. \
                         Its bucket is out of service"
                    );
                }
            }
        }
        (self.keeping().ending.load(Ordering::SeqCst) != 0).then_some(LOOK_AGAIN)
    }

    /// Before a thread's first call: what its author wants to have done, and a rest if its bucket keeps too much. False if
    /// the door was revoked meanwhile.
    pub(crate) fn prepare(&self, tenant: &mut Tenant) -> bool {
        for each in self.each_thread() {
            let outcome = tenant.enter(&|_| {}, |_| each());
            if let Err(failed) = outcome.result {
                let what = match failed {
                    Failed::Exhausted(exhaustion) => exhaustion.reason.as_str(),
                    Failed::Panicked(note) => note.message(),
                };
                if let Some(Leave { unlogged }) = self.lines().take() {
                    warn!(
                        what,
                        unlogged, "what is to run once on each thread has failed"
                    );
                }
            }
        }
        if !self.keeps_too_much(tenant.look_at_kept()) {
            return true;
        }
        tenant.set_resting(true);
        while !self.is_revoked() {
            if !self.keeps_too_much(tenant.look_at_kept()) {
                tenant.set_resting(false);
                return true;
            }
            sleep(LOOK_AGAIN);
        }
        false
    }
}
