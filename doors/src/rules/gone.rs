//! What a handler is told when its caller has left.

/// The client has abandoned the call: nobody will read what is written for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the caller has abandoned this call: end it, its reply is not wanted any more")]
pub struct Gone;
