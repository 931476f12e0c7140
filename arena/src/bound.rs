//! The memory equation: a sum with one named addend per line, and the holder of each.
//!
//! A [`Bound`] is stated once. The region maps what it says, the start banner prints what it says, and a plan
//! computes with what it says. There is no second copy of the arithmetic that could disagree.

use crate::Bytes;
use std::fmt;
use std::path::Path;

/// The page size this crate assumes: x86-64 Linux has no other, and an aarch64 kernel with larger pages is
/// refused at start by [`crate::Region::map`].
pub const PAGE: usize = 4096;

/// Rounds up to whole pages; `None` on overflow.
#[must_use]
pub const fn pages(bytes: usize) -> Option<usize> {
    match bytes.checked_add(PAGE - 1) {
        Some(n) => Some(n & !(PAGE - 1)),
        None => None,
    }
}

/// Where the bytes of a term lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the region: mapped once, touched before the first request.
    Region,
    /// In the process, outside the region: allocated before "ready" and constant after it.
    Process,
    /// In the kernel, on our behalf (socket buffers, thread structures).
    Kernel,
}

/// One addend: `count × unit` bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// What it is, in the words of the glossary (`buckets`, `slots`, …). Also the name of the region's part.
    pub name: &'static str,
    /// How many.
    pub count: usize,
    /// Bytes of one.
    pub unit: usize,
    /// Bytes of address space that each of them has for guards, beside its memory. They hold none.
    pub guards: usize,
    /// What holds it, for a reader that audits the number.
    pub holder: &'static str,
    /// The flags that set it.
    pub flags: &'static str,
    /// Where it lies.
    pub place: Place,
}

impl Term {
    /// `count × unit`, rounded up to pages for a part of the region. `None` on overflow.
    #[must_use]
    pub fn bytes(&self) -> Option<usize> {
        let product = self.count.checked_mul(self.unit)?;
        match self.place {
            Place::Region => pages(product),
            Place::Process | Place::Kernel => Some(product),
        }
    }
}

/// The whole sum. Having one tells you that no term and no partial sum overflows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    terms: Vec<Term>,
}

/// Why a set of terms is not a bound, or cannot hold on this machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BoundError {
    /// The sum does not fit an address space.
    #[error("{name}: {count} × {unit} is more than an address space holds; lower {flags}")]
    Overflow {
        /// The term at which the sum overflowed.
        name: &'static str,
        /// Its count.
        count: usize,
        /// Its unit.
        unit: Bytes,
        /// The flags that set it.
        flags: &'static str,
    },
    /// The sum is larger than what there is.
    #[error(
        "the bound is {total} ({total_bytes} bytes), but {limit_name} has {limit} ({limit_bytes} bytes): lower {largest_flags} ({largest_name} take {largest}), or raise the limit\n{equation}"
    )]
    OverLimit {
        /// The sum.
        total: Bytes,
        /// The sum, plain.
        total_bytes: usize,
        /// What sets the limit: the machine or a cgroup.
        limit_name: String,
        /// The limit.
        limit: Bytes,
        /// The limit, plain.
        limit_bytes: usize,
        /// The largest term.
        largest_name: &'static str,
        /// Its bytes.
        largest: Bytes,
        /// Its flags.
        largest_flags: &'static str,
        /// The equation, so that the reader can see the other terms.
        equation: String,
    },
}

impl Bound {
    /// Adds the terms up.
    ///
    /// # Errors
    /// [`BoundError::Overflow`] naming the term at which the sum leaves `usize`.
    pub fn new(terms: Vec<Term>) -> Result<Self, BoundError> {
        let mut sum = 0usize;
        for term in &terms {
            let added = term.bytes().and_then(|bytes| sum.checked_add(bytes));
            let Some(next) = added else {
                return Err(BoundError::Overflow {
                    name: term.name,
                    count: term.count,
                    unit: Bytes(term.unit),
                    flags: term.flags,
                });
            };
            sum = next;
        }
        Ok(Bound { terms })
    }

    /// The addends, in the order in which they were given.
    #[must_use]
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// Bytes of all terms at one place.
    #[must_use]
    pub fn bytes_in(&self, place: Place) -> usize {
        self.terms
            .iter()
            .filter(|term| term.place == place)
            .map(|term| term.bytes().expect("checked in Bound::new"))
            .sum()
    }

    /// Bytes of all terms.
    #[must_use]
    pub fn total(&self) -> usize {
        [Place::Region, Place::Process, Place::Kernel]
            .into_iter()
            .map(|place| self.bytes_in(place))
            .sum()
    }

    /// Refuses a bound that this process cannot have here: more than the machine, a cgroup, `ulimit -v` or
    /// `ulimit -d` allows. What the kernel holds is in no address space.
    ///
    /// # Errors
    /// [`BoundError::OverLimit`] with the largest term and its flags.
    pub fn check_here(&self) -> Result<(), BoundError> {
        self.check(&MemoryLimit::of_this_process())?;
        let mapped = self.bytes_in(Place::Region) + self.bytes_in(Place::Process);
        match MemoryLimit::of_address_space() {
            Some(limit) if mapped > limit.bytes => {
                Err(self.over(mapped, |place| place != Place::Kernel, &limit))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a bound that is larger than the machine's memory or the tightest cgroup limit above this
    /// process.
    ///
    /// # Errors
    /// [`BoundError::OverLimit`] with the largest term and its flags.
    pub fn check(&self, limit: &MemoryLimit) -> Result<(), BoundError> {
        let total = self.total();
        if total <= limit.bytes {
            return Ok(());
        }
        Err(self.over(total, |_| true, limit))
    }

    /// `total` is that of the terms at some places.
    fn over(
        &self,
        total: usize,
        counts: impl Fn(Place) -> bool,
        limit: &MemoryLimit,
    ) -> BoundError {
        let largest = self
            .terms
            .iter()
            .filter(|term| counts(term.place))
            .max_by_key(|term| term.bytes())
            .expect("a sum over a limit has at least one term");
        BoundError::OverLimit {
            total: Bytes(total),
            total_bytes: total,
            limit_name: limit.name.clone(),
            limit: Bytes(limit.bytes),
            limit_bytes: limit.bytes,
            largest_name: largest.name,
            largest: Bytes(largest.bytes().unwrap_or(usize::MAX)),
            largest_flags: largest.flags,
            equation: self.to_string(),
        }
    }
}

impl fmt::Display for Bound {
    /// A table, one addend a line, that a reader can add up with a pencil.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.terms.iter().enumerate() {
            let bytes = term.bytes().expect("checked in Bound::new");
            writeln!(
                f,
                "{sign} {bytes:>14}  {name:<18} {count:>6} × {unit:<8} {place:<8} {holder} ({flags})",
                sign = if index == 0 { ' ' } else { '+' },
                name = term.name,
                count = term.count,
                unit = Bytes(term.unit).to_string(),
                place = match term.place {
                    Place::Region => "region",
                    Place::Process => "process",
                    Place::Kernel => "kernel",
                },
                holder = term.holder,
                flags = term.flags,
            )?;
        }
        write!(
            f,
            "= {total:>14}  bytes: {region} in the region, {process} elsewhere in the process, {kernel} in the kernel",
            total = self.total(),
            region = self.bytes_in(Place::Region),
            process = self.bytes_in(Place::Process),
            kernel = self.bytes_in(Place::Kernel),
        )
    }
}

/// The most memory this process may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryLimit {
    /// What sets the limit, for an error message.
    pub name: String,
    /// How much.
    pub bytes: usize,
}

impl MemoryLimit {
    /// The tightest of the machine's memory (`/proc/meminfo`) and the limits of the cgroups above this
    /// process (`memory.max` in v2, `memory.limit_in_bytes` in v1). A file that cannot be read sets no limit.
    #[must_use]
    pub fn of_this_process() -> Self {
        let read = |path: &Path| std::fs::read_to_string(path).ok();
        let machine = read(Path::new("/proc/meminfo"))
            .and_then(|text| machine_memory(&text))
            .unwrap_or(usize::MAX);
        let mut limit = MemoryLimit {
            name: "this machine".to_owned(),
            bytes: machine,
        };
        let cgroups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
        for (file, group) in cgroup_limit_files(&cgroups) {
            let Some(bytes) = read(Path::new(&file)).and_then(|text| text.trim().parse().ok())
            else {
                continue; // "max", or no such controller here
            };
            if bytes < limit.bytes {
                limit = MemoryLimit {
                    name: format!("cgroup {group}"),
                    bytes,
                };
            }
        }
        limit
    }

    /// The lower one of `ulimit -v` (`RLIMIT_AS`) and `ulimit -d` (`RLIMIT_DATA`), if one is set: what this
    /// process may map.
    #[must_use]
    pub fn of_address_space() -> Option<Self> {
        let limit_of = |resource, name: &str| {
            // SAFETY: a zeroed rlimit is valid, and getrlimit fills it.
            let limit = unsafe {
                let mut limit: libc::rlimit = std::mem::zeroed();
                match libc::getrlimit(resource, &raw mut limit) {
                    0 => limit.rlim_cur,
                    _ => libc::RLIM_INFINITY,
                }
            };
            (limit != libc::RLIM_INFINITY).then(|| MemoryLimit {
                name: name.to_owned(),
                bytes: usize::try_from(limit).unwrap_or(usize::MAX),
            })
        };
        let limits = [
            limit_of(libc::RLIMIT_AS, "`ulimit -v` (RLIMIT_AS)"),
            limit_of(libc::RLIMIT_DATA, "`ulimit -d` (RLIMIT_DATA)"),
        ];
        limits.into_iter().flatten().min_by_key(|limit| limit.bytes)
    }

    /// The lowest `memory.high` of the cgroups above this process, if one has any: above it the kernel slows
    /// down processes that ask for memory, and ends none.
    #[must_use]
    pub fn slowed_above() -> Option<Self> {
        let cgroups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let high = |(file, group): (String, String)| {
            let file = file.strip_suffix("/memory.max")?.to_owned() + "/memory.high";
            let bytes = std::fs::read_to_string(file).ok()?.trim().parse().ok()?;
            Some(MemoryLimit {
                name: format!("memory.high of cgroup {group}"),
                bytes,
            })
        };
        let files = cgroup_limit_files(&cgroups);
        files
            .into_iter()
            .filter_map(high)
            .min_by_key(|limit| limit.bytes)
    }
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn machine_memory(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kib: usize = line.split_whitespace().nth(1)?.parse().ok()?;
    kib.checked_mul(1024)
}

/// The limit files of every cgroup from this process's own up to the root, with the group's name.
fn cgroup_limit_files(proc_self_cgroup: &str) -> Vec<(String, String)> {
    let mut files = Vec::new();
    for line in proc_self_cgroup.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(hierarchy), Some(controllers), Some(group)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let (root, file) = if hierarchy == "0" && controllers.is_empty() {
            ("/sys/fs/cgroup", "memory.max")
        } else if controllers.split(',').any(|name| name == "memory") {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            continue;
        };
        for ancestor in Path::new(group).ancestors() {
            let name = ancestor.to_string_lossy();
            let inner = name.trim_end_matches('/');
            files.push((format!("{root}{inner}/{file}"), name.into_owned()));
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(name: &'static str, count: usize, unit: usize, place: Place) -> Term {
        Term {
            name,
            count,
            unit,
            guards: 0,
            holder: "a test",
            flags: "--flag",
            place,
        }
    }

    #[test]
    fn the_total_is_the_sum_of_its_places() {
        let bound = Bound::new(vec![
            term("buckets", 8, 512 << 10, Place::Region),
            term("table", 10, 200, Place::Region), // 2000 bytes: one page
            term("queue", 3, 100, Place::Process),
            term("sockets", 2, 50, Place::Kernel),
        ])
        .expect("small");
        assert_eq!(bound.bytes_in(Place::Region), 8 * (512 << 10) + PAGE);
        assert_eq!(bound.total(), 8 * (512 << 10) + PAGE + 300 + 100);
        let text = bound.to_string();
        assert!(text.contains("8 × 512KiB"), "{text}");
        assert!(text.lines().last().unwrap().contains("4198800"), "{text}");
    }

    #[test]
    fn a_sum_that_overflows_names_the_term() {
        let error = Bound::new(vec![
            term("slots", 1, 1, Place::Process),
            term("buckets", usize::MAX / 2, 4, Place::Region),
        ])
        .expect_err("overflows");
        assert!(error.to_string().starts_with("buckets:"), "{error}");
    }

    #[test]
    fn a_bound_over_the_limit_is_refused_with_the_largest_term_and_its_flag() {
        let bound = Bound::new(vec![
            term("buckets", 4, 1 << 20, Place::Region),
            term("slots", 1, PAGE, Place::Region),
        ])
        .expect("small");
        let limit = MemoryLimit {
            name: "cgroup /web".to_owned(),
            bytes: 1 << 20,
        };
        let error = bound.check(&limit).expect_err("too large").to_string();
        for part in ["cgroup /web", "buckets take 4MiB", "--flag", "1MiB"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        let enough = MemoryLimit {
            bytes: bound.total(),
            ..limit
        };
        assert_eq!(bound.check(&enough), Ok(()));
    }

    #[test]
    fn limits_are_looked_for_in_every_cgroup_up_to_the_root() {
        let files = cgroup_limit_files("0::/system.slice/web.service\n");
        let paths: Vec<_> = files.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "/sys/fs/cgroup/system.slice/web.service/memory.max",
                "/sys/fs/cgroup/system.slice/memory.max",
                "/sys/fs/cgroup/memory.max",
            ]
        );
        let old = cgroup_limit_files("5:cpu,memory:/a\n4:pids:/a\n");
        assert_eq!(old[0].0, "/sys/fs/cgroup/memory/a/memory.limit_in_bytes");
        assert_eq!(old.len(), 2);
    }

    #[test]
    fn the_machines_memory_is_read_in_bytes() {
        assert_eq!(
            machine_memory("MemTotal:       24000 kB\nMemFree: 1 kB\n"),
            Some(24_000 * 1024)
        );
        assert_eq!(machine_memory("nothing"), None);
        if !cfg!(miri) {
            assert!(MemoryLimit::of_this_process().bytes > 1 << 20);
        }
    }
}
