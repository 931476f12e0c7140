//! A stand-in for illumos' kernel and C library, in the tests that run on Linux: the door calls over mutexes.
//!
//! It follows the manual pages where the tests look, and differs where it must: a server thread's stack is
//! not taken away, so `door_return` calls the next procedure from where it is; descriptors are known by their
//! inode; `fattach` makes the path a symbolic link to the door. Tests that pass here have not run on illumos.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, OsStr, c_char, c_int, c_uint, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};

use crate::ffi::{self, door_arg_t, door_desc_t, door_info_t, ucred_t};

/// A reply's bytes and descriptors, or an errno.
type Ended = Result<(Vec<u8>, Vec<door_desc_t>), c_int>;

/// What a caller and a server thread exchange.
#[derive(Default)]
struct Seat {
    state: Mutex<SeatState>,
    changed: Condvar,
}

#[derive(Default)]
struct SeatState {
    request: Option<Request>,
    reply: Option<Ended>,
}

struct Request {
    /// `None`: the door is unreferenced.
    data: Option<Vec<u8>>,
    descriptors: Vec<door_desc_t>,
    depleted: bool,
}

#[derive(Default)]
struct Pool {
    idle: Vec<Arc<Seat>>,
    active: Vec<Arc<Seat>>,
    revoked: bool,
    dead: bool,
    params: [usize; 4],
}

struct FakeDoor {
    procedure: ffi::door_server_procedure_t,
    cookie: usize,
    attributes: c_uint,
    id: u64,
    pool: Mutex<Pool>,
    changed: Condvar,
}

static DOORS: LazyLock<Mutex<HashMap<u64, Arc<FakeDoor>>>> = LazyLock::new(Mutex::default);
static SERVER_CREATE: Mutex<Option<ffi::door_server_func_t>> = Mutex::new(None);

thread_local! {
    static BOUND: RefCell<Option<Arc<FakeDoor>>> = const { RefCell::new(None) };
    static SERVING: RefCell<Option<Arc<Seat>>> = const { RefCell::new(None) };
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn fail(errno: c_int) -> c_int {
    // SAFETY: the thread's own errno.
    unsafe { *libc::__errno_location() = errno };
    -1
}

fn door_of(fd: c_int) -> Option<Arc<FakeDoor>> {
    // SAFETY: plain data that the call fills.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` may be written.
    if unsafe { libc::fstat(fd, &raw mut stat) } != 0 {
        return None;
    }
    lock(&DOORS).get(&stat.st_ino).cloned()
}

impl FakeDoor {
    fn info(&self) -> door_info_t {
        let pool = lock(&self.pool);
        let revoked = if pool.revoked { ffi::DOOR_REVOKED } else { 0 };
        door_info_t {
            di_target: if pool.dead {
                -1
            } else {
                std::process::id() as i32
            },
            di_proc: self.procedure as *const () as u64,
            di_data: self.cookie as u64,
            di_attributes: self.attributes | revoked | ffi::DOOR_LOCAL,
            di_uniquifier: self.id,
            di_resv: [0; 4],
        }
    }

    /// Waits for a server thread and gives it the request; errno if the door is revoked first.
    fn dispatch(
        &self,
        data: Option<Vec<u8>>,
        descriptors: Vec<door_desc_t>,
    ) -> Result<Arc<Seat>, c_int> {
        let mut pool = lock(&self.pool);
        loop {
            if pool.revoked || pool.dead {
                return Err(libc::EBADF);
            }
            if let Some(seat) = pool.idle.pop() {
                pool.active.push(Arc::clone(&seat));
                lock(&seat.state).request = Some(Request {
                    data,
                    descriptors,
                    depleted: pool.idle.is_empty(),
                });
                seat.changed.notify_all();
                return Ok(seat);
            }
            pool = self
                .changed
                .wait(pool)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The door's process ends: calls in progress are interrupted, others not accepted.
pub fn kill(fd: c_int) {
    let door = door_of(fd).expect("a door");
    let mut pool = lock(&door.pool);
    pool.dead = true;
    for seat in pool.active.drain(..) {
        lock(&seat.state).reply = Some(Err(libc::EINTR));
        seat.changed.notify_all();
    }
    door.changed.notify_all();
}

/// Tells the door that no process refers to it, and waits until it has heard.
pub fn unreferenced(fd: c_int) {
    let door = door_of(fd).expect("a door");
    let seat = door.dispatch(None, Vec::new()).expect("a serving door");
    let mut state = lock(&seat.state);
    while state.reply.take().is_none() {
        state = seat
            .changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner);
    }
}

#[unsafe(no_mangle)]
extern "C" fn door_create(
    procedure: ffi::door_server_procedure_t,
    cookie: *mut c_void,
    attributes: c_uint,
) -> c_int {
    // SAFETY: a name that outlives the call.
    let fd = unsafe { libc::memfd_create(c"door".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0);
    // SAFETY: plain data that the call fills.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` may be written.
    assert_eq!(unsafe { libc::fstat(fd, &raw mut stat) }, 0);
    let descriptors = if attributes & ffi::DOOR_REFUSE_DESC != 0 {
        0
    } else {
        usize::MAX >> 33
    };
    let door = Arc::new(FakeDoor {
        procedure,
        cookie: cookie as usize,
        attributes,
        id: stat.st_ino,
        pool: Mutex::new(Pool {
            params: [0, descriptors, usize::MAX, 0],
            ..Pool::default()
        }),
        changed: Condvar::new(),
    });
    lock(&DOORS).insert(stat.st_ino, Arc::clone(&door));
    create_server(&door);
    fd
}

fn create_server(door: &FakeDoor) {
    let create = *lock(&SERVER_CREATE);
    if let Some(create) = create {
        let mut info = door.info();
        // SAFETY: as the C library would call it.
        unsafe { create(&raw mut info) };
    }
}

#[unsafe(no_mangle)]
extern "C" fn door_server_create(
    create: Option<ffi::door_server_func_t>,
) -> Option<ffi::door_server_func_t> {
    std::mem::replace(&mut *lock(&SERVER_CREATE), create)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn door_call(fd: c_int, params: *mut door_arg_t) -> c_int {
    let Some(door) = door_of(fd) else {
        return fail(libc::EBADF);
    };
    // SAFETY: the caller's arguments.
    let arguments = unsafe { &mut *params };
    let [_, most_descriptors, most, least] = lock(&door.pool).params;
    if arguments.data_size < least || arguments.data_size > most {
        return fail(libc::ENOBUFS);
    }
    if arguments.desc_num != 0 && door.attributes & ffi::DOOR_REFUSE_DESC != 0 {
        return fail(libc::ENOTSUP);
    }
    if arguments.desc_num as usize > most_descriptors {
        return fail(libc::ENFILE);
    }
    // SAFETY: the caller vouches for its request and its entries.
    let data =
        unsafe { std::slice::from_raw_parts(arguments.data_ptr.cast::<u8>(), arguments.data_size) }
            .to_vec();
    let mut descriptors = Vec::new();
    for at in 0..arguments.desc_num as usize {
        // SAFETY: as above.
        let mut entry = unsafe { arguments.desc_ptr.add(at).read_unaligned() };
        // SAFETY: no memory is involved.
        entry.d_descriptor = unsafe { libc::fcntl(entry.d_descriptor, libc::F_DUPFD_CLOEXEC, 0) };
        if entry.d_descriptor < 0 {
            return fail(libc::EINVAL);
        }
        descriptors.push(entry);
    }
    let seat = match door.dispatch(Some(data), descriptors) {
        Ok(seat) => seat,
        Err(errno) => return fail(errno),
    };
    let mut state = lock(&seat.state);
    let reply = loop {
        if let Some(reply) = state.reply.take() {
            break reply;
        }
        state = seat
            .changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner);
    };
    drop(state);
    let (reply, sent) = match reply {
        Ok(reply) => reply,
        Err(errno) => return fail(errno),
    };
    // The entries come behind the bytes, in the same place.
    let entries_at = reply.len().next_multiple_of(8);
    let needed = if sent.is_empty() {
        reply.len()
    } else {
        entries_at + size_of_val(&sent[..])
    };
    if needed > arguments.rsize {
        let len = needed.next_multiple_of(4096);
        // SAFETY: a fresh anonymous mapping.
        let mapping = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANON,
                -1,
                0,
            )
        };
        assert_ne!(mapping, libc::MAP_FAILED);
        arguments.rbuf = mapping.cast();
        arguments.rsize = len;
    }
    // SAFETY: the room is the caller's or was mapped just now, and the reply fits.
    unsafe { ptr::copy_nonoverlapping(reply.as_ptr(), arguments.rbuf.cast(), reply.len()) };
    arguments.data_ptr = arguments.rbuf;
    arguments.data_size = reply.len();
    arguments.desc_ptr = ptr::null_mut();
    arguments.desc_num = 0;
    for (at, entry) in sent.into_iter().enumerate() {
        // SAFETY: there is room for all entries behind the reply, as counted above.
        unsafe {
            arguments.desc_ptr = arguments.rbuf.add(entries_at).cast();
            arguments.desc_ptr.add(at).write_unaligned(entry);
        }
        arguments.desc_num += 1;
    }
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn door_return(
    data: *mut c_char,
    len: usize,
    descriptors: *mut door_desc_t,
    many: c_uint,
) -> c_int {
    let mut sent = Vec::new();
    for at in 0..many as usize {
        // SAFETY: the server's entries.
        let mut entry = unsafe { descriptors.add(at).read_unaligned() };
        let ours = entry.d_descriptor;
        // SAFETY: no memory is involved.
        entry.d_descriptor = unsafe { libc::fcntl(ours, libc::F_DUPFD_CLOEXEC, 0) };
        if entry.d_attributes & ffi::DOOR_RELEASE != 0 {
            // SAFETY: the server has given it up.
            unsafe { libc::close(ours) };
        }
        sent.push(entry);
    }
    let reply = if data.is_null() {
        Vec::new()
    } else {
        // SAFETY: the server's reply.
        unsafe { std::slice::from_raw_parts(data.cast::<u8>(), len) }.to_vec()
    };
    answer_with(Ok((reply, sent)));
    let Some(door) = BOUND.with_borrow(Option::clone) else {
        // The process's common pool, to which no door sends a call.
        loop {
            std::thread::park();
        }
    };
    let seat = Arc::new(Seat::default());
    lock(&door.pool).idle.push(Arc::clone(&seat));
    door.changed.notify_all();
    let mut state = lock(&seat.state);
    let request = loop {
        if let Some(request) = state.request.take() {
            break request;
        }
        state = seat
            .changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner);
    };
    drop(state);
    SERVING.set(Some(seat));
    if request.depleted {
        create_server(&door);
    }
    let (start, len) = match &request.data {
        Some(data) => (data.as_ptr().cast_mut(), data.len()),
        None => (ptr::without_provenance_mut(ffi::DOOR_UNREF_DATA), 0),
    };
    // SAFETY: as the kernel would call it; the request lives in this frame, which the procedure stands upon.
    unsafe {
        (door.procedure)(
            ptr::with_exposed_provenance_mut(door.cookie),
            start.cast(),
            len,
            request.descriptors.as_ptr().cast_mut(),
            request.descriptors.len() as c_uint,
        );
    }
    // The procedure has returned: the thread ends.
    answer_with(Err(libc::EINTR));
    loop {
        std::thread::park();
    }
}

fn answer_with(reply: Ended) {
    let Some(seat) = SERVING.take() else { return };
    if let Some(door) = BOUND.with_borrow(Option::clone) {
        lock(&door.pool)
            .active
            .retain(|other| !Arc::ptr_eq(other, &seat));
    }
    let mut state = lock(&seat.state);
    if state.reply.is_none() {
        state.reply = Some(reply);
    }
    seat.changed.notify_all();
}

#[unsafe(no_mangle)]
extern "C" fn door_bind(fd: c_int) -> c_int {
    match door_of(fd) {
        Some(door) if !lock(&door.pool).revoked => {
            BOUND.set(Some(door));
            0
        }
        _ => fail(libc::EBADF),
    }
}

#[unsafe(no_mangle)]
extern "C" fn door_unbind() -> c_int {
    BOUND.take().map_or_else(|| fail(libc::EBADF), |_| 0)
}

#[unsafe(no_mangle)]
extern "C" fn door_revoke(fd: c_int) -> c_int {
    let Some(door) = door_of(fd) else {
        return fail(libc::EBADF);
    };
    lock(&door.pool).revoked = true;
    door.changed.notify_all();
    // SAFETY: the caller gives the descriptor up.
    unsafe { libc::close(fd) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn door_info(fd: c_int, info: *mut door_info_t) -> c_int {
    let Some(door) = door_of(fd) else {
        return fail(libc::EBADF);
    };
    // SAFETY: the caller's structure.
    unsafe { info.write_unaligned(door.info()) };
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn door_getparam(fd: c_int, param: c_int, value: *mut usize) -> c_int {
    let Some(door) = door_of(fd) else {
        return fail(libc::EBADF);
    };
    // SAFETY: the caller's number.
    unsafe { *value = lock(&door.pool).params[param as usize] };
    0
}

#[unsafe(no_mangle)]
extern "C" fn door_setparam(fd: c_int, param: c_int, value: usize) -> c_int {
    let Some(door) = door_of(fd) else {
        return fail(libc::EBADF);
    };
    let mut params = lock(&door.pool).params;
    params[param as usize] = value;
    if params[3] > params[2] {
        return fail(libc::EINVAL);
    }
    lock(&door.pool).params = params;
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn door_ucred(ucred: *mut *mut ucred_t) -> c_int {
    // SAFETY: the caller's pointer; what it points to is never looked at.
    unsafe { *ucred = ptr::dangling_mut() };
    0
}

#[unsafe(no_mangle)]
extern "C" fn ucred_free(_: *mut ucred_t) {}

#[unsafe(no_mangle)]
extern "C" fn ucred_getpid(_: *const ucred_t) -> libc::pid_t {
    std::process::id() as libc::pid_t
}

#[unsafe(no_mangle)]
extern "C" fn ucred_geteuid(_: *const ucred_t) -> libc::uid_t {
    // SAFETY: cannot fail.
    unsafe { libc::geteuid() }
}

#[unsafe(no_mangle)]
extern "C" fn ucred_getegid(_: *const ucred_t) -> libc::gid_t {
    // SAFETY: cannot fail.
    unsafe { libc::getegid() }
}

unsafe fn path_of<'a>(path: *const c_char) -> &'a Path {
    // SAFETY: the caller's C string.
    Path::new(OsStr::from_bytes(
        unsafe { CStr::from_ptr(path) }.to_bytes(),
    ))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fattach(fd: c_int, path: *const c_char) -> c_int {
    // SAFETY: the caller's C string.
    let path = unsafe { path_of(path) };
    if path.is_symlink() {
        return fail(libc::EBUSY);
    }
    // One more reference to the door, which the link leads to.
    // SAFETY: no memory is involved.
    let kept = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) };
    std::fs::remove_file(path).expect("the file that carries the name");
    std::os::unix::fs::symlink(format!("/proc/self/fd/{kept}"), path).expect("a link");
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdetach(path: *const c_char) -> c_int {
    // SAFETY: the caller's C string.
    let path = unsafe { path_of(path) };
    if !path.is_symlink() {
        return fail(libc::EINVAL);
    }
    std::fs::remove_file(path).expect("the link");
    std::fs::File::create(path).expect("the file that carries the name");
    0
}
