//! The door of a forward: opened, reopened when it has been away, and what is known of each call in it.
//!
//! One process after another serves the door. While calls of the one that leaves still end, the next one
//! takes the new ones, so there is room for two. A call that an instance did not accept keeps its slot, and
//! with it its frame, until the next instance takes it, or until the queue timeout.

use super::traffic::{Look, Loss, Taken, Traffic};
use crate::doorway::INSTANCES;
use crate::opener::REMOTE_SLOTS_IN_ALL;
use std::path::{Path, PathBuf};
use std::time::Duration;
use transom_doors::{
    AsyncClient, CallError, Completion, Kind, OpenOptions, Patience, SlotId, Withdraw, now_ns,
};
use transom_wire::own_log::error;

/// The first of the tokens of instances in the epoll set: two for each instance.
pub(super) const FIRST_CLIENT: u64 = 2;

/// Whether there is more to be done at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Fine,
    Stuck,
}

/// A call that has a slot.
pub(super) struct CallEntry<C> {
    pub(super) slot: SlotId,
    pub(super) call: C,
    /// Bytes of its frame.
    pub(super) len: usize,
    /// When it is given up; 0 for never.
    pub(super) due_ns: u64,
    /// It lies in its slot, to be submitted there or elsewhere.
    pub(super) unsent: bool,
    /// When its wait for an instance that accepts it ends; 0: it has not begun. All its waits share this.
    pub(super) waits_until_ns: u64,
}

/// One process that serves, or served, the door.
pub(super) struct StreamInstance<C> {
    pub(super) client: Option<AsyncClient>,
    pub(super) entries: Box<[Option<CallEntry<C>>]>,
    /// Entries that there are.
    pub(super) count: usize,
    /// It has died, and what it had has been looked at.
    pub(super) gone: bool,
}

/// What was last said of the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    There,
    Away,
    Unfit,
}

pub(super) struct StreamDoor<T: Traffic> {
    /// The forward, for the log.
    pub(super) forward: String,
    pub(super) path: PathBuf,
    pub(super) options: OpenOptions,
    pub(super) queue_timeout_ns: u64,
    pub(super) instances: [StreamInstance<T::Call>; INSTANCES],
    /// The instance that takes new calls.
    pub(super) serving: Option<usize>,
    /// When the door is looked for again.
    pub(super) open_again_ns: u64,
    /// Since when nobody has taken new calls.
    pub(super) away_since_ns: u64,
    pub(super) said: Said,
    /// The instance that serves has said that it does not know such calls, and this has been said.
    pub(super) said_misled: bool,
    /// Entries that are unsent.
    pub(super) unsent: usize,
    /// No entry is due before.
    pub(super) next_due_ns: u64,
    /// No call is to be looked at before.
    pub(super) next_look_ns: u64,
}

impl<T: Traffic> StreamDoor<T> {
    pub(super) fn new(
        forward: String,
        path: PathBuf,
        options: OpenOptions,
        queue_timeout: Duration,
    ) -> Self {
        let instances = [(); INSTANCES].map(|()| StreamInstance {
            client: None,
            entries: (0..REMOTE_SLOTS_IN_ALL).map(|_| None).collect(),
            count: 0,
            gone: false,
        });
        StreamDoor {
            forward,
            path,
            options,
            queue_timeout_ns: queue_timeout.as_nanos() as u64,
            instances,
            serving: None,
            open_again_ns: 0,
            away_since_ns: now_ns(),
            said: Said::There,
            said_misled: false,
            unsent: 0,
            next_due_ns: u64::MAX,
            next_look_ns: u64::MAX,
        }
    }

    pub(super) fn forward(&self) -> &str {
        &self.forward
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether no call is left whose end is awaited.
    pub(super) fn is_empty(&self) -> bool {
        self.instances.iter().all(|instance| instance.count == 0)
    }

    /// How many slots lost calls keep.
    pub(super) fn slots_lost(&self) -> u64 {
        let clients = self.instances.iter().flat_map(|one| &one.client);
        clients.map(|client| u64::from(client.lost_slots())).sum()
    }

    /// Whether nothing that comes can be served: the door has been away for longer than anything may wait for
    /// it, or its application has lost all of our slots.
    pub(super) fn is_closed(&self, now_ns: u64) -> bool {
        let Some(at) = self.serving else {
            return now_ns >= self.away_since_ns + self.queue_timeout_ns;
        };
        let client = self.instances[at].client.as_ref();
        client.is_some_and(|client| client.usable_slots() == 0)
    }

    /// When there is something to do without an event; `u64::MAX` for never.
    pub(super) fn next_due_ns(&self) -> u64 {
        let due_ns = self.next_due_ns.min(self.next_look_ns);
        match self.serving {
            Some(_) => due_ns,
            // With every look for the door, also whether it has been away for too long.
            None => due_ns.min(self.open_again_ns),
        }
    }

    /// Whether an instance serves, and calls wait to be submitted to it.
    pub(super) fn has_sendable(&self) -> bool {
        self.serving.is_some() && self.unsent > 0
    }

    fn has_slot(&self) -> bool {
        let client = self
            .serving
            .and_then(|at| self.instances[at].client.as_ref());
        client.is_some_and(|client| client.free_slots() > 0)
    }

    /// Takes the next call from the socket, if there is a slot for it.
    pub(super) fn receive(&mut self, traffic: &mut T, now_ns: u64) -> Option<Taken<()>> {
        let at = self.serving?;
        let count = self.instances.iter().map(|instance| instance.count).sum();
        let client = self.instances[at].client.as_mut()?;
        let slot = match client.reserve() {
            Some(slot) if count < traffic.most() => slot,
            reserved => {
                if let Some(slot) = reserved {
                    client.release(slot);
                }
                traffic.note_full(&self.forward, count, now_ns);
                return None;
            }
        };
        let (call, len) = match traffic.receive(client.request_mut(slot)) {
            Taken::Call(call, len) => (call, len),
            other => {
                client.release(slot);
                return Some(match other {
                    Taken::Nothing => Taken::Nothing,
                    Taken::Exhausted => Taken::Exhausted,
                    Taken::Skipped | Taken::Call(..) => Taken::Skipped,
                });
            }
        };
        self.put(
            at,
            CallEntry {
                slot,
                call,
                len,
                due_ns: now_ns + self.queue_timeout_ns,
                unsent: true,
                waits_until_ns: 0,
            },
        );
        self.unsent += 1;
        self.next_look_ns = self.next_look_ns.min(traffic.first_look_ns(now_ns));
        self.submit(at, slot, traffic, now_ns);
        Some(Taken::Call((), len))
    }

    /// Looks at what has begun, once it is time.
    pub(super) fn look_at_calls(&mut self, traffic: &mut T, now_ns: u64) {
        if now_ns < self.next_look_ns {
            return;
        }
        let mut next = u64::MAX;
        for at in 0..INSTANCES {
            for index in 0..self.instances[at].entries.len() {
                let look = match &mut self.instances[at].entries[index] {
                    None => continue,
                    Some(entry) if entry.unsent => Look::Again(traffic.first_look_ns(now_ns)),
                    Some(entry) => traffic.look_at(&mut entry.call, now_ns),
                };
                match look {
                    Look::Again(at_ns) => next = next.min(at_ns),
                    Look::GiveUp => self.give_up(at, index, traffic, Loss::ClientHasGone),
                }
            }
        }
        self.next_look_ns = next;
    }

    /// Gives up a call that was submitted: the application learns that nobody waits for it.
    fn give_up(&mut self, at: usize, index: usize, traffic: &mut T, why: Loss) {
        let Some(entry) = self.take(at, index) else {
            return;
        };
        if let Some(client) = self.instances[at].client.as_mut() {
            match client.withdraw(entry.slot) {
                Withdraw::Withdrawn => client.release(entry.slot),
                Withdraw::Claimed => client.abandon(entry.slot),
            }
        }
        traffic.lose(entry.call, why);
    }

    fn put(&mut self, at: usize, entry: CallEntry<T::Call>) {
        self.next_due_ns = match entry.due_ns {
            0 => self.next_due_ns,
            due => self.next_due_ns.min(due),
        };
        let instance = &mut self.instances[at];
        let place = &mut instance.entries[entry.slot.index()];
        debug_assert!(place.is_none(), "a slot has one call");
        *place = Some(entry);
        instance.count += 1;
    }

    pub(super) fn take(&mut self, at: usize, index: usize) -> Option<CallEntry<T::Call>> {
        let instance = &mut self.instances[at];
        let entry = instance.entries.get_mut(index)?.take()?;
        instance.count -= 1;
        if entry.unsent {
            self.unsent -= 1;
        }
        Some(entry)
    }

    /// Submits an entry that is unsent in its own slot.
    pub(super) fn submit(
        &mut self,
        at: usize,
        slot: SlotId,
        traffic: &mut T,
        now_ns: u64,
    ) -> Progress {
        let instance = &mut self.instances[at];
        let (Some(client), Some(entry)) = (
            instance.client.as_mut(),
            instance.entries[slot.index()].as_mut(),
        ) else {
            return Progress::Fine;
        };
        let due_ns = traffic.due_ns(now_ns);
        match traffic.submit(client, slot, entry.len, due_ns, &entry.call) {
            Ok(()) => {
                entry.unsent = false;
                entry.due_ns = due_ns;
                self.unsent -= 1;
                if due_ns != 0 {
                    self.next_due_ns = self.next_due_ns.min(due_ns);
                }
                Progress::Fine
            }
            Err(CallError::Refused(_)) => {
                client.release(slot);
                self.lose(at, slot.index(), traffic, Loss::NotAccepted);
                Progress::Fine
            }
            // It is gone, or its socket takes no more descriptors for now: which of the two shows soon.
            Err(_) => {
                self.look_at_peer(at, traffic, now_ns);
                Progress::Stuck
            }
        }
    }

    /// Submits what is unsent to the instance that serves.
    pub(super) fn send_unsent(&mut self, traffic: &mut T, now_ns: u64) -> Progress {
        if self.unsent == 0 {
            return Progress::Fine;
        }
        for from in 0..INSTANCES {
            for index in 0..self.instances[from].entries.len() {
                let Some(to) = self.serving else {
                    return Progress::Fine;
                };
                let Some(entry) = &self.instances[from].entries[index] else {
                    continue;
                };
                if !entry.unsent {
                    continue;
                }
                let slot = match entry.slot {
                    slot if from == to => slot,
                    old => match self.carry_over(from, to, old, traffic) {
                        Some(slot) => slot,
                        None if self.has_slot() => continue, // it cannot go there at all
                        None => return Progress::Fine,       // until a slot is free
                    },
                };
                if self.submit(to, slot, traffic, now_ns) == Progress::Stuck {
                    return Progress::Stuck;
                }
            }
        }
        Progress::Fine
    }

    /// Copies an unsent call from the slot of an instance that has left to one of the instance that serves.
    fn carry_over(
        &mut self,
        from: usize,
        to: usize,
        old: SlotId,
        traffic: &mut T,
    ) -> Option<SlotId> {
        let [first, second] = &mut self.instances;
        let (source, target) = if from == 0 {
            (first, second)
        } else {
            (second, first)
        };
        let len = source.entries[old.index()].as_ref()?.len;
        let (source, target) = (source.client.as_mut()?, target.client.as_mut()?);
        let slot = target.reserve()?;
        // Its frame was written by us; what was never submitted has no length in its header yet.
        let frame = &source.request_mut(old)[..len];
        let fits = target.request_mut(slot).get_mut(..len);
        let carried = fits.map(|place| place.copy_from_slice(frame)).is_some();
        source.release(old);
        let entry = self.take(from, old.index())?;
        if !carried {
            // The application has come back with smaller slots.
            self.instances[to].client.as_mut()?.release(slot);
            traffic.lose(entry.call, Loss::NotAccepted);
            return None;
        }
        traffic.count_resent();
        self.put(to, CallEntry { slot, ..entry });
        self.unsent += 1;
        Some(slot)
    }

    /// Publishes what was submitted. What is not accepted waits for the next instance.
    pub(super) fn flush(&mut self, traffic: &mut T, now_ns: u64) -> Progress {
        let mut progress = Progress::Fine;
        for at in 0..INSTANCES {
            let Some(client) = self.instances[at].client.as_mut() else {
                continue;
            };
            if client.flush().is_err() {
                self.look_at_peer(at, traffic, now_ns);
                self.retire(at, now_ns);
                self.collect_lost(at, traffic, now_ns);
                progress = Progress::Stuck;
            }
        }
        progress
    }

    /// Takes an instance's replies. Whether there were any.
    pub(super) fn collect(&mut self, at: usize, traffic: &mut T, now_ns: u64) -> bool {
        let mut any = false;
        while let Some((slot, completion)) = self
            .instances
            .get_mut(at)
            .and_then(|instance| instance.client.as_mut())
            .and_then(AsyncClient::next_completion)
        {
            any = true;
            self.ended(at, slot, completion, traffic, now_ns);
        }
        any
    }

    pub(super) fn ended(
        &mut self,
        at: usize,
        slot: SlotId,
        completion: Completion,
        traffic: &mut T,
        now_ns: u64,
    ) {
        let entry = self.take(at, slot.index());
        let Some(client) = self.instances[at].client.as_mut() else {
            return;
        };
        let Some(entry) = entry else {
            debug_assert!(false, "given up calls are not told");
            client.release(slot);
            return;
        };
        // Neither kind of call has anything to say in pieces. One that was lost has a status and no reply.
        let known = if entry.due_ns != 0 && now_ns >= entry.due_ns {
            traffic.lose(entry.call, Loss::Late);
            client.abandon(slot);
            true
        } else if matches!(completion.kind, Kind::Final | Kind::Lost) {
            let known = traffic.complete(entry.call, client, slot, completion);
            client.release(slot);
            known
        } else {
            traffic.lose(entry.call, Loss::MayHaveRun);
            client.abandon(slot);
            false
        };
        if !known && !std::mem::replace(&mut self.said_misled, true) {
            error!(
                forward = self.forward,
                door = %self.path.display(),
                "the application behind the door does not know what to do with what is forwarded to it: name another door, or change the scheme"
            );
        }
    }

    pub(super) fn lose(&mut self, at: usize, index: usize, traffic: &mut T, why: Loss) {
        if let Some(entry) = self.take(at, index) {
            traffic.lose(entry.call, why);
        }
    }

    /// Gives up what has not ended in time.
    pub(super) fn expire(&mut self, traffic: &mut T, now_ns: u64) {
        if now_ns < self.next_due_ns {
            return;
        }
        let mut next = u64::MAX;
        for at in 0..INSTANCES {
            for index in 0..self.instances[at].entries.len() {
                let Some(entry) = &self.instances[at].entries[index] else {
                    continue;
                };
                let due = entry.due_ns;
                if due == 0 {
                    continue;
                }
                if due > now_ns {
                    next = next.min(due);
                    continue;
                }
                self.give_up(at, index, traffic, Loss::Late);
            }
        }
        self.next_due_ns = next;
    }

    /// Clients that replies may come from.
    pub(super) fn clients(&mut self) -> impl Iterator<Item = &mut AsyncClient> {
        self.instances
            .iter_mut()
            .filter(|instance| !instance.gone)
            .filter_map(|instance| instance.client.as_mut())
    }

    pub(super) fn backlog(&mut self) -> bool {
        self.clients().any(|client| client.backlog())
    }

    pub(super) fn nudge(&mut self) {
        for client in self.clients() {
            client.nudge();
        }
    }

    pub(super) fn prepare_wait(&mut self, patience: Patience) -> bool {
        let mut may_sleep = true;
        for client in self.clients() {
            may_sleep &= client.prepare_wait(patience);
        }
        may_sleep
    }

    pub(super) fn woke(&mut self) {
        for client in self.clients() {
            client.woke();
        }
    }
}
