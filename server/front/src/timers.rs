//! What happens when something takes too long.

use crate::exchange::State;
use crate::lists::List;
use crate::turn::Loop;
use crate::world::{Caller, World};
use transom_doors::Withdraw;

impl<W: World> Loop<W> {
    pub(super) fn expire_timers(&mut self) {
        let now = self.clock.now_ms;
        if now < self.agenda.timer_ms {
            return;
        }
        // A silent client gets a silent close: it has asked for nothing. One that still takes its last answer
        // gets the end behind it.
        while let Some(index) = self.table.expired(List::Idle, now) {
            self.end(index);
        }
        while let Some(index) = self.table.expired(List::Linger, now) {
            self.lingers_no_longer(index);
        }
        for list in [List::Answer, List::AnswerAhead] {
            while let Some(index) = self.table.expired(list, now) {
                if self.taker_is_late(index, list) {
                    self.cut(index);
                }
            }
        }
        while let Some(index) = self.table.expired(List::Header, now) {
            self.refuse(index, 408);
        }
        while let Some(index) = self.table.expired(List::SmallBody, now) {
            if self.sender_is_late(index, List::SmallBody) {
                self.refuse(index, 408);
            }
        }
        for doorway in self.doorways.all() {
            while let Some(index) = self.table.expired(List::Body(doorway), now) {
                if self.sender_is_late(index, List::Body(doorway)) {
                    self.give_up(index, 408);
                }
            }
            while let Some(index) = self.table.expired(List::Write(doorway), now) {
                if self.taker_is_late(index, List::Write(doorway)) {
                    self.cut(index);
                }
            }
            while let Some(index) = self.table.expired(List::Waiting(doorway), now) {
                // Its request may lie unread in the socket, so the connection cannot go on.
                let status = if self.is_late(index) { 504 } else { 503 };
                self.look_for_head(index);
                self.refuse(index, status);
            }
        }
        while let Some(index) = self.table.expired(List::Submitted, now) {
            self.queue_timed_out(index);
        }
        while let Some(index) = self.table.expired(List::Deadline, now) {
            self.give_up(index, 504);
        }
    }

    /// The call has been in its slot for the queue timeout: taken back if no thread has claimed it, else it
    /// goes on.
    fn queue_timed_out(&mut self, index: u32) {
        if self.is_late(index) {
            self.give_up(index, 504);
            return;
        }
        let exchange = &mut self.table[index].exchange;
        let Some(slot) = exchange.slot() else {
            self.table.unlink(index);
            return;
        };
        let client = self.doorways[exchange.at].client_mut();
        match client.withdraw(slot) {
            Withdraw::Withdrawn => {
                exchange.state = State::Idle;
                client.release(slot);
                self.answer(index, 503, None);
            }
            Withdraw::Claimed => {
                // If its door dies before it is begun, it waits anew.
                exchange.queue_due_ms = 0;
                self.watch_deadline(index);
            }
        }
    }

    /// When a wait for a slot or a thread that begins now ends with a 503.
    pub(super) fn queue_due_ms(&self) -> u64 {
        // One more for the same reason as below.
        self.clock.now_ms + self.policy.limits.timeouts.queue + 1
    }

    /// When a request that arrived then is late; `None` if requests may take for ever.
    pub(super) fn deadline_ms(&self, arrived_ns: u64) -> Option<u64> {
        // The clock is cut to milliseconds; with one more, no time is shorter than was asked for.
        (self.policy.limits.timeouts.deadline != 0)
            .then(|| arrived_ns / 1_000_000 + self.policy.limits.timeouts.deadline + 1)
    }

    fn is_late(&self, index: u32) -> bool {
        self.deadline_ms(self.table[index].exchange.arrived_ns)
            .is_some_and(|deadline| deadline <= self.clock.now_ms)
    }

    /// Ends a request that has a slot: with an answer if none has begun.
    pub(super) fn give_up(&mut self, index: u32, status: u16) {
        if self.table[index].exchange.reply.is_sending() {
            self.stats.answered(status);
            self.close_politely(index);
            return;
        }
        self.let_go_of_slot(index);
        self.refuse(index, status);
    }

    /// Answers with a refusal and closes: what the client sends next has no known beginning.
    pub(super) fn refuse(&mut self, index: u32, status: u16) {
        self.table[index].exchange.keep_alive = false;
        self.answer(index, status, None);
    }
}
