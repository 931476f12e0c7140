//! The caller's side: an event loop's client, and one that blocks.

pub mod async_client;
pub mod blocking;
pub mod handshake;
pub mod remote;
