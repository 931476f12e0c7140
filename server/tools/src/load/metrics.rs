//! A server's own figures, as docs/metrics.md names them: fetched over HTTP, in Prometheus's text format.

use crate::admin_client::{AdminAddress, get};
use crate::prometheus::Sample;

/// Looks at a server's `/metrics` now.
///
/// # Errors
/// Why there are none.
pub fn fetch(admin: &AdminAddress) -> Result<Metrics, String> {
    let text = get(admin, "/metrics").map_err(|error| error.to_string())?;
    Ok(Metrics::parse(&text))
}

/// All figures at one moment.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Vec<Sample>);

impl Metrics {
    /// Reads Prometheus's text format. Lines that are not of it are passed over: a server may say more than
    /// we know.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Metrics(lines.filter_map(Sample::read).collect())
    }

    /// The sum of a figure over all its labels; `None` if the server does not have it.
    pub fn total(&self, name: &str) -> Option<f64> {
        self.sum(|figure| figure.name == name)
    }

    /// A figure with this label, summed over its others.
    pub fn labelled(&self, name: &str, label: &str, is: &str) -> Option<f64> {
        self.sum(|figure| figure.name == name && figure.label(label) == Some(is))
    }

    fn sum(&self, is: impl Fn(&Sample) -> bool) -> Option<f64> {
        let mut found = self.0.iter().filter(|figure| is(figure)).peekable();
        found.peek()?;
        Some(found.map(|figure| figure.value).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
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
        let admin: AdminAddress = format!("http://{address}").parse().expect("an address");
        let metrics = fetch(&admin).expect("they are there");
        assert_eq!(metrics.total("transom_buckets"), Some(8.0));
        let error = fetch(&admin).expect_err("they are not");
        assert!(error.contains("404"), "{error}");
        server.join().expect("it was asked twice");
        assert!(fetch(&admin).is_err(), "no server is there");
    }
}
