//! The lists that connections stand in, by what they wait for.

/// No entry.
pub(super) const NONE: u32 = u32::MAX;

/// The lists. Each but `Waiting` is one timeout. What stands for slots is listed by doorway, so that one
/// whose slots are all in use does not hold up requests for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum List {
    None,
    Idle,
    Header,
    /// A whole head in a buffer, and a body that fits it and is not all there yet.
    SmallBody,
    /// A body that is being read into a slot of that doorway.
    Body(u16),
    /// For a slot of that doorway; expires by the queue timeout.
    Waiting(u16),
    /// In a slot, perhaps unclaimed; expires by the queue timeout.
    Submitted,
    Deadline,
    /// An answer of ours that the socket had no room for.
    Answer,
    /// The same, and the connection has a buffer with what its client has sent ahead.
    AnswerAhead,
    Linger,
    /// An answer from a slot of that doorway that its client is slow to take.
    Write(u16),
}

/// Lists that there is one of.
pub(super) const SINGLE_LISTS: usize = 8;

/// Lists that each doorway has of its own.
pub(super) const DOORWAY_LISTS: usize = 3;

impl List {
    /// Its place among the ends; `None` for no list.
    pub(super) fn number(self) -> Option<usize> {
        let of_doorway = |doorway: u16, n| SINGLE_LISTS + usize::from(doorway) * DOORWAY_LISTS + n;
        Some(match self {
            List::None => return None,
            List::Idle => 0,
            List::Header => 1,
            List::SmallBody => 2,
            List::Submitted => 3,
            List::Deadline => 4,
            List::Answer => 5,
            List::AnswerAhead => 6,
            List::Linger => 7,
            List::Body(doorway) => of_doorway(doorway, 0),
            List::Waiting(doorway) => of_doorway(doorway, 1),
            List::Write(doorway) => of_doorway(doorway, 2),
        })
    }
}

/// Where an entry stands.
#[derive(Debug)]
pub(super) struct Link {
    pub list: List,
    pub prev: u32,
    pub next: u32,
    /// When its list's timeout strikes, in milliseconds of the loop's clock.
    pub due_ms: u64,
}

impl Default for Link {
    fn default() -> Self {
        Link {
            list: List::None,
            prev: NONE,
            next: NONE,
            due_ms: 0,
        }
    }
}
