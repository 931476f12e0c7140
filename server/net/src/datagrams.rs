//! Datagrams: their sockets, and receiving or sending one, with the address of ours that it came to.

use crate::internet::{canonical, from_c};
use crate::listen::{bind, share_port};
use crate::options::{ListenOptions, check_len, get_option, size};
use rustix::net::{SocketType, sockopt};
use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::{OwnedFd, RawFd};

/// As [`probe`](crate::probe), for datagrams.
///
/// # Errors
/// Those of bind(2).
pub fn probe_datagrams(address: SocketAddr, options: ListenOptions) -> io::Result<()> {
    bind(SocketType::DGRAM, address, options, |_| Ok(())).map(drop)
}

/// A UDP socket that shares its port with those of the other loops: the kernel gives all datagrams of one
/// sender to one.
///
/// # Errors
/// Those of bind(2).
pub fn receive_datagrams(address: SocketAddr, options: ListenOptions) -> io::Result<OwnedFd> {
    bind(SocketType::DGRAM, address, options, share_port)
}

/// Sets what the kernel may hold of datagrams that were not taken yet, whatever its limit (net.core.rmem_max)
/// is if we may; returns what it granted.
///
/// # Errors
/// Those of setsockopt(2).
pub fn set_datagram_buffer(socket: &OwnedFd, bytes: usize) -> io::Result<usize> {
    let bytes = size(bytes);
    sockopt::set_socket_recv_buffer_size_force(socket, bytes)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(socket, bytes))?;
    Ok(sockopt::socket_recv_buffer_size(socket)? / 2)
}

/// Datagrams that came while the socket had no room for them; 0 where the kernel does not say (Linux before
/// 4.12).
#[must_use]
pub fn dropped_datagrams(socket: &OwnedFd) -> u64 {
    const SO_MEMINFO: libc::c_int = 55;
    const DROPS: usize = 8;
    let mut figures = [0_u32; 16];
    let told = get_option(socket, libc::SOL_SOCKET, SO_MEMINFO, &mut figures);
    told.map_or(0, |()| u64::from(figures[DROPS]))
}

/// The sender of a datagram, exactly as the kernel gives it: an answer goes back to the same scope.
#[derive(Clone, Copy)]
pub struct Sender {
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
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
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
///
/// # Errors
/// Those of recvmsg(2).
pub fn receive_from(fd: RawFd, buffer: &mut [u8]) -> io::Result<(usize, Sender)> {
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

/// Sends a datagram, if the socket's buffer takes it, from the address that the sender has written to. If
/// answers cannot come from that address (a group's), the kernel chooses one.
///
/// # Errors
/// Those of sendmsg(2).
pub fn send_to(fd: RawFd, bytes: &[u8], to: &Sender) -> io::Result<usize> {
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
