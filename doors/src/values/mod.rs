//! What the two sides of a door tell each other and the program: plain values, the same on every system.
//! Nothing here knows how a call travels.

pub mod call;
pub mod channel_memory;
pub mod descriptors;
pub mod door;
pub mod error;
pub mod geometry;
pub mod options;
pub mod path;
pub mod peer;
pub mod refusal;
pub mod status;
pub mod words;
