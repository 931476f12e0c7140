//! The request frame: written by the front end from a head that it has parsed, read by the application.

use std::net::SocketAddr;
use std::str;

use thiserror::Error;

use super::peer::{address_at, decode_peer, encode_peer};
use super::{FrameError, TooLarge, UNKNOWN, VERSION, header, length_at, u16_at, u32_at};
use crate::syntax::is_token;

const KIND: u8 = b'Q';
const HEADER_LEN: usize = 80;
const FIELD_LEN: usize = 16;

const HEAD_ONLY: u8 = 1;
const STREAMED: u8 = 2;
const HAS_QUERY: u8 = 4;
const HAS_HOST: u8 = 8;
const EARLY: u8 = 16;

/// Where the numbers lie; the table is in the parent module.
mod at {
    pub const MINOR: usize = 2;
    pub const FLAGS: usize = 3;
    pub const PEER_KIND: usize = 4;
    pub const ZERO: usize = 5;
    pub const PORT: usize = 6;
    pub const ADDRESS: usize = 8;
    pub const CONTENT_LENGTH: usize = 24;
    pub const HEAD_LEN: usize = 32;
    pub const PATH_LEN: usize = 36;
    pub const FIELDS: usize = 40;
    pub const BODY_LEN: usize = 44;
    pub const METHOD: usize = 48;
    pub const TARGET: usize = 56;
    pub const QUERY: usize = 64;
    pub const HOST: usize = 72;
}

/// What the front end knows of a request once its head is parsed. All parts but `path` are slices of `head`.
#[derive(Clone, Copy, Debug)]
pub struct RequestParts<'a> {
    /// The head as it came, from the request line to the blank line.
    pub head: &'a [u8],
    /// The method, a token.
    pub method: &'a [u8],
    /// The request target as it came (ASCII).
    pub target: &'a [u8],
    /// The target's path, percent-decoded and with its dot segments resolved: UTF-8, in any memory.
    pub path: &'a [u8],
    /// What follows the first `?` of the target, as it came; `None` without a `?`.
    pub query: Option<&'a [u8]>,
    /// The host that the request is for: the authority of an absolute-form target, which replaces the Host
    /// field (RFC 9112 §3.2.2), else that field's value.
    pub host: Option<&'a [u8]>,
    /// 0 for HTTP/1.0, 1 for HTTP/1.1 and above.
    pub minor: u8,
    /// The client's address; `None` for a Unix socket. Flow label and scope of IPv6 are not kept.
    pub peer: Option<SocketAddr>,
    /// The reply's body is not wanted (HEAD).
    pub head_only: bool,
    /// The announced length of the whole body; `None` if it is chunked or there is none.
    pub content_length: Option<u64>,
}

/// Where a request frame's parts ended up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Bytes of the client's head in the frame.
    pub head_len: usize,
    /// Where the body starts. Put it there, then call [`set_request_body`]; the frame is `body_offset` bytes
    /// and the body long.
    pub body_offset: usize,
}

/// Why a request could not be written.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum EncodeError {
    /// It does not fit the slot, whatever its body: 431 or 414.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// A part is not a slice of the head: the caller's bug.
    #[error("a part of the request is not a slice of its head")]
    OutsideHead,
}

/// A part of the head, by place.
#[derive(Clone, Copy)]
struct Span {
    offset: u32,
    len: u32,
}

impl Span {
    const NONE: Self = Self { offset: 0, len: 0 };

    /// The place of `part`, which must be a slice of `head`. Empty parts lie anywhere: parsers use `""` for
    /// them.
    fn of(part: &[u8], head: &[u8]) -> Result<Self, EncodeError> {
        if part.is_empty() {
            return Ok(Self::NONE);
        }
        let offset = part.as_ptr().addr().wrapping_sub(head.as_ptr().addr());
        if offset > head.len() || part.len() > head.len() - offset {
            return Err(EncodeError::OutsideHead);
        }
        // `encode_request` has checked that the head's length, and so these, fit 32 bits.
        Ok(Self {
            offset: offset as u32,
            len: part.len() as u32,
        })
    }

    fn at(bytes: &[u8], at: usize) -> Self {
        Self {
            offset: u32_at(bytes, at),
            len: u32_at(bytes, at + 4),
        }
    }

    fn write(self, out: &mut [u8]) {
        out[..4].copy_from_slice(&self.offset.to_le_bytes());
        out[4..8].copy_from_slice(&self.len.to_le_bytes());
    }

    fn slice(self, head: &[u8]) -> Option<&[u8]> {
        head.get(self.offset as usize..)?.get(..self.len as usize)
    }

    /// The part as text. `whole` is the head as text, if it is: then that need not be asked for each part.
    fn text<'h>(self, head: &'h [u8], whole: Option<&'h str>) -> Result<&'h str, FrameError> {
        let (from, len) = (self.offset as usize, self.len as usize);
        if let Some(part) = whole.and_then(|text| text.get(from..)?.get(..len)) {
            return Ok(part);
        }
        let bytes = self.slice(head).ok_or(FrameError::Part)?;
        text(bytes).ok_or(FrameError::Text)
    }
}

/// Writes a request without its body into a slot. `fields` gives names and values as slices of the head.
///
/// # Errors
/// [`EncodeError::TooLarge`] when the slot has no room for it (it says how much there must be), and
/// [`EncodeError::OutsideHead`] when a part is not a slice of the head. The slot's bytes are then worthless.
pub fn encode_request<'a>(
    out: &mut [u8],
    parts: &RequestParts<'a>,
    fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
) -> Result<Encoded, EncodeError> {
    let head = parts.head;
    let index_offset = HEADER_LEN
        .saturating_add(head.len())
        .saturating_add(parts.path.len());
    // No number in the frame may exceed 32 bits, however large the slot.
    let room = out.len().min(u32::MAX as usize);
    if index_offset > room {
        let needed =
            index_offset.saturating_add(fields.into_iter().count().saturating_mul(FIELD_LEN));
        return Err(TooLarge { needed }.into());
    }
    out[HEADER_LEN..HEADER_LEN + head.len()].copy_from_slice(head);
    out[HEADER_LEN + head.len()..index_offset].copy_from_slice(parts.path);

    let mut count: u32 = 0;
    let mut end = index_offset;
    for (name, value) in fields {
        let start = end;
        end = end.saturating_add(FIELD_LEN);
        // Counts on past the end of the slot, so that the error can say how much it takes.
        if end <= room {
            let entry = &mut out[start..end];
            Span::of(name, head)?.write(&mut entry[..8]);
            Span::of(value, head)?.write(&mut entry[8..]);
            count += 1;
        }
    }
    if end > room {
        return Err(TooLarge { needed: end }.into());
    }

    write_header(&mut out[..HEADER_LEN], parts, count)?;
    Ok(Encoded {
        head_len: head.len(),
        body_offset: end,
    })
}

/// Writes the header of a request with so many fields and no body.
#[inline]
fn write_header(
    header: &mut [u8],
    parts: &RequestParts<'_>,
    count: u32,
) -> Result<(), EncodeError> {
    let head = parts.head;
    let mut flags = 0;
    for (flag, set) in [
        (HEAD_ONLY, parts.head_only),
        (HAS_QUERY, parts.query.is_some()),
        (HAS_HOST, parts.host.is_some()),
    ] {
        flags |= if set { flag } else { 0 };
    }
    let (peer_kind, port, address) = encode_peer(parts.peer);
    header[0] = KIND;
    header[1] = VERSION;
    header[at::MINOR] = parts.minor.min(1);
    header[at::FLAGS] = flags;
    header[at::PEER_KIND] = peer_kind;
    header[at::ZERO] = 0;
    header[at::PORT..at::PORT + 2].copy_from_slice(&port.to_le_bytes());
    header[at::ADDRESS..at::ADDRESS + 16].copy_from_slice(&address);
    let content_length = parts.content_length.unwrap_or(UNKNOWN);
    header[at::CONTENT_LENGTH..at::CONTENT_LENGTH + 8]
        .copy_from_slice(&content_length.to_le_bytes());
    header[at::HEAD_LEN..at::HEAD_LEN + 4].copy_from_slice(&(head.len() as u32).to_le_bytes());
    header[at::PATH_LEN..at::PATH_LEN + 4]
        .copy_from_slice(&(parts.path.len() as u32).to_le_bytes());
    header[at::FIELDS..at::FIELDS + 4].copy_from_slice(&count.to_le_bytes());
    header[at::BODY_LEN..at::BODY_LEN + 4].fill(0);
    Span::of(parts.method, head)?.write(&mut header[at::METHOD..]);
    Span::of(parts.target, head)?.write(&mut header[at::TARGET..]);
    Span::of(parts.query.unwrap_or_default(), head)?.write(&mut header[at::QUERY..]);
    Span::of(parts.host.unwrap_or_default(), head)?.write(&mut header[at::HOST..]);
    Ok(())
}

/// Says how much of the body lies in the frame, and whether the rest of it comes in pieces.
///
/// # Panics
/// If `out` does not start with a request's header, or the body is longer than 4 GiB: the caller's bugs.
pub fn set_request_body(out: &mut [u8], body_len: usize, streamed: bool) {
    assert!(
        out.len() >= HEADER_LEN && out[0] == KIND,
        "encode_request comes first"
    );
    let body_len = u32::try_from(body_len).expect("a body in a slot is shorter than 4 GiB");
    out[at::BODY_LEN..at::BODY_LEN + 4].copy_from_slice(&body_len.to_le_bytes());
    out[at::FLAGS] = (out[at::FLAGS] & !(STREAMED | EARLY)) | if streamed { STREAMED } else { 0 };
}

/// After [`set_request_body`]: the body is still coming, and the application is asked before it is waited
/// for. It may take the rest in pieces, answer without it, or have all of it first
/// ([`outcome::BODY_FIRST`](super::outcome::BODY_FIRST)).
///
/// # Panics
/// If `out` does not start with a request's header: the caller's bug.
pub fn set_request_early(out: &mut [u8]) {
    assert!(
        out.len() >= HEADER_LEN && out[0] == KIND,
        "encode_request comes first"
    );
    out[at::FLAGS] |= STREAMED | EARLY;
}

/// The client's head in a frame that [`encode_request`] has written. Empty if the bytes are none.
pub fn request_head(frame: &[u8]) -> &[u8] {
    let Some(header) = frame.first_chunk::<HEADER_LEN>() else {
        return &[];
    };
    let len = u32_at(header, at::HEAD_LEN) as usize;
    frame[HEADER_LEN..].get(..len).unwrap_or_default()
}

/// A request as it lies in a slot. Having one proves: every part lies within the slot's bytes, the method and
/// the names of the fields are tokens, and method, target, query, host and path are text. It does not prove
/// that they make sense.
#[derive(Clone, Copy, Debug)]
pub struct RawRequest<'a> {
    /// The method, a token.
    pub method: &'a str,
    /// The request target as it came.
    pub target: &'a str,
    /// The path, percent-decoded and with its dot segments resolved.
    pub path: &'a str,
    /// What follows the target's first `?`, as it came.
    pub query: Option<&'a str>,
    /// The host that the request is for; see [`RequestParts::host`].
    pub host: Option<&'a str>,
    /// 0 or 1: the minor version of HTTP/1.
    pub minor: u8,
    /// The client's address; `None` for a Unix socket.
    pub peer: Option<SocketAddr>,
    /// The reply's body is not wanted.
    pub head_only: bool,
    /// `body` is only the first part, the rest comes in pieces.
    pub streamed: bool,
    /// The same, and the front end will wait for all of the body if the handler wants that; see
    /// [`set_request_early`].
    pub early: bool,
    /// The announced length of the whole body.
    pub content_length: Option<u64>,
    /// The fields, in their order.
    pub fields: RawFields<'a>,
    /// The body, or its first part.
    pub body: &'a [u8],
}

/// The fields of a request, in their order: an iterator over names and values.
#[derive(Clone, Copy, Debug)]
pub struct RawFields<'a> {
    head: &'a [u8],
    index: &'a [u8],
}

impl<'a> Iterator for RawFields<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (entry, rest) = self.index.split_first_chunk::<FIELD_LEN>()?;
        self.index = rest;
        // `decode_request` found both within the head; asking again costs less than a proof that it did.
        Some((
            Span::at(entry, 0).slice(self.head)?,
            Span::at(entry, 8).slice(self.head)?,
        ))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let len = self.index.len() / FIELD_LEN;
        (len, Some(len))
    }
}

impl ExactSizeIterator for RawFields<'_> {}

/// Reads a request from a slot's bytes, which must end where the frame ends.
///
/// # Errors
/// The first thing that is wrong with the bytes. Only [`FrameError::PathNotUtf8`] can be caused by a client.
pub fn decode_request(bytes: &[u8]) -> Result<RawRequest<'_>, FrameError> {
    let header = header::<HEADER_LEN>(bytes, KIND)?;
    let (flags, minor) = (header[at::FLAGS], header[at::MINOR]);
    if flags & !(HEAD_ONLY | STREAMED | HAS_QUERY | HAS_HOST | EARLY) != 0
        || minor > 1
        || header[at::ZERO] != 0
    {
        return Err(FrameError::Header);
    }
    let peer = decode_peer(
        header[at::PEER_KIND],
        u16_at(header, at::PORT),
        address_at(header, at::ADDRESS),
    )?;

    let rest = &bytes[HEADER_LEN..];
    let (head, rest) = split(rest, u32_at(header, at::HEAD_LEN))?;
    let (path, rest) = split(rest, u32_at(header, at::PATH_LEN))?;
    let fields = u64::from(u32_at(header, at::FIELDS)) * FIELD_LEN as u64;
    let (index, body) = split(rest, u32::try_from(fields).map_err(|_| FrameError::Length)?)?;
    if body.len() != u32_at(header, at::BODY_LEN) as usize {
        return Err(FrameError::Length);
    }
    let streamed = flags & STREAMED != 0;
    let early = flags & EARLY != 0;
    if early && !streamed {
        return Err(FrameError::Header);
    }
    let content_length = length_at(header, at::CONTENT_LENGTH);
    let here = body.len() as u64;
    if content_length.is_some_and(|whole| here > whole || (here < whole && !streamed)) {
        return Err(FrameError::Length);
    }

    let whole = text(head);
    let method = Span::at(header, at::METHOD).text(head, whole)?;
    let target = Span::at(header, at::TARGET).text(head, whole)?;
    let query = Span::at(header, at::QUERY).text(head, whole)?;
    let host = Span::at(header, at::HOST).text(head, whole)?;
    if !is_token(method.as_bytes()) || target.is_empty() {
        return Err(FrameError::Text);
    }
    let (query, host) = (
        optional(query, flags & HAS_QUERY)?,
        optional(host, flags & HAS_HOST)?,
    );
    for entry in index.chunks_exact(FIELD_LEN) {
        let name = Span::at(entry, 0).slice(head).ok_or(FrameError::Part)?;
        Span::at(entry, 8).slice(head).ok_or(FrameError::Part)?;
        if !is_token(name) {
            return Err(FrameError::Text);
        }
    }
    Ok(RawRequest {
        method,
        target,
        path: text(path).ok_or(FrameError::PathNotUtf8)?,
        query,
        host,
        minor,
        peer,
        head_only: flags & HEAD_ONLY != 0,
        streamed,
        early,
        content_length,
        fields: RawFields { head, index },
        body,
    })
}

/// The bytes as text, if they are UTF-8. Nearly all are ASCII, which takes a tenth of the time to see.
fn text(bytes: &[u8]) -> Option<&str> {
    if bytes.is_ascii() {
        // SAFETY: ASCII is UTF-8.
        return Some(unsafe { str::from_utf8_unchecked(bytes) });
    }
    str::from_utf8(bytes).ok()
}

fn split(bytes: &[u8], len: u32) -> Result<(&[u8], &[u8]), FrameError> {
    bytes
        .split_at_checked(len as usize)
        .ok_or(FrameError::Length)
}

/// A part that is absent must not have bytes: there is one way to say "none".
fn optional(part: &str, present: u8) -> Result<Option<&str>, FrameError> {
    match (present != 0, part.is_empty()) {
        (true, _) => Ok(Some(part)),
        (false, true) => Ok(None),
        (false, false) => Err(FrameError::Header),
    }
}
