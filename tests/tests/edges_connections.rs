//! Few connections, and many clients of which some take more than their turn.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use transom_tests::client::get;
use transom_tests::{Client, PATIENCE, Server, eventually};

/// How long a test listens to see that the server leaves a silent client alone.
const MOMENT: Duration = Duration::from_millis(30);

#[test]
fn a_single_connection_serves_clients_one_after_the_other() {
    let server = Server::start("hello", "--connections 1 --loops 1 --buckets 1");
    for n in 0..10 {
        let mut client = server.connect();
        assert!(client.hears_nothing_for(MOMENT), "client {n} is left alone");
        for _ in 0..3 {
            assert_eq!(client.get("/").status, 200, "client {n}");
        }
    }
    assert_eq!(server.stop().code(), 0);
}

#[test]
fn as_many_idle_connections_as_are_allowed_stay_open() {
    let server = Server::start("hello", "--connections 8 --loops 1 --buckets 1");
    let before = server.sample().descriptors;
    let mut idle: Vec<_> = (0..8).map(|_| server.connect()).collect();
    assert!(
        eventually(|| server.sample().descriptors == before + 8),
        "not all are accepted"
    );
    for round in 0..2 {
        for (n, client) in idle.iter_mut().enumerate() {
            assert!(
                client.hears_nothing_for(MOMENT),
                "client {n}, round {round}"
            );
        }
        for (n, client) in idle.iter_mut().enumerate() {
            assert_eq!(client.get("/").status, 200, "client {n}, round {round}");
        }
    }
}

#[test]
fn a_newcomer_that_waits_is_accepted_as_soon_as_a_connection_becomes_idle() {
    let flags = "--connections 1 --loops 1 --buckets 1 --idle-timeout 1h";
    let server = Server::start("oom", flags);
    let mut busy = server.connect();
    busy.send(get("/sleep/300"));
    server.wait_for_sleepers(1);
    let mut new = server.connect();
    new.send(get("/1"));
    assert_eq!(busy.answer().text(), "slept\n");
    let began = Instant::now();
    assert_eq!(new.answer().status, 200);
    let took = began.elapsed();
    assert!(
        took < Duration::from_secs(5),
        "it was accepted after {took:?}"
    );
}

/// While the loop is busy, events pile up and reach it at once: newcomers, requests of the clients whose
/// places they would take, and ends.
#[test]
fn who_has_sent_a_request_keeps_its_place() {
    let flags = "--connections 4 --loops 1 --buckets 4 --idle-timeout 1h";
    let server = Server::start("hello", flags);
    for _ in 0..20 {
        let mut clients: Vec<_> = (0..4).map(|_| server.connect()).collect();
        for client in &mut clients {
            assert_eq!(client.get("/").status, 200);
        }
        server.pause();
        let mut new: Vec<_> = (0..2).map(|_| server.connect()).collect();
        for client in &mut new {
            client.send(get("/"));
        }
        let leaves = clients.pop();
        for client in &mut clients {
            client.send(get("/"));
        }
        drop(leaves);
        server.signal(libc::SIGCONT);
        for client in clients.iter_mut().chain(&mut new) {
            assert_eq!(client.answer().status, 200);
        }
    }
}

/// The write timeout runs while the server is stuck, and only a byte that the client takes may set it back.
/// Both buffers decide when it is stuck; with these, an answer is stuck whole or in part.
fn a_client_that_drips_is_cut(send_buffer: &str, receive_buffer: libc::c_int) {
    let case = format!("--send-buffer {send_buffer}, receiving into {receive_buffer} bytes");
    // Nothing but the write timeout may end it.
    let flags = format!(
        "--loops 1 --buckets 1 --write-timeout 1s --send-buffer {send_buffer} \
         --idle-timeout 1h --header-timeout 1h --deadline 0"
    );
    let server = Server::start("hello", &flags);
    let before = server.sample().descriptors;
    let mut client = Client::connect_with_buffer(server.address(), receive_buffer);
    assert_eq!(client.get("/").status, 200, "{case}");
    let began = Instant::now();
    // The answers are more than the kernel holds for a client that takes none; the questions all fit on their
    // way.
    client.send(get("/").repeat(2000));
    while server.sample().descriptors > before {
        let took = began.elapsed();
        assert!(took < PATIENCE / 2, "{case}: connected after {took:?}");
        client.try_send("G");
        thread::sleep(Duration::from_millis(50)); // the drip
    }
    assert!(
        began.elapsed() >= Duration::from_secs(1),
        "{case}: it had its time"
    );
    assert_eq!(server.get("/").status, 200, "{case}");
}

#[test]
fn an_answer_does_not_wait_for_the_next_one_on_its_connection_to_be_made() {
    let server = Server::start("oom", "--buckets 2 --loops 1");
    for next in [get("/sleep/60000"), "GET /2 HT".to_owned()] {
        let mut client = server.connect();
        client.send(get("/1") + &get("/2") + &next);
        for body in ["1024 bytes\n", "2048 bytes\n"] {
            assert_eq!(client.answer().text(), body, "before {next:?}");
        }
    }
    // Many at once, in order, and the last of them too.
    let mut client = server.connect();
    client.send(
        (1..=300)
            .map(|n| get(&format!("/{}", n % 9)))
            .collect::<String>(),
    );
    for n in 1..=300 {
        assert_eq!(client.answer().text(), format!("{} bytes\n", n % 9 * 1024));
    }
    server.signal(libc::SIGTERM);
    let _ = server.line_with(" draining");
    server.signal(libc::SIGTERM); // the sleeper is not waited for
    let _ = server.wait();
}

#[test]
fn a_client_that_drips_bytes_and_reads_nothing_is_cut_by_the_write_timeout() {
    thread::scope(|scope| {
        for (send, receive) in [("4KiB", 2048), ("4KiB", 8192), ("8KiB", 8192)] {
            scope.spawn(move || a_client_that_drips_is_cut(send, receive));
        }
    });
}

/// Sends the same bytes again and again without waiting for an answer, and reads whatever comes, until `end`.
/// A server may close on a client that does so, which then connects again.
fn flood(address: SocketAddr, bytes: &[u8], end: &AtomicBool, received: &AtomicU64) {
    while !end.load(Ordering::Relaxed) {
        let mut reader = TcpStream::connect(address).expect("the server listens");
        let mut sender = reader.try_clone().expect("a descriptor is free");
        reader.set_read_timeout(Some(PATIENCE)).expect("a time");
        sender.set_write_timeout(Some(PATIENCE)).expect("a time");
        thread::scope(|scope| {
            scope.spawn(move || {
                while !end.load(Ordering::Relaxed) && sender.write_all(bytes).is_ok() {}
                // Answers to requests still on their way would take long, and are not needed.
                let _ = sender.shutdown(Shutdown::Both);
            });
            let mut buffer = vec![0; 1 << 20];
            while let Ok(len @ 1..) = reader.read(&mut buffer) {
                received.fetch_add(len as u64, Ordering::Relaxed);
            }
        });
    }
}

/// Whether `path` is answered on connections of its own, soon and with 200, while others send `bytes` without
/// an end.
fn beside_a_flood(server: &Server, floods: usize, bytes: &[u8], path: &str) {
    let (end, received) = (AtomicBool::new(false), AtomicU64::new(0));
    let asked = thread::scope(|scope| {
        for _ in 0..floods {
            scope.spawn(|| flood(server.address(), bytes, &end, &received));
        }
        let flows = eventually(|| received.load(Ordering::Relaxed) > 100_000);
        let outcomes: Vec<_> = (0..10)
            .map(|_| {
                let before = received.load(Ordering::Relaxed);
                let began = Instant::now();
                let mut client = server.connect();
                client.send(get(path));
                let status = client.try_answer().map(|answer| answer.status);
                let took = began.elapsed();
                // The next one is asked only when the flood has gone on: it must not end by itself.
                let goes_on = eventually(|| received.load(Ordering::Relaxed) > before);
                (status, took, goes_on)
            })
            // One failure is enough, and each takes long.
            .scan(true, |well, outcome| {
                let go_on = *well;
                *well = outcome.0 == Ok(200) && outcome.2;
                go_on.then_some(outcome)
            })
            .collect();
        end.store(true, Ordering::Relaxed);
        (flows, outcomes)
    });
    let (flows, outcomes) = asked;
    assert!(flows, "there is no flood");
    for (status, took, goes_on) in outcomes {
        assert_eq!(status, Ok(200), "after {took:?}");
        assert!(took < Duration::from_secs(3), "it took {took:?}");
        assert!(goes_on, "the flood has ended");
    }
}

#[test]
fn with_one_slot_a_pipelining_client_does_not_starve_the_others() {
    let flags = "--loops 1 --slots 1 --buckets 1 --queue-timeout 10s \
                 --requests-per-connection 4294967295";
    let server = Server::start("oom", flags);
    beside_a_flood(&server, 1, get("/1").repeat(300).as_bytes(), "/1");
    beside_a_flood(&server, 3, get("/1").repeat(300).as_bytes(), "/1");
}

#[test]
fn a_client_that_pipelines_options_does_not_keep_the_others_from_an_answer() {
    let flags = "--loops 1 --buckets 1 --requests-per-connection 4294967295";
    let server = Server::start("hello", flags);
    let options = "OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n";
    beside_a_flood(&server, 1, options.repeat(200).as_bytes(), "/");
    beside_a_flood(&server, 3, options.repeat(200).as_bytes(), "/");
}

/// The kernel gives some loops more connections than others. No connection within the limit has to go for
/// that.
#[test]
fn connections_are_counted_over_all_loops() {
    for (loops, connections) in [(2, 100), (4, 40), (8, 16)] {
        let flags = format!("--loops {loops} --connections {connections} --buckets 2");
        let server = Server::start("hello", &flags);
        for round in 0..5 {
            let mut clients: Vec<_> = (0..connections).map(|_| server.connect()).collect();
            for client in &mut clients {
                assert_eq!(client.get("/").status, 200, "{flags}, round {round}");
            }
            // All are still there.
            for client in &mut clients {
                assert_eq!(client.get("/").status, 200, "{flags}, round {round}");
            }
            for client in &clients {
                client.half_close();
            }
            assert!(clients.iter_mut().all(Client::is_closed));
        }
        assert_eq!(server.stop().code(), 0, "{flags}");
    }
}

/// A new connection may come to a loop that has none to close for it: another one closes one of its own.
#[test]
fn an_idle_connection_makes_room_whichever_loop_has_it() {
    let server = Server::start("hello", "--loops 8 --connections 4 --buckets 2");
    let mut idle = Vec::new();
    for _ in 0..40 {
        let mut client = server.connect();
        assert_eq!(client.get("/").status, 200);
        idle.push(client);
    }
    assert_eq!(server.stop().code(), 0);
}
