//! A kernel of one loop: its connections, listener, doorbells and its one epoll set. It is strict: a number
//! that is not open is a failure of its caller.

use super::clock::{Event, VirtualClock};
use super::sockets::{FIRST_FD, HELD_NS, Socket};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;

/// A descriptor with news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watched {
    Socket(usize),
    Bell(usize),
}

/// An eventfd that is never read: once rung it is readable, and each ring is an edge.
struct Bell {
    fd: RawFd,
    token: Option<u64>,
    was_rung: bool,
    is_ready: bool,
}

/// Each mishap happens once in so many times; 0: never.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Mishaps {
    /// There is no descriptor for a connection.
    pub shortage: u32,
    /// A read was interrupted.
    pub interrupted: u32,
    /// There is no room in the epoll set.
    pub unwatched: u32,
}

#[derive(Default)]
pub(super) struct Kernel {
    pub sockets: Vec<Socket>,
    pub mishaps: Mishaps,
    pub accepted: u64,
    listener: RawFd,
    listens: Option<u64>,
    backlog: VecDeque<usize>,
    bells: Vec<Bell>,
    ready: VecDeque<Watched>,
}

fn is_own(fd: RawFd) -> bool {
    fd >= FIRST_FD
}

impl Kernel {
    /// A kernel with a listener, whose number is a real descriptor's.
    pub(super) fn new(listener: RawFd, mishaps: Mishaps) -> Self {
        Kernel {
            listener,
            mishaps,
            ..Kernel::default()
        }
    }

    /// An open connection of the loop.
    pub(super) fn socket(&mut self, fd: RawFd) -> (usize, &mut Socket) {
        assert!(is_own(fd), "descriptor {fd} is no connection");
        let at = (fd - FIRST_FD) as usize;
        let socket = self.sockets.get_mut(at).expect("such a connection");
        assert!(
            socket.ends.accepted_ns.is_some(),
            "socket {at} was never accepted"
        );
        assert!(!socket.is_closed(), "socket {at} is used after its close");
        (at, socket)
    }

    // What clients do.

    pub(super) fn connect(&mut self, peer: SocketAddr, rooms: [usize; 3]) -> usize {
        self.sockets.push(Socket::new(peer, rooms));
        let at = self.sockets.len() - 1;
        self.backlog.push_back(at);
        at
    }

    /// Bytes have come from a client: as many as there was room for.
    pub(super) fn arrive(&mut self, at: usize, bytes: &[u8], clock: &mut VirtualClock) -> usize {
        let socket = &mut self.sockets[at];
        if socket.far.reset {
            return bytes.len(); // they are lost
        }
        if socket.is_closed() {
            socket.reset_client(clock);
            clock.after(0, Event::Carry(at));
            return bytes.len();
        }
        let inbound = &mut socket.inbound;
        let room = inbound.room.saturating_sub(inbound.bytes.len());
        let len = room.min(bytes.len());
        inbound.bytes.extend(&bytes[..len]);
        inbound.blocked = len < bytes.len();
        if len > 0 {
            self.tell(at);
        }
        len
    }

    /// The client sends nothing more.
    pub(super) fn finish(&mut self, at: usize, clock: &VirtualClock) {
        let socket = &mut self.sockets[at];
        if socket.inbound.fin || socket.far.reset {
            return;
        }
        socket.inbound.fin = true;
        socket.ends.client_fin_ns = Some(clock.now_ns);
        self.tell(at);
    }

    /// The client resets the connection.
    pub(super) fn reset(&mut self, at: usize, clock: &VirtualClock) {
        let socket = &mut self.sockets[at];
        if socket.far.reset {
            return;
        }
        socket.ends.client_reset_ns = Some(clock.now_ns);
        socket.be_reset();
        self.tell(at);
    }

    /// The network comes for bytes.
    pub(super) fn carry(&mut self, at: usize, clock: &mut VirtualClock) {
        let was_reset = self.sockets[at].is_reset;
        if self.sockets[at].carry(at, clock) {
            self.tell(at);
        }
        let socket = &mut self.sockets[at];
        if socket.is_reset && !was_reset {
            socket.ends.client_reset_ns = Some(clock.now_ns);
        }
    }

    /// Lets go what was held.
    pub(super) fn push(&mut self, at: usize, clock: &mut VirtualClock) {
        let socket = &mut self.sockets[at];
        socket.outbound.held = 0;
        socket.call_carrier(at, clock);
    }

    /// Lets go what was held, if that is for as long as the kernel holds anything.
    pub(super) fn push_late(&mut self, at: usize, clock: &mut VirtualClock) {
        let socket = &mut self.sockets[at];
        if socket.outbound.held > 0 && clock.now_ns >= socket.outbound.held_ns + HELD_NS {
            socket.ends.was_held_to_the_end = true;
            self.push(at, clock);
        }
    }

    // What the loop asks for.

    pub(super) fn accept(
        &mut self,
        listener: RawFd,
        clock: &mut VirtualClock,
    ) -> io::Result<usize> {
        assert_eq!(listener, self.listener, "the listener");
        if !self.backlog.is_empty() && clock.once_in(self.mishaps.shortage) {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        let at = self.backlog.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        if self.sockets[at].is_reset && clock.once_in(2) {
            return Err(io::Error::from_raw_os_error(libc::ECONNABORTED));
        }
        self.sockets[at].ends.accepted_ns = Some(clock.now_ns);
        self.accepted += 1;
        Ok(at)
    }

    pub(super) fn is_readable(&mut self, fd: RawFd) -> bool {
        if fd == self.listener {
            return !self.backlog.is_empty();
        }
        let (_, socket) = self.socket(fd);
        let inbound = &socket.inbound;
        !inbound.bytes.is_empty() || inbound.fin || socket.is_reset
    }

    // The epoll set.

    pub(super) fn watch(
        &mut self,
        fd: RawFd,
        token: u64,
        clock: &mut VirtualClock,
    ) -> io::Result<()> {
        let fails = clock.once_in(self.mishaps.unwatched);
        let (at, socket) = self.socket(fd);
        assert!(socket.token.is_none(), "socket {at} is watched already");
        if fails {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        socket.token = Some(token);
        self.tell(at);
        Ok(())
    }

    pub(super) fn add_bell(&mut self, fd: RawFd, token: u64) {
        let at = self.bell_at(fd);
        let bell = &mut self.bells[at];
        assert!(bell.token.is_none(), "bell {fd} is watched already");
        bell.token = Some(token);
        if bell.was_rung && !std::mem::replace(&mut bell.is_ready, true) {
            self.ready.push_back(Watched::Bell(at));
        }
    }

    fn bell_at(&mut self, fd: RawFd) -> usize {
        let known = self.bells.iter().position(|bell| bell.fd == fd);
        known.unwrap_or_else(|| {
            self.bells.push(Bell {
                fd,
                token: None,
                was_rung: false,
                is_ready: false,
            });
            self.bells.len() - 1
        })
    }

    pub(super) fn ring(&mut self, fd: RawFd) {
        let at = self.bell_at(fd);
        let bell = &mut self.bells[at];
        bell.was_rung = true;
        if bell.token.is_some() && !std::mem::replace(&mut bell.is_ready, true) {
            self.ready.push_back(Watched::Bell(at));
        }
    }

    pub(super) fn add_listener(&mut self, fd: RawFd, token: u64) {
        assert_eq!(fd, self.listener, "the listener");
        assert!(
            self.listens.replace(token).is_none(),
            "the listener is watched already"
        );
    }

    pub(super) fn remove(&mut self, fd: RawFd) -> io::Result<()> {
        if fd == self.listener {
            assert!(self.listens.take().is_some(), "the listener is not watched");
            return Ok(());
        }
        assert!(!is_own(fd), "a close is what takes a connection out");
        let at = self.bell_at(fd);
        match self.bells[at].token.take() {
            Some(_) => Ok(()),
            None => Err(io::Error::from_raw_os_error(libc::ENOENT)),
        }
    }

    /// Something has happened to a connection that its poll may show.
    pub(super) fn tell(&mut self, at: usize) {
        let socket = &mut self.sockets[at];
        if socket.token.is_some() && !std::mem::replace(&mut socket.is_ready, true) {
            self.ready.push_back(Watched::Socket(at));
        }
    }

    /// What epoll_wait(2) gives, which may be nothing.
    pub(super) fn news(
        &mut self,
        events: &mut [libc::epoll_event],
        clock: &mut VirtualClock,
    ) -> usize {
        let mut count = 0;
        let mut put = |mask: u32, token: u64| {
            events[count] = libc::epoll_event {
                events: mask,
                u64: token,
            };
            count += 1;
        };
        if let Some(token) = self.listens
            && !self.backlog.is_empty()
        {
            put(libc::EPOLLIN as u32, token);
        }
        while let Some(source) = self.ready.pop_front() {
            match source {
                Watched::Socket(at) => {
                    let socket = &mut self.sockets[at];
                    socket.is_ready = false;
                    let mask = socket.poll();
                    if let (Some(token), true) = (socket.token, mask != 0) {
                        put(mask, token);
                    }
                }
                Watched::Bell(at) => {
                    let bell = &mut self.bells[at];
                    bell.is_ready = false;
                    if let Some(token) = bell.token {
                        put(libc::EPOLLIN as u32, token);
                    }
                }
            }
        }
        if clock.once_in(2) {
            clock.rng.shuffle(&mut events[..count]);
        }
        count
    }
}
