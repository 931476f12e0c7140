//! What a door tells of itself, what it tells its owner, and its limits.

use crate::values::peer::Credentials;
use crate::values::refusal::{Lie, Refusal};

/// The most door server threads of one door: the idle set's scan stays within 256 words.
pub const THREADS_MAX: u32 = 16_384;

/// The most clients of one door: the porter looks at each in turn.
pub const CHANNELS_MAX: u32 = 4096;

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

/// When a door's owner is told that no client has it open any more.
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
    /// Its owner is told when no client has it open any more.
    pub unreferenced: Option<Unreferenced>,
    /// It takes no new calls (illumos: `DOOR_REVOKED`).
    pub revoked: bool,
}

#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
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
        /// The client.
        client: Credentials,
    },
    /// A client has left, or died.
    Left {
        /// The client.
        client: Credentials,
    },
    /// A client was turned away.
    Refused {
        /// The client.
        client: Credentials,
        /// Why.
        why: Refusal,
    },
    /// A client has left a channel in which a call was lost. The channel's memory stays for as long as the
    /// process lives, and it counts among the door's channels.
    Kept {
        /// The client.
        client: Credentials,
    },
    /// A client has lied, and its channel was given up.
    Poisoned {
        /// The client.
        client: Credentials,
        /// What it alleged.
        lie: Lie,
    },
}

/// What a door looks like from outside. Every number is read by itself: together they are not a
/// snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoorInfo {
    /// The process that the door leads into.
    pub pid: u32,
    /// Identifies this door in the whole system; no other ever has it: 128 random bits.
    pub id: u128,
    /// What kind of door it is.
    pub attributes: Attributes,
    /// Clients in other processes that have it open (illumos: 0, because it is not told).
    pub clients: u32,
    /// Channels that no client has any more, and that stay because a call was lost in them (illumos: 0).
    pub channels_kept: u32,
    /// Its threads.
    pub threads: ThreadCounts,
    /// Its calls.
    pub calls: CallCounts,
    /// Whether the door was revoked.
    pub revoked: bool,
}

/// The threads of a door in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadCounts {
    /// Threads that may exist.
    pub max: u32,
    /// Threads that were started: the high water of concurrency, plus the spare.
    pub started: u32,
    /// The most threads that calls ever needed: one more than the highest that ran a handler,
    /// because the lowest idle one is woken.
    pub high_water: u32,
    /// Threads that wait for a call.
    pub idle: u32,
    /// Threads that will never come back, because an [`EmergencyReply`](crate::EmergencyReply) has ended
    /// their call.
    pub parked: u32,
    /// Threads that have ended: after a revoke, or to be started anew.
    pub ended: u32,
    /// Attempts to start a thread that failed.
    pub starts_failed: u64,
}

/// The calls of a door in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallCounts {
    /// Calls that were submitted and have not been completed, in any state. For a moment more, while threads
    /// look for calls; never fewer. After a revoke a thread may still take one up, until it has ended.
    pub under_way: u64,
    /// Calls that were completed, in any way.
    pub served: u64,
    /// Calls that ended with [`Status::FAULT`](crate::Status::FAULT), because a handler panicked or
    /// did not complete its call.
    pub faulted: u64,
    /// The moving average of service time, in nanoseconds (illumos: 0, for it is not measured).
    pub average_ns: u32,
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
    /// The process that listens at the path, as the kernel says.
    pub server: Credentials,
}
