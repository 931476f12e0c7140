//! The C library at the end of a stack: it holds locks of its own that the whole process needs, and blocks all signals at
//! times, so that a fault would end the process.
#![cfg(feature = "c-heap")]

mod common;

use common::{
    alone, exhaustion, never_stuck, on_bucket_thread, overflow_the_stack, parks, with_stack_left,
};
use std::cell::RefCell;
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::net::ToSocketAddrs;
use std::process::{Command, Stdio};
use std::ptr;
use std::thread;
use transom_arena::{Failed, Reason};

#[global_allocator]
static GLOBAL: transom_arena::TransomAllocator = transom_arena::TransomAllocator;

thread_local! {
    /// Made with plenty of stack, and joined with none.
    static RUNNING: RefCell<Vec<thread::JoinHandle<()>>> = const { RefCell::new(Vec::new()) };
}

/// One whose stack is too large to be kept: its memory is given back when it is joined, under a lock.
fn start_a_large_thread() {
    let thread = thread::Builder::new()
        .stack_size(64 << 20)
        .spawn(|| ())
        .expect("starts");
    RUNNING.with_borrow_mut(|all| all.push(thread));
}

fn all_signals() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigfillset fills it.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        set.assume_init()
    }
}

/// What a request does at the end of its stack, after what it does before.
type Step = (&'static str, fn(), fn());

const STEPS: [Step; 9] = [
    ("joining a thread", start_a_large_thread, || {
        let thread = RUNNING.with_borrow_mut(Vec::pop);
        thread.expect("one was started").join().expect("it ends");
    }),
    (
        "starting a thread",
        || (),
        || {
            if let Ok(thread) = thread::Builder::new().spawn(|| ()) {
                RUNNING.with_borrow_mut(|all| all.push(thread));
            }
        },
    ),
    (
        "starting a program",
        || (),
        || {
            let mut command = Command::new("/bin/true");
            if let Ok(mut child) = command.stdin(Stdio::null()).spawn() {
                child.wait().expect("it ends");
            }
        },
    ),
    (
        "system",
        || (),
        || {
            // SAFETY: a command.
            let status = unsafe { libc::system(c"exit 3".as_ptr()) };
            assert_eq!(libc::WEXITSTATUS(status), 3);
        },
    ),
    (
        "popen",
        || (),
        || {
            // SAFETY: texts, and a stream that is closed once.
            unsafe {
                let stream = libc::popen(c"exit 4".as_ptr(), c"r".as_ptr());
                assert!(!stream.is_null());
                assert_eq!(libc::WEXITSTATUS(libc::pclose(stream)), 4);
            }
        },
    ),
    (
        "fork",
        || (),
        || {
            // SAFETY: the child does nothing but exit.
            unsafe {
                let child = libc::fork();
                if child == 0 {
                    libc::_exit(5);
                }
                let mut status = 0;
                assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
                assert_eq!(libc::WEXITSTATUS(status), 5);
            }
        },
    ),
    (
        "looking up a name",
        || (),
        || {
            black_box(("localhost", 80).to_socket_addrs().is_ok());
        },
    ),
    (
        "the time here",
        || (),
        || {
            let mut fields = MaybeUninit::<libc::tm>::uninit();
            // SAFETY: it reads a number and fills the fields.
            unsafe { libc::localtime_r(&1_700_000_000, fields.as_mut_ptr()) };
        },
    ),
    (
        "a fault whose signal is blocked",
        || {
            let all = all_signals();
            // SAFETY: it reads a set.
            let result =
                unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const all, ptr::null_mut()) };
            assert_eq!(result, 0);
        },
        || {
            let frame = [1u8; 8 << 10];
            black_box(&frame);
        },
    ),
];

/// Whatever the step was doing when the stack ended, it went on to its end: the request is over, the thread is not lost, and
/// another thread can do the same.
#[test]
fn a_stack_that_ends_inside_the_c_library_leaves_nothing_locked_and_loses_nothing() {
    let _turn = alone();
    on_bucket_thread(|tenant| {
        for (name, before, step) in STEPS {
            let mut overflows = 0;
            for left in (48..14 << 10).step_by(112) {
                let outcome = tenant.enter(&never_stuck, |_| {
                    before();
                    with_stack_left(left, &mut || step());
                });
                match outcome.result {
                    Ok(()) => (),
                    Err(Failed::Exhausted(e)) if e.reason == Reason::Stack => overflows += 1,
                    other => panic!("{name}, {left} bytes left: {other:?}"),
                }
                for thread in RUNNING.take() {
                    thread.join().expect("it ends");
                }
                thread::spawn(move || {
                    before();
                    step();
                    RUNNING
                        .take()
                        .into_iter()
                        .for_each(|thread| thread.join().expect("it ends"));
                })
                .join()
                .expect("it ends");
            }
            assert!(overflows > 0, "{name}");
        }
    });
}

#[test]
fn a_thread_that_runs_a_request_blocks_no_signals_of_faults() {
    let _turn = alone();
    on_bucket_thread(|tenant| {
        let outcome = tenant.enter(&never_stuck, |_| {
            let all = all_signals();
            let mut now = MaybeUninit::uninit();
            // SAFETY: one set is read, the other filled.
            unsafe {
                libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, ptr::null_mut());
                libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), now.as_mut_ptr());
                let now = now.assume_init();
                [
                    libc::SIGSEGV,
                    libc::SIGBUS,
                    libc::SIGABRT,
                    libc::SIGUSR1,
                    libc::SIGTERM,
                ]
                .map(|signal| libc::sigismember(&raw const now, signal))
            }
        });
        assert!(matches!(outcome.result, Ok([0, 0, 0, 1, 1])), "{outcome:?}");
        // Refused as the C library refuses it.
        let all = all_signals();
        // SAFETY: a set is read.
        let how = unsafe { libc::sigprocmask(77, &raw const all, ptr::null_mut()) };
        assert_eq!(how, -1);
        assert_eq!(
            std::io::Error::last_os_error().raw_os_error(),
            Some(libc::EINVAL)
        );
    });
}

/// The extension is a request's: the next one has it again, and one that has used it up is parked.
#[test]
fn a_stack_is_extended_once_a_request_and_only_so_far() {
    let _turn = alone();
    let resident = common::resident_pages;
    on_bucket_thread(move |tenant| {
        let mut at_first = 0;
        for round in 0..200 {
            let outcome = tenant.enter(&never_stuck, |_| {
                with_stack_left(64, &mut || {
                    let frame = [1u8; 20 << 10];
                    black_box(&frame);
                });
            });
            assert_eq!(exhaustion(outcome.result).reason, Reason::Stack, "{round}");
            if round == 0 {
                at_first = resident();
            }
        }
        assert!(resident() < at_first + 64, "{} {at_first}", resident());
    });
    let parked = parks(|_| overflow_the_stack());
    assert!(parked.for_ever());
}
