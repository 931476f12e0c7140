//! Where measurements come from: a file, or a server's `/metrics`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A page of metrics is some hundred KiB; more than this is something else.
const SIZE_MAX: u64 = 64 << 20;

/// How long a server may take in all.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads a page of metrics from `http://ADDRESS:PORT[/PATH]`, `unix:SOCKET`, or a file.
///
/// # Errors
/// A sentence that says what was read and what went wrong.
pub fn read(source: &str) -> Result<String, String> {
    let text = if let Some(rest) = source.strip_prefix("http://") {
        let (address, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, "/metrics"),
        };
        connect(address).and_then(|stream| get(stream, address, path))
    } else if let Some(socket) = source.strip_prefix("unix:") {
        unix(socket).and_then(|stream| get(stream, "localhost", "/metrics"))
    } else if source.starts_with("https://") {
        return Err(format!(
            "{source}: this speaks no TLS; save the page with curl, and give the file"
        ));
    } else {
        File::open(source).and_then(|file| to_text(file.take(SIZE_MAX)))
    };
    text.map_err(|error| format!("{source}: {error}"))
}

fn connect(address: &str) -> io::Result<TcpStream> {
    // A name may have an address of each family, and a server only one of them.
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn unix(socket: &str) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Asks as HTTP/1.0, so that the answer is neither chunked nor followed by another one: it ends with the connection.
fn get(mut stream: impl Read + Write, host: &str, path: &str) -> io::Result<String> {
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nHost: {host}\r\nAccept: text/plain\r\nConnection: close\r\n\r\n"
    )?;
    let by = Instant::now() + PATIENCE;
    body(&to_text(Until { stream, by }.take(SIZE_MAX))?)
}

/// The body of a whole answer.
fn body(answer: &str) -> io::Result<String> {
    let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| wrong("the answer has no end of its head; is this HTTP?".to_owned()))?;
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        return Err(wrong(format!("the server answered {status:?}")));
    }
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok());
    match length {
        Some(length) if length != body.len() => Err(wrong(format!(
            "the answer was cut: {} of {length} bytes",
            body.len()
        ))),
        _ => Ok(body.to_owned()),
    }
}

fn to_text(mut from: io::Take<impl Read>) -> io::Result<String> {
    let mut text = String::new();
    from.read_to_string(&mut text)?;
    if from.limit() == 0 {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "more than 64 MiB: this is no page of metrics",
        ));
    }
    Ok(text)
}

/// A stream that may be read up to an instant, however it trickles.
struct Until<S> {
    stream: S,
    by: Instant,
}

impl<S: Read> Read for Until<S> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if Instant::now() > self.by {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.read(into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_whole_or_not_at_all() {
        let good = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\na 1";
        assert_eq!(body(good).expect("whole"), "a 1");
        assert_eq!(
            body("HTTP/1.0 200 OK\r\n\r\nto the end").expect("whole"),
            "to the end"
        );
        for (answer, part) in [
            ("HTTP/1.1 404 Not Found\r\n\r\n", "404"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\na 1", "3 of 9"),
            ("SSH-2.0", "is this HTTP?"),
        ] {
            let why = body(answer).expect_err(part).to_string();
            assert!(why.contains(part), "{why}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for source in [
            "/no/such/file",
            "unix:/no/such/socket",
            "https://localhost/metrics",
            "http://127.0.0.1:port/",
        ] {
            let why = read(source).expect_err(source);
            assert!(why.starts_with(source), "{why}");
        }
    }
}
