//! Functions of the C library that block all signals for a while: `posix_spawn`, `pthread_create` and what calls them.
//!
//! A stack overflow in one of them could not be caught, and would end the process: a fault whose signal is blocked does.
//! So they are ours, see to it that there is stack, and call the C library's own.
//!
//! For the same reason a thread that runs a request cannot block the signals of faults.

use crate::futex::silently;
use crate::recovery::{STACK_MARGIN, ensure_stack};
use crate::thread::bound;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, Ordering};

/// What they need, with what they allocate: the heap of C wants its margin too.
const STACK: usize = 2 * STACK_MARGIN;

/// Finds the C library's own function of a name that is also ours. `found` holds it once it was.
fn its_own(found: &AtomicPtr<c_void>, name: &CStr) -> NonNull<c_void> {
    let mut function = found.load(Ordering::Relaxed);
    if function.is_null() {
        // SAFETY: a text that ends in NUL; the program itself is what calls, so what comes next is the C library.
        function = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
        found.store(function, Ordering::Relaxed);
    }
    NonNull::new(function).expect("every C library has these")
}

macro_rules! with_stack {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {$(
        #[doc = concat!("`", stringify!($name), "` of the C library.")]
        ///
        /// # Safety
        /// As the C library says.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> $result {
            static ITS_OWN: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
            const NAME: &CStr = match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                Ok(name) => name,
                Err(_) => unreachable!(),
            };
            ensure_stack(STACK);
            let function = its_own(&ITS_OWN, NAME);
            // SAFETY: the function of this name has this type, and takes what C's contract says that we were given.
            unsafe {
                let function: unsafe extern "C" fn($($type),*) -> $result =
                    std::mem::transmute(function.as_ptr());
                function($($argument),*)
            }
        }
    )*};
}

type Actions = libc::posix_spawn_file_actions_t;
type Attributes = libc::posix_spawnattr_t;
type Texts = *const *mut c_char;

with_stack! {
    posix_spawn(pid: *mut libc::pid_t, path: *const c_char, actions: *const Actions, attributes: *const Attributes, arguments: Texts, environment: Texts) -> c_int;
    posix_spawnp(pid: *mut libc::pid_t, file: *const c_char, actions: *const Actions, attributes: *const Attributes, arguments: Texts, environment: Texts) -> c_int;
    system(command: *const c_char) -> c_int;
    popen(command: *const c_char, mode: *const c_char) -> *mut libc::FILE;
    fork() -> libc::pid_t;
    pthread_create(thread: *mut libc::pthread_t, attributes: *const libc::pthread_attr_t, main: extern "C" fn(*mut c_void) -> *mut c_void, argument: *mut c_void) -> c_int;
}

/// `pthread_sigmask` of the C library, except that a thread which runs a request cannot block the signals of faults.
///
/// # Safety
/// As the C library says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_sigmask(
    how: c_int,
    new: *const libc::sigset_t,
    old: *mut libc::sigset_t,
) -> c_int {
    const OF_THE_C_LIBRARY: u64 = bit(32) | bit(33); // nptl/pthread_sigmask.c leaves them alone
    const OF_FAULTS: u64 = bit(libc::SIGSEGV) | bit(libc::SIGBUS) | bit(libc::SIGABRT);
    // SAFETY: C's contract: null, or a set that can be read. The kernel's is its first word.
    let mut set = unsafe { new.cast::<u64>().as_ref() }.copied();
    if let Some(set) = set.as_mut().filter(|_| how != libc::SIG_UNBLOCK) {
        *set &= !OF_THE_C_LIBRARY;
        if bound().is_some() {
            *set &= !OF_FAULTS;
        }
    }
    let new = set.as_ref().map_or(ptr::null(), ptr::from_ref);
    silently(|| {
        // SAFETY: the kernel reads one word and writes one, to a set that can be written to by C's contract.
        match unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, new, old, size_of::<u64>()) } {
            0 => 0,
            _ => errno(),
        }
    })
}

/// `sigprocmask` of the C library, as [`pthread_sigmask`].
///
/// # Safety
/// As the C library says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sigprocmask(
    how: c_int,
    new: *const libc::sigset_t,
    old: *mut libc::sigset_t,
) -> c_int {
    // SAFETY: the caller's promise.
    match unsafe { pthread_sigmask(how, new, old) } {
        0 => 0,
        code => {
            // SAFETY: the address of this thread's errno.
            unsafe { *libc::__errno_location() = code };
            -1
        }
    }
}

const fn bit(signal: c_int) -> u64 {
    1 << (signal - 1)
}

fn errno() -> c_int {
    // SAFETY: the address of this thread's errno.
    unsafe { *libc::__errno_location() }
}
