//! From a head to a submitted call: where a request goes, and how it gets into a slot.

use crate::exchange::{BodyRest, Delivery, Expects, State};
use crate::lists::List;
use crate::reading::Where;
use crate::routes::Match;
use crate::turn::Loop;
use crate::world::{Caller, World};
use std::sync::atomic::AtomicU64;
use transom_doors::SlotId;
use transom_http::{
    BodyFraming, ChunkDecoder, Head, Method, Note, Parsed, Refusal, TargetForm, begins_with_head,
    decode_path, parse,
};
use transom_wire::frame::{
    EncodeError, RequestParts, TooLarge, encode_request, set_request_body, set_request_early,
};
use transom_wire::own_log::{error, is_time_to_say, warn};

/// The most fields of a request, and how many are looked for first.
const FIELDS_MAX: usize = 100;
const FIELDS_OFTEN: usize = 24;

impl<W: World> Loop<W> {
    pub(super) fn on_head_bytes(&mut self, index: u32, bytes: &[u8], source: Where) {
        // Few requests have more fields than this, and clearing a table for all that there may be costs as
        // much as reading a short head.
        let mut fields = [transom_http::EMPTY_HEADER; FIELDS_OFTEN];
        let parsed = parse(bytes, &self.policy.heads, &mut fields);
        if matches!(&parsed, Err(refusal) if refusal.status == 431) {
            let mut fields = [transom_http::EMPTY_HEADER; FIELDS_MAX];
            let parsed = parse(bytes, &self.policy.heads, &mut fields);
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
            Ok(Parsed::Partial) if self.stays_idle(index, bytes) => {}
            Ok(Parsed::Partial) => {
                // It may be cut by a timer, or to make room.
                self.table[index].exchange.head_only = begins_with_head(bytes);
                self.keep_head(index, bytes, source);
            }
            Ok(Parsed::Complete(head)) => self.on_head(index, &head, bytes, source),
            Err(refusal) => {
                // Also an answer to a HEAD that is refused has no body.
                self.table[index].exchange.head_only = begins_with_head(bytes);
                self.note_no_head(index, bytes);
                self.note_unread_proxy_header(index, bytes);
                self.refuse_with_reason(index, refusal);
            }
        }
    }

    /// Whether a body is not all there yet, and fits a buffer of the pool together with its head.
    fn body_may_wait(&self, here: usize, head_len: usize, len: u64) -> bool {
        (here as u64) < len && head_len as u64 + len <= self.policy.heads.head_max as u64
    }

    pub(super) fn refuse_with_reason(&mut self, index: u32, refusal: Refusal) {
        tracing::debug!(
            status = refusal.status,
            why = refusal.why,
            "a request was refused"
        );
        self.refuse(index, refusal.status);
    }

    /// A whole head: takes a slot and puts the request into it.
    fn on_head(&mut self, index: u32, head: &Head<'_, '_>, bytes: &[u8], source: Where) {
        self.note_head(index, head);
        let rest = &bytes[head.head_len..];
        self.begin_request(index, head);
        if matches!(head.body, BodyFraming::Length(len) if len > self.policy.limits.body_limit) {
            self.refuse(index, 413);
            return;
        }
        if head.form == TargetForm::Asterisk {
            // For the server as a whole: no slot, no bucket.
            self.answer_unrouted(index, 204, Some(Note::AllowAll), rest, source);
            return;
        }
        let path_len = match decode_path(head.path.as_bytes(), self.memory.write) {
            Ok(path_len) => path_len,
            Err(refusal) => return self.refuse_with_reason(index, refusal),
        };
        match self.route(index, head, path_len) {
            Match::Doorway(doorway) => {
                self.table[index].exchange.at.doorway = doorway;
                self.place_request(index, head, bytes, source, path_len);
            }
            Match::OtherMethod(allow) => {
                self.table[index].exchange.keep_alive &= head.method != Method::Other;
                let note = allow.map(Note::Allow);
                // A 405 says what is allowed instead (RFC 9110 §15.5.6).
                let status = if note.is_some() { 405 } else { 404 };
                self.answer_unrouted(index, status, note, rest, source);
            }
            Match::Nothing => {
                self.table[index].exchange.keep_alive &= head.method != Method::Other;
                self.answer_unrouted(index, 404, None, rest, source);
            }
        }
    }

    /// Notes what a head says of its request.
    fn begin_request(&mut self, index: u32, head: &Head<'_, '_>) {
        let now = self.clock.now_ns;
        let exchange = &mut self.table[index].exchange;
        exchange.minor = head.version_minor;
        exchange.keep_alive = head.keep_alive;
        exchange.is_last = !head.keep_alive;
        exchange.head_only = head.method_text == "HEAD";
        exchange.upload.expects = match (exchange.upload.expects, head.expect_continue) {
            (Expects::Asked, _) => Expects::Asked,
            (_, true) => Expects::ToBeAsked,
            (_, false) => Expects::Nothing,
        };
        exchange.upload.pace.begin(now);
        exchange.upload.rest = match head.body {
            BodyFraming::None => BodyRest::Length(0),
            BodyFraming::Length(len) => BodyRest::Length(len),
            BodyFraming::Chunked => {
                BodyRest::Chunked(ChunkDecoder::new(self.policy.limits.body_limit))
            }
        };
    }

    /// Puts a request into a slot of its doorway, or into a buffer if it has to wait. Its decoded path has so
    /// many bytes, in the scratch for writing.
    fn place_request(
        &mut self,
        index: u32,
        head: &Head<'_, '_>,
        bytes: &[u8],
        source: Where,
        path_len: usize,
    ) {
        let rest = &bytes[head.head_len..];
        let doorway = self.table[index].exchange.at.doorway;
        self.note_doorway(index, doorway);
        if let BodyFraming::Length(len) = head.body
            && self.body_may_wait(rest.len(), head.head_len, len)
            && !self.asks_first(index)
        {
            // A body that trickles in costs a buffer, not a slot.
            self.table[index].inbox.wanted = (head.head_len as u64 + len) as u32;
            self.keep_head(index, bytes, source);
            return;
        }
        self.table[index].inbox.wanted = 0;
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
            self.table[index].inbox.unparsed = true;
            self.table[index].exchange.state = State::Head;
            self.wait_for_slot(index);
            return;
        };
        self.table[index].exchange.at = at;
        self.table[index].exchange.state = State::Filling { slot };
        self.note_slot(index);
        match self.write_frame(index, slot, head, bytes, path_len) {
            Ok(body_at) => {
                let upload = &mut self.table[index].exchange.upload;
                (upload.at, upload.len) = (body_at as u32, 0);
                self.begin_body(index, slot, rest, source);
            }
            Err(refusal) => {
                self.let_go_of_slot(index);
                self.refuse_with_reason(index, refusal);
            }
        }
    }

    /// The doorway that a request is for.
    fn route(&self, index: u32, head: &Head<'_, '_>, path_len: usize) -> Match {
        let routes = &self.policy.forwards[usize::from(self.table[index].transport.forward)];
        match routes.only() {
            Some(only) => Match::Doorway(only),
            None => routes.find(head.method_text, &self.memory.write[..path_len]),
        }
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
        if !connection.exchange.upload.rest.is_empty() {
            connection.exchange.keep_alive = false;
        }
        self.keep_rest(index, rest, source);
        self.answer(index, status, note);
    }

    /// Whether the application is asked what to do about the present request before its body is there: some
    /// handler may take that as it comes, and a client that waits to be asked for its body may be told
    /// something else.
    pub(super) fn asks_first(&self, index: u32) -> bool {
        let exchange = &self.table[index].exchange;
        let upload = &exchange.upload;
        upload.delivery != Delivery::WholeAsAsked
            && (upload.expects == Expects::ToBeAsked
                || self.doorways[exchange.at.doorway].may_stream())
    }

    fn write_frame(
        &mut self,
        index: u32,
        slot: SlotId,
        head: &Head<'_, '_>,
        bytes: &[u8],
        path_len: usize,
    ) -> Result<usize, Refusal> {
        let peer = self.peer(index, head);
        let parts = RequestParts {
            head: &bytes[..head.head_len],
            method: head.method_text.as_bytes(),
            target: head.target.as_bytes(),
            path: &self.memory.write[..path_len],
            query: head.query.map(str::as_bytes),
            host: Some(head.host.as_bytes()).filter(|host| !host.is_empty()),
            minor: head.version_minor,
            peer,
            head_only: self.table[index].exchange.head_only,
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
        let at = self.table[index].exchange.at;
        let request = self.doorways[at].client_mut().request_mut(slot);
        match encode_request(request, &parts, fields) {
            Ok(encoded) => Ok(encoded.body_offset),
            Err(EncodeError::TooLarge(TooLarge { needed })) => {
                let (doorway, size) = (at.doorway, request.len());
                self.say_once_a_second(|| {
                    warn!(
                        doorway,
                        needed,
                        size,
                        "a head does not fit the slots of its application: raise --request-size there"
                    );
                });
                Err(Refusal::new(431, "the head does not fit its slot"))
            }
            Err(EncodeError::OutsideHead) => {
                self.say_once_a_second(|| error!("a head was parsed wrongly: this is a bug"));
                let why = "the parser gave a part that is not of the head";
                Err(Refusal::new(500, why))
            }
        }
    }

    /// Says what any client, or any application, may cause again and again.
    pub(super) fn say_once_a_second(&self, say: impl FnOnce()) {
        static SAID_MS: AtomicU64 = AtomicU64::new(0);
        if is_time_to_say(&SAID_MS, self.clock.now_ms, 1000) {
            say();
        }
    }

    pub(super) fn submit(&mut self, index: u32, slot: SlotId) {
        let exchange = &mut self.table[index].exchange;
        let upload = &mut exchange.upload;
        let (body_at, body_len) = (upload.at as usize, upload.len as usize);
        upload.pace.pause(self.clock.now_ns);
        let request = self.doorways[exchange.at].client_mut().request_mut(slot);
        set_request_body(request, body_len, upload.is_streamed());
        if upload.delivery == Delivery::Early {
            set_request_early(request); // counted once it is known that a handler has it
        } else {
            self.stats.requests.bump();
        }
        self.submit_slot(index, slot, body_at + body_len);
    }

    /// Submits a slot that has been filled.
    pub(super) fn submit_slot(&mut self, index: u32, slot: SlotId, len: usize) {
        let deadline_ms = self.deadline_ms(self.table[index].exchange.arrived_ns);
        let queue_due = self.queue_due_ms();
        let exchange = &mut self.table[index].exchange;
        exchange.state = State::Calling { slot };
        if exchange.queue_due_ms == 0 {
            exchange.queue_due_ms = queue_due; // else all waits share one timeout
        }
        let queue_due = exchange.queue_due_ms;
        let instance = &mut self.doorways[exchange.at];
        let deadline_ns = deadline_ms.unwrap_or(0) * 1_000_000;
        instance.client_mut().submit(slot, len, deadline_ns);
        let due = deadline_ms.map_or(queue_due, |deadline| queue_due.min(deadline));
        self.table.set_timer(index, List::Submitted, due);
    }

    /// The call is with a handler: from here on only the deadline counts. It runs from the request's arrival
    /// to the beginning of the answer; for what is streamed, from one piece to the next.
    pub(super) fn watch_deadline(&mut self, index: u32) {
        let exchange = &self.table[index].exchange;
        let began = if exchange.reply.is_sending() || exchange.upload.is_streamed() {
            self.clock.now_ns
        } else {
            exchange.arrived_ns
        };
        match self.deadline_ms(began) {
            Some(due) => self.table.set_timer(index, List::Deadline, due),
            None => self.table.unlink(index),
        }
    }
}
