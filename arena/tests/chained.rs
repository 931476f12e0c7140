//! A program or a library with a SIGSEGV handler of its own: it gets the faults that are not ours, and we
//! still handle ours.

mod common;

use common::{exhaustion, never_stuck, on_bucket_thread, overflow_the_stack};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use transom_arena::Reason;

#[global_allocator]
static GLOBAL: transom_arena::TransomAllocator = transom_arena::TransomAllocator;

const PAGE: usize = 4096;
static PAGES: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
static MENDED: AtomicUsize = AtomicUsize::new(0);
const COUNT: usize = 10;

/// As in a runtime that maps its pages when they are first touched.
extern "C" fn mend(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo; the pages are ours.
    unsafe {
        let address = (*info).si_addr().addr();
        let pages = PAGES.load(Ordering::SeqCst).addr();
        if address.wrapping_sub(pages) >= COUNT * PAGE {
            libc::abort();
        }
        let page = (address & !(PAGE - 1)) as *mut libc::c_void;
        libc::mprotect(page, PAGE, libc::PROT_READ | libc::PROT_WRITE);
    }
    MENDED.fetch_add(1, Ordering::SeqCst);
}

#[test]
fn a_handler_that_was_there_before_mends_its_own_faults_and_ours_stay_ours() {
    // SAFETY: fresh memory, and a handler of the right kind.
    unsafe {
        let pages = libc::mmap(
            ptr::null_mut(),
            COUNT * PAGE,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        assert_ne!(pages, libc::MAP_FAILED);
        PAGES.store(pages.cast(), Ordering::SeqCst);
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = mend as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGSEGV, &raw const action, ptr::null_mut());
    }
    on_bucket_thread(|tenant| {
        for n in 0..COUNT {
            let outcome = tenant.enter(&never_stuck, |_| {
                let page = PAGES.load(Ordering::SeqCst).wrapping_add(n * PAGE);
                // SAFETY: the handler makes it writable.
                unsafe { page.write_volatile(n as u8) };
            });
            assert!(outcome.result.is_ok());
            assert_eq!(MENDED.load(Ordering::SeqCst), n + 1);
            // SAFETY: a handler that holds nothing.
            let outcome =
                unsafe { tenant.enter_escaping(&never_stuck, |_| overflow_the_stack() as u8) };
            assert_eq!(exhaustion(outcome.result).reason, Reason::Stack);
        }
    });
}
