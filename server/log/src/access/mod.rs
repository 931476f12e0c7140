//! The access log: one line for each request, in one of two formats, to a file or to standard output.
//!
//! A loop that has answered a request writes a record of fixed size into a bounded queue, and one thread
//! makes lines of them: as the log does, with the same queue. A loop never waits for that thread; what finds
//! no place in the queue is dropped and counted. All memory is there from the start: [`memory_bytes`] says
//! how much.

mod format;
mod record;
mod shared;
mod writer;

pub use record::{AccessRecord, Diagnostic};
pub use writer::open;

use crate::{BATCH_BYTES, Queue, STACK_BYTES};
pub use format::AccessStyle;
use format::{Format, Names};
use shared::Shared;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A thread starts within microseconds, on a crowded machine within milliseconds.
const FIRST_ROUND_PATIENCE: Duration = Duration::from_secs(10);

/// Bytes that an access log with a queue of `queue` records takes for good: the queue, the writer's buffer
/// and its stack.
pub const fn memory_bytes(queue: usize) -> usize {
    /// The queue's own fields, the names of forwards and doors, and the thread's guard page.
    const FIXED_BYTES: usize = 16 * 1024;

    Queue::<AccessRecord>::memory_bytes(queue) // waiting for the writer
        + BATCH_BYTES                    // on their way out
        + STACK_BYTES               // the writer thread
        + FIXED_BYTES
}

/// How to log requests.
pub struct AccessOptions {
    /// What a line looks like.
    pub style: AccessStyle,
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

/// A running access log. Clones are handles of the same one.
#[derive(Clone)]
pub struct AccessLog(Arc<Shared>);

/// Starts an access log: it allocates, and starts a thread, which blocks all signals for itself.
///
/// # Errors
/// The system has no room for a thread.
pub fn start(options: AccessOptions) -> io::Result<AccessLog> {
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
    // Once it has done a round, the standard library has made its allocations for a thread.
    shared.queue.flush(Instant::now() + FIRST_ROUND_PATIENCE);
    Ok(AccessLog(shared))
}

impl AccessLog {
    /// Takes a record to the writer thread, or drops and counts it: no allocation, no lock, no waiting.
    #[inline]
    pub fn submit(&self, record: &AccessRecord, now_ms: u64) {
        if !self.0.queue.submit(record) {
            self.0.say_dropped(now_ms);
        }
    }

    /// Makes the writer open its file anew, as logrotate(8) wants it after it has renamed the old one.
    pub fn reopen(&self) {
        self.0.reopen.store(true, Ordering::SeqCst);
        self.0.queue.ring();
    }

    /// Lines that found the queue full.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.queue.dropped()
    }

    /// Writes what is in the queue, and ends the log. Returns the lines that were dropped in all; those that
    /// are not written when `deadline` comes, because they are not taken, are among them.
    pub fn shutdown(&self, deadline: Instant) -> u64 {
        let queue = &self.0.queue;
        queue.close();
        if queue.wait_finished(deadline) {
            return queue.dropped();
        }
        queue.dropped() + queue.waiting() as u64 + self.0.in_hand.load(Ordering::SeqCst)
    }

    /// As [`AccessLog::shutdown`], within a second.
    pub fn end(&self) -> u64 {
        self.shutdown(Instant::now() + Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests;
