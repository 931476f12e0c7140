//! From bytes to a submitted call: heads, bodies, and where they wait.

use super::complaints::NOT_ASKED_FOR;
use super::routes::Match;
use crate::accepting::AddressIsFull;
use crate::connection::{BodyRest, Connection, List, State};
use crate::orders::Order;
use crate::turn::Loop;
use std::io;
use std::net::SocketAddr;
use transom_doors::{AsyncClient, SlotId};
use transom_http::peer::{Client, Malformed, forwarded, is_trusted, proxy};
use transom_http::reply::CONTINUE;
use transom_http::{
    BodyFraming, ChunkDecoder, Head, Method, Note, Parsed, Refusal, TargetForm, begins_with_head,
    decode_path, parse,
};
use transom_net as net;
use transom_wire::frame::{
    EncodeError, RequestParts, encode_request, request_head, set_request_body, set_request_early,
};

/// The most fields of a request, and how many are looked for first.
const FIELDS_MAX: usize = 100;
const FIELDS_OFTEN: usize = 24;

/// Why a body that has begun cannot go on.
const NO_BUFFER: Refusal = Refusal::new(503, "no buffer for the rest of a body");

/// What a read brought.
enum Received {
    Bytes(usize),
    /// Nothing for now; an event will tell.
    Nothing,
    /// The client will send nothing more.
    End,
}

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
enum Where {
    /// In the loop's scratch: gone with the next read.
    Scratch,
    /// In the connection's own buffer.
    Buffer,
}

/// Reads, and notes whether there may be more.
fn receive(connection: &mut Connection, into: &mut [u8]) -> Received {
    loop {
        match net::receive(connection.fd, into) {
            Ok(0) => return Received::End,
            Ok(len) => {
                // A short read has emptied the socket, unless it stopped at an urgent byte or at the end of
                // the stream, of which the kernel has told us already and will not tell us again.
                if len < into.len() && !connection.urgent && !connection.half_closed {
                    connection.readable = false;
                }
                return Received::Bytes(len);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                connection.readable = false;
                return Received::Nothing;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Received::End,
        }
    }
}

impl Loop {
    /// In `Idle` or `Head`: reads and parses until the head is whole, the socket empty, or no slot free.
    pub(super) fn read_head(&mut self, index: u32) {
        if self.table[index].unparsed {
            self.parse_buffer(index);
        }
        while matches!(self.table[index].state, State::Idle | State::Head)
            && self.table[index].readable
            // Answered without a slot: the others come first.
            && !self.table[index].queued
        {
            if self.table[index].state == State::Head {
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
        if self.table[index].state == State::Body {
            self.read_body(index);
        }
    }

    /// Whether a request that has not been read yet finds no slot, whatever it is.
    fn only_doorway_is_full(&mut self, index: u32) -> bool {
        let connection = &mut self.table[index];
        let Some(only) = self.forwards[usize::from(connection.forward)].only() else {
            return false; // it has to be read, to know its doorway
        };
        connection.at.doorway = only;
        self.must_wait(index)
    }

    /// What a request is that finds no slot, as far as its first bytes say. `OPTIONS *` needs none.
    fn look_ahead(&mut self, index: u32) -> Ahead {
        let connection = &mut self.table[index];
        let mut first = [0; 64];
        match net::peek(connection.fd, &mut first) {
            // The end of the stream, or an error: the read tells, and closes.
            Ok(0) => Ahead::ForServer,
            Ok(len) => {
                let mut line = &first[..len];
                while let Some(rest) = line.strip_prefix(b"\r\n") {
                    line = rest;
                }
                // Also if it is too early to say: it is a partial head then, and costs a buffer of these.
                let len = line.len().min(FOR_SERVER.len());
                if line[..len] == FOR_SERVER[..len] {
                    Ahead::ForServer
                } else {
                    Ahead::ForHandler
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                connection.readable = false;
                Ahead::Nothing
            }
            Err(_) => Ahead::ForServer,
        }
    }

    /// Whether a new request finds no slot of its doorway, or others before it.
    fn must_wait(&self, index: u32) -> bool {
        let doorway = self.table[index].at.doorway;
        let others =
            self.table.first(List::Waiting(doorway)).is_some() && self.granted != Some(index);
        others || self.doorways[doorway].free_slots() == 0
    }

    pub(super) fn wait_for_slot(&mut self, index: u32) {
        let queue_due = self.queue_due_ms();
        let connection = &mut self.table[index];
        if connection.state == State::Idle {
            connection.arrived_ns = self.now_ns;
        }
        connection.state = State::Waiting;
        if connection.queue_due_ms == 0 {
            connection.queue_due_ms = queue_due;
        }
        let (due, arrived) = (connection.queue_due_ms, connection.arrived_ns);
        let list = List::Waiting(connection.at.doorway);
        self.note_wait(index);
        let due = self
            .deadline_ms(arrived)
            .map_or(due, |deadline| due.min(deadline));
        self.table.set_timer(index, list, due);
    }

    fn read_into_scratch(&mut self, index: u32) {
        let scratch = std::mem::take(&mut self.read_scratch);
        match receive(&mut self.table[index], scratch) {
            Received::Bytes(len) => {
                self.table[index].arrived_ns = self.now_ns;
                match self.take_proxy_header(index, &scratch[..len], Where::Scratch) {
                    Some(used) if used < len => {
                        self.note_arrival(index);
                        self.on_head_bytes(index, &scratch[used..len], Where::Scratch);
                    }
                    _ => {}
                }
            }
            Received::Nothing => self.note_silence(index),
            Received::End => self.close(index),
        }
        self.read_scratch = scratch;
    }

    /// Of a request that lies unread in the socket and will stay unread: whether its answer may have a body.
    pub(super) fn look_for_head(&mut self, index: u32) {
        if self.table[index].buffer.is_some() {
            return; // it has been read
        }
        let scratch = std::mem::take(&mut self.read_scratch);
        if let Received::Bytes(len) = receive(&mut self.table[index], scratch) {
            let connection = &mut self.table[index];
            let mut bytes = &scratch[..len];
            if connection.wants_proxy
                && let Ok(Some((len, client))) =
                    proxy::parse(bytes, self.rules.proxying.header_limit)
            {
                // The line in the access log says whom it names.
                connection.wants_proxy = false;
                match client {
                    Client::Nobody => {}
                    Client::Unknown => connection.peer = None,
                    Client::At(peer) => connection.peer = Some(peer),
                }
                bytes = &bytes[len..];
            }
            connection.head_only = begins_with_head(bytes);
        }
        self.read_scratch = scratch;
    }

    fn read_into_buffer(&mut self, index: u32) {
        let connection = &mut self.table[index];
        let Some(buffer) = connection.buffer else {
            self.close(index);
            return;
        };
        let filled = connection.buffered as usize;
        let room = &mut self.pool.bytes(buffer)[filled..];
        match receive(connection, room) {
            Received::Bytes(len) => {
                connection.buffered += len as u32;
                let new = &room[..len];
                let wanted = connection.wanted as usize;
                let worth_a_look = match wanted {
                    // A head ends in a line feed, and its first bytes may show that it is none.
                    // A proxy's header may be binary.
                    0 if connection.wants_proxy => true,
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
    fn cut_off(&mut self, index: u32) {
        match self.send_gathered(index, false) {
            Ok(false) => self.give_up_body(index, Refusal::new(400, "a request that breaks off")),
            _ => self.close(index),
        }
    }

    fn parse_buffer(&mut self, index: u32) {
        let connection = &mut self.table[index];
        connection.unparsed = false;
        let (Some(buffer), len) = (connection.buffer, connection.buffered as usize) else {
            return;
        };
        // SAFETY: the buffer's memory lives for ever, belongs to this connection, and is not written while
        // `bytes` is in use: what follows a request is moved to the start by `compact`, afterwards. A buffer
        // that is given back meanwhile is written by its next owner at the earliest after this call.
        let bytes = unsafe { &self.pool.place(buffer).as_ref()[..len] };
        let Some(used) = self.take_proxy_header(index, bytes, Where::Buffer) else {
            return;
        };
        if used == len {
            self.let_go_of_buffer(index);
            self.table[index].state = State::Idle;
            self.set_timer(index, List::Idle, self.rules.timeouts.idle);
            return;
        }
        if used > 0 {
            // The request begins where the buffer does.
            self.table[index].used = used as u32;
            self.compact(index);
            self.note_arrival(index);
            self.parse_buffer(index);
            return;
        }
        self.on_head_bytes(index, bytes, Where::Buffer);
        self.compact(index);
    }

    /// Moves what is left in a buffer to its start.
    fn compact(&mut self, index: u32) {
        let connection = &mut self.table[index];
        let (used, len) = (connection.used as usize, connection.buffered as usize);
        if let (Some(buffer), true) = (connection.buffer, used > 0) {
            self.pool.bytes(buffer).copy_within(used..len, 0);
            connection.buffered = (len - used) as u32;
        }
        connection.used = 0;
    }

    /// Takes the header that a proxy sends first, if one is due: how many bytes it has. `None` if the rest of
    /// it has to come, or the connection was closed because it is none.
    fn take_proxy_header(&mut self, index: u32, bytes: &[u8], source: Where) -> Option<usize> {
        if !self.table[index].wants_proxy {
            return Some(0);
        }
        match proxy::parse(bytes, self.rules.proxying.header_limit) {
            Ok(Some((len, client))) => {
                let connection = &mut self.table[index];
                connection.wants_proxy = false;
                match client {
                    Client::Nobody => {}
                    Client::Unknown => (connection.peer, connection.trusted) = (None, false),
                    Client::At(peer) => {
                        connection.peer = Some(peer);
                        connection.trusted =
                            is_trusted(&self.rules.proxying.trust, Some(peer.ip()));
                        let trusted = connection.trusted;
                        match self.count_address(Some(peer), trusted) {
                            Ok(counted) => self.table[index].counted = counted,
                            Err(AddressIsFull) => {
                                self.close(index);
                                return None;
                            }
                        }
                    }
                }
                Some(len)
            }
            Ok(None) => {
                self.keep_head(index, bytes, source);
                None
            }
            Err(Malformed(why)) => {
                self.stats.proxy_refused.bump();
                let peer = self.table[index].peer;
                self.complaints.note(why, peer, self.now_ms);
                self.close(index);
                None
            }
        }
    }

    /// Where a request comes from: its connection's other end or, if that is a proxy that is believed, whom
    /// it names.
    fn peer(&self, index: u32, head: &Head<'_, '_>) -> Option<SocketAddr> {
        match self.named_client(index, head) {
            Ok(peer) => peer,
            Err(Malformed(why)) => {
                tracing::debug!(
                    why,
                    "a proxy has named its client in a way that makes no sense"
                );
                self.stats.forwarded_ignored.bump();
                self.table[index].peer
            }
        }
    }

    /// As `peer`, and an error for a proxy that makes no sense.
    pub(super) fn named_client(
        &self,
        index: u32,
        head: &Head<'_, '_>,
    ) -> Result<Option<SocketAddr>, Malformed> {
        let connection = &self.table[index];
        let Some(which) = self.rules.proxying.forwarded.filter(|_| connection.trusted) else {
            return Ok(connection.peer);
        };
        let fields = head.fields.iter().map(|field| (field.name, field.value));
        Ok(
            match forwarded::client(which, &self.rules.proxying.trust, fields)? {
                Client::Nobody => connection.peer,
                Client::Unknown => None,
                Client::At(peer) => Some(peer),
            },
        )
    }

    fn on_head_bytes(&mut self, index: u32, bytes: &[u8], source: Where) {
        // Few requests have more fields than this, and clearing a table for all that there may be costs as
        // much as reading a short head.
        let mut fields = [transom_http::EMPTY_HEADER; FIELDS_OFTEN];
        let parsed = parse(bytes, &self.limits, &mut fields);
        if matches!(&parsed, Err(refusal) if refusal.status == 431) {
            let mut fields = [transom_http::EMPTY_HEADER; FIELDS_MAX];
            let parsed = parse(bytes, &self.limits, &mut fields);
            self.on_parsed(index, parsed, bytes, source);
        } else {
            self.on_parsed(index, parsed, bytes, source);
        }
    }

    fn on_parsed(
        &mut self,
        index: u32,
        parsed: Result<Parsed<'_, '_>, Refusal>,
        bytes: &[u8],
        source: Where,
    ) {
        match parsed {
            Ok(Parsed::Partial) => {
                // It may be cut by a timer, or to make room.
                self.table[index].head_only = begins_with_head(bytes);
                self.keep_head(index, bytes, source);
            }
            Ok(Parsed::Complete(head)) => self.on_head(index, &head, bytes, source),
            Err(refusal) => {
                // Also an answer to a HEAD that is refused has no body.
                self.table[index].head_only = begins_with_head(bytes);
                self.note_no_head(index, bytes);
                self.note_unread_proxy_header(index, bytes);
                self.refuse_with_reason(index, refusal);
            }
        }
    }

    /// Says so if a connection begins with a header that only `--proxy-protocol require` reads.
    fn note_unread_proxy_header(&mut self, index: u32, bytes: &[u8]) {
        let connection = &self.table[index];
        if connection.requests == 0 && !self.rules.proxying.required && proxy::is_begun(bytes) {
            let peer = connection.peer;
            self.complaints.note(NOT_ASKED_FOR, peer, self.now_ms);
        }
    }

    /// Whether a body is not all there yet, and fits a buffer of the pool together with its head.
    fn body_may_wait(&self, here: usize, head_len: usize, len: u64) -> bool {
        (here as u64) < len && head_len as u64 + len <= self.limits.head_max as u64
    }

    fn refuse_with_reason(&mut self, index: u32, refusal: Refusal) {
        tracing::debug!(
            status = refusal.status,
            why = refusal.why,
            "a request was refused"
        );
        self.refuse(index, refusal.status);
    }

    /// Keeps an unfinished head, or a whole one whose body is on its way.
    fn keep_head(&mut self, index: u32, bytes: &[u8], source: Where) {
        if self.order >= Order::Drain && self.table[index].wanted == 0 {
            self.cut_head(index);
            return;
        }
        if source == Where::Scratch && !self.keep(index, bytes) {
            // No buffer can be had: all are with requests that have a slot or wait for one.
            self.note_no_head(index, bytes);
            self.refuse(index, 503);
            return;
        }
        self.table[index].state = State::Head;
        // A wait for a slot may be behind it. From here on its client is waited for, and the next one is
        // another.
        self.table[index].queue_due_ms = 0;
        if self.table[index].wanted > 0 {
            if !self.table.stands_in(index, List::SmallBody) {
                self.wait_for_body(index, List::SmallBody);
            }
        } else if !self.table.stands_in(index, List::Header) {
            self.set_timer(index, List::Header, self.rules.timeouts.header);
        }
    }

    /// Copies bytes into a buffer of the pool; if there is none, the slowest unfinished head has to go.
    fn keep(&mut self, index: u32, bytes: &[u8]) -> bool {
        let taken = self.pool.take().or_else(|| {
            self.free_a_buffer();
            self.pool.take()
        });
        let Some(buffer) = taken else {
            return false;
        };
        self.pool.bytes(buffer)[..bytes.len()].copy_from_slice(bytes);
        let connection = &mut self.table[index];
        connection.buffer = Some(buffer);
        connection.buffered = bytes.len() as u32;
        true
    }

    /// Keeps what follows a request: the beginning of the next one.
    fn keep_rest(&mut self, index: u32, rest: &[u8], source: Where) {
        if rest.is_empty() {
            self.let_go_of_buffer(index);
            return;
        }
        if source == Where::Buffer {
            let connection = &mut self.table[index];
            connection.used = connection.buffered - rest.len() as u32;
        } else if !self.keep(index, rest) {
            // The next request cannot be kept, so there will be none: its client may send it again.
            self.table[index].keep_alive = false;
        }
    }

    /// A whole head: takes a slot and puts the request into it.
    fn on_head(&mut self, index: u32, head: &Head<'_, '_>, bytes: &[u8], source: Where) {
        self.note_head(index, head);
        let rest = &bytes[head.head_len..];
        let (pace, now) = (self.rules.body_pace_limit, self.now_ns);
        let connection = &mut self.table[index];
        connection.minor = head.version_minor;
        connection.keep_alive = head.keep_alive;
        connection.is_last = !head.keep_alive;
        connection.head_only = head.method_text == "HEAD";
        connection.expect_continue = head.expect_continue;
        connection.body_pace.begin(pace, now);
        connection.body = match head.body {
            BodyFraming::None => BodyRest::Length(0),
            BodyFraming::Length(len) => BodyRest::Length(len),
            BodyFraming::Chunked => BodyRest::Chunked(ChunkDecoder::new(self.rules.body_limit)),
        };
        if matches!(head.body, BodyFraming::Length(len) if len > self.rules.body_limit) {
            self.refuse(index, 413);
            return;
        }
        if head.form == TargetForm::Asterisk {
            // For the server as a whole: no slot, no bucket.
            self.answer_unrouted(index, 204, Some(Note::AllowAll), rest, source);
            return;
        }
        let doorway = match self.route(index, head) {
            Ok(Match::Doorway(doorway)) => doorway,
            Ok(Match::OtherMethod(allow)) => {
                self.table[index].keep_alive &= head.method != Method::Other;
                let note = allow.map(Note::Allow);
                // A 405 says what is allowed instead (RFC 9110 §15.5.6).
                let status = if note.is_some() { 405 } else { 404 };
                self.answer_unrouted(index, status, note, rest, source);
                return;
            }
            Ok(Match::Nothing) => {
                self.table[index].keep_alive &= head.method != Method::Other;
                self.answer_unrouted(index, 404, None, rest, source);
                return;
            }
            Err(refusal) => {
                self.refuse_with_reason(index, refusal);
                return;
            }
        };
        self.table[index].at.doorway = doorway;
        self.note_doorway(index, doorway);
        if let BodyFraming::Length(len) = head.body
            && self.body_may_wait(rest.len(), head.head_len, len)
            && !self.asks_first(index)
        {
            // A body that trickles in costs a buffer, not a slot.
            self.table[index].wanted = (head.head_len as u64 + len) as u32;
            self.keep_head(index, bytes, source);
            return;
        }
        self.table[index].wanted = 0;
        let reserved = if self.must_wait(index) {
            None
        } else {
            self.doorways.reserve(doorway, index)
        };
        let Some((at, slot)) = reserved else {
            if source == Where::Scratch && !self.keep(index, bytes) {
                self.refuse(index, 503);
                return;
            }
            self.table[index].unparsed = true;
            self.table[index].state = State::Head;
            self.wait_for_slot(index);
            return;
        };
        self.table[index].at = at;
        self.table[index].slot = Some(slot);
        self.note_slot(index);
        match self.write_frame(index, slot, head, bytes) {
            Ok(body_at) => {
                let connection = &mut self.table[index];
                (connection.body_at, connection.body_len) = (body_at as u32, 0);
                self.begin_body(index, slot, rest, source);
            }
            Err(refusal) => {
                self.let_go_of_slot(index);
                self.refuse_with_reason(index, refusal);
            }
        }
    }

    /// The doorway that a request is for.
    fn route(&mut self, index: u32, head: &Head<'_, '_>) -> Result<Match, Refusal> {
        let routes = &self.forwards[usize::from(self.table[index].forward)];
        if let Some(only) = routes.only() {
            return Ok(Match::Doorway(only));
        }
        let path = &mut self.write_scratch[..];
        let len = decode_path(head.path.as_bytes(), path)?;
        Ok(routes.find(head.method_text, &path[..len]))
    }

    /// Answers what no application is asked for. A body that is not here is not waited for.
    fn answer_unrouted(
        &mut self,
        index: u32,
        status: u16,
        note: Option<Note>,
        rest: &[u8],
        source: Where,
    ) {
        let connection = &mut self.table[index];
        if !connection.body.is_empty() {
            connection.keep_alive = false;
        }
        self.keep_rest(index, rest, source);
        self.answer(index, status, note);
    }

    /// Whether the application is asked what to do about the present request before its body is there: some
    /// handler may take that as it comes, and a client that waits to be asked for its body may be told
    /// something else.
    fn asks_first(&self, index: u32) -> bool {
        let connection = &self.table[index];
        !connection.body_first
            && (connection.expect_continue || self.doorways[connection.at.doorway].may_stream())
    }

    fn write_frame(
        &mut self,
        index: u32,
        slot: SlotId,
        head: &Head<'_, '_>,
        bytes: &[u8],
    ) -> Result<usize, Refusal> {
        let peer = self.peer(index, head);
        let path = &mut self.write_scratch[..];
        let path_len = decode_path(head.path.as_bytes(), path)?;
        let parts = RequestParts {
            head: &bytes[..head.head_len],
            method: head.method_text.as_bytes(),
            target: head.target.as_bytes(),
            path: &path[..path_len],
            query: head.query.map(str::as_bytes),
            host: Some(head.host.as_bytes()).filter(|host| !host.is_empty()),
            minor: head.version_minor,
            peer,
            head_only: self.table[index].head_only,
            content_length: match head.body {
                BodyFraming::None => Some(0),
                BodyFraming::Length(len) => Some(len),
                BodyFraming::Chunked => None,
            },
        };
        let fields = head
            .fields
            .iter()
            .map(|field| (field.name.as_bytes(), field.value));
        let at = self.table[index].at;
        let request = self.doorways[at].client_mut().request_mut(slot);
        match encode_request(request, &parts, fields) {
            Ok(encoded) => Ok(encoded.body_offset),
            Err(EncodeError::TooLarge(_)) => {
                Err(Refusal::new(431, "the head does not fit its slot"))
            }
            Err(EncodeError::OutsideHead) => Err(Refusal::new(
                500,
                "the parser gave a part that is not of the head",
            )),
        }
    }

    /// Takes what is there of the body, and submits the call or waits for the rest.
    fn begin_body(&mut self, index: u32, slot: SlotId, rest: &[u8], source: Where) {
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
            Ok(true) => {
                matches!(net::send(self.table[index].fd, CONTINUE), Ok(len) if len == CONTINUE.len())
            }
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
            return match receive(connection, &mut room[..most]) {
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
        let go_on = match receive(&mut self.table[index], scratch) {
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
    fn give_up_body(&mut self, index: u32, refusal: Refusal) {
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

    fn submit(&mut self, index: u32, slot: SlotId) {
        let connection = &mut self.table[index];
        let (body_at, body_len) = (connection.body_at as usize, connection.body_len as usize);
        connection.body_pace.pause(self.now_ns);
        let request = self.doorways[connection.at].client_mut().request_mut(slot);
        set_request_body(request, body_len, connection.streamed);
        if connection.early {
            set_request_early(request); // counted once it is known that a handler has it
        } else {
            self.stats.requests.bump();
        }
        self.submit_slot(index, slot, body_at + body_len);
    }

    /// Submits a slot that has been filled.
    pub(super) fn submit_slot(&mut self, index: u32, slot: SlotId, len: usize) {
        let deadline_ms = self.deadline_ms(self.table[index].arrived_ns);
        let queue_due = self.queue_due_ms();
        let connection = &mut self.table[index];
        connection.state = State::Calling;
        if connection.queue_due_ms == 0 {
            connection.queue_due_ms = queue_due; // else all waits share one timeout
        }
        let queue_due = connection.queue_due_ms;
        let instance = &mut self.doorways[connection.at];
        let deadline_ns = deadline_ms.unwrap_or(0) * 1_000_000;
        instance.client_mut().submit(slot, len, deadline_ns);
        let due = deadline_ms.map_or(queue_due, |deadline| queue_due.min(deadline));
        self.table.set_timer(index, List::Submitted, due);
    }

    /// The call is with a handler: from here on only the deadline counts. It runs from the request's arrival
    /// to the beginning of the answer; for what is streamed, from one piece to the next.
    pub(super) fn watch_deadline(&mut self, index: u32) {
        let connection = &self.table[index];
        let began = if connection.head_sent || connection.streamed {
            self.now_ns
        } else {
            connection.arrived_ns
        };
        match self.deadline_ms(began) {
            Some(due) => self.table.set_timer(index, List::Deadline, due),
            None => self.table.unlink(index),
        }
    }
}

/// Bytes of a slot from a body's place on.
fn room(client: &AsyncClient, body_at: u32) -> usize {
    client.geometry().request_size - body_at as usize
}
