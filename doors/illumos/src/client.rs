//! The blocking caller, and what both callers do to open a door and to call it.

use std::ffi::{CString, c_char};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::async_client::AsyncClient;
use crate::call::received;
use crate::error::{Failure, failure};
use crate::wire::{self, Header, Hello, Purpose, Trailer};
use crate::{WRONG_VERSION, ffi};
use transom_doors::{
    Attributes, CallError, CallOptions, ChannelGeometry, Credentials, DESCRIPTORS_MAX, Descriptors,
    Limit, Limits, OpenError, OpenOptions, Patience, PeerState, Refusal, RemoteDoor, Reply, Status,
    Unreferenced,
};

/// Requests of a blocking caller up to this size, with their header, are put together on the stack.
const ON_STACK: usize = 4096;

/// A caller that blocks: `door_call` on the caller's own thread, and the reply in the caller's own buffer. A
/// native call has no time limit, so one with a timeout is made by a thread that is started for the first
/// such call.
#[derive(Debug)]
pub struct Client {
    found: Found,
    options: OpenOptions,
    /// Makes the calls that have a timeout.
    timed: Option<AsyncClient>,
}

impl Client {
    /// Opens the door at `path`.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_with(path, &OpenOptions::default())
    }

    /// The same with other limits. There is one slot, whatever they say.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_with(path: &Path, options: &OpenOptions) -> Result<Self, OpenError> {
        let options = OpenOptions {
            slots: Some(1),
            ..*options
        };
        Ok(Self {
            found: find(path, &options)?,
            options,
            timed: None,
        })
    }

    /// The door.
    pub fn door(&self) -> RemoteDoor {
        self.found.remote_now()
    }

    /// Calls: sends `request`, waits, and puts the reply at the start of `reply`. Returns its length.
    ///
    /// # Errors
    /// [`CallError`], by what may be done next.
    pub fn call(&mut self, request: &[u8], reply: &mut [u8]) -> Result<usize, CallError> {
        self.call_with(request, reply, CallOptions::default())
            .map(|reply| reply.len)
    }

    /// The same, with descriptors or a timeout.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn call_with(
        &mut self,
        request: &[u8],
        reply: &mut [u8],
        options: CallOptions<'_>,
    ) -> Result<Reply, CallError> {
        let limits = self.found.remote.limits;
        if request.len() < limits.data_min {
            return Err(CallError::Refused(Limit::DataMin));
        }
        if request.len() > limits.data_max.min(self.found.geometry.request_size) {
            return Err(CallError::Refused(Limit::DataMax));
        }
        if options.descriptors.len() > limits.descriptors_max as usize {
            return Err(CallError::Refused(Limit::Descriptors));
        }
        // A timeout that no clock reaches is none.
        let deadline = options
            .timeout
            .and_then(|timeout| Instant::now().checked_add(timeout));
        let (status, len, descriptors) = match deadline {
            None => {
                let header = Header {
                    purpose: Purpose::Call,
                    deadline_ns: 0,
                    reply_max: 0,
                };
                let door = self.found.door.as_raw_fd();
                call_bytes(door, &limits, header, request, options.descriptors, reply)?
            }
            Some(deadline) => self.call_until(request, reply, options.descriptors, deadline)?,
        };
        if let Some(error) = CallError::of_status(status) {
            return Err(error);
        }
        match status {
            Status::NOT_ACCEPTED => return Err(CallError::Refused(Limit::Accept)),
            Status::REPLY_TOO_BIG => {
                return Err(CallError::ReplyTooBig {
                    needed: told_size(&reply[..len]),
                });
            }
            WRONG_VERSION => return Err(CallError::NotAccepted),
            _ => {}
        }
        Ok(Reply {
            len,
            status,
            descriptors: if self.options.take_descriptors {
                descriptors
            } else {
                Descriptors::default()
            },
        })
    }

    /// One call by the thread of a channel of one slot.
    fn call_until(
        &mut self,
        request: &[u8],
        reply: &mut [u8],
        descriptors: &[BorrowedFd<'_>],
        deadline: Instant,
    ) -> Result<(Status, usize, Descriptors), CallError> {
        let channel = match &mut self.timed {
            Some(channel) => channel,
            None => {
                let channel = AsyncClient::to(self.found.clone(), self.options.take_descriptors);
                self.timed.insert(channel.map_err(|_| CallError::Full)?)
            }
        };
        // An earlier call that timed out holds the slot until it has ended.
        if channel.free_slots() == 0 {
            channel.drain(|_, _| {});
            while channel.next_lost().is_some() {}
        }
        let slot = channel.reserve().ok_or(CallError::Full)?;
        channel.request_mut(slot)[..request.len()].copy_from_slice(request);
        let left = deadline.saturating_duration_since(Instant::now());
        let deadline_ns = transom_doors::now_ns().saturating_add(left.as_nanos() as u64);
        let submitted = channel
            .submit_with(slot, request.len(), deadline_ns, descriptors)
            .and_then(|()| channel.flush());
        if let Err(error) = submitted {
            while channel.next_lost().is_some() {}
            channel.release(slot);
            return Err(error);
        }
        loop {
            if let Some((slot, completion)) = channel.next_completion() {
                let size = completion.len;
                let outcome = if size <= reply.len() {
                    let len = channel.copy_reply(slot, 0, reply);
                    Ok((completion.status, len, channel.take_descriptors(slot)))
                } else if completion.status == Status::REPLY_TOO_BIG {
                    let needed = told_size(channel.reply(slot));
                    Err(CallError::ReplyTooBig { needed })
                } else {
                    Err(CallError::ReplyTooBig { needed: size })
                };
                channel.release(slot);
                return outcome;
            }
            if let Some((lost, error)) = channel.next_lost() {
                if error == CallError::NotAccepted {
                    channel.release(lost);
                }
                return Err(error);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                channel.abandon(slot);
                return Err(CallError::TimedOut);
            }
            if channel.prepare_wait(Patience::Eager) {
                wait_for_ring(channel.as_raw_fd(), left);
            }
            channel.woke();
        }
    }
}

/// The size that a reply with [`Status::REPLY_TOO_BIG`] tells; the greatest if it tells none.
fn told_size(reply: &[u8]) -> usize {
    let told = reply
        .first_chunk()
        .map(|bytes| u64::from_le_bytes(*bytes))
        .and_then(|told| usize::try_from(told).ok());
    told.unwrap_or(usize::MAX)
}

/// Waits until a doorbell rings, and takes the ring, which would else be heard by every later wait too.
fn wait_for_ring(bell: RawFd, timeout: Duration) {
    let mut poll = libc::pollfd {
        fd: bell,
        events: libc::POLLIN,
        revents: 0,
    };
    // Up, so that a wait of less than a millisecond is one.
    let millis = timeout.as_nanos().div_ceil(1_000_000);
    let millis = libc::c_int::try_from(millis).unwrap_or(libc::c_int::MAX);
    // SAFETY: one pollfd, valid for the call.
    let ready = unsafe { libc::poll(&raw mut poll, 1, millis) };
    if ready > 0 {
        let mut rings = 0_u64;
        // SAFETY: an eventfd gives eight bytes, for which there is room. It is readable, and read by this
        // thread alone.
        unsafe { libc::read(bell, (&raw mut rings).cast(), size_of_val(&rings)) };
    }
}

/// A door that was opened, and what it has said of itself.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub door: Arc<OwnedFd>,
    pub remote: RemoteDoor,
    /// With as many slots as were asked for.
    pub geometry: ChannelGeometry,
}

impl Found {
    /// What is known of the door; whether it was revoked is asked now.
    pub fn remote_now(&self) -> RemoteDoor {
        let mut remote = self.remote;
        remote.attributes.revoked = peer_state(self.door.as_raw_fd()) != PeerState::Serving;
        remote
    }
}

/// Opens the door at `path`, and waits for its first answer for at most `options.timeout`.
pub(crate) fn find(path: &Path, options: &OpenOptions) -> Result<Found, OpenError> {
    let (door, info) = open_path(path)?;
    let door = Arc::new(door);
    let hello = say_hello(&door, path, options.timeout)?;
    let mut geometry = hello.geometry;
    // None or 0: as many as it offers.
    if let Some(slots @ 1..) = options.slots {
        geometry.slots = geometry.slots.min(slots);
    }
    if geometry.check().is_err() {
        return Err(OpenError::Protocol {
            path: path.to_owned(),
        });
    }
    let needed = geometry.memory_len();
    if needed > options.channel_bytes_max {
        return Err(OpenError::Refused {
            path: path.to_owned(),
            why: Refusal::Bytes {
                needed: needed as u64,
                allowed: options.channel_bytes_max as u64,
            },
        });
    }
    let remote = RemoteDoor {
        pid: u32::try_from(info.di_target).unwrap_or(0),
        id: u128::from(info.di_uniquifier),
        attributes: attributes_of(info.di_attributes),
        limits: hello.limits,
        server: Credentials {
            pid: info.di_target,
            uid: hello.uid,
            gid: hello.gid,
        },
    };
    Ok(Found {
        door,
        remote,
        geometry,
    })
}

/// The kernel's attributes in our words.
fn attributes_of(attributes: u32) -> Attributes {
    let has = |attribute| attributes & attribute != 0;
    Attributes {
        refuses_descriptors: has(ffi::DOOR_REFUSE_DESC),
        unreferenced: if has(ffi::DOOR_UNREF_MULTI) {
            Some(Unreferenced::Multi)
        } else {
            has(ffi::DOOR_UNREF).then_some(Unreferenced::Once)
        },
        revoked: has(ffi::DOOR_REVOKED),
    }
}

/// What a door's descriptor leads to.
pub(crate) fn info(door: RawFd) -> io::Result<ffi::door_info_t> {
    let mut info = ffi::door_info_t::EMPTY;
    // SAFETY: `info` is a door_info_t that the call may write; a descriptor that is no door is an error,
    // nothing worse.
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
fn open_path(path: &Path) -> Result<(OwnedFd, ffi::door_info_t), OpenError> {
    let away = || OpenError::Away {
        path: path.to_owned(),
    };
    // Reading is enough for a door; the standard library closes it on exec.
    let door = File::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => away(),
        _ => OpenError::System {
            path: path.to_owned(),
            doing: "open",
            source,
        },
    })?;
    // What is no door is the file that carries a door's name, while nobody has one attached to it.
    let info = info(door.as_raw_fd()).map_err(|_| away())?;
    match state_of(info.di_target, info.di_attributes) {
        PeerState::Serving => Ok((door.into(), info)),
        PeerState::Revoked | PeerState::Gone => Err(away()),
    }
}

/// The first call: which protocol, and which geometry. On a thread of its own, because a native call has no
/// time limit; the thread of a door that does not answer stays until it does, or until its process ends.
fn say_hello(door: &Arc<OwnedFd>, path: &Path, timeout: Duration) -> Result<Hello, OpenError> {
    let (tell, told) = mpsc::sync_channel(1);
    let door = Arc::clone(door);
    let for_thread = path.to_owned();
    std::thread::Builder::new()
        .name("door-hello".into())
        .stack_size(crate::async_client::CALLER_STACK)
        .spawn(move || {
            block_signals();
            // If nobody waits any more, nobody is told.
            let _ = tell.send(hello(door.as_raw_fd(), &for_thread));
        })
        .map_err(|source| OpenError::System {
            path: path.to_owned(),
            doing: "start a thread to speak to",
            source,
        })?;
    told.recv_timeout(timeout)
        .map_err(|_| OpenError::TimedOut {
            path: path.to_owned(),
        })?
}

fn hello(door: RawFd, path: &Path) -> Result<Hello, OpenError> {
    let path = || path.to_owned();
    let refused = |why| OpenError::Refused { path: path(), why };
    let header = Header {
        purpose: Purpose::Hello,
        deadline_ns: 0,
        reply_max: 0,
    };
    // A door with a lower limit of requests has it for this one too.
    let padding = vec![0; wire::request_room(data_min(door)).min(1 << 31)];
    let mut bytes = [0; wire::HELLO_LEN];
    let limits = Limits::default();
    let (status, len, _) = match call_bytes(door, &limits, header, &padding, &[], &mut bytes) {
        Ok(answer) => answer,
        Err(CallError::NotAccepted) => return Err(OpenError::Away { path: path() }),
        Err(CallError::Full) => {
            return Err(OpenError::System {
                path: path(),
                doing: "speak to",
                source: io::ErrorKind::OutOfMemory.into(),
            });
        }
        Err(_) => return Err(OpenError::Protocol { path: path() }),
    };
    match status {
        WRONG_VERSION if len >= 2 => Err(match u16::from_ne_bytes([bytes[0], bytes[1]]) {
            wire::VERSION => OpenError::Protocol { path: path() },
            theirs => refused(Refusal::Version {
                client: wire::VERSION.into(),
                server: theirs.into(),
            }),
        }),
        Status::NOT_ACCEPTED => Err(refused(Refusal::User {
            uid: Credentials::ours().uid.into(),
        })),
        Status::OK if len == wire::HELLO_LEN => {
            Hello::decode(&bytes).ok_or_else(|| OpenError::Protocol { path: path() })
        }
        _ => Err(OpenError::Protocol { path: path() }),
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
    limits: &Limits,
    header: Header,
    request: &[u8],
    descriptors: &[BorrowedFd<'_>],
    reply: &mut [u8],
) -> Result<(Status, usize, Descriptors), CallError> {
    let len = wire::request_size(request.len()).ok_or(CallError::Refused(Limit::DataMax))?;
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
    unsafe {
        exchange(
            door,
            limits,
            NonNull::from(message),
            descriptors,
            place,
            reply.len(),
        )
    }
}

/// One `door_call`: sends `message`, puts the reply at `place`, and returns its status, its length without
/// the trailer, and the descriptors that came along. `limits` are the door's, to name the one that the call
/// breaks.
///
/// A reply that does not fit with its trailer arrives in a mapping that the kernel makes. It is unmapped at
/// once: what fits without the trailer is copied first, the rest is [`CallError::ReplyTooBig`].
///
/// # Safety
/// `message` is initialised, `place` has `room` bytes that may be written, and nobody else uses either until
/// the call returns. Afterwards all `room` bytes at `place` may have been written.
pub(crate) unsafe fn exchange(
    door: RawFd,
    limits: &Limits,
    message: NonNull<[u8]>,
    descriptors: &[BorrowedFd<'_>],
    place: NonNull<u8>,
    room: usize,
) -> Result<(Status, usize, Descriptors), CallError> {
    if descriptors.len() > DESCRIPTORS_MAX {
        return Err(CallError::Refused(Limit::Descriptors));
    }
    let mut sent = [ffi::door_desc_t::sending(-1); DESCRIPTORS_MAX];
    for (entry, descriptor) in sent.iter_mut().zip(descriptors) {
        *entry = ffi::door_desc_t::sending(descriptor.as_raw_fd());
    }
    let mut reply = loop {
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
            break Arrived {
                params,
                place: place.cast::<c_char>().as_ptr(),
            };
        }
        let errno = io::Error::last_os_error().raw_os_error().unwrap_or(0);
        match failure(errno, wire::request_room(message.len()), limits) {
            Failure::Again => {}
            Failure::Ended(error) => return Err(error),
        }
    };
    // SAFETY: `reply` came from door_call just now, with the room at `place`.
    unsafe { reply.take_apart(place, room) }
}

/// What `door_call` has brought, until it is dropped: then its mapping is unmapped.
struct Arrived {
    params: ffi::door_arg_t,
    place: *mut c_char,
}

impl Arrived {
    /// # Safety
    /// `place` has `room` bytes that may be written, and is what the call was made with.
    unsafe fn take_apart(
        &mut self,
        place: NonNull<u8>,
        room: usize,
    ) -> Result<(Status, usize, Descriptors), CallError> {
        // Before anything is said: those that nobody asked for are closed.
        // SAFETY: door_call says that `desc_num` entries lie at `desc_ptr`, which it has just opened for us;
        // here they are taken, once.
        let descriptors = unsafe { received(self.params.desc_ptr, self.params.desc_num) };
        self.params.desc_num = 0;
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
            let needed = match (trailer.status, NonNull::new(data)) {
                (Status::REPLY_TOO_BIG, Some(data)) => {
                    // SAFETY: as above, `len` bytes lie there.
                    let told = NonNull::slice_from_raw_parts(data, len);
                    // SAFETY: the mapping is this call's, and nobody writes it.
                    told_size(unsafe { told.as_ref() })
                }
                _ => len,
            };
            return Err(CallError::ReplyTooBig { needed });
        }
        if data != place.as_ptr() {
            // SAFETY: `len` bytes fit at `place`; `copy` also allows what is not expected, that the two
            // overlap.
            unsafe { ptr::copy(data, place.as_ptr(), len) };
        }
        Ok((trailer.status, len, descriptors))
    }
}

impl Drop for Arrived {
    fn drop(&mut self) {
        if self.params.rbuf != self.place {
            // SAFETY: rbuf was changed, so it is a mapping of `rsize` bytes that the kernel made for this
            // reply; nothing refers to it any more. A failure would leak it, and there is nothing else to be
            // done.
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
    #[cfg(target_os = "linux")]
    use std::os::fd::FromRawFd;

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

    /// An outcome that can be compared.
    fn without((status, len, _): (Status, usize, Descriptors)) -> (Status, usize) {
        (status, len)
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

    /// Takes apart a reply that lies in a mapping of its own, for a caller with `room` bytes. The mapping has
    /// a name, so that it can be told from whatever another thread maps at the same address.
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
        let mut reply = Arrived {
            params,
            place: place.cast().as_ptr(),
        };
        // SAFETY: `own` has `room` bytes.
        let outcome = unsafe { reply.take_apart(place, room) }.map(without);
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
        let mut reply = Arrived {
            params,
            place: place.cast().as_ptr(),
        };
        // SAFETY: `own` has 64 bytes.
        let outcome = unsafe { reply.take_apart(place, 64) }.map(without);
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
            let mut reply = Arrived {
                params,
                place: place.cast().as_ptr(),
            };
            // SAFETY: `own` has 64 bytes.
            let outcome = unsafe { reply.take_apart(place, 64) }.map(without);
            assert_eq!(outcome, Err(CallError::MayHaveRun), "{size} bytes");
        }
    }
}
