//! The rendezvous socket: Unix `SOCK_SEQPACKET` at a path, messages with descriptors, and who is at the other end.
//!
//! Nothing here blocks unless it says so: a peer holds the other end, so every send and receive that must not wait says
//! `MSG_DONTWAIT` itself and relies on no flag of the description, which a peer might share.

use std::fs::File;
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use crate::public::{Credentials, DESCRIPTORS_MAX, Descriptors};

/// What a receive has brought.
#[derive(Debug)]
pub struct Received {
    /// Bytes of the message; 0: the other side has hung up.
    pub len: usize,
    /// Its descriptors.
    pub descriptors: Descriptors,
    /// Descriptors were lost: this process has too many open, or the message had too many.
    pub truncated: bool,
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// A new socket.
pub fn seqpacket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: the new descriptor is owned by nobody else.
    unsafe {
        let fd = check(libc::socket(libc::AF_UNIX, kind, 0))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// An address for a path, however long: `sun_path` has 108 bytes, so a longer path is named through a descriptor of its
/// directory, which must stay open while the address is used.
struct Address {
    storage: libc::sockaddr_un,
    _directory: Option<File>,
}

impl Address {
    fn new(path: &Path) -> io::Result<Self> {
        // SAFETY: all zeroes are a valid sockaddr_un.
        let mut storage: libc::sockaddr_un = unsafe { mem::zeroed() };
        storage.sun_family = libc::AF_UNIX as libc::sa_family_t;
        let mut directory = None;
        let mut bytes = path.as_os_str().as_bytes().to_vec();
        if bytes.len() >= storage.sun_path.len() {
            let name = path
                .file_name()
                .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
            let parent = path.parent().unwrap_or(Path::new("/"));
            let opened = File::open(parent)?;
            bytes = format!("/proc/self/fd/{}/", opened.as_raw_fd()).into_bytes();
            bytes.extend_from_slice(name.as_bytes());
            directory = Some(opened);
        }
        if bytes.len() >= storage.sun_path.len() || bytes.contains(&0) {
            return Err(io::Error::from(io::ErrorKind::InvalidFilename));
        }
        for (to, from) in storage.sun_path.iter_mut().zip(&bytes) {
            *to = *from as libc::c_char;
        }
        Ok(Self {
            storage,
            _directory: directory,
        })
    }

    fn raw(&self) -> (*const libc::sockaddr, libc::socklen_t) {
        (
            (&raw const self.storage).cast(),
            size_of::<libc::sockaddr_un>() as libc::socklen_t,
        )
    }
}

/// Binds a socket to a path that must not exist yet.
pub fn bind(socket: &OwnedFd, path: &Path) -> io::Result<()> {
    let address = Address::new(path)?;
    let (pointer, len) = address.raw();
    // SAFETY: the address is valid for its length during the call.
    check(unsafe { libc::bind(socket.as_raw_fd(), pointer, len) }).map(drop)
}

/// Lets clients connect.
pub fn listen(socket: &OwnedFd, backlog: libc::c_int) -> io::Result<()> {
    // SAFETY: a plain system call.
    check(unsafe { libc::listen(socket.as_raw_fd(), backlog) }).map(drop)
}

/// Connects to a path; waits for at most `timeout` if too many are connecting.
pub fn connect(path: &Path, timeout: Duration) -> io::Result<OwnedFd> {
    let socket = seqpacket()?;
    let address = Address::new(path)?;
    let time = libc::timeval {
        tv_sec: timeout.as_secs() as libc::time_t,
        tv_usec: libc::suseconds_t::from(timeout.subsec_micros().max(1) as i32),
    };
    let (pointer, len) = address.raw();
    // SAFETY: the option's value and the address are valid for their lengths during the calls.
    unsafe {
        check(libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_SNDTIMEO,
            (&raw const time).cast(),
            size_of_val(&time) as libc::socklen_t,
        ))?;
        check(libc::connect(socket.as_raw_fd(), pointer, len))?;
    }
    Ok(socket)
}

/// Takes one connection, without waiting.
pub fn accept(listener: &OwnedFd) -> io::Result<OwnedFd> {
    // SAFETY: no address is asked for; the new descriptor is owned by nobody else.
    unsafe {
        let fd = check(libc::accept4(
            listener.as_raw_fd(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            libc::SOCK_CLOEXEC,
        ))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Makes a listener's accept return when nobody is there. Only for a socket that no peer shares.
pub fn set_nonblocking(socket: &OwnedFd) -> io::Result<()> {
    // SAFETY: plain system calls on an open descriptor.
    unsafe {
        let flags = check(libc::fcntl(socket.as_raw_fd(), libc::F_GETFL))?;
        check(libc::fcntl(
            socket.as_raw_fd(),
            libc::F_SETFL,
            flags | libc::O_NONBLOCK,
        ))
        .map(drop)
    }
}

fn option<T: Copy>(socket: &OwnedFd, name: libc::c_int) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes; the callers' types are plain numbers, for which zeroes are valid.
    unsafe {
        check(libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            value.as_mut_ptr().cast(),
            &raw mut len,
        ))?;
        Ok(value.assume_init())
    }
}

/// Who is at the other end.
pub fn credentials(socket: &OwnedFd) -> io::Result<Credentials> {
    let peer: libc::ucred = option(socket, libc::SO_PEERCRED)?;
    Ok(Credentials {
        pid: peer.pid,
        uid: peer.uid,
        gid: peer.gid,
    })
}

/// Has the kernel refuse descriptors that are sent to this socket (Linux 6.16; before that they arrive, and are closed).
pub fn refuse_descriptors(socket: &OwnedFd) {
    const SO_PASSRIGHTS: libc::c_int = 83;
    let off: libc::c_int = 0;
    // SAFETY: the option's value is valid for its size.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw const off).cast(),
            size_of_val(&off) as libc::socklen_t,
        );
    }
}

/// A descriptor that becomes readable when the process at the other end has ended; none on kernels before 6.5.
///
/// A hang-up says the same, unless the other process has left a copy of its end in a child.
pub fn process(socket: &OwnedFd) -> Option<OwnedFd> {
    const SO_PEERPIDFD: libc::c_int = 77;
    let fd: RawFd = option(socket, SO_PEERPIDFD).ok()?;
    // SAFETY: the kernel has just opened it for us.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Space for the descriptors of one message, aligned as `cmsghdr` asks.
#[repr(C)]
union Control {
    _align: libc::cmsghdr,
    bytes: [u8; 128],
}

const _: () = assert!(
    // SAFETY: arithmetic on a length.
    unsafe { libc::CMSG_SPACE((DESCRIPTORS_MAX * size_of::<RawFd>()) as u32) } as usize
        <= size_of::<Control>()
);

/// Sends a message and duplicates of descriptors, without waiting.
pub fn send(
    socket: BorrowedFd<'_>,
    message: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    assert!(descriptors.len() <= DESCRIPTORS_MAX);
    let mut part = libc::iovec {
        iov_base: message.as_ptr().cast_mut().cast(),
        iov_len: message.len(),
    };
    let mut control = Control { bytes: [0; 128] };
    // SAFETY: the header names a message and a control buffer that live during the call; the control buffer is aligned,
    // zeroed and large enough for DESCRIPTORS_MAX descriptors, and CMSG_FIRSTHDR points into it.
    let sent = unsafe {
        let mut header: libc::msghdr = mem::zeroed();
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        if !descriptors.is_empty() {
            let len = size_of_val(descriptors) as u32;
            header.msg_control = (&raw mut control).cast();
            header.msg_controllen = libc::CMSG_SPACE(len) as _;
            let first = libc::CMSG_FIRSTHDR(&raw const header);
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = libc::CMSG_LEN(len) as _;
            let to = libc::CMSG_DATA(first).cast::<RawFd>();
            for (n, fd) in descriptors.iter().enumerate() {
                to.add(n).write_unaligned(fd.as_raw_fd());
            }
        }
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        libc::sendmsg(socket.as_raw_fd(), &raw const header, flags)
    };
    match usize::try_from(sent) {
        Ok(sent) if sent == message.len() => Ok(()),
        Ok(_) => Err(io::Error::from(io::ErrorKind::WriteZero)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Takes the next message, without waiting. Descriptors that come along are ours, whatever the message says.
pub fn receive(socket: BorrowedFd<'_>, message: &mut [u8]) -> io::Result<Received> {
    let mut part = libc::iovec {
        iov_base: message.as_mut_ptr().cast(),
        iov_len: message.len(),
    };
    let mut control = Control { bytes: [0; 128] };
    // SAFETY: as in `send`; the kernel says how much of the control buffer it has filled, and every descriptor in it is
    // a new one that nobody else knows.
    unsafe {
        let mut header: libc::msghdr = mem::zeroed();
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_control = (&raw mut control).cast();
        header.msg_controllen =
            libc::CMSG_SPACE((DESCRIPTORS_MAX * size_of::<RawFd>()) as u32) as _;
        let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
        let len = libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags);
        let Ok(len) = usize::try_from(len) else {
            return Err(io::Error::last_os_error());
        };
        let mut descriptors = Descriptors::default();
        let mut next = libc::CMSG_FIRSTHDR(&raw const header);
        while !next.is_null() {
            if (*next).cmsg_level == libc::SOL_SOCKET && (*next).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*next).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let from = libc::CMSG_DATA(next).cast::<RawFd>();
                for n in 0..bytes / size_of::<RawFd>() {
                    descriptors.push(OwnedFd::from_raw_fd(from.add(n).read_unaligned()));
                }
            }
            next = libc::CMSG_NXTHDR(&raw const header, next);
        }
        let lost = libc::MSG_CTRUNC | libc::MSG_TRUNC;
        Ok(Received {
            len,
            descriptors,
            truncated: header.msg_flags & lost != 0,
        })
    }
}

/// Waits until the descriptor is readable (or its peer is gone); false after `timeout`. `None`: for ever.
pub fn wait_readable(fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> bool {
    let mut polls = [libc::pollfd {
        fd: -1,
        events: libc::POLLIN,
        revents: 0,
    }; 4];
    let count = fds.len().min(polls.len());
    for (poll, fd) in polls.iter_mut().zip(fds) {
        poll.fd = fd.as_raw_fd();
    }
    let ms = timeout.map_or(-1, |timeout| {
        libc::c_int::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(libc::c_int::MAX)
    });
    // SAFETY: `count` entries are valid for the call.
    unsafe { libc::poll(polls.as_mut_ptr(), count as libc::nfds_t, ms) > 0 }
}

/// Ends a conversation in both directions, whoever else has the socket open.
pub fn hang_up(socket: &OwnedFd) {
    // SAFETY: a plain system call; an error means that the other side has gone already.
    unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_RDWR) };
}
