//! A client without opinions: it sends the bytes it is given and reads whole answers to a deadline. An answer
//! that needs a reader's tolerance is none.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};
use std::time::{Duration, Instant};
use transom_http::answer::{Part, Reader};

/// How long anything may take that should happen at once. Generous, because a loaded machine is no failure.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A GET of HTTP/1.1.
#[must_use]
pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")
}

/// A connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    /// Bytes that were received and belong to no answer yet.
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
    /// If nothing listens there.
    #[must_use]
    pub fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).expect("the server listens")
    }

    /// Connects if a server listens there.
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
    /// If nothing listens there, or not on IPv4.
    #[must_use]
    pub fn connect_with_buffer(address: SocketAddr, receive: libc::c_int) -> Self {
        let to = ipv4(address);
        // The window is offered while connecting, so the buffer is set before, which `std` cannot.
        // SAFETY: the descriptor is new and has no other owner; option and address have the types and sizes
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
    /// If nothing listens there, or an address is not of IPv4 or not of this machine.
    #[must_use]
    pub fn connect_from(from: Ipv4Addr, address: SocketAddr) -> Self {
        let (from, to) = (ipv4(SocketAddr::from((from, 0))), ipv4(address));
        let len = size_of_val(&to) as libc::socklen_t;
        // SAFETY: the descriptor is new and has no other owner; both addresses have the size that is given.
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

    /// Waits so long for what is sent to be taken, and for an answer to be whole.
    #[must_use]
    pub fn patient_for(mut self, patience: Duration) -> Self {
        let set = self.stream.set_write_timeout(Some(patience));
        set.expect("a connection has this option");
        self.patience = patience;
        self
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

    /// The answer to a HEAD, which has no body.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn answer_to_head(&mut self) -> Answer {
        self.read_answer(true).expect("an answer")
    }

    fn read_answer(&mut self, to_head: bool) -> Result<Answer, Trouble> {
        let deadline = Instant::now() + self.patience;
        let mut reader = Reader::strict();
        reader.expect(to_head);
        let (mut head, mut body) = (Vec::new(), Vec::new());
        let mut used = 0;
        let answer = loop {
            let mut bytes = &self.received[used..];
            let read = reader.read(&mut bytes, &mut |part| match part {
                Part::Head(part) => head.extend_from_slice(part),
                Part::Body(part) => body.extend_from_slice(part),
            });
            used = self.received.len() - bytes.len();
            if let Some(answer) = read.map_err(|_| Trouble::Garbled)? {
                break answer;
            }
            if self.receive(deadline)? == 0 {
                break reader.end().ok_or(match self.received.is_empty() {
                    true => Trouble::Closed,
                    false => Trouble::Cut,
                })?;
            }
        };
        // Until here an answer that is late can be asked for again.
        self.received.drain(..used);
        Ok(Answer {
            status: answer.status,
            head: String::from_utf8(head).map_err(|_| Trouble::Garbled)?,
            body,
        })
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
        reset(self.stream);
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

/// Closes with a reset.
pub fn reset(stream: TcpStream) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: the option's value is a linger of the given size.
    unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of_val(&linger) as libc::socklen_t,
        );
    }
    drop(stream);
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
