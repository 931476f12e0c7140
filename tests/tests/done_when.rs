//! The project's promise, held against the built binary: whatever requests ask for, every other request is
//! answered, the process stays, and its memory is what it was when it began.
//!
//! `TRANSOM_TEST_REQUESTS=1000000` makes each of these a million requests long; `tests/million.sh` does that
//! in release.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use transom_tests::server::installed;
use transom_tests::succession::Succession;
use transom_tests::{Ended, Folder, Kind, Launch, Load, Report, Sample, eventually, requests};

const EXHAUSTED: &str = "transom-diagnostic: bucket-exhausted\r\n";
const PANICKED: &str = "transom-diagnostic: handler-panicked\r\n";
const FLAGS: &str = "--buckets 8 --bucket-size 512KiB";
const CONNECTIONS: usize = 64;

/// How much two figures differ, in per cent of the first.
fn change(before: u64, after: u64) -> f64 {
    (after as f64 - before as f64) / before as f64 * 100.0
}

/// Alternates `/10` with a request that fails, over many connections, and looks at the process before and
/// after.
fn half_of_the_requests_fail(
    path: &str,
    part: &'static str,
    default: usize,
    backtrace: &str,
) -> Ended {
    let launch = Launch::of("oom").env("RUST_BACKTRACE", backtrace);
    let kinds = vec![Kind::get("/10", 200, ""), Kind::get(path, 500, part)];
    memory_is_constant(launch, kinds, &format!("{path} | {backtrace}"), default)
}

/// Alternates two kinds of requests, over many connections, and looks at the process before and after.
fn memory_is_constant(launch: Launch, kinds: Vec<Kind>, name: &str, default: usize) -> Ended {
    let server = launch.flags(FLAGS).start();
    let total = requests(default);
    let before = Sample::at_rest(server.pid());
    let statuses: Vec<u16> = kinds.iter().map(Kind::status).collect();
    let report = Load::new(server.address(), CONNECTIONS, kinds)
        .total(total)
        .run();
    let after = Sample::at_rest(server.pid());
    let change = change(before.rss, after.rss);
    let memory = format!(
        "{} KiB -> {} KiB ({change:+.2} %)",
        before.rss >> 10,
        after.rss >> 10
    );
    println!(
        "| {name} | {total} | {:.0} | {memory} | {} -> {} |",
        report.rate(),
        before.mappings,
        after.mappings
    );
    assert_half(&report, total);
    assert!(
        change.abs() <= 1.0,
        "RSS from \"ready\" to the end: {memory}"
    );
    assert_eq!(
        before.mappings, after.mappings,
        "mappings at \"ready\" and at the end"
    );
    let ended = server.stop();
    assert_eq!(ended.code(), 0, "{}", ended.stderr());
    assert_eq!(ended.figure("process_heap_allocations"), 0);
    assert_eq!(ended.figure("requests"), total as u64);
    let of_class = |class: fn(u16) -> bool| -> usize {
        let of_kinds = statuses.iter().zip(&report.good);
        of_kinds
            .filter(|(status, _)| class(**status))
            .map(|(_, count)| count)
            .sum()
    };
    assert_eq!(ended.figure("good"), of_class(|status| status < 400) as u64);
    assert_eq!(
        ended.figure("server_errors"),
        of_class(|status| status >= 500) as u64
    );
    ended
}

/// The same for handlers of which no promise is made.
fn of_promise(kinds: [Kind; 2], name: &str) -> Ended {
    let launch = Launch::of_file(env!("CARGO_BIN_EXE_promise")).env("RUST_BACKTRACE", "0");
    let ended = memory_is_constant(launch, kinds.into(), &format!("{name} | 0"), 20_000);
    assert_eq!((ended.figure("parked"), ended.figure("lost")), (0, 0));
    ended
}

#[test]
fn every_second_request_draws_on_the_overdraft_and_memory_is_constant() {
    let kinds = [
        Kind::get("/fill/10", 200, "10240 bytes"),
        Kind::get("/fill/1000", 500, EXHAUSTED),
    ];
    let ended = of_promise(kinds, "overdraft: /fill/1000");
    assert!(ended.figure("exhausted_arena") > 0);
}

#[test]
fn every_second_request_holds_a_lock_while_it_draws_and_memory_is_constant() {
    let kinds = [
        Kind::get("/mutex/10", 200, "10240 bytes"),
        Kind::get("/mutex/1000", 500, EXHAUSTED),
    ];
    of_promise(kinds, "overdraft: /mutex/1000");
}

#[test]
fn every_second_request_needs_more_stack_than_it_has_and_memory_is_constant() {
    let kinds = [
        Kind::get("/deep/50", 200, "50 deep"),
        Kind::get("/deep/130", 500, EXHAUSTED),
    ];
    let ended = of_promise(kinds, "extension: /deep/130");
    assert_eq!(ended.figure("exhausted_arena"), 0);
}

#[test]
fn every_request_leaves_something_behind_and_memory_is_constant() {
    let kinds = [
        Kind::get("/cache/1", 200, " entries"),
        Kind::get("/local/7", 200, "7"),
    ];
    let ended = of_promise(kinds, "leftovers: /cache/1, /local/7");
    assert!(ended.figure("left") > 0 && ended.figure("kept") > 0);
}

#[test]
fn every_second_request_gets_nothing_of_the_c_heap_and_memory_is_constant() {
    let kinds = [
        Kind::get("/c/1000", 200, "filled"),
        Kind::get("/c/100000", 507, "no memory"),
    ];
    of_promise(kinds, "C heap: /c/100000");
}

/// One request in two outgrows its bucket for a while (a minute, in the long run), beside clients that ask
/// for little: with the default flags, nothing is lost and no ordinary request fails. Prints how the two
/// halves fare beside each other.
fn beside_each_other(launch: Launch, name: &str, ordinary: Kind, fits: Kind, outgrows: Kind) {
    let server = launch.env("RUST_BACKTRACE", "0").start();
    let time = Duration::from_secs(if requests(0) >= 1_000_000 { 60 } else { 2 });
    let over = AtomicBool::new(false);
    let run = |connections, kind| {
        let load = Load::new(server.address(), connections, vec![kind]);
        load.until(&over).run()
    };
    let reports = std::thread::scope(|scope| {
        let loads = [(4, ordinary), (8, fits), (8, outgrows)]
            .map(|(connections, kind)| scope.spawn(move || run(connections, kind)));
        std::thread::sleep(time);
        over.store(true, Ordering::Relaxed);
        loads.map(|load| load.join().expect("the load does not panic"))
    });
    let figures = reports.each_ref().map(|report| {
        let p99 = report.per_mille(0, 990).as_secs_f64() * 1e3;
        format!("{:.0}/s, p99 {p99:.2} ms", report.rate())
    });
    println!(
        "| {name} | 0 | {} | outgrow: {}; fit: {}; ordinary: {} | | |",
        reports[2].good[0], figures[2], figures[1], figures[0]
    );
    for report in &reports {
        assert!(report.bad.is_empty(), "{:?}", report.bad);
        assert!(report.good[0] > 0);
    }
    let ended = server.stop();
    assert_eq!(ended.code(), 0, "{}", ended.stderr());
    assert_eq!(ended.figure("lost"), 0);
    assert_eq!(ended.figure("exhausted_arena"), reports[2].good[0] as u64);
}

#[test]
fn one_document_in_two_outgrows_its_bucket_beside_ordinary_clients() {
    let document = |n| format!("[{}\"\"]", "\"\",".repeat(n));
    beside_each_other(
        Launch::of_file(env!("CARGO_BIN_EXE_promise")),
        "98 KB of JSON, 3 bytes longer than fits",
        Kind::get("/", 200, ""),
        Kind::post_body("/json", &document(32_767), 200, ""),
        Kind::post_body("/json", &document(32_768), 500, EXHAUSTED),
    );
}

#[test]
fn one_request_in_two_is_left_by_a_jump_beside_ordinary_clients() {
    beside_each_other(
        Launch::of("oom"),
        "a vector of 1,900 KiB, by a jump",
        Kind::get("/10", 200, ""),
        Kind::get("/1800", 200, ""),
        Kind::get("/1900", 500, EXHAUSTED),
    );
}

/// Every first request was answered well and every second one failed as it should. Each connection alternates
/// for itself, so that each may end on a first request.
fn assert_half(report: &Report, total: usize) {
    assert!(
        report.bad.is_empty(),
        "{:?} beside {:?} good ones",
        report.bad,
        report.good
    );
    assert_eq!(report.good.iter().sum::<usize>(), total);
    assert!(
        report.good[0].abs_diff(report.good[1]) <= CONNECTIONS,
        "{:?}",
        report.good
    );
}

#[test]
fn every_second_request_asks_for_a_gigabyte_and_the_others_are_served_at_constant_memory() {
    let ended = half_of_the_requests_fail("/1000000", EXHAUSTED, 100_000, "0");
    assert!(ended.figure("exhausted_arena") > 0);
    assert_eq!(ended.figure("parked"), 0);
}

#[test]
fn the_same_with_backtraces_switched_on() {
    let ended = half_of_the_requests_fail("/1000000", EXHAUSTED, 20_000, "1");
    assert_eq!(ended.figure("parked"), 0);
}

#[test]
fn every_second_request_asks_the_arena_itself_for_a_gigabyte_and_memory_is_constant() {
    let ended = half_of_the_requests_fail("/arena/1000000", EXHAUSTED, 20_000, "1");
    assert!(ended.figure("exhausted_arena") > 0);
}

#[test]
fn every_second_request_overflows_its_stack_and_memory_is_constant() {
    let ended = half_of_the_requests_fail("/recurse/1000000", EXHAUSTED, 20_000, "0");
    assert!(ended.figure("exhausted_stack") > 0);
}

#[test]
fn every_second_request_overflows_its_stack_with_backtraces_switched_on() {
    let ended = half_of_the_requests_fail("/recurse/1000000", EXHAUSTED, 20_000, "1");
    assert_eq!(ended.figure("parked"), 0);
}

#[test]
fn every_second_request_panics_and_memory_is_constant() {
    let ended = half_of_the_requests_fail("/panic", PANICKED, 20_000, "0");
    assert!(ended.figure("panicked") > 0);
}

#[test]
fn every_second_request_panics_with_backtraces_switched_on() {
    let ended = half_of_the_requests_fail("/panic", PANICKED, 20_000, "1");
    assert!(ended.figure("panicked") > 0);
}

/// Instances that lose their buckets and are replaced, one after the other: the turn of the third comes after
/// 10 s, of the fourth after 20 more, and so on.
fn instances(requests: usize) -> usize {
    if requests >= 1_000_000 { 4 } else { 2 }
}

/// One bucket in a thousand requests is lost for good, in a process that parks. Each instance has lost half
/// of its buckets when the next one takes over, and begins with the memory that the first one began with.
#[test]
fn one_bucket_in_a_thousand_requests_is_lost_and_each_instance_begins_with_the_same_memory() {
    let total = requests(20_000);
    let instances = instances(total);
    let limit = (total / 1000).div_ceil(instances);
    let flags = format!(
        "--on-exhaustion park --buckets {} --bucket-size 256KiB --lost-limit {limit}",
        2 * limit
    );
    let servers = Succession::start(Launch::of("oom").flags(&flags));
    let address = servers.first().address();
    let first = Sample::at_rest(servers.first().pid());
    let mut newest = servers.first().pid();
    let mut began = first.mappings;
    for n in 1..=instances {
        let load = Load::new(address, CONNECTIONS, vec![Kind::get("/10", 200, "")]);
        let load = load.total(total / instances);
        let report = std::thread::scope(|scope| {
            let load = scope.spawn(|| load.run());
            for _ in 1..limit {
                assert_eq!(servers.first().get("/1000000").status, 500);
            }
            load.join().expect("the load does not panic")
        });
        assert!(report.bad.is_empty(), "{:?}", report.bad);
        let last = Sample::at_rest(newest);
        // Within one instance: how many of the libraries' mappings lie side by side differs between two
        // processes.
        assert_eq!(began, last.mappings);
        // The one that is too many comes when the others have been answered: their connections stay with this
        // instance.
        assert_eq!(servers.first().get("/1000000").status, 500);
        newest = servers.heir_within(n, Duration::from_secs(120));
        let now = Sample::at_rest(newest);
        let growth = change(first.rss, now.rss);
        println!(
            "| {limit} of {} buckets lost, instance {n} | | {} | {:.0} | {} KiB -> {} KiB; the next one {} KiB ({growth:+.2} %) | {} -> {} |",
            2 * limit,
            total / instances,
            report.rate(),
            first.rss >> 10,
            last.rss >> 10,
            now.rss >> 10,
            began,
            last.mappings
        );
        began = now.mappings;
        let of_its_own = change(first.anonymous, now.anonymous);
        assert!(of_its_own.abs() <= 1.0, "{first:?} and {now:?}");
        assert!(growth <= 2.0, "{first:?} and {now:?}");
    }
    let ended = servers.stop(newest);
    assert_eq!(ended.code(), 0, "{}", ended.stderr());
    let words = format!(" parked={limit} lost={limit} ");
    let recycled = ended.lines.iter().filter(|line| line.contains(&words));
    assert_eq!(recycled.count(), instances);
    let drained = ended.lines.iter().filter(|line| line.contains(" drained "));
    let clean = drained.filter(|line| line.contains(" process_heap_allocations=0 "));
    assert_eq!(clean.count(), instances + 1);
}

#[test]
fn between_ready_and_the_drain_no_system_call_changes_the_address_space() {
    if installed("strace").is_none() {
        println!("skipped: strace is not installed");
        return;
    }
    let folder = Folder::new("strace");
    let file = folder.path().join("calls");
    let output = file.to_string_lossy();
    let calls = "trace=mmap,brk,munmap,mremap,mprotect,write";
    let tracer = [
        "strace", "-D", "-f", "-s", "9999", "-e", calls, "-o", &output,
    ];
    let server = Launch::under(&tracer, "oom")
        .flags(FLAGS)
        .env("RUST_BACKTRACE", "1")
        .start();
    let kinds = vec![
        Kind::get("/10", 200, ""),
        Kind::get("/1000000", 500, EXHAUSTED),
        Kind::get("/arena/1000000", 500, EXHAUSTED),
        Kind::get("/recurse/1000000", 500, EXHAUSTED),
        Kind::get("/panic", 500, PANICKED),
        Kind::get("/hold/100/5", 200, ""),
    ];
    let report = Load::new(server.address(), CONNECTIONS, kinds)
        .total(2000)
        .run();
    assert!(report.bad.is_empty(), "{:?}", report.bad);
    let pid = server.pid();
    let ended = server.stop();
    assert_eq!(ended.code(), 0, "{}", ended.stderr());

    // The tracer writes its last line a little after its child has ended.
    let read = || fs::read_to_string(&file).unwrap_or_default();
    let ends = |line: &str| {
        line.starts_with(&format!("{pid} ")) && line.ends_with("+++ exited with 0 +++")
    };
    assert!(eventually(|| read().lines().any(ends)), "the trace ends");
    let trace = read();
    let lines = || trace.lines();
    let ready = lines()
        .position(|line| line.contains("INFO ready "))
        .expect("the trace has the line");
    let draining = lines()
        .position(|line| line.contains("INFO draining "))
        .expect("the trace has the line");
    let between: Vec<&str> = lines().take(draining).skip(ready + 1).collect();
    assert!(
        between.iter().any(|line| line.contains("write(")),
        "the trace has what happened between them"
    );
    let changes: Vec<&&str> = between
        .iter()
        .filter(|line| !line.contains("write(") && line.contains('('))
        .collect();
    let changes: Vec<_> = changes
        .iter()
        .filter(|line| !line.contains("write resumed"))
        .collect();
    assert!(changes.is_empty(), "{changes:#?}");
}
