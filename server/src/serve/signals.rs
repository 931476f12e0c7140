//! What the main thread of a server waits for: SIGTERM, SIGINT, SIGHUP, SIGUSR2, and the news that a bucket
//! was parked.

use super::care::Care;
use super::notify::Notify;
use std::cell::OnceCell;
use std::io;
use std::rc::Rc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};
use transom_log::access::AccessLog;
use transom_net as net;
use transom_wire::own_log::warn;

/// What ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wake {
    /// SIGTERM or SIGINT.
    Signal,
    /// SIGUSR2.
    HandOver,
    /// SIGHUP. The access log is being opened anew already.
    HangUp,
    /// A bucket was parked.
    Parked,
    /// Nothing did, in time.
    TimedOut,
}

/// How often it is looked whether something has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The main thread, as the kernel knows it.
static MAIN: AtomicI32 = AtomicI32::new(0);

/// The process that it is a thread of.
static PROCESS: AtomicI32 = AtomicI32::new(0);

/// SIGTERM, SIGINT, SIGHUP and SIGUSR2, and the news of a parked bucket, which is SIGUSR1. Only the main
/// thread takes them. While it waits for them it gives signs of life to a service manager, and looks after
/// the buckets.
///
/// An application may have threads that it started before it serves, and these block no signal: what the
/// kernel gives to one of them it passes on to the main thread. Programs that a handler starts block none of
/// these signals either, and end when they are told to.
pub(crate) struct Signals {
    set: libc::sigset_t,
    /// What was blocked before.
    before: libc::sigset_t,
    notify: Notify,
    /// What SIGHUP opens anew.
    access: OnceLock<AccessLog>,
    /// Buckets that are looked after, if the server has some.
    care: OnceCell<Rc<Care>>,
}

impl Signals {
    /// Blocks them in this thread and in those that it starts.
    pub(super) fn block() -> io::Result<Self> {
        // SAFETY: the set is initialised by sigemptyset before it is used; the calls affect this thread's
        // mask only.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signal in OURS {
                libc::sigaddset(&raw mut set, signal);
            }
            let code = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, &raw mut before);
            if code != 0 {
                return Err(io::Error::from_raw_os_error(code));
            }
            if std::env::var_os(super::handed::VARIABLE).is_some() {
                // The instance before this one has blocked it, so that none was lost.
                libc::sigdelset(&raw mut before, libc::SIGHUP);
            }
            MAIN.store(libc::gettid(), Ordering::SeqCst);
            PROCESS.store(libc::getpid(), Ordering::SeqCst);
            let mut blocked_by_us = set;
            for signal in OURS {
                pass_on(signal)?;
                if libc::sigismember(&raw const before, signal) == 1 {
                    libc::sigdelset(&raw mut blocked_by_us, signal);
                }
            }
            #[cfg(feature = "c-heap")]
            transom_arena::do_not_block_in_children(&blocked_by_us);
            Ok(Signals {
                set,
                before,
                notify: Notify::from_environment(),
                access: OnceLock::new(),
                care: OnceCell::new(),
            })
        }
    }

    /// What this process was started with: the signals that it had blocked.
    pub(super) fn blocked_before(&self) -> &libc::sigset_t {
        &self.before
    }

    /// What is told to a service manager.
    pub(super) fn notify(&self) -> &Notify {
        &self.notify
    }

    /// Has SIGHUP open an access log anew, once.
    pub(super) fn reopen_on_hangup(&self, log: AccessLog) {
        let _ = self.access.set(log);
    }

    /// Has the buckets of an application looked after, from now on, whenever something is waited for.
    pub(super) fn look_after(&self, care: Rc<Care>) {
        let _ = self.care.set(care);
    }

    /// Tells the main thread that a bucket was parked. Async-signal-safe: it may run on the signal stack of
    /// the thread that is being parked. Several that are parked at once are one piece of news.
    pub(super) fn parked() {
        give_to_main(libc::SIGUSR1);
    }

    /// Waits, in a process that is ending, for a signal to end at once: whether there was one in time. It is
    /// too late for the others.
    pub(super) fn wait_while_ending(&self, timeout: Duration) -> bool {
        let wake = self.wait(Some(timeout));
        if wake == Wake::HandOver {
            warn!("SIGUSR2: no new instance is started, because this process is ending");
        }
        wake == Wake::Signal
    }

    /// Waits, in a process that is ending, until something has ended: whether it has, before the deadline and
    /// before a signal to end at once.
    pub(super) fn wait_for(&self, deadline: Instant, has_ended: impl Fn() -> bool) -> bool {
        while !has_ended() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.wait_while_ending(left.min(LOOK_AGAIN)) {
                return false;
            }
        }
        true
    }

    /// Waits for one; `None` waits for ever. Meanwhile the buckets are looked after: everything here that
    /// takes longer than a moment waits in this way.
    pub(super) fn wait(&self, timeout: Option<Duration>) -> Wake {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let round = self.care.get().map(|care| care.round());
            let pause = [left, self.notify.due_in(), round]
                .into_iter()
                .flatten()
                .min();
            let signal = self.next(pause);
            self.notify.ping();
            match signal {
                libc::SIGHUP => {
                    if let Some(log) = self.access.get() {
                        log.reopen();
                    }
                    return Wake::HangUp;
                }
                libc::SIGUSR1 => return Wake::Parked,
                libc::SIGTERM | libc::SIGINT => return Wake::Signal,
                libc::SIGUSR2 => return Wake::HandOver,
                _ if left.is_some_and(|left| left.is_zero()) => return Wake::TimedOut,
                _ => {} // interrupted
            }
        }
    }

    fn next(&self, timeout: Option<Duration>) -> libc::c_int {
        let timeout = timeout.map(net::timespec);
        let pointer = timeout
            .as_ref()
            .map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: the set is initialised, the timeout valid for the call; no siginfo is wanted.
        unsafe { libc::sigtimedwait(&raw const self.set, std::ptr::null_mut(), pointer) }
    }
}

const OURS: [libc::c_int; 5] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGUSR1,
    libc::SIGUSR2,
];

/// Async-signal-safe.
extern "C" fn give_to_main(signal: libc::c_int) {
    // SAFETY: system calls without preconditions; the place of the error number is this thread's own.
    unsafe {
        let place = libc::__errno_location();
        let before = *place;
        let process = PROCESS.load(Ordering::SeqCst);
        if libc::getpid() == process {
            libc::syscall(
                libc::SYS_tgkill,
                process,
                MAIN.load(Ordering::SeqCst),
                signal,
            );
        } else {
            // The child of a fork: it has no main thread to tell, and the signal is for itself.
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
        *place = before;
    }
}

/// Has threads that do not block a signal pass it on to the main thread, which does.
fn pass_on(signal: libc::c_int) -> io::Result<()> {
    // SAFETY: the action is zeroed, which is a valid one with an empty mask; its handler is
    // async-signal-safe.
    let code = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = give_to_main as *const () as usize;
        action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
        libc::sigaction(signal, &raw const action, std::ptr::null_mut())
    };
    match code {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
