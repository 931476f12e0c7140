//! What a door says of itself, and what it tells its owner: plain values.

use crate::hello::Refusal;
use crate::link::Lie;
use crate::socket::Credentials;

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

/// What kind of door it is. Every door has threads of its own (illumos: `DOOR_PRIVATE`), and a caller that goes away
/// never stops its handler (`DOOR_NO_CANCEL`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// It takes no descriptors (illumos: `DOOR_REFUSE_DESC`).
    pub refuses_descriptors: bool,
    /// Its owner is told when nobody has it open any more.
    pub unreferenced: Option<Unreferenced>,
    /// It takes no new calls (illumos: `DOOR_REVOKED`).
    pub revoked: bool,
}

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
    /// A client has lied, and its channel was given up.
    Poisoned {
        /// Who.
        client: Credentials,
        /// What it alleged.
        lie: Lie,
    },
}
