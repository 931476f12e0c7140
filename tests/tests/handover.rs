//! SIGUSR2: a new instance takes over the listeners, and no client notices.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use transom_tests::build::binary;
use transom_tests::client::get;
use transom_tests::doors::{Crowd, before, behind};
use transom_tests::{Ended, Folder, Launch, PATIENCE, Server, eventually};

/// Handovers under load, one after the other.
const TIMES: usize = 20;

/// A server that is replaced by new instances of itself. They write to the same standard error.
struct Line {
    first: Server,
    newest: Newest,
    handed: usize,
}

/// The number of the newest instance, which is killed with the test.
struct Newest(i32);

impl Drop for Newest {
    fn drop(&mut self) {
        if self.0 > 0 {
            // SAFETY: a plain system call; the process has not been waited for, so the number is still its
            // own.
            unsafe { libc::kill(self.0, libc::SIGKILL) };
        }
    }
}

impl Line {
    fn start(launch: Launch) -> Self {
        // SAFETY: a plain system call. A process that loses its parent becomes a child of this process, and
        // can be waited for.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
        Line {
            first: launch.start(),
            newest: Newest(0),
            handed: 0,
        }
    }

    fn pid(&self) -> i32 {
        match self.newest.0 {
            0 => self.first.pid().cast_signed(),
            pid => pid,
        }
    }

    fn signal(&self, signal: libc::c_int) {
        // SAFETY: a plain system call; the process has not been waited for, so the number is still its own.
        unsafe { libc::kill(self.pid(), signal) };
    }

    /// Has the newest instance hand over, and returns its number.
    fn begin_hand_over(&mut self) -> i32 {
        self.signal(libc::SIGUSR2);
        let mut new = None;
        assert!(
            eventually(|| {
                let lines = self.first.lines();
                let mut told = lines
                    .iter()
                    .filter(|line| line.contains("the new instance has the listeners"));
                new = told.nth(self.handed).and_then(|line| {
                    let (_, pid) = line.split_once("pid=")?;
                    pid.split(' ').next()?.parse().ok()
                });
                new.is_some()
            }),
            "no instance takes over:\n{}",
            self.first.lines().join("\n")
        );
        self.handed += 1;
        let old = self.pid();
        self.newest.0 = new.expect("it was found");
        old
    }

    /// As [`Line::begin_hand_over`], until the old instance has ended.
    fn hand_over(&mut self) {
        let old = self.begin_hand_over();
        if old != self.first.pid().cast_signed() {
            assert_eq!(wait(old), 0);
        }
    }

    /// Ends the newest instance. All must have ended well.
    fn stop(mut self) -> Ended {
        self.signal(libc::SIGTERM);
        if self.newest.0 > 0 {
            assert_eq!(wait(std::mem::take(&mut self.newest.0)), 0);
        }
        let ended = self.first.wait();
        assert_eq!(ended.code(), 0, "{}", ended.stderr());
        ended
    }
}

/// The exit status of a process that was started by one of ours.
fn wait(pid: i32) -> i32 {
    let mut status = 0;
    assert!(
        eventually(|| {
            // SAFETY: there is room for the status.
            unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) == pid }
        }),
        "process {pid} does not end"
    );
    assert!(libc::WIFEXITED(status), "status {status:x}");
    libc::WEXITSTATUS(status)
}

fn no_request_is_lost(launch: Launch, path: &str) -> Ended {
    let mut line = Line::start(launch);
    let crowd = Crowd::start(line.first.address(), path, 8);
    for _ in 0..TIMES {
        crowd.wait_for(50);
        line.hand_over();
    }
    crowd.wait_for(50);
    let tally = crowd.end();
    assert!(tally.keys().eq(&[200]), "{tally:?}");
    line.stop()
}

#[test]
fn twenty_handovers_under_load_lose_no_request() {
    let ended = no_request_is_lost(Launch::of("hello").flags("--loops 2 --buckets 4"), "/");
    let drained = ended.lines.iter().filter(|line| line.contains(" drained "));
    let sound = drained.filter(|line| line.contains(" process_heap_allocations=0 "));
    assert_eq!(sound.count(), TIMES + 1, "{}", ended.stderr());
}

#[test]
fn twenty_handovers_of_a_front_end_before_a_door_lose_no_request() {
    let folder = Folder::new("handover-door");
    let door = folder.path().join("hello.door");
    let application = behind(&door, "hello", "--buckets 4");
    let forward = format!(
        "serve --loops 2 --forward http://127.0.0.1:0={}",
        door.display()
    );
    let _ = no_request_is_lost(Launch::of("transom").flags(&forward), "/");
    assert_eq!(application.stop().code(), 0);
}

#[test]
fn whoever_was_promised_that_a_connection_stays_open_gets_another_answer() {
    let mut line = Line::start(Launch::of("hello").flags("--loops 1 --buckets 4"));
    let mut used = line.first.connect();
    assert!(!used.get("/").closes());
    let mut fresh = line.first.connect();
    let mut half = line.first.connect();
    half.send("GET / HT");
    // A connection of the same loop that comes after them is answered, so they have been accepted.
    assert_eq!(line.first.get("/").status, 200);
    let old = line.begin_hand_over();
    assert_eq!(old, line.first.pid().cast_signed());
    half.send("TP/1.1\r\nHost: test\r\n\r\n");
    let answers = [half.answer(), used.get("/"), fresh.get("/")];
    for answer in answers {
        assert!(answer.status == 200 && answer.closes(), "{}", answer.head);
    }
    assert!(half.is_closed() && used.is_closed() && fresh.is_closed());
    assert!(!line.first.get("/").closes(), "the new instance has begun");
    let _ = line.stop();
}

#[test]
fn connections_that_nobody_uses_end_with_the_drain_and_cut_nothing() {
    let flags = "--buckets 4 --drain-timeout 300ms";
    let mut line = Line::start(Launch::of("hello").flags(flags));
    let mut idle = line.first.connect();
    assert_eq!(idle.get("/").status, 200);
    line.hand_over();
    assert!(idle.is_closed());
    let _ = line.stop();
}

#[test]
fn a_signal_to_end_is_obeyed_while_others_use_their_connections() {
    let mut line = Line::start(Launch::of("hello").flags("--buckets 4 --drain-timeout 1h"));
    let mut idle = line.first.connect();
    assert_eq!(idle.get("/").status, 200);
    let old = line.begin_hand_over();
    // SAFETY: a plain system call on a child that has not been waited for.
    unsafe { libc::kill(old, libc::SIGTERM) };
    assert!(idle.is_closed());
    let _ = line.stop();
}

fn ask(path: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(path) else {
        return false;
    };
    let mut start = [0; 12];
    let asked = stream.write_all(get("/").as_bytes());
    asked.is_ok() && stream.read_exact(&mut start).is_ok() && &start == b"HTTP/1.1 200"
}

#[test]
fn a_unix_socket_and_one_of_systemd_are_handed_on() {
    let folder = Folder::new("handover-unix");
    let path = folder.path().join("x.sock");
    let web = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = web.local_addr().expect("an address");
    let flags = format!(
        "--loops 2 --listen unix:{} --listen systemd:web",
        path.display()
    );
    let launch = Launch::pass("hello", vec![web.into()], "web").flags(&flags);
    let mut line = Line::start(launch);
    for _ in 0..3 {
        line.hand_over();
        assert!(ask(&path));
        let answer = transom_tests::Client::connect(address).get("/");
        assert_eq!(answer.status, 200);
    }
    let _ = line.stop();
    assert!(!path.exists(), "the last one removes it");
}

/// Copies a program, with `cp`. If this process had the copy open for writing, another test's thread could
/// fork, and until that child becomes another program, the copy cannot be started ("text file busy").
fn copy(from: &std::path::Path, to: &std::path::Path) {
    let done = std::process::Command::new("cp").arg(from).arg(to).status();
    assert!(done.expect("cp").success());
}

/// Writes a script, in another process for the same reason.
fn write(path: &std::path::Path, script: &str) {
    use std::io::Write;
    let mut shell = std::process::Command::new("sh")
        .args(["-c", "cat > \"$0\""])
        .arg(path)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("sh");
    let mut input = shell.stdin.take().expect("piped");
    input.write_all(script.as_bytes()).expect("written");
    drop(input);
    assert!(shell.wait().expect("it ends").success());
}

fn make_executable(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(path, mode).expect("it is ours");
}

#[test]
fn a_new_instance_that_fails_to_start_changes_nothing() {
    let folder = Folder::new("handover-fails");
    let program = folder.path().join("hello");
    copy(&binary("hello"), &program);
    let text = program.to_string_lossy().into_owned();
    let unix = folder.path().join("x.sock");
    let flags = format!(
        "--buckets 4 --handover-timeout 300ms --listen 127.0.0.1:0 --listen unix:{}",
        unix.display()
    );
    let mut line = Line::start(Launch::of_file(&text).flags(&flags));
    let mut client = line.first.connect();
    let replace_by = |script: &str| {
        let new = folder.path().join("new");
        write(&new, script);
        make_executable(&new);
        std::fs::rename(&new, &program).expect("it is ours");
    };
    for (script, part) in [
        ("#!/bin/sh\nexit 3\n", "ended before it was ready"),
        ("#!/bin/sh\nexec sleep 1000\n", "--handover-timeout"),
        ("#!/nowhere/sh\n", "cannot be started"),
    ] {
        replace_by(script);
        line.signal(libc::SIGUSR2);
        let said = line.first.line_with(part);
        assert!(said.contains("this one goes on"), "{said}");
        assert_eq!(client.get("/").status, 200, "{script}");
        assert!(ask(&unix), "{script}");
    }
    // An instance that gets as far as to the listeners, and no further.
    replace_by(&format!(
        "#!/bin/sh\nexec {} \"$@\" --listen unix:/etc/passwd\n",
        binary("hello").display()
    ));
    line.signal(libc::SIGUSR2);
    assert!(eventually(|| {
        let lines = line.first.lines();
        lines
            .iter()
            .filter(|line| line.contains("ended before it was ready"))
            .count()
            == 2
    }));
    assert!(ask(&unix) && client.get("/").status == 200);
    // And then one that does not fail.
    replace_by(&format!(
        "#!/bin/sh\nexec {} \"$@\"\n",
        binary("hello").display()
    ));
    line.hand_over();
    drop(client);
    assert!(ask(&unix));
    let _ = line.stop();
}

#[test]
fn a_link_in_the_path_of_the_program_leads_to_the_next_release() {
    let folder = Folder::new("releases");
    let [current, old, new] = ["current", "old", "new"].map(|name| folder.path().join(name));
    for release in [&old, &new] {
        std::fs::create_dir(release).expect("writable");
    }
    copy(&binary("hello"), &old.join("hello"));
    let mark = folder.path().join("the-new-one");
    let script = format!(
        "#!/bin/sh\ntouch {}\nexec {} \"$@\"\n",
        mark.display(),
        binary("hello").display()
    );
    write(&new.join("hello"), &script);
    make_executable(&new.join("hello"));
    std::os::unix::fs::symlink(&old, &current).expect("writable");
    let program = current.join("hello");
    let program = program.to_string_lossy();
    let mut line = Line::start(Launch::of_file(&program).flags("--buckets 4"));
    let next = folder.path().join("next");
    std::os::unix::fs::symlink(&new, &next).expect("writable");
    std::fs::rename(&next, &current).expect("writable");
    line.hand_over();
    assert!(mark.exists(), "it is the old release again");
    let _ = line.stop();
}

#[test]
fn a_new_instance_whose_predecessor_is_killed_at_once_takes_what_it_was_handed() {
    let folder = Folder::new("handover-killed");
    let program = folder.path().join("hello");
    copy(&binary("hello"), &program);
    let text = program.to_string_lossy().into_owned();
    let mut line = Line::start(Launch::of_file(&text).flags("--buckets 4 --loops 2"));
    let [new, go] = ["new", "go"].map(|name| folder.path().join(name));
    let script = format!(
        "#!/bin/sh\nwhile [ ! -e {} ]; do sleep 0.02; done\nexec {} \"$@\"\n",
        go.display(),
        binary("hello").display()
    );
    write(&new, &script);
    make_executable(&new);
    std::fs::rename(&new, &program).expect("it is ours");
    line.signal(libc::SIGUSR2);
    let said = line.first.line_with("handing the listeners");
    let pid = said.split("pid=").nth(1).and_then(|pid| pid.parse().ok());
    line.newest.0 = pid.expect("its number");
    line.first.signal(libc::SIGKILL);
    assert!(eventually(|| line.first.has_exited()));
    // It waits in the backlog of a socket that the new instance was handed.
    let mut early = line.first.connect();
    std::fs::write(go, "").expect("it is ours");
    assert_eq!(early.get("/").status, 200);
    assert_eq!(line.first.get("/").status, 200);
    line.signal(libc::SIGTERM);
    assert_eq!(wait(std::mem::take(&mut line.newest.0)), 0);
}

#[test]
fn a_door_has_nothing_to_hand_over_and_goes_on() {
    let folder = Folder::new("handover-none");
    let door = folder.path().join("hello.door");
    let application = behind(&door, "hello", "--buckets 4");
    application.signal(libc::SIGUSR2);
    let said = application.line_with("SIGUSR2");
    assert!(said.contains("--door-wait"), "{said}");
    let front = before(&door, "");
    assert_eq!(front.get("/").status, 200);
    assert_eq!((front.stop().code(), application.stop().code()), (0, 0));
}

#[test]
fn forwards_of_connections_and_datagrams_are_handed_on() {
    let folder = Folder::new("handover-streams");
    let door = |name: &str| folder.path().join(name);
    let [web, echo, odd] = ["web.door", "echo.door", "odd.door"].map(door);
    let applications = [
        behind(&web, "hello", "--buckets 4"),
        behind(&echo, "tcp-echo", "--buckets 4"),
        Launch::of_file(env!("CARGO_BIN_EXE_odd-udp"))
            .flags(&format!("--buckets 4 --door {}", odd.display()))
            .start(),
    ];
    // The datagrams are written first, and listened for last.
    let flags = format!(
        "serve --loops 2 --forward udp://127.0.0.1:0={} --forward tcp://127.0.0.1:0={} --forward http://127.0.0.1:0={}",
        odd.display(),
        echo.display(),
        web.display()
    );
    let mut line = Line::start(Launch::of("transom").flags(&flags));
    let ready = line.first.line_with(" ready ");
    let address = |scheme: &str| {
        let (_, rest) = ready.split_once(scheme).expect("it is listened on");
        let end = rest.find([',', ' ']).unwrap_or(rest.len());
        rest[..end].parse::<SocketAddr>().expect("an address")
    };
    let [http, tcp, udp] = ["http://", "tcp://", "udp://"].map(address);
    let datagrams = UdpSocket::bind("127.0.0.1:0").expect("a port");
    datagrams.connect(udp).expect("an address");
    datagrams.set_read_timeout(Some(PATIENCE)).expect("a time");
    let is_echoed = |stream: &mut TcpStream, bytes: &[u8]| {
        let mut back = vec![0; bytes.len()];
        stream.write_all(bytes).expect("it is taken");
        stream.read_exact(&mut back).expect("it comes back");
        assert_eq!(back, bytes);
    };
    let connect = || {
        let stream = TcpStream::connect(tcp).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time");
        stream
    };
    for _ in 0..3 {
        let mut begun = connect();
        is_echoed(&mut begun, b"before");
        let old = line.begin_hand_over();
        is_echoed(&mut connect(), b"after");
        datagrams.send(b"after").expect("it is sent");
        let mut back = [0; 10];
        let len = datagrams.recv(&mut back).expect("an answer");
        assert_eq!(&back[..len], b"after");
        let answer = transom_tests::Client::connect(http).get("/");
        assert_eq!(answer.status, 200);
        // The old instance lives for as long as its connection.
        is_echoed(&mut begun, b"still here");
        drop(begun);
        if old != line.first.pid().cast_signed() {
            assert_eq!(wait(old), 0);
        }
    }
    let _ = line.stop();
    for application in applications {
        assert_eq!(application.stop().code(), 0);
    }
}

#[test]
fn a_new_instance_that_cannot_be_started_costs_nothing() {
    let folder = Folder::new("handover-gone");
    let program = folder.path().join("hello");
    let launch = |flags: &str| {
        std::fs::copy(binary("hello"), &program).expect("it can be copied");
        let path = program.to_str().expect("UTF-8");
        Launch::of_file(path).flags(flags).start()
    };
    let delete: fn(&Path) = |path| std::fs::remove_file(path).expect("it was there");
    let forbid: fn(&Path) = |path| {
        let nobody = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(path, nobody).expect("it is ours");
    };
    for (break_it, why) in [(delete, "os error 2"), (forbid, "os error 13")] {
        let server = launch("--buckets 2 --strict-heap");
        break_it(&program);
        server.signal(libc::SIGUSR2);
        let said = server.line_with("this one goes on");
        assert!(said.contains(why), "{said}");
        assert_eq!(server.get("/").status, 200);
        let ended = server.stop();
        assert_eq!(ended.figure("process_heap_allocations"), 0);
        assert_eq!(ended.code(), 0);
        let _ = std::fs::remove_file(&program);
    }
}
