//! A connection's socket: what the kernel has told of it, and who is at its other end. It knows no HTTP.

use crate::world::World;
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use transom_net::addresses::Counted;

/// What a read brought.
pub(super) enum Received {
    Bytes(usize),
    /// Nothing for now; an event will tell.
    Nothing,
    /// The client will send nothing more.
    End,
}

/// A socket, as a loop sees it.
#[derive(Debug)]
pub(crate) struct Transport {
    /// -1: none.
    pub fd: RawFd,
    /// Which forward's listener it came from, by its place in the loop's list.
    pub forward: u16,
    pub peer: Option<SocketAddr>,
    /// Counted among the connections of its address.
    pub counted: Option<Counted>,
    /// The proxy at `peer` is believed when it names its client.
    pub trusted: bool,
    /// A proxy's header has to come before the first request.
    pub wants_proxy: bool,
    /// It stands in the epoll set.
    pub watched: bool,

    // What the kernel has told.
    pub readable: bool,
    pub half_closed: bool,
    pub urgent: bool,
    pub broken: bool,
}

impl Transport {
    /// One that was accepted, or none.
    pub(crate) fn new(fd: RawFd, peer: Option<SocketAddr>, forward: u16) -> Self {
        Transport {
            fd,
            forward,
            peer,
            counted: None,
            trusted: false,
            wants_proxy: false,
            watched: false,
            readable: false,
            half_closed: false,
            urgent: false,
            broken: false,
        }
    }

    /// Notes what an event tells; false if the connection was reset.
    pub(crate) fn note_events(&mut self, events: libc::c_int) -> bool {
        let any = |mask: libc::c_int| events & mask != 0;
        self.half_closed |= any(libc::EPOLLRDHUP | libc::EPOLLHUP);
        self.urgent |= any(libc::EPOLLPRI);
        self.broken |= any(libc::EPOLLERR | libc::EPOLLHUP);
        self.readable |= any(libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLPRI | libc::EPOLLHUP);
        !any(libc::EPOLLERR)
    }

    /// Reads, and notes whether there may be more.
    pub(crate) fn receive<W: World>(&mut self, into: &mut [u8]) -> Received {
        loop {
            match W::receive(self.fd, into) {
                Ok(0) => return Received::End,
                Ok(len) => {
                    // A short read has emptied the socket, unless it stopped at an urgent byte or at the end
                    // of the stream, of which the kernel has told us already and will not tell us again.
                    if len < into.len() && !self.urgent && !self.half_closed {
                        self.readable = false;
                    }
                    return Received::Bytes(len);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    return Received::Nothing;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Received::End,
            }
        }
    }
}
