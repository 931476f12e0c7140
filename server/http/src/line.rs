//! The request line: `method SP target SP HTTP/d.d CRLF`, and the few empty lines allowed before
//! it.
//!
//! Ours rather than httparse's, which takes bare LF and bytes of 0x80 and up, knows no version but
//! 1.0 and 1.1, and cannot tell which rule was broken, so that 400, 414, 501 and 505 would all look
//! alike. The line is judged from left to right, each byte as soon as it is here: garbage is
//! refused at its first byte.

use super::Refusal;
use super::bytes::{hex_digit, is_target, is_token};
use super::limits::HeadLimits;
use super::method::{METHOD_MAX, Method};

/// RFC 9112 §2.2 asks servers to skip "at least one" empty line before the request line (old
/// clients end a body with one too many). A client that sends more of them than this is not one of
/// those.
const EMPTY_LINES_MAX: usize = 4;

/// The content type byte of a TLS handshake record: a client speaks HTTPS to a plain-text port.
const TLS_HANDSHAKE: u8 = 0x16;

/// A complete request line. Having one proves rows 4 (target bytes), 5 and 6 of the contract.
pub(super) struct RequestLine<'b> {
    pub(super) method: Method,
    pub(super) method_text: &'b str,
    /// Printable ASCII without `#`, every `%` followed by two digits that are not `00`.
    pub(super) target: &'b str,
    /// 0 or 1; every 1.x from 1.1 on counts as 1.1.
    pub(super) version_minor: u8,
    /// Bytes up to and including the line end, empty lines before it included.
    pub(super) len: usize,
}

/// Reads the request line at the start of `bytes`; `None` while its end is not there.
pub(super) fn parse<'b>(
    bytes: &'b [u8],
    limits: &HeadLimits,
) -> Result<Option<RequestLine<'b>>, Refusal> {
    let Some(start) = skip_empty_lines(bytes)? else {
        return Ok(None);
    };
    let Some(method) = method(&bytes[start..])? else {
        return Ok(None);
    };
    let after_method = start + method.len() + 1;
    let Some(target) = target(&bytes[after_method..], limits.target_max)? else {
        return Ok(None);
    };
    let after_target = after_method + target.len() + 1;
    let Some(version_minor) = version(&bytes[after_target..])? else {
        return Ok(None);
    };

    if method == b"CONNECT" {
        return Err(Refusal::new(501, "CONNECT is for proxies"));
    }
    if method == b"TRACE" {
        return Err(Refusal::new(501, "TRACE is switched off"));
    }
    Ok(Some(RequestLine {
        method: Method::from_token(method),
        method_text: ascii(method)?,
        target: ascii(target)?,
        version_minor,
        len: after_target + b"HTTP/1.1\r\n".len(),
    }))
}

/// Whether the request at the start of `bytes` is a HEAD, as far as can be seen, whatever else is wrong with
/// it: then no answer to it has a body.
#[inline]
pub fn begins_with_head(bytes: &[u8]) -> bool {
    let mut line = bytes;
    while let [b'\r', b'\n', rest @ ..] = line {
        line = rest;
    }
    line.starts_with(b"HEAD ")
}

/// `bytes`, which have been seen to be ASCII, as text.
pub(super) fn ascii(bytes: &[u8]) -> Result<&str, Refusal> {
    if !bytes.is_ascii() {
        return Err(Refusal::bad("a byte above 0x7f where only ASCII may stand"));
    }
    // SAFETY: ASCII is UTF-8.
    Ok(unsafe { std::str::from_utf8_unchecked(bytes) })
}

/// Where the request line begins; `None` if no byte of it is here.
fn skip_empty_lines(bytes: &[u8]) -> Result<Option<usize>, Refusal> {
    for line in 0..=EMPTY_LINES_MAX {
        let at = 2 * line;
        match (bytes.get(at), bytes.get(at + 1)) {
            (Some(b'\r'), Some(b'\n')) => {}
            (Some(b'\r'), None) | (None, _) => return Ok(None),
            (Some(b'\r'), Some(_)) => {
                return Err(Refusal::bad("a CR without LF before the request line"));
            }
            (Some(b'\n'), _) => return Err(Refusal::bad("a bare LF before the request line")),
            (Some(&TLS_HANDSHAKE), _) => {
                return Err(Refusal::bad("a TLS handshake on a plain-text port"));
            }
            (Some(_), _) => return Ok(Some(at)),
        }
    }
    Err(Refusal::bad("too many empty lines before the request line"))
}

/// The token before the first space.
fn method(bytes: &[u8]) -> Result<Option<&[u8]>, Refusal> {
    for (at, &byte) in bytes.iter().enumerate() {
        if byte == b' ' && at > 0 {
            return Ok(Some(&bytes[..at]));
        }
        if !is_token(byte) {
            return Err(Refusal::bad("a method that is no token"));
        }
        if at == METHOD_MAX {
            return Err(Refusal::new(501, "a method that is too long to be known"));
        }
    }
    Ok(None)
}

/// The bytes before the next space, each allowed, each escape whole.
fn target(bytes: &[u8], target_max: usize) -> Result<Option<&[u8]>, Refusal> {
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte == b' ' {
            if at == 0 {
                return Err(Refusal::bad("more than one space after the method"));
            }
            return Ok(Some(&bytes[..at]));
        }
        if !is_target(byte) {
            return Err(Refusal::bad(why_not_in_target(byte)));
        }
        at += if byte == b'%' {
            match escape(&bytes[at + 1..])? {
                Some(()) => 3,
                None => return Ok(None),
            }
        } else {
            1
        };
        if at > target_max {
            return Err(Refusal::new(414, "a target longer than the limit"));
        }
    }
    Ok(None)
}

/// Checks what follows a `%`: two hexadecimal digits, but not `00`, which ends a string in C.
fn escape(bytes: &[u8]) -> Result<Option<()>, Refusal> {
    const WRONG: Refusal = Refusal::bad("a % in the target without two hexadecimal digits");
    let Some(&high) = bytes.first() else {
        return Ok(None);
    };
    let high = hex_digit(high).ok_or(WRONG)?;
    let Some(&low) = bytes.get(1) else {
        return Ok(None);
    };
    let low = hex_digit(low).ok_or(WRONG)?;
    if high == 0 && low == 0 {
        return Err(Refusal::bad("an escaped NUL in the target"));
    }
    Ok(Some(()))
}

fn why_not_in_target(byte: u8) -> &'static str {
    match byte {
        b'#' => "a fragment in the target",
        b'\r' | b'\n' => "a request line without a version",
        0x80.. => "a byte above 0x7f in the target",
        _ => "a control byte in the target",
    }
}

/// `HTTP/d.d CRLF`; the minor version as the rest of the server sees it.
fn version(bytes: &[u8]) -> Result<Option<u8>, Refusal> {
    // `d` stands for a digit. Matched byte by byte, so that a wrong one is seen without the others.
    const SHAPE: &[u8; 10] = b"HTTP/d.d\r\n";
    if bytes.starts_with(b"HTTP/1.1\r\n") {
        return Ok(Some(1));
    }
    for (at, &want) in SHAPE.iter().enumerate() {
        let Some(&byte) = bytes.get(at) else {
            return Ok(None);
        };
        let fits = if want == b'd' {
            byte.is_ascii_digit()
        } else {
            byte == want
        };
        if !fits {
            return Err(Refusal::bad(match at {
                0 if byte == b' ' => "more than one space after the target",
                8 | 9 => "a request line that does not end in CRLF after its version",
                _ => "a malformed HTTP version",
            }));
        }
    }
    match (bytes[5], bytes[7]) {
        (b'1', b'0') => Ok(Some(0)),
        // RFC 9110 §2.5: a higher minor version is to be treated as the highest that we know.
        (b'1', _) => Ok(Some(1)),
        // HTTP/0.9 had no version in its request line: no such request can be well-formed.
        (b'0', _) => Err(Refusal::bad("an HTTP version below 1.0")),
        (_, _) => Err(Refusal::new(505, "an HTTP version other than 1.x")),
    }
}
