//! One `door_call`: what goes in, what comes out, and what it means.

use crate::error::{Failure, failure};
use crate::ffi;
use crate::wire::{self, Header, Trailer};
use std::ffi::{c_char, c_int, c_uint};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{self, NonNull};
use transom_doors::{CallError, DESCRIPTORS_MAX, Descriptors, Limit, Limits, Status};

/// Takes what the kernel has opened for this process.
///
/// # Safety
/// `many` entries lie at `entries`, or it is null; their descriptors are open, and nothing else knows them or
/// will take them.
pub unsafe fn received(entries: *const ffi::door_desc_t, many: c_uint) -> Descriptors {
    let mut descriptors = Descriptors::default();
    let many = if entries.is_null() { 0 } else { many as usize };
    for at in 0..many {
        // SAFETY: within the entries; packed, so read unaligned.
        let entry = unsafe { entries.add(at).read_unaligned() };
        let descriptor: c_int = entry.d_descriptor;
        if entry.d_attributes & ffi::DOOR_DESCRIPTOR != 0 && descriptor >= 0 {
            // SAFETY: the kernel has opened it for us, and each entry is taken once.
            descriptors.push(unsafe { OwnedFd::from_raw_fd(descriptor) });
        }
    }
    descriptors
}

/// Requests of a blocking caller up to this size, with their header, are put together on the stack.
pub const ON_STACK: usize = 4096;

/// The size that a reply with [`Status::REPLY_TOO_BIG`] tells; the greatest if it tells none.
pub fn told_size(reply: &[u8]) -> usize {
    let told = reply
        .first_chunk()
        .map(|bytes| u64::from_le_bytes(*bytes))
        .and_then(|told| usize::try_from(told).ok());
    told.unwrap_or(usize::MAX)
}

/// Puts header and request together, calls, and takes the reply apart.
pub fn call_bytes(
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
/// `message` is initialised, `place` has `room` bytes that may be written, and nothing else uses either until
/// the call returns. Afterwards all `room` bytes at `place` may have been written.
pub unsafe fn exchange(
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
pub struct Arrived {
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
        // Before anything is said: descriptors that were not asked for are closed.
        // SAFETY: door_call says that `desc_num` entries lie at `desc_ptr`, which it has just opened for us;
        // here they are taken, once.
        let descriptors = unsafe { received(self.params.desc_ptr, self.params.desc_num) };
        self.params.desc_num = 0;
        let size = self.params.data_size;
        // Another protocol: the call has run, whatever it was.
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
                    // SAFETY: the mapping is this call's, and is not written.
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
            // reply; nothing refers to it any more. A failure would leak it, and nothing else can be done.
            unsafe { libc::munmap(self.params.rbuf.cast(), self.params.rsize) };
        }
    }
}

/// A thread that calls doors takes no signals: each would end a call whose outcome is then unknown.
pub fn block_signals() {
    // SAFETY: sigset_t is plain data; sigfillset initialises it before it is read.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_os = "linux")]
    use std::os::fd::FromRawFd;

    use super::*;

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
        // SAFETY: open, and nothing else knows it.
        let file = std::fs::File::from(unsafe { OwnedFd::from_raw_fd(file) });
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
        // SAFETY: `len` zeroed bytes that nothing else knows.
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
