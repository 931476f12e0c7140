//! What an allocation costs in a bucket, compared with bumpalo alone and the system's allocator; and what
//! each way into and out of a request costs. `cargo bench -p transom-benches --bench arena`.

use bumpalo::Bump;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};
use transom_arena::{
    Bound, BucketGeometry, Buckets, Bytes, Failed, Region, RegionOptions, Tenant, TransomAllocator,
    Wipe,
};

#[global_allocator]
static GLOBAL: TransomAllocator = TransomAllocator;

/// Allocations between two resets: enough to hide the entry, few enough to stay in the cache.
const BATCH: u64 = 500;

fn buckets() -> Buckets {
    static ONCE: OnceLock<Buckets> = OnceLock::new();
    *ONCE.get_or_init(|| {
        let geometry = BucketGeometry::new(Bytes::kib(512), Bytes::kib(128)).expect("a usual size");
        let bound = Bound::new(vec![geometry.term(2).expect("two")]).expect("small");
        let mut region = Region::map(&bound, RegionOptions::default()).expect("maps");
        let part = region.take("buckets").expect("there");
        let buckets = Buckets::install(&mut region, &part, geometry, Wipe::None).expect("installs");
        region.commit().expect("commits");
        buckets
    })
}

type Timed = (
    fn(&mut Tenant, u64) -> Duration,
    u64,
    mpsc::Sender<Duration>,
);

fn server_thread(mut tenant: Tenant, argument: usize) {
    // SAFETY: `on_its_own_stack` leaked the receiver for this thread alone.
    let jobs = unsafe { Box::from_raw(argument as *mut mpsc::Receiver<Timed>) };
    for (run, times, reply) in jobs.iter() {
        let _ = reply.send(run(&mut tenant, times));
    }
}

/// Runs a measurement on a thread whose stack lies in its bucket, as door server threads do.
fn on_its_own_stack(run: fn(&mut Tenant, u64) -> Duration, times: u64) -> Duration {
    static THREAD: OnceLock<mpsc::Sender<Timed>> = OnceLock::new();
    let thread = THREAD.get_or_init(|| {
        let (jobs, receiver) = mpsc::channel::<Timed>();
        let bucket = buckets().get(0).expect("the first");
        let argument = Box::into_raw(Box::new(receiver)) as usize;
        bucket
            .start_thread(server_thread, argument)
            .expect("starts");
        jobs
    });
    let (reply, result) = mpsc::channel();
    thread.send((run, times, reply)).expect("the thread lives");
    result.recv().expect("it answers")
}

fn never_stuck(_: Failed<'_>) {
    std::process::abort();
}

/// Times `each` for `times` rounds of [`BATCH`] in requests; per single allocation.
fn in_requests(tenant: &mut Tenant, times: u64, each: impl Fn(&Bump) + Copy) -> Duration {
    let start = Instant::now();
    for _ in 0..times.div_ceil(BATCH) {
        let outcome = tenant.enter(&never_stuck, |arena| {
            for _ in 0..BATCH {
                each(arena);
            }
        });
        black_box(outcome.usage.high_water);
    }
    start
        .elapsed()
        .mul_f64(times as f64 / (times.div_ceil(BATCH) * BATCH) as f64)
}

/// One block and its release, or only the block: at the tip a release is part of the price, in a hole it is
/// not.
fn box_64(_: &Bump) {
    black_box(Box::new(black_box([1u64; 8])));
}

fn kept_64(_: &Bump) {
    // SAFETY: the layout's size is not zero.
    black_box(unsafe { std::alloc::alloc(Layout::new::<[u64; 8]>()) });
}

fn string_24(_: &Bump) {
    black_box(String::from(black_box("twenty-four bytes of it!")));
}

fn bumpalo_64(arena: &Bump) {
    black_box(arena.alloc(black_box([1u64; 8])));
}

fn bumpalo_24(arena: &Bump) {
    black_box(arena.alloc_str(black_box("twenty-four bytes of it!")));
}

fn system(layout: Layout, fill: u8) {
    // SAFETY: the layout's size is not zero; the block is written within it and freed with it.
    unsafe {
        let block = black_box(System.alloc(layout));
        block.write_bytes(fill, layout.size());
        System.dealloc(black_box(block), layout);
    }
}

fn allocations(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("allocation");
    group.bench_function(BenchmarkId::new("bucket", "Box of 64, freed"), |b| {
        b.iter_custom(|times| on_its_own_stack(|t, n| in_requests(t, n, box_64), times));
    });
    group.bench_function(BenchmarkId::new("bucket", "String of 24, freed"), |b| {
        b.iter_custom(|times| on_its_own_stack(|t, n| in_requests(t, n, string_24), times));
    });
    group.bench_function(BenchmarkId::new("bucket", "64, kept"), |b| {
        // Without the copy that `Box::new` makes of its argument: its place on the stack counts for more than
        // the allocation. An escape is the one way to a reset with live blocks; its price is spread over the
        // batch.
        b.iter_custom(|times| on_its_own_stack(kept_until_an_escape, times));
    });
    group.bench_function(BenchmarkId::new("bumpalo", "64"), |b| {
        b.iter_custom(|times| on_its_own_stack(|t, n| in_requests(t, n, bumpalo_64), times));
    });
    group.bench_function(BenchmarkId::new("bumpalo", "str of 24"), |b| {
        b.iter_custom(|times| on_its_own_stack(|t, n| in_requests(t, n, bumpalo_24), times));
    });
    for size in [64, 24] {
        let layout = Layout::from_size_align(size, 8).expect("small");
        group.bench_function(BenchmarkId::new("system", format!("{size}, freed")), |b| {
            b.iter(|| system(black_box(layout), 1));
        });
    }
    group.finish();
}

fn kept_until_an_escape(tenant: &mut Tenant, times: u64) -> Duration {
    let start = Instant::now();
    for _ in 0..times.div_ceil(BATCH) {
        // SAFETY: nothing is held.
        let outcome = unsafe {
            tenant.enter_escaping(&never_stuck, |arena| {
                for _ in 0..BATCH {
                    kept_64(arena);
                }
                black_box(Vec::<u8>::with_capacity(1 << 30)).len()
            })
        };
        black_box(outcome.usage.high_water);
    }
    start
        .elapsed()
        .mul_f64(times as f64 / (times.div_ceil(BATCH) * BATCH) as f64)
}

/// Times `each` for `times` requests.
fn requests(tenant: &mut Tenant, times: u64, each: impl Fn(&mut Tenant)) -> Duration {
    let start = Instant::now();
    for _ in 0..times {
        each(tenant);
    }
    start.elapsed()
}

fn nothing(tenant: &mut Tenant) {
    black_box(tenant.enter(&never_stuck, |_| black_box(1)).left);
}

fn formats(tenant: &mut Tenant) {
    black_box(
        tenant
            .enter(&never_stuck, |_| format!("hello, {}\n", black_box(7)).len())
            .left,
    );
}

fn escapes(tenant: &mut Tenant) {
    // SAFETY: nothing is held.
    let outcome = unsafe {
        tenant.enter_escaping(&never_stuck, |_| {
            black_box(Vec::<u8>::with_capacity(black_box(1 << 30))).len()
        })
    };
    black_box(outcome.left);
}

fn unwinds_from_the_arena(tenant: &mut Tenant) {
    let outcome = tenant.enter(&never_stuck, |arena| {
        arena.alloc_slice_fill_copy(black_box(1 << 30), 1u8).len()
    });
    black_box(outcome.left);
}

fn panics(tenant: &mut Tenant) {
    let outcome = tenant.enter(&never_stuck, |_| -> usize {
        panic!("number {}", black_box(1))
    });
    black_box(outcome.left);
}

fn overflows(tenant: &mut Tenant) {
    fn deeper(n: u64) -> u64 {
        let frame = [n; 64];
        black_box(&frame);
        if n == u64::MAX {
            return 0;
        }
        deeper(n + 1) + black_box(frame[0])
    }
    // SAFETY: nothing is held.
    let outcome = unsafe { tenant.enter_escaping(&never_stuck, |_| deeper(black_box(0))) };
    black_box(outcome.left);
}

fn ways_out(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("request");
    type Way = (&'static str, fn(&mut Tenant, u64) -> Duration);
    let ways: [Way; 6] = [
        ("that does nothing", |t, n| requests(t, n, nothing)),
        ("that formats a line", |t, n| requests(t, n, formats)),
        ("that escapes", |t, n| requests(t, n, escapes)),
        ("that unwinds from the arena", |t, n| {
            requests(t, n, unwinds_from_the_arena)
        }),
        ("that panics", |t, n| requests(t, n, panics)),
        ("that overflows its stack", |t, n| requests(t, n, overflows)),
    ];
    for (name, run) in ways {
        group.bench_function(name, |b| {
            b.iter_custom(|times| on_its_own_stack(run, times));
        });
    }
    group.bench_function("format alone, from the system's allocator", |b| {
        b.iter(|| black_box(format!("hello, {}\n", black_box(7))).len());
    });
    group.finish();
}

fn shortly() -> Criterion {
    Criterion::default()
        .sample_size(40)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1))
}

criterion_group!(name = benches; config = shortly(); targets = allocations, ways_out);
criterion_main!(benches);
