//! What a back end is built of, and what it has to offer: how its builder is told, its callers' slots, a
//! doorbell, a clock. The back end for Linux is the rest of this crate; that for illumos is a crate of its
//! own. Not for programs.

pub mod bell;
pub mod builder;
pub mod clock;
pub mod remote_options;
pub mod slots;
pub mod threads;
