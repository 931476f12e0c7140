//! A door call in one process, with 1 and with 64 calls in flight, compared with its core: a futex ping-pong
//! between two threads. `cargo bench -p transom-benches --bench doors`; pin it (`taskset -c 0`) to see the
//! figures of one CPU.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use transom_arena::futex;
use transom_doors::{AsyncClient, Call, ChannelGeometry, ChannelMemory, Door, Patience, Status};

const GEOMETRY: ChannelGeometry = ChannelGeometry {
    slots: 64,
    spares: 0,
    request_size: 16 << 10,
    reply_size: 64 << 10,
};
const MESSAGE: usize = 64;

fn open_door() -> (Door, AsyncClient) {
    let this: Arc<OnceLock<Door>> = Arc::default();
    let create = {
        let this = this.clone();
        move |thread| {
            let door = this.get().expect("set before start").clone();
            std::thread::Builder::new().spawn(move || {
                door.serve(thread, &|_: u32, call: &mut Call<'_>| {
                    call.complete(MESSAGE, Status::OK);
                });
            })?;
            Ok(())
        }
    };
    let door = Door::builder()
        .threads_max(4)
        .server_create(create)
        .build()
        .expect("builds");
    this.set(door.clone()).expect("set once");
    let bytes = vec![0u64; GEOMETRY.memory_len() / 8 + 512].leak();
    let base = bytes.as_mut_ptr().cast::<u8>();
    let base = NonNull::new(base.wrapping_add(base.align_offset(4096))).expect("not null");
    // SAFETY: leaked, zeroed, a page longer than needed so that it can begin on one, and known to nothing
    // else.
    let memory = unsafe { ChannelMemory::new(base, GEOMETRY.memory_len()) };
    let client = door.channel(GEOMETRY, memory).expect("a channel");
    door.start().expect("starts");
    (door, client)
}

/// Sleeps as a loop does: on the doorbell, and briefly while calls may be kept back.
fn wait(client: &mut AsyncClient, patience: Patience) {
    if !client.prepare_wait(patience) {
        return;
    }
    let mut bell = libc::pollfd {
        fd: client.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one descriptor, valid for the call.
    let rung = unsafe { libc::poll(&raw mut bell, 1, 1) };
    client.woke();
    if rung == 0 {
        client.nudge();
        return;
    }
    let mut count = 0u64;
    // SAFETY: reads the eventfd's eight bytes into a local of eight bytes.
    unsafe { libc::read(bell.fd, (&raw mut count).cast(), 8) };
}

fn calls(client: &mut AsyncClient, in_flight: usize, total: u64) -> Duration {
    let began = Instant::now();
    let (mut submitted, mut done) = (0, 0);
    while done < total {
        while client.outstanding() < in_flight && submitted < total {
            let slot = client.reserve().expect("as many slots as calls");
            client.request_mut(slot)[..MESSAGE].fill(b'x');
            client.submit(slot, MESSAGE, 0);
            submitted += 1;
        }
        client.flush().expect("not revoked");
        wait(
            client,
            if in_flight > 1 {
                Patience::Lazy
            } else {
                Patience::Eager
            },
        );
        while let Some((slot, _)) = client.next_completion() {
            client.release(slot);
            done += 1;
        }
    }
    began.elapsed()
}

/// Two threads that wake each other in turn: the least cost of a call through a sleeping door.
fn futex_ping_pong(rounds: u64) -> Duration {
    let turn = Arc::new(AtomicU32::new(0));
    let other = {
        let turn = turn.clone();
        std::thread::spawn(move || {
            for _ in 0..rounds {
                while turn.load(Ordering::SeqCst) != 1 {
                    futex::wait(&turn, 0);
                }
                turn.store(0, Ordering::SeqCst);
                futex::wake(&turn, 1);
            }
        })
    };
    let began = Instant::now();
    for _ in 0..rounds {
        turn.store(1, Ordering::SeqCst);
        futex::wake(&turn, 1);
        while turn.load(Ordering::SeqCst) != 0 {
            futex::wait(&turn, 1);
        }
    }
    let took = began.elapsed();
    other.join().expect("does not panic");
    took
}

fn benches(c: &mut Criterion) {
    let mut group = c.benchmark_group("door");
    group.throughput(Throughput::Elements(1));
    group.measurement_time(Duration::from_secs(4));
    for in_flight in [1, 64] {
        let (door, mut client) = open_door();
        group.bench_function(format!("call, {in_flight} in flight"), |b| {
            b.iter_custom(|total| calls(&mut client, in_flight, total));
        });
        door.revoke();
    }
    group.bench_function("futex ping-pong", |b| b.iter_custom(futex_ping_pong));
    group.finish();
}

criterion_group!(door, benches);
criterion_main!(door);
