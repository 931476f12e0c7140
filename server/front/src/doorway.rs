//! A loop's doorways: each leads to one door, through the one instance of it that takes new calls.
//!
//! A door between processes is served by one process after another. So a doorway has room for two instances:
//! while calls of the one that leaves still end, the next one takes the new ones. All tables are there from
//! the start.

use super::opener::Mailbox;
use super::output::Output;
use crate::world::Caller;
use std::ops::{Index, IndexMut};
use transom_doors::{AsyncClient, PeerState, SlotId};

/// Instances of one door that have calls at the same time: the one that takes new ones, and the one before
/// it.
pub const INSTANCES: usize = 2;

/// What a loop keeps of each slot of each instance.
pub const SLOT_TABLES_SIZE: usize = size_of::<Output>() + size_of::<u32>();

/// Which instance of which doorway of its loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InstanceId {
    pub doorway: u16,
    pub instance: u8,
}

/// What a doorway is made of.
pub enum DoorwayParts<C = AsyncClient> {
    /// A door of this process, which is there as long as the loop.
    InProcess(C),
    /// A door of other processes, one after the other.
    Remote {
        /// Where to ask for the door's clients.
        mailbox: Mailbox<C>,
        /// The most slots that a client can have, with its spare ones: what was asked for when opening.
        slots_max: usize,
        /// The first client, if there is one already.
        client: Option<C>,
    },
}

/// A client of a door, and what its loop knows of each of its slots.
pub(super) struct Instance<C> {
    pub client: Option<C>,
    /// By slot: whose it is, or was.
    pub owners: Box<[u32]>,
    /// By slot: what is being written of its reply.
    pub outputs: Box<[Output]>,
    /// Since when calls are unclaimed and none has come back.
    pub stuck_since_ns: Option<u64>,
    /// Its process has ended: nothing more comes.
    pub gone: bool,
    /// It may have handlers that take a body as it comes: it has not said that it has none.
    pub may_stream: bool,
    /// When it ceased to take new calls.
    pub left_ms: u64,
}

impl<C: Caller> Instance<C> {
    fn new(slots: usize) -> Self {
        Instance {
            client: None,
            owners: vec![u32::MAX; slots].into_boxed_slice(),
            outputs: (0..slots).map(|_| Output::default()).collect(),
            stuck_since_ns: None,
            gone: false,
            may_stream: true,
            left_ms: 0,
        }
    }

    /// Whether the client itself has found that there is no use in going on, because the other side lied.
    pub(super) fn has_been_given_up(&self) -> bool {
        let state = self.client.as_ref().map(C::peer_state);
        !self.gone && state == Some(PeerState::Gone)
    }

    /// Whether there is a client with no slot in use. One that has gone frees those that were given up. Slots
    /// that lost requests keep are in use on the other side only.
    pub(super) fn is_done_with(&self) -> bool {
        self.client
            .as_ref()
            .is_some_and(|client| client.free_slots() == client.usable_slots())
    }

    /// The client.
    ///
    /// # Panics
    /// If there is none: an instance is kept as long as a connection has a slot of it.
    pub(super) fn client(&self) -> &C {
        self.client.as_ref().expect("a slot keeps its instance")
    }

    /// The client, and what is being written of a slot's reply.
    pub(super) fn writing(&mut self, slot: SlotId) -> (&C, &mut Output) {
        let client = self.client.as_ref().expect("a slot keeps its instance");
        (client, &mut self.outputs[slot.index()])
    }

    /// As [`Instance::client`].
    pub(super) fn client_mut(&mut self) -> &mut C {
        self.client.as_mut().expect("a slot keeps its instance")
    }
}

/// One door, as a loop sees it.
pub(super) struct Doorway<C> {
    pub instances: [Instance<C>; INSTANCES],
    /// The instance that takes new calls.
    pub serving: Option<u8>,
    /// Where to ask for the next one; `None` for a door of this process.
    mailbox: Option<Mailbox<C>>,
    /// The opener has been asked, and has not answered yet.
    pub asked: bool,
    /// Nobody serves, and those who did still take up all room: one of them has to go then. 0: it is not so.
    pub cramped_due_ms: u64,
    /// Since when requests wait while clients are slow and nothing is answered, and when it is looked who of
    /// them has to make room. The latter is 0 while it is not so.
    pub pressed_since_ms: u64,
    pub pressed_due_ms: u64,
}

impl<C: Caller> Doorway<C> {
    /// A doorway with tables for its clients' slots.
    pub(super) fn new(parts: DoorwayParts<C>) -> Self {
        let (client, mailbox, slots) = match parts {
            DoorwayParts::InProcess(client) => {
                let slots = client.geometry().slots_in_all() as usize;
                (Some(client), None, [slots, 0])
            }
            DoorwayParts::Remote {
                mailbox,
                slots_max,
                client,
            } => (client, Some(mailbox), [slots_max; INSTANCES]),
        };
        let serving = client.is_some().then_some(0);
        let mut instances = slots.map(Instance::new);
        instances[0].client = client;
        Doorway {
            instances,
            serving,
            mailbox,
            asked: false,
            cramped_due_ms: 0,
            pressed_since_ms: 0,
            pressed_due_ms: 0,
        }
    }

    /// Whether its instances are other processes, which are not believed.
    pub(super) fn is_remote(&self) -> bool {
        self.mailbox.is_some()
    }

    /// The mailbox of a remote door.
    ///
    /// # Panics
    /// If the door is of this process.
    pub(super) fn mailbox(&self) -> &Mailbox<C> {
        self.mailbox.as_ref().expect("asked of remote doors only")
    }

    /// An instance's place without a client.
    pub(super) fn vacancy(&self) -> Option<u8> {
        let free = |instance: &Instance<C>| instance.client.is_none();
        self.instances.iter().position(free).map(|n| n as u8)
    }

    /// The instance that left first of those that still have calls.
    pub(super) fn first_to_have_left(&self) -> Option<u8> {
        let numbered = (0..).zip(&self.instances);
        numbered
            .filter(|(_, instance)| instance.client.is_some())
            .min_by_key(|(_, instance)| instance.left_ms)
            .map(|(number, _)| number)
    }

    /// Whether calls lie in slots that no thread has taken up.
    pub(super) fn has_unclaimed_calls(&self) -> bool {
        let unclaimed = |instance: &Instance<C>| {
            let client = instance.client.as_ref().filter(|_| !instance.gone);
            client.is_some_and(C::backlog)
        };
        self.instances.iter().any(unclaimed)
    }

    /// Whether a request whose body is still coming may be for a handler that does not wait for that.
    pub(super) fn may_stream(&self) -> bool {
        self.serving
            .is_none_or(|instance| self.instances[usize::from(instance)].may_stream)
    }

    /// Slots that a new request can have.
    pub(super) fn free_slots(&self) -> usize {
        self.serving.map_or(0, |instance| {
            self.instances[usize::from(instance)].client().free_slots()
        })
    }
}

/// All doorways of a loop.
pub(super) struct Doorways<C>(pub Box<[Doorway<C>]>);

impl<C: Caller> Doorways<C> {
    /// A slot of the instance that takes new calls, for a connection.
    pub(super) fn reserve(&mut self, doorway: u16, owner: u32) -> Option<(InstanceId, SlotId)> {
        let instance = self[doorway].serving?;
        let at = InstanceId { doorway, instance };
        let slot = self[at].client_mut().reserve()?;
        self[at].owners[slot.index()] = owner;
        Some((at, slot))
    }

    /// The doorways' numbers.
    pub(super) fn all(&self) -> std::ops::Range<u16> {
        0..self.0.len() as u16
    }

    /// The instances' numbers, with or without a client.
    pub(super) fn instances(&self) -> impl Iterator<Item = InstanceId> + use<C> {
        self.all().flat_map(|doorway| {
            (0..INSTANCES as u8).map(move |instance| InstanceId { doorway, instance })
        })
    }

    /// The clients that replies may come from.
    pub(super) fn clients(&self) -> impl Iterator<Item = &C> {
        self.0
            .iter()
            .flat_map(|doorway| &doorway.instances)
            .filter(|instance| !instance.gone)
            .filter_map(|instance| instance.client.as_ref())
    }

    /// As [`Doorways::clients`].
    pub(super) fn clients_mut(&mut self) -> impl Iterator<Item = &mut C> {
        self.0
            .iter_mut()
            .flat_map(|doorway| &mut doorway.instances)
            .filter(|instance| !instance.gone)
            .filter_map(|instance| instance.client.as_mut())
    }
}

impl<C> Index<u16> for Doorways<C> {
    type Output = Doorway<C>;

    fn index(&self, doorway: u16) -> &Doorway<C> {
        &self.0[usize::from(doorway)]
    }
}

impl<C> IndexMut<u16> for Doorways<C> {
    fn index_mut(&mut self, doorway: u16) -> &mut Doorway<C> {
        &mut self.0[usize::from(doorway)]
    }
}

impl<C> Index<InstanceId> for Doorways<C> {
    type Output = Instance<C>;

    fn index(&self, at: InstanceId) -> &Instance<C> {
        &self[at.doorway].instances[usize::from(at.instance)]
    }
}

impl<C> IndexMut<InstanceId> for Doorways<C> {
    fn index_mut(&mut self, at: InstanceId) -> &mut Instance<C> {
        &mut self[at.doorway].instances[usize::from(at.instance)]
    }
}
