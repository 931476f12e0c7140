//! Rows 1 to 15 and 29: what may stand in a head.

use crate::matrix::named;
use crate::stand::{Case, End, SMUGGLED, both, check, check_with, post, to, with};

/// A GET of `/see` with this target, whose answer says what a handler sees.
fn sees(
    name: &'static str,
    request: &[u8],
    target: &str,
    path: &str,
    query: &str,
    host: &str,
) -> Case {
    let fields = "field Host=";
    let text =
        format!("target={target}\npath={path}\nquery={query}\nhost={host}\n{fields}{host}\n");
    Case::served(name, request).text(&text)
}

#[test]
fn row_01_a_target_may_be_absolute_and_its_authority_replaces_host() {
    let mut cases = named(&["absolute-form"]);
    let target = "HTTP://b:81/see/x?y=z";
    cases.extend([
        sees(
            "origin",
            &to("/see/x?y=z"),
            "/see/x?y=z",
            "/see/x",
            "y=z",
            "a",
        ),
        sees("absolute", &to(target), target, "/see/x", "y=z", "b:81"),
        Case::served("no path", to("http://b")),
        Case::served("no path but a query", to("http://b?x")),
        Case::refused("userinfo", 400, to("http://u@b/")),
        Case::refused("userinfo with a password", 400, to("http://u:p@b/")),
        Case::refused("another scheme", 400, to("ftp://b/")),
        Case::refused("no authority", 400, to("http:///see")),
        Case::refused("no host in the authority", 400, to("http://:80/")),
        Case::refused("too large a port", 400, to("http://b:65536/")),
        Case::refused("no slash at the start", 400, to("see")),
    ]);
    check(&cases);
}

#[test]
fn row_02_options_asterisk_is_answered_without_a_handler_and_other_methods_refused() {
    let mut cases = named(&["OPTIONS *"]);
    cases.extend([
        Case::answered(
            "OPTIONS * of 1.0",
            &[204],
            End::Closed,
            "OPTIONS * HTTP/1.0\r\n\r\n",
        ),
        Case::refused("GET *", 400, to("*")),
        Case::refused("HEAD *", 400, "HEAD * HTTP/1.1\r\nHost: a\r\n\r\n"),
        Case::refused(
            "OPTIONS * with a query",
            400,
            "OPTIONS *?x HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
    ]);
    check(&cases);
    for stand in both("", "--buckets 1") {
        let answer = stand.answer_to("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
        let allow = answer.field("allow").unwrap_or_default();
        assert!(
            allow.contains("GET") && allow.contains("POST"),
            "{}",
            answer.head
        );
        let front = stand.front.stop();
        assert_eq!(
            front.figure("requests"),
            0,
            "{}: no handler was asked",
            stand.name
        );
    }
}

#[test]
fn row_03_connect_and_authority_form_are_refused() {
    let mut cases = named(&["CONNECT a:443"]);
    cases.extend([
        Case::refused(
            "CONNECT without a port",
            501,
            "CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
        Case::refused("CONNECT /", 501, "CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n"),
        Case::refused("GET a:80", 400, to("a:80")),
        Case::refused(
            "OPTIONS a:80",
            400,
            "OPTIONS a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
    ]);
    check(&cases);
}

#[test]
fn row_04_target_bytes_are_printable_ascii_and_are_decoded_once() {
    let mut cases = named(&["target NUL", "target high byte", "%zz", "%00", "#frag"]);
    cases.extend([
        Case::refused("DEL", 400, to("/\x7f")),
        Case::refused("HTAB", 400, to("/\t")),
        Case::refused(
            "a byte of 0xff",
            400,
            [&b"GET /\xff"[..], b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat(),
        ),
        Case::refused("an escape cut short", 400, to("/%4")),
        Case::refused("%00 in the query", 400, to("/?%00")),
        Case::refused("%zz in the query", 400, to("/?%zz")),
        sees("an escape", &to("/see/%41"), "/see/%41", "/see/A", "-", "a"),
        sees(
            "decoded once",
            &to("/see/%2541"),
            "/see/%2541",
            "/see/%41",
            "-",
            "a",
        ),
        sees(
            "dot segments",
            &to("/x/../see/./y"),
            "/x/../see/./y",
            "/see/y",
            "-",
            "a",
        ),
        sees(
            "escaped dot segments",
            &to("/x/%2e%2E/see/y"),
            "/x/%2e%2E/see/y",
            "/see/y",
            "-",
            "a",
        ),
        sees(
            "an escaped slash",
            &to("/x/..%2fsee/y"),
            "/x/..%2fsee/y",
            "/see/y",
            "-",
            "a",
        ),
        sees(
            "above the root",
            &to("/../../see/y"),
            "/../../see/y",
            "/see/y",
            "-",
            "a",
        ),
        sees(
            "dots escaped twice",
            &to("/see/%252e%252e/y"),
            "/see/%252e%252e/y",
            "/see/%2e%2e/y",
            "-",
            "a",
        ),
        sees(
            "the query is not decoded",
            &to("/see?%41/../"),
            "/see?%41/../",
            "/see",
            "%41/../",
            "a",
        ),
    ]);
    check(&cases);
}

#[test]
fn row_05_the_request_line_has_one_space_and_few_empty_lines_before_it() {
    let mut cases = named(&["2 spaces", "leading CRLF"]);
    let line = |line: &str| format!("{line}\r\nHost: a\r\n\r\n");
    let plain = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    cases.extend([
        Case::refused("2 spaces before the version", 400, line("GET /  HTTP/1.1")),
        Case::refused("HTAB for a space", 400, line("GET\t/ HTTP/1.1")),
        Case::refused("a space after the version", 400, line("GET / HTTP/1.1 ")),
        Case::refused("a space before the method", 400, line(" GET / HTTP/1.1")),
        Case::refused("no target", 400, line("GET HTTP/1.1")),
        Case::refused("a bare LF before the line", 400, format!("\n{plain}")),
        Case::refused("a bare CR before the line", 400, format!("\r{plain}")),
        Case::served("4 empty lines", format!("{}{plain}", "\r\n".repeat(4))),
        Case::refused("5 empty lines", 400, format!("{}{plain}", "\r\n".repeat(5))),
        Case::refused("empty lines without an end", 400, "\r\n".repeat(1000)),
    ]);
    check(&cases);
}

#[test]
fn row_06_versions_of_http_1_are_served_and_all_else_refused() {
    let mut cases = named(&[
        "HTTP/0.9",
        "HTTP/1.2",
        "HTTP/2.0",
        "h2 preface",
        "TLS hello",
    ]);
    let version = |version: &str| format!("GET / {version}\r\nHost: a\r\n\r\n");
    cases.extend([
        Case::served("HTTP/1.9", version("HTTP/1.9")),
        Case::answered("HTTP/1.0", &[200], End::Closed, version("HTTP/1.0")),
        Case::refused("HTTP/0.9 with its version", 400, version("HTTP/0.9")),
        Case::refused("HTTP/3.0", 505, version("HTTP/3.0")),
        Case::refused("http/1.1", 400, version("http/1.1")),
        Case::refused("HTTP/1", 400, version("HTTP/1")),
        Case::refused("HTTP/1.10", 400, version("HTTP/1.10")),
        Case::refused("HTTP/01.1", 400, version("HTTP/01.1")),
        Case::refused("HTTP/1.x", 400, version("HTTP/1.x")),
        Case::refused("HTTPS/1.1", 400, version("HTTPS/1.1")),
        Case::refused("SSH", 400, "SSH-2.0-OpenSSH_9.2\r\n"),
        Case::refused("the first byte of TLS", 400, "\x16"),
    ]);
    check(&cases);
}

#[test]
fn row_07_there_is_exactly_one_valid_host() {
    let mut cases = named(&["no Host", "2x Host", "Host: a b", "Host: u@a"]);
    let host = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    cases.extend([
        Case::served("an empty one", host("")),
        Case::served("a port", host("a:65535")),
        Case::served("an empty port", host("a:")),
        Case::served("IPv6", host("[::1]:80")),
        Case::served("an escape", host("a%41")),
        Case::refused("too large a port", 400, host("a:65536")),
        Case::refused("a port that is no number", 400, host("a:x")),
        Case::refused("two ports", 400, host("a:1:2")),
        Case::refused("no IPv6", 400, host("[::x]")),
        Case::refused("half an IPv6", 400, host("[::1")),
        Case::refused("an address of a kind to come", 400, host("[v1.a]")),
        Case::refused("a slash", 400, host("a/b")),
        Case::refused("a list", 400, host("a, b\"")),
        Case::refused("a high byte", 400, host("\u{e9}")),
        Case::refused("an escaped NUL", 400, host("a%00")),
        Case::refused(
            "none beside an absolute-form",
            400,
            "GET http://a/ HTTP/1.1\r\n\r\n",
        ),
        Case::refused(
            "an invalid one beside an absolute-form",
            400,
            "GET http://a/ HTTP/1.1\r\nHost: a b\r\n\r\n",
        ),
        Case::refused(
            "two in 1.0",
            400,
            "GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n",
        ),
        Case::answered("none in 1.0", &[200], End::Closed, "GET / HTTP/1.0\r\n\r\n"),
    ]);
    check(&cases);
}

#[test]
fn row_08_field_names_are_tokens_followed_by_a_colon() {
    let mut cases = named(&["space before colon", "no colon", "name with ("]);
    cases.extend([
        Case::served("every byte of a token", with("!#$%&'*+-.^_`|~09azAZ: a")),
        Case::refused("an empty name", 400, with(": a")),
        Case::refused("HTAB before the colon", 400, with("X\t: a")),
        Case::refused("a space in the name", 400, with("X Y: a")),
        Case::refused("a high byte in the name", 400, with("X\u{e9}: a")),
        Case::refused("a NUL in the name", 400, with("X\0: a")),
        Case::refused("a slash in the name", 400, with("X/Y: a")),
        Case::refused(
            "a space before Content-Length's colon",
            400,
            post("Content-Length : 5", "hello"),
        ),
    ]);
    check(&cases);
}

#[test]
fn row_09_field_values_hold_no_control_byte_but_tab() {
    let mut cases = named(&["bare CR in value", "NUL in value", "ctl01 in value"]);
    let see = |value: &[u8]| {
        [
            &b"GET /see HTTP/1.1\r\nHost: a\r\nX:"[..],
            value,
            b"\r\n\r\n",
        ]
        .concat()
    };
    let seen = |value: &str| {
        format!("target=/see\npath=/see\nquery=-\nhost=a\nfield Host=a\nfield X={value}\n")
    };
    cases.extend([
        Case::served("white space around it", see(b" \t b\tc \t ")).text(&seen("b\\tc")),
        Case::served("nothing", see(b"")).text(&seen("")),
        Case::served("high bytes", see(b" \x80\xff")).text(&seen("\\x80\\xff")),
        Case::refused("DEL", 400, see(b" a\x7f")),
        Case::refused("ESC", 400, see(b" a\x1b[2J")),
        Case::refused("VT", 400, see(b"\x0b1")),
        Case::answered(
            "tabs around a length",
            &[200],
            End::Open,
            post("Content-Length:\t5\t", "hello"),
        )
        .text("hello"),
    ]);
    check(&cases);
}

#[test]
fn row_10_folded_lines_are_refused() {
    let mut cases = named(&["obs-fold"]);
    cases.extend([
        Case::refused("folded with a tab", 400, with("X: a\r\n\tb")),
        Case::refused("an empty folded line", 400, with("X: a\r\n \r\nY: b")),
        Case::refused(
            "a space before the first field",
            400,
            "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        ),
        Case::refused(
            "a folded length",
            400,
            post("Content-Length:\r\n 5", "hello"),
        ),
    ]);
    check(&cases);
}

#[test]
fn row_11_lines_end_in_crlf_only() {
    let mut cases = named(&["bare LF", "chunk LF"]);
    cases.extend([
        Case::refused(
            "LF after the request line",
            400,
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
        ),
        Case::refused(
            "LF after a field",
            400,
            "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
        ),
        Case::refused(
            "LF after the last field",
            400,
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
        ),
        Case::refused(
            "LF as the empty line",
            400,
            "GET / HTTP/1.1\r\nHost: a\r\n\n",
        ),
        Case::refused(
            "CR after the request line",
            400,
            "GET / HTTP/1.1\rHost: a\r\n\r\n",
        ),
        Case::refused(
            "CR as the empty line",
            400,
            "GET / HTTP/1.1\r\nHost: a\r\n\rX",
        ),
        Case::refused("two CR", 400, "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n"),
    ]);
    check(&cases);
}

#[test]
fn row_12_content_length_is_one_number_within_the_limit() {
    let mut cases = named(&["2x CL differ", "2x CL same", "CL +5", "CL 1TiB"]);
    let length = |value: &str| post(&format!("Content-Length: {value}"), "hello");
    for (name, value) in [
        ("nothing", ""),
        ("-5", "-5"),
        ("a list", "5, 5"),
        ("0x5", "0x5"),
        ("5 5", "5 5"),
        ("5.0", "5.0"),
        ("a quoted one", "\"5\""),
        ("2^64", "18446744073709551616"),
    ] {
        cases.push(Case::refused(name, 400, length(value)));
    }
    cases.extend([
        Case::served("leading zeros", length("0005")).text("hello"),
        Case::served("none", post("X: a", "")).text(""),
        Case::refused("2^64 - 1", 413, length("18446744073709551615")),
        // Said before a byte of the body has come.
        Case::refused(
            "too much, not sent",
            413,
            post("Content-Length: 2147483648", ""),
        ),
    ]);
    check(&cases);
}

#[test]
fn row_13_transfer_encoding_is_chunked_and_nothing_else() {
    let mut cases = named(&[
        "TE gzip",
        "TE gzip, chunked",
        "TE chunked, gzip",
        "TE chunked, chunked",
        "TE identity",
    ]);
    let te = |lines: &str| post(lines, &format!("5\r\nhello\r\n0\r\n\r\n{SMUGGLED}"));
    let whole = |lines: &str| post(lines, "5\r\nhello\r\n0\r\n\r\n");
    for (name, value) in [
        ("an empty one", "Transfer-Encoding:"),
        ("a vertical tab", "Transfer-Encoding: \x0bchunked"),
        ("a quoted one", "Transfer-Encoding: \"chunked\""),
        ("with a parameter", "Transfer-Encoding: chunked;a=b"),
        ("with a comma", "Transfer-Encoding: chunked,"),
        ("xchunked", "Transfer-Encoding: xchunked"),
        (
            "two fields",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        ),
        (
            "two fields, the other first",
            "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        ),
        ("a space before the colon", "Transfer-Encoding : chunked"),
    ] {
        cases.push(Case::refused(name, 400, te(value)));
    }
    cases.push(Case::served("in capitals", whole("TRANSFER-ENCODING: CHUNKED")).text("hello"));
    check(&cases);
}

#[test]
fn row_14_transfer_encoding_beside_content_length_is_refused() {
    let mut cases = named(&["CL+TE"]);
    let lines = |lines: &str| post(lines, &format!("0\r\n\r\n{SMUGGLED}"));
    cases.extend([
        Case::refused(
            "TE first",
            400,
            lines("Transfer-Encoding: chunked\r\nContent-Length: 5"),
        ),
        Case::refused(
            "a length of 0",
            400,
            lines("Content-Length: 0\r\nTransfer-Encoding: chunked"),
        ),
        Case::refused(
            "another coding",
            400,
            lines("Content-Length: 5\r\nTransfer-Encoding: gzip"),
        ),
    ]);
    check(&cases);
}

#[test]
fn row_15_transfer_encoding_in_http_1_0_is_refused() {
    let mut cases = named(&["TE in 1.0"]);
    cases.push(Case::refused(
        "another coding",
        400,
        "POST / HTTP/1.0\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    ));
    check(&cases);
}

#[test]
fn row_29_each_size_has_its_own_limit_and_status() {
    let mut cases = named(&[
        "target 9k",
        "target 70k",
        "header 9k",
        "header 70k",
        "header 500k",
        "101 headers",
        "2000 headers",
    ]);
    let target = |len: usize| to(&format!("/?{}", "x".repeat(len - 2)));
    cases.extend([
        Case::served("a target at the limit", target(8192)),
        Case::refused("a target beyond it", 414, target(8193)),
        Case::refused(
            "a target that does not end",
            414,
            format!("GET /{}", "x".repeat(20_000)),
        ),
        Case::served("100 fields", with("X: y\r\n".repeat(99).trim_end())),
        Case::refused(
            "a name that does not end",
            431,
            format!("GET / HTTP/1.1\r\nHost: a\r\n{}", "x".repeat(20_000)),
        ),
    ]);
    check(&cases);
}

#[test]
fn row_29_a_body_has_its_limit() {
    let cases = [
        Case::served("at the limit", post("Content-Length: 5", "hello")),
        Case::refused("beyond it", 413, post("Content-Length: 6", "")),
        Case::served(
            "chunks at the limit",
            crate::stand::chunked("5\r\nhello\r\n0\r\n\r\n"),
        ),
        Case::refused(
            "chunks beyond it",
            413,
            crate::stand::chunked("3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"),
        ),
        Case::refused(
            "a chunk beyond it",
            413,
            crate::stand::chunked("ffffffffffffffff\r\n"),
        ),
    ];
    check_with("--body-limit 5", "", &cases);
}
