//! What a back end asks for before it makes a door, gathered and checked in one place. Each back end then
//! makes the door in its own way: see [`Build`] and [`Handles`].

use std::fmt;
use std::io;

use crate::back_end::remote_options::RemoteOptions;
use crate::values::channel_memory::ChannelMemory;
use crate::values::door::{DoorEvent, THREADS_MAX, Unreferenced};
use crate::values::error::BuildError;
use crate::values::geometry::ChannelGeometry;
use crate::values::peer::Credentials;

/// How a thread of a door is started: on behalf of that door, with its index.
pub type ServerCreate<D> = Box<dyn Fn(&D, u32) -> io::Result<()> + Send + Sync>;

/// A door that a builder can make. Each back end has one.
pub trait Build: Sized {
    /// Makes it of what its builder was told.
    ///
    /// # Errors
    /// The system has no room for it.
    fn build(from: Checked<Self>) -> Result<Self, BuildError>;
}

/// A door whose threads can run handlers of a type directly.
pub trait Handles<H>: Sized {
    /// Starts an ordinary thread that runs the handler.
    fn server_create(handler: H) -> ServerCreate<Self>;
}

/// Collects what a door needs before it exists. `D` is the door of a back end.
pub struct Builder<D> {
    threads_min: u32,
    threads_max: u32,
    fixed: bool,
    server_create: Option<ServerCreate<D>>,
    remote: RemoteOptions,
    snapshots: Option<ChannelMemory>,
}

/// What a builder has gathered, once it makes sense.
pub struct Checked<D> {
    /// Threads that are started with the door.
    pub threads_min: u32,
    /// Threads that may exist.
    pub threads_max: u32,
    /// How one is started.
    pub server_create: ServerCreate<D>,
    /// What the door is to callers in other processes.
    pub remote: RemoteOptions,
    /// Where requests of other processes are copied to.
    pub snapshots: Option<ChannelMemory>,
}

impl<D> Default for Builder<D> {
    fn default() -> Self {
        Self {
            threads_min: 1,
            threads_max: 1,
            fixed: false,
            server_create: None,
            remote: RemoteOptions::default(),
            snapshots: None,
        }
    }
}

impl<D> Builder<D> {
    /// How many threads the door may have, 1 to [`THREADS_MAX`]. Default 1.
    #[must_use]
    pub fn threads_max(mut self, threads_max: u32) -> Self {
        self.threads_max = threads_max;
        self
    }

    /// How many threads are started with the door (the low water of its pool), one after the other. Default
    /// 1; the others come at a new high water of concurrency, and none ever leaves.
    #[must_use]
    pub fn threads_min(mut self, threads_min: u32) -> Self {
        self.threads_min = threads_min;
        self
    }

    /// All threads are started with the door, and none later. (As with illumos' `DOOR_NO_DEPLETION_CB`, which
    /// is for pools that its C library starts; these are ours, there too.)
    #[must_use]
    pub fn no_depletion_callback(mut self) -> Self {
        self.fixed = true;
        self
    }

    /// How a thread is started. Called with its index, on a door server thread or on a client's thread, never
    /// twice at the same time. The thread that it starts must call [`Door::serve`](crate::Door::serve) with
    /// this index: until it does, no other thread is started. A panic counts as a failed start. The function
    /// is dropped with the door, so a function that holds the door keeps it for ever.
    #[must_use]
    pub fn server_create(
        mut self,
        create: impl Fn(u32) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.server_create = Some(Box::new(move |_, thread| create(thread)));
        self
    }

    /// Instead of [`server_create`](Self::server_create): every thread is an ordinary one and runs `handler`,
    /// which is a [`DoorHandler`](crate::DoorHandler). (On illumos it is never dropped, because its threads
    /// never end.)
    #[must_use]
    pub fn handler<H>(mut self, handler: H) -> Self
    where
        D: Handles<H>,
    {
        self.server_create = Some(D::server_create(handler));
        self
    }

    /// Channels for callers in other processes have this geometry; without one the door cannot be attached.
    #[must_use]
    pub fn channel_geometry(mut self, geometry: ChannelGeometry) -> Self {
        self.remote.geometry = Some(geometry);
        self
    }

    /// Callers in other processes that may have the door open at once. Default 64. Each costs a channel's
    /// replies and control words here, and its requests there. (On illumos a native door has no channels in
    /// the server: it is checked and limits nothing.)
    #[must_use]
    pub fn channels_max(mut self, channels_max: u32) -> Self {
        self.remote.channels_max = channels_max;
        self
    }

    /// How many of them may belong to one user. Default: all. (On illumos it limits nothing.)
    #[must_use]
    pub fn channels_per_user(mut self, channels_per_user: u32) -> Self {
        self.remote.channels_per_user = Some(channels_per_user);
        self
    }

    /// The fewest bytes of a request (illumos: `DOOR_PARAM_DATA_MIN`). Default 0.
    #[must_use]
    pub fn data_min(mut self, bytes: usize) -> Self {
        self.remote.limits.data_min = bytes;
        self
    }

    /// The most bytes of a request (illumos: `DOOR_PARAM_DATA_MAX`). Default: what a slot holds.
    #[must_use]
    pub fn data_max(mut self, bytes: usize) -> Self {
        self.remote.limits.data_max = bytes;
        self
    }

    /// The most descriptors of a call (illumos: `DOOR_PARAM_DESC_MAX`), at most 16. Default 0: it refuses
    /// them.
    #[must_use]
    pub fn descriptors_max(mut self, descriptors: u32) -> Self {
        self.remote.limits.descriptors_max = descriptors;
        self
    }

    /// Takes no descriptors (illumos: `DOOR_REFUSE_DESC`). This is the default.
    #[must_use]
    pub fn refuse_descriptors(self) -> Self {
        self.descriptors_max(0)
    }

    /// Makes the door call `f` when the last client has left and none of its calls runs (illumos:
    /// `DOOR_UNREF`, `DOOR_UNREF_MULTI`), on a thread of the door's own that serves no calls. (On illumos: on
    /// a door server thread, when only this process refers to the door.)
    #[must_use]
    pub fn unreferenced(
        mut self,
        when: Unreferenced,
        f: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        self.remote.unreferenced = Some(when);
        self.remote.on_unreferenced = Some(Box::new(f));
        self
    }

    /// Which clients may open the door, beyond what the path's permissions say. (On illumos: which may call;
    /// a native door has no connection, so `f` is asked at each call.)
    #[must_use]
    pub fn accept(mut self, f: impl Fn(&Credentials) -> bool + Send + Sync + 'static) -> Self {
        self.remote.accept = Some(Box::new(f));
        self
    }

    /// Tells `f` about clients that come, leave, are refused or removed. (On illumos only about clients that
    /// come or are refused, on a door server thread: nothing tells a native door that one has left.)
    #[must_use]
    pub fn on_event(mut self, f: impl Fn(&DoorEvent) + Send + Sync + 'static) -> Self {
        self.remote.on_event = Some(Box::new(f));
        self
    }

    /// Where door server threads keep their private copies of requests from other processes: `threads_max`
    /// times the geometry's `request_size`. Without it that much is allocated. (Not used on illumos, whose
    /// kernel lays each request on its thread's stack.)
    #[must_use]
    pub fn snapshots(mut self, memory: ChannelMemory) -> Self {
        self.snapshots = Some(memory);
        self
    }

    /// The door, with all it will ever need but its channels.
    ///
    /// # Errors
    /// `threads_max` out of range, no `server_create`, or limits that contradict each other.
    pub fn build(self) -> Result<D, BuildError>
    where
        D: Build,
    {
        D::build(self.check()?)
    }

    /// Everything, if a door can be made of it.
    fn check(self) -> Result<Checked<D>, BuildError> {
        let threads_max = self.threads_max;
        if !(1..=THREADS_MAX).contains(&threads_max) {
            return Err(BuildError::ThreadsMax { given: threads_max });
        }
        let threads_min = if self.fixed {
            threads_max
        } else {
            self.threads_min
        };
        if threads_min > threads_max {
            return Err(BuildError::ThreadsMin {
                min: threads_min,
                max: threads_max,
            });
        }
        let server_create = self.server_create.ok_or(BuildError::ServerCreate)?;
        self.remote.check()?;
        Ok(Checked {
            threads_min,
            threads_max,
            server_create,
            remote: self.remote,
            snapshots: self.snapshots,
        })
    }
}

impl<D> fmt::Debug for Builder<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DoorBuilder")
            .field("threads_max", &self.threads_max)
            .field("geometry", &self.remote.geometry)
            .finish_non_exhaustive()
    }
}
