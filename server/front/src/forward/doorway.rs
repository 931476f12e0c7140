//! The door of a forward: opened, reopened when it has been away, and what is known of each call in it.
//!
//! One process after another serves the door. While calls of the one that leaves still end, the next one
//! takes the new ones, so there is room for two. A call that an instance did not accept keeps its slot, and
//! with it its frame, until the next instance takes it, or until the queue timeout.

use super::{FIRST_CLIENT, Look, Loss, Taken, Traffic};
use crate::doorway::INSTANCES;
use crate::opener::{HANGS, REMOTE_SLOTS_IN_ALL, REMOTE_SLOTS_MAX, REMOTE_SPARES_MAX};
use std::path::{Path, PathBuf};
use std::time::Duration;
use transom_arena::attaching;
use transom_doors::{
    AsyncClient, CallError, Completion, Kind, OpenError, OpenOptions, Patience, PeerState, SlotId,
    Withdraw, Words, now_ns,
};
use transom_net::Epoll;
use transom_wire::own_log::{error, info, warn};

/// How often a door that is away is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How often a door that is there and lets nobody in is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// The same for one whose application is not of the right kind.
const UNFIT_AGAIN: Duration = Duration::from_secs(1);

/// Whether there is more to be done at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Fine,
    Stuck,
}

/// A call that has a slot.
pub(super) struct CallEntry<C> {
    slot: SlotId,
    call: C,
    /// Bytes of its frame.
    len: usize,
    /// When it is given up; 0 for never.
    due_ns: u64,
    /// It lies in its slot, to be submitted there or elsewhere.
    unsent: bool,
    /// When its wait for an instance that accepts it ends; 0: it has not begun. All its waits share this.
    waits_until_ns: u64,
}

/// One process that serves, or served, the door.
struct StreamInstance<C> {
    client: Option<AsyncClient>,
    entries: Box<[Option<CallEntry<C>>]>,
    /// Entries that there are.
    count: usize,
    /// It has died, and what it had has been looked at.
    gone: bool,
}

/// What was last said of the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    There,
    Away,
    Unfit,
}

pub(super) struct StreamDoor<T: Traffic> {
    /// The forward, for the log.
    forward: String,
    path: PathBuf,
    options: OpenOptions,
    queue_timeout_ns: u64,
    instances: [StreamInstance<T::Call>; INSTANCES],
    /// The instance that takes new calls.
    serving: Option<usize>,
    /// When the door is looked for again.
    open_again_ns: u64,
    /// Since when nobody has taken new calls.
    away_since_ns: u64,
    said: Said,
    /// The instance that serves has said that it does not know such calls, and this has been said.
    said_misled: bool,
    /// Entries that are unsent.
    unsent: usize,
    /// No entry is due before.
    next_due_ns: u64,
    /// No call is to be looked at before.
    next_look_ns: u64,
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

    fn take(&mut self, at: usize, index: usize) -> Option<CallEntry<T::Call>> {
        let instance = &mut self.instances[at];
        let entry = instance.entries.get_mut(index)?.take()?;
        instance.count -= 1;
        if entry.unsent {
            self.unsent -= 1;
        }
        Some(entry)
    }

    /// Submits an entry that is unsent in its own slot.
    fn submit(&mut self, at: usize, slot: SlotId, traffic: &mut T, now_ns: u64) -> Progress {
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

    fn ended(
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

    fn lose(&mut self, at: usize, index: usize, traffic: &mut T, why: Loss) {
        if let Some(entry) = self.take(at, index) {
            traffic.lose(entry.call, why);
        }
    }

    pub(super) fn note_ring(&mut self, at: usize, useful: bool) {
        let instance = self.instances.get_mut(at);
        if let Some(client) = instance.and_then(|instance| instance.client.as_mut()) {
            client.note_ring(useful);
        }
    }

    /// Something has happened to the other side of an instance.
    pub(super) fn look_at_peer(&mut self, at: usize, traffic: &mut T, now_ns: u64) {
        let Some(instance) = self.instances.get_mut(at) else {
            return;
        };
        let Some(client) = instance.client.as_mut().filter(|_| !instance.gone) else {
            return;
        };
        match client.check_peer() {
            PeerState::Serving => {}
            PeerState::Revoked => self.retire(at, now_ns),
            PeerState::Gone => {
                instance.gone = true;
                self.retire(at, now_ns);
                // What it has completed before is as good as ever.
                self.collect(at, traffic, now_ns);
                self.collect_lost(at, traffic, now_ns);
            }
        }
    }

    /// Gives an instance no new calls.
    fn retire(&mut self, at: usize, now_ns: u64) {
        if self.serving == Some(at) {
            self.serving = None;
            self.away_since_ns = now_ns;
            self.open_again_ns = now_ns;
        }
    }

    fn collect_lost(&mut self, at: usize, traffic: &mut T, now_ns: u64) {
        while let Some((slot, error)) = self.instances[at]
            .client
            .as_mut()
            .and_then(AsyncClient::next_lost)
        {
            let Some(entry) = self.instances[at].entries[slot.index()].as_mut() else {
                continue; // given up before
            };
            if !error.is_safe_to_resend() {
                self.lose(at, slot.index(), traffic, Loss::MayHaveRun);
            } else {
                if entry.waits_until_ns == 0 {
                    entry.waits_until_ns = now_ns + self.queue_timeout_ns;
                }
                let due_ns = entry.waits_until_ns;
                entry.unsent = true;
                entry.due_ns = due_ns;
                self.unsent += 1;
                self.next_due_ns = self.next_due_ns.min(due_ns);
            }
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

    /// Frees instances that nobody needs any more, and looks for the door if it is away.
    pub(super) fn tend(&mut self, traffic: &mut T, epoll: &Epoll, now_ns: u64) {
        for at in 0..INSTANCES {
            let given_up = |client: &AsyncClient| client.peer_state() == PeerState::Gone;
            let instance = &self.instances[at];
            if !instance.gone && instance.client.as_ref().is_some_and(given_up) {
                self.look_at_peer(at, traffic, now_ns);
            }
            let instance = &self.instances[at];
            let done = |client: &AsyncClient| instance.gone || client.outstanding() == 0;
            if self.serving != Some(at)
                && instance.count == 0
                && instance.client.as_ref().is_some_and(done)
            {
                self.free(at, epoll);
            }
        }
        if self.serving.is_some() || now_ns < self.open_again_ns {
            return;
        }
        self.open_again_ns = now_ns + LOOK_AGAIN.as_nanos() as u64;
        match attaching(|| AsyncClient::open(&self.path, &self.options)) {
            Ok(client) => self.install(client, traffic, epoll, now_ns),
            Err(error) => {
                let pause = match error {
                    OpenError::Refused { .. } => ASK_AGAIN,
                    OpenError::TimedOut { .. } => HANGS,
                    _ => LOOK_AGAIN,
                };
                // After the attempt, which may have taken its time.
                self.open_again_ns = transom_doors::now_ns() + pause.as_nanos() as u64;
                self.say_away(&error);
            }
        }
    }

    fn install(&mut self, mut client: AsyncClient, traffic: &mut T, epoll: &Epoll, now_ns: u64) {
        if client.check_peer() != PeerState::Serving {
            return;
        }
        let geometry = client.geometry();
        let slots_fit = geometry.slots <= REMOTE_SLOTS_MAX && geometry.spares <= REMOTE_SPARES_MAX;
        let objection = match traffic.objection(&client) {
            None if !slots_fit => Some("the door has more slots than were asked for"),
            objection => objection,
        };
        if let Some(why) = objection {
            self.open_again_ns = now_ns + UNFIT_AGAIN.as_nanos() as u64;
            if self.said != Said::Unfit {
                self.said = Said::Unfit;
                error!(forward = self.forward, door = %self.path.display(), "{why}");
            }
            return;
        }
        let at = self.vacancy(traffic, epoll);
        let token = FIRST_CLIENT + 2 * at as u64;
        let watched =
            epoll
                .add_bell(client.as_raw_fd(), token)
                .and_then(|()| match client.peer_fd() {
                    Some(fd) => epoll.add_bell(fd, token + 1),
                    None => Ok(()),
                });
        let door = client.door();
        let instance = &mut self.instances[at];
        instance.client = Some(client);
        instance.gone = false;
        if let Err(error) = watched {
            error!(forward = self.forward, error = %Words(&error), "cannot wait for the door: raise `ulimit -n`");
            self.free(at, epoll);
            return;
        }
        self.serving = Some(at);
        self.said_misled = false;
        let (pid, uid) = door.map_or((0, 0), |door| (door.server.pid, door.server.uid));
        let (forward, path) = (&self.forward, self.path.display());
        if std::mem::replace(&mut self.said, Said::There) == Said::There {
            info!(forward, door = %path, pid, uid, "the door is open");
        } else {
            info!(forward, door = %path, pid, uid, "the door is back");
        }
    }

    /// A place for another instance; if there is none, that of the one that can be missed best.
    fn vacancy(&mut self, traffic: &mut T, epoll: &Epoll) -> usize {
        let vacant = |instance: &StreamInstance<T::Call>| instance.client.is_none();
        if let Some(at) = self.instances.iter().position(vacant) {
            return at;
        }
        // Rather one whose calls go on without us than one whose calls wait to be sent again.
        let unsent = |instance: &StreamInstance<T::Call>| {
            let entries = instance.entries.iter().flatten();
            entries.filter(|entry| entry.unsent).count()
        };
        let at = usize::from(unsent(&self.instances[0]) > unsent(&self.instances[1]));
        self.let_go(at, traffic, Loss::LetGo);
        self.free(at, epoll);
        at
    }

    fn let_go(&mut self, at: usize, traffic: &mut T, why: Loss) -> u64 {
        let mut count = 0;
        for index in 0..self.instances[at].entries.len() {
            if let Some(entry) = self.take(at, index) {
                traffic.lose(entry.call, why);
                count += 1;
            }
        }
        count
    }

    /// Gives everything up; how many calls there were.
    pub(super) fn let_all_go(&mut self, traffic: &mut T) -> u64 {
        (0..INSTANCES)
            .map(|at| self.let_go(at, traffic, Loss::Cut))
            .sum()
    }

    fn free(&mut self, at: usize, epoll: &Epoll) {
        if let Some(client) = self.instances[at].client.take() {
            // The other side may have the descriptors too, so closing ours would not take them out of the
            // set.
            let _ = epoll.remove(client.as_raw_fd());
            if let Some(fd) = client.peer_fd() {
                let _ = epoll.remove(fd);
            }
        }
    }

    fn say_away(&mut self, error: &OpenError) {
        if self.said != Said::Away {
            self.said = Said::Away;
            match error {
                OpenError::Stranger { .. } => warn!(
                    forward = self.forward, %error,
                    "the door gets nothing: end the process that serves it, or name its user with --door-owner, or `owner` in the file"
                ),
                _ => warn!(forward = self.forward, %error, "the door is away"),
            }
        }
    }

    /// Clients that replies may come from.
    fn clients(&mut self) -> impl Iterator<Item = &mut AsyncClient> {
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
