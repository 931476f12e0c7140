//! The caller's side of a channel, made for an event loop: nothing here blocks.
//!
//! A slot's life: `reserve` → fill → `submit` → `flush` → (`drain` says interim → `resume`)* → `drain` says
//! final → read → `release`, or `refill` and once more from there. `withdraw` takes back a call that no
//! thread has claimed; `abandon` gives up at any point. When `drain` says that a call is lost, its slot is
//! never used again. The truth about a slot is kept here, in private memory; the channel's words are hints
//! that are checked against it.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::back_end::slots::{Phase, Slots};
use crate::caller::remote::Remote;
use crate::memory::channel::Channel;
use crate::memory::layout::Layout;
use crate::pool::shared::Pool;
use crate::pool::spin::Cpu;
use crate::values::call::SlotId;
use crate::values::geometry::ChannelGeometry;

mod completing;
mod peer;
mod submitting;
mod wait;

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
    /// How often nothing was found since the last look for completions that are kept back.
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

    /// Slots that were lost with their calls; see [`Kind::Lost`](crate::Kind::Lost).
    pub fn lost_slots(&self) -> u32 {
        self.slots.count_lost()
    }

    /// Slots that are free or in use: as many as the geometry says, until more were lost than there were
    /// spare ones. When none is left, `reserve` gives none any more, and the door has to be opened anew.
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
