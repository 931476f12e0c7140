//! A loop's entry for a connection: its socket, what was read and is not used yet, what waits to be sent, and
//! the request that it has.

use crate::exchange::{Exchange, State};
use crate::lists::Link;
use crate::outbox::Outbox;
use crate::transport::Transport;

/// One connection. About 300 bytes.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Counts the uses of the entry, so that a late event is not taken for the next connection's.
    pub generation: u32,
    /// The entry stands in the ready queue.
    pub queued: bool,
    pub(super) link: Link,
    /// Requests that have been answered.
    pub requests: u32,
    pub transport: Transport,
    pub inbox: Inbox,
    pub outbox: Outbox,
    pub exchange: Exchange,
}

/// What has been read and is not used yet.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    /// A buffer of the pool, and how many bytes of it are filled.
    pub buffer: Option<u16>,
    pub filled: u32,
    /// Bytes at the buffer's start that are used up, until they are moved out of the way.
    pub used: u32,
    /// Bytes that the buffer must hold before it is worth parsing again; 0: as soon as a line ends.
    pub wanted: u32,
    /// Bytes in the buffer have not been parsed yet.
    pub unparsed: bool,
    /// The last byte of what was forgotten as empty lines is the CR of one whose LF has not come yet.
    pub half_line: bool,
}

impl Connection {
    /// The entry for none.
    pub(super) fn closed() -> Self {
        let mut this = Connection::new(Transport::new(-1, None, 0), 0);
        this.exchange.state = State::Closed;
        this
    }

    /// A connection of this socket.
    pub(super) fn new(transport: Transport, now_ns: u64) -> Self {
        Connection {
            generation: 0,
            queued: false,
            link: Link::default(),
            requests: 0,
            transport,
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            exchange: Exchange::new(now_ns),
        }
    }

    /// Whether there is one.
    pub(crate) fn is_open(&self) -> bool {
        !matches!(self.exchange.state, State::Closed)
    }

    /// Whether all that the client has sent, as far as is known, was read and belongs to its present request.
    pub(crate) fn has_been_read(&self) -> bool {
        !self.transport.readable
            && self.inbox.buffer.is_none()
            && self.exchange.upload.rest.is_empty()
    }
}
