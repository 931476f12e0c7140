//! From a router to a running server: flags, the sum, the region, threads, ready; and back again when told to stop.

use crate::front::{
    DoorwayParts, Forward, Loop, LoopFigures, LoopStats, Order, Orders, Parts, RouteTable,
};
use crate::log::{self, LogHandle, LogOptions};
use crate::net::{self, ListenOptions};
use crate::plan::{LOOP_STACK, Plan, READ_SIZE, write_size};
use crate::settings::Settings;
use clap::Parser;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tracing::{error, info, warn};
use transom_arena::{
    Buckets, Bytes, Place, Policy, Region, RegionOptions, install_shared_heap,
    process_heap_allocations, seal, settle_process_heap,
};
use transom_doors::{Bell, ChannelMemory, Door};
use transom_platform::{Application, Figures, Router, Routes};

/// Bytes kept at the top of the process heap for what the C library allocates when a thread starts. Counted in the
/// equation's constant.
const HEAP_HEADROOM: usize = 1 << 20;

/// A thread starts within microseconds, on a crowded machine within milliseconds.
const FIRST_THREAD_PATIENCE: Duration = Duration::from_secs(10);

/// Exit status when parked buckets reached their limit: EX_TEMPFAIL of sysexits.h, "try again".
const EXIT_RECYCLE: u8 = 75;

/// Serves a router's handlers, or one handler: reads the command line, maps the region, listens, and returns when it has drained.
///
/// A request that outgrows its bucket gets a 500. Through `&Bump` it unwinds; through an ordinary allocation its thread and
/// bucket are lost until the process is replaced (`--parked-limit`), because that is what is sound for every handler. An
/// author who keeps the [escape contract](transom_platform::escape_contract) uses [`serve_escaping`] and loses neither.
#[must_use = "main should return it, so that the process ends with that status"]
pub fn serve(router: impl Into<Router>) -> ExitCode {
    App::new(router).serve()
}

/// Serves a router's handlers; one that outgrows its bucket is left by a jump, and its bucket is used again at once.
///
/// # Safety
/// Every handler keeps the [escape contract](transom_platform::escape_contract): no lock, borrow or scope held across an
/// allocation; nothing outside the bucket points into it; resources other than memory registered with
/// [`defer`](transom_platform::defer); no half-updated shared state but in `Shared`.
#[must_use = "main should return it, so that the process ends with that status"]
pub unsafe fn serve_escaping(router: impl Into<Router>) -> ExitCode {
    // SAFETY: the caller's promise.
    unsafe { App::new(router).escaping() }.serve()
}

/// An application and how it wants to be served.
#[must_use = "an application does nothing until it is served"]
pub struct App {
    router: Router,
    promises_escape: bool,
    warm_up: Option<Box<dyn FnOnce()>>,
}

#[derive(Parser)]
#[command(
    about = "An HTTP server whose memory is decided before it starts",
    after_help = "SIZE is a number of bytes, or one with KiB, MiB, GiB. TIME is a number with ms, s, m, h.\n\
                  Every flag is also an environment variable, TRANSOM_ and its name.\n\
                  --check prints the memory equation, one line an addend."
)]
struct Command {
    #[command(flatten)]
    settings: Settings,
}

/// Why the server could not start. Each is a sentence for whoever started it.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Plan(#[from] crate::plan::PlanError),
    #[error(transparent)]
    Router(#[from] transom_platform::RouterError),
    #[error(
        "--on-exhaustion escape: this application was written for parking; its author has to promise the escape contract by calling serve_escaping"
    )]
    NoPromise,
    #[error(transparent)]
    Region(#[from] transom_arena::RegionError),
    #[error(transparent)]
    Buckets(#[from] transom_arena::BucketsError),
    #[error(transparent)]
    SharedHeap(#[from] transom_arena::SharedHeapError),
    #[error(transparent)]
    Application(#[from] transom_platform::ApplicationError),
    #[error("a channel cannot be made: {0}")]
    Channel(#[from] transom_doors::ChannelError),
    #[error("--listen {address}: {}", explain(.source, .address))]
    Listen {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("cannot start a loop: {0}; check `ulimit -n` and `ulimit -u`")]
    Loop(io::Error),
    #[error(
        "`ulimit -n` is {limit}, but {needed} descriptors are needed: one for each of --connections {connections} and a few more. Lower --connections, or raise the limit"
    )]
    Descriptors {
        limit: u64,
        needed: u64,
        connections: u32,
    },
    #[error("the first door server thread did not start within {} s", FIRST_THREAD_PATIENCE.as_secs())]
    FirstThread,
    #[error(transparent)]
    Log(#[from] log::LogError),
    #[error("cannot wait for signals: {0}")]
    Signals(io::Error),
}

fn explain(error: &io::Error, address: &SocketAddr) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("{error}; another process listens there: stop it, or choose another port")
        }
        io::ErrorKind::PermissionDenied if address.port() < 1024 => {
            format!(
                "{error}; ports below 1024 need CAP_NET_BIND_SERVICE: use a port above, or grant it"
            )
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("{error}; this machine does not have that address")
        }
        _ => error.to_string(),
    }
}

impl App {
    /// An application with these routes, or with one handler for everything.
    pub fn new(router: impl Into<Router>) -> Self {
        App {
            router: router.into(),
            promises_escape: false,
            warm_up: None,
        }
    }

    /// Has requests that outgrow their bucket left by a jump.
    ///
    /// # Safety
    /// As for [`serve_escaping`].
    pub unsafe fn escaping(mut self) -> Self {
        self.promises_escape = true;
        self
    }

    /// Runs once before the first request, with allocations on the process heap: touch lazy values here, load tables,
    /// fill caches. What is first touched in a request instead lives in that request's bucket and pins it.
    pub fn warm_up(mut self, f: impl FnOnce() + 'static) -> Self {
        self.warm_up = Some(Box::new(f));
        self
    }

    /// Reads the command line and serves until a signal ends it.
    ///
    /// The status is 0 after a clean drain, 1 if the server could not start or requests were cut at the end of the drain,
    /// 2 for a command line that is wrong, 75 when parked buckets reached `--parked-limit`.
    #[must_use = "main should return it, so that the process ends with that status"]
    pub fn serve(self) -> ExitCode {
        settle_process_heap(HEAP_HEADROOM);
        let settings = match Command::try_parse() {
            Ok(command) => command.settings,
            Err(error) => {
                let _ = error.print();
                return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
            }
        };
        match self.run(&settings) {
            Ok(code) => code,
            Err(error) => {
                let _ = writeln!(io::stderr(), "error: {error}");
                ExitCode::from(1)
            }
        }
    }

    fn run(self, settings: &Settings) -> Result<ExitCode, StartError> {
        let started = Instant::now();
        let plan = Plan::new(settings)?;
        let policy = self.policy(settings)?;
        let routes = self.router.build()?;
        if settings.check {
            // A closed pipe is no reason to fail.
            let _ = writeln!(io::stdout(), "{}", plan.bound);
            return Ok(ExitCode::SUCCESS);
        }
        check_descriptors(settings)?;
        let signals = Signals::block().map_err(StartError::Signals)?;
        let logs = log::install(LogOptions {
            format: settings.log.into(),
            level: settings.log_level,
            queue: usize::from(settings.log_queue.get()),
        })?;
        let result = start(
            &plan,
            settings,
            routes,
            policy,
            self.warm_up,
            &signals,
            started,
        );
        let result = result.map(|server| server.until_the_end(settings, &signals, &logs));
        logs.shutdown(Instant::now() + Duration::from_secs(1));
        result
    }

    fn policy(&self, settings: &Settings) -> Result<Policy, StartError> {
        let promised = if self.promises_escape {
            Policy::Escape
        } else {
            Policy::Park
        };
        match settings.on_exhaustion.map(Policy::from) {
            Some(Policy::Escape) if !self.promises_escape => Err(StartError::NoPromise),
            Some(chosen) => Ok(chosen),
            None => Ok(promised),
        }
    }
}

/// A descriptor per connection, and for each loop its listeners, epoll set and two doorbells; and the standard ones.
fn check_descriptors(settings: &Settings) -> Result<(), StartError> {
    let loops = u64::from(settings.loops());
    let connections = u64::from(settings.connections_per_loop()) * loops;
    let needed = connections + loops * (settings.listen.len() as u64 + 3) + 16;
    // SAFETY: a zeroed rlimit is valid, and getrlimit fills it; setrlimit reads it.
    let limit = unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        if limit.rlim_cur < needed && limit.rlim_max >= needed {
            limit.rlim_cur = needed; // ours to raise
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
            libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        }
        limit.rlim_cur
    };
    if limit >= needed {
        return Ok(());
    }
    Err(StartError::Descriptors {
        limit,
        needed,
        connections: settings.connections.get(),
    })
}

/// A server that is running.
struct Server {
    application: &'static Application,
    door: Door,
    loops: Vec<JoinHandle<()>>,
    bells: Vec<Bell>,
    stats: Vec<Arc<LoopStats>>,
    orders: Arc<Orders>,
}

fn start(
    plan: &Plan,
    settings: &Settings,
    routes: Routes,
    policy: Policy,
    warm_up: Option<Box<dyn FnOnce()>>,
    signals: &Signals,
    started: Instant,
) -> Result<Server, StartError> {
    // Before the region is mapped, so that a port in use is said at once.
    let listeners = listen(settings, plan.loops)?;
    let address = net::local_address(&listeners[0][0]).map_err(StartError::Loop)?;

    let mut region = Region::map(
        &plan.bound,
        RegionOptions {
            lazy: settings.lazy,
            lock: settings.lock,
            huge_pages: settings.huge_pages,
        },
    )?;
    let mut take = |name| region.take(name).expect("the plan has this term");
    let (buckets, channels, heap) = (take("buckets"), take("channels"), take("shared heap"));
    let (connections, heads, scratch) =
        (take("connections"), take("partial heads"), take("scratch"));
    let buckets = Buckets::install(&mut region, &buckets, plan.bucket, settings.wipe.into())?;
    region.commit()?;
    install_shared_heap(heap)?;

    signals.notify_parked(settings.parked_limit());
    let application = match policy {
        Policy::Park => Application::new(routes, buckets, Signals::parked),
        // SAFETY: `App::policy` chose it only if the author promised the contract.
        Policy::Escape => unsafe { Application::escaping(routes, buckets, Signals::parked) },
    };
    let door = application.door()?;

    let orders = Arc::new(Orders::default());
    let mut server = Server {
        application,
        door: door.clone(),
        loops: Vec::new(),
        bells: Vec::new(),
        stats: Vec::new(),
        orders: orders.clone(),
    };
    let mut loops = Vec::new();
    let (mut channels, mut connections, mut heads, mut scratch) =
        (channels, connections, heads, scratch);
    let count = plan.loops as usize;
    let routes = Arc::new(RouteTable::everything_to(0));
    for (n, listeners) in listeners.into_iter().enumerate() {
        let left = count - n;
        let share = |part: &mut transom_arena::Part| part.share(left);
        let channel = share(&mut channels);
        // SAFETY: the part is page-aligned, zeroed, valid for ever, and this was its only handle.
        let memory = unsafe { ChannelMemory::new(channel.base(), channel.len()) };
        let parts = Parts {
            connections: share(&mut connections),
            buffers: share(&mut heads),
            scratch: share(&mut scratch),
            bell: Bell::new().map_err(StartError::Loop)?,
            doorways: vec![DoorwayParts::InProcess(door.channel(plan.channel, memory)?)],
            forwards: vec![Forward {
                listeners,
                routes: routes.clone(),
            }],
            stats: Arc::new(LoopStats::default()),
            orders: orders.clone(),
        };
        server.stats.push(parts.stats.clone());
        let this = Loop::new(settings, parts, (READ_SIZE, write_size(settings)))
            .map_err(StartError::Loop)?;
        server.bells.push(this.bell());
        loops.push(this);
    }
    if let Some(warm_up) = warm_up {
        warm_up();
    }
    door.start().map_err(StartError::Loop)?;
    if !application.wait_until_ready(FIRST_THREAD_PATIENCE) {
        return Err(StartError::FirstThread);
    }
    let all_started = Arc::new(Barrier::new(loops.len() + 1));
    for (n, this) in loops.into_iter().enumerate() {
        let started = all_started.clone();
        let thread = std::thread::Builder::new()
            .name(format!("loop-{n}"))
            .stack_size(LOOP_STACK)
            .spawn(move || {
                let _watch = EndIfPanicking;
                started.wait();
                drop(started);
                this.run();
            })
            .map_err(StartError::Loop)?;
        server.loops.push(thread);
    }
    // What the standard library allocates for a new thread belongs before "ready" too.
    all_started.wait();
    let bound = &plan.bound;
    info!(
        bound = bound.total(),
        region = bound.bytes_in(Place::Region),
        process = bound.bytes_in(Place::Process),
        kernel = bound.bytes_in(Place::Kernel),
        "memory: {}",
        Sum(plan),
    );
    info!(
        listen = %address,
        loops = plan.loops,
        buckets = settings.buckets,
        on_exhaustion = match policy { Policy::Park => "park", Policy::Escape => "escape" },
        ready_ms = started.elapsed().as_millis() as u64,
        "ready"
    );
    seal();
    Ok(server)
}

/// The equation in one line: `64 × 512KiB (buckets) + … = 55MiB`.
struct Sum<'p>(&'p Plan);

impl std::fmt::Display for Sum<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (n, term) in self.0.bound.terms().iter().enumerate() {
            let plus = if n == 0 { "" } else { " + " };
            write!(
                f,
                "{plus}{} × {} ({})",
                term.count,
                Bytes(term.unit),
                term.name
            )?;
        }
        write!(f, " = {} bytes", self.0.bound.total())
    }
}

fn listen(settings: &Settings, loops: u32) -> Result<Vec<Vec<OwnedFd>>, StartError> {
    let options = ListenOptions {
        backlog: settings.backlog.get(),
        receive_buffer: settings.receive_buffer.get(),
        send_buffer: settings.send_buffer.get(),
    };
    let mut addresses = settings.listen.clone();
    for address in &addresses {
        // SO_REUSEPORT would let a second server of the same user take half of the first one's connections.
        net::probe(*address).map_err(|source| StartError::Listen {
            address: *address,
            source,
        })?;
    }
    let mut all = Vec::new();
    for _ in 0..loops {
        let mut sockets = Vec::new();
        for address in &mut addresses {
            let socket = net::listen(*address, options).map_err(|source| StartError::Listen {
                address: *address,
                source,
            })?;
            // With port 0 the kernel chooses once, and the other loops take the same.
            *address = net::local_address(&socket).map_err(StartError::Loop)?;
            sockets.push(socket);
        }
        all.push(sockets);
    }
    Ok(all)
}

impl Server {
    fn until_the_end(self, settings: &Settings, signals: &Signals, logs: &LogHandle) -> ExitCode {
        let reason = signals.wait(None);
        let recycle = reason == Wake::Parked;
        if recycle {
            error!(
                parked = self.application.figures().buckets_parked,
                limit = settings.parked_limit(),
                "too many buckets are parked: draining, to be started anew (--parked-limit)"
            );
        }
        let began = Instant::now();
        info!(
            timeout_ms = settings.drain_timeout.as_millis() as u64,
            "draining"
        );
        self.tell(Order::Drain);
        let in_time = self.wait_for_loops(began + settings.drain_timeout, signals);
        if !in_time {
            self.tell(Order::Stop);
        }
        self.door.revoke();
        let mut sound = true;
        for thread in self.loops {
            if thread.join().is_err() {
                error!("a loop panicked, and took its connections with it: please report this");
                sound = false;
            }
        }
        let mut front = LoopFigures::default();
        for stats in &self.stats {
            front.add(stats);
        }
        summarise(&front, &self.application.figures(), logs, began.elapsed());
        if recycle {
            ExitCode::from(EXIT_RECYCLE)
        } else if !sound {
            ExitCode::from(1)
        } else if in_time {
            ExitCode::SUCCESS
        } else {
            warn!(
                cut = front.cut,
                "requests were cut: they had not ended when the drain did (--drain-timeout)"
            );
            ExitCode::from(1)
        }
    }

    fn tell(&self, order: Order) {
        self.orders.give(order);
        for bell in &self.bells {
            bell.ring();
        }
    }

    /// Whether all loops have ended before the deadline and before a second signal.
    fn wait_for_loops(&self, deadline: Instant, signals: &Signals) -> bool {
        while self.loops.iter().any(|thread| !thread.is_finished()) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            match signals.wait(Some(left.min(Duration::from_millis(20)))) {
                Wake::Signal => return false,
                Wake::Parked | Wake::TimedOut => {}
            }
        }
        true
    }
}

fn summarise(front: &LoopFigures, application: &Figures, logs: &LogHandle, took: Duration) {
    logs.flush(Instant::now() + Duration::from_secs(1)); // so that there is room for the last line
    info!(
        drained_ms = took.as_millis() as u64,
        connections = front.accepted,
        requests = front.requests,
        good = front.good,
        client_errors = front.client_errors,
        server_errors = front.server_errors,
        rejected = front.rejected,
        late = front.late,
        cut = front.cut,
        exhausted_arena = application.exhausted_arena,
        exhausted_stack = application.exhausted_stack,
        exhausted_shared_heap = application.exhausted_shared_heap,
        panicked = application.panicked,
        pinned = application.pinned,
        parked = application.buckets_parked,
        threads = application.threads,
        high_water = application.high_water,
        largest_refused = application.largest_refused,
        stack_high_water = application.stack_high_water,
        process_heap_allocations = process_heap_allocations(),
        log_lines_dropped = logs.dropped(),
        "drained"
    );
}

/// A loop that panics cannot go on, and the process not without it: the others drain, and it ends with status 1.
struct EndIfPanicking;

impl Drop for EndIfPanicking {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // SAFETY: a signal to ourselves, which the main thread waits for.
            unsafe { libc::kill(libc::getpid(), libc::SIGTERM) };
        }
    }
}

/// What ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wake {
    /// SIGTERM or SIGINT.
    Signal,
    /// Parked buckets reached their limit.
    Parked,
    TimedOut,
}

/// SIGTERM and SIGINT, taken by the main thread and by nobody else, and the news of a parked bucket.
struct Signals {
    set: libc::sigset_t,
}

static PARKED: AtomicU64 = AtomicU64::new(0);
static PARKED_LIMIT: AtomicU64 = AtomicU64::new(u64::MAX);
static MAIN_PROCESS: AtomicI32 = AtomicI32::new(0);

impl Signals {
    /// Blocks them in this thread and in those that it starts.
    fn block() -> io::Result<Self> {
        // SAFETY: the set is initialised by sigemptyset before it is used; the calls affect this thread's mask only.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGUSR1] {
                libc::sigaddset(&raw mut set, signal);
            }
            match libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) {
                0 => Ok(Signals { set }),
                code => Err(io::Error::from_raw_os_error(code)),
            }
        }
    }

    fn notify_parked(&self, limit: u32) {
        PARKED_LIMIT.store(u64::from(limit), Ordering::SeqCst);
        // SAFETY: getpid has no preconditions.
        MAIN_PROCESS.store(unsafe { libc::getpid() }, Ordering::SeqCst);
    }

    /// Counts a parked bucket. Async-signal-safe: it may run on the signal stack of the thread that is being parked.
    fn parked() {
        let parked = PARKED.fetch_add(1, Ordering::SeqCst) + 1;
        if parked == PARKED_LIMIT.load(Ordering::SeqCst) {
            // SAFETY: kill is async-signal-safe; SIGUSR1 to ourselves is blocked everywhere, so the main thread takes it.
            unsafe { libc::kill(MAIN_PROCESS.load(Ordering::SeqCst), libc::SIGUSR1) };
        }
    }

    /// Waits for one; `None` waits for ever.
    fn wait(&self, timeout: Option<Duration>) -> Wake {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let signal = self.next(left);
            match signal {
                libc::SIGUSR1
                    if PARKED.load(Ordering::SeqCst) < PARKED_LIMIT.load(Ordering::SeqCst) => {}
                libc::SIGUSR1 => return Wake::Parked,
                libc::SIGTERM | libc::SIGINT => return Wake::Signal,
                _ if left.is_some_and(|left| left.is_zero()) => return Wake::TimedOut,
                _ => {} // interrupted
            }
        }
    }

    fn next(&self, timeout: Option<Duration>) -> libc::c_int {
        let timeout = timeout.map(net::timespec);
        let pointer = timeout
            .as_ref()
            .map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: the set is initialised, the timeout valid for the call; no siginfo is wanted.
        unsafe { libc::sigtimedwait(&raw const self.set, std::ptr::null_mut(), pointer) }
    }
}
