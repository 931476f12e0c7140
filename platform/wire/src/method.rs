//! Request methods: those that the front end routes, and "some other token".
//!
//! CONNECT and TRACE are missing on purpose. A server that is no proxy has no use for CONNECT, and
//! TRACE sends a client's credentials back to the sender; both are refused with the head.

/// The longest method that is looked at, in bytes. The longest registered one has 17; beyond this
/// the token is not a method that any server implements, and RFC 9112 §3 wants 501.
pub const METHOD_MAX: usize = 32;

/// The names of [`Method`]'s methods, but for [`Method::Other`].
pub const KNOWN: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"];

/// The `Allow` list of a resource that takes every method of [`Method`].
pub const ALLOW_ALL: &str = "GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS";

/// A request method. Methods are case-sensitive: `get` is [`Method::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// `GET`
    Get,
    /// `HEAD`: like GET, but no answer to it has a body, not even an error.
    Head,
    /// `POST`
    Post,
    /// `PUT`
    Put,
    /// `DELETE`
    Delete,
    /// `PATCH`
    Patch,
    /// `OPTIONS`
    Options,
    /// Any other token: an application may know it. If not it gets a 501, and the connection ends: what such
    /// a method does to the framing of its request is not known.
    Other,
}

impl Method {
    /// The method that `token` names.
    #[inline]
    #[must_use]
    pub fn from_token(token: &[u8]) -> Self {
        match token {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"PATCH" => Self::Patch,
            b"OPTIONS" => Self::Options,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_of_methods_agree() {
        assert_eq!(KNOWN.join(", "), ALLOW_ALL);
        for name in KNOWN {
            assert_ne!(Method::from_token(name.as_bytes()), Method::Other);
            assert!(name.len() <= METHOD_MAX);
        }
    }
}
