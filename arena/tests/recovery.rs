//! Every way out of a handler, on real bucket threads.

mod common;

use common::{Ask, on_bucket_thread};
use std::hint::black_box;
use transom_arena::{Failed, Reason};

#[global_allocator]
static GLOBAL: transom_arena::TransomAllocator = transom_arena::TransomAllocator;

fn too_much(_: &transom_arena::Bump) -> usize {
    let mut text = String::new();
    loop {
        text.push_str("more and more");
        black_box(&text);
    }
}

#[expect(unconditional_recursion, reason = "to overflow the stack")]
fn recurse(n: usize) -> usize {
    let frame = [n; 32];
    black_box(&frame);
    recurse(n + 1) + frame[0]
}

#[test]
fn an_escape_ends_the_request_and_the_next_one_has_the_whole_arena() {
    on_bucket_thread(|tenant| {
        for _ in 0..1000 {
            // SAFETY: `too_much` holds nothing but a String.
            let outcome = unsafe { tenant.enter_escaping(&|_| unreachable!(), too_much) };
            match outcome.result {
                Err(Failed::Exhausted(e)) => {
                    assert_eq!(e.reason, Reason::Arena);
                    assert!(e.asked > e.free, "{e:?}");
                }
                other => panic!("{other:?}"),
            }
            let outcome = tenant.enter(&|_| unreachable!(), |arena| {
                vec![1u8; arena.chunk_capacity() - 64].len()
            });
            assert!(outcome.result.is_ok(), "{outcome:?}");
            assert_eq!(outcome.live, 0);
        }
    });
}

#[test]
fn a_stack_overflow_is_escaped_and_the_next_request_is_served() {
    on_bucket_thread(|tenant| {
        for _ in 0..100 {
            // SAFETY: `recurse` holds nothing.
            let outcome = unsafe { tenant.enter_escaping(&|_| unreachable!(), |_| recurse(0)) };
            match outcome.result {
                Err(Failed::Exhausted(e)) => assert_eq!(e.reason, Reason::Stack),
                other => panic!("{other:?}"),
            }
            let outcome = tenant.enter(&|_| unreachable!(), |_| format!("{}", 7).len());
            assert!(matches!(outcome.result, Ok(1)));
        }
        let geometry = tenant.bucket().geometry();
        assert_eq!(tenant.bucket().stack_high_water(), geometry.stack_size());
    });
}

#[test]
fn a_panic_unwinds_and_leaves_its_message_and_place() {
    on_bucket_thread(|tenant| {
        for n in 0..100 {
            let outcome = tenant.enter(&|_| unreachable!(), |_| -> usize {
                panic!("number {n} is unlucky")
            });
            match outcome.result {
                Err(Failed::Panicked(note)) => {
                    let message = note.message();
                    assert!(
                        message.starts_with(&format!("number {n} is unlucky, at ")),
                        "{message}"
                    );
                    assert!(message.contains("recovery.rs:"), "{message}");
                }
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn the_explicit_arena_unwinds_with_destructors_and_is_told_from_a_panic() {
    on_bucket_thread(|tenant| {
        let dropped = std::rc::Rc::new(std::cell::Cell::new(0));
        for n in 1..=100 {
            let guard = Ask::count(dropped.clone());
            let outcome = tenant.enter(&|_| unreachable!(), move |arena| -> usize {
                let _guard = guard;
                loop {
                    black_box(arena.alloc([0u8; 1000]));
                }
            });
            match outcome.result {
                Err(Failed::Exhausted(e)) => assert!(e.free < 1000, "{e:?}"),
                other => panic!("{other:?}"),
            }
            assert_eq!(dropped.get(), n);
        }
    });
}
