//! Connections forwarded through a door: raw sockets, `nc`, and applications that come, fail and go.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use transom_tests::client::reset;
use transom_tests::doors::{Folder, behind};
use transom_tests::server::installed;
use transom_tests::{Client, Launch, PATIENCE, Server, eventually};

fn front(door: &Path, flags: &str) -> Server {
    let forward = format!("serve --forward tcp://127.0.0.1:0={}", door.display());
    Launch::of("transom")
        .flags(&format!("{forward} {flags}"))
        .start()
}

fn odd(door: &Path, flags: &str) -> Server {
    Launch::of_file(env!("CARGO_BIN_EXE_odd-tcp"))
        .flags(&format!("--door {} {flags}", door.display()))
        .start()
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// What comes back for these bytes, to the end of the connection; `None` if it breaks.
fn exchange(address: SocketAddr, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut stream = connect(address);
    stream.write_all(bytes).ok()?;
    stream.shutdown(Shutdown::Write).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    Some(answer)
}

/// Sockets that a process has open.
fn sockets(of: &Server) -> usize {
    let files = std::fs::read_dir(format!("/proc/{}/fd", of.pid())).expect("it runs");
    let links = files
        .flatten()
        .filter_map(|file| file.path().read_link().ok());
    let names = links.filter(|link| link.to_string_lossy().starts_with("socket:"));
    names.collect::<BTreeSet<_>>().len()
}

/// The number that a field of a forward's last line has.
fn figure(lines: &[String], name: &str) -> u64 {
    let line = lines
        .iter()
        .find(|line| line.contains(" forwarded connections forward="));
    let fields = line.into_iter().flat_map(|line| line.split(' '));
    let mut values = fields.filter_map(|field| field.split_once('='));
    let value = values.find(|(key, _)| *key == name);
    let value = value.and_then(|(_, value)| value.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in\n{}", lines.join("\n")))
}

#[test]
fn an_application_of_connections_asks_for_a_door() {
    let ended = Launch::of("tcp-echo").run();
    assert_eq!(ended.code(), 2);
    assert!(ended.stderr().contains("--door PATH"), "{}", ended.stderr());
    assert!(ended.stderr().contains("tcp://"), "{}", ended.stderr());
}

#[test]
fn what_is_sent_comes_back_and_the_connection_ends_with_the_handler() {
    let folder = Folder::new("tcp-echo");
    let door = folder.path("echo.door");
    let app = behind(&door, "tcp-echo", "--buckets 4");
    let front = front(&door, "");
    let long: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
    assert_eq!(exchange(front.address(), b""), Some(Vec::new()));
    assert_eq!(exchange(front.address(), b"hello"), Some(b"hello".to_vec()));
    // More than the sockets hold: a client that writes must also read.
    let mut stream = connect(front.address());
    let mut writer = stream.try_clone().expect("a copy");
    let sent = long.clone();
    let writing = thread::spawn(move || {
        writer.write_all(&sent).expect("it is taken");
        writer.shutdown(Shutdown::Write).expect("it is open");
    });
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it ends");
    writing.join().expect("a writer does not panic");
    assert!(answer == long);
    let ended = front.stop();
    assert_eq!(ended.code(), 0, "{}", ended.stderr());
    assert_eq!(figure(&ended.lines, "accepted"), 3);
    assert_eq!(figure(&ended.lines, "served"), 3);
    assert_eq!(ended.figure("process_heap_allocations"), 0);
    assert_eq!(app.stop().code(), 0);
}

#[test]
fn a_door_that_goes_away_is_told_of_without_the_process_heap() {
    let folder = Folder::new("tcp-gone");
    let door = folder.path("echo.door");
    let echo = behind(&door, "tcp-echo", "--buckets 2");
    let front = front(&door, "");
    let _ = front.line_with("the door is open");
    // A link that leads to itself, so that the system has something to say.
    std::fs::remove_file(&door).expect("it is there");
    std::os::unix::fs::symlink(&door, &door).expect("a link");
    assert_eq!(echo.stop().code(), 0);
    let said = front.line_with("the door is away");
    assert!(said.contains("os error 40"), "{said}");
    assert_eq!(front.stop().figure("process_heap_allocations"), 0);
}

#[test]
fn nc_is_answered() {
    let Some(nc) = installed("nc") else {
        eprintln!("nc is not installed: nothing is tested here");
        return;
    };
    let folder = Folder::new("tcp-nc");
    let door = folder.path("echo.door");
    let _app = behind(&door, "tcp-echo", "--buckets 4");
    let front = front(&door, "");
    let mut child = Command::new(nc)
        .args(["-N", "127.0.0.1", &front.address().port().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("nc starts");
    let mut input = child.stdin.take().expect("it is piped");
    input.write_all(b"from nc\n").expect("it reads");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.stdout, b"from nc\n");
}

#[test]
fn a_handler_that_fails_costs_its_own_connection_only() {
    let folder = Folder::new("tcp-failures");
    let door = folder.path("odd.door");
    let app = odd(&door, "--buckets 2 --bucket-size 256KiB --stack-size 64KiB");
    let front = front(&door, "");
    let mut kept = connect(front.address());
    kept.write_all(b"before").expect("it is taken");
    let mut bytes = [0; 6];
    kept.read_exact(&mut bytes).expect("it comes back");
    for round in 0..3 {
        for (line, answer) in [
            (&b"arena\n"[..], &b""[..]),
            (b"stack\n", b""),
            (b"panic\n", b""),
            (b"leave\n", b""),
            (b"fine", b"fine"),
        ] {
            let got = exchange(front.address(), line);
            assert_eq!(got.as_deref(), Some(answer), "round {round}");
        }
    }
    // Each ended connection has closed its descriptor. Three are left: the door's listener, the front end's
    // channel, the open connection.
    assert!(eventually(|| sockets(&app) == 3), "{}", sockets(&app));
    kept.write_all(b"after!").expect("it is taken");
    kept.read_exact(&mut bytes).expect("it comes back");
    assert_eq!(&bytes, b"after!");
    drop(kept);
    let ended = front.stop();
    assert_eq!(figure(&ended.lines, "failed"), 9);
    assert_eq!(figure(&ended.lines, "served"), 7);
    let ended = app.stop();
    assert_eq!(ended.figure("exhausted_arena"), 3);
    assert_eq!(ended.figure("exhausted_stack"), 3);
    assert_eq!(ended.figure("panicked"), 3);
}

#[test]
fn a_connection_ends_when_its_handler_is_parked_and_its_descriptor_stays() {
    let folder = Folder::new("tcp-parked");
    let door = folder.path("odd.door");
    let app = odd(
        &door,
        "--buckets 4 --bucket-size 256KiB --stack-size 64KiB --on-exhaustion park --lost-limit 4",
    );
    let front = front(&door, "");
    for line in ["arena\n", "stack\n"] {
        let got = exchange(front.address(), line.as_bytes());
        assert_eq!(got.as_deref(), Some(&b""[..]), "{line}");
    }
    // The door's listener and the front end's channel; and the two descriptors, which other threads may use
    // for ever.
    assert_eq!(exchange(front.address(), b"fine"), Some(b"fine".to_vec()));
    assert!(eventually(|| sockets(&app) == 2 + 2), "{}", sockets(&app));
    assert_eq!(figure(&front.stop().lines, "failed"), 2);
    assert_eq!(app.stop().figure("parked"), 2);
}

#[test]
fn a_slot_that_a_lost_call_keeps_is_counted() {
    let folder = Folder::new("tcp-slots-lost");
    let door = folder.path("odd.door");
    let app = odd(
        &door,
        "--buckets 4 --bucket-size 256KiB --on-exhaustion park --lost-limit 4",
    );
    let front = front(&door, "--admin 127.0.0.1:0");
    let slots_lost = || front.metric("transom_slots_lost");
    assert_eq!(slots_lost(), Some(0.0));
    assert_eq!(
        exchange(front.address(), b"arena\n").as_deref(),
        Some(&b""[..])
    );
    assert!(
        eventually(|| slots_lost() == Some(1.0)),
        "{:?}",
        slots_lost()
    );
    assert_eq!(app.stop().figure("parked"), 1);
    let _ = front.stop();
}

#[test]
fn one_front_end_forwards_requests_connections_and_datagrams() {
    let folder = Folder::new("tcp-all");
    let [hello, echo, dns] = ["hello", "echo", "dns"].map(|name| folder.path(name));
    let _hello = behind(&hello, "hello", "--buckets 2");
    let _echo = behind(&echo, "tcp-echo", "--buckets 2");
    let _dns = behind(&dns, "dns", "--buckets 2");
    let front = Launch::of("transom")
        .flags(&format!(
            "serve --loops 1 --forward tcp://127.0.0.1:0={} --forward udp://127.0.0.1:0={} --forward http://127.0.0.1:0={}",
            echo.display(),
            dns.display(),
            hello.display()
        ))
        .start();
    let ready = front.line_with(" ready ");
    let address = |scheme: &str| -> SocketAddr {
        let (_, rest) = ready.split_once(&format!("{scheme}://")).expect(scheme);
        let end = rest.find([',', ' ']).expect("it is not the last");
        rest[..end].parse().expect("an address")
    };
    assert_eq!(exchange(address("tcp"), b"tcp"), Some(b"tcp".to_vec()));
    let request = b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n";
    let answer = exchange(address("http"), request).expect("an answer");
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
    let client = UdpSocket::bind("127.0.0.1:0").expect("a port");
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    // A header without a question: FORMERR.
    let query = [1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    client.send_to(&query, address("udp")).expect("it is sent");
    let mut bytes = [0; 512];
    let len = client.recv(&mut bytes).expect("an answer");
    assert_eq!(bytes[..len], [1, 2, 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    let ended = front.stop();
    assert_eq!(ended.code(), 0, "{}", ended.stderr());
    assert_eq!(figure(&ended.lines, "served"), 1);
    assert_eq!(ended.figure("requests"), 1);
}

#[test]
fn more_connections_than_slots_are_all_served() {
    let folder = Folder::new("tcp-many");
    let door = folder.path("echo.door");
    let app = behind(&door, "tcp-echo", "--buckets 4 --slots 8");
    let front = front(&door, "");
    let address = front.address();
    let clients: Vec<_> = (0..200_u32)
        .map(|n| {
            thread::spawn(move || {
                let bytes = vec![n as u8; 2000];
                exchange(address, &bytes) == Some(bytes)
            })
        })
        .collect();
    let served = clients
        .into_iter()
        .filter_map(|client| client.join().ok())
        .filter(|&served| served)
        .count();
    assert_eq!(served, 200);
    let ended = front.stop();
    assert_eq!(figure(&ended.lines, "served"), 200);
    assert!(app.stop().figure("threads") <= 4);
}

#[test]
fn connections_wait_for_an_application_that_is_not_there_yet() {
    let folder = Folder::new("tcp-waits");
    let door = folder.path("odd.door");
    let front = front(&door, "--queue-timeout 20s");
    let _ = front.line_with("the door is away");
    let address = front.address();
    let client = thread::spawn(move || exchange(address, b"early"));
    let _app = odd(&door, "--buckets 2");
    assert_eq!(client.join().expect("it ends"), Some(b"early".to_vec()));
    let _ = front.line_with("the door is back");
}

#[test]
fn connections_to_a_door_that_stays_away_are_closed() {
    let folder = Folder::new("tcp-away");
    let front = front(&folder.path("none.door"), "--queue-timeout 5ms");
    let mut stream = connect(front.address());
    let mut byte = [0];
    assert_eq!(stream.read(&mut byte).expect("an orderly end"), 0);
    assert_eq!(figure(&front.stop().lines, "refused"), 1);
}

#[test]
fn a_door_of_another_kind_is_named() {
    let folder = Folder::new("tcp-kind");
    let door = folder.path("hello.door");
    let _app = behind(&door, "hello", "--buckets 2");
    let front = front(&door, "--queue-timeout 5ms");
    let _ = front.line_with("takes no connections");
    assert_eq!(exchange(front.address(), b""), Some(Vec::new()));
}

#[test]
fn an_application_that_is_killed_and_comes_back_is_found_again() {
    let folder = Folder::new("tcp-kills");
    let door = folder.path("odd.door");
    let mut app = odd(&door, "--buckets 4");
    let front = front(&door, "--queue-timeout 20s");
    let address = front.address();
    let stop: Arc<AtomicBool> = Arc::default();
    let (served, broken): (Arc<AtomicU64>, Arc<AtomicU64>) = Default::default();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, served, broken) = (stop.clone(), served.clone(), broken.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    match exchange(address, b"traffic").as_deref() {
                        Some(b"traffic") => served.fetch_add(1, Ordering::Relaxed),
                        // It ended, in whatever way, with the process that served it.
                        Some(b"") | None => broken.fetch_add(1, Ordering::Relaxed),
                        Some(other) => panic!("{other:?} was never sent"),
                    };
                }
            })
        })
        .collect();
    let wait_for_more = || {
        let enough = served.load(Ordering::Relaxed) + 50;
        assert!(eventually(|| served.load(Ordering::Relaxed) >= enough));
    };
    let files = || {
        let files = std::fs::read_dir(format!("/proc/{}/fd", front.pid()));
        files.expect("it runs").count()
    };
    for _ in 0..5 {
        wait_for_more();
        app.signal(libc::SIGKILL);
        drop(app);
        app = odd(&door, "--buckets 4");
        wait_for_more();
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("nothing was made up");
    }
    // At most those that ran when it was killed: one for each client, five times.
    assert!(broken.load(Ordering::Relaxed) <= 20);
    // The standard ones, the log's, and those of the forward and one channel: far from five channels.
    assert!(eventually(|| files() <= 20), "{} descriptors", files());
    let pid = exchange(address, b"pid\n").expect("it is served");
    assert_eq!(pid, format!("{}\n", app.pid()).into_bytes());
    let ended = front.stop();
    assert_eq!(ended.code(), 0, "{}", ended.stderr());
    let sum = ["served", "lost"].map(|name| figure(&ended.lines, name));
    assert_eq!(sum[0] + sum[1], figure(&ended.lines, "accepted"));
}

#[test]
fn an_application_that_is_replaced_loses_no_connection() {
    let folder = Folder::new("tcp-replaced");
    let door = folder.path("odd.door");
    let mut app = odd(&door, "--buckets 4");
    let front = front(&door, "--queue-timeout 20s");
    let address = front.address();
    let stop: Arc<AtomicBool> = Arc::default();
    let served: Arc<AtomicU64> = Arc::default();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, served) = (stop.clone(), served.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let answer = exchange(address, b"traffic");
                    assert_eq!(answer.as_deref(), Some(&b"traffic"[..]));
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut pids = BTreeSet::new();
    for _ in 0..5 {
        let enough = served.load(Ordering::Relaxed) + 50;
        assert!(eventually(|| served.load(Ordering::Relaxed) >= enough));
        pids.insert(exchange(address, b"pid\n").expect("it is served"));
        let next = Launch::of_file(env!("CARGO_BIN_EXE_odd-tcp")).flags(&format!(
            "--door {} --buckets 4 --door-wait 20s",
            door.display()
        ));
        app.signal(libc::SIGTERM);
        let next = next.start();
        assert_eq!(app.wait().code(), 0);
        app = next;
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("every connection was served");
    }
    assert_eq!(pids.len(), 5);
    let ended = front.stop();
    assert_eq!(figure(&ended.lines, "lost"), 0);
    assert_eq!(figure(&ended.lines, "failed"), 0);
}

#[test]
fn a_drain_waits_for_connections_and_cuts_those_that_stay() {
    let folder = Folder::new("tcp-drain");
    let door = folder.path("echo.door");
    let _app = behind(&door, "tcp-echo", "--buckets 2");
    for (timeout, status) in [("20s", 0), ("50ms", 1)] {
        let front = front(&door, &format!("--drain-timeout {timeout}"));
        let mut stream = connect(front.address());
        stream.write_all(b"one").expect("it is taken");
        let mut bytes = [0; 3];
        stream.read_exact(&mut bytes).expect("it comes back");
        front.signal(libc::SIGTERM);
        let _ = front.line_with("draining");
        if status == 0 {
            stream.write_all(b"two").expect("it is taken");
            stream.read_exact(&mut bytes).expect("it comes back");
            assert_eq!(&bytes, b"two");
            drop(stream);
            assert_eq!(front.wait().code(), status);
        } else {
            let ended = front.wait();
            assert_eq!(ended.code(), status);
            assert_eq!(figure(&ended.lines, "cut"), 1);
            drop(stream);
        }
    }
}

/// A connection that is being served: it has been echoed to.
fn served(address: SocketAddr) -> TcpStream {
    let mut stream = connect(address);
    say(&mut stream);
    stream
}

fn say(stream: &mut TcpStream) {
    stream.write_all(b"ping").expect("it is taken");
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes).expect("it comes back");
    assert_eq!(&bytes, b"ping");
}

fn has_ended(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0]), Ok(0))
        || stream
            .peek(&mut [0])
            .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
}

#[test]
fn idle_connections_lock_nobody_out() {
    let folder = Folder::new("tcp-idle");
    let door = folder.path("echo.door");
    let app = behind(&door, "tcp-echo", "--buckets 8");
    let front = front(&door, "--connections 4 --idle-timeout 1s");
    let address = front.address();
    let mut idle: Vec<_> = (0..4).map(|_| served(address)).collect();
    // There is a bucket for it, and no place among the connections: it waits, and a line says so.
    let mut next = connect(address);
    next.write_all(b"ping").expect("it is taken");
    let line = front.line_with("as many connections as it may");
    assert!(
        line.contains("connections=4")
            && line.contains("raise --connections, or lower --idle-timeout"),
        "{line}"
    );
    let mut bytes = [0; 4];
    next.read_exact(&mut bytes)
        .expect("it is served once one has gone");
    assert!(idle.iter_mut().all(has_ended));
    assert!(eventually(|| sockets(&app) == 3), "{}", sockets(&app));
    drop((idle, next));
    let ended = front.stop();
    assert_eq!(figure(&ended.lines, "idle"), 4);
    assert_eq!(figure(&ended.lines, "accepted"), 5);
}

/// The client may still take the bytes that a handler has sent, and the connection keeps its place meanwhile.
#[test]
fn connections_leave_nothing_with_the_kernel_once_their_handlers_have_ended() {
    const PLACES: usize = 4;
    let folder = Folder::new("tcp-untaken");
    let door = folder.path("odd.door");
    let _app = odd(&door, "--buckets 4");
    let front = front(&door, &format!("--connections {PLACES}"));
    let mut clients: Vec<_> = (0..2 * PLACES)
        .map(|_| {
            let mut client = Client::connect_with_buffer(front.address(), 2048);
            client.send("much\n");
            client
        })
        .collect();
    // This client comes after them, and takes its answer at once.
    let answer = exchange(front.address(), b"much\n").expect("an answer");
    assert_eq!(answer.len(), 40 << 10);
    let whole = clients.iter_mut().filter_map(|client| client.rest().ok());
    let whole = whole.filter(|bytes| bytes.len() == 40 << 10).count();
    assert!(whole <= PLACES, "{whole} had all");
    let ended = front.stop();
    let served = figure(&ended.lines, "served");
    assert_eq!(served, 2 * PLACES as u64 + 1);
    assert_eq!(figure(&ended.lines, "untaken"), (2 * PLACES - whole) as u64);
}

#[test]
fn a_client_may_be_slow_to_take_what_it_was_sent_where_no_other_wants_its_place() {
    const PLACES: usize = 4;
    let folder = Folder::new("tcp-full");
    let door = folder.path("odd.door");
    let _app = odd(&door, "--buckets 4");
    let front = front(&door, &format!("--connections {PLACES}"));
    let mut clients: Vec<_> = (0..PLACES)
        .map(|_| {
            let mut client = Client::connect_with_buffer(front.address(), 2048);
            client.send("much\n");
            client
        })
        .collect();
    thread::sleep(std::time::Duration::from_millis(5500)); // the clients' own pace
    for client in &mut clients {
        assert_eq!(client.rest().map(|bytes| bytes.len()), Ok(40 << 10));
    }
    assert_eq!(figure(&front.stop().lines, "untaken"), 0);
}

#[test]
fn a_connection_that_is_in_use_is_not_idle() {
    let folder = Folder::new("tcp-busy");
    let door = folder.path("echo.door");
    let _app = behind(&door, "tcp-echo", "--buckets 4");
    let front = front(&door, "--idle-timeout 1s");
    let (quiet, mut busy) = (served(front.address()), served(front.address()));
    // No times are compared: the test speaks on the busy connection until the quiet one has been cut.
    quiet.set_nonblocking(true).expect("a socket");
    let cut = eventually(|| {
        say(&mut busy);
        matches!(quiet.peek(&mut [0]), Ok(0))
    });
    assert!(cut);
    say(&mut busy);
    drop((quiet, busy));
    assert_eq!(figure(&front.stop().lines, "idle"), 1);
}

#[test]
fn an_address_has_no_more_connections_than_it_may() {
    let folder = Folder::new("tcp-address");
    let door = folder.path("echo.door");
    let _app = behind(&door, "tcp-echo", "--buckets 8");
    let front = front(&door, "--connections-per-address 3");
    let address = front.address();
    let mut held: Vec<_> = (0..3).map(|_| served(address)).collect();
    assert!(has_ended(&mut connect(address)));
    held.pop();
    // Once the handler has seen its end, there is room for another one.
    assert!(eventually(|| {
        let mut stream = connect(address);
        stream.write_all(b"x").is_ok() && stream.read(&mut [0]).is_ok_and(|len| len == 1)
    }));
    drop(held);
    assert!(figure(&front.stop().lines, "address_refused") >= 1);
}

/// A client that vanishes is found by the kernel: column `tr` of proc_pid_net(5) says which timer runs, 2 for
/// this one.
#[test]
fn the_kernel_looks_for_clients_that_have_vanished() {
    let folder = Folder::new("tcp-vanish");
    let door = folder.path("echo.door");
    let _app = behind(&door, "tcp-echo", "--buckets 4");
    let front = front(&door, "");
    let stream = served(front.address());
    let port = format!(":{:04X}", front.address().port());
    let is_watched = || {
        let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
        table.lines().any(|line| {
            let columns: Vec<_> = line.split_whitespace().collect();
            columns[1].ends_with(&port) && columns[3] == "01" && columns[5].starts_with("02:")
        })
    };
    assert!(eventually(is_watched));
    drop(stream);
}

/// Has a handler hang, and returns when it does.
fn hang<S: Read + Write>(mut stream: S) -> S {
    stream.write_all(b"hang\n").expect("it is taken");
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes).expect("it says so");
    assert_eq!(&bytes, b"hung");
    stream
}

#[test]
fn the_bucket_of_a_handler_that_hangs_is_lost_once_its_client_has_gone() {
    let folder = Folder::new("tcp-hung");
    let (door, path) = (folder.path("odd.door"), folder.path("odd.sock"));
    let app = odd(&door, "--buckets 4 --lost-limit 3 --recycle exit");
    let second = format!("--forward tcp://unix:{}={}", path.display(), door.display());
    let front = front(&door, &format!("{second} --idle-timeout 1s"));
    // One goes with a reset, one from a Unix socket, and one stays and says nothing until it is cut.
    reset(hang(connect(front.address())));
    drop(hang(UnixStream::connect(&path).expect("it listens")));
    let quiet = hang(connect(front.address()));
    let _ = app.line_with("a bucket is lost");
    let ended = app.wait();
    assert_eq!(ended.code(), 75, "{}", ended.stderr());
    drop(quiet);
    let ended = front.stop();
    let sum = |name: &str| -> u64 {
        let lines = ended.lines.iter();
        let lines = lines.filter(|line| line.contains(" forwarded connections forward="));
        lines
            .map(|line| figure(std::slice::from_ref(line), name))
            .sum()
    };
    assert_eq!(sum("abandoned"), 3, "{}", ended.stderr());
    assert_eq!(sum("idle"), 1);
}

#[test]
fn flags_that_do_not_hold_for_unix_sockets_are_refused_or_named() {
    let folder = Folder::new("tcp-unix-flags");
    let (door, path) = (folder.path("a.door"), folder.path("a.sock"));
    let unix = format!("--forward tcp://unix:{}={}", path.display(), door.display());
    for flag in [
        "--idle-timeout 5s",
        "--write-timeout 5s",
        "--connections-per-address 3",
    ] {
        let ended = Launch::of("transom")
            .flags(&format!("serve {unix} {flag}"))
            .run();
        let said = ended.stderr();
        let name = flag.split(' ').next().expect("a flag");
        assert!(
            ended.code() == 2
                && said.contains(name)
                && said.contains("tcp://unix:")
                && said.contains("leave it out"),
            "{flag}: {said}"
        );
    }
    // Where it holds for another forward, a line says for which it does not.
    let front = front(&door, &format!("{unix} --idle-timeout 5s"));
    let line = front.line_with("does not hold");
    assert!(
        line.contains("tcp://unix:") && line.contains("flag=--idle-timeout"),
        "{line}"
    );
}

#[test]
fn flags_that_would_mean_nothing_to_a_forward_are_refused_by_name() {
    let folder = Folder::new("tcp-flags");
    for (scheme, flags, flag) in [
        (
            "tcp",
            "--proxy-protocol require --trust 127.0.0.1",
            "--proxy-protocol require",
        ),
        (
            "udp",
            "--proxy-protocol require --trust 127.0.0.1",
            "--proxy-protocol require",
        ),
        (
            "tcp",
            "--forwarded forwarded --trust 127.0.0.1",
            "--forwarded",
        ),
        ("tcp", "--access-log json", "--access-log"),
        ("tcp", "--body-limit 1MiB", "--body-limit"),
        ("udp", "--header-timeout 1s", "--header-timeout"),
        (
            "tcp",
            "--requests-per-connection 5",
            "--requests-per-connection",
        ),
        ("tcp", "--write-rate 0B", "--write-rate"),
        ("tcp", "--deadline 5s", "--deadline"),
        ("tcp", "--datagram-buffer 8KiB", "--datagram-buffer"),
        ("udp", "--idle-timeout 5s", "--idle-timeout"),
        (
            "udp",
            "--connections-per-address 3",
            "--connections-per-address",
        ),
    ] {
        let forward = format!("{scheme}://127.0.0.1:0={}", folder.path("a.door").display());
        let ended = Launch::of("transom")
            .flags(&format!("serve --forward {forward} {flags}"))
            .run();
        let said = ended.stderr();
        assert!(
            ended.code() == 2
                && said.contains(flag)
                && said.contains(&format!("{scheme}://"))
                && (said.contains("leave it out") || said.contains("un another front end")),
            "{flag}: {said}"
        );
    }
    // And where they are set in a file, with their place.
    let file = folder.path("transom.toml");
    let text = "proxy-protocol = \"require\"\ntrust = \"127.0.0.1\"\n[[forward]]\nlisten = \"tcp://127.0.0.1:7007\"\ndoor = \"/run/echo.door\"\n";
    std::fs::write(&file, text).expect("writable");
    let ended = Launch::of("transom")
        .flags(&format!("check {}", file.display()))
        .run();
    assert!(
        ended.code() == 2 && ended.stderr().contains("transom.toml:1:"),
        "{}",
        ended.stderr()
    );
}
