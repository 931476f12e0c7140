//! What a door server thread tells about its call while it runs, for the thread that looks for lost buckets.

use crate::pace::LinePace;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// Until when a call may keep its bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// A `CLOCK_MONOTONIC` time in nanoseconds.
    Deadline(u64),
    /// As long as there is a client to serve.
    ClientHasGone,
    /// It has no deadline, and is never overdue.
    Ever,
}

impl Until {
    /// These are times in more than 500 years.
    const EVER: u64 = u64::MAX;
    const CLIENT_HAS_GONE: u64 = u64::MAX - 1;

    fn encode(self) -> u64 {
        match self {
            Until::Deadline(at) => at,
            Until::ClientHasGone => Self::CLIENT_HAS_GONE,
            Until::Ever => Self::EVER,
        }
    }

    fn decode(word: u64) -> Self {
        match word {
            Self::EVER => Until::Ever,
            Self::CLIENT_HAS_GONE => Until::ClientHasGone,
            at => Until::Deadline(at),
        }
    }
}

/// What a door server thread says of its call. That thread writes it and never reads it; the thread that
/// looks for lost buckets reads it. It means something only while the bucket is busy: at the end of a call it
/// stays as it is.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Sign {
    since_ns: AtomicU64,
    until: AtomicU64,
    /// One more than the number of the route; 0: none.
    route: AtomicU32,
    /// The call has been answered, and cleans up. Put back at its end.
    cleans_up: AtomicBool,
}

impl Sign {
    pub(crate) fn new() -> Self {
        Sign {
            since_ns: AtomicU64::new(0),
            until: AtomicU64::new(Until::EVER),
            route: AtomicU32::new(0),
            cleans_up: AtomicBool::new(false),
        }
    }

    /// A call begins.
    #[inline]
    pub(crate) fn begins(&self, since_ns: u64, until: Until) {
        self.since_ns.store(since_ns, Ordering::Relaxed);
        self.until.store(until.encode(), Ordering::Relaxed);
        self.route.store(0, Ordering::Relaxed);
    }

    /// The call hands its slot to the client, piece by piece: it may last for as long as the client does.
    #[inline]
    pub(crate) fn streams(&self) {
        let until = Until::ClientHasGone.encode();
        self.until.store(until, Ordering::Relaxed);
    }

    /// The call is answered, and what is still to run of it has begun. One that has streamed is overdue like
    /// one whose deadline is now: its slot, by which its client was watched, is another call's from here on.
    pub(crate) fn cleans_up_from(&self, now_ns: u64) {
        if self.until() == Until::ClientHasGone {
            let until = Until::Deadline(now_ns).encode();
            self.until.store(until, Ordering::Relaxed);
        }
        self.cleans_up.store(true, Ordering::Relaxed);
    }

    /// That has ended.
    pub(crate) fn has_cleaned_up(&self) {
        self.cleans_up.store(false, Ordering::Relaxed);
    }

    pub(crate) fn cleans_up(&self) -> bool {
        self.cleans_up.load(Ordering::Relaxed)
    }

    pub(crate) fn since_ns(&self) -> u64 {
        self.since_ns.load(Ordering::Relaxed)
    }

    pub(crate) fn until(&self) -> Until {
        Until::decode(self.until.load(Ordering::Relaxed))
    }

    pub(crate) fn route(&self) -> Option<usize> {
        let route = self.route.load(Ordering::Relaxed);
        (route as usize).checked_sub(1)
    }
}

/// A route that a request's path has matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Matched {
    /// Its place in the table of routes.
    pub number: usize,
    pub pattern: &'static str,
}

/// The route that a call has matched: for the thread that runs it, and for the one that looks at its sign.
#[derive(Debug)]
pub(crate) struct RouteNote<'s> {
    matched: Cell<Option<Matched>>,
    sign: &'s Sign,
}

impl<'s> RouteNote<'s> {
    #[inline]
    pub(crate) fn new(sign: &'s Sign) -> Self {
        RouteNote {
            matched: Cell::new(None),
            sign,
        }
    }

    #[inline]
    pub(crate) fn get(&self) -> Option<Matched> {
        self.matched.get()
    }

    #[inline]
    pub(crate) fn set(&self, matched: Matched) {
        self.matched.set(Some(matched));
        let route = u32::try_from(matched.number).map_or(0, |number| number.saturating_add(1));
        self.sign.route.store(route, Ordering::Relaxed);
    }
}

/// The signs of all threads, and what was noticed of each bucket.
#[derive(Debug)]
pub(crate) struct Signs {
    signs: Box<[Sign]>,
    /// When a bucket was first seen to serve a client that has gone; 0: it does not. Written by the one that
    /// looks, apart from what threads write.
    pub(crate) noticed_ns: Box<[AtomicU64]>,
    /// When the process was last seen to run again after a while in which it did not; 0: never.
    pub(crate) resumed_ns: AtomicU64,
    pub(crate) lines: LinePace,
}

impl Signs {
    /// For so many buckets.
    pub(crate) fn new(buckets: u32) -> Self {
        Signs {
            signs: (0..buckets).map(|_| Sign::new()).collect(),
            noticed_ns: (0..buckets).map(|_| AtomicU64::new(0)).collect(),
            resumed_ns: AtomicU64::new(0),
            lines: LinePace::default(),
        }
    }

    /// That of a thread.
    pub(crate) fn of(&self, thread: u32) -> &Sign {
        &self.signs[thread as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cleans_up_after_it_has_streamed_is_watched_by_the_clock() {
        let sign = Sign::new();
        sign.begins(100, Until::Deadline(900));
        sign.cleans_up_from(200);
        assert_eq!(sign.until(), Until::Deadline(900));
        sign.begins(300, Until::Deadline(900));
        sign.streams();
        sign.cleans_up_from(400);
        assert_eq!(sign.until(), Until::Deadline(400));
    }

    #[test]
    fn a_sign_names_the_route_of_the_present_call_only() {
        let sign = Sign::new();
        sign.begins(100, Until::Ever);
        assert_eq!(sign.route(), None);
        RouteNote::new(&sign).set(Matched {
            number: 0,
            pattern: "/",
        });
        assert_eq!(sign.route(), Some(0));
        sign.begins(101, Until::Ever);
        assert_eq!(sign.route(), None);
    }
}
