//! From a completed call to bytes on the wire.
//!
//! What lies in a reply slot was written by the application, perhaps in another process: it is an allegation
//! until its frame has been decoded and its fields validated. Framing is the front end's alone.

use super::gathering::Outcome;
use super::output::{Way, copy_fields, put_framing, tell_of_change};
use crate::connection::{Connection, InstanceId, State};
use crate::turn::Loop;
use crate::world::{Caller, World};
use transom_doors::{Completion, Kind, SlotId, Status};
use transom_http::framing::framing;
use transom_http::reply::head;
use transom_http::{BodySize, Fate, Note, ReplyFraming, validate_fields};
use transom_wire::frame::{
    PIECE_HEADER_LEN, REPLY_HEADER_LEN, decode_piece_head, decode_reply_head, interim, outcome,
};

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

/// Whether the end of an answer may stay with the kernel until the next answer joins it: its client has sent
/// more requests at once. One segment for several answers costs half of what one for each does.
fn may_hold(connection: &Connection) -> bool {
    // What is left of its own body is no request, and its answer is the last one.
    connection.last
        && connection.keep_alive
        && connection.buffer.is_some()
        && connection.body.is_empty()
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
        let completions = &mut self.completions;
        client.drain(|slot, completion| completions.push((slot, completion)));
        if self.completions.is_empty() {
            return false;
        }
        instance.stuck_since_ns = None;
        let mut completions = std::mem::take(&mut self.completions);
        for (slot, completion) in completions.drain(..) {
            self.on_completion(at, slot, completion);
        }
        self.completions = completions;
        true
    }

    fn on_completion(&mut self, at: InstanceId, slot: SlotId, completion: Completion) {
        let index = self.doorways[at].owners[slot.index()];
        debug_assert_eq!(
            (self.table[index].at, self.table[index].slot),
            (at, Some(slot)),
            "abandoned calls do not come back"
        );
        let is_piece = matches!(completion.kind, Kind::Interim(_));
        self.table[index].begun |= is_piece;
        if !is_piece {
            self.doorways[at.doorway].pressed_due_ms = 0; // something goes on there
        }
        if self.wants_body_first(index, completion) {
            if completion.status.0 == outcome::BODIES_FIRST {
                self.doorways[at].may_stream = false;
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
        let connection = &self.table[index];
        completion.kind == Kind::Final
            && matches!(
                completion.status.0,
                outcome::BODY_FIRST | outcome::BODIES_FIRST
            )
            && connection.early
    }

    /// The handler has no answer.
    fn on_failure(&mut self, index: u32, slot: SlotId, status: u32) {
        self.note_failure(index, outcome::diagnostic(status));
        let connection = &mut self.table[index];
        self.doorways[connection.at].client_mut().release(slot);
        connection.slot = None;
        connection.state = State::Idle;
        if connection.head_sent {
            // Half an answer is out. Only the connection's end can say that the rest will not come.
            self.stats.answered(500);
            self.close(index);
            return;
        }
        let note = match outcome::diagnostic(status) {
            Some("bucket-exhausted") => Some(Note::BucketExhausted),
            Some("handler-panicked") => Some(Note::HandlerPanicked),
            _ => None,
        };
        // A door between processes speaks for whoever has attached there.
        let remote = self.doorways[self.table[index].at.doorway].is_remote();
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
        // The one that waits for the slot after an interim part is a handler; see `let_go_of_slot`.
        self.table[index].last = last;
        let composed = if self.table[index].head_sent {
            self.compose_piece(index, slot, last)
        } else {
            self.compose_head(index, slot, last)
        };
        match composed {
            Ok(()) => {
                let (now, limit) = (self.now_ns, self.rules.write_pace_limit);
                let connection = &mut self.table[index];
                if !connection.head_sent {
                    connection.write_pace.begin(limit, now);
                }
                connection.head_sent = true;
                connection.state = State::Writing;
                // No timer runs until it is known that the client has to be waited for.
                self.table.unlink(index);
                self.go_on_writing(index);
            }
            Err(error) => {
                transom_wire::own_log::error!(%error, "an application's reply cannot be sent");
                self.table[index].state = State::Writing;
                self.let_go_of_slot(index);
                if self.table[index].head_sent {
                    self.close(index);
                } else {
                    self.table[index].state = State::Idle;
                    let remote = self.doorways[self.table[index].at.doorway].is_remote();
                    self.answer(index, error.status(remote), None);
                }
            }
        }
    }

    fn compose_head(&mut self, index: u32, slot: SlotId, last: bool) -> Result<(), BadReply> {
        let connection = &self.table[index];
        let keep_alive = match last {
            true => self.may_keep_alive(connection),
            false => self.would_keep_alive(connection), // the handler may be reading its body as it answers
        };
        let connection = &mut self.table[index];
        let remote = self.doorways[connection.at.doorway].is_remote();
        let (client, output) = self.doorways[connection.at].writing(slot);
        let (reply, facts) = if remote {
            let mut first = [0; REPLY_HEADER_LEN];
            let len = client.copy_reply(slot, 0, &mut first);
            let reply = decode_reply_head(&first[..len], client.reply_bytes(slot).len())?;
            let fields = copy_fields(client, slot, &reply.fields, self.write_scratch);
            let facts = validate_fields(fields.ok_or(BadReply::FieldsTooLarge)?)?;
            (reply, facts)
        } else {
            let bytes = client.reply(slot);
            let reply = decode_reply_head(bytes, bytes.len())?;
            let facts = validate_fields(&bytes[reply.fields.clone()])?;
            (reply, facts)
        };
        connection.bodiless = connection.head_only || matches!(reply.status, 204 | 304);
        let has_body = !connection.bodiless;
        let here = reply.body.len() as u64;
        if last && has_body && reply.content_length.is_some_and(|whole| whole != here) {
            return Err(BadReply::Short);
        }
        let size = match reply.content_length {
            Some(whole) => BodySize::Known(whole),
            None if last && !connection.head_only => BodySize::Known(here),
            None => BodySize::Streamed,
        };
        let size = if matches!(reply.status, 204 | 304) {
            BodySize::Known(0)
        } else {
            size
        };
        let framing = framing(
            reply.status,
            connection.head_only,
            connection.minor,
            size,
            &facts,
        )?;
        connection.chunked = framing == ReplyFraming::Chunked && has_body;
        connection.owed = match (framing, size) {
            (ReplyFraming::Length(len), _) if has_body => Some(len - here.min(len)),
            (ReplyFraming::Stated, BodySize::Known(len)) if has_body => Some(len - here.min(len)),
            _ => None,
        };
        // A method that is not known may mean anything for what follows its head.
        let is_known = reply.status != 501;
        connection.keep_alive = keep_alive && is_known && framing != ReplyFraming::UntilClose;
        let fate = Fate::after(connection.keep_alive, connection.minor);
        let date = (!facts.has_date).then_some(&self.date);

        output.clear();
        output.start_len = head(&mut output.start, reply.status, framing, fate, date);
        output.fields = reply.fields;
        output.put_middle(b"\r\n");
        if has_body {
            output.body = reply.body;
        }
        put_framing(output, connection.chunked, last);
        self.stats.replied(reply.status);
        self.note_status(index, reply.status);
        Ok(())
    }

    fn compose_piece(&mut self, index: u32, slot: SlotId, last: bool) -> Result<(), BadReply> {
        let connection = &mut self.table[index];
        let (client, output) = self.doorways[connection.at].writing(slot);
        // The same for every door: what is believed of a piece is copied first, and is 8 bytes.
        let mut first = [0; PIECE_HEADER_LEN];
        let header_len = client.copy_reply(slot, 0, &mut first);
        let total = client.reply_bytes(slot).len();
        decode_piece_head(&first[..header_len], total)?;
        let len = total - PIECE_HEADER_LEN;
        if let Some(owed) = &mut connection.owed {
            *owed = owed.checked_sub(len as u64).ok_or(BadReply::Short)?;
            if last && *owed > 0 {
                connection.keep_alive = false;
            }
        }
        output.clear();
        if !connection.bodiless {
            output.body = PIECE_HEADER_LEN..total;
            put_framing(output, connection.chunked, last);
        }
        Ok(())
    }

    /// In `Writing`: sends until it is all sent or the socket's buffer is full.
    pub(super) fn go_on_writing(&mut self, index: u32) {
        let connection = &mut self.table[index];
        if let Some(own) = connection.own {
            self.go_on_answering(index, own);
            return;
        }
        let Some(slot) = connection.slot else {
            self.close(index);
            return;
        };
        let hold = may_hold(connection);
        if hold || connection.gathered.is_some() {
            match self.gather(index, slot, hold) {
                Outcome::Taken => return self.answer_has_left(index, slot, hold),
                Outcome::Refused => {}
                Outcome::Stuck => return self.writer_is_stuck(index),
                Outcome::Broken => return self.close(index),
            }
        }
        let connection = &mut self.table[index];
        let is_remote = self.doorways[connection.at.doorway].is_remote();
        let (client, output) = self.doorways[connection.at].writing(slot);
        let fd = connection.fd;
        let (way, scratch) = (Way::Socket { fd, hold }, &mut self.write_scratch[..]);
        match output.send::<W>(way, (client, slot), is_remote, scratch, &self.keys) {
            Ok(sent) => {
                output.sent += sent;
                connection.handed += sent as u64;
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
        let at = self.table[index].at;
        let body_sent = self.doorways[at].writing(slot).1.body_sent();
        if hold {
            self.note_held(index);
        } else {
            self.table[index].held_since_ns = 0; // whatever was held went with it
        }
        self.note_sent(index, body_sent);
        self.writer_is_done(index);
        self.written(index, slot);
    }

    fn written(&mut self, index: u32, slot: SlotId) {
        let connection = &mut self.table[index];
        if !connection.last {
            connection.state = State::Calling;
            self.doorways[connection.at].client_mut().resume(slot, 0);
            self.watch_deadline(index);
            return;
        }
        connection.slot = None;
        self.doorways[connection.at].client_mut().release(slot);
        // What the head has said, unless the handler has left some of the body: that would be taken for the
        // next request.
        let keep_alive = connection.keep_alive && connection.body.is_empty();
        let is_short = connection.owed.is_some_and(|owed| owed > 0);
        self.note_time(index);
        self.note_end(index, is_short);
        let connection = &self.table[index];
        if keep_alive {
            self.next_request(index);
        } else if connection.is_last
            && connection.has_been_read()
            // Who is not watched may have sent more, of which no event has told.
            && (connection.watched || !W::has_unread(connection.fd))
            && W::not_taken(connection.fd) == 0
        {
            // Nothing is unread, so that takes nothing away from the client; and nothing is left with the
            // kernel.
            self.close(index);
        } else {
            self.close_politely(index);
        }
    }
}
