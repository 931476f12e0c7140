//! `/buckets.json`: what the page and `transom top` show.

use super::metrics::{STATES, place_name};
use super::process;
use super::view::{Admin, FrontView, RecycleView, unix_time};
use serde::ser::SerializeSeq;
use serde::{Serialize, Serializer};
use std::io::{self, Write};
use std::sync::atomic::Ordering;
use transom_arena::{
    Bound, Bucket, BucketState, attaching_allocations, overdraft_usage, process_heap_allocations,
    shared_heap_usage,
};
use transom_platform::{Application, Culprit, Loss, RouteMeter};
use transom_wire::histogram::Histogram;

/// Writes it all.
pub(super) fn write(admin: &Admin, out: &mut dyn Write) -> io::Result<()> {
    let why = admin.why_not_ready();
    let snapshot = Snapshot {
        version: env!("CARGO_PKG_VERSION"),
        pid: std::process::id(),
        unix_ms: unix_time().as_millis() as u64,
        uptime_ms: admin.started.elapsed().as_millis() as u64,
        ready: why.is_none(),
        draining: admin.is_draining(),
        why: why.unwrap_or(""),
        bound: admin.bound.total(),
        resident: process::resident(),
        process_heap_allocations: process_heap_allocations(),
        attaching_allocations: attaching_allocations(),
        equation: Equation(&admin.bound),
        front: admin.front.as_ref().map(Front::of),
        application: admin.application.map(Applied::of),
        recycle: admin.recycle.as_ref().map(Recycle::of),
    };
    serde_json::to_writer(out, &snapshot)?;
    Ok(())
}

#[derive(Serialize)]
struct Snapshot<'a> {
    version: &'static str,
    pid: u32,
    unix_ms: u64,
    uptime_ms: u64,
    ready: bool,
    draining: bool,
    why: &'static str,
    bound: usize,
    resident: Option<u64>,
    process_heap_allocations: u64,
    attaching_allocations: u64,
    equation: Equation<'a>,
    front: Option<Front>,
    application: Option<Applied>,
    recycle: Option<Recycle>,
}

#[derive(Serialize)]
struct Recycle {
    how: &'static str,
    limit: u32,
    recycles: u64,
}

impl Recycle {
    fn of(view: &RecycleView) -> Self {
        Recycle {
            how: view.way,
            limit: view.limit,
            recycles: view.recycles.load(Ordering::Relaxed),
        }
    }
}

struct Equation<'b>(&'b Bound);

impl Serialize for Equation<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.terms().iter().map(|term| Addend {
            term: term.name,
            place: place_name(term.place),
            count: term.count,
            unit: term.unit,
            bytes: term.bytes().unwrap_or(usize::MAX),
            holder: term.holder,
            flags: term.flags,
        }))
    }
}

#[derive(Serialize)]
struct Addend {
    term: &'static str,
    place: &'static str,
    count: usize,
    unit: usize,
    bytes: usize,
    holder: &'static str,
    flags: &'static str,
}

#[derive(Serialize)]
struct Front {
    connections: u64,
    connections_max: usize,
    slots: u64,
    slots_busy: u64,
    waiting: u64,
    accepted: u64,
    requests: u64,
    good: u64,
    client_errors: u64,
    server_errors: u64,
    rejected: u64,
    bad_gateway: u64,
    late: u64,
    request_us: Microseconds,
}

impl Front {
    fn of(front: &FrontView) -> Self {
        let figures = front.figures();
        Front {
            connections: figures.connections,
            connections_max: front.connections_max,
            slots: figures.slots,
            slots_busy: figures.slots_busy,
            waiting: figures.waiting,
            accepted: figures.accepted,
            requests: figures.requests,
            good: figures.good,
            client_errors: figures.client_errors,
            server_errors: figures.server_errors,
            rejected: figures.rejected,
            bad_gateway: figures.bad_gateway,
            late: figures.late,
            request_us: front
                .request_time()
                .as_ref()
                .map_or(Microseconds::NONE, Microseconds::of),
        }
    }
}

/// Quantiles of a time.
#[derive(Serialize)]
struct Microseconds {
    p50: u64,
    p99: u64,
    max: u64,
}

impl Microseconds {
    const NONE: Self = Microseconds {
        p50: 0,
        p99: 0,
        max: 0,
    };

    fn of(nanoseconds: &Histogram) -> Self {
        Microseconds {
            p50: nanoseconds.all_but_one_in(2) / 1000,
            p99: nanoseconds.all_but_one_in(100) / 1000,
            max: nanoseconds.max() / 1000,
        }
    }
}

#[derive(Serialize)]
struct Applied {
    bucket_size: usize,
    arena_size: usize,
    stack_size: usize,
    buckets: u32,
    threads: u32,
    calls: u64,
    exhausted_arena: u64,
    exhausted_stack: u64,
    exhausted_shared_heap: u64,
    panicked: u64,
    left: u64,
    kept: usize,
    overdraft: usize,
    overdraft_size: usize,
    largest_refused: u64,
    high_water: usize,
    stack_high_water: usize,
    shared_heap: usize,
    shared_heap_size: usize,
    states: [&'static str; 5],
    cells: Cells,
    lost: Lost,
    routes: Routes,
    culprits: Culprits,
}

#[derive(Serialize)]
struct Lost {
    parked: u32,
    resting: u32,
    overdue: u32,
    by_time: ByTime,
}

impl Applied {
    fn of(application: &'static Application) -> Self {
        let figures = application.figures();
        let geometry = application.buckets().get(0).map(Bucket::geometry);
        let geometry = geometry.expect("an application has a bucket");
        let (shared_heap, shared_heap_size) = shared_heap_usage();
        let overdraft = overdraft_usage();
        Applied {
            bucket_size: geometry.bucket_size(),
            arena_size: geometry.arena_size(),
            stack_size: geometry.stack_size(),
            buckets: application.buckets().len(),
            threads: figures.threads.started,
            calls: figures.calls.ended,
            exhausted_arena: figures.calls.exhausted_arena,
            exhausted_stack: figures.calls.exhausted_stack,
            exhausted_shared_heap: figures.calls.exhausted_shared_heap,
            panicked: figures.calls.panicked,
            left: figures.kept.left,
            kept: figures.kept.bytes,
            overdraft: overdraft.used,
            overdraft_size: overdraft.size,
            largest_refused: figures.calls.largest_refused,
            high_water: figures.high_water,
            stack_high_water: figures.stack_high_water,
            shared_heap,
            shared_heap_size,
            states: STATES.map(|(_, name)| name),
            cells: Cells(application),
            lost: Lost {
                parked: figures.lost.parked,
                resting: figures.lost.resting,
                overdue: figures.lost.overdue,
                by_time: ByTime(application),
            },
            routes: Routes(application.routes()),
            culprits: Culprits(application),
        }
    }
}

/// State, last and highest high water of each bucket.
struct Cells(&'static Application);

impl Serialize for Cells {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.buckets().iter().map(|bucket| {
            let state: BucketState = bucket.state();
            (state as u32, bucket.last_high_water(), bucket.high_water())
        }))
    }
}

/// The places of buckets that are lost and not parked: their state does not show it.
struct ByTime(&'static Application);

impl Serialize for ByTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let by_time = |bucket: &u32| {
            let loss = self.0.loss_of(*bucket);
            matches!(loss, Some(Loss::Resting | Loss::Overdue))
        };
        serializer.collect_seq((0..self.0.buckets().len()).filter(by_time))
    }
}

struct Routes(&'static [RouteMeter]);

impl Serialize for Routes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        for meter in self.0 {
            list.serialize_element(&RouteView {
                route: meter.route,
                calls: meter.memory.count(),
                exhausted: meter.exhausted(),
                p50: meter.memory.all_but_one_in(2),
                p99: meter.memory.all_but_one_in(100),
                p9999: meter.memory.all_but_one_in(10_000),
                max: meter.memory.max(),
                call_us: Microseconds::of(&meter.call_time),
            })?;
        }
        list.end()
    }
}

#[derive(Serialize)]
struct RouteView {
    route: &'static str,
    calls: u64,
    exhausted: u64,
    p50: u64,
    p99: u64,
    p9999: u64,
    max: u64,
    call_us: Microseconds,
}

struct Culprits(&'static Application);

impl Serialize for Culprits {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.culprits().map(|culprit: Culprit| Exhausted {
            n: culprit.number,
            unix_ms: culprit.unix_ms,
            route: culprit.route,
            reason: culprit.exhaustion.reason.as_str(),
            asked: culprit.exhaustion.asked,
            used: culprit.exhaustion.used,
            size: culprit.exhaustion.size,
            raise: culprit.exhaustion.reason.flag(),
            parked: culprit.parked,
        }))
    }
}

#[derive(Serialize)]
struct Exhausted {
    n: u64,
    unix_ms: u64,
    route: &'static str,
    reason: &'static str,
    asked: usize,
    used: usize,
    size: usize,
    raise: &'static str,
    parked: bool,
}
