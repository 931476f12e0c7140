//! What a loop knows of a connection, and of the request that it has.

use std::net::SocketAddr;
use std::os::fd::RawFd;
use transom_doors::SlotId;
use transom_http::{ChunkDecoder, Fate, Note};
use transom_net::addresses::Counted;
use transom_net::pace::Pace;

/// No entry.
pub(super) const NONE: u32 = u32::MAX;

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
pub(super) const SINGLE_LISTS: usize = 8;

/// Lists that each doorway has of its own.
pub(super) const DOORWAY_LISTS: usize = 3;

impl List {
    /// Its place among the ends; `None` for no list.
    pub(super) fn number(self) -> Option<usize> {
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
    pub(super) list: List,
    pub(super) prev: u32,
    pub(super) next: u32,
    /// When its list's timeout strikes, in milliseconds of the loop's clock.
    pub(super) due_ms: u64,
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
    pub(super) fn unused() -> Self {
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
