//! When and how a process is replaced because too much of it is lost: buckets, or the pools that requests
//! share, or the channels of a door.
//!
//! Where that is possible a new instance takes over before this one drains, so that clients notice nothing;
//! elsewhere the process drains and exits with [`EXIT_RECYCLE`], and a supervisor starts it anew. Which of
//! the two it will be is decided and said at the start.
//!
//! This module decides. Starting the new instance is `handover`'s matter, and finding lost buckets is the
//! platform's.

use super::care::Care;
use super::end::END_PATIENCE;
use super::error::StartError;
use super::predecessor::Note;
use super::signals::Signals;
use super::why::{Because, EXIT_RECYCLE};
use crate::admin::{RecycleView, process};
use crate::settings::{ApplicationSettings, RecycleSetting, Settings};
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use transom_arena::{
    Bound, Bytes, MemoryLimit, overdraft_usage, shared_heap_kept, shared_heap_usage,
};
use transom_doors::{Door, now_ns};
use transom_platform::{Application, Looked, Lost};
use transom_wire::own_log::{error, info, warn};

/// Between two recycles, at least. Doubles with each that follows closely: what loses buckets that fast is
/// not mended by new processes, which cost a start each.
const FIRST_DELAY: Duration = Duration::from_secs(10);
const LONGEST_DELAY: Duration = Duration::from_secs(300);

/// How much longer than it should the instance before this one may take to end.
const PREDECESSOR_PATIENCE: Duration = Duration::from_secs(5);

/// While it waits for its turn.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// How a process with too many lost buckets is replaced.
#[derive(Debug)]
pub(crate) enum Way {
    /// A new instance takes over, then this one drains.
    HandOver,
    /// It drains and exits.
    Exit(Because),
}

impl Way {
    /// As the settings ask, and as it is possible here. `program` is what keeps a new instance from being
    /// started.
    pub(super) fn choose(
        settings: &ApplicationSettings,
        bound: &Bound,
        program: Option<&io::Error>,
    ) -> Result<Self, StartError> {
        if settings.recycle == RecycleSetting::Exit {
            return Ok(Way::Exit(Because::Asked));
        }
        let forced = settings.recycle == RecycleSetting::Handover;
        let watched = || if forced { None } else { watched() };
        let obstacle = program
            .map(|error| Because::NoProgram(error.to_string()))
            .or_else(first_process)
            .or_else(|| too_large(bound.total(), MemoryLimit::of_this_process()))
            .or_else(watched);
        match obstacle {
            None => Ok(Way::HandOver),
            Some(because) if forced => Err(StartError::Recycle(because)),
            Some(because) => Ok(Way::Exit(because)),
        }
    }

    /// The word for it in the log, in metrics, and of `--recycle`.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Way::HandOver => "handover",
            Way::Exit(_) => "exit",
        }
    }

    /// Why the process will exit, if that was not asked for.
    pub(super) fn obstacle(&self) -> Option<&Because> {
        match self {
            Way::HandOver | Way::Exit(Because::Asked) => None,
            Way::Exit(because) => Some(because),
        }
    }
}

fn first_process() -> Option<Because> {
    (std::process::id() == 1).then_some(Because::FirstProcess)
}

/// Both instances have their memory until the old one has ended.
fn too_large(bound: usize, limit: MemoryLimit) -> Option<Because> {
    (limit.bytes / 2 < bound).then_some(Because::Memory {
        name: limit.name,
        limit: Bytes(limit.bytes),
        bound: Bytes(bound),
    })
}

/// Of the supervisors that watch a process id, those that say so in the environment.
fn watched() -> Option<Because> {
    let var = |name| std::env::var_os(name);
    // It is passed on to children too, for whom it is another's.
    let ours = |pid: std::ffi::OsString| pid.to_str() == Some(&std::process::id().to_string());
    if var("NOTIFY_SOCKET").is_none() && var("SYSTEMD_EXEC_PID").is_some_and(ours) {
        return Some(Because::Systemd("systemd (SYSTEMD_EXEC_PID)"));
    }
    var("SUPERVISOR_ENABLED").map(|_| Because::Supervisord)
}

/// What `--check` says of it.
pub(super) struct Sentence<'w> {
    pub way: &'w Way,
    pub settings: &'w ApplicationSettings,
}

impl fmt::Display for Sentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (limit, buckets) = (self.settings.lost_limit(), self.settings.buckets);
        write!(
            f,
            "recycle {}: when {limit} of {buckets} buckets are lost (--lost-limit), ",
            self.way.name()
        )?;
        match self.way {
            Way::HandOver => f.write_str("a new instance takes over, and this one drains"),
            Way::Exit(because) => {
                write!(
                    f,
                    "the process drains and exits with status {EXIT_RECYCLE}, because {because}"
                )
            }
        }
    }
}

/// When instances were replaced, and when the next one may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pace {
    /// The last time; 0: never.
    last_ns: u64,
    /// From then to the next.
    delay: Duration,
}

impl Pace {
    fn of(note: Option<&Note>) -> Self {
        Pace {
            last_ns: note.map_or(0, |note| note.recycled_ns),
            delay: note.map_or(FIRST_DELAY, |note| Duration::from_millis(note.delay_ms)),
        }
    }

    /// How long the next one has to wait for its turn.
    fn left(&self, now_ns: u64) -> Duration {
        if self.last_ns == 0 {
            return Duration::ZERO;
        }
        let since = Duration::from_nanos(now_ns.saturating_sub(self.last_ns));
        self.delay.saturating_sub(since)
    }

    /// After one more. It follows closely if less than twice the delay has passed since the last one; a
    /// longer time is a quiet time, and the next delay is the first one again.
    fn after(&self, now_ns: u64) -> Self {
        let since = Duration::from_nanos(now_ns.saturating_sub(self.last_ns));
        let closely = self.last_ns != 0 && since < self.delay.saturating_mul(2);
        Pace {
            last_ns: now_ns,
            delay: match closely {
                true => self.delay.saturating_mul(2).min(LONGEST_DELAY),
                false => FIRST_DELAY,
            },
        }
    }
}

/// What to do about lost buckets now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing, and look again then.
    Serve(Duration),
    /// Have a new instance take over.
    HandOver,
    /// Drain and exit.
    Exit,
}

/// What so much of is lost that the process is to be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// `--lost-limit` buckets.
    Buckets,
    /// `--lost-limit` buckets, of which some are there but cut in pieces by what requests have left.
    Cut,
    /// Half of the overdraft: what has outlived its request there stays.
    Overdraft,
    /// Half of the shared heap: closures that never return hold it.
    SharedHeap,
    /// Half of the C heap.
    CHeap,
    /// Half of the channels that clients of the door may have.
    Channels,
    /// Nearly all descriptors, and requests that never returned have some.
    Descriptors,
}

impl Cause {
    /// The first that there is.
    fn find(
        (lost, cut): (Lost, u32),
        limit: u32,
        c_heap_is_low: bool,
        channels: Option<&Channels>,
        descriptors_are_lost: bool,
    ) -> Option<Self> {
        let overdraft = overdraft_usage();
        let (_, shared_heap) = shared_heap_usage();
        [
            (lost.total() >= limit, Cause::Buckets),
            (lost.total() + cut >= limit, Cause::Cut),
            (
                is_more_than_half(overdraft.kept, overdraft.size),
                Cause::Overdraft,
            ),
            (
                is_more_than_half(shared_heap_kept(), shared_heap),
                Cause::SharedHeap,
            ),
            (c_heap_is_low, Cause::CHeap),
            (channels.is_some_and(Channels::are_low), Cause::Channels),
            (descriptors_are_lost, Cause::Descriptors),
        ]
        .into_iter()
        .find_map(|(is_so, cause)| is_so.then_some(cause))
    }
}

fn is_more_than_half(kept: usize, size: usize) -> bool {
    kept > size / 2
}

/// What becomes of the C heap. What requests leave there may be meant to stay (a connection for each thread),
/// and is no reason to begin anew as long as there is enough for the others.
#[derive(Default)]
struct CHeapWatch {
    #[cfg(feature = "c-heap")]
    ran_out: u64,
    #[cfg(feature = "c-heap")]
    is_low: bool,
}

impl CHeapWatch {
    /// Whether half of it is lost: to what jumps have left behind, or to what requests have left so that
    /// others get nothing.
    #[cfg(feature = "c-heap")]
    fn look(&mut self, application: &Application) -> bool {
        let heap = transom_arena::c_heap_usage();
        let leaked: u64 = application
            .routes()
            .iter()
            .map(transom_platform::RouteMeter::c_leaked)
            .sum();
        let is_half_kept = is_more_than_half(heap.kept, heap.size);
        let has_run_out = heap.ran_out > std::mem::replace(&mut self.ran_out, heap.ran_out);
        if has_run_out {
            warn!(
                used = heap.used,
                kept = heap.kept,
                size = heap.size,
                refused = heap.refused,
                raise = "--c-heap",
                "the C heap is full: C libraries get NULL from malloc in requests"
            );
        }
        self.is_low = is_half_kept && (self.is_low || has_run_out)
            || is_more_than_half(leaked.min(heap.size as u64) as usize, heap.size);
        self.is_low
    }

    #[cfg(not(feature = "c-heap"))]
    fn look(&mut self, _: &Application) -> bool {
        false
    }
}

impl Cause {
    /// What sets how much there is.
    fn flag(self) -> &'static str {
        match self {
            Cause::Buckets => "--lost-limit",
            Cause::Cut => "--bucket-size",
            Cause::Overdraft => "--overdraft",
            Cause::SharedHeap => "--shared-heap",
            Cause::CHeap => "--c-heap",
            Cause::Channels => "--door-channels",
            Cause::Descriptors => "`ulimit -n`",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cause::Buckets => "too many buckets are lost",
            Cause::Cut => {
                "too many buckets are lost, or cut in pieces by what requests have left in them"
            }
            Cause::Overdraft => {
                "more than half of the overdraft is held by what requests have left there"
            }
            Cause::SharedHeap => {
                "more than half of the shared heap is held by requests that never returned from a change of a Shared cell"
            }
            Cause::CHeap => {
                "the C heap is full, and more than half of it is held by what requests have left there"
            }
            Cause::Channels => "half of the door's channels are kept by requests that were lost",
            Cause::Descriptors => {
                "descriptors run out, and what requests that were parked or left by a jump had open stays open"
            }
        })
    }
}

/// The channels of a door that other processes open.
pub(super) struct Channels {
    pub door: Door,
    /// How many there may be.
    pub max: u32,
}

impl Channels {
    fn are_low(&self) -> bool {
        let kept = self.door.info().channels_kept;
        kept > 0 && kept >= self.max.div_ceil(2)
    }
}

/// The buckets of an application, and what becomes of the process that loses them.
pub(crate) struct Recycling {
    care: Rc<Care>,
    channels: Option<Channels>,
    cause: Option<Cause>,
    c_heap: CHeapWatch,
    way: Way,
    limit: u32,
    buckets: u32,
    /// What the instance before this one has told.
    predecessor: Option<Note>,
    /// By then that one should have ended.
    predecessor_until: Instant,
    pace: Pace,
    /// Of this server: those before this instance, and its own.
    recycles: Arc<AtomicU64>,
    lost: Lost,
    /// It was said that it waits for its turn.
    waits: bool,
}

impl Recycling {
    /// Begins to look after an application, whenever `signals` are waited for.
    pub(super) fn new(
        application: &'static Application,
        settings: &Settings,
        way: Way,
        predecessor: Option<Note>,
        channels: Option<Channels>,
        signals: &Signals,
    ) -> Self {
        let care = Rc::new(Care::new(application));
        signals.look_after(care.clone());
        let drain = settings.front.drain_timeout.saturating_add(END_PATIENCE);
        let settings = &settings.application;
        if settings.lost_limit_flag() == "--parked-limit" {
            warn!(
                "--parked-limit (TRANSOM_PARKED_LIMIT) is now called --lost-limit (TRANSOM_LOST_LIMIT): use that name"
            );
        }
        if let Some(Note {
            pid, lost, buckets, ..
        }) = predecessor.filter(|note| note.lost > 0)
        {
            info!(
                pid,
                lost,
                buckets,
                "started because {lost} of {buckets} buckets of process {pid} were lost"
            );
        }
        Recycling {
            care,
            channels,
            cause: None,
            c_heap: CHeapWatch::default(),
            way,
            limit: settings.lost_limit(),
            buckets: settings.buckets,
            predecessor,
            // It has our flags.
            predecessor_until: Instant::now() + drain.saturating_add(PREDECESSOR_PATIENCE),
            pace: Pace::of(predecessor.as_ref()),
            recycles: Arc::new(AtomicU64::new(predecessor.map_or(0, |note| note.recycles))),
            lost: Lost::default(),
            waits: false,
        }
    }

    /// How it will be.
    pub(super) fn way(&self) -> &Way {
        &self.way
    }

    /// What is told of it at `--admin`.
    pub(super) fn view(&self) -> RecycleView {
        RecycleView {
            way: self.way.name(),
            limit: self.limit,
            recycles: self.recycles.clone(),
        }
    }

    /// Looks at the buckets, and starts threads in the places of those that have left.
    pub(super) fn step(&mut self) -> Step {
        let application = self.care.application();
        let Looked { lost, again_in } = self.care.look();
        self.lost = lost;
        let c_heap_is_low = self.c_heap.look(application);
        let channels = self.channels.as_ref();
        let left_open = self.lost.parked > 0 || application.has_jumped();
        let descriptors_are_lost = left_open && process::descriptors_run_out();
        self.cause = Cause::find(
            (self.lost, application.cut()),
            self.limit,
            c_heap_is_low,
            channels,
            descriptors_are_lost,
        );
        let Some(cause) = self.cause else {
            self.waits = false;
            return Step::Serve(again_in);
        };
        if matches!(self.way, Way::Exit(_)) {
            return Step::Exit;
        }
        let left = self.pace.left(now_ns());
        if left.is_zero() && !self.waits_for_its_predecessor() {
            return Step::HandOver;
        }
        if !std::mem::replace(&mut self.waits, true) {
            self.say_that_it_waits(cause, left);
        }
        let again = again_in.min(LOOK_AGAIN);
        // Not sooner for a predecessor that is about to end.
        Step::Serve(if left.is_zero() {
            again
        } else {
            again.min(left)
        })
    }

    /// Whether the instance before this one still drains. The machine was asked for the memory of two, not of
    /// three.
    fn has_a_predecessor(&self) -> bool {
        self.predecessor
            .as_ref()
            .is_some_and(Note::is_of_our_parent)
    }

    /// Whether that is a reason to wait: not for ever, whatever keeps it from ending.
    fn waits_for_its_predecessor(&self) -> bool {
        let is_there = self.has_a_predecessor();
        let waits = is_there && Instant::now() < self.predecessor_until;
        if is_there && !waits {
            warn!(
                pid = self.predecessor.map(|note| note.pid),
                "the instance before this one should have ended, and is still there: this one is replaced beside it"
            );
        }
        waits
    }

    fn say_that_it_waits(&self, cause: Cause, left: Duration) {
        let Lost {
            parked,
            resting,
            overdue,
        } = self.lost;
        warn!(
            lost = self.lost.total(),
            parked,
            resting,
            overdue,
            limit = self.limit,
            wait_ms = left.as_millis() as u64,
            predecessor_drains = self.has_a_predecessor(),
            "{cause}, soon after the last recycle: this instance serves with the others until its turn"
        );
    }

    /// Says that the process is to be replaced, and counts it.
    pub(super) fn say_that_it_begins(&self) {
        let Lost {
            parked,
            resting,
            overdue,
        } = self.lost;
        self.recycles.fetch_add(1, Ordering::Relaxed);
        let (lost, limit) = (self.lost.total(), self.limit);
        let cause = self.cause.unwrap_or(Cause::Buckets);
        match &self.way {
            Way::HandOver => warn!(
                lost,
                parked,
                resting,
                overdue,
                limit,
                "{cause}: a new instance is to take over ({}, --recycle)",
                cause.flag()
            ),
            Way::Exit(because) => error!(
                lost,
                parked,
                resting,
                overdue,
                limit,
                %because,
                "{cause}: draining, to be started anew ({}, --recycle)",
                cause.flag()
            ),
        }
    }

    /// What a new instance is told that takes over because of lost buckets.
    pub(super) fn note(&self) -> Note {
        let pace = self.pace.after(now_ns());
        Note {
            lost: self.lost.total(),
            ..self.note_of(pace)
        }
    }

    /// What a new instance is told that takes over for another reason.
    pub(super) fn history(&self) -> Note {
        self.note_of(self.pace)
    }

    fn note_of(&self, pace: Pace) -> Note {
        Note {
            pid: std::process::id(),
            lost: 0,
            buckets: self.buckets,
            recycled_ns: pace.last_ns,
            delay_ms: pace.delay.as_millis() as u64,
            recycles: self.recycles.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const NEVER: Pace = Pace {
        last_ns: 0,
        delay: FIRST_DELAY,
    };

    /// The delays after recycles at these seconds.
    fn delays(at: &[u64]) -> Vec<u64> {
        let mut pace = NEVER;
        at.iter()
            .map(|second| {
                pace = pace.after(second * SECOND);
                pace.delay.as_secs()
            })
            .collect()
    }

    #[test]
    fn the_first_recycle_waits_for_nothing_and_the_next_one_ten_seconds() {
        assert_eq!(NEVER.left(5), Duration::ZERO);
        let pace = NEVER.after(100 * SECOND);
        assert_eq!(pace.left(100 * SECOND), Duration::from_secs(10));
        assert_eq!(pace.left(109 * SECOND), Duration::from_secs(1));
        assert_eq!(pace.left(110 * SECOND), Duration::ZERO);
    }

    #[test]
    fn each_recycle_that_follows_closely_doubles_the_delay_up_to_five_minutes() {
        let at = [100, 110, 130, 170, 250, 410, 710, 1010];
        assert_eq!(delays(&at), [10, 20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn after_a_quiet_time_the_delay_is_the_first_one_again() {
        assert_eq!(delays(&[100, 119, 159]), [10, 20, 10]);
        assert_eq!(delays(&[100, 120, 140]), [10, 10, 10]);
    }

    #[test]
    fn the_next_instance_goes_on_where_this_one_was() {
        let note = Note {
            pid: 1,
            lost: 3,
            buckets: 4,
            recycled_ns: 100 * SECOND,
            delay_ms: 20_000,
            recycles: 2,
        };
        let pace = Pace::of(Some(&note));
        assert_eq!(pace.left(110 * SECOND), Duration::from_secs(10));
        assert_eq!(pace.after(130 * SECOND).delay, Duration::from_secs(40));
        assert_eq!(Pace::of(None), NEVER);
    }

    #[test]
    fn two_instances_must_fit() {
        let limit = |bytes| MemoryLimit {
            name: "cgroup /web".to_owned(),
            bytes,
        };
        assert!(too_large(100 << 20, limit(200 << 20)).is_none());
        let because = too_large(100 << 20, limit((200 << 20) - 1)).expect("they do not");
        let sentence = because.to_string();
        for part in ["cgroup /web", "200MiB", "100MiB"] {
            assert!(sentence.contains(part), "{part}: {sentence}");
        }
        assert!(too_large(usize::MAX, limit(usize::MAX)).is_some());
    }
}
