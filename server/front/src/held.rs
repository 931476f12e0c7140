//! Ends of answers that wait a little for the next answer, to leave with it.

use crate::turn::Loop;
use crate::world::World;

/// How long an answer may wait for the next one on its connection, to be sent with it.
const HELD_NS: u64 = 1_000_000;

impl<W: World> Loop<W> {
    /// The end of an answer is held until the next answer joins it.
    pub(crate) fn note_held(&mut self, index: u32) {
        let connection = &mut self.table[index];
        connection.outbox.held_since_ns = self.clock.now_ns;
        if !std::mem::replace(&mut connection.outbox.in_held, true) {
            self.agenda.held.push_back((index, self.clock.now_ns));
        }
    }

    /// When to look at the first of those that hold something.
    pub(crate) fn held_due_ns(&self) -> Option<u64> {
        self.agenda
            .held
            .front()
            .map(|(_, since_ns)| since_ns + HELD_NS)
    }

    /// Sends what has been held for long enough: the next answer takes its time.
    pub(crate) fn push_held(&mut self) {
        for _ in 0..self.agenda.held.len() {
            if self
                .held_due_ns()
                .is_none_or(|due_ns| self.clock.now_ns < due_ns)
            {
                return;
            }
            let Some((index, _)) = self.agenda.held.pop_front() else {
                return;
            };
            let connection = &mut self.table[index];
            match connection.outbox.held_since_ns {
                0 => {} // it was sent with the next answer, or the connection was closed
                since if since + HELD_NS <= self.clock.now_ns => {
                    connection.outbox.held_since_ns = 0;
                    if connection.outbox.gathered.is_none() {
                        connection.transport.push::<W>();
                    } else if self.send_gathered(index, false).is_err() {
                        self.close(index);
                    }
                }
                since => {
                    self.agenda.held.push_back((index, since));
                    continue;
                }
            }
            self.table[index].outbox.in_held = false;
        }
    }
}
