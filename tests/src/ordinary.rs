//! Clients that ask for something small now and then, as most do: what they notice while others are hostile.

use crate::client::Client;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What they noticed.
#[derive(Debug, Default)]
pub struct Noticed {
    /// How long each answer took, sorted; those on a new connection include its establishment.
    pub latencies: Vec<Duration>,
    /// What was no 200, and how often.
    pub bad: BTreeMap<String, usize>,
}

impl Noticed {
    /// The latency that so many of a thousand did not exceed.
    #[must_use]
    pub fn per_mille(&self, per_mille: usize) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        let at = (self.latencies.len() * per_mille / 1000).min(last);
        self.latencies.get(at).copied().unwrap_or_default()
    }

    /// How many were not as they should be.
    #[must_use]
    pub fn bad(&self) -> usize {
        self.bad.values().sum()
    }
}

/// How long each of the clients rests between two requests.
const REST: Duration = Duration::from_millis(5);

/// Asks until `end`: one client on a new connection for every request, one on a connection that it keeps.
///
/// # Panics
/// If a client does.
#[must_use]
pub fn ask_until(end: &AtomicBool, address: SocketAddr, request: &str) -> Noticed {
    let mut all = Noticed::default();
    std::thread::scope(|scope| {
        let clients =
            [true, false].map(|keep| scope.spawn(move || ask(end, address, request, keep)));
        for client in clients {
            let noticed = client.join().expect("a client does not panic");
            all.latencies.extend(noticed.latencies);
            for (what, count) in noticed.bad {
                *all.bad.entry(what).or_default() += count;
            }
        }
    });
    all.latencies.sort_unstable();
    all
}

fn ask(end: &AtomicBool, address: SocketAddr, request: &str, keep: bool) -> Noticed {
    let mut noticed = Noticed::default();
    let mut kept: Option<Client> = None;
    while !end.load(Ordering::Relaxed) {
        let began = Instant::now();
        let client = kept.take().map_or_else(|| Client::try_connect(address), Ok);
        let outcome = match client {
            Err(error) => Err(error.to_string()),
            Ok(mut client) => {
                client.try_send(request);
                match client.try_answer() {
                    Ok(answer) if answer.status == 200 => {
                        kept = (keep && !answer.closes()).then_some(client);
                        Ok(())
                    }
                    Ok(answer) => Err(format!("status {}", answer.status)),
                    Err(trouble) => Err(format!("{trouble:?}")),
                }
            }
        };
        noticed.latencies.push(began.elapsed());
        if let Err(what) = outcome {
            *noticed.bad.entry(what).or_default() += 1;
        }
        std::thread::sleep(REST);
    }
    noticed
}
