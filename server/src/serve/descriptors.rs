//! Whether there will be descriptors for everything, asked before anything is opened.

use super::error::{ForHandlers, StartError};
use crate::settings::FrontSettings;

/// Of each loop, beside its listeners: epoll set and two doorbells, its own and the door's.
pub(super) const PER_LOOP: u64 = 3;

/// Of each channel between processes, at either side: its socket, two doorbells, the other's pidfd, and three
/// pieces of memory while it is opened.
pub(super) const PER_CHANNEL: u64 = 7;

/// The standard ones, the log's, and a few that come and go.
const OTHERS: u64 = 16;

/// A descriptor per connection.
pub(super) fn of_connections(settings: &FrontSettings) -> u64 {
    u64::from(settings.connections.get())
}

/// Of the loop that is kept aside for `--admin`, with its listener and the file that it reads.
pub(super) fn of_admin(settings: &FrontSettings) -> u64 {
    match settings.admin {
        Some(_) => of_connections(&settings.for_admin()) + PER_LOOP + 2,
        None => 0,
    }
}

/// Raises the limit as far as that is ours to do, and refuses one that is too low; `flag`, which is `count`,
/// is what most of the `needed` descriptors are for.
pub(super) fn check(
    needed: u64,
    flag: &'static str,
    count: u32,
    handlers: ForHandlers,
) -> Result<(), StartError> {
    let needed = needed + OTHERS + handlers.total();
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
