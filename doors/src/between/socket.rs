//! The rendezvous socket: Unix `SOCK_SEQPACKET` at a path, messages with descriptors, and which process is at
//! the other end.
//!
//! Nothing here blocks unless it says so: a peer holds the other end, so every send and receive that must not
//! wait says `MSG_DONTWAIT` itself and relies on no flag of the description, which a peer might share.
//!
//! Nothing here closes what a peer has sent, because that may take for ever (see [`closer`]). A message is
//! looked at before it is taken. Descriptors that are not due stay in the socket, and then a closer closes
//! the socket. For descriptors that are due, the message has a second reference until it is taken, so that
//! taking it closes nothing.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::mem::{self, ManuallyDrop, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use crate::between::closer;
use crate::between::hello::{Message, NotAMessage, ROOM};
use crate::values::descriptors::{Close, DESCRIPTORS_MAX, Descriptors};
use crate::values::path::NameTooLong;
use crate::values::peer::Credentials;

/// A socket whose other end another process has.
#[derive(Debug)]
pub struct PeerSocket {
    fd: ManuallyDrop<OwnedFd>,
    /// Its user.
    uid: u32,
    /// The process whose end this is: a child of ours has it too, but does not end the conversation.
    process: u32,
}

impl AsFd for PeerSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for PeerSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Drop for PeerSocket {
    /// With the socket the kernel closes the descriptors in messages that were not taken.
    fn drop(&mut self) {
        let ours = self.process == std::process::id();
        let empty = !ours || {
            hang_up(self);
            is_free_of_descriptors(&self.fd)
        };
        // SAFETY: it is not used after this.
        let fd = unsafe { ManuallyDrop::take(&mut self.fd) };
        if !empty {
            closer::close(self.uid, fd);
        }
    }
}

/// Takes what is left in a socket that nothing can come into any more, up to the first message with
/// descriptors; whether there was none.
fn is_free_of_descriptors(socket: &OwnedFd) -> bool {
    // More than the kernel lets wait in a socket's buffer.
    const MESSAGES_MAX: usize = 4096;
    // With it every message has credentials, so that an empty message differs from the end.
    if set(socket, libc::SO_PASSCRED, 1).is_err() {
        return false;
    }
    for _ in 0..MESSAGES_MAX {
        let mut control = Control { bytes: [0; 128] };
        let mut message = [0];
        match receive_raw(
            socket.as_fd(),
            &mut message,
            &mut control,
            32,
            libc::MSG_PEEK,
        ) {
            Ok(taken) if taken.flags & libc::MSG_CTRUNC != 0 => return false,
            Ok(taken) if taken.control == 0 => return true,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
        // The one that was looked at: no other thread reads here.
        let _ = receive_raw(socket.as_fd(), &mut message, &mut control, 0, 0);
    }
    false
}

/// Which descriptors may come with the next message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// None.
    None,
    /// So many at most, and at most [`DESCRIPTORS_MAX`].
    AtMost(usize),
}

/// What was heard of the other side.
#[derive(Debug)]
pub enum Heard {
    /// The message, or that it means nothing; and the descriptors that came along.
    Message(Result<Message, NotAMessage>, Descriptors),
    /// Nothing new.
    Nothing,
    /// That it has hung up; nothing more comes.
    End,
    /// More descriptors came than are due. The message stays in the socket, which must not be read any more.
    TooMany,
    /// This process has too many descriptors open for those that came. The message stays in the socket.
    NoRoom,
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
    // SAFETY: nothing else owns the new descriptor.
    unsafe {
        let fd = check(libc::socket(libc::AF_UNIX, kind, 0))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// An address for a path, however long: `sun_path` has 108 bytes, so a longer path is named through a
/// descriptor of its directory, which must stay open while the address is used.
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
        if bytes.len() >= storage.sun_path.len() {
            let len = path.file_name().map_or(0, OsStr::len);
            return Err(io::Error::new(
                io::ErrorKind::InvalidFilename,
                NameTooLong { len },
            ));
        }
        if bytes.contains(&0) {
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
pub fn connect(path: &Path, timeout: Duration) -> io::Result<(PeerSocket, Credentials)> {
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
    with_peer(socket)
}

/// Takes one connection, without waiting.
pub fn accept(listener: &OwnedFd) -> io::Result<(PeerSocket, Credentials)> {
    // SAFETY: no address is asked for; nothing else owns the new descriptor.
    let socket = unsafe {
        let fd = check(libc::accept4(
            listener.as_raw_fd(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            libc::SOCK_CLOEXEC,
        ))?;
        OwnedFd::from_raw_fd(fd)
    };
    with_peer(socket)
}

/// A connected socket, and the process at the other end.
fn with_peer(fd: OwnedFd) -> io::Result<(PeerSocket, Credentials)> {
    let peer = option::<libc::ucred>(&fd, libc::SO_PEERCRED);
    let socket = PeerSocket {
        fd: ManuallyDrop::new(fd),
        uid: peer.as_ref().map_or(u32::MAX, |peer| peer.uid),
        process: std::process::id(),
    };
    let peer = peer?;
    let credentials = Credentials {
        pid: peer.pid,
        uid: peer.uid,
        gid: peer.gid,
    };
    Ok((socket, credentials))
}

/// Makes a listener's accept return when no client is there. Only for a socket that no peer shares.
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

fn option<T: Copy>(socket: &impl AsRawFd, name: libc::c_int) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes; the callers' types are plain numbers, for which zeroes
    // are valid.
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

fn set(socket: &impl AsRawFd, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the option's value is valid for its size.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    })
    .map(drop)
}

/// Says whether the kernel lets others send descriptors to this socket, or to those that are accepted from
/// it. Linux before 6.16 lets them always: then they arrive, and stay where they are.
pub fn let_descriptors_in(socket: &impl AsRawFd, allowed: bool) {
    const SO_PASSRIGHTS: libc::c_int = 83;
    let _ = set(socket, SO_PASSRIGHTS, libc::c_int::from(allowed));
}

/// A descriptor that becomes readable when the process at the other end has ended; none on kernels before
/// 6.5.
///
/// A hang-up says the same, unless the other process has left a copy of its end in a child.
pub fn process(socket: &PeerSocket) -> Option<OwnedFd> {
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
pub fn say(
    socket: &PeerSocket,
    message: &Message,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let message = message.encode();
    assert!(descriptors.len() <= DESCRIPTORS_MAX);
    let mut part = libc::iovec {
        iov_base: message.as_ptr().cast_mut().cast(),
        iov_len: message.len(),
    };
    let mut control = Control { bytes: [0; 128] };
    // SAFETY: the header names a message and a control buffer that live during the call; the control buffer
    // is aligned, zeroed and large enough for DESCRIPTORS_MAX descriptors, and CMSG_FIRSTHDR points into it.
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

/// What recvmsg(2) says.
struct Taken {
    len: usize,
    flags: libc::c_int,
    /// Bytes of control messages.
    control: usize,
}

/// Looks at the next message or takes it, without waiting, with so many bytes of the room for control
/// messages.
fn receive_raw(
    socket: BorrowedFd<'_>,
    message: &mut [u8],
    control: &mut Control,
    room: usize,
    flags: libc::c_int,
) -> io::Result<Taken> {
    assert!(room <= size_of::<Control>());
    let mut part = libc::iovec {
        iov_base: message.as_mut_ptr().cast(),
        iov_len: message.len(),
    };
    // SAFETY: the header names a message and a control buffer that live during the call, the latter aligned
    // and at least as long as it says; all zeroes are a valid header.
    unsafe {
        let mut header: libc::msghdr = mem::zeroed();
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        if room > 0 {
            header.msg_control = (&raw mut *control).cast();
            header.msg_controllen = room as _;
        }
        let flags = flags | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
        let len = libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags);
        let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
        Ok(Taken {
            len,
            flags: header.msg_flags,
            control: header.msg_controllen as usize,
        })
    }
}

/// Takes the next message, without waiting, unless more descriptors came with it than are due.
pub fn hear(socket: &PeerSocket, due: Due) -> Heard {
    loop {
        match receive(socket, due) {
            Ok(heard) => return heard,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Heard::Nothing,
            Err(_) => return Heard::End,
        }
    }
}

fn receive(socket: &PeerSocket, due: Due) -> io::Result<Heard> {
    let most = match due {
        Due::None => 0,
        Due::AtMost(most) => most.min(DESCRIPTORS_MAX),
    };
    // SAFETY: arithmetic on a length. Not CMSG_SPACE, which has room for one more.
    let len_of = |count: usize| unsafe { libc::CMSG_LEN((count * size_of::<RawFd>()) as u32) };
    let room = if most == 0 { 0 } else { len_of(most) as usize };
    let mut control = Control { bytes: [0; 128] };
    let mut message = [0; ROOM];
    let seen = receive_raw(
        socket.as_fd(),
        &mut message,
        &mut control,
        room,
        libc::MSG_PEEK,
    )?;
    let mut descriptors = Descriptors::closed_by(Close {
        sender: socket.uid,
        close: closer::close,
    });
    if seen.control > 0 {
        // SAFETY: the kernel has written so many bytes of control messages into the buffer, which is aligned:
        // one, because no other kind was asked for, with the numbers of new descriptors that nothing else
        // knows.
        unsafe {
            let first = (&raw const control).cast::<libc::cmsghdr>();
            if (*first).cmsg_level == libc::SOL_SOCKET && (*first).cmsg_type == libc::SCM_RIGHTS {
                #[allow(clippy::unnecessary_cast)] // a u32 with musl
                let bytes = (*first).cmsg_len as usize - len_of(0) as usize;
                let from = libc::CMSG_DATA(first).cast::<RawFd>();
                for n in 0..bytes / size_of::<RawFd>() {
                    descriptors.push(OwnedFd::from_raw_fd(from.add(n).read_unaligned()));
                }
            }
        }
    }
    if seen.flags & libc::MSG_CTRUNC != 0 {
        return Ok(if descriptors.len() < most {
            Heard::NoRoom
        } else {
            Heard::TooMany
        });
    }
    // The same message again, whose descriptors we have: no other thread reads here.
    let taken = receive_raw(socket.as_fd(), &mut message, &mut control, 0, 0)?;
    Ok(match taken.len {
        0 => Heard::End,
        len => Heard::Message(Message::decode(&message[..len]), descriptors),
    })
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

/// Ends a conversation in both directions, even if other processes have the socket open.
pub fn hang_up(socket: &PeerSocket) {
    // SAFETY: a plain system call; an error means that the other side has gone already.
    unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_RDWR) };
}
