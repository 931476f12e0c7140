//! Parking: a request that can neither go on nor be left is answered, and its thread sleeps for ever.
//!
//! Nothing more of the request runs, not even its cleanups. If its stack is full, it was stopped between two
//! arbitrary instructions, perhaps of a function that has taken something apart and would have put it
//! together again. A cleanup that runs then may call that function anew, which safe code does not expect
//! (`tests/park.rs`).
//!
//! What a parked request has is not counted against others for ever:
//!
//! | count | what parking does |
//! |---|---|
//! | the share of the overdraft that is set aside for it | it is given back |
//! | what it has drawn from the overdraft, or has in the C heap | it is charged to no request from then on; half of the pool is a cause to recycle |
//! | what the cells that it was changing owe to the overdraft | they owe nothing any more |
//! | the large blocks of those cells, which may double | they belong to no cell any more |
//! | what their changes were promised of it | it is given back |
//! | the bytes of those cells in the shared heap | half of it is a cause to recycle; a cell's own quota stays used |
//! | its thread's words: closures, cells that are locked, bytes made | they are put right, and the cells released |
//!
//! A request that has no stack left is reported on the bucket's **report stack**. The signal stack is left
//! as soon as the handler of the fault has returned.

use crate::bucket::{Bucket, BucketState};
use crate::events::ABORTING;
use crate::futex;
use crate::recovery::{Failed, settle_pools};
use crate::signal;
use crate::thread::thread;
use std::arch::asm;
use std::ptr;
use std::sync::atomic::AtomicU32;

/// Answers, and never returns. The frames of the handler stay as they are for ever.
///
/// Why it ends is what the bucket has noted: a panic that cannot unwind (`ABORTING`), else what ran out.
pub(crate) fn park(bucket: &Bucket) -> ! {
    signal::block_those_of_others();
    #[cfg(not(miri))]
    crate::fork::end_if_a_child();
    bucket.failing.set(true);
    thread(|t| {
        t.aim.set(ptr::null());
        t.outside.set(0);
        t.pool.set(0);
    });
    let exhaustion = bucket.exhaustion.get();
    let failed = if bucket.events.any(ABORTING) {
        Failed::Panicked(&bucket.panic_note)
    } else {
        Failed::Exhausted(exhaustion)
    };
    bucket.note_high_water(bucket.heap().high_water());
    bucket.set_state(BucketState::Parked);
    // First, what others wait for.
    crate::shared::give_up_closures(bucket, None);
    settle_pools(bucket);
    if let Some(report) = bucket.report.get() {
        // SAFETY: set for exactly the time in which `enter_with`, whose argument it is, has not returned.
        unsafe { (*report).stuck(failed) };
    }
    sleep_for_ever()
}

/// Sleeps for ever. This thread takes no signals any more: where it sleeps there may be no room for a
/// signal's frame, above all on the signal stack.
pub(crate) fn sleep_for_ever() -> ! {
    signal::change_mask(libc::SIG_SETMASK, Some(&!signal::OF_THE_C_LIBRARY), None);
    let never = AtomicU32::new(0);
    loop {
        futex::wait(&never, 0);
    }
}

/// What runs on the report stack.
pub(crate) extern "C" fn park_there(bucket: *const Bucket) -> ! {
    // SAFETY: code that switches to that stack passes a bucket, which lives for ever.
    park(unsafe { &*bucket })
}

/// Where the report stack begins: it grows down from here, and a call may be made with it as it is.
pub(crate) fn top_of_report_stack(bucket: &Bucket) -> usize {
    let (bottom, size) = bucket.report_stack();
    bottom + size
}

/// Parks on the report stack. What is on the current stack stays there.
pub(crate) fn on_report_stack(bucket: &'static Bucket) -> ! {
    let top = top_of_report_stack(bucket);
    let bucket = ptr::from_ref(bucket);
    // SAFETY: the stack is this bucket's, for this and nothing else, mapped and aligned to a page; its thread
    // is this one. What is called never returns, so nothing of this frame is needed again, and nothing of it
    // is freed.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        asm!(
            "mov rsp, {top}",
            "xor ebp, ebp",
            "call {park}",
            "ud2",
            top = in(reg) top,
            in("rdi") bucket,
            park = sym park_there,
            options(noreturn)
        );
        #[cfg(target_arch = "aarch64")]
        asm!(
            "mov sp, {top}",
            "mov x29, xzr",
            "bl {park}",
            "brk #1",
            top = in(reg) top,
            in("x0") bucket,
            park = sym park_there,
            options(noreturn)
        );
    }
}
