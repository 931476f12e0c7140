//! What is done with a connection: reading, writing, checking its state, and ending it.

use crate::borrowed;
use crate::options::{check, check_len, get_option};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, sockopt};
use rustix::time::Timespec;
use std::io;
use std::mem;
use std::os::fd::{OwnedFd, RawFd};
use std::ptr::NonNull;
use std::time::Duration;

/// Makes the kernel notice that the other side of a connection has vanished: that for so long it acknowledges
/// neither what it was sent nor the keep-alive probes that are sent while nothing else is (`tcp(7)`).
pub fn watch_for_vanishing(socket: &OwnedFd, patience: Duration) {
    /// Time without a byte until the first probe, and between two.
    const FIRST: Duration = Duration::from_secs(30);
    const NEXT: Duration = Duration::from_secs(10);
    let ms = patience.as_millis().min(libc::c_int::MAX as u128) as u32;
    // A Unix socket knows at once, and has none of these.
    let _ = sockopt::set_socket_keepalive(socket, true);
    let _ = sockopt::set_tcp_keepidle(socket, FIRST);
    let _ = sockopt::set_tcp_keepintvl(socket, NEXT);
    let _ = sockopt::set_tcp_keepcnt(socket, 3);
    let _ = sockopt::set_tcp_user_timeout(socket, ms);
}

/// How long no data has gone either way on a connection; `None` for one that is not of TCP.
#[must_use]
pub fn idle_for(socket: &OwnedFd) -> Option<Duration> {
    // SAFETY: integers, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    get_option(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info).ok()?;
    let ms = info.tcpi_last_data_sent.min(info.tcpi_last_data_recv);
    Some(Duration::from_millis(ms.into()))
}

/// What is left to be read of a connection that has ended in both directions, by a reset or otherwise; `None`
/// if one of them is open.
#[must_use]
pub fn left_after_the_end(socket: &OwnedFd) -> Option<u64> {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut asked = [PollFd::new(socket, PollFlags::empty())];
    // What fails has found no end.
    let _ = poll(&mut asked, Some(&now));
    let is_over = asked[0].revents().contains(PollFlags::HUP);
    is_over.then(|| rustix::io::ioctl_fionread(socket).unwrap_or(0))
}

/// Ends a connection in both directions, also if another process has its descriptor.
pub fn shutdown(fd: RawFd) {
    // One that has ended already is no matter.
    let _ = rustix::net::shutdown(borrowed(fd), Shutdown::Both);
}

/// Says that nothing more will be sent. On Linux this wakes all that wait for the socket, also if it was said
/// before.
pub fn shutdown_write(fd: RawFd) {
    // An error means that the connection is over.
    let _ = rustix::net::shutdown(borrowed(fd), Shutdown::Write);
}

/// Whether the connection is over: it was reset, or both sides have had all. A Unix socket does not tell.
#[must_use]
pub fn is_over(fd: RawFd) -> bool {
    matches!(
        rustix::net::getpeername(borrowed(fd)),
        Err(rustix::io::Errno::NOTCONN)
    )
}

/// Reads what is there, up to the buffer's size; 0 at the end of the stream.
///
/// # Errors
/// Those of recv(2).
#[inline]
pub fn receive(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    receive_with(fd, buffer, RecvFlags::empty())
}

#[inline]
fn receive_with(fd: RawFd, buffer: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
    let (received, _) = rustix::net::recv(borrowed(fd), buffer, RecvFlags::DONTWAIT | flags)?;
    Ok(received)
}

/// Reads what is there and leaves it there.
///
/// # Errors
/// Those of recv(2).
pub fn peek(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    receive_with(fd, buffer, RecvFlags::PEEK)
}

/// Whether there is something to be read.
#[must_use]
pub fn has_unread(fd: RawFd) -> bool {
    matches!(peek(fd, &mut [0]), Ok(len) if len > 0)
}

/// Sends as much as the socket's buffer takes.
///
/// # Errors
/// Those of send(2).
#[inline]
pub fn send(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    send_and_hold(fd, bytes, false)
}

/// The same. With `hold`, what does not fill a segment may stay with the kernel, for 200 ms at most, until
/// more is sent or [`push`] is called.
///
/// # Errors
/// Those of send(2).
#[inline]
pub fn send_and_hold(fd: RawFd, bytes: &[u8], hold: bool) -> io::Result<usize> {
    let mut flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    flags.set(SendFlags::MORE, hold);
    Ok(rustix::net::send(borrowed(fd), bytes, flags)?)
}

/// Sends what [`send_and_hold`] has held. (Setting this option, which is set already, is what does it:
/// tcp(7). A Unix socket holds nothing, and knows no such option.)
#[inline]
pub fn push(fd: RawFd) {
    let _ = sockopt::set_tcp_nodelay(borrowed(fd), true);
}

/// Sends as much as the socket's buffer takes of several pieces in a row.
///
/// # Errors
/// Those of sendmsg(2).
pub fn send_all(fd: RawFd, pieces: &[io::IoSlice<'_>]) -> io::Result<usize> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let mut nothing = SendAncillaryBuffer::default();
    Ok(rustix::net::sendmsg(
        borrowed(fd),
        pieces,
        &mut nothing,
        flags,
    )?)
}

/// As [`send_all`], of pieces that may change while they are sent, so that there is no reference to them. At
/// most four of them.
///
/// # Errors
/// Those of sendmsg(2).
///
/// # Safety
/// Each piece is mapped for its length until the call returns.
pub unsafe fn send_places(fd: RawFd, pieces: &[NonNull<[u8]>]) -> io::Result<usize> {
    let nothing = libc::iovec {
        iov_base: std::ptr::null_mut(),
        iov_len: 0,
    };
    let mut vectors = [nothing; 4];
    for (vector, piece) in vectors.iter_mut().zip(pieces) {
        vector.iov_base = piece.as_ptr().cast();
        vector.iov_len = piece.len();
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the caller's promise; the kernel copes with whatever happens to the bytes meanwhile. All zeroes
    // are a valid header.
    check_len(unsafe {
        let mut message: libc::msghdr = mem::zeroed();
        message.msg_iov = vectors.as_mut_ptr();
        message.msg_iovlen = pieces.len().min(vectors.len()) as _;
        libc::sendmsg(fd, &raw const message, flags)
    })
}

/// How many of the bytes that a socket was given its client has not acknowledged; 0 if the kernel does not
/// say.
#[must_use]
pub fn not_taken(fd: RawFd) -> u64 {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the request (SIOCOUTQ, under its older name) writes an int.
    let result = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut bytes) };
    match check(result) {
        Ok(_) => u64::try_from(bytes).unwrap_or(0),
        Err(_) => 0,
    }
}

/// Makes the next close not wait until the client has taken what was sent, if that was asked for. A reset
/// stays one.
pub fn close_without_waiting(fd: RawFd) {
    let socket = borrowed(fd);
    if matches!(sockopt::socket_linger(socket), Ok(Some(patience)) if !patience.is_zero()) {
        // If it cannot be set, the close is as it was.
        let _ = sockopt::set_socket_linger(socket, None);
    }
}

/// Makes the next close throw away what the client has not taken, and send a reset.
pub fn reset_at_close(fd: RawFd) {
    // If it cannot be set, the close is an ordinary one.
    let _ = sockopt::set_socket_linger(borrowed(fd), Some(Duration::ZERO));
}

/// Closes a descriptor that came from [`accept`](crate::accept).
pub fn close(fd: RawFd) {
    // SAFETY: the caller owns the descriptor and forgets it.
    unsafe { rustix::io::close(fd) };
}
