//! The sleep and wake rules, the revoke rule and the turn word under the model checker. The files
//! of the rules are compiled in here as they are; only `sync` gives them the model's atomics,
//! threads and futex.
//!
//! Run: `RUSTFLAGS="--cfg loom" cargo test -p transom-doors --release --test loom`
//!
//! A lost wake-up shows as a deadlock: loom fails when no thread can go on. Each rule was broken on
//! purpose (no second look, any one fence left out, a count that is off, a bit that is not taken
//! atomically, no hand-over, no nudge), and each time a model failed.
#![cfg(loom)]
// The models do not need every function of every rule file.
#![allow(dead_code, missing_docs)]

mod model;
#[path = "../../src/rules/mod.rs"]
mod rules;

use std::time::Duration;

use loom::sync::Arc;
use loom::thread;

use model::Model;
use rules::futex::Futex;
use rules::late::Late;
use rules::sync::Ordering;
use rules::turn::Turn;
use rules::waiting::Patience;

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
                model.idle().arrive();
                let mut served = 0;
                while served < 2 {
                    match model.submit().take_one_from(0) {
                        Some(_) => served += 1,
                        None => model.idle().sleep(0, || model.submit().any()),
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
                model.idle().arrive();
                let mut served = 0;
                while served < 2 {
                    match model.submit().take_one_from(0) {
                        Some(_) => served += 1,
                        None => model.idle().sleep(0, || model.submit().any()),
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
        let taken_back = if model.revoked().is_raised_after_publishing() {
            model.submit().take(0, 1)
        } else {
            if model.words().running() == 0 {
                model.idle().wake_one(1);
            }
            0
        };
        revoker.join().unwrap();
        server.join().unwrap();
        model.all_claimed(1 - taken_back);
    });
}

#[test]
fn a_call_that_counted_on_a_thread_that_goes_away_is_handed_over() {
    check(3, || {
        let model = Model::new(2);
        model.idle().arrive();
        model.idle().enter(0);
        let leaves = thread::spawn({
            let model = Arc::clone(&model);
            // `Inner::leave_to_block`, of a thread that does not come back here.
            move || {
                model.idle().go_away(0);
                if model.submit().any() {
                    model.idle().wake_one(2);
                }
            }
        });
        let spare = thread::spawn({
            let model = Arc::clone(&model);
            move || {
                model.idle().arrive();
                while model.submit().take_one_from(0).is_none() {
                    model.idle().sleep(1, || model.submit().any());
                }
            }
        });
        model.submit_call(0);
        leaves.join().unwrap();
        spare.join().unwrap();
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
                model.idle().arrive();
                while !model.revoked().is_raised() {
                    if let Some(slot) = model.submit().take_one_from(0) {
                        complete(&model, slot);
                        break;
                    }
                    model
                        .idle()
                        .sleep(0, || model.revoked().is_raised() || model.submit().any());
                }
                model.idle().depart();
                if model.submit().any() {
                    model.idle().wake_one(2);
                }
            }
        });
        let stays = thread::spawn({
            let model = Arc::clone(&model);
            move || model.serve(1, |slot| complete(&model, slot))
        });
        model.submit_call(0);
        model.submit_call(1);
        // Revoking wakes every thread: only after both calls are through.
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
        let gate = Arc::new(Futex::default());
        model.idle().arrive();
        model.idle().enter(0);
        let blocks = thread::spawn({
            let (model, gate) = (Arc::clone(&model), Arc::clone(&gate));
            // Is let go only when call 2 has been served.
            move || {
                while gate.word().load(Ordering::Acquire) == 0 {
                    gate.wait(0);
                }
                model.idle().search(0);
                model.idle().depart();
            }
        });
        let spare = thread::spawn({
            let (model, gate) = (Arc::clone(&model), Arc::clone(&gate));
            move || {
                model.serve(1, |slot| {
                    if slot == 2 {
                        gate.word().store(1, Ordering::Release);
                        gate.wake();
                    }
                });
            }
        });
        model.submit_call(1);
        // `Client::nudge`: helps call 1, and call 2 needs no more help.
        model.idle().give_up_on_busy(2);
        if model.words().running() == 0 {
            model.idle().wake_one(2);
        }
        model.submit_call(2);
        blocks.join().unwrap();
        model.revoke();
        spare.join().unwrap();
        model.all_claimed(0b110);
    });
}

#[test]
fn a_nudge_at_the_end_of_a_handler_leaves_the_count_right() {
    check(3, || {
        let model = Model::new(1);
        let server = thread::spawn({
            let model = Arc::clone(&model);
            move || {
                model.idle().arrive();
                let mut served = 0;
                while served < 2 {
                    if model.submit().take_one_from(0).is_none() {
                        model.idle().sleep(0, || model.submit().any());
                        continue;
                    }
                    model.idle().enter(0);
                    model.idle().come_back(0);
                    model.idle().search(0);
                    served += 1;
                }
                model.idle().depart();
            }
        });
        model.submit_call(0);
        model.idle().give_up_on_busy(1);
        // Still served without help, and the count ends at zero.
        model.submit_call(1);
        server.join().unwrap();
        assert_eq!(model.words().running(), 0);
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
                while turn.to_client().is_ok() && turn.wait_for_client(|| false).is_ok() {
                    pieces += 1;
                }
                // A handler that does not wait sees the same, and goes on seeing it.
                assert!(turn.is_abandoned());
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

#[test]
fn nobody_sleeps_over_a_completion_that_is_kept_back_by_a_handler_that_blocks() {
    check(3, || {
        let model = Model::new(1);
        let server = thread::spawn({
            let model = Arc::clone(&model);
            // Then a handler runs that never comes back.
            move || {
                model.late().show(0, 1);
                if Late::is_awaited(model.waiting()) {
                    model.complete().publish(0, 1);
                    model.late().show(0, 0);
                    model.ring_if_due();
                }
            }
        });
        model.wait_for(1, Patience::Eager);
        server.join().unwrap();
    });
}

#[test]
fn a_caller_that_sleeps_on_its_turn_is_woken_by_a_piece_and_by_the_reply() {
    for end in [Turn::finish, |turn: &Turn| {
        assert!(turn.to_client().is_ok())
    }] {
        check(3, move || {
            let turn = Arc::new(Turn::new());
            let server = thread::spawn({
                let turn = Arc::clone(&turn);
                move || end(&turn)
            });
            // In the model no thread wakes up by a timeout, so a wake that is missing is a deadlock.
            turn.wait_for_server(Duration::ZERO);
            server.join().unwrap();
        });
    }
}

#[test]
fn a_caller_from_outside_wakes_a_thread_or_has_the_porter_look() {
    check(3, || {
        let model = Model::new(1);
        let server = thread::spawn({
            let model = Arc::clone(&model);
            move || {
                model.idle().arrive();
                while model.submit().take_one_from(0).is_none() {
                    model.idle().sleep(0, || model.submit().any());
                }
                model.dismiss_porter();
            }
        });
        let porter = thread::spawn({
            let model = Arc::clone(&model);
            move || model.porter()
        });
        model.submit_from_outside(0);
        server.join().unwrap();
        porter.join().unwrap();
    });
}
