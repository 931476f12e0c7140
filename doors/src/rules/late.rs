//! Completions that exist but were not announced yet, and how the client finds them nevertheless.
//!
//! To set a completion bit is a read-modify-write of a word that the client is looking at: with the two sides
//! on two CPUs it took half of a short call's time. So a thread that has more calls to serve keeps a few
//! completions back and publishes them together. Meanwhile it shows them here, by plain stores to a word that
//! only it writes and that the client reads only when it has nothing else to do.
//!
//! **No client sleeps while a handler that blocks keeps back a completion.** A client that is about to sleep
//! without a timeout announces that, then looks here. A thread that has shown what it keeps back looks,
//! before it does anything else, whether the client has announced such a sleep, and then tells it. A fence on
//! both sides: one of the two sees the other. `tests/loom` model-checks these functions.

use crate::rules::sync::{AtomicU64, Line, Ordering, fence};
use crate::rules::waiting::{Patience, Waiting};

/// A view of a channel's `late` words, one for each word of completions.
#[derive(Clone, Copy, Debug)]
pub struct Late<'a> {
    words: &'a [Line<AtomicU64>],
}

impl<'a> Late<'a> {
    /// A view of `words`.
    pub fn new(words: &'a [Line<AtomicU64>]) -> Self {
        Self { words }
    }

    /// How many words there are.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Server, the one thread that keeps anything back: the completions of this word that it does.
    pub fn show(&self, word: usize, bits: u64) {
        self.words[word].0.store(bits, Ordering::Release);
    }

    /// Server, right after showing: whether the client must be told now.
    pub fn is_awaited(waiting: Waiting<'_>) -> bool {
        fence(Ordering::SeqCst);
        waiting.shown() == Some(Patience::Eager)
    }

    /// Client, after announcing an eager sleep, which has the other fence: what is alleged to be kept back,
    /// to be checked against the replies' headers.
    pub fn look(&self, word: usize) -> u64 {
        self.words[word].0.load(Ordering::Acquire)
    }
}
