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
    /// The request has fewer bytes than the door takes.
    pub const DATA_MIN: Self = Self(2);
    /// The request has more bytes than the door takes.
    pub const DATA_MAX: Self = Self(3);
    /// The door takes no descriptors, or fewer.
    pub const DESCRIPTORS: Self = Self(4);
    /// The server could not receive the descriptors: it has too many open.
    pub const DESCRIPTORS_LOST: Self = Self(5);
    /// The reply does not fit its slot; the slot holds the length that it would have, as 8 bytes, little
    /// endian.
    pub const REPLY_TOO_BIG: Self = Self(6);
    /// The door does not accept this caller. Only illumos asks at each call; Linux asks when the door is
    /// opened.
    pub const NOT_ACCEPTED: Self = Self(7);
    /// The first value that belongs to the application.
    pub const FIRST_OF_APPLICATION: Self = Self(16);
}
