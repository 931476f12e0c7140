//! The chunked transfer coding of request bodies, decoded as the bytes come (RFC 9112 §7.1).
//!
//! A strict reader: CRLF only, sizes of 1 to 16 hexadecimal digits, extensions and trailers
//! checked, capped and dropped. A bare LF let through in a size line or an extension has been
//! enough to smuggle a request (CVE-2025-22871, CVE-2025-55315), and overhead without a cap makes a
//! small body cost a large read (CVE-2023-39326).
//!
//! It knows the limit of the body but not where the bytes go: the caller gives the place, as much
//! as it has.

use super::Refusal;
use super::bytes::{hex_digit, is_token, is_value};

/// The most extension bytes of one chunk. No extension is registered; the signatures that AWS
/// clients put here have 81.
pub const EXTENSION_LINE_MAX: u32 = 256;
/// The most extension bytes of one body.
pub const EXTENSION_BODY_MAX: u32 = 16 * 1024;
/// The most bytes of a trailer section, line ends included.
pub const TRAILER_MAX: u32 = 4 * 1024;

/// What one call of [`ChunkDecoder::decode`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Bytes of the input that are used up.
    pub consumed: usize,
    /// Bytes of the body that were written.
    pub produced: usize,
    /// Whether the body has ended; the rest of the input belongs to the next request.
    pub done: bool,
}

/// A chunked body in the midst of being read.
#[derive(Debug, Clone, Copy)]
pub struct ChunkDecoder {
    state: State,
    /// In `Size`, the value of the digits so far; in `Data`, the bytes that the chunk still has.
    size: u64,
    /// The size of all chunks announced so far.
    announced: u64,
    body_max: u64,
    digits: u8,
    extension_line: u32,
    extension_body: u32,
    trailer: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the digits of a chunk's size.
    Size,
    /// In white space after the size or an extension: another extension's semicolon is due.
    Blank,
    /// Behind a semicolon: an extension's name is due.
    Extension,
    /// In the name.
    ExtensionName,
    /// In white space after the name.
    ExtensionNameBlank,
    /// Behind the equals sign: a value is due.
    ExtensionEquals,
    /// In a value that is a token.
    ExtensionValue,
    /// In a value in quotation marks, and behind a backslash in there.
    Quoted,
    QuotedPair,
    /// Behind the second quotation mark.
    QuotedEnd,
    /// The LF of the size line is due.
    SizeLf,
    /// In the chunk's data.
    Data,
    /// The CR behind the data is due.
    DataCr,
    /// The LF behind the data is due.
    DataLf,
    /// At the start of a trailer line, or of the empty line that ends the body.
    LineStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    /// The last LF is due.
    EndLf,
    Done,
}

impl ChunkDecoder {
    /// A decoder at the start of a body that may have `body_max` bytes.
    #[must_use]
    #[inline]
    pub const fn new(body_max: u64) -> Self {
        Self {
            state: State::Size,
            size: 0,
            announced: 0,
            body_max,
            digits: 0,
            extension_line: 0,
            extension_body: 0,
            trailer: 0,
        }
    }

    /// Whether the whole body has been read.
    #[must_use]
    #[inline]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Decodes as much of `input` as there is and as fits `out`, in any pieces that the bytes come
    /// in.
    ///
    /// With `out` full the framing is still read on, up to the next data; so a body that exactly
    /// fits ends.
    ///
    /// # Errors
    ///
    /// 400 for malformed framing or too many extension bytes, 413 as soon as the announced chunks
    /// exceed the limit, 431 for too long a trailer section. The decoder is of no use afterwards.
    pub fn decode(&mut self, input: &[u8], out: &mut [u8]) -> Result<Step, Refusal> {
        let (mut consumed, mut produced) = (0, 0);
        loop {
            let run = self.next_run(&input[consumed..], out.len() - produced)?;
            consumed += run.framing;
            out[produced..produced + run.data]
                .copy_from_slice(&input[consumed..consumed + run.data]);
            consumed += run.data;
            produced += run.data;
            if run.is_empty() {
                return Ok(Step {
                    consumed,
                    produced,
                    done: self.is_done(),
                });
            }
        }
    }

    /// Like [`decode`](Self::decode), but moves the body to the start of `buffer` itself. What was
    /// between `produced` and `consumed` is garbage then.
    ///
    /// # Errors
    ///
    /// As for [`decode`](Self::decode).
    pub fn decode_in_place(&mut self, buffer: &mut [u8]) -> Result<Step, Refusal> {
        let (mut consumed, mut produced) = (0, 0);
        loop {
            let run = self.next_run(&buffer[consumed..], usize::MAX)?;
            consumed += run.framing;
            buffer.copy_within(consumed..consumed + run.data, produced);
            consumed += run.data;
            produced += run.data;
            if run.is_empty() {
                return Ok(Step {
                    consumed,
                    produced,
                    done: self.is_done(),
                });
            }
        }
    }

    /// Reads the framing at the start of `input`, and counts the data behind it, at most `room`
    /// bytes.
    fn next_run(&mut self, input: &[u8], room: usize) -> Result<Run, Refusal> {
        let mut framing = 0;
        while !matches!(self.state, State::Data | State::Done)
            && let Some(&byte) = input.get(framing)
        {
            self.state = self.after(byte)?;
            framing += 1;
        }
        let mut data = 0;
        if self.state == State::Data {
            let here = (input.len() - framing).min(room);
            data = usize::try_from(self.size).map_or(here, |left| left.min(here));
            self.size -= data as u64;
            if self.size == 0 {
                self.state = State::DataCr;
            }
        }
        Ok(Run { framing, data })
    }

    /// The state after one byte of framing.
    fn after(&mut self, byte: u8) -> Result<State, Refusal> {
        match (self.state, byte) {
            (State::Size, _) => self.after_size(byte),
            (
                State::Blank
                | State::Extension
                | State::ExtensionName
                | State::ExtensionNameBlank
                | State::ExtensionEquals
                | State::ExtensionValue
                | State::Quoted
                | State::QuotedPair
                | State::QuotedEnd,
                _,
            ) => self.after_extension(byte),
            (State::SizeLf, b'\n') => self.start_chunk(),
            (State::SizeLf, _) => Err(Refusal::bad("a CR without LF after a chunk size")),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => {
                (self.size, self.digits, self.extension_line) = (0, 0, 0);
                Ok(State::Size)
            }
            (State::DataCr | State::DataLf, _) => {
                Err(Refusal::bad("a chunk without CRLF after its data"))
            }
            (
                State::LineStart
                | State::TrailerName
                | State::TrailerValue
                | State::TrailerLf
                | State::EndLf,
                _,
            ) => self.after_trailer(byte),
            // Neither state reads framing.
            (State::Data | State::Done, _) => Ok(self.state),
        }
    }

    fn after_size(&mut self, byte: u8) -> Result<State, Refusal> {
        if let Some(digit) = hex_digit(byte) {
            // 16 digits are 64 bits: with no more of them the shift below loses nothing.
            if self.digits == 16 {
                return Err(Refusal::bad("a chunk size of more than 16 digits"));
            }
            self.digits += 1;
            self.size = self.size << 4 | u64::from(digit);
            return Ok(State::Size);
        }
        match byte {
            _ if self.digits == 0 => Err(Refusal::bad("a chunk without a size")),
            b'\r' => Ok(State::SizeLf),
            b';' => self.in_extension(State::Extension),
            // RFC 9112 §7.1.1: white space may stand before the semicolon, and only there.
            b' ' | b'\t' => self.in_extension(State::Blank),
            _ => Err(Refusal::bad("a chunk size that is no hexadecimal number")),
        }
    }

    /// RFC 9112 §7.1.1: `*( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] )`.
    fn after_extension(&mut self, byte: u8) -> Result<State, Refusal> {
        let is_blank = matches!(byte, b' ' | b'\t');
        let next = match (self.state, byte) {
            (State::ExtensionName | State::ExtensionValue | State::QuotedEnd, b'\r') => {
                return Ok(State::SizeLf);
            }
            (
                State::Blank
                | State::ExtensionName
                | State::ExtensionNameBlank
                | State::ExtensionValue
                | State::QuotedEnd,
                b';',
            ) => State::Extension,
            (State::Blank | State::ExtensionValue | State::QuotedEnd, _) if is_blank => {
                State::Blank
            }
            (State::Extension, _) if is_blank => State::Extension,
            (State::Extension | State::ExtensionName, _) if is_token(byte) => State::ExtensionName,
            (State::ExtensionName | State::ExtensionNameBlank, b'=') => State::ExtensionEquals,
            (State::ExtensionName | State::ExtensionNameBlank, _) if is_blank => {
                State::ExtensionNameBlank
            }
            (State::ExtensionEquals, _) if is_blank => State::ExtensionEquals,
            (State::ExtensionEquals, b'"') => State::Quoted,
            (State::ExtensionEquals | State::ExtensionValue, _) if is_token(byte) => {
                State::ExtensionValue
            }
            (State::Quoted, b'"') => State::QuotedEnd,
            (State::Quoted, b'\\') => State::QuotedPair,
            (State::Quoted | State::QuotedPair, _) if is_value(byte) => State::Quoted,
            (State::Blank, _) => return Err(Refusal::bad("white space after a chunk size")),
            _ => return Err(Refusal::bad("a malformed chunk extension")),
        };
        self.in_extension(next)
    }

    /// Counts one more extension byte.
    fn in_extension(&mut self, next: State) -> Result<State, Refusal> {
        self.extension_line += 1;
        self.extension_body += 1;
        if self.extension_line > EXTENSION_LINE_MAX || self.extension_body > EXTENSION_BODY_MAX {
            return Err(Refusal::bad("too many bytes of chunk extensions"));
        }
        Ok(next)
    }

    /// The size line has ended.
    fn start_chunk(&mut self) -> Result<State, Refusal> {
        if self.size == 0 {
            return Ok(State::LineStart);
        }
        match self.announced.checked_add(self.size) {
            Some(announced) if announced <= self.body_max => self.announced = announced,
            _ => return Err(Refusal::new(413, "a chunked body longer than the limit")),
        }
        Ok(State::Data)
    }

    /// Trailers are held to the rules for fields, then forgotten: merging them into the head is how
    /// a client would set a field after everyone has looked (RFC 9110 §6.5.1).
    fn after_trailer(&mut self, byte: u8) -> Result<State, Refusal> {
        self.trailer += 1;
        if self.trailer > TRAILER_MAX {
            return Err(Refusal::new(431, "a trailer section longer than the limit"));
        }
        match (self.state, byte) {
            (State::LineStart, b'\r') => Ok(State::EndLf),
            (State::TrailerName, b':') => Ok(State::TrailerValue),
            (State::LineStart | State::TrailerName, _) if is_token(byte) => Ok(State::TrailerName),
            (State::LineStart | State::TrailerName, _) => Err(Refusal::bad(
                "a trailer name that is no token followed by a colon",
            )),
            (State::TrailerValue, b'\r') => Ok(State::TrailerLf),
            (State::TrailerValue, _) if is_value(byte) => Ok(State::TrailerValue),
            (State::TrailerValue, _) => Err(Refusal::bad("a control byte in a trailer value")),
            (State::TrailerLf, b'\n') => Ok(State::LineStart),
            (State::EndLf, b'\n') => Ok(State::Done),
            _ => Err(Refusal::bad("a CR without LF in the trailer section")),
        }
    }
}

/// Some framing, and the data that follows it.
struct Run {
    framing: usize,
    data: usize,
}

impl Run {
    fn is_empty(&self) -> bool {
        self.framing == 0 && self.data == 0
    }
}
