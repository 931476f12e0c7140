//! What a door's two sides share: segments, what lies where in them, and the server's view of its channels.

pub mod board;
pub mod channel;
pub mod channels;
pub mod layout;
pub mod mapping;
pub mod snapshots;
pub mod table;
