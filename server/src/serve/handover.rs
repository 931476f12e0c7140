//! SIGUSR2: another instance of the same program takes over the listeners, and this one drains.
//!
//! The program is started anew from its path, so that it may be a newer one, with the same arguments and the same
//! environment, and inherits every listener. `TRANSOM_HANDOVER` tells it which is which, and at which descriptor it says
//! that it is ready. Until then both accept; if it fails, nothing has changed.

use super::listeners::{Listeners, own};
use super::signals::{Signals, Wake};
use std::ffi::{CString, OsStr, OsString};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr;
use std::time::{Duration, Instant};
use tracing::{error, info, warn};

/// Lines: the parent's process id, the descriptor to say "ready" at, then a descriptor and its name for each listener.
const VARIABLE: &str = "TRANSOM_HANDOVER";

/// What is true of this process only, and would be taken for true of the next one.
const OURS_ALONE: [&str; 5] = [
    VARIABLE,
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    // Without it, whoever gets WATCHDOG_USEC is meant.
    "WATCHDOG_PID",
];

/// How often it is looked whether the new instance is ready.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

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
        if let Some(ready) = self.ready.take() {
            // If the old instance has died meanwhile, there is nobody to be told.
            let _ = File::from(ready).write_all(b"1");
        }
    }
}

/// Strings as `execve` takes them.
struct Strings {
    /// What `pointers` point to.
    _strings: Vec<CString>,
    pointers: Vec<*mut libc::c_char>,
}

impl Strings {
    fn new(strings: impl Iterator<Item = OsString>) -> io::Result<Self> {
        let strings: Vec<_> = strings
            .map(|string| CString::new(string.as_bytes()))
            .collect::<Result<_, _>>()?;
        let pointers = strings.iter().map(|string| string.as_ptr().cast_mut());
        Ok(Strings {
            pointers: pointers.chain([ptr::null_mut()]).collect(),
            _strings: strings,
        })
    }
}

/// Everything that is needed to start a new instance, allocated before the process heap is sealed.
pub(super) struct Handover {
    program: CString,
    arguments: Strings,
    environment: Strings,
    sockets: Vec<RawFd>,
    /// Keeps the number free at which the new instance finds its end of a pipe.
    ready: OwnedFd,
    timeout: Duration,
}

/// Why the listeners are still ours.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the new instance cannot be started: {0}")]
    Start(#[from] io::Error),
    #[error("the new instance ended before it was ready; what it said is above")]
    Ended,
    #[error("the new instance was not ready within {0:?} (--handover-timeout), and was killed")]
    Late(Duration),
}

/// How waiting for the new instance has ended.
enum Outcome {
    Ready(libc::pid_t),
    /// A signal to stop came meanwhile.
    Told,
}

impl Handover {
    pub(super) fn prepare(listeners: &Listeners, timeout: Duration) -> io::Result<Self> {
        let ready = OwnedFd::from(File::open("/dev/null")?);
        let mut text = format!("{}\n{}", std::process::id(), ready.as_raw_fd());
        for (key, fd) in listeners.sockets() {
            let _ = write!(text, "\n{fd} {key}");
        }
        let ours = |name: &OsStr| OURS_ALONE.iter().any(|ours| name == *ours);
        let pair = |name: &OsStr, value: &OsStr| {
            let mut pair = name.to_owned();
            pair.push("=");
            pair.push(value);
            pair
        };
        let others = std::env::vars_os().filter(|(name, _)| !ours(name));
        let environment = others.map(|(name, value)| pair(&name, &value));
        let handover = pair(OsStr::new(VARIABLE), OsStr::new(&text));
        // Now, because an upgrade replaces what is at the path.
        let program = std::env::current_exe()?;
        Ok(Handover {
            program: CString::new(program.as_os_str().as_bytes())?,
            arguments: Strings::new(std::env::args_os())?,
            environment: Strings::new(environment.chain([handover]))?,
            sockets: listeners.sockets().map(|(_, fd)| fd).collect(),
            ready,
            timeout,
        })
    }

    /// Starts a new instance and waits until it is ready.
    fn run(&self, signals: &Signals, parked: &mut bool) -> Result<Outcome, Failure> {
        let (mut read, write) = pipe()?;
        let pid = self.spawn(&write)?;
        drop(write);
        info!(pid, "handing the listeners to a new instance");
        let deadline = Instant::now() + self.timeout;
        loop {
            match signals.wait(Some(LOOK_AGAIN)) {
                Wake::Signal => {
                    // SAFETY: a signal to a child that has not been waited for, so the number is still its own.
                    unsafe { libc::kill(pid, libc::SIGTERM) };
                    return Ok(Outcome::Told);
                }
                Wake::Parked => *parked = true,
                Wake::HandOver | Wake::TimedOut => {}
            }
            match read.read(&mut [0]) {
                Ok(0) => {
                    end(pid);
                    return Err(Failure::Ended);
                }
                Ok(_) => return Ok(Outcome::Ready(pid)),
                Err(_) if Instant::now() < deadline => {}
                Err(_) => {
                    end(pid);
                    return Err(Failure::Late(self.timeout));
                }
            }
        }
    }

    /// `posix_spawn`, because a fork would copy the page tables of the whole region.
    fn spawn(&self, ready: &OwnedFd) -> io::Result<libc::pid_t> {
        let check = |code| match code {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(code)),
        };
        let mut pid = 0;
        // SAFETY: the actions are initialised before they are used and destroyed after; the strings end with NUL, and the
        // arrays of pointers to them with a null pointer; both live as long as `self`.
        unsafe {
            let mut actions: libc::posix_spawn_file_actions_t = std::mem::zeroed();
            let actions = &raw mut actions;
            check(libc::posix_spawn_file_actions_init(actions))?;
            let spawned = (|| {
                for &socket in &self.sockets {
                    // To itself: that lets the new instance inherit it.
                    check(libc::posix_spawn_file_actions_adddup2(
                        actions, socket, socket,
                    ))?;
                }
                check(libc::posix_spawn_file_actions_adddup2(
                    actions,
                    ready.as_raw_fd(),
                    self.ready.as_raw_fd(),
                ))?;
                check(libc::posix_spawn(
                    &raw mut pid,
                    self.program.as_ptr(),
                    actions,
                    ptr::null(),
                    self.arguments.pointers.as_ptr(),
                    self.environment.pointers.as_ptr(),
                ))
            })();
            libc::posix_spawn_file_actions_destroy(actions);
            spawned.map(|()| pid)
        }
    }
}

/// Ends a child that has not become ready, if it has not ended by itself.
fn end(pid: libc::pid_t) {
    // SAFETY: plain system calls; the child has not been waited for, so the number is still its own.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        while libc::waitpid(pid, ptr::null_mut(), 0) < 0
            && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
        {}
    }
}

/// A pipe whose reading end does not block.
fn pipe() -> io::Result<(File, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: there is room for two descriptors, which are new and owned by nobody else.
    unsafe {
        if libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((File::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])))
    }
}

/// Why a server has to drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It was told to stop.
    Told,
    /// Too many buckets are parked: it is to be started anew.
    Recycle,
    /// A new instance has its listeners.
    HandedOver,
}

/// Waits until there is a reason to drain. `handover` is none for a server without listeners.
pub(super) fn until_told(signals: &Signals, handover: Option<&Handover>) -> End {
    let end = wait(signals, handover);
    if end != End::HandedOver {
        signals.notify().stopping();
    }
    end
}

fn wait(signals: &Signals, handover: Option<&Handover>) -> End {
    loop {
        match (signals.wait(None), handover) {
            (Wake::Signal, _) => return End::Told,
            (Wake::Parked, _) => return End::Recycle,
            (Wake::TimedOut, _) => {}
            (Wake::HandOver, None) => warn!(
                "SIGUSR2 hands over listeners, and a door has none: start the next instance with --door-wait, then end \
                 this one"
            ),
            (Wake::HandOver, Some(handover)) => {
                let mut parked = false;
                match handover.run(signals, &mut parked) {
                    Ok(Outcome::Ready(pid)) => {
                        info!(pid, "the new instance has the listeners");
                        signals.notify().main_pid(pid);
                        return End::HandedOver;
                    }
                    Ok(Outcome::Told) => return End::Told,
                    Err(failure) => error!("{failure}: this one goes on"),
                }
                if parked {
                    return End::Recycle;
                }
            }
        }
    }
}
