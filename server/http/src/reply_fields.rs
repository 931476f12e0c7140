//! The field block of a handler's reply, checked before a byte of it is sent.
//!
//! The block comes out of a slot that another process wrote, so it is an allegation until it has
//! been here: a name or value with a line end in it would be a second reply, written by the
//! one who chose that value.

use super::bytes::{decimal, trim_ows, value_len};
use transom_wire::syntax::{is_reserved, is_token_byte};

/// What a valid block says that the front end must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FieldFacts {
    /// The body's length in bytes as the handler states it; must be compared with the body, see
    /// [`super::framing::framing`].
    pub content_length: Option<u64>,
    /// The handler set `Date`, so the front end does not.
    pub has_date: bool,
    /// The handler set `Content-Type`.
    pub has_content_type: bool,
}

/// Why a handler's fields are not sent. The client gets a 500, the log gets this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// A line without a token and a colon at its start.
    #[error(
        "a field of the reply has no valid name; names are letters, digits and !#$%&'*+-.^_`|~"
    )]
    Name,
    /// CR, LF, NUL or another control byte in a value.
    #[error("a field of the reply has a control byte in its value, or does not end in CRLF")]
    Value,
    /// A field that says how the message is delimited, or what becomes of the connection.
    #[error(
        "the reply sets Connection, Keep-Alive, Proxy-Connection, TE, Trailer, Transfer-Encoding or Upgrade, which are the front end's to set"
    )]
    Reserved,
    /// More than one `Content-Length`, `Content-Type` or `Date`.
    #[error("the reply sets Content-Length, Content-Type or Date more than once")]
    Twice,
    /// A `Content-Length` that is no number.
    #[error("the reply's Content-Length is no number of 64 bits")]
    LengthValue,
    /// A `Content-Length` that is not the length of the body.
    #[error("the reply's Content-Length is not the length of its body")]
    WrongLength,
    /// A `Content-Length` where no body can be.
    #[error("the reply sets Content-Length on a status that has no body")]
    LengthOnBodiless,
}

/// Checks `block`, zero or more lines `Name: value` that each end in CRLF, and notes what they say.
///
/// # Errors
///
/// The first [`FieldError`] that the lines show. Nothing of the block may be sent then.
pub fn validate_fields(block: &[u8]) -> Result<FieldFacts, FieldError> {
    let mut facts = FieldFacts::default();
    let mut rest = block;
    while !rest.is_empty() {
        let name_len = rest
            .iter()
            .position(|&byte| !is_token_byte(byte))
            .unwrap_or(rest.len());
        let (name, after) = rest.split_at(name_len);
        let [b':', after @ ..] = after else {
            return Err(FieldError::Name);
        };
        if name.is_empty() {
            return Err(FieldError::Name);
        }
        let (value, after) = after.split_at(value_len(after));
        let [b'\r', b'\n', after @ ..] = after else {
            return Err(FieldError::Value);
        };
        facts.note(name, value)?;
        rest = after;
    }
    Ok(facts)
}

impl FieldFacts {
    fn note(&mut self, name: &[u8], value: &[u8]) -> Result<(), FieldError> {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if name == b"Content-Type" {
            return first(&mut self.has_content_type); // as nearly every reply has it, in one comparison
        }
        // The length tells nearly all other fields apart without looking at them.
        match name.len() {
            4 if is("date") => first(&mut self.has_date),
            12 if is("content-type") => first(&mut self.has_content_type),
            14 if is("content-length") => {
                let length = decimal(trim_ows(value)).ok_or(FieldError::LengthValue)?;
                if self.content_length.replace(length).is_some() {
                    Err(FieldError::Twice)
                } else {
                    Ok(())
                }
            }
            _ if is_reserved(name) => Err(FieldError::Reserved),
            _ => Ok(()),
        }
    }
}

/// Notes a field that may come only once.
fn first(seen: &mut bool) -> Result<(), FieldError> {
    if std::mem::replace(seen, true) {
        Err(FieldError::Twice)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use transom_wire::syntax::RESERVED;

    #[test]
    fn a_valid_block_tells_what_the_front_end_must_know() {
        assert_eq!(validate_fields(b""), Ok(FieldFacts::default()));
        let block =
            b"Content-Type: text/html\r\nX-Empty:\r\nSet-Cookie: a=\xfc\r\nset-cookie:\tb \r\n\
            content-LENGTH:  42 \r\ndate: now\r\n";
        let facts = FieldFacts {
            content_length: Some(42),
            has_date: true,
            has_content_type: true,
        };
        assert_eq!(validate_fields(block), Ok(facts));
    }

    #[test]
    fn a_block_that_could_inject_a_field_or_a_reply_is_refused() {
        for (block, error) in [
            (&b"A: b\r\n\r\nHTTP/1.1 200 OK\r\n"[..], FieldError::Name),
            (b"A: b\r\n\r\n", FieldError::Name),
            (b"A b\r\n", FieldError::Name),
            (b"A : b\r\n", FieldError::Name),
            (b": b\r\n", FieldError::Name),
            (b"A\xfc: b\r\n", FieldError::Name),
            (b"A: b\r\n c\r\n", FieldError::Name),
            (b"A", FieldError::Name),
            (b"A: b", FieldError::Value),
            (b"A: b\n", FieldError::Value),
            (b"A: b\r", FieldError::Value),
            (b"A: b\rc\r\n", FieldError::Value),
            (b"A: b\nC: d\r\n", FieldError::Value),
            (b"A: \0\r\n", FieldError::Value),
            (b"A: \x01\r\n", FieldError::Value),
            (b"A: \x7f\r\n", FieldError::Value),
        ] {
            assert_eq!(
                validate_fields(block),
                Err(error),
                "{}",
                block.escape_ascii()
            );
        }
    }

    #[test]
    fn the_framers_fields_are_not_the_handlers_to_set() {
        for name in RESERVED.into_iter().chain(["KEEP-ALIVE", "Upgrade"]) {
            let block = format!("{name}: x\r\n");
            assert_eq!(
                validate_fields(block.as_bytes()),
                Err(FieldError::Reserved),
                "{name}"
            );
        }
    }

    #[test]
    fn a_content_length_is_one_number() {
        for value in ["", "x", "-1", "+1", "1, 1", "18446744073709551616"] {
            let block = format!("Content-Length: {value}\r\n");
            assert_eq!(
                validate_fields(block.as_bytes()),
                Err(FieldError::LengthValue),
                "{value}"
            );
        }
        assert_eq!(
            validate_fields(b"Content-Length: 1\r\nContent-Length: 1\r\n"),
            Err(FieldError::Twice)
        );
        assert_eq!(
            validate_fields(b"Date: a\r\nDate: b\r\n"),
            Err(FieldError::Twice)
        );
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_only_whole_lines_of_harmless_bytes(
            block in proptest::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(&b"Aa: \r\n\r\n"[..])], 0..40),
        ) {
            if validate_fields(&block).is_ok() {
                let mut fields = [httparse::EMPTY_HEADER; 40];
                let whole = [&block[..], b"\r\n"].concat();
                let parsed = httparse::parse_headers(&whole, &mut fields).unwrap();
                prop_assert!(matches!(parsed, httparse::Status::Complete((len, _)) if len == whole.len()));
                prop_assert!(block.split(|&b| b == b'\n').rev().skip(1).all(|line| line.ends_with(b"\r")));
            }
        }
    }
}
