//! `Policy::Overdraft`: a request that outgrows its arena goes on to its return, its answer is an exhaustion,
//! and nothing that it held is lost.

mod common;

use common::{
    OVERDRAFT, Reported, SHARE, alone, exhaustion, finish, never_stuck, next_bucket,
    on_bucket_thread, parks, resident_pages, start_on,
};
use std::collections::HashMap;
use std::fmt;
use std::hint::black_box;
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use transom_arena::{
    Bump, Reason, Tenant, current_usage, exhausted, outside, overdraft_usage, refusing,
};

#[global_allocator]
static GLOBAL: transom_arena::TransomAllocator = transom_arena::TransomAllocator;

/// More than an arena has, less than that and a share.
const HUNGRY: usize = 700 << 10;

/// A request that outgrows its arena on the way to its return.
fn overdraws<R: fmt::Debug + Copy + 'static>(tenant: &mut Tenant, f: impl FnOnce(&Bump) -> R) {
    let outcome = tenant.enter(&never_stuck, f);
    let usage = outcome.usage;
    let e = exhaustion(outcome.result);
    assert_eq!(e.reason, Reason::Arena);
    assert!(e.asked > e.free && e.used + e.free <= e.size, "{e:?}");
    assert!(usage.high_water <= usage.capacity);
}

fn serves(tenant: &mut Tenant) {
    let outcome = tenant.enter(&never_stuck, |_| format!("{}", 7).len());
    assert!(matches!(outcome.result, Ok(1)), "{outcome:?}");
    assert_eq!((outcome.left, outcome.usage.overdrawn), (0, 0));
}

#[test]
fn a_hungry_request_returns_and_is_answered_as_exhausted() {
    let _turn = alone();
    on_bucket_thread(|tenant| {
        for _ in 0..200 {
            let mut returned = false;
            overdraws(tenant, |_| {
                let large = black_box(vec![7u8; HUNGRY]);
                assert!(large.iter().all(|&byte| byte == 7));
                assert!(exhausted().is_some_and(|e| e.asked == HUNGRY));
                returned = true;
            });
            assert!(returned, "nothing of it was skipped");
            serves(tenant);
        }
    });
}

/// A vector that doubles needs three times its size while it moves; here arena and share together hold that.
#[test]
fn it_may_have_its_share_and_not_more() {
    let _turn = alone();
    on_bucket_thread(|tenant| {
        overdraws(tenant, |_| {
            let pieces: Vec<Vec<u8>> = (0..10).map(|_| vec![1u8; 100 << 10]).collect();
            black_box(pieces).len()
        });
        serves(tenant);
    });
    let parked = parks(|_| black_box(vec![1u8; SHARE + 1]).len());
    assert_eq!(parked.report.asked_and_free().0, SHARE + 1);
    assert!(parked.for_ever());
    let parked = parks(|_| {
        let first = black_box(vec![1u8; HUNGRY]);
        first.len() + black_box(vec![1u8; HUNGRY]).len()
    });
    assert_eq!(parked.report.asked_and_free().0, HUNGRY);
    assert!(parked.for_ever());
    // What those two have drawn stays with them, and the others keep their shares.
    on_bucket_thread(|tenant| {
        for _ in 0..20 {
            overdraws(tenant, |_| black_box(vec![7u8; HUNGRY]).len());
            serves(tenant);
        }
    });
}

#[test]
fn a_lock_held_over_it_is_released_and_not_poisoned() {
    let _turn = alone();
    static ORDERS: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
    on_bucket_thread(|tenant| {
        for n in 0..50 {
            overdraws(tenant, |_| {
                let mut orders = ORDERS.lock().expect("not poisoned");
                orders.push(vec![1u8; HUNGRY]);
                orders.clear();
                n
            });
            let outcome = tenant.enter(&never_stuck, |_| ORDERS.lock().expect("whole").len());
            assert!(matches!(outcome.result, Ok(0)), "{outcome:?}");
        }
    });
}

/// Standard output is locked while what is printed is formatted.
#[test]
fn the_lock_of_a_stream_is_released() {
    let _turn = alone();
    struct Hungry;
    impl fmt::Display for Hungry {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(&black_box("x".repeat(HUNGRY))[..1])
        }
    }
    on_bucket_thread(|tenant| {
        overdraws(tenant, |_| eprint!("{Hungry:}"));
        let outcome = tenant.enter(&never_stuck, |_| eprint!(""));
        assert!(outcome.result.is_ok(), "{outcome:?}");
    });
    eprintln!();
}

#[test]
fn a_lazy_value_made_on_the_way_is_there_for_the_others() {
    let _turn = alone();
    static LARGE: LazyLock<Vec<u8>> = LazyLock::new(|| vec![9u8; HUNGRY]);
    let before = overdraft_usage();
    on_bucket_thread(|tenant| {
        overdraws(tenant, |_| LARGE.len());
        for _ in 0..100 {
            let outcome = tenant.enter(&never_stuck, |_| LARGE.iter().all(|&byte| byte == 9));
            assert!(matches!(outcome.result, Ok(true)), "{outcome:?}");
        }
    });
    let after = overdraft_usage();
    assert!(after.kept >= before.kept + HUNGRY, "{after:?}");
}

/// More of them at once than there are shares: they wait for one another, and all of them return.
#[test]
fn more_hungry_requests_than_shares_wait_for_one_another() {
    let _turn = alone();
    static DONE: AtomicUsize = AtomicUsize::new(0);
    let results: Vec<_> = (0..12)
        .map(|_| {
            start_on(next_bucket(), |tenant| {
                for _ in 0..50 {
                    overdraws(tenant, |_| {
                        let mut map = HashMap::new();
                        for n in 0..12_000u64 {
                            map.insert(n, n.to_string());
                        }
                        black_box(map.len())
                    });
                    DONE.fetch_add(1, Ordering::Relaxed);
                }
                serves(tenant);
            })
        })
        .collect();
    for result in &results {
        finish(result);
    }
    assert_eq!(DONE.load(Ordering::Relaxed), 12 * 50);
    let usage = overdraft_usage();
    assert!(usage.used <= OVERDRAFT);
}

/// A panic in a marked request unwinds as any does, and what its destructors allocate is bounded too.
#[test]
fn destructors_of_a_panic_have_a_share_and_not_the_process() {
    let _turn = alone();
    struct Asks(usize);
    impl Drop for Asks {
        fn drop(&mut self) {
            black_box(vec![1u8; self.0]);
        }
    }
    fn handler(arena: &Bump, size: usize) -> u8 {
        while arena.try_alloc([0u8; 64]).is_ok() {}
        let _guard = Asks(size);
        panic!("the reason")
    }
    on_bucket_thread(|tenant| {
        for _ in 0..20 {
            let outcome = tenant.enter(&never_stuck, |arena| handler(arena, SHARE / 2));
            assert!(common::panic_message(outcome.result).starts_with("the reason"));
            serves(tenant);
        }
    });
    let before = resident_pages();
    for size in [SHARE, 1 << 30] {
        let parked = parks(move |arena| handler(arena, size));
        assert_eq!(parked.report.asked_and_free().0, size);
        assert!(parked.for_ever());
    }
    assert!(
        resident_pages() < before + ((2 * SHARE) >> 12),
        "1 GiB is not there"
    );
}

#[test]
fn what_may_be_refused_is_refused_without_the_overdraft() {
    let _turn = alone();
    on_bucket_thread(|tenant| {
        let outcome = tenant.enter(&never_stuck, |_| {
            let mut bytes = Vec::<u8>::new();
            let refused = refusing(|| bytes.try_reserve(HUNGRY).is_err());
            let given = refusing(|| bytes.try_reserve(100).is_ok());
            refused && given && exhausted().is_none()
        });
        assert!(matches!(outcome.result, Ok(true)), "{outcome:?}");
        // Under the other policy it does not end the request either.
        // SAFETY: nothing is held.
        let outcome = unsafe {
            tenant.enter_escaping(&never_stuck, |_| {
                let mut bytes = Vec::<u8>::new();
                refusing(|| bytes.try_reserve(HUNGRY).is_err())
            })
        };
        assert!(matches!(outcome.result, Ok(true)), "{outcome:?}");
    });
}

/// A destructor that allocates while a panic unwinds, which the handler then catches.
#[test]
fn what_is_drawn_in_a_panic_that_is_caught_ends_in_a_500_too() {
    let _turn = alone();
    static STASH: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
    struct Takes;
    impl Drop for Takes {
        fn drop(&mut self) {
            let taken = vec![1u8; HUNGRY];
            STASH
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(taken);
        }
    }
    on_bucket_thread(|tenant| {
        let outcome = tenant.enter(&never_stuck, |_| {
            let _ = catch_unwind(|| {
                let _takes = Takes;
                panic!("caught");
            });
        });
        assert_eq!(exhaustion(outcome.result).reason, Reason::Arena);
        outside(|| STASH.lock().unwrap_or_else(PoisonError::into_inner).clear());
        serves(tenant);
    });
}

/// Unwinding needs memory, which the code that panics does not know.
#[test]
fn a_panic_where_memory_is_refused_unwinds() {
    let _turn = alone();
    on_bucket_thread(|tenant| {
        let outcome = tenant.enter(&never_stuck, |arena| {
            while arena.try_alloc([0u8; 16]).is_ok() {}
            refusing(|| panic!("the reason {}", black_box(7)));
        });
        assert!(common::panic_message(outcome.result).starts_with("the reason"));
        serves(tenant);
    });
}

/// `set_allocation_limit` is a safe method. With the limit lifted bumpalo asks for another chunk: that is an
/// allocation like any other.
#[test]
fn a_bump_whose_limit_was_lifted_draws_on_the_overdraft_and_gives_it_back() {
    let _turn = alone();
    on_bucket_thread(|tenant| {
        let before = overdraft_usage().kept;
        for _ in 0..20 {
            overdraws(tenant, |arena| {
                arena.set_allocation_limit(None);
                let large = arena.alloc_slice_fill_copy(400 << 10, 7u8);
                let text = black_box(String::from("beside it"));
                large.iter().all(|&byte| byte == 7) && text.len() == 9
            });
            serves(tenant);
        }
        assert_eq!(overdraft_usage().kept, before);
    });
    // Beyond the share it is parked, as for any other allocation, and the advice names the right flag.
    let parked = parks(|arena| {
        arena.set_allocation_limit(None);
        arena.alloc_slice_fill_copy(4 * SHARE, 7u8).len()
    });
    assert_eq!(parked.report.what(), Reported::Exhausted(Reason::Arena));
    assert_eq!(Reason::Arena.flag(), "--bucket-size");
    assert!(parked.for_ever());
}

#[test]
fn little_stack_left_marks_a_request_too() {
    let _turn = alone();
    fn deeper(n: u32) -> u32 {
        let frame = [n; 64];
        black_box(&frame);
        if exhausted().is_some() {
            return n;
        }
        deeper(n + 1) + black_box(frame[0]) - n
    }
    on_bucket_thread(|tenant| {
        let outcome = tenant.enter(&never_stuck, |_| black_box(deeper(0)) > 10);
        assert_eq!(exhaustion(outcome.result).reason, Reason::Stack);
        serves(tenant);
    });
}

/// An LRU of 16 strings needs only the memory of its entries.
#[test]
fn what_a_request_needs_follows_what_it_has_live() {
    let _turn = alone();
    on_bucket_thread(|tenant| {
        let outcome = tenant.enter(&never_stuck, |_| {
            let mut cache = std::collections::BTreeMap::new();
            for n in 0..100_000u32 {
                cache.insert(n, format!("value {n}"));
                if cache.len() > 16 {
                    cache.pop_first();
                }
            }
            let (_, _, high_water) = current_usage().expect("in a request");
            (cache.len(), high_water)
        });
        let (entries, high_water) = outcome.result.expect("returns");
        assert!(entries == 16 && high_water <= 8 << 10, "{high_water}");
        let outcome = tenant.enter(&never_stuck, |_| {
            let mut last = String::from("twelve bytes");
            for n in 0..1_000_000u32 {
                let temporary = format!("twelve {:05}", n % 100_000);
                last = temporary.to_uppercase();
            }
            last.len()
        });
        assert!(matches!(outcome.result, Ok(12)), "{outcome:?}");
        assert!(outcome.usage.high_water <= 1 << 10, "{outcome:?}");
    });
}
