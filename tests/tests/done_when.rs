//! The project's promise, held against the built binary: whatever requests ask for, every other request is answered, the
//! process stays, and its memory is what it was when it began.
//!
//! `TRANSOM_TEST_REQUESTS=1000000` makes each of these a million requests long; `tests/million.sh` does that in release.

use std::fs;
use transom_tests::server::installed;
use transom_tests::{Ended, Folder, Kind, Launch, Load, Report, Sample, Server, requests};

const EXHAUSTED: &str = "transom-diagnostic: bucket-exhausted\r\n";
const PANICKED: &str = "transom-diagnostic: handler-panicked\r\n";
const FLAGS: &str = "--buckets 8 --bucket-size 512KiB";
const CONNECTIONS: usize = 64;

/// How much two figures differ, in per cent of the first.
fn change(before: u64, after: u64) -> f64 {
    (after as f64 - before as f64) / before as f64 * 100.0
}

/// Alternates `/10` with a request that fails, over many connections, and looks at the process before and after.
fn half_of_the_requests_fail(path: &str, part: &'static str, default: usize, backtrace: Option<&str>) -> Ended {
    let mut launch = Launch::of("oom").flags(FLAGS);
    if let Some(value) = backtrace {
        launch = launch.env("RUST_BACKTRACE", value);
    }
    let server = launch.start();
    let total = requests(default);
    let before = Sample::at_rest(server.pid());
    let kinds = vec![Kind::get("/10", 200, ""), Kind::get(path, 500, part)];
    let report = Load::new(server.address(), CONNECTIONS, kinds).total(total).run();
    let after = Sample::at_rest(server.pid());
    println!(
        "{path}: {total} requests, {:.0} a second, RSS {} -> {} KiB ({:+.2} %), mappings {} -> {}, threads {}",
        report.rate(),
        before.rss >> 10,
        after.rss >> 10,
        change(before.rss, after.rss),
        before.mappings,
        after.mappings,
        after.threads,
    );
    assert_half(&report, total);
    assert!(
        change(before.rss, after.rss).abs() <= 1.0,
        "RSS was {} KiB when the server was ready and is {} KiB, {:+.2} %",
        before.rss >> 10,
        after.rss >> 10,
        change(before.rss, after.rss)
    );
    assert_eq!(before.mappings, after.mappings, "mappings");
    let ended = server.stop();
    assert_eq!(ended.code(), 0, "{}", ended.stderr());
    assert_eq!(ended.figure("process_heap_allocations"), 0);
    assert_eq!(ended.figure("requests"), total as u64);
    assert_eq!(ended.figure("good"), total.div_ceil(2) as u64);
    ended
}

/// Every first request was answered well and every second one failed as it should. Connections alternate each for
/// itself, so that the end may leave some with a first request more.
fn assert_half(report: &Report, total: usize) {
    assert!(report.bad.is_empty(), "{:?} beside {:?} good ones", report.bad, report.good);
    assert_eq!(report.good.iter().sum::<usize>(), total);
    assert!(report.good[0].abs_diff(report.good[1]) <= CONNECTIONS, "{:?}", report.good);
}

#[test]
fn requests_that_ask_for_a_gigabyte_get_500_and_the_others_200_at_constant_memory() {
    let ended = half_of_the_requests_fail("/1000000", EXHAUSTED, 100_000, None);
    assert!(ended.figure("exhausted_arena") > 0);
}
