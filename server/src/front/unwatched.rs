//! New connections that the kernel has not been asked to watch yet.
//!
//! A connection's first request is often there when it is accepted, and is often its last. An entry in the epoll set
//! would then be made and thrown away for nothing. So a new connection is read at once, and enters the set only when its
//! client has to be waited for, or when its call takes longer than [`UNWATCHED_NS`]. Nothing is missed: an entry that is
//! made late is reported at once for all that has happened before.

use super::Loop;
use crate::connection::State;

/// How long a call may take before its connection is watched: so much later may a loop learn that its client has gone.
pub(super) const UNWATCHED_NS: u64 = 1_000_000;

/// The most connections that are not watched.
const UNWATCHED_MAX: usize = 256;

/// Connections that may not be watched, in the order in which they came. (One may stand here that has been closed, or
/// twice, if another has taken its entry since.)
#[derive(Debug)]
pub(super) struct Unwatched {
    entries: [u32; UNWATCHED_MAX],
    len: usize,
}

impl Default for Unwatched {
    fn default() -> Self {
        Unwatched {
            entries: [0; UNWATCHED_MAX],
            len: 0,
        }
    }
}

impl Unwatched {
    fn push(&mut self, index: u32) -> Result<(), IsFull> {
        *self.entries.get_mut(self.len).ok_or(IsFull)? = index;
        self.len += 1;
        Ok(())
    }
}

struct IsFull;

impl Loop {
    /// Has a new connection watched before the loop sleeps, if there is need.
    pub(super) fn watch_later(&mut self, index: u32) {
        if self.unwatched.push(index).is_err() {
            self.watch_now(index);
        }
    }

    /// Has those watched whose client, and not only a handler, is waited for.
    pub(super) fn watch_newcomers(&mut self) {
        let mut kept = 0;
        for n in 0..self.unwatched.len {
            let index = self.unwatched.entries[n];
            let connection = &self.table[index];
            let age_ns = self.now_ns.saturating_sub(connection.arrived_ns);
            if connection.state == State::Calling && !connection.watched && age_ns < UNWATCHED_NS {
                self.unwatched.entries[kept] = index;
                kept += 1;
            } else {
                self.watch_now(index);
            }
        }
        self.unwatched.len = kept;
    }

    /// When the first of those that are not watched has to be.
    pub(super) fn unwatched_due_ns(&self) -> Option<u64> {
        let first = self.unwatched.entries[..self.unwatched.len].first()?;
        Some(self.table[*first].arrived_ns + UNWATCHED_NS)
    }

    fn watch_now(&mut self, index: u32) {
        let connection = &mut self.table[index];
        if connection.state == State::Free || connection.watched {
            return;
        }
        connection.watched = true;
        let token = (u64::from(connection.generation) << 32) | u64::from(index);
        if self.epoll.add_connection(connection.fd, token).is_err() {
            self.close(index); // the kernel has no room for it
            self.again = true; // as in `push_held`
        }
    }
}
