//! What C libraries allocate inside requests is in the region and bounded.

use std::process::Command;
use transom_tests::{Launch, build::binary};

/// The functions that glibc lets programs replace, and `abort`.
const FAMILY: [&str; 12] = [
    "malloc",
    "calloc",
    "realloc",
    "free",
    "posix_memalign",
    "aligned_alloc",
    "memalign",
    "valloc",
    "pvalloc",
    "reallocarray",
    "malloc_usable_size",
    "abort",
];

/// With LTO: `tests/symbols.sh`.
#[test]
fn a_program_built_on_the_facade_offers_its_allocator_to_its_libraries() {
    let mut nm = Command::new("nm");
    nm.args(["--dynamic", "--defined-only"])
        .arg(binary("hello"));
    let output = nm.output().expect("nm is there: it comes with the linker");
    let symbols = String::from_utf8_lossy(&output.stdout);
    for name in FAMILY {
        let defines = |line: &str| {
            let mut words = line.split(' ').rev();
            words.next() == Some(name) && matches!(words.next(), Some("T" | "W"))
        };
        assert!(
            symbols.lines().any(defines),
            "{name} is not among\n{symbols}"
        );
    }
}

#[test]
fn what_the_c_library_allocates_for_a_name_is_counted_and_given_back() {
    let server = Launch::of_file(env!("CARGO_BIN_EXE_promise"))
        .flags("--buckets 2 --admin 127.0.0.1:0")
        .start();
    let metric = |name: &str| -> u64 {
        let text = transom_tests::Client::connect(server.admin()).get("/metrics");
        let value = text.text().lines().find_map(|line| {
            let value = line.strip_prefix(name)?;
            value.trim().parse().ok()
        });
        value.unwrap_or_else(|| panic!("no {name} in\n{}", text.text()))
    };
    assert_eq!(server.get("/names").status, 200);
    let (calls, kept) = (
        metric("transom_c_heap_calls_total"),
        metric("transom_c_heap_bytes{what=\"kept\"}"),
    );
    for _ in 0..20 {
        assert!(server.get("/names").text().contains("127.0.0.1"));
    }
    let more = metric("transom_c_heap_calls_total") - calls;
    assert!(more >= 20, "{more} calls for 20 names");
    let left = metric("transom_c_heap_bytes{what=\"kept\"}").saturating_sub(kept);
    assert!(left < 64 << 10, "{left} bytes were left");
    // More than a request may have: C's own answer, and the handler's.
    for _ in 0..20 {
        assert_eq!(server.get("/c/3000").text(), "filled\n");
        assert_eq!(server.get("/c/100000").status, 507);
    }
    assert!(metric("transom_c_heap_refused_total") >= 20);
    let said = server.line_with("WARN malloc was refused");
    let raise = said.contains(" raise=--c-heap");
    assert!(said.contains(" route=/c/{kib} ") && raise, "{said}");
    let ended = server.stop();
    assert_eq!((ended.code(), ended.figure("lost")), (0, 0));
    assert_eq!(ended.figure("process_heap_allocations"), 0);
}

/// C libraries may keep more than half of the heap (a connection for each thread), as long as other requests
/// get the memory that they ask for. When these do not, the process begins anew.
#[test]
fn a_c_heap_that_is_half_full_for_good_serves_until_it_is_full() {
    let server = Launch::of_file(env!("CARGO_BIN_EXE_promise"))
        .flags("--buckets 4 --c-heap 8MiB --c-heap-per-request 1MiB --recycle exit")
        .start();
    for _ in 0..6 {
        assert_eq!(server.get("/c/leave/1000/return").text(), "left\n");
    }
    for _ in 0..20 {
        assert_eq!(server.get("/c/500").text(), "filled\n");
    }
    while server.get("/c/leave/1000/return").status == 200 {}
    let ended = server.wait();
    assert_eq!((ended.code(), ended.figure("lost")), (75, 0));
    let line = |what: &str| ended.stderr().contains(what);
    assert!(
        line("the C heap is full: C libraries get NULL"),
        "{}",
        ended.stderr()
    );
    assert!(line("--c-heap"), "{}", ended.stderr());
}

/// C memory that a jump leaves behind has no owner: half of the heap is enough for a new process.
#[test]
fn what_jumps_leave_of_the_c_heap_leads_to_a_new_process() {
    let server = Launch::of_file(env!("CARGO_BIN_EXE_promise"))
        .env("PROMISE_ESCAPE", "1")
        .flags("--buckets 4 --c-heap 8MiB --c-heap-per-request 1MiB --recycle exit")
        .start();
    for _ in 0..5 {
        assert_eq!(server.get("/c/leave/1000/outgrow").status, 500);
    }
    let ended = server.wait();
    assert_eq!((ended.code(), ended.figure("lost")), (75, 0));
    assert!(ended.stderr().contains("--c-heap"), "{}", ended.stderr());
}
