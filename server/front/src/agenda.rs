//! What a loop has to do before it sleeps, and connections that it has to look at again.

use crate::memory::touched;
use std::collections::VecDeque;

/// The most connections that are not watched.
pub(crate) const UNWATCHED_MAX: usize = 256;

/// What a loop's queues have for each connection: it may stand in one as ready, in the other as holding
/// something.
pub const QUEUE_ENTRY_SIZE: usize = size_of::<u32>() + size_of::<(u32, u64)>();

/// What a loop has to do.
pub(crate) struct Agenda {
    /// Connections with something to do that no event will tell of.
    pub ready: VecDeque<u32>,
    /// Connections whose last answer may not have been sent, and since when. (An entry of the table stands
    /// here once, and stays when its connection is closed.)
    pub held: VecDeque<(u32, u64)>,
    /// Connections that may not be watched yet, in the order in which they came. (One may stand here that has
    /// been closed, or twice, if another has taken its entry since.)
    pub unwatched: Vec<u32>,
    /// The connection whose turn it is to have a slot, though others wait.
    pub granted: Option<u32>,
    /// Something was done that lets waiting requests go on, so look before sleeping.
    pub again: bool,
    /// The loop's doorbell has rung: the opener may have brought something.
    pub mail: bool,
    /// When the first timer strikes of those that ran before the last sleep.
    pub timer_ms: u64,
    /// Sleeps in a row that brought nothing.
    pub quiet: u32,
}

impl Agenda {
    /// An empty one, of a loop with so many connections.
    pub(crate) fn new(connections: u32) -> Self {
        let entries = connections as usize + 1;
        Agenda {
            ready: touched(entries).into(),
            held: touched(entries).into(),
            unwatched: touched(UNWATCHED_MAX),
            granted: None,
            again: false,
            mail: false,
            timer_ms: 0,
            quiet: 0,
        }
    }
}
