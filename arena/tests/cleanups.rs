//! `defer`: on every way out that comes back, newest first, once.

mod common;

use common::{
    exhaustion, fill_the_arena, finish, never_stuck, next_bucket, on_bucket_thread,
    overflow_the_stack, panic_message, start_on, wait_for,
};
use std::cell::{Cell, RefCell};
use std::hint::black_box;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use transom_arena::{
    Bump, Failed, Reason, Registered, Shared, Tenant, WayOut, current_usage, defer,
};

#[global_allocator]
static GLOBAL: transom_arena::TransomAllocator = transom_arena::TransomAllocator;

/// What the cleanups have noted; with room, so that noting does not allocate.
type Notes = Rc<RefCell<Vec<(u32, WayOut)>>>;

fn notes() -> Notes {
    Rc::new(RefCell::new(Vec::with_capacity(64)))
}

fn register(notes: &Notes) {
    for n in 1..=3 {
        let notes = notes.clone();
        assert!(defer(move |way| notes.borrow_mut().push((n, way))));
    }
}

fn check(notes: &Notes, way: WayOut) {
    assert_eq!(notes.take(), [(3, way), (2, way), (1, way)]);
    notes.borrow_mut().reserve(64);
    assert_eq!(Rc::strong_count(notes), 1, "the closures were dropped");
}

fn escaping(tenant: &mut Tenant, f: impl FnOnce(&Bump) -> u8) -> Reason {
    // SAFETY: the handlers below hold counted references to what they count with, and those in their
    // cleanups.
    let outcome = unsafe { tenant.enter_escaping(&never_stuck, f) };
    assert_eq!(outcome.left, 0);
    exhaustion(outcome.result).reason
}

#[test]
fn cleanups_run_newest_first_on_every_way_out() {
    on_bucket_thread(|tenant| {
        let notes = notes();
        for _ in 0..10 {
            let outcome = tenant.enter(&never_stuck, |_| register(&notes));
            assert!(outcome.result.is_ok() && outcome.left == 0, "{outcome:?}");
            check(&notes, WayOut::Returned);

            let outcome = tenant.enter(&never_stuck, |_| -> u8 {
                register(&notes);
                panic!("unlucky");
            });
            assert!(outcome.left == 0 && panic_message(outcome.result).starts_with("unlucky"));
            check(&notes, WayOut::Unwound);

            let outcome = tenant.enter(&never_stuck, |arena| -> u8 {
                register(&notes);
                loop {
                    black_box(arena.alloc([0u8; 100]));
                }
            });
            assert!(outcome.left == 0);
            assert_eq!(exhaustion(outcome.result).reason, Reason::Arena);
            check(&notes, WayOut::Unwound);

            let reason = escaping(tenant, |_| {
                register(&notes);
                fill_the_arena()
            });
            assert_eq!(reason, Reason::Arena);
            check(&notes, WayOut::Escaped);

            let reason = escaping(tenant, |_| {
                register(&notes);
                overflow_the_stack() as u8
            });
            assert_eq!(reason, Reason::Stack);
            check(&notes, WayOut::Overflowed);
        }
    });
}

#[test]
fn a_cleanup_that_panics_does_not_stop_the_others_and_does_not_hide_the_reason() {
    fn register_one_that_panics(ran: &Rc<Cell<u32>>) {
        for n in [1, 10, 100] {
            let ran = ran.clone();
            defer(move |_| {
                ran.set(ran.get() + n);
                panic!("from cleanup {n}");
            });
        }
    }
    on_bucket_thread(|tenant| {
        let ran = Rc::new(Cell::new(0));
        for _ in 0..10 {
            let outcome = tenant.enter(&never_stuck, |_| register_one_that_panics(&ran));
            assert_eq!((ran.take(), outcome.left), (111, 0));
            assert!(panic_message(outcome.result).starts_with("from cleanup 100"));

            let outcome = tenant.enter(&never_stuck, |_| -> u8 {
                register_one_that_panics(&ran);
                panic!("the reason");
            });
            assert_eq!((ran.take(), outcome.left), (111, 0));
            assert!(panic_message(outcome.result).starts_with("the reason"));

            let outcome = tenant.enter(&never_stuck, |arena| -> u8 {
                register_one_that_panics(&ran);
                while arena.try_alloc(1u8).is_ok() {}
                arena.alloc([0u8; 100])[0]
            });
            assert_eq!((ran.take(), outcome.left), (111, 0));
            assert_eq!(exhaustion(outcome.result).reason, Reason::Arena);

            let reason = escaping(tenant, |_| {
                register_one_that_panics(&ran);
                fill_the_arena()
            });
            assert_eq!((ran.take(), reason), (111, Reason::Arena));
        }
    });
}

/// Its payload's own destructor panics, and that payload's too.
#[test]
fn payloads_whose_destructors_panic_do_not_get_out() {
    struct Nested(u32);
    impl Drop for Nested {
        fn drop(&mut self) {
            if self.0 > 0 {
                std::panic::panic_any(Nested(self.0 - 1));
            }
        }
    }
    on_bucket_thread(|tenant| {
        for _ in 0..10 {
            let outcome =
                tenant.enter(&never_stuck, |_| -> u8 { std::panic::panic_any(Nested(3)) });
            assert_eq!(outcome.left, 0);
            assert!(panic_message(outcome.result).starts_with("a value that is no text"));
            let outcome = tenant.enter(&never_stuck, |_| -> u8 {
                defer(|_| std::panic::panic_any(Nested(3)));
                panic!("the reason");
            });
            assert_eq!(outcome.left, 0);
            assert!(panic_message(outcome.result).starts_with("the reason"));
        }
        // One that never ends is given up and kept: a leak costs only its bytes.
        let outcome = tenant.enter(&never_stuck, |_| -> u8 {
            std::panic::panic_any(Nested(u32::MAX))
        });
        assert!(outcome.left > 0);
        assert!(matches!(outcome.result, Err(Failed::Panicked(_))));
        let outcome = tenant.enter(&never_stuck, |_| format!("{}", 1).len());
        assert!(matches!(outcome.result, Ok(1)));
    });
}

#[test]
fn a_cleanup_may_register_another_and_use_the_full_arena_no_more() {
    on_bucket_thread(|tenant| {
        let ran = Rc::new(Cell::new(0));
        let theirs = ran.clone();
        let reason = escaping(tenant, move |arena| {
            defer(move |_| {
                let text = black_box(format!("allocated in the {} room", "panic"));
                theirs.set(text.len());
                let theirs = theirs.clone();
                defer(move |_| theirs.set(theirs.get() + 1000));
            });
            while arena.try_alloc(1u8).is_ok() {}
            fill_the_arena()
        });
        assert_eq!(reason, Reason::Arena);
        assert_eq!(ran.get(), "allocated in the panic room".len() + 1000);
    });
}

/// The block that the closure lies in belongs to the request, also where allocations are aimed at the shared
/// heap.
#[test]
fn a_cleanup_registered_inside_a_shared_cell_runs_when_the_request_ends() {
    static CELL: Shared<u64> = Shared::new(0);
    struct UsesTheCell(Rc<Cell<u32>>);
    impl Drop for UsesTheCell {
        fn drop(&mut self) {
            let ran = &self.0;
            let _ = CELL.with(|n| {
                *n += 1;
                // Larger than what the arena has left, so it goes to the panic room.
                let (ran, large) = (ran.clone(), [1u8; 2000]);
                defer(move |_| ran.set(ran.get() + u32::from(black_box(large)[7])));
            });
        }
    }
    on_bucket_thread(|tenant| {
        let ran = Rc::new(Cell::new(0));
        for n in 1..=10 {
            let ran = ran.clone();
            let outcome = tenant.enter(&never_stuck, |arena| -> u8 {
                let _guard = UsesTheCell(ran.clone());
                while current_usage().is_some_and(|(_, free, _)| free > 1000) {
                    black_box(arena.alloc([0u8; 100]));
                }
                panic!("{}", 1);
            });
            assert!(panic_message(outcome.result).starts_with('1'));
            assert_eq!(ran.get(), n);
        }
    });
}

#[test]
fn a_deferred_closure_frees_what_it_holds_when_the_request_returns() {
    on_bucket_thread(|tenant| {
        let outcome = tenant.enter(&never_stuck, |_| {
            let held = black_box(String::from("of this request"));
            defer(move |_| drop(held))
        });
        assert!(matches!(outcome.result, Ok(true)));
        assert_eq!(outcome.left, 0);
    });
}

#[test]
fn outside_a_request_nothing_is_registered() {
    assert!(!defer(|_| unreachable!()));
}

/// Counts how often it is dropped.
struct Counts(Rc<Cell<u32>>);

impl Drop for Counts {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

#[test]
fn what_is_registered_is_dropped_once_on_every_way_out() {
    on_bucket_thread(|tenant| {
        let drops = Rc::new(Cell::new(0));
        let counts = || Registered::new(Counts(drops.clone()));
        for turn in 0..10 {
            drops.set(0);
            let outcome = tenant.enter(&never_stuck, |_| {
                let first = counts();
                let second = counts();
                drop(first); // not the newest
                assert_eq!(drops.get(), 1);
                let third = counts();
                drop(second.into_inner());
                assert_eq!(Rc::strong_count(&third.0), 2);
            });
            assert!(outcome.result.is_ok() && outcome.left == 0, "{outcome:?}");
            assert_eq!(drops.get(), 3);

            let outcome = tenant.enter(&never_stuck, |_| -> u8 {
                let _one = counts();
                panic!("unlucky");
            });
            assert!(outcome.left == 0 && panic_message(outcome.result).starts_with("unlucky"));
            assert_eq!(drops.get(), 4);

            let reason = escaping(tenant, |_| {
                let _two = [counts(), counts()];
                fill_the_arena()
            });
            assert_eq!((reason, drops.get()), (Reason::Arena, 6), "turn {turn}");

            let reason = escaping(tenant, |_| {
                let _one = counts();
                overflow_the_stack() as u8
            });
            assert_eq!((reason, drops.get()), (Reason::Stack, 7));

            // Registered where there is no room left for it but the reserve.
            let reason = escaping(tenant, |_| {
                let _full = fill_to_the_last_byte();
                let _three = [counts(), counts(), counts()];
                fill_the_arena()
            });
            assert_eq!((reason, drops.get()), (Reason::Arena, 10));
        }
        assert_eq!(Rc::strong_count(&drops), 1);
    });
}

fn fill_to_the_last_byte() -> Vec<Vec<u8>> {
    let mut blocks: Vec<Vec<u8>> = Vec::with_capacity(1 << 13);
    for size in [1 << 16, 1 << 12, 1 << 8, 64, 16] {
        while current_usage().is_some_and(|(_, free, _)| free >= 2 * size) {
            blocks.push(Vec::with_capacity(size));
        }
    }
    blocks
}

/// What lies in the reserve when the request is left stays as it is while cleanups allocate there.
#[test]
fn cleanups_that_allocate_do_not_write_over_those_that_have_not_run() {
    struct Checks([u64; 32], Rc<Cell<u32>>);
    impl Drop for Checks {
        fn drop(&mut self) {
            let block = black_box(vec![0xEEu8; 1500]);
            if block.iter().all(|&byte| byte == 0xEE) && self.0 == [7; 32] {
                self.1.set(self.1.get() + 1);
            }
        }
    }
    on_bucket_thread(|tenant| {
        let well = Rc::new(Cell::new(0));
        for turn in 1..=5 {
            let reason = escaping(tenant, |_| {
                let _full = fill_to_the_last_byte();
                let _all: [_; 8] =
                    std::array::from_fn(|_| Registered::new(Checks([7; 32], well.clone())));
                fill_the_arena()
            });
            assert_eq!((reason, well.get()), (Reason::Arena, 8 * turn));
        }
        assert_eq!(Rc::strong_count(&well), 1);
    });
}

/// After any number of values: the value that finds no more room is dropped, and not leaked.
#[test]
fn a_value_for_which_there_is_no_room_is_dropped() {
    on_bucket_thread(|tenant| {
        let (made, drops) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        for _ in 0..5 {
            let reason = escaping(tenant, |_| {
                let _full = fill_to_the_last_byte();
                loop {
                    made.set(made.get() + 1);
                    std::mem::forget(Registered::new((Counts(drops.clone()), [0u8; 4000])));
                }
            });
            assert_eq!((reason, drops.get()), (Reason::Arena, made.get()));
        }
        assert_eq!(Rc::strong_count(&drops), 1);
    });
}

/// A registered value may own another that was registered after it: each is dropped once.
#[test]
fn what_is_registered_may_own_what_is_registered() {
    on_bucket_thread(|tenant| {
        let drops = Rc::new(Cell::new(0));
        for turn in 1..=5 {
            let reason = escaping(tenant, |_| {
                let counts = || Registered::new(Counts(drops.clone()));
                let mut outer = Registered::new(Vec::new());
                outer.extend([counts(), counts()]);
                let late = Rc::new(RefCell::new(None));
                let owned = late.clone();
                assert!(defer(move |_| drop(owned.take())));
                *late.borrow_mut() = Some(counts());
                std::mem::forget(late);
                fill_the_arena()
            });
            assert_eq!((reason, drops.get()), (Reason::Arena, 3 * turn));
        }
    });
}

/// A request that is left by a jump inside `refusing` refuses nothing to the next one.
#[test]
fn refusing_ends_with_its_request() {
    on_bucket_thread(|tenant| {
        let reason = escaping(tenant, |_| {
            transom_arena::refusing(|| overflow_the_stack() as u8)
        });
        assert_eq!(reason, Reason::Stack);
        assert_eq!(escaping(tenant, |_| fill_the_arena()), Reason::Arena);
    });
}

/// A destructor of a panic's payload may register something too: it runs at the end of its own request.
#[test]
fn what_a_payload_registers_runs_before_the_next_request() {
    struct Registers(Rc<Cell<u32>>);
    impl Drop for Registers {
        fn drop(&mut self) {
            let count = self.0.clone();
            assert!(defer(move |_| count.set(count.get() + 1)));
        }
    }
    // SAFETY: it stays on its thread.
    unsafe impl Send for Registers {}
    on_bucket_thread(|tenant| {
        let count = Rc::new(Cell::new(0));
        let outcome = tenant.enter(&never_stuck, |_| -> u8 {
            std::panic::resume_unwind(Box::new(Registers(count.clone())))
        });
        assert!(outcome.result.is_err());
        assert_eq!(count.get(), 1);
    });
}

#[test]
fn what_is_registered_and_kept_outlives_its_request() {
    thread_local! {
        static KEPT: RefCell<Option<Registered<Counts>>> = const { RefCell::new(None) };
    }
    on_bucket_thread(|tenant| {
        let drops = Rc::new(Cell::new(0));
        let outcome = tenant.enter(&never_stuck, |_| {
            KEPT.set(Some(Registered::new(Counts(drops.clone()))));
        });
        assert!(outcome.result.is_ok() && outcome.left > 0, "{outcome:?}");
        assert_eq!(drops.get(), 0);
        let outcome = tenant.enter(&never_stuck, |_| {
            let kept = KEPT.take().expect("from the request before");
            assert_eq!(Rc::strong_count(&kept.0), 2);
        });
        assert!(outcome.result.is_ok(), "{outcome:?}");
        assert_eq!((outcome.kept, drops.get()), (0, 1));
    });
}

#[test]
fn outside_of_requests_what_is_registered_is_a_plain_owner() {
    let drops = Rc::new(Cell::new(0));
    let one = Registered::new(Counts(drops.clone()));
    drop(one);
    assert_eq!(drops.get(), 1);
}

/// A value that runs `defer` and makes a `Registered` when it is dropped.
struct Registers(&'static Registrations);

/// Counts of the outcomes.
#[derive(Default)]
struct Registrations {
    dropped: AtomicU32,
    refused: AtomicU32,
    ran: AtomicU32,
    values_dropped: AtomicU32,
}

impl Registrations {
    fn new() -> &'static Self {
        Box::leak(Box::default())
    }

    fn look(&self) -> [u32; 4] {
        let all = [
            &self.dropped,
            &self.refused,
            &self.ran,
            &self.values_dropped,
        ];
        all.map(|count| count.load(Ordering::SeqCst))
    }
}

struct CountsItsDrop(&'static AtomicU32);

impl Drop for CountsItsDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        let Registrations {
            dropped,
            refused,
            ran,
            values_dropped,
        } = self.0;
        let closures = CountsItsDrop(dropped);
        let deferred = defer(move |_| {
            let _closures = &closures;
            ran.fetch_add(1, Ordering::SeqCst);
        });
        if !deferred {
            refused.fetch_add(1, Ordering::SeqCst);
        }
        drop(Registered::new(CountsItsDrop(values_dropped)));
        let forgotten = Registered::new(CountsItsDrop(values_dropped));
        std::mem::forget(forgotten);
    }
}

/// A cleanup that it registers then would run in a request of the next thread.
#[test]
fn nothing_is_registered_by_a_thread_that_ends() {
    thread_local! {
        static LAST: RefCell<Option<Registers>> = const { RefCell::new(None) };
    }
    let bucket = next_bucket();
    let seen = Registrations::new();
    let result = start_on(bucket, move |tenant| {
        let outcome = tenant.enter(&never_stuck, |_| {
            LAST.with_borrow_mut(|last| *last = Some(Registers(seen)));
        });
        assert!(outcome.result.is_ok(), "{outcome:?}");
    });
    finish(&result);
    wait_for("the thread has ended", || bucket.has_ended());
    assert_eq!(seen.look(), [1, 1, 0, 1], "dropped, refused, ran, values");
    let result = start_on(bucket, move |tenant| {
        // SAFETY: nothing is held.
        let outcome =
            unsafe { tenant.enter_escaping(&never_stuck, |_| -> u8 { fill_the_arena() }) };
        assert_eq!(exhaustion(outcome.result).reason, Reason::Arena);
        assert_eq!(seen.look(), [1, 1, 0, 1], "dropped, refused, ran, values");
        let outcome = tenant.enter(&never_stuck, |_| assert!(defer(|_| {})));
        assert!(outcome.result.is_ok(), "this one can: {outcome:?}");
    });
    finish(&result);
}

/// Its destructor runs after the request's cleanups.
#[test]
fn what_a_panics_payload_registers_runs_at_the_end_of_its_request_and_not_of_the_next() {
    on_bucket_thread(|tenant| {
        for _ in 0..10 {
            let seen = Registrations::new();
            let outcome = tenant.enter(&never_stuck, |_| -> u8 {
                std::panic::panic_any(Registers(seen));
            });
            let _ = panic_message(outcome.result);
            assert_eq!(seen.look(), [1, 0, 1, 1], "dropped, refused, ran, values");
            let outcome = tenant.enter(&never_stuck, |_| 1);
            assert!(matches!(outcome.result, Ok(1)), "{outcome:?}");
            assert_eq!(seen.look(), [1, 0, 1, 1], "dropped, refused, ran, values");
        }
    });
}
