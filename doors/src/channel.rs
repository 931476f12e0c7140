//! The server's side of one channel: claim a call, publish its reply, ring its client.
//!
//! Everything here is atomics and, for the doorbell, one write(2): it may run in a signal handler.

use crate::bell::Bell;
use crate::layout::Layout;
use crate::status::Status;
use crate::sync::{AtomicU32, Line, Ordering};

/// One channel of a door.
#[derive(Debug)]
pub(crate) struct Channel {
    /// Its index in the door's list.
    pub index: u32,
    pub layout: Layout,
    pub bell: Bell,
    /// Where the next claim starts to look, so that no slot waits for its higher neighbours for
    /// ever. Per channel: a start that moved with other channels' claims could skip the same slot
    /// each time. Only a hint between workers.
    cursor: Line<AtomicU32>,
}

/// A call as its claimer read it: once, into private memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claimed {
    pub slot: u32,
    pub generation: u32,
    pub request_len: usize,
    pub deadline_ns: u64,
}

impl Channel {
    pub fn new(index: u32, layout: Layout, bell: Bell) -> Self {
        Self {
            index,
            layout,
            bell,
            cursor: Line(AtomicU32::new(0)),
        }
    }

    /// Takes one submitted call, if there is one. It is the caller's until its reply is published.
    pub fn claim(&self) -> Option<Claimed> {
        let slots = self.layout.geometry().slots;
        let slot = self
            .layout
            .submit()
            .take_one_from(self.cursor.0.load(Ordering::Relaxed))?;
        if slot >= slots {
            // The last word can have more bits than there are slots; only a lying peer sets them.
            return None;
        }
        let next = if slot + 1 == slots { 0 } else { slot + 1 };
        self.cursor.0.store(next, Ordering::Relaxed);

        let header = self.layout.request_header(slot);
        let generation = header.generation.load(Ordering::Relaxed);
        self.layout
            .reply_header(slot)
            .claim_generation
            .store(generation, Ordering::Release);
        Some(Claimed {
            slot,
            generation,
            request_len: self.request_len(slot),
            deadline_ns: header.deadline_ns.load(Ordering::Relaxed),
        })
    }

    /// The length of the request in `slot`, never more than a slot holds, whatever the header
    /// alleges.
    pub fn request_len(&self, slot: u32) -> usize {
        let alleged = self.layout.request_header(slot).len.load(Ordering::Relaxed) as usize;
        alleged.min(self.layout.geometry().request_size)
    }

    /// Publishes `len` bytes of the reply slot as the final reply. The slot is the client's from
    /// here on.
    pub fn publish_reply(&self, slot: u32, generation: u32, len: usize, status: Status) {
        let header = self.layout.reply_header(slot);
        header.len.store(len as u32, Ordering::Relaxed);
        header.status.store(status.0, Ordering::Relaxed);
        header.done_generation.store(generation, Ordering::Release);
        self.publish_bit(slot);
    }

    /// Whether the final reply of this use of the slot, and of no other, is what the slot shows.
    pub fn is_done(&self, slot: u32, generation: u32) -> bool {
        self.done_generation(slot) == generation
    }

    /// Whether this use of the slot has had its final reply, even if the slot was used again since.
    pub fn was_done(&self, slot: u32, generation: u32) -> bool {
        // Generations wrap, so "older" is by distance; half of them do not pass during one call.
        self.done_generation(slot).wrapping_sub(generation) as i32 >= 0
    }

    fn done_generation(&self, slot: u32) -> u32 {
        self.layout
            .reply_header(slot)
            .done_generation
            .load(Ordering::Acquire)
    }

    /// Tells the client to look at `slot`. More often than needed does no harm: it looks at the
    /// headers.
    pub fn publish_bit(&self, slot: u32) {
        let bits = crate::bitmap::BITS;
        self.layout
            .complete()
            .publish((slot / bits) as usize, 1 << (slot % bits));
    }

    /// Rings the client if it sleeps and has something to see.
    ///
    /// Clients of other channels sleep too, with nothing to see: hence the look at the complete
    /// words.
    pub fn ring_if_due(&self) {
        let waiting = self.layout.waiting();
        if waiting.patience().is_some() && self.layout.complete().any() && waiting.take() {
            self.bell.ring();
        }
    }
}
