//! Lost buckets: they are counted, they are told of, and at the limit a new instance takes over before the
//! old one ends.

use serde_json::Value;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use transom_tests::build::binary;
use transom_tests::client::get;
use transom_tests::doors::before;
use transom_tests::other_user::OtherUser;
use transom_tests::server::as_process_one;
use transom_tests::succession::{Succession, Visitors};
use transom_tests::{Client, Ended, Folder, Kind, Launch, Load, PATIENCE, Server, eventually};

/// A request that loses its bucket: it asks for a gigabyte.
const HUNGRY: &str = "/1000000";

/// Of an application whose hungry requests are parked.
const PARK: &str = "--on-exhaustion park";

fn oom(flags: &str) -> Launch {
    Launch::of("oom").flags(&format!("{PARK} {flags}"))
}

fn hang(flags: &str) -> Launch {
    Launch::of_file(env!("CARGO_BIN_EXE_hang")).flags(flags)
}

fn lose_buckets(server: &Server, count: usize) {
    for _ in 0..count {
        let answer = server.get(HUNGRY);
        let diagnostic = answer.field("transom-diagnostic");
        assert_eq!(
            (answer.status, diagnostic),
            (500, Some("bucket-exhausted")),
            "a request that loses its bucket is told so"
        );
    }
}

fn count(lines: &[String], words: &str) -> usize {
    lines.iter().filter(|line| line.contains(words)).count()
}

fn assert_all_well(visitors: Visitors) {
    let tally = visitors.end();
    assert!(tally.keys().eq(&["200"]), "{tally:?}");
}

/// The value of a metric, or 0 if nothing answers there: instances come and go.
fn metric(server: &Server, name: &str) -> f64 {
    server.metric(name).unwrap_or(0.0)
}

fn overdue(server: &Server) -> f64 {
    metric(server, "transom_lost_buckets{reason=\"overdue\"}")
}

/// The number in a field of a line.
fn figure(line: &str, name: &str) -> u64 {
    let mut fields = line.split(' ').filter_map(|field| field.split_once('='));
    let value = fields.find(|(key, _)| *key == name).map(|(_, value)| value);
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("no {name} in {line}"))
}

#[test]
fn at_the_limit_a_new_instance_takes_over_and_no_visitor_notices() {
    let servers = Succession::start(oom("--buckets 4 --admin 127.0.0.1:0"));
    let first = servers.first();
    assert!(first.line_with(" ready ").contains(" recycle=handover "));
    let old = first.pid();
    let visitors = Visitors::start(first.address(), "/10", 2);
    visitors.wait_for(50);
    lose_buckets(first, 1);
    visitors.wait_for(50);
    assert!(servers.started().is_empty(), "one of four is not too many");
    lose_buckets(first, 1);
    let new = servers.heir(1);
    visitors.wait_for(200);
    assert_all_well(visitors);
    let recycled = || (metric(servers.first(), "transom_recycles_total") - 1.0).abs() < 0.1;
    assert!(
        eventually(recycled),
        "the new instance knows of the recycle"
    );

    let ended = servers.stop(new);
    assert_eq!(ended.code(), 0, "its work goes on: {}", ended.stderr());
    for words in [
        "WARN too many buckets are lost: a new instance is to take over (--lost-limit, --recycle) lost=2 parked=2 resting=0 overdue=0 limit=2",
        &format!("INFO started because 2 of 4 buckets of process {old} were lost"),
        &format!("INFO the new instance has the listeners pid={new}"),
    ] {
        assert_eq!(count(&ended.lines, words), 1, "{words}: {}", ended.stderr());
    }
    assert_eq!(count(&ended.lines, " parked=2 lost=2 "), 1);
    assert_eq!(count(&ended.lines, " process_heap_allocations=0 "), 2);
}

#[test]
fn behind_a_door_a_new_instance_takes_the_path_and_no_visitor_notices() {
    let folder = Folder::new("recycling-door");
    let door = folder.path().join("oom.door");
    let flags = format!("--buckets 4 --admin 127.0.0.1:0 --door {}", door.display());
    let servers = Succession::start(oom(&flags));
    assert!(
        servers
            .first()
            .line_with(" ready ")
            .contains(" recycle=handover ")
    );
    let old = servers.first().pid();
    let front = before(&door, "--loops 2");
    let visitors = Visitors::start(front.address(), "/10", 2);
    visitors.wait_for(50);
    lose_buckets(&front, 2);
    let new = servers.heir(1);
    visitors.wait_for(200);
    assert_all_well(visitors);
    let is_ready = || ready(servers.first()) == "ready\n";
    assert!(eventually(is_ready), "its admin address was handed on");

    let ended = servers.stop(new);
    assert_eq!(ended.code(), 0, "{}", ended.stderr());
    for words in [
        "WARN too many buckets are lost: a new instance is to take over",
        &format!("INFO handing the door to a new instance pid={new}"),
        &format!("INFO started because 2 of 4 buckets of process {old} were lost"),
    ] {
        assert_eq!(count(&ended.lines, words), 1, "{words}: {}", ended.stderr());
    }
    assert_eq!(count(&ended.lines, " parked=2 lost=2 "), 1);
    let ended = front.stop();
    assert_eq!((ended.code(), ended.figure("server_errors")), (0, 2));
}

#[test]
fn a_handler_that_hangs_is_lost_five_seconds_after_its_deadline_and_found_when_it_returns() {
    let server = hang("--buckets 4 --lost-limit 4 --deadline 300ms --admin 127.0.0.1:0").start();
    let began = Instant::now();
    assert_eq!(server.get("/gate").status, 504);
    assert!(overdue(&server) < 0.5, "it may still return");
    let said = server.line_with("WARN a bucket is lost");
    let took = began.elapsed();
    assert!(took > Duration::from_secs(5), "{took:?}");
    assert!(said.contains(" route=/gate "), "{said}");
    assert!(figure(&said, "held_ms") > 5000, "{said}");
    assert!((overdue(&server) - 1.0).abs() < 0.5);
    assert!((metric(&server, "transom_lost_limit") - 4.0).abs() < 0.5);

    let snapshot = Client::connect(server.admin()).get("/buckets.json");
    let snapshot: Value = serde_json::from_str(snapshot.text()).expect("JSON");
    let lost = &snapshot["application"]["lost"];
    let by_time = lost["by_time"].as_array().map(Vec::len);
    assert_eq!((&lost["overdue"], by_time), (&1.into(), Some(1)), "{lost}");
    assert_eq!(snapshot["recycle"]["limit"], 4);

    assert_eq!(server.get("/open").status, 200);
    let said = server.line_with("INFO a bucket that was lost has come back");
    assert!(said.contains(" route=/gate "), "{said}");
    assert!(overdue(&server) < 0.5);
    let ended = server.stop();
    assert_eq!((ended.code(), ended.figure("lost")), (0, 0));
    assert_eq!(ended.figure("process_heap_allocations"), 0);
}

#[test]
fn a_process_that_was_stopped_for_a_while_does_not_count_that_time_against_its_handlers() {
    let server = hang("--buckets 4 --lost-limit 4 --deadline 300ms").start();
    assert_eq!(server.get("/gate").status, 504);
    server.signal(libc::SIGSTOP);
    std::thread::sleep(Duration::from_secs(7)); // for longer than the handler has left
    let began = Instant::now();
    server.signal(libc::SIGCONT);
    let _ = server.line_with("WARN a bucket is lost");
    let took = began.elapsed();
    assert!(took > Duration::from_secs(4), "{took:?}");
}

#[test]
fn a_handler_that_streams_or_has_no_deadline_is_not_lost_by_time() {
    let flags = "--buckets 4 --deadline 300ms --lost-limit 1 --recycle exit --admin 127.0.0.1:0";
    let streaming = hang(flags).start();
    let mut client = streaming.connect();
    client.send(get("/stream"));
    let waiting =
        hang("--buckets 4 --deadline 0 --lost-limit 1 --recycle exit --admin 127.0.0.1:0");
    let waiting = waiting.start();
    let mut waits = waiting.connect();
    waits.send(get("/gate"));
    // One that began at the same time and has a deadline is lost meanwhile, so that the others would be too.
    let measure = hang("--buckets 4 --deadline 500ms --lost-limit 4 --admin 127.0.0.1:0").start();
    assert_eq!(measure.get("/gate").status, 504);
    let _ = measure.line_with("WARN a bucket is lost");
    for server in [&streaming, &waiting] {
        assert!(overdue(server) < 0.5);
        assert_eq!(server.get("/open").status, 200);
        assert_eq!(count(&server.lines(), "is lost"), 0);
    }
    assert_eq!(waits.answer().status, 200, "it could take its time");
}

/// Threads of buckets that keep more are ended, and started anew.
const KEEP: &str = "--keep 32KiB --keep-timeout 500ms --admin 127.0.0.1:0";

fn resting(server: &Server) -> [f64; 2] {
    [
        metric(server, "transom_buckets{state=\"resting\"}"),
        metric(server, "transom_lost_buckets{reason=\"resting\"}"),
    ]
}

/// Waits until so many threads have left, and others serve in their places.
fn wait_until_replaced(server: &Server, threads: f64) {
    let replaced = || metric(server, "transom_threads_replaced_total");
    assert!(eventually(
        || replaced() == threads && resting(server)[0] == 0.0
    ));
}

fn ready(server: &Server) -> String {
    let mut client = Client::connect(server.admin());
    client.get("/ready").text().to_owned()
}

/// No bucket is lost there: they only have much to do.
#[test]
fn that_no_bucket_is_free_is_said_and_that_it_is_over() {
    let server = Server::start("oom", "--buckets 2");
    let mut busy: Vec<_> = (0..2).map(|_| server.connect()).collect();
    for client in &mut busy {
        client.send(get("/sleep/12000"));
    }
    let said = server.line_with("WARN no bucket is free, and no call ends");
    assert!(said.contains("/sleep/{ms} 2 raise=--buckets"), "{said}");
    for client in &mut busy {
        assert_eq!(client.answer().text(), "slept\n");
    }
    let _ = server.line_with("a bucket is free again");
    assert_eq!(server.stop().code(), 0);
}

#[test]
fn a_thread_whose_destructors_do_not_return_is_lost_and_found_when_they_do() {
    let server = hang(&format!("--buckets 4 --lost-limit 4 {KEEP}")).start();
    assert_eq!(server.get("/leave").text(), "left\n");
    assert!(eventually(|| resting(&server)[0] > 0.5), "at once");
    let said = server.line_with("WARN a bucket is lost: its thread does not end");
    assert!(said.contains(" route=/leave "), "{said}");
    assert!(figure(&said, "held_ms") >= 500, "{said}");
    assert_eq!(resting(&server), [1.0, 1.0]);
    for _ in 0..10 {
        assert_eq!(server.get("/").status, 200, "the others serve");
    }
    assert_eq!(server.get("/open").status, 200);
    let said = server.line_with("INFO a bucket that was lost has come back");
    assert!(said.contains(" route=/leave "), "{said}");
    assert_eq!(resting(&server), [0.0, 0.0]);
    // From now on destructors return: the replacement of such a thread is not logged.
    for _ in 0..50 {
        assert_eq!(server.get("/leave").text(), "left\n");
    }
    wait_until_replaced(&server, 51.0);
    let ended = server.stop();
    assert_eq!((ended.code(), ended.figure("lost")), (0, 0));
    assert_eq!(count(&ended.lines, "is lost"), 1);
    assert_eq!(ended.figure("process_heap_allocations"), 0);
}

#[test]
fn threads_that_do_not_end_are_no_silent_outage_and_lead_to_a_new_instance() {
    let servers = Succession::start(hang(&format!("--buckets 2 --lost-limit 2 {KEEP}")));
    for _ in 0..2 {
        assert_eq!(servers.first().get("/leave").text(), "left\n");
    }
    assert!(eventually(|| ready(servers.first()) != "ready\n"));
    let new = servers.heir(1);
    assert_eq!(servers.first().get("/").status, 200);
    let ended = servers.stop(new);
    assert_eq!(ended.code(), 0, "{}", ended.stderr());
    assert_eq!(count(&ended.lines, "its thread does not end"), 2);
    assert_eq!(
        count(&ended.lines, " lost=2 parked=0 resting=2 overdue=0 "),
        1
    );
}

/// One start that does not come back keeps all later ones from being made.
#[test]
fn a_first_thread_that_does_not_come_to_serve_is_no_silent_outage_and_leads_to_a_new_instance() {
    let flags = format!("--buckets 4 --lost-limit 3 {KEEP}");
    let servers = Succession::start(hang(&flags).env("HANG_EACH_THREAD", "1"));
    let mut stuck = servers.first().connect();
    stuck.send(get("/gate"));
    // Another thread is wanted, and does not come.
    let mut waits = servers.first().connect();
    waits.send(get("/"));
    let new = servers.heir(1);
    assert_eq!(servers.first().get("/").status, 200);
    drop((stuck, waits));
    let ended = servers.stop(new);
    assert_eq!(ended.code(), 1, "the request at the gate was cut");
    let lost = "WARN a bucket is lost: ";
    for (why, buckets) in [
        ("what is to run once on each thread has not returned", 1),
        (
            "it gets its first thread after the one that is being started",
            2,
        ),
    ] {
        let words = format!("{lost}{why}");
        assert_eq!(count(&ended.lines, &words), buckets, "{}", ended.stderr());
    }
}

#[test]
fn a_thread_that_is_parked_by_its_destructors_is_told_of_once() {
    let server = hang(&format!("--buckets 4 --lost-limit 4 {KEEP}")).start();
    assert_eq!(server.get("/leave/panic").text(), "left\n");
    let said = server.line_with("INFO a bucket keeps more than it may");
    assert!(said.contains(" raise=--keep"), "{said}");
    let said = server.line_with("WARN a bucket is lost: its thread was parked");
    assert!(said.contains(" route=/leave/panic "), "{said}");
    assert_eq!(server.get("/").status, 200);
    let ended = server.stop();
    assert_eq!(count(&ended.lines, "is lost"), 1);
    assert_eq!((ended.figure("parked"), ended.figure("lost")), (1, 1));
}

#[test]
fn a_thread_that_cannot_be_started_anew_is_told_of_lost_and_started_once_it_can_be() {
    let hang = env!("CARGO_BIN_EXE_hang");
    let Some(user) = OtherUser::who_runs(hang) else {
        return;
    };
    let flags = format!("--buckets 2 --lost-limit 2 {KEEP}");
    let server = user.launch(hang).flags(&flags).start();
    assert_eq!(server.get("/open").status, 200);
    user.limit_threads(&server, 1);
    assert_eq!(server.get("/leave").text(), "left\n");
    let said = server.line_with("ERROR a door server thread cannot be started anew");
    assert!(
        said.contains("`ulimit -u`") && said.contains("pids.max"),
        "{said}"
    );
    let said = server.line_with("WARN a bucket is lost: no thread can be started in it");
    assert!(said.contains(" route=/leave "), "{said}");
    assert_eq!(resting(&server), [1.0, 1.0]);
    user.limit_threads(&server, 200);
    let said = server.line_with("INFO a bucket that was lost has come back");
    assert!(said.contains(" route=/leave "), "{said}");
    assert_eq!(resting(&server), [0.0, 0.0]);
    for _ in 0..10 {
        assert_eq!(server.get("/leave").text(), "left\n");
    }
    wait_until_replaced(&server, 11.0);
    let ended = server.stop();
    assert_eq!((ended.code(), ended.figure("lost")), (0, 0));
    let said = count(&ended.lines, "cannot be started anew");
    assert!(said < 5, "{said} lines");
}

/// Has two handlers hang for ever, each on a lock that is never given back.
fn lock_two_up(server: &Server) {
    assert_eq!(server.get("/keep").status, 200);
    let mut clients = [server.connect(), server.connect()];
    clients.iter_mut().for_each(|one| one.send(get("/locked")));
    assert!(clients.iter_mut().all(|one| one.answer().status == 504));
}

#[test]
fn handlers_that_hang_for_ever_lead_to_a_new_instance_and_do_not_hold_up_the_old_one() {
    let flags = "--buckets 4 --deadline 300ms --drain-timeout 1h";
    let mut servers = Succession::start(hang(flags));
    let visitors = Visitors::start(servers.first().address(), "/", 2);
    lock_two_up(servers.first());
    let new = servers.heir(1);
    assert!(eventually(|| servers.first_has_ended()), "it does not wait");
    visitors.wait_for(100);
    assert_all_well(visitors);
    let ended = servers.stop(new);
    assert_eq!(ended.code(), 0, "{}", ended.stderr());
    assert_eq!(count(&ended.lines, "WARN a bucket is lost"), 2);
    assert_eq!(
        count(&ended.lines, " lost=2 parked=0 resting=0 overdue=2 "),
        1
    );
}

#[test]
fn behind_a_door_they_do_not_hold_up_the_old_one_either() {
    let folder = Folder::new("recycling-hang");
    let door = folder.path().join("hang.door");
    let flags = format!("--buckets 4 --drain-timeout 1h --door {}", door.display());
    let mut servers = Succession::start(hang(&flags));
    let front = before(&door, "--loops 1 --deadline 300ms");
    lock_two_up(&front);
    let new = servers.heir(1);
    assert!(eventually(|| servers.first_has_ended()), "it does not wait");
    assert_eq!(front.get("/").status, 200);
    let ended = servers.stop(new);
    assert_eq!(ended.code(), 0, "{}", ended.stderr());
    let _ = front.stop();
}

#[test]
fn when_all_threads_of_a_door_are_lost_what_waits_goes_to_the_next_instance() {
    let folder = Folder::new("recycling-all");
    let door = folder.path().join("oom.door");
    let flags = format!("--buckets 2 --lost-limit 2 --door {}", door.display());
    let servers = Succession::start(oom(&flags));
    let front = before(&door, "--loops 1 --queue-timeout 10s");
    assert_eq!(front.get("/10").status, 200);
    // The first two lose the buckets. Later requests lie in slots, or wait for the next instance.
    let mut clients: Vec<_> = (0..12).map(|_| front.connect()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(get(if n < 2 { HUNGRY } else { "/10" }));
    }
    let statuses: Vec<_> = clients.iter_mut().map(|one| one.answer().status).collect();
    assert_eq!(statuses.iter().filter(|&&status| status == 500).count(), 2);
    assert_eq!(statuses.iter().filter(|&&status| status == 200).count(), 10);
    let new = servers.heir(1);
    assert_eq!(servers.stop(new).code(), 0);
    let _ = front.stop();
}

#[test]
fn a_request_that_takes_its_time_is_served_by_the_old_instance_while_the_new_one_serves() {
    let servers = Succession::start(oom("--buckets 4"));
    let mut slow = servers.first().connect();
    slow.send(get("/sleep/1500"));
    servers.first().wait_for_sleepers(1);
    lose_buckets(servers.first(), 2);
    let new = servers.heir(1);
    assert_eq!(servers.first().get("/10").status, 200, "by the new one");
    assert_eq!(slow.answer().text(), "slept\n");
    assert_eq!(servers.stop(new).code(), 0);
}

#[test]
fn recycles_are_ten_seconds_apart_at_least_and_never_a_third_beside_two() {
    let servers = Succession::start(oom("--buckets 4 --drain-timeout 30s --log-level info"));
    let began = Instant::now();
    // The first instance has a client until its successor's turn has come, and longer.
    let mut slow = servers.first().connect();
    slow.send(get("/sleep/12000"));
    servers.first().wait_for_sleepers(1);
    lose_buckets(servers.first(), 2);
    let second = servers.heir(1);
    let visitors = Visitors::start(servers.first().address(), "/10", 1);
    lose_buckets(servers.first(), 2);
    let said = servers.first().line_with("until its turn");
    assert!((1..=10_000).contains(&figure(&said, "wait_ms")), "{said}");
    assert!(said.contains("predecessor_drains=true"), "{said}");
    visitors.wait_for(50); // it serves with the two that are left

    let third = servers.heir(2);
    assert!(
        began.elapsed() >= Duration::from_secs(12),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(slow.answer().status, 200);
    assert_eq!(servers.status_of(second), 0);
    let of_third = || {
        let lines = servers.first().lines();
        let mut waits = lines
            .into_iter()
            .filter(|line| line.contains("until its turn"));
        waits.nth(1)
    };
    visitors.wait_for(50);
    assert_all_well(visitors);
    lose_buckets(servers.first(), 2);
    assert!(eventually(|| of_third().is_some()));
    let wait_ms = figure(&of_third().expect("it is there"), "wait_ms");
    assert!(
        (10_001..=20_000).contains(&wait_ms),
        "twice as long: {wait_ms}"
    );
    let ended = servers.stop(third);
    assert_eq!(ended.code(), 0, "{}", ended.stderr());
    assert_eq!(count(&ended.lines, "handing the listeners"), 2);
}

#[test]
fn thirty_two_buckets_that_are_lost_at_once_lead_to_one_new_instance() {
    let servers = Succession::start(oom("--buckets 64"));
    let kinds = vec![Kind::get(HUNGRY, 500, "bucket-exhausted")];
    let report = Load::new(servers.first().address(), 32, kinds)
        .total(32)
        .run();
    assert!(report.bad.is_empty(), "{:?}", report.bad);
    let new = servers.heir(1);
    let visitors = Visitors::start(servers.first().address(), "/10", 2);
    visitors.wait_for(100);
    assert_all_well(visitors);
    assert_eq!(servers.started(), [new.cast_signed()]);
    assert_eq!(servers.stop(new).code(), 0);
}

#[test]
fn a_service_manager_is_told_which_process_goes_on() {
    let folder = Folder::new("recycling-notify");
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a path");
    manager.set_read_timeout(Some(PATIENCE)).expect("a time");
    let hear = || {
        let mut words = [0; 100];
        let len = manager.recv(&mut words).expect("the server speaks");
        String::from_utf8_lossy(&words[..len]).into_owned()
    };
    let launch = oom("--buckets 4").env("NOTIFY_SOCKET", &path);
    let servers = Succession::start(launch);
    assert_eq!(hear(), "READY=1");
    lose_buckets(servers.first(), 2);
    let new = servers.heir(1);
    // The new instance says that it is ready too; of the two the order is not known.
    let said = [hear(), hear()];
    assert!(said.contains(&format!("MAINPID={new}")), "{said:?}");
    assert!(said.contains(&"READY=1".to_owned()), "{said:?}");
    assert_eq!(servers.stop(new).code(), 0);
}

/// A copy of a program in a folder, which a script can replace.
struct Replaceable {
    folder: Folder,
    program: PathBuf,
}

impl Replaceable {
    fn new(name: &str) -> Self {
        Self::of(&binary("oom"), name)
    }

    fn of(original: &Path, name: &str) -> Self {
        let folder = Folder::new(name);
        let program = folder.path().join("program");
        // Not by this process: a child that another test's thread forks meanwhile would have the file open
        // for writing.
        let copied = Command::new("cp").arg(original).arg(&program).status();
        assert!(copied.expect("cp").success());
        Replaceable { folder, program }
    }

    fn launch(&self, flags: &str) -> Launch {
        Launch::of_file(&self.program.to_string_lossy()).flags(&format!("{PARK} {flags}"))
    }

    /// From now on a new instance waits, before it begins, until there is the file that this returns.
    fn waits_to_become(&self, program: &Path) -> PathBuf {
        let go = self.folder.path().join("go");
        self.becomes(&format!(
            "#!/bin/sh\nwhile [ ! -e {} ]; do sleep 0.02; done\nexec {} \"$@\"\n",
            go.display(),
            program.display()
        ));
        go
    }

    /// Sets the program that is started from now on.
    fn becomes(&self, script: &str) {
        let new = self.folder.path().join("new");
        let mut shell = Command::new("sh")
            .args(["-c", "cat > \"$0\""])
            .arg(&new)
            .stdin(Stdio::piped())
            .spawn()
            .expect("sh");
        let mut input = shell.stdin.take().expect("it is piped");
        std::io::Write::write_all(&mut input, script.as_bytes()).expect("it is taken");
        drop(input);
        assert!(shell.wait().expect("it ends").success());
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&new, mode).expect("it is ours");
        std::fs::rename(&new, &self.program).expect("it is ours");
    }
}

fn assert_drained_with_75(ended: &Ended, words: &str) {
    assert_eq!(ended.code(), 75, "{}", ended.stderr());
    assert_eq!(count(&ended.lines, " drained "), 1, "{}", ended.stderr());
    assert_eq!(count(&ended.lines, words), 1, "{}", ended.stderr());
}

#[test]
fn a_new_instance_that_does_not_become_ready_is_an_error_and_the_old_one_asks_to_be_started_anew() {
    let door = Folder::new("recycling-crash-door");
    let door = format!("--door {}", door.path().join("oom.door").display());
    for place in ["--listen 127.0.0.1:0", &door] {
        for (script, words) in [
            (
                "#!/bin/sh\nexit 3\n",
                "ERROR the new instance ended before it was ready",
            ),
            (
                "#!/bin/sh\nexec sleep 1000\n",
                "--handover-timeout), and was killed: draining",
            ),
            (
                "#!/nowhere/sh\n",
                "ERROR the new instance cannot be started",
            ),
        ] {
            let program = Replaceable::new("recycling-crash");
            let flags = format!("--buckets 2 --lost-limit 1 --handover-timeout 300ms {place}");
            let server = program.launch(&flags).start();
            program.becomes(script);
            if place == door {
                let front = before(Path::new(place.trim_start_matches("--door ")), "--loops 1");
                lose_buckets(&front, 1);
                let _ = front.stop();
            } else {
                lose_buckets(&server, 1);
            }
            let ended = server.wait();
            assert_drained_with_75(&ended, words);
            assert_eq!(count(&ended.lines, "draining, to be started anew"), 1);
        }
    }
}

#[test]
fn sigterm_in_the_middle_of_a_recycle_ends_both() {
    let program = Replaceable::new("recycling-sigterm");
    let servers = Succession::start(program.launch("--buckets 2 --lost-limit 1"));
    program.becomes("#!/bin/sh\nexec sleep 1000\n");
    lose_buckets(servers.first(), 1);
    assert!(eventually(|| servers.started().len() == 1));
    let child = servers.started()[0].cast_unsigned();
    servers.first().signal(libc::SIGTERM);
    let gone = || !Path::new(&format!("/proc/{child}/exe")).exists();
    assert!(eventually(gone), "the new one is told to end too");
    let ended = servers.end();
    assert_eq!(ended.code(), 0, "{}", ended.stderr());
    assert_eq!(count(&ended.lines, "has the listeners"), 0);
}

#[test]
fn sigusr2_in_the_middle_of_a_recycle_is_what_happens_anyway() {
    let program = Replaceable::new("recycling-sigusr2");
    let servers = Succession::start(program.launch("--buckets 2 --lost-limit 1"));
    let real = binary("oom").display().to_string();
    program.becomes(&format!("#!/bin/sh\nsleep 1\nexec {real} \"$@\"\n"));
    lose_buckets(servers.first(), 1);
    assert!(eventually(|| servers.started().len() == 1));
    servers.first().signal(libc::SIGUSR2);
    let new = servers.heir(1);
    assert_eq!(servers.first().get("/10").status, 200);
    assert_eq!(servers.started().len(), 1);
    assert_eq!(servers.stop(new).code(), 0);
}

#[test]
fn sigusr2_while_lost_buckets_wait_for_their_turn_hands_over_at_once_and_the_turn_stays() {
    let servers = Succession::start(oom("--buckets 4"));
    lose_buckets(servers.first(), 2);
    let second = servers.heir(1);
    lose_buckets(servers.first(), 2);
    let _ = servers.first().line_with("until its turn");
    servers.signal(second, libc::SIGUSR2);
    let third = servers.heir(2);
    assert_eq!(servers.status_of(second), 0);
    lose_buckets(servers.first(), 2);
    let waits = || count(&servers.first().lines(), "until its turn") == 2;
    assert!(
        eventually(waits),
        "the third one knows when the last recycle was"
    );
    let ended = servers.stop(third);
    assert_eq!(ended.code(), 0);
    assert_eq!(
        count(&ended.lines, "INFO started because"),
        1,
        "it was asked for"
    );
}

#[test]
fn a_full_table_of_descriptors_does_not_keep_a_new_instance_from_taking_over() {
    let servers = Succession::start(oom("--buckets 4 --loops 1"));
    let first = servers.first();
    let mut clients = [first.connect(), first.connect()];
    for client in &mut clients {
        assert_eq!(client.get("/10").status, 200);
    }
    let files = std::fs::read_dir(format!("/proc/{}/fd", first.pid()));
    let files = files.expect("it runs").flatten();
    let numbers = files.filter_map(|file| file.file_name().to_str()?.parse::<u64>().ok());
    let numbers: BTreeSet<u64> = numbers.collect();
    // Of the numbers below the limit none is free then.
    let limit = (0..).find(|number| !numbers.contains(number)).expect("one");
    first.limit(libc::RLIMIT_NOFILE, limit);
    for client in &mut clients {
        assert_eq!(client.get(HUNGRY).status, 500);
    }
    let new = servers.heir(1);
    drop(clients);
    assert_eq!(servers.first().get("/10").status, 200);
    assert_eq!(servers.stop(new).code(), 0);
}

#[test]
fn descriptors_that_a_parked_request_keeps_lead_to_a_new_instance_when_there_are_no_others() {
    let servers = Succession::start(hang("--buckets 4 --lost-limit 4"));
    let mut client = servers.first().connect();
    assert_eq!(client.get("/").status, 200);
    assert_eq!(servers.first().get("/files").status, 500);
    let new = servers.heir(1);
    assert_eq!(
        client.get("/").status,
        200,
        "an earlier client is served to the end"
    );
    assert_eq!(servers.first().get("/").status, 200);
    drop(client);
    let ended = servers.stop(new);
    assert_eq!(ended.code(), 0, "{}", ended.stderr());
    assert_eq!(count(&ended.lines, "WARN descriptors run out"), 1);
}

/// Threads whose destructors return, and which leave with each `/leave`.
fn open_the_gate(server: &Server) {
    assert_eq!(server.get("/open").status, 200);
}

/// More of them than there are buckets.
fn leave_again_and_again(server: &Server) {
    for _ in 0..6 {
        assert_eq!(server.get("/leave").text(), "left\n");
    }
}

#[test]
fn threads_are_replaced_and_losses_found_while_a_new_instance_starts() {
    let hang = Path::new(env!("CARGO_BIN_EXE_hang"));
    let program = Replaceable::of(hang, "recycling-tended");
    let flags = format!("--buckets 3 --lost-limit 3 --deadline 300ms --queue-timeout 2s {KEEP}");
    let launch = Launch::of_file(&program.program.to_string_lossy()).flags(&flags);
    let servers = Succession::start(launch);
    let first = servers.first();
    let go = program.waits_to_become(hang);
    first.signal(libc::SIGUSR2);
    assert!(eventually(|| servers.started().len() == 1));
    let mut stuck = first.connect();
    stuck.send(get("/gate"));
    assert_eq!(stuck.answer().status, 504);
    let _ = first.line_with("WARN a bucket is lost: its handler has not returned");
    assert_eq!(overdue(first), 1.0);
    open_the_gate(first);
    let _ = first.line_with("INFO a bucket that was lost has come back");
    leave_again_and_again(first);
    wait_until_replaced(first, 6.0);
    std::fs::write(go, "").expect("it is ours");
    let new = servers.heir(1);
    assert_eq!(servers.first().get("/").status, 200);
    assert_eq!(servers.stop(new).code(), 0);
}

#[test]
fn threads_are_replaced_during_the_drain_delay() {
    let flags = format!("--buckets 2 --queue-timeout 2s --drain-delay 1h {KEEP}");
    let server = hang(&flags).start();
    open_the_gate(&server);
    server.signal(libc::SIGTERM);
    let _ = server.line_with("still accepting (--drain-delay)");
    leave_again_and_again(&server);
    wait_until_replaced(&server, 6.0);
    assert_eq!(server.stop().code(), 0);
}

#[test]
fn threads_are_replaced_while_a_process_drains() {
    let flags = format!("--buckets 1 --lost-limit 1 --queue-timeout 20s {KEEP}");
    let server = hang(&flags).start();
    open_the_gate(&server);
    let busy = || metric(&server, "transom_slots_busy");
    let waiting = || metric(&server, "transom_requests_waiting");
    let mut clients: Vec<_> = (0..5).map(|_| server.connect()).collect();
    clients[0].send(get("/drain"));
    assert!(eventually(|| busy() == 1.0));
    for (client, path) in clients[1..]
        .iter_mut()
        .zip(["/leave", "/leave", "/leave", "/"])
    {
        client.send(get(path));
    }
    // They wait for the bucket.
    assert!(eventually(|| busy() + waiting() == 5.0));
    server.signal(libc::SIGTERM);
    let _ = server.line_with(" draining ");
    for client in &mut clients {
        assert_eq!(client.answer().status, 200);
    }
    let ended = server.wait();
    assert_eq!((ended.code(), ended.figure("threads_replaced")), (0, 3));
}

/// Has a handler run that does not return soon.
fn occupy(server: &Server, path: &str) -> Client {
    let mut client = server.connect();
    client.send(get(path));
    assert!(eventually(|| metric(server, "transom_slots_busy") == 1.0));
    client
}

const ENDED: &str = "the process does not end after its drain";

#[test]
fn a_bucket_that_is_lost_while_the_process_drains_does_not_keep_it_from_ending() {
    let flags = "--buckets 2 --drain-timeout 500ms --recycle exit --admin 127.0.0.1:0";
    // One is parked with the lock; the other's handler is in time for its deadline, and not for the drain.
    for path in ["/hold", "/hold/on"] {
        let server = hang(flags).env("HANG_AT_THE_END", "0").start();
        let _client = occupy(&server, path);
        server.signal(libc::SIGTERM);
        assert_drained_with_75(&server.wait(), ENDED);
    }
}

#[test]
fn behind_a_door_it_does_not_either() {
    let folder = Folder::new("recycling-lost-late");
    let door = folder.path().join("hang.door");
    let flags = format!(
        "--buckets 2 --drain-timeout 500ms --recycle exit --door {}",
        door.display()
    );
    for path in ["/hold", "/hold/on"] {
        let server = hang(&flags).env("HANG_AT_THE_END", "0").start();
        let front = before(&door, "--loops 1 --admin 127.0.0.1:0");
        let _client = occupy(&front, path);
        server.signal(libc::SIGTERM);
        assert_drained_with_75(&server.wait(), ENDED);
        let _ = front.stop();
    }
}

#[test]
fn a_main_that_takes_its_time_after_the_drain_is_not_ended_for_a_handler_that_has_returned() {
    let flags = "--buckets 2 --drain-timeout 100ms --admin 127.0.0.1:0";
    let server = hang(flags).env("HANG_AT_THE_END", "8").start();
    let _client = occupy(&server, "/second");
    server.signal(libc::SIGTERM);
    let ended = server.wait();
    assert_ne!(ended.code(), 75, "{}", ended.stderr());
    assert_eq!(count(&ended.lines, ENDED), 0, "{}", ended.stderr());
}

#[test]
fn a_predecessor_that_loses_a_bucket_in_its_drain_does_not_keep_the_next_recycle_from_its_turn() {
    let flags = "--buckets 2 --lost-limit 1 --drain-timeout 500ms --admin 127.0.0.1:0";
    let mut servers = Succession::start(hang(flags).env("HANG_AT_THE_END", "0"));
    let _client = occupy(servers.first(), "/hold");
    servers.first().signal(libc::SIGUSR2);
    let second = servers.heir(1);
    assert_eq!(servers.first().get("/").status, 200);
    assert!(eventually(|| servers.first_has_ended()));
    assert_eq!(servers.first().get("/abort").status, 500);
    let third = servers.heir(2);
    assert_eq!(servers.status_of(second), 0);
    let ended = servers.stop(third);
    assert_eq!(ended.code(), 75, "{}", ended.stderr());
}

#[test]
fn a_predecessor_that_never_ends_does_not_block_its_successor_for_ever() {
    let flags = "--buckets 2 --lost-limit 1 --drain-timeout 3s --admin 127.0.0.1:0";
    let servers = Succession::start(hang(flags));
    let _client = occupy(servers.first(), "/gate");
    servers.first().signal(libc::SIGUSR2);
    let second = servers.heir(1);
    servers.first().pause();
    assert_eq!(servers.first().get("/abort").status, 500);
    let said = servers.first().line_with("until its turn");
    assert!(said.contains("predecessor_drains=true"), "{said}");
    let third = servers.heir(2);
    let _ = servers
        .first()
        .line_with("WARN the instance before this one should have ended");
    // The second one is its child, and ours only once it has ended, in whatever way.
    servers.first().signal(libc::SIGCONT);
    assert_eq!(servers.status_of(second), 0);
    let _ = servers.stop(third);
}

#[test]
fn a_process_that_cannot_end_because_of_a_lost_thread_is_ended() {
    let flags = "--buckets 2 --lost-limit 1 --deadline 300ms --drain-timeout 100ms --recycle exit";
    let server = hang(flags).start();
    assert_eq!(server.get("/stay").status, 200);
    assert_eq!(server.get("/gate").status, 504);
    let ended = server.wait();
    assert_drained_with_75(&ended, "the process does not end after its drain");
}

#[test]
fn recycle_exit_drains_and_exits_with_75() {
    let server = oom("--buckets 4 --recycle exit").start();
    assert!(server.line_with(" ready ").contains(" recycle=exit "));
    lose_buckets(&server, 1);
    assert_eq!(server.get("/10").status, 200);
    lose_buckets(&server, 1);
    let ended = server.wait();
    let words = "ERROR too many buckets are lost: draining, to be started anew";
    assert_drained_with_75(&ended, words);
    assert_eq!(count(&ended.lines, "because=--recycle exit asks for it"), 1);
    assert_eq!(ended.figure("process_heap_allocations"), 0);
}

#[test]
fn a_supervisor_that_watches_the_process_id_and_says_so_gets_the_exit() {
    let supervised = oom("--buckets 2").env("SUPERVISOR_ENABLED", "1").start();
    let ready = supervised.line_with(" ready ");
    assert!(
        ready.contains(" recycle=exit because=supervisord"),
        "{ready}"
    );
    lose_buckets(&supervised, 1);
    assert_eq!(supervised.wait().code(), 75);
    // As in a systemd unit without Type=notify. In its child processes the variable names another process.
    let check = |script: &str| {
        let shell = ["sh", "-c", script];
        Launch::under(&shell, "oom").words(["--check"]).run().stdout
    };
    let simple = check("SYSTEMD_EXEC_PID=$$ exec \"$0\" \"$@\"");
    assert!(
        simple.contains("recycle exit: ") && simple.contains("Type=notify"),
        "{simple}"
    );
    let notify = check("SYSTEMD_EXEC_PID=$$ NOTIFY_SOCKET=/n exec \"$0\" \"$@\"");
    assert!(notify.contains("recycle handover: "), "{notify}");
    let other = check("SYSTEMD_EXEC_PID=1 exec \"$0\" \"$@\"");
    assert!(other.contains("recycle handover: "), "{other}");
}

#[test]
fn process_one_exits_because_its_namespace_ends_with_it() {
    let Some(unshare) = as_process_one() else {
        return;
    };
    let flags = format!("{PARK} --buckets 4");
    let server = Launch::under(&unshare, "oom").flags(&flags).start();
    let ready = server.line_with(" ready ");
    assert!(
        ready.contains(" recycle=exit because=it is process 1"),
        "{ready}"
    );
    lose_buckets(&server, 2);
    let ended = server.wait();
    assert_eq!(ended.code(), 75, "{}", ended.stderr());
    assert_eq!(ended.figure("lost"), 2);

    let forced = Launch::under(&unshare, "oom").flags("--listen 127.0.0.1:0 --recycle handover");
    let ended = forced.run();
    assert_eq!(ended.code(), 1);
    assert!(
        ended
            .stderr()
            .contains("error: --recycle handover is not possible here: it is process 1"),
        "{}",
        ended.stderr()
    );
}

/// Bytes that a server may have here: the tightest limit, as the error says it that a larger bound gets.
fn memory_limit() -> u64 {
    let flags = "--check --buckets 16384 --bucket-size 1GiB";
    let said = Launch::of("oom").flags(flags).run().stderr();
    // "… but this machine has 23GiB (24684093440 bytes): lower …"
    let (_, rest) = said.split_once(", but ").expect("it is too much");
    let (_, rest) = rest.split_once('(').expect("bytes");
    let digits = rest.split(' ').next().expect("a number");
    digits
        .parse()
        .unwrap_or_else(|_| panic!("no limit in {said}"))
}

#[test]
fn where_memory_does_not_hold_two_instances_it_exits_and_says_so_beforehand() {
    let mib = (memory_limit() >> 20) * 6 / 10 / 4;
    let flags = format!("--check --buckets 4 --bucket-size {mib}MiB");
    let said = Launch::of("oom").flags(&flags).run();
    let last = said.stdout.lines().last().unwrap_or_default().to_owned();
    assert!(
        last.starts_with("recycle exit: when 2 of 4 buckets are lost (--lost-limit)")
            && last.contains("twice the bound"),
        "{last}"
    );
    let forced = Launch::of("oom")
        .flags(&format!("{flags} --recycle handover"))
        .run();
    assert!(
        forced.code() == 1
            && forced
                .stderr()
                .contains("--recycle handover is not possible here"),
        "{}",
        forced.stderr()
    );
    let small = Launch::of("oom").flags("--check --buckets 4").run();
    assert!(
        small
            .stdout
            .ends_with("a new instance takes over, and this one drains\n")
    );
}

#[test]
fn the_former_name_of_the_limit_is_an_alias_and_both_names_are_an_error() {
    let by_flag = oom("--buckets 4 --parked-limit 3 --recycle exit").start();
    let by_variable = oom("--buckets 4 --recycle exit").env("TRANSOM_PARKED_LIMIT", "3");
    for server in [by_flag, by_variable.start()] {
        let said = server.line_with("WARN --parked-limit (TRANSOM_PARKED_LIMIT)");
        assert!(said.contains("--lost-limit (TRANSOM_LOST_LIMIT)"), "{said}");
        lose_buckets(&server, 3);
        assert_eq!(server.wait().code(), 75);
    }
    let both = oom("--check --parked-limit 3")
        .env("TRANSOM_LOST_LIMIT", "3")
        .run();
    assert_eq!(both.code(), 2);
    for name in ["--parked-limit", "--lost-limit", "TRANSOM_PARKED_LIMIT"] {
        assert!(both.stderr().contains(name), "{}", both.stderr());
    }
}

#[test]
fn a_process_that_has_lost_all_buckets_says_so() {
    let flags = "--buckets 2 --lost-limit 2 --admin 127.0.0.1:0";
    let servers = Succession::start(oom(flags));
    lose_buckets(servers.first(), 2);
    let _ = servers.heir(1);
    // The second one has to wait for its turn, with no bucket left.
    lose_buckets(servers.first(), 2);
    let _ = servers.first().line_with("until its turn");
    for path in ["/ready", "/health"] {
        let answer = Client::connect(servers.first().admin()).get(path);
        assert_eq!(
            (answer.status, answer.text()),
            (503, "buckets-lost\n"),
            "{path}"
        );
    }
}
