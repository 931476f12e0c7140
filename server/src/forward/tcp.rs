//! Connections: accepted here, served on the other side of the door.
//!
//! Our copy of the descriptor stays open until the call has ended, because only then is it known that nobody will have to
//! send it again; nothing is read from it or written to it here. When the call has ended, in whatever way, the connection
//! is shut down before it is closed, so that its end does not wait for a copy that somebody else may still have.

use super::{Loss, Received, Traffic};
use crate::net::{self, ListenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use transom_doors::{AsyncClient, CallError, Completion, SlotId, Status};
use transom_platform::frame::{CONNECTION_LEN, encode_connection, outcome};
use transom_platform::own_log::info;

/// What was done, in connections.
#[derive(Debug, Default)]
struct Figures {
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
    cut: u64,
}

/// The connections of a listener.
pub(super) struct Connections {
    listener: Option<Arc<OwnedFd>>,
    options: ListenOptions,
    figures: Figures,
}

impl Connections {
    pub(super) fn new(listener: Arc<OwnedFd>, options: ListenOptions) -> Self {
        Connections {
            listener: Some(listener),
            options,
            figures: Figures::default(),
        }
    }

    fn accept(&mut self) -> Result<(OwnedFd, Option<std::net::SocketAddr>), Received<OwnedFd>> {
        let Some(listener) = &self.listener else {
            return Err(Received::Nothing);
        };
        match net::accept(listener.as_raw_fd(), self.options) {
            Ok((fd, peer)) => {
                self.figures.accepted += 1;
                // SAFETY: accept has just opened it for us.
                Ok((unsafe { OwnedFd::from_raw_fd(fd) }, peer))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Received::Nothing),
            Err(error) if net::is_shortage(&error) => Err(Received::Exhausted),
            // It has gone before it was accepted (accept(2) names a dozen ways).
            Err(_) => Err(Received::Skipped),
        }
    }
}

impl Traffic for Connections {
    type Call = OwnedFd;

    fn socket(&self) -> RawFd {
        self.listener.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    fn objection(&self, client: &AsyncClient) -> Option<&'static str> {
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

    fn receive(&mut self, frame: &mut [u8]) -> Received<OwnedFd> {
        match self.accept() {
            Ok((fd, peer)) => {
                encode_connection(frame, peer);
                Received::Call(fd, CONNECTION_LEN)
            }
            Err(other) => other,
        }
    }

    fn discard(&mut self) -> Received<()> {
        match self.accept() {
            Ok(_) => {
                self.figures.refused += 1;
                Received::Skipped
            }
            Err(Received::Nothing) => Received::Nothing,
            Err(Received::Exhausted) => Received::Exhausted,
            Err(Received::Skipped | Received::Call(..)) => Received::Skipped,
        }
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
        call: &OwnedFd,
    ) -> Result<(), CallError> {
        client.submit_with(slot, len, due_ns, &[call.as_fd()])
    }

    fn complete(
        &mut self,
        call: OwnedFd,
        _: &AsyncClient,
        _: SlotId,
        completion: Completion,
    ) -> bool {
        net::shutdown_write(call.as_raw_fd());
        if completion.status == Status::OK {
            self.figures.served += 1;
        } else {
            self.figures.failed += 1;
        }
        completion.status != Status(outcome::BAD_FRAME)
    }

    fn lose(&mut self, call: OwnedFd, why: Loss) {
        // One that is let go goes on without us.
        if why != Loss::LetGo {
            net::shutdown_write(call.as_raw_fd());
        }
        let counter = match why {
            Loss::Late => &mut self.figures.late,
            Loss::MayHaveRun | Loss::NotAccepted | Loss::LetGo => &mut self.figures.lost,
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
            cut = figures.cut,
            "forwarded connections"
        );
    }
}
