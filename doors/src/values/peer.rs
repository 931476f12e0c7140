//! The process at the other end.

/// The process at the other end, as the kernel saw it when the connection was made (illumos: when the call
/// was).
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
            Self::Anybody => f.write_str("any user"),
            Self::User(owner) => write!(f, "user {owner}"),
            Self::UsOrRoot => match Credentials::ours().uid {
                0 => f.write_str("root"),
                ours => write!(f, "this process's user ({ours}) or root"),
            },
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
    /// The process has ended, or its channel was given up because it lied: no more replies come.
    Gone,
}
