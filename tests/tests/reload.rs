//! SIGHUP: it never ends a process. `transom serve` reads its file again, and puts in force what needs no
//! other memory.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use transom_tests::doors::{Crowd, behind};
use transom_tests::server::as_process_one;
use transom_tests::succession::Succession;
use transom_tests::{Folder, Launch, Server, eventually};

/// A front end with a file of its own, and the two applications that its routes may lead to.
struct Site {
    folder: Folder,
    front: Server,
    _hello: Server,
    _other: Server,
}

impl Site {
    fn start(name: &str, file: impl Fn(&Folder) -> String) -> Self {
        let folder = Folder::new(name);
        let hello = behind(&folder.path().join("hello.door"), "hello", "--buckets 2");
        let other = behind(&folder.path().join("other.door"), "hello", "--buckets 2");
        std::fs::write(folder.path().join("front.toml"), file(&folder)).expect("a file");
        let config = folder.path().join("front.toml");
        let flags = format!("serve --loops 2 --config {}", config.display());
        let front = Launch::of("transom").flags(&flags).start();
        Site {
            folder,
            front,
            _hello: hello,
            _other: other,
        }
    }

    fn door(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes another file, has it read, and returns the lines that say what has become of it.
    fn reload(&self, text: &str) -> String {
        let before = self.front.lines().len();
        std::fs::write(self.door("front.toml"), text).expect("a file");
        self.front.signal(libc::SIGHUP);
        let said = || self.front.lines().split_off(before).join("\n");
        let is_done = |said: &str| {
            said.contains("was read again, and is in force") || said.contains("nothing was changed")
        };
        assert!(eventually(|| is_done(&said())), "nothing is said");
        said()
    }

    fn status(&self, path: &str) -> u16 {
        self.front.get(path).status
    }
}

fn file(flags: &str, routes: &[(&str, PathBuf)]) -> String {
    let mut text = format!("{flags}\n[[forward]]\nlisten = \"http://127.0.0.1:0\"\n");
    for (path, door) in routes {
        text += &format!(
            "[[forward.map]]\npath = \"{path}\"\ndoor = \"{}\"\n",
            door.display()
        );
    }
    text
}

fn routes(folder: &Folder) -> [(&'static str, PathBuf); 2] {
    [
        ("/hello", folder.path().join("hello.door")),
        ("/json", folder.path().join("other.door")),
    ]
}

#[test]
fn sighup_ends_no_process_and_no_request() {
    let folder = Folder::new("hangup-all");
    let door = folder.path().join("hello.door");
    let application = behind(&door, "oom", "--buckets 4");
    let forward = format!("serve --forward http://127.0.0.1:0={}", door.display());
    let front = Launch::of("transom").flags(&forward).start();
    for server in [&Server::start("oom", "--buckets 4"), &front, &application] {
        let crowd =
            (server.address().port() != 0).then(|| Crowd::start(server.address(), "/sleep/50", 2));
        for n in 1..=5 {
            server.signal(libc::SIGHUP);
            let said = |line: &String| line.contains("SIGHUP: the access log is opened anew");
            assert!(
                eventually(|| server.lines().iter().filter(|line| said(line)).count() >= n),
                "{:?}",
                server.lines()
            );
            if let Some(crowd) = &crowd {
                crowd.wait_for(2);
            }
        }
        if let Some(crowd) = crowd {
            let tally = crowd.end();
            assert!(tally.keys().eq([&200]), "{tally:?}");
        }
    }
    assert_eq!(front.stop().code(), 0);
    assert_eq!(application.stop().code(), 0);
}

#[test]
fn sighup_while_it_drains_ends_nothing() {
    let server = Server::start("oom", "--buckets 2 --drain-timeout 5s");
    let mut client = server.connect();
    client.send("GET /sleep/700 HTTP/1.1\r\nHost: x\r\n\r\n");
    server.wait_for_sleepers(1);
    server.signal(libc::SIGTERM);
    let _said = server.line_with("draining");
    server.signal(libc::SIGHUP);
    server.signal(libc::SIGHUP);
    assert_eq!(client.answer().status, 200);
    assert_eq!(server.wait().code(), 0);
}

#[test]
fn a_new_file_changes_routes_limits_and_the_log_level_in_place() {
    let site = Site::start("reload-in-place", |folder| {
        file("body-limit = \"1KiB\"", &routes(folder)[..1])
    });
    let all = routes(&site.folder);
    let only_hello = file("body-limit = \"1KiB\"", &all[..1]);
    let pid = site.front.pid();
    assert_eq!((site.status("/hello/x"), site.status("/json")), (200, 404));

    // The other door has no doorway yet: it needs memory, and is named. The other changes are in force.
    let said = site.reload(&file("body-limit = \"2KiB\"", &all));
    assert!(
        said.contains(" WARN ") && said.contains("needs SIGUSR2") && said.contains("other.door"),
        "{said}"
    );
    assert!(said.contains("changed=--body-limit"), "{said}");
    assert_eq!(site.status("/json"), 404);

    // Another path to the door that is known.
    let hello = all[0].1.clone();
    let moved = file(
        "body-limit = \"2KiB\"",
        &[("/hello", hello.clone()), ("/json", hello)],
    );
    let said = site.reload(&moved);
    assert!(
        said.contains("changed=routes of http://127.0.0.1:0"),
        "{said}"
    );
    assert!(eventually(|| site.status("/json") == 200));
    assert_eq!(site.status("/hello/x"), 200);

    // A limit that every request feels.
    let post = |len: usize| site.front.post("/hello/x", vec![b'x'; len]).status;
    assert!(eventually(|| post(2000) == 405), "2 KiB are allowed now");
    let said = site.reload(&only_hello);
    assert!(said.contains("--body-limit"), "{said}");
    assert!(eventually(|| post(2000) == 413));
    assert!(eventually(|| site.status("/json") == 404));

    // The log's level: lines below it are gone, lines above it stay.
    let _said = site.reload(&format!("log-level = \"error\"\n{only_hello}"));
    site.front.signal(libc::SIGHUP);
    std::fs::write(site.door("front.toml"), "wrong").expect("a file");
    site.front.signal(libc::SIGHUP);
    let said = site.front.line_with("is wrong, and nothing was changed");
    assert!(said.contains("ERROR"), "{said}");
    let quiet = site.front.lines().len();
    std::fs::write(site.door("front.toml"), &only_hello).expect("a file");
    site.front.signal(libc::SIGHUP);
    assert!(eventually(|| {
        site.front.signal(libc::SIGHUP);
        site.front.lines().len() > quiet
    }));
    assert_eq!(site.front.pid(), pid);
    assert_eq!(site.front.stop().code(), 0);
}

#[test]
fn a_wrong_file_changes_nothing_and_every_mistake_is_told() {
    let site = Site::start("reload-wrong", |folder| file("", &routes(folder)));
    for (text, parts) in [
        (
            "[[forward]]\nlisten = 5\n".to_owned(),
            &["front.toml:2:10"][..],
        ),
        (
            file(
                "idle-timeout = \"5\"\nconections = 7",
                &routes(&site.folder)[..1],
            ),
            &["front.toml:1:16", "front.toml:2:1", "did you mean"],
        ),
        (
            file("head-limit = \"1B\"", &routes(&site.folder)[..1]),
            &["front.toml:1:14", "--head-limit"],
        ),
        (
            // Right as a whole, and --head-limit needs other memory.
            file(
                "proxy-protocol = \"require\"\ntrust = [\"127.0.0.1/32\"]\nhead-limit = \"64KiB\"\nproxy-header-limit = \"32KiB\"",
                &routes(&site.folder)[..1],
            ),
            &[
                "does not go with what stays as it is until SIGUSR2",
                "--proxy-header-limit",
            ],
        ),
        (
            format!(
                "#{}\n{}",
                "x".repeat(300 << 10),
                file("", &routes(&site.folder))
            ),
            &["at most 262144 are read again"],
        ),
    ] {
        let said = site.reload(&text);
        assert!(said.contains("nothing was changed"), "{said}");
        for part in parts {
            assert!(
                eventually(|| site.front.lines().iter().any(|line| line.contains(part))),
                "{part}"
            );
        }
        assert_eq!(
            (site.status("/hello/x"), site.status("/nowhere")),
            (200, 404)
        );
    }
    std::fs::remove_file(site.door("front.toml")).expect("it is there");
    site.front.signal(libc::SIGHUP);
    let said = site.front.line_with("No such file");
    assert!(said.contains("nothing was changed"), "{said}");
    assert_eq!(site.status("/hello/x"), 200);
    assert_eq!(site.front.stop().code(), 0);
}

#[test]
fn what_needs_memory_is_named_again_and_again_until_it_is_done() {
    let site = Site::start("reload-rest", |folder| file("", &routes(folder)));
    let more = format!(
        "{}[[forward]]\nlisten = \"udp://127.0.0.1:0\"\ndoor = \"/nowhere/dns.door\"\n",
        file(
            "connections = 77\nconnections-per-address = 5\nidle-timeout = \"9s\"",
            &routes(&site.folder)
        )
    );
    for first in [true, false] {
        let said = site.reload(&more);
        for part in [
            "needs SIGUSR2",
            "--connections, --connections-per-address",
            "udp://127.0.0.1:0 is new",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert_eq!(said.contains("changed=--idle-timeout"), first, "{said}");
    }
    assert_eq!(site.front.stop().code(), 0);
}

#[test]
fn reading_again_and_again_takes_no_more_memory() {
    let site = Site::start("reload-often", |folder| file("", &routes(folder)));
    let all = routes(&site.folder);
    let texts = [file("body-limit = \"1KiB\"", &all), file("", &all[..1])];
    let often = |times: usize| {
        for n in 0..times {
            let _said = site.reload(&texts[n % 2]);
        }
        site.front.sample()
    };
    let before = often(4);
    let after = often(400);
    assert_eq!(after.mappings, before.mappings);
    assert_eq!(after.descriptors, before.descriptors);
    assert!(
        after.anonymous <= before.anonymous + (192 << 10),
        "{before:?} {after:?}"
    );
    assert_eq!(site.front.stop().code(), 0);
}

#[test]
fn a_service_manager_is_told_that_it_reloads_and_that_it_is_ready_again() {
    let folder = Folder::new("reload-notify");
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager
        .set_read_timeout(Some(transom_tests::PATIENCE))
        .expect("a time");
    let server = Launch::of("hello").env("NOTIFY_SOCKET", &path).start();
    let hear = || {
        let mut bytes = [0; 256];
        let len = manager.recv(&mut bytes).expect("a word");
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    };
    assert_eq!(hear(), "READY=1");
    server.signal(libc::SIGHUP);
    let said = hear();
    let micros = said.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
    assert!(
        micros.is_some_and(|micros| micros.parse::<u64>().is_ok_and(|micros| micros > 0)),
        "{said}"
    );
    assert_eq!(hear(), "READY=1");
    assert_eq!(server.stop().code(), 0);
}

#[test]
fn a_service_manager_that_reads_nothing_keeps_no_server_from_ending() {
    let folder = Folder::new("reload-deaf");
    let path = folder.path().join("notify");
    let _manager = UnixDatagram::bind(&path).expect("a socket");
    let other = UnixDatagram::unbound().expect("a socket");
    other.set_nonblocking(true).expect("it is set");
    while other.send_to(b"x", &path).is_ok() {}
    let launch = Launch::of("hello").env("NOTIFY_SOCKET", &path);
    let server = launch.env("WATCHDOG_USEC", "2000").start();
    assert_eq!(server.get("/").status, 200);
    server.signal(libc::SIGHUP);
    let _ = server.line_with("SIGHUP");
    let ended = server.stop();
    assert_eq!(ended.code(), 0);
    assert_eq!(ended.figure("process_heap_allocations"), 0);
}

#[test]
fn process_one_refuses_to_hand_over_and_goes_on() {
    let Some(unshare) = as_process_one() else {
        return;
    };
    let server = Launch::under(&unshare, "hello").start();
    // The server is the only child of what was started.
    let children = format!("/proc/{0}/task/{0}/children", server.pid());
    let child: i32 = std::fs::read_to_string(children)
        .expect("it has a child")
        .trim()
        .parse()
        .expect("one");
    // SAFETY: a plain system call; the child lives as long as its parent, which has not been waited for.
    assert_eq!(unsafe { libc::kill(child, libc::SIGUSR2) }, 0);
    let said = server.line_with("process is process 1");
    assert!(
        said.contains(" WARN ") && said.contains("SIGTERM"),
        "{said}"
    );
    assert_eq!(server.get("/").status, 200);
    // SAFETY: as above.
    assert_eq!(unsafe { libc::kill(child, libc::SIGTERM) }, 0);
    assert_eq!(server.wait().code(), 0);
}

#[test]
fn what_prevails_over_the_file_at_the_start_does_so_when_it_is_read_again() {
    let folder = Folder::new("reload-order");
    let door = folder.path().join("hello.door");
    let _application = behind(&door, "hello", "--buckets 2");
    let config = folder.path().join("front.toml");
    let write = |flags: &str| {
        let text = file(flags, &[("/", door.clone())]);
        std::fs::write(&config, text).expect("a file");
    };
    write("body-limit = \"1KiB\"\nidle-timeout = \"9s\"\nqueue-timeout = \"2s\"");
    // The file itself is named by the environment.
    let front = Launch::of("transom")
        .flags("serve --body-limit 1KiB")
        .env("TRANSOM_LISTEN", "")
        .env("TRANSOM_CONFIG", &config)
        .env("TRANSOM_IDLE_TIMEOUT", "7s")
        .start();
    write("body-limit = \"4KiB\"\nidle-timeout = \"8s\"\nqueue-timeout = \"3s\"");
    front.signal(libc::SIGHUP);
    let said = front.line_with("is in force");
    assert!(said.ends_with("changed=--queue-timeout"), "{said}");
    assert_eq!(front.post("/", vec![b'x'; 2000]).status, 413);
    assert_eq!(front.stop().code(), 0);
}

/// A door is opened as its thread was told at the start, so another owner is not in force and must be named.
#[test]
fn another_owner_of_a_door_waits_for_a_new_instance() {
    let site = Site::start("hangup-owner", |folder| file("", &routes(folder)));
    let text = file("", &routes(&site.folder)) + "owner = \"4711\"\n";
    let said = site.reload(&text);
    let left = said.lines().find(|line| line.contains("needs SIGUSR2"));
    let named = format!("left=the owner of {}", site.door("other.door").display());
    assert!(left.is_some_and(|line| line.ends_with(&named)), "{said}");
    assert_eq!(site.status("/json/x"), 404, "the door answers as before");
}

#[test]
fn sighup_while_a_new_instance_starts_ends_neither() {
    let servers = Succession::start(Launch::of("hello"));
    servers.first().signal(libc::SIGUSR2);
    assert!(eventually(|| !servers.started().is_empty()));
    let new = servers.started()[0].cast_unsigned();
    let taken = |server: &Server| {
        let lines = server.lines();
        lines
            .iter()
            .any(|line| line.contains("the new instance has the listeners"))
    };
    while !taken(servers.first()) {
        servers.signal(new, libc::SIGHUP);
        assert!(
            !servers
                .first()
                .lines()
                .iter()
                .any(|line| line.contains("ERROR")),
            "{}",
            servers.first().lines().join("\n")
        );
    }
    assert_eq!(servers.first().get("/").status, 200);
    let new = servers.heir(1);
    assert_eq!(servers.stop(new).code(), 0);
}
