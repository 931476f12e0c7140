//! Taking connections.

use crate::borrowed;
use crate::internet::{canonical, internet_address};
use crate::options::{ListenOptions, set_buffers};
use rustix::net::{SocketFlags, acceptfrom_with, sockopt};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{IntoRawFd, RawFd};

/// Whether accepting failed for lack of something that others hold, and may give back.
#[must_use]
pub fn is_shortage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    )
}

/// Takes a connection from a listener's backlog; the descriptor is the caller's to close. The client of a
/// Unix socket has no address, and its connection inherits nothing from the listener, so it is given the
/// buffers here. (What it may send before it is read counts against its own buffer.)
///
/// # Errors
/// Those of accept(2).
pub fn accept(listener: RawFd, options: ListenOptions) -> io::Result<(RawFd, Option<SocketAddr>)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (socket, peer) = acceptfrom_with(borrowed(listener), flags)?;
    let peer = peer.and_then(internet_address);
    if peer.is_none() {
        // Errors are ignored: a connection without these buffers still works.
        let _ = set_buffers(&socket, options);
        let _ = sockopt::set_socket_oobinline(&socket, true);
    }
    Ok((socket.into_raw_fd(), peer.map(canonical)))
}
