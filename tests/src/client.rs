//! A client without opinions: it sends the bytes it is given and reads whole answers to a deadline.

use crate::PATIENCE;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::FromRawFd;
use std::time::{Duration, Instant};

/// A GET of HTTP/1.1.
#[must_use]
pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")
}

/// A connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    /// What has been received and belongs to no answer yet.
    received: Vec<u8>,
    patience: Duration,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The connection ended before an answer began.
    Closed,
    /// The connection ended in the middle of an answer.
    Cut,
    /// The connection was reset.
    Reset,
    /// Nothing, or not all, came in time.
    Late,
    /// What came is no answer.
    Garbled,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The status line and the fields, to the empty line.
    pub head: String,
    /// The body, without its framing.
    pub body: Vec<u8>,
}

impl Answer {
    /// A field's value.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self
            .head
            .split("\r\n")
            .skip(1)
            .filter_map(|line| line.split_once(':'));
        let found = fields.find(|(field, _)| field.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim())
    }

    /// How many fields have this name.
    #[must_use]
    pub fn count(&self, name: &str) -> usize {
        let fields = self
            .head
            .split("\r\n")
            .skip(1)
            .filter_map(|line| line.split_once(':'));
        fields
            .filter(|(field, _)| field.eq_ignore_ascii_case(name))
            .count()
    }

    /// Whether it says that the connection will be closed.
    #[must_use]
    pub fn closes(&self) -> bool {
        self.field("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// The body as text.
    ///
    /// # Panics
    /// If it is not UTF-8.
    #[must_use]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }
}

impl Client {
    /// Connects.
    ///
    /// # Panics
    /// If nobody listens there.
    #[must_use]
    pub fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).expect("the server listens")
    }

    /// Connects if somebody listens there.
    ///
    /// # Errors
    /// What `connect` says.
    pub fn try_connect(address: SocketAddr) -> std::io::Result<Self> {
        Self::over(TcpStream::connect_timeout(&address, PATIENCE)?)
    }

    /// Connects with a receive buffer of so many bytes (the kernel doubles them), so that little is on its
    /// way to a client that does not read.
    ///
    /// # Panics
    /// If nobody listens there, or not on IPv4.
    #[must_use]
    pub fn connect_with_buffer(address: SocketAddr, receive: libc::c_int) -> Self {
        let to = ipv4(address);
        // The window is offered while connecting, so the buffer is set before, which `std` cannot.
        // SAFETY: the descriptor is new and owned by nobody else; option and address have the types and sizes
        // that go with the calls.
        let (stream, connected) = unsafe {
            let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
            assert!(fd >= 0, "a descriptor is free");
            let stream = TcpStream::from_raw_fd(fd);
            let set = libc::setsockopt(
                fd,
                libc::SOL_SOCKET,
                libc::SO_RCVBUF,
                (&raw const receive).cast(),
                size_of_val(&receive) as libc::socklen_t,
            );
            assert_eq!(set, 0, "a receive buffer may have {receive} bytes");
            let len = size_of_val(&to) as libc::socklen_t;
            (stream, libc::connect(fd, (&raw const to).cast(), len) == 0)
        };
        assert!(connected, "the server listens");
        Self::over(stream).expect("a connection has these options")
    }

    /// Connects from an address of this machine: all that begin with 127 are.
    ///
    /// # Panics
    /// If nobody listens there, or an address is not of IPv4 or not of this machine.
    #[must_use]
    pub fn connect_from(from: Ipv4Addr, address: SocketAddr) -> Self {
        let (from, to) = (ipv4(SocketAddr::from((from, 0))), ipv4(address));
        let len = size_of_val(&to) as libc::socklen_t;
        // SAFETY: the descriptor is new and owned by nobody else; both addresses have the size that is given.
        let (stream, connected) = unsafe {
            let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
            assert!(fd >= 0, "a descriptor is free");
            let stream = TcpStream::from_raw_fd(fd);
            let bound = libc::bind(fd, (&raw const from).cast(), len);
            assert_eq!(bound, 0, "the address is this machine's");
            (stream, libc::connect(fd, (&raw const to).cast(), len) == 0)
        };
        assert!(connected, "the server listens");
        Self::over(stream).expect("a connection has these options")
    }

    fn over(stream: TcpStream) -> std::io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Client {
            stream,
            received: Vec::new(),
            patience: PATIENCE,
        })
    }

    /// Sends bytes.
    ///
    /// # Panics
    /// If they cannot be sent.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream
            .write_all(bytes.as_ref())
            .expect("the server takes what is sent");
    }

    /// Sends bytes to a server that may have closed already.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// The answer to a GET.
    #[must_use]
    pub fn get(&mut self, path: &str) -> Answer {
        self.send(get(path));
        self.answer()
    }

    /// The answer to a POST.
    #[must_use]
    pub fn post(&mut self, path: &str, body: impl AsRef<[u8]>) -> Answer {
        let body = body.as_ref();
        self.send(format!(
            "POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n",
            body.len()
        ));
        self.send(body);
        self.answer()
    }

    /// The next answer.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn answer(&mut self) -> Answer {
        match self.try_answer() {
            Ok(answer) => answer,
            Err(trouble) => panic!(
                "{trouble:?} after {:?}",
                String::from_utf8_lossy(&self.received)
            ),
        }
    }

    /// The next answer, or why there is none.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn try_answer(&mut self) -> Result<Answer, Trouble> {
        self.read_answer(false)
    }

    /// The answer to a HEAD, whose length is another's.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn answer_to_head(&mut self) -> Answer {
        self.read_answer(true).expect("an answer")
    }

    fn read_answer(&mut self, head_only: bool) -> Result<Answer, Trouble> {
        let deadline = Instant::now() + self.patience;
        let head_len = loop {
            if let Some(at) = find(&self.received, b"\r\n\r\n") {
                break at + 4;
            }
            if self.receive(deadline)? == 0 {
                return Err(if self.received.is_empty() {
                    Trouble::Closed
                } else {
                    Trouble::Cut
                });
            }
        };
        let head: Vec<u8> = self.received.drain(..head_len).collect();
        let head = String::from_utf8(head).map_err(|_| Trouble::Garbled)?;
        let status = head
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3)?.parse().ok());
        let mut answer = Answer {
            status: status.ok_or(Trouble::Garbled)?,
            head,
            body: Vec::new(),
        };
        if head_only || matches!(answer.status, 100..=199 | 204 | 304) {
            return Ok(answer);
        }
        answer.body = match (
            answer.field("transfer-encoding"),
            answer.field("content-length"),
        ) {
            (Some("chunked"), None) => self.chunked_body(deadline)?,
            (None, Some(length)) => {
                let length = length.parse().map_err(|_| Trouble::Garbled)?;
                self.take(length, deadline)?
            }
            (None, None) => {
                while self.receive(deadline)? > 0 {}
                std::mem::take(&mut self.received)
            }
            _ => return Err(Trouble::Garbled),
        };
        Ok(answer)
    }

    fn chunked_body(&mut self, deadline: Instant) -> Result<Vec<u8>, Trouble> {
        let mut body = Vec::new();
        loop {
            let line_len = loop {
                if let Some(at) = find(&self.received, b"\r\n") {
                    break at;
                }
                if self.receive(deadline)? == 0 {
                    return Err(Trouble::Cut);
                }
            };
            let line = self.take(line_len + 2, deadline)?;
            let digits = std::str::from_utf8(&line[..line_len]).map_err(|_| Trouble::Garbled)?;
            let len = usize::from_str_radix(digits, 16).map_err(|_| Trouble::Garbled)?;
            body.extend(self.take(len, deadline)?);
            if self.take(2, deadline)? != b"\r\n" {
                return Err(Trouble::Garbled);
            }
            if len == 0 {
                return Ok(body);
            }
        }
    }

    /// The next `len` bytes.
    fn take(&mut self, len: usize, deadline: Instant) -> Result<Vec<u8>, Trouble> {
        while self.received.len() < len {
            if self.receive(deadline)? == 0 {
                return Err(Trouble::Cut);
            }
        }
        Ok(self.received.drain(..len).collect())
    }

    /// Everything until the server closes.
    ///
    /// # Errors
    /// [`Trouble`], if it resets the connection or does not close it.
    pub fn rest(&mut self) -> Result<Vec<u8>, Trouble> {
        let deadline = Instant::now() + self.patience;
        while self.receive(deadline)? > 0 {}
        Ok(std::mem::take(&mut self.received))
    }

    /// Whether the server closes the connection, without a reset and without a further byte.
    #[must_use]
    pub fn is_closed(&mut self) -> bool {
        self.rest() == Ok(Vec::new())
    }

    /// Whether nothing comes for a while: neither bytes nor an end.
    #[must_use]
    pub fn hears_nothing_for(&mut self, time: Duration) -> bool {
        self.received.is_empty() && self.receive(Instant::now() + time) == Err(Trouble::Late)
    }

    /// Says that nothing more will be sent.
    pub fn half_close(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Closes with a reset.
    pub fn reset(self) {
        use std::os::fd::AsRawFd;
        let linger = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        // SAFETY: the option's value is a linger of the given size.
        unsafe {
            libc::setsockopt(
                self.stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_LINGER,
                (&raw const linger).cast(),
                size_of_val(&linger) as libc::socklen_t,
            );
        }
    }

    /// A second handle on the connection, to send from another thread while this one reads.
    ///
    /// # Panics
    /// If the process has no descriptor left.
    #[must_use]
    pub fn sender(&self) -> TcpStream {
        self.stream.try_clone().expect("a descriptor is free")
    }

    fn receive(&mut self, deadline: Instant) -> Result<usize, Trouble> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Trouble::Late);
        }
        self.stream
            .set_read_timeout(Some(left))
            .map_err(|_| Trouble::Reset)?;
        let mut buffer = [0; 64 << 10];
        match self.stream.read(&mut buffer) {
            Ok(len) => {
                self.received.extend_from_slice(&buffer[..len]);
                Ok(len)
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => Err(Trouble::Late),
                ErrorKind::Interrupted => self.receive(deadline),
                _ => Err(Trouble::Reset),
            },
        }
    }
}

/// An address as the kernel takes it.
fn ipv4(address: SocketAddr) -> libc::sockaddr_in {
    let SocketAddr::V4(v4) = address else {
        panic!("{address} is not an IPv4 address");
    };
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: v4.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from(*v4.ip()).to_be(),
        },
        sin_zero: [0; 8],
    }
}

/// Where a sequence of bytes begins.
pub(crate) fn find(bytes: &[u8], sequence: &[u8]) -> Option<usize> {
    bytes
        .windows(sequence.len())
        .position(|window| window == sequence)
}
