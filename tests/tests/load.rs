//! `transom load`: short runs against servers that are well, and against some that are not.

use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use transom_tests::build::binary;
use transom_tests::{Ended, Folder, Launch, Server};

/// A run takes two seconds, and longer on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(120);

const HUNGRY: &str = "GET /{100..2000} 5%";
const BUCKETS: [&str; 4] = ["--buckets", "8", "--bucket-size", "512KiB"];

/// `transom load` with ordinary and hungry requests, for a second, and these words.
fn load<'w>(words: impl IntoIterator<Item = &'w str>) -> Ended {
    let mix = ["load", "--mix", "GET /10 95%", "--mix", HUNGRY];
    let short =
        "--rate 400 --duration 1s --rounds 1 --warm-up 200ms --connections 8 --sample-every 50ms";
    Launch::of("transom")
        .words(mix)
        .flags(short)
        .words(words)
        .run_within(PATIENCE)
}

fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

fn json(path: &Path) -> Value {
    let text = fs::read(path).expect("it was written");
    serde_json::from_slice(&text).expect("it is JSON")
}

fn first_line(ended: &Ended) -> &str {
    ended.stdout.lines().next().unwrap_or_default()
}

#[test]
fn the_edge_of_oom_is_found_to_the_kib_and_nobody_suffers() {
    let folder = Folder::new("load-edge");
    let (figures, page) = (
        folder.path().join("load.json"),
        folder.path().join("load.html"),
    );
    let (figures_text, page_text) = (text(&figures), text(&page));
    let oom = text(&binary("oom"));
    let words = [
        "--json",
        &figures_text,
        "--html",
        &page_text,
        "--",
        &oom,
        "--listen",
        "127.0.0.1:0",
    ];
    let ended = load(words.into_iter().chain(BUCKETS));
    assert_eq!(ended.code(), 0, "{}\n{}", ended.stdout, ended.stderr());
    assert!(first_line(&ended).starts_with("WELL"), "{}", ended.stdout);

    let report = json(&figures);
    assert_eq!(report["fine"], true);
    let edge = &report["edges"][0];
    assert_eq!(edge["found"], "between", "{edge}");
    assert_eq!(
        (&edge["status"], &edge["exhausted"]),
        (&Value::from(500), &Value::from(true))
    );
    let fits = edge["fits"].as_u64().expect("a size");
    let direct = Server::start("oom", &BUCKETS.join(" "));
    assert_eq!(direct.get(&format!("/{fits}")).status, 200);
    assert_eq!(direct.get(&format!("/{}", fits + 1)).status, 500);
    assert!(ended.stdout.contains(&format!(
        "the largest request that fits: {fits}; {} got 500",
        fits + 1
    )));

    let ordinary = &report["ordinary"];
    for side in [&ordinary["alone"], &ordinary["beside"]] {
        assert_eq!(side["failed"], 0, "{side}");
        assert_eq!(side["unsent"], 0, "{side}");
        assert!(side["good"].as_u64() > Some(100), "{side}");
        assert!(side["p99_us"].as_f64() > Some(0.0), "{side}");
    }
    assert_eq!(
        ordinary["alone"]["due"], ordinary["beside"]["due"],
        "the same schedule twice"
    );
    let hungry = &report["kinds"][1];
    assert_eq!(hungry["exhausted"], hungry["statuses"]["500"], "{hungry}");
    assert!(hungry["smallest_failed"].as_u64() > Some(fits), "{hungry}");

    let memory = &report["memory"];
    assert!(
        memory["bound_bytes"].as_u64() > memory["most"]["rss_bytes"].as_u64(),
        "{memory}"
    );
    assert_eq!(
        memory["at_ready"]["mappings"], memory["most"]["mappings"],
        "{memory}"
    );
    assert!(
        report["looks"]
            .as_array()
            .is_some_and(|looks| looks.len() > 5)
    );

    let pid = report["server"]["pids"][0].as_u64().expect("its process");
    assert!(
        !Path::new(&format!("/proc/{pid}")).exists(),
        "the server was ended"
    );

    let page = fs::read_to_string(&page).expect("it was written");
    for outside in [
        "<script", "<link", "<img", "src=", "href=", "url(", "@import",
    ] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
    assert!(
        page.matches("<svg").count() >= 2 && page.contains("bound "),
        "memory and latency are plotted"
    );
}

#[test]
fn a_server_that_runs_is_found_by_its_port_and_left_running() {
    let folder = Folder::new("load-running");
    let figures = folder.path().join("load.json");
    let server = Server::start("oom", &BUCKETS.join(" "));
    let target = format!("http://{}", server.address());
    let ended = load([
        "--target",
        &target,
        "--pid",
        "auto",
        "--json",
        &text(&figures),
    ]);
    assert_eq!(ended.code(), 0, "{}\n{}", ended.stdout, ended.stderr());
    let report = json(&figures);
    assert_eq!(report["server"]["pids"], serde_json::json!([server.pid()]));
    assert_eq!(
        report["memory"]["bound_bytes"],
        Value::Null,
        "no bound is known"
    );
    assert_eq!(server.get("/10").status, 200);
}

#[test]
fn a_bound_that_is_passed_is_told_and_is_the_exit_status() {
    let server = Server::start("oom", &BUCKETS.join(" "));
    let target = format!("http://{}", server.address());
    let pid = server.pid().to_string();
    let ended = load(["--target", &target, "--pid", &pid, "--bound", "1MiB"]);
    assert_eq!(ended.code(), 1, "{}", ended.stdout);
    assert!(
        first_line(&ended).contains("the bound was passed"),
        "{}",
        ended.stdout
    );
    assert!(!ended.stdout.contains("--constant"), "{}", ended.stdout);
}

#[test]
fn a_program_that_is_larger_than_its_sum_is_told_the_constant_that_it_needs() {
    let oom = text(&binary("oom"));
    let folder = Folder::new("load-constant");
    let log_file = folder.path().join("log");
    let log = text(&log_file);
    let words = ["--server-log", &log, "--", &oom, "--constant", "1MiB"];
    let words = words.into_iter().chain(["--listen", "127.0.0.1:0"]);
    for (admin, todo) in [
        (&[][..], "raise its --constant by "),
        (&["--admin", "127.0.0.1:0"], "start it with --constant "),
    ] {
        let ended = load(words.clone().chain(BUCKETS).chain(admin.iter().copied()));
        assert_eq!(ended.code(), 1, "{}", ended.stdout);
        let said = first_line(&ended);
        assert!(
            said.contains("the bound was passed") && said.contains(todo),
            "{said}"
        );
        if admin.is_empty() {
            continue;
        }
        // As the server has said at its start; some pages of the program are used by requests only.
        let log = fs::read_to_string(&log_file).expect("it was written");
        let mib = |text: &str, before: &str| -> u32 {
            let after = text.split_once(before).expect("a size").1;
            let (mib, _) = after.split_once("MiB").expect("in MiB");
            mib.parse().expect("a number")
        };
        let (at_start, at_end) = (mib(&log, "set --constant "), mib(said, todo));
        assert!(
            (at_start..=at_start + 1).contains(&at_end),
            "{at_start} {at_end}"
        );
    }
}

#[test]
fn capacity_is_measured_for_a_rate_in_per_cent() {
    let folder = Folder::new("load-capacity");
    let figures = folder.path().join("load.json");
    let server = Server::start("oom", &BUCKETS.join(" "));
    let target = format!("http://{}", server.address());
    let flags = "--rate 20% --capacity-time 300ms --duration 1s --rounds 2 --warm-up 0 --ramp 100ms --arrivals constant";
    let ended = Launch::of("transom")
        .words([
            "load",
            "--mix",
            "GET /10 100%",
            "--target",
            &target,
            "--json",
            &text(&figures),
        ])
        .flags(flags)
        .run_within(PATIENCE);
    assert_eq!(ended.code(), 0, "{}\n{}", ended.stdout, ended.stderr());
    let load = &json(&figures)["load"];
    let capacity = load["capacity"].as_f64().expect("it was measured");
    assert!(capacity > 100.0, "{load}");
    assert!(
        (load["rate"].as_f64().expect("a rate") / capacity - 0.2).abs() < 1e-6,
        "{load}"
    );
    assert!(
        ended.stdout.contains("memory was not looked at"),
        "{}",
        ended.stdout
    );
}

/// A server that answers what `answer` says, to as many connections as come.
fn stand_in(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("it has one");
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = answer.clone();
            thread::spawn(move || serve(stream, &*answer));
        }
    });
    address
}

fn serve(mut stream: TcpStream, answer: &dyn Fn(&str) -> String) {
    let mut buffer = [0; 4096];
    // A client waits for each answer, so that a read is a request.
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        let request = String::from_utf8_lossy(&buffer[..len]).into_owned();
        let path = request.split(' ').nth(1).unwrap_or_default();
        if stream.write_all(answer(path).as_bytes()).is_err() {
            return;
        }
    }
}

fn with_status(status: u16, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn ordinary_requests_that_fail_are_told_and_are_the_exit_status() {
    let asked = AtomicUsize::new(0);
    let address = stand_in(move |_| {
        let n = asked.fetch_add(1, Ordering::Relaxed);
        with_status(if n % 10 == 9 { 500 } else { 200 }, "")
    });
    let ended = load(["--target", &format!("http://{address}")]);
    assert_eq!(ended.code(), 1, "{}\n{}", ended.stdout, ended.stderr());
    assert!(
        first_line(&ended).contains("ordinary requests failed"),
        "{}",
        ended.stdout
    );
}

#[test]
fn requests_without_a_whole_answer_are_failures_even_of_hungry_ones() {
    // More comes than the head has promised.
    let garbled = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello, and more than that";
    let address = stand_in(move |path| match path {
        "/10" => with_status(200, "ok"),
        _ => garbled.to_owned(),
    });
    let ended = load(["--target", &format!("http://{address}")]);
    assert_eq!(ended.code(), 1, "{}\n{}", ended.stdout, ended.stderr());
    assert!(
        first_line(&ended).contains("got no answer at all"),
        "{}",
        ended.stdout
    );
}

#[test]
fn metrics_say_the_bound_and_what_the_buckets_do() {
    let folder = Folder::new("load-metrics");
    let figures = folder.path().join("load.json");
    let calls = AtomicUsize::new(0);
    let admin = stand_in(move |_| {
        let calls = calls.fetch_add(1, Ordering::Relaxed);
        let body = format!(
            "transom_bound_bytes{{place=\"region\"}} 80000000\ntransom_bound_bytes{{place=\"process\"}} 10000000\n\
             transom_bound_bytes{{place=\"kernel\"}} 7000000\ntransom_buckets{{state=\"idle\"}} 6\n\
             transom_buckets{{state=\"busy\"}} 2\ntransom_arena_size_bytes 348096\n\
             transom_call_seconds_sum{{route=\"/\"}} {}\ntransom_call_seconds_count{{route=\"/\"}} {calls}\n\
             transom_process_heap_allocations_total 0\n",
            calls as f64 * 0.001
        );
        with_status(200, &body)
    });
    let server = Server::start("oom", &BUCKETS.join(" "));
    let target = format!("http://{}", server.address());
    let admin = format!("http://{admin}");
    let words = [
        "--target",
        &target,
        "--pid",
        "auto",
        "--admin",
        &admin,
        "--json",
        &text(&figures),
    ];
    let ended = load(words);
    assert_eq!(ended.code(), 0, "{}\n{}", ended.stdout, ended.stderr());
    let report = json(&figures);
    assert_eq!(report["memory"]["bound_bytes"], 90_000_000);
    assert_eq!(report["memory"]["bound_from"], "metrics");
    assert_eq!(report["server"]["arena_bytes"], 348_096);
    assert_eq!(report["looks"][0]["buckets"]["busy"], 2.0);
    let predicted = &report["unavailable"]["predicted"];
    assert_eq!(predicted["buckets"], 8, "{predicted}");
    assert!(predicted["busy"].as_f64() > Some(0.0), "{predicted}");
}

#[test]
fn what_cannot_be_run_is_told_with_its_flag() {
    let told = |words: &[&str], parts: &[&str]| {
        let ended = Launch::of("transom")
            .words(["load"])
            .words(words.iter().copied())
            .run_within(PATIENCE);
        assert_eq!(ended.code(), 2, "{words:?}: {}", ended.stderr());
        for part in parts {
            assert!(
                ended.stderr().contains(part),
                "{words:?}: {}",
                ended.stderr()
            );
        }
        assert_eq!(ended.stdout, "");
    };
    let all = "GET /10 100%";
    told(&[], &["--mix"]);
    told(&["--mix", all], &["--target"]);
    told(
        &["--mix", "GET /10 90%", "--target", "http://127.0.0.1:1"],
        &["--mix", "90.00%"],
    );
    told(
        &["--mix", "GET ten 100%", "--target", "http://127.0.0.1:1"],
        &["--mix", "\"ten\""],
    );
    told(
        &["--mix", all, "--target", "127.0.0.1:1"],
        &["--target", "http://"],
    );
    told(
        &["--mix", all, "--target", "http://127.0.0.1:1"],
        &["127.0.0.1:1", "no process accepts"],
    );
    told(
        &["--mix", all, "--", "/no/such/server"],
        &["/no/such/server"],
    );
    let says = [
        "--mix",
        all,
        "--",
        "sh",
        "-c",
        "echo out of luck >&2; exit 3",
    ];
    told(&says, &["has ended", "exit status: 3"]);
    let server = Server::start("oom", "");
    let target = format!("http://{}", server.address());
    told(
        &[
            "--mix",
            all,
            "--target",
            &target,
            "--admin",
            "http://127.0.0.1:1",
        ],
        &["--admin"],
    );
    told(
        &["--mix", all, "--target", &target, "--pid", "999999999"],
        &["999999999"],
    );
}
