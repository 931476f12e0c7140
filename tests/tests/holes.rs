//! Requests that leave holes in their buckets: which size is recommended for them, and what they get.

use transom_tests::{Launch, Server};

fn holes(flags: &str) -> Server {
    let launch = Launch::of_file(env!("CARGO_BIN_EXE_holes"));
    launch
        .flags(&format!("--buckets 1 --admin 127.0.0.1:0 {flags}"))
        .start()
}

/// How many of so many requests are served.
fn served(server: &Server, path: &str, requests: usize) -> usize {
    let list = format!("[{}1]", "1,".repeat(3000));
    let answer = || match path {
        "/tree" => server.post(path, &list),
        _ => server.get(path),
    };
    let statuses = (0..requests).map(|_| answer().status);
    statuses.filter(|status| *status == 200).count()
}

/// What `transom plan` would have for a server that has measured its requests.
fn planned(server: &Server) -> String {
    let page = format!("http://{}/metrics", server.admin());
    let flags = format!("plan --rate 100 --loops 1 --from-metrics {page}");
    let plan = Launch::of("transom").flags(&flags).run().stdout;
    let line = plan.lines().find(|line| line.starts_with("flags "));
    let size = line.and_then(|line| line.split_once("--bucket-size ")?.1.split(' ').next());
    size.unwrap_or_else(|| panic!("no size: {plan}")).to_owned()
}

/// With so many KiB of it the same requests are served. With a tenth and 8 KiB less they would not be.
fn assert_fits(path: &str, size: &str) {
    let fitting = holes(&format!("--bucket-size {size}"));
    assert_eq!(served(&fitting, path, 10), 10, "{path} with {size}");
    let kib: usize = size
        .strip_suffix("KiB")
        .and_then(|kib| kib.parse().ok())
        .expect("KiB");
    let less = (kib - 8) * 10 / 11 / 4 * 4;
    let small = holes(&format!("--bucket-size {less}KiB"));
    assert_eq!(
        served(&small, path, 1),
        0,
        "{path} with {less}KiB, not only {size}"
    );
}

#[test]
fn a_bucket_of_the_size_that_log_and_plan_recommend_serves_the_same_requests() {
    for path in ["/columns", "/groups", "/words", "/json", "/tree", "/two"] {
        let server = holes("");
        assert_eq!(served(&server, path, 10), 10, "{path}");
        assert_fits(path, &planned(&server));
        assert_fits(path, &logged(server));
    }
}

/// The size that a server's log recommends.
fn logged(server: Server) -> String {
    let ended = server.stop();
    let mut lines = ended.lines.iter();
    let line = lines.find(|line| line.contains("memory that requests needed"));
    let size = line.and_then(|line| line.split_once("bucket_size_for_all_but_1_in_10000="));
    size.expect("it is said").1.trim().to_owned()
}

/// They get a 413, and would be served in a larger bucket.
#[test]
fn a_size_is_recommended_that_has_room_for_what_was_refused() {
    let body = "x".repeat(300_000);
    let status = |server: &Server, path: &str| match path {
        "/body" => server.post(path, &body).status,
        _ => server.get(path).status,
    };
    for path in ["/body", "/reserve"] {
        let small = holes("--bucket-size 460KiB");
        assert_eq!(status(&small, path), 413, "{path}");
        for size in [planned(&small), logged(small)] {
            let fitting = holes(&format!("--bucket-size {size}"));
            assert_eq!(status(&fitting, path), 200, "{path} with {size}");
        }
    }
}

/// The table is refused or not; what the keys allocate meanwhile is an ordinary allocation.
#[test]
fn a_table_whose_keys_allocate_is_asked_for_without_losing_a_bucket() {
    let server = holes("--bucket-size 512KiB");
    // A table of 2048 has 25 bytes an entry in the map, 17 in the set, and the group that follows.
    for (path, table) in [("map", 2048 * 25), ("set", 2048 * 17)] {
        // Also where what a key allocates looks like a table.
        let tagged = server.get(&format!("/reserve-table/{path}/{}?tags", table + 512));
        assert!([200, 500].contains(&tagged.status), "{path}: {tagged:?}");
        let mut seen = Vec::new();
        for left in (table - 256..table + 512).step_by(16) {
            seen.push(server.get(&format!("/reserve-table/{path}/{left}")).status);
        }
        assert!(
            seen.iter().all(|status| [200, 413, 500].contains(status)),
            "{path}: {seen:?}"
        );
        assert_eq!((seen[0], seen[seen.len() - 1]), (413, 200), "{path}");
    }
    let ended = server.stop();
    assert_eq!(ended.figure("parked"), 0, "{}", ended.stderr());
}

#[test]
fn a_bucket_of_the_recommended_size_has_room_for_what_requests_leave() {
    let server = holes("");
    assert_eq!(served(&server, "/keeps", 10), 10);
    for size in [planned(&server), logged(server)] {
        let fitting = holes(&format!("--bucket-size {size}"));
        assert_eq!(served(&fitting, "/keeps", 10), 10, "{size}");
        assert_eq!(fitting.stop().figure("threads_replaced"), 0, "{size}");
    }
    let small = holes("--bucket-size 512KiB");
    assert_eq!(served(&small, "/keeps", 10), 10);
    assert!(
        small.stop().figure("threads_replaced") > 0,
        "half of it is too little"
    );
}

/// Neighbours are joined as often as that makes room, however many holes lie beside them.
#[test]
fn a_request_is_served_while_the_free_memory_of_its_bucket_has_pieces_that_are_large_enough() {
    let server = holes("--deadline 60s");
    for path in ["/lists/4000/1500", "/lists/0/1500", "/lists/8000/1500"] {
        let answer = server.get(path);
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.text().starts_with("750000 "), "{}", answer.text());
    }
}

#[test]
fn the_line_of_a_request_that_found_no_piece_says_what_was_in_use_and_what_was_free_in_pieces() {
    let server = holes("");
    assert_eq!(server.get("/scattered").status, 500);
    let line = server.line_with("outgrew");
    let figure = |name: &str| -> usize {
        let found = line.split_once(&format!(" {name}=")).expect("it is said").1;
        found
            .split(' ')
            .next()
            .and_then(|figure| figure.parse().ok())
            .expect("a number")
    };
    let (used, pieces) = (figure("used"), figure("free_in_pieces"));
    assert!((860_000..900_000).contains(&used), "{line}");
    assert!((768_000..800_000).contains(&pieces), "{line}");
    assert!(used + pieces <= figure("size"), "{line}");
}

#[test]
fn a_program_says_that_its_statics_need_more_than_is_set_aside_for_it() {
    let start = |flags: &str| {
        let launch = Launch::of_file(env!("CARGO_BIN_EXE_statics"));
        launch.flags(&format!("--buckets 1 {flags}")).start()
    };
    let server = start("");
    let line = server.line_with("the statics of this program");
    let enough = line
        .split_once("set --constant ")
        .and_then(|(_, rest)| rest.split(' ').next());
    let enough = enough.expect("a size").to_owned();
    drop(server);
    let server = start(&format!("--constant {enough}"));
    assert_eq!(server.get("/touch").text(), format!("{}\n", 40 << 20));
    let (resident, bound) = (server.sample().rss, server.memory_bound());
    assert!(
        resident > 40 << 20 && resident <= bound,
        "{resident} of {bound}"
    );
    let ended = server.stop();
    assert!(
        !ended.stderr().contains("the statics of"),
        "{}",
        ended.stderr()
    );
}
