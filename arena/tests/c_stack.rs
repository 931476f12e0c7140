//! The C library at the end of a stack: it holds locks of its own that the whole process needs, and blocks
//! all signals at times, so that a fault would end the process.
#![cfg(feature = "c-heap")]

mod common;

use common::{
    alone, down_to, exhaustion, never_stuck, on_bucket_thread, overflow_the_stack, parks,
    with_stack_left,
};
use std::cell::RefCell;
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::net::ToSocketAddrs;
use std::os::unix::thread::JoinHandleExt;
use std::process::{Command, Stdio};
use std::ptr;
use std::thread;
use transom_arena::{Failed, Reason};

#[global_allocator]
static GLOBAL: transom_arena::TransomAllocator = transom_arena::TransomAllocator;

const SIGEV_THREAD: libc::c_int = 2;

unsafe extern "C" {
    fn wordexp(
        words: *const libc::c_char,
        into: *mut libc::c_void,
        flags: libc::c_int,
    ) -> libc::c_int;
}

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

/// A name, a first step, and a step that the request takes at the end of its stack.
type Step = (&'static str, fn(), fn());

const STEPS: [Step; 12] = [
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
        "expanding words",
        || (),
        || {
            // SAFETY: a text, and room for more than it writes.
            let code =
                unsafe { wordexp(c"$(echo a) b".as_ptr(), [0usize; 8].as_mut_ptr().cast(), 0) };
            assert_eq!(code, 0);
        },
    ),
    (
        "a timer that starts threads",
        || (),
        || {
            extern "C" fn never(_: libc::sigval) {}
            // SAFETY: an event of this kind, whose function comes after its kind; a timer that is deleted
            // again.
            unsafe {
                let mut event: libc::sigevent = std::mem::zeroed();
                event.sigev_notify = SIGEV_THREAD;
                let function = (&raw mut event).cast::<usize>().add(2);
                function.write(never as *const () as usize);
                let mut timer = ptr::null_mut();
                assert_eq!(
                    libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer),
                    0
                );
                libc::timer_delete(timer);
            }
        },
    ),
    (
        "reading in the background",
        || (),
        || {
            // SAFETY: the block and its buffer live until it is done.
            unsafe {
                let mut block: libc::aiocb = std::mem::zeroed();
                let mut byte = 0u8;
                block.aio_fildes = -1;
                block.aio_buf = (&raw mut byte).cast();
                block.aio_nbytes = 1;
                block.aio_sigevent.sigev_notify = libc::SIGEV_NONE;
                if libc::aio_read(&raw mut block) == 0 {
                    while libc::aio_error(&raw const block) == libc::EINPROGRESS {
                        thread::yield_now();
                    }
                    libc::aio_return(&raw mut block);
                }
            }
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

/// A stack that has been extended once is at its end inside the linker. If the linker's lock stayed taken, no
/// thread could be started.
#[test]
fn a_request_that_is_parked_on_its_way_to_the_linker_holds_none_of_its_locks() {
    let _turn = alone();
    fn load() {
        // SAFETY: a text; what it is given is a library that does nothing when it is loaded.
        unsafe {
            let library = libc::dlopen(c"libutil.so.1".as_ptr(), libc::RTLD_NOW);
            if !library.is_null() {
                libc::dlclose(library);
            }
        }
    }
    for left in (500..12 << 10).step_by(1100) {
        let parked = parks(move |_| {
            with_stack_left(1000, &mut || {
                transom_arena::ensure_stack(4 << 10);
                with_stack_left(left, &mut load);
            });
        });
        assert!(parked.for_ever(), "{left}");
        thread::spawn(load).join().expect("it ends");
    }
}

/// When a request has used up its stack's extension, the C library still has room: a thread that was parked
/// inside it, under the lock for the stacks of threads, would let no other thread start.
#[test]
fn a_stack_that_was_extended_before_has_room_for_what_the_c_library_has_begun() {
    let _turn = alone();
    on_bucket_thread(|tenant| {
        for left in (240..3 << 10).step_by(24) {
            let outcome = tenant.enter(&never_stuck, |_| {
                start_a_large_thread();
                let thread = RUNNING.with_borrow_mut(Vec::pop).expect("just started");
                let thread = thread.into_pthread_t();
                with_stack_left(1000, &mut || {
                    transom_arena::ensure_stack(4 << 10);
                    with_stack_left(left, &mut || {
                        // SAFETY: it is joinable, and joined once.
                        unsafe { libc::pthread_join(thread, ptr::null_mut()) };
                    });
                });
            });
            assert_eq!(exhaustion(outcome.result).reason, Reason::Stack, "{left}");
            thread::spawn(|| ()).join().expect("it ends");
        }
    });
}

/// At its first use the name service loads libraries, and ends the process where it gets no memory for that.
#[test]
fn the_name_service_is_first_used_at_the_end_of_a_stack() {
    for left in [600, 2000, 4000, 6000, 7500] {
        let left = left.to_string();
        common::passes_in_a_child(
            "child_that_asks_for_a_user_at_the_end_of_its_stack",
            &[("LEFT", &left)],
        );
    }
}

#[test]
#[ignore = "the first use in its process; run by the one above"]
fn child_that_asks_for_a_user_at_the_end_of_its_stack() {
    fn ask() {
        let mut entry = MaybeUninit::<libc::passwd>::uninit();
        let mut buffer = [0 as libc::c_char; 400];
        let mut found = ptr::null_mut();
        // SAFETY: places of their sizes.
        unsafe {
            libc::getpwuid_r(
                0,
                entry.as_mut_ptr(),
                buffer.as_mut_ptr(),
                buffer.len(),
                &raw mut found,
            );
        }
    }
    let left = std::env::var("LEFT").expect("set by the one above");
    let left: usize = left.parse().expect("a number");
    let parked = parks(move |_| {
        with_stack_left(1000, &mut || {
            transom_arena::ensure_stack(4 << 10);
            with_stack_left(left, &mut ask);
        });
    });
    assert!(parked.for_ever());
    on_bucket_thread(|tenant| {
        assert!(tenant.enter(&never_stuck, |_| ask()).result.is_ok());
    });
}

/// Whatever the step was doing when the stack ended, it went on to its end: the request is over, the thread
/// is not lost, and another thread can do the same.
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

/// A program may block signals before it serves (one of its threads waits for them), or be started with
/// blocked ones.
#[test]
fn what_a_thread_has_inherited_blocks_no_signals_of_faults() {
    let _turn = alone();
    thread::spawn(|| {
        let all = all_signals();
        // SAFETY: a set is read.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, ptr::null_mut()) };
        on_bucket_thread(|tenant| {
            let outcome = tenant.enter(&never_stuck, |_| overflow_a_little());
            assert_eq!(exhaustion(outcome.result).reason, Reason::Stack);
        });
    })
    .join()
    .expect("it ends");
}

fn overflow_a_little() {
    with_stack_left(64, &mut || {
        let frame = [1u8; 8 << 10];
        black_box(&frame);
    });
}

extern "C" fn nothing(_: libc::c_int) {}

/// On the stack on which the signal arrives, as in most programs.
fn handle(signal: libc::c_int) {
    // SAFETY: a function that does nothing; flags and mask are empty.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        assert_eq!(
            libc::sigaction(signal, &raw const action, ptr::null_mut()),
            0
        );
    }
}

/// The kernel finds no room for the signal's frame, and sends a fault in its place.
#[test]
fn a_signal_at_the_end_of_a_stack_ends_nothing_and_leaves_overflows_caught() {
    let _turn = alone();
    handle(libc::SIGWINCH);
    // SAFETY: a signal to this thread.
    let raise = || unsafe { libc::raise(libc::SIGWINCH) };
    on_bucket_thread(move |tenant| {
        for left in (64..16 << 10).step_by(112) {
            let outcome = tenant.enter(&never_stuck, |_| with_stack_left(left, &mut || raise()));
            match outcome.result {
                Ok(_) => (),
                Err(Failed::Exhausted(e)) if e.reason == Reason::Stack => (),
                other => panic!("{left} bytes left: {other:?}"),
            }
            let outcome = tenant.enter(&never_stuck, |_| overflow_a_little());
            assert_eq!(exhaustion(outcome.result).reason, Reason::Stack, "{left}");
        }
    });
    // On another thread it is lost, as by any program.
    thread::Builder::new()
        .stack_size(64 << 10)
        .spawn(move || {
            let mut attributes = MaybeUninit::uninit();
            let (mut bottom, mut size) = (ptr::null_mut(), 0);
            // SAFETY: they fill what they are given; attributes are destroyed after.
            unsafe {
                libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr());
                libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut bottom, &raw mut size);
                libc::pthread_attr_destroy(attributes.as_mut_ptr());
            }
            for left in [500, 700, 900] {
                down_to(bottom as usize + left, &mut || assert_eq!(raise(), 0));
            }
        })
        .expect("starts")
        .join()
        .expect("it goes on");
    on_bucket_thread(|tenant| {
        let outcome = tenant.enter(&never_stuck, |_| overflow_a_little());
        assert_eq!(exhaustion(outcome.result).reason, Reason::Stack);
    });
}

#[test]
fn a_wild_pointer_ends_the_process() {
    use std::os::unix::process::ExitStatusExt;
    let output = common::in_a_child("wild", &[]);
    assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{output:?}");
}

#[test]
#[ignore = "ends its process: for a_wild_pointer_ends_the_process"]
fn wild() {
    on_bucket_thread(|tenant| {
        // Not an address that x86-64 can have, for which the kernel tells none.
        let wild: *const u8 = ptr::without_provenance(black_box(1 << 63));
        // SAFETY: there is none; this is to end the process.
        tenant.enter(&never_stuck, |_| unsafe { wild.read_volatile() });
    });
}

/// The caller may be a C library that holds a lock.
#[test]
fn a_function_of_the_c_library_that_wants_stack_is_not_left_by_a_jump() {
    let _turn = alone();
    on_bucket_thread(|tenant| {
        let after = std::rc::Rc::new(std::cell::Cell::new(0));
        for left in [6000, 9000, 12_000, 15_000] {
            let seen = after.clone();
            let exit_3 = move || {
                // SAFETY: a command.
                let status = unsafe { libc::system(c"exit 3".as_ptr()) };
                seen.set(libc::WEXITSTATUS(status));
            };
            // SAFETY: what is held is a count that nothing but this thread uses.
            let outcome = unsafe {
                tenant.enter_escaping(&never_stuck, move |_| {
                    with_stack_left(left, &mut || exit_3());
                })
            };
            assert_eq!(exhaustion(outcome.result).reason, Reason::Stack);
            assert_eq!(after.replace(0), 3, "{left} bytes left");
        }
    });
}

/// All threads block the signals that the main thread waits for, but a program that they start does not.
#[test]
fn a_new_process_blocks_no_signals_for_the_sake_of_a_thread() {
    use std::os::unix::process::CommandExt;
    let _turn = alone();
    let mut ours = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: it is emptied, then filled.
    let ours = unsafe {
        libc::sigemptyset(ours.as_mut_ptr());
        libc::sigaddset(ours.as_mut_ptr(), libc::SIGTERM);
        ours.assume_init()
    };
    handle(libc::SIGTERM);
    thread::spawn(move || {
        let blocked = || {
            let text = std::fs::read_to_string("/proc/thread-self/status").expect("procfs");
            let line = text.lines().find_map(|line| line.strip_prefix("SigBlk:"));
            line.expect("a line").trim().to_owned()
        };
        let usr1 = {
            let mut set = ours;
            // SAFETY: an initialised set.
            unsafe { libc::sigaddset(&raw mut set, libc::SIGUSR1) };
            set
        };
        // SAFETY: sets that are initialised.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const usr1, ptr::null_mut()) };
        // Another thread waits for it.
        thread::spawn(move || transom_arena::do_not_block_in_children(&ours))
            .join()
            .expect("it ends");
        let before = blocked();
        assert_eq!(before, "0000000000004200");
        let mut plain = Command::new("grep");
        let mut forked = Command::new("grep");
        // SAFETY: it does nothing. With it, the child is forked.
        unsafe { forked.pre_exec(|| Ok(())) };
        for command in [&mut plain, &mut forked] {
            let output = command
                .args(["SigBlk", "/proc/self/status"])
                .output()
                .expect("runs");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(
                said, "SigBlk:\t0000000000000200\n",
                "its own blocked signals stay blocked"
            );
            assert_eq!(blocked(), before);
        }
    })
    .join()
    .expect("it ends");
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
