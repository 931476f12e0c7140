//! A handler at work: what a thread of a simulated application does with one call, step by step.

use super::clock::{US, VirtualClock};
use super::requests::{App, Early, End, Entry, Request, Target, answer_to};
use super::slots::SlotMemory;
use transom_wire::frame::{
    PIECE_HEADER_LEN, decode_request, encode_piece, encode_reply_head, interim, outcome,
    set_reply_body,
};

/// What a handler does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// A part for the caller, of so many bytes; it goes on when it has the turn again.
    Interim(u32, usize),
    /// The end: a status, and so many bytes.
    Final(u32, usize),
    Lost,
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Begin,
    Reading,
    Reply,
    Pieces,
}

/// A call that a thread has taken up.
#[derive(Debug)]
pub(super) struct Job {
    pub slot: usize,
    pub generation: u32,
    pub id: usize,
    at: At,
    pub body_at: usize,
    /// There is more of the body than it has been given.
    has_more: bool,
    reads_left: usize,
    sent: usize,
    pieces_sent: usize,
}

impl Job {
    pub(super) fn new(slot: usize, generation: u32) -> Self {
        Job {
            slot,
            generation,
            id: usize::MAX,
            at: At::Begin,
            body_at: 0,
            has_more: false,
            reads_left: 0,
            sent: 0,
            pieces_sent: 0,
        }
    }

    /// Reads the request's frame, and checks that it is what some client has asked for. Says what to do
    /// first, and how long that takes.
    pub(super) fn begin(
        &mut self,
        frame: &[u8],
        book: &mut [Entry],
        bodies_first: bool,
        clock: &mut VirtualClock,
    ) -> (Option<Act>, u64) {
        let raw = decode_request(frame).expect("the loop's frames are well-formed");
        let (_, number) = raw.path.rsplit_once('/').expect("a path");
        self.id = number.parse().expect("a number in the path");
        let Entry { request, facts } = &mut book[self.id];
        check_head(request, raw.path, raw.method);
        facts.claims += 1;
        self.body_at = frame.len() - raw.body.len();
        let app = &request.app;
        if raw.early && (bodies_first || app.early != Early::Takes) {
            let status = match bodies_first || app.early == Early::BodiesFirst {
                true => outcome::BODIES_FIRST,
                false => outcome::BODY_FIRST,
            };
            return (Some(Act::Final(status, 0)), 2 * US);
        }
        facts.runs += 1;
        assert_eq!(facts.runs, 1, "request {} runs twice", self.id);
        facts.body.extend(raw.body);
        facts.body_ended = !raw.streamed;
        self.has_more = raw.streamed;
        self.reads_left = if raw.streamed { app.reads } else { 0 };
        let runs_ns = app.runs_ns;
        clock.note(|| {
            let (id, early) = (self.id, raw.early);
            format!(
                "request {id} runs, streamed {}, early {early}",
                raw.streamed
            )
        });
        (None, runs_ns)
    }

    /// Goes on.
    pub(super) fn step(&mut self, memory: &SlotMemory, book: &mut [Entry]) -> Act {
        let Entry { request, facts } = &mut book[self.id];
        let app = &request.app;
        if self.at == At::Begin {
            self.at = if app.answers_first && !app.pieces.is_empty() {
                At::Reply
            } else {
                At::Reading
            };
        }
        if self.at == At::Reading {
            if self.has_more && self.reads_left > 0 {
                self.reads_left -= 1;
                return Act::Interim(interim::WANT_BODY, 0);
            }
            self.at = if facts.answer.is_some() {
                At::Pieces
            } else {
                At::Reply
            };
        }
        if facts.answer.is_none() {
            match app.end {
                End::Never => return Act::Never,
                End::Lost => return Act::Lost,
                End::Noise => {
                    memory.put_reply(self.slot, &[0xdb; 64]);
                    return Act::Final(outcome::OK, 64);
                }
                End::BadField => {
                    let len = put_head(
                        memory,
                        self.slot,
                        app,
                        b"A: b\r\n\r\nHTTP/1.1 200 OK\r\n",
                        None,
                    );
                    return Act::Final(outcome::OK, len);
                }
                End::Outcome(status) if app.pieces.is_empty() => return Act::Final(status, 0),
                End::Outcome(_) | End::Heard | End::Meddles => {}
            }
            facts.answer = Some(answer_to(self.id, &facts.body, app.len));
        }
        let answer = facts.answer.as_deref().expect("it has begun");
        self.put_part(memory, request, answer)
    }

    fn put_part(&mut self, memory: &SlotMemory, request: &Request, answer: &[u8]) -> Act {
        let app = &request.app;
        let is_first = self.at == At::Reply;
        self.at = At::Pieces;
        let len = match app.pieces.get(self.pieces_sent) {
            _ if request.head_only() && app.pieces.is_empty() => 0,
            Some(len) => (*len).min(answer.len() - self.sent),
            None => answer.len() - self.sent,
        };
        self.pieces_sent += 1;
        let part = &answer[self.sent..self.sent + len];
        self.sent += len;
        let is_last = self.pieces_sent >= app.pieces.len();
        let frame_len = if is_first {
            let fields = format!("X-Id: {}\r\nX-A: a\r\nX-B: a\r\n", self.id);
            put_head(
                memory,
                self.slot,
                app,
                fields.as_bytes(),
                Some((part, answer.len(), !is_last)),
            )
        } else {
            let mut frame = vec![0; PIECE_HEADER_LEN];
            encode_piece(&mut frame, len, is_last);
            frame.extend(part);
            memory.put_reply(self.slot, &frame);
            frame.len()
        };
        match (is_last, app.end) {
            (true, End::Outcome(status)) => Act::Final(status, 0),
            (true, _) => Act::Final(outcome::OK, frame_len),
            (false, _) => {
                if is_first && app.answers_first {
                    self.at = At::Reading;
                }
                Act::Interim(interim::REPLY, frame_len)
            }
        }
    }

    /// It has the turn again, with so many bytes of the body if it has asked for them.
    pub(super) fn resumed(
        &mut self,
        memory: &SlotMemory,
        book: &mut [Entry],
        asked: bool,
        len: usize,
    ) {
        if !asked {
            assert_eq!(len, 0, "no body was asked for");
            return;
        }
        let facts = &mut book[self.id].facts;
        facts.reads += 1;
        if len == 0 {
            facts.body_ended = true;
            self.has_more = false;
        } else {
            facts
                .body
                .extend(memory.copy_request(self.slot, self.body_at, len));
        }
    }
}

fn check_head(request: &Request, path: &str, method: &str) {
    assert_eq!(
        method, request.method,
        "the method of request {}",
        request.id
    );
    let Target::Door(door) = request.target else {
        panic!("request {} is for no application", request.id);
    };
    assert_eq!(path, format!("/d{door}/{}", request.id), "the path");
}

/// Writes a reply's head, and a part of its body: bytes, the length of all, and whether more follow.
fn put_head(
    memory: &SlotMemory,
    slot: usize,
    app: &App,
    fields: &[u8],
    part: Option<(&[u8], usize, bool)>,
) -> usize {
    let (part, whole, more) = part.unwrap_or_default();
    let mut frame = vec![0; memory.reply_size];
    let length = app.says_length.then_some(whole as u64);
    let at = encode_reply_head(&mut frame, app.status, length, &[fields]).expect("it fits");
    frame[at..at + part.len()].copy_from_slice(part);
    set_reply_body(&mut frame, part.len(), more);
    memory.put_reply(slot, &frame[..at + part.len()]);
    at + part.len()
}
