//! A connection over which one request after the other is sent: HTTP/1.1 as far as the server under test
//! speaks it.
//!
//! It waits for at most [`PATIENCE`] for any byte, and never panics: a server that hangs or dies is what it
//! is for.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long the server may be silent.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// No answer of any route is larger.
const BODY_MAX: usize = 16 << 20;

/// An answer.
#[derive(Debug)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: Vec<u8>,
    /// The server closes the connection after it.
    pub last: bool,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Trouble {
    /// Nothing listens there any more.
    NoConnection,
    /// Not within [`PATIENCE`].
    Silence,
    /// The connection ended first.
    Closed,
    /// What came is not HTTP as the server speaks it.
    Nonsense,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Trouble::NoConnection => "no connection",
            Trouble::Silence => "no answer within 5 s",
            Trouble::Closed => "connection closed without an answer",
            Trouble::Nonsense => "an answer that is not HTTP",
        })
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Trouble::Silence,
            io::ErrorKind::InvalidData => Trouble::Nonsense,
            _ => Trouble::Closed,
        }
    }
}

/// A connection to the server.
#[derive(Debug)]
pub struct Connection(BufReader<TcpStream>);

impl Connection {
    /// Opens one.
    ///
    /// # Errors
    /// [`Trouble::NoConnection`].
    pub fn open(address: SocketAddr) -> Result<Self, Trouble> {
        let open = || {
            let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok::<_, io::Error>(stream)
        };
        let stream = open().map_err(|_| Trouble::NoConnection)?;
        Ok(Connection(BufReader::new(stream)))
    }

    /// Sends a request, and waits for the answer to it.
    ///
    /// # Errors
    /// The connection is of no use afterwards.
    pub fn ask(&mut self, request: &[u8]) -> Result<Reply, Trouble> {
        self.0.get_mut().write_all(request)?;
        let line = self.line()?;
        let status = line
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3));
        let status = status.and_then(|digits| digits.parse().ok());
        let mut reply = Reply {
            status: status.ok_or(Trouble::Nonsense)?,
            body: Vec::new(),
            last: false,
        };
        let mut length: Option<usize> = None;
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or(Trouble::Nonsense)?;
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse().ok(),
                "connection" => reply.last = value.trim().eq_ignore_ascii_case("close"),
                _ => {}
            }
        }
        match length {
            Some(length) if length <= BODY_MAX => {
                reply.body.resize(length, 0);
                self.0.read_exact(&mut reply.body)?;
            }
            None if reply.last => {
                let mut rest = self.0.by_ref().take(BODY_MAX as u64);
                rest.read_to_end(&mut reply.body)?;
            }
            Some(_) | None => return Err(Trouble::Nonsense),
        }
        Ok(reply)
    }

    fn line(&mut self) -> Result<String, Trouble> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(Trouble::Closed);
        }
        Ok(line.trim_end().to_owned())
    }
}

/// A GET on a connection of its own. In HTTP/1.0, so that an answer of unknown length ends with the
/// connection.
///
/// # Errors
/// Why there is no answer.
pub fn get(address: SocketAddr, path: &str) -> Result<Reply, Trouble> {
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    Connection::open(address)?.ask(request.as_bytes())
}
