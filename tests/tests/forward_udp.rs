//! Datagrams forwarded through a door: raw sockets, `dig`, and applications that come, fail and go.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use transom_tests::doors::{Folder, behind};
use transom_tests::server::installed;
use transom_tests::{Launch, PATIENCE, Server, eventually};

fn front(door: &Path, flags: &str) -> Server {
    let forward = format!("serve --forward udp://127.0.0.1:0={}", door.display());
    Launch::of("transom")
        .flags(&format!("{forward} {flags}"))
        .start()
}

fn odd(door: &Path, flags: &str) -> Server {
    Launch::of_file(env!("CARGO_BIN_EXE_odd-udp"))
        .flags(&format!("--door {} {flags}", door.display()))
        .start()
}

fn socket(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.connect(to).expect("an address");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

/// The next datagram.
fn next(socket: &UdpSocket) -> Vec<u8> {
    let mut bytes = vec![0; 70_000];
    let len = socket.recv(&mut bytes).expect("an answer");
    bytes.truncate(len);
    bytes
}

fn ask(socket: &UdpSocket, bytes: &[u8]) -> Vec<u8> {
    socket.send(bytes).expect("it is sent");
    next(socket)
}

/// Has a handler wait for a file, and returns when the handler waits. The result is its future answer.
fn wait_for(socket: &UdpSocket, file: &Path) -> Vec<u8> {
    let bytes = format!("wait {}", file.display()).into_bytes();
    socket.send(&bytes).expect("it is sent");
    let begun = format!("{}.begun", file.display());
    assert!(eventually(|| Path::new(&begun).exists()));
    bytes
}

/// Whether the owner of a port has read all datagrams that have come there.
fn has_read_all(port: u16) -> bool {
    let table = std::fs::read_to_string("/proc/net/udp").expect("the kernel's table");
    let local = format!("0100007F:{port:04X}");
    let mut rows = table.lines().map(|line| line.split_whitespace());
    rows.any(|mut row| {
        row.nth(1) == Some(&local)
            && row
                .nth(2)
                .is_some_and(|queues| queues.ends_with(":00000000"))
    })
}

/// The number that a field of a forward's last line has.
fn figure(lines: &[String], name: &str) -> u64 {
    let line = lines
        .iter()
        .find(|line| line.contains(" forwarded datagrams forward="));
    let fields = line.into_iter().flat_map(|line| line.split(' '));
    let mut values = fields.filter_map(|field| field.split_once('='));
    let value = values.find(|(key, _)| *key == name);
    let value = value.and_then(|(_, value)| value.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in\n{}", lines.join("\n")))
}

#[test]
fn an_application_of_datagrams_asks_for_a_door() {
    let ended = Launch::of("dns").run();
    assert_eq!(ended.code(), 2);
    assert!(ended.stderr().contains("--door PATH"), "{}", ended.stderr());
    assert!(ended.stderr().contains("udp://"), "{}", ended.stderr());
}

#[test]
fn each_datagram_is_answered_with_one_or_with_none() {
    let folder = Folder::new("udp-echo");
    let door = folder.path("odd.door");
    let app = odd(&door, "--buckets 4");
    let front = front(&door, "--receive-buffer 256KiB --send-buffer 256KiB");
    let client = socket(front.address());
    let largest = vec![7; 65_507];
    for bytes in [&b"hello"[..], b"", &largest] {
        assert_eq!(ask(&client, bytes), bytes);
    }
    client.send(b"silent").expect("it is sent");
    assert_eq!(ask(&client, b"after silence"), b"after silence");
    let ended = front.stop();
    assert_eq!(ended.code(), 0, "{}", ended.stderr());
    assert_eq!(figure(&ended.lines, "received"), 5);
    assert_eq!(figure(&ended.lines, "answered"), 4);
    assert_eq!(figure(&ended.lines, "unanswered"), 1);
    assert_eq!(ended.figure("process_heap_allocations"), 0);
    drop(app);
}

/// A connected socket hears only whom it has written to.
#[test]
fn an_answer_comes_from_the_address_that_was_asked() {
    let folder = Folder::new("udp-wildcard");
    let door = folder.path("odd.door");
    let _app = odd(&door, "--buckets 2");
    let mut asked = vec![
        ("0.0.0.0", "127.0.0.1:0", "127.0.0.2"),
        ("0.0.0.0", "127.0.0.3:0", "127.0.0.1"),
    ];
    match UdpSocket::bind("[::1]:0") {
        Ok(_) => asked.extend([
            ("[::]", "[::1]:0", "[::1]"),
            ("[::]", "127.0.0.1:0", "127.0.0.2"),
        ]),
        Err(_) => eprintln!("there is no IPv6: it is not tested here"),
    }
    for (wildcard, from, to) in asked {
        // A line with 127.0.0.1 is what `start` waits for.
        let front = Launch::of("transom")
            .flags(&format!(
                "serve --forward udp://{wildcard}:0={door} --admin 127.0.0.1:0",
                door = door.display()
            ))
            .start();
        let ready = front.line_with(" ready ");
        let (_, rest) = ready.split_once("udp://").expect("where it listens");
        let address = rest.split([',', ' ', '"']).next().unwrap_or_default();
        let (_, port) = address.rsplit_once(':').expect("a port");
        let client = UdpSocket::bind(from).expect("a port");
        client.connect(format!("{to}:{port}")).expect("an address");
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        assert_eq!(ask(&client, b"where"), b"where", "{wildcard} {to}");
        assert_eq!(figure(&front.stop().lines, "unsent"), 0);
    }
}

#[test]
fn a_datagram_larger_than_a_slot_is_dropped_and_counted() {
    let folder = Folder::new("udp-large");
    let door = folder.path("odd.door");
    let _app = odd(&door, "--buckets 2 --request-size 4KiB --reply-size 4KiB");
    let front = front(&door, "");
    let client = socket(front.address());
    client.send(&[1; 4073]).expect("it is sent");
    let fits = vec![2; 4072];
    assert_eq!(ask(&client, &fits), fits);
    assert_eq!(figure(&front.stop().lines, "oversized"), 1);
}

#[test]
fn a_slow_answer_keeps_no_other_waiting() {
    let folder = Folder::new("udp-slow");
    let door = folder.path("odd.door");
    let _app = odd(&door, "--buckets 4");
    let front = front(&door, "");
    let (slow, quick) = (socket(front.address()), socket(front.address()));
    let file = folder.path("go");
    let wait = wait_for(&slow, &file);
    for n in 0..50_u32 {
        assert_eq!(ask(&quick, &n.to_le_bytes()), n.to_le_bytes());
    }
    std::fs::write(&file, "").expect("a file");
    assert_eq!(next(&slow), wait);
}

#[test]
fn a_handler_that_fails_costs_its_own_datagram_only() {
    let folder = Folder::new("udp-failures");
    let door = folder.path("odd.door");
    let app = odd(&door, "--buckets 2 --bucket-size 256KiB");
    let front = front(&door, "");
    let client = socket(front.address());
    for _ in 0..5 {
        for bad in ["arena", "panic"] {
            client.send(bad.as_bytes()).expect("it is sent");
        }
        assert_eq!(ask(&client, b"fine"), b"fine");
    }
    let ended = front.stop();
    assert_eq!(figure(&ended.lines, "failed"), 10);
    assert_eq!(figure(&ended.lines, "answered"), 5);
    let ended = app.stop();
    assert_eq!(ended.figure("exhausted_arena"), 5);
    assert_eq!(ended.figure("panicked"), 5);
}

#[test]
fn a_slot_that_a_lost_call_keeps_is_counted() {
    let folder = Folder::new("udp-slots-lost");
    let door = folder.path("odd.door");
    let app = odd(
        &door,
        "--buckets 4 --bucket-size 256KiB --on-exhaustion park --lost-limit 4",
    );
    let front = front(&door, "--admin 127.0.0.1:0");
    let slots_lost = || front.metric("transom_slots_lost");
    assert_eq!(slots_lost(), Some(0.0));
    let client = socket(front.address());
    client.send(b"arena").expect("it is sent");
    assert!(
        eventually(|| slots_lost() == Some(1.0)),
        "{:?}",
        slots_lost()
    );
    assert_eq!(app.stop().figure("parked"), 1);
    let _ = front.stop();
}

#[test]
fn an_answer_after_the_deadline_is_dropped() {
    let folder = Folder::new("udp-late");
    let door = folder.path("odd.door");
    let _app = odd(&door, "--buckets 1 --slots 2");
    let front = front(&door, "--deadline 30ms");
    let client = socket(front.address());
    // The first runs, and the second waits for it; neither is answered in time.
    let file = folder.path("go");
    let _ = wait_for(&client, &file);
    client.send(b"behind it").expect("it is sent");
    let port = front.address().port();
    assert!(eventually(|| has_read_all(port)));
    // Longer than the deadline of both, which has begun.
    std::thread::sleep(Duration::from_millis(60));
    std::fs::write(&file, "").expect("a file");
    // Sent again and again until the handler is done with the first: only these are answered.
    client
        .set_read_timeout(Some(Duration::from_millis(20)))
        .expect("a timeout");
    let mut bytes = [0; 32];
    let mut answer = None;
    assert!(eventually(|| {
        client.send(b"again").expect("it is sent");
        answer = client
            .recv(&mut bytes)
            .ok()
            .map(|len| bytes[..len].to_vec());
        answer.is_some()
    }));
    assert_eq!(answer.as_deref(), Some(&b"again"[..]));
    assert!(figure(&front.stop().lines, "late") >= 2);
}

#[test]
fn datagrams_for_a_door_that_stays_away_are_dropped() {
    let folder = Folder::new("udp-away");
    let door = folder.path("odd.door");
    let front = front(&door, "--queue-timeout 5ms");
    let _ = front.line_with("the door is away");
    let client = socket(front.address());
    for _ in 0..3 {
        client.send(b"to nobody").expect("it is sent");
    }
    let port = front.address().port();
    assert!(eventually(|| has_read_all(port)), "they are kept");
    let _app = odd(&door, "--buckets 2");
    let _ = front.line_with("the door is back");
    assert_eq!(ask(&client, b"to somebody"), b"to somebody");
    assert_eq!(figure(&front.stop().lines, "refused"), 3);
}

#[test]
fn an_application_of_another_kind_is_told_of() {
    let folder = Folder::new("udp-kind");
    let (hello, echo) = (folder.path("hello.door"), folder.path("echo.door"));
    let _hello = behind(&hello, "hello", "--buckets 2");
    let _echo = behind(&echo, "tcp-echo", "--buckets 2");
    let front_of_hello = front(&hello, "");
    let client = socket(front_of_hello.address());
    client.send(b"GET / HTTP/1.1\r\n\r\n").expect("it is sent");
    let _ = front_of_hello.line_with("does not know what to do");
    assert_eq!(figure(&front_of_hello.stop().lines, "failed"), 1);
    let front_of_echo = front(&echo, "");
    let _ = front_of_echo.line_with("asks for connections");
}

#[test]
fn an_application_that_restarts_is_found_again() {
    let folder = Folder::new("udp-restarts");
    let door = folder.path("odd.door");
    let mut app = odd(&door, "--buckets 2");
    let front = front(&door, "--queue-timeout 20s");
    let client = socket(front.address());
    client
        .set_read_timeout(Some(Duration::from_millis(100)))
        .expect("a timeout");
    // As clients of UDP do: asked again until there is an answer.
    let pid = || {
        let mut bytes = [0; 32];
        let mut len = 0;
        assert!(eventually(|| {
            client.send(b"pid").expect("it is sent");
            len = client.recv(&mut bytes).unwrap_or(0);
            len > 0
        }));
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    };
    for signal in [libc::SIGKILL, libc::SIGTERM, libc::SIGKILL, libc::SIGTERM] {
        let old = app.pid().to_string();
        assert!(eventually(|| pid() == old));
        app.signal(signal);
        if signal == libc::SIGTERM {
            assert_eq!(app.wait().code(), 0);
        } else {
            drop(app);
        }
        // No application is there for a moment, and datagrams come all the same.
        client.send(b"pid").expect("it is sent");
        app = odd(&door, "--buckets 2");
        let new = app.pid().to_string();
        assert!(eventually(|| pid() == new));
    }
    assert_eq!(front.stop().code(), 0);
}

/// What `dig +short` or `dig` prints.
fn dig(dig: &Path, port: u16, arguments: &str) -> String {
    let output = Command::new(dig)
        .args([
            "@127.0.0.1",
            "-p",
            &port.to_string(),
            "+time=10",
            "+tries=2",
        ])
        .args(arguments.split(' '))
        .output()
        .expect("dig starts");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn dig_is_answered() {
    let Some(program) = installed("dig") else {
        eprintln!("dig is not installed: nothing is tested here");
        return;
    };
    let folder = Folder::new("udp-dig");
    let door = folder.path("dns.door");
    let _app = behind(&door, "dns", "--buckets 4");
    let front = front(&door, "");
    let port = front.address().port();
    for (arguments, expected) in [
        ("+short www.transom.example", "192.0.2.80\n192.0.2.81\n"),
        ("+short transom.example AAAA", "2001:db8::1\n"),
        ("+short transom.example NS", "ns1.transom.example.\n"),
        (
            "+short transom.example TXT",
            "\"memory is decided before it starts\"\n",
        ),
        (
            "+short transom.example SOA",
            "ns1.transom.example. hostmaster.transom.example. 2026112101 7200 3600 1209600 300\n",
        ),
        ("+short very.deep.transom.example TXT", "\"far\" \"down\"\n"),
    ] {
        assert_eq!(dig(&program, port, arguments), expected, "{arguments}");
    }
    for (arguments, parts) in [
        ("nobody.transom.example", &["status: NXDOMAIN", " aa "][..]),
        (
            "four.transom.example AAAA",
            &["status: NOERROR", "ANSWER: 0", "AUTHORITY: 1"],
        ),
        ("transom.example ANY +notcp", &["HINFO", "\"RFC8482\""]),
        ("example.org", &["status: REFUSED"]),
        ("+opcode=4 transom.example", &["status: NOTIMP"]),
        (
            "+noedns +ignore long.transom.example TXT",
            &[" tc ", "ANSWER: 0"],
        ),
        (
            "+ignore long.transom.example TXT",
            &["ANSWER: 1", "udp: 1232"],
        ),
        (
            "+ednsopt=10 +edns=1 +noednsneg transom.example",
            &["BADVERS"],
        ),
        ("wWW.tRANSOM.example", &["wWW.tRANSOM.example."]),
    ] {
        let said = dig(&program, port, arguments);
        for part in parts {
            assert!(said.contains(part), "{arguments}: no {part:?} in\n{said}");
        }
    }
}

#[test]
fn a_burst_waits_in_the_kernel_and_what_has_no_room_there_is_counted() {
    // More than 64 KiB of them, and fewer than our own socket has room for.
    const BURST: u32 = 200;
    for (flags, whole) in [("", true), ("--datagram-buffer 8KiB", false)] {
        let folder = Folder::new(&format!("udp-burst-{whole}"));
        let door = folder.path("odd.door");
        let _app = odd(&door, "--buckets 4");
        let front = front(&door, flags);
        let client = socket(front.address());
        assert_eq!(ask(&client, b"first"), b"first");
        front.pause();
        for n in 0..BURST {
            client.send(&n.to_be_bytes()).expect("it is sent");
        }
        front.signal(libc::SIGCONT);
        let mut answers = 0;
        if whole {
            while answers < BURST {
                assert_eq!(next(&client).len(), 4);
                answers += 1;
            }
        }
        let port = front.address().port();
        assert!(eventually(|| has_read_all(port)), "some are still there");
        let ended = front.stop();
        let (received, dropped) = (
            figure(&ended.lines, "received"),
            figure(&ended.lines, "dropped"),
        );
        assert_eq!(received + dropped, 1 + u64::from(BURST));
        assert_eq!(dropped == 0, whole, "{dropped} dropped");
    }
}
