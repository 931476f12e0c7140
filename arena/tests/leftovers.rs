//! Values that outlive their request or leave its thread: they stay whole, cost their bytes, and the bucket
//! goes on.

mod common;

use common::{
    DEADLINE, finish, lies_in, never_stuck, next_bucket, on_bucket_thread, start_on, wait_for,
};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, mpsc};
use transom_arena::{Bump, Pieces, Tenant, defer, refusing};

#[global_allocator]
static GLOBAL: transom_arena::TransomAllocator = transom_arena::TransomAllocator;

/// Takes a value out of a request, without allocating. A channel would do that too, but its own blocks would
/// be left.
struct Mailbox<T>(AtomicPtr<T>);

impl<T> Mailbox<T> {
    fn new() -> Arc<Self> {
        Arc::new(Mailbox(AtomicPtr::new(ptr::null_mut())))
    }

    fn put(&self, value: Box<T>) {
        let old = self.0.swap(Box::into_raw(value), Ordering::Release);
        assert!(old.is_null(), "one at a time");
    }

    fn take(&self) -> Option<Box<T>> {
        let value = self.0.swap(ptr::null_mut(), Ordering::Acquire);
        // SAFETY: not null means that `put` leaked it, and the swap took it once.
        (!value.is_null()).then(|| unsafe { Box::from_raw(value) })
    }
}

/// A request that puts one box of 64 bytes into a mailbox.
fn smuggle(tenant: &mut Tenant, mailbox: &Mailbox<[u8; 64]>) -> usize {
    let outcome = tenant.enter(&never_stuck, |_| mailbox.put(Box::new([3; 64])));
    assert!(outcome.result.is_ok(), "{outcome:?}");
    outcome.left
}

/// Bytes that a request in this bucket can still have in one piece.
fn room(tenant: &mut Tenant) -> usize {
    let outcome = tenant.enter(&never_stuck, Bump::chunk_capacity);
    outcome.result.expect("returns")
}

#[test]
fn a_value_moved_to_another_thread_costs_its_bytes_until_it_is_freed_there() {
    on_bucket_thread(|tenant| {
        let whole = room(tenant);
        let mailbox = Mailbox::new();
        assert_eq!(smuggle(tenant, &mailbox), 64);
        assert_eq!(tenant.bucket().kept(), 64);
        // The bucket goes on, in what is left.
        let outcome = tenant.enter(&never_stuck, |arena| {
            vec![1u8; arena.chunk_capacity()].len()
        });
        assert!(
            matches!(outcome.result, Ok(len) if len == whole - 64),
            "{outcome:?}"
        );
        let value = mailbox.take().expect("smuggled");
        let helper = std::thread::spawn(move || {
            assert_eq!(*value, [3; 64], "not wiped while it lives");
            drop(value);
        });
        helper.join().expect("ends");
        let outcome = tenant.enter(&never_stuck, |_| ());
        assert_eq!((outcome.left, outcome.kept), (0, 0));
        assert_eq!(room(tenant), whole);
    });
}

#[test]
fn a_value_freed_elsewhere_before_the_request_returns_leaves_nothing() {
    on_bucket_thread(|tenant| {
        let mailbox = Mailbox::new();
        let freed = Arc::new(AtomicUsize::new(0));
        let done = Arc::new(AtomicBool::new(false));
        let helper = std::thread::spawn({
            let (mailbox, freed, done) = (mailbox.clone(), freed.clone(), done.clone());
            move || {
                while !done.load(Ordering::Relaxed) {
                    if mailbox.take().is_some() {
                        freed.fetch_add(1, Ordering::Release);
                    }
                    std::thread::yield_now();
                }
            }
        });
        for n in 1..=100 {
            let outcome = tenant.enter(&never_stuck, |_| {
                mailbox.put(Box::new([n as u8; 64]));
                wait_for("freed", || freed.load(Ordering::Acquire) == n);
            });
            assert_eq!(outcome.left, 0);
        }
        done.store(true, Ordering::Relaxed);
        helper.join().expect("ends");
    });
}

/// A block that another thread frees while the request goes on is used again in it.
#[test]
fn blocks_that_another_thread_frees_make_room_for_the_same_request() {
    let (give, take) = mpsc::sync_channel::<Vec<u8>>(1);
    let helper =
        std::thread::spawn(move || take.into_iter().map(|block| block.len()).sum::<usize>());
    let result = start_on(next_bucket(), move |tenant| {
        let outcome = tenant.enter(&never_stuck, |_| {
            for _ in 0..4000 {
                give.send(vec![7; 1024]).expect("it listens");
            }
        });
        assert!(matches!(outcome.result, Ok(())), "{outcome:?}");
        drop(give);
    });
    finish(&result);
    assert_eq!(helper.join().expect("it ends"), 4000 * 1024);
}

/// The free comes before, while and after the owner looks: in each case it is counted once.
#[test]
fn a_free_at_any_moment_around_the_end_of_the_request_is_counted_once() {
    let mailbox = Mailbox::new();
    let done = Arc::new(AtomicBool::new(false));
    let helper = std::thread::spawn({
        let (mailbox, done) = (mailbox.clone(), done.clone());
        move || {
            let mut delay = 1u32;
            while !done.load(Ordering::Relaxed) {
                if let Some(value) = mailbox.take() {
                    delay = delay.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    for _ in 0..delay >> 22 {
                        std::hint::spin_loop();
                    }
                    if delay & 0x100 != 0 {
                        std::thread::yield_now();
                    }
                    drop(value);
                } else {
                    std::thread::yield_now();
                }
            }
        }
    });
    let result = start_on(next_bucket(), move |tenant| {
        let whole = room(tenant);
        let mut left = 0;
        for _ in 0..5_000 {
            left += smuggle(tenant, &mailbox);
            wait_for("freed", || tenant.look_at_kept() == 0);
        }
        assert!(left > 0, "some were still live at the end of their request");
        assert_eq!(room(tenant), whole);
    });
    finish(&result);
    done.store(true, Ordering::Relaxed);
    helper.join().expect("ends");
}

#[test]
fn a_vector_that_grows_on_another_thread_moves_to_that_threads_heap() {
    on_bucket_thread(|tenant| {
        let bucket = tenant.bucket();
        let mailbox = Mailbox::<Vec<u8>>::new();
        let theirs = mailbox.clone();
        let outcome = tenant.enter(&never_stuck, |_| theirs.put(Box::new(vec![5u8; 100])));
        assert_eq!(outcome.left, 32 + 112, "the box and its vector");
        let mut vector = *mailbox.take().expect("smuggled");
        assert!(lies_in(bucket, vector.as_ptr() as usize, 100));
        let vector = std::thread::spawn(move || {
            vector.resize(10_000, 6);
            vector
        });
        let vector = vector.join().expect("ends");
        assert!(!lies_in(bucket, vector.as_ptr() as usize, 1));
        assert!(vector[..100].iter().all(|&b| b == 5) && vector[100..].iter().all(|&b| b == 6));
        // Its old block was freed there, from afar, though the vector lives.
        assert_eq!(tenant.look_at_kept(), 0);
    });
}

#[test]
fn a_value_of_one_bucket_freed_or_grown_inside_a_request_of_another_is_given_back_to_its_own() {
    let [first, second] = [next_bucket(), next_bucket()];
    let mailbox = Mailbox::<Vec<u8>>::new();
    let other = mailbox.clone();
    let taken = Arc::new(AtomicUsize::new(0));
    let theirs = taken.clone();
    let first_result = start_on(first, move |tenant| {
        for n in 1..=100 {
            let outcome = tenant.enter(&never_stuck, |_| mailbox.put(Box::new(vec![5u8; 100])));
            assert!(outcome.result.is_ok(), "{outcome:?}");
            wait_for("taken", || taken.load(Ordering::Acquire) == n);
        }
        wait_for("freed", || tenant.look_at_kept() == 0);
    });
    let second_result = start_on(second, move |tenant| {
        for n in 0..100 {
            let outcome = tenant.enter(&never_stuck, |_| {
                let mine = black_box(Box::new([9u8; 100]));
                let mut value = loop {
                    if let Some(value) = other.take() {
                        break value;
                    }
                    std::thread::yield_now();
                };
                if n % 2 == 0 {
                    value.extend_from_slice(&[6; 1000]);
                    assert!(lies_in(second, value.as_ptr() as usize, 1100));
                }
                assert!(value[..100] == [5; 100] && *mine == [9; 100]);
            });
            assert!(outcome.result.is_ok() && outcome.left == 0, "{outcome:?}");
            theirs.fetch_add(1, Ordering::Release);
        }
    });
    finish(&first_result);
    finish(&second_result);
}

/// As `rand`, `println!` and every lazy thread-local do.
#[test]
fn what_a_thread_local_keeps_costs_its_bytes_once() {
    thread_local! {
        static CACHE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    on_bucket_thread(|tenant| {
        for n in 0..1000 {
            let outcome = tenant.enter(&never_stuck, |_| {
                CACHE.with_borrow_mut(|cache| {
                    cache.clear();
                    cache.extend_from_slice(format!("request {n}").as_bytes());
                    cache.len()
                })
            });
            assert!(outcome.result.is_ok(), "{outcome:?}");
            assert!(outcome.kept > 0 && outcome.kept <= 32, "{outcome:?}");
        }
        // A thread-local that grows moves, and leaves its old block to the next one that wants it.
        let outcome = tenant.enter(&never_stuck, |_| {
            CACHE.with_borrow_mut(|cache| cache.resize(1000, 1));
        });
        assert_eq!(outcome.kept, 1008);
        CACHE.with_borrow_mut(|cache| *cache = Vec::new());
        assert_eq!(tenant.look_at_kept(), 0);
    });
}

/// A lazy value first touched by a request stays in that request's bucket, and every other bucket reads it
/// there.
#[test]
fn a_lazy_value_made_by_a_request_lives_on() {
    static WORDS: LazyLock<BTreeMap<String, Vec<usize>>> = LazyLock::new(|| {
        let words = (0..200).map(|n| (format!("word {n}"), vec![n; 20]));
        words.collect()
    });
    for _ in 0..3 {
        on_bucket_thread(|tenant| {
            for _ in 0..100 {
                let outcome = tenant.enter(&never_stuck, |_| WORDS["word 7"].iter().sum::<usize>());
                assert!(matches!(outcome.result, Ok(140)), "{outcome:?}");
            }
        });
    }
}

/// A cache of 100 entries in a `Mutex`, changed from all buckets a million times in all: what is freed
/// beneath a mark is used there again, whichever thread frees it.
#[test]
fn a_bounded_cache_turns_over_for_ever_from_all_buckets() {
    static CACHE: Mutex<BTreeMap<usize, String>> = Mutex::new(BTreeMap::new());
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let bucket = next_bucket();
            let result = start_on(bucket, move |tenant| {
                let mut most = 0;
                for _ in 0..250_000 {
                    let outcome = tenant.enter(&never_stuck, |_| {
                        let n = NEXT.fetch_add(1, Ordering::Relaxed);
                        let text = format!("entry {n} of {:>1$}", n % 97, n % 300);
                        let mut cache = CACHE.lock().expect("whole");
                        cache.insert(n, text);
                        if cache.len() > 100 {
                            cache.pop_first();
                        }
                    });
                    assert!(outcome.result.is_ok(), "{outcome:?}");
                    most = most.max(outcome.kept);
                }
                // 100 entries of 330 bytes and their map, were they all in one bucket; twice.
                assert!(most <= 100 << 10, "{most}");
            });
            (bucket, result)
        })
        .collect();
    for (_, result) in &threads {
        finish(result);
    }
    assert_eq!(NEXT.load(Ordering::Relaxed), 1_000_000);
    CACHE.lock().expect("whole").clear();
}

#[test]
fn a_channel_between_requests_of_two_buckets_frees_everything_in_the_end() {
    let (send, receive) = mpsc::sync_channel::<String>(100);
    let sender = start_on(next_bucket(), move |tenant| {
        for n in 0..10_000 {
            let send = &send;
            let outcome = tenant.enter(&never_stuck, |_| {
                send.send(format!("message {n}"))
                    .expect("the receiver lives");
            });
            assert!(outcome.result.is_ok(), "{outcome:?}");
        }
        drop(send);
        wait_for("all received", || tenant.look_at_kept() < 200);
    });
    let receiver = start_on(next_bucket(), move |tenant| {
        for n in 0..10_000 {
            let receive = &receive;
            let outcome = tenant.enter(&never_stuck, |_| {
                let text = receive.recv_timeout(DEADLINE).expect("in time");
                assert_eq!(text, format!("message {n}"));
            });
            assert!(outcome.result.is_ok(), "{outcome:?}");
        }
        drop(receive);
    });
    finish(&receiver);
    finish(&sender);
}

/// Leaked blocks may outnumber a 32-bit count. So live bytes are counted, in 64 bits, and the reset never
/// goes below leaked blocks.
#[test]
fn what_is_leaked_is_never_handed_out_again() {
    on_bucket_thread(|tenant| {
        let mut leaked: Vec<&'static mut [u64; 4]> = Vec::with_capacity(2000);
        for n in 0..1000 {
            let outcome = tenant.enter(&never_stuck, |_| {
                let temporary = black_box(vec![1u8; 1 << 10]);
                leaked.push(Box::leak(Box::new([n; 4])));
                temporary.len()
            });
            assert!(outcome.result.is_ok(), "{outcome:?}");
            assert_eq!(outcome.kept, (n as usize + 1) * 32);
        }
        for (n, values) in leaked.iter().enumerate() {
            assert_eq!(**values, [n as u64; 4]);
        }
    });
}

/// The failure path allocates from the reserve, which is used again only after its blocks are freed.
#[test]
fn a_value_made_by_a_cleanup_of_a_full_bucket_and_sent_away_stays_whole() {
    on_bucket_thread(|tenant| {
        let mailbox = Mailbox::new();
        for round in 0..10u8 {
            let theirs = mailbox.clone();
            // SAFETY: nothing is held; what the cleanup sends lies in the reserve.
            let outcome = unsafe {
                tenant.enter_escaping(&never_stuck, move |_| -> u8 {
                    let theirs = theirs.clone();
                    defer(move |_| theirs.put(Box::new([round; 64])));
                    common::fill_the_arena()
                })
            };
            assert!(outcome.result.is_err());
            let value = mailbox.take().expect("sent");
            assert_eq!(*value, [round; 64]);
        }
    });
}

/// The same for a payload that a handler catches in a full arena and hands to another thread.
#[test]
fn a_panic_payload_sent_away_stays_whole() {
    on_bucket_thread(|tenant| {
        let mailbox = Mailbox::new();
        let mut kept = Vec::with_capacity(10);
        for n in 0..10 {
            let theirs = mailbox.clone();
            let outcome = tenant.enter(&never_stuck, |arena| {
                while arena.try_alloc(0u8).is_ok() {}
                let payload = std::panic::catch_unwind(|| panic!("number {}", black_box(n)));
                let payload = payload.expect_err("panics").downcast::<String>();
                theirs.put(payload.expect("a formatted message"));
            });
            assert!(outcome.result.is_ok(), "{outcome:?}");
            kept.push(mailbox.take().expect("sent"));
        }
        for (n, text) in kept.iter().enumerate() {
            assert_eq!(**text, format!("number {n}"));
        }
    });
}

/// A thread that ends runs the destructors of its thread-locals: what they held goes back to the bucket.
#[test]
fn a_thread_started_anew_on_the_same_bucket_gets_back_what_its_predecessor_kept() {
    thread_local! {
        static KEPT: RefCell<Vec<Arc<[u8; 1000]>>> = const { RefCell::new(Vec::new()) };
    }
    let bucket = next_bucket();
    for _ in 0..20 {
        let result = start_on(bucket, |tenant| {
            let outcome = tenant.enter(&never_stuck, |_| {
                KEPT.with_borrow_mut(|kept| {
                    assert!(kept.is_empty(), "another thread");
                    kept.extend((0..100).map(|_| Arc::new([1u8; 1000])));
                });
            });
            assert!(outcome.kept > 100_000, "{outcome:?}");
        });
        finish(&result);
        wait_for("the thread has ended", || bucket.has_ended());
        assert_eq!(bucket.kept(), 0);
        assert!(bucket.kept_max() > 100_000, "it has kept that much");
    }
}

/// A value padded to cache lines (a channel's part) stays for a moment after its request, and another takes
/// its place.
#[test]
fn aligned_values_that_turn_over_for_ever_cost_the_room_of_a_few() {
    #[repr(align(128))]
    struct Line([u8; 128]);
    on_bucket_thread(|tenant| {
        let whole = room(tenant);
        let mailbox: Arc<Mailbox<Line>> = Mailbox::new();
        for n in 0..20_000u32 {
            let small = Mailbox::<[u8; 64]>::new();
            let outcome = tenant.enter(&never_stuck, |_| {
                let before = mailbox.take();
                mailbox.put(Box::new(Line([n as u8; 128])));
                smuggle_in(&small);
                before.is_none_or(|line| line.0 == [(n - 1) as u8; 128])
            });
            assert!(matches!(outcome.result, Ok(true)), "{n}: {outcome:?}");
            drop(small.take());
        }
        let left = room(tenant);
        assert!(left + 4096 > whole, "{left} of {whole}");
        drop(mailbox.take());
        tenant.look_at_kept();
        assert_eq!(room(tenant), whole);
    });
}

fn smuggle_in(mailbox: &Mailbox<[u8; 64]>) {
    mailbox.put(Box::new([3; 64]));
}

/// The room below a kept value comes back once the lowest block is freed, whatever else is kept.
#[test]
fn the_room_below_a_value_comes_back_when_that_is_freed() {
    on_bucket_thread(|tenant| {
        let whole = room(tenant);
        let (high, low) = (Mailbox::new(), Mailbox::new());
        smuggle(tenant, &high);
        let outcome = tenant.enter(&never_stuck, |_| {
            let above = black_box(vec![1u8; 200_000]);
            smuggle_in(&low);
            drop(above);
        });
        assert!(outcome.result.is_ok());
        assert!(room(tenant) < whole - 200_000);
        drop(low.take());
        tenant.look_at_kept();
        assert_eq!(room(tenant), whole - 64);
        drop(high.take());
    });
}

/// A few bytes in a bad place split the arena in two pieces, and blocks are made in both.
#[test]
fn a_value_in_the_middle_leaves_two_pieces() {
    on_bucket_thread(|tenant| {
        let whole = room(tenant);
        for above in [whole / 2, whole - whole / 16] {
            let low = Mailbox::new();
            let outcome = tenant.enter(&never_stuck, |_| {
                let above = black_box(vec![1u8; above]);
                smuggle_in(&low);
                drop(above);
            });
            assert!(outcome.result.is_ok());
            let below = room(tenant);
            let outcome = tenant.enter(&never_stuck, |_| {
                let pieces = [vec![1u8; above - 4096], vec![2u8; below - 4096]];
                black_box(&pieces).len()
            });
            assert!(outcome.result.is_ok(), "{outcome:?}");
            drop(low.take());
            tenant.look_at_kept();
            assert_eq!(room(tenant), whole);
        }
    });
}

/// What an earlier request has freed again is used first, and what is left there counts like any other.
#[test]
fn what_is_left_above_the_mark_is_counted_too() {
    on_bucket_thread(|tenant| {
        let (first, second) = (Mailbox::new(), Mailbox::new());
        let outcome = tenant.enter(&never_stuck, |_| {
            let between = black_box(vec![1u8; 4096]);
            smuggle_in(&first);
            drop(between);
        });
        assert_eq!(outcome.left, 64);
        assert_eq!(smuggle(tenant, &second), 64);
        assert_eq!(tenant.bucket().kept(), 128);
        let outcome = tenant.enter(&never_stuck, |_| drop(second.take()));
        assert_eq!((outcome.left, outcome.kept), (0, 64));
        drop(first.take());
    });
}

/// It costs all bytes that no block of a later request can have because of it.
#[test]
fn a_value_in_the_middle_costs_more_than_its_bytes() {
    on_bucket_thread(|tenant| {
        let whole = room(tenant);
        let wants = |tenant: &mut Tenant, bytes: usize| {
            let outcome = tenant.enter(&never_stuck, |_| {
                refusing(|| Vec::<u8>::new().try_reserve_exact(bytes)).is_ok()
            });
            (
                outcome.result.expect("returns"),
                outcome.found_no_piece.is_some(),
            )
        };
        assert_eq!(tenant.cost_of_kept(Pieces::All), 0);
        assert_eq!(wants(tenant, 2 * whole), (false, false));
        let mailbox = Mailbox::new();
        let outcome = tenant.enter(&never_stuck, |_| {
            let above = black_box(vec![1u8; whole / 3]);
            smuggle_in(&mailbox);
            drop(above);
        });
        assert_eq!((outcome.kept, outcome.found_no_piece), (64, None));
        let cost = tenant.cost_of_kept(Pieces::All);
        assert!((whole / 3 + 64..whole / 3 + 4096).contains(&cost), "{cost}");
        assert_eq!(wants(tenant, whole - cost), (true, false));
        assert_eq!(wants(tenant, whole - 4096), (false, true));
        assert_eq!(wants(tenant, 2 * whole), (false, false), "it never fits");
        drop(mailbox.take());
        tenant.look_at_kept();
        assert_eq!(tenant.cost_of_kept(Pieces::All), 0);
    });
}

/// The `&Bump` has only the room below that value. So have requests that may be left by a jump.
#[test]
fn a_value_below_a_large_piece_costs_the_bump_that_piece() {
    on_bucket_thread(|tenant| {
        let whole = room(tenant);
        let fill = |tenant: &mut Tenant, bytes: usize| {
            let outcome = tenant.enter(&never_stuck, |arena| {
                arena.alloc_slice_fill_copy(bytes, 1u8).len()
            });
            (outcome.result.is_ok(), outcome.found_no_piece)
        };
        assert_eq!(fill(tenant, 2 * whole), (false, None), "nothing is kept");
        let mailbox = Mailbox::new();
        let above = whole - whole / 4;
        tenant.enter(&never_stuck, |_| {
            let above = black_box(vec![1u8; above]);
            smuggle_in(&mailbox);
            drop(above);
        });
        assert!(tenant.cost_of_kept(Pieces::All) < whole / 2);
        assert!(tenant.cost_of_kept(Pieces::BelowTheKept) > above);
        assert_eq!(fill(tenant, whole / 8), (true, None));
        let below = Some(Pieces::BelowTheKept);
        assert_eq!(fill(tenant, whole / 2), (false, below));
        drop(mailbox.take());
        tenant.look_at_kept();
        assert_eq!(fill(tenant, whole / 2), (true, None));
    });
}

/// An entry of a cache that has more than half of the arena is replaced by requests that have it freed first,
/// by their own thread or another.
#[test]
fn what_a_request_frees_of_earlier_ones_is_room_for_itself() {
    static ENTRY: Mutex<Option<Vec<u8>>> = Mutex::new(None);
    on_bucket_thread(|tenant| {
        let bytes = room(tenant) / 3 * 2;
        let (ask, asked) = mpsc::sync_channel::<Vec<u8>>(0);
        let (tell, told) = mpsc::sync_channel(0);
        let helper = std::thread::spawn(move || {
            for entry in asked {
                drop(entry);
                tell.send(()).expect("it waits");
            }
        });
        for n in 0..20 {
            let outcome = tenant.enter(&never_stuck, |_| {
                let mut entry = ENTRY.lock().expect("not poisoned");
                match entry.take() {
                    Some(old) if n % 4 < 2 => {
                        ask.send(old).expect("it waits");
                        told.recv().expect("it answers");
                    }
                    old => drop(old),
                }
                *entry = Some(black_box(vec![1; bytes]));
            });
            assert!(outcome.result.is_ok(), "request {n}: {outcome:?}");
            assert!(outcome.kept >= bytes, "request {n}: {outcome:?}");
        }
        drop(ask);
        helper.join().expect("it returns");
        ENTRY.lock().expect("not poisoned").take();
        assert!(tenant.look_at_kept() < 1024, "what the channels keep");
    });
}
