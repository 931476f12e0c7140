//! One request and its answer: where each of them is. What a state needs lies inside it; the next request is
//! a new exchange.

use crate::entrance::InstanceId;
use transom_doors::SlotId;
use transom_http::{ChunkDecoder, Fate, Note};
use transom_net::pace::Pace;

/// One request and its answer.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub state: State,
    /// When its first byte was there, in nanoseconds of the loop's clock.
    pub arrived_ns: u64,
    /// When the wait for a bucket ends with a 503; 0: it has not begun.
    pub queue_due_ms: u64,
    /// The doorway of the request, once it is known, and the instance whose slot it has.
    pub at: InstanceId,
    pub minor: u8,
    /// The connection may go on after it.
    pub keep_alive: bool,
    /// The client has said that this request is its last.
    pub is_last: bool,
    pub head_only: bool,
    pub upload: Upload,
    pub reply: Reply,
}

/// What is done about a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum State {
    /// The connection was closed, or the entry is not in use.
    Closed,
    /// Nothing of a request has been read.
    Idle,
    /// Part of a head, or more, lies in a buffer.
    Head,
    /// A request is there, unread, read, or in the slot of an instance that did not accept it, but no slot
    /// for it.
    Waiting { unaccepted: Option<SlotId> },
    /// The request is being put into the slot, or the rest of its body is waited for there.
    Filling { slot: SlotId },
    /// The call is with the application.
    Calling { slot: SlotId },
    /// As `Calling`, and the application waits for the next piece of the body.
    BodyWanted { slot: SlotId },
    /// An answer, or a part of one, is being written.
    Writing(Answer),
    /// Answered and shut down for writing; what the client still sends is thrown away, at its own pace, until
    /// then in milliseconds of the loop's clock.
    Lingering { until_ms: u64, pace: Pace },
}

/// An answer that is being written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Answer {
    /// The application's, from the slot. `last`: this is its end.
    OfSlot { slot: SlotId, last: bool },
    /// What of one of our own the socket had no room for.
    Own(OwnAnswer),
    /// None but those that were put aside, which nothing but empty lines has followed.
    PutAside,
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

/// A request's body on its way into the slot.
#[derive(Debug)]
pub(crate) struct Upload {
    pub rest: BodyRest,
    /// Where the body begins in the slot, and how much of it is there.
    pub at: u32,
    pub len: u32,
    /// How fast it comes; see `front::slow`.
    pub pace: Pace,
    pub expects: Expects,
    pub delivery: Delivery,
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

/// Whether the client waits to be asked for its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expects {
    Nothing,
    /// It does.
    ToBeAsked,
    /// It did, and was sent `100 Continue`.
    Asked,
}

/// How the application gets a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// As a whole, as far as is known.
    Whole,
    /// As a whole: it was asked, and has said so.
    WholeAsAsked,
    /// The call was submitted before the body was there, which the application may want whole.
    Early,
    /// In pieces, through the slot.
    Pieces,
}

/// How far the application's answer has come.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reply {
    /// Nothing is known of it.
    None,
    /// The application has had the call, and has asked for more of its body.
    Begun,
    /// Its head has been sent, so no other answer can be given.
    Sending(ReplyBody),
}

/// The body of an answer whose head has been sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReplyBody {
    /// It has none, whatever the application sends: HEAD, 204, 304.
    pub bodiless: bool,
    pub chunked: bool,
    /// Bytes that are still owed to its Content-Length.
    pub owed: Option<u64>,
}

impl Exchange {
    /// The next one of a connection. Its time begins now.
    pub(crate) fn new(now_ns: u64) -> Self {
        Exchange {
            state: State::Idle,
            arrived_ns: now_ns,
            queue_due_ms: 0,
            at: InstanceId {
                doorway: 0,
                instance: 0,
            },
            minor: 1,
            keep_alive: true,
            is_last: false,
            head_only: false,
            upload: Upload {
                rest: BodyRest::Length(0),
                at: 0,
                len: 0,
                pace: Pace::default(),
                expects: Expects::Nothing,
                delivery: Delivery::Whole,
            },
            reply: Reply::None,
        }
    }

    /// The slot that it has.
    pub(crate) fn slot(&self) -> Option<SlotId> {
        match self.state {
            State::Waiting { unaccepted } => unaccepted,
            State::Filling { slot }
            | State::Calling { slot }
            | State::BodyWanted { slot }
            | State::Writing(Answer::OfSlot { slot, .. }) => Some(slot),
            State::Closed
            | State::Idle
            | State::Head
            | State::Writing(Answer::Own(_) | Answer::PutAside)
            | State::Lingering { .. } => None,
        }
    }

    /// Whether its call is with the application, or waits there.
    pub(crate) fn is_submitted(&self) -> bool {
        matches!(
            self.state,
            State::Calling { .. }
                | State::BodyWanted { .. }
                | State::Writing(Answer::OfSlot { last: false, .. })
        )
    }

    /// Whether it waits for the first, or the rest, of its head.
    pub(crate) fn wants_head(&self) -> bool {
        matches!(self.state, State::Idle | State::Head)
    }
}

impl Upload {
    /// Whether the application gets the body in pieces.
    pub(crate) fn is_streamed(&self) -> bool {
        matches!(self.delivery, Delivery::Early | Delivery::Pieces)
    }
}

impl Reply {
    /// Whether its head has been sent.
    pub(crate) fn is_sending(&self) -> bool {
        matches!(self, Reply::Sending(_))
    }
}
