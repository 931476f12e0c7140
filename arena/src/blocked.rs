//! Functions of the C library in which the stack must not end: those that block all signals for a while
//! (`posix_spawn`, `pthread_create` and what calls them), and those that hold a lock which others wait for
//! (`dlopen`, and what asks the name service). The stack's extension takes care of the C library's other
//! locks: see `geometry.rs`.
//!
//! While all signals are blocked, a stack overflow could not be caught: a fault whose signal is blocked ends
//! the process. So these functions are ours. They check that there is stack, and call the C library's own.
//!
//! For the same reason a thread that runs a request cannot block the signals of faults.

use crate::fork;
use crate::recovery::{STACK_MARGIN, has_stack, park_overflowed};
use crate::signal::{OF_FAULTS, OF_THE_C_LIBRARY, change_mask, signal_stack};
use crate::thread::bound;
use std::arch::naked_asm;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU64, Ordering};

/// What they need, with what they allocate: the heap of C wants its margin too. The stack's extension has it.
const STACK: usize = 3 * STACK_MARGIN;

/// The C library's own function of a name that is also ours.
struct Own {
    name: &'static CStr,
    found: AtomicPtr<c_void>,
}

impl Own {
    const fn of(name: &'static str) -> Self {
        let Ok(name) = CStr::from_bytes_with_nul(name.as_bytes()) else {
            panic!("a text that ends in NUL");
        };
        Own {
            name,
            found: AtomicPtr::new(ptr::null_mut()),
        }
    }

    fn get(&self) -> NonNull<c_void> {
        let mut function = self.found.load(Ordering::Relaxed);
        if function.is_null() {
            function = self.find();
        }
        NonNull::new(function).expect("the caller has found it")
    }

    fn find(&self) -> *mut c_void {
        // SAFETY: a text that ends in NUL; the program itself is what calls, so what comes next is the C
        // library.
        let function = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        self.found.store(function, Ordering::Relaxed);
        function
    }
}

/// Finds all of them now: later, a request that was parked in the dynamic linker may hold its lock.
pub(crate) fn find_all() {
    for own in ALL {
        own.find();
    }
    use_the_name_service();
}

/// At its first use it loads libraries, and ends the process if it gets no memory for that. So it is used
/// before there are requests.
fn use_the_name_service() {
    let mut entry = MaybeUninit::<libc::passwd>::uninit();
    let mut buffer = [0 as c_char; 1024];
    let mut found = ptr::null_mut();
    // SAFETY: places of their sizes. It does not matter whether there is a user 0, or what it is.
    unsafe {
        libc::getpwuid_r(
            0,
            entry.as_mut_ptr(),
            buffer.as_mut_ptr(),
            buffer.len(),
            &raw mut found,
        );
    }
}

/// Makes sure that there is stack. The caller may be a C library that holds a lock: it is not left by a jump.
fn need_stack() {
    if let Some(bucket) = bound().filter(|_| !has_stack(STACK)) {
        park_overflowed(bucket);
    }
}

/// The signals that all threads block because the main thread waits for them: a bit for each.
static BLOCKED_FOR_THE_MAIN_THREAD: AtomicU64 = AtomicU64::new(0);
static MAIN_THREAD: AtomicI32 = AtomicI32::new(0);

/// Says which signals every thread blocks because this one waits for them. New processes that other threads
/// start begin without that: they would not end when they are told to. What such a signal does on a thread
/// that does not block it must not matter.
pub fn do_not_block_in_children(signals: &libc::sigset_t) {
    // SAFETY: the kernel's set is the first word.
    let word = unsafe { ptr::from_ref(signals).cast::<u64>().read() };
    // SAFETY: a system call without preconditions.
    MAIN_THREAD.store(unsafe { libc::gettid() }, Ordering::Relaxed);
    BLOCKED_FOR_THE_MAIN_THREAD.store(word, Ordering::Relaxed);
}

/// While there is one, this thread blocks no signals for the sake of the main thread.
struct AsAChild(Option<u64>);

impl AsAChild {
    /// The main thread goes on blocking them: otherwise it would lose signals that it waits for.
    fn begin() -> Self {
        // SAFETY: a system call without preconditions.
        if unsafe { libc::gettid() } == MAIN_THREAD.load(Ordering::Relaxed) {
            return AsAChild(None);
        }
        let set = BLOCKED_FOR_THE_MAIN_THREAD.load(Ordering::Relaxed);
        // A request whose stack is extended blocks more signals, but its children must not.
        let extended = bound().filter(|bucket| bucket.is_extended());
        let all = extended.map_or(0, |bucket| !bucket.base_mask());
        let mut before = 0;
        if set | all == 0
            || change_mask(libc::SIG_UNBLOCK, Some(&(set | all)), Some(&mut before)) != 0
        {
            return AsAChild(None);
        }
        AsAChild(Some(before))
    }
}

impl Drop for AsAChild {
    fn drop(&mut self) {
        if let Some(before) = self.0 {
            change_mask(libc::SIG_SETMASK, Some(&before), None);
        }
    }
}

/// Functions that are called after there is stack, and by a child's mask if they make one.
macro_rules! with_stack {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty $(, $as_a_child:ident)?;)*) => {$(
        #[doc = concat!("`", stringify!($name), "` of the C library.")]
        ///
        /// # Safety
        /// As the C library says.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> $result {
            need_stack();
            let function = own::$name.get();
            $(let $as_a_child = AsAChild::begin();)?
            // SAFETY: the function of this name has this type, or one that is passed in the same way:
            // pointers and numbers. It takes what C's contract says that we were given.
            let result = unsafe {
                let function: unsafe extern "C" fn($($type),*) -> $result =
                    std::mem::transmute(function.as_ptr());
                function($($argument),*)
            };
            $(drop($as_a_child);)?
            result
        }
    )*

        #[allow(non_upper_case_globals, reason = "they are functions")]
        mod own {
            use super::Own;

            $(pub(super) static $name: Own = Own::of(concat!(stringify!($name), "\0"));)*
            pub(super) static _Fork: Own = Own::of("_Fork\0");
            pub(super) static dlopen: Own = Own::of("dlopen\0");
        }

        static ALL: &[&Own] = &[&own::_Fork, &own::dlopen, $(&own::$name),*];
    };
}

type Actions = libc::posix_spawn_file_actions_t;
type Attributes = libc::posix_spawnattr_t;
type Texts = *const *mut c_char;
/// A structure that is only passed on.
type Passed = *mut c_void;

with_stack! {
    posix_spawn(pid: *mut libc::pid_t, path: *const c_char, actions: *const Actions, attributes: *const Attributes, arguments: Texts, environment: Texts) -> c_int, child;
    posix_spawnp(pid: *mut libc::pid_t, file: *const c_char, actions: *const Actions, attributes: *const Attributes, arguments: Texts, environment: Texts) -> c_int, child;
    system(command: *const c_char) -> c_int, child;
    popen(command: *const c_char, mode: *const c_char) -> *mut libc::FILE, child;
    wordexp(words: *const c_char, expansion: Passed, flags: c_int) -> c_int, child;
    // After these the child goes on here: see `begin_anew` and `_Fork`.
    fork() -> libc::pid_t;
    forkpty(terminal: *mut c_int, name: *mut c_char, settings: Passed, size: Passed) -> libc::pid_t;
    // Under a lock of its own, the name service looks for its sources with the linker.
    getaddrinfo(node: *const c_char, service: *const c_char, hints: *const libc::addrinfo, found: *mut *mut libc::addrinfo) -> c_int;
    getnameinfo(address: Passed, len: libc::socklen_t, host: *mut c_char, host_len: libc::socklen_t, service: *mut c_char, service_len: libc::socklen_t, flags: c_int) -> c_int;
    gethostbyname(name: *const c_char) -> Passed;
    gethostbyname2(name: *const c_char, family: c_int) -> Passed;
    gethostbyaddr(address: Passed, len: libc::socklen_t, family: c_int) -> Passed;
    sethostent(stays: c_int) -> ();
    gethostent() -> Passed;
    getnetbyname(name: *const c_char) -> Passed;
    getnetbyaddr(net: u32, family: c_int) -> Passed;
    getnetent() -> Passed;
    getservbyname(name: *const c_char, protocol: *const c_char) -> Passed;
    getservbyport(port: c_int, protocol: *const c_char) -> Passed;
    getprotobyname(name: *const c_char) -> Passed;
    getpwnam(name: *const c_char) -> Passed;
    getpwuid(user: libc::uid_t) -> Passed;
    getgrnam(name: *const c_char) -> Passed;
    getgrgid(group: libc::gid_t) -> Passed;
    getpwnam_r(name: *const c_char, entry: Passed, buffer: *mut c_char, len: usize, found: Passed) -> c_int;
    getpwuid_r(user: libc::uid_t, entry: Passed, buffer: *mut c_char, len: usize, found: Passed) -> c_int;
    getgrnam_r(name: *const c_char, entry: Passed, buffer: *mut c_char, len: usize, found: Passed) -> c_int;
    getgrgid_r(group: libc::gid_t, entry: Passed, buffer: *mut c_char, len: usize, found: Passed) -> c_int;
    getgrouplist(user: *const c_char, group: libc::gid_t, groups: *mut libc::gid_t, count: *mut c_int) -> c_int;
    initgroups(user: *const c_char, group: libc::gid_t) -> c_int;
    // The linker's lock is held while it calls the function that it is given.
    dl_iterate_phdr(call: Passed, data: *mut c_void) -> c_int;
    // These start threads.
    thrd_create(thread: *mut libc::pthread_t, main: Passed, argument: *mut c_void) -> c_int;
    pthread_create(thread: *mut libc::pthread_t, attributes: *const libc::pthread_attr_t, main: extern "C" fn(*mut c_void) -> *mut c_void, argument: *mut c_void) -> c_int;
    aio_read(block: Passed) -> c_int;
    aio_read64(block: Passed) -> c_int;
    aio_write(block: Passed) -> c_int;
    aio_write64(block: Passed) -> c_int;
    aio_fsync(how: c_int, block: Passed) -> c_int;
    aio_fsync64(how: c_int, block: Passed) -> c_int;
    lio_listio(mode: c_int, blocks: Passed, count: c_int, event: Passed) -> c_int;
    lio_listio64(mode: c_int, blocks: Passed, count: c_int, event: Passed) -> c_int;
    timer_create(clock: libc::clockid_t, event: Passed, timer: Passed) -> c_int;
    mq_notify(queue: c_int, event: Passed) -> c_int;
    getaddrinfo_a(mode: c_int, list: Passed, count: c_int, event: Passed) -> c_int;
}

/// `_Fork` of the C library, which calls no fork handlers.
///
/// # Safety
/// As the C library says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _Fork() -> libc::pid_t {
    need_stack();
    let function = own::_Fork.get();
    // SAFETY: the function of this name has this type.
    let child = unsafe {
        let function: unsafe extern "C" fn() -> libc::pid_t =
            std::mem::transmute(function.as_ptr());
        function()
    };
    if child == 0 {
        begin_anew();
        fork::be_nobodys_thread();
    }
    child
}

/// `vfork` of the C library, as POSIX lets it be: a fork. A child that shares this thread's memory would be
/// this thread to us, and end its request; and it would block the signals that this thread blocks.
///
/// # Safety
/// As the C library says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfork() -> libc::pid_t {
    // SAFETY: the caller's promise.
    unsafe { fork() }
}

/// `dlopen` of the C library. The linker's lock is one that the start of a thread takes too. What a library's
/// own initialisers need is not known. It goes on there by a jump, not by a call: a library is looked for
/// where its caller's are.
///
/// # Safety
/// As the C library says.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void {
    #[cfg(target_arch = "x86_64")]
    naked_asm!(
        "push rdi",
        "push rsi",
        "sub rsp, 8", // calls are made with an aligned stack
        "call {}",
        "add rsp, 8",
        "pop rsi",
        "pop rdi",
        "jmp rax",
        sym real_dlopen
    );
    #[cfg(target_arch = "aarch64")]
    naked_asm!(
        "stp x29, x30, [sp, #-32]!",
        "stp x0, x1, [sp, #16]",
        "bl {}",
        "mov x16, x0",
        "ldp x0, x1, [sp, #16]",
        "ldp x29, x30, [sp], #32",
        "br x16",
        sym real_dlopen
    );
}

extern "C" fn real_dlopen() -> *mut c_void {
    need_stack();
    own::dlopen.get().as_ptr()
}

/// In the child of a fork: it blocks no signals for the sake of a thread that it does not have.
pub(crate) fn begin_anew() {
    std::mem::forget(AsAChild::begin());
}

/// `pthread_sigmask` of the C library, except that a thread which runs a request cannot block the signals of
/// faults.
///
/// # Safety
/// As the C library says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_sigmask(
    how: c_int,
    new: *const libc::sigset_t,
    old: *mut libc::sigset_t,
) -> c_int {
    // SAFETY: C's contract: null, or a set that can be read. The kernel's is its first word.
    let mut set = unsafe { new.cast::<u64>().as_ref() }.copied();
    if let Some(set) = set.as_mut().filter(|_| how != libc::SIG_UNBLOCK) {
        *set &= !OF_THE_C_LIBRARY;
        if bound().is_some() {
            *set &= !OF_FAULTS;
        }
    }
    // SAFETY: C's contract: null, or a set that can be written to.
    change_mask(how, set.as_ref(), unsafe { old.cast::<u64>().as_mut() })
}

/// `sigaltstack` of the C library, except that a thread which runs a request always has a signal stack: if it
/// disables one, it gets its bucket's. Without one, a stack overflow ends the process.
///
/// # Safety
/// As the C library says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sigaltstack(new: *const libc::stack_t, old: *mut libc::stack_t) -> c_int {
    // SAFETY: C's contract: null, or a stack that can be read.
    let disables = unsafe { new.as_ref() }.is_some_and(|new| new.ss_flags & libc::SS_DISABLE != 0);
    let ours = bound().filter(|_| disables).map(signal_stack);
    let new = ours.as_ref().map_or(new, ptr::from_ref);
    // SAFETY: C's contract, which is the kernel's.
    unsafe { libc::syscall(libc::SYS_sigaltstack, new, old) as c_int }
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
