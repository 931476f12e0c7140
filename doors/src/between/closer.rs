//! Closes what a peer has sent.
//!
//! close(2) asks the file system that the file lies in, and a file system in user space or on the network may
//! never answer; a TCP socket may linger for as long as its owner has set. So the thread that received a
//! descriptor from another process never closes it, but gives it to the closers, which are threads of their
//! own. There is one for each user whose descriptors wait to be closed, and it ends when none is left. The
//! closer of a user whose descriptors hang closes nothing more of that user; others have theirs.
//!
//! There is room here for [`WAITING_MAX`] descriptors of a user. When all of it is taken and none gets
//! closed, the user is *stuck*: no channel to or from the user is opened any more, and what open channels
//! still bring is kept open without being counted among those that wait. All memory of this is there from the
//! start of the process, except the stacks of the threads.

use std::ffi::{CStr, c_void};
use std::fs::File;
use std::io;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Users that can have a closer at a time.
pub const CLOSERS_MAX: usize = 8;
/// Bytes of the stack of a closer. The C library takes no less than its minimum, which is 128 KiB on aarch64.
pub const CLOSER_STACK: usize = if libc::PTHREAD_STACK_MIN > 64 << 10 {
    libc::PTHREAD_STACK_MIN
} else {
    64 << 10
};
/// Descriptors of one user that wait to be closed.
const WAITING_MAX: usize = 64;
/// How long a descriptor waits for room among those: an honest user's are closed within microseconds.
const PATIENCE: Duration = Duration::from_millis(100);
/// Descriptors that are kept open because there is no room for them, at most: from then on no door of this
/// process admits a client.
const KEPT_MAX: usize = 1024;
/// After a thread could not be started, the next attempt waits this long.
const AGAIN: Duration = Duration::from_millis(20);

static CLOSERS: Closers = Closers {
    state: Mutex::new(State {
        users: [const { User::NONE }; CLOSERS_MAX],
        kept: 0,
    }),
    work: Condvar::new(),
    room: Condvar::new(),
};

struct Closers {
    state: Mutex<State>,
    /// Something waits that has no closer.
    work: Condvar,
    /// Something was closed.
    room: Condvar,
}

struct State {
    users: [User; CLOSERS_MAX],
    kept: usize,
}

struct User {
    uid: u32,
    waiting: [Option<OwnedFd>; WAITING_MAX],
    count: usize,
    /// Has a closer.
    served: bool,
    stuck: bool,
}

impl User {
    const NONE: Self = Self {
        uid: 0,
        waiting: [const { None }; WAITING_MAX],
        count: 0,
        served: false,
        stuck: false,
    };

    fn is_used(&self) -> bool {
        self.served || self.count > 0
    }

    fn push(&mut self, fd: OwnedFd) {
        self.waiting[self.count] = Some(fd);
        self.count += 1;
    }

    fn pop(&mut self) -> Option<OwnedFd> {
        self.count = self.count.checked_sub(1)?;
        self.stuck = false;
        self.waiting[self.count].take()
    }
}

impl State {
    /// The place of a user, or an unused one.
    fn place_of(&mut self, uid: u32) -> Option<&mut User> {
        let known = |user: &User| user.is_used() && user.uid == uid;
        let index = (self.users.iter().position(known))
            .or_else(|| self.users.iter().position(|user| !user.is_used()))?;
        let user = &mut self.users[index];
        user.uid = uid;
        Some(user)
    }
}

fn lock() -> MutexGuard<'static, State> {
    CLOSERS.state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts, once, the thread that starts the closers: every process that opens or attaches doors has it.
/// Otherwise the first open or attach starts it.
///
/// # Errors
/// The system has no room for a thread.
pub fn start() -> io::Result<()> {
    static STARTED: Mutex<bool> = Mutex::new(false);
    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    if !*started {
        start_thread(start_closers, 0)?;
        *started = true;
    }
    Ok(())
}

/// What a thread runs, and the word that it is given.
type Main = extern "C" fn(*mut c_void) -> *mut c_void;

/// Starts a thread that is never joined. Not with `std::thread`, which allocates for each thread, on both
/// sides: a closer is started while the process serves, and would take memory of a request, or of the process
/// heap.
fn start_thread(main: Main, argument: usize) -> io::Result<()> {
    let check = |code: libc::c_int| match code {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    };
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    let mut thread = MaybeUninit::<libc::pthread_t>::uninit();
    // SAFETY: attributes are initialised before use and destroyed after. The argument is a number. The thread
    // was created joinable and is detached once, by us; nothing else knows it.
    unsafe {
        check(libc::pthread_attr_init(attributes.as_mut_ptr()))?;
        let attributes = attributes.assume_init_mut();
        let argument = std::ptr::without_provenance_mut(argument);
        let created =
            check(libc::pthread_attr_setstacksize(attributes, CLOSER_STACK)).and_then(|()| {
                check(libc::pthread_create(
                    thread.as_mut_ptr(),
                    attributes,
                    main,
                    argument,
                ))
            });
        libc::pthread_attr_destroy(attributes);
        created?;
        check(libc::pthread_detach(thread.assume_init()))
    }
}

fn name_this_thread(name: &CStr) {
    // SAFETY: a NUL-terminated name for the calling thread.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// The thread that starts the closers.
extern "C" fn start_closers(_: *mut c_void) -> *mut c_void {
    name_this_thread(c"closers");
    let mut state = lock();
    loop {
        let unserved = |user: &User| user.count > 0 && !user.served;
        let Some(index) = state.users.iter().position(unserved) else {
            state = (CLOSERS.work.wait(state)).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        state.users[index].served = true;
        drop(state);
        let started = start_thread(close_all_of, index);
        state = lock();
        if started.is_err() {
            state.users[index].served = false;
            let waited = CLOSERS.work.wait_timeout(state, AGAIN);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The closer of the user at that index.
extern "C" fn close_all_of(index: *mut c_void) -> *mut c_void {
    name_this_thread(c"closer");
    let index = index.addr();
    let mut state = lock();
    while let Some(fd) = state.users[index].pop() {
        drop(state);
        CLOSERS.room.notify_all();
        drop(fd); // this may take for ever
        state = lock();
    }
    state.users[index].served = false;
    std::ptr::null_mut()
}

/// Whether closing the descriptor waits for nothing: it is the kernel's own memory. Asks no file system.
fn is_harmless(fd: BorrowedFd<'_>) -> bool {
    seals(fd).is_some()
}

/// The seals of a memfd; none if it is something else. Asks no file system.
pub fn seals(fd: BorrowedFd<'_>) -> Option<libc::c_int> {
    // SAFETY: a plain system call on an open descriptor.
    let seals = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) };
    (seals >= 0).then_some(seals)
}

/// Closes a descriptor that a process of user `uid` has sent. Returns at once, or after at most 100 ms if
/// many of that user's wait to be closed.
pub fn close(uid: u32, fd: OwnedFd) {
    use std::os::fd::AsFd;
    if is_harmless(fd.as_fd()) {
        return;
    }
    let until = Instant::now() + PATIENCE;
    let mut state = lock();
    loop {
        let place = state.place_of(uid);
        let left = until.saturating_duration_since(Instant::now());
        match place {
            Some(user) if user.count < WAITING_MAX => {
                user.push(fd);
                drop(state);
                CLOSERS.work.notify_one();
                return;
            }
            Some(user) if user.stuck || left.is_zero() => user.stuck = true,
            Some(_) => {
                let waited = CLOSERS.room.wait_timeout(state, left);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            None => {}
        }
        // Never closed: the process has one descriptor less.
        state.kept += 1;
        let _ = ManuallyDrop::new(File::from(fd));
        return;
    }
}

/// Whether as many descriptors of user `uid` cannot be closed as one user may have.
pub fn is_stuck(uid: u32) -> bool {
    let state = lock();
    (state.users.iter()).any(|user| user.stuck && user.is_used() && user.uid == uid)
}

/// Whether this process keeps as many descriptors open as it may because they cannot be closed.
pub fn is_full() -> bool {
    lock().kept >= KEPT_MAX
}
