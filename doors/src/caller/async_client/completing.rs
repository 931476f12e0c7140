//! Replies: how they are found, checked against what is known of their slots, and read.

use std::ptr::NonNull;

use crate::back_end::slots::{Phase, bits_of, place};
use crate::caller::async_client::{AsyncClient, Peer};
use crate::rules::bitmap::BITS;
use crate::rules::sync::Ordering;
use crate::values::call::{Completion, Kind, SlotId};
use crate::values::status::Status;

/// After this many words in a row that hold no true completion, another process counts as broken.
const FRUITLESS_MAX: u32 = 100_000;

/// Each time it has found nothing this often, a caller looks for replies that are kept back: the thread that
/// has them may be in a handler that blocks.
const LOOK_EVERY: u32 = 16;

impl AsyncClient {
    /// The next reply, if there is one. Its bytes can be read with [`reply`](Self::reply). Takes as many
    /// words of bits as the channel has, and no more: another process that sets bits without end does not
    /// keep the caller. If some are left, [`prepare_wait`](Self::prepare_wait) says so, and finds those that
    /// are kept back for a moment.
    pub fn next_completion(&mut self) -> Option<(SlotId, Completion)> {
        let mut words = self.layout.complete().len();
        loop {
            while self.taken != 0 {
                let index = self.taken_word as u32 * BITS + self.taken.trailing_zeros();
                self.taken &= self.taken - 1;
                if let Some(found) = self.look_at(index) {
                    self.fruitless = 0;
                    self.fruitful = true;
                    return Some(found);
                }
            }
            if words == 0 || !self.take_next_word() {
                self.unlooked += 1;
                // Once per call: it begins to count anew.
                if self.unlooked < LOOK_EVERY || !self.find_late() {
                    return None;
                }
                words = self.layout.complete().len();
                continue;
            }
            words -= 1;
        }
    }

    /// Looks for replies that are there and that the server has not told of. Returns whether there are any.
    pub(super) fn find_late(&mut self) -> bool {
        self.unlooked = 0;
        let (late, complete) = (self.layout.late(), self.layout.complete());
        let mut found = false;
        for word in 0..late.len() {
            for bit in bits_of(late.look(word)) {
                let index = word * BITS as usize + bit;
                let is_there = self.slots.get(index).is_some_and(|slot| {
                    let header = self.layout.reply_header(index as u32);
                    matches!(slot.phase, Phase::Submitted | Phase::Abandoned)
                        && header.is_done(slot.generation)
                });
                if is_there {
                    complete.publish(word, 1 << bit);
                    found = true;
                }
            }
        }
        found
    }

    /// Calls `f` with every reply that is there. See [`next_completion`](Self::next_completion) for
    /// a loop that uses the client meanwhile.
    pub fn drain(&mut self, mut f: impl FnMut(SlotId, Completion)) {
        while let Some((slot, completion)) = self.next_completion() {
            f(slot, completion);
        }
    }

    fn take_next_word(&mut self) -> bool {
        let complete = self.layout.complete();
        for _ in 0..complete.len() {
            self.taken_word = if self.taken_word + 1 >= complete.len() {
                0
            } else {
                self.taken_word + 1
            };
            if complete.peek(self.taken_word) != 0 {
                self.taken = complete.take(self.taken_word, u64::MAX);
                self.note_fruitless();
                for bit in bits_of(self.taken) {
                    let slot = self.taken_word as u32 * BITS + bit as u32;
                    self.layout.prefetch_reply(slot);
                }
                return true;
            }
        }
        false
    }

    /// A bit too many is honest; thousands in a row are not.
    fn note_fruitless(&mut self) {
        self.fruitless = self.fruitless.saturating_add(1);
        if self.fruitless > FRUITLESS_MAX
            && let Peer::Remote(remote) = &mut self.peer
        {
            remote.poison("completions that are none");
        }
    }

    /// What a completion bit means: a hint, checked against what we know of the slot.
    pub(super) fn look_at(&mut self, index: u32) -> Option<(SlotId, Completion)> {
        let slot = self.slots.get_mut(index as usize)?;
        let layout = self.layout;
        let id = SlotId {
            index,
            generation: slot.generation,
        };
        let header = layout.reply_header(index);
        let done = header.is_done(slot.generation);
        if done && header.is_lost() {
            return self.lose(id);
        }
        let (phase, status, kind) = match slot.phase {
            Phase::Submitted if done => {
                let status = header.status.load(Ordering::Relaxed);
                self.outstanding -= 1;
                (Phase::Replied, Status(status), Kind::Final)
            }
            Phase::Submitted if layout.turn(index).is_clients() => {
                let kind = header.kind.load(Ordering::Relaxed);
                (Phase::Interim, Status::OK, Kind::Interim(kind))
            }
            Phase::Abandoned if done => {
                self.outstanding -= 1;
                self.free(index);
                return None;
            }
            _ => return None,
        };
        let alleged = header.len.load(Ordering::Relaxed) as usize;
        slot.reply_len = alleged.min(layout.geometry().reply_size);
        slot.phase = phase;
        Some((
            id,
            Completion {
                status,
                len: slot.reply_len,
                kind,
            },
        ))
    }

    /// A call was lost with its slot. Told at once, unless it was given up before or a piece of it is with
    /// the caller.
    fn lose(&mut self, id: SlotId) -> Option<(SlotId, Completion)> {
        let header = self.layout.reply_header(id.index);
        let completion = Completion {
            status: Status(header.status.load(Ordering::Relaxed)),
            len: 0,
            kind: Kind::Lost,
        };
        match self.slots[id.index()].phase {
            phase @ (Phase::Submitted | Phase::Abandoned) => {
                self.outstanding -= 1;
                self.slots[id.index()].reply_len = 0;
                self.slots.lose(id.index);
                (phase == Phase::Submitted).then_some((id, completion))
            }
            _ => None,
        }
    }

    /// A call can be lost while we have a piece of it. Its bit came then and was ignored, so it is set again.
    pub(super) fn look_again_if_done(&mut self, slot: SlotId) {
        let header = self.layout.reply_header(slot.index);
        if header.is_done(slot.generation) {
            let (word, bit) = place(slot.index);
            self.layout.complete().publish(word, bit);
        }
    }

    /// The bytes of the reply that `drain` has told of, until `resume` or `release`.
    ///
    /// # Panics
    /// If the slot has no reply.
    /// Or if the door is in another process, which can write them at any time: `copy_reply` is for that.
    pub fn reply(&self, slot: SlotId) -> &[u8] {
        assert!(
            matches!(self.peer, Peer::Local { .. }),
            "what another process has written is copied before it is looked at"
        );
        let bytes = self.reply_bytes(slot);
        // SAFETY: reply_len is at most reply_size. After its final reply, and while it waits for
        // `resume`, the server does not touch the slot; `resume` and `release` need `&mut self`, so
        // they end this borrow. A lost slot, which it may touch, has a length of 0.
        unsafe { bytes.as_ref() }
    }

    /// Copies the bytes of the reply from offset `from` on into `into`, as many as fit, and returns how many.
    /// Unlike [`reply`](Self::reply) it works for every channel: between processes the other side can still
    /// write what lies in the slot, so what is to be looked at is copied first.
    ///
    /// # Panics
    /// If the slot has no reply.
    pub fn copy_reply(&self, slot: SlotId, from: usize, into: &mut [u8]) -> usize {
        let bytes = self.reply_bytes(slot);
        let rest = bytes.len().saturating_sub(from);
        let len = rest.min(into.len());
        if len > 0 {
            // SAFETY: `from + len` is at most the reply's length, whose bytes are mapped as long as the
            // channel; a private buffer and channel memory do not overlap. Another process may write them
            // meanwhile, so no reference is made to them: what arrives is some bytes, which is all that is
            // asked of a peer's.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    bytes.cast::<u8>().as_ptr().add(from),
                    into.as_mut_ptr(),
                    len,
                );
            }
        }
        len
    }

    /// Where the reply lies, to be handed to a system call: for a channel between processes its bytes may
    /// change at any time, so they must not be referred to. Valid until `resume` or `release`.
    ///
    /// # Panics
    /// If the slot has no reply.
    pub fn reply_bytes(&self, slot: SlotId) -> NonNull<[u8]> {
        let phase = self.phase(slot);
        assert!(
            matches!(phase, Phase::Replied | Phase::Interim | Phase::Lost),
            "{slot:?} is {phase:?}: it has no reply"
        );
        let bytes = self.layout.reply_bytes(slot.index);
        NonNull::slice_from_raw_parts(bytes, self.slots[slot.index()].reply_len)
    }
}
