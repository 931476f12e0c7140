//! `/buckets.json` of the admin address: what a server says of itself at one moment. `docs/metrics.md` has
//! its fields.
#![allow(
    dead_code,
    reason = "these are the document's fields; each tool reads those that it needs"
)]

use crate::admin_client::{self, AdminAddress, AdminError};
use serde::Deserialize;

/// One moment of a server.
#[derive(Debug, Clone, Deserialize)]
pub struct Snapshot {
    /// The server's version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Milliseconds of Unix time.
    pub unix_ms: u64,
    /// Milliseconds since "ready".
    pub uptime_ms: u64,
    /// Whether it takes requests.
    pub ready: bool,
    /// Whether it is on its way out.
    pub draining: bool,
    /// Why it is not ready, in a word.
    pub why: String,
    /// The equation's sum, in bytes.
    pub bound: u64,
    /// What the kernel counts as resident, in bytes.
    pub resident: u64,
    /// Allocations outside the region since "ready".
    pub process_heap_allocations: u64,
    /// The addends.
    pub equation: Vec<Term>,
    /// `None` for an application behind a door.
    pub front: Option<Front>,
    /// `None` for a front end alone.
    pub application: Option<Application>,
}

/// An addend of the memory equation.
#[derive(Debug, Clone, Deserialize)]
pub struct Term {
    /// Its name.
    pub term: String,
    /// `region`, `process` or `kernel`.
    pub place: String,
    /// How many.
    pub count: u64,
    /// Bytes of one.
    pub unit: u64,
    /// Bytes of all.
    pub bytes: u64,
    /// Who holds it.
    pub holder: String,
    /// What sets it.
    pub flags: String,
}

/// The front end: what is open now, and counters since "ready".
#[derive(Debug, Clone, Deserialize)]
pub struct Front {
    /// Open now.
    pub connections: u64,
    /// At most.
    pub connections_max: u64,
    /// Of all loops, to all doors.
    pub slots: u64,
    /// Calls in flight.
    pub slots_busy: u64,
    /// Requests that wait for a slot.
    pub waiting: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Calls submitted.
    pub requests: u64,
    /// Answers below 400.
    pub good: u64,
    /// 4xx.
    pub client_errors: u64,
    /// 5xx.
    pub server_errors: u64,
    /// 503: no slot in time.
    pub rejected: u64,
    /// 502.
    pub bad_gateway: u64,
    /// 504.
    pub late: u64,
    /// From a request's arrival to the last byte of its answer.
    pub request_us: RequestTime,
}

/// Microseconds; quantiles are upper bounds of the histogram's buckets.
#[derive(Debug, Clone, Deserialize)]
pub struct RequestTime {
    /// The median.
    pub p50: u64,
    /// 99 of 100 take no longer.
    pub p99: u64,
    /// The most ever.
    pub max: u64,
}

/// The application: its buckets, and counters since "ready". Sizes are bytes.
#[derive(Debug, Clone, Deserialize)]
pub struct Application {
    /// A bucket's size.
    pub bucket_size: u64,
    /// What of it allocations have.
    pub arena_size: u64,
    /// What of it the stack has.
    pub stack_size: u64,
    /// How many buckets.
    pub buckets: u64,
    /// Threads started.
    pub threads: u64,
    /// Calls that have ended.
    pub calls: u64,
    /// Requests that did not fit into the arena.
    pub exhausted_arena: u64,
    /// Requests that did not fit onto the stack.
    pub exhausted_stack: u64,
    /// Requests for which the shared heap was full.
    pub exhausted_shared_heap: u64,
    /// Panics.
    pub panicked: u64,
    /// Requests that left allocations behind.
    pub left: u64,
    /// Bytes that buckets keep of these.
    pub kept: u64,
    /// The most that an allocation has asked for and not got.
    pub largest_refused: u64,
    /// The most of an arena that a request has used.
    pub high_water: u64,
    /// The most of a stack that a request has used.
    pub stack_high_water: u64,
    /// In use.
    pub shared_heap: u64,
    /// Of.
    pub shared_heap_size: u64,
    /// Names of the states of a bucket.
    pub states: Vec<String>,
    /// The buckets.
    pub cells: Vec<Cell>,
    /// Those that are lost.
    #[serde(default)]
    pub lost: Lost,
    /// What each route's requests needed.
    pub routes: Vec<Route>,
    /// The last exhausted requests, newest first.
    pub culprits: Vec<Culprit>,
}

impl Application {
    /// Requests that were exhausted, for any reason.
    #[must_use]
    pub fn exhausted(&self) -> u64 {
        self.exhausted_arena + self.exhausted_stack + self.exhausted_shared_heap
    }

    /// The name of a bucket's state.
    #[must_use]
    pub fn state(&self, cell: Cell) -> &str {
        self.states.get(cell.0).map_or("?", String::as_str)
    }
}

/// Buckets that take no requests and may never take one again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Lost {
    /// Their requests were parked.
    pub parked: u64,
    /// They have rested for too long.
    pub resting: u64,
    /// Their handlers have not returned in time.
    pub overdue: u64,
    /// The places of those whose state does not show it, in order.
    pub by_time: Vec<usize>,
}

/// A bucket: its state (an index into [`Application::states`]), the arena bytes of its last request, and the
/// most ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Cell(pub usize, pub u64, pub u64);

/// What the requests of a route needed: arena bytes, and how long they held their buckets.
#[derive(Debug, Clone, Deserialize)]
pub struct Route {
    /// The pattern.
    pub route: String,
    /// Calls that have ended.
    pub calls: u64,
    /// Those of them that were exhausted.
    pub exhausted: u64,
    /// Bytes.
    pub p50: u64,
    /// Bytes.
    pub p99: u64,
    /// Bytes.
    pub p9999: u64,
    /// Bytes.
    pub max: u64,
    /// Microseconds.
    pub call_us: CallTime,
}

/// Microseconds.
#[derive(Debug, Clone, Deserialize)]
pub struct CallTime {
    /// The median.
    pub p50: u64,
    /// 99 of 100 take no longer.
    pub p99: u64,
}

/// An exhausted request.
#[derive(Debug, Clone, Deserialize)]
pub struct Culprit {
    /// Which of all of them, from 1.
    pub n: u64,
    /// When.
    pub unix_ms: u64,
    /// The route's pattern.
    pub route: String,
    /// `arena`, `stack` or `shared-heap`.
    pub reason: String,
    /// Bytes of the allocation that did not fit; 0 where that is not known.
    pub asked: u64,
    /// Bytes used until then.
    pub used: u64,
    /// Bytes there are.
    pub size: u64,
    /// The flag that gives more.
    pub raise: String,
    /// Whether the bucket is lost.
    pub parked: bool,
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// No answer, or no good one.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// JSON, or not even that, of somebody else.
    #[error("what answers at {0} is no admin address of Transom: its /buckets.json is {1}")]
    NotTransom(AdminAddress, &'static str),
    /// A document of another version.
    #[error(
        "the server at {address} is Transom {theirs} and this is {ours}, which does not understand its /buckets.json \
         ({error}): use the `transom` of the server's version",
        ours = env!("CARGO_PKG_VERSION")
    )]
    OtherVersion {
        /// Who answers.
        address: AdminAddress,
        /// Its version.
        theirs: String,
        /// What is not understood.
        error: serde_json::Error,
    },
}

/// Asks a server for a snapshot.
///
/// # Errors
/// [`SnapshotError`].
pub fn take(address: &AdminAddress) -> Result<Snapshot, SnapshotError> {
    let text = match admin_client::get(address, "/buckets.json") {
        Err(AdminError::Status { status: 404, .. }) => {
            return Err(SnapshotError::NotTransom(address.clone(), "not there"));
        }
        answer => answer?,
    };
    parse(address, &text)
}

/// Reads the document that came from an address.
///
/// # Errors
/// [`SnapshotError`], of the document only.
pub fn parse(address: &AdminAddress, text: &str) -> Result<Snapshot, SnapshotError> {
    serde_json::from_str(text).map_err(|error| {
        let value: Option<serde_json::Value> = serde_json::from_str(text).ok();
        let version = value.as_ref().map(|value| value["version"].as_str());
        match version {
            None => SnapshotError::NotTransom(address.clone(), "not JSON"),
            Some(None) => SnapshotError::NotTransom(address.clone(), "something else"),
            Some(Some(theirs)) => SnapshotError::OtherVersion {
                address: address.clone(),
                theirs: theirs.to_owned(),
                error,
            },
        }
    })
}
