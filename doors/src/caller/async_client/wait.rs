//! How a caller sleeps without missing a reply, and looks after calls that wait too long.

use std::os::fd::{AsRawFd, RawFd};

use crate::back_end::bell::Bell;
use crate::caller::async_client::{AsyncClient, Peer};
use crate::pool::spin::Cpu;
use crate::rules::waiting::Patience;

impl AsyncClient {
    /// Announces that the caller goes to sleep in `epoll_wait`. `true`: sleep. `false`: there are
    /// replies, drain them first.
    ///
    /// **The contract.** With [`Patience::Lazy`] a reply may be kept back while its thread runs the
    /// next handler: a caller that has calls outstanding sleeps at most 50 to 100 µs, and after a
    /// timeout without progress goes [`Patience::Eager`]. With `Eager` every reply rings, and the
    /// caller may sleep without a timeout; except that while `backlog()` holds, it sleeps shortly
    /// all the same and calls `nudge` after a timeout, until `nudge` says that nothing can be done.
    /// A reply that is kept back while the caller does not sleep is found here, after a wait that has
    /// brought nothing, or by every sixteenth [`next_completion`](Self::next_completion) in vain.
    pub fn prepare_wait(&mut self, patience: Patience) -> bool {
        if self.taken != 0 {
            return false;
        }
        self.cpu = Cpu::current();
        let complete = self.layout.complete();
        let waiting = self.layout.waiting();
        if !waiting.announce(patience, self.cpu.0, || complete.any()) {
            return false;
        }
        // If nothing has come since the last time, its thread may be in a handler that blocks.
        let in_vain = !std::mem::take(&mut self.fruitful);
        if (patience == Patience::Eager || in_vain) && self.find_late() {
            self.woke();
            return false;
        }
        true
    }

    /// After `epoll_wait`: no doorbells while we are awake.
    pub fn woke(&mut self) {
        self.layout.waiting().clear();
    }

    /// Whether flushed calls of this channel wait for a thread.
    pub fn backlog(&self) -> bool {
        self.layout.submit().any()
    }

    /// How many flushed calls of this channel wait for a thread.
    pub fn unclaimed(&self) -> u32 {
        self.layout.submit().count()
    }

    /// For calls that have waited too long: the thread that was expected to take them is inside a
    /// handler that blocks. Unless another thread is on its way already, wakes an idle thread or
    /// starts one. Returns whether a thread is on its way; if not, every thread is busy, and the
    /// next one that gets free takes the call without being asked. A door of another process is only
    /// told, and nothing is known: `false`, and the caller asks again, after longer each time.
    pub fn nudge(&mut self) -> bool {
        if !self.backlog() {
            return false;
        }
        match &mut self.peer {
            Peer::Local { pool, .. } => pool.nudge(),
            Peer::Remote(remote) => {
                remote.nudge();
                false
            }
        }
    }

    /// The doorbell: register it with `EPOLLIN | EPOLLET`; it never needs reading.
    pub fn as_raw_fd(&self) -> RawFd {
        match &self.peer {
            Peer::Local { channel, .. } => channel.bell.as_raw_fd(),
            Peer::Remote(remote) => remote.ear.as_raw_fd(),
        }
    }

    /// This client's doorbell, for other threads of this process; a client of another process's door has none
    /// that can be rung here.
    pub fn bell(&self) -> Option<Bell> {
        match &self.peer {
            Peer::Local { channel, .. } => Some(channel.bell.clone()),
            Peer::Remote(_) => None,
        }
    }
}
