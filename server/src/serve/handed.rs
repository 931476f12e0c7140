//! What an old instance of the program has handed to this one: its listeners, and where to say "ready".

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;
use transom_wire::own_log::warn;

/// Lines: the parent's process id, the descriptor to say "ready" at, then a descriptor and its name for each
/// listener.
pub(super) const VARIABLE: &str = "TRANSOM_HANDOVER";

/// How long a new instance waits for the path of the door that the old one gives up, and the old one until it
/// has it. It takes a millisecond.
pub(super) const PATH_PATIENCE: Duration = Duration::from_secs(10);

/// What an old instance has handed to this one.
#[derive(Debug, Default)]
pub(super) struct Handed {
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
        let mut number = || lines.next()?.parse::<RawFd>().ok();
        // SAFETY: getppid has no preconditions.
        if number().ok_or_else(garbled)? != unsafe { libc::getppid() } {
            return Ok(Handed::default()); // meant for another process, or by one that has died since
        }
        let failed = |fd, error| format!("{VARIABLE}: descriptor {fd}: {error}");
        let ready = number().ok_or_else(garbled)?;
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
