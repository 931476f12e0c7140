//! `transom plan`: its exit status is a verdict, its numbers are those of a server with the flags that it
//! prints.

use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use transom_tests::doors::{before, behind};
use transom_tests::{Ended, Folder, Launch};

fn plan(flags: &str) -> Ended {
    Launch::of("transom").flags(&format!("plan {flags}")).run()
}

fn json(flags: &str) -> (i32, Value) {
    let ended = plan(&format!("--json {flags}"));
    let value = serde_json::from_str(&ended.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", ended.stdout, ended.stderr()));
    (ended.code(), value)
}

/// What `transom bound` prints for flags that a plan has printed.
fn bound(flags: &str) -> String {
    let ended = Launch::of("transom").flags(&format!("bound {flags}")).run();
    assert_eq!(ended.code(), 0, "{}", ended.stderr());
    ended.stdout
}

fn number(value: &Value, path: &str) -> f64 {
    let found = value.pointer(path).and_then(Value::as_f64);
    found.unwrap_or_else(|| panic!("no number at {path}: {value:#}"))
}

const LOAD: &str = "--loops 1 --rate 2000 --latency 10ms";

#[test]
fn the_exit_status_says_whether_the_target_is_met() {
    let small = format!("{LOAD} --bucket-size 512KiB");
    let wide = format!("{small} --memory 512MiB");
    for (flags, status, said) in [
        (wide.clone(), 0, "met"),
        (format!("{wide} --target 1%"), 0, "met"),
        (format!("{wide} --buckets 39"), 0, "met"),
        (format!("{wide} --buckets 38"), 1, "MISSED"),
        (format!("{wide} --buckets 38 --queue 16"), 0, "met"),
        (
            format!("{small} --memory 128MiB"),
            1,
            "there is not that much memory",
        ),
        (
            format!("{small} --memory 128MiB --front-connections 64"),
            0,
            "met",
        ),
        (format!("{small} --buckets 30"), 1, "MISSED"),
    ] {
        let ended = plan(&flags);
        assert_eq!(
            ended.code(),
            status,
            "{flags}: {}{}",
            ended.stdout,
            ended.stderr()
        );
        let verdict = ended
            .stdout
            .lines()
            .find(|line| line.starts_with("target "));
        assert!(
            verdict.is_some_and(|line| line.contains(said)),
            "{flags}: {}",
            ended.stdout
        );
        assert_eq!(ended.stderr(), "", "{flags}");
    }
}

#[test]
fn buckets_are_what_the_tables_of_erlang_say() {
    // 2000 requests a second that hold a bucket for 10 ms each: 20 Erlangs.
    for (target, buckets) in [("1%", 30.0), ("1e-3", 35.0), ("1e-4", 39.0)] {
        let (status, plan) = json(&format!("{LOAD} --target {target}"));
        assert_eq!(status, 0);
        assert_eq!(number(&plan, "/configuration/buckets"), buckets, "{target}");
        assert_eq!(number(&plan, "/load/erlangs"), 20.0);
        assert!(number(&plan, "/largest_rate") >= 2000.0, "{target}");
        let with = number(&plan, "/configuration/p503_with_queue");
        assert!(with <= number(&plan, "/configuration/p503_without_queue"));
    }
}

#[test]
fn a_burst_is_reported_and_not_judged() {
    let (status, plan) = json(&format!("{LOAD} --burst 3x"));
    assert_eq!(status, 0);
    assert_eq!(number(&plan, "/burst/rate"), 6000.0);
    // 60 Erlangs on 39 buckets: the excess must fail.
    let over = 1.0 - 39.0 / 60.0;
    for path in ["/burst/p503_without_queue", "/burst/p503_with_queue"] {
        let failed = number(&plan, path);
        assert!(
            failed > 0.99 * over && failed < over + 0.1,
            "{path}: {failed}"
        );
    }
    assert!(number(&plan, "/burst/absorbed_seconds") > 0.0);
}

#[test]
fn the_equation_is_that_of_a_server_with_the_flags_that_are_printed() {
    for flags in [
        "",
        "--bucket-size 1MiB --stack-size 256KiB",
        "--slots 50 --connections 333 --shared-heap 2MiB",
        "--buckets 10 --access-log json",
        "--door /run/plan.door",
    ] {
        let flags = format!("{LOAD} {flags}");
        let (_, plan) = json(&flags);
        let addends = plan["memory"]["equation"].as_array().expect("terms");
        let sum: f64 = addends.iter().map(|addend| number(addend, "/bytes")).sum();
        assert_eq!(sum, number(&plan, "/memory/bound"), "{flags}");

        let pasted = plan["flags"].as_str().expect("flags");
        let equation = bound(pasted);
        let page = self::plan(&flags).stdout;
        assert!(
            page.starts_with(&equation),
            "{flags}: {pasted}\n{page}\n{equation}"
        );
        let total = format!("= {:>14}  bytes", number(&plan, "/memory/bound"));
        assert!(equation.contains(&total), "{equation}");
    }
}

#[test]
fn the_cheapest_change_meets_the_target_when_it_is_made() {
    for flags in [
        "--memory 512MiB --buckets 38",
        "--memory 512MiB --buckets 21",
        "--memory 512MiB --buckets 200 --bucket-size 4MiB",
    ] {
        let (status, plan) = json(&format!("{LOAD} {flags}"));
        assert_eq!(status, 1, "{flags}");
        let change = &plan["cheapest"];
        let pasted = change["flags"]
            .as_str()
            .unwrap_or_else(|| panic!("none: {plan:#}"));
        let queue = change["queue"]
            .as_u64()
            .map_or(String::new(), |n| format!("--queue {n}"));
        let made = format!("--rate 2000 --latency 10ms --memory 512MiB {queue} {pasted}");
        let (status, after) = json(&made);
        assert_eq!(status, 0, "{made}: {after:#}");
        assert_eq!(number(&after, "/memory/bound"), number(change, "/bytes"));
    }
}

#[test]
fn a_plan_for_a_larger_machine_can_be_made_on_this_one() {
    let flags = "--loops 64 --rate 1000 --latency 1s --bucket-size 1GiB --memory 16TiB";
    let ended = plan(flags);
    assert_eq!(ended.code(), 0, "{}{}", ended.stdout, ended.stderr());
}

#[test]
fn what_cannot_be_computed_is_refused_by_the_name_of_its_flag() {
    let folder = Folder::new("plan-refused");
    let page = folder.path().join("page");
    std::fs::write(&page, "<html>\n").expect("it can be written");
    let html = format!("--rate 1 --from-metrics {}", page.display());
    for (flags, named) in [
        ("--latency 10ms", "--rate"),
        ("--rate 2000", "--latency"),
        ("--rate 2k --latency 10ms", "--rate"),
        ("--rate 0 --latency 10ms", "--rate"),
        ("--rate 1 --latency 10", "--latency"),
        ("--rate 1 --latency 0ms", "--latency"),
        ("--rate 1 --p99 10ms", "--latency"),
        ("--rate 1 --latency 10ms --p99 1ms", "--p99"),
        ("--rate 1 --latency 10ms --p99 10s", "--p99"),
        ("--rate 1 --latency 10ms --burst 0.5x", "--burst"),
        ("--rate 1 --latency 10ms --target 1", "--target"),
        ("--rate 1 --latency 10ms --queue -1", "-1"),
        ("--rate 1 --latency 10ms --memory 512MB", "--memory"),
        (
            "--rate 1 --latency 10ms --front-connections 0",
            "--front-connections",
        ),
        (
            "--rate 1 --latency 10ms --front-connections 9 --connections 8",
            "--front-connections",
        ),
        ("--rate 1 --latency 10ms --buckets 0", "--buckets"),
        ("--rate 1 --latency 10ms --buckets 99999", "--buckets"),
        (
            "--rate 1 --latency 10ms --buckets 9 --connections 8",
            "--connections",
        ),
        (
            "--rate 1 --latency 10ms --bucket-size 8KiB",
            "--bucket-size",
        ),
        ("--rate 1 --latency 10ms --stack-size 1", "--stack-size"),
        ("--rate 1 --from-metrics /no/such/page", "--from-metrics"),
        (
            "--rate 1 --from-metrics https://localhost/metrics",
            "--from-metrics",
        ),
        (
            "--rate 1 --from-metrics http://127.0.0.1:1/metrics",
            "--from-metrics",
        ),
        (&html, "line 1"),
    ] {
        let ended = plan(flags);
        assert_eq!(
            ended.code(),
            2,
            "{flags}: {}{}",
            ended.stdout,
            ended.stderr()
        );
        let said = ended.lines.first().map_or("", String::as_str);
        assert!(
            said.starts_with("error: ") && ended.stderr().contains(named),
            "{flags}: {}",
            ended.stderr()
        );
        assert!(
            !ended.stderr().contains("panicked"),
            "{flags}: {}",
            ended.stderr()
        );
        assert_eq!(ended.stdout, "", "{flags}");
    }
}

/// A page of metrics: 100,000 requests on one route, of which all but `large` need 10 KiB or less, and those
/// 300 KiB.
fn metrics(large: u32) -> String {
    let (all, most) = (100_000, if large > 0 { 307_200 } else { 10_000 });
    let small = all - large;
    let memory = "transom_route_memory_bytes";
    format!(
        "# TYPE {memory} histogram\n\
         transom_arena_size_bytes 348096\n\
         {memory}_bucket{{route=\"/{{kib}}\",le=\"8192\"}} 50000\n\
         {memory}_bucket{{route=\"/{{kib}}\",le=\"10240\"}} {small}\n\
         {memory}_bucket{{route=\"/{{kib}}\",le=\"294912\"}} {small}\n\
         {memory}_bucket{{route=\"/{{kib}}\",le=\"327680\"}} {all}\n\
         {memory}_bucket{{route=\"/{{kib}}\",le=\"+Inf\"}} {all}\n\
         {memory}_sum{{route=\"/{{kib}}\"}} 800000000\n\
         {memory}_count{{route=\"/{{kib}}\"}} {all}\n\
         transom_route_memory_max_bytes{{route=\"/{{kib}}\"}} {most}\n\
         transom_call_seconds_bucket{{route=\"/{{kib}}\",le=\"0.008192\"}} 40000\n\
         transom_call_seconds_bucket{{route=\"/{{kib}}\",le=\"0.011585\"}} 90000\n\
         transom_call_seconds_bucket{{route=\"/{{kib}}\",le=\"+Inf\"}} {all}\n\
         transom_call_seconds_sum{{route=\"/{{kib}}\"}} 1000\n\
         transom_call_seconds_count{{route=\"/{{kib}}\"}} {all}\n"
    )
}

#[test]
fn measurements_say_how_large_buckets_must_be() {
    let folder = Folder::new("plan-metrics");
    let page = folder.path().join("page");
    let with = |large, flags: &str| {
        std::fs::write(&page, metrics(large)).expect("it can be written");
        json(&format!(
            "--loops 1 --rate 2000 --from-metrics {} {flags}",
            page.display()
        ))
    };
    // One in 100,000 is less than half of the target, so it may fail.
    let (status, plan) = with(1, "");
    assert_eq!(status, 0, "{plan:#}");
    assert_eq!(number(&plan, "/load/service_seconds"), 0.01);
    let arena = number(&plan, "/configuration/arena_size");
    assert!((10_240.0..20_480.0).contains(&arena), "{arena}");
    assert_eq!(number(&plan, "/p500/share"), 1e-5);
    assert_eq!(number(&plan, "/p500/outgrown_at_most"), 1.0);
    // A hundred are too many: all of them must fit.
    let (status, plan) = with(100, "");
    assert_eq!(status, 0, "{plan:#}");
    assert!(number(&plan, "/configuration/arena_size") >= 307_200.0);
    assert_eq!(number(&plan, "/p500/share"), 0.0);
    // None was seen, so three in so many are possible.
    assert!((number(&plan, "/p500/at_most") - 3e-5).abs() < 1e-12);
    // A given flag stays as it is, and is judged. The proposed change is a larger bucket.
    let (status, plan) = with(100, "--bucket-size 256KiB");
    assert_eq!(status, 1, "{plan:#}");
    assert_eq!(number(&plan, "/p500/share"), 1e-3);
    assert!(plan["largest_rate"].is_null());
    assert!(number(&plan, "/cheapest/bucket_size") > 262_144.0);
    // Too few were measured to know.
    let (_, plan) = with(0, "--target 1e-6");
    let notes = plan["notes"].to_string();
    assert!(notes.contains("too few"), "{notes}");
    // A latency that is given prevails.
    let (_, plan) = with(0, "--latency 5ms");
    assert_eq!(number(&plan, "/load/service_seconds"), 0.005);
}

/// From metrics of what buckets keep, the plan derives the room that `--bucket-size` and `--keep` must leave.
#[test]
fn buckets_may_keep_what_they_were_seen_to_keep() {
    let folder = Folder::new("plan-keep");
    let page = folder.path().join("page");
    let with = |kept: &str, flags: &str| {
        std::fs::write(&page, metrics(0) + kept).expect("it can be written");
        json(&format!(
            "--loops 1 --rate 2000 --from-metrics {} {flags}",
            page.display()
        ))
    };
    let arena = |plan: &Value| number(plan, "/configuration/arena_size");
    let notes = |plan: &Value| plan["notes"].to_string();
    let kept = "transom_kept_max_bytes 716800\n";
    // An eighth more, and as much again for requests, as is the default.
    let (_, plan) = with(kept, "");
    assert!(arena(&plan) / 2.0 >= 806_400.0 && arena(&plan) < 1_800_000.0);
    assert!(!notes(&plan).contains("--keep"), "{plan:#}");
    let (_, plan) = with(kept, "--keep 900KiB");
    assert!(arena(&plan) >= 921_600.0 && arena(&plan) < 1_000_000.0);
    assert!(!notes(&plan).contains("--keep"), "{plan:#}");
    // What is given stays, and is told if it is too small.
    for flags in ["--keep 700KiB", "--bucket-size 1304KiB"] {
        let (_, plan) = with(kept, flags);
        assert!(notes(&plan).contains("give --keep 788KiB"), "{plan:#}");
    }
    let replaced = "transom_threads_replaced_total 65\n";
    let (_, plan) = with(&format!("{kept}{replaced}"), "");
    assert!(notes(&plan).contains("65 threads were ended"), "{plan:#}");
    assert!(notes(&with("", "").1).find("keep").is_none());
}

#[test]
fn a_server_with_the_flags_that_are_printed_ends_no_thread_for_what_it_keeps() {
    let leave = |flags: &str| {
        let server = Launch::of_file(env!("CARGO_BIN_EXE_hang"))
            .flags(flags)
            .start();
        assert_eq!(server.get("/open").status, 200);
        for _ in 0..6 {
            assert_eq!(server.get("/leave").text(), "left\n"); // 64 KiB each
        }
        let admin = format!("http://{}/metrics", server.admin());
        let (_, plan) = json(&format!(
            "--loops 1 --rate 10 --buckets 1 --from-metrics {admin}"
        ));
        (server.stop(), plan["flags"].as_str().map(str::to_owned))
    };
    let admin = "--admin 127.0.0.1:0";
    let (measured, flags) = leave(&format!("--buckets 1 {admin}"));
    assert_eq!(measured.figure("threads_replaced"), 0);
    let (again, _) = leave(&format!("{} {admin}", flags.expect("flags")));
    assert_eq!(again.figure("threads_replaced"), 0);
}

#[test]
fn a_program_that_is_larger_than_its_sum_gets_the_constant_that_it_needs() {
    let folder = Folder::new("plan-constant");
    let page = folder.path().join("page");
    let with = |outside_mib: u32, constant_mib: u32, flags: &str| {
        let mib = |n: u32| n << 20;
        let of_process = format!(
            "transom_resident_outside_region_bytes {}\n\
             transom_bound_bytes{{place=\"region\"}} {}\n\
             transom_bound_bytes{{place=\"process\"}} {}\n\
             transom_bound_bytes{{place=\"kernel\"}} {}\n\
             transom_bound_term_bytes{{term=\"constant\",place=\"process\"}} {}\n",
            mib(outside_mib),
            mib(60),
            mib(40),
            mib(200),
            mib(constant_mib)
        );
        std::fs::write(&page, metrics(0) + &of_process).expect("it can be written");
        let (_, plan) = json(&format!(
            "--loops 1 --rate 2000 --from-metrics {} {flags}",
            page.display()
        ));
        let addends = plan["memory"]["equation"].as_array().expect("terms");
        let constant = addends.iter().find(|addend| addend["term"] == "constant");
        let counted = number(constant.expect("a constant"), "/bytes") as u64 >> 20;
        let flags = plan["flags"].as_str().expect("flags").to_owned();
        (counted, flags, plan["notes"].to_string())
    };
    // 14 MiB more than the sum, and one to spare.
    let (counted, flags, notes) = with(54, 6, "");
    assert_eq!(counted, 21);
    assert!(flags.contains("--constant 21MiB"), "{flags}");
    assert!(notes.contains("needs --constant 21MiB: so does"), "{notes}");
    // It was given to the server.
    let (counted, flags, notes) = with(30, 36, "");
    assert_eq!(counted, 36);
    assert!(flags.contains("--constant 36MiB"), "{flags}");
    assert!(notes.contains("has --constant 36MiB: so does"), "{notes}");
    // What is given stays, and is told if it is too small.
    let (counted, flags, notes) = with(54, 6, "--constant 8MiB");
    assert_eq!(counted, 8);
    assert!(flags.contains("--constant 8MiB"), "{flags}");
    assert!(
        notes.contains("needs --constant 21MiB: give that"),
        "{notes}"
    );
    // The default is enough.
    let (counted, flags, notes) = with(30, 6, "");
    assert_eq!(counted, 6);
    assert!(
        !flags.contains("--constant") && !notes.contains("--constant"),
        "{flags} {notes}"
    );
}

#[test]
fn measurements_of_an_application_behind_a_door_are_for_one_behind_a_door() {
    let folder = Folder::new("plan-door");
    let door = folder.path().join("hello.door");
    let application = behind(&door, "hello", "--admin 127.0.0.1:0");
    let front = before(&door, "");
    assert_eq!(front.get("/").status, 200);
    let admin = application.admin();
    let from = format!("--loops 1 --rate 10 --from-metrics http://{admin}/metrics");
    let ended = plan(&from);
    assert_eq!(ended.code(), 2, "{}", ended.stdout);
    let said = ended.stderr();
    assert!(
        said.contains("behind a door") && said.contains("give --door PATH"),
        "{said}"
    );
    let has_sockets = |flags: &str| {
        let ended = plan(&format!("{from} {flags}"));
        assert_eq!(ended.code(), 0, "{flags}: {}", ended.stderr());
        ended.stdout.contains("  socket buffers ")
    };
    assert!(!has_sockets("--door /run/hello.door"));
    assert!(has_sockets("--listen 127.0.0.1:8080"));
}

#[test]
fn measurements_come_from_an_address_too() {
    let answer = |stream: &mut dyn ReadWrite| {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).expect("a request") == 1 {
            head.push(byte[0]);
        }
        let page = metrics(0);
        let length = page.len();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{page}"
        )
        .expect("it is read");
        String::from_utf8_lossy(&head).into_owned()
    };

    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("http://{}/metrics", listener.local_addr().expect("bound"));
    let server = std::thread::spawn(move || answer(&mut listener.accept().expect("a client").0));
    let (status, plan) = json(&format!("--loops 1 --rate 2000 --from-metrics {url}"));
    assert_eq!((status, number(&plan, "/load/erlangs")), (0, 20.0));
    let head = server.join().expect("it answered");
    assert!(head.starts_with("GET /metrics HTTP/1."), "{head}");

    let folder = Folder::new("plan-unix");
    let socket = folder.path().join("admin.sock");
    let listener = UnixListener::bind(&socket).expect("the folder is ours");
    let server = std::thread::spawn(move || answer(&mut listener.accept().expect("a client").0));
    let from = format!("unix:{}", socket.display());
    let (status, plan) = json(&format!("--loops 1 --rate 2000 --from-metrics {from}"));
    assert_eq!((status, number(&plan, "/load/erlangs")), (0, 20.0));
    server.join().expect("it answered");
}

trait ReadWrite: Read + Write {}

impl<T: Read + Write> ReadWrite for T {}
