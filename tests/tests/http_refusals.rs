//! Malformed requests: each gets the status that says what was wrong, and the next client is served.

use std::time::{Duration, Instant};
use transom_tests::{Server, Trouble};

const FLAGS: &str = "--buckets 4";

/// A head with one more line.
fn with(line: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: test\r\n{line}\r\n\r\n")
}

/// The status of the answer to these bytes. After it the connection must end, without a reset and without a
/// second answer to smuggled bytes.
fn refused(server: &Server, request: &[u8]) -> u16 {
    let mut client = server.connect();
    client.send(request);
    let shown = String::from_utf8_lossy(&request[..request.len().min(100)]).into_owned();
    let answer = match client.try_answer() {
        Ok(answer) => answer,
        Err(trouble) => panic!("{trouble:?} after {shown:?}"),
    };
    assert!(
        answer.closes() && answer.field("date").is_some(),
        "{shown:?}: {}",
        answer.head
    );
    assert!(client.is_closed(), "{shown:?}");
    assert_eq!(server.get("/").status, 200, "the next one is served");
    answer.status
}

#[test]
fn malformed_heads_get_400() {
    let server = Server::start("hello", FLAGS);
    let heads = [
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        with("Host: other"),
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n".to_owned(),
        "GET  / HTTP/1.1\r\nHost: test\r\n\r\n".to_owned(),
        "GET / HTTP/1.1 \r\nHost: test\r\n\r\n".to_owned(),
        "GET / http/1.1\r\nHost: test\r\n\r\n".to_owned(),
        "GET /\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\nHost: test\n\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: test\n\r\n".to_owned(),
        "\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03".to_owned(),
        "GET /#x HTTP/1.1\r\nHost: test\r\n\r\n".to_owned(),
        "GET /\x7f HTTP/1.1\r\nHost: test\r\n\r\n".to_owned(),
        "GET /\u{e9} HTTP/1.1\r\nHost: test\r\n\r\n".to_owned(),
        "GET /%zz HTTP/1.1\r\nHost: test\r\n\r\n".to_owned(),
        "GET /%00 HTTP/1.1\r\nHost: test\r\n\r\n".to_owned(),
        "GET * HTTP/1.1\r\nHost: test\r\n\r\n".to_owned(),
        "GET test:80 HTTP/1.1\r\nHost: test\r\n\r\n".to_owned(),
        with("No colon"),
        with("Space : before"),
        with(": no name"),
        with("Na(me: x"),
        with("X: a\rb"),
        with("X: a\0b"),
        with("X: a\x01b"),
        with("X: a\r\n folded"),
        with("Content-Length: +5"),
        with("Content-Length: 5, 5"),
        with("Content-Length: 5\r\nContent-Length: 5"),
        with("Content-Length: 99999999999999999999"),
        with("Content-Length:"),
        with("Content-Length: 5\r\nTransfer-Encoding: chunked"),
        with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        with("Transfer-Encoding: chunked, gzip"),
        with("Transfer-Encoding: chunked, chunked"),
        with("Transfer-Encoding: identity"),
        "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
    ];
    for head in heads {
        assert_eq!(refused(&server, head.as_bytes()), 400, "{head:?}");
    }
    assert_eq!(server.stop().code(), 0);
}

#[test]
fn what_is_smuggled_behind_a_malformed_head_is_not_answered() {
    let server = Server::start("hello", FLAGS);
    let smuggled = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n\
                    0\r\n\r\nGET /json HTTP/1.1\r\nHost: test\r\n\r\n";
    assert_eq!(refused(&server, smuggled.as_bytes()), 400);
}

#[test]
fn malformed_chunks_get_400() {
    let server = Server::start("echo", FLAGS);
    for body in [
        "5\nhello\r\n0\r\n\r\n",
        "x\r\n",
        "5\r\nhelloX",
        "-1\r\n",
        "5 \r\nhello\r\n",
        "0x5\r\nhello\r\n",
    ] {
        let mut client = server.connect();
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
        ));
        let answer = client.answer();
        assert!(
            answer.status == 400 && answer.closes(),
            "{body:?}: {}",
            answer.head
        );
        assert!(client.is_closed());
    }
    let overflow =
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n11111111111111111\r\n";
    assert!([400, 413].contains(&server.answer_to(overflow).status));
    let extension = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(64 << 10));
    let mut client = server.connect();
    client.try_send(format!(
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n{extension}"
    ));
    assert_eq!(client.answer().status, 400);
}

#[test]
fn codings_and_expectations_that_are_not_met_are_said() {
    let server = Server::start("hello", FLAGS);
    assert_eq!(
        refused(&server, with("Transfer-Encoding: gzip, chunked").as_bytes()),
        501
    );
    assert_eq!(refused(&server, with("Expect: magic").as_bytes()), 417);
}

#[test]
fn other_protocols_are_refused_at_once() {
    let server = Server::start("hello", FLAGS);
    assert!([400, 505].contains(&refused(&server, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")));
    assert_eq!(
        refused(&server, b"GET / HTTP/3.0\r\nHost: test\r\n\r\n"),
        505
    );
    assert_eq!(refused(&server, b"SSH-2.0-OpenSSH_9.2\r\n"), 400);
}

#[test]
fn a_target_or_fields_that_are_too_long_have_their_own_status() {
    let server = Server::start("hello", FLAGS);
    let path = |len: usize| {
        format!(
            "GET /hello/{} HTTP/1.1\r\nHost: test\r\n\r\n",
            "x".repeat(len)
        )
    };
    assert_eq!(
        server.answer_to(path(8000)).status,
        200,
        "RFC 9112 recommends to take 8000 bytes"
    );
    assert_eq!(refused(&server, path(9000).as_bytes()), 414);
    assert_eq!(refused(&server, path(100_000).as_bytes()), 414);
    assert_eq!(
        refused(
            &server,
            with(&format!("X: {}", "x".repeat(20_000))).as_bytes()
        ),
        431
    );
    assert_eq!(
        refused(&server, with(&"X: y\r\n".repeat(200)).trim_end().as_bytes()),
        431
    );
    let many = "X: y\r\n".repeat(99);
    assert_eq!(
        server
            .answer_to(format!("GET / HTTP/1.1\r\nHost: test\r\n{many}\r\n"))
            .status,
        200
    );
}

#[test]
fn a_head_that_is_not_whole_in_time_gets_408() {
    let server = Server::start("hello", "--buckets 4 --header-timeout 200ms");
    assert_eq!(refused(&server, b"GET / HTTP/1.1\r\nHost: te"), 408);
    // The time is for the whole head: a byte now and then does not prolong it.
    let mut client = server.connect();
    let mut dripped = 0;
    while client.hears_nothing_for(Duration::from_millis(20)) {
        assert!(dripped < 500, "a head that drips is not cut");
        if !client.try_send("x") {
            break;
        }
        dripped += 1;
    }
    assert_eq!(client.answer().status, 408);
}

#[test]
fn a_body_that_is_not_whole_in_time_gets_408() {
    let server = Server::start("echo", "--buckets 4 --body-timeout 200ms");
    let mut client = server.connect();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nhell");
    let began = Instant::now();
    let answer = client.answer();
    assert!(answer.status == 408 && answer.closes(), "{}", answer.head);
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "--body-timeout counts, not another: {:?}",
        began.elapsed()
    );
    assert!(client.is_closed());
    assert_eq!(server.post("/", "hello").text(), "hello");
}

#[test]
fn a_connection_without_a_request_is_closed_without_a_word() {
    let server = Server::start("hello", "--buckets 4 --idle-timeout 200ms");
    assert!(server.connect().is_closed());
    let mut client = server.connect();
    assert_eq!(client.get("/").status, 200);
    assert!(client.is_closed());
}

#[test]
fn more_unfinished_heads_than_there_is_room_for_cost_the_oldest_a_408() {
    let server = Server::start("hello", "--buckets 4 --loops 1 --partial-heads 4");
    let mut slow: Vec<_> = (0..8).map(|_| server.connect()).collect();
    for client in &mut slow {
        client.send("GET /hello/slow HTTP/1.1\r\n");
        assert!(
            client.hears_nothing_for(Duration::from_millis(5)),
            "kept, at others' cost"
        );
    }
    for client in &mut slow[..4] {
        assert_eq!(client.answer().status, 408);
    }
    assert_eq!(server.get("/").status, 200);
    for client in &mut slow[4..] {
        client.send("Host: test\r\n\r\n");
        assert_eq!(client.answer().text(), "hello, slow\n");
    }
}

#[test]
fn nothing_that_a_client_sends_becomes_a_field_or_an_answer_of_its_own() {
    let server = Server::start("hello", FLAGS);
    let answer = server.get("/hello/x%0d%0aSet-Cookie:%20a%0d%0a%0d%0aHTTP-1.1%20200%20OK");
    assert_eq!((answer.status, answer.field("set-cookie")), (200, None));
    assert!(
        answer.text().starts_with("hello, x\r\nSet-Cookie: a\r\n"),
        "{:?}",
        answer.text()
    );

    // echo gives the Content-Type back as a field.
    let server = Server::start("echo", FLAGS);
    for value in [
        "a\rSet-Cookie: b",
        "a\nSet-Cookie: b",
        "a\r\nSet-Cookie: b",
        "a\0b",
        "a\x7fb",
        "a\tb",
        "\u{e9}",
        "",
    ] {
        let mut client = server.connect();
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\nContent-Type: {value}\r\n\r\nhi"
        ));
        let answer = match client.try_answer() {
            Ok(answer) => answer,
            Err(trouble) => panic!("{trouble:?} after {value:?}"),
        };
        assert_eq!(
            answer.field("set-cookie"),
            None,
            "{value:?}: {}",
            answer.head
        );
        assert!(
            matches!(answer.status, 200 | 400),
            "{value:?}: {}",
            answer.head
        );
        let sent_next =
            client.try_send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\n!");
        match client.try_answer() {
            Ok(next) => assert!(sent_next && next.text() == "!", "{value:?}"),
            Err(trouble) => assert!(
                answer.closes() && trouble != Trouble::Late,
                "{value:?}: {trouble:?}"
            ),
        }
    }
}
