//! Settings that parse and would leave nothing that works.

use transom_tests::{Launch, Server};

fn assert_refused(flags: &str, flag: &str) {
    for check in ["", "--check"] {
        let ended = Launch::of("hello")
            .flags(&format!("--listen 127.0.0.1:0 {check} {flags}"))
            .run();
        let said = ended.lines.first().map_or("", String::as_str);
        assert!(
            ended.code() == 2 && said.starts_with("error: ") && said.contains(flag),
            "{check} {flags}: status {}, {said:?}",
            ended.code()
        );
    }
}

#[test]
fn a_timeout_of_zero_is_refused_by_the_name_of_its_flag() {
    for flag in [
        "--queue-timeout",
        "--header-timeout",
        "--body-timeout",
        "--write-timeout",
        "--idle-timeout",
    ] {
        for zero in ["0", "0ms", "0h"] {
            assert_refused(&format!("{flag} {zero}"), flag);
        }
    }
}

#[test]
fn a_deadline_and_a_drain_timeout_may_be_zero() {
    let server = Server::start("hello", "--deadline 0 --drain-timeout 0");
    assert_eq!(server.get("/").status, 200);
    let mut idle = server.connect();
    assert_eq!(idle.get("/").status, 200);
    let _ = server.stop().code(); // it ends, one way or the other
}

#[test]
fn a_limit_of_lost_buckets_that_cannot_be_reached_is_refused() {
    for flag in ["--lost-limit", "--parked-limit"] {
        for (buckets, limit) in [("--buckets 2", 3), ("--buckets 1", 1000), ("", 65)] {
            assert_refused(&format!("{buckets} {flag} {limit}"), flag);
        }
    }
    let server = Server::start("hello", "--buckets 2 --lost-limit 2");
    assert_eq!(server.get("/").status, 200);
}
