//! A million exhaustions in a row leave the process as it was. A binary of its own: nothing else may move the
//! numbers.

mod common;

use common::{
    buckets_with, exhaustion, fill_the_arena, mappings, never_stuck, on_bucket_thread,
    overflow_the_stack, resident_pages,
};
use std::hint::black_box;
use transom_arena::{Reason, Tenant, Wipe};

#[global_allocator]
static GLOBAL: transom_arena::TransomAllocator = transom_arena::TransomAllocator;

/// The kernel counts resident pages in batches per core, so a number read is off by some tens. One leaked
/// byte in four requests would still be seen over a million.
const NOISE_PAGES: usize = 64;

fn escape_from_the_arena(tenant: &mut Tenant) {
    // SAFETY: nothing is held but memory of the bucket.
    let outcome = unsafe {
        tenant.enter_escaping(&never_stuck, |_| {
            let first = black_box(String::from("of this request"));
            black_box(Vec::<u8>::with_capacity(1 << 20)).len() + first.len()
        })
    };
    assert_eq!(exhaustion(outcome.result).reason, Reason::Arena);
}

fn escape_step_by_step(tenant: &mut Tenant) {
    // SAFETY: as above.
    let outcome = unsafe { tenant.enter_escaping(&never_stuck, |_| -> u8 { fill_the_arena() }) };
    assert_eq!(exhaustion(outcome.result).reason, Reason::Arena);
}

fn unwind_from_the_arena(tenant: &mut Tenant) {
    let outcome = tenant.enter(&never_stuck, |arena| -> usize {
        loop {
            black_box(arena.alloc([0u8; 1 << 14]));
        }
    });
    assert_eq!(exhaustion(outcome.result).reason, Reason::Arena);
}

fn panic(tenant: &mut Tenant) {
    let outcome = tenant.enter(&never_stuck, |_| -> u8 {
        panic!("number {}", black_box(1))
    });
    assert!(outcome.result.is_err() && outcome.left == 0);
}

fn overflow(tenant: &mut Tenant) {
    // SAFETY: as above.
    let outcome = unsafe { tenant.enter_escaping(&never_stuck, |_| overflow_the_stack()) };
    assert_eq!(exhaustion(outcome.result).reason, Reason::Stack);
}

#[test]
fn a_million_exhaustions_change_neither_resident_memory_nor_mappings() {
    buckets_with(Wipe::None);
    on_bucket_thread(|tenant| {
        type Way = (&'static str, fn(&mut Tenant), usize);
        let ways: [Way; 5] = [
            ("escape", escape_from_the_arena, 1_000_000),
            ("escape, step by step", escape_step_by_step, 10_000),
            ("unwind", unwind_from_the_arena, 20_000),
            ("panic", panic, 20_000),
            ("stack overflow", overflow, 10_000),
        ];
        for (_, way, _) in ways {
            for _ in 0..100 {
                way(tenant);
            }
        }
        for (name, way, times) in ways {
            let before = (resident_pages(), mappings());
            for _ in 0..times {
                way(tenant);
            }
            let after = (resident_pages(), mappings());
            assert!(
                after.0.abs_diff(before.0) <= NOISE_PAGES,
                "{name}: {before:?} {after:?}"
            );
            assert_eq!(after.1, before.1, "{name}: mappings");
        }
        let outcome = tenant.enter(&never_stuck, |_| vec![0u8; 300 << 10].len());
        assert!(outcome.result.is_ok(), "{outcome:?}");
    });
}
