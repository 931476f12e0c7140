//! The line at the start that says what memory there is, the one at the end that says what was done, and the
//! exit status.

use super::parts::process::constant_for;
use super::why::EXIT_RECYCLE;
use crate::admin::process::resident_outside;
use crate::settings::ApplicationSettings;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::{Duration, Instant};
use transom_arena::{
    Bound, Bucket, BucketState, Bytes, MemoryLimit, Place, attaching_allocations,
    first_process_heap_allocation, process_heap_allocations, statics,
};
use transom_front::LoopFigures;
use transom_log::LogHandle;
use transom_log::access::AccessLog;
use transom_platform::{Application, Figures, RouteMeter};
use transom_wire::histogram::Histogram;
use transom_wire::own_log::{info, warn};

/// Says what memory there is; `region` are the addresses of the region. To be called before clients of a door
/// lend memory of theirs, which the sum does not count.
pub(super) fn say_bound(bound: &Bound, region: &Range<usize>) {
    info!(
        bound = bound.total(),
        region = bound.bytes_in(Place::Region),
        process = bound.bytes_in(Place::Process),
        kernel = bound.bytes_in(Place::Kernel),
        "memory: {}",
        Sum(bound),
    );
    if let Some(limit) = MemoryLimit::slowed_above().filter(|limit| limit.bytes < bound.total()) {
        warn!(
            limit = limit.bytes,
            bound = bound.total(),
            "the sum is more than {} allows: the kernel slows this process down before it has all of it",
            limit.name
        );
    }
    let process = bound.bytes_in(Place::Process) as u64;
    let constant = bound.terms().iter().find(|term| term.name == "constant");
    let constant = constant.map_or(0, |term| term.unit) as u64;
    let outside = resident_outside(region).unwrap_or(0);
    if let Some(enough) = constant_for(outside, process, constant) {
        warn!(
            more = outside - process,
            "this program is larger than the sum says already at its start: set --constant {enough}"
        );
    }
    let statics = statics() as u64;
    if statics > constant
        && let Some(enough) = constant_for(process + statics, process, constant)
    {
        // Their pages are resident only when something has touched them.
        warn!(
            statics,
            "the statics of this program alone are larger than --constant: set --constant {enough}"
        );
    }
}

/// The equation in one line: `64 × 512KiB (buckets) + … = 55MiB`.
struct Sum<'b>(&'b Bound);

impl std::fmt::Display for Sum<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (n, term) in self.0.terms().iter().enumerate() {
            let plus = if n == 0 { "" } else { " + " };
            write!(
                f,
                "{plus}{} × {} ({})",
                term.count,
                Bytes(term.unit),
                term.name
            )?;
        }
        write!(f, " = {} bytes", self.0.total())
    }
}

/// Return addresses, up to the first zero.
struct Frames<'f>(&'f [usize]);

impl std::fmt::Display for Frames<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (n, frame) in self.0.iter().take_while(|&&frame| frame != 0).enumerate() {
            let space = if n == 0 { "" } else { " " };
            write!(f, "{space}{frame:#x}")?;
        }
        Ok(())
    }
}

/// Why the size that is recommended may be too small.
const LOWER_BOUND: &str =
    "requests outgrew their arena: they may need more than what they had and asked for then";

/// Says what the requests of an application have needed: all of them, and by route where there are several.
fn say_memory(application: &Application) {
    let Some(geometry) = application.buckets().get(0).map(Bucket::geometry) else {
        return;
    };
    // Half of an arena is for what requests leave, unless --keep says otherwise.
    let for_kept = 2 * ApplicationSettings::least_keep(application.figures().kept.max).get();
    let say = |route: &str, memory: &Histogram, exhausted: u64| {
        let needed = memory.all_but_one_in(10_000) as usize;
        let fits_most = needed.max(for_kept);
        // Of one that was stopped it is known what it had and what it asked for, and not what came after.
        let is_least = exhausted > 0 && needed > geometry.arena_size();
        let lower_bound = is_least.then_some(LOWER_BOUND);
        info!(
            route,
            requests = memory.count(),
            p50 = memory.all_but_one_in(2),
            p99 = memory.all_but_one_in(100),
            max = memory.max(),
            arena_size = geometry.arena_size(),
            bucket_size = %Bytes(geometry.bucket_size()),
            lower_bound,
            bucket_size_for_all_but_1_in_10000 = %geometry.bucket_size_for(fits_most),
            "memory that requests needed"
        );
    };
    let say_route = |meter: &RouteMeter| say(meter.route, &meter.memory, meter.exhausted());
    let used = |meter: &&RouteMeter| meter.memory.count() > 0;
    let routes = application.routes();
    match routes.iter().filter(used).count() {
        0 => {}
        1 => routes.iter().filter(used).for_each(say_route),
        _ => {
            routes.iter().filter(used).for_each(say_route);
            let exhausted = routes.iter().map(RouteMeter::exhausted).sum();
            say("(all)", application.memory_of_all(), exhausted);
        }
    }
}

/// Says what a front end, an application, or both have done; and of the application, how many calls were cut
/// while they cleaned up.
pub(super) fn summarise(
    front: Option<&LoopFigures>,
    (application, cleanups): (Option<&Application>, u64),
    access: Option<&AccessLog>,
    logs: &LogHandle,
    took: Duration,
) {
    let access_lines_dropped = access.map(AccessLog::end);
    if process_heap_allocations() > 0 {
        let frames = first_process_heap_allocation();
        warn!(first = %Frames(&frames), "memory was allocated outside the region after the start");
    }
    let done = application.map(Application::figures);
    if let Some(application) = application {
        say_memory(application);
    }
    logs.flush(Instant::now() + Duration::from_secs(1)); // so that there is room for the last line
    let of_front = |figure: fn(&LoopFigures) -> u64| front.map(figure);
    let of = |figure: fn(&Figures) -> u64| done.as_ref().map(figure);
    info!(
        drained_ms = took.as_millis() as u64,
        connections = of_front(|front| front.accepted),
        requests = of_front(|front| front.requests),
        good = of_front(|front| front.good),
        client_errors = of_front(|front| front.client_errors),
        server_errors = of_front(|front| front.server_errors),
        not_implemented = of_front(|front| front.not_implemented),
        rejected = of_front(|front| front.rejected),
        bad_gateway = of_front(|front| front.bad_gateway),
        unaccepted_resent = of_front(|front| front.unaccepted_resent),
        proxy_refused = of_front(|front| front.proxy_refused),
        forwarded_ignored = of_front(|front| front.forwarded_ignored),
        partial_evicted = of_front(|front| front.partial_evicted),
        late = of_front(|front| front.late),
        slow_cut = of_front(|front| front.slow_cut),
        address_refused = of_front(|front| front.address_refused),
        cut = of_front(|front| front.cut).map(|cut| cut + cleanups),
        // With a front end beside it, these are its requests.
        calls = of(|done| done.calls.ended).filter(|_| front.is_none()),
        exhausted_arena = of(|done| done.calls.exhausted_arena),
        exhausted_stack = of(|done| done.calls.exhausted_stack),
        exhausted_shared_heap = of(|done| done.calls.exhausted_shared_heap),
        panicked = of(|done| done.calls.panicked),
        left = of(|done| done.kept.left),
        kept = of(|done| done.kept.bytes as u64),
        threads_replaced = of(|done| done.threads.ended),
        threads_refused = of(|done| done.threads.refused),
        parked = of(|done| done.buckets_parked as u64),
        lost = of(|done| u64::from(done.lost.total())),
        threads = of(|done| u64::from(done.threads.started)),
        high_water = of(|done| done.high_water as u64),
        largest_refused = of(|done| done.calls.largest_refused),
        stack_high_water = of(|done| done.stack_high_water as u64),
        process_heap_allocations = process_heap_allocations(),
        // One process has no door to open, or to let others open.
        attaching_allocations =
            (front.is_some() != application.is_some()).then(attaching_allocations),
        access_lines_dropped,
        log_lines_dropped = logs.dropped(),
        lines_left_out = of(|done| done.unlogged),
        "drained"
    );
}

/// How long the rest may take after the drain's deadline: the last answers at `--admin` and the log's last
/// lines take two seconds at most.
pub(super) const END_PATIENCE: Duration = Duration::from_secs(5);

/// The application whose requests may keep the process from ending.
static APPLICATION: AtomicPtr<Application> = AtomicPtr::new(std::ptr::null_mut());

/// Sees to it that a process does not hang for ever at its end. A request that was lost, or that has simply
/// not returned, may hold a lock for ever: one of the C library, that of malloc for instance, or one of the
/// application's own. And what comes after a drain needs those: threads are joined, memory is freed, the
/// author's `main` goes on, `exit` runs what was registered with it.
///
/// When the time is over, a signal that the kernel sends ends the process if such a request is there then,
/// and leaves it alone otherwise. Until it is dropped.
pub(crate) struct LastResort {
    application: &'static Application,
    before: libc::sigaction,
}

impl LastResort {
    /// For a process that begins to drain.
    pub(super) fn after_drain(application: &'static Application, timeout: Duration) -> Self {
        let after = timeout.saturating_add(END_PATIENCE).as_secs();
        APPLICATION.store(
            std::ptr::from_ref(application).cast_mut(),
            Ordering::Release,
        );
        // SAFETY: the action is zeroed, which is a valid one with an empty mask, and its handler makes
        // async-signal-safe calls only, and reads what lives for ever. The signal goes to the main thread,
        // which does not block it and stands on an ordinary stack.
        let before = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            let mut before: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = end_if_it_hangs as *const () as usize;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(libc::SIGALRM, &raw const action, &raw mut before);
            libc::alarm(u32::try_from(after).unwrap_or(u32::MAX));
            before
        };
        LastResort {
            application,
            before,
        }
    }

    /// The drain is over, and what comes after it is not ours to see: this stays if a request is there that
    /// may hold that up.
    pub(super) fn settle(self) {
        if any_is(self.application, &UNDER_WAY) {
            std::mem::forget(self);
        }
    }
}

impl Drop for LastResort {
    fn drop(&mut self) {
        // SAFETY: plain system calls; the action is what the system had.
        unsafe {
            libc::alarm(0);
            libc::sigaction(libc::SIGALRM, &raw const self.before, std::ptr::null_mut());
        }
    }
}

/// States of a bucket whose thread may hold a lock: its request runs, or is parked, or its last destructors
/// run.
const UNDER_WAY: [BucketState; 3] = [BucketState::Busy, BucketState::Resting, BucketState::Parked];

fn any_is(application: &Application, states: &[BucketState]) -> bool {
    let buckets = application.buckets();
    buckets
        .iter()
        .any(|bucket| states.contains(&bucket.state()))
}

extern "C" fn end_if_it_hangs(_: libc::c_int) {
    const WORDS: &[u8] = b"ERROR the process does not end after its drain, because a request that is lost or has not \
                           returned holds a lock: it is ended at once\n";
    // SAFETY: it is null, or an application, which lives for ever.
    let Some(application) = (unsafe { APPLICATION.load(Ordering::Acquire).as_ref() }) else {
        return;
    };
    if application.lost().total() > 0 || any_is(application, &[BucketState::Busy]) {
        // SAFETY: both calls are async-signal-safe; the bytes are valid for their length.
        unsafe {
            libc::write(libc::STDERR_FILENO, WORDS.as_ptr().cast(), WORDS.len());
            libc::_exit(libc::c_int::from(EXIT_RECYCLE));
        }
    }
    if any_is(application, &UNDER_WAY) {
        // A thread runs its last destructors, and is lost if they do not return.
        // SAFETY: async-signal-safe.
        unsafe { libc::alarm(1) };
    }
}

/// Requests that had not ended when the drain did.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cut {
    heads: u64,
    bodies: u64,
    calls: u64,
    answers: u64,
    cleanups: u64,
}

impl Cut {
    /// What loops have cut, so many calls beside, and so many that were answered and cleaned up.
    pub(super) fn of(loops: &LoopFigures, calls: u64, cleanups: u64) -> Self {
        Cut {
            heads: loops.cut_heads,
            bodies: loops.cut_bodies,
            calls: loops.cut_calls + calls,
            answers: loops.cut_answers,
            cleanups,
        }
    }

    fn total(self) -> u64 {
        self.heads + self.bodies + self.calls + self.answers + self.cleanups
    }
}

/// How a server ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ending {
    /// Too many buckets are lost, and no new instance has taken over.
    pub recycle: bool,
    /// No loop panicked.
    pub sound: bool,
    /// Everything that had begun ended before the drain did.
    pub in_time: bool,
    /// What had not.
    pub cut: Cut,
}

impl Ending {
    /// The status for the supervisor of the process.
    pub(super) fn status(self) -> ExitCode {
        if self.recycle {
            ExitCode::from(EXIT_RECYCLE)
        } else if !self.sound {
            ExitCode::from(1)
        } else if self.in_time || self.cut.total() == 0 {
            // At the deadline there was nothing left but connections without a request.
            ExitCode::SUCCESS
        } else {
            let Cut {
                heads,
                bodies,
                calls,
                answers,
                cleanups,
            } = self.cut;
            warn!(
                cut = self.cut.total(),
                heads,
                bodies,
                calls,
                answers,
                cleanups,
                "requests were cut: they had not ended when the drain did (--drain-timeout)"
            );
            ExitCode::from(1)
        }
    }
}
