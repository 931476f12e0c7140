//! The connection table: a fixed array in the region, and the lists its entries stand in.
//!
//! Every timeout has one length, so a list in order of arrival is a list in order of expiry: setting,
//! clearing and finding the next timer are a few pointer moves, and nothing is ever allocated. An entry
//! stands in one list at a time.

use crate::connection::Connection;
use crate::exchange::State;
use crate::lists::{DOORWAY_LISTS, List, NONE, SINGLE_LISTS};
use crate::transport::Transport;
use transom_arena::Part;

#[derive(Debug, Clone, Copy)]
struct Ends {
    head: u32,
    tail: u32,
    len: u32,
}

impl Ends {
    const EMPTY: Ends = Ends {
        head: NONE,
        tail: NONE,
        len: 0,
    };
}

/// All connections of one loop.
#[derive(Debug)]
pub(crate) struct Table {
    entries: &'static mut [Connection],
    free: u32,
    open: u32,
    lists: Box<[Ends]>,
}

impl Table {
    /// A table of `count` entries in a part of the region, with the lists of so many doorways.
    ///
    /// # Panics
    /// If the part is too small: both come from the plan.
    pub(crate) fn new(part: Part, count: u32, doorways: usize) -> Self {
        assert!(part.len() >= count as usize * size_of::<Connection>());
        let base = part.base().cast::<Connection>();
        for index in 0..count {
            let mut entry = Connection::closed();
            entry.link.next = if index + 1 < count { index + 1 } else { NONE };
            // SAFETY: inside the part, which is page-aligned, writable, lives for ever, and is ours alone.
            unsafe { base.add(index as usize).write(entry) };
        }
        Table {
            // SAFETY: all entries have just been written, and `part`, the only handle on them, is used up.
            entries: unsafe { std::slice::from_raw_parts_mut(base.as_ptr(), count as usize) },
            free: if count > 0 { 0 } else { NONE },
            open: 0,
            lists: vec![Ends::EMPTY; SINGLE_LISTS + doorways * DOORWAY_LISTS].into_boxed_slice(),
        }
    }

    /// Connections that it has room for.
    pub(crate) fn size(&self) -> u32 {
        self.entries.len() as u32
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> u32 {
        self.open
    }

    pub(crate) fn is_full(&self) -> bool {
        self.free == NONE
    }

    /// Takes an entry for a new connection.
    pub(crate) fn insert(&mut self, transport: Transport, now_ns: u64) -> Option<u32> {
        let index = self.free;
        let entry = self.entries.get_mut(index as usize)?;
        self.free = entry.link.next;
        // These are the entry's, not the connection's.
        let (generation, queued, in_held) = (entry.generation, entry.queued, entry.outbox.in_held);
        *entry = Connection::new(transport, now_ns);
        entry.generation = generation;
        entry.queued = queued;
        entry.outbox.in_held = in_held;
        self.open += 1;
        Some(index)
    }

    /// Gives an entry back. Its descriptor, slot and buffer are the caller's to release first.
    pub(crate) fn remove(&mut self, index: u32) {
        self.unlink(index);
        let free = self.free;
        let entry = &mut self[index];
        entry.exchange.state = State::Closed;
        entry.outbox.held_since_ns = 0;
        // All ones mark what is no connection.
        entry.generation = (entry.generation + 1) % u32::MAX;
        entry.link.next = free;
        self.free = index;
        self.open -= 1;
    }

    /// The connection that an event was for, unless it has gone meanwhile.
    pub(crate) fn of_event(&mut self, index: u32, generation: u32) -> Option<&mut Connection> {
        self.entries
            .get_mut(index as usize)
            .filter(|entry| entry.generation == generation && entry.is_open())
    }

    /// An open connection, if there is one of that number.
    pub(crate) fn get(&self, index: u32) -> Option<&Connection> {
        self.entries
            .get(index as usize)
            .filter(|entry| entry.is_open())
    }

    /// The first open connection from a number on.
    pub(crate) fn next_open(&self, from: u32) -> Option<u32> {
        let rest = self.entries.get(from as usize..)?;
        let offset = rest.iter().position(Connection::is_open)?;
        Some(from + offset as u32)
    }

    /// Puts an entry at the end of a list, taking it out of the one it was in.
    pub(crate) fn set_timer(&mut self, index: u32, list: List, due_ms: u64) {
        self.unlink(index);
        self[index].link.due_ms = due_ms;
        let Some(number) = list.number() else {
            return;
        };
        // Nearly always the tail: only a request that has waited for a slot expires earlier than those before
        // it.
        let mut before = self.lists[number].tail;
        while before != NONE && self[before].link.due_ms > due_ms {
            before = self[before].link.prev;
        }
        let after = match before {
            NONE => self.lists[number].head,
            before => self[before].link.next,
        };
        self.lists[number].len += 1;
        let entry = &mut self[index];
        entry.link.list = list;
        entry.link.prev = before;
        entry.link.next = after;
        match before {
            NONE => self.lists[number].head = index,
            before => self[before].link.next = index,
        }
        match after {
            NONE => self.lists[number].tail = index,
            after => self[after].link.prev = index,
        }
    }

    /// Takes an entry out of its list.
    pub(crate) fn unlink(&mut self, index: u32) {
        let entry = &mut self[index];
        let (list, prev, next) = (entry.link.list, entry.link.prev, entry.link.next);
        let Some(number) = list.number() else {
            return;
        };
        entry.link.list = List::None;
        entry.link.prev = NONE;
        entry.link.next = NONE;
        self.lists[number].len -= 1;
        match prev {
            NONE => self.lists[number].head = next,
            prev => self[prev].link.next = next,
        }
        match next {
            NONE => self.lists[number].tail = prev,
            next => self[next].link.prev = prev,
        }
    }

    /// The entry of a list that expires first.
    pub(crate) fn first(&self, list: List) -> Option<u32> {
        let head = self.lists[list.number()?].head;
        (head != NONE).then_some(head)
    }

    /// The entries of a list, in the order of their timers.
    pub(crate) fn entries(&self, list: List) -> impl Iterator<Item = u32> + '_ {
        std::iter::successors(self.first(list), |&index| self.after(index))
    }

    /// The next entry of the list that an entry stands in.
    pub(crate) fn after(&self, index: u32) -> Option<u32> {
        Some(self[index].link.next).filter(|&next| next != NONE)
    }

    /// How many entries stand in a list.
    pub(crate) fn len(&self, list: List) -> u32 {
        list.number().map_or(0, |number| self.lists[number].len)
    }

    /// Whether an entry stands in a list.
    pub(crate) fn stands_in(&self, index: u32, list: List) -> bool {
        self[index].link.list == list
    }

    /// The first entry of a list if its time has come.
    pub(crate) fn expired(&self, list: List, now_ms: u64) -> Option<u32> {
        self.first(list)
            .filter(|&first| self[first].link.due_ms <= now_ms)
    }

    /// When the next timeout of any list strikes.
    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        self.lists
            .iter()
            .filter(|ends| ends.head != NONE)
            .map(|ends| self[ends.head].link.due_ms)
            .min()
    }
}

impl std::ops::Index<u32> for Table {
    type Output = Connection;

    fn index(&self, index: u32) -> &Connection {
        &self.entries[index as usize]
    }
}

impl std::ops::IndexMut<u32> for Table {
    fn index_mut(&mut self, index: u32) -> &mut Connection {
        &mut self.entries[index as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use transom_arena::{Bound, Place, Region, RegionOptions, Term};

    fn table(count: u32) -> Table {
        let bound = Bound::new(vec![Term {
            name: "connections",
            count: count as usize,
            unit: size_of::<Connection>(),
            guards: 0,
            holder: "a test",
            flags: "",
            place: Place::Region,
        }])
        .expect("small");
        let mut region = Region::map(&bound, RegionOptions::default()).expect("maps");
        Table::new(region.take("connections").expect("there"), count, 2)
    }

    fn drain(table: &mut Table, list: List) -> Vec<u32> {
        let mut order = Vec::new();
        while let Some(first) = table.first(list) {
            table.unlink(first);
            order.push(first);
        }
        order
    }

    #[test]
    fn an_idle_connection_costs_less_than_512_bytes() {
        assert!(
            size_of::<Connection>() <= 384,
            "{}",
            size_of::<Connection>()
        );
    }

    #[test]
    fn entries_are_used_again_with_another_generation() {
        let mut table = table(2);
        let a = table.insert(Transport::new(10, None, 0), 0).expect("free");
        let b = table.insert(Transport::new(11, None, 0), 0).expect("free");
        assert!(table.insert(Transport::new(12, None, 0), 0).is_none() && table.is_full());
        let generation = table[a].generation;
        assert!(table.of_event(a, generation).is_some());
        table.remove(a);
        assert!(table.of_event(a, generation).is_none());
        let again = table.insert(Transport::new(13, None, 0), 0).expect("free");
        assert_eq!(again, a);
        assert!(table.of_event(a, generation).is_none(), "a late event");
        assert_eq!([table.next_open(0), table.next_open(1)], [Some(a), Some(b)]);
        assert_eq!(table.next_open(2), None);
    }

    #[test]
    fn lists_expire_in_order_of_their_times_however_entries_come_and_go() {
        let mut table = table(6);
        let ids: Vec<_> = (0..6)
            .map(|fd| table.insert(Transport::new(fd, None, 0), 0).expect("free"))
            .collect();
        for (&id, due) in ids.iter().zip([10, 20, 30, 15, 5, 30]) {
            table.set_timer(id, List::Submitted, due);
        }
        assert_eq!(table.next_due_ms(), Some(5));
        assert_eq!(table.expired(List::Submitted, 4), None);
        assert_eq!(table.expired(List::Submitted, 5), Some(ids[4]));
        table.set_timer(ids[2], List::Idle, 1);
        table.set_timer(ids[0], List::Submitted, 25);
        let order = drain(&mut table, List::Submitted);
        assert_eq!(order, [ids[4], ids[3], ids[1], ids[0], ids[5]]);
        assert_eq!(drain(&mut table, List::Idle), [ids[2]]);
        assert_eq!(table.next_due_ms(), None);
    }

    #[test]
    fn every_list_has_its_own_ends_and_every_doorway_its_own_lists() {
        let lists = [
            List::Idle,
            List::Header,
            List::SmallBody,
            List::Submitted,
            List::Deadline,
            List::Answer,
            List::AnswerAhead,
            List::Linger,
            List::Write(0),
            List::Write(1),
            List::Body(0),
            List::Waiting(0),
            List::Body(1),
            List::Waiting(1),
        ];
        let mut table = table(lists.len() as u32);
        let ids = lists.map(|list| {
            let id = table.insert(Transport::new(0, None, 0), 0).expect("free");
            table.set_timer(id, list, 7);
            id
        });
        for (list, id) in lists.into_iter().zip(ids) {
            assert!(table.len(list) == 1 && table.stands_in(id, list));
            assert_eq!(drain(&mut table, list), [id]);
        }
        assert_eq!((table.first(List::None), table.len(List::None)), (None, 0));
        assert_eq!(table.next_due_ms(), None);
    }
}
