//! A client that does not keep to the door protocol: one lie of a list, a walk through random ones, or
//! deaths.
//!
//! ```text
//! door-liar PATH CASE [SEED] [COUNT]
//! ```
//!
//! It ends with success if the door let it try. The test checks how the door has dealt with it.

use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use transom_tests::raw::{
    CHANNEL, Channel, FIXED, HELLO, Half, Memory, NUDGE, ONE_WRITER, PAGE, PARCEL, Random, Wire,
    hello, memfd, message, message_of_two,
};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, case, rest @ ..] = arguments.as_slice() else {
        eprintln!("door-liar PATH CASE [SEED] [COUNT]");
        return ExitCode::FAILURE;
    };
    let number = |n: usize, default: u64| {
        rest.get(n)
            .map_or(default, |text| text.parse().expect("a number"))
    };
    let mut random = Random::new(number(0, 1));
    let path = Path::new(path);
    let outcome = match case.as_str() {
        "walk" => walk(path, &mut random, number(1, 1)),
        "deaths" => deaths(path, &mut random, number(1, 1)),
        _ => lie(path, case, &mut random),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{case}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn lie(path: &Path, case: &str, random: &mut Random) -> io::Result<()> {
    if let Some(step) = case.strip_prefix("die-") {
        die_at(path, step.parse().expect("a step"));
    }
    if let Some(what) = case.strip_prefix("hello-") {
        return before_welcome(path, what);
    }
    if let Some(what) = case.strip_prefix("memory-") {
        return wrong_memory(path, what);
    }
    let slots = if case == "bits-beyond" { 10 } else { 64 };
    let channel = match case {
        "lost-slot" => Channel::open_with_spares(path, slots, 70)?,
        _ => Channel::open(path, slots)?,
    };
    inside(&channel, case, random);
    // A harmless lie gets a reply. After any other lie, the door puts the client out by hanging up.
    match case {
        "nudge-storm" | "wake-storm" | "turns" | "holes" | "hoard" => {
            let reply = channel.call(0, 0x7000_0000, b"echo to a liar");
            assert_eq!(reply.as_deref(), Some(&b"echo to a liar"[..]));
        }
        _ => wait_for_hangup(&channel.wire)?,
    }
    Ok(())
}

fn wait_for_hangup(wire: &Wire) -> io::Result<()> {
    loop {
        match wire.receive() {
            Ok((bytes, _)) if bytes.is_empty() => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Sends although the socket may be full.
fn insist(wire: &Wire, bytes: &[u8], descriptors: &[RawFd]) -> bool {
    loop {
        match wire.send(bytes, descriptors) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(error) if error.raw_os_error() == Some(libc::ETOOMANYREFS) => {
                std::thread::yield_now();
            }
            outcome => return outcome.is_ok(),
        }
    }
}

/// What a client can do that was let in.
fn inside(channel: &Channel, case: &str, random: &mut Random) {
    let request_size = channel.welcome.request_size as u32;
    let wire = &channel.wire;
    let spare = [wire.0.as_raw_fd(); 16];
    let one = |generation, len, flags| {
        channel.fill(0, generation, len, flags, b"a request");
        channel.submit(0, 1);
    };
    let say = |bytes: &[u8]| {
        insist(wire, bytes, &[]);
    };
    match case {
        "garbage-requests" => {
            channel.requests.scribble(random);
            // Some header is sure to be wrong.
            channel.requests.word(4).store(u32::MAX, Ordering::SeqCst);
            channel.submit(0, u64::MAX);
        }
        "garbage-control" => {
            channel.control.scribble(random);
            channel.submit(0, u64::MAX);
        }
        "bits-beyond" => channel.submit(0, 1 << 63),
        "twice" => {
            channel.fill(0, 1, 9, 0, b"sleep 300");
            // A second one is set as soon as the first one is taken; only a thread that is free sees it.
            while !wire.is_readable(std::time::Duration::ZERO) {
                channel.submit(0, 1);
                std::thread::yield_now();
            }
        }
        "lost-slot" => {
            // In a spare slot, which the door does not tell from others.
            let slot = channel.welcome.all() - 1;
            assert_eq!(slot, 133);
            let reply = channel.call(slot, 1, b"lose");
            assert_eq!(reply.as_deref(), Some(&b""[..]));
            assert!(channel.is_lost(slot));
            channel.fill(slot, 2, 4, 0, b"echo");
            channel.submit(slot / 64, 1 << (slot % 64));
        }
        "too-long" => one(1, request_size + 1, 0),
        "longest" => one(1, u32::MAX, 0),
        "no-generation" => one(0, 9, 0),
        "no-descriptors" => one(1, 9, 3 << 8),
        "descriptors-of-another-call" => {
            insist(wire, &message_of_two(PARCEL, 0, 99), &spare[..1]);
            one(1, 9, 1 << 8);
        }
        "parcel-for-no-slot" => {
            insist(wire, &message_of_two(PARCEL, 64, 1), &spare[..1]);
        }
        "garbage-message" => say(&[0xa5; 128]),
        "message-of-no-kind" => say(&message(77, &[])),
        "oversize-message" => say(&[0x5a; 3000]),
        "truncated-message" => say(&message(NUDGE, &[])[..20]),
        "another-hello" => say(&hello(PAGE as u32, 1, 1 << 30)),
        "another-channel" => {
            insist(wire, &message(CHANNEL, &[]), &spare);
        }
        "nudge-storm" => {
            for n in 0..50_000 {
                say(&message_of_two(NUDGE, n % 2, 0));
            }
        }
        "wake-storm" => {
            for n in 0..100_000 {
                let bed = 64 * (n % channel.welcome.threads as usize);
                channel.beds.word(bed).store(n as u32, Ordering::SeqCst);
                channel.beds.wake(bed);
            }
        }
        "turns" => {
            for generation in 1..2000 {
                channel.fill(3, generation, 4, 0, b"echo");
                channel.submit(0, 1 << 3);
                while !channel.is_done(3, generation) {
                    let turn = channel.control.word(channel.welcome.turn(3));
                    turn.store(random.next_number() as u32, Ordering::SeqCst);
                    channel.control.wake(channel.welcome.turn(3));
                }
            }
        }
        "holes" => {
            let fd = channel.control.fd.as_raw_fd();
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            for _ in 0..1000 {
                // SAFETY: a plain system call; the mapping stays, and what was in it becomes zeroes.
                let done =
                    unsafe { libc::fallocate(fd, mode, 0, channel.control.len() as libc::off_t) };
                assert_eq!(done, 0, "{}", io::Error::last_os_error());
                channel.submit(0, 0);
            }
        }
        "hoard" => {
            for slot in 0..64 {
                insist(wire, &message_of_two(PARCEL, slot, 1), &spare);
            }
        }
        _ => panic!("no such lie: {case}"),
    }
}

/// What a client can say instead of a hello.
fn before_welcome(path: &Path, what: &str) -> io::Result<()> {
    let page = PAGE as u32;
    let mut bytes = hello(page, 1, 1 << 30);
    let mut descriptors: &[RawFd] = &[];
    match what {
        "magic" => bytes[0] ^= 1,
        "version" => bytes[8] = 9,
        "page" => bytes = hello(16_384, 1, 1 << 30),
        "bytes" => bytes = hello(page, 1, 4096),
        "short" => bytes.truncate(40),
        "empty" => bytes.clear(),
        "long" => bytes.resize(4000, 1),
        "channel" => bytes = message(CHANNEL, &[]),
        "nudge" => bytes = message(NUDGE, &[]),
        "kind" => bytes = message(HELLO + 40, &[]),
        "descriptors" => {
            bytes[0] ^= 1;
            descriptors = &[0; 100];
        }
        _ => panic!("no such hello: {what}"),
    }
    let wire = Wire::connect(path)?;
    match wire.send(&bytes, descriptors) {
        // Linux 6.16 and later does not let it out; without its descriptors it is a lie as well.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => wire.send(&bytes, &[])?,
        sent => sent?,
    }
    wait_for_hangup(&wire)
}

/// What a client can send instead of its memory.
fn wrong_memory(path: &Path, what: &str) -> io::Result<()> {
    let half = Half::open(path, 64, 0)?;
    let (requests, control) = (half.welcome.requests_len(), half.welcome.control_len());
    let good = |len, seals| Memory::create(len, seals).map(|memory| memory.fd.try_clone());
    let mut fds: Vec<OwnedFd> = vec![good(requests, ONE_WRITER)??, good(control, FIXED)??];
    match what {
        "no-seals" => fds[0] = memfd(c"none", requests)?,
        "no-seals-of-control" => fds[1] = memfd(c"none", control)?,
        "can-shrink" => {
            let seals = ONE_WRITER & !libc::F_SEAL_SHRINK & !libc::F_SEAL_SEAL;
            fds[0] = good(requests, seals)??;
        }
        "can-be-sealed" => fds[1] = good(control, FIXED & !libc::F_SEAL_SEAL)??,
        "two-writers" => fds[0] = good(requests, FIXED)??,
        "too-short" => fds[0] = good(requests - PAGE, ONE_WRITER)??,
        "too-long" => fds[0] = good(requests + PAGE, ONE_WRITER)??,
        "control-too-short" => fds[1] = good(control - 1, FIXED)??,
        "empty" => fds[0] = good_empty()?,
        "control-read-only" => fds[1] = good(control, ONE_WRITER)??,
        "a-socket" => fds[0] = Wire::connect(path)?.0,
        "no-memfd" => fds[0] = std::fs::File::open("/dev/zero")?.into(),
        "swapped" => fds.swap(0, 1),
        "one" => fds.truncate(1),
        "none" => fds.clear(),
        "three" => fds.push(good(control, FIXED)??),
        "hundred" => {
            for _ in 0..98 {
                fds.push(fds[0].try_clone()?);
            }
        }
        "board" => fds[0] = half.descriptors[0].try_clone()?,
        _ => panic!("no such memory: {what}"),
    }
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    half.wire.send(&message(CHANNEL, &[]), &raw)?;
    wait_for_hangup(&half.wire)
}

fn good_empty() -> io::Result<OwnedFd> {
    let fd = memfd(c"empty", 0)?;
    // SAFETY: a plain system call on an open descriptor.
    unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, ONE_WRITER) };
    Ok(fd)
}

/// Steps of a client's life after which it can die.
const STEPS: usize = 9;

/// Goes so far, then dies as the kernel lets a process die that has no say.
fn die_at(path: &Path, step: usize) -> ! {
    let die = |now: usize| {
        if now == step {
            // SAFETY: a plain system call.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        }
    };
    let _: io::Result<()> = (|| {
        let wire = Wire::connect(path)?;
        die(0);
        wire.send(&hello(PAGE as u32, 64, 1 << 30), &[])?;
        die(1);
        drop(wire);
        let half = Half::open(path, 64, 0)?;
        die(2);
        let welcome = half.welcome;
        let requests = Memory::create(welcome.requests_len(), ONE_WRITER)?;
        let control = Memory::create(welcome.control_len(), FIXED)?;
        let raw = [requests.fd.as_raw_fd(), control.fd.as_raw_fd()];
        half.wire.send(&message(CHANNEL, &[]), &raw)?;
        die(3);
        half.wire.receive()?;
        die(4);
        drop(half);
        let channel = Channel::open(path, 64)?;
        for slot in 0..64 {
            channel.fill(slot, 1, 7, 0, b"sleep 1");
        }
        die(5);
        channel.submit(0, u64::MAX);
        die(6);
        let stdin = [0; 4];
        channel.wire.send(&message_of_two(PARCEL, 1, 1), &stdin)?;
        die(7);
        while !channel.is_done(0, 1) {
            std::thread::yield_now();
        }
        die(8);
        Ok(())
    })();
    // A door that turns us away at some step is one that is full of the dead.
    std::process::exit(3);
}

/// Children that die, one after the other.
fn deaths(path: &Path, random: &mut Random, count: u64) -> io::Result<()> {
    for _ in 0..count {
        let step = random.below(STEPS);
        // SAFETY: this process has one thread, so its child can do what it could.
        let child = unsafe { libc::fork() };
        if child == 0 {
            die_at(path, step);
        }
        if child < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut status = 0;
        // SAFETY: the status is a local.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        if !libc::WIFSIGNALED(status) {
            return Err(io::Error::other(format!("step {step} was not reached")));
        }
    }
    Ok(())
}

/// Sessions of random operations, each of which may or may not be a lie.
fn walk(path: &Path, random: &mut Random, sessions: u64) -> io::Result<()> {
    for _ in 0..sessions {
        let slots = 1 + random.below(64);
        let channel = match Channel::open(path, slots as u32) {
            // The door is full of those of us that it has not put out yet.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => continue,
            opened => opened?,
        };
        for _ in 0..random.below(60) {
            step(&channel, slots, random);
        }
    }
    Ok(())
}

fn step(channel: &Channel, slots: usize, random: &mut Random) {
    let slot = random.below(slots);
    let wire = &channel.wire;
    let any = |random: &mut Random| random.next_number() as u32;
    match random.below(20) {
        // Most of the time it is honest, or it would not get far.
        0..8 => {
            channel.fill(slot, 1 + any(random) / 2, 4, 0, b"echo");
            channel.submit(0, 1 << slot);
        }
        8 => {
            let (generation, len) = (any(random), any(random) >> random.below(32));
            channel.fill(slot, generation, len, any(random) & 1, b"hash me");
            channel.submit(0, 1 << slot);
        }
        9 => channel.submit(0, random.next_number()),
        10 => channel.control.scribble(random),
        11 => channel.requests.scribble(random),
        12 => {
            let turn = channel.control.word(channel.welcome.turn(slot));
            turn.store(any(random), Ordering::SeqCst);
        }
        13 => {
            let waiting = channel.control.word(0);
            waiting.store(any(random), Ordering::SeqCst);
        }
        14 => {
            let parcel = message_of_two(PARCEL, slot as u32, any(random) % 4);
            let _ = wire.send(&parcel, &[0; 10][..random.below(10)]);
        }
        15 => {
            channel.fill(slot, 1, 4, (any(random) % 5) << 8, b"fds!");
            channel.submit(0, 1 << slot);
        }
        16 => {
            let mut bytes = vec![0; random.below(300)];
            bytes.fill_with(|| random.next_number() as u8);
            let _ = wire.send(&bytes, &[]);
        }
        17 => {
            let kind = random.below(10) as u32;
            let _ = wire.send(&message_of_two(kind, any(random), any(random)), &[]);
        }
        18 => {
            let threads = channel.welcome.threads as usize;
            let bed = 64 * random.below(threads);
            let number = random.next_number() as u32;
            channel.beds.word(bed).store(number, Ordering::SeqCst);
            channel.beds.wake(bed);
        }
        _ => {
            channel.fill(slot, 1, 5, 0, b"panic");
            channel.submit(0, 1 << slot);
        }
    }
}
