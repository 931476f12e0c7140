//! `Wipe::Zero`: no request can read what an earlier one left. A binary of its own, because a process has one
//! setting.

mod common;

use common::{buckets_with, fill_the_arena, never_stuck, on_bucket_thread};
use std::hint::black_box;
use transom_arena::{Bump, Wipe};

#[global_allocator]
static GLOBAL: transom_arena::TransomAllocator = transom_arena::TransomAllocator;

fn leaves_secrets(arena: &Bump) -> u8 {
    let mut secret = bumpalo::collections::Vec::new_in(arena);
    secret.extend_from_slice_copy(&[7u8; 50_000]);
    drop(black_box(secret));
    black_box(vec![7u8; 1000]).len() as u8
}

fn finds_secrets(arena: &Bump) -> usize {
    let room = arena.chunk_capacity();
    let bytes = arena.alloc_layout(std::alloc::Layout::array::<u8>(room).expect("small"));
    // SAFETY: the block was just allocated; it is read as raw bytes, volatile, to see what lies there.
    (0..room)
        .filter(|&n| unsafe { bytes.as_ptr().add(n).read_volatile() } != 0)
        .count()
}

#[test]
fn a_request_finds_nothing_of_an_earlier_one() {
    buckets_with(Wipe::Zero);
    on_bucket_thread(|tenant| {
        for _ in 0..10 {
            assert!(tenant.enter(&never_stuck, leaves_secrets).result.is_ok());
            // SAFETY: nothing is held.
            let outcome =
                unsafe { tenant.enter_escaping(&never_stuck, |_| -> u8 { fill_the_arena() }) };
            assert!(outcome.result.is_err());
            assert!(tenant.enter(&never_stuck, leaves_secrets).result.is_ok());
            let found = tenant
                .enter(&never_stuck, finds_secrets)
                .result
                .expect("returns");
            assert_eq!(found, 0);
        }
    });
}
