//! What waits to be sent on a connection, and how its client takes it.

use transom_net::pace::{Pace, PaceLimit};

/// What waits to be sent beside the answer that is being written, and how the client takes what it is sent.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Answers that have been put aside, to be sent with the next one.
    pub gathered: Option<Gathered>,
    /// Since when answers have been put aside, or the end of one may be with the kernel, to be sent with the
    /// next answer; 0: nothing waits for that.
    pub held_since_ns: u64,
    /// The entry stands in the queue of those that hold something.
    pub in_held: bool,
    /// How fast the client takes an answer (see `front::slow`), and how many bytes of all it had taken at the
    /// last look.
    pub pace: Pace,
    pub taken: u64,
    /// When that look was, in milliseconds, if others wanted the connection's place; 0: there was none.
    pub looked_ms: u64,
}

impl Outbox {
    /// From now on the client has its time to take what is with the kernel, and that is all.
    pub(crate) fn wait_for_taker(&mut self, limit: PaceLimit, now_ns: u64) {
        self.pace.begin(limit, now_ns);
        self.looked_ms = 0;
    }
}

/// Answers that have been put aside, to be sent with the next one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gathered {
    /// Which place of the loop's has them.
    pub place: u8,
    /// How many bytes.
    pub len: u16,
}
