//! Measuring: servers in turn, idle connections, an attack.

use crate::http;
use crate::machine::{self, Cpus};
use crate::servers::{Place, Running};
use crate::workloads::{ATTACKERS, Contestant, Method, Workload};
use crate::wrk::{self, Counts};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long each run takes, and how many there are.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Runs of each server in a workload.
    pub rounds: u32,
    /// Seconds of a run.
    pub seconds: u32,
    /// Seconds of an attack.
    pub attack: u32,
    /// Seconds that each server is warmed up for, once.
    pub warm_up: u32,
    /// The server's CPUs.
    pub server: Cpus,
    /// The clients' CPUs.
    pub client: Cpus,
}

/// Starts of a server that are timed in a round.
const STARTS: u32 = 3;

/// Time between two looks at a server's memory during the attack.
const LOOK: Duration = Duration::from_millis(20);

/// How long the attacked server is watched before and after.
const BEFORE: Duration = Duration::from_millis(500);
const AFTER: Duration = Duration::from_secs(2);

/// One run.
#[derive(Debug, Clone)]
pub struct Sample {
    /// What wrk counted.
    pub counts: Counts,
    /// User and system time of the server's processes per answer, in µs.
    pub cpu_us: f64,
    /// Memory of the server's processes at its end, in bytes.
    pub resident: u64,
    /// How busy others kept the CPUs of server and clients, in CPUs: not counting the server and wrk.
    pub others: f64,
}

/// Memory for idle connections.
#[derive(Debug, Clone)]
pub struct Idle {
    /// Bytes that the server's memory grew by, for each.
    pub grown: f64,
    /// Ours: bytes that the memory equation has for each.
    pub planned: Option<f64>,
}

/// What an attack did.
#[derive(Debug, Clone)]
pub struct Attack {
    /// Seconds since the attack began, and the server's memory in bytes then.
    pub memory: Vec<(f64, u64)>,
    /// What the attackers got; `None` if nothing.
    pub attackers: Option<Counts>,
    /// What the ordinary client got; `None` if nothing.
    pub ordinary: Option<Counts>,
    /// What the ordinary client got before.
    pub undisturbed: Option<Counts>,
}

/// What came out for a server.
#[derive(Clone)]
pub struct Row {
    /// Its name in the workload.
    pub name: String,
    /// How it was started.
    pub commands: Vec<Vec<String>>,
    /// Its runs, in order; `None` where one came to nothing.
    pub samples: Vec<Option<Sample>>,
    /// Milliseconds to its first answer, in order.
    pub ready_ms: Vec<Option<f64>>,
    /// Memory for idle connections, if there were any.
    pub idle: Option<Idle>,
    /// The attack, if there was one.
    pub attack: Option<Attack>,
    /// What else is to be said: failures, errors.
    pub notes: BTreeSet<String>,
}

impl Row {
    fn new(contestant: &Contestant) -> Self {
        Self {
            name: contestant.name.clone(),
            commands: Vec::new(),
            samples: Vec::new(),
            ready_ms: Vec::new(),
            idle: None,
            attack: None,
            notes: BTreeSet::new(),
        }
    }

    /// A figure of each run.
    pub fn figures(&self, figure: impl Fn(&Sample) -> f64) -> Vec<Option<f64>> {
        self.samples
            .iter()
            .map(|sample| sample.as_ref().map(&figure))
            .collect()
    }
}

/// Measures a workload, and tells of its progress on standard error.
pub fn measure(
    workload: &Workload,
    place: &Place,
    builds: &[(String, PathBuf)],
    pace: &Pace,
) -> Vec<Row> {
    let mut runners: Vec<Runner<'_>> = workload
        .contestants
        .iter()
        .map(|contestant| Runner {
            contestant,
            place,
            build: contestant.build.map(|build| builds[build].1.clone()),
            cpus: contestant
                .cpus
                .clone()
                .unwrap_or([pace.server.clone(), pace.client.clone()]),
            pace,
            row: Row::new(contestant),
        })
        .collect();
    match workload.method {
        Method::Rounds => in_rounds(&mut runners, pace, rounds(workload, pace)),
        Method::Start => starts(&mut runners, pace),
        Method::Attack => runners.iter_mut().for_each(Runner::attack),
    }
    runners.into_iter().map(|runner| runner.row).collect()
}

/// Rounds of a workload: fewer where no bar depends on it, so that a whole run does not take an hour.
fn rounds(workload: &Workload, pace: &Pace) -> u32 {
    if workload.bars.is_empty() {
        pace.rounds.min(3)
    } else {
        pace.rounds
    }
}

/// Seconds that a workload takes, if nothing goes wrong.
pub fn estimate(workload: &Workload, pace: &Pace) -> f64 {
    let each = match workload.method {
        // With the time that wrk and the server take to start and to end.
        Method::Rounds => {
            0.5 + f64::from(pace.warm_up)
                + f64::from(rounds(workload, pace)) * (f64::from(pace.seconds) + 0.1)
        }
        Method::Start => 0.3 * f64::from(pace.rounds * STARTS),
        Method::Attack => 2.0 * f64::from(pace.attack) + (BEFORE + AFTER).as_secs_f64() + 1.0,
    };
    let contestants = workload.contestants.iter();
    contestants
        .map(|contestant| each + f64::from(contestant.idle) / 5000.0)
        .sum()
}

fn in_rounds(runners: &mut [Runner<'_>], pace: &Pace, rounds: u32) {
    let mut running: Vec<Option<(Running, Option<Holder>)>> =
        runners.iter_mut().map(Runner::prepare).collect();
    for round in 1..=rounds {
        for (runner, running) in runners.iter_mut().zip(&mut running) {
            let Some((server, _)) = running else { continue };
            let sample = runner.run(server, pace.seconds);
            match &sample {
                Ok(sample) => eprintln!(
                    "  {round}/{rounds} {:<14} {:>8.2} µs CPU per request, {:>9.0} requests/s",
                    runner.row.name, sample.cpu_us, sample.counts.rate
                ),
                Err(error) => runner.note(error.clone()),
            }
            runner.row.samples.push(sample.ok());
        }
    }
}

fn starts(runners: &mut [Runner<'_>], pace: &Pace) {
    for _ in 0..pace.rounds * STARTS {
        for runner in &mut *runners {
            let began = Instant::now();
            let ready = runner.start().and_then(|server| {
                runner.check(&server)?;
                Ok(began.elapsed().as_secs_f64() * 1e3)
            });
            if let Err(error) = &ready {
                runner.note(error.clone());
            }
            runner.row.ready_ms.push(ready.ok());
        }
    }
    for runner in runners {
        eprintln!(
            "  {:<14} {:.1?} ms",
            runner.row.name,
            runner.row.ready_ms.iter().flatten().collect::<Vec<_>>()
        );
    }
}

/// A server in a workload, while it is measured.
struct Runner<'w> {
    contestant: &'w Contestant,
    place: &'w Place,
    build: Option<PathBuf>,
    /// The server's and the clients'.
    cpus: [Cpus; 2],
    pace: &'w Pace,
    row: Row,
}

impl Runner<'_> {
    fn note(&mut self, what: String) {
        eprintln!("  {}: {what}", self.row.name);
        self.row
            .notes
            .insert(what.lines().next().unwrap_or_default().to_owned());
    }

    fn start(&mut self) -> Result<Running, String> {
        let port = free_port()?;
        let contestant = self.contestant;
        let folder = format!("{}-{port}", contestant.kind);
        let processes = self
            .place
            .processes(
                contestant.kind,
                &contestant.setup,
                &folder,
                port,
                self.build.as_deref(),
            )
            .map_err(|error| format!("its files could not be written: {error}"))?;
        self.row.commands = processes
            .iter()
            .map(|process| process.words.clone())
            .collect();
        let log = self.place.scratch.join(format!("{folder}.log"));
        Running::start(&processes, port, &self.cpus[0], &log)
    }

    /// One request; its answer must be the expected one.
    fn check(&self, server: &Running) -> Result<(), String> {
        let Contestant {
            load,
            expected,
            body,
            ..
        } = self.contestant;
        let (answer, _) = http::ask(server.port, &load.path, load.field, body.as_deref())
            .map_err(|error| format!("GET or POST of {}: {error}", load.path))?;
        if answer.status != expected.status || !expected.body.is(&answer.body) {
            let body =
                String::from_utf8_lossy(&answer.body[..answer.body.len().min(80)]).into_owned();
            let bytes = answer.body.len();
            return Err(format!(
                "answers {} with {} and {bytes} bytes, {body:?}",
                load.path, answer.status
            ));
        }
        Ok(())
    }

    /// Started, checked, with its idle connections, and warm.
    fn prepare(&mut self) -> Option<(Running, Option<Holder>)> {
        let prepared = self.start().and_then(|server| {
            self.check(&server)?;
            let holder = self.hold(&server)?;
            if self.pace.warm_up > 0 {
                wrk::finish(self.contestant.load.start(
                    server.port,
                    self.pace.warm_up,
                    &self.cpus[1],
                )?)?;
            }
            Ok((server, holder))
        });
        prepared.map_err(|error| self.note(error)).ok()
    }

    fn hold(&mut self, server: &Running) -> Result<Option<Holder>, String> {
        let connections = self.contestant.idle;
        if connections == 0 {
            return Ok(None);
        }
        let before = machine::resident(&server.roots());
        let holder = Holder::start(server.port, connections, &self.cpus[1])?;
        let after = machine::resident(&server.roots());
        self.row.idle = Some(Idle {
            grown: (after as f64 - before as f64) / f64::from(connections),
            planned: self.planned_for_connection(),
        });
        Ok(Some(holder))
    }

    /// Ours: what the memory equation has for a connection.
    fn planned_for_connection(&self) -> Option<f64> {
        let front = self
            .row
            .commands
            .last()
            .filter(|_| self.contestant.kind.is_ours())?;
        let output = Command::new(&front[0])
            .args(&front[1..])
            .arg("--check")
            .output()
            .ok()?;
        let sum = String::from_utf8_lossy(&output.stdout).into_owned();
        Some(planned(&sum)? / f64::from(self.contestant.setup.connections))
    }

    fn run(&mut self, server: &Running, seconds: u32) -> Result<Sample, String> {
        let roots = server.roots();
        let mut cpus = [self.cpus[0].0.clone(), self.cpus[1].0.clone()].concat();
        cpus.sort_unstable();
        cpus.dedup();
        let now = || {
            let busy = machine::busy_seconds(&cpus);
            (
                Instant::now(),
                machine::cpu_seconds(&roots),
                machine::ended_children_seconds(),
                busy,
            )
        };
        let (began, server_began, wrk_began, busy_began) = now();
        let counts = wrk::finish(self.contestant.load.start(
            server.port,
            seconds,
            &self.cpus[1],
        )?)?;
        let (ended, server_ended, wrk_ended, busy_ended) = now();
        if !counts.errors.is_empty() {
            self.note(format!("errors: {}", counts.errors));
        }
        let expected = if self.contestant.expected.status < 400 {
            0
        } else {
            counts.requests
        };
        if counts.failed != expected {
            self.note(format!(
                "{} of {} answers were not 2xx or 3xx",
                counts.failed, counts.requests
            ));
        }
        let used = (server_ended - server_began) + (wrk_ended - wrk_began);
        Ok(Sample {
            cpu_us: (server_ended - server_began) * 1e6 / counts.requests as f64,
            resident: machine::resident(&roots),
            others: (busy_ended - busy_began - used).max(0.0) / (ended - began).as_secs_f64(),
            counts,
        })
    }

    fn attack(&mut self) {
        match self.try_attack() {
            Ok(attack) => {
                let peak = attack
                    .memory
                    .iter()
                    .map(|(_, bytes)| bytes)
                    .max()
                    .copied()
                    .unwrap_or(0);
                eprintln!("  {:<14} at most {} MB resident", self.row.name, peak >> 20);
                self.row.attack = Some(attack);
            }
            Err(error) => self.note(error),
        }
    }

    fn try_attack(&mut self) -> Result<Attack, String> {
        let server = self.start()?;
        self.check(&server)?;
        let client = self.cpus[1].clone();
        let mut ordinary = self.contestant.load.clone();
        ordinary.path = "/".into();
        ordinary.connections = 1;
        let seconds = self.pace.attack;
        let undisturbed = wrk::finish(ordinary.start(server.port, seconds, &client)?).ok();

        let pids = machine::pids(&server.roots());
        let over = AtomicBool::new(false);
        let attack = &self.contestant.load;
        debug_assert_eq!(attack.connections, ATTACKERS);
        // wrk is started by this thread: it is to end when the thread that started it does.
        thread::scope(|scope| {
            let began = Instant::now();
            let over = &over;
            let pids = &pids;
            let watch = move || {
                let mut memory = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    let at = began.elapsed().as_secs_f64() - BEFORE.as_secs_f64();
                    memory.push((at, machine::resident_quick(pids)));
                    thread::sleep(LOOK);
                }
                memory
            };
            let watcher = scope.spawn(watch);
            let attacked = (|| {
                thread::sleep(BEFORE);
                let attackers = attack.start(server.port, seconds, &client)?;
                let ordinary = ordinary.start(server.port, seconds, &client)?;
                let result = (wrk::finish(attackers), wrk::finish(ordinary));
                thread::sleep(AFTER);
                Ok::<_, String>(result)
            })();
            over.store(true, Ordering::Relaxed);
            let memory = watcher
                .join()
                .map_err(|_| "the watcher panicked".to_owned())?;
            let (attackers, ordinary) = attacked?;
            for (who, counts) in [
                ("attackers", &attackers),
                ("the ordinary client", &ordinary),
            ] {
                match counts {
                    Ok(counts) if !counts.errors.is_empty() => {
                        self.note(format!("{who}: errors: {}", counts.errors));
                    }
                    Ok(_) => {}
                    Err(error) => self.note(format!("{who}: {error}")),
                }
            }
            Ok(Attack {
                memory,
                attackers: attackers.ok(),
                ordinary: ordinary.ok(),
                undisturbed,
            })
        })
    }
}

/// The addend of connections in what `--check` prints: a line each, the bytes first.
fn planned(sum: &str) -> Option<f64> {
    let mut lines = sum.lines().map(|line| line.trim_start_matches(['+', ' ']));
    lines.find_map(|line| {
        let (bytes, rest) = line.split_once(' ')?;
        rest.trim_start()
            .starts_with("connections ")
            .then(|| bytes.parse().ok())?
    })
}

/// A port on which no process listens, below those that the kernel gives to clients.
fn free_port() -> Result<u16, String> {
    static NEXT: AtomicU16 = AtomicU16::new(18_080);
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        if port >= 32_768 {
            return Err("no port between 18080 and 32767 is free".into());
        }
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
}

/// A process of ours that holds idle connections: each workload's servers have more of them together than a
/// process may have.
struct Holder(Child);

impl Holder {
    fn start(port: u16, connections: u32, cpus: &Cpus) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "taskset", "-c", &cpus.to_string()])
            .arg(program)
            .args(["hold", &port.to_string(), &connections.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut holder = Self(child.map_err(|error| error.to_string())?);
        let mut line = String::new();
        let output = holder.0.stdout.take().ok_or("no output")?;
        BufReader::new(output)
            .read_line(&mut line)
            .map_err(|error| error.to_string())?;
        if line.trim() == "held" {
            Ok(holder)
        } else {
            Err(format!("{connections} idle connections could not be had"))
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It ends when its input does.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// The work of a [`Holder`]: it sends a request on each of so many connections, and then waits until standard
/// input ends.
pub fn hold(port: u16, connections: u32) -> Result<(), String> {
    let mut held = Vec::new();
    for at in 0..connections {
        let connection = http::ask(port, "/", None, None);
        held.push(connection.map_err(|error| format!("idle connection {at}: {error}"))?);
    }
    println!("held");
    let _ = std::io::stdout().flush();
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addend_of_connections_is_found() {
        let sum = "        33554432  buckets                64 × 512KiB   region   one request each (--buckets)\n\
                   +        3153920  connections             1 × 3080KiB  region   a loop's table (--connections)\n\
                   =        9999999  bytes: 1 in the region\n";
        assert_eq!(planned(sum), Some(3_153_920.0));
        assert_eq!(planned("nothing"), None);
    }
}
