//! Every interleaving of the places where threads meet: the mutex, the lock for readers and a writer, and the
//! stack of blocks that other threads have freed.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p transom-arena --release --test loom`
//!
//! The files under test are compiled in here, on loom's atomics and a futex made of loom's mutex and
//! condition variable; they are the same files that the crate is made of.
#![cfg(loom)]

mod futex {
    pub use loom::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
    use loom::sync::{Condvar, Mutex, MutexGuard};

    loom::lazy_static! {
        /// The kernel's bucket for the one word that a model sleeps on. Its lock is what makes FUTEX_WAIT's
        /// comparison and going to sleep one step.
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
        let _guard = kernel();
        match count {
            1 => SLEEPERS.1.notify_one(),
            _ => SLEEPERS.1.notify_all(),
        }
    }
}

#[path = "../src/mutex.rs"]
mod mutex;
#[path = "../src/remote.rs"]
mod remote;
#[path = "../src/rwlock.rs"]
mod rwlock;

use futex::AtomicU32;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use remote::Remote;
use std::ptr::NonNull;

/// Loom's own advice for models of three threads: at most four switches that no thread asked for. Without a
/// bound, exploring the mutex alone takes too long.
fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(4);
    builder.check(model);
}

/// A lost wake-up is a deadlock, which loom reports; a hole in the exclusion is a race on the cell, which it
/// reports too.
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

/// A value under the lock, and how many read it.
struct Cell {
    lock: AtomicU32,
    value: UnsafeCell<u32>,
}
// SAFETY: the cell is used under the lock; whether that holds is what the model finds out.
unsafe impl Sync for Cell {}
// SAFETY: as above.
unsafe impl Send for Cell {}

impl Cell {
    fn new() -> Arc<Self> {
        Arc::new(Cell {
            lock: AtomicU32::new(rwlock::FREE),
            value: UnsafeCell::new(0),
        })
    }

    fn read(&self) -> u32 {
        rwlock::read(&self.lock);
        // SAFETY: loom checks that no thread writes meanwhile.
        let value = self.value.with(|value| unsafe { *value });
        rwlock::unlock_read(&self.lock);
        value
    }

    fn write(&self) {
        rwlock::write(&self.lock);
        // SAFETY: loom checks that no other thread is in here.
        self.value.with_mut(|value| unsafe { *value += 1 });
        rwlock::unlock_write(&self.lock);
    }
}

/// A reader and a writer that is kept out is a deadlock, which loom reports; one that is let in is a race.
#[test]
fn readers_and_writers_exclude_each_other_and_lose_no_wake_up() {
    explore(|| {
        let cell = Cell::new();
        let others: Vec<_> = (0..2)
            .map(|n| {
                let cell = cell.clone();
                thread::spawn(move || match n {
                    0 => cell.write(),
                    _ => assert!(cell.read() <= 2),
                })
            })
            .collect();
        cell.write();
        for other in others {
            other.join().expect("ends");
        }
        assert_eq!(cell.read(), 2);
    });
}

#[test]
fn two_readers_and_a_writer_get_in() {
    explore(|| {
        let cell = Cell::new();
        let others: Vec<_> = (0..2)
            .map(|_| {
                let cell = cell.clone();
                thread::spawn(move || assert!(cell.read() <= 1))
            })
            .collect();
        cell.write();
        for other in others {
            other.join().expect("ends");
        }
        assert_eq!(cell.read(), 1);
    });
}

/// Memory of one owner: two blocks, each with a cell that shows which thread uses it.
struct Owned {
    remote: Remote,
    blocks: [UnsafeCell<u32>; 2],
    memory: UnsafeCell<[[u64; 2]; 2]>,
}
// SAFETY: only the thread that has a block uses it; the model finds out whether two have.
unsafe impl Sync for Owned {}
// SAFETY: as above.
unsafe impl Send for Owned {}

impl Owned {
    fn new() -> Arc<Self> {
        Arc::new(Owned {
            remote: Remote::new(),
            blocks: [UnsafeCell::new(0), UnsafeCell::new(0)],
            memory: UnsafeCell::new([[0; 2]; 2]),
        })
    }

    fn address(&self, n: usize) -> NonNull<u8> {
        // SAFETY: only the address is made; what is written there goes around the model's cell.
        self.memory.with(|memory| unsafe {
            NonNull::new_unchecked((memory as *mut [u64; 2]).add(n).cast())
        })
    }

    /// Another thread has block `n`, uses it and frees it.
    fn free(&self, n: usize) {
        // SAFETY: this thread has the block; loom checks that the owner does not use it yet.
        self.blocks[n].with_mut(|block| unsafe { *block += 1 });
        // SAFETY: 16 bytes, freed once.
        unsafe { self.remote.push(self.address(n), 16) };
    }

    /// The owner takes what was freed, and uses it.
    fn take(&self) -> usize {
        let mut taken = 0;
        self.remote.take_all(|block, size| {
            assert_eq!(size, 16);
            let n = (0..2)
                .find(|&n| self.address(n) == block)
                .expect("one of them");
            // SAFETY: it was freed; loom checks that its last user is done.
            self.blocks[n].with_mut(|block| unsafe { *block += 10 });
            taken += 1;
        });
        taken
    }
}

/// Two threads free a block each while the owner takes: each block comes back once, and after its last use.
#[test]
fn what_others_free_comes_back_once_and_can_be_used_again() {
    explore(|| {
        let owned = Owned::new();
        let others: Vec<_> = (0..2)
            .map(|n| {
                let owned = owned.clone();
                thread::spawn(move || owned.free(n))
            })
            .collect();
        let mut taken = if owned.remote.is_empty() {
            0
        } else {
            owned.take()
        };
        for other in others {
            other.join().expect("ends");
        }
        taken += owned.take();
        assert_eq!(taken, 2);
        assert!(owned.remote.is_empty());
    });
}

/// A block is freed, used again by its owner, handed to another thread and freed once more: the stack may
/// look as it did before, but is another one.
#[test]
fn a_block_that_is_freed_twice_is_taken_twice() {
    explore(|| {
        let owned = Owned::new();
        let other = {
            let owned = owned.clone();
            thread::spawn(move || owned.free(0))
        };
        let again = {
            let owned = owned.clone();
            thread::spawn(move || owned.free(1))
        };
        let mut taken = owned.take();
        if taken == 2 {
            let owned = owned.clone();
            thread::spawn(move || owned.free(0)).join().expect("ends");
            taken -= 1;
        }
        other.join().expect("ends");
        again.join().expect("ends");
        assert_eq!(taken + owned.take(), 2);
    });
}
