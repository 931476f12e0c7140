//! The front end's part of a reply's head: status line, `Date`, framing and `Connection`.
//!
//! A reply on the wire is what [`head`] writes, then the handler's field block (checked by
//! [`super::reply_fields::validate_fields`]), then CRLF, then the body. How the
//! message is delimited has been decided by [`super::framing`].

use super::bytes::Pen;
use super::date::{DATE_LINE_LEN, DateCache};
use super::framing::ReplyFraming;

/// Bytes that [`head`] needs at most: the longest line of each kind.
pub const HEAD_MAX: usize = b"HTTP/1.1 511 Network Authentication Required\r\n".len()
    + DATE_LINE_LEN
    + b"Content-Length: 18446744073709551615\r\n".len() // longer than Transfer-Encoding's
    + b"Connection: keep-alive\r\n".len();

/// Bytes that [`chunk_prefix`] needs at most: 16 hexadecimal digits and CRLF.
pub const CHUNK_PREFIX_MAX: usize = 18;

/// What follows the data of each chunk.
pub const CHUNK_END: &[u8] = b"\r\n";

/// The last chunk and the empty trailer section: the end of a chunked body.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The interim answer to `Expect: 100-continue`. Never sent to an HTTP/1.0 client.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What becomes of the connection after the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It stays open.
    KeepAlive {
        /// Whether to say so, as an HTTP/1.0 client must be told and an HTTP/1.1 client need not.
        explicit: bool,
    },
    /// It is closed, and the client is told.
    Close,
}

impl Fate {
    /// The connection's fate as a request with `version_minor` is to be told of it.
    #[must_use]
    #[inline]
    pub const fn after(keep_alive: bool, version_minor: u8) -> Self {
        if keep_alive {
            Self::KeepAlive {
                explicit: version_minor == 0,
            }
        } else {
            Self::Close
        }
    }

    /// The field line, or nothing where the default of HTTP/1.1 says it.
    pub(super) const fn line(self) -> &'static [u8] {
        match self {
            Self::KeepAlive { explicit: false } => b"",
            Self::KeepAlive { explicit: true } => b"Connection: keep-alive\r\n",
            Self::Close => b"Connection: close\r\n",
        }
    }
}

/// Writes the front end's lines of a reply's head to the start of `out`; returns how many bytes
/// they take. The caller appends the handler's fields and an empty line.
///
/// `status` is a code of three digits. `date` is `None` if the handler's fields have a `Date`.
/// Whatever `framing` says, 1xx, 204 and 304 get no framing field (RFC 9112 §6.3), and a reply
/// framed by the end of the connection closes it.
pub fn head(
    out: &mut [u8; HEAD_MAX],
    status: u16,
    framing: ReplyFraming,
    connection: Fate,
    date: Option<&DateCache>,
) -> usize {
    debug_assert!(
        (100..=999).contains(&status),
        "the status {status} is no code of three digits"
    );
    let framing = if matches!(status, 100..=199 | 204 | 304) {
        ReplyFraming::NoBody
    } else {
        framing
    };
    let mut pen = Pen::new(out);
    match date {
        Some(date) if status == 200 => pen.put(date.ok_and_line()),
        _ => {
            status_line(&mut pen, status);
            pen.put(date.map_or(b"", DateCache::line));
        }
    }
    match framing {
        ReplyFraming::Length(len) => content_length(&mut pen, len),
        ReplyFraming::Chunked => pen.put(b"Transfer-Encoding: chunked\r\n"),
        ReplyFraming::UntilClose | ReplyFraming::NoBody | ReplyFraming::Stated => {}
    }
    let connection = if framing == ReplyFraming::UntilClose {
        Fate::Close
    } else {
        connection
    };
    pen.put(connection.line());
    pen.len()
}

pub(super) fn status_line(pen: &mut Pen<'_>, status: u16) {
    pen.put(b"HTTP/1.1 ");
    pen.put(&[
        b'0' + (status / 100 % 10) as u8,
        b'0' + (status / 10 % 10) as u8,
        b'0' + (status % 10) as u8,
        b' ',
    ]);
    pen.put(reason(status).as_bytes());
    pen.put(b"\r\n");
}

pub(super) fn content_length(pen: &mut Pen<'_>, len: u64) {
    pen.put(b"Content-Length: ");
    pen.put_decimal(len);
    pen.put(b"\r\n");
}

/// Writes the size line of a chunk of `len` bytes to the start of `out`; returns its length.
///
/// An empty chunk would end the body: send none, or [`LAST_CHUNK`].
#[inline]
pub fn chunk_prefix(len: u64, out: &mut [u8; CHUNK_PREFIX_MAX]) -> usize {
    debug_assert!(len > 0, "an empty chunk ends the body");
    let mut pen = Pen::new(out);
    pen.put_hex(len);
    pen.put(b"\r\n");
    pen.len()
}

/// The reason phrase of the IANA registry, empty for a code that is not in it (RFC 9112 §4 allows
/// that).
#[must_use]
pub const fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        208 => "Already Reported",
        226 => "IM Used",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        511 => "Network Authentication Required",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Fate = Fate::KeepAlive { explicit: false };

    fn head_text(status: u16, framing: ReplyFraming, connection: Fate) -> String {
        let mut out = [0; HEAD_MAX];
        let len = head(
            &mut out,
            status,
            framing,
            connection,
            Some(&DateCache::new(784_111_777)),
        );
        String::from_utf8(out[..len].to_vec()).unwrap()
    }

    const DATE: &str = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";

    #[test]
    fn a_head_has_status_date_framing_and_connection() {
        assert_eq!(
            head_text(200, ReplyFraming::Length(12), KEEP),
            format!("HTTP/1.1 200 OK\r\n{DATE}Content-Length: 12\r\n")
        );
        assert_eq!(
            head_text(404, ReplyFraming::Chunked, Fate::Close),
            format!(
                "HTTP/1.1 404 Not Found\r\n{DATE}Transfer-Encoding: chunked\r\nConnection: close\r\n"
            )
        );
        assert_eq!(
            head_text(
                299,
                ReplyFraming::Stated,
                Fate::KeepAlive { explicit: true }
            ),
            format!("HTTP/1.1 299 \r\n{DATE}Connection: keep-alive\r\n")
        );
    }

    #[test]
    fn the_handlers_date_replaces_ours() {
        let mut out = [0; HEAD_MAX];
        let len = head(&mut out, 200, ReplyFraming::Length(0), KEEP, None);
        assert_eq!(&out[..len], b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n");
    }

    #[test]
    fn a_bodiless_status_never_has_a_framing_field() {
        for status in [100, 103, 204, 304] {
            for framing in [
                ReplyFraming::Length(5),
                ReplyFraming::Chunked,
                ReplyFraming::NoBody,
            ] {
                let text = head_text(status, framing, KEEP);
                assert!(
                    !text.contains("Content-Length") && !text.contains("Transfer-Encoding"),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn a_body_that_ends_with_the_connection_closes_it() {
        let text = head_text(
            200,
            ReplyFraming::UntilClose,
            Fate::KeepAlive { explicit: true },
        );
        assert!(text.ends_with("Connection: close\r\n"), "{text}");
    }

    #[test]
    fn every_head_fits_its_buffer() {
        let longest = (100..=999)
            .map(|status| {
                head_text(
                    status,
                    ReplyFraming::Length(u64::MAX),
                    Fate::KeepAlive { explicit: true },
                )
                .len()
            })
            .max();
        assert_eq!(longest, Some(HEAD_MAX));
    }

    #[test]
    fn an_old_client_is_told_that_the_connection_stays_open() {
        assert_eq!(Fate::after(true, 1), Fate::KeepAlive { explicit: false });
        assert_eq!(Fate::after(true, 0), Fate::KeepAlive { explicit: true });
        assert_eq!(Fate::after(false, 0), Fate::Close);
        assert_eq!(Fate::after(false, 1), Fate::Close);
    }

    #[test]
    fn a_chunk_prefix_is_its_size_in_hexadecimal() {
        for (len, prefix) in [
            (1, "1\r\n"),
            (255, "ff\r\n"),
            (u64::MAX, "ffffffffffffffff\r\n"),
        ] {
            let mut out = [0; CHUNK_PREFIX_MAX];
            let written = chunk_prefix(len, &mut out);
            assert_eq!(&out[..written], prefix.as_bytes());
        }
    }
}
