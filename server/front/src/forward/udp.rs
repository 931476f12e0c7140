//! Datagrams: received into the slot in which they go through the door, answered from a private copy of the
//! reply.

use super::traffic::{Look, Loss, Taken, Traffic};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use transom_doors::{AsyncClient, CallError, Completion, SlotId, Status};
use transom_net::{self as net, Sender};
use transom_wire::frame::{
    ANSWER_HEADER_LEN, DATAGRAM_HEADER_LEN, DATAGRAM_MAX, decode_answer, encode_datagram, outcome,
};
use transom_wire::own_log::info;

/// Bytes in which an answer is looked at and sent from: the application can still write those in its slot.
pub(super) const SCRATCH_SIZE: usize = ANSWER_HEADER_LEN + DATAGRAM_MAX;

/// What was done, in datagrams.
#[derive(Debug, Default)]
struct DatagramFigures {
    received: u64,
    answered: u64,
    /// The application had nothing to say.
    unanswered: u64,
    /// Larger than a slot.
    oversized: u64,
    /// The handler was ended by its bucket or a panic, or its answer is no answer.
    failed: u64,
    resent: u64,
    /// Came while the door was away for longer than anything waits.
    refused: u64,
    /// Their application died.
    lost: u64,
    /// Not answered within the deadline.
    late: u64,
    /// Answers that the socket did not take.
    unsent: u64,
    cut: u64,
}

/// Whom the answer goes to.
pub(super) struct Asked(Sender);

/// The datagrams of a socket.
pub(super) struct Datagrams {
    socket: Arc<OwnedFd>,
    deadline_ns: Option<u64>,
    scratch: Box<[u8]>,
    figures: DatagramFigures,
}

impl Datagrams {
    pub(super) fn new(socket: Arc<OwnedFd>, deadline: Option<Duration>) -> Self {
        Datagrams {
            socket,
            deadline_ns: deadline.map(|deadline| deadline.as_nanos() as u64),
            scratch: vec![0; SCRATCH_SIZE].into_boxed_slice(),
            figures: DatagramFigures::default(),
        }
    }

    /// Sends the answer of a completed call, and gives the counter to count it with.
    fn answer(
        &mut self,
        to: &Sender,
        client: &AsyncClient,
        slot: SlotId,
        completion: Completion,
    ) -> &mut u64 {
        if completion.status != Status::OK {
            return &mut self.figures.failed;
        }
        let len = client.copy_reply(slot, 0, &mut self.scratch);
        // A reply that is longer than the scratch is cut, and so no frame.
        match decode_answer(&self.scratch[..len]) {
            Ok(None) => &mut self.figures.unanswered,
            Ok(Some(answer)) => match net::send_to(self.socket.as_raw_fd(), answer, to) {
                Ok(_) => &mut self.figures.answered,
                Err(_) => &mut self.figures.unsent,
            },
            Err(_) => &mut self.figures.failed,
        }
    }
}

impl Traffic for Datagrams {
    type Call = Asked;

    fn socket(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    fn objection(client: &AsyncClient) -> Option<&'static str> {
        if client
            .door()
            .is_none_or(|door| door.limits.descriptors_max != 0)
        {
            return Some(
                "the door asks for connections: name one whose application answers datagrams, or change the scheme",
            );
        }
        None
    }

    fn receive(&mut self, frame: &mut [u8]) -> Result<(Asked, usize), Taken> {
        // Slots are pages, so the header fits.
        let room = &mut frame[DATAGRAM_HEADER_LEN..];
        let most = room.len().min(DATAGRAM_MAX);
        match net::receive_from(self.socket.as_raw_fd(), &mut room[..most]) {
            Ok((len, sender)) => {
                self.figures.received += 1;
                if len > most {
                    self.figures.oversized += 1;
                    return Err(Taken::One);
                }
                encode_datagram(frame, sender.address(), len);
                Ok((Asked(sender), DATAGRAM_HEADER_LEN + len))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Taken::Nothing),
            // News of a datagram that was sent, or an interruption.
            Err(_) => Err(Taken::One),
        }
    }

    fn discard(&mut self) -> Taken {
        match net::receive_from(self.socket.as_raw_fd(), &mut self.scratch[..1]) {
            Ok(_) => {
                self.figures.received += 1;
                self.figures.refused += 1;
                Taken::One
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Taken::Nothing,
            Err(_) => Taken::One,
        }
    }

    fn due_ns(&self, now_ns: u64) -> u64 {
        self.deadline_ns.map_or(0, |deadline| now_ns + deadline)
    }

    fn submit(
        &self,
        client: &mut AsyncClient,
        slot: SlotId,
        len: usize,
        due_ns: u64,
        _: &Asked,
    ) -> Result<(), CallError> {
        client.submit(slot, len, due_ns);
        Ok(())
    }

    fn most(&self) -> usize {
        usize::MAX
    }

    fn look_at(&mut self, _: &mut Asked, _: u64) -> Look {
        Look::Again(u64::MAX) // it has its deadline
    }

    fn first_look_ns(&self, _: u64) -> u64 {
        u64::MAX
    }

    fn note_full(&mut self, _: &str, _: usize, _: u64) {} // datagrams wait in the socket, or are lost, as ever

    fn complete(
        &mut self,
        call: Asked,
        client: &AsyncClient,
        slot: SlotId,
        completion: Completion,
    ) -> bool {
        *self.answer(&call.0, client, slot, completion) += 1;
        completion.status != Status(outcome::BAD_FRAME)
    }

    fn lose(&mut self, _: Asked, why: Loss) {
        let counter = match why {
            Loss::Late => &mut self.figures.late,
            // No client is seen to go: it is answered, or its deadline passes.
            Loss::MayHaveRun | Loss::NotAccepted | Loss::LetGo | Loss::ClientHasGone => {
                &mut self.figures.lost
            }
            Loss::Cut => &mut self.figures.cut,
        };
        *counter += 1;
    }

    fn count_resent(&mut self) {
        self.figures.resent += 1;
    }

    fn stop_receiving(&mut self) {}

    fn summarise(&self, forward: &str, door: &Path) {
        let figures = &self.figures;
        info!(
            forward,
            door = %door.display(),
            received = figures.received,
            dropped = net::dropped_datagrams(&self.socket),
            answered = figures.answered,
            unanswered = figures.unanswered,
            oversized = figures.oversized,
            failed = figures.failed,
            resent = figures.resent,
            refused = figures.refused,
            lost = figures.lost,
            late = figures.late,
            unsent = figures.unsent,
            cut = figures.cut,
            "forwarded datagrams"
        );
    }
}
