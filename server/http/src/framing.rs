//! How a reply is delimited: the one place that decides it.
//!
//! Handlers have no say in it, so they cannot make a reply that two readers cut in two ways; what
//! they state of its length is held against the body. The lines themselves are written by
//! [`super::reply`].

use super::reply_fields::{FieldError, FieldFacts};

/// How the client learns where the reply's body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyFraming {
    /// `Content-Length`, in bytes; also on the answer to HEAD, where no body follows.
    Length(u64),
    /// `Transfer-Encoding: chunked`. Not for HTTP/1.0.
    Chunked,
    /// By the end of the connection, which is therefore closed.
    UntilClose,
    /// No framing field: the status or the method says that there is no body.
    NoBody,
    /// No framing field from us: the handler's block has a `Content-Length`, which has been
    /// checked.
    Stated,
}

/// The size of a reply's body, as far as it is known when its head is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodySize {
    /// All of it is here, so many bytes.
    Known(u64),
    /// It is still being made.
    Streamed,
}

/// Chooses how a reply is framed; `facts` is what its handler's fields say.
///
/// For HEAD the reply is framed as for GET, and the caller sends no body.
///
/// # Errors
///
/// If the handler states a `Content-Length` that is not the body's, or on a status that has no
/// body.
#[inline]
pub fn framing(
    status: u16,
    head_only: bool,
    version_minor: u8,
    body: BodySize,
    facts: &FieldFacts,
) -> Result<ReplyFraming, FieldError> {
    let stated = facts.content_length;
    match (status, stated, body) {
        // RFC 9110 §8.6: no Content-Length in 1xx and 204.
        (100..=199 | 204, Some(_), _) => Err(FieldError::LengthOnBodiless),
        (100..=199 | 204 | 304, None, _) => Ok(ReplyFraming::NoBody),
        // In a 304, and in the answer to HEAD, it is the length of what a GET would have brought.
        (304, Some(_), _) => Ok(ReplyFraming::Stated),
        (_, Some(_), BodySize::Known(0)) if head_only => Ok(ReplyFraming::Stated),
        (_, Some(stated), BodySize::Known(len)) if stated != len => Err(FieldError::WrongLength),
        (_, Some(_), _) => Ok(ReplyFraming::Stated),
        (_, None, BodySize::Known(len)) => Ok(ReplyFraming::Length(len)),
        (_, None, BodySize::Streamed) if version_minor == 0 => Ok(ReplyFraming::UntilClose),
        (_, None, BodySize::Streamed) => Ok(ReplyFraming::Chunked),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_framed_by_what_is_known_of_its_body() {
        use BodySize::{Known, Streamed};
        let plain = FieldFacts::default();
        let stated = FieldFacts {
            content_length: Some(7),
            ..plain
        };
        for (status, head_only, minor, body, facts, expected) in [
            (200, false, 1, Known(7), plain, Ok(ReplyFraming::Length(7))),
            (200, true, 1, Known(7), plain, Ok(ReplyFraming::Length(7))),
            (200, false, 1, Streamed, plain, Ok(ReplyFraming::Chunked)),
            (200, true, 1, Streamed, plain, Ok(ReplyFraming::Chunked)),
            (200, false, 0, Streamed, plain, Ok(ReplyFraming::UntilClose)),
            (200, false, 0, Streamed, stated, Ok(ReplyFraming::Stated)),
            (200, false, 1, Known(7), stated, Ok(ReplyFraming::Stated)),
            (
                200,
                false,
                1,
                Known(8),
                stated,
                Err(FieldError::WrongLength),
            ),
            (
                200,
                false,
                1,
                Known(0),
                stated,
                Err(FieldError::WrongLength),
            ),
            (200, true, 1, Known(0), stated, Ok(ReplyFraming::Stated)),
            (204, false, 1, Known(0), plain, Ok(ReplyFraming::NoBody)),
            (
                204,
                false,
                1,
                Known(0),
                stated,
                Err(FieldError::LengthOnBodiless),
            ),
            (304, false, 1, Known(0), plain, Ok(ReplyFraming::NoBody)),
            (304, false, 1, Known(0), stated, Ok(ReplyFraming::Stated)),
        ] {
            let case = (status, head_only, minor, body, facts.content_length);
            assert_eq!(
                framing(status, head_only, minor, body, &facts),
                expected,
                "{case:?}"
            );
        }
    }
}
