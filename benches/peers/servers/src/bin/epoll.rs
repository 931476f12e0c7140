//! The cheapest server that epoll(7) allows: wait, one read, one write of a fixed answer; no parsing, no
//! timeouts.
//!
//! It is the floor for the other servers: its cost is the kernel's, and any cost above it is their own.
//! `peer-epoll 127.0.0.1:PORT`, or `peer-epoll unix:PATH` to stand behind another server; one thread. A
//! second argument says how it takes what it reads:
//!
//! | argument | a read is | and then |
//! |---|---|---|
//! | `kept` (default) | one request, answered with text | the connection stays |
//! | `json` | one request, answered with JSON | the connection stays |
//! | `close` | one request, answered with text | the connection is closed |
//! | `pipelined` | as many requests as the process's first request fits into it | the connection stays |

use answers::FIXED_ANSWER;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process::ExitCode;

/// The same as [`FIXED_ANSWER`], of JSON.
const JSON: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Date: Sat, 21 Nov 2026 10:25:00 GMT\r\n\
    Content-Type: application/json\r\n\
    Content-Length: 27\r\n\
    \r\n\
    {\"message\":\"Hello, World!\"}";

/// The same, and the connection ends.
const CLOSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Date: Sat, 21 Nov 2026 10:25:00 GMT\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 13\r\n\
    Connection: close\r\n\
    \r\n\
    hello, world\n";

/// The most requests that one read may hold when they are pipelined.
const PIPELINED_MAX: usize = 256;

/// How a read is taken.
struct Mode {
    answer: Vec<u8>,
    keep: bool,
    /// Only when requests are pipelined: as many times the answer as one write may need.
    repeat: usize,
}

impl Mode {
    fn named(name: &str) -> Option<Self> {
        let (answer, keep, repeat) = match name {
            "kept" => (FIXED_ANSWER, true, 1),
            "json" => (JSON, true, 1),
            "close" => (CLOSE, false, 1),
            "pipelined" => (FIXED_ANSWER, true, PIPELINED_MAX),
            _ => return None,
        };
        Some(Self {
            answer: answer.repeat(repeat),
            keep,
            repeat,
        })
    }
}

/// Descriptors that one `epoll_wait` may return.
const EVENTS: usize = 256;

/// More than the head of any request of the harness, and than sixteen of its shortest.
const READ_BYTES: usize = 4096;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next();
    let mode = arguments.next().unwrap_or_else(|| "kept".into());
    let (Some(address), Some(mode)) = (address, Mode::named(&mode)) else {
        eprintln!("usage: peer-epoll ADDRESS:PORT|unix:PATH [kept|json|close|pipelined]");
        return ExitCode::from(2);
    };
    let listener = match address.strip_prefix("unix:") {
        Some(path) => UnixListener::bind(path).map(OwnedFd::from),
        None => TcpListener::bind(&address).map(OwnedFd::from),
    };
    match listener.and_then(|listener| serve(&listener, &mode)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peer-epoll: {address}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until the process is ended.
fn serve(listener: &OwnedFd, mode: &Mode) -> io::Result<()> {
    let epoll = Epoll::new()?;
    epoll.add(listener)?;
    // Indexed by descriptor: the kernel hands out the lowest free one.
    let mut connections: Vec<Option<Connection>> = Vec::new();
    // Of the first request; 0 until there was one.
    let mut request_bytes = 0;
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
    loop {
        for event in epoll.wait(&mut events)? {
            let descriptor = event.u64 as usize;
            if descriptor == listener.as_raw_fd() as usize {
                accept(listener, &epoll, &mut connections)?;
            } else if let Some(connection) = &mut connections[descriptor]
                && !answer(connection, mode, &mut request_bytes)
            {
                connections[descriptor] = None;
            }
        }
    }
}

fn accept(
    listener: &OwnedFd,
    epoll: &Epoll,
    connections: &mut Vec<Option<Connection>>,
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
    // SAFETY: a new descriptor that nothing else owns.
    let stream = TcpStream::from(unsafe { OwnedFd::from_raw_fd(descriptor) });
    // A Unix socket has no delay to turn off.
    let _ = stream.set_nodelay(true);
    epoll.add(&stream)?;
    let descriptor = stream.as_raw_fd() as usize;
    if descriptor >= connections.len() {
        connections.resize_with(descriptor + 1, || None);
    }
    connections[descriptor] = Some(Connection { stream, partial: 0 });
    Ok(())
}

/// Reads once and writes once. False if the connection is to be closed.
fn answer(connection: &mut Connection, mode: &Mode, request_bytes: &mut usize) -> bool {
    let mut request = [0; READ_BYTES];
    let read = match connection.stream.read(&mut request) {
        Ok(0) => return false,
        Ok(read) => read,
        Err(error) => return error.kind() == ErrorKind::WouldBlock,
    };
    let requests = if mode.repeat == 1 {
        1
    } else {
        if *request_bytes == 0 {
            let head = request[..read]
                .windows(4)
                .position(|end| end == b"\r\n\r\n");
            *request_bytes = head.map_or(read, |head| head + 4);
        }
        let bytes = connection.partial + read;
        connection.partial = bytes % *request_bytes;
        bytes / *request_bytes
    };
    let answers = &mode.answer[..mode.answer.len() / mode.repeat * requests];
    // Answers always fit the send buffer of a client that waits for them.
    matches!(connection.stream.write(answers), Ok(written) if written == answers.len()) && mode.keep
}

struct Connection {
    stream: TcpStream,
    /// Bytes of a request that is not complete yet.
    partial: usize,
}

struct Epoll(OwnedFd);

impl Epoll {
    fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers.
        let descriptor = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nothing else owns.
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
