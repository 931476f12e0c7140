//! What every server of the harness answers, so that they differ only in how they serve.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | `hello, world` and a line feed |
//! | `GET /json` | `{"message":"Hello, World!"}`, serialised for each request |
//! | `POST /echo` | the body |
//! | `GET /size/N` | N bytes, made for each request |
//! | `GET /alloc/N` | N KiB allocated, a byte of each page written, then a line about it |
//! | `GET /attack/N` | N KiB allocated and filled, held for [`HOLD`] without blocking others, then a line about it |
//! | `POST /csv` | an SVG path through the points `x, y`, one a line |

use serde::Serialize;
use std::fmt::Write;
use std::hint::black_box;
use std::time::Duration;

/// The body of `GET /`.
pub const PLAINTEXT: &str = "hello, world\n";

/// The whole answer to `GET /` of servers that parse nothing: as many bytes as another server's has, with a
/// date that is right in form only.
pub const FIXED_ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Date: Sat, 21 Nov 2026 10:25:00 GMT\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 13\r\n\
    \r\n\
    hello, world\n";

/// How long `GET /attack/N` holds its memory.
pub const HOLD: Duration = Duration::from_millis(50);

/// The most that a body may have: more than any request of the harness has.
pub const BODY_MAX: usize = 4 << 20;

#[derive(Serialize)]
struct Message {
    message: &'static str,
}

/// The body of `GET /json`.
pub fn json() -> Vec<u8> {
    let message = Message {
        message: "Hello, World!",
    };
    serde_json::to_vec(&message).expect("a string serialises")
}

/// The number that ends a path, such as 10 for `/alloc/10` after `/alloc/`.
pub fn number(path: &str, prefix: &str) -> Option<usize> {
    path.strip_prefix(prefix)?.parse().ok()
}

/// The body of `GET /size/N`.
pub fn size(bytes: usize) -> Vec<u8> {
    vec![b'x'; bytes]
}

/// What `GET /alloc/N` does, and the body of its answer.
pub fn alloc(kib: usize) -> String {
    let mut block = Vec::<u8>::with_capacity(kib * 1024);
    let room = block.spare_capacity_mut();
    for byte in room.iter_mut().step_by(4096) {
        byte.write(1);
    }
    let pages = black_box(room).len().div_ceil(4096);
    format!("{kib} KiB, {pages} pages\n")
}

/// What `GET /attack/N` allocates; it is to be kept for [`HOLD`].
pub fn attack(kib: usize) -> Vec<u8> {
    black_box(vec![7; kib * 1024])
}

/// The body of `GET /attack/N`, once `block` has been held.
pub fn held(block: &[u8]) -> String {
    format!("held {} bytes\n", block.len())
}

/// The body of `POST /csv`. `None` if a line is not `x, y` with two finite numbers.
pub fn svg(csv: &[u8]) -> Option<String> {
    let number = |text: &str| text.trim().parse().ok().filter(|n: &f64| n.is_finite());
    let mut path = String::new();
    for line in str::from_utf8(csv).ok()?.lines() {
        if line.trim().is_empty() {
            continue;
        }
        let (x, y) = line.split_once(',')?;
        let (x, y) = (number(x)?, number(y)?);
        let command = if path.is_empty() { 'M' } else { 'L' };
        write!(path, "{command}{x} {y}").expect("a String takes all");
    }
    Some(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\"><path fill=\"none\" stroke=\"black\" d=\"{path}\"/></svg>\n"
    ))
}

/// The arguments of a server: where to listen, and the folder of the files that it sends.
pub fn arguments(usage: &str) -> (String, String) {
    let mut arguments = std::env::args().skip(1);
    let Some(address) = arguments.next() else {
        eprintln!("usage: {usage}");
        std::process::exit(2);
    };
    (address, arguments.next().unwrap_or_else(|| ".".into()))
}
