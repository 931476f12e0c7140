//! Bodies: of known length, in chunks, larger than their slot, larger than allowed, and those that wait to be
//! asked for.

use std::io::Write;
use std::thread;
use std::time::Duration;
use transom_tests::{Answer, Client, Sample, Server, Trouble};

const MIB: usize = 1 << 20;

/// A POST with fields and without its body.
fn post(path: &str, fields: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: test\r\n{fields}\r\n")
}

/// Bytes of which each 64 KiB differ from the last.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8).collect()
}

/// As chunks of a few sizes, with and without extensions, and a trailer.
fn chunked(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = body;
    for size in [1, 10, 1000, 4096, 70_000].into_iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (chunk, others) = rest.split_at(size.min(rest.len()));
        let extension = if size == 10 { ";name=\"value\"" } else { "" };
        out.extend(format!("{:X}{extension}\r\n", chunk.len()).into_bytes());
        out.extend(chunk);
        out.extend(b"\r\n");
        rest = others;
    }
    out.extend(b"0\r\nX-Trailer: dropped\r\n\r\n");
    out
}

/// Sends in one thread and reads in another, as a client must whose server answers while it is still sent to.
fn send_while_reading(client: &mut Client, head: String, body: Vec<u8>) -> Answer {
    let shown = format!("{} bytes after {head:?}", body.len());
    let mut sender = client.sender();
    let sending = thread::spawn(move || {
        sender.write_all(head.as_bytes())?;
        sender.write_all(&body)
    });
    let answer = client
        .try_answer()
        .unwrap_or_else(|trouble| panic!("{trouble:?}: {shown}"));
    sending
        .join()
        .expect("no panic")
        .unwrap_or_else(|error| panic!("{error}: {shown}"));
    answer
}

#[test]
fn a_body_comes_back_as_it_was_sent_whatever_its_size_and_framing() {
    let server = Server::start("echo", "--buckets 4 --bucket-size 8MiB");
    let mut client = server.connect();
    for len in [
        0, 1, 100, 10_000, 40_000, 65_535, 65_536, 65_537, 100_000, MIB,
    ] {
        let body = pattern(len);
        for path in ["/", "/stream"] {
            for (framing, sent) in [
                (format!("Content-Length: {len}\r\n"), body.clone()),
                ("Transfer-Encoding: chunked\r\n".to_owned(), chunked(&body)),
            ] {
                let answer = send_while_reading(&mut client, post(path, &framing), sent);
                assert!(
                    answer.status == 200 && answer.body == body,
                    "{len} bytes to {path}: {}",
                    answer.head
                );
                if answer.closes() {
                    assert_eq!(
                        path, "/stream",
                        "only an answer that begins before its request has ended"
                    );
                    client = server.connect();
                }
            }
        }
    }
}

#[test]
fn a_body_larger_than_its_bucket_gets_413_where_it_is_collected_and_passes_where_it_streams() {
    let server = Server::start("echo", "--buckets 2 --bucket-size 512KiB");
    let body = pattern(MIB);
    let mut client = server.connect();
    let mut sender = client.sender();
    let head = post("/", &format!("Content-Length: {MIB}\r\n"));
    let sending = thread::spawn({
        let body = body.clone();
        move || {
            let _ = sender.write_all(head.as_bytes());
            let _ = sender.write_all(&body);
        }
    });
    let answer = client.answer();
    assert!(answer.status == 413 && answer.closes(), "{}", answer.head);
    sending.join().expect("no panic");
    let head = post("/stream", &format!("Content-Length: {MIB}\r\n"));
    assert_eq!(
        send_while_reading(&mut server.connect(), head, body.clone()).body,
        body
    );
}

#[test]
fn twenty_mebibytes_stream_up_and_down_at_constant_memory() {
    let server = Server::start("echo", "--buckets 4");
    let before = Sample::at_rest(server.pid());
    let body = pattern(20 * MIB);
    for _ in 0..3 {
        let head = post("/stream", &format!("Content-Length: {}\r\n", body.len()));
        let answer = send_while_reading(&mut server.connect(), head, body.clone());
        assert!(
            answer.status == 200 && answer.body == body,
            "{}",
            answer.head
        );
        let head = post("/stream", "Transfer-Encoding: chunked\r\n");
        let answer = send_while_reading(&mut server.connect(), head, chunked(&body));
        assert!(
            answer.status == 200 && answer.body == body,
            "{}",
            answer.head
        );
    }
    let after = Sample::at_rest(server.pid());
    let change = after.rss.abs_diff(before.rss);
    assert!(
        change <= before.rss / 100,
        "RSS {} KiB -> {} KiB",
        before.rss >> 10,
        after.rss >> 10
    );
    let ended = server.stop();
    assert_eq!(
        (ended.code(), ended.figure("process_heap_allocations")),
        (0, 0)
    );
}

#[test]
fn a_body_over_the_limit_gets_413_before_it_is_read() {
    let server = Server::start("echo", "--buckets 4 --body-limit 10KiB");
    let mut client = server.connect();
    client.send(post("/", "Content-Length: 10241\r\n"));
    let answer = client.answer();
    assert!(answer.status == 413 && answer.closes(), "{}", answer.head);
    assert!(client.is_closed());
    assert_eq!(
        server.post("/", pattern(10_240)).body.len(),
        10_240,
        "the limit itself is allowed"
    );

    for path in ["/", "/stream"] {
        let mut client = server.connect();
        client.try_send(post(path, "Transfer-Encoding: chunked\r\n"));
        client.try_send(format!("2801\r\n{}\r\n0\r\n\r\n", "x".repeat(10_241)));
        match client.try_answer() {
            Ok(answer) => assert_eq!(answer.status, 413, "{path}"),
            // A handler that streams may have begun its answer by then.
            Err(trouble) => {
                assert!(
                    matches!(trouble, Trouble::Cut) && path == "/stream",
                    "{path}: {trouble:?}"
                );
            }
        }
    }
}

#[test]
fn who_asks_before_sending_is_told_to_go_on() {
    let server = Server::start("echo", "--buckets 4");
    let mut client = server.connect();
    for (path, framing, body) in [
        ("/", "Content-Length: 5\r\n", "hello"),
        ("/stream", "Content-Length: 5\r\n", "hello"),
        (
            "/",
            "Transfer-Encoding: chunked\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
        ),
        (
            "/stream",
            "Transfer-Encoding: chunked\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
        ),
    ] {
        client.send(post(path, &format!("{framing}Expect: 100-continue\r\n")));
        assert_eq!(client.answer().status, 100, "{path} {framing}");
        client.send(body);
        let answer = client.answer();
        assert_eq!(
            (answer.status, answer.text()),
            (200, "hello"),
            "{path} {framing}"
        );
    }
}

#[test]
fn who_asks_before_sending_a_body_larger_than_its_slot_is_told_to_go_on_once() {
    let server = Server::start("echo", "--buckets 4 --bucket-size 4MiB");
    let body = pattern(MIB);
    for path in ["/", "/stream"] {
        let mut client = server.connect();
        client.send(post(
            path,
            &format!("Content-Length: {MIB}\r\nExpect: 100-continue\r\n"),
        ));
        assert_eq!(client.answer().status, 100, "{path}");
        let answer = send_while_reading(&mut client, String::new(), body.clone());
        assert!(
            answer.status == 200 && answer.body == body,
            "{path}: {}",
            answer.head
        );
    }
}

#[test]
fn who_asks_before_sending_too_much_is_refused_without_being_told_to_go_on() {
    let server = Server::start("echo", "--buckets 4 --body-limit 10KiB");
    let mut client = server.connect();
    client.send(post(
        "/",
        "Content-Length: 20000\r\nExpect: 100-continue\r\n",
    ));
    assert_eq!(client.answer().status, 413);
    assert!(client.is_closed());
    // HTTP/1.0 does not know what to do with a 100.
    let mut client = server.connect();
    client.send("POST / HTTP/1.0\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    assert!(client.hears_nothing_for(Duration::from_millis(50)));
    client.send("hi");
    assert_eq!(client.answer().text(), "hi");
}

#[test]
fn a_body_nobody_wants_does_not_spoil_the_next_request() {
    let server = Server::start("hello", "--buckets 4");
    let mut client = server.connect();
    client.send("GET / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(client.answer().status, 200);
    assert_eq!(client.post("/", "hello").status, 405);
    assert_eq!(client.get("/json").status, 200);
    // One that will not be read to its end is answered, and the connection closed; the answer is not lost to
    // a reset.
    let mut client = server.connect();
    client.send(post("/", &format!("Content-Length: {MIB}\r\n")));
    client.try_send(pattern(MIB / 2));
    let answer = client.answer();
    assert!(
        matches!(answer.status, 405 | 413) && answer.closes(),
        "{}",
        answer.head
    );
}

#[test]
fn a_client_that_does_not_read_its_answer_holds_up_nobody_and_is_let_go() {
    let server = Server::start(
        "echo",
        "--buckets 1 --loops 1 --write-timeout 300ms --queue-timeout 10s",
    );
    let mut client = server.connect();
    let mut sender = client.sender();
    let body = pattern(8 * MIB);
    // It will be stuck until the server lets go of it.
    let sending = thread::spawn(move || {
        let _ = sender
            .write_all(post("/stream", &format!("Content-Length: {}\r\n", 8 * MIB)).as_bytes());
        let _ = sender.write_all(&body);
    });
    sending.join().expect("no panic");
    assert_eq!(
        server.post("/", "hello").text(),
        "hello",
        "its bucket is free again"
    );
    assert!(client.try_answer().is_err(), "its answer was cut");
}
