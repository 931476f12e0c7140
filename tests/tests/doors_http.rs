//! An application behind a door, with the front end in another process: the same answers as in one process,
//! and what becomes of requests when the application is replaced, killed or away.

use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use transom_tests::doors::{Crowd, Folder, before, behind, kill_again_and_again};
use transom_tests::other_user::OtherUser;
use transom_tests::{Launch, Sample, Server, eventually, raw};

fn seed() -> u64 {
    let seed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(1, |time| time.as_nanos() as u64);
    println!("seed {seed}");
    seed
}

#[test]
fn what_outgrows_its_bucket_looks_the_same_through_a_door() {
    let folder = Folder::new("same");
    let door = folder.path("oom.door");
    let flags = "--buckets 4 --bucket-size 512KiB";
    let application = behind(&door, "oom", flags);
    let front = before(&door, "--loops 1");
    let alone = Server::start("oom", &format!("--loops 1 {flags}"));
    for path in [
        "/10",
        "/100000",
        "/recurse/1000000",
        "/panic",
        "/10",
        "/nowhere",
    ] {
        let (there, here) = (front.get(path), alone.get(path));
        assert_eq!(there.status, here.status, "{path}");
        for name in ["transom-diagnostic", "content-length", "content-type"] {
            assert_eq!(there.field(name), here.field(name), "{path}: {name}");
        }
        assert_eq!(there.body, here.body, "{path}");
    }
    let _ = application.line_with("a request outgrew its bucket");
    let _ = application.line_with("a handler panicked");
    let (ended, alone) = (application.stop(), alone.stop());
    for figure in ["exhausted_arena", "exhausted_stack", "panicked", "parked"] {
        assert_eq!(ended.figure(figure), alone.figure(figure), "{figure}");
    }
    assert_eq!((ended.code(), front.stop().code()), (0, 0));
}

#[test]
fn bodies_larger_than_a_slot_stream_through_a_door_both_ways() {
    let folder = Folder::new("bodies");
    let door = folder.path("echo.door");
    let _application = behind(
        &door,
        "echo",
        "--buckets 2 --request-size 40KiB --reply-size 8KiB",
    );
    let front = before(&door, "--loops 1");
    for len in [0, 1, 5000, 40 << 10, 300_000, 3_000_000] {
        let body: Vec<u8> = (0..len).map(|n: usize| (n * 7 % 251) as u8).collect();
        let answer = front.post("/stream", &body);
        assert_eq!(answer.status, 200, "{len} bytes");
        assert!(answer.body == body, "{len} bytes come back as they were");
    }
}

#[test]
fn a_deadline_and_a_full_door_are_told_as_in_one_process() {
    let folder = Folder::new("late");
    let door = folder.path("oom.door");
    let _application = behind(&door, "oom", "--buckets 2 --slots 16");
    let front = before(&door, "--loops 1 --deadline 300ms --queue-timeout 100ms");
    assert_eq!(front.get("/sleep/60000").status, 504);
    // The handler that was given up sleeps on; with another one both buckets are taken.
    assert_eq!(front.get("/sleep/60000").status, 504);
    let refused = front.get("/10");
    assert_eq!(refused.status, 503);
    assert!(refused.field("retry-after").is_some());
}

#[test]
fn a_door_that_is_away_keeps_requests_waiting_then_refuses_them_and_is_found_again() {
    let folder = Folder::new("away");
    let door = folder.path("hello.door");
    let front = before(&door, "--loops 1 --queue-timeout 200ms");
    assert_eq!(front.get("/hello/x").status, 503);
    let _ = front.line_with("a door is away");
    let patient = before(&door, "--loops 1 --queue-timeout 60s");
    let waiting = {
        let address = patient.address();
        std::thread::spawn(move || {
            transom_tests::Client::connect(address)
                .get("/hello/x")
                .status
        })
    };
    let first = behind(&door, "hello", "");
    assert_eq!(waiting.join().expect("it has an answer"), 200);
    let _ = patient.line_with("a door is there again");
    assert_eq!(first.stop().code(), 0);
    assert!(!door.exists(), "a server that ends removes its path");
    let _second = behind(&door, "hello", "");
    assert_eq!(patient.get("/hello/x").status, 200);
}

#[test]
fn a_second_owner_is_told_that_the_door_is_taken() {
    let folder = Folder::new("taken");
    let door = folder.path("hello.door");
    let first = behind(&door, "hello", "");
    let flags = format!("--door {}", door.display());
    let second = Launch::of("hello").flags(&flags).run();
    assert_eq!(second.code(), 1);
    let said = second.stderr();
    let owner = first.pid().to_string();
    assert!(said.contains("is taken") && said.contains(&owner), "{said}");
}

#[test]
fn instances_that_take_turns_fail_no_request() {
    let folder = Folder::new("turns");
    let door = folder.path("hello.door");
    let flags = "--buckets 8 --door-wait 20s";
    let mut application = behind(&door, "hello", flags);
    let front = before(&door, "--loops 2 --queue-timeout 20s");
    let crowd = Crowd::start(front.address(), "/hello/you", 16);
    for _ in 0..50 {
        crowd.wait_for(100);
        application.signal(libc::SIGTERM);
        // The new one waits for the path, which the old one leaves before it has ended.
        let next = behind(&door, "hello", flags);
        assert_eq!(application.wait().code(), 0);
        application = next;
    }
    crowd.wait_for(100);
    let tally = crowd.end();
    let answers: Vec<u16> = tally.keys().copied().collect();
    assert_eq!(answers, [200], "{tally:?}");
}

/// The only thread keeps too much and ends after each request: when the door is revoked, a call may wait for
/// the next thread.
#[test]
fn instances_that_take_turns_while_their_threads_are_replaced_fail_no_request() {
    let folder = Folder::new("turns-of-threads");
    let door = folder.path("promise.door");
    let flags = format!(
        "--door {} --buckets 1 --keep 4KiB --door-wait 20s",
        door.display()
    );
    let start = || {
        let launch = Launch::of_file(env!("CARGO_BIN_EXE_promise")).flags(&flags);
        launch.start()
    };
    let mut application = start();
    let front = before(&door, "--loops 1 --queue-timeout 5s");
    let crowd = Crowd::start(front.address(), "/local/1", 8);
    for _ in 0..10 {
        crowd.wait_for(30);
        application.signal(libc::SIGTERM);
        let next = start();
        assert_eq!(application.wait().code(), 0);
        application = next;
    }
    crowd.wait_for(30);
    let tally = crowd.end();
    let answers: Vec<u16> = tally.keys().copied().collect();
    assert_eq!(answers, [200], "{tally:?}");
}

#[test]
fn an_application_that_is_killed_fails_only_what_it_had_begun() {
    let kills = kill_again_and_again("hello", "/hello/you", 100, seed());
    let answers: Vec<u16> = kills.tally.keys().copied().collect();
    assert!(
        answers.iter().all(|status| [200, 502].contains(status)),
        "{:?}",
        kills.tally
    );
    // At most the requests that can be with a handler: one for each bucket.
    let begun = kills.tally.get(&502).copied().unwrap_or(0);
    assert!(begun <= 100 * 8, "{:?}", kills.tally);
    assert_eq!(kills.back.len(), 100);
    // A welcome that was never read is closed by a thread of its own, whose stack and guard the C library
    // keeps for the next one.
    const CLOSER: usize = 2;
    assert!(
        kills.descriptors.1 <= kills.descriptors.0
            && kills.mappings.1 <= kills.mappings.0 + CLOSER
            && kills.threads.1 <= kills.threads.0,
        "something leaks: {kills:?}"
    );
}

#[test]
fn an_application_that_hangs_holds_up_nobody_else() {
    let folder = Folder::new("hangs");
    let (stuck, fine) = (folder.path("stuck.door"), folder.path("fine.door"));
    let first = behind(&stuck, "hello", "");
    let _second = behind(&fine, "hello", "");
    let flags = format!(
        "serve --loops 1 --queue-timeout 300ms --deadline 1s --forward http://127.0.0.1:0/={} --forward http://127.0.0.1:0/stuck={}",
        fine.display(),
        stuck.display()
    );
    let front = Launch::of("transom").flags(&flags).start();
    first.signal(libc::SIGSTOP);
    let asked: Vec<_> = (0..20)
        .map(|_| {
            let address = front.address();
            std::thread::spawn(move || {
                transom_tests::Client::connect(address)
                    .get("/stuck/x")
                    .status
            })
        })
        .collect();
    for _ in 0..200 {
        assert_eq!(front.get("/hello/x").status, 200);
    }
    for status in asked {
        let status = status.join().expect("an answer");
        assert!([503, 504].contains(&status), "{status}");
    }
    first.signal(libc::SIGCONT);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while front.get("/stuck/x").status >= 500 {
        assert!(std::time::Instant::now() < deadline);
    }
}

#[test]
fn calls_that_no_thread_takes_cost_next_to_nothing() {
    let folder = Folder::new("unclaimed");
    let door = folder.path("hang.door");
    let application = Launch::of_file(env!("CARGO_BIN_EXE_hang"))
        .flags(&format!("--door {} --buckets 2", door.display()))
        .start();
    let front = before(&door, "--loops 1 --queue-timeout 20s --deadline 20s");
    assert_eq!(front.get("/").status, 200);
    let ask = |path: &'static str| {
        let mut client = front.connect();
        client.send(transom_tests::client::get(path));
        client
    };
    let held = ["/gate"; 2].map(ask);
    std::thread::sleep(Duration::from_millis(500));
    let waiting = ["/"; 8].map(ask);
    std::thread::sleep(Duration::from_millis(500));
    let pids = [front.pid(), application.pid()];
    let sleeps = || pids.map(Sample::sleeps);
    let before = sleeps();
    std::thread::sleep(Duration::from_secs(1));
    let now = sleeps();
    // Both sides look 250 times a second, and other threads of theirs a few times.
    let often = [now[0] - before[0], now[1] - before[1]];
    assert!(
        often.iter().all(|&often| often < 600),
        "{often:?} in a second"
    );
    drop((held, waiting));
}

#[test]
fn a_door_that_is_opened_again_takes_nothing_from_the_process_heap_but_to_open_it() {
    let folder = Folder::new("opened-again");
    let door = folder.path("hello.door");
    let mut application = behind(&door, "hello", "");
    let front = before(&door, "--loops 2 --queue-timeout 20s");
    for _ in 0..3 {
        assert_eq!(front.get("/hello/x").status, 200);
        assert_eq!(application.stop().code(), 0);
        application = behind(&door, "hello", "");
        assert_eq!(front.get("/hello/x").status, 200);
        application.signal(libc::SIGKILL);
        application = behind(&door, "hello", "--door-wait 20s");
    }
    assert_eq!(front.get("/hello/x").status, 200);
    let ended = front.stop();
    let first = ended
        .lines
        .iter()
        .find(|line| line.contains("memory was allocated outside the region"));
    assert_eq!(first, None);
    assert_eq!(ended.figure("process_heap_allocations"), 0);
    assert!(ended.figure("attaching_allocations") > 0);
}

/// The thread that closes them starts while the process serves.
#[test]
fn descriptors_that_a_client_should_not_have_sent_take_nothing_from_the_process_heap() {
    let folder = Folder::new("unwanted");
    let door = folder.path("hello.door");
    let application = behind(&door, "hello", "");
    let descriptors = || Sample::of(application.pid()).descriptors;
    let before = descriptors();
    let unwanted = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    for _ in 0..8 {
        let half = raw::Half::open(&door, 1, 0).expect("it is welcome");
        half.wire
            .send(&raw::message(raw::CHANNEL, &[]), &[unwanted.as_raw_fd(); 4])
            .expect("it is heard");
        let _ = half.wire.receive(); // its refusal
    }
    assert!(eventually(|| descriptors() <= before), "they stay open");
    let ended = application.stop();
    assert_eq!(ended.figure("process_heap_allocations"), 0);
}

#[test]
fn a_door_that_another_user_serves_gets_no_request() {
    let folder = Folder::new("owner");
    let door = folder.path("hello.door");
    // SAFETY: no preconditions.
    let us = unsafe { libc::geteuid() };
    let application = behind(&door, "hello", "");
    let config = folder.path("config.toml");
    let write = |owner: u32| {
        let text = format!(
            "[[forward]]\nlisten = \"http://127.0.0.1:0\"\ndoor = {door:?}\nowner = \"{owner}\"\n"
        );
        std::fs::write(&config, text).expect("a file");
        let flags = format!(
            "serve --config {} --loops 1 --queue-timeout 200ms",
            config.display()
        );
        Launch::of("transom").flags(&flags).start()
    };
    let refusing = [
        before(
            &door,
            &format!("--loops 1 --queue-timeout 200ms --door-owner {}", us + 1),
        ),
        write(us + 1),
    ];
    let check = || {
        let check = format!("check {}", config.display());
        Launch::of("transom").flags(&check).run().stdout
    };
    let pid = application.pid();
    let said = check();
    let refused = format!(
        "refuses it: process {pid} of user {us} serves it, and only user {} may",
        us + 1
    );
    let todo = format!("write owner = \"{us}\"");
    assert!(said.contains(&refused) && said.contains(&todo), "{said}");
    for front in refusing {
        let line = front.line_with("a door gets no requests");
        let (served, named) = (
            format!("of user {us} serves"),
            format!("only user {} may", us + 1),
        );
        assert!(line.contains(&served) && line.contains(&named), "{line}");
        assert_eq!(front.get("/hello/x").status, 503);
    }
    let flags = |owner: &str| format!("--loops 1 --queue-timeout 20s {owner}");
    let serving = [
        before(&door, &flags("")),
        before(&door, &flags(&format!("--door-owner {us}"))),
        before(&door, &flags("--door-owner anybody")),
        write(us),
    ];
    assert!(check().ends_with(" there now\n"), "{}", check());
    for front in serving {
        assert_eq!(front.get("/hello/x").status, 200);
        // The line of a door that is open, or there again.
        let _ = front.line_with(&format!("pid={} uid={us}", application.pid()));
    }
    let ended = application.stop();
    assert_eq!(ended.figure("calls"), 4);
    // On a loaded machine a front end that is ended, or that waits in vain, may have said hello before.
    let warns = |line: &&String| line.contains(" WARN ") && !line.contains("hung up before");
    assert_eq!(ended.lines.iter().find(warns), None);
}

#[test]
fn a_check_names_the_user_of_a_door_that_the_file_says_nothing_of() {
    let odd = env!("CARGO_BIN_EXE_odd");
    let Some(user) = OtherUser::who_runs(odd) else {
        return;
    };
    let folder = Folder::new("check-owner");
    // The other user makes the door there.
    let everybody = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(folder.path("."), everybody).expect("the folder is ours");
    let door = folder.path("odd.door");
    let flags = format!("--door {}", door.display());
    let application = user.launch(odd).flags(&flags).start();
    let config = folder.path("config.toml");
    let text = format!("[[forward]]\nlisten = \"http://127.0.0.1:0\"\ndoor = {door:?}\n");
    std::fs::write(&config, text).expect("a file");
    let check = format!("check {}", config.display());
    let ended = Launch::of("transom").flags(&check).run();
    assert_eq!(ended.code(), 0, "{}", ended.stderr());
    let said = &ended.stdout;
    let uid = std::fs::metadata(&door).expect("it is there").uid();
    let refused = format!(
        "but a front end of user 0 refuses it: process {}",
        application.pid()
    );
    let todo = format!("write owner = \"{uid}\" beside `door`, or give --door-owner {uid}\n");
    assert!(said.contains(&refused) && said.ends_with(&todo), "{said}");
}

#[test]
fn loops_without_a_channel_are_told_with_the_flags_that_give_them_one() {
    let folder = Folder::new("few-channels");
    let door = folder.path("hello.door");
    let application = behind(&door, "hello", "--buckets 1 --door-channels 2");
    let front = before(&door, "--loops 3");
    let line = front.line_with("has no channel for some loops");
    for part in ["loops=3", "channels=2", "--door-channels 6", "--loops"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let line = application.line_with("a client was turned away");
    assert!(line.contains("--door-channels"), "{line}");
    // They ask again and again, and that is not said again and again.
    let turned_away = |server: &Server| {
        let lines = server.lines();
        lines
            .iter()
            .filter(|line| line.contains("turned away"))
            .count()
    };
    let one_user = folder.path("user.door");
    let flags = "--buckets 1 --door-channels-per-user 1";
    let limited = behind(&one_user, "hello", flags);
    let second = before(&one_user, "--loops 2");
    let line = second.line_with("has no channel for some loops");
    assert!(line.contains("--door-channels-per-user 4"), "{line}");
    let _ = limited.line_with("a client was turned away");
    assert!(turned_away(&application) <= 2, "{:?}", application.lines());
}

#[test]
fn a_client_that_hangs_up_before_it_is_let_in_is_said_to_have_done_so() {
    let folder = Folder::new("hung-up");
    let door = folder.path("hello.door");
    let application = behind(&door, "hello", "--buckets 1");
    application.pause();
    let wire = raw::Wire::connect(&door).expect("it listens");
    let hello = raw::hello(raw::PAGE as u32, 1, 1 << 30);
    wire.send(&hello, &[]).expect("it is taken");
    drop(wire);
    application.signal(libc::SIGCONT);
    let line = application.line_with("a client was turned away");
    assert!(
        line.contains("hung up") && !line.contains("descriptors"),
        "{line}"
    );
}

#[test]
fn a_door_that_may_not_be_given_to_its_group_names_the_flags() {
    use std::os::unix::fs::PermissionsExt;
    let program = transom_tests::build::binary("hello");
    let program = program.to_str().expect("UTF-8");
    let Some(user) = OtherUser::who_runs(program) else {
        return;
    };
    let folder = Folder::new("group");
    let door = folder.path("hello.door");
    let everybody = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(door.parent().expect("a folder"), everybody).expect("it is ours");
    for flag in ["--door-group 0", "--door-owner 0"] {
        let ended = user
            .launch(program)
            .flags(&format!("--door {} --buckets 1 {flag}", door.display()))
            .run();
        let said = ended.stderr();
        let name = flag.split(' ').next().expect("a flag");
        assert!(ended.code() == 1 && said.contains(name), "{flag}: {said}");
        assert!(said.contains("SupplementaryGroups="), "{said}");
    }
}
