//! The cheapest server that epoll(7) allows: wait, one read, one write of a fixed answer; no parsing, no timeouts.
//!
//! It is the floor that the other servers are measured against: what they cost above it is their own doing, what it costs
//! is the kernel's. It takes every read for one whole request, so only a client that waits for its answers gets what it
//! asked for. `peer-epoll 127.0.0.1:PORT`, or `peer-epoll unix:PATH` to stand behind another server; one thread.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process::ExitCode;

/// As many bytes as another server's answer has: the date is right in form only.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Date: Sat, 21 Nov 2026 10:25:00 GMT\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 13\r\n\
    \r\n\
    hello, world\n";

/// Descriptors that one `epoll_wait` may return; the harness uses 64 connections.
const EVENTS: usize = 256;

/// More than the head of any request of the harness.
const READ_BYTES: usize = 4096;

fn main() -> ExitCode {
    let Some(address) = std::env::args().nth(1) else {
        eprintln!("usage: peer-epoll ADDRESS:PORT | unix:PATH");
        return ExitCode::from(2);
    };
    let listener = match address.strip_prefix("unix:") {
        Some(path) => UnixListener::bind(path).map(OwnedFd::from),
        None => TcpListener::bind(&address).map(OwnedFd::from),
    };
    match listener.and_then(|listener| serve(&listener)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peer-epoll: {address}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until the process is ended.
fn serve(listener: &OwnedFd) -> io::Result<()> {
    let epoll = Epoll::new()?;
    epoll.add(listener)?;
    // Indexed by descriptor: the kernel hands out the lowest free one.
    let mut connections: Vec<Option<TcpStream>> = Vec::new();
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
    loop {
        for event in epoll.wait(&mut events)? {
            let descriptor = event.u64 as usize;
            if descriptor == listener.as_raw_fd() as usize {
                accept(listener, &epoll, &mut connections)?;
            } else if let Some(connection) = &mut connections[descriptor]
                && !answer(connection)
            {
                connections[descriptor] = None;
            }
        }
    }
}

fn accept(
    listener: &OwnedFd,
    epoll: &Epoll,
    connections: &mut Vec<Option<TcpStream>>,
) -> io::Result<()> {
    // One for each report: the listener blocks, and is reported again while others wait.
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let nobody = std::ptr::null_mut();
    // SAFETY: no address is asked for.
    let descriptor =
        unsafe { libc::accept4(listener.as_raw_fd(), nobody, std::ptr::null_mut(), flags) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    let connection = TcpStream::from(unsafe { OwnedFd::from_raw_fd(descriptor) });
    // A Unix socket has no delay to turn off.
    let _ = connection.set_nodelay(true);
    epoll.add(&connection)?;
    let descriptor = connection.as_raw_fd() as usize;
    if descriptor >= connections.len() {
        connections.resize_with(descriptor + 1, || None);
    }
    connections[descriptor] = Some(connection);
    Ok(())
}

/// Reads once and writes once. False if the connection is to be closed.
fn answer(connection: &mut TcpStream) -> bool {
    let mut request = [0; READ_BYTES];
    match connection.read(&mut request) {
        Ok(0) => false,
        // An answer always fits the send buffer of a client that waits for it.
        Ok(_) => matches!(connection.write(ANSWER), Ok(written) if written == ANSWER.len()),
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

struct Epoll(OwnedFd);

impl Epoll {
    fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers.
        let descriptor = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    /// Reports when `source` is readable, by its descriptor, until it is closed.
    fn add(&self, source: &impl AsRawFd) -> io::Result<()> {
        let descriptor = source.as_raw_fd();
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: descriptor as u64,
        };
        // SAFETY: both descriptors are open, and `event` outlives the call.
        let added = unsafe {
            libc::epoll_ctl(
                self.0.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                descriptor,
                &raw mut event,
            )
        };
        if added < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    fn wait<'e>(
        &self,
        events: &'e mut [libc::epoll_event; EVENTS],
    ) -> io::Result<&'e [libc::epoll_event]> {
        loop {
            // SAFETY: `events` is writable for `EVENTS` events.
            let ready = unsafe {
                libc::epoll_wait(
                    self.0.as_raw_fd(),
                    events.as_mut_ptr(),
                    EVENTS as libc::c_int,
                    -1,
                )
            };
            if ready >= 0 {
                return Ok(&events[..ready as usize]);
            }
            let error = io::Error::last_os_error();
            if error.kind() != ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}
