//! What the system does not give: descriptors, threads, room on a disk, memory, /proc, an output.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use transom_tests::build::binary;
use transom_tests::other_user::OtherUser;
use transom_tests::{Ended, Folder, Launch, Server, eventually};

/// A command that runs another one under limits.
fn under(limits: &str) -> [String; 4] {
    let script = format!("ulimit {limits} && exec \"$0\" \"$@\"");
    ["sh".to_owned(), "-c".to_owned(), script, String::new()]
}

fn run_under(limits: &str, app: &str, flags: &str) -> Ended {
    let shell = under(limits);
    let shell: Vec<&str> = shell[..3].iter().map(String::as_str).collect();
    Launch::under(&shell, app).flags(flags).run()
}

fn start_under(limits: &str, app: &str, flags: &str) -> Server {
    let shell = under(limits);
    let shell: Vec<&str> = shell[..3].iter().map(String::as_str).collect();
    Launch::under(&shell, app).flags(flags).start()
}

/// The soft limit of a process's descriptors.
fn soft_limit(pid: u32) -> u64 {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let words = line.unwrap_or_default().split_whitespace();
    words
        .filter_map(|word| word.parse().ok())
        .next()
        .expect("a number")
}

#[test]
fn the_limit_of_descriptors_has_room_for_what_handlers_open() {
    // 64 connections, a loop, its listener and 16 others; and four for each of eight buckets.
    let flags = "--listen 127.0.0.1:0 --buckets 8 --loops 1 --connections 64";
    let server = start_under("-Sn 32", "hello", flags);
    assert_eq!(soft_limit(server.pid()), 64 + 5 + 16 + 8 * 4);
    assert_eq!(server.stop().code(), 0);

    let ended = run_under("-n 116", "hello", flags);
    assert_eq!(ended.code(), 1);
    for part in [
        "`ulimit -n` is 116, but 117 descriptors are needed",
        "32 of them for what handlers open",
        "--buckets 8",
        "App::descriptors_per_request",
    ] {
        assert!(ended.stderr().contains(part), "{part}: {}", ended.stderr());
    }
}

#[test]
fn as_many_downloads_as_buckets_leave_descriptors_for_others() {
    const BUCKETS: usize = 40;
    let folder = Folder::new("descriptors");
    let large = vec![b'x'; 8 << 20];
    std::fs::write(folder.path().join("large.bin"), large).expect("a file");
    std::fs::write(folder.path().join("small.txt"), "small").expect("a file");
    let flags = format!(
        "--listen 127.0.0.1:0 --loops 1 --connections 200 --buckets {} --root {}",
        BUCKETS + 4,
        folder.path().display()
    );
    let server = start_under("-Sn 64", "send-static-file", &flags);
    let idle: Vec<_> = (0..150).map(|_| server.connect()).collect();
    let slow: Vec<_> = (0..BUCKETS)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address()).expect("it listens");
            stream
                .write_all(b"GET /large.bin HTTP/1.1\r\nHost: x\r\n\r\n")
                .expect("it is taken");
            stream.read_exact(&mut [0; 64]).expect("the answer begins");
            stream
        })
        .collect();
    for _ in 0..20 {
        assert_eq!(server.get("/small.txt").status, 200);
    }
    drop((idle, slow));
    assert_eq!(server.stop().code(), 0);
}

#[test]
fn a_handler_that_finds_no_descriptor_answers_503() {
    let folder = Folder::new("no-descriptor");
    std::fs::write(folder.path().join("small.txt"), "small").expect("a file");
    let flags = format!(
        "--listen 127.0.0.1:0 --buckets 2 --root {}",
        folder.path().display()
    );
    let server = start_under("-Sn 64", "send-static-file", &flags);
    let mut client = server.connect();
    assert_eq!(client.get("/small.txt").status, 200);
    // As if others had taken all that are left.
    server.limit(libc::RLIMIT_NOFILE, 3);
    let answer = client.get("/small.txt");
    assert_eq!(answer.status, 503);
    assert_eq!(answer.field("retry-after"), Some("1"));
    let said = server.line_with("a handler could not answer");
    assert!(
        said.contains("status=503") && said.contains("App::descriptors_per_request"),
        "{said}"
    );
}

#[test]
fn a_thread_that_cannot_be_started_is_told_counted_and_part_of_ready() {
    let oom = binary("oom");
    let oom = oom.to_str().expect("UTF-8");
    let Some(user) = OtherUser::who_runs(oom) else {
        return;
    };
    let server = user
        .launch(oom)
        .flags(
            "--buckets 8 --loops 1 --listen 127.0.0.1:0 --admin 127.0.0.1:0 --queue-timeout 100ms",
        )
        .start();
    let ready = || {
        let mut admin = transom_tests::client::Client::connect(server.admin());
        admin.get("/ready").text().to_owned()
    };
    assert_eq!(ready(), "ready\n");
    user.limit_threads(&server, 1);
    let busy: Vec<_> = (0..4)
        .map(|_| {
            let mut client = server.connect();
            client.send("GET /sleep/1500 HTTP/1.1\r\nHost: x\r\n\r\n");
            client
        })
        .collect();
    let said = server.line_with("cannot start another door server thread");
    for part in [
        " WARN ",
        "`ulimit -u`",
        "pids.max",
        "os_error=11",
        "buckets=8",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(ready(), "no-thread\n");
    let counted = server.metric("transom_threads_refused_total");
    assert!(counted.is_some_and(|count| count > 0.0), "{counted:?}");
    let lines = || {
        let lines = server.lines();
        lines
            .iter()
            .filter(|line| line.contains("cannot start another"))
            .count()
    };
    assert_eq!(lines(), 1, "it is said every 10 s");

    // Once there are threads again it is ready at the next one.
    user.limit_threads(&server, 200);
    for mut client in busy {
        let _status = client.answer().status;
    }
    let all_at_once = || {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let mut client = server.connect();
                client.send("GET /sleep/50 HTTP/1.1\r\nHost: x\r\n\r\n");
                client
            })
            .collect();
        clients
            .into_iter()
            .all(|mut client| client.answer().status == 200)
    };
    assert!(eventually(all_at_once));
    assert!(eventually(|| ready() == "ready\n"));
    assert_eq!(server.stop().code(), 0);
}

#[test]
fn a_full_disk_under_the_access_log_is_called_that() {
    if !std::path::Path::new("/dev/full").exists() {
        println!("skipped: there is no /dev/full");
        return;
    }
    let server = Server::start("hello", "--access-log json --access-log-file /dev/full");
    assert_eq!(server.get("/").status, 200);
    let said = server.line_with("lines of the access log are dropped");
    assert!(
        said.contains("there is no space left") && !said.contains("--access-log-queue"),
        "{said}"
    );
    let ended = server.stop();
    assert_eq!((ended.code(), ended.figure("access_lines_dropped")), (0, 1));
}

#[test]
fn a_line_that_a_full_file_has_cut_is_completed_when_there_is_room() {
    let folder = Folder::new("cut-line");
    let file = folder.path().join("access.log");
    let flags = format!(
        "--admin 127.0.0.1:0 --access-log json --access-log-file {}",
        file.display()
    );
    let server = Server::start("hello", &flags);
    let len = || std::fs::metadata(&file).map_or(0, |found| found.len());
    assert_eq!(server.get("/hello/first").status, 200);
    assert!(eventually(|| len() > 0));
    let room = len() + 40;
    server.limit(libc::RLIMIT_FSIZE, room);
    assert_eq!(server.get("/hello/second").status, 200);
    assert!(eventually(|| len() == room), "{} of {room}", len());
    assert_eq!(server.get("/hello/third").status, 200);
    let said = server.line_with("lines of the access log are dropped");
    assert!(said.contains("`ulimit -f`"), "{said}");
    let is_counted = || {
        let mut admin = transom_tests::client::Client::connect(server.admin());
        let page = admin.get("/metrics").text().to_owned();
        page.contains("transom_access_lines_dropped_total 1\n")
    };
    assert!(eventually(is_counted), "the third line is not lost");
    server.limit(libc::RLIMIT_FSIZE, libc::RLIM_INFINITY);
    assert_eq!(server.get("/hello/fourth").status, 200);
    let ended = server.stop();
    assert_eq!(ended.code(), 0);
    let text = std::fs::read_to_string(&file).expect("it is there");
    let requests: Vec<_> = text
        .lines()
        .map(|line| {
            let line: serde_json::Value =
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
            line["request"].as_str().unwrap_or_default().to_owned()
        })
        .collect();
    let names: Vec<_> = requests
        .iter()
        .filter_map(|request| request.split(' ').nth(1))
        .collect();
    assert_eq!(names, ["/hello/first", "/hello/second", "/hello/fourth"]);
    assert_eq!(ended.figure("access_lines_dropped"), 1, "the third");
}

/// Runs a command where /proc is an empty folder.
const NO_PROC: [&str; 5] = [
    "unshare",
    "--mount",
    "sh",
    "-c",
    "mount -t tmpfs none /proc && exec \"$0\" \"$@\"",
];

#[test]
fn without_proc_everything_starts_and_only_a_hand_over_is_refused() {
    let possible = Command::new(NO_PROC[0])
        .args(&NO_PROC[1..])
        .args(["test", "!", "-e", "/proc/self"])
        .status();
    if !possible.is_ok_and(|status| status.success()) {
        println!("skipped: a mount namespace cannot be made here (unshare --mount)");
        return;
    }
    let folder = Folder::new("no-proc");
    let door = folder.path().join("hello.door");
    let door = door.display();
    let alone = Launch::under(&NO_PROC, "hello").start();
    let behind = Launch::under(&NO_PROC, "hello").flags(&format!("--door {door}"));
    let behind = behind.start();
    let front = format!("serve --forward http://127.0.0.1:0={door} --admin 127.0.0.1:0");
    let front = Launch::under(&NO_PROC, "transom").flags(&front).start();
    for server in [alone, front] {
        assert_eq!(server.get("/").status, 200);
        server.signal(libc::SIGUSR2);
        let said = server.line_with("this one goes on");
        assert!(
            said.contains("where this program lies is not known"),
            "{said}"
        );
        assert_eq!(server.get("/").status, 200);
        let ended = server.stop();
        assert_eq!(ended.figure("process_heap_allocations"), 0);
        assert_eq!(ended.code(), 0);
    }
    assert_eq!(behind.stop().code(), 0);
}

#[test]
fn what_was_asked_for_and_cannot_be_written_is_a_failure() {
    if !std::path::Path::new("/dev/full").exists() {
        println!("skipped: there is no /dev/full");
        return;
    }
    let folder = Folder::new("dev-full");
    let file = folder.path().join("front.toml");
    std::fs::write(
        &file,
        "[[forward]]\nlisten = \"http://127.0.0.1:0\"\ndoor = \"/d\"\n",
    )
    .expect("a file");
    let file = file.display().to_string();
    let commands: [(&str, Vec<&str>); 9] = [
        ("hello", vec!["--check"]),
        ("hello", vec!["--help"]),
        ("hello", vec!["--version"]),
        ("transom", vec!["--version"]),
        ("transom", vec!["serve", "--check", "--config", &file]),
        ("transom", vec!["check", &file]),
        ("transom", vec!["bound"]),
        ("transom", vec!["plan", "--rate", "100", "--latency", "1ms"]),
        ("transom", vec!["serve", "--help"]),
    ];
    for (app, words) in commands {
        let into = |out: Stdio| {
            let mut command = Command::new(binary(app));
            command.args(&words).stdin(Stdio::null()).stdout(out);
            command.stderr(Stdio::piped()).output().expect("it runs")
        };
        let full = File::options()
            .write(true)
            .open("/dev/full")
            .expect("there is one");
        let ended = into(full.into());
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(!ended.status.success(), "{app} {words:?}: {said}");
        assert!(said.contains("No space left"), "{app} {words:?}: {said}");
        assert!(into(Stdio::piped()).status.success(), "{app} {words:?}");
        let (reader, closed) = std::io::pipe().expect("a pipe");
        drop(reader);
        let ended = into(closed.into());
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{app} {words:?}: {said}");
        assert!(said.contains("Broken pipe"), "{app} {words:?}: {said}");
    }
}

#[test]
fn a_bound_above_the_limit_of_the_address_space_is_refused_by_name() {
    for (limit, name) in [
        ("-v 40000", "`ulimit -v` (RLIMIT_AS)"),
        ("-d 40000", "`ulimit -d` (RLIMIT_DATA)"),
    ] {
        for flags in [
            "--buckets 64 --bucket-size 2MiB",
            "--check --buckets 64 --bucket-size 2MiB",
        ] {
            let ended = run_under(limit, "hello", flags);
            assert_eq!(ended.code(), 1, "{limit} {flags}");
            for part in [name, "has 40000KiB", "--buckets"] {
                assert!(ended.stderr().contains(part), "{part}: {}", ended.stderr());
            }
        }
    }
}

#[test]
fn a_bound_above_the_memory_of_a_cgroup_is_refused_by_name() {
    let Some(group) = Group::new(64 << 20) else {
        println!("skipped: no cgroup with a memory limit can be made here");
        return;
    };
    let script = format!(
        "echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"",
        group.path
    );
    let shell = ["sh", "-c", &script];
    for flags in ["", "--check"] {
        let ended = Launch::under(&shell, "hello").flags(flags).run();
        assert_eq!(ended.code(), 1, "{flags}");
        for part in ["but cgroup ", "has 64MiB", "--buckets"] {
            assert!(ended.stderr().contains(part), "{part}: {}", ended.stderr());
        }
    }
    let plan = "plan --rate 100 --latency 10ms --buckets 64";
    let ended = Launch::under(&shell, "transom").flags(plan).run();
    assert!(
        ended.stdout.contains("does not start here"),
        "{}",
        ended.stdout
    );
}

/// A cgroup of a test's own.
struct Group {
    path: String,
}

impl Group {
    /// One with so much memory, in either version; `None` if that is not possible.
    fn new(bytes: u64) -> Option<Self> {
        for (root, file) in [
            ("/sys/fs/cgroup", "memory.max"),
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        ] {
            let path = format!("{root}/transom-test-{}", std::process::id());
            if std::fs::create_dir(&path).is_err() {
                continue;
            }
            let group = Group { path };
            // Beside cgroups there may be an ordinary file system.
            if !std::path::Path::new(&format!("{}/cgroup.procs", group.path)).exists() {
                continue;
            }
            if std::fs::write(format!("{}/{file}", group.path), bytes.to_string()).is_ok() {
                return Some(group);
            }
        }
        None
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.path);
    }
}
