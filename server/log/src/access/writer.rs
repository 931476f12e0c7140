//! The writer thread of the access log. It alone may wait for a slow disk or a full pipe. It allocates
//! nothing once it runs.

use super::format::{Format, LINE_BYTES_MAX};
use super::shared::Shared;
use crate::{Batch, STACK_BYTES, block_signals, newlines};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::Thread;
use transom_doors::{Words, start_thread};

/// The file's mode: other users may not read addresses and paths.
const MODE: libc::c_uint = 0o640;

/// How long the writer waits for a full pipe before it looks whether the file is to be opened anew.
const LOOK_AGAIN_MS: libc::c_int = 100;

/// Opens an access log's file to append to it, and makes it if it is not there. Allocates nothing.
///
/// # Errors
/// Those of open(2). ENXIO means that it is a pipe with a name, and that no process reads it.
pub fn open(path: &CStr) -> io::Result<File> {
    // Not blocking: a pipe that takes no more must not keep the thread from opening the next file, nor a
    // start from failing.
    let flags = libc::O_WRONLY
        | libc::O_APPEND
        | libc::O_CREAT
        | libc::O_NONBLOCK
        | libc::O_NOCTTY
        | libc::O_CLOEXEC;
    // SAFETY: the path ends with NUL; the call reads it and nothing else of ours.
    let fd = unsafe { libc::open(path.as_ptr(), flags, MODE) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, and not known elsewhere.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Starts the thread, which ends when the queue is closed.
pub(super) fn spawn(
    shared: Arc<Shared>,
    sink: File,
    path: Option<CString>,
    format: Format,
) -> io::Result<Thread> {
    let mut writer = AccessWriter {
        shared,
        sink,
        path,
        format,
        batch: Batch::new(),
    };
    let handle = start_thread("access-log", STACK_BYTES, move || writer.run())?;
    Ok(handle.thread().clone())
}

struct AccessWriter {
    shared: Arc<Shared>,
    sink: File,
    path: Option<CString>,
    format: Format,
    batch: Batch,
}

impl AccessWriter {
    fn run(&mut self) {
        block_signals();
        let shared = self.shared.clone();
        let queue = &shared.queue;
        loop {
            let round = queue.begin_round();
            self.write_batch(); // the rest of a line that was cut belongs to the old file
            if self.reopen_if_asked() && self.batch.forget_cut_line() {
                queue.count_dropped(1);
            }
            let records = queue.drain(|record| {
                if !self.batch.has_room_for(LINE_BYTES_MAX) {
                    self.write_batch();
                }
                self.format.render(record, &mut self.batch);
                shared.in_hand.store(self.batch.lines(), Ordering::SeqCst);
            });
            self.write_batch();
            queue.end_round(round);
            if round.closing {
                queue.count_dropped(self.batch.lines()); // the rest of one that the file has not taken
                break;
            }
            if records > 0 {
                queue.nap();
            } else {
                queue.sleep(round, queue.dropped());
            }
        }
        queue.finish();
    }

    /// Opens the file anew, if that is wanted; whether it did. If it cannot, the old one stays.
    fn reopen_if_asked(&mut self) -> bool {
        if !self.shared.reopen.swap(false, Ordering::SeqCst) {
            return false;
        }
        let Some(path) = &self.path else {
            return false;
        };
        match open(path) {
            Ok(file) => {
                self.sink = file;
                true
            }
            Err(error) => {
                transom_wire::own_log::error!(
                    path = ?path,
                    error = %Words(&error),
                    "the access log cannot be opened anew, and goes on in its old file (--access-log-file)"
                );
                false
            }
        }
    }

    /// Writes the batch. Lines that could not be written are counted as dropped.
    fn write_batch(&mut self) {
        let (mut written, mut refused) = (0, None);
        while written < self.batch.as_bytes().len() {
            match self.sink.write(&self.batch.as_bytes()[written..]) {
                Ok(0) => {
                    refused = Some(ErrorKind::WriteZero.into());
                    break;
                }
                Ok(len) => written += len,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let left = newlines(&self.batch.as_bytes()[written..]);
                    self.shared.in_hand.store(left, Ordering::SeqCst);
                    if self.reopen_if_asked() {
                        // The line of which the old file has a part cannot go on in the new one.
                        let rest = self.batch.rest_of_line(written);
                        self.shared.queue.count_dropped(u64::from(rest > 0));
                        written += rest;
                    } else if let Err(error) = wait_writable(&self.sink) {
                        refused = Some(error);
                        break;
                    }
                }
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            }
        }
        match refused {
            None => self.batch.clear(),
            Some(error) => {
                let lost = self.batch.keep_cut_line(written);
                self.shared.queue.count_dropped(lost);
                self.shared
                    .say_refused(&error, transom_doors::now_ns() / 1_000_000);
            }
        }
        let in_hand = self.batch.lines();
        self.shared.in_hand.store(in_hand, Ordering::SeqCst);
    }
}

/// Waits until the sink takes something, for a while.
fn wait_writable(sink: &File) -> io::Result<()> {
    let mut poll = libc::pollfd {
        fd: sink.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: `poll` is one valid pollfd, and outlives the call.
    let ready = unsafe { libc::poll(&raw mut poll, 1, LOOK_AGAIN_MS) };
    match io::Error::last_os_error() {
        error if ready < 0 && error.kind() != ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}
