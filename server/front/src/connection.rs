//! The connection table: a fixed array in the region, and the lists its entries stand in.
//!
//! Every timeout has one length, so a list in order of arrival is a list in order of expiry: setting,
//! clearing and finding the next timer are a few pointer moves, and nothing is ever allocated. An entry
//! stands in one list at a time.

use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use transom_arena::Part;
use transom_doors::SlotId;
use transom_http::{ChunkDecoder, Fate, Note};
use transom_net::addresses::Counted;
use transom_net::pace::Pace;

/// No entry.
const NONE: u32 = u32::MAX;

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// The entry is not in use.
    Free,
    /// Open, nothing of a request has been read.
    Idle,
    /// Part of a head, or more, lies in a buffer.
    Head,
    /// A request is there, unread, read, or in the slot of an instance that did not accept it, but no slot
    /// for it.
    Waiting,
    /// The body is being read into the slot.
    Body,
    /// The call is with the application.
    Calling,
    /// As `Calling`, and the application waits for the next piece of the body.
    BodyWanted,
    /// An answer, or a part of one, is being written.
    Writing,
    /// Answered and shut down for writing; what the client still sends is thrown away.
    Lingering,
}

/// Which instance of which doorway of its loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InstanceId {
    pub doorway: u16,
    pub instance: u8,
}

/// The lists. Each but `Waiting` is one timeout. What stands for slots is listed by doorway, so that one
/// whose slots are all in use holds up nobody who asks for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum List {
    None,
    Idle,
    Header,
    /// A whole head in a buffer, and a body that fits it and is not all there yet.
    SmallBody,
    /// A body that is being read into a slot of that doorway.
    Body(u16),
    /// For a slot of that doorway; expires by the queue timeout.
    Waiting(u16),
    /// In a slot, perhaps unclaimed; expires by the queue timeout.
    Submitted,
    Deadline,
    /// An answer of ours that the socket had no room for.
    Answer,
    /// The same, and the connection has a buffer with what its client has sent ahead.
    AnswerAhead,
    Linger,
    /// An answer from a slot of that doorway that its client is slow to take.
    Write(u16),
}

/// Lists that there is one of.
const SINGLE_LISTS: usize = 8;

/// Lists that each doorway has of its own.
const DOORWAY_LISTS: usize = 3;

impl List {
    /// Its place among the ends; `None` for no list.
    fn number(self) -> Option<usize> {
        let of_doorway = |doorway: u16, n| SINGLE_LISTS + usize::from(doorway) * DOORWAY_LISTS + n;
        Some(match self {
            List::None => return None,
            List::Idle => 0,
            List::Header => 1,
            List::SmallBody => 2,
            List::Submitted => 3,
            List::Deadline => 4,
            List::Answer => 5,
            List::AnswerAhead => 6,
            List::Linger => 7,
            List::Body(doorway) => of_doorway(doorway, 0),
            List::Waiting(doorway) => of_doorway(doorway, 1),
            List::Write(doorway) => of_doorway(doorway, 2),
        })
    }
}

/// How the rest of a body is read.
#[derive(Debug, Clone, Copy)]
pub(crate) enum BodyRest {
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked(ChunkDecoder),
}

impl BodyRest {
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            BodyRest::Length(rest) => *rest == 0,
            BodyRest::Chunked(decoder) => decoder.is_done(),
        }
    }
}

/// One of our own answers on its way out. It lies nowhere: what is not sent yet is put together again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OwnAnswer {
    pub status: u16,
    pub note: Option<Note>,
    pub fate: Fate,
    pub keep_alive: bool,
    /// The second that its `Date` names.
    pub seconds: u64,
    pub sent: u16,
}

/// Answers that have been put aside, to be sent with the next one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gathered {
    /// Which place of the loop's has them.
    pub place: u8,
    /// How many bytes.
    pub len: u16,
}

/// One connection. About 300 bytes.
#[derive(Debug)]
pub(crate) struct Connection {
    pub fd: RawFd,
    /// Counts the uses of the entry, so that a late event is not taken for the next connection's.
    pub generation: u32,
    pub state: State,
    list: List,
    prev: u32,
    next: u32,
    /// When its list's timeout strikes, in milliseconds of the loop's clock.
    due_ms: u64,
    /// When the present request's first byte was there, in nanoseconds of the same clock.
    pub arrived_ns: u64,
    pub peer: Option<SocketAddr>,
    /// Counted among the connections of its address.
    pub counted: Option<Counted>,
    pub requests: u32,
    /// Which forward's listener it came from, by its place in the loop's list.
    pub forward: u16,
    /// The doorway of the present request, once it is known, and the instance whose slot it has.
    pub at: InstanceId,
    pub slot: Option<SlotId>,
    /// A buffer of the pool, and how many bytes of it are filled.
    pub buffer: Option<u16>,
    pub buffered: u32,
    /// Bytes that the buffer must hold before it is worth parsing again; 0: as soon as a line ends.
    pub wanted: u32,
    /// Bytes at the buffer's start that are used up, until they are moved out of the way.
    pub used: u32,
    /// When the wait for a bucket ends with a 503; 0: it has not begun.
    pub queue_due_ms: u64,
    /// Where the body begins in the slot, and how much of it is there.
    pub body_at: u32,
    pub body_len: u32,
    pub body: BodyRest,
    /// Until when it may linger at most, in milliseconds of the loop's clock.
    pub linger_until_ms: u64,
    /// What of our own answers the socket had no room for.
    pub own: Option<OwnAnswer>,

    // How fast the client is; see `front::slow`.
    pub body_pace: Pace,
    pub write_pace: Pace,
    /// Bytes given to the socket in all, and how many of them the client had taken when it was asked last.
    pub handed: u64,
    pub taken: u64,
    pub gathered: Option<Gathered>,
    /// Since when answers have been put aside, or the end of one may be with the kernel, to be sent with the
    /// next answer; 0: nothing waits for that.
    pub held_since_ns: u64,
    /// The entry stands in the queue of those that hold something.
    pub in_held: bool,

    /// It stands in the epoll set.
    pub watched: bool,

    // What the kernel has told us.
    pub readable: bool,
    pub half_closed: bool,
    pub urgent: bool,
    pub broken: bool,

    // What we know of the present request.
    pub minor: u8,
    pub keep_alive: bool,
    /// The client has said that this request is its last.
    pub is_last: bool,
    pub head_only: bool,
    /// The answer has no body, whatever the application sends: HEAD, 204, 304.
    pub bodiless: bool,
    pub expect_continue: bool,
    /// `100 Continue` has been sent.
    pub continued: bool,
    /// The body does not fit the slot and goes through it in pieces.
    pub streamed: bool,
    /// The call was submitted before its body was there, which the application may want whole.
    pub early: bool,
    /// The application has said that it wants the body whole.
    pub body_first: bool,
    /// The answer's head has been sent, so no other answer can be given.
    pub head_sent: bool,
    /// The application has had the call and has answered a part of it, or asked for more of its body.
    pub begun: bool,
    /// The answer is chunked.
    pub chunked: bool,
    /// Bytes of the answer's body that are still owed to its Content-Length.
    pub owed: Option<u64>,
    /// What is being written is the answer's end.
    pub last: bool,
    /// Bytes in the buffer have not been parsed yet.
    pub unparsed: bool,
    /// The entry stands in the ready queue.
    pub queued: bool,
    /// A proxy's header has to come before the first request.
    pub wants_proxy: bool,
    /// Whoever is at `peer` is believed when it names another.
    pub trusted: bool,
}

impl Connection {
    fn unused() -> Self {
        Connection {
            fd: -1,
            generation: 0,
            state: State::Free,
            list: List::None,
            prev: NONE,
            next: NONE,
            due_ms: 0,
            arrived_ns: 0,
            peer: None,
            counted: None,
            requests: 0,
            forward: 0,
            at: InstanceId {
                doorway: 0,
                instance: 0,
            },
            slot: None,
            buffer: None,
            buffered: 0,
            wanted: 0,
            used: 0,
            queue_due_ms: 0,
            body_at: 0,
            body_len: 0,
            body: BodyRest::Length(0),
            linger_until_ms: 0,
            own: None,
            body_pace: Pace::default(),
            write_pace: Pace::default(),
            handed: 0,
            taken: 0,
            gathered: None,
            held_since_ns: 0,
            in_held: false,
            watched: false,
            readable: false,
            half_closed: false,
            urgent: false,
            broken: false,
            minor: 1,
            keep_alive: true,
            is_last: false,
            head_only: false,
            bodiless: false,
            expect_continue: false,
            continued: false,
            streamed: false,
            early: false,
            body_first: false,
            head_sent: false,
            begun: false,
            chunked: false,
            owed: None,
            last: false,
            unparsed: false,
            queued: false,
            wants_proxy: false,
            trusted: false,
        }
    }

    /// Whether all that the client has sent, as far as is known, was read and belongs to its present request.
    pub(crate) fn has_been_read(&self) -> bool {
        !self.readable && self.buffer.is_none() && self.body.is_empty()
    }

    /// Forgets the last request; what belongs to the connection stays.
    pub(crate) fn next_request(&mut self) {
        self.body_at = 0;
        self.body_len = 0;
        self.body = BodyRest::Length(0);
        self.minor = 1;
        self.keep_alive = true;
        self.head_only = false;
        self.expect_continue = false;
        self.continued = false;
        self.wanted = 0;
        self.queue_due_ms = 0;
        self.bodiless = false;
        self.streamed = false;
        self.early = false;
        self.body_first = false;
        self.head_sent = false;
        self.begun = false;
        self.chunked = false;
        self.owed = None;
        self.last = false;
    }
}

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
            let mut entry = Connection::unused();
            entry.next = if index + 1 < count { index + 1 } else { NONE };
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

    /// Connections that are open.
    pub(crate) fn open(&self) -> u32 {
        self.open
    }

    pub(crate) fn is_full(&self) -> bool {
        self.free == NONE
    }

    /// Takes an entry for a new connection.
    pub(crate) fn insert(
        &mut self,
        fd: RawFd,
        peer: Option<SocketAddr>,
        forward: u16,
    ) -> Option<u32> {
        let index = self.free;
        let entry = self.entries.get_mut(index as usize)?;
        self.free = entry.next;
        *entry = Connection {
            fd,
            peer,
            forward,
            state: State::Idle,
            // These are the entry's, not the connection's.
            generation: entry.generation,
            queued: entry.queued,
            in_held: entry.in_held,
            ..Connection::unused()
        };
        self.open += 1;
        Some(index)
    }

    /// Gives an entry back. Its descriptor, slot and buffer are the caller's to release first.
    pub(crate) fn remove(&mut self, index: u32) {
        self.unlink(index);
        let free = self.free;
        let entry = &mut self[index];
        entry.state = State::Free;
        entry.fd = -1;
        entry.held_since_ns = 0;
        // All ones mark what is no connection.
        entry.generation = (entry.generation + 1) % u32::MAX;
        entry.next = free;
        self.free = index;
        self.open -= 1;
    }

    /// The connection that an event was for, unless it has gone meanwhile.
    pub(crate) fn of_event(&mut self, index: u32, generation: u32) -> Option<&mut Connection> {
        self.entries
            .get_mut(index as usize)
            .filter(|entry| entry.generation == generation && entry.state != State::Free)
    }

    /// An open connection, if there is one of that number.
    pub(crate) fn get(&self, index: u32) -> Option<&Connection> {
        self.entries
            .get(index as usize)
            .filter(|entry| entry.state != State::Free)
    }

    /// The first open connection from a number on.
    pub(crate) fn next_open(&self, from: u32) -> Option<u32> {
        let rest = self.entries.get(from as usize..)?;
        let offset = rest.iter().position(|entry| entry.state != State::Free)?;
        Some(from + offset as u32)
    }

    /// Puts an entry at the end of a list, taking it out of the one it was in.
    pub(crate) fn set_timer(&mut self, index: u32, list: List, due_ms: u64) {
        self.unlink(index);
        self[index].due_ms = due_ms;
        let Some(number) = list.number() else {
            return;
        };
        // Nearly always the tail: only a request that has waited for a slot expires earlier than those before
        // it.
        let mut before = self.lists[number].tail;
        while before != NONE && self[before].due_ms > due_ms {
            before = self[before].prev;
        }
        let after = match before {
            NONE => self.lists[number].head,
            before => self[before].next,
        };
        self.lists[number].len += 1;
        let entry = &mut self[index];
        entry.list = list;
        entry.prev = before;
        entry.next = after;
        match before {
            NONE => self.lists[number].head = index,
            before => self[before].next = index,
        }
        match after {
            NONE => self.lists[number].tail = index,
            after => self[after].prev = index,
        }
    }

    /// Takes an entry out of its list.
    pub(crate) fn unlink(&mut self, index: u32) {
        let entry = &mut self[index];
        let (list, prev, next) = (entry.list, entry.prev, entry.next);
        let Some(number) = list.number() else {
            return;
        };
        entry.list = List::None;
        entry.prev = NONE;
        entry.next = NONE;
        self.lists[number].len -= 1;
        match prev {
            NONE => self.lists[number].head = next,
            prev => self[prev].next = next,
        }
        match next {
            NONE => self.lists[number].tail = prev,
            next => self[next].prev = prev,
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
        Some(self[index].next).filter(|&next| next != NONE)
    }

    /// How many entries stand in a list.
    pub(crate) fn len(&self, list: List) -> u32 {
        list.number().map_or(0, |number| self.lists[number].len)
    }

    /// Whether an entry stands in a list.
    pub(crate) fn stands_in(&self, index: u32, list: List) -> bool {
        self[index].list == list
    }

    /// The first entry of a list if its time has come.
    pub(crate) fn expired(&self, list: List, now_ms: u64) -> Option<u32> {
        self.first(list)
            .filter(|&first| self[first].due_ms <= now_ms)
    }

    /// When the next timeout of any list strikes.
    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        self.lists
            .iter()
            .filter(|ends| ends.head != NONE)
            .map(|ends| self[ends.head].due_ms)
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

/// Buffers of one size for what has been read and cannot be used yet.
#[derive(Debug)]
pub(crate) struct BufferPool {
    base: NonNull<u8>,
    size: usize,
    free: Vec<u16>,
}

// SAFETY: the pool is the only handle on its part of the region, which lives for ever and is tied to no
// thread.
unsafe impl Send for BufferPool {}

impl BufferPool {
    /// `count` buffers of `size` bytes.
    ///
    /// # Panics
    /// If the part is too small: both come from the plan.
    pub(crate) fn new(part: Part, count: u16, size: usize) -> Self {
        assert!(part.len() >= usize::from(count) * size);
        BufferPool {
            base: part.base(),
            size,
            free: (0..count).rev().collect(),
        }
    }

    pub(crate) fn take(&mut self) -> Option<u16> {
        self.free.pop()
    }

    pub(crate) fn give_back(&mut self, buffer: u16) {
        self.free.push(buffer); // within the capacity it was made with
    }

    /// Where a buffer lies. Each has its own bytes, so one may be written while another is read.
    pub(crate) fn place(&self, buffer: u16) -> NonNull<[u8]> {
        // SAFETY: buffer < count, as only `take` gives them out, so the result lies in the part.
        let start = unsafe { self.base.add(usize::from(buffer) * self.size) };
        NonNull::slice_from_raw_parts(start, self.size)
    }

    pub(crate) fn bytes(&mut self, buffer: u16) -> &mut [u8] {
        // SAFETY: valid, initialised (zeroed by the kernel) and ours; `&mut self` keeps other borrows from
        // this function away, and the one that `parse_buffer` takes by `place` ends before this is called for
        // the same buffer.
        unsafe { self.place(buffer).as_mut() }
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
        let a = table.insert(10, None, 0).expect("free");
        let b = table.insert(11, None, 0).expect("free");
        assert!(table.insert(12, None, 0).is_none() && table.is_full());
        let generation = table[a].generation;
        assert!(table.of_event(a, generation).is_some());
        table.remove(a);
        assert!(table.of_event(a, generation).is_none());
        let again = table.insert(13, None, 0).expect("free");
        assert_eq!(again, a);
        assert!(table.of_event(a, generation).is_none(), "a late event");
        assert_eq!([table.next_open(0), table.next_open(1)], [Some(a), Some(b)]);
        assert_eq!(table.next_open(2), None);
    }

    #[test]
    fn lists_expire_in_order_of_their_times_however_entries_come_and_go() {
        let mut table = table(6);
        let ids: Vec<_> = (0..6)
            .map(|fd| table.insert(fd, None, 0).expect("free"))
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
            let id = table.insert(0, None, 0).expect("free");
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
