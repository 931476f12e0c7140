//! What a response's body can be, and [`BodyWriter`], through which a long one is written into the reply
//! slot.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};

use crate::outgrown::io_unless_exhausted;

/// Writes a streamed body; see [`Response::stream`](crate::Response::stream).
pub type WriteBody<'r> = Box<dyn FnOnce(&mut BodyWriter<'_>) -> io::Result<()> + 'r>;

/// The body of a response.
#[non_exhaustive]
pub enum Body<'r> {
    /// No bytes.
    Empty,
    /// Bytes of the request, of its bucket, or of the program.
    Borrowed(&'r [u8]),
    /// Bytes of its own.
    Owned(Vec<u8>),
    /// Bytes that are yet to be written.
    Stream {
        /// How many they will be, if the handler said so.
        length: Option<u64>,
        /// Writes them.
        write: WriteBody<'r>,
    },
}

impl Body<'_> {
    /// The number of bytes, unless it is a stream that has not said.
    #[expect(clippy::len_without_is_empty, reason = "a stream of unknown length is neither")]
    pub fn len(&self) -> Option<u64> {
        match self {
            Self::Empty => Some(0),
            Self::Borrowed(bytes) => Some(bytes.len() as u64),
            Self::Owned(bytes) => Some(bytes.len() as u64),
            Self::Stream { length, .. } => *length,
        }
    }
}

impl fmt::Debug for Body<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.len() {
            Some(len) => write!(f, "Body({len} bytes)"),
            None => f.write_str("Body(stream)"),
        }
    }
}

impl<'r> From<&'r [u8]> for Body<'r> {
    fn from(bytes: &'r [u8]) -> Self {
        Self::Borrowed(bytes)
    }
}

impl<'r, const N: usize> From<&'r [u8; N]> for Body<'r> {
    fn from(bytes: &'r [u8; N]) -> Self {
        Self::Borrowed(bytes)
    }
}

impl<'r> From<&'r str> for Body<'r> {
    fn from(text: &'r str) -> Self {
        Self::Borrowed(text.as_bytes())
    }
}

impl From<Vec<u8>> for Body<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Owned(bytes)
    }
}

impl From<String> for Body<'_> {
    fn from(text: String) -> Self {
        Self::Owned(text.into_bytes())
    }
}

impl<'r> From<Cow<'r, str>> for Body<'r> {
    fn from(text: Cow<'r, str>) -> Self {
        match text {
            Cow::Borrowed(text) => text.into(),
            Cow::Owned(text) => text.into(),
        }
    }
}

impl<'r> From<Cow<'r, [u8]>> for Body<'r> {
    fn from(bytes: Cow<'r, [u8]>) -> Self {
        match bytes {
            Cow::Borrowed(bytes) => bytes.into(),
            Cow::Owned(bytes) => bytes.into(),
        }
    }
}

impl<'r> From<bumpalo::collections::Vec<'r, u8>> for Body<'r> {
    fn from(bytes: bumpalo::collections::Vec<'r, u8>) -> Self {
        Self::Borrowed(bytes.into_bump_slice())
    }
}

impl<'r> From<bumpalo::collections::String<'r>> for Body<'r> {
    fn from(text: bumpalo::collections::String<'r>) -> Self {
        Self::Borrowed(text.into_bump_str().as_bytes())
    }
}

/// Where a [`BodyWriter`] writes to: the free part of the reply slot. There is no buffer between the two.
pub trait ReplySink {
    /// The part of the slot that is still free. Empty when the slot is full.
    fn space(&mut self) -> &mut [u8];

    /// Counts the first `len` bytes of [`space`](ReplySink::space) as written.
    ///
    /// # Panics
    /// May panic if `len` is more than there was.
    fn advance(&mut self, len: usize);

    /// Hands what was written to the front end and waits until it has taken it; afterwards the slot has space
    /// again. With nothing written it does nothing.
    ///
    /// # Errors
    /// When it is not taken any more: the client has gone, or the deadline has passed. It stays so.
    fn push_out(&mut self) -> io::Result<()>;

    /// Whether pushing out is known to fail. That stays so.
    fn is_closed(&self) -> bool {
        false
    }
}

/// Writes a streamed body. A slow client slows the writer: when the slot is full, writing waits until it has
/// been taken. [`flush`](Write::flush) sends what is there.
///
/// Once as many bytes were written as [`Response::with_length`](crate::Response::with_length) announced, no
/// more are accepted: `write` gives 0, `write_all` and `write!` fail with [`io::ErrorKind::WriteZero`].
pub struct BodyWriter<'a> {
    sink: &'a mut dyn ReplySink,
    written: u64,
    length: Option<u64>,
    overran: bool,
    /// Up to this address the slot has nothing of another answer.
    clean_to: usize,
}

impl<'a> BodyWriter<'a> {
    /// A writer into `sink` for a body of the announced length.
    pub fn new(sink: &'a mut dyn ReplySink, length: Option<u64>) -> Self {
        Self {
            sink,
            written: 0,
            length,
            overran: false,
            clean_to: 0,
        }
    }

    /// Whether the client takes no more, as far as is known without writing; see
    /// [`Request::client_is_gone`](crate::Request::client_is_gone). The next [`flush`](Write::flush) of
    /// anything fails then. For a writer that waits for something to write:
    ///
    /// ```
    /// # use std::io::{self, Write};
    /// # use std::time::Duration;
    /// # use transom_platform::BodyWriter;
    /// /// `next` waits for a line, for so long at most.
    /// fn send(next: impl Fn(Duration) -> Option<String>, out: &mut BodyWriter) -> io::Result<()> {
    ///     while !out.is_closed() {
    ///         if let Some(line) = next(Duration::from_millis(100)) {
    ///             writeln!(out, "{line}")?;
    ///             out.flush()?;
    ///         }
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn is_closed(&self) -> bool {
        self.sink.is_closed()
    }

    /// The bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Whether the handler tried to write more than it had announced.
    pub fn overran(&self) -> bool {
        self.overran
    }

    /// Whether the body is as long as was announced.
    pub fn is_complete(&self) -> bool {
        self.length.is_none_or(|length| length == self.written)
    }

    /// Room in the reply slot, to be filled in place (a file can be read straight into it) and then counted
    /// with [`advance`](BodyWriter::advance). It is empty only when the announced length has been written.
    /// Its bytes are zeros, or those of this answer.
    ///
    /// # Errors
    /// When a full slot is not taken any more.
    pub fn space(&mut self) -> io::Result<&mut [u8]> {
        let left = self.left();
        let space = uncleared_space(self.sink, left)?;
        let (start, end) = (space.as_ptr().addr(), space.as_ptr().addr() + space.len());
        if self.clean_to < end {
            space[self.clean_to.saturating_sub(start)..].fill(0);
            self.clean_to = end;
        }
        Ok(space)
    }

    /// Counts the first `len` bytes of the last [`space`](BodyWriter::space) as written.
    ///
    /// # Panics
    /// If `len` is more than there was room for.
    pub fn advance(&mut self, len: usize) {
        assert!(
            len <= self.sink.space().len().min(self.left()),
            "more was written than there was space for"
        );
        self.sink.advance(len);
        self.written += len as u64;
    }

    fn left(&self) -> usize {
        self.length.map_or(usize::MAX, |length| {
            usize::try_from(length - self.written).unwrap_or(usize::MAX)
        })
    }
}

/// Room for a body of which `left` bytes are to come, with bytes of earlier answers in it.
fn uncleared_space(sink: &mut dyn ReplySink, left: usize) -> io::Result<&mut [u8]> {
    io_unless_exhausted()?;
    if left > 0 && sink.space().is_empty() {
        sink.push_out()?;
    }
    let space = sink.space();
    if left > 0 && space.is_empty() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    let len = space.len().min(left);
    Ok(&mut space[..len])
}

impl Write for BodyWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let left = self.left();
        let space = uncleared_space(self.sink, left)?;
        let len = space.len().min(bytes.len());
        space[..len].copy_from_slice(&bytes[..len]);
        if len == 0 {
            self.overran = true;
        } else {
            self.advance(len);
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        io_unless_exhausted()?;
        self.sink.push_out()
    }
}
