//! `--on-exhaustion park`: a request that outgrows its bucket costs the bucket, never the others, and in the
//! end the process asks to be replaced.

use transom_tests::{Kind, Load, Server};

/// `recycling.rs` tests processes that hand over.
const PARK: &str = "--on-exhaustion park --recycle exit";

#[test]
fn a_parked_bucket_is_lost_and_the_others_serve() {
    let server = Server::start("oom", &format!("{PARK} --buckets 4 --lost-limit 4"));
    for path in ["/1000000", "/recurse/1000000", "/1000000"] {
        let answer = server.get(path);
        assert_eq!(
            (answer.status, answer.field("transom-diagnostic")),
            (500, Some("bucket-exhausted"))
        );
    }
    assert!(server.line_with("outgrew").contains(" parked=true"));
    let report = Load::new(server.address(), 16, vec![Kind::get("/10", 200, "")])
        .total(1000)
        .run();
    assert!(report.bad.is_empty(), "{:?}", report.bad);
    let ended = server.stop();
    assert_eq!(
        (ended.code(), ended.figure("parked"), ended.figure("good")),
        (0, 3, 1000)
    );
}

#[test]
fn at_the_limit_the_process_drains_and_asks_to_be_replaced() {
    let server = Server::start("oom", &format!("{PARK} --buckets 4 --lost-limit 2"));
    assert_eq!(server.get("/1000000").status, 500);
    assert_eq!(server.get("/10").status, 200);
    assert_eq!(server.get("/1000000").status, 500);
    let ended = server.wait();
    assert_eq!((ended.code(), ended.figure("parked")), (75, 2));
    assert!(
        ended.stderr().contains("--lost-limit"),
        "{}",
        ended.stderr()
    );
}

#[test]
fn the_limit_is_half_of_the_buckets_unless_it_is_set() {
    let server = Server::start("oom", &format!("{PARK} --buckets 6"));
    for _ in 0..3 {
        assert_eq!(server.get("/1000000").status, 500);
    }
    assert_eq!(server.wait().code(), 75);
}

#[test]
fn a_request_in_progress_is_finished_before_the_process_is_replaced() {
    let server = Server::start("oom", &format!("{PARK} --buckets 4 --lost-limit 1"));
    let mut busy = server.connect();
    busy.send(transom_tests::client::get("/sleep/500"));
    server.wait_for_sleepers(1);
    assert_eq!(server.get("/1000000").status, 500);
    assert_eq!(busy.answer().text(), "slept\n");
    assert_eq!(server.wait().code(), 75);
}

#[test]
fn a_panic_and_an_arena_that_says_so_itself_unwind_and_park_nothing() {
    let server = Server::start("oom", &format!("{PARK} --buckets 2 --lost-limit 1"));
    let kinds = vec![
        Kind::get("/panic", 500, "handler-panicked"),
        Kind::get("/10", 200, ""),
        Kind::get("/arena/1000000", 500, "bucket-exhausted"),
    ];
    let report = Load::new(server.address(), 8, kinds).total(3000).run();
    assert!(report.bad.is_empty(), "{:?}", report.bad);
    let ended = server.stop();
    assert_eq!((ended.code(), ended.figure("parked")), (0, 0));
}

#[test]
fn parking_takes_no_memory_either() {
    let server = Server::start("oom", &format!("{PARK} --buckets 16 --lost-limit 16"));
    let before = transom_tests::Sample::at_rest(server.pid());
    for _ in 0..15 {
        assert_eq!(server.get("/1000000").status, 500);
    }
    let after = transom_tests::Sample::at_rest(server.pid());
    assert_eq!(before.mappings, after.mappings);
    assert!(
        after.rss <= before.rss + before.rss / 100,
        "RSS {} KiB -> {} KiB",
        before.rss >> 10,
        after.rss >> 10
    );
    assert_eq!(server.stop().figure("process_heap_allocations"), 0);
}
