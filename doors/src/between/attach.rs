//! A door's name: a socket at a path, with permissions, and one owner at a time.
//!
//! The owner holds a lock on `PATH.lock` beside it, which the kernel releases when the owner dies; so what
//! lies at the path without a locked lock file is stale and is replaced. The socket is bound to a temporary
//! name, gets its mode and owner, listens, and only then takes its place by rename(2): it never exists with
//! the wrong permissions, and a client never finds a name that no process serves.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::between::closer;
use crate::between::porter::{self, Orders};
use crate::between::socket;
use crate::pool::shared::Pool;
use crate::values::error::AttachError;
use crate::values::options::AttachOptions;
use crate::values::path::check_path;

/// Clients that may wait to be let in.
const BACKLOG: libc::c_int = 128;

/// How often a path that another process owns is tried again.
const AGAIN: Duration = Duration::from_millis(1);

/// A door's place in the file system. Dropped, it is given up: the path is removed, and another owner may
/// take it. Clients that have the door open keep it.
#[derive(Debug)]
pub struct Attachment {
    path: PathBuf,
    /// Device and inode of the socket that we have put there.
    identity: (u64, u64),
    orders: Arc<Orders>,
    /// The process that has attached it.
    owner: u32,
    /// Released last.
    _lock: Lock,
}

impl Attachment {
    /// Where the door is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the path up, as dropping does.
    pub fn detach(self) {}
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if self.owner != std::process::id() {
            return; // in a child, which has neither the lock nor the door
        }
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == self.identity);
        if ours {
            // If it cannot be removed, the next owner replaces it.
            let _ = fs::remove_file(&self.path);
        }
        self.orders.detached.store(true, Ordering::SeqCst);
        self.orders.bell.ring();
    }
}

pub fn attach(
    pool: Arc<Pool>,
    path: &Path,
    options: &AttachOptions,
) -> Result<Attachment, AttachError> {
    if pool.remote.geometry.is_none() {
        return Err(AttachError::NoGeometry);
    }
    if pool.started() == 0 {
        return Err(AttachError::NotStarted);
    }
    let fail = |doing: &'static str| {
        let path = path.to_owned();
        move |source| AttachError::System {
            path,
            doing,
            source,
        }
    };
    check_path(path).map_err(|source| AttachError::Name {
        path: path.to_owned(),
        source,
    })?;
    closer::start().map_err(fail("start the thread that closes what clients send"))?;
    let lock = lock(path, options.wait)?;
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(AttachError::NotASocket {
                path: path.to_owned(),
            });
        }
        _ => {}
    }
    let temporary = Temporary::beside(path);
    let listener = socket::seqpacket().map_err(fail("make a socket"))?;
    let bound = socket::bind(&listener, &temporary.0).and_then(|()| find_socket(&temporary.0));
    let found = bound.map_err(fail("make the door's socket"))?;
    change_owner(&found, options).map_err(|source| AttachError::Owner {
        path: path.to_owned(),
        source,
    })?;
    let open = change_mode(&found, options.mode).and_then(|()| let_clients_in(&listener));
    open.map_err(fail("make the door's socket"))?;
    let identity = fs::symlink_metadata(&temporary.0)
        .map(|made| (made.dev(), made.ino()))
        .map_err(fail("look at the door's socket"))?;
    let orders =
        porter::start(pool, listener, options.begin).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => AttachError::AlreadyAttached,
            _ => fail("start the door's porter")(error),
        })?;
    let mut attachment = Attachment {
        path: path.to_owned(),
        identity,
        orders,
        owner: std::process::id(),
        _lock: lock,
    };
    if let Err(error) = fs::rename(&temporary.0, path) {
        attachment.identity = (0, 0);
        return Err(fail("put the door's socket in its place")(error));
    }
    Ok(attachment)
}

/// Before this no client can have connected.
fn let_clients_in(listener: &OwnedFd) -> io::Result<()> {
    socket::set_nonblocking(listener)?;
    socket::let_descriptors_in(listener, false);
    socket::listen(listener, BACKLOG)
}

/// A descriptor that names the socket at a path, to change its mode and owner by. Only if it is one: where
/// others may write to the folder, a link to something else may lie there by now.
fn find_socket(path: &Path) -> io::Result<File> {
    let found = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_NOFOLLOW)
        .open(path)?;
    if !found.metadata()?.file_type().is_socket() {
        return Err(io::Error::other(
            "something else has taken the socket's place: let no other user write to the folder",
        ));
    }
    Ok(found)
}

/// chown(2) of what a descriptor with `O_PATH` names, if it is to have another owner or group.
fn change_owner(file: &File, options: &AttachOptions) -> io::Result<()> {
    if options.owner.is_none() && options.group.is_none() {
        return Ok(());
    }
    let id = |id: Option<u32>| id.unwrap_or(u32::MAX); // stays as it is
    let (owner, group) = (id(options.owner), id(options.group));
    let fd = file.as_raw_fd();
    // SAFETY: the path is an empty C string.
    if unsafe { libc::fchownat(fd, c"".as_ptr(), owner, group, libc::AT_EMPTY_PATH) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// chmod(2) of what a descriptor with `O_PATH` names.
fn change_mode(file: &File, mode: u32) -> io::Result<()> {
    const FCHMODAT2: libc::c_long = 452; // on every architecture, since Linux 6.6
    let fd = file.as_raw_fd();
    // SAFETY: the path is an empty C string.
    let done = unsafe { libc::syscall(FCHMODAT2, fd, c"".as_ptr(), mode, libc::AT_EMPTY_PATH) };
    if done == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if !matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) {
        return Err(error);
    }
    // Older kernels, or a filter of system calls that does not know it.
    let name = CString::new(format!("/proc/self/fd/{fd}"))?;
    // SAFETY: the path is a C string.
    if unsafe { libc::chmod(name.as_ptr(), mode) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The lock files that doors of this process hold. The kernel's record locks belong to a process as a whole:
/// a second owner in the same process would not be told, and would even make the first one lose its lock by
/// looking.
static HELD: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A path's lock, until it is dropped or the process ends. A child that was forked does not have it, even if
/// it outlives its parent: that is why it is a record lock and no flock(2).
#[derive(Debug)]
struct Lock {
    name: PathBuf,
    /// Closing it lets go of the lock.
    file: Option<File>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.file = None;
        held().remove(&self.name);
    }
}

fn held() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Becomes the path's only owner.
fn lock(path: &Path, wait: Duration) -> Result<Lock, AttachError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let deadline = Instant::now().checked_add(wait);
    let fail = |source| AttachError::System {
        path: name.clone(),
        doing: "lock the door's path",
        source,
    };
    // However it is spelt.
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let known = folder
        .canonicalize()
        .map(|folder| folder.join(name.file_name().unwrap_or_default()))
        .map_err(fail)?;
    loop {
        let owner = if held().insert(known.clone()) {
            let mut lock = Lock {
                name: known.clone(),
                file: None,
            };
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&name)
                .map_err(fail)?;
            match owner_of(&file).map_err(fail)? {
                None => {
                    lock.file = Some(file);
                    return Ok(lock);
                }
                Some(owner) => owner,
            }
        } else {
            std::process::id()
        };
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(AttachError::Taken {
                path: path.to_owned(),
                owner,
            });
        }
        thread::sleep(AGAIN);
    }
}

/// Locks the file, or says which process has it locked.
fn owner_of(file: &File) -> io::Result<Option<u32>> {
    // SAFETY: all zeroes are a valid flock: from the start to the end of the file.
    let mut record: libc::flock = unsafe { std::mem::zeroed() };
    record.l_type = libc::F_WRLCK as libc::c_short;
    // SAFETY: the record is valid for the call.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const record) } == 0 {
        return Ok(None);
    }
    let error = io::Error::last_os_error();
    if !matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) {
        return Err(error);
    }
    // SAFETY: as above; the call writes into the record whose lock is in the way, if it still is.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &raw mut record) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Some(u32::try_from(record.l_pid).unwrap_or(0)))
}

/// A name beside the path, removed again unless it was renamed.
struct Temporary(PathBuf);

impl Temporary {
    fn beside(path: &Path) -> Self {
        let mut name = std::ffi::OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(format!(".{}", std::process::id()));
        let temporary = path.with_file_name(name);
        // What a process with our number has left; no other process makes this name while we hold the lock.
        let _ = fs::remove_file(&temporary);
        Self(temporary)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn permissions_are_set_on_a_socket_and_on_nothing_that_has_taken_its_place() {
        let folder = std::env::temp_dir().join(format!("doors-attach-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let at = |name: &str| folder.join(name);
        let mode_of = |name: &str| {
            let found = fs::symlink_metadata(at(name)).expect("it is there");
            found.permissions().mode() & 0o777
        };
        let listener = socket::seqpacket().expect("a socket");
        socket::bind(&listener, &at("socket")).expect("a path");
        fs::write(at("file"), "").expect("a file");
        fs::set_permissions(at("file"), fs::Permissions::from_mode(0o600)).expect("a mode");
        std::os::unix::fs::symlink(at("file"), at("link")).expect("a link");
        std::os::unix::fs::symlink(at("socket"), at("link-to-socket")).expect("a link");
        fs::hard_link(at("file"), at("hard-link")).expect("a link");
        let options = AttachOptions {
            mode: 0o666,
            owner: Some(crate::Credentials::ours().uid),
            ..AttachOptions::default()
        };
        for name in ["file", "link", "link-to-socket", "hard-link"] {
            assert!(find_socket(&at(name)).is_err(), "{name}");
        }
        assert_eq!(mode_of("file"), 0o600);
        let found = find_socket(&at("socket")).expect("our socket");
        change_owner(&found, &options).expect("it is ours");
        change_mode(&found, options.mode).expect("it is ours");
        assert_eq!(mode_of("socket"), 0o666);
        fs::remove_dir_all(&folder).expect("it is ours");
    }
}
