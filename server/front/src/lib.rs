//! The front end: loops that own connections, speak HTTP/1.1 and call the door.
//!
//! A loop is one thread with its own epoll set, listeners, connections and channel; loops share nothing on
//! the path of a request. It never blocks, never runs a handler and, once started, never allocates.
//!
//! ```text
//!            accept            whole head             whole body, or a slot full      claimed
//!   Free ──▶ Idle ──▶ Head ──────────▶ (Waiting) ──▶ Body ──────────▶ Calling ──▶ Writing ──▶ Idle
//!              ▲        ╰─ refused ──────────────────────────────────────────────▶ Lingering ──▶ Free
//! ```

mod access;
mod complaints;
mod connection;
mod doorway;
pub mod forward;
mod gathering;
mod instances;
mod limit;
mod opener;
mod options;
mod output;
mod reading;
mod replying;
mod routes;
mod rules;
mod slow;
mod stats;
mod timers;
mod unwatched;

use complaints::{Complaints, NOT_TRUSTED};
use connection::{BufferPool, Connection, InstanceId, List, OwnAnswer, State, Table};
use doorway::{Doorway, Doorways};
use gathering::Places;
use std::collections::VecDeque;
use std::hash::RandomState;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use transom_arena::Part;
use transom_doors::{Bell, Completion, Patience, SlotId, Words};
use transom_http::peer::is_trusted;
use transom_http::{DateCache, Fate, HeadLimits, Note, refusals};
use transom_net::addresses::{Addresses, Admission, Counted};
use transom_net::pace::PaceLimit;
use transom_net::{self as net, Epoll, ListenOptions};
use unwatched::UNWATCHED_MAX;

pub use access::ACCESS_ENTRY_SIZE;
pub use doorway::{DoorwayParts, INSTANCES, SLOT_TABLES_SIZE};
pub use limit::ConnectionLimit;
pub(crate) use opener::{HANGS, REMOTE_SLOTS_MAX, REMOTE_SPARES_MAX};
pub use opener::{Mailbox, OPENER_STACK, Opener, OpenerBuilder, REMOTE_SLOTS_IN_ALL, open_options};
use options::READ_SIZE;
pub use options::{Allowance, LOOP_STACK, Proxying, Rates, Sizes, Timeouts};
pub use routes::{Route, RouteTable};
pub use rules::{Limits, Rules};
pub use stats::{Counter, LoopFigures, LoopStats};

/// The upper half of the epoll token of what is no connection.
const NOT_A_CONNECTION: u32 = u32::MAX;

/// What an event that is no connection's is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signal {
    /// The loop's own doorbell: there are orders, or a door was opened.
    Bell,
    /// One of its listeners.
    Listener(u16),
    /// The doorbell of an instance's client: there are completions.
    Client(InstanceId),
    /// The other side of an instance's client: it is leaving, or has died.
    Peer(InstanceId),
}

impl Signal {
    /// The lower half is a kind and up to 24 bits for which one.
    fn token(self) -> u64 {
        let (kind, which) = match self {
            Signal::Bell => (0, 0),
            Signal::Listener(n) => (1, u32::from(n)),
            Signal::Client(at) => (2, of_instance(at)),
            Signal::Peer(at) => (3, of_instance(at)),
        };
        (u64::from(NOT_A_CONNECTION) << 32) | u64::from(kind << 24 | which)
    }

    /// What a token's lower half says.
    fn of(half: u32) -> Self {
        let which = half & 0xff_ffff;
        let at = InstanceId {
            doorway: (which >> 8) as u16,
            instance: which as u8,
        };
        match half >> 24 {
            0 => Signal::Bell,
            1 => Signal::Listener(which as u16),
            2 => Signal::Client(at),
            _ => Signal::Peer(at),
        }
    }
}

/// A token's upper and lower half.
fn halves(token: u64) -> (u32, u32) {
    ((token >> 32) as u32, token as u32)
}

fn of_instance(at: InstanceId) -> u32 {
    u32::from(at.doorway) << 8 | u32::from(at.instance)
}

/// Events taken from the kernel at a time.
const EVENTS: usize = 256;

/// How long to wait when the system has no descriptors or memory for another connection.
const ACCEPT_AGAIN_MS: u64 = 100;

/// How long to wait for a place that another loop was asked for.
const PLACE_AGAIN_MS: u64 = 5;

/// Connections accepted before the others are looked after.
const ACCEPT_BATCH: usize = 64;

/// What a loop's queues have for each connection: it may stand in one as ready, in the other as holding
/// something.
pub const QUEUE_ENTRY_SIZE: usize = size_of::<u32>() + size_of::<(u32, u64)>();

/// How long an answer may wait for the next one on its connection, to be sent with it.
const HELD_NS: u64 = 1_000_000;

/// How long a loop first sleeps while calls are unclaimed or just begun: the time after which another thread
/// is woken for a call that is stuck behind one that takes long. A wake costs 5 to 10 µs, so less would wake
/// threads for nothing.
const PATIENCE: Duration = Duration::from_micros(60);

/// Sleeps that double from [`PATIENCE`] before the loop leaves it to the doorbell alone.
const PATIENCE_STEPS: u32 = 6;

/// What all loops are told.
#[derive(Debug, Default)]
pub struct Orders {
    state: AtomicU32,
    rules: rules::Board,
}

/// What a loop does about new work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Order {
    /// All that comes.
    Serve = 0,
    /// Accept nothing more, because another process does, and close nobody's connection before it has had an
    /// answer that says so: whoever has connected, or was promised that a connection stays open, may be about
    /// to use it.
    HandOver = 1,
    /// Accept nothing, end what has begun.
    Drain = 2,
    /// Close everything.
    Stop = 3,
}

impl Orders {
    /// Tells them, unless they were told more than that.
    pub fn give(&self, order: Order) {
        self.state.fetch_max(order as u32, Ordering::SeqCst);
    }

    /// Has every loop go by these rules from its next turn on.
    pub fn change_rules(&self, rules: Rules) {
        self.rules.put(Arc::new(rules));
    }

    /// What they were told last.
    pub fn get(&self) -> Order {
        match self.state.load(Ordering::Relaxed) {
            0 => Order::Serve,
            1 => Order::HandOver,
            2 => Order::Drain,
            _ => Order::Stop,
        }
    }
}

/// What a loop is made of.
pub struct Parts {
    /// Memory for [`Sizes::table`].
    pub connections: Part,
    /// For [`Sizes::partial_heads`], of [`Sizes::head_limit`] each.
    pub buffers: Part,
    /// For [`Sizes::scratch`].
    pub scratch: Part,
    /// Rings the loop awake.
    pub bell: Bell,
    /// The doors that it calls, by number.
    pub doorways: Vec<DoorwayParts>,
    /// What it serves, by number.
    pub forwards: Vec<Forward>,
    /// What all loops count addresses in, if these have a limit.
    pub addresses: Option<Arc<Addresses>>,
    /// What all loops count their connections in.
    pub limit: Arc<ConnectionLimit>,
    /// What it counts.
    pub stats: Arc<LoopStats>,
    /// What it is told.
    pub orders: Arc<Orders>,
}

/// What a loop listens on for HTTP, and where the requests from there go.
pub struct Forward {
    /// Where its connections come from.
    pub listeners: Vec<Listener>,
    /// Where its requests go.
    pub routes: Arc<RouteTable>,
}

/// A socket that connections are accepted from.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Closed when nobody holds it any more: neither a loop nor what hands it on to another process.
    pub socket: Arc<OwnedFd>,
    /// Other loops accept from it too.
    pub shared: bool,
}

/// How long things may take, in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Milliseconds {
    header: u64,
    /// For an answer of ours; others have a [`PaceLimit`].
    write: u64,
    idle: u64,
    queue: u64,
    /// 0: none.
    deadline: u64,
}

/// How long a client that has had its last answer is listened to while it sends nothing, so that it can read
/// that answer (RFC 9112 §9.6).
const LINGER_SILENCE: Duration = Duration::from_secs(2);

/// How long it is listened to while it sends, at `--body-rate` or faster: many clients read no answer before
/// they have sent all of their body. As nginx has it.
const LINGER_MS: u64 = 30_000;

/// Reads of what such a client sends before the others are looked after.
const DISCARDS_AT_A_TIME: usize = 64;

/// Who a new connection is from.
struct Newcomer {
    peer: Option<SocketAddr>,
    /// It is a proxy that is believed.
    trusted: bool,
    counted: Option<Counted>,
}

/// An address has as many connections as it may.
struct AddressIsFull;

/// One loop.
pub struct Loop {
    epoll: Epoll,
    bell: Bell,
    /// Each with the number of its forward.
    listeners: Vec<(Listener, u16)>,
    /// What accepted connections are like, where they do not inherit it.
    listen_options: ListenOptions,
    /// By forward: where its requests go.
    forwards: Vec<Arc<RouteTable>>,
    accepting: bool,
    addresses: Option<Arc<Addresses>>,
    limit: Arc<ConnectionLimit>,
    /// The connection that is closed now leaves its place to a new one.
    leaves_its_place: bool,
    table: Table,
    pool: BufferPool,
    read_scratch: &'static mut [u8],
    write_scratch: &'static mut [u8],
    doorways: Doorways,
    completions: Vec<(SlotId, Completion)>,
    /// Connections with something to do that no event will tell of.
    ready: VecDeque<u32>,
    /// Connections whose last answer may not have been sent, and since when. (An entry of the table stands
    /// here once, and stays when its connection is closed.)
    held: VecDeque<(u32, u64)>,
    /// Connections that may not be watched yet, in the order in which they came. (One may stand here that has
    /// been closed, or twice, if another has taken its entry since.)
    unwatched: Vec<u32>,
    /// For answers that wait for the next one.
    places: Places,
    limits: HeadLimits,
    /// What may change while it serves.
    rules: Limits,
    complaints: Complaints,
    /// Connections that this loop may have.
    connections: u32,
    /// Loops that share what is behind the doors.
    loops: u32,
    date: DateCache,
    /// For hashes that nobody else can foresee.
    keys: RandomState,
    now_ns: u64,
    now_ms: u64,
    orders: Arc<Orders>,
    order: Order,
    /// How often there were new rules when it last looked.
    edition: u32,
    stats: Arc<LoopStats>,
    /// Of requests, if they are logged.
    access: Option<access::Access>,
    /// Sleeps in a row that brought nothing.
    quiet: u32,
    /// The connection whose turn it is to have a slot, though others wait.
    granted: Option<u32>,
    /// Something was done that lets waiting requests go on, so look before sleeping.
    again: bool,
    /// The loop's doorbell has rung: the opener may have brought something.
    mail: bool,
    /// When to try again to accept, after the system had no room for another connection; 0: not waiting for
    /// that.
    accept_again_ms: u64,
}

impl Loop {
    /// A loop of these parts.
    ///
    /// # Errors
    /// There are no descriptors left for what it waits for.
    pub fn new(sizes: Sizes, allowance: &Allowance, parts: Parts) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.add_bell(parts.bell.as_raw_fd(), Signal::Bell.token())?;
        let mut listeners = Vec::new();
        let mut forwards = Vec::new();
        for (number, forward) in (0..).zip(parts.forwards) {
            let numbered = |listener| (listener, number);
            listeners.extend(forward.listeners.into_iter().map(numbered));
            forwards.push(forward.routes);
        }
        for (n, (listener, _)) in (0..).zip(&listeners) {
            let token = Signal::Listener(n).token();
            epoll.add_listener(listener.socket.as_raw_fd(), listener.shared, token)?;
        }
        let doorways = parts.doorways.into_iter().map(Doorway::new);
        let doorways = Doorways(doorways.collect());
        let mut slots = 0;
        for at in doorways.instances() {
            slots = slots.max(doorways[at].owners.len());
        }
        let (connections, head_limit) = (sizes.connections, sizes.head_limit);
        let (read, rest) = parts.scratch.into_slice().split_at_mut(READ_SIZE);
        let (write, places) = rest.split_at_mut(sizes.write_scratch());
        let mut this = Loop {
            epoll,
            bell: parts.bell,
            listeners,
            listen_options: sizes.sockets,
            forwards,
            accepting: true,
            addresses: parts.addresses,
            limit: parts.limit,
            leaves_its_place: false,
            table: Table::new(parts.connections, connections, doorways.0.len()),
            pool: BufferPool::new(parts.buffers, sizes.partial_heads, head_limit),
            // A read that is larger than a buffer could not be kept.
            read_scratch: &mut read[..READ_SIZE.min(head_limit)],
            write_scratch: write,
            doorways,
            completions: touched(slots + 1),
            ready: touched(connections as usize + 1).into(),
            held: touched(connections as usize + 1).into(),
            unwatched: touched(UNWATCHED_MAX),
            places: Places::new(places),
            limits: HeadLimits {
                head_max: head_limit,
                target_max: head_limit / 2,
                ..HeadLimits::default()
            },
            rules: Limits::new(allowance),
            complaints: Complaints::default(),
            connections,
            loops: sizes.loops,
            date: DateCache::new(net::unix_seconds()),
            keys: RandomState::new(),
            now_ns: 0,
            now_ms: 0,
            orders: parts.orders,
            order: Order::Serve,
            edition: 0,
            stats: parts.stats,
            access: None,
            quiet: 0,
            granted: None,
            again: false,
            mail: false,
            accept_again_ms: 0,
        };
        for at in this.doorways.instances() {
            if let Some(client) = &this.doorways[at].client {
                this.watch(at, client)?;
            }
        }
        this.look_at_the_clock();
        Ok(this)
    }

    /// Rings the loop awake, for new orders.
    pub fn bell(&self) -> Bell {
        self.bell.clone()
    }

    /// Serves until it is told to stop, or to drain and nothing is left.
    pub fn run(mut self) {
        let no_event = libc::epoll_event { events: 0, u64: 0 };
        let mut events = [no_event; EVENTS];
        loop {
            self.obey();
            self.follow_rules();
            self.expire_timers();
            if self.accept_again_ms != 0 && self.accept_again_ms <= self.now_ms {
                self.resume_accepting();
            }
            self.make_place_for_others();
            self.serve_waiting();
            self.serve_ready();
            // Only now: a timer may have closed the last connection, and then no event is left to come.
            let draining = matches!(self.order, Order::HandOver | Order::Drain);
            if self.order == Order::Stop || (draining && self.table.open() == 0) {
                break;
            }
            self.push_held();
            if self.flush() {
                self.look_at_the_clock();
                if self.collect_completions() {
                    self.quiet = 0;
                    self.serve_waiting();
                    self.serve_ready();
                    self.flush();
                }
            }
            if self.order == Order::Stop {
                continue;
            }
            self.tend_doorways();
            self.help_what_is_stuck();
            self.relieve_doorways();
            self.show_gauges();
            self.watch_newcomers();
            let count = self.sleep(&mut events);
            self.look_at_the_clock();
            self.on_events(&events[..count]);
            let progress = self.collect_completions();
            self.quiet = if progress || count > 0 {
                0
            } else {
                self.quiet.saturating_add(1)
            };
        }
        self.close_everything();
    }

    /// Wakes another thread when calls have been unclaimed for a while and none has come back: those that
    /// were expected to take them are in handlers that block.
    fn help_what_is_stuck(&mut self) {
        for doorway in &mut self.doorways.0 {
            for instance in &mut doorway.instances {
                let Some(client) = instance.client.as_mut().filter(|_| !instance.gone) else {
                    continue;
                };
                if !client.backlog() {
                    instance.stuck_since_ns = None;
                    continue;
                }
                let since = *instance.stuck_since_ns.get_or_insert(self.now_ns);
                if self.now_ns - since >= PATIENCE.as_nanos() as u64 {
                    if client.nudge() {
                        // Another thread takes up the next call; see soon whether it needs company.
                        self.quiet = self.quiet.min(1);
                    }
                    instance.stuck_since_ns = Some(self.now_ns);
                }
            }
        }
    }

    /// Waits for events: not at all, for some microseconds, or until the next timer, as the state of the
    /// calls asks.
    fn sleep(&mut self, events: &mut [libc::epoll_event]) -> usize {
        if std::mem::take(&mut self.again) || !self.ready.is_empty() {
            return self.epoll.wait(events, Some(Duration::ZERO));
        }
        let again = Some(self.accept_again_ms).filter(|&due| due != 0);
        let cramped = self.doorways.0.iter().map(|doorway| doorway.cramped_due_ms);
        let pressed = self.doorways.0.iter().map(|doorway| doorway.pressed_due_ms);
        // Rounded up, else the loop would turn idly until then.
        let in_ms = |due_ns: u64| due_ns.div_ceil(1_000_000);
        let held = self.held_due_ns().map(in_ms);
        let unwatched = self.unwatched_due_ns().map(in_ms);
        let until_timer = [self.table.next_due_ms(), again, held, unwatched]
            .into_iter()
            .flatten()
            .chain(cramped.chain(pressed).filter(|&due| due != 0))
            .min()
            .map(|due| Duration::from_millis(due.saturating_sub(self.now_ms)));
        let calls = self
            .doorways
            .clients()
            .any(|client| client.outstanding() > 0);
        let lazy = calls && self.quiet < PATIENCE_STEPS;
        let (patience, timeout) = if lazy {
            let step = PATIENCE * (1 << self.quiet);
            (
                Patience::Lazy,
                Some(until_timer.map_or(step, |timer| timer.min(step))),
            )
        } else {
            (Patience::Eager, until_timer)
        };
        let mut may_sleep = true;
        for client in self.doorways.clients_mut() {
            may_sleep &= client.prepare_wait(patience);
        }
        let timeout = if may_sleep {
            timeout
        } else {
            Some(Duration::ZERO)
        };
        let count = self.epoll.wait(events, timeout);
        for client in self.doorways.clients_mut() {
            client.woke();
        }
        count
    }

    /// The doorbell of a client has rung. Only what is not believed is asked why.
    fn on_ring(&mut self, at: InstanceId) {
        if self.doorways[at.doorway].is_remote() {
            let useful = self.collect_completions_of(at);
            if let Some(client) = &mut self.doorways[at].client {
                client.note_ring(useful);
            }
        }
    }

    /// The end of an answer is held until the next answer joins it.
    fn note_held(&mut self, index: u32) {
        let connection = &mut self.table[index];
        connection.held_since_ns = self.now_ns;
        if !std::mem::replace(&mut connection.in_held, true) {
            self.held.push_back((index, self.now_ns));
        }
    }

    /// When to look at the first of those that hold something.
    fn held_due_ns(&self) -> Option<u64> {
        self.held.front().map(|(_, since_ns)| since_ns + HELD_NS)
    }

    /// Sends what has been held for long enough: the next answer takes its time.
    fn push_held(&mut self) {
        for _ in 0..self.held.len() {
            if self.held_due_ns().is_none_or(|due_ns| self.now_ns < due_ns) {
                return;
            }
            let Some((index, _)) = self.held.pop_front() else {
                return;
            };
            let connection = &mut self.table[index];
            match connection.held_since_ns {
                0 => {} // it was sent with the next answer, or the connection was closed
                since if since + HELD_NS <= self.now_ns => {
                    connection.held_since_ns = 0;
                    if connection.gathered.is_none() {
                        net::push(connection.fd);
                    } else if self.send_gathered(index, false).is_err() {
                        self.close(index);
                    }
                }
                since => {
                    self.held.push_back((index, since));
                    continue;
                }
            }
            self.table[index].in_held = false;
        }
    }

    /// Counts the present request's time, from its arrival to the last byte of its answer, by the loop's
    /// clock.
    fn note_time(&self, index: u32) {
        let took_ns = self.now_ns.saturating_sub(self.table[index].arrived_ns);
        self.stats.request_time.observe_alone(took_ns);
    }

    /// What whoever asks from outside sees of the loop.
    fn show_gauges(&self) {
        let (mut slots, mut busy, mut lost, mut waiting) = (0, 0, 0, 0);
        for doorway in self.doorways.all() {
            waiting += self.table.len(List::Waiting(doorway));
        }
        for client in self.doorways.clients() {
            let all = client.usable_slots();
            slots += all;
            busy += all - client.free_slots();
            lost += client.lost_slots();
        }
        self.stats.connections.set(u64::from(self.table.open()));
        self.stats.slots.set(slots as u64);
        self.stats.slots_busy.set(busy as u64);
        self.stats.slots_lost.set(u64::from(lost));
        self.stats.waiting.set(u64::from(waiting));
    }

    fn look_at_the_clock(&mut self) {
        self.now_ns = transom_doors::now_ns();
        self.now_ms = self.now_ns / 1_000_000;
        self.date.update(net::unix_seconds());
    }

    /// Newcomers come last: what the others have sent, and who has left, decides whose place one may have.
    fn on_events(&mut self, events: &[libc::epoll_event]) {
        let is_newcomer = |event: &&libc::epoll_event| {
            let (generation, index) = halves(event.u64);
            generation == NOT_A_CONNECTION && matches!(Signal::of(index), Signal::Listener(_))
        };
        for event in events.iter().filter(|event| !is_newcomer(event)) {
            self.on_event(event.events, event.u64);
        }
        for event in events.iter().filter(is_newcomer) {
            self.on_event(event.events, event.u64);
        }
    }

    fn on_event(&mut self, events: u32, token: u64) {
        let (generation, index) = halves(token);
        if generation == NOT_A_CONNECTION {
            match Signal::of(index) {
                // Orders are looked at after every wait.
                Signal::Bell => self.mail = true,
                Signal::Client(at) => self.on_ring(at),
                Signal::Peer(at) => self.look_at_peer(at),
                Signal::Listener(n) => self.accept(n),
            }
            return;
        }
        let events = events as libc::c_int;
        let Some(connection) = self.table.of_event(index, generation) else {
            return;
        };
        let any = |mask: libc::c_int| events & mask != 0;
        connection.half_closed |= any(libc::EPOLLRDHUP | libc::EPOLLHUP);
        connection.urgent |= any(libc::EPOLLPRI);
        connection.broken |= any(libc::EPOLLERR | libc::EPOLLHUP);
        connection.readable |=
            any(libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLPRI | libc::EPOLLHUP);
        if any(libc::EPOLLERR) {
            self.close(index); // reset: nobody is there to be answered
            return;
        }
        let stuck = connection.gathered.is_some() && connection.held_since_ns == 0;
        if stuck && connection.state != State::Writing && self.send_gathered(index, false).is_err()
        {
            self.close(index);
            return;
        }
        match self.table[index].state {
            State::Writing => self.go_on_writing(index),
            _ if any(!libc::EPOLLOUT) => self.drive(index),
            _ => {}
        }
    }

    fn accept(&mut self, listener: u16) {
        let Some((listener, forward)) = self.listeners.get(usize::from(listener)) else {
            return; // closed since the event
        };
        let (fd, forward) = (listener.socket.as_raw_fd(), *forward);
        for _ in 0..ACCEPT_BATCH {
            // Either a place that is free, or that of somebody who can be missed.
            let has_place = self.limit.take();
            let evictable = match has_place && !self.table.is_full() {
                true => None,
                false => match self.evictable() {
                    None => {
                        self.wait_for_place(fd, has_place);
                        return;
                    }
                    Some(index) if self.has_news(index) => {
                        if has_place {
                            self.limit.give_back();
                        }
                        self.drive(index);
                        continue;
                    }
                    evictable => evictable,
                },
            };
            let accepted = net::accept(fd, self.listen_options);
            if accepted.is_err() && has_place {
                self.limit.give_back();
            }
            match accepted {
                Ok((fd, peer)) => self.let_in(fd, peer, forward, has_place, evictable),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if net::is_shortage(&error) => {
                    transom_wire::own_log::error!(error = %Words(&error), "cannot accept connections: raise `ulimit -n`, or lower --connections");
                    self.accept_again_ms = self.now_ms + ACCEPT_AGAIN_MS;
                    self.pause_accepting();
                    return;
                }
                Err(_) => {} // that connection failed before it was accepted; the next one may not
            }
        }
    }

    /// Takes a connection that was accepted, or turns it away. It has the place that was taken for it, or
    /// that of somebody who can be missed.
    fn let_in(
        &mut self,
        fd: RawFd,
        peer: Option<SocketAddr>,
        forward: u16,
        has_place: bool,
        evictable: Option<u32>,
    ) {
        let proxying = &self.rules.proxying;
        let trusted = is_trusted(&proxying.trust, peer.map(|peer| peer.ip()));
        let required = proxying.required;
        if required && !trusted {
            self.stats.proxy_refused.bump();
            self.complaints.note(NOT_TRUSTED, peer, self.now_ms);
            self.turn_away(fd, has_place);
            return;
        }
        // A proxy's connections are others': they are counted by the address that its header names.
        let counted = match required {
            true => Ok(None),
            false => self.count_address(peer, trusted),
        };
        let Ok(counted) = counted else {
            self.turn_away(fd, has_place);
            return;
        };
        if let Some(evictable) = evictable {
            self.leaves_its_place = !has_place;
            self.close_for_newcomer(evictable);
        }
        let who = Newcomer {
            peer,
            trusted,
            counted,
        };
        self.admit(fd, who, forward);
    }

    /// Closes a connection that is not let in.
    fn turn_away(&self, fd: i32, has_place: bool) {
        net::close(fd);
        if has_place {
            self.limit.give_back();
        }
    }

    /// Nobody of this loop's can be closed for a new connection, if there is one. Others may have somebody.
    fn wait_for_place(&mut self, listener: RawFd, has_place: bool) {
        if has_place {
            self.limit.give_back();
        }
        if !net::is_readable(listener) {
            return; // there was one
        }
        if !has_place && self.loops > 1 {
            self.limit.ask();
            self.accept_again_ms = self.now_ms + PLACE_AGAIN_MS;
        }
        self.pause_accepting();
    }

    /// Another loop has a new connection and no place for it.
    fn make_place_for_others(&mut self) {
        if !self.limit.is_wanted() {
            return;
        }
        if !self.limit.is_full() {
            self.limit.answer(); // a place has become free since, and it will find that
        } else if let Some(index) = self.evictable() {
            if self.has_news(index) {
                self.drive(index);
                self.again = true;
            } else if self.limit.answer() {
                self.close_for_newcomer(index);
            }
        }
    }

    /// Whether one that may be closed for a newcomer has sent something, or has left, since the last events
    /// were taken: it is readable then.
    fn has_news(&mut self, index: u32) -> bool {
        let waits = self.table.stands_in(index, List::Idle);
        let connection = &mut self.table[index];
        connection.readable |= waits && net::is_readable(connection.fd);
        waits && connection.readable
    }

    /// Counts a connection of an address, unless it is that of a proxy which names its clients request by
    /// request: what it may have is for the proxy to say. An error if the address has as many as it may.
    fn count_address(
        &mut self,
        peer: Option<SocketAddr>,
        trusted: bool,
    ) -> Result<Option<Counted>, AddressIsFull> {
        let Some(table) = &self.addresses else {
            return Ok(None);
        };
        if trusted && self.rules.proxying.forwarded.is_some() {
            return Ok(None);
        }
        match table.enter(peer) {
            Admission::Admitted(counted) => Ok(counted),
            Admission::Refused => {
                self.stats.address_refused.bump();
                Err(AddressIsFull)
            }
        }
    }

    fn admit(&mut self, fd: i32, who: Newcomer, forward: u16) {
        let Newcomer {
            peer,
            trusted,
            counted,
        } = who;
        let Some(index) = self.table.insert(fd, peer, forward) else {
            self.turn_away(fd, true);
            self.forget_address(counted);
            return;
        };
        self.table[index].counted = counted;
        self.stats.accepted.bump();
        self.table[index].wants_proxy = self.rules.proxying.required;
        self.table[index].trusted = trusted;
        // Often the request is there already.
        self.table[index].readable = true;
        self.set_timer(index, List::Idle, self.rules.timeouts.idle);
        self.drive(index);
        self.watch_later(index);
    }

    /// Lets new connections wait in the kernel until one of ours has closed.
    fn pause_accepting(&mut self) {
        if std::mem::replace(&mut self.accepting, false) {
            for (listener, _) in &self.listeners {
                let _ = self.epoll.remove(listener.socket.as_raw_fd());
            }
        }
    }

    fn resume_accepting(&mut self) {
        self.accept_again_ms = 0;
        if self.order != Order::Serve || std::mem::replace(&mut self.accepting, true) {
            return;
        }
        for (n, (listener, _)) in (0..).zip(&self.listeners) {
            let token = Signal::Listener(n).token();
            let (fd, shared) = (listener.socket.as_raw_fd(), listener.shared);
            let _ = self.epoll.add_listener(fd, shared, token);
        }
    }

    /// Does what a connection's state and what the kernel has told allow.
    fn drive(&mut self, index: u32) {
        match self.table[index].state {
            State::Idle | State::Head => self.read_head(index),
            State::Body | State::BodyWanted => self.read_body(index),
            State::Lingering => self.read_and_discard(index),
            // The client has gone altogether; the handler goes on, its answer is dropped.
            State::Calling | State::Waiting if self.table[index].broken => self.close(index),
            State::Calling | State::Waiting | State::Writing | State::Free => {}
        }
    }

    /// Has a connection driven again before the loop sleeps.
    fn queue(&mut self, index: u32) {
        if !std::mem::replace(&mut self.table[index].queued, true) {
            self.ready.push_back(index);
        }
    }

    fn serve_ready(&mut self) {
        for _ in 0..self.ready.len() {
            let Some(index) = self.ready.pop_front() else {
                return;
            };
            self.table[index].queued = false;
            self.drive(index);
        }
    }

    /// Gives free slots to those who wait for one, in the order of their arrival.
    fn serve_waiting(&mut self) {
        for doorway in self.doorways.all() {
            self.serve_waiting_at(doorway);
        }
    }

    fn serve_waiting_at(&mut self, doorway: u16) {
        while self.doorways[doorway].free_slots() > 0 {
            let Some(index) = self.table.first(List::Waiting(doorway)) else {
                return;
            };
            if let Some(slot) = self.table[index].slot {
                self.resend(index, slot);
                continue;
            }
            self.granted = Some(index);
            if self.table[index].buffer.is_some() {
                self.table[index].state = State::Head;
                self.set_timer(index, List::Header, self.rules.timeouts.header);
            } else {
                self.table[index].state = State::Idle;
                self.set_timer(index, List::Idle, self.rules.timeouts.idle);
            }
            self.drive(index);
            self.granted = None;
        }
    }

    fn obey(&mut self) {
        let order = self.orders.get();
        if order > self.order {
            self.order = order;
            self.pause_accepting();
            self.listeners.clear();
            if order >= Order::Drain {
                self.close_what_is_not_a_request();
            }
        }
    }

    /// Closes what no request has begun on, or only half a head.
    fn close_what_is_not_a_request(&mut self) {
        self.serve_ready(); // those whose turn was next
        while let Some(index) = self.table.first(List::Idle) {
            // What has come since the last look is a request that arrived before the end.
            self.table[index].readable = true;
            self.drive(index);
            if self.table.stands_in(index, List::Idle) {
                self.close(index);
            }
        }
        while let Some(index) = self.table.first(List::Header) {
            self.cut_head(index);
        }
    }

    /// Closes a connection whose head will not be waited for.
    fn cut_head(&mut self, index: u32) {
        self.stats.cut.bump();
        self.stats.cut_heads.bump();
        match self.send_gathered(index, false) {
            // It is still to take the answers before it.
            Ok(false) => self.refuse(index, 503),
            _ => self.close(index),
        }
    }

    fn close_everything(&mut self) {
        let mut from = 0;
        while let Some(index) = self.table.next_open(from) {
            let of_its_kind = match self.table[index].state {
                State::Idle | State::Lingering | State::Free => None,
                State::Head if self.table[index].wanted == 0 => Some(&self.stats.cut_heads),
                State::Head | State::Body | State::BodyWanted => Some(&self.stats.cut_bodies),
                State::Waiting | State::Calling => Some(&self.stats.cut_calls),
                State::Writing => Some(&self.stats.cut_answers),
            };
            if let Some(count) = of_its_kind {
                self.stats.cut.bump();
                count.bump();
            }
            self.close(index);
            from = index + 1;
        }
    }

    /// Answers with one of our own replies, then closes or goes on as the status allows.
    fn answer(&mut self, index: u32, status: u16, note: Option<Note>) {
        let connection = &self.table[index];
        let keep_alive = self.may_keep_alive(connection) && refusals::may_keep_alive(status);
        let fate = Fate::after(keep_alive, connection.minor);
        let mut reply = [0; refusals::ANSWER_MAX];
        let len = refusals::render(
            &mut reply,
            status,
            note,
            connection.head_only,
            fate,
            &self.date,
        );
        self.stats.answered(status);
        if status >= 500 {
            self.note_time(index); // there was a whole request
        }
        // After the answers before it.
        let result = match self.send_gathered(index, true) {
            Ok(true) => net::send(self.table[index].fd, &reply[..len]),
            Ok(false) => Ok(0),
            Err(error) => Err(error),
        };
        let sent = match result {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => {
                self.note_answer(index, status, &reply[..len], 0);
                self.close(index);
                return;
            }
        };
        self.note_answer(index, status, &reply[..len], sent);
        self.table[index].handed += sent as u64;
        if sent < len {
            // Its client has not even taken what it was sent before: it is not read from until it has.
            if !keep_alive {
                self.let_go_of_buffer(index);
            }
            self.put_aside(
                index,
                OwnAnswer {
                    status,
                    note,
                    fate,
                    keep_alive,
                    seconds: self.date.unix_seconds(),
                    sent: sent as u16,
                },
            );
        } else if keep_alive {
            self.next_request(index);
        } else {
            self.close_politely(index);
        }
    }

    /// Whether the connection may stay open after the present request.
    fn may_keep_alive(&self, connection: &Connection) -> bool {
        self.would_keep_alive(connection) && connection.body.is_empty()
    }

    /// The same, if the rest of the request's body is read before its answer ends.
    fn would_keep_alive(&self, connection: &Connection) -> bool {
        connection.keep_alive
            && self.order == Order::Serve
            && connection.requests + 1 < self.rules.requests_per_connection
    }

    /// The present request has been answered and the next one may come.
    fn next_request(&mut self, index: u32) {
        let connection = &mut self.table[index];
        connection.requests += 1;
        connection.next_request();
        if connection.buffer.is_some() {
            connection.state = State::Head;
            connection.unparsed = true;
            connection.arrived_ns = self.now_ns;
            // In no list until it has been looked at, which is before the loop sleeps: it may be a whole
            // request.
            self.table.unlink(index);
            self.note_arrival(index);
            self.queue(index);
            return;
        }
        connection.state = State::Idle;
        let readable = connection.readable;
        if self.order >= Order::Drain {
            // What was promised to stay open was promised before the drain began.
            self.close_politely(index);
            return;
        }
        self.set_timer(index, List::Idle, self.rules.timeouts.idle);
        self.resume_accepting(); // somebody may wait for whom this one can make room
        if readable {
            self.queue(index);
        }
    }

    /// Closes such that the client can still read what it was sent: a close with unread bytes resets the
    /// connection, and a reset may overtake the answer.
    fn close_politely(&mut self, index: u32) {
        self.let_go_of_slot(index);
        self.let_go_of_buffer(index);
        let connection = &mut self.table[index];
        if connection.half_closed && !connection.readable {
            self.close(index);
            return;
        }
        net::shutdown_write(connection.fd);
        connection.state = State::Lingering;
        connection.readable = true;
        connection.linger_until_ms = self.now_ms + LINGER_MS;
        connection
            .body_pace
            .begin(self.rules.linger_pace_limit, self.now_ns);
        self.wait_for_end(index);
        self.queue(index);
        self.keep_connections_for_others();
    }

    fn read_and_discard(&mut self, index: u32) {
        for _ in 0..DISCARDS_AT_A_TIME {
            let connection = &mut self.table[index];
            match net::receive(connection.fd, self.read_scratch) {
                Ok(0) => return self.close(index),
                Ok(len) => {
                    let (now, limit) = (self.now_ns, self.rules.linger_pace_limit);
                    connection.body_pace.earn(limit, len as u64, now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.close(index),
            }
        }
        self.queue(index); // there may be more, and no event will tell
    }

    fn close(&mut self, index: u32) {
        self.note_close(index);
        self.let_go_of_gathered(index);
        self.let_go_of_slot(index);
        self.let_go_of_buffer(index);
        net::close(self.table[index].fd);
        let counted = self.table[index].counted.take();
        self.table.remove(index);
        self.forget_address(counted);
        if !std::mem::take(&mut self.leaves_its_place) {
            self.limit.give_back();
        }
        self.resume_accepting();
        // It may have been the last one, or have had the slot that others wait for.
        let mut doorways = self.doorways.all();
        let is_waited_for = self.order != Order::Serve
            || doorways.any(|doorway| self.table.first(List::Waiting(doorway)).is_some());
        self.again |= is_waited_for;
    }

    fn forget_address(&self, counted: Option<Counted>) {
        if let (Some(table), Some(counted)) = (&self.addresses, counted) {
            table.leave(counted);
        }
    }

    /// Gives the slot back, or, if a handler has it, leaves it to be freed when that ends.
    fn let_go_of_slot(&mut self, index: u32) {
        let connection = &mut self.table[index];
        let Some(slot) = connection.slot.take() else {
            return;
        };
        let submitted = match connection.state {
            State::Calling | State::BodyWanted => true,
            State::Writing => !connection.last,
            _ => false,
        };
        let at = connection.at;
        if submitted {
            self.count_early(index);
        }
        let client = self.doorways[at].client_mut();
        if submitted {
            client.abandon(slot);
        } else {
            client.release(slot);
        }
    }

    fn let_go_of_buffer(&mut self, index: u32) {
        let connection = &mut self.table[index];
        connection.buffered = 0;
        connection.used = 0;
        connection.unparsed = false;
        if let Some(buffer) = connection.buffer.take() {
            self.pool.give_back(buffer);
        }
    }

    fn set_timer(&mut self, index: u32, list: List, after_ms: u64) {
        // One more than asked for, because the clock is cut to milliseconds.
        self.table
            .set_timer(index, list, self.now_ms + after_ms + 1);
    }
}

/// Room for so many, every page of which was written to: a queue that goes round would meet a new one now and
/// then for as long as its memory lasts.
fn touched<T>(capacity: usize) -> Vec<T> {
    let mut room = Vec::with_capacity(capacity);
    // Unless it were hidden, the compiler could ask for zeroes instead, which the system gives without a
    // write.
    std::hint::black_box(&mut room)
        .spare_capacity_mut()
        .fill_with(MaybeUninit::zeroed);
    room
}

fn pace_limit(stall: Duration, rate: u64) -> PaceLimit {
    PaceLimit {
        stall_ns: u64::try_from(stall.as_nanos()).unwrap_or(u64::MAX),
        rate,
    }
}

#[cfg(test)]
mod tests;
