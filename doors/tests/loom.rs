//! The sleep and wake rules, the revoke rule and the turn word under the model checker. The files of the rules are compiled in here
//! as they are; only `sync` gives them the model's atomics, threads and futex.
//!
//! Run: `RUSTFLAGS="--cfg loom" cargo test -p transom-doors --release --test loom`
//!
//! A lost wake-up shows as a deadlock: loom fails when no thread can go on. Each model was seen to fail with its rule broken:
//! without the second look, with the second look before the announcement, without the fences.
#![cfg(loom)]
// The models do not need every function of every rule file.
#![allow(dead_code, missing_docs)]

#[path = "../src/bitmap.rs"]
mod bitmap;
#[path = "../src/idle.rs"]
mod idle;
#[path = "../src/revoke.rs"]
mod revoke;
#[path = "../src/sync.rs"]
mod sync;
#[path = "../src/turn.rs"]
mod turn;
#[path = "../src/waiting.rs"]
mod waiting;

use loom::sync::Arc;
use loom::thread;

use bitmap::Bitmap;
use idle::IdleSet;
use revoke::Revoked;
use sync::{AtomicU32, AtomicU64, Futex, Line, Ordering};
use turn::Turn;
use waiting::{Patience, Waiting};

/// A door of one channel: what threads and clients share.
struct Model {
    submit: [Line<AtomicU64>; 1],
    complete: [Line<AtomicU64>; 1],
    waiting: AtomicU32,
    /// The doorbell: epoll on an eventfd that is never read is a futex on a counter.
    bell: Futex,
    idle: IdleSet,
    threads: u32,
    revoked: Revoked,
    claimed: AtomicU64,
}

impl Model {
    fn new(threads: u32) -> Arc<Self> {
        Arc::new(Self {
            submit: [Line(AtomicU64::new(0))],
            complete: [Line(AtomicU64::new(0))],
            waiting: AtomicU32::new(0),
            bell: Futex::new(0),
            idle: IdleSet::new(threads),
            threads,
            revoked: Revoked::new(),
            claimed: AtomicU64::new(0),
        })
    }

    fn submit(&self) -> Bitmap<'_> {
        Bitmap::new(&self.submit)
    }

    fn complete(&self) -> Bitmap<'_> {
        Bitmap::new(&self.complete)
    }

    fn waiting(&self) -> Waiting<'_> {
        Waiting::new(&self.waiting)
    }

    /// `Client::flush` for a door whose handlers are fast.
    fn submit_call(&self, slot: u32) {
        self.submit().publish(0, 1 << slot);
        if self.idle.running() == 0 {
            self.idle.wake_one(self.threads);
        }
    }

    /// `Door::revoke`.
    fn revoke(&self) {
        self.revoked.raise();
        self.idle.wake_all(self.threads);
    }

    /// `Door::serve`, until revoked or until `enough` says so; every claim is noted, and claimed once.
    fn serve(&self, thread: u32, run: impl Fn(u32)) {
        self.idle.arrive();
        loop {
            while let Some(slot) = self.submit().take_one_from(0) {
                let before = self.claimed.fetch_or(1 << slot, Ordering::Relaxed);
                assert_eq!(before & (1 << slot), 0, "slot {slot} was claimed twice");
                self.idle.enter(thread);
                run(slot);
                self.idle.search(thread);
            }
            if self.revoked.allows_end(|| self.submit().any()) {
                break;
            }
            self.idle.sleep(thread, || self.revoked.is_raised() || self.submit().any());
        }
        self.idle.depart();
    }

    /// `report` and the doorbell.
    fn ring_if_due(&self) {
        let waiting = self.waiting();
        if waiting.patience().is_some() && self.complete().any() && waiting.take() {
            self.bell.word().fetch_add(1, Ordering::Release);
            self.bell.wake();
        }
    }

    /// The event loop: sleeps without a timeout until every bit of `wanted` has completed.
    fn wait_for(&self, wanted: u64, patience: Patience) {
        let mut seen = 0;
        loop {
            seen |= self.complete().take(0, u64::MAX);
            if seen == wanted {
                return;
            }
            // epoll remembers an edge that comes before the wait.
            let edge = self.bell.word().load(Ordering::Acquire);
            if self.waiting().announce(patience, || self.complete().any()) {
                while self.bell.word().load(Ordering::Acquire) == edge {
                    self.bell.wait(edge);
                }
                self.waiting().clear();
            }
        }
    }

    fn all_claimed(&self, wanted: u64) {
        assert_eq!(self.claimed.load(Ordering::Relaxed), wanted);
        assert_eq!(self.submit().peek(0), 0);
    }
}

/// All interleavings with at most `preemptions` forced switches: lost wake-ups need one or two.
fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

#[test]
fn a_thread_that_goes_to_sleep_never_misses_a_call() {
    check(3, || {
        let model = Model::new(1);
        let server = thread::spawn({
            let model = Arc::clone(&model);
            // A served call ends the model: a call that is slept over is a deadlock.
            move || {
                model.idle.arrive();
                let mut served = 0;
                while served < 2 {
                    match model.submit().take_one_from(0) {
                        Some(_) => served += 1,
                        None => model.idle.sleep(0, || model.submit().any()),
                    }
                }
            }
        });
        model.submit_call(0);
        model.submit_call(1);
        server.join().unwrap();
    });
}

#[test]
fn two_clients_and_a_thread_lose_no_call() {
    check(2, || {
        let model = Model::new(1);
        let other = thread::spawn({
            let model = Arc::clone(&model);
            move || model.submit_call(1)
        });
        let server = thread::spawn({
            let model = Arc::clone(&model);
            move || {
                model.idle.arrive();
                let mut served = 0;
                while served < 2 {
                    match model.submit().take_one_from(0) {
                        Some(_) => served += 1,
                        None => model.idle.sleep(0, || model.submit().any()),
                    }
                }
            }
        });
        model.submit_call(0);
        other.join().unwrap();
        server.join().unwrap();
    });
}

#[test]
fn two_threads_serve_each_call_once_and_end_after_a_revoke() {
    check(2, || {
        let model = Model::new(2);
        let servers: Vec<_> = (0..2)
            .map(|thread| {
                let model = Arc::clone(&model);
                thread::spawn(move || model.serve(thread, |_| ()))
            })
            .collect();
        model.submit_call(0);
        model.submit_call(1);
        model.revoke();
        for server in servers {
            server.join().unwrap();
        }
        model.all_claimed(0b11);
    });
}

#[test]
fn a_call_that_races_a_revoke_is_served_or_taken_back_never_lost() {
    check(3, || {
        let model = Model::new(1);
        let server = thread::spawn({
            let model = Arc::clone(&model);
            move || model.serve(0, |_| ())
        });
        let revoker = thread::spawn({
            let model = Arc::clone(&model);
            move || model.revoke()
        });
        // `Client::flush`, with its look at the revoke after publishing.
        model.submit().publish(0, 1);
        let taken_back = if model.revoked.is_raised_after_publishing() {
            model.submit().take(0, 1)
        } else {
            if model.idle.running() == 0 {
                model.idle.wake_one(1);
            }
            0
        };
        revoker.join().unwrap();
        server.join().unwrap();
        model.all_claimed(1 - taken_back);
    });
}

#[test]
fn a_call_that_counted_on_a_thread_that_parks_is_handed_over() {
    check(2, || {
        let model = Model::new(2);
        let complete = |model: &Model, slot: u32| {
            model.complete().publish(0, 1 << slot);
            if model.waiting().patience().is_some() {
                model.ring_if_due();
            }
        };
        let parks = thread::spawn({
            let model = Arc::clone(&model);
            // Serves at most one call, with an emergency reply.
            move || {
                model.idle.arrive();
                while !model.revoked.is_raised() {
                    if let Some(slot) = model.submit().take_one_from(0) {
                        complete(&model, slot);
                        break;
                    }
                    model.idle.sleep(0, || model.revoked.is_raised() || model.submit().any());
                }
                model.idle.depart();
                if model.submit().any() {
                    model.idle.wake_one(2);
                }
            }
        });
        let stays = thread::spawn({
            let model = Arc::clone(&model);
            move || model.serve(1, |slot| complete(&model, slot))
        });
        model.submit_call(0);
        model.submit_call(1);
        // Revoking wakes everybody: only after both calls are through.
        model.wait_for(0b11, Patience::Eager);
        model.revoke();
        parks.join().unwrap();
        stays.join().unwrap();
    });
}

#[test]
fn a_call_behind_a_handler_that_blocks_is_found_by_a_nudge() {
    check(2, || {
        let model = Model::new(2);
        let gate = Arc::new(Futex::new(0));
        let blocks = thread::spawn({
            let (model, gate) = (Arc::clone(&model), Arc::clone(&gate));
            // Takes call 0 alone, and is let go only when call 1 has been served.
            move || {
                model.idle.arrive();
                model.idle.enter(0);
                while gate.word().load(Ordering::Acquire) == 0 {
                    gate.wait(0);
                }
                model.idle.search(0);
                model.idle.depart();
            }
        });
        let spare = thread::spawn({
            let (model, gate) = (Arc::clone(&model), Arc::clone(&gate));
            move || {
                model.serve(1, |_| {
                    gate.word().store(1, Ordering::Release);
                    gate.wake();
                });
            }
        });
        model.submit_call(1);
        // `Client::nudge`, after the loop's short sleep.
        if model.submit().any() {
            model.idle.give_up_on_busy(2);
            model.idle.wake_one(2);
        }
        blocks.join().unwrap();
        model.revoke();
        spare.join().unwrap();
        model.all_claimed(0b10);
    });
}

#[test]
fn a_nudge_at_the_end_of_a_handler_leaves_the_count_right() {
    check(3, || {
        let model = Model::new(1);
        let server = thread::spawn({
            let model = Arc::clone(&model);
            move || {
                model.idle.arrive();
                let mut served = 0;
                while served < 2 {
                    if model.submit().take_one_from(0).is_none() {
                        model.idle.sleep(0, || model.submit().any());
                        continue;
                    }
                    model.idle.enter(0);
                    model.idle.come_back(0);
                    model.idle.search(0);
                    served += 1;
                }
                model.idle.depart();
            }
        });
        model.submit_call(0);
        model.idle.give_up_on_busy(1);
        // Still served without help, and the count ends at zero.
        model.submit_call(1);
        server.join().unwrap();
        assert_eq!(model.idle.running(), 0);
    });
}

#[test]
fn a_withdrawn_call_is_never_served_and_a_served_one_never_withdrawn() {
    check(3, || {
        let model = Model::new(1);
        let server = thread::spawn({
            let model = Arc::clone(&model);
            move || model.serve(0, |_| ())
        });
        model.submit_call(0);
        let withdrawn = model.submit().take(0, 1);
        model.revoke();
        server.join().unwrap();
        model.all_claimed(1 - withdrawn);
    });
}

#[test]
fn an_eager_client_never_sleeps_over_a_completion() {
    check(3, || {
        let model = Model::new(1);
        let server = thread::spawn({
            let model = Arc::clone(&model);
            move || {
                for slot in 0..2 {
                    model.complete().publish(0, 1 << slot);
                    if model.waiting().patience() == Some(Patience::Eager) {
                        model.ring_if_due();
                    }
                }
            }
        });
        model.wait_for(0b11, Patience::Eager);
        server.join().unwrap();
    });
}

#[test]
fn a_lazy_client_is_rung_when_the_thread_has_nothing_more_to_claim() {
    check(3, || {
        let model = Model::new(1);
        let server = thread::spawn({
            let model = Arc::clone(&model);
            move || {
                let mut unreported = false;
                for slot in 0..2 {
                    model.complete().publish(0, 1 << slot);
                    unreported |= model.waiting().patience().is_some();
                }
                if unreported {
                    model.ring_if_due();
                }
            }
        });
        model.wait_for(0b11, Patience::Lazy);
        server.join().unwrap();
    });
}

#[test]
fn two_threads_that_complete_at_once_wake_the_client_for_both() {
    check(2, || {
        let model = Model::new(1);
        let servers: Vec<_> = (0..2)
            .map(|slot| {
                let model = Arc::clone(&model);
                thread::spawn(move || {
                    model.complete().publish(0, 1 << slot);
                    if model.waiting().patience().is_some() {
                        model.ring_if_due();
                    }
                })
            })
            .collect();
        model.wait_for(0b11, Patience::Eager);
        for server in servers {
            server.join().unwrap();
        }
    });
}

#[test]
fn a_call_goes_round_without_a_stall_when_both_sides_sleep() {
    check(2, || {
        let model = Model::new(1);
        let server = thread::spawn({
            let model = Arc::clone(&model);
            move || {
                model.serve(0, |slot| {
                    model.complete().publish(0, 1 << slot);
                    if model.waiting().patience() == Some(Patience::Eager) {
                        model.ring_if_due();
                    }
                });
            }
        });
        model.submit_call(0);
        model.wait_for(1, Patience::Eager);
        model.revoke();
        server.join().unwrap();
    });
}

#[test]
fn a_turn_comes_back_or_the_server_hears_that_the_client_has_gone() {
    check(3, || {
        let turn = Arc::new(Turn::new());
        let server = thread::spawn({
            let turn = Arc::clone(&turn);
            move || {
                let mut pieces = 0;
                while turn.to_client().is_ok() && turn.wait_for_client().is_ok() {
                    pieces += 1;
                }
                pieces
            }
        });
        let mut resumed = 0;
        if turn.is_clients() {
            turn.to_server();
            resumed = 1;
        }
        turn.leave();
        // A server that was resumed may find the client gone before it has woken up.
        assert!(server.join().unwrap() <= resumed);
    });
}
