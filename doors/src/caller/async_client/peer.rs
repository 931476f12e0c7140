//! The other side of a channel, which may be another process: whether it still serves, and which calls are
//! lost if not.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use crate::back_end::slots::{Phase, place};
use crate::between::hello::Message;
use crate::between::socket::{self, wait_readable};
use crate::caller::async_client::{AsyncClient, Peer};
use crate::caller::remote::Remote;
use crate::memory::layout::{DESCRIPTORS_SHIFT, SYNC};
use crate::pool::spin::{Cpu, Spins};
use crate::rules::sync::Ordering;
use crate::values::call::{Completion, SlotId};
use crate::values::descriptors::Descriptors;
use crate::values::door::RemoteDoor;
use crate::values::error::{CallError, Limit, OpenError};
use crate::values::options::OpenOptions;
use crate::values::peer::PeerState;

impl AsyncClient {
    /// Opens the door at `path`. Blocks for at most `options.timeout` or so.
    ///
    /// # Errors
    /// [`OpenError`]: no process serves there, it refused (with both sides' numbers), or it does not keep to
    /// the protocol.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self, OpenError> {
        let (remote, layout) = Remote::open(path, options)?;
        Ok(Self::new(Peer::Remote(Box::new(remote)), layout))
    }

    pub(super) fn remote(&self) -> Option<&Remote> {
        match &self.peer {
            Peer::Local { .. } => None,
            Peer::Remote(remote) => Some(remote),
        }
    }

    pub(super) fn remote_mut(&mut self) -> Option<&mut Remote> {
        match &mut self.peer {
            Peer::Local { .. } => None,
            Peer::Remote(remote) => Some(remote),
        }
    }

    /// What is known of a door in another process; `None` in-process.
    pub fn door(&self) -> Option<RemoteDoor> {
        self.remote().map(Remote::door)
    }

    /// A descriptor that becomes readable when there is news of the other side: then call
    /// [`check_peer`](Self::check_peer). `None` in-process. Register it with `EPOLLIN | EPOLLET`.
    pub fn peer_fd(&self) -> Option<RawFd> {
        self.remote().map(|remote| remote.news.as_raw_fd())
    }

    /// Looks at what the other side does: one to three system calls. When it is [`PeerState::Gone`], drain
    /// the completions that are there, then [`next_lost`](Self::next_lost) until it is empty.
    pub fn check_peer(&mut self) -> PeerState {
        let before = self.peer_state();
        let Some(remote) = self.remote_mut() else {
            return before;
        };
        let now = remote.listen();
        if now == PeerState::Gone && before != PeerState::Gone {
            // It may have died between a reply and its bit.
            for index in 0..self.slots.len() as u32 {
                let (word, bit) = place(index);
                self.layout.complete().publish(word, bit);
            }
        }
        now
    }

    /// What was last known of the other side, without looking.
    pub fn peer_state(&self) -> PeerState {
        match &self.peer {
            Peer::Local { pool, .. } if pool.revoked().is_raised() => PeerState::Revoked,
            Peer::Local { .. } => PeerState::Serving,
            Peer::Remote(remote) => remote.state,
        }
    }

    /// Why the other side was given up, if that was for a lie.
    pub fn lie(&self) -> Option<&'static str> {
        self.remote().and_then(|remote| remote.lie)
    }

    /// After the doorbell rang: whether it brought anything. A server that rings again and again for nothing
    /// is given up.
    pub fn note_ring(&mut self, useful: bool) {
        if let Some(remote) = self.remote_mut() {
            remote.note_ring(useful);
        }
    }

    /// A call that will have no reply, after [`check_peer`](Self::check_peer) said `Gone` or
    /// [`flush`](Self::flush) failed; each is told once. [`CallError::NotAccepted`]: no thread has seen it;
    /// its slot is being filled again, so its request can be read with [`request`](Self::request), then
    /// `release` it.
    /// [`CallError::MayHaveRun`]: its slot is free again and the id not valid any more.
    pub fn next_lost(&mut self) -> Option<(SlotId, CallError)> {
        if self.peer_state() == PeerState::Gone
            && let Some(lost) = self.next_of_the_dead()
        {
            return Some(lost);
        }
        if self.unaccepted == 0 {
            return None;
        }
        let index = self.slots.iter().position(|slot| slot.unaccepted)?;
        self.slots[index].unaccepted = false;
        self.unaccepted -= 1;
        Some((self.slots.id(index as u32), CallError::NotAccepted))
    }

    /// The next call that was under way when the other side died.
    fn next_of_the_dead(&mut self) -> Option<(SlotId, CallError)> {
        for index in 0..self.slots.len() {
            let id = self.slots.id(index as u32);
            match self.slots[index].phase {
                Phase::Submitted | Phase::Interim => {
                    self.outstanding -= 1;
                    if self.was_claimed(id) {
                        self.free(id.index);
                        return Some((id, CallError::MayHaveRun));
                    }
                    self.unstage(id);
                    self.slots[index].phase = Phase::Filling;
                    return Some((id, CallError::NotAccepted));
                }
                Phase::Abandoned => {
                    self.outstanding -= 1;
                    self.free(id.index);
                }
                Phase::Free | Phase::Filling | Phase::Replied | Phase::Lost => {}
            }
        }
        None
    }

    /// Whether a thread has taken a call up, as the server has noted.
    fn was_claimed(&self, id: SlotId) -> bool {
        let header = self.layout.reply_header(id.index);
        header.claim_generation.load(Ordering::Acquire) == id.generation
    }

    /// The bytes of a request that was submitted and not accepted, as long as its slot is not released.
    ///
    /// # Panics
    /// If the slot is not being filled.
    pub fn request(&self, slot: SlotId) -> &[u8] {
        let phase = self.phase(slot);
        assert!(
            phase == Phase::Filling,
            "{slot:?} is {phase:?}: its request is not ours"
        );
        let header = self.layout.request_header(slot.index);
        let len = header.len.load(Ordering::Relaxed) as usize;
        let bytes = self.layout.request_bytes(slot.index);
        // SAFETY: we wrote the length and checked it against the slot's size (the other side cannot write
        // there); the bytes are initialised, and only we write them while the slot is being filled, which
        // needs `&mut self`.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr(), len) }
    }

    /// As [`submit`](Self::submit), and sends duplicates of descriptors along, which the handler owns.
    ///
    /// # Errors
    /// [`CallError::Refused`]: the door takes none, or fewer. [`CallError::Full`]: the socket that carries
    /// them is; try again later. [`CallError::NotAccepted`]: the other side is gone. The slot is still being
    /// filled.
    ///
    /// # Panics
    /// As `submit`; or if the door is in this process, where descriptors need no sending.
    pub fn submit_with(
        &mut self,
        slot: SlotId,
        len: usize,
        deadline_ns: u64,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), CallError> {
        self.submit_flagged(slot, len, deadline_ns, descriptors, 0)
    }

    /// As `submit_with`, for a caller that will wait in [`wait_for_slot`](Self::wait_for_slot).
    pub(crate) fn submit_sync(
        &mut self,
        slot: SlotId,
        len: usize,
        deadline_ns: u64,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), CallError> {
        self.cpu = Cpu::current();
        self.submit_flagged(slot, len, deadline_ns, descriptors, SYNC)
    }

    /// Waits on a slot's own word for its final reply.
    pub(crate) fn wait_for_slot(
        &mut self,
        slot: SlotId,
        spins: &mut Spins,
        timeout: Duration,
    ) -> Option<Completion> {
        let header = self.layout.reply_header(slot.index);
        let turn = self.layout.turn(slot.index);
        // Not the header's generation: the server writes this word after it, and must be done with it before
        // the next call.
        let is_done = || turn.is_over().then_some(true);
        // Where the server ran when it answered the last call.
        let server = Cpu(header.cpu.load(Ordering::Relaxed));
        if !spins.look(server, is_done) {
            turn.wait_for_server(timeout);
        }
        self.look_at(slot.index).map(|(_, completion)| completion)
    }

    /// Waits for the doorbell or for news of the other side.
    pub(crate) fn wait_for_news(&self, timeout: Option<Duration>) {
        if let Some(remote) = self.remote() {
            wait_readable(&remote.ears(), timeout);
            remote.hush();
        }
    }

    fn submit_flagged(
        &mut self,
        slot: SlotId,
        len: usize,
        deadline_ns: u64,
        descriptors: &[BorrowedFd<'_>],
        flags: u32,
    ) -> Result<(), CallError> {
        let remote = self
            .remote_mut()
            .expect("descriptors are sent to other processes");
        let count = descriptors.len() as u32;
        if count > remote.limits().descriptors_max {
            return Err(CallError::Refused(Limit::Descriptors));
        }
        if count > 0 {
            let parcel = Message::Parcel {
                slot: slot.index,
                generation: slot.generation,
            };
            if let Err(error) = socket::say(&remote.socket, &parcel, descriptors) {
                return Err(match error.kind() {
                    io::ErrorKind::WouldBlock => CallError::Full,
                    _ => CallError::NotAccepted,
                });
            }
        }
        self.stage(slot, len, deadline_ns, flags | (count << DESCRIPTORS_SHIFT));
        Ok(())
    }

    /// The descriptors that came with a final reply.
    ///
    /// # Panics
    /// If the slot has no reply.
    pub fn take_descriptors(&mut self, slot: SlotId) -> Descriptors {
        let _ = self.reply_bytes(slot);
        let header = self.layout.reply_header(slot.index);
        if header.descriptors.load(Ordering::Relaxed) == 0 {
            return Descriptors::default();
        }
        self.remote_mut()
            .and_then(|remote| remote.take_parcel(slot.index, slot.generation))
            .unwrap_or_default()
    }
}
