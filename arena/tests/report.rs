//! A request that fails is reported before anything more of the handler's runs: its cleanups, and the
//! destructor of what it has thrown. These may take long, never return, be parked or panic.
//!
//! | how the frame ends | what is told, and when | a cleanup (or a payload) that is slow or never returns | that is parked | that panics |
//! |---|---|---|---|---|
//! | it returns | nothing: the outcome has the value, after the cleanups | the outcome waits for it | `stuck` | `failed`, before the cleanups that are left (also where one outgrows the bucket) |
//! | it returns, and is marked | `failed`, before the cleanups | has been told before | `stuck` besides | has been told before |
//! | it panics, or `resume_unwind` | `failed`, before cleanups and payload | has been told before | `stuck` besides | has been told before |
//! | `&Bump` is full | as for a panic | has been told before | `stuck` besides | has been told before |
//! | a jump: arena, stack | `failed`, before the cleanups | has been told before | `stuck` besides | has been told before |
//! | parked, `abort` | `stuck` | nothing more of it runs | | |
//!
//! Where nothing is to run after it, `failed` is not called: the outcome is at hand at once.
//! `tests/tests/endings.rs` tries what clients and the log see of it.

mod common;

use common::{
    fill_the_arena, finish, next_bucket, on_bucket_thread, overflow_the_stack, start_on, wait_for,
};
use std::cell::RefCell;
use std::hint::black_box;
use std::panic::{panic_any, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use transom_arena::{BucketState, Bump, Failed, Policy, Report, Tenant, WayOut, defer};

#[global_allocator]
static GLOBAL: transom_arena::TransomAllocator = transom_arena::TransomAllocator;

/// What has happened, in order; with room, so that noting does not allocate.
#[derive(Clone)]
struct Story(Rc<RefCell<Vec<String>>>);

impl Story {
    fn new() -> Self {
        Story(Rc::new(RefCell::new(Vec::with_capacity(64))))
    }

    fn note(&self, what: impl Into<String>) {
        self.0.borrow_mut().push(what.into());
    }
}

fn what(failed: Failed<'_>) -> String {
    match failed {
        Failed::Exhausted(exhaustion) => exhaustion.reason.as_str().to_owned(),
        Failed::Panicked(note) => note.message().split(',').next().unwrap_or("").to_owned(),
    }
}

struct Notes(Story);

impl Report for Notes {
    fn failed(&self, failed: Failed<'_>) {
        self.0.note(format!("failed: {}", what(failed)));
    }

    fn stuck(&self, failed: Failed<'_>) {
        common::never_stuck(failed);
    }
}

/// One that notes that it is dropped, and may then panic with another one.
struct Payload(Story, u32);

impl Drop for Payload {
    fn drop(&mut self) {
        self.0.note("payload");
        if self.1 > 0 {
            panic_any(Payload(self.0.clone(), self.1 - 1));
        }
    }
}

// SAFETY: it stays on its thread.
unsafe impl Send for Payload {}

/// A handler that ends in one way.
type Handler = fn(&Story, &Bump) -> u8;

const WAYS: [(&str, Policy, Handler, &str); 9] = [
    (
        "panic",
        Policy::Overdraft,
        |_, _| panic!("unlucky"),
        "unlucky",
    ),
    (
        "panic, escaping",
        Policy::Escape,
        |_, _| panic!("unlucky"),
        "unlucky",
    ),
    (
        "resume_unwind",
        Policy::Overdraft,
        |_, _| resume_unwind(Box::new("thrown")),
        "thrown",
    ),
    (
        "resume_unwind of a String",
        Policy::Overdraft,
        |_, _| resume_unwind(Box::new("thrown".to_owned())),
        "thrown",
    ),
    (
        "&Bump",
        Policy::Overdraft,
        |_, arena| loop {
            black_box(arena.alloc([0u8; 100]));
        },
        "arena",
    ),
    (
        "marked by a deep stack",
        Policy::Overdraft,
        |_, _| deep(),
        "stack",
    ),
    ("jump", Policy::Escape, |_, _| fill_the_arena(), "arena"),
    (
        "jump from a full stack",
        Policy::Escape,
        |_, _| overflow_the_stack() as u8,
        "stack",
    ),
    (
        "a payload of its own",
        Policy::Overdraft,
        |story, _| panic_any(Payload(story.clone(), 0)),
        "a value that is no text",
    ),
];

/// Marked, without an overdraft.
fn deep() -> u8 {
    common::with_stack_left(4 << 10, &mut || {
        u8::from(transom_arena::exhausted().is_some())
    })
}

fn run(
    tenant: &mut Tenant,
    policy: Policy,
    story: &Story,
    handler: impl FnOnce(&Bump) -> u8,
) -> Option<String> {
    let report = Notes(story.clone());
    let outcome = match policy {
        Policy::Overdraft => tenant.enter(&report, handler),
        // SAFETY: the handlers here hold counted references to what they note in, and leak them.
        Policy::Escape => unsafe { tenant.enter_escaping(&report, handler) },
    };
    outcome.result.err().map(what)
}

#[test]
fn a_failure_is_told_before_cleanups_run_on_every_way_out() {
    on_bucket_thread(|tenant| {
        for (way, policy, handler, reason) in WAYS {
            let story = Story::new();
            let theirs = story.clone();
            let failed = run(tenant, policy, &story, |arena| {
                for n in [1, 2] {
                    let theirs = theirs.clone();
                    defer(move |_| theirs.note(format!("cleanup {n}")));
                }
                handler(&theirs, arena)
            });
            assert_eq!(failed.as_deref(), Some(reason), "{way}");
            let mut expected = vec![
                format!("failed: {reason}"),
                "cleanup 2".into(),
                "cleanup 1".into(),
            ];
            if way == "a payload of its own" {
                expected.push("payload".into());
            }
            assert_eq!(*story.0.borrow(), expected, "{way}");
        }
    });
}

#[test]
fn a_failure_is_told_once_whatever_the_cleanups_do() {
    on_bucket_thread(|tenant| {
        for (way, policy, handler, reason) in WAYS {
            let story = Story::new();
            let theirs = story.clone();
            let failed = run(tenant, policy, &story, |arena| {
                for n in [1, 2] {
                    let theirs = theirs.clone();
                    defer(move |_| {
                        theirs.note(format!("cleanup {n}"));
                        panic_any(Payload(theirs.clone(), 0));
                    });
                }
                handler(&theirs, arena)
            });
            assert_eq!(failed.as_deref(), Some(reason), "{way}");
            let told = story
                .0
                .borrow()
                .iter()
                .filter(|line| line.starts_with("failed"))
                .count();
            assert_eq!(
                (told, &*story.0.borrow()[0]),
                (1, &*format!("failed: {reason}")),
                "{way}"
            );
            assert!(
                story.0.borrow().iter().any(|line| line == "cleanup 1"),
                "{way}"
            );
        }
    });
}

#[test]
fn a_failure_is_told_before_the_destructor_of_what_was_thrown() {
    on_bucket_thread(|tenant| {
        for nested in [0, 3] {
            let story = Story::new();
            let theirs = story.clone();
            let failed = run(tenant, Policy::Overdraft, &story, |_| {
                panic_any(Payload(theirs, nested))
            });
            assert_eq!(failed.as_deref(), Some("a value that is no text"));
            let mut expected = vec!["failed: a value that is no text"];
            expected.extend(["payload"].repeat(1 + nested as usize));
            assert_eq!(*story.0.borrow(), expected);
        }
    });
}

#[test]
fn of_a_request_that_returns_nothing_is_told_unless_a_cleanup_fails() {
    on_bucket_thread(|tenant| {
        let story = Story::new();
        let theirs = story.clone();
        let failed = run(tenant, Policy::Overdraft, &story, |_| {
            defer(move |way| theirs.note(format!("{way:?}")));
            1
        });
        assert_eq!(
            (failed, &*story.0.borrow()),
            (None, &vec![format!("{:?}", WayOut::Returned)])
        );
        let story = Story::new();
        let theirs = story.clone();
        let failed = run(tenant, Policy::Overdraft, &story, |_| {
            for n in [1, 2] {
                let theirs = theirs.clone();
                defer(move |_| {
                    theirs.note(format!("cleanup {n}"));
                    panic!("from cleanup {n}");
                });
            }
            1
        });
        assert_eq!(failed.as_deref(), Some("from cleanup 2"));
        assert_eq!(
            *story.0.borrow(),
            ["cleanup 2", "failed: from cleanup 2", "cleanup 1"]
        );
    });
}

#[test]
fn a_cleanup_that_outgrows_the_bucket_is_told_of_before_the_next_one_runs() {
    on_bucket_thread(|tenant| {
        let story = Story::new();
        let theirs = story.clone();
        let failed = run(tenant, Policy::Overdraft, &story, |_| {
            defer(move |_| theirs.note("cleanup"));
            defer(|_| {
                black_box(deep());
            });
            1
        });
        assert_eq!(failed.as_deref(), Some("stack"));
        assert_eq!(*story.0.borrow(), ["failed: stack", "cleanup"]);
    });
}

#[test]
fn where_nothing_is_to_run_nothing_is_told_before_the_outcome() {
    on_bucket_thread(|tenant| {
        for (way, policy, handler, reason) in WAYS
            .into_iter()
            .filter(|way| way.0 != "a payload of its own")
        {
            let story = Story::new();
            let failed = run(tenant, policy, &story, |arena| handler(&story, arena));
            assert_eq!(
                (failed.as_deref(), story.0.borrow().len()),
                (Some(reason), 0),
                "{way}"
            );
        }
    });
}

/// The request still ends if its report is broken itself.
#[test]
fn a_report_that_panics_stops_neither_the_cleanups_nor_the_request() {
    struct Panics;
    impl Report for Panics {
        fn failed(&self, _: Failed<'_>) {
            panic!("in the report");
        }
        fn stuck(&self, failed: Failed<'_>) {
            common::never_stuck(failed);
        }
    }
    on_bucket_thread(|tenant| {
        let story = Story::new();
        let theirs = story.clone();
        let outcome = tenant.enter(&Panics, |_| -> u8 {
            defer(move |_| theirs.note("cleanup"));
            panic!("unlucky");
        });
        assert_eq!(outcome.result.err().map(what).as_deref(), Some("unlucky"));
        assert_eq!(*story.0.borrow(), ["cleanup"]);
    });
}

/// How often each was called, and whether a panic was told first.
#[derive(Default)]
struct Counts {
    failed: AtomicU32,
    stuck: AtomicU32,
}

impl Report for Counts {
    fn failed(&self, failed: Failed<'_>) {
        assert_eq!(what(failed), "unlucky");
        self.failed.fetch_add(1, Ordering::SeqCst);
    }

    fn stuck(&self, failed: Failed<'_>) {
        assert_eq!(what(failed), "arena");
        self.stuck.fetch_add(1, Ordering::SeqCst);
    }
}

/// There is no overdraft here.
fn outgrow() {
    black_box(vec![1u8; 64 << 20]);
}

#[test]
fn a_panic_is_told_before_a_cleanup_or_a_payload_is_parked() {
    struct Outgrows;
    impl Drop for Outgrows {
        fn drop(&mut self) {
            outgrow();
        }
    }
    let handlers: [fn() -> u8; 2] = [
        || {
            defer(|_| outgrow());
            panic!("unlucky")
        },
        || {
            defer(|_| panic_any(Outgrows));
            panic!("unlucky")
        },
    ];
    for handler in handlers {
        let bucket = next_bucket();
        let report = Arc::new(Counts::default());
        let theirs = report.clone();
        let _result = start_on(bucket, move |tenant| {
            tenant.enter(&*theirs, |_| handler());
        });
        wait_for("it is parked", || report.stuck.load(Ordering::SeqCst) == 1);
        assert_eq!(report.failed.load(Ordering::SeqCst), 1);
        assert_eq!(bucket.state(), BucketState::Parked);
    }
}

/// The bucket serves on after each of these.
#[test]
fn the_next_request_is_told_of_anew() {
    let result = start_on(next_bucket(), |tenant| {
        for _ in 0..3 {
            let story = Story::new();
            let theirs = story.clone();
            run(tenant, Policy::Overdraft, &story, |_| {
                defer(move |_| theirs.note("cleanup"));
                panic!("unlucky")
            });
            assert_eq!(*story.0.borrow(), ["failed: unlucky", "cleanup"]);
            assert_eq!(run(tenant, Policy::Overdraft, &story, |_| 1), None);
        }
    });
    finish(&result);
}
