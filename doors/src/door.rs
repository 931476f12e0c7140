//! A door: its channels, its threads, and how it grows.
//!
//! **Growth.** As libc does for illumos doors: a thread that takes the last idle thread's place starts another one *before*
//! it runs its handler, so one spare is there at all times and threads are started only at a new high water of concurrency,
//! one at a time, never beyond `threads_max`. Two departures, with their reasons:
//! - A claimer whose handler is expected to be short, with nothing waiting behind it, does not start a spare: a door of tiny
//!   handlers would otherwise grow to a number of threads that it can never use.
//! - So a handler can block while no spare exists. Then whoever finds the call that waits asks for the thread: the submitter
//!   at once if nobody can be counted on, else the client's `nudge`. `server_create` may therefore be called on a client's thread.
//!
//! It knows nothing of what runs on its threads, nor of the memory they stand on.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::bell::Bell;
use crate::channel::Channel;
use crate::client::Client;
use crate::clock::now_ns;
use crate::error::{BuildError, ChannelError};
use crate::geometry::{ChannelGeometry, ChannelMemory};
use crate::idle::IdleSet;
use crate::layout::Layout;
use crate::pace::Pace;
use crate::revoke::Revoked;
use crate::sync::{AtomicU32, Line, Ordering};

/// The most door server threads of one door: the idle set's scan stays within 256 words.
pub const THREADS_MAX: u32 = 16_384;

/// After a thread could not be started, the next attempt waits this long: a failing pthread_create per call would slow
/// down the calls that the other threads still carry.
const RETRY_NS: u64 = 10_000_000;

type ServerCreate = Box<dyn Fn(u32) -> io::Result<()> + Send + Sync>;

/// An entry into this process, called like a function. Clones are the same door.
#[derive(Clone, Debug)]
pub struct Door {
    pub(crate) inner: Arc<Inner>,
}

/// What a door looks like from outside. Every number is read by itself: together they are not a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DoorInfo {
    /// Threads that may exist.
    pub threads_max: u32,
    /// Threads that were started: the high water of concurrency, plus the spare.
    pub threads_started: u32,
    /// The most threads that calls ever needed: one more than the highest that ran a handler, because the lowest idle one is woken.
    pub threads_high_water: u32,
    /// Threads that wait for a call.
    pub threads_idle: u32,
    /// Threads that will never come back, because an emergency reply was sent for their call.
    pub threads_parked: u32,
    /// Attempts to start a thread that failed.
    pub starts_failed: u64,
    /// Calls that were completed, in any way.
    pub calls_served: u64,
    /// Calls that ended with [`Status::FAULT`](crate::Status::FAULT), because a handler panicked or did not complete its call.
    pub calls_faulted: u64,
    /// The moving average of service time, in nanoseconds.
    pub service_average_ns: u32,
    /// Whether the door was revoked.
    pub revoked: bool,
}

/// Collects what a door needs before it exists.
#[derive(Default)]
pub struct DoorBuilder {
    threads_max: u32,
    server_create: Option<ServerCreate>,
}

/// What belongs to one thread alone, on its own cache lines, where an emergency reply can reach it too.
#[derive(Debug, Default)]
pub(crate) struct ThreadState {
    /// Completions that a lazy client has not been told of.
    pub unreported: AtomicU32,
    pub served: AtomicU64,
    pub faulted: AtomicU64,
}

pub(crate) struct Inner {
    pub idle: IdleSet,
    pub pace: Pace,
    pub threads: Box<[Line<ThreadState>]>,
    /// The channels, once they are sealed.
    channels: OnceLock<Box<[Arc<Channel>]>>,
    /// The channels before that. No lock is taken after start.
    unsealed: Mutex<Vec<Arc<Channel>>>,
    server_create: ServerCreate,
    started: AtomicU32,
    /// A thread was asked for and has not arrived yet.
    starting: AtomicBool,
    starts_failed: AtomicU64,
    retry_after_ns: AtomicU64,
    /// One more than the highest thread that ever ran a handler.
    high_water: AtomicU32,
    pub parked: AtomicU32,
    pub revoked: Revoked,
}

impl Door {
    /// Begins a door.
    pub fn builder() -> DoorBuilder {
        DoorBuilder { threads_max: 1, server_create: None }
    }

    /// Adds an in-process channel for one caller. All its memory is `memory` and what is allocated here.
    ///
    /// # Errors
    /// A geometry that is refused, memory that does not fit it, no doorbell, or a door that was started already.
    pub fn channel(&self, geometry: ChannelGeometry, memory: ChannelMemory) -> Result<Client, ChannelError> {
        let layout = Layout::new(geometry, &memory)?;
        let bell = Bell::new().map_err(ChannelError::Doorbell)?;
        let mut unsealed = self.inner.unsealed.lock().unwrap_or_else(PoisonError::into_inner);
        if self.inner.channels.get().is_some() {
            return Err(ChannelError::Started);
        }
        let channel = Arc::new(Channel::new(unsealed.len() as u32, layout, bell));
        unsealed.push(Arc::clone(&channel));
        Ok(Client::new(Arc::clone(&self.inner), channel))
    }

    /// Seals the list of channels and starts thread 0, as door_create does.
    ///
    /// # Errors
    /// What `server_create` said; the door stays sealed, and `start` may be tried again. `AlreadyExists` if the door has threads.
    pub fn start(&self) -> io::Result<()> {
        {
            let mut unsealed = self.inner.unsealed.lock().unwrap_or_else(PoisonError::into_inner);
            let channels = std::mem::take(&mut *unsealed);
            self.inner.channels.get_or_init(|| channels.into_boxed_slice());
        }
        if self.inner.started() != 0 {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the door has been started"));
        }
        self.inner.start_thread().unwrap_or(Ok(()))
    }

    /// Refuses new calls and lets the threads end when nothing is left to serve. Calls in progress, and calls that were submitted
    /// before, complete. Does not wait.
    pub fn revoke(&self) {
        self.inner.revoked.raise();
        self.inner.idle.wake_all(self.inner.started());
    }

    /// The door in numbers.
    pub fn info(&self) -> DoorInfo {
        let inner = &*self.inner;
        let sum = |of: fn(&ThreadState) -> &AtomicU64| -> u64 {
            let started = inner.started() as usize;
            inner.threads[..started].iter().map(|line| of(&line.0).load(Ordering::Relaxed)).sum()
        };
        DoorInfo {
            threads_max: inner.threads_max(),
            threads_started: inner.started(),
            threads_high_water: inner.high_water.load(Ordering::Relaxed),
            threads_idle: inner.idle.count_idle(),
            threads_parked: inner.parked.load(Ordering::Relaxed),
            starts_failed: inner.starts_failed.load(Ordering::Relaxed),
            calls_served: sum(|thread| &thread.served),
            calls_faulted: sum(|thread| &thread.faulted),
            service_average_ns: inner.pace.average_ns(),
            revoked: inner.revoked.is_raised(),
        }
    }
}

impl DoorBuilder {
    /// How many threads the door may have, 1 to [`THREADS_MAX`]. Default 1.
    #[must_use]
    pub fn threads_max(mut self, threads_max: u32) -> Self {
        self.threads_max = threads_max;
        self
    }

    /// How a thread is started. Called with its index, on a door server thread or on a client's thread, never twice at the same
    /// time. The thread that it starts must call [`Door::serve`] with this index: until it does, no other thread is started. A panic
    /// counts as a failed start. The function is dropped with the door, so a function that holds the door keeps it for ever.
    #[must_use]
    pub fn server_create(mut self, create: impl Fn(u32) -> io::Result<()> + Send + Sync + 'static) -> Self {
        self.server_create = Some(Box::new(create));
        self
    }

    /// The door, with all it will ever need but its channels.
    ///
    /// # Errors
    /// `threads_max` out of range, or no `server_create`.
    pub fn build(self) -> Result<Door, BuildError> {
        if !(1..=THREADS_MAX).contains(&self.threads_max) {
            return Err(BuildError::ThreadsMax { given: self.threads_max });
        }
        let inner = Inner {
            idle: IdleSet::new(self.threads_max),
            pace: Pace::new(),
            threads: (0..self.threads_max).map(|_| Line::default()).collect(),
            channels: OnceLock::new(),
            unsealed: Mutex::new(Vec::new()),
            server_create: self.server_create.ok_or(BuildError::ServerCreate)?,
            started: AtomicU32::new(0),
            starting: AtomicBool::new(false),
            starts_failed: AtomicU64::new(0),
            retry_after_ns: AtomicU64::new(0),
            high_water: AtomicU32::new(0),
            parked: AtomicU32::new(0),
            revoked: Revoked::new(),
        };
        Ok(Door { inner: Arc::new(inner) })
    }
}

impl Inner {
    /// The sealed channels; none before start.
    pub fn channels(&self) -> &[Arc<Channel>] {
        self.channels.get().map_or(&[], |channels| channels)
    }

    pub fn started(&self) -> u32 {
        self.started.load(Ordering::SeqCst)
    }

    pub fn threads_max(&self) -> u32 {
        self.threads.len() as u32
    }

    /// Whether a submitted call waits for a claimer, in any channel.
    pub fn backlog(&self) -> bool {
        self.channels().iter().any(|channel| channel.layout.submit().any())
    }

    /// A started thread is here.
    pub fn thread_arrived(&self, thread: u32) {
        assert!(thread < self.started(), "thread {thread} serves, but was never asked for");
        self.idle.arrive();
        self.starting.store(false, Ordering::SeqCst);
    }

    pub fn wake_one(&self) -> bool {
        self.idle.wake_one(self.started())
    }

    /// Rings for `calls` calls that have just been published.
    pub fn ring_for(&self, calls: u32) {
        let running = self.idle.running();
        let wanted = if self.pace.is_slow() {
            calls.saturating_sub(running)
        } else {
            // One thread takes them all, sooner than a second one would wake up; `nudge` backs this.
            u32::from(running == 0)
        };
        for _ in 0..wanted {
            if !self.wake_one() {
                self.grow();
                return;
            }
        }
    }

    /// Before thread `thread` runs a handler: somebody must be there for the next call. Returns whether that took time.
    pub fn leave_to_handler(&self, thread: u32) -> bool {
        if thread >= self.high_water.load(Ordering::Relaxed) {
            self.high_water.fetch_max(thread + 1, Ordering::Relaxed);
        }
        if self.pace.is_slow() {
            self.idle.go_away(thread);
            return self.idle.running() == 0 && self.find_company(self.backlog());
        }
        self.idle.enter(thread);
        let started = self.started();
        started < self.threads_max() && !self.idle.any_idle(started) && self.backlog() && self.grow()
    }

    /// Nobody looks for work, and a thread is about to be away for long: wakes a thread if one is needed now, starts
    /// one if no spare is left.
    fn find_company(&self, needed_now: bool) -> bool {
        if needed_now && self.wake_one() {
            return true;
        }
        let started = self.started();
        started < self.threads_max() && !self.idle.any_idle(started) && self.grow()
    }

    /// Before thread `thread` blocks inside its handler, where this crate can see it.
    pub fn leave_to_block(&self, thread: u32) {
        self.idle.go_away(thread);
        if self.idle.running() == 0 {
            self.find_company(self.backlog());
        }
    }

    /// Asks for one more thread, unless all exist, one is on its way, or the last attempt failed just now. Returns whether one
    /// is on its way.
    pub fn grow(&self) -> bool {
        if self.started() >= self.threads_max() || self.channels.get().is_none() {
            return false;
        }
        let retry_after_ns = self.retry_after_ns.load(Ordering::Relaxed);
        if retry_after_ns != 0 && now_ns() < retry_after_ns {
            return false;
        }
        match self.start_thread() {
            Some(started) => started.is_ok(),
            None => self.starting.load(Ordering::SeqCst),
        }
    }

    /// Starts the next thread; `None` if another start is in progress or all threads exist.
    fn start_thread(&self) -> Option<io::Result<()>> {
        if self.starting.load(Ordering::Relaxed) || self.starting.swap(true, Ordering::SeqCst) {
            return None;
        }
        let index = self.started();
        if index >= self.threads_max() {
            self.starting.store(false, Ordering::SeqCst);
            return None;
        }
        // Before the thread exists: whoever scans the idle set must look as far as its bit.
        self.started.store(index + 1, Ordering::SeqCst);
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.server_create)(index)))
            .unwrap_or_else(|_| Err(io::Error::other("server_create panicked")));
        if outcome.is_err() {
            self.starts_failed.fetch_add(1, Ordering::Relaxed);
            self.retry_after_ns.store(now_ns() + RETRY_NS, Ordering::Relaxed);
            self.started.store(index, Ordering::SeqCst);
            self.starting.store(false, Ordering::SeqCst);
        }
        Some(outcome)
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door")
            .field("threads_max", &self.threads_max())
            .field("threads_started", &self.started())
            .field("channels", &self.channels().len())
            .field("revoked", &self.revoked.is_raised())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for DoorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DoorBuilder").field("threads_max", &self.threads_max).finish_non_exhaustive()
    }
}
