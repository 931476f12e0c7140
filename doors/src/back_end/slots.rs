//! A caller's table of its slots: which use of each is valid, and what the caller knows about it.

use std::ops::{Deref, DerefMut};

use crate::rules::bitmap::BITS;
use crate::values::call::SlotId;

/// Where a slot is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Free,
    Filling,
    /// Staged, submitted, or on a door server thread.
    Submitted,
    /// A piece was drained; the server waits for us.
    Interim,
    Replied,
    /// Given up after a thread had claimed it: quarantined until its final reply comes.
    Abandoned,
    /// Its call was lost, and so is the slot.
    Lost,
}

/// The caller's truth about a slot.
#[derive(Debug)]
pub struct Slot {
    /// Which use of the slot is the valid one; never 0, which is what fresh memory shows.
    pub generation: u32,
    pub phase: Phase,
    /// Bytes of the reply that was told.
    pub reply_len: usize,
    /// It is being filled again because its call was not accepted, which was not told yet.
    pub unaccepted: bool,
}

impl Slot {
    /// Makes the next use of the slot the valid one.
    fn advance(&mut self) {
        // 0 is what fresh memory shows.
        self.generation = self.generation.checked_add(1).unwrap_or(1);
    }
}

/// A caller's slots. As a slice it is every slot's state, by index.
#[derive(Debug)]
pub struct Slots {
    slots: Box<[Slot]>,
    /// Last in, first out: the slot whose bytes are in the cache is used again.
    free: Vec<u32>,
    /// Also free, but not given out before one of the others is lost.
    spare: Vec<u32>,
    lost: u32,
}

impl Slots {
    /// This many slots, all free, and `spares` that take the place of lost ones.
    pub fn new(count: u32, spares: u32) -> Self {
        let all = count + spares;
        let slot = |_| Slot {
            generation: 1,
            phase: Phase::Free,
            reply_len: 0,
            unaccepted: false,
        };
        Self {
            slots: (0..all).map(slot).collect(),
            free: (0..count).rev().collect(),
            spare: (count..all).rev().collect(),
            lost: 0,
        }
    }

    /// A free slot, to be filled.
    pub fn reserve(&mut self) -> Option<SlotId> {
        let index = self.free.pop()?;
        self[index as usize].phase = Phase::Filling;
        Some(self.id(index))
    }

    /// Slots that `reserve` can still give.
    pub fn count_free(&self) -> usize {
        self.free.len()
    }

    /// Ends this use of a slot.
    pub fn free(&mut self, index: u32) {
        let slot = &mut self[index as usize];
        slot.phase = Phase::Free;
        slot.advance();
        self.free.push(index);
    }

    /// Ends this use of a slot and begins the next one, by the same caller.
    pub fn refill(&mut self, index: u32) -> SlotId {
        let slot = &mut self[index as usize];
        slot.phase = Phase::Filling;
        slot.advance();
        self.id(index)
    }

    /// Ends the use of a slot for ever. A spare one takes its place, if there is one.
    pub fn lose(&mut self, index: u32) {
        self[index as usize].phase = Phase::Lost;
        self.lost += 1;
        self.free.extend(self.spare.pop());
    }

    /// Slots that were lost.
    pub fn count_lost(&self) -> u32 {
        self.lost
    }

    /// Slots that are free or in use: all but the lost and the spare ones.
    pub fn count_usable(&self) -> usize {
        self.slots.len() - self.lost as usize - self.spare.len()
    }

    /// The present use of a slot.
    pub fn id(&self, index: u32) -> SlotId {
        SlotId {
            index,
            generation: self[index as usize].generation,
        }
    }

    /// The slot's phase; panics if the id is stale.
    pub fn phase(&self, id: SlotId) -> Phase {
        let slot = &self[id.index()];
        let valid = slot.generation == id.generation
            && !matches!(slot.phase, Phase::Free | Phase::Abandoned);
        assert!(valid, "{id:?} is stale: its slot was released or abandoned");
        slot.phase
    }
}

impl Deref for Slots {
    type Target = [Slot];

    fn deref(&self) -> &[Slot] {
        &self.slots
    }
}

impl DerefMut for Slots {
    fn deref_mut(&mut self) -> &mut [Slot] {
        &mut self.slots
    }
}

/// A slot's word and bit.
pub fn place(index: u32) -> (usize, u64) {
    ((index / BITS) as usize, 1 << (index % BITS))
}

/// The positions of the bits that are set, lowest first.
pub fn bits_of(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = word
            .checked_ilog2()
            .map(|_| word.trailing_zeros() as usize)?;
        word &= word - 1;
        Some(bit)
    })
}

/// The same of a number that has a bit for each word of a channel.
pub fn words_of(mut words: u128) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let word = (words != 0).then(|| words.trailing_zeros() as usize)?;
        words &= words - 1;
        Some(word)
    })
}
