//! Everything that can go wrong, as sentences for the person who will read them.

use std::io;

use crate::geometry::{PAGE, SLOTS_MAX};

/// A channel that cannot exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// Too few or too many slots.
    #[error("a channel has 1 to {SLOTS_MAX} slots, not {given}")]
    Slots {
        /// The number of slots that was asked for.
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

/// A door that cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// `threads_max` is out of range.
    #[error(
        "a door has 1 to {} door server threads, not {given}",
        crate::door::THREADS_MAX
    )]
    ThreadsMax {
        /// The number that was asked for.
        given: u32,
    },
    /// `server_create` was not called on the builder.
    #[error(
        "a door needs a way to start its door server threads: give the builder a server_create function"
    )]
    ServerCreate,
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

/// Why a call has no reply. The difference between the two is what a caller needs to know: whether
/// to send it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No door server thread has seen the call (illumos: `EBADF`). It is safe to send it to another
    /// door.
    #[error("the door was revoked before it accepted the call: send it again to another door")]
    NotAccepted,
    /// A door server thread claimed the call, and what became of it is unknown (illumos: `EINTR`).
    #[error(
        "the door went away during the call: it may have run, so only an idempotent call may be sent again"
    )]
    MayHaveRun,
}

impl CallError {
    /// Whether the call certainly did not run.
    pub fn is_safe_to_resend(self) -> bool {
        self == Self::NotAccepted
    }
}

/// A door that could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not yet.
    #[error("doors between processes are not there yet")]
    Unsupported,
}
