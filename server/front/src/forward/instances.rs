//! The instances of a forward's door, which come and go: how they are found, taken on and let go.

use super::doorway::{FIRST_CLIENT, Said, StreamDoor, StreamInstance};
use super::traffic::{Loss, Traffic};
use crate::doorway::INSTANCES;
use crate::opener::{HANGS, REMOTE_SLOTS_MAX, REMOTE_SPARES_MAX};
use std::time::Duration;
use transom_arena::attaching;
use transom_doors::{AsyncClient, OpenError, PeerState, Words};
use transom_net::Epoll;
use transom_wire::own_log::{error, info, warn};

/// How often a door that is away is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How often a door that is there and lets nobody in is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// The same for one whose application is not of the right kind.
const UNFIT_AGAIN: Duration = Duration::from_secs(1);

impl<T: Traffic> StreamDoor<T> {
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
    pub(super) fn retire(&mut self, at: usize, now_ns: u64) {
        if self.serving == Some(at) {
            self.serving = None;
            self.away_since_ns = now_ns;
            self.open_again_ns = now_ns;
        }
    }

    pub(super) fn collect_lost(&mut self, at: usize, traffic: &mut T, now_ns: u64) {
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

    pub(super) fn free(&mut self, at: usize, epoll: &Epoll) {
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
}
