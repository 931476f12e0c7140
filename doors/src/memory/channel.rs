//! The server's side of one channel: claim a call, publish its reply, ring its client.
//!
//! Claiming and publishing are atomics and, for the doorbell, one system call: they may run in a signal
//! handler. A channel to another process has a [`Link`] in addition: what is believed of that process, and
//! what was found to be a lie.
//!
//! A channel in which a call was lost stays mapped for as long as the process lives: threads may use the lost
//! call's reply slot for ever, whether its client has left or not.

use std::sync::atomic::AtomicBool;

use crate::back_end::bell::Bell;
use crate::between::link::Link;
use crate::memory::layout::{DESCRIPTORS_SHIFT, Layout, SYNC};
use crate::pool::spin::Cpu;
use crate::rules::sync::{AtomicU32, Line, Ordering};
use crate::values::refusal::Lie;
use crate::values::status::Status;

/// One channel of a door.
#[derive(Debug)]
pub struct Channel {
    /// Its number among the door's channels.
    pub index: u32,
    /// Its number among all channels to other processes that the door ever had; 0: it is to this process.
    pub id: u64,
    pub layout: Layout,
    pub bell: Bell,
    /// Where the next claim starts to look, so that no slot waits for its higher neighbours for
    /// ever. Per channel: a start that moved with other channels' claims could skip the same slot
    /// each time. Only a hint between workers.
    cursor: Line<AtomicU32>,
    /// The client is another process.
    pub link: Option<Link>,
    /// A call was lost here.
    lost: AtomicBool,
}

/// A call as its claimer read it: once, into private memory.
#[derive(Clone, Copy, Debug)]
pub struct Claimed {
    pub slot: u32,
    pub generation: u32,
    pub request_len: usize,
    pub deadline_ns: u64,
    pub descriptors: u32,
    /// Its caller waits on the slot's turn word.
    pub sync: bool,
    /// Where its caller ran.
    pub cpu: Cpu,
}

impl Channel {
    pub fn new(index: u32, id: u64, layout: Layout, bell: Bell, link: Option<Link>) -> Self {
        Self {
            index,
            id,
            layout,
            bell,
            cursor: Line(AtomicU32::new(0)),
            link,
            lost: AtomicBool::new(false),
        }
    }

    /// Takes one submitted call for `thread`, if there is one. It is the caller's until its reply is
    /// published.
    pub fn claim(&self, thread: u32) -> Option<Claimed> {
        if self.is_closed() {
            return None;
        }
        let slots = self.layout.geometry().slots_in_all();
        let slot = self
            .layout
            .submit()
            .take_one_from(self.cursor.0.load(Ordering::Relaxed))?;
        if slot >= slots {
            // The last word can have more bits than there are slots; only a lying peer sets them.
            self.poison(Lie::Slot);
            return None;
        }
        let next = if slot + 1 == slots { 0 } else { slot + 1 };
        self.cursor.0.store(next, Ordering::Relaxed);
        if self.link.is_some() {
            // Slots are used in turn, so that is most likely the next call.
            self.layout.prefetch_request(next);
        }
        if let Some(link) = &self.link
            && !link.begin_service(slot, thread)
        {
            self.poison(Lie::Twice);
            return None;
        }

        // Each word of the other side's is read once.
        let header = self.layout.request_header(slot);
        let generation = header.generation.load(Ordering::Relaxed);
        let flags = header.flags.load(Ordering::Relaxed);
        let alleged = header.len.load(Ordering::Relaxed) as usize;
        let request_size = self.layout.geometry().request_size;
        if alleged > request_size {
            self.poison(Lie::Length);
            return None;
        }
        if generation == 0 {
            self.poison(Lie::Generation);
            return None;
        }
        let reply = self.layout.reply_header(slot);
        if self.link.is_some() {
            reply.descriptors.store(0, Ordering::Relaxed);
        }
        reply.claim_generation.store(generation, Ordering::Release);
        Some(Claimed {
            slot,
            generation,
            request_len: alleged,
            deadline_ns: header.deadline_ns.load(Ordering::Relaxed),
            descriptors: flags >> DESCRIPTORS_SHIFT,
            sync: flags & SYNC != 0,
            cpu: Cpu(header.cpu.load(Ordering::Relaxed)),
        })
    }

    /// The length of the request in `slot`, never more than a slot holds, whatever the header
    /// alleges.
    pub fn request_len(&self, slot: u32) -> usize {
        let alleged = self.layout.request_header(slot).len.load(Ordering::Relaxed) as usize;
        alleged.min(self.layout.geometry().request_size)
    }

    /// Makes `len` bytes of the reply slot the final reply. The slot is the client's from here on, and the
    /// client is to be told of it.
    pub fn finish_reply(&self, claimed: &Claimed, len: usize, status: Status) {
        if let Some(link) = &self.link {
            link.end_service(claimed.slot);
        }
        self.publish(claimed, len, status);
    }

    /// Ends a call whose handler's frame, and all that it has lent, stays on its thread for ever: the slot is
    /// the server's from here on, and the client is told so. It stays in service, so a client in another
    /// process that submits a call in it again has lied, and no thread takes that up.
    pub fn finish_lost(&self, claimed: &Claimed, status: Status) {
        // Before the thread releases the channel: then the porter sees it in time.
        self.lost.store(true, Ordering::Relaxed);
        let header = self.layout.reply_header(claimed.slot);
        header.lost.store(1, Ordering::Relaxed);
        self.publish(claimed, 0, status);
    }

    /// Whether a call was lost here.
    pub fn has_lost_calls(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    fn publish(&self, claimed: &Claimed, len: usize, status: Status) {
        let header = self.layout.reply_header(claimed.slot);
        header.len.store(len as u32, Ordering::Relaxed);
        header.status.store(status.0, Ordering::Relaxed);
        if claimed.sync {
            header.cpu.store(Cpu::current().0, Ordering::Relaxed);
        }
        header
            .done_generation
            .store(claimed.generation, Ordering::Release);
        // A caller that waits on the turn word may use the slot again as soon as that changes; another one
        // when it sees the bit, or looks itself.
        if claimed.sync {
            self.layout.turn(claimed.slot).finish();
        }
    }

    /// Whether this use of the slot has had its final reply, even if the slot was used again since.
    /// Generations are compared as serial numbers: they wrap.
    pub fn was_done(&self, slot: u32, generation: u32) -> bool {
        let done = self
            .layout
            .reply_header(slot)
            .done_generation
            .load(Ordering::Acquire);
        done != 0 && done.wrapping_sub(generation) as i32 >= 0
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

    /// Calls that wait for a claimer; none of a channel that was given up.
    pub fn has_backlog(&self) -> bool {
        !self.is_closed() && self.layout.submit().any()
    }

    /// Whether the channel was given up: no process sees what is put into it.
    pub fn is_closed(&self) -> bool {
        self.link.as_ref().is_some_and(Link::is_closed)
    }

    /// Gives the channel up, because its client has lied.
    pub fn poison(&self, lie: Lie) {
        if let Some(link) = &self.link {
            link.poison(lie);
        }
    }
}
