//! A value that is made where it is first used, which is in a request: it lives in that request's bucket and outlives it.

use transom_tests::{Launch, Server};

fn odd(flags: &str) -> Server {
    Launch::of_file(env!("CARGO_BIN_EXE_odd"))
        .flags(flags)
        .start()
}

fn value() -> String {
    (0..2000).map(|n| format!("{n}\n")).collect()
}

#[test]
fn a_lazy_value_first_touched_in_a_request_pins_its_bucket_is_logged_and_is_never_overwritten() {
    for flags in [
        "--buckets 2",
        "--buckets 3 --wipe poison",
        "--buckets 3 --wipe zero",
    ] {
        let server = odd(flags);
        // Not the bucket's first request, and not at its start.
        assert_eq!(server.get("/fill/100").status, 200);
        assert_eq!(server.get("/lazy").text(), value(), "{flags}");
        let line = server.line_with("left allocations behind");
        assert!(
            line.contains(" WARN ") && line.contains(" route=/lazy ") && line.contains(" live=1"),
            "{line}"
        );
        // Those that follow write over whatever bucket they are given.
        let mut client = server.connect();
        for _ in 0..100 {
            assert_eq!(client.get("/fill/200").text(), "204800 bytes\n", "{flags}");
            assert_eq!(client.get("/lazy").text(), value(), "{flags}");
        }
        assert_eq!(server.get("/lazy").text(), value(), "{flags}");
        let ended = server.stop();
        assert_eq!((ended.code(), ended.figure("pinned")), (0, 1), "{flags}");
        assert_eq!(ended.figure("process_heap_allocations"), 0, "{flags}");
        let lines = ended.stderr().matches("left allocations behind").count();
        assert_eq!(lines, 1, "{flags}: one request is to blame");
    }
}

#[test]
fn a_bucket_that_is_pinned_serves_nobody() {
    let server = odd("--buckets 1 --queue-timeout 200ms");
    assert_eq!(server.get("/lazy").text(), value());
    let _ = server.line_with("left allocations behind");
    for _ in 0..3 {
        assert_eq!(server.get("/fill/1").status, 503);
    }
    let ended = server.stop();
    assert_eq!((ended.code(), ended.figure("rejected")), (0, 3));
}
