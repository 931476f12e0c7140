//! [`Response`]: what a handler gives back.
//!
//! A response is a status, a block of header fields that has been checked, and a body. It is built on the
//! handler's thread, so its parts lie in the bucket or in the request (`'r`), or are static. A response that
//! cannot be sent as built (a header with a line break, a status that is no status, a value that does not
//! serialise) becomes a 500 that carries its reason for the log: the builder stays a chain, and a mistake
//! cannot be taken for an answer.
//!
//! It knows nothing of slots, framing and the connection. The front end writes `Content-Length` and `Date`.

mod body;
mod convert;
mod status;

use std::borrow::Cow;
use std::fmt::{self, Display, Write as _};
use std::io;

use serde::Serialize;

use crate::headers::{HeaderError, HeaderName, HeaderValue};
use crate::json;
use crate::outgrown::append;
use crate::short::Short;
use transom_arena::exhausted;

pub use body::{Body, BodyWriter, ReplySink, WriteBody};
pub use convert::IntoResponse;
pub use status::{Status, StatusError, ToStatus};

/// What the log is told of a name or an error that may be of any length.
const SAID: usize = 256;

const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";
const BYTES: &str = "application/octet-stream";

/// An answer to a request; `'r` is the time in which the request is answered, so bodies may borrow from the
/// request and from its bucket.
///
/// ```
/// use transom_platform::{Request, Response};
///
/// fn greet(request: &Request) -> Response {
///     Response::text(format!("hello, {}\n", request.path())).header("Cache-Control", "no-store")
/// }
/// ```
#[must_use = "a response does nothing until a handler returns it"]
pub struct Response<'r> {
    status: Status,
    /// Apart from the block because nearly every response has one and can have only one, and it is nearly
    /// always static.
    content_type: Cow<'static, str>,
    /// `Name: value` and CRLF, repeated; every byte has been through `headers`.
    block: Vec<u8>,
    body: Body<'r>,
    /// For the log.
    diagnostic: Option<String>,
    /// The response could not be built as asked: it is a 500, and stays one.
    failed: bool,
}

impl<'r> Response<'r> {
    fn new(content_type: &'static str, body: impl Into<Body<'r>>) -> Self {
        Self {
            status: Status::OK,
            content_type: Cow::Borrowed(content_type),
            block: Vec::new(),
            body: body.into(),
            diagnostic: None,
            failed: false,
        }
    }

    /// 200 with plain text.
    pub fn text(text: impl Into<Cow<'r, str>>) -> Self {
        Self::new(TEXT, text.into())
    }

    /// 200 with HTML. Nothing is escaped.
    pub fn html(html: impl Into<Cow<'r, str>>) -> Self {
        Self::new(HTML, html.into())
    }

    /// 200 with a value as JSON. A value that does not serialise (a map whose keys are not text, say) gives a
    /// 500.
    pub fn json(value: &(impl Serialize + ?Sized)) -> Self {
        match json::write(value) {
            Ok(json) => Self::new(JSON, json),
            Err(error) => Self::failed(format!(
                "a value could not be written as JSON: {}",
                Short(SAID, error)
            )),
        }
    }

    /// 200 with bytes of the given type. A type that no header can hold gives a 500.
    pub fn bytes(content_type: impl Into<Cow<'static, str>>, body: impl Into<Body<'r>>) -> Self {
        let content_type = content_type.into();
        let checked = HeaderValue::new(content_type.as_bytes()).map(|_| ());
        let mut response = Self::new(BYTES, body);
        match checked {
            Ok(()) => response.content_type = content_type,
            Err(error) => response.refuse("Content-Type", error),
        }
        response
    }

    /// Only a status.
    pub fn empty(status: impl ToStatus) -> Self {
        Self::new("", Body::Empty).with_status(status)
    }

    /// 303 See Other: look there, with GET. For another kind of redirect give it [`Response::with_status`].
    pub fn redirect(location: impl Display) -> Self {
        Self::empty(Status::SEE_OTHER).header("Location", location)
    }

    /// 404.
    pub fn not_found() -> Self {
        Self::text("Not Found\n").with_status(Status::NOT_FOUND)
    }

    /// 500 that says nothing to the client; the reason is logged.
    pub fn internal_error(reason: impl Into<String>) -> Self {
        let response =
            Self::text("Internal Server Error\n").with_status(Status::INTERNAL_SERVER_ERROR);
        response.with_diagnostic(reason)
    }

    /// 200 with a body that is written piece by piece, through the reply slot, at constant memory. The type
    /// is `application/octet-stream` unless [`Response::header`] says another; for a body of known length see
    /// [`Response::with_length`].
    ///
    /// The writer runs after the handler has returned, on the same thread and in the same bucket. When it
    /// fails after bytes have been sent, the connection is closed without an end of the body, so that the
    /// client can tell.
    ///
    /// ```
    /// # use std::io::Write;
    /// # use transom_platform::Response;
    /// let response = Response::stream(|out| {
    ///     for n in 0..1_000_000 {
    ///         writeln!(out, "{n}")?;
    ///     }
    ///     Ok(())
    /// });
    /// ```
    pub fn stream(write: impl FnOnce(&mut BodyWriter<'_>) -> io::Result<()> + 'r) -> Self {
        Self::new(
            BYTES,
            Body::Stream {
                length: None,
                write: Box::new(write),
            },
        )
    }

    /// The same response with another status. One that is no final status (200 to 599) makes it a 500.
    pub fn with_status(mut self, status: impl ToStatus) -> Self {
        if self.failed {
            return self;
        }
        match status.to_status() {
            Ok(status) => self.status = status,
            Err(error) => self.fail(error.to_string()),
        }
        self
    }

    /// The same response with a header field added; `Content-Type` replaces the one before it. A name or
    /// value that must not be sent makes the response a 500 whose reason is logged.
    ///
    /// Refused are control bytes in the value (CR and LF would let it write headers of its own), names that
    /// are no tokens, and the fields that frame the message, such as `Content-Length` and `Connection`.
    pub fn header(mut self, name: &str, value: impl Display) -> Self {
        if self.failed {
            return self;
        }
        if let Err(error) = self.add(name, value) {
            self.refuse(name, error);
        }
        self
    }

    /// As [`Response::header`], for names and values that are not the handler's own: says what is wrong
    /// instead of becoming a 500, and leaves the response as it was.
    ///
    /// # Errors
    /// See [`HeaderError`].
    pub fn try_header(&mut self, name: &str, value: impl Display) -> Result<(), HeaderError> {
        if self.failed {
            Ok(())
        } else {
            self.add(name, value)
        }
    }

    /// Announces the length of a streamed body. Bytes beyond it are cut; a body that ends before it closes
    /// the connection. For other bodies the length is known, and a different one makes the response a 500.
    pub fn with_length(mut self, length: u64) -> Self {
        if let Body::Stream {
            length: announced, ..
        } = &mut self.body
        {
            *announced = Some(length);
        } else if self.content_length() != Some(length) && !self.failed {
            self.fail(format!(
                "a length of {length} was announced for a body of another length"
            ));
        }
        self
    }

    /// The same response with a message for the log. The reason of a response that could not be built stays.
    pub fn with_diagnostic(mut self, message: impl Into<String>) -> Self {
        if !self.failed {
            self.diagnostic = Some(message.into());
        }
        self
    }

    /// The status.
    pub fn status(&self) -> Status {
        self.status
    }

    /// The header block in parts, to be written one after the other.
    pub fn fields(&self) -> [&[u8]; 4] {
        if self.content_type.is_empty() {
            return [b"", b"", b"", &self.block];
        }
        [
            b"Content-Type: ",
            self.content_type.as_bytes(),
            b"\r\n",
            &self.block,
        ]
    }

    /// The length of the whole body; `None` for a stream that has not announced it.
    pub fn content_length(&self) -> Option<u64> {
        self.body.len()
    }

    /// The message for the log, if there is one.
    pub fn diagnostic(&self) -> Option<&str> {
        self.diagnostic.as_deref()
    }

    /// The body.
    pub fn into_body(self) -> Body<'r> {
        self.body
    }

    /// Writes the field into the block first and checks it there, so that formatting it takes no memory of
    /// its own.
    fn add(&mut self, name: &str, value: impl Display) -> Result<(), HeaderError> {
        let name = HeaderName::new(name)?;
        let start = self.block.len();
        let mut block = BlockText(&mut self.block);
        // A `Display` that fails has no value to give; neither has a request that has outgrown its bucket.
        let written = write!(block, "{}: ", name.as_str());
        let value_start = block.0.len();
        let formatted = written
            .and_then(|()| write!(block, "{value}"))
            .and_then(|()| match exhausted() {
                None => Ok(()),
                Some(_) => Err(fmt::Error),
            })
            .map_err(|_| HeaderError::Value);
        let checked =
            formatted.and_then(|()| HeaderValue::new(&self.block[value_start..]).map(|_| ()));
        if checked.is_ok() && name.is("content-type") {
            self.content_type = String::from_utf8_lossy(&self.block[value_start..])
                .into_owned()
                .into();
        }
        if checked.is_err() || name.is("content-type") {
            self.block.truncate(start);
        } else {
            self.block.extend_from_slice(b"\r\n");
        }
        checked
    }

    fn refuse(&mut self, name: &str, error: HeaderError) {
        let name = Short(SAID, format_args!("{name:?}"));
        self.fail(format!("the header {name} was refused: {error}"));
    }

    fn fail(&mut self, reason: String) {
        *self = Self::failed(reason);
    }

    /// A 500 that the rest of a builder's chain cannot change.
    fn failed(reason: String) -> Self {
        Self {
            failed: true,
            ..Self::internal_error(reason)
        }
    }
}

impl fmt::Debug for Response<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.status)
            .field("fields", &String::from_utf8_lossy(&self.fields().concat()))
            .field("body", &self.body)
            .field("diagnostic", &self.diagnostic)
            .finish()
    }
}

/// Lets `write!` append to the block: what is formatted is text, and so are its bytes.
struct BlockText<'a>(&'a mut Vec<u8>);

impl fmt::Write for BlockText<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        append(self.0, text.as_bytes()).map_err(|_| fmt::Error)
    }
}

#[cfg(test)]
mod tests;
