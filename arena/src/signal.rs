//! A stack overflow in a handler, and an abort that was seen coming: caught on the bucket's signal stack.
//!
//! A fault is ours only in the guard below a stack of the bucket that this thread is bound to; an abort, only
//! if our panic hook has seen it coming. Everything else goes to the handler that was there before, which by
//! default ends the process: a wild pointer is not exhaustion, and a process in which malloc finds corruption
//! must not go on. A signal that a process has sent is no fault, and changes nothing. (Many at once do: they
//! nest, and the signal stack has room for one frame. But such a sender may end the process anyway.)

use crate::bucket::{Bucket, BucketState};
#[cfg(all(feature = "c-heap", not(miri)))]
use crate::c_heap::is_of_the_c_library;
use crate::events::ABORTING;
use crate::futex::silently;
use crate::panic;
use crate::parking::{park_there, sleep_for_ever, top_of_report_stack};
use crate::recovery::{self, jump, may_jump};
use crate::thread::{bound, thread};
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;

const SIGNALS: [libc::c_int; 3] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGABRT];
/// The same as the kernel's mask has them.
pub(crate) const OF_FAULTS: u64 = bit(SIGNALS[0]) | bit(SIGNALS[1]) | bit(SIGNALS[2]);

/// What the C library uses for itself, and its `pthread_sigmask` leaves alone. (nptl/pthread_sigmask.c)
pub(crate) const OF_THE_C_LIBRARY: u64 = bit(32) | bit(33);

/// Signals that others send: if one has a handler, it may arrive where there is no stack for it.
const OF_OTHERS: u64 = !(OF_FAULTS | OF_THE_C_LIBRARY);

type Previous = [libc::sigaction; SIGNALS.len()];

/// The kernel has sent it itself. (sigaction(2))
const SI_KERNEL: libc::c_int = 0x80;

static PREVIOUS: OnceLock<Previous> = OnceLock::new();

/// Installs the handler, once per process.
pub(crate) fn install() -> io::Result<()> {
    #[cfg(not(miri))]
    crate::fork::this_process_serves();
    if PREVIOUS.get().is_some() {
        return Ok(());
    }
    #[cfg(all(feature = "c-heap", not(miri)))]
    crate::blocked::find_all();
    // SAFETY: a zeroed sigaction is valid (no flags, default action).
    let mut previous: Previous = unsafe { MaybeUninit::zeroed().assume_init() };
    for (signal, previous) in SIGNALS.iter().zip(&mut previous) {
        // SAFETY: as above; sigaction reads one structure and fills the other.
        unsafe { sigaction(*signal, ptr::null(), previous)? };
    }
    // Before the handler can run, so that it finds what it needs. A second thread in the same race stores the
    // same.
    let _ = PREVIOUS.set(previous);
    for signal in SIGNALS {
        // SAFETY: as above. SA_ONSTACK: the thread's own stack is what has run out. SA_NODEFER, and all
        // others blocked: the signal stack has room for one frame of the kernel's and this handler, and not
        // for a profiler.
        unsafe {
            let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            libc::sigfillset(&raw mut action.sa_mask);
            for fault in SIGNALS {
                libc::sigdelset(&raw mut action.sa_mask, fault);
            }
            sigaction(signal, &raw const action, ptr::null_mut())?;
        }
    }
    Ok(())
}

/// The first of these signals that has another handler than ours by now, if one has. One that was installed
/// after ours calls ours, if it was well written, for what it does not know; one that does not call it ends
/// the survival of stack overflows (SIGSEGV), or of `abort` (SIGABRT).
///
/// It is not put behind ours. A program that probes something puts a handler in place for a moment, which
/// leaves by a jump: kept behind ours, it would be called when what it jumps to is long gone. And one that
/// calls ours would be called by it in turn.
#[must_use]
pub fn fault_signal_taken() -> Option<&'static str> {
    PREVIOUS.get()?;
    let is_taken = |&(signal, _): &(libc::c_int, _)| {
        // SAFETY: a zeroed sigaction is valid, and filled.
        let (action, looked) = unsafe {
            let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
            let looked = sigaction(signal, ptr::null(), &raw mut action);
            (action, looked)
        };
        looked.is_ok() && action.sa_sigaction != handler as *const () as usize
    };
    let names = ["SIGSEGV", "SIGBUS", "SIGABRT"];
    let mut all = SIGNALS.into_iter().zip(names);
    all.find(is_taken).map(|(_, name)| name)
}

/// The bit of a signal in the kernel's mask.
const fn bit(signal: libc::c_int) -> u64 {
    1 << (signal - 1)
}

/// Changes the mask of this thread as the kernel does it; gives its error.
pub(crate) fn change_mask(
    how: libc::c_int,
    new: Option<&u64>,
    old: Option<&mut u64>,
) -> libc::c_int {
    let new = new.map_or(ptr::null(), ptr::from_ref);
    let old = old.map_or(ptr::null_mut(), ptr::from_mut);
    silently(|| {
        // SAFETY: the kernel reads one word and writes one.
        match unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, new, old, size_of::<u64>()) } {
            0 => 0,
            // SAFETY: the address of this thread's errno.
            _ => unsafe { *libc::__errno_location() },
        }
    })
}

/// Makes this thread take the signals of faults, whatever mask it has inherited: a blocked one ends the
/// process.
pub(crate) fn take_faults() {
    change_mask(libc::SIG_UNBLOCK, Some(&OF_FAULTS), None);
}

/// Makes this thread take no signals of others from here on. Their handlers may need more stack than is left,
/// while the interrupted code holds a lock.
pub(crate) fn block_those_of_others() {
    change_mask(libc::SIG_BLOCK, Some(&OF_OTHERS), None);
}

/// The same for when the handler of a fault has returned.
fn block_those_of_others_in(context: &mut libc::ucontext_t) {
    let mask = (&raw mut context.uc_sigmask).cast::<u64>();
    // SAFETY: the kernel's mask is the first word.
    unsafe { mask.write(mask.read() | OF_OTHERS) };
}

/// What is blocked on this thread.
pub(crate) fn mask() -> u64 {
    let mut mask = 0;
    change_mask(libc::SIG_BLOCK, None, Some(&mut mask));
    mask
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

/// The signal stack of a bucket.
pub(crate) fn signal_stack(bucket: &Bucket) -> libc::stack_t {
    let (base, size) = bucket.signal_stack();
    libc::stack_t {
        ss_sp: base as *mut _,
        ss_flags: 0,
        ss_size: size,
    }
}

/// Gives this thread the signal stack of its bucket.
pub(crate) fn use_signal_stack(bucket: &Bucket) -> io::Result<()> {
    let stack = signal_stack(bucket);
    // SAFETY: the memory is the bucket's, reserved for this, and outlives the thread.
    if unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

extern "C" fn handler(
    signal: libc::c_int,
    raw_info: *mut libc::siginfo_t,
    raw_context: *mut libc::c_void,
) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo, and the context that it has interrupted,
    // which is ours to change.
    let (info, context) = unsafe { (&*raw_info, &mut *raw_context.cast::<libc::ucontext_t>()) };
    let is_fault = info.si_code > 0;
    if signal == libc::SIGABRT {
        // SAFETY: of a signal that was sent, the sender is known.
        let sent_by_us = unsafe { !is_fault && info.si_pid() == libc::getpid() };
        if let Some(bucket) = bound().filter(|_| sent_by_us) {
            if bucket.state() == BucketState::Parked {
                sleep_for_ever();
            }
            if bucket.events.any(ABORTING) {
                return go_on_parking(bucket, context);
            }
        }
    } else if !is_fault {
        return; // sent by a process: nothing has happened here
    } else if signal == libc::SIGSEGV && info.si_code == SI_KERNEL {
        if had_no_room_for_a_frame(context) {
            return;
        }
    } else if let Some(bucket) = bound() {
        // SAFETY: of a fault the address is known.
        let address = unsafe { info.si_addr() } as usize;
        if bucket.state() == BucketState::Parked
            && (bucket.in_report_guard(address) || bucket.in_stack_guard(address))
        {
            sleep_for_ever(); // the report needs more stack than there is
        }
        if bucket.in_stack_guard(address) {
            jump_if_that_may_be(bucket, context);
            let for_library = needs_library_part(bucket, context);
            if bucket.in_extension(address, for_library)
                && recovery::extend_stack(bucket, for_library)
            {
                block_those_of_others_in(context);
                return; // the instruction is done again
            }
            recovery::note_overflow(bucket);
            return go_on_parking(bucket, context);
        }
    }
    hand_on(signal, raw_info, raw_context);
}

/// Whether a function of the C library, or of another object, was interrupted: it may hold a lock of its own.
fn is_in_library(context: &libc::ucontext_t) -> bool {
    !panic::lies_in_executable(program_counter(context))
}

/// Whether the interrupted code may have all of the extension: it is a function of the C library, or one that
/// it has called.
fn needs_library_part(bucket: &Bucket, context: &libc::ucontext_t) -> bool {
    is_in_library(context) || is_called_by_the_c_library(bucket, context)
}

/// Whether a function of ours was interrupted that stands in for one of the C library's (`malloc`, `free`),
/// and may have been called by it: it says so itself, once it has a frame. Until then its return address is
/// one of the topmost words.
#[cfg(all(feature = "c-heap", not(miri)))]
fn is_called_by_the_c_library(bucket: &Bucket, context: &libc::ucontext_t) -> bool {
    /// More than the registers that a function saves, and a few locals.
    const WORDS: usize = 32;
    let (bottom, size) = bucket.open_stack();
    let first = stack_pointer(context)
        .max(bottom)
        .next_multiple_of(size_of::<usize>());
    let mut words = (first..bottom + size)
        .step_by(size_of::<usize>())
        .take(WORDS);
    thread(|t| t.in_c.get()) > 0
        || is_of_the_c_library(return_register(context))
        || words.any(|place| {
            // SAFETY: a word of this thread's stack that is open, aligned.
            is_of_the_c_library(unsafe { (place as *const usize).read_volatile() })
        })
}

#[cfg(any(not(feature = "c-heap"), miri))]
fn is_called_by_the_c_library(_: &Bucket, _: &libc::ucontext_t) -> bool {
    false
}

/// A frame of a library's is not jumped out of.
fn jump_if_that_may_be(bucket: &Bucket, context: &libc::ucontext_t) {
    if may_jump(bucket) && !is_in_library(context) {
        recovery::note_overflow(bucket);
        // SAFETY: the kernel's mask is the first word. It is what the handler's return would restore.
        let mask = unsafe { (&raw const context.uc_sigmask).cast::<u64>().read() };
        bucket.mask.set(Some(mask));
        jump(bucket);
    }
}

/// A fault without an address. The kernel says so that it had another signal to deliver, and no room on the
/// stack for that; the signal is lost. (Without this, the handler of faults before ours would be called, and
/// the standard library's then puts the default back for all threads.) But an instruction may have done it:
/// then it will do it again, with all registers as they are. Whether the thread is to go on; a stack that has
/// no room is extended first.
fn had_no_room_for_a_frame(context: &mut libc::ucontext_t) -> bool {
    if let Some(bucket) = bound() {
        let least = bucket.geometry().signal_stack_size();
        let is_at_the_end =
            |(bottom, _): (usize, usize)| stack_pointer(context).wrapping_sub(bottom) < least;
        if bucket.state() == BucketState::Parked
            && (is_at_the_end(bucket.report_stack()) || is_at_the_end(bucket.open_stack()))
        {
            sleep_for_ever(); // the report needs more stack than there is
        }
        if is_at_the_end(bucket.open_stack()) {
            let for_library = needs_library_part(bucket, context);
            if !recovery::extend_stack(bucket, for_library) {
                jump_if_that_may_be(bucket, context);
                recovery::note_overflow(bucket);
                go_on_parking(bucket, context);
            }
            block_those_of_others_in(context);
            return true;
        }
    }
    let now = registers(context).fold(1, |sum: u64, register| {
        (sum ^ register).wrapping_mul(0x0100_0000_01b3)
    });
    thread(|t| t.at_fault.replace(now)) != now
}

/// Not ours. A handler that was there before us is called: it may know the fault, and mend it (a runtime that
/// maps its pages when they are first touched). Where there was none, the default is put back, and the
/// instruction faults again.
fn hand_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let index = SIGNALS.iter().position(|&ours| ours == signal);
    let (Some(previous), Some(index)) = (PREVIOUS.get(), index) else {
        return;
    };
    let previous = &previous[index];
    if ![libc::SIG_DFL, libc::SIG_IGN].contains(&previous.sa_sigaction) {
        // SAFETY: the handler that sigaction gave us, of the kind that its flags say, called with what the
        // kernel passes.
        return unsafe { call(previous, signal, info, context) };
    }
    // SAFETY: what sigaction gave us is valid to give back.
    unsafe { libc::sigaction(signal, previous, ptr::null_mut()) };
    if signal == libc::SIGABRT {
        // No instruction will cause it again.
        // SAFETY: raise is async-signal-safe; the signal is not blocked in here (SA_NODEFER).
        unsafe { libc::raise(signal) };
    }
}

/// Calls a handler as the kernel would: with the signals blocked that it wants blocked.
///
/// # Safety
/// The action has a handler, of the kind that its flags say; the signal's information and context are valid.
unsafe fn call(
    action: &libc::sigaction,
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: signal sets are plain data; what is blocked is released again. The handler is as the caller
    // promises.
    unsafe {
        let mut mask = action.sa_mask;
        if action.sa_flags & libc::SA_NODEFER == 0 {
            libc::sigaddset(&raw mut mask, signal);
        }
        let mut before = MaybeUninit::<libc::sigset_t>::uninit();
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const mask, before.as_mut_ptr());
        if action.sa_flags & libc::SA_SIGINFO == 0 {
            let handler: extern "C" fn(libc::c_int) = std::mem::transmute(action.sa_sigaction);
            handler(signal);
        } else {
            let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                std::mem::transmute(action.sa_sigaction);
            handler(signal, info, context);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut());
    }
}

/// Makes the thread go on, once the handler returns, on the report stack, and park there.
#[cfg(target_arch = "x86_64")]
fn go_on_parking(bucket: &'static Bucket, context: &mut libc::ucontext_t) {
    block_those_of_others_in(context);
    // As a call leaves it: a return address below a multiple of 16. Nothing returns to zero.
    let stack = top_of_report_stack(bucket) - size_of::<usize>();
    // SAFETY: the top word of a stack that is not in use yet.
    unsafe { (stack as *mut usize).write(0) };
    let registers = &mut context.uc_mcontext.gregs;
    registers[libc::REG_RIP as usize] = park_there as *const () as i64;
    registers[libc::REG_RSP as usize] = stack as i64;
    registers[libc::REG_RBP as usize] = 0;
    registers[libc::REG_RDI as usize] = ptr::from_ref(bucket) as i64;
    registers[libc::REG_EFL as usize] &= !DIRECTION;
}

/// The direction flag, which is clear when a function is called. (System V ABI, section 3.2.1)
#[cfg(target_arch = "x86_64")]
const DIRECTION: i64 = 0x400;

#[cfg(target_arch = "x86_64")]
fn program_counter(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.gregs[libc::REG_RIP as usize] as usize
}

#[cfg(target_arch = "x86_64")]
fn stack_pointer(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.gregs[libc::REG_RSP as usize] as usize
}

/// Return addresses are on the stack here.
#[cfg(all(feature = "c-heap", not(miri), target_arch = "x86_64"))]
fn return_register(_: &libc::ucontext_t) -> usize {
    0
}

/// The registers that instructions compute with, the program counter and the stack pointer.
#[cfg(target_arch = "x86_64")]
fn registers(context: &libc::ucontext_t) -> impl Iterator<Item = u64> {
    let all = &context.uc_mcontext.gregs[..=libc::REG_RIP as usize];
    all.iter().map(|&register| register as u64)
}

/// Makes the thread go on, once the handler returns, on the report stack, and park there.
#[cfg(target_arch = "aarch64")]
fn go_on_parking(bucket: &'static Bucket, context: &mut libc::ucontext_t) {
    block_those_of_others_in(context);
    let registers = &mut context.uc_mcontext;
    registers.pc = park_there as *const () as u64;
    registers.sp = top_of_report_stack(bucket) as u64;
    registers.regs[0] = ptr::from_ref(bucket) as u64;
    registers.regs[29] = 0;
    registers.regs[30] = 0;
}

#[cfg(target_arch = "aarch64")]
fn program_counter(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.pc as usize
}

#[cfg(target_arch = "aarch64")]
fn stack_pointer(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.sp as usize
}

/// Where a function that has no frame yet has its return address.
#[cfg(all(feature = "c-heap", not(miri), target_arch = "aarch64"))]
fn return_register(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.regs[30] as usize
}

/// The registers that instructions compute with, the program counter and the stack pointer.
#[cfg(target_arch = "aarch64")]
fn registers(context: &libc::ucontext_t) -> impl Iterator<Item = u64> {
    let context = &context.uc_mcontext;
    let all = context.regs.iter().copied();
    all.chain([context.sp, context.pc])
}
