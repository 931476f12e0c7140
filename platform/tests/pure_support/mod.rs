//! What the tests of the platform's pure half share: requests made from the text of a head, as the front end
//! would make them.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::Read;

use bumpalo::Bump;
use transom_platform::Request;
use transom_wire::frame::{
    EncodeError, Encoded, RequestParts, decode_request, encode_request, set_request_body,
};

/// Encodes a head such as `"GET /a?b HTTP/1.1\r\nHost: x\r\n\r\n"`; the path is the target's, percent-decoded
/// by the caller if it gives one.
pub fn encode(out: &mut [u8], head: &str, path: Option<&str>) -> Result<Encoded, EncodeError> {
    let (line, rest) = head.split_once("\r\n").expect("a request line");
    let mut words = line.split(' ');
    let (method, target) = (
        words.next().expect("a method"),
        words.next().expect("a target"),
    );
    let (raw_path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let fields: Vec<(&[u8], &[u8])> = rest
        .split("\r\n")
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.as_bytes(), value.trim().as_bytes()))
        .collect();
    let host = fields
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(b"host"))
        .map(|(_, value)| *value);
    let parts = RequestParts {
        head: head.as_bytes(),
        method: method.as_bytes(),
        target: target.as_bytes(),
        path: path.unwrap_or(raw_path).as_bytes(),
        query: query.map(str::as_bytes),
        host,
        minor: u8::from(line.ends_with("1.1")),
        peer: Some(([192, 0, 2, 7], 4711).into()),
        head_only: method == "HEAD",
        content_length: None,
    };
    encode_request(out, &parts, fields.iter().copied())
}

/// A slot's bytes that hold this request.
pub fn frame(head: &str, path: Option<&str>, body: &[u8], streamed: bool) -> Vec<u8> {
    let mut slot = vec![0xdb; 64 << 10];
    let encoded = encode(&mut slot, head, path).expect("it fits");
    let end = encoded.body_offset + body.len();
    slot[encoded.body_offset..end].copy_from_slice(body);
    set_request_body(&mut slot, body.len(), streamed);
    slot.truncate(end);
    slot
}

/// Runs `with` on a request of this head and body.
pub fn with_request<T>(head: &str, body: &[u8], with: impl FnOnce(&mut Request) -> T) -> T {
    with_bytes(&frame(head, None, body, false), &Bump::new(), None, with)
}

/// Runs `with` on the request in a slot's bytes.
pub fn with_bytes<T>(
    bytes: &[u8],
    arena: &Bump,
    stream: Option<&mut dyn Read>,
    with: impl FnOnce(&mut Request) -> T,
) -> T {
    let raw = decode_request(bytes).expect("a request");
    // SAFETY: bytes, arena and stream outlive the request, which is dropped before this function returns, and
    // nothing writes or resets them meanwhile; the tests' routes live longer than the call.
    let mut request = unsafe { Request::from_raw(raw, arena, 0, stream) };
    with(&mut request)
}

/// `"METHOD target"` as a whole head.
pub fn head(line: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: example.org\r\n\r\n")
}
