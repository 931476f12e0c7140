//! Another instance of the same program takes over, and this one drains: at SIGUSR2, or because of lost
//! buckets.
//!
//! The program is started anew from its path, so that it may be a newer one, with the same arguments and the
//! same environment, and inherits every listener. `TRANSOM_HANDOVER` tells it which is which, and at which
//! descriptor it says that it is ready. Until then both accept; if it fails, nothing has changed.
//!
//! Behind a door there is a path in the place of listeners, and it has one owner at a time. So the new
//! instance says that it is ready but for the path, the old one gives that up, and the new one says once more
//! that it has it.
//!
//! Everything that is needed is made before the process heap is sealed, descriptors included: a hand-over
//! allocates nothing, asks the C library for no memory, whose lock a parked thread may hold for ever, and
//! works when the table of descriptors is full.

use super::handed::{PATH_PATIENCE, VARIABLE, identity};
use super::listeners::Listeners;
use super::predecessor::{self, Letter, Note};
use super::signals::{Signals, Wake};
use crate::settings::FrontSettings;
use std::cell::Cell;
use std::ffi::{CString, OsStr, OsString};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::time::{Duration, Instant};
use transom_doors::Words;
use transom_wire::own_log::info;

/// What is true of this process only, and would be taken for true of the next one.
const OURS_ALONE: [&str; 6] = [
    VARIABLE,
    predecessor::VARIABLE,
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    // Without it, any process that gets WATCHDOG_USEC is meant.
    "WATCHDOG_PID",
];

/// How often it is looked whether the new instance is ready.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Strings as `execve` takes them.
struct Strings {
    /// What `pointers` point to.
    _strings: Vec<CString>,
    pointers: Vec<*mut libc::c_char>,
}

impl Strings {
    /// These, and what `more` points to.
    fn new(
        strings: impl Iterator<Item = OsString>,
        more: Option<*mut libc::c_char>,
    ) -> io::Result<Self> {
        let strings: Vec<_> = strings
            .map(|string| CString::new(string.as_bytes()))
            .collect::<Result<_, _>>()?;
        let pointers = strings.iter().map(|string| string.as_ptr().cast_mut());
        let end = [ptr::null_mut()];
        Ok(Strings {
            pointers: pointers.chain(more).chain(end).collect(),
            _strings: strings,
        })
    }
}

/// The descriptors that a new process inherits, each at its own number.
struct Inheritance(Box<libc::posix_spawn_file_actions_t>);

impl Inheritance {
    fn of(fds: impl Iterator<Item = RawFd>) -> io::Result<Self> {
        // SAFETY: all zeros are a value of the type, which `init` then overwrites.
        let mut actions = Box::new(unsafe { std::mem::zeroed() });
        // SAFETY: there is room for what it writes.
        check(unsafe { libc::posix_spawn_file_actions_init(&raw mut *actions) })?;
        let mut inheritance = Inheritance(actions);
        for fd in fds {
            // SAFETY: the actions were initialised. A descriptor that is copied to itself is inherited.
            check(unsafe {
                libc::posix_spawn_file_actions_adddup2(&raw mut *inheritance.0, fd, fd)
            })?;
        }
        Ok(inheritance)
    }
}

impl Drop for Inheritance {
    fn drop(&mut self) {
        // SAFETY: they were initialised, and are not used after this.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut *self.0) };
    }
}

/// What else is particular to a new process: the signals that it starts with blocked.
struct Attributes(Box<libc::posix_spawnattr_t>);

impl Attributes {
    /// Those that are blocked here are for our main thread; a program that has not become ready is to obey
    /// them at once. But SIGHUP never ends a process, so that it waits until it is read.
    fn with(blocked: &libc::sigset_t) -> io::Result<Self> {
        let mut blocked = *blocked;
        // SAFETY: the set was filled by the system.
        unsafe { libc::sigaddset(&raw mut blocked, libc::SIGHUP) };
        // SAFETY: all zeros are a value of the type, which `init` then overwrites.
        let mut attributes = Box::new(unsafe { std::mem::zeroed() });
        // SAFETY: there is room for what it writes.
        check(unsafe { libc::posix_spawnattr_init(&raw mut *attributes) })?;
        let mut attributes = Attributes(attributes);
        let mask = libc::POSIX_SPAWN_SETSIGMASK as libc::c_short;
        // SAFETY: the attributes were initialised, and the set was filled by the system.
        unsafe {
            check(libc::posix_spawnattr_setsigmask(
                &raw mut *attributes.0,
                &raw const blocked,
            ))?;
            check(libc::posix_spawnattr_setflags(&raw mut *attributes.0, mask))?;
        }
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: they were initialised, and are not used after this.
        unsafe { libc::posix_spawnattr_destroy(&raw mut *self.0) };
    }
}

fn check(code: libc::c_int) -> io::Result<()> {
    match code {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// What a new instance takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// Listeners.
    Listeners,
    /// The path of a door, and the listener of `--admin` if there is one.
    Path,
}

/// The means to start a new instance.
pub(super) struct Handover {
    what: What,
    /// Without them, why.
    means: io::Result<Means>,
    timeout: Duration,
}

/// Everything that is needed to start a new instance, allocated before the process heap is sealed.
struct Means {
    program: CString,
    arguments: Strings,
    environment: Strings,
    /// A part of the environment.
    letter: Letter,
    inheritance: Inheritance,
    attributes: Attributes,
    /// What the new instance says; does not block.
    said: File,
    /// Where it says it: inherited at this number, and kept open here so that there is always one.
    _to_say: OwnedFd,
    /// The new instance, until it has been waited for.
    child: Cell<Option<libc::pid_t>>,
}

/// Why the listeners, or the path, are still ours.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure<'h> {
    #[error("the new instance cannot be started: {}", Words(.0))]
    Start(io::Error),
    #[error(
        "the new instance cannot be started: where this program lies is not known: {}", Words(.0)
    )]
    NoProgram(&'h io::Error),
    #[error("the new instance ended before it was ready; what it said is above")]
    Ended,
    #[error("the new instance was not ready within {0:?} (--handover-timeout), and was killed")]
    Late(Duration),
}

/// How waiting for the new instance has ended.
pub(super) enum Outcome {
    Ready(libc::pid_t),
    /// A signal to stop came meanwhile.
    Told,
}

/// What the new instance has done.
enum News {
    Said,
    Ended,
    Nothing,
}

impl Handover {
    /// Gets ready to hand over these listeners.
    pub(super) fn prepare(
        what: What,
        listeners: [&Listeners; 2],
        settings: &FrontSettings,
        signals: &Signals,
    ) -> Handover {
        Handover {
            what,
            means: Means::prepare(listeners, signals),
            timeout: settings.handover_timeout,
        }
    }

    /// Gives new instances another time to be ready (`--handover-timeout`).
    pub(super) fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// What is handed over.
    pub(super) fn what(&self) -> What {
        self.what
    }

    /// What keeps a new instance from being started, if anything does.
    pub(super) fn obstacle(&self) -> Option<&io::Error> {
        self.means.as_ref().err()
    }

    /// Starts a new instance, which is told `note`, and waits until it is ready.
    pub(super) fn run(
        &self,
        signals: &Signals,
        note: Option<&Note>,
    ) -> Result<Outcome, Failure<'_>> {
        let means = self.means.as_ref().map_err(Failure::NoProgram)?;
        means.letter.write(note);
        let pid = means.spawn().map_err(Failure::Start)?;
        match self.what {
            What::Listeners => info!(pid, "handing the listeners to a new instance"),
            What::Path => info!(pid, "handing the door to a new instance"),
        }
        let deadline = Instant::now() + self.timeout;
        loop {
            match signals.wait(Some(LOOK_AGAIN)) {
                Wake::Signal => {
                    means.signal(libc::SIGTERM);
                    return Ok(Outcome::Told);
                }
                Wake::HandOver | Wake::HangUp | Wake::Parked | Wake::TimedOut => {}
            }
            match means.news() {
                News::Said => return Ok(Outcome::Ready(pid)),
                News::Ended => return Err(Failure::Ended),
                News::Nothing if Instant::now() < deadline => {}
                News::Nothing => {
                    means.kill();
                    return Err(Failure::Late(self.timeout));
                }
            }
        }
    }

    /// After the path has been given up: waits until the new instance has it. False if that is not known to
    /// be so; a signal to end only ends the waiting.
    pub(super) fn wait_until_it_has_the_path(&self, signals: &Signals) -> bool {
        let Ok(means) = &self.means else {
            return false;
        };
        let deadline = Instant::now() + PATH_PATIENCE;
        loop {
            match means.news() {
                News::Said => return true,
                News::Ended => return false,
                News::Nothing if Instant::now() >= deadline => return false,
                News::Nothing => {}
            }
            match signals.wait(Some(LOOK_AGAIN)) {
                Wake::Signal => return true,
                Wake::HandOver | Wake::HangUp | Wake::Parked | Wake::TimedOut => {}
            }
        }
    }
}

/// The path by which the new instance is started. The one that this was started by, if it is of this program:
/// a link in it (`current`) may lead to another release by then.
fn program() -> io::Result<PathBuf> {
    let running = std::env::current_exe()?;
    let named = std::env::args_os().next().map(PathBuf::from);
    let is_running = |named: &Path| {
        let identity = |path: &Path| path.metadata().map(|seen| (seen.dev(), seen.ino()));
        identity(named).is_ok_and(|named| identity(&running).is_ok_and(|running| running == named))
    };
    // Without a slash it would be looked for in PATH.
    match named.filter(|named| named.as_os_str().as_bytes().contains(&b'/') && is_running(named)) {
        Some(named) => std::path::absolute(named),
        None => Ok(running),
    }
}

impl Means {
    fn prepare(listeners: [&Listeners; 2], signals: &Signals) -> io::Result<Self> {
        let (said, to_say) = pipe()?;
        let pipe = identity(to_say.as_raw_fd()).unwrap_or_default();
        let mut text = format!("{}\n{} {pipe}", std::process::id(), to_say.as_raw_fd());
        let sockets = || listeners.into_iter().flat_map(Listeners::sockets);
        for (key, fd) in sockets() {
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
        let letter = Letter::new();
        let inherited = sockets().map(|(_, fd)| fd).chain([to_say.as_raw_fd()]);
        // Now, because an upgrade replaces what is at the path.
        let program = program()?;
        Ok(Means {
            program: CString::new(program.as_os_str().as_bytes())?,
            arguments: Strings::new(std::env::args_os(), None)?,
            environment: Strings::new(environment.chain([handover]), Some(letter.as_ptr()))?,
            inheritance: Inheritance::of(inherited)?,
            attributes: Attributes::with(signals.blocked_before())?,
            letter,
            said,
            _to_say: to_say,
            child: Cell::new(None),
        })
    }

    /// `posix_spawn`, because a fork would copy the page tables of the whole region.
    fn spawn(&self) -> io::Result<libc::pid_t> {
        // One that failed may have said something.
        while (&self.said).read(&mut [0]).is_ok_and(|len| len > 0) {}
        let mut pid = 0;
        // SAFETY: actions and attributes were initialised; the strings end with NUL, and the arrays of
        // pointers to them with a null pointer; all of them live as long as `self`.
        check(unsafe {
            libc::posix_spawn(
                &raw mut pid,
                self.program.as_ptr(),
                &raw const *self.inheritance.0,
                &raw const *self.attributes.0,
                self.arguments.pointers.as_ptr(),
                self.environment.pointers.as_ptr(),
            )
        })?;
        self.child.set(Some(pid));
        Ok(pid)
    }

    fn news(&self) -> News {
        if (&self.said).read(&mut [0]).is_ok_and(|len| len > 0) {
            News::Said
        } else if self.has_ended(libc::WNOHANG) {
            News::Ended
        } else {
            News::Nothing
        }
    }

    /// Whether the new instance has ended, or was waited for; its end cannot be told by the pipe, of which
    /// this process has both ends.
    fn has_ended(&self, options: libc::c_int) -> bool {
        let Some(pid) = self.child.get() else {
            return true;
        };
        // SAFETY: a plain system call.
        let waited = unsafe { libc::waitpid(pid, ptr::null_mut(), options) };
        // So it is if a handler has waited for any child there is, or if SIGCHLD is ignored.
        let forgotten =
            waited < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ECHILD);
        let ended = waited == pid || forgotten;
        if ended {
            self.child.set(None);
        }
        ended
    }

    /// Sends the new instance a signal.
    fn signal(&self, signal: libc::c_int) {
        if let Some(pid) = self.child.get() {
            // SAFETY: a signal to a child that has not been waited for, so the number is still its own.
            unsafe { libc::kill(pid, signal) };
        }
    }

    /// Ends a new instance that has not become ready.
    fn kill(&self) {
        self.signal(libc::SIGKILL);
        while !self.has_ended(0) {} // interrupted
    }
}

/// A pipe whose reading end does not block.
fn pipe() -> io::Result<(File, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: there is room for two descriptors, which are new and have no other owner.
    unsafe {
        if libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((File::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])))
    }
}
