//! Watches a server from the side while it is loaded: its memory as the kernel has it, and its own metrics.
//!
//! A thread of its own looks at regular intervals, and draws the progress bar. It takes a twentieth of one
//! core at most: walking the page tables of a large process is not free.

use super::engine::Progress;
use super::metrics::{self, Metrics};
use crate::admin_client::AdminAddress;
use indicatif::{ProgressBar, ProgressStyle};
use procfs::process::Process;
use serde::Serialize;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The most looks that are kept. When there are more, every two become one, and the interval doubles.
const LOOKS_MAX: usize = 2000;

/// Time between two looks, in proportion to how long a look takes.
const REST: u32 = 20;

/// The memory of one or more processes at one moment, as the kernel has it. Sums, if there are several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ResourceUsage {
    /// Bytes of physical memory. From `smaps_rollup`, which walks the page tables: `VmRSS` is a sum of
    /// per-CPU counters and can be off by hundreds of KiB.
    pub rss_bytes: u64,
    /// The same with each page divided by the number of its users.
    pub pss_bytes: u64,
    /// The most that the kernel has seen of `rss` (`VmHWM`), by its inexact counters.
    pub high_water_bytes: u64,
    /// Mappings.
    pub mappings: u64,
    /// Page faults that needed no disk, since the process began.
    pub minor_faults: u64,
    /// Page faults that did.
    pub major_faults: u64,
    /// Threads.
    pub threads: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// User and system time since the process began.
    pub cpu_ms: u64,
}

impl ResourceUsage {
    /// Looks at processes.
    ///
    /// # Errors
    /// Which of them cannot be looked at, and why.
    pub fn of(pids: &[i32]) -> Result<Self, String> {
        let mut sum = ResourceUsage::default();
        for &pid in pids {
            sum.add(pid)
                .map_err(|error| format!("process {pid}: {error}"))?;
        }
        Ok(sum)
    }

    fn add(&mut self, pid: i32) -> procfs::ProcResult<()> {
        let process = Process::new(pid)?;
        let rollup = process.smaps_rollup()?;
        for map in &rollup.memory_map_rollup.0 {
            let bytes = |name: &str| map.extension.map.get(name).copied().unwrap_or(0);
            self.rss_bytes += bytes("Rss");
            self.pss_bytes += bytes("Pss");
        }
        let status = process.status()?;
        let stat = process.stat()?;
        self.high_water_bytes += status.vmhwm.unwrap_or(0) << 10;
        self.mappings += process.maps()?.0.len() as u64;
        self.minor_faults += stat.minflt;
        self.major_faults += stat.majflt;
        self.threads += status.threads;
        self.descriptors += process.fd_count()? as u64;
        self.cpu_ms += (stat.utime + stat.stime) * 1000 / procfs::ticks_per_second();
        Ok(())
    }

    /// Of each figure the larger one.
    pub fn most(self, other: ResourceUsage) -> ResourceUsage {
        ResourceUsage {
            rss_bytes: self.rss_bytes.max(other.rss_bytes),
            pss_bytes: self.pss_bytes.max(other.pss_bytes),
            high_water_bytes: self.high_water_bytes.max(other.high_water_bytes),
            mappings: self.mappings.max(other.mappings),
            minor_faults: self.minor_faults.max(other.minor_faults),
            major_faults: self.major_faults.max(other.major_faults),
            threads: self.threads.max(other.threads),
            descriptors: self.descriptors.max(other.descriptors),
            cpu_ms: self.cpu_ms.max(other.cpu_ms),
        }
    }

    /// By how much `VmHWM` may be too high or too low: each of the kernel's three counters keeps up to 32
    /// pages for each CPU, or twice as many as there are CPUs, before it adds them up.
    pub fn high_water_error() -> u64 {
        let cpus = thread::available_parallelism().map_or(1, usize::from) as u64;
        3 * cpus * (2 * cpus).max(32) * procfs::page_size()
    }
}

/// What buckets are doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Buckets {
    /// No thread yet.
    pub unbound: f64,
    /// Waiting for a request.
    pub idle: f64,
    /// In a handler.
    pub busy: f64,
    /// Out of service while what requests have left there is too much.
    pub resting: f64,
    /// Lost.
    pub parked: f64,
}

impl Buckets {
    /// All of them.
    pub fn total(&self) -> f64 {
        self.unbound + self.idle + self.busy + self.resting + self.parked
    }
}

/// One look.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Look {
    /// Since the load tester began.
    pub seconds: f64,
    /// Memory, if there is a process to look at.
    pub memory: Option<ResourceUsage>,
    /// Buckets, if the server has metrics.
    pub buckets: Option<Buckets>,
}

/// What a server has said of itself at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ServerMetrics {
    /// Bytes of its own memory that it will not pass: region and process.
    pub bound: Option<f64>,
    /// What of it is outside of the region.
    pub process: Option<f64>,
    /// What of that is for the program itself.
    pub constant: Option<f64>,
    /// Bytes in memory outside of the region.
    pub outside: Option<f64>,
    /// Buckets.
    pub buckets: Option<Buckets>,
    /// Bytes of a bucket that a request may allocate.
    pub arena: Option<f64>,
    /// Calls that have ended, and the seconds that they held a bucket.
    pub calls: Option<(f64, f64)>,
    /// Allocations outside of the region since "ready".
    pub heap_allocations: Option<f64>,
    /// Bytes that buckets keep of what requests left.
    pub kept: Option<f64>,
}

impl ServerMetrics {
    /// Asks a server.
    ///
    /// # Errors
    /// Why it says nothing.
    pub fn fetch(admin: &AdminAddress) -> Result<Self, String> {
        metrics::fetch(admin).map(|metrics| Self::of(&metrics))
    }

    /// What is used of all that there is.
    fn of(metrics: &Metrics) -> Self {
        let place = |place| metrics.labelled("transom_bound_bytes", "place", place);
        let state = |state| {
            metrics
                .labelled("transom_buckets", "state", state)
                .unwrap_or(0.0)
        };
        let calls = metrics.total("transom_call_seconds_count");
        ServerMetrics {
            bound: place("region")
                .zip(place("process"))
                .map(|(region, process)| region + process),
            process: place("process"),
            outside: metrics.total("transom_resident_outside_region_bytes"),
            constant: metrics.labelled("transom_bound_term_bytes", "term", "constant"),
            buckets: metrics.total("transom_buckets").map(|_| Buckets {
                unbound: state("unbound"),
                idle: state("idle"),
                busy: state("busy"),
                resting: state("resting"),
                parked: state("parked"),
            }),
            arena: metrics.total("transom_arena_size_bytes"),
            calls: calls.zip(metrics.total("transom_call_seconds_sum")),
            heap_allocations: metrics.total("transom_process_heap_allocations_total"),
            kept: metrics.total("transom_kept_bytes"),
        }
    }
}

/// What was seen, with as many looks as fit.
#[derive(Debug, Default)]
pub struct Seen {
    /// In order of time.
    pub looks: Vec<Look>,
    /// The most of each figure in any look since the last [`Watch::mark`].
    pub most: ResourceUsage,
    /// Looks that failed: the process had ended, or is not ours to look at.
    pub blind: Option<String>,
    /// How many looks become one.
    stride: usize,
    /// Looks since the last one that was kept, and the one of them with the most memory.
    pending: Option<(usize, Look)>,
}

impl Seen {
    fn add(&mut self, look: Look) {
        if let Some(memory) = look.memory {
            self.most = self.most.most(memory);
        }
        self.stride = self.stride.max(1);
        let (count, kept) = match self.pending.take() {
            None => (1, look),
            Some((count, kept)) => (count + 1, larger(kept, look)),
        };
        if count < self.stride {
            self.pending = Some((count, kept));
            return;
        }
        self.looks.push(kept);
        if self.looks.len() >= LOOKS_MAX {
            self.looks = self
                .looks
                .chunks(2)
                .map(|pair| pair.iter().copied().reduce(larger).unwrap_or(pair[0]))
                .collect();
            self.stride *= 2;
        }
    }
}

/// Of two looks, keeps the one with more memory: a peak must not get lost.
fn larger(a: Look, b: Look) -> Look {
    let rss = |look: &Look| look.memory.map_or(0, |memory| memory.rss_bytes);
    if rss(&b) >= rss(&a) { b } else { a }
}

#[derive(Debug, Default)]
struct WatchState {
    seen: Seen,
    over: bool,
    /// What the progress bar says is going on, how long it should take, and since when.
    phase: Option<(String, Duration, Instant)>,
}

/// The thread that watches. It ends when this is dropped.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<(Mutex<WatchState>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

/// Whom to watch, and how often.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Processes; none if memory is not to be looked at.
    pub pids: Vec<i32>,
    /// Where metrics are.
    pub admin: Option<AdminAddress>,
    /// Time between two looks, at least.
    pub interval: Duration,
}

impl Watch {
    /// Starts it. `began` is the beginning of time for the looks.
    pub fn start(subject: Subject, began: Instant, progress: Arc<Progress>) -> Self {
        let shared = Arc::new((Mutex::new(WatchState::default()), Condvar::new()));
        let thread = thread::spawn({
            let shared = shared.clone();
            move || run(&subject, began, &progress, &shared)
        });
        Watch {
            shared,
            thread: Some(thread),
        }
    }

    fn with<R>(&self, f: impl FnOnce(&mut WatchState) -> R) -> R {
        f(&mut self.shared.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A phase begins.
    pub fn phase(&self, name: &str, length: Duration) {
        self.with(|state| state.phase = Some((name.to_owned(), length, Instant::now())));
    }

    /// Begins to look for the largest figures anew.
    pub fn mark(&self) {
        self.with(|state| state.seen.most = ResourceUsage::default());
    }

    /// The largest figures since the last mark, or since the beginning.
    pub fn most(&self) -> ResourceUsage {
        self.with(|state| state.seen.most)
    }

    /// Ends it; all that was seen.
    pub fn stop(mut self) -> Seen {
        self.end();
        self.with(|state| std::mem::take(&mut state.seen))
    }

    fn end(&mut self) {
        self.with(|state| state.over = true);
        self.shared.1.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end();
    }
}

fn run(
    subject: &Subject,
    began: Instant,
    progress: &Progress,
    shared: &(Mutex<WatchState>, Condvar),
) {
    // Drawn on standard error, and only if that is a terminal.
    let bar = ProgressBar::new(1000);
    let style = ProgressStyle::with_template("{prefix:16} {wide_bar} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    loop {
        let looking = Instant::now();
        let mut blind = None;
        let memory = match subject.pids[..] {
            [] => None,
            ref pids => ResourceUsage::of(pids)
                .map_err(|why| blind = Some(why))
                .ok(),
        };
        let metrics = subject
            .admin
            .as_ref()
            .and_then(|admin| ServerMetrics::fetch(admin).ok());
        let look = Look {
            seconds: began.elapsed().as_secs_f64(),
            memory,
            buckets: metrics.and_then(|metrics| metrics.buckets),
        };
        let took = looking.elapsed();
        let mut state = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.seen.add(look);
        state.seen.blind = blind.or(state.seen.blind.take());
        if let Some((name, length, since)) = &state.phase {
            let part = since.elapsed().as_secs_f64() / length.as_secs_f64().max(0.001);
            bar.set_prefix(name.clone());
            bar.set_position((part.min(1.0) * 1000.0) as u64);
        }
        let answered = progress.answered.load(Ordering::Relaxed);
        let not_good = progress.not_good.load(Ordering::Relaxed);
        let memory = memory.map_or(String::new(), |memory| {
            super::units::bytes(memory.rss_bytes)
        });
        bar.set_message(format!("{answered} answers, {not_good} not good  {memory}"));
        let pause = subject.interval.max(took * REST);
        let woken = shared
            .1
            .wait_timeout_while(state, pause, |state| !state.over);
        if woken.unwrap_or_else(PoisonError::into_inner).0.over {
            break;
        }
    }
    bar.finish_and_clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(n: u64) -> Look {
        Look {
            seconds: n as f64,
            memory: Some(ResourceUsage {
                rss_bytes: if n == 3333 { 1_000_000 } else { n },
                ..ResourceUsage::default()
            }),
            buckets: None,
        }
    }

    #[test]
    fn looks_are_bounded_and_keep_their_peak() {
        let mut seen = Seen::default();
        (0..50_000).for_each(|n| seen.add(look(n)));
        assert!(seen.looks.len() < LOOKS_MAX && seen.looks.len() > LOOKS_MAX / 4);
        assert!(seen.looks.is_sorted_by(|a, b| a.seconds < b.seconds));
        let peak = |look: &Look| {
            look.memory
                .is_some_and(|memory| memory.rss_bytes == 1_000_000)
        };
        assert!(seen.looks.iter().any(peak));
        assert_eq!(seen.most.rss_bytes, 1_000_000);
    }

    #[test]
    fn this_process_has_memory() {
        let this = std::process::id().cast_signed();
        let memory = ResourceUsage::of(&[this]).expect("ours to look at");
        assert!(
            memory.rss_bytes > 1 << 20
                && memory.pss_bytes > 0
                && memory.pss_bytes <= memory.rss_bytes
        );
        assert!(memory.high_water_bytes + ResourceUsage::high_water_error() >= memory.rss_bytes);
        assert!(
            memory.mappings > 5
                && memory.threads > 0
                && memory.descriptors > 2
                && memory.minor_faults > 0
        );
        let twice = ResourceUsage::of(&[this, this]).expect("ours to look at");
        assert!(twice.rss_bytes > memory.rss_bytes);
        let error = ResourceUsage::of(&[i32::MAX]).expect_err("there is none");
        assert!(error.contains(&i32::MAX.to_string()), "{error}");
    }
}
