//! A stack overflow in a handler, and a panic that the runtime does not let unwind: caught on the bucket's signal stack.
//!
//! Of faults, only one in the guard page below the stack of the bucket that this thread is bound to is ours; of aborts,
//! only the one that our panic hook has seen coming. Everything else goes to whoever handled it before, which by default
//! ends the process: a wild pointer is not exhaustion, and what malloc finds corrupted must not go on.

use crate::bucket::Bucket;
use crate::cleanup::WayOut;
use crate::recovery::{self, Failed};
use crate::thread::bound;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;

const SIGNALS: [libc::c_int; 3] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGABRT];
type Previous = [libc::sigaction; SIGNALS.len()];

static PREVIOUS: OnceLock<Previous> = OnceLock::new();

/// Installs the handler, once per process.
pub(crate) fn install() -> io::Result<()> {
    if PREVIOUS.get().is_some() {
        return Ok(());
    }
    // SAFETY: a zeroed sigaction is valid (no flags, default action).
    let mut previous: Previous = unsafe { MaybeUninit::zeroed().assume_init() };
    for (signal, previous) in SIGNALS.iter().zip(&mut previous) {
        // SAFETY: as above; sigaction reads one structure and fills the other.
        unsafe { sigaction(*signal, ptr::null(), previous)? };
    }
    // Before the handler can run, so that it finds what it needs. A second thread in the same race stores the same.
    let _ = PREVIOUS.set(previous);
    for signal in SIGNALS {
        // SAFETY: as above. SA_ONSTACK: the thread's own stack is what has run out. SA_NODEFER: the handler is left by a
        // jump, which does not restore the signal mask.
        unsafe {
            let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            sigaction(signal, &raw const action, ptr::null_mut())?;
        }
    }
    Ok(())
}

/// # Safety
/// `new` and `old` are null or valid.
unsafe fn sigaction(
    signal: libc::c_int,
    new: *const libc::sigaction,
    old: *mut libc::sigaction,
) -> io::Result<()> {
    // SAFETY: by the caller's promise.
    if unsafe { libc::sigaction(signal, new, old) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Gives this thread the signal stack of its bucket.
pub(crate) fn use_signal_stack(bucket: &Bucket) -> io::Result<()> {
    let (base, size) = bucket.signal_stack();
    let stack = libc::stack_t {
        ss_sp: base as *mut _,
        ss_flags: 0,
        ss_size: size,
    };
    // SAFETY: the memory is the bucket's, reserved for this, and outlives the thread.
    if unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

extern "C" fn handler(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo.
    let address = unsafe { (*info).si_addr() } as usize;
    if let Some(bucket) = bound() {
        if signal == libc::SIGABRT && bucket.aborting.get() {
            let failed = Failed::Panicked(&bucket.panic_note);
            recovery::park(bucket, failed, WayOut::Unwound);
        }
        if signal != libc::SIGABRT && bucket.in_stack_guard(address) {
            recovery::stack_overflowed(bucket);
        }
    }
    // Not ours: put the previous handler back and return; the instruction faults again and reaches it.
    let index = SIGNALS.iter().position(|&ours| ours == signal);
    if let (Some(previous), Some(index)) = (PREVIOUS.get(), index) {
        // SAFETY: what sigaction gave us is valid to give back.
        unsafe { libc::sigaction(signal, &raw const previous[index], ptr::null_mut()) };
    }
    if signal == libc::SIGABRT {
        // No instruction will do it again.
        // SAFETY: raise is async-signal-safe; the signal is not blocked in here (SA_NODEFER).
        unsafe { libc::raise(signal) };
    }
}
