//! A log takes the memory it states, and once it runs nothing allocates: neither the thread that logs nor the
//! one that writes.
//!
//! One test, alone in its process: it counts every allocation of the process, and `tracing` takes one
//! subscriber for it.

use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};
use tracing::level_filters::LevelFilter;
use transom_arena::{process_heap_allocations, seal};
use transom_log::{self as log, LogFormat, LogOptions};

/// What malloc has handed out, in bytes.
fn heap_bytes() -> usize {
    // SAFETY: only asks.
    let heap = unsafe { libc::mallinfo2() };
    heap.uordblks + heap.hblkhd
}

/// Waits until the test harness waits for us on the main thread: it allocates when it first does, and that is
/// not ours to count.
fn wait_for_the_harness() {
    let deadline = Instant::now() + Duration::from_secs(10);
    let stat = format!("/proc/self/task/{}/stat", process::id());
    while !fs::read_to_string(&stat).expect("procfs").contains(") S ") {
        assert!(Instant::now() < deadline, "the harness never waits");
        thread::yield_now();
    }
}

/// A value that logs while it is being logged.
struct Chatty;

impl fmt::Display for Chatty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        tracing::info!("inner");
        f.write_str("outer")
    }
}

fn log_of_every_kind(round: u32) {
    let error = std::io::Error::from_raw_os_error(libc::ENOENT);
    tracing::info!(round, route = %"/user/{id}", quota = ?Some(0.5), text = "a \"b\"\n", "a request was served");
    tracing::error!(error = &error as &dyn std::error::Error, "{:>2000}", round);
    tracing::warn!("{Chatty}");
    tracing::debug!("not logged");
    let _span = tracing::info_span!("request", round).entered();
}

#[test]
fn a_log_takes_what_it_states_and_then_no_event_allocates_on_any_thread() {
    // On a thread of its own, because the harness may run a lone test on the main thread.
    let counted = thread::spawn(log_and_count);
    counted.join().expect("the counted thread did not panic");
}

fn log_and_count() {
    const ROUNDS: u32 = 200;
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let options = LogOptions {
        format: LogFormat::Json,
        level: LevelFilter::INFO,
        queue: 64,
    };
    let before = heap_bytes();
    let (subscriber, handle) =
        log::start(options, File::from(OwnedFd::from(writer))).expect("a log");
    let heap = heap_bytes() - before;
    // The bound counts the thread's stack, too, which is not on the heap.
    let bound = log::memory_bytes(64);
    assert!(
        heap <= bound && bound <= heap + 140 * 1024,
        "{heap} bytes of {bound}"
    );

    tracing::subscriber::set_global_default(subscriber).expect("this process has no other");
    // Room for every line, made now: the reader must not allocate while we count.
    let mut all = Vec::with_capacity(4 << 20);
    let started = Arc::new(Barrier::new(2));
    let reader_started = Arc::clone(&started);
    let reading = thread::spawn(move || {
        reader_started.wait();
        reader.read_to_end(&mut all).expect("the pipe ends");
        String::from_utf8(all).expect("lines are UTF-8")
    });

    started.wait();
    assert!(handle.flush(Instant::now() + Duration::from_secs(10)));

    // Both other threads run now. Nothing else is warmed up: the first event of a thread and of a call site
    // must not allocate either.
    wait_for_the_harness();
    seal();
    for round in 0..ROUNDS {
        log_of_every_kind(round);
        if round % 10 == 9 {
            assert!(handle.flush(Instant::now() + Duration::from_secs(10)));
        }
    }
    let allocated = process_heap_allocations();

    assert!(handle.shutdown(Instant::now() + Duration::from_secs(10)));
    let all = reading.join().expect("the reader did not panic");
    assert_eq!(allocated, 0, "logging allocated");
    assert_eq!(handle.dropped(), 0);
    assert_eq!(all.lines().count() as u32, ROUNDS * 4);
    assert_eq!(all.matches("\"message\":\"inner\"").count() as u32, ROUNDS);
}
