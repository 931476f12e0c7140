//! A bitmap with one bit per slot: how calls are submitted, and how completions are reported.
//!
//! A bit is a hint that may be published by one side and is taken by exactly one taker; the truth
//! about a slot (its generation, its state) is kept by each side for itself. The type knows neither
//! side.

use crate::rules::sync::{AtomicU64, Line, Ordering};

/// Slots per word.
pub const BITS: u32 = u64::BITS;

/// A view of a channel's `submit` or `complete` words.
///
/// Each word has a cache line of its own: the two sides write different words at the same moment.
#[derive(Clone, Copy, Debug)]
pub struct Bitmap<'a> {
    words: &'a [Line<AtomicU64>],
}

impl<'a> Bitmap<'a> {
    /// A view of `words`.
    pub fn new(words: &'a [Line<AtomicU64>]) -> Self {
        Self { words }
    }

    /// How many words there are.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Sets `bits` of one word. What was written before is visible to a thread that takes one of them.
    ///
    /// `SeqCst`, because publishing is the first half of "publish, then look for a sleeper".
    pub fn publish(&self, word: usize, bits: u64) {
        self.words[word].0.fetch_or(bits, Ordering::SeqCst);
    }

    /// Takes the given bits of one word and returns those that were there: they are the caller's
    /// now.
    pub fn take(&self, word: usize, bits: u64) -> u64 {
        self.words[word].0.fetch_and(!bits, Ordering::SeqCst) & bits
    }

    /// What one word shows now. Only a hint: `take` decides.
    pub fn peek(&self, word: usize) -> u64 {
        self.words[word].0.load(Ordering::SeqCst)
    }

    /// How many bits are set. A hint, for people.
    pub fn count(&self) -> u32 {
        (0..self.len())
            .map(|word| self.peek(word).count_ones())
            .sum()
    }

    /// Whether any bit is set.
    ///
    /// `SeqCst`, because looking again is the second half of "announce sleep, then look again".
    pub fn any(&self) -> bool {
        (0..self.len()).any(|word| self.peek(word) != 0)
    }

    /// Takes one bit, the first at or after slot `from`, going round. The taker is its only owner.
    pub fn take_one_from(&self, from: u32) -> Option<u32> {
        let first = (from / BITS) as usize % self.len().max(1);
        let mut word = first;
        // The first word is looked at twice: its upper part at the start, its lower part at the
        // end.
        let mut eligible = u64::MAX << (from % BITS);
        for _ in 0..=self.len() {
            if let Some(bit) = self.take_lowest(word, eligible) {
                return Some(word as u32 * BITS + bit);
            }
            eligible = u64::MAX;
            word = if word + 1 == self.len() { 0 } else { word + 1 };
        }
        None
    }

    fn take_lowest(&self, word: usize, eligible: u64) -> Option<u32> {
        let mut shown = self.peek(word) & eligible;
        while shown != 0 {
            let bit = shown.trailing_zeros();
            if self.take(word, 1 << bit) != 0 {
                return Some(bit);
            }
            // Another thread took it: look at what is left.
            shown = self.peek(word) & eligible;
        }
        None
    }
}
