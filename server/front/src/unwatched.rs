//! New connections that the kernel has not been asked to watch yet.
//!
//! A connection's first request is often there when it is accepted, and is often its last. An entry in the
//! epoll set would then be made and thrown away for nothing. So a new connection is read at once, and enters
//! the set only when its client has to be waited for, or when its call takes longer than [`UNWATCHED_NS`].
//! Nothing is missed: an entry that is made late is reported at once for all that has happened before.

use crate::agenda::UNWATCHED_MAX;
use crate::exchange::State;
use crate::turn::Loop;
use crate::world::{Events, World};

/// How long a call may take before its connection is watched: so much later may a loop learn that its client
/// has gone.
pub(super) const UNWATCHED_NS: u64 = 1_000_000;

impl<W: World> Loop<W> {
    /// Has a new connection watched before the loop sleeps, if there is need.
    pub(super) fn watch_later(&mut self, index: u32) {
        if self.agenda.unwatched.len() < UNWATCHED_MAX {
            self.agenda.unwatched.push(index);
        } else {
            self.watch_now(index);
        }
    }

    /// Has those watched whose client, and not only a handler, is waited for.
    pub(super) fn watch_newcomers(&mut self) {
        let mut unwatched = std::mem::take(&mut self.agenda.unwatched);
        unwatched.retain(|&index| {
            let connection = &self.table[index];
            let age_ns = self
                .clock
                .now_ns
                .saturating_sub(connection.exchange.arrived_ns);
            let may_wait = matches!(connection.exchange.state, State::Calling { .. })
                && !connection.transport.watched
                && age_ns < UNWATCHED_NS;
            if !may_wait {
                self.watch_now(index);
            }
            may_wait
        });
        self.agenda.unwatched = unwatched;
    }

    /// When the first of those that are not watched has to be.
    pub(super) fn unwatched_due_ns(&self) -> Option<u64> {
        let first = self.agenda.unwatched.first()?;
        Some(self.table[*first].exchange.arrived_ns + UNWATCHED_NS)
    }

    fn watch_now(&mut self, index: u32) {
        let connection = &mut self.table[index];
        if !connection.is_open() || connection.transport.watched {
            return;
        }
        connection.transport.watched = true;
        let token = (u64::from(connection.generation) << 32) | u64::from(index);
        if self
            .epoll
            .add_connection(connection.transport.fd, token)
            .is_err()
        {
            self.close(index); // the kernel has no room for it
        }
    }
}
