//! The caller's side of a channel, made for an event loop: nothing here blocks.
//!
//! A slot's life: `reserve` → fill → `submit` → `flush` → (`drain` says interim → `resume`)* → `drain` says
//! final → read → `release`, or `refill` and once more from there. `withdraw` takes back a call that no
//! thread has claimed; `abandon` gives up at any point. When `drain` says that a call is lost, its slot has
//! no further life. The truth about a slot is kept here, in private memory; the channel's words are hints
//! that are checked against it.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::back_end::slots::{Phase, Slots, bits_of, place, words_of};
use crate::caller::remote::Remote;
use crate::memory::channel::Channel;
use crate::memory::layout::Layout;
use crate::pool::shared::Pool;
use crate::pool::spin::Cpu;
use crate::rules::bitmap::BITS;
use crate::rules::sync::Ordering;
use crate::values::call::{Completion, Kind, SlotId, Withdraw};
use crate::values::error::CallError;
use crate::values::geometry::ChannelGeometry;
use crate::values::status::Status;

mod peer;
mod wait;

/// Words of completions in a row that turn out to be none, after which another process is taken for broken.
const FRUITLESS_MAX: u32 = 100_000;

/// A caller that finds nothing looks for replies that are kept back so often: the thread that has them may be
/// in a handler that blocks.
const LOOK_EVERY: u32 = 16;

/// One caller of a door: owned by one thread at a time.
#[derive(Debug)]
pub struct AsyncClient {
    peer: Peer,
    layout: Layout,
    slots: Slots,
    /// Bits of calls that `flush` will publish, and which words have any.
    staged: Box<[u64]>,
    touched: u128,
    /// Completion bits that were taken from the channel and not looked at yet.
    taken: u64,
    taken_word: usize,
    outstanding: usize,
    /// Words of completions in a row that were none.
    fruitless: u32,
    /// Slots whose calls were not accepted and not told yet.
    unaccepted: usize,
    /// Where its thread ran when that was last asked.
    cpu: Cpu,
    /// Times that nothing was found since completions that were kept back were looked for.
    unlooked: u32,
    /// A reply was found since the caller last went to sleep.
    fruitful: bool,

    not_sync: PhantomData<Cell<()>>,
}

/// Where the door is.
#[derive(Debug)]
enum Peer {
    /// In this process.
    Local {
        pool: Arc<Pool>,
        channel: Arc<Channel>,
    },
    /// In another one.
    Remote(Box<Remote>),
}

impl AsyncClient {
    pub(crate) fn local(pool: Arc<Pool>, channel: Arc<Channel>) -> Self {
        let layout = channel.layout;
        Self::new(Peer::Local { pool, channel }, layout)
    }

    fn new(peer: Peer, layout: Layout) -> Self {
        let geometry = layout.geometry();
        Self {
            peer,
            layout,
            slots: Slots::new(geometry.slots, geometry.spares),
            staged: vec![0; geometry.words()].into_boxed_slice(),
            touched: 0,
            taken: 0,
            taken_word: 0,
            outstanding: 0,
            fruitless: 0,
            unaccepted: 0,
            cpu: Cpu::current(),
            unlooked: 0,
            fruitful: false,
            not_sync: PhantomData,
        }
    }

    /// The channel's geometry.
    pub fn geometry(&self) -> ChannelGeometry {
        self.layout.geometry()
    }

    /// A free slot, to be filled. `None`: all are in use.
    pub fn reserve(&mut self) -> Option<SlotId> {
        self.slots.reserve()
    }

    /// Slots that `reserve` can still give.
    pub fn free_slots(&self) -> usize {
        self.slots.count_free()
    }

    /// Slots that were lost with their calls; see [`Kind::Lost`].
    pub fn lost_slots(&self) -> u32 {
        self.slots.count_lost()
    }

    /// Slots that are free or in use: as many as the geometry says, until more were lost than there were
    /// spare ones. When none is left, `reserve` has nothing to give any more, and the door has to be opened
    /// anew.
    pub fn usable_slots(&self) -> usize {
        self.slots.count_usable()
    }

    /// Calls whose final reply has not been drained: staged, waiting, running, streaming or
    /// abandoned.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// The bytes of the request, to be filled before `submit`, or with more of the body before
    /// `resume`.
    ///
    /// # Panics
    /// If the slot is not being filled and has no interim reply.
    pub fn request_mut(&mut self, slot: SlotId) -> &mut [u8] {
        self.request_tail_mut(slot, 0)
    }

    /// The same from an offset on. During an interim reply the handler may still be reading what it was given
    /// before, so only what the two sides have agreed to overwrite may be borrowed.
    ///
    /// # Panics
    /// If the slot is not being filled and has no interim reply, or is shorter than `from`.
    pub fn request_tail_mut(&mut self, slot: SlotId, from: usize) -> &mut [u8] {
        let phase = self.phase(slot);
        assert!(
            matches!(phase, Phase::Filling | Phase::Interim),
            "{slot:?} is {phase:?}: its request is not ours"
        );
        let bytes = self.layout.request_bytes(slot.index);
        let size = self.geometry().request_size;
        assert!(from <= size, "a slot of {size} bytes has none at {from}");
        // SAFETY: inside the slot's `request_size` initialised bytes. The server touches them only
        // between claim and completion; a slot that is being filled is not submitted, and with an
        // interim reply the server is blocked until `resume`.
        unsafe { std::slice::from_raw_parts_mut(bytes.as_ptr().add(from), size - from) }
    }

    /// Stages the call: `len` bytes of the request, and a deadline on `CLOCK_MONOTONIC` in
    /// nanoseconds (0: none) that travels to the handler. The server sees it at `flush`.
    ///
    /// # Panics
    /// If the slot is not being filled, or `len` is more than it holds.
    pub fn submit(&mut self, slot: SlotId, len: usize, deadline_ns: u64) {
        self.stage(slot, len, deadline_ns, 0);
    }

    fn stage(&mut self, slot: SlotId, len: usize, deadline_ns: u64, flags: u32) {
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

    /// Publishes the staged calls, with one atomic operation per touched word, and rings as few
    /// threads as will do.
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
    fn find_late(&mut self) -> bool {
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
    fn look_at(&mut self, index: u32) -> Option<(SlotId, Completion)> {
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

    /// A call can be lost while a piece of it is with us. Its bit came then, and meant nothing: so it is set
    /// again.
    fn look_again_if_done(&mut self, slot: SlotId) {
        let header = self.layout.reply_header(slot.index);
        if header.is_done(slot.generation) {
            let (word, bit) = place(slot.index);
            self.layout.complete().publish(word, bit);
        }
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

    /// Frees a slot whose final reply has been read, or that was never submitted. A lost one stays lost.
    ///
    /// # Panics
    /// If the call is under way: `abandon` is for that.
    pub fn release(&mut self, slot: SlotId) {
        let phase = self.phase(slot);
        assert!(
            matches!(phase, Phase::Replied | Phase::Filling | Phase::Lost),
            "{slot:?} is {phase:?}: abandon it instead"
        );
        if phase != Phase::Lost {
            self.free(slot.index);
        }
    }

    /// Fills a slot again whose final reply has been read. Its request stays as it is; the slot gets another
    /// id, and the old one is not valid any more.
    ///
    /// # Panics
    /// If the slot has no final reply.
    pub fn refill(&mut self, slot: SlotId) -> SlotId {
        let phase = self.phase(slot);
        assert!(
            phase == Phase::Replied,
            "{slot:?} is {phase:?}: only a slot with its final reply is filled again"
        );
        self.slots.refill(slot.index)
    }

    /// Tries to take a submitted call out of the server's sight.
    fn unsubmit(&mut self, slot: SlotId) -> bool {
        let (word, bit) = place(slot.index);
        self.unstage(slot) || self.layout.submit().take(word, bit) != 0
    }

    /// Takes a call out of those that `flush` will publish.
    fn unstage(&mut self, slot: SlotId) -> bool {
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

    fn free(&mut self, index: u32) {
        if std::mem::take(&mut self.slots[index as usize].unaccepted) {
            self.unaccepted -= 1;
        }
        self.slots.free(index);
    }

    fn phase(&self, id: SlotId) -> Phase {
        self.slots.phase(id)
    }
}

impl Drop for AsyncClient {
    /// Abandons every call, so that no door server thread waits for us.
    fn drop(&mut self) {
        if let Peer::Remote(remote) = &self.peer
            && !remote.is_ours()
        {
            // In a child of the process that opened the door: the channel is not here.
            return;
        }
        for index in 0..self.slots.len() {
            if !matches!(self.slots[index].phase, Phase::Free | Phase::Abandoned) {
                self.abandon(self.slots.id(index as u32));
            }
        }
        self.woke();
    }
}
