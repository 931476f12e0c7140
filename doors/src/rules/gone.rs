//! What a handler is told when its caller has left.

/// The client has abandoned the call: what is written for it will not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the caller has abandoned this call: end it, its reply is not wanted any more")]
pub struct Gone;
