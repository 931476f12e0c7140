//! A doorbell: an eventfd that an event loop can have in its epoll set.
//!
//! It is never read. With `EPOLLIN | EPOLLET`, every write is a new edge, and the counter would
//! take 2^64 rings to fill up. That spares the loop one system call per wake.
//!
//! Another process never gets the eventfd itself: it could make it blocking and fill its counter,
//! and the next ring would never return. It gets an ear, see `between/ear.rs`.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

/// Rings one client's doorbell. Clones ring the same one; any thread may.
#[derive(Clone, Debug)]
pub struct Bell {
    event: Arc<OwnedFd>,
}

impl Bell {
    /// A new doorbell.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no memory is involved.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call succeeded, so `fd` is open and nothing else knows it.
        let event = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            event: Arc::new(event),
        })
    }

    /// The eventfd: register it with `EPOLLIN | EPOLLET`; it never needs reading.
    pub fn as_raw_fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    /// Wakes the client, asleep or not: its next `epoll_wait` returns. Async-signal-safe.
    pub fn ring(&self) {
        let one: u64 = 1;
        // The only failure of a write to a non-blocking eventfd is a full counter, and then the
        // client has an unseen edge already. SAFETY: the descriptor is open as long as `self` is,
        // and 8 bytes of a local are read.
        unsafe {
            libc::write(
                self.event.as_raw_fd(),
                (&raw const one).cast(),
                size_of::<u64>(),
            )
        };
    }
}
