//! What the kernel knows of this process.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use transom_arena::{PAGE, resident_bytes};

/// Resident bytes; `None` where there is no /proc.
pub(crate) fn resident() -> Option<u64> {
    let mut text = [0; 128];
    let len = File::open("/proc/self/statm")
        .and_then(|mut file| file.read(&mut text))
        .ok()?;
    pages(text.get(..len)?)?.checked_mul(PAGE as u64)
}

/// What is resident outside of the region at these addresses, in bytes: the program itself, and whatever it
/// has mapped. `None` where the kernel does not say.
pub(crate) fn resident_outside(region: &Range<usize>) -> Option<u64> {
    let inside = resident_bytes(region)? as u64;
    Some(resident()?.saturating_sub(inside))
}

/// With fewer descriptors than this a process is as good as without any: a request may want a few at a time.
const FEW: u64 = 16;

/// Whether the process can have only a few more descriptors, or none.
pub(crate) fn descriptors_run_out() -> bool {
    let Some(open) = open_descriptors() else {
        // Before Linux 6.2 they are counted by opening a folder.
        let one_more = File::open("/proc/self/statm");
        return one_more.is_err_and(|error| error.raw_os_error() == Some(libc::EMFILE));
    };
    let mut limits = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: it fills the limits. It cannot fail, and if it did they would be none.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limits) };
    open.saturating_add(FEW) > limits.rlim_cur
}

/// Open file descriptors; `None` where there is no /proc.
pub(super) fn open_descriptors() -> Option<u64> {
    let path = "/proc/self/fd";
    // Since Linux 6.2 the folder's size is the number of what is in it.
    if let Some(open) = std::fs::metadata(path).ok().filter(|it| it.len() > 0) {
        return Some(open.len());
    }
    let own = 1; // that of the folder
    let entries = std::fs::read_dir(path).ok()?.count() as u64;
    Some(entries.saturating_sub(own))
}

/// The second number of statm: resident pages.
fn pages(statm: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(statm).ok()?;
    text.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_number_counts_resident_pages() {
        assert_eq!(pages(b"25000 1234 900 10 0 5000 0\n"), Some(1234));
        assert_eq!(pages(b"25000"), None);
        assert!(resident().is_some_and(|bytes| bytes > 100_000));
    }

    #[test]
    fn open_descriptors_are_counted() {
        // More than other tests have open beside this one.
        let files: Vec<_> = (0..500).map(|_| File::open("/dev/null")).collect();
        let open = open_descriptors().expect("there is /proc");
        assert!((500..900).contains(&open), "{open} of {}", files.len());
    }
}
