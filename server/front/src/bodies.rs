//! Bodies of requests: from the socket or a buffer into a slot, whole or in pieces.

use crate::connection::{BodyRest, List, State};
use crate::reading::{Received, Where, receive};
use crate::turn::Loop;
use crate::world::{Caller, World};
use std::io;
use transom_doors::SlotId;
use transom_http::Refusal;
use transom_http::reply::CONTINUE;
use transom_wire::frame::request_head;

/// Why a body that has begun cannot go on.
const NO_BUFFER: Refusal = Refusal::new(503, "no buffer for the rest of a body");

impl<W: World> Loop<W> {
    /// Takes what is there of the body, and submits the call or waits for the rest.
    pub(super) fn begin_body(&mut self, index: u32, slot: SlotId, rest: &[u8], source: Where) {
        let used = match self.take_body(index, slot, rest) {
            Ok(used) => used,
            Err(refusal) => {
                self.let_go_of_slot(index);
                self.refuse_with_reason(index, refusal);
                return;
            }
        };
        self.keep_rest(index, &rest[used..], source);
        if self.has_lost_bytes(index, rest.len() - used) {
            self.give_up_body(index, NO_BUFFER);
            return;
        }
        let connection = &mut self.table[index];
        // A client that has begun to send does not wait to be asked.
        connection.expect_continue &= used == 0;
        let whole = connection.body.is_empty();
        let full = connection.body_len as usize
            == room(self.doorways[connection.at].client(), connection.body_at);
        if whole || full {
            connection.streamed = !whole;
            self.submit(index, slot);
        } else if self.asks_first(index) {
            let connection = &mut self.table[index];
            (connection.streamed, connection.early) = (true, true);
            self.submit(index, slot);
        } else {
            // The rest is read by `read_head` when it is done with the scratch.
            self.wait_for_rest(index);
        }
    }

    /// Waits in the slot for the rest of a body.
    fn wait_for_rest(&mut self, index: u32) {
        let connection = &mut self.table[index];
        connection.state = State::Body;
        connection.queue_due_ms = 0; // as in `keep_head`
        let list = List::Body(connection.at.doorway);
        self.wait_for_body(index, list);
        self.keep_slots_for_others(index);
        self.ask_to_continue(index);
    }

    /// The application, asked before the body was there, wants all of it first. From here on it is as if it
    /// had not been asked.
    pub(super) fn on_body_first(&mut self, index: u32, slot: SlotId) {
        let connection = &mut self.table[index];
        (connection.streamed, connection.early) = (false, false);
        connection.body_first = true;
        let client = self.doorways[connection.at].client_mut();
        connection.slot = Some(client.refill(slot));
        self.move_small_body(index);
        if self.table[index].slot.is_some() {
            self.wait_for_rest(index);
        } else {
            self.wait_for_body(index, List::SmallBody);
            self.ask_to_continue(index);
        }
        // Of what has come meanwhile no event will tell.
        if self
            .table
            .get(index)
            .is_some_and(|connection| connection.readable)
        {
            self.queue(index);
        }
    }

    /// A call that was submitted early is with a handler, or may be.
    pub(super) fn count_early(&mut self, index: u32) {
        if std::mem::take(&mut self.table[index].early) {
            self.stats.requests.bump();
        }
    }

    /// Moves a request whose body fits a buffer of the pool out of its slot into one, if one is free: a body
    /// that trickles in costs no slot.
    fn move_small_body(&mut self, index: u32) {
        let connection = &mut self.table[index];
        let (BodyRest::Length(left), Some(slot)) = (connection.body, connection.slot) else {
            return;
        };
        let client = self.doorways[connection.at].client_mut();
        let request = client.request(slot);
        let head = request_head(request);
        let body = &request[connection.body_at as usize..];
        let here = head.len() + body.len();
        let whole = here as u64 + left;
        if whole > self.limits.head_max as u64 {
            return;
        }
        let Some(buffer) = self.pool.take() else {
            return;
        };
        let place = self.pool.bytes(buffer);
        place[..head.len()].copy_from_slice(head);
        place[head.len()..here].copy_from_slice(body);
        client.release(slot);
        connection.slot = None;
        connection.buffer = Some(buffer);
        connection.buffered = here as u32;
        connection.wanted = whole as u32;
        connection.state = State::Head;
        connection.queue_due_ms = 0; // as in `keep_head`
    }

    /// Tells a client that waits for it that its body is wanted, once. False if the connection is gone.
    pub(super) fn ask_to_continue(&mut self, index: u32) -> bool {
        let connection = &mut self.table[index];
        let asked = std::mem::replace(&mut connection.expect_continue, false);
        // Once the answer has begun an interim answer would be in the middle of it.
        if !asked || connection.continued || connection.head_sent {
            return true;
        }
        connection.continued = true;
        let is_told = match self.send_gathered(index, true) {
            Ok(true) => match W::send(self.table[index].fd, CONTINUE) {
                Ok(len) => self.append_gathered(index, &CONTINUE[len..]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.append_gathered(index, CONTINUE)
                }
                Err(_) => false,
            },
            // Behind the answers before it, which leave when the socket has room.
            Ok(false) => self.append_gathered(index, CONTINUE),
            Err(_) => false,
        };
        if is_told {
            return true;
        }
        self.close(index);
        false
    }

    /// Puts bytes of the body into the slot; returns how many were used up.
    fn take_body(&mut self, index: u32, slot: SlotId, input: &[u8]) -> Result<usize, Refusal> {
        if input.is_empty() {
            return Ok(0); // as of nearly every request
        }
        let connection = &mut self.table[index];
        let start = connection.body_at as usize + connection.body_len as usize;
        let client = self.doorways[connection.at].client_mut();
        let room = client.request_tail_mut(slot, start);
        let (used, produced) = match &mut connection.body {
            BodyRest::Length(left) => {
                let most = usize::try_from(*left).unwrap_or(usize::MAX);
                let len = input.len().min(room.len()).min(most);
                room[..len].copy_from_slice(&input[..len]);
                *left -= len as u64;
                (len, len)
            }
            BodyRest::Chunked(decoder) => {
                let step = decoder.decode(input, room)?;
                (step.consumed, step.produced)
            }
        };
        connection.body_len += produced as u32;
        Ok(used)
    }

    /// In `Body` or `BodyWanted`: reads on, from the buffer first, then from the socket.
    pub(super) fn read_body(&mut self, index: u32) {
        let Some(slot) = self.table[index].slot else {
            self.close(index);
            return;
        };
        loop {
            let connection = &mut self.table[index];
            let before = connection.body_len;
            if connection.buffer.is_some() {
                if !self.body_from_buffer(index, slot) {
                    return;
                }
            } else if connection.readable {
                if !self.body_from_socket(index, slot) {
                    return;
                }
            } else {
                self.hand_over_pieces(index, slot);
                return;
            }
            let connection = &self.table[index];
            let full = connection.body_len as usize
                == room(self.doorways[connection.at].client(), connection.body_at);
            if connection.body.is_empty() || full {
                self.body_complete_or_full(index, slot);
                return;
            }
            if connection.buffer.is_some() && connection.body_len == before {
                // The decoder wants more than the buffer has, and has taken all it can.
                self.let_go_of_buffer(index);
            }
        }
    }

    /// Whether `left` bytes of a body that goes on could not be kept.
    fn has_lost_bytes(&self, index: u32, left: usize) -> bool {
        let connection = &self.table[index];
        left > 0 && connection.buffer.is_none() && !connection.body.is_empty()
    }

    fn body_from_buffer(&mut self, index: u32, slot: SlotId) -> bool {
        let connection = &self.table[index];
        let (Some(buffer), len) = (connection.buffer, connection.buffered as usize) else {
            return true;
        };
        // SAFETY: as in `parse_buffer`.
        let bytes = unsafe { &self.pool.place(buffer).as_ref()[..len] };
        match self.take_body(index, slot, bytes) {
            Ok(used) => {
                self.keep_rest(index, &bytes[used..], Where::Buffer);
                self.compact(index);
                true
            }
            Err(refusal) => {
                self.give_up_body(index, refusal);
                false
            }
        }
    }

    /// One read. A body of known length goes straight into its slot; chunks go through the scratch. False
    /// when there is nothing more to do for now.
    fn body_from_socket(&mut self, index: u32, slot: SlotId) -> bool {
        let connection = &mut self.table[index];
        if let BodyRest::Length(left) = &mut connection.body {
            let start = connection.body_at as usize + connection.body_len as usize;
            let client = self.doorways[connection.at].client_mut();
            let room = client.request_tail_mut(slot, start);
            let most = usize::try_from(*left).unwrap_or(usize::MAX).min(room.len());
            let mut left = *left;
            return match receive::<W>(connection, &mut room[..most]) {
                Received::Bytes(len) => {
                    left -= len as u64;
                    connection.body = BodyRest::Length(left);
                    connection.body_len += len as u32;
                    // The read was cut by the body's length, which says nothing of the socket.
                    connection.readable |= len == most;
                    self.credit_sender(index, len);
                    true
                }
                Received::Nothing => true,
                Received::End => {
                    self.cut_off(index);
                    false
                }
            };
        }
        let scratch = std::mem::take(&mut self.read_scratch);
        let go_on = match receive::<W>(&mut self.table[index], scratch) {
            Received::Bytes(len) => match self.take_body(index, slot, &scratch[..len]) {
                Ok(used) => {
                    self.credit_sender(index, used);
                    self.keep_rest(index, &scratch[used..len], Where::Scratch);
                    if self.has_lost_bytes(index, len - used) {
                        self.give_up_body(index, NO_BUFFER);
                        false
                    } else {
                        true
                    }
                }
                Err(refusal) => {
                    self.give_up_body(index, refusal);
                    false
                }
            },
            Received::Nothing => true,
            Received::End => {
                self.cut_off(index);
                false
            }
        };
        self.read_scratch = scratch;
        go_on
    }

    /// The body is no body: an answer if none has begun.
    pub(super) fn give_up_body(&mut self, index: u32, refusal: Refusal) {
        self.let_go_of_slot(index);
        if self.table[index].head_sent {
            self.close(index);
        } else {
            self.refuse_with_reason(index, refusal);
        }
    }

    fn body_complete_or_full(&mut self, index: u32, slot: SlotId) {
        if self.table[index].state == State::BodyWanted {
            self.hand_over_pieces(index, slot);
        } else {
            let connection = &mut self.table[index];
            connection.streamed = !connection.body.is_empty();
            self.submit(index, slot);
        }
    }

    /// In `BodyWanted`, with bytes there or the body at its end: the handler goes on.
    fn hand_over_pieces(&mut self, index: u32, slot: SlotId) {
        let connection = &mut self.table[index];
        if connection.state != State::BodyWanted
            || (connection.body_len == 0 && !connection.body.is_empty())
        {
            return;
        }
        let len = connection.body_len as usize;
        connection.body_len = 0;
        connection.body_pace.pause(self.now_ns);
        connection.state = State::Calling;
        self.doorways[connection.at].client_mut().resume(slot, len);
        self.watch_deadline(index);
    }

    /// The handler asks for the next piece of the body.
    pub(super) fn want_body(&mut self, index: u32, slot: SlotId) {
        let connection = &mut self.table[index];
        connection.state = State::BodyWanted;
        connection.body_len = 0;
        if connection.body.is_empty() {
            self.hand_over_pieces(index, slot);
            return;
        }
        let list = List::Body(connection.at.doorway);
        self.wait_for_body(index, list);
        if self.ask_to_continue(index) {
            self.read_body(index);
        }
    }
}

/// Bytes of a slot from a body's place on.
fn room(client: &impl Caller, body_at: u32) -> usize {
    client.geometry().request_size - body_at as usize
}
