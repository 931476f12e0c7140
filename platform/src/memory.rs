//! [`Memory`]: how much of its bucket a request has used, and how much is left.

/// What a request has of its bucket's arena, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// In use now, alignment included.
    pub used: usize,
    /// What is left, in one piece or in several: where something is kept in the middle, one allocation may
    /// find less.
    pub free: usize,
    /// The most that was in use at once since the request began. A bucket needs more than that, because what
    /// is freed may lie in holes: its size follows from the last lines of the log, or from `transom plan`.
    pub high_water: usize,
}

impl Memory {
    /// Bytes that the arena has.
    #[must_use]
    pub fn size(&self) -> usize {
        self.used + self.free
    }

    /// Of the request that this thread is answering; `None` on a thread that answers none.
    #[must_use]
    pub fn now() -> Option<Self> {
        let (used, free, high_water) = transom_arena::current_usage()?;
        Some(Memory {
            used,
            free,
            high_water,
        })
    }
}
