//! New connections: who is let in, who is turned away, and whose place they get.

use crate::complaints::NOT_TRUSTED;
use crate::lists::List;
use crate::orders::Order;
use crate::signal::Signal;
use crate::transport::Transport;
use crate::turn::Loop;
use crate::world::{Events, World};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use transom_doors::Words;
use transom_http::peer::is_trusted;
use transom_net as net;
use transom_net::addresses::{Admission, Counted};

/// How often it is said that the system has no room for another connection.
const SHORTAGE_SAID_MS: u64 = 10_000;

/// How long to wait when the system has no descriptors or memory for another connection.
const ACCEPT_AGAIN_MS: u64 = 100;

/// How long to wait for a place that another loop was asked for.
const PLACE_AGAIN_MS: u64 = 5;

/// Connections accepted before the others are looked after.
const ACCEPT_BATCH: u32 = 64;

/// Who a new connection is from.
pub(crate) struct Newcomer {
    peer: Option<SocketAddr>,
    /// It is a proxy that is believed.
    trusted: bool,
    counted: Option<Counted>,
}

/// An address has as many connections as it may.
pub(crate) struct AddressIsFull;

impl<W: World> Loop<W> {
    pub(crate) fn accept(&mut self, listener: u16) {
        let Some((listener, forward)) = self.acceptor.listeners.get(usize::from(listener)) else {
            return; // closed since the event
        };
        let (fd, forward) = (listener.socket.as_raw_fd(), *forward);
        for _ in 0..ACCEPT_BATCH {
            // A place that is taken for nothing, for an instant, is one that another loop does not find.
            if self.acceptor.limit.is_nearly_full(ACCEPT_BATCH) && !W::is_readable(fd) {
                return;
            }
            // Either a place that is free, or that of a connection that can be missed.
            let has_place = self.acceptor.limit.take();
            let evictable = match has_place && !self.table.is_full() {
                true => None,
                false => match self.evictable() {
                    None => {
                        self.wait_for_place(fd, has_place);
                        return;
                    }
                    Some(index) if self.has_news(index) => {
                        if has_place {
                            self.acceptor.limit.give_back();
                        }
                        self.drive(index);
                        continue;
                    }
                    evictable => evictable,
                },
            };
            let accepted = W::accept(fd, self.acceptor.options);
            if accepted.is_err() && has_place {
                self.acceptor.limit.give_back();
            }
            match accepted {
                Ok((fd, peer)) => self.let_in(fd, peer, forward, has_place, evictable),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if net::is_shortage(&error) => {
                    // It may say so where no connection waits.
                    if !W::is_readable(fd) {
                        return;
                    }
                    let evictable = is_ours(&error).then(|| self.evictable()).flatten();
                    match evictable {
                        Some(index) if self.has_news(index) => self.drive(index),
                        Some(index) => self.close_for_newcomer(index),
                        None => return self.wait_for_the_system(&error),
                    }
                }
                Err(_) => {} // that connection failed before it was accepted; the next one may not
            }
        }
    }

    /// No connection can be closed at once for a new one. One that is idle, and has not yet acknowledged its
    /// last answer, has a place that is free as soon as it has: most do so when they see the end.
    fn end_an_idle_one(&mut self) {
        // Not another one at once: what one was told takes its time.
        if self.clock.now_ms < self.acceptor.end_ms {
            return;
        }
        let idle = self.table.first(List::Idle);
        if let Some(index) = idle.filter(|&index| !self.has_news(index)) {
            self.acceptor.end_ms = self.clock.now_ms + ACCEPT_AGAIN_MS;
            self.stats.evicted.bump();
            self.end(index);
        }
    }

    /// The system has no room for another connection, and none of ours can be closed for it.
    fn wait_for_the_system(&mut self, error: &io::Error) {
        if self.acceptor.quiet_until_ms <= self.clock.now_ms {
            self.acceptor.quiet_until_ms = self.clock.now_ms + SHORTAGE_SAID_MS;
            transom_wire::own_log::error!(error = %Words(error), "cannot accept connections: raise `ulimit -n`, or lower --connections");
        }
        self.acceptor.again_ms = self.clock.now_ms + ACCEPT_AGAIN_MS;
        self.pause_accepting();
        if is_ours(error) {
            self.end_an_idle_one();
        }
    }

    /// Takes a connection that was accepted, or turns it away. It has the place that was taken for it, or
    /// that of a connection that can be missed.
    fn let_in(
        &mut self,
        fd: RawFd,
        peer: Option<SocketAddr>,
        forward: u16,
        has_place: bool,
        evictable: Option<u32>,
    ) {
        let proxying = &self.policy.limits.proxying;
        let trusted = is_trusted(&proxying.trust, peer.map(|peer| peer.ip()));
        let required = proxying.required;
        if required && !trusted {
            self.stats.proxy_refused.bump();
            self.complaints.note(NOT_TRUSTED, peer, self.clock.now_ms);
            self.turn_away(fd, has_place);
            return;
        }
        // A proxy's connections are others': they are counted by the address that its header names.
        let counted = match required {
            true => Ok(None),
            false => self.count_address(peer, trusted),
        };
        let Ok(counted) = counted else {
            self.turn_away(fd, has_place);
            return;
        };
        if let Some(evictable) = evictable {
            self.acceptor.leaves_its_place = !has_place;
            self.close_for_newcomer(evictable);
        }
        let who = Newcomer {
            peer,
            trusted,
            counted,
        };
        self.admit(fd, who, forward);
    }

    /// Closes a connection that is not let in.
    fn turn_away(&self, fd: i32, has_place: bool) {
        if has_place {
            self.acceptor.limit.give_back();
        }
        W::close(fd);
    }

    /// No connection of this loop can be closed for a new one, if there is one. Other loops may have one.
    fn wait_for_place(&mut self, listener: RawFd, has_place: bool) {
        if has_place {
            self.acceptor.limit.give_back();
        }
        if !W::is_readable(listener) {
            return; // there was one
        }
        // By then one of ours may be so slow that it can be missed.
        let mut again = ACCEPT_AGAIN_MS;
        if !has_place && self.policy.loops > 1 {
            self.acceptor.limit.ask();
            again = PLACE_AGAIN_MS;
        }
        self.acceptor.again_ms = self.clock.now_ms + again;
        self.pause_accepting();
        self.end_an_idle_one();
    }

    /// Another loop has a new connection and no place for it.
    pub(crate) fn make_place_for_others(&mut self) {
        if !self.acceptor.limit.is_wanted() {
            return;
        }
        if !self.acceptor.limit.is_full() {
            self.acceptor.limit.answer(); // a place has become free since, and it will find that
        } else if let Some(index) = self.evictable() {
            if self.has_news(index) {
                self.drive(index);
                self.agenda.again = true;
            } else if self.acceptor.limit.answer() {
                self.close_for_newcomer(index);
            }
        } else if self.acceptor.again_ms == 0 {
            self.end_an_idle_one();
            // No ring will tell of it again, and one of ours may be so slow by then that it can be missed.
            self.acceptor.again_ms = self.clock.now_ms + ACCEPT_AGAIN_MS;
        }
    }

    /// Whether one that may be closed for a newcomer has sent something, or has left, since the last events
    /// were taken: it is readable then.
    fn has_news(&mut self, index: u32) -> bool {
        let waits = self.table.stands_in(index, List::Idle);
        let connection = &mut self.table[index];
        connection.transport.readable |= waits && W::is_readable(connection.transport.fd);
        waits && connection.transport.readable
    }

    /// Counts a connection of an address, unless it is that of a proxy which names its clients request by
    /// request: what it may have is for the proxy to say. An error if the address has as many as it may.
    pub(crate) fn count_address(
        &mut self,
        peer: Option<SocketAddr>,
        trusted: bool,
    ) -> Result<Option<Counted>, AddressIsFull> {
        let Some(table) = &self.acceptor.addresses else {
            return Ok(None);
        };
        if trusted && self.policy.limits.proxying.forwarded.is_some() {
            return Ok(None);
        }
        match table.enter(peer) {
            Admission::Admitted(counted) => Ok(counted),
            Admission::Refused => {
                self.stats.address_refused.bump();
                Err(AddressIsFull)
            }
        }
    }

    fn admit(&mut self, fd: i32, who: Newcomer, forward: u16) {
        let Newcomer {
            peer,
            trusted,
            counted,
        } = who;
        let transport = Transport {
            trusted,
            wants_proxy: self.policy.limits.proxying.required,
            readable: true, // often the request is there already
            ..Transport::new(fd, peer, forward)
        };
        let Some(index) = self.table.insert(transport, self.clock.now_ns) else {
            self.turn_away(fd, true);
            self.forget_address(counted);
            return;
        };
        self.table[index].transport.counted = counted;
        self.table[index].outbox.pace.begin(self.clock.now_ns);
        self.stats.accepted.bump();
        self.set_timer(index, List::Idle, self.policy.limits.timeouts.idle);
        self.drive(index);
        self.watch_later(index);
    }

    /// Lets new connections wait in the kernel until one of ours has closed.
    pub(crate) fn pause_accepting(&mut self) {
        if std::mem::replace(&mut self.acceptor.is_open, false) {
            for (listener, _) in &self.acceptor.listeners {
                let _ = self.epoll.remove(listener.socket.as_raw_fd());
            }
        }
    }

    pub(crate) fn resume_accepting(&mut self) {
        self.acceptor.again_ms = 0;
        if self.policy.order != Order::Serve || std::mem::replace(&mut self.acceptor.is_open, true)
        {
            return;
        }
        for (n, (listener, _)) in (0..).zip(&self.acceptor.listeners) {
            let token = Signal::Listener(n).token();
            let (fd, shared) = (listener.socket.as_raw_fd(), listener.shared);
            let _ = self.epoll.add_listener(fd, shared, token);
        }
    }
}

/// Whether it is this process that has no room, so that closing one of its connections makes some.
fn is_ours(shortage: &io::Error) -> bool {
    shortage.raw_os_error() == Some(libc::EMFILE)
}
