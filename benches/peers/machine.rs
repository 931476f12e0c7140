//! What the kernel tells about processes and the machine.

use std::fmt;
use std::fs;
use std::process::Command;
use std::str::FromStr;

/// Clock ticks a second in which the kernel tells CPU time: 100 on every Linux with the usual configuration.
const TICKS: f64 = 100.0;

/// CPUs by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cpus(pub Vec<u32>);

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&numbers.join(","))
    }
}

impl FromStr for Cpus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split(',').map(|number| number.trim().parse());
        let numbers: Result<_, _> = numbers.collect();
        numbers
            .map(Self)
            .map_err(|_| format!("`{text}` is not a list of CPU numbers such as 0 or 2,3"))
    }
}

/// The needed fields of `/proc/PID/stat`.
#[derive(Debug, PartialEq)]
struct Stat {
    pid: u32,
    parent: u32,
    /// User and system time of all its threads, ended ones too.
    ticks: u64,
    /// The same of children that have ended and were waited for.
    children_ticks: u64,
}

impl Stat {
    /// The command's name, in parentheses, may have spaces and parentheses itself.
    fn parse(line: &str) -> Option<Self> {
        let (front, back) = line.rsplit_once(')')?;
        let (pid, _) = front.split_once('(')?;
        let fields: Vec<&str> = back.split_whitespace().collect();
        // proc_pid_stat(5) numbers them from 1, and the first after the name is the third.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            pid: pid.trim().parse().ok()?,
            parent: u32::try_from(field(4)?).ok()?,
            ticks: field(14)? + field(15)?,
            children_ticks: field(16)? + field(17)?,
        })
    }
}

/// The processes that `roots` have become: they and their descendants, without those that have ended.
fn tree(roots: &[u32]) -> Vec<Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes =
        entries.filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit());
    let stats = processes
        .filter_map(|entry| Stat::parse(&fs::read_to_string(entry.path().join("stat")).ok()?));
    descend(stats.collect(), roots)
}

fn descend(mut others: Vec<Stat>, roots: &[u32]) -> Vec<Stat> {
    let mut found: Vec<Stat> = others
        .extract_if(.., |stat| roots.contains(&stat.pid))
        .collect();
    let mut at = 0;
    while at < found.len() {
        let pid = found[at].pid;
        found.extend(others.extract_if(.., |stat| stat.parent == pid));
        at += 1;
    }
    found
}

/// User and system time of processes and their descendants so far, in seconds: of all threads, ended ones
/// too.
pub fn cpu_seconds(roots: &[u32]) -> f64 {
    tree(roots)
        .iter()
        .map(|stat| cpu_clock(stat.pid).unwrap_or(stat.ticks as f64 / TICKS))
        .sum()
}

/// The same of one process, to the nanosecond: ticks are too coarse for fractions of a second. `None` if the
/// process is gone.
fn cpu_clock(pid: u32) -> Option<f64> {
    let mut clock = 0;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: both write to what they are given, and nothing else.
    let failed = unsafe {
        libc::clock_getcpuclockid(pid.try_into().ok()?, &raw mut clock) != 0
            || libc::clock_gettime(clock, &raw mut time) != 0
    };
    (!failed).then(|| time.tv_sec as f64 + time.tv_nsec as f64 / 1e9)
}

/// User and system time of children of ours that have ended, in seconds.
pub fn ended_children_seconds() -> f64 {
    let own = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    Stat::parse(&own).map_or(0.0, |stat| stat.children_ticks as f64 / TICKS)
}

/// Memory of processes and their descendants: what is shared among them is counted once (PSS).
pub fn resident(roots: &[u32]) -> u64 {
    let of = |pid| {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        kibibytes(&rollup, "Pss:")
    };
    tree(roots)
        .iter()
        .filter_map(|stat| of(stat.pid))
        .sum::<u64>()
        * 1024
}

/// The same, quicker to ask for: what is shared is counted for each (RSS).
pub fn resident_quick(pids: &[u32]) -> u64 {
    let of = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        kibibytes(&status, "VmRSS:")
    };
    pids.iter().filter_map(of).sum::<u64>() * 1024
}

/// The ids of processes and their descendants.
pub fn pids(roots: &[u32]) -> Vec<u32> {
    tree(roots).iter().map(|stat| stat.pid).collect()
}

/// The number behind a name in a file such as `/proc/meminfo`.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

/// Time that CPUs were not idle so far, in seconds: of all processes, and time that another machine has
/// taken.
pub fn busy_seconds(cpus: &[u32]) -> f64 {
    busy(&fs::read_to_string("/proc/stat").unwrap_or_default(), cpus)
}

fn busy(stat: &str, cpus: &[u32]) -> f64 {
    let mut ticks = 0;
    for line in stat.lines() {
        let mut fields = line.split_whitespace();
        let number = fields
            .next()
            .and_then(|name| name.strip_prefix("cpu")?.parse().ok());
        if number.is_some_and(|number: u32| cpus.contains(&number)) {
            let fields: Vec<u64> = fields.map_while(|field| field.parse().ok()).collect();
            // user nice system (idle iowait) irq softirq steal; guests' time is in user and nice.
            ticks +=
                fields.iter().take(8).sum::<u64>() - fields.iter().skip(3).take(2).sum::<u64>();
        }
    }
    ticks as f64 / TICKS
}

/// The machine in a line.
pub fn description() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |name: &str| {
        cpuinfo
            .lines()
            .find_map(|line| Some(line.strip_prefix(name)?.split_once(':')?.1.trim()))
    };
    let model = value("model name").unwrap_or("a CPU that does not tell its name");
    let virtual_machine =
        value("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
    let cores = cpuinfo
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let gib = kibibytes(&memory, "MemTotal:").unwrap_or(0) as f64 / (1 << 20) as f64;
    let kernel = first_line(&["uname", "-sr"]).unwrap_or_default();
    let kind = if virtual_machine {
        "a virtual machine with "
    } else {
        ""
    };
    format!("{kind}{cores} CPUs ({model}), {gib:.0} GiB, {kernel}")
}

/// The load averages of 1, 5 and 15 minutes.
pub fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace()
        .take(3)
        .collect::<Vec<_>>()
        .join(" ")
}

/// The first line that a command prints, to either output. `None` if it is not there or prints nothing.
pub fn first_line(words: &[&str]) -> Option<String> {
    let output = Command::new(words[0]).args(&words[1..]).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    Some(text.lines().next()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(pid: u32, parent: u32) -> Stat {
        Stat {
            pid,
            parent,
            ticks: 0,
            children_ticks: 0,
        }
    }

    #[test]
    fn times_of_a_process_whose_name_has_parentheses() {
        let line =
            "4711 (a) b (c) S 17 4711 4711 0 -1 4194560 100 200 0 0 250 1750 3 4 20 0 3 0 99 1 2 3";
        let expected = Stat {
            pid: 4711,
            parent: 17,
            ticks: 2000,
            children_ticks: 7,
        };
        assert_eq!(Stat::parse(line), Some(expected));
        assert_eq!(Stat::parse("4711 (short) S 17"), None);
        assert_eq!(Stat::parse(""), None);
    }

    #[test]
    fn our_own_line_can_be_read() {
        let own = Stat::parse(&fs::read_to_string("/proc/self/stat").unwrap()).unwrap();
        assert_eq!(own.pid, std::process::id());
        let clock = cpu_clock(own.pid).unwrap();
        assert!(clock > 0.0);
        assert!(cpu_clock(own.pid).unwrap() >= clock);
        assert!(resident(&[own.pid]) > 100_000);
        assert!(resident_quick(&[own.pid]) > 100_000);
    }

    #[test]
    fn a_tree_is_found_whatever_the_order_of_its_processes() {
        let all = vec![
            stat(9, 5),
            stat(5, 3),
            stat(3, 1),
            stat(4, 1),
            stat(6, 4),
            stat(2, 3),
        ];
        let mut pids: Vec<u32> = descend(all, &[3]).iter().map(|stat| stat.pid).collect();
        pids.sort_unstable();
        assert_eq!(pids, [2, 3, 5, 9]);
    }

    #[test]
    fn busy_time_is_all_but_idle_and_waiting_of_the_cpus_asked_for() {
        let stat = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 100 10 50 9000 800 5 20 15 7 0\ncpu1 1 1 1 1 1 1 1 1 0 0\nintr 1 2\n";
        assert_eq!(busy(stat, &[0]), 2.0);
        assert_eq!(busy(stat, &[0, 1]), 2.06);
        assert_eq!(busy(stat, &[7]), 0.0);
    }

    #[test]
    fn lists_of_cpus() {
        assert_eq!("0".parse(), Ok(Cpus(vec![0])));
        assert_eq!("2,3".parse::<Cpus>().unwrap().to_string(), "2,3");
        assert!("".parse::<Cpus>().is_err());
        assert!("a".parse::<Cpus>().is_err());
    }
}
