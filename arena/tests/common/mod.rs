//! One set of buckets per test process, closures run on threads bound to them, and what tests look at from
//! outside.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};
use transom_arena::{
    Bound, Bucket, BucketGeometry, BucketState, Buckets, Bump, Bytes, Exhaustion, Failed, Place,
    Reason, Region, RegionOptions, Tenant, Term, Wipe, install_c_heap, install_overdraft,
    install_shared_heap, stack_remaining,
};

pub const BUCKETS: usize = 96;
pub const SHARED_HEAP: usize = 1 << 20;
pub const OVERDRAFT: usize = 4 << 20;
/// What a request may have of the overdraft.
pub const SHARE: usize = 1 << 20;
pub const C_HEAP: usize = 4 << 20;
/// What a request may have of the C heap.
pub const C_QUOTA: usize = 1 << 20;

struct Set {
    buckets: Buckets,
    buckets_at: usize,
    shared_heap: Range<usize>,
}

static SET: OnceLock<Set> = OnceLock::new();

fn set(wipe: Wipe) -> &'static Set {
    SET.get_or_init(|| {
        let geometry = BucketGeometry::new(Bytes::kib(512), Bytes::kib(128)).expect("a usual size");
        let part = |name, unit| Term {
            name,
            count: 1,
            unit,
            guards: 0,
            holder: "tests",
            flags: "--none",
            place: Place::Region,
        };
        let bound = Bound::new(vec![
            geometry.term(BUCKETS).expect("some"),
            part("shared heap", SHARED_HEAP),
            part("overdraft", OVERDRAFT),
            part("C heap", C_HEAP),
        ])
        .expect("small");
        let mut region = Region::map(&bound, RegionOptions::default()).expect("maps");
        let part = region.take("buckets").expect("there");
        let buckets = Buckets::install(&mut region, &part, geometry, wipe).expect("installs");
        region.commit().expect("commits");
        let shared_heap = region.take("shared heap").expect("there");
        let shared_heap_at = shared_heap.base().as_ptr() as usize;
        install_shared_heap(shared_heap).expect("installs");
        let overdraft = region.take("overdraft").expect("there");
        install_overdraft(overdraft, SHARE).expect("installs");
        let c_heap = region.take("C heap").expect("there");
        install_c_heap(c_heap, C_QUOTA).expect("installs");
        Set {
            buckets,
            buckets_at: part.base().as_ptr() as usize,
            shared_heap: shared_heap_at..shared_heap_at + SHARED_HEAP,
        }
    })
}

/// The buckets, poisoned between requests.
pub fn buckets() -> Buckets {
    set(Wipe::Poison).buckets
}

/// The buckets, wiped as said; for a binary that calls this before anything else here.
pub fn buckets_with(wipe: Wipe) -> Buckets {
    let buckets = set(wipe).buckets;
    assert!(buckets.len() as usize == BUCKETS);
    buckets
}

/// A bucket that no other test of this process has.
pub fn next_bucket() -> &'static Bucket {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    buckets()
        .get(NEXT.fetch_add(1, Ordering::Relaxed))
        .expect("more tests than buckets: raise BUCKETS")
}

/// Whether `[address, address + len)` lies in this bucket.
pub fn lies_in(bucket: &Bucket, address: usize, len: usize) -> bool {
    let size = bucket.geometry().stride();
    let base = set(Wipe::Poison).buckets_at + bucket.index() as usize * size;
    address >= base && address + len <= base + size
}

/// Whether an address lies in the shared heap.
pub fn lies_in_shared_heap(address: usize) -> bool {
    set(Wipe::Poison).shared_heap.contains(&address)
}

type Job = Box<dyn FnOnce(&mut Tenant) + Send>;
type Ending = mpsc::Sender<std::thread::Result<()>>;

fn main_of_thread(mut tenant: Tenant, argument: usize) {
    // SAFETY: `start_on` passes a leaked box, once.
    let (job, report) = *unsafe { Box::from_raw(argument as *mut (Job, Ending)) };
    let result = catch_unwind(AssertUnwindSafe(|| job(&mut tenant)));
    let _ = report.send(result);
}

/// Starts a closure on a bucket's own thread; the receiver gets its result, if it ever ends.
pub fn start_on(
    bucket: &'static Bucket,
    job: impl FnOnce(&mut Tenant) + Send + 'static,
) -> mpsc::Receiver<std::thread::Result<()>> {
    let (report, result) = mpsc::channel();
    let argument: Box<(Job, Ending)> = Box::new((Box::new(job), report));
    bucket
        .start_thread(main_of_thread, Box::into_raw(argument) as usize)
        .expect("starts");
    result
}

/// Runs a closure on a fresh bucket's own thread, and fails as it fails.
pub fn on_bucket_thread(job: impl FnOnce(&mut Tenant) + Send + 'static) {
    finish(&start_on(next_bucket(), job));
}

/// The pools and their counts are shared by the process: one test at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a closure of [`start_on`], and fails as it fails.
pub fn finish(result: &mpsc::Receiver<std::thread::Result<()>>) {
    if let Err(payload) = result
        .recv_timeout(DEADLINE)
        .expect("the thread ends in time")
    {
        resume_unwind(payload);
    }
}

/// Far more than anything here takes, so that a hang is reported as a failure.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits for a condition, at most [`DEADLINE`].
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

/// For requests that must not get stuck.
pub fn never_stuck(failed: Failed<'_>) {
    // A panic here, on the thread's last frame, would abort. So the process ends with this message.
    eprintln!("parked: {failed:?}");
    std::process::exit(101);
}

/// What exhausted the request; fails if it ended otherwise.
#[track_caller]
pub fn exhaustion<R: std::fmt::Debug>(result: Result<R, Failed<'_>>) -> Exhaustion {
    match result {
        Err(Failed::Exhausted(exhaustion)) => exhaustion,
        other => panic!("expected an exhaustion: {other:?}"),
    }
}

/// What the request said when it panicked; fails if it ended otherwise.
#[track_caller]
pub fn panic_message<R: std::fmt::Debug>(result: Result<R, Failed<'_>>) -> String {
    match result {
        Err(Failed::Panicked(note)) => note.message().to_owned(),
        other => panic!("expected a panic: {other:?}"),
    }
}

/// Allocates through the global allocator until that no longer returns.
pub fn fill_the_arena() -> ! {
    let mut text = String::new();
    loop {
        text.push_str("more and more");
        std::hint::black_box(&text);
    }
}

/// Uses up the stack, a few hundred bytes a frame.
pub fn overflow_the_stack() -> usize {
    fn deeper(n: usize) -> usize {
        let frame = [n; 32];
        std::hint::black_box(&frame);
        if n == usize::MAX {
            return 0; // never
        }
        deeper(n + 1) + std::hint::black_box(frame[0])
    }
    deeper(0)
}

/// Goes down until less than `left` bytes are left of the stack as it is now, then runs `then` there.
pub fn with_stack_left<R>(left: usize, then: &mut dyn FnMut() -> R) -> R {
    let marker = 0u8;
    let here = std::hint::black_box(&raw const marker) as usize;
    // Looked at once: on the way the stack may be extended.
    let remaining = stack_remaining().expect("in a request");
    down_to(here - remaining + left, then)
}

/// Goes down the stack until that address, then runs `then` there.
#[inline(never)]
pub fn down_to<R>(end: usize, then: &mut dyn FnMut() -> R) -> R {
    let frame = [1u8; 16];
    if std::hint::black_box(&raw const frame) as usize >= end {
        let result = down_to(end, then);
        std::hint::black_box(&frame);
        return result;
    }
    then()
}

/// Resident pages of this process.
pub fn resident_pages() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("procfs");
    let field = text.split(' ').nth(1).expect("the second field is RSS");
    field.parse().expect("a number")
}

/// Mappings of this process.
pub fn mappings() -> usize {
    let text = std::fs::read_to_string("/proc/self/maps").expect("procfs");
    text.lines().count()
}

/// Runs one ignored test of this binary in a process of its own; under the emulator that `TRANSOM_RUNNER`
/// names, if it does.
pub fn in_a_child(test: &str, environment: &[(&str, &str)]) -> Output {
    let binary = std::env::current_exe().expect("this binary");
    let runner = std::env::var("TRANSOM_RUNNER").unwrap_or_default();
    let mut words = runner.split_whitespace();
    let mut command = match words.next() {
        None => Command::new(binary),
        Some(emulator) => {
            let mut command = Command::new(emulator);
            command.args(words).arg(binary);
            command
        }
    };
    command
        .args([test, "--exact", "--ignored", "--nocapture"])
        .env_remove("RUST_BACKTRACE")
        .envs(environment.iter().copied())
        .output()
        .expect("starts")
}

/// The same, and it must pass.
#[track_caller]
pub fn passes_in_a_child(test: &str, environment: &[(&str, &str)]) {
    let output = in_a_child(test, environment);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{test} in a child: {}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

/// What a parked thread has reported. Written without allocating, as a `stuck` closure must.
#[derive(Default)]
pub struct Report {
    calls: AtomicU32,
    what: AtomicU32,
    asked: AtomicUsize,
    free: AtomicUsize,
    names_both: AtomicBool,
}

/// What was reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reported {
    Exhausted(Reason),
    PanicInDestructor,
    PanicThatCannotUnwind,
    OtherPanic,
}

const REPORTS: [Reported; 6] = [
    Reported::Exhausted(Reason::Arena),
    Reported::Exhausted(Reason::Stack),
    Reported::Exhausted(Reason::SharedHeap),
    Reported::PanicInDestructor,
    Reported::PanicThatCannotUnwind,
    Reported::OtherPanic,
];

impl Report {
    /// To be called by `stuck`.
    pub fn note(&self, failed: Failed<'_>) {
        let what = match failed {
            Failed::Exhausted(exhaustion) => {
                self.asked.store(exhaustion.asked, Ordering::Relaxed);
                self.free.store(exhaustion.free, Ordering::Relaxed);
                Reported::Exhausted(exhaustion.reason)
            }
            Failed::Panicked(note) if note.message().starts_with("panic in a destructor") => {
                let parts = ["the first, at ", "; then a second panic, at "];
                let names = |part: &&str| note.before().is_some_and(|text| text.contains(part));
                self.names_both
                    .store(parts.iter().all(names), Ordering::Relaxed);
                Reported::PanicInDestructor
            }
            Failed::Panicked(note) if note.message().starts_with("panic in a function") => {
                Reported::PanicThatCannotUnwind
            }
            Failed::Panicked(_) => Reported::OtherPanic,
        };
        let index = REPORTS.iter().position(|&report| report == what);
        self.what
            .store(index.map_or(u32::MAX, |n| n as u32), Ordering::Relaxed);
        self.calls.fetch_add(1, Ordering::Release);
    }

    pub fn calls(&self) -> u32 {
        self.calls.load(Ordering::Acquire)
    }

    /// Both panics that have led to it, each with its place.
    pub fn names_both(&self) -> bool {
        self.names_both.load(Ordering::Relaxed)
    }

    pub fn what(&self) -> Reported {
        REPORTS[self.what.load(Ordering::Relaxed) as usize]
    }

    /// Bytes asked for, and bytes that were free.
    pub fn asked_and_free(&self) -> (usize, usize) {
        (
            self.asked.load(Ordering::Relaxed),
            self.free.load(Ordering::Relaxed),
        )
    }
}

/// A thread that was parked by its request.
pub struct Parked {
    pub bucket: &'static Bucket,
    pub report: Arc<Report>,
    result: mpsc::Receiver<std::thread::Result<()>>,
}

impl Parked {
    /// Whether it still is, and was reported once.
    pub fn for_ever(&self) -> bool {
        self.bucket.state() == BucketState::Parked
            && self.report.calls() == 1
            && matches!(self.result.try_recv(), Err(mpsc::TryRecvError::Empty))
    }
}

/// Runs a handler that must be parked, and waits until it is.
#[track_caller]
pub fn parks<R: Copy + 'static>(handler: impl FnOnce(&Bump) -> R + Send + 'static) -> Parked {
    let bucket = next_bucket();
    let report = Arc::new(Report::default());
    let theirs = report.clone();
    let result = start_on(bucket, move |tenant| {
        tenant.enter(&|failed: Failed<'_>| theirs.note(failed), handler);
    });
    wait_for("the request is parked", || {
        if let Ok(result) = result.try_recv() {
            panic!("it returned: {result:?}");
        }
        report.calls() > 0
    });
    Parked {
        bucket,
        report,
        result,
    }
}
