//! A door that was found at a path, and what it has said of itself.

use crate::exchange::{block_signals, call_bytes};
use crate::wire::{self, Header, Hello, Purpose};
use crate::{WRONG_VERSION, ffi};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;
use transom_doors::{
    Attributes, CallError, ChannelGeometry, Credentials, Limits, OpenError, OpenOptions, PeerState,
    Refusal, RemoteDoor, Status, Unreferenced,
};

/// The stack of a thread that only calls: its frames are a few hundred bytes.
pub const CALLER_STACK: usize = 64 << 10;

/// A door that was opened, and what it has said of itself.
#[derive(Clone, Debug)]
pub struct Found {
    pub door: Arc<OwnedFd>,
    pub remote: RemoteDoor,
    /// With as many slots as were asked for.
    pub geometry: ChannelGeometry,
}

impl Found {
    /// What is known of the door; whether it was revoked is asked now.
    pub fn remote_now(&self) -> RemoteDoor {
        let mut remote = self.remote;
        remote.attributes.revoked = peer_state(self.door.as_raw_fd()) != PeerState::Serving;
        remote
    }
}

/// Opens the door at `path`, and waits for its first answer for at most `options.timeout`.
pub fn find(path: &Path, options: &OpenOptions) -> Result<Found, OpenError> {
    let (door, info) = open_path(path)?;
    let door = Arc::new(door);
    let hello = say_hello(&door, path, options.timeout)?;
    let mut geometry = hello.geometry;
    // None or 0: as many as it offers.
    if let Some(slots @ 1..) = options.slots {
        geometry.slots = geometry.slots.min(slots);
    }
    if geometry.check().is_err() {
        return Err(OpenError::Protocol {
            path: path.to_owned(),
        });
    }
    let needed = geometry.memory_len();
    if needed > options.channel_bytes_max {
        return Err(OpenError::Refused {
            path: path.to_owned(),
            why: Refusal::Bytes {
                needed: needed as u64,
                allowed: options.channel_bytes_max as u64,
            },
        });
    }
    let remote = RemoteDoor {
        pid: u32::try_from(info.di_target).unwrap_or(0),
        id: u128::from(info.di_uniquifier),
        attributes: attributes_of(info.di_attributes),
        limits: hello.limits,
        server: Credentials {
            pid: info.di_target,
            uid: hello.uid,
            gid: hello.gid,
        },
    };
    Ok(Found {
        door,
        remote,
        geometry,
    })
}

/// The kernel's attributes in our words.
pub fn attributes_of(attributes: u32) -> Attributes {
    let has = |attribute| attributes & attribute != 0;
    Attributes {
        refuses_descriptors: has(ffi::DOOR_REFUSE_DESC),
        unreferenced: if has(ffi::DOOR_UNREF_MULTI) {
            Some(Unreferenced::Multi)
        } else {
            has(ffi::DOOR_UNREF).then_some(Unreferenced::Once)
        },
        revoked: has(ffi::DOOR_REVOKED),
    }
}

/// What a door's descriptor leads to.
pub fn info(door: RawFd) -> io::Result<ffi::door_info_t> {
    let mut info = ffi::door_info_t::EMPTY;
    // SAFETY: `info` is a door_info_t that the call may write; a descriptor that is no door is an error,
    // nothing worse.
    if unsafe { ffi::door_info(door, &raw mut info) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(info)
}

/// Whether the door still takes calls, and if not, whether those under way will end.
pub fn peer_state(door: RawFd) -> PeerState {
    match info(door) {
        Err(_) => PeerState::Gone,
        Ok(info) => state_of(info.di_target, info.di_attributes),
    }
}

/// A door without a process is gone; a revoked one finishes what it has.
pub fn state_of(target: libc::pid_t, attributes: u32) -> PeerState {
    if target < 0 {
        PeerState::Gone
    } else if attributes & ffi::DOOR_REVOKED != 0 {
        PeerState::Revoked
    } else {
        PeerState::Serving
    }
}

/// Opens the door that is attached to `path`.
pub fn open_path(path: &Path) -> Result<(OwnedFd, ffi::door_info_t), OpenError> {
    let away = || OpenError::Away {
        path: path.to_owned(),
    };
    // Reading is enough for a door; the standard library closes it on exec.
    let door = File::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => away(),
        _ => OpenError::System {
            path: path.to_owned(),
            doing: "open",
            source,
        },
    })?;
    // What is no door is the file that carries a door's name, while no door is attached to it.
    let info = info(door.as_raw_fd()).map_err(|_| away())?;
    match state_of(info.di_target, info.di_attributes) {
        PeerState::Serving => Ok((door.into(), info)),
        PeerState::Revoked | PeerState::Gone => Err(away()),
    }
}

/// The first call: which protocol, and which geometry. On a thread of its own, because a native call has no
/// time limit; the thread of a door that does not answer stays until it does, or until its process ends.
pub fn say_hello(door: &Arc<OwnedFd>, path: &Path, timeout: Duration) -> Result<Hello, OpenError> {
    let (tell, told) = mpsc::sync_channel(1);
    let door = Arc::clone(door);
    let for_thread = path.to_owned();
    std::thread::Builder::new()
        .name("door-hello".into())
        .stack_size(CALLER_STACK)
        .spawn(move || {
            block_signals();
            // If the caller waits no more, it is not told.
            let _ = tell.send(hello(door.as_raw_fd(), &for_thread));
        })
        .map_err(|source| OpenError::System {
            path: path.to_owned(),
            doing: "start a thread to speak to",
            source,
        })?;
    told.recv_timeout(timeout)
        .map_err(|_| OpenError::TimedOut {
            path: path.to_owned(),
        })?
}

pub fn hello(door: RawFd, path: &Path) -> Result<Hello, OpenError> {
    let path = || path.to_owned();
    let refused = |why| OpenError::Refused { path: path(), why };
    let header = Header {
        purpose: Purpose::Hello,
        deadline_ns: 0,
        reply_max: 0,
    };
    // A door with a lower limit of requests has it for this one too.
    let padding = vec![0; wire::request_room(data_min(door)).min(1 << 31)];
    let mut bytes = [0; wire::HELLO_LEN];
    let limits = Limits::default();
    let (status, len, _) = match call_bytes(door, &limits, header, &padding, &[], &mut bytes) {
        Ok(answer) => answer,
        Err(CallError::NotAccepted) => return Err(OpenError::Away { path: path() }),
        Err(CallError::Full) => {
            return Err(OpenError::System {
                path: path(),
                doing: "speak to",
                source: io::ErrorKind::OutOfMemory.into(),
            });
        }
        Err(_) => return Err(OpenError::Protocol { path: path() }),
    };
    match status {
        WRONG_VERSION if len >= 2 => Err(match u16::from_ne_bytes([bytes[0], bytes[1]]) {
            wire::VERSION => OpenError::Protocol { path: path() },
            theirs => refused(Refusal::Version {
                client: wire::VERSION.into(),
                server: theirs.into(),
            }),
        }),
        Status::NOT_ACCEPTED => Err(refused(Refusal::User {
            uid: Credentials::ours().uid.into(),
        })),
        Status::OK if len == wire::HELLO_LEN => {
            Hello::decode(&bytes).ok_or_else(|| OpenError::Protocol { path: path() })
        }
        _ => Err(OpenError::Protocol { path: path() }),
    }
}

pub fn data_min(door: RawFd) -> usize {
    let mut value = 0_usize;
    // SAFETY: the call writes one number of this size.
    let failed = unsafe { ffi::door_getparam(door, ffi::DOOR_PARAM_DATA_MIN, &raw mut value) } != 0;
    if failed { 0 } else { value }
}

/// A path as the system wants it; `None` if it has a zero byte.
pub fn c_path(path: &Path) -> Option<CString> {
    CString::new(path.as_os_str().as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_without_a_process_is_gone_and_a_revoked_one_is_not() {
        assert_eq!(state_of(17, 0), PeerState::Serving);
        assert_eq!(
            state_of(17, ffi::DOOR_LOCAL | ffi::DOOR_REFUSE_DESC),
            PeerState::Serving
        );
        assert_eq!(state_of(17, ffi::DOOR_REVOKED), PeerState::Revoked);
        assert_eq!(state_of(-1, ffi::DOOR_REVOKED), PeerState::Gone);
        assert_eq!(state_of(-1, 0), PeerState::Gone);
    }
}
