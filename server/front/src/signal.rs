//! What an event is for, as the epoll set keeps it: a connection's entry and its generation, or one of the
//! few other things that a loop waits for.

use crate::entrance::InstanceId;

/// The upper half of the epoll token of what is no connection.
pub(crate) const NOT_A_CONNECTION: u32 = u32::MAX;

/// What an event that is no connection's is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// The loop's own doorbell: there are orders, or a door was opened.
    Bell,
    /// One of its listeners.
    Listener(u16),
    /// The doorbell of an instance's client: there are completions.
    Client(InstanceId),
    /// The other side of an instance's client: it is leaving, or has died.
    Peer(InstanceId),
}

impl Signal {
    /// The lower half is a kind and up to 24 bits for which one.
    pub(crate) fn token(self) -> u64 {
        let (kind, which) = match self {
            Signal::Bell => (0, 0),
            Signal::Listener(n) => (1, u32::from(n)),
            Signal::Client(at) => (2, of_instance(at)),
            Signal::Peer(at) => (3, of_instance(at)),
        };
        (u64::from(NOT_A_CONNECTION) << 32) | u64::from(kind << 24 | which)
    }

    /// What a token's lower half says.
    pub(crate) fn of(half: u32) -> Self {
        let which = half & 0xff_ffff;
        let at = InstanceId {
            doorway: (which >> 8) as u16,
            instance: which as u8,
        };
        match half >> 24 {
            0 => Signal::Bell,
            1 => Signal::Listener(which as u16),
            2 => Signal::Client(at),
            _ => Signal::Peer(at),
        }
    }
}

/// A token's upper and lower half.
pub(crate) fn halves(token: u64) -> (u32, u32) {
    ((token >> 32) as u32, token as u32)
}

pub(crate) fn of_instance(at: InstanceId) -> u32 {
    u32::from(at.doorway) << 8 | u32::from(at.instance)
}
