//! Calls on their way to the server: staged, published, taken back, given up.

use crate::back_end::slots::{Phase, bits_of, place, words_of};
use crate::caller::async_client::{AsyncClient, Peer};
use crate::rules::bitmap::BITS;
use crate::rules::sync::Ordering;
use crate::values::call::{SlotId, Withdraw};
use crate::values::error::CallError;

impl AsyncClient {
    /// Stages the call: `len` bytes of the request, and a deadline on `CLOCK_MONOTONIC` in
    /// nanoseconds (0: none) that travels to the handler. The server sees it at `flush`.
    ///
    /// # Panics
    /// If the slot is not being filled, or `len` is more than it holds.
    pub fn submit(&mut self, slot: SlotId, len: usize, deadline_ns: u64) {
        self.stage(slot, len, deadline_ns, 0);
    }

    pub(super) fn stage(&mut self, slot: SlotId, len: usize, deadline_ns: u64, flags: u32) {
        let phase = self.phase(slot);
        assert!(
            phase == Phase::Filling,
            "{slot:?} is {phase:?}: only a slot being filled is submitted"
        );
        let size = self.geometry().request_size;
        assert!(len <= size, "a request of {len} bytes in a slot of {size}");
        let header = self.layout.request_header(slot.index);
        header.generation.store(slot.generation, Ordering::Relaxed);
        header.len.store(len as u32, Ordering::Relaxed);
        header.flags.store(flags, Ordering::Relaxed);
        header.cpu.store(self.cpu.0, Ordering::Relaxed);
        header.deadline_ns.store(deadline_ns, Ordering::Relaxed);
        self.layout.turn(slot.index).begin();
        self.slots[slot.index()].phase = Phase::Submitted;
        self.outstanding += 1;
        let (word, bit) = place(slot.index);
        self.staged[word] |= bit;
        self.touched |= 1 << word;
    }

    /// Whether there are calls that `flush` would publish.
    pub fn has_staged(&self) -> bool {
        self.touched != 0
    }

    /// Publishes the staged calls, with one atomic operation per touched word, and wakes as few threads as
    /// are enough.
    ///
    /// # Errors
    /// [`CallError::NotAccepted`]: the door was revoked. Staged calls that no thread will see are
    /// being filled again, ready for `release`; `withdraw` tells them (`Withdrawn`) from calls that
    /// were still accepted (`Claimed`).
    pub fn flush(&mut self) -> Result<(), CallError> {
        if self.touched == 0 {
            return Ok(());
        }
        let submit = self.layout.submit();
        let mut calls = 0;
        for word in words_of(self.touched) {
            submit.publish(word, self.staged[word]);
            calls += self.staged[word].count_ones();
        }
        let refuses = match &self.peer {
            Peer::Local { pool, .. } => pool.revoked().is_raised_after_publishing(),
            Peer::Remote(remote) => remote.refuses_after_publishing(),
        };
        let outcome = if refuses {
            self.take_back()
        } else {
            match &mut self.peer {
                Peer::Local { pool, .. } => pool.ring_for(calls),
                Peer::Remote(remote) => remote.ring_for(calls),
            }
            Ok(())
        };
        for word in words_of(self.touched) {
            self.staged[word] = 0;
        }
        self.touched = 0;
        outcome
    }

    fn take_back(&mut self) -> Result<(), CallError> {
        let mut outcome = Ok(());
        for word in words_of(self.touched) {
            for bit in bits_of(self.layout.submit().take(word, self.staged[word])) {
                let slot = &mut self.slots[word * BITS as usize + bit];
                slot.phase = Phase::Filling;
                slot.unaccepted = true;
                self.unaccepted += 1;
                self.outstanding -= 1;
                outcome = Err(CallError::NotAccepted);
            }
        }
        outcome
    }

    /// Takes back a call that no thread has claimed. A slot that is being filled counts as
    /// withdrawn.
    pub fn withdraw(&mut self, slot: SlotId) -> Withdraw {
        match self.phase(slot) {
            Phase::Filling => Withdraw::Withdrawn,
            Phase::Submitted if self.unsubmit(slot) => {
                self.slots[slot.index()].phase = Phase::Filling;
                self.outstanding -= 1;
                Withdraw::Withdrawn
            }
            _ => Withdraw::Claimed,
        }
    }

    /// Gives up a call, whatever it is doing. If a thread has claimed it, its slot stays in
    /// quarantine until the final reply comes and is then freed by `drain`, silently (or lost); a server that
    /// streams is told [`Gone`](crate::Gone). The `SlotId` is not valid any more.
    pub fn abandon(&mut self, slot: SlotId) {
        match self.phase(slot) {
            Phase::Filling | Phase::Replied => self.free(slot.index),
            Phase::Submitted if self.unsubmit(slot) => {
                self.outstanding -= 1;
                self.free(slot.index);
            }
            Phase::Submitted | Phase::Interim => {
                self.slots[slot.index()].phase = Phase::Abandoned;
                self.layout.turn(slot.index).leave();
                self.look_again_if_done(slot);
            }
            Phase::Lost => {}
            Phase::Free | Phase::Abandoned => {
                unreachable!("`phase` refuses ids of slots that are not the caller's")
            }
        }
    }

    /// After an interim reply: gives the turn back to the server, with `request_len` new bytes in
    /// the request slot (0: only consumed).
    ///
    /// # Panics
    /// If the slot has no interim reply, or `request_len` is more than the slot holds.
    pub fn resume(&mut self, slot: SlotId, request_len: usize) {
        let phase = self.phase(slot);
        assert!(
            phase == Phase::Interim,
            "{slot:?} is {phase:?}: only an interim reply is resumed"
        );
        let size = self.geometry().request_size;
        assert!(
            request_len <= size,
            "{request_len} more bytes in a slot of {size}"
        );
        self.slots[slot.index()].phase = Phase::Submitted;
        self.layout
            .request_header(slot.index)
            .len
            .store(request_len as u32, Ordering::Relaxed);
        self.layout.turn(slot.index).to_server();
        self.look_again_if_done(slot);
    }

    /// Tries to take a submitted call out of the server's sight.
    fn unsubmit(&mut self, slot: SlotId) -> bool {
        let (word, bit) = place(slot.index);
        self.unstage(slot) || self.layout.submit().take(word, bit) != 0
    }

    /// Takes a call out of those that `flush` will publish.
    pub(super) fn unstage(&mut self, slot: SlotId) -> bool {
        let (word, bit) = place(slot.index);
        if self.staged[word] & bit == 0 {
            return false;
        }
        self.staged[word] &= !bit;
        if self.staged[word] == 0 {
            self.touched &= !(1 << word);
        }
        true
    }
}
