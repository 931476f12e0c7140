//! Rows 19, 20 and 22 to 25: what goes back.

use crate::matrix::named;
use crate::stand::{Case, End, both, check, check_with, post, to, with};
use transom_tests::Trouble;

#[test]
fn row_19_methods_that_are_not_served_are_told_apart() {
    let request = |method: &str| format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut cases = named(&["BREW", "TRACE"]);
    cases.extend([
        Case::refused("get", 501, request("get")),
        Case::refused("32 bytes", 501, request(&"X".repeat(32))),
        Case::refused(
            "one with a body",
            501,
            "BREW / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        ),
        Case::refused("33 bytes", 501, request(&"X".repeat(33))),
        Case::refused("70 KB", 501, request(&"X".repeat(70_000))),
        Case::refused("no token", 400, request("G@T")),
        Case::refused("a high byte", 400, request("G\u{e9}T")),
        Case::refused("none", 400, request("")),
        Case::answered(
            "a known one without a route",
            &[405],
            End::Open,
            request("GET").replace(" / ", " /stream "),
        ),
    ]);
    check(&cases);
    for stand in both("", "--buckets 1") {
        let answer = stand.answer_to("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(
            (answer.status, answer.field("allow")),
            (405, Some("POST, OPTIONS")),
            "{}: {}",
            stand.name,
            answer.head
        );
        stand.stop();
    }
}

#[test]
fn row_20_connections_stay_open_as_version_and_tokens_say() {
    let mut cases = named(&["1.0 keep-alive"]);
    let old = |lines: &str| format!("GET / HTTP/1.0\r\n{lines}\r\n");
    cases.extend([
        Case::served("1.1", with("X: a")),
        Case::answered("close", &[200], End::Closed, with("Connection: close")),
        Case::answered(
            "CLOSE among others",
            &[200],
            End::Closed,
            with("Connection: x, CLOSE ,y"),
        ),
        Case::answered(
            "in a second field",
            &[200],
            End::Closed,
            with("Connection: x\r\nConnection: close"),
        ),
        Case::answered(
            "close beside keep-alive",
            &[200],
            End::Closed,
            with("Connection: keep-alive, close"),
        ),
        Case::served("closeness is not close", with("Connection: closeness")),
        Case::served("no-close is not close", with("Connection: no-close")),
        Case::answered("1.0", &[200], End::Closed, old("")),
        Case::answered(
            "1.0 with something else",
            &[200],
            End::Closed,
            old("Connection: keep-alives\r\n"),
        ),
        Case::answered(
            "1.0 with both",
            &[200],
            End::Closed,
            old("Connection: keep-alive, close\r\n"),
        ),
    ]);
    check(&cases);
    for stand in both("", "--buckets 1") {
        let answer = stand.answer_to(old("Connection: Keep-Alive\r\n"));
        assert_eq!(
            answer.field("connection"),
            Some("keep-alive"),
            "{}",
            stand.name
        );
        stand.stop();
    }
}

#[test]
fn row_20_the_last_request_that_a_connection_was_granted_is_told_so() {
    let get = with("X: a");
    check_with(
        "--requests-per-connection 3",
        "",
        &[
            Case::answered("two", &[200, 200], End::Open, get.repeat(2)),
            Case::answered("three", &[200, 200, 200], End::Closed, get.repeat(3)),
            Case::answered(
                "four in one write",
                &[200, 200, 200],
                End::Closed,
                get.repeat(4),
            ),
        ],
    );
}

#[test]
fn row_22_every_answer_has_one_date_one_length_and_is_written_whole() {
    for stand in both("", "--buckets 1") {
        for (request, status) in [
            (with("X: a"), 200),
            (to("/nowhere"), 404),
            (to("/stream"), 405),
            (to("/fill/1000000"), 500),
            (b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), 501),
            (b"nonsense\r\n\r\n".to_vec(), 400),
            (post("Content-Length: 1099511627776", ""), 413),
            (to(&format!("/{}", "x".repeat(9000))), 414),
            (with("Expect: magic"), 417),
            (with(&format!("X: {}", "x".repeat(20_000))), 431),
            (b"GET / HTTP/2.0\r\n\r\n".to_vec(), 505),
        ] {
            let answer = stand.answer_to(&request);
            assert_eq!(answer.status, status, "{}: {}", stand.name, answer.head);
            let counts = (answer.count("date"), answer.count("content-length"));
            assert_eq!(counts, (1, 1), "{}", answer.head);
            let date = answer.field("date").unwrap_or_default();
            // Sun, 06 Nov 1994 08:49:37 GMT
            assert!(
                date.len() == 29 && date.ends_with(" GMT") && date.as_bytes()[3] == b',',
                "{date}"
            );
        }
        stand.stop();
    }
}

#[test]
fn row_23_a_handler_cannot_write_fields_or_answers_of_its_own() {
    let mut cases = Vec::new();
    for (name, query) in [
        ("CR LF", "name=X&value=a%0d%0aSet-Cookie:%20b"),
        ("LF", "name=X&value=a%0aSet-Cookie:%20b"),
        ("CR", "name=X&value=a%0dSet-Cookie:%20b"),
        (
            "an answer",
            "name=X&value=a%0d%0a%0d%0aHTTP/1.1%20200%20OK%0d%0a",
        ),
        ("a control byte", "name=X&value=%01"),
        ("DEL", "name=X&value=%7f"),
        ("a name with CR LF", "name=X%0d%0aY&value=a"),
        ("a name with a space", "name=X%20&value=a"),
        ("an empty name", "name=&value=a"),
        ("Content-Length", "name=Content-Length&value=0"),
        ("Transfer-Encoding", "name=transfer-encoding&value=chunked"),
        ("Connection", "name=CONNECTION&value=close"),
    ] {
        let request = to(&format!("/field?{query}"));
        cases.push(Case::answered(name, &[500], End::Open, request));
    }
    cases.push(Case::served("a plain field", to("/field?name=X&value=a")).text("with a field\n"));
    check(&cases);
    for stand in both("", "--buckets 1") {
        let answer = stand
            .front
            .get("/field?name=X&value=a%0d%0aSet-Cookie:%20b");
        assert_eq!(answer.field("set-cookie"), None, "{}", stand.name);
        stand.stop();
    }
}

#[test]
fn row_24_an_answer_ends_where_it_says() {
    for stand in both("", "--buckets 1") {
        let name = stand.name;
        // Shorter than announced: never padded, never followed by the next answer.
        let mut client = stand.connect();
        client.send([to("/short"), with("X: a")].concat());
        assert_eq!(client.try_answer(), Err(Trouble::Cut), "{name}: shorter");
        // Known before the head is out: then it can still be said.
        let answer = stand.front.get("/short-at-once");
        assert_eq!(answer.status, 500, "{name}: {}", answer.head);

        // Longer: cut at its length.
        let mut client = stand.connect();
        let answer = client.get("/over");
        assert_eq!(answer.text(), "sixsi", "{name}: longer");
        if answer.closes() {
            assert!(client.is_closed(), "{name}: longer");
        } else {
            match client.try_send(with("X: a")).then(|| client.try_answer()) {
                Some(Ok(next)) => assert_eq!(next.text(), "hello\n", "{name}: longer"),
                Some(Err(trouble)) => assert_eq!(trouble, Trouble::Closed, "{name}: longer"),
                None => assert!(client.is_closed(), "{name}: longer"),
            }
        }

        // A bucket that overflows: before the head there is a status for it, after it only the missing end.
        let answer = stand.front.get("/fill/1000000");
        assert_eq!(answer.status, 500, "{name}: {}", answer.head);
        assert_eq!(
            answer.field("transom-diagnostic"),
            Some("bucket-exhausted"),
            "{name}"
        );
        let mut client = stand.connect();
        client.send(to("/fill-late/1000000"));
        assert_eq!(
            client.try_answer(),
            Err(Trouble::Cut),
            "{name}: no last chunk"
        );
        stand.assert_serves("an answer that was cut");
        stand.stop();
    }
}

#[test]
fn row_24_framing_fits_status_and_version() {
    check(&[
        Case::answered("204", &[204], End::Open, to("/status/204")),
        Case::answered("304", &[304], End::Open, to("/status/304")),
        Case::served("chunks", to("/chunks")).text("onetwo"),
        Case::answered(
            "no chunks for 1.0",
            &[200],
            End::Closed,
            "GET /chunks HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        )
        .text("onetwo"),
    ]);
    for stand in both("", "--buckets 1") {
        let name = stand.name;
        for status in [204, 304] {
            let answer = stand.front.get(&format!("/status/{status}"));
            let framing = (
                answer.count("transfer-encoding"),
                answer.count("content-length"),
            );
            assert_eq!(framing.0, 0, "{name}: {}", answer.head);
            assert!(status == 304 || framing.1 == 0, "{name}: {}", answer.head);
        }
        let answer = stand.answer_to("GET /chunks HTTP/1.0\r\n\r\n");
        assert_eq!(
            answer.count("transfer-encoding"),
            0,
            "{name}: {}",
            answer.head
        );
        let answer = stand.front.get("/chunks");
        assert_eq!(answer.field("transfer-encoding"), Some("chunked"), "{name}");
        stand.stop();
    }
}

#[test]
fn row_25_an_upgrade_is_not_taken_up() {
    let mut cases = named(&["Upgrade foo"]);
    let h2c =
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__";
    let websocket = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    cases.extend([
        Case::served("h2c", with(h2c)).text("hello\n"),
        Case::served("websocket", with(websocket)).text("hello\n"),
        Case::served(
            "with a body",
            post(
                "Connection: upgrade\r\nUpgrade: foo\r\nContent-Length: 5",
                "hello",
            ),
        )
        .text("hello"),
    ]);
    check(&cases);
}
