//! How a server ends: it finishes what it has begun, takes up nothing new, and lets no client wait for ever.

use std::time::{Duration, Instant};
use transom_tests::client::get;
use transom_tests::{Client, Server, Trouble, eventually};

fn draining(flags: &str, sleep_ms: u32) -> (Server, Client) {
    let server = Server::start("oom", flags);
    let mut client = server.connect();
    client.send(get(&format!("/sleep/{sleep_ms}")));
    server.wait_for_sleepers(1);
    (server, client)
}

fn a_request_in_progress_is_finished(signal: libc::c_int) {
    let (server, mut busy) = draining("--buckets 4 --log-level info", 500);
    let mut idle = server.connect();
    assert_eq!(idle.get("/1").status, 200);
    let mut half = server.connect();
    half.send("GET /1 HT");
    server.signal(signal);
    let _ = server.line_with("draining");
    assert!(idle.is_closed(), "an idle connection is closed");
    assert_eq!(
        half.try_answer(),
        Err(Trouble::Closed),
        "half a head is no request"
    );
    assert!(
        eventually(|| Client::try_connect(server.address()).is_err()),
        "new connections are refused"
    );
    let answer = busy.answer();
    assert_eq!((answer.status, answer.text()), (200, "slept\n"));
    assert!(answer.closes() && busy.is_closed(), "{}", answer.head);
    let ended = server.wait();
    assert_eq!(
        (ended.code(), ended.figure("process_heap_allocations")),
        (0, 0)
    );
}

#[test]
fn sigterm_lets_a_request_in_progress_finish_and_takes_no_other() {
    a_request_in_progress_is_finished(libc::SIGTERM);
}

#[test]
fn sigint_lets_a_request_in_progress_finish_and_takes_no_other() {
    a_request_in_progress_is_finished(libc::SIGINT);
}

#[test]
fn a_server_with_nothing_to_do_ends_at_once() {
    let server = Server::start("hello", "--buckets 4 --drain-timeout 1h");
    let mut idle: Vec<_> = (0..50).map(|_| server.connect()).collect();
    assert_eq!(idle[0].get("/").status, 200);
    assert_eq!(server.stop().code(), 0);
    assert!(
        idle.iter_mut()
            .all(|client| client.rest() != Err(Trouble::Late))
    );
}

#[test]
fn a_body_that_is_on_its_way_may_arrive() {
    let server = Server::start("echo", "--buckets 4");
    let mut client = server.connect();
    client
        .send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.answer().status, 100);
    client.send("he");
    server.signal(libc::SIGTERM);
    let _ = server.line_with("draining");
    client.send("llo");
    let answer = client.answer();
    assert!(
        answer.text() == "hello" && answer.closes(),
        "{}",
        answer.head
    );
    assert_eq!(server.wait().code(), 0);
}

#[test]
fn requests_that_wait_for_a_bucket_are_still_served() {
    let (server, mut busy) = draining("--buckets 1 --loops 1 --queue-timeout 10s", 300);
    let mut waiting: Vec<_> = (0..5).map(|_| server.connect()).collect();
    for client in &mut waiting {
        client.send(get("/1"));
    }
    // A connection of the same loop that comes after them is answered, so they have been read.
    assert_eq!(
        server
            .answer_to("OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n")
            .status,
        204
    );
    server.signal(libc::SIGTERM);
    assert_eq!(busy.answer().status, 200);
    for client in &mut waiting {
        let answer = client.answer();
        assert!(answer.status == 200 && answer.closes(), "{}", answer.head);
    }
    assert_eq!(server.wait().code(), 0);
}

#[test]
fn past_the_drain_timeout_requests_are_cut_and_the_status_says_so() {
    let (server, mut busy) = draining("--buckets 4 --drain-timeout 200ms", 15_000);
    let began = Instant::now();
    let ended = server.stop();
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "it waited for the handler"
    );
    assert_eq!((ended.code(), ended.figure("cut")), (1, 1));
    assert!(
        ended.stderr().contains("requests were cut") && ended.stderr().contains("--drain-timeout"),
        "{}",
        ended.stderr()
    );
    assert!(busy.try_answer().is_err());
}

#[test]
fn a_second_signal_ends_the_drain_at_once() {
    for second in [libc::SIGTERM, libc::SIGINT] {
        let (server, mut busy) = draining("--buckets 4 --drain-timeout 1h", 30_000);
        server.signal(libc::SIGTERM);
        let _ = server.line_with("draining");
        let began = Instant::now();
        server.signal(second);
        let ended = server.wait();
        assert!(began.elapsed() < Duration::from_secs(10));
        assert_eq!(ended.code(), 1);
        assert!(busy.try_answer().is_err());
    }
}

#[test]
fn a_client_that_lingers_does_not_hold_up_the_end() {
    let server = Server::start("hello", "--buckets 4 --drain-timeout 1h");
    // It was refused, has not closed its side, and says nothing more.
    let mut client = server.connect();
    client.send("nonsense\r\n\r\n");
    assert_eq!(client.answer().status, 400);
    let began = Instant::now();
    assert_eq!(server.stop().code(), 0);
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn a_request_that_arrived_before_the_signal_is_answered() {
    for _ in 0..10 {
        let server = Server::start("hello", "--buckets 4 --loops 1");
        let mut clients: Vec<_> = (0..5).map(|_| server.connect()).collect();
        for client in &mut clients {
            assert!(!client.get("/").closes());
        }
        // It sees requests and signal at the same time.
        server.signal(libc::SIGSTOP);
        for client in &mut clients {
            client.send(get("/"));
        }
        server.signal(libc::SIGTERM);
        server.signal(libc::SIGCONT);
        for client in &mut clients {
            let answer = client.answer();
            assert_eq!((answer.status, answer.text()), (200, "hello, world\n"));
        }
        assert_eq!(server.wait().code(), 0);
    }
}

#[test]
fn half_a_head_that_comes_during_a_drain_is_cut_at_once() {
    let (server, mut busy) = draining("--buckets 4 --drain-timeout 1h --header-timeout 1h", 500);
    let mut pipelined = server.connect();
    pipelined.send(get("/sleep/300") + "GET /1 HT");
    server.wait_for_sleepers(2);
    let began = Instant::now();
    server.signal(libc::SIGTERM);
    assert_eq!(pipelined.answer().status, 200);
    assert_eq!(busy.answer().status, 200);
    assert!(pipelined.is_closed() && busy.is_closed());
    assert_eq!(server.wait().code(), 0);
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn the_sentence_at_the_end_says_what_was_cut() {
    let (server, _busy) = draining("--buckets 4 --drain-timeout 200ms", 15_000);
    let ended = server.stop();
    let sentence = |part: &str| {
        let line = ended.lines.iter().find(|line| line.contains("were cut"));
        line.is_some_and(|line| line.contains(part))
    };
    assert!(
        ended.code() == 1 && sentence(" cut=1 heads=0 bodies=0 calls=1 answers=0"),
        "{}",
        ended.stderr()
    );

    let server = Server::start("echo", "--buckets 4 --drain-timeout 200ms");
    let mut client = server.connect();
    client.send(
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 40000\r\nExpect: 100-continue\r\n\r\n",
    );
    assert_eq!(client.answer().status, 100);
    let ended = server.stop();
    assert!(
        ended.code() == 1
            && ended
                .stderr()
                .contains(" cut=1 heads=0 bodies=1 calls=0 answers=0"),
        "{}",
        ended.stderr()
    );
}

#[test]
fn for_the_drain_delay_it_is_not_ready_and_still_serves_whoever_comes() {
    let flags = "--buckets 4 --admin 127.0.0.1:0 --drain-delay 1h";
    let server = Server::start("hello", flags);
    let ready = || {
        let mut admin = transom_tests::client::Client::connect(server.admin());
        (admin.get("/ready").status, admin.get("/health").status)
    };
    assert_eq!(ready(), (200, 200));
    let mut kept = server.connect();
    assert_eq!(kept.get("/").status, 200);
    server.signal(libc::SIGTERM);
    let said = server.line_with("not ready any more, and still accepting");
    assert!(said.contains("--drain-delay"), "{said}");
    assert_eq!(ready(), (503, 200));
    // These are no second signal.
    server.signal(libc::SIGHUP);
    server.signal(libc::SIGUSR2);
    let _ = server.line_with("SIGUSR2: no new instance is started");
    assert_eq!(server.get("/").status, 200);
    assert_eq!(kept.get("/").status, 200);
    assert!(
        !server
            .lines()
            .iter()
            .any(|line| line.contains(" draining "))
    );
    server.signal(libc::SIGTERM);
    let _said = server.line_with("draining");
    assert_eq!(server.wait().code(), 0);
}

#[test]
fn after_the_drain_delay_it_drains_by_itself() {
    let server = Server::start("hello", "--buckets 4 --drain-delay 50ms");
    let ended = server.stop();
    assert_eq!(ended.code(), 0);
    let said = ended.stderr();
    let delay = said.find("still accepting").expect("it is said");
    assert!(
        said.find(" draining ").is_some_and(|at| at > delay),
        "{said}"
    );
}

#[test]
fn without_a_flag_a_drain_is_shorter_than_the_patience_of_docker_stop() {
    let server = Server::start("hello", "--buckets 4");
    let ended = server.stop();
    let said = ended.stderr();
    assert!(said.contains("draining timeout_ms=8000"), "{said}");
}
