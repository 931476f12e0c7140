//! Reading: what a client has sent, and where it waits until its request can be put into a slot.

use crate::exchange::{Answer, State};
use crate::lists::List;
use crate::orders::Order;
use crate::transport::Received;
use crate::turn::Loop;
use crate::world::World;
use std::io;
use transom_http::peer::{Client, proxy};
use transom_http::{Refusal, begins_with_head};

/// How a request begins that is for the server as a whole, not for what lies behind a door.
const FOR_SERVER: &[u8] = b"OPTIONS * ";

/// What the first bytes of a request say.
enum Ahead {
    /// It waits for a slot.
    ForHandler,
    /// It needs none, or may need none.
    ForServer,
    /// There are none.
    Nothing,
}

/// Where the bytes of a head lie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Where {
    /// In the loop's scratch: gone with the next read.
    Scratch,
    /// In the connection's own buffer.
    Buffer,
}

impl<W: World> Loop<W> {
    /// In `Idle` or `Head`: reads and parses until the head is whole, the socket empty, or no slot free.
    pub(super) fn read_head(&mut self, index: u32) {
        if self.table[index].inbox.unparsed {
            self.parse_buffer(index);
        }
        while self.table[index].exchange.wants_head()
            && self.table[index].transport.readable
            // Answered without a slot: the others come first.
            && !self.table[index].queued
        {
            if matches!(self.table[index].exchange.state, State::Head) {
                self.read_into_buffer(index);
            } else if self.only_doorway_is_full(index) {
                match self.look_ahead(index) {
                    // Left unread: the kernel keeps its bytes, and waiting costs no memory.
                    Ahead::ForHandler => self.wait_for_slot(index),
                    Ahead::ForServer => self.read_into_scratch(index),
                    Ahead::Nothing => {}
                }
            } else {
                self.read_into_scratch(index);
            }
        }
        if let State::Filling { slot } = self.table[index].exchange.state {
            self.read_body(index, slot);
        }
    }

    /// Whether a request that has not been read yet finds no slot, whatever it is.
    fn only_doorway_is_full(&mut self, index: u32) -> bool {
        let connection = &mut self.table[index];
        let Some(only) = self.policy.forwards[usize::from(connection.transport.forward)].only()
        else {
            return false; // it has to be read, to know its doorway
        };
        connection.exchange.at.doorway = only;
        self.must_wait(index)
    }

    /// What a request is that finds no slot, as far as its first bytes say. `OPTIONS *` needs none.
    fn look_ahead(&mut self, index: u32) -> Ahead {
        let connection = &mut self.table[index];
        let mut first = [b'\r'; 64];
        let from = usize::from(connection.inbox.half_line);
        match connection.transport.peek::<W>(&mut first[from..]) {
            // The end of the stream, or an error: the read tells, and closes.
            Ok(0) => Ahead::ForServer,
            Ok(len) => {
                let (_, line) = split_empty_lines(&first[..from + len]);
                // Also if it is too early to say: it is a partial head then, and costs a buffer of these.
                let len = line.len().min(FOR_SERVER.len());
                if line[..len] == FOR_SERVER[..len] {
                    Ahead::ForServer
                } else {
                    Ahead::ForHandler
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                connection.transport.readable = false;
                Ahead::Nothing
            }
            Err(_) => Ahead::ForServer,
        }
    }

    /// Whether a new request finds no slot of its doorway, or others before it.
    pub(super) fn must_wait(&self, index: u32) -> bool {
        let doorway = self.table[index].exchange.at.doorway;
        let others = self.table.first(List::Waiting(doorway)).is_some()
            && self.agenda.granted != Some(index);
        others || self.doorways[doorway].free_slots() == 0
    }

    pub(super) fn wait_for_slot(&mut self, index: u32) {
        let queue_due = self.queue_due_ms();
        let exchange = &mut self.table[index].exchange;
        if let State::Idle = exchange.state {
            exchange.arrived_ns = self.clock.now_ns;
        }
        exchange.state = State::Waiting {
            unaccepted: exchange.slot(),
        };
        if exchange.queue_due_ms == 0 {
            exchange.queue_due_ms = queue_due;
        }
        let (due, arrived) = (exchange.queue_due_ms, exchange.arrived_ns);
        let list = List::Waiting(exchange.at.doorway);
        self.note_wait(index);
        let due = self
            .deadline_ms(arrived)
            .map_or(due, |deadline| due.min(deadline));
        self.table.set_timer(index, list, due);
    }

    fn read_into_scratch(&mut self, index: u32) {
        let scratch = std::mem::take(&mut self.memory.read);
        match self.receive_behind_half_line(index, scratch) {
            Received::Bytes(len) => {
                self.table[index].exchange.arrived_ns = self.clock.now_ns;
                match self.take_proxy_header(index, &scratch[..len], Where::Scratch) {
                    Some(used) if used < len => {
                        self.note_arrival(index);
                        self.on_head_bytes(index, &scratch[used..len], Where::Scratch);
                    }
                    _ => {}
                }
            }
            Received::Nothing => self.note_silence(index),
            Received::End => self.end(index),
        }
        self.memory.read = scratch;
    }

    /// Reads into the scratch, behind the CR of an empty line whose LF has not come yet.
    fn receive_behind_half_line(&mut self, index: u32, scratch: &mut [u8]) -> Received {
        let connection = &mut self.table[index];
        let from = usize::from(connection.inbox.half_line);
        scratch[..from].fill(b'\r');
        let received = connection.transport.receive::<W>(&mut scratch[from..]);
        let Received::Bytes(len) = received else {
            return received;
        };
        connection.inbox.half_line = false;
        Received::Bytes(from + len)
    }

    /// Of a request that lies unread in the socket and will stay unread: whether its answer may have a body.
    pub(super) fn look_for_head(&mut self, index: u32) {
        let connection = &self.table[index];
        if connection.inbox.buffer.is_some() || connection.exchange.slot().is_some() {
            return; // it has been read
        }
        let scratch = std::mem::take(&mut self.memory.read);
        if let Received::Bytes(len) = self.receive_behind_half_line(index, scratch) {
            let connection = &mut self.table[index];
            let mut bytes = &scratch[..len];
            if connection.transport.wants_proxy
                && let Ok(Some((len, client))) =
                    proxy::parse(bytes, self.policy.limits.proxying.header_limit)
            {
                // The line in the access log says whom it names.
                connection.transport.wants_proxy = false;
                match client {
                    Client::Nobody => {}
                    Client::Unknown => connection.transport.peer = None,
                    Client::At(peer) => connection.transport.peer = Some(peer),
                }
                bytes = &bytes[len..];
            }
            connection.exchange.head_only = begins_with_head(bytes);
        }
        self.memory.read = scratch;
    }

    fn read_into_buffer(&mut self, index: u32) {
        let connection = &mut self.table[index];
        let Some(buffer) = connection.inbox.buffer else {
            self.close(index);
            return;
        };
        let filled = connection.inbox.filled as usize;
        let room = &mut self.memory.pool.bytes(buffer)[filled..];
        match connection.transport.receive::<W>(room) {
            Received::Bytes(len) => {
                connection.inbox.filled += len as u32;
                let new = &room[..len];
                let wanted = connection.inbox.wanted as usize;
                let worth_a_look = match wanted {
                    // A head ends in a line feed, and its first bytes may show that it is none.
                    // A proxy's header may be binary.
                    0 if connection.transport.wants_proxy => true,
                    0 => filled < 8 || len == room.len() || new.contains(&b'\n'),
                    wanted => filled + len >= wanted,
                };
                if wanted > 0 {
                    self.credit_sender(index, len);
                }
                if worth_a_look {
                    self.parse_buffer(index);
                }
            }
            Received::Nothing => {}
            Received::End => self.cut_off(index),
        }
    }

    /// The client will send nothing more in the middle of a request: there is nothing to answer, but it may
    /// still be taking earlier answers.
    pub(super) fn cut_off(&mut self, index: u32) {
        match self.send_gathered(index, false) {
            Ok(false) => self.give_up_body(index, Refusal::new(400, "a request that breaks off")),
            Ok(true) => self.end(index),
            Err(_) => self.close(index),
        }
    }

    pub(super) fn parse_buffer(&mut self, index: u32) {
        let connection = &mut self.table[index];
        connection.inbox.unparsed = false;
        let (Some(buffer), len) = (connection.inbox.buffer, connection.inbox.filled as usize)
        else {
            return;
        };
        // SAFETY: the buffer's memory lives for ever, belongs to this connection, and is not written while
        // `bytes` is in use: what follows a request is moved to the start by `compact`, afterwards. A buffer
        // that is given back meanwhile is written by its next owner at the earliest after this call.
        let bytes = unsafe { &self.memory.pool.place(buffer).as_ref()[..len] };
        let Some(used) = self.take_proxy_header(index, bytes, Where::Buffer) else {
            return;
        };
        if used == len {
            self.let_go_of_buffer(index);
            self.table[index].exchange.state = State::Idle;
            self.set_timer(index, List::Idle, self.policy.limits.timeouts.idle);
            return;
        }
        if used > 0 {
            // The request begins where the buffer does.
            self.table[index].inbox.used = used as u32;
            self.compact(index);
            self.note_arrival(index);
            self.parse_buffer(index);
            return;
        }
        self.on_head_bytes(index, bytes, Where::Buffer);
        self.compact(index);
    }

    /// Moves what is left in a buffer to its start.
    pub(super) fn compact(&mut self, index: u32) {
        let connection = &mut self.table[index];
        let (used, len) = (
            connection.inbox.used as usize,
            connection.inbox.filled as usize,
        );
        if let (Some(buffer), true) = (connection.inbox.buffer, used > 0) {
            self.memory.pool.bytes(buffer).copy_within(used..len, 0);
            connection.inbox.filled = (len - used) as u32;
        }
        connection.inbox.used = 0;
    }

    /// Whether nothing but empty lines has come since the last request, the last of which need not be whole.
    /// They are forgotten then: some clients send one behind a body, and no head has begun with it.
    pub(super) fn stays_idle(&mut self, index: u32, bytes: &[u8]) -> bool {
        let (lines, rest) = split_empty_lines(bytes);
        if !rest.is_empty() {
            return false;
        }
        let is_half = lines.len() % 2 == 1;
        self.note_silence(index);
        let has_buffer = self.table[index].inbox.buffer.is_some();
        self.let_go_of_buffer(index);
        self.table[index].inbox.half_line = is_half;
        if has_buffer {
            self.idle_once_all_has_left(index);
        } // else it stands in its list
        true
    }

    /// Sends the answers that were put aside. Once they have left, the connection waits for its next request.
    pub(super) fn idle_once_all_has_left(&mut self, index: u32) {
        match self.send_gathered(index, false) {
            Ok(true) => {}
            Ok(false) => {
                let connection = &mut self.table[index];
                if !matches!(connection.exchange.state, State::Writing(_)) {
                    connection.outbox.held_since_ns = 0; // they are held back no longer
                    connection.exchange.state = State::Writing(Answer::PutAside);
                    self.wait_until_all_has_left(index, List::Answer);
                }
                return; // an event tells when there is room again
            }
            Err(_) => return self.close(index),
        }
        self.table[index].exchange.state = State::Idle;
        if self.policy.order >= Order::Drain {
            return self.close_politely(index);
        }
        self.wait_for_request(index);
        if self.table[index].transport.readable {
            self.queue(index);
        }
    }

    /// Keeps an unfinished head, or a whole one whose body is on its way.
    pub(super) fn keep_head(&mut self, index: u32, bytes: &[u8], source: Where) {
        if self.policy.order >= Order::Drain && self.table[index].inbox.wanted == 0 {
            self.cut_head(index);
            return;
        }
        if source == Where::Scratch && !self.keep(index, bytes) {
            // No buffer can be had: all are with requests that have a slot or wait for one.
            self.note_no_head(index, bytes);
            self.refuse(index, 503);
            return;
        }
        self.table[index].exchange.state = State::Head;
        // A wait for a slot may be behind it. From here on its client is waited for, and the next one is
        // another.
        self.table[index].exchange.queue_due_ms = 0;
        if self.table[index].inbox.wanted > 0 {
            if !self.table.stands_in(index, List::SmallBody) {
                self.wait_for_body(index, List::SmallBody);
            }
        } else if !self.table.stands_in(index, List::Header) {
            self.set_timer(index, List::Header, self.policy.limits.timeouts.header);
        }
    }

    /// Copies bytes into a buffer of the pool; if there is none, the slowest unfinished head has to go.
    pub(super) fn keep(&mut self, index: u32, bytes: &[u8]) -> bool {
        let taken = self.memory.pool.take().or_else(|| {
            self.free_a_buffer();
            self.memory.pool.take()
        });
        let Some(buffer) = taken else {
            return false;
        };
        self.memory.pool.bytes(buffer)[..bytes.len()].copy_from_slice(bytes);
        let connection = &mut self.table[index];
        connection.inbox.buffer = Some(buffer);
        connection.inbox.filled = bytes.len() as u32;
        true
    }

    /// Keeps what follows a request: the beginning of the next one.
    pub(super) fn keep_rest(&mut self, index: u32, rest: &[u8], source: Where) {
        if rest.is_empty() {
            self.let_go_of_buffer(index);
            return;
        }
        if source == Where::Buffer {
            let connection = &mut self.table[index];
            connection.inbox.used = connection.inbox.filled - rest.len() as u32;
        } else if !self.keep(index, rest) {
            // The next request cannot be kept, so there will be none: its client may send it again.
            self.table[index].exchange.keep_alive = false;
        }
    }
}

/// The empty lines at the start of `bytes`, and what follows them. If nothing does, the last line may be a CR
/// without its LF.
fn split_empty_lines(bytes: &[u8]) -> (&[u8], &[u8]) {
    let mut rest = bytes;
    while let [b'\r', b'\n', behind @ ..] = rest {
        rest = behind;
    }
    if rest == b"\r" {
        rest = &[];
    }
    bytes.split_at(bytes.len() - rest.len())
}
