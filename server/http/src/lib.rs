//! HTTP/1.1 as pure functions over byte slices: what a request means, how a reply is framed, and
//! the front end's own answers. For clients, [`answer`] reads what a server has sent.
//!
//! Nothing here reads a socket or keeps a clock, and nothing that a server uses allocates; a loop
//! hands in the bytes it has and gets back a verdict. That is what makes the contract testable byte
//! by byte: every request either yields a [`head::Head`], asks for more bytes, or is a [`Refusal`]
//! with the status that the client gets.
//!
//! Where RFC 9110 and 9112 let a recipient choose between tolerance and refusal, this code refuses.
//! Each tolerance is a place where a proxy in front of us may read the same bytes differently, and
//! that difference is how requests are smuggled.
//!
//! It knows neither slots, doors nor routes.

pub mod answer;
mod bytes;
pub mod chunked;
pub mod date;
pub mod framing;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
pub mod head;
mod limits;
mod line;
pub mod path;
pub mod peer;
pub mod refusals;
pub mod reply;
pub mod reply_fields;
pub mod target;

#[cfg(test)]
mod chunked_tests;
#[cfg(test)]
mod field_rows;
#[cfg(test)]
mod head_rows;

pub use chunked::ChunkDecoder;
pub use date::DateCache;
pub use framing::{BodySize, ReplyFraming};
pub use head::{BodyFraming, Head, Parsed, parse};
pub use httparse::{EMPTY_HEADER, Header};
pub use limits::HeadLimits;
pub use line::begins_with_head;
pub use path::decode_path;
pub use refusals::Note;
pub use reply::Fate;
pub use reply_fields::{FieldError, FieldFacts, validate_fields};
pub use target::TargetForm;
pub use transom_wire::method::{self, Method};

/// Why a request is not served: the status that its client gets, and a reason for the log.
///
/// After a refusal the position in the byte stream is unknown, so the connection must be closed
/// once the answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {why}")]
pub struct Refusal {
    /// The status code of the answer, always 4xx or 5xx.
    pub status: u16,
    /// What was wrong, as a fragment that completes "the request was refused: …".
    pub why: &'static str,
}

impl Refusal {
    /// A refusal with `status`, for the reason `why`.
    #[must_use]
    pub const fn new(status: u16, why: &'static str) -> Self {
        Self { status, why }
    }

    /// 400: the bytes are not the HTTP/1.1 that we accept.
    const fn bad(why: &'static str) -> Self {
        Self::new(400, why)
    }
}
