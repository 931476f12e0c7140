//! How a door is attached, opened and called.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::values::peer::DoorOwner;

/// How a door is attached to its path.
#[derive(Clone, Copy, Debug)]
pub struct AttachOptions {
    /// Permissions of the path: a user that may write to it may open the door (illumos: that may read it).
    /// Default `0600`.
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
    /// Whether replies may bring descriptors. A door that sends some to a caller that takes none has lied.
    pub take_descriptors: bool,
    /// Which user may serve the door. Nothing is sent to another one's process, nor read from it (illumos:
    /// does not look).
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

/// What goes along with a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct CallOptions<'a> {
    /// How long the caller waits; `None`: until there is a reply or the other side is gone.
    pub timeout: Option<Duration>,
    /// Descriptors whose duplicates become the handler's.
    pub descriptors: &'a [BorrowedFd<'a>],
}
