//! What the author of a handler sees: [`Request`], [`Response`], [`Router`], [`Shared`] state.
//!
//! A handler is an ordinary function from `&Request` to [`Response`]. It runs on a door server thread that is
//! bound to a bucket: what it allocates lands there and is gone when it returns, and what does not fit ends
//! this request with a 500 and nothing else. `transom::serve` puts a front end before it.
//!
//! ```
//! use transom_platform::{Request, Response, Router};
//!
//! fn hello(request: &Request) -> Response {
//!     let name = request.query("name").unwrap_or("world");
//!     Response::text(format!("hello, {name}\n"))
//! }
//!
//! let router = Router::new().get("/", hello);
//! ```
//!
//! It knows nothing of clients' sockets, unless an application asks for them: behind a door at a path, a
//! handler may be lent whole [connections](connection) instead of requests, or be given single
//! [datagrams](datagram).

mod application;
pub mod connection;
pub mod datagram;
mod drain;
mod each_thread;
pub mod failure;
pub mod handler;
pub mod headers;
mod json;
mod keeping;
mod lost;
mod memory;
mod meter;
mod outgrown;
mod pace;
pub mod request;
mod reserve;
pub mod response;
pub mod router;
mod service;
mod short;
mod sign;
mod slot_io;

pub use application::{
    Application, ApplicationError, ApplicationOptions, CallFigures, Figures, KeptFigures, NotReady,
    ThreadFigures,
};
pub use connection::{Connection, ConnectionHandler};
pub use datagram::{AnswerTooLarge, Datagram, DatagramHandler, DatagramReply};
pub use drain::{begin_to_drain, is_draining};
pub use each_thread::EachThread;
pub use failure::Failure;
pub use handler::{Handler, HandlerFn, handler, streaming};
pub use lost::{Looked, Loss, LossWatch, Lost, OVERDUE_AFTER};
pub use memory::Memory;
pub use meter::{Culprit, RouteMeter};
pub use request::{BodyReader, Request, Version};
pub use reserve::{TryReserve, try_reserve};
pub use response::{Body, BodyWriter, IntoResponse, Response, Status};
pub use router::{Router, RouterError, Routes};
pub use service::Service;
pub use transom_arena::{
    Bump, Registered, Shared, SharedError, WayOut, defer, escape_contract, outside, refusing,
};

/// The allocator of every program that uses this crate: a thread bound to a bucket allocates in it, all
/// others on the process heap.
#[global_allocator]
static GLOBAL: transom_arena::TransomAllocator = transom_arena::TransomAllocator;
