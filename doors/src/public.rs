//! What a door says of itself, what it tells its owner, and what it is told: plain values.
//!
//! They are the same on Linux and on illumos, so nothing here knows how a call travels.

use std::ffi::OsStr;
#[cfg(not(target_os = "illumos"))]
use std::os::fd::AsFd;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use crate::status::Status;

/// The most door server threads of one door: the idle set's scan stays within 256 words.
pub const THREADS_MAX: u32 = 16_384;

/// The most clients of one door: the porter looks at each in turn.
pub const CHANNELS_MAX: u32 = 4096;

/// The most descriptors of one call or reply.
pub const DESCRIPTORS_MAX: usize = 16;

/// The longest name of a door's file, in bytes. `sun_path` has 108: room for the name that the socket gets
/// before it has its mode, in a folder that is named through a descriptor.
const FILE_NAME_MAX: usize = 76;

/// A whole path up to this length can be served with a longer name too.
const SHORT_PATH_MAX: usize = 98;

/// A path at which there can be no door.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "its file name has {len} bytes, and that of a door at most {FILE_NAME_MAX}: choose a shorter one"
)]
pub struct NameTooLong {
    /// Bytes of the name.
    pub len: usize,
}

/// Whether there can be a door at a path, as far as its length goes. Nothing is looked at.
///
/// # Errors
/// The file's name is too long.
pub fn check_path(path: &Path) -> Result<(), NameTooLong> {
    let len = path.file_name().map_or(0, OsStr::len);
    if len <= FILE_NAME_MAX || path.as_os_str().len() <= SHORT_PATH_MAX {
        return Ok(());
    }
    Err(NameTooLong { len })
}

/// What a door takes. They limit requests, not replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The fewest bytes of a request.
    pub data_min: usize,
    /// The most; a slot may hold less.
    pub data_max: usize,
    /// The most descriptors of a call; 0: it refuses them.
    pub descriptors_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            data_min: 0,
            data_max: usize::MAX,
            descriptors_max: 0,
        }
    }
}

/// When a door's owner is told that nobody has it open any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreferenced {
    /// The first time (illumos: `DOOR_UNREF`).
    Once,
    /// Every time (illumos: `DOOR_UNREF_MULTI`).
    Multi,
}

/// What kind of door it is. Every door has threads of its own (illumos: `DOOR_PRIVATE`), and a caller that
/// goes away never stops its handler (`DOOR_NO_CANCEL`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// It takes no descriptors (illumos: `DOOR_REFUSE_DESC`).
    pub refuses_descriptors: bool,
    /// Its owner is told when nobody has it open any more.
    pub unreferenced: Option<Unreferenced>,
    /// It takes no new calls (illumos: `DOOR_REVOKED`).
    pub revoked: bool,
}

#[cfg_attr(target_os = "illumos", allow(dead_code))]
impl Attributes {
    pub(crate) fn encode(self) -> u32 {
        let unreferenced = match self.unreferenced {
            None => 0,
            Some(Unreferenced::Once) => 2,
            Some(Unreferenced::Multi) => 4,
        };
        u32::from(self.refuses_descriptors) | unreferenced | (u32::from(self.revoked) << 3)
    }

    pub(crate) fn decode(bits: u32) -> Self {
        Self {
            refuses_descriptors: bits & 1 != 0,
            unreferenced: match bits & 6 {
                2 => Some(Unreferenced::Once),
                4 => Some(Unreferenced::Multi),
                _ => None,
            },
            revoked: bits & 8 != 0,
        }
    }
}

/// News of a door's clients in other processes, for its owner's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DoorEvent {
    /// A client has opened the door.
    Opened {
        /// Who.
        client: Credentials,
    },
    /// A client has left, or died.
    Left {
        /// Who.
        client: Credentials,
    },
    /// A client was turned away.
    Refused {
        /// Who.
        client: Credentials,
        /// Why.
        why: Refusal,
    },
    /// A client has left a channel in which a call was lost. The channel's memory stays for as long as the
    /// process lives, and it counts among the door's channels.
    Kept {
        /// Who.
        client: Credentials,
    },
    /// A client has lied, and its channel was given up.
    Poisoned {
        /// Who.
        client: Credentials,
        /// What it alleged.
        lie: Lie,
    },
}

/// What a door looks like from outside. Every number is read by itself: together they are not a
/// snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DoorInfo {
    /// The process that the door leads into.
    pub pid: u32,
    /// Identifies the door in the whole system, and no other ever: 128 random bits.
    pub id: u128,
    /// What kind of door it is.
    pub attributes: Attributes,
    /// Clients in other processes that have it open (illumos: 0, for it is not told).
    pub clients: u32,
    /// Channels that no client has any more, and that stay because a call was lost in them (illumos: 0).
    pub channels_kept: u32,
    /// Threads that may exist.
    pub threads_max: u32,
    /// Threads that were started: the high water of concurrency, plus the spare.
    pub threads_started: u32,
    /// The most threads that calls ever needed: one more than the highest that ran a handler,
    /// because the lowest idle one is woken.
    pub threads_high_water: u32,
    /// Threads that wait for a call.
    pub threads_idle: u32,
    /// Threads that will never come back, because an [`EmergencyReply`](crate::EmergencyReply) has ended
    /// their call.
    pub threads_parked: u32,
    /// Threads that have ended: after a revoke, or to be started anew.
    pub threads_ended: u32,
    /// Attempts to start a thread that failed.
    pub starts_failed: u64,
    /// Calls that were submitted and have not been completed, in any state. For a moment more, while threads
    /// look for calls; never fewer. After a revoke a thread may still take one up, until it has ended.
    pub calls_under_way: u64,
    /// Calls that were completed, in any way.
    pub calls_served: u64,
    /// Calls that ended with [`Status::FAULT`](crate::Status::FAULT), because a handler panicked or
    /// did not complete its call.
    pub calls_faulted: u64,
    /// The moving average of service time, in nanoseconds (illumos: 0, for it is not measured).
    pub service_average_ns: u32,
    /// Whether the door was revoked.
    pub revoked: bool,
}

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
    /// The client's end of the socket is closed. Nobody hears this refusal; it is for the owner's log.
    #[error("the client has hung up before it got its channel: it was ended, or did not wait")]
    HungUp,
    /// What the client sent is no hello, or its memory is not what was agreed.
    #[error("the server did not accept what the client sent")]
    Protocol,
    /// This user has sent as many descriptors as one user may that cannot be closed.
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
    /// It sent more descriptors than the door takes, which nobody would have closed until their call came.
    #[error("more descriptors for one call than the door takes")]
    TooManyDescriptors = 7,
}

impl Lie {
    #[cfg_attr(target_os = "illumos", allow(dead_code))]
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

/// Who is at the other end, as the kernel saw it when the connection was made (illumos: when the call was).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The process; 0 if it lies in a PID namespace that we cannot see.
    pub pid: i32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

impl Credentials {
    /// Those of this process.
    pub fn ours() -> Self {
        // SAFETY: these calls have no preconditions and cannot fail.
        unsafe {
            Self {
                pid: libc::getpid(),
                uid: libc::geteuid(),
                gid: libc::getegid(),
            }
        }
    }
}

/// Descriptors that came with a message. Dropped, they are closed, by a thread of its own: close(2) may wait
/// for as long as their sender likes. It does so too for those that are taken out of here, so close none of a
/// stranger's where that hurts.
#[derive(Debug, Default)]
pub struct Descriptors {
    fds: [Option<OwnedFd>; DESCRIPTORS_MAX],
    /// The user who has sent them.
    #[cfg(not(target_os = "illumos"))]
    #[cfg_attr(transom_illumos, allow(dead_code))]
    sender: u32,
}

impl Descriptors {
    /// Of a user, and none yet.
    #[cfg(not(target_os = "illumos"))]
    pub(crate) fn of(sender: u32) -> Self {
        Self {
            fds: Default::default(),
            sender,
        }
    }

    /// How many there are left.
    pub fn len(&self) -> usize {
        self.fds.iter().flatten().count()
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next one, which stays here.
    #[cfg(not(target_os = "illumos"))]
    pub(crate) fn first(&self) -> Option<BorrowedFd<'_>> {
        self.fds.iter().flatten().next().map(AsFd::as_fd)
    }

    pub(crate) fn push(&mut self, fd: OwnedFd) {
        // No message or call carries more than there are places; another would be closed here.
        if let Some(place) = self.fds.iter_mut().find(|place| place.is_none()) {
            *place = Some(fd);
        }
    }
}

// On illumos, and over a stand-in for it, each is closed where it is dropped.
#[cfg(not(any(target_os = "illumos", transom_illumos)))]
impl Drop for Descriptors {
    fn drop(&mut self) {
        let sender = self.sender;
        for fd in self {
            crate::closer::close(sender, fd);
        }
    }
}

impl Iterator for Descriptors {
    type Item = OwnedFd;

    fn next(&mut self) -> Option<OwnedFd> {
        self.fds.iter_mut().find_map(Option::take)
    }
}

/// How a door is attached to its path.
#[derive(Clone, Copy, Debug)]
pub struct AttachOptions {
    /// Permissions of the path: who may write to it may open the door (illumos: who may read it). Default
    /// `0600`.
    pub mode: u32,
    /// The path's owner; `None`: the process's effective user (illumos: a file that is there already keeps
    /// its own). Another one needs privilege.
    pub owner: Option<u32>,
    /// The path's group.
    pub group: Option<u32>,
    /// How long to wait for another owner of the path to leave. Default: not at all.
    pub wait: Duration,
    /// Called once, on the thread that admits clients, before it admits any. What it allocates for a client
    /// is freed when the client has left. Default: does nothing. Not called on illumos, where the kernel
    /// admits them.
    pub begin: fn(),
}

impl Default for AttachOptions {
    fn default() -> Self {
        Self {
            mode: 0o600,
            owner: None,
            group: None,
            wait: Duration::ZERO,
            begin: || (),
        }
    }
}

/// Which user may serve a door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DoorOwner {
    /// Any.
    Anybody,
    /// This one.
    User(u32),
    /// The effective user of the process that opens the door, or root.
    UsOrRoot,
}

impl DoorOwner {
    /// Whether user `uid` may.
    #[must_use]
    pub fn admits(self, uid: u32) -> bool {
        match self {
            Self::Anybody => true,
            Self::User(owner) => uid == owner,
            Self::UsOrRoot => uid == 0 || uid == Credentials::ours().uid,
        }
    }
}

impl std::fmt::Display for DoorOwner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Anybody => f.write_str("anybody"),
            Self::User(owner) => write!(f, "user {owner}"),
            Self::UsOrRoot => match Credentials::ours().uid {
                0 => f.write_str("root"),
                ours => write!(f, "this process's user ({ours}) or root"),
            },
        }
    }
}

/// How to open a door at a path.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// How long the other side may take to answer.
    pub timeout: Duration,
    /// The most bytes of a channel: a door that wants a larger one is refused.
    pub channel_bytes_max: usize,
    /// Slots of the channel, at most as many as the door offers; `None`: as many as it offers. On illumos
    /// each is a thread.
    pub slots: Option<u32>,
    /// Spare slots beside these (see [`ChannelGeometry::spares`](crate::ChannelGeometry::spares)), at most as
    /// many as the door offers; `None`: as many as it offers. On illumos there are none, because no call
    /// takes its slot with it.
    pub spares: Option<u32>,
    /// Whether replies may bring descriptors. A door that sends some to a caller who takes none has lied.
    pub take_descriptors: bool,
    /// Which user may serve the door. Nothing is said to another one, nor read from him (illumos: does not
    /// look).
    pub owner: DoorOwner,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(1),
            channel_bytes_max: 256 << 20,
            slots: None,
            spares: None,
            take_descriptors: true,
            owner: DoorOwner::Anybody,
        }
    }
}

/// What the server's side of a channel does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// It takes calls.
    Serving,
    /// The door was revoked: calls under way complete, new ones are refused.
    Revoked,
    /// The process has ended, or its channel was given up because it lied: nothing more comes.
    Gone,
}

/// A door in another process, as it was when it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteDoor {
    /// The process that it leads into, as that process says.
    pub pid: u32,
    /// Identifies the door in the whole system.
    pub id: u128,
    /// What kind of door it is; `revoked` is up to date.
    pub attributes: Attributes,
    /// What it takes.
    pub limits: Limits,
    /// Who listens at the path, as the kernel says.
    pub server: Credentials,
}

/// What goes along with a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct CallOptions<'a> {
    /// How long the caller waits; `None`: until there is a reply or the other side is gone.
    pub timeout: Option<Duration>,
    /// Descriptors whose duplicates become the handler's.
    pub descriptors: &'a [BorrowedFd<'a>],
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    /// Bytes of the reply, at the start of the caller's buffer.
    pub len: usize,
    /// [`Status::OK`], or the application's word.
    pub status: Status,
    /// Descriptors that came along.
    pub descriptors: Descriptors,
}

/// The turn has come back after an interim reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// Bytes that the client has put into the request slot in the meantime; 0 if it has only
    /// consumed the reply.
    pub request_len: usize,
}
