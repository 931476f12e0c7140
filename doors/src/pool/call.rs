//! One call, as its handler sees it on a door server thread.
//!
//! From claim to completion the slot's bytes belong to this call alone: in-process the request is
//! private already, so nothing is copied; from another process it is copied into the thread's
//! snapshot first, because that process can change it at any time. In between, `interim` lends the
//! slot to the client and waits to have it back. A call that is lost has the slot for ever; see
//! [`EmergencyReply`].

use std::io;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};

use crate::back_end::clock::now_ns;
use crate::between::hello::Message;
use crate::between::socket;
use crate::memory::channel::{Channel, Claimed};
use crate::pool::emergency::EmergencyReply;
use crate::pool::shared::Pool;
use crate::pool::thread_state::ThreadState;
use crate::rules::gone::Gone;
use crate::rules::sync::Ordering;
use crate::values::call::Resumed;
use crate::values::descriptors::{DESCRIPTORS_MAX, Descriptors};
use crate::values::door::Limits;
use crate::values::peer::Credentials;
use crate::values::refusal::Lie;
use crate::values::status::Status;

/// How long a client in another process may keep the turn: far longer than any front end lets its own clients
/// take.
const TURN_NS: u64 = 300_000_000_000;

/// What runs behind a door.
pub trait DoorHandler {
    /// Serves one call on door server thread `thread`, and completes it. Returning or unwinding
    /// without [`Call::complete`] completes the call with [`Status::FAULT`].
    fn call(&self, thread: u32, call: &mut Call<'_>);

    /// Whether the thread is to leave: to come out of [`Door::serve`](crate::Door::serve) after this call.
    /// Asked after every call. Another thread may come in its place, by serving under the same number.
    fn leaves(&self) -> bool {
        false
    }
}

impl<F: Fn(u32, &mut Call<'_>)> DoorHandler for F {
    fn call(&self, thread: u32, call: &mut Call<'_>) {
        self(thread, call);
    }
}

/// One request on a door server thread. Having one says that the slot's bytes are ours, until
/// `complete`.
#[derive(Debug)]
pub struct Call<'a> {
    pool: &'a Pool,
    channel: &'a Channel,
    claimed: Claimed,
    thread: u32,
    claimed_at_ns: u64,
    completed: bool,
    /// Where the request lies: in its slot, or in this thread's snapshot of it.
    request: NonNull<u8>,
    descriptors: Option<Descriptors>,
    /// A call stays on its thread: what it counts is counted without contention.
    not_send: PhantomData<*const ()>,
}

impl<'a> Call<'a> {
    pub(crate) fn new(
        pool: &'a Pool,
        channel: &'a Channel,
        claimed: Claimed,
        thread: u32,
        claimed_at_ns: u64,
    ) -> Self {
        let request = match (&channel.link, &pool.snapshots) {
            (Some(_), Some(snapshots)) => snapshots.of(thread),
            _ => channel.layout.request_bytes(claimed.slot),
        };
        Self {
            pool,
            channel,
            claimed,
            thread,
            claimed_at_ns,
            completed: false,
            request,
            descriptors: None,
            not_send: PhantomData,
        }
    }

    /// Brings in what the client has sent, once it is within the door's limits.
    pub(crate) fn begin(&mut self) -> Result<(), Status> {
        let Some(link) = &self.channel.link else {
            return Ok(());
        };
        let Limits {
            data_min,
            data_max,
            descriptors_max,
        } = self.pool.remote.limits;
        let len = self.claimed.request_len;
        if self.claimed.descriptors > 0 {
            let parcel = link.take_parcel(self.claimed.slot, self.claimed.generation);
            let Some(descriptors) = parcel else {
                if link.is_blocked() {
                    return Err(Status::DESCRIPTORS_LOST);
                }
                link.poison(Lie::Descriptors);
                return Err(Status::FAULT);
            };
            if descriptors.len() > descriptors_max as usize {
                return Err(Status::DESCRIPTORS);
            }
            self.descriptors = Some(descriptors);
        }
        if len < data_min {
            return Err(Status::DATA_MIN);
        }
        if len > data_max {
            return Err(Status::DATA_MAX);
        }
        self.fetch_request(0, len);
        Ok(())
    }

    /// After [`interim`](Self::interim): brings `len` bytes at `offset` of the request slot, which the client
    /// has put there meanwhile, to where [`request_slot`](Self::request_slot) shows them. In-process they are
    /// there already.
    ///
    /// # Panics
    /// If they do not lie in the slot.
    pub fn fetch_request(&mut self, offset: usize, len: usize) {
        let size = self.channel.layout.geometry().request_size;
        assert!(
            offset <= size && len <= size - offset,
            "{len} bytes at {offset} of a slot of {size}"
        );
        if self.channel.link.is_none() || self.completed {
            return;
        }
        // SAFETY: both are `request_size` bytes long; the slot is mapped while the call holds its channel,
        // the snapshot is this thread's alone and overlaps nothing. The other process may write the slot
        // meanwhile: then some mixture of its bytes arrives, which is trusted as little as any other; no
        // reference to them is made.
        unsafe {
            ptr::copy_nonoverlapping(
                self.channel
                    .layout
                    .request_bytes(self.slot())
                    .as_ptr()
                    .add(offset),
                self.request.as_ptr().add(offset),
                len,
            );
        }
    }

    /// The caller: the process that opened the door, as it was then. For a caller in this process: this
    /// process.
    pub fn cred(&self) -> Credentials {
        match &self.channel.link {
            Some(link) => link.credentials,
            None => Credentials::ours(),
        }
    }

    /// The descriptors that came with the call; the handler's now. What it does not take is closed after the
    /// call.
    pub fn take_descriptors(&mut self) -> Descriptors {
        self.descriptors.take().unwrap_or_default()
    }

    /// The request's bytes; empty after completion.
    pub fn request(&self) -> &[u8] {
        if self.completed {
            return &[];
        }
        // SAFETY: request_len is at most request_size, and the bytes are initialised (zeroed, then
        // written by the client, or copied from there). A snapshot is written by this thread alone,
        // in `fetch_request`; a slot of this process until we complete by the client only inside
        // `interim`. Both borrow this call exclusively.
        unsafe { std::slice::from_raw_parts(self.request.as_ptr(), self.claimed.request_len) }
    }

    /// The whole request slot, for a protocol that has pieces put elsewhere than at its start.
    /// Between `interim` and completion its bytes are stable; during `interim` the client may write
    /// them (and `fetch_request` does, after it), so no reference into it may be alive then that
    /// covers what is written.
    pub fn request_slot(&self) -> NonNull<[u8]> {
        let size = self.channel.layout.geometry().request_size;
        NonNull::slice_from_raw_parts(self.request, size)
    }

    /// The whole reply slot, to build the reply in place; empty after completion. What an earlier
    /// call left is still there.
    pub fn reply_mut(&mut self) -> &mut [u8] {
        if self.completed {
            return &mut [];
        }
        let bytes = self.channel.layout.reply_bytes(self.slot());
        // SAFETY: as for `request`: until we complete, the client reads the reply slot only inside
        // `interim`; and `&mut self` makes this the only reference on our side.
        unsafe { std::slice::from_raw_parts_mut(bytes.as_ptr(), self.reply_size()) }
    }

    /// When the caller stops caring: `CLOCK_MONOTONIC` in nanoseconds, 0 for never.
    pub fn deadline(&self) -> u64 {
        self.claimed.deadline_ns
    }

    /// When a thread took this call up: `CLOCK_MONOTONIC` in nanoseconds, as it was last read for the
    /// policies; while handlers are short that may be up to seven of them ago.
    pub fn claimed_at_ns(&self) -> u64 {
        self.claimed_at_ns
    }

    /// The channel's index, in the order in which channels were added to the door.
    pub fn channel(&self) -> u32 {
        self.channel.index
    }

    /// The slot's index in its channel.
    pub fn slot(&self) -> u32 {
        self.claimed.slot
    }

    /// Which use of the slot this is.
    pub fn generation(&self) -> u32 {
        self.claimed.generation
    }

    /// Whether the final reply has been published.
    pub fn is_completed(&self) -> bool {
        self.completed
    }

    /// Whether the caller waits no longer for this call: it has its reply, has given it up, or has left. An
    /// atomic load.
    pub fn is_abandoned(&self) -> bool {
        // After the reply the slot's turn may be that of another call.
        self.completed
            || self.channel.layout.turn(self.slot()).is_abandoned()
            || self.channel.is_closed()
    }

    /// Makes the first `len` bytes of the reply slot the final reply, of which the client is told now, or
    /// with those of the next calls, or when nothing is left to do; if it sleeps without a timeout, now. Once
    /// per call; a second completion is a bug that debug builds report and that is otherwise ignored.
    ///
    /// # Panics
    /// If `len` is more than the reply slot holds.
    pub fn complete(&mut self, len: usize, status: Status) {
        let at_once = self.claimed.sync;
        self.complete_and_tell(len, status, at_once);
    }

    fn complete_and_tell(&mut self, len: usize, status: Status, at_once: bool) {
        debug_assert!(!self.completed, "a call is completed once");
        if self.completed {
            return;
        }
        assert!(
            len <= self.reply_size(),
            "a reply of {len} bytes in a slot of {}",
            self.reply_size()
        );
        self.completed = true;
        let state = self.state();
        state.count(status);
        // Before the reply: a client that sends its next call at once finds us, and wakes no thread.
        self.pool.idle().come_back(self.thread);
        self.channel.finish_reply(&self.claimed, len, status);
        self.pool
            .tell_of(self.channel, self.thread, self.slot(), at_once);
    }

    /// As [`complete`](Self::complete), for a handler that goes on afterwards, perhaps for long: the client
    /// is told now, and no call counts on this thread until the handler has returned.
    ///
    /// # Panics
    /// As `complete`.
    pub fn complete_early(&mut self, len: usize, status: Status) {
        self.complete_and_tell(len, status, true);
        self.pool.keep_no_more(self.thread);
        self.pool.report(self.thread);
        // Calls that have counted on this thread since the reply are found by this.
        self.pool.leave_to_block(self.thread);
    }

    /// As [`complete`](Self::complete), and sends duplicates of descriptors along.
    ///
    /// # Errors
    /// The client is in this process, or does not read its socket, or there are more than 16: nothing was
    /// sent, and the call is not completed.
    ///
    /// # Panics
    /// As `complete`.
    pub fn complete_with(
        &mut self,
        len: usize,
        status: Status,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        if !descriptors.is_empty() {
            let link = self.channel.link.as_ref();
            let link = link.ok_or(io::ErrorKind::Unsupported)?;
            if descriptors.len() > DESCRIPTORS_MAX {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            let parcel = Message::Parcel {
                slot: self.slot(),
                generation: self.generation(),
            };
            socket::say(&link.socket, &parcel, descriptors)?;
        }
        let header = self.channel.layout.reply_header(self.slot());
        header
            .descriptors
            .store(descriptors.len() as u32, Ordering::Relaxed);
        self.complete(len, status);
        Ok(())
    }

    /// Completes the call with [`Status::REPLY_TOO_BIG`]: the reply would have `needed` bytes, more than a
    /// slot.
    pub fn reply_too_big(&mut self, needed: usize) {
        let bytes = (needed as u64).to_le_bytes();
        self.reply_mut()[..bytes.len()].copy_from_slice(&bytes);
        self.complete(bytes.len(), Status::REPLY_TOO_BIG);
    }

    /// Hands the first `len` bytes of the reply slot to the client, marked with the application's
    /// word `kind`, and blocks until the client gives the turn back. Afterwards `request()` is what
    /// the client has put into the request slot meanwhile, and the reply slot is ours again.
    ///
    /// # Errors
    /// [`Gone`]: the client has abandoned the call (or this call is completed already). Complete
    /// it; the reply will not be read.
    ///
    /// # Panics
    /// If `len` is more than the reply slot holds.
    pub fn interim(&mut self, len: usize, kind: u32) -> Result<Resumed, Gone> {
        debug_assert!(
            !self.completed,
            "a completed call has no more interim replies"
        );
        if self.completed {
            return Err(Gone);
        }
        assert!(
            len <= self.reply_size(),
            "a piece of {len} bytes in a slot of {}",
            self.reply_size()
        );
        let slot = self.slot();
        let header = self.channel.layout.reply_header(slot);
        header.len.store(len as u32, Ordering::Relaxed);
        header.kind.store(kind, Ordering::Relaxed);
        let turn = self.channel.layout.turn(slot);
        turn.to_client()?;
        self.pool.tell_of(self.channel, self.thread, slot, true);
        self.pool.keep_no_more(self.thread);
        self.pool.report(self.thread);

        self.pool.leave_to_block(self.thread);
        // A client in another process may never give the turn back, and must not keep a thread by that.
        let until_ns = self.channel.link.as_ref().map(|_| now_ns() + TURN_NS);
        let channel = self.channel;
        turn.wait_for_client(|| {
            channel.is_closed() || until_ns.is_some_and(|until_ns| now_ns() > until_ns)
        })?;
        self.claimed.request_len = self.channel.request_len(slot);
        Ok(Resumed {
            request_len: self.claimed.request_len,
        })
    }

    /// A handle with which this call can be ended from a place that cannot return here: inside a
    /// failing allocation, or in a signal handler on another stack. Make it before it is needed;
    /// making one costs nothing.
    pub fn emergency(&self) -> EmergencyReply {
        EmergencyReply::new(self.pool, self.channel, self.claimed, self.thread)
    }

    fn reply_size(&self) -> usize {
        self.channel.layout.geometry().reply_size
    }

    fn state(&self) -> &'a ThreadState {
        &self.pool.threads[self.thread as usize].0
    }
}
