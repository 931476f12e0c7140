//! Everything that can go wrong, as sentences for the person who will read them.

use std::io;

use crate::geometry::{PAGE, SLOTS_MAX};

mod door;

pub use door::{AttachError, BuildError, CallError, Limit, OpenError};

/// A channel that cannot exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// Too few or too many slots.
    #[error("a channel has 1 to {SLOTS_MAX} slots, not {given}")]
    Slots {
        /// The number of slots that was asked for.
        given: u32,
    },
    /// Too many spare slots.
    #[error("a channel has at most {SLOTS_MAX} spare slots, not {given}")]
    Spares {
        /// The number of spare slots that was asked for.
        given: u32,
    },
    /// Not a multiple of the page size, zero, or more than 2 GiB.
    #[error(
        "the request size of a slot is a multiple of {PAGE} bytes, at least one and at most 2 GiB; {given} is not"
    )]
    RequestSize {
        /// The size that was asked for, in bytes.
        given: usize,
    },
    /// Not a multiple of the page size, zero, or more than 2 GiB.
    #[error(
        "the reply size of a slot is a multiple of {PAGE} bytes, at least one and at most 2 GiB; {given} is not"
    )]
    ReplySize {
        /// The size that was asked for, in bytes.
        given: usize,
    },
}

/// A channel that could not be added to a door.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The geometry is refused.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// The memory is too short for the geometry.
    #[error("a channel of this geometry needs {needed} bytes, and was given {given}")]
    MemoryTooShort {
        /// Bytes that the geometry needs.
        needed: usize,
        /// Bytes that were handed over.
        given: usize,
    },
    /// The memory does not start on a page.
    #[error("the memory of a channel starts on a page of {PAGE} bytes; {address:#x} does not")]
    Unaligned {
        /// Where the memory starts.
        address: usize,
    },
    /// The door was started, and its list of channels is sealed.
    #[error(
        "the door has been started: channels are added before that, so that nothing is allocated after it"
    )]
    Started,
    /// No doorbell.
    #[error("no eventfd for the channel's doorbell (raise the limit of open files): {0}")]
    Doorbell(#[source] io::Error),
}
