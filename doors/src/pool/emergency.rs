//! What happens when a call's thread cannot go on: its caller is told, and the call is lost.

use std::ptr;

use crate::memory::channel::{Channel, Claimed};
use crate::pool::shared::Pool;
use crate::rules::sync::Ordering;
use crate::values::status::Status;

/// Ends a call whose thread will never run again: the call is lost. Plain numbers and pointers, so that it
/// can be kept where a signal handler finds it.
///
/// **What the handler has lent stays lent.** Its frames never run again, but a thread that it has started in
/// a scope (`std::thread::scope`, a pool's scope) runs on and has references into what those frames had.
/// Those references are valid because the frames stay on the stack. That does not keep others from using what
/// they lead to. So each thing that a call has given its handler stays the handler's for as long as
/// the process lives:
///
/// - `request()` of a call from this process lies in the request slot. The client is told that the slot is
///   lost ([`Kind::Lost`](crate::Kind::Lost)), and never writes there again.
/// - `request()` of a call from another process lies in this thread's snapshot. The thread takes up no other
///   call.
/// - `reply_mut()` lies in the reply slot. No bytes of it are the reply, so the client reads none, and it
///   never uses the slot again. A client in another process that uses it nevertheless is removed
///   (`Lie::Twice`): no other handler gets the slot.
/// - The memory of that slot stays mapped when its client leaves: the porter keeps a channel in which a call
///   was lost.
/// - Descriptors that were taken belong to the handler's frames, and nothing here closes them.
/// - The call and the door belong to the frames of `serve`, which are never left.
#[derive(Clone, Copy, Debug)]
pub struct EmergencyReply {
    pool: *const Pool,
    channel: *const Channel,
    claimed: Claimed,
    thread: u32,
}

impl EmergencyReply {
    pub(crate) fn new(pool: &Pool, channel: &Channel, claimed: Claimed, thread: u32) -> Self {
        Self {
            pool: ptr::from_ref(pool),
            channel: ptr::from_ref(channel),
            claimed,
            thread,
        }
    }

    /// Ends the call with `status` and without a reply, and rings the client whether it sleeps or not. The
    /// call's slot is lost. Also tells of every other completion that this thread has kept back, and wakes
    /// another thread if calls wait that counted on this one. A call that was completed already keeps its
    /// reply, and its slot is not lost. Returns whether the call was lost.
    ///
    /// Async-signal-safe: atomics and futex(2), write(2), sched_getcpu(3); no lock, no allocation, little
    /// stack. It cannot start a thread: if none is idle, the next submit or
    /// [`AsyncClient::nudge`](crate::AsyncClient::nudge) does.
    ///
    /// # Safety
    /// - The handler that got the `Call` is still on this thread's stack: it has neither returned
    ///   nor been jumped out of.
    /// - It is called on that thread, at most once.
    /// - Control never returns to the handler nor to `serve`: the caller parks the thread for ever
    ///   (or ends the process).
    pub unsafe fn complete(&self, status: Status) -> bool {
        // SAFETY: the handler's frame, and so the frame of `serve` that borrows door and channel, will exist
        // for ever. The door lives as long as a thread serves it. The channel lives as long as it is held,
        // which it is until the last line; after that because a call was lost in it.
        let (pool, channel) = unsafe { (&*self.pool, &*self.channel) };
        let state = &pool.threads[self.thread as usize].0;
        let ours = match &channel.link {
            // A client may write any generation, but this process knows whether it serves the call.
            Some(link) => link.is_in_service(self.claimed.slot, self.thread),
            None => !channel.was_done(self.claimed.slot, self.claimed.generation),
        };
        if ours {
            state.count(status);
            // Nothing is written to the slot: what the handler had of it may be in use by other threads.
            channel.finish_lost(&self.claimed, status);
        }
        // If not, the thread may have been stopped between the reply and its bit. An extra bit does no harm.
        pool.tell_of(channel, self.thread, self.claimed.slot, true);
        pool.keep_no_more(self.thread);
        pool.report(self.thread);
        channel.bell.ring();

        pool.parked.fetch_add(1, Ordering::Relaxed);
        pool.idle().go_away(self.thread);
        if pool.backlog(self.thread) {
            pool.wake_one();
        }
        // The thread may have been stopped in the middle of a look.
        state.presence.leave_for_ever();
        state.holding.store(0, Ordering::Release);
        ours
    }
}
