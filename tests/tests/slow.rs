//! Clients that are slower than they may be, alone and in crowds, in one process and through a door.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use transom_tests::client::get;
use transom_tests::doors::{Folder, before, behind};
use transom_tests::{Client, Launch, PATIENCE, Server, Trouble, eventually};

/// A server, and the application behind it if that is another process.
#[derive(Debug)]
struct Setup {
    front: Server,
    _application: Option<Server>,
    _folder: Option<Folder>,
}

/// The same in one process and through a door: `front` are flags of the front end, `application` of the
/// application.
fn both(name: &str, app: &str, application: &str, front: &str, check: impl Fn(&str, &Server)) {
    for through_a_door in [false, true] {
        let setup = if through_a_door {
            let folder = Folder::new(name);
            let door = folder.path("app.door");
            let behind = behind(&door, app, application);
            Setup {
                front: before(&door, front),
                _application: Some(behind),
                _folder: Some(folder),
            }
        } else {
            Setup {
                front: Launch::of(app)
                    .flags(&format!("{application} {front}"))
                    .start(),
                _application: None,
                _folder: None,
            }
        };
        let place = if through_a_door {
            "through a door"
        } else {
            "in one process"
        };
        check(place, &setup.front);
    }
}

/// Sends a byte now and then until the server closes; how long that took.
fn drip_until_closed(client: &mut Client) -> Duration {
    let mut sender = client.sender();
    let began = Instant::now();
    thread::scope(|scope| {
        scope.spawn(move || {
            while began.elapsed() < PATIENCE && sender.write_all(b"x").is_ok() {
                thread::sleep(Duration::from_millis(20)); // the client's own pace
            }
        });
        let _ = client.rest();
    });
    began.elapsed()
}

#[test]
fn a_body_that_drips_is_cut_wherever_it_lies() {
    // A buffer of the pool, a slot, a handler that reads it as it comes.
    for (path, length) in [("/", 4000), ("/", 40_000), ("/stream", 4_000_000)] {
        let application = "--buckets 4";
        let flags = "--loops 1 --body-timeout 500ms --body-rate 10KiB --deadline 0";
        both("drips", "echo", application, flags, |place, server| {
            let mut client = server.connect();
            client.send(format!(
                "POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\nx"
            ));
            let took = drip_until_closed(&mut client);
            let case = format!("{path}, {length} bytes, {place}: {took:?}");
            assert!(took >= Duration::from_millis(500), "{case}");
            assert!(took < PATIENCE / 2, "{case}");
            assert_eq!(server.post("/", "hello").text(), "hello", "{case}");
        });
    }
}

#[test]
fn a_chunked_body_that_drips_is_cut() {
    let flags = "--loops 1 --buckets 4 --body-timeout 500ms --body-rate 10KiB --deadline 0";
    let server = Server::start("echo", flags);
    let mut client = server.connect();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n");
    let took = drip_until_closed(&mut client);
    assert!(took < PATIENCE / 2, "{took:?}");
}

#[test]
fn a_body_that_keeps_the_rate_may_take_longer_than_the_stall() {
    let flags = "--loops 1 --body-timeout 1500ms --body-rate 1KiB";
    both("keeps", "echo", "--buckets 4", flags, |place, server| {
        let mut client = server.connect();
        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10000\r\n\r\n");
        for _ in 0..20 {
            client.send([b'x'; 500]);
            thread::sleep(Duration::from_millis(150)); // the client's own pace
        }
        let answer = client.answer();
        assert_eq!((answer.status, answer.body.len()), (200, 10_000), "{place}");
    });
}

#[test]
fn without_a_rate_a_drip_within_every_stall_is_enough() {
    let flags = "--loops 1 --buckets 4 --body-timeout 1500ms --body-rate 0";
    let server = Server::start("echo", flags);
    let mut client = server.connect();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 20\r\n\r\n");
    for _ in 0..20 {
        client.send("x");
        thread::sleep(Duration::from_millis(150)); // the client's own pace
    }
    assert_eq!(client.answer().body.len(), 20);
}

/// Reads so many bytes every 50 ms, until the server closes or `most` has passed: how long it lasted, and
/// whether it closed.
fn sip(stream: &mut TcpStream, bytes: usize, most: Duration) -> (Duration, bool) {
    let began = Instant::now();
    let mut buffer = vec![0; bytes];
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    while began.elapsed() < most {
        if !matches!(stream.read(&mut buffer), Ok(1..)) {
            return (began.elapsed(), true);
        }
        thread::sleep(Duration::from_millis(50)); // the client's own pace
    }
    (began.elapsed(), false)
}

fn odd(flags: &str) -> Server {
    Launch::of_file(env!("CARGO_BIN_EXE_odd"))
        .flags(flags)
        .start()
}

#[test]
fn an_answer_that_is_taken_in_sips_is_cut() {
    let flags = "--loops 1 --buckets 4 --write-timeout 500ms --write-rate 1MiB --send-buffer 8KiB \
                 --deadline 0";
    let server = odd(flags);
    // Streamed, and whole in its slot.
    for path in ["/long/4000", "/bytes/200/60"] {
        let mut client = Client::connect_with_buffer(server.address(), 2048);
        client.send(get(path).repeat(8));
        let (took, closed) = sip(&mut client.sender(), 100, PATIENCE / 2);
        assert!(closed, "{path}: still there after {took:?}");
        assert_eq!(server.get("/fill/1").status, 200, "{path}");
    }
    let ended = server.stop();
    assert_eq!((ended.code(), ended.figure("slow_cut")), (0, 2));
}

#[test]
fn who_takes_an_answer_fast_enough_has_all_the_time_it_needs() {
    // The socket has room for more only every few seconds: the bytes that the client takes meanwhile count.
    let server = odd("--loops 1 --buckets 4 --write-timeout 1500ms --write-rate 1KiB --deadline 0");
    let mut client = Client::connect_with_buffer(server.address(), 4096);
    client.send(get("/long/4000"));
    let (took, closed) = sip(&mut client.sender(), 1000, Duration::from_secs(5));
    assert!(!closed, "cut after {took:?}");
}

/// The kernel has all of an answer at once, and the client takes it in seconds: it gets the whole, however
/// the connection goes on. Seen with curl at `--limit-rate 40k`.
#[test]
fn the_last_answer_is_taken_at_the_pace_of_the_client() {
    const KIB: usize = 40;
    let ask = |server: &Server, line: &str, fields: &str| {
        let mut client = Client::connect_with_buffer(server.address(), 4096);
        client.send(format!(
            "GET /long/{KIB} {line}\r\nHost: test\r\n{fields}\r\n"
        ));
        client
    };
    let take = |client: &Client| {
        let (mut stream, mut bytes, mut buffer) = (client.sender(), Vec::new(), [0; 1024]);
        stream.set_read_timeout(Some(PATIENCE)).expect("a time");
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(len) => bytes.extend_from_slice(&buffer[..len]),
                Err(error) => panic!("{error} after {} bytes", bytes.len()),
            }
            thread::sleep(Duration::from_millis(100));
        }
        let head = bytes
            .windows(4)
            .position(|at| at == b"\r\n\r\n")
            .expect("a head")
            + 4;
        assert_eq!(bytes.len() - head, KIB << 10);
    };
    let cases = [
        ("HTTP/1.1", "Connection: close\r\n", "", false),
        ("HTTP/1.0", "", "", false),
        ("HTTP/1.1", "", "--requests-per-connection 1", false),
        ("HTTP/1.1", "", "--idle-timeout 1s", false),
        ("HTTP/1.1", "", "", true),
        ("HTTP/1.1", "Connection: close\r\n", "", true),
    ];
    thread::scope(|scope| {
        for (line, fields, flags, ends) in cases {
            scope.spawn(move || {
                let server = odd(&format!("--loops 1 --buckets 4 {flags}"));
                let client = ask(&server, line, fields);
                thread::sleep(Duration::from_millis(500)); // its answer is with the kernel by then
                if ends {
                    server.signal(libc::SIGTERM);
                }
                take(&client);
                drop(client);
                let ended = if ends { server.wait() } else { server.stop() };
                assert_eq!((ended.code(), ended.figure("slow_cut")), (0, 0));
            });
        }
    });
}

#[test]
fn a_client_that_takes_nothing_of_its_last_answer_is_cut() {
    let server = odd("--loops 1 --buckets 4 --write-timeout 1s");
    let mut client = Client::connect_with_buffer(server.address(), 4096);
    client.send("GET /long/40 HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    thread::sleep(Duration::from_millis(500)); // its answer is with the kernel by then
    let ended = server.stop();
    assert_eq!((ended.code(), ended.figure("slow_cut")), (0, 1));
    assert_eq!(client.rest(), Err(Trouble::Reset));
}

/// The memory equation has no term for a closed connection's bytes in the kernel: a connection keeps its
/// place until its client has taken all that it was sent, or is cut.
#[test]
fn closed_connections_leave_nothing_with_the_kernel() {
    const PLACES: usize = 16;
    let flags =
        format!("--loops 1 --buckets 4 --connections {PLACES} --backlog 128 --idle-timeout 3s");
    let request = |fields: &str| format!("GET /long/40 HTTP/1.1\r\nHost: test\r\n{fields}\r\n");
    let (close, keep) = (request("Connection: close\r\n"), request(""));
    let bad = format!("{keep}BAD\r\n\r\n");
    // What they send, and whether they say that they will send no more.
    let cases = [
        (&close, false),
        (&close, true),
        (&keep, false),
        (&keep, true),
        (&bad, false),
        (&bad, true),
    ];
    thread::scope(|scope| {
        for (request, ends) in cases {
            let flags = &flags;
            scope.spawn(move || {
                let server = odd(flags);
                let mut clients: Vec<_> = (0..2 * PLACES)
                    .map(|_| {
                        let mut client = Client::connect_with_buffer(server.address(), 2048);
                        client.send(request);
                        if ends {
                            let sender = client.sender();
                            sender.shutdown(Shutdown::Write).expect("it is open");
                        }
                        client
                    })
                    .collect();
                // It has come after them, and has its turn after them.
                assert_eq!(server.get("/fill/1").status, 200);
                let whole = clients.iter_mut().filter_map(|it| it.rest().ok());
                let whole = whole.filter(|bytes| bytes.len() >= 40 << 10).count();
                assert!(
                    whole <= PLACES,
                    "{whole} had all: {request:?}, ends: {ends}"
                );
                assert_eq!(server.get("/fill/1").status, 200);
                assert_eq!(server.stop().code(), 0);
            });
        }
    });
}

/// Waits until the answer to a client has begun to come.
fn has_begun(client: &mut Client) -> bool {
    client.sender().peek(&mut [0]).is_ok_and(|len| len > 0)
}

/// A new connection waits for the place of one that becomes idle, with an empty line behind its request.
#[test]
fn a_connection_that_is_idle_behind_an_empty_line_makes_room() {
    let server = odd("--loops 1 --buckets 4 --connections 2 --deadline 0");
    let mut first: Vec<_> = (0..2).map(|_| server.connect()).collect();
    first
        .iter_mut()
        .for_each(|client| client.send(get("/attend?piece")));
    assert!(first.iter_mut().all(has_begun));
    // They wait in the kernel, and the first of them has the place of a client that goes.
    let mut release = server.connect();
    release.send("POST /release HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n\r\n");
    let mut last = server.connect();
    last.send(get("/fill/1"));
    drop(first.pop());
    assert_eq!(release.answer().status, 200);
    assert_eq!(last.answer().status, 200);
}

/// Slow clients, however many stand before it, do not hide a connection that is idle.
#[test]
fn a_new_connection_has_the_place_of_an_idle_one_behind_slow_ones() {
    const SLOW: usize = 12;
    let flags = format!("--loops 1 --buckets 4 --connections {}", SLOW + 2);
    let server = odd(&flags);
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        let mut client = Client::connect_with_buffer(server.address(), 2048);
        client.send(get("/long/40"));
        slow.push(client);
    }
    let mut idle: Vec<_> = (0..2).map(|_| server.connect()).collect();
    for client in &mut idle {
        client.send(get("/fill/1"));
        assert_eq!(client.answer().status, 200);
    }
    // They take some of it all the time.
    let (sipping, served) = (AtomicUsize::new(SLOW), AtomicBool::new(false));
    thread::scope(|scope| {
        for client in &slow {
            scope.spawn(|| {
                let (mut stream, mut buffer, mut taken) = (client.sender(), [0; 256], 0);
                while taken < 40 << 10 {
                    taken += stream.read(&mut buffer).expect("it is not reset");
                    if !served.load(Ordering::SeqCst) {
                        thread::sleep(Duration::from_millis(20)); // the client's own pace
                    }
                }
                sipping.fetch_sub(1, Ordering::SeqCst);
            });
        }
        assert_eq!(server.get("/fill/1").status, 200);
        served.store(true, Ordering::SeqCst);
        assert_eq!(sipping.load(Ordering::SeqCst), SLOW);
    });
    drop(slow);
    assert_eq!(server.stop().figure("slow_cut"), 0);
}

/// Answers that are with the kernel, and answers that are larger than that; with one loop and with two.
#[test]
fn a_new_connection_has_the_place_of_a_client_that_takes_nothing() {
    let cases = [
        (1, "/long/40"),
        (1, "/long/4000"),
        (2, "/long/40"),
        (2, "/long/40"),
        (2, "/long/4000"),
    ];
    thread::scope(|scope| {
        for (loops, path) in cases {
            scope.spawn(move || {
                let server = odd(&format!(
                    "--loops {loops} --buckets 4 --connections 2 --write-timeout 1h --deadline 0"
                ));
                let mut silent = slow_readers(&server, 2, path);
                assert!(silent.iter_mut().all(has_begun));
                assert_eq!(server.get("/fill/1").status, 200, "{loops} {path}");
                drop(silent);
                let ended = server.stop();
                assert_eq!((ended.code(), ended.figure("slow_cut")), (0, 1));
            });
        }
    });
}

/// Clients that ask again and again are idle in between, also if their kernels tell late what they have got.
#[test]
fn new_connections_have_the_places_of_clients_that_ask_often() {
    let server = odd("--loops 1 --buckets 4 --connections 4");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = server.connect();
                while !done.load(Ordering::SeqCst) {
                    client.send(get("/fill/1"));
                    if client.try_answer().is_err() {
                        client = server.connect();
                    }
                    thread::sleep(Duration::from_millis(30)); // the client's own pace
                }
            });
        }
        for _ in 0..20 {
            assert_eq!(server.get("/fill/1").status, 200);
        }
        done.store(true, Ordering::SeqCst);
    });
    assert_eq!(server.stop().code(), 0);
}

/// Also where none of them has acknowledged its last answer yet, one connection ends for one newcomer.
#[test]
fn a_new_connection_has_the_place_of_one_other() {
    let server = odd("--loops 1 --buckets 4 --connections 16");
    let mut clients: Vec<_> = (0..16).map(|_| server.connect()).collect();
    // A kernel that has seen some requests acknowledges late.
    for _ in 0..20 {
        for client in &mut clients {
            client.send(get("/fill/1"));
            assert_eq!(client.answer().status, 200);
        }
    }
    assert_eq!(server.get("/fill/1").status, 200);
    let is_open =
        |client: &mut &mut Client| client.try_send(get("/fill/1")) && client.try_answer().is_ok();
    let open = clients
        .iter_mut()
        .filter_map(|mut client| is_open(&mut client).then_some(()))
        .count();
    assert!(open >= 14, "{open} of 16");
}

/// It makes no difference what else happens on the connection of a client that takes nothing.
#[test]
fn a_new_connection_has_the_place_of_a_client_that_takes_nothing_and_goes_on() {
    let early = "POST /early HTTP/1.1\r\nHost: test\r\nContent-Length: 100000000\r\n\r\n";
    // What it sends once, and what it sends again and again.
    let cases = [
        (String::new(), get("/fill/1")),
        (get("/attend?piece"), String::new()),
        (early.to_owned(), "x".repeat(600)),
    ];
    thread::scope(|scope| {
        for (once, often) in cases {
            scope.spawn(move || {
                let server = odd(
                    "--loops 1 --buckets 4 --connections 1 --write-timeout 1h --body-timeout 1h --deadline 0",
                );
                let mut client = Client::connect_with_buffer(server.address(), 2048);
                client.send(get("/long/40"));
                assert!(has_begun(&mut client));
                client.send(once);
                let served = AtomicBool::new(false);
                thread::scope(|scope| {
                    let (mut sender, served, often) = (client.sender(), &served, &often);
                    scope.spawn(move || {
                        while !served.load(Ordering::SeqCst) && sender.write_all(often.as_bytes()).is_ok() {
                            thread::sleep(Duration::from_millis(200)); // the client's own pace
                        }
                    });
                    let mut newcomer = server.connect();
                    newcomer.send(get("/fill/1"));
                    let answer = newcomer.try_answer();
                    served.store(true, Ordering::SeqCst);
                    assert_eq!(answer.map(|answer| answer.status).ok(), Some(200), "{often}");
                });
            });
        }
    });
}

/// Clients that send several requests and take no answer have no buffers that others need.
#[test]
fn a_head_in_two_parts_has_the_buffer_of_a_client_that_takes_nothing() {
    let server = odd("--loops 1 --buckets 16 --partial-heads 4 --write-timeout 1h --deadline 0");
    let mut silent = slow_readers(&server, 4, "/long/4000");
    for client in &mut silent {
        assert!(has_begun(client));
        client.send(get("/fill/1").repeat(3));
    }
    assert!(eventually(|| {
        let mut client = server.connect();
        client.send("GET /fill/1 HTTP/1.1\r\n");
        let _ = client.hears_nothing_for(Duration::from_millis(50));
        client.send("Host: test\r\n\r\n");
        client.answer().status == 200
    }));
    // Who takes its answer, however slowly, has a buffer for what it has sent ahead.
    drop(silent);
    let mut client = Client::connect_with_buffer(server.address(), 2048);
    client.send(get("/long/40") + &get("/fill/1"));
    assert_eq!(client.answer().status, 200);
    assert_eq!(client.answer().status, 200);
}

/// Bodies that lie in a buffer or in a slot, that a handler waits for, or that are read for a refusal only.
#[test]
fn a_new_connection_has_the_place_of_a_client_that_sends_no_more_of_its_body() {
    let cases = [
        (1, "/", 4000),
        (1, "/", 40_000),
        (1, "/stream", 1_000_000),
        (1, "/nowhere", 4000),
        (1, "/nowhere", 1_000_000),
        (2, "/", 4000),
    ];
    thread::scope(|scope| {
        for (loops, path, length) in cases {
            scope.spawn(move || {
                let flags = format!(
                    "--loops {loops} --buckets 4 --connections 2 --body-timeout 1h --deadline 0"
                );
                let server = Server::start("echo", &flags);
                let head = format!(
                    "POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n12"
                );
                let mut silent: Vec<_> = (0..2).map(|_| server.connect()).collect();
                silent.iter_mut().for_each(|client| client.send(&head));
                let newcomer = server.post("/", "hello");
                assert_eq!(newcomer.text(), "hello", "{loops} {path} {length}");
                drop(silent);
                assert_eq!(server.stop().code(), 0);
            });
        }
    });
}

/// A client that sends at the rate that is asked for keeps its place.
#[test]
fn a_new_connection_does_not_have_the_place_of_a_client_that_sends_a_body_steadily() {
    let flags = "--loops 1 --buckets 4 --connections 1 --body-timeout 1h --deadline 0";
    let server = Server::start("echo", flags);
    let mut client = server.connect();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 40000\r\n\r\n");
    thread::scope(|scope| {
        let newcomer = scope.spawn(|| server.post("/", "hello").status);
        for _ in 0..40 {
            thread::sleep(Duration::from_millis(150)); // the client's own pace
            client.send("x".repeat(1000));
        }
        assert_eq!(client.answer().status, 200);
        assert_eq!(newcomer.join().expect("no panic"), 200);
    });
}

#[test]
fn a_client_that_has_sent_a_part_of_its_next_request_takes_all_of_its_answer() {
    let server = odd("--loops 1 --buckets 4 --connections 1 --header-timeout 1h");
    let mut client = Client::connect_with_buffer(server.address(), 2048);
    client.send(get("/long/40") + "G");
    thread::scope(|scope| {
        let newcomer = scope.spawn(|| server.get("/fill/1").status);
        let (mut stream, mut buffer, mut taken) = (client.sender(), [0; 512], 0);
        while taken < 40 << 10 {
            let len = stream.read(&mut buffer).expect("it is not reset");
            assert!(len > 0, "the end after {taken} bytes");
            taken += len;
            thread::sleep(Duration::from_millis(20)); // the client's own pace
        }
        assert_eq!(newcomer.join().expect("no panic"), 200);
    });
}

/// Connects clients that ask for something long and do not read it.
fn slow_readers(server: &Server, count: usize, path: &str) -> Vec<Client> {
    (0..count)
        .map(|_| {
            let mut client = Client::connect_with_buffer(server.address(), 2048);
            client.send(get(path));
            client
        })
        .collect()
}

#[test]
fn readers_that_do_not_read_leave_handlers_for_others() {
    let folder = transom_tests::Folder::new("unread");
    std::fs::write(folder.path().join("big"), vec![b'x'; 1 << 20]).expect("a file");
    std::fs::write(folder.path().join("small"), "small\n").expect("a file");
    for through_a_door in [false, true] {
        let doors = Folder::new("unread-door");
        let door = doors.path("files.door");
        let (_application, server) = start_files(folder.path(), through_a_door.then_some(&*door));
        let readers = slow_readers(&server, 64, "/big");
        for n in 0..20 {
            let began = Instant::now();
            let answer = server.get("/small");
            let case = format!("request {n}, after {:?}", began.elapsed());
            assert_eq!((answer.status, answer.text()), (200, "small\n"), "{case}");
        }
        drop(readers);
        assert_eq!(server.get("/small").status, 200);
    }
}

/// `send-static-file` with few buckets, and a queue timeout that no request may meet.
fn start_files(root: &Path, door: Option<&Path>) -> (Option<Server>, Server) {
    let launch = Launch::of("send-static-file").env("TRANSOM_ROOT", root);
    let front = "--loops 1 --send-buffer 8KiB --queue-timeout 5s --write-timeout 1h --deadline 0";
    match door {
        None => {
            let flags = format!("--buckets 16 {front}");
            (None, launch.flags(&flags).start())
        }
        Some(door) => {
            let flags = format!("--buckets 16 --door {}", door.display());
            let application = launch.flags(&flags).start();
            (Some(application), before(door, front))
        }
    }
}

#[test]
fn a_single_bucket_is_taken_from_who_does_not_read_before_others_are_sent_away() {
    let flags = "--loops 1 --buckets 1 --slots 1 --send-buffer 8KiB --queue-timeout 2s \
                 --write-timeout 1h --deadline 0";
    let server = odd(flags);
    let mut reader = slow_readers(&server, 1, "/long/4000");
    assert_eq!(server.get("/fill/1").status, 200);
    let cut = reader[0].try_answer();
    assert!(matches!(cut, Err(Trouble::Reset | Trouble::Cut)), "{cut:?}");
}

#[test]
fn lingering_connections_have_their_share_and_the_oldest_goes_first() {
    let server = Server::start("hello", "--loops 1 --buckets 4 --connections 16");
    let before = server.sample().descriptors;
    // They are refused, and stay to send more.
    let mut refused: Vec<_> = (0..12).map(|_| server.connect()).collect();
    for client in &mut refused {
        client.send("BAD\r\n\r\n");
        assert_eq!(client.answer().status, 400);
    }
    // They close before their timeout, though on a loaded machine the timeout may close them.
    assert!(eventually(|| server.sample().descriptors <= before + 4));
    assert_eq!(server.get("/").status, 200);
}

#[test]
fn heads_that_trickle_in_do_not_keep_the_last_connections() {
    let flags = "--loops 1 --buckets 4 --connections 8 --header-timeout 1h --partial-heads 64";
    let server = Server::start("hello", flags);
    let mut slow: Vec<_> = (0..8).map(|_| server.connect()).collect();
    let before = server.sample().descriptors;
    for client in &mut slow {
        client.send("GET / HTTP/1.1\r\n");
        assert!(client.hears_nothing_for(Duration::from_millis(5)));
    }
    assert!(eventually(|| server.sample().descriptors >= before));
    for _ in 0..4 {
        let answer = server.answer_to("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        assert_eq!(answer.status, 200);
    }
}

#[test]
fn of_unfinished_heads_the_slowest_has_to_go_not_the_oldest() {
    let server = Server::start("hello", "--buckets 4 --loops 1 --partial-heads 2");
    let mut old = server.connect();
    old.send(format!("GET / HTTP/1.1\r\nX: {}\r\n", "x".repeat(8000)));
    assert!(old.hears_nothing_for(Duration::from_millis(20)));
    let mut slow = server.connect();
    slow.send("G");
    assert!(slow.hears_nothing_for(Duration::from_millis(20)));
    let mut new = server.connect();
    new.send("GET / HTTP/1.1\r\n");
    assert_eq!(slow.answer().status, 408);
    old.send("Host: test\r\n\r\n");
    assert_eq!(old.answer().status, 200);
    new.send("Host: test\r\n\r\n");
    assert_eq!(new.answer().status, 200);
}

const OPTIONS: &str = "OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n";

#[test]
fn options_asterisk_needs_no_slot() {
    let application = "--buckets 1 --slots 1";
    let front = "--loops 1 --queue-timeout 1h";
    both("options", "oom", application, front, |place, server| {
        let mut busy = server.connect();
        busy.send(get("/sleep/3000"));
        // It has the only slot, so others wait for theirs.
        let mut waiting = server.connect();
        assert!(waiting.hears_nothing_for(Duration::from_millis(200)));
        waiting.send(get("/1"));
        assert!(waiting.hears_nothing_for(Duration::from_millis(50)));
        for parts in [
            &[OPTIONS][..],
            &["\r\n", OPTIONS],
            &["OPT", "IONS * HTTP/1.1\r\nHo", "st: test\r\n\r\n"],
        ] {
            let mut client = server.connect();
            for part in parts {
                client.send(part);
                if parts.len() > 1 {
                    let _ = client.hears_nothing_for(Duration::from_millis(20));
                }
            }
            assert_eq!(client.answer().status, 204, "{place}: {parts:?}");
            client.send(OPTIONS);
            assert_eq!(client.answer().status, 204, "{place}: again");
        }
        assert!(
            waiting.hears_nothing_for(Duration::from_millis(1)),
            "{place}: the slot was taken all the while"
        );
        assert_eq!(busy.answer().text(), "slept\n", "{place}");
        assert_eq!(waiting.answer().status, 200, "{place}");
    });
}

#[test]
fn a_client_that_has_sent_nothing_is_not_told_that_there_is_no_slot() {
    let flags = "--loops 1 --buckets 1 --slots 1 --queue-timeout 100ms";
    let server = Server::start("oom", flags);
    let mut busy = server.connect();
    busy.send(get("/sleep/1000"));
    server.wait_for_sleepers(1);
    let mut silent = server.connect();
    assert!(silent.hears_nothing_for(Duration::from_millis(400)));
    assert_eq!(busy.answer().status, 200);
    assert_eq!(silent.get("/1").status, 200);
}

/// Sends thousands of requests before it reads one answer.
fn ahead(server: &Server, request: &str, status: u16, count: usize) {
    let mut client = Client::connect_with_buffer(server.address(), 2048);
    let mut sender = client.sender();
    let bytes = request.repeat(count);
    thread::scope(|scope| {
        let sending = scope.spawn(move || sender.write_all(bytes.as_bytes()));
        // By now it is stuck in both directions.
        thread::sleep(Duration::from_millis(300));
        for n in 0..count {
            assert_eq!(client.answer().status, status, "answer {n}");
        }
        sending.join().expect("no panic").expect("all is taken");
    });
}

#[test]
fn answers_of_ours_that_do_not_fit_the_socket_lose_nobody() {
    let folder = Folder::new("ahead");
    let door = folder.path("hello.door");
    let _application = behind(&door, "hello", "--buckets 2");
    let forward = format!("--forward http://127.0.0.1:0/hello={}", door.display());
    let server = Launch::of("transom")
        .flags(&format!("serve {forward} --loops 1 --send-buffer 4KiB"))
        .start();
    ahead(&server, OPTIONS, 204, 5000);
    ahead(&server, &get("/elsewhere"), 404, 5000);
    assert_eq!(server.get("/hello/x").status, 200);
}
