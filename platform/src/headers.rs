//! What a handler may put into a header field, checked in one place.
//!
//! A value of [`HeaderName`] or [`HeaderValue`] proves that its bytes cannot end a field, start another one
//! or change how the message is framed (RFC 9110 §5.1, §5.5, §17.5). Framing belongs to the front end: a
//! handler that sets it would disagree with the bytes that are sent. This file knows nothing of responses.
//! The front end makes its own checks on the other side of the door, because the two may be different
//! processes.

use thiserror::Error;
use transom_wire::syntax::{is_reserved, is_token, is_value_byte};

/// Why a header field was refused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum HeaderError {
    /// The name is empty or has a byte that no token may have.
    #[error(
        "its name is not a token (RFC 9110 section 5.6.2): letters, digits and !#$%&'*+-.^_`|~ only"
    )]
    Name,
    /// The value has a CR, an LF, a NUL or another control byte; or there is none, because its `Display`
    /// failed or the request has outgrown its bucket.
    #[error("its value has a control byte, which could start another header or end the head")]
    Value,
    /// The field is the front end's to write.
    #[error("it says how the message is framed, and only the front end writes that")]
    Framing,
}

/// The name of a field that a handler may set: a token, and none of those that frame the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderName<'a>(&'a str);

impl<'a> HeaderName<'a> {
    /// Checks a name.
    ///
    /// # Errors
    /// [`HeaderError::Name`] when it is no token, [`HeaderError::Framing`] when it is the front end's.
    pub fn new(name: &'a str) -> Result<Self, HeaderError> {
        if !is_token(name.as_bytes()) {
            return Err(HeaderError::Name);
        }
        // The response knows better than the handler how long the body is.
        if is_reserved(name.as_bytes()) || name.eq_ignore_ascii_case("content-length") {
            return Err(HeaderError::Framing);
        }
        Ok(Self(name))
    }

    /// The name, as the handler spelled it.
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// Whether this is the field `name`; names are compared without regard to case.
    pub fn is(self, name: &str) -> bool {
        self.0.eq_ignore_ascii_case(name)
    }
}

/// The value of a field: no control bytes but HTAB. Bytes from 0x80 up are allowed and mean nothing in
/// particular.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderValue<'a>(&'a [u8]);

impl<'a> HeaderValue<'a> {
    /// Checks a value.
    ///
    /// # Errors
    /// [`HeaderError::Value`] when it has a control byte other than HTAB.
    pub fn new(value: &'a [u8]) -> Result<Self, HeaderError> {
        if value.iter().copied().all(is_value_byte) {
            Ok(Self(value))
        } else {
            Err(HeaderError::Value)
        }
    }

    /// The value's bytes.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use transom_wire::syntax::RESERVED;

    #[test]
    fn a_token_is_a_name() {
        for name in ["Content-Type", "x", "ETag", "X_1.2~", "!#$%&'*+-.^_`|~"] {
            assert_eq!(HeaderName::new(name).map(HeaderName::as_str), Ok(name));
        }
    }

    #[test]
    fn every_byte_that_is_no_token_is_refused_in_a_name() {
        for byte in 0..=127u8 {
            let name = format!("a{}", char::from(byte));
            let token = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            assert_eq!(HeaderName::new(&name).is_ok(), token, "byte {byte:#04x}");
        }
        assert_eq!(HeaderName::new(""), Err(HeaderError::Name));
        assert_eq!(HeaderName::new("caf\u{e9}"), Err(HeaderError::Name));
    }

    #[test]
    fn framing_fields_are_refused_in_any_case() {
        for name in RESERVED.into_iter().chain(["content-length"]) {
            assert_eq!(HeaderName::new(name), Err(HeaderError::Framing));
            assert_eq!(
                HeaderName::new(&name.to_ascii_uppercase()),
                Err(HeaderError::Framing)
            );
        }
        assert!(HeaderName::new("Date").is_ok());
        assert!(HeaderName::new("Connections").is_ok());
    }

    #[test]
    fn every_control_byte_but_tab_is_refused_in_a_value() {
        for byte in 0..=255u8 {
            let control = (byte < 0x20 && byte != b'\t') || byte == 0x7f;
            assert_eq!(
                HeaderValue::new(&[b'a', byte, b'b']).is_err(),
                control,
                "byte {byte:#04x}"
            );
        }
        assert!(HeaderValue::new(b"").is_ok());
    }
}
