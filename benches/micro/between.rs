//! A door call from one process into another, compared with what else Linux has for it: a futex ping-pong on
//! shared memory (the least that two wakes cost), a `SOCK_SEQPACKET` pair and a pair of pipes; with 1 and
//! with 64 calls in flight, on one CPU and on two. And growth: a handler that blocks for 200 µs, behind 1, 8
//! and 32 threads.
//!
//! `cargo bench -p transom-benches --bench between [-- ROUNDS]`. Every round runs everything, one after the
//! other, within a second or two; the figures are medians over the rounds, the ratios medians of the rounds'
//! ratios. Messages have 64 bytes.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use transom_doors::{
    AsyncClient, AttachOptions, Call, ChannelGeometry, Client, Door, OpenOptions, Patience, Status,
};

const MESSAGE: usize = 64;
const IN_FLIGHT: usize = 64;
const GEOMETRY: ChannelGeometry = ChannelGeometry {
    slots: 64,
    spares: 0,
    request_size: 16 << 10,
    reply_size: 64 << 10,
};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |n: usize| arguments.get(n).map_or("", String::as_str);
    match argument(0) {
        "serve" => serve(Path::new(argument(1)), argument(2), argument(3)),
        "sock" => echo_packets(),
        "pipe" => echo_pipe(),
        "futex" => answer_futex(Path::new(argument(1))),
        // For a profiler: `between door CPU CALLS THREADS`.
        "door" => {
            pin(0);
            let cpu = argument(1).parse().unwrap_or(0);
            let total = argument(2).parse().unwrap_or(10_000_000);
            let directory = std::env::temp_dir();
            let threads = argument(3).parse().unwrap_or(4);
            let many = door_many(cpu, &directory, threads, 0, total);
            println!("{many:.0} ns per call, {IN_FLIGHT} in flight");
            let (one, futex) = (door_one(cpu, &directory), futex_one(cpu, &directory));
            println!("{one:.0} ns for one call, {futex:.0} ns for a futex ping-pong");
        }
        _ => {
            let rounds = arguments.iter().find_map(|a| a.parse().ok()).unwrap_or(9);
            measure(rounds);
        }
    }
}

// ---- the other process ----

fn serve(path: &Path, threads: &str, micros: &str) {
    let pause = Duration::from_micros(micros.parse().unwrap_or(0));
    let door = Door::builder()
        .threads_max(threads.parse().expect("a number of threads"))
        .channel_geometry(GEOMETRY)
        .handler(move |_: u32, call: &mut Call<'_>| {
            if !pause.is_zero() {
                std::thread::sleep(pause);
            }
            let len = call.request().len();
            let mut copy = [0; MESSAGE];
            copy[..len].copy_from_slice(call.request());
            call.reply_mut()[..len].copy_from_slice(&copy[..len]);
            call.complete(len, Status::OK);
        })
        .build()
        .expect("a door");
    door.start().expect("starts");
    let _attachment = door
        .attach(path, &AttachOptions::default())
        .expect("attaches");
    println!("ready");
    // Until the parent lets go.
    let _ = std::io::stdin().read(&mut [0]);
}

fn echo_packets() {
    let mut message = [0; MESSAGE];
    loop {
        // SAFETY: descriptor 0 is the socket; the buffer is valid for its length.
        unsafe {
            if libc::recv(0, message.as_mut_ptr().cast(), MESSAGE, 0) <= 0 {
                return;
            }
            libc::send(0, message.as_ptr().cast(), MESSAGE, libc::MSG_NOSIGNAL);
        }
    }
}

fn echo_pipe() {
    let mut message = [0; MESSAGE];
    let (mut input, mut output) = (std::io::stdin(), std::io::stdout());
    while input.read_exact(&mut message).is_ok() {
        if output
            .write_all(&message)
            .and_then(|()| output.flush())
            .is_err()
        {
            return;
        }
    }
}

/// A page that two processes share.
fn shared_word(path: &Path) -> &'static AtomicU32 {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .expect("the file of the futex");
    // SAFETY: a fresh mapping of a file of a page, never unmapped; all processes use its first word as an
    // atomic.
    unsafe {
        let page = libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        );
        assert_ne!(page, libc::MAP_FAILED);
        &*page.cast::<AtomicU32>()
    }
}

fn futex(word: &AtomicU32, operation: libc::c_int, value: u32) {
    // SAFETY: a live, aligned word; no timeout.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), operation, value, 0usize);
    }
}

fn answer_futex(path: &Path) {
    let word = shared_word(path);
    println!("ready");
    loop {
        match word.load(Ordering::SeqCst) {
            0 => futex(word, libc::FUTEX_WAIT, 0),
            1 => {
                word.store(0, Ordering::SeqCst);
                futex(word, libc::FUTEX_WAKE, 1);
            }
            _ => return,
        }
    }
}

// ---- this process ----

fn pin(cpu: usize) {
    // SAFETY: a zeroed set is empty; the call affects this thread only.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
    }
}

struct Peer(Child);

impl Peer {
    fn start(cpu: usize, arguments: &[&str], stdin: Stdio, stdout: Stdio) -> Self {
        let own = std::env::current_exe().expect("this program");
        let child = Command::new("taskset")
            .args(["-c", &cpu.to_string()])
            .arg(own)
            .args(arguments)
            .stdin(stdin)
            .stdout(stdout)
            .spawn()
            .expect("taskset (util-linux) starts this program again");
        Self(child)
    }

    fn ready(cpu: usize, arguments: &[&str]) -> Self {
        let mut this = Self::start(cpu, arguments, Stdio::piped(), Stdio::piped());
        let mut line = [0; 6];
        let output = this.0.stdout.as_mut().expect("piped");
        output
            .read_exact(&mut line)
            .expect("it says that it is ready");
        this
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Nanoseconds of each of `count` repetitions: the median.
fn each(count: u32, mut f: impl FnMut()) -> f64 {
    for _ in 0..count / 10 {
        f();
    }
    median(
        (0..count)
            .map(|_| {
                let began = Instant::now();
                f();
                began.elapsed().as_nanos() as f64
            })
            .collect(),
    )
}

/// Nanoseconds per call of `total` calls with [`IN_FLIGHT`] on their way.
fn windowed(total: u32, mut send: impl FnMut(), mut receive: impl FnMut()) -> f64 {
    let began = Instant::now();
    for n in 0..total + IN_FLIGHT as u32 {
        if n >= IN_FLIGHT as u32 {
            receive();
        }
        if n < total {
            send();
        }
    }
    began.elapsed().as_nanos() as f64 / f64::from(total)
}

fn futex_one(peer_cpu: usize, directory: &Path) -> f64 {
    let path = directory.join("futex");
    std::fs::write(&path, [0; 4096]).expect("a page");
    let _peer = Peer::ready(peer_cpu, &["futex", &path.display().to_string()]);
    let word = shared_word(&path);
    each(20_000, || {
        word.store(1, Ordering::SeqCst);
        futex(word, libc::FUTEX_WAKE, 1);
        while word.load(Ordering::SeqCst) != 0 {
            futex(word, libc::FUTEX_WAIT, 1);
        }
    })
}

fn packets(peer_cpu: usize) -> (f64, f64) {
    let mut pair = [0; 2];
    // SAFETY: the two descriptors are new, and nothing else owns them.
    let (ours, theirs) = unsafe {
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
        assert_eq!(
            libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()),
            0
        );
        (
            UnixStream::from_raw_fd(pair[0]),
            OwnedFd::from_raw_fd(pair[1]),
        )
    };
    let _peer = Peer::start(peer_cpu, &["sock"], theirs.into(), Stdio::null());
    let message = [1; MESSAGE];
    let send = || assert_eq!((&ours).write(&message).expect("sends"), MESSAGE);
    let receive = || {
        let mut message = [0; MESSAGE];
        assert_eq!((&ours).read(&mut message).expect("receives"), MESSAGE);
    };
    let one = each(20_000, || {
        send();
        receive();
    });
    (one, windowed(200_000, send, receive))
}

fn pipes(peer_cpu: usize) -> (f64, f64) {
    let mut peer = Peer::start(peer_cpu, &["pipe"], Stdio::piped(), Stdio::piped());
    let mut input = peer.0.stdin.take().expect("piped");
    let mut output = peer.0.stdout.take().expect("piped");
    let message = [1; MESSAGE];
    let mut send = || input.write_all(&message).expect("sends");
    let mut receive = || output.read_exact(&mut [0; MESSAGE]).expect("receives");
    let one = each(20_000, || {
        send();
        receive();
    });
    (one, windowed(200_000, send, receive))
}

fn door_one(peer_cpu: usize, directory: &Path) -> f64 {
    let path = directory.join("door");
    let _peer = Peer::ready(peer_cpu, &["serve", &path.display().to_string(), "4", "0"]);
    let mut client = Client::open(&path).expect("opens");
    let mut reply = [0; MESSAGE];
    each(20_000, || {
        assert_eq!(client.call(&[1; MESSAGE], &mut reply), Ok(MESSAGE));
    })
}

fn door_many(peer_cpu: usize, directory: &Path, threads: u32, micros: u32, total: usize) -> f64 {
    let path = directory.join("door");
    let (threads, micros) = (threads.to_string(), micros.to_string());
    let path_text = path.display().to_string();
    let _peer = Peer::ready(peer_cpu, &["serve", &path_text, &threads, &micros]);
    let mut client = AsyncClient::open(&path, &OpenOptions::default()).expect("opens");
    let epoll = Epoll::of(&client);
    let mut run = |total: usize| {
        let (mut sent, mut done, mut quiet) = (0, 0, 0);
        while done < total {
            while sent < total
                && let Some(slot) = client.reserve()
            {
                client.request_mut(slot)[..MESSAGE].fill(1);
                client.submit(slot, MESSAGE, 0);
                sent += 1;
            }
            client.flush().expect("serving");
            let patience = if quiet < 6 {
                Patience::Lazy
            } else {
                Patience::Eager
            };
            if client.prepare_wait(patience) {
                epoll.wait(Duration::from_micros(60 << quiet.min(6)));
            }
            client.woke();
            let before = done;
            let mut reply = [0; MESSAGE];
            while let Some((slot, _)) = client.next_completion() {
                assert_eq!(client.copy_reply(slot, 0, &mut reply), MESSAGE);
                client.release(slot);
                done += 1;
            }
            if done == before {
                quiet += 1;
                client.nudge();
            } else {
                quiet = 0;
            }
        }
    };
    run(total / 10);
    let began = Instant::now();
    run(total);
    began.elapsed().as_nanos() as f64 / total as f64
}

/// As a loop waits: one epoll set, edge-triggered.
struct Epoll(OwnedFd);

impl Epoll {
    fn of(client: &AsyncClient) -> Self {
        let mut event = libc::epoll_event {
            events: (libc::EPOLLIN | libc::EPOLLET) as u32,
            u64: 0,
        };
        // SAFETY: nothing else owns the new descriptor; the event is valid for the call.
        unsafe {
            let epoll = OwnedFd::from_raw_fd(libc::epoll_create1(libc::EPOLL_CLOEXEC));
            let bell = client.as_raw_fd();
            let added =
                libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, bell, &raw mut event);
            assert_eq!(added, 0);
            Self(epoll)
        }
    }

    fn wait(&self, timeout: Duration) {
        let timeout = libc::timespec {
            tv_sec: 0,
            tv_nsec: timeout.as_nanos() as libc::c_long,
        };
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: event and timeout are valid for the call.
        unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.0.as_raw_fd(),
                &raw mut event,
                1,
                &raw const timeout,
                0usize,
                0usize,
            );
        }
    }
}

fn measure(rounds: usize) {
    let directory = PathBuf::from(format!("/tmp/transom-bench-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory in /tmp");
    pin(0);
    for (name, cpu) in [("one CPU", 0), ("two CPUs", 1)] {
        let mut all: Vec<[f64; 7]> = Vec::new();
        for _ in 0..rounds {
            let futex = futex_one(cpu, &directory);
            let door = door_one(cpu, &directory);
            let (packet, packet_many) = packets(cpu);
            let (pipe, pipe_many) = pipes(cpu);
            let door_many = door_many(cpu, &directory, 4, 0, 1_000_000);
            all.push([futex, door, packet, pipe, door_many, packet_many, pipe_many]);
        }
        let column = |n: usize| median(all.iter().map(|round| round[n]).collect());
        let ratio =
            |a: usize, b: usize| median(all.iter().map(|round| round[a] / round[b]).collect());
        println!("{name}: one call in flight, p50");
        for (n, what) in ["futex ping-pong", "door", "SEQPACKET", "pipe"]
            .iter()
            .enumerate()
        {
            println!(
                "  {what:16} {:8.2} µs   {:5.2} x futex",
                column(n) / 1e3,
                ratio(n, 0)
            );
        }
        println!("{name}: {IN_FLIGHT} in flight, rate");
        for (n, what) in [(4, "door"), (5, "SEQPACKET"), (6, "pipe")] {
            println!(
                "  {what:16} {:8.0} k/s  {:5.2} x SEQPACKET",
                1e6 / column(n),
                ratio(5, n)
            );
        }
    }
    println!("two CPUs: handler that blocks for 200 µs, {IN_FLIGHT} in flight");
    for threads in [1, 8, 32] {
        let total = 500 * threads as usize;
        let per_call = door_many(1, &directory, threads, 200, total);
        println!("  {threads:3} threads      {:8.1} k/s", 1e6 / per_call);
    }
    let _ = std::fs::remove_dir_all(&directory);
}
