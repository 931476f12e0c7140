//! Stack overflows, at every depth and inside everything that must not be left half-way. Run it in debug and
//! release: frames differ.

mod common;

use common::{
    exhaustion, lies_in_shared_heap, never_stuck, next_bucket, on_bucket_thread,
    overflow_the_stack, with_stack_left,
};
use std::hint::black_box;
use transom_arena::{
    Bump, Failed, Outcome, Reason, Shared, SharedError, Tenant, defer, ensure_stack, outside,
    stack_remaining,
};

#[global_allocator]
static GLOBAL: transom_arena::TransomAllocator = transom_arena::TransomAllocator;

fn escaping<R: Copy + 'static>(tenant: &mut Tenant, f: impl FnOnce(&Bump) -> R) -> Outcome<'_, R> {
    // SAFETY: the handlers in this file hold nothing but memory of their bucket and `Shared` cells.
    unsafe { tenant.enter_escaping(&never_stuck, f) }
}

/// Recurses with frames of `N` bytes and more.
#[inline(never)]
fn recurse<const N: usize>(depth: usize) -> usize {
    let frame = [depth as u8; N];
    black_box(&frame);
    if depth == usize::MAX {
        return 0;
    }
    recurse::<N>(depth + 1) + usize::from(black_box(frame[N - 1]))
}

#[test]
fn frames_of_every_size_are_caught_at_the_guard() {
    on_bucket_thread(|tenant| {
        let shapes: [fn(usize) -> usize; 6] = [
            recurse::<1>,
            recurse::<200>,
            recurse::<4096>,
            recurse::<10_000>,
            recurse::<50_000>,
            // Larger than the whole stack and the guard page together: the compiler touches it page by page.
            recurse::<300_000>,
        ];
        for _ in 0..20 {
            for shape in shapes {
                let outcome = escaping(tenant, |_| shape(0));
                let e = exhaustion(outcome.result);
                assert_eq!((e.reason, e.size), (Reason::Stack, 128 << 10));
                let outcome = tenant.enter(&never_stuck, |_| format!("{}", 7).len());
                assert!(matches!(outcome.result, Ok(1)));
            }
        }
    });
}

/// As in a runtime that takes its signal stack away when it is done.
#[cfg(feature = "c-heap")]
#[test]
fn a_thread_whose_signal_stack_was_disabled_has_its_own_again() {
    on_bucket_thread(|tenant| {
        let none = libc::stack_t {
            ss_sp: std::ptr::null_mut(),
            ss_flags: libc::SS_DISABLE,
            ss_size: 0,
        };
        let outcome = tenant.enter(&never_stuck, |_| {
            // SAFETY: no stack, and none asked for.
            unsafe { libc::sigaltstack(&raw const none, std::ptr::null_mut()) }
        });
        assert!(matches!(outcome.result, Ok(0)));
        let outcome = escaping(tenant, |_| recurse::<200>(0));
        assert_eq!(exhaustion(outcome.result).reason, Reason::Stack);
    });
}

static CELL: Shared<Vec<u64>> = Shared::new(Vec::new());

/// Everything of ours that a request may be in when its stack ends, at every depth around the end.
#[test]
fn whatever_the_stack_ends_in_nothing_stays_locked_and_nothing_is_lost() {
    type Step = (&'static str, fn());
    let steps: [Step; 6] = [
        ("an allocation", || {
            black_box(format!("{} {}", 1, 2.5));
        }),
        ("the shared heap", || {
            outside(|| drop(black_box(Box::new([1u8; 100]))));
        }),
        ("a cell, writing", || {
            let _ = CELL.with(|list| {
                list.push(1);
                list.pop();
            });
        }),
        ("a cell, reading", || {
            let _ = CELL.read(|list| black_box(list.len()));
        }),
        ("restoring a cell", || {
            static RESTORED: Shared<[u64; 64]> = Shared::new([0; 64]);
            RESTORED.restore(|| [1; 64]);
        }),
        ("a cleanup", || {
            defer(|_| ());
        }),
    ];
    on_bucket_thread(move |tenant| {
        let mut overflows = 0;
        for (name, step) in steps {
            let mut returns = 0;
            for left in (64..24 << 10).step_by(48) {
                let outcome = escaping(tenant, |_| with_stack_left(left, &mut || step()));
                match outcome.result {
                    Ok(()) => returns += 1,
                    Err(Failed::Exhausted(e)) if e.reason == Reason::Stack => overflows += 1,
                    other => panic!("{name}, {left} bytes left: {other:?}"),
                }
                assert_eq!(outcome.left, 0, "{name}, {left} bytes left");
                if CELL.is_poisoned() {
                    CELL.restore(Vec::new);
                }
                let outcome = tenant.enter(&never_stuck, |_| {
                    outside(|| drop(black_box(Box::new([1u8; 100]))));
                    CELL.with(|list| list.len())
                });
                assert!(
                    matches!(outcome.result, Ok(Ok(0))),
                    "{name}, {left}: {outcome:?}"
                );
                drop(black_box(Box::new([1u8; 100])));
            }
            assert!(returns > 0, "{name}");
        }
        // Some steps need next to no stack, in release.
        assert!(overflows > 100, "{overflows}");
    });
}

#[test]
fn an_overflow_inside_outside_aims_the_next_request_at_its_bucket_again() {
    on_bucket_thread(|tenant| {
        for _ in 0..20 {
            let outcome = escaping(tenant, |_| outside(|| outside(overflow_the_stack)));
            assert_eq!(exhaustion(outcome.result).reason, Reason::Stack);
            let outcome = tenant.enter(&never_stuck, |_| {
                let text = black_box(String::from("in the bucket"));
                lies_in_shared_heap(text.as_ptr() as usize)
            });
            assert!(matches!(outcome.result, Ok(false)), "{outcome:?}");
        }
    });
}

#[test]
fn an_overflow_inside_a_cell_poisons_and_unlocks_it() {
    static WRITTEN: Shared<u64> = Shared::new(0);
    static READ: Shared<u64> = Shared::new(0);
    on_bucket_thread(|tenant| {
        for _ in 0..20 {
            let outcome = escaping(tenant, |_| WRITTEN.with(|_| overflow_the_stack()).is_ok());
            assert_eq!(exhaustion(outcome.result).reason, Reason::Stack);
            // Reading is no safer: it was stopped between two arbitrary instructions.
            let outcome = escaping(tenant, |_| READ.read(|_| overflow_the_stack()).is_ok());
            assert_eq!(exhaustion(outcome.result).reason, Reason::Stack);
            for cell in [&WRITTEN, &READ] {
                assert!(cell.is_poisoned());
                assert_eq!(cell.with(|n| *n), Err(SharedError::Poisoned));
                cell.restore(|| 0);
                assert_eq!(cell.with(|n| *n), Ok(0));
            }
        }
    });
}

#[test]
fn an_overflow_inside_a_handlers_own_catch_is_not_caught_by_it() {
    on_bucket_thread(|tenant| {
        for _ in 0..20 {
            let outcome = escaping(tenant, |_| {
                std::panic::catch_unwind(overflow_the_stack).is_err()
            });
            assert_eq!(exhaustion(outcome.result).reason, Reason::Stack);
            let outcome = tenant.enter(&never_stuck, |_| {
                std::panic::catch_unwind(|| panic!("unlucky")).is_err()
            });
            assert!(
                matches!(outcome.result, Ok(true)),
                "the panic count is as it was"
            );
        }
    });
}

#[test]
fn a_panic_deep_down_the_stack_still_unwinds() {
    on_bucket_thread(|tenant| {
        for left in [60, 40, 30, 24] {
            let outcome = tenant.enter(&never_stuck, |_| {
                with_stack_left(left << 10, &mut || -> u8 { panic!("{left} KiB left") })
            });
            let message = common::panic_message(outcome.result);
            assert!(
                message.starts_with(&format!("{left} KiB left")),
                "{message}"
            );
        }
    });
}

#[test]
fn the_stack_that_is_left_is_known_and_can_be_asked_for() {
    assert_eq!(stack_remaining(), None);
    ensure_stack(usize::MAX); // no request, no refusal
    on_bucket_thread(|tenant| {
        assert_eq!(stack_remaining(), None);
        let outcome = escaping(tenant, |_| {
            let whole = stack_remaining().expect("in a request");
            ensure_stack(whole / 2);
            let less = with_stack_left(whole / 2, &mut || stack_remaining().expect("still"));
            (whole, less)
        });
        let (whole, less) = outcome.result.expect("returns");
        assert!(
            whole < 128 << 10 && whole > 100 << 10 && less < whole / 2 + 256,
            "{whole} {less}"
        );
        let outcome = escaping(tenant, |_| ensure_stack(128 << 10));
        assert_eq!(exhaustion(outcome.result).reason, Reason::Stack);
    });
    let mut adopted = Tenant::adopt(next_bucket()).expect("free");
    let outcome = adopted.enter(&never_stuck, |_| stack_remaining());
    assert!(
        matches!(outcome.result, Ok(None)),
        "its stack is not the bucket's"
    );
}

/// A profiler's signals come at any time, also between a lock's taking and its release, and want more stack
/// than there is at its end.
#[test]
fn signals_at_the_end_of_a_stack_leave_no_lock_taken() {
    common::passes_in_a_child("child_that_is_profiled", &[]);
}

#[test]
#[ignore = "has a signal handler of its own; run by the one above"]
fn child_that_is_profiled() {
    static CELL: Shared<Vec<u64>> = Shared::new(Vec::new());
    extern "C" fn sample(_: libc::c_int) {
        let frame = [1u8; 10 << 10];
        black_box(&frame);
    }
    /// This thread gets the signal every 20 µs.
    fn be_profiled() {
        let often = libc::timespec {
            tv_sec: 0,
            tv_nsec: 20_000,
        };
        let times = libc::itimerspec {
            it_interval: often,
            it_value: often,
        };
        // SAFETY: structures that are filled, for a thread and a timer that live as long as the process.
        unsafe {
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = libc::SIGUSR2;
            event.sigev_notify_thread_id = libc::gettid();
            let mut timer = std::ptr::null_mut();
            let made = libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer);
            assert_eq!(made, 0);
            libc::timer_settime(timer, 0, &raw const times, std::ptr::null_mut());
        }
    }
    fn deeper(n: usize) -> usize {
        // Most of the time is spent where a lock may be taken and a signal's handler does not fit.
        let times = match stack_remaining() {
            Some(left) if left < 20 << 10 => 200,
            _ => 1,
        };
        for _ in 0..times {
            drop(black_box(outside(|| vec![1u8; 64])));
        }
        let frame = black_box([n; 40]);
        if n == usize::MAX {
            return 0; // never
        }
        deeper(n + 1) + frame[0]
    }
    /// Like a parser of a C library: frames are small, and each allocates.
    fn deeper_in_c(n: usize) -> usize {
        for size in [40, 48, 56, 64] {
            // SAFETY: any size will do.
            unsafe { libc::free(black_box(libc::malloc(size))) };
        }
        let frame = black_box([n; 4]);
        if n == usize::MAX {
            return 0; // never
        }
        deeper_in_c(n + 1) + frame[0]
    }
    // SAFETY: a handler that only uses its stack.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = sample as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(libc::SIGUSR2, &raw const action, std::ptr::null_mut());
    }
    for round in 0..42 {
        let parked = common::parks(move |_| {
            be_profiled();
            match round % 3 {
                0 => deeper(0),
                1 => deeper_in_c(0),
                // It is parked inside the cell, which is given up.
                _ => CELL.with_room(0, |_| deeper(0)).unwrap_or(0),
            }
        });
        common::on_bucket_thread(move |tenant| {
            let outcome = tenant.enter(&common::never_stuck, |_| {
                // SAFETY: any size will do.
                unsafe { libc::free(black_box(libc::malloc(100))) };
                outside(|| vec![1u8; 64]).len()
            });
            assert!(matches!(outcome.result, Ok(64)), "{round}");
        });
        if round % 3 == 2 {
            common::wait_for("the cell is given up", || CELL.is_poisoned());
            CELL.restore(Vec::new);
        }
        assert!(parked.for_ever());
    }
}
