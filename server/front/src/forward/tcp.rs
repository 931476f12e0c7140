//! Connections: accepted here, served on the other side of the door.
//!
//! Our copy of the descriptor stays open until the call has ended, because only then is it known that it will
//! not have to be sent again; nothing is read from it or written to it here. When the call has ended, in
//! whatever way, the connection is shut down before it is closed, so that its end does not wait for a copy
//! that another process may still have.
//!
//! A connection holds a bucket for as long as it lasts. So one on which nothing goes either way for
//! `--idle-timeout` is shut down, as the kernel's clocks for it say (those of Unix sockets have none); the
//! kernel finds clients that have vanished without a word; and an address has no more of them than it may.
//! When a connection has ended in both directions and its handler does not take notice, its call is given up:
//! then the application counts its bucket as lost.

use super::asked::{CONNECTIONS_MAX, StreamOptions};
use super::traffic::{Look, Loss, Taken, Traffic};
use crate::opener::REMOTE_SLOTS_MAX;
use crate::rules::MISSABLE_NS;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use transom_doors::{AsyncClient, CallError, Completion, SlotId, Status};
use transom_net::addresses::{Addresses, Admission, Counted};
use transom_net::{self as net, ListenOptions};
use transom_wire::frame::{CONNECTION_LEN, encode_connection, outcome};
use transom_wire::own_log::{info, warn};

/// What was done, in connections.
#[derive(Debug, Default)]
struct ConnectionFigures {
    accepted: u64,
    served: u64,
    /// The handler was ended by its bucket, a panic, or a door that could not take the descriptor.
    failed: u64,
    resent: u64,
    /// Closed at once, because the door was away.
    refused: u64,
    /// Their application died.
    lost: u64,
    /// Waited too long for an application.
    late: u64,
    /// Their client had gone, and their handler did not return.
    abandoned: u64,
    /// Nothing went either way for too long.
    idle: u64,
    /// Their client had not taken all that it was sent, and was reset.
    untaken: u64,
    /// Closed at once, because their address had as many as it may.
    address_refused: u64,
    cut: u64,
}

/// How long nothing more is said of connections that wait.
const QUIET_NS: u64 = 10_000_000_000;

/// Between two looks at a connection, and how long a handler may leave one as it is that has ended in both
/// directions.
const LOOK_EVERY_NS: u64 = 2_000_000_000;

/// Between two looks at connections whose clients are still taking what they were sent.
const LEAVING_LOOK_NS: u64 = 10_000_000;

/// A connection that has ended in both directions.
#[derive(Clone, Copy)]
struct Ended {
    /// How much was left to be read.
    unread: u64,
    /// Since when it has been so much.
    since_ns: u64,
}

/// A connection that is being served.
pub(super) struct Held {
    fd: OwnedFd,
    counted: Option<Counted>,
    /// It has been shut down because nothing went either way.
    was_idle: bool,
    ended: Option<Ended>,
}

impl Held {
    /// Whether its client has taken all that it was sent, with the end, or will take no more.
    fn has_all_taken(&self) -> bool {
        let fd = self.fd.as_raw_fd();
        net::not_taken(fd) == 0 || net::is_over(fd)
    }

    /// Whether it has ended in both directions, and its handler reads nothing of what is left.
    fn is_forgotten(&mut self, now_ns: u64) -> bool {
        let Some(unread) = net::left_after_the_end(&self.fd) else {
            return false;
        };
        match self.ended.filter(|ended| ended.unread == unread) {
            Some(ended) => now_ns >= ended.since_ns + LOOK_EVERY_NS,
            None => {
                self.ended = Some(Ended {
                    unread,
                    since_ns: now_ns,
                });
                false
            }
        }
    }
}

/// A connection whose handler has ended, and whose client has not taken all that it was sent. It keeps its
/// place: what the kernel holds for it is in the sum.
pub(super) struct Leaving {
    held: Held,
    /// How much there was to be taken.
    untaken: u64,
    /// Since when it has been so much.
    since_ns: u64,
}

impl Drop for Held {
    /// A handler can have its close wait for what the client has not taken. It is our thread that would wait.
    fn drop(&mut self) {
        net::close_without_waiting(self.fd.as_raw_fd());
    }
}

/// What gives a forward that has so many connections, of so many that it may have, more of them. Beyond the
/// most that a forward holds, nothing does.
fn what_to_raise(connections: usize, most: usize) -> &'static str {
    if connections >= most && most < CONNECTIONS_MAX {
        "raise --connections, or "
    } else if connections < REMOTE_SLOTS_MAX as usize {
        "raise --slots of its application, or "
    } else {
        "it can have no more, so have several, or "
    }
}

/// The connections of a listener.
pub(super) struct Connections {
    listener: Option<Arc<OwnedFd>>,
    options: ListenOptions,
    most: usize,
    idle_timeout: Duration,
    /// How long a client may leave unacknowledged what it was sent, or the kernel's questions.
    write_timeout: Duration,
    addresses: Option<Arc<Addresses>>,
    leaving: Vec<Leaving>,
    /// When to look at those.
    leaving_look_ns: u64,
    /// Until then nothing is said of connections that wait.
    quiet_until_ns: u64,
    figures: ConnectionFigures,
}

impl Connections {
    pub(super) fn new(listener: Arc<OwnedFd>, options: &StreamOptions, most: usize) -> Self {
        Connections {
            listener: Some(listener),
            options: options.sockets,
            most,
            idle_timeout: options.timeouts.idle,
            write_timeout: options.timeouts.write,
            addresses: options.addresses.clone(),
            leaving: Vec::with_capacity(most),
            leaving_look_ns: u64::MAX,
            quiet_until_ns: 0,
            figures: ConnectionFigures::default(),
        }
    }

    /// The next connection, with its address counted.
    fn admit(&mut self) -> Result<(Held, Option<SocketAddr>), Taken> {
        let (fd, peer) = self.accept()?;
        let counted = match self.addresses.as_deref().map(|table| table.enter(peer)) {
            None => None,
            Some(Admission::Admitted(counted)) => counted,
            Some(Admission::Refused) => {
                self.figures.address_refused += 1;
                return Err(Taken::One);
            }
        };
        net::watch_for_vanishing(&fd, self.write_timeout);
        let held = Held {
            fd,
            counted,
            was_idle: false,
            ended: None,
        };
        Ok((held, peer))
    }

    /// The connection is ours no more.
    fn let_out(&self, held: &Held) {
        if let (Some(table), Some(counted)) = (&self.addresses, held.counted) {
            table.leave(counted);
        }
    }

    /// Closes a connection whose handler has ended, once its client has taken all.
    fn end(&mut self, held: Held) {
        net::shutdown_write(held.fd.as_raw_fd());
        if self.leaving.len() == self.leaving.capacity() || held.has_all_taken() {
            self.let_out(&held);
            return;
        }
        self.leaving_look_ns = 0;
        self.leaving.push(Leaving {
            held,
            untaken: u64::MAX,
            since_ns: 0,
        });
    }

    /// Closes a connection that is leaving.
    fn close(&mut self, n: usize) {
        let leaving = self.leaving.swap_remove(n);
        self.let_out(&leaving.held);
    }

    /// Shuts a connection down on which nothing has gone either way for too long, and its handler reads its
    /// end; says when that may be so, if it is not yet. Unix sockets have no clocks that would tell.
    fn cut_if_idle(&mut self, held: &mut Held, now_ns: u64) -> u64 {
        let is_over = held.was_idle || held.ended.is_some();
        let Some(idle) = net::idle_for(&held.fd).filter(|_| !is_over) else {
            return u64::MAX;
        };
        let left = self.idle_timeout.saturating_sub(idle);
        if left.is_zero() {
            held.was_idle = true;
            self.figures.idle += 1;
            net::shutdown(held.fd.as_raw_fd());
            return u64::MAX;
        }
        // The kernel's clocks have milliseconds.
        now_ns + left.as_nanos() as u64 + 1_000_000
    }

    /// Whether a connection waits to be accepted.
    fn has_newcomer(&self) -> bool {
        let listener = self.listener.as_ref();
        listener.is_some_and(|listener| net::is_readable(listener.as_raw_fd()))
    }

    fn accept(&mut self) -> Result<(OwnedFd, Option<SocketAddr>), Taken> {
        let Some(listener) = &self.listener else {
            return Err(Taken::Nothing);
        };
        match net::accept(listener.as_raw_fd(), self.options) {
            Ok((fd, peer)) => {
                self.figures.accepted += 1;
                // SAFETY: accept has just opened it for us.
                Ok((unsafe { OwnedFd::from_raw_fd(fd) }, peer))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Taken::Nothing),
            Err(error) if net::is_shortage(&error) => Err(Taken::Exhausted),
            // It has gone before it was accepted (accept(2) names a dozen ways).
            Err(_) => Err(Taken::One),
        }
    }
}

impl Traffic for Connections {
    type Call = Held;

    fn socket(&self) -> RawFd {
        self.listener.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    fn objection(client: &AsyncClient) -> Option<&'static str> {
        if client
            .door()
            .is_none_or(|door| door.limits.descriptors_max == 0)
        {
            return Some(
                "the door takes no connections: name one whose application serves them, or change the scheme",
            );
        }
        None
    }

    fn receive(&mut self, frame: &mut [u8]) -> Result<(Held, usize), Taken> {
        let (held, peer) = self.admit()?;
        encode_connection(frame, peer);
        Ok((held, CONNECTION_LEN))
    }

    fn discard(&mut self) -> Taken {
        match self.accept() {
            Ok(_) => {
                self.figures.refused += 1;
                Taken::One
            }
            Err(other) => other,
        }
    }

    fn most(&self) -> usize {
        self.most
    }

    fn look_at(&mut self, held: &mut Held, now_ns: u64) -> Look {
        if held.is_forgotten(now_ns) {
            return Look::GiveUp;
        }
        let idle_ns = self.cut_if_idle(held, now_ns);
        Look::Again(idle_ns.min(now_ns + LOOK_EVERY_NS))
    }

    fn first_look_ns(&self, now_ns: u64) -> u64 {
        now_ns + LOOK_EVERY_NS.min(self.idle_timeout.as_nanos() as u64)
    }

    fn leaving(&self) -> usize {
        self.leaving.len()
    }

    fn see_off(&mut self, is_full: bool, now_ns: u64) -> u64 {
        if now_ns < self.leaving_look_ns {
            return self.leaving_look_ns;
        }
        let write_ns = self.write_timeout.as_nanos() as u64;
        let mut place_is_wanted = is_full && self.has_newcomer();
        self.leaving_look_ns = now_ns + LEAVING_LOOK_NS;
        for n in (0..self.leaving.len()).rev() {
            let leaving = &mut self.leaving[n];
            if leaving.held.has_all_taken() {
                self.close(n);
                place_is_wanted = false;
                continue;
            }
            let untaken = net::not_taken(leaving.held.fd.as_raw_fd());
            if untaken != leaving.untaken {
                (leaving.untaken, leaving.since_ns) = (untaken, now_ns);
            }
            let most_ns = match place_is_wanted {
                true => MISSABLE_NS.min(write_ns),
                false => write_ns,
            };
            if now_ns >= leaving.since_ns + most_ns {
                net::reset_at_close(leaving.held.fd.as_raw_fd());
                self.figures.untaken += 1;
                self.close(n);
                if place_is_wanted {
                    // One place for one newcomer; after that there may be another.
                    place_is_wanted = false;
                    self.leaving_look_ns = now_ns;
                }
            }
        }
        if self.leaving.is_empty() {
            self.leaving_look_ns = u64::MAX;
        }
        self.leaving_look_ns
    }

    fn note_full(&mut self, forward: &str, connections: usize, now_ns: u64) {
        if now_ns < self.quiet_until_ns || !self.has_newcomer() {
            return;
        }
        self.quiet_until_ns = now_ns + QUIET_NS;
        warn!(
            forward,
            connections,
            "a forward has as many connections as it may, and more wait: {}lower --idle-timeout or --write-timeout",
            what_to_raise(connections, self.most)
        );
    }

    fn due_ns(&self, _: u64) -> u64 {
        0 // a connection may last
    }

    fn submit(
        &self,
        client: &mut AsyncClient,
        slot: SlotId,
        len: usize,
        due_ns: u64,
        call: &Held,
    ) -> Result<(), CallError> {
        client.submit_with(slot, len, due_ns, &[call.fd.as_fd()])
    }

    fn complete(&mut self, call: Held, _: &AsyncClient, _: SlotId, completion: Completion) -> bool {
        self.end(call);
        if completion.status == Status::OK {
            self.figures.served += 1;
        } else {
            self.figures.failed += 1;
        }
        completion.status != Status(outcome::BAD_FRAME)
    }

    fn lose(&mut self, call: Held, why: Loss) {
        match why {
            Loss::LetGo => self.let_out(&call), // it goes on without us
            _ => self.end(call),
        }
        let counter = match why {
            Loss::Late => &mut self.figures.late,
            Loss::MayHaveRun | Loss::NotAccepted | Loss::LetGo => &mut self.figures.lost,
            Loss::ClientHasGone => &mut self.figures.abandoned,
            Loss::Cut => &mut self.figures.cut,
        };
        *counter += 1;
    }

    fn count_resent(&mut self) {
        self.figures.resent += 1;
    }

    fn stop_receiving(&mut self) {
        self.listener = None;
    }

    fn summarise(&self, forward: &str, door: &Path) {
        let figures = &self.figures;
        info!(
            forward,
            door = %door.display(),
            accepted = figures.accepted,
            served = figures.served,
            failed = figures.failed,
            resent = figures.resent,
            refused = figures.refused,
            lost = figures.lost,
            late = figures.late,
            abandoned = figures.abandoned,
            idle = figures.idle,
            untaken = figures.untaken,
            address_refused = figures.address_refused,
            cut = figures.cut,
            "forwarded connections"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_raised_is_not_advised() {
        assert!(what_to_raise(4, 4).starts_with("raise --connections"));
        assert!(what_to_raise(40, CONNECTIONS_MAX).starts_with("raise --slots"));
        for connections in [REMOTE_SLOTS_MAX as usize, CONNECTIONS_MAX] {
            let advice = what_to_raise(connections, CONNECTIONS_MAX);
            assert!(!advice.contains("raise"), "{connections}: {advice}");
        }
    }
}
