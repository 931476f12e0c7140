//! The HTTP contract, row by row, over the wire: raw bytes on a connection, raw bytes back, from a server in
//! one process and from the same one behind a door. `docs/http.md` has a line for each row, with the names of
//! its tests.
//!
//! After every case a fresh connection is served, and after all of them no page more is resident than after
//! the first time.

mod answers;
mod bodies;
mod documentation;
mod heads;
mod matrix;
mod stand;
mod time;
