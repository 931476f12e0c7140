//! Asks a server at its admin address (`--admin`), over TCP or a Unix socket.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};
use transom_http::answer::{Part, Reader};

/// How long an answer may take, from connecting to its last byte.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest answer that is read. A snapshot of 16,384 buckets has about 400 KB.
const ANSWER_MAX: usize = 64 << 20;

/// Where a server's `--admin` listens: `127.0.0.1:9180`, also as `http://127.0.0.1:9180/`, or `unix:` and a
/// path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddress {
    /// `HOST:PORT`, a name or an address.
    Tcp(String),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl FromStr for AdminAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some("") => return Err("the path after `unix:` is missing".to_owned()),
            Some(path) => return Ok(AdminAddress::Unix(path.into())),
            None => {}
        }
        let host = text.strip_prefix("http://").unwrap_or(text);
        let host = host.strip_suffix('/').unwrap_or(host);
        match host.rsplit_once(':') {
            Some((name, port)) if !name.is_empty() && !name.contains('/') && port.parse::<u16>().is_ok() => {
                Ok(AdminAddress::Tcp(host.to_owned()))
            }
            _ => Err(
                "neither an address and a port (127.0.0.1:9180, http://127.0.0.1:9180) nor `unix:` and a path"
                    .to_owned(),
            ),
        }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdminAddress::Tcp(host) => host.fmt(f),
            AdminAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// There is no such socket, or no process listens there.
    #[error("no server listens at {0} ({1}): is this the server's --admin?")]
    NobodyListens(AdminAddress, ErrorKind),
    /// The connection did not come about, was cut, or nothing came in time.
    #[error("{0} does not answer: {1}")]
    Silent(AdminAddress, io::Error),
    /// Another program listens there.
    #[error("what answers at {0} is no admin address of Transom: {1}")]
    NotTransom(AdminAddress, &'static str),
    /// Any status but 200, with the body.
    #[error("{address} answers {path} with status {status}: {body}")]
    Status {
        /// The address that answers.
        address: AdminAddress,
        /// What was asked for.
        path: String,
        /// The status code.
        status: u16,
        /// The answer's body.
        body: String,
    },
}

/// The body of the answer to a GET of `path`, which begins with a slash.
///
/// # Errors
/// [`AdminError`], within a few seconds.
pub fn get(address: &AdminAddress, path: &str) -> Result<String, AdminError> {
    let deadline = Instant::now() + PATIENCE;
    let silent = |error| match error {
        AnswerError::Io(error) => AdminError::Silent(address.clone(), error),
        AnswerError::NotHttp(what) => AdminError::NotTransom(address.clone(), what),
    };
    let mut stream = connect(address).map_err(|error| match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::NotFound => {
            AdminError::NobodyListens(address.clone(), error.kind())
        }
        _ => AdminError::Silent(address.clone(), error),
    })?;
    let (status, body) = ask(stream.as_mut(), path, deadline).map_err(silent)?;
    let body = String::from_utf8(body)
        .map_err(|_| AdminError::NotTransom(address.clone(), "its answer is not UTF-8"))?;
    if status == 200 {
        return Ok(body);
    }
    Err(AdminError::Status {
        address: address.clone(),
        path: path.to_owned(),
        status,
        body: body.lines().next().unwrap_or_default().to_owned(),
    })
}

/// A connection, of either kind.
trait Wire: Read + Write {
    /// How long the next read or write may take; not zero.
    fn wait_at_most(&self, time: Duration) -> io::Result<()>;
}

impl Wire for TcpStream {
    fn wait_at_most(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time))?;
        self.set_write_timeout(Some(time))
    }
}

impl Wire for UnixStream {
    fn wait_at_most(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time))?;
        self.set_write_timeout(Some(time))
    }
}

fn connect(address: &AdminAddress) -> io::Result<Box<dyn Wire>> {
    let host = match address {
        AdminAddress::Tcp(host) => host,
        AdminAddress::Unix(path) => return Ok(Box::new(UnixStream::connect(path)?)),
    };
    // A name may have an address of each family, and a server only one of them.
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in host.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => return Ok(Box::new(stream)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Why what came is no answer.
#[derive(Debug)]
enum AnswerError {
    Io(io::Error),
    NotHttp(&'static str),
}

impl From<io::Error> for AnswerError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // What a read says when its time is up.
            ErrorKind::WouldBlock => AnswerError::Io(ErrorKind::TimedOut.into()),
            _ => AnswerError::Io(error),
        }
    }
}

/// Sends the request and reads the answer's status and body.
fn ask(wire: &mut dyn Wire, path: &str, deadline: Instant) -> Result<(u16, Vec<u8>), AnswerError> {
    const NOT_HTTP: AnswerError = AnswerError::NotHttp("it does not speak HTTP");
    wire.wait_at_most(PATIENCE)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: transom\r\nConnection: close\r\n\r\n");
    wire.write_all(request.as_bytes())?;
    let mut reader = Reader::new();
    reader.expect(false);
    let mut body = Vec::new();
    let mut block = [0; 64 << 10];
    loop {
        let answer = match read_some(wire, &mut block, deadline)? {
            0 => {
                let cut = match (reader.has_begun(), reader.has_head()) {
                    (false, _) => AnswerError::Io(ErrorKind::UnexpectedEof.into()),
                    (true, false) => NOT_HTTP,
                    (true, true) => AnswerError::Io(io::Error::other("the answer was cut")),
                };
                Some(reader.end().ok_or(cut)?)
            }
            len => reader
                .feed(&block[..len], &mut |part| match part {
                    Part::Head(_) => {}
                    Part::Body(part) => body.extend_from_slice(part),
                })
                .map_err(|_| match reader.has_head() {
                    false => NOT_HTTP,
                    true => AnswerError::NotHttp("its body is not to be read"),
                })?,
        };
        if let Some(answer) = answer {
            return Ok((answer.status, body));
        }
        if body.len() > ANSWER_MAX {
            return Err(AnswerError::NotHttp("its answer does not end"));
        }
    }
}

/// Reads what there is; 0 bytes at the end.
fn read_some(
    wire: &mut dyn Wire,
    block: &mut [u8],
    deadline: Instant,
) -> Result<usize, AnswerError> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(AnswerError::Io(ErrorKind::TimedOut.into()));
    }
    wire.wait_at_most(left)?;
    loop {
        match wire.read(block) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => return Ok(read?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// What `get` makes of these bytes, sent in two parts, by a peer that then ends the connection or keeps
    /// it.
    fn answered(bytes: &'static [u8], split: usize, ends: bool) -> Result<String, AdminError> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = AdminAddress::Tcp(listener.local_addr().expect("it is bound").to_string());
        let peer = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client connects");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).expect("a request comes");
                request.extend_from_slice(&byte);
            }
            for part in [&bytes[..split], &bytes[split..]] {
                stream.write_all(part).expect("it is read");
            }
            (!ends).then_some(stream)
        });
        let answer = get(&address, "/health");
        drop(peer.join());
        answer
    }

    #[test]
    fn reads_every_framing() {
        let fixed = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n2;x=y\r\nk\n\r\n0\r\n\r\n";
        let close = b"HTTP/1.1 200 OK\r\n\r\nok\n";
        for split in [0, 10, 38] {
            assert_eq!(answered(fixed, split, false).expect("whole"), "ok\n");
            assert_eq!(answered(chunked, split, false).expect("whole"), "ok\n");
        }
        assert_eq!(answered(close, 5, true).expect("whole"), "ok\n");
    }

    #[test]
    fn an_address_is_a_host_and_a_port_or_a_path() {
        let parse = |text: &str| text.parse::<AdminAddress>();
        let host = Ok(AdminAddress::Tcp("127.0.0.1:9180".to_owned()));
        assert_eq!(parse("127.0.0.1:9180"), host);
        assert_eq!(parse("http://127.0.0.1:9180/"), host);
        assert_eq!(
            host.map(|host| host.to_string()),
            Ok("127.0.0.1:9180".to_owned())
        );
        let path = Ok(AdminAddress::Unix("/run/a.sock".into()));
        assert_eq!(parse("unix:/run/a.sock"), path);
        for wrong in [
            "",
            "unix:",
            "http://a",
            "http://a:1/metrics",
            "https://a:1",
            ":80",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn says_what_is_wrong() {
        let cut = answered(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok\n", 0, true);
        assert!(cut.unwrap_err().to_string().contains("was cut"));
        let other = answered(b"220 mail.example ESMTP\r\n", 0, true).unwrap_err();
        assert!(other.to_string().contains("is no admin address of Transom"));
        let status = answered(
            b"HTTP/1.1 503 -\r\nContent-Length: 9\r\n\r\ndraining\n",
            0,
            true,
        );
        assert!(
            matches!(status, Err(AdminError::Status { status: 503, ref body, .. }) if body == "draining")
        );
    }

    #[test]
    fn nobody_listens() {
        let path = std::env::temp_dir().join(format!("transom-nobody-{}", std::process::id()));
        let error = get(&AdminAddress::Unix(path), "/health").unwrap_err();
        assert!(error.to_string().starts_with("no server listens at unix:/"));
    }
}
