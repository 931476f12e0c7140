//! A door: how it is built, started, served, revoked and asked.

use crate::async_client::AsyncClient;
use crate::attach::Attachment;
use crate::call::{DoorHandler, ReplyBuffer};
use crate::ffi;
use crate::found::info as info_of;
use crate::pool::{Pool, set_limit};
use crate::serving::{EARLIER, SERVING, Serving, depleted, join_pool, procedure};
use crate::wire::{self, TRAILER_LEN};
use std::ffi::c_uint;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use transom_doors::back_end::builder::{Build, Builder, Checked, Handles, ServerCreate};
use transom_doors::back_end::remote_options::RemoteOptions;
use transom_doors::{
    AttachError, AttachOptions, Attributes, BuildError, CallCounts, ChannelError, ChannelGeometry,
    ChannelMemory, DESCRIPTORS_MAX, DoorInfo, ThreadCounts, Unreferenced,
};

/// The stack of a thread that the builder's `handler` runs on, beside the request that the kernel lays on it.
const HANDLER_STACK: usize = 2 << 20;

/// An entry into this process, called like a function. Clones are the same door.
#[derive(Clone, Debug)]
pub struct Door {
    pool: Arc<Pool>,
}

/// What makes a door of this back end.
pub type DoorBuilder = Builder<Door>;

impl Door {
    /// Begins a door.
    pub fn builder() -> DoorBuilder {
        DoorBuilder::default()
    }

    /// Adds a caller for this process, whose slots lie in `memory`.
    ///
    /// # Errors
    /// A geometry that is refused, memory that does not fit it, no doorbell or threads, or a door that was
    /// started already.
    pub fn channel(
        &self,
        geometry: ChannelGeometry,
        memory: ChannelMemory,
    ) -> Result<AsyncClient, ChannelError> {
        memory.check(geometry)?;
        if self.pool.opened.load(Ordering::SeqCst) {
            return Err(ChannelError::Started);
        }
        self.pool
            .reply_size
            .fetch_max(geometry.reply_size, Ordering::SeqCst);
        let door = self.pool.duplicate().map_err(ChannelError::Doorbell)?;
        let data_max = &self.pool.data_max;
        let told =
            self.pool.remote.geometry.is_some() && self.pool.remote.limits.data_max != usize::MAX;
        if !told && geometry.request_size > data_max.load(Ordering::SeqCst) {
            set_limit(
                door.as_raw_fd(),
                ffi::DOOR_PARAM_DATA_MAX,
                wire::request_limit(geometry.request_size),
            )
            .map_err(ChannelError::Doorbell)?;
            data_max.store(geometry.request_size, Ordering::SeqCst);
        }
        AsyncClient::in_process(door, geometry, &memory, self.pool.limits())
            .map_err(|missing| ChannelError::Doorbell(missing.source))
    }

    /// Starts thread 0.
    ///
    /// # Errors
    /// What `server_create` said; `start` may be tried again. `AlreadyExists` if the door has threads.
    pub fn start(&self) -> io::Result<()> {
        self.pool.opened.store(true, Ordering::SeqCst);
        if self.pool.started.load(Ordering::SeqCst) != 0 {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "the door has been started",
            ));
        }
        self.pool.start_thread().unwrap_or(Ok(()))
    }

    /// Makes room in the pool for a thread that was not asked for (`door_bind`): it calls
    /// [`serve`](Self::serve) with the number that it gets, and is then one of the door's own.
    ///
    /// # Errors
    /// `OutOfMemory` if all threads that the door may have exist; `NotConnected` before
    /// [`start`](Self::start).
    pub fn bind(&self) -> io::Result<u32> {
        let pool = &*self.pool;
        if !pool.opened.load(Ordering::SeqCst) {
            return Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "the door has not been started",
            ));
        }
        // One thread comes at a time; another one that is on its way arrives soon.
        while pool.starting.swap(true, Ordering::SeqCst) {
            std::thread::yield_now();
        }
        let thread = pool.started.load(Ordering::SeqCst);
        if thread >= pool.threads_max {
            pool.starting.store(false, Ordering::SeqCst);
            return Err(io::Error::new(
                io::ErrorKind::OutOfMemory,
                "the door has all the threads that it may have (threads_max)",
            ));
        }
        pool.started.store(thread + 1, Ordering::SeqCst);
        Ok(thread)
    }

    /// Gives the door a name: callers in other processes open it at `path`. A native door can have several.
    ///
    /// # Errors
    /// The path is taken by another owner, or cannot be made; the door has no geometry for such callers, or
    /// has not been started, or was revoked.
    pub fn attach(&self, path: &Path, options: &AttachOptions) -> Result<Attachment, AttachError> {
        if self.pool.remote.geometry.is_none() {
            return Err(AttachError::NoGeometry);
        }
        if self.pool.started.load(Ordering::SeqCst) == 0 {
            return Err(AttachError::NotStarted);
        }
        let door = self
            .pool
            .duplicate()
            .map_err(|source| AttachError::System {
                path: path.to_owned(),
                doing: "attach the door",
                source,
            })?;
        Attachment::new(door, path, options)
    }

    /// Serves calls as thread `thread`, on a thread that `server_create` has started for that index.
    ///
    /// **Returns only if the thread cannot join the pool**: the door was revoked before, or the thread serves
    /// another door. Otherwise the thread belongs to the kernel for the life of the process, and everything
    /// on its stack is overwritten by requests: its frames are never returned to, which is why the handler
    /// has to be `'static`.
    ///
    /// Handlers may jump within their own frames, never over this function's.
    ///
    /// # Panics
    /// If the index was never handed to `server_create`.
    pub fn serve<H: DoorHandler>(&self, thread: u32, handler: &'static H) {
        assert!(
            thread < self.pool.started.load(Ordering::SeqCst),
            "thread {thread} serves, but was never asked for"
        );
        // Raw, and one more owner than will ever be dropped: the thread serves for ever.
        let kept = Arc::into_raw(Arc::clone(&self.pool));
        let size = self.pool.reply_size.load(Ordering::SeqCst);
        let buffer = Box::into_raw(vec![0_u8; size + TRAILER_LEN].into_boxed_slice());
        let entries = Box::into_raw(Box::new([ffi::door_desc_t::sending(-1); DESCRIPTORS_MAX]));
        let serving = Serving {
            // SAFETY: `kept` came from an Arc whose count was raised for it.
            pool: unsafe { &*kept },
            thread,
            handler,
            reply: ReplyBuffer {
                // SAFETY: a Box is never null.
                base: unsafe { NonNull::new_unchecked(buffer.cast()) },
                size,
                // SAFETY: as above.
                entries: unsafe { NonNull::new_unchecked(entries.cast()) },
            },
            calls: 0,
        };
        SERVING.set(Some(serving));
        let mut before = 0;
        // SAFETY: a cancelled thread would run no destructor; the call writes one number.
        unsafe { ffi::pthread_setcancelstate(ffi::PTHREAD_CANCEL_DISABLE, &raw mut before) };
        if serving.pool.bind() {
            serving.pool.starting.store(false, Ordering::SeqCst);
            if serving.pool.started.load(Ordering::SeqCst) < serving.pool.threads_min {
                // A failure is counted, and the next call that takes the last idle thread tries again.
                let _ = serving.pool.start_thread();
            }
            // SAFETY: nothing in this frame has a destructor that matters; see `join_pool`.
            unsafe { join_pool() };
        }
        // Still here: the thread has not joined and never had a call, so what it was to keep can go.
        serving.pool.starting.store(false, Ordering::SeqCst);
        SERVING.set(None);
        // SAFETY: all three came from into_raw above; nothing refers to them any more.
        unsafe {
            drop(Box::from_raw(buffer));
            drop(Box::from_raw(entries));
            drop(Arc::from_raw(kept));
        }
    }

    /// Refuses new calls. Calls in progress complete; those that wait for a thread are told that they were
    /// not accepted. Does not wait. In a child of the process that has made the door it does nothing.
    pub fn revoke(&self) {
        let mut door = self.pool.door();
        if let Some(number) = *door {
            // SAFETY: the descriptor is ours and open. On success the call closes it.
            if unsafe { ffi::door_revoke(number) } == 0 {
                *door = None;
            }
        }
    }

    /// The door in numbers.
    pub fn info(&self) -> DoorInfo {
        let pool = &*self.pool;
        let door = *pool.door();
        let now = door.and_then(|door| info_of(door).ok());
        let started = pool.started.load(Ordering::Relaxed);
        let parked = pool.counts.parked.load(Ordering::Relaxed);
        let active = pool.counts.active.load(Ordering::Relaxed);
        let revoked = door.is_none();
        DoorInfo {
            pid: now
                .and_then(|info| u32::try_from(info.di_target).ok())
                .unwrap_or_else(std::process::id),
            id: u128::from(pool.id.get().copied().unwrap_or_default()),
            attributes: Attributes {
                refuses_descriptors: pool.remote.limits.descriptors_max == 0,
                unreferenced: pool.remote.unreferenced,
                revoked,
            },
            clients: 0,
            channels_kept: 0,
            threads: ThreadCounts {
                max: pool.threads_max,
                started,
                high_water: pool.counts.high_water.load(Ordering::Relaxed),
                idle: started.saturating_sub(parked + active),
                parked,
                // The kernel keeps the threads of a revoked door, but gives them no calls.
                ended: if revoked {
                    started.saturating_sub(parked + active)
                } else {
                    0
                },
                starts_failed: pool.counts.starts_failed.load(Ordering::Relaxed),
            },
            calls: CallCounts {
                under_way: u64::from(active),
                served: pool.counts.served.load(Ordering::Relaxed),
                faulted: pool.counts.faulted.load(Ordering::Relaxed),
                average_ns: 0,
            },
            revoked,
        }
    }
}

impl<H: DoorHandler + Send + Sync + 'static> Handles<H> for Door {
    fn server_create(handler: H) -> ServerCreate<Self> {
        let handler: &'static H = Box::leak(Box::new(handler));
        Box::new(move |door, thread| {
            let door = door.clone();
            let request = wire::request_limit(door.pool.data_max.load(Ordering::SeqCst));
            std::thread::Builder::new()
                .name(format!("door-{thread}"))
                .stack_size(HANDLER_STACK.saturating_add(request))
                .spawn(move || door.serve(thread, handler))
                .map(drop)
        })
    }
}

/// What the kernel is told of a door.
fn system_attributes(remote: &RemoteOptions) -> c_uint {
    // A cancelled thread would run no destructor: never.
    let mut attributes = ffi::DOOR_PRIVATE | ffi::DOOR_NO_CANCEL;
    if remote.limits.descriptors_max == 0 {
        attributes |= ffi::DOOR_REFUSE_DESC;
    }
    match remote.unreferenced {
        Some(Unreferenced::Once) => attributes |= ffi::DOOR_UNREF,
        Some(Unreferenced::Multi) => attributes |= ffi::DOOR_UNREF_MULTI,
        None => {}
    }
    attributes
}

impl Build for Door {
    fn build(from: Checked<Self>) -> Result<Self, BuildError> {
        let attributes = system_attributes(&from.remote);
        let Checked {
            threads_min,
            threads_max,
            server_create,
            remote,
            ..
        } = from;
        let pool = Arc::new_cyclic(|this| {
            let this = this.clone();
            // A new thread keeps the door while it serves.
            Pool::new(threads_min, threads_max, remote, move |thread| {
                let pool = this.upgrade().ok_or(io::ErrorKind::NotConnected)?;
                server_create(&Self { pool }, thread)
            })
        });
        // Before the door: its first thread is asked for inside door_create.
        // SAFETY: the function stays for the life of the process.
        EARLIER.get_or_init(|| unsafe { ffi::door_server_create(Some(depleted)) });
        let cookie = Arc::into_raw(Arc::clone(&pool));
        // SAFETY: the procedure takes the cookie for an `Pool`, which is never freed once the door exists.
        let door = unsafe { ffi::door_create(procedure, cookie.cast_mut().cast(), attributes) };
        if door < 0 {
            let source = io::Error::last_os_error();
            // SAFETY: there is no door, so nothing else has the cookie.
            drop(unsafe { Arc::from_raw(cookie) });
            return Err(BuildError::System {
                doing: "make a door (door_create)",
                source,
            });
        }
        *pool.door() = Some(door);
        let built = Door { pool };
        let refused = |doing| {
            let built = &built;
            move |source| {
                built.revoke();
                BuildError::System { doing, source }
            }
        };
        built.pool.set_limits(door).map_err(refused(
            "tell the system the limits of a door (door_setparam)",
        ))?;
        let info = info_of(door).map_err(refused("ask about a door (door_info)"))?;
        built.pool.id.get_or_init(|| info.di_uniquifier);
        Ok(built)
    }
}
