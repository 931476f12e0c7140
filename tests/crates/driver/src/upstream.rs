//! A tiny HTTP server in the driver, for routes that call another server: it answers each GET with the
//! number in its target.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

/// Starts it on a port of the kernel's choice. It ends with the process.
///
/// # Errors
/// There is no port.
pub fn start() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream));
        }
    });
    Ok(address)
}

/// Until the client closes, or sends what is no GET.
fn serve(stream: TcpStream) -> io::Result<()> {
    let mut answers = stream.try_clone()?;
    answers.set_nodelay(true)?;
    let mut lines = BufReader::new(stream).lines();
    while let Some(line) = lines.next().transpose()? {
        let Some(number) = number(&line) else { break };
        while lines
            .next()
            .transpose()?
            .is_some_and(|field| !field.is_empty())
        {}
        let body = format!("upstream {number}");
        let length = body.len();
        write!(
            answers,
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
        )?;
    }
    Ok(())
}

/// The number in `GET /?n=17 HTTP/1.1`.
fn number(line: &str) -> Option<u64> {
    let (_, rest) = line.strip_prefix("GET ")?.split_once("n=")?;
    rest.split(' ').next()?.parse().ok()
}
