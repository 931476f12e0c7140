//! Short answers to requests that came together leave together.
//!
//! Who sends several requests without waiting for the first answer gets one segment for several answers: each
//! that another one is about to follow is put aside, and sent with it, or by itself a millisecond later. The
//! places to put them are few and decided at start. Who finds none has its answers given to the kernel at
//! once, which then holds back what does not fill a segment (`MSG_MORE`): dearer, and the same for the
//! client.

use crate::outbox::Gathered;
use crate::output::{Way, tell_of_change};
use crate::places::PLACE_SIZE;
use crate::turn::Loop;
use crate::world::World;
use std::io;
use transom_doors::SlotId;
use transom_http::reply::CONTINUE;

/// What has become of an answer that was to be gathered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is with those that were put aside, or has been sent with them.
    Taken,
    /// It has to be sent by itself. Nothing is put aside any more.
    Refused,
    /// What was put aside has to be sent first, and the socket has no room for it.
    Stuck,
    /// The connection has broken, or the application has changed the answer while it was looked at.
    Broken,
}

impl<W: World> Loop<W> {
    /// Puts the answer that a connection is writing to those that were put aside for it, and sends them all
    /// unless another answer is about to follow (`hold`).
    pub(super) fn gather(&mut self, index: u32, slot: SlotId, hold: bool) -> Outcome {
        let connection = &mut self.table[index];
        let at = connection.exchange.at;
        let is_remote = self.doorways[at.doorway].is_remote();
        let (client, output) = self.doorways[at].writing(slot);
        if connection.outbox.gathered.is_none()
            && hold
            && output.fits(PLACE_SIZE - CONTINUE.len(), self.memory.write.len())
        {
            connection.outbox.gathered = self.memory.places.take();
        }
        let Some(gathered) = connection.outbox.gathered else {
            return Outcome::Refused;
        };
        // Else it was put there before, when the socket had no room.
        if output.sent < output.total() {
            let place = &mut self.memory.places.of(gathered)[usize::from(gathered.len)..];
            // What stays free is for `100 Continue`.
            let room = place.len().saturating_sub(CONTINUE.len());
            if !output.fits(room, self.memory.write.len()) {
                if is_remote {
                    output.put_off(self.memory.write, &self.keys);
                }
                return match self.send_gathered(index, true) {
                    Ok(true) => Outcome::Refused,
                    Ok(false) => Outcome::Stuck,
                    Err(_) => Outcome::Broken,
                };
            }
            let (scratch, way) = (&mut self.memory.write[..], Way::Place(place));
            let len = match output.send::<W>(way, (client, slot), is_remote, scratch, &self.keys) {
                Ok(len) => len,
                Err(error) => {
                    tell_of_change(&error);
                    return Outcome::Broken;
                }
            };
            output.sent += len;
            let len = gathered.len + len as u16;
            connection.outbox.gathered = Some(Gathered { len, ..gathered });
        }
        if hold {
            return Outcome::Taken;
        }
        match self.send_gathered(index, false) {
            Ok(true) => Outcome::Taken,
            Ok(false) => Outcome::Stuck,
            Err(_) => Outcome::Broken,
        }
    }

    /// Puts bytes of ours behind what was put aside, or in a place of their own, if there is room. They leave
    /// when the socket has some.
    pub(super) fn append_gathered(&mut self, index: u32, bytes: &[u8]) -> bool {
        if bytes.is_empty() {
            return true;
        }
        let connection = &mut self.table[index];
        let gathered = &mut connection.outbox.gathered;
        if gathered.is_none() {
            *gathered = self.memory.places.take();
        }
        let Some(gathered) = gathered else {
            return false;
        };
        let from = usize::from(gathered.len);
        let place = &mut self.memory.places.of(*gathered)[from..];
        let Some(room) = place.get_mut(..bytes.len()) else {
            return false;
        };
        room.copy_from_slice(bytes);
        gathered.len += bytes.len() as u16;
        true
    }

    /// Sends what was put aside; with more to follow at once, if `more`. False if the socket has no room for
    /// all of it: an event tells when there is.
    pub(super) fn send_gathered(&mut self, index: u32, more: bool) -> io::Result<bool> {
        let connection = &mut self.table[index];
        let Some(gathered) = connection.outbox.gathered else {
            return Ok(true);
        };
        let len = usize::from(gathered.len);
        let place = self.memory.places.of(gathered);
        let sent = match connection.transport.send::<W>(&place[..len], more) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        if sent < len {
            place.copy_within(sent..len, 0);
            let len = (len - sent) as u16;
            connection.outbox.gathered = Some(Gathered { len, ..gathered });
            return Ok(false);
        }
        connection.outbox.gathered = None;
        self.memory.places.give_back(gathered);
        Ok(true)
    }

    /// Before a connection is closed: sends what the socket still takes, and gives the place back.
    pub(super) fn let_go_of_gathered(&mut self, index: u32) {
        let _ = self.send_gathered(index, false);
        if let Some(gathered) = self.table[index].outbox.gathered.take() {
            self.memory.places.give_back(gathered);
        }
    }
}
