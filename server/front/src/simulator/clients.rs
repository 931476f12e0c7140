//! Clients: each has its requests, and its manner of sending them, of reading and of leaving.

use super::answers::{Answers, read_on};
use super::clock::{Event, MS, US};
use super::process::Ground;
use std::net::SocketAddr;

/// Bytes of a request that a client may send before it has the answer to the one before.
const HESITATION: usize = 12;

/// How a client cuts what it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Split {
    /// As much at once as it may.
    Whole,
    /// At random places, so many bytes apart at most.
    Random(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// All that comes.
    Eager,
    /// So many bytes, again and again.
    Slow(usize, u64),
    /// Not a byte.
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// It waits for the server to close.
    Waits,
    /// It closes when it has its answers.
    Closes,
    /// It says that it sends nothing more when all is sent, and reads on.
    HalfCloses,
}

/// What a client has in mind.
#[derive(Debug, Clone)]
pub(super) struct Manner {
    pub connects_after: u64,
    /// So many requests may be unanswered.
    pub depth: usize,
    pub split: Split,
    pub gap_ns: u64,
    pub think_ns: u64,
    pub reading: Reading,
    pub ending: Ending,
    /// It sends so many bytes and no more, and stays.
    pub stalls_at: Option<usize>,
    /// It resets the connection so long after it has connected.
    pub resets_after: Option<u64>,
    /// It waits so long for `100 Continue`.
    pub patience_ns: u64,
    /// It sends the beginning of the next request, and the rest of it when it has its answer.
    pub hesitates: bool,
    /// It sends on after an answer that says that nothing more is read.
    pub goes_on: bool,
    pub rooms: [usize; 3],
}

impl Manner {
    /// Whether it does what a client should.
    pub(super) fn is_good(&self) -> bool {
        self.reading == Reading::Eager
            && self.gap_ns <= 20 * MS
            && self.stalls_at.is_none()
            && self.resets_after.is_none()
    }
}

/// How far a client has come.
#[derive(Default)]
pub(super) struct Strides {
    /// The request that it is sending, and how many bytes of it are sent.
    request: usize,
    offset: usize,
    pub sent: usize,
    /// It does not wait for `100 Continue` with that request any more.
    impatient: Option<usize>,
    asked_patience: Option<usize>,
    /// It stands in the queue of events.
    is_due: bool,
    pub finished_sending: bool,
    pub closed: bool,
    pub saw_eof: bool,
    pub saw_reset: bool,
    pub stalled: bool,
}

pub(super) struct Client {
    pub number: usize,
    pub manner: Manner,
    /// By number, in the book.
    pub requests: Vec<usize>,
    pub socket: Option<usize>,
    pub progress: Strides,
    pub received: Vec<u8>,
    pub answers: Answers,
}

impl Client {
    pub(super) fn new(number: usize, manner: Manner, requests: Vec<usize>) -> Self {
        Client {
            number,
            manner,
            socket: None,
            progress: Strides::default(),
            received: Vec::new(),
            answers: Answers::new(requests.len()),
            requests,
        }
    }

    /// Whether it has nothing more in mind.
    pub(super) fn is_done(&self) -> bool {
        let progress = &self.progress;
        let has_all = self.answers.all.len() == self.requests.len();
        progress.closed
            || progress.saw_eof
            || progress.saw_reset
            || (self.manner.ending != Ending::Closes && has_all)
    }

    fn come_again(&mut self, delay_ns: u64, ground: &mut Ground) {
        if !std::mem::replace(&mut self.progress.is_due, true) {
            ground.clock.after(delay_ns, Event::Client(self.number));
        }
    }

    /// It does the next thing.
    pub(super) fn act(&mut self, ground: &mut Ground) {
        self.progress.is_due = false;
        if self.progress.closed || self.progress.saw_reset || self.progress.saw_eof {
            return;
        }
        let Some(socket) = self.socket else {
            self.connect(ground);
            return;
        };
        let bytes = self.next_bytes(ground);
        if bytes.is_empty() {
            self.has_nothing_to_send(socket, ground);
            return;
        }
        let Ground { kernel, clock, .. } = ground;
        let len = kernel.arrive(socket, &bytes, clock);
        let number = self.number;
        clock.note(|| format!("client {number} sends {len} bytes of {}", bytes.len()));
        self.note_sent(len, ground);
        let gap = self.manner.gap_ns;
        let delay = match len < bytes.len() {
            true => ground.clock.rng.u64(20 * US..500 * US),
            false if gap > 0 => ground.clock.rng.u64(0..gap),
            false => 0,
        };
        self.come_again(delay, ground);
    }

    fn connect(&mut self, ground: &mut Ground) {
        let number = self.number;
        let peer = SocketAddr::from(([127, 0, 0, number as u8 % 3], 1000 + number as u16));
        let socket = ground.kernel.connect(peer, self.manner.rooms);
        self.socket = Some(socket);
        ground
            .clock
            .note(|| format!("client {number} connects, socket {socket}"));
        if let Some(after) = self.manner.resets_after {
            ground.clock.after(after, Event::Reset(number));
        }
        let delay = match ground.clock.once_in(2) {
            true => 0,
            false => ground.clock.short(),
        };
        self.come_again(delay, ground);
    }

    /// What it would send now: nothing, if it has to wait.
    fn next_bytes(&mut self, ground: &mut Ground) -> Vec<u8> {
        let most = match self.manner.split {
            Split::Whole => usize::MAX,
            Split::Random(most) => ground.clock.rng.usize(1..=most),
        };
        let most = match self.manner.stalls_at {
            Some(at) => most.min(at.saturating_sub(self.progress.sent)),
            None => most,
        };
        self.progress.stalled |= most == 0;
        if self.is_told_to_stop() {
            return Vec::new();
        }
        let mut bytes = Vec::new();
        let (mut at, mut offset) = (self.progress.request, self.progress.offset);
        while bytes.len() < most && at < self.requests.len() {
            if at >= self.answers.all.len() + self.manner.depth {
                break;
            }
            let request = &ground.book[self.requests[at]].request;
            let waits = request.expects
                && self.answers.interim[at] == 0
                && self.progress.impatient != Some(at)
                && self.answers.all.len() <= at;
            let end = if waits {
                request.head_len
            } else {
                request.bytes.len()
            };
            let is_ahead = at > self.answers.all.len();
            let end = match self.manner.hesitates && is_ahead {
                true if offset >= HESITATION => break,
                true => HESITATION,
                false => end,
            };
            if waits && offset == end {
                if bytes.is_empty() && self.progress.asked_patience != Some(at) {
                    self.progress.asked_patience = Some(at);
                    let patience = self.manner.patience_ns;
                    ground.clock.after(patience, Event::Impatient(self.number));
                }
                break;
            }
            let len = (end - offset).min(most - bytes.len());
            bytes.extend(&request.bytes[offset..offset + len]);
            offset += len;
            if offset == request.bytes.len() {
                (at, offset) = (at + 1, 0);
            }
        }
        bytes
    }

    /// Nothing more is read, and it believes that.
    fn is_told_to_stop(&self) -> bool {
        let said_close = self.answers.all.last().is_some_and(|last| !last.keeps);
        said_close && !self.manner.goes_on
    }

    fn note_sent(&mut self, mut len: usize, ground: &mut Ground) {
        let now = ground.clock.now_ns;
        self.progress.sent += len;
        while len > 0 {
            let entry = &mut ground.book[self.requests[self.progress.request]];
            entry.facts.begun_ns.get_or_insert(now);
            let step = len.min(entry.request.bytes.len() - self.progress.offset);
            self.progress.offset += step;
            len -= step;
            if self.progress.offset == entry.request.bytes.len() {
                entry.facts.sent_ns = Some(now);
                self.progress.request += 1;
                self.progress.offset = 0;
            }
        }
    }

    pub(super) fn impatient(&mut self, ground: &mut Ground) {
        self.progress.impatient = Some(self.progress.request);
        self.come_again(0, ground);
    }

    fn has_nothing_to_send(&mut self, socket: usize, ground: &mut Ground) {
        let has_sent_all = self.progress.request == self.requests.len();
        let has_all = self.answers.all.len() == self.requests.len();
        if has_sent_all && self.manner.ending == Ending::HalfCloses {
            if !std::mem::replace(&mut self.progress.finished_sending, true) {
                let number = self.number;
                ground.clock.note(|| format!("client {number} half-closes"));
                ground.kernel.finish(socket, &ground.clock);
            }
        } else if has_all && self.manner.ending == Ending::Closes {
            self.close(ground);
        } else if self.progress.offset > 0 && self.is_told_to_stop() {
            // It would not be read on; and its request is not whole.
            self.close(ground);
        }
    }

    /// It closes its end.
    pub(super) fn close(&mut self, ground: &mut Ground) {
        let (Some(socket), false) = (self.socket, self.progress.closed) else {
            return;
        };
        self.progress.closed = true;
        let number = self.number;
        ground.clock.note(|| format!("client {number} closes"));
        if ground.kernel.sockets[socket].far.bytes.is_empty() {
            ground.kernel.finish(socket, &ground.clock);
            ground.kernel.sockets[socket].far.closed = true;
        } else {
            ground.kernel.reset(socket, &ground.clock);
        }
    }

    pub(super) fn reset(&mut self, ground: &mut Ground) {
        let (Some(socket), false) = (self.socket, self.progress.closed) else {
            return;
        };
        self.progress.closed = true;
        let number = self.number;
        ground.clock.note(|| format!("client {number} resets"));
        ground.kernel.reset(socket, &ground.clock);
    }

    /// Something has reached it, or it looks again.
    pub(super) fn read(&mut self, again: bool, ground: &mut Ground) {
        let Some(socket) = self.socket else { return };
        let Ground { kernel, clock, .. } = ground;
        let far = &mut kernel.sockets[socket].far;
        let most = match self.manner.reading {
            _ if self.progress.closed => return,
            Reading::Never => return,
            Reading::Eager => usize::MAX,
            Reading::Slow(most, _) if again => most,
            Reading::Slow(_, every) => {
                clock.after(every, Event::Read(self.number));
                return;
            }
        };
        let len = most.min(far.bytes.len());
        self.received.extend(far.bytes.drain(..len));
        let is_empty = far.bytes.is_empty();
        if let (Reading::Slow(_, every), false) = (self.manner.reading, is_empty) {
            clock.after(every, Event::Read(self.number));
        }
        if is_empty && (far.eof || far.reset) {
            self.progress.saw_eof = far.eof;
            self.progress.saw_reset = far.reset;
            let number = self.number;
            clock.note(|| format!("client {number} sees the end"));
        }
        kernel.sockets[socket].call_carrier(socket, clock);
        self.look_at_answers(ground);
        if self.progress.saw_eof {
            self.close(ground);
        }
    }

    fn look_at_answers(&mut self, ground: &mut Ground) {
        let before = (self.answers.all.len(), self.answers.end);
        let book = &ground.book;
        let kind = |n: usize| book[self.requests[n]].request.kind();
        let ended = self.progress.saw_eof || self.progress.saw_reset;
        let count = self.requests.len();
        if let Err(wrong) = read_on(&mut self.answers, &self.received, kind, count, ended) {
            panic!("client {} reads: {wrong}", self.number);
        }
        for at in before.0..self.answers.all.len() {
            let status = self.answers.all[at].status;
            let id = self.requests[at];
            ground
                .clock
                .note(|| format!("client {} has {status} to request {id}", self.number));
            let now = ground.clock.now_ns;
            ground.book[id].facts.answered_ns = Some(now);
        }
        if before != (self.answers.all.len(), self.answers.end) {
            let think = self.manner.think_ns;
            let delay = if think > 0 {
                ground.clock.rng.u64(0..think)
            } else {
                0
            };
            self.come_again(delay.min(50 * MS), ground);
        }
    }
}
