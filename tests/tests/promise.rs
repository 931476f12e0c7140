//! The promise, for handlers of safe Rust as people write them: a request that outgrows its bucket gets a
//! 500, and every other one is served as if nothing had happened. Each test here stands for a handler that
//! once took buckets or the whole server down.

use std::io::{Read, Write};
use transom_tests::{Ended, Kind, Launch, Load, Server, eventually};

fn promise(flags: &str) -> Server {
    Launch::of_file(env!("CARGO_BIN_EXE_promise"))
        .flags(flags)
        .start()
}

/// Ends the server: it has lost nothing, and allocated nothing outside its region.
#[track_caller]
fn assert_nothing_lost(server: Server) -> Ended {
    assert_eq!(server.get("/").text(), "here\n");
    let ended = server.stop();
    assert_eq!(ended.code(), 0, "{}", ended.stderr());
    for figure in ["parked", "lost", "rejected"] {
        assert_eq!(ended.figure(figure), 0, "{figure}: {}", ended.stderr());
    }
    ended
}

/// Values that are made at their first use and stay: used once in each bucket, and then again and again.
#[test]
fn thread_locals_and_channels_cost_no_bucket() {
    let server = promise("--buckets 2 --bucket-size 512KiB");
    for n in 0..200 {
        assert_eq!(server.get(&format!("/local/{n}")).text(), format!("{n}\n"));
        assert_eq!(server.get("/receive").text(), "sent\n");
    }
    let kinds = vec![
        Kind::get("/local/7", 200, "7\n"),
        Kind::get("/receive", 200, "sent\n"),
    ];
    let report = Load::new(server.address(), 8, kinds).total(4_000).run();
    assert!(report.bad.is_empty(), "{:?}", report.bad);
    let ended = assert_nothing_lost(server);
    assert!(ended.figure("left") > 0, "{}", ended.stderr());
}

/// The handler is not left while it holds a lock: the one request that does not fit gets a 500, and the lock
/// is free and not poisoned.
#[test]
fn a_lock_that_is_held_over_an_allocation_that_does_not_fit_is_given_back() {
    let server = promise("--buckets 2 --bucket-size 512KiB");
    for _ in 0..50 {
        for path in ["/mutex/1000", "/println/1000"] {
            let refused = server.get(path);
            assert_eq!(refused.status, 500, "{path}");
            assert_eq!(
                refused.field("transom-diagnostic"),
                Some("bucket-exhausted")
            );
        }
        assert_eq!(server.get("/mutex/100").text(), "102400 bytes\n");
        assert_eq!(server.get("/println/100").text(), "printed\n");
    }
    let ended = assert_nothing_lost(server);
    assert_eq!(ended.figure("exhausted_arena"), 100);
}

#[test]
fn a_lazy_value_that_does_not_fit_is_made_all_the_same_and_only_its_first_user_fails() {
    let server = promise("--buckets 2 --bucket-size 512KiB");
    for path in ["/lazy/10000", "/lazy/1"] {
        let first = server.get(path).status;
        assert_eq!(first, if path == "/lazy/1" { 200 } else { 500 }, "{path}");
        for _ in 0..20 {
            assert_eq!(server.get(path).status, 200, "{path}");
        }
    }
    assert_nothing_lost(server);
}

/// `["","",…]` of 45 KB: each three bytes become 24 or more.
fn hungry_json() -> String {
    format!("[{}\"\"]", "\"\",".repeat(15_000))
}

#[test]
fn hungry_documents_at_once_cost_a_500_each_and_no_bucket() {
    let server = promise("--bucket-size 512KiB");
    let body = hungry_json();
    let clients: Vec<_> = (0..32)
        .map(|_| {
            let mut client = server.connect();
            let body = body.clone();
            std::thread::spawn(move || {
                (0..4)
                    .map(|_| client.post("/json", &body).status)
                    .collect::<Vec<_>>()
            })
        })
        .collect();
    for client in clients {
        let statuses = client.join().expect("no client panics");
        assert_eq!(statuses, [500; 4]);
    }
    assert_eq!(server.post("/json", "[1,[2,3]]").text(), "5 values\n");
    let ended = assert_nothing_lost(server);
    assert_eq!(ended.figure("exhausted_arena"), 128);
    assert_eq!(ended.figure("process_heap_allocations"), 0);
}

/// Documents and answers of any length end with the request that they outgrow: they take no memory that
/// others need.
#[test]
fn json_stops_growing_where_its_request_outgrows_its_bucket() {
    let server = promise("");
    let longest = format!("[{}0]", "[],".repeat(340_000));
    let nested = format!("[{}0]", r#"{"a":[0]},"#.repeat(100_000));
    for _ in 0..80 {
        assert_eq!(server.post("/json", &longest).status, 500);
        assert_eq!(server.post("/json", &nested).status, 500);
        assert_eq!(server.get("/numbers/50000000").status, 500);
    }
    assert_eq!(server.post("/json", "[1,[2,3]]").text(), "5 values\n");
    assert_eq!(server.get("/numbers/3").text(), "[0,0,0]");
    let ended = assert_nothing_lost(server);
    assert_eq!(ended.figure("exhausted_arena"), 240);
}

/// A body that breaks off has a line in the log, whether something of it was sent or not.
#[test]
fn a_streamed_answer_that_fails_says_why() {
    for after in [0, 1_000_000] {
        let server = promise("--buckets 2");
        let mut stream = std::net::TcpStream::connect(server.address()).expect("it listens");
        let request = transom_tests::client::get(&format!("/broken/{after}"));
        stream.write_all(request.as_bytes()).expect("it reads");
        let line_is_there = || {
            server
                .lines()
                .iter()
                .any(|line| line.contains("could not write"))
        };
        let mut piece = [0; 1 << 16];
        while after > 0 && !line_is_there() && stream.read(&mut piece).is_ok_and(|n| n > 0) {}
        let line = server.line_with("could not write all of its answer");
        assert!(line.contains("route=/broken/{after}"), "{line}");
        assert!(line.contains("the well has run dry"), "{line}");
        drop(stream);
        assert_nothing_lost(server);
    }
}

/// A document has a long text in the wrong place: the error message is short, from whichever layer it comes.
#[test]
fn what_is_wrong_with_a_document_is_said_in_few_words() {
    let server = promise("");
    for text in ["x", "\u{7f}", "'", "\u{200b}"] {
        let long = format!("\"{}\"", text.repeat(950_000 / text.len()));
        for (kind, document) in [
            ("numbers", long.clone()),
            ("numbers", format!("[{long}]")),
            ("floats", format!("[1.5, {long}]")),
            ("pairs", long.clone()),
            ("pairs", format!("[{long}, 1]")),
            ("map", long.clone()),
            ("map", format!("{{\"1\": {long}}}")),
            ("map", format!("{{{long}: true}}")),
            ("records", format!("[{long}]")),
            ("records", format!("[{{\"id\": {long}}}]")),
            ("records", format!("[{{\"id\": 1, \"tags\": {long}}}]")),
            ("tree", format!("{{{long}: null}}")),
            ("untagged", format!("[{long}]")),
            ("untagged", format!("[{{\"numbers\": {long}}}]")),
            ("internally", format!("{{\"type\": {long}}}")),
            ("adjacently", format!("{{{long}: 1}}")),
            ("flat", format!("{{\"a\": {long}}}")),
        ] {
            let answer = server.post(&format!("/as/{kind}"), &document);
            // For keys and buffered values, serde makes the error later and quotes the whole text, which may
            // be too much.
            let may_be_too_much = [
                "map",
                "tree",
                "untagged",
                "internally",
                "adjacently",
                "flat",
            ]
            .contains(&kind);
            assert!(
                answer.status == 400 || (may_be_too_much && answer.status == 500),
                "{kind}: {}",
                answer.status
            );
            assert!(answer.text().len() < 600, "{}", answer.text());
        }
    }
    for (kind, document, said) in [
        (
            "numbers",
            "[1, -1]",
            "invalid value: integer `-1`, expected u64 at line 1 column 6",
        ),
        (
            "numbers",
            "[null]",
            "invalid type: null, expected u64 at line 1 column 5",
        ),
        (
            "numbers",
            "[1.0]",
            "invalid type: floating point `1.0`, expected u64 at line 1 column 4",
        ),
        (
            "numbers",
            "\"one\"",
            "invalid type: string \"one\", expected a sequence at line 1 column 5",
        ),
        (
            "pairs",
            "[true, 256]",
            "invalid value: integer `256`, expected u8 at line 1 column 10",
        ),
        ("records", "[{}]", "missing field `id` at line 1 column 3"),
        (
            "records",
            "[{\"id\": [1]}]",
            "invalid type: sequence, expected u64 at line 1 column 9",
        ),
    ] {
        let answer = server.post(&format!("/as/{kind}"), document);
        let whole = format!("the body is not the JSON that is expected here: {said}\n");
        assert_eq!((answer.status, answer.text()), (400, whole.as_str()));
    }
    for (kind, document) in [
        ("map", "{\"1\": true, \"2\": false}"),
        ("floats", "[1, 1.5, -2e3]"),
        ("pairs", "[true, 255]"),
        ("records", "[[1, null], {\"id\": 2, \"tags\": [\"a\"]}]"),
    ] {
        assert_eq!(server.post(&format!("/as/{kind}"), document).status, 200);
    }
    assert_nothing_lost(server);
}

/// Documents that serde buffers before it knows their type.
#[test]
fn what_is_buffered_costs_no_bucket_and_what_is_ordinary_fits() {
    let server = promise("");
    for count in [
        1_000, 3_000, 5_000, 7_000, 12_000, 16_000, 28_000, 60_000, 300_000,
    ] {
        let list = format!("[{}{{}}]", "{},".repeat(count));
        let nulls = format!("[{}0]", "0,".repeat(count));
        let depth = |levels| format!("{}{nulls}{}", "[".repeat(levels), "]".repeat(levels));
        let map: Vec<_> = (0..count).map(|key| format!("\"{key:x}\":{{}}")).collect();
        for (kind, document) in [
            ("untagged", list.clone()),
            ("internally", format!("{{\"type\":\"A\",\"items\":{list}}}")),
            ("internally", format!("{{\"items\":{list},\"type\":\"A\"}}")),
            ("adjacently", format!("{{\"items\":{list},\"type\":\"A\"}}")),
            ("flat", format!("{{{}}}", map.join(","))),
            ("tree", nulls.clone()),
            ("tree", depth(10)),
            ("tree", depth(25)),
        ] {
            let status = server.post(&format!("/as/{kind}"), &document).status;
            assert!(
                [200, 413, 500].contains(&status),
                "{kind} of {count}: {status}"
            );
            assert!(
                count > 1_000 || kind == "tree" || status == 200,
                "{kind} of {count}"
            );
        }
    }
    // As many small ones as there is memory for, one after the other.
    let each = format!("[{}0]", "1,\"a\",".repeat(15_000));
    assert_eq!(server.post("/as/each", &each).status, 200);
    assert_nothing_lost(server);
}

/// Whatever a handler puts into an answer's head, or fails with.
#[test]
fn an_answer_with_text_of_any_length_in_its_head_costs_no_bucket() {
    let server = promise("");
    for how in [
        "header",
        "type",
        "redirect",
        "headers",
        "name",
        "question",
        "internal",
        "conflict",
        "unavailable",
    ] {
        for kib in [100, 400, 900, 1200, 1500, 1800, 2500, 4000, 40_000] {
            let may_grow = ["name", "internal", "conflict", "unavailable"].contains(&how);
            if may_grow && kib > 1800 {
                continue; // the handler's own text
            }
            let status = server.get(&format!("/built/{how}/{kib}")).status;
            let expected = match how {
                "conflict" if kib <= 900 => 409,
                "unavailable" if kib <= 900 => 503,
                _ => 500,
            };
            assert!(
                status == expected || (may_grow && status == 500),
                "{how} of {kib}: {status}"
            );
        }
    }
    assert_nothing_lost(server);
}

/// Whatever a handler calls after it has outgrown its bucket, with a lock held and inside a lazy value:
/// neither is poisoned.
#[test]
fn no_call_of_the_platform_poisons_what_its_caller_holds() {
    const CALLS: [&str; 29] = [
        "param",
        "param_as",
        "query",
        "query_as",
        "queries",
        "header",
        "headers",
        "host",
        "body",
        "body_str",
        "json",
        "reader",
        "memory",
        "try_reserve",
        "time_left",
        "client_is_gone",
        "with",
        "with_once",
        "with_room",
        "read",
        "response",
        "header_of_any_length",
        "redirect",
        "error_of_any_length",
        "json_untagged",
        "json_numbers",
        "failure",
        "defer",
        "nothing",
    ];
    let server = promise("--buckets 2 --bucket-size 512KiB");
    let query = format!("q={}", "%41".repeat(200));
    for call in CALLS {
        let refused = match call {
            "body" | "body_str" | "json" | "reader" | "json_untagged" | "json_numbers" => {
                server.post(&format!("/held/{call}/1000?{query}"), "[1, 2]")
            }
            _ => server.get(&format!("/held/{call}/1000?{query}")),
        };
        assert_eq!(refused.status, 500, "{call}");
        for turns in 2..5 {
            assert_eq!(
                server.get(&format!("/held/{call}/1?{query}")).status,
                if ["header_of_any_length", "redirect"].contains(&call) {
                    500
                } else {
                    200
                },
                "{call}"
            );
            let whole = server.get(&format!("/whole/{call}"));
            assert_eq!(whole.text(), format!("{turns} 1024000\n"), "{call}");
        }
    }
    // For an answer in pieces, the 500 may come too late: then the answer ends early.
    let mut client = server.connect();
    client.send("GET /held/stream/1000 HTTP/1.1\r\nHost: t\r\n\r\n");
    assert!(
        client
            .try_answer()
            .map_or(true, |answer| answer.status == 500)
    );
    assert_eq!(server.get("/held/stream/1").text(), "somex");
    assert!(eventually(|| server.get("/whole/stream").status == 200));
    assert_nothing_lost(server);
}

/// The stack overflows somewhere in `opendir`, `malloc` or the handler, at twenty distances from its end.
/// None of that holds a lock of the C library for ever.
#[test]
fn recursion_whose_deepest_frame_is_in_the_c_library_gets_a_500() {
    for escape in [false, true] {
        let flags = "--buckets 24 --stack-size 64KiB --lost-limit 24 --c-heap 1GiB --c-heap-per-request 256MiB --lazy";
        let mut launch = Launch::of_file(env!("CARGO_BIN_EXE_promise")).flags(flags);
        if escape {
            launch = launch.env("PROMISE_ESCAPE", "1");
        }
        let server = launch.start();
        for pad in 0..20 {
            let refused = server.get(&format!("/walk/{pad}"));
            assert_eq!(refused.status, 500, "escape {escape}, pad {pad}");
            assert_eq!(
                server.get("/receive").text(),
                "sent\n",
                "escape {escape}, pad {pad}"
            );
            assert_eq!(server.get("/println/1").text(), "printed\n");
        }
        let ended = server.stop();
        assert_eq!(ended.code(), 0, "{}", ended.stderr());
        assert_eq!(ended.figure("exhausted_stack"), 20);
        let parked = ended.figure("parked");
        if escape {
            assert!(parked < 20, "none was left by a jump: {}", ended.stderr());
        } else {
            assert_eq!(parked, 20);
        }
    }
}

#[test]
fn a_full_shared_heap_is_an_error_of_the_request_that_fills_it() {
    let server = promise("--buckets 2 --shared-heap 256KiB");
    for _ in 0..3 {
        let mut stored = 0;
        let refused = loop {
            let answer = server.post(&format!("/items/{stored}"), "");
            if answer.status != 200 {
                break answer;
            }
            stored += 1;
        };
        assert_eq!(refused.status, 500);
        let _ = server.line_with("the shared heap is full: ");
        assert!((100..256).contains(&stored), "{stored}");
        for _ in 0..10 {
            assert_eq!(server.get("/items").text(), format!("{}\n", stored << 10));
            assert_eq!(server.post("/items/1000", "").status, 500);
        }
        // Entries that are there can be changed, and taken away.
        assert_eq!(
            server
                .answer_to("DELETE /items HTTP/1.1\r\nHost: t\r\n\r\n")
                .status,
            204
        );
        assert_eq!(server.get("/items").text(), "0\n");
    }
    assert_nothing_lost(server);
}

#[test]
fn need_follows_live_memory() {
    let server = promise("--buckets 1 --bucket-size 512KiB");
    for (path, most) in [("/upper/1000000", 1 << 10), ("/lru/1000000", 8 << 10)] {
        let answer = server.get(path);
        let high_water: usize = answer.text().trim().parse().expect("a number");
        assert!(high_water <= most, "{path}: {high_water} bytes");
    }
    assert_nothing_lost(server);
}

/// The server's threads block what its main thread waits for.
#[test]
fn a_program_that_a_handler_starts_ends_when_it_is_told_to() {
    let server = promise("--buckets 1");
    assert_eq!(server.get("/signals").text(), "SigBlk:\t0000000000000000\n");
    assert_nothing_lost(server);
}

/// Each thread may make more before its first call than a bucket may keep: the start says so, with both
/// numbers.
#[test]
fn what_each_thread_makes_must_fit_what_a_bucket_may_keep() {
    let launch = |keep: &str| {
        Launch::of_file(env!("CARGO_BIN_EXE_promise"))
            .env("PROMISE_EACH_THREAD", "200")
            .flags(&format!("--buckets 2 --keep {keep}"))
    };
    let ended = launch("64KiB").run();
    assert_eq!(ended.code(), 1);
    let said = ended.stderr();
    assert!(
        said.contains("--keep, 65536 bytes") && said.contains("204800"),
        "{said}"
    );
    let server = launch("256KiB").start();
    assert_nothing_lost(server);
}

/// The body is a block like any other, so the next one finds the place where it was.
#[test]
fn a_few_bytes_that_are_kept_after_each_upload_take_no_room_from_the_next() {
    let server = promise("--buckets 2 --bucket-size 512KiB");
    let upload = |kib: usize| {
        let mut client = transom_tests::Client::connect(server.address());
        client.post("/entry", "x".repeat(kib << 10))
    };
    assert_eq!(upload(400).status, 413, "it does not fit the bucket");
    for kib in [250, 100] {
        for _ in 0..40 {
            assert_eq!(upload(kib).text(), format!("{} bytes\n", kib << 10));
        }
    }
    assert_nothing_lost(server);
}

/// Keeps few bytes at a place where they leave no free piece of half the arena.
fn cut(server: &Server, place: &str) {
    assert_eq!(server.get("/fill/140").text(), "143360 bytes\n");
    assert_eq!(
        server.get(&format!("/cut/250/{place}")).text(),
        "1 entries\n"
    );
    assert_eq!(
        server.get(&format!("/cut/125/{place}")).text(),
        "2 entries\n"
    );
    assert_eq!(server.get("/fill/140").status, 500);
    assert_eq!(server.get("/fill/100").text(), "102400 bytes\n");
}

#[test]
fn a_bucket_that_thread_locals_have_cut_is_whole_again_with_the_next_thread() {
    let server = promise("--buckets 1 --bucket-size 512KiB --recycle exit --keep-timeout 500ms");
    cut(&server, "local");
    assert!(eventually(|| server.get("/fill/140").status == 200));
    assert!(
        server.line_with("cuts it in pieces").contains(" costs="),
        "it is told of"
    );
    assert_nothing_lost(server);
}

#[test]
fn a_bucket_that_stays_cut_serves_on_until_the_process_is_replaced() {
    let server = promise("--buckets 1 --bucket-size 512KiB --recycle exit --keep-timeout 500ms");
    cut(&server, "static");
    assert_eq!(server.get("/").text(), "here\n");
    let ended = server.wait();
    assert_eq!(ended.code(), 75, "{}", ended.stderr());
    assert!(
        ended
            .stderr()
            .contains("cut in pieces by what requests have left in them"),
        "{}",
        ended.stderr()
    );
    assert_eq!(ended.figure("lost"), 0, "{}", ended.stderr());
}

/// The block that had cut the bucket is gone, and its arena is one piece again: no process is replaced.
#[test]
fn a_bucket_that_keeps_nothing_any_more_is_cut_no_more() {
    let flags = "--buckets 1 --bucket-size 512KiB --recycle exit --keep-timeout 700ms";
    let server = promise(flags);
    cut(&server, "static");
    let clear = "DELETE /entries HTTP/1.1\r\nHost: t\r\n\r\n";
    assert_eq!(server.answer_to(clear).text(), "no entries\n");
    assert_eq!(server.get("/fill/140").status, 200);
    std::thread::sleep(std::time::Duration::from_millis(2_000));
    assert_eq!(server.get("/fill/140").status, 200);
    let ended = assert_nothing_lost(server);
    assert_eq!(ended.figure("kept"), 0, "{}", ended.stderr());
    assert_eq!(ended.figure("threads_replaced"), 1, "{}", ended.stderr());
}

/// A server of one bucket, of which a large piece lies above an entry and a small one below it.
fn cut_low(escape: bool) -> Server {
    let flags = "--buckets 1 --bucket-size 512KiB --recycle exit --keep-timeout 1s";
    let mut launch = Launch::of_file(env!("CARGO_BIN_EXE_promise")).flags(flags);
    if escape {
        launch = launch.env("PROMISE_ESCAPE", "1");
    }
    let server = launch.start();
    assert_eq!(server.get("/cut/250/static").text(), "1 entries\n");
    server
}

/// The process is replaced because its bucket stays cut, after one thread was.
#[track_caller]
fn assert_ends_cut(server: Server) {
    let ended = server.wait();
    assert_eq!(ended.code(), 75, "{}", ended.stderr());
    assert_eq!(ended.figure("threads_replaced"), 1, "{}", ended.stderr());
    assert_eq!(ended.figure("lost"), 0, "{}", ended.stderr());
}

/// A request that may be left by a jump cannot use the piece above kept blocks, however large it is.
#[test]
fn a_bucket_is_cut_for_requests_that_escape_by_what_they_cannot_have() {
    let server = cut_low(true);
    for _ in 0..10 {
        assert_eq!(server.get("/fill/140").status, 500);
    }
    assert_ends_cut(server);
}

/// `request.arena()` cannot use that piece either. Ordinary blocks can.
#[test]
fn a_bucket_is_cut_for_users_of_the_arena_itself() {
    let server = cut_low(false);
    for _ in 0..10 {
        assert_eq!(server.get("/fill/140").status, 200);
        assert_eq!(server.get("/bump/140").status, 500);
        assert_eq!(server.get("/bump/10").status, 200);
    }
    // It is looked at again meanwhile, after ordinary requests too.
    std::thread::sleep(std::time::Duration::from_millis(400));
    assert_eq!(server.get("/fill/140").status, 200);
    assert_ends_cut(server);
}

/// A request for more than there ever is, in a bucket of which little is used up: nothing is cut.
#[test]
fn an_arena_that_is_too_small_is_not_cut() {
    let server = promise("--buckets 1 --bucket-size 512KiB --recycle exit --keep-timeout 500ms");
    assert_eq!(server.get("/cut/1/static").text(), "1 entries\n");
    for _ in 0..10 {
        assert_eq!(server.get("/bump/1000").status, 500);
    }
    std::thread::sleep(std::time::Duration::from_millis(1_000));
    let ended = assert_nothing_lost(server);
    assert_eq!(ended.figure("threads_replaced"), 0, "{}", ended.stderr());
}

/// Sends so many bytes in chunks: what `/length` says of them, and the high water.
fn send_in_chunks(server: &Server, bytes: usize) -> (u16, String, usize) {
    let body: Vec<u8> = (0..=250).cycle().take(bytes).collect();
    let mut client = server.connect();
    client.send("POST /length HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n");
    let sends = |client: &mut transom_tests::Client, piece: &[u8]| {
        let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
        client.try_send(chunk)
    };
    let is_sent = body.chunks(1 << 16).all(|piece| sends(&mut client, piece));
    if is_sent {
        client.try_send("0\r\n\r\n");
    }
    let answer = client.answer();
    let said = answer.text().trim();
    let (said, high_water) = said.rsplit_once(' ').unwrap_or((said, "0"));
    let high_water = high_water.parse().unwrap_or(0);
    (answer.status, said.to_owned(), high_water)
}

/// The largest piece may lie above the kept blocks, or below them.
#[test]
fn a_body_of_unknown_length_fits_the_largest_piece_there_is() {
    for above in [0, 1_700, 940] {
        let server = promise("--buckets 1 --bucket-size 2MiB --deadline 10s");
        if above > 0 {
            let made = server.get(&format!("/cut/{above}/static"));
            assert_eq!(made.text(), "1 entries\n");
        }
        for bytes in [100_000, 300_000, 700_000, 900_000, 1_200_000, 1_500_000] {
            let (status, said, high_water) = send_in_chunks(&server, bytes);
            if above == 940 && bytes > 900_000 {
                assert_eq!(status, 413, "{bytes} bytes, {above} KiB above");
                continue;
            }
            let expected = (200, format!("{bytes} true"));
            assert_eq!((status, said), expected, "{bytes} bytes, {above} KiB above");
            assert!(
                above > 0 || high_water <= 3 * bytes + (16 << 10),
                "{bytes} bytes need {high_water}"
            );
        }
        assert_eq!(server.get("/fill/900").status, 200);
        assert_nothing_lost(server);
    }
}

/// The collected bytes are not moved for every few bytes that come.
#[test]
fn a_large_body_of_unknown_length_is_collected_in_time() {
    let server = promise("--buckets 1 --bucket-size 64MiB --deadline 60s");
    let begun = std::time::Instant::now();
    let (status, said, _) = send_in_chunks(&server, 58_000_000);
    assert_eq!((status, said.as_str()), (200, "58000000 true"));
    let took = begun.elapsed();
    assert!(took < std::time::Duration::from_secs(4), "{took:?}");
    assert_nothing_lost(server);
}
