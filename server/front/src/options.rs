//! What a front end is asked for, as plain values: its starter has them from flags, a file or a test.

use std::sync::Arc;
use std::time::Duration;
use transom_http::peer::Trusted;
use transom_http::peer::forwarded::Field;
use transom_net::ListenOptions;

use crate::connection::Connection;
use crate::places::gathering_size;

/// Bytes that one read may bring, beyond a head: the rest of a pipelined burst is left to the next read.
pub(crate) const READ_SIZE: usize = 16 << 10;

/// Where short answers are put together, so that one system call sends them.
const WRITE_SIZE: usize = 16 << 10;

/// The stack of a loop, or of a forward of connections or datagrams. Measured at 30 KiB in a debug build.
pub const LOOP_STACK: usize = 256 << 10;

/// Sizes of a loop. They hold as long as it does, because its memory is set aside for them.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Loops that share what is behind the doors.
    pub loops: u32,
    /// Connections that one loop has room for.
    pub connections: u32,
    /// Clients of one loop whose head may have come in part.
    pub partial_heads: u16,
    /// The longest head, in bytes.
    pub head_limit: usize,
    /// What accepted connections are like, where they do not inherit it.
    pub sockets: ListenOptions,
}

impl Sizes {
    /// Bytes of a loop's table of connections.
    #[must_use]
    pub fn table(&self) -> usize {
        (self.connections as usize).saturating_mul(size_of::<Connection>())
    }

    /// Bytes of a loop's scratch: one read, one answer, and short answers that leave together.
    #[must_use]
    pub fn scratch(&self) -> usize {
        self.write_scratch()
            .saturating_add(READ_SIZE)
            .saturating_add(gathering_size(self.connections))
    }

    /// The part of it for writing; a path is decoded there too, and is no longer than a head.
    pub(crate) fn write_scratch(&self) -> usize {
        WRITE_SIZE.max(self.head_limit)
    }
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// From a request's first byte to the end of its head.
    pub header: Duration,
    /// Without a byte of a body.
    pub body: Duration,
    /// Without a byte of an answer being taken.
    pub write: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// For a slot, or for a door that is away.
    pub queue: Duration,
    /// For an answer of the application; `None` for ever.
    pub deadline: Option<Duration>,
}

/// Bytes a second in the long run; 0: any number of them.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    /// That a body comes with.
    pub body: u64,
    /// That an answer is taken with.
    pub write: u64,
}

/// What proxies say, and which of them are believed.
#[derive(Debug, Clone)]
pub struct Proxying {
    /// Connections begin with a PROXY header.
    pub required: bool,
    /// The longest of these, of version 2.
    pub header_limit: usize,
    /// The field in which a proxy names its client.
    pub forwarded: Option<Field>,
    /// The proxies that are believed.
    pub trust: Arc<[Trusted]>,
}

/// What requests and connections may take. It may change while a loop serves.
#[derive(Debug, Clone)]
pub struct Allowance {
    /// Connections of an address; `None`: as many as there are.
    pub connections_per_address: Option<u32>,
    /// Requests of a connection.
    pub requests_per_connection: u32,
    /// Bytes of a request's body.
    pub body_limit: u64,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// How slow a client may be.
    pub rates: Rates,
    /// Whom a request is from.
    pub proxying: Proxying,
}
