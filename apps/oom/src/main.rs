//! Everything that can go wrong in a handler, on request: an application to test memory limits.
//!
//! | request | does |
//! |---|---|
//! | `/N` | allocates N KiB and fills them |
//! | `/arena/N` | the same through the explicit arena |
//! | `/recurse/N` | calls itself N times |
//! | `/panic` | panics |
//! | `/sleep/MS` | waits |
//! | `/hold/KIB/MS` | allocates, then waits |
//! | `/outside/N` | has another thread allocate N KiB, on the process heap: what an application must not do |

use std::hint::black_box;
use std::mem::replace;
use std::process::ExitCode;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;
use transom::{Failure, Request, Response, Router};

/// The most that can be asked for: more would not even be a size.
const KIB_MAX: usize = usize::MAX >> 11;

fn kib(request: &Request) -> Result<usize, Failure> {
    let kib: usize = request.param_as("kib")?;
    Ok(kib.min(KIB_MAX) * 1024)
}

fn allocate(request: &Request) -> Result<Response<'_>, Failure> {
    let block = black_box(vec![7u8; kib(request)?]);
    Ok(Response::text(format!("{} bytes\n", block.len())))
}

fn allocate_in_arena(request: &Request) -> Result<Response<'_>, Failure> {
    let block = request.arena().alloc_slice_fill_copy(kib(request)?, 7u8);
    Ok(Response::text(format!(
        "{} bytes\n",
        black_box(block).len()
    )))
}

fn depth(left: u64) -> u64 {
    let frame = black_box([left; 8]);
    if left == 0 {
        0
    } else {
        depth(left - 1) + frame[0].min(1)
    }
}

fn recurse(request: &Request) -> Result<Response<'_>, Failure> {
    let depth = depth(request.param_as("n")?);
    Ok(Response::text(format!("{depth} calls\n")))
}

fn panic(_: &Request) -> Response<'_> {
    panic!("as asked by the client")
}

fn milliseconds(request: &Request) -> Result<Duration, Failure> {
    Ok(Duration::from_millis(request.param_as("ms")?))
}

fn sleep(request: &Request) -> Result<Response<'_>, Failure> {
    thread::sleep(milliseconds(request)?);
    Ok(Response::text("slept\n"))
}

fn hold(request: &Request) -> Result<Response<'_>, Failure> {
    let block = black_box(vec![7u8; kib(request)?]);
    thread::sleep(milliseconds(request)?);
    Ok(Response::text(format!("held {} bytes\n", block.len())))
}

/// What the other thread is to do.
enum Job {
    None,
    Allocate(usize),
    Done(usize),
}

static JOB: Mutex<Job> = Mutex::new(Job::None);
static CHANGED: Condvar = Condvar::new();

/// Waits until the job is of a kind.
fn wait_for(is_it: fn(&Job) -> bool) -> MutexGuard<'static, Job> {
    let job = JOB.lock().unwrap_or_else(PoisonError::into_inner);
    let job = CHANGED.wait_while(job, |job| !is_it(job));
    job.unwrap_or_else(PoisonError::into_inner)
}

/// On a thread that is not in a bucket: no bound counts what it allocates.
fn allocate_outside() {
    loop {
        let mut job = wait_for(|job| matches!(job, Job::Allocate(_)));
        if let Job::Allocate(bytes) = *job {
            *job = Job::Done(black_box(vec![7u8; bytes]).len());
        }
        CHANGED.notify_all();
    }
}

fn outside(request: &Request) -> Result<Response<'_>, Failure> {
    let bytes = kib(request)?;
    // A handler that may be left by a jump allocates nothing while it holds a lock.
    *wait_for(|job| matches!(job, Job::None)) = Job::Allocate(bytes);
    CHANGED.notify_all();
    let done = replace(&mut *wait_for(|job| matches!(job, Job::Done(_))), Job::None);
    CHANGED.notify_all();
    let len = match done {
        Job::Done(len) => len,
        Job::None | Job::Allocate(_) => 0,
    };
    Ok(Response::text(format!("{len} bytes outside\n")))
}

fn main() -> ExitCode {
    thread::spawn(allocate_outside);
    let router = Router::new()
        .get("/{kib}", allocate)
        .get("/arena/{kib}", allocate_in_arena)
        .get("/recurse/{n}", recurse)
        .get("/panic", panic)
        .get("/sleep/{ms}", sleep)
        .get("/hold/{kib}/{ms}", hold)
        .get("/outside/{kib}", outside);
    // SAFETY: the handlers hold no lock while they allocate and no scope, keep nothing beyond their request,
    // and own nothing but memory.
    unsafe { transom::serve_escaping(router) }
}
