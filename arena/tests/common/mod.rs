//! One set of buckets per test process, and closures run on threads bound to them.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{OnceLock, mpsc};
use transom_arena::{
    Bound, Bucket, BucketGeometry, Buckets, Bytes, Place, Region, RegionOptions, Tenant, Term,
    Wipe, install_shared_heap,
};

pub const BUCKETS: usize = 48;
pub const SHARED_HEAP: usize = 1 << 20;

pub fn buckets() -> Buckets {
    buckets_with(Wipe::Poison)
}

pub fn buckets_with(wipe: Wipe) -> Buckets {
    static ONCE: OnceLock<Buckets> = OnceLock::new();
    *ONCE.get_or_init(|| {
        let geometry = BucketGeometry::new(Bytes::kib(512), Bytes::kib(128)).expect("a usual size");
        let bound = Bound::new(vec![
            geometry.term(BUCKETS).expect("some"),
            Term {
                name: "shared heap",
                count: 1,
                unit: SHARED_HEAP,
                holder: "Shared",
                flags: "--shared-heap",
                place: Place::Region,
            },
        ])
        .expect("small");
        let mut region = Region::map(&bound, RegionOptions::default()).expect("maps");
        let part = region.take("buckets").expect("there");
        let buckets = Buckets::install(&mut region, &part, geometry, wipe).expect("installs");
        region.commit().expect("commits");
        install_shared_heap(region.take("shared heap").expect("there")).expect("installs");
        buckets
    })
}

/// A bucket that no other test of this process has.
pub fn next_bucket() -> &'static Bucket {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    buckets()
        .get(NEXT.fetch_add(1, Ordering::Relaxed))
        .expect("more tests than buckets: raise BUCKETS")
}

type Job = Box<dyn FnOnce(&mut Tenant) + Send>;
type Report = mpsc::Sender<std::thread::Result<()>>;

fn main_of_thread(mut tenant: Tenant, argument: usize) {
    // SAFETY: `start_on` passes a leaked box, once.
    let (job, report) = *unsafe { Box::from_raw(argument as *mut (Job, Report)) };
    let result = catch_unwind(AssertUnwindSafe(|| job(&mut tenant)));
    let _ = report.send(result);
}

/// Starts a closure on a bucket's own thread; the receiver gets its result, if it ever ends.
pub fn start_on(
    bucket: &'static Bucket,
    job: impl FnOnce(&mut Tenant) + Send + 'static,
) -> mpsc::Receiver<std::thread::Result<()>> {
    let (report, result) = mpsc::channel();
    let argument: Box<(Job, Report)> = Box::new((Box::new(job), report));
    bucket
        .start_thread(main_of_thread, Box::into_raw(argument) as usize)
        .expect("starts");
    result
}

/// Runs a closure on a fresh bucket's own thread, and fails as it fails.
pub fn on_bucket_thread(job: impl FnOnce(&mut Tenant) + Send + 'static) {
    let result = start_on(next_bucket(), job);
    if let Err(payload) = result.recv().expect("the thread ends") {
        resume_unwind(payload);
    }
}

/// Counts its drops.
pub struct Ask(Rc<Cell<usize>>);

impl Ask {
    pub fn count(counter: Rc<Cell<usize>>) -> Self {
        Ask(counter)
    }
}

impl Drop for Ask {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}
