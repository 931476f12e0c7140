//! A loop, and one turn of it: what it looks at, in which order, and how long it sleeps.

use crate::acceptor::{Acceptor, Numbered};
use crate::access_table::Access;
use crate::agenda::Agenda;
use crate::complaints::Complaints;
use crate::doorway::Doorways;
use crate::entrance::{InstanceId, Keeper, PATIENCE};
use crate::exchange::State;
use crate::lists::List;
use crate::memory::Memory;
use crate::options::{Allowance, Sizes};
use crate::orders::Order;
use crate::parts::{Forward, Parts};
use crate::policy::Policy;
use crate::routes::RouteTable;
use crate::signal::{NOT_A_CONNECTION, Signal, halves};
use crate::stats::LoopStats;
use crate::table::Table;
use crate::world::{Caller, Events, Linux, World};
use std::hash::RandomState;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;
use transom_doors::{Bell, Patience};
use transom_http::DateCache;

/// Events taken from the kernel at a time.
const EVENTS: usize = 256;

/// How often a door is told of calls that no thread takes, in the end. It is often, because calls may come as
/// fast as others are taken: then nothing shows that a thread is missing.
const STUCK_RAREST: Duration = Duration::from_millis(4);

/// Sleeps that double from [`PATIENCE`] before the loop leaves it to the doorbell alone.
const PATIENCE_STEPS: u32 = 6;

/// One loop.
pub struct Loop<W: World = Linux> {
    pub(crate) epoll: W::Events,
    pub(crate) bell: Bell,
    pub(crate) acceptor: Acceptor,
    pub(crate) table: Table,
    pub(crate) doorways: Doorways<W::Caller>,
    pub(crate) memory: Memory,
    pub(crate) agenda: Agenda,
    pub(crate) policy: Policy,
    pub(crate) clock: Clock,
    pub(crate) stats: Arc<LoopStats>,
    /// Of requests, if they are logged.
    pub(crate) access: Option<Access>,
    pub(crate) complaints: Complaints,
    /// For hashes that no application can foresee.
    pub(crate) keys: RandomState,
}

/// A loop's clock. It stands still during a turn.
pub(crate) struct Clock {
    pub now_ns: u64,
    pub now_ms: u64,
    pub date: DateCache,
}

impl Clock {
    fn now<W: World>() -> Self {
        let mut this = Clock {
            now_ns: 0,
            now_ms: 0,
            date: DateCache::new(W::unix_seconds()),
        };
        this.update::<W>();
        this
    }

    fn update<W: World>(&mut self) {
        self.now_ns = W::now_ns();
        self.now_ms = self.now_ns / 1_000_000;
        self.date.update(W::unix_seconds());
    }
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
        let doorways = Doorways::new(parts.doorways, W::now_ns());
        let of_instance = |at: InstanceId| doorways[at].calls.owners.len();
        let slots = doorways.instances().map(of_instance).max().unwrap_or(0);
        let this = Loop {
            epoll,
            bell: parts.bell,
            acceptor: Acceptor::new(listeners, sizes.sockets, parts.addresses, parts.limit),
            table: Table::new(parts.connections, sizes.connections, doorways.list.len()),
            doorways,
            memory: Memory::new(&sizes, parts.buffers, parts.scratch, slots),
            agenda: Agenda::new(sizes.connections),
            policy: Policy::new(&sizes, allowance, forwards, parts.orders),
            clock: Clock::now::<W>(),
            stats: parts.stats,
            access: None,
            complaints: Complaints::default(),
            keys: RandomState::new(),
        };
        for at in this.doorways.instances() {
            if let Some(client) = &this.doorways[at].client {
                this.watch(at, client)?;
            }
        }
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
            if self.acceptor.again_ms != 0 && self.acceptor.again_ms <= self.clock.now_ms {
                self.resume_accepting();
            }
            self.make_place_for_others();
            self.serve_waiting();
            self.serve_ready();
            // Only now: a timer may have closed the last connection, and then no event is left to come.
            let draining = matches!(self.policy.order, Order::HandOver | Order::Drain);
            if self.policy.order == Order::Stop || (draining && self.table.open() == 0) {
                break;
            }
            self.push_held();
            if self.flush() {
                self.clock.update::<W>();
                if self.collect_completions() {
                    self.agenda.quiet = 0;
                    self.serve_waiting();
                    self.serve_ready();
                    self.flush();
                }
            }
            if self.policy.order == Order::Stop {
                continue;
            }
            let is_told = std::mem::take(&mut self.agenda.mail);
            self.tend(is_told);
            self.relieve_doorways();
            let (outstanding, stuck_due_ns) = self.survey();
            self.watch_newcomers();
            let count = self.sleep(&mut events, outstanding, stuck_due_ns);
            self.clock.update::<W>();
            self.on_events(&events[..count]);
            let progress = self.collect_completions();
            self.agenda.quiet = if progress || count > 0 {
                0
            } else {
                self.agenda.quiet.saturating_add(1)
            };
        }
        self.close_everything();
    }

    /// Looks at every door once, before the loop sleeps: shows what there is, and wakes another thread when
    /// calls have been unclaimed for a while and none has come back, because those that were expected to take
    /// them are in handlers that block. Gives whether calls are with a door, and when to look again at those
    /// that no thread takes.
    fn survey(&mut self) -> (bool, Option<u64>) {
        let now_ns = self.clock.now_ns;
        let mut stuck_due_ns: Option<u64> = None;
        let (mut outstanding, mut slots, mut busy, mut lost, mut waiting) = (false, 0, 0, 0, 0);
        for (doorway, entrance) in (0..).zip(&mut self.doorways.list) {
            waiting += self.table.len(List::Waiting(doorway));
            for client in entrance.clients() {
                outstanding |= client.outstanding() > 0;
                let all = client.usable_slots();
                slots += all;
                busy += all - client.free_slots();
                lost += client.lost_slots();
            }
            let (is_helped, due_ns) = entrance.help_stuck(STUCK_RAREST, now_ns);
            if is_helped {
                // Another thread takes up the next call; see soon whether it needs company.
                self.agenda.quiet = self.agenda.quiet.min(1);
            }
            stuck_due_ns = stuck_due_ns.into_iter().chain(due_ns).min();
        }
        self.stats.connections.set(u64::from(self.table.open()));
        self.stats.slots.set(slots as u64);
        self.stats.slots_busy.set(busy as u64);
        self.stats.slots_lost.set(u64::from(lost));
        self.stats.waiting.set(u64::from(waiting));
        (outstanding, stuck_due_ns)
    }

    /// Waits for events: not at all, for some microseconds, or until the next timer, as the state of the
    /// calls asks; `outstanding`: some are with a door; `stuck_due_ns`: when to look again at those that no
    /// thread takes.
    fn sleep(
        &mut self,
        events: &mut [libc::epoll_event],
        outstanding: bool,
        stuck_due_ns: Option<u64>,
    ) -> usize {
        let timer_ms = self.table.next_due_ms();
        self.agenda.timer_ms = timer_ms.unwrap_or(u64::MAX);
        if std::mem::take(&mut self.agenda.again) || !self.agenda.ready.is_empty() {
            return self.epoll.wait(events, Some(Duration::ZERO));
        }
        let again = Some(self.acceptor.again_ms).filter(|&due| due != 0);
        // Rounded up, else the loop would turn idly until then.
        let in_ms = |due_ns: u64| due_ns.div_ceil(1_000_000);
        let held = self.held_due_ns().map(in_ms);
        let unwatched = self.unwatched_due_ns().map(in_ms);
        let until_timer = [timer_ms, again, held, unwatched]
            .into_iter()
            .flatten()
            .chain(self.doorways.due_ms())
            .min()
            .map(|due| Duration::from_millis(due.saturating_sub(self.clock.now_ms)));
        let until_stuck = stuck_due_ns.map(|due| due.saturating_sub(self.clock.now_ns));
        let until_timer = until_timer
            .into_iter()
            .chain(until_stuck.map(Duration::from_nanos))
            .min();
        let lazy = outstanding && self.agenda.quiet < PATIENCE_STEPS;
        let (patience, timeout) = if lazy {
            let step = PATIENCE * (1 << self.agenda.quiet);
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

    /// Counts the present request's time, from its arrival to the last byte of its answer, by the loop's
    /// clock.
    pub(crate) fn note_time(&self, index: u32) {
        let took_ns = self
            .clock
            .now_ns
            .saturating_sub(self.table[index].exchange.arrived_ns);
        self.stats.request_time.observe_alone(took_ns);
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
                Signal::Bell => self.agenda.mail = true,
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
            self.close(index); // reset: there is no client to answer
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
            self.agenda.ready.push_back(index);
        }
    }

    pub(crate) fn serve_ready(&mut self) {
        for _ in 0..self.agenda.ready.len() {
            let Some(index) = self.agenda.ready.pop_front() else {
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
        while let Some(index) = self.table.first(List::Waiting(doorway)) {
            if self.doorways[doorway].free_slots() == 0 {
                return;
            }
            if let Some(slot) = self.table[index].exchange.slot() {
                self.resend(index, slot);
                continue;
            }
            self.agenda.granted = Some(index);
            if self.table[index].inbox.buffer.is_some() {
                self.table[index].exchange.state = State::Head;
                self.set_timer(index, List::Header, self.policy.limits.timeouts.header);
            } else {
                self.table[index].exchange.state = State::Idle;
                self.set_timer(index, List::Idle, self.policy.limits.timeouts.idle);
            }
            self.drive(index);
            self.agenda.granted = None;
        }
    }

    /// Takes up new orders, if there are any.
    fn obey(&mut self) {
        let order = self.policy.orders.get();
        if order > self.policy.order {
            self.policy.order = order;
            self.pause_accepting();
            self.acceptor.listeners.clear();
            if order >= Order::Drain {
                self.close_what_is_not_a_request();
            }
        }
    }

    /// Takes up new rules, if there are any. It allocates nothing.
    fn follow_rules(&mut self) {
        let Some(rules) = self
            .policy
            .orders
            .rules
            .newer_than(&mut self.policy.edition)
        else {
            return;
        };
        for (mine, new) in self.policy.forwards.iter_mut().zip(&rules.routes) {
            mine.clone_from(new);
        }
        let limits = &rules.limits;
        if let (Some(addresses), Some(most)) =
            (&self.acceptor.addresses, limits.connections_per_address)
        {
            addresses.set_most(most);
        }
        self.policy.limits.clone_from(limits);
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
