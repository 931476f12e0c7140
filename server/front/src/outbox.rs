//! What waits to be sent on a connection, and how its client takes it.

use transom_net::pace::Pace;

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
    /// How fast the client takes what it is sent (see `front::slow`): counted on from when it had taken all,
    /// whatever else happens on the connection. How many bytes of all it had taken at the last look; and how
    /// many it has to have taken for all of its time to begin anew.
    pub pace: Pace,
    pub taken: u64,
    pub mark: u64,
    /// When it was looked last, in milliseconds that wrap: before an answer, and because others wanted the
    /// connection's place.
    pub renewed_ms: u32,
    pub looked_ms: u32,
}

/// Answers that have been put aside, to be sent with the next one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gathered {
    /// Which place of the loop's has them.
    pub place: u8,
    /// How many bytes.
    pub len: u16,
}
