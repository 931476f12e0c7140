//! A door: what it is made of, how it is built, started, revoked and asked.
//!
//! How it wakes and starts threads is in `growth`, what a thread does in `serve`.
//!
//! It knows nothing of what runs on its threads, nor of the memory they stand on.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::bell::Bell;
use crate::channel::Channel;
use crate::client::AsyncClient;
use crate::error::{BuildError, ChannelError};
use crate::geometry::{ChannelGeometry, ChannelMemory};
use crate::idle::IdleSet;
use crate::layout::Layout;
use crate::pace::Pace;
use crate::revoke::Revoked;
use crate::sync::{AtomicU32, Line, Ordering};

/// The most door server threads of one door: the idle set's scan stays within 256 words.
pub const THREADS_MAX: u32 = 16_384;

type ServerCreate = Box<dyn Fn(u32) -> io::Result<()> + Send + Sync>;

/// An entry into this process, called like a function. Clones are the same door.
#[derive(Clone, Debug)]
pub struct Door {
    pub(crate) inner: Arc<Inner>,
}

/// What a door looks like from outside. Every number is read by itself: together they are not a
/// snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DoorInfo {
    /// Threads that may exist.
    pub threads_max: u32,
    /// Threads that were started: the high water of concurrency, plus the spare.
    pub threads_started: u32,
    /// The most threads that calls ever needed: one more than the highest that ran a handler,
    /// because the lowest idle one is woken.
    pub threads_high_water: u32,
    /// Threads that wait for a call.
    pub threads_idle: u32,
    /// Threads that will never come back, because an emergency reply was sent for their call.
    pub threads_parked: u32,
    /// Attempts to start a thread that failed.
    pub starts_failed: u64,
    /// Calls that were completed, in any way.
    pub calls_served: u64,
    /// Calls that ended with [`Status::FAULT`](crate::Status::FAULT), because a handler panicked or
    /// did not complete its call.
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

/// What belongs to one thread alone, on its own cache lines, where an emergency reply can reach it
/// too.
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
    pub channels: OnceLock<Box<[Arc<Channel>]>>,
    /// The channels before that. No lock is taken after start.
    unsealed: Mutex<Vec<Arc<Channel>>>,
    pub server_create: ServerCreate,
    pub started: AtomicU32,
    /// A thread was asked for and has not arrived yet.
    pub starting: AtomicBool,
    pub starts_failed: AtomicU64,
    pub retry_after_ns: AtomicU64,
    /// One more than the highest thread that ever ran a handler.
    pub high_water: AtomicU32,
    pub parked: AtomicU32,
    pub revoked: Revoked,
}

impl Door {
    /// Begins a door.
    pub fn builder() -> DoorBuilder {
        DoorBuilder {
            threads_max: 1,
            server_create: None,
        }
    }

    /// Adds an in-process channel for one caller. All its memory is `memory` and what is allocated
    /// here.
    ///
    /// # Errors
    /// A geometry that is refused, memory that does not fit it, no doorbell, or a door that was
    /// started already.
    pub fn channel(
        &self,
        geometry: ChannelGeometry,
        memory: ChannelMemory,
    ) -> Result<AsyncClient, ChannelError> {
        let layout = Layout::new(geometry, &memory)?;
        let bell = Bell::new().map_err(ChannelError::Doorbell)?;
        let mut unsealed = self
            .inner
            .unsealed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if self.inner.channels.get().is_some() {
            return Err(ChannelError::Started);
        }
        let channel = Arc::new(Channel::new(unsealed.len() as u32, layout, bell));
        unsealed.push(Arc::clone(&channel));
        Ok(AsyncClient::new(Arc::clone(&self.inner), channel))
    }

    /// Seals the list of channels and starts thread 0, as door_create does.
    ///
    /// # Errors
    /// What `server_create` said; the door stays sealed, and `start` may be tried again.
    /// `AlreadyExists` if the door has threads.
    pub fn start(&self) -> io::Result<()> {
        {
            let mut unsealed = self
                .inner
                .unsealed
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let channels = std::mem::take(&mut *unsealed);
            self.inner
                .channels
                .get_or_init(|| channels.into_boxed_slice());
        }
        if self.inner.started() != 0 {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "the door has been started",
            ));
        }
        self.inner.start_thread().unwrap_or(Ok(()))
    }

    /// Refuses new calls and lets the threads end when nothing is left to serve. Calls in progress,
    /// and calls that were submitted before, complete. Does not wait.
    pub fn revoke(&self) {
        self.inner.revoked.raise();
        self.inner.idle.wake_all(self.inner.started());
    }

    /// The door in numbers.
    pub fn info(&self) -> DoorInfo {
        let inner = &*self.inner;
        let sum = |of: fn(&ThreadState) -> &AtomicU64| -> u64 {
            let started = inner.started() as usize;
            inner.threads[..started]
                .iter()
                .map(|line| of(&line.0).load(Ordering::Relaxed))
                .sum()
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

    /// How a thread is started. Called with its index, on a door server thread or on a client's
    /// thread, never twice at the same time. The thread that it starts must call [`Door::serve`]
    /// with this index: until it does, no other thread is started. A panic counts as a failed
    /// start. The function is dropped with the door, so a function that holds the door keeps it for
    /// ever.
    #[must_use]
    pub fn server_create(
        mut self,
        create: impl Fn(u32) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.server_create = Some(Box::new(create));
        self
    }

    /// The door, with all it will ever need but its channels.
    ///
    /// # Errors
    /// `threads_max` out of range, or no `server_create`.
    pub fn build(self) -> Result<Door, BuildError> {
        if !(1..=THREADS_MAX).contains(&self.threads_max) {
            return Err(BuildError::ThreadsMax {
                given: self.threads_max,
            });
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
        Ok(Door {
            inner: Arc::new(inner),
        })
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
        self.channels()
            .iter()
            .any(|channel| channel.layout.submit().any())
    }

    /// A started thread is here.
    pub fn thread_arrived(&self, thread: u32) {
        assert!(
            thread < self.started(),
            "thread {thread} serves, but was never asked for"
        );
        self.idle.arrive();
        self.starting.store(false, Ordering::SeqCst);
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
        f.debug_struct("DoorBuilder")
            .field("threads_max", &self.threads_max)
            .finish_non_exhaustive()
    }
}
