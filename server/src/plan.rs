//! What the settings mean together: the memory equation, and the geometry that follows from it.
//!
//! [`Plan::new`] is the one place where the sum is stated. The mapping is laid out from it, the line at start
//! prints it.

use crate::config::{Config, Target};
use crate::settings::{ForwardedSetting, FrontSettings, ProxySetting, SLOTS_MAX, Settings};
use transom_arena::{
    Bound, BoundError, BucketGeometry, Bytes, GeometryError, PAGE, Place, Term, pages,
};
use transom_doors::{CLOSER_STACK, CLOSERS_MAX, ChannelGeometry, GeometryError as ChannelError};
use transom_front::forward;
use transom_front::{
    ACCESS_ENTRY_SIZE, INSTANCES, LOOP_STACK, OPENER_STACK, QUEUE_ENTRY_SIZE, REMOTE_SLOTS_IN_ALL,
    SLOT_TABLES_SIZE,
};
use transom_http::peer::proxy::V2_MAX_LEAST;
use transom_log as log;
use transom_log::access;
use transom_net::ListenAddress;
use transom_net::addresses::Addresses;

/// The channel between the loop and the bucket that are kept aside for `--admin`.
pub(crate) const ADMIN_CHANNEL: ChannelGeometry = ChannelGeometry {
    slots: 4,
    spares: 0,
    request_size: 32 << 10,
    reply_size: 32 << 10,
};

/// Bytes of the bucket that is kept aside for `--admin` where there are no others, and of its stack.
const ADMIN_BUCKET: (Bytes, Bytes) = (Bytes(256 << 10), Bytes(128 << 10));

/// What the kernel takes for a thread: its stack (16 KiB) and task structures.
const KERNEL_PER_THREAD: usize = 24 << 10;

/// Smaller receive and send buffers than these are raised by the kernel itself (SOCK_MIN_RCVBUF,
/// SOCK_MIN_SNDBUF).
const SOCKET_BUFFER_MIN: usize = 4 << 10;

/// The least that a pool of which requests have shares may have.
const POOL_MIN: usize = 64 << 10;

/// The settings of an application, checked against each other and against the machine, and the sum they make.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The memory equation.
    pub bound: Bound,
    /// The division of a bucket.
    pub bucket: BucketGeometry,
    /// The slots of each loop's channel, or of each client's.
    pub channel: ChannelGeometry,
    /// Loops: none behind a door.
    pub loops: u32,
}

/// The settings of a front end without an application, and the sum they make.
#[derive(Debug, Clone)]
pub struct FrontPlan {
    /// The memory equation.
    pub bound: Bound,
    /// Loops.
    pub loops: u32,
    /// The division of the bucket that is kept aside for `--admin`, if there is one.
    pub(crate) bucket: Option<BucketGeometry>,
}

/// Why these settings cannot be served with.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A bucket that cannot work.
    #[error(transparent)]
    Bucket(#[from] GeometryError),
    /// Slots that cannot work.
    #[error("--slots, --request-size or --reply-size: {0}")]
    Channel(#[from] ChannelError),
    /// A sum that does not fit.
    #[error(transparent)]
    Bound(#[from] BoundError),
    /// A value below what works.
    #[error("{flag} is {was}; it must be at least {least}: {why}")]
    TooSmall {
        /// The flag.
        flag: &'static str,
        /// What it is.
        was: String,
        /// The least that works.
        least: String,
        /// Why.
        why: &'static str,
    },
    /// A flag that needs another one.
    #[error("{flag} needs {other}: {todo}")]
    Alone {
        /// The flag.
        flag: &'static str,
        /// The one that it needs.
        other: &'static str,
        /// What to do.
        todo: &'static str,
    },
    /// Two flags that contradict each other.
    #[error("{flag} cannot be used with {other}: {why}")]
    Together {
        /// The flag.
        flag: &'static str,
        /// The other one.
        other: &'static str,
        /// Why.
        why: &'static str,
    },
    /// A value that is in a list more than once.
    #[error("{flag} {value} is given twice: leave one of them out")]
    Twice {
        /// The flag.
        flag: &'static str,
        /// The value.
        value: String,
    },
    /// A value above what works.
    #[error("{flag} is {was}; it must be at most {most}: {why}")]
    TooLarge {
        /// The flag.
        flag: &'static str,
        /// What it is.
        was: String,
        /// The most that works.
        most: String,
        /// Why.
        why: &'static str,
    },
}

impl PlanError {
    /// Whether it is for want of what the machine has, and not of the flags alone.
    pub(crate) fn is_of_the_machine(&self) -> bool {
        matches!(self, PlanError::Bound(BoundError::OverLimit { .. }))
    }
}

impl Plan {
    /// Adds everything up, for an application with a front end of its own or, with `--door`, without.
    ///
    /// # Errors
    /// [`PlanError`], naming the flag, what it was and what it must be.
    pub fn new(settings: &Settings) -> Result<Self, PlanError> {
        let plan = Self::for_another_machine(settings)?;
        plan.bound.check_here()?;
        Ok(plan)
    }

    /// As [`Plan::new`], but the sum may be more than this machine has. What is not set is still taken from
    /// this machine: `--loops`, and what a signal's frame and a thread's stack need at least.
    ///
    /// # Errors
    /// [`PlanError`], naming the flag, what it was and what it must be.
    pub fn for_another_machine(settings: &Settings) -> Result<Self, PlanError> {
        check_application(settings)?;
        check_admin_host(&settings.front)?;
        let bucket = BucketGeometry::new(
            settings.application.bucket_size,
            settings.application.stack_size,
        )?;
        let channel = ChannelGeometry {
            slots: settings.slots(),
            spares: settings.spare_slots(),
            request_size: settings.channel.request_size.get(),
            reply_size: settings.channel.reply_size.get(),
        };
        channel.check()?;
        let aside = usize::from(settings.front.admin.is_some());
        bucket.term(settings.application.buckets as usize)?; // without any there is nothing to keep one aside of
        let mut buckets = bucket.term(settings.application.buckets as usize + aside)?;
        if aside > 0 {
            buckets.holder = "a request each; one is kept aside for --admin";
        }
        let (mut terms, loops) = if settings.door.door.is_some() {
            check_door(settings)?;
            (behind_a_door(settings, buckets, &channel), 0)
        } else {
            check_front(&settings.front)?;
            check_admin(&settings.front, settings.listen.iter())?;
            check_listen(&settings.listen)?;
            check_ipv6(&settings.front, settings.listen.iter())?;
            check_request_size(settings)?;
            let terms = with_a_front_end(settings, buckets, &channel);
            (terms, settings.front.loops())
        };
        terms.extend(admin(&settings.front));
        Ok(Plan {
            bound: Bound::new(terms)?,
            bucket,
            channel,
            loops,
        })
    }
}

impl FrontPlan {
    /// Adds everything up, for the forwards and doors of a configuration.
    ///
    /// # Errors
    /// [`PlanError`], naming the flag, what it was and what it must be.
    pub fn new(settings: &FrontSettings, config: &Config) -> Result<Self, PlanError> {
        check_front(settings)?;
        check_admin_host(settings)?;
        let listen = || config.forwards.iter().map(|forward| &forward.address);
        check_admin(settings, listen())?;
        check_ipv6(settings, listen())?;
        if !settings.channel_limit.get().is_multiple_of(PAGE) || settings.channel_limit.get() == 0 {
            return Err(PlanError::TooSmall {
                flag: "--channel-limit",
                was: settings.channel_limit.to_string(),
                least: "4KiB, and a multiple of it".to_owned(),
                why: "channels are laid out in pages",
            });
        }
        let of = |kind: fn(&Target) -> bool| {
            let forwards = config.forwards.iter();
            forwards.filter(|forward| kind(&forward.target)).count()
        };
        let tcp = of(|target| matches!(target, Target::Tcp(_)));
        let udp = of(|target| matches!(target, Target::Udp(_)));
        let http = config.http_only();
        let doors = http.doors().len();
        let mut terms = Vec::new();
        // Loops serve HTTP, and where there is none to serve there are none.
        let loops = if http.forwards.is_empty() {
            0
        } else {
            let channels = (settings.loops() as usize).saturating_mul(doors) * INSTANCES;
            terms.extend(with_loops(settings, channels, doors));
            terms.extend(access_log(settings));
            settings.loops()
        };
        let of_loops = if loops == 0 {
            0
        } else {
            settings.connections_in_all()
        };
        terms.extend(addresses(
            settings,
            of_loops + tcp * forward::CONNECTIONS_MAX,
        ));
        check_streams(settings, &config.forwards)?;
        if tcp + udp > 0 {
            terms.extend(with_streams(settings, tcp, udp));
        }
        let logs_access = loops > 0 && settings.access_style().is_some();
        terms.extend([
            log_queue(settings),
            constant(settings),
            closers(),
            threads(
                loops as usize + doors + tcp + udp + FRONT_THREADS + usize::from(logs_access),
                "a loop, a door or a tcp or udp forward each, those that close, and two",
                "--loops, --forward",
            ),
        ]);
        let bucket = match settings.admin {
            Some(_) => Some(BucketGeometry::new(ADMIN_BUCKET.0, ADMIN_BUCKET.1)?),
            None => None,
        };
        if let Some(bucket) = bucket {
            terms.push(Term {
                holder: "kept aside for --admin",
                flags: "--admin",
                ..bucket.term(1)?
            });
        }
        terms.extend(admin(settings));
        let bound = Bound::new(terms)?;
        bound.check_here()?;
        Ok(FrontPlan {
            bound,
            loops,
            bucket,
        })
    }
}

/// Threads of a front end beside its loops and those that open doors: the main thread, the log's, and those
/// that close what comes from doors.
const FRONT_THREADS: usize = 2 + CLOSERS;

/// Threads that close what other processes have sent, and the one that starts them.
const CLOSERS: usize = CLOSERS_MAX + 1;

fn closers() -> Term {
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
fn with_loops(settings: &FrontSettings, channels: usize, doors: usize) -> Vec<Term> {
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
fn with_streams(settings: &FrontSettings, tcp: usize, udp: usize) -> Vec<Term> {
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

fn term(
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
fn with_a_front_end(settings: &Settings, buckets: Term, channel: &ChannelGeometry) -> Vec<Term> {
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
fn behind_a_door(settings: &Settings, buckets: Term, channel: &ChannelGeometry) -> Vec<Term> {
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
fn admin(settings: &FrontSettings) -> Vec<Term> {
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

fn connections(settings: &FrontSettings) -> Term {
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
fn addresses(settings: &FrontSettings, connections: usize) -> Option<Term> {
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

fn partial_heads(settings: &FrontSettings) -> Term {
    term(
        "partial heads",
        Place::Region,
        settings.loops() as usize * usize::from(settings.partial_heads.get()),
        settings.head_limit.get(),
        "a client each that has not finished its head",
        "--partial-heads, --head-limit",
    )
}

fn scratch(settings: &FrontSettings) -> Term {
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
fn pools(settings: &Settings) -> Vec<Term> {
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

fn loop_stacks(settings: &FrontSettings) -> Term {
    term(
        "loop stacks",
        Place::Process,
        settings.loops() as usize,
        LOOP_STACK,
        "a loop each",
        "--loops",
    )
}

fn loop_queues(settings: &FrontSettings) -> Term {
    term(
        "loop queues",
        Place::Process,
        settings.loops() as usize * (settings.connections_per_loop() as usize + 1),
        QUEUE_ENTRY_SIZE,
        "a connection's places in what its loop has to do",
        "--connections",
    )
}

fn log_queue(settings: &FrontSettings) -> Term {
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
fn access_log(settings: &FrontSettings) -> Vec<Term> {
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
fn constant(settings: &FrontSettings) -> Term {
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
const CONSTANT_MARGIN: u64 = 1 << 20;

/// The `--constant` that makes the sum hold a process of `resident` bytes, in whole MiB; `None` if it holds
/// it already. `sum` is what is in the region and elsewhere in the process (what the kernel holds is no part
/// of what is resident), and counts `constant`.
#[must_use]
pub fn constant_for(resident: u64, sum: u64, constant: u64) -> Option<Bytes> {
    let more = resident.checked_sub(sum).filter(|more| *more > 0)?;
    let mib = (constant + more + CONSTANT_MARGIN).div_ceil(1 << 20);
    Some(Bytes::mib(mib as usize))
}

fn socket_buffers(settings: &FrontSettings) -> Term {
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
fn buffers_of_a_socket(settings: &FrontSettings) -> usize {
    2 * (settings.receive_buffer.get() + settings.send_buffer.get())
}

fn threads(count: usize, holder: &'static str, flags: &'static str) -> Term {
    term(
        "threads",
        Place::Kernel,
        count,
        KERNEL_PER_THREAD,
        holder,
        flags,
    )
}

fn small(flag: &'static str, was: Bytes, least: usize, why: &'static str) -> Result<(), PlanError> {
    if was.get() >= least {
        return Ok(());
    }
    Err(PlanError::TooSmall {
        flag,
        was: was.to_string(),
        least: Bytes(least).to_string(),
        why,
    })
}

fn check_front(settings: &FrontSettings) -> Result<(), PlanError> {
    small(
        "--head-limit",
        settings.head_limit,
        1024,
        "an ordinary browser sends that much",
    )?;
    for (flag, was) in [
        ("--receive-buffer", settings.receive_buffer),
        ("--datagram-buffer", settings.datagram_buffer),
        ("--send-buffer", settings.send_buffer),
    ] {
        small(flag, was, SOCKET_BUFFER_MIN, "the kernel gives no less")?;
        if was.get() > 1 << 30 {
            return Err(PlanError::TooLarge {
                flag,
                was: was.to_string(),
                most: Bytes(1 << 30).to_string(),
                why: "the kernel books twice as much in 31 bits",
            });
        }
    }
    for (flag, time) in [
        ("--queue-timeout", settings.queue_timeout),
        ("--header-timeout", settings.header_timeout),
        ("--body-timeout", settings.body_timeout),
        ("--write-timeout", settings.write_timeout),
        ("--idle-timeout", settings.idle_timeout),
        ("--handover-timeout", settings.handover_timeout),
    ] {
        if time.is_zero() {
            return Err(nothing_takes_no_time(flag));
        }
    }
    check_trust(settings)?;
    check_proxy_header(settings)?;
    if settings.access_log_file.is_some() && settings.access_style().is_none() {
        return Err(PlanError::Alone {
            flag: "--access-log-file",
            other: "--access-log",
            todo: "set that to combined or json, or leave the file out",
        });
    }
    if !settings.head_limit.get().is_multiple_of(PAGE) {
        return Err(PlanError::TooSmall {
            flag: "--head-limit",
            was: settings.head_limit.to_string(),
            least: "4KiB, and a multiple of it".to_owned(),
            why: "partial heads are laid out in pages",
        });
    }
    Ok(())
}

fn nothing_takes_no_time(flag: &'static str) -> PlanError {
    PlanError::TooSmall {
        flag,
        was: "0".to_owned(),
        least: "1ms".to_owned(),
        why: "everything takes some time",
    }
}

/// Whoever may say who the client is has to be named.
fn check_trust(settings: &FrontSettings) -> Result<(), PlanError> {
    let proxied = settings.proxy_protocol == ProxySetting::Require;
    let forwarded = settings.forwarded != ForwardedSetting::Off;
    let (flag, other, todo) = match (settings.trust.is_empty(), proxied, forwarded) {
        (true, true, _) => (
            "--proxy-protocol require",
            "--trust",
            "say which proxies are believed, as in --trust 10.0.0.0/8",
        ),
        (true, _, true) => (
            "--forwarded",
            "--trust",
            "say which proxies are believed, as in --trust 10.0.0.0/8",
        ),
        (false, false, false) => (
            "--trust",
            "--proxy-protocol require or --forwarded",
            "say what the proxies are believed by, or remove it",
        ),
        _ => return Ok(()),
    };
    Err(PlanError::Alone { flag, other, todo })
}

/// A header waits in a buffer for partial heads until all of it is there.
fn check_proxy_header(settings: &FrontSettings) -> Result<(), PlanError> {
    let (flag, was) = ("--proxy-header-limit", settings.proxy_header_limit);
    if settings.proxy_protocol == ProxySetting::Off {
        return Ok(());
    }
    small(
        flag,
        was,
        V2_MAX_LEAST,
        "a header with the addresses of Unix sockets, and a little more, must fit",
    )?;
    if was > settings.head_limit {
        return Err(PlanError::TooLarge {
            flag,
            was: was.to_string(),
            most: settings.head_limit.to_string(),
            why: "the header waits in a buffer of --head-limit bytes: raise that too",
        });
    }
    Ok(())
}

/// A flag holds for some forward, or is refused.
fn check_streams(
    settings: &FrontSettings,
    forwards: &[crate::config::Forward],
) -> Result<(), PlanError> {
    let is = |kind: fn(&Target) -> bool| forwards.iter().any(|forward| kind(&forward.target));
    let http = is(|target| matches!(target, Target::Http(_)));
    let tcp = is(|target| matches!(target, Target::Tcp(_)));
    let udp = is(|target| matches!(target, Target::Udp(_)));
    let over_internet = |forward: &crate::config::Forward| {
        matches!(forward.target, Target::Tcp(_)) && forward.address.path().is_none()
    };
    let tcp_over_internet = forwards.iter().any(over_internet);
    if settings.proxy_protocol == ProxySetting::Require && (tcp || udp) {
        return Err(PlanError::Together {
            flag: "--proxy-protocol require",
            other: if tcp {
                "a tcp:// forward"
            } else {
                "a udp:// forward"
            },
            why: "only http:// forwards read PROXY headers: an application would get the header as data. Run another front end for it",
        });
    }
    let other = match (tcp, udp) {
        _ if http => "no udp:// forward",
        (true, true) => "no http:// forward",
        (true, false) if !tcp_over_internet => "tcp://unix: forwards only",
        (true, false) => "tcp:// forwards only",
        (false, true) => "udp:// forwards only",
        (false, false) => return Ok(()),
    };
    let no_use = [
        (
            http,
            &OF_REQUESTS[..],
            "it is of requests: leave it out, or run another front end for tcp:// and udp://",
        ),
        (
            http || tcp,
            &OF_CONNECTIONS,
            "datagrams have no connections: leave it out",
        ),
        (
            http || tcp_over_internet,
            &OF_INTERNET,
            "a Unix socket has no addresses, and its kernel keeps no clocks of it: leave it out",
        ),
        (
            http || udp,
            &OF_TIMES,
            "a connection may last as long as it is used (--idle-timeout): leave it out",
        ),
        (udp, &OF_DATAGRAMS, "it is of datagrams: leave it out"),
    ];
    for (_, flags, why) in no_use.into_iter().filter(|(is_of_use, ..)| !is_of_use) {
        let given = |flag: &&&str| settings.given.iter().any(|given| *given == flag[2..]);
        if let Some(flag) = flags.iter().find(given) {
            return Err(PlanError::Together { flag, other, why });
        }
    }
    Ok(())
}

/// Flags that hold for `http://` forwards only.
const OF_REQUESTS: [&str; 16] = [
    "--proxy-protocol",
    "--proxy-header-limit",
    "--forwarded",
    "--trust",
    "--loops",
    "--requests-per-connection",
    "--partial-heads",
    "--head-limit",
    "--body-limit",
    "--header-timeout",
    "--body-timeout",
    "--body-rate",
    "--write-rate",
    "--access-log",
    "--access-log-file",
    "--access-log-queue",
];

/// Flags that hold for `http://` and `tcp://` forwards.
const OF_CONNECTIONS: [&str; 5] = [
    "--connections",
    "--connections-per-address",
    "--backlog",
    "--write-timeout",
    "--idle-timeout",
];

/// Of these, those that do not hold for `tcp://unix:` forwards.
pub(crate) const OF_INTERNET: [&str; 3] = [
    "--connections-per-address",
    "--write-timeout",
    "--idle-timeout",
];

/// Flags that hold for `http://` and `udp://` forwards.
const OF_TIMES: [&str; 1] = ["--deadline"];

/// Flags that hold for `udp://` forwards only.
const OF_DATAGRAMS: [&str; 1] = ["--datagram-buffer"];

/// Names of an address that is not there.
fn check_admin_host(settings: &FrontSettings) -> Result<(), PlanError> {
    if settings.admin.is_none() && !settings.admin_host.is_empty() {
        return Err(PlanError::Alone {
            flag: "--admin-host",
            other: "--admin",
            todo: "say where metrics are asked for, or leave the name out",
        });
    }
    Ok(())
}

/// Two listeners at one address would share its connections.
fn check_listen(listen: &[ListenAddress]) -> Result<(), PlanError> {
    let twice =
        |(n, one): &(usize, &ListenAddress)| !the_kernels_choice(one) && listen[..*n].contains(one);
    match listen.iter().enumerate().find(twice) {
        Some((_, one)) => Err(PlanError::Twice {
            flag: "--listen",
            value: one.to_string(),
        }),
        None => Ok(()),
    }
}

/// `--ipv6-only` is of addresses of IPv6.
fn check_ipv6<'a>(
    settings: &'a FrontSettings,
    listen: impl Iterator<Item = &'a ListenAddress>,
) -> Result<(), PlanError> {
    let is_ipv6 =
        |one: &ListenAddress| matches!(one, ListenAddress::Inet(address) if address.is_ipv6());
    if settings.ipv6_only && !listen.chain(&settings.admin).any(is_ipv6) {
        return Err(PlanError::Alone {
            flag: "--ipv6-only",
            other: "an address of IPv6",
            todo: "listen on one, as [::]:8080, or leave the flag out",
        });
    }
    Ok(())
}

/// Port 0.
fn the_kernels_choice(address: &ListenAddress) -> bool {
    matches!(address, ListenAddress::Inet(address) if address.port() == 0)
}

/// The address of `--admin` must be one that the public is not told.
fn check_admin<'a>(
    settings: &FrontSettings,
    mut public: impl Iterator<Item = &'a ListenAddress>,
) -> Result<(), PlanError> {
    match &settings.admin {
        Some(admin) if !the_kernels_choice(admin) && public.any(|one| one == admin) => {
            Err(PlanError::Together {
                flag: "--admin",
                other: "the same address for requests",
                why: "the two would share its connections: give it a port or a path of its own",
            })
        }
        _ => Ok(()),
    }
}

/// Behind a door, the limit of heads is another process's.
fn check_request_size(settings: &Settings) -> Result<(), PlanError> {
    small(
        "--request-size",
        settings.channel.request_size,
        settings
            .front
            .head_limit
            .get()
            .saturating_mul(2)
            .saturating_add(PAGE),
        "a whole head, its decoded path and the index of its fields must fit (twice --head-limit and a page)",
    )
}

fn check_application(settings: &Settings) -> Result<(), PlanError> {
    let application = &settings.application;
    if application.lost_limit.is_some() && application.parked_limit.is_some() {
        return Err(PlanError::Together {
            flag: "--lost-limit (TRANSOM_LOST_LIMIT)",
            other: "--parked-limit (TRANSOM_PARKED_LIMIT)",
            why: "the second is the former name of the first: leave it out",
        });
    }
    if application.lost_limit() > application.buckets.max(1) {
        return Err(PlanError::TooLarge {
            flag: application.lost_limit_flag(),
            was: application.lost_limit().to_string(),
            most: application.buckets.to_string(),
            why: "more buckets than there are (--buckets) cannot be lost, so the process would never be replaced",
        });
    }
    if settings.slots() > SLOTS_MAX {
        return Err(PlanError::TooLarge {
            flag: "--slots",
            was: settings.slots().to_string(),
            most: SLOTS_MAX.to_string(),
            why: "a channel's bitmaps have 64 words of 64",
        });
    }
    let heap = application.shared_heap;
    if !heap.get().is_multiple_of(PAGE) || heap.get() < 64 << 10 {
        return Err(PlanError::TooSmall {
            flag: "--shared-heap",
            was: heap.to_string(),
            least: "64KiB, and a multiple of 4KiB".to_owned(),
            why: "the heap's own bookkeeping takes some of it",
        });
    }
    let overdraft = application.overdraft;
    if overdraft.get() > 0 {
        check_pool("--overdraft", overdraft)?;
        check_share(
            "--overdraft-per-request",
            application.overdraft_per_request(),
            overdraft,
            "a request cannot have more than there is (--overdraft)",
        )?;
    } else if application.overdraft_per_request.is_some() {
        return Err(PlanError::Alone {
            flag: "--overdraft-per-request",
            other: "--overdraft",
            todo: "there is no overdraft to have a part of; give it some, or leave the flag out",
        });
    }
    if cfg!(feature = "c-heap") {
        check_pool("--c-heap", application.c_heap)?;
        check_share(
            "--c-heap-per-request",
            application.c_heap_per_request(),
            application.c_heap,
            "a request cannot have more than there is (--c-heap)",
        )?;
    }
    let arena = BucketGeometry::new(application.bucket_size, application.stack_size)?.arena_size();
    if let Some(keep) = application.keep.filter(|keep| keep.get() > arena) {
        return Err(PlanError::TooLarge {
            flag: "--keep",
            was: keep.to_string(),
            most: Bytes(arena).to_string(),
            why: "a bucket cannot keep more than its arena has (--bucket-size, --stack-size)",
        });
    }
    Ok(())
}

/// A pool that requests share has a least size.
fn check_pool(flag: &'static str, size: Bytes) -> Result<(), PlanError> {
    if !size.get().is_multiple_of(PAGE) || size.get() < POOL_MIN {
        return Err(PlanError::TooSmall {
            flag,
            was: size.to_string(),
            least: format!("{}, and a multiple of 4KiB", Bytes(POOL_MIN)),
            why: "its own bookkeeping takes some of it, and what is left must be worth a request's share",
        });
    }
    Ok(())
}

/// What one request may have of a pool.
fn check_share(
    flag: &'static str,
    share: usize,
    pool: Bytes,
    why: &'static str,
) -> Result<(), PlanError> {
    if share == 0 {
        return Err(PlanError::TooSmall {
            flag,
            was: share.to_string(),
            least: "1B".to_owned(),
            why: "no request could have any of it",
        });
    }
    if share > pool.get() {
        return Err(PlanError::TooLarge {
            flag,
            was: Bytes(share).to_string(),
            most: pool.to_string(),
            why,
        });
    }
    Ok(())
}

fn check_door(settings: &Settings) -> Result<(), PlanError> {
    let door = &settings.door;
    if settings.front.handover_timeout.is_zero() {
        return Err(nothing_takes_no_time("--handover-timeout"));
    }
    if settings.application.strict_heap {
        return Err(PlanError::Together {
            flag: "--strict-heap",
            other: "--door",
            why: "a door allocates on the process heap when clients open it; test the application with a front end of its own",
        });
    }
    if door.channels_per_user() > door.channels() {
        return Err(PlanError::TooLarge {
            flag: "--door-channels-per-user",
            was: door.channels_per_user().to_string(),
            most: door.channels().to_string(),
            why: "one user cannot have more channels than there are (--door-channels)",
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        settings: Settings,
    }

    fn settings(flags: &str) -> Settings {
        let words = std::iter::once("test").chain(flags.split_whitespace());
        Command::try_parse_from(words).expect(flags).settings
    }

    /// The names of the terms, the bytes of one of them, and the sum.
    fn terms(bound: &Bound, name: &str) -> (Vec<&'static str>, usize) {
        let of_name = |term: &&Term| term.name == name;
        let bytes = bound.terms().iter().find(of_name).and_then(Term::bytes);
        let names = bound.terms().iter().map(|term| term.name).collect();
        (names, bytes.unwrap_or(0))
    }

    #[test]
    fn behind_a_door_there_is_no_front_end() {
        let flags = "--door /d --buckets 4 --slots 8 --door-channels 3 --request-size 8KiB --reply-size 4KiB";
        let plan = Plan::new(&settings(flags)).expect("it adds up");
        assert_eq!(plan.loops, 0);
        let (names, snapshots) = terms(&plan.bound, "snapshots");
        assert_eq!(
            names,
            [
                "buckets",
                "shared heap",
                "overdraft",
                "C heap",
                "snapshots",
                "channels",
                "log",
                "constant",
                "closer stacks",
                "threads"
            ]
        );
        assert_eq!(snapshots, 4 * (8 << 10));
        let (_, channels) = terms(&plan.bound, "channels");
        let of_one = plan.channel.memory_len() - plan.channel.requests_len();
        assert_eq!(channels, 3 * of_one);
    }

    #[test]
    fn a_channel_has_a_spare_slot_for_each_request_that_may_be_lost() {
        for (flags, spares) in [("--buckets 6", 3), ("--buckets 1 --door /d", 1)] {
            let flags = format!("{flags} --slots 5 --request-size 68KiB --reply-size 4KiB");
            let plan = Plan::new(&settings(&flags)).expect("it adds up");
            assert_eq!((plan.channel.slots, plan.channel.spares), (5, spares));
            let (_, bytes) = terms(&plan.bound, "channels");
            let of_one = plan.channel.replies_len() + plan.channel.control_len();
            let least = plan.channel.slots_in_all() as usize * (4 << 10);
            assert!(bytes >= of_one && of_one >= least, "{bytes} {of_one}");
        }
        // More cannot be told from each other in a channel's words.
        let many = settings("--buckets 16384 --bucket-size 256KiB --stack-size 64KiB --door /d");
        assert_eq!(many.spare_slots(), SLOTS_MAX);
    }

    fn config(flags: &[&str]) -> Config {
        let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        Config::read(None, &flags, &crate::settings::file::keys()).expect("they are right")
    }

    #[test]
    fn a_front_end_alone_has_channels_of_the_size_it_allows() {
        let front =
            settings("--loops 2 --channel-limit 1MiB --receive-buffer 8KiB --send-buffer 8KiB")
                .front;
        let config = config(&[
            "http://127.0.0.1:80=/a",
            "http://127.0.0.1:80/b=/b",
            "tcp://127.0.0.1:81=/a",
            "udp://127.0.0.1:80=/c",
        ]);
        let plan = FrontPlan::new(&front, &config).expect("it adds up");
        let (names, channels) = terms(&plan.bound, "channels");
        assert!(!names.contains(&"buckets") && !names.contains(&"shared heap"));
        assert_eq!(channels, 2 * 2 * 2 * (1 << 20)); // loops × doors of http × instances
        let (_, channels) = terms(&plan.bound, "forward channels");
        assert_eq!(channels, 2 * 2 * (1 << 20)); // forwards × instances
        let (_, datagrams) = terms(&plan.bound, "datagram buffers");
        assert_eq!(datagrams, 2 * Bytes::kib(1024 + 8).get()); // twice both buffers
        let (_, openers) = terms(&plan.bound, "opener stacks");
        assert_eq!(openers, 2 * (128 << 10)); // doors of http
        let (_, held) = terms(&plan.bound, "forwarded connections");
        assert_eq!(held, 2 * 256 * 2 * Bytes::kib(8 + 8).get()); // instances × slots × twice both
    }

    #[test]
    fn an_access_log_has_its_terms_where_there_are_loops() {
        let names = ["access log", "access entries"];
        for (flags, present) in [("", false), ("--access-log json", true)] {
            let front = settings(&format!("--loops 2 --connections 7 {flags}")).front;
            let plan = Plan::new(&settings(flags)).expect("it adds up");
            let with_http = FrontPlan::new(&front, &config(&["http://127.0.0.1:80=/a"]));
            let with_http = with_http.expect("it adds up");
            for name in names {
                assert_eq!(terms(&plan.bound, name).0.contains(&name), present);
                assert_eq!(terms(&with_http.bound, name).0.contains(&name), present);
            }
            let (_, entries) = terms(&with_http.bound, "access entries");
            let expected = if present { 14 * ACCESS_ENTRY_SIZE } else { 0 };
            assert_eq!(entries, expected); // of so few connections each of 2 loops has room for all 7
        }
    }

    #[test]
    fn without_http_there_are_no_loops() {
        let front = settings("--loops 2").front;
        let config = config(&["tcp://127.0.0.1:81=/a"]);
        let plan = FrontPlan::new(&front, &config).expect("it adds up");
        assert_eq!(plan.loops, 0);
        let (names, _) = terms(&plan.bound, "");
        for name in ["connections", "channels", "loop stacks", "socket buffers"] {
            assert!(!names.contains(&name), "{name}");
        }
        let (_, datagrams) = terms(&plan.bound, "datagram buffers");
        assert_eq!(datagrams, 0);
    }

    #[test]
    fn a_limit_of_addresses_has_its_table_in_the_sum() {
        let settings = settings("--loops 2 --connections 1000 --connections-per-address 10");
        let of_application = Plan::new(&settings).expect("it adds up").bound;
        let config = config(&["http://127.0.0.1:80=/a"]);
        let of_front = FrontPlan::new(&settings.front, &config).expect("it adds up");
        for bound in [of_application, of_front.bound] {
            let (_, bytes) = terms(&bound, "addresses");
            assert_eq!(bytes, 4096 * 8); // four places for each, in a power of two
        }
    }

    #[test]
    fn what_a_door_offers_by_default_a_front_end_takes_by_default() {
        let settings = settings("--door /d");
        let plan = Plan::new(&settings).expect("it adds up");
        assert!(plan.channel.memory_len() <= settings.front.channel_limit.get());
    }

    #[test]
    fn what_cannot_be_is_refused_by_the_name_of_its_flag() {
        let text = "--door /d --door-channels 4 --door-channels-per-user 5";
        let error = Plan::new(&settings(text))
            .expect_err("too many")
            .to_string();
        assert!(
            error.starts_with("--door-channels-per-user is 5"),
            "{error}"
        );
        for (flags, flag) in [
            ("--channel-limit 0", "--channel-limit"),
            ("--channel-limit 5000", "--channel-limit"),
            ("--channel-limit 1TiB", "--channel-limit"),
            ("--idle-timeout 0", "--idle-timeout"),
            ("--access-log-file /a", "--access-log-file"),
        ] {
            let config = config(&["http://127.0.0.1:80=/a"]);
            let error = FrontPlan::new(&settings(flags).front, &config)
                .expect_err(flags)
                .to_string();
            assert!(error.contains(flag), "{error}");
        }
    }
}
