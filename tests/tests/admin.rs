//! `--admin`: metrics, health and the snapshot of the buckets, of each kind of process and when everything is
//! taken.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use transom_tests::client::get;
use transom_tests::doors::{before, behind};
use transom_tests::{Client, Folder, Launch, Server, eventually};

/// Metrics by name and labels, as they are written.
struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    fn of(server: &Server) -> Self {
        let answer = admin(server).get("/metrics");
        assert_eq!(
            (answer.status, answer.field("content-type")),
            (200, Some("text/plain; version=0.0.4; charset=utf-8"))
        );
        let mut typed = BTreeSet::new();
        let mut samples = BTreeMap::new();
        for line in answer.text().lines() {
            if let Some(words) = line.strip_prefix("# TYPE ") {
                let name = words.split(' ').next().expect("a name");
                assert!(typed.insert(name.to_owned()), "{name} comes twice");
                continue;
            }
            if line.starts_with("# HELP ") {
                continue;
            }
            let (name, value) = line.rsplit_once(' ').expect("a sample");
            let base = name.split('{').next().expect("a name");
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| base.strip_suffix(end).filter(|base| typed.contains(*base)));
            assert!(
                typed.contains(family.unwrap_or(base)),
                "{base} has no TYPE before it"
            );
            let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
            assert!(
                samples.insert(name.to_owned(), value).is_none(),
                "{name} comes twice"
            );
        }
        Metrics(samples)
    }

    fn get(&self, name: &str) -> f64 {
        *self
            .0
            .get(name)
            .unwrap_or_else(|| panic!("no {name} among {:?}", self.0.keys()))
    }

    /// The names without their labels.
    fn names(&self) -> BTreeSet<&str> {
        self.0
            .keys()
            .map(|name| name.split('{').next().unwrap_or(name))
            .collect()
    }
}

/// A connection to the address of `--admin`, as the server's log has it.
fn admin(server: &Server) -> Client {
    Client::connect(server.admin())
}

fn snapshot(server: &Server) -> Value {
    let answer = admin(server).get("/buckets.json");
    assert_eq!(answer.status, 200);
    serde_json::from_str(answer.text()).unwrap_or_else(|error| panic!("{error}: {}", answer.text()))
}

#[test]
fn metrics_count_what_was_done() {
    let server = Server::start("oom", "--buckets 4 --admin 127.0.0.1:0");
    for (path, status) in [
        ("/10", 200),
        ("/10", 200),
        ("/100000", 500),
        ("/panic", 500),
        ("/no/such/route/here", 404),
        ("/recurse/1000000", 500),
    ] {
        assert_eq!(server.get(path).status, status, "{path}");
    }
    // A loop counts a request's time after it has sent the answer.
    let mut metrics = Metrics::of(&server);
    let counted = || {
        metrics = Metrics::of(&server);
        metrics.get("transom_request_seconds_count") > 5.5
    };
    assert!(eventually(counted), "all requests are timed");
    for (name, value) in [
        ("transom_calls_total", 6.0),
        ("transom_requests_total", 6.0),
        ("transom_responses_total{class=\"2xx\"}", 2.0),
        ("transom_responses_total{class=\"4xx\"}", 1.0),
        ("transom_responses_total{class=\"5xx\"}", 3.0),
        ("transom_exhausted_total{reason=\"arena\"}", 1.0),
        ("transom_exhausted_total{reason=\"stack\"}", 1.0),
        ("transom_panics_total", 1.0),
        ("transom_request_seconds_count", 6.0),
        ("transom_route_memory_bytes_count{route=\"/{kib}\"}", 3.0),
        (
            "transom_route_memory_bytes_count{route=\"(no route)\"}",
            1.0,
        ),
        (
            "transom_route_memory_bytes_bucket{route=\"/{kib}\",le=\"10240\"}",
            0.0,
        ),
        (
            "transom_route_memory_bytes_bucket{route=\"/{kib}\",le=\"11264\"}",
            2.0,
        ),
        (
            "transom_route_memory_bytes_bucket{route=\"/{kib}\",le=\"+Inf\"}",
            3.0,
        ),
        (
            "transom_route_memory_max_bytes{route=\"/{kib}\"}",
            100_000.0 * 1024.0,
        ),
        ("transom_bucket_size_bytes", 2048.0 * 1024.0),
        ("transom_bound_term_units{term=\"buckets\"}", 5.0),
        ("transom_threads_max", 4.0),
        ("transom_draining", 0.0),
        ("transom_process_heap_allocations_total", 0.0),
    ] {
        assert!((metrics.get(name) - value).abs() < 0.5, "{name}");
    }
    let states = ["unbound", "idle", "busy", "resting", "parked"];
    let of_state = |state| metrics.get(&format!("transom_buckets{{state=\"{state}\"}}"));
    let all: f64 = states.iter().map(of_state).sum();
    assert!((all - 4.0).abs() < 0.5, "the one kept aside is not counted");
    let resident = metrics.get("process_resident_memory_bytes");
    assert!(resident > 1e6 && resident <= server.memory_bound() as f64);
    let bound = ["region", "process"]
        .map(|p| metrics.get(&format!("transom_bound_bytes{{place=\"{p}\"}}")));
    assert!((bound.iter().sum::<f64>() - server.memory_bound() as f64).abs() < 0.5);
}

#[test]
fn every_metric_is_documented_and_every_documented_one_is_there() {
    let folder = Folder::new("admin-names");
    let door = folder.path().join("echo.door");
    let _application = behind(&door, "echo", "");
    let front = before(&door, "--admin 127.0.0.1:0 --access-log json");
    let server = Server::start("oom", "--admin 127.0.0.1:0");
    assert_eq!(server.get("/1").status, 200);
    let (front, server) = (Metrics::of(&front), Metrics::of(&server));
    let there: BTreeSet<&str> = front.names().union(&server.names()).copied().collect();

    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let text = std::fs::read_to_string(page).expect("docs/metrics.md");
    // `name{label}` in the first cell of a table's row.
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let named: BTreeSet<&str> = rows
        .filter_map(|row| row.split('|').nth(1))
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .map(|name| name.split('{').next().unwrap_or(name))
        .filter(|name| !name.starts_with('/'))
        .collect();
    assert!(named.len() > 40, "{named:?}");
    for name in &there {
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| name.strip_suffix(end).filter(|base| named.contains(base)));
        assert!(
            named.contains(family.unwrap_or(name)),
            "{name} is not in docs/metrics.md"
        );
    }
    for name in &named {
        assert!(
            there.contains(name) || there.contains(&*format!("{name}_count")),
            "{name} is in docs/metrics.md and nowhere else"
        );
    }
}

#[test]
fn it_answers_when_every_bucket_and_connection_is_taken() {
    let server = Server::start(
        "oom",
        "--buckets 2 --slots 2 --loops 1 --connections 4 --queue-timeout 30s --admin 127.0.0.1:0",
    );
    assert_eq!(admin(&server).get("/ready").text(), "ready\n");
    let mut clients: Vec<_> = (0..4).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(get("/sleep/60000"));
    }
    server.wait_for_sleepers(2);
    let mut late = server.connect(); // waits in the kernel
    late.send(get("/1"));
    let ready = admin(&server).get("/ready");
    assert_eq!((ready.status, ready.text()), (503, "no-bucket\n"));
    assert_eq!(admin(&server).get("/health").text(), "ok\n");
    let full = || {
        let metrics = Metrics::of(&server);
        [
            ("transom_buckets{state=\"busy\"}", 2.0),
            ("transom_connections", 4.0),
            ("transom_slots_busy", 2.0),
            ("transom_requests_waiting", 2.0),
        ]
        .iter()
        .all(|(name, value)| (metrics.get(name) - value).abs() < 0.5)
    };
    assert!(eventually(full), "{}", snapshot(&server));
    let cells = snapshot(&server)["application"]["cells"].clone();
    assert_eq!(
        [&cells[0][0], &cells[1][0]],
        [2, 2],
        "both are busy: {cells}"
    );
    assert_eq!(admin(&server).get("/").status, 200);
    for client in clients {
        client.reset();
    }
    drop(late);
    server.signal(libc::SIGTERM);
    let _ = server.line_with(" draining");
    server.signal(libc::SIGTERM); // the sleepers are not waited for
    let _ = server.wait();
}

#[test]
fn a_process_that_drains_is_not_ready_and_says_so() {
    let folder = Folder::new("admin-drain");
    let path = folder.path().join("admin.sock");
    for place in ["127.0.0.1:0".to_owned(), format!("unix:{}", path.display())] {
        let launch = Launch::of("oom").flags("--buckets 2");
        let server = launch.env("TRANSOM_ADMIN", &place).start();
        let mut client = server.connect();
        client.send(get("/sleep/60000"));
        server.wait_for_sleepers(1);
        server.signal(libc::SIGTERM);
        let _ = server.line_with(" draining");
        let ready = || match place.starts_with("unix:") {
            true => over_unix(&path, "/ready"),
            false => admin(&server).get("/ready").text().to_owned(),
        };
        assert!(eventually(|| ready().ends_with("draining\n")), "{place}");
        server.signal(libc::SIGTERM);
        let _ = server.wait();
        assert!(!path.exists(), "the socket was removed");
    }
}

/// The answer to a GET, as it comes over a Unix socket.
fn over_unix(path: &Path, target: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::os::unix::net::UnixStream::connect(path).expect("it listens there");
    let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it is taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}

#[test]
fn the_snapshot_names_culprits_and_what_would_help() {
    let server = Server::start("oom", "--buckets 3 --admin 127.0.0.1:0");
    let before = snapshot(&server);
    assert_eq!(before["application"]["culprits"], serde_json::json!([]));
    assert_eq!(before["equation"][0]["term"], "buckets");
    let sum: u64 = (before["equation"].as_array().expect("terms").iter())
        .map(|term| term["bytes"].as_u64().expect("bytes"))
        .sum();
    assert!(before["bound"].as_u64().expect("a sum") >= sum);
    for path in ["/10", "/4000", "/recurse/1000000"] {
        let _ = server.get(path);
    }
    let after = snapshot(&server);
    let application = &after["application"];
    let culprits = application["culprits"].as_array().expect("a list");
    let brief: Vec<_> = culprits
        .iter()
        .map(|one| ["n", "route", "reason", "asked", "raise"].map(|key| one[key].to_string()))
        .collect();
    assert_eq!(
        brief,
        [
            [
                "2",
                "\"/recurse/{n}\"",
                "\"stack\"",
                "0",
                "\"--stack-size\""
            ]
            .map(str::to_owned),
            [
                "1",
                "\"/{kib}\"",
                "\"arena\"",
                "4096000",
                "\"--bucket-size\""
            ]
            .map(str::to_owned),
        ]
    );
    let now = after["unix_ms"].as_u64().expect("a time");
    let then = culprits[0]["unix_ms"].as_u64().expect("a time");
    assert!(then <= now && now - then < 60_000);
    let route = &application["routes"][0];
    assert_eq!(route["route"], "/{kib}");
    assert_eq!(
        (&route["calls"], &route["exhausted"]),
        (&2.into(), &1.into())
    );
    assert_eq!(route["max"], 4096000);
    assert_eq!(application["cells"].as_array().map(Vec::len), Some(3));
    assert_eq!(after["process_heap_allocations"], 0);
}

#[test]
fn a_front_end_and_an_application_behind_its_door_each_have_their_own() {
    let folder = Folder::new("admin-door");
    let door = folder.path().join("oom.door");
    let application = behind(&door, "oom", "--buckets 3 --admin 127.0.0.1:0");
    let front = before(&door, "--admin 127.0.0.1:0");
    assert_eq!(front.get("/10").status, 200);
    assert_eq!(front.get("/100000").status, 500);

    let of_front = snapshot(&front);
    assert!(of_front["application"].is_null());
    assert_eq!(of_front["front"]["requests"], 2);
    let metrics = Metrics::of(&front);
    assert!(metrics.get("transom_slots") > 0.0);
    assert!(!metrics.names().contains("transom_buckets"));

    let of_application = snapshot(&application);
    assert!(of_application["front"].is_null());
    assert_eq!(of_application["application"]["calls"], 2);
    assert_eq!(of_application["application"]["exhausted_arena"], 1);
    assert!(!Metrics::of(&application).names().contains("transom_slots"));
    for server in [&front, &application] {
        assert_eq!(admin(server).get("/ready").text(), "ready\n");
        let resident = snapshot(server)["resident"].as_u64().expect("a size");
        assert!(resident <= server.memory_bound());
    }
    assert_eq!((front.stop().code(), application.stop().code()), (0, 0));
}

#[test]
fn it_speaks_on_a_unix_socket_and_leaves_no_file() {
    let folder = Folder::new("admin-unix");
    let path = folder.path().join("admin.sock");
    let server = Server::start("hello", &format!("--admin unix:{}", path.display()));
    let answer = over_unix(&path, "/health");
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok\n"),
        "{answer}"
    );
    assert_eq!(server.stop().code(), 0);
    assert!(!path.exists(), "the socket was removed");
}

#[test]
fn an_address_that_is_taken_is_told_by_the_flag() {
    let server = Server::start("hello", "");
    let taken = server.address();
    for flags in [
        format!("--listen 127.0.0.1:0 --admin {taken}"),
        format!("--door /tmp/no-such-folder/a.door --admin {taken}"),
    ] {
        let ended = Launch::of("hello").flags(&flags).run();
        assert_eq!(ended.code(), 1, "{flags}");
        let said = ended.stderr();
        assert!(said.contains(&format!("--admin {taken}")), "{said}");
    }
    let flags = "--listen 127.0.0.1:4713 --admin 127.0.0.1:4713 --check";
    let ended = Launch::of("hello").flags(flags).run();
    assert_eq!(ended.code(), 2);
    assert!(
        ended
            .stderr()
            .contains("give it a port or a path of its own")
    );
}

#[test]
fn it_is_handed_over_with_the_other_listeners() {
    let mut server = Server::start("hello", "--admin 127.0.0.1:0");
    let old = snapshot(&server)["pid"].as_u64().expect("a pid");
    server.signal(libc::SIGUSR2);
    let mut new = old;
    // The new instance has the same output, so its log is here too.
    let next = || {
        new = snapshot_if_any(&server)
            .and_then(|now| now["pid"].as_u64())
            .unwrap_or(old);
        new != old
    };
    assert!(eventually(next), "the new instance answers there");
    let new = libc::pid_t::try_from(new).expect("a pid");
    assert!(eventually(|| server.has_exited()), "the old instance ends");
    // SAFETY: a plain system call. The process was started by the one above and is ended by its own id.
    unsafe { libc::kill(new, libc::SIGTERM) };
    assert_eq!(server.wait().code(), 0); // once no process has its log open
}

/// As [`snapshot`], but `None` if the old instance closes the connection.
fn snapshot_if_any(server: &Server) -> Option<Value> {
    let mut client = Client::try_connect(server.admin()).ok()?;
    client
        .try_send(get("/buckets.json"))
        .then(|| client.try_answer().ok())
        .flatten()
        .and_then(|answer| serde_json::from_str(answer.text()).ok())
}

#[test]
fn responses_say_what_they_used_if_that_is_wanted() {
    let flags = "--bucket-size 512KiB --memory-header";
    let server = Server::start("oom", flags);
    let answer = server.get("/100");
    let field = answer.field("transom-memory").expect("it is wanted");
    let number = |name: &str| -> u64 {
        let part = field.split("; ").find_map(|part| part.strip_prefix(name));
        part.and_then(|text| text.strip_prefix('='))
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(|| panic!("{name} in {field:?}"))
    };
    assert!((100 << 10..101 << 10).contains(&number("used")), "{field}");
    assert!((300 << 10..512 << 10).contains(&number("size")), "{field}");
    let plain = Server::start("oom", "");
    assert_eq!(plain.get("/100").field("transom-memory"), None);
}

#[test]
fn the_end_says_what_requests_needed_and_which_bucket_would_fit_them() {
    let server = Server::start("oom", "--bucket-size 512KiB");
    for _ in 0..20 {
        let _ = server.get("/100");
    }
    let _ = server.get("/arena/10");
    let ended = server.stop();
    let lines: Vec<_> = (ended.lines.iter())
        .filter(|line| line.contains("memory that requests needed"))
        .collect();
    let [kib, arena, all] = &lines[..] else {
        panic!("three lines, not {lines:?}");
    };
    assert!(kib.contains("route=/{kib} requests=20 ") && arena.contains("route=/arena/{kib}"));
    assert!(all.contains("route=(all) requests=21 ") && all.contains(" bucket_size=512KiB"));
    let suggested = all
        .rsplit_once("bucket_size_for_all_but_1_in_10000=")
        .expect("a size")
        .1;
    let fitting = Server::start("oom", &format!("--bucket-size {suggested}"));
    assert_eq!(fitting.get("/100").status, 200, "{suggested} fits them");
    assert_eq!(ended.figure("process_heap_allocations"), 0);
    assert!(!ended.stderr().contains("lower_bound="));
}

/// What a request would have asked for after the allocation that did not fit is not known.
#[test]
fn the_end_says_that_a_recommended_size_is_a_lower_bound_where_requests_were_stopped() {
    let server = Server::start("oom", "--bucket-size 512KiB");
    for path in ["/10", "/arena/10", "/100000"] {
        let _ = server.get(path);
    }
    let ended = server.stop();
    let is_least = |route: &str| {
        let route = format!("memory that requests needed route={route} ");
        let line = ended.lines.iter().find(|line| line.contains(&route));
        line.expect("a line")
            .contains(" lower_bound=\"requests outgrew")
    };
    assert!(is_least("/{kib}") && is_least("(all)"));
    assert!(!is_least("/arena/{kib}"));
}

#[test]
fn strict_heap_makes_an_allocation_outside_the_region_fatal_and_says_where_it_was() {
    let flags = "--strict-heap --admin 127.0.0.1:0";
    let server = Server::start("oom", flags);
    for path in ["/10", "/100000", "/panic", "/recurse/1000000"] {
        let _ = server.get(path);
    }
    let _ = (snapshot(&server), Metrics::of(&server));
    assert_eq!(server.get("/10").status, 200, "none of that was outside");
    assert_eq!(server.stop().code(), 0, "nor is anything of the end");
    let server = Server::start("oom", flags);
    let mut client = server.connect();
    client.send(get("/outside/10"));
    let ended = server.wait();
    assert_eq!(ended.signal(), Some(libc::SIGABRT), "{}", ended.stderr());
    let said = ended.stderr();
    assert!(said.contains("(--strict-heap)"), "{said}");
    assert!(said.contains("allocate_outside"), "a backtrace: {said}");

    let loose = Server::start("oom", "");
    assert_eq!(loose.get("/outside/10").status, 200);
    let ended = loose.stop();
    assert!(
        ended.figure("process_heap_allocations") > 0,
        "it is counted"
    );
    let refused = Launch::of("oom")
        .flags("--door /tmp/x.door --strict-heap")
        .run();
    assert_eq!(refused.code(), 2);
    assert!(
        refused
            .stderr()
            .contains("--strict-heap cannot be used with --door")
    );
}

#[test]
fn promtool_has_nothing_to_object_to() {
    let Some(promtool) = transom_tests::server::installed("promtool") else {
        println!("skipped: there is no promtool (Debian: prometheus)");
        return;
    };
    let folder = transom_tests::Folder::new("promtool");
    let door = folder.path().join("oom.door");
    let behind = transom_tests::doors::behind(&door, "oom", "--admin 127.0.0.1:0");
    let front = transom_tests::doors::before(&door, "--admin 127.0.0.1:0");
    let alone = Server::start("oom", "--admin 127.0.0.1:0");
    assert_eq!(
        (front.get("/10").status, alone.get("/10").status),
        (200, 200)
    );
    for server in [&behind, &front, &alone] {
        let mut admin = transom_tests::client::Client::connect(server.admin());
        let page = admin.get("/metrics").text().to_owned();
        let mut child = std::process::Command::new(&promtool)
            .args(["check", "metrics"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("it runs");
        let mut input = child.stdin.take().expect("piped");
        std::io::Write::write_all(&mut input, page.as_bytes()).expect("it reads");
        drop(input);
        let ended = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success() && said.is_empty(), "{said}");
    }
}

#[test]
fn a_page_whose_name_resolves_to_this_machine_reads_nothing() {
    let flags = "--admin 127.0.0.1:0 --admin-host metrics.example.org,transom.example.org";
    let server = Server::start("hello", flags);
    let status = |path: &str, host: &str| {
        let mut admin = transom_tests::client::Client::connect(server.admin());
        admin.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        admin.answer().status
    };
    let port = server.admin().port();
    for path in ["/", "/metrics", "/buckets.json", "/health", "/ready"] {
        assert_eq!(status(path, "evil.example"), 421, "{path}");
        for host in [
            format!("127.0.0.1:{port}"),
            format!("localhost:{port}"),
            "metrics.example.org".to_owned(),
            "Transom.example.org:9180".to_owned(),
        ] {
            assert_eq!(status(path, &host), 200, "{path} {host}");
        }
    }
}

#[test]
fn a_method_that_the_server_does_not_have_is_no_server_error() {
    let server = Server::start("hello", "--admin 127.0.0.1:0");
    let answer = server.answer_to("BREW / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(answer.status, 501);
    let mut admin = transom_tests::client::Client::connect(server.admin());
    let page = admin.get("/metrics").text().to_owned();
    for line in [
        "transom_responses_total{class=\"5xx\"} 0",
        "transom_responses_total{class=\"501\"} 1",
    ] {
        assert!(page.lines().any(|one| one == line), "{line}");
    }
    let ended = server.stop();
    assert_eq!(
        (
            ended.figure("server_errors"),
            ended.figure("not_implemented")
        ),
        (0, 1)
    );
}
