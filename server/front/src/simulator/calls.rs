//! What a loop does with a channel: each function as the one of `AsyncClient` of that name.

use super::process::{Ground, Process, Turn};
use super::slots::Phase;
use transom_doors::{CallError, Completion, Kind, Patience, PeerState, SlotId, Status, Withdraw};

/// A caller that finds nothing looks for replies that are kept back so often.
const LOOK_EVERY: u32 = 16;

fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = word.trailing_zeros() as usize;
        word &= word.checked_sub(1)?;
        Some(bit)
    })
}

impl Process {
    pub(super) fn submit(&mut self, slot: SlotId, len: usize) {
        self.slots.expect(slot, &[Phase::Filling], "submit");
        assert!(
            len <= self.geometry.request_size,
            "a request of {len} bytes"
        );
        let reply = &mut self.shared.replies[slot.index()];
        (reply.request_len, reply.turn) = (len, Turn::Server);
        self.slots.set(slot, Phase::Submitted);
        self.slots.outstanding += 1;
        self.slots.staged |= 1 << slot.index();
    }

    pub(super) fn flush(&mut self, ground: &mut Ground) -> Result<(), CallError> {
        let staged = std::mem::take(&mut self.slots.staged);
        if staged == 0 {
            return Ok(());
        }
        self.shared.submitted |= staged;
        for slot in bits(staged) {
            self.shared.replies[slot].published_ns = ground.clock.now_ns;
        }
        let refuses = self.standing.revoked || self.standing.known != PeerState::Serving;
        if !refuses || self.is_local {
            self.ring_for(&mut ground.clock);
            return Ok(());
        }
        let mut outcome = Ok(());
        for slot in bits(staged) {
            self.shared.submitted &= !(1 << slot);
            if !self.standing.dead
                && ground.clock.once_in(3)
                && self.claim_at_the_last_moment(slot, ground)
            {
                continue;
            }
            self.slots.all[slot].phase = Phase::Filling;
            self.slots.all[slot].unaccepted = true;
            self.slots.unaccepted += 1;
            self.slots.outstanding -= 1;
            outcome = Err(CallError::NotAccepted);
        }
        outcome
    }

    pub(super) fn resume(&mut self, slot: SlotId, len: usize, ground: &mut Ground) {
        self.slots.expect(slot, &[Phase::Interim], "resume");
        assert!(len <= self.geometry.request_size, "{len} more bytes");
        self.slots.set(slot, Phase::Submitted);
        let reply = &mut self.shared.replies[slot.index()];
        (reply.request_len, reply.turn) = (len, Turn::Server);
        self.turn_is_back(slot.index(), &mut ground.clock);
        self.look_again_if_done(slot);
    }

    pub(super) fn refill(&mut self, slot: SlotId) -> SlotId {
        self.slots.expect(slot, &[Phase::Replied], "refill");
        self.slots.refill(slot.index() as u32)
    }

    pub(super) fn release(&mut self, slot: SlotId) {
        let allowed = [Phase::Replied, Phase::Filling, Phase::Lost];
        if self.slots.expect(slot, &allowed, "release") != Phase::Lost {
            self.slots.free(slot.index() as u32);
        }
    }

    pub(super) fn abandon(&mut self, slot: SlotId, ground: &mut Ground) {
        match self.slots.phase(slot) {
            Phase::Filling | Phase::Replied => self.slots.free(slot.index() as u32),
            Phase::Submitted if self.unsubmit(slot) => {
                self.slots.outstanding -= 1;
                self.slots.free(slot.index() as u32);
            }
            Phase::Submitted | Phase::Interim => {
                self.slots.set(slot, Phase::Abandoned);
                self.shared.replies[slot.index()].turn = Turn::Left;
                if !self.standing.dead {
                    self.turn_is_back(slot.index(), &mut ground.clock);
                }
                self.look_again_if_done(slot);
            }
            Phase::Lost => {}
            Phase::Free | Phase::Abandoned => unreachable!("`phase` refuses these"),
        }
    }

    pub(super) fn withdraw(&mut self, slot: SlotId) -> Withdraw {
        match self.slots.phase(slot) {
            Phase::Filling => Withdraw::Withdrawn,
            Phase::Submitted if self.unsubmit(slot) => {
                self.slots.set(slot, Phase::Filling);
                self.slots.outstanding -= 1;
                Withdraw::Withdrawn
            }
            _ => Withdraw::Claimed,
        }
    }

    /// Takes a call out of the server's sight.
    fn unsubmit(&mut self, slot: SlotId) -> bool {
        let bit = 1 << slot.index();
        let is_there = (self.slots.staged | self.shared.submitted) & bit != 0;
        self.slots.staged &= !bit;
        self.shared.submitted &= !bit;
        is_there
    }

    fn look_again_if_done(&mut self, slot: SlotId) {
        if self.shared.replies[slot.index()].done == slot.generation() {
            self.shared.complete |= 1 << slot.index();
        }
    }

    pub(super) fn next_completion(&mut self) -> Option<(SlotId, Completion)> {
        loop {
            while self.shared.complete != 0 {
                let slot = self.shared.complete.trailing_zeros();
                self.shared.complete &= self.shared.complete - 1;
                if let Some(found) = self.look_at(slot) {
                    self.slots.fruitful = true;
                    return Some(found);
                }
            }
            self.slots.unlooked += 1;
            if self.slots.unlooked < LOOK_EVERY || !self.find_late() {
                return None;
            }
        }
    }

    fn find_late(&mut self) -> bool {
        self.slots.unlooked = 0;
        let mut found = 0;
        for slot in bits(self.shared.late) {
            let Some(own) = self.slots.all.get(slot) else {
                continue;
            };
            let is_out = matches!(own.phase, Phase::Submitted | Phase::Abandoned);
            if is_out && self.shared.replies[slot].done == own.generation {
                found |= 1 << slot;
            }
        }
        self.shared.complete |= found;
        found != 0
    }

    fn look_at(&mut self, index: u32) -> Option<(SlotId, Completion)> {
        let id = self.slots.id(index);
        let phase = self.slots.all[index as usize].phase;
        let reply = self.shared.replies[index as usize];
        let is_done = reply.done == id.generation();
        let is_out = matches!(phase, Phase::Submitted | Phase::Abandoned);
        if is_done && is_out {
            self.slots.outstanding -= 1;
            if reply.is_lost {
                self.slots.lose(index);
                let completion = Completion {
                    status: Status(reply.status),
                    len: 0,
                    kind: Kind::Lost,
                };
                return (phase == Phase::Submitted).then_some((id, completion));
            }
        }
        let (phase, status, kind) = match phase {
            Phase::Submitted if is_done => (Phase::Replied, Status(reply.status), Kind::Final),
            Phase::Submitted if reply.turn == Turn::Caller => {
                (Phase::Interim, Status::OK, Kind::Interim(reply.kind))
            }
            Phase::Abandoned if is_done => {
                self.slots.free(index);
                return None;
            }
            _ => return None,
        };
        let slot = &mut self.slots.all[index as usize];
        (slot.phase, slot.reply_len) = (phase, reply.len);
        let len = reply.len;
        Some((id, Completion { status, len, kind }))
    }

    pub(super) fn prepare_wait(&mut self, patience: Patience) -> bool {
        if self.shared.complete != 0 {
            return false;
        }
        self.shared.waiting = Some(patience);
        let in_vain = !std::mem::take(&mut self.slots.fruitful);
        if (patience == Patience::Eager || in_vain) && self.find_late() {
            self.shared.waiting = None;
            return false;
        }
        true
    }

    pub(super) fn next_lost(&mut self) -> Option<(SlotId, CallError)> {
        if self.standing.known == PeerState::Gone
            && let Some(lost) = self.next_of_the_dead()
        {
            return Some(lost);
        }
        let index = self.slots.all.iter().position(|slot| slot.unaccepted)?;
        self.slots.all[index].unaccepted = false;
        self.slots.unaccepted -= 1;
        Some((self.slots.id(index as u32), CallError::NotAccepted))
    }

    fn next_of_the_dead(&mut self) -> Option<(SlotId, CallError)> {
        for index in 0..self.slots.all.len() {
            let id = self.slots.id(index as u32);
            match self.slots.all[index].phase {
                Phase::Submitted | Phase::Interim => {
                    self.slots.outstanding -= 1;
                    if self.shared.replies[index].claimed == id.generation() {
                        self.slots.free(index as u32);
                        return Some((id, CallError::MayHaveRun));
                    }
                    self.slots.staged &= !(1 << index);
                    self.slots.set(id, Phase::Filling);
                    return Some((id, CallError::NotAccepted));
                }
                Phase::Abandoned => {
                    self.slots.outstanding -= 1;
                    self.slots.free(index as u32);
                }
                Phase::Free | Phase::Filling | Phase::Replied | Phase::Lost => {}
            }
        }
        None
    }

    /// Drops its caller; returns what is wrong with the slots then.
    pub(super) fn leave(&mut self, ground: &mut Ground) -> Option<String> {
        self.standing.is_left = true;
        self.shared.waiting = None;
        let left = self.slots.left_over();
        for index in 0..self.slots.all.len() {
            if self.is_under_way(index) {
                self.abandon(self.slots.id(index as u32), ground);
            }
        }
        let (slot, state) = left?;
        let number = self.number;
        Some(format!(
            "slot {slot} of process {number} is left as {:?}",
            state.phase
        ))
    }
}
