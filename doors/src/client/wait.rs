//! How a caller sleeps without missing a reply, and looks after calls that wait too long.

use std::os::fd::RawFd;

use crate::bell::Bell;
use crate::client::AsyncClient;
use crate::waiting::Patience;

impl AsyncClient {
    /// Announces that the caller goes to sleep in `epoll_wait`. `true`: sleep. `false`: there are
    /// replies, drain them first.
    ///
    /// **The contract.** With [`Patience::Lazy`] a reply may be kept back while its thread runs the
    /// next handler: a caller that has calls outstanding sleeps at most 50 to 100 µs, and after a
    /// timeout without progress goes [`Patience::Eager`]. With `Eager` every reply rings, and the
    /// caller may sleep without a timeout; except that while `backlog()` holds, it sleeps shortly
    /// all the same and calls `nudge` after a timeout, until `nudge` says that nothing can be done.
    pub fn prepare_wait(&mut self, patience: Patience) -> bool {
        if self.taken != 0 {
            return false;
        }
        let complete = self.channel.layout.complete();
        self.channel
            .layout
            .waiting()
            .announce(patience, || complete.any())
    }

    /// After `epoll_wait`: no doorbells while we are awake.
    pub fn woke(&mut self) {
        self.channel.layout.waiting().clear();
    }

    /// Whether flushed calls of this channel wait for a thread.
    pub fn backlog(&self) -> bool {
        self.channel.layout.submit().any()
    }

    /// For calls that have waited too long: the thread that was expected to take them is inside a
    /// handler that blocks. Unless another thread is on its way already, wakes an idle thread or
    /// starts one. Returns whether a thread is on its way; if not, every thread is busy, and the
    /// next one that gets free takes the call without being asked.
    pub fn nudge(&mut self) -> bool {
        if !self.backlog() {
            return false;
        }
        let inner = &*self.inner;
        inner.idle.give_up_on_busy(inner.started());
        // Woken, and still without a CPU: on a loaded machine a second one would only queue behind it.
        if inner.idle.running() > 0 {
            return true;
        }
        let helped = inner.wake_one() || inner.grow();
        if helped {
            inner.pace.assume_slow();
        }
        helped
    }

    /// The doorbell: register it with `EPOLLIN | EPOLLET`; it never needs reading.
    pub fn as_raw_fd(&self) -> RawFd {
        self.channel.bell.as_raw_fd()
    }

    /// This client's doorbell, for other threads.
    pub fn bell(&self) -> Bell {
        self.channel.bell.clone()
    }
}
