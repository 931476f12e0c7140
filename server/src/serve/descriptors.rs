//! Whether there will be descriptors for everything, asked before anything is opened.

use super::error::{ForHandlers, StartError};

/// Raises the limit as far as that is ours to do, and refuses one that is too low; `flag`, which is `count`,
/// is what most of the `needed` descriptors are for.
pub(super) fn check(
    needed: u64,
    flag: &'static str,
    count: u32,
    handlers: ForHandlers,
) -> Result<(), StartError> {
    let needed = needed + handlers.total();
    // SAFETY: a zeroed rlimit is valid, and getrlimit fills it; setrlimit reads it.
    let limit = unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        if limit.rlim_cur < needed && limit.rlim_max >= needed {
            limit.rlim_cur = needed; // ours to raise
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
            libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        }
        limit.rlim_cur
    };
    if limit >= needed {
        return Ok(());
    }
    Err(StartError::Descriptors {
        limit,
        needed,
        flag,
        count,
        handlers,
    })
}
