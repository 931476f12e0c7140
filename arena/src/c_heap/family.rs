//! The functions themselves, with their C names. Each passes on where it was called from. A compiled function
//! cannot know that, so each begins with an instruction or two of assembly. (man 3 malloc, posix_memalign,
//! malloc_usable_size, abort)

use super::library::{__libc_calloc, __libc_malloc, __libc_memalign, __libc_realloc, usable_size};
use super::{ALIGN, allocate_in, deallocate, deallocate_elsewhere, layout, owns, reallocate};
use crate::futex::silently;
use crate::recovery::{self, STACK_MARGIN, is_stack_left};
use crate::thread::bound;
use std::arch::naked_asm;
use std::io::Write;
use std::ptr::{self, NonNull};

const PAGE: usize = crate::bound::PAGE;

/// Defines a C function that calls `$inner` with the same arguments and one more, its own return address: the
/// register is the first that the arguments leave free. (System V ABI for x86-64, AAPCS64)
macro_rules! with_caller {
    ($name:ident => $inner:ident, $x86_64:literal, $aarch64:literal, ($($argument:ident: $type:ty),*) -> $result:ty) => {
        #[doc = concat!("`", stringify!($name), "` of the C library.")]
        ///
        /// # Safety
        /// As the C library says.
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> $result {
            #[cfg(target_arch = "x86_64")]
            naked_asm!(concat!("mov ", $x86_64, ", [rsp]"), "jmp {}", sym $inner);
            #[cfg(target_arch = "aarch64")]
            naked_asm!(concat!("mov ", $aarch64, ", x30"), "b {}", sym $inner);
        }
    };
}

with_caller!(malloc => malloc_from, "rsi", "x1", (size: usize) -> *mut u8);
with_caller!(calloc => calloc_from, "rdx", "x2", (count: usize, size: usize) -> *mut u8);
with_caller!(realloc => realloc_from, "rdx", "x2", (block: *mut u8, size: usize) -> *mut u8);
with_caller!(reallocarray => reallocarray_from, "rcx", "x3", (block: *mut u8, count: usize, size: usize) -> *mut u8);
with_caller!(posix_memalign => posix_memalign_from, "rcx", "x3", (out: *mut *mut u8, align: usize, size: usize) -> libc::c_int);
with_caller!(aligned_alloc => memalign_from, "rdx", "x2", (align: usize, size: usize) -> *mut u8);
with_caller!(memalign => memalign_from, "rdx", "x2", (align: usize, size: usize) -> *mut u8);
with_caller!(valloc => valloc_from, "rsi", "x1", (size: usize) -> *mut u8);
with_caller!(pvalloc => pvalloc_from, "rsi", "x1", (size: usize) -> *mut u8);

/// `free` of the C library.
///
/// # Safety
/// As the C library says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free(block: *mut u8) {
    let Some(block) = NonNull::new(block) else {
        return;
    };
    if owns(block.as_ptr()) {
        // SAFETY: it lies in the C heap, so it was made there; C's contract says that it is not used again.
        unsafe { deallocate(block) };
    } else {
        // SAFETY: made by the C library; the same contract.
        unsafe { deallocate_elsewhere(block) };
    }
}

/// `malloc_usable_size` of the C library.
///
/// # Safety
/// As the C library says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_usable_size(block: *mut u8) -> usize {
    match NonNull::new(block) {
        None => 0,
        // SAFETY: it lies in the C heap and is live, by C's contract.
        Some(ours) if owns(block) => unsafe { super::C_HEAP.size_of(ours) },
        // SAFETY: made by the C library, and live.
        Some(_) => unsafe { usable_size(block) },
    }
}

/// `abort` of the C library. On a thread that runs a request it ends that request: its client gets a 500, and
/// the thread sleeps for ever. If the C library finds itself broken (a corrupted heap, a smashed stack), it
/// does not call this, and ends the process.
#[unsafe(no_mangle)]
pub extern "C" fn abort() -> ! {
    if let Some(bucket) = bound() {
        recovery::aborted(bucket);
    }
    // SAFETY: as the C library does it: the signal is unblocked, and finally gets its default action.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGABRT);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut());
        libc::raise(libc::SIGABRT);
        libc::signal(libc::SIGABRT, libc::SIG_DFL);
        libc::raise(libc::SIGABRT);
        libc::_exit(127)
    }
}

/// What C's `assert` calls when it fails: says so on standard error, and aborts. The C library's own does not
/// call the `abort` above.
///
/// # Safety
/// As the C library says: texts, or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __assert_fail(
    assertion: *const libc::c_char,
    file: *const libc::c_char,
    line: libc::c_uint,
    function: *const libc::c_char,
) -> ! {
    let text = |text: *const libc::c_char| match text.is_null() {
        true => c"?",
        // SAFETY: a text, by the caller's promise.
        false => unsafe { std::ffi::CStr::from_ptr(text) },
    };
    let mut message = [0u8; 1024];
    let mut rest = &mut message[..];
    let (file, function, assertion) = (text(file), text(function), text(assertion));
    for part in [file, c":"].map(std::ffi::CStr::to_bytes) {
        let _ = rest.write(part);
    }
    let _ = write!(rest, "{line}: ");
    for part in [function, c": assertion `", assertion, c"' failed\n"].map(std::ffi::CStr::to_bytes)
    {
        let _ = rest.write(part);
    }
    let left = rest.len();
    // SAFETY: of the message so many bytes are written; write(2) only reads them.
    unsafe {
        libc::write(
            libc::STDERR_FILENO,
            message.as_ptr().cast(),
            message.len() - left,
        )
    };
    abort()
}

fn out_of_memory() -> *mut u8 {
    // SAFETY: the address of this thread's errno.
    unsafe { *libc::__errno_location() = libc::ENOMEM };
    ptr::null_mut()
}

/// A block of this alignment, a power of two.
///
/// # Safety
/// None beyond C's.
pub(super) unsafe fn allocate(size: usize, align: usize, caller: usize) -> *mut u8 {
    let Some(bucket) = bound() else {
        // SAFETY: they take any size, and an alignment that is a power of two.
        return unsafe {
            if align <= ALIGN {
                __libc_malloc(size).cast()
            } else {
                __libc_memalign(align, size).cast()
            }
        };
    };
    let block = layout(size, align).map_or(ptr::null_mut(), |layout| {
        allocate_in(bucket, layout, caller)
    });
    if block.is_null() {
        return out_of_memory();
    }
    block
}

unsafe extern "C" fn malloc_from(size: usize, caller: usize) -> *mut u8 {
    // SAFETY: C's contract.
    unsafe { allocate(size, ALIGN, caller) }
}

unsafe extern "C" fn calloc_from(count: usize, size: usize, caller: usize) -> *mut u8 {
    if bound().is_none() {
        // SAFETY: it takes any numbers.
        return unsafe { __libc_calloc(count, size) }.cast();
    }
    let Some(size) = count.checked_mul(size) else {
        return out_of_memory();
    };
    // SAFETY: C's contract; the block has that size.
    unsafe {
        let block = allocate(size, ALIGN, caller);
        if !block.is_null() {
            block.write_bytes(0, size);
        }
        block
    }
}

unsafe extern "C" fn realloc_from(block: *mut u8, size: usize, caller: usize) -> *mut u8 {
    let Some(ours) = NonNull::new(block) else {
        // SAFETY: C's contract: the same as malloc.
        return unsafe { allocate(size, ALIGN, caller) };
    };
    if owns(block) {
        if size == 0 {
            // SAFETY: C's contract: glibc frees it.
            unsafe { deallocate(ours) };
            return ptr::null_mut();
        }
        // SAFETY: it lies in the C heap and is live, by C's contract.
        return unsafe { reallocate(ours, size, caller) };
    }
    // What was made outside requests stays where it is while it does not grow, and grows in the heap of
    // requests if it grows in one.
    // SAFETY: made by the C library and live, by C's contract.
    let had = unsafe { usable_size(block) };
    if size <= had && size > 0 && !is_stack_left(STACK_MARGIN) {
        return block; // it need not become smaller, and its allocator has a lock
    }
    if bound().is_none() || size <= had && size > 0 {
        // SAFETY: as above.
        return unsafe { __libc_realloc(block.cast(), size) }.cast();
    }
    // SAFETY: C's contract; the blocks do not overlap, and the old one is not used again. Of no bytes: glibc
    // frees it.
    unsafe {
        let new = match size {
            0 => ptr::null_mut(),
            _ => allocate(size, ALIGN, caller),
        };
        if !new.is_null() {
            ptr::copy_nonoverlapping(block, new, had);
        }
        if !new.is_null() || size == 0 {
            deallocate_elsewhere(ours);
        }
        new
    }
}

unsafe extern "C" fn reallocarray_from(
    block: *mut u8,
    count: usize,
    size: usize,
    caller: usize,
) -> *mut u8 {
    match count.checked_mul(size) {
        // SAFETY: C's contract.
        Some(size) => unsafe { realloc_from(block, size, caller) },
        None => out_of_memory(),
    }
}

unsafe extern "C" fn posix_memalign_from(
    out: *mut *mut u8,
    align: usize,
    size: usize,
    caller: usize,
) -> libc::c_int {
    if !align.is_power_of_two() || !align.is_multiple_of(size_of::<*mut u8>()) {
        return libc::EINVAL;
    }
    // SAFETY: C's contract.
    let block = silently(|| unsafe { allocate(size, align, caller) });
    if block.is_null() {
        return libc::ENOMEM;
    }
    // SAFETY: C's contract: it can be written to.
    unsafe { *out = block };
    0
}

unsafe extern "C" fn memalign_from(align: usize, size: usize, caller: usize) -> *mut u8 {
    // glibc rounds an alignment that is no power of two up to one.
    match align.checked_next_power_of_two() {
        // SAFETY: C's contract.
        Some(align) => unsafe { allocate(size, align, caller) },
        None => out_of_memory(),
    }
}

unsafe extern "C" fn valloc_from(size: usize, caller: usize) -> *mut u8 {
    // SAFETY: C's contract.
    unsafe { allocate(size, PAGE, caller) }
}

unsafe extern "C" fn pvalloc_from(size: usize, caller: usize) -> *mut u8 {
    match size.checked_next_multiple_of(PAGE) {
        // SAFETY: C's contract.
        Some(size) => unsafe { allocate(size, PAGE, caller) },
        None => out_of_memory(),
    }
}
