//! Listening: sockets of our own, and those that another process has opened.

use crate::borrowed;
use crate::internet::internet_address;
use crate::options::{ListenOptions, set_buffers, tell_where_datagrams_come};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, getsockname, socket_with,
    sockopt,
};
use rustix::time::Timespec;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The longest path of a Unix socket, with the NUL at its end.
const SUN_PATH: usize = 108;

/// Not waiting.
const NOW: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// Fails if a socket listens there already: with `SO_REUSEPORT` alone, two servers would share the port
/// unnoticed.
///
/// # Errors
/// Those of bind(2).
pub fn probe(address: SocketAddr, options: ListenOptions) -> io::Result<()> {
    // A port whose connections linger is free.
    let reuse = |socket: &OwnedFd| Ok(sockopt::set_socket_reuseaddr(socket, true)?);
    bind(SocketType::STREAM, address, options, reuse).map(drop)
}

/// Lets a socket have the port of another one of this user.
pub(crate) fn share_port(socket: &OwnedFd) -> io::Result<()> {
    sockopt::set_socket_reuseaddr(socket, true)?;
    Ok(sockopt::set_socket_reuseport(socket, true)?)
}

/// A listening TCP socket that shares its port with those of the other loops.
///
/// # Errors
/// Those of bind(2) and listen(2).
pub fn listen(address: SocketAddr, options: ListenOptions) -> io::Result<OwnedFd> {
    let socket = bind(SocketType::STREAM, address, options, |socket| {
        share_port(socket)?;
        // An urgent byte would otherwise be left out of the stream.
        sockopt::set_socket_oobinline(socket, true)?;
        Ok(sockopt::set_tcp_nodelay(socket, true)?)
    })?;
    rustix::net::listen(&socket, options.backlog.into())?;
    Ok(socket)
}

/// A listening Unix socket at a path where there is nothing; the path's permissions are what the process's
/// umask leaves.
///
/// # Errors
/// Those of bind(2) and listen(2), and `InvalidInput` for a path that is too long.
pub fn listen_at(path: &Path, options: ListenOptions) -> io::Result<OwnedFd> {
    let (socket, address) = unix_socket(path)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, options.backlog.into())?;
    Ok(socket)
}

/// Whether a Unix socket at a path is one that a process listens at. Does not wait for it to accept.
///
/// # Errors
/// Those of connect(2) that do not say it, and `InvalidInput` for a path that is too long.
pub fn somebody_listens_at(path: &Path) -> io::Result<bool> {
    let (socket, address) = unix_socket(path)?;
    match connect(&socket, &address) {
        Ok(()) => Ok(true),
        Err(Errno::CONNREFUSED) => Ok(false),
        // Its backlog is full; it is of another type.
        Err(Errno::AGAIN | Errno::PROTOTYPE) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// A Unix socket, and the address that a path is.
fn unix_socket(path: &Path) -> io::Result<(OwnedFd, SocketAddrUnix)> {
    if path.as_os_str().as_bytes().len() >= SUN_PATH {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let address = SocketAddrUnix::new(path)?;
    let socket = new_socket(AddressFamily::UNIX, SocketType::STREAM)?;
    Ok((socket, address))
}

fn new_socket(family: AddressFamily, kind: SocketType) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(socket_with(family, kind, flags, None)?)
}

/// Makes a socket that another process has opened like one of ours, as far as it can be.
///
/// # Errors
/// Those of fcntl(2) and setsockopt(2).
pub fn adopt(socket: &OwnedFd, options: ListenOptions) -> io::Result<()> {
    fcntl_setfd(socket, FdFlags::CLOEXEC)?;
    fcntl_setfl(socket, fcntl_getfl(socket)? | OFlags::NONBLOCK)?;
    if let Ok(address) = local_address(socket) {
        if address.ip().is_unspecified() && sockopt::socket_type(socket) == Ok(SocketType::DGRAM) {
            tell_where_datagrams_come(socket, address)?;
        }
        // Accepted connections inherit these. Those of a Unix socket do not, and get theirs in `accept`.
        set_buffers(socket, options)?;
        sockopt::set_socket_oobinline(socket, true)?;
        // A socket of another protocol is refused by `is_listening`.
        let _ = sockopt::set_tcp_nodelay(socket, true);
    }
    Ok(())
}

/// Whether a descriptor is a socket that takes connections, as streams.
#[must_use]
pub fn is_listening(socket: &OwnedFd) -> bool {
    sockopt::socket_type(socket) == Ok(SocketType::STREAM)
        && sockopt::socket_acceptconn(socket) == Ok(true)
}

/// A socket that is bound to an address, with more options set before it is.
pub(crate) fn bind(
    kind: SocketType,
    address: SocketAddr,
    options: ListenOptions,
    set_more: impl FnOnce(&OwnedFd) -> io::Result<()>,
) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = new_socket(family, kind)?;
    set_buffers(&socket, options)?;
    set_more(&socket)?;
    if address.is_ipv6() {
        let only = options.only_ipv6 || !address.ip().is_unspecified();
        sockopt::set_ipv6_v6only(&socket, only)?;
    }
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

/// The address a socket is bound to: the port that was chosen when 0 was asked for.
///
/// # Errors
/// It is not a socket, or not one of the internet.
pub fn local_address(socket: &OwnedFd) -> io::Result<SocketAddr> {
    internet_address(getsockname(socket)?)
        .ok_or_else(|| io::Error::other("the socket has no internet address"))
}

/// Whether there is something to be read from a socket, or to be accepted from a listener.
#[must_use]
pub fn is_readable(fd: RawFd) -> bool {
    let socket = borrowed(fd);
    let mut asked = [PollFd::from_borrowed_fd(socket, PollFlags::IN)];
    matches!(poll(&mut asked, Some(&NOW)), Ok(ready) if ready > 0)
}
