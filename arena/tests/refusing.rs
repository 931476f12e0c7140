//! `refusing`: what does not fit is refused, whatever state the request is in, and nothing else is.

mod common;

use common::{
    SHARE, alone, exhaustion, finish, never_stuck, next_bucket, on_bucket_thread, panic_message,
    parks, start_on,
};
use corosensei::Coroutine;
use std::cell::RefCell;
use std::hint::black_box;
use std::mem::forget;
use std::panic::{catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use transom_arena::{
    Reason, Registered, Shared, Tenant, defer, outside, overdraft_usage, refusing,
};

#[global_allocator]
static GLOBAL: transom_arena::TransomAllocator = transom_arena::TransomAllocator;

/// More than an arena has, less than that and a share; and more than there is.
const HUNGRY: [usize; 2] = [700 << 10, 1 << 30];

/// Runs its closure when it is dropped.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

fn is_refused(bytes: usize) -> bool {
    refusing(|| Vec::<u8>::new().try_reserve_exact(bytes)).is_err()
}

/// That all of it is refused and nothing drawn, in the arena and in the shared heap, and a little is given.
fn ask() {
    let refused = || HUNGRY.map(|bytes| is_refused(bytes.max(4 * SHARE)));
    assert!(HUNGRY.iter().all(|&bytes| is_refused(bytes)));
    assert_eq!(outside(refused), [true; 2]);
    assert!(!is_refused(100));
}

fn serves(tenant: &mut Tenant) {
    let outcome = tenant.enter(&never_stuck, |_| format!("{}", 7).len());
    assert!(matches!(outcome.result, Ok(1)), "{outcome:?}");
    assert_eq!((outcome.left, outcome.usage.overdrawn), (0, 0));
}

#[test]
fn what_a_destructor_asks_for_while_a_panic_unwinds_is_refused() {
    let _turn = alone();
    on_bucket_thread(|tenant| {
        let outcome = tenant.enter(&never_stuck, |_| {
            let caught = catch_unwind(|| {
                let _asks = OnDrop(ask);
                panic!("caught");
            });
            caught.is_err()
        });
        assert!(matches!(outcome.result, Ok(true)), "{outcome:?}");
        assert_eq!(outcome.usage.overdrawn, 0);
        serves(tenant);
    });
}

#[test]
fn what_a_cleanup_asks_for_is_refused_on_every_way_out() {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let register = || {
        assert!(defer(|_| {
            ask();
            ASKED.fetch_add(1, Ordering::Relaxed);
        }));
    };
    let _turn = alone();
    on_bucket_thread(move |tenant| {
        let outcome = tenant.enter(&never_stuck, |_| register());
        assert!(outcome.result.is_ok() && outcome.usage.overdrawn == 0);
        let outcome = tenant.enter(&never_stuck, |_| -> u8 {
            register();
            panic!("the reason");
        });
        assert_eq!(outcome.usage.overdrawn, 0);
        assert!(panic_message(outcome.result).starts_with("the reason"));
        // SAFETY: nothing is held.
        let outcome = unsafe {
            tenant.enter_escaping(&never_stuck, |_| {
                register();
                vec![black_box(1u8); HUNGRY[0]].len()
            })
        };
        assert_eq!(outcome.usage.overdrawn, 0);
        assert_eq!(exhaustion(outcome.result).reason, Reason::Arena);
        assert_eq!(ASKED.load(Ordering::Relaxed), 3);
        serves(tenant);
    });
}

#[test]
fn what_a_thread_locals_destructor_asks_for_is_refused() {
    static ASKED: AtomicBool = AtomicBool::new(false);
    thread_local! {
        static ASKS: OnDrop<fn()> = const { OnDrop(|| {
            ask();
            ASKED.store(true, Ordering::Relaxed);
        }) };
    }
    let _turn = alone();
    let before = overdraft_usage().kept;
    on_bucket_thread(|tenant| {
        assert!(
            tenant
                .enter(&never_stuck, |_| ASKS.with(|_| ()))
                .result
                .is_ok()
        );
    });
    common::wait_for("its destructors have run", || ASKED.load(Ordering::Relaxed));
    assert_eq!(overdraft_usage().kept, before);
}

/// Destructors that run because a closure that may be refused panics do not expect to be refused.
#[test]
fn what_a_panic_inside_runs_is_served() {
    let _turn = alone();
    let takes = || OnDrop(|| assert_eq!(black_box(vec![1u8; HUNGRY[0]]).len(), HUNGRY[0]));
    on_bucket_thread(move |tenant| {
        let outcome = tenant.enter(&never_stuck, |_| {
            refusing(|| {
                let _takes = takes();
                panic!("the reason {}", black_box(7));
            });
        });
        assert!(panic_message(outcome.result).starts_with("the reason"));
        // The same in a destructor, where the thread was failing before.
        let outcome = tenant.enter(&never_stuck, |arena| {
            while arena.try_alloc([0u8; 16]).is_ok() {}
            let _inner = OnDrop(|| {
                let caught = catch_unwind(|| {
                    refusing(|| {
                        let _takes = takes();
                        panic!("another {}", "of many words ".repeat(black_box(1)));
                    });
                });
                assert!(caught.is_err());
            });
            panic!("the reason {}", black_box(7));
        });
        assert!(outcome.result.is_err());
        serves(tenant);
    });
}

/// What goes on inside does not change what is refused after it, nor what a destructor there gets.
#[test]
fn a_cleanup_that_asks_may_panic_inside() {
    static DONE: AtomicU32 = AtomicU32::new(0);
    let _turn = alone();
    on_bucket_thread(|tenant| {
        let outcome = tenant.enter(&never_stuck, |_| -> u8 {
            assert!(defer(|_| {
                refusing(|| {
                    assert!(catch_unwind(|| panic!("caught")).is_err());
                    assert!(HUNGRY.iter().all(|&bytes| is_refused(bytes)));
                    assert!(Vec::<u8>::new().try_reserve_exact(HUNGRY[1]).is_err());
                });
                DONE.fetch_add(1, Ordering::Relaxed);
            }));
            assert!(defer(|_| {
                let caught = catch_unwind(|| {
                    refusing(|| {
                        let _takes = OnDrop(|| drop(black_box(vec![1u8; HUNGRY[0]])));
                        resume_unwind(Box::new(7));
                    });
                });
                assert!(caught.is_err());
                DONE.fetch_add(1, Ordering::Relaxed);
            }));
            panic!("the reason");
        });
        assert!(outcome.result.is_err());
        assert_eq!(DONE.load(Ordering::Relaxed), 2);
        serves(tenant);
    });
}

type Asking = Coroutine<(), (), ()>;

/// A coroutine that is suspended where it may be refused.
fn asking() -> Asking {
    let mut coroutine = Asking::new(|yielder, ()| {
        refusing(|| {
            assert!(is_refused(HUNGRY[1]));
            yielder.suspend(());
            assert!(Vec::<u8>::new().try_reserve_exact(HUNGRY[1]).is_err());
        });
    });
    coroutine.resume(());
    coroutine
}

/// Coroutines that are suspended there, end in any order, or never, leave the rest of the request as it is.
#[test]
fn a_coroutine_that_is_suspended_there_refuses_its_request_nothing() {
    let takes = || assert_eq!(black_box(vec![1u8; HUNGRY[0]]).len(), HUNGRY[0]);
    let _turn = alone();
    on_bucket_thread(move |tenant| {
        let outcome = tenant.enter(&never_stuck, |_| {
            let mut one = asking();
            takes();
            one.resume(());
        });
        assert_eq!(exhaustion(outcome.result).reason, Reason::Arena);
        let outcome = tenant.enter(&never_stuck, |_| {
            let (mut one, mut other) = (asking(), asking());
            one.resume(());
            other.resume(());
            takes();
        });
        assert_eq!(exhaustion(outcome.result).reason, Reason::Arena);
        let outcome = tenant.enter(&never_stuck, |_| {
            forget(asking());
            assert!(defer(move |_| takes()));
        });
        assert_eq!(exhaustion(outcome.result).reason, Reason::Arena);
        serves(tenant);
    });
}

static DROPPED: AtomicU32 = AtomicU32::new(0);
static MADE: AtomicU32 = AtomicU32::new(0);

struct Counts([u8; 4000]);

impl Drop for Counts {
    fn drop(&mut self) {
        DROPPED.fetch_add(u32::from(black_box(self.0[0])), Ordering::Relaxed);
    }
}

/// Registers values until there is no room at all, which parks the thread.
fn register_on_and_on() {
    loop {
        MADE.fetch_add(1, Ordering::Relaxed);
        forget(Registered::new(Counts([1; 4000])));
    }
}

/// That only the value that found no room is dropped, before its thread is parked.
fn assert_one_dropped() {
    assert!(MADE.swap(0, Ordering::Relaxed) > 200, "and the overdraft");
    assert_eq!(DROPPED.swap(0, Ordering::Relaxed), 1);
}

/// In a child: what parked threads have drawn on stays drawn on.
#[test]
fn a_registered_value_for_which_there_is_no_room_is_dropped_in_every_state() {
    common::passes_in_a_child("child_that_registers_in_every_state", &[]);
}

#[test]
#[ignore = "run by a test, in a process of its own"]
fn child_that_registers_in_every_state() {
    type Registering = OnDrop<fn()>;
    thread_local! {
        static REGISTERS: RefCell<Option<Registering>> = const { RefCell::new(None) };
    }
    let _turn = alone();
    let parked = parks(|_| {
        let _registers = OnDrop(register_on_and_on);
        panic!("unwinds");
    });
    assert!(parked.for_ever());
    assert_one_dropped();

    let parked =
        parks(|_| assert!(defer(|_| panic!("unwinds")) && defer(|_| register_on_and_on())));
    assert!(parked.for_ever());
    assert_one_dropped();

    let bucket = next_bucket();
    let ends = start_on(bucket, |tenant| {
        // SAFETY: nothing is held.
        let outcome = unsafe {
            tenant.enter_escaping(&|_: transom_arena::Failed<'_>| (), |_| {
                assert!(defer(|_| register_on_and_on()));
                vec![black_box(1u8); HUNGRY[0]].len()
            })
        };
        unreachable!("{outcome:?}");
    });
    common::wait_for("it is parked", || {
        bucket.state() == transom_arena::BucketState::Parked
    });
    drop(ends);
    assert_one_dropped();

    let bucket = next_bucket();
    finish(&start_on(bucket, |tenant| {
        let keeps = |_: &_| REGISTERS.set(Some(OnDrop(register_on_and_on)));
        assert!(tenant.enter(&never_stuck, keeps).result.is_ok());
    }));
    common::wait_for("it is parked", || {
        bucket.state() == transom_arena::BucketState::Parked
    });
    assert_one_dropped();
}

/// A value that has its room from the overdraft is no reason to refuse, and its request's answer is a 500.
#[test]
fn what_a_registered_value_draws_in_a_panic_that_is_caught_ends_in_a_500() {
    let _turn = alone();
    on_bucket_thread(|tenant| {
        let outcome = tenant.enter(&never_stuck, |_| {
            let _ = catch_unwind(|| {
                let _registers = OnDrop(|| {
                    let values = (0..200).map(|_| Registered::new([1u8; 4000]));
                    drop(black_box(values.collect::<Vec<_>>()));
                });
                panic!("caught");
            });
        });
        assert_eq!(exhaustion(outcome.result).reason, Reason::Arena);
        serves(tenant);
    });
}

/// As above, in a cell.
#[test]
fn a_cell_that_is_changed_in_a_destructor_refuses_too() {
    static BYTES: Shared<Vec<u8>> = Shared::new(Vec::new());
    let _turn = alone();
    on_bucket_thread(|tenant| {
        let outcome = tenant.enter(&never_stuck, |_| {
            let _ = catch_unwind(|| {
                let _asks = OnDrop(|| {
                    let refused = BYTES
                        .with(|bytes| refusing(|| bytes.try_reserve_exact(4 * SHARE)).is_err());
                    assert!(refused.is_ok_and(|refused| refused));
                });
                panic!("caught");
            });
        });
        assert!(outcome.result.is_ok(), "{outcome:?}");
        assert_eq!(outcome.usage.overdrawn, 0);
        serves(tenant);
    });
}
