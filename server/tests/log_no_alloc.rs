//! A log takes the memory it states, and once it runs nothing allocates: neither the thread that logs nor the one that
//! writes.
//!
//! One test, alone in its process: it counts every allocation of the process, and `tracing` takes one subscriber for it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};
use tracing::level_filters::LevelFilter;
use transom::log::{self, LogFormat, LogOptions};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

// SAFETY: `System`'s own contract, unchanged; `realloc` and `alloc_zeroed` come through `alloc`.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !on_main_thread() {
            ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
            BYTES.fetch_add(layout.size() as u64, Ordering::SeqCst);
        }
        // SAFETY: the caller's promise about `layout` is the one `System` wants.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `System` with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// The test harness waits on the main thread, and allocates when it first does: whenever that is, it is not ours to count.
fn on_main_thread() -> bool {
    // SAFETY: both only ask, and cannot fail.
    unsafe { libc::gettid() == libc::getpid() }
}

#[global_allocator]
static COUNTING: Counting = Counting;

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
    let counted = std::thread::spawn(log_and_count);
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
    let before = BYTES.load(Ordering::SeqCst);
    let (subscriber, handle) =
        log::start(options, File::from(OwnedFd::from(writer))).expect("a log");
    let heap = (BYTES.load(Ordering::SeqCst) - before) as usize;
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
    let reading = std::thread::spawn(move || {
        reader_started.wait();
        reader.read_to_end(&mut all).expect("the pipe ends");
        String::from_utf8(all).expect("lines are UTF-8")
    });

    started.wait();
    assert!(handle.flush(Instant::now() + Duration::from_secs(10)));

    // Both other threads run now. Nothing else is warmed up: the first event of a thread and of a call site must not allocate either.
    let before = ALLOCATIONS.load(Ordering::SeqCst);
    for round in 0..ROUNDS {
        log_of_every_kind(round);
        if round % 10 == 9 {
            assert!(handle.flush(Instant::now() + Duration::from_secs(10)));
        }
    }
    let allocated = ALLOCATIONS.load(Ordering::SeqCst) - before;

    assert!(handle.shutdown(Instant::now() + Duration::from_secs(10)));
    let all = reading.join().expect("the reader did not panic");
    assert_eq!(allocated, 0, "logging allocated");
    assert_eq!(handle.dropped(), 0);
    assert_eq!(all.lines().count() as u32, ROUNDS * 4);
    assert_eq!(all.matches("\"message\":\"inner\"").count() as u32, ROUNDS);
}
