//! What counts as a handler: anything that is called with `&Request` and returns something that becomes a
//! `Response`.
//!
//! ```
//! use transom_platform::{Failure, Request, Response, Router, handler};
//!
//! fn plain(request: &Request) -> Response {
//!     Response::text(request.path())                       // borrows from the request
//! }
//! fn fallible(request: &Request) -> Result<Response, Failure> {
//!     let id: u64 = request.param_as("id")?;
//!     Ok(Response::text(format!("user {id}\n")))
//! }
//! let router = Router::new()
//!     .get("/", plain)
//!     .get("/user/{id}", fallible)
//!     .get("/static", |_: &Request| "always the same")
//!     .get("/owned", |request: &Request| Response::text(request.path().to_owned()))
//!     .get("/borrowed", handler(|request| Response::text(request.path())));
//! ```
//!
//! # Closures
//!
//! A closure needs the type of its argument, `|request: &Request|`, and may then return anything that borrows
//! nothing from the request. For one that borrows, Rust must be told where the closure is written that its
//! result has the lifetime of its argument, which an annotation on a closure cannot say: that is what
//! [`handler()`] is for. Functions need neither.
//!
//! ```compile_fail
//! # use transom_platform::{Request, Response, Router};
//! let router = Router::new().get("/", |request: &Request| Response::text(request.path()));
//! ```

use crate::request::Request;
use crate::response::{IntoResponse, Response};

/// A handler for requests that live for `'r`. Implemented for functions and closures; see the module's
/// documentation.
///
/// A handler takes any request, so what the router asks for is `for<'r> HandlerFn<'r>`, which [`Handler`]
/// abbreviates.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler",
    label = "a handler is called with `&Request` and returns something that becomes a `Response`",
    note = "a closure needs the type of its argument: `|request: &Request| ..`",
    note = "a closure whose response borrows from the request goes into `transom_platform::handler(..)`"
)]
pub trait HandlerFn<'r> {
    /// Answers a request.
    fn call(&self, request: &'r Request) -> Response<'r>;

    /// Whether it reads the body itself as it comes, through [`Request::body_reader`]; see [`streaming`].
    fn streams_body(&self) -> bool {
        false
    }
}

impl<'r, F, R> HandlerFn<'r> for F
where
    F: Fn(&'r Request) -> R,
    R: IntoResponse<'r>,
{
    fn call(&self, request: &'r Request) -> Response<'r> {
        self(request).into_response()
    }
}

/// A handler for any request, which any door server thread may call. Implemented for whatever qualifies.
pub trait Handler: for<'r> HandlerFn<'r> + Send + Sync + 'static {}

impl<H> Handler for H where H: for<'r> HandlerFn<'r> + Send + Sync + 'static {}

/// Returns the closure, and lets its response borrow from its request.
///
/// ```
/// # use transom_platform::{Response, Router, handler};
/// let router = Router::new().get("/", handler(|request| Response::text(request.path())));
/// ```
pub fn handler<F>(handler: F) -> F
where
    F: for<'r> Fn(&'r Request) -> Response<'r>,
{
    handler
}

/// Marks a handler that reads the body itself, piece by piece, through [`Request::body_reader`].
///
/// Without this mark the handler runs once all of the body is there; one that is larger than its slot is
/// collected into the bucket, and gets a 413 if it does not fit. With it the handler runs as soon as the
/// request's head is there, reads wait for what the client sends next, and the body passes at constant
/// memory. So client and handler can take turns.
///
/// ```
/// use transom_platform::{Failure, Request, Router, handler::streaming};
///
/// fn count(request: &Request) -> Result<String, Failure> {
///     let bytes = std::io::copy(&mut request.body_reader(), &mut std::io::sink())?;
///     Ok(format!("{bytes}\n"))
/// }
/// let router = Router::new().post("/count", streaming(count));
/// ```
pub fn streaming<H: Handler>(handler: H) -> Streaming<H> {
    Streaming(handler)
}

/// What [`streaming`] gives.
pub struct Streaming<H>(H);

impl<'r, H: HandlerFn<'r>> HandlerFn<'r> for Streaming<H> {
    fn call(&self, request: &'r Request) -> Response<'r> {
        self.0.call(request)
    }

    fn streams_body(&self) -> bool {
        true
    }
}
