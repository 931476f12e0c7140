//! Unusual bodies: larger than one read, announced and never sent, or not allowed at all.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};
use transom_tests::client::get;
use transom_tests::{Answer, Client, Launch, Server};

fn odd(flags: &str) -> Server {
    Launch::of_file(env!("CARGO_BIN_EXE_odd"))
        .flags(flags)
        .start()
}

/// Chunks of a thousand bytes, each of which differs from its neighbours.
fn chunked(len: usize) -> (Vec<u8>, Vec<u8>) {
    let body: Vec<u8> = (0..len).map(|n| (n ^ (n >> 8)) as u8).collect();
    let mut sent = Vec::new();
    for chunk in body.chunks(1000) {
        sent.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        sent.extend(chunk);
        sent.extend(b"\r\n");
    }
    sent.extend(b"0\r\n\r\n");
    (body, sent)
}

/// Sends in one thread and reads in another, as a client must whose server answers while it is still sent to.
fn send_while_reading(client: &mut Client, bytes: Vec<u8>) -> Answer {
    let mut sender = client.sender();
    let sending = thread::spawn(move || sender.write_all(&bytes));
    let answer = client.answer();
    let sent = sending.join().expect("no panic");
    sent.expect("the server takes what is sent");
    answer
}

#[test]
fn a_chunked_upload_that_arrives_in_one_write_larger_than_one_read_is_answered() {
    let server = Server::start("echo", "--loops 1 --buckets 4 --bucket-size 1MiB");
    for path in ["/", "/stream"] {
        let head = format!("POST {path} HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n");
        for len in [8_000, 16_000, 20_000, 33_000, 60_000, 100_000] {
            let (body, chunks) = chunked(len);
            let mut client = server.connect();
            let with_head = [format!("{head}\r\n").as_bytes(), &chunks].concat();
            let answer = send_while_reading(&mut client, with_head);
            assert!(
                answer.status == 200 && answer.body == body,
                "{len} bytes to {path}, with the head: {}",
                answer.head
            );
            // The whole body at once, into a server that has just asked for it.
            let mut client = server.connect();
            client.send(format!("{head}Expect: 100-continue\r\n\r\n"));
            assert_eq!(client.answer().status, 100, "{len} bytes to {path}");
            let answer = send_while_reading(&mut client, chunks);
            assert!(
                answer.status == 200 && answer.body == body,
                "{len} bytes to {path}, after the head: {}",
                answer.head
            );
        }
    }
}

#[test]
fn what_follows_a_chunked_upload_in_the_same_write_is_the_next_request() {
    let server = Server::start("echo", "--loops 1 --buckets 4");
    let head = "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
    let next = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nnext";
    for len in [15_000, 20_000, 40_000] {
        let (body, chunks) = chunked(len);
        let mut client = server.connect();
        let bytes = [head.as_bytes(), &chunks, next.as_bytes()].concat();
        assert!(
            send_while_reading(&mut client, bytes).body == body,
            "{len} bytes"
        );
        assert_eq!(client.answer().text(), "next", "after {len} bytes");
    }
}

#[test]
fn no_100_continue_is_sent_in_the_middle_of_an_answer() {
    let server = odd("--loops 1 --buckets 2");
    for len in [1000, 60_000, 200_000] {
        let (_, chunks) = chunked(len);
        for (framing, body) in [
            (format!("Content-Length: {len}\r\n"), vec![b'x'; len]),
            ("Transfer-Encoding: chunked\r\n".to_owned(), chunks),
        ] {
            let mut client = server.connect();
            client.send(format!(
                "POST /early HTTP/1.1\r\nHost: test\r\n{framing}Expect: 100-continue\r\n\r\n"
            ));
            // The handler begins its answer before it reads: had it begun already, it would be too late to
            // ask.
            let interim = client.answer();
            assert_eq!(interim.status, 100, "{framing}: {}", interim.head);
            let answer = send_while_reading(&mut client, body);
            assert_eq!(answer.status, 200, "{framing}: {}", answer.head);
            assert_eq!(answer.text(), format!("begun\n{len} bytes\n"), "{framing}");
        }
    }
}

#[test]
fn a_204_or_304_has_no_body_whatever_its_handler_sends_and_the_next_request_is_answered() {
    let server = odd("--buckets 2");
    for status in [204, 304] {
        for path in ["stream/", "bytes/", "bytes/"]
            .iter()
            .zip(["", "/1", "/100"])
            .map(|(kind, size)| format!("/{kind}{status}{size}"))
        {
            let mut client = server.connect();
            for _ in 0..3 {
                let answer = client.get(&path);
                assert_eq!(answer.status, status, "{path}: {}", answer.head);
                assert!(!answer.closes(), "{path}: {}", answer.head);
                assert_eq!(
                    answer.count("transfer-encoding"),
                    0,
                    "{path}: {}",
                    answer.head
                );
                if status == 204 {
                    assert_eq!(answer.count("content-length"), 0, "{path}: {}", answer.head);
                }
                // Any byte of a body would be taken for the head of this one.
                assert_eq!(client.get("/fill/1").text(), "1024 bytes\n", "after {path}");
            }
            // All in one write: no answer may be cut off or overtaken.
            client.send([get(&path), get("/fill/1"), get(&path), get("/fill/2")].concat());
            assert_eq!(client.answer().status, status, "{path}");
            assert_eq!(client.answer().text(), "1024 bytes\n", "after {path}");
            assert_eq!(client.answer().status, status, "{path}");
            assert_eq!(client.answer().text(), "2048 bytes\n", "after {path}");
        }
    }
}

/// Three hundred clients announce a body, send two bytes of it, and from then on a byte now and then; others
/// ask for `/`.
fn slow_bodies_keep_nobody_from_an_answer(len: usize) {
    let server = Server::start("hello", "--loops 1");
    let began = Instant::now();
    let mut slow: Vec<_> = (0..300).map(|_| server.connect()).collect();
    let head = format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {len}\r\n\r\n");
    for client in &mut slow {
        client.send(&head);
        client.send("xx");
    }
    for round in 0..5 {
        for _ in 0..10 {
            let answer = server.get("/");
            assert_eq!(
                answer.status, 200,
                "beside bodies of {len} bytes, round {round}: {}",
                answer.head
            );
        }
        for client in &mut slow {
            client.try_send("x"); // some have been sent away with a 408 to make room
        }
    }
    let took = began.elapsed();
    assert!(
        took < Duration::from_secs(10),
        "it took {took:?}, so that slow bodies may have timed out"
    );
    drop(slow); // a drain would give their bodies the time to arrive
    assert_eq!(server.stop().figure("rejected"), 0);
}

#[test]
fn three_hundred_slow_bodies_that_fit_a_buffer_keep_nobody_from_an_answer() {
    slow_bodies_keep_nobody_from_an_answer(8192);
}

#[test]
fn three_hundred_slow_bodies_that_need_a_slot_keep_nobody_from_an_answer() {
    slow_bodies_keep_nobody_from_an_answer(40_000);
}

#[test]
fn three_hundred_slow_bodies_larger_than_a_slot_keep_nobody_from_an_answer() {
    slow_bodies_keep_nobody_from_an_answer(1_000_000);
}
