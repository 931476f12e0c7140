//! What runs on a door server thread: how it joins the pool, and what the kernel has it do for each call.

use crate::call::{Answer, Call, DoorHandler, Parts, ReplyBuffer, caller};
use crate::exchange::received;
use crate::pool::{NO_GEOMETRY, Pool, guarded};
use crate::wire::{self, Header, Hello, Purpose};
use crate::{WRONG_VERSION, ffi};
use std::cell::Cell;
use std::ffi::{c_char, c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use transom_doors::{Credentials, Descriptors, DoorEvent, Refusal, Status, now_ns};

/// What a door server thread knows of itself.
#[derive(Clone, Copy)]
pub struct Serving {
    pub pool: &'static Pool,
    pub thread: u32,
    pub handler: &'static dyn DoorHandler,
    pub reply: ReplyBuffer,
    pub calls: u32,
}

thread_local! {
    /// Without a destructor, because a door server thread does not end.
    pub static SERVING: Cell<Option<Serving>> = const { Cell::new(None) };
}

/// The process's earlier way to start threads, for doors that are not ours.
pub static EARLIER: OnceLock<Option<ffi::door_server_func_t>> = OnceLock::new();

/// Called by the C library when a call has taken a pool's last idle thread, on that thread, before the call
/// is served; and once inside `door_create`, before we can serve the door.
pub unsafe extern "C" fn depleted(info: *mut ffi::door_info_t) {
    // SAFETY: null for the process's common pool, else the C library's own copy of what the kernel says.
    let known = (!info.is_null()).then(|| unsafe { *info });
    match known {
        Some(info) if info.di_proc == procedure as *const () as u64 => {
            // SAFETY: a door with our procedure has an `Pool` as its cookie, which is never freed.
            let pool = unsafe { &*(info.di_data as usize as *const Pool) };
            if pool.opened.load(Ordering::SeqCst) {
                // A failure is counted, and the next call that takes the last thread tries again.
                let _ = pool.start_thread();
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
/// Nothing on this thread's stack is needed again, by any thread: requests are laid over it.
pub unsafe fn join_pool() {
    // SAFETY: nothing is sent; the caller vouches for the stack.
    unsafe { ffi::door_return(ptr::null_mut(), 0, ptr::null_mut(), 0) };
}

/// What the kernel runs for each call, at the base of a door server thread's stack.
///
/// Two scopes: `answer` has everything with a destructor, and is over when `door_return` takes the stack
/// away.
pub unsafe extern "C" fn procedure(
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
pub unsafe fn answer(
    cookie: *mut c_void,
    data: *mut c_char,
    data_len: usize,
    descriptors: *mut ffi::door_desc_t,
    descriptors_len: c_uint,
) -> Answer {
    // SAFETY: the kernel has opened the descriptors for this call, and lays the entries on this stack.
    let descriptors = unsafe { received(descriptors, descriptors_len) };
    // SAFETY: the cookie of a door of ours is its `Pool`, which is never freed.
    let pool = unsafe { &*cookie.cast::<Pool>() };
    if data as usize == ffi::DOOR_UNREF_DATA {
        if let Some(tell) = &pool.remote.on_unreferenced {
            guarded(tell);
        }
        return Answer::NOTHING;
    }
    let Some(mut serving) = SERVING.get() else {
        // A thread that is not ours was bound to our door. It has no buffer, so its caller gets nothing.
        return Answer::NOTHING;
    };
    serving.calls = serving.calls.wrapping_add(1);
    SERVING.set(Some(serving));
    let active = pool.counts.active.fetch_add(1, Ordering::Relaxed) + 1;
    pool.counts.high_water.fetch_max(active, Ordering::Relaxed);

    let message = match NonNull::new(data.cast::<u8>()) {
        Some(start) => NonNull::slice_from_raw_parts(start, data_len),
        None => NonNull::from(&mut []),
    };
    let (len, status, many) = serve_message(pool, serving, message, descriptors);

    pool.counts.active.fetch_sub(1, Ordering::Relaxed);
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
pub fn serve_message(
    pool: &Pool,
    serving: Serving,
    message: NonNull<[u8]>,
    descriptors: Descriptors,
) -> (usize, Status, c_uint) {
    // SAFETY: the kernel has copied the request onto this stack, and nothing else knows where.
    let bytes = unsafe { message.as_ref() };
    let Ok((header, request_len)) = Header::decode(bytes) else {
        return reply_with(serving.reply, &wire::VERSION.to_ne_bytes(), WRONG_VERSION);
    };
    if let Some(accept) = &pool.remote.accept {
        let caller = caller();
        let welcome = caller
            .as_ref()
            .is_ok_and(|caller| catch_unwind(AssertUnwindSafe(|| accept(caller))).unwrap_or(false));
        if !welcome {
            if let (Purpose::Hello, Ok(client)) = (header.purpose, caller) {
                let uid = u64::from(client.uid);
                let why = Refusal::User { uid };
                pool.tell(&DoorEvent::Refused { client, why });
            }
            return (0, Status::NOT_ACCEPTED, 0);
        }
    }
    if header.purpose == Purpose::Hello {
        if pool.remote.on_event.is_some()
            && let Ok(client) = caller()
        {
            pool.tell(&DoorEvent::Opened { client });
        }
        let ours = Credentials::ours();
        let hello = Hello {
            geometry: pool.remote.geometry.unwrap_or(NO_GEOMETRY),
            limits: pool.limits(),
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
        pool,
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
    pool.count(status);
    // The length is at most the buffer's size: `complete` has checked that.
    (len, status, call.write_entries())
}

pub fn reply_with(buffer: ReplyBuffer, bytes: &[u8], status: Status) -> (usize, Status, c_uint) {
    let len = bytes.len().min(buffer.size);
    // SAFETY: the buffer is this thread's and has room for `len` bytes; `bytes` is a local.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.base.as_ptr(), len) };
    (len, status, 0)
}
