//! [`IntoResponse`]: what else a handler may return.

use crate::response::{BYTES, Body, Response, Status, ToStatus};

/// What a handler may return in place of a [`Response`].
///
/// | returned | becomes |
/// |---|---|
/// | `&str`, `String` | 200, text |
/// | `Vec<u8>` | 200, `application/octet-stream` |
/// | `serde_json::Value` | 200, JSON |
/// | `()` | 204 |
/// | [`Status`] | that status, no body |
/// | `(404, anything)` | anything, with that status |
/// | `Result` of two of these | the one it is; [`Failure`](crate::Failure) is made for the second |
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not something that a handler can return",
    note = "return a `Response`, a `String`, a `&str`, a `Status`, `(status, any of these)`, or `Result<_, Failure>`"
)]
pub trait IntoResponse<'r> {
    /// The response that it means.
    fn into_response(self) -> Response<'r>;
}

impl<'r, 's: 'r> IntoResponse<'r> for Response<'s> {
    fn into_response(self) -> Response<'r> {
        self
    }
}

impl<'r, 's: 'r> IntoResponse<'r> for &'s str {
    fn into_response(self) -> Response<'r> {
        Response::text(self)
    }
}

impl<'r> IntoResponse<'r> for String {
    fn into_response(self) -> Response<'r> {
        Response::text(self)
    }
}

impl<'r> IntoResponse<'r> for Vec<u8> {
    fn into_response(self) -> Response<'r> {
        Response::new(BYTES, Body::Owned(self))
    }
}

impl<'r> IntoResponse<'r> for serde_json::Value {
    fn into_response(self) -> Response<'r> {
        Response::json(&self)
    }
}

impl<'r> IntoResponse<'r> for () {
    fn into_response(self) -> Response<'r> {
        Response::empty(Status::NO_CONTENT)
    }
}

impl<'r> IntoResponse<'r> for Status {
    fn into_response(self) -> Response<'r> {
        Response::empty(self)
    }
}

impl<'r, S: ToStatus, T: IntoResponse<'r>> IntoResponse<'r> for (S, T) {
    fn into_response(self) -> Response<'r> {
        self.1.into_response().with_status(self.0)
    }
}

impl<'r, T: IntoResponse<'r>, E: IntoResponse<'r>> IntoResponse<'r> for Result<T, E> {
    fn into_response(self) -> Response<'r> {
        match self {
            Ok(answer) => answer.into_response(),
            Err(failure) => failure.into_response(),
        }
    }
}
