//! Instances of doors come and go: what becomes of calls when one leaves, and how the next one takes its
//! place.
//!
//! An instance that was revoked gets no new calls, and those under way complete. One that has died has
//! nothing under way any more: a call that no thread of it had seen waits for the next instance and is sent
//! there; any other may have run, and its client is told so (502).

use super::doorway::INSTANCES;
use crate::doorway::InstanceId;
use crate::exchange::{Answer, Reply, State};
use crate::orders::Order;
use crate::signal::Signal;
use crate::turn::Loop;
use crate::world::{Caller, Events, World};
use transom_doors::{PeerState, SlotId, Withdraw, Words};

impl<W: World> Loop<W> {
    /// Publishes what was submitted: whether there was anything. What an instance did not accept waits for
    /// the next one.
    pub(super) fn flush(&mut self) -> bool {
        let mut any = false;
        for at in self.doorways.instances() {
            let Some(client) = &mut self.doorways[at].client else {
                continue;
            };
            any |= client.has_staged();
            if client.flush().is_ok() {
                continue;
            }
            if !self.doorways[at.doorway].is_remote() {
                // A door of our own process was revoked, which only happens at its end.
                self.policy.order = Order::Stop;
                return false;
            }
            self.look_at_peer(at);
            self.retire(at);
            self.collect_lost(at);
            self.agenda.again = true;
        }
        any
    }

    /// Something has happened to the other side of a client.
    pub(super) fn look_at_peer(&mut self, at: InstanceId) {
        let Some(client) = &mut self.doorways[at].client else {
            return; // an event for a client that has been freed since
        };
        match client.check_peer() {
            PeerState::Serving => {}
            PeerState::Revoked => self.retire(at),
            PeerState::Gone => {
                if let (Some(lie), Some(door)) = (client.lie(), client.door()) {
                    transom_wire::own_log::error!(
                        lie,
                        pid = door.server.pid,
                        uid = door.server.uid,
                        "an application has lied, and its channel was given up"
                    );
                }
                self.retire(at);
                // What it has completed before is as good as ever.
                self.collect_completions_of(at);
                self.doorways[at].gone = true;
                self.collect_lost(at);
            }
        }
    }

    /// Gives an instance no new calls.
    fn retire(&mut self, at: InstanceId) {
        let doorway = &mut self.doorways[at.doorway];
        if doorway.serving == Some(at.instance) {
            doorway.serving = None;
            doorway.instances[usize::from(at.instance)].left_ms = self.clock.now_ms;
        }
    }

    fn collect_lost(&mut self, at: InstanceId) {
        while let Some((slot, error)) = self.doorways[at].client_mut().next_lost() {
            let index = self.doorways[at].owners[slot.index()];
            debug_assert_eq!(
                (
                    self.table[index].exchange.at,
                    self.table[index].exchange.slot()
                ),
                (at, Some(slot)),
                "given up calls are not told"
            );
            // What has had an interim reply has run, whatever a process that is gone says of it.
            let has_begun = !matches!(self.table[index].exchange.reply, Reply::None);
            match (error.is_safe_to_resend(), has_begun) {
                (true, false) => self.not_accepted(index),
                (true, true) => {
                    self.doorways[at].client_mut().release(slot);
                    self.may_have_run(index);
                }
                (false, _) => self.may_have_run(index),
            }
        }
    }

    /// No thread has seen the call: its request waits in its slot, to be sent to the next instance. And to
    /// the one after that, if instances come and go so fast: it has not run, and all its waits share one
    /// queue timeout.
    fn not_accepted(&mut self, index: u32) {
        self.wait_for_slot(index);
    }

    /// The call did not run, and will not.
    fn answer_unserved(&mut self, index: u32, slot: SlotId) {
        let exchange = &mut self.table[index].exchange;
        self.doorways[exchange.at].client_mut().release(slot);
        exchange.state = State::Idle;
        self.answer(index, 503, None);
    }

    /// The call has been lost with its instance, and its slot is none of ours any more.
    fn may_have_run(&mut self, index: u32) {
        self.count_early(index);
        let exchange = &mut self.table[index].exchange;
        exchange.state = State::Idle;
        if exchange.reply.is_sending() {
            // Half an answer is out. Only the connection's end can say that the rest will not come.
            self.stats.answered(502);
            self.close(index);
        } else {
            self.answer(index, 502, None);
        }
    }

    /// Sends a request that the last instance did not accept to the one that serves now, which has a free
    /// slot.
    pub(super) fn resend(&mut self, index: u32, old_slot: SlotId) {
        let from = self.table[index].exchange.at;
        let Some((to, slot)) = self.doorways.reserve(from.doorway, index) else {
            return;
        };
        let [first, second] = &mut self.doorways[from.doorway].instances;
        let (old, new) = if from.instance == 0 {
            (first, second)
        } else {
            (second, first)
        };
        let request = old.client().request(old_slot);
        let len = request.len();
        let room = new.client_mut().request_mut(slot);
        let Some(place) = room.get_mut(..len) else {
            // The application has come back with smaller slots. Asked again, the client is told what does not
            // fit.
            new.client_mut().release(slot);
            self.answer_unserved(index, old_slot);
            return;
        };
        place.copy_from_slice(request);
        old.client_mut().release(old_slot);
        self.table[index].exchange.at = to;
        self.stats.unaccepted_resent.bump();
        self.note_slot(index);
        self.submit_slot(index, slot, len);
    }

    /// Frees instances that nobody needs any more, takes what the opener has brought, and asks it for what is
    /// missing.
    pub(super) fn tend_doorways(&mut self) {
        let mail = std::mem::take(&mut self.agenda.mail);
        for doorway in self.doorways.all() {
            if !self.doorways[doorway].is_remote() {
                continue;
            }
            for instance in 0..INSTANCES as u8 {
                let at = InstanceId { doorway, instance };
                if self.doorways[at].has_been_given_up() {
                    self.look_at_peer(at);
                }
                if self.doorways[doorway].serving != Some(instance)
                    && self.doorways[at].is_done_with()
                {
                    self.free_instance(at);
                }
            }
            if mail
                && self.doorways[doorway].asked
                && let Some(client) = self.doorways[doorway].mailbox().take()
            {
                self.doorways[doorway].asked = false;
                self.install(doorway, client);
            }
            if self.doorways[doorway].serving.is_none() && !self.doorways[doorway].asked {
                self.ask_for_the_next(doorway);
            }
        }
    }

    /// Asks the opener for an instance, once there is room for one.
    fn ask_for_the_next(&mut self, number: u16) {
        let doorway = &mut self.doorways[number];
        if doorway.vacancy().is_none() {
            if doorway.cramped_due_ms == 0 {
                // Those who wait for the next instance must still be waiting then.
                doorway.cramped_due_ms = self.clock.now_ms + self.policy.limits.timeouts.queue / 2;
            }
            if self.clock.now_ms < doorway.cramped_due_ms {
                return;
            }
            let Some(instance) = doorway.first_to_have_left() else {
                return;
            };
            self.evict(InstanceId {
                doorway: number,
                instance,
            });
        }
        let doorway = &mut self.doorways[number];
        doorway.cramped_due_ms = 0;
        doorway.asked = true;
        doorway.mailbox().ask();
    }

    /// Ends what an instance that has left still does: a client that reads slowly, or a handler that does not
    /// end, must not keep the next one out.
    fn evict(&mut self, at: InstanceId) {
        transom_wire::own_log::warn!(
            doorway = at.doorway,
            "the calls of an application that was replaced take too long, and are cut for the next one"
        );
        for slot in 0..self.doorways[at].owners.len() {
            let index = self.doorways[at].owners[slot];
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
        self.free_instance(at);
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

    fn install(&mut self, doorway: u16, client: W::Caller) {
        let slots = client.geometry().slots_in_all() as usize;
        let vacancy = self.doorways[doorway].vacancy();
        let Some(instance) = vacancy else {
            self.doorways[doorway].mailbox().free(client);
            return;
        };
        let at = InstanceId { doorway, instance };
        if slots > self.doorways[at].owners.len() {
            transom_wire::own_log::error!(slots, "a door has more slots than were asked for");
            self.doorways[doorway].mailbox().free(client);
            return;
        }
        if let Err(error) = self.watch(at, &client) {
            transom_wire::own_log::error!(error = %Words(&error), "cannot wait for a door: raise `ulimit -n`, or lower --connections");
            self.unwatch(&client);
            self.doorways[doorway].mailbox().free(client);
            return;
        }
        let place = &mut self.doorways[at];
        place.client = Some(client);
        place.gone = false;
        place.may_stream = true;
        place.stuck_since_ns = None;
        self.doorways[doorway].serving = Some(instance);
        // Whatever waits can go on before the loop sleeps.
        self.agenda.again = true;
    }

    /// Has the epoll set tell of a client's news.
    pub(super) fn watch(&self, at: InstanceId, client: &W::Caller) -> std::io::Result<()> {
        self.epoll
            .add_bell(client.as_raw_fd(), Signal::Client(at).token())?;
        match client.peer_fd() {
            Some(fd) => self.epoll.add_bell(fd, Signal::Peer(at).token()),
            None => Ok(()),
        }
    }

    /// The other side may have the descriptors too, so closing ours would not take them out of the set.
    fn unwatch(&self, client: &W::Caller) {
        let _ = self.epoll.remove(client.as_raw_fd());
        if let Some(fd) = client.peer_fd() {
            let _ = self.epoll.remove(fd);
        }
    }

    fn free_instance(&mut self, at: InstanceId) {
        if let Some(client) = self.doorways[at].client.take() {
            self.unwatch(&client);
            self.doorways[at.doorway].mailbox().free(client);
        }
    }
}
