//! The writer thread takes records from the queue and writes them to a descriptor, many lines with one
//! `write(2)`.
//!
//! It alone may wait for a slow disk or a full pipe. It allocates nothing once it runs.

use super::batch::Batch;
use super::line::LINE_BYTES_MAX;
use super::queue::Queue;
use super::record::Record;
use super::style::{Style, render, render_dropped};
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::Thread;
use transom_doors::start_thread;

/// Formatting a line takes a few KiB; the rest is for the standard library's own.
pub(crate) const STACK_BYTES: usize = 128 * 1024;

/// Starts the thread, which ends when the queue is closed.
pub(super) fn spawn(queue: Arc<Queue<Record>>, sink: File, style: Style) -> io::Result<Thread> {
    let mut writer = Writer {
        batch: Batch::new(),
        queue,
        sink,
        style,
        reported: 0,
    };
    let handle = start_thread("log", STACK_BYTES, move || writer.run())?;
    Ok(handle.thread().clone())
}

struct Writer {
    queue: Arc<Queue<Record>>,
    sink: File,
    style: Style,
    batch: Batch,
    /// Of the lines that were dropped, how many a line of the log has told of.
    reported: u64,
}

impl Writer {
    fn run(&mut self) {
        block_signals();
        loop {
            let round = self.queue.begin_round();
            let wrote = self.write_round();
            self.queue.end_round(round);
            if round.closing {
                break;
            }
            if wrote {
                self.queue.nap();
            } else {
                self.queue.sleep(round, self.reported);
            }
        }
        self.queue.finish();
    }

    /// Writes what is in the queue, and whether lines are missing. False if there was nothing to write.
    fn write_round(&mut self) -> bool {
        let queue = Arc::clone(&self.queue);
        let mut wrote = queue.drain(|record| {
            self.make_room();
            render(&record.line(), self.style, &mut self.batch);
        }) > 0;
        let dropped = queue.dropped();
        if dropped != self.reported {
            self.make_room();
            render_dropped(dropped - self.reported, self.style, &mut self.batch);
            self.reported = dropped;
            wrote = true;
        }
        self.write_batch();
        wrote
    }

    fn make_room(&mut self) {
        if !self.batch.has_room_for(LINE_BYTES_MAX) {
            self.write_batch();
        }
    }

    /// Writes the batch. Lines that could not be written are counted as dropped, but not reported: there is
    /// nowhere to.
    fn write_batch(&mut self) {
        match write_all(&self.sink, self.batch.as_bytes()) {
            Ok(()) => self.batch.clear(),
            Err(Cut { written }) => {
                self.queue.count_dropped(self.batch.keep_cut_line(written));
                self.reported = self.queue.dropped();
            }
        }
    }
}

/// The sink takes no more after so many bytes.
struct Cut {
    written: usize,
}

/// Writes all of `bytes`, and waits where others made the descriptor non-blocking: it is shared with them.
fn write_all(mut sink: &File, bytes: &[u8]) -> Result<(), Cut> {
    let mut written = 0;
    while written < bytes.len() {
        match sink.write(&bytes[written..]) {
            Ok(0) => return Err(Cut { written }),
            Ok(len) => written += len,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                wait_writable(sink).map_err(|_gone| Cut { written })?;
            }
            Err(_gone) => return Err(Cut { written }),
        }
    }
    Ok(())
}

fn wait_writable(sink: &File) -> io::Result<()> {
    let mut poll = libc::pollfd {
        fd: sink.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: `poll` is one valid pollfd, and outlives the call.
    let ready = unsafe { libc::poll(&raw mut poll, 1, -1) };
    match io::Error::last_os_error() {
        error if ready < 0 && error.kind() != ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}

/// Keeps signals for the threads that expect them.
pub(crate) fn block_signals() {
    // SAFETY: a zeroed sigset_t is valid memory for `sigfillset` to initialise, and `pthread_sigmask` reads
    // it and changes only the calling thread's mask. Neither can fail with these arguments.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
    }
}
