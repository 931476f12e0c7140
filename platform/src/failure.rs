//! [`Failure`]: what the question mark in a handler turns errors into.
//!
//! The two kinds of message have different readers. A message given to a constructor such as
//! [`Failure::bad_request`] is for the client and is sent. The text of an error that merely passed through
//! `?` is for the operator: it is logged, and the client learns only that it was our fault.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use transom_arena::exhausted;

use crate::response::{IntoResponse, Response, Status};
use crate::short::Short;

/// The error type of handlers that return `Result`. Whatever converts into a `Box<dyn Error>` converts into
/// it by `?`: every [`std::error::Error`], `String` and `&str`, `Box<dyn Error>`, and `anyhow::Error`.
///
/// ```
/// use transom_platform::{Failure, Request, Response};
///
/// fn double(request: &Request) -> Result<Response, Failure> {
///     let n: u32 = request.query("n").ok_or(Failure::bad_request("say ?n="))?.parse()?;
///     Ok(Response::text(format!("{}\n", u64::from(n) * 2)))
/// }
/// ```
///
/// It is not itself a `std::error::Error`: that would forbid the conversion from every one of them.
pub struct Failure {
    status: Status,
    message: Cow<'static, str>,
    sent: bool,
}

impl Failure {
    /// An answer with this status whose body is the message. A message of a 5xx status is also logged.
    pub fn new(status: Status, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            message: message.into(),
            sent: true,
        }
    }

    /// 500 without an explanation; the message is logged.
    pub fn internal(message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status: Status::INTERNAL_SERVER_ERROR,
            message: message.into(),
            sent: false,
        }
    }

    /// 400: the client can mend it. The message is sent.
    pub fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Status::BAD_REQUEST, message)
    }

    /// 403: known, and not allowed. The message is sent.
    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Status::FORBIDDEN, message)
    }

    /// 404. The message is sent.
    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Status::NOT_FOUND, message)
    }

    /// 409: it contradicts what is there. The message is sent.
    pub fn conflict(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Status::CONFLICT, message)
    }

    /// 413: it is too large. The message is sent.
    pub fn content_too_large(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Status::CONTENT_TOO_LARGE, message)
    }

    /// 503: not now. The message is sent.
    pub fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Status::SERVICE_UNAVAILABLE, message)
    }

    /// The status of the answer that it becomes.
    pub fn status(&self) -> Status {
        self.status
    }

    /// The message, sent or not.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl<E: Into<Box<dyn Error>>> From<E> for Failure {
    /// A 500; the error and its sources are logged, up to 8 KiB of them. A 503 if the cause is a lack of
    /// descriptors: others give theirs back.
    fn from(error: E) -> Self {
        let error = error.into();
        let mut failure = Self::internal(Short(LOGGED, WithSources(&*error)).to_string());
        if NO_DESCRIPTORS
            .iter()
            .any(|end| failure.message.ends_with(end))
        {
            failure.status = Status::SERVICE_UNAVAILABLE;
            failure.message.to_mut().push_str(MORE_DESCRIPTORS);
        }
        failure
    }
}

/// How the innermost error ends when there is no descriptor left, in this process (EMFILE) or on this machine
/// (ENFILE). The text is looked at, not the type: errors that wrap others show their text, but not all of
/// them tell their type.
const NO_DESCRIPTORS: [&str; 2] = ["(os error 24)", "(os error 23)"];

/// What the log says then.
const MORE_DESCRIPTORS: &str = ": have the application say how many it needs (App::descriptors_per_request), or raise `ulimit -n`";

/// When a client may try again that got a 503 because others had all descriptors: what most requests take.
const RETRY_AFTER_SECONDS: &str = "1";

/// What is logged of an error: its text may hold what a client has sent.
const LOGGED: usize = 8 << 10;

struct WithSources<'e>(&'e dyn Error);

impl fmt::Display for WithSources<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

/// An error where the request that this thread runs has outgrown its bucket. Its answer is a 500 in any case,
/// so its work should end.
#[inline]
pub(crate) fn unless_exhausted() -> Result<(), Failure> {
    match exhausted() {
        None => Ok(()),
        Some(_) => Err(Failure::internal("the request has outgrown its bucket")),
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status, self.message)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failure")
            .field("status", &self.status)
            .field("message", &self.message)
            .field("sent", &self.sent)
            .finish()
    }
}

impl<'r> IntoResponse<'r> for Failure {
    fn into_response(self) -> Response<'r> {
        if !self.sent && self.status == Status::SERVICE_UNAVAILABLE {
            return Response::text("Service Unavailable\n")
                .with_status(self.status)
                .header("Retry-After", RETRY_AFTER_SECONDS)
                .with_diagnostic(self.message.into_owned());
        }
        if !self.sent {
            return Response::internal_error(self.message.into_owned());
        }
        if exhausted().is_some() {
            return Response::empty(self.status); // it is not sent, and a copy of the message may be too much
        }
        let mut text = String::with_capacity(self.message.len() + 1);
        text.push_str(&self.message);
        text.push('\n');
        let response = Response::text(text).with_status(self.status);
        if self.status.code() >= 500 {
            return response.with_diagnostic(self.message.into_owned());
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::response::Body;
    use std::io;

    #[derive(Debug, thiserror::Error)]
    #[error("the ledger is shut")]
    struct Shut(#[source] std::num::ParseIntError);

    fn body(response: Response<'_>) -> Vec<u8> {
        match response.into_body() {
            Body::Owned(bytes) => bytes,
            Body::Borrowed(bytes) => bytes.to_vec(),
            other => panic!("no bytes in {other:?}"),
        }
    }

    fn fails() -> Result<(), Failure> {
        Err(Shut("x".parse::<u8>().expect_err("x is no number")))?;
        Ok(())
    }

    #[test]
    fn an_error_through_the_question_mark_is_logged_with_its_source_and_not_sent() {
        let response = fails().expect_err("it fails").into_response();
        assert_eq!(response.status(), Status::INTERNAL_SERVER_ERROR);
        assert_eq!(
            response.diagnostic(),
            Some("the ledger is shut: invalid digit found in string")
        );
        assert_eq!(body(response), b"Internal Server Error\n");
    }

    #[test]
    fn an_error_that_wants_a_descriptor_is_a_503_however_it_is_wrapped() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot open the ledger")]
        struct Wrapped(#[source] io::Error);
        let no_file = || io::Error::from_raw_os_error(24);
        let failures = [
            Failure::from(no_file()),
            Failure::from(io::Error::from_raw_os_error(23)),
            Failure::from(Wrapped(no_file())),
            Failure::from(io::Error::other(Wrapped(no_file()))),
            Failure::from(format!("cannot open the ledger: {}", no_file())),
        ];
        for failure in failures {
            let response = failure.into_response();
            assert_eq!(response.status().code(), 503);
            let said = response.diagnostic().expect("it is logged");
            assert!(said.contains("App::descriptors_per_request"), "{said}");
            assert_eq!(body(response), b"Service Unavailable\n");
        }
        for other in [
            io::Error::from_raw_os_error(2),
            io::Error::other("os error 24"),
        ] {
            assert_eq!(Failure::from(other).status().code(), 500);
        }
    }

    #[test]
    fn what_is_no_error_type_passes_the_question_mark_too() {
        fn text() -> Result<(), Failure> {
            Err(String::from("no ledger"))?;
            Ok(())
        }
        fn boxed() -> Result<(), Failure> {
            let error: Box<dyn Error> = "no ledger".into();
            Err(error)?;
            Ok(())
        }
        for failure in [text(), boxed()] {
            let failure = failure.expect_err("it fails");
            assert_eq!(
                (failure.status().code(), failure.message()),
                (500, "no ledger")
            );
        }
    }

    #[test]
    fn a_message_for_the_client_is_sent_and_a_4xx_is_not_logged() {
        let response = Failure::bad_request("say ?n=").into_response();
        assert_eq!(response.status(), Status::BAD_REQUEST);
        assert_eq!(response.diagnostic(), None);
        assert_eq!(body(response), b"say ?n=\n");
    }

    #[test]
    fn a_5xx_with_a_message_is_both_sent_and_logged() {
        let response = Failure::unavailable("the tide is out").into_response();
        assert_eq!(response.status().code(), 503);
        assert_eq!(response.diagnostic(), Some("the tide is out"));
        assert_eq!(body(response), b"the tide is out\n");
    }

    #[test]
    fn each_constructor_has_its_status() {
        let failures = [
            (Failure::internal("m"), 500),
            (Failure::bad_request("m"), 400),
            (Failure::forbidden("m"), 403),
            (Failure::not_found("m"), 404),
            (Failure::conflict("m"), 409),
            (Failure::content_too_large("m"), 413),
            (Failure::unavailable("m"), 503),
        ];
        for (failure, status) in failures {
            assert_eq!(failure.status().code(), status);
            assert_eq!(failure.message(), "m");
        }
    }
}
