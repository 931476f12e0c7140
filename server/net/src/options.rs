//! Options of sockets: those that a listener has, and the few that `rustix` has no name for.

use rustix::net::sockopt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;

/// What a listener's sockets are like; accepted ones inherit all of it.
#[derive(Debug, Clone, Copy)]
pub struct ListenOptions {
    /// Connections that may wait to be accepted.
    pub backlog: u16,
    /// Bytes that the kernel may hold of what was not read yet.
    pub receive_buffer: usize,
    /// Bytes that the kernel may hold of what was not acknowledged yet.
    pub send_buffer: usize,
    /// Of IPv6's unspecified address: IPv4 does not come there.
    pub only_ipv6: bool,
}

/// The largest size that the kernel can be told.
pub(crate) fn size(bytes: usize) -> usize {
    bytes.min(libc::c_int::MAX as usize)
}

pub(crate) fn set_buffers(socket: impl AsFd, options: ListenOptions) -> io::Result<()> {
    let socket = socket.as_fd();
    sockopt::set_socket_recv_buffer_size(socket, size(options.receive_buffer))?;
    sockopt::set_socket_send_buffer_size(socket, size(options.send_buffer))?;
    Ok(())
}

/// What the kernel grants of these, where that is less than was asked for: the flag, what was asked for, what
/// is granted, and the name of the kernel's limit.
///
/// # Errors
/// There is no descriptor left for a socket to ask.
pub fn not_granted(
    options: ListenOptions,
) -> io::Result<Vec<(&'static str, usize, usize, &'static str)>> {
    // The limits are the same for sockets of every kind.
    let socket = UnixDatagram::unbound()?;
    set_buffers(&socket, options)?;
    let backlog = usize::from(options.backlog);
    // A listener does not say what it was granted.
    let backlog_max = std::fs::read_to_string("/proc/sys/net/core/somaxconn");
    let backlog_max = backlog_max.ok().and_then(|text| text.trim().parse().ok());
    let all = [
        (
            "--receive-buffer",
            options.receive_buffer,
            sockopt::socket_recv_buffer_size(&socket)? / 2,
            "net.core.rmem_max",
        ),
        (
            "--send-buffer",
            options.send_buffer,
            sockopt::socket_send_buffer_size(&socket)? / 2,
            "net.core.wmem_max",
        ),
        (
            "--backlog",
            backlog,
            backlog_max.unwrap_or(backlog),
            "net.core.somaxconn",
        ),
    ];
    let less = |(_, wanted, granted, _): &(_, usize, usize, _)| granted < wanted;
    Ok(all.into_iter().filter(less).collect())
}

pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

pub(crate) fn check_len(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Sets an option whose value is an int.
pub(crate) fn set_option(
    socket: impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let len = size_of_val(&value) as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the option's value is an int of the given size.
    check(unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), len) }).map(drop)
}

pub(crate) fn get_option<T: Copy>(
    socket: impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &mut T,
) -> io::Result<()> {
    let mut len = size_of::<T>() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `len` bytes into the value; the callers' types are plain numbers.
    check(unsafe { libc::getsockopt(fd, level, name, (&raw mut *value).cast(), &raw mut len) })
        .map(drop)
}

/// Makes each datagram come with the address that it was sent to: a socket that listens on all addresses has
/// many.
pub(crate) fn tell_where_datagrams_come(socket: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    match address {
        SocketAddr::V4(_) => set_option(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1),
        // IPv4 that comes there is told in the same way, by mapped addresses.
        SocketAddr::V6(_) => set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1),
    }
}
