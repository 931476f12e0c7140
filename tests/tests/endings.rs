//! A failed request is answered, and the log says why, before its cleanups and its payload's destructor
//! run.
//!
//! | how the frame ends | slow | never returns | parks | panics |
//! |---|---|---|---|---|
//! | it returns an answer | the answer waits | 504 at the deadline; lost 5 s later | 500, `bucket-exhausted`; lost | 500, `handler-panicked` |
//! | `?` gives a 500 | 500 and its line first | the same; lost 5 s after the deadline | the same; lost | the same; a line for the panic |
//! | a panic, `resume_unwind`, `&Bump` is full | 500 and its line first | the same; lost | the same, and a line for what was parked; lost | the same |
//! | marked (overdraft, deep stack) | 500 and its line first | the same; lost | the same; lost | the same |
//! | a jump (arena, stack) | 500 and its line first | the same; lost | the same; lost | the same |
//! | a stream breaks off | its connection is cut, and its line | the same; lost 5 s later | the same; lost | the same |
//! | a payload's destructor | as for a panic's cleanup | the same; lost | the same; lost | the same |
//! | `abort`, parked | 500 and its line; nothing more runs | | | |
//!
//! Slow and endless cleanups wait at a gate that the test opens, or does not. `arena/tests/report.rs` has the
//! order for each way out.

use std::time::Duration;
use transom_tests::doors::{Folder, before};
use transom_tests::{Launch, Server, eventually};

fn endings(flags: &str, escape: bool) -> Server {
    let mut launch = Launch::of_file(env!("CARGO_BIN_EXE_endings"))
        .flags("--bucket-size 512KiB --admin 127.0.0.1:0")
        .flags(flags);
    if escape {
        launch = launch.env("ENDINGS_ESCAPE", "1");
    }
    launch.start()
}

/// The ways to fail, each with the diagnostic of the answer if it comes whole, and the words in the log.
const FAILURES: [(&str, Option<&str>, &str); 8] = [
    ("panic", Some("handler-panicked"), "the handler's own words"),
    (
        "resume",
        Some("handler-panicked"),
        "the handler's own words",
    ),
    (
        "payload",
        Some("handler-panicked"),
        "a value that is no text",
    ),
    ("error", None, "the handler's own words"),
    ("bump", Some("bucket-exhausted"), "reason=arena"),
    ("fill", Some("bucket-exhausted"), "reason=arena"),
    ("recurse", Some("bucket-exhausted"), "reason=stack"),
    ("stream", None, "the handler's own words"),
];

const OVERDUE: &str = "transom_lost_buckets{reason=\"overdue\"}";

/// By the jump; the others are the same as without.
const JUMPS: [&str; 3] = ["fill", "recurse", "panic"];

/// Asks for it, and sees that it is answered as it should be, and that the log has said why.
#[track_caller]
fn assert_fails(server: &Server, way: &str, then: &str) {
    let (_, diagnostic, said) = *FAILURES
        .iter()
        .find(|failure| failure.0 == way)
        .expect("known");
    let path = format!("/end/{way}/{then}");
    let before = lines_with(server, said);
    let mut client = server.connect();
    client.send(transom_tests::client::get(&path));
    match client.try_answer() {
        Ok(answer) => {
            assert_eq!(answer.status, 500, "{path}");
            if diagnostic.is_some() {
                assert_eq!(answer.field("transom-diagnostic"), diagnostic, "{path}");
            }
        }
        Err(error) => assert_eq!(way, "stream", "{path}: {error:?}"),
    }
    assert!(
        eventually(|| lines_with(server, said) > before),
        "{path}: no line says {said:?}:\n{}",
        server.lines().join("\n")
    );
}

fn lines_with(server: &Server, text: &str) -> usize {
    let is_there = |line: &&String| line.contains(text);
    server.lines().iter().filter(is_there).count()
}

fn waiting(server: &Server) -> usize {
    let answer = server.get("/waiting");
    answer.text().trim().parse().expect("a number")
}

fn ways(escape: bool) -> impl Iterator<Item = &'static str> {
    let all = FAILURES.iter().map(|failure| failure.0);
    all.filter(move |way| !escape || JUMPS.contains(way))
}

/// Ends the server, which must not have lost a bucket.
fn ends_with_all_buckets(server: Server) {
    let ended = server.stop();
    let (code, lost) = (ended.code(), ended.figure("lost"));
    assert_eq!((code, lost), (0, 0), "{}", ended.stderr());
}

/// The answers come while all cleanups wait, and with the buckets that are left others are served.
#[test]
fn a_failure_is_answered_and_logged_before_its_cleanups_have_run() {
    for escape in [false, true] {
        let server = endings("--buckets 12", escape);
        for (n, way) in ways(escape).enumerate() {
            assert_fails(&server, way, "wait");
            assert!(eventually(|| waiting(&server) == n + 1), "{way} cleans up");
        }
        for _ in 0..20 {
            assert_eq!(server.get("/").text(), "here\n");
        }
        assert_eq!(server.get("/open").text(), "open\n");
        assert!(eventually(|| waiting(&server) == 0));
        for way in ways(escape) {
            assert_fails(&server, way, "nothing");
        }
        ends_with_all_buckets(server);
    }
}

/// Its client's next request on the same connection is served by another thread.
#[test]
fn the_next_request_does_not_wait_for_the_cleanups_of_the_last_one() {
    let server = endings("--buckets 4", false);
    let mut client = server.connect();
    for way in ["panic", "fill", "error"] {
        assert_eq!(client.get(&format!("/end/{way}/wait")).status, 500, "{way}");
        assert_eq!(client.get("/").text(), "here\n");
    }
    assert_eq!(server.get("/open").text(), "open\n");
    assert_eq!(server.stop().code(), 0);
}

/// The slot of a call that is answered early is its client's at once, in another process too.
#[test]
fn a_front_end_of_another_process_gets_failures_before_their_cleanups_have_run() {
    let folder = Folder::new("endings");
    let door = folder.path("door");
    let flags = format!(
        "--door {} --buckets 16 --bucket-size 512KiB",
        door.display()
    );
    let server = Launch::of_file(env!("CARGO_BIN_EXE_endings"))
        .flags(&flags)
        .start();
    let front = before(&door, "");
    let mut client = front.connect();
    for _ in 0..2 {
        for way in ["panic", "fill", "error", "payload", "bump"] {
            assert_eq!(client.get(&format!("/end/{way}/wait")).status, 500, "{way}");
            assert_eq!(client.get("/").text(), "here\n");
        }
    }
    assert_eq!(waiting(&front), 10);
    for _ in 0..200 {
        assert_eq!(client.get("/").text(), "here\n");
    }
    assert_eq!(client.get("/open").text(), "open\n");
    assert!(eventually(|| waiting(&front) == 0));
    assert_eq!(front.stop().code(), 0);
    let ended = server.stop();
    assert_eq!(ended.code(), 0, "{}", ended.stderr());
}

/// A request that was answered stays answered, and one that was not gets a 502.
#[test]
fn an_application_that_dies_while_it_cleans_up_takes_no_answer_back() {
    let folder = Folder::new("endings-dies");
    let door = folder.path("door");
    let start = || {
        Launch::of_file(env!("CARGO_BIN_EXE_endings"))
            .flags(&format!("--door {} --buckets 4", door.display()))
            .start()
    };
    let server = start();
    let front = before(&door, "");
    let (mut client, mut open) = (front.connect(), front.connect());
    for _ in 0..2 {
        assert_eq!(client.get("/end/panic/wait").status, 500);
    }
    open.send(transom_tests::client::get("/end/return/wait"));
    assert!(eventually(|| waiting(&front) == 3));
    server.signal(libc::SIGKILL);
    assert_eq!(open.answer().status, 502);
    assert_eq!(server.wait().signal(), Some(libc::SIGKILL));
    let server = start();
    assert!(eventually(|| client.get("/").text() == "here\n"));
    assert_eq!(server.stop().code(), 0);
    let ended = front.stop();
    let figures = (ended.figure("server_errors"), ended.figure("bad_gateway"));
    assert_eq!((ended.code(), figures), (0, (3, 1)), "{}", ended.stderr());
}

/// The handler's own answer waits for its cleanups: they may be part of the work that it reports as done.
#[test]
fn an_answer_waits_for_its_cleanups() {
    let server = endings("--buckets 4", false);
    let mut client = server.connect();
    client.send(transom_tests::client::get("/end/return/wait"));
    assert!(eventually(|| waiting(&server) == 1));
    assert!(client.hears_nothing_for(Duration::from_millis(200)));
    assert_eq!(server.get("/open").text(), "open\n");
    assert_eq!(client.answer().text(), "done\n");
    assert_eq!(server.get("/end/return/panic").status, 500);
    assert!(
        server
            .line_with("from what runs afterwards")
            .contains("a handler panicked")
    );
    assert_eq!(server.stop().code(), 0);
}

/// The failure is told first, and then that the bucket is lost.
#[test]
fn a_failure_is_told_though_its_cleanups_are_parked() {
    for escape in [false, true] {
        // By a jump: cleanups may have no more than without.
        let server = endings("--buckets 16 --lost-limit 16", escape);
        for (n, way) in ways(escape).enumerate() {
            assert_fails(&server, way, "park");
            assert!(
                eventually(|| lines_with(&server, "which is lost") == n + 1),
                "{way}: {}",
                server.lines().join("\n")
            );
        }
        let all = ways(escape).count();
        assert_eq!(server.get("/").text(), "here\n");
        let ended = server.stop();
        assert_eq!(ended.figure("parked"), all as u64, "{}", ended.stderr());
    }
}

#[test]
fn a_failure_is_told_though_its_cleanups_panic() {
    for escape in [false, true] {
        let server = endings("--buckets 4", escape);
        for way in ways(escape) {
            assert_fails(&server, way, "panic");
        }
        ends_with_all_buckets(server);
    }
}

/// Those that never return are counted as lost 5 s after the deadline, or after the answer of a stream.
#[test]
fn a_bucket_whose_cleanups_never_return_is_lost() {
    let server = endings("--buckets 12 --lost-limit 12 --deadline 1s", false);
    for way in ways(false) {
        assert_fails(&server, way, "wait");
    }
    let all = ways(false).count() as f64;
    assert!(eventually(|| server.metric(OVERDUE) == Some(all)));
    assert_eq!(server.get("/").text(), "here\n");
    assert_eq!(server.get("/open").text(), "open\n");
    assert!(eventually(|| server.metric(OVERDUE) == Some(0.0)));
    assert_eq!(server.stop().code(), 0);
}

/// The process waits for cleanups, as it does for handlers.
#[test]
fn a_drain_waits_for_cleanups() {
    let server = endings("--buckets 4", false);
    assert_fails(&server, "panic", "drain");
    let ended = server.stop();
    assert_eq!(ended.code(), 0);
    assert!(ended.stderr().contains("cleaned up"), "{}", ended.stderr());
}

/// Cleanups that the end of the drain cuts are counted, logged, and in the exit status. The drain does not
/// wait for a lost bucket, which was logged before.
#[test]
fn a_drain_that_cuts_cleanups_says_so() {
    let server = endings("--buckets 4 --drain-timeout 300ms", false);
    for way in ["panic", "error", "fill"] {
        assert_fails(&server, way, "wait");
    }
    let ended = server.stop();
    let (said, code) = (ended.stderr(), ended.code());
    assert_eq!((code, ended.figure("cut")), (1, 3), "{said}");
    let counted = " cut=3 heads=0 bodies=0 calls=0 answers=0 cleanups=3";
    assert!(said.contains(counted), "{said}");
    assert!(said.contains("requests were cut"), "{said}");
}

/// The front end has answered: only the application has something to say.
#[test]
fn a_drain_behind_a_door_says_that_it_cuts_cleanups() {
    let folder = Folder::new("endings-cut");
    let door = folder.path("door");
    let path = door.display();
    let flags = format!("--door {path} --buckets 4 --bucket-size 512KiB --drain-timeout 300ms");
    let server = Launch::of_file(env!("CARGO_BIN_EXE_endings"))
        .flags(&flags)
        .start();
    let front = before(&door, "");
    assert_eq!(front.get("/end/panic/wait").status, 500);
    assert_eq!(front.stop().code(), 0);
    let ended = server.stop();
    assert_eq!(ended.code(), 1, "{}", ended.stderr());
    assert!(
        ended.stderr().contains(" cut=1 heads=0 "),
        "{}",
        ended.stderr()
    );
    assert!(ended.stderr().contains(" cleanups=1"), "{}", ended.stderr());
}

#[test]
fn a_line_names_the_panic_and_that_of_the_destructor_it_has_run() {
    let server = endings("--buckets 4 --lost-limit 4", false);
    assert_eq!(server.get("/end/twice/nothing").status, 500);
    let line = server.line_with("panic in a destructor");
    let place = "the handler's own words, at tests/src/bin/endings.rs:";
    for part in [place, "; then the destructor's own words, at "] {
        assert!(line.contains(part), "no {part} in {line}");
    }
    assert_eq!(server.stop().figure("parked"), 1);
}

/// A closure runs once on each thread: the second thread says why it has failed while its cleanups run.
#[test]
fn a_thread_says_what_has_failed_before_its_cleanups_have_run() {
    let server = Launch::of_file(env!("CARGO_BIN_EXE_endings"))
        .flags("--buckets 2 --bucket-size 512KiB --deadline 0 --queue-timeout 1h")
        .env("ENDINGS_EACH", "1")
        .start();
    let (mut first, mut second) = (server.connect(), server.connect());
    first.send(transom_tests::client::get("/end/return/wait"));
    second.send(transom_tests::client::get("/open"));
    let line = server.line_with("once on each thread has failed");
    assert!(line.contains("the thread's own words"), "{line}");
    assert!(!server.lines().iter().any(|line| line == "cleaned up"));
    server.signal(libc::SIGTERM);
    assert_eq!(second.answer().text(), "open\n");
    assert_eq!(first.answer().text(), "done\n");
    assert_eq!(server.wait().code(), 0);
}

#[test]
fn an_abort_is_told_and_nothing_of_it_runs_any_more() {
    let server = endings("--buckets 4 --lost-limit 4", false);
    assert_eq!(server.get("/end/abort/panic").status, 500);
    assert!(server.line_with("abort was called").contains("parked=true"));
    assert_eq!(lines_with(&server, "from what runs afterwards"), 0);
    assert_eq!(server.stop().figure("parked"), 1);
}

/// A crate may do so at its first use.
#[test]
fn the_log_names_a_signal_of_faults_that_something_else_has_taken() {
    let server = endings("--buckets 2", false);
    assert_eq!(server.get("/end/recurse/nothing").status, 500);
    assert_eq!(server.get("/take").text(), "taken\n");
    let line = server.line_with("another handler for this signal");
    assert!(line.contains("signal=SIGSEGV"), "{line}");
    let ended = server.stop();
    let said = ended
        .stderr()
        .matches("another handler for this signal")
        .count();
    assert_eq!((ended.code(), said), (0, 1), "{}", ended.stderr());
}

/// A handler that is installed before the first thread starts gets the faults that are not ours.
#[test]
fn what_takes_a_signal_of_faults_in_warm_up_disarms_nothing() {
    let server = Launch::of_file(env!("CARGO_BIN_EXE_endings"))
        .flags("--buckets 2 --bucket-size 512KiB")
        .env("ENDINGS_TAKE", "1")
        .start();
    for _ in 0..10 {
        assert_eq!(server.get("/end/recurse/nothing").status, 500);
    }
    let ended = server.stop();
    assert_eq!(ended.code(), 0, "{}", ended.stderr());
    assert!(
        !ended.stderr().contains("another handler"),
        "{}",
        ended.stderr()
    );
}

/// What a thread is left in, its later requests would be in too.
#[test]
fn a_thread_that_a_request_has_left_inside_a_panic_is_replaced() {
    for place in ["drop", "display"] {
        let server = endings("--buckets 1", false);
        for _ in 0..5 {
            assert_eq!(server.get("/asks").text(), "true false\n");
            let left = server.get(&format!("/suspend/{place}"));
            assert_eq!(left.text(), "suspended\n", "{place}");
            assert_eq!(server.get("/end/panic/none").status, 500, "{place}");
        }
        let line = server.line_with("has left its thread inside a panic");
        assert!(line.contains("route=/suspend/{place}"), "{line}");
        let ended = server.stop();
        assert_eq!(ended.figure("threads_replaced"), 5, "{place}");
        assert_eq!(ended.figure("lost"), 0, "{}", ended.stderr());
    }
}
