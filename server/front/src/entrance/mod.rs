//! Entrances: each leads to one door, whose processes follow one another.
//!
//! While calls of the process that leaves still end, the next one takes the new ones. So an entrance has room
//! for two instances of its door, and all tables are there from the start. It does not know what its calls
//! carry: a loop has requests there, a forward connections or datagrams. It does not know either where a
//! process runs: it calls it through a [`Caller`], and gets that from a [`Source`]. A door on another host
//! would be one more of each.

mod keeper;
mod stuck;
#[cfg(test)]
mod tests;

use crate::world::Caller;
pub(crate) use keeper::Keeper;
use std::io;
use std::ops::{Index, IndexMut, Range};
use std::time::Duration;
pub(crate) use stuck::PATIENCE;
use stuck::Stuck;
use transom_doors::SlotId;

/// Instances of one door that have calls at the same time: the one that takes new ones, and the one before
/// it.
pub const INSTANCES: usize = 2;

/// Which instance of which entrance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InstanceId {
    pub doorway: u16,
    pub instance: u8,
}

/// Where an entrance gets its clients from, one after the other.
pub(crate) trait Source<C> {
    /// Asks for the next client: there it is, or then it is asked again; `u64::MAX` for when it tells by
    /// itself that it has something.
    fn ask(&mut self, now_ns: u64) -> Result<C, u64>;
    /// A client takes calls from now on.
    fn has_come(&mut self, _: &C) {}
    /// No event would tell of a client, so it is not used. When to ask for another one.
    fn is_unwatched(&mut self, error: &io::Error) -> u64;
    /// Takes back a client that has no calls any more.
    fn free(&mut self, _: C) {}
}

/// What is known of the calls of one instance, slot by slot.
pub(crate) trait Calls {
    /// Another process begins in this place.
    fn begin(&mut self) {}
    /// How many wait for the next instance, and would be missed with their slots here.
    fn waiting(&self) -> usize {
        0
    }
}

/// One process of a door, or the place for one.
pub(crate) struct Instance<C, T> {
    pub(crate) client: Option<C>,
    pub(crate) calls: T,
    /// Slots that there is room for in `calls`.
    room: usize,
    /// Its process has ended: nothing more comes.
    pub(crate) gone: bool,
    /// When it ceased to take new calls; before that, when the entrance was made.
    left_ns: u64,
    /// Its calls that no thread takes.
    pub(crate) stuck: Option<Stuck>,
}

impl<C: Caller, T> Instance<C, T> {
    /// The client.
    ///
    /// # Panics
    /// If there is none: an instance is kept as long as a call has a slot of it.
    pub(crate) fn client(&self) -> &C {
        self.client.as_ref().expect("a slot keeps its instance")
    }

    /// As [`Instance::client`].
    pub(crate) fn client_mut(&mut self) -> &mut C {
        self.client.as_mut().expect("a slot keeps its instance")
    }

    /// Whether the client itself has found that there is no use in going on, because the other side lied.
    fn has_been_given_up(&self) -> bool {
        let state = self.client.as_ref().map(C::peer_state);
        !self.gone && state == Some(transom_doors::PeerState::Gone)
    }

    /// Whether there is a client with no slot in use. One that has gone frees those that were given up. Slots
    /// that lost calls keep are in use on the other side only.
    fn is_done_with(&self) -> bool {
        self.client
            .as_ref()
            .is_some_and(|client| client.free_slots() == client.usable_slots())
    }
}

/// What came of bringing a call to the instance that serves.
pub(crate) enum Carried {
    /// It lies in that slot of that instance, and its old one is free.
    Over(InstanceId, SlotId),
    /// It does not fit: the application has come back with smaller slots. Its old one is free.
    TooLarge,
    /// There is no free slot.
    Not,
}

/// One door, as those see it who call it.
pub(crate) struct Entrance<C, T, S> {
    /// Its place among those of its keeper.
    number: u16,
    pub(crate) instances: [Instance<C, T>; INSTANCES],
    /// The instance that takes new calls.
    pub(crate) serving: Option<InstanceId>,
    /// Where the next one comes from; `None` for a door of this process.
    source: Option<S>,
    /// While no instance serves: when the source is asked for the next one.
    pub(crate) ask_again_ns: u64,
    /// No instance serves, and those that did still take up all room: one of them has to go then. 0: it is
    /// not so.
    pub(crate) cramped_due_ns: u64,
}

impl<C: Caller, T: Calls, S: Source<C>> Entrance<C, T, S> {
    /// An entrance with tables for its clients' slots, and without a client.
    pub(crate) fn new(
        number: u16,
        slots: [usize; INSTANCES],
        calls: fn(usize) -> T,
        source: Option<S>,
        now_ns: u64,
    ) -> Self {
        Entrance {
            number,
            instances: slots.map(|room| Instance {
                client: None,
                calls: calls(room),
                room,
                gone: false,
                left_ns: now_ns,
                stuck: None,
            }),
            serving: None,
            source,
            ask_again_ns: 0,
            cramped_due_ns: 0,
        }
    }

    /// Gives an instance a client, which takes the new calls.
    pub(crate) fn serve_with(&mut self, at: InstanceId, client: C) {
        let place = &mut self[at];
        place.client = Some(client);
        place.gone = false;
        place.stuck = None;
        place.calls.begin();
        self.serving = Some(at);
    }

    /// The numbers of its instances, with or without a client.
    pub(crate) fn places(&self) -> impl Iterator<Item = InstanceId> + use<C, T, S> {
        places(self.number..self.number + 1)
    }

    /// Whether its instances are other processes, which are not believed.
    pub(crate) fn is_remote(&self) -> bool {
        self.source.is_some()
    }

    /// Where a remote door's clients come from.
    ///
    /// # Panics
    /// If the door is of this process.
    pub(crate) fn source(&mut self) -> &mut S {
        self.source.as_mut().expect("asked of remote doors only")
    }

    /// Since when no instance has taken new calls, while none does.
    pub(crate) fn away_since_ns(&self) -> u64 {
        let [first, second] = &self.instances;
        first.left_ns.max(second.left_ns)
    }

    /// The clients that replies may come from.
    pub(crate) fn clients(&self) -> impl Iterator<Item = &C> {
        let live = self.instances.iter().filter(|instance| !instance.gone);
        live.filter_map(|instance| instance.client.as_ref())
    }

    /// As [`Entrance::clients`].
    pub(crate) fn clients_mut(&mut self) -> impl Iterator<Item = &mut C> {
        let live = self.instances.iter_mut().filter(|instance| !instance.gone);
        live.filter_map(|instance| instance.client.as_mut())
    }

    /// Whether calls lie in slots that no thread has taken up.
    pub(crate) fn has_unclaimed_calls(&self) -> bool {
        self.clients().any(|client| client.unclaimed() > 0)
    }

    /// Has the door wake another thread for calls that none has taken for a while; in the end every `rarest`.
    /// Whether one is on its way, and when to look again.
    pub(crate) fn help_stuck(&mut self, rarest: Duration, now_ns: u64) -> (bool, Option<u64>) {
        let (mut is_helped, mut first_due_ns) = (false, None);
        for one in self.instances.iter_mut().filter(|one| !one.gone) {
            let Some(client) = &mut one.client else {
                continue;
            };
            let unclaimed = client.unclaimed();
            if unclaimed == 0 {
                one.stuck = None;
                continue;
            }
            let stuck = one.stuck.get_or_insert_with(|| Stuck::new(now_ns));
            is_helped |= stuck.is_due(unclaimed, rarest, now_ns) && client.nudge();
            let due_ns = stuck.due_ns();
            first_due_ns = Some(first_due_ns.map_or(due_ns, |first: u64| first.min(due_ns)));
        }
        (is_helped, first_due_ns)
    }

    /// The instance that takes new calls.
    pub(crate) fn server(&self) -> Option<&Instance<C, T>> {
        Some(&self[self.serving?])
    }

    /// Slots that a new call can have.
    pub(crate) fn free_slots(&self) -> usize {
        self.server()
            .map_or(0, |instance| instance.client().free_slots())
    }

    /// A slot of the instance that takes new calls.
    pub(crate) fn reserve(&mut self) -> Option<(InstanceId, SlotId)> {
        let at = self.serving?;
        Some((at, self[at].client_mut().reserve()?))
    }

    /// Brings a call of so many bytes, which was not accepted, from its slot to one of the instance that
    /// serves now. Both must be its own to fill.
    pub(crate) fn carry_over(&mut self, from: InstanceId, old: SlotId, len: usize) -> Carried {
        let Some((to, slot)) = self.reserve() else {
            return Carried::Not;
        };
        let [first, second] = &mut self.instances;
        let (source, target) = match from.instance {
            0 => (first, second),
            _ => (second, first),
        };
        let (source, target) = (source.client_mut(), target.client_mut());
        let room = target.request_mut(slot).get_mut(..len);
        let fits = room.map(|room| room.copy_from_slice(&source.request_mut(old)[..len]));
        source.release(old);
        if fits.is_none() {
            target.release(slot);
            return Carried::TooLarge;
        }
        Carried::Over(to, slot)
    }

    /// Where the next instance goes: to a free place, or to that of the instance that can be missed best.
    /// That is rather one whose calls go on without us than one whose calls wait to be sent again, and of
    /// such the one that left first.
    pub(crate) fn next_place(&self) -> InstanceId {
        let missed = |at: &InstanceId| {
            let one = &self[*at];
            (one.client.is_some(), one.calls.waiting(), one.left_ns)
        };
        self.places().min_by_key(missed).expect("there are two")
    }
}

/// The numbers of the instances at some entrances, with or without a client.
pub(crate) fn places(doorways: Range<u16>) -> impl Iterator<Item = InstanceId> {
    doorways.flat_map(|doorway| {
        (0..INSTANCES as u8).map(move |instance| InstanceId { doorway, instance })
    })
}

impl<C, T, S> Index<InstanceId> for Entrance<C, T, S> {
    type Output = Instance<C, T>;

    fn index(&self, at: InstanceId) -> &Instance<C, T> {
        &self.instances[usize::from(at.instance)]
    }
}

impl<C, T, S> IndexMut<InstanceId> for Entrance<C, T, S> {
    fn index_mut(&mut self, at: InstanceId) -> &mut Instance<C, T> {
        &mut self.instances[usize::from(at.instance)]
    }
}
