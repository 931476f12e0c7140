//! What every process has: code, a main thread, a log.

use super::{Needs, term};
use crate::settings::FrontSettings;
use transom_arena::{Bytes, Place};
use transom_doors::{CLOSER_STACK, CLOSERS_MAX};
use transom_log as log;

/// What the kernel takes for a thread: its stack (16 KiB) and task structures.
pub(super) const KERNEL_PER_THREAD: usize = 24 << 10;

/// Threads that close what other processes have sent, and the one that starts them.
const CLOSERS: usize = CLOSERS_MAX + 1;

/// Descriptors: the standard ones, the log's, and a few that come and go.
const DESCRIPTORS: u64 = 16;

/// The process itself, with its main thread and the log's.
///
/// Code, libraries, the process heap at "ready" and its headroom: 3.2 MiB measured for `hello`, debug builds
/// 4.6 MiB. A route takes 1.5 KiB of it for its meters, a bucket 100 bytes for what is said of its call.
pub(crate) fn needs(settings: &FrontSettings) -> Needs {
    let terms = vec![
        term(
            "log",
            Place::Process,
            1,
            log::memory_bytes(usize::from(settings.log_queue.get())),
            "lines that wait to be written",
            "--log-queue",
        ),
        term(
            "constant",
            Place::Process,
            1,
            settings.constant.get(),
            "code, libraries, the heap at start",
            "--constant",
        ),
    ];
    Needs {
        terms,
        threads: 2,
        descriptors: DESCRIPTORS,
    }
}

/// The threads that close what comes through doors from other processes.
pub(crate) fn closers() -> Needs {
    let stacks = term(
        "closer stacks",
        Place::Process,
        CLOSERS,
        CLOSER_STACK,
        "threads that close what other processes have sent, at most",
        "none",
    );
    Needs {
        terms: vec![stacks],
        threads: CLOSERS,
        descriptors: 0,
    }
}

/// The place of the term that counts the threads of all parts.
pub(crate) fn threads(holder: &'static str, flags: &'static str) -> Needs {
    let counted = term(THREADS, Place::Kernel, 0, KERNEL_PER_THREAD, holder, flags);
    vec![counted].into()
}

/// The term that counts the threads of all parts.
pub(crate) const THREADS: &str = "threads";

/// Code that is not yet used is not yet resident.
const CONSTANT_MARGIN: u64 = 1 << 20;

/// The `--constant` that makes the sum hold what of a process is resident outside of its region, in whole
/// MiB; `None` if it holds that already. `process` is the sum's part for this, and counts `constant`.
///
/// The region is left out on both sides: pages of it that nothing has touched yet would hide a program that
/// is too large.
#[must_use]
pub fn constant_for(outside: u64, process: u64, constant: u64) -> Option<Bytes> {
    let more = outside.checked_sub(process).filter(|more| *more > 0)?;
    let mib = (constant + more + CONSTANT_MARGIN).div_ceil(1 << 20);
    Some(Bytes::mib(mib as usize))
}
