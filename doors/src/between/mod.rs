//! What crosses processes: how a door gets its name, how clients come and go, what is said over the socket,
//! and what is believed of the other side.

pub mod attach;
pub mod closer;
pub mod ear;
pub mod hello;
pub mod link;
pub mod parcels;
pub mod porter;
pub mod socket;
