//! What the kernel says of a process, in `/proc`.

use std::fs;

/// A process at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Bytes of physical memory. From `smaps_rollup`, which walks the page tables: `VmRSS` is a sum of
    /// per-CPU counters and can be off by hundreds of KiB.
    pub rss: u64,
    /// Of these, the bytes that belong to no file. The kernel reads more of a program's file than is used, so
    /// the others differ by 1 % of all between two starts of the same program.
    pub anonymous: u64,
    /// The most bytes of physical memory so far (`VmHWM`).
    pub high_water: u64,
    /// Threads.
    pub threads: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Mappings.
    pub mappings: u64,
}

impl Sample {
    /// Looks at a process.
    ///
    /// # Panics
    /// If there is no such process, or it is not ours to look at.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
        };
        let status = read("status");
        let descriptors =
            fs::read_dir(format!("/proc/{pid}/fd")).expect("a process of ours has descriptors");
        let rollup = read("smaps_rollup");
        Sample {
            rss: number(&rollup, "Rss:") << 10,
            anonymous: number(&rollup, "Anonymous:") << 10,
            high_water: number(&status, "VmHWM:") << 10,
            threads: number(&status, "Threads:"),
            descriptors: descriptors.count() as u64,
            mappings: read("maps").lines().count() as u64,
        }
    }

    /// How often the threads of a process have gone to sleep so far.
    ///
    /// # Panics
    /// If there is no such process.
    #[must_use]
    pub fn sleeps(pid: u32) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a process of ours");
        let statuses =
            tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok());
        statuses
            .map(|status| number(&status, "voluntary_ctxt_switches:"))
            .sum()
    }

    /// Looks at a process until two looks agree: a request that has been answered may still be cleaned up
    /// after.
    ///
    /// # Panics
    /// As [`Sample::of`], and if it never comes to rest.
    #[must_use]
    pub fn at_rest(pid: u32) -> Self {
        let mut last = Sample::of(pid);
        let rested = crate::eventually(|| {
            std::thread::sleep(std::time::Duration::from_millis(50));
            let now = Sample::of(pid);
            std::mem::replace(&mut last, now) == now
        });
        assert!(rested, "process {pid} does not come to rest: {last:?}");
        last
    }
}

/// How many threads of a process are asleep for a time of their own choice (`clock_nanosleep`): the handlers
/// that were asked to sleep. The server's own threads wait for events, never for time alone.
///
/// # Panics
/// If there is no such process, or it is not ours to look at.
#[must_use]
pub fn sleeping_threads(pid: u32) -> usize {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a process has threads");
    let sleep = format!("{} ", libc::SYS_clock_nanosleep);
    let sleeps = |task: &fs::DirEntry| {
        let call = fs::read_to_string(task.path().join("syscall"));
        call.is_ok_and(|call| call.starts_with(&sleep))
    };
    tasks.flatten().filter(sleeps).count()
}

fn number(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|rest| rest.split_whitespace().next());
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("no {name} in\n{text}"))
}
