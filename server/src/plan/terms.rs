//! The terms of the memory equation, one function for each or for those that belong together.

use crate::settings::{FrontSettings, Settings};
use transom_arena::{Bytes, Place, Term, pages};
use transom_doors::{CLOSER_STACK, CLOSERS_MAX, ChannelGeometry};
use transom_front::forward;
use transom_front::{
    ACCESS_ENTRY_SIZE, LOOP_STACK, OPENER_STACK, QUEUE_ENTRY_SIZE, REMOTE_SLOTS_IN_ALL,
    SLOT_TABLES_SIZE,
};
use transom_log as log;
use transom_log::access;
use transom_net::addresses::Addresses;

/// The channel between the loop and the bucket that are kept aside for `--admin`.
pub(crate) const ADMIN_CHANNEL: ChannelGeometry = ChannelGeometry {
    slots: 4,
    spares: 0,
    request_size: 32 << 10,
    reply_size: 32 << 10,
};

/// What the kernel takes for a thread: its stack (16 KiB) and task structures.
const KERNEL_PER_THREAD: usize = 24 << 10;

/// Threads of a front end beside its loops and those that open doors: the main thread, the log's, and those
/// that close what comes from doors.
pub(super) const FRONT_THREADS: usize = 2 + CLOSERS;

/// Threads that close what other processes have sent, and the one that starts them.
pub(super) const CLOSERS: usize = CLOSERS_MAX + 1;

pub(super) fn closers() -> Term {
    term(
        "closer stacks",
        Place::Process,
        CLOSERS,
        CLOSER_STACK,
        "threads that close what other processes have sent, at most",
        "none",
    )
}

/// The terms of loops that forward HTTP over so many channels.
pub(super) fn with_loops(settings: &FrontSettings, channels: usize, doors: usize) -> Vec<Term> {
    vec![
        connections(settings),
        partial_heads(settings),
        scratch(settings),
        loop_stacks(settings),
        loop_queues(settings),
        term(
            "channels",
            Place::Process,
            channels,
            settings.channel_limit.get(),
            "a loop's to a door, at most; twice while an application is replaced",
            "--loops, --forward, --channel-limit",
        ),
        term(
            "slot tables",
            Place::Process,
            channels,
            REMOTE_SLOTS_IN_ALL * SLOT_TABLES_SIZE,
            "what a loop knows of the calls in a channel, and of its spare slots",
            "--loops, --forward",
        ),
        term(
            "opener stacks",
            Place::Process,
            doors,
            OPENER_STACK,
            "a door's thread that opens it",
            "--forward",
        ),
        socket_buffers(settings),
    ]
}

/// The terms of forwards of connections and datagrams.
pub(super) fn with_streams(settings: &FrontSettings, tcp: usize, udp: usize) -> Vec<Term> {
    let streams = tcp + udp;
    vec![
        term(
            "forward channels",
            Place::Process,
            streams * forward::CHANNELS,
            settings.channel_limit.get(),
            "a tcp or udp forward's to its door, at most; twice while an application is replaced",
            "--forward, --channel-limit",
        ),
        term(
            "forwards",
            Place::Process,
            streams,
            LOOP_STACK + forward::TABLES_SIZE,
            "a tcp or udp forward's stack, and what it knows of its calls",
            "--forward",
        ),
        term(
            "forwarded connections",
            Place::Kernel,
            tcp * forward::CONNECTIONS_MAX,
            buffers_of_a_socket(settings),
            "a connection each of a tcp forward, at most",
            "--forward, --receive-buffer, --send-buffer",
        ),
        term(
            "datagram buffers",
            Place::Kernel,
            udp,
            2 * (settings.datagram_buffer.get() + settings.send_buffer.get()),
            "a udp forward each, at most",
            "--forward, --datagram-buffer, --send-buffer",
        ),
    ]
}

pub(super) fn term(
    name: &'static str,
    place: Place,
    count: usize,
    unit: usize,
    holder: &'static str,
    flags: &'static str,
) -> Term {
    Term {
        name,
        count,
        unit,
        guards: 0,
        holder,
        flags,
        place,
    }
}

/// The sum of an application with a front end of its own.
pub(super) fn with_a_front_end(
    settings: &Settings,
    buckets: Term,
    channel: &ChannelGeometry,
) -> Vec<Term> {
    let front = &settings.front;
    let loops = front.loops() as usize;
    let mut terms = vec![buckets];
    terms.extend(pools(settings));
    terms.extend([
        term(
            "channels",
            Place::Region,
            loops,
            channel.memory_len(),
            "a loop each: (slots + those that lost requests may keep) × (request + reply), and their headers",
            "--loops, --slots, --lost-limit, --request-size, --reply-size",
        ),
        connections(front),
        partial_heads(front),
        scratch(front),
        loop_stacks(front),
        loop_queues(front),
        log_queue(front),
        constant(front),
        socket_buffers(front),
        threads(
            settings.application.buckets as usize
                + loops
                + 2
                + usize::from(front.access_style().is_some()),
            "a bucket or a loop each, and two or, with an access log, three",
            "--buckets, --loops",
        ),
    ]);
    terms.extend(addresses(front, front.connections_in_all()));
    terms.extend(access_log(front));
    terms
}

/// The sum of an application behind a door.
pub(super) fn behind_a_door(
    settings: &Settings,
    buckets: Term,
    channel: &ChannelGeometry,
) -> Vec<Term> {
    let count = settings.application.buckets as usize;
    let mut terms = vec![buckets];
    terms.extend(pools(settings));
    terms.extend([
        term(
            "snapshots",
            Place::Region,
            count,
            settings.channel.request_size.get(),
            "a door server thread's private copy of its request",
            "--buckets, --request-size",
        ),
        term(
            "channels",
            Place::Process,
            settings.door.channels() as usize,
            channel.replies_len() + channel.control_len(),
            "a client's each: (slots + those that lost requests may keep) × reply, headers, bitmaps; the requests are the client's",
            "--door-channels, --slots, --lost-limit, --reply-size",
        ),
        log_queue(&settings.front),
        constant(&settings.front),
        closers(),
        threads(
            count + CLOSERS + 3,
            "a bucket each, those that close, and three",
            "--buckets",
        ),
    ]);
    terms
}

/// The terms of the loop that is kept aside for `--admin`, if there is one.
pub(super) fn admin(settings: &FrontSettings) -> Vec<Term> {
    if settings.admin.is_none() {
        return Vec::new();
    }
    let settings = &settings.for_admin();
    let named = |name, of: Term| Term {
        name,
        flags: "--admin",
        ..of
    };
    vec![
        term(
            "admin channel",
            Place::Region,
            1,
            ADMIN_CHANNEL.memory_len(),
            "the slots that are kept aside",
            "--admin",
        ),
        named("admin connections", connections(settings)),
        named("admin partial heads", partial_heads(settings)),
        named("admin scratch", scratch(settings)),
        named("admin loop stack", loop_stacks(settings)),
        named("admin loop queue", loop_queues(settings)),
        named(
            "admin threads",
            threads(2, "its loop and its bucket's thread", "--admin"),
        ),
        named("admin socket buffers", socket_buffers(settings)),
    ]
}

pub(super) fn connections(settings: &FrontSettings) -> Term {
    term(
        "connections",
        Place::Region,
        settings.loops() as usize,
        pages(settings.sizes().table()).unwrap_or(usize::MAX),
        "a loop's table: 300 bytes or so for an open connection",
        "--connections",
    )
}

/// The table of addresses, if these have a limit.
pub(super) fn addresses(settings: &FrontSettings, connections: usize) -> Option<Term> {
    settings
        .connections_per_address
        .filter(|_| connections > 0)?;
    Some(term(
        "addresses",
        Place::Process,
        1,
        Addresses::bytes(connections),
        "how many connections each address has: 32 bytes or more for a connection",
        "--connections-per-address, --connections",
    ))
}

pub(super) fn partial_heads(settings: &FrontSettings) -> Term {
    term(
        "partial heads",
        Place::Region,
        settings.loops() as usize * usize::from(settings.partial_heads.get()),
        settings.head_limit.get(),
        "a client each that has not finished its head",
        "--partial-heads, --head-limit",
    )
}

pub(super) fn scratch(settings: &FrontSettings) -> Term {
    term(
        "scratch",
        Place::Region,
        settings.loops() as usize,
        settings.sizes().scratch(),
        "a loop each: one read, one answer, and short answers that leave together",
        "--loops",
    )
}

/// What requests share beside their buckets.
pub(super) fn pools(settings: &Settings) -> Vec<Term> {
    let application = &settings.application;
    let pool = |name, bytes: Bytes, holder, flags| {
        term(name, Place::Region, 1, bytes.get(), holder, flags)
    };
    let mut pools = vec![
        pool(
            "shared heap",
            application.shared_heap,
            "state that outlives requests",
            "--shared-heap",
        ),
        pool(
            "overdraft",
            application.overdraft,
            "requests that have outgrown their bucket, until they return",
            "--overdraft",
        ),
    ];
    if cfg!(feature = "c-heap") {
        pools.push(pool(
            "C heap",
            application.c_heap,
            "what C libraries allocate in requests",
            "--c-heap",
        ));
    }
    pools
}

pub(super) fn loop_stacks(settings: &FrontSettings) -> Term {
    term(
        "loop stacks",
        Place::Process,
        settings.loops() as usize,
        LOOP_STACK,
        "a loop each",
        "--loops",
    )
}

pub(super) fn loop_queues(settings: &FrontSettings) -> Term {
    term(
        "loop queues",
        Place::Process,
        settings.loops() as usize * (settings.connections_per_loop() as usize + 1),
        QUEUE_ENTRY_SIZE,
        "a connection's places in what its loop has to do",
        "--connections",
    )
}

pub(super) fn log_queue(settings: &FrontSettings) -> Term {
    term(
        "log",
        Place::Process,
        1,
        log::memory_bytes(usize::from(settings.log_queue.get())),
        "lines that wait to be written",
        "--log-queue",
    )
}

/// The terms of an access log, if there is one.
pub(super) fn access_log(settings: &FrontSettings) -> Vec<Term> {
    if settings.access_style().is_none() {
        return Vec::new();
    }
    vec![
        term(
            "access log",
            Place::Process,
            1,
            access::memory_bytes(usize::from(settings.access_log_queue.get())),
            "lines that wait to be written",
            "--access-log, --access-log-queue",
        ),
        term(
            "access entries",
            Place::Process,
            settings.loops() as usize * settings.connections_per_loop() as usize,
            ACCESS_ENTRY_SIZE,
            "what a line needs of a connection's request",
            "--access-log, --connections",
        ),
    ]
}

/// Code, libraries, the process heap at "ready" and its headroom: 3.2 MiB measured for `hello`, debug builds
/// 4.6 MiB. A route takes 1.5 KiB of it for its meters, a bucket 100 bytes for what is said of its call.
pub(super) fn constant(settings: &FrontSettings) -> Term {
    term(
        "constant",
        Place::Process,
        1,
        settings.constant.get(),
        "code, libraries, the heap at start",
        "--constant",
    )
}

/// Code that is not yet used is not yet resident.
pub(super) const CONSTANT_MARGIN: u64 = 1 << 20;

/// The `--constant` that makes the sum hold a process of `resident` bytes, in whole MiB; `None` if it holds
/// it already. `sum` is what is in the region and elsewhere in the process (what the kernel holds is no part
/// of what is resident), and counts `constant`.
#[must_use]
pub fn constant_for(resident: u64, sum: u64, constant: u64) -> Option<Bytes> {
    let more = resident.checked_sub(sum).filter(|more| *more > 0)?;
    let mib = (constant + more + CONSTANT_MARGIN).div_ceil(1 << 20);
    Some(Bytes::mib(mib as usize))
}

pub(super) fn socket_buffers(settings: &FrontSettings) -> Term {
    term(
        "socket buffers",
        Place::Kernel,
        settings.connections_in_all(),
        buffers_of_a_socket(settings),
        "a connection each, at most",
        "--connections, --receive-buffer, --send-buffer",
    )
}

/// The kernel books twice what is asked for (socket(7), SO_RCVBUF).
pub(super) fn buffers_of_a_socket(settings: &FrontSettings) -> usize {
    2 * (settings.receive_buffer.get() + settings.send_buffer.get())
}

pub(super) fn threads(count: usize, holder: &'static str, flags: &'static str) -> Term {
    term(
        "threads",
        Place::Kernel,
        count,
        KERNEL_PER_THREAD,
        holder,
        flags,
    )
}
