//! A request's head: from bytes to a [`Head`], or to the status that says why not.
//!
//! The request line is judged in `line`, the target in `target`; the field section is cut by
//! httparse (no white space before a colon, no folding, no control bytes), and this file adds what
//! httparse leaves to its callers: CRLF only, one Host, and one meaning of the body's length.
//!
//! It does not know what a body may weigh: whether a `Content-Length` is too much (413) depends on
//! the route.

use httparse::Header;

use super::Refusal;
use super::bytes::{decimal, is_token, trim_ows};
use super::limits::HeadLimits;
use super::line::{self, RequestLine};
use super::method::Method;
use super::target::{self, TargetForm, is_authority};

/// How a request's body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFraming {
    /// Neither Content-Length nor Transfer-Encoding: there is no body.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks, to be read by [`super::ChunkDecoder`].
    Chunked,
}

/// What [`parse`] found.
#[derive(Debug)]
pub enum Parsed<'h, 'b> {
    /// Nothing wrong so far, and the head has not ended: read on.
    Partial,
    /// The whole head.
    Complete(Head<'h, 'b>),
}

/// A whole and well-formed head. Having one proves that rows 1 to 15 of the contract hold, that its
/// length, target and number of fields are within the limits, and that its body has exactly one
/// reading.
#[derive(Debug)]
#[expect(
    clippy::manual_non_exhaustive,
    reason = "the attribute would let the rest of this crate make a head without parsing"
)]
pub struct Head<'h, 'b> {
    /// The method, for routing. Never CONNECT or TRACE.
    pub method: Method,
    /// The method as it was sent, a token of at most 32 bytes.
    pub method_text: &'b str,
    /// The target as it was sent: printable ASCII.
    pub target: &'b str,
    /// Which form the target has.
    pub form: TargetForm,
    /// The target's path, not decoded: begins with `/`, also where an absolute-form has none; `*`
    /// for [`TargetForm::Asterisk`].
    pub path: &'b str,
    /// What follows the target's first `?`, not decoded.
    pub query: Option<&'b str>,
    /// 0 or 1. Minor versions above 1 count as 1.
    pub version_minor: u8,
    /// `uri-host [":" port]` of the absolute-form, else of the Host field; empty if that was empty,
    /// or missing from an HTTP/1.0 request.
    pub host: &'b str,
    /// How the body ends.
    pub body: BodyFraming,
    /// Whether the client lets the connection stay open.
    pub keep_alive: bool,
    /// Whether the client waits for a `100 Continue` before it sends a body, which is to be
    /// expected.
    pub expect_continue: bool,
    /// All fields in the order sent; values without the white space around them.
    pub fields: &'h [Header<'b>],
    /// Bytes up to and including the empty line, empty lines before the request line included. The
    /// body begins here.
    pub head_len: usize,
    /// Only [`parse`] makes heads.
    _parsed: (),
}

/// Reads the head at the start of `bytes`, which is everything received since the last request
/// ended.
///
/// `fields` is the place for the parsed fields; no more than it holds are accepted, whatever the
/// limits say. The verdict on a head does not depend on how it arrives: each prefix gives
/// [`Parsed::Partial`] or the refusal that the whole gives.
///
/// # Errors
///
/// 400, 414, 417, 431, 501 or 505, at the first byte that decides it. The connection must be closed
/// then.
pub fn parse<'h, 'b>(
    bytes: &'b [u8],
    limits: &HeadLimits,
    fields: &'h mut [Header<'b>],
) -> Result<Parsed<'h, 'b>, Refusal> {
    // A head that ends beyond the limit must look as if it did not end, or the verdict would depend
    // on how many bytes one read brought.
    let window = &bytes[..bytes.len().min(limits.head_max)];
    let overlong = window.len() == limits.head_max;

    let Some(line) = line::parse(window, limits)? else {
        return partial(
            overlong,
            Refusal::new(414, "a request line longer than the head limit"),
        );
    };
    let target = target::parse(line.target, line.method)?;

    let section = &window[line.len..];
    let fields_max = fields.len().min(limits.fields_max);
    let (section_len, fields) = match httparse::parse_headers(section, &mut fields[..fields_max]) {
        Ok(httparse::Status::Complete(found)) => found,
        Ok(httparse::Status::Partial) => {
            return partial(
                overlong,
                Refusal::new(431, "fields longer than the head limit"),
            );
        }
        Err(error) => return Err(field_refusal(error)),
    };
    if !has_crlf_only(&section[..section_len], fields) {
        return Err(Refusal::bad("a line that ends in a bare LF"));
    }

    let meaning = Meaning::of(fields, &line)?;
    let host = match target.authority {
        Some(authority) => authority,
        None => meaning.host,
    };
    Ok(Parsed::Complete(Head {
        method: line.method,
        method_text: line.method_text,
        target: line.target,
        form: target.form,
        path: target.path,
        query: target.query,
        version_minor: line.version_minor,
        host,
        body: meaning.body,
        keep_alive: meaning.keep_alive,
        expect_continue: meaning.expect_continue,
        fields,
        head_len: line.len + section_len,
        _parsed: (),
    }))
}

fn partial<'h, 'b>(overlong: bool, refusal: Refusal) -> Result<Parsed<'h, 'b>, Refusal> {
    if overlong {
        Err(refusal)
    } else {
        Ok(Parsed::Partial)
    }
}

fn field_refusal(error: httparse::Error) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => Refusal::new(431, "more fields than the limit"),
        httparse::Error::HeaderName => {
            Refusal::bad("a field name that is no token followed by a colon")
        }
        httparse::Error::HeaderValue => Refusal::bad("a control byte in a field value"),
        httparse::Error::NewLine
        | httparse::Error::Status
        | httparse::Error::Token
        | httparse::Error::Version => Refusal::bad("a CR without LF after the fields"),
    }
}

/// Whether every line of `section` ends in CRLF, not in LF alone, which httparse takes for an end
/// as well.
///
/// A field's name begins right behind the line end before it, so it is enough to look there and at
/// the very end; values hold no line ends.
fn has_crlf_only(section: &[u8], fields: &[Header<'_>]) -> bool {
    let Some((_, others)) = fields.split_first() else {
        return section == b"\r\n";
    };
    let start = section.as_ptr().addr();
    section.ends_with(b"\r\n\r\n")
        && others
            .iter()
            .all(|field| section[..field.name.as_ptr().addr() - start].ends_with(b"\r\n"))
}

/// What the fields say about the message itself.
struct Meaning<'b> {
    host: &'b str,
    body: BodyFraming,
    keep_alive: bool,
    expect_continue: bool,
}

impl<'b> Meaning<'b> {
    fn of(fields: &[Header<'b>], line: &RequestLine<'_>) -> Result<Self, Refusal> {
        let mut host = None;
        let mut length = None;
        let mut coding = None;
        let mut connection = ConnectionOptions::default();
        let mut expects = false;
        for &Header { name, value } in fields {
            // The length tells nearly all other fields apart without looking at them.
            match name.len() {
                4 if name.eq_ignore_ascii_case("host") => {
                    once(&mut host, value, "more than one Host")?;
                }
                6 if name.eq_ignore_ascii_case("expect") => {
                    if !value.eq_ignore_ascii_case(b"100-continue") {
                        return Err(Refusal::new(417, "an expectation other than 100-continue"));
                    }
                    expects = true;
                }
                10 if name.eq_ignore_ascii_case("connection") => connection.read(value),
                14 if name.eq_ignore_ascii_case("content-length") => {
                    once(&mut length, value, "more than one Content-Length")?;
                }
                17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                    once(&mut coding, value, "more than one Transfer-Encoding")?;
                }
                _ => {}
            }
        }

        let body = body_framing(length, coding, line.version_minor)?;
        // RFC 9110 §10.1.1: ignored in HTTP/1.0; and without a body there is nothing to wait for.
        let has_body = !matches!(body, BodyFraming::None | BodyFraming::Length(0));
        Ok(Self {
            host: host_text(host, line.version_minor)?,
            body,
            keep_alive: !connection.close && (line.version_minor == 1 || connection.keep_alive),
            expect_continue: expects && has_body && line.version_minor == 1,
        })
    }
}

/// Notes the value of a field that may come only once.
fn once<'b>(
    seen: &mut Option<&'b [u8]>,
    value: &'b [u8],
    twice: &'static str,
) -> Result<(), Refusal> {
    if seen.replace(value).is_some() {
        Err(Refusal::bad(twice))
    } else {
        Ok(())
    }
}

/// The Host field's value. An HTTP/1.1 request must have one, also beside an absolute-form; it may
/// be empty.
fn host_text(host: Option<&[u8]>, version_minor: u8) -> Result<&str, Refusal> {
    match host {
        None if version_minor == 0 => Ok(""),
        None => Err(Refusal::bad("an HTTP/1.1 request without Host")),
        Some(value) if value.is_empty() || is_authority(value) => line::ascii(value),
        Some(_) => Err(Refusal::bad("an invalid Host")),
    }
}

/// The one meaning of Content-Length and Transfer-Encoding (RFC 9112 §6.3), refusing whatever two
/// recipients could read in two ways.
fn body_framing(
    length: Option<&[u8]>,
    coding: Option<&[u8]>,
    version_minor: u8,
) -> Result<BodyFraming, Refusal> {
    match (length, coding) {
        (None, None) => Ok(BodyFraming::None),
        (Some(digits), None) => match decimal(digits) {
            Some(length) => Ok(BodyFraming::Length(length)),
            None => Err(Refusal::bad(
                "a Content-Length that is no number of 64 bits",
            )),
        },
        (Some(_), Some(_)) => Err(Refusal::bad("both Content-Length and Transfer-Encoding")),
        (None, Some(_)) if version_minor == 0 => Err(Refusal::bad("Transfer-Encoding in HTTP/1.0")),
        (None, Some(coding)) if coding.eq_ignore_ascii_case(b"chunked") => Ok(BodyFraming::Chunked),
        (None, Some(coding)) => Err(coding_refusal(coding)),
    }
}

/// Why a Transfer-Encoding other than plain `chunked` is refused: 501 if it is a well-formed list
/// that ends in its only `chunked` (the body could be framed, but not understood), else 400.
fn coding_refusal(coding: &[u8]) -> Refusal {
    let mut last_is_chunked = false;
    for member in coding.split(|&byte| byte == b',') {
        let member = trim_ows(member);
        if member.is_empty() || !member.iter().all(|&byte| is_token(byte)) {
            return Refusal::bad("a malformed Transfer-Encoding");
        }
        if last_is_chunked {
            return Refusal::bad("a transfer coding after chunked");
        }
        last_is_chunked = member.eq_ignore_ascii_case(b"chunked");
    }
    if last_is_chunked {
        Refusal::new(501, "a transfer coding other than chunked")
    } else {
        Refusal::bad("a Transfer-Encoding that does not end in chunked")
    }
}

/// Options of all Connection fields together. Whole tokens count: `closeness` is not `close`.
#[derive(Default)]
struct ConnectionOptions {
    close: bool,
    keep_alive: bool,
}

impl ConnectionOptions {
    fn read(&mut self, value: &[u8]) {
        for option in value.split(|&byte| byte == b',').map(trim_ows) {
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }
}
