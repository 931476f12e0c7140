//! Floods of connections, bytes and requests: memory stays below what was said at the start, no connection
//! hangs, no descriptor leaks, and a fresh request works right after.
//!
//! Each flood is of `TRANSOM_TEST_FLOOD` connections, by default 5,000; the promise is made for 100,000.
//! (Half-open means here: connected by the kernel, and silent. A SYN that is never followed up does not reach
//! a server.)

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::thread;
use std::time::Duration;
use transom_tests::client::{get, reset};
use transom_tests::doors::{Folder, before, behind};
use transom_tests::hostile::{Attack, send_urgent};
use transom_tests::{Client, PATIENCE, Sample, Server, eventually};

/// Connections of a flood.
fn flood_size() -> usize {
    match std::env::var("TRANSOM_TEST_FLOOD") {
        Ok(text) => text.parse().expect("TRANSOM_TEST_FLOOD is a number"),
        Err(_) => 5000,
    }
}

const FRONT: &str = "--loops 2 --connections 512 --header-timeout 2s --idle-timeout 2s";

/// Does something to a server in one process and through a door, and looks at what is left of the server.
fn flood(name: &str, attack: impl Fn(&Server)) {
    let folder = Folder::new(name);
    let door = folder.path("hello.door");
    let application = behind(&door, "hello", "--buckets 4");
    let servers = [
        Server::start("hello", &format!("--buckets 4 {FRONT}")),
        before(&door, FRONT),
    ];
    for (server, place) in servers.iter().zip(["in one process", "through a door"]) {
        assert_eq!(server.get("/hello/x").status, 200);
        let descriptors = || server.sample().descriptors;
        let before = Sample::at_rest(server.pid()).descriptors;
        attack(server);
        let fresh = server.get("/hello/x");
        assert_eq!(fresh.text(), "hello, x\n", "{name}, {place}: right after");
        let most = server.sample().high_water;
        let bound = server.memory_bound();
        assert!(most <= bound, "{name}, {place}: {most} of {bound} bytes");
        // The flood's connections end by their timeouts.
        assert!(
            eventually(|| descriptors() <= before),
            "{name}, {place}: {} descriptors, {before} before",
            descriptors()
        );
    }
    let [alone, at_a_door] = servers.map(Server::stop);
    assert_eq!((alone.code(), at_a_door.code()), (0, 0), "{name}");
    // (At a door, the thread that opens it allocates; the loops do not.)
    assert_eq!(alone.figure("process_heap_allocations"), 0, "{name}");
    drop(application);
}

/// Strikes again and again from two threads, and keeps the latest connections open.
fn strike(server: &Server, attack: Attack, count: usize) {
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut open = std::collections::VecDeque::new();
                for _ in 0..count / 2 {
                    open.extend(attack.strike(server.address(), "/hello/x"));
                    if open.len() > 400 {
                        open.pop_front();
                    }
                }
            });
        }
    });
}

#[test]
fn connect_and_close() {
    flood("connect", |server| {
        strike(server, Attack::ConnectAndClose, flood_size());
    });
}

#[test]
fn half_open_connections() {
    flood("silent", |server| {
        strike(server, Attack::Silent, flood_size());
    });
}

#[test]
fn half_heads() {
    flood("half", |server| {
        strike(server, Attack::HalfHead, flood_size());
    });
}

#[test]
fn resets() {
    flood("reset", |server| {
        strike(server, Attack::Reset, flood_size());
        for _ in 0..100 {
            let stream = TcpStream::connect(server.address()).expect("it listens");
            reset(stream);
        }
    });
}

#[test]
fn garbage() {
    flood("garbage", |server| {
        strike(server, Attack::Garbage, flood_size());
    });
}

#[test]
fn urgent_bytes() {
    flood("urgent", |server| {
        strike(server, Attack::Urgent, flood_size() / 10);
        // An urgent byte is one like others: of a target, it is answered; in front of a request, it spoils
        // the method.
        let mut stream = TcpStream::connect(server.address()).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time");
        stream.write_all(b"GET /hello/").expect("sent");
        send_urgent(&stream, b"x");
        let rest = b" HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
        stream.write_all(rest).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.ends_with("hello, x\n"), "{answer}");
        // Nothing but urgent bytes, without an end.
        let stream = TcpStream::connect(server.address()).expect("it listens");
        for _ in 0..5000 {
            send_urgent(&stream, b"!");
        }
    });
}

#[test]
fn requests_byte_by_byte() {
    flood("bytes", |server| {
        strike(server, Attack::ByteByByte, flood_size() / 20);
    });
}

#[test]
fn pipelines_of_ten_thousand() {
    flood("pipeline", |server| {
        for request in [
            get("/hello/x"),
            "OPTIONS * HTTP/1.1\r\nHost: t\r\n\r\n".to_owned(),
        ] {
            let mut client = server.connect();
            let mut sender = client.sender();
            let bytes = request.repeat(10_000);
            thread::scope(|scope| {
                scope.spawn(move || sender.write_all(bytes.as_bytes()));
                for n in 0..10_000 {
                    let status = client.answer().status;
                    assert!(matches!(status, 200 | 204), "answer {n}: {status}");
                }
            });
        }
        strike(server, Attack::Deaf, 50);
    });
}

#[test]
fn an_address_has_no_more_connections_than_it_may_over_all_loops() {
    let folder = Folder::new("addresses");
    let door = folder.path("hello.door");
    let _application = behind(&door, "hello", "--buckets 4");
    let flags = "--loops 3 --connections-per-address 5";
    for server in [Server::start("hello", flags), before(&door, flags)] {
        let from = |last| Client::connect_from(Ipv4Addr::new(127, 0, 0, last), server.address());
        let mut first: Vec<_> = (0..5).map(|_| from(2)).collect();
        for client in &mut first {
            assert_eq!(client.get("/hello/x").status, 200);
        }
        for _ in 0..50 {
            assert!(from(2).rest().unwrap_or_default().is_empty(), "closed");
        }
        assert_eq!(from(3).get("/hello/x").status, 200, "another address");
        for client in &mut first {
            assert_eq!(client.get("/hello/x").status, 200, "they are left alone");
        }
        drop(first.pop());
        let again = || {
            let mut client = from(2);
            client.try_send(get("/hello/x"));
            client.try_answer().is_ok_and(|answer| answer.status == 200)
        };
        assert!(eventually(again), "one has left");
        drop(first);
        // A client that has gone is forgotten, also after many.
        for _ in 0..200 {
            assert!(eventually(again));
        }
        let ended = server.stop();
        assert!(ended.figure("address_refused") >= 50, "{}", ended.stderr());
    }
}

#[test]
fn silent_connections_do_not_outlive_their_timeout() {
    let server = Server::start("hello", "--loops 1 --buckets 1 --idle-timeout 300ms");
    let mut silent: Vec<_> = (0..100).map(|_| server.connect()).collect();
    for client in &mut silent {
        assert!(client.is_closed());
    }
    assert!(server.connect().hears_nothing_for(Duration::from_millis(1)));
}
