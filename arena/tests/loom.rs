//! Every interleaving of the two places where threads wait for each other: the mutex, and the pin.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p transom-arena --release --test loom`
//!
//! The files under test are compiled in here, on loom's atomics and a futex made of loom's mutex and condition variable;
//! they are the same files that the crate is made of.
#![cfg(loom)]

mod futex {
    pub use loom::sync::atomic::{AtomicU32, Ordering};
    use loom::sync::{Condvar, Mutex, MutexGuard};

    loom::lazy_static! {
        /// The kernel's bucket for the one word that a model sleeps on. Its lock is what makes FUTEX_WAIT's comparison
        /// and going to sleep one step.
        static ref SLEEPERS: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());
    }

    fn kernel() -> MutexGuard<'static, ()> {
        SLEEPERS.0.lock().expect("no model panics in it")
    }

    pub fn wait(word: &AtomicU32, expected: u32) {
        let guard = kernel();
        if word.load(Ordering::Relaxed) == expected {
            drop(SLEEPERS.1.wait(guard).expect("no model panics in it"));
        }
    }

    pub fn wake(_: &AtomicU32, count: i32) {
        assert_eq!(count, 1);
        let _guard = kernel();
        SLEEPERS.1.notify_one();
    }
}

#[path = "../src/mutex.rs"]
mod mutex;
#[path = "../src/pin.rs"]
mod pin;

use futex::AtomicU32;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use pin::Pin;

/// Loom's own advice for models of three threads: at most four switches that no thread asked for. Without a bound the
/// mutex alone takes longer than anybody waits.
fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(4);
    builder.check(model);
}

/// A lost wake-up is a deadlock, which loom reports; a hole in the exclusion is a race on the cell, which it reports too.
#[test]
fn the_mutex_excludes_and_loses_no_wake_up() {
    struct Counter {
        lock: AtomicU32,
        count: UnsafeCell<u32>,
    }
    // SAFETY: the cell is used under the lock; whether that holds is what the model finds out.
    unsafe impl Sync for Counter {}
    // SAFETY: as above.
    unsafe impl Send for Counter {}
    impl Counter {
        fn add(&self) {
            mutex::lock(&self.lock);
            // SAFETY: loom checks that no two threads are in here.
            self.count.with_mut(|count| unsafe { *count += 1 });
            mutex::unlock(&self.lock);
        }
    }

    explore(|| {
        let counter = Arc::new(Counter {
            lock: AtomicU32::new(mutex::FREE),
            count: UnsafeCell::new(0),
        });
        let others: Vec<_> = (0..2)
            .map(|_| {
                let counter = counter.clone();
                thread::spawn(move || counter.add())
            })
            .collect();
        counter.add();
        for other in others {
            other.join().expect("ends");
        }
        assert!(mutex::try_lock(&counter.lock));
        // SAFETY: locked, and the others have ended.
        assert_eq!(counter.count.with(|count| unsafe { *count }), 3);
    });
}

struct Bucket {
    pin: Pin,
    block: UnsafeCell<u32>,
}
// SAFETY: the block is written by whoever frees it and by the owner once it is unpinned; the model finds out whether
// these can meet.
unsafe impl Sync for Bucket {}
// SAFETY: as above.
unsafe impl Send for Bucket {}

/// Two other threads free a block each, whenever they like; the owner waits for both and then uses the memory again.
#[test]
fn the_pin_loses_no_wake_up_and_what_was_freed_can_be_used_again() {
    explore(|| {
        let bucket = Arc::new(Bucket {
            pin: Pin::new(),
            block: UnsafeCell::new(1),
        });
        let others: Vec<_> = (0..2)
            .map(|n| {
                let bucket = bucket.clone();
                thread::spawn(move || {
                    if n == 0 {
                        // SAFETY: this thread owns the block until it has freed it.
                        bucket.block.with_mut(|block| unsafe { *block = 2 });
                    }
                    bucket.pin.freed_from_afar();
                })
            })
            .collect();
        bucket.pin.wait_until_free(2);
        // SAFETY: everything was freed; loom checks that this is ordered after the write above.
        bucket.block.with_mut(|block| unsafe { *block = 3 });
        bucket.pin.reset();
        for other in others {
            other.join().expect("ends");
        }
        assert_eq!(bucket.pin.freed(), 0);
    });
}

/// The owner does not sleep but looks, as at the end of a request: if it sees the free, the memory is its own.
#[test]
fn a_free_that_is_seen_without_waiting_is_over() {
    explore(|| {
        let bucket = Arc::new(Bucket {
            pin: Pin::new(),
            block: UnsafeCell::new(1),
        });
        let other = {
            let bucket = bucket.clone();
            thread::spawn(move || {
                // SAFETY: as above.
                bucket.block.with_mut(|block| unsafe { *block = 2 });
                bucket.pin.freed_from_afar();
            })
        };
        if bucket.pin.live(1) == 0 {
            // SAFETY: as above.
            bucket.block.with_mut(|block| unsafe { *block = 3 });
        }
        other.join().expect("ends");
    });
}
