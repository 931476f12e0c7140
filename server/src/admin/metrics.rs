//! `/metrics`: Prometheus's text format, written straight into the slot.

use super::exposition::{COUNTER, Exposition, GAUGE, HISTOGRAM, Label, Unit};
use super::process;
use super::view::{Admin, FrontView, RecycleView};
use std::io::{self, Write};
use std::sync::atomic::Ordering;
use transom_arena::{
    Bound, Bucket, BucketState, Place, attaching_allocations, overdraft_usage,
    process_heap_allocations, shared_heap_usage,
};
use transom_platform::{Application, RouteMeter};

/// Writes families, a row each: a name with one value, or with one for each value of a label.
macro_rules! families {
    ($text:ident, $(
        $kind:ident $name:ident
        $(by $label:ident [$($of:literal = $each:expr),+ $(,)?])?
        $(= $value:expr)?
        , $help:literal;
    )+) => {$(
        $($text.one(stringify!($name), $kind, $help, $value)?;)?
        $($text.each(
            (stringify!($name), $kind, $help),
            stringify!($label),
            [$(($of, $each as u64)),+],
        )?;)?
    )+};
}

/// Writes all metrics.
pub(super) fn write(admin: &Admin, out: &mut dyn Write) -> io::Result<()> {
    let mut text = Exposition(out);
    of_process(admin, &mut text)?;
    of_bound(&admin.bound, &mut text)?;
    if let Some(front) = &admin.front {
        of_front(front, &mut text)?;
    }
    if let Some(application) = admin.application {
        of_application(application, &mut text)?;
    }
    if let Some(recycle) = &admin.recycle {
        of_recycle(recycle, &mut text)?;
    }
    Ok(())
}

fn of_process(admin: &Admin, text: &mut Exposition<'_>) -> io::Result<()> {
    text.family("transom_build_info", GAUGE, "Always 1.")?;
    let version = Label("version", env!("CARGO_PKG_VERSION"));
    text.labelled("transom_build_info", version, 1)?;
    families! { text,
        GAUGE process_start_time_seconds = admin.started_at.as_secs_f64(),
            "Unix time of the start.";
    }
    if let Some(resident) = process::resident() {
        families! { text,
            GAUGE process_resident_memory_bytes = resident,
                "Resident memory, as the kernel counts it.";
        }
    }
    if let Some(outside) = process::resident_outside(&admin.region) {
        families! { text,
            GAUGE transom_resident_outside_region_bytes = outside,
                "Resident memory outside the region.";
        }
    }
    if let Some(open) = process::open_descriptors() {
        families! { text, GAUGE process_open_fds = open, "Open file descriptors."; }
    }
    families! { text,
        COUNTER transom_process_heap_allocations_total = process_heap_allocations(),
            "Allocations outside the region since the start.";
        COUNTER transom_attaching_allocations_total = attaching_allocations(),
            "Allocations outside the region since the start to open doors of other processes.";
        COUNTER transom_log_lines_dropped_total = admin.logs.dropped(),
            "Log lines that found the queue full.";
    }
    if let Some(access) = &admin.access {
        families! { text,
            COUNTER transom_access_lines_dropped_total = access.dropped(),
                "Lines of the access log that found the queue full.";
        }
    }
    families! { text,
        GAUGE transom_draining = u8::from(admin.is_draining()), "1 while the server drains.";
    }
    Ok(())
}

fn of_bound(bound: &Bound, text: &mut Exposition<'_>) -> io::Result<()> {
    let places = [Place::Region, Place::Process, Place::Kernel];
    text.each(
        (
            "transom_bound_bytes",
            GAUGE,
            "The sum of the memory equation.",
        ),
        "place",
        places.map(|place| (place_name(place), bound.bytes_in(place))),
    )?;
    let name = "transom_bound_term_bytes";
    text.family(name, GAUGE, "An addend of the memory equation.")?;
    for term in bound.terms() {
        let (term_name, place) = (Label("term", term.name), place_name(term.place));
        let bytes = term.bytes().unwrap_or(usize::MAX);
        writeln!(
            text.0,
            "{name}{{{term_name},{}}} {bytes}",
            Label("place", place)
        )?;
    }
    text.each(
        ("transom_bound_term_units", GAUGE, "Its first factor."),
        "term",
        bound.terms().iter().map(|term| (term.name, term.count)),
    )?;
    text.each(
        ("transom_bound_term_unit_bytes", GAUGE, "Its second factor."),
        "term",
        bound.terms().iter().map(|term| (term.name, term.unit)),
    )
}

pub(super) fn place_name(place: Place) -> &'static str {
    match place {
        Place::Region => "region",
        Place::Process => "process",
        Place::Kernel => "kernel",
    }
}

fn of_front(front: &FrontView, text: &mut Exposition<'_>) -> io::Result<()> {
    let figures = front.figures();
    let connections_max = front.connections_max;
    families! { text,
        COUNTER transom_connections_accepted_total = figures.accepted, "Connections accepted.";
        GAUGE transom_connections = figures.connections, "Connections that are open.";
        GAUGE transom_connections_max = connections_max, "Connections that may be open.";
        GAUGE transom_slots_busy = figures.slots_busy, "Slots with a call, or the beginning of one.";
        GAUGE transom_slots = figures.slots, "Slots of all loops to all doors.";
        GAUGE transom_slots_lost = figures.slots_lost, "Slots that lost requests keep, beside these.";
        GAUGE transom_requests_waiting = figures.waiting, "Requests that wait for a slot.";
        COUNTER transom_requests_total = figures.requests, "Calls submitted to the doors.";
        COUNTER transom_door_died_total = figures.bad_gateway,
            "Our own answers 502: the application went away during the call, or gave what is no reply.";
        COUNTER transom_deadline_total = figures.late, "Our own answers 504: the deadline passed.";
        COUNTER transom_resent_total = figures.unaccepted_resent,
            "Calls given to the next instance of an application.";
        COUNTER transom_responses_total by class [
            "2xx" = figures.good,
            "4xx" = figures.client_errors,
            "5xx" = figures.server_errors,
            "501" = figures.not_implemented,
        ], "Answers; 2xx are all below 400, 5xx are without 501.";
        COUNTER transom_refused_total by reason [
            "body" = figures.body_refused,
            "target" = figures.target_refused,
            "head" = figures.head_refused,
        ], "Requests that the front end found too large: 413, 414, 431.";
        COUNTER transom_rejected_total by reason ["no-slot" = figures.rejected],
            "Our own answers 503: no slot, thread or buffer within the queue timeout.";
        COUNTER transom_connections_closed_total by reason [
            "evicted" = figures.evicted,
            "slow" = figures.slow_cut,
            "partial-head" = figures.partial_evicted,
            "address" = figures.address_refused,
            "proxy" = figures.proxy_refused,
        ], "Connections that were closed for others' sake.";
    }
    let name = "transom_request_seconds";
    text.family(
        name,
        HISTOGRAM,
        "From a request's arrival to the last byte of its answer.",
    )?;
    match front.request_time() {
        Some(time) => text.histogram(name, None, &time, Unit::Nanoseconds),
        None => Ok(()),
    }
}

fn of_application(application: &Application, text: &mut Exposition<'_>) -> io::Result<()> {
    let figures = application.figures();
    let mut in_state = [0; STATES.len()];
    for bucket in application.buckets().iter() {
        in_state[bucket.state() as usize] += 1;
    }
    text.each(
        ("transom_buckets", GAUGE, "Buckets by what they are doing."),
        "state",
        STATES.map(|(state, name)| (name, in_state[state as usize])),
    )?;
    let geometry = application.buckets().get(0).map(Bucket::geometry);
    let geometry = geometry.expect("an application has a bucket");
    families! { text,
        GAUGE transom_lost_buckets by reason [
            "parked" = figures.lost.parked,
            "resting" = figures.lost.resting,
            "overdue" = figures.lost.overdue,
        ], "Buckets that take no requests and may never take one again.";
        GAUGE transom_bucket_size_bytes = geometry.bucket_size(), "A bucket.";
        GAUGE transom_arena_size_bytes = geometry.arena_size(), "What of it a request can allocate.";
        GAUGE transom_stack_size_bytes = geometry.stack_size(), "What of it is its stack.";
        GAUGE transom_arena_high_water_bytes = figures.high_water,
            "The most that a request has used of its arena.";
        GAUGE transom_stack_high_water_bytes = figures.stack_high_water,
            "The deepest that a stack has been seen.";
        GAUGE transom_largest_refused_bytes = figures.calls.largest_refused,
            "The most that an allocation has asked for and not got.";
        GAUGE transom_threads = figures.threads.started, "Door server threads started.";
        GAUGE transom_threads_max = application.buckets().len(), "Door server threads there may be.";
        COUNTER transom_threads_refused_total = figures.threads.refused,
            "Attempts to start a thread that the system has refused.";
        COUNTER transom_calls_total = figures.calls.ended, "Calls that have ended, one way or another.";
        GAUGE transom_calls_cleaning_up = application.cleaning_up(),
            "Calls that have failed, are answered, and still clean up.";
        COUNTER transom_panics_total = figures.calls.panicked, "Handlers that panicked.";
        COUNTER transom_left_total = figures.kept.left,
            "Requests that left memory in use in their buckets.";
        GAUGE transom_kept_bytes = figures.kept.bytes,
            "Bytes that buckets keep of what earlier requests left in use.";
        GAUGE transom_kept_max_bytes = figures.kept.max, "The most that a bucket has kept of it.";
        COUNTER transom_threads_replaced_total = figures.threads.ended,
            "Door server threads that were ended because their buckets kept too much, and replaced.";
        COUNTER transom_exhausted_total by reason [
            "arena" = figures.calls.exhausted_arena,
            "stack" = figures.calls.exhausted_stack,
            "shared-heap" = figures.calls.exhausted_shared_heap,
        ], "Requests that outgrew their bucket, or found the shared heap full.";
    }
    of_pools(text)?;
    of_routes(application.routes(), text)
}

/// What requests share beside their buckets.
fn of_pools(text: &mut Exposition<'_>) -> io::Result<()> {
    let (shared, shared_size) = shared_heap_usage();
    let overdraft = overdraft_usage();
    families! { text,
        GAUGE transom_shared_heap_bytes = shared, "Bytes of the shared heap in use.";
        GAUGE transom_shared_heap_size_bytes = shared_size, "Bytes of the shared heap.";
        COUNTER transom_shared_heap_refused_total = transom_arena::shared_heap_refused(),
            "Changes of Shared cells that were refused, because there was no room for them.";
        GAUGE transom_overdraft_bytes by what ["used" = overdraft.used, "kept" = overdraft.kept],
            "Bytes of the overdraft in use, and of these what has outlived its request.";
        GAUGE transom_overdraft_request_max_bytes = overdraft.most,
            "The most of the overdraft that one request has had.";
        GAUGE transom_overdraft_size_bytes = overdraft.size, "Bytes of the overdraft.";
    }
    #[cfg(feature = "c-heap")]
    {
        let heap = transom_arena::c_heap_usage();
        families! { text,
            GAUGE transom_c_heap_bytes by what ["used" = heap.used, "kept" = heap.kept],
                "Bytes of the C heap in use, and of these what has outlived its request.";
            GAUGE transom_c_heap_request_max_bytes = heap.most,
                "The most of the C heap that one request has had.";
            GAUGE transom_c_heap_size_bytes = heap.size, "Bytes of the C heap.";
            COUNTER transom_c_heap_calls_total = heap.calls,
                "Calls of malloc and its like in requests.";
            COUNTER transom_c_heap_refused_total = heap.refused,
                "Calls of malloc and its like in requests that got nothing.";
        }
    }
    Ok(())
}

fn of_recycle(recycle: &RecycleView, text: &mut Exposition<'_>) -> io::Result<()> {
    families! { text,
        GAUGE transom_lost_limit = recycle.limit, "Lost buckets at which the process is replaced.";
        COUNTER transom_recycles_total = recycle.recycles.load(Ordering::Relaxed),
            "Instances that were replaced because of lost buckets, this one and those before it.";
    }
    Ok(())
}

fn of_routes(routes: &[RouteMeter], text: &mut Exposition<'_>) -> io::Result<()> {
    let label = |meter: &RouteMeter| Label("route", meter.route);
    let name = "transom_route_memory_bytes";
    text.family(name, HISTOGRAM, "Arena bytes that a request needed.")?;
    for meter in routes {
        text.histogram(name, Some(label(meter)), &meter.memory, Unit::Bytes)?;
    }
    text.each(
        (
            "transom_route_memory_max_bytes",
            GAUGE,
            "The most that a request needed.",
        ),
        "route",
        routes.iter().map(|meter| (meter.route, meter.memory.max())),
    )?;
    text.each(
        (
            "transom_c_heap_leaked_bytes_total",
            COUNTER,
            "Bytes that requests had of the C heap when they were left by a jump.",
        ),
        "route",
        routes.iter().map(|meter| (meter.route, meter.c_leaked())),
    )?;
    let name = "transom_call_seconds";
    text.family(name, HISTOGRAM, "How long a call has held its bucket.")?;
    for meter in routes {
        let time = &meter.call_time;
        text.histogram(name, Some(label(meter)), time, Unit::Nanoseconds)?;
    }
    Ok(())
}

/// The states of buckets, in the order of their numbers.
pub(super) const STATES: [(BucketState, &str); 5] = [
    (BucketState::Unbound, "unbound"),
    (BucketState::Idle, "idle"),
    (BucketState::Busy, "busy"),
    (BucketState::Resting, "resting"),
    (BucketState::Parked, "parked"),
];
