//! Panics in a handler: noted without the arena, unwound, and never the end of the process.

mod common;

use common::{
    exhaustion, finish, in_a_child, never_stuck, next_bucket, on_bucket_thread, panic_message,
    passes_in_a_child, start_on,
};
use std::alloc::Layout;
use std::hint::black_box;
use std::panic::{catch_unwind, panic_any, resume_unwind};
use transom_arena::{Failed, Reason};

#[global_allocator]
static GLOBAL: transom_arena::TransomAllocator = transom_arena::TransomAllocator;

#[test]
fn a_panic_leaves_its_message_and_place() {
    on_bucket_thread(|tenant| {
        for n in 0..100 {
            let outcome = tenant.enter(&never_stuck, |_| -> u8 { panic!("number {n} is unlucky") });
            assert_eq!(outcome.left, 0);
            let message = panic_message(outcome.result);
            assert!(
                message.starts_with(&format!("number {n} is unlucky, at ")),
                "{message}"
            );
            assert!(message.contains("panics.rs:"), "{message}");
        }
    });
}

#[test]
fn a_panic_in_a_full_arena_ends_only_its_request() {
    passes_in_a_child("child_that_panics_in_full_arenas", &[]);
}

/// The standard hook would symbolise a backtrace now, in memory that is not there.
#[test]
fn a_panic_in_a_full_arena_ends_only_its_request_with_backtraces_on() {
    for value in ["1", "full"] {
        passes_in_a_child(
            "child_that_panics_in_full_arenas",
            &[("RUST_BACKTRACE", value)],
        );
    }
}

struct FormatsInItsDrop;

impl Drop for FormatsInItsDrop {
    fn drop(&mut self) {
        let long = format!(
            "{:>5000}",
            "allocates more than the panic room has left, at times"
        );
        assert_eq!(black_box(long).len(), 5000);
    }
}

#[test]
#[ignore = "depends on the environment; run by the two above"]
fn child_that_panics_in_full_arenas() {
    let wanted = std::env::var_os("RUST_BACKTRACE").is_some();
    on_bucket_thread(move |tenant| {
        for n in 0..5 {
            for leave in 0..40 {
                let outcome = tenant.enter(&never_stuck, |arena| -> u8 {
                    let _guard = FormatsInItsDrop;
                    let most = Layout::array::<u8>(arena.chunk_capacity() - leave);
                    black_box(arena.alloc_layout(most.expect("small")));
                    panic!("formatted {}", black_box(n));
                });
                assert_eq!(outcome.left, 0);
                let Err(Failed::Panicked(note)) = outcome.result else {
                    panic!("{outcome:?}");
                };
                assert!(
                    note.message().starts_with(&format!("formatted {n}, at ")),
                    "{note:?}"
                );
                assert_eq!(!note.frames().is_empty(), wanted);
            }
        }
    });
}

#[test]
fn a_panic_of_the_same_kind_under_the_escape_policy_unwinds_too() {
    on_bucket_thread(|tenant| {
        for _ in 0..100 {
            // SAFETY: nothing is held.
            let outcome = unsafe {
                tenant.enter_escaping(&never_stuck, |arena| -> u8 {
                    let _guard = FormatsInItsDrop;
                    while arena.try_alloc(0u8).is_ok() {}
                    panic!("formatted {}", black_box(1));
                })
            };
            assert!(panic_message(outcome.result).starts_with("formatted 1"));
        }
    });
}

#[test]
fn payloads_of_every_kind_are_dropped_in_their_request() {
    struct Loud(String);
    impl Drop for Loud {
        fn drop(&mut self) {
            panic!("from the payload: {}", self.0);
        }
    }
    on_bucket_thread(|tenant| {
        for _ in 0..10 {
            let outcome = tenant.enter(&never_stuck, |_| -> u8 { panic_any(vec![1u8; 100]) });
            assert_eq!(outcome.left, 0);
            assert!(panic_message(outcome.result).starts_with("a value that is no text"));

            let outcome = tenant.enter(&never_stuck, |_| -> u8 { panic_any(Loud("x".repeat(50))) });
            assert_eq!(outcome.left, 0);
            assert!(panic_message(outcome.result).starts_with("a value that is no text"));

            let outcome = tenant.enter(&never_stuck, |_| -> u8 { panic_any("plain text") });
            assert!(panic_message(outcome.result).starts_with("plain text, at "));
        }
    });
}

/// What a handler has caught is not why its request ends.
#[test]
fn a_panic_that_was_caught_is_not_reported_for_a_payload_that_says_something_else() {
    let long = |n: usize| format!("{}{n}", "many words ".repeat(n));
    on_bucket_thread(move |tenant| {
        let outcome = tenant.enter(&never_stuck, |_| -> u8 {
            let _ = catch_unwind(|| panic!("the first"));
            resume_unwind(Box::new("the second"))
        });
        assert_eq!(panic_message(outcome.result), "the second");
        let outcome = tenant.enter(&never_stuck, |_| -> u8 {
            let _ = catch_unwind(|| panic!("the first"));
            resume_unwind(Box::new(3))
        });
        assert_eq!(panic_message(outcome.result), "a value that is no text");
        let outcome = tenant.enter(&never_stuck, |arena| -> u8 {
            let full = || arena.alloc_slice_fill_copy(1 << 24, 1u8).len();
            assert!(catch_unwind(std::panic::AssertUnwindSafe(full)).is_err());
            resume_unwind(Box::new(String::from("the second")))
        });
        assert_eq!(panic_message(outcome.result), "the second");
        // The same payload goes on, with the place of its panic; whatever of both is cut.
        for n in 0..40 {
            let outcome = tenant.enter(&never_stuck, |_| -> u8 {
                let first = catch_unwind(|| panic!("{}", long(n))).map(|()| 0);
                first.unwrap_or_else(|payload| resume_unwind(payload))
            });
            let message = panic_message(outcome.result);
            assert!(
                message.contains("panics.rs:") || message.ends_with('…'),
                "{message}"
            );
        }
        for len in 200..260 {
            let outcome = tenant.enter(&never_stuck, |arena| -> u8 {
                let _ = catch_unwind(|| panic!("{:>len$}", black_box(1)));
                let full = || arena.alloc_slice_fill_copy(1 << 24, 1u8).len();
                let payload = catch_unwind(std::panic::AssertUnwindSafe(full));
                resume_unwind(payload.expect_err("it is full"))
            });
            assert_eq!(exhaustion(outcome.result).reason, Reason::Arena);
            let outcome =
                tenant.enter(&never_stuck, |_| -> u8 { panic!("{:>len$}", black_box(1)) });
            let message = panic_message(outcome.result);
            assert!(
                message.contains(", at ") || message.ends_with('…'),
                "{message}"
            );
        }
    });
}

/// `resume_unwind` does not call the hook, so there may be no note, or an old one.
#[test]
fn a_resumed_panic_says_what_its_payload_says_and_not_what_an_earlier_one_said() {
    on_bucket_thread(|tenant| {
        for _ in 0..10 {
            let outcome = tenant.enter(&never_stuck, |arena| -> u8 {
                arena.alloc_slice_fill_copy(1 << 20, 0u8)[0]
            });
            assert_eq!(exhaustion(outcome.result).reason, Reason::Arena);
            let outcome = tenant.enter(&never_stuck, |_| -> u8 {
                resume_unwind(Box::new("resumed"))
            });
            assert_eq!(panic_message(outcome.result), "resumed");
            let outcome = tenant.enter(&never_stuck, |_| -> u8 {
                resume_unwind(Box::new(format!("resumed, {}", black_box(2))))
            });
            assert_eq!(outcome.left, 0);
            assert_eq!(panic_message(outcome.result), "resumed, 2");
            let outcome = tenant.enter(&never_stuck, |_| -> u8 { resume_unwind(Box::new(3)) });
            assert_eq!(panic_message(outcome.result), "a value that is no text");
        }
    });
}

#[test]
fn what_a_handler_catches_itself_is_its_own_affair() {
    on_bucket_thread(|tenant| {
        for _ in 0..100 {
            let outcome = tenant.enter(&never_stuck, |arena| {
                let panicked = catch_unwind(|| panic!("caught {}", black_box(1))).is_err();
                let exhausted = arena.try_alloc_slice_fill_copy(1 << 20, 0u8).is_err();
                (panicked, exhausted, format!("{}", 100).len())
            });
            assert!(matches!(outcome.result, Ok((true, true, 3))), "{outcome:?}");
            assert_eq!(outcome.left, 0);
        }
        // A thread that has caught a panic may still be left by a jump.
        for _ in 0..100 {
            // SAFETY: nothing is held.
            let outcome = unsafe {
                tenant.enter_escaping(&never_stuck, |_| -> u8 {
                    let _ = catch_unwind(|| panic!("caught"));
                    common::fill_the_arena()
                })
            };
            assert_eq!(exhaustion(outcome.result).reason, Reason::Arena);
        }
    });
}

#[test]
fn a_long_message_is_cut_in_its_note_and_not_in_memory() {
    on_bucket_thread(|tenant| {
        let outcome = tenant.enter(&never_stuck, |_| -> u8 { panic!("{:é>1000}", "") });
        let message = panic_message(outcome.result);
        assert!(message.len() <= 240 && message.ends_with('…'), "{message}");
        let outcome = tenant.enter(&never_stuck, |_| -> u8 { panic!("short") });
        assert!(panic_message(outcome.result).starts_with("short, at "));
    });
}

/// The hook that was there before still serves threads that run no request, and only those.
#[test]
fn a_panic_outside_a_request_still_goes_to_the_hook_that_was_there_before() {
    let output = in_a_child("child_that_panics_inside_and_outside_a_request", &[]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(text.matches("outside of any request").count(), 2, "{text}");
    assert!(!text.contains("inside a request"), "{text}");
}

#[test]
#[ignore = "its output is read by the one above"]
fn child_that_panics_inside_and_outside_a_request() {
    let result = start_on(next_bucket(), |tenant| {
        let outcome = tenant.enter(&never_stuck, |_| -> u8 { panic!("inside a request") });
        assert!(outcome.result.is_err());
        assert!(catch_unwind(|| panic!("outside of any request, on a bucket's thread")).is_err());
    });
    finish(&result);
    assert!(catch_unwind(|| panic!("outside of any request, on another thread")).is_err());
}
