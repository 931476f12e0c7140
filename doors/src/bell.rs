//! A doorbell: an eventfd that an event loop can have in its epoll set.
//!
//! It is never read. Registered with `EPOLLIN | EPOLLET`, every write is a new edge, and the
//! counter would take 2^64 rings to fill up. That spares the loop one system call per wake.
//!
//! Another process never gets the eventfd itself: it could make it blocking and fill its counter,
//! and the next ring would never return. It gets an [`Ear`]: an epoll set that has the eventfd in
//! it, which is readable when the bell rings, and through which nothing can be written.

use std::io;
#[cfg(not(target_os = "illumos"))]
use std::os::fd::BorrowedFd;
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
        // SAFETY: the call succeeded, so `fd` is open and nobody else knows it.
        let event = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            event: Arc::new(event),
        })
    }

    /// A descriptor that hears this bell and cannot ring it, for another process. About 0.2 µs per wake
    /// dearer than the eventfd itself.
    #[cfg(not(target_os = "illumos"))]
    pub(crate) fn ear(&self) -> io::Result<OwnedFd> {
        ear_for(&[(self.as_raw_fd(), 0)])
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

/// An epoll set with these descriptors and their tokens: each change is told once.
#[cfg(not(target_os = "illumos"))]
pub(crate) fn ear_for(heard: &[(RawFd, u64)]) -> io::Result<OwnedFd> {
    // SAFETY: the new descriptor is owned by nobody else.
    let ear = unsafe {
        let fd = libc::epoll_create1(libc::EPOLL_CLOEXEC);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    for (fd, token) in heard {
        listen_to(&ear, *fd, *token)?;
    }
    Ok(ear)
}

/// Whether a descriptor is an epoll set, as an ear is. Asks no file system.
#[cfg(not(target_os = "illumos"))]
pub(crate) fn is_ear(fd: BorrowedFd<'_>) -> bool {
    let Ok(absent) = Bell::new() else {
        return false;
    };
    // SAFETY: no event is needed to take out what is not in.
    unsafe {
        libc::epoll_ctl(
            fd.as_raw_fd(),
            libc::EPOLL_CTL_DEL,
            absent.as_raw_fd(),
            std::ptr::null_mut(),
        ) < 0
            && io::Error::last_os_error().raw_os_error() == Some(libc::ENOENT)
    }
}

/// Puts a descriptor into an epoll set: each change is told once, with `token`.
#[cfg(not(target_os = "illumos"))]
pub(crate) fn listen_to(epoll: &OwnedFd, fd: RawFd, token: u64) -> io::Result<()> {
    let mut event = libc::epoll_event {
        events: (libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET) as u32,
        u64: token,
    };
    // SAFETY: the event is valid for the call.
    let result =
        unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
