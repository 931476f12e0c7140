//! The region: one mapping, laid out from the terms of the [`Bound`], with guards between its parts.
//!
//! It is mapped once and never unmapped: buckets, slots and tables in it are referred to for as long as the
//! process lives. A guard page costs address space and no memory.

use crate::bound::{Bound, PAGE, Place};
use crate::futex::silently;
use memmap2::{MmapMut, MmapOptions};
use std::fs;
use std::io;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::ptr::NonNull;

/// A lightweight guard: a marker in the page tables, which splits no mapping (madvise(2), Linux 6.13).
const MADV_GUARD_INSTALL: libc::c_int = 102;
const MADV_GUARD_REMOVE: libc::c_int = 103;

/// Below this a second thread costs more than it saves: touching runs at about 4 GiB/s a core.
const PARALLEL_TOUCH_MIN: usize = 128 << 20;

/// What is done to the region's memory before the first request.
#[derive(Debug, Clone, Copy, Default)]
pub struct RegionOptions {
    /// Leave the memory untouched; the kernel provides it page by page on first use.
    pub lazy: bool,
    /// Keep it in physical memory (`mlock2`).
    pub lock: bool,
    /// Ask for transparent huge pages where parts are large enough.
    pub huge_pages: bool,
}

/// Why the region cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// The kernel refused the mapping.
    #[error(
        "cannot map {bytes} bytes for the region: {source}; lower --buckets, --bucket-size, --slots or --connections, or raise `ulimit -v` and vm.overcommit_memory"
    )]
    Map {
        /// Bytes asked for, guard pages included.
        bytes: usize,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A guard page could not be made.
    #[error("cannot make a guard page: {source}")]
    Guard {
        /// The kernel's reason.
        source: io::Error,
    },
    /// This kernel has no lightweight guards, and the ordinary ones would not fit its table of mappings.
    #[error(
        "{guards} guard pages need {needed} entries in the table of mappings, but vm.max_map_count is {limit}: lower --buckets, or raise it with `sysctl vm.max_map_count={needed}`, or use Linux 6.13 or later, whose guard pages need none"
    )]
    MapCount {
        /// Guard pages wanted.
        guards: usize,
        /// Entries needed.
        needed: usize,
        /// Entries allowed.
        limit: usize,
    },
    /// The memory could not be locked.
    #[error(
        "--lock: cannot lock {bytes} bytes in memory: {source}; raise `ulimit -l` (now {limit} KiB) or grant CAP_IPC_LOCK"
    )]
    Lock {
        /// Bytes to be locked.
        bytes: usize,
        /// RLIMIT_MEMLOCK in KiB.
        limit: u64,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The memory is not there.
    #[error(
        "cannot touch the region's {bytes} bytes: {source}; lower --buckets or --bucket-size, or start with --lazy"
    )]
    Touch {
        /// Bytes to be touched.
        bytes: usize,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Pages of another size than the geometry assumes.
    #[error("this kernel's pages have {0} bytes; Transom lays its region out in pages of 4096")]
    PageSize(usize),
    /// The layout does not fit an address space.
    #[error(
        "the region and its guard pages do not fit the address space; lower --buckets or --bucket-size"
    )]
    TooLarge,
}

/// A part of the region: `count × unit` bytes that nothing else refers to.
#[derive(Debug)]
pub struct Part {
    /// The term's name.
    pub name: &'static str,
    /// How many units.
    pub count: usize,
    /// Bytes of one.
    pub unit: usize,
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a Part is the only handle on its bytes (Region::take gives each part away once), which live for
// ever and are not tied to a thread.
unsafe impl Send for Part {}

impl Part {
    /// The first byte; page-aligned.
    #[must_use]
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Bytes, a multiple of [`PAGE`].
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes the first of `n` equal shares off this part, which keeps the others.
    ///
    /// # Panics
    /// If the part does not divide into `n` shares of whole pages: the layout was computed wrongly.
    #[must_use]
    pub fn share(&mut self, n: usize) -> Part {
        assert!(
            self.len.is_multiple_of(n * PAGE),
            "{} bytes into {n}",
            self.len
        );
        let len = self.len / n;
        let first = Part {
            name: self.name,
            count: self.count,
            unit: self.unit,
            base: self.base,
            len,
        };
        // SAFETY: len ≤ self.len, so the result is in or one past the part.
        self.base = unsafe { self.base.add(len) };
        self.len -= len;
        first
    }

    /// The bytes, zeroed at the start, for ever.
    #[must_use]
    pub fn into_slice(self) -> &'static mut [u8] {
        // SAFETY: the part is valid for reads and writes of `len` bytes, is never unmapped, was zeroed by the
        // kernel (anonymous mapping), and `self` was the only handle on it.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }
}

/// The region. Dropping it does not unmap anything.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    len: usize,
    parts: Vec<Part>,
    /// Offsets of guards and their lengths, ascending once [`Region::commit`] has sorted them.
    guards: Vec<(usize, usize)>,
    options: RegionOptions,
}

impl Region {
    /// Maps one stretch of address space with a part for every term of `bound` whose place is the region, a
    /// guard page before each part and one at the end. Nothing is touched before [`Region::commit`].
    ///
    /// # Errors
    /// [`RegionError`].
    pub fn map(bound: &Bound, options: RegionOptions) -> Result<Self, RegionError> {
        let page = page_size();
        if page != PAGE {
            return Err(RegionError::PageSize(page));
        }
        let mut offsets = Vec::new();
        let mut len = PAGE;
        for term in bound.terms().iter().filter(|t| t.place == Place::Region) {
            let guards = term.count.checked_mul(term.guards);
            let bytes = term.bytes().zip(guards);
            let bytes = bytes.and_then(|(bytes, guards)| bytes.checked_add(guards));
            let bytes = bytes.ok_or(RegionError::TooLarge)?;
            offsets.push((term, len, bytes));
            len = len
                .checked_add(bytes)
                .and_then(|n| n.checked_add(PAGE))
                .ok_or(RegionError::TooLarge)?;
        }
        let mapping: MmapMut = MmapOptions::new()
            .len(len)
            .map_anon()
            .map_err(|source| RegionError::Map { bytes: len, source })?;
        let mut mapping = ManuallyDrop::new(mapping); // lives as long as the process
        let base = NonNull::new(mapping.as_mut_ptr()).expect("mmap never returns null on success");
        if options.huge_pages {
            // SAFETY: the range is ours; MADV_HUGEPAGE changes no content. Where the kernel has no huge pages
            // it refuses, and the region works with small ones as before.
            unsafe { libc::madvise(base.as_ptr().cast(), len, libc::MADV_HUGEPAGE) };
        }
        let parts = offsets
            .iter()
            .map(|&(term, offset, bytes)| Part {
                name: term.name,
                count: term.count,
                unit: term.unit,
                // SAFETY: offset + bytes ≤ len by construction.
                base: unsafe { base.add(offset) },
                len: bytes,
            })
            .collect();
        let mut guards: Vec<_> = offsets
            .iter()
            .map(|&(_, offset, _)| (offset - PAGE, PAGE))
            .collect();
        guards.push((len - PAGE, PAGE));
        Ok(Region {
            base,
            len,
            parts,
            guards,
            options,
        })
    }

    /// Gives a part away, once.
    #[must_use]
    pub fn take(&mut self, name: &str) -> Option<Part> {
        let index = self.parts.iter().position(|part| part.name == name)?;
        Some(self.parts.remove(index))
    }

    /// Asks for a guard of `len` bytes at `address`, to be made by [`Region::commit`].
    pub(crate) fn guard(&mut self, address: NonNull<u8>, len: usize) {
        let offset = address.as_ptr() as usize - self.base.as_ptr() as usize;
        debug_assert!(offset.is_multiple_of(PAGE) && offset + len <= self.len);
        self.guards.push((offset, len));
    }

    /// Makes the guard pages, then touches and locks the memory between them as the options say.
    ///
    /// # Errors
    /// [`RegionError`]; the process should end with its sentence.
    pub fn commit(&mut self) -> Result<(), RegionError> {
        self.guards.sort_unstable();
        self.guards.dedup();
        self.install_guards()?;
        if !self.options.lazy {
            self.touch()?;
        }
        if self.options.lock {
            self.lock()?;
        }
        Ok(())
    }

    /// The address range of the region, guard pages included.
    #[must_use]
    pub fn addresses(&self) -> Range<usize> {
        let base = self.base.as_ptr() as usize;
        base..base + self.len
    }

    fn install_guards(&self) -> Result<(), RegionError> {
        let mut lightweight = true;
        for &(offset, len) in &self.guards {
            // SAFETY: the pages lie in our mapping and, as they are a guard, nothing refers to them.
            let page = unsafe { self.base.add(offset) }.as_ptr().cast();
            if lightweight {
                // SAFETY: as above; on success the pages fault on every access.
                if unsafe { guard_lightly(page, len) } {
                    continue;
                }
                lightweight = false;
                self.check_map_count()?;
            }
            // SAFETY: as above.
            if unsafe { libc::mprotect(page, len, libc::PROT_NONE) } != 0 {
                return Err(RegionError::Guard {
                    source: io::Error::last_os_error(),
                });
            }
        }
        Ok(())
    }

    /// A guard made by mprotect splits its mapping in three.
    fn check_map_count(&self) -> Result<(), RegionError> {
        let limit = fs::read_to_string("/proc/sys/vm/max_map_count")
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(65_530);
        let guards = self.guards.len();
        let needed = 2 * guards + 1024; // and what libraries, stacks and files of the process take
        if needed > limit {
            return Err(RegionError::MapCount {
                guards,
                needed,
                limit,
            });
        }
        Ok(())
    }

    /// The stretches between guards, as offset ranges.
    fn usable(&self) -> Vec<Range<usize>> {
        let ends = self.guards.iter().skip(1);
        self.guards
            .iter()
            .zip(ends)
            .map(|(&(start, len), &(end, _))| start + len..end)
            .filter(|range| !range.is_empty())
            .collect()
    }

    fn touch(&self) -> Result<(), RegionError> {
        let ranges = self.usable();
        let bytes: usize = ranges.iter().map(ExactSizeIterator::len).sum();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if bytes < PARALLEL_TOUCH_MIN { 1 } else { cores };
        let base = self.base.as_ptr() as usize;
        let share = ranges.len().div_ceil(threads).max(1);
        let results: Vec<io::Result<()>> = std::thread::scope(|scope| {
            let workers: Vec<_> = ranges
                .chunks(share)
                .map(|chunk| {
                    scope.spawn(move || {
                        chunk
                            .iter()
                            .try_for_each(|range| touch_range(base + range.start, range.len()))
                    })
                })
                .collect();
            workers
                .into_iter()
                .map(|worker| worker.join().expect("touching does not panic"))
                .collect()
        });
        results
            .into_iter()
            .collect::<io::Result<()>>()
            .map_err(|source| RegionError::Touch { bytes, source })
    }

    fn lock(&self) -> Result<(), RegionError> {
        // MLOCK_ONFAULT, because a plain mlock would fault in the guard pages too, and fail on them. What has
        // been touched is locked now; with --lazy, the rest as it comes.
        // SAFETY: locking changes no content.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mlock2,
                self.base.as_ptr(),
                self.len,
                libc::MLOCK_ONFAULT as libc::c_uint,
            )
        };
        if result == 0 {
            return Ok(());
        }
        let source = io::Error::last_os_error();
        // SAFETY: a zeroed rlimit is a valid one, and getrlimit fills it.
        let limit = unsafe {
            let mut limit: libc::rlimit = std::mem::zeroed();
            libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit);
            limit.rlim_cur / 1024
        };
        Err(RegionError::Lock {
            bytes: self.len,
            limit,
            source,
        })
    }
}

/// Provides every page of a range, by one system call where the kernel can (Linux 5.14), else by writing to
/// each.
fn touch_range(address: usize, len: usize) -> io::Result<()> {
    // SAFETY: the range lies in our mapping between guards; populating changes no content.
    let result = unsafe { libc::madvise(address as *mut _, len, libc::MADV_POPULATE_WRITE) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() != Some(libc::EINVAL) {
        return Err(error);
    }
    for page in (address..address + len).step_by(PAGE) {
        let page = page as *mut u8;
        // SAFETY: the page is ours, mapped writable; nothing refers to it yet. Volatile, so that the write
        // stays.
        unsafe { page.write_volatile(page.read_volatile()) };
    }
    Ok(())
}

/// Makes a guard of the region, or a part of one, memory that can be used: zeroed, unless it is locked in
/// memory and was used before. Whether the kernel has done it. Async-signal-safe.
pub(crate) fn open(address: usize, len: usize) -> bool {
    let page = address as *mut libc::c_void;
    // SAFETY: the caller names a guard of ours, which nothing refers to. The first call does nothing where
    // guards were made by mprotect, and the second does nothing where they were not.
    silently(|| unsafe {
        libc::madvise(page, len, MADV_GUARD_REMOVE);
        libc::mprotect(page, len, libc::PROT_READ | libc::PROT_WRITE) == 0
    })
}

/// Makes memory of the region a guard (again). Whether the kernel has done it.
///
/// # Safety
/// Nothing refers to it.
pub(crate) unsafe fn close(address: usize, len: usize) -> bool {
    let page = address as *mut libc::c_void;
    // SAFETY: by the caller's promise. Memory that is locked cannot have a lightweight guard, and is not
    // given back.
    silently(|| unsafe {
        if guard_lightly(page, len) {
            return true;
        }
        libc::madvise(page, len, libc::MADV_DONTNEED);
        libc::mprotect(page, len, libc::PROT_NONE) == 0
    })
}

/// Makes a lightweight guard. Whether it is one: emulators say yes to advice that they do not know (qemu-user
/// does), and then its pages can be read.
///
/// # Safety
/// Nothing refers to the memory.
unsafe fn guard_lightly(page: *mut libc::c_void, len: usize) -> bool {
    // SAFETY: the caller's promise; the second call changes no content.
    unsafe {
        libc::madvise(page, len, MADV_GUARD_INSTALL) == 0
            && libc::madvise(page, PAGE, libc::MADV_POPULATE_READ) != 0
    }
}

/// How many bytes of mapped addresses are in memory. Guards are not. `None` where the kernel does not say.
#[must_use]
pub fn resident_bytes(addresses: &Range<usize>) -> Option<usize> {
    let mut pages = [0u8; 4096];
    let mut resident = 0;
    for start in addresses.clone().step_by(pages.len() * PAGE) {
        let len = (pages.len() * PAGE).min(addresses.end - start);
        // SAFETY: the array has a byte for each page of the range; the call only reads page tables.
        let result = unsafe { libc::mincore(start as *mut _, len, pages.as_mut_ptr()) };
        if result != 0 {
            return None;
        }
        let here = &pages[..len.div_ceil(PAGE)];
        resident += PAGE * here.iter().filter(|&&page| page & 1 == 1).count();
    }
    Some(resident)
}

fn page_size() -> usize {
    // SAFETY: sysconf only reads a constant.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(0)
}

/// Bytes of address space that guards between parts add to a bound with `parts` parts.
#[must_use]
pub fn guard_bytes(parts: usize) -> usize {
    (parts + 1) * PAGE
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use crate::bound::Term;

    fn bound(terms: &[(&'static str, usize, usize)]) -> Bound {
        let terms = terms
            .iter()
            .map(|&(name, count, unit)| Term {
                name,
                count,
                unit,
                guards: 0,
                holder: "a test",
                flags: "--test",
                place: Place::Region,
            })
            .collect();
        Bound::new(terms).expect("small")
    }

    fn resident(address: usize, len: usize) -> usize {
        resident_bytes(&(address..address + len)).expect("it is mapped") / PAGE
    }

    /// Whether a write there is refused: tried through a system call, which fails where a store would kill
    /// us.
    fn is_guard(address: usize) -> bool {
        let (mut ends, byte) = ([0; 2], 7u8);
        // SAFETY: plain system calls on descriptors that this function makes and closes; read(2) into an
        // address it may not write returns EFAULT.
        unsafe {
            assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
            assert_eq!(libc::write(ends[1], (&raw const byte).cast(), 1), 1);
            let refused = libc::read(ends[0], address as *mut _, 1) == -1
                && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT);
            libc::close(ends[0]);
            libc::close(ends[1]);
            refused
        }
    }

    #[test]
    fn parts_have_the_bytes_of_their_terms_and_guards_on_both_sides() {
        let bound = bound(&[("slots", 3, 5 * PAGE), ("table", 100, 200)]);
        let mut region = Region::map(&bound, RegionOptions::default()).expect("maps");
        region.commit().expect("commits");
        let slots = region.take("slots").expect("slots");
        let table = region.take("table").expect("table");
        assert!(region.take("slots").is_none(), "a part is given away once");
        assert_eq!((slots.len(), table.len()), (15 * PAGE, 5 * PAGE));
        for part in [&slots, &table] {
            let base = part.base().as_ptr() as usize;
            assert!(is_guard(base - PAGE) && is_guard(base + part.len()));
            assert!(!is_guard(base) && !is_guard(base + part.len() - 1));
        }
        assert_eq!(
            region.addresses().len(),
            bound.bytes_in(Place::Region) + guard_bytes(2)
        );
    }

    #[test]
    fn a_touched_region_is_resident_and_a_lazy_one_is_not() {
        let bound = bound(&[("slots", 64, PAGE)]);
        for lazy in [false, true] {
            let options = RegionOptions {
                lazy,
                ..RegionOptions::default()
            };
            let mut region = Region::map(&bound, options).expect("maps");
            region.commit().expect("commits");
            let part = region.take("slots").expect("slots");
            let pages = resident(part.base().as_ptr() as usize, part.len());
            assert_eq!(pages, if lazy { 0 } else { 64 }, "lazy: {lazy}");
            // Of the whole region: its guards are not in memory.
            let bytes = resident_bytes(&region.addresses());
            assert_eq!(bytes, Some(pages * PAGE), "lazy: {lazy}");
        }
    }

    #[test]
    fn a_large_region_is_touched_by_several_threads_without_a_gap() {
        let bound = bound(&[("slots", 1, PARALLEL_TOUCH_MIN), ("table", 1, PAGE)]);
        let mut region = Region::map(&bound, RegionOptions::default()).expect("maps");
        region.commit().expect("commits");
        let part = region.take("slots").expect("slots");
        let (base, len) = (part.base().as_ptr() as usize, part.len());
        assert_eq!(resident(base, len), len / PAGE);
        // SAFETY: the part is ours and nothing else refers to it; later use would fault.
        unsafe { libc::munmap(base as *mut _, len) };
    }

    #[test]
    fn a_locked_region_says_why_when_it_cannot_be_locked() {
        let bound = bound(&[("slots", 4, PAGE)]);
        let options = RegionOptions {
            lock: true,
            ..RegionOptions::default()
        };
        let mut region = Region::map(&bound, options).expect("maps");
        if let Err(error) = region.commit() {
            assert!(error.to_string().starts_with("--lock:"), "{error}");
        }
    }

    #[test]
    fn a_region_larger_than_the_address_space_is_refused() {
        let bound = bound(&[("buckets", 1 << 20, 1 << 40)]);
        let error = Region::map(&bound, RegionOptions::default()).expect_err("an exbibyte");
        assert!(error.to_string().contains("cannot map"), "{error}");
    }
}
