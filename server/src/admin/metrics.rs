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
    text.one(
        "process_start_time_seconds",
        GAUGE,
        "Unix time of the start.",
        admin.started_at.as_secs_f64(),
    )?;
    if let Some(resident) = process::resident() {
        text.one(
            "process_resident_memory_bytes",
            GAUGE,
            "Resident memory, as the kernel counts it.",
            resident,
        )?;
    }
    if let Some(open) = process::open_descriptors() {
        text.one("process_open_fds", GAUGE, "Open file descriptors.", open)?;
    }
    text.one(
        "transom_process_heap_allocations_total",
        COUNTER,
        "Allocations outside the region since the start.",
        process_heap_allocations(),
    )?;
    text.one(
        "transom_attaching_allocations_total",
        COUNTER,
        "Allocations outside the region since the start to open doors of other processes.",
        attaching_allocations(),
    )?;
    text.one(
        "transom_log_lines_dropped_total",
        COUNTER,
        "Log lines that found the queue full.",
        admin.logs.dropped(),
    )?;
    if let Some(access) = &admin.access {
        text.one(
            "transom_access_lines_dropped_total",
            COUNTER,
            "Lines of the access log that found the queue full.",
            access.dropped(),
        )?;
    }
    text.one(
        "transom_draining",
        GAUGE,
        "1 while the server drains.",
        u8::from(admin.is_draining()),
    )
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
    for (name, kind, help, value) in [
        (
            "transom_connections_accepted_total",
            COUNTER,
            "Connections accepted.",
            figures.accepted,
        ),
        (
            "transom_connections",
            GAUGE,
            "Connections that are open.",
            figures.connections,
        ),
        (
            "transom_connections_max",
            GAUGE,
            "Connections that may be open.",
            front.connections_max as u64,
        ),
        (
            "transom_slots_busy",
            GAUGE,
            "Slots with a call, or the beginning of one.",
            figures.slots_busy,
        ),
        (
            "transom_slots",
            GAUGE,
            "Slots of all loops to all doors.",
            figures.slots,
        ),
        (
            "transom_slots_lost",
            GAUGE,
            "Slots that lost requests keep, beside these.",
            figures.slots_lost,
        ),
        (
            "transom_requests_waiting",
            GAUGE,
            "Requests that wait for a slot.",
            figures.waiting,
        ),
        (
            "transom_requests_total",
            COUNTER,
            "Calls submitted to the doors.",
            figures.requests,
        ),
        (
            "transom_door_died_total",
            COUNTER,
            "Our own answers 502: the application went away during the call, or gave what is no reply.",
            figures.bad_gateway,
        ),
        (
            "transom_deadline_total",
            COUNTER,
            "Our own answers 504: the deadline passed.",
            figures.late,
        ),
        (
            "transom_resent_total",
            COUNTER,
            "Calls given to the next instance of an application.",
            figures.unaccepted_resent,
        ),
    ] {
        text.one(name, kind, help, value)?;
    }
    text.each(
        (
            "transom_responses_total",
            COUNTER,
            "Answers; 2xx are all below 400, 5xx are without 501.",
        ),
        "class",
        [
            ("2xx", figures.good),
            ("4xx", figures.client_errors),
            ("5xx", figures.server_errors),
            ("501", figures.not_implemented),
        ],
    )?;
    text.each(
        (
            "transom_refused_total",
            COUNTER,
            "Requests that the front end found too large: 413, 414, 431.",
        ),
        "reason",
        [
            ("body", figures.body_refused),
            ("target", figures.target_refused),
            ("head", figures.head_refused),
        ],
    )?;
    text.each(
        (
            "transom_rejected_total",
            COUNTER,
            "Our own answers 503: no slot, thread or buffer within the queue timeout.",
        ),
        "reason",
        [("no-slot", figures.rejected)],
    )?;
    text.each(
        (
            "transom_connections_closed_total",
            COUNTER,
            "Connections that were closed for others' sake.",
        ),
        "reason",
        [
            ("evicted", figures.evicted),
            ("slow", figures.slow_cut),
            ("partial-head", figures.partial_evicted),
            ("address", figures.address_refused),
            ("proxy", figures.proxy_refused),
        ],
    )?;
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
    text.each(
        (
            "transom_lost_buckets",
            GAUGE,
            "Buckets that take no requests and may never take one again.",
        ),
        "reason",
        [
            ("parked", figures.lost.parked),
            ("resting", figures.lost.resting),
            ("overdue", figures.lost.overdue),
        ],
    )?;
    let geometry = application.buckets().get(0).map(Bucket::geometry);
    let geometry = geometry.expect("an application has a bucket");
    let (shared, shared_size) = shared_heap_usage();
    for (name, kind, help, value) in [
        (
            "transom_bucket_size_bytes",
            GAUGE,
            "A bucket.",
            geometry.bucket_size(),
        ),
        (
            "transom_arena_size_bytes",
            GAUGE,
            "What of it a request can allocate.",
            geometry.arena_size(),
        ),
        (
            "transom_stack_size_bytes",
            GAUGE,
            "What of it is its stack.",
            geometry.stack_size(),
        ),
        (
            "transom_arena_high_water_bytes",
            GAUGE,
            "The most that a request has used of its arena.",
            figures.high_water,
        ),
        (
            "transom_stack_high_water_bytes",
            GAUGE,
            "The deepest that a stack has been seen.",
            figures.stack_high_water,
        ),
        (
            "transom_largest_refused_bytes",
            GAUGE,
            "The most that an allocation has asked for and not got.",
            figures.largest_refused as usize,
        ),
        (
            "transom_shared_heap_bytes",
            GAUGE,
            "Bytes of the shared heap in use.",
            shared,
        ),
        (
            "transom_shared_heap_size_bytes",
            GAUGE,
            "Bytes of the shared heap.",
            shared_size,
        ),
        (
            "transom_threads",
            GAUGE,
            "Door server threads started.",
            figures.threads as usize,
        ),
        (
            "transom_threads_max",
            GAUGE,
            "Door server threads there may be.",
            application.buckets().len() as usize,
        ),
        (
            "transom_threads_refused_total",
            COUNTER,
            "Attempts to start a thread that the system has refused.",
            figures.threads_refused as usize,
        ),
        (
            "transom_calls_total",
            COUNTER,
            "Calls that have ended, one way or another.",
            figures.calls as usize,
        ),
        (
            "transom_panics_total",
            COUNTER,
            "Handlers that panicked.",
            figures.panicked as usize,
        ),
        (
            "transom_left_total",
            COUNTER,
            "Requests that left memory in use in their buckets.",
            figures.left as usize,
        ),
        (
            "transom_kept_bytes",
            GAUGE,
            "Bytes that buckets keep of what earlier requests left in use.",
            figures.kept,
        ),
        (
            "transom_kept_max_bytes",
            GAUGE,
            "The most that a bucket has kept of it.",
            figures.kept_max,
        ),
        (
            "transom_threads_replaced_total",
            COUNTER,
            "Door server threads that were ended because their buckets kept too much, and replaced.",
            figures.threads_ended as usize,
        ),
    ] {
        text.one(name, kind, help, value)?;
    }
    text.each(
        (
            "transom_exhausted_total",
            COUNTER,
            "Requests that outgrew their bucket, or found the shared heap full.",
        ),
        "reason",
        [
            ("arena", figures.exhausted_arena),
            ("stack", figures.exhausted_stack),
            ("shared-heap", figures.exhausted_shared_heap),
        ],
    )?;
    of_pools(text)?;
    of_routes(application.routes(), text)
}

/// What requests share beside their buckets.
fn of_pools(text: &mut Exposition<'_>) -> io::Result<()> {
    text.one(
        "transom_shared_heap_refused_total",
        COUNTER,
        "Changes of Shared cells that were refused, because there was no room for them.",
        transom_arena::shared_heap_refused(),
    )?;
    let overdraft = overdraft_usage();
    let of_overdraft = [("used", overdraft.used), ("kept", overdraft.kept)];
    text.each(
        (
            "transom_overdraft_bytes",
            GAUGE,
            "Bytes of the overdraft in use, and of these what has outlived its request.",
        ),
        "what",
        of_overdraft.map(|(what, bytes)| (what, bytes as u64)),
    )?;
    text.one(
        "transom_overdraft_request_max_bytes",
        GAUGE,
        "The most of the overdraft that one request has had.",
        overdraft.most,
    )?;
    text.one(
        "transom_overdraft_size_bytes",
        GAUGE,
        "Bytes of the overdraft.",
        overdraft.size,
    )?;
    #[cfg(feature = "c-heap")]
    {
        let heap = transom_arena::c_heap_usage();
        let of_heap = [("used", heap.used), ("kept", heap.kept)];
        text.each(
            (
                "transom_c_heap_bytes",
                GAUGE,
                "Bytes of the C heap in use, and of these what has outlived its request.",
            ),
            "what",
            of_heap.map(|(what, bytes)| (what, bytes as u64)),
        )?;
        for (name, kind, help, value) in [
            (
                "transom_c_heap_request_max_bytes",
                GAUGE,
                "The most of the C heap that one request has had.",
                heap.most as u64,
            ),
            (
                "transom_c_heap_size_bytes",
                GAUGE,
                "Bytes of the C heap.",
                heap.size as u64,
            ),
            (
                "transom_c_heap_calls_total",
                COUNTER,
                "Calls of malloc and its like in requests.",
                heap.calls,
            ),
            (
                "transom_c_heap_refused_total",
                COUNTER,
                "Calls of malloc and its like in requests that got nothing.",
                heap.refused,
            ),
        ] {
            text.one(name, kind, help, value)?;
        }
    }
    Ok(())
}

fn of_recycle(recycle: &RecycleView, text: &mut Exposition<'_>) -> io::Result<()> {
    text.one(
        "transom_lost_limit",
        GAUGE,
        "Lost buckets at which the process is replaced.",
        recycle.limit,
    )?;
    text.one(
        "transom_recycles_total",
        COUNTER,
        "Instances that were replaced because of lost buckets, this one and those before it.",
        recycle.recycles.load(Ordering::Relaxed),
    )
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
