//! What both sides of a door agree on: the front end, which has a client's connection, and the application,
//! which has the handler. They may be two processes of two builds, so each checks all that it reads, and what
//! they must not disagree about is written once, here.
//!
//! - [`frame`]: how requests, replies, pieces of bodies, connections and datagrams lie in a slot.
//! - [`syntax`]: tokens, values and the fields that a handler may not set.
//! - [`method`]: the methods that are known, and how long one may be.
//! - [`histogram`] and [`own_log`]: how both count, and where both log what an operator should know.
//!
//! It knows neither sockets, doors nor memory, and allocates nothing.

pub mod frame;
pub mod histogram;
pub mod method;
pub mod own_log;
pub mod syntax;

pub use method::Method;
