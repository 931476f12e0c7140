//! A process that serves a door: its threads, the words that it shares with its caller, and its end. What a
//! thread may do when is as `doors/src/pool` has it.

use super::clock::{Event, MS, US, VirtualClock};
use super::handler::{Act, Job};
use super::kernel::Kernel;
use super::requests::{End, Entry};
use super::slots::{Phase, Slot, SlotMemory, Slots};
use std::os::fd::RawFd;
use std::rc::Rc;
use transom_doors::{ChannelGeometry, Patience, PeerState};

/// Bells of processes are numbered from here on.
const FIRST_BELL: RawFd = 500_000;

/// Replies that a thread keeps back at most, and after how many a lazy caller is told.
const KEPT_MAX: u32 = 4;

/// The state that all parts of the simulation share.
pub(super) struct Ground {
    pub clock: VirtualClock,
    pub kernel: Kernel,
    /// All requests, by their number.
    pub book: Vec<Entry>,
}

/// If no thread takes a call up, its caller helps it well within this time.
const HELP_NS: u64 = 20 * MS;

/// Whose turn a slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Server,
    Caller,
    /// The caller has given the call up.
    Left,
}

/// The server's words about a slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct SimReply {
    pub claimed: u32,
    pub done: u32,
    pub is_lost: bool,
    pub status: u32,
    pub kind: u32,
    pub len: usize,
    pub turn: Turn,
    /// When the call was published.
    pub published_ns: u64,
    /// Bytes that the caller has put there.
    pub request_len: usize,
    /// Where the body begins. The bytes before it are the handler's as long as it runs.
    pub body_at: usize,
    /// Its fields have been copied, to be checked.
    pub is_checked: bool,
    thread: usize,
}

/// What both sides see.
#[derive(Default)]
pub(super) struct Shared {
    pub submitted: u64,
    pub complete: u64,
    pub late: u64,
    pub waiting: Option<Patience>,
    pub replies: Vec<SimReply>,
}

enum Doing {
    Idle,
    Woken,
    Running(Job),
    /// Until it has the turn again; whether it has asked for a part of the body.
    Waiting(Job, bool),
    Over,
}

struct Thread {
    state: Doing,
    stamp: u64,
    kept: u64,
    unreported: u32,
}

/// How a process stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    pub revoked: bool,
    pub dead: bool,
    /// As its caller last saw it.
    pub known: PeerState,
    /// Its caller has been dropped.
    pub is_left: bool,
}

pub(super) struct Process {
    pub number: usize,
    pub is_local: bool,
    pub geometry: ChannelGeometry,
    pub memory: Rc<SlotMemory>,
    pub slots: Slots,
    pub shared: Shared,
    pub standing: Standing,
    /// None of its handlers takes a body as it comes.
    pub bodies_first: bool,
    /// Once revoked, it finishes the calls that it has begun.
    pub ends_well: bool,
    threads: Vec<Thread>,
    threads_max: usize,
    keeper: Option<usize>,
    /// When all its threads were in handlers last.
    full_ns: u64,
}

impl Process {
    pub(super) fn new(
        number: usize,
        is_local: bool,
        geometry: ChannelGeometry,
        threads_max: usize,
    ) -> Self {
        let count = geometry.slots_in_all();
        let reply = SimReply {
            claimed: 0,
            done: 0,
            is_lost: false,
            status: 0,
            kind: 0,
            len: 0,
            turn: Turn::Server,
            published_ns: 0,
            request_len: 0,
            body_at: 0,
            is_checked: false,
            thread: 0,
        };
        Process {
            number,
            is_local,
            geometry,
            memory: Rc::new(SlotMemory::new(
                count,
                geometry.request_size,
                geometry.reply_size,
            )),
            slots: Slots::new(geometry.slots, geometry.spares),
            shared: Shared {
                replies: vec![reply; count as usize],
                ..Shared::default()
            },
            standing: Standing {
                revoked: false,
                dead: false,
                known: PeerState::Serving,
                is_left: false,
            },
            bodies_first: false,
            ends_well: false,
            threads: Vec::new(),
            threads_max,
            keeper: None,
            full_ns: 0,
        }
    }

    pub(super) fn bell(&self) -> RawFd {
        FIRST_BELL + 2 * self.number as RawFd
    }

    pub(super) fn peer_bell(&self) -> RawFd {
        self.bell() + 1
    }

    // How threads are woken.

    fn wake(&mut self, thread: usize, delay_ns: u64, clock: &mut VirtualClock) {
        self.threads[thread].stamp += 1;
        let stamp = self.threads[thread].stamp;
        clock.after(delay_ns, Event::Thread(self.number, thread, stamp));
    }

    /// Has one more thread on its way; false if there is none to be had.
    fn send_a_thread(&mut self, clock: &mut VirtualClock) -> bool {
        let is = |state: fn(&Doing) -> bool| move |thread: &Thread| state(&thread.state);
        let on_its_way = is(|state| matches!(state, Doing::Woken));
        if self.threads.iter().any(on_its_way) {
            return true;
        }
        let idle = self
            .threads
            .iter()
            .position(is(|state| matches!(state, Doing::Idle)));
        let alive = self
            .threads
            .iter()
            .filter(|t| !matches!(t.state, Doing::Over));
        let thread = match idle {
            Some(idle) => idle,
            None if alive.count() < self.threads_max => {
                self.threads.push(Thread {
                    state: Doing::Idle,
                    stamp: 0,
                    kept: 0,
                    unreported: 0,
                });
                self.threads.len() - 1
            }
            None => return false,
        };
        self.threads[thread].state = Doing::Woken;
        let delay = clock.rng.u64(0..30 * US);
        self.wake(thread, delay, clock);
        true
    }

    /// Calls have been published.
    pub(super) fn ring_for(&mut self, clock: &mut VirtualClock) {
        if !self.standing.dead {
            self.send_a_thread(clock);
        }
    }

    /// As the caller asks for it: whether a thread is on its way.
    pub(super) fn nudge(&mut self, clock: &mut VirtualClock) -> bool {
        !self.standing.dead && self.send_a_thread(clock)
    }

    /// The caller has given the turn back, or has left: the thread that waits for it goes on.
    pub(super) fn turn_is_back(&mut self, slot: usize, clock: &mut VirtualClock) {
        let thread = self.shared.replies[slot].thread;
        let waits =
            matches!(&self.threads[thread].state, Doing::Waiting(job, _) if job.slot == slot);
        if waits && !self.standing.dead {
            let delay = clock.rng.u64(0..40 * US);
            self.wake(thread, delay, clock);
        }
    }

    // What threads do.

    pub(super) fn on_thread(&mut self, thread: usize, stamp: u64, ground: &mut Ground) {
        if self.threads[thread].stamp != stamp || self.standing.dead {
            return;
        }
        match std::mem::replace(&mut self.threads[thread].state, Doing::Idle) {
            Doing::Idle | Doing::Woken => self.next_call(thread, ground),
            Doing::Running(mut job) => {
                let act = job.step(&self.memory, &mut ground.book);
                self.act(thread, job, act, ground);
            }
            Doing::Waiting(mut job, asked) => {
                let reply = &self.shared.replies[job.slot];
                if reply.turn == Turn::Left {
                    self.give_up(thread, &job, ground);
                    return;
                }
                let len = reply.request_len;
                job.resumed(&self.memory, &mut ground.book, asked, len);
                let gap = ground.book[job.id].request.app.gap_ns;
                self.threads[thread].state = Doing::Running(job);
                self.wake(thread, gap, &mut ground.clock);
            }
            Doing::Over => self.threads[thread].state = Doing::Over,
        }
    }

    /// A thread ends a call. If all of them were in handlers, they were so until now.
    fn note_end_of_call(&mut self, ground: &Ground) {
        let works =
            |thread: &&Thread| matches!(thread.state, Doing::Running(_) | Doing::Waiting(..));
        // The present one's state is with its caller.
        if self.threads.iter().filter(works).count() + 1 >= self.threads_max {
            self.full_ns = ground.clock.now_ns;
        }
    }

    /// Takes up a call, or sleeps.
    fn next_call(&mut self, thread: usize, ground: &mut Ground) {
        let bits: Vec<usize> = (0..64)
            .filter(|bit| self.shared.submitted & (1 << bit) != 0)
            .collect();
        if bits.is_empty() {
            self.tell_of_kept(thread, ground);
            self.report(thread, ground);
            if self.keeper == Some(thread) {
                self.keeper = None;
            }
            self.threads[thread].state = Doing::Idle;
            return;
        }
        let slot = *ground.clock.pick(&bits);
        let since = self.shared.replies[slot].published_ns.max(self.full_ns);
        let waited = ground.clock.now_ns - since;
        assert!(
            waited < HELP_NS || self.standing.is_left,
            "a call has waited for {} ms for a thread, and there were some",
            waited / MS
        );
        self.shared.submitted &= !(1 << slot);
        self.claim(thread, slot, ground);
    }

    fn claim(&mut self, thread: usize, slot: usize, ground: &mut Ground) {
        let generation = self.slots.all[slot].generation;
        let reply = &mut self.shared.replies[slot];
        reply.claimed = generation;
        reply.thread = thread;
        let mut job = Job::new(slot, generation);
        let frame = self.memory.copy_request(slot, 0, reply.request_len);
        let (act, delay) = job.begin(
            &frame,
            &mut ground.book,
            self.bodies_first,
            &mut ground.clock,
        );
        self.shared.replies[slot].body_at = job.body_at;
        if let Some(act) = act {
            self.act(thread, job, act, ground);
            return;
        }
        self.threads[thread].state = Doing::Running(job);
        self.wake(thread, delay, &mut ground.clock);
    }

    /// In the moment in which the door is revoked a thread may still take a call.
    pub(super) fn claim_at_the_last_moment(&mut self, slot: usize, ground: &mut Ground) -> bool {
        let idle = |thread: &Thread| matches!(thread.state, Doing::Idle);
        let Some(thread) = self.threads.iter().position(idle) else {
            return false;
        };
        self.claim(thread, slot, ground);
        true
    }

    fn act(&mut self, thread: usize, job: Job, act: Act, ground: &mut Ground) {
        let id = job.id;
        ground
            .clock
            .note(|| format!("request {id} in slot {}: {act:?}", job.slot));
        if ground.book[id].request.app.end == End::Meddles && !self.is_local {
            for _ in 0..3 {
                let delay = ground.clock.short();
                let event = Event::Meddle(self.number, job.slot, job.generation);
                ground.clock.after(delay, event);
            }
        }
        if matches!(act, Act::Final(..) | Act::Lost) {
            self.note_end_of_call(ground);
        }
        let reply = &mut self.shared.replies[job.slot];
        reply.is_checked = false;
        match act {
            Act::Interim(..) if reply.turn == Turn::Left => self.give_up(thread, &job, ground),
            Act::Interim(kind, len) => {
                (reply.kind, reply.len, reply.turn) = (kind, len, Turn::Caller);
                let asked = kind == transom_wire::frame::interim::WANT_BODY;
                let slot = job.slot;
                self.threads[thread].state = Doing::Waiting(job, asked);
                self.tell_of(thread, slot, true, ground);
            }
            Act::Final(status, len) => {
                (reply.status, reply.len, reply.done) = (status, len, job.generation);
                ground.book[id].facts.ended = true;
                self.tell_of(thread, job.slot, false, ground);
                self.threads[thread].state = Doing::Woken;
                let pause = ground.clock.rng.u64(0..2 * US);
                self.wake(thread, pause, &mut ground.clock);
            }
            Act::Lost => {
                (reply.status, reply.is_lost, reply.done) = (16, true, job.generation);
                ground.book[id].facts.lost = true;
                self.tell_of(thread, job.slot, true, ground);
                self.report(thread, ground);
                self.threads[thread].state = Doing::Over;
            }
            Act::Never => self.threads[thread].state = Doing::Running(job),
        }
    }

    /// Changes a reply that is with its caller.
    pub(super) fn meddle(&mut self, slot: usize, generation: u32) {
        let Slot {
            phase,
            generation: present,
            reply_len,
            ..
        } = self.slots.all[slot];
        let is_with_caller = matches!(phase, Phase::Replied | Phase::Interim);
        if present == generation && is_with_caller && self.shared.replies[slot].is_checked {
            self.memory
                .change(slot, reply_len, b"X-A: a\r\nX-B: a", b"X-A: b\r\nX-B: b");
        }
    }

    /// The caller has left: the handler ends.
    fn give_up(&mut self, thread: usize, job: &Job, ground: &mut Ground) {
        self.note_end_of_call(ground);
        let reply = &mut self.shared.replies[job.slot];
        (reply.status, reply.len, reply.done) = (1, 0, job.generation);
        ground.book[job.id].facts.given_up = true;
        self.tell_of(thread, job.slot, false, ground);
        self.threads[thread].state = Doing::Woken;
        self.wake(thread, US, &mut ground.clock);
    }

    // How the caller is told: `doors/src/pool/telling.rs`.

    fn tell_of(&mut self, thread: usize, slot: usize, at_once: bool, ground: &mut Ground) {
        self.threads[thread].kept |= 1 << slot;
        let kept = self.threads[thread].kept;
        let may_keep = *self.keeper.get_or_insert(thread) == thread;
        let keep = !at_once
            && kept.count_ones() < KEPT_MAX
            && self.shared.waiting != Some(Patience::Eager)
            && may_keep
            && !ground.clock.once_in(4);
        if keep {
            self.shared.late = kept;
            return;
        }
        self.tell_of_kept(thread, ground);
    }

    fn tell_of_kept(&mut self, thread: usize, ground: &mut Ground) {
        let kept = std::mem::take(&mut self.threads[thread].kept);
        if kept == 0 {
            return;
        }
        self.shared.complete |= kept;
        if self.keeper == Some(thread) {
            self.shared.late = 0;
        }
        match self.shared.waiting {
            None => {}
            Some(Patience::Eager) => self.ring_caller(ground),
            Some(Patience::Lazy) => {
                let before = self.threads[thread].unreported;
                let unreported = before + kept.count_ones();
                self.threads[thread].unreported = unreported;
                if unreported / KEPT_MAX != before / KEPT_MAX {
                    self.report(thread, ground);
                }
            }
        }
    }

    fn report(&mut self, thread: usize, ground: &mut Ground) {
        self.threads[thread].unreported = 0;
        self.ring_caller(ground);
    }

    fn ring_caller(&mut self, ground: &mut Ground) {
        if self.shared.waiting.take().is_some() {
            ground.kernel.ring(self.bell());
        }
    }

    // How it ends.

    pub(super) fn revoke(&mut self, ground: &mut Ground) {
        if self.standing.dead || self.standing.revoked {
            return;
        }
        self.standing.revoked = true;
        ground.kernel.ring(self.peer_bell());
        let left = match ground.clock.rng.u32(0..3) {
            0 => ground.clock.short(),
            1 => ground.clock.rng.u64(0..20 * MS),
            _ => ground.clock.rng.u64(0..2_000 * MS),
        };
        ground.clock.after(left, Event::Die(self.number));
    }

    pub(super) fn die(&mut self, ground: &mut Ground) {
        let is_idle = |thread: &Thread| matches!(thread.state, Doing::Idle | Doing::Over);
        let works = self.shared.submitted != 0 || !self.threads.iter().all(is_idle);
        if self.ends_well && works && !self.standing.dead {
            ground.clock.after(MS, Event::Die(self.number));
            return;
        }
        if std::mem::replace(&mut self.standing.dead, true) {
            return;
        }
        for thread in &mut self.threads {
            if let Doing::Running(job) | Doing::Waiting(job, _) = &thread.state {
                ground.book[job.id].facts.died = true;
            }
            thread.state = Doing::Over;
        }
        // Its memory may say that a call was never taken up whose interim reply the caller has.
        for (slot, reply) in self.slots.all.iter().zip(&mut self.shared.replies) {
            if slot.phase == Phase::Interim && ground.clock.once_in(3) {
                reply.claimed = 0;
            }
        }
        ground.kernel.ring(self.peer_bell());
    }

    /// What its caller finds when it looks.
    pub(super) fn look(&mut self) -> PeerState {
        let standing = &mut self.standing;
        let now = match (standing.dead, standing.revoked) {
            (true, _) => PeerState::Gone,
            (false, true) => PeerState::Revoked,
            (false, false) => PeerState::Serving,
        };
        if now == PeerState::Gone && standing.known != PeerState::Gone {
            // It may have died between a reply and its bit.
            let all = u64::MAX >> (64 - self.slots.all.len());
            self.shared.complete |= all;
        }
        standing.known = now;
        now
    }

    /// Whether its caller knows that it is gone, and has not asked for the calls that went with it.
    pub(super) fn has_forgotten_calls(&self) -> bool {
        let is_gone = self.standing.known == PeerState::Gone && !self.standing.is_left;
        is_gone && (0..self.slots.all.len()).any(|slot| self.is_under_way(slot))
    }

    /// Whether a call of this slot is under way, for the oracle.
    pub(super) fn is_under_way(&self, slot: usize) -> bool {
        let phase = self.slots.all[slot].phase;
        matches!(phase, Phase::Submitted | Phase::Interim)
    }
}
