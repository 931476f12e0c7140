//! What clients ask for, what the application is to do about it, and what became of it.

use super::clock::{MS, US, VirtualClock};
use std::fmt::Write as _;

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// The application behind a doorway.
    Door(u16),
    /// `OPTIONS *`.
    Server,
    /// No route.
    Nothing,
    /// A route that takes another method.
    OtherMethod,
    /// No application: the request is not well-formed, and gets this status.
    Refused(u16),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    None,
    Length(usize),
    Chunked(usize),
}

impl Body {
    pub(super) fn len(self) -> usize {
        match self {
            Body::None => 0,
            Body::Length(len) | Body::Chunked(len) => len,
        }
    }
}

/// An application's reply when it is asked about a request before the body is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Early {
    Takes,
    BodyFirst,
    BodiesFirst,
}

/// How a handler ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// With the end of its answer.
    Heard,
    /// With an outcome that is no answer, in place of one, or after so many pieces of it.
    Outcome(u32),
    /// With bytes that are no reply.
    Noise,
    /// With a field that no answer may have.
    BadField,
    /// Never again, on that thread.
    Lost,
    /// Not at all.
    Never,
    /// With its answer, which it changes while that is sent.
    Meddles,
}

/// What a handler does.
#[derive(Debug, Clone)]
pub(super) struct App {
    pub early: Early,
    pub runs_ns: u64,
    /// It reads so many pieces of a body that is streamed.
    pub reads: usize,
    pub status: u16,
    pub len: usize,
    /// Bytes of the parts of an answer that is streamed; all at once, if there are none.
    pub pieces: Vec<usize>,
    pub gap_ns: u64,
    pub says_length: bool,
    /// It begins its answer before it reads the body.
    pub answers_first: bool,
    pub end: End,
}

/// A request.
#[derive(Clone)]
pub(super) struct Request {
    pub id: usize,
    pub method: &'static str,
    pub minor: u8,
    pub target: Target,
    pub body: Body,
    pub expects: bool,
    /// What its `Connection` says, if there is one.
    pub connection: Option<&'static str>,
    pub app: App,
    pub bytes: Vec<u8>,
    pub head_len: usize,
}

impl Request {
    /// Whether its client lets the connection stay open.
    pub(super) fn wants_more(&self) -> bool {
        match self.connection {
            Some(named) => named == "keep-alive",
            None => self.minor == 1,
        }
    }

    pub(super) fn head_only(&self) -> bool {
        self.method == "HEAD"
    }

    /// What a reader of its answer must know: whether it is a HEAD, and its minor version.
    pub(super) fn kind(&self) -> (bool, u8) {
        (self.head_only(), self.minor)
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (minor, target, body) = (self.minor, self.target, self.body);
        let (id, method, bytes) = (self.id, self.method, self.bytes.len());
        write!(
            f,
            "request {id}: {method} HTTP/1.{minor} for {target:?}, {body:?}, "
        )?;
        write!(
            f,
            "expects {}, {:?}, {bytes} bytes; ",
            self.expects, self.connection
        )?;
        write!(f, "{:?}", self.app)
    }
}

/// What became of a request.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    /// Handlers that began with it.
    pub runs: u32,
    /// Threads that took it up, which need not have begun.
    pub claims: u32,
    /// Its body, as far as a handler has read it; and whether it was told that this is all.
    pub body: Vec<u8>,
    pub body_ended: bool,
    /// How often a handler has asked for more of its body and was given some, or its end.
    pub reads: u64,
    /// The body of the answer, as the handler means it to be, once it has begun.
    pub answer: Option<Vec<u8>>,
    /// The handler's end was told to the caller.
    pub ended: bool,
    /// The process died while it ran, or while it waited.
    pub died: bool,
    pub lost: bool,
    pub given_up: bool,
    /// When its last byte was sent, and when its answer was there.
    pub sent_ns: Option<u64>,
    pub answered_ns: Option<u64>,
    /// When its first byte was sent.
    pub begun_ns: Option<u64>,
}

/// A request and what became of it.
pub(super) struct Entry {
    pub request: Request,
    pub facts: Facts,
}

/// Bytes that belong to one number only. Line ends are among them.
pub(super) fn filler(of: usize, len: usize) -> Vec<u8> {
    let mut state = (of as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let byte = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        match state as u8 {
            byte @ 0..=200 => byte % 60 + 40,
            201..=215 => b'\r',
            216..=230 => b'\n',
            byte => byte,
        }
    };
    (0..len).map(byte).collect()
}

/// A request's body.
pub(super) fn body_of(id: usize, body: Body) -> Vec<u8> {
    filler(id, body.len())
}

/// What an answer's body is: it names its request, and what was read of that one's body.
pub(super) fn answer_to(id: usize, read: &[u8], len: usize) -> Vec<u8> {
    let digest = read.iter().fold(0xcbf2_9ce4_8422_2325_u64, |digest, byte| {
        (digest ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    let mut answer = format!("id={id} read={} digest={digest:x}\n", read.len()).into_bytes();
    let rest = len.saturating_sub(answer.len());
    answer.extend(filler(id ^ 0x5555, rest));
    answer
}

/// Writes a request down.
pub(super) fn write(request: &mut Request, clock: &mut VirtualClock) {
    let mut head = String::new();
    let id = request.id;
    let target = match request.target {
        Target::Door(door) => format!("/d{door}/{id}"),
        Target::Server => "*".to_owned(),
        Target::Nothing => format!("/nothing/{id}"),
        Target::OtherMethod => format!("/get/{id}"),
        Target::Refused(_) => format!("/d0/{id}"),
    };
    let (method, minor) = (request.method, request.minor);
    let _ = write!(head, "{method} {target} HTTP/1.{minor}\r\nHost: a\r\n");
    for n in 0..clock.rng.usize(0..4) {
        let len = clock.rng.usize(0..40);
        let _ = write!(head, "X-{n}: {}\r\n", "v".repeat(len));
    }
    if clock.once_in(40) {
        for n in 0..30 {
            let _ = write!(head, "F{n}: \r\n");
        }
    }
    if let Some(connection) = request.connection {
        let _ = write!(head, "Connection: {connection}\r\n");
    }
    if request.expects {
        head.push_str("Expect: 100-continue\r\n");
    }
    match request.body {
        Body::None => {}
        Body::Length(len) => {
            let _ = write!(head, "Content-Length: {len}\r\n");
        }
        Body::Chunked(_) => head.push_str("Transfer-Encoding: chunked\r\n"),
    }
    match request.target {
        Target::Refused(400) => head.push_str("Bad Field: x\r\n"),
        Target::Refused(505) => head = head.replace("HTTP/1.", "HTTP/2."),
        Target::Refused(417) => head.push_str("Expect: much\r\n"),
        Target::Refused(501) => head.push_str("Transfer-Encoding: gzip, chunked\r\n"),
        Target::Refused(431) => {
            for n in 0..120 {
                let _ = write!(head, "Y{n}: \r\n");
            }
        }
        _ => {}
    }
    head.push_str("\r\n");
    request.head_len = head.len();
    request.bytes = head.into_bytes();
    let body = body_of(id, request.body);
    match request.body {
        Body::Chunked(_) => put_chunks(&mut request.bytes, &body, clock),
        Body::None | Body::Length(_) => request.bytes.extend(body),
    }
    // As old clients do behind a body (RFC 9112 §2.2).
    for _ in 0..clock.rng.usize(0..40).saturating_sub(36) {
        request.bytes.extend(b"\r\n");
    }
}

fn put_chunks(bytes: &mut Vec<u8>, body: &[u8], clock: &mut VirtualClock) {
    let mut rest = body;
    while !rest.is_empty() {
        let len = clock.rng.usize(1..=rest.len().min(3000));
        let (chunk, behind) = rest.split_at(len);
        let extension = if clock.once_in(6) { ";x=y" } else { "" };
        bytes.extend(format!("{len:x}{extension}\r\n").into_bytes());
        bytes.extend(chunk);
        bytes.extend(b"\r\n");
        rest = behind;
    }
    bytes.extend(b"0\r\n");
    if clock.once_in(6) {
        bytes.extend(b"T: t\r\n");
    }
    bytes.extend(b"\r\n");
}

/// A handler that does its work.
pub(super) fn good_app(clock: &mut VirtualClock, reply_size: usize) -> App {
    let len = match clock.rng.u32(0..10) {
        0 => 0,
        1..=6 => clock.rng.usize(0..300),
        7 | 8 => clock.rng.usize(0..reply_size * 3 / 4),
        _ => clock.rng.usize(0..reply_size * 4),
    };
    let mut app = App {
        early: *clock.pick(&[
            Early::Takes,
            Early::BodyFirst,
            Early::BodyFirst,
            Early::BodiesFirst,
        ]),
        runs_ns: match clock.rng.u32(0..10) {
            0..=6 => clock.rng.u64(0..50 * US),
            7 | 8 => clock.rng.u64(0..MS),
            _ => clock.rng.u64(0..5 * MS),
        },
        reads: usize::MAX,
        status: *clock.pick(&[200, 200, 200, 200, 200, 200, 204, 304, 404, 503]),
        len,
        pieces: Vec::new(),
        gap_ns: clock.rng.u64(0..100 * US),
        says_length: clock.once_in(2),
        answers_first: false,
        end: End::Heard,
    };
    // The first line of an answer is about 60 bytes.
    let most = reply_size - 600;
    if len + 80 > most || clock.once_in(4) {
        let mut left = len + 80;
        while left > 0 {
            let piece = clock.rng.usize(0..=left.min(most));
            app.pieces.push(piece);
            left -= piece;
        }
        app.answers_first = clock.once_in(5);
    }
    app
}
