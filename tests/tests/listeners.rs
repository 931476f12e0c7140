//! Where a server listens besides an address and a port: at the path of a Unix socket, and at what systemd
//! passes; and what it tells a service manager.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use transom_tests::client::get;
use transom_tests::doors::behind;
use transom_tests::{Client, Folder, Launch, PATIENCE, Server, eventually};

/// The body of the answer to a GET over a Unix socket.
fn ask(path: &Path) -> String {
    let mut stream = UnixStream::connect(path).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    let request = get("/").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it is taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 "), "{answer}");
    body.to_owned()
}

fn at(path: &Path, flags: &str) -> Server {
    let flags = format!("--buckets 4 --listen unix:{} {flags}", path.display());
    Launch::of_file(env!("CARGO_BIN_EXE_peer"))
        .flags(&flags)
        .start()
}

fn mode(path: &Path) -> u32 {
    let found = std::fs::symlink_metadata(path).expect("it is there");
    assert!(found.file_type().is_socket());
    found.permissions().mode() & 0o777
}

#[test]
fn a_unix_socket_is_served_by_all_loops_and_removed_at_the_end() {
    let folder = Folder::new("unix");
    let path = folder.path().join("x.sock");
    let server = at(&path, "--loops 3");
    assert!(
        server
            .line_with("ready")
            .contains(&format!("unix:{}", path.display()))
    );
    assert_eq!(mode(&path), 0o660);
    for _ in 0..20 {
        assert_eq!(ask(&path), "nowhere\n");
    }
    let many: Vec<_> = (0..50).map(|_| UnixStream::connect(&path)).collect();
    assert!(many.iter().all(Result::is_ok));
    let ended = server.stop();
    assert_eq!(
        (ended.code(), ended.figure("process_heap_allocations")),
        (0, 0)
    );
    assert!(!path.exists());
}

#[test]
fn who_may_connect_to_a_unix_socket_is_a_flag() {
    let folder = Folder::new("unix-mode");
    let path = folder.path().join("x.sock");
    let server = at(&path, "--listen-mode 0606");
    assert_eq!(mode(&path), 0o606);
    assert_eq!(server.stop().code(), 0);
}

#[test]
fn a_socket_that_a_killed_server_left_is_replaced_and_nothing_else_is() {
    let folder = Folder::new("unix-stale");
    let path = folder.path().join("x.sock");
    let server = at(&path, "");
    let flags = format!("--listen unix:{}", path.display());
    let second = Launch::of("hello").flags(&flags).run();
    assert_eq!(second.code(), 1);
    assert!(
        second.stderr().contains("another process listens there"),
        "{}",
        second.stderr()
    );
    assert_eq!(ask(&path), "nowhere\n", "the first one still has it");

    server.signal(libc::SIGKILL);
    assert!(eventually(|| UnixStream::connect(&path).is_err()));
    assert!(path.exists(), "the path is left");
    let server = at(&path, "");
    assert_eq!(ask(&path), "nowhere\n");

    // When it ends, the path belongs to another listener.
    std::fs::remove_file(&path).expect("it is there");
    let other = UnixListener::bind(&path).expect("the path is free");
    assert_eq!(server.stop().code(), 0);
    assert!(path.exists());
    drop(other);

    std::fs::remove_file(&path).expect("it is there");
    std::fs::write(&path, "mine").expect("a file");
    let refused = Launch::of("hello").flags(&flags).run();
    assert_eq!(refused.code(), 1);
    assert!(
        refused.stderr().contains("no socket"),
        "{}",
        refused.stderr()
    );
    assert_eq!(std::fs::read(&path).expect("it is there"), b"mine");
}

#[test]
fn a_front_end_forwards_from_a_unix_socket() {
    let folder = Folder::new("unix-forward");
    let (path, door) = (
        folder.path().join("x.sock"),
        folder.path().join("hello.door"),
    );
    let application = behind(&door, "hello", "--buckets 4");
    let forward = |prefix: &str| {
        let (path, door) = (path.display(), door.display());
        format!("serve --loops 2 --forward http://unix:{path}{prefix}={door}")
    };
    let front = Launch::of("transom").flags(&forward("")).start();
    assert_eq!(ask(&path), "hello, world\n");
    assert_eq!(front.stop().code(), 0);
    assert!(!path.exists());
    let front = Launch::of("transom").flags(&forward(":/a")).start();
    let mut stream = UnixStream::connect(&path).expect("the server listens");
    stream.write_all(get("/b").as_bytes()).expect("it is taken");
    let mut start = [0; 12];
    stream.read_exact(&mut start).expect("an answer");
    assert_eq!(&start, b"HTTP/1.1 404");
    assert_eq!((front.stop().code(), application.stop().code()), (0, 0));
}

fn tcp() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a port")
}

#[test]
fn sockets_of_systemd_are_served_by_name() {
    let folder = Folder::new("systemd");
    let path = folder.path().join("x.sock");
    let (web, other) = (tcp(), tcp());
    let addresses = [&web, &other].map(|socket| socket.local_addr().expect("an address"));
    let unix = UnixListener::bind(&path).expect("the path is free");
    let sockets = vec![web.into(), unix.into(), other.into()];
    let server = Launch::pass("hello", sockets, "web:unix:web")
        .flags("--loops 2 --buckets 4 --listen systemd:web --listen systemd:")
        .start();
    for address in addresses {
        assert_eq!(Client::connect(address).get("/").text(), "hello, world\n");
    }
    assert_eq!(ask(&path), "hello, world\n");
    let line = server.line_with("ready");
    assert!(line.contains("systemd:web,systemd:"), "{line}");
    assert_eq!(server.stop().code(), 0);
    assert!(path.exists(), "it is systemd's to remove");
    for address in addresses {
        assert!(
            Client::try_connect(address).is_err(),
            "no other process has it open"
        );
    }
}

#[test]
fn what_systemd_does_not_pass_is_told() {
    let run = |sockets, names: &str, flags: &str| {
        let ended = Launch::pass("hello", sockets, names).flags(flags).run();
        assert_eq!(ended.code(), 1);
        ended.stderr()
    };
    let none = Launch::of("hello").flags("--listen systemd:").run();
    assert!(
        none.stderr().contains("start it by its socket unit"),
        "{}",
        none.stderr()
    );
    let said = run(vec![tcp().into()], "web", "--listen systemd:wed");
    assert!(
        said.contains("--listen systemd:wed") && said.contains("\"web\""),
        "{said}"
    );
    let (datagrams, _other) = UnixDatagram::pair().expect("a pair");
    let said = run(vec![datagrams.into()], "web", "--listen systemd:web");
    assert!(said.contains("takes no connections"), "{said}");
}

#[test]
fn a_service_manager_is_told_what_happens() {
    let folder = Folder::new("notify");
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a path");
    manager.set_read_timeout(Some(PATIENCE)).expect("a time");
    let hear = || {
        let mut words = [0; 100];
        let len = manager.recv(&mut words).expect("the server speaks");
        String::from_utf8_lossy(&words[..len]).into_owned()
    };
    let server = Launch::of("hello")
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "40000")
        .flags("--buckets 4")
        .start();
    let mut signs = 0;
    assert!(eventually(|| hear() == "READY=1"));
    while signs < 3 {
        assert_eq!(hear(), "WATCHDOG=1");
        signs += 1;
    }
    server.signal(libc::SIGTERM);
    assert!(eventually(|| hear() == "STOPPING=1"));
    assert_eq!(server.wait().code(), 0);

    // A sign of life that is another process's to give is not given.
    let server = Launch::of("hello")
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "1000")
        .env("WATCHDOG_PID", "1")
        .flags("--buckets 4")
        .start();
    assert!(eventually(|| hear() == "READY=1"));
    manager
        .set_read_timeout(Some(Duration::from_millis(100)))
        .expect("a time");
    assert!(manager.recv(&mut [0; 100]).is_err());
    assert_eq!(server.stop().code(), 0);
}

#[test]
fn connections_are_forwarded_from_a_unix_socket_and_from_one_of_systemd() {
    let folder = Folder::new("tcp-listeners");
    let path = |name| folder.path().join(name);
    let (socket, door, other) = (path("x.sock"), path("a.door"), path("b.door"));
    let applications = [&door, &other].map(|door| behind(door, "tcp-echo", "--buckets 4"));
    let passed = tcp();
    let address = passed.local_addr().expect("an address");
    let flags = format!(
        "serve --forward tcp://unix:{}={} --forward tcp://systemd:echo={}",
        socket.display(),
        door.display(),
        other.display()
    );
    let front = Launch::pass("transom", vec![passed.into()], "echo")
        .flags(&flags)
        .start();
    fn is_echoed(mut stream: impl Read + Write) {
        let mut back = [0; 5];
        stream.write_all(b"hello").expect("it is taken");
        stream.read_exact(&mut back).expect("it comes back");
        assert_eq!(&back, b"hello");
    }
    is_echoed(UnixStream::connect(&socket).expect("it listens"));
    is_echoed(std::net::TcpStream::connect(address).expect("it listens"));
    assert_eq!(front.stop().code(), 0);
    assert!(!socket.exists());

    let ended = Launch::pass("transom", vec![tcp().into(), tcp().into()], "echo:echo")
        .flags(&flags)
        .run();
    assert_eq!(ended.code(), 1);
    let said = ended.stderr();
    for part in ["tcp://systemd:echo", "2 sockets", "FileDescriptorName="] {
        assert!(said.contains(part), "{said}");
    }
    assert!(!socket.exists());
    for application in applications {
        assert_eq!(application.stop().code(), 0);
    }
}

/// A port that is free now.
fn free_port() -> u16 {
    // Not one that the kernel gives to clients of other tests, which ask for any (ip_local_port_range).
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id() % 5_000 * 2;
    loop {
        let port = 20_000 + (start as u16 + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        if std::net::TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}

/// Whether a server answers at an address.
fn answers_at(address: &str) -> bool {
    let Ok(address) = address.parse() else {
        return false;
    };
    let Ok(mut client) = transom_tests::client::Client::try_connect(address) else {
        return false;
    };
    client.get("/").status == 200
}

#[test]
fn at_the_unspecified_address_of_ipv6_ipv4_comes_too_unless_it_is_told_not_to() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        println!("skipped: there is no IPv6 here");
        return;
    }
    for (flags, takes_ipv4) in [("", true), ("--ipv6-only", false)] {
        let port = free_port();
        let flags =
            format!("--listen [::]:{port} --listen 127.0.0.1:0 --admin 127.0.0.1:0 {flags}");
        let server = Server::start("hello", &flags);
        assert!(answers_at(&format!("[::1]:{port}")), "{flags}");
        assert_eq!(
            answers_at(&format!("127.0.0.1:{port}")),
            takes_ipv4,
            "{flags}"
        );
        assert_eq!(server.stop().code(), 0);
    }
}

#[test]
fn both_unspecified_addresses_may_have_one_port() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        println!("skipped: there is no IPv6 here");
        return;
    }
    for order in ["[::]:PORT,0.0.0.0:PORT", "0.0.0.0:PORT,[::]:PORT"] {
        let port = free_port().to_string();
        let listen = format!("{},127.0.0.1:0", order.replace("PORT", &port));
        let server = Server::start("hello", &format!("--listen {listen}"));
        assert!(answers_at(&format!("[::1]:{port}")), "{order}");
        assert!(answers_at(&format!("127.0.0.1:{port}")), "{order}");
        // Another server does not get a part of it unnoticed.
        for other in ["[::]", "0.0.0.0"] {
            let ended = Launch::of("hello")
                .flags(&format!("--listen {other}:{port}"))
                .run();
            assert_eq!(ended.code(), 1);
            assert!(
                ended.stderr().contains("another process listens there"),
                "{}",
                ended.stderr()
            );
        }
        assert_eq!(server.stop().code(), 0);
    }
}

#[test]
fn an_ipv4_client_of_an_ipv6_socket_is_called_by_its_ipv4_address() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        println!("skipped: there is no IPv6 here");
        return;
    }
    let port = free_port();
    let folder = transom_tests::Folder::new("dual-stack");
    let file = folder.path().join("access.log");
    let flags = format!(
        "--listen [::]:{port} --listen 127.0.0.1:0 --access-log combined --access-log-file {}",
        file.display()
    );
    let server = Server::start("hello", &flags);
    assert!(answers_at(&format!("127.0.0.1:{port}")));
    assert_eq!(server.stop().code(), 0);
    let text = std::fs::read_to_string(&file).expect("it is there");
    assert!(text.starts_with("127.0.0.1 - - ["), "{text}");
}
