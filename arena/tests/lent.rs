//! What a parked request has lent to another thread stays as it is, for ever: each test has a scoped thread
//! that outlives the parking and looks.

mod common;

use common::{DEADLINE, Parked, never_stuck, on_bucket_thread, parks, wait_for};
use std::cell::RefCell;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use transom_arena::{Shared, SharedError, outside};

#[global_allocator]
static GLOBAL: transom_arena::TransomAllocator = transom_arena::TransomAllocator;

/// How often a scoped thread has looked, and whether it has ever seen something else.
#[derive(Default)]
struct Watch {
    looks: AtomicU64,
    changed: AtomicBool,
}

impl Watch {
    const fn new() -> Self {
        Watch {
            looks: AtomicU64::new(0),
            changed: AtomicBool::new(false),
        }
    }

    /// Looks for ever. On a thread that will never be joined, because its scope's thread is parked.
    fn look_for_ever(&self, mut unchanged: impl FnMut() -> bool) {
        loop {
            if !unchanged() {
                self.changed.store(true, Ordering::SeqCst);
            }
            self.looks.fetch_add(1, Ordering::SeqCst);
            thread::yield_now();
        }
    }

    /// It goes on looking, and has seen nothing.
    #[track_caller]
    fn is_fine(&self) {
        let before = self.looks.load(Ordering::SeqCst);
        wait_for("it looks again", || {
            self.looks.load(Ordering::SeqCst) > before + 100
        });
        assert!(!self.changed.load(Ordering::SeqCst), "it has seen a change");
    }
}

/// Asks for more than can ever be had.
fn exhaust() -> usize {
    black_box(vec![1u8; 1 << 30]).len()
}

/// Parks a request that has lent something to a scoped thread.
fn parks_lending(
    watch: &'static Watch,
    handler: impl FnOnce(&'static Watch) -> usize + Send + 'static,
) -> Parked {
    let parked = parks(move |_| handler(watch));
    watch.is_fine();
    parked
}

/// Other requests, in other buckets, that allocate whatever there is to allocate.
fn others_write_everywhere() {
    for _ in 0..4 {
        on_bucket_thread(|tenant| {
            for n in 0..200u32 {
                let outcome = tenant.enter(&never_stuck, |arena| {
                    let most = black_box(vec![0xEEu8; arena.chunk_capacity() - 4096]);
                    outside(|| drop(black_box(vec![0xEEu8; 200 << 10])));
                    most.len() + n as usize
                });
                assert!(outcome.result.is_ok(), "{outcome:?}");
                let outcome =
                    tenant.enter(&never_stuck, |_| black_box(vec![0xEEu8; 700 << 10]).len());
                assert!(outcome.result.is_err());
            }
        });
    }
}

#[test]
fn a_local_and_blocks_of_every_heap() {
    static WATCH: Watch = Watch::new();
    let parked = parks_lending(&WATCH, |watch| {
        let local = [7u8; 512];
        let block = black_box(vec![7u8; 1000]);
        let drawn = black_box(vec![7u8; 500 << 10]);
        let shared = outside(|| black_box(vec![7u8; 1000]));
        // SAFETY: plain C; it is not freed.
        let c = unsafe { std::slice::from_raw_parts(libc::calloc(1, 1000).cast::<u8>(), 1000) };
        thread::scope(|scope| {
            scope.spawn(|| {
                watch.look_for_ever(|| {
                    let slices: [&[u8]; 4] = [&local, &block, &drawn, &shared];
                    let seven = slices
                        .iter()
                        .all(|slice| slice.iter().all(|&byte| byte == 7));
                    seven && c.iter().all(|&byte| byte == 0)
                });
            });
            exhaust()
        })
    });
    others_write_everywhere();
    WATCH.is_fine();
    assert!(parked.for_ever());
}

#[test]
fn a_thread_local() {
    thread_local! {
        static LOCAL: Vec<u8> = vec![7; 1000];
    }
    static WATCH: Watch = Watch::new();
    let parked = parks_lending(&WATCH, |watch| {
        LOCAL.with(|local| {
            thread::scope(|scope| {
                scope.spawn(|| watch.look_for_ever(|| local.iter().all(|&byte| byte == 7)));
                exhaust()
            })
        })
    });
    others_write_everywhere();
    WATCH.is_fine();
    assert!(parked.for_ever());
}

#[test]
fn a_value_that_is_being_read_can_still_be_read_and_never_changed() {
    static CELL: Shared<Vec<u8>> = Shared::new(Vec::new());
    static WATCH: Watch = Watch::new();
    CELL.with(|list| list.resize(1000, 7)).expect("whole");
    let parked = parks_lending(&WATCH, |watch| {
        let read = CELL.read(|list| {
            thread::scope(|scope| {
                scope.spawn(|| watch.look_for_ever(|| list.iter().all(|&byte| byte == 7)));
                exhaust()
            })
        });
        read.unwrap_or(0)
    });
    assert_eq!(CELL.read(Vec::len), Ok(1000));
    assert_eq!(CELL.with(Vec::clear), Err(SharedError::Lent));
    assert!(CELL.is_poisoned());
    CELL.restore(|| vec![8; 10]);
    assert_eq!(CELL.with(|list| list.push(9)), Ok(()));
    assert_eq!(CELL.read(Vec::len), Ok(11));
    others_write_everywhere();
    WATCH.is_fine();
    assert!(parked.for_ever());
}

#[test]
fn a_value_that_is_being_changed_is_given_to_nobody() {
    static CELL: Shared<Vec<u8>> = Shared::new(Vec::new());
    static WATCH: Watch = Watch::new();
    static STEP: AtomicU32 = AtomicU32::new(0);
    let waits = thread::spawn(|| {
        wait_for("it is held", || STEP.load(Ordering::SeqCst) == 1);
        STEP.store(2, Ordering::SeqCst);
        CELL.with(Vec::clear)
    });
    let parked = parks_lending(&WATCH, |watch| {
        let changed = CELL.with(|list| {
            list.resize(1000, 7);
            STEP.store(1, Ordering::SeqCst);
            wait_for("another one waits", || STEP.load(Ordering::SeqCst) == 2);
            thread::scope(|scope| {
                scope.spawn(|| {
                    watch.look_for_ever(|| {
                        let was = list.iter().all(|&byte| byte == 7);
                        list.fill(7);
                        was
                    });
                });
                exhaust()
            })
        });
        changed.unwrap_or(0)
    });
    let told = waits.join().expect("ends");
    assert_eq!(told, Err(SharedError::Poisoned), "the waiter is told");
    assert_eq!(CELL.read(Vec::len), Err(SharedError::Poisoned));
    for n in 1..=3 {
        CELL.restore(|| vec![n; 10]);
        assert_eq!(CELL.read(|list| list.iter().all(|&m| m == n)), Ok(true));
        others_write_everywhere();
        WATCH.is_fine();
    }
    assert!(parked.for_ever());
}

/// A mutex of the standard library stays locked: what it guards may be half-way. Threads that want it wait.
#[test]
fn what_a_mutex_guards_is_given_to_nobody() {
    static LIST: std::sync::Mutex<RefCell<Vec<u8>>> =
        std::sync::Mutex::new(RefCell::new(Vec::new()));
    static WATCH: Watch = Watch::new();
    let parked = parks_lending(&WATCH, |watch| {
        let list = LIST.lock().expect("whole");
        let mut list = list.borrow_mut();
        list.resize(1000, 7);
        let list: &Vec<u8> = &list;
        thread::scope(|scope| {
            scope.spawn(|| watch.look_for_ever(|| list.iter().all(|&byte| byte == 7)));
            exhaust()
        })
    });
    assert!(LIST.try_lock().is_err());
    others_write_everywhere();
    WATCH.is_fine();
    assert!(parked.for_ever());
    assert!(DEADLINE.as_secs() > 0);
}

/// The stack that a request was parked from is not the one that it is cleaned up on.
#[test]
fn a_local_of_a_request_whose_stack_has_overflowed() {
    static WATCH: Watch = Watch::new();
    let parked = parks_lending(&WATCH, |watch| {
        let local = [7u8; 512];
        transom_arena::defer(|_| {
            black_box([0xEEu8; 8 << 10]);
        });
        thread::scope(|scope| {
            scope.spawn(|| watch.look_for_ever(|| local.iter().all(|&byte| byte == 7)));
            common::overflow_the_stack()
        })
    });
    others_write_everywhere();
    WATCH.is_fine();
    assert!(parked.for_ever());
}
