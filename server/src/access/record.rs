//! One request as a record of fixed size. What the client has sent is kept as it came, but for its length;
//! the writer thread, which has the time for it, makes it fit to stand in a line.

use crate::log::QueueRecord;
use std::net::SocketAddr;

/// Where request lines are cut.
pub(super) const REQUEST_MAX: usize = 512;

/// Where `Referer` and `User-Agent` are cut.
pub(super) const FIELD_MAX: usize = 256;

/// The number of no forward and of no doorway.
pub(super) const NO_NUMBER: u16 = u16::MAX;

/// Bytes that a client has sent: at most `N`, and whether there were more.
#[derive(Debug, Clone)]
pub(crate) struct Cut<const N: usize> {
    bytes: [u8; N],
    len: u16,
    there: bool,
    cut: bool,
}

impl<const N: usize> Cut<N> {
    pub(super) const NOTHING: Self = {
        assert!(N <= u16::MAX as usize);
        Cut {
            bytes: [0; N],
            len: 0,
            there: false,
            cut: false,
        }
    };

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.len = 0;
        self.there = false;
        self.cut = false;
    }

    /// Whether anything was.
    pub(crate) fn is_there(&self) -> bool {
        self.there
    }

    /// Appends as much of `part` as fits; after a cut, nothing.
    pub(crate) fn push(&mut self, part: &[u8]) {
        self.there = true;
        if self.cut {
            return;
        }
        let start = usize::from(self.len);
        let taken = part.len().min(N - start);
        self.bytes[start..start + taken].copy_from_slice(&part[..taken]);
        self.len = (start + taken) as u16;
        if let Some(next) = part.get(taken) {
            self.cut = true;
            if is_continuation(*next) {
                self.drop_half_a_character();
            }
        }
    }

    /// Takes back the beginning of a character whose end did not fit.
    fn drop_half_a_character(&mut self) {
        let here = &self.bytes[..usize::from(self.len)];
        // It has at most three, and one is what did not fit.
        let followers = here.iter().rev().take(2);
        let followers = followers.take_while(|byte| is_continuation(**byte)).count();
        if let Some(at) = here.len().checked_sub(followers + 1)
            && here[at] >= 0xc0
        {
            self.len = at as u16;
        }
    }

    /// The bytes, if there was anything.
    pub(super) fn get(&self) -> Option<&[u8]> {
        self.there.then(|| &self.bytes[..usize::from(self.len)])
    }

    /// Whether something was left out.
    pub(super) fn is_cut(&self) -> bool {
        self.cut
    }

    fn copy_from(&mut self, other: &Self) {
        let len = usize::from(other.len);
        self.bytes[..len].copy_from_slice(&other.bytes[..len]);
        self.len = other.len;
        self.there = other.there;
        self.cut = other.cut;
    }
}

fn is_continuation(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

/// Why a request failed in the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Diagnostic {
    /// It outgrew its bucket.
    BucketExhausted,
    /// Its handler panicked.
    HandlerPanicked,
}

impl Diagnostic {
    pub(super) const fn text(self) -> &'static str {
        match self {
            Diagnostic::BucketExhausted => "bucket-exhausted",
            Diagnostic::HandlerPanicked => "handler-panicked",
        }
    }
}

/// What there is to say of a request.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// When it ended, in milliseconds since 1970.
    pub unix_ms: u64,
    pub peer: Option<SocketAddr>,
    /// `GET / HTTP/1.1`, or what came in its place; nothing if it was refused unread.
    pub request: Cut<REQUEST_MAX>,
    pub referer: Cut<FIELD_MAX>,
    pub user_agent: Cut<FIELD_MAX>,
    /// 499 if its connection ended before an answer.
    pub status: u16,
    /// Bytes of the answer's body that were sent, without the framing of chunks.
    pub body_bytes: u64,
    /// From its first byte to its answer's last, in microseconds.
    pub duration_us: u64,
    /// Of these: without a slot.
    pub waited_us: u64,
    /// Its place among the requests of its connection, from 1 on.
    pub number: u32,
    /// By their places in the loop's lists, or [`NO_NUMBER`].
    pub forward: u16,
    pub doorway: u16,
    pub diagnostic: Option<Diagnostic>,
    /// Its answer was not sent to its end.
    pub aborted: bool,
}

const _: () = assert!(size_of::<Record>() <= 1152); // so that a queue of 1024 is little more than 1 MiB

impl Record {
    /// Forgets the request.
    pub(crate) fn clear(&mut self) {
        self.request.clear();
        self.referer.clear();
        self.user_agent.clear();
        self.status = 0;
        self.body_bytes = 0;
        self.doorway = NO_NUMBER;
        self.diagnostic = None;
    }

    /// Whether something was left out.
    pub(super) fn is_cut(&self) -> bool {
        self.request.is_cut() || self.referer.is_cut() || self.user_agent.is_cut()
    }
}

impl QueueRecord for Record {
    fn blank() -> Self {
        Record {
            unix_ms: 0,
            peer: None,
            request: Cut::NOTHING,
            referer: Cut::NOTHING,
            user_agent: Cut::NOTHING,
            status: 0,
            body_bytes: 0,
            duration_us: 0,
            waited_us: 0,
            number: 0,
            forward: NO_NUMBER,
            doorway: NO_NUMBER,
            diagnostic: None,
            aborted: false,
        }
    }

    /// Most requests are short: only what is used of them is copied.
    fn copy_from(&mut self, other: &Self) {
        self.unix_ms = other.unix_ms;
        self.peer = other.peer;
        self.request.copy_from(&other.request);
        self.referer.copy_from(&other.referer);
        self.user_agent.copy_from(&other.user_agent);
        self.status = other.status;
        self.body_bytes = other.body_bytes;
        self.duration_us = other.duration_us;
        self.waited_us = other.waited_us;
        self.number = other.number;
        self.forward = other.forward;
        self.doorway = other.doorway;
        self.diagnostic = other.diagnostic;
        self.aborted = other.aborted;
    }
}
