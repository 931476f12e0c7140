//! A client's connection, lent to a handler for as long as it runs: `inetd`, without a process for each.
//!
//! ```
//! use std::io::{self, Read, Write};
//! use transom_platform::Connection;
//!
//! fn echo(connection: &mut Connection) -> io::Result<()> {
//!     let mut buffer = [0; 4096];
//!     loop {
//!         match connection.read(&mut buffer)? {
//!             0 => return Ok(()),
//!             len => connection.write_all(&buffer[..len])?,
//!         }
//!     }
//! }
//! ```

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use crate::outgrown::io_unless_exhausted;

/// A TCP connection that a front end has accepted and sent through the door. It blocks; it ends with the
/// handler, on every way out, and belongs to none that outlives the call.
#[derive(Debug)]
pub struct Connection<'c> {
    stream: &'c TcpStream,
    peer: Option<SocketAddr>,
}

impl<'c> Connection<'c> {
    pub(crate) fn new(stream: &'c TcpStream, peer: Option<SocketAddr>) -> Self {
        Connection { stream, peer }
    }

    /// The client's address, as the front end saw it; `None` for a Unix socket. The scope of an IPv6 address
    /// is not kept.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// The socket, for its options: timeouts of reads and writes, the end of one direction. There are none
    /// when a handler begins. A clone of it would outlive the call, and a handler that is left by a jump
    /// would not close it.
    #[must_use]
    pub fn stream(&self) -> &'c TcpStream {
        self.stream
    }
}

impl Read for Connection<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        io_unless_exhausted()?;
        self.stream.read(buffer)
    }
}

impl Write for Connection<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io_unless_exhausted()?;
        self.stream.write(bytes)
    }

    fn write_vectored(&mut self, pieces: &[io::IoSlice<'_>]) -> io::Result<usize> {
        io_unless_exhausted()?;
        self.stream.write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Connection<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// A handler for connections, which any door server thread may call: a function from `&mut Connection` to
/// `io::Result<()>`. An error says no more than why the connection ends.
pub trait ConnectionHandler: Send + Sync + 'static {
    /// Serves a connection to its end.
    ///
    /// # Errors
    /// Why it ends before the handler is done with it; for the log.
    fn call(&self, connection: &mut Connection<'_>) -> io::Result<()>;
}

impl<F> ConnectionHandler for F
where
    F: Fn(&mut Connection<'_>) -> io::Result<()> + Send + Sync + 'static,
{
    fn call(&self, connection: &mut Connection<'_>) -> io::Result<()> {
        self(connection)
    }
}
