//! A loop, and one turn of it: what it looks at, in which order, and how long it sleeps.

use crate::access_table::Access;
use crate::complaints::Complaints;
use crate::connection::InstanceId;
use crate::doorway::{Doorway, Doorways};
use crate::exchange::State;
use crate::limit::ConnectionLimit;
use crate::options::{Allowance, READ_SIZE, Sizes};
use crate::orders::{Order, Orders};
use crate::parts::{Forward, Listener, Parts};
use crate::places::Places;
use crate::pool::BufferPool;
use crate::routes::RouteTable;
use crate::rules::Limits;
use crate::signal::{NOT_A_CONNECTION, Signal, halves};
use crate::stats::LoopStats;
use crate::table::{List, Table};
use crate::world::{Caller, Events, Linux, World};
use std::collections::VecDeque;
use std::hash::RandomState;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;
use transom_doors::{Bell, Completion, Patience, SlotId};
use transom_http::{DateCache, HeadLimits};
use transom_net::ListenOptions;
use transom_net::addresses::Addresses;

/// Events taken from the kernel at a time.
const EVENTS: usize = 256;

/// What a loop's queues have for each connection: it may stand in one as ready, in the other as holding
/// something.
pub const QUEUE_ENTRY_SIZE: usize = size_of::<u32>() + size_of::<(u32, u64)>();

/// How long a loop first sleeps while calls are unclaimed or just begun: the time after which another thread
/// is woken for a call that is stuck behind one that takes long. A wake costs 5 to 10 µs, so less would wake
/// threads for nothing.
const PATIENCE: Duration = Duration::from_micros(60);

/// Sleeps that double from [`PATIENCE`] before the loop leaves it to the doorbell alone.
const PATIENCE_STEPS: u32 = 6;

/// The most connections that are not watched.
pub(crate) const UNWATCHED_MAX: usize = 256;

/// Listeners, each with the number of its forward.
pub(crate) type Numbered = Vec<(Listener, u16)>;

/// One loop.
pub struct Loop<W: World = Linux> {
    pub(crate) epoll: W::Events,
    pub(crate) bell: Bell,
    pub(crate) listeners: Numbered,
    /// What accepted connections are like, where they do not inherit it.
    pub(crate) listen_options: ListenOptions,
    /// By forward: where its requests go.
    pub(crate) forwards: Vec<Arc<RouteTable>>,
    pub(crate) accepting: bool,
    pub(crate) addresses: Option<Arc<Addresses>>,
    pub(crate) limit: Arc<ConnectionLimit>,
    /// The connection that is closed now leaves its place to a new one.
    pub(crate) leaves_its_place: bool,
    pub(crate) table: Table,
    pub(crate) pool: BufferPool,
    pub(crate) read_scratch: &'static mut [u8],
    pub(crate) write_scratch: &'static mut [u8],
    pub(crate) doorways: Doorways<W::Caller>,
    pub(crate) completions: Vec<(SlotId, Completion)>,
    /// Connections with something to do that no event will tell of.
    pub(crate) ready: VecDeque<u32>,
    /// Connections whose last answer may not have been sent, and since when. (An entry of the table stands
    /// here once, and stays when its connection is closed.)
    pub(crate) held: VecDeque<(u32, u64)>,
    /// Connections that may not be watched yet, in the order in which they came. (One may stand here that has
    /// been closed, or twice, if another has taken its entry since.)
    pub(crate) unwatched: Vec<u32>,
    /// For answers that wait for the next one.
    pub(crate) places: Places,
    pub(crate) limits: HeadLimits,
    /// What may change while it serves.
    pub(crate) rules: Limits,
    pub(crate) complaints: Complaints,
    /// Connections that this loop may have.
    pub(crate) connections: u32,
    /// Loops that share what is behind the doors.
    pub(crate) loops: u32,
    pub(crate) date: DateCache,
    /// For hashes that nobody else can foresee.
    pub(crate) keys: RandomState,
    pub(crate) now_ns: u64,
    pub(crate) now_ms: u64,
    pub(crate) orders: Arc<Orders>,
    pub(crate) order: Order,
    /// How often there were new rules when it last looked.
    pub(crate) edition: u32,
    pub(crate) stats: Arc<LoopStats>,
    /// Of requests, if they are logged.
    pub(crate) access: Option<Access>,
    /// Sleeps in a row that brought nothing.
    pub(crate) quiet: u32,
    /// The connection whose turn it is to have a slot, though others wait.
    pub(crate) granted: Option<u32>,
    /// Something was done that lets waiting requests go on, so look before sleeping.
    pub(crate) again: bool,
    /// The loop's doorbell has rung: the opener may have brought something.
    pub(crate) mail: bool,
    /// When to try again to accept, after the system had no room for another connection; 0: not waiting for
    /// that.
    pub(crate) accept_again_ms: u64,
}

impl<W: World> Loop<W> {
    /// A loop of these parts.
    ///
    /// # Errors
    /// There are no descriptors left for what it waits for.
    pub fn new(sizes: Sizes, allowance: &Allowance, parts: Parts<W::Caller>) -> io::Result<Self> {
        let epoll = W::Events::new()?;
        epoll.add_bell(parts.bell.as_raw_fd(), Signal::Bell.token())?;
        let (listeners, forwards) = watched::<W>(&epoll, parts.forwards)?;
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
            date: DateCache::new(W::unix_seconds()),
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
    pub(crate) fn sleep(&mut self, events: &mut [libc::epoll_event]) -> usize {
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

    /// Counts the present request's time, from its arrival to the last byte of its answer, by the loop's
    /// clock.
    pub(crate) fn note_time(&self, index: u32) {
        let took_ns = self
            .now_ns
            .saturating_sub(self.table[index].exchange.arrived_ns);
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
        self.now_ns = W::now_ns();
        self.now_ms = self.now_ns / 1_000_000;
        self.date.update(W::unix_seconds());
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
        if !connection.transport.note_events(events) {
            self.close(index); // reset: nobody is there to be answered
            return;
        }
        let is_writing = matches!(connection.exchange.state, State::Writing(_));
        let stuck = connection.outbox.gathered.is_some() && connection.outbox.held_since_ns == 0;
        if stuck && !is_writing && self.send_gathered(index, false).is_err() {
            self.close(index);
            return;
        }
        if is_writing {
            self.go_on_writing(index);
        } else if events & !libc::EPOLLOUT != 0 {
            self.drive(index);
        }
    }

    /// Does what a connection's state and what the kernel has told allow.
    pub(crate) fn drive(&mut self, index: u32) {
        let connection = &self.table[index];
        match connection.exchange.state {
            State::Idle | State::Head => self.read_head(index),
            State::Filling { slot } | State::BodyWanted { slot } => self.read_body(index, slot),
            State::Lingering { .. } => self.read_and_discard(index),
            // The client has gone altogether; the handler goes on, its answer is dropped.
            State::Calling { .. } | State::Waiting { .. } if connection.transport.broken => {
                self.close(index);
            }
            State::Calling { .. } | State::Waiting { .. } | State::Writing(_) | State::Closed => {}
        }
    }

    /// Has a connection driven again before the loop sleeps.
    pub(crate) fn queue(&mut self, index: u32) {
        if !std::mem::replace(&mut self.table[index].queued, true) {
            self.ready.push_back(index);
        }
    }

    pub(crate) fn serve_ready(&mut self) {
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
            if let Some(slot) = self.table[index].exchange.slot() {
                self.resend(index, slot);
                continue;
            }
            self.granted = Some(index);
            if self.table[index].inbox.buffer.is_some() {
                self.table[index].exchange.state = State::Head;
                self.set_timer(index, List::Header, self.rules.timeouts.header);
            } else {
                self.table[index].exchange.state = State::Idle;
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

    /// Takes up new rules, if there are any. It allocates nothing.
    fn follow_rules(&mut self) {
        let Some(rules) = self.orders.rules.newer_than(&mut self.edition) else {
            return;
        };
        for (mine, new) in self.forwards.iter_mut().zip(&rules.routes) {
            mine.clone_from(new);
        }
        let limits = &rules.limits;
        if let (Some(addresses), Some(most)) = (&self.addresses, limits.connections_per_address) {
            addresses.set_most(most);
        }
        self.rules.clone_from(limits);
    }
}

/// The listeners of forwards, each with the number of its forward, and where the requests of each forward go.
/// The listeners are watched.
fn watched<W: World>(
    epoll: &W::Events,
    all: Vec<Forward>,
) -> io::Result<(Numbered, Vec<Arc<RouteTable>>)> {
    let mut listeners = Vec::new();
    let mut forwards = Vec::new();
    for (number, forward) in (0..).zip(all) {
        let numbered = |listener| (listener, number);
        listeners.extend(forward.listeners.into_iter().map(numbered));
        forwards.push(forward.routes);
    }
    for (n, (listener, _)) in (0..).zip(&listeners) {
        let token = Signal::Listener(n).token();
        epoll.add_listener(listener.socket.as_raw_fd(), listener.shared, token)?;
    }
    Ok((listeners, forwards))
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
