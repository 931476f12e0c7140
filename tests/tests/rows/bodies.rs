//! Rows 16 to 18, 21 and 26 to 28: bodies, and requests that follow each other.

use crate::matrix::named;
use crate::stand::{Case, End, SMUGGLED, both, check, chunked, post, with};
use std::io::Write;
use std::time::{Duration, Instant};
use transom_tests::Trouble;

#[test]
fn row_16_chunks_are_framed_strictly_and_their_overhead_is_capped() {
    let mut cases = named(&[
        "chunk LF",
        "chunk size bad",
        "chunk no CRLF",
        "chunk ext 64k",
        "trailer",
    ]);
    for (name, chunks) in [
        ("no size", "\r\nhello\r\n0\r\n\r\n"),
        ("a sign", "+5\r\nhello\r\n0\r\n\r\n"),
        ("0x", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("a space after the size", "5 \r\nhello\r\n0\r\n\r\n"),
        ("a space before the size", " 5\r\nhello\r\n0\r\n\r\n"),
        ("17 digits", "00000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("LF in an extension", "5;a\nhello\r\n0\r\n\r\n"),
        ("CR in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
        (
            "LF in a quoted extension",
            "5;a=\"\n\"\r\nhello\r\n0\r\n\r\n",
        ),
        ("an extension without a name", "5;\r\nhello\r\n0\r\n\r\n"),
        ("two semicolons", "5;;\r\nhello\r\n0\r\n\r\n"),
        ("a value without a name", "5;=b\r\nhello\r\n0\r\n\r\n"),
        ("a name without its value", "5;a=\r\nhello\r\n0\r\n\r\n"),
        ("a name that is no token", "5;bad[=x\r\nhello\r\n0\r\n\r\n"),
        ("a value that does not end", "5;a=\"b\r\nhello\r\n0\r\n\r\n"),
        (
            "an extension of the last chunk without a name",
            "5\r\nhello\r\n0;\r\n\r\n",
        ),
        ("LF after the data", "5\r\nhello\n0\r\n\r\n"),
        ("LF as the end", "5\r\nhello\r\n0\r\n\n"),
        ("a trailer without a colon", "0\r\nnonsense\r\n\r\n"),
        ("a space before a trailer's colon", "0\r\nX : a\r\n\r\n"),
        ("a folded trailer", "0\r\nX: a\r\n b\r\n\r\n"),
        ("a control byte in a trailer", "0\r\nX: \x01\r\n\r\n"),
    ] {
        cases.push(Case::refused(name, 400, chunked(chunks)));
    }
    let many = format!("1;{}\r\nx\r\n", "e".repeat(250)).repeat(100) + "0\r\n\r\n";
    let long = format!("0\r\nX: {}\r\n\r\n", "x".repeat(5000));
    cases.extend([
        Case::refused(
            "a size of 2^64 - 1",
            413,
            chunked("ffffffffffffffff\r\nhello"),
        ),
        Case::refused("extensions of many chunks", 400, chunked(&many)),
        Case::refused("a trailer section of 5 KB", 431, chunked(&long)),
        Case::served(
            "a small extension",
            chunked("5;a=\"b\"\r\nhello\r\n0\r\n\r\n"),
        )
        .text("hello"),
        Case::served("capital digits", chunked("A\r\n0123456789\r\n0\r\n\r\n")).text("0123456789"),
        Case::served(
            "16 digits",
            chunked("0000000000000005\r\nhello\r\n0\r\n\r\n"),
        )
        .text("hello"),
        Case::served(
            "a forbidden trailer",
            chunked("0\r\nContent-Length: 5\r\nHost: x\r\n\r\n"),
        ),
        Case::answered(
            "the next request behind the last chunk",
            &[200, 200],
            End::Open,
            [chunked("5\r\nhello\r\n0\r\n\r\n"), with("X: a")].concat(),
        )
        .text("hello\n"),
    ]);
    check(&cases);
}

#[test]
fn row_16_trailers_never_become_fields() {
    let request = "GET /see HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Secret: yes\r\nHost: b\r\n\r\n";
    for stand in both("", "--buckets 1") {
        let answer = stand.answer_to(request);
        assert_eq!(answer.status, 200, "{}: {}", stand.name, answer.head);
        let text = answer.text().to_ascii_lowercase();
        assert!(
            !text.contains("secret") && text.contains("host=a\n"),
            "{text}"
        );
        stand.stop();
    }
}

#[test]
fn row_17_a_client_is_told_to_go_on_only_where_its_body_is_wanted() {
    let mut cases = named(&["Expect magic", "Expect 100 (no body sent)"]);
    let expect = "Expect: 100-continue";
    let length = |len: &str| post(&format!("Content-Length: {len}\r\n{expect}"), "");
    let to = |path: &str, method: &str, len: &str| {
        format!("{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n{expect}\r\n\r\n")
    };
    cases.extend([
        Case::refused("too much", 413, length("1099511627776")),
        Case::served("no body", length("0")).text(""),
        Case::answered(
            "in chunks",
            &[100, 200],
            End::Open,
            post(&format!("Transfer-Encoding: chunked\r\n{expect}"), ""),
        )
        .then_send("5\r\nhello\r\n0\r\n\r\n")
        .text("hello"),
        // A refusal that is known before the body comes before it, and no body is asked for.
        Case::answered("no such path", &[404], End::Closed, to("/nowhere", "POST", "5")),
        Case::answered("in chunks, no such path", &[404], End::Closed, {
            format!("POST /nowhere HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n{expect}\r\n\r\n")
        }),
        Case::answered("another method", &[405], End::Closed, to("/see", "POST", "5")),
        Case::answered("an unknown method", &[501], End::Closed, to("/", "BREW", "5")),
        Case::answered("more than a bucket holds", &[413], End::Closed, to("/", "POST", "10000000")),
        Case::answered("to a handler that streams", &[100, 200], End::Open, to("/stream", "POST", "5"))
            .then_send("hello")
            .text("hello"),
        Case::served("in capitals, without a body", with("Expect: 100-CONTINUE")),
        Case::refused("two expectations", 417, with("Expect: 100-continue, magic")),
        // HTTP/1.0 does not know 100.
        Case::answered(
            "in 1.0",
            &[200],
            End::Closed,
            format!("POST / HTTP/1.0\r\nContent-Length: 5\r\n{expect}\r\n\r\nhello"),
        )
        .text("hello"),
    ]);
    check(&cases);
}

#[test]
fn row_18_no_answer_to_head_has_a_body() {
    let head = |target: &str, lines: &str| format!("HEAD {target} HTTP/1.1\r\n{lines}\r\n");
    // A body would be read as the head of the next answer, or spoil the end.
    check(&[
        Case::served("a handler's", head("/", "Host: a\r\n")),
        Case::answered(
            "a handler's stream",
            &[200],
            End::Open,
            head("/chunks", "Host: a\r\n"),
        ),
        Case::answered(
            "no such path",
            &[404],
            End::Open,
            head("/nowhere", "Host: a\r\n"),
        ),
        Case::answered(
            "another method",
            &[405],
            End::Open,
            head("/stream", "Host: a\r\n"),
        ),
        Case::answered(
            "a handler that fails",
            &[500],
            End::Open,
            head("/fill/1000000", "Host: a\r\n"),
        ),
        Case::refused(
            "a bad head behind an empty line",
            400,
            format!("\r\n{}", head("/", "")),
        ),
        Case::refused("a bad head", 400, head("/", "")),
        Case::refused(
            "a bad length",
            400,
            head("/", "Host: a\r\nContent-Length: x\r\n"),
        ),
        Case::refused("a bad version", 505, "HEAD / HTTP/2.0\r\nHost: a\r\n\r\n"),
        Case::refused(
            "too large",
            431,
            head("/", &format!("X: {}\r\n", "x".repeat(20_000))),
        ),
    ]);
    for stand in both("", "--buckets 1") {
        for target in ["/", "/nowhere", "/fill/1000000"] {
            let mut client = stand.connect();
            client.send(head(target, "Host: a\r\n"));
            let got = client.answer_to_head();
            let get = stand.front.get(target);
            assert_eq!(
                got.field("content-length"),
                get.field("content-length"),
                "{target}"
            );
        }
        stand.stop();
    }
}

#[test]
fn row_18_no_answer_to_an_unfinished_head_has_a_body_either_and_the_next_one_has_its_own() {
    for stand in both("--header-timeout 300ms", "--buckets 1") {
        let mut client = stand.connect();
        client.send("HEAD / HTTP/1.1\r\nHost: a");
        assert_eq!(client.answer_to_head().status, 408, "{}", stand.name);
        assert!(client.is_closed(), "{}: a body", stand.name);
        // An earlier HEAD does not decide about this request.
        let mut client = stand.connect();
        client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.answer_to_head().status, 200);
        client.send("GET / HTTP/1.1\r\nHost: a");
        let answer = client.answer();
        assert_eq!(
            (answer.status, answer.body.is_empty()),
            (408, false),
            "{}",
            stand.name
        );
        stand.stop();
    }
}

#[test]
fn row_18_no_answer_to_a_head_that_waits_in_vain_has_a_body() {
    for stand in both("--queue-timeout 100ms", "--buckets 1 --slots 1") {
        let mut busy = stand.connect();
        busy.send("GET /sleep/1500 HTTP/1.1\r\nHost: a\r\n\r\n");
        stand.handlers().wait_for_sleepers(1);
        let mut client = stand.connect();
        client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.answer_to_head().status, 503, "{}", stand.name);
        assert!(client.is_closed(), "{}: a body", stand.name);
        assert_eq!(busy.answer().text(), "slept\n");
        stand.stop();
    }
}

#[test]
fn row_21_requests_in_one_write_are_answered_in_order_by_one_handler_at_a_time() {
    let each = |n: usize| format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n{n:05}");
    for stand in both("", "--buckets 8") {
        let mut client = stand.connect();
        let requests: String = (0..2000).map(each).collect();
        let mut sender = client.sender();
        let sending =
            std::thread::spawn(move || std::io::Write::write_all(&mut sender, requests.as_bytes()));
        for n in 0..2000 {
            assert_eq!(client.answer().text(), format!("{n:05}"), "{}", stand.name);
        }
        sending.join().expect("no panic").expect("all was taken");
        // With eight buckets free, the second request still waits for the first one's answer.
        let sleep = "GET /sleep/300 HTTP/1.1\r\nHost: a\r\n\r\n";
        client.send(sleep.repeat(2));
        stand.handlers().wait_for_sleepers(1);
        assert_eq!(client.answer().text(), "slept\n");
        assert_eq!(client.answer().text(), "slept\n");
        drop(client);
        stand.stop();
    }
}

#[test]
fn row_21_a_request_behind_a_refused_one_is_not_answered() {
    check(&[
        Case::answered(
            "after a good one",
            &[200, 400],
            End::Closed,
            [&with("X: a")[..], b"nonsense\r\n\r\n", SMUGGLED.as_bytes()].concat(),
        ),
        Case::answered(
            "after one that closes",
            &[200],
            End::Closed,
            [&with("Connection: close")[..], SMUGGLED.as_bytes()].concat(),
        ),
    ]);
}

#[test]
fn row_26_a_body_is_framed_whatever_the_method() {
    let request = |method: &str, target: &str| {
        format!("{method} {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
    };
    let chunks =
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let looks_like_a_request = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{SMUGGLED}",
        SMUGGLED.len()
    );
    check(&[
        Case::served("GET", request("GET", "/")).text("hello\n"),
        Case::served("GET with chunks", chunks).text("hello\n"),
        Case::served("HEAD", request("HEAD", "/")),
        Case::served("PUT", request("PUT", "/")).text("hello"),
        Case::served("PATCH", request("PATCH", "/")).text("hello"),
        Case::served("DELETE", request("DELETE", "/")).text("hello"),
        Case::answered("OPTIONS", &[204], End::Open, request("OPTIONS", "/")),
        Case::answered(
            "an unknown method",
            &[501],
            End::Closed,
            request("BREW", "/"),
        ),
        Case::answered(
            "no such path",
            &[404],
            End::Open,
            request("GET", "/nowhere"),
        ),
        Case::served("one that looks like a request", looks_like_a_request).text("hello\n"),
    ]);
}

#[test]
fn row_27_an_early_answer_is_not_lost_to_a_reset() {
    // More than the kernel's buffers hold is on its way when the answer is sent.
    let body = vec![b'x'; 700 << 10];
    let refused = |lines: &str| {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n");
        [head.as_bytes(), &body].concat()
    };
    check(&[
        Case::refused("malformed", 400, refused("nonsense")),
        Case::refused("too large", 413, refused("Content-Length: 1099511627776")),
        Case::refused(
            "not in a coding of ours",
            501,
            refused("Transfer-Encoding: gzip, chunked"),
        ),
        Case::refused("no chunks", 400, refused("Transfer-Encoding: chunked")),
    ]);
}

/// A client that reads nothing before it has sent all of its body, as many libraries do: it gets its answer,
/// and the server needs no more memory for it.
#[test]
fn row_27_an_early_answer_waits_for_a_client_that_sends_all_of_its_body_first() {
    const BODY: usize = 24 << 20;
    let block = vec![b'x'; 64 << 10];
    for stand in both("--body-limit 1MiB", "") {
        stand.assert_serves("its start"); // its door is open, and its memory there
        let memory = stand.memory();
        for (path, framing, status) in [
            ("/", format!("Content-Length: {BODY}"), 413),
            ("/nowhere", format!("Content-Length: {}", 1 << 20), 404),
            ("/", "Transfer-Encoding: chunked".to_owned(), 413),
            ("/", "nonsense".to_owned(), 400),
        ] {
            let mut client = stand.connect();
            let mut sender = client.sender();
            client.send(format!(
                "POST {path} HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n"
            ));
            let head = if framing.contains("chunked") {
                format!("{BODY:x}\r\n")
            } else {
                String::new()
            };
            client.send(head);
            for _ in 0..BODY / block.len() {
                sender.write_all(&block).expect("the server reads on");
            }
            let answer = client.answer();
            assert_eq!(answer.status, status, "{}: {path}, {framing}", stand.name);
            assert!(answer.closes(), "{}", answer.head);
        }
        for (before, after) in memory.into_iter().zip(stand.memory()) {
            assert!(after <= before + before / 50, "{before} -> {after} bytes");
        }
        stand.stop();
    }
}

/// The server waits less long for a client that sends next to nothing.
#[test]
fn row_27_who_drips_after_an_early_answer_is_cut() {
    for stand in both("", "") {
        let mut client = stand.connect();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n");
        assert_eq!(client.answer().status, 400);
        let mut sender = client.sender();
        let began = Instant::now();
        // A reset tells of the close.
        while sender.write_all(b"x").is_ok() {
            assert!(began.elapsed() < Duration::from_secs(20), "{}", stand.name);
            std::thread::sleep(Duration::from_millis(50));
        }
        stand.stop();
    }
}

#[test]
fn row_28_what_has_been_received_is_answered_after_a_half_close() {
    let mut cases = named(&["half-close"]);
    let get = with("X: a");
    cases.extend([
        Case::answered(
            "three requests",
            &[200, 200, 200],
            End::Closed,
            get.repeat(3),
        )
        .half_closed(),
        Case::answered(
            "a body",
            &[200],
            End::Closed,
            post("Content-Length: 5", "hello"),
        )
        .half_closed()
        .text("hello"),
        Case::answered(
            "chunks",
            &[200],
            End::Closed,
            chunked("5\r\nhello\r\n0\r\n\r\n"),
        )
        .half_closed()
        .text("hello"),
        Case::answered("nothing", &[], End::Closed, "").half_closed(),
        Case::answered("half a line", &[], End::Closed, "GET / HT").half_closed(),
        Case::answered(
            "half a head",
            &[],
            End::Closed,
            "GET / HTTP/1.1\r\nHost: a\r\n",
        )
        .half_closed(),
        Case::answered(
            "half a body",
            &[],
            End::Closed,
            post("Content-Length: 9", "hello"),
        )
        .half_closed(),
        Case::answered("half a chunk", &[], End::Closed, chunked("9\r\nhello")).half_closed(),
        Case::answered(
            "one and a half",
            &[200],
            End::Closed,
            [&get[..], b"GET / HT"].concat(),
        )
        .half_closed(),
    ]);
    check(&cases);
}

#[test]
fn row_28_half_a_request_asks_no_handler() {
    for stand in both("", "--buckets 1") {
        for part in [
            &b"GET / HTTP/1.1\r\nHost: a\r\n"[..],
            &post("Content-Length: 9", "hello"),
        ] {
            let mut client = stand.connect();
            client.send(part);
            client.half_close();
            assert_eq!(client.try_answer(), Err(Trouble::Closed), "{}", stand.name);
        }
        assert_eq!(stand.front.stop().figure("requests"), 0, "{}", stand.name);
    }
}
