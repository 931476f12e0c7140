//! The caller's side of a channel, as `doors/src/caller/async_client` has it: what it remembers of each slot,
//! and what it refuses.

use std::cell::UnsafeCell;
use std::ptr::NonNull;
use transom_doors::SlotId;

/// Where a slot is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Free,
    Filling,
    Submitted,
    Interim,
    Replied,
    Abandoned,
    Lost,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub generation: u32,
    pub phase: Phase,
    pub reply_len: usize,
    pub unaccepted: bool,
}

/// All slots of a caller.
#[derive(Default)]
pub(super) struct Slots {
    pub all: Vec<Slot>,
    free: Vec<u32>,
    spare: Vec<u32>,
    pub lost: u32,
    /// Slots whose calls `flush` will publish.
    pub staged: u64,
    pub unaccepted: usize,
    pub outstanding: usize,
    /// How often in a row nothing was found; and whether something was found since the last sleep.
    pub unlooked: u32,
    pub fruitful: bool,
}

impl Slots {
    pub(super) fn new(count: u32, spares: u32) -> Self {
        assert!(count + spares <= 64, "one word of slots");
        let slot = Slot {
            generation: 1,
            phase: Phase::Free,
            reply_len: 0,
            unaccepted: false,
        };
        Slots {
            all: vec![slot; (count + spares) as usize],
            free: (0..count).rev().collect(),
            spare: (count..count + spares).rev().collect(),
            ..Slots::default()
        }
    }

    pub(super) fn id(&self, index: u32) -> SlotId {
        SlotId::new(index, self.all[index as usize].generation)
    }

    /// The phase of a slot that is the caller's.
    pub(super) fn phase(&self, id: SlotId) -> Phase {
        let slot = &self.all[id.index()];
        let is_valid = slot.generation == id.generation()
            && !matches!(slot.phase, Phase::Free | Phase::Abandoned);
        assert!(is_valid, "{id:?} is stale: it is {:?}", slot.phase);
        slot.phase
    }

    pub(super) fn expect(&self, id: SlotId, allowed: &[Phase], what: &str) -> Phase {
        let phase = self.phase(id);
        assert!(allowed.contains(&phase), "{what}: {id:?} is {phase:?}");
        phase
    }

    pub(super) fn set(&mut self, id: SlotId, phase: Phase) {
        self.all[id.index()].phase = phase;
    }

    pub(super) fn reserve(&mut self) -> Option<SlotId> {
        let index = self.free.pop()?;
        self.all[index as usize].phase = Phase::Filling;
        Some(self.id(index))
    }

    pub(super) fn count_free(&self) -> usize {
        self.free.len()
    }

    pub(super) fn count_usable(&self) -> usize {
        self.all.len() - self.lost as usize - self.spare.len()
    }

    fn advance(&mut self, index: u32, phase: Phase) {
        let slot = &mut self.all[index as usize];
        slot.phase = phase;
        slot.generation += 1;
        if std::mem::take(&mut slot.unaccepted) {
            self.unaccepted -= 1;
        }
    }

    pub(super) fn free(&mut self, index: u32) {
        self.advance(index, Phase::Free);
        self.free.push(index);
    }

    pub(super) fn refill(&mut self, index: u32) -> SlotId {
        self.advance(index, Phase::Filling);
        self.id(index)
    }

    pub(super) fn lose(&mut self, index: u32) {
        let slot = &mut self.all[index as usize];
        slot.phase = Phase::Lost;
        slot.reply_len = 0;
        self.lost += 1;
        self.free.extend(self.spare.pop());
    }

    /// Slots that are neither free nor the server's, when the caller is dropped.
    pub(super) fn left_over(&self) -> Option<(usize, Slot)> {
        let is_left =
            |slot: &Slot| !matches!(slot.phase, Phase::Free | Phase::Abandoned | Phase::Lost);
        let at = self.all.iter().position(is_left)?;
        Some((at, self.all[at]))
    }
}

/// The bytes of a channel: they stay where they are as long as one of its two sides holds them.
pub(super) struct SlotMemory {
    pub request_size: usize,
    pub reply_size: usize,
    bytes: Box<[UnsafeCell<u8>]>,
}

impl SlotMemory {
    pub(super) fn new(slots: u32, request_size: usize, reply_size: usize) -> Self {
        let len = slots as usize * (request_size + reply_size);
        SlotMemory {
            request_size,
            reply_size,
            bytes: (0..len).map(|_| UnsafeCell::new(0)).collect(),
        }
    }

    fn at(&self, offset: usize, len: usize) -> NonNull<[u8]> {
        let cells = &self.bytes[offset..offset + len];
        let first = NonNull::from(cells).cast::<u8>();
        NonNull::slice_from_raw_parts(first, len)
    }

    pub(super) fn request(&self, slot: usize) -> NonNull<[u8]> {
        let stride = self.request_size + self.reply_size;
        self.at(slot * stride, self.request_size)
    }

    pub(super) fn reply(&self, slot: usize) -> NonNull<[u8]> {
        let stride = self.request_size + self.reply_size;
        self.at(slot * stride + self.request_size, self.reply_size)
    }

    /// A copy of bytes of a request.
    pub(super) fn copy_request(&self, slot: usize, from: usize, len: usize) -> Vec<u8> {
        let bytes = self.request(slot);
        // SAFETY: one thread; the caller has submitted the slot, so it borrows nothing of it.
        unsafe { bytes.as_ref()[from..from + len].to_vec() }
    }

    /// Puts some bytes of a reply in place of others, as a process may that is not believed.
    pub(super) fn change(&self, slot: usize, len: usize, from: &[u8], to: &[u8]) {
        let mut bytes = self.reply(slot);
        // SAFETY: one thread, and a reply of another process is referred to only while it is copied.
        let bytes = unsafe { &mut bytes.as_mut()[..len] };
        if let Some(at) = bytes.windows(from.len()).position(|window| window == from) {
            bytes[at..at + to.len()].copy_from_slice(to);
        }
    }

    /// Writes a reply's frame.
    pub(super) fn put_reply(&self, slot: usize, frame: &[u8]) {
        let mut bytes = self.reply(slot);
        // SAFETY: one thread; the slot is the server's, so the caller borrows nothing of it.
        unsafe { bytes.as_mut()[..frame.len()].copy_from_slice(frame) }
    }
}
