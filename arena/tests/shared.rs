//! `Shared` and `outside`: where their memory lies, and how every way out leaves them.

mod common;

use common::{
    SHARED_HEAP, exhaustion, fill_the_arena, finish, lies_in, lies_in_shared_heap, never_stuck,
    next_bucket, on_bucket_thread, panic_message, parks, start_on, wait_for,
};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use transom_arena::{Bump, Outcome, Poisoned, Reason, Shared, Tenant, outside, shared_heap_usage};

#[global_allocator]
static GLOBAL: transom_arena::TransomAllocator = transom_arena::TransomAllocator;

fn escaping<R: Copy + 'static>(tenant: &mut Tenant, f: impl FnOnce(&Bump) -> R) -> Outcome<'_, R> {
    // SAFETY: the handlers in this file hold nothing but memory of their bucket and `Shared` cells.
    unsafe { tenant.enter_escaping(&never_stuck, f) }
}

/// Asks the shared heap for what it can never have, in small steps. Leaves nothing allocated if it may unwind or escape.
fn fill_the_shared_heap() -> ! {
    let mut list = Vec::new();
    loop {
        list.push(black_box([1u8; 1000]));
    }
}

#[test]
fn what_with_allocates_lies_in_the_shared_heap_and_what_read_clones_in_the_bucket() {
    static WORDS: Shared<BTreeMap<String, Vec<u8>>> = Shared::new(BTreeMap::new());
    let bucket = next_bucket();
    let result = start_on(bucket, move |tenant| {
        for n in 0..100u8 {
            let outcome = tenant.enter(&never_stuck, |_| {
                let key = format!("key {n}");
                let stored = WORDS.with(|words| {
                    let entry = words.entry(key.clone()).or_default();
                    entry.resize(100, n);
                    entry.as_ptr() as usize
                });
                let copy = WORDS.read(|words| words[&key].clone()).expect("whole");
                assert!(copy.iter().all(|&byte| byte == n) && copy.len() == 100);
                (stored.expect("whole"), copy.as_ptr() as usize)
            });
            assert_eq!(outcome.live, 0);
            let (stored, copy) = outcome.result.expect("returns");
            assert!(lies_in_shared_heap(stored));
            assert!(lies_in(bucket, copy, 100));
        }
    });
    finish(&result);
    let total = WORDS.read(|words| words.values().map(Vec::len).sum::<usize>());
    assert_eq!(total, Ok(10_000));
    // A thread that runs no request frees and grows them all the same.
    WORDS.with(BTreeMap::clear).expect("whole");
}

#[test]
fn a_value_of_the_process_heap_moves_to_the_shared_heap_when_it_grows_outside() {
    let mut text = String::from("made at start");
    assert!(!lies_in_shared_heap(text.as_ptr() as usize));
    outside(|| text.push_str(", and grown"));
    assert!(lies_in_shared_heap(text.as_ptr() as usize));
    let kept: Shared<String> = Shared::new(text);
    let kept: &'static Shared<String> = Box::leak(Box::new(kept));
    on_bucket_thread(move |tenant| {
        let outcome = tenant.enter(&never_stuck, |_| {
            kept.with(|text| {
                text.push_str(" again");
                lies_in_shared_heap(text.as_ptr() as usize)
            })
        });
        assert!(matches!(outcome.result, Ok(Ok(true))), "{outcome:?}");
    });
    assert_eq!(
        kept.read(Clone::clone).as_deref(),
        Ok("made at start, and grown again")
    );
}

#[test]
fn a_block_of_the_bucket_that_grows_outside_moves_to_the_shared_heap() {
    on_bucket_thread(|tenant| {
        let outcome = tenant.enter(&never_stuck, |_| {
            let mut text = black_box(String::from("made in the bucket"));
            outside(|| text.push_str(", grown outside"));
            assert_eq!(text, "made in the bucket, grown outside");
            lies_in_shared_heap(text.as_ptr() as usize)
        });
        assert!(
            matches!(outcome.result, Ok(true)) && outcome.live == 0,
            "{outcome:?}"
        );
    });
}

#[test]
fn a_panic_inside_with_poisons_and_unlocks_and_one_inside_read_only_unlocks() {
    static CELL: Shared<u64> = Shared::new(1);
    on_bucket_thread(|tenant| {
        for _ in 0..10 {
            let outcome = tenant.enter(&never_stuck, |_| {
                let _ = CELL.read(|_| -> u8 { panic!("while reading") });
            });
            assert!(panic_message(outcome.result).starts_with("while reading"));
            assert_eq!(CELL.with(|n| *n), Ok(1));
            let outcome = tenant.enter(&never_stuck, |_| {
                let _ = CELL.with(|_| -> u8 { panic!("while writing") });
            });
            assert!(panic_message(outcome.result).starts_with("while writing"));
            assert!(CELL.is_poisoned());
            assert_eq!(CELL.with(|n| *n), Err(Poisoned));
            assert_eq!(CELL.read(|n| *n), Err(Poisoned));
            CELL.restore(|| 1);
            assert_eq!(CELL.read(|n| *n), Ok(1));
        }
    });
}

#[test]
fn an_exhausted_arena_inside_read_poisons_nothing() {
    static CELL: Shared<u64> = Shared::new(1);
    on_bucket_thread(|tenant| {
        for _ in 0..10 {
            let outcome = escaping(tenant, |_| {
                CELL.read(|_| -> u8 { fill_the_arena() }).is_ok()
            });
            assert_eq!(exhaustion(outcome.result).reason, Reason::Arena);
            let outcome = tenant.enter(&never_stuck, |arena| {
                CELL.read(|_| -> u8 {
                    loop {
                        black_box(arena.alloc([0u8; 1000]));
                    }
                })
                .is_ok()
            });
            assert_eq!(exhaustion(outcome.result).reason, Reason::Arena);
            assert_eq!(CELL.with(|n| *n), Ok(1));
        }
    });
    parks(|_| CELL.read(|_| -> u8 { fill_the_arena() }).is_ok());
    assert_eq!(CELL.with(|n| *n), Ok(1), "a parked reader holds nothing");
}

/// In a process of its own, because the heap is one for all: other tests would be exhausted too.
#[test]
fn an_exhausted_shared_heap_ends_the_request_poisons_its_cell_and_is_usable_again() {
    common::passes_in_a_child("child_that_exhausts_the_shared_heap", &[]);
}

#[test]
#[ignore = "takes the shared heap from the other tests; run by the one above"]
fn child_that_exhausts_the_shared_heap() {
    static CELL: Shared<Vec<u8>> = Shared::new(Vec::new());
    fn usable() -> bool {
        CELL.restore(Vec::new);
        let room = CELL.with(|bytes| {
            bytes.resize(SHARED_HEAP / 4, 7);
            bytes.len()
        });
        CELL.with(|bytes| *bytes = Vec::new()).expect("whole");
        room == Ok(SHARED_HEAP / 4)
    }
    on_bucket_thread(|tenant| {
        for _ in 0..20 {
            let outcome = escaping(tenant, |_| {
                CELL.with(|bytes| bytes.resize(2 * SHARED_HEAP, 7)).is_ok()
            });
            let e = exhaustion(outcome.result);
            assert_eq!(
                (e.reason, e.asked, e.size),
                (Reason::SharedHeap, 2 * SHARED_HEAP, SHARED_HEAP)
            );
            assert!(CELL.is_poisoned() && usable());
        }
        // What is allocated there when a request escapes is leaked, once; so this comes last but for the parked ones.
        let outcome = escaping(tenant, |_| -> u8 { outside(|| fill_the_shared_heap()) });
        assert_eq!(exhaustion(outcome.result).reason, Reason::SharedHeap);
        let (used, size) = shared_heap_usage();
        assert!(used > 0 && used < size);
        let outcome = tenant.enter(&never_stuck, |_| {
            let text = black_box(String::from("in the bucket again"));
            lies_in_shared_heap(text.as_ptr() as usize)
        });
        assert!(matches!(outcome.result, Ok(false)), "{outcome:?}");
    });
    let parked = parks(|_| CELL.with(|bytes| bytes.resize(2 * SHARED_HEAP, 7)).is_ok());
    assert_eq!(
        parked.report.what(),
        common::Reported::Exhausted(Reason::SharedHeap)
    );
    assert!(parked.for_ever() && CELL.is_poisoned());
    CELL.restore(Vec::new);
    CELL.with(|bytes| bytes.push(1)).expect("whole");
    // While it panics a thread is served from the process heap instead.
    struct Asks;
    impl Drop for Asks {
        fn drop(&mut self) {
            outside(|| drop(black_box(vec![1u8; 2 * SHARED_HEAP])));
        }
    }
    on_bucket_thread(|tenant| {
        let outcome = tenant.enter(&never_stuck, |_| -> u8 {
            let _guard = Asks;
            panic!("the reason");
        });
        assert!(panic_message(outcome.result).starts_with("the reason"));
    });
}

#[test]
fn locking_a_cell_twice_in_one_request_panics_instead_of_waiting_for_itself() {
    static CELL: Shared<u64> = Shared::new(1);
    on_bucket_thread(|tenant| {
        for _ in 0..10 {
            let outcome = tenant.enter(&never_stuck, |_| {
                CELL.read(|_| CELL.read(|n| *n).is_ok()).is_ok()
            });
            let message = panic_message(outcome.result);
            assert!(message.contains("holds the Shared already"), "{message}");
            assert_eq!(CELL.read(|n| *n), Ok(1), "reading changed nothing");
            let outcome = tenant.enter(&never_stuck, |_| {
                CELL.with(|_| CELL.with(|n| *n).is_ok()).is_ok()
            });
            assert!(panic_message(outcome.result).contains("holds the Shared already"));
            assert!(CELL.is_poisoned());
            CELL.restore(|| 1);
        }
    });
}

#[test]
fn two_cells_may_be_held_at_once_and_are_released_newest_first() {
    static OUTER: Shared<u64> = Shared::new(1);
    static INNER: Shared<u64> = Shared::new(2);
    on_bucket_thread(|tenant| {
        for _ in 0..10 {
            let outcome = tenant.enter(&never_stuck, |_| {
                OUTER.with(|a| {
                    INNER
                        .with(|b| {
                            std::mem::swap(a, b);
                            *a
                        })
                        .expect("whole")
                })
            });
            assert!(matches!(outcome.result, Ok(Ok(_))));
            let outcome = escaping(tenant, |arena| {
                OUTER
                    .read(|_| {
                        INNER.with(|_| {
                            black_box(arena.alloc([1u8; 64]));
                            outside(|| drop(black_box(vec![1u8; 2 * SHARED_HEAP])));
                        })
                    })
                    .is_ok()
            });
            assert_eq!(exhaustion(outcome.result).reason, Reason::SharedHeap);
            assert!(INNER.is_poisoned() && !OUTER.is_poisoned());
            INNER.restore(|| 2);
            assert!(OUTER.with(|_| ()).is_ok());
        }
    });
}

/// Under contention, with requests that die in it: nobody waits for ever, no update is lost that was finished.
#[test]
fn many_requests_that_share_a_cell_finish_whatever_some_of_them_do() {
    static COUNT: Shared<u64> = Shared::new(0);
    static DONE: AtomicUsize = AtomicUsize::new(0);
    let results: Vec<_> = (0..4)
        .map(|thread| {
            start_on(next_bucket(), move |tenant| {
                for n in 0..2000u64 {
                    if (n + thread) % 7 == 0 {
                        let outcome = escaping(tenant, |_| {
                            COUNT.read(|_| -> u8 { fill_the_arena() }).is_ok()
                        });
                        assert!(outcome.result.is_err());
                    } else {
                        let outcome = tenant.enter(&never_stuck, |_| COUNT.with(|n| *n += 1));
                        assert!(matches!(outcome.result, Ok(Ok(()))));
                        DONE.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    for result in &results {
        finish(result);
    }
    assert_eq!(COUNT.read(|n| *n), Ok(DONE.load(Ordering::Relaxed) as u64));
}

#[test]
fn a_waiting_request_gets_the_cell_of_one_that_escapes() {
    static CELL: Shared<u64> = Shared::new(0);
    let held = Arc::new(AtomicBool::new(false));
    let waiting = held.clone();
    let holder = start_on(next_bucket(), move |tenant| {
        let outcome = escaping(tenant, |_| {
            CELL.with(|_| {
                held.store(true, Ordering::SeqCst);
                for _ in 0..1000 {
                    std::thread::yield_now(); // let the other come to wait
                }
                drop(black_box(vec![1u8; 2 * SHARED_HEAP]));
            })
            .is_ok()
        });
        assert_eq!(exhaustion(outcome.result).reason, Reason::SharedHeap);
    });
    wait_for("the cell is held", || waiting.load(Ordering::SeqCst));
    assert_eq!(CELL.with(|n| *n), Err(Poisoned), "it woke, and was told");
    finish(&holder);
}

/// Its stack, and so the cell, are gone when cleanups run; nobody else knew it.
#[test]
fn a_cell_on_the_requests_own_stack_is_left_alone() {
    on_bucket_thread(|tenant| {
        for _ in 0..10 {
            let outcome = escaping(tenant, |_| {
                let cell = Shared::new(1u64);
                cell.read(|_| -> u8 { fill_the_arena() }).is_ok()
            });
            assert_eq!(exhaustion(outcome.result).reason, Reason::Arena);
        }
    });
}
