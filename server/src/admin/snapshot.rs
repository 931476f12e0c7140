//! Writes `/buckets.json`: what the page and `transom top` show.

use super::document::{
    self, Addend, Cell, Culprit, Front, Listed, Lost, Microseconds, Recycle, RouteUsage, Snapshot,
};
use super::metrics::STATES;
use super::process;
use super::view::{Admin, FrontView, RecycleView, unix_time};
use serde::Serialize;
use std::io::{self, Write};
use std::sync::atomic::Ordering;
use transom_arena::{
    Bucket, attaching_allocations, overdraft_usage, process_heap_allocations, shared_heap_usage,
};
use transom_platform::{Application, Loss, RouteMeter};
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
        bound: admin.bound.total() as u64,
        resident: process::resident(),
        process_heap_allocations: process_heap_allocations(),
        attaching_allocations: attaching_allocations(),
        equation: Listed(move || admin.bound.terms().iter().map(Addend::of)),
        front: admin.front.as_ref().map(front),
        application: admin.application.map(application),
        recycle: admin.recycle.as_ref().map(recycle),
    };
    serde_json::to_writer(out, &snapshot)?;
    Ok(())
}

fn recycle(view: &RecycleView) -> Recycle<&'static str> {
    Recycle {
        how: view.way,
        limit: view.limit,
        recycles: view.recycles.load(Ordering::Relaxed),
    }
}

fn front(view: &FrontView) -> Front {
    let figures = view.figures();
    let request_time = view.request_time();
    Front {
        connections: figures.connections,
        connections_max: view.connections_max as u64,
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
        request_us: request_time
            .as_ref()
            .map_or_else(Microseconds::default, quantiles),
    }
}

fn quantiles(nanoseconds: &Histogram) -> Microseconds {
    Microseconds {
        p50: nanoseconds.all_but_one_in(2) / 1000,
        p99: nanoseconds.all_but_one_in(100) / 1000,
        max: nanoseconds.max() / 1000,
    }
}

fn application(
    application: &'static Application,
) -> document::Application<
    [&'static str; STATES.len()],
    impl Serialize,
    impl Serialize,
    impl Serialize,
    impl Serialize,
> {
    let figures = application.figures();
    let geometry = application.buckets().get(0).map(Bucket::geometry);
    let geometry = geometry.expect("an application has a bucket");
    let (shared_heap, shared_heap_size) = shared_heap_usage();
    let overdraft = overdraft_usage();
    document::Application {
        bucket_size: geometry.bucket_size() as u64,
        arena_size: geometry.arena_size() as u64,
        stack_size: geometry.stack_size() as u64,
        buckets: application.buckets().len().into(),
        threads: figures.threads.started.into(),
        calls: figures.calls.ended,
        exhausted_arena: figures.calls.exhausted_arena,
        exhausted_stack: figures.calls.exhausted_stack,
        exhausted_shared_heap: figures.calls.exhausted_shared_heap,
        panicked: figures.calls.panicked,
        left: figures.kept.left,
        kept: figures.kept.bytes as u64,
        overdraft: overdraft.used as u64,
        overdraft_size: overdraft.size as u64,
        largest_refused: figures.calls.largest_refused,
        high_water: figures.high_water as u64,
        stack_high_water: figures.stack_high_water as u64,
        shared_heap: shared_heap as u64,
        shared_heap_size: shared_heap_size as u64,
        states: STATES.map(|(_, name)| name),
        cells: Listed(move || application.buckets().iter().map(cell)),
        lost: Lost {
            parked: figures.lost.parked.into(),
            resting: figures.lost.resting.into(),
            overdue: figures.lost.overdue.into(),
            by_time: Listed(move || lost_by_time(application)),
        },
        routes: Listed(move || application.routes().iter().map(route)),
        culprits: Listed(move || application.culprits().map(culprit)),
    }
}

fn cell(bucket: &Bucket) -> Cell {
    let state = bucket.state() as usize;
    Cell(
        state,
        bucket.last_high_water() as u64,
        bucket.high_water() as u64,
    )
}

/// The places of buckets that are lost and not parked: their state does not show it.
fn lost_by_time(application: &'static Application) -> impl Iterator<Item = u32> {
    let by_time = move |bucket: &u32| {
        let loss = application.loss_of(*bucket);
        matches!(loss, Some(Loss::Resting | Loss::Overdue))
    };
    (0..application.buckets().len()).filter(by_time)
}

fn route(meter: &RouteMeter) -> RouteUsage<&'static str> {
    RouteUsage {
        route: meter.route,
        calls: meter.memory.count(),
        exhausted: meter.exhausted(),
        p50: meter.memory.all_but_one_in(2),
        p99: meter.memory.all_but_one_in(100),
        p9999: meter.memory.all_but_one_in(10_000),
        max: meter.memory.max(),
        call_us: quantiles(&meter.call_time),
    }
}

fn culprit(culprit: transom_platform::Culprit) -> Culprit<&'static str> {
    let exhaustion = culprit.exhaustion;
    Culprit {
        n: culprit.number,
        unix_ms: culprit.unix_ms,
        route: culprit.route,
        reason: exhaustion.reason.as_str(),
        asked: exhaustion.asked as u64,
        used: exhaustion.used as u64,
        size: exhaustion.size as u64,
        raise: exhaustion.reason.flag(),
        parked: culprit.parked,
    }
}
