//! What a loop keeps for the access log: beside each connection, what a line needs of its present request.

use transom_log::access::{AccessLog, AccessRecord};

/// What an access log keeps of a connection.
pub const ACCESS_ENTRY_SIZE: usize = size_of::<AccessEntry>();

/// What is known of a connection's present request.
#[derive(Clone)]
pub(super) struct AccessEntry {
    pub(super) record: AccessRecord,
    /// There is a request, and no line for it yet.
    pub(super) begun: bool,
    /// Its head has been read, so that the record says whom it is from.
    pub(super) peer_known: bool,
    /// On the loop's clock, in nanoseconds, 0 for none: when its first byte was there, and since when it
    /// waits for a slot.
    pub(super) arrived_ns: u64,
    pub(super) waits_since_ns: u64,
    pub(super) waited_ns: u64,
}

impl AccessEntry {
    pub(super) fn clear(&mut self) {
        self.record.clear();
        self.begun = false;
        self.peer_known = false;
        self.arrived_ns = 0;
        self.waits_since_ns = 0;
        self.waited_ns = 0;
    }

    pub(super) fn end_wait(&mut self, now_ns: u64) {
        if self.waits_since_ns != 0 {
            self.waited_ns += now_ns - self.waits_since_ns;
            self.waits_since_ns = 0;
        }
    }
}

/// A loop's part of an access log.
pub(super) struct Access {
    pub(super) log: AccessLog,
    /// By connection.
    pub(super) entries: Box<[AccessEntry]>,
}

impl Access {
    pub(super) fn entry(&mut self, index: u32) -> &mut AccessEntry {
        &mut self.entries[index as usize]
    }
}
