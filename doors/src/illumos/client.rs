//! The blocking caller, and what both callers do to open a door and to call it.

use std::ffi::{CString, c_char};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use crate::illumos::error::{CallError, Failure, OpenError, failure};
use crate::illumos::ffi;
use crate::illumos::wire::{self, Header, Hello, Purpose, Trailer};
use crate::illumos::{REFUSED, WRONG_VERSION};
use crate::status::Status;

/// The most descriptors that travel with one call.
pub const DESCRIPTORS_MAX: usize = 16;

/// Requests of a blocking caller up to this size, with their header, are put together on the stack.
const ON_STACK: usize = 4096;

/// How to open a door at a path.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// How long the other side may take to answer.
    pub timeout: Duration,
    /// The most bytes of a channel: a door that wants a larger one is refused.
    pub channel_bytes_max: usize,
    /// Slots of the channel, at most as many as the door offers; `None`: as many as it offers. Each is a thread here.
    pub slots: Option<u32>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(1),
            channel_bytes_max: 256 << 20,
            slots: None,
        }
    }
}

/// What the server's side does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// It takes calls.
    Serving,
    /// The door was revoked: calls under way complete, new ones are refused.
    Revoked,
    /// The process has ended: nothing more comes.
    Gone,
}

/// A caller that blocks: `door_call` on the caller's own thread, and the reply in the caller's own buffer.
///
/// Any number of threads may call at once.
#[derive(Debug)]
pub struct Client {
    door: OwnedFd,
}

impl Client {
    /// Opens the door at `path`, as [`open_with`](Self::open_with) with the default options.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_with(path, &OpenOptions::default())
    }

    /// Opens the door at `path`, and waits for its first answer for at most `options.timeout`.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_with(path: &Path, options: &OpenOptions) -> Result<Self, OpenError> {
        let door = Arc::new(open_path(path)?);
        say_hello(&door, options.timeout)?;
        let door = door.try_clone().map_err(|source| OpenError::Resource {
            what: "descriptor",
            source,
        })?;
        Ok(Self { door })
    }

    /// Calls the door with `request` and blocks until the reply is in `reply`. Returns its length.
    ///
    /// # Errors
    /// [`CallError`]. After [`CallError::ReplyTooBig`] the call has run, and its reply is gone. A handler that panicked is
    /// [`CallError::MayHaveRun`].
    pub fn call(&self, request: &[u8], reply: &mut [u8]) -> Result<usize, CallError> {
        let header = Header {
            purpose: Purpose::Call,
            deadline_ns: 0,
            reply_max: 0,
        };
        let (status, len) = call_bytes(self.door.as_raw_fd(), header, request, reply)?;
        match status {
            Status::FAULT => Err(CallError::MayHaveRun),
            REFUSED | WRONG_VERSION => Err(CallError::Refused("accept")),
            _ => Ok(len),
        }
    }

    /// The door's descriptor, which can be passed to another process.
    pub fn as_raw_fd(&self) -> RawFd {
        self.door.as_raw_fd()
    }

    /// Whether the door still takes calls.
    pub fn check_peer(&self) -> PeerState {
        peer_state(self.door.as_raw_fd())
    }
}

/// What a door's descriptor leads to.
pub(crate) fn info(door: RawFd) -> io::Result<ffi::door_info_t> {
    let mut info = ffi::door_info_t::EMPTY;
    // SAFETY: `info` is a door_info_t that the call may write; a descriptor that is no door is an error, nothing worse.
    if unsafe { ffi::door_info(door, &raw mut info) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(info)
}

/// Whether the door still takes calls, and if not, whether those under way will end.
pub(crate) fn peer_state(door: RawFd) -> PeerState {
    match info(door) {
        Err(_) => PeerState::Gone,
        Ok(info) => state_of(info.di_target, info.di_attributes),
    }
}

/// A door without a process is gone; a revoked one finishes what it has.
fn state_of(target: libc::pid_t, attributes: u32) -> PeerState {
    if target < 0 {
        PeerState::Gone
    } else if attributes & ffi::DOOR_REVOKED != 0 {
        PeerState::Revoked
    } else {
        PeerState::Serving
    }
}

/// Opens the door that is attached to `path`.
pub(crate) fn open_path(path: &Path) -> Result<OwnedFd, OpenError> {
    let failed = |source| OpenError::Path {
        path: path.to_owned(),
        source,
    };
    // Reading is enough for a door; the standard library closes it on exec.
    let door = OwnedFd::from(File::open(path).map_err(failed)?);
    let info = info(door.as_raw_fd()).map_err(|_| OpenError::NotADoor {
        path: path.to_owned(),
    })?;
    match state_of(info.di_target, info.di_attributes) {
        PeerState::Serving => Ok(door),
        PeerState::Revoked | PeerState::Gone => Err(OpenError::Dead {
            path: path.to_owned(),
        }),
    }
}

/// The first call: which protocol, and which geometry. On a thread of its own, because a native call has no time limit; the
/// thread of a door that does not answer stays until it does, or until its process ends.
pub(crate) fn say_hello(door: &Arc<OwnedFd>, timeout: Duration) -> Result<Hello, OpenError> {
    let (tell, told) = mpsc::sync_channel(1);
    let door = Arc::clone(door);
    std::thread::Builder::new()
        .name("door-hello".into())
        .stack_size(super::async_client::CALLER_STACK)
        .spawn(move || {
            block_signals();
            // If nobody waits any more, nobody is told.
            let _ = tell.send(hello(door.as_raw_fd()));
        })
        .map_err(|source| OpenError::Resource {
            what: "thread",
            source,
        })?;
    told.recv_timeout(timeout)
        .map_err(|_| OpenError::TimedOut(timeout))?
}

fn hello(door: RawFd) -> Result<Hello, OpenError> {
    let header = Header {
        purpose: Purpose::Hello,
        deadline_ns: 0,
        reply_max: 0,
    };
    // A door with a lower limit of requests has it for this one too.
    let padding = vec![0; wire::request_room(data_min(door)).min(1 << 31)];
    let mut bytes = [0; wire::HELLO_LEN];
    let (status, len) = match call_bytes(door, header, &padding, &mut bytes) {
        Ok(answer) => answer,
        Err(CallError::MayHaveRun | CallError::ReplyTooBig { .. }) => {
            return Err(OpenError::Foreign);
        }
        Err(error) => return Err(error.into()),
    };
    match status {
        WRONG_VERSION if len >= 2 => Err(match u16::from_ne_bytes([bytes[0], bytes[1]]) {
            wire::VERSION => OpenError::Foreign,
            theirs => OpenError::Version {
                ours: wire::VERSION,
                theirs,
            },
        }),
        REFUSED => Err(CallError::Refused("accept").into()),
        Status::OK if len == wire::HELLO_LEN => Hello::decode(&bytes).ok_or(OpenError::Foreign),
        _ => Err(OpenError::Foreign),
    }
}

fn data_min(door: RawFd) -> usize {
    let mut value = 0_usize;
    // SAFETY: the call writes one number of this size.
    let failed = unsafe { ffi::door_getparam(door, ffi::DOOR_PARAM_DATA_MIN, &raw mut value) } != 0;
    if failed { 0 } else { value }
}

/// Puts header and request together, calls, and takes the reply apart.
fn call_bytes(
    door: RawFd,
    header: Header,
    request: &[u8],
    reply: &mut [u8],
) -> Result<(Status, usize), CallError> {
    let len = wire::request_size(request.len()).ok_or(CallError::Refused("data_max"))?;
    let mut on_stack = [0; ON_STACK];
    let mut on_heap = Vec::new();
    let message = if len <= ON_STACK {
        &mut on_stack[..len]
    } else {
        on_heap
            .try_reserve_exact(len)
            .map_err(|_| CallError::Full)?;
        on_heap.resize(len, 0);
        &mut on_heap[..]
    };
    let (before, after) = message.split_at_mut(wire::HEADER_LEN);
    before.copy_from_slice(&header.encode());
    after.copy_from_slice(request);
    let place = NonNull::from(&mut *reply).cast::<u8>();
    // SAFETY: `message` is initialised, `reply` is writable and borrowed exclusively; both outlive the call.
    unsafe { exchange(door, NonNull::from(message), &[], place, reply.len()) }
}

/// One `door_call`: sends `message`, puts the reply at `place`, and returns its status and length without the trailer.
///
/// A reply that does not fit with its trailer arrives in a mapping that the kernel makes. It is unmapped at once: what fits
/// without the trailer is copied first, the rest is [`CallError::ReplyTooBig`].
///
/// # Safety
/// `message` is initialised, `place` has `room` bytes that may be written, and nobody else uses either until the call returns.
/// Afterwards all `room` bytes at `place` may have been written.
pub(crate) unsafe fn exchange(
    door: RawFd,
    message: NonNull<[u8]>,
    descriptors: &[BorrowedFd<'_>],
    place: NonNull<u8>,
    room: usize,
) -> Result<(Status, usize), CallError> {
    if descriptors.len() > DESCRIPTORS_MAX {
        return Err(CallError::Refused("descriptors_max"));
    }
    let mut sent = [ffi::door_desc_t::sending(-1); DESCRIPTORS_MAX];
    for (entry, descriptor) in sent.iter_mut().zip(descriptors) {
        *entry = ffi::door_desc_t::sending(descriptor.as_raw_fd());
    }
    let reply = loop {
        let mut params = ffi::door_arg_t {
            data_ptr: message.cast::<c_char>().as_ptr(),
            data_size: message.len(),
            desc_ptr: if descriptors.is_empty() {
                ptr::null_mut()
            } else {
                sent.as_mut_ptr()
            },
            desc_num: descriptors.len() as u32,
            rbuf: place.cast::<c_char>().as_ptr(),
            rsize: room,
        };
        // SAFETY: the caller vouches for message and place; `sent` holds as many entries as `desc_num` says.
        if unsafe { ffi::door_call(door, &raw mut params) } == 0 {
            break Reply {
                params,
                place: place.cast::<c_char>().as_ptr(),
            };
        }
        let errno = io::Error::last_os_error().raw_os_error().unwrap_or(0);
        match failure(errno) {
            Failure::Again => {}
            Failure::Ended(error) => return Err(error),
        }
    };
    // SAFETY: `reply` came from door_call just now, with the room at `place`.
    unsafe { reply.take_apart(place, room) }
}

/// What `door_call` has brought, until it is dropped: then its mapping is unmapped, and descriptors that nobody asked for
/// are closed.
struct Reply {
    params: ffi::door_arg_t,
    place: *mut c_char,
}

impl Reply {
    /// # Safety
    /// `place` has `room` bytes that may be written, and is what the call was made with.
    unsafe fn take_apart(
        &self,
        place: NonNull<u8>,
        room: usize,
    ) -> Result<(Status, usize), CallError> {
        let size = self.params.data_size;
        // Somebody else's protocol: it has run, whatever it is.
        let len = size
            .checked_sub(wire::TRAILER_LEN)
            .ok_or(CallError::MayHaveRun)?;
        let data = self.params.data_ptr.cast::<u8>();
        if data.is_null() {
            return Err(CallError::MayHaveRun);
        }
        let mut trailer = [0; wire::TRAILER_LEN];
        // SAFETY: door_call says that `size` bytes lie at `data`; the trailer is the last of them.
        unsafe { ptr::copy_nonoverlapping(data.add(len), trailer.as_mut_ptr(), trailer.len()) };
        let trailer = Trailer::decode(&trailer, size).ok_or(CallError::MayHaveRun)?;
        if len > room {
            return Err(CallError::ReplyTooBig { needed: len });
        }
        if data != place.as_ptr() {
            // SAFETY: `len` bytes fit at `place`; `copy` also allows what is not expected, that the two overlap.
            unsafe { ptr::copy(data, place.as_ptr(), len) };
        }
        Ok((trailer.status, len))
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.params.desc_ptr.is_null() {
            for at in 0..self.params.desc_num as usize {
                // SAFETY: door_call says that `desc_num` entries lie at `desc_ptr`, packed, so read unaligned.
                let entry = unsafe { self.params.desc_ptr.add(at).read_unaligned() };
                if entry.d_attributes & ffi::DOOR_DESCRIPTOR != 0 {
                    // SAFETY: the kernel has just opened it for us, and nobody else knows it.
                    drop(unsafe { OwnedFd::from_raw_fd(entry.d_descriptor) });
                }
            }
        }
        if self.params.rbuf != self.place {
            // SAFETY: rbuf was changed, so it is a mapping of `rsize` bytes that the kernel made for this reply; nothing
            // refers to it any more. A failure would leak it, and there is nothing else to be done.
            unsafe { libc::munmap(self.params.rbuf.cast(), self.params.rsize) };
        }
    }
}

/// A thread that calls doors takes no signals: each would end a call whose outcome is then unknown.
pub(crate) fn block_signals() {
    // SAFETY: sigset_t is plain data; sigfillset initialises it before it is read.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, ptr::null_mut());
    }
}

/// A path as the system wants it; `None` if it has a zero byte.
pub(crate) fn c_path(path: &Path) -> Option<CString> {
    CString::new(path.as_os_str().as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_without_a_process_is_gone_and_a_revoked_one_is_not() {
        assert_eq!(state_of(17, 0), PeerState::Serving);
        assert_eq!(
            state_of(17, ffi::DOOR_LOCAL | ffi::DOOR_REFUSE_DESC),
            PeerState::Serving
        );
        assert_eq!(state_of(17, ffi::DOOR_REVOKED), PeerState::Revoked);
        assert_eq!(state_of(-1, ffi::DOOR_REVOKED), PeerState::Gone);
        assert_eq!(state_of(-1, 0), PeerState::Gone);
    }

    /// A reply of `body` with its trailer, as door_call would leave it at `data`.
    fn arrived(data: &mut [u8], body: &[u8], status: Status) -> ffi::door_arg_t {
        data[..body.len()].copy_from_slice(body);
        let size = body.len() + wire::TRAILER_LEN;
        data[body.len()..size].copy_from_slice(&Trailer::new(status, body.len()).encode());
        ffi::door_arg_t {
            data_ptr: data.as_mut_ptr().cast(),
            data_size: size,
            desc_ptr: ptr::null_mut(),
            desc_num: 0,
            rbuf: data.as_mut_ptr().cast(),
            rsize: size,
        }
    }

    /// Takes apart a reply that lies in a mapping of its own, for a caller with `room` bytes. The mapping has a name, so
    /// that it can be told from whatever another thread maps at the same address.
    #[cfg(target_os = "linux")]
    fn overflowed(
        name: &std::ffi::CStr,
        body: &[u8],
        room: usize,
    ) -> (Result<(Status, usize), CallError>, Vec<u8>) {
        let is_mapped = || {
            let maps = std::fs::read_to_string("/proc/self/maps").expect("the list of mappings");
            maps.contains(name.to_str().expect("a plain name"))
        };
        let len = 64 << 10;
        // SAFETY: the name outlives the call; what comes back is checked below.
        let file = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
        assert!(file >= 0);
        // SAFETY: open, and nobody else knows it.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(file) });
        file.set_len(len as u64).expect("memory");
        // SAFETY: a fresh mapping, checked below.
        let mapping = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(mapping, libc::MAP_FAILED);
        assert!(is_mapped());
        // SAFETY: `len` zeroed bytes that nobody else knows.
        let data = unsafe { std::slice::from_raw_parts_mut(mapping.cast::<u8>(), len) };
        let mut params = arrived(data, body, Status::OK);
        params.rsize = len;
        let mut own = vec![0; room];
        let place = NonNull::from(&mut own[..]).cast::<u8>();
        let reply = Reply {
            params,
            place: place.cast().as_ptr(),
        };
        // SAFETY: `own` has `room` bytes.
        let outcome = unsafe { reply.take_apart(place, room) };
        drop(reply);
        assert!(!is_mapped(), "the overflow mapping is still there");
        (outcome, own)
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_overflow_that_fits_without_its_trailer_is_copied_and_unmapped() {
        let (outcome, own) = overflowed(c"transom-overflow-10", b"0123456789", 10);
        assert_eq!(outcome, Ok((Status::OK, 10)));
        assert_eq!(own, b"0123456789");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_overflow_that_does_not_fit_tells_the_size_and_is_unmapped() {
        let (outcome, own) = overflowed(c"transom-overflow-9", b"0123456789", 9);
        assert_eq!(outcome, Err(CallError::ReplyTooBig { needed: 10 }));
        assert_eq!(own, [0; 9]);
    }

    #[test]
    fn a_reply_in_place_stays_there() {
        let mut own = [0; 64];
        let params = arrived(&mut own, b"in place", Status(99));
        let place = NonNull::from(&mut own[..]).cast::<u8>();
        let reply = Reply {
            params,
            place: place.cast().as_ptr(),
        };
        // SAFETY: `own` has 64 bytes.
        let outcome = unsafe { reply.take_apart(place, 64) };
        drop(reply);
        assert_eq!(outcome, Ok((Status(99), 8)));
        assert_eq!(&own[..8], b"in place");
    }

    #[test]
    fn a_reply_without_a_trailer_may_have_run() {
        for size in [0, 3, 15, 16, 40] {
            let mut own = [b'x'; 64];
            let mut params = arrived(&mut own, b"", Status::OK);
            own.fill(b'x');
            params.data_size = size;
            let place = NonNull::from(&mut own[..]).cast::<u8>();
            let reply = Reply {
                params,
                place: place.cast().as_ptr(),
            };
            // SAFETY: `own` has 64 bytes.
            let outcome = unsafe { reply.take_apart(place, 64) };
            assert_eq!(outcome, Err(CallError::MayHaveRun), "{size} bytes");
        }
    }
}
