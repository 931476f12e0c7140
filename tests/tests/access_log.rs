//! The access log: a line for each request, however it ended, in-process and through a door.

use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use transom_tests::doors::{before, behind};
use transom_tests::{Client, Folder, Launch, Server, eventually};

/// A front end that logs its requests, and the application behind it, which may be the same process.
struct Logged {
    front: Server,
    application: Option<Server>,
    file: PathBuf,
    door: Value,
}

impl Logged {
    /// Both ways of serving an application; the flags are the application's and the front end's.
    fn both(folder: &Folder, app: &str, of_app: &str, of_front: &str) -> [Logged; 2] {
        let file = folder.path().join("in-process.log");
        let flags = |file: &Path| format!("--access-log-file {} {of_front}", file.display());
        let in_process = Logged {
            front: Server::start(app, &format!("{of_app} {}", flags(&file))),
            application: None,
            file,
            door: Value::Null,
        };
        let file = folder.path().join("door.log");
        let door = folder.path().join("app.door");
        let application = Some(behind(&door, app, of_app));
        let through_a_door = Logged {
            front: before(&door, &flags(&file)),
            application,
            file,
            door: json!(door.to_str()),
        };
        [in_process, through_a_door]
    }

    fn application(&self) -> &Server {
        self.application.as_ref().unwrap_or(&self.front)
    }

    /// The lines of JSON, once there are so many.
    fn lines(&self, count: usize) -> Vec<Value> {
        let lines = lines_of(&self.file, count);
        let parsed: Vec<Value> = lines
            .iter()
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
            })
            .collect();
        for line in &parsed {
            let peer = line["peer"].as_str().expect("a peer");
            assert!(peer.starts_with("127.0.0.1:"), "{line}");
            let forward = format!("http://{}", self.front.address());
            assert_eq!(line["forward"], json!(forward), "{line}");
        }
        parsed
    }
}

fn lines_of(file: &Path, count: usize) -> Vec<String> {
    let read = || {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(
        eventually(|| read().len() >= count),
        "{count} lines are wanted: {:#?}",
        read()
    );
    let lines = read();
    assert_eq!(lines.len(), count, "{lines:#?}");
    lines
}

fn as_number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value}"))
}

#[test]
fn every_answer_has_its_line_whoever_gave_it() {
    let folder = Folder::new("access-answers");
    // Lines of several loops come in any order.
    let flags = "--access-log json --loops 1";
    for served in Logged::both(&folder, "oom", "--buckets 4", flags) {
        let mut client = served.front.connect();
        client.send(
            "GET /1 HTTP/1.1\r\nHost: a\r\nReferer: http://b/\r\nUser-Agent: c \"d\"\r\n\r\n",
        );
        let good = client.answer();
        client.send("HEAD /1 HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.answer_to_head().status, 200);
        let exhausted = client.get("/1000000");
        client.send("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.answer().status, 204);
        let malformed = served.front.answer_to("\x16\x03\"\r\n\r\n");
        let too_large = served
            .front
            .answer_to("POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n");
        let statuses = [
            good.status,
            exhausted.status,
            malformed.status,
            too_large.status,
        ];
        assert_eq!(statuses, [200, 500, 400, 413]);

        let lines = served.lines(6);
        for (n, line) in lines.iter().enumerate() {
            assert_eq!(line["aborted"], json!(false), "{line}");
            assert_eq!(line["cut"], json!(false), "{line}");
            assert!(
                as_number(&line["waited_us"]) <= as_number(&line["duration_us"]),
                "{line}"
            );
            let number = if n < 4 { n + 1 } else { 1 };
            assert_eq!(line["number"], json!(number), "{line}");
        }
        let expected = [
            ("GET /1 HTTP/1.1", 200, good.body.len()),
            ("HEAD /1 HTTP/1.1", 200, 0),
            ("GET /1000000 HTTP/1.1", 500, exhausted.body.len()),
            ("OPTIONS * HTTP/1.1", 204, 0),
            ("\u{16}\u{3}\"", 400, malformed.body.len()),
            ("POST /1 HTTP/1.1", 413, too_large.body.len()),
        ];
        for (line, (request, status, bytes)) in lines.iter().zip(expected) {
            assert_eq!(line["request"], json!(request), "{line}");
            assert_eq!(line["status"], json!(status), "{line}");
            assert_eq!(line["bytes"], json!(bytes), "{line}");
        }
        assert_eq!(lines[0]["referer"], json!("http://b/"));
        assert_eq!(lines[0]["user_agent"], json!("c \"d\""));
        assert_eq!(lines[1]["user_agent"], Value::Null);
        assert_eq!(lines[0]["diagnostic"], Value::Null);
        assert_eq!(lines[2]["diagnostic"], json!("bucket-exhausted"));
        assert_eq!(lines[0]["door"], served.door);
        assert_eq!(lines[4]["door"], Value::Null);
        let ended = served.front.stop();
        assert_eq!(ended.code(), 0, "{}", ended.stderr());
        assert_eq!(ended.figure("access_lines_dropped"), 0);
    }
}

#[test]
fn a_combined_line_begins_as_those_of_other_servers() {
    let folder = Folder::new("access-combined");
    // Lines of several loops come in any order.
    let flags = "--access-log combined --loops 1";
    for served in Logged::both(&folder, "hello", "--buckets 4", flags) {
        let mut client = served.front.connect();
        client.send("GET /json HTTP/1.1\r\nHost: a\r\nUser-Agent: c \"d\" \\\r\n\r\n");
        let answer = client.answer();
        assert_eq!(served.front.answer_to("G\x1b\r\n\r\n").status, 400);
        let lines = lines_of(&served.file, 2);
        assert!(lines[0].starts_with("127.0.0.1 - - ["), "{lines:?}");
        let (time, rest) = lines[0]["127.0.0.1 - - [".len()..]
            .split_once("] ")
            .expect("a time");
        assert_eq!(time.len(), "21/Nov/2026:10:25:00 +0000".len(), "{time}");
        let expected = format!(
            r#""GET /json HTTP/1.1" 200 {} "-" "c \"d\" \\" duration_us="#,
            answer.body.len()
        );
        assert!(rest.starts_with(&expected), "{rest}");
        let door = served.door.as_str().unwrap_or("-");
        assert!(rest.contains(&format!(" door=\"{door}\" ")), "{rest}");
        assert!(lines[1].contains(r#"] "G\x1b" 400 "#), "{lines:?}");
    }
}

#[test]
fn a_request_that_found_no_slot_says_how_long_it_waited() {
    let folder = Folder::new("access-busy");
    let of_app = "--buckets 1 --slots 1";
    let of_front = "--access-log json --loops 1 --queue-timeout 100ms";
    for served in Logged::both(&folder, "oom", of_app, of_front) {
        let mut busy = served.front.connect();
        busy.send("GET /sleep/1000 HTTP/1.1\r\nHost: a\r\n\r\n");
        served.application().wait_for_sleepers(1);
        assert_eq!(served.front.get("/1").status, 503);
        assert_eq!(busy.answer().status, 200);
        let lines = served.lines(2);
        // Refused unread: its request is not known.
        assert_eq!(lines[0]["request"], Value::Null);
        assert_eq!(lines[0]["status"], json!(503));
        assert_eq!(lines[0]["door"], served.door);
        assert!(as_number(&lines[0]["waited_us"]) >= 100_000, "{}", lines[0]);
        assert_eq!(lines[1]["request"], json!("GET /sleep/1000 HTTP/1.1"));
        assert!(
            as_number(&lines[1]["duration_us"]) >= 1_000_000,
            "{}",
            lines[1]
        );
        assert_eq!(lines[1]["waited_us"], json!(0));
    }
}

#[test]
fn an_unfinished_head_that_took_too_long_is_logged_as_far_as_it_came() {
    let folder = Folder::new("access-slow");
    let of_front = "--access-log json --header-timeout 50ms";
    for served in Logged::both(&folder, "oom", "--buckets 1", of_front) {
        assert_eq!(
            served
                .front
                .answer_to("GET /1 HTTP/1.1\r\nHost: a\r\nX:")
                .status,
            408
        );
        let lines = served.lines(1);
        assert_eq!(lines[0]["request"], json!("GET /1 HTTP/1.1"));
        assert_eq!(lines[0]["status"], json!(408));
        assert_eq!(lines[0]["user_agent"], Value::Null);
    }
}

#[test]
fn a_streamed_answer_is_counted_without_its_framing_and_an_aborted_one_as_far_as_it_went() {
    const LEN: usize = 1 << 20;
    let folder = Folder::new("access-streamed");
    for served in Logged::both(&folder, "echo", "--buckets 2", "--access-log json") {
        let mut client = served.front.connect();
        let mut sender = client.sender();
        let head = format!("POST /stream HTTP/1.1\r\nHost: a\r\nContent-Length: {LEN}\r\n\r\n");
        let sending = thread::spawn({
            let head = head.clone();
            move || {
                sender.write_all(head.as_bytes())?;
                sender.write_all(&vec![7; LEN])
            }
        });
        assert_eq!(client.answer().body.len(), LEN);
        sending.join().expect("no panic").expect("it is taken");
        let line = &served.lines(1)[0];
        assert_eq!(
            (&line["bytes"], &line["aborted"]),
            (&json!(LEN), &json!(false))
        );

        let mut client = served.front.connect();
        client.send(&head);
        client.send(vec![7; LEN / 4]);
        assert_eq!(client.answer_to_head().status, 200);
        client.reset();
        let line = &served.lines(2)[1];
        assert_eq!(
            (&line["status"], &line["aborted"]),
            (&json!(200), &json!(true))
        );
        assert!(as_number(&line["bytes"]) <= LEN as u64 / 4, "{line}");
    }
}

/// An answer of the front end's own that has waited for room in the socket has its line when it has left.
#[test]
fn an_answer_that_is_taken_late_is_not_aborted() {
    const COUNT: usize = 3000;
    let folder = Folder::new("access-late");
    let file = folder.path().join("access.log");
    let flags = format!(
        "--buckets 2 --loops 1 --send-buffer 4KiB --access-log json --access-log-queue 4096 --access-log-file {}",
        file.display()
    );
    let server = Server::start("hello", &flags);
    let mut client = Client::connect_with_buffer(server.address(), 2048);
    let mut sender = client.sender();
    let requests = "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\nGET /missing HTTP/1.1\r\nHost: a\r\n\r\n";
    thread::scope(|scope| {
        scope.spawn(move || sender.write_all(requests.repeat(COUNT / 2).as_bytes()));
        // By now it is stuck in both directions.
        thread::sleep(std::time::Duration::from_millis(300));
        for n in 0..COUNT {
            let wanted = if n % 2 == 0 { 204 } else { 404 };
            assert_eq!(client.answer().status, wanted, "answer {n}");
        }
    });
    for line in lines_of(&file, COUNT) {
        let line: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(line["aborted"], json!(false), "{line}");
    }
}

/// A client that is cut because it has taken no answer has lines with what it was sent, and no more.
#[test]
fn an_answer_that_is_not_begun_has_no_bytes() {
    let folder = Folder::new("access-cut");
    let file = folder.path().join("access.log");
    let flags = format!(
        "--buckets 1 --slots 1 --loops 1 --write-timeout 500ms --access-log json --access-log-file {}",
        file.display()
    );
    let server = Launch::of_file(env!("CARGO_BIN_EXE_odd"))
        .flags(&flags)
        .start();
    assert_eq!(server.get("/bytes/200/12").body.len(), 12 << 10);
    let mut client = Client::connect_with_buffer(server.address(), 2048);
    client.send("GET /long/40 HTTP/1.1\r\nHost: a\r\n\r\n");
    let _ = lines_of(&file, 2);
    assert_eq!(server.get("/bytes/200/12").body.len(), 12 << 10);
    // What has gone into its receive buffer counts when it is looked at first.
    for count in [4, 5] {
        thread::sleep(std::time::Duration::from_millis(700)); // the client's own pace
        client.send("GET /fill/1 HTTP/1.1\r\nHost: a\r\n\r\n");
        let _ = lines_of(&file, count);
    }
    let line: Value = serde_json::from_str(&lines_of(&file, 5)[4]).expect("JSON");
    assert_eq!(
        (&line["status"], &line["bytes"]),
        (&json!(499), &json!(0)),
        "{line}"
    );
    assert_eq!(line["aborted"], json!(true), "{line}");
}

#[test]
fn a_request_whose_client_has_gone_before_the_answer_is_logged_too() {
    let folder = Folder::new("access-gone");
    for served in Logged::both(&folder, "oom", "--buckets 2", "--access-log json") {
        let mut client = served.front.connect();
        client.send("GET /sleep/500 HTTP/1.1\r\nHost: a\r\n\r\n");
        served.application().wait_for_sleepers(1);
        client.reset();
        let line = &served.lines(1)[0];
        assert_eq!(line["request"], json!("GET /sleep/500 HTTP/1.1"));
        assert_eq!((&line["status"], &line["bytes"]), (&json!(499), &json!(0)));
        assert_eq!(line["aborted"], json!(true));
        // Bytes that never became a request have no line.
        let mut client = served.front.connect();
        client.send("GET /1 HT");
        client.half_close();
        assert!(client.is_closed());
        assert_eq!(served.front.stop().code(), 0);
        assert_eq!(lines_of(&served.file, 1).len(), 1);
    }
}

#[test]
fn on_sighup_the_file_is_opened_anew() {
    let folder = Folder::new("access-hangup");
    for served in Logged::both(&folder, "hello", "--buckets 2", "--access-log json") {
        let old = served.file.with_extension("1");
        assert_eq!(served.front.get("/").status, 200);
        let _first = served.lines(1);
        std::fs::rename(&served.file, &old).expect("it can be renamed");
        assert_eq!(served.front.get("/").status, 200);
        let _second = lines_of(&old, 2);
        served.front.signal(libc::SIGHUP);
        assert!(eventually(|| served.file.exists()), "there is no new file");
        assert_eq!(served.front.get("/json").status, 200);
        assert_eq!(served.lines(1)[0]["request"], json!("GET /json HTTP/1.1"));
        assert_eq!(lines_of(&old, 2).len(), 2);

        // A file that cannot be opened anew is told of, and the old one goes on.
        std::fs::rename(&served.file, old.with_extension("2")).expect("it can be renamed");
        std::fs::create_dir(&served.file).expect("a folder in its place");
        served.front.signal(libc::SIGHUP);
        let said = served.front.line_with("cannot be opened anew");
        assert!(said.contains("--access-log-file"), "{said}");
        assert!(said.contains("os error 21"), "{said}");
        assert_eq!(served.front.get("/").status, 200);
        assert_eq!(lines_of(&old.with_extension("2"), 2).len(), 2);
        assert_eq!(served.front.stop().code(), 0);
        std::fs::remove_dir(&served.file).expect("it is empty");
    }
}

fn fifo(path: &Path) {
    let name = std::ffi::CString::new(path.as_os_str().as_bytes()).expect("no NUL");
    // SAFETY: a plain system call that reads a path.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
}

#[test]
fn a_pipe_that_nobody_reads_stops_no_request_and_what_it_does_not_take_is_counted() {
    const REQUESTS: u64 = 2_000;
    let folder = Folder::new("access-fifo");
    let names = ["in-process.log", "door.log"];
    let open = |name: &&str| {
        let path = folder.path().join(name);
        fifo(&path);
        // For reading and writing, so that it can be opened without a reader.
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK);
        options.open(path).expect("it is there")
    };
    let pipes: Vec<_> = names.iter().map(open).collect();
    let of_front = "--access-log json --access-log-queue 16";
    let both = Logged::both(&folder, "hello", "--buckets 2", of_front);
    for (served, mut pipe) in both.into_iter().zip(pipes) {
        let mut client = served.front.connect();
        for _ in 0..REQUESTS {
            assert_eq!(client.get("/").status, 200);
        }
        let said = served
            .front
            .line_with("lines of the access log are dropped");
        assert!(said.contains("--access-log-queue"), "{said}");
        drop(client);
        let ended = served.front.stop();
        assert_eq!(ended.code(), 0, "{}", ended.stderr());
        let mut taken = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(len @ 1..) = pipe.read(&mut buffer) {
            taken.extend_from_slice(&buffer[..len]);
        }
        let lines = taken.iter().filter(|&&byte| byte == b'\n').count() as u64;
        let dropped = ended.figure("access_lines_dropped");
        assert!(lines > 0 && dropped > 0, "{lines} and {dropped}");
        assert_eq!(lines + dropped, REQUESTS);
    }
}

#[test]
fn a_file_that_cannot_be_written_is_refused_at_start() {
    let folder = Folder::new("access-refused");
    let pipe = folder.path().join("pipe");
    fifo(&pipe);
    let socket = folder.path().join("socket");
    let _socket = std::os::unix::net::UnixListener::bind(socket).expect("a socket");
    let folder = folder.path().display();
    for (flags, part) in [
        (
            format!("--access-log json --access-log-file {folder}/no/log"),
            "make its folder first",
        ),
        (
            format!("--access-log json --access-log-file {folder}"),
            "name a file in it",
        ),
        (
            format!("--access-log json --access-log-file {folder}/pipe"),
            "no process reads that pipe",
        ),
        (
            format!("--access-log json --access-log-file {folder}/socket"),
            "leave the flag out",
        ),
        (
            format!("--access-log-file {folder}/log"),
            "--access-log-file needs --access-log",
        ),
    ] {
        for (app, before) in [
            ("hello", "--listen 127.0.0.1:0".to_owned()),
            (
                "transom",
                format!("serve --forward http://127.0.0.1:0={folder}/a.door"),
            ),
        ] {
            let ended = Launch::of(app).flags(&format!("{before} {flags}")).run();
            let status = 1 + i32::from(part.contains(" needs "));
            assert_eq!(ended.code(), status, "{flags}: {}", ended.stderr());
            let said = ended.stderr();
            assert!(
                said.contains("--access-log-file") && said.contains(part),
                "{flags}: {said}"
            );
        }
    }
}
