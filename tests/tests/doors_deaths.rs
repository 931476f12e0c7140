//! Clients that die, processes that fork: what a door and its other clients notice of it.
#![cfg(target_os = "linux")]

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use transom_doors::{
    AsyncClient, CallError, CallOptions, Client, OpenOptions, Patience, PeerState,
};
use transom_tests::echo::{Echo, Holdings, start_mortal};
use transom_tests::raw::{Ears, Random};
use transom_tests::{Folder, PATIENCE, eventually};

const ECHO: &str = env!("CARGO_BIN_EXE_door-echo");
const LIAR: &str = env!("CARGO_BIN_EXE_door-liar");
const CALLER: &str = env!("CARGO_BIN_EXE_door-caller");

#[test]
fn handlers_of_clients_that_are_killed_finish_in_peace() {
    let folder = Folder::new("callers");
    let log = folder.path().join("log");
    let option = format!("log={}", log.display());
    let mut door = Echo::start(ECHO, &folder.path().join("a.door"), 3, &[&option]);
    let mut random = Random::new(Random::seed());
    let mut before = None;
    for round in 0..=100 {
        let mut command = Command::new(CALLER);
        command.arg(door.path()).arg("8").stdout(Stdio::piped());
        let mut caller = start_mortal(&mut command).expect("the binary can be started");
        let mut line = String::new();
        let stdout = caller.stdout.take().expect("it is piped");
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("it says that it calls");
        assert_eq!(line, "calling\n");
        // Somewhere between before the first claim and after the last one.
        let instant = Instant::now() + Duration::from_micros(random.below(8000) as u64);
        while Instant::now() < instant {
            std::hint::spin_loop();
        }
        caller.kill().expect("it is ours to kill");
        caller.wait().expect("it is ours to wait for");
        if round == 0 {
            assert!(eventually(|| door.count("left") == 1));
            let mut all = door.holdings_at_rest();
            // The porter, the main thread, and as many as may be needed.
            all.threads = all.threads.max(3 + 3);
            before = Some(all);
        }
    }
    assert!(eventually(|| door.count("left") == 101));
    before.expect("a first round").wait_for(door.pid());
    assert!(door.is_alive());
    assert_eq!(door.count("poisoned"), 0);
    // Every call that was begun has ended.
    let mut client = Client::open(door.path()).expect("the door is open");
    assert_eq!(client.call(b"echo", &mut [0; 4]), Ok(4));
    let steps = fs::read(&log).expect("the door has logged");
    let mut calls: HashMap<&[u8], usize> = HashMap::new();
    for id in steps.chunks(8) {
        *calls.entry(id).or_default() += 1;
    }
    assert!(calls.len() > 100, "{}", calls.len());
    assert!(calls.values().all(|steps| *steps == 2));
}

#[test]
fn thousands_of_deaths_leave_nothing_and_keep_nobody_out() {
    let folder = Folder::new("thousands");
    let mut door = Echo::start(ECHO, &folder.path().join("a.door"), 4, &[]);
    let run = |count: &str| {
        let seed = Random::seed().to_string();
        let mut command = Command::new(LIAR);
        command.arg(door.path()).args(["deaths", &seed, count]);
        start_mortal(command.stdin(Stdio::null())).expect("the binary can be started")
    };
    let mut liar = run("50");
    assert!(liar.wait().expect("ours").success());
    let opened_and_gone = || {
        let gone = door.count("left") + door.count("poisoned");
        door.count("opened") == gone
    };
    assert!(eventually(opened_and_gone));
    let mut before = door.holdings_at_rest();
    before.threads = before.threads.max(4 + 3);
    let mut liar = run("2000");
    let mut visits = 0;
    // Meanwhile others come, call and go.
    let options = OpenOptions {
        timeout: PATIENCE,
        ..OpenOptions::default()
    };
    let ended = loop {
        let mut client = Client::open_with(door.path(), &options)
            .unwrap_or_else(|error| panic!("visit {visits}: {error}"));
        let mut reply = [0; 12];
        assert_eq!(client.call(b"echo, please", &mut reply), Ok(12));
        visits += 1;
        if let Some(ended) = liar.try_wait().expect("ours") {
            break ended;
        }
    };
    assert!(ended.success());
    assert!(eventually(opened_and_gone));
    before.wait_for(door.pid());
    assert!(door.is_alive());
    assert_eq!(door.count("poisoned"), 0);
}

#[test]
fn descriptors_come_with_their_call_however_busy_the_door_is() {
    let folder = Folder::new("descriptors");
    let door = Echo::start(ECHO, &folder.path().join("a.door"), 4, &[]);
    let path = door.path();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut client = Client::open(path).expect("the door is open");
                let file = fs::File::open("/dev/null").expect("it is there");
                let descriptors = [std::os::fd::AsFd::as_fd(&file); 2];
                let options = CallOptions {
                    descriptors: &descriptors,
                    ..CallOptions::default()
                };
                for n in 0..4000 {
                    let reply = client.call_with(b"fds", &mut [], options);
                    let reply = reply.unwrap_or_else(|error| panic!("call {n}: {error}"));
                    assert_eq!(reply.descriptors.count(), 2, "call {n}");
                }
            });
        }
    });
    assert_eq!(door.count("poisoned"), 0);
}

/// Runs `child` in a child process of this one; returns whether it came to its end.
fn in_a_child(child: impl FnOnce()) -> bool {
    // SAFETY: the child runs `child` and ends without running anything of this process's; glibc keeps its
    // allocator usable in the child of a process with threads.
    let pid = unsafe {
        let pid = libc::fork();
        if pid == 0 {
            child();
            libc::_exit(0);
        }
        pid
    };
    assert!(pid > 0);
    let mut status = 0;
    // SAFETY: the status is a local.
    unsafe { libc::waitpid(pid, &raw mut status, 0) };
    libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
}

#[test]
fn a_child_that_drops_its_copy_of_a_client_disturbs_nobody() {
    let folder = Folder::new("fork");
    let door = Echo::start(ECHO, &folder.path().join("a.door"), 2, &[]);
    let mut client =
        AsyncClient::open(door.path(), &OpenOptions::default()).expect("the door is open");
    let ears = Ears::to(&[client.as_raw_fd()]);
    let slot = client.reserve().expect("a slot");
    client.request_mut(slot)[..9].copy_from_slice(b"sleep 300");
    client.submit(slot, 9, 0);
    client.flush().expect("the door takes calls");

    let maps = fs::read_to_string("/proc/self/maps").expect("our own");
    let ours = maps.lines().find(|line| line.contains("transom-requests"));
    let start = ours.and_then(|line| line.split('-').next());
    let start = start.and_then(|hex| usize::from_str_radix(hex, 16).ok());
    let start = start.expect("the client has requests");
    let ended = in_a_child(|| {
        // The channel is not mapped here; the child's own mapping in its place stays.
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        // SAFETY: the parent's channel is not mapped here (DONTFORK), so nothing is overwritten; the flag
        // would refuse to. Then a copy of the parent's client is dropped, as a child does that ends in an
        // orderly way; this process's own value is never used again.
        unsafe {
            let hint = std::ptr::without_provenance_mut(start);
            let page = libc::mmap(hint, 4096, protection, flags, -1, 0);
            if page == libc::MAP_FAILED {
                libc::_exit(2);
            }
            let page = page.cast::<u8>();
            page.write_volatile(42);
            drop(std::ptr::read(&raw const client));
            if page.read_volatile() != 42 {
                libc::_exit(3);
            }
        }
    });
    let gone = client.check_peer();
    let mut reply = None;
    let answered = eventually(|| {
        if client.prepare_wait(Patience::Eager) {
            let _ = ears.wait(20);
        }
        client.woke();
        client.nudge();
        reply = reply.or_else(|| client.next_completion());
        reply.is_some()
    });
    assert_eq!(gone, PeerState::Serving);
    assert!(answered, "the parent's call has lost its reply");
    assert!(ended, "the child has lost memory of its own");
    assert_eq!(door.count("left") + door.count("poisoned"), 0);
}

#[test]
fn the_death_of_a_door_is_seen_although_its_child_holds_the_socket() {
    let folder = Folder::new("orphan");
    let mut door = Echo::start(ECHO, &folder.path().join("a.door"), 2, &[]);
    let mut client = Client::open(door.path()).expect("the door is open");
    let mut waiting = Client::open(door.path()).expect("the door is open");
    let mut child = [0; 4];
    assert_eq!(client.call(b"fork", &mut child), Ok(4));
    let child = i32::from_le_bytes(child);
    assert!(child > 0);
    let caller = std::thread::spawn(move || waiting.call(b"sleep 10000", &mut []));
    assert!(eventually(|| transom_tests::proc::sleeping_threads(
        door.pid()
    ) == 1));
    door.kill();
    let ended = eventually(|| caller.is_finished());
    let refused = client.call(b"echo", &mut []);
    // SAFETY: a plain system call; the orphan is the door's child, alive for a minute, so the id is its own.
    let alive = unsafe { libc::kill(child, libc::SIGKILL) } == 0;
    assert!(alive, "the orphan has ended, so this has shown nothing");
    assert!(ended, "the caller was not told");
    let outcome = caller.join().expect("it does not panic");
    assert_eq!(outcome, Err(CallError::MayHaveRun));
    assert_eq!(refused, Err(CallError::NotAccepted));
}

#[test]
fn a_client_whose_call_timed_out_learns_that_the_door_has_died() {
    let folder = Folder::new("timed-out");
    let mut door = Echo::start(ECHO, &folder.path().join("a.door"), 2, &[]);
    let mut client = Client::open(door.path()).expect("the door is open");
    let options = CallOptions {
        timeout: Some(Duration::from_millis(50)),
        ..CallOptions::default()
    };
    let late = client.call_with(b"sleep 10000", &mut [], options);
    assert!(matches!(late, Err(CallError::TimedOut)), "{late:?}");
    assert_eq!(client.call(b"echo", &mut []), Err(CallError::Full));
    door.kill();
    let again = client.call(b"echo", &mut []);
    assert_eq!(again, Err(CallError::NotAccepted));
}

#[test]
fn a_caller_that_waits_long_sleeps_every_time() {
    let folder = Folder::new("sleeper");
    let door = Echo::start(ECHO, &folder.path().join("a.door"), 2, &[]);
    let mut client = Client::open(door.path()).expect("the door is open");
    let cpu = || {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the time is a local.
        unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let mut reply = [0; 9];
    for n in 0..3 {
        let before = cpu();
        assert_eq!(client.call(b"sleep 500", &mut reply), Ok(9));
        let used = cpu() - before;
        // A tenth of the wait: a sleeper needs a thousandth.
        assert!(used < Duration::from_millis(50), "call {n} used {used:?}");
    }
}

#[test]
fn a_panic_is_the_callers_fault_and_nobody_elses() {
    let folder = Folder::new("panics");
    let mut door = Echo::start(ECHO, &folder.path().join("a.door"), 2, &[]);
    let before = door.holdings_at_rest();
    let mut client = Client::open(door.path()).expect("the door is open");
    for _ in 0..200 {
        assert_eq!(client.call(b"panic", &mut []), Err(CallError::Fault));
        assert_eq!(client.call(b"echo", &mut [0; 4]), Ok(4));
    }
    drop(client);
    let most = Holdings {
        threads: 2 + 3,
        ..before
    };
    most.wait_for(door.pid());
    assert!(door.is_alive());
}
