//! Part 2 of the contract: the cases that were put to eight other servers, under the same names.

use crate::stand::{Case, End, SMUGGLED, chunked, post, to, with};

/// All of them, in the order of the table.
#[must_use]
pub fn cases() -> Vec<Case> {
    let mut cases = targets();
    cases.extend(heads());
    cases.extend(sizes());
    cases.extend(framing());
    cases.extend(rest());
    cases
}

fn targets() -> Vec<Case> {
    vec![
        Case::answered(
            "OPTIONS *",
            &[204],
            End::Open,
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
        Case::served("absolute-form", to("http://b/")),
        Case::refused(
            "CONNECT a:443",
            501,
            "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
        ),
        Case::refused("BREW", 501, "BREW / HTTP/1.1\r\nHost: a\r\n\r\n"),
        Case::refused("TRACE", 501, "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n"),
        Case::refused("no Host", 400, "GET / HTTP/1.1\r\n\r\n"),
        Case::refused("2x Host", 400, with("Host: a")),
        Case::refused("Host: a b", 400, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
        Case::refused("Host: u@a", 400, "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n"),
        Case::refused("HTTP/0.9", 400, "GET /\r\n"),
        Case::served("HTTP/1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
        Case::refused("HTTP/2.0", 505, "GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
        Case::refused("h2 preface", 505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        Case::refused(
            "TLS hello",
            400,
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        ),
    ]
}

fn heads() -> Vec<Case> {
    vec![
        Case::refused("bare LF", 400, "GET / HTTP/1.1\nHost: a\n\n"),
        Case::refused("bare CR in value", 400, with("X: a\rb")),
        Case::refused("NUL in value", 400, with("X: a\0b")),
        Case::refused("ctl01 in value", 400, with("X: a\x01b")),
        Case::refused("space before colon", 400, with("X : a")),
        Case::refused("obs-fold", 400, with("X: a\r\n b")),
        Case::refused("no colon", 400, with("nonsense")),
        Case::refused("name with (", 400, with("X(: a")),
        Case::served("leading CRLF", [b"\r\n", &with("X: a")[..]].concat()),
        Case::refused("2 spaces", 400, "GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
        Case::refused("target NUL", 400, to("/\0")),
        Case::refused("target high byte", 400, to("/\u{e9}")),
        Case::refused("%zz", 400, to("/%zz")),
        Case::refused("%00", 400, to("/%00")),
        Case::refused("#frag", 400, to("/#frag")),
    ]
}

fn sizes() -> Vec<Case> {
    let long = |len: usize| with(&format!("X: {}", "x".repeat(len)));
    let many = |count: usize| with("X: y\r\n".repeat(count - 1).trim_end());
    vec![
        Case::refused("target 9k", 414, to(&format!("/{}", "x".repeat(9 << 10)))),
        Case::refused("target 70k", 414, to(&format!("/{}", "x".repeat(70 << 10)))),
        Case::served("header 9k", long(9 << 10)),
        Case::refused("header 70k", 431, long(70 << 10)),
        Case::refused("header 500k", 431, long(500 << 10)),
        Case::refused("101 headers", 431, many(101)),
        Case::refused("2000 headers", 431, many(2000)),
    ]
}

fn framing() -> Vec<Case> {
    let te = |coding: &str| {
        let lines = format!("Transfer-Encoding: {coding}");
        post(&lines, &format!("0\r\n\r\n{SMUGGLED}"))
    };
    let both = "Content-Length: 4\r\nTransfer-Encoding: chunked";
    let old = "POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let extension = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(64 << 10));
    vec![
        Case::refused("CL+TE", 400, post(both, &format!("0\r\n\r\n{SMUGGLED}"))),
        Case::refused("TE in 1.0", 400, format!("{old}{SMUGGLED}")),
        Case::refused(
            "2x CL differ",
            400,
            post("Content-Length: 5\r\nContent-Length: 4", "hello"),
        ),
        Case::refused(
            "2x CL same",
            400,
            post("Content-Length: 5\r\nContent-Length: 5", "hello"),
        ),
        Case::refused("CL +5", 400, post("Content-Length: +5", "hello")),
        Case::refused(
            "CL 1TiB",
            413,
            post("Content-Length: 1099511627776", "hello"),
        ),
        Case::refused("TE gzip", 400, te("gzip")),
        Case::refused("TE gzip, chunked", 501, te("gzip, chunked")),
        Case::refused("TE chunked, gzip", 400, te("chunked, gzip")),
        Case::refused("TE chunked, chunked", 400, te("chunked, chunked")),
        Case::refused("TE identity", 400, te("identity")),
        Case::refused("chunk LF", 400, chunked("5\nhello\r\n0\r\n\r\n")),
        Case::refused("chunk size bad", 400, chunked("x\r\nhello\r\n0\r\n\r\n")),
        Case::refused("chunk no CRLF", 400, chunked("5\r\nhello0\r\n\r\n")),
        Case::refused("chunk ext 64k", 400, chunked(&extension)),
        Case::served("trailer", chunked("5\r\nhello\r\n0\r\nX-T: a\r\n\r\n")).text("hello"),
    ]
}

fn rest() -> Vec<Case> {
    let old = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    vec![
        Case::refused("Expect magic", 417, with("Expect: magic")),
        Case::answered(
            "Expect 100 (no body sent)",
            &[100, 200],
            End::Open,
            post("Content-Length: 5\r\nExpect: 100-continue", ""),
        )
        .then_send("hello")
        .text("hello"),
        Case::served("Upgrade foo", with("Connection: upgrade\r\nUpgrade: foo")),
        Case::answered("half-close", &[200], End::Closed, with("X: a")).half_closed(),
        Case::served("1.0 keep-alive", old),
    ]
}

/// Some of the cases, by their names.
#[must_use]
pub fn named(names: &[&str]) -> Vec<Case> {
    let mut all = cases();
    let found: Vec<Case> = names
        .iter()
        .map(|name| {
            let at = all.iter().position(|case| case.name() == *name);
            all.swap_remove(at.unwrap_or_else(|| panic!("no case is named {name:?}")))
        })
        .collect();
    found
}

#[test]
fn every_case_of_part_2_is_answered_as_the_contract_says() {
    let cases = cases();
    assert_eq!(cases.len(), 57, "as many as part 2 has");
    crate::stand::check(&cases);
}
