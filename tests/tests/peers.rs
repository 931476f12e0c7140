//! The address of a client behind a proxy: the PROXY protocol, `Forwarded`, `X-Forwarded-For`.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use transom_tests::client::get;
use transom_tests::{Client, Folder, Launch, PATIENCE, Server, Trouble, eventually};

const TRUST: &str = "--trust 127.0.0.0/8 --trust 10.0.0.0/8";

/// Servers with these flags: one process, and a front end before an application in another one.
struct Both {
    alone: Server,
    front: Server,
    application: Server,
    _folder: Folder,
}

impl Both {
    fn start(name: &str, flags: &str) -> Self {
        let folder = Folder::new(name);
        let door = folder.path().join("peer.door");
        let peer = || Launch::of_file(env!("CARGO_BIN_EXE_peer"));
        let application = peer()
            .flags(&format!("--buckets 4 --door {}", door.display()))
            .start();
        let forward = format!(
            "serve --loops 1 --forward http://127.0.0.1:0={}",
            door.display()
        );
        Both {
            alone: peer()
                .flags(&format!("--buckets 4 --loops 1 {flags}"))
                .start(),
            front: Launch::of("transom")
                .flags(&format!("{forward} {flags}"))
                .start(),
            application,
            _folder: folder,
        }
    }

    fn each(&self, check: impl Fn(&Server)) {
        check(&self.alone);
        check(&self.front);
    }

    /// Ends them; both have this figure.
    fn stop(self, figure: &str, count: u64) {
        for server in [self.alone, self.front] {
            let ended = server.stop();
            assert_eq!((ended.code(), ended.figure(figure)), (0, count), "{figure}");
        }
        assert_eq!(self.application.stop().code(), 0);
    }
}

fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([command, family]);
    bytes.extend((block.len() as u16).to_be_bytes());
    bytes.extend(block);
    bytes
}

/// 192.0.2.7:4711, as version 2 has it, and a TLV.
fn v2_of_v4() -> Vec<u8> {
    let ports = [0x12, 0x67, 0, 80];
    v2(
        0x21,
        0x11,
        &[&[192, 0, 2, 7, 10, 0, 0, 1][..], &ports, &[4, 0, 1, 0]].concat(),
    )
}

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\r\n";

#[test]
fn a_header_that_is_not_asked_for_is_told_with_the_flags_that_take_it() {
    for header in [V1.to_vec(), b"PROXY UNKNOWN\r\n".to_vec(), v2_of_v4()] {
        Both::start("proxy-off", "").each(|server| {
            let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
            // Where it is no beginning, it is a request like any other that is malformed.
            let mut later = server.connect();
            assert_eq!(later.get("/").status, 200);
            later.send(&header);
            assert_eq!(later.answer().status, 400);
            let refused = server.answer_to([&header[..], request].concat());
            assert_eq!(refused.status, 400);
            let said = server.line_with("connections were closed for their PROXY header");
            for part in ["--proxy-protocol require", "--trust", " connections=1"] {
                assert!(said.contains(part), "{said}");
            }
        });
    }
}

#[test]
fn a_proxy_says_who_its_client_is_once_for_a_connection() {
    let both = Both::start("proxy", &format!("--proxy-protocol require {TRUST}"));
    let own = "127.0.0.1:";
    let mut of_v6 = [0; 36];
    (of_v6[0], of_v6[15], of_v6[33]) = (0x20, 1, 9);
    for (header, peer) in [
        (V1.to_vec(), "192.0.2.7:4711\n"),
        (
            b"PROXY TCP6 2001:db8::7 ::1 4711 80\r\n".to_vec(),
            "[2001:db8::7]:4711\n",
        ),
        (b"PROXY UNKNOWN\r\n".to_vec(), "nowhere\n"),
        (v2_of_v4(), "192.0.2.7:4711\n"),
        (v2(0x21, 0x21, &of_v6), "[2000::1]:9\n"),
        (v2(0x21, 0x31, &[0; 216]), "nowhere\n"),
        (v2(0x21, 0x00, &[]), "nowhere\n"),
        (v2(0x20, 0x00, &[]), own),
        (v2(0x21, 0x11, &[1; 520]), "1.1.1.1:257\n"),
        (v2(0x21, 0x11, &[1; 4080]), "1.1.1.1:257\n"),
    ] {
        both.each(|server| {
            // Together with a request, before it, byte by byte, and with two requests.
            let mut together = server.connect();
            together.send([&header[..], get("/").as_bytes()].concat());
            let mut before = server.connect();
            before.send(&header);
            assert_eq!(server_is_alive(server), 204);
            before.send(get("/"));
            let mut slowly = server.connect();
            for byte in header.iter().chain(get("/").as_bytes()) {
                slowly.send([*byte]);
            }
            let mut pipelined = server.connect();
            pipelined.send([&header[..], get("/").as_bytes(), get("/").as_bytes()].concat());
            assert!(pipelined.answer().text().starts_with(peer));
            for client in [&mut together, &mut before, &mut slowly, &mut pipelined] {
                let first = client.answer();
                assert!(
                    first.text().starts_with(peer),
                    "{} for {peer}",
                    first.text()
                );
                assert_eq!(
                    client.get("/").text(),
                    first.text(),
                    "the connection is the same client's"
                );
            }
        });
    }
    both.stop("proxy_refused", 0);
}

/// Everything that was sent before on other connections of the one loop has been read.
fn server_is_alive(server: &Server) -> u16 {
    let mut client = server.connect();
    client.send(b"PROXY UNKNOWN\r\nOPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n");
    client.answer().status
}

#[test]
fn a_connection_without_a_header_of_a_proxy_is_closed_without_an_answer() {
    let both = Both::start(
        "proxy-malformed",
        &format!("--proxy-protocol require {TRUST}"),
    );
    let long = [&b"PROXY UNKNOWN "[..], &[b'a'; 100]].concat();
    let rows: [&[u8]; 7] = [
        get("/").leak().as_bytes(),
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PROXY UNKNOWN\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PROXY U\rN",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x12",
        b"\r\n\r\n\0\r\nQUIT\n\x20\x00\xff\xff",
        &long,
    ];
    both.each(|server| {
        for row in rows {
            let mut client = server.connect();
            client.send(row);
            assert!(matches!(
                client.try_answer(),
                Err(Trouble::Closed | Trouble::Reset)
            ));
        }
        // And half of one is no reason to answer either.
        let mut half = server.connect();
        half.send(&V1[..20]);
        half.half_close();
        assert!(half.is_closed());
        assert_eq!(server_is_alive(server), 204);
        let line = server.line_with("connections were closed for their PROXY header");
        assert!(
            line.contains("why=") && line.contains("connections=1"),
            "{line}"
        );
    });
    both.stop("proxy_refused", rows.len() as u64);
}

#[test]
fn a_proxys_header_may_be_as_long_as_the_flag_says() {
    for (limit, fits) in [(536, 520), (6000, 5984), (8192, 8176)] {
        let flags = format!(
            "--proxy-protocol require --head-limit 8KiB --proxy-header-limit {limit} {TRUST}"
        );
        let both = Both::start(&format!("proxy-limit-{limit}"), &flags);
        both.each(|server| {
            let mut client = server.connect();
            client.send([&v2(0x21, 0x11, &vec![1; fits])[..], get("/").as_bytes()].concat());
            assert_eq!(client.answer().text(), "1.1.1.1:257\n");
            let mut client = server.connect();
            let _ = client.try_send(v2(0x21, 0x11, &vec![1; fits + 1]));
            assert!(matches!(
                client.try_answer(),
                Err(Trouble::Closed | Trouble::Reset)
            ));
            let line = server.line_with("connections were closed for their PROXY header");
            assert!(line.contains("--proxy-header-limit"), "{line}");
        });
        both.stop("proxy_refused", 1);
    }
    for (limit, head) in [(535, "8KiB"), (8193, "8KiB")] {
        let flags = format!(
            "--listen 127.0.0.1:0 --proxy-protocol require --head-limit {head} --proxy-header-limit {limit} {TRUST}"
        );
        let ended = Launch::of_file(env!("CARGO_BIN_EXE_peer"))
            .flags(&flags)
            .run();
        assert_eq!(ended.code(), 2, "{limit}");
        assert!(
            ended.stderr().contains("--proxy-header-limit"),
            "{}",
            ended.stderr()
        );
    }
}

#[test]
fn only_a_trusted_proxy_may_connect_where_one_is_required() {
    let both = Both::start("proxy-trust", "--proxy-protocol require --trust 10.0.0.0/8");
    both.each(|server| {
        let mut client = server.connect();
        let _ = client.try_send([V1, get("/").as_bytes()].concat());
        assert!(matches!(
            client.try_answer(),
            Err(Trouble::Closed | Trouble::Reset)
        ));
    });
    both.each(|server| {
        let line = server.line_with("connections were closed for their PROXY header");
        assert!(line.contains("--trust"), "{line}");
    });
    both.stop("proxy_refused", 1);
}

#[test]
fn a_proxy_that_is_slow_to_send_its_header_is_a_slow_head() {
    let flags =
        format!("--proxy-protocol require --header-timeout 200ms --partial-heads 2 {TRUST}");
    let both = Both::start("proxy-slow", &flags);
    both.each(|server| {
        let mut client = server.connect();
        client.send(&V1[..20]);
        let answer = client.answer();
        assert!(answer.status == 408 && answer.closes());
        // The header is part of the time that a head has.
        let mut client = server.connect();
        client.send([V1, b"GET / "].concat());
        assert_eq!(client.answer().status, 408);
        // Headers without a request hold no buffer.
        let mut many: Vec<Client> = (0..10).map(|_| server.connect()).collect();
        for client in &mut many {
            client.send(&V1[..30]);
            client.send(&V1[30..]);
            assert_eq!(server_is_alive(server), 204);
        }
        for client in &mut many {
            assert_eq!(client.get("/").text(), "192.0.2.7:4711\n");
        }
    });
    both.stop("partial_evicted", 0);
}

fn forwarded(server: &Server, fields: &str) -> String {
    server
        .answer_to(format!("GET / HTTP/1.1\r\nHost: test\r\n{fields}\r\n"))
        .text()
        .trim_end()
        .to_owned()
}

#[test]
fn a_trusted_proxy_names_the_client_of_each_request() {
    let both = Both::start(
        "x-forwarded-for",
        &format!("--forwarded x-forwarded-for {TRUST}"),
    );
    both.each(|server| {
        for (fields, peer) in [
            ("X-Forwarded-For: 192.0.2.1\r\n", "192.0.2.1:0"),
            (
                "x-forwarded-for: 1.1.1.1\r\nX-Forwarded-For: 192.0.2.1, 10.0.0.1\r\n",
                "192.0.2.1:0",
            ),
            ("X-Forwarded-For: unknown\r\n", "nowhere"),
        ] {
            assert_eq!(forwarded(server, fields), peer, "{fields}");
        }
        for ignored in [
            "",
            "Forwarded: for=192.0.2.1\r\n",
            "X-Forwarded-For: nonsense\r\n",
        ] {
            assert!(
                forwarded(server, ignored).starts_with("127.0.0.1:"),
                "{ignored}"
            );
        }
        // A client of its own for each request of a connection.
        let mut client = server.connect();
        for peer in ["192.0.2.1:0", "[2001:db8::1]:0"] {
            let address = peer.trim_end_matches(":0");
            client.send(format!(
                "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {address}\r\n\r\n"
            ));
            assert_eq!(client.answer().text().trim_end(), peer);
        }
    });
    both.stop("forwarded_ignored", 1);

    let both = Both::start("forwarded", &format!("--forwarded forwarded {TRUST}"));
    both.each(|server| {
        let field = "Forwarded: for=\"[2001:db8::1]:80\";proto=https, for=10.0.0.1\r\n";
        assert_eq!(forwarded(server, field), "[2001:db8::1]:80");
    });
    both.stop("forwarded_ignored", 0);
}

#[test]
fn nobody_else_is_believed() {
    for flags in [
        "",
        "--forwarded x-forwarded-for --trust 10.0.0.0/8 --trust unix:",
    ] {
        let both = Both::start("forwarded-trust", flags);
        both.each(|server| {
            let peer = forwarded(server, "X-Forwarded-For: 192.0.2.1\r\n");
            assert!(peer.starts_with("127.0.0.1:"), "{peer}");
        });
        both.stop("forwarded_ignored", 0);
    }
    // A client that a trusted proxy names by the PROXY protocol is not a proxy itself.
    let flags = format!("--proxy-protocol require --forwarded x-forwarded-for {TRUST}");
    let both = Both::start("forwarded-proxy", &flags);
    both.each(|server| {
        let request = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n";
        for (header, peer) in [
            (
                "PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\r\n",
                "192.0.2.7:4711\n",
            ),
            ("PROXY TCP4 10.1.1.1 10.0.0.1 4711 80\r\n", "192.0.2.1:0\n"),
            ("PROXY UNKNOWN\r\n", "nowhere\n"),
        ] {
            assert_eq!(server.answer_to(format!("{header}{request}")).text(), peer);
        }
    });
    both.stop("forwarded_ignored", 0);
}

#[test]
fn clients_of_a_unix_socket_are_believed_by_flag() {
    let folder = Folder::new("forwarded-unix");
    let path = folder.path().join("x.sock");
    for (flags, peer) in [
        ("", "nowhere\n"),
        ("--forwarded x-forwarded-for --trust 0.0.0.0/0", "nowhere\n"),
        ("--forwarded x-forwarded-for --trust unix:", "192.0.2.1:0\n"),
    ] {
        let flags = format!("--buckets 4 --listen unix:{} {flags}", path.display());
        let server = Launch::of_file(env!("CARGO_BIN_EXE_peer"))
            .flags(&flags)
            .start();
        let mut stream = UnixStream::connect(&path).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time");
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\nConnection: close\r\n\r\n")
            .expect("it is taken");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.ends_with(&format!("\r\n\r\n{peer}")), "{answer}");
        assert_eq!(server.stop().code(), 0);
    }
}

#[test]
fn flags_that_mean_nothing_alone_are_refused() {
    for (flags, parts) in [
        (
            "--proxy-protocol require",
            ["--proxy-protocol require needs --trust", "10.0.0.0/8"],
        ),
        (
            "--forwarded forwarded",
            ["--forwarded needs --trust", "10.0.0.0/8"],
        ),
        (
            "--trust 10.0.0.0/8",
            ["--trust needs --proxy-protocol", "--forwarded"],
        ),
    ] {
        let ended = Launch::of("hello").flags(flags).run();
        assert_eq!(ended.code(), 2);
        let said = ended.stderr();
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    }
}

#[test]
fn connections_of_a_proxy_are_counted_by_the_address_that_its_header_names() {
    let flags = format!("--proxy-protocol require --connections-per-address 2 {TRUST}");
    let both = Both::start("proxy-counted", &flags);
    both.each(|server| {
        let of = |last: u8| {
            let mut client = server.connect();
            let header = format!("PROXY TCP4 192.0.2.{last} 10.0.0.1 4711 80\r\n");
            client.try_send([header.as_bytes(), get("/").as_bytes()].concat());
            client
        };
        let answers = |client: &mut Client| client.try_answer().is_ok_and(|it| it.status == 200);
        let mut first = [of(1), of(1)];
        assert!(first.iter_mut().all(answers));
        assert!(!answers(&mut of(1)), "closed");
        let mut others: Vec<_> = (2..10).map(of).collect();
        assert!(others.iter_mut().all(answers), "other addresses");
        // Connections of the proxy itself, and of unknown clients.
        let mut unnamed: Vec<_> = (0..5).map(|_| server.connect()).collect();
        for (n, client) in (0..).zip(&mut unnamed) {
            let header = if n < 3 {
                v2(0x20, 0, &[])
            } else {
                b"PROXY UNKNOWN\r\n".to_vec()
            };
            client.send([&header[..], get("/").as_bytes()].concat());
            assert_eq!(client.answer().status, 200);
        }
        drop(first);
        assert!(eventually(|| answers(&mut of(1))), "they have left");
    });
    for server in [both.alone, both.front] {
        let ended = server.stop();
        assert_eq!(ended.code(), 0);
        // A client that asks before the loop has seen the others leave is refused too.
        assert!(ended.figure("address_refused") >= 1, "{}", ended.stderr());
    }
}

#[test]
fn a_proxy_that_names_its_clients_request_by_request_is_not_counted() {
    let limit = "--connections-per-address 2 --forwarded x-forwarded-for";
    let both = Both::start("forwarded-counted", &format!("{limit} {TRUST}"));
    both.each(|server| {
        let mut many: Vec<_> = (0..10).map(|_| server.connect()).collect();
        for client in &mut many {
            assert_eq!(client.get("/").status, 200);
        }
    });
    both.stop("address_refused", 0);
    let both = Both::start(
        "forwarded-uncounted",
        &format!("{limit} --trust 10.0.0.0/8"),
    );
    both.each(|server| {
        let mut first = [server.connect(), server.connect()];
        for client in &mut first {
            assert_eq!(client.get("/").status, 200);
        }
        assert!(
            server.connect().rest().unwrap_or_default().is_empty(),
            "closed"
        );
    });
    both.stop("address_refused", 1);
}

#[test]
fn the_access_log_says_whom_the_proxy_names() {
    let named = "X-Forwarded-For: 192.0.2.1\r\n";
    for (flags, first, fields, peer) in [
        ("--proxy-protocol require", V1, "", "192.0.2.7:4711"),
        ("--forwarded x-forwarded-for", b"", named, "192.0.2.1:0"),
    ] {
        let folder = Folder::new("proxy-logged");
        let file = folder.path().join("access.log");
        let flags = format!(
            "--access-log json --access-log-file {} {flags} {TRUST}",
            file.display()
        );
        let server = Server::start("hello", &format!("--buckets 4 --loops 1 {flags}"));
        let mut together = server.connect();
        let request = format!("GET /json HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        together.send([first, request.as_bytes()].concat());
        assert_eq!(together.answer().status, 200);
        let mut slowly = server.connect();
        for byte in first.iter().chain(request.as_bytes()) {
            slowly.send([*byte]);
        }
        assert_eq!(slowly.answer().status, 200);
        let ended = server.stop();
        assert_eq!(ended.code(), 0, "{}", ended.stderr());
        let text = std::fs::read_to_string(&file).expect("it has been written");
        assert_eq!(text.lines().count(), 2, "{text}");
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line).expect(line);
            assert_eq!(line["peer"], peer, "{line}");
            assert_eq!(line["request"], "GET /json HTTP/1.1", "{line}");
        }
    }
}

#[test]
fn a_request_of_a_proxy_that_is_refused_unread_is_still_its_clients() {
    let folder = Folder::new("proxy-busy");
    let file = folder.path().join("access.log");
    let log = format!("--access-log json --access-log-file {}", file.display());
    let flags = "--buckets 1 --slots 1 --loops 1 --queue-timeout 100ms --proxy-protocol require";
    let server = Server::start("oom", &format!("{flags} {log} {TRUST}"));
    let mut busy = server.connect();
    busy.send([V1, get("/sleep/1000").as_bytes()].concat());
    server.wait_for_sleepers(1);
    let mut head = server.connect();
    head.send([V1, b"HEAD /1 HTTP/1.1\r\nHost: a\r\n\r\n"].concat());
    assert_eq!(head.answer_to_head().status, 503);
    assert!(head.rest().unwrap_or_default().is_empty(), "no body");
    assert_eq!(busy.answer().status, 200);
    assert_eq!(server.stop().code(), 0);
    let text = std::fs::read_to_string(&file).expect("it has been written");
    let first = text.lines().next().expect("a line");
    let line: serde_json::Value = serde_json::from_str(first).expect(first);
    assert_eq!(
        (&line["status"], &line["peer"]),
        (&503.into(), &"192.0.2.7:4711".into())
    );
}
