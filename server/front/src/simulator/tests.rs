//! Thousands of seeds.
//!
//! | variable | meaning |
//! |---|---|
//! | `TRANSOM_SEED` | plays this schedule alone, and writes its trace |
//! | `TRANSOM_SECONDS` | goes on for so long, instead of for a number of schedules |
//! | `TRANSOM_FIRST_SEED` | where that begins; without it at a number that is another each time |

use super::run::{Played, run};
use crate::stats::LoopFigures;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Schedules of an ordinary test run: some seconds.
const ORDINARY: u64 = 3000;

/// Longer than any schedule takes.
const ENDLESS: Duration = Duration::from_secs(40);

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Plays a schedule with its trace, and fails if it ends wrong.
fn replay(seed: u64) {
    let Played { wrong, trace, .. } = run(seed, true);
    for line in trace {
        eprintln!("{line}");
    }
    if let Some(wrong) = wrong {
        panic!("seed {seed}: {wrong}");
    }
}

/// Ends the process if a schedule takes longer in real time than any does: the loop goes round in itself.
fn watch_over() -> Sender<u64> {
    let (sender, seeds) = channel();
    let mut present = 0;
    std::thread::spawn(move || {
        loop {
            match seeds.recv_timeout(ENDLESS) {
                Ok(seed) => present = seed,
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    let seconds = ENDLESS.as_secs_f64();
                    eprintln!("seed {present} is wrong, found after {seconds:.1} s");
                    eprintln!("seed {present}: it does not end");
                    std::process::exit(101);
                }
            }
        }
    });
    sender
}

/// Seeds from one on, until the time is up or there were so many.
fn play(first: u64, schedules_max: u64, time: Duration) {
    let (start, watch) = (Instant::now(), watch_over());
    let (mut schedules, mut turns, mut requests) = (0, 0, 0);
    let mut figures = LoopFigures::default();
    while schedules < schedules_max && start.elapsed() < time {
        let seed = first + schedules;
        let _ = watch.send(seed);
        let outcome = run(seed, false);
        if outcome.wrong.is_some() {
            let seconds = start.elapsed().as_secs_f64();
            eprintln!(
                "seed {seed} is wrong, found after {seconds:.1} s. TRANSOM_SEED={seed} replays it:"
            );
            replay(seed);
            panic!("seed {seed} was wrong, and is not when it is played again");
        }
        figures.add(&outcome.figures);
        schedules += 1;
        turns += outcome.turns;
        requests += outcome.requests;
    }
    let seconds = start.elapsed().as_secs_f64();
    eprintln!(
        "{schedules} schedules from {first} on, {requests} requests, {turns} turns in {seconds:.1} s"
    );
    eprintln!("{figures:?}");
}

/// Schedules that have found a bug, which is mended. A change of the simulator gives them another meaning:
/// `tests/simulator_faults.sh` puts the same bugs in again.
const MENDED: &[(u64, &str)] = &[
    (
        2323,
        "the end of a streamed answer was held back for the rest of its own body",
    ),
    (
        356,
        "a part of 100 Continue found no room, and the connection was closed",
    ),
    (
        1_883_293_586_829_376,
        "pieces of a streamed call kept the loop from waking a thread for another call",
    ),
];

#[test]
fn simulated_schedules_that_found_a_bug_end_well() {
    for (seed, bug) in MENDED {
        let wrong = run(*seed, false).wrong;
        assert_eq!(wrong, None, "seed {seed}, which found: {bug}");
    }
}

#[test]
fn simulated_schedules_end_well() {
    if let Some(seed) = number("TRANSOM_SEED") {
        replay(seed);
    } else if let Some(seconds) = number("TRANSOM_SECONDS") {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970");
        let first = number("TRANSOM_FIRST_SEED").unwrap_or(now.as_secs() << 20);
        play(first, u64::MAX, Duration::from_secs(seconds));
    } else {
        play(0, ORDINARY, Duration::MAX);
    }
}
