//! `/buckets.json` as a document: what a server says of itself at one moment, written here and read by the
//! tools. `docs/metrics.md` has its fields.
//!
//! Texts and lists are parameters: a server writes from what it has, an element at a time ([`Listed`]), and
//! holds nothing that would have to be dropped; who reads it gets `String` and `Vec`.

use super::metrics::place_name;
use serde::{Deserialize, Serialize, Serializer};
use transom_arena::Term;

/// One moment of a server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Snapshot<T = String, E = Vec<Addend>, A = Application> {
    /// The server's version.
    pub version: T,
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
    pub why: T,
    /// The equation's sum, in bytes.
    pub bound: u64,
    /// What the kernel counts as resident, in bytes.
    pub resident: Option<u64>,
    /// Allocations outside the region since "ready".
    pub process_heap_allocations: u64,
    /// Those that open doors, and are freed with their channel.
    #[serde(default)]
    pub attaching_allocations: u64,
    /// The addends.
    pub equation: E,
    /// `None` for an application behind a door.
    pub front: Option<Front>,
    /// `None` for a front end alone.
    pub application: Option<A>,
    /// How its process is replaced when buckets are lost; `None` for a front end alone.
    pub recycle: Option<Recycle<T>>,
}

/// An addend of the memory equation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Addend<T = String> {
    /// Its name.
    pub term: T,
    /// `region`, `process` or `kernel`.
    pub place: T,
    /// How many.
    pub count: u64,
    /// Bytes of one.
    pub unit: u64,
    /// Bytes of all.
    pub bytes: u64,
    /// Who holds it.
    pub holder: T,
    /// What sets it.
    pub flags: T,
}

impl Addend<&'static str> {
    /// A term of the sum.
    #[must_use]
    pub fn of(term: &Term) -> Self {
        Addend {
            term: term.name,
            place: place_name(term.place),
            count: term.count as u64,
            unit: term.unit as u64,
            bytes: term.bytes().unwrap_or(usize::MAX) as u64,
            holder: term.holder,
            flags: term.flags,
        }
    }
}

/// The front end: what is open now, and counters since "ready".
#[derive(Debug, Clone, Serialize, Deserialize)]
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
    pub request_us: Microseconds,
}

/// Quantiles of a time: upper bounds of the histogram's buckets.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Microseconds {
    /// The median.
    pub p50: u64,
    /// 99 of 100 take no longer.
    pub p99: u64,
    /// The most ever.
    #[serde(default)]
    pub max: u64,
}

/// The application: its buckets, and counters since "ready". Sizes are bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Application<
    S = Vec<String>,
    C = Vec<Cell>,
    B = Vec<usize>,
    R = Vec<RouteUsage>,
    K = Vec<Culprit>,
> {
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
    /// What of the overdraft is in use.
    #[serde(default)]
    pub overdraft: u64,
    /// Of.
    #[serde(default)]
    pub overdraft_size: u64,
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
    pub states: S,
    /// The buckets.
    pub cells: C,
    /// Those that are lost.
    #[serde(default)]
    pub lost: Lost<B>,
    /// What each route's requests needed.
    pub routes: R,
    /// The last exhausted requests, newest first.
    pub culprits: K,
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
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Lost<B = Vec<usize>> {
    /// Their requests were parked.
    pub parked: u64,
    /// They have rested for too long.
    pub resting: u64,
    /// Their handlers have not returned in time.
    pub overdue: u64,
    /// The places of those whose state does not show it, in order.
    pub by_time: B,
}

/// A bucket: its state (an index into [`Application::states`]), the arena bytes of its last request, and the
/// most ever.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Cell(pub usize, pub u64, pub u64);

/// What the requests of a route needed: arena bytes, and how long they held their buckets.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RouteUsage<T = String> {
    /// The pattern.
    pub route: T,
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
    /// How long they held their buckets.
    pub call_us: Microseconds,
}

/// An exhausted request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Culprit<T = String> {
    /// Which of all of them, from 1.
    pub n: u64,
    /// When.
    pub unix_ms: u64,
    /// The route's pattern.
    pub route: T,
    /// `arena`, `stack` or `shared-heap`.
    pub reason: T,
    /// Bytes of the allocation that did not fit; 0 where that is not known.
    pub asked: u64,
    /// Bytes in use then.
    pub used: u64,
    /// Bytes there are.
    pub size: u64,
    /// The flag that gives more.
    pub raise: T,
    /// Whether the bucket is lost.
    pub parked: bool,
}

/// How a process is replaced when buckets are lost.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Recycle<T = String> {
    /// In a word: that of `--recycle`.
    pub how: T,
    /// Lost buckets at which it is.
    pub limit: u32,
    /// How often instances of this server were, one after the other.
    pub recycles: u64,
}

/// A list that is written an element at a time, from what this gives: there is no room for all of it.
#[derive(Debug)]
pub struct Listed<F>(pub F);

impl<F, I> Serialize for Listed<F>
where
    F: Fn() -> I,
    I: IntoIterator,
    I::Item: Serialize,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((self.0)())
    }
}
