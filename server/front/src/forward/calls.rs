//! What becomes of a forward's calls: submitted, sent again, answered, given up, lost.
//!
//! A call that an instance did not accept keeps its slot, and with it its frame, until the next instance
//! takes it, or until the queue timeout.

use super::entries::{CallEntry, Entries};
use super::opening::Opening;
use super::traffic::{Look, Loss, Taken, Traffic};
use super::{Forwarder, SUBMIT_AGAIN};
use crate::entrance::{Carried, Entrance, Instance, InstanceId, Keeper};
use crate::opener::REMOTE_SLOTS_IN_ALL;
use transom_doors::{AsyncClient, CallError, Completion, Kind, SlotId, Withdraw};
use transom_net::Epoll;

impl<T: Traffic> Keeper for Forwarder<T> {
    type Events = Epoll;
    type Caller = AsyncClient;
    type Calls = Entries<T::Call>;
    type Source = Opening;

    fn entrances(&mut self) -> &mut [Entrance<AsyncClient, Entries<T::Call>, Opening>] {
        std::slice::from_mut(&mut self.entrance)
    }

    fn events(&self) -> &Epoll {
        &self.epoll
    }

    fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn patience_ns(&self) -> Option<u64> {
        None
    }

    fn look_again(&mut self) {
        self.again = true;
    }

    fn collect(&mut self, at: InstanceId) -> bool {
        let mut any = false;
        while let Some((slot, completion)) =
            (self.instance(at).client.as_mut()).and_then(AsyncClient::next_completion)
        {
            any = true;
            self.instance(at).stuck = None; // its thread takes the next call
            self.ended(at, slot, completion);
        }
        any
    }

    fn on_lost(&mut self, at: InstanceId, slot: SlotId, has_not_run: bool) {
        let wait_ends_ns = self.now_ns + self.queue_timeout_ns;
        let calls = &mut self.instance(at).calls;
        let Some(entry) = calls.by_slot[slot.index()].as_mut() else {
            return; // given up before
        };
        if !has_not_run {
            return self.lose(at, slot.index(), Loss::MayHaveRun);
        }
        if entry.waits_until_ns == 0 {
            entry.waits_until_ns = wait_ends_ns;
        }
        let due_ns = entry.waits_until_ns;
        calls.set_unsent(slot.index(), true, due_ns);
        self.note_due(due_ns);
    }

    fn let_go(&mut self, at: InstanceId) {
        self.lose_all(at, Loss::LetGo);
    }
}

impl<T: Traffic> Forwarder<T> {
    /// Calls whose end is awaited.
    pub(super) fn count(&self) -> usize {
        let instances = self.entrance.instances.iter();
        instances.map(|instance| instance.calls.count).sum()
    }

    /// Whether an instance serves, and calls wait to be submitted to it.
    pub(super) fn has_sendable(&self) -> bool {
        let mut instances = self.entrance.instances.iter();
        self.entrance.serving.is_some() && instances.any(|instance| instance.calls.unsent > 0)
    }

    /// Takes the next call from the socket, if there is a slot for it.
    pub(super) fn receive_call(&mut self) -> Option<Taken> {
        self.entrance.serving?;
        let count = self.count() + self.traffic.leaving();
        let may_have_more = count < self.traffic.most();
        let reserved = may_have_more.then(|| self.entrance.reserve()).flatten();
        let Some((at, slot)) = reserved else {
            let forward = &self.entrance.source().forward;
            self.traffic.note_full(forward, count, self.now_ns);
            return None;
        };
        let client = self.entrance[at].client_mut();
        let (call, len) = match self.traffic.receive(client.request_mut(slot)) {
            Ok(received) => received,
            Err(other) => {
                client.release(slot);
                return Some(other);
            }
        };
        let due_ns = self.now_ns + self.queue_timeout_ns;
        self.entrance[at].calls.put(CallEntry {
            slot,
            call,
            len,
            due_ns,
            unsent: true,
            waits_until_ns: 0,
        });
        self.note_due(due_ns);
        let first_look_ns = self.traffic.first_look_ns(self.now_ns);
        self.next_look_ns = self.next_look_ns.min(first_look_ns);
        self.submit(at, slot);
        Some(Taken::One)
    }

    /// Looks at what has begun, once it is time.
    pub(super) fn look_at_calls(&mut self) {
        let now_ns = self.now_ns;
        if now_ns < self.next_look_ns {
            return;
        }
        let mut next = u64::MAX;
        for at in self.entrance.places() {
            for index in 0..REMOTE_SLOTS_IN_ALL {
                let look = match self.entrance[at].calls.by_slot[index].as_mut() {
                    None => continue,
                    Some(entry) if entry.unsent => Look::Again(self.traffic.first_look_ns(now_ns)),
                    Some(entry) => self.traffic.look_at(&mut entry.call, now_ns),
                };
                match look {
                    Look::Again(at_ns) => next = next.min(at_ns),
                    Look::GiveUp => self.give_up(at, index, Loss::ClientHasGone),
                }
            }
        }
        self.next_look_ns = next;
    }

    /// Gives up what has not ended in time.
    pub(super) fn expire(&mut self) {
        if self.now_ns < self.next_due_ns {
            return;
        }
        let mut next = u64::MAX;
        for at in self.entrance.places() {
            for index in 0..REMOTE_SLOTS_IN_ALL {
                let entry = self.instance(at).calls.by_slot[index].as_mut();
                match entry.map_or(0, |entry| entry.due_ns) {
                    0 => {}
                    due if due > self.now_ns => next = next.min(due),
                    _ => self.give_up(at, index, Loss::Late),
                }
            }
        }
        self.next_due_ns = next;
    }

    /// Gives up a call that was submitted: the application learns that it is not waited for.
    fn give_up(&mut self, at: InstanceId, index: usize, why: Loss) {
        let instance = self.instance(at);
        let Some(entry) = instance.calls.take(index) else {
            return;
        };
        if let Some(client) = &mut instance.client {
            match client.withdraw(entry.slot) {
                Withdraw::Withdrawn => client.release(entry.slot),
                Withdraw::Claimed => client.abandon(entry.slot),
            }
        }
        self.traffic.lose(entry.call, why);
    }

    fn note_due(&mut self, due_ns: u64) {
        if due_ns != 0 {
            self.next_due_ns = self.next_due_ns.min(due_ns);
        }
    }

    /// Submits an entry that is unsent in its own slot; false if the door is to be left alone for a moment.
    fn submit(&mut self, at: InstanceId, slot: SlotId) -> bool {
        let Instance { client, calls, .. } = &mut self.entrance[at];
        let (Some(client), Some(entry)) = (client, calls.by_slot[slot.index()].as_mut()) else {
            return true;
        };
        let due_ns = self.traffic.due_ns(self.now_ns);
        match (self.traffic).submit(client, slot, entry.len, due_ns, &entry.call) {
            Ok(()) => {
                calls.set_unsent(slot.index(), false, due_ns);
                self.note_due(due_ns);
                true
            }
            Err(CallError::Refused(_)) => {
                client.release(slot);
                self.lose(at, slot.index(), Loss::NotAccepted);
                true
            }
            // It is gone, or its socket takes no more descriptors for now: which of the two shows soon.
            Err(_) => {
                self.look_at_peer(at);
                false
            }
        }
    }

    /// Submits what is unsent to the instance that serves: what another did not accept, or its socket did not
    /// take.
    pub(super) fn send_unsent(&mut self) {
        if self.now_ns < self.submit_again_ns || !self.has_sendable() {
            return;
        }
        for from in self.entrance.places() {
            for index in 0..REMOTE_SLOTS_IN_ALL {
                let Some(to) = self.entrance.serving else {
                    return;
                };
                let entry = self.instance(from).calls.by_slot[index].as_mut();
                let Some(entry) = entry.filter(|entry| entry.unsent) else {
                    continue;
                };
                let (mut slot, len) = (entry.slot, entry.len);
                if from != to {
                    match self.entrance.carry_over(from, slot, len) {
                        Carried::Over(_, new) => {
                            slot = new;
                            if let Some(entry) = self.instance(from).calls.take(index) {
                                self.traffic.count_resent();
                                self.instance(to).calls.put(CallEntry { slot, ..entry });
                            }
                        }
                        Carried::TooLarge => {
                            self.lose(from, index, Loss::NotAccepted);
                            continue;
                        }
                        Carried::Not => return,
                    }
                }
                if !self.submit(to, slot) {
                    self.submit_again_ns = self.now_ns + SUBMIT_AGAIN.as_nanos() as u64;
                    return;
                }
            }
        }
    }

    fn ended(&mut self, at: InstanceId, slot: SlotId, completion: Completion) {
        let Instance { client, calls, .. } = &mut self.entrance[at];
        let (entry, Some(client)) = (calls.take(slot.index()), client) else {
            return;
        };
        let Some(entry) = entry else {
            debug_assert!(false, "given up calls are not told");
            client.release(slot);
            return;
        };
        // Neither kind of call has anything to say in pieces. One that was lost has a status and no reply.
        let known = if entry.due_ns != 0 && self.now_ns >= entry.due_ns {
            self.traffic.lose(entry.call, Loss::Late);
            client.abandon(slot);
            true
        } else if matches!(completion.kind, Kind::Final | Kind::Lost) {
            let known = self.traffic.complete(entry.call, client, slot, completion);
            client.release(slot);
            known
        } else {
            self.traffic.lose(entry.call, Loss::MayHaveRun);
            client.abandon(slot);
            false
        };
        if !known {
            self.entrance.source().say_misled();
        }
    }

    fn lose(&mut self, at: InstanceId, index: usize, why: Loss) {
        if let Some(entry) = self.instance(at).calls.take(index) {
            self.traffic.lose(entry.call, why);
        }
    }

    /// Gives up all calls of an instance; how many there were.
    pub(super) fn lose_all(&mut self, at: InstanceId, why: Loss) -> u64 {
        let count = self.instance(at).calls.count;
        for index in 0..REMOTE_SLOTS_IN_ALL {
            self.lose(at, index, why);
        }
        count as u64
    }
}
