//! The functions of the C library that are called by name, and where the library lies.

use crate::loaded::each_object;
use std::ffi::c_void;
use std::ops::Range;

unsafe extern "C" {
    // The names that glibc keeps for its own allocator, for programs that bring another one.
    // (malloc/malloc.c; exported since version 2.2.5.)
    pub(crate) fn __libc_malloc(size: usize) -> *mut c_void;
    pub(crate) fn __libc_calloc(count: usize, size: usize) -> *mut c_void;
    pub(crate) fn __libc_realloc(block: *mut c_void, size: usize) -> *mut c_void;
    pub(crate) fn __libc_free(block: *mut c_void);
    pub(crate) fn __libc_memalign(align: usize, size: usize) -> *mut c_void;
}

/// Bytes that a block of glibc's own allocator can hold. It has no name of its own for `malloc_usable_size`,
/// so this reads the word before the block as that function does: the chunk's size and three flags.
/// (malloc/malloc.c, "chunk")
///
/// # Safety
/// The block came from one of the functions above and is live.
pub(crate) unsafe fn usable_size(block: *mut u8) -> usize {
    const FLAGS: usize = 7;
    const IS_MAPPED: usize = 2;
    const WORD: usize = size_of::<usize>();
    // SAFETY: every chunk has this word.
    let word = unsafe { block.sub(WORD).cast::<usize>().read() };
    let overhead = if word & IS_MAPPED == 0 {
        WORD
    } else {
        2 * WORD
    };
    (word & !FLAGS).saturating_sub(overhead)
}

/// Finds the dynamic linker among what is loaded.
pub(super) fn find_linker() -> Option<Range<usize>> {
    // SAFETY: getauxval reads process-wide constants.
    object_with(unsafe { libc::getauxval(libc::AT_BASE) } as usize)
}

/// Finds the C library itself.
pub(super) fn find_c_library() -> Option<Range<usize>> {
    object_with(__libc_malloc as *const () as usize)
}

/// Where the function lies that registers the destructor of a thread-local. On every machine its code is
/// shorter than this.
pub(super) fn registering_a_destructor() -> Range<usize> {
    const LONGEST: usize = 512;
    unsafe extern "C" {
        // Exported since version 2.18; the standard library calls it too.
        fn __cxa_thread_atexit_impl();
    }
    let start = __cxa_thread_atexit_impl as *const () as usize;
    start..start + LONGEST
}

/// The addresses of the object that an address lies in.
fn object_with(address: usize) -> Option<Range<usize>> {
    let mut found = None;
    each_object(|base, headers| {
        let loaded = headers
            .iter()
            .filter(|header| header.p_type == libc::PT_LOAD);
        let ranges = loaded.map(|header| {
            let start = base.wrapping_add(header.p_vaddr as usize);
            start..start.wrapping_add(header.p_memsz as usize)
        });
        let whole = ranges.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end));
        if let Some(whole) = whole.filter(|whole| whole.contains(&address)) {
            found = Some(whole);
        }
    });
    found
}
