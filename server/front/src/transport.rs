//! A connection's socket: what the kernel has told of it, and who is at its other end. It knows no HTTP.

use crate::world::World;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::ptr::NonNull;
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
    /// Bytes that the socket was given in all.
    pub handed: u64,

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
            handed: 0,
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

    /// Reads what is thrown away.
    pub(crate) fn discard<W: World>(&mut self, into: &mut [u8]) -> io::Result<usize> {
        W::receive(self.fd, into)
    }

    /// Looks at what has come, and leaves it there.
    pub(crate) fn peek<W: World>(&self, into: &mut [u8]) -> io::Result<usize> {
        W::peek(self.fd, into)
    }

    /// Whether something has come that was not read.
    pub(crate) fn has_unread<W: World>(&self) -> bool {
        W::has_unread(self.fd)
    }

    /// Sends as much as the socket takes; `hold` as in [`transom_net::send_and_hold`].
    pub(crate) fn send<W: World>(&mut self, bytes: &[u8], hold: bool) -> io::Result<usize> {
        let sent = W::send_and_hold(self.fd, bytes, hold);
        self.count(sent)
    }

    /// The same, of several pieces in a row.
    pub(crate) fn send_all<W: World>(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let sent = W::send_all(self.fd, pieces);
        self.count(sent)
    }

    /// As [`transom_net::send_places`].
    ///
    /// # Safety
    /// As there.
    pub(crate) unsafe fn send_places<W: World>(
        &mut self,
        pieces: &[NonNull<[u8]>],
    ) -> io::Result<usize> {
        // SAFETY: the caller's promise.
        let sent = unsafe { W::send_places(self.fd, pieces) };
        self.count(sent)
    }

    fn count(&mut self, sent: io::Result<usize>) -> io::Result<usize> {
        let sent = sent?;
        self.handed += sent as u64;
        Ok(sent)
    }

    /// Lets go what the kernel has held.
    pub(crate) fn push<W: World>(&self) {
        W::push(self.fd);
    }

    /// Bytes that its client has acknowledged, of all that the socket was given.
    pub(crate) fn taken<W: World>(&self) -> u64 {
        self.handed.saturating_sub(W::not_taken(self.fd))
    }

    /// Whether its client has acknowledged all of them.
    pub(crate) fn has_all_taken<W: World>(&self) -> bool {
        W::not_taken(self.fd) == 0
    }

    /// As [`transom_net::shutdown_write`].
    pub(crate) fn shutdown_write<W: World>(&self) {
        W::shutdown_write(self.fd);
    }

    /// Whether its client has acknowledged all that the socket was given, or will acknowledge nothing more.
    pub(crate) fn is_done<W: World>(&self) -> bool {
        self.has_all_taken::<W>() || W::is_over(self.fd)
    }

    /// Has the close throw away what the client has not taken, and tell it so.
    pub(crate) fn reset_at_close<W: World>(&self) {
        W::reset_at_close(self.fd);
    }

    /// Closes the socket. It is of no use after that.
    pub(crate) fn close<W: World>(&mut self) {
        W::close(std::mem::replace(&mut self.fd, -1));
    }
}
