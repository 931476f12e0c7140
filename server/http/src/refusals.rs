//! The front end's own answers: refusals, failures and the reply to `OPTIONS *`.
//!
//! A failure must not need what has just run out. These answers are put together from static pieces
//! into a buffer that the caller already has: no slot, no bucket, no formatting. They cannot fail.
//!
//! They say nothing about the request beyond its status: what was wrong is for the log.

use super::bytes::Pen;
use super::date::DateCache;
use super::method::ALLOW_ALL;
use super::reply::{Fate, content_length, status_line};

/// Bytes that [`render`] needs at most.
pub const ANSWER_MAX: usize = 512;

/// A line that only some answers have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// `transom-diagnostic: bucket-exhausted`, on a 500.
    BucketExhausted,
    /// `transom-diagnostic: handler-panicked`, on a 500.
    HandlerPanicked,
    /// `Allow` with every method that can be routed: the answer to `OPTIONS *`.
    AllowAll,
    /// `Allow: GET, HEAD`, on the 405 of a resource of the front end itself, such as its metrics.
    AllowReading,
    /// `Allow` with these methods, at most 256 bytes of them, on the 405 of a path that has routes for other
    /// methods.
    Allow(&'static str),
}

impl Note {
    const fn pieces(self) -> [&'static str; 2] {
        match self {
            Self::BucketExhausted => ["transom-diagnostic: ", "bucket-exhausted"],
            Self::HandlerPanicked => ["transom-diagnostic: ", "handler-panicked"],
            Self::AllowAll => ["Allow: ", ALLOW_ALL],
            Self::AllowReading => ["Allow: ", "GET, HEAD"],
            Self::Allow(methods) => ["Allow: ", methods],
        }
    }
}

/// The body of an answer with `status`, or `None` for a status that is not one of ours.
const fn sentence(status: u16) -> Option<&'static str> {
    Some(match status {
        204 => "",
        400 => "The request is malformed.\n",
        404 => "There is nothing here.\n",
        405 => "This method is not allowed here.\n",
        408 => "The request took too long to arrive.\n",
        411 => "The request needs a Content-Length.\n",
        413 => "The request's body is too large.\n",
        414 => "The request's target is too long.\n",
        417 => "The only expectation met here is 100-continue.\n",
        429 => "Too many requests.\n",
        431 => "The request's header fields are too large.\n",
        500 => "The server failed to answer this request.\n",
        501 => "The server does not implement what the request needs.\n",
        502 => "The application went away during the request.\n",
        503 => "The server is busy. Try again in a moment.\n",
        504 => "The application took too long to answer.\n",
        505 => "The server speaks HTTP/1.1.\n",
        _ => return None,
    })
}

/// Whether the connection can go on after an answer with `status`: only if the request was
/// understood as far as its end.
#[inline]
pub const fn may_keep_alive(status: u16) -> bool {
    matches!(status, 204 | 404 | 405 | 500 | 502 | 503)
}

/// Writes a whole answer to the start of `out`; returns its length.
///
/// `status` is 204, 400, 404, 405, 408, 411, 413, 414, 417, 429, 431 or 500 to 505; anything else
/// becomes 500. A 503 asks the client to come again after a second. With `head_only` (the request
/// was HEAD) the body is left out, its length stays. Statuses after which the place in the byte
/// stream is unknown close the connection whatever `connection` says.
pub fn render(
    out: &mut [u8; ANSWER_MAX],
    status: u16,
    note: Option<Note>,
    head_only: bool,
    connection: Fate,
    date: &DateCache,
) -> usize {
    const FAILED: &str = match sentence(500) {
        Some(sentence) => sentence,
        None => panic!("500 has a sentence"),
    };
    let (status, body) = match sentence(status) {
        Some(sentence) => (status, sentence),
        None => (500, FAILED),
    };
    let connection = if may_keep_alive(status) {
        connection
    } else {
        Fate::Close
    };

    let mut pen = Pen::new(out);
    status_line(&mut pen, status);
    pen.put(date.line());
    if !body.is_empty() {
        pen.put(b"Content-Type: text/plain\r\n");
        content_length(&mut pen, body.len() as u64);
    }
    if status == 503 {
        pen.put(b"Retry-After: 1\r\n");
    }
    if let Some(note) = note {
        let [name, value] = note.pieces();
        pen.put(name.as_bytes());
        pen.put(value.as_bytes());
        pen.put(b"\r\n");
    }
    pen.put(connection.line());
    pen.put(b"\r\n");
    if !head_only {
        pen.put(body.as_bytes());
    }
    pen.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Fate = Fate::KeepAlive { explicit: false };
    const OURS: [u16; 17] = [
        204, 400, 404, 405, 408, 411, 413, 414, 417, 429, 431, 500, 501, 502, 503, 504, 505,
    ];

    fn answer(status: u16, note: Option<Note>, head_only: bool, connection: Fate) -> String {
        let mut out = [0; ANSWER_MAX];
        let len = render(
            &mut out,
            status,
            note,
            head_only,
            connection,
            &DateCache::new(784_111_777),
        );
        String::from_utf8(out[..len].to_vec()).unwrap()
    }

    #[test]
    fn an_answer_is_a_whole_reply() {
        assert_eq!(
            answer(503, None, false, KEEP),
            "HTTP/1.1 503 Service Unavailable\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
             Content-Type: text/plain\r\nContent-Length: 43\r\nRetry-After: 1\r\n\r\n\
             The server is busy. Try again in a moment.\n"
        );
        assert_eq!(
            answer(500, Some(Note::BucketExhausted), true, Fate::Close),
            "HTTP/1.1 500 Internal Server Error\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
             Content-Type: text/plain\r\nContent-Length: 42\r\ntransom-diagnostic: bucket-exhausted\r\n\
             Connection: close\r\n\r\n"
        );
    }

    #[test]
    fn every_answer_parses_fits_and_has_the_length_it_states() {
        let longest: &'static str = "X".repeat(256).leak();
        for status in OURS {
            for note in [
                None,
                Some(Note::BucketExhausted),
                Some(Note::HandlerPanicked),
                Some(Note::AllowAll),
                Some(Note::AllowReading),
                Some(Note::Allow(longest)),
            ] {
                for connection in [KEEP, Fate::KeepAlive { explicit: true }, Fate::Close] {
                    let text = answer(status, note, false, connection);
                    let mut fields = [httparse::EMPTY_HEADER; 8];
                    let mut reply = httparse::Response::new(&mut fields);
                    let head_len = reply.parse(text.as_bytes()).unwrap().unwrap();
                    assert_eq!(reply.code, Some(status));
                    let length = reply
                        .headers
                        .iter()
                        .find(|field| field.name == "Content-Length");
                    let stated = length.map_or(0, |field| {
                        std::str::from_utf8(field.value).unwrap().parse().unwrap()
                    });
                    assert_eq!(text.len() - head_len, stated, "{text}");
                    assert_eq!(
                        answer(status, note, true, connection),
                        text[..head_len],
                        "HEAD gets no body"
                    );
                }
            }
        }
    }

    #[test]
    fn only_answers_to_understood_requests_leave_the_connection_open() {
        for status in OURS {
            let open = !answer(status, None, false, KEEP).contains("Connection: close\r\n");
            assert_eq!(
                open,
                [204, 404, 405, 500, 502, 503].contains(&status),
                "{status}"
            );
            assert!(answer(status, None, false, Fate::Close).contains("Connection: close\r\n"));
        }
        assert!(
            answer(404, None, false, Fate::KeepAlive { explicit: true })
                .contains("Connection: keep-alive\r\n")
        );
    }

    #[test]
    fn the_answer_to_options_asterisk_lists_the_methods_and_has_no_body() {
        assert_eq!(
            answer(204, Some(Note::AllowAll), false, KEEP),
            "HTTP/1.1 204 No Content\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
             Allow: GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS\r\n\r\n"
        );
    }

    #[test]
    fn a_status_that_is_not_ours_becomes_500() {
        for status in [0, 99, 200, 418, 600, u16::MAX] {
            assert!(
                answer(status, None, false, KEEP).starts_with("HTTP/1.1 500 "),
                "{status}"
            );
        }
    }
}
