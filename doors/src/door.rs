//! A door: how it is built, started, named, served, revoked and asked.

use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use crate::back_end::bell::Bell;
use crate::back_end::builder::{Build, Builder, Checked, Handles, ServerCreate};
use crate::between::attach::{self, Attachment};
use crate::caller::async_client::AsyncClient;
use crate::memory::layout::Layout;
use crate::pool::call::DoorHandler;
use crate::pool::serve;
use crate::pool::shared::{Growth, Places, Pool};
use crate::rules::sync::Ordering;
use crate::values::channel_memory::ChannelMemory;
use crate::values::door::DoorInfo;
use crate::values::error::{AttachError, BuildError, ChannelError};
use crate::values::geometry::ChannelGeometry;
use crate::values::options::AttachOptions;

/// An entry into this process, called like a function. Clones are the same door.
#[derive(Clone, Debug)]
pub struct Door {
    pool: Arc<Pool>,
}

/// Collects what a door needs before it exists.
pub type DoorBuilder = Builder<Door>;

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
        let channel = self.pool.channels.add(layout, bell)?;
        Ok(AsyncClient::local(Arc::clone(&self.pool), channel))
    }

    /// Seals the list of channels and starts thread 0, as door_create does.
    ///
    /// # Errors
    /// What `server_create` said; the door stays sealed, and `start` may be tried again.
    /// `AlreadyExists` if the door has threads.
    pub fn start(&self) -> io::Result<()> {
        let remote = &self.pool.remote;
        let more = remote.geometry.map_or(0, |_| remote.channels_max as usize);
        self.pool.channels.seal(more);
        if self.pool.started() != 0 {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "the door has been started",
            ));
        }
        self.pool.start_thread().unwrap_or(Ok(()))
    }

    /// Refuses new calls and lets the threads end when nothing is left to serve. Calls in progress,
    /// and calls that were submitted before, complete. Does not wait.
    pub fn revoke(&self) {
        self.pool.revoked().raise();
        self.pool.idle().wake_all(self.pool.started());
        let porter = self.pool.porter.lock();
        if let Some(porter) = &*porter.unwrap_or_else(PoisonError::into_inner) {
            porter.ring();
        }
    }

    /// Makes room in the pool for a thread that was not asked for (illumos: `door_bind`): it calls
    /// [`serve`](Self::serve) with the number that it gets, and is then one of the door's own. It leaves
    /// (`door_unbind`) when `serve` returns, after a revoke.
    ///
    /// # Errors
    /// `OutOfMemory` if all threads that the door may have exist; `NotConnected` before
    /// [`start`](Self::start).
    pub fn bind(&self) -> io::Result<u32> {
        self.pool.bind()
    }

    /// Serves calls as thread `thread`, on a thread that `server_create` has started for that index, or that
    /// takes the place of one that has left. Returns after [`revoke`](Door::revoke), when nothing is left to
    /// serve, or when the handler wants the thread to [leave](DoorHandler::leaves).
    ///
    /// Handlers may jump within their own frames, never over this function's.
    ///
    /// # Panics
    /// If the index was never handed to `server_create`.
    pub fn serve<H: DoorHandler>(&self, thread: u32, handler: &H) {
        serve::serve(&self.pool, thread, handler);
    }

    /// Gives the door a name: callers in other processes open it at `path`. A door has one at a time; once it
    /// has been detached and all clients have left, it can have another.
    ///
    /// # Errors
    /// The path is taken by another owner, or cannot be made; the door has no geometry for such callers, or
    /// has not been started.
    pub fn attach(&self, path: &Path, options: &AttachOptions) -> Result<Attachment, AttachError> {
        attach::attach(Arc::clone(&self.pool), path, options)
    }

    /// Whether the caller of the call that thread `thread` serves waits no longer for it: it has given it up,
    /// or has left. For a thread that serves none, what was true of its last call. For an observer: it may be
    /// out of date at once.
    pub fn is_abandoned(&self, thread: u32) -> bool {
        let Some(state) = self.pool.threads.get(thread as usize) else {
            return false;
        };
        let address = state.0.channel.load(Ordering::Relaxed);
        let slot = state.0.slot.load(Ordering::Relaxed);
        self.pool.channels.is_abandoned(address, slot)
    }

    /// The door in numbers.
    pub fn info(&self) -> DoorInfo {
        self.pool.info()
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
        let places = Places::new(threads_max, &remote, snapshots)?;
        let pool = Arc::new_cyclic(|this| {
            let this = this.clone();
            // A new thread keeps the door while it serves.
            let growth = Growth::new(threads_min, move |thread| match this.upgrade() {
                Some(pool) => server_create(&Self { pool }, thread),
                None => Err(io::Error::other("the door is gone")),
            });
            Pool::new(threads_max, places, remote, growth)
        });
        Ok(Self { pool })
    }
}
