//! The clock, which only moves when the loop sleeps; the queue of events; and the one source of chance.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fmt::Display;

pub(super) const US: u64 = 1_000;
pub(super) const MS: u64 = 1_000_000;
pub(super) const SECOND: u64 = 1_000_000_000;

/// Lines of a trace that are kept.
const TRACE_MAX: usize = 4000;

/// Something that happens outside of the loop. The numbers are places in the lists of the stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// A client does the next thing that it has in mind.
    Client(usize),
    /// A client gives up waiting for `100 Continue`.
    Impatient(usize),
    /// A client resets its connection, whatever it is doing.
    Reset(usize),
    /// The network takes bytes of a socket to its client.
    Carry(usize),
    /// A client reads what has reached it.
    Read(usize),
    /// The kernel releases bytes of a socket that it has held for 200 ms.
    Push(usize),
    /// A thread of a process goes on, if it still waits for just this.
    Thread(usize, usize, u64),
    /// A process changes the fields of a reply that was looked at already: its process, slot and generation.
    Meddle(usize, usize, u32),
    /// A process takes no new calls.
    Revoke(usize),
    /// A process ends.
    Die(usize),
    /// The opener opens a door.
    Open(usize),
    /// Another loop takes a place, or wants one.
    Neighbour,
    /// The loop is given new rules.
    Rules,
    /// The loop is told something: the number of an order.
    Order(u32),
    /// A look at whether all clients have got what they wanted.
    AreDone,
}

/// Time, what happens when, and chance.
pub(super) struct VirtualClock {
    pub now_ns: u64,
    pub rng: fastrand::Rng,
    queue: BinaryHeap<Reverse<(u64, u64, Event)>>,
    /// How many events were put into the queue. Events due at the same time happen in that order.
    number: u64,
    trace: Option<VecDeque<String>>,
    started_ns: u64,
}

impl VirtualClock {
    pub(super) fn new(seed: u64, traced: bool) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let now_ns = SECOND + rng.u64(0..1000 * SECOND);
        VirtualClock {
            now_ns,
            rng,
            queue: BinaryHeap::new(),
            number: 0,
            trace: traced.then(VecDeque::new),
            started_ns: now_ns,
        }
    }

    /// Since the beginning.
    pub(super) fn elapsed_ns(&self) -> u64 {
        self.now_ns - self.started_ns
    }

    pub(super) fn after(&mut self, delay_ns: u64, event: Event) {
        self.number += 1;
        let due = self.now_ns + delay_ns;
        self.queue.push(Reverse((due, self.number, event)));
    }

    /// When the next thing happens.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.queue.peek().map(|Reverse((due, _, _))| *due)
    }

    /// The next thing, if it happens until then. It is that time now.
    pub(super) fn next(&mut self, until_ns: u64) -> Option<Event> {
        if self.next_due()? > until_ns {
            return None;
        }
        let Reverse((due, _, event)) = self.queue.pop()?;
        self.now_ns = self.now_ns.max(due);
        Some(event)
    }

    /// True one time in `n`; never if that is 0.
    pub(super) fn once_in(&mut self, n: u32) -> bool {
        n > 0 && self.rng.u32(0..n) == 0
    }

    /// How long something takes that is usually fast.
    pub(super) fn short(&mut self) -> u64 {
        match self.rng.u32(0..8) {
            0 => 0,
            1..=5 => self.rng.u64(0..100 * US),
            6 => self.rng.u64(0..MS),
            _ => self.rng.u64(0..3 * MS),
        }
    }

    pub(super) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.rng.usize(0..of.len())]
    }

    /// Writes a line of the trace, if there is one.
    pub(super) fn note<T: Display>(&mut self, line: impl FnOnce() -> T) {
        let elapsed = self.elapsed_ns();
        if let Some(trace) = &mut self.trace {
            if trace.len() == TRACE_MAX {
                trace.pop_front();
            }
            let (ms, ns) = (elapsed / MS, elapsed % MS);
            trace.push_back(format!("{ms:>6}.{ns:06} ms  {}", line()));
        }
    }

    pub(super) fn take_trace(&mut self) -> Vec<String> {
        self.trace.take().unwrap_or_default().into()
    }
}
