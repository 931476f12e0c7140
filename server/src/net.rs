//! The system calls of a loop: sockets, epoll, clocks. Everything non-blocking; errors as they come from the
//! kernel.

use rustix::net::{RecvFlags, SendFlags};
use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::ptr::NonNull;
use std::time::Duration;

/// What a listener's sockets are like; accepted ones inherit all of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ListenOptions {
    pub backlog: u16,
    pub receive_buffer: usize,
    pub send_buffer: usize,
    /// Of IPv6's unspecified address: IPv4 does not come there.
    pub only_ipv6: bool,
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn check_len(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn set_option(
    fd: RawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the option's value is an int of the given size.
    check(unsafe {
        libc::setsockopt(
            fd,
            level,
            name,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    })
    .map(drop)
}

/// Fails if somebody listens there already: with `SO_REUSEPORT` alone, two servers would share the port
/// unnoticed.
pub(crate) fn probe(address: SocketAddr, options: ListenOptions) -> io::Result<()> {
    // A port whose connections linger is free.
    let reuse = |fd| set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1);
    bind(libc::SOCK_STREAM, address, options, reuse).map(drop)
}

/// As [`probe`], for datagrams.
pub(crate) fn probe_datagrams(address: SocketAddr, options: ListenOptions) -> io::Result<()> {
    bind(libc::SOCK_DGRAM, address, options, |_| Ok(())).map(drop)
}

/// Lets a socket have the port of another one of this user.
fn share_port(fd: RawFd) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)
}

/// A listening TCP socket that shares its port with those of the other loops.
pub(crate) fn listen(address: SocketAddr, options: ListenOptions) -> io::Result<OwnedFd> {
    let socket = bind(libc::SOCK_STREAM, address, options, |fd| {
        share_port(fd)?;
        // An urgent byte would otherwise be left out of the stream.
        set_option(fd, libc::SOL_SOCKET, libc::SO_OOBINLINE, 1)?;
        set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)
    })?;
    // SAFETY: a plain system call.
    check(unsafe { libc::listen(socket.as_raw_fd(), libc::c_int::from(options.backlog)) })?;
    Ok(socket)
}

/// A listening Unix socket at a path where there is nothing; the path's permissions are what the process's
/// umask leaves.
pub(crate) fn listen_at(path: &Path, options: ListenOptions) -> io::Result<OwnedFd> {
    let (socket, address) = unix_socket(path)?;
    let fd = socket.as_raw_fd();
    let len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is one of `len` bytes.
    unsafe {
        check(libc::bind(fd, (&raw const address).cast(), len))?;
        check(libc::listen(fd, libc::c_int::from(options.backlog)))?;
    }
    Ok(socket)
}

/// Whether a Unix socket at a path is one that a process listens at. Does not wait for it to accept.
pub(crate) fn somebody_listens_at(path: &Path) -> io::Result<bool> {
    let (socket, address) = unix_socket(path)?;
    let len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is one of `len` bytes.
    let connected =
        check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) });
    match connected {
        Ok(_) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(libc::ECONNREFUSED) => Ok(false),
            // Its backlog is full; it is of another type.
            Some(libc::EAGAIN | libc::EPROTOTYPE) => Ok(true),
            _ => Err(error),
        },
    }
}

/// A Unix socket, and the address that a path is.
fn unix_socket(path: &Path) -> io::Result<(OwnedFd, libc::sockaddr_un)> {
    // SAFETY: all zeroes are a valid address.
    let mut address: libc::sockaddr_un = unsafe { mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() >= address.sun_path.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = from.cast_signed() as libc::c_char;
    }
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: the new descriptor is owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(check(libc::socket(libc::AF_UNIX, kind, 0))?) };
    Ok((socket, address))
}

/// Makes a socket that somebody else has opened like one of ours, as far as it can be.
pub(crate) fn adopt(socket: &OwnedFd, options: ListenOptions) -> io::Result<()> {
    let fd = socket.as_raw_fd();
    // SAFETY: plain system calls on a descriptor that is ours.
    unsafe {
        check(libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC))?;
        let flags = check(libc::fcntl(fd, libc::F_GETFL))?;
        check(libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK))?;
    }
    if let Ok(address) = local_address(socket) {
        if address.ip().is_unspecified() && is_of_datagrams(fd) {
            tell_where_datagrams_come(fd, address)?;
        }
        // Accepted connections inherit these. Those of a Unix socket do not, and get theirs in `accept`.
        set_buffers(fd, options)?;
        set_option(fd, libc::SOL_SOCKET, libc::SO_OOBINLINE, 1)?;
        // A socket of another protocol is refused by `is_listening`.
        let _ = set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
    }
    Ok(())
}

fn is_of_datagrams(fd: RawFd) -> bool {
    let mut kind: libc::c_int = 0;
    let told = get_option(fd, libc::SOL_SOCKET, libc::SO_TYPE, &mut kind);
    told.is_ok() && kind == libc::SOCK_DGRAM
}

/// Whether a descriptor is a socket that takes connections, as streams.
pub(crate) fn is_listening(socket: &OwnedFd) -> bool {
    let get = |name| {
        let mut value: libc::c_int = 0;
        let mut len = size_of_val(&value) as libc::socklen_t;
        // SAFETY: the option's value is an int, and there is room for one.
        let result = unsafe {
            let value = (&raw mut value).cast();
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                name,
                value,
                &raw mut len,
            )
        };
        (result == 0).then_some(value)
    };
    get(libc::SO_TYPE) == Some(libc::SOCK_STREAM) && get(libc::SO_ACCEPTCONN) == Some(1)
}

fn set_buffers(fd: RawFd, options: ListenOptions) -> io::Result<()> {
    let bytes = |n: usize| libc::c_int::try_from(n).unwrap_or(libc::c_int::MAX);
    for (name, value) in [
        (libc::SO_RCVBUF, bytes(options.receive_buffer)),
        (libc::SO_SNDBUF, bytes(options.send_buffer)),
    ] {
        set_option(fd, libc::SOL_SOCKET, name, value)?;
    }
    Ok(())
}

/// What the kernel grants of these, where that is less than was asked for: the flag, what was asked for, what
/// is granted, and the name of the kernel's limit.
pub(crate) fn not_granted(
    options: ListenOptions,
) -> io::Result<Vec<(&'static str, usize, usize, &'static str)>> {
    // The limits are the same for sockets of every kind.
    let socket = UnixDatagram::unbound()?;
    set_buffers(socket.as_raw_fd(), options)?;
    let buffer = |name| {
        let mut booked: libc::c_int = 0;
        get_option(socket.as_raw_fd(), libc::SOL_SOCKET, name, &mut booked)?;
        Ok::<_, io::Error>(booked.unsigned_abs() as usize / 2)
    };
    let backlog = usize::from(options.backlog);
    // A listener does not say what it was granted.
    let backlog_max = std::fs::read_to_string("/proc/sys/net/core/somaxconn");
    let backlog_max = backlog_max.ok().and_then(|text| text.trim().parse().ok());
    let all = [
        (
            "--receive-buffer",
            options.receive_buffer,
            buffer(libc::SO_RCVBUF)?,
            "net.core.rmem_max",
        ),
        (
            "--send-buffer",
            options.send_buffer,
            buffer(libc::SO_SNDBUF)?,
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

/// Sets what the kernel may hold of datagrams that were not taken yet, whatever its limit (net.core.rmem_max)
/// is if we may; returns what it granted.
pub(crate) fn set_datagram_buffer(socket: &OwnedFd, bytes: usize) -> io::Result<usize> {
    let fd = socket.as_raw_fd();
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes)
        .or_else(|_| set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes))?;
    let mut booked: libc::c_int = 0;
    get_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, &mut booked)?;
    Ok(booked.unsigned_abs() as usize / 2)
}

/// Datagrams that came while the socket had no room for them; 0 where the kernel does not say (Linux before
/// 4.12).
pub(crate) fn dropped_datagrams(socket: &OwnedFd) -> u64 {
    const SO_MEMINFO: libc::c_int = 55;
    const DROPS: usize = 8;
    let mut figures = [0_u32; 16];
    let told = get_option(
        socket.as_raw_fd(),
        libc::SOL_SOCKET,
        SO_MEMINFO,
        &mut figures,
    );
    told.map_or(0, |()| u64::from(figures[DROPS]))
}

fn get_option<T: Copy>(
    fd: RawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &mut T,
) -> io::Result<()> {
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into the value; the callers' types are plain numbers.
    check(unsafe { libc::getsockopt(fd, level, name, (&raw mut *value).cast(), &raw mut len) })
        .map(drop)
}

/// A UDP socket that shares its port with those of the other loops: the kernel gives all datagrams of one
/// sender to one.
pub(crate) fn receive_datagrams(
    address: SocketAddr,
    options: ListenOptions,
) -> io::Result<OwnedFd> {
    bind(libc::SOCK_DGRAM, address, options, share_port)
}

/// Has each datagram come with the address that it was sent to, of which a socket that listens on all of them
/// has many.
fn tell_where_datagrams_come(fd: RawFd, address: SocketAddr) -> io::Result<()> {
    match address {
        SocketAddr::V4(_) => set_option(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1),
        // IPv4 that comes there is told in the same way, by mapped addresses.
        SocketAddr::V6(_) => set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1),
    }
}

fn bind(
    kind: libc::c_int,
    address: SocketAddr,
    options: ListenOptions,
    set_more: impl FnOnce(RawFd) -> io::Result<()>,
) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let kind = kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: the new descriptor is owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(check(libc::socket(family, kind, 0))?) };
    let fd = socket.as_raw_fd();
    set_buffers(fd, options)?;
    set_more(fd)?;
    if address.is_ipv6() {
        let only = options.only_ipv6 || !address.ip().is_unspecified();
        set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, only.into())?;
    }
    let (storage, len) = to_c(address);
    // SAFETY: storage holds an address of `len` bytes.
    check(unsafe { libc::bind(fd, (&raw const storage).cast(), len) })?;
    Ok(socket)
}

/// The address a socket is bound to: the port that was chosen when 0 was asked for.
pub(crate) fn local_address(socket: &OwnedFd) -> io::Result<SocketAddr> {
    let mut storage = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes of an address and says how many.
    unsafe {
        check(libc::getsockname(
            socket.as_raw_fd(),
            storage.as_mut_ptr().cast(),
            &raw mut len,
        ))?;
        from_c(storage.assume_init_ref())
            .ok_or_else(|| io::Error::other("the socket has no internet address"))
    }
}

/// Has the kernel find out that the other side of a connection has vanished: that it acknowledges nothing for
/// so long, neither what it was sent nor the questions that are put to it while nothing is sent (`tcp(7)`).
pub(crate) fn watch_for_vanishing(socket: &OwnedFd, patience: Duration) {
    /// Seconds without a byte until the first question, and between two.
    const FIRST: libc::c_int = 30;
    const NEXT: libc::c_int = 10;
    let fd = socket.as_raw_fd();
    let ms = libc::c_int::try_from(patience.as_millis()).unwrap_or(libc::c_int::MAX);
    // A Unix socket knows at once, and has none of these.
    let _ = set_option(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
    for (name, value) in [
        (libc::TCP_KEEPIDLE, FIRST),
        (libc::TCP_KEEPINTVL, NEXT),
        (libc::TCP_KEEPCNT, 3),
        (libc::TCP_USER_TIMEOUT, ms),
    ] {
        let _ = set_option(fd, libc::IPPROTO_TCP, name, value);
    }
}

/// How long no data has gone either way on a connection; `None` for one that is not of TCP.
pub(crate) fn idle_for(socket: &OwnedFd) -> Option<Duration> {
    // SAFETY: integers, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    get_option(
        socket.as_raw_fd(),
        libc::IPPROTO_TCP,
        libc::TCP_INFO,
        &mut info,
    )
    .ok()?;
    let ms = info.tcpi_last_data_sent.min(info.tcpi_last_data_recv);
    Some(Duration::from_millis(ms.into()))
}

/// Whether there is something to be read from a socket, or to be accepted from a listener.
pub(crate) fn is_readable(fd: RawFd) -> bool {
    let mut asked = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one entry, which the kernel writes to; it does not wait.
    unsafe { libc::poll(&raw mut asked, 1, 0) > 0 }
}

/// What is left to be read of a connection that has ended in both directions, by a reset or otherwise; `None`
/// if one of them is open.
pub(crate) fn left_after_the_end(socket: &OwnedFd) -> Option<u64> {
    let fd = socket.as_raw_fd();
    let mut asked = libc::pollfd {
        fd,
        events: 0,
        revents: 0,
    };
    // SAFETY: one entry, which the kernel writes to; it does not wait.
    unsafe { libc::poll(&raw mut asked, 1, 0) };
    (asked.revents & libc::POLLHUP != 0).then(|| {
        let mut unread: libc::c_int = 0;
        // SAFETY: the request writes an int, and nothing if it fails.
        unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut unread) };
        u64::try_from(unread).unwrap_or(0)
    })
}

/// Ends a connection in both directions, whoever else has its descriptor.
pub(crate) fn shutdown(fd: RawFd) {
    // SAFETY: a plain system call; one that has ended already is no matter.
    unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
}

/// Whether accepting failed for want of something that others hold, and may give back.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    )
}

/// Takes a connection from a listener's backlog. The client of a Unix socket has no address, and its
/// connection inherits nothing from the listener, so it is given the buffers here. (What it may send before
/// it is read counts against its own buffer.)
pub(crate) fn accept(
    listener: RawFd,
    options: ListenOptions,
) -> io::Result<(RawFd, Option<SocketAddr>)> {
    let mut storage = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: as in `local_address`.
    unsafe {
        let fd = check(libc::accept4(
            listener,
            storage.as_mut_ptr().cast(),
            &raw mut len,
            libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
        ))?;
        let peer = from_c(storage.assume_init_ref());
        if peer.is_none() {
            // As good as it gets: a connection without its buffers is still one.
            let _ = set_buffers(fd, options);
            let _ = set_option(fd, libc::SOL_SOCKET, libc::SO_OOBINLINE, 1);
        }
        Ok((fd, peer.map(canonical)))
    }
}

/// A socket for both families writes IPv4 addresses as IPv6.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

fn to_c(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all zeroes are a valid sockaddr_storage, which is large and aligned enough for either address.
    unsafe {
        let mut storage: libc::sockaddr_storage = mem::zeroed();
        let len = match address {
            SocketAddr::V4(v4) => {
                (&raw mut storage)
                    .cast::<libc::sockaddr_in>()
                    .write(libc::sockaddr_in {
                        sin_family: libc::AF_INET as libc::sa_family_t,
                        sin_port: v4.port().to_be(),
                        sin_addr: libc::in_addr {
                            s_addr: u32::from(*v4.ip()).to_be(),
                        },
                        sin_zero: [0; 8],
                    });
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                (&raw mut storage)
                    .cast::<libc::sockaddr_in6>()
                    .write(libc::sockaddr_in6 {
                        sin6_family: libc::AF_INET6 as libc::sa_family_t,
                        sin6_port: v6.port().to_be(),
                        sin6_flowinfo: v6.flowinfo(),
                        sin6_addr: libc::in6_addr {
                            s6_addr: v6.ip().octets(),
                        },
                        sin6_scope_id: v6.scope_id(),
                    });
                size_of::<libc::sockaddr_in6>()
            }
        };
        (storage, len as libc::socklen_t)
    }
}

fn from_c(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that it is one.
            let v4 = unsafe { &*std::ptr::from_ref(storage).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { &*std::ptr::from_ref(storage).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, 0).into())
        }
        _ => None,
    }
}

/// Reads what is there, up to the buffer's size; 0 at the end of the stream.
pub(crate) fn receive(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    receive_with(fd, buffer, RecvFlags::empty())
}

fn receive_with(fd: RawFd, buffer: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
    // SAFETY: the caller's descriptor is open, and stays so for the call.
    let socket = unsafe { BorrowedFd::borrow_raw(fd) };
    let (received, _) = rustix::net::recv(socket, buffer, RecvFlags::DONTWAIT | flags)?;
    Ok(received)
}

/// Sends as much as the socket's buffer takes.
pub(crate) fn send(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    send_and_hold(fd, bytes, false)
}

/// The same. With `hold`, what does not fill a segment may stay with the kernel, for 200 ms at most, until
/// more is sent or [`push`] is called.
pub(crate) fn send_and_hold(fd: RawFd, bytes: &[u8], hold: bool) -> io::Result<usize> {
    let mut flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    flags.set(SendFlags::MORE, hold);
    // SAFETY: as in `receive_with`.
    let socket = unsafe { BorrowedFd::borrow_raw(fd) };
    Ok(rustix::net::send(socket, bytes, flags)?)
}

/// Lets go what [`send_and_hold`] has held. (Setting this option, which is set already, is what does it:
/// tcp(7). A Unix socket holds nothing, and knows no such option.)
pub(crate) fn push(fd: RawFd) {
    let _ = set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
}

/// Sends as much as the socket's buffer takes of several pieces in a row.
pub(crate) fn send_all(fd: RawFd, pieces: &[io::IoSlice<'_>]) -> io::Result<usize> {
    // SAFETY: IoSlice has the layout of iovec, and each is valid for its length.
    unsafe { send_vectors(fd, pieces.as_ptr().cast(), pieces.len()) }
}

/// As [`send_all`], of pieces that may change while they are sent, so that there is no reference to them.
///
/// # Safety
/// Each piece is mapped for its length until the call returns.
pub(crate) unsafe fn send_places(fd: RawFd, pieces: &[NonNull<[u8]>]) -> io::Result<usize> {
    let nothing = libc::iovec {
        iov_base: std::ptr::null_mut(),
        iov_len: 0,
    };
    let mut vectors = [nothing; 4];
    for (vector, piece) in vectors.iter_mut().zip(pieces) {
        vector.iov_base = piece.as_ptr().cast();
        vector.iov_len = piece.len();
    }
    // SAFETY: the caller's promise; the kernel copes with whatever happens to the bytes meanwhile.
    unsafe { send_vectors(fd, vectors.as_ptr(), pieces.len().min(vectors.len())) }
}

/// # Safety
/// There are `count` vectors, and each is mapped for its length.
unsafe fn send_vectors(fd: RawFd, vectors: *const libc::iovec, count: usize) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the caller's promise; the rest of the header is zero.
    check_len(unsafe {
        let mut message: libc::msghdr = mem::zeroed();
        message.msg_iov = vectors.cast_mut();
        message.msg_iovlen = count as _;
        libc::sendmsg(fd, &raw const message, flags)
    })
}

/// Whom a datagram came from, exactly as the kernel says it: an answer goes back to the same scope.
#[derive(Clone, Copy)]
pub(crate) struct Sender {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
    /// Where it was sent to, if the socket listens on all addresses: the answer comes from there.
    sent_to: Option<SentTo>,
}

/// An address of ours, as sendmsg(2) takes it.
#[derive(Clone, Copy)]
enum SentTo {
    V4(libc::in_pktinfo),
    V6(libc::in6_pktinfo),
}

impl Sender {
    /// Its address.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        from_c(&self.storage).map(canonical)
    }
}

/// Room for the one control message that a datagram comes and goes with, aligned as the kernel wants it.
#[repr(C, align(8))]
struct PacketControl([u8; 64]);

impl SentTo {
    /// From the control messages that a datagram came with.
    ///
    /// # Safety
    /// recvmsg(2) has written the header, and its control buffer, which is aligned, is still there.
    unsafe fn read(header: &libc::msghdr) -> Option<Self> {
        // SAFETY: the caller's promise; the header says how much of the buffer is in use, and a message's
        // level and type what lies in it.
        unsafe {
            let first = libc::CMSG_FIRSTHDR(header).as_ref()?;
            let data = libc::CMSG_DATA(first);
            match (first.cmsg_level, first.cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    // The routes decide by which interface the answer leaves. For a datagram to all,
                    // `ipi_spec_dst` is an address of our own.
                    Some(SentTo::V4(libc::in_pktinfo {
                        ipi_ifindex: 0,
                        ..info
                    }))
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let mut info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    // Such an address is one of each interface.
                    if !Ipv6Addr::from(info.ipi6_addr.s6_addr).is_unicast_link_local() {
                        info.ipi6_ifindex = 0;
                    }
                    Some(SentTo::V6(info))
                }
                _ => None,
            }
        }
    }

    /// Has a message leave from there.
    fn write(self, header: &mut libc::msghdr, control: &mut PacketControl) {
        match self {
            SentTo::V4(info) => {
                put_control(header, control, (libc::IPPROTO_IP, libc::IP_PKTINFO), info);
            }
            SentTo::V6(info) => {
                put_control(
                    header,
                    control,
                    (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO),
                    info,
                );
            }
        }
    }
}

fn put_control<T: Copy>(
    header: &mut libc::msghdr,
    control: &mut PacketControl,
    (level, kind): (libc::c_int, libc::c_int),
    info: T,
) {
    let len = size_of::<T>() as u32;
    // SAFETY: the buffer is aligned for a header, and has room for one and for the value: checked here.
    unsafe {
        assert!(libc::CMSG_SPACE(len) as usize <= size_of::<PacketControl>());
        header.msg_control = (&raw mut *control).cast();
        header.msg_controllen = libc::CMSG_SPACE(len) as _;
        let first = libc::CMSG_FIRSTHDR(header);
        (*first).cmsg_level = level;
        (*first).cmsg_type = kind;
        (*first).cmsg_len = libc::CMSG_LEN(len) as _;
        libc::CMSG_DATA(first).cast::<T>().write_unaligned(info);
    }
}

/// Receives a datagram. Its length may be more than the buffer's: then only as much as fits is there.
pub(crate) fn receive_from(fd: RawFd, buffer: &mut [u8]) -> io::Result<(usize, Sender)> {
    let mut storage = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut control = PacketControl([0; 64]);
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: buffer, address and control messages have the lengths that the header says, and live during the
    // call; the kernel writes an address into zeroes. All zeroes are a valid header.
    unsafe {
        let mut header: libc::msghdr = mem::zeroed();
        header.msg_name = storage.as_mut_ptr().cast();
        header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_control = (&raw mut control).cast();
        header.msg_controllen = size_of::<PacketControl>() as _;
        let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
        let received = check_len(libc::recvmsg(fd, &raw mut header, flags))?;
        let sender = Sender {
            storage: storage.assume_init(),
            len: header.msg_namelen,
            sent_to: SentTo::read(&header),
        };
        Ok((received, sender))
    }
}

/// Sends a datagram, if the socket's buffer takes it, from the address that the sender has written to. One
/// that answers cannot come from, as that of a group, is left to the kernel to choose.
pub(crate) fn send_to(fd: RawFd, bytes: &[u8], to: &Sender) -> io::Result<usize> {
    match send_from(fd, bytes, to, to.sent_to) {
        Err(error) if to.sent_to.is_some() && error.raw_os_error() == Some(libc::EINVAL) => {
            send_from(fd, bytes, to, None)
        }
        result => result,
    }
}

fn send_from(fd: RawFd, bytes: &[u8], to: &Sender, from: Option<SentTo>) -> io::Result<usize> {
    let mut control = PacketControl([0; 64]);
    let mut part = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: all zeroes are a valid header.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_name = (&raw const to.storage).cast_mut().cast();
    header.msg_namelen = to.len;
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    if let Some(from) = from {
        from.write(&mut header, &mut control);
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: what the header names is valid for its length, and only read; the kernel has written the
    // address itself.
    check_len(unsafe { libc::sendmsg(fd, &raw const header, flags) })
}

/// Says that nothing more will be sent.
pub(crate) fn shutdown_write(fd: RawFd) {
    // SAFETY: a plain system call; an error means that the client has gone already.
    unsafe { libc::shutdown(fd, libc::SHUT_WR) };
}

/// How many of the bytes that a socket was given its client has not acknowledged; 0 if the kernel does not
/// say.
pub(crate) fn not_taken(fd: RawFd) -> u64 {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the request (SIOCOUTQ, under its older name) writes an int.
    let result = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut bytes) };
    match check(result) {
        Ok(_) => u64::try_from(bytes).unwrap_or(0),
        Err(_) => 0,
    }
}

/// Has the next close not wait until the client has taken what was sent, if somebody has asked for that. A
/// reset stays one.
pub(crate) fn close_without_waiting(fd: RawFd) {
    let mut linger = NO_LINGER;
    let found = get_option(fd, libc::SOL_SOCKET, libc::SO_LINGER, &mut linger);
    if found.is_ok() && linger.l_onoff != 0 && linger.l_linger > 0 {
        set_linger(fd, NO_LINGER);
    }
}

/// Has the next close throw away what the client has not taken, and tell it with a reset.
pub(crate) fn reset_at_close(fd: RawFd) {
    set_linger(
        fd,
        libc::linger {
            l_onoff: 1,
            ..NO_LINGER
        },
    );
}

/// An ordinary close.
const NO_LINGER: libc::linger = libc::linger {
    l_onoff: 0,
    l_linger: 0,
};

fn set_linger(fd: RawFd, linger: libc::linger) {
    // SAFETY: the option's value is a linger of the given size; if it cannot be set, the close is an ordinary
    // one.
    unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of_val(&linger) as libc::socklen_t,
        );
    }
}

/// Reads what is there and leaves it there.
pub(crate) fn peek(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    receive_with(fd, buffer, RecvFlags::PEEK)
}

/// Whether there is something to be read.
pub(crate) fn has_unread(fd: RawFd) -> bool {
    matches!(peek(fd, &mut [0]), Ok(len) if len > 0)
}

/// Closes a descriptor that came from [`accept`].
pub(crate) fn close(fd: RawFd) {
    // SAFETY: the caller owns the descriptor and forgets it.
    unsafe { rustix::io::close(fd) };
}

/// Seconds since 1970, to the tick: enough for a `Date`, and cheaper.
pub(crate) fn unix_seconds() -> u64 {
    u64::try_from(clock(libc::CLOCK_REALTIME_COARSE).tv_sec).unwrap_or(0)
}

/// A time as the kernel takes it.
pub(crate) fn timespec(time: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: time.as_secs() as libc::time_t,
        tv_nsec: libc::c_long::from(time.subsec_nanos()),
    }
}

fn clock(id: libc::clockid_t) -> libc::timespec {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a timespec to write to; these clocks exist everywhere.
    unsafe { libc::clock_gettime(id, &raw mut now) };
    now
}

/// An epoll set, edge-triggered for all but listeners.
#[derive(Debug)]
pub(crate) struct Epoll(OwnedFd);

impl Epoll {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: the new descriptor is owned by nobody else.
        Ok(Epoll(unsafe {
            OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?)
        }))
    }

    /// A connection: every change is reported once.
    pub(crate) fn add_connection(&self, fd: RawFd, token: u64) -> io::Result<()> {
        let events =
            libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLPRI | libc::EPOLLET;
        self.control(libc::EPOLL_CTL_ADD, fd, events, token)
    }

    /// A doorbell: every ring is reported once, and it need not be read.
    pub(crate) fn add_bell(&self, fd: RawFd, token: u64) -> io::Result<()> {
        self.control(
            libc::EPOLL_CTL_ADD,
            fd,
            libc::EPOLLIN | libc::EPOLLET,
            token,
        )
    }

    /// A listener: reported as long as connections wait. Of the loops that share one, one is woken for a
    /// connection.
    pub(crate) fn add_listener(&self, fd: RawFd, shared: bool, token: u64) -> io::Result<()> {
        let exclusive = if shared { libc::EPOLLEXCLUSIVE } else { 0 };
        self.control(libc::EPOLL_CTL_ADD, fd, libc::EPOLLIN | exclusive, token)
    }

    pub(crate) fn remove(&self, fd: RawFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, 0)
    }

    fn control(
        &self,
        operation: libc::c_int,
        fd: RawFd,
        events: libc::c_int,
        token: u64,
    ) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: events as u32,
            u64: token,
        };
        // SAFETY: the event is valid for the call.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, fd, &raw mut event) })
            .map(drop)
    }

    /// Waits for events; `None` waits for ever. An interruption is no event.
    pub(crate) fn wait(
        &self,
        events: &mut [libc::epoll_event],
        timeout: Option<Duration>,
    ) -> usize {
        let timeout = timeout.map(timespec);
        let pointer = timeout
            .as_ref()
            .map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: the events are valid for their number, the timeout for the call, and there is no signal
        // mask. epoll_pwait2 (Linux 5.11), because a backlog is looked after within microseconds.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.0.as_raw_fd(),
                events.as_mut_ptr(),
                libc::c_int::try_from(events.len()).unwrap_or(libc::c_int::MAX),
                pointer,
                std::ptr::null::<libc::sigset_t>(),
                0usize,
            )
        };
        match usize::try_from(count) {
            Ok(count) => count,
            Err(_) if io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS) => {
                self.wait_ms(events, timeout)
            }
            Err(_) => 0,
        }
    }

    /// For older kernels: rounded up to milliseconds, so that calls stuck behind a slow one are helped later.
    #[cold]
    fn wait_ms(&self, events: &mut [libc::epoll_event], timeout: Option<libc::timespec>) -> usize {
        let ms = timeout.map_or(-1, |timeout| {
            timeout.tv_sec * 1000 + (timeout.tv_nsec + 999_999) / 1_000_000
        });
        let most = libc::c_int::try_from(events.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the events are valid for their number.
        let count = unsafe {
            libc::epoll_wait(
                self.0.as_raw_fd(),
                events.as_mut_ptr(),
                most,
                libc::c_int::try_from(ms).unwrap_or(libc::c_int::MAX),
            )
        };
        usize::try_from(count).unwrap_or(0)
    }
}
