//! A server's own figures, as docs/metrics.md names them: fetched over HTTP, in Prometheus's text format.

use super::answer::Reader;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// The most bytes of figures that are read.
const TEXT_MAX: usize = 8 << 20;

/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where a server's `/metrics` are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admin {
    /// `HOST:PORT`.
    Tcp(String),
    /// A Unix socket.
    Unix(PathBuf),
}

impl FromStr for Admin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.is_empty() {
                true => Err("unix: has no path after it".to_owned()),
                false => Ok(Admin::Unix(path.into())),
            };
        }
        let rest = text.strip_prefix("http://").unwrap_or(text);
        let host = rest.strip_suffix('/').unwrap_or(rest);
        let port = host
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_none() || host.contains('/') {
            return Err(format!(
                "{text:?} is not where metrics are: write http://HOST:PORT or unix:PATH, without /metrics"
            ));
        }
        Ok(Admin::Tcp(host.to_owned()))
    }
}

impl Admin {
    /// Looks at `/metrics` now.
    ///
    /// # Errors
    /// Why there are none.
    pub fn fetch(&self) -> Result<Metrics, String> {
        let text = match self {
            Admin::Tcp(host) => {
                let error = |error: std::io::Error| format!("http://{host}/metrics: {error}");
                let mut addresses = host.to_socket_addrs().map_err(error)?;
                let address = addresses
                    .next()
                    .ok_or_else(|| format!("{host} has no address"))?;
                let stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(error)?;
                let (read, write) = (
                    stream.set_read_timeout(Some(PATIENCE)),
                    stream.set_write_timeout(Some(PATIENCE)),
                );
                read.and(write).map_err(error)?;
                get(stream, host)
            }
            Admin::Unix(path) => {
                let error = |error: std::io::Error| format!("{}: {error}", path.display());
                let stream = UnixStream::connect(path).map_err(error)?;
                let (read, write) = (
                    stream.set_read_timeout(Some(PATIENCE)),
                    stream.set_write_timeout(Some(PATIENCE)),
                );
                read.and(write).map_err(error)?;
                get(stream, "localhost")
            }
        };
        let text = text.map_err(|why| format!("/metrics: {why}"))?;
        Ok(Metrics::parse(&text))
    }
}

fn get(mut stream: impl Read + Write, host: &str) -> Result<String, String> {
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .map_err(|error| error.to_string())?;
    let mut reader = Reader::keeping(TEXT_MAX);
    reader.expect(false);
    let mut buffer = [0; 16 << 10];
    let answer = loop {
        let len = stream
            .read(&mut buffer)
            .map_err(|error| error.to_string())?;
        let whole = match len {
            0 => Some(reader.end().ok_or("cut off")?),
            _ => reader
                .feed(&buffer[..len])
                .map_err(|error| error.to_string())?,
        };
        if let Some(answer) = whole {
            break answer;
        }
    };
    if answer.status != 200 {
        return Err(format!("status {}", answer.status));
    }
    Ok(String::from_utf8_lossy(&reader.into_body()).into_owned())
}

/// All figures at one moment.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Vec<Figure>);

#[derive(Debug, Clone)]
struct Figure {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Metrics {
    /// Reads Prometheus's text format. Lines that are not of it are passed over: a server may say more than we know.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Metrics(lines.filter_map(figure).collect())
    }

    /// The sum of a figure over all its labels; `None` if the server does not have it.
    pub fn total(&self, name: &str) -> Option<f64> {
        self.sum(|figure| figure.name == name)
    }

    /// A figure with this label, summed over its others.
    pub fn labelled(&self, name: &str, label: &str, is: &str) -> Option<f64> {
        let has = |figure: &Figure| {
            figure
                .labels
                .iter()
                .any(|(key, value)| key == label && value == is)
        };
        self.sum(|figure| figure.name == name && has(figure))
    }

    fn sum(&self, is: impl Fn(&Figure) -> bool) -> Option<f64> {
        let mut found = self.0.iter().filter(|figure| is(figure)).peekable();
        found.peek()?;
        Some(found.map(|figure| figure.value).sum())
    }
}

/// `name{label="value",…} number`, with a timestamp perhaps.
fn figure(line: &str) -> Option<Figure> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Vec::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            rest = rest.trim_start_matches([',', ' ']);
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.push((label.trim().to_owned(), value));
            rest = after;
        }
    }
    Some(Figure {
        name: name.to_owned(),
        labels,
        value: rest.split_whitespace().next()?.parse().ok()?,
    })
}

/// A label's value up to its closing quote, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    const TEXT: &str = "# HELP transom_buckets buckets\n# TYPE transom_buckets gauge\n\
        transom_buckets{state=\"idle\"} 6\ntransom_buckets{state=\"busy\"} 2\n\
        transom_bound_bytes{place=\"region\"} 4.5e7\n\
        transom_calls_total 100 1790000000000\n\
        transom_exhausted_total{reason=\"arena\",route=\"/{kib}, \\\"x\\\\\"} 3\n\
        nonsense\n\n";

    #[test]
    fn figures_have_labels_and_values() {
        let metrics = Metrics::parse(TEXT);
        assert_eq!(metrics.total("transom_buckets"), Some(8.0));
        assert_eq!(
            metrics.labelled("transom_buckets", "state", "busy"),
            Some(2.0)
        );
        assert_eq!(metrics.labelled("transom_buckets", "state", "parked"), None);
        assert_eq!(
            metrics.labelled("transom_bound_bytes", "place", "region"),
            Some(4.5e7)
        );
        assert_eq!(metrics.total("transom_calls_total"), Some(100.0));
        let route = "/{kib}, \"x\\";
        assert_eq!(
            metrics.labelled("transom_exhausted_total", "route", route),
            Some(3.0)
        );
        assert_eq!(metrics.total("nonsense"), None);
    }

    #[test]
    fn they_are_fetched_over_http() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it has one");
        let server = thread::spawn(move || {
            for answer in [
                format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{TEXT}",
                    TEXT.len()
                ),
                "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
            ] {
                let (mut stream, _) = listener.accept().expect("a client");
                let mut request = [0; 1024];
                let len = stream.read(&mut request).expect("a request");
                assert!(request[..len].starts_with(b"GET /metrics HTTP/1.1\r\n"));
                stream.write_all(answer.as_bytes()).expect("it reads");
            }
        });
        let admin: Admin = format!("http://{address}").parse().expect("an address");
        let metrics = admin.fetch().expect("they are there");
        assert_eq!(metrics.total("transom_buckets"), Some(8.0));
        let error = admin.fetch().expect_err("they are not");
        assert!(error.contains("404"), "{error}");
        server.join().expect("it was asked twice");
        assert!(admin.fetch().is_err(), "nobody is there");
    }

    #[test]
    fn an_address_is_a_port_or_a_path() {
        let parse = |text: &str| text.parse::<Admin>();
        assert_eq!(
            parse("127.0.0.1:9180"),
            Ok(Admin::Tcp("127.0.0.1:9180".to_owned()))
        );
        assert_eq!(
            parse("unix:/run/a.sock"),
            Ok(Admin::Unix("/run/a.sock".into()))
        );
        for wrong in ["", "unix:", "http://a", "http://a:1/metrics", "https://a:1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
