//! What loops may be given anew while they serve: routes, limits and times, for which no memory was set
//! aside.
//!
//! The main thread makes new rules whole and hands them to all loops at once. A loop takes them up between
//! two turns; a timer that runs already keeps its time.

use crate::options::{Allowance, Proxying};
use crate::routes::RouteTable;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use transom_net::pace::PaceLimit;

/// How long a client that has had its last answer is listened to while it sends nothing, so that it can read
/// that answer (RFC 9112 §9.6).
pub(crate) const LINGER_SILENCE: Duration = Duration::from_secs(2);

/// How long a client that others want the place of may take nothing of an answer that is with the kernel, or
/// send nothing of a body. Longer than the way to any client and back; and a client that reads slowly takes
/// nothing for a while after its receive buffer was full, because its kernel lets go only when a good part of
/// that is free.
pub(crate) const MISSABLE_NS: u64 = 5_000_000_000;

/// How long things may take, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Milliseconds {
    pub(crate) header: u64,
    pub(crate) idle: u64,
    pub(crate) queue: u64,
    /// 0: none.
    pub(crate) deadline: u64,
}

/// Rules of all loops.
#[derive(Debug)]
pub struct Rules {
    /// By forward: where its requests go.
    pub routes: Vec<Arc<RouteTable>>,
    /// What requests and connections may take.
    pub limits: Limits,
}

/// What requests and connections may take.
#[derive(Debug, Clone)]
pub struct Limits {
    pub(super) connections_per_address: Option<u32>,
    pub(super) body_limit: u64,
    pub(super) requests_per_connection: u32,
    pub(super) proxying: Proxying,
    pub(super) timeouts: Milliseconds,
    /// How slowly a client may send a body, and take an answer.
    pub(super) body_pace_limit: PaceLimit,
    /// How slowly it may send what is thrown away.
    pub(super) linger_pace_limit: PaceLimit,
    pub(super) write_pace_limit: PaceLimit,
}

impl Limits {
    /// As it is asked for.
    #[must_use]
    pub fn new(allowance: &Allowance) -> Self {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (timeouts, rates) = (&allowance.timeouts, &allowance.rates);
        Limits {
            connections_per_address: allowance.connections_per_address,
            body_limit: allowance.body_limit,
            requests_per_connection: allowance.requests_per_connection,
            proxying: allowance.proxying.clone(),
            timeouts: Milliseconds {
                header: ms(timeouts.header),
                idle: ms(timeouts.idle),
                queue: ms(timeouts.queue),
                deadline: timeouts.deadline.map_or(0, ms),
            },
            body_pace_limit: pace_limit(timeouts.body, rates.body),
            linger_pace_limit: pace_limit(LINGER_SILENCE, rates.body),
            write_pace_limit: pace_limit(timeouts.write, rates.write),
        }
    }
}

fn pace_limit(stall: Duration, rate: u64) -> PaceLimit {
    PaceLimit {
        stall_ns: u64::try_from(stall.as_nanos()).unwrap_or(u64::MAX),
        rate,
    }
}

/// Where loops find new rules.
#[derive(Debug, Default)]
pub(super) struct Board {
    /// How often there were new ones.
    edition: AtomicU32,
    rules: Mutex<Option<Arc<Rules>>>,
}

impl Board {
    pub(super) fn put(&self, rules: Arc<Rules>) {
        let before = self.lock().replace(rules);
        self.edition.fetch_add(1, Ordering::SeqCst);
        drop(before); // outside of the lock
    }

    /// What is new since `edition`, if anything is.
    pub(super) fn newer_than(&self, edition: &mut u32) -> Option<Arc<Rules>> {
        let now = self.edition.load(Ordering::Acquire);
        if std::mem::replace(edition, now) == now {
            return None;
        }
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<Rules>>> {
        // One value, which no panic can leave half changed.
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
