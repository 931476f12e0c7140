//! Buckets that are lost: what counts as lost, and how they are found.
//!
//! A bucket is lost when it takes no requests and may never take one again: its request was parked, its
//! handler has not returned long after the client stopped waiting, or its thread had to leave and no other
//! one serves there. A process with too many of them is replaced (`--lost-limit`).
//!
//! A door server thread says what it does on a cache line of its own ([`Sign`]): four relaxed stores for a
//! call. Another thread looks at all of them now and then ([`LossWatch::look`]). This file does not know what
//! is done about lost buckets.

use crate::application::Application;
use crate::keeping::Stage;
use crate::pace::Leave;
use crate::sign::{Sign, Until};
use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;
use transom_arena::{Bucket, BucketState, fault_signal_taken};
use transom_doors::now_ns;
use transom_wire::own_log::{info, warn};

/// A call is overdue, and its bucket lost, so long after its deadline. Its client got a 504 at the deadline;
/// a handler that watches its deadline itself gets this much to notice, to clean up and to return.
pub const OVERDUE_AFTER: Duration = Duration::from_secs(5);

/// When no bucket has been free for so long, that is said.
const FULL_AFTER: Duration = Duration::from_secs(5);

/// Between two looks while a bucket is lost that may come back.
const LOOK_OFTEN: Duration = Duration::from_millis(250);

/// Between two looks while nothing is suspicious. A call that begins after a look cannot be lost before this
/// much time has passed, because [`OVERDUE_AFTER`] counts from its beginning at the earliest.
const LOOK_SELDOM: Duration = OVERDUE_AFTER;

/// A look that comes this much too late had no processor: the process was stopped, or the machine was busy.
/// Handlers had none either, and get their time anew.
const LATE: Duration = Duration::from_secs(1);

/// Why a bucket is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Its request was parked. It never comes back.
    Parked,
    /// It has been out of service for longer than `--keep-timeout`: what it keeps is too much, its thread
    /// does not end, or no new one can be started or comes to serve.
    Resting,
    /// Its call has not ended [`OVERDUE_AFTER`] its deadline, or after its client has gone.
    Overdue,
}

/// How many buckets are lost now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// By [`Loss::Parked`].
    pub parked: u32,
    /// By [`Loss::Resting`].
    pub resting: u32,
    /// By [`Loss::Overdue`].
    pub overdue: u32,
}

impl Lost {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.parked + self.resting + self.overdue
    }

    fn count(&mut self, loss: Loss) {
        match loss {
            Loss::Parked => self.parked += 1,
            Loss::Resting => self.resting += 1,
            Loss::Overdue => self.overdue += 1,
        }
    }
}

/// What the state of a bucket says about whether it is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// It is not.
    Sound,
    /// It is once its call is overdue.
    Calling,
    /// It is once that has lasted for `--keep-timeout`.
    Resting,
    /// It is.
    Parked,
}

/// The one place where a state of buckets gets its class.
fn class_of(state: BucketState) -> Class {
    match state {
        BucketState::Unbound | BucketState::Idle => Class::Sound,
        BucketState::Busy => Class::Calling,
        BucketState::Resting => Class::Resting,
        BucketState::Parked => Class::Parked,
    }
}

/// What a sign does not say. Both are times in nanoseconds, and 0 for never.
#[derive(Clone, Copy, Debug)]
struct Noticed {
    /// Since when the bucket rests, or was seen to serve a client that has gone.
    at_ns: u64,
    /// That the process runs again.
    resumed_ns: u64,
}

/// From when on a bucket of that class is lost, and by what; `None`: never, as things are.
fn lost_from(
    class: Class,
    sign: &Sign,
    noticed: Noticed,
    keep_timeout: Duration,
) -> Option<(u64, Loss)> {
    let after = |at_ns: u64, time: Duration| at_ns.saturating_add(time.as_nanos() as u64);
    let resumed_ns = noticed.resumed_ns;
    let noticed = Some(noticed.at_ns).filter(|&at_ns| at_ns != 0);
    match (class, sign.until()) {
        (Class::Sound, _) | (Class::Calling, Until::Ever) => None,
        (Class::Parked, _) => Some((0, Loss::Parked)),
        (Class::Resting, _) => {
            noticed.map(|at_ns| (after(at_ns.max(resumed_ns), keep_timeout), Loss::Resting))
        }
        (Class::Calling, Until::ClientHasGone) => {
            noticed.map(|at_ns| (after(at_ns.max(resumed_ns), OVERDUE_AFTER), Loss::Overdue))
        }
        (Class::Calling, Until::Deadline(at_ns)) => {
            // A client in another process may have given a time that was over before it called.
            let at_ns = at_ns.max(sign.since_ns()).max(resumed_ns);
            Some((after(at_ns, OVERDUE_AFTER), Loss::Overdue))
        }
    }
}

impl Application {
    /// How many buckets are lost now.
    #[must_use]
    pub fn lost(&self) -> Lost {
        let mut lost = Lost::default();
        let losses = (0..self.buckets().len()).filter_map(|bucket| self.loss_of(bucket));
        losses.for_each(|loss| lost.count(loss));
        lost
    }

    /// Why one of the buckets is lost now, if it is.
    #[must_use]
    pub fn loss_of(&self, bucket: u32) -> Option<Loss> {
        let (from_ns, loss) = self.lost_from(bucket)?;
        (from_ns <= now_ns()).then_some(loss)
    }

    /// How many calls have failed, are answered, and still clean up; without those that are lost.
    #[must_use]
    pub fn cleaning_up(&self) -> u32 {
        let cleans_up =
            |&bucket: &u32| self.signs().of(bucket).cleans_up() && self.loss_of(bucket).is_none();
        (0..self.buckets().len()).filter(cleans_up).count() as u32
    }

    fn class_of(&self, bucket: u32) -> Class {
        let state = self.buckets().get(bucket).map(Bucket::state);
        self.class_and_since(bucket, state.unwrap_or(BucketState::Unbound))
            .0
    }

    /// What its state says, and since when it rests if it does.
    fn class_and_since(&self, bucket: u32, state: BucketState) -> (Class, u64) {
        let (stage, since_ns) = self.keeping().way_of(bucket, state);
        let class = match class_of(state) {
            Class::Parked => Class::Parked,
            _ if matches!(stage, Stage::Prepares | Stage::Waits) => Class::Resting,
            class => class,
        };
        (class, since_ns)
    }

    fn lost_from(&self, bucket: u32) -> Option<(u64, Loss)> {
        let state = self.buckets().get(bucket)?.state();
        let (class, since_ns) = self.class_and_since(bucket, state);
        let signs = self.signs();
        let noticed = Noticed {
            at_ns: match class {
                Class::Resting => since_ns,
                _ => signs.noticed_ns[bucket as usize].load(Ordering::Relaxed),
            },
            resumed_ns: signs.resumed_ns.load(Ordering::Relaxed),
        };
        lost_from(
            class,
            signs.of(bucket),
            noticed,
            self.options().keep_timeout,
        )
    }

    /// Notes when a bucket was first seen to serve a client that has gone, which it may do only for a while.
    fn notice(&self, bucket: u32, now_ns: u64) {
        let state = self.buckets().get(bucket).map(Bucket::state);
        let until = self.signs().of(bucket).until();
        let passing = state.map(class_of) == Some(Class::Calling)
            && until == Until::ClientHasGone
            && self.client_has_gone(bucket);
        let noticed_ns = &self.signs().noticed_ns[bucket as usize];
        let before = noticed_ns.load(Ordering::Relaxed);
        match (passing, before) {
            (true, 0) => noticed_ns.store(now_ns, Ordering::Relaxed),
            (false, 1..) => noticed_ns.store(0, Ordering::Relaxed),
            _ => {}
        }
    }
}

/// What a look has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looked {
    /// How many buckets are lost.
    pub lost: Lost,
    /// When to look again. A bucket that is parked may change the number before.
    pub again_in: Duration,
}

/// How busy all buckets are.
#[derive(Default)]
struct Busy {
    /// One could take a request.
    any_free: bool,
    /// When the youngest call began.
    youngest_ns: Option<u64>,
}

impl Busy {
    fn count(&mut self, class: Class, sign: &Sign) {
        match class {
            Class::Sound => self.any_free = true,
            Class::Calling => {
                self.youngest_ns = self.youngest_ns.max(Some(sign.since_ns()));
            }
            Class::Resting | Class::Parked => {}
        }
    }

    /// Since when no bucket is free and no call has ended, if that is so.
    fn full_since(&self) -> Option<u64> {
        self.youngest_ns.filter(|_| !self.any_free)
    }
}

/// A bucket of which a line says that it is lost by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    at_ns: u64,
    route: Option<usize>,
}

/// Looks after the buckets of an application, and says which are lost by time and which come back. One thread
/// has it. Its memory is taken when it is made.
#[derive(Debug)]
pub struct LossWatch {
    application: &'static Application,
    told: Box<[Option<Told>]>,
    /// Since when no bucket is free, if a line has said so.
    full_ns: Option<u64>,
    /// The signal of which a line says that it has another handler.
    taken: Option<&'static str>,
    /// When the next look was to be; 0: this is the first one.
    due_ns: u64,
}

impl LossWatch {
    /// Begins to look after an application.
    #[must_use]
    pub fn new(application: &'static Application) -> Self {
        let buckets = application.buckets().len() as usize;
        LossWatch {
            application,
            told: vec![None; buckets].into_boxed_slice(),
            full_ns: None,
            taken: None,
            due_ns: 0,
        }
    }

    /// Looks at all buckets.
    pub fn look(&mut self) -> Looked {
        let now_ns = now_ns();
        if self.due_ns != 0 && now_ns > self.due_ns + LATE.as_nanos() as u64 {
            let signs = self.application.signs();
            signs.resumed_ns.store(now_ns, Ordering::Relaxed);
        }
        self.tell_taken();
        let mut lost = Lost::default();
        let mut busy = Busy::default();
        let mut again_ns = now_ns.saturating_add(LOOK_SELDOM.as_nanos() as u64);
        for bucket in 0..self.application.buckets().len() {
            self.application.notice(bucket, now_ns);
            let found = self.application.lost_from(bucket);
            let loss = match found {
                Some((from_ns, loss)) if from_ns <= now_ns => Some(loss),
                Some((from_ns, _)) => {
                    again_ns = again_ns.min(from_ns);
                    None
                }
                None => None,
            };
            if let Some(loss) = loss {
                lost.count(loss);
            }
            self.tell(bucket, loss, now_ns);
            busy.count(
                self.application.class_of(bucket),
                self.application.signs().of(bucket),
            );
        }
        let full_ns = busy
            .full_since()
            .filter(|_| lost.total() < self.application.buckets().len());
        let said_from = |since_ns: u64| since_ns.saturating_add(FULL_AFTER.as_nanos() as u64);
        let long_full_ns = full_ns.filter(|&since_ns| said_from(since_ns) <= now_ns);
        let is_full = long_full_ns.is_some();
        if let Some(since_ns) = full_ns.filter(|_| !is_full) {
            again_ns = again_ns.min(said_from(since_ns));
        }
        self.tell_full(long_full_ns, now_ns);
        let again_in = Duration::from_nanos(again_ns - now_ns).max(LOOK_OFTEN);
        let may_come_back = lost.resting + lost.overdue > 0 || is_full;
        let again_in = if may_come_back { LOOK_OFTEN } else { again_in };
        self.due_ns = now_ns + again_in.as_nanos() as u64;
        Looked { lost, again_in }
    }

    /// Writes a line when something in the process has put a handler of faults in front of ours.
    fn tell_taken(&mut self) {
        let taken = fault_signal_taken();
        if let Some(signal) = taken.filter(|_| taken != self.taken) {
            warn!(
                signal,
                "another handler for this signal was installed after Transom's: unless it calls the one that \
                 was there before it, a stack overflow or an abort in a request now loses its bucket or ends \
                 the process. Have it installed in App::warm_up"
            );
        }
        self.taken = taken;
    }

    /// Writes a line when no bucket has been free for a while, and one when that is over.
    fn tell_full(&mut self, since_ns: Option<u64>, now_ns: u64) {
        match (self.full_ns, since_ns) {
            (None, Some(since_ns)) => {
                self.full_ns = Some(since_ns);
                let for_ms = now_ns.saturating_sub(since_ns) / 1_000_000;
                warn!(
                    for_ms,
                    busy = %self.busy_routes(),
                    raise = "--buckets",
                    "no bucket is free, and no call ends: requests wait, and get a 503 after --queue-timeout"
                );
            }
            (Some(since_ns), None) => {
                self.full_ns = None;
                let full_ms = now_ns.saturating_sub(since_ns) / 1_000_000;
                info!(full_ms, "a bucket is free again");
            }
            _ => {}
        }
    }

    /// Which routes have the buckets that are busy, and how many: `/events 6, /report 2`.
    fn busy_routes(&self) -> impl fmt::Display + '_ {
        fmt::from_fn(|f| {
            let application = self.application;
            let buckets = || 0..application.buckets().len();
            let route_of = |bucket| match application.class_of(bucket) {
                Class::Calling => Some(application.signs().of(bucket).route()),
                _ => None,
            };
            let mut separator = "";
            for bucket in buckets() {
                let Some(route) = route_of(bucket) else {
                    continue;
                };
                let has_it = |other: &u32| route_of(*other) == Some(route);
                // Each route where it comes first.
                if buckets().find(has_it) == Some(bucket) {
                    let count = buckets().filter(has_it).count();
                    write!(f, "{separator}{} {count}", self.route(route))?;
                    separator = ", ";
                }
            }
            Ok(())
        })
    }

    /// Writes a line if a bucket has become lost by time, or has come back. (If it is parked, its request
    /// says it, if there was one.)
    fn tell(&mut self, bucket: u32, loss: Option<Loss>, now_ns: u64) {
        let state = self.application.buckets().get(bucket).map(Bucket::state);
        let keeping = self.application.keeping();
        let (stage, since_ns) = keeping.way_of(bucket, state.unwrap_or(BucketState::Unbound));
        let told = &mut self.told[bucket as usize];
        match (*told, loss) {
            (None, Some(loss)) if loss != Loss::Parked || stage != Stage::Serves => {
                let route = self.application.signs().of(bucket).route();
                *told = Some(Told {
                    at_ns: now_ns,
                    route,
                });
                let since_ns = match since_ns {
                    0 => self.application.signs().of(bucket).since_ns(),
                    since_ns => since_ns,
                };
                self.tell_lost(
                    bucket,
                    (loss, stage),
                    route,
                    now_ns.saturating_sub(since_ns),
                );
            }
            (Some(before), None) => {
                *told = None;
                self.tell_back(bucket, before, now_ns);
            }
            _ => {}
        }
    }

    fn route(&self, route: Option<usize>) -> &'static str {
        self.application.name_of_route(route)
    }

    fn tell_lost(&self, bucket: u32, why: (Loss, Stage), route: Option<usize>, held_ns: u64) {
        let Some(Leave { unlogged }) = self.application.signs().lines.take() else {
            return;
        };
        let route = self.route(route);
        let held_ms = held_ns / 1_000_000;
        let rests = matches!(why, (Loss::Resting, Stage::Rests | Stage::Serves));
        let of_this = self.application.buckets().get(bucket);
        let kept = of_this.filter(|_| rests).map(Bucket::kept);
        let raise = rests.then_some("--keep");
        let why = match why {
            (Loss::Overdue, _) => "its handler has not returned, long after the deadline",
            (Loss::Parked, _) => {
                "its thread was parked outside of a request: in a destructor of a thread-local, or in what is to run once on each thread"
            }
            (Loss::Resting, Stage::Ends) => {
                "its thread does not end, because a destructor of a thread-local has not returned"
            }
            (Loss::Resting, Stage::HasNone) => {
                "no thread can be started in it (`ulimit -u`, the cgroup's pids.max)"
            }
            (Loss::Resting, Stage::Prepares) => {
                "what is to run once on each thread has not returned"
            }
            (Loss::Resting, Stage::Waits) => {
                "it gets its first thread after the one that is being started, and that does not come to serve"
            }
            (Loss::Resting, Stage::Rests | Stage::Serves) => {
                "its requests have left more in it than it may keep, and that was not freed in time"
            }
        };
        warn!(
            route,
            bucket, held_ms, kept, raise, unlogged, "a bucket is lost: {why}"
        );
    }

    fn tell_back(&self, bucket: u32, told: Told, now_ns: u64) {
        let Some(Leave { unlogged }) = self.application.signs().lines.take() else {
            return;
        };
        let route = self.route(told.route);
        let lost_ms = now_ns.saturating_sub(told.at_ns) / 1_000_000;
        info!(
            route,
            bucket, lost_ms, unlogged, "a bucket that was lost has come back"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const KEEP_TIMEOUT: Duration = Duration::from_secs(10);
    const NOTHING: Noticed = Noticed {
        at_ns: 0,
        resumed_ns: 0,
    };

    fn lost_from(class: Class, sign: &Sign, noticed: Noticed) -> Option<(u64, Loss)> {
        super::lost_from(class, sign, noticed, KEEP_TIMEOUT)
    }

    fn noticed(at_s: u64) -> Noticed {
        Noticed {
            at_ns: at_s * SECOND,
            ..NOTHING
        }
    }

    fn sign(since_s: u64, until: Until) -> Sign {
        let sign = Sign::new();
        sign.begins(since_s * SECOND, until);
        sign
    }

    #[test]
    fn a_call_is_overdue_five_seconds_after_its_deadline() {
        let sign = sign(100, Until::Deadline(160 * SECOND));
        let overdue = Some((165 * SECOND, Loss::Overdue));
        assert_eq!(lost_from(Class::Calling, &sign, NOTHING), overdue);
        for class in [Class::Sound, Class::Parked, Class::Resting] {
            assert_ne!(lost_from(class, &sign, NOTHING), overdue, "{class:?}");
        }
    }

    #[test]
    fn a_deadline_before_the_call_counts_from_the_call() {
        let sign = sign(100, Until::Deadline(1));
        let overdue = Some((105 * SECOND, Loss::Overdue));
        assert_eq!(lost_from(Class::Calling, &sign, NOTHING), overdue);
    }

    #[test]
    fn after_a_time_in_which_the_process_did_not_run_a_call_has_five_seconds_anew() {
        let resumed = Noticed {
            resumed_ns: 900 * SECOND,
            ..noticed(200)
        };
        let overdue = Some((905 * SECOND, Loss::Overdue));
        for until in [Until::Deadline(160 * SECOND), Until::ClientHasGone] {
            assert_eq!(
                lost_from(Class::Calling, &sign(100, until), resumed),
                overdue
            );
        }
    }

    #[test]
    fn a_call_without_a_deadline_is_never_overdue() {
        let sign = sign(100, Until::Ever);
        assert_eq!(lost_from(Class::Calling, &sign, NOTHING), None);
        assert_eq!(lost_from(Class::Calling, &sign, noticed(7)), None);
    }

    #[test]
    fn a_call_that_streams_is_overdue_only_after_its_client_has_gone() {
        let sign = sign(100, Until::Deadline(160 * SECOND));
        sign.streams();
        assert_eq!(lost_from(Class::Calling, &sign, NOTHING), None);
        let gone = lost_from(Class::Calling, &sign, noticed(200));
        assert_eq!(gone, Some((205 * SECOND, Loss::Overdue)));
    }

    #[test]
    fn a_bucket_that_rests_is_lost_once_it_has_for_long_enough() {
        let sign = sign(100, Until::Ever);
        assert_eq!(lost_from(Class::Resting, &sign, NOTHING), None);
        let lost = lost_from(Class::Resting, &sign, noticed(100));
        let at_ns = 100 * SECOND + KEEP_TIMEOUT.as_nanos() as u64;
        assert_eq!(lost, Some((at_ns, Loss::Resting)));
    }

    #[test]
    fn a_parked_bucket_is_lost_whatever_its_sign_says() {
        let sign = sign(100, Until::Ever);
        let lost = lost_from(Class::Parked, &sign, NOTHING);
        assert_eq!(lost, Some((0, Loss::Parked)));
    }
}
