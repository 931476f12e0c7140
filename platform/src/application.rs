//! An application behind its door: door server threads, each bound to a bucket, and what they do with a call.

use crate::connection::Connection;
use crate::datagram::{Datagram, DatagramReply};
use crate::each_thread::EachThread;
use crate::keeping::Keeping;
use crate::lost::Lost;
use crate::memory::Memory;
use crate::meter::{Culprit, Meters, RouteMeter};
use crate::pace::{Leave, LinePace};
use crate::request::Request;
use crate::response::{Response, Status};
use crate::router::{Routes, Takes};
use crate::service::Service;
use crate::sign::{Matched, RouteNote, Sign, Signs, Until};
use crate::slot_io::{Port, SlotBody, Written, write_response};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::io::Read;
use std::net::{Shutdown, TcpStream};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use transom_arena::{
    Bucket, BucketState, Buckets, Bump, CRefusal, Exhaustion, Failed, Policy, Reason, Tenant,
    exhausted, install_panic_hook, parked, stack_remaining,
};
use transom_doors::{
    BuildError, Call, Door, DoorBuilder, DoorHandler, EmergencyReply, Status as CallStatus, Words,
    now_ns,
};
use transom_wire::frame::{
    self, RawRequest, decode_connection, decode_datagram, decode_request, outcome,
};
use transom_wire::histogram::Histogram;
use transom_wire::own_log::{debug, error, is_time_to_say, warn};

/// A log record is built on the stack; where less than this is left, none is written and the counters must
/// do.
const LOG_STACK: usize = 12 << 10;

/// How an application serves.
pub struct ApplicationOptions {
    /// Called, from any context and possibly a signal handler, when a bucket is parked: it may only set
    /// flags.
    pub on_parked: fn(),
    /// Called by a thread that leaves its bucket: have [`Application::tend`] called soon. It may only set
    /// flags.
    pub on_leave: fn(),
    /// Bytes that a bucket may keep of what its requests leave.
    pub keep: usize,
    /// How long a bucket that keeps more may rest before it counts as lost.
    pub keep_timeout: Duration,
    /// Run once on each door server thread before its first call.
    pub each_thread: Vec<EachThread>,
    /// Every response says in a field `Transom-Memory` what its request has used: for development.
    pub memory_header: bool,
}

/// An application that is being served. It lives as long as the process.
pub struct Application {
    service: &'static Service,
    policy: Policy,
    options: ApplicationOptions,
    buckets: Buckets,
    door: OnceLock<Door>,
    counters: Counters,
    meters: Meters,
    lines: LinePace,
    signs: Signs,
    keeping: Keeping,
}

/// Why an application cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ApplicationError {
    /// The door could not be made.
    #[error("the application's door cannot be made: {0}")]
    Door(#[from] BuildError),
    /// Its first thread could not be started.
    #[error(
        "the first door server thread cannot be started: {0}; check `ulimit -u` and the cgroup's pids.max"
    )]
    Thread(#[from] io::Error),
}

#[derive(Debug, Default)]
struct Counters {
    calls: AtomicU64,
    exhausted_arena: AtomicU64,
    exhausted_stack: AtomicU64,
    exhausted_shared_heap: AtomicU64,
    panicked: AtomicU64,
    largest_refused: AtomicU64,
    threads_refused: AtomicU64,
    /// When a thread was refused last; 0: never, or one has been started since.
    refused_ns: AtomicU64,
    /// When the log last said so.
    said_ns: AtomicU64,
}

/// What an application has done so far, and what it is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Calls that have ended, one way or another.
    pub calls: u64,
    /// Of these, those that outgrew their arena.
    pub exhausted_arena: u64,
    /// That overflowed their stack.
    pub exhausted_stack: u64,
    /// That found the shared heap full.
    pub exhausted_shared_heap: u64,
    /// That panicked.
    pub panicked: u64,
    /// That left memory in use in their buckets when they ended.
    pub left: u64,
    /// Threads that were ended because their buckets kept too much, and replaced.
    pub threads_ended: u64,
    /// Attempts to start a thread that the system has refused.
    pub threads_refused: u64,
    /// The most bytes that an allocation has asked for and not got.
    pub largest_refused: u64,
    /// Buckets that rest now: they keep too much, or have not got another thread yet.
    pub buckets_resting: usize,
    /// Bytes that buckets keep of what earlier requests left.
    pub kept: usize,
    /// The most that one bucket has kept.
    pub kept_max: usize,
    /// Buckets that are parked, and lost until the process is replaced.
    pub buckets_parked: usize,
    /// Buckets that are lost now, for any reason.
    pub lost: Lost,
    /// The most arena bytes that any request has used.
    pub high_water: usize,
    /// The deepest stack seen, in bytes.
    pub stack_high_water: usize,
    /// Door server threads started.
    pub threads: u32,
    /// Log lines about requests that went wrong and were not written, because there had been twenty in that
    /// second.
    pub unlogged: u64,
}

/// How long a refused thread is remembered, and how often it is said.
const REFUSED_FOR: Duration = Duration::from_secs(10);

/// Why no thread takes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// What is to run before a thread's first call has left more than a bucket may keep.
    #[error(
        "what is to run once on each thread (App::each_thread, Router::warm) keeps {kept} bytes in the bucket of each, which is more than --keep, {limit} bytes: raise it, or have less made there"
    )]
    KeepsTooMuch {
        /// Bytes.
        kept: usize,
        /// `--keep`, in bytes.
        limit: usize,
    },
    /// It takes too long.
    #[error("the first door server thread did not start within {} s", .0.as_secs())]
    Late(Duration),
}

impl Application {
    /// An application with these handlers in these buckets, under [`Policy::Overdraft`].
    #[must_use]
    pub fn new(
        service: impl Into<Service>,
        buckets: Buckets,
        options: ApplicationOptions,
    ) -> &'static Self {
        Self::with(Policy::Overdraft, service.into(), buckets, options)
    }

    /// An application whose requests are left by a jump when they outgrow their bucket.
    ///
    /// # Safety
    /// Every handler in `service` keeps the [escape contract](transom_arena::escape_contract).
    #[must_use]
    pub unsafe fn escaping(
        service: impl Into<Service>,
        buckets: Buckets,
        options: ApplicationOptions,
    ) -> &'static Self {
        Self::with(Policy::Escape, service.into(), buckets, options)
    }

    fn with(
        policy: Policy,
        service: Service,
        buckets: Buckets,
        options: ApplicationOptions,
    ) -> &'static Self {
        install_panic_hook(); // allocates, so before "ready"
        // Threads in buckets refer to it, and to the service, for as long as the process lives.
        let service: &'static Service = Box::leak(Box::new(service));
        let arena_size = buckets
            .iter()
            .next()
            .map_or(0, |bucket| bucket.geometry().arena_size());
        Box::leak(Box::new(Application {
            service,
            policy,
            options,
            buckets,
            door: OnceLock::new(),
            counters: Counters::default(),
            meters: Meters::new(service, arena_size),
            lines: LinePace::default(),
            signs: Signs::new(buckets.len()),
            keeping: Keeping::new(buckets.len()),
        }))
    }

    /// Makes the door whose server threads are this application's: at most one for each bucket. Threads start
    /// only once [`Door::start`] is called, and then one by one, at a new high water of concurrency.
    ///
    /// # Errors
    /// [`ApplicationError::Door`].
    pub fn door(&'static self) -> Result<Door, ApplicationError> {
        self.door_with(|builder| builder)
    }

    /// The same; `customize` says what else the door shall be, above all for callers in other processes.
    ///
    /// # Errors
    /// [`ApplicationError::Door`].
    pub fn door_with(
        &'static self,
        customize: impl FnOnce(DoorBuilder) -> DoorBuilder,
    ) -> Result<Door, ApplicationError> {
        let builder = Door::builder()
            .threads_max(self.buckets.len())
            .descriptors_max(self.service.descriptors())
            .server_create(move |thread| self.start_first_thread(thread));
        let door = customize(builder).build()?;
        Ok(self.door.get_or_init(|| door).clone())
    }

    /// Blocks until the door's first thread waits for calls: what a thread's start allocates is then behind
    /// us.
    ///
    /// # Errors
    /// [`NotReady`]: what is to run first keeps too much, or takes longer than `patience`.
    pub fn wait_until_ready(&self, patience: Duration) -> Result<(), NotReady> {
        let deadline = Instant::now() + patience;
        let idle = || {
            self.door
                .get()
                .is_some_and(|door| door.info().threads.idle > 0)
        };
        while !idle() {
            let resting = |bucket: &&Bucket| bucket.state() == BucketState::Resting;
            if let Some(bucket) = self.buckets().iter().find(resting) {
                return Err(NotReady::KeepsTooMuch {
                    kept: bucket.kept(),
                    limit: self.keep_limit(),
                });
            }
            if Instant::now() >= deadline {
                return Err(NotReady::Late(patience));
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    }

    /// The handlers.
    #[must_use]
    pub fn service(&self) -> &Service {
        self.service
    }

    /// The buckets.
    #[must_use]
    pub fn buckets(&self) -> Buckets {
        self.buckets
    }

    /// What is counted by route; last, what had none.
    #[must_use]
    pub fn routes(&self) -> &[RouteMeter] {
        self.meters.routes()
    }

    /// What the requests of all routes together have needed, in arena bytes. It is added up where memory was
    /// kept for it from the start, so ask once, at the end.
    #[must_use]
    pub fn memory_of_all(&self) -> &Histogram {
        self.meters.memory_of_all()
    }

    /// The last 16 requests that outgrew their bucket, newest first. One that came in the very moment in
    /// which this was read before, or another was noted, may be missing.
    pub fn culprits(&self) -> impl Iterator<Item = Culprit> + use<> {
        self.meters.culprits()
    }

    /// What has happened so far.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let rests = |bucket: &&Bucket| bucket.state() == BucketState::Resting;
        Figures {
            calls: load(&self.counters.calls),
            exhausted_arena: load(&self.counters.exhausted_arena),
            exhausted_stack: load(&self.counters.exhausted_stack),
            exhausted_shared_heap: load(&self.counters.exhausted_shared_heap),
            panicked: load(&self.counters.panicked),
            left: self.keeping.left(),
            threads_ended: self.keeping.ended(),
            threads_refused: load(&self.counters.threads_refused),
            largest_refused: load(&self.counters.largest_refused),
            buckets_resting: self.buckets.iter().filter(rests).count(),
            kept: self.buckets.iter().map(Bucket::kept).sum(),
            kept_max: self.buckets.iter().map(Bucket::kept_max).max().unwrap_or(0),
            buckets_parked: parked(self.buckets),
            lost: self.lost(),
            high_water: self
                .buckets
                .iter()
                .map(Bucket::high_water)
                .max()
                .unwrap_or(0),
            stack_high_water: self
                .buckets
                .iter()
                .map(Bucket::stack_high_water)
                .max()
                .unwrap_or(0),
            threads: self
                .door
                .get()
                .map_or(0, |door| door.info().threads.started),
            unlogged: self.lines.unlogged() + self.signs.lines.unlogged(),
        }
    }

    /// What its threads say of their calls.
    pub(crate) fn signs(&self) -> &Signs {
        &self.signs
    }

    /// What the log calls a route, by its number, or a call without one.
    pub(crate) fn name_of_route(&self, route: Option<usize>) -> &'static str {
        self.meters.of(route).route
    }

    pub(crate) fn keeping(&self) -> &Keeping {
        &self.keeping
    }

    pub(crate) fn options(&self) -> &ApplicationOptions {
        &self.options
    }

    /// C libraries say in their own words that they got nothing, and none says what to do.
    #[cold]
    fn say_refused(&self, route: &'static str, refusal: CRefusal) {
        let Some(Leave { unlogged }) = self.lines().take() else {
            return;
        };
        let CRefusal { asked, is_full } = refusal;
        let raise = match is_full {
            true => "--c-heap",
            false => "--c-heap-per-request",
        };
        warn!(
            route,
            asked, raise, unlogged, "malloc was refused: a C library got NULL in a request"
        );
    }

    pub(crate) fn lines(&self) -> &LinePace {
        &self.lines
    }

    pub(crate) fn keep_limit(&self) -> usize {
        self.options.keep
    }

    pub(crate) fn each_thread(&self) -> impl Iterator<Item = &EachThread> {
        let of_routes = match self.service {
            Service::Requests(routes) => routes.warm(),
            Service::Connections(_) | Service::Datagrams(_) => &[],
        };
        self.options.each_thread.iter().chain(of_routes)
    }

    /// Whether requests have been left by a jump: what they had open, and had not registered, stays open.
    #[must_use]
    pub fn has_jumped(&self) -> bool {
        self.policy == Policy::Escape && self.routes().iter().any(|route| route.exhausted() > 0)
    }

    /// Whether the door takes no calls any more.
    pub(crate) fn is_revoked(&self) -> bool {
        self.door.get().is_none_or(|door| door.info().revoked)
    }

    /// Whether the client of the call that a bucket's thread serves has gone.
    pub(crate) fn client_has_gone(&self, bucket: u32) -> bool {
        self.door
            .get()
            .is_some_and(|door| door.is_abandoned(bucket))
    }

    /// Starts a thread in a bucket that has never had one. The door asks for one at a time, so that while one
    /// does not come to serve, the buckets after it get none.
    fn start_first_thread(&'static self, thread: u32) -> io::Result<()> {
        self.keeping().begins_to_start(thread);
        let started = self.start_thread(thread);
        if started.is_err() {
            self.keeping().serves(thread); // as little as before, but it is not being started
        }
        started
    }

    pub(crate) fn start_thread(&'static self, thread: u32) -> io::Result<()> {
        let bucket = self
            .buckets
            .get(thread)
            .ok_or_else(|| io::Error::other("there is no bucket for another thread"))?;
        let started = bucket.start_thread(door_server_thread, std::ptr::from_ref(self).addr());
        match &started {
            Ok(()) => self.counters.refused_ns.store(0, Ordering::Relaxed),
            Err(error) => self.note_refused(error),
        }
        started
    }

    /// Whether the system has refused a thread within the last 10 s, and given none since: then fewer
    /// requests are served at once than there are buckets. It is not tried without a request that wants one,
    /// so it is forgotten after that.
    #[must_use]
    pub fn is_refused_threads(&self) -> bool {
        match self.counters.refused_ns.load(Ordering::Relaxed) {
            0 => false,
            at_ns => now_ns().saturating_sub(at_ns) < REFUSED_FOR.as_nanos() as u64,
        }
    }

    /// Counts a thread that was not to be had, and says so now and then. A loop may be the one that runs
    /// this: it allocates nothing, and so has the number of the error and not its sentence.
    #[cold]
    fn note_refused(&self, error: &io::Error) {
        let Counters {
            threads_refused,
            refused_ns,
            said_ns,
            ..
        } = &self.counters;
        let now_ns = now_ns().max(1);
        let refused = threads_refused.fetch_add(1, Ordering::Relaxed) + 1;
        refused_ns.store(now_ns, Ordering::Relaxed);
        if is_time_to_say(said_ns, now_ns, REFUSED_FOR.as_nanos() as u64) {
            warn!(
                os_error = error.raw_os_error(),
                refused,
                buckets = self.buckets.len(),
                "cannot start another door server thread: check `ulimit -u` and the cgroup's pids.max (TasksMax=). Requests \
                 wait for the threads that there are"
            );
        }
    }

    /// Until when a call may keep its bucket. A connection has no deadline, and may be used for as long as it
    /// is there.
    fn until(&self, deadline_ns: u64) -> Until {
        match (self.service, deadline_ns) {
            (Service::Connections(_), _) => Until::ClientHasGone,
            (Service::Requests(_) | Service::Datagrams(_), 0) => Until::Ever,
            (Service::Requests(_) | Service::Datagrams(_), at_ns) => Until::Deadline(at_ns),
        }
    }

    fn count_failure(&self, failed: &Failed<'_>) -> u32 {
        let (counter, status) = match failed {
            Failed::Exhausted(exhaustion) => match exhaustion.reason {
                Reason::Arena => (&self.counters.exhausted_arena, outcome::EXHAUSTED_ARENA),
                Reason::Stack => (&self.counters.exhausted_stack, outcome::EXHAUSTED_STACK),
                Reason::SharedHeap => (
                    &self.counters.exhausted_shared_heap,
                    outcome::EXHAUSTED_SHARED_HEAP,
                ),
            },
            Failed::Panicked(_) => (&self.counters.panicked, outcome::PANICKED),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if let Failed::Exhausted(exhaustion) = failed {
            let asked = exhaustion.asked as u64;
            self.counters
                .largest_refused
                .fetch_max(asked, Ordering::Relaxed);
        }
        status
    }

    /// Ends a call that is lost: its thread never runs again, and its client is told at once.
    ///
    /// The handler's frames stay as they are, and threads to which they have lent something (in
    /// `std::thread::scope`, or a pool's scope) go on using it for as long as the process lives. So nothing
    /// that can be lent may be used for anything else from here on:
    ///
    /// - **locals, and all that is in the arena**: the bucket is parked, and neither its stack nor its arena
    ///   is used again;
    /// - **the request's head and its body** (`Request`, `Datagram`): they lie in the request slot, or in the
    ///   thread's snapshot of it; **the room for the answer** (`BodyWriter::space`, `DatagramReply::space`):
    ///   in the reply slot. The call is lost with its slot, see [`EmergencyReply`];
    /// - **a body that comes in pieces** is read into memory of the handler's own, so no piece is ever lent;
    /// - **a connection's descriptor** (`Connection::stream`) stays open, so that its number is given to no
    ///   other file. Its connection is shut down, both ways: then its client sees the end, and so do threads
    ///   that read or write there;
    /// - **routes, meters and the application** live as long as the process.
    ///
    /// # Safety
    /// As for [`EmergencyReply::complete`], of this call.
    unsafe fn lose(
        &self,
        meter: &RouteMeter,
        failed: &Failed<'_>,
        stream: Option<&TcpStream>,
        emergency: &EmergencyReply,
    ) {
        let status = self.count_failure(failed);
        self.counters.calls.fetch_add(1, Ordering::Relaxed);
        if let Some(stream) = stream {
            // An error says that it has ended already.
            let _ = stream.shutdown(Shutdown::Both);
        }
        // SAFETY: the caller's promise.
        unsafe { emergency.complete(CallStatus(status)) };
        (self.options.on_parked)();
        // Last: a subscriber of the application's own may want a lock that the handler's frames hold for
        // ever.
        self.name_culprit(meter, failed, true);
    }

    /// One line for the culprit, and a place in the list.
    fn name_culprit(&self, meter: &RouteMeter, failed: &Failed<'_>, parked: bool) {
        if let Failed::Exhausted(exhaustion) = failed {
            self.meters.count_culprit(meter, exhaustion);
        }
        if stack_remaining().is_some_and(|left| left < LOG_STACK) {
            return;
        }
        if let Failed::Exhausted(exhaustion) = failed {
            self.meters.list_culprit(meter, exhaustion, parked);
        }
        let leave = match parked {
            true => Some(self.lines.always()), // of buckets that are lost there are no more than buckets
            false => self.lines.take(),
        };
        let Some(Leave { unlogged }) = leave else {
            return;
        };
        let route = meter.route;
        match failed {
            Failed::Exhausted(exhaustion) => {
                let Exhaustion {
                    reason, used, size, ..
                } = *exhaustion;
                warn!(
                    route,
                    reason = reason.as_str(),
                    asked = %Asked(exhaustion),
                    used,
                    size,
                    raise = reason.flag(),
                    or = (parked && reason == Reason::Arena).then_some("--overdraft-per-request"),
                    parked,
                    unlogged,
                    "a request outgrew its bucket{}",
                    if parked { ", which is lost" } else { "" }
                );
            }
            Failed::Panicked(note) => {
                let frames = Frames(note.frames());
                warn!(route, panic = note.message(), %frames, parked, unlogged, "a handler panicked");
            }
        }
    }
}

impl fmt::Debug for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Application")
            .field("figures", &self.figures())
            .finish_non_exhaustive()
    }
}

/// Bytes asked for, as far as they are known.
struct Asked<'e>(&'e Exhaustion);

impl fmt::Display for Asked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self.0 {
            Exhaustion {
                asked: 0,
                reason: Reason::Stack,
                ..
            } => f.write_str("a deeper stack"),
            Exhaustion { asked: 0, free, .. } => write!(f, "more than {free}"),
            Exhaustion { asked, .. } => write!(f, "{asked}"),
        }
    }
}

/// Return addresses as `addr2line -e BINARY` takes them.
struct Frames<'f>(&'f [usize]);

impl fmt::Display for Frames<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, frame) in self.0.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{frame:#x}")?;
        }
        Ok(())
    }
}

/// The body of a door server thread.
fn door_server_thread(mut tenant: Tenant, argument: usize) {
    // SAFETY: `start_thread` passes an application, which was leaked.
    let application: &'static Application = unsafe { &*(argument as *const Application) };
    let place = application.buckets.place_of(tenant.bucket());
    let thread = place.expect("threads are started in the application's own buckets");
    // What a first request would otherwise pay for: the formatting machinery's pages, this stack's upper
    // ones.
    tenant.enter(&|_| {}, |_| format!("{:.3}", 1.5_f64).len());
    if let Some(door) = application.door.get()
        && application.prepare(thread, &mut tenant)
    {
        let tenant = RefCell::new(tenant);
        door.serve(
            thread,
            &Server {
                application,
                thread,
                sign: application.signs.of(thread),
                tenant,
                leaves: Cell::new(false),
                ended_ns: Cell::new(0),
            },
        );
    }
}

/// What a door server thread answers calls with.
struct Server {
    application: &'static Application,
    /// The number of the thread, and of its bucket.
    thread: u32,
    /// What is said of the present call.
    sign: &'static Sign,
    /// Borrowed for the length of a call; calls of one thread do not overlap.
    tenant: RefCell<Tenant>,
    /// The bucket keeps too much: the thread ends, and another one takes its place.
    leaves: Cell<bool>,
    /// When the last call ended.
    ended_ns: Cell<u64>,
}

impl Server {
    /// Counts for how long a call has held its bucket. One that follows another at once began when that
    /// ended: the door's own clock stands still for a few calls then.
    fn note_time(&self, meter: &RouteMeter, claimed_at_ns: u64) {
        let now_ns = now_ns();
        let began_ns = claimed_at_ns.max(self.ended_ns.replace(now_ns));
        meter.call_time.observe(now_ns.saturating_sub(began_ns));
    }
}

impl DoorHandler for Server {
    fn call(&self, _: u32, call: &mut Call<'_>) {
        let application = self.application;
        let mut tenant = self.tenant.borrow_mut();
        let emergency = call.emergency();
        let frame: *const [u8] = call.request();
        // SAFETY: (of each use) the frame stays as it is until the call is completed, but for the place of a
        // streamed body, which the front end writes only inside `Port::hand_over`; what is read of the
        // request while that runs (method, path, fields) lies before it.
        let request = || unsafe { &*frame };
        let deadline_ns = call.deadline();
        let claimed_at_ns = call.claimed_at_ns();

        self.sign
            .begins(claimed_at_ns, application.until(deadline_ns));

        let route = RouteNote::new(self.sign);
        let meter = || {
            let matched: Option<Matched> = route.get();
            application.meters.of(matched.map(|matched| matched.number))
        };
        let stream = match application.service {
            Service::Connections(_) => take_connection(call),
            Service::Requests(_) | Service::Datagrams(_) => None,
        };

        let stuck = |failed: Failed<'_>| {
            // SAFETY: called on this thread, at most once, below the handler's frames; it is parked right
            // after.
            unsafe { application.lose(meter(), &failed, stream.as_ref(), &emergency) };
        };
        let port = Port::new(call, self.sign);
        let answer = |arena: &Bump| match application.service {
            // SAFETY: as for `request`.
            Service::Requests(routes) => unsafe {
                answer_request(
                    application,
                    routes,
                    frame,
                    arena,
                    deadline_ns,
                    &port,
                    &route,
                )
            },
            Service::Connections(handler) => {
                let peer = decode_connection(request()).ok()?;
                let mut connection = Connection::new(stream.as_ref()?, peer);
                if let Err(error) = handler.call(&mut connection) {
                    debug!(error = %Words(&error), "a connection ended early");
                }
                Some(Written::Whole(0))
            }
            Service::Datagrams(handler) => {
                let datagram = Datagram::new(decode_datagram(request()).ok()?);
                let mut slot = port.reply_slot();
                // SAFETY: the slot's reply part is valid as long as the call, which outlives this closure,
                // and ours to write until the call is completed; the port gives it to nobody else meanwhile.
                let mut reply = DatagramReply::new(unsafe { slot.as_mut() });
                handler.call(&datagram, &mut reply);
                Some(Written::Whole(reply.finish()))
            }
        };
        let outcome = match application.policy {
            Policy::Overdraft => tenant.enter(&stuck, answer),
            // SAFETY: the application was made by `escaping`, whose caller promised the contract for its
            // handlers. Ours above hold nothing but a borrow of the port when a handler runs, and the port is
            // not used after a jump. A connection is owned by this frame, which is not jumped over.
            Policy::Escape => unsafe { tenant.enter_escaping(&stuck, answer) },
        };

        let (len, status) = match &outcome.result {
            Ok(Some(Written::Whole(len))) => (*len, outcome::OK),
            Ok(Some(Written::TooLarge)) => (0, outcome::REPLY_TOO_LARGE),
            Ok(Some(Written::Broken)) => (0, outcome::STREAM_BROKEN),
            Ok(Some(Written::Unwritten)) => (0, outcome::UNWRITTEN),
            Ok(Some(Written::BodyFirst(outcome))) => (0, *outcome),
            Ok(None) => (0, outcome::BAD_FRAME),
            Err(failed) => {
                let status = application.count_failure(failed);
                application.name_culprit(meter(), failed, false);
                (0, status)
            }
        };
        // The front end has only asked: the call that counts comes with the body.
        let has_run = !matches!(&outcome.result, Ok(Some(Written::BodyFirst(_))));
        if has_run {
            application.counters.calls.fetch_add(1, Ordering::Relaxed);
        }
        let (left, kept, usage) = (outcome.left, outcome.kept, outcome.usage);
        let change = outcome.last_change;
        let meter = meter();
        if outcome.c_left > 0 && application.policy == Policy::Escape && outcome.result.is_err() {
            meter.count_c_leak(outcome.c_left);
        }
        if let Some(refusal) = outcome.c_refused {
            application.say_refused(meter.route, refusal);
        }
        if has_run
            && !matches!(&outcome.result, Err(Failed::Exhausted(exhaustion)) if exhaustion.reason == Reason::Arena)
        {
            meter.memory.observe(usage.high_water as u64); // of the others the culprit's line has said more
        }
        if has_run {
            self.note_time(meter, claimed_at_ns);
        }
        // Before the front end hears of it: it has a descriptor less to wait for.
        drop(stream);
        call.complete(len, CallStatus(status));
        if left != 0 {
            application.note_left(meter, left, change);
        }
        if application.keeps_too_much(kept) {
            application.thread_leaves(self.thread, &mut tenant, (meter.route, kept));
            self.leaves.set(true);
        }
    }

    fn leaves(&self) -> bool {
        self.leaves.get()
    }
}

/// The connection that came with a call, as its handler expects it: one whose reads wait.
fn take_connection(call: &mut Call<'_>) -> Option<TcpStream> {
    let stream = TcpStream::from(call.take_descriptors().next()?);
    stream.set_nonblocking(false).ok()?;
    Some(stream)
}

/// Of a request that came before its body: the outcome that says that its handler does not run before that is
/// there.
///
/// A client that waits to be asked for its body is told at once what can be said without it.
fn wants_body_first(routes: &Routes, raw: &RawRequest<'_>, port: &Port<'_, '_>) -> Option<u32> {
    let mut fields = raw.fields;
    let waits = fields.any(|(name, value)| {
        name.eq_ignore_ascii_case(b"expect") && value.eq_ignore_ascii_case(b"100-continue")
    });
    let runs = match routes.takes(raw.method, raw.path) {
        Takes::Pieces => true,
        Takes::Nothing => waits,
        Takes::Whole => waits && !may_collect(raw, port),
    };
    match (runs, routes.streams()) {
        (true, _) => None,
        (false, true) => Some(outcome::BODY_FIRST),
        (false, false) => Some(outcome::BODIES_FIRST),
    }
}

/// Whether a body may fit: its slot, or else what is free in the bucket.
fn may_collect(raw: &RawRequest<'_>, port: &Port<'_, '_>) -> bool {
    let Some(length) = raw.content_length else {
        return true;
    };
    let free = Memory::now().map_or(0, |memory| memory.free);
    let room = port.request_slot_len().max(free);
    usize::try_from(length).is_ok_and(|length| length <= room)
}

/// Runs the handler that a request's route leads to, and writes its response into the reply slot. `None`: the
/// bytes are no request.
///
/// # Safety
/// The frame stays as it is meanwhile, but for the place of a streamed body, which may be written inside
/// `Port::hand_over`.
unsafe fn answer_request(
    application: &Application,
    routes: &'static Routes,
    frame: *const [u8],
    arena: &Bump,
    deadline_ns: u64,
    port: &Port<'_, '_>,
    route: &RouteNote<'_>,
) -> Option<Written> {
    // SAFETY: the caller's promise; what is read of the request while a piece of its body is fetched lies
    // before it.
    let raw = match decode_request(unsafe { &*frame }) {
        Ok(raw) => raw,
        Err(frame::FrameError::PathNotUtf8) => {
            let response =
                Response::text("the path is not UTF-8\n").with_status(Status::BAD_REQUEST);
            return Some(write_response(response, port, false, false, |_| {}));
        }
        Err(_) => return None,
    };
    if raw.early
        && let Some(outcome) = wants_body_first(routes, &raw, port)
    {
        return Some(Written::BodyFirst(outcome));
    }
    let mut body = SlotBody::new(port, frame.len(), raw.body.len());
    let stream = raw.streamed.then_some(&mut body as &mut dyn Read);
    let head_only = raw.head_only;
    // SAFETY: slot, arena and body outlive the request, which is dropped at the end of this function; the
    // routes were leaked with the application.
    let mut incoming = unsafe { Request::from_raw(raw, arena, deadline_ns, stream) };
    // SAFETY: note and port outlive this function, and so the request.
    unsafe {
        incoming.note_route_in(route);
        incoming.ask_at(port);
    }
    let response = routes.dispatch(&mut incoming);
    if exhausted().is_some() {
        return Some(Written::Unwritten); // its answer is a 500, whatever it would be
    }
    let pattern = || route.get().map_or("(no route)", |matched| matched.pattern);
    // What fails because its client has gone is no fault of the handler's.
    if let Some(reason) = response.diagnostic()
        && !port.client_is_gone()
        && let Some(Leave { unlogged }) = application.lines.take()
    {
        error!(
            route = pattern(),
            status = response.status().code(),
            reason,
            unlogged,
            "a handler could not answer"
        );
    }
    let failed = |error: &io::Error| {
        if exhausted().is_none()
            && let Some(Leave { unlogged }) = application.lines.take()
        {
            error!(
                route = pattern(),
                reason = %Words(error),
                unlogged,
                "a handler could not write all of its answer"
            );
        }
    };
    let memory_header = application.options.memory_header;
    Some(write_response(
        response,
        port,
        head_only,
        memory_header,
        failed,
    ))
}
