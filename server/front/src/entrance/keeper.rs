//! The succession at entrances: what becomes of calls when an instance leaves, and how the next one takes its
//! place.
//!
//! An instance that was revoked gets no new calls, and those under way complete. One that has died has
//! nothing under way any more: a call that no thread of it had seen waits for the next instance and is sent
//! there; any other may have run, and is lost.

use super::{Calls, Entrance, Instance, InstanceId, Source, places};
use crate::signal::Signal;
use crate::world::{Caller, Events};
use std::io;
use transom_doors::{PeerState, SlotId};
use transom_wire::own_log::error;

type EntranceOf<K> = Entrance<<K as Keeper>::Caller, <K as Keeper>::Calls, <K as Keeper>::Source>;

/// What has entrances, and calls there: a loop, or a forward of connections or datagrams. What it must say
/// comes first, the succession after that.
pub(crate) trait Keeper: Sized {
    type Events: Events;
    type Caller: Caller;
    type Calls: Calls;
    type Source: Source<Self::Caller>;

    /// Its entrances, by number.
    fn entrances(&mut self) -> &mut [EntranceOf<Self>];
    /// What it waits with.
    fn events(&self) -> &Self::Events;
    /// The time of its present turn.
    fn now_ns(&self) -> u64;
    /// How long instances that have left may keep the next one out. `None`: they do not, and the next one is
    /// asked for at once, since calls that may last for days go on without us when they are let go.
    fn patience_ns(&self) -> Option<u64>;
    /// Has the turn that follows come at once.
    fn look_again(&mut self);
    /// A door of this process was revoked.
    fn note_own_end(&mut self) {}
    /// Takes the replies of an instance that is not gone; false if there were none.
    fn collect(&mut self, at: InstanceId) -> bool;
    /// A call has been lost with its instance. If it has certainly not run, its slot still has it, to be
    /// carried over; else that slot is none of ours any more.
    fn on_lost(&mut self, at: InstanceId, slot: SlotId, has_not_run: bool);
    /// Ends all calls of an instance that makes room for the next one.
    fn let_go(&mut self, at: InstanceId);

    fn instance(&mut self, at: InstanceId) -> &mut Instance<Self::Caller, Self::Calls> {
        &mut self.entrance(at.doorway)[at]
    }

    fn entrance(&mut self, doorway: u16) -> &mut EntranceOf<Self> {
        &mut self.entrances()[usize::from(doorway)]
    }

    /// Publishes what was submitted: whether there was anything. What an instance did not accept waits for
    /// the next one.
    fn flush(&mut self) -> bool {
        let mut any = false;
        for at in places(0..self.entrances().len() as u16) {
            let Some(client) = &mut self.instance(at).client else {
                continue;
            };
            if !client.has_staged() {
                continue;
            }
            any = true;
            if client.flush().is_ok() {
                continue;
            }
            if !self.entrance(at.doorway).is_remote() {
                self.note_own_end();
                return false;
            }
            self.look_at_peer(at);
            self.retire(at);
            self.collect_lost(at);
            self.look_again();
        }
        any
    }

    /// The doorbell of a client has rung. Only what is not believed is asked why.
    fn on_ring(&mut self, at: InstanceId) {
        if self.entrance(at.doorway).is_remote() {
            let useful = self.collect(at);
            if let Some(client) = &mut self.instance(at).client {
                client.note_ring(useful);
            }
        }
    }

    /// Something has happened to the other side of a client.
    fn look_at_peer(&mut self, at: InstanceId) {
        let instance = self.instance(at);
        let Some(client) = instance.client.as_mut().filter(|_| !instance.gone) else {
            return; // an event for a client that has been freed since, or whose end is known
        };
        match client.check_peer() {
            PeerState::Serving => {}
            PeerState::Revoked => self.retire(at),
            PeerState::Gone => {
                if let (Some(lie), Some(door)) = (client.lie(), client.door()) {
                    error!(
                        lie,
                        pid = door.server.pid,
                        uid = door.server.uid,
                        "an application has lied, and its channel was given up"
                    );
                }
                self.retire(at);
                // What it has completed before is as good as ever.
                self.collect(at);
                self.instance(at).gone = true;
                self.collect_lost(at);
            }
        }
    }

    /// Gives an instance no new calls.
    fn retire(&mut self, at: InstanceId) {
        let now_ns = self.now_ns();
        let entrance = self.entrance(at.doorway);
        if entrance.serving == Some(at) {
            entrance.serving = None;
            entrance.ask_again_ns = now_ns;
            entrance[at].left_ns = now_ns;
        }
    }

    fn collect_lost(&mut self, at: InstanceId) {
        while let Some((slot, error)) = self.instance(at).client_mut().next_lost() {
            self.on_lost(at, slot, error.is_safe_to_resend());
        }
    }

    /// Frees instances that have no calls any more, and asks for what is missing: again, if a source may have
    /// told that it has something.
    fn tend(&mut self, is_told: bool) {
        for doorway in 0..self.entrances().len() as u16 {
            if !self.entrance(doorway).is_remote() {
                continue;
            }
            for at in places(doorway..doorway + 1) {
                if self.instance(at).has_been_given_up() {
                    self.look_at_peer(at);
                }
                if self.entrance(doorway).serving != Some(at) && self.instance(at).is_done_with() {
                    self.free(at);
                }
            }
            if is_told {
                self.entrance(doorway).ask_again_ns = 0;
            }
            self.ask_for_the_next(doorway);
        }
    }

    /// Asks for an instance, if none serves and it is time. Those that have left may keep it out for a while.
    fn ask_for_the_next(&mut self, doorway: u16) {
        let (now_ns, patience_ns) = (self.now_ns(), self.patience_ns());
        let entrance = self.entrance(doorway);
        if entrance.serving.is_some() || now_ns < entrance.ask_again_ns {
            return;
        }
        if let Some(patience_ns) = patience_ns
            && entrance[entrance.next_place()].client.is_some()
        {
            if entrance.cramped_due_ns == 0 {
                entrance.cramped_due_ns = now_ns.saturating_add(patience_ns);
            }
            if now_ns < entrance.cramped_due_ns {
                return;
            }
            self.make_room(doorway);
        }
        let entrance = self.entrance(doorway);
        entrance.cramped_due_ns = 0;
        match entrance.source().ask(now_ns) {
            Ok(client) => self.install(doorway, client),
            Err(again_ns) => entrance.ask_again_ns = again_ns,
        }
    }

    /// Ends what an instance that has left still does, if there is no free place.
    fn make_room(&mut self, doorway: u16) -> InstanceId {
        let at = self.entrance(doorway).next_place();
        if self.instance(at).client.is_some() {
            self.let_go(at);
            self.free(at);
        }
        at
    }

    /// Has a client take the new calls.
    fn install(&mut self, doorway: u16, client: Self::Caller) {
        // What waits can go on before the thread sleeps, or another client is asked for.
        self.look_again();
        let at = self.make_room(doorway);
        let slots = client.geometry().slots_in_all() as usize;
        if slots > self.instance(at).room {
            error!(slots, "a door has more slots than were asked for");
            self.entrance(doorway).source().free(client);
            return;
        }
        let watched = self.watch(at, &client);
        let entrance = self.entrance(doorway);
        if let Err(error) = watched {
            entrance.ask_again_ns = entrance.source().is_unwatched(&error);
            entrance[at].client = Some(client);
            return self.free(at);
        }
        entrance.source().has_come(&client);
        entrance.serve_with(at, client);
    }

    /// Has the epoll set tell of a client's news.
    fn watch(&self, at: InstanceId, client: &Self::Caller) -> io::Result<()> {
        let events = self.events();
        events.add_bell(client.as_raw_fd(), Signal::Client(at).token())?;
        match client.peer_fd() {
            Some(fd) => events.add_bell(fd, Signal::Peer(at).token()),
            None => Ok(()),
        }
    }

    /// Gives a client back to its source. The other side may have the descriptors too, so closing ours would
    /// not take them out of the set.
    fn free(&mut self, at: InstanceId) {
        if let Some(client) = self.instance(at).client.take() {
            let _ = self.events().remove(client.as_raw_fd());
            if let Some(fd) = client.peer_fd() {
                let _ = self.events().remove(fd);
            }
            self.entrance(at.doorway).source().free(client);
        }
    }
}
