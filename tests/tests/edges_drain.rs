//! The last moments of a drain: clients that may not hold it up any more, and costs that it may not have.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use transom_tests::client::get;
use transom_tests::{Client, Launch, Server, eventually};

/// Half of `--drain-timeout`, which is 10 s in these tests. A drain that misses its end takes all 10 s.
const PROMPT: Duration = Duration::from_secs(5);

fn assert_prompt(began: Instant) {
    let took = began.elapsed();
    assert!(took < PROMPT, "the drain took {took:?}");
}

#[test]
fn a_drain_ends_promptly_though_the_connection_of_its_last_request_lingers() {
    let server = Server::start("oom", "--loops 1 --slots 1 --buckets 1 --drain-timeout 10s");
    let mut client = server.connect();
    client.send(get("/sleep/300"));
    server.wait_for_sleepers(1);
    let began = Instant::now();
    server.signal(libc::SIGTERM);
    let answer = client.answer();
    assert!(
        answer.text() == "slept\n" && answer.closes(),
        "{}",
        answer.head
    );
    // It has its answer, and keeps its side of the connection open.
    let ended = server.wait();
    assert_prompt(began);
    assert_eq!((ended.code(), ended.figure("cut")), (0, 0));
    drop(client);
}

#[test]
fn a_drain_ends_promptly_when_the_client_of_its_last_request_closes() {
    let server = Server::start("oom", "--loops 1 --buckets 1 --drain-timeout 10s");
    let mut client = server.connect();
    client.send(get("/sleep/300"));
    server.wait_for_sleepers(1);
    let began = Instant::now();
    server.signal(libc::SIGTERM);
    assert_eq!(client.answer().status, 200);
    drop(client);
    let ended = server.wait();
    assert_prompt(began);
    assert_eq!((ended.code(), ended.figure("cut")), (0, 0));
}

#[test]
fn a_drain_ends_promptly_when_its_last_request_times_out() {
    // More than a buffer holds, so that it has a slot.
    for len in [10, 40_000] {
        let flags = "--loops 1 --body-timeout 500ms --header-timeout 500ms --drain-timeout 10s";
        let server = Server::start("echo", flags);
        let mut client = server.connect();
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {len}\r\nExpect: 100-continue\r\n\r\n"
        ));
        assert_eq!(client.answer().status, 100, "it has been read");
        let began = Instant::now();
        server.signal(libc::SIGTERM);
        // Another test checks the answer to a body that is not there yet; this one, that the server ends.
        let _ = client.try_answer();
        let ended = server.wait();
        assert_prompt(began);
        assert_eq!(ended.code(), 0, "{len} bytes");
    }
}

#[test]
fn a_keep_alive_answer_that_is_written_after_sigterm_does_not_keep_the_drain_waiting() {
    const KIB: usize = 16 << 10;
    let server = Launch::of_file(env!("CARGO_BIN_EXE_odd"))
        .flags("--loops 1 --buckets 1 --drain-timeout 10s --idle-timeout 1h")
        .start();
    let mut stream = TcpStream::connect(server.address()).expect("the server listens");
    let request = get(&format!("/long/{KIB}"));
    stream.write_all(request.as_bytes()).expect("it is taken");
    // The head is out, and promises to stay; the body is more than the kernel holds for a client that does
    // not read.
    let mut start = vec![0; 4096];
    stream.read_exact(&mut start).expect("an answer begins");
    let at = start.windows(4).position(|end| end == b"\r\n\r\n");
    let head_len = at.expect("the head is whole") + 4;
    let head = String::from_utf8_lossy(&start[..head_len]).to_ascii_lowercase();
    assert!(
        head.starts_with("http/1.1 200") && !head.contains("connection: close"),
        "{head}"
    );

    let began = Instant::now();
    server.signal(libc::SIGTERM);
    let refused = || Client::try_connect(server.address()).is_err();
    assert!(eventually(refused), "the loop has heard of the drain");
    let mut left = vec![0; head_len + (KIB << 10) - start.len()];
    stream
        .read_exact(&mut left)
        .expect("what has begun is finished");
    let ended = server.wait();
    assert_prompt(began);
    assert_eq!((ended.code(), ended.figure("cut")), (0, 0));
    drop(stream);
}

#[test]
fn what_is_cut_at_the_end_of_a_drain_is_cut_without_an_allocation() {
    let flags = "--loops 1 --buckets 4 --slots 32 --drain-timeout 200ms --queue-timeout 1h";
    let server = Server::start("oom", flags);
    let mut clients: Vec<_> = (0..24).map(|_| server.connect()).collect();
    // Four are in a handler, the others in their slots.
    for client in &mut clients {
        client.send(get("/sleep/20000"));
    }
    server.wait_for_sleepers(4);
    let asked = server.answer_to("OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(asked.status, 204, "the others have been read");
    let began = Instant::now();
    let ended = server.stop();
    assert_prompt(began);
    assert_eq!((ended.code(), ended.figure("cut")), (1, 24));
    assert_eq!(ended.figure("process_heap_allocations"), 0);
}
