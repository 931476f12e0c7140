//! Handlers that do not return: the application for buckets that are lost by time.
//!
//! | request | does |
//! |---|---|
//! | `GET /` | answers at once |
//! | `GET /gate` | waits until the gate is open, whatever its deadline is |
//! | `GET /open` | opens the gate |
//! | `GET /keep` | takes a lock and never gives it back, as a parked handler does that held one |
//! | `GET /locked` | waits for that lock |
//! | `GET /leave` | leaves 64 KiB in a thread-local, whose destructor waits at the gate |
//! | `GET /leave/panic` | the same, and that destructor panics |
//! | `GET /stream` | sends a piece of its answer, then waits until the gate is open |
//! | `GET /stay` | sees to it that the process does not end by itself |
//! | `GET /files` | opens files until there are no more descriptors, and aborts, which parks it |
//! | `GET /abort` | aborts, which parks it |
//! | `GET /second` | takes a second |
//! | `GET /hold` | takes the lock until the process drains, and aborts, which parks it |
//! | `GET /hold/on` | takes the lock, and waits at the gate |
//!
//! With `HANG_EACH_THREAD` in the environment, each thread but the first waits at the gate before its first
//! call. With `HANG_AT_THE_END=SECONDS`, `main` wants the lock after it has served,
//! and then takes so long.
//!
//! It lies here and not in `apps/` because it is nothing to learn from.

use std::cell::RefCell;
use std::fs::File;
use std::io::Write;
use std::process::ExitCode;
use std::sync::{Condvar, Mutex, Once, PoisonError};
use std::thread::sleep;
use std::time::Duration;
use transom::{Request, Response, Router, is_draining};

static GATE: Mutex<bool> = Mutex::new(false);
static OPENED: Condvar = Condvar::new();
static LOCK: Mutex<()> = Mutex::new(());

fn wait_at_the_gate() {
    let open = GATE.lock().unwrap_or_else(PoisonError::into_inner);
    let open = OPENED.wait_while(open, |open| !*open);
    drop(open);
}

fn gate(_: &Request) -> Response<'_> {
    wait_at_the_gate();
    Response::text("through\n")
}

fn open(_: &Request) -> Response<'_> {
    *GATE.lock().unwrap_or_else(PoisonError::into_inner) = true;
    OPENED.notify_all();
    Response::text("open\n")
}

fn keep(_: &Request) -> Response<'_> {
    std::mem::forget(LOCK.lock());
    Response::text("kept\n")
}

fn locked(_: &Request) -> Response<'_> {
    drop(LOCK.lock());
    Response::text("free\n")
}

/// What a thread keeps until it ends.
struct Kept {
    _bytes: Vec<u8>,
    panics: bool,
}

impl Drop for Kept {
    fn drop(&mut self) {
        assert!(!self.panics, "a destructor of a thread-local");
        wait_at_the_gate();
    }
}

thread_local! {
    static KEPT: RefCell<Vec<Kept>> = const { RefCell::new(Vec::new()) };
}

fn keep_in_the_thread(panics: bool) {
    let kept = Kept {
        _bytes: vec![7; 64 << 10],
        panics,
    };
    KEPT.with_borrow_mut(|all| all.push(kept));
}

fn leave(_: &Request) -> Response<'_> {
    keep_in_the_thread(false);
    Response::text("left\n")
}

fn leave_panic(_: &Request) -> Response<'_> {
    keep_in_the_thread(true);
    Response::text("left\n")
}

fn stream(_: &Request) -> Response<'_> {
    Response::stream(|out| {
        out.write_all(b"begun\n")?;
        out.flush()?;
        wait_at_the_gate();
        out.write_all(b"ended\n")
    })
}

extern "C" fn sleep_for_ever() {
    loop {
        // SAFETY: a plain system call.
        unsafe { libc::pause() };
    }
}

fn stay(_: &Request) -> Response<'_> {
    // SAFETY: the function may be called at any time.
    unsafe { libc::atexit(sleep_for_ever) };
    Response::text("staying\n")
}

fn files(_: &Request) -> Response<'_> {
    let mut files = Vec::with_capacity(2000);
    while let Ok(file) = File::open("/dev/null") {
        files.push(file);
    }
    std::process::abort()
}

fn abort(_: &Request) -> Response<'_> {
    std::process::abort()
}

fn second(_: &Request) -> Response<'_> {
    sleep(Duration::from_secs(1));
    Response::text("a second\n")
}

fn hold(_: &Request) -> Response<'_> {
    let _held = LOCK.lock();
    while !is_draining() {
        sleep(Duration::from_millis(1));
    }
    std::process::abort()
}

fn hold_on(_: &Request) -> Response<'_> {
    let _held = LOCK.lock();
    wait_at_the_gate();
    Response::text("through\n")
}

fn prepare() {
    static FIRST: Once = Once::new();
    let mut is_first = false;
    FIRST.call_once(|| is_first = true);
    if !is_first && std::env::var_os("HANG_EACH_THREAD").is_some() {
        wait_at_the_gate();
    }
}

fn main() -> ExitCode {
    let router = Router::new()
        .warm(prepare)
        .get("/files", files)
        .get("/", |_: &Request| "here\n")
        .get("/gate", gate)
        .get("/open", open)
        .get("/keep", keep)
        .get("/locked", locked)
        .get("/leave", leave)
        .get("/leave/panic", leave_panic)
        .get("/stream", stream)
        .get("/stay", stay)
        .get("/abort", abort)
        .get("/second", second)
        .get("/hold", hold)
        .get("/hold/on", hold_on);
    let code = transom::serve(router);
    if let Ok(seconds) = std::env::var("HANG_AT_THE_END") {
        drop(LOCK.lock());
        sleep(Duration::from_secs(seconds.parse().expect("a number")));
    }
    code
}
