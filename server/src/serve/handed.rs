//! What an old instance of the program has handed to this one: its listeners, and where to say "ready".

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;
use transom_wire::own_log::warn;

/// Lines: the parent's process id, the descriptor to say "ready" at and which pipe that is, then a descriptor
/// and its name for each listener.
pub(super) const VARIABLE: &str = "TRANSOM_HANDOVER";

/// How long a new instance waits for the path of the door that the old one gives up, and the old one until it
/// has it. It takes a millisecond.
pub(super) const PATH_PATIENCE: Duration = Duration::from_secs(10);

/// How long a process may take to die.
const DYING_MS: libc::c_int = 1000;

/// What an old instance has handed to this one.
#[derive(Debug, Default)]
pub(crate) struct Handed {
    sockets: Vec<(String, OwnedFd)>,
    ready: Option<OwnedFd>,
}

impl Handed {
    /// Takes it, if there is an old instance.
    pub(super) fn take() -> Result<Self, String> {
        let Ok(text) = std::env::var(VARIABLE) else {
            return Ok(Handed::default());
        };
        let garbled = || format!("{VARIABLE} is not what an old instance writes: unset it");
        let mut lines = text.lines();
        let parent = lines.next().and_then(|line| line.parse().ok());
        let ready = lines.next().and_then(|line| {
            // The version before has not said which.
            let (fd, pipe) = line.split_once(' ').unwrap_or((line, "0"));
            Some((fd.parse().ok()?, pipe.parse().ok()?))
        });
        let (parent, (ready, pipe)) = parent.zip(ready).ok_or_else(garbled)?;
        if !is_for_us(parent, ready, pipe) {
            return Ok(Handed::default()); // this one's environment is a copy
        }
        let failed = |fd, error| format!("{VARIABLE}: descriptor {fd}: {error}");
        let mut handed = Handed {
            sockets: Vec::new(),
            ready: Some(own(ready).map_err(|error| failed(ready, error))?),
        };
        for line in lines {
            let (fd, key) = line.split_once(' ').ok_or_else(garbled)?;
            let fd = fd.parse().map_err(|_| garbled())?;
            let socket = own(fd).map_err(|error| failed(fd, error))?;
            handed.sockets.push((key.to_owned(), socket));
        }
        Ok(handed)
    }

    /// Whether there is an old instance, or was one that has died since.
    pub(super) fn is_there(&self) -> bool {
        self.ready.is_some()
    }

    /// Whether there are sockets of that name.
    pub(super) fn has(&self, key: &str) -> bool {
        self.sockets.iter().any(|(name, _)| name == key)
    }

    /// The sockets of that name.
    pub(super) fn claim(&mut self, key: &str) -> Vec<OwnedFd> {
        let all = std::mem::take(&mut self.sockets);
        let (claimed, others) = all.into_iter().partition(|(name, _)| name == key);
        self.sockets = others;
        claimed.into_iter().map(|(_, socket)| socket).collect()
    }

    /// Closes what is not listened on any more.
    pub(super) fn close_the_rest(&mut self) {
        let mut told = "";
        for (key, _) in &self.sockets {
            let address = key.split_once('=').map_or(key.as_str(), |(_, text)| text);
            if told != address {
                warn!(address, "the old instance listens there, this one will not");
            }
            told = address;
        }
        self.sockets.clear();
    }

    /// Tells the old instance to drain, if there is one.
    pub(super) fn say_ready(&mut self) {
        self.say_ready_but_for_the_path();
        self.ready = None;
    }

    /// Tells the old instance, if there is one, to give up the path of its door; [`Handed::say_ready`]
    /// follows.
    pub(super) fn say_ready_but_for_the_path(&self) {
        if let Some(ready) = &self.ready {
            // SAFETY: a byte to write, and a descriptor that is open. It fails if the old instance has died
            // meanwhile, and then there is nothing to tell.
            unsafe { libc::write(ready.as_raw_fd(), b"1".as_ptr().cast(), 1) };
        }
    }

    /// How long to wait for the path of a door that an old instance gives up, if there is one.
    pub(super) fn path_patience(&self) -> Duration {
        match self.ready {
            Some(_) => PATH_PATIENCE,
            None => Duration::ZERO,
        }
    }
}

/// Whether what an old instance has written was for this process: that is its parent, or was, and has died
/// since, which its pipe tells. Programs that others start have the words and not the pipe.
fn is_for_us(parent: libc::pid_t, ready: RawFd, pipe: u64) -> bool {
    // SAFETY: getppid has no preconditions.
    parent == unsafe { libc::getppid() } || (identity(ready) == Some(pipe) && has_no_reader(ready))
}

/// Which pipe a descriptor is of; `None` if it is of none, or not open.
pub(super) fn identity(fd: RawFd) -> Option<u64> {
    // SAFETY: all zeros are a value of the type, there is room for what is written, and a descriptor that is
    // not open is refused.
    let seen = unsafe {
        let mut seen: libc::stat = std::mem::zeroed();
        (libc::fstat(fd, &raw mut seen) == 0).then_some(seen)?
    };
    (seen.st_mode & libc::S_IFMT == libc::S_IFIFO).then_some(seen.st_ino)
}

/// Whether no process has the other end of a pipe any more. Of a process that dies, its children may learn
/// that before its last thread has let go of it.
fn has_no_reader(fd: RawFd) -> bool {
    let mut asked = libc::pollfd {
        fd,
        events: 0,
        revents: 0,
    };
    // SAFETY: one place, which is valid for the call.
    unsafe { libc::poll(&raw mut asked, 1, DYING_MS) == 1 && asked.revents & libc::POLLERR != 0 }
}

/// Takes possession of a descriptor that was passed to this process.
pub(super) fn own(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call, which fails for a descriptor that is not open.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and passed for this process to have, which asks once and before it opens anything
    // itself.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
