//! Everything that can go wrong, as sentences for their reader. Errors are the same on Linux and on illumos;
//! each says which of its causes only one of them has.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::values::descriptors::DESCRIPTORS_MAX;
use crate::values::door::{CHANNELS_MAX, THREADS_MAX};
use crate::values::geometry::{GeometryError, PAGE};
use crate::values::path::NameTooLong;
use crate::values::peer::{Credentials, DoorOwner};
use crate::values::refusal::Refusal;
use crate::values::status::Status;
use crate::values::words::Words;

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

/// Why memory from the other side is not mapped (not on illumos, where none is shared).
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The descriptor is not a memfd, or lacks a seal.
    #[error("the memory's seals are {given:#x}, and must be at least {needed:#x}")]
    Seals {
        /// What `F_GET_SEALS` says; -1 if it is no memfd.
        given: i32,
        /// What is needed.
        needed: i32,
    },
    /// The size is not the agreed one.
    #[error("the memory is {given} bytes long, and must be {needed}")]
    Size {
        /// What fstat says.
        given: u64,
        /// What was agreed.
        needed: usize,
    },
    /// It was not sent.
    #[error("a descriptor of memory is missing")]
    Missing,
    /// It consists of huge pages: one that the system does not have when it is touched kills the process.
    #[error("the memory consists of huge pages")]
    HugePages,
    /// The kernel does not give or map it.
    #[error("memory for a channel cannot be had: {}", Words(.0))]
    System(#[from] io::Error),
}

/// A door that cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// `threads_max` is out of range.
    #[error("a door has 1 to {} door server threads, not {given}", THREADS_MAX)]
    ThreadsMax {
        /// The number that was asked for.
        given: u32,
    },
    /// More threads at the start than there may ever be.
    #[error("threads_min is {min}, and threads_max only {max}")]
    ThreadsMin {
        /// Threads at the start.
        min: u32,
        /// Threads at most.
        max: u32,
    },
    /// `server_create` was not called on the builder.
    #[error(
        "a door needs a way to start its door server threads: give the builder a server_create function"
    )]
    ServerCreate,
    /// The geometry of its channels is refused.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// No request can be within the limits.
    #[error(
        "data_min is {data_min}: no request has that many bytes, with data_max {data_max} and the slots' size"
    )]
    DataMin {
        /// The fewest bytes.
        data_min: usize,
        /// The most.
        data_max: usize,
    },
    /// More descriptors than one message carries.
    #[error("descriptors_max is {given}, and a call carries at most {}", DESCRIPTORS_MAX)]
    Descriptors {
        /// The number that was asked for.
        given: u32,
    },
    /// Too few or too many channels.
    #[error("a door has 1 to {} channels, not {given}", CHANNELS_MAX)]
    Channels {
        /// The number that was asked for.
        given: u32,
    },
    /// The memory for snapshots is too short.
    #[error("the snapshots of this door's threads need {needed} bytes, and were given {given}")]
    Snapshots {
        /// Bytes that are needed.
        needed: usize,
        /// Bytes that were handed over.
        given: usize,
    },
    /// No memory.
    #[error("memory for the door cannot be had: {}", Words(.0))]
    Memory(#[source] io::Error),
    /// The system says no; only illumos has a system call that makes a door.
    #[error("cannot {doing}: {}", Words(.source))]
    System {
        /// What was tried.
        doing: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// No memory for the board (not on illumos, whose doors have none).
    #[error(transparent)]
    Board(#[from] MemoryError),
}

/// A door that could not be attached to a path.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// `channel_geometry` was not called on the builder.
    #[error(
        "the door has no geometry for channels to other processes: give the builder a channel_geometry"
    )]
    NoGeometry,
    /// `start` comes first.
    #[error("the door has not been started, so no call would be answered")]
    NotStarted,
    /// It has a path, or had one.
    #[error("the door has been attached already")]
    AlreadyAttached,
    /// Another process owns the path.
    #[error("{} is taken: process {owner} serves it; stop that one, or choose another path", .path.display())]
    Taken {
        /// The path.
        path: PathBuf,
        /// The number of the process; 0 if it cannot be seen from here.
        owner: u32,
    },
    /// What lies there is no socket, so we must not remove it.
    #[error("{} exists and is no socket: remove it, or choose another path", .path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// There can be no door at the path.
    #[error("a door at {} cannot be: {source}", .path.display())]
    Name {
        /// The path.
        path: PathBuf,
        /// Why.
        source: NameTooLong,
    },
    /// The path cannot be given to the owner or the group that it is to have.
    #[error(
        "cannot give the door's socket at {} to its owner (--door-owner) or group (--door-group): {source}. Only root gives it to \
         another user, and others to groups that they are in: add the group (SupplementaryGroups= in the unit), or run as root", .path.display()
    )]
    Owner {
        /// The path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The system says no.
    #[error("cannot {doing} at {}: {}", .path.display(), Words(.source))]
    System {
        /// The path.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

/// A limit that a door puts on calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The fewest bytes of a request (illumos: `ENOBUFS`).
    DataMin,
    /// The most bytes of a request (illumos: `ENOBUFS`, `E2BIG`).
    DataMax,
    /// Descriptors (illumos: `ENOTSUP`, `ENFILE`).
    Descriptors,
    /// Descriptors that the server may have open (illumos: `EMFILE`).
    ServerDescriptors,
    /// Which clients may call. Only illumos asks at each call; Linux asks when the door is opened.
    Accept,
    /// The stack of a door server thread, which illumos lays the request on (`E2BIG`). Linux has no such
    /// limit.
    Stack,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Limit::DataMin => "data_min: the request has too few bytes",
            Limit::DataMax => "data_max: the request has too many bytes",
            Limit::Descriptors => "descriptors_max: the call has too many descriptors",
            Limit::ServerDescriptors => "the server's limit of open files",
            Limit::Accept => "accept: the door does not accept this process's user",
            Limit::Stack => {
                "of stack: the request does not fit a door server thread's; start its threads with a larger one"
            }
        })
    }
}

/// Why a call has no reply, by what the caller may do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No door server thread has seen the call (illumos: `EBADF`). It is safe to send it to another
    /// door.
    #[error(
        "the door was revoked or has gone before it accepted the call: send it again to another door"
    )]
    NotAccepted,
    /// A door server thread claimed the call, and what became of it is unknown (illumos: `EINTR`).
    #[error(
        "the door went away during the call: it may have run, so only an idempotent call may be sent again"
    )]
    MayHaveRun,
    /// The call is outside one of the door's limits; it did not run, and would not the next time.
    #[error("the door refuses the call by its limit {0}")]
    Refused(Limit),
    /// The reply is larger than the caller's buffer or the slot (illumos: `EOVERFLOW`). The call did run.
    #[error("the reply has {needed} bytes, more than there is room for")]
    ReplyTooBig {
        /// Its size in bytes.
        needed: usize,
    },
    /// The caller's patience ended; the call goes on, and its reply will be thrown away.
    #[error("the call took longer than the caller would wait: it may have run, or still run")]
    TimedOut,
    /// All slots are in use, or the socket for descriptors is full: nothing was sent.
    #[error("the channel is full: wait until another call has ended")]
    Full,
    /// The handler panicked or did not complete the call.
    #[error("the handler failed")]
    Fault,
    /// The handler answered in pieces, which only an [`AsyncClient`](crate::AsyncClient) can take.
    #[error("the reply comes in pieces, which a blocking call cannot take")]
    Streamed,
}

impl CallError {
    /// What a door itself says about a call, if its status says it all.
    pub fn of_status(status: Status) -> Option<Self> {
        Some(match status {
            Status::FAULT => Self::Fault,
            Status::DATA_MIN => Self::Refused(Limit::DataMin),
            Status::DATA_MAX => Self::Refused(Limit::DataMax),
            Status::DESCRIPTORS => Self::Refused(Limit::Descriptors),
            Status::DESCRIPTORS_LOST => Self::Refused(Limit::ServerDescriptors),
            _ => return None,
        })
    }

    /// Whether the call certainly did not run.
    pub fn is_safe_to_resend(self) -> bool {
        matches!(self, Self::NotAccepted | Self::Full)
    }
}

/// A door that could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No process serves at the path, now.
    #[error("no process serves a door at {}: start the application that owns it", .path.display())]
    Away {
        /// The path.
        path: PathBuf,
    },
    /// A user serves there that may not.
    #[error(
        "process {} of user {} serves the door at {}, which only {owner} may", .server.pid, .server.uid, .path.display()
    )]
    Stranger {
        /// The path.
        path: PathBuf,
        /// The process that listens there, as the kernel says.
        server: Credentials,
        /// The user that may.
        owner: DoorOwner,
    },
    /// The door does not let us in; the reason has both sides' numbers.
    #[error("the door at {} refuses: {why}", .path.display())]
    Refused {
        /// The path.
        path: PathBuf,
        /// Why.
        why: Refusal,
    },
    /// The other side took too long.
    #[error("the door at {} did not answer in time", .path.display())]
    TimedOut {
        /// The path.
        path: PathBuf,
    },
    /// What listens there is no door of this version.
    #[error("what listens at {} does not speak the door protocol", .path.display())]
    Protocol {
        /// The path.
        path: PathBuf,
    },
    /// Its memory is not what was agreed, or there is none (not on illumos, where none is shared).
    #[error("the channel of the door at {} cannot be made: {source}", .path.display())]
    Memory {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        source: MemoryError,
    },
    /// The system says no.
    #[error("cannot {doing} the door at {}: {}", .path.display(), Words(.source))]
    System {
        /// The path.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system says.
        source: io::Error,
    },
}
