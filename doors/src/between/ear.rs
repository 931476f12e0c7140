//! Ears: epoll sets that watch bells, sockets and processes. An ear is readable when one of them has news.
//! Nothing can be written through it, so it can be given to another process.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::back_end::bell::Bell;

/// A descriptor that hears a bell and cannot ring it, for another process. About 0.2 µs per wake dearer than
/// the eventfd itself.
pub fn ear_of(bell: &Bell) -> io::Result<OwnedFd> {
    ear_for(&[(bell.as_raw_fd(), 0)])
}

/// An epoll set with these descriptors and their tokens: each change is told once.
pub fn ear_for(heard: &[(RawFd, u64)]) -> io::Result<OwnedFd> {
    // SAFETY: nothing else owns the new descriptor.
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
pub fn is_ear(fd: BorrowedFd<'_>) -> bool {
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
pub fn listen_to(epoll: &OwnedFd, fd: RawFd, token: u64) -> io::Result<()> {
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
