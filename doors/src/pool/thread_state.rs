//! What belongs to one door server thread.

use std::sync::atomic::{AtomicU64, AtomicUsize};

use crate::memory::table::Presence;
use crate::rules::sync::{AtomicU32, Ordering};
use crate::values::status::Status;

/// What belongs to one thread alone, on its own cache lines, where an emergency reply can reach it
/// too.
#[derive(Debug, Default)]
pub struct ThreadState {
    /// Completions of the channel of the last call that are not published yet: bits of a word, and which.
    pub kept: AtomicU64,
    pub kept_word: AtomicU32,
    /// Completions that were published and that a lazy client has not been told of.
    pub unreported: AtomicU32,
    pub presence: Presence,
    /// The channel to another process by which its call came, or its last one; 0: none.
    pub holding: AtomicU64,
    /// Where the channel of its call, or of its last one, lies, to be compared with those of the table;
    /// 0: none.
    pub channel: AtomicUsize,
    /// The slot of that call.
    pub slot: AtomicU32,
    /// Calls taken up; for a moment one more, while the thread looks for one.
    pub claimed: AtomicU64,
    pub served: AtomicU64,
    pub faulted: AtomicU64,
}

impl ThreadState {
    /// Counts a completed call. Only the thread itself writes, so no read-modify-write is needed.
    pub fn count(&self, status: Status) {
        self.served
            .store(self.served.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        if status == Status::FAULT {
            self.faulted
                .store(self.faulted.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
    }
}
