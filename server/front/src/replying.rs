//! From a completed call to bytes on the wire.
//!
//! What lies in a reply slot was written by the application, perhaps in another process: it is an allegation
//! until its frame has been decoded and its fields validated. Framing is the front end's alone.

use super::gathering::Outcome;
use super::output::{Way, copy_fields, put_framing, tell_of_change};
use crate::connection::Connection;
use crate::entrance::InstanceId;
use crate::exchange::{Answer, Delivery, Exchange, Reply, ReplyBody, State};
use crate::turn::Loop;
use crate::world::{Caller, World};
use transom_doors::{Completion, Kind, SlotId, Status};
use transom_http::framing::framing;
use transom_http::reply::head;
use transom_http::{BodySize, Fate, FieldFacts, Note, ReplyFraming, validate_fields};
use transom_wire::frame::{
    PIECE_HEADER_LEN, REPLY_HEADER_LEN, ReplyHead, decode_piece_head, decode_reply_head, interim,
    outcome,
};
use transom_wire::own_log::error;

/// Why an application's reply is not sent.
#[derive(Debug, thiserror::Error)]
enum BadReply {
    #[error(transparent)]
    Frame(#[from] transom_wire::frame::FrameError),
    #[error(transparent)]
    Field(#[from] transom_http::FieldError),
    #[error("the reply's body is shorter than the length it states")]
    Short,
    #[error("the reply's fields are larger than what is checked of another process's reply")]
    FieldsTooLarge,
}

impl BadReply {
    /// The status in its place: what cannot have come from the library that the application should be built
    /// on is no reply at all.
    fn status(&self, remote: bool) -> u16 {
        match self {
            BadReply::Frame(_) | BadReply::FieldsTooLarge if remote => 502,
            _ => 500,
        }
    }
}

impl Exchange {
    /// How an answer is framed, and what is known of its body, `last` if all of it is there. From then on the
    /// connection goes on if that, `keep_alive` and the status allow it.
    fn begin_reply(
        &mut self,
        reply: &ReplyHead,
        facts: &FieldFacts,
        last: bool,
        keep_alive: bool,
    ) -> Result<(ReplyFraming, ReplyBody), BadReply> {
        let bodiless = self.head_only || matches!(reply.status, 204 | 304);
        let has_body = !bodiless;
        let here = reply.body.len() as u64;
        if last && has_body && reply.content_length.is_some_and(|whole| whole != here) {
            return Err(BadReply::Short);
        }
        let size = match reply.content_length {
            Some(whole) => BodySize::Known(whole),
            None if last && !self.head_only => BodySize::Known(here),
            None => BodySize::Streamed,
        };
        let size = if matches!(reply.status, 204 | 304) {
            BodySize::Known(0)
        } else {
            size
        };
        let framing = framing(reply.status, self.head_only, self.minor, size, facts)?;
        let chunked = framing == ReplyFraming::Chunked && has_body;
        let owed = match (framing, size) {
            (ReplyFraming::Length(len), _) if has_body => Some(len - here.min(len)),
            (ReplyFraming::Stated, BodySize::Known(len)) if has_body => Some(len - here.min(len)),
            _ => None,
        };
        // A method that is not known may mean anything for what follows its head.
        let is_known = reply.status != 501;
        self.keep_alive = keep_alive && is_known && framing != ReplyFraming::UntilClose;
        let body = ReplyBody {
            bodiless,
            chunked,
            owed,
        };
        Ok((framing, body))
    }
}

/// Whether the end of an answer may stay with the kernel until the next answer joins it: its client has sent
/// more requests at once. One segment for several answers costs half of what one for each does.
fn may_hold(connection: &Connection) -> bool {
    let exchange = &connection.exchange;
    let is_end = matches!(
        exchange.state,
        State::Writing(Answer::OfSlot { last: true, .. })
    );
    is_end
        && exchange.keep_alive
        && connection.inbox.buffer.is_some()
        // What is left of its own body is no request, and its answer is the last one.
        && exchange.upload.rest.is_empty()
}

impl<W: World> Loop<W> {
    /// Takes what the door has completed; false if that was nothing.
    pub(super) fn collect_completions(&mut self) -> bool {
        let mut any = false;
        for at in self.doorways.instances() {
            any |= self.collect_completions_of(at);
        }
        any
    }

    /// As [`Loop::collect_completions`], of one instance.
    pub(super) fn collect_completions_of(&mut self, at: InstanceId) -> bool {
        let instance = &mut self.doorways[at];
        let Some(client) = instance.client.as_mut().filter(|_| !instance.gone) else {
            return false;
        };
        let completions = &mut self.memory.completions;
        client.drain(|slot, completion| completions.push((slot, completion)));
        if self.memory.completions.is_empty() {
            return false;
        }
        let mut completions = std::mem::take(&mut self.memory.completions);
        for (slot, completion) in completions.drain(..) {
            self.on_completion(at, slot, completion);
        }
        self.memory.completions = completions;
        true
    }

    fn on_completion(&mut self, at: InstanceId, slot: SlotId, completion: Completion) {
        let index = self.doorways[at].calls.owners[slot.index()];
        let exchange = &mut self.table[index].exchange;
        debug_assert_eq!(
            (exchange.at, exchange.slot()),
            (at, Some(slot)),
            "abandoned calls do not come back"
        );
        let is_piece = matches!(completion.kind, Kind::Interim(_));
        if let (true, Reply::None) = (is_piece, exchange.reply) {
            exchange.reply = Reply::Begun;
        }
        if !is_piece {
            // Something goes on there, and its thread takes the next call.
            self.doorways.pressure[usize::from(at.doorway)].due_ms = 0;
            self.doorways[at].stuck = None;
        }
        if self.wants_body_first(index, completion) {
            if completion.status.0 == outcome::BODIES_FIRST {
                self.doorways[at].calls.may_stream = false;
            }
            self.on_body_first(index, slot);
            return;
        }
        self.count_early(index);
        match completion.kind {
            Kind::Interim(interim::WANT_BODY) => self.want_body(index, slot),
            Kind::Interim(_) => self.on_reply(index, slot, false),
            Kind::Final if completion.status == Status(outcome::OK) => {
                self.on_reply(index, slot, true);
            }
            // Of a lost call nothing is read, whatever its status says.
            Kind::Final | Kind::Lost => self.on_failure(index, slot, completion.status.0),
        }
    }

    /// Whether a call that was submitted before its body has come back unrun, and is to come again with that.
    /// Only what was asked is answered so.
    fn wants_body_first(&self, index: u32, completion: Completion) -> bool {
        completion.kind == Kind::Final
            && matches!(
                completion.status.0,
                outcome::BODY_FIRST | outcome::BODIES_FIRST
            )
            && self.table[index].exchange.upload.delivery == Delivery::Early
    }

    /// The handler has no answer.
    fn on_failure(&mut self, index: u32, slot: SlotId, status: u32) {
        self.note_failure(index, outcome::diagnostic(status));
        if outcome::diagnostic(status).is_none() && Status(status) != Status::DATA_MAX {
            // What has one is said where the handler runs.
            let doorway = self.table[index].exchange.at.doorway;
            self.say_once_a_second(|| {
                error!(doorway, status, "a door has ended a call without an answer");
            });
        }
        let exchange = &mut self.table[index].exchange;
        self.doorways[exchange.at].client_mut().release(slot);
        exchange.state = State::Idle;
        if exchange.reply.is_sending() {
            // Half an answer is out. Only the connection's end can say that the rest will not come.
            self.stats.answered(500);
            self.close_politely(index);
            return;
        }
        let note = match outcome::diagnostic(status) {
            Some("bucket-exhausted") => Some(Note::BucketExhausted),
            Some("handler-panicked") => Some(Note::HandlerPanicked),
            _ => None,
        };
        // A door between processes speaks for any process that has attached there.
        let remote = self.doorways[self.table[index].exchange.at.doorway].is_remote();
        let status = match Status(status) {
            Status::DATA_MAX => 413, // the door takes less than its slots could hold
            _ if !remote || outcome::diagnostic(status).is_some() => 500,
            _ => 502,
        };
        self.answer(index, status, note);
    }

    /// A reply, its first part, or a piece of it lies in the slot.
    fn on_reply(&mut self, index: u32, slot: SlotId, last: bool) {
        // A handler that begins its answer and goes on may read the body later, when it is too late to ask
        // for it.
        if !last && !self.ask_to_continue(index) {
            return;
        }
        if !self.renew_taker(index) {
            return;
        }
        // The one that waits for the slot after an interim part is a handler; see `let_go_of_slot`.
        self.table[index].exchange.state = State::Writing(Answer::OfSlot { slot, last });
        let composed = match self.table[index].exchange.reply {
            Reply::Sending(body) => self.compose_piece(index, slot, last, body),
            Reply::None | Reply::Begun => self.compose_head(index, slot, last),
        };
        match composed {
            Ok(body) => {
                self.table[index].exchange.reply = Reply::Sending(body);
                self.go_on_writing(index);
            }
            Err(error) => {
                error!(%error, "an application's reply cannot be sent");
                self.let_go_of_slot(index);
                if self.table[index].exchange.reply.is_sending() {
                    self.close_politely(index);
                } else {
                    let remote = self.doorways[self.table[index].exchange.at.doorway].is_remote();
                    self.answer(index, error.status(remote), None);
                }
            }
        }
    }

    fn compose_head(
        &mut self,
        index: u32,
        slot: SlotId,
        last: bool,
    ) -> Result<ReplyBody, BadReply> {
        let connection = &self.table[index];
        let keep_alive = match last {
            true => self.may_keep_alive(connection),
            false => self.would_keep_alive(connection), // the handler may be reading its body as it answers
        };
        let exchange = &mut self.table[index].exchange;
        let remote = self.doorways[exchange.at.doorway].is_remote();
        let (client, output) = self.doorways[exchange.at].writing(slot);
        let (reply, facts) = if remote {
            let mut first = [0; REPLY_HEADER_LEN];
            let len = client.copy_reply(slot, 0, &mut first);
            let reply = decode_reply_head(&first[..len], client.reply_bytes(slot).len())?;
            let fields = copy_fields(client, slot, &reply.fields, self.memory.write);
            let facts = validate_fields(fields.ok_or(BadReply::FieldsTooLarge)?)?;
            (reply, facts)
        } else {
            let bytes = client.reply(slot);
            let reply = decode_reply_head(bytes, bytes.len())?;
            let facts = validate_fields(&bytes[reply.fields.clone()])?;
            (reply, facts)
        };
        let (framing, of_reply) = exchange.begin_reply(&reply, &facts, last, keep_alive)?;
        let fate = Fate::after(exchange.keep_alive, exchange.minor);
        let date = (!facts.has_date).then_some(&self.clock.date);

        output.clear();
        output.start_len = head(&mut output.start, reply.status, framing, fate, date);
        output.fields = reply.fields;
        output.put_middle(b"\r\n");
        if !of_reply.bodiless {
            output.body = reply.body;
        }
        put_framing(output, of_reply.chunked, last);
        self.stats.replied(reply.status);
        self.note_status(index, reply.status);
        Ok(of_reply)
    }

    fn compose_piece(
        &mut self,
        index: u32,
        slot: SlotId,
        last: bool,
        mut of_reply: ReplyBody,
    ) -> Result<ReplyBody, BadReply> {
        let exchange = &mut self.table[index].exchange;
        let (client, output) = self.doorways[exchange.at].writing(slot);
        // The same for every door: what is believed of a piece is copied first, and is 8 bytes.
        let mut first = [0; PIECE_HEADER_LEN];
        let header_len = client.copy_reply(slot, 0, &mut first);
        let total = client.reply_bytes(slot).len();
        decode_piece_head(&first[..header_len], total)?;
        let len = total - PIECE_HEADER_LEN;
        if let Some(owed) = &mut of_reply.owed {
            *owed = owed.checked_sub(len as u64).ok_or(BadReply::Short)?;
            if last && *owed > 0 {
                exchange.keep_alive = false;
            }
        }
        output.clear();
        if !of_reply.bodiless {
            output.body = PIECE_HEADER_LEN..total;
            put_framing(output, of_reply.chunked, last);
        }
        Ok(of_reply)
    }

    /// In `Writing`: sends until it is all sent or the socket's buffer is full.
    pub(super) fn go_on_writing(&mut self, index: u32) {
        let connection = &mut self.table[index];
        let slot = match connection.exchange.state {
            State::Writing(Answer::OfSlot { slot, .. }) => slot,
            State::Writing(Answer::Own(own)) => return self.go_on_answering(index, own),
            State::Writing(Answer::PutAside) => return self.idle_once_all_has_left(index),
            _ => return self.close(index),
        };
        let hold = may_hold(connection);
        if hold || connection.outbox.gathered.is_some() {
            match self.gather(index, slot, hold) {
                Outcome::Taken => return self.answer_has_left(index, slot, hold),
                Outcome::Refused => {}
                Outcome::Stuck => return self.writer_is_stuck(index),
                Outcome::Broken => return self.close(index),
            }
        }
        let connection = &mut self.table[index];
        let is_remote = self.doorways[connection.exchange.at.doorway].is_remote();
        let (client, output) = self.doorways[connection.exchange.at].writing(slot);
        let transport = &mut connection.transport;
        let (way, scratch) = (Way::Socket { transport, hold }, &mut self.memory.write[..]);
        match output.send::<W>(way, (client, slot), is_remote, scratch, &self.keys) {
            Ok(sent) => {
                output.sent += sent;
                if output.sent == output.total() {
                    self.answer_has_left(index, slot, hold);
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => {
                tell_of_change(&error);
                self.close(index);
                return;
            }
        }
        // An event tells when there is room again.
        self.writer_is_stuck(index);
    }

    /// An answer, or a part of one, is with the kernel, or was put aside to be sent with the next answer
    /// (`hold`).
    fn answer_has_left(&mut self, index: u32, slot: SlotId, hold: bool) {
        let at = self.table[index].exchange.at;
        let body_sent = self.doorways[at].writing(slot).1.body_sent();
        if hold {
            self.note_held(index);
        } else {
            self.table[index].outbox.held_since_ns = 0; // whatever was held went with it
        }
        self.note_sent(index, body_sent);
        self.writer_is_done(index);
        self.written(index, slot);
    }

    fn written(&mut self, index: u32, slot: SlotId) {
        let exchange = &mut self.table[index].exchange;
        if exchange.is_submitted() {
            exchange.state = State::Calling { slot };
            self.doorways[exchange.at].client_mut().resume(slot, 0);
            self.watch_deadline(index);
            return;
        }
        exchange.state = State::Idle;
        self.doorways[exchange.at].client_mut().release(slot);
        // What the head has said, unless the handler has left some of the body: that would be taken for the
        // next request.
        let keep_alive = exchange.keep_alive && exchange.upload.rest.is_empty();
        let is_short = matches!(exchange.reply, Reply::Sending(body) if body.owed.is_some_and(|owed| owed > 0));
        self.note_time(index);
        self.note_end(index, is_short);
        let connection = &self.table[index];
        if keep_alive {
            self.next_request(index);
        } else if connection.exchange.is_last
            && connection.has_been_read()
            // Who is not watched may have sent more, of which no event has told.
            && (connection.transport.watched || !connection.transport.has_unread::<W>())
            && connection.transport.has_all_taken::<W>()
        {
            // Nothing is unread, so that takes nothing away from the client; and nothing is left with the
            // kernel.
            self.forget(index);
        } else {
            self.close_politely(index);
        }
    }
}
