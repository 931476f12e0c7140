//! The access log: one line for each request, in one of two formats, to a file or to standard output.
//!
//! A loop that has answered a request writes a record of fixed size into a bounded queue, and one thread
//! makes lines of them: as the log does, with the same queue. A loop never waits for that thread; what finds
//! no place in the queue is dropped and counted. All memory is there from the start: [`memory_bytes`] says
//! how much.

mod format;
mod record;
mod writer;

pub(crate) use record::{Diagnostic, Record};
pub(crate) use writer::open;

use crate::log::{self, BATCH_BYTES, Queue};
use format::{Format, Names};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use transom_wire::own_log::is_time_to_say;

/// How often the log says that lines were dropped, at most.
const SAY_AGAIN_MS: u64 = 1000;

/// A thread starts within microseconds, on a crowded machine within milliseconds.
const FIRST_ROUND_PATIENCE: Duration = Duration::from_secs(10);

/// Bytes that an access log with a queue of `queue` records takes for good: the queue, the writer's buffer
/// and its stack.
pub(crate) const fn memory_bytes(queue: usize) -> usize {
    /// The queue's own fields, the names of forwards and doors, and the thread's guard page.
    const FIXED_BYTES: usize = 16 * 1024;

    Queue::<Record>::memory_bytes(queue) // waiting for the writer
        + BATCH_BYTES                    // on their way out
        + log::STACK_BYTES               // the writer thread
        + FIXED_BYTES
}

/// What a line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Apache's combined format, and behind it what that does not have.
    Combined,
    /// One JSON object per line.
    Json,
}

/// How to log requests.
pub(crate) struct AccessOptions {
    /// What a line looks like.
    pub style: Style,
    /// Records that may wait for the writer thread; not 0.
    pub queue: usize,
    /// Where lines go.
    pub sink: File,
    /// Where to open the sink anew, if it is a file of ours.
    pub path: Option<CString>,
    /// What the numbers of forwards mean.
    pub forwards: Vec<String>,
    /// What the numbers of doorways mean; empty if the only door is in this process.
    pub doors: Vec<String>,
}

/// What loops, the writer thread and the handles share.
struct Shared {
    queue: Queue<Record>,
    /// The file is to be opened anew.
    reopen: AtomicBool,
    /// Lines that the writer has made, and not written yet.
    in_hand: AtomicU64,
    /// When the log last said that lines were dropped, on the loops' clock; 0: it has not.
    said_ms: AtomicU64,
    /// When it last said that the file takes none.
    refused_ms: AtomicU64,
}

/// A running access log. Clones are handles of the same one.
#[derive(Clone)]
pub(crate) struct AccessLog(Arc<Shared>);

/// Starts an access log: it allocates, and starts a thread, which blocks all signals for itself.
///
/// # Errors
/// The system has no room for a thread.
pub(crate) fn start(options: AccessOptions) -> io::Result<AccessLog> {
    let shared = Arc::new(Shared {
        queue: Queue::new(options.queue),
        reopen: AtomicBool::new(false),
        in_hand: AtomicU64::new(0),
        said_ms: AtomicU64::new(0),
        refused_ms: AtomicU64::new(0),
    });
    let format = Format {
        style: options.style,
        forwards: Names::new(&options.forwards, options.style),
        doors: Names::new(&options.doors, options.style),
    };
    let thread = writer::spawn(shared.clone(), options.sink, options.path, format)?;
    shared.queue.set_writer(thread);
    // Once it has done a round, what the standard library allocates for a thread is behind us.
    shared.queue.flush(Instant::now() + FIRST_ROUND_PATIENCE);
    Ok(AccessLog(shared))
}

impl AccessLog {
    /// Takes a record to the writer thread, or drops and counts it: no allocation, no lock, no waiting.
    pub(crate) fn submit(&self, record: &Record, now_ms: u64) {
        if !self.0.queue.submit(record) {
            self.0.say_dropped(now_ms);
        }
    }

    /// Has the writer open its file anew, as logrotate(8) wants it after it has renamed the old one.
    pub(crate) fn reopen(&self) {
        self.0.reopen.store(true, Ordering::SeqCst);
        self.0.queue.ring();
    }

    /// Lines that found the queue full.
    pub(crate) fn dropped(&self) -> u64 {
        self.0.queue.dropped()
    }

    /// Writes what is in the queue, and ends the log. Returns the lines that were dropped in all; those that
    /// are not written when `deadline` comes, because nobody takes them, are among them.
    pub(crate) fn shutdown(&self, deadline: Instant) -> u64 {
        let queue = &self.0.queue;
        queue.close();
        if queue.wait_finished(deadline) {
            return queue.dropped();
        }
        queue.dropped() + queue.waiting() as u64 + self.0.in_hand.load(Ordering::SeqCst)
    }

    /// As [`AccessLog::shutdown`], within a second.
    pub(crate) fn end(&self) -> u64 {
        self.shutdown(Instant::now() + Duration::from_secs(1))
    }
}

impl Shared {
    /// Says that lines were dropped, unless that was said just now.
    fn say_dropped(&self, now_ms: u64) {
        if is_time_to_say(&self.said_ms, now_ms, SAY_AGAIN_MS) {
            transom_wire::own_log::warn!(
                dropped = self.queue.dropped(),
                "lines of the access log are dropped: they are not taken as fast as requests come (--access-log-queue)"
            );
        }
    }

    /// Says that lines are dropped because they cannot be written, unless that was said just now.
    fn say_refused(&self, error: &io::Error, now_ms: u64) {
        if is_time_to_say(&self.refused_ms, now_ms, SAY_AGAIN_MS) {
            // Not the error's own sentence: to make that, the standard library allocates.
            let why = match error.raw_os_error() {
                Some(libc::ENOSPC) => "there is no space left on its disk",
                Some(libc::EDQUOT) => "its quota of the disk is used up",
                Some(libc::EFBIG) => "its file is as large as files may be (`ulimit -f`)",
                Some(libc::EPIPE) => "nobody reads its pipe any more",
                Some(libc::EIO) => "its disk has failed to write",
                Some(libc::EROFS) => "its disk cannot be written to any more",
                _ => "it cannot be written",
            };
            transom_wire::own_log::warn!(
                why,
                os_error = error.raw_os_error(),
                dropped = self.queue.dropped(),
                "lines of the access log are dropped (--access-log-file)"
            );
        }
    }
}

#[cfg(test)]
mod tests;
