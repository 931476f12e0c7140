//! A door: how it is built, started, served, revoked and asked.
//!
//! The pool is the kernel's: last in, first out, and one spare thread is started when the last idle one is
//! taken. What is ours is which thread that is, and that it never becomes more than `threads_max`.

use std::cell::Cell;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use crate::async_client::AsyncClient;
use crate::attach::Attachment;
use crate::call::{Answer, Call, DoorHandler, Parts, ReplyBuffer, caller, received};
use crate::client::info as info_of;
use crate::wire::{self, Header, Hello, Purpose, TRAILER_LEN};
use crate::{WRONG_VERSION, ffi};
use transom_doors::back_end::builder::{Build, Builder, Checked, Handles, ServerCreate};
use transom_doors::back_end::remote_options::RemoteOptions;
use transom_doors::{
    AttachError, AttachOptions, Attributes, BuildError, CallCounts, ChannelError, ChannelGeometry,
    ChannelMemory, Credentials, DESCRIPTORS_MAX, Descriptors, DoorEvent, DoorInfo, Limits, PAGE,
    Refusal, Status, ThreadCounts, Unreferenced, now_ns,
};

/// The geometry of a door that was given none, so that it serves this process alone: its channels there bring
/// their own.
const NO_GEOMETRY: ChannelGeometry = ChannelGeometry {
    slots: 1,
    spares: 0,
    request_size: PAGE,
    reply_size: PAGE,
};

/// The stack of a thread that the builder's `handler` runs on, beside the request that the kernel lays on it.
const HANDLER_STACK: usize = 2 << 20;

/// An entry into this process, called like a function. Clones are the same door.
#[derive(Clone, Debug)]
pub struct Door {
    inner: Arc<Inner>,
}

/// What makes a door of this back end.
pub type DoorBuilder = Builder<Door>;

/// A door's state. Its address is the door's cookie, so once the door exists it is never freed.
pub(crate) struct Inner {
    /// For a new thread, which keeps the door while it serves.
    this: Weak<Inner>,
    /// Threads that are started with the door.
    threads_min: u32,
    threads_max: u32,
    /// What the builder was told; its geometry, if any, is that of callers in other processes.
    remote: RemoteOptions,
    /// The most bytes of a request: of a slot's size, or more if a channel of this process has larger slots
    /// and nobody has set a limit.
    data_max: AtomicUsize,
    /// Bytes of each thread's reply buffer: the geometry's, or more if a channel of this process has larger
    /// slots.
    reply_size: AtomicUsize,
    server_create: ServerCreate<Door>,
    /// The door's descriptor until it is revoked. Held by whoever uses it, so that nobody uses a number that
    /// has become another file's.
    door: Mutex<Option<RawFd>>,
    id: OnceLock<u64>,
    opened: AtomicBool,
    started: AtomicU32,
    /// A thread was asked for and has not arrived yet.
    starting: AtomicBool,
    counts: Counts,
}

/// What a door counts.
#[derive(Default)]
struct Counts {
    starts_failed: AtomicU64,
    /// Threads inside a handler.
    active: AtomicU32,
    high_water: AtomicU32,
    parked: AtomicU32,
    served: AtomicU64,
    faulted: AtomicU64,
}

/// What a door server thread knows of itself.
#[derive(Clone, Copy)]
struct Serving {
    inner: &'static Inner,
    thread: u32,
    handler: &'static dyn DoorHandler,
    reply: ReplyBuffer,
    calls: u32,
}

thread_local! {
    /// Without a destructor, because a door server thread does not end.
    static SERVING: Cell<Option<Serving>> = const { Cell::new(None) };
}

/// The process's earlier way to start threads, for doors that are not ours.
static EARLIER: OnceLock<Option<ffi::door_server_func_t>> = OnceLock::new();

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
        if self.inner.opened.load(Ordering::SeqCst) {
            return Err(ChannelError::Started);
        }
        self.inner
            .reply_size
            .fetch_max(geometry.reply_size, Ordering::SeqCst);
        let door = self.inner.duplicate().map_err(ChannelError::Doorbell)?;
        let data_max = &self.inner.data_max;
        let told =
            self.inner.remote.geometry.is_some() && self.inner.remote.limits.data_max != usize::MAX;
        if !told && geometry.request_size > data_max.load(Ordering::SeqCst) {
            set_limit(
                door.as_raw_fd(),
                ffi::DOOR_PARAM_DATA_MAX,
                wire::request_limit(geometry.request_size),
            )
            .map_err(ChannelError::Doorbell)?;
            data_max.store(geometry.request_size, Ordering::SeqCst);
        }
        AsyncClient::in_process(door, geometry, &memory, self.inner.limits())
            .map_err(|missing| ChannelError::Doorbell(missing.source))
    }

    /// Starts thread 0.
    ///
    /// # Errors
    /// What `server_create` said; `start` may be tried again. `AlreadyExists` if the door has threads.
    pub fn start(&self) -> io::Result<()> {
        self.inner.opened.store(true, Ordering::SeqCst);
        if self.inner.started.load(Ordering::SeqCst) != 0 {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "the door has been started",
            ));
        }
        self.inner.start_thread().unwrap_or(Ok(()))
    }

    /// Makes room in the pool for a thread that nobody asked for (`door_bind`): it calls
    /// [`serve`](Self::serve) with the number that it gets, and is then one of the door's own.
    ///
    /// # Errors
    /// `OutOfMemory` if all threads that the door may have exist; `NotConnected` before
    /// [`start`](Self::start).
    pub fn bind(&self) -> io::Result<u32> {
        let inner = &*self.inner;
        if !inner.opened.load(Ordering::SeqCst) {
            return Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "the door has not been started",
            ));
        }
        // One thread comes at a time; another one that is on its way arrives soon.
        while inner.starting.swap(true, Ordering::SeqCst) {
            std::thread::yield_now();
        }
        let thread = inner.started.load(Ordering::SeqCst);
        if thread >= inner.threads_max {
            inner.starting.store(false, Ordering::SeqCst);
            return Err(io::Error::new(
                io::ErrorKind::OutOfMemory,
                "the door has all the threads that it may have (threads_max)",
            ));
        }
        inner.started.store(thread + 1, Ordering::SeqCst);
        Ok(thread)
    }

    /// Gives the door a name: callers in other processes open it at `path`. A native door can have several.
    ///
    /// # Errors
    /// The path is taken by another owner, or cannot be made; the door has no geometry for such callers, or
    /// has not been started, or was revoked.
    pub fn attach(&self, path: &Path, options: &AttachOptions) -> Result<Attachment, AttachError> {
        if self.inner.remote.geometry.is_none() {
            return Err(AttachError::NoGeometry);
        }
        if self.inner.started.load(Ordering::SeqCst) == 0 {
            return Err(AttachError::NotStarted);
        }
        let door = self
            .inner
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
            thread < self.inner.started.load(Ordering::SeqCst),
            "thread {thread} serves, but was never asked for"
        );
        // Raw, and one more owner than will ever be dropped: the thread serves for ever.
        let kept = Arc::into_raw(Arc::clone(&self.inner));
        let size = self.inner.reply_size.load(Ordering::SeqCst);
        let buffer = Box::into_raw(vec![0_u8; size + TRAILER_LEN].into_boxed_slice());
        let entries = Box::into_raw(Box::new([ffi::door_desc_t::sending(-1); DESCRIPTORS_MAX]));
        let serving = Serving {
            // SAFETY: `kept` came from an Arc whose count was raised for it.
            inner: unsafe { &*kept },
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
        if serving.inner.bind() {
            serving.inner.starting.store(false, Ordering::SeqCst);
            if serving.inner.started.load(Ordering::SeqCst) < serving.inner.threads_min {
                // A failure is counted, and the next call that takes the last idle thread tries again.
                let _ = serving.inner.start_thread();
            }
            // SAFETY: nothing in this frame has a destructor that matters; see `join_pool`.
            unsafe { join_pool() };
        }
        // Still here: the thread has not joined and never had a call, so what it was to keep can go.
        serving.inner.starting.store(false, Ordering::SeqCst);
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
        let mut door = self.inner.door();
        if let Some(number) = *door {
            // SAFETY: the descriptor is ours and open. On success the call closes it.
            if unsafe { ffi::door_revoke(number) } == 0 {
                *door = None;
            }
        }
    }

    /// The door in numbers.
    pub fn info(&self) -> DoorInfo {
        let inner = &*self.inner;
        let door = *inner.door();
        let now = door.and_then(|door| info_of(door).ok());
        let started = inner.started.load(Ordering::Relaxed);
        let parked = inner.counts.parked.load(Ordering::Relaxed);
        let active = inner.counts.active.load(Ordering::Relaxed);
        let revoked = door.is_none();
        DoorInfo {
            pid: now
                .and_then(|info| u32::try_from(info.di_target).ok())
                .unwrap_or_else(std::process::id),
            id: u128::from(inner.id.get().copied().unwrap_or_default()),
            attributes: Attributes {
                refuses_descriptors: inner.remote.limits.descriptors_max == 0,
                unreferenced: inner.remote.unreferenced,
                revoked,
            },
            clients: 0,
            channels_kept: 0,
            threads: ThreadCounts {
                max: inner.threads_max,
                started,
                high_water: inner.counts.high_water.load(Ordering::Relaxed),
                idle: started.saturating_sub(parked + active),
                parked,
                // The kernel keeps the threads of a revoked door, and gives them no calls.
                ended: if revoked {
                    started.saturating_sub(parked + active)
                } else {
                    0
                },
                starts_failed: inner.counts.starts_failed.load(Ordering::Relaxed),
            },
            calls: CallCounts {
                under_way: u64::from(active),
                served: inner.counts.served.load(Ordering::Relaxed),
                faulted: inner.counts.faulted.load(Ordering::Relaxed),
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
            let request = wire::request_limit(door.inner.data_max.load(Ordering::SeqCst));
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
        let inner = Inner::new(from);
        // Before the door: its first thread is asked for inside door_create.
        // SAFETY: the function stays for the life of the process.
        EARLIER.get_or_init(|| unsafe { ffi::door_server_create(Some(depleted)) });
        let cookie = Arc::into_raw(Arc::clone(&inner));
        // SAFETY: the procedure takes the cookie for an `Inner`, which is never freed once the door exists.
        let door = unsafe { ffi::door_create(procedure, cookie.cast_mut().cast(), attributes) };
        if door < 0 {
            let source = io::Error::last_os_error();
            // SAFETY: there is no door, so nobody else has the cookie.
            drop(unsafe { Arc::from_raw(cookie) });
            return Err(BuildError::System {
                doing: "make a door (door_create)",
                source,
            });
        }
        *inner.door() = Some(door);
        let built = Door { inner };
        let refused = |doing| {
            let built = &built;
            move |source| {
                built.revoke();
                BuildError::System { doing, source }
            }
        };
        built.inner.set_limits(door).map_err(refused(
            "tell the system the limits of a door (door_setparam)",
        ))?;
        let info = info_of(door).map_err(refused("ask about a door (door_info)"))?;
        built.inner.id.get_or_init(|| info.di_uniquifier);
        Ok(built)
    }
}

/// Tells the kernel one of the door's limits.
fn set_limit(door: RawFd, param: c_int, value: usize) -> io::Result<()> {
    // SAFETY: no memory is involved.
    if unsafe { ffi::door_setparam(door, param, value) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

impl Inner {
    fn new(from: Checked<Door>) -> Arc<Self> {
        let remote = from.remote;
        let geometry = remote.geometry.unwrap_or(NO_GEOMETRY);
        // Limits are for callers in other processes; without a geometry there are none.
        let data_max = match remote.geometry {
            Some(_) => remote.limits.data_max.min(geometry.request_size),
            None => geometry.request_size,
        };
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            threads_min: from.threads_min,
            threads_max: from.threads_max,
            remote,
            data_max: AtomicUsize::new(data_max),
            reply_size: AtomicUsize::new(geometry.reply_size),
            server_create: from.server_create,
            door: Mutex::new(None),
            id: OnceLock::new(),
            opened: AtomicBool::new(false),
            started: AtomicU32::new(0),
            starting: AtomicBool::new(false),
            counts: Counts::default(),
        })
    }

    /// Tells the kernel the door's limits.
    fn set_limits(&self, door: RawFd) -> io::Result<()> {
        let limits = self.limits();
        // The highest first: a door's least may not be more than its most at any time.
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

    fn door(&self) -> MutexGuard<'_, Option<RawFd>> {
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the door takes now.
    fn limits(&self) -> Limits {
        let given = self.remote.limits;
        Limits {
            data_min: self.remote.geometry.map_or(0, |_| given.data_min),
            data_max: self.data_max.load(Ordering::SeqCst),
            descriptors_max: given.descriptors_max,
        }
    }

    /// Tells whoever wants to know.
    fn tell(&self, event: &DoorEvent) {
        if let Some(on_event) = &self.remote.on_event {
            guarded(|| on_event(event));
        }
    }

    /// A descriptor of the door that stays valid when it is revoked.
    fn duplicate(&self) -> io::Result<OwnedFd> {
        let door = self.door();
        let number = door.ok_or_else(|| io::Error::other("the door has been revoked"))?;
        // SAFETY: open as long as the lock is held.
        unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned()
    }

    /// Binds the calling thread to the door; `false` if the door was revoked or the thread is another door's.
    fn bind(&self) -> bool {
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
    fn start_thread(&self) -> Option<io::Result<()>> {
        if self.starting.swap(true, Ordering::SeqCst) {
            return None;
        }
        let index = self.started.load(Ordering::SeqCst);
        if index >= self.threads_max {
            self.starting.store(false, Ordering::SeqCst);
            return None;
        }
        self.started.store(index + 1, Ordering::SeqCst);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let inner = self.this.upgrade().ok_or(io::ErrorKind::NotConnected)?;
            (self.server_create)(&Door { inner }, index)
        }))
        .unwrap_or_else(|_| Err(io::Error::other("server_create panicked")));
        if outcome.is_err() {
            self.counts.starts_failed.fetch_add(1, Ordering::Relaxed);
            self.started.store(index, Ordering::SeqCst);
            self.starting.store(false, Ordering::SeqCst);
        }
        Some(outcome)
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door")
            .field("threads_max", &self.threads_max)
            .field("threads_started", &self.started)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Called by the C library when a call has taken a pool's last idle thread, on that thread, before the call
/// is served; and once inside `door_create`, when the door is not ours to serve yet.
unsafe extern "C" fn depleted(info: *mut ffi::door_info_t) {
    // SAFETY: null for the process's common pool, else the C library's own copy of what the kernel says.
    let known = (!info.is_null()).then(|| unsafe { *info });
    match known {
        Some(info) if info.di_proc == procedure as *const () as u64 => {
            // SAFETY: a door with our procedure has an `Inner` as its cookie, which is never freed.
            let inner = unsafe { &*(info.di_data as usize as *const Inner) };
            if inner.opened.load(Ordering::SeqCst) {
                // A failure is counted, and the next call that takes the last thread tries again.
                let _ = inner.start_thread();
            }
        }
        _ => {
            if let Some(Some(earlier)) = EARLIER.get() {
                // SAFETY: it was the C library's own, or the program's, and is called as it was to be.
                unsafe { earlier(info) };
            }
        }
    }
}

/// Joins the pool that this thread is bound to. Returns only if the kernel refuses.
///
/// # Safety
/// Nothing on this thread's stack is needed again, by anybody: requests are laid over it.
unsafe fn join_pool() {
    // SAFETY: nothing is sent; the caller vouches for the stack.
    unsafe { ffi::door_return(ptr::null_mut(), 0, ptr::null_mut(), 0) };
}

/// What the kernel runs for each call, at the base of a door server thread's stack.
///
/// Two scopes: `answer` has everything with a destructor, and is over when `door_return` takes the stack
/// away.
unsafe extern "C" fn procedure(
    cookie: *mut c_void,
    data: *mut c_char,
    data_len: usize,
    descriptors: *mut ffi::door_desc_t,
    descriptors_len: c_uint,
) {
    let sent = {
        // SAFETY: these are the kernel's arguments for this very call.
        unsafe { answer(cookie, data, data_len, descriptors, descriptors_len) }
    };
    // SAFETY: nothing in this frame has a destructor, and nothing below it is needed again. The bytes are the
    // thread's own buffer, which the kernel reads before the stack is used again.
    unsafe {
        ffi::door_return(sent.data.cast(), sent.len, sent.entries, sent.many);
        // The caller wants no reply, or has no room: it gets an empty one. Which descriptors the kernel had
        // closed by then is not known, and one that it has closed may be another file's by now: none is
        // closed here.
        ffi::door_return(ptr::null_mut(), 0, ptr::null_mut(), 0);
    }
    // Returning ends the thread, and the caller is told that its call may have run.
}

/// Serves one call, up to but not including its reply.
///
/// # Safety
/// The arguments are those of a server procedure of a door of ours, which is running now.
unsafe fn answer(
    cookie: *mut c_void,
    data: *mut c_char,
    data_len: usize,
    descriptors: *mut ffi::door_desc_t,
    descriptors_len: c_uint,
) -> Answer {
    // SAFETY: the kernel has opened the descriptors for this call, and lays the entries on this stack.
    let descriptors = unsafe { received(descriptors, descriptors_len) };
    // SAFETY: the cookie of a door of ours is its `Inner`, which is never freed.
    let inner = unsafe { &*cookie.cast::<Inner>() };
    if data as usize == ffi::DOOR_UNREF_DATA {
        if let Some(tell) = &inner.remote.on_unreferenced {
            guarded(tell);
        }
        return Answer::NOTHING;
    }
    let Some(mut serving) = SERVING.get() else {
        // Somebody else's thread was bound to our door. It has no buffer, so its caller gets nothing.
        return Answer::NOTHING;
    };
    serving.calls = serving.calls.wrapping_add(1);
    SERVING.set(Some(serving));
    let active = inner.counts.active.fetch_add(1, Ordering::Relaxed) + 1;
    inner.counts.high_water.fetch_max(active, Ordering::Relaxed);

    let message = match NonNull::new(data.cast::<u8>()) {
        Some(start) => NonNull::slice_from_raw_parts(start, data_len),
        None => NonNull::from(&mut []),
    };
    let (len, status, many) = serve_message(inner, serving, message, descriptors);

    inner.counts.active.fetch_sub(1, Ordering::Relaxed);
    // SAFETY: the buffer is this thread's, the call that referred to it is over, and `len` was checked
    // against its size.
    let mut answer = unsafe { Answer::seal(serving.reply, len, status) };
    if many != 0 {
        answer.entries = serving.reply.entries.as_ptr();
        answer.many = many;
    }
    answer
}

/// Returns length and status of the reply, and how many descriptors go with it.
fn serve_message(
    inner: &Inner,
    serving: Serving,
    message: NonNull<[u8]>,
    descriptors: Descriptors,
) -> (usize, Status, c_uint) {
    // SAFETY: the kernel has copied the request onto this stack, and nobody else knows where.
    let bytes = unsafe { message.as_ref() };
    let Ok((header, request_len)) = Header::decode(bytes) else {
        return reply_with(serving.reply, &wire::VERSION.to_ne_bytes(), WRONG_VERSION);
    };
    if let Some(accept) = &inner.remote.accept {
        let caller = caller();
        let welcome = caller
            .as_ref()
            .is_ok_and(|caller| catch_unwind(AssertUnwindSafe(|| accept(caller))).unwrap_or(false));
        if !welcome {
            if let (Purpose::Hello, Ok(client)) = (header.purpose, caller) {
                let uid = u64::from(client.uid);
                let why = Refusal::User { uid };
                inner.tell(&DoorEvent::Refused { client, why });
            }
            return (0, Status::NOT_ACCEPTED, 0);
        }
    }
    if header.purpose == Purpose::Hello {
        if inner.remote.on_event.is_some()
            && let Ok(client) = caller()
        {
            inner.tell(&DoorEvent::Opened { client });
        }
        let ours = Credentials::ours();
        let hello = Hello {
            geometry: inner.remote.geometry.unwrap_or(NO_GEOMETRY),
            limits: inner.limits(),
            uid: ours.uid,
            gid: ours.gid,
        };
        return reply_with(serving.reply, &hello.encode(), Status::OK);
    }
    let reply_max = match header.reply_max {
        0 => serving.reply.size,
        max => usize::try_from(max).unwrap_or(usize::MAX),
    };
    let request = NonNull::from(&bytes[bytes.len() - request_len..]);
    let parts = Parts {
        inner,
        request,
        reply: serving.reply,
        reply_max,
        deadline_ns: header.deadline_ns,
        claimed_at_ns: now_ns(),
        thread: serving.thread,
        generation: serving.calls,
        descriptors,
    };
    // SAFETY: request and buffer are this thread's, and nothing else refers to them until the call is over.
    let mut call = unsafe { Call::new(parts) };
    guarded(|| serving.handler.call(serving.thread, &mut call));
    let (len, status) = call.outcome();
    inner.count(status);
    // The length is at most the buffer's size: `complete` has seen to that.
    (len, status, call.write_entries())
}

/// Runs something of the application's; a panic ends here.
fn guarded(run: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(run)) {
        // A payload's own destructor may panic; nothing may unwind into C.
        if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(second);
        }
    }
}

fn reply_with(buffer: ReplyBuffer, bytes: &[u8], status: Status) -> (usize, Status, c_uint) {
    let len = bytes.len().min(buffer.size);
    // SAFETY: the buffer is this thread's and has room for `len` bytes; `bytes` is a local.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.base.as_ptr(), len) };
    (len, status, 0)
}
