//! What a door is made of: shared by its threads, its callers in this process and its porter.
//!
//! How threads are woken and started is in `growth`, what a thread does in `serve`, when clients are told of
//! replies in `telling`. It knows nothing of what runs on the threads, nor of the memory they stand on.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64};

use crate::back_end::bell::Bell;
use crate::back_end::remote_options::RemoteOptions;
use crate::memory::board::Board;
use crate::memory::channel::Channel;
use crate::memory::channels::Channels;
use crate::memory::snapshots::Snapshots;
use crate::memory::table::{Look, Presence};
use crate::pool::pace::Pace;
use crate::pool::thread_state::ThreadState;
use crate::rules::idle::{IdleSet, OwnWords};
use crate::rules::revoke::Revoked;
use crate::rules::sync::{AtomicU32, Line, Ordering};
use crate::values::channel_memory::ChannelMemory;
use crate::values::door::{Attributes, CallCounts, DoorEvent, DoorInfo, ThreadCounts};
use crate::values::error::BuildError;

/// See the module.
pub struct Pool {
    pub id: u128,
    pub remote: RemoteOptions,
    pub board: Board,
    /// Descriptors of the board and the beds, for clients; none if there can be no clients.
    pub board_fds: Option<[OwnedFd; 2]>,
    own_words: Box<[Line<OwnWords>]>,
    pub threads: Box<[Line<ThreadState>]>,
    pub snapshots: Option<Snapshots>,
    pub channels: Channels,
    pub growth: Growth,
    /// One more than the thread that may keep completions back; 0: any.
    pub keeper: AtomicU32,
    /// A thread without work has not gone to sleep yet.
    pub spinning: AtomicBool,
    pub parked: AtomicU32,
    /// Threads that have come out of `serve`, and in whose place none has come.
    pub ended: AtomicU32,
    pub clients: AtomicU32,
    /// Rings the porter, once there is one.
    pub porter: Mutex<Option<Bell>>,
}

/// How a pool gets more threads.
pub struct Growth {
    /// Starts a thread, by its number.
    pub server_create: Box<dyn Fn(u32) -> io::Result<()> + Send + Sync>,
    /// Threads that are started with the door.
    pub threads_min: u32,
    /// A thread was asked for and has not arrived yet.
    pub starting: AtomicBool,
    pub starts_failed: AtomicU64,
    pub retry_after_ns: AtomicU64,
    /// One more than the highest thread that ever ran a handler.
    pub high_water: AtomicU32,
}

impl Growth {
    /// Of a pool without threads.
    pub fn new(
        threads_min: u32,
        server_create: impl Fn(u32) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self {
            server_create: Box::new(server_create),
            threads_min,
            starting: AtomicBool::new(false),
            starts_failed: AtomicU64::new(0),
            retry_after_ns: AtomicU64::new(0),
            high_water: AtomicU32::new(0),
        }
    }
}

/// What a pool has that can be refused.
pub struct Places {
    board: Board,
    board_fds: Option<[OwnedFd; 2]>,
    snapshots: Option<Snapshots>,
}

impl Places {
    /// For so many threads; shared with other processes if the door has a geometry for these.
    pub fn new(
        threads_max: u32,
        remote: &RemoteOptions,
        snapshots: Option<ChannelMemory>,
    ) -> Result<Self, BuildError> {
        let Some(geometry) = remote.geometry else {
            return Ok(Self {
                board: Board::private(threads_max),
                board_fds: None,
                snapshots: None,
            });
        };
        let (board, fds) = Board::between(threads_max)?;
        let snapshots = Snapshots::new(snapshots, threads_max, geometry.request_size)?;
        Ok(Self {
            board,
            board_fds: Some(fds),
            snapshots: Some(snapshots),
        })
    }
}

impl Pool {
    /// Without threads and channels.
    pub fn new(threads_max: u32, places: Places, remote: RemoteOptions, growth: Growth) -> Self {
        Self {
            id: random_id(),
            remote,
            board: places.board,
            board_fds: places.board_fds,
            own_words: (0..threads_max).map(|_| Line::default()).collect(),
            threads: (0..threads_max).map(|_| Line::default()).collect(),
            snapshots: places.snapshots,
            channels: Channels::default(),
            growth,
            keeper: AtomicU32::new(0),
            spinning: AtomicBool::new(false),
            parked: AtomicU32::new(0),
            ended: AtomicU32::new(0),
            clients: AtomicU32::new(0),
            porter: Mutex::new(None),
        }
    }

    /// A look at the channels, by thread `thread`.
    pub fn look(&self, thread: u32) -> Look<'_> {
        let presence = &self.threads[thread as usize].0.presence;
        self.channels.table().look(presence)
    }

    /// Whether a submitted call waits for a claimer, in any channel, as thread `thread` sees it.
    pub fn backlog(&self, thread: u32) -> bool {
        self.look(thread).channels().any(Channel::has_backlog)
    }

    /// Every thread that may be looking at the table.
    pub fn presences(&self) -> impl Iterator<Item = &Presence> {
        let started = self.started() as usize;
        let threads = self.threads[..started].iter();
        threads
            .map(|line| &line.0.presence)
            .chain([self.channels.outsider_presence()])
    }

    /// Whether a thread is with a call that came by this channel, or has just been, once the channel is out
    /// of the table.
    pub fn is_held(&self, channel: u64) -> bool {
        let holds = |line: &Line<ThreadState>| line.0.holding.load(Ordering::Acquire) == channel;
        self.threads.iter().any(holds)
    }

    pub fn idle(&self) -> IdleSet<'_> {
        IdleSet::new(self.board.idle(), &self.own_words)
    }

    pub fn pace(&self) -> Pace<'_> {
        self.board.pace()
    }

    pub fn revoked(&self) -> Revoked<'_> {
        self.board.revoked()
    }

    pub fn started(&self) -> u32 {
        self.board.started().load(Ordering::SeqCst)
    }

    pub fn threads_max(&self) -> u32 {
        self.threads.len() as u32
    }

    pub fn attributes(&self) -> Attributes {
        Attributes {
            refuses_descriptors: self.remote.limits.descriptors_max == 0,
            unreferenced: self.remote.unreferenced,
            revoked: self.revoked().is_raised(),
        }
    }

    /// Calls the function for events, if there is one.
    pub fn tell(&self, event: &DoorEvent) {
        if let Some(on_event) = &self.remote.on_event {
            on_event(event);
        }
    }

    /// The door in numbers.
    pub fn info(&self) -> DoorInfo {
        let sum = |of: fn(&ThreadState) -> &AtomicU64| -> u64 {
            let started = self.started() as usize;
            self.threads[..started]
                .iter()
                .map(|line| of(&line.0).load(Ordering::Relaxed))
                .sum()
        };
        // Calls that wait are counted first: one that is taken up meanwhile is then counted at least once.
        let waiting = self.channels.count_waiting();
        let served = sum(|thread| &thread.served);
        let under_way = waiting + sum(|thread| &thread.claimed).saturating_sub(served);
        DoorInfo {
            pid: std::process::id(),
            id: self.id,
            attributes: self.attributes(),
            clients: self.clients.load(Ordering::Relaxed),
            channels_kept: self.channels.kept.load(Ordering::Relaxed),
            threads: ThreadCounts {
                max: self.threads_max(),
                started: self.started(),
                high_water: self.growth.high_water.load(Ordering::Relaxed),
                idle: self.board.idle().count_idle(),
                parked: self.parked.load(Ordering::Relaxed),
                ended: self.ended.load(Ordering::SeqCst),
                starts_failed: self.growth.starts_failed.load(Ordering::Relaxed),
            },
            calls: CallCounts {
                under_way,
                served,
                faulted: sum(|thread| &thread.faulted),
                average_ns: self.pace().average_ns(),
            },
            revoked: self.revoked().is_raised(),
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door")
            .field("threads_max", &self.threads_max())
            .field("threads_started", &self.started())
            .field("clients", &self.clients)
            .field("revoked", &self.revoked().is_raised())
            .finish_non_exhaustive()
    }
}

/// 128 random bits.
fn random_id() -> u128 {
    let mut bytes = [0; 16];
    // SAFETY: the bytes are valid for their length. 16 bytes are never cut short (getrandom(2)); without the
    // call, which only very old kernels lack, the id would be 0 and nothing would break but its uniqueness.
    unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    u128::from_le_bytes(bytes)
}
