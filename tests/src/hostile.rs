//! Clients that mean harm. Each does one thing to a server and expects nothing but that it neither hangs nor
//! fails others.

use crate::client::{Client, get, reset};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// What a hostile client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attack {
    /// Connects and closes.
    ConnectAndClose,
    /// Connects, and says nothing until it is closed or closes.
    Silent,
    /// Connects, sends half a head, and leaves it at that.
    HalfHead,
    /// Connects, sends a request, and resets the connection.
    Reset,
    /// Sends a request with urgent bytes in it.
    Urgent,
    /// Sends a request byte by byte.
    ByteByByte,
    /// Sends many requests at once and reads all of the answers.
    Pipeline,
    /// Sends many requests at once and reads none of the answers.
    Deaf,
    /// Begins a body and lets it trickle.
    SlowBody,
    /// Asks for something and half-closes.
    HalfClose,
    /// Sends what is no request.
    Garbage,
}

impl Attack {
    /// All of them.
    pub const ALL: [Attack; 11] = [
        Attack::ConnectAndClose,
        Attack::Silent,
        Attack::HalfHead,
        Attack::Reset,
        Attack::Urgent,
        Attack::ByteByByte,
        Attack::Pipeline,
        Attack::Deaf,
        Attack::SlowBody,
        Attack::HalfClose,
        Attack::Garbage,
    ];

    /// Does it once, to `path`; what is to be kept open is returned. Whether the server answers is not looked
    /// at.
    #[must_use]
    pub fn strike(self, address: SocketAddr, path: &str) -> Option<TcpStream> {
        let mut stream = TcpStream::connect(address).ok()?;
        let patience = Some(Duration::from_secs(10));
        stream.set_read_timeout(patience).ok()?;
        stream.set_write_timeout(patience).ok()?;
        let request = get(path);
        match self {
            Attack::ConnectAndClose => return None,
            Attack::Silent => {}
            Attack::HalfHead => stream.write_all(b"GET / HTTP/1.1\r\nHost: t").ok()?,
            Attack::Reset => {
                stream.write_all(request.as_bytes()).ok()?;
                reset(stream);
                return None;
            }
            Attack::Urgent => {
                let (start, end) = request.split_at(9);
                stream.write_all(start.as_bytes()).ok()?;
                send_urgent(&stream, b"x");
                stream.write_all(end.as_bytes()).ok()?;
                send_urgent(&stream, b"!");
            }
            Attack::ByteByByte => {
                stream.set_nodelay(true).ok()?;
                for byte in request.as_bytes() {
                    stream.write_all(&[*byte]).ok()?;
                }
                let _ = stream.read(&mut [0; 512]);
            }
            Attack::Pipeline => {
                let mut reader = stream.try_clone().ok()?;
                std::thread::scope(|scope| {
                    scope.spawn(move || {
                        let _ = stream.write_all(request.repeat(200).as_bytes());
                        let _ = stream.shutdown(std::net::Shutdown::Write);
                    });
                    let _ = std::io::copy(&mut reader, &mut std::io::sink());
                });
                return None;
            }
            Attack::Deaf => {
                stream.set_nonblocking(true).ok()?;
                let _ = stream.write_all(request.repeat(200).as_bytes());
            }
            Attack::SlowBody => {
                let head = "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 100000\r\n\r\nx";
                stream.write_all(head.as_bytes()).ok()?;
            }
            Attack::HalfClose => {
                stream.write_all(request.as_bytes()).ok()?;
                stream.shutdown(std::net::Shutdown::Write).ok()?;
            }
            Attack::Garbage => {
                stream
                    .write_all(&[0x16, 3, 1, 0, 0xff, b'\r', b'\n'])
                    .ok()?;
            }
        }
        Some(stream)
    }
}

/// Sends bytes of which the last is urgent (TCP's out-of-band byte).
pub fn send_urgent(stream: &TcpStream, bytes: &[u8]) {
    let flags = libc::MSG_OOB | libc::MSG_NOSIGNAL;
    // SAFETY: the bytes are valid for their length.
    unsafe {
        libc::send(
            stream.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            flags,
        )
    };
}

/// Whether a request on a connection of its own is answered with 200, and what else happened if not.
///
/// # Errors
/// What happened instead.
pub fn is_served(address: SocketAddr, path: &str) -> Result<(), String> {
    let mut client = Client::try_connect(address).map_err(|error| error.to_string())?;
    client.try_send(get(path));
    match client.try_answer() {
        Ok(answer) if answer.status == 200 => Ok(()),
        Ok(answer) => Err(format!("status {}", answer.status)),
        Err(trouble) => Err(format!("{trouble:?}")),
    }
}
