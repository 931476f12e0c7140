//! How one request and its reply lie in the bytes of a slot.
//!
//! The front end writes requests and reads replies; the application does the reverse, possibly in another
//! process. So everything that is read is checked, once, here: what comes out of a `decode_` function lies
//! within the bytes that went in, and arbitrary bytes give a typed error and never a panic. Nothing here
//! allocates. Numbers are little endian; a frame has exactly one encoding and fills its bytes exactly, so
//! that a length that disagrees is seen.
//!
//! This file knows no HTTP beyond the names of the parts. The front end proves that a head is well-formed
//! before it writes, and checks that a reply's header block is harmless after it reads.
//!
//! # Request
//!
//! | offset | size | what |
//! |---:|---:|---|
//! | 0 | 1 | `0x51` ('Q') |
//! | 1 | 1 | version of the layout, 2 |
//! | 2 | 1 | minor version of HTTP/1: 0 or 1 |
//! | 3 | 1 | flags: 1 the reply's body is not wanted (HEAD), 2 the body is streamed, 4 has a query, 8 has a host, 16 the body is still coming and may be had whole |
//! | 4 | 1 | peer: 0 a Unix socket, 4 or 6 an IP address |
//! | 5 | 1 | zero |
//! | 6 | 2 | peer's port |
//! | 8 | 16 | peer's address (IPv4: the first four bytes, the others zero) |
//! | 24 | 8 | content length of the whole body; all ones: unknown (chunked, or none announced) |
//! | 32 | 4 | length of the head, *h* |
//! | 36 | 4 | length of the decoded path, *p* |
//! | 40 | 4 | number of fields, *n* |
//! | 44 | 4 | length of the body in this frame, *b* |
//! | 48 | 8 each | method, raw target, query, host: (offset, length) within the head |
//! | 80 | *h* | the head, as it came from the client |
//! | 80+*h* | *p* | the path, percent-decoded and with its dot segments resolved |
//! | 80+*h*+*p* | 16*n* | per field: name offset, name length, value offset, value length, within the head |
//! | 80+*h*+*p*+16*n* | *b* | the body, or its first part |
//!
//! The head is copied once as it is, and fields point into it: on the front end's hot path a field costs 16
//! bytes. The body comes last so that the front end can read the rest of it from the socket into its place.
//!
//! # Reply
//!
//! | offset | size | what |
//! |---:|---:|---|
//! | 0 | 1 | `0x52` ('R') |
//! | 1 | 1 | version of the layout, 2 |
//! | 2 | 1 | flags: 1 more of the body follows in pieces |
//! | 3 | 1 | zero |
//! | 4 | 2 | status |
//! | 6 | 2 | zero |
//! | 8 | 4 | length of the header block, *f* |
//! | 12 | 4 | length of the body in this frame, *b* |
//! | 16 | 8 | length of the whole body; all ones: unknown |
//! | 24 | *f* | the header block: `Name: value` and CRLF, repeated |
//! | 24+*f* | *b* | the body, or its first part |
//!
//! # Piece
//!
//! What follows a reply (or a request) that is streamed, at most one slot at a time.
//!
//! | offset | size | what |
//! |---:|---:|---|
//! | 0 | 1 | `0x50` ('P') |
//! | 1 | 1 | version of the layout, 2 |
//! | 2 | 1 | 0 more follow, 1 this was the last |
//! | 3 | 1 | zero |
//! | 4 | 4 | length, *b* |
//! | 8 | *b* | the next bytes of the body |
//!
//! # Connection
//!
//! Its descriptor comes with the call; there is no reply.
//!
//! | offset | size | what |
//! |---:|---:|---|
//! | 0 | 1 | `0x43` ('C') |
//! | 1 | 1 | version of the layout, 2 |
//! | 2 | 1 | peer: as in a request |
//! | 3 | 1 | zero |
//! | 4 | 2 | peer's port |
//! | 6 | 2 | zero |
//! | 8 | 16 | peer's address, as in a request |
//!
//! # Datagram
//!
//! | offset | size | what |
//! |---:|---:|---|
//! | 0 | 1 | `0x44` ('D') |
//! | 1 | 1 | version of the layout, 2 |
//! | 2 | 1 | peer: as in a request |
//! | 3 | 1 | zero |
//! | 4 | 2 | peer's port |
//! | 6 | 2 | length, *b*, at most 65507 |
//! | 8 | 16 | peer's address, as in a request |
//! | 24 | *b* | the datagram |
//!
//! # Answer
//!
//! What a datagram is answered with.
//!
//! | offset | size | what |
//! |---:|---:|---|
//! | 0 | 1 | `0x41` ('A') |
//! | 1 | 1 | version of the layout, 2 |
//! | 2 | 1 | 0 nothing is to be sent, 1 a datagram is |
//! | 3 | 1 | zero |
//! | 4 | 4 | length, *b*, at most 65507 |
//! | 8 | *b* | the datagram to be sent |

mod connection;
mod datagram;
mod peer;
mod reply;
mod request;

use thiserror::Error;

pub use connection::{CONNECTION_LEN, decode_connection, encode_connection};
pub use datagram::{
    ANSWER_HEADER_LEN, DATAGRAM_HEADER_LEN, DATAGRAM_MAX, RawDatagram, decode_answer,
    decode_datagram, encode_answer, encode_datagram,
};
pub use reply::{
    PIECE_HEADER_LEN, Piece, REPLY_HEADER_LEN, RawReply, ReplyHead, decode_piece,
    decode_piece_head, decode_reply, decode_reply_head, encode_piece, encode_reply_head,
    set_reply_body,
};
pub use request::{
    EncodeError, Encoded, RawFields, RawRequest, RequestParts, decode_request, encode_request,
    request_head, set_request_body, set_request_early,
};

/// Version of the layouts; raised when either changes, so that an old front end and a new application refuse
/// each other.
const VERSION: u8 = 2;

/// The number that stands for "length not known".
const UNKNOWN: u64 = u64::MAX;

/// Why a slot changes hands in the middle of a call, as the door's kind of interim completion carries it.
pub mod interim {
    /// The reply slot holds a reply's first part, or a piece. It comes back when that has been sent.
    pub const REPLY: u32 = 1;
    /// The handler waits for the next piece of a streamed body. The slot comes back with at least one byte at
    /// the body's place in the request slot, or with none at the body's end.
    pub const WANT_BODY: u32 = 2;
}

/// What became of a call, as the door's status carries it.
///
/// 0 means that the reply slot holds a reply; values below 16 are the door's own, these are ours. They travel
/// beside the slot and not in it because they are for the moments when nothing can be written into it any
/// more.
pub mod outcome {
    /// The reply slot holds a reply (or a piece of one).
    pub const OK: u32 = 0;
    /// The handler asked for more than its bucket's arena had left.
    pub const EXHAUSTED_ARENA: u32 = 16;
    /// The handler overflowed its bucket's stack.
    pub const EXHAUSTED_STACK: u32 = 17;
    /// The handler used up an input or output quota.
    pub const EXHAUSTED_QUOTA: u32 = 18;
    /// The handler panicked.
    pub const PANICKED: u32 = 19;
    /// The request slot did not hold a request.
    pub const BAD_FRAME: u32 = 20;
    /// The reply's header block does not fit the reply slot.
    pub const REPLY_TOO_LARGE: u32 = 21;
    /// The handler gave up within a streamed body: what was sent is incomplete, and the connection must say
    /// so.
    pub const STREAM_BROKEN: u32 = 22;

    /// The shared heap is full.
    pub const EXHAUSTED_SHARED_HEAP: u32 = 23;
    /// The handler's reply could not be written.
    pub const UNWRITTEN: u32 = 24;
    /// No handler has run: the request came before its body, and this one's handler wants all of that first.
    /// The front end calls again when it is there, or fills the slot.
    pub const BODY_FIRST: u32 = 25;
    /// The same, and no handler of this application takes a body as it comes.
    pub const BODIES_FIRST: u32 = 26;

    /// The value of `transom-diagnostic` for an outcome, `None` for [`OK`] and for numbers that are not ours.
    pub fn diagnostic(outcome: u32) -> Option<&'static str> {
        Some(match outcome {
            EXHAUSTED_ARENA | EXHAUSTED_STACK | EXHAUSTED_QUOTA | EXHAUSTED_SHARED_HEAP => {
                "bucket-exhausted"
            }
            UNWRITTEN => "reply-unwritten",
            PANICKED => "handler-panicked",
            BAD_FRAME => "bad-frame",
            REPLY_TOO_LARGE => "reply-too-large",
            STREAM_BROKEN => "stream-broken",
            _ => return None,
        })
    }
}

/// A frame does not fit the slot.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the frame needs {needed} bytes, more than its slot has")]
pub struct TooLarge {
    /// Bytes that the frame would take without its body.
    pub needed: usize,
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum FrameError {
    /// There are fewer bytes than a header takes.
    #[error("the frame ends within its header")]
    Truncated,
    /// The first byte is not the expected kind's.
    #[error("the bytes are not a frame of the expected kind")]
    Kind,
    /// The layout has another version.
    #[error(
        "the frame has layout version {0}, and this side speaks another: restart the older of the two processes"
    )]
    Version(u8),
    /// A byte has a value that has no meaning, or a byte that must be zero is not.
    #[error("the frame's header has a value without a meaning")]
    Header,
    /// The lengths in the header do not add up to the bytes that there are.
    #[error("the frame's lengths do not add up to its size")]
    Length,
    /// A part lies outside the head.
    #[error("a part of the request lies outside its head")]
    Part,
    /// The method or a field's name is no token, or the target, query or host is not text.
    #[error("a part of the request that must be text is not")]
    Text,
    /// The decoded path is not UTF-8. The one error here that a client can cause: it deserves a 400.
    #[error("the decoded path is not UTF-8")]
    PathNotUtf8,
    /// The status is not one that a final reply can have.
    #[error("the reply has status {0}, and a final reply has 200 to 599")]
    Status(u16),
}

/// Reads the number at a constant offset of a header whose length has been checked.
fn u32_at(header: &[u8], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&header[at..at + 4]);
    u32::from_le_bytes(bytes)
}

/// As [`u32_at`], for 16 bits.
fn u16_at(header: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([header[at], header[at + 1]])
}

/// As [`u32_at`], for a length of which all ones mean "unknown".
fn length_at(header: &[u8], at: usize) -> Option<u64> {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&header[at..at + 8]);
    Some(u64::from_le_bytes(bytes)).filter(|&length| length != UNKNOWN)
}

/// Checks kind and version, and gives the header.
fn header<const LEN: usize>(bytes: &[u8], kind: u8) -> Result<&[u8; LEN], FrameError> {
    let header = bytes.first_chunk::<LEN>().ok_or(FrameError::Truncated)?;
    if header[0] != kind {
        return Err(FrameError::Kind);
    }
    if header[1] != VERSION {
        return Err(FrameError::Version(header[1]));
    }
    Ok(header)
}
