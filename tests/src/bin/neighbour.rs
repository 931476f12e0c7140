//! How much slower an ordinary request is beside hungry neighbours than beside ordinary ones.
//!
//! `cargo run --release -p transom-tests --bin neighbour` starts `oom` and lets 32 connections ask for
//! `/1000000` (each is answered 500) or for `/10`, in rounds that alternate so that a drift of the machine
//! hits both alike. A 33rd connection asks for `/10` all the while; its p99 is what is printed, and the ratio
//! of the medians over all rounds. It exits with status 1 if a neighbour is felt: a ratio above 1.3, or an
//! answer that is not as it should be.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use transom_tests::{Kind, Load, Server, requests};

const ROUNDS: usize = 9;
const NEIGHBOURS: usize = 32;
const RATIO_MAX: f64 = 1.3;

/// One round.
struct Round {
    p99: Duration,
    neighbours_per_second: f64,
    bad: usize,
}

fn round(server: &Server, neighbour: &Kind) -> Round {
    let end = AtomicBool::new(false);
    let ask = || vec![Kind::get("/10", 200, "")];
    thread::scope(|scope| {
        let crowd = scope.spawn(|| {
            Load::new(server.address(), NEIGHBOURS, vec![neighbour.clone()])
                .until(&end)
                .run()
        });
        let mine = Load::new(server.address(), 1, ask())
            .total(requests(5000))
            .run();
        end.store(true, Ordering::Relaxed);
        let crowd = crowd.join().expect("a load does not panic");
        Round {
            p99: mine.per_mille(0, 990),
            neighbours_per_second: crowd.rate(),
            bad: mine.bad.values().chain(crowd.bad.values()).sum(),
        }
    })
}

fn median(rounds: &[Round]) -> f64 {
    let mut values: Vec<f64> = rounds
        .iter()
        .map(|round| round.p99.as_secs_f64() * 1e6)
        .collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> ExitCode {
    // With its log as it comes: a line for each hungry request is part of what a neighbour costs.
    let server = Server::start("oom", "--buckets 8 --bucket-size 512KiB");
    let hungry = Kind::get("/1000000", 500, "bucket-exhausted");
    let ordinary = Kind::get("/10", 200, "");
    let (mut beside_hungry, mut beside_ordinary) = (Vec::new(), Vec::new());
    println!("| round | beside hungry: p99 | neighbours/s | beside ordinary: p99 | neighbours/s |");
    println!("|---|---|---|---|---|");
    for n in 1..=ROUNDS {
        let a = round(&server, &hungry);
        let b = round(&server, &ordinary);
        println!(
            "| {n} | {:?} | {:.0} | {:?} | {:.0} |",
            a.p99, a.neighbours_per_second, b.p99, b.neighbours_per_second
        );
        beside_hungry.push(a);
        beside_ordinary.push(b);
    }
    let ratio = median(&beside_hungry) / median(&beside_ordinary);
    let bad: usize = beside_hungry
        .iter()
        .chain(&beside_ordinary)
        .map(|round| round.bad)
        .sum();
    println!(
        "median p99: {:.0} µs beside hungry, {:.0} µs beside ordinary, ratio {ratio:.2} (at most {RATIO_MAX}); {bad} bad answers",
        median(&beside_hungry),
        median(&beside_ordinary)
    );
    if ratio <= RATIO_MAX && bad == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
