//! Where measurements come from: a file, or a server's `/metrics`.

use crate::admin_client::{AdminAddress, get};
use std::fs::File;
use std::io::{self, Read};

/// A page of metrics is some hundred KiB; more than this is something else.
const SIZE_MAX: u64 = 64 << 20;

/// Reads a page of metrics from `http://ADDRESS:PORT[/PATH]`, `unix:SOCKET`, or a file.
///
/// # Errors
/// A sentence that says what was read and what went wrong.
pub fn read(source: &str) -> Result<String, String> {
    let failed = |why: String| format!("{source}: {why}");
    if source.starts_with("https://") {
        return Err(failed(
            "this speaks no TLS; save the page with curl, and give the file".to_owned(),
        ));
    }
    let url = source.strip_prefix("http://");
    if url.is_none() && !source.starts_with("unix:") {
        let text = File::open(source).and_then(|file| to_text(file.take(SIZE_MAX)));
        return text.map_err(|error| failed(error.to_string()));
    }
    let (host, path) = match url.and_then(|url| Some((url, url.find('/')?))) {
        Some((url, slash)) if url.len() > slash + 1 => url.split_at(slash),
        _ => (source, "/metrics"),
    };
    let address: AdminAddress = host.parse().map_err(failed)?;
    get(&address, path).map_err(|error| failed(error.to_string()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_named() {
        for source in [
            "/no/such/file",
            "unix:/no/such/socket",
            "https://localhost/metrics",
            "http://127.0.0.1:port/",
            "http://127.0.0.1:1/metrics",
        ] {
            let why = read(source).expect_err(source);
            assert!(why.starts_with(source), "{why}");
        }
    }
}
