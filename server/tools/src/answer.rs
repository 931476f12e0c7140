//! Reads answers: HTTP/1.1 as servers write it, in pieces of any size, at constant memory. It does not know
//! what becomes of the body.

use std::fmt;

/// The longest head that is read, status line and fields.
const HEAD_MAX: usize = 16 << 10;

/// The most fields of a head.
const FIELDS_MAX: usize = 96;

/// The longest line of a chunked body's framing.
const LINE_MAX: usize = 4 << 10;

/// What is known of an answer once all of it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Bytes of the body, without its framing.
    pub body: u64,
    /// The server will not take another request on this connection.
    pub closes: bool,
    /// A field `transom-diagnostic: bucket-exhausted` was there.
    pub exhausted: bool,
}

/// Bytes that are no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Garbled(&'static str);

impl fmt::Display for Garbled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReaderState {
    Head,
    /// Bytes of the body that are still to come.
    Counted(u64),
    ToTheEnd,
    ChunkSize,
    /// Bytes of this chunk that are still to come, with the line end after them.
    Chunk(u64),
    Trailers,
    /// Nothing was asked for, or the answer has been returned.
    Idle,
}

/// A reader of one answer after the other on a connection.
#[derive(Debug)]
pub struct Reader {
    state: ReaderState,
    /// The part of a head, or of a chunk's line, that has come so far.
    held: Vec<u8>,
    answer: Answer,
    to_head: bool,
    /// What has come of this answer at all: none of it means that the request may be sent again.
    begun: bool,
}

const NOTHING: Answer = Answer {
    status: 0,
    body: 0,
    closes: false,
    exhausted: false,
};

impl Reader {
    /// A reader.
    pub fn new() -> Self {
        Reader {
            state: ReaderState::Idle,
            held: Vec::new(),
            answer: NOTHING,
            to_head: false,
            begun: false,
        }
    }

    /// A request is about to be sent. The answer to a HEAD has no body, whatever its fields say.
    pub fn expect(&mut self, to_head: bool) {
        self.state = ReaderState::Head;
        self.held.clear();
        self.answer = NOTHING;
        self.to_head = to_head;
        self.begun = false;
    }

    /// Whether a byte of the expected answer has come.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// Whether its head is there.
    pub fn has_head(&self) -> bool {
        self.state != ReaderState::Head
    }

    /// Takes the next bytes. `Some` when the answer is whole.
    ///
    /// # Errors
    /// What is wrong with them. The connection is of no use after that.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<Answer>, Garbled> {
        self.read(bytes, &mut |_| {})
    }

    /// As [`Reader::feed`], and `keep` gets the body, in pieces.
    ///
    /// # Errors
    /// The same.
    pub fn read(
        &mut self,
        mut bytes: &[u8],
        keep: &mut impl FnMut(&[u8]),
    ) -> Result<Option<Answer>, Garbled> {
        while !bytes.is_empty() {
            self.begun = true;
            match self.state {
                ReaderState::Idle => return Err(Garbled("bytes after the answer")),
                ReaderState::Head => {
                    bytes = self.head(bytes)?;
                }
                ReaderState::Counted(left) => {
                    let len = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    self.body(&bytes[..len], keep);
                    bytes = &bytes[len..];
                    self.state = ReaderState::Counted(left - len as u64);
                }
                ReaderState::ToTheEnd => {
                    self.body(bytes, keep);
                    bytes = &[];
                }
                ReaderState::ChunkSize => {
                    let Some(line) = self.line(&mut bytes)? else {
                        continue;
                    };
                    let size = chunk_size(&line)?;
                    self.state = match size {
                        0 => ReaderState::Trailers,
                        size => ReaderState::Chunk(size + 2),
                    };
                }
                ReaderState::Chunk(left) => {
                    let len = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    let data = usize::try_from(left.saturating_sub(2)).unwrap_or(usize::MAX);
                    let data = data.min(len);
                    self.body(&bytes[..data], keep);
                    // Of the two bytes after the data, the first is a CR and the second an LF.
                    for (n, &byte) in bytes[data..len].iter().enumerate() {
                        let to_come = left - data as u64 - n as u64;
                        if byte != if to_come == 2 { b'\r' } else { b'\n' } {
                            return Err(Garbled("a chunk does not end where it should"));
                        }
                    }
                    bytes = &bytes[len..];
                    self.state = match left - len as u64 {
                        0 => ReaderState::ChunkSize,
                        left => ReaderState::Chunk(left),
                    };
                }
                ReaderState::Trailers => {
                    if let Some(line) = self.line(&mut bytes)?
                        && line.is_empty()
                    {
                        self.state = ReaderState::Counted(0);
                    }
                }
            }
            if self.state == ReaderState::Counted(0) {
                if !bytes.is_empty() {
                    return Err(Garbled("bytes after the answer"));
                }
                self.state = ReaderState::Idle;
                return Ok(Some(self.answer));
            }
        }
        Ok(None)
    }

    /// The connection has ended: the answer, if that is how its end is told.
    pub fn end(&mut self) -> Option<Answer> {
        let whole = self.state == ReaderState::ToTheEnd;
        self.state = ReaderState::Idle;
        whole.then_some(self.answer)
    }

    fn body(&mut self, bytes: &[u8], keep: &mut impl FnMut(&[u8])) {
        self.answer.body += bytes.len() as u64;
        keep(bytes);
    }

    /// The next line without its end, if it is there; the bytes after it.
    fn line(&mut self, bytes: &mut &[u8]) -> Result<Option<Vec<u8>>, Garbled> {
        let end = bytes.iter().position(|&byte| byte == b'\n');
        let len = end.map_or(bytes.len(), |end| end + 1);
        if self.held.len() + len > LINE_MAX {
            return Err(Garbled("a chunk's line is too long"));
        }
        self.held.extend_from_slice(&bytes[..len]);
        *bytes = &bytes[len..];
        if end.is_none() {
            return Ok(None);
        }
        let mut line = std::mem::take(&mut self.held);
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(Some(line))
    }

    /// Reads a head, or as much of one as is there; the bytes after it.
    fn head<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8], Garbled> {
        if self.held.is_empty() {
            // Nearly always all of it is here, and nothing has to be copied.
            if let Some(len) = self.parse_head(bytes)? {
                return Ok(&bytes[len..]);
            }
        }
        let before = self.held.len();
        let taken = bytes.len().min(HEAD_MAX + 1 - before);
        let mut held = std::mem::take(&mut self.held);
        held.extend_from_slice(&bytes[..taken]);
        match self.parse_head(&held)? {
            Some(len) => Ok(&bytes[len - before..]),
            None if held.len() > HEAD_MAX => Err(Garbled("a head of more than 16 KiB")),
            None => {
                self.held = held;
                Ok(&bytes[taken..])
            }
        }
    }

    /// Sets what follows from a whole head; its length.
    fn parse_head(&mut self, bytes: &[u8]) -> Result<Option<usize>, Garbled> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut head = httparse::Response::new(&mut fields);
        let len = match head.parse(bytes) {
            Ok(httparse::Status::Complete(len)) => len,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(Garbled("not an HTTP/1.1 answer")),
        };
        let status = head.code.unwrap_or(0);
        if (100..200).contains(&status) && status != 101 {
            return Ok(Some(len));
        }
        let mut length = None;
        let mut chunked = false;
        // HTTP/1.0 closes unless it says otherwise.
        let mut closes = head.version == Some(0);
        let mut exhausted = false;
        for field in head.headers.iter() {
            let value = field.value;
            if field.name.eq_ignore_ascii_case("content-length") {
                let number = std::str::from_utf8(value)
                    .ok()
                    .and_then(|v| v.trim().parse().ok());
                length = Some(number.ok_or(Garbled("a Content-Length that is no number"))?);
            } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
                chunked = value.to_ascii_lowercase().ends_with(b"chunked");
            } else if field.name.eq_ignore_ascii_case("connection") {
                let value = value.to_ascii_lowercase();
                let says =
                    |word: &[u8]| value.split(|b| *b == b',').any(|v| v.trim_ascii() == word);
                closes = says(b"close") || closes && !says(b"keep-alive");
            } else if field.name.eq_ignore_ascii_case("transom-diagnostic") {
                exhausted = value == b"bucket-exhausted";
            }
        }
        self.answer = Answer {
            status,
            body: 0,
            closes,
            exhausted,
        };
        self.state = if self.to_head || status == 204 || status == 304 {
            ReaderState::Counted(0)
        } else if chunked {
            ReaderState::ChunkSize
        } else if let Some(length) = length {
            ReaderState::Counted(length)
        } else {
            self.answer.closes = true;
            ReaderState::ToTheEnd
        };
        Ok(Some(len))
    }
}

fn chunk_size(line: &[u8]) -> Result<u64, Garbled> {
    let digits = line.split(|&byte| byte == b';').next().unwrap_or_default();
    std::str::from_utf8(digits.trim_ascii())
        .ok()
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .filter(|&size| size < u64::MAX - 2)
        .ok_or(Garbled("a chunk without a size"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(to_head: bool) -> Reader {
        let mut reader = Reader::new();
        reader.expect(to_head);
        reader
    }

    /// Every answer here is read alike whole, cut in two at every byte, and byte by byte.
    fn check(text: &str, to_head: bool, expected: Answer) {
        let bytes = text.as_bytes();
        for cut in 0..=bytes.len() {
            let mut reader = reader(to_head);
            let first = reader.feed(&bytes[..cut]);
            if cut < bytes.len() {
                assert_eq!(first, Ok(None), "{text:?} cut at {cut}");
                assert_eq!(
                    reader.feed(&bytes[cut..]),
                    Ok(Some(expected)),
                    "{text:?} cut at {cut}"
                );
            } else {
                assert_eq!(first, Ok(Some(expected)), "{text:?}");
            }
        }
        let mut reader = reader(to_head);
        let (last, others) = bytes.split_last().expect("not empty");
        for byte in others {
            assert_eq!(reader.feed(&[*byte]), Ok(None));
        }
        assert_eq!(reader.feed(&[*last]), Ok(Some(expected)));
    }

    const GOOD: Answer = Answer {
        status: 200,
        ..NOTHING
    };

    #[test]
    fn answers_are_whole_wherever_they_are_cut() {
        let five = Answer { body: 5, ..GOOD };
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            false,
            five,
        );
        check("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true, GOOD);
        check("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, GOOD);
        let empty = Answer {
            status: 204,
            ..GOOD
        };
        check("HTTP/1.1 204 No Content\r\n\r\n", false, empty);
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                       3\r\nhel\r\n2;a=b\r\nlo\r\n0\r\nTrailer: x\r\n\r\n";
        check(chunked, false, five);
        let interim = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        check(interim, false, five);
        let exhausted = Answer {
            status: 500,
            body: 1,
            closes: true,
            exhausted: true,
        };
        let text = "HTTP/1.1 500 Internal Server Error\r\ntransom-diagnostic: bucket-exhausted\r\n\
                    Connection: close\r\nContent-Length: 1\r\n\r\nx";
        check(text, false, exhausted);
    }

    #[test]
    fn without_a_length_the_end_of_the_connection_is_the_end_of_the_answer() {
        let mut reader = reader(false);
        assert_eq!(reader.feed(b"HTTP/1.1 200 OK\r\n\r\nhel"), Ok(None));
        assert_eq!(reader.feed(b"lo"), Ok(None));
        let expected = Answer {
            body: 5,
            closes: true,
            ..GOOD
        };
        assert_eq!(reader.end(), Some(expected));
        let mut cut = super::Reader::new();
        cut.expect(false);
        assert_eq!(
            cut.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel"),
            Ok(None)
        );
        assert_eq!(cut.end(), None);
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for text in [
            "SSH-2.0-OpenSSH\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
        ] {
            assert!(reader(false).feed(text.as_bytes()).is_err(), "{text:?}");
        }
        let mut reader = reader(false);
        let long = format!("HTTP/1.1 200 OK\r\nA: {}", "a".repeat(HEAD_MAX));
        assert!(reader.feed(long.as_bytes()).is_err());
    }
}
