//! Reads answers as a client does: HTTP/1.1 as servers write it, in pieces of any size, at constant memory.
//! No server uses this: the command's tools, the tests and the benchmarks do.

/// The longest head that is read, status line and fields.
const HEAD_MAX: usize = 16 << 10;

/// The most fields of a head.
const FIELDS_MAX: usize = 96;

/// The longest line of a chunked body's framing.
const LINE_MAX: usize = 4 << 10;

/// What tells where an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Its head: it has no body.
    Head,
    /// `Content-Length`.
    Length,
    /// The last chunk.
    Chunks,
    /// The end of the connection.
    Close,
}

/// What is known of an answer once all of it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Bytes of the body, without its framing.
    pub body: u64,
    /// What has told its end.
    pub framing: Framing,
    /// The server will not take another request on this connection.
    pub closes: bool,
    /// A field `transom-diagnostic: bucket-exhausted` was there.
    pub exhausted: bool,
}

impl Answer {
    /// Whether the answer to the request is still to come. After a 101 another protocol begins.
    #[must_use]
    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }
}

/// A piece of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'b> {
    /// All of a head, from the status line to the empty line.
    Head(&'b [u8]),
    /// The next bytes of the body, without their framing.
    Body(&'b [u8]),
}

/// Bytes that are no answer, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Garbled(&'static str);

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
    strict: bool,
}

const NOTHING: Answer = Answer {
    status: 0,
    body: 0,
    framing: Framing::Head,
    closes: false,
    exhausted: false,
};

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

impl Reader {
    /// A reader that takes what RFC 9112 lets a recipient take.
    #[must_use]
    pub fn new() -> Self {
        Reader {
            state: ReaderState::Idle,
            held: Vec::new(),
            answer: NOTHING,
            to_head: false,
            begun: false,
            strict: false,
        }
    }

    /// A reader that takes what a plain server sends, and nothing that needs tolerance: HTTP/1.1 only, each
    /// line with CR and LF, no coding but `chunked`, no chunk extensions, no trailers.
    #[must_use]
    pub fn strict() -> Self {
        Reader {
            strict: true,
            ..Self::new()
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

    /// Whether a byte of the expected answer has come, or of an interim one before it.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// Whether its head is there.
    #[must_use]
    pub fn has_head(&self) -> bool {
        self.state != ReaderState::Head
    }

    /// Takes the next bytes, which must not go beyond the expected answer. `Some` when that is whole; interim
    /// answers are passed over. `keep` gets the parts of all of them.
    ///
    /// # Errors
    /// What is wrong with the bytes. The connection is of no use after that.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        keep: &mut impl FnMut(Part<'_>),
    ) -> Result<Option<Answer>, Garbled> {
        while let Some(answer) = self.read(&mut bytes, keep)? {
            match bytes {
                _ if answer.is_interim() => {}
                [] => return Ok(Some(answer)),
                _ => return Err(Garbled("bytes after the answer")),
            }
        }
        Ok(None)
    }

    /// Takes the next bytes as far as they belong to one answer, and leaves the others. `Some` when that
    /// answer is whole: an interim one, after which the next one is expected, or the one to the request.
    ///
    /// # Errors
    /// As [`Reader::feed`].
    pub fn read(
        &mut self,
        bytes: &mut &[u8],
        keep: &mut impl FnMut(Part<'_>),
    ) -> Result<Option<Answer>, Garbled> {
        while !bytes.is_empty() {
            self.begun = true;
            match self.state {
                ReaderState::Idle => return Err(Garbled("bytes after the answer")),
                ReaderState::Head => *bytes = self.head(bytes, keep)?,
                ReaderState::Counted(left) => {
                    let len = self.body(bytes, left, keep);
                    self.state = ReaderState::Counted(left - len);
                }
                ReaderState::ToTheEnd => {
                    self.body(bytes, u64::MAX, keep);
                }
                ReaderState::ChunkSize => {
                    if let Some(line) = self.line(bytes)? {
                        self.state = match self.chunk_size(&line)? {
                            0 => ReaderState::Trailers,
                            size => ReaderState::Chunk(size + 2),
                        };
                    }
                }
                ReaderState::Chunk(left) => self.chunk(bytes, left, keep)?,
                ReaderState::Trailers => match self.line(bytes)?.as_deref() {
                    Some([]) => self.state = ReaderState::Counted(0),
                    Some(_) if self.strict => return Err(Garbled("a trailer")),
                    _ => {}
                },
            }
            if self.state == ReaderState::Counted(0) {
                self.state = match self.answer.is_interim() {
                    true => ReaderState::Head,
                    false => ReaderState::Idle,
                };
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

    /// Takes at most so many bytes of the body; how many.
    fn body(&mut self, bytes: &mut &[u8], most: u64, keep: &mut impl FnMut(Part<'_>)) -> u64 {
        let len = usize::try_from(most).unwrap_or(usize::MAX).min(bytes.len());
        let (body, rest) = bytes.split_at(len);
        *bytes = rest;
        self.answer.body += len as u64;
        keep(Part::Body(body));
        len as u64
    }

    /// Takes bytes of a chunk of which so many are still to come, the last two of them CR and LF.
    fn chunk(
        &mut self,
        bytes: &mut &[u8],
        mut left: u64,
        keep: &mut impl FnMut(Part<'_>),
    ) -> Result<(), Garbled> {
        if left > 2 {
            left -= self.body(bytes, left - 2, keep);
        }
        while left <= 2
            && left > 0
            && let Some((&byte, rest)) = bytes.split_first()
        {
            if byte != if left == 2 { b'\r' } else { b'\n' } {
                return Err(Garbled("a chunk does not end where it should"));
            }
            (left, *bytes) = (left - 1, rest);
        }
        self.state = match left {
            0 => ReaderState::ChunkSize,
            left => ReaderState::Chunk(left),
        };
        Ok(())
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
        match line.pop_if(|last| *last == b'\r') {
            None if self.strict => Err(Garbled("a line that ends with LF alone")),
            _ => Ok(Some(line)),
        }
    }

    /// The number at the start of a chunk's line.
    fn chunk_size(&self, line: &[u8]) -> Result<u64, Garbled> {
        let digits = match self.strict {
            true => line,
            false => {
                let size = line.split(|&byte| byte == b';').next();
                size.unwrap_or_default().trim_ascii()
            }
        };
        std::str::from_utf8(digits)
            .ok()
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .filter(|&size| size < u64::MAX - 2)
            .ok_or(Garbled("a chunk without a size"))
    }

    /// Reads a head, or as much of one as is there; the bytes after it.
    fn head<'b>(
        &mut self,
        bytes: &'b [u8],
        keep: &mut impl FnMut(Part<'_>),
    ) -> Result<&'b [u8], Garbled> {
        if self.held.is_empty() {
            // Nearly always all of it is here, and nothing has to be copied.
            if let Some(len) = self.parse_head(bytes)? {
                keep(Part::Head(&bytes[..len]));
                return Ok(&bytes[len..]);
            }
        }
        let before = self.held.len();
        let taken = bytes.len().min(HEAD_MAX + 1 - before);
        let mut held = std::mem::take(&mut self.held);
        held.extend_from_slice(&bytes[..taken]);
        match self.parse_head(&held)? {
            Some(len) => {
                keep(Part::Head(&held[..len]));
                Ok(&bytes[len - before..])
            }
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
        if len > HEAD_MAX {
            return Err(Garbled("a head of more than 16 KiB"));
        }
        if self.strict && !is_plain(&bytes[..len]) {
            return Err(Garbled("a head that only a tolerant reader takes"));
        }
        self.judge(&head)?;
        Ok(Some(len))
    }

    fn judge(&mut self, head: &httparse::Response<'_, '_>) -> Result<(), Garbled> {
        let (mut length, mut says_close, mut says_keep_alive) = (None, false, false);
        let mut coding: Option<Vec<u8>> = None;
        let mut answer = Answer {
            status: head.code.unwrap_or(0),
            ..NOTHING
        };
        for field in head.headers.iter() {
            let value = field.value;
            if field.name.eq_ignore_ascii_case("content-length") {
                if length.replace(number(value)?).is_some() {
                    return Err(Garbled("more than one Content-Length"));
                }
            } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
                if self.strict && (value != b"chunked" || coding.is_some()) {
                    return Err(Garbled("a coding that is not `chunked`"));
                }
                coding = Some(value.to_ascii_lowercase());
            } else if field.name.eq_ignore_ascii_case("connection") {
                let value = value.to_ascii_lowercase();
                let says =
                    |word: &[u8]| value.split(|b| *b == b',').any(|v| v.trim_ascii() == word);
                says_close |= says(b"close");
                says_keep_alive |= says(b"keep-alive");
            } else if field.name.eq_ignore_ascii_case("transom-diagnostic") {
                answer.exhausted = value == b"bucket-exhausted";
            }
        }
        let has_no_body = self.to_head || matches!(answer.status, 100..=199 | 204 | 304);
        (answer.framing, self.state) = match (coding, length) {
            (Some(_), Some(_)) => return Err(Garbled("framed by a coding and by a length")),
            _ if has_no_body => (Framing::Head, ReaderState::Counted(0)),
            (Some(coding), None) if coding.ends_with(b"chunked") => {
                (Framing::Chunks, ReaderState::ChunkSize)
            }
            (None, Some(length)) => (Framing::Length, ReaderState::Counted(length)),
            (_, None) => (Framing::Close, ReaderState::ToTheEnd),
        };
        // HTTP/1.0 closes unless it says otherwise.
        answer.closes = says_close || head.version == Some(0) && !says_keep_alive;
        answer.closes |= answer.framing == Framing::Close || answer.status == 101;
        self.answer = answer;
        Ok(())
    }
}

/// Whether a head is of HTTP/1.1, begins with its status line, and has a CR before each LF.
fn is_plain(head: &[u8]) -> bool {
    let lines = head.iter().filter(|&&byte| byte == b'\n').count();
    let plain = head.windows(2).filter(|pair| **pair == *b"\r\n").count();
    head.starts_with(b"HTTP/1.1 ") && lines == plain
}

fn number(value: &[u8]) -> Result<u64, Garbled> {
    std::str::from_utf8(value)
        .ok()
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|digits| digits.parse().ok())
        .ok_or(Garbled("a Content-Length that is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(to_head: bool) -> Reader {
        let mut reader = Reader::new();
        reader.expect(to_head);
        reader
    }

    /// What one answer is, its head and its body, and the bytes after it.
    type Read<'b> = (Option<Answer>, Vec<u8>, Vec<u8>, &'b [u8]);

    fn read<'b>(reader: &mut Reader, mut bytes: &'b [u8]) -> Result<Read<'b>, Garbled> {
        let (mut head, mut body) = (Vec::new(), Vec::new());
        let answer = reader.read(&mut bytes, &mut |part| match part {
            Part::Head(part) => head.extend_from_slice(part),
            Part::Body(part) => body.extend_from_slice(part),
        })?;
        Ok((answer, head, body, bytes))
    }

    fn feed(reader: &mut Reader, bytes: &[u8]) -> Result<Option<Answer>, Garbled> {
        reader.feed(bytes, &mut |_| {})
    }

    /// Every answer here is read alike whole, cut in two at every byte, and byte by byte.
    fn check(text: &str, to_head: bool, expected: Answer) {
        let bytes = text.as_bytes();
        for cut in 0..=bytes.len() {
            let mut reader = reader(to_head);
            let first = feed(&mut reader, &bytes[..cut]);
            if cut < bytes.len() {
                assert_eq!(first, Ok(None), "{text:?} cut at {cut}");
                assert_eq!(
                    feed(&mut reader, &bytes[cut..]),
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
            assert_eq!(feed(&mut reader, &[*byte]), Ok(None));
        }
        assert_eq!(feed(&mut reader, &[*last]), Ok(Some(expected)));
    }

    const EMPTY: Answer = Answer {
        status: 200,
        ..NOTHING
    };
    const NO_BYTES: Answer = Answer {
        framing: Framing::Length,
        ..EMPTY
    };
    const FIVE: Answer = Answer {
        body: 5,
        ..NO_BYTES
    };

    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

    #[test]
    fn answers_are_whole_wherever_they_are_cut() {
        let hello = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        check(hello, false, FIVE);
        check("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true, EMPTY);
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            false,
            NO_BYTES,
        );
        let status = |status| Answer { status, ..EMPTY };
        check("HTTP/1.1 204 No Content\r\n\r\n", false, status(204));
        let chunks = Answer {
            framing: Framing::Chunks,
            ..FIVE
        };
        let lenient = "3\r\nhel\r\n2;a=b\r\nlo\r\n0\r\nTrailer: x\r\n\r\n";
        check(&format!("{CHUNKED}{lenient}"), false, chunks);
        let interim = format!("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n{hello}");
        check(&interim, false, FIVE);
        let exhausted = Answer {
            status: 500,
            body: 1,
            closes: true,
            exhausted: true,
            ..NO_BYTES
        };
        let text = "HTTP/1.1 500 Internal Server Error\r\ntransom-diagnostic: bucket-exhausted\r\n\
                    Connection: close\r\nContent-Length: 1\r\n\r\nx";
        check(text, false, exhausted);
    }

    #[test]
    fn close_prevails_however_many_fields_say_what() {
        for (version, fields, closes) in [
            (1, "", false),
            (1, "Connection: close\r\nConnection: keep-alive\r\n", true),
            (1, "Connection: keep-alive\r\nConnection: Close\r\n", true),
            (1, "Connection: close, keep-alive\r\n", true),
            (0, "", true),
            (0, "Connection: Keep-Alive\r\nConnection: x\r\n", false),
            (0, "Connection: keep-alive\r\nConnection: close\r\n", true),
        ] {
            let text = format!("HTTP/1.{version} 200 OK\r\n{fields}Content-Length: 0\r\n\r\n");
            let answer = reader(false).feed(text.as_bytes(), &mut |_| {});
            let said = answer.map(|answer| answer.map(|answer| answer.closes));
            assert_eq!(said, Ok(Some(closes)), "{text:?}");
        }
    }

    #[test]
    fn without_a_length_the_end_of_the_connection_is_the_end_of_the_answer() {
        let mut reader = reader(false);
        assert_eq!(feed(&mut reader, b"HTTP/1.1 200 OK\r\n\r\nhel"), Ok(None));
        assert_eq!(feed(&mut reader, b"lo"), Ok(None));
        let expected = Answer {
            framing: Framing::Close,
            closes: true,
            ..FIVE
        };
        assert_eq!(reader.end(), Some(expected));
    }

    #[test]
    fn a_part_of_an_answer_is_none() {
        for text in [
            "",
            "HTTP/1.1 200 OK\r\nA: b",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA\r\n01",
        ] {
            let mut reader = reader(false);
            assert_eq!(feed(&mut reader, text.as_bytes()), Ok(None), "{text:?}");
            assert_eq!(reader.end(), None, "{text:?}");
        }
    }

    #[test]
    fn several_answers_in_one_buffer_are_read_one_by_one() {
        let heads = [
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 500 Whatever\r\ncontent-length: 2\r\nA: b\r\n\r\n",
            CHUNKED,
        ];
        let chunks = "3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n";
        let all = format!("{}{}hi{}{chunks}HTTP", heads[0], heads[1], heads[2]);
        let mut reader = Reader::strict();
        let mut rest = all.as_bytes();
        for (head, status, expected) in [
            (heads[0], 100, ""),
            (heads[1], 500, "hi"),
            (heads[2], 200, "abc0123456789"),
        ] {
            if status != 500 {
                reader.expect(false);
            }
            let (answer, seen, body, after) = read(&mut reader, rest).expect("an answer");
            let answer = answer.expect("it is whole");
            assert_eq!(
                (answer.status, answer.body),
                (status, expected.len() as u64)
            );
            assert_eq!(
                (seen.as_slice(), body.as_slice()),
                (head.as_bytes(), expected.as_bytes())
            );
            rest = after;
        }
        assert_eq!(rest, b"HTTP");
        assert!(read(&mut reader, rest).is_err(), "it was not asked for");
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for text in [
            "SSH-2.0-OpenSSH\r\n",
            "hello",
            "HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
            "HTTP/1.1 101 Switching Protocols\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\rc",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
        ] {
            assert!(
                feed(&mut reader(false), text.as_bytes()).is_err(),
                "{text:?}"
            );
        }
        // Whole at once, or not whole yet.
        for end in ["", "\r\n\r\n"] {
            let long = format!("HTTP/1.1 200 OK\r\nA: {}{end}", "a".repeat(HEAD_MAX));
            assert!(feed(&mut reader(false), long.as_bytes()).is_err());
        }
    }

    #[test]
    fn what_needs_tolerance_is_refused_by_a_strict_reader_alone() {
        for text in [
            "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
            "\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0;a=b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0 \r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n\r\n",
        ] {
            let whole = feed(&mut reader(false), text.as_bytes());
            assert!(matches!(whole, Ok(Some(_))), "{text:?}");
            let mut strict = Reader::strict();
            strict.expect(false);
            assert!(feed(&mut strict, text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
