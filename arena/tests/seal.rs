//! What is counted once start-up is over. Without the test harness, whose own thread may allocate at any
//! moment.

mod common;

use common::{never_stuck, on_bucket_thread};
use std::hint::black_box;
use transom_arena::{Shared, outside, process_heap_allocations, seal, settle_process_heap};

#[global_allocator]
static GLOBAL: transom_arena::TransomAllocator = transom_arena::TransomAllocator;

fn main() {
    settle_process_heap(1 << 20);
    nothing_is_counted_before_the_seal();
    seal();
    allocations_from_the_process_heap_are_counted_one_by_one();
    requests_that_stay_in_their_bucket_are_not_counted();
    a_value_of_the_process_that_grows_in_a_request_moves_into_the_region();
}

fn nothing_is_counted_before_the_seal() {
    drop(black_box(vec![1u8; 100]));
    assert_eq!(process_heap_allocations(), 0);
}

fn counted(f: impl FnOnce()) -> u64 {
    let before = process_heap_allocations();
    f();
    process_heap_allocations() - before
}

fn allocations_from_the_process_heap_are_counted_one_by_one() {
    assert_eq!(counted(|| drop(black_box(vec![1u8; 100]))), 1);
    assert_eq!(counted(|| drop(black_box(vec![0u8; 100]))), 1, "zeroed");
    let mut vector = black_box(vec![1u8; 100]);
    assert_eq!(counted(|| vector.reserve_exact(1000)), 1, "grown");
    assert_eq!(counted(|| drop(vector)), 0, "freed");
}

fn requests_that_stay_in_their_bucket_are_not_counted() {
    static WORDS: Shared<Vec<String>> = Shared::new(Vec::new());
    on_bucket_thread(|tenant| {
        let in_requests = counted(|| {
            for n in 0..1000 {
                let outcome = tenant.enter(&never_stuck, |_| {
                    let mut text = format!("request {n}");
                    text.push_str(&"and more ".repeat(100));
                    outside(|| drop(black_box(vec![1u8; 100])));
                    let text = &text;
                    WORDS.with(|words| {
                        words.clear();
                        words.push(text.clone());
                    })
                });
                assert!(matches!(outcome.result, Ok(Ok(()))), "{outcome:?}");
                let outcome = tenant.enter(&never_stuck, |_| -> u8 { panic!("number {n}") });
                assert!(outcome.result.is_err());
                // SAFETY: nothing is held.
                let outcome = unsafe {
                    tenant.enter_escaping(&never_stuck, |_| -> u8 { common::fill_the_arena() })
                };
                assert!(outcome.result.is_err());
            }
        });
        assert_eq!(in_requests, 0);
    });
}

fn a_value_of_the_process_that_grows_in_a_request_moves_into_the_region() {
    let mut made_at_start = black_box(Vec::<u8>::with_capacity(10));
    on_bucket_thread(move |tenant| {
        let grown = &mut made_at_start;
        let in_request = counted(|| {
            let outcome = tenant.enter(&never_stuck, |_| grown.resize(10_000, 1));
            assert_eq!(outcome.left, 10_000);
        });
        assert_eq!(in_request, 0);
        let bucket = tenant.bucket();
        assert!(common::lies_in(
            bucket,
            made_at_start.as_ptr() as usize,
            10_000
        ));
    });
}
