//! A client that the porter has let in, in any stage of its handshake or after it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use crate::back_end::bell::Bell;
use crate::between::socket::PeerSocket;
use crate::memory::channel::Channel;
use crate::memory::mapping::Mapping;
use crate::values::door::CHANNELS_MAX;
use crate::values::geometry::ChannelGeometry;
use crate::values::peer::Credentials;

/// Clients that may be in the middle of their handshake.
pub const HANDSHAKES_MAX: usize = 64;

/// What an event is about. The place of a client that has gone is given to the next one, so the number of the
/// client says whether an event that was told before is still about the client that has the place now.
#[derive(Clone, Copy)]
pub struct Token {
    /// From 1 on, never used again.
    pub number: u64,
    /// Less than 2^16: there are fewer clients, with those in their handshakes.
    pub index: usize,
    /// Of the process, not of the socket.
    pub process: bool,
}

impl Token {
    pub fn encode(self) -> u64 {
        self.number << 17 | (self.index as u64) << 1 | u64::from(self.process)
    }

    pub fn decode(token: u64) -> Self {
        Self {
            number: token >> 17,
            index: (token >> 1) as usize & 0xffff,
            process: token & 1 != 0,
        }
    }
}

const _: () = assert!(CHANNELS_MAX as usize + HANDSHAKES_MAX < 1 << 16);

/// See the module.
pub struct Admitted {
    pub number: u64,
    pub credentials: Credentials,
    pub stage: Stage,
    /// Its socket was not read to the end.
    pub unread: bool,
    /// Tells the death of a process that has left its socket to a child.
    pub _process: Option<OwnedFd>,
}

/// How far it has come.
pub enum Stage {
    /// It is about to say what it wants.
    Hello { socket: PeerSocket, since: Instant },
    /// It is about to send its half of the memory.
    Memory {
        socket: PeerSocket,
        since: Instant,
        geometry: ChannelGeometry,
        replies: Mapping,
        bell: Bell,
    },
    /// It has its channel.
    Open { channel: Arc<Channel>, place: u32 },
}

impl Admitted {
    /// Since when its handshake is under way.
    pub fn since(&self) -> Option<Instant> {
        match self.stage {
            Stage::Hello { since, .. } | Stage::Memory { since, .. } => Some(since),
            Stage::Open { .. } => None,
        }
    }
}
