//! Which of several timeouts counts, and from when.

use std::thread;
use std::time::{Duration, Instant};
use transom_tests::client::get;
use transom_tests::{Launch, Server, Trouble};

/// Far longer than the deadlines here, far shorter than the queue timeouts.
const SOON: Duration = Duration::from_secs(3);

#[test]
fn a_deadline_shorter_than_the_queue_timeout_strikes_in_a_handler() {
    let flags = "--loops 1 --buckets 1 --deadline 300ms --queue-timeout 15s";
    let server = Server::start("oom", flags);
    let mut client = server.connect();
    let began = Instant::now();
    client.send(get("/sleep/6000"));
    let answer = client.answer();
    let took = began.elapsed();
    assert!(
        answer.status == 504 && answer.closes(),
        "after {took:?}: {}",
        answer.head
    );
    assert!(
        took >= Duration::from_millis(300) && took < SOON,
        "{took:?}"
    );
}

/// The one bucket sleeps; the next request meets its deadline before it meets a bucket.
fn a_deadline_strikes_while_a_request_waits(flags: &str) {
    let flags = format!("--loops 1 --buckets 1 --deadline 300ms --queue-timeout 15s {flags}");
    let server = Server::start("oom", &flags);
    let mut busy = server.connect();
    busy.send(get("/sleep/6000"));
    server.wait_for_sleepers(1);
    let mut waiting = server.connect();
    let began = Instant::now();
    waiting.send(get("/1"));
    let answer = waiting.answer();
    let took = began.elapsed();
    assert_eq!(
        answer.status, 504,
        "{flags}, after {took:?}: {}",
        answer.head
    );
    assert!(took < SOON, "{flags}: {took:?}");
}

#[test]
fn a_deadline_shorter_than_the_queue_timeout_strikes_while_a_request_waits_for_a_bucket() {
    a_deadline_strikes_while_a_request_waits("");
}

#[test]
fn a_deadline_shorter_than_the_queue_timeout_strikes_while_a_request_waits_for_a_slot() {
    a_deadline_strikes_while_a_request_waits("--slots 1");
}

#[test]
fn an_answer_that_stalls_in_its_handler_is_ended_by_the_deadline() {
    let server = Launch::of_file(env!("CARGO_BIN_EXE_odd"))
        .flags("--loops 1 --buckets 2 --deadline 500ms")
        .start();
    let mut client = server.connect();
    let began = Instant::now();
    client.send(get("/stall"));
    // The end of the connection, and not of the body: the client can tell that this is not all.
    assert_eq!(client.try_answer(), Err(Trouble::Cut));
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(500) && took < SOON,
        "{took:?}"
    );
    assert_eq!(server.get("/fill/1").status, 200, "others are served");
    let began = Instant::now();
    let ended = server.stop();
    assert_eq!((ended.code(), ended.figure("late")), (0, 1));
    assert!(
        began.elapsed() < SOON,
        "a handler that is given up holds up no drain"
    );
}

#[test]
fn a_streamed_answer_that_goes_on_outlives_the_deadline() {
    let server = Launch::of_file(env!("CARGO_BIN_EXE_odd"))
        .flags("--loops 1 --buckets 2 --deadline 500ms")
        .start();
    let mut client = server.connect();
    client.send("POST /early HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
    // It comes in pieces that fill slots, for twice the deadline.
    let piece = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    let began = Instant::now();
    let mut pieces = 0;
    while began.elapsed() < Duration::from_millis(1000) {
        for _ in 0..8 {
            client.send(&piece);
            pieces += 1;
        }
        thread::sleep(Duration::from_millis(50)); // the client's own pace
    }
    client.send("0\r\n\r\n");
    let text = format!("begun\n{} bytes\n", pieces * 0x4000);
    assert_eq!(client.answer().text(), text);
}

#[test]
fn the_time_that_a_head_takes_is_not_charged_to_the_queue_timeout() {
    for slots in ["--slots 1", "--slots 16"] {
        let flags = format!("--loops 1 --buckets 1 --queue-timeout 1500ms {slots}");
        let server = Server::start("oom", &flags);
        let mut slow = server.connect();
        slow.send("GET /1 HTTP/1.1\r\nHost:");
        thread::sleep(Duration::from_millis(1600)); // longer than it may wait for a bucket
        let mut busy = server.connect();
        busy.send(get("/sleep/300"));
        server.wait_for_sleepers(1);
        slow.send(" test\r\n\r\n");
        let answer = slow.answer();
        assert_eq!(answer.status, 200, "{slots}: {}", answer.head);
        assert_eq!(busy.answer().status, 200);
    }
}
