//! What a door is made of. The pool itself is the kernel's: last in, first out, and one spare thread is
//! started when the last idle one is taken. We decide which thread that is, and that there are never more
//! than `threads_max`.

use crate::ffi;
use crate::wire::{self};
use std::ffi::c_int;
use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use transom_doors::back_end::remote_options::RemoteOptions;
use transom_doors::{ChannelGeometry, DoorEvent, Limits, PAGE, Status};

/// The geometry of a door that was given none, so that it serves this process alone: its channels there bring
/// their own.
pub const NO_GEOMETRY: ChannelGeometry = ChannelGeometry {
    slots: 1,
    spares: 0,
    request_size: PAGE,
    reply_size: PAGE,
};

/// A door's state. Its address is the door's cookie, so once the door exists it is never freed.
pub struct Pool {
    /// Threads that are started with the door.
    pub threads_min: u32,
    pub threads_max: u32,
    /// What the builder was told; its geometry, if any, is that of callers in other processes.
    pub remote: RemoteOptions,
    /// The most bytes of a request: of a slot's size, or more if a channel of this process has larger slots
    /// and no limit was set.
    pub data_max: AtomicUsize,
    /// Bytes of each thread's reply buffer: the geometry's, or more if a channel of this process has larger
    /// slots.
    pub reply_size: AtomicUsize,
    /// Starts a thread, by its number.
    server_create: Box<dyn Fn(u32) -> io::Result<()> + Send + Sync>,
    /// The door's descriptor until it is revoked. A thread that uses it holds the lock, so that no thread
    /// uses a number that has become another file's.
    pub door: Mutex<Option<RawFd>>,
    pub id: OnceLock<u64>,
    pub opened: AtomicBool,
    pub started: AtomicU32,
    /// A thread was asked for and has not arrived yet.
    pub starting: AtomicBool,
    pub counts: Counts,
}

/// What a door counts.
#[derive(Default)]
pub struct Counts {
    pub starts_failed: AtomicU64,
    /// Threads inside a handler.
    pub active: AtomicU32,
    pub high_water: AtomicU32,
    pub parked: AtomicU32,
    pub served: AtomicU64,
    pub faulted: AtomicU64,
}

/// Tells the kernel one of the door's limits.
pub fn set_limit(door: RawFd, param: c_int, value: usize) -> io::Result<()> {
    // SAFETY: no memory is involved.
    if unsafe { ffi::door_setparam(door, param, value) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

impl Pool {
    /// Of a door that does not exist yet.
    pub fn new(
        threads_min: u32,
        threads_max: u32,
        remote: RemoteOptions,
        server_create: impl Fn(u32) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let geometry = remote.geometry.unwrap_or(NO_GEOMETRY);
        // Limits are for callers in other processes; without a geometry there are none.
        let data_max = match remote.geometry {
            Some(_) => remote.limits.data_max.min(geometry.request_size),
            None => geometry.request_size,
        };
        Self {
            threads_min,
            threads_max,
            remote,
            data_max: AtomicUsize::new(data_max),
            reply_size: AtomicUsize::new(geometry.reply_size),
            server_create: Box::new(server_create),
            door: Mutex::new(None),
            id: OnceLock::new(),
            opened: AtomicBool::new(false),
            started: AtomicU32::new(0),
            starting: AtomicBool::new(false),
            counts: Counts::default(),
        }
    }

    /// Tells the kernel the door's limits.
    pub fn set_limits(&self, door: RawFd) -> io::Result<()> {
        let limits = self.limits();
        // The highest first: at no time may a door's minimum be more than its maximum.
        set_limit(
            door,
            ffi::DOOR_PARAM_DATA_MAX,
            wire::request_limit(limits.data_max),
        )?;
        set_limit(
            door,
            ffi::DOOR_PARAM_DATA_MIN,
            wire::request_limit(limits.data_min),
        )?;
        match limits.descriptors_max {
            0 => Ok(()),
            most => set_limit(door, ffi::DOOR_PARAM_DESC_MAX, most as usize),
        }
    }

    pub fn door(&self) -> MutexGuard<'_, Option<RawFd>> {
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the door takes now.
    pub fn limits(&self) -> Limits {
        let given = self.remote.limits;
        Limits {
            data_min: self.remote.geometry.map_or(0, |_| given.data_min),
            data_max: self.data_max.load(Ordering::SeqCst),
            descriptors_max: given.descriptors_max,
        }
    }

    /// Calls the function for events, if there is one.
    pub fn tell(&self, event: &DoorEvent) {
        if let Some(on_event) = &self.remote.on_event {
            guarded(|| on_event(event));
        }
    }

    /// A descriptor of the door that stays valid when it is revoked.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        let door = self.door();
        let number = door.ok_or_else(|| io::Error::other("the door has been revoked"))?;
        // SAFETY: open as long as the lock is held.
        unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned()
    }

    /// Binds the calling thread to the door; `false` if the door was revoked or the thread is another door's.
    pub fn bind(&self) -> bool {
        let door = self.door();
        // SAFETY: no memory is involved, and the descriptor is open as long as the lock is held.
        door.is_some_and(|number| unsafe { ffi::door_bind(number) } == 0)
    }

    /// Counts a completed call.
    pub fn count(&self, status: Status) {
        self.counts.served.fetch_add(1, Ordering::Relaxed);
        if status == Status::FAULT {
            self.counts.faulted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The thread will never take a call again.
    pub fn leave_for_good(&self) {
        self.counts.active.fetch_sub(1, Ordering::Relaxed);
        self.counts.parked.fetch_add(1, Ordering::Relaxed);
    }

    /// Starts the next thread; `None` if another start is in progress or all threads exist.
    pub fn start_thread(&self) -> Option<io::Result<()>> {
        if self.starting.swap(true, Ordering::SeqCst) {
            return None;
        }
        let index = self.started.load(Ordering::SeqCst);
        if index >= self.threads_max {
            self.starting.store(false, Ordering::SeqCst);
            return None;
        }
        self.started.store(index + 1, Ordering::SeqCst);
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.server_create)(index)))
            .unwrap_or_else(|_| Err(io::Error::other("server_create panicked")));
        if outcome.is_err() {
            self.counts.starts_failed.fetch_add(1, Ordering::Relaxed);
            self.started.store(index, Ordering::SeqCst);
            self.starting.store(false, Ordering::SeqCst);
        }
        Some(outcome)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door")
            .field("threads_max", &self.threads_max)
            .field("threads_started", &self.started)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Runs something of the application's; a panic ends here.
pub fn guarded(run: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(run)) {
        // A payload's own destructor may panic; nothing may unwind into C.
        if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(second);
        }
    }
}
