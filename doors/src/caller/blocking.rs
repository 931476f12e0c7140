//! The caller that waits: a door is opened, and called like a function.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::caller::async_client::AsyncClient;
use crate::pool::spin::Spins;
use crate::rules::waiting::Patience;
use crate::values::call::Reply;
use crate::values::call::{Completion, Kind, SlotId};
use crate::values::door::RemoteDoor;
use crate::values::error::{CallError, Limit, OpenError};
use crate::values::options::{CallOptions, OpenOptions};
use crate::values::peer::PeerState;
use crate::values::status::Status;

/// How long a call waits on its slot alone, which is the fastest way to wait; then it also listens for the
/// other side's death. Longer than to the kernel's next tick: a timer that is due before that has to be set
/// in hardware, which costs more than everything else here (measured: 0.2 µs on one CPU, 1.5 µs on two).
const SHORT: Duration = Duration::from_millis(50);

/// A door in another process, opened for one call at a time. Several threads that want to call at once open
/// it several times. After a call that was lost on the other side ([`Kind::Lost`]) the next one opens it
/// anew, because the channel's slot is lost too.
///
/// ```no_run
/// use transom_doors::Client;
/// let mut door = Client::open("/run/echo.door".as_ref())?;
/// let mut reply = [0; 4096];
/// let len = door.call(b"hello", &mut reply)?;
/// assert_eq!(&reply[..len], b"hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Client {
    channel: AsyncClient,
    spins: Spins,
    path: PathBuf,
    options: OpenOptions,
}

impl Client {
    /// Opens the door at `path`.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_with(path, &OpenOptions::default())
    }

    /// The same with other limits. The channel has one slot and no spare one, whatever they say.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_with(path: &Path, options: &OpenOptions) -> Result<Self, OpenError> {
        let options = OpenOptions {
            slots: Some(1),
            spares: Some(0),
            ..*options
        };
        let channel = AsyncClient::open(path, &options)?;
        Ok(Self {
            channel,
            spins: Spins::default(),
            path: path.to_owned(),
            options,
        })
    }

    /// The door.
    pub fn door(&self) -> RemoteDoor {
        self.channel
            .door()
            .expect("a blocking client's door is in another process")
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
        // A timeout that no clock reaches is none.
        let deadline = options
            .timeout
            .and_then(|timeout| Instant::now().checked_add(timeout));
        self.open_anew_if_lost(deadline)?;
        let slot = self.submit(request, options.descriptors, deadline)?;
        let completion = self.wait(slot, deadline)?;
        let outcome = self.take_reply(slot, completion, reply);
        self.channel.release(slot);
        outcome
    }

    /// The last call may have been lost with the only slot.
    fn open_anew_if_lost(&mut self, deadline: Option<Instant>) -> Result<(), CallError> {
        if self.channel.usable_slots() > 0 {
            return Ok(());
        }
        let left = left_until(deadline);
        let timeout = left.map_or(self.options.timeout, |left| left.min(self.options.timeout));
        let options = OpenOptions {
            timeout,
            ..self.options
        };
        // The call was not sent yet, so it may be sent to another door if this one does not let us in again.
        self.channel =
            AsyncClient::open(&self.path, &options).map_err(|_| CallError::NotAccepted)?;
        Ok(())
    }

    fn submit(
        &mut self,
        request: &[u8],
        descriptors: &[BorrowedFd<'_>],
        deadline: Option<Instant>,
    ) -> Result<SlotId, CallError> {
        let limits = self.door().limits;
        if request.len() < limits.data_min {
            return Err(CallError::Refused(Limit::DataMin));
        }
        if request.len() > limits.data_max.min(self.channel.geometry().request_size) {
            return Err(CallError::Refused(Limit::DataMax));
        }
        // An earlier call that timed out holds the slot until its reply comes.
        if self.channel.free_slots() == 0 {
            let gone = self.channel.check_peer() == PeerState::Gone;
            self.channel.drain(|_, _| {});
            // It does not come from a door that has died either: then the new call finds that out below.
            while gone && self.channel.next_lost().is_some() {}
        }
        let slot = self.channel.reserve().ok_or(CallError::Full)?;
        self.channel.request_mut(slot)[..request.len()].copy_from_slice(request);
        let left = left_until(deadline);
        let deadline_ns = left.map_or(0, |left| {
            crate::now_ns().saturating_add(left.as_nanos() as u64)
        });
        let submitted = self
            .channel
            .submit_sync(slot, request.len(), deadline_ns, descriptors)
            .and_then(|()| self.channel.flush());
        if let Err(error) = submitted {
            while self.channel.next_lost().is_some() {}
            self.channel.release(slot);
            return Err(error);
        }
        Ok(slot)
    }

    fn wait(&mut self, slot: SlotId, deadline: Option<Instant>) -> Result<Completion, CallError> {
        let short = left_until(deadline).map_or(SHORT, |left| left.min(SHORT));
        if let Some(completion) = self.channel.wait_for_slot(slot, &mut self.spins, short) {
            return self.settled(slot, completion);
        }
        loop {
            if let Some((_, completion)) = self.channel.next_completion() {
                return self.settled(slot, completion);
            }
            if self.channel.check_peer() == PeerState::Gone {
                if let Some((_, completion)) = self.channel.next_completion() {
                    return self.settled(slot, completion);
                }
                let (lost, error) = self
                    .channel
                    .next_lost()
                    .unwrap_or((slot, CallError::MayHaveRun));
                if error == CallError::NotAccepted {
                    self.channel.release(lost);
                }
                return Err(error);
            }
            let left = left_until(deadline);
            if left.is_some_and(|left| left.is_zero()) {
                self.channel.abandon(slot);
                return Err(CallError::TimedOut);
            }
            let unclaimed = self.channel.backlog();
            if unclaimed {
                self.channel.nudge();
            }
            if self.channel.prepare_wait(Patience::Eager) {
                // If no thread has taken the call up, we nudge again.
                let nudge = unclaimed.then_some(Duration::from_millis(20));
                let timeout = [left, nudge].into_iter().flatten().min();
                self.channel.wait_for_news(timeout);
            }
            self.channel.woke();
        }
    }

    fn settled(&mut self, slot: SlotId, completion: Completion) -> Result<Completion, CallError> {
        if matches!(completion.kind, Kind::Interim(_)) {
            self.channel.abandon(slot);
            return Err(CallError::Streamed);
        }
        Ok(completion)
    }

    fn take_reply(
        &mut self,
        slot: SlotId,
        completion: Completion,
        reply: &mut [u8],
    ) -> Result<Reply, CallError> {
        if let Some(error) = CallError::of_status(completion.status) {
            return Err(error);
        }
        if completion.status == Status::REPLY_TOO_BIG {
            let mut needed = [0; 8];
            self.channel.copy_reply(slot, 0, &mut needed);
            let needed = usize::try_from(u64::from_le_bytes(needed)).unwrap_or(usize::MAX);
            return Err(CallError::ReplyTooBig { needed });
        }
        if completion.len > reply.len() {
            return Err(CallError::ReplyTooBig {
                needed: completion.len,
            });
        }
        let descriptors = self.channel.take_descriptors(slot);
        Ok(Reply {
            len: self.channel.copy_reply(slot, 0, reply),
            status: completion.status,
            descriptors,
        })
    }
}

/// How long there is to wait; `None`: for ever.
fn left_until(deadline: Option<Instant>) -> Option<Duration> {
    deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
}
