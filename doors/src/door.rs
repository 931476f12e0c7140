//! A door: what it is made of, how it is built, started, revoked and asked.
//!
//! How it wakes and starts threads is in `growth`, what a thread does in `serve`.
//!
//! It knows nothing of what runs on its threads, nor of the memory they stand on.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use crate::back_end::bell::Bell;
use crate::back_end::builder::{Build, Builder, Checked, Handles, ServerCreate};
use crate::back_end::remote_options::RemoteOptions;
use crate::between::attach::Attachment;
use crate::caller::async_client::AsyncClient;
use crate::memory::board::Board;
use crate::memory::channel::Channel;
use crate::memory::layout::Layout;
use crate::memory::snapshots::Snapshots;
use crate::memory::table::{Look, Presence, Table};
use crate::pool::call::DoorHandler;
use crate::pool::pace::Pace;
use crate::rules::idle::{IdleSet, OwnWords};
use crate::rules::revoke::Revoked;
use crate::rules::sync::{AtomicU32, Line, Ordering};
use crate::values::channel_memory::ChannelMemory;
use crate::values::door::{Attributes, CallCounts, DoorEvent, DoorInfo, ThreadCounts};
use crate::values::error::{AttachError, BuildError, ChannelError};
use crate::values::geometry::ChannelGeometry;
use crate::values::options::AttachOptions;

/// An entry into this process, called like a function. Clones are the same door.
#[derive(Clone, Debug)]
pub struct Door {
    pub(crate) inner: Arc<Inner>,
}

/// Collects what a door needs before it exists.
pub type DoorBuilder = Builder<Door>;

/// What belongs to one thread alone, on its own cache lines, where an emergency reply can reach it
/// too.
#[derive(Debug, Default)]
pub(crate) struct ThreadState {
    /// Completions of the channel of the last call that are not published yet: bits of a word, and which.
    pub kept: AtomicU64,
    pub kept_word: AtomicU32,
    /// Completions that were published and that a lazy client has not been told of.
    pub unreported: AtomicU32,
    pub presence: Presence,
    /// The channel to another process by which its call came, or its last one; 0: none.
    pub holding: AtomicU64,
    /// Where the channel of its call, or of its last one, lies, for whoever compares it with those of the
    /// table; 0: none.
    pub channel: AtomicUsize,
    /// The slot of that call.
    pub slot: AtomicU32,
    /// Calls taken up; for a moment one more, while the thread looks for one.
    pub claimed: AtomicU64,
    pub served: AtomicU64,
    pub faulted: AtomicU64,
}

pub(crate) struct Inner {
    /// For a new thread, which keeps the door while it serves.
    pub this: Weak<Inner>,
    pub board: Board,
    /// The board's and the beds', to be given to clients; none if there can be none.
    pub board_fds: Option<[OwnedFd; 2]>,
    own_words: Box<[Line<OwnWords>]>,
    pub threads: Box<[Line<ThreadState>]>,
    /// The channels, once the door has started.
    pub table: OnceLock<Table>,
    /// Those of this process: all before the start, and kept afterwards.
    local: Mutex<Vec<Arc<Channel>>>,
    pub server_create: ServerCreate<Door>,
    /// Threads that are started with the door.
    pub threads_min: u32,
    /// A thread was asked for and has not arrived yet.
    pub starting: AtomicBool,
    pub starts_failed: AtomicU64,
    pub retry_after_ns: AtomicU64,
    /// One more than the highest thread that ever ran a handler.
    pub high_water: AtomicU32,
    pub parked: AtomicU32,
    /// One more than the thread that may keep completions back; 0: any.
    pub keeper: AtomicU32,
    /// A thread without work has not gone to sleep yet.
    pub spinning: AtomicBool,
    /// Threads that have come out of `serve`, and in whose place none has come.
    pub ended: AtomicU32,
    /// Of whoever looks at the channels and is none of the door's threads, one at a time.
    outsider: Mutex<()>,
    outsider_presence: Presence,
    pub clients: AtomicU32,
    /// Channels that stay for lost calls, without a client.
    pub channels_kept: AtomicU32,
    pub id: u128,
    pub remote: RemoteOptions,
    pub snapshots: Option<Snapshots>,
    /// Rings the porter, once there is one.
    pub porter: Mutex<Option<Bell>>,
}

impl Door {
    /// Begins a door.
    pub fn builder() -> DoorBuilder {
        DoorBuilder::default()
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
        let mut local = self
            .inner
            .local
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if self.inner.table.get().is_some() {
            return Err(ChannelError::Started);
        }
        let channel = Arc::new(Channel::new(local.len() as u32, 0, layout, bell, None));
        local.push(Arc::clone(&channel));
        Ok(AsyncClient::local(Arc::clone(&self.inner), channel))
    }

    /// Seals the list of channels and starts thread 0, as door_create does.
    ///
    /// # Errors
    /// What `server_create` said; the door stays sealed, and `start` may be tried again.
    /// `AlreadyExists` if the door has threads.
    pub fn start(&self) -> io::Result<()> {
        self.inner.seal();
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
        self.inner.revoked().raise();
        self.inner.idle().wake_all(self.inner.started());
        let porter = self.inner.porter.lock();
        if let Some(porter) = &*porter.unwrap_or_else(PoisonError::into_inner) {
            porter.ring();
        }
    }

    /// Makes room in the pool for a thread that nobody asked for (illumos: `door_bind`): it calls
    /// [`serve`](Self::serve) with the number that it gets, and is then one of the door's own. It leaves
    /// (`door_unbind`) when `serve` returns, after a revoke.
    ///
    /// # Errors
    /// `OutOfMemory` if all threads that the door may have exist; `NotConnected` before
    /// [`start`](Self::start).
    pub fn bind(&self) -> io::Result<u32> {
        let inner = &*self.inner;
        if inner.table.get().is_none() {
            return Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "the door has not been started",
            ));
        }
        // One thread comes at a time; another one that is on its way arrives soon.
        while inner.starting.swap(true, Ordering::SeqCst) {
            std::thread::yield_now();
        }
        let thread = inner.started();
        if thread >= inner.threads_max() {
            inner.starting.store(false, Ordering::SeqCst);
            return Err(io::Error::new(
                io::ErrorKind::OutOfMemory,
                "the door has all the threads that it may have (threads_max)",
            ));
        }
        inner.board.started().store(thread + 1, Ordering::SeqCst);
        Ok(thread)
    }

    /// Gives the door a name: callers in other processes open it at `path`. A door has one at a time; once it
    /// has been detached and all who had it open have left, it can have another.
    ///
    /// # Errors
    /// The path is taken by another owner, or cannot be made; the door has no geometry for such callers, or
    /// has not been started.
    pub fn attach(&self, path: &Path, options: &AttachOptions) -> Result<Attachment, AttachError> {
        crate::between::attach::attach(Arc::clone(&self.inner), path, options)
    }

    /// Whether the caller of the call that thread `thread` serves waits no longer for it: it has given it up,
    /// or it has left. Of a thread that serves none, what was true of its last call. For an observer; it may
    /// be out of date at once.
    pub fn is_abandoned(&self, thread: u32) -> bool {
        let inner = &*self.inner;
        let Some(state) = inner.threads.get(thread as usize) else {
            return false;
        };
        let address = state.0.channel.load(Ordering::Relaxed);
        let slot = state.0.slot.load(Ordering::Relaxed);
        let _one_at_a_time = inner
            .outsider
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let look = inner.table().look(&inner.outsider_presence);
        let channel = look
            .channels()
            .find(|&channel| std::ptr::from_ref(channel).addr() == address);
        match channel {
            Some(channel) => channel.is_closed() || channel.layout.turn(slot).is_abandoned(),
            None => address != 0, // it was taken out of the table, because its client has left
        }
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
        // What waits first: a call that is taken up meanwhile is then counted there.
        let waiting = inner.count_waiting();
        let served = sum(|thread| &thread.served);
        DoorInfo {
            pid: std::process::id(),
            id: inner.id,
            attributes: inner.attributes(),
            clients: inner.clients.load(Ordering::Relaxed),
            channels_kept: inner.channels_kept.load(Ordering::Relaxed),
            calls: CallCounts {
                under_way: waiting + sum(|thread| &thread.claimed).saturating_sub(served),
                served,
                faulted: sum(|thread| &thread.faulted),
                average_ns: inner.pace().average_ns(),
            },
            threads: ThreadCounts {
                max: inner.threads_max(),
                started: inner.started(),
                high_water: inner.high_water.load(Ordering::Relaxed),
                idle: inner.board.idle().count_idle(),
                parked: inner.parked.load(Ordering::Relaxed),
                ended: inner.ended.load(Ordering::SeqCst),
                starts_failed: inner.starts_failed.load(Ordering::Relaxed),
            },
            revoked: inner.revoked().is_raised(),
        }
    }
}

impl<H: DoorHandler + Send + Sync + 'static> Handles<H> for Door {
    fn server_create(handler: H) -> ServerCreate<Self> {
        let handler = Arc::new(handler);
        Box::new(move |door, thread| {
            let (door, handler) = (door.clone(), Arc::clone(&handler));
            std::thread::Builder::new()
                .name(format!("door-{thread}"))
                .spawn(move || door.serve(thread, &*handler))
                .map(drop)
        })
    }
}

impl Build for Door {
    fn build(from: Checked<Self>) -> Result<Self, BuildError> {
        let Checked {
            threads_min,
            threads_max,
            server_create,
            remote,
            snapshots,
        } = from;
        let (board, board_fds) = match remote.geometry {
            Some(_) => {
                let (board, fds) = Board::between(threads_max)?;
                (board, Some(fds))
            }
            None => (Board::private(threads_max), None),
        };
        let snapshots = match remote.geometry {
            Some(geometry) => Some(Snapshots::new(
                snapshots,
                threads_max,
                geometry.request_size,
            )?),
            None => None,
        };
        let inner = Arc::new_cyclic(|this| Inner {
            this: this.clone(),
            board,
            board_fds,
            own_words: (0..threads_max).map(|_| Line::default()).collect(),
            threads: (0..threads_max).map(|_| Line::default()).collect(),
            table: OnceLock::new(),
            local: Mutex::new(Vec::new()),
            server_create,
            threads_min,
            starting: AtomicBool::new(false),
            starts_failed: AtomicU64::new(0),
            retry_after_ns: AtomicU64::new(0),
            high_water: AtomicU32::new(0),
            parked: AtomicU32::new(0),
            keeper: AtomicU32::new(0),
            spinning: AtomicBool::new(false),
            ended: AtomicU32::new(0),
            outsider: Mutex::new(()),
            outsider_presence: Presence::default(),
            clients: AtomicU32::new(0),
            channels_kept: AtomicU32::new(0),
            id: random_id(),
            remote,
            snapshots,
            porter: Mutex::new(None),
        });
        Ok(Door { inner })
    }
}

/// 128 random bits.
fn random_id() -> u128 {
    let mut bytes = [0; 16];
    // SAFETY: the bytes are valid for their length. 16 bytes are never cut short (getrandom(2)); without the
    // call, on kernels that nobody runs, the id would be 0 and nothing would break but its uniqueness.
    unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    u128::from_le_bytes(bytes)
}

impl Inner {
    /// A look at the channels, by thread `thread`.
    pub fn look(&self, thread: u32) -> Look<'_> {
        self.table().look(&self.threads[thread as usize].0.presence)
    }

    /// Submitted calls that no thread has taken up.
    fn count_waiting(&self) -> u64 {
        let _one_at_a_time = self.outsider.lock().unwrap_or_else(PoisonError::into_inner);
        let look = self.table().look(&self.outsider_presence);
        let waiting = look.channels().filter(|channel| channel.has_backlog());
        waiting
            .map(|channel| u64::from(channel.layout.submit().count()))
            .sum()
    }

    /// Everybody who may be looking at the table.
    pub fn presences(&self) -> impl Iterator<Item = &Presence> {
        let started = self.started() as usize;
        let threads = self.threads[..started].iter();
        threads
            .map(|line| &line.0.presence)
            .chain([&self.outsider_presence])
    }

    /// Whether a thread is with a call that came by this channel, or has just been, once the channel is out
    /// of the table.
    pub fn is_held(&self, channel: u64) -> bool {
        let holds = |line: &Line<ThreadState>| line.0.holding.load(Ordering::Acquire) == channel;
        self.threads.iter().any(holds)
    }

    /// The table; `seal` comes first.
    pub fn table(&self) -> &Table {
        self.table.get_or_init(|| Table::new(&[], 0))
    }

    /// Ends the time in which channels of this process can be added.
    fn seal(&self) {
        let local = self.local.lock().unwrap_or_else(PoisonError::into_inner);
        let more = self
            .remote
            .geometry
            .map_or(0, |_| self.remote.channels_max as usize);
        self.table.get_or_init(|| Table::new(&local, more));
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

    /// Tells whoever wants to know.
    pub fn tell(&self, event: &DoorEvent) {
        if let Some(on_event) = &self.remote.on_event {
            on_event(event);
        }
    }

    /// Whether a submitted call waits for a claimer, in any channel, as thread `thread` sees it.
    pub fn backlog(&self, thread: u32) -> bool {
        self.look(thread).channels().any(Channel::has_backlog)
    }

    /// A started thread is here.
    pub fn thread_arrived(&self, thread: u32) {
        assert!(
            thread < self.started(),
            "thread {thread} serves, but was never asked for"
        );
        if self.idle().is_away(thread) {
            // In the place of one that has left.
            self.ended.fetch_sub(1, Ordering::SeqCst);
            self.idle().search(thread);
            return;
        }
        self.idle().arrive();
        self.starting.store(false, Ordering::SeqCst);
        if self.started() < self.threads_min {
            self.grow();
        }
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door")
            .field("threads_max", &self.threads_max())
            .field("threads_started", &self.started())
            .field("clients", &self.clients)
            .field("revoked", &self.revoked().is_raised())
            .finish_non_exhaustive()
    }
}
