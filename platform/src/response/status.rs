//! [`Status`]: the number of a final answer.

use std::fmt;

use thiserror::Error;

/// A final status code, 200 to 599 (RFC 9110 §15). Interim ones (1xx) are the front end's to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Status(u16);

macro_rules! statuses {
    ($($name:ident = $code:literal;)*) => {
        $(
            #[doc = concat!(stringify!($code), ".")]
            pub const $name: Self = Self($code);
        )*
    };
}

impl Status {
    statuses! {
        OK = 200;
        CREATED = 201;
        ACCEPTED = 202;
        NO_CONTENT = 204;
        MOVED_PERMANENTLY = 301;
        FOUND = 302;
        SEE_OTHER = 303;
        NOT_MODIFIED = 304;
        TEMPORARY_REDIRECT = 307;
        PERMANENT_REDIRECT = 308;
        BAD_REQUEST = 400;
        UNAUTHORIZED = 401;
        FORBIDDEN = 403;
        NOT_FOUND = 404;
        METHOD_NOT_ALLOWED = 405;
        NOT_ACCEPTABLE = 406;
        CONFLICT = 409;
        GONE = 410;
        PRECONDITION_FAILED = 412;
        CONTENT_TOO_LARGE = 413;
        UNSUPPORTED_MEDIA_TYPE = 415;
        RANGE_NOT_SATISFIABLE = 416;
        UNPROCESSABLE_CONTENT = 422;
        TOO_MANY_REQUESTS = 429;
        INTERNAL_SERVER_ERROR = 500;
        NOT_IMPLEMENTED = 501;
        BAD_GATEWAY = 502;
        SERVICE_UNAVAILABLE = 503;
        GATEWAY_TIMEOUT = 504;
    }

    /// The number.
    pub fn code(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A number that is no final status.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("{0} is not the status of a final answer, which is 200 to 599")]
pub struct StatusError(pub u16);

/// A [`Status`], or a number that may be one.
pub trait ToStatus {
    /// Checks the number.
    ///
    /// # Errors
    /// [`StatusError`] when it is not 200 to 599.
    fn to_status(self) -> Result<Status, StatusError>;
}

impl ToStatus for Status {
    fn to_status(self) -> Result<Status, StatusError> {
        Ok(self)
    }
}

impl ToStatus for u16 {
    fn to_status(self) -> Result<Status, StatusError> {
        if (200..=599).contains(&self) {
            Ok(Status(self))
        } else {
            Err(StatusError(self))
        }
    }
}
