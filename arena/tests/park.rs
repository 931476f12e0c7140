//! `Policy::Park`: the request is reported, its thread never returns, and all others go on.

mod common;

use common::{
    Reported, fill_the_arena, in_a_child, never_stuck, on_bucket_thread, overflow_the_stack, parks,
    passes_in_a_child, wait_for,
};
use std::hint::black_box;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::time::Duration;
use transom_arena::{Failed, Reason, defer, parked};

#[global_allocator]
static GLOBAL: transom_arena::TransomAllocator = transom_arena::TransomAllocator;

/// Others are served while a request is parked.
fn others_go_on() {
    on_bucket_thread(|tenant| {
        for n in 0..100 {
            let outcome = tenant.enter(&never_stuck, |_| format!("{n}").len());
            assert!(outcome.result.is_ok(), "{outcome:?}");
        }
    });
}

#[test]
fn an_exhausted_arena_is_reported_once_and_the_thread_never_returns() {
    let parked_one = parks(|_| -> u8 { fill_the_arena() });
    let (asked, free) = parked_one.report.asked_and_free();
    assert!(asked > free, "{asked} {free}");
    others_go_on();
    assert_eq!(parked_one.report.what(), Reported::Exhausted(Reason::Arena));
    assert!(parked_one.for_ever());
    assert!(parked(common::buckets()) >= 1);
}

#[test]
fn a_stack_overflow_is_reported_from_the_signal_stack() {
    let parked_one = parks(|_| overflow_the_stack());
    others_go_on();
    assert_eq!(parked_one.report.what(), Reported::Exhausted(Reason::Stack));
    assert!(parked_one.for_ever());
    let size = parked_one.bucket.geometry().stack_size();
    assert_eq!(parked_one.bucket.stack_high_water(), size);
}

struct PanicsInItsDrop;

impl Drop for PanicsInItsDrop {
    fn drop(&mut self) {
        panic!("a second panic");
    }
}

#[test]
fn a_panic_in_a_destructor_during_unwinding_parks_instead_of_aborting() {
    let parked_one = parks(|_| -> u8 {
        let _guard = PanicsInItsDrop;
        panic!("the first");
    });
    others_go_on();
    assert_eq!(parked_one.report.what(), Reported::PanicInDestructor);
    assert!(parked_one.report.names_both());
    assert!(parked_one.for_ever());
}

/// Parked inside the hook, the thread would hold the runtime's lock on it: the next thread that sets a hook
/// would wait for ever, and so would every thread that panics after it.
#[test]
fn a_thread_parked_by_a_panic_does_not_hold_the_panic_hook() {
    passes_in_a_child("child_that_sets_a_hook_beside_a_parked_thread", &[]);
}

#[test]
#[ignore = "sets the panic hook of its process"]
fn child_that_sets_a_hook_beside_a_parked_thread() {
    let parked_one = parks(|_| -> u8 {
        let _guard = PanicsInItsDrop;
        panic!("the first");
    });
    let (done, result) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let hook = std::panic::take_hook();
        std::panic::set_hook(hook);
        let _ = done.send(());
    });
    assert!(
        result.recv_timeout(common::DEADLINE / 4).is_ok(),
        "the hook is free"
    );
    others_go_on();
    assert!(parked_one.for_ever());
}

/// A process must not go on if the C library finds itself broken, or if it is told to end.
#[test]
fn an_abort_from_elsewhere_still_ends_the_process() {
    for child in [
        "child_that_is_sent_an_abort",
        "child_that_smashes_the_c_librarys_heap",
        "child_that_aborts",
    ] {
        let output = in_a_child(child, &[]);
        assert_eq!(
            output.status.signal(),
            Some(libc::SIGABRT),
            "{child}: {output:?}"
        );
    }
}

#[test]
#[ignore = "ends its process"]
fn child_that_is_sent_an_abort() {
    on_bucket_thread(|tenant| {
        // SAFETY: sends this process a signal, as another one would.
        tenant.enter(&never_stuck, |_| unsafe {
            libc::kill(libc::getpid(), libc::SIGABRT)
        });
    });
}

#[test]
#[ignore = "ends its process"]
fn child_that_smashes_the_c_librarys_heap() {
    // SAFETY: none: the word before the block is written over, which the C library finds when it is freed.
    let block = unsafe {
        let block = libc::malloc(100).cast::<usize>();
        block.sub(1).write(usize::MAX - 0xfe);
        block as usize
    };
    on_bucket_thread(move |tenant| {
        // SAFETY: freed once; that it is damaged is the point.
        tenant.enter(&never_stuck, |_| unsafe { libc::free(block as *mut _) });
    });
}

#[test]
#[ignore = "ends its process"]
fn child_that_aborts() {
    std::process::abort();
}

#[test]
fn a_panic_in_a_function_that_cannot_unwind_parks_instead_of_aborting() {
    extern "C" fn called_from_c() {
        panic!("through C");
    }
    let parked_one = parks(|_| called_from_c());
    others_go_on();
    assert_eq!(parked_one.report.what(), Reported::PanicThatCannotUnwind);
    assert!(parked_one.for_ever());
}

struct OverflowsInItsDrop;

impl Drop for OverflowsInItsDrop {
    fn drop(&mut self) {
        black_box(overflow_the_stack());
    }
}

#[test]
fn a_stack_overflow_in_a_destructor_during_unwinding_parks_instead_of_aborting() {
    let parked_one = parks(|_| -> u8 {
        let _guard = OverflowsInItsDrop;
        panic!("the first");
    });
    others_go_on();
    assert_eq!(parked_one.report.what(), Reported::Exhausted(Reason::Stack));
    assert!(parked_one.for_ever());
}

/// While it unwinds, a thread may not be left by a jump either: its panic count would stay raised.
#[test]
fn the_same_parks_under_the_escape_policy_too() {
    let bucket = common::next_bucket();
    let report = Arc::new(common::Report::default());
    let theirs = report.clone();
    let _result = common::start_on(bucket, move |tenant| {
        // SAFETY: nothing is held.
        unsafe {
            tenant.enter_escaping(&|failed: Failed<'_>| theirs.note(failed), |_| -> u8 {
                let _guard = OverflowsInItsDrop;
                panic!("the first");
            })
        };
    });
    wait_for("parked", || report.calls() == 1);
    others_go_on();
    assert_eq!(report.what(), Reported::Exhausted(Reason::Stack));
}

/// This destructor asks for more than there is. The standard library would end the process.
#[test]
fn a_destructor_that_asks_for_more_than_there_is_parks_instead_of_aborting() {
    struct Asks;
    impl Drop for Asks {
        fn drop(&mut self) {
            black_box(Vec::<u8>::with_capacity(isize::MAX as usize));
        }
    }
    let parked_one = parks(|_| -> u8 {
        let _guard = Asks;
        panic!("the first");
    });
    assert_eq!(parked_one.report.what(), Reported::Exhausted(Reason::Arena));
    assert_eq!(parked_one.report.asked_and_free().0, isize::MAX as usize);
    assert!(parked_one.for_ever());
}

/// Where its stack is full a request was stopped between two arbitrary instructions, so no code of the
/// handler's may run on its thread again.
#[test]
fn nothing_more_of_a_parked_request_runs() {
    type Ending = fn() -> usize;
    let endings: [Ending; 4] = [
        overflow_the_stack,
        || fill_the_arena(),
        || overflow_in_c(),
        || {
            let _guard = OverflowsInItsDrop;
            panic!("the first");
        },
    ];
    for ending in endings {
        static RAN: AtomicU32 = AtomicU32::new(0);
        static THREAD: AtomicI32 = AtomicI32::new(0);
        let parked_one = parks(move |_| {
            // SAFETY: a system call without preconditions.
            THREAD.store(unsafe { libc::gettid() }, Ordering::SeqCst);
            defer(|_| {
                RAN.fetch_add(1, Ordering::SeqCst);
            });
            ending()
        });
        let place = format!("/proc/self/task/{}/syscall", THREAD.load(Ordering::SeqCst));
        let futex = format!("{} ", libc::SYS_futex);
        wait_for("its thread sleeps", || {
            std::fs::read_to_string(&place).is_ok_and(|call| call.starts_with(&futex))
        });
        others_go_on();
        assert_eq!(RAN.load(Ordering::SeqCst), 0);
        assert!(parked_one.for_ever());
    }
}

/// Recurses with the deepest frames inside the C library.
fn overflow_in_c() -> usize {
    extern "C" fn compare(_: *const libc::c_void, _: *const libc::c_void) -> libc::c_int {
        overflow_in_c() as libc::c_int
    }
    let mut list = black_box([3u64, 2, 1, 0]);
    // SAFETY: an array of that many values; they may be compared in any way.
    unsafe { libc::qsort(list.as_mut_ptr().cast(), 4, 8, Some(compare)) };
    list[0] as usize
}

/// A signal that a process sends is no fault: the overflow that comes after it is caught as before.
#[test]
fn a_fault_that_was_sent_disarms_nothing() {
    // SAFETY: sends this process a signal.
    unsafe { libc::kill(libc::getpid(), libc::SIGSEGV) };
    // SAFETY: as above.
    unsafe { libc::kill(libc::getpid(), libc::SIGBUS) };
    let parked_one = parks(|_| overflow_the_stack());
    others_go_on();
    assert!(parked_one.for_ever());
}

#[test]
fn faults_that_are_sent_to_a_parked_thread_end_nothing() {
    static THREAD: AtomicI32 = AtomicI32::new(0);
    let parked_one = parks(|_| {
        // SAFETY: a system call without preconditions.
        THREAD.store(unsafe { libc::gettid() }, Ordering::SeqCst);
        overflow_the_stack()
    });
    for _ in 0..200 {
        for signal in [libc::SIGSEGV, libc::SIGBUS] {
            let thread = THREAD.load(Ordering::SeqCst);
            // SAFETY: sends a thread of this process a signal; it never ends.
            let sent = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal) };
            assert_eq!(sent, 0);
        }
        std::thread::sleep(Duration::from_micros(100)); // so that these may find it where those before have left it
    }
    others_go_on();
    assert!(parked_one.for_ever());
}

#[test]
fn an_abort_in_a_request_parks_it() {
    let parked_one = parks(|_| -> u8 { std::process::abort() });
    others_go_on();
    assert_eq!(parked_one.report.what(), Reported::OtherPanic);
    assert!(parked_one.for_ever());
}
