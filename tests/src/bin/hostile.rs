//! Mixed hostile load for as long as one likes: `tests/hostile.sh` runs it.
//!
//! `send-static-file` in one process and `echo` through a door are attacked in all the ways of [`Attack`], by
//! several threads each, while ordinary clients go on. At the end, each server's memory and descriptors must
//! be what they were at the start, its memory never above its bound, and its drain clean. Exits with status 1
//! if one of these is not so, or an ordinary request was not answered with 200.

use std::collections::VecDeque;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use transom_tests::client::get;
use transom_tests::doors::{Folder, before, behind};
use transom_tests::hostile::Attack;
use transom_tests::ordinary::ask_until;
use transom_tests::{Launch, Sample, Server, eventually};

const ATTACKERS: u64 = 3;

/// Connections that each attacker keeps open.
const KEPT: usize = 400;

/// Short times, so that each of them strikes often within the hour.
const FRONT: &str = "--connections 1024 --header-timeout 5s --body-timeout 5s --write-timeout 5s \
                     --idle-timeout 5s";

/// A server under attack.
struct Victim {
    name: &'static str,
    server: Server,
    /// What attackers ask for.
    path: &'static str,
    /// What ordinary clients ask for.
    ordinary: String,
}

/// Strikes at random until `end`.
fn attack(victim: &Victim, mut random: u64, end: &AtomicBool, strikes: &AtomicU64) {
    let mut open = VecDeque::new();
    while !end.load(Ordering::Relaxed) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let attack = Attack::ALL[(random >> 32) as usize % Attack::ALL.len()];
        open.extend(attack.strike(victim.server.address(), victim.path));
        if open.len() > KEPT {
            open.pop_front();
        }
        strikes.fetch_add(1, Ordering::Relaxed);
        // The machine is also the server's.
        thread::sleep(Duration::from_micros(random % 1000));
    }
}

/// Attacks one server; a row of the table, and whether all was well until here.
fn besiege(victim: &Victim, seconds: u64, seed: u64) -> (String, bool) {
    let pid = victim.server.pid();
    let _ = eventually(|| victim.server.answer_to(&victim.ordinary).status == 200);
    // A first moment of attacks, so that memory that is touched once has been touched.
    let (end, strikes) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| attack(victim, seed, &end, &strikes));
        thread::sleep(Duration::from_secs(1));
        end.store(true, Ordering::Relaxed);
    });
    thread::sleep(Duration::from_secs(6)); // longer than any of its timeouts
    let start = Sample::at_rest(pid);

    let (end, strikes) = (AtomicBool::new(false), AtomicU64::new(0));
    let noticed = thread::scope(|scope| {
        let ordinary = scope.spawn(|| ask_until(&end, victim.server.address(), &victim.ordinary));
        for n in 0..ATTACKERS {
            let (end, strikes) = (&end, &strikes);
            scope.spawn(move || attack(victim, seed + 1 + n, end, strikes));
        }
        let until = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < until {
            thread::sleep(Duration::from_millis(100));
        }
        end.store(true, Ordering::Relaxed);
        ordinary.join().expect("the clients do not panic")
    });
    thread::sleep(Duration::from_secs(6));
    let stop = Sample::at_rest(pid);
    let bound = victim.server.memory_bound();
    let same = stop.rss <= start.rss + start.rss / 100
        && stop.descriptors == start.descriptors
        && stop.mappings == start.mappings;
    let row = format!(
        "| {} | {} | {} | {} {:?} | {:.1?} | {} -> {} KiB | {} of {} KiB | {} -> {} |",
        victim.name,
        strikes.into_inner(),
        noticed.latencies.len(),
        noticed.bad(),
        noticed.bad,
        noticed.per_mille(990),
        start.rss >> 10,
        stop.rss >> 10,
        stop.high_water >> 10,
        bound >> 10,
        start.descriptors,
        stop.descriptors,
    );
    let well = same && noticed.bad() == 0 && stop.high_water <= bound;
    (row, well)
}

fn main() -> ExitCode {
    let argument = |n| std::env::args().nth(n).and_then(|text| text.parse().ok());
    let seconds: u64 = argument(1).unwrap_or(3600);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seed: u64 = argument(2).unwrap_or_else(|| now.map_or(1, |now| now.as_secs())) | 1;
    println!("{seconds} seconds, seed {seed}");
    let files = Folder::new("hostile-files");
    let write = |name: &str, bytes: Vec<u8>| std::fs::write(files.path(name), bytes);
    write("big.txt", vec![b'x'; 1 << 20]).expect("the folder can be written");
    write("small.txt", b"small\n".to_vec()).expect("the folder can be written");
    let door = files.path("echo.door");
    let application = behind(&door, "echo", "");
    let victims = [
        Victim {
            name: "send-static-file, one process",
            server: Launch::of("send-static-file")
                .env("TRANSOM_ROOT", files.path(""))
                .flags(FRONT)
                .start(),
            path: "/big.txt",
            ordinary: get("/small.txt"),
        },
        Victim {
            name: "echo, through a door",
            server: before(&door, FRONT),
            path: "/",
            ordinary: "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello".to_owned(),
        },
    ];
    println!(
        "| server | attacks | ordinary requests | not 200 | p99 | RSS, start -> end | most, of bound | descriptors |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let results: Vec<_> = thread::scope(|scope| {
        let sieges = victims
            .iter()
            .map(|victim| scope.spawn(move || besiege(victim, seconds, seed)));
        let sieges: Vec<_> = sieges.collect();
        sieges
            .into_iter()
            .map(|siege| siege.join().expect("a siege does not panic"))
            .collect()
    });
    let mut good = true;
    for ((row, well), victim) in results.into_iter().zip(victims) {
        println!("{row}");
        let ended = victim.server.stop();
        let clean = ended.code() == 0 && ended.figure("cut") == 0;
        println!("{}", ended.lines.last().map_or("", String::as_str));
        good &= well && clean;
    }
    good &= application.stop().code() == 0;
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
