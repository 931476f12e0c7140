//! Bodies of requests: from the socket or a buffer into a slot, whole or in pieces.

use crate::exchange::{BodyRest, Delivery, Expects, State, Upload};
use crate::lists::List;
use crate::reading::Where;
use crate::transport::Received;
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
        let exchange = &mut self.table[index].exchange;
        let upload = &mut exchange.upload;
        // A client that has begun to send does not wait to be asked.
        if used > 0 && upload.expects == Expects::ToBeAsked {
            upload.expects = Expects::Nothing;
        }
        if upload.may_be_submitted(self.doorways[exchange.at].client()) {
            self.submit(index, slot);
        } else if self.asks_first(index) {
            self.table[index].exchange.upload.delivery = Delivery::Early;
            self.submit(index, slot);
        } else {
            // The rest is read by `read_head` when it is done with the scratch.
            self.wait_for_rest(index);
        }
    }

    /// Waits in the slot for the rest of a body.
    fn wait_for_rest(&mut self, index: u32) {
        let exchange = &mut self.table[index].exchange;
        exchange.queue_due_ms = 0; // as in `keep_head`
        let list = List::Body(exchange.at.doorway);
        self.wait_for_body(index, list);
        self.keep_slots_for_others(index);
        self.ask_to_continue(index);
    }

    /// The application, asked before the body was there, wants all of it first. From here on it is as if it
    /// had not been asked.
    pub(super) fn on_body_first(&mut self, index: u32, slot: SlotId) {
        let exchange = &mut self.table[index].exchange;
        exchange.upload.delivery = Delivery::WholeAsAsked;
        let slot = self.doorways[exchange.at].client_mut().refill(slot);
        exchange.state = State::Filling { slot };
        if self.move_small_body(index, slot) {
            self.wait_for_body(index, List::SmallBody);
            self.ask_to_continue(index);
        } else {
            self.wait_for_rest(index);
        }
        // Of what has come meanwhile no event will tell.
        if self
            .table
            .get(index)
            .is_some_and(|connection| connection.transport.readable)
        {
            self.queue(index);
        }
    }

    /// A call that was submitted early is with a handler, or may be.
    pub(super) fn count_early(&mut self, index: u32) {
        let delivery = &mut self.table[index].exchange.upload.delivery;
        if *delivery == Delivery::Early {
            *delivery = Delivery::Pieces;
            self.stats.requests.bump();
        }
    }

    /// Moves a request whose body fits a buffer of the pool out of its slot into one, if one is free: a body
    /// that trickles in costs no slot. Whether it was moved.
    fn move_small_body(&mut self, index: u32, slot: SlotId) -> bool {
        let connection = &mut self.table[index];
        let exchange = &mut connection.exchange;
        let BodyRest::Length(left) = exchange.upload.rest else {
            return false;
        };
        let client = self.doorways[exchange.at].client_mut();
        let request = client.request(slot);
        let head = request_head(request);
        let body = &request[exchange.upload.at as usize..];
        let here = head.len() + body.len();
        let whole = here as u64 + left;
        if whole > self.policy.heads.head_max as u64 {
            return false;
        }
        let Some(buffer) = self.memory.pool.take() else {
            return false;
        };
        let place = self.memory.pool.bytes(buffer);
        place[..head.len()].copy_from_slice(head);
        place[head.len()..here].copy_from_slice(body);
        client.release(slot);
        exchange.state = State::Head;
        exchange.queue_due_ms = 0; // as in `keep_head`
        connection.inbox.buffer = Some(buffer);
        connection.inbox.filled = here as u32;
        connection.inbox.wanted = whole as u32;
        true
    }

    /// Tells a client that waits for it that its body is wanted, once. False if the connection is gone.
    pub(super) fn ask_to_continue(&mut self, index: u32) -> bool {
        let exchange = &mut self.table[index].exchange;
        // Once the answer has begun an interim answer would be in the middle of it.
        if exchange.upload.expects != Expects::ToBeAsked || exchange.reply.is_sending() {
            return true;
        }
        exchange.upload.expects = Expects::Asked;
        if !self.renew_taker(index) {
            return false;
        }
        let is_told = match self.send_gathered(index, true) {
            Ok(true) => match self.table[index].transport.send::<W>(CONTINUE, false) {
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
        let exchange = &mut self.table[index].exchange;
        let upload = &mut exchange.upload;
        let client = self.doorways[exchange.at].client_mut();
        let room = client.request_tail_mut(slot, upload.end());
        let (used, produced) = match &mut upload.rest {
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
        upload.len += produced as u32;
        Ok(used)
    }

    /// In `Filling` or `BodyWanted`: reads on, from the buffer first, then from the socket.
    pub(super) fn read_body(&mut self, index: u32, slot: SlotId) {
        loop {
            let connection = &mut self.table[index];
            let before = connection.exchange.upload.len;
            if connection.inbox.buffer.is_some() {
                if !self.body_from_buffer(index, slot) {
                    return;
                }
            } else if connection.transport.readable {
                if !self.body_from_socket(index, slot) {
                    return;
                }
            } else {
                self.hand_over_pieces(index, slot);
                return;
            }
            let connection = &self.table[index];
            let exchange = &connection.exchange;
            let upload = &exchange.upload;
            let client = self.doorways[exchange.at].client();
            if upload.rest.is_empty() || upload.fills(client) {
                self.body_complete_or_full(index, slot);
                return;
            }
            if connection.inbox.buffer.is_some() && upload.len == before {
                // The decoder wants more than the buffer has, and has taken all it can.
                self.let_go_of_buffer(index);
            }
        }
    }

    /// Whether `left` bytes of a body that goes on could not be kept.
    fn has_lost_bytes(&self, index: u32, left: usize) -> bool {
        let connection = &self.table[index];
        left > 0 && connection.inbox.buffer.is_none() && !connection.exchange.upload.rest.is_empty()
    }

    fn body_from_buffer(&mut self, index: u32, slot: SlotId) -> bool {
        let connection = &self.table[index];
        let (Some(buffer), len) = (connection.inbox.buffer, connection.inbox.filled as usize)
        else {
            return true;
        };
        // SAFETY: as in `parse_buffer`.
        let bytes = unsafe { &self.memory.pool.place(buffer).as_ref()[..len] };
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
        let upload = &mut connection.exchange.upload;
        let end = upload.end();
        if let BodyRest::Length(left) = &mut upload.rest {
            let client = self.doorways[connection.exchange.at].client_mut();
            let room = client.request_tail_mut(slot, end);
            let most = usize::try_from(*left).unwrap_or(usize::MAX).min(room.len());
            return match connection.transport.receive::<W>(&mut room[..most]) {
                Received::Bytes(len) => {
                    *left -= len as u64;
                    upload.len += len as u32;
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
        let scratch = std::mem::take(&mut self.memory.read);
        let go_on = match self.table[index].transport.receive::<W>(scratch) {
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
        self.memory.read = scratch;
        go_on
    }

    /// The body is no body: an answer if none has begun.
    pub(super) fn give_up_body(&mut self, index: u32, refusal: Refusal) {
        self.let_go_of_slot(index);
        if self.table[index].exchange.reply.is_sending() {
            self.close_politely(index);
        } else {
            self.refuse_with_reason(index, refusal);
        }
    }

    fn body_complete_or_full(&mut self, index: u32, slot: SlotId) {
        let exchange = &mut self.table[index].exchange;
        if let State::BodyWanted { .. } = exchange.state {
            self.hand_over_pieces(index, slot);
        } else if exchange
            .upload
            .may_be_submitted(self.doorways[exchange.at].client())
        {
            self.submit(index, slot);
        }
    }

    /// In `BodyWanted`, with bytes there or the body at its end: the handler goes on.
    fn hand_over_pieces(&mut self, index: u32, slot: SlotId) {
        let exchange = &mut self.table[index].exchange;
        let upload = &mut exchange.upload;
        if !matches!(exchange.state, State::BodyWanted { .. })
            || (upload.len == 0 && !upload.rest.is_empty())
        {
            return;
        }
        let len = std::mem::take(&mut upload.len) as usize;
        upload.pace.pause(self.clock.now_ns);
        exchange.state = State::Calling { slot };
        self.doorways[exchange.at].client_mut().resume(slot, len);
        self.watch_deadline(index);
    }

    /// The handler asks for the next piece of the body.
    pub(super) fn want_body(&mut self, index: u32, slot: SlotId) {
        let exchange = &mut self.table[index].exchange;
        exchange.state = State::BodyWanted { slot };
        exchange.upload.len = 0;
        if exchange.upload.rest.is_empty() {
            self.hand_over_pieces(index, slot);
            return;
        }
        let list = List::Body(exchange.at.doorway);
        self.wait_for_body(index, list);
        if self.ask_to_continue(index) {
            self.read_body(index, slot);
        }
    }
}

impl Upload {
    /// Where the next bytes of the body go in the slot.
    fn end(&self) -> usize {
        self.at as usize + self.len as usize
    }

    /// Whether the slot has no room for more.
    fn fills(&self, client: &impl Caller) -> bool {
        self.end() == client.geometry().request_size
    }

    /// Whether the body is all there, or as much of it as the slot holds: the rest comes in pieces.
    fn may_be_submitted(&mut self, client: &impl Caller) -> bool {
        let whole = self.rest.is_empty();
        if !whole && self.fills(client) {
            self.delivery = Delivery::Pieces;
        }
        whole || self.fills(client)
    }
}
