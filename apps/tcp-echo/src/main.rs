//! Sends back what it is sent, until the client has no more to say: an echo service (RFC 862) behind a door.
//!
//! ```text
//! tcp-echo --door /run/echo.door --request-size 4KiB --reply-size 4KiB
//! transom serve --forward tcp://127.0.0.1:7007=/run/echo.door
//! ```

use std::io::{self, Read, Write};
use std::process::ExitCode;
use transom::Connection;

/// Bytes on their way. They lie on the bucket's stack.
const BUFFER: usize = 16 << 10;

fn echo(connection: &mut Connection) -> io::Result<()> {
    let mut buffer = [0; BUFFER];
    loop {
        match connection.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(len) => connection.write_all(&buffer[..len])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn main() -> ExitCode {
    // SAFETY: the handler allocates nothing, holds no lock, and owns nothing but its stack.
    unsafe { transom::App::connections(echo).escaping() }.serve()
}
