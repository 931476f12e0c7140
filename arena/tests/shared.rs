//! `Shared` and `outside`: where their memory lies, and how every way out leaves them.

mod common;

use common::{
    OVERDRAFT, SHARE, SHARED_HEAP, exhaustion, fill_the_arena, finish, lies_in,
    lies_in_shared_heap, never_stuck, next_bucket, on_bucket_thread, overflow_the_stack,
    panic_message, parks, start_on, wait_for,
};
use corosensei::{Coroutine, Yielder};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use transom_arena::{
    Bump, Outcome, Reason, Shared, SharedError, Tenant, outside, refusing, shared_heap_kept,
    shared_heap_usage,
};

#[global_allocator]
static GLOBAL: transom_arena::TransomAllocator = transom_arena::TransomAllocator;

fn escaping<R: Copy + 'static>(tenant: &mut Tenant, f: impl FnOnce(&Bump) -> R) -> Outcome<'_, R> {
    // SAFETY: the handlers in this file hold nothing but memory of their bucket and `Shared` cells.
    unsafe { tenant.enter_escaping(&never_stuck, f) }
}

#[test]
fn what_with_allocates_lies_in_the_shared_heap_and_what_read_clones_in_the_bucket() {
    static WORDS: Shared<BTreeMap<String, Vec<u8>>> = Shared::new(BTreeMap::new());
    let bucket = next_bucket();
    let result = start_on(bucket, move |tenant| {
        for n in 0..100u8 {
            let outcome = tenant.enter(&never_stuck, |_| {
                let key = format!("key {n}");
                let key = &key;
                let stored = WORDS.with(|words| {
                    let entry = words.entry(key.clone()).or_default();
                    entry.resize(100, n);
                    entry.as_ptr() as usize
                });
                let copy = WORDS.read(|words| words[key].clone()).expect("whole");
                assert!(copy.iter().all(|&byte| byte == n) && copy.len() == 100);
                (stored.expect("whole"), copy.as_ptr() as usize)
            });
            assert_eq!(outcome.left, 0);
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
            matches!(outcome.result, Ok(true)) && outcome.left == 0,
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
            assert_eq!(CELL.with(|n| *n), Err(SharedError::Poisoned));
            assert_eq!(CELL.read(|n| *n), Err(SharedError::Poisoned));
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
    assert_eq!(
        CELL.read(|n| *n),
        Ok(1),
        "others read beside a parked reader"
    );
}

/// In a process of its own, because the heap is one for all: other tests would be exhausted too.
#[test]
fn a_full_shared_heap_is_an_error_of_the_request_and_leaves_the_value_usable() {
    common::passes_in_a_child("child_that_fills_the_shared_heap", &[]);
}

fn is_full<R>(result: Result<R, SharedError>) -> bool {
    matches!(result, Err(SharedError::Full { .. }))
}

/// As clients do that post items until there is no more room.
#[test]
#[ignore = "takes the shared heap from the other tests; run by the one above"]
fn child_that_fills_the_shared_heap() {
    static ITEMS: Shared<BTreeMap<u32, String>> = Shared::new(BTreeMap::new());
    fn insert(n: u32) -> Result<usize, SharedError> {
        ITEMS.with(|items| {
            items.insert(n, format!("item {n:>100}"));
            items.len()
        })
    }
    on_bucket_thread(|tenant| {
        for round in 0..5 {
            let mut refused = 0;
            let mut exhausted = 0;
            for n in 0..20_000 {
                let outcome = tenant.enter(&never_stuck, |_| is_full(insert(n)));
                match outcome.result {
                    Ok(false) => assert_eq!(refused, 0, "as long as it is full"),
                    Ok(true) => refused += 1,
                    Err(_) => exhausted += 1,
                }
            }
            assert!(refused > 1000 && exhausted <= 1, "{refused} {exhausted}");
            let (used, size) = shared_heap_usage();
            assert!(used > size / 10 * 8, "{used} of {size}");
            // Reads still work, and so do changes that make room.
            let outcome = tenant.enter(&never_stuck, |_| ITEMS.read(|items| items[&7].len()));
            assert!(matches!(outcome.result, Ok(Ok(105))), "{outcome:?}");
            let outcome = tenant.enter(&never_stuck, |_| {
                let removed = ITEMS.with_room(0, |items| items.remove(&7).is_some());
                removed == Ok(true)
            });
            assert!(
                matches!(outcome.result, Ok(true)),
                "round {round}: {outcome:?}"
            );
            ITEMS.with_room(0, BTreeMap::clear).expect("whole");
            assert!(!ITEMS.is_poisoned());
        }
        assert!(shared_heap_usage().0 < SHARED_HEAP / 10);
    });
    a_vector_that_doubles(SHARED_HEAP);
}

/// One block grows until it fits neither the heap nor the share: the first time that it does not fit is an
/// exhaustion, and from then on it is an error before anything is changed.
fn a_vector_that_doubles(heap: usize) {
    static BYTES: Shared<Vec<u8>> = Shared::new(Vec::new());
    on_bucket_thread(move |tenant| {
        let mut largest = 0;
        let mut exhausted = 0;
        for _ in 0..3000 {
            let outcome = tenant.enter(&never_stuck, |_| {
                BYTES.with(|bytes| {
                    bytes.extend_from_slice(&[7; 1000]);
                    bytes.len()
                })
            });
            match outcome.result {
                Ok(Ok(len)) => largest = largest.max(len),
                Ok(Err(error)) => assert!(matches!(error, SharedError::Full { .. })),
                Err(_) => exhausted += 1,
            }
        }
        assert!(
            largest > heap / 3 && exhausted <= 1,
            "{largest} {exhausted}"
        );
        assert!(!BYTES.is_poisoned(), "clients cannot destroy it");
        // A closure that asks first gets an error.
        let outcome = tenant.enter(&never_stuck, |_| {
            BYTES.with_room(0, |bytes| refusing(|| bytes.try_reserve(heap * 4)).is_err())
        });
        assert!(matches!(outcome.result, Ok(Ok(true))), "{outcome:?}");
        BYTES
            .with_room(0, |bytes| *bytes = Vec::new())
            .expect("whole");
        let outcome = tenant.enter(&never_stuck, |_| BYTES.with(|bytes| bytes.push(1)));
        assert!(matches!(outcome.result, Ok(Ok(()))), "{outcome:?}");
    });
}

#[test]
fn a_cell_with_a_quota_has_a_heap_of_its_own() {
    static SMALL: Shared<Vec<Arc<[u8; 500]>>> = Shared::with_quota(Vec::new(), 64 << 10);
    static OTHER: Shared<Vec<u8>> = Shared::new(Vec::new());
    on_bucket_thread(|tenant| {
        let mut stored = 0;
        for _ in 0..1000 {
            let outcome = tenant.enter(&never_stuck, |_| {
                SMALL.with(|list| list.push(Arc::new([1; 500]))).is_ok()
            });
            stored += usize::from(matches!(outcome.result, Ok(true)));
        }
        assert!(
            (64..128).contains(&stored),
            "{stored} of 500 bytes in 64 KiB"
        );
        let (used, size) = SMALL.usage();
        assert!(used <= size && size == 64 << 10, "{used} {size}");
        let outcome = tenant.enter(&never_stuck, |_| OTHER.with(|bytes| bytes.resize(1000, 1)));
        assert!(
            matches!(outcome.result, Ok(Ok(()))),
            "others have room: {outcome:?}"
        );
        let outcome = tenant.enter(&never_stuck, |_| SMALL.with_room(0, Vec::clear));
        assert!(matches!(outcome.result, Ok(Ok(()))), "{outcome:?}");
        assert!(SMALL.usage().0 < 16 << 10);
        let outcome = tenant.enter(&never_stuck, |_| {
            SMALL.with(|list| list.push(Arc::new([1; 500]))).is_ok()
        });
        assert!(matches!(outcome.result, Ok(true)), "{outcome:?}");
    });
}

/// A value made elsewhere in the shared heap counts as the cell's own, too, as soon as it grows.
#[test]
fn a_cell_is_held_to_its_quota_whatever_value_is_put_in() {
    const QUOTA: usize = 64 << 10;
    static RESTORED: Shared<Vec<u8>> = Shared::with_quota(Vec::new(), QUOTA);
    static MOVED_IN: Shared<Vec<u8>> = Shared::with_quota(Vec::new(), QUOTA);
    on_bucket_thread(|tenant| {
        let outcome = tenant.enter(&never_stuck, |_| {
            RESTORED.restore(|| vec![1; 20 << 10]);
            let restored = RESTORED.usage();
            let mut made = outside(|| vec![1; 100]);
            let swapped = MOVED_IN.with_once(|bytes| std::mem::swap(bytes, &mut made));
            let grown = MOVED_IN.with(|bytes| bytes.resize(20 << 10, 1));
            (restored, swapped, grown, MOVED_IN.usage())
        });
        let (restored, swapped, grown, moved_in) = outcome.result.expect("returns");
        assert_eq!((swapped, grown), (Ok(()), Ok(())));
        for (used, size) in [restored, moved_in] {
            assert!(used >= 20 << 10 && size == QUOTA, "{used} of {size}");
        }
        for cell in [&RESTORED, &MOVED_IN] {
            let outcome = tenant.enter(&never_stuck, |_| {
                is_full(cell.with_room(60 << 10, |bytes| bytes.resize(80 << 10, 1)))
            });
            assert!(matches!(outcome.result, Ok(true)), "{outcome:?}");
        }
    });
}

#[test]
fn a_change_that_says_what_it_needs_is_not_begun_without() {
    static CELL: Shared<Vec<u8>> = Shared::new(Vec::new());
    on_bucket_thread(|tenant| {
        for _ in 0..10 {
            let outcome = tenant.enter(&never_stuck, |_| {
                let changed = CELL.with_room(2 * SHARED_HEAP, |bytes| bytes.push(1));
                matches!(changed, Err(SharedError::Full { asked, .. }) if asked == 2 * SHARED_HEAP)
            });
            assert!(matches!(outcome.result, Ok(true)), "{outcome:?}");
        }
        assert_eq!(CELL.read(Vec::len), Ok(0));
    });
}

#[test]
fn readers_are_let_in_together_and_writers_one_by_one() {
    static CELL: Shared<u64> = Shared::new(0);
    static INSIDE: AtomicUsize = AtomicUsize::new(0);
    let readers: Vec<_> = (0..4)
        .map(|_| {
            start_on(next_bucket(), |tenant| {
                let outcome = tenant.enter(&never_stuck, |_| {
                    CELL.read(|_| {
                        INSIDE.fetch_add(1, Ordering::SeqCst);
                        wait_for("all are inside", || INSIDE.load(Ordering::SeqCst) == 4);
                    })
                });
                assert!(matches!(outcome.result, Ok(Ok(()))));
            })
        })
        .collect();
    for reader in &readers {
        finish(reader);
    }
    let writers: Vec<_> = (0..4)
        .map(|n| {
            start_on(next_bucket(), move |tenant| {
                for _ in 0..5000 {
                    let outcome = tenant.enter(&never_stuck, |_| match n {
                        0 => CELL.read(|value| black_box(*value)).is_ok(),
                        _ => CELL.with(|value| *value += 1).is_ok(),
                    });
                    assert!(matches!(outcome.result, Ok(true)));
                }
            })
        })
        .collect();
    for writer in &writers {
        finish(writer);
    }
    assert_eq!(CELL.read(|value| *value), Ok(15_000));
}

/// The old value of a cell that a panic has poisoned is a value, and is dropped; otherwise the heap could not
/// be filled again.
#[test]
fn a_cell_that_is_restored_again_and_again_leaks_nothing() {
    static CELL: Shared<Vec<u8>> = Shared::new(Vec::new());
    on_bucket_thread(|tenant| {
        for _ in 0..100 {
            let outcome = tenant.enter(&never_stuck, |_| {
                let _ = CELL.with(|bytes| -> u8 {
                    bytes.resize(SHARED_HEAP / 8, 7);
                    panic!("while writing")
                });
            });
            assert!(panic_message(outcome.result).starts_with("while writing"));
            CELL.restore(Vec::new);
        }
    });
    assert_eq!(CELL.read(Vec::len), Ok(0));
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
                        .with_once(|b| {
                            std::mem::swap(a, b);
                            *a
                        })
                        .expect("whole")
                })
            });
            assert!(matches!(outcome.result, Ok(Ok(_))));
            let outcome = escaping(tenant, |_| {
                OUTER
                    .read(|_| INNER.with(|_| common::overflow_the_stack()).is_ok())
                    .is_ok()
            });
            assert_eq!(exhaustion(outcome.result).reason, Reason::Stack);
            assert!(INNER.is_poisoned() && OUTER.is_poisoned());
            OUTER.restore(|| 1);
            INNER.restore(|| 2);
            assert!(OUTER.with(|_| ()).is_ok());
        }
    });
}

/// Under contention, with requests that die in it: no request waits for ever, and no finished update is lost.
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
                common::overflow_the_stack();
            })
            .is_ok()
        });
        assert_eq!(exhaustion(outcome.result).reason, Reason::Stack);
    });
    wait_for("the cell is held", || waiting.load(Ordering::SeqCst));
    assert_eq!(
        CELL.with(|n| *n),
        Err(SharedError::Poisoned),
        "it woke, and was told"
    );
    finish(&holder);
}

/// Its stack, and so the cell, are gone when cleanups run; no other thread knew the cell.
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

/// A cell may lie in a bucket: in a lazy value that a request has made. A later request of that bucket that
/// is left, or never returns, gives it back like any other.
#[test]
fn a_cell_that_is_kept_in_a_bucket_is_given_back() {
    static CELL: OnceLock<Box<Shared<u64>>> = OnceLock::new();
    let cell = || CELL.get_or_init(|| Box::new(Shared::new(1)));
    let bucket = next_bucket();
    let first = start_on(bucket, move |tenant| {
        let made = tenant.enter(&never_stuck, |_| cell().read(|n| *n));
        assert!(matches!(made.result, Ok(Ok(1))), "{made:?}");
        let left = escaping(tenant, |_| cell().read(|_| fill_the_arena()));
        assert_eq!(exhaustion(left.result).reason, Reason::Arena);
        let changed = tenant.enter(&never_stuck, |_| cell().with(|n| *n += 1));
        assert!(matches!(changed.result, Ok(Ok(()))), "{changed:?}");
        let left = escaping(tenant, |_| cell().with(|_| overflow_the_stack()));
        assert_eq!(exhaustion(left.result).reason, Reason::Stack);
    });
    finish(&first);
    on_bucket_thread(move |tenant| {
        let outcome = tenant.enter(&never_stuck, |_| {
            let cell = cell();
            let poisoned = cell.with(|n| *n);
            cell.restore(|| 7);
            (poisoned, cell.with(|n| *n))
        });
        assert_eq!(
            outcome.result.ok(),
            Some((Err(SharedError::Poisoned), Ok(7)))
        );
    });
}

type Stashed = Coroutine<(), (), ()>;

thread_local! {
    /// What a request leaves to a later one of its thread.
    static STASH: RefCell<Option<Stashed>> = const { RefCell::new(None) };
}

/// Makes a coroutine run to its first pause, and stay there after the request.
fn stash(body: impl FnOnce(&Yielder<(), ()>) + 'static) {
    let mut coroutine = Stashed::new(|yielder, ()| body(yielder));
    coroutine.resume(());
    STASH.set(Some(coroutine));
}

/// Resumes the coroutine that an earlier request has left. Returns whether it has ended.
fn unstash() -> bool {
    let mut coroutine = STASH.take().expect("one was left");
    coroutine.resume(()).as_return().is_some()
}

/// A coroutine gives back the cell that it has taken first, while it still holds the other.
#[test]
fn cells_that_are_given_back_in_the_order_they_were_taken_in_stay_noted() {
    static FIRST: Shared<u64> = Shared::new(1);
    static SECOND: Shared<u64> = Shared::new(2);
    fn crossed(ends: bool) -> bool {
        let mut reader = Stashed::new(|yielder, ()| {
            let read = FIRST.read(|_| yielder.suspend(()));
            assert_eq!(read, Ok(()));
        });
        reader.resume(());
        let changed = SECOND.with_once(|n| {
            *n += 1;
            reader.resume(());
            let text = black_box(vec![1u8; 100]);
            assert!(lies_in_shared_heap(text.as_ptr() as usize));
            if ends {
                drop(black_box(vec![0u8; 1 << 30]));
            }
        });
        let text = black_box(vec![1u8; 100]);
        changed == Ok(()) && !lies_in_shared_heap(text.as_ptr() as usize)
    }
    let bucket = next_bucket();
    finish(&start_on(bucket, move |tenant| {
        for _ in 0..20 {
            let outcome = tenant.enter(&never_stuck, |_| crossed(false));
            assert!(matches!(outcome.result, Ok(true)), "{outcome:?}");
            assert_eq!((outcome.left, outcome.usage.overdrawn), (0, 0));
        }
    }));
    // Of two held cells, the parking poisons only the one that was not given back.
    parks(|_| crossed(true));
    assert!(!FIRST.is_poisoned() && SECOND.is_poisoned());
    assert_eq!(FIRST.with(|n| *n), Ok(1));
    SECOND.restore(|| 2);
    assert_eq!(SECOND.with(|n| *n), Ok(2));
}

/// A coroutine that other threads may have.
struct Sent(Stashed);

// SAFETY: all that the coroutines of this type have on their stacks may be sent: crates whose coroutines are
// `Send` ask for that, and cannot check more.
unsafe impl Send for Sent {}

impl Sent {
    fn end(mut self) {
        self.0.resume(());
        assert!(self.0.done());
    }
}

/// A closure that a request has left behind, and that ends on another thread, gives nothing back there.
#[test]
fn closures_that_end_on_another_thread_give_nothing_back_there() {
    static CELL: Shared<u64> = Shared::new(1);
    static LEFT: Mutex<Vec<Sent>> = Mutex::new(Vec::new());
    fn leave(body: impl FnOnce(&Yielder<(), ()>) + 'static) {
        let mut coroutine = Stashed::new(|yielder, ()| body(yielder));
        coroutine.resume(());
        LEFT.lock().expect("no panic").push(Sent(coroutine));
    }
    let left = start_on(next_bucket(), |tenant| {
        let outcome = tenant.enter(&never_stuck, |_| {
            leave(|yielder| assert!(CELL.with(|_| yielder.suspend(())).is_ok()));
        });
        assert!(outcome.result.is_ok(), "{outcome:?}");
        CELL.restore(|| 1);
        let outcome = tenant.enter(&never_stuck, |_| {
            leave(|yielder| assert!(CELL.read(|_| yielder.suspend(())).is_ok()));
            leave(|yielder| outside(|| yielder.suspend(())));
        });
        assert!(outcome.result.is_ok(), "{outcome:?}");
    });
    finish(&left);
    CELL.restore(|| 1);
    let ends = start_on(next_bucket(), |tenant| {
        let outcome = tenant.enter(&never_stuck, |_| {
            let changed = CELL.with_once(|n| {
                let left = std::mem::take(&mut *LEFT.lock().expect("no panic"));
                left.into_iter().for_each(Sent::end);
                // Another one has to wait, as long as this closure runs.
                let other = std::thread::spawn(|| CELL.with(|n| *n));
                std::thread::sleep(std::time::Duration::from_millis(100));
                assert!(!other.is_finished());
                *n += 1;
                other
            });
            changed.map(|other| other.join().expect("no panic"))
        });
        assert!(matches!(outcome.result, Ok(Ok(Ok(2)))), "{outcome:?}");
    });
    finish(&ends);
}

/// Threads that serve no request may end what others have begun.
#[test]
fn closures_of_threads_without_a_request_may_end_on_another() {
    static CELL: Shared<u64> = Shared::new(1);
    let begun = || {
        let mut coroutine = Stashed::new(|yielder, ()| {
            assert!(CELL.with(|_| yielder.suspend(())).is_ok());
        });
        coroutine.resume(());
        Sent(coroutine)
    };
    let begun = std::thread::spawn(begun).join().expect("no panic");
    let end = move || {
        begun.end();
        CELL.with(|n| *n += 1)
    };
    assert_eq!(std::thread::spawn(end).join().expect("no panic"), Ok(()));
    on_bucket_thread(|tenant| {
        let outcome = tenant.enter(&never_stuck, |_| CELL.with(|n| *n));
        assert!(matches!(outcome.result, Ok(Ok(2))), "{outcome:?}");
    });
}

/// The request ends, and the closure of a coroutine that it has left in a thread-local does not.
#[test]
fn closures_that_a_request_leaves_behind_harm_no_later_request() {
    static CHANGED: Shared<Vec<u64>> = Shared::new(Vec::new());
    static READ: Shared<u64> = Shared::new(0);
    fn leave_one(n: u32) {
        match n % 4 {
            0 => stash(|yielder| outside(|| yielder.suspend(()))),
            1 => stash(|yielder| {
                let seen = CHANGED.with(|list| {
                    list.clear();
                    list.resize(1000, 7);
                    yielder.suspend(());
                    list.iter().all(|&n| n == 7)
                });
                assert_eq!(seen, Ok(true), "it has it alone, for ever");
            }),
            2 => stash(|yielder| {
                let seen = READ.read(|n| {
                    let before = *n;
                    yielder.suspend(());
                    before == *n
                });
                assert_eq!(seen, Ok(true), "nothing changes it");
            }),
            _ => stash(|yielder| {
                let seen = CHANGED.with(|_| READ.read(|_| outside(|| yielder.suspend(()))));
                assert_eq!(seen, Ok(Ok(())));
            }),
        }
    }
    fn words_are_right() -> bool {
        let text = black_box(vec![1u8; 100]);
        let kept = CHANGED.with(|list| {
            list.clear();
            list.resize(2000, 9);
            lies_in_shared_heap(list.as_ptr() as usize)
        });
        kept == Ok(true)
            && !lies_in_shared_heap(text.as_ptr() as usize)
            && READ.with(|n| *n += 1).is_ok()
    }
    on_bucket_thread(|tenant| {
        for n in 0..40 {
            let left = tenant.enter(&never_stuck, |arena| {
                leave_one(n);
                match n / 4 % 3 {
                    0 => {}
                    1 => panic!("while it is left"),
                    _ => loop {
                        black_box(arena.alloc([0u8; 1000]));
                    },
                }
            });
            assert_eq!(left.result.is_ok(), n / 4 % 3 == 0);
            let (read, changed) = (READ.read(|n| *n), CHANGED.with(Vec::clear));
            assert!(read.is_ok(), "{n}: {read:?}");
            assert_eq!(changed.is_err(), n % 2 == 1, "{n}: {changed:?}");
            if n % 4 >= 2 {
                assert_eq!(READ.with(|n| *n), Err(SharedError::Lent));
            }
            let later = tenant.enter(&never_stuck, |_| {
                CHANGED.restore(Vec::new);
                READ.restore(|| 0);
                words_are_right()
            });
            assert!(matches!(later.result, Ok(true)), "{n}: {later:?}");
            // It gives back locks that are not its own any more: the closures below hold them.
            let resumed = tenant.enter(&never_stuck, |_| {
                let ended = READ.read(|_| CHANGED.with(|_| unstash()));
                (ended, READ.read(|_| ()), words_are_right())
            });
            let result = resumed.result.expect("returns");
            assert_eq!(result, (Ok(Ok(true)), Ok(()), true));
        }
    });
}

/// The coroutine is unwound where it has stopped, by the destructor of the thread-local.
#[test]
fn a_thread_ends_that_has_such_a_closure_left() {
    static CELL: Shared<u64> = Shared::new(0);
    on_bucket_thread(|tenant| {
        let left = tenant.enter(&never_stuck, |_| {
            stash(|yielder| {
                let _ = CELL.with(|_| outside(|| yielder.suspend(())));
            });
        });
        assert!(left.result.is_ok());
    });
    assert_eq!(CELL.read(|n| *n), Err(SharedError::Poisoned));
    CELL.restore(|| 1);
    assert_eq!(CELL.with(|n| *n), Ok(1));
}

/// In processes of their own, as above.
#[test]
fn no_request_takes_a_cell_away_from_the_others() {
    common::passes_in_a_child("child_that_wants_more_than_there_is", &[]);
    common::passes_in_a_child("child_whose_changes_find_no_share", &[]);
    common::passes_in_a_child("child_whose_closures_never_return", &[]);
    common::passes_in_a_child("child_whose_refused_changes_have_destructors", &[]);
    common::passes_in_a_child("child_whose_changes_need_more_than_one_piece", &[]);
    common::passes_in_a_child("child_whose_parked_change_has_spilled", &[]);
    common::passes_in_a_child("child_whose_share_would_be_in_pieces", &[]);
    common::passes_in_a_child("child_whose_text_is_extended_by_more_than_it_has", &[]);
    common::passes_in_a_child("child_whose_restore_is_parked", &[]);
    common::passes_in_a_child("child_whose_changes_were_promised_the_same_room", &[]);
}

/// Runs a change in a request. Returns whether the request has outgrown its memory.
fn outgrows<R>(tenant: &mut Tenant, change: impl FnOnce() -> Result<R, SharedError>) -> bool {
    tenant
        .enter(&never_stuck, |_| drop(change()))
        .result
        .is_err()
}

/// Runs a change in a request. Returns whether it was refused before it began.
#[track_caller]
fn is_refused<R>(tenant: &mut Tenant, change: impl FnOnce() -> Result<R, SharedError>) -> bool {
    let outcome = tenant.enter(&never_stuck, |_| is_full(change()));
    outcome.result.expect("nothing was begun")
}

#[test]
#[ignore = "takes the shared heap from the other tests; run by the one above"]
fn child_that_wants_more_than_there_is() {
    static COUNT: Shared<Vec<u64>> = Shared::new(Vec::new());
    static SMALL: Shared<Vec<u64>> = Shared::with_quota(Vec::new(), 64 << 10);
    static ITEMS: Shared<BTreeMap<u32, Vec<u8>>> = Shared::new(BTreeMap::new());
    let add = |cell: &'static Shared<Vec<u64>>| cell.with(|list| list.push(1));
    on_bucket_thread(move |tenant| {
        // Memory that a change needs only for itself is no reason to refuse the next one.
        for cell in [&SMALL, &COUNT] {
            for _ in 0..10 {
                assert!(outgrows(tenant, || cell.with(|list| {
                    list.push(1);
                    black_box(vec![1u8; 1_040_000]).len()
                })));
                assert!(!is_refused(tenant, || add(cell)));
            }
        }
        // Nor is memory that the request wanted of its arena.
        assert!(outgrows(tenant, || {
            drop(black_box(vec![1u8; 700 << 10]));
            SMALL.with_room(0, |_| black_box(vec![1u8; 100 << 10]).len())
        }));
        assert!(!is_refused(tenant, || add(&SMALL)));
        for n in 0..125 {
            assert!(!is_refused(tenant, || ITEMS
                .with(|items| items.insert(n, vec![1; 4000]))));
        }
        for _ in 0..10 {
            assert!(outgrows(tenant, || ITEMS
                .with(|items| items.insert(1000, vec![1; 700 << 10]))));
            assert!(is_refused(tenant, || ITEMS
                .with(|items| items.insert(1001, vec![1; 700 << 10]))));
            ITEMS
                .with_room(0, |items| items.remove(&1000))
                .expect("whole");
            assert!(!is_refused(tenant, || ITEMS
                .with(|items| items.insert(1001, vec![1; 4000]))));
        }
        // Room elsewhere will do as well.
        for n in 125..150 {
            assert!(!is_refused(tenant, || ITEMS
                .with(|items| items.insert(n, vec![1; 4000]))));
        }
        assert!(outgrows(tenant, || ITEMS
            .with(|items| items.insert(1000, vec![1; 400 << 10]))));
        assert!(is_refused(tenant, || ITEMS.with(|items| items.len())));
        ITEMS
            .with_room(0, |items| items.retain(|&n, _| n == 1000))
            .expect("whole");
        assert!(!is_refused(tenant, || ITEMS.with(|items| items.len())));
    });
    let usage = transom_arena::overdraft_usage();
    assert!((400..410).contains(&(usage.kept >> 10)), "{usage:?}");
}

/// The free bytes are in many pieces, and others have the overdraft.
#[test]
#[ignore = "takes the shared heap from the other tests; run by the one above"]
fn child_whose_changes_find_no_share() {
    const PIECE: usize = 40 << 10;
    static PIECES: Shared<Vec<Option<Vec<u8>>>> = Shared::new(Vec::new());
    static TWO: Shared<(Vec<u8>, Vec<u8>)> = Shared::new((Vec::new(), Vec::new()));
    static END: AtomicBool = AtomicBool::new(false);
    fn grow(tenant: &mut Tenant) -> Result<Result<(), SharedError>, ()> {
        let grow = |_: &Bump| TWO.with(|two| two.1.push(1));
        tenant.enter(&never_stuck, grow).result.map_err(drop)
    }
    common::buckets(); // from here on there is a shared heap
    TWO.restore(|| (Vec::new(), vec![7; 200 << 10]));
    on_bucket_thread(|tenant| {
        // The larger vector goes, the other stays, and has yet to double.
        for _ in 0..2 {
            let outcome = tenant.enter(&never_stuck, |_| {
                let made = TWO.with(|two| two.0 = vec![1; 300 << 10]);
                (made, TWO.with(|two| two.0 = Vec::new()))
            });
            assert!(
                matches!(outcome.result, Ok((Ok(()), Ok(())))),
                "{outcome:?}"
            );
        }
        while !is_refused(tenant, || {
            PIECES.with_room(PIECE, |pieces| pieces.push(Some(vec![1; PIECE])))
        }) {}
        PIECES
            .with_room(0, |pieces| {
                pieces.iter_mut().step_by(2).for_each(|p| *p = None);
            })
            .expect("whole");
        let (used, size) = shared_heap_usage();
        assert!(size - used > 300 << 10, "{used} of {size}");
        let holders = holders(&END);
        for _ in 0..3 {
            let grown = grow(tenant);
            assert!(
                matches!(grown, Ok(Err(SharedError::Full { .. }))),
                "{grown:?}"
            );
        }
        END.store(true, Ordering::SeqCst);
        holders.into_iter().for_each(|finish| finish());
        // With a share there is room, and no request is lost.
        assert_eq!(grow(tenant), Err(()));
        assert_eq!(grow(tenant), Ok(Ok(())));
    });
}

#[test]
#[ignore = "counts what is kept of the shared heap; run by the one above"]
fn child_whose_closures_never_return() {
    const PART: usize = 100 << 10;
    static PARKED: Shared<Vec<u8>> = Shared::new(Vec::new());
    static LEFT: Shared<Vec<u8>> = Shared::new(Vec::new());
    let kept = || shared_heap_kept() / PART;
    let (before, _) = shared_heap_usage();
    on_bucket_thread(move |tenant| {
        let outcome = tenant.enter(&never_stuck, |_| {
            outside(|| drop(black_box(vec![1u8; PART])));
            PARKED.with(|bytes| bytes.resize(PART, 1))
        });
        assert!(matches!(outcome.result, Ok(Ok(()))), "{outcome:?}");
    });
    assert_eq!(kept(), 0);
    parks(|_| {
        PARKED.with(|bytes| {
            LEFT.with(|bytes| {
                bytes.resize(PART, 1);
                bytes.clear();
            })
            .expect("whole");
            let more = black_box(vec![1u8; PART]);
            drop(black_box(vec![1u8; 1 << 30]));
            (more.len(), bytes.len())
        })
    });
    wait_for("it is given up", || PARKED.is_poisoned());
    assert_eq!(
        kept(),
        2,
        "what the cell had, and what the closure has made"
    );
    on_bucket_thread(move |tenant| {
        let outcome = tenant.enter(&never_stuck, |_| {
            stash(|yielder| {
                let _ = LEFT.with(|bytes| {
                    bytes.push(1);
                    yielder.suspend(());
                });
            });
        });
        assert!(outcome.result.is_ok());
        assert_eq!(kept(), 3);
    });
    PARKED.restore(Vec::new);
    LEFT.restore(|| vec![1; PART]);
    LEFT.restore(Vec::new);
    let (used, _) = shared_heap_usage();
    assert!(
        (3..4).contains(&kept()) && used < before + 4 * PART,
        "{used}"
    );
}

/// A refused closure, and a result that must not be given, are dropped when the cell is free again: a
/// destructor may want it, or a lock that a reader of it holds.
#[test]
#[ignore = "fills the shared heap; run by the one above"]
fn child_whose_refused_changes_have_destructors() {
    type Two = (Vec<u8>, Vec<u8>);
    static CELL: Shared<Two> = Shared::new((Vec::new(), Vec::new()));
    static LOOKED: AtomicUsize = AtomicUsize::new(0);
    struct Looks;
    impl Drop for Looks {
        fn drop(&mut self) {
            let _ = CELL.read(|two| two.0.len());
            LOOKED.fetch_add(1, Ordering::SeqCst);
        }
    }
    /// Drops it before it runs anything.
    fn change(item: Looks) -> Result<(), SharedError> {
        CELL.with_once(move |two| {
            two.0.push(1);
            drop(item);
        })
    }
    common::buckets(); // from here on there is a shared heap
    on_bucket_thread(|tenant| {
        // It has outgrown its bucket.
        let outcome = tenant.enter(&never_stuck, |_| {
            drop(black_box(vec![1u8; 900 << 10]));
            assert_eq!(change(Looks), Err(SharedError::Exhausted));
            let item = Looks;
            assert!(CELL.read(move |_| drop(item)).is_err());
        });
        assert_eq!(exhaustion(outcome.result).reason, Reason::Arena);
        // The change's result is withheld, because the change has spilled.
        let outcome = tenant.enter(&never_stuck, |_| {
            let made = CELL.with_room(0, |two| {
                two.0.reserve_exact(600 << 10);
                two.1.reserve_exact(600 << 10);
                Looks
            });
            assert!(is_full(made.map(drop)));
        });
        assert_eq!(exhaustion(outcome.result).reason, Reason::SharedHeap);
        // There is no room for it.
        assert!(is_refused(tenant, || change(Looks)));
    });
    assert_eq!(LOOKED.load(Ordering::SeqCst), 4);
    assert!(!CELL.is_poisoned());
}

/// The result of a closure is the request's own, and grows in its bucket: the shared heap is for cells.
#[test]
fn what_was_cloned_in_a_cell_grows_in_the_bucket() {
    static CELL: Shared<String> = Shared::new(String::new());
    let result = start_on(next_bucket(), |tenant| {
        let outcome = tenant.enter(&never_stuck, |_| {
            let mut text = CELL
                .with(|text| {
                    text.push('x');
                    text.clone()
                })
                .expect("whole");
            assert!(lies_in_shared_heap(text.as_ptr().addr()));
            text.reserve(100 << 10);
            assert!(!lies_in_shared_heap(text.as_ptr().addr()));
            // Inside a cell it stays: there it may be a part of the value.
            let grown = CELL.with(|text| {
                text.reserve(1 << 10);
                lies_in_shared_heap(text.as_ptr().addr())
            });
            (text.len(), grown)
        });
        assert!(matches!(outcome.result, Ok((1, Ok(true)))), "{outcome:?}");
        assert_eq!(outcome.left, 0);
    });
    finish(&result);
}

/// It lies at the end of the thread's stack, and is no frame's: the next request has it too.
#[test]
fn a_thread_local_cell_that_a_coroutine_has_left_is_as_any_other() {
    thread_local! {
        static CELL: Shared<u64> = const { Shared::new(0) };
    }
    type Leave = fn(&Yielder<(), ()>);
    let leaves: [(Leave, SharedError); 2] = [
        (
            |yielder| {
                let _ = CELL.with(|cell| cell.read(|_| yielder.suspend(())));
            },
            SharedError::Lent,
        ),
        (
            |yielder| {
                let _ = CELL.with(|cell| cell.with_once(|_| yielder.suspend(())));
            },
            SharedError::Poisoned,
        ),
    ];
    for (leave, error) in leaves {
        on_bucket_thread(move |tenant| {
            assert!(tenant.enter(&never_stuck, |_| stash(leave)).result.is_ok());
            let outcome = tenant.enter(&never_stuck, |_| CELL.with(|cell| cell.with(|n| *n)));
            assert!(
                matches!(&outcome.result, Ok(Err(found)) if *found == error),
                "{outcome:?}"
            );
        });
    }
}

/// A destructor of a thread-local runs when no request does: no request releases what it leaves locked.
#[test]
fn a_thread_that_ends_gives_back_the_cells_that_its_destructors_have_left() {
    static CHANGED: Shared<u64> = Shared::new(1);
    static READ: Shared<u64> = Shared::new(2);
    thread_local! {
        static LAST: RefCell<Option<Last>> = const { RefCell::new(None) };
        static LOCAL: Shared<u64> = const { Shared::new(3) };
    }
    struct Last;
    impl Drop for Last {
        fn drop(&mut self) {
            let leave = |body: fn(&Yielder<(), ()>)| {
                let mut coroutine = Stashed::new(move |yielder, ()| body(yielder));
                coroutine.resume(());
                std::mem::forget(coroutine);
            };
            leave(|yielder| {
                let _ = CHANGED.with_once(|_| yielder.suspend(()));
            });
            leave(|yielder| {
                let _ = READ.read(|_| outside(|| yielder.suspend(())));
            });
            leave(|yielder| {
                let _ = LOCAL.try_with(|cell| cell.read(|_| yielder.suspend(())).is_ok());
            });
        }
    }
    let bucket = next_bucket();
    for round in 0..3 {
        finish(&start_on(bucket, move |tenant| {
            let outcome = tenant.enter(&never_stuck, |_| {
                // The cells as the thread before this one has left them.
                let found = (CHANGED.with(|n| *n), READ.with(|n| *n), READ.read(|n| *n));
                CHANGED.restore(|| 1);
                READ.restore(|| 2);
                LOCAL.with(|cell| cell.with(|n| *n += 1)).expect("its own");
                LAST.set(Some(Last));
                found
            });
            let found = outcome.result.expect("returns");
            assert_eq!(
                found,
                match round {
                    0 => (Ok(1), Ok(2), Ok(2)),
                    _ => (Err(SharedError::Poisoned), Err(SharedError::Lent), Ok(2)),
                }
            );
        }));
        wait_for("the thread is gone", || bucket.has_ended());
    }
    // Other threads have them too.
    CHANGED.restore(|| 7);
    READ.restore(|| 8);
    assert_eq!((CHANGED.with(|n| *n), READ.with(|n| *n)), (Ok(7), Ok(8)));
}

/// Takes all of the overdraft, until the flag is set.
fn holders(end: &'static AtomicBool) -> Vec<impl FnOnce()> {
    static DRAWN: AtomicUsize = AtomicUsize::new(0);
    let before = DRAWN.load(Ordering::SeqCst);
    let holders: Vec<_> = (0..OVERDRAFT / SHARE)
        .map(|_| {
            start_on(next_bucket(), |tenant| {
                let outcome = tenant.enter(&never_stuck, |_| {
                    let bytes = black_box(vec![1u8; 900 << 10]);
                    DRAWN.fetch_add(1, Ordering::SeqCst);
                    wait_for("the others have tried", || end.load(Ordering::SeqCst));
                    bytes.len()
                });
                assert!(outcome.result.is_err());
            })
        })
        .collect();
    wait_for("they have drawn", || {
        DRAWN.load(Ordering::SeqCst) == before + OVERDRAFT / SHARE
    });
    holders
        .into_iter()
        .map(|holder| move || finish(&holder))
        .collect()
}

/// A change says how much its large piece needs, and has a key, nodes of a map or a vector that doubles
/// besides.
#[test]
#[ignore = "takes the shared heap from the other tests; run by the one above"]
fn child_whose_changes_need_more_than_one_piece() {
    static TEXTS: Shared<BTreeMap<Vec<u8>, Vec<u8>>> = Shared::new(BTreeMap::new());
    static LIST: Shared<Vec<Vec<u8>>> = Shared::new(Vec::new());
    static END: AtomicBool = AtomicBool::new(false);
    fn put(tenant: &mut Tenant, len: usize) -> bool {
        !is_refused(tenant, || {
            TEXTS.with_room(len, |texts| {
                texts.insert(vec![b'k'; 3900], vec![1; len]);
            })
        })
    }
    /// Adds a text and an element to a list that has no place for it left.
    fn push(tenant: &mut Tenant, len: usize) -> bool {
        !is_refused(tenant, || {
            LIST.with_room(len, |list| {
                let text = vec![1; len];
                list.reserve_exact(list.capacity() + 1 - list.len());
                list.push(text);
            })
        })
    }
    common::buckets(); // from here on there is a shared heap
    for has_overdraft in [true, false] {
        END.store(has_overdraft, Ordering::SeqCst);
        let holders = if has_overdraft {
            Vec::new()
        } else {
            holders(&END)
        };
        on_bucket_thread(move |tenant| {
            // The first one that is let in fits: nothing of it is in the overdraft.
            let mut lens = (0..SHARED_HEAP).rev().step_by(1 << 10);
            let len = lens.find(|&len| put(tenant, len)).expect("one fits");
            assert!(len > SHARED_HEAP - (64 << 10), "{len}");
            TEXTS.with_room(0, BTreeMap::clear).expect("whole");
            // Both large: the list's own block, which doubles, and the text.
            LIST.restore(|| Vec::with_capacity(10_000));
            let mut lens = (0..SHARED_HEAP).rev().step_by(1 << 10);
            let len = lens.find(|&len| push(tenant, len)).expect("one fits");
            assert!(len > SHARED_HEAP / 8, "{len}");
            LIST.restore(Vec::new);
            assert!(put(tenant, 1000) && push(tenant, 1000));
            TEXTS.with_room(0, BTreeMap::clear).expect("whole");
            LIST.restore(Vec::new);
        });
        END.store(true, Ordering::SeqCst);
        holders.into_iter().for_each(|finish| finish());
        assert!(!TEXTS.is_poisoned() && !LIST.is_poisoned());
    }
    assert_eq!(transom_arena::overdraft_usage().used, 0);
}

/// Their overdraft stays drawn, and is no reason to refuse a change of another cell, or of this one when it
/// has a fresh value.
#[test]
#[ignore = "takes the shared heap from the other tests; run by the one above"]
fn child_whose_parked_change_has_spilled() {
    static NOTES: Shared<Vec<Vec<u8>>> = Shared::new(Vec::new());
    static COUNT: Shared<u64> = Shared::new(0);
    static LARGE: Shared<Vec<u8>> = Shared::new(Vec::new());
    let count = |tenant: &mut Tenant| !is_refused(tenant, || COUNT.with(|n| *n += 1));
    on_bucket_thread(move |tenant| {
        // One cell's debt is not charged to another.
        assert!(outgrows(tenant, || {
            LARGE.with_room(1, |bytes| bytes.resize(SHARED_HEAP - 1000, 1))
        }));
        assert!(is_refused(tenant, || LARGE.with(|bytes| bytes.len())));
        assert!(count(tenant));
        LARGE
            .with_room(0, |bytes| *bytes = Vec::new())
            .expect("whole");
        assert!(!is_refused(tenant, || LARGE.with(|bytes| bytes.len())));
    });
    parks(|_| {
        NOTES.with(|notes| {
            notes.push(vec![1; 600 << 10]);
            for _ in 0..10 {
                notes.push(vec![1; 500 << 10]);
            }
        })
    });
    wait_for("it is given up", || NOTES.is_poisoned());
    assert!(transom_arena::overdraft_usage().kept > 400 << 10);
    on_bucket_thread(move |tenant| {
        assert!(count(tenant));
        NOTES.restore(Vec::new);
        // Its old value has a large block, but that block will not double.
        assert!(!is_refused(tenant, || NOTES.with(|notes| notes.push(vec![1; 1000]))));
    });
}

/// A share's bytes are free, but not in the piece that a vector needs to double, because of what is kept of
/// the overdraft.
#[test]
#[ignore = "cuts the overdraft in pieces; run by the one above"]
fn child_whose_share_would_be_in_pieces() {
    static LARGE: Shared<Vec<u8>> = Shared::new(Vec::new());
    static AFTER: Shared<Vec<u8>> = Shared::new(Vec::new());
    static TURN: AtomicUsize = AtomicUsize::new(0);
    const TURNS: usize = OVERDRAFT / SHARE;
    let requests: Vec<_> = (0..TURNS)
        .map(|turn| {
            start_on(next_bucket(), move |tenant| {
                let outcome = tenant.enter(&never_stuck, |arena| {
                    let filler = black_box(vec![1u8; arena.chunk_capacity() - 1024]);
                    wait_for("its turn", || TURN.load(Ordering::SeqCst) == turn);
                    let temporary = black_box(vec![1u8; 900 << 10]);
                    std::mem::forget(black_box(Box::new([1u8; 4096])));
                    TURN.fetch_add(1, Ordering::SeqCst);
                    wait_for("all", || TURN.load(Ordering::SeqCst) == TURNS);
                    (filler.len(), temporary.len())
                });
                assert!(outcome.result.is_err());
            })
        })
        .collect();
    requests.iter().for_each(finish);
    let usage = transom_arena::overdraft_usage();
    assert!(
        usage.kept == usage.used && usage.kept < 64 << 10,
        "{usage:?}"
    );
    on_bucket_thread(|tenant| {
        let made = tenant.enter(&never_stuck, |_| {
            let made = LARGE.with_room(1, |bytes| *bytes = vec![1; 470 << 10]);
            // It cannot grow where it lies.
            (made, AFTER.with(|bytes| bytes.resize(20 << 10, 1)))
        });
        assert!(matches!(made.result, Ok((Ok(()), Ok(())))), "{made:?}");
        assert!(is_refused(tenant, || LARGE.with(|bytes| bytes.push(1))));
    });
    assert!(!LARGE.is_poisoned());
}

/// The free bytes are in two pieces: one holds the added bytes, another twice the text, and none the sum.
#[test]
#[ignore = "takes the shared heap from the other tests; run by the one above"]
fn child_whose_text_is_extended_by_more_than_it_has() {
    static TEXT: Shared<String> = Shared::new(String::new());
    static PINS: Shared<Vec<Vec<u8>>> = Shared::new(Vec::new());
    static END: AtomicBool = AtomicBool::new(false);
    common::buckets(); // from here on there is a shared heap
    let holders = holders(&END);
    on_bucket_thread(|tenant| {
        let made = tenant.enter(&never_stuck, |_| {
            PINS.with_room(0, |pins| {
                pins.push(vec![1; 350 << 10]);
                pins.push(vec![1; 16 << 10]);
            })?;
            TEXT.with_room(0, |text| text.reserve_exact(130 << 10))?;
            PINS.with_room(0, |pins| {
                pins.push(vec![1; 16 << 10]);
                drop(pins.swap_remove(0));
            })
        });
        assert!(matches!(made.result, Ok(Ok(()))), "{made:?}");
        let mut lens = (0..SHARED_HEAP).rev().step_by(1 << 10);
        let is_added = |len: &usize| {
            let len = *len;
            !is_refused(tenant, || {
                TEXT.with_room(len, |text| {
                    text.extend((0..130 << 10).map(|_| 'x'));
                    text.reserve(len);
                })
            })
        };
        let len = lens.find(is_added).expect("something is");
        assert!(len > 130 << 10, "{len}");
    });
    END.store(true, Ordering::SeqCst);
    holders.into_iter().for_each(|finish| finish());
    assert!(!TEXT.is_poisoned());
}

/// Its blocks are not charged to the value that the cell has, nor to a later one.
#[test]
#[ignore = "takes the shared heap from the other tests; run by the one above"]
fn child_whose_restore_is_parked() {
    static CELL: Shared<Vec<Vec<u8>>> = Shared::new(Vec::new());
    let push = |tenant: &mut Tenant| !is_refused(tenant, || CELL.with(|list| list.push(vec![1])));
    parks(|_| CELL.restore(|| [500, 700, 1 << 20].map(|kib| vec![1; kib << 10]).into()));
    assert!(transom_arena::overdraft_usage().kept > 600 << 10);
    on_bucket_thread(move |tenant| {
        assert!(push(tenant));
        CELL.restore(|| vec![vec![1; 10], vec![1; 10]]);
        assert!(push(tenant));
        // If a restore returns, its blocks are the cell's, and so is its debt.
        assert!(outgrows(tenant, || {
            CELL.restore(|| vec![vec![1; 700 << 10]]);
            Ok(())
        }));
        assert!(is_refused(tenant, || CELL.with(|list| list.push(vec![1]))));
        CELL.with_room(0, Vec::clear).expect("whole");
        assert!(push(tenant));
    });
}

/// Room promised to one change is not promised to a change of another cell until the first has ended, in any
/// way.
#[test]
#[ignore = "takes the shared heap from the other tests; run by the one above"]
fn child_whose_changes_were_promised_the_same_room() {
    static ONE: Shared<Vec<u8>> = Shared::new(Vec::new());
    static OTHER: Shared<Vec<u8>> = Shared::new(Vec::new());
    static BEGUN: AtomicUsize = AtomicUsize::new(0);
    static TRIED: AtomicUsize = AtomicUsize::new(0);
    const LEN: usize = 600 << 10;
    fn fill(cell: &Shared<Vec<u8>>) -> Result<(), SharedError> {
        cell.with_room(LEN, |bytes| {
            *bytes = Vec::new();
            *bytes = vec![7; LEN];
        })?;
        cell.with_room(0, |bytes| *bytes = Vec::new())
    }
    common::buckets(); // from here on there is a shared heap
    for round in 1..=5 {
        let holder = start_on(next_bucket(), move |tenant| {
            let outcome = tenant.enter(&never_stuck, |_| {
                ONE.with_once(|_| ())?;
                ONE.with_room(LEN, |bytes| {
                    drop(black_box(vec![1u8; 300 << 10])); // for a moment
                    BEGUN.fetch_add(1, Ordering::SeqCst);
                    wait_for("the other has tried", || {
                        TRIED.load(Ordering::SeqCst) == round
                    });
                    drop(black_box(vec![1u8; 300 << 10]));
                    assert!(round != 2, "while it has a promise");
                    *bytes = vec![7; LEN];
                })?;
                ONE.with_room(0, |bytes| *bytes = Vec::new())
            });
            match round {
                2 => assert!(panic_message(outcome.result).starts_with("while it has")),
                _ => assert!(matches!(outcome.result, Ok(Ok(()))), "{outcome:?}"),
            }
        });
        on_bucket_thread(move |tenant| {
            wait_for("it has begun", || BEGUN.load(Ordering::SeqCst) == round);
            for _ in 0..3 {
                assert!(is_refused(tenant, || fill(&OTHER)));
            }
            TRIED.store(round, Ordering::SeqCst);
        });
        finish(&holder);
        ONE.restore(Vec::new);
        on_bucket_thread(|tenant| assert!(!is_refused(tenant, || fill(&OTHER))));
    }
    // Many changes at once, as from clients: some are refused, and none outgrows its room.
    let clients = [&ONE, &OTHER].map(|cell| {
        start_on(next_bucket(), move |tenant| {
            for _ in 0..2000 {
                let _ = is_refused(tenant, || fill(cell));
            }
        })
    });
    clients.iter().for_each(finish);
    parks(|_| {
        ONE.with_room(LEN, |bytes| {
            drop(black_box(vec![1u8; 1 << 30]));
            bytes.len()
        })
    });
    wait_for("it is given up", || ONE.is_poisoned());
    on_bucket_thread(|tenant| assert!(!is_refused(tenant, || fill(&OTHER))));
    assert_eq!(transom_arena::overdraft_usage().used, 0);
}
