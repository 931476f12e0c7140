//! A door of one channel, made of the real rules and nothing else.

use loom::sync::Arc;

use crate::rules::bitmap::Bitmap;
use crate::rules::futex::Futex;
use crate::rules::idle::{IdleSet, IdleWords, OwnWords};
use crate::rules::late::Late;
use crate::rules::revoke::Revoked;
use crate::rules::sync::{AtomicI32, AtomicU32, AtomicU64, Line, Ordering};
use crate::rules::waiting::{Patience, Waiting};

/// A door of one channel: what threads and clients share.
pub struct Model {
    submit: [Line<AtomicU64>; 1],
    complete: [Line<AtomicU64>; 1],
    late: [Line<AtomicU64>; 1],
    waiting: AtomicU32,
    /// The doorbell: epoll on an eventfd that is never read is a futex on a counter.
    bell: Futex,
    idle_bits: Box<[Line<AtomicU64>]>,
    beds: Box<[Line<Futex>]>,
    own: Box<[Line<OwnWords>]>,
    running: Line<AtomicI32>,
    threads: u32,
    revoked: AtomicU32,
    /// Stands for the porter's socket, as a caller from outside uses it.
    asked: Futex,
    claimed: AtomicU64,
}

impl Model {
    pub fn new(threads: u32) -> Arc<Self> {
        let own: Box<[_]> = (0..threads).map(|_| Line(OwnWords::default())).collect();
        Arc::new(Self {
            submit: [Line(AtomicU64::new(0))],
            complete: [Line(AtomicU64::new(0))],
            late: [Line(AtomicU64::new(0))],
            waiting: AtomicU32::new(0),
            bell: Futex::default(),
            idle_bits: Box::new([Line(AtomicU64::new(0))]),
            beds: own
                .iter()
                .map(|own: &Line<OwnWords>| Line(own.0.public_bed()))
                .collect(),
            own,
            running: Line(AtomicI32::new(0)),
            threads,
            revoked: AtomicU32::new(0),
            asked: Futex::default(),
            claimed: AtomicU64::new(0),
        })
    }

    pub fn words(&self) -> IdleWords<'_> {
        IdleWords {
            idle: &self.idle_bits,
            beds: &self.beds,
            running: &self.running,
        }
    }

    pub fn idle(&self) -> IdleSet<'_> {
        IdleSet::new(self.words(), &self.own)
    }

    pub fn revoked(&self) -> Revoked<'_> {
        Revoked::new(&self.revoked)
    }

    /// `AsyncClient::flush` in another process, for a door whose handlers are fast.
    pub fn submit_from_outside(&self, slot: u32) {
        self.submit().publish(0, 1 << slot);
        if self.words().running() != 0 {
            return;
        }
        let rung = self.words().wake_from_outside(1, self.threads);
        if rung.woken == 0 && rung.uncertain {
            self.asked.word().store(1, Ordering::SeqCst);
            self.asked.wake();
        }
    }

    /// The porter, once: sleeps until it is asked (or told that it will not be), then helps waiting calls.
    pub fn porter(&self) {
        while self.asked.word().load(Ordering::SeqCst) == 0 {
            self.asked.wait(0);
        }
        if self.submit().any() && self.words().running() == 0 {
            self.idle().wake_one(self.threads);
        }
    }

    /// Lets the porter go home.
    pub fn dismiss_porter(&self) {
        self.asked.word().store(1, Ordering::SeqCst);
        self.asked.wake();
    }

    pub fn submit(&self) -> Bitmap<'_> {
        Bitmap::new(&self.submit)
    }

    pub fn complete(&self) -> Bitmap<'_> {
        Bitmap::new(&self.complete)
    }

    pub fn late(&self) -> Late<'_> {
        Late::new(&self.late)
    }

    pub fn waiting(&self) -> Waiting<'_> {
        Waiting::new(&self.waiting)
    }

    /// `Client::flush` for a door whose handlers are fast.
    pub fn submit_call(&self, slot: u32) {
        self.submit().publish(0, 1 << slot);
        if self.words().running() == 0 {
            self.idle().wake_one(self.threads);
        }
    }

    /// `Door::revoke`.
    pub fn revoke(&self) {
        self.revoked().raise();
        self.idle().wake_all(self.threads);
    }

    /// `Door::serve`, until revoked or until `enough` says so; every claim is noted, and claimed
    /// once.
    pub fn serve(&self, thread: u32, run: impl Fn(u32)) {
        self.idle().arrive();
        loop {
            while let Some(slot) = self.submit().take_one_from(0) {
                let before = self.claimed.fetch_or(1 << slot, Ordering::Relaxed);
                assert_eq!(before & (1 << slot), 0, "slot {slot} was claimed twice");
                self.idle().enter(thread);
                run(slot);
                self.idle().search(thread);
            }
            if self.revoked().allows_end(|| self.submit().any()) {
                break;
            }
            self.idle()
                .sleep(thread, || self.revoked().is_raised() || self.submit().any());
        }
        self.idle().depart();
    }

    /// `report` and the doorbell.
    pub fn ring_if_due(&self) {
        let waiting = self.waiting();
        if waiting.patience().is_some() && self.complete().any() && waiting.take() {
            self.bell.word().fetch_add(1, Ordering::Release);
            self.bell.wake();
        }
    }

    /// The event loop: sleeps without a timeout until every bit of `wanted` has completed.
    pub fn wait_for(&self, wanted: u64, patience: Patience) {
        let mut seen = 0;
        loop {
            seen |= self.complete().take(0, u64::MAX);
            if seen == wanted {
                return;
            }
            // epoll remembers an edge that comes before the wait.
            let edge = self.bell.word().load(Ordering::Acquire);
            if self
                .waiting()
                .announce(patience, 0, || self.complete().any())
            {
                // A client that does not sleep for long does not look for replies that are kept back.
                if patience == Patience::Eager {
                    let late = self.late().look(0) & !seen;
                    if late != 0 {
                        self.complete().publish(0, late);
                        self.waiting().clear();
                        continue;
                    }
                }
                while self.bell.word().load(Ordering::Acquire) == edge {
                    self.bell.wait(edge);
                }
                self.waiting().clear();
            }
        }
    }

    pub fn all_claimed(&self, wanted: u64) {
        assert_eq!(self.claimed.load(Ordering::Relaxed), wanted);
        assert_eq!(self.submit().peek(0), 0);
    }
}
