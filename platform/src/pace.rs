//! How often the log tells of requests that went wrong.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use transom_doors::now_ns;

/// Lines about requests that went wrong in a second; the others are counted. Otherwise a client could fill
/// disks, and a line costs more than the request that it is about.
const LINES_MAX: u32 = 20;

/// Leave to write a line about a request that went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leave {
    /// How many lines were left out since the last one, if any were: for the line to say.
    pub unlogged: Option<u64>,
}

/// How many lines may still be written about requests that went wrong.
#[derive(Debug, Default)]
pub(crate) struct LinePace {
    /// The second that the lines are counted in.
    second: AtomicU64,
    lines: AtomicU32,
    /// Not written since the last line, and in all.
    unlogged: AtomicU64,
    unlogged_in_all: AtomicU64,
}

impl LinePace {
    /// How many lines were not written.
    pub(crate) fn unlogged(&self) -> u64 {
        self.unlogged_in_all.load(Ordering::Relaxed)
    }

    /// Whether a line may be written now; if not, it is counted as left out.
    pub(crate) fn take(&self) -> Option<Leave> {
        self.take_in(now_ns() / 1_000_000_000)
    }

    /// The same, in this second. Threads that come to a new second together may get some more.
    fn take_in(&self, second: u64) -> Option<Leave> {
        if self.second.fetch_max(second, Ordering::Relaxed) < second {
            self.lines.store(0, Ordering::Relaxed);
        }
        if self.lines.fetch_add(1, Ordering::Relaxed) >= LINES_MAX {
            self.unlogged.fetch_add(1, Ordering::Relaxed);
            self.unlogged_in_all.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.always())
    }

    /// Leave for a line that is written whatever the pace is.
    pub(crate) fn always(&self) -> Leave {
        let unlogged = self.unlogged.swap(0, Ordering::Relaxed);
        Leave {
            unlogged: Some(unlogged).filter(|&lines| lines > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_so_many_lines_and_the_next_one_tells_how_many_were_left_out() {
        let pace = LinePace::default();
        let after = |left_out| {
            let unlogged = Some(left_out).filter(|&lines| lines > 0);
            Some(Leave { unlogged })
        };
        for _ in 0..LINES_MAX {
            assert_eq!(pace.take_in(7), after(0));
        }
        assert_eq!((pace.take_in(7), pace.take_in(7)), (None, None));
        assert_eq!((pace.take_in(8), pace.take_in(8)), (after(2), after(0)));
        assert_eq!(pace.unlogged(), 2);
    }
}
