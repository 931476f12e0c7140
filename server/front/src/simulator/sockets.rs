//! One TCP connection as Linux has it: two buffers, two ends, and what each side is told of the other.

use super::clock::{Event, MS, US, VirtualClock};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

/// Where the kernel's numbers for connections begin: no real descriptor is as high.
pub(super) const FIRST_FD: i32 = 1_000_000;

/// How long the kernel holds bytes that do not fill a segment (tcp(7), `TCP_CORK`).
pub(super) const HELD_NS: u64 = 200 * MS;

/// Bytes of a segment, as far as holding goes.
const SEGMENT: usize = 1460;

/// What the client has sent, on its way into the loop.
#[derive(Default)]
pub(super) struct Inbound {
    pub bytes: VecDeque<u8>,
    pub room: usize,
    /// The client sends nothing more.
    pub fin: bool,
    /// The client was told that there was no room.
    pub blocked: bool,
}

/// What the server has sent, and its client has not acknowledged.
#[derive(Default)]
pub(super) struct Outbound {
    pub bytes: VecDeque<u8>,
    pub room: usize,
    /// The last so many may not leave yet.
    pub held: usize,
    /// When the last send that holds some was.
    pub held_ns: u64,
    /// A send found no room: an event tells when there is some.
    pub no_space: bool,
    /// The server sends nothing more.
    pub fin: bool,
    /// A `Carry` is on its way.
    pub carried: bool,
    /// Everything that the server has ever sent here; and how much that was when.
    pub log: Vec<u8>,
    pub times: Vec<(usize, u64)>,
}

/// The client's end.
#[derive(Default)]
pub(super) struct FarEnd {
    /// What has reached it, and it has not read.
    pub bytes: VecDeque<u8>,
    pub room: usize,
    /// It has been told that the server sends nothing more.
    pub eof: bool,
    /// It has been told that there is no connection any more.
    pub reset: bool,
    /// The reset took bytes with it that it could have read.
    pub destroyed: bool,
    /// It has closed its end: bytes that come are answered with a reset.
    pub closed: bool,
}

/// How and when a connection ended, for the oracle.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SocketEnds {
    pub accepted_ns: Option<u64>,
    pub client_fin_ns: Option<u64>,
    pub client_reset_ns: Option<u64>,
    /// When the server had sent all that it would send.
    pub server_ended_ns: Option<u64>,
    pub server_closed_ns: Option<u64>,
    /// Bytes that were not taken when the server closed, and were not thrown away.
    pub left_behind: usize,
    /// The kernel's time was up before the server let go what it held back.
    pub was_held_to_the_end: bool,
    /// The server closed while bytes were unread.
    pub unread_at_close: bool,
}

pub(super) struct Socket {
    pub peer: SocketAddr,
    pub inbound: Inbound,
    pub outbound: Outbound,
    pub far: FarEnd,
    pub ends: SocketEnds,
    /// An error that the server has not been told of.
    pub error: Option<i32>,
    /// The client has reset the connection.
    pub is_reset: bool,
    pub token: Option<u64>,
    /// It is in the list of sockets with news.
    pub is_ready: bool,
    pub reset_at_close: bool,
}

impl Socket {
    pub(super) fn new(peer: SocketAddr, rooms: [usize; 3]) -> Self {
        let [inbound, outbound, far] = rooms;
        Socket {
            peer,
            inbound: Inbound {
                room: inbound,
                ..Inbound::default()
            },
            outbound: Outbound {
                room: outbound,
                ..Outbound::default()
            },
            far: FarEnd {
                room: far,
                ..FarEnd::default()
            },
            ends: SocketEnds::default(),
            error: None,
            is_reset: false,
            token: None,
            is_ready: false,
            reset_at_close: false,
        }
    }

    /// What poll(2) says of it.
    pub(super) fn poll(&mut self) -> u32 {
        let mut mask = 0;
        let mut set = |on: bool, bits: i32| mask |= if on { bits as u32 } else { 0 };
        set(
            !self.inbound.bytes.is_empty() || self.inbound.fin || self.is_reset,
            libc::EPOLLIN,
        );
        set(self.inbound.fin || self.is_reset, libc::EPOLLRDHUP);
        set(
            self.is_reset || (self.inbound.fin && self.outbound.fin),
            libc::EPOLLHUP,
        );
        set(self.error.is_some(), libc::EPOLLERR);
        let has_space = self.has_space();
        set(has_space, libc::EPOLLOUT);
        // As `tcp_poll`: a caller that is told of no room is also told when there is room.
        self.outbound.no_space |= !has_space;
        mask
    }

    /// Whether a third of the buffer is free, which is when the kernel says that there is room.
    fn has_space(&self) -> bool {
        let free = self.outbound.room.saturating_sub(self.outbound.bytes.len());
        self.outbound.fin || self.is_reset || free * 3 >= self.outbound.room
    }

    pub(super) fn receive(&mut self, buffer: &mut [u8], peek: bool) -> io::Result<usize> {
        let inbound = &mut self.inbound;
        if inbound.bytes.is_empty() {
            if let Some(error) = self.error.take() {
                return Err(io::Error::from_raw_os_error(error));
            }
            if inbound.fin || self.is_reset {
                return Ok(0);
            }
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = buffer.len().min(inbound.bytes.len());
        for (to, byte) in buffer.iter_mut().zip(&inbound.bytes) {
            *to = *byte;
        }
        if !peek {
            inbound.bytes.drain(..len);
        }
        Ok(len)
    }

    pub(super) fn send(&mut self, bytes: &[u8], hold: bool, now_ns: u64) -> io::Result<usize> {
        if let Some(error) = self.error.take() {
            return Err(io::Error::from_raw_os_error(error));
        }
        if self.outbound.fin || self.is_reset {
            return Err(io::Error::from_raw_os_error(libc::EPIPE));
        }
        let outbound = &mut self.outbound;
        let free = outbound.room.saturating_sub(outbound.bytes.len());
        let len = free.min(bytes.len());
        outbound.no_space |= len < bytes.len();
        if len == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        outbound.bytes.extend(&bytes[..len]);
        outbound.log.extend(&bytes[..len]);
        outbound.times.push((outbound.log.len(), now_ns));
        // A write that was cut short for want of room fills its segments.
        outbound.held = match hold && len == bytes.len() {
            true => (outbound.held + len) % SEGMENT,
            false => 0,
        };
        outbound.held_ns = now_ns;
        // A real buffer is larger than a segment, so held bytes never fill it.
        if outbound.held * 3 > outbound.room {
            outbound.held = 0;
        }
        Ok(len)
    }

    /// As Linux counts it: with the end, if it was sent.
    pub(super) fn not_taken(&self) -> u64 {
        let end = self.outbound.fin && !self.far.eof && !self.is_reset;
        self.outbound.bytes.len() as u64 + u64::from(end)
    }

    /// It was reset, or both sides have had all.
    pub(super) fn is_over(&self) -> bool {
        self.is_reset || (self.inbound.fin && self.far.eof)
    }

    /// When the byte at this place of the log was sent.
    pub(super) fn sent_at(&self, place: usize) -> u64 {
        let mut times = self.outbound.times.iter();
        let found = times.find(|(end, _)| *end > place);
        found.map_or(0, |(_, when)| *when)
    }

    /// Bytes that the network may take.
    pub(super) fn may_leave(&self) -> usize {
        self.outbound.bytes.len() - self.outbound.held.min(self.outbound.bytes.len())
    }

    /// Whether the client had left before the server had sent all.
    pub(super) fn was_left(&self) -> bool {
        let ended = self.ends.server_ended_ns.unwrap_or(u64::MAX);
        let left = [self.ends.client_fin_ns, self.ends.client_reset_ns];
        left.into_iter().flatten().any(|left| left <= ended)
    }

    /// Whether the server is done with it.
    pub(super) fn is_closed(&self) -> bool {
        self.ends.server_closed_ns.is_some()
    }

    /// Has the network fetch the bytes that may leave.
    pub(super) fn call_carrier(&mut self, at: usize, clock: &mut VirtualClock) {
        let has_end = self.outbound.fin && !self.far.eof;
        if (self.may_leave() > 0 || has_end) && !self.outbound.carried && !self.far.reset {
            self.outbound.carried = true;
            let delay = clock.rng.u64(0..200 * US);
            clock.after(delay, Event::Carry(at));
        }
        if self.outbound.held > 0 {
            clock.after(HELD_NS, Event::Push(at));
        }
    }

    /// The network takes bytes to the client. Whether the server is to be told that there is room.
    pub(super) fn carry(&mut self, at: usize, clock: &mut VirtualClock) -> bool {
        self.outbound.carried = false;
        if self.far.reset || self.is_reset {
            return false;
        }
        let room = self.far.room.saturating_sub(self.far.bytes.len());
        let most = self.may_leave().min(room);
        let len = match most {
            0 => 0,
            _ if clock.once_in(3) => clock.rng.usize(1..=most),
            _ => most,
        };
        if len > 0 && self.far.closed {
            self.be_reset();
            return !self.is_closed();
        }
        let moved: Vec<u8> = self.outbound.bytes.drain(..len).collect();
        self.far.bytes.extend(moved);
        if self.outbound.bytes.is_empty() && self.outbound.fin {
            self.far.eof = true;
        } else if len > 0 {
            self.call_carrier(at, clock);
        }
        let has_room = self.outbound.no_space && self.has_space();
        self.outbound.no_space &= !has_room;
        (has_room || self.is_over()) && !self.is_closed()
    }

    /// The client's side has reset the connection. What it has sent before can still be read.
    pub(super) fn be_reset(&mut self) {
        self.is_reset = true;
        self.outbound.bytes.clear();
        self.outbound.held = 0;
        self.far.reset = true;
        if !self.is_closed() {
            self.error = Some(if self.inbound.fin {
                libc::EPIPE
            } else {
                libc::ECONNRESET
            });
        }
    }

    /// The server's side resets the connection.
    pub(super) fn reset_client(&mut self, clock: &mut VirtualClock) {
        self.outbound.bytes.clear();
        self.outbound.held = 0;
        if !self.far.reset {
            self.far.reset = true;
            // Linux lets a program read what it has been sent before; others do not.
            if !self.far.bytes.is_empty() && clock.once_in(2) {
                self.far.bytes.clear();
                self.far.destroyed = true;
            }
        }
    }

    /// The server closes it.
    pub(super) fn close(&mut self, at: usize, clock: &mut VirtualClock) {
        self.ends.server_closed_ns = Some(clock.now_ns);
        self.ends.server_ended_ns.get_or_insert(clock.now_ns);
        self.ends.left_behind = match self.reset_at_close {
            true => 0,
            false => self.outbound.bytes.len(),
        };
        self.ends.unread_at_close = !self.inbound.bytes.is_empty() && !self.is_reset;
        self.token = None;
        if self.is_reset {
            return;
        }
        self.outbound.fin = true;
        self.outbound.held = 0;
        if self.ends.unread_at_close || self.reset_at_close {
            self.reset_client(clock);
        } else {
            self.call_carrier(at, clock);
        }
    }
}
