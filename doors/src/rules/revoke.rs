//! The revoke flag, and how far the two sides may rely on it.
//!
//! No call is lost between a submit and a revoke: a submitter publishes its calls, then looks at
//! the flag, and takes back what it can if it is raised; a thread sees the flag raised, then looks
//! for calls once more, and only then ends. One of the two sees the other; a call that both see has
//! one taker, as always.

use crate::rules::sync::{AtomicU32, Ordering, in_order};

/// A view of a flag that is raised once.
#[derive(Clone, Copy, Debug)]
pub struct Revoked<'a>(&'a AtomicU32);

impl<'a> Revoked<'a> {
    /// A view of `word`; 0 is not revoked.
    pub fn new(word: &'a AtomicU32) -> Self {
        Self(word)
    }

    /// Raises the flag.
    pub fn raise(&self) {
        self.0.store(1, Ordering::SeqCst);
    }

    /// Whether it is raised.
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::SeqCst) != 0
    }

    /// Submitter, after publishing: whether the calls may stay with no thread to serve them.
    pub fn is_raised_after_publishing(&self) -> bool {
        in_order();
        self.is_raised()
    }

    /// Door server thread: whether it may end, because the flag is raised and `backlog` finds
    /// nothing after that.
    pub fn allows_end(&self, backlog: impl Fn() -> bool) -> bool {
        if !self.is_raised() {
            return false;
        }
        in_order();
        !backlog()
    }
}
