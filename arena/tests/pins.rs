//! Values that outlive their request or leave its thread: the bucket waits for them, and memory is never used twice.

mod common;

use common::{
    DEADLINE, finish, lies_in, never_stuck, next_bucket, on_bucket_thread, start_on, wait_for,
};
use std::cell::RefCell;
use std::hint::black_box;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::mpsc;
use transom_arena::{BucketState, Tenant, defer};

#[global_allocator]
static GLOBAL: transom_arena::TransomAllocator = transom_arena::TransomAllocator;

/// Takes a value out of a request, without allocating. A channel would do that too, but its own blocks would be pins.
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
fn smuggle(tenant: &mut Tenant, mailbox: &Mailbox<[u8; 64]>) -> u32 {
    let outcome = tenant.enter(&never_stuck, |_| mailbox.put(Box::new([3; 64])));
    assert!(outcome.result.is_ok(), "{outcome:?}");
    outcome.live
}

#[test]
fn a_value_moved_to_another_thread_pins_the_bucket_until_it_is_freed_there() {
    let bucket = next_bucket();
    let mailbox = Mailbox::new();
    let other = mailbox.clone();
    let unpinned = Arc::new(AtomicBool::new(false));
    let flag = unpinned.clone();
    let result = start_on(bucket, move |tenant| {
        assert_eq!(smuggle(tenant, &mailbox), 1);
        tenant.wait_until_unpinned();
        flag.store(true, Ordering::SeqCst);
        let outcome = tenant.enter(&never_stuck, |arena| {
            vec![1u8; arena.chunk_capacity()].len()
        });
        assert!(outcome.result.is_ok() && outcome.live == 0, "{outcome:?}");
    });
    wait_for("the bucket is pinned", || {
        bucket.state() == BucketState::Pinned
    });
    let value = other.take().expect("smuggled");
    assert_eq!(*value, [3; 64], "not wiped while it lives");
    assert!(!unpinned.load(Ordering::SeqCst));
    drop(value);
    finish(&result);
}

#[test]
fn a_value_freed_elsewhere_before_the_request_returns_does_not_pin() {
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
            assert_eq!(outcome.live, 0);
        }
        done.store(true, Ordering::Relaxed);
        helper.join().expect("ends");
    });
}

/// The free comes when the owner is about to return, to look, to sleep, or asleep; whenever that is, it wakes.
#[test]
fn a_free_at_any_moment_around_the_end_of_the_request_wakes_the_owner() {
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
                }
            }
        }
    });
    let result = start_on(next_bucket(), move |tenant| {
        let mut pinned = 0;
        for _ in 0..20_000 {
            if smuggle(tenant, &mailbox) != 0 {
                pinned += 1;
                tenant.wait_until_unpinned();
            }
        }
        assert!(
            pinned > 0,
            "some were still live at the end of their request"
        );
    });
    finish(&result);
    done.store(true, Ordering::Relaxed);
    helper.join().expect("ends");
}

#[test]
fn a_vector_that_grows_on_another_thread_moves_to_that_threads_heap() {
    let bucket = next_bucket();
    let mailbox = Mailbox::<Vec<u8>>::new();
    let other = mailbox.clone();
    let result = start_on(bucket, move |tenant| {
        let outcome = tenant.enter(&never_stuck, |_| mailbox.put(Box::new(vec![5u8; 100])));
        assert_eq!(outcome.live, 2, "the box and its vector");
        tenant.wait_until_unpinned();
    });
    wait_for("the bucket is pinned", || {
        bucket.state() == BucketState::Pinned
    });
    let mut vector = *other.take().expect("smuggled");
    assert!(lies_in(bucket, vector.as_ptr() as usize, 100));
    vector.resize(10_000, 6);
    assert!(!lies_in(bucket, vector.as_ptr() as usize, 1));
    assert!(vector[..100].iter().all(|&b| b == 5) && vector[100..].iter().all(|&b| b == 6));
    // Its old block was freed here, from afar: nothing pins the bucket, though the vector lives.
    finish(&result);
    drop(vector);
}

#[test]
fn a_value_of_one_bucket_freed_or_grown_inside_a_request_of_another_is_given_back_to_its_own() {
    let [first, second] = [next_bucket(), next_bucket()];
    let mailbox = Mailbox::<Vec<u8>>::new();
    let other = mailbox.clone();
    let first_result = start_on(first, move |tenant| {
        for _ in 0..100 {
            let outcome = tenant.enter(&never_stuck, |_| mailbox.put(Box::new(vec![5u8; 100])));
            assert!(outcome.result.is_ok(), "{outcome:?}");
            tenant.wait_until_unpinned();
        }
    });
    let second_result = start_on(second, move |tenant| {
        for n in 0..100 {
            let outcome = tenant.enter(&never_stuck, |_| {
                let mine = black_box(Box::new([9u8; 100]));
                let mut theirs = loop {
                    if let Some(value) = other.take() {
                        break value;
                    }
                    std::thread::yield_now();
                };
                if n % 2 == 0 {
                    theirs.extend_from_slice(&[6; 1000]);
                    assert!(lies_in(second, theirs.as_ptr() as usize, 1100));
                }
                assert!(theirs[..100] == [5; 100] && *mine == [9; 100]);
            });
            assert!(outcome.result.is_ok() && outcome.live == 0, "{outcome:?}");
        }
    });
    finish(&first_result);
    finish(&second_result);
}

#[test]
fn a_value_kept_by_the_thread_itself_pins_its_bucket_until_it_lets_go() {
    thread_local! {
        static KEPT: RefCell<Option<Box<[u8; 64]>>> = const { RefCell::new(None) };
    }
    on_bucket_thread(|tenant| {
        let outcome = tenant.enter(&never_stuck, |_| {
            KEPT.with(|kept| *kept.borrow_mut() = Some(Box::new([4; 64])));
        });
        assert_eq!(outcome.live, 1);
        // Another request may be let in all the same; it lives beside what is kept.
        let outcome = tenant.enter(&never_stuck, |_| black_box(Box::new([5u8; 64])).len());
        assert!(
            matches!(outcome.result, Ok(64)) && outcome.live == 1,
            "{outcome:?}"
        );
        KEPT.with(|kept| assert_eq!(kept.borrow_mut().take().as_deref(), Some(&[4; 64])));
        tenant.wait_until_unpinned();
        let outcome = tenant.enter(&never_stuck, |arena| {
            vec![1u8; arena.chunk_capacity()].len()
        });
        assert!(outcome.result.is_ok(), "{outcome:?}");
    });
}

#[test]
fn a_channel_between_requests_of_two_buckets_frees_everything_in_the_end() {
    let (send, receive) = mpsc::channel::<String>();
    let sender = start_on(next_bucket(), move |tenant| {
        for n in 0..1000 {
            let send = &send;
            let outcome = tenant.enter(&never_stuck, |_| {
                send.send(format!("message {n}"))
                    .expect("the receiver lives");
            });
            assert!(outcome.result.is_ok(), "{outcome:?}");
            // The channel's own blocks are among what is live: so go on without waiting.
            if n % 100 == 99 {
                assert!(tenant.bucket().high_water() < 300 << 10);
            }
        }
        drop(send);
    });
    let receiver = start_on(next_bucket(), move |tenant| {
        for n in 0..1000 {
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

/// The failure path allocates from the reserve, which is wiped with the bucket: that must be counted as well.
#[test]
fn a_value_made_by_a_cleanup_and_sent_away_pins_the_bucket() {
    let bucket = next_bucket();
    let mailbox = Mailbox::new();
    let other = mailbox.clone();
    let result = start_on(bucket, move |tenant| {
        let mailbox = mailbox.clone();
        let outcome = tenant.enter(&never_stuck, move |_| -> u8 {
            defer(move |_| mailbox.put(Box::new([3u8; 64])));
            panic!("so that the cleanup runs in the panic room");
        });
        assert!(outcome.result.is_err());
        assert_eq!(outcome.live, 1);
        tenant.wait_until_unpinned();
        let outcome = tenant.enter(&never_stuck, |_| *black_box(Box::new(1)));
        assert!(matches!(outcome.result, Ok(1)) && outcome.live == 0);
    });
    wait_for("the bucket is pinned", || {
        bucket.state() == BucketState::Pinned
    });
    let value = other.take().expect("sent");
    assert!(
        lies_in(bucket, value.as_ptr() as usize, 64),
        "from the panic room"
    );
    assert_eq!(*value, [3; 64]);
    drop(value);
    finish(&result);
}

/// The same for a payload that a handler catches in a full arena and hands to somebody else.
#[test]
fn a_panic_payload_sent_away_pins_the_bucket() {
    let bucket = next_bucket();
    let mailbox = Mailbox::new();
    let other = mailbox.clone();
    let result = start_on(bucket, move |tenant| {
        let outcome = tenant.enter(&never_stuck, |arena| {
            while arena.try_alloc(0u8).is_ok() {}
            let payload = std::panic::catch_unwind(|| panic!("number {}", black_box(8)));
            let payload = payload.expect_err("panics").downcast::<String>();
            mailbox.put(payload.expect("a formatted message"));
        });
        assert!(outcome.result.is_ok(), "{outcome:?}");
        assert!(outcome.live > 0);
        tenant.wait_until_unpinned();
    });
    wait_for("the bucket is pinned", || {
        bucket.state() == BucketState::Pinned
    });
    let text = other.take().expect("sent");
    assert!(lies_in(bucket, text.as_ptr() as usize, text.len()));
    assert_eq!(*text, "number 8");
    drop(text);
    finish(&result);
}
