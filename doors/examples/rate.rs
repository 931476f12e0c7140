//! How many calls a second an in-process door carries, with 1 and 64 calls in flight and an empty
//! handler; unpinned, and with every thread on one CPU.
//!
//! Run: `cargo run -p transom-doors --release --example rate [seconds]`

use std::error::Error;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use transom_doors::{AsyncClient, Call, ChannelGeometry, ChannelMemory, Door, Patience, Status};

const GEOMETRY: ChannelGeometry = ChannelGeometry {
    slots: 64,
    spares: 0,
    request_size: 16 << 10,
    reply_size: 64 << 10,
};
const MESSAGE: usize = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let seconds = std::env::args()
        .nth(1)
        .map_or(Ok(2.0), |argument| argument.parse())?;
    let length = Duration::from_secs_f64(seconds);
    for (placement, cpu) in [("unpinned", None), ("one CPU", Some(0))] {
        for in_flight in [1, 64] {
            let line = measure(cpu, in_flight, length)?;
            println!("{placement:9} {in_flight:2} in flight: {line}");
        }
    }
    Ok(())
}

/// A fresh door and a fresh loop for each figure, so that none inherits another's threads.
fn measure(
    cpu: Option<usize>,
    in_flight: usize,
    length: Duration,
) -> Result<String, Box<dyn Error>> {
    let this: Arc<OnceLock<Door>> = Arc::default();
    let door = Door::builder()
        .threads_max(4)
        .server_create({
            let this = Arc::clone(&this);
            move |thread| {
                let door = this.get().expect("set before start").clone();
                std::thread::Builder::new().spawn(move || {
                    pin(cpu);
                    door.serve(thread, &|_: u32, call: &mut Call<'_>| {
                        call.complete(MESSAGE, Status::OK);
                    });
                })?;
                Ok(())
            }
        })
        .build()?;
    this.set(door.clone()).expect("set once");
    let mut client = door.channel(GEOMETRY, memory())?;
    door.start()?;

    let cpu_before = cpu_seconds();
    let (calls, sleeps, elapsed) = std::thread::spawn(move || {
        pin(cpu);
        drive(&mut client, in_flight, length)
    })
    .join()
    .expect("the loop does not panic");

    let cpu_per_call = (cpu_seconds() - cpu_before) * 1e6 / calls as f64;
    let info = door.info();
    door.revoke();
    let rate = calls as f64 / elapsed.as_secs_f64();
    Ok(format!(
        "{:9.0} calls/s, {:6.2} us per call ({cpu_per_call:.2} us of CPU), {:6.1} calls per sleep, {} threads started, service {} ns",
        rate,
        1e6 / rate,
        calls as f64 / sleeps.max(1) as f64,
        info.threads.started,
        info.calls.average_ns,
    ))
}

/// An event loop that keeps `in_flight` calls on their way, and waits as `AsyncClient::prepare_wait`
/// asks it to.
fn drive(client: &mut AsyncClient, in_flight: usize, length: Duration) -> (u64, u64, Duration) {
    // SAFETY: no memory is involved.
    let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    let mut event = libc::epoll_event {
        events: (libc::EPOLLIN | libc::EPOLLET) as u32,
        u64: 0,
    };
    // SAFETY: both descriptors are open, and `event` is a local.
    unsafe {
        libc::epoll_ctl(
            epoll,
            libc::EPOLL_CTL_ADD,
            client.as_raw_fd(),
            &raw mut event,
        )
    };

    let began = Instant::now();
    let (mut calls, mut sleeps, mut progress) = (0_u64, 0_u64, true);
    loop {
        while client.outstanding() < in_flight {
            let slot = client.reserve().expect("there are as many slots as calls");
            client.request_mut(slot)[..MESSAGE].fill(b'x');
            client.submit(slot, MESSAGE, 0);
        }
        client.flush().expect("not revoked");

        // A single call has nothing to be gathered with.
        let patience = if progress && in_flight > 1 {
            Patience::Lazy
        } else {
            Patience::Eager
        };
        if client.prepare_wait(patience) {
            sleeps += 1;
            let short = patience == Patience::Lazy || client.backlog();
            let timeout = libc::timespec {
                tv_sec: 0,
                tv_nsec: 100_000,
            };
            let timeout = if short {
                &raw const timeout
            } else {
                std::ptr::null()
            };
            // SAFETY: one event of room is given; a null timeout means none, a null mask is
            // allowed.
            let woken =
                unsafe { libc::epoll_pwait2(epoll, &raw mut event, 1, timeout, std::ptr::null()) };
            client.woke();
            if woken == 0 {
                client.nudge();
            }
        }
        let before = calls;
        while let Some((slot, _)) = client.next_completion() {
            client.release(slot);
            calls += 1;
        }
        progress = calls != before;
        // Looking at the clock costs as much as a tenth of a call: once per round is enough.
        let elapsed = began.elapsed();
        if elapsed >= length {
            // SAFETY: ours, and open.
            unsafe { libc::close(epoll) };
            return (calls, sleeps, elapsed);
        }
    }
}

/// CPU time of this process so far: unlike the rate, a figure that other processes of the machine
/// do not spoil.
fn cpu_seconds() -> f64 {
    // SAFETY: a rusage is plain numbers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is a local that the call may write.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

fn memory() -> ChannelMemory {
    let layout =
        std::alloc::Layout::from_size_align(GEOMETRY.memory_len(), 4096).expect("a page multiple");
    // SAFETY: the size is not zero.
    let base = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).expect("a few MiB");
    // SAFETY: fresh, zeroed, page-aligned, never freed, and known to nothing else.
    unsafe { ChannelMemory::new(base, GEOMETRY.memory_len()) }
}

fn pin(cpu: Option<usize>) {
    let Some(cpu) = cpu else { return };
    // SAFETY: a cpu_set_t is a plain bit array; zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `cpu` is far below CPU_SETSIZE; pid 0 is this thread; the size is that of the local
    // passed.
    unsafe {
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
    }
}
