//! Rows 30 to 33: slow clients, many clients, and the end. Limits by rate, by address and by slowness have
//! tests of their own.

use crate::stand::{Stand, both, post, to, with};
use std::time::Duration;
use transom_tests::{Client, Trouble, eventually};

#[test]
fn row_30_a_head_has_its_time_from_its_first_byte_to_its_last() {
    for stand in both("--header-timeout 300ms --idle-timeout 1h", "--buckets 1") {
        let mut silent = stand.connect();
        silent.send("GET / HTTP/1.1\r\nHost: a");
        let answer = silent.answer();
        assert!(answer.status == 408 && answer.closes(), "{}", answer.head);
        assert!(silent.is_closed(), "{}", stand.name);
        // A byte now and then does not prolong it.
        let mut drip = stand.connect();
        drip.send("GET / HTTP/1.1\r\nX: ");
        let mut dripped = 0;
        while drip.hears_nothing_for(Duration::from_millis(20)) && drip.try_send("x") {
            dripped += 1;
            assert!(
                dripped < 500,
                "{}: a head that drips is not cut",
                stand.name
            );
        }
        assert_eq!(drip.answer().status, 408, "{}", stand.name);
        stand.assert_serves("slow heads");
        stand.stop();
    }
}

#[test]
fn row_30_a_connection_that_says_nothing_is_closed_without_a_word() {
    for stand in both("--idle-timeout 300ms", "--buckets 1") {
        assert!(stand.connect().is_closed(), "{}", stand.name);
        let mut client = stand.connect();
        assert_eq!(client.get("/").status, 200);
        assert!(client.is_closed(), "{}: after an answer", stand.name);
        stand.stop();
    }
}

/// Some clients send an empty line behind a body (RFC 9112 §2.2).
#[test]
fn row_30_an_empty_line_behind_a_request_is_no_head() {
    for stand in both("--header-timeout 200ms --idle-timeout 1s", "--buckets 1") {
        let body = post("Content-Length: 2", "hi");
        for together in [false, true] {
            let mut client = stand.connect();
            if together {
                client.send([&body[..], b"\r\n"].concat());
            } else {
                client.send(&body);
            }
            assert_eq!(client.answer().status, 200, "{}", stand.name);
            if !together {
                client.send("\r\n");
            }
            let later = Duration::from_millis(500);
            assert!(client.hears_nothing_for(later), "{}: a 408", stand.name);
            assert_eq!(client.get("/").status, 200, "{}", stand.name);
            client.send("\r\n\r\n");
            assert!(client.is_closed(), "{}: without a word", stand.name);
        }
        stand.stop();
    }
}

/// Empty lines, cut, and half of one; before the first request, and behind one.
fn connections_with_empty_lines_in_pieces(stand: &Stand) -> Vec<Client> {
    let mut clients = Vec::new();
    for pieces in [&["\r", "\n"][..], &["\r\n\r", "\n\r", "\n"], &["\r"]] {
        for before in [Vec::new(), with("X: a")] {
            let mut client = stand.connect();
            client.send([&before[..], pieces[0].as_bytes()].concat());
            if !before.is_empty() {
                assert_eq!(client.answer().status, 200, "{}", stand.name);
            }
            for piece in &pieces[1..] {
                assert!(client.hears_nothing_for(Duration::from_millis(20)));
                client.send(piece);
            }
            clients.push(client);
        }
    }
    clients
}

#[test]
fn row_30_an_empty_line_that_comes_in_pieces_is_no_head() {
    for stand in both("--header-timeout 100ms --idle-timeout 1h", "--buckets 1") {
        let mut clients = connections_with_empty_lines_in_pieces(&stand);
        let later = Duration::from_millis(400);
        assert!(clients[0].hears_nothing_for(later), "{}: a 408", stand.name);
        for (n, client) in clients.iter_mut().enumerate() {
            client.send(if n < 4 { "" } else { "\n" });
            assert_eq!(client.get("/").status, 200, "{}: {n}", stand.name);
        }
        let mut client = stand.connect();
        client.send("\r");
        assert!(client.hears_nothing_for(Duration::from_millis(20)));
        client.send("GET / HTTP/1.1\r\n");
        assert_eq!(client.answer().status, 400, "{}: no LF", stand.name);
        stand.stop();
    }
    for stand in both("--header-timeout 1h --idle-timeout 300ms", "--buckets 1") {
        for (n, mut client) in (0..).zip(connections_with_empty_lines_in_pieces(&stand)) {
            assert!(client.is_closed(), "{}: {n}, without a word", stand.name);
        }
        stand.stop();
    }
}

#[test]
fn row_30_half_an_empty_line_waits_for_no_bucket_and_makes_room() {
    let flags = "--queue-timeout 100ms --connections 2 --idle-timeout 1h --header-timeout 1h";
    for stand in both(flags, "--buckets 1 --slots 1") {
        let mut busy = stand.connect();
        busy.send(to("/sleep/1000"));
        stand.handlers().wait_for_sleepers(1);
        let mut idle = stand.connect();
        idle.send("\r");
        let later = Duration::from_millis(300);
        assert!(idle.hears_nothing_for(later), "{}: a 503", stand.name);
        assert_eq!(busy.answer().text(), "slept\n", "{}", stand.name);
        idle.send("\nHEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = idle.answer_to_head();
        assert_eq!(answer.status, 200, "{}", stand.name);
        idle.send("\r");
        assert!(idle.hears_nothing_for(Duration::from_millis(20)));
        // The other one has been idle for less long.
        assert_eq!(busy.get("/").status, 200, "{}", stand.name);
        assert_eq!(stand.connect().get("/").status, 200, "{}", stand.name);
        assert!(idle.is_closed(), "{}: it makes room", stand.name);
        stand.stop();
    }
}

#[test]
fn row_30_a_body_that_stays_out_gets_408() {
    for stand in both("--body-timeout 300ms --idle-timeout 1h", "--buckets 1") {
        for request in [
            post("Content-Length: 9", "hello"),
            post("Content-Length: 40000", "hello"),
            crate::stand::chunked("9\r\nhello"),
        ] {
            let mut client = stand.connect();
            client.send(&request);
            let answer = client.answer();
            assert!(answer.status == 408 && answer.closes(), "{}", answer.head);
            assert!(client.is_closed(), "{}", stand.name);
            stand.assert_serves("a slow body");
        }
        stand.stop();
    }
}

#[test]
fn row_30_a_client_that_does_not_read_is_cut() {
    let flags = "--write-timeout 300ms --idle-timeout 1h --deadline 0 --queue-timeout 20s";
    for stand in both(flags, "--buckets 1") {
        let mut client = Client::connect_with_buffer(stand.front.address(), 4096);
        client.send(to("/big/100000"));
        // There is one bucket, and it is with that client until the server lets go of it.
        stand.assert_serves("a client that does not read");
        let trouble = client.try_answer().expect_err("its answer was cut");
        assert!(trouble != Trouble::Late, "{}: {trouble:?}", stand.name);
        stand.stop();
    }
}

#[test]
fn row_31_unfinished_heads_take_no_bucket_and_the_oldest_makes_room() {
    for stand in both("--partial-heads 4 --header-timeout 1h", "--buckets 1") {
        let mut slow: Vec<_> = (0..8).map(|_| stand.connect()).collect();
        for client in &mut slow {
            client.send("GET / HTTP/1.1\r\n");
            assert!(client.hears_nothing_for(Duration::from_millis(5)));
            stand.assert_serves("an unfinished head");
        }
        for client in &mut slow[..4] {
            assert_eq!(client.answer().status, 408, "{}", stand.name);
        }
        for client in &mut slow[4..] {
            client.send("Host: a\r\n\r\n");
            assert_eq!(client.answer().text(), "hello\n", "{}", stand.name);
        }
        stand.stop();
    }
}

#[test]
fn row_31_a_wait_for_a_bucket_is_bounded() {
    for stand in both("--queue-timeout 100ms", "--buckets 1") {
        let mut busy = stand.connect();
        busy.send(to("/sleep/1500"));
        stand.handlers().wait_for_sleepers(1);
        let mut waiting = stand.connect();
        let refused = waiting.get("/");
        assert_eq!(refused.status, 503, "{}: {}", stand.name, refused.head);
        assert!(refused.field("retry-after").is_some(), "{}", refused.head);
        assert_eq!(busy.answer().text(), "slept\n");
        stand.assert_serves("a wait");
        stand.stop();
    }
}

#[test]
fn row_32_connections_are_capped_and_an_idle_one_makes_room() {
    for stand in both("--connections 4 --idle-timeout 1h", "--buckets 1") {
        let before = stand.front.sample().descriptors;
        let mut clients: Vec<_> = (0..16).map(|_| stand.connect()).collect();
        for client in &mut clients {
            // It is served, or was closed for others while it said nothing.
            if client.try_send(with("X: a")) {
                match client.try_answer() {
                    Ok(answer) => assert_eq!(answer.status, 200, "{}", stand.name),
                    Err(trouble) => assert_ne!(trouble, Trouble::Late, "{}", stand.name),
                }
            }
        }
        assert!(
            eventually(|| stand.front.sample().descriptors <= before + 4),
            "{}: {:?}",
            stand.name,
            stand.front.sample()
        );
        stand.assert_serves("many connections");
        stand.stop();
    }
}

#[test]
fn row_33_a_drain_finishes_what_has_begun_and_closes_the_rest() {
    for stand in both(
        "--header-timeout 1h --idle-timeout 1h --drain-timeout 1h",
        "--buckets 2",
    ) {
        let name = stand.name;
        let mut idle = stand.connect();
        assert_eq!(idle.get("/").status, 200);
        let mut half = stand.connect();
        half.send("GET / HT");
        let mut empty_lines = connections_with_empty_lines_in_pieces(&stand);
        let mut busy = stand.connect();
        busy.send(to("/sleep/500"));
        stand.handlers().wait_for_sleepers(1);
        stand.front.signal(libc::SIGTERM);
        let _ = stand.front.line_with("draining");
        for client in empty_lines.iter_mut().chain([&mut idle]) {
            assert!(client.is_closed(), "{name}: an idle connection");
        }
        assert_eq!(
            half.try_answer(),
            Err(Trouble::Closed),
            "{name}: half a head"
        );
        assert!(
            eventually(|| Client::try_connect(stand.front.address()).is_err()),
            "{name}: the server has stopped listening"
        );
        let answer = busy.answer();
        assert!(
            answer.text() == "slept\n" && answer.closes(),
            "{name}: {}",
            answer.head
        );
        assert!(busy.is_closed(), "{name}");
        assert_eq!(stand.front.wait().code(), 0, "{name}");
        if let Some(application) = stand.application {
            assert_eq!(application.stop().code(), 0, "{name}");
        }
    }
}
