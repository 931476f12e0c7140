//! What a child of a fork finds.
//!
//! It has one thread, the one that forked, and a copy of all memory: also of locks that other threads held,
//! and of the words by which this thread is bound to a request. So the thread that forks takes the locks of
//! our pools first, and both sides release them. The child is bound to no request: it has no client to
//! answer, and where it fails (an abort, a stack that ends, no memory) it must die like any process, and not
//! sleep for ever as a parked request does, with the listeners open and its parent waiting for it.
//!
//! Children that are made without the C library (`clone` by number) are still bound. So parking checks which
//! process it runs in.
//!
//! Fork handlers run last in, first out, before the fork. Those of a library may allocate. So ours are
//! registered before those of any library: the dynamic linker calls what is in `.preinit_array` first.
//! (System V ABI, "Initialization and Termination Functions")

use crate::thread::{begin_era, thread};
use crate::{overdraft, shared};
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

#[used]
#[unsafe(link_section = ".preinit_array")]
static REGISTER: extern "C" fn() = register;

extern "C" fn register() {
    // SAFETY: functions of this program, which stay. It fails only without memory, before the process has
    // started; then a child of a fork may find a lock held, as it would without this.
    unsafe { libc::pthread_atfork(Some(hold), Some(release), Some(begin_anew)) };
}

extern "C" fn hold() {
    overdraft::hold();
    shared::hold();
    #[cfg(feature = "c-heap")]
    crate::c_heap::hold();
}

extern "C" fn release() {
    // SAFETY: `hold` has run in this thread, or in the one that this one was forked from.
    unsafe {
        #[cfg(feature = "c-heap")]
        crate::c_heap::release();
        shared::release();
        overdraft::release();
    }
}

extern "C" fn begin_anew() {
    release();
    #[cfg(feature = "c-heap")]
    crate::blocked::begin_anew();
    be_nobodys_thread();
}

/// The process whose threads are bound.
static PROCESS: AtomicI32 = AtomicI32::new(0);

/// This process has threads that are bound to buckets.
pub(crate) fn this_process_serves() {
    // SAFETY: no preconditions.
    PROCESS.store(unsafe { libc::getpid() }, Ordering::Relaxed);
}

/// Ends this process, unless it is the one whose threads are bound: a child has no client to answer, and must
/// not sleep. Async-signal-safe.
pub(crate) fn end_if_a_child() {
    // SAFETY: no preconditions. A signal's action is put back to its default in a process that is to end by
    // it.
    unsafe {
        if libc::getpid() == PROCESS.load(Ordering::Relaxed) {
            return;
        }
        libc::signal(libc::SIGABRT, libc::SIG_DFL);
        crate::signal::change_mask(libc::SIG_SETMASK, Some(&0), None);
        libc::syscall(
            libc::SYS_tgkill,
            libc::getpid(),
            libc::gettid(),
            libc::SIGABRT,
        );
        libc::_exit(127)
    }
}

/// The only thread of a child is bound to no request.
pub(crate) fn be_nobodys_thread() {
    thread(|t| {
        t.aim.set(ptr::null());
        t.bound.set(ptr::null());
        t.outside.set(0);
        t.pool.set(0);
        t.writing.set(0);
        t.in_c.set(0);
    });
    begin_era(); // what is inside a closure gives nothing back
}
