//! What a handler sees of a request.

mod pure_support;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::time::Duration;

use bumpalo::Bump;
use pure_support::{frame, head, with_bytes, with_request};
use serde::Deserialize;
use transom_platform::Request;
use transom_platform::request::Version;
use transom_wire::frame::decode_request;

#[test]
fn the_parts_of_a_request_are_there() {
    let bytes = frame(&head("GET /a%20b?c=d"), Some("/a b"), b"", false);
    with_bytes(&bytes, &Bump::new(), None, |request| {
        assert_eq!((request.method(), request.path()), ("GET", "/a b"));
        assert_eq!(
            (request.raw_target(), request.query_string()),
            ("/a%20b?c=d", Some("c=d"))
        );
        assert_eq!(
            (request.version(), request.host()),
            (Version::Http11, Some("example.org"))
        );
        assert_eq!(request.peer(), Some(([192, 0, 2, 7], 4711).into()));
        assert_eq!((request.route(), request.param("x")), (None, None));
        assert!(!request.is_head_only() && !request.is_streamed());
        assert_eq!(
            format!("{request:?}"),
            "Request(GET \"/a b\", 0 bytes of body)"
        );
    });
    with_request("HEAD / HTTP/1.0\r\n\r\n", b"", |request| {
        assert_eq!((request.version(), request.host()), (Version::Http10, None));
        assert!(request.is_head_only());
    });
}

#[test]
fn the_first_of_several_query_parameters_counts() {
    with_request(&head("GET /?a=1&b=x+y&a=2&c&n%61me=v"), b"", |request| {
        assert_eq!(
            (request.query("a"), request.query("b")),
            (Some("1"), Some("x y"))
        );
        assert_eq!(
            (request.query("c"), request.query("name")),
            (Some(""), Some("v"))
        );
        assert_eq!((request.query("d"), request.query("")), (None, None));
        let all: Vec<_> = request.queries().collect();
        assert_eq!(
            all,
            [
                ("a", "1"),
                ("b", "x y"),
                ("a", "2"),
                ("c", ""),
                ("name", "v")
            ]
        );
    });
    with_request(&head("GET /"), b"", |request| {
        assert_eq!(request.query("a"), None);
    });
}

#[test]
fn a_query_parameter_that_does_not_fit_its_type_is_the_clients_mistake() {
    with_request(&head("GET /?n=7&m=seven"), b"", |request| {
        assert_eq!(request.query_as::<u8>("n").expect("a number"), Some(7));
        assert_eq!(request.query_as::<u8>("o").expect("none"), None);
        assert_eq!(
            request
                .query_as::<u8>("m")
                .expect_err("no number")
                .status()
                .code(),
            400
        );
    });
}

#[test]
fn headers_are_found_in_any_case_and_the_first_counts() {
    let head = "GET / HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nx-a: 2\r\nX-Empty:\r\n\r\n";
    with_request(head, b"", |request| {
        assert_eq!(
            (request.header("x-a"), request.header("X-A")),
            (Some("1"), Some("1"))
        );
        assert_eq!(
            (request.header("x-empty"), request.header("x-b")),
            (Some(""), None)
        );
        let names: Vec<_> = request.headers().map(|(name, _)| name).collect();
        assert_eq!(names, ["Host", "X-A", "x-a", "X-Empty"]);
    });
}

#[test]
fn a_header_that_is_no_text_is_given_as_bytes() {
    let mut bytes = frame(
        "GET / HTTP/1.1\r\nHost: h\r\nX-A: 1\r\n\r\n",
        None,
        b"",
        false,
    );
    let at = bytes
        .windows(6)
        .position(|window| window == b"X-A: 1")
        .expect("the field")
        + 5;
    bytes[at] = 0xff;
    with_bytes(&bytes, &Bump::new(), None, |request| {
        assert_eq!(
            (request.header("x-a"), request.header_bytes("x-a")),
            (None, Some(&[0xff][..]))
        );
    });
}

#[test]
fn the_host_of_an_absolute_target_goes_before_the_host_field() {
    let bytes = frame(
        "GET http://target/ HTTP/1.1\r\nHost: field\r\n\r\n",
        Some("/"),
        b"",
        false,
    );
    let mut raw = decode_request(&bytes).expect("a request");
    raw.host = Some("target");
    let arena = Bump::new();
    // SAFETY: bytes and arena live to the end of the test.
    let request = unsafe { Request::from_raw(raw, &arena, 0, None) };
    assert_eq!(
        (request.host(), request.header("HOST")),
        (Some("target"), Some("target"))
    );
}

#[derive(Debug, Deserialize, PartialEq)]
struct Order<'r> {
    item: &'r str,
    count: u32,
}

#[test]
fn a_body_is_bytes_text_or_json_that_borrows_from_it() {
    with_request(&head("POST /"), br#"{"item":"tea","count":2}"#, |request| {
        let order: Order<'_> = request.json().expect("an order");
        assert_eq!(
            order,
            Order {
                item: "tea",
                count: 2
            }
        );
        assert!(request.body().as_ptr_range().contains(&order.item.as_ptr()));
        assert_eq!(
            request.body_str().expect("text").len(),
            request.body().len()
        );
        assert!(request.json::<BTreeMap<String, u8>>().is_err());
        let failure = request.json::<u8>().expect_err("no number");
        assert_eq!(failure.status().code(), 400);
        assert!(failure.message().contains("line 1"), "{failure}");
    });
    with_request(&head("POST /"), b"\xff", |request| {
        assert_eq!(
            request.body_str().expect_err("no text").status().code(),
            400
        );
        let mut read = Vec::new();
        request.body_reader().read_to_end(&mut read).expect("read");
        assert_eq!(read, b"\xff");
    });
}

#[test]
fn what_is_decoded_lies_in_the_arena_and_what_is_plain_does_not() {
    let arena = Bump::new();
    let bytes = frame(&head("GET /?a=plain&b=c%20d"), None, b"", false);
    with_bytes(&bytes, &arena, None, |request| {
        request.query("a");
        assert_eq!(arena.allocated_bytes(), 0);
        request.query("b");
        assert!(arena.allocated_bytes() > 0);
        assert!(std::ptr::eq(request.arena(), &raw const arena));
    });
}

#[test]
fn a_deadline_is_told_as_time_left() {
    let bytes = frame(&head("GET /"), None, b"", false);
    let arena = Bump::new();
    let with_deadline = |deadline_ns| {
        let raw = decode_request(&bytes).expect("a request");
        // SAFETY: bytes and arena live to the end of the test.
        let request = unsafe { Request::from_raw(raw, &arena, deadline_ns, None) };
        (request.deadline_ns(), request.time_left())
    };
    assert_eq!(with_deadline(0), (None, None));
    assert_eq!(with_deadline(1), (Some(1), Some(Duration::ZERO)));
    let (_, left) = with_deadline(u64::MAX);
    assert!(left.expect("time") > Duration::from_hours(1));
}

/// Gives three bytes at a time, and then perhaps fails.
struct Drip<'a> {
    rest: &'a [u8],
    fails: bool,
}

impl Read for Drip<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() && self.fails {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let len = out.len().min(3);
        self.rest.read(&mut out[..len])
    }
}

#[test]
fn a_streamed_body_is_read_as_it_comes_and_only_once() {
    let bytes = frame(&head("POST /"), None, b"first part", true);
    let mut source = &b"first part and the rest"[..];
    with_bytes(&bytes, &Bump::new(), Some(&mut source), |request| {
        assert!(request.is_streamed());
        assert_eq!(request.body(), b"");
        let mut start = [0; 10];
        request
            .body_reader()
            .read_exact(&mut start)
            .expect("the start");
        let mut rest = String::new();
        request
            .body_reader()
            .read_to_string(&mut rest)
            .expect("the rest");
        assert_eq!((&start, rest.as_str()), (b"first part", " and the rest"));
    });
}

#[test]
fn a_source_that_fails_is_an_error_to_the_reader() {
    let bytes = frame(&head("POST /"), None, b"", true);
    let mut source = Drip {
        rest: b"abcdef",
        fails: true,
    };
    with_bytes(&bytes, &Bump::new(), Some(&mut source), |request| {
        let mut read = Vec::new();
        let error = request
            .body_reader()
            .read_to_end(&mut read)
            .expect_err("reset");
        assert_eq!(
            (error.kind(), &read[..]),
            (io::ErrorKind::ConnectionReset, &b"abcdef"[..])
        );
    });
}
