//! What cannot be served is refused at the start, in a sentence that names the flag.

use std::net::TcpListener;
use transom_tests::{Ended, Launch, Server};

fn run(app: &str, flags: &str) -> Ended {
    Launch::of(app).flags(flags).run()
}

#[test]
fn a_setting_that_cannot_hold_is_refused_by_the_name_of_its_flag() {
    for (flags, named) in [
        ("--buckets many", "--buckets"),
        ("--buckets -1", "-1"),
        ("--buckets 0", "--buckets"),
        ("--buckets 4294967295", "--buckets"),
        ("--buckets 99999999999", "--buckets"),
        ("--bucket-size 64KB", "--bucket-size"),
        ("--bucket-size 8KiB", "--bucket-size"),
        ("--bucket-size 500001", "--bucket-size"),
        ("--bucket-size 100GiB", "--bucket-size"),
        ("--bucket-size 18446744073709551615", "--bucket-size"),
        ("--bucket-size 18446744073709551616", "--bucket-size"),
        ("--bucket-size 99999999999GiB", "--bucket-size"),
        ("--stack-size 3MiB", "--stack-size"),
        ("--stack-size 1", "--stack-size"),
        ("--slots 0", "--slots"),
        ("--slots 5000", "--slots"),
        ("--request-size 8KiB", "--request-size"),
        ("--reply-size 16", "--reply-size"),
        ("--head-limit 100", "--head-limit"),
        ("--head-limit 5000", "--head-limit"),
        ("--shared-heap 1KiB", "--shared-heap"),
        ("--partial-heads 0", "--partial-heads"),
        ("--partial-heads 70000", "--partial-heads"),
        ("--receive-buffer 1", "--receive-buffer"),
        ("--send-buffer 2GiB", "--send-buffer"),
        ("--loops 0", "--loops"),
        ("--connections 0", "--connections"),
        ("--connections 99999999", "--connections"),
        ("--backlog 0", "--backlog"),
        ("--requests-per-connection 0", "--requests-per-connection"),
        ("--lost-limit 0", "--lost-limit"),
        ("--buckets 8 --lost-limit 9", "--lost-limit"),
        ("--parked-limit 0", "--parked-limit"),
        ("--lost-limit 4 --parked-limit 4", "--parked-limit"),
        ("--recycle never", "--recycle"),
        ("--queue-timeout 5", "--queue-timeout"),
        ("--deadline never", "--deadline"),
        ("--header-timeout 1d", "--header-timeout"),
        ("--body-timeout -1s", "-1"),
        ("--drain-timeout 99999999999999999999s", "--drain-timeout"),
        ("--wipe clean", "--wipe"),
        ("--on-exhaustion ignore", "--on-exhaustion"),
        ("--log pretty", "--log"),
        ("--log-level loud", "--log-level"),
        ("--log-level=", "--log-level"),
        ("--log-level 3", "--log-level"),
        ("--log-level INFO", "--log-level"),
        ("--listen [::ffff:127.0.0.1]:80", "write 127.0.0.1:80"),
        ("--listen [fe80::1]:80", "the number of its interface"),
        (
            "--listen 127.0.0.1:80 --listen 127.0.0.1:80",
            "--listen 127.0.0.1:80",
        ),
        ("--listen unix:/a,unix:/a", "--listen unix:/a"),
        ("--admin-host a.example", "--admin-host needs --admin"),
        ("--ipv6-only", "--ipv6-only needs"),
        ("--ipv6-only --listen 127.0.0.1:80", "--ipv6-only needs"),
        ("--log-queue 0", "--log-queue"),
        ("--access-log pretty", "--access-log"),
        ("--access-log-file /tmp/a", "--access-log-file"),
        (
            "--access-log json --access-log-queue 0",
            "--access-log-queue",
        ),
        ("--overdraft 4KiB", "--overdraft"),
        ("--overdraft 1000001B", "--overdraft"),
        ("--overdraft-per-request 17MiB", "--overdraft-per-request"),
        ("--overdraft-per-request 0B", "--overdraft-per-request"),
        (
            "--overdraft 0B --overdraft-per-request 1MiB",
            "--overdraft-per-request",
        ),
        ("--c-heap 0B", "--c-heap"),
        (
            "--c-heap 1MiB --c-heap-per-request 2MiB",
            "--c-heap-per-request",
        ),
        ("--c-heap-per-request 0B", "--c-heap-per-request"),
        ("--keep 1GiB", "--keep"),
        ("--keep-timeout 5", "--keep-timeout"),
        ("--listen localhost", "--listen"),
        ("--listen 127.0.0.1", "--listen"),
        ("--listen 192.0.2.1:8080", "--listen"),
        ("--no-such-flag", "--no-such-flag"),
        ("argument", "argument"),
    ] {
        // The machine's addresses are not a matter of one flag: a start fails only once it listens.
        let check = if flags.contains("192.0.2.1") {
            ""
        } else {
            "--check"
        };
        let ended = run("hello", &format!("{check} {flags}"));
        // The flags are not at fault if the machine lacks something.
        let wants_much = ["192.0.2.1", "connections 99999999"];
        let status = 2 - i32::from(wants_much.iter().any(|much| flags.contains(much)));
        assert_eq!(ended.code(), status, "{flags}: {}", ended.stderr());
        let said = ended.lines.first().map_or("", String::as_str);
        assert!(
            said.starts_with("error: ") && said.contains(named),
            "{flags}: {said:?}"
        );
        assert!(
            !ended.stderr().contains("panicked"),
            "{flags}: {}",
            ended.stderr()
        );
        assert_eq!(ended.stdout, "", "{flags}");
    }
}

#[test]
fn a_port_in_use_is_said_at_once() {
    let other = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = other.local_addr().expect("it is bound");
    let ended = run("hello", &format!("--listen {address}"));
    assert_eq!(ended.code(), 1);
    let sentence = format!("--listen {address}");
    assert!(
        ended.stderr().contains(&sentence) && ended.stderr().contains("another process"),
        "{}",
        ended.stderr()
    );
    // Two servers would share it unnoticed.
    let server = Server::start("hello", "--buckets 4");
    assert_eq!(
        run("hello", &format!("--listen {}", server.address())).code(),
        1
    );
}

#[test]
fn escaping_needs_the_promise_of_the_author() {
    let ended = run("counter", "--check --on-exhaustion escape");
    assert!(
        ended.code() == 2 && ended.stderr().contains("--on-exhaustion escape"),
        "{}",
        ended.stderr()
    );
    assert_eq!(
        run("send-static-file", "--check --on-exhaustion park").code(),
        0
    );
    assert_eq!(run("oom", "--check --on-exhaustion escape").code(), 0);
}

/// One line of the equation: its bytes, its count and its unit.
fn addend(line: &str) -> Option<(u64, u64, u64)> {
    let (left, right) = line.split_once(" × ")?;
    let count = left.split_whitespace().last()?.parse().ok()?;
    let bytes = left
        .trim_start_matches('+')
        .split_whitespace()
        .next()?
        .parse()
        .ok()?;
    let unit = right.split_whitespace().next()?;
    let digits = unit
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(unit.len());
    let factor = match &unit[digits..] {
        "B" | "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    Some((bytes, count, unit[..digits].parse::<u64>().ok()? * factor))
}

/// What `--check` prints: the equation, and after an empty line how the process is replaced when buckets are
/// lost.
fn equation_of(check: &Ended) -> &str {
    let (equation, rest) = check.stdout.split_once("\n\n").expect("two paragraphs");
    assert!(rest.starts_with("recycle "), "{rest}");
    equation
}

fn assert_adds_up(equation: &str) {
    let addends: Vec<_> = equation.lines().filter_map(addend).collect();
    let sum_line = equation.lines().last().unwrap_or_default();
    assert!(
        addends.len() >= 7 && addends.len() == equation.lines().count() - 1,
        "{equation}"
    );
    for (bytes, count, unit) in &addends {
        assert_eq!(
            bytes.next_multiple_of(4096),
            (count * unit).next_multiple_of(4096),
            "{equation}"
        );
    }
    let numbers: Vec<u64> = sum_line
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let [total, region, process, kernel] = numbers[..] else {
        panic!("four numbers in {sum_line:?}");
    };
    assert_eq!(
        addends.iter().map(|(bytes, ..)| bytes).sum::<u64>(),
        total,
        "{equation}"
    );
    assert_eq!(region + process + kernel, total, "{equation}");
}

#[test]
fn the_equation_adds_up_whatever_the_settings() {
    for flags in [
        "",
        "--buckets 8 --bucket-size 512KiB",
        "--buckets 1 --loops 1 --slots 1 --connections 1 --partial-heads 1",
        "--buckets 100 --bucket-size 1MiB --loops 7 --connections 1001 --log-queue 77",
        "--request-size 1MiB --reply-size 100KiB --head-limit 32KiB --shared-heap 3MiB",
    ] {
        let ended = run("oom", &format!("--check {flags}"));
        assert_eq!(ended.code(), 0, "{}", ended.stderr());
        assert_adds_up(equation_of(&ended));
        let bound = run("transom", &format!("bound {flags}"));
        assert_eq!(
            (bound.code(), bound.stdout.trim_end()),
            (0, equation_of(&ended)),
            "`transom bound` says the same"
        );
    }
}

#[test]
fn the_equation_of_a_door_adds_up_and_has_no_front_end() {
    for flags in [
        "",
        "--buckets 1 --slots 1 --door-channels 1",
        "--buckets 100 --request-size 8KiB --reply-size 100KiB --door-channels 33 --door-channels-per-user 3",
    ] {
        let ended = run("oom", &format!("--check --door /run/oom.door {flags}"));
        assert_eq!(ended.code(), 0, "{}", ended.stderr());
        let equation = equation_of(&ended);
        assert_adds_up(equation);
        assert!(equation.contains("snapshots"), "{equation}");
        assert!(!equation.contains("loop"), "{equation}");
        let bound = run("transom", &format!("bound --door /run/oom.door {flags}"));
        assert_eq!((bound.code(), bound.stdout.trim_end()), (0, equation));
    }
}

#[test]
fn a_setting_of_a_door_that_cannot_hold_is_refused_by_the_name_of_its_flag() {
    for (flags, named) in [
        ("--door /d --door-mode 888", "--door-mode"),
        ("--door /d --door-owner no-such-user", "--door-owner"),
        ("--door /d --door-group no-such-group", "--door-group"),
        ("--door /d --door-wait 5", "--door-wait"),
        ("--door /d --door-channels 0", "--door-channels"),
        ("--door /d --door-channels 4294967295", "--door-channels"),
        (
            "--door /d --door-channels-per-user 17",
            "--door-channels-per-user",
        ),
        ("--door /d --handover-timeout 0", "--handover-timeout"),
        ("--door /d --listen 127.0.0.1:0", "--listen"),
        ("--door-mode 0660", "--door <PATH>"),
        ("--listen 127.0.0.1:0 --door-mode 0660", "--door-mode"),
        ("--listen 127.0.0.1:0 --door-wait 1s", "--door-wait"),
        ("--listen 127.0.0.1:0 --door-owner root", "--door-owner"),
        ("--listen 127.0.0.1:0 --door-group root", "--door-group"),
        ("--listen 127.0.0.1:0 --door-channels 5", "--door-channels"),
    ] {
        let ended = run("hello", &format!("--check {flags}"));
        let status = 2 - i32::from(flags.contains("4294967295"));
        assert!(
            ended.code() == status && ended.stderr().starts_with("error: "),
            "{flags}: {}",
            ended.stderr()
        );
        assert!(
            ended.stderr().contains(named),
            "{flags}: {}",
            ended.stderr()
        );
    }
}

#[test]
fn a_door_whose_name_is_too_long_is_refused_with_the_limit() {
    let long = format!("/run/{}.door", "a".repeat(200));
    let ended = run("hello", &format!("--door {long}"));
    let said = ended.stderr();
    assert_eq!(ended.code(), 2, "{said}");
    assert!(said.contains("--door") && said.contains("76"), "{said}");
    let forward = format!("serve --forward http://127.0.0.1:0={long}");
    let ended = run("transom", &forward);
    let said = ended.stderr();
    assert_eq!(ended.code(), 2, "{said}");
    assert!(said.contains("--forward") && said.contains("76"), "{said}");
}

#[test]
fn the_process_stays_below_its_bound() {
    let server = Server::start("oom", "--buckets 32 --bucket-size 1MiB");
    let line = server.line_with(" bound=");
    let figure = |name: &str| {
        let value = line
            .split(' ')
            .find_map(|field| field.strip_prefix(name))
            .and_then(|value| value.parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in {line}"))
    };
    let (region, process): (u64, u64) = (figure("region="), figure("process="));
    for path in ["/900", "/1000000", "/recurse/1000000", "/panic"] {
        let _ = server.get(path);
    }
    let sample = server.sample();
    assert!(
        sample.high_water <= region + process,
        "{} of {}",
        sample.high_water,
        region + process
    );
    assert!(
        sample.rss >= region,
        "the region is there from the start: {} of {region}",
        sample.rss
    );
}

#[test]
fn every_flag_is_also_an_environment_variable_and_the_flag_prevails() {
    let buckets = |launch: Launch| {
        let ended = launch.run();
        assert_eq!(ended.code(), 0, "{}", ended.stderr());
        ended
            .stdout
            .lines()
            .find(|line| line.contains("buckets"))
            .and_then(addend)
            .map(|(_, count, _)| count)
    };
    assert_eq!(
        buckets(
            Launch::of("hello")
                .env("TRANSOM_BUCKETS", "9")
                .flags("--check")
        ),
        Some(9)
    );
    assert_eq!(
        buckets(
            Launch::of("hello")
                .env("TRANSOM_BUCKETS", "9")
                .flags("--check --buckets 7")
        ),
        Some(7)
    );
    let wrong = Launch::of("hello")
        .env("TRANSOM_BUCKETS", "x")
        .flags("--check")
        .run();
    assert!(
        wrong.code() == 2 && wrong.stderr().contains("--buckets"),
        "{}",
        wrong.stderr()
    );
    let server = Launch::of("hello")
        .env("TRANSOM_LISTEN", "127.0.0.1:0")
        .env("TRANSOM_LOG", "json")
        .start();
    assert_eq!(server.get("/").status, 200);
    assert!(
        server.lines().iter().all(|line| line.starts_with('{')),
        "{:?}",
        server.lines()
    );
}

#[test]
fn help_and_version_are_no_errors() {
    for app in ["hello", "transom"] {
        let help = run(app, "--help");
        assert!(
            help.code() == 0 && help.stdout.contains("Usage:"),
            "{}",
            help.stderr()
        );
    }
    assert!(run("hello", "--help").stdout.contains("--bucket-size"));
    let version = run("transom", "--version");
    assert!(
        version.code() == 0 && version.stdout.starts_with("transom "),
        "{}",
        version.stdout
    );
}

#[test]
fn the_least_number_is_said_of_a_count_of_nothing() {
    for flag in ["--connections", "--slots", "--lost-limit", "--log-queue"] {
        let ended = run("hello", &format!("{flag} 0"));
        let sentence = ended.lines.first().map_or("", String::as_str);
        assert!(
            ended.code() == 2 && sentence.contains(flag) && sentence.ends_with("the least is 1"),
            "{sentence}"
        );
    }
}

#[test]
fn what_the_kernel_does_not_grant_is_told_with_the_flag_and_its_limit() {
    let limit = |name: &str| {
        let file = format!("/proc/sys/net/core/{name}");
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.trim().parse::<u64>().unwrap_or(u64::MAX)
    };
    let mut asked = Vec::new();
    for (flag, name, most) in [
        ("--receive-buffer", "rmem_max", 1 << 30),
        ("--send-buffer", "wmem_max", 1 << 30),
        ("--backlog", "somaxconn", 65_535),
    ] {
        if limit(name) >= most {
            println!("skipped: net.core.{name} is no limit here");
        } else {
            asked.push((flag, name, limit(name) + 1));
        }
    }
    let flags = asked
        .iter()
        .map(|(flag, _, value)| format!("{flag} {value}"));
    let flags = flags.collect::<Vec<_>>().join(" ");
    let server = Server::start("hello", &format!("--connections 4 {flags}"));
    for (flag, name, value) in &asked {
        let said = server.line_with(&format!("than {flag} asks for: raise net.core.{name}"));
        let part = format!(" wanted={value} granted={} ", value - 1);
        assert!(
            said.contains(" WARN ") && format!("{said} ").contains(&part),
            "{said}"
        );
    }
    assert!(
        !Server::start("hello", "")
            .lines()
            .iter()
            .any(|line| line.contains("the kernel grants less")),
        "the defaults are granted"
    );
}

#[test]
fn several_addresses_are_all_served() {
    let server = Server::start("hello", "--buckets 4 --listen 127.0.0.1:0 --listen [::1]:0");
    assert_eq!(server.get("/").status, 200);
    assert_eq!(server.stop().code(), 0);
}

#[test]
fn a_value_of_the_environment_is_named_as_that() {
    for (app, flags, name, value) in [
        ("hello", "", "TRANSOM_BUCKETS", ""),
        ("hello", "", "TRANSOM_BUCKETS", "many"),
        ("hello", "", "TRANSOM_BUCKET_SIZE", "64KB"),
        ("hello", "", "TRANSOM_LISTEN", "localhost"),
        ("hello", "", "TRANSOM_LOG_LEVEL", ""),
        ("send-static-file", "--root .", "TRANSOM_LOG", "pretty"),
        ("transom", "serve", "TRANSOM_QUEUE_TIMEOUT", "5"),
        ("transom", "bound", "TRANSOM_CONNECTIONS", "0"),
    ] {
        let ended = Launch::of(app).flags(flags).env(name, value).run();
        let said = ended.stderr();
        assert_eq!(ended.code(), 2, "{name}: {said}");
        assert!(
            said.contains(&format!("environment: {name}={value:?}")),
            "{said}"
        );
    }
    let no_text = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff");
    let no_text: &std::ffi::OsStr = no_text;
    // A path may be any bytes.
    let launch = Launch::of("hello").env("TRANSOM_DOOR", no_text);
    let ended = launch.env("TRANSOM_BUCKETS", no_text).run();
    assert_eq!(ended.code(), 2);
    assert!(
        ended
            .stderr()
            .contains("--buckets is set by the environment: TRANSOM_BUCKETS=\"\\xFF\""),
        "{}",
        ended.stderr()
    );
    // The environment is not at fault for an error of the command line.
    let ended = Launch::of("hello")
        .flags("--buckets many")
        .env("TRANSOM_BUCKETS", "4")
        .run();
    assert_eq!(ended.code(), 2);
    assert!(
        !ended.stderr().contains("environment:"),
        "{}",
        ended.stderr()
    );
}

#[test]
fn every_program_says_its_version() {
    for (app, part) in [("hello", "hello on Transom "), ("transom", "transom ")] {
        let ended = Launch::of(app).flags("--version").run();
        assert_eq!(ended.code(), 0, "{}", ended.stderr());
        assert!(ended.stdout.contains(part), "{}", ended.stdout);
        assert!(
            ended.stdout.contains(env!("CARGO_PKG_VERSION")),
            "{}",
            ended.stdout
        );
    }
}
