//! The allocator against a model: random sequences of `GlobalAlloc` calls on a bucket, with every live
//! block's place and bytes checked after each.

mod common;

use common::{never_stuck, next_bucket};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::alloc::{GlobalAlloc, Layout};
use std::cell::RefCell;
use transom_arena::{Bump, Failed, Tenant, TransomAllocator, current_bucket, current_usage};

#[global_allocator]
static GLOBAL: TransomAllocator = TransomAllocator;

#[derive(Debug, Clone, Copy)]
enum Step {
    Allocate {
        size: usize,
        align: usize,
        zeroed: bool,
    },
    /// Of the live block with this number, modulo their count; 0 is the newest.
    Reallocate {
        which: usize,
        size: usize,
    },
    Free {
        which: usize,
    },
    /// Through the `&Bump`, between the others.
    Explicit {
        size: usize,
    },
}

fn sizes() -> impl Strategy<Value = usize> {
    prop_oneof![6 => 1usize..64, 2 => 64usize..512, 1 => 512usize..5000]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let which = prop_oneof![2 => Just(0usize), 1 => 0usize..64];
    let step = prop_oneof![
        4 => (sizes(), 0u32..10, any::<bool>()).prop_map(|(size, shift, zeroed)| Step::Allocate {
            size,
            align: 1 << shift,
            zeroed,
        }),
        3 => (which.clone(), sizes()).prop_map(|(which, size)| Step::Reallocate { which, size }),
        3 => which.prop_map(|which| Step::Free { which }),
        1 => sizes().prop_map(|size| Step::Explicit { size }),
    ];
    prop::collection::vec(step, 1..80)
}

struct Block {
    at: *mut u8,
    layout: Layout,
    fill: u8,
}

/// The live blocks, and what the model knows of the arena. Its own memory is the process heap's.
struct Model {
    live: Vec<Block>,
    fill: u8,
    /// An upper bound of what can be in use: everything ever asked for, each with its worst padding.
    asked: usize,
}

impl Model {
    fn new() -> Self {
        Model {
            live: Vec::with_capacity(128),
            fill: 0,
            asked: 0,
        }
    }

    fn next_fill(&mut self) -> u8 {
        self.fill = self.fill % 250 + 1;
        self.fill
    }

    fn index(&self, which: usize) -> Option<usize> {
        let count = self.live.len();
        (count > 0).then(|| count - 1 - which % count)
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Allocate {
                size,
                align,
                zeroed,
            } => {
                let layout = Layout::from_size_align(size, align).expect("small");
                self.asked += size.next_multiple_of(align.max(16)) + align;
                // SAFETY: the size is not zero.
                let at = unsafe {
                    if zeroed {
                        GLOBAL.alloc_zeroed(layout)
                    } else {
                        GLOBAL.alloc(layout)
                    }
                };
                assert!(!at.is_null());
                let fill = self.next_fill();
                let block = Block { at, layout, fill };
                if zeroed {
                    assert!(block.is_filled_with(0), "zeroed");
                }
                block.refill();
                self.live.push(block);
            }
            Step::Reallocate { which, size } => {
                let Some(index) = self.index(which) else {
                    return;
                };
                let block = &mut self.live[index];
                let old = block.layout;
                self.asked += size.next_multiple_of(old.align().max(16)) + old.align();
                // SAFETY: the block is live with this layout; the new size is not zero and small.
                let at = unsafe { GLOBAL.realloc(block.at, old, size) };
                assert!(!at.is_null());
                block.at = at;
                block.layout = Layout::from_size_align(size, old.align()).expect("small");
                let kept = old.size().min(size);
                assert!(block.starts_with(block.fill, kept), "contents kept");
                block.refill();
            }
            Step::Free { which } => {
                let Some(index) = self.index(which) else {
                    return;
                };
                let block = self.live.remove(index);
                assert!(block.is_filled_with(block.fill), "untouched to its end");
                // SAFETY: the block is live with this layout, and forgotten here.
                unsafe { GLOBAL.dealloc(block.at, block.layout) };
            }
            Step::Explicit { .. } => unreachable!("done by the caller, which has the arena"),
        }
    }

    /// Where the blocks lie.
    fn check(&self) {
        let bucket = current_bucket().expect("in a request");
        for block in &self.live {
            let at = block.at as usize;
            assert!(at.is_multiple_of(block.layout.align()), "aligned");
            assert!(
                common::lies_in(bucket, at, block.layout.size()),
                "in the bucket"
            );
        }
        for (index, a) in self.live.iter().enumerate() {
            for b in &self.live[..index] {
                let apart = a.end() <= b.at as usize || b.end() <= a.at as usize;
                assert!(apart, "no overlap");
            }
        }
        let (used, free, high_water) = current_usage().expect("in a request");
        let live: usize = self.live.iter().map(|block| block.layout.size()).sum();
        assert!(
            live <= used && used <= self.asked && used <= high_water,
            "{live} live, {used} used of {} asked, high water {high_water}",
            self.asked
        );
        assert_eq!(used + free, bucket.geometry().arena_size() - 64);
    }

    /// What is in them. Not after every step: reading all of it is most of the test's time.
    fn check_contents(&self) {
        for block in &self.live {
            assert!(block.is_filled_with(block.fill), "untouched");
        }
    }
}

impl Block {
    fn end(&self) -> usize {
        self.at as usize + self.layout.size()
    }

    fn starts_with(&self, fill: u8, len: usize) -> bool {
        // SAFETY: the block is live, and its first `len` bytes were written: by `refill`, zeroing, or
        // realloc's copy.
        let bytes = unsafe { std::slice::from_raw_parts(self.at, len) };
        bytes.iter().all(|&byte| byte == fill)
    }

    fn is_filled_with(&self, fill: u8) -> bool {
        self.starts_with(fill, self.layout.size())
    }

    fn refill(&self) {
        // SAFETY: the block is live.
        unsafe { self.at.write_bytes(self.fill, self.layout.size()) };
    }
}

fn run(arena: &Bump, model: &RefCell<Model>, steps: &[Step]) {
    let mut model = model.borrow_mut();
    for (number, &step) in steps.iter().enumerate() {
        if number % 8 == 0 {
            model.check_contents();
        }
        if let Step::Explicit { size } = step {
            model.asked += size + 16;
            let bytes = arena.alloc_slice_fill_copy(size, 0xEEu8);
            model.check();
            assert!(bytes.iter().all(|&byte| byte == 0xEE));
        } else {
            model.take(step);
        }
        model.check();
    }
    model.check_contents();
    while !model.live.is_empty() {
        model.take(Step::Free { which: 0 });
        model.check();
    }
}

#[test]
fn random_sequences_agree_with_the_model() {
    // An adopted bucket: proptest wants more stack than a bucket has.
    let mut tenant = Tenant::adopt(next_bucket()).expect("free");
    let mut runner = TestRunner::new(Config {
        cases: 400,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    });
    let tenant = RefCell::new(&mut tenant);
    let outcome = runner.run(&steps(), |steps| {
        let model = RefCell::new(Model::new());
        let mut tenant = tenant.borrow_mut();
        let outcome = tenant.enter(&never_stuck, |arena| run(arena, &model, &steps));
        let verdict = match outcome.result {
            Ok(()) if outcome.left == 0 => Ok(()),
            Ok(()) => Err(TestCaseError::fail(format!("{} live", outcome.left))),
            Err(Failed::Panicked(note)) => Err(TestCaseError::fail(note.message().to_owned())),
            Err(failed) => Err(TestCaseError::fail(format!("{failed:?}"))),
        };
        // After a failure some are left; the next case, with fewer steps, wants the bucket empty.
        for block in model.borrow_mut().live.drain(..) {
            // SAFETY: the block is live with this layout.
            unsafe { GLOBAL.dealloc(block.at, block.layout) };
        }
        tenant.look_at_kept();
        verdict
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

/// Runs `f` in one request, and fails if that fails.
fn in_a_request(f: fn(&Bump)) {
    let mut tenant = Tenant::adopt(next_bucket()).expect("free");
    let outcome = tenant.enter(&never_stuck, f);
    assert!(outcome.result.is_ok() && outcome.left == 0, "{outcome:?}");
}

fn used() -> usize {
    current_usage().expect("in a request").0
}

#[test]
fn a_vector_that_grows_at_the_tip_uses_its_final_size_and_no_more() {
    in_a_request(|_| {
        let mut bytes = Vec::new();
        for n in 0..200_000u32 {
            bytes.push(n as u8);
            let capacity = bytes.capacity().next_multiple_of(16);
            assert!(used() == capacity, "{} for {capacity}", used());
        }
        // 262,144 of 344,000 bytes: with a copy at each doubling it would not have fitted.
        assert_eq!(used(), 1 << 18);
        drop(bytes);
        assert_eq!(used(), 0);
    });
}

#[test]
fn a_string_shrunk_at_the_tip_gives_its_rest_back() {
    in_a_request(|_| {
        let mut text = String::with_capacity(10_000);
        text.push_str("short");
        text.shrink_to_fit();
        assert_eq!((text.as_str(), used()), ("short", 16));
    });
}

#[test]
fn blocks_freed_newest_first_leave_nothing_behind() {
    in_a_request(|_| {
        let blocks: [Box<[u8; 48]>; 64] = std::array::from_fn(|n| Box::new([n as u8; 48]));
        assert_eq!(used(), 64 * 48);
        let mut left = 64 * 48;
        for block in blocks.into_iter().rev() {
            drop(block);
            left -= 48;
            assert_eq!(used(), left);
        }
    });
}

#[test]
fn a_block_freed_in_the_middle_is_used_again() {
    in_a_request(|_| {
        let first = Box::new([1u8; 100]);
        let second = Box::new([2u8; 100]);
        let at = std::ptr::from_ref(&*first);
        drop(first);
        assert_eq!(used(), 112);
        let third = Box::new([3u8; 100]);
        assert_eq!(std::ptr::from_ref(&*third), at);
        drop((second, third));
        assert_eq!(used(), 0);
    });
}

#[test]
fn the_arena_can_be_used_to_its_last_byte() {
    in_a_request(|arena| {
        let capacity = arena.chunk_capacity();
        let all = vec![7u8; capacity];
        assert_eq!((used(), arena.chunk_capacity()), (capacity, 0));
        assert!(all.iter().all(|&byte| byte == 7));
    });
}
