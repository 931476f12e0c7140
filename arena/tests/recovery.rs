//! Every way out of a handler that gives its bucket back, on real bucket threads.

mod common;

use common::{
    exhaustion, fill_the_arena, lies_in_shared_heap, never_stuck, next_bucket, on_bucket_thread,
    overflow_the_stack, panic_message,
};
use std::cell::Cell;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use transom_arena::{BucketState, Bump, Reason, Tenant};

#[global_allocator]
static GLOBAL: transom_arena::TransomAllocator = transom_arena::TransomAllocator;

struct CountsItsDrop(Rc<Cell<usize>>);

impl Drop for CountsItsDrop {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

#[test]
fn an_escape_ends_the_request_and_the_next_one_has_the_whole_arena() {
    on_bucket_thread(|tenant| {
        for _ in 0..1000 {
            // SAFETY: `fill_the_arena` holds nothing but a String.
            let outcome =
                unsafe { tenant.enter_escaping(&never_stuck, |_| -> u8 { fill_the_arena() }) };
            let e = exhaustion(outcome.result);
            assert_eq!(e.reason, Reason::Arena);
            assert!(e.asked > e.free && e.used + e.free <= e.size, "{e:?}");
            let outcome = tenant.enter(&never_stuck, |arena| {
                vec![1u8; arena.chunk_capacity() - 64].len()
            });
            assert!(outcome.result.is_ok(), "{outcome:?}");
            assert_eq!(outcome.left, 0);
        }
    });
}

#[test]
fn an_allocation_that_no_machine_could_serve_is_an_exhaustion_too() {
    on_bucket_thread(|tenant| {
        // SAFETY: nothing is held.
        let outcome = unsafe {
            tenant.enter_escaping(&never_stuck, |_| {
                black_box(Vec::<u8>::with_capacity(isize::MAX as usize)).len()
            })
        };
        assert_eq!(exhaustion(outcome.result).asked, isize::MAX as usize);
    });
}

#[test]
fn a_stack_overflow_is_escaped_and_the_next_request_is_served() {
    on_bucket_thread(|tenant| {
        for _ in 0..100 {
            // SAFETY: nothing is held.
            let outcome = unsafe { tenant.enter_escaping(&never_stuck, |_| overflow_the_stack()) };
            assert_eq!(exhaustion(outcome.result).reason, Reason::Stack);
            let outcome = tenant.enter(&never_stuck, |_| format!("{}", 7).len());
            assert!(matches!(outcome.result, Ok(1)));
        }
        let geometry = tenant.bucket().geometry();
        assert_eq!(tenant.bucket().stack_high_water(), geometry.stack_size());
    });
}

#[test]
fn the_explicit_arena_unwinds_with_destructors_and_is_told_from_a_panic() {
    on_bucket_thread(|tenant| {
        let dropped = Rc::new(Cell::new(0));
        for n in 1..=100 {
            let guard = CountsItsDrop(dropped.clone());
            let outcome = tenant.enter(&never_stuck, move |arena| -> usize {
                let _guard = guard;
                loop {
                    black_box(arena.alloc([0u8; 1000]));
                }
            });
            let e = exhaustion(outcome.result);
            assert!(e.reason == Reason::Arena && e.free < 1000, "{e:?}");
            assert_eq!((dropped.get(), outcome.left), (n, 0));
        }
    });
}

#[test]
fn bumpalos_own_collections_unwind_as_exhaustion_and_not_as_a_panic() {
    fn vector(arena: &Bump) -> usize {
        let mut bytes = bumpalo::collections::Vec::new_in(arena);
        loop {
            bytes.push(black_box(1u8));
        }
    }
    fn string(arena: &Bump) -> usize {
        let mut text = bumpalo::collections::String::new_in(arena);
        loop {
            text.push_str("more and more");
        }
    }
    on_bucket_thread(|tenant| {
        for handler in [vector, string] {
            let outcome = tenant.enter(&never_stuck, handler);
            assert_eq!(exhaustion(outcome.result).reason, Reason::Arena);
        }
    });
}

/// `set_allocation_limit` is a safe method of what the handler is given. With the limit lifted, bumpalo asks
/// the global allocator for another chunk, and nothing allocated from that may ever be taken for a block of
/// the allocator's own.
#[test]
fn a_handler_that_lifts_the_arenas_limit_gains_nothing_and_spoils_nothing() {
    on_bucket_thread(|tenant| {
        let capacity = tenant.enter(&never_stuck, Bump::chunk_capacity);
        let capacity = capacity.result.expect("returns");
        let outcome = tenant.enter(&never_stuck, |arena| {
            arena.set_allocation_limit(None);
        });
        assert!(outcome.result.is_ok(), "{outcome:?}");
        let outcome = tenant.enter(&never_stuck, |arena| {
            arena.try_alloc_slice_fill_copy(400 << 10, 7u8).is_err()
        });
        assert!(
            matches!(outcome.result, Ok(true)),
            "closed again: {outcome:?}"
        );
        // SAFETY: nothing is held.
        let outcome = unsafe {
            tenant.enter_escaping(&never_stuck, |arena| {
                arena.set_allocation_limit(None);
                // In here the second chunk comes from the shared heap.
                let large = transom_arena::outside(|| arena.alloc_slice_fill_copy(400 << 10, 7u8));
                assert!(lies_in_shared_heap(large.as_ptr() as usize));
                black_box(String::from("not from that chunk")).len()
            })
        };
        assert_eq!(exhaustion(outcome.result).reason, Reason::Arena);
        let outcome = tenant.enter(&never_stuck, |arena| {
            assert!(arena.try_alloc_slice_fill_copy(400 << 10, 7u8).is_err());
            arena.chunk_capacity()
        });
        assert!(
            matches!(outcome.result, Ok(n) if n == capacity),
            "{outcome:?}"
        );
        assert_eq!(outcome.left, 0);
    });
}

#[test]
fn a_request_inside_a_request_is_refused() {
    let [outer, inner] = [next_bucket(), next_bucket()];
    let mut outer = Tenant::adopt(outer).expect("free");
    let mut inner = Tenant::adopt(inner).expect("free");
    let outcome = outer.enter(&never_stuck, |_| {
        matches!(inner.enter(&never_stuck, |_| 1).result, Ok(1))
    });
    let message = panic_message(outcome.result);
    assert!(message.contains("one request at a time"), "{message}");
    assert!(matches!(outer.enter(&never_stuck, |_| 1).result, Ok(1)));
    assert!(matches!(inner.enter(&never_stuck, |_| 1).result, Ok(1)));
}

#[test]
fn an_adopted_bucket_is_free_again_when_its_tenant_is_gone() {
    let bucket = next_bucket();
    let tenant = Tenant::adopt(bucket).expect("free");
    assert!(Tenant::adopt(bucket).is_none());
    assert_eq!(bucket.state(), BucketState::Idle);
    drop(tenant);
    assert_eq!(bucket.state(), BucketState::Unbound);
    assert!(Tenant::adopt(bucket).is_some());
}

/// Its first thread may still be running on the bucket's stack when its `main` has returned.
#[test]
fn a_bucket_gets_a_second_thread_once_the_first_one_is_gone() {
    let bucket = next_bucket();
    for _ in 0..20 {
        let result = common::start_on(bucket, |tenant| {
            let outcome = tenant.enter(&never_stuck, |_| format!("{}", 7).len());
            assert!(matches!(outcome.result, Ok(1)));
        });
        assert!(Tenant::adopt(bucket).is_none());
        let second = bucket.start_thread(|_, _| {}, 0);
        assert_eq!(
            second.expect_err("taken").kind(),
            std::io::ErrorKind::AlreadyExists
        );
        common::finish(&result);
        common::wait_for("the thread has ended", || bucket.has_ended());
        assert!(!bucket.has_ended(), "once");
        assert_eq!(bucket.state(), BucketState::Unbound);
    }
}

#[test]
fn of_several_threads_that_ask_whether_one_has_ended_one_is_told_so() {
    const ROUNDS: usize = 200;
    let bucket = next_bucket();
    let told = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while told.load(Ordering::SeqCst) < ROUNDS {
                    if bucket.has_ended() {
                        told.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
        for round in 1..=ROUNDS {
            common::finish(&common::start_on(bucket, |_| {}));
            common::wait_for("one of them is told", || {
                told.load(Ordering::SeqCst) >= round
            });
            assert_eq!(told.load(Ordering::SeqCst), round);
            assert_eq!(bucket.state(), BucketState::Unbound);
        }
    });
}

/// The place of a thread that has left is out of service until another one says that it serves, not only
/// until it has a thread again.
#[test]
fn a_bucket_rests_from_when_a_thread_says_so_until_its_successor_says_otherwise() {
    let bucket = next_bucket();
    let rest = |rests: bool| {
        let result = common::start_on(bucket, move |tenant| {
            let state = tenant.bucket().state();
            let _ = tenant.enter(&never_stuck, |_| 1);
            assert_eq!(tenant.bucket().state(), state, "by a request of its own");
            tenant.set_resting(rests);
        });
        common::finish(&result);
        common::wait_for("the thread has ended", || bucket.has_ended());
        bucket.state()
    };
    assert_eq!(rest(true), BucketState::Resting);
    assert_eq!(rest(true), BucketState::Resting);
    assert_eq!(rest(false), BucketState::Unbound);
}

#[test]
fn what_a_request_used_is_reported_to_the_byte() {
    on_bucket_thread(|tenant| {
        let capacity = tenant.bucket().geometry().arena_size() - 64;
        for size in [1, 100, 10_000, 100_000] {
            let outcome = tenant.enter(&never_stuck, |_| black_box(vec![1u8; size]).len());
            assert_eq!(
                (outcome.usage.high_water, outcome.usage.capacity),
                (size.next_multiple_of(16), capacity)
            );
        }
        assert_eq!(
            tenant.bucket().high_water(),
            100_000usize.next_multiple_of(16)
        );
    });
}
