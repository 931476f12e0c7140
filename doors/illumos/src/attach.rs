//! A door's name in the file system: `fattach` and `fdetach`.

use std::fs::{File, OpenOptions as FileOptions, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::ffi;
use crate::found::{c_path, info};
use transom_doors::{AttachError, AttachOptions};

/// The time between two looks at a path that is taken: nothing tells when it becomes free.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A door's name, until it is dropped: then the path is free for the next door. The empty file that carries
/// it stays.
#[derive(Debug)]
pub struct Attachment {
    door: OwnedFd,
    path: PathBuf,
}

impl Attachment {
    pub(crate) fn new(
        door: OwnedFd,
        path: &Path,
        options: &AttachOptions,
    ) -> Result<Self, AttachError> {
        // A wait that no clock reaches has no end.
        let until = Instant::now().checked_add(options.wait);
        loop {
            match attach(&door, path, options) {
                Err(AttachError::Taken { .. })
                    if until.is_none_or(|until| Instant::now() < until) =>
                {
                    std::thread::sleep(LOOK_AGAIN);
                }
                Err(error) => return Err(error),
                Ok(()) => {
                    return Ok(Self {
                        door,
                        path: path.to_owned(),
                    });
                }
            }
        }
    }

    /// Where the door is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Frees the path. Calls that are under way, and callers that have the door open, go on.
    pub fn detach(self) {}
}

impl Drop for Attachment {
    fn drop(&mut self) {
        // Only our own: the path may have become another door's after ours was detached by hand.
        let ours = unique_id(&self.door);
        let there = File::open(&self.path)
            .ok()
            .and_then(|file| unique_id(&file));
        if let (true, Some(path)) = (ours.is_some() && ours == there, c_path(&self.path)) {
            // SAFETY: the path is a C string that outlives the call.
            unsafe { ffi::fdetach(path.as_ptr()) };
        }
    }
}

fn unique_id(door: &impl AsRawFd) -> Option<u64> {
    info(door.as_raw_fd()).ok().map(|info| info.di_uniquifier)
}

/// One attempt.
fn attach(door: &OwnedFd, path: &Path, options: &AttachOptions) -> Result<(), AttachError> {
    let failed = |doing| {
        move |source: io::Error| AttachError::System {
            path: path.to_owned(),
            doing,
            source,
        }
    };
    let name = c_path(path)
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidFilename))
        .map_err(failed("name the door"))?;
    let mut file =
        open_or_create(path).map_err(failed("make the file that carries the door's name"))?;
    if info(file.as_raw_fd()).is_ok_and(|there| !is_alive(&there)) {
        // A dead door keeps its name until a process takes it away. If two do, the second takes nothing:
        // EINVAL.
        // SAFETY: the path is a C string that outlives the call.
        if unsafe { ffi::fdetach(name.as_ptr()) } != 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EINVAL) {
                return Err(failed("detach a dead door (fdetach)")(error));
            }
        }
        file =
            open_or_create(path).map_err(failed("make the file that carries the door's name"))?;
    }
    if let Ok(there) = info(file.as_raw_fd()) {
        return Err(AttachError::Taken {
            path: path.to_owned(),
            owner: u32::try_from(there.di_target).unwrap_or(0),
        });
    }
    // The name takes over the file's mode and owner, so they are right before the door can be opened through
    // it.
    if options.owner.is_some() || options.group.is_some() {
        fchown(&file, options.owner, options.group)
            .map_err(failed("give an owner to the door's name"))?;
    }
    file.set_permissions(Permissions::from_mode(options.mode))
        .map_err(failed("give permissions to the door's name"))?;
    drop(file);
    // SAFETY: the path is a C string that outlives the call.
    if unsafe { ffi::fattach(door.as_raw_fd(), name.as_ptr()) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // Another process was faster.
        Some(libc::EBUSY) => Err(AttachError::Taken {
            path: path.to_owned(),
            owner: owner_of(path),
        }),
        _ => Err(failed("attach the door (fattach)")(error)),
    }
}

fn is_alive(door: &ffi::door_info_t) -> bool {
    door.di_target >= 0 && door.di_attributes & ffi::DOOR_REVOKED == 0
}

/// Whose door is attached to `path`; 0 if that cannot be told.
fn owner_of(path: &Path) -> u32 {
    let file = File::open(path);
    file.ok()
        .and_then(|file| info(file.as_raw_fd()).ok())
        .and_then(|info| u32::try_from(info.di_target).ok())
        .unwrap_or(0)
}

/// The file that carries a door's name; if a door is attached to it, this opens the door.
fn open_or_create(path: &Path) -> io::Result<File> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let new = FileOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path);
            match new {
                // Another door's owner has just made it.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => File::open(path),
                other => other,
            }
        }
        other => other,
    }
}
