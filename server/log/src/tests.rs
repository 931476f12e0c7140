//! The log as a whole: from `tracing`'s macros to the descriptor, through pipes in place of stderr.

use super::*;
use std::collections::HashSet;
use std::io::{BufRead, BufReader, PipeReader, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use tracing::Dispatch;
use tracing::dispatcher::with_default;

const JSON: LogOptions = LogOptions {
    format: LogFormat::Json,
    level: LevelFilter::INFO,
    queue: 1024,
};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// A log into a pipe.
fn piped(options: LogOptions) -> (Dispatch, LogHandle, PipeReader) {
    let (reader, writer) = std::io::pipe().unwrap();
    let (subscriber, handle) = start(options, File::from(OwnedFd::from(writer))).unwrap();
    (Dispatch::new(subscriber), handle, reader)
}

fn all_of(mut reader: PipeReader) -> String {
    let mut all = String::new();
    reader.read_to_string(&mut all).unwrap();
    all
}

#[test]
fn what_was_logged_before_a_flush_is_written_after_it() {
    let (dispatch, handle, reader) = piped(JSON);
    with_default(&dispatch, || {
        tracing::info!(route = "/", "first");
        tracing::warn!("second");
    });
    assert!(handle.flush(soon()));
    assert!(handle.shutdown(soon()));
    let all = all_of(reader);
    let messages: Vec<_> = all
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["message"].clone())
        .collect();
    assert_eq!(messages, ["first", "second"]);
    assert_eq!(handle.dropped(), 0);
}

#[test]
fn levels_below_the_chosen_one_are_not_logged_and_spans_are_ignored() {
    let (dispatch, handle, reader) = piped(LogOptions {
        level: LevelFilter::WARN,
        ..JSON
    });
    with_default(&dispatch, || {
        let span = tracing::error_span!("request", id = 1);
        let _entered = span.enter();
        span.record("id", 2);
        tracing::info!("quiet");
        tracing::warn!("loud");
    });
    assert!(handle.shutdown(soon()));
    let all = all_of(reader);
    assert_eq!(all.lines().count(), 1, "{all}");
    assert!(all.contains("loud"));
}

#[test]
fn a_level_of_off_logs_nothing() {
    let (dispatch, handle, reader) = piped(LogOptions {
        level: LevelFilter::OFF,
        ..JSON
    });
    with_default(&dispatch, || tracing::error!("quiet"));
    assert!(handle.shutdown(soon()));
    assert_eq!(all_of(reader), "");
}

#[test]
fn auto_means_json_where_nobody_watches() {
    let (dispatch, handle, reader) = piped(LogOptions {
        format: LogFormat::Auto,
        ..JSON
    });
    with_default(&dispatch, || tracing::info!("m"));
    assert!(handle.shutdown(soon()));
    assert!(all_of(reader).starts_with("{\"time\":\"20"));
}

#[test]
fn a_full_queue_drops_counts_and_says_so_later() {
    let (dispatch, handle, reader) = piped(LogOptions { queue: 8, ..JSON });
    // The pipe is not read yet: once it is full, a flush cannot succeed, and the queue fills, too.
    let mut logged = 0;
    let deadline = soon();
    let mut log = |lines| {
        assert!(Instant::now() < deadline, "{logged} lines did not suffice");
        with_default(&dispatch, || {
            (0..lines).for_each(|_| tracing::info!("{}", "x".repeat(800)));
        });
        logged += lines;
    };
    while handle.flush(Instant::now() + Duration::from_millis(20)) {
        log(8);
    }
    while handle.dropped() < 100 {
        log(8);
    }

    let reading = thread::spawn(move || all_of(reader));
    assert!(handle.shutdown(soon()));
    let (mut written, mut reported) = (0, 0);
    for line in reading.join().unwrap().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        match line.get("dropped") {
            Some(lines) => {
                assert_eq!(line["message"], format!("{lines} log lines dropped"));
                reported += lines.as_u64().unwrap();
            }
            None => written += 1,
        }
    }
    assert_eq!(reported, handle.dropped());
    assert_eq!(written + reported, logged);
}

#[test]
fn every_line_of_many_threads_arrives_whole_and_once() {
    const THREADS: usize = 8;
    const LINES: usize = 1_000;
    let (dispatch, handle, reader) = piped(LogOptions {
        queue: THREADS * LINES,
        ..JSON
    });
    let reading = thread::spawn(move || all_of(reader));
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let dispatch = &dispatch;
            scope.spawn(move || {
                with_default(dispatch, || {
                    (0..LINES).for_each(|line| tracing::info!(thread, line, "m"));
                });
            });
        }
    });
    assert!(handle.shutdown(soon()));
    let all = reading.join().unwrap();
    let seen: HashSet<_> = all
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|line| (line["thread"].as_u64(), line["line"].as_u64()))
        .collect();
    assert_eq!(
        (all.lines().count(), seen.len()),
        (THREADS * LINES, THREADS * LINES)
    );
}

#[test]
fn a_line_after_silence_wakes_the_writer() {
    let (dispatch, handle, reader) = piped(JSON);
    let mut reader = BufReader::new(reader);
    let (asker, asked) = mpsc::channel();
    let (answerer, answers) = mpsc::channel();
    thread::spawn(move || {
        while asked.recv().is_ok() {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            answerer.send(line).unwrap();
        }
    });
    with_default(&dispatch, || {
        for round in 0..20 {
            tracing::info!(round, "m");
            asker.send(()).unwrap();
            let line = answers.recv_timeout(Duration::from_secs(10));
            line.unwrap_or_else(|_| panic!("line {round} did not wake the writer"));
            // Long enough for the nap to end and the writer to sleep, on most rounds.
            let silence_ends = Instant::now() + Duration::from_millis(3);
            while Instant::now() < silence_ends {
                thread::yield_now();
            }
        }
    });
    assert!(handle.shutdown(soon()));
}

#[test]
fn a_sink_that_nobody_will_ever_read_costs_lines_and_not_the_process() {
    let (dispatch, handle, reader) = piped(JSON);
    drop(reader);
    with_default(&dispatch, || tracing::info!("m"));
    assert!(handle.flush(soon()));
    assert_eq!(handle.dropped(), 1);
    assert!(handle.shutdown(soon()));
}

#[test]
fn a_descriptor_that_others_made_non_blocking_loses_nothing() {
    const LINES: usize = 400;
    let (reader, writer) = std::io::pipe().unwrap();
    // SAFETY: `writer` is an open descriptor, and F_SETFL takes an int.
    let set = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    assert_eq!(set, 0);
    let (subscriber, handle) = start(JSON, File::from(OwnedFd::from(writer))).unwrap();
    with_default(&Dispatch::new(subscriber), || {
        (0..LINES).for_each(|line| tracing::info!(line, "{}", "x".repeat(800)));
    });
    // More than a pipe holds: the writer has to wait.
    assert!(!handle.flush(Instant::now() + Duration::from_millis(20)));
    let reading = thread::spawn(move || all_of(reader));
    assert!(handle.shutdown(soon()));
    assert_eq!(reading.join().unwrap().lines().count(), LINES);
    assert_eq!(handle.dropped(), 0);
}

#[test]
fn after_a_shutdown_lines_are_counted_and_nothing_waits() {
    let (dispatch, handle, _reader) = piped(JSON);
    assert!(handle.shutdown(soon()));
    with_default(&dispatch, || tracing::info!("too late"));
    assert_eq!(handle.dropped(), 1);
    assert!(handle.flush(soon()));
    assert!(handle.shutdown(soon()));
}

#[test]
fn a_queue_without_a_place_is_refused_with_a_sentence() {
    let (_reader, writer) = std::io::pipe().unwrap();
    let error = start(
        LogOptions { queue: 0, ..JSON },
        File::from(OwnedFd::from(writer)),
    )
    .err()
    .unwrap();
    assert_eq!(
        error.to_string(),
        "the log's queue cannot hold 0 records: choose 1 to 1048576"
    );
}

#[test]
fn the_memory_of_a_log_is_known_before_it_starts() {
    const BYTES: usize = memory_bytes(1024);
    let (_dispatch, handle, _reader) = piped(JSON);
    assert_eq!(handle.memory_bytes(), BYTES);
}
