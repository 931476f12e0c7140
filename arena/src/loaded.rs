//! What is loaded into the process: the program, its libraries, and the dynamic linker.

use crate::bound::PAGE;
use std::ffi::c_void;

/// Bytes that the statics of everything that is loaded can take, in whole pages, touched or not.
#[must_use]
pub fn statics() -> usize {
    let mut sum = 0usize;
    each_object(|_, headers| {
        let loaded = headers
            .iter()
            .filter(|header| header.p_type == libc::PT_LOAD);
        for header in loaded.filter(|header| header.p_flags & libc::PF_W != 0) {
            sum = sum.saturating_add((header.p_memsz as usize).next_multiple_of(PAGE));
        }
    });
    sum
}

/// Calls `f` with each object: where it is loaded, and its program headers. `f` must not panic: it is called
/// by C.
pub(crate) fn each_object<F: FnMut(usize, &[libc::Elf64_Phdr])>(mut f: F) {
    unsafe extern "C" fn look<F: FnMut(usize, &[libc::Elf64_Phdr])>(
        info: *mut libc::dl_phdr_info,
        _: usize,
        f: *mut c_void,
    ) -> libc::c_int {
        // SAFETY: dl_iterate_phdr passes a valid structure, and the pointer that it was given, which is to an
        // `F`.
        let (info, f) = unsafe { (&*info, &mut *f.cast::<F>()) };
        // SAFETY: the program headers of a loaded object, as many as it says.
        let headers =
            unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
        f(info.dlpi_addr as usize, headers);
        0
    }
    // SAFETY: the callback is called before this returns, with the pointer to `f`.
    unsafe { libc::dl_iterate_phdr(Some(look::<F>), (&raw mut f).cast()) };
}
