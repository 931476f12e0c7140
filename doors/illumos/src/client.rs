//! The blocking caller.

use crate::WRONG_VERSION;
use crate::async_client::AsyncClient;
use crate::exchange::{call_bytes, told_size};
use crate::found::{Found, find};
use crate::wire::{Header, Purpose};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};
use transom_doors::{
    CallError, CallOptions, Descriptors, Limit, OpenError, OpenOptions, Patience, RemoteDoor,
    Reply, Status,
};

/// A caller that blocks: `door_call` on the caller's own thread, and the reply in the caller's own buffer. A
/// native call has no time limit, so one with a timeout is made by a thread that is started for the first
/// such call.
#[derive(Debug)]
pub struct Client {
    found: Found,
    options: OpenOptions,
    /// Makes the calls that have a timeout.
    timed: Option<AsyncClient>,
}

impl Client {
    /// Opens the door at `path`.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_with(path, &OpenOptions::default())
    }

    /// The same with other limits. There is one slot, whatever they say.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_with(path: &Path, options: &OpenOptions) -> Result<Self, OpenError> {
        let options = OpenOptions {
            slots: Some(1),
            ..*options
        };
        Ok(Self {
            found: find(path, &options)?,
            options,
            timed: None,
        })
    }

    /// The door.
    pub fn door(&self) -> RemoteDoor {
        self.found.remote_now()
    }

    /// Calls: sends `request`, waits, and puts the reply at the start of `reply`. Returns its length.
    ///
    /// # Errors
    /// [`CallError`], by what may be done next.
    pub fn call(&mut self, request: &[u8], reply: &mut [u8]) -> Result<usize, CallError> {
        self.call_with(request, reply, CallOptions::default())
            .map(|reply| reply.len)
    }

    /// The same, with descriptors or a timeout.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn call_with(
        &mut self,
        request: &[u8],
        reply: &mut [u8],
        options: CallOptions<'_>,
    ) -> Result<Reply, CallError> {
        let limits = self.found.remote.limits;
        if request.len() < limits.data_min {
            return Err(CallError::Refused(Limit::DataMin));
        }
        if request.len() > limits.data_max.min(self.found.geometry.request_size) {
            return Err(CallError::Refused(Limit::DataMax));
        }
        if options.descriptors.len() > limits.descriptors_max as usize {
            return Err(CallError::Refused(Limit::Descriptors));
        }
        // A timeout that no clock reaches is none.
        let deadline = options
            .timeout
            .and_then(|timeout| Instant::now().checked_add(timeout));
        let (status, len, descriptors) = match deadline {
            None => {
                let header = Header {
                    purpose: Purpose::Call,
                    deadline_ns: 0,
                    reply_max: 0,
                };
                let door = self.found.door.as_raw_fd();
                call_bytes(door, &limits, header, request, options.descriptors, reply)?
            }
            Some(deadline) => self.call_until(request, reply, options.descriptors, deadline)?,
        };
        if let Some(error) = CallError::of_status(status) {
            return Err(error);
        }
        match status {
            Status::NOT_ACCEPTED => return Err(CallError::Refused(Limit::Accept)),
            Status::REPLY_TOO_BIG => {
                return Err(CallError::ReplyTooBig {
                    needed: told_size(&reply[..len]),
                });
            }
            WRONG_VERSION => return Err(CallError::NotAccepted),
            _ => {}
        }
        Ok(Reply {
            len,
            status,
            descriptors: if self.options.take_descriptors {
                descriptors
            } else {
                Descriptors::default()
            },
        })
    }

    /// One call by the thread of a channel of one slot.
    fn call_until(
        &mut self,
        request: &[u8],
        reply: &mut [u8],
        descriptors: &[BorrowedFd<'_>],
        deadline: Instant,
    ) -> Result<(Status, usize, Descriptors), CallError> {
        let channel = match &mut self.timed {
            Some(channel) => channel,
            None => {
                let channel = AsyncClient::to(self.found.clone(), self.options.take_descriptors);
                self.timed.insert(channel.map_err(|_| CallError::Full)?)
            }
        };
        // An earlier call that timed out holds the slot until it has ended.
        if channel.free_slots() == 0 {
            channel.drain(|_, _| {});
            while channel.next_lost().is_some() {}
        }
        let slot = channel.reserve().ok_or(CallError::Full)?;
        channel.request_mut(slot)[..request.len()].copy_from_slice(request);
        let left = deadline.saturating_duration_since(Instant::now());
        let deadline_ns = transom_doors::now_ns().saturating_add(left.as_nanos() as u64);
        let submitted = channel
            .submit_with(slot, request.len(), deadline_ns, descriptors)
            .and_then(|()| channel.flush());
        if let Err(error) = submitted {
            while channel.next_lost().is_some() {}
            channel.release(slot);
            return Err(error);
        }
        loop {
            if let Some((slot, completion)) = channel.next_completion() {
                let size = completion.len;
                let outcome = if size <= reply.len() {
                    let len = channel.copy_reply(slot, 0, reply);
                    Ok((completion.status, len, channel.take_descriptors(slot)))
                } else if completion.status == Status::REPLY_TOO_BIG {
                    let needed = told_size(channel.reply(slot));
                    Err(CallError::ReplyTooBig { needed })
                } else {
                    Err(CallError::ReplyTooBig { needed: size })
                };
                channel.release(slot);
                return outcome;
            }
            if let Some((lost, error)) = channel.next_lost() {
                if error == CallError::NotAccepted {
                    channel.release(lost);
                }
                return Err(error);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                channel.abandon(slot);
                return Err(CallError::TimedOut);
            }
            if channel.prepare_wait(Patience::Eager) {
                wait_for_ring(channel.as_raw_fd(), left);
            }
            channel.woke();
        }
    }
}

/// Waits until a doorbell rings, and takes the ring. Otherwise every later wait would see it too.
fn wait_for_ring(bell: RawFd, timeout: Duration) {
    let mut poll = libc::pollfd {
        fd: bell,
        events: libc::POLLIN,
        revents: 0,
    };
    // Up, so that a wait of less than a millisecond is one.
    let millis = timeout.as_nanos().div_ceil(1_000_000);
    let millis = libc::c_int::try_from(millis).unwrap_or(libc::c_int::MAX);
    // SAFETY: one pollfd, valid for the call.
    let ready = unsafe { libc::poll(&raw mut poll, 1, millis) };
    if ready > 0 {
        let mut rings = 0_u64;
        // SAFETY: an eventfd gives eight bytes, for which there is room. It is readable, and read by this
        // thread alone.
        unsafe { libc::read(bell, (&raw mut rings).cast(), size_of_val(&rings)) };
    }
}
