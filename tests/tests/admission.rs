//! More work than there is room for: some clients wait, some are sent away, and none is forgotten.

use std::thread;
use std::time::{Duration, Instant};
use transom_tests::client::get;
use transom_tests::{Client, Kind, Load, Server, Trouble, eventually};

/// Connections whose handlers are all asleep.
fn sleepers(server: &Server, count: usize, ms: u32) -> Vec<Client> {
    let mut clients: Vec<_> = (0..count).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(get(&format!("/sleep/{ms}")));
    }
    server.wait_for_sleepers(count);
    clients
}

fn assert_slept(clients: &mut [Client]) {
    for client in clients {
        let answer = client.answer();
        assert_eq!((answer.status, answer.text()), (200, "slept\n"));
    }
}

/// All buckets sleep longer than anybody may wait: in a slot, or, where these are taken too, on the
/// connection.
fn who_finds_no_bucket_gets_503(flags: &str) {
    let server = Server::start("oom", flags);
    let mut asleep = sleepers(&server, 2, 3000);
    let began = Instant::now();
    let mut waiting: Vec<_> = (0..10).map(|_| server.connect()).collect();
    for client in &mut waiting {
        client.send(get("/10"));
    }
    for client in &mut waiting {
        let answer = client.answer();
        assert_eq!(
            (answer.status, answer.field("retry-after")),
            (503, Some("1")),
            "{}",
            answer.head
        );
    }
    assert!(
        began.elapsed() >= Duration::from_millis(100),
        "they waited as long as they may"
    );
    assert_slept(&mut asleep);
    assert_eq!(server.get("/10").status, 200);
    let ended = server.stop();
    assert_eq!((ended.code(), ended.figure("rejected")), (0, 10));
}

#[test]
fn who_finds_no_bucket_in_time_gets_503_and_when_to_come_again() {
    who_finds_no_bucket_gets_503("--buckets 2 --queue-timeout 100ms");
}

#[test]
fn who_finds_no_slot_in_time_gets_503_and_when_to_come_again() {
    who_finds_no_bucket_gets_503("--buckets 2 --loops 1 --slots 2 --queue-timeout 100ms");
}

#[test]
fn a_connection_that_got_503_in_its_slot_can_ask_again() {
    let server = Server::start("oom", "--buckets 1 --loops 1 --queue-timeout 100ms");
    let mut asleep = sleepers(&server, 1, 1000);
    let mut client = server.connect();
    let mut rejected = 0;
    while client.get("/10").status == 503 {
        rejected += 1;
    }
    assert!(rejected > 0);
    assert_slept(&mut asleep);
}

#[test]
fn a_crowd_that_can_be_served_in_time_is_served_to_the_last() {
    for flags in [
        "--buckets 4 --queue-timeout 10s",
        "--buckets 4 --queue-timeout 10s --slots 4",
        "--buckets 4 --queue-timeout 10s --slots 1 --loops 1",
    ] {
        let server = Server::start("oom", flags);
        let load = Load::new(server.address(), 64, vec![Kind::get("/sleep/5", 200, "")]).total(256);
        let report = load.run();
        assert!(
            report.bad.is_empty() && report.good == [256],
            "{flags}: {report:?}"
        );
        assert!(
            report.took >= Duration::from_millis(256 / 4 * 5),
            "four at a time take longer than {:?}",
            report.took
        );
    }
}

#[test]
fn waiting_takes_no_thread_and_no_memory() {
    let server = Server::start("oom", "--buckets 4 --queue-timeout 10s");
    let mut asleep = sleepers(&server, 4, 1000);
    let before = server.sample();
    let mut waiting: Vec<_> = (0..200).map(|_| server.connect()).collect();
    for client in &mut waiting {
        client.send(get("/1"));
    }
    assert!(eventually(
        || server.sample().descriptors == before.descriptors + 200
    ));
    let after = server.sample();
    assert_eq!(
        (after.threads, after.mappings),
        (before.threads, before.mappings)
    );
    assert!(
        after.rss <= before.rss + before.rss / 100,
        "{before:?}, {after:?}"
    );
    assert_slept(&mut asleep);
    for client in &mut waiting {
        assert_eq!(client.answer().status, 200);
    }
}

#[test]
fn a_request_past_its_deadline_gets_504_and_its_bucket_serves_again() {
    let server = Server::start("oom", "--buckets 1 --deadline 200ms --queue-timeout 100ms");
    let mut client = server.connect();
    client.send(get("/sleep/1000"));
    let answer = client.answer();
    assert!(answer.status == 504 && answer.closes(), "{}", answer.head);
    assert!(client.is_closed());
    server.wait_for_sleepers(1); // still: a handler is not interrupted
    assert!(
        eventually(|| server.get("/10").status == 200),
        "its bucket serves again"
    );
    let ended = server.stop();
    assert_eq!((ended.code(), ended.figure("late")), (0, 1));
}

#[test]
fn a_new_connection_takes_the_place_of_one_that_is_idle() {
    let server = Server::start("oom", "--connections 4 --loops 1 --buckets 4");
    let mut idle: Vec<_> = (0..4).map(|_| server.connect()).collect();
    for client in &mut idle {
        assert_eq!(client.get("/1").status, 200);
    }
    let mut new = server.connect();
    assert_eq!(new.get("/1").status, 200);
    assert!(idle[0].is_closed(), "the one that was idle the longest");
    for client in &mut idle[1..] {
        assert_eq!(client.get("/1").status, 200);
    }
}

#[test]
fn a_new_connection_waits_for_those_that_are_busy() {
    let server = Server::start("oom", "--connections 4 --loops 1 --buckets 4");
    let mut busy = sleepers(&server, 4, 300);
    let mut new = server.connect();
    new.send(get("/1"));
    // They keep their connections, which are idle now.
    assert_slept(&mut busy);
    assert_eq!(new.answer().status, 200);
}

#[test]
fn of_many_more_clients_than_connections_allowed_none_hangs() {
    let server = Server::start(
        "oom",
        "--connections 8 --loops 2 --buckets 2 --queue-timeout 10s",
    );
    let outcomes: Vec<_> = thread::scope(|scope| {
        let ask = || {
            let mut client = server.connect();
            client.try_send("GET /sleep/1 HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
            client.try_answer().map(|answer| answer.status)
        };
        let clients: Vec<_> = (0..100).map(|_| scope.spawn(ask)).collect();
        clients
            .into_iter()
            .map(|client| client.join().expect("no panic"))
            .collect()
    });
    // Whose request had not arrived when another came may have been taken for idle, and closed.
    let closed =
        |outcome: &&Result<u16, Trouble>| matches!(outcome, Err(Trouble::Closed | Trouble::Reset));
    let served = outcomes
        .iter()
        .filter(|outcome| **outcome == Ok(200))
        .count();
    assert_eq!(
        served + outcomes.iter().filter(closed).count(),
        100,
        "{outcomes:?}"
    );
    assert!(served >= 50, "{served} of 100 were served");
    assert_eq!(server.get("/1").status, 200);
    assert_eq!(server.stop().code(), 0);
}

/// Where the process has no descriptor left for a new connection, one that is idle makes room for it.
#[test]
fn a_new_connection_has_the_descriptor_of_an_idle_one() {
    let server = Server::start("hello", "--buckets 2 --loops 1 --connections 50");
    let mut idle: Vec<_> = (0..8).map(|_| server.connect()).collect();
    for client in &mut idle {
        assert_eq!(client.get("/hello/a").status, 200);
    }
    let highest = std::fs::read_dir(format!("/proc/{}/fd", server.pid()))
        .expect("its descriptors")
        .map(|entry| entry.expect("an entry").file_name())
        .map(|name| {
            name.to_str()
                .and_then(|name| name.parse().ok())
                .unwrap_or(0)
        })
        .max();
    let limit = libc::rlimit {
        rlim_cur: highest.unwrap_or(0) + 1,
        rlim_max: highest.unwrap_or(0) + 1,
    };
    // SAFETY: the limit is read during the call, and nothing is written.
    let done = unsafe {
        libc::prlimit(
            server.pid() as i32,
            libc::RLIMIT_NOFILE,
            &raw const limit,
            std::ptr::null_mut(),
        )
    };
    assert_eq!(done, 0);
    // More than there are gaps below the limit, and idle ones.
    for _ in 0..30 {
        let mut client = server.connect();
        assert_eq!(client.get("/hello/b").status, 200);
        idle.push(client);
    }
    // Also where all others have just been answered, and will ask again.
    for _ in 0..10 {
        for client in &mut idle {
            if client.try_send(get("/hello/c")) {
                let _ = client.try_answer();
            }
        }
        let mut client = server.connect();
        thread::sleep(Duration::from_millis(20)); // the client's own pace
        client.send(get("/hello/d"));
        assert_eq!(client.answer().status, 200);
    }
    let complaints = |line: &&String| line.contains("cannot accept connections");
    assert!(server.lines().iter().filter(complaints).count() <= 1);
}
