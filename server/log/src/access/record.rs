//! One request as a record of fixed size. What the client has sent is kept as it came, except that it may be
//! cut; the writer thread, which has the time for it, escapes it for a line.

use crate::Queued;
use std::net::SocketAddr;

/// Where request lines are cut.
pub(super) const REQUEST_MAX: usize = 512;

/// Where `Referer` and `User-Agent` are cut.
pub(super) const FIELD_MAX: usize = 256;

/// The number of no forward and of no doorway.
pub(super) const NO_NUMBER: u16 = u16::MAX;

/// Bytes that a client has sent: at most `N`, and whether there were more.
#[derive(Debug, Clone)]
pub struct Excerpt<const N: usize> {
    bytes: [u8; N],
    len: u16,
    there: bool,
    cut: bool,
}

impl<const N: usize> Excerpt<N> {
    pub(super) const NOTHING: Self = {
        assert!(N <= u16::MAX as usize);
        Excerpt {
            bytes: [0; N],
            len: 0,
            there: false,
            cut: false,
        }
    };

    /// Forgets everything.
    #[inline]
    pub fn clear(&mut self) {
        self.len = 0;
        self.there = false;
        self.cut = false;
    }

    /// Whether anything was.
    #[inline]
    pub fn is_there(&self) -> bool {
        self.there
    }

    /// Appends as much of `part` as fits; after a cut, nothing.
    #[inline]
    pub fn push(&mut self, part: &[u8]) {
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
pub enum Diagnostic {
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
pub struct AccessRecord {
    /// When it ended, in milliseconds since 1970.
    pub unix_ms: u64,
    /// The client, as the front end believes it to be; `None` if it came by a Unix socket.
    pub peer: Option<SocketAddr>,
    /// `GET / HTTP/1.1`, or what came in its place; nothing if it was refused unread.
    pub request: Excerpt<REQUEST_MAX>,
    /// Its `Referer`.
    pub referer: Excerpt<FIELD_MAX>,
    /// Its `User-Agent`.
    pub user_agent: Excerpt<FIELD_MAX>,
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
    /// The forward that it came by: its place in the loop's list, or `NO_NUMBER`.
    pub forward: u16,
    /// The doorway that it went to: its place in the loop's list, or `NO_NUMBER`.
    pub doorway: u16,
    /// Why it failed in the application, if it did.
    pub diagnostic: Option<Diagnostic>,
    /// Its answer was not sent to its end.
    pub aborted: bool,
}

const _: () = assert!(size_of::<AccessRecord>() <= 1152); // so that a queue of 1024 is little more than 1 MiB

impl AccessRecord {
    /// Forgets the request.
    #[inline]
    pub fn clear(&mut self) {
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

impl Queued for AccessRecord {
    fn blank() -> Self {
        AccessRecord {
            unix_ms: 0,
            peer: None,
            request: Excerpt::NOTHING,
            referer: Excerpt::NOTHING,
            user_agent: Excerpt::NOTHING,
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
