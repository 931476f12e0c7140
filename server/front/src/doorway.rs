//! A loop's doorways: its entrances, and what it knows of the requests there.

use super::opener::Mailbox;
use super::output::Output;
use crate::entrance::{Calls, Entrance, INSTANCES, Instance, InstanceId, places};
use crate::world::Caller;
use std::ops::{Index, IndexMut};
use transom_doors::{AsyncClient, SlotId};

/// What a loop keeps of each slot of each instance.
pub const SLOT_TABLES_SIZE: usize = size_of::<Output>() + size_of::<u32>();

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

/// What a loop knows of the requests of one instance.
pub(super) struct Requests {
    /// By slot: whose it is, or was.
    pub owners: Box<[u32]>,
    /// By slot: what is being written of its reply.
    pub outputs: Box<[Output]>,
    /// The instance may have handlers that take a body as it comes: it has not said that it has none.
    pub may_stream: bool,
}

impl Requests {
    fn new(slots: usize) -> Self {
        Requests {
            owners: vec![u32::MAX; slots].into_boxed_slice(),
            outputs: (0..slots).map(|_| Output::default()).collect(),
            may_stream: true,
        }
    }
}

impl Calls for Requests {
    fn begin(&mut self) {
        self.may_stream = true;
    }
}

impl<C: Caller> Instance<C, Requests> {
    /// The client, and what is being written of a slot's reply.
    pub(super) fn writing(&mut self, slot: SlotId) -> (&C, &mut Output) {
        let client = self.client.as_ref().expect("a slot keeps its instance");
        (client, &mut self.calls.outputs[slot.index()])
    }
}

/// One door, as a loop sees it.
pub(super) type Doorway<C> = Entrance<C, Requests, Mailbox<C>>;

impl<C: Caller> Doorway<C> {
    /// A doorway with tables for its clients' slots.
    fn of(number: u16, parts: DoorwayParts<C>, now_ns: u64) -> Self {
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
        let mut this = Entrance::new(number, slots, Requests::new, mailbox, now_ns);
        if let Some(client) = client {
            this.serve_with(this.next_place(), client);
        }
        this
    }

    /// Whether a request whose body is still coming may be for a handler that does not wait for that.
    pub(super) fn may_stream(&self) -> bool {
        self.server()
            .is_none_or(|instance| instance.calls.may_stream)
    }
}

/// Whether requests wait at a doorway while clients are slow and nothing is answered.
#[derive(Default)]
pub(super) struct Pressure {
    pub since_ms: u64,
    /// When it is looked who of the slow ones has to make room. 0: it is not so.
    pub due_ms: u64,
}

/// All doorways of a loop.
pub(super) struct Doorways<C> {
    pub list: Box<[Doorway<C>]>,
    /// By doorway.
    pub pressure: Box<[Pressure]>,
}

impl<C: Caller> Doorways<C> {
    pub(super) fn new(parts: Vec<DoorwayParts<C>>, now_ns: u64) -> Self {
        let numbered = (0..).zip(parts);
        let list: Box<[_]> = numbered
            .map(|(n, parts)| Doorway::of(n, parts, now_ns))
            .collect();
        let pressure = list.iter().map(|_| Pressure::default()).collect();
        Doorways { list, pressure }
    }

    /// A slot of the instance that takes new calls, for a connection.
    pub(super) fn reserve(&mut self, doorway: u16, owner: u32) -> Option<(InstanceId, SlotId)> {
        let (at, slot) = self[doorway].reserve()?;
        self[at].calls.owners[slot.index()] = owner;
        Some((at, slot))
    }

    /// The doorways' numbers.
    pub(super) fn all(&self) -> std::ops::Range<u16> {
        0..self.list.len() as u16
    }

    /// The instances' numbers, with or without a client.
    pub(super) fn instances(&self) -> impl Iterator<Item = InstanceId> + use<C> {
        places(self.all())
    }

    /// The clients that replies may come from.
    pub(super) fn clients_mut(&mut self) -> impl Iterator<Item = &mut C> {
        self.list.iter_mut().flat_map(Entrance::clients_mut)
    }

    /// When it is looked again, at some doorway, whether room has to be made for a process or for requests.
    pub(super) fn due_ms(&self) -> impl Iterator<Item = u64> {
        // Rounded up, else the loop would turn idly until then.
        let cramped = (self.list.iter()).map(|doorway| doorway.cramped_due_ns.div_ceil(1_000_000));
        let pressed = self.pressure.iter().map(|pressure| pressure.due_ms);
        cramped.chain(pressed).filter(|&due| due != 0)
    }
}

impl<C> Index<u16> for Doorways<C> {
    type Output = Doorway<C>;

    fn index(&self, doorway: u16) -> &Doorway<C> {
        &self.list[usize::from(doorway)]
    }
}

impl<C> IndexMut<u16> for Doorways<C> {
    fn index_mut(&mut self, doorway: u16) -> &mut Doorway<C> {
        &mut self.list[usize::from(doorway)]
    }
}

impl<C> Index<InstanceId> for Doorways<C> {
    type Output = Instance<C, Requests>;

    fn index(&self, at: InstanceId) -> &Instance<C, Requests> {
        &self[at.doorway][at]
    }
}

impl<C> IndexMut<InstanceId> for Doorways<C> {
    fn index_mut(&mut self, at: InstanceId) -> &mut Instance<C, Requests> {
        &mut self[at.doorway][at]
    }
}
