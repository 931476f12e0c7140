//! What becomes of requests when the instance of a door that has them leaves: a client is told of one that
//! may have run (502).

use super::doorway::{Doorway, Requests};
use super::opener::Mailbox;
use crate::entrance::{Carried, InstanceId, Keeper};
use crate::exchange::{Answer, Reply, State};
use crate::orders::Order;
use crate::turn::Loop;
use crate::world::{Caller, World};
use transom_doors::{SlotId, Withdraw};

impl<W: World> Keeper for Loop<W> {
    type Events = W::Events;
    type Caller = W::Caller;
    type Calls = Requests;
    type Source = Mailbox<W::Caller>;

    fn entrances(&mut self) -> &mut [Doorway<W::Caller>] {
        &mut self.doorways.list
    }

    fn events(&self) -> &W::Events {
        &self.epoll
    }

    fn now_ns(&self) -> u64 {
        self.clock.now_ns
    }

    /// Those who wait for the next instance must still be waiting then.
    fn patience_ns(&self) -> Option<u64> {
        Some((self.policy.limits.timeouts.queue / 2).saturating_mul(1_000_000))
    }

    fn look_again(&mut self) {
        self.agenda.again = true;
    }

    /// This only happens at the process's end.
    fn note_own_end(&mut self) {
        self.policy.order = Order::Stop;
    }

    fn collect(&mut self, at: InstanceId) -> bool {
        self.collect_completions_of(at)
    }

    fn on_lost(&mut self, at: InstanceId, slot: SlotId, has_not_run: bool) {
        let index = self.doorways[at].calls.owners[slot.index()];
        let exchange = &self.table[index].exchange;
        debug_assert_eq!(
            (exchange.at, exchange.slot()),
            (at, Some(slot)),
            "given up calls are not told"
        );
        // What has had an interim reply has run, whatever a process that is gone says of it.
        let has_begun = !matches!(exchange.reply, Reply::None);
        match (has_not_run, has_begun) {
            // It waits in its slot, to be sent to the next instance. And to the one after that, if instances
            // come and go so fast: all its waits share one queue timeout.
            (true, false) => self.wait_for_slot(index),
            (true, true) => {
                self.doorways[at].client_mut().release(slot);
                self.may_have_run(index);
            }
            (false, _) => self.may_have_run(index),
        }
    }

    /// A client that reads slowly, or a handler that does not end, must not keep the next instance out.
    fn let_go(&mut self, at: InstanceId) {
        transom_wire::own_log::warn!(
            doorway = at.doorway,
            "the calls of an application that was replaced take too long, and are cut for the next one"
        );
        for slot in 0..self.doorways[at].calls.owners.len() {
            let index = self.doorways[at].calls.owners[slot];
            let holds = self.table.get(index).is_some_and(|connection| {
                let held = connection.exchange.slot();
                connection.exchange.at == at && held.is_some_and(|held| held.index() == slot)
            });
            if holds {
                self.stats.cut.bump();
                let status = self.status_of_eviction(index);
                self.give_up(index, status);
            }
        }
    }
}

impl<W: World> Loop<W> {
    /// The call has been lost with its instance, and its slot is none of ours any more.
    fn may_have_run(&mut self, index: u32) {
        self.count_early(index);
        let exchange = &mut self.table[index].exchange;
        exchange.state = State::Idle;
        if exchange.reply.is_sending() {
            // Half an answer is out. Only the connection's end can say that the rest will not come.
            self.stats.answered(502);
            self.close_politely(index);
        } else {
            self.answer(index, 502, None);
        }
    }

    /// Sends a request that the last instance did not accept to the one that serves now, which has a free
    /// slot.
    pub(super) fn resend(&mut self, index: u32, old_slot: SlotId) {
        let from = self.table[index].exchange.at;
        let len = self.doorways[from].client().request(old_slot).len();
        match self.doorways[from.doorway].carry_over(from, old_slot, len) {
            Carried::Over(to, slot) => {
                self.doorways[to].calls.owners[slot.index()] = index;
                self.table[index].exchange.at = to;
                self.stats.unaccepted_resent.bump();
                self.note_slot(index);
                self.submit_slot(index, slot, len);
            }
            Carried::TooLarge => {
                // It did not run, and will not. Asked again, the client is told what does not fit.
                self.table[index].exchange.state = State::Idle;
                self.answer(index, 503, None);
            }
            Carried::Not => {}
        }
    }

    /// A 503 says that a request has not run; what may have gets a 502.
    fn status_of_eviction(&mut self, index: u32) -> u16 {
        let exchange = &self.table[index].exchange;
        let unsent = match exchange.state {
            State::Calling { slot } => {
                matches!(exchange.reply, Reply::None)
                    && self.doorways[exchange.at].client_mut().withdraw(slot) == Withdraw::Withdrawn
            }
            State::BodyWanted { .. } | State::Writing(Answer::OfSlot { .. }) => false,
            _ => true,
        };
        if unsent { 503 } else { 502 }
    }
}
