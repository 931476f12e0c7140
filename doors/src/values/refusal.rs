//! Why a client is refused, or removed later.

/// Why a client is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The two sides were built from different versions.
    #[error(
        "the client speaks version {client} of the protocol, the server version {server}: build both from one version"
    )]
    Version {
        /// The client's.
        client: u64,
        /// The server's.
        server: u64,
    },
    /// The two sides have different pages.
    #[error("the client has pages of {client} bytes, the server of {server}")]
    Page {
        /// The client's.
        client: u64,
        /// The server's.
        server: u64,
    },
    /// The channel is larger than the client allows.
    #[error(
        "the door's channel takes {needed} bytes, and the client allows {allowed}: make the door's slots fewer or smaller (--slots, --request-size, --reply-size), or allow more"
    )]
    Bytes {
        /// What the door's channel takes.
        needed: u64,
        /// What the client allows.
        allowed: u64,
    },
    /// All channels are in use, or stay for calls that were lost in them.
    #[error(
        "the door has {max} channels, and all are in use, or stay for calls that were lost in them: raise the door's limit of channels (--door-channels)"
    )]
    Channels {
        /// The door's limit.
        max: u64,
    },
    /// This user has all the channels that one user may have.
    #[error(
        "user {uid} has {max} channels of this door, as many as one user may have: raise the door's limit of channels per user (--door-channels-per-user)"
    )]
    ChannelsPerUser {
        /// The door's limit for one user.
        max: u64,
        /// The user.
        uid: u64,
    },
    /// The door's policy does not let this user in.
    #[error("the door does not accept user {uid}")]
    User {
        /// The user.
        uid: u64,
    },
    /// The door was revoked.
    #[error("the door was revoked")]
    Revoked,
    /// The server could not make the channel.
    #[error("the server has no memory or descriptors for another channel (system error {errno})")]
    Resources {
        /// The system's error number.
        errno: u64,
    },
    /// The client's end of the socket is closed. The client does not get this refusal; it is for the owner's
    /// log.
    #[error("the client has hung up before it got its channel: it was ended, or did not wait")]
    HungUp,
    /// What the client sent is no hello, or its memory is not what was agreed.
    #[error("the server did not accept what the client sent")]
    Protocol,
    /// As many descriptors of this user cannot be closed as one user may have.
    #[error(
        "user {uid} has sent descriptors that cannot be closed, as many as one user may: end the processes that serve their file system, or have their sockets linger"
    )]
    Unclosed {
        /// The user.
        uid: u64,
    },
}

/// A claim of a client's that cannot be true. Its channel is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u32)]
pub enum Lie {
    /// It submitted a call in a slot that does not exist.
    #[error("a call in a slot that the channel does not have")]
    Slot = 1,
    /// It submitted a call in a slot whose call has not been answered, or was lost.
    #[error("a second call in a slot whose first one is still being served, or was lost")]
    Twice = 2,
    /// A request longer than its slot.
    #[error("a request longer than its slot")]
    Length = 3,
    /// A generation that no call has.
    #[error("a call without a generation")]
    Generation = 4,
    /// It said that descriptors go along, and none came.
    #[error("descriptors that were announced and not sent")]
    Descriptors = 5,
    /// Bytes on the socket that mean nothing.
    #[error("a message that means nothing here")]
    Message = 6,
    /// It sent more descriptors than the door takes, which would have stayed open until their call came.
    #[error("more descriptors for one call than the door takes")]
    TooManyDescriptors = 7,
}

impl Lie {
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    pub(crate) fn of(number: u32) -> Option<Self> {
        [
            Lie::Slot,
            Lie::Twice,
            Lie::Length,
            Lie::Generation,
            Lie::Descriptors,
            Lie::Message,
            Lie::TooManyDescriptors,
        ]
        .into_iter()
        .find(|&lie| lie as u32 == number)
    }
}
