//! Kills an application behind a door again and again under load, and says what its clients were told and how
//! soon the front end was back: `cargo run --release -p transom-tests --bin kills [TIMES]`.

use std::time::Duration;
use transom_tests::doors::kill_again_and_again;

fn main() {
    let times = std::env::args()
        .nth(1)
        .and_then(|times| times.parse().ok())
        .unwrap_or(100);
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut kills = kill_again_and_again("hello", "/hello/you", times, seed);
    for (status, count) in &kills.tally {
        println!("{status}: {count}");
    }
    kills.back.sort();
    let at = |part: usize| kills.back[(kills.back.len() - 1) * part / 100];
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    println!(
        "back after the new instance was ready: p50 {:.1} ms, p90 {:.1} ms, worst {:.1} ms",
        ms(at(50)),
        ms(at(90)),
        ms(at(100))
    );
    println!(
        "front end, after the first kill and after the last: descriptors {:?}, mappings {:?}, threads {:?}",
        kills.descriptors, kills.mappings, kills.threads
    );
}
