//! From a completed call to bytes on the wire.
//!
//! What lies in a reply slot was written by the application, perhaps in another process: it is an allegation until its
//! frame has been decoded and its fields validated. Framing is the front end's alone.

use super::{List, Loop};
use crate::connection::{InstanceId, State};
use crate::http::framing::framing;
use crate::http::reply::{CHUNK_END, CHUNK_PREFIX_MAX, HEAD_MAX, LAST_CHUNK, chunk_prefix, head};
use crate::http::{BodySize, Connection as Fate, Note, ReplyFraming, validate_fields};
use crate::net;
use std::io::IoSlice;
use std::ops::Range;
use transom_doors::{Completion, Kind, SlotId, Status};
use transom_platform::frame::{decode_piece, decode_reply, interim, outcome};

const CHUNK_END_AND_LAST: &[u8] = b"\r\n0\r\n\r\n";
const MIDDLE_MAX: usize = b"\r\n".len() + CHUNK_PREFIX_MAX;

/// An answer, or a part of one, on its way out: five pieces in a row, of which the slot holds two.
#[derive(Debug)]
pub(super) struct Output {
    start: [u8; HEAD_MAX],
    start_len: usize,
    /// In the reply slot.
    fields: Range<usize>,
    middle: [u8; MIDDLE_MAX],
    middle_len: usize,
    /// In the reply slot.
    body: Range<usize>,
    tail: &'static [u8],
    sent: usize,
}

impl Default for Output {
    fn default() -> Self {
        Output {
            start: [0; HEAD_MAX],
            start_len: 0,
            fields: 0..0,
            middle: [0; MIDDLE_MAX],
            middle_len: 0,
            body: 0..0,
            tail: b"",
            sent: 0,
        }
    }
}

impl Output {
    fn clear(&mut self) {
        self.start_len = 0;
        self.fields = 0..0;
        self.middle_len = 0;
        self.body = 0..0;
        self.tail = b"";
        self.sent = 0;
    }

    fn put_middle(&mut self, bytes: &[u8]) {
        self.middle[self.middle_len..self.middle_len + bytes.len()].copy_from_slice(bytes);
        self.middle_len += bytes.len();
    }

    fn pieces<'a>(&'a self, reply: &'a [u8]) -> [&'a [u8]; 5] {
        [
            &self.start[..self.start_len],
            &reply[self.fields.clone()],
            &self.middle[..self.middle_len],
            &reply[self.body.clone()],
            self.tail,
        ]
    }
}

/// Why an application's reply is not sent.
#[derive(Debug, thiserror::Error)]
enum BadReply {
    #[error(transparent)]
    Frame(#[from] transom_platform::frame::FrameError),
    #[error(transparent)]
    Field(#[from] crate::http::FieldError),
    #[error("the reply's body is shorter than the length it states")]
    Short,
}

impl Loop {
    /// Takes what the door has completed; false if that was nothing.
    pub(super) fn collect_completions(&mut self) -> bool {
        let mut any = false;
        for at in self.doorways.instances() {
            any |= self.collect_completions_of(at);
        }
        any
    }

    /// As [`Loop::collect_completions`], of one instance.
    fn collect_completions_of(&mut self, at: InstanceId) -> bool {
        let instance = &mut self.doorways[at];
        let Some(client) = &mut instance.client else {
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
        match completion.kind {
            Kind::Interim(interim::WANT_BODY) => self.want_body(index, slot),
            Kind::Interim(_) => self.on_reply(index, slot, false),
            Kind::Final if completion.status == Status(outcome::OK) => {
                self.on_reply(index, slot, true);
            }
            Kind::Final => self.on_failure(index, slot, completion.status.0),
        }
    }

    /// The handler has no answer.
    fn on_failure(&mut self, index: u32, slot: SlotId, status: u32) {
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
        self.answer(index, 500, note);
    }

    /// A reply, its first part, or a piece of it lies in the slot.
    fn on_reply(&mut self, index: u32, slot: SlotId, last: bool) {
        // The one that waits for the slot after an interim part is a handler; see `let_go_of_slot`.
        self.table[index].last = last;
        let composed = if self.table[index].head_sent {
            self.compose_piece(index, slot, last)
        } else {
            self.compose_head(index, slot, last)
        };
        match composed {
            Ok(()) => {
                self.table[index].head_sent = true;
                self.table[index].state = State::Writing;
                self.set_timer(index, List::Write, self.timeouts.write);
                self.go_on_writing(index);
            }
            Err(error) => {
                tracing::error!(%error, "an application's reply cannot be sent");
                self.table[index].state = State::Writing;
                self.let_go_of_slot(index);
                if self.table[index].head_sent {
                    self.close(index);
                } else {
                    self.table[index].state = State::Idle;
                    self.answer(index, 500, None);
                }
            }
        }
    }

    fn compose_head(&mut self, index: u32, slot: SlotId, last: bool) -> Result<(), BadReply> {
        let keep_alive = self.may_keep_alive(&self.table[index]);
        let connection = &mut self.table[index];
        let (client, output) = self.doorways[connection.at].writing(slot);
        let bytes = client.reply(slot);
        let reply = decode_reply(bytes)?;
        let facts = validate_fields(reply.fields)?;
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
        connection.keep_alive = keep_alive && framing != ReplyFraming::UntilClose;
        let fate = Fate::after(connection.keep_alive, connection.minor);
        let date = (!facts.has_date).then_some(&self.date);

        let offset = |part: &[u8]| part.as_ptr() as usize - bytes.as_ptr() as usize;
        output.clear();
        output.start_len = head(&mut output.start, reply.status, framing, fate, date);
        if !reply.fields.is_empty() {
            output.fields = offset(reply.fields)..offset(reply.fields) + reply.fields.len();
        }
        output.put_middle(b"\r\n");
        if has_body && !reply.body.is_empty() {
            output.body = offset(reply.body)..offset(reply.body) + reply.body.len();
        }
        put_framing(output, connection.chunked, last);
        self.stats.answered(reply.status);
        Ok(())
    }

    fn compose_piece(&mut self, index: u32, slot: SlotId, last: bool) -> Result<(), BadReply> {
        let connection = &mut self.table[index];
        let (client, output) = self.doorways[connection.at].writing(slot);
        let bytes = client.reply(slot);
        let piece = decode_piece(bytes)?;
        let len = piece.bytes.len();
        if let Some(owed) = &mut connection.owed {
            *owed = owed.checked_sub(len as u64).ok_or(BadReply::Short)?;
            if last && *owed > 0 {
                connection.keep_alive = false;
            }
        }
        let start = bytes.len() - len;
        output.clear();
        if !connection.bodiless {
            output.body = start..start + len;
            put_framing(output, connection.chunked, last);
        }
        Ok(())
    }

    /// In `Writing`: sends until it is all sent or the socket's buffer is full.
    pub(super) fn go_on_writing(&mut self, index: u32) {
        let connection = &self.table[index];
        let Some(slot) = connection.slot else {
            self.close(index);
            return;
        };
        let (client, output) = self.doorways[connection.at].writing(slot);
        let pieces = output.pieces(client.reply(slot));
        let total: usize = pieces.iter().map(|piece| piece.len()).sum();
        let before = output.sent;
        let result = if total - before <= self.write_scratch.len() {
            let len = gather(&pieces, before, self.write_scratch);
            net::send(connection.fd, &self.write_scratch[..len])
        } else {
            send_from(connection.fd, &pieces, before)
        };
        match result {
            Ok(sent) => {
                output.sent += sent;
                if output.sent == total {
                    self.written(index, slot);
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => {
                self.close(index);
                return;
            }
        }
        // An event tells when the client has taken some; only then it has the whole timeout again.
        if output.sent > before {
            self.set_timer(index, List::Write, self.timeouts.write);
        }
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
        // Decided, and said in the head, before the body was read to its end: so not asked again.
        if connection.keep_alive {
            self.next_request(index);
        } else {
            self.close_politely(index);
        }
    }
}

/// Chunk framing around the body of an output, and the end of the body if this is it.
fn put_framing(output: &mut Output, chunked: bool, last: bool) {
    if !chunked {
        return;
    }
    let len = output.body.len() as u64;
    if len > 0 {
        let mut prefix = [0; CHUNK_PREFIX_MAX];
        let prefix_len = chunk_prefix(len, &mut prefix);
        output.put_middle(&prefix[..prefix_len]);
    }
    output.tail = match (len > 0, last) {
        (true, true) => CHUNK_END_AND_LAST,
        (true, false) => CHUNK_END,
        (false, true) => LAST_CHUNK,
        (false, false) => b"",
    };
}

/// Copies what is left of the pieces after `skip` bytes to the start of `out`.
fn gather(pieces: &[&[u8]; 5], mut skip: usize, out: &mut [u8]) -> usize {
    let mut len = 0;
    for piece in pieces {
        let from = skip.min(piece.len());
        skip -= from;
        let rest = &piece[from..];
        out[len..len + rest.len()].copy_from_slice(rest);
        len += rest.len();
    }
    len
}

/// Sends what is left of the pieces after `skip` bytes from where they lie.
fn send_from(fd: i32, pieces: &[&[u8]; 5], mut skip: usize) -> std::io::Result<usize> {
    let slices = pieces.map(|piece| {
        let from = skip.min(piece.len());
        skip -= from;
        IoSlice::new(&piece[from..])
    });
    net::send_all(fd, &slices)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_an_output_is_the_same_wherever_it_was_interrupted() {
        let pieces: [&[u8]; 5] = [
            b"HTTP/1.1 200 OK\r\n",
            b"A: b\r\n",
            b"\r\n5\r\n",
            b"hello",
            b"\r\n",
        ];
        let whole = pieces.concat();
        for skip in 0..=whole.len() {
            let mut out = [0; 64];
            let len = gather(&pieces, skip, &mut out);
            assert_eq!(&out[..len], &whole[skip..]);
        }
    }

    #[test]
    fn chunks_frame_every_part_of_a_body_and_end_once() {
        for (len, last, expected) in [
            (5, false, &b"5\r\nhello\r\n"[..]),
            (5, true, b"5\r\nhello\r\n0\r\n\r\n"),
            (0, true, b"0\r\n\r\n"),
            (0, false, b""),
        ] {
            let mut output = Output {
                body: 0..len,
                ..Output::default()
            };
            put_framing(&mut output, true, last);
            assert_eq!(output.pieces(b"hello").concat(), expected);
        }
    }
}
