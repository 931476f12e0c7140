//! Well-formed requests, however they arrive: connections that stay, requests in a row, single bytes, HEAD,
//! HTTP/1.0.

use std::time::Duration;
use transom_tests::client::get;
use transom_tests::{Answer, Server, Trouble, eventually};

const FLAGS: &str = "--buckets 4";

fn assert_hello(answer: &Answer, name: &str) {
    assert_eq!(
        (answer.status, answer.text()),
        (200, format!("hello, {name}\n").as_str()),
        "{}",
        answer.head
    );
}

#[test]
fn a_connection_stays_open_for_the_next_request() {
    let server = Server::start("hello", FLAGS);
    let mut client = server.connect();
    for n in 0..100 {
        assert_hello(&client.get(&format!("/hello/{n}")), &n.to_string());
    }
    drop(client);
    assert_eq!(server.stop().figure("connections"), 1);
}

#[test]
fn requests_in_one_write_are_answered_in_their_order() {
    let server = Server::start("hello", FLAGS);
    let mut client = server.connect();
    client.send([get("/hello/a"), get("/nowhere"), get("/hello/c")].concat());
    assert_hello(&client.answer(), "a");
    assert_eq!(client.answer().status, 404);
    assert_hello(&client.answer(), "c");
    assert_hello(&client.get("/hello/d"), "d");
}

#[test]
fn many_requests_in_one_write_are_all_answered_in_their_order() {
    many_requests_in_one_write(FLAGS);
}

#[test]
fn many_requests_in_one_write_are_answered_also_where_the_buffer_for_a_head_is_smaller_than_a_read()
{
    many_requests_in_one_write("--buckets 4 --head-limit 4KiB");
}

fn many_requests_in_one_write(flags: &str) {
    let server = Server::start("hello", flags);
    let mut client = server.connect();
    // More than one read brings, and answers that fill the client's window while it does not read them.
    let requests: String = (0..2000).map(|n| get(&format!("/hello/{n}"))).collect();
    let mut sender = client.sender();
    let sending =
        std::thread::spawn(move || std::io::Write::write_all(&mut sender, requests.as_bytes()));
    for n in 0..2000 {
        assert_hello(&client.answer(), &n.to_string());
    }
    sending.join().expect("no panic").expect("all was taken");
}

#[test]
fn requests_with_bodies_in_one_write_do_not_mix() {
    let server = Server::start("echo", FLAGS);
    let mut client = server.connect();
    let post = |body: &str| {
        format!(
            "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let chunked = "POST /stream HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n";
    client.send(
        [
            post("GET / HTTP/1.1\r\n\r\n").as_str(),
            chunked,
            &post("three"),
        ]
        .concat(),
    );
    assert_eq!(client.answer().text(), "GET / HTTP/1.1\r\n\r\n");
    assert_eq!(client.answer().text(), "two");
    assert_eq!(client.answer().text(), "three");
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let server = Server::start("echo", FLAGS);
    let mut client = server.connect();
    for request in [
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    ] {
        for byte in request.bytes() {
            client.send([byte]);
            // Long enough for a loop that is awake to read it alone; if it does not, the next one is as good.
            let _ = client.hears_nothing_for(Duration::from_micros(200));
        }
        assert_eq!(client.answer().text(), "hello");
    }
}

#[test]
fn a_request_may_be_cut_anywhere() {
    let server = Server::start("echo", FLAGS);
    let mut client = server.connect();
    let request = b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    for at in 1..request.len() {
        client.send(&request[..at]);
        assert!(
            client.hears_nothing_for(Duration::from_millis(2)),
            "an answer to {at} bytes"
        );
        client.send(&request[at..]);
        assert_eq!(client.answer().text(), "hello", "cut at {at}");
    }
}

#[test]
fn head_gets_the_head_of_get() {
    let server = Server::start("hello", FLAGS);
    for path in ["/", "/json", "/nowhere"] {
        let get = server.get(path);
        let mut client = server.connect();
        client.send(format!("HEAD {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
        let head = client.answer_to_head();
        assert_eq!(
            (head.status, head.field("content-length")),
            (get.status, get.field("content-length"))
        );
        assert_eq!(head.field("content-type"), get.field("content-type"));
        // A body would be taken for the beginning of the next answer.
        assert_hello(&client.get("/hello/after"), "after");
    }
}

#[test]
fn head_gets_no_body_of_a_failure_either() {
    let server = Server::start("oom", FLAGS);
    let mut client = server.connect();
    for path in ["/1000000", "/panic", "/recurse/1000000"] {
        client.send(format!("HEAD {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
        assert_eq!(client.answer_to_head().status, 500);
    }
    assert_eq!(client.get("/10").text(), "10240 bytes\n");
}

#[test]
fn head_gets_no_body_of_a_refusal_either() {
    let server = Server::start("hello", FLAGS);
    let long = "x".repeat(20_000);
    for (rest, status) in [
        ("\r\n", 400),
        ("Host: a b\r\n\r\n", 400),
        ("Expect: x\r\n\r\n", 417),
        (&long, 431),
    ] {
        let mut client = server.connect();
        client.send(format!("HEAD / HTTP/1.1\r\n{rest}"));
        assert_eq!(client.answer_to_head().status, status, "{rest:?}");
        assert_eq!(client.rest(), Ok(Vec::new()), "no body follows {rest:?}");
    }
}

#[test]
fn http_1_0_closes_unless_it_asks_to_stay() {
    let server = Server::start("hello", FLAGS);
    let mut client = server.connect();
    client.send("GET / HTTP/1.0\r\n\r\n");
    let answer = client.answer();
    assert_hello(&answer, "world");
    assert!(answer.closes(), "{}", answer.head);
    assert!(client.is_closed());

    let mut client = server.connect();
    for _ in 0..2 {
        client.send("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n");
        let answer = client.answer();
        assert_eq!(
            answer.field("connection"),
            Some("keep-alive"),
            "{}",
            answer.head
        );
    }
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert!(client.answer().closes());
    assert!(client.is_closed());
}

#[test]
fn http_1_0_gets_no_chunks() {
    let server = Server::start("echo", FLAGS);
    let mut client = server.connect();
    client
        .send("POST /stream HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello");
    let answer = client.answer();
    assert_eq!(
        (answer.text(), answer.field("transfer-encoding")),
        ("hello", None),
        "{}",
        answer.head
    );
    assert!(
        client.is_closed() || answer.field("content-length").is_some(),
        "the end can be seen"
    );
}

#[test]
fn a_client_that_asks_to_close_is_answered_and_closed() {
    let server = Server::start("hello", FLAGS);
    let mut client = server.connect();
    client.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: Close\r\n\r\n");
    let answer = client.answer();
    assert_hello(&answer, "world");
    assert!(answer.closes());
    assert!(client.is_closed());
    // A token, not a part of one.
    let mut client = server.connect();
    client.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: closeness\r\n\r\n");
    assert!(!client.answer().closes());
    assert_hello(&client.get("/"), "world");
}

#[test]
fn a_connection_ends_after_the_number_of_requests_it_was_granted() {
    let server = Server::start("hello", "--buckets 4 --requests-per-connection 3");
    let mut client = server.connect();
    assert!(!client.get("/").closes());
    assert!(!client.get("/").closes());
    assert!(client.get("/").closes(), "the last one says so");
    assert!(client.is_closed());
}

#[test]
fn options_asterisk_asks_the_server_itself() {
    let server = Server::start("hello", FLAGS);
    let mut client = server.connect();
    client.send("OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n");
    let answer = client.answer();
    assert!(
        answer.status == 204
            && answer
                .field("allow")
                .is_some_and(|allow| allow.contains("GET")),
        "{}",
        answer.head
    );
    assert_hello(&client.get("/"), "world");
    drop(client);
    assert_eq!(server.stop().figure("requests"), 1, "no handler was asked");
}

#[test]
fn a_target_may_be_absolute() {
    let server = Server::start("hello", FLAGS);
    for target in [
        "http://test/hello/x",
        "HTTP://TEST:80/hello/x",
        "http://test/hello/%78?y",
        "/a/../hello/./x",
    ] {
        assert_hello(&server.get(target), "x");
    }
    assert_eq!(
        server
            .answer_to("GET http://u@test/ HTTP/1.1\r\nHost: test\r\n\r\n")
            .status,
        400
    );
}

#[test]
fn unknown_paths_methods_and_versions_have_their_own_status() {
    let server = Server::start("hello", FLAGS);
    assert_eq!(server.get("/nowhere").status, 404);
    let not_allowed = server.post("/", "");
    assert_eq!(
        (not_allowed.status, not_allowed.field("allow")),
        (405, Some("GET, HEAD, OPTIONS"))
    );
    for method in ["BREW", "TRACE", "CONNECT"] {
        let answer = server.answer_to(format!("{method} / HTTP/1.1\r\nHost: test\r\n\r\n"));
        assert!(
            [400, 405, 501].contains(&answer.status),
            "{method}: {}",
            answer.head
        );
    }
    assert_eq!(
        server
            .answer_to("BREW / HTTP/1.1\r\nHost: test\r\n\r\n")
            .status,
        501
    );
    assert_eq!(
        server
            .answer_to("GET / HTTP/2.0\r\nHost: test\r\n\r\n")
            .status,
        505
    );
    assert_eq!(
        server
            .answer_to("GET / HTTP/1.7\r\nHost: test\r\n\r\n")
            .status,
        200
    );
}

#[test]
fn an_upgrade_is_not_taken_up() {
    let server = Server::start("hello", FLAGS);
    for protocol in ["h2c", "websocket"] {
        let request = format!(
            "GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n"
        );
        assert_hello(&server.answer_to(request), "world");
    }
}

#[test]
fn a_client_that_has_said_all_is_still_answered() {
    let server = Server::start("oom", FLAGS);
    let mut client = server.connect();
    client.send([get("/10"), get("/sleep/50"), get("/20")].concat());
    client.half_close();
    assert_eq!(client.answer().text(), "10240 bytes\n");
    assert_eq!(client.answer().text(), "slept\n");
    assert_eq!(client.answer().text(), "20480 bytes\n");
    assert!(client.is_closed());
}

#[test]
fn half_a_request_is_no_request() {
    let server = Server::start("echo", FLAGS);
    for part in [
        "POST / HT",
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhell",
    ] {
        let mut client = server.connect();
        client.send(part);
        client.half_close();
        assert_eq!(client.try_answer(), Err(Trouble::Closed), "{part}");
    }
    assert_eq!(server.stop().figure("requests"), 0, "no handler was asked");
}

#[test]
fn a_client_that_goes_away_leaves_nothing_behind() {
    let server = Server::start("oom", "--buckets 2");
    let before = server.sample().descriptors;
    for n in 0..200 {
        let mut client = server.connect();
        match n % 4 {
            0 => client.send("GET /10 HT"),
            1 => client.send(get("/sleep/1")),
            2 => client.send(get("/hold/100/1").repeat(3)),
            _ => {}
        }
        client.reset();
    }
    assert!(eventually(|| server.get("/10").status == 200));
    assert!(
        eventually(|| server.sample().descriptors == before),
        "{:?}, at first {before}",
        server.sample()
    );
    assert_eq!(server.stop().code(), 0);
}

#[test]
fn an_urgent_byte_does_not_stop_a_connection() {
    use std::os::fd::AsRawFd;
    let server = Server::start("hello", FLAGS);
    let mut client = server.connect();
    client.send("GET /hello/");
    let socket = client.sender();
    // SAFETY: one byte is valid for a length of one.
    let sent = unsafe { libc::send(socket.as_raw_fd(), b"x".as_ptr().cast(), 1, libc::MSG_OOB) };
    assert_eq!(sent, 1);
    client.send(" HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_hello(&client.answer(), "x");
}

#[test]
fn answers_carry_one_date_and_one_length() {
    let server = Server::start("hello", FLAGS);
    for (request, status) in [
        (get("/"), 200),
        (get("/json"), 200),
        (get("/nowhere"), 404),
        (
            "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n".into(),
            405,
        ),
        ("GET / HTTP/1.1\r\n\r\n".into(), 400),
        ("BREW / HTTP/1.1\r\nHost: test\r\n\r\n".into(), 501),
    ] {
        let answer = server.answer_to(request);
        assert_eq!(answer.status, status);
        assert_eq!(
            (answer.count("date"), answer.count("content-length")),
            (1, 1),
            "{}",
            answer.head
        );
        let date = answer.field("date").unwrap_or_default();
        assert!(date.len() == 29 && date.ends_with(" GMT"), "{date}");
    }
}
