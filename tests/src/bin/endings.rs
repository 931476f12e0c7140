//! Handlers that end in every way, with cleanups that do what cleanups may do. `docs/handlers.md` says what
//! comes first.
//!
//! | request | does |
//! |---|---|
//! | `GET /` | answers |
//! | `GET /end/WAY/THEN` | ends in that way, and has a cleanup, or a payload's destructor, that does that |
//! | `GET /open` | lets those go on that wait |
//! | `GET /waiting` | how many wait |
//! | `GET /suspend/PLACE` | keeps a coroutine that was suspended there: in a `drop`, while a panic unwinds, or in its `display` |
//! | `GET /asks` | whether it is refused what does not fit, and whether the thread panics |
//! | `GET /take` | installs a handler for SIGSEGV, as a library may at its first use |
//!
//! With `ENDINGS_ESCAPE=1` it is served by the jump; with `ENDINGS_TAKE=1` that handler is installed in
//! `warm_up`; with `ENDINGS_EACH=1` the second thread's `each_thread` fails, and cleans up in a drain.

use corosensei::{Coroutine, Yielder};
use std::fmt;
use std::hint::black_box;
use std::io::Write;
use std::mem::forget;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any, resume_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::sleep;
use std::time::Duration;
use transom::{App, Failure, Request, Response, Router, defer, is_draining};

/// How many wait for the gate, and whether it is open.
static GATE: (Mutex<(u32, bool)>, Condvar) = (Mutex::new((0, false)), Condvar::new());

fn wait_at_gate() {
    let (state, moved) = &GATE;
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    state.0 += 1;
    while !state.1 {
        state = moved.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
    state.0 -= 1;
}

fn open(_: &Request) -> &'static str {
    GATE.0.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
    GATE.1.notify_all();
    "open\n"
}

fn waiting(_: &Request) -> String {
    let (waiting, _) = *GATE.0.lock().unwrap_or_else(PoisonError::into_inner);
    format!("{waiting}\n")
}

/// Takes long enough for a process that does not wait to be gone.
fn clean_up_in_a_drain() {
    while !is_draining() {
        sleep(Duration::from_millis(1));
    }
    sleep(Duration::from_millis(500));
    eprintln!("cleaned up");
}

struct PanicsInItsDrop;

impl Drop for PanicsInItsDrop {
    fn drop(&mut self) {
        panic!("the destructor's own words");
    }
}

/// More than a share of the overdraft.
fn outgrow_for_good() {
    black_box(vec![1u8; 64 << 20]);
}

fn run(then: &str) {
    match then {
        "wait" => wait_at_gate(),
        "park" => outgrow_for_good(),
        "drain" => clean_up_in_a_drain(),
        "panic" => panic!("from what runs afterwards"),
        _ => {}
    }
}

struct Payload(String);

impl Drop for Payload {
    fn drop(&mut self) {
        run(&self.0);
    }
}

/// Uses so much stack: more than there is, and less than with its extension.
const DEEP: usize = (128 + 12) << 10;

#[inline(never)]
fn recurse(from: usize) -> usize {
    let frame = black_box([from; 32]);
    if from - (&raw const frame).addr() > DEEP {
        return 0;
    }
    recurse(from) + frame[3].min(1)
}

fn end(request: &Request) -> Result<Response<'_>, Failure> {
    let then = request.param("then").unwrap_or_default().to_owned();
    let way = request.param("way").unwrap_or_default();
    if way == "payload" {
        panic_any(Payload(then));
    }
    let afterwards = then.clone();
    defer(move |_| run(&afterwards));
    match way {
        "panic" => panic!("the handler's own words"),
        "resume" => resume_unwind(Box::new("the handler's own words")),
        "error" => Err("the handler's own words")?,
        "bump" => loop {
            black_box(request.arena().alloc([0u8; 100]));
        },
        "fill" => drop(black_box(vec![1u8; 1 << 20])),
        "recurse" => drop(black_box(recurse((&raw const then).addr()))),
        "stream" => {
            return Ok(Response::stream(|out| {
                out.write_all(&[b'x'; 1 << 20])?;
                panic!("the handler's own words")
            }));
        }
        "twice" => {
            let _guard = PanicsInItsDrop;
            panic!("the handler's own words");
        }
        "abort" => std::process::abort(),
        _ => {}
    }
    Ok(Response::text("done\n"))
}

/// A handler that does not call the one that was there before it.
extern "C" fn end_process(_: libc::c_int) {
    // SAFETY: it has no preconditions.
    unsafe { libc::_exit(99) }
}

fn take_faults() {
    // SAFETY: a zeroed action is valid; the handler is of the kind that its flags say.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = end_process as *const () as usize;
        action.sa_flags = libc::SA_ONSTACK;
        libc::sigaction(libc::SIGSEGV, &raw const action, std::ptr::null_mut());
    }
}

fn take(_: &Request) -> &'static str {
    take_faults();
    "taken\n"
}

fn fail_on_the_second_thread() {
    static THREADS: AtomicU32 = AtomicU32::new(0);
    if THREADS.fetch_add(1, Ordering::SeqCst) == 1 {
        defer(|_| clean_up_in_a_drain());
        panic!("the thread's own words");
    }
}

/// Suspends its coroutine where it is dropped or shown.
struct Suspends<'y>(&'y Yielder<(), ()>);

impl Drop for Suspends<'_> {
    fn drop(&mut self) {
        self.0.suspend(());
    }
}

impl fmt::Display for Suspends<'_> {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.suspend(());
        Ok(())
    }
}

fn suspend(request: &Request) -> &'static str {
    let in_drop = request.param("place") == Some("drop");
    let mut coroutine = Coroutine::new(move |yielder: &Yielder<(), ()>, ()| {
        let panics = || {
            let suspends = Suspends(yielder);
            match in_drop {
                true => panic!("unwinds"),
                false => panic!("{suspends}"),
            }
        };
        let _ = catch_unwind(AssertUnwindSafe(panics));
    });
    coroutine.resume(());
    forget(coroutine);
    "suspended\n"
}

fn asks(request: &Request) -> String {
    let refused = request.try_reserve(&mut Vec::<u8>::new(), 1 << 20).is_err();
    format!("{refused} {}\n", std::thread::panicking())
}

fn main() -> ExitCode {
    let router = Router::new()
        .get("/", |_: &Request| "here\n")
        .get("/end/{way}/{then}", end)
        .get("/open", open)
        .get("/waiting", waiting)
        .get("/suspend/{place}", suspend)
        .get("/asks", asks)
        .get("/take", take);
    let mut app = App::new(router);
    if std::env::var_os("ENDINGS_TAKE").is_some() {
        app = app.warm_up(take_faults);
    }
    if std::env::var_os("ENDINGS_EACH").is_some() {
        app = app.each_thread(fail_on_the_second_thread);
    }
    if std::env::var_os("ENDINGS_ESCAPE").is_none() {
        return app.serve();
    }
    // SAFETY: no lock is held across an allocation or a call, and nothing is kept beyond its request. What
    // `end` leaves behind by a jump is memory of the bucket.
    unsafe { app.escaping() }.serve()
}
