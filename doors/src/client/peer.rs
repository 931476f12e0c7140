//! The other side of a channel, which may be another process: whether it still serves, and which calls are lost if not.

use std::os::fd::{BorrowedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use crate::client::AsyncClient;
use crate::error::{CallError, OpenError};
use crate::slot::{Phase, SlotId};

/// How to open a door at a path.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// How long the other side may take to answer.
    pub timeout: Duration,
    /// The most bytes of a channel: a door that wants a larger one is refused.
    pub channel_bytes_max: usize,
    /// Slots of the channel, at most as many as the door offers; `None`: as many as it offers.
    pub slots: Option<u32>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(1),
            channel_bytes_max: 256 << 20,
            slots: None,
        }
    }
}

/// What the server's side of a channel does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// It takes calls.
    Serving,
    /// The door was revoked: calls under way complete, new ones are refused.
    Revoked,
    /// The process has ended, or its channel was given up because it lied: nothing more comes.
    Gone,
}

impl AsyncClient {
    /// Opens the door at `path`. Blocks for at most `options.timeout`.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self, OpenError> {
        let _ = (path, options);
        Err(OpenError::Unsupported)
    }

    /// A descriptor that becomes readable when there is news of the other side: then call
    /// [`check_peer`](Self::check_peer). `None` in-process. Register it with `EPOLLIN | EPOLLRDHUP | EPOLLET`.
    pub fn peer_fd(&self) -> Option<RawFd> {
        None
    }

    /// Looks what the other side does. When it is [`PeerState::Gone`], drain the completions that are there, then
    /// [`next_lost`](Self::next_lost) until it is empty.
    pub fn check_peer(&mut self) -> PeerState {
        self.peer_state()
    }

    /// What was last known of the other side, without looking.
    pub fn peer_state(&self) -> PeerState {
        if self.inner.revoked.is_raised() {
            PeerState::Revoked
        } else {
            PeerState::Serving
        }
    }

    /// After the doorbell rang: whether anything came of it. A server that rings again and again for nothing is given
    /// up.
    pub fn note_ring(&mut self, useful: bool) {
        let _ = useful;
    }

    /// A call that will have no reply, after [`check_peer`](Self::check_peer) said `Gone` or
    /// [`flush`](Self::flush) failed; each is told once. [`CallError::NotAccepted`]: no thread has seen it; its slot is
    /// being filled again, so its request can be read with [`request`](Self::request), then `release` it.
    /// [`CallError::MayHaveRun`]: its slot is free again and the id not valid any more.
    pub fn next_lost(&mut self) -> Option<(SlotId, CallError)> {
        loop {
            let id = self.lost.pop()?;
            let slot = &self.slots[id.index()];
            if slot.generation == id.generation && slot.phase == Phase::Filling {
                return Some((id, CallError::NotAccepted));
            }
        }
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
        let len = self.channel.request_len(slot.index);
        let bytes = self.channel.layout.request_bytes(slot.index);
        // SAFETY: `len` is at most the slot's size; the bytes are initialised, and written by nobody but us while the
        // slot is being filled, which needs `&mut self`.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr(), len) }
    }

    /// As [`submit`](Self::submit), and sends duplicates of descriptors along, which the handler owns.
    ///
    /// # Errors
    /// The door refuses descriptors, takes fewer, or the socket that carries them is full: the slot is still being
    /// filled.
    pub fn submit_with(
        &mut self,
        slot: SlotId,
        len: usize,
        deadline_ns: u64,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), CallError> {
        let _ = (slot, len, deadline_ns, descriptors);
        Err(CallError::NotAccepted)
    }
}
