//! What ran out, and of how much.

/// What `malloc` and its family have refused a request: a C library got `NULL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CRefusal {
    /// Bytes that were asked for.
    pub asked: usize,
    /// The C heap had no such piece, whatever the request had; otherwise the request had its quota.
    pub is_full: bool,
}

/// What ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The bucket's arena.
    Arena,
    /// The bucket's stack.
    Stack,
    /// The shared heap.
    SharedHeap,
}

impl Reason {
    /// The word for it in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Arena => "arena",
            Reason::Stack => "stack",
            Reason::SharedHeap => "shared-heap",
        }
    }

    /// The flag that would raise it.
    #[must_use]
    pub fn flag(self) -> &'static str {
        match self {
            Reason::Arena => "--bucket-size",
            Reason::Stack => "--stack-size",
            Reason::SharedHeap => "--shared-heap",
        }
    }
}

/// An allocation that did not fit, or a stack overflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exhaustion {
    /// What ran out.
    pub reason: Reason,
    /// Bytes asked for; 0 when the number is not known (a stack overflow; `&Bump`, of which only `free` is
    /// known to be too little).
    pub asked: usize,
    /// Bytes that were in use at that moment.
    pub used: usize,
    /// Bytes that were still free below all that was in use, in one piece.
    pub free: usize,
    /// Bytes of what ran out.
    pub size: usize,
}

impl Exhaustion {
    pub(crate) const NOTHING: Exhaustion = Exhaustion {
        reason: Reason::Arena,
        asked: 0,
        used: 0,
        free: 0,
        size: 0,
    };

    /// Bytes that were free, but in pieces between what was in use.
    #[must_use]
    pub fn in_pieces(&self) -> usize {
        self.size.saturating_sub(self.used + self.free)
    }
}
