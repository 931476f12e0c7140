//! The stage: everything that a loop can see of the world, on its own thread. Between two sleeps of the loop
//! no time passes; while it sleeps, what was planned happens.

use super::caller::SimCaller;
use super::clients::Client;
use super::clock::{Event, MS, SECOND, US};
use super::process::{Ground, Process};
use super::sockets::FIRST_FD;
use crate::limit::ConnectionLimit;
use crate::opener::Mailbox;
use crate::orders::{Order, Orders};
use crate::rules::Rules;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;
use transom_doors::ChannelGeometry;
use transom_net::addresses::Addresses;

/// What a loop may ask for between two sleeps.
const QUESTIONS_MAX: u32 = 1_000_000;

/// An instance of a door that is to come.
#[derive(Debug, Clone)]
pub(super) struct Planned {
    pub geometry: ChannelGeometry,
    pub threads: usize,
    pub is_local: bool,
    /// When, after it was opened, it is revoked, or dies.
    pub revoked_after: Option<u64>,
    pub dies_after: Option<u64>,
    /// Once revoked, it finishes the calls that it has begun.
    pub ends_well: bool,
    pub bodies_first: bool,
}

/// A door of other processes, as its opener sees it.
pub(super) struct Gate {
    pub mailbox: Mailbox<SimCaller>,
    pub planned: VecDeque<Planned>,
    pub is_opening: bool,
    pub opens_after: u64,
}

/// What is measured of the loop itself.
#[derive(Default)]
pub(super) struct Watch {
    /// Turns since something happened, and when that was.
    turns: u64,
    since_ns: u64,
    pub turns_in_all: u64,
    pub drained_ns: Option<u64>,
    pub stopped_ns: Option<u64>,
    drains: bool,
    turns_stopped: u32,
    /// What the loop has asked for since it slept.
    questions: u32,
    /// Places that another loop has.
    pub neighbours: u32,
}

/// Time limits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Until all clients have what they want.
    pub run_ns: u64,
    /// A client that has not got it by then is a failure.
    pub is_strict: bool,
    /// Until a loop that drains ends by itself, which it must if it is strict.
    pub drain_ns: u64,
}

pub(super) struct Stage {
    pub ground: Ground,
    pub processes: Vec<Process>,
    pub clients: Vec<Client>,
    /// By doorway; none for a door of this process.
    pub gates: Vec<Option<Gate>>,
    pub bell: RawFd,
    pub orders: Arc<Orders>,
    /// The rules that the loop is given later.
    pub rules: Option<Rules>,
    pub limit: Arc<ConnectionLimit>,
    pub addresses: Option<Arc<Addresses>>,
    pub watch: Watch,
    pub patience: Patience,
    /// Between one in so many questions to the system something happens.
    pub interruptions: u32,
    /// What was wrong when something was dropped.
    pub complaints: Vec<String>,
}

thread_local! {
    static STAGE: RefCell<Option<Stage>> = const { RefCell::new(None) };
}

/// Sets the stage for the loops of this thread; gives what was there before.
pub(super) fn set(stage: Option<Stage>) -> Option<Stage> {
    STAGE.with(|cell| cell.replace(stage))
}

pub(super) fn with<R>(f: impl FnOnce(&mut Stage) -> R) -> R {
    STAGE.with(|cell| {
        let mut stage = cell.borrow_mut();
        let stage = stage.as_mut().expect("a stage");
        stage.watch.questions += 1;
        assert!(
            stage.watch.questions < QUESTIONS_MAX,
            "the loop asks and asks, and does not sleep"
        );
        f(stage)
    })
}

/// As [`with`], if there is a stage.
pub(super) fn with_any<R>(f: impl FnOnce(&mut Stage) -> R) -> Option<R> {
    STAGE.with(|cell| cell.try_borrow_mut().ok()?.as_mut().map(f))
}

/// The loop asks the system for something: now and then something happens just before.
pub(super) fn system<R>(f: impl FnOnce(&mut Stage) -> R) -> R {
    with(|stage| {
        if stage.ground.clock.once_in(stage.interruptions) {
            stage.interrupt();
        }
        f(stage)
    })
}

impl Stage {
    /// Makes an instance of a door, and the loop's end of it.
    pub(super) fn start_process(&mut self, door: u16, planned: &Planned) -> SimCaller {
        let number = self.processes.len();
        let mut process = Process::new(number, planned.is_local, planned.geometry, planned.threads);
        process.bodies_first = planned.bodies_first;
        process.ends_well = planned.ends_well;
        let caller = SimCaller::new(&process);
        self.processes.push(process);
        let clock = &mut self.ground.clock;
        if let Some(after) = planned.revoked_after {
            clock.after(after, Event::Revoke(number));
        }
        if let Some(after) = planned.dies_after {
            clock.after(after, Event::Die(number));
        }
        clock.note(|| format!("process {number} serves door {door}: {planned:?}"));
        caller
    }

    /// Another program has the processor for a moment.
    fn interrupt(&mut self) {
        let clock = &mut self.ground.clock;
        let until = clock.now_ns + clock.rng.u64(0..100 * US);
        while let Some(event) = self.ground.clock.next(until) {
            self.happen(event);
            if self.ground.clock.once_in(4) {
                return;
            }
        }
    }

    pub(super) fn happen(&mut self, event: Event) {
        self.watch.turns = 0;
        self.watch.since_ns = self.ground.clock.now_ns;
        let ground = &mut self.ground;
        match event {
            Event::Client(n) => self.clients[n].act(ground),
            Event::Impatient(n) => self.clients[n].impatient(ground),
            Event::Reset(n) => self.clients[n].reset(ground),
            Event::Read(n) => self.clients[n].read(true, ground),
            Event::Carry(at) => {
                ground.kernel.carry(at, &mut ground.clock);
                // Sockets are made in the order in which clients connect.
                let who = self
                    .clients
                    .iter_mut()
                    .find(|client| client.socket == Some(at));
                who.expect("a client has this socket").read(false, ground);
            }
            Event::Push(at) => ground.kernel.push_late(at, &mut ground.clock),
            Event::Thread(process, thread, stamp) => {
                self.processes[process].on_thread(thread, stamp, ground);
            }
            Event::Meddle(process, slot, generation) => {
                self.processes[process].meddle(slot, generation);
            }
            Event::Revoke(n) => {
                ground.clock.note(|| format!("process {n} is revoked"));
                self.processes[n].revoke(ground);
            }
            Event::Die(n) => {
                ground.clock.note(|| format!("process {n} dies"));
                self.processes[n].die(ground);
            }
            Event::Open(door) => self.open(door),
            Event::Neighbour => self.be_neighbour(),
            Event::Rules => {
                let rules = self.rules.take();
                self.orders.change_rules(rules.expect("given once"));
            }
            Event::Order(order) => self.give(order),
            Event::AreDone => self.look_whether_done(),
        }
    }

    fn open(&mut self, door: usize) {
        let gate = self.gates[door].as_mut().expect("a door of others");
        gate.is_opening = false;
        let Some(planned) = gate.planned.pop_front() else {
            return; // it is away for good
        };
        let caller = self.start_process(door as u16, &planned);
        let gate = self.gates[door].as_ref().expect("a door of others");
        gate.mailbox.bring(caller);
        self.ground.kernel.ring(self.bell);
    }

    fn be_neighbour(&mut self) {
        let clock = &mut self.ground.clock;
        if self.watch.neighbours > 0 && clock.once_in(2) {
            self.watch.neighbours -= 1;
            self.limit.give_back();
        } else if self.limit.take() {
            self.watch.neighbours += 1;
        } else {
            // It has a newcomer, and no place for that.
            self.limit.ask();
            self.ground.kernel.ring(self.bell);
        }
        if self.watch.drained_ns.is_none() {
            let delay = self.ground.clock.rng.u64(0..2 * MS);
            self.ground.clock.after(delay, Event::Neighbour);
        }
    }

    fn give(&mut self, order: u32) {
        let now = self.ground.clock.now_ns;
        let is_told_twice = self.watch.drains && order == 3;
        assert!(
            !is_told_twice || !self.patience.is_strict,
            "the loop does not end its drain"
        );
        self.watch.drains |= order == 2;
        let order = match order {
            1 => Order::HandOver,
            2 => Order::Drain,
            _ => Order::Stop,
        };
        self.ground
            .clock
            .note(|| format!("the loop is told: {order:?}"));
        self.watch.drained_ns.get_or_insert(now);
        if order == Order::Stop {
            self.watch.stopped_ns.get_or_insert(now);
        }
        self.orders.give(order);
        self.ground.kernel.ring(self.bell);
        let left = self.patience.drain_ns;
        match order {
            Order::HandOver => self.ground.clock.after(left, Event::Order(2)),
            Order::Drain => self.ground.clock.after(left, Event::Order(3)),
            _ => {}
        }
    }

    fn look_whether_done(&mut self) {
        if self.watch.drained_ns.is_some() {
            return;
        }
        let mut good = self.clients.iter().filter(|client| client.manner.is_good());
        let waits = good.find(|client| !client.is_done());
        let all_are = self.clients.iter().all(Client::is_done);
        let is_late = self.ground.clock.elapsed_ns() > self.patience.run_ns;
        if let (Some(client), true, true) = (waits, is_late, self.patience.is_strict) {
            let has = client.answers.all.len();
            panic!(
                "client {} still waits for its answer to request {:?}",
                client.number,
                client.requests.get(has)
            );
        }
        let clock = &mut self.ground.clock;
        if is_late || all_are || (waits.is_none() && clock.once_in(4)) {
            let order = clock.rng.u32(1..=2);
            self.give(order);
        } else if waits.is_none() {
            // It is unknown when the other clients will be done.
            let delay = clock.rng.u64(0..20 * SECOND);
            clock.after(delay, Event::AreDone);
        } else {
            clock.after(5 * MS, Event::AreDone);
        }
    }

    /// Asks openers to do what their mailboxes ask for.
    fn look_at_mail(&mut self) {
        for (door, gate) in self.gates.iter_mut().enumerate() {
            let Some(gate) = gate else { continue };
            if gate.mailbox.is_asked() && !gate.is_opening && !gate.planned.is_empty() {
                gate.is_opening = true;
                let delay = gate.opens_after;
                self.ground.clock.after(delay, Event::Open(door));
            }
        }
    }

    pub(super) fn mailboxes(&self) -> Vec<Mailbox<SimCaller>> {
        let gates = self.gates.iter().flatten();
        gates.map(|gate| gate.mailbox.clone()).collect()
    }

    /// The client of a socket that was closed with a reset learns it.
    pub(super) fn tell_of_close(&mut self, fd: RawFd) {
        let at = (fd - FIRST_FD) as usize;
        let clock = &mut self.ground.clock;
        if self.ground.kernel.sockets[at].far.reset {
            let delay = clock.rng.u64(0..100 * US);
            clock.after(delay, Event::Carry(at));
        }
    }

    /// Counts turns of the loop in which nothing happens.
    fn count_turn(&mut self) {
        let now = self.ground.clock.now_ns;
        self.watch.turns += 1;
        self.watch.turns_in_all += 1;
        let quiet_ms = (now - self.watch.since_ns) / MS;
        assert!(
            self.watch.turns < 300 + quiet_ms,
            "the loop turns and turns: {} times in {quiet_ms} ms",
            self.watch.turns
        );
        if self.watch.stopped_ns.is_some() {
            self.watch.turns_stopped += 1;
            assert!(self.watch.turns_stopped < 3, "the loop does not stop");
        }
        assert!(
            self.ground.clock.elapsed_ns() < 20_000 * SECOND,
            "the loop does not end"
        );
    }

    /// The loop sleeps.
    pub(super) fn wait(
        &mut self,
        events: &mut [libc::epoll_event],
        timeout: Option<Duration>,
    ) -> usize {
        self.count_turn();
        self.watch.questions = 0;
        let forgotten = self
            .processes
            .iter()
            .find(|process| process.has_forgotten_calls());
        if let Some(process) = forgotten {
            panic!(
                "process {} has gone, and its calls are not taken back",
                process.number
            );
        }
        self.look_at_mail();
        let clock = &mut self.ground.clock;
        // The loop's work has taken time.
        clock.now_ns += clock.rng.u64(0..4 * US);
        let start = clock.now_ns;
        let interrupted = clock.once_in(300);
        let until = timeout.map(|timeout| start + timeout.as_nanos() as u64);
        loop {
            while let Some(event) = self.ground.clock.next(self.ground.clock.now_ns) {
                self.happen(event);
            }
            let Ground { kernel, clock, .. } = &mut self.ground;
            let count = kernel.news(events, clock);
            if count > 0 {
                self.watch.turns = 0;
                return count;
            }
            if interrupted {
                return 0;
            }
            match (clock.next_due(), until) {
                (None, None) => panic!("the loop sleeps for ever, and nothing will wake it"),
                (Some(due), Some(until)) if due > until => return self.oversleep(until),
                (None, Some(until)) => return self.oversleep(until),
                (Some(due), _) => {
                    if let Some(event) = clock.next(due) {
                        self.happen(event);
                    }
                }
            }
        }
    }

    /// A timeout is never shorter than asked for, and often longer.
    fn oversleep(&mut self, until_ns: u64) -> usize {
        let clock = &mut self.ground.clock;
        let more = clock.rng.u64(0..60 * US);
        clock.now_ns = clock.now_ns.max(until_ns + more);
        0
    }
}

/// The number of a socket as the loop sees it.
pub(super) fn number_of(at: usize) -> RawFd {
    FIRST_FD + at as RawFd
}
