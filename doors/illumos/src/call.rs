//! One call, as its handler sees it on a door server thread, and the way out when the thread cannot go on.
//!
//! The request lies on the door server thread's own stack, where the kernel has copied it: no other process
//! can change it. The reply is built in a buffer of the thread and sent when the handler has returned.

use std::cell::Cell;
use std::ffi::c_uint;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{BorrowedFd, IntoRawFd};
use std::ptr::{self, NonNull};

use crate::ffi;
use crate::pool::Pool;
use crate::wire::{TRAILER_LEN, Trailer};
use transom_doors::{Credentials, DESCRIPTORS_MAX, Descriptors, Gone, Resumed, Status};

/// What runs behind a door.
pub trait DoorHandler {
    /// Serves one call on door server thread `thread`, and completes it. Returning or unwinding without
    /// [`Call::complete`] completes the call with [`Status::FAULT`].
    fn call(&self, thread: u32, call: &mut Call<'_>);
}

impl<F: Fn(u32, &mut Call<'_>)> DoorHandler for F {
    fn call(&self, thread: u32, call: &mut Call<'_>) {
        self(thread, call);
    }
}

/// Those of the caller whose call this thread serves.
pub(crate) fn caller() -> io::Result<Credentials> {
    let mut ucred = ptr::null_mut();
    // SAFETY: a null pointer asks the C library for memory, which is freed below.
    if unsafe { ffi::door_ucred(&raw mut ucred) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so `ucred` is the C library's own, and freed once.
    unsafe {
        let credentials = Credentials {
            pid: ffi::ucred_getpid(ucred),
            uid: ffi::ucred_geteuid(ucred),
            gid: ffi::ucred_getegid(ucred),
        };
        ffi::ucred_free(ucred);
        Ok(credentials)
    }
}

/// An unknown caller: a user and a group that no process has.
const UNKNOWN: Credentials = Credentials {
    pid: 0,
    uid: u32::MAX,
    gid: u32::MAX,
};

/// A thread's buffer for replies, with room for the trailer. It is there as long as the thread serves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReplyBuffer {
    pub base: NonNull<u8>,
    /// Bytes for a reply; the trailer's come on top.
    pub size: usize,
    /// Room for the entries of [`DESCRIPTORS_MAX`] descriptors.
    pub entries: NonNull<ffi::door_desc_t>,
}

/// What `door_return` is to send: plain numbers, because nothing with a destructor may be alive then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub data: *mut u8,
    pub len: usize,
    pub entries: *mut ffi::door_desc_t,
    pub many: c_uint,
}

impl Answer {
    /// No reply.
    pub const NOTHING: Self = Self {
        data: ptr::null_mut(),
        len: 0,
        entries: ptr::null_mut(),
        many: 0,
    };

    /// The first `len` bytes of the buffer, with their trailer.
    ///
    /// # Safety
    /// The buffer is this thread's, nothing refers to its bytes, and `len` is at most its size.
    pub unsafe fn seal(buffer: ReplyBuffer, len: usize, status: Status) -> Self {
        let trailer = Trailer::new(status, len).encode();
        // SAFETY: the buffer has TRAILER_LEN bytes more than its size.
        unsafe {
            ptr::copy_nonoverlapping(trailer.as_ptr(), buffer.base.as_ptr().add(len), TRAILER_LEN);
        }
        Self {
            data: buffer.base.as_ptr(),
            len: len + TRAILER_LEN,
            entries: ptr::null_mut(),
            many: 0,
        }
    }
}

/// How a call was completed: length and status.
type Completed = Cell<Option<(usize, Status)>>;

/// One request on a door server thread.
#[derive(Debug)]
pub struct Call<'a> {
    pool: &'a Pool,
    request: NonNull<[u8]>,
    reply: ReplyBuffer,
    /// Bytes of reply that the caller has room for, at most the buffer's.
    reply_max: usize,
    deadline_ns: u64,
    claimed_at_ns: u64,
    thread: u32,
    generation: u32,
    completed: Completed,
    descriptors: Option<Descriptors>,
    /// Duplicates that go with the reply.
    sent: Descriptors,
    /// A call stays on its thread.
    not_send: PhantomData<*const ()>,
}

/// What a call is made of.
pub(crate) struct Parts<'a> {
    pub pool: &'a Pool,
    pub request: NonNull<[u8]>,
    pub reply: ReplyBuffer,
    pub reply_max: usize,
    pub deadline_ns: u64,
    pub claimed_at_ns: u64,
    pub thread: u32,
    pub generation: u32,
    pub descriptors: Descriptors,
}

impl<'a> Call<'a> {
    /// # Safety
    /// The request's bytes and the reply buffer are this thread's alone as long as the call lives.
    pub(crate) unsafe fn new(parts: Parts<'a>) -> Self {
        Self {
            pool: parts.pool,
            request: parts.request,
            reply: parts.reply,
            reply_max: parts.reply_max.min(parts.reply.size),
            deadline_ns: parts.deadline_ns,
            claimed_at_ns: parts.claimed_at_ns,
            thread: parts.thread,
            generation: parts.generation,
            completed: Cell::new(None),
            descriptors: Some(parts.descriptors),
            sent: Descriptors::default(),
            not_send: PhantomData,
        }
    }

    /// The request's bytes; empty after completion.
    pub fn request(&self) -> &[u8] {
        if self.is_completed() {
            return &[];
        }
        // SAFETY: the bytes are this thread's (see `new`), initialised by the kernel, and not written while
        // the call lives.
        unsafe { self.request.as_ref() }
    }

    /// The whole request, as a place. There is no slot here: a native call brings the request and no more.
    pub fn request_slot(&self) -> NonNull<[u8]> {
        self.request
    }

    /// Brings `len` bytes at `offset` of the request to where [`request_slot`](Self::request_slot) shows
    /// them: the kernel has brought all of them already.
    ///
    /// # Panics
    /// If they do not lie in the request.
    pub fn fetch_request(&mut self, offset: usize, len: usize) {
        let size = self.request.len();
        assert!(
            offset <= size && len <= size - offset,
            "{len} bytes at {offset} of a request of {size}"
        );
    }

    /// The room for the reply, to build it in place; empty after completion. What an earlier call left is
    /// still there.
    pub fn reply_mut(&mut self) -> &mut [u8] {
        if self.is_completed() {
            return &mut [];
        }
        // SAFETY: the buffer is this thread's (see `new`) and initialised, and `&mut self` makes this the
        // only reference.
        unsafe { std::slice::from_raw_parts_mut(self.reply.base.as_ptr(), self.reply_max) }
    }

    /// When the caller stops caring: `CLOCK_MONOTONIC` in nanoseconds, 0 for never.
    pub fn deadline(&self) -> u64 {
        self.deadline_ns
    }

    /// When this thread took the call up: `CLOCK_MONOTONIC` in nanoseconds.
    pub fn claimed_at_ns(&self) -> u64 {
        self.claimed_at_ns
    }

    /// Native calls have no channel: 0.
    pub fn channel(&self) -> u32 {
        0
    }

    /// Native calls have no slot in the server; the door server thread's index takes its place, since a
    /// thread has one call.
    pub fn slot(&self) -> u32 {
        self.thread
    }

    /// How many calls this thread has had, this one among them.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Whether the final reply is decided.
    pub fn is_completed(&self) -> bool {
        self.completed.get().is_some()
    }

    /// Whether the caller waits no longer: not known of a native call while it runs.
    pub fn is_abandoned(&self) -> bool {
        false
    }

    /// The caller. If the system has no memory to tell it, that is process 0 of a user and a group that no
    /// process has (the greatest number), so that no list of permitted users contains it.
    pub fn cred(&self) -> Credentials {
        caller().unwrap_or(UNKNOWN)
    }

    /// The descriptors that came with the call; the handler's now. What it does not take is closed after the
    /// call.
    pub fn take_descriptors(&mut self) -> Descriptors {
        self.descriptors.take().unwrap_or_default()
    }

    /// Decides the final reply: the first `len` bytes of the buffer. They are sent when the handler has
    /// returned. Once per call; a second completion is a bug that debug builds report and that is otherwise
    /// ignored.
    ///
    /// # Panics
    /// If `len` is more than there is room for.
    pub fn complete(&mut self, len: usize, status: Status) {
        debug_assert!(!self.is_completed(), "a call is completed once");
        if self.is_completed() {
            return;
        }
        assert!(
            len <= self.reply_max,
            "a reply of {len} bytes in a slot of {}",
            self.reply_max
        );
        self.completed.set(Some((len, status)));
    }

    /// As [`complete`](Self::complete): a native call has no reply before its handler has returned.
    ///
    /// # Panics
    /// As `complete`.
    pub fn complete_early(&mut self, len: usize, status: Status) {
        self.complete(len, status);
    }

    /// As [`complete`](Self::complete), and sends duplicates of descriptors along.
    ///
    /// # Errors
    /// There are more than 16, or this process has too many open: nothing was sent, and the call is not
    /// completed.
    ///
    /// # Panics
    /// As `complete`.
    pub fn complete_with(
        &mut self,
        len: usize,
        status: Status,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        if descriptors.len() > DESCRIPTORS_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut sent = Descriptors::default();
        for descriptor in descriptors {
            sent.push(descriptor.try_clone_to_owned()?);
        }
        let before = self.is_completed();
        self.complete(len, status);
        if !before {
            self.sent = sent;
        }
        Ok(())
    }

    /// Completes the call with [`Status::REPLY_TOO_BIG`]: the reply would have `needed` bytes, more than a
    /// slot.
    pub fn reply_too_big(&mut self, needed: usize) {
        let bytes = (needed as u64).to_le_bytes();
        // A caller of this crate has room for a page; another one may have less, and is told no size.
        let len = bytes.len().min(self.reply_max);
        if let Some(place) = self.reply_mut().get_mut(..len) {
            place.copy_from_slice(&bytes[..len]);
        }
        self.complete(len, Status::REPLY_TOO_BIG);
    }

    /// A native call has one reply, and the thread's stack goes with it.
    ///
    /// # Errors
    /// [`Gone`], always.
    pub fn interim(&mut self, len: usize, kind: u32) -> Result<Resumed, Gone> {
        let _ = (len, kind);
        Err(Gone)
    }

    /// A handle with which this call can be ended from a place that cannot return here.
    pub fn emergency(&self) -> EmergencyReply {
        EmergencyReply {
            pool: ptr::from_ref(self.pool),
            completed: &raw const self.completed,
            reply: self.reply,
        }
    }

    /// How the call ended.
    pub(crate) fn outcome(&self) -> (usize, Status) {
        self.completed.get().unwrap_or((0, Status::FAULT))
    }

    /// Writes the entries of the descriptors that go with the reply, and says how many. Their duplicates are
    /// the kernel's then, which closes them here when the reply is on its way.
    pub(crate) fn write_entries(&mut self) -> c_uint {
        let mut many = 0;
        for descriptor in &mut self.sent {
            let entry = ffi::door_desc_t::giving(descriptor.into_raw_fd());
            // SAFETY: there is room for DESCRIPTORS_MAX entries (see `ReplyBuffer`), and `sent` holds no
            // more; packed, so written unaligned.
            unsafe { self.reply.entries.add(many as usize).write_unaligned(entry) };
            many += 1;
        }
        many
    }
}

/// Ends a call whose thread will never run again.
#[derive(Clone, Copy, Debug)]
pub struct EmergencyReply {
    pool: *const Pool,
    completed: *const Completed,
    reply: ReplyBuffer,
}

impl EmergencyReply {
    /// Ends the call with `status` and without a reply; a call that was completed already keeps its own. What
    /// the handler has lent to other threads stays lent: the request and the reply buffer are this thread's,
    /// which takes up no other call, so no other call uses them, and nothing is written there here. (The
    /// caller's slot is in its own process, and is not lost.)
    ///
    /// The thread leaves the door's pool first, so that it never gets another call: **this does not return**
    /// unless the kernel refuses the reply, and then it says whether the call ended here.
    ///
    /// Two system calls; `door_return` is not on the list of async-signal-safe functions, but takes no lock.
    ///
    /// # Safety
    /// - The handler that got the `Call` is still on this thread's stack: it has neither returned nor been
    ///   jumped out of.
    /// - It is called on that thread, at most once.
    /// - If it returns, control never returns to the handler: the caller parks the thread for ever (or ends
    ///   the process).
    pub unsafe fn complete(&self, status: Status) -> bool {
        // SAFETY: the handler's frame, and so the frame with the call that `completed` lies in, is still
        // there; the door is never freed once threads serve it.
        let (pool, completed) = unsafe { (&*self.pool, &*self.completed) };
        let before = completed.get();
        let mut trailer = Trailer::new(status, 0).encode();
        let answer = match before {
            // SAFETY: the buffer is this thread's, and the length was checked when the call was completed,
            // after which its handler has nothing of the buffer any more.
            Some((len, status)) => unsafe { Answer::seal(self.reply, len, status) },
            None => {
                completed.set(Some((0, status)));
                Answer {
                    data: trailer.as_mut_ptr(),
                    len: TRAILER_LEN,
                    ..Answer::NOTHING
                }
            }
        };
        pool.count(before.map_or(status, |(_, status)| status));
        pool.leave_for_good();
        // SAFETY: the answer's bytes are valid for its length, and copied before the call returns or the
        // thread waits. Nothing with a destructor is alive in this frame; those of the handler's frames never
        // run, as its caller has promised.
        unsafe {
            ffi::door_unbind();
            ffi::door_return(answer.data.cast(), answer.len, ptr::null_mut(), 0);
        }
        before.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    #[test]
    fn an_answer_is_the_reply_and_its_trailer() {
        let mut bytes = vec![0; 64 + TRAILER_LEN];
        let mut entry = ffi::door_desc_t::sending(-1);
        let buffer = ReplyBuffer {
            base: NonNull::from(&mut bytes[..]).cast(),
            size: 64,
            entries: NonNull::from(&mut entry),
        };
        for len in [0, 1, 63, 64] {
            // SAFETY: 64 bytes and a trailer's fit, and `bytes` is not used meanwhile.
            let answer = unsafe { Answer::seal(buffer, len, Status(20)) };
            assert_eq!(answer.len, len + TRAILER_LEN);
            // SAFETY: written just now.
            let sent = unsafe { std::slice::from_raw_parts(answer.data, answer.len) };
            let trailer = sent.last_chunk().expect("a trailer");
            let read = wire::Trailer::decode(trailer, sent.len()).expect("ours");
            assert_eq!((read.status, read.len), (Status(20), len));
        }
    }

    #[test]
    fn descriptors_that_nobody_takes_are_closed() {
        let (reader, writer) = io::pipe().expect("a pipe");
        let (taken, untaken) = (
            std::os::fd::IntoRawFd::into_raw_fd(std::os::fd::OwnedFd::from(reader)),
            std::os::fd::IntoRawFd::into_raw_fd(std::os::fd::OwnedFd::from(writer)),
        );
        let mut other = ffi::door_desc_t::sending(taken);
        other.d_attributes = 0;
        let entries = [
            ffi::door_desc_t::sending(taken),
            other,
            ffi::door_desc_t::sending(untaken),
        ];
        // SAFETY: three entries, two open descriptors that nothing else knows.
        let mut descriptors = unsafe { crate::exchange::received(entries.as_ptr(), 3) };
        let reader = std::fs::File::from(descriptors.next().expect("the first"));
        drop(descriptors);
        // The writing end is closed, so there is an end to be read; else this would block for ever.
        let mut read = Vec::new();
        io::Read::read_to_end(&mut &reader, &mut read).expect("an empty pipe");
        assert!(read.is_empty());
    }
}
