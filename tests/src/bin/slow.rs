//! What ordinary clients notice while `slowhttptest` holds a thousand slow connections: `tests/slow.sh` runs
//! it.
//!
//! For each of its modes, in one process and through a door: in how many seconds of the test its own probe
//! was answered (column 5 of its CSV), and how ordinary requests fared that were sent all the while. Exits
//! with status 1 if one of these was not answered with 200, or their p99 is 50 ms or more, or the probe
//! failed in any second.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use transom_tests::client::get;
use transom_tests::doors::{Folder, before};
use transom_tests::ordinary::{Noticed, ask_until};
use transom_tests::{Launch, Server, eventually};

const P99_MAX: Duration = Duration::from_millis(50);

/// What every front end is started with. Buckets are 64 by default.
const FRONT: &str = "--connections 4096";

struct Mode {
    name: &'static str,
    app: &'static str,
    flags: &'static [&'static str],
    path: &'static str,
    /// What ordinary clients ask for meanwhile.
    ordinary: String,
}

fn modes() -> Vec<Mode> {
    let post = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello".to_owned();
    let bodies = |name, flags, path| Mode {
        name,
        app: "echo",
        flags,
        path,
        ordinary: post.clone(),
    };
    vec![
        Mode {
            name: "slow heads (-H)",
            app: "hello",
            flags: &["-H", "-i", "10", "-x", "24"],
            path: "/",
            ordinary: get("/"),
        },
        bodies(
            "slow bodies (-B), 8 KiB",
            &["-B", "-i", "10", "-x", "10", "-s", "8192", "-t", "POST"],
            "/",
        ),
        bodies(
            "slow bodies (-B), 1 MiB, streamed",
            &["-B", "-i", "10", "-x", "10", "-s", "1048576", "-t", "POST"],
            "/stream",
        ),
        Mode {
            name: "slow readers (-X)",
            app: "send-static-file",
            flags: &[
                "-X", "-w", "10", "-y", "20", "-n", "5", "-z", "32", "-k", "3",
            ],
            path: "/big.txt",
            ordinary: get("/small.txt"),
        },
    ]
}

/// Seconds of the test in which the probe was answered, and all of them.
fn available(csv: &Path) -> (usize, usize) {
    let text = std::fs::read_to_string(csv).unwrap_or_default();
    let rows = text.lines().skip(1);
    let fifth = rows.filter_map(|row| row.split(',').nth(4)?.trim().parse::<u64>().ok());
    fifth.fold((0, 0), |(good, all), value| {
        (good + usize::from(value > 0), all + 1)
    })
}

fn run(mode: &Mode, server: &Server, folder: &Path, seconds: &str) -> ((usize, usize), Noticed) {
    let output = folder.join("slow");
    let url = format!("http://{}{}", server.address(), mode.path);
    let end = AtomicBool::new(false);
    let noticed = std::thread::scope(|scope| {
        let ordinary = scope.spawn(|| ask_until(&end, server.address(), &mode.ordinary));
        let status = Command::new("slowhttptest")
            .args(mode.flags)
            .args(["-c", "1000", "-r", "200", "-p", "3", "-g", "-l", seconds])
            .args(["-u", &url, "-o"])
            .arg(&output)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        end.store(true, Ordering::Relaxed);
        status.expect("slowhttptest is installed");
        ordinary.join().expect("the clients do not panic")
    });
    (available(&output.with_extension("csv")), noticed)
}

fn main() -> ExitCode {
    let seconds = std::env::args().nth(1).unwrap_or_else(|| "80".to_owned());
    let files = Folder::new("slow-files");
    let write = |name: &str, bytes: Vec<u8>| std::fs::write(files.path(name), bytes);
    write("big.txt", vec![b'x'; 1 << 20]).expect("the folder can be written");
    write("small.txt", b"small\n".to_vec()).expect("the folder can be written");
    let root = files.path("");
    let mut good = true;
    println!(
        "| mode | where | seconds available | ordinary requests | not 200 | p50 | p99 | longest | slow clients cut | RSS, of bound |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for mode in modes() {
        for through_a_door in [false, true] {
            let folder = Folder::new("slow-run");
            let door = folder.path("app.door");
            let launch = Launch::of(mode.app).env("TRANSOM_ROOT", &root);
            let (application, server) = if through_a_door {
                let application = launch.flags(&format!("--door {}", door.display())).start();
                (Some(application), before(&door, FRONT))
            } else {
                (None, launch.flags(FRONT).start())
            };
            let _ = eventually(|| server.answer_to(&mode.ordinary).status == 200);
            let ((available, rows), noticed) = run(&mode, &server, &files.path(""), &seconds);
            let (rss, bound) = (server.sample().high_water, server.memory_bound());
            let ended = server.stop();
            let p99 = noticed.per_mille(990);
            println!(
                "| {} | {} | {available} of {rows} | {} | {} {:?} | {:.1?} | {:.1?} | {:.1?} | {} | {} of {} MiB |",
                mode.name,
                if through_a_door {
                    "door"
                } else {
                    "one process"
                },
                noticed.latencies.len(),
                noticed.bad(),
                noticed.bad,
                noticed.per_mille(500),
                p99,
                noticed.per_mille(1000),
                ended.figure("slow_cut") + ended.figure("partial_evicted"),
                rss >> 20,
                bound >> 20,
            );
            good &= noticed.bad() == 0 && p99 < P99_MAX && rows > 0 && available == rows;
            good &= rss <= bound;
            drop(application);
        }
    }
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
