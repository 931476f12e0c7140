//! The server's side in its process: a door's threads, what each does, how many there are and when clients
//! are told.

pub mod call;
pub mod emergency;
pub mod growth;
pub mod pace;
pub mod serve;
pub mod shared;
pub mod spin;
pub mod telling;
pub mod thread_state;
