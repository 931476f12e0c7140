//! What can go wrong with a native door, as sentences, and which `errno` means what to a caller.

use std::ffi::c_int;
use std::io;
use std::path::PathBuf;

/// Why a call has no reply, by what its caller may do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No door server thread has seen the call. It is safe to send it to another door.
    #[error("the door was revoked before it accepted the call: send it again to another door")]
    NotAccepted,
    /// What became of the call is unknown.
    #[error(
        "the door went away during the call: it may have run, so only an idempotent call may be sent again"
    )]
    MayHaveRun,
    /// The call breaks one of the door's limits, which is named. It has not run and never will.
    #[error(
        "the door refuses this call by its limit `{0}`: it has not run, and the same call will be refused again"
    )]
    Refused(&'static str),
    /// The call has run, and its reply does not fit.
    #[error("the reply has {needed} bytes: give the call a buffer of at least that many")]
    ReplyTooBig {
        /// Bytes of the reply.
        needed: usize,
    },
    /// The caller waited for long enough. Native calls have no time limit; an event loop keeps its own.
    #[error("the call took longer than its caller would wait: it may have run")]
    TimedOut,
    /// This process has no memory for the call.
    #[error("there is no memory for one more call: wait until one has ended")]
    Full,
}

impl CallError {
    /// Whether the call certainly did not run.
    pub fn is_safe_to_resend(self) -> bool {
        self == Self::NotAccepted
    }
}

/// What an `errno` of `door_call` says about the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// A signal came while the call waited for a thread: it has not run, call again.
    Again,
    /// It is over.
    Ended(CallError),
}

/// The meaning of `errno` after `door_call`.
pub(crate) fn failure(errno: c_int) -> Failure {
    let error = match errno {
        // The only one that is told before a thread has the call, and is nobody's fault.
        libc::EAGAIN => return Failure::Again,
        // Not a door, revoked, or its process had ended.
        libc::EBADF => CallError::NotAccepted,
        libc::ENOBUFS => CallError::Refused("data_min or data_max"),
        libc::ENOTSUP => CallError::Refused("refuse_descriptors"),
        libc::ENFILE => CallError::Refused("descriptors_max"),
        libc::E2BIG => CallError::Refused("the stack of a door server thread"),
        // A descriptor that was to be sent is none.
        libc::EINVAL => CallError::Refused("descriptors"),
        // EINTR: a signal, a fork, or the server's end. EMFILE: its table of descriptors was full, or ours was. EFAULT
        // and EOVERFLOW: the reply had no place to go. And whatever is not in the manual.
        _ => CallError::MayHaveRun,
    };
    Failure::Ended(error)
}

/// A door that could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The path cannot be opened.
    #[error("{path}: {source}", path = path.display())]
    Path {
        /// The path that was given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is something else at the path.
    #[error("{path} is not a door: no process has attached one, or it was detached", path = path.display())]
    NotADoor {
        /// The path that was given.
        path: PathBuf,
    },
    /// The door's process has ended.
    #[error("the door at {path} is dead: its process has ended, or has revoked it", path = path.display())]
    Dead {
        /// The path that was given.
        path: PathBuf,
    },
    /// The door does not answer.
    #[error("the door did not answer within {0:?}: all its threads are busy, or it hangs")]
    TimedOut(std::time::Duration),
    /// The door answers in words that are not ours.
    #[error("the process behind the door does not speak Transom's protocol")]
    Foreign,
    /// The door speaks another version.
    #[error(
        "the door speaks version {theirs} of the protocol, this caller version {ours}: build both from one release"
    )]
    Version {
        /// Our version.
        ours: u16,
        /// Its version.
        theirs: u16,
    },
    /// The first call failed.
    #[error("the door does not take the first call: {0}")]
    Hello(#[from] CallError),
    /// The door asks for a geometry that no channel can have.
    #[error("the door's geometry is refused: {0}")]
    Geometry(#[from] crate::error::GeometryError),
    /// More slots than the door offers, or none.
    #[error("the door offers 1 to {offered} slots, and `slots` asks for {asked}")]
    Slots {
        /// What the door offers.
        offered: u32,
        /// What was asked for.
        asked: u32,
    },
    /// The channel would be larger than the caller allows.
    #[error("the door's channel has {needed} bytes, and `channel_bytes_max` allows {max}")]
    TooLarge {
        /// Bytes of the channel.
        needed: usize,
        /// Bytes that are allowed.
        max: usize,
    },
    /// No memory, thread or descriptor for the channel.
    #[error("no {what} for the channel: {source}")]
    Resource {
        /// What is missing.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// A door that could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// `threads_max` is out of range.
    #[error("a door has 1 to {max} door server threads, not {given}", max = super::THREADS_MAX)]
    ThreadsMax {
        /// The number that was asked for.
        given: u32,
    },
    /// `server_create` was not called on the builder.
    #[error(
        "a door needs a way to start its door server threads: give the builder a server_create function"
    )]
    ServerCreate,
    /// The geometry is refused.
    #[error(transparent)]
    Geometry(#[from] crate::error::GeometryError),
    /// The limits of a request contradict each other or the geometry.
    #[error(
        "`data_min` ({min}) is at most `data_max` ({max}), which is at most the request size of a slot ({request_size})"
    )]
    Limits {
        /// The fewest bytes of a request.
        min: usize,
        /// The most bytes.
        max: usize,
        /// Bytes of a slot.
        request_size: usize,
    },
    /// The system refuses.
    #[error("{call}: {source}")]
    System {
        /// Which call.
        call: &'static str,
        /// What it said.
        source: io::Error,
    },
}

/// A door that could not be attached to a path.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// A living door is there.
    #[error("{path} is taken: process {pid} has a door attached to it", path = path.display())]
    Taken {
        /// The path that was given.
        path: PathBuf,
        /// Whose door it is.
        pid: i32,
    },
    /// The door was revoked.
    #[error("the door has been revoked: it cannot be attached any more")]
    Revoked,
    /// The path has a byte 0 in it.
    #[error("{path} contains a zero byte, which no path has", path = path.display())]
    Path {
        /// The path that was given.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("{call} {path}: {source}", path = path.display())]
    System {
        /// Which call.
        call: &'static str,
        /// The path that was given.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errno_says_what_a_caller_may_do_next() {
        let not_run = [
            libc::ENOBUFS,
            libc::ENOTSUP,
            libc::ENFILE,
            libc::E2BIG,
            libc::EINVAL,
        ];
        for errno in not_run {
            assert!(
                matches!(failure(errno), Failure::Ended(CallError::Refused(_))),
                "{errno}"
            );
        }
        assert_eq!(failure(libc::EBADF), Failure::Ended(CallError::NotAccepted));
        assert_eq!(failure(libc::EAGAIN), Failure::Again);
    }

    #[test]
    fn every_other_errno_may_have_run() {
        let known = [
            libc::EBADF,
            libc::EAGAIN,
            libc::ENOBUFS,
            libc::ENOTSUP,
            libc::ENFILE,
            libc::E2BIG,
            libc::EINVAL,
        ];
        for errno in (0..200).filter(|errno| !known.contains(errno)) {
            assert_eq!(
                failure(errno),
                Failure::Ended(CallError::MayHaveRun),
                "{errno}"
            );
        }
        assert!(!CallError::MayHaveRun.is_safe_to_resend());
        assert!(CallError::NotAccepted.is_safe_to_resend());
    }
}
