//! How a call ended, in one word that passes through a channel.

/// The outcome of a call. This crate gives a meaning to 0 and 1 and keeps the values below 16; the
/// others are the application's and pass through unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Status(pub u32);

impl Status {
    /// The handler completed the call and is content.
    pub const OK: Self = Self(0);
    /// The handler panicked or returned without completing the call; there are no reply bytes.
    pub const FAULT: Self = Self(1);
    /// The first value that belongs to the application.
    pub const FIRST_OF_APPLICATION: Self = Self(16);
}
