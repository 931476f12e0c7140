//! What a back end is built of: its builder, its callers' slots, a doorbell, a clock. The back end for Linux
//! is the rest of this crate; the one for illumos is a crate of its own. Programs do not use this module.

pub mod bell;
pub mod builder;
pub mod clock;
pub mod remote_options;
pub mod slots;
pub mod threads;
