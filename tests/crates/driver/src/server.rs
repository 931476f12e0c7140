//! A server process: started for one row, watched through `/proc`, its log and its `--admin` address, and
//! ended by its process id.

use crate::client;
use rows::Row;
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long a server may take to be ready, and to end when it is told to.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long buckets may stay taken after the last answer: a thread of the application may still be about to
/// free something.
const PATIENCE_WITH_BUCKETS: Duration = Duration::from_secs(2);

const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What all rows' servers have in common.
#[derive(Debug)]
pub struct Launch<'l> {
    /// The program.
    pub binary: &'l Path,
    /// How many buckets it has.
    pub buckets: u32,
    /// Where the driver's own little server is.
    pub upstream: SocketAddr,
    /// For what the server writes.
    pub directory: &'l Path,
}

/// A running server. Killed when it is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    logs: [PathBuf; 2],
    /// Where it serves.
    pub address: SocketAddr,
    admin: SocketAddr,
    buckets: u32,
}

/// What `/metrics` says.
#[derive(Debug)]
pub struct Figures {
    /// Buckets that are taken, by state: neither idle nor without a thread.
    pub taken: BTreeMap<String, u32>,
    /// Bytes that live on in buckets after their requests, if the platform counts them.
    pub kept: Option<u64>,
    /// The most bytes of its arena that a request has needed.
    pub arena: u64,
    /// The most bytes of the C heap that a request has had.
    pub c_heap: u64,
}

impl Launch<'_> {
    /// Starts it, and waits until it is ready.
    ///
    /// # Errors
    /// It ended, or it did not say so in time: a sentence.
    pub fn start(&self, row: &Row) -> Result<Server, String> {
        let logs = ["out", "err"].map(|name| self.directory.join(name));
        let open = |path| File::create(path).map(Stdio::from);
        let spawn = || {
            self.command(row)
                .stdout(open(&logs[0])?)
                .stderr(open(&logs[1])?)
                .spawn()
        };
        let child = spawn().map_err(|error| format!("cannot be started: {error}"))?;
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Server {
            child,
            logs,
            address: nowhere,
            admin: nowhere,
            buckets: self.buckets,
        };
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let ended = server.ended();
            let lines = server.lines();
            if let Some((address, admin)) = lines.iter().find_map(|line| addresses(line)) {
                (server.address, server.admin) = (address, admin);
                return Ok(server);
            }
            if let Some(status) = ended {
                return Err(format!("does not start ({status}): {}", last(&lines)));
            }
            thread::sleep(LOOK_AGAIN);
        }
        Err(format!(
            "does not say within 10 s that it is ready: {}",
            last(&server.lines())
        ))
    }

    fn command(&self, row: &Row) -> Command {
        let mut command = Command::new(self.binary);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("TRANSOM_") || text.starts_with("RUST_") {
                command.env_remove(name);
            }
        }
        command
            .stdin(Stdio::null())
            .env("CRATES_ROW", &row.path)
            .env("UPSTREAM", format!("http://{}", self.upstream))
            .env("TMPDIR", self.directory)
            .env("NO_COLOR", "1")
            .envs(row.environment.iter().map(|(name, value)| (name, value)))
            .args([
                "--listen",
                "127.0.0.1:0",
                "--admin",
                "127.0.0.1:0",
                "--log",
                "human",
            ])
            .args(["--buckets", &self.buckets.to_string()])
            .args(&row.flags);
        // SAFETY: prctl is a plain system call, and safe between fork and exec; nothing is allocated.
        unsafe {
            command.pre_exec(|| {
                // No server is left running, even if the driver is killed.
                Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
            });
        }
        command
    }
}

/// The addresses in the line that says `ready`.
fn addresses(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let address = |name: &str| -> Option<SocketAddr> {
        let (_, rest) = line.split_once(name)?;
        rest.split([' ', '"', ',']).next()?.parse().ok()
    };
    let is_ready = line.contains("ready");
    Some((address("listen=")?, address("admin=")?)).filter(|_| is_ready)
}

fn last(lines: &[String]) -> &str {
    lines.last().map_or("it said nothing", String::as_str)
}

impl Server {
    /// Its status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// What it has written so far to standard output and standard error, without colours.
    pub fn lines(&self) -> Vec<String> {
        let read = |path| fs::read(path).unwrap_or_default();
        let lines = |bytes: Vec<u8>| -> Vec<String> {
            String::from_utf8_lossy(&bytes)
                .lines()
                .map(without_colours)
                .collect()
        };
        self.logs.iter().map(read).flat_map(lines).collect()
    }

    /// Its resident memory in KiB, as the kernel adds it up page by page.
    ///
    /// # Errors
    /// There is no such process any more.
    pub fn resident_kib(&self) -> io::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id()))?;
        let kib = text.lines().find_map(|line| line.strip_prefix("Rss:"));
        kib.and_then(|kib| kib.trim().strip_suffix(" kB")?.parse().ok())
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Waits until no bucket is taken, or until its patience ends, and returns what `/metrics` says then.
    ///
    /// # Errors
    /// Why there is no good answer: a sentence.
    pub fn figures_at_rest(&self) -> Result<Figures, String> {
        let deadline = Instant::now() + PATIENCE_WITH_BUCKETS;
        loop {
            let reply = client::get(self.admin, "/metrics")
                .map_err(|trouble| format!("/metrics: {trouble}"))?;
            let text = String::from_utf8_lossy(&reply.body);
            let figures = Figures::read(&text, self.buckets)?;
            if figures.taken.is_empty() || Instant::now() > deadline {
                return Ok(figures);
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// Tells it to end, and waits for that. `None`: it does not.
    ///
    /// # Errors
    /// It cannot be told.
    pub fn end(&mut self) -> io::Result<Option<ExitStatus>> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.ok_or(io::ErrorKind::InvalidInput)?, Signal::TERM)?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            thread::sleep(LOOK_AGAIN);
        }
        Ok(None)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Figures {
    fn read(text: &str, buckets: u32) -> Result<Self, String> {
        let mut states = BTreeMap::new();
        let mut kept = None;
        let (mut arena, mut c_heap) = (0, 0);
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let Ok(value) = value.parse::<f64>() else {
                continue;
            };
            if let Some(state) = name.strip_prefix("transom_buckets{state=\"") {
                states.insert(state.trim_end_matches("\"}").to_owned(), value as u32);
            } else if name.starts_with("transom_kept_bytes") {
                *kept.get_or_insert(0) += value as u64;
            } else if name.starts_with("transom_route_memory_max_bytes") {
                arena = arena.max(value as u64);
            } else if name == "transom_c_heap_request_max_bytes" {
                c_heap = value as u64;
            }
        }
        if states.values().sum::<u32>() != buckets {
            return Err(format!("/metrics does not tell of {buckets} buckets"));
        }
        states.retain(|state, count| *count > 0 && state != "idle" && state != "unbound");
        Ok(Figures {
            taken: states,
            kept,
            arena,
            c_heap,
        })
    }
}

/// A line without ANSI escape sequences, which some loggers write to files as well.
fn without_colours(line: &str) -> String {
    let mut parts = line.split('\x1b');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        text + part.split_once('m').map_or(part, |(_, rest)| rest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_that_is_neither_idle_nor_without_a_thread_is_taken() {
        let text = "# HELP transom_buckets x\ntransom_buckets{state=\"unbound\"} 1\n\
                    transom_buckets{state=\"idle\"} 1\ntransom_buckets{state=\"resting\"} 2\n\
                    transom_buckets{state=\"parked\"} 0\n";
        let figures = Figures::read(text, 4).expect("it tells of four buckets");
        assert_eq!(figures.taken, BTreeMap::from([("resting".to_owned(), 2)]));
        assert_eq!(figures.kept, None);
        assert!(Figures::read(text, 5).is_err());
        assert!(Figures::read("", 4).is_err());
    }

    #[test]
    fn addresses_are_found_in_a_coloured_line() {
        let line = "\x1b[2m2026\x1b[0m \x1b[32m INFO\x1b[0m ready \x1b[3mlisten\x1b[0m\x1b[2m=\x1b[0m127.0.0.1:41241 \
                    admin=127.0.0.1:36849 loops=2";
        let (address, admin) = addresses(&without_colours(line)).expect("both are there");
        assert_eq!((address.port(), admin.port()), (41241, 36849));
        assert_eq!(addresses("ready listen=127.0.0.1:1"), None);
    }
}
