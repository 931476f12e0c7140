//! What is counted of an application's requests: by route how much memory each needed and how long it held
//! its bucket, and which requests outgrew it.

use crate::service::Service;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use transom_arena::{Exhaustion, Reason};
use transom_wire::histogram::{Histogram, Scale};

/// Longer calls than this (in nanoseconds) are counted as above all bounds.
const CALL_MOST_NS: u64 = 64_000_000_000;

/// Culprits that are remembered.
const CULPRITS: usize = 16;

/// What is counted for one route.
#[derive(Debug)]
pub struct RouteMeter {
    /// The pattern, or what stands for "none".
    pub route: &'static str,
    /// Arena bytes that each request needed: its extent, or, of one that did not fit, what it had reached and
    /// the allocation that was refused.
    pub memory: Histogram,
    /// Nanoseconds for which each call held its bucket.
    pub call_time: Histogram,
    exhausted: AtomicU64,
    c_leaked: AtomicU64,
    /// One of its requests has left memory in its bucket, and the log has said so.
    has_left: AtomicBool,
}

impl RouteMeter {
    fn new(route: &'static str, arena_size: usize) -> Self {
        RouteMeter {
            route,
            memory: Histogram::new(Scale::BYTES, arena_size as u64),
            call_time: Histogram::new(Scale::NANOSECONDS, CALL_MOST_NS),
            exhausted: AtomicU64::new(0),
            c_leaked: AtomicU64::new(0),
            has_left: AtomicBool::new(false),
        }
    }

    /// True once.
    pub(crate) fn is_first_to_leave(&self) -> bool {
        !self.has_left.swap(true, Ordering::Relaxed)
    }

    /// One of its requests was left by a jump while it had so many bytes of the C heap.
    pub(crate) fn count_c_leak(&self, bytes: usize) {
        self.c_leaked.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes of the C heap that its requests had when they were left by a jump.
    #[must_use]
    pub fn c_leaked(&self) -> u64 {
        self.c_leaked.load(Ordering::Relaxed)
    }

    /// How many of its requests outgrew their bucket or found the shared heap full.
    #[must_use]
    pub fn exhausted(&self) -> u64 {
        self.exhausted.load(Ordering::Relaxed)
    }
}

/// A request that outgrew its bucket, or found the shared heap full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Culprit {
    /// Counts them from 1.
    pub number: u64,
    /// When, in milliseconds of Unix time.
    pub unix_ms: u64,
    /// Its route.
    pub route: &'static str,
    /// What did not fit.
    pub exhaustion: Exhaustion,
    /// Its bucket is lost until the process is replaced.
    pub parked: bool,
}

/// The meters of an application. All memory is taken when they are made.
#[derive(Debug)]
pub(crate) struct Meters {
    /// By number of the route; the last one for what has none.
    routes: Box<[RouteMeter]>,
    /// Room for the sum of what each has counted of memory.
    all: Histogram,
    /// How many culprits there were.
    count: AtomicU64,
    culprits: Mutex<[Option<Culprit>; CULPRITS]>,
}

impl Meters {
    /// `service` lives as long as the process.
    pub(crate) fn new(service: &'static Service, arena_size: usize) -> Self {
        let patterns = match service {
            Service::Requests(routes) => Some(routes.patterns()),
            Service::Connections(_) | Service::Datagrams(_) => None,
        };
        let names = patterns.into_iter().flatten();
        let routes = names
            .chain(std::iter::once(service.no_route()))
            .map(|route| RouteMeter::new(route, arena_size))
            .collect();
        Meters {
            routes,
            all: Histogram::new(Scale::BYTES, arena_size as u64),
            count: AtomicU64::new(0),
            culprits: Mutex::new([None; CULPRITS]),
        }
    }

    /// The meter of a route, by its number; `None`: there was no route.
    #[inline]
    pub(crate) fn of(&self, route: Option<usize>) -> &RouteMeter {
        let last = self.routes.len() - 1;
        &self.routes[route.unwrap_or(last).min(last)]
    }

    pub(crate) fn routes(&self) -> &[RouteMeter] {
        &self.routes
    }

    /// The memory of the requests of all routes, up to now. To be asked once, at the end.
    pub(crate) fn memory_of_all(&self) -> &Histogram {
        for meter in &self.routes {
            self.all.add(&meter.memory);
        }
        &self.all
    }

    /// Counts a request that did not fit.
    pub(crate) fn count_culprit(&self, meter: &RouteMeter, exhaustion: &Exhaustion) {
        meter.exhausted.fetch_add(1, Ordering::Relaxed);
        if exhaustion.reason == Reason::Arena {
            let reached = exhaustion.size.saturating_sub(exhaustion.free);
            let needed = reached.saturating_add(exhaustion.asked.max(exhaustion.free + 1));
            meter.memory.observe(needed as u64);
        }
    }

    /// Puts it on the list. Never waits, because it may be called on a signal's stack: when two do so at the
    /// same moment, or one while the list is read, it may get a number but no place. There must be stack for
    /// it: an overflow in the middle would leave the list locked.
    pub(crate) fn list_culprit(&self, meter: &RouteMeter, exhaustion: &Exhaustion, parked: bool) {
        let number = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let Ok(mut last) = self.culprits.try_lock() else {
            return;
        };
        last[number as usize % CULPRITS] = Some(Culprit {
            number,
            unix_ms: unix_ms(),
            route: meter.route,
            exhaustion: *exhaustion,
            parked,
        });
    }

    /// The last ones, newest first.
    pub(crate) fn culprits(&self) -> impl Iterator<Item = Culprit> + use<> {
        // Nothing in it can panic, so it is not poisoned.
        let last = self.culprits.lock().map_or([None; CULPRITS], |last| *last);
        let count = self.count.load(Ordering::Relaxed);
        (0..CULPRITS as u64).filter_map(move |back| {
            let number = count.checked_sub(back)?;
            last[number as usize % CULPRITS].filter(|culprit| culprit.number == number)
        })
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Request, Response, Router};

    fn nothing(_: &Request) -> Response<'_> {
        Response::text("")
    }

    fn meters() -> Meters {
        let routes = Router::new().get("/a", nothing).get("/b/{x}", nothing);
        let service: Service = routes.build().expect("two routes").into();
        Meters::new(Box::leak(Box::new(service)), 100_000)
    }

    fn exhaustion(asked: usize) -> Exhaustion {
        Exhaustion {
            reason: Reason::Arena,
            asked,
            used: 90_000,
            free: 10_000,
            size: 100_000,
        }
    }

    #[test]
    fn each_route_has_a_meter_and_so_has_what_has_none() {
        let meters = meters();
        let names: Vec<_> = meters.routes().iter().map(|meter| meter.route).collect();
        assert_eq!(names, ["/a", "/b/{x}", "(no route)"]);
        assert_eq!(meters.of(Some(1)).route, "/b/{x}");
        assert_eq!(meters.of(None).route, "(no route)");
    }

    #[test]
    fn what_a_culprit_needed_is_what_it_had_and_what_did_not_fit() {
        let meters = meters();
        let meter = meters.of(Some(0));
        meters.count_culprit(meter, &exhaustion(20_000));
        assert_eq!((meter.memory.max(), meter.exhausted()), (110_000, 1));
        // Asked through `&Bump`: more than there was.
        meters.count_culprit(meters.of(Some(1)), &exhaustion(0));
        assert_eq!(meters.of(Some(1)).memory.max(), 100_001);
        let stack = Exhaustion {
            reason: Reason::Stack,
            ..exhaustion(0)
        };
        meters.count_culprit(meter, &stack);
        assert_eq!(
            (meter.memory.count(), meter.exhausted()),
            (1, 2),
            "a stack says nothing of the arena"
        );
    }

    #[test]
    fn the_last_culprits_come_newest_first() {
        let meters = meters();
        assert_eq!(meters.culprits().count(), 0);
        for asked in 1..=40 {
            meters.list_culprit(meters.of(None), &exhaustion(asked), asked == 40);
        }
        let seen: Vec<_> = meters.culprits().collect();
        assert_eq!(seen.len(), CULPRITS);
        for (n, culprit) in seen.iter().enumerate() {
            assert_eq!(culprit.number, 40 - n as u64);
            assert_eq!(culprit.exhaustion.asked as u64, culprit.number);
            assert_eq!(culprit.parked, n == 0);
        }
    }
}
