//! A value that is made where it is first used, which is in a request: it lives in that request's bucket and
//! outlives it.

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
fn a_lazy_value_first_touched_in_a_request_costs_its_bytes_is_logged_and_is_never_overwritten() {
    for flags in [
        "--buckets 1",
        "--buckets 3 --wipe poison",
        "--buckets 3 --wipe zero",
    ] {
        let server = odd(flags);
        // Not the bucket's first request, and not at its start.
        assert_eq!(server.get("/fill/100").status, 200);
        assert_eq!(server.get("/lazy").text(), value(), "{flags}");
        let line = server.line_with("keep memory in the bucket of their thread");
        assert!(
            line.contains(" INFO ") && line.contains(" route=/lazy ") && line.contains(" bytes="),
            "{line}"
        );
        // The requests that follow overwrite all bucket memory that they are given.
        let mut client = server.connect();
        for _ in 0..100 {
            assert_eq!(client.get("/fill/200").text(), "204800 bytes\n", "{flags}");
            assert_eq!(client.get("/lazy").text(), value(), "{flags}");
        }
        assert_eq!(server.get("/lazy").text(), value(), "{flags}");
        let ended = server.stop();
        assert_eq!((ended.code(), ended.figure("left")), (0, 1), "{flags}");
        let kept = ended.figure("kept");
        let least = 2000 * size_of::<u32>() as u64;
        assert!((least..3 * least).contains(&kept), "{flags}: {kept}");
        assert_eq!(ended.figure("process_heap_allocations"), 0, "{flags}");
        let lines = ended.stderr().matches("keep memory in the bucket").count();
        assert_eq!(lines, 1, "{flags}: one request is to blame");
    }
}

#[test]
fn a_bucket_that_keeps_too_much_for_a_thread_to_free_rests_and_is_lost_in_time() {
    // A static belongs to no thread: its destructor does not run when the thread is replaced.
    let server = odd("--buckets 2 --keep 4KiB --keep-timeout 200ms --lost-limit 2 --recycle exit");
    assert_eq!(server.get("/lazy").text(), value());
    let _ = server.line_with("a bucket is lost: its requests have left more in it");
    for _ in 0..50 {
        assert_eq!(server.get("/fill/200").text(), "204800 bytes\n");
        assert_eq!(server.get("/lazy").text(), value());
    }
    let ended = server.stop();
    assert_eq!((ended.code(), ended.figure("rejected")), (0, 0));
    assert_eq!(
        (ended.figure("threads_replaced"), ended.figure("lost")),
        (1, 1)
    );
}
