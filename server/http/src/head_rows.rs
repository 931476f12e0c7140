//! The rows of the HTTP contract about the request line and the sizes, on raw bytes, whole and one
//! byte at a time; and the means for it that `field_rows` shares.

use super::*;

pub(super) const LIMITS: HeadLimits = HeadLimits {
    target_max: 8 * 1024,
    head_max: 16 * 1024,
    fields_max: 100,
};

/// What is left of a head once its buffers are gone.
#[derive(Debug, PartialEq)]
pub(super) struct Seen {
    pub(super) method: Method,
    pub(super) form: TargetForm,
    pub(super) path: String,
    pub(super) query: Option<String>,
    pub(super) host: String,
    pub(super) version_minor: u8,
    pub(super) body: BodyFraming,
    pub(super) keep_alive: bool,
    pub(super) expect_continue: bool,
    pub(super) fields: Vec<(String, Vec<u8>)>,
    pub(super) head_len: usize,
}

pub(super) fn parse_once(bytes: &[u8], limits: &HeadLimits) -> Result<Option<Seen>, Refusal> {
    let mut fields = [httparse::EMPTY_HEADER; 128];
    Ok(match parse(bytes, limits, &mut fields)? {
        Parsed::Partial => None,
        Parsed::Complete(head) => Some(Seen {
            method: head.method,
            form: head.form,
            path: head.path.into(),
            query: head.query.map(Into::into),
            host: head.host.into(),
            version_minor: head.version_minor,
            body: head.body,
            keep_alive: head.keep_alive,
            expect_continue: head.expect_continue,
            fields: head
                .fields
                .iter()
                .map(|field| (field.name.into(), field.value.into()))
                .collect(),
            head_len: head.head_len,
        }),
    })
}

/// The verdict on `bytes`, after checking that no prefix gets another one.
pub(super) fn verdict(bytes: &[u8], limits: &HeadLimits) -> Result<Option<Seen>, Refusal> {
    let whole = parse_once(bytes, limits);
    let early = (0..bytes.len())
        .map(|len| (len, parse_once(&bytes[..len], limits)))
        .find(|(_, it)| *it != Ok(None));
    if let Some((len, early)) = early {
        assert_eq!(
            early,
            whole,
            "the first {len} bytes of {}",
            bytes.escape_ascii()
        );
        if let Ok(Some(seen)) = early {
            assert_eq!(
                seen.head_len,
                len,
                "complete before its end: {}",
                bytes.escape_ascii()
            );
        }
    }
    whole
}

pub(super) fn status(bytes: impl AsRef<[u8]>) -> u16 {
    match verdict(bytes.as_ref(), &LIMITS) {
        Ok(Some(_)) => 200,
        Ok(None) => 0,
        Err(refusal) => refusal.status,
    }
}

pub(super) fn accepted(bytes: impl AsRef<[u8]>) -> Seen {
    let bytes = bytes.as_ref();
    verdict(bytes, &LIMITS)
        .unwrap_or_else(|refusal| panic!("{refusal}: {}", bytes.escape_ascii()))
        .unwrap_or_else(|| panic!("partial: {}", bytes.escape_ascii()))
}

pub(super) fn refused(cases: &[(&str, u16)]) {
    for (bytes, expected) in cases {
        assert_eq!(status(bytes), *expected, "{}", bytes.escape_debug());
    }
}

/// A request for `/` with `fields` besides Host, each with its CRLF.
pub(super) fn with(fields: impl AsRef<[u8]>) -> Vec<u8> {
    [b"GET / HTTP/1.1\r\nHost: a\r\n", fields.as_ref(), b"\r\n"].concat()
}

/// A request for `target`.
pub(super) fn to(target: impl AsRef<[u8]>) -> Vec<u8> {
    [b"GET ", target.as_ref(), b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat()
}

#[test]
fn a_plain_request_is_understood() {
    let seen = accepted(
        "POST /a/b?c=d&e HTTP/1.1\r\nHost: x:80\r\nA: \t b c \t\r\nContent-Length: 5\r\n\r\nhello",
    );
    assert_eq!(
        (seen.method, seen.form, seen.version_minor),
        (Method::Post, TargetForm::Origin, 1)
    );
    assert_eq!(
        (
            seen.path.as_str(),
            seen.query.as_deref(),
            seen.host.as_str()
        ),
        ("/a/b", Some("c=d&e"), "x:80")
    );
    assert_eq!(
        (seen.body, seen.keep_alive, seen.expect_continue),
        (BodyFraming::Length(5), true, false)
    );
    assert_eq!(seen.fields[1], ("A".to_owned(), b"b c".to_vec()));
    assert_eq!(seen.head_len, 76 - b"hello".len());
}

#[test]
fn every_method_of_ours_is_known() {
    for (text, method) in [
        ("GET", Method::Get),
        ("HEAD", Method::Head),
        ("POST", Method::Post),
        ("PUT", Method::Put),
        ("DELETE", Method::Delete),
        ("PATCH", Method::Patch),
        ("OPTIONS", Method::Options),
        ("BREW", Method::Other),
        ("get", Method::Other),
        ("M!#$%&'*+-.^_`|~9", Method::Other),
    ] {
        assert_eq!(
            accepted(format!("{text} / HTTP/1.1\r\nHost: a\r\n\r\n")).method,
            method
        );
    }
}

#[test]
fn row_1_absolute_form_replaces_host() {
    for (target, host, path, query) in [
        ("http://b/p?q", "b", "/p", Some("q")),
        ("HTTP://b:81/p", "b:81", "/p", None),
        ("hTTpS://[::1]:1", "[::1]:1", "/", None),
        ("http://b?q?r", "b", "/", Some("q?r")),
        ("http://b/", "b", "/", None),
    ] {
        let seen = accepted(to(target));
        assert_eq!(seen.form, TargetForm::Absolute);
        assert_eq!(
            (
                seen.host.as_str(),
                seen.path.as_str(),
                seen.query.as_deref()
            ),
            (host, path, query)
        );
    }
    for target in [
        "http://u@b/",
        "http://u:p@b/",
        "http:///p",
        "http://",
        "http://:80/",
        "http://b:99999/",
        "http:/p",
        "http:p",
        "ftp://b/",
        "://b/",
        "http://b c",
        "http://[::1/",
        "http://b%zz/",
        "mailto:x",
    ] {
        assert_eq!(status(to(target)), 400, "{target}");
    }
}

#[test]
fn row_2_asterisk_is_for_options_only() {
    let seen = accepted("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((seen.form, seen.path.as_str()), (TargetForm::Asterisk, "*"));
    refused(&[
        ("GET * HTTP/1.1\r\n", 400),
        ("BREW * HTTP/1.1\r\n", 400),
        ("OPTIONS *a HTTP/1.1\r\n", 400),
        ("OPTIONS ** HTTP/1.1\r\n", 400),
    ]);
}

#[test]
fn row_3_connect_and_authority_form_are_refused() {
    refused(&[
        ("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        ("CONNECT / HTTP/1.1\r\n", 501),
        ("GET a:443 HTTP/1.1\r\n", 400),
        ("GET a HTTP/1.1\r\n", 400),
        ("OPTIONS a:443 HTTP/1.1\r\n", 400),
    ]);
}

#[test]
fn row_4_target_bytes_are_printable_ascii_with_whole_escapes() {
    for byte in 0..=255_u8 {
        let target = [b'/', byte, b'x', b'y'];
        let good = byte.is_ascii_graphic() && byte != b'#' && byte != b'%';
        assert_eq!(
            status(to(target)),
            if good { 200 } else { 400 },
            "{byte:#x}"
        );
    }
    assert_eq!(
        accepted(to("/%41%fF?%20")).path,
        "/%41%fF",
        "the raw path is not decoded"
    );
    for target in [
        "/%", "/%4", "/%zz", "/%4g", "/%g4", "/%00", "/?%00", "/?100%", "/%%41", "/a#b", "/#",
    ] {
        assert_eq!(status(to(target)), 400, "{target}");
    }
}

#[test]
fn row_4_a_bad_byte_is_refused_before_the_line_ends() {
    refused(&[
        ("GET /#", 400),
        ("GET /%z", 400),
        ("GET /%0", 0),
        ("GET /%00", 400),
        ("GET /\x01", 400),
    ]);
}

#[test]
fn row_5_there_is_exactly_one_space() {
    refused(&[
        ("GET  / HTTP/1.1\r\n", 400),
        ("GET /  HTTP/1.1\r\n", 400),
        (" GET / HTTP/1.1\r\n", 400),
        ("GET\t/ HTTP/1.1\r\n", 400),
        ("GET /\tHTTP/1.1\r\n", 400),
        ("GET / HTTP/1.1 \r\n", 400),
        ("GET / HTTP/1.1\t\r\n", 400),
        ("GET / a HTTP/1.1\r\n", 400),
    ]);
}

#[test]
fn row_5_a_few_empty_lines_before_the_request_line_are_skipped_and_counted() {
    let plain = accepted(to("/"));
    for lines in 0..=4 {
        let mut bytes = b"\r\n".repeat(lines);
        bytes.extend(to("/"));
        let seen = accepted(&bytes);
        assert_eq!(seen.head_len, plain.head_len + 2 * lines);
        assert_eq!(seen.fields, plain.fields);
    }
    refused(&[
        ("\r\n\r\n\r\n\r\n\r\n", 400),
        ("\nGET", 400),
        ("\r\r", 400),
        ("\rG", 400),
        ("\r\n\n", 400),
        ("\r\n GET", 400),
        ("\r\n\r", 0),
    ]);
}

#[test]
fn row_6_versions() {
    for minor in 0..=9 {
        let seen = accepted(format!("GET / HTTP/1.{minor}\r\nHost: a\r\n\r\n"));
        assert_eq!(seen.version_minor, u8::from(minor > 0));
    }
    refused(&[
        ("GET / HTTP/2.0\r\n", 505),
        ("GET / HTTP/3.1\r\n", 505),
        ("GET / HTTP/9.9\r\n", 505),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        ("GET / HTTP/0.9\r\n", 400),
        ("GET /\r\n", 400),
        ("GET\r\n", 400),
        ("GET / \r\n", 400),
        ("GET / http/1.1\r\n", 400),
        ("GET / HTTP/1\r\n", 400),
        ("GET / HTTP/1.\r\n", 400),
        ("GET / HTTP/11\r\n", 400),
        ("GET / HTTP/1.10\r\n", 400),
        ("GET / HTTP/10.1\r\n", 400),
        ("GET / HTTP/01.1\r\n", 400),
        ("GET / HTTP 1.1\r\n", 400),
        ("GET / HTTP/1,1\r\n", 400),
        ("GET / HTTP/2\r\n", 400),
        ("GET / HTTPS/1.1\r\n", 400),
        ("GET / X", 400),
    ]);
}

#[test]
fn row_6_a_tls_hello_and_other_garbage_are_refused_at_the_first_byte() {
    let tls = parse_once(b"\x16", &LIMITS).unwrap_err();
    assert_eq!((tls.status, tls.why.contains("TLS")), (400, true));
    assert_eq!(status(b"\x16\x03\x01\x02\x00\x01"), 400);
    for byte in 0..=255_u8 {
        let refused = parse_once(&[byte], &LIMITS).is_err();
        assert_eq!(
            refused,
            !bytes::is_token(byte) && byte != b'\r',
            "{byte:#x}"
        );
    }
}

#[test]
fn row_19_an_unknown_method_is_a_head_but_trace_and_long_ones_are_refused() {
    assert_eq!(
        accepted(format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "M".repeat(32))).method,
        Method::Other
    );
    assert_eq!(status("M".repeat(32)), 0);
    assert_eq!(status("M".repeat(33)), 501);
    assert_eq!(status("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n"), 501);
    refused(&[
        ("G(T / HTTP/1.1\r\n", 400),
        ("G\u{e9}T / HTTP/1.1\r\n", 400),
        (" / HTTP/1.1\r\n", 400),
    ]);
}

#[test]
fn row_29_what_is_too_large_is_refused_at_its_limit() {
    let limits = HeadLimits {
        target_max: 20,
        head_max: 100,
        fields_max: 4,
    };
    let status = |bytes: &[u8]| match verdict(bytes, &limits) {
        Ok(Some(_)) => 200,
        Ok(None) => 0,
        Err(refusal) => refusal.status,
    };
    let target = |len: usize| to(format!("/{}", "a".repeat(len - 1)));
    assert_eq!(status(&target(20)), 200);
    assert_eq!(status(&target(21)), 414);
    assert_eq!(status(&target(21)[..4 + 21]), 414, "before the target ends");
    assert_eq!(status(&target(500)), 414);

    let fields = |count: usize| with("B:\r\n".repeat(count - 1));
    assert_eq!(status(&fields(4)), 200);
    assert_eq!(status(&fields(5)), 431);

    // `with` makes 27 bytes of its own, the field below 5.
    let head = |len: usize| with(format!("A: {}\r\n", "v".repeat(len - 32)));
    assert_eq!((head(100).len(), status(&head(100))), (100, 200));
    assert_eq!(status(&head(101)), 431);
    assert_eq!(status(&head(101)[..99]), 0);
    assert_eq!(status(&head(5000)), 431);

    let narrow = HeadLimits {
        target_max: 200,
        ..limits
    };
    assert_eq!(
        verdict(&to("/".repeat(150)), &narrow).unwrap_err().status,
        414,
        "no end of line within the head"
    );
}

#[test]
fn row_29_no_more_fields_are_taken_than_there_is_place_for() {
    let bytes = with("B:\r\nC:\r\n");
    let mut fields = [httparse::EMPTY_HEADER; 2];
    assert_eq!(parse(&bytes, &LIMITS, &mut fields).unwrap_err().status, 431);
}
