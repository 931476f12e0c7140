//! A call as its caller names it, what becomes of it, and what comes back.

use crate::values::descriptors::Descriptors;
use crate::values::status::Status;

/// What came back.
#[derive(Debug)]
pub struct Reply {
    /// Bytes of the reply, at the start of the caller's buffer.
    pub len: usize,
    /// [`Status::OK`], or the application's word.
    pub status: Status,
    /// Descriptors that came along.
    pub descriptors: Descriptors,
}

/// The turn has come back after an interim reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// Bytes that the client has put into the request slot in the meantime; 0 if it has only
    /// consumed the reply.
    pub request_len: usize,
}

/// One use of one slot. A stale one, kept after the slot was freed, is refused with a panic: it is
/// the caller's own bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl SlotId {
    /// The id of a slot of another kind of caller, such as one that simulates a door.
    pub const fn new(index: u32, generation: u32) -> Self {
        SlotId { index, generation }
    }

    /// The slot's index in its channel: dense, for tables beside the channel.
    pub fn index(self) -> usize {
        self.index as usize
    }

    /// Which use of the slot this is.
    pub fn generation(self) -> u32 {
        self.generation
    }
}

/// What became of an attempt to take a call back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdraw {
    /// No thread had claimed it, and none will: the slot is being filled again.
    Withdrawn,
    /// A thread has claimed it: it may have run.
    Claimed,
}

/// Which kind of reply `drain` has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The call has ended.
    Final,
    /// The call has ended without a reply, on a thread that never runs again. Its slot is lost with it: other
    /// threads may use what the handler has lent them of it for as long as the server's process lives, so it
    /// is never used for another call, and nothing is read from it. A spare slot takes its place, as long as
    /// there is one.
    Lost,
    /// A piece, with the application's word for it; the server waits for `resume`.
    Interim(u32),
}

/// A reply that can be read with [`AsyncClient::reply`](crate::AsyncClient::reply).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// How the call ended; [`Status::OK`] for an interim reply.
    pub status: Status,
    /// Bytes of the reply.
    pub len: usize,
    /// Final, lost, or a piece.
    pub kind: Kind,
}
