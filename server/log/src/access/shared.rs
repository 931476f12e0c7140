//! What loops, the writer thread and the handles of an access log share, and how they report lost lines.

use super::record::AccessRecord;
use crate::Queue;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64};
use transom_wire::own_log::is_time_to_say;

/// How often the log says that lines were dropped, at most.
const SAY_AGAIN_MS: u64 = 1000;

/// What loops, the writer thread and the handles share.
pub(super) struct Shared {
    pub(super) queue: Queue<AccessRecord>,
    /// The file is to be opened anew.
    pub(super) reopen: AtomicBool,
    /// Lines that the writer has made, and not written yet.
    pub(super) in_hand: AtomicU64,
    /// When the log last said that lines were dropped, on the loops' clock; 0: it has not.
    pub(super) said_ms: AtomicU64,
    /// When it last said that the file takes none.
    pub(super) refused_ms: AtomicU64,
}

impl Shared {
    /// Says that lines were dropped, unless that was said just now.
    pub(super) fn say_dropped(&self, now_ms: u64) {
        if is_time_to_say(&self.said_ms, now_ms, SAY_AGAIN_MS) {
            transom_wire::own_log::warn!(
                dropped = self.queue.dropped(),
                "lines of the access log are dropped: they are not taken as fast as requests come (--access-log-queue)"
            );
        }
    }

    /// Says that lines are dropped because they cannot be written, unless that was said just now.
    pub(super) fn say_refused(&self, error: &io::Error, now_ms: u64) {
        if is_time_to_say(&self.refused_ms, now_ms, SAY_AGAIN_MS) {
            // Not the error's own sentence: to make that, the standard library allocates.
            let why = match error.raw_os_error() {
                Some(libc::ENOSPC) => "there is no space left on its disk",
                Some(libc::EDQUOT) => "its quota of the disk is used up",
                Some(libc::EFBIG) => "its file is as large as files may be (`ulimit -f`)",
                Some(libc::EPIPE) => "no process reads its pipe any more",
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
