//! The log: which request was too large, and which flag would help; in lines for people and in lines for
//! programs.

use serde_json::Value;
use transom_tests::doors::{Folder, before, behind};
use transom_tests::{Kind, Launch, Load, Server, eventually};

#[test]
fn the_line_of_an_exhausted_request_names_the_culprit_and_the_flag() {
    let server = Server::start("oom", "--buckets 4 --bucket-size 512KiB");
    assert_eq!(server.get("/1000000").status, 500);
    let line = server.line_with("outgrew");
    for part in [
        " WARN ",
        "route=/{kib}",
        "reason=arena",
        "asked=1024000000",
        "used=",
        "raise=--bucket-size",
        "parked=false",
    ] {
        assert!(line.contains(part), "no {part} in {line}");
    }
    let size = line
        .split(' ')
        .find_map(|field| field.strip_prefix("size=")?.parse::<usize>().ok());
    assert!(
        size.is_some_and(|size| (300 << 10..512 << 10).contains(&size)),
        "{line}"
    );

    assert_eq!(server.get("/recurse/1000000").status, 500);
    let line = server.line_with("/recurse/");
    for part in [
        "route=/recurse/{n}",
        "reason=stack",
        "size=131072",
        "raise=--stack-size",
    ] {
        assert!(line.contains(part), "no {part} in {line}");
    }
    assert_eq!(server.get("/arena/1000000").status, 500);
    assert!(server.line_with("/arena/").contains("raise=--bucket-size"));
}

/// Neither is the fault of the request, and each has a flag.
#[test]
fn heads_that_do_not_fit_their_slots_are_told_with_the_flag() {
    let server = Launch::of_file(env!("CARGO_BIN_EXE_odd"))
        .flags("--buckets 4 --reply-size 16KiB --loops 1")
        .start();
    assert_eq!(server.get("/field/1").status, 200);
    let answer = server.get("/field/20");
    let diagnostic = answer.field("transom-diagnostic");
    assert_eq!((answer.status, diagnostic), (500, None));
    let line = server.line_with("the fields of an answer do not fit its slot");
    for part in ["route=/field/{kib}", "size=16384", "raise=--reply-size"] {
        assert!(line.contains(part), "no {part} in {line}");
    }

    let folder = Folder::new("small-slots");
    let door = folder.path("echo.door");
    let _application = behind(&door, "echo", "--buckets 2 --request-size 8KiB");
    let front = before(&door, "--loops 1 --head-limit 32KiB");
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {:020000}\r\n\r\n", 0);
    assert_eq!(front.answer_to(long).status, 431);
    let line = front.line_with("raise --request-size there");
    assert!(line.contains("size=8192"), "{line}");
}

#[test]
fn an_application_that_gets_requests_of_another_scheme_says_so() {
    let folder = Folder::new("other-scheme");
    let door = folder.path("udp.door");
    let application = Launch::of_file(env!("CARGO_BIN_EXE_odd-udp"))
        .flags(&format!("--door {} --buckets 2", door.display()))
        .start();
    let front = before(&door, "--loops 1");
    assert_eq!(front.get("/").status, 500);
    let _ = application.line_with("what is no request of this application");
}

#[test]
fn what_a_request_used_before_it_asked_for_too_much_is_said() {
    let server = Server::start("oom", "--buckets 4 --bucket-size 512KiB");
    assert_eq!(server.get("/350").status, 500);
    let line = server.line_with("outgrew");
    assert!(line.contains("asked=358400 "), "{line}");
}

#[test]
fn the_line_of_a_panic_says_what_and_where_and_with_backtraces_from_where() {
    let server = Server::start("oom", "--buckets 4");
    assert_eq!(
        server.get("/panic").field("transom-diagnostic"),
        Some("handler-panicked")
    );
    let line = server.line_with("panicked");
    assert!(
        line.contains("route=/panic")
            && line.contains("as asked by the client, at apps/oom/src/main.rs:"),
        "{line}"
    );
    assert!(!line.contains("0x"), "{line}");

    let server = Launch::of("oom").env("RUST_BACKTRACE", "1").start();
    assert_eq!(server.get("/panic").status, 500);
    let line = server.line_with("panicked");
    assert!(
        line.contains("frames=0x") || line.contains("frames=\"0x"),
        "{line}"
    );
}

#[test]
fn every_json_line_is_json_also_those_about_hostile_requests() {
    let server = Launch::of("oom")
        .flags("--buckets 4 --log json --log-level debug")
        .env("RUST_BACKTRACE", "1")
        .start();
    for path in [
        "/1000000",
        "/arena/1000000",
        "/recurse/1000000",
        "/panic",
        "/x\"y",
        "/%22%5c%0a%1b[2J",
        "/x",
    ] {
        let _ = server.get(path);
    }
    assert_eq!(server.answer_to("nonsense\r\n\r\n").status, 400);
    let ended = server.stop();
    let lines: Vec<Value> = ended
        .lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    for line in &lines {
        for member in ["time", "level", "target", "message"] {
            assert!(line[member].is_string(), "no {member} in {line}");
        }
    }
    let find = |message: &str| {
        lines
            .iter()
            .find(|line| line["message"] == message)
            .unwrap_or(&Value::Null)
    };
    assert_eq!(find("a request outgrew its bucket")["route"], "/{kib}");
    assert_eq!(find("a request outgrew its bucket")["parked"], false);
    assert_eq!(find("a handler panicked")["route"], "/panic");
    assert_eq!(find("drained")["process_heap_allocations"], 0);
    assert_eq!(find("drained")["panicked"], 1);
}

#[test]
fn a_log_that_nobody_reads_fast_enough_drops_lines_and_counts_them() {
    let server = Server::start("oom", "--buckets 4 --log-queue 2");
    let report = Load::new(server.address(), 32, vec![Kind::get("/1000000", 500, "")])
        .total(5000)
        .run();
    assert!(report.bad.is_empty(), "{:?}", report.bad);
    let ended = server.stop();
    assert!(ended.figure("lines_left_out") > 0, "a flood is not written");
    // Beside theirs there are the equation, "ready", "draining", what requests needed and the summary, and
    // lines that say how many were dropped. Of theirs, there are twenty a second.
    let written = ended
        .lines
        .iter()
        .filter(|line| !line.contains(" dropped"))
        .count() as u64;
    assert_eq!(
        written + ended.figure("log_lines_dropped") + ended.figure("lines_left_out"),
        5000 + 5,
        "each is either written or counted"
    );
}

#[test]
fn the_level_leaves_out_what_is_less_severe() {
    let server = Server::start("oom", "--buckets 4 --log-level info");
    assert_eq!(server.get("/1000000").status, 500);
    assert!(server.stop().stderr().contains(" WARN "));
    let ended = Launch::of("oom")
        .flags("--listen 127.0.0.1:99999 --log-level error")
        .run();
    assert_eq!(ended.code(), 2);
}

#[test]
fn lines_about_buckets_that_are_lost_are_all_written_and_none_counts_as_left_out() {
    let flags = "--buckets 32 --lost-limit 32 --on-exhaustion park";
    let server = Server::start("oom", flags);
    for _ in 0..31 {
        assert_eq!(server.get("/1000000").status, 500);
    }
    // A thread that is lost writes its line after it has answered.
    let parked = || {
        let lines = server.lines();
        lines.iter().filter(|it| it.contains("parked=true")).count()
    };
    assert!(eventually(|| parked() == 31), "{}", parked());
    let ended = server.stop();
    assert_eq!(ended.figure("lines_left_out"), 0);
}

/// A logger that an application installs gets the application's lines; the server's stay where they were.
#[test]
fn an_application_logs_with_what_it_has_installed_and_else_with_the_servers_log() {
    for own in ["tracing", "log", "late", ""] {
        let server = Launch::of_file(env!("CARGO_BIN_EXE_own-log"))
            .flags("--buckets 2 --bucket-size 512KiB")
            .env("OWN_LOG", own)
            .start();
        for n in 0..50 {
            assert_eq!(server.get(&format!("/{n}")).text(), "logged\n", "{own}");
            // Under the lock of its own log, if it has one. No thread waits for that lock for ever.
            assert_eq!(server.get("/large").status, 500, "{own}");
        }
        let _ = server.line_with("a request outgrew its bucket");
        let ended = server.stop();
        assert_eq!((ended.code(), ended.figure("lost")), (0, 0), "{own}");
        let (stdout, stderr) = (&ended.stdout, ended.stderr());
        let (of_tracing, of_log) = match own {
            "tracing" => (true, false),
            "log" => (false, true),
            "late" => (true, true),
            _ => (false, false),
        };
        for n in 0..50 {
            for (is_own, own_line, line) in [
                (
                    of_tracing,
                    "own tracing: message=an event n=",
                    format!(" INFO an event n={n}"),
                ),
                (
                    of_log,
                    "own log: a line of ",
                    format!(" INFO a line of {n}"),
                ),
            ] {
                let own_line = match own_line.ends_with('=') {
                    true => format!("{own_line}\"{n}\""),
                    false => format!("{own_line}{n}"),
                };
                let in_stdout = stdout.lines().any(|it| it.starts_with(&own_line));
                let in_stderr = stderr.lines().any(|it| it.ends_with(&line));
                assert_eq!((in_stdout, in_stderr), (is_own, !is_own), "{own}: {line}");
            }
        }
        assert!(!stdout.contains("poisoned"), "{own}: {stdout}");
        assert!(
            stderr.contains(" INFO ready ") && !stdout.contains("ready"),
            "{own}"
        );
        assert_eq!(
            stderr.contains(" INFO before"),
            own.is_empty() || own == "late"
        );
    }
}

/// The sum has a constant for code, libraries and the heap at start. A program that has more says so at
/// "ready", with the flag.
#[test]
fn a_program_that_is_larger_than_its_sum_says_so() {
    // With --lazy nothing has touched the region yet: that hides nothing.
    for (flags, is_said) in [
        ("--constant 1MiB", true),
        ("--constant 1MiB --lazy", true),
        ("--constant 64MiB", false),
        ("", false),
        ("--lazy", false),
    ] {
        let server = Server::start("hello", &format!("--buckets 2 {flags}"));
        assert_eq!(server.get("/").status, 200);
        let line = |what: &str| server.lines().iter().any(|line| line.contains(what));
        assert_eq!(line("larger than the sum says"), is_said, "{flags}");
        assert!(!is_said || line("set --constant "));
        let _ = server.stop();
    }
}
