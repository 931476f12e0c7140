//! The rows of the HTTP contract about fields and what they say of the message, on raw bytes, whole
//! and one byte at a time.

use super::head_rows::{accepted, refused, status, with};
use super::*;

#[test]
fn row_7_there_is_exactly_one_valid_host() {
    for host in ["a", "", "a:80", "A.b:", "[::1]:8080", "127.0.0.1"] {
        let bytes = format!("GET / HTTP/1.1\r\nhOST: {host}\r\n\r\n");
        assert_eq!(accepted(bytes).host, host);
    }
    refused(&[
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHOST: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: \r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: :80\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: \u{fc}\r\n\r\n", 400),
        ("GET http://b/ HTTP/1.1\r\n\r\n", 400),
        ("GET http://b/ HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
        ("GET http://b/ HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.0\r\nHost: a b\r\n\r\n", 400),
    ]);
    assert_eq!(accepted("GET / HTTP/1.0\r\n\r\n").host, "");
}

#[test]
fn row_8_field_names_are_tokens_followed_by_a_colon() {
    for byte in 0..=255_u8 {
        for name in [vec![byte], vec![b'A', byte], vec![byte, b'A']] {
            let bytes = with([&name[..], b": v\r\n"].concat());
            // A colon makes a shorter name, or none.
            let good = bytes::is_token(byte) || (byte == b':' && name[0] == b'A');
            assert_eq!(
                status(&bytes),
                if good { 200 } else { 400 },
                "{}",
                name.escape_ascii()
            );
        }
    }
    for field in [
        "A : v\r\n",
        "A\t: v\r\n",
        ": v\r\n",
        "no colon\r\n",
        "A\r\n",
        "A(b: v\r\n",
    ] {
        assert_eq!(status(with(field)), 400, "{field}");
    }
}

#[test]
fn row_9_field_values_hold_no_control_byte_but_tab() {
    for byte in 0..=255_u8 {
        for value in [
            vec![byte],
            vec![b'a', byte, b'b'],
            [b"0123456789abcdef0123456789abcdef", &[byte][..], b"z"].concat(),
        ] {
            let good = byte == b'\t' || (byte >= b' ' && byte != 0x7f);
            let expected = if good { 200 } else { 400 };
            let bytes = with([b"A: ", &value[..], b"\r\n"].concat());
            assert_eq!(status(&bytes), expected, "{}", value.escape_ascii());
        }
    }
    for (field, value) in [
        ("A:\r\n", ""),
        ("A: \t \r\n", ""),
        ("A:\tx\t\r\n", "x"),
        ("A:x y\r\n", "x y"),
    ] {
        assert_eq!(
            accepted(with(field)).fields[1].1,
            value.as_bytes(),
            "{field:?}"
        );
    }
}

#[test]
fn row_10_folded_lines_are_refused() {
    for fields in [
        "A: b\r\n c\r\n",
        "A: b\r\n\tc\r\n",
        "A:\r\n b\r\n",
        "A: b\r\n \r\n",
    ] {
        assert_eq!(status(with(fields)), 400, "{fields:?}");
    }
    refused(&[
        ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\tHost: a\r\n\r\n", 400),
    ]);
}

#[test]
fn row_11_lines_end_in_crlf_only() {
    refused(&[
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\nB: c\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nB:\nC: d\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nB: \n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\n\n", 400),
        ("GET / HTTP/1.0\r\n\n", 400),
        ("GET / HTTP/1.1\rHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\rB: c\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\n\rX", 400),
        ("GET / HTTP/1.1\r\n\r\r", 400),
    ]);
}

#[test]
fn row_12_content_length_is_one_number() {
    for (value, length) in [
        ("0", 0),
        ("5", 5),
        ("007", 7),
        ("\t5 ", 5),
        ("18446744073709551615", u64::MAX),
    ] {
        assert_eq!(
            accepted(with(format!("content-length: {value}\r\n"))).body,
            BodyFraming::Length(length)
        );
    }
    for value in [
        "",
        "+5",
        "-5",
        "5,5",
        "5, 5",
        "0x5",
        "5 5",
        "5.0",
        "18446744073709551616",
        "five",
    ] {
        assert_eq!(
            status(with(format!("Content-Length: {value}\r\n"))),
            400,
            "{value}"
        );
    }
    assert_eq!(
        status(with("Content-Length: 5\r\nContent-Length: 5\r\n")),
        400
    );
    assert_eq!(
        status(with("Content-Length: 5\r\ncontent-length: 6\r\n")),
        400
    );
}

#[test]
fn row_13_transfer_encoding_is_chunked_and_nothing_else() {
    for value in ["chunked", "Chunked", "\tCHUNKED "] {
        assert_eq!(
            accepted(with(format!("Transfer-encoding: {value}\r\n"))).body,
            BodyFraming::Chunked
        );
    }
    for (value, expected) in [
        ("gzip, chunked", 501),
        ("gzip,deflate\t,Chunked", 501),
        ("identity, chunked", 501),
        ("gzip", 400),
        ("identity", 400),
        ("chunked, gzip", 400),
        ("chunked, chunked", 400),
        ("gzip, chunked, chunked", 400),
        ("chunked, gzip, chunked", 400),
        ("", 400),
        ("chunked,", 400),
        (", chunked", 400),
        ("gzip,, chunked", 400),
        ("chunked;a=b", 400),
        ("chunked chunked", 400),
        ("\"chunked\"", 400),
        ("xchunked", 400),
        ("chunke\u{212a}", 400),
        ("chunked\u{b}", 400),
    ] {
        assert_eq!(
            status(with(format!("Transfer-Encoding: {value}\r\n"))),
            expected,
            "{value}"
        );
    }
    assert_eq!(
        status(with(
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"
        )),
        400
    );
    assert_eq!(
        status(with(
            "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"
        )),
        400
    );
}

#[test]
fn row_14_transfer_encoding_beside_content_length_is_refused() {
    assert_eq!(
        status(with("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n")),
        400
    );
    assert_eq!(
        status(with("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n")),
        400
    );
    assert_eq!(
        status(with(
            "Transfer-Encoding: gzip, chunked\r\nContent-Length: 0\r\n"
        )),
        400
    );
}

#[test]
fn row_15_transfer_encoding_in_http_1_0_is_refused() {
    refused(&[("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400)]);
    assert_eq!(
        accepted("POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\n").body,
        BodyFraming::Length(3)
    );
}

#[test]
fn row_17_the_only_expectation_is_100_continue() {
    let expects = |fields: &str| accepted(with(fields)).expect_continue;
    assert!(expects("Expect: 100-Continue\r\nContent-Length: 5\r\n"));
    assert!(expects(
        "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n"
    ));
    assert!(
        !expects("Expect: 100-continue\r\n"),
        "there is no body to wait for"
    );
    assert!(!expects("Expect: 100-continue\r\nContent-Length: 0\r\n"));
    let old = "POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    assert!(
        !accepted(old).expect_continue,
        "HTTP/1.0 knows no interim answer"
    );
    for value in ["magic", "", "100-continue, magic", "100-continue-more"] {
        assert_eq!(
            status(with(format!("Expect: {value}\r\nContent-Length: 5\r\n"))),
            417,
            "{value}"
        );
    }
}

#[test]
fn row_20_connections_stay_open_as_version_and_tokens_say() {
    for (minor, fields, keep) in [
        (1, "", true),
        (1, "Connection: close\r\n", false),
        (1, "Connection: Close\r\n", false),
        (1, "Connection: closeness\r\n", true),
        (1, "Connection: x, close ,y\r\n", false),
        (1, "Connection: x\r\nConnection:\tclose\r\n", false),
        (1, "Connection: keep-alive, close\r\n", false),
        (0, "", false),
        (0, "Connection: keep-alive\r\n", true),
        (0, "Connection: x,Keep-Alive\r\n", true),
        (0, "Connection: keep-alive\r\nConnection: close\r\n", false),
        (0, "Connection: keep-alives\r\n", false),
    ] {
        let seen = accepted(format!("GET / HTTP/1.{minor}\r\nHost: a\r\n{fields}\r\n"));
        assert_eq!(seen.keep_alive, keep, "1.{minor} {fields:?}");
    }
}

#[test]
fn row_26_a_body_is_framed_whatever_the_method() {
    for method in ["GET", "HEAD", "DELETE", "OPTIONS"] {
        let seen = accepted(format!(
            "{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"
        ));
        assert_eq!(seen.body, BodyFraming::Length(9));
    }
    assert_eq!(
        accepted("POST / HTTP/1.1\r\nHost: a\r\n\r\n").body,
        BodyFraming::None
    );
}
