//! One request at a time, to see whether a server answers as it should.

use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

/// An answer.
#[derive(Debug, PartialEq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: Vec<u8>,
}

/// Sends the request that wrk sends, byte by byte, and reads the answer.
pub fn ask(
    stream: &TcpStream,
    path: &str,
    field: Option<&str>,
    body: Option<&[u8]>,
) -> io::Result<Answer> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let method = if body.is_some() { "POST" } else { "GET" };
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {}\r\n",
        stream.peer_addr()?
    );
    if let Some(field) = field {
        head.push_str(&format!("{field}\r\n"));
    }
    if let Some(body) = body {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    let mut request = head.into_bytes();
    request.extend(body.unwrap_or_default());
    let mut writer = stream;
    writer.write_all(&request)?;
    read(BufReader::new(stream))
}

fn read(mut reader: impl BufRead) -> io::Result<Answer> {
    let bad = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| bad(format!("`{}` is no status line", line.trim())))?;
    let (mut length, mut chunked) = (None, false);
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(bad("half a head".into()));
        }
        let Some((name, value)) = line.trim().split_once(':') else {
            break;
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok();
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = value.trim().eq_ignore_ascii_case("chunked");
        }
    }
    let mut body = Vec::new();
    if chunked {
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim(), 16);
            let size = size.map_err(|_| bad(format!("`{}` is no chunk size", line.trim())))?;
            let start = body.len();
            body.resize(start + size, 0);
            reader.read_exact(&mut body[start..])?;
            reader.read_line(&mut line)?;
            if size == 0 {
                break;
            }
        }
    } else {
        let length = length.ok_or_else(|| bad("an answer without a length".into()))?;
        body.resize(length, 0);
        reader.read_exact(&mut body)?;
    }
    Ok(Answer { status, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_to_the_end_of_its_body_and_no_further() {
        let bytes = b"HTTP/1.1 500 Whatever\r\ncontent-length: 2\r\nA: b\r\n\r\nhihello";
        let answer = read(&bytes[..]).unwrap();
        assert_eq!(
            answer,
            Answer {
                status: 500,
                body: b"hi".to_vec()
            }
        );
    }

    #[test]
    fn chunks_are_put_together() {
        let bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n";
        assert_eq!(read(&bytes[..]).unwrap().body, b"abc0123456789");
        assert!(read(&bytes[..bytes.len() - 12]).is_err());
    }

    #[test]
    fn what_is_no_whole_answer_is_an_error() {
        for bytes in [
            "",
            "hello",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b",
        ] {
            assert!(read(bytes.as_bytes()).is_err(), "{bytes:?}");
        }
    }
}
