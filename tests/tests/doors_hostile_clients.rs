//! Clients that lie to a door, at every step and with everything they can reach: each hurts only itself.
#![cfg(target_os = "linux")]

use std::io::Write;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use transom_doors::{Client, OpenOptions};
use transom_tests::echo::{Echo, start_mortal};
use transom_tests::hanging::HangingFile;
use transom_tests::raw::{self, Channel, Half, Memory, Random, Wire, hash};
use transom_tests::{Folder, PATIENCE, eventually};

const ECHO: &str = env!("CARGO_BIN_EXE_door-echo");
const HANGING_FILE: &str = env!("CARGO_BIN_EXE_hanging-file");
const LIAR: &str = env!("CARGO_BIN_EXE_door-liar");

fn echo(folder: &Folder, threads: u32, options: &[&str]) -> Echo {
    Echo::start(ECHO, &folder.path().join("a.door"), threads, options)
}

/// A client that calls without a pause and checks every answer.
struct Honest {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Honest {
    fn start(path: &Path) -> Self {
        let mut client = Client::open(path).expect("the door is open");
        let (stop, calls) = <(Arc<AtomicBool>, Arc<AtomicU64>)>::default();
        let thread = std::thread::spawn({
            let (stop, calls) = (Arc::clone(&stop), Arc::clone(&calls));
            let mut random = Random::new(5);
            move || {
                while !stop.load(Ordering::Relaxed) {
                    ask(&mut client, &mut random);
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self {
            stop,
            calls,
            thread: Some(thread),
        }
    }

    /// Waits until it has got on.
    #[track_caller]
    fn gets_on(&self) {
        let before = self.calls.load(Ordering::Relaxed);
        assert!(
            eventually(|| self.calls.load(Ordering::Relaxed) > before + 10),
            "the honest client gets no answers"
        );
    }

    fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is stopped once");
        assert!(eventually(|| thread.is_finished()), "an answer is missing");
        thread.join().expect("every answer was right");
    }
}

/// One call whose answer is checked.
#[track_caller]
fn ask(client: &mut Client, random: &mut Random) {
    let mut request = vec![b'!'; 1 + random.below(4095)];
    for place in request[1..].iter_mut().step_by(7) {
        *place = random.next_number() as u8;
    }
    let mut reply = [0; 4096];
    assert_eq!(client.call(&request, &mut reply), Ok(8));
    assert_eq!(reply[..8], hash(&request));
}

/// Lets a liar do its worst, to its end; returns its process id.
#[track_caller]
fn lie(path: &Path, arguments: &[&str]) -> u32 {
    let mut command = Command::new(LIAR);
    command
        .arg(path)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    let child = start_mortal(&mut command).expect("the binary can be started");
    let pid = child.id();
    let ended = child.wait_with_output().expect("it is ours to wait for");
    let wanted = !arguments[0].starts_with("die-");
    assert_eq!(
        ended.status.success(),
        wanted,
        "{arguments:?}: {}\n{}",
        ended.status,
        String::from_utf8_lossy(&ended.stderr)
    );
    pid
}

/// Plays all these lies against one door, with an honest client beside them. A lie is its name and how the
/// line begins that the door must say of the liar, or ends.
fn play(name: &str, cases: &[(&str, &str, &str)]) {
    let folder = Folder::new(name);
    let mut door = echo(&folder, 4, &[]);
    let honest = Honest::start(door.path());
    honest.gets_on();
    // SAFETY: no preconditions.
    let uid = unsafe { libc::geteuid() };
    let before = door.holdings_at_rest();
    for (case, event, why) in cases {
        let pid = lie(door.path(), &[case]);
        let said = || {
            let lines = door.lines_about(pid);
            let start = format!("{event} pid={pid} uid={uid} ");
            lines
                .iter()
                .any(|line| line.starts_with(&start) && line.contains(why))
        };
        assert!(
            eventually(said),
            "{case}: no line {event:?} with {why:?}, but {:?}",
            door.lines_about(pid)
        );
        honest.gets_on();
        let mut new = Client::open(door.path()).expect("the door lets others in");
        ask(&mut new, &mut Random::new(pid.into()));
        assert!(door.is_alive());
    }
    let most = transom_tests::echo::Holdings {
        // A door has as many threads as were ever needed at once.
        threads: before.threads.max(4 + 3),
        ..before
    };
    most.wait_for(door.pid());
    honest.stop();
    // SAFETY: as above.
    let us = unsafe { libc::getpid() }.cast_unsigned();
    let about_us = door.lines_about(us);
    assert!(
        about_us
            .iter()
            .all(|line| line.starts_with("opened") || line.starts_with("left")),
        "{about_us:?}"
    );
}

#[test]
fn who_lies_about_calls_is_put_out_by_name() {
    play(
        "lies",
        &[
            ("garbage-requests", "poisoned", "request longer than"),
            ("garbage-control", "poisoned", "without a generation"),
            ("bits-beyond", "poisoned", "slot that the channel does not"),
            ("twice", "poisoned", "second call in a slot"),
            ("too-long", "poisoned", "longer than its slot"),
            ("longest", "poisoned", "longer than its slot"),
            ("no-generation", "poisoned", "without a generation"),
            ("no-descriptors", "poisoned", "announced and not sent"),
            ("descriptors-of-another-call", "poisoned", "announced and"),
            ("parcel-for-no-slot", "poisoned", "slot that the channel"),
            ("garbage-message", "poisoned", "a message"),
            ("message-of-no-kind", "poisoned", "a message"),
            ("oversize-message", "poisoned", "a message"),
            ("truncated-message", "poisoned", "a message"),
            ("another-hello", "poisoned", "a message"),
            ("another-channel", "poisoned", "more descriptors"),
        ],
    );
}

/// Its borrower still writes there, so the slot must not be another handler's, whatever the client wants.
#[test]
fn who_uses_the_slot_of_a_lost_call_again_is_put_out() {
    let folder = Folder::new("lost-slot");
    let mut door = echo(&folder, 4, &["spares=100"]);
    let honest = Honest::start(door.path());
    honest.gets_on();
    let pid = lie(door.path(), &["lost-slot"]);
    let said = |what: &str| {
        let lines = door.lines_about(pid);
        lines.iter().any(|line| line.starts_with(what))
    };
    assert!(
        eventually(|| said("poisoned") && said("kept")),
        "{:?}",
        door.lines_about(pid)
    );
    assert!(door.lines_about(pid).concat().contains("or was lost"));
    honest.gets_on();
    honest.stop();
    assert!(door.is_alive());
}

#[test]
fn who_only_makes_noise_disturbs_nobody() {
    play(
        "noise",
        &[
            ("nudge-storm", "left", ""),
            ("wake-storm", "left", ""),
            ("turns", "left", ""),
            ("holes", "left", ""),
        ],
    );
}

#[test]
fn who_does_not_begin_as_agreed_is_turned_away() {
    play(
        "hellos",
        &[
            ("hello-magic", "refused", "did not accept"),
            ("hello-version", "refused", "version 9"),
            ("hello-page", "refused", "16384"),
            ("hello-bytes", "refused", "4096"),
            ("hello-short", "refused", "did not accept"),
            ("hello-long", "refused", "did not accept"),
            ("hello-channel", "refused", "did not accept"),
            ("hello-nudge", "refused", "did not accept"),
            ("hello-kind", "refused", "did not accept"),
            ("hello-descriptors", "refused", "did not accept"),
        ],
    );
}

#[test]
fn memory_that_is_not_as_agreed_is_not_mapped() {
    let refused = |case| (case, "refused", "did not accept");
    play(
        "memory",
        &[
            refused("memory-no-seals"),
            refused("memory-no-seals-of-control"),
            refused("memory-can-shrink"),
            refused("memory-can-be-sealed"),
            refused("memory-two-writers"),
            refused("memory-too-short"),
            refused("memory-too-long"),
            refused("memory-control-too-short"),
            refused("memory-empty"),
            ("memory-control-read-only", "refused", "system error 1"),
            refused("memory-a-socket"),
            refused("memory-no-memfd"),
            refused("memory-swapped"),
            refused("memory-one"),
            refused("memory-none"),
            refused("memory-three"),
            refused("memory-hundred"),
            refused("memory-board"),
        ],
    );
}

#[test]
fn who_dies_at_any_step_leaves_nothing() {
    let folder = Folder::new("steps");
    let mut door = echo(&folder, 4, &[]);
    let honest = Honest::start(door.path());
    honest.gets_on();
    // Every thread that can be needed is there.
    lie(door.path(), &["die-6"]);
    let before = door.holdings_at_rest();
    for step in 0..9 {
        for _ in 0..3 {
            lie(door.path(), &[&format!("die-{step}")]);
        }
        honest.gets_on();
        let mut new = Client::open(door.path()).expect("the door lets others in");
        ask(&mut new, &mut Random::new(7));
    }
    let most = transom_tests::echo::Holdings {
        threads: before.threads.max(4 + 3),
        ..before
    };
    most.wait_for(door.pid());
    assert!(door.is_alive());
    assert_eq!(door.count("poisoned"), 0);
    honest.stop();
}

#[test]
fn random_lies_end_as_well_as_chosen_ones() {
    let folder = Folder::new("walk");
    let mut door = echo(&folder, 4, &[]);
    let honest = Honest::start(door.path());
    honest.gets_on();
    let before = door.holdings_at_rest();
    let seed = Random::seed().to_string();
    let pid = lie(door.path(), &["walk", &seed, "300"]);
    honest.gets_on();
    let told = || {
        let lines = door.lines_about(pid);
        let count = |event: &str| lines.iter().filter(|line| line.starts_with(event)).count();
        (count("opened"), count("left") + count("poisoned"))
    };
    assert!(eventually(|| told().0 == told().1), "{:?}", told());
    assert!(told().0 > 200, "{:?}", told());
    assert!(door.count("poisoned") > 50);
    let most = transom_tests::echo::Holdings {
        threads: before.threads.max(4 + 3),
        ..before
    };
    most.wait_for(door.pid());
    assert!(door.is_alive());
    honest.stop();
}

#[test]
fn what_belongs_to_the_door_cannot_be_written_and_nothing_can_shrink() {
    let folder = Folder::new("write");
    let door = echo(&folder, 2, &[]);
    let half = Half::open(door.path(), 64, 0).expect("welcome");
    let welcome = half.welcome;
    let errno = |result: std::io::Result<()>| {
        let error = result.expect_err("a seal forbids it");
        error.raw_os_error().unwrap_or(0)
    };
    for (fd, len) in [
        (&half.descriptors[0], welcome.board_len()),
        (&half.descriptors[2], welcome.replies_len()),
    ] {
        let clone = || fd.try_clone().expect("a descriptor");
        assert_eq!(
            errno(Memory::map(clone(), len, true).map(drop)),
            libc::EPERM
        );
        let memory = Memory::map(clone(), len, false).expect("it can be read");
        assert_eq!(errno(memory.resize(len / 2)), libc::EPERM);
        assert_eq!(errno(memory.resize(len * 2)), libc::EPERM);
        assert_eq!(errno(memory.seal(libc::F_SEAL_WRITE)), libc::EPERM);
        // A file of its own right, opened anew for writing: the seal is the memory's, not the descriptor's.
        let anew = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let anew = std::fs::File::options().read(true).write(true).open(anew);
        if let Ok(anew) = anew {
            use std::os::unix::fs::FileExt;
            assert!(anew.write_at(b"x", 0).is_err());
            assert!(Memory::map(anew.into(), len, true).is_err());
        }
    }
    let channel = half.finish().expect("a channel");
    for ours in [&channel.requests, &channel.control] {
        assert_eq!(errno(ours.resize(0)), libc::EPERM);
        assert_eq!(errno(ours.resize(ours.len() + 4096)), libc::EPERM);
    }
    // The doorbell cannot be rung from here: an epoll set takes no writes.
    let fd = channel.ear.as_raw_fd();
    // SAFETY: eight bytes of a constant.
    let written = unsafe { libc::write(fd, [1_u8; 8].as_ptr().cast(), 8) };
    assert_eq!(written, -1);
    assert_eq!(channel.call(1, 1, b"echo"), Some(b"echo".to_vec()));
}

#[test]
fn a_new_client_sees_nothing_of_another_ones_replies() {
    let folder = Folder::new("slack");
    let door = echo(&folder, 1, &[]);
    let first = Channel::open(door.path(), 4).expect("a channel");
    let mut secret = b"echo".to_vec();
    secret.resize(4096, b'S');
    for slot in 0..4 {
        assert_eq!(first.call(slot, 1, &secret), Some(secret.clone()));
    }
    drop(first);
    assert!(eventually(|| door.count("left") == 1));
    let second = Channel::open(door.path(), 4).expect("a channel");
    let all = |channel: &Channel| channel.replies.get(0, channel.replies.len());
    assert!(all(&second).iter().all(|byte| *byte == 0));
    assert_eq!(second.call(0, 1, b"echo!"), Some(b"echo!".to_vec()));
    let (seen, headers) = (all(&second), second.welcome.headers_len());
    assert_eq!(&seen[headers..headers + 5], b"echo!");
    assert!(seen[headers + 5..].iter().all(|byte| *byte == 0));
    assert!(!seen.contains(&b'S'));
    // A request that overstates its length gets its own slot's bytes back, and no other slot's.
    second.fill(1, 1, 4096, 0, b"echo");
    second.submit(0, 1 << 1);
    assert!(eventually(|| second.is_done(1, 1)));
    let reply = second.replies.get(headers + 4096, 4096);
    assert_eq!(&reply[..4], b"echo");
    assert!(reply[4..].iter().all(|byte| *byte == 0));
}

#[test]
fn silent_clients_are_forgotten_and_keep_nobody_out() {
    let folder = Folder::new("silent");
    let door = echo(&folder, 2, &[]);
    let honest = Honest::start(door.path());
    honest.gets_on();
    let before = door.holdings_at_rest();
    let silent: Vec<Wire> = (0..100)
        .map(|_| Wire::connect(door.path()).expect("the socket is there"))
        .collect();
    honest.gets_on();
    // A client that says hello takes the place of the client that has been silent for longest.
    let mut client = Client::open(door.path()).expect("silent clients keep no other client out");
    ask(&mut client, &mut Random::new(1));
    // And the rest are hung up on in time.
    let hung_up =
        |wire: &Wire| eventually(|| wire.receive().is_ok_and(|(bytes, _)| bytes.is_empty()));
    assert!(silent.iter().all(hung_up));
    drop((client, silent));
    before.wait_for(door.pid());
    honest.stop();
}

#[test]
fn descriptors_that_nobody_asked_for_do_not_use_up_the_door() {
    let folder = Folder::new("hoard");
    let door = echo(&folder, 2, &["nofile=128", "descriptors=0", "old=kernel"]);
    let mut honest = Client::open(door.path()).expect("the door is open");
    let hoarder = Channel::open(door.path(), 64).expect("a channel");
    let fds = [hoarder.wire.0.as_raw_fd(); 16];
    for slot in 0..64 {
        let parcel = raw::message_of_two(raw::PARCEL, slot, 1);
        let sent = || match hoarder.wire.send(&parcel, &fds) {
            Err(error) => !matches!(
                error.raw_os_error(),
                Some(libc::EAGAIN | libc::ETOOMANYREFS)
            ),
            // Put out, or sent.
            Ok(()) => true,
        };
        assert!(eventually(sent));
    }
    assert!(eventually(|| door.count("poisoned") == 1));
    ask(&mut honest, &mut Random::new(1));
    let mut new = Client::open(door.path()).expect("the door has descriptors left for others");
    ask(&mut new, &mut Random::new(2));
}

#[test]
fn who_waits_while_the_door_has_no_descriptors_is_let_in_when_it_has() {
    let folder = Folder::new("no-descriptors");
    let door = echo(&folder, 2, &["nofile=60"]);
    // More than there are descriptors for: the first ones are forgotten after a second. So must be the last
    // ones, although no client connects after them.
    let silent: Vec<Wire> = (0..60)
        .map(|_| Wire::connect(door.path()).expect("the socket is there"))
        .collect();
    for wire in &silent {
        let ended = wire.receive().is_ok_and(|(bytes, _)| bytes.is_empty());
        assert!(ended, "it is not looked at");
    }
}

/// A client misuses descriptors that hang on every operation; other clients get in, and on.
/// False if no such descriptors can be had.
fn play_with(options: &[&str], mischief: impl FnOnce(&Path, RawFd) -> Vec<Wire>) -> bool {
    let folder = Folder::new("hangs");
    let mut door = echo(&folder, 2, options);
    // Ends before the door, which cannot end while a thread of its waits for it.
    let Some(file) = HangingFile::start(HANGING_FILE) else {
        return false;
    };
    let honest = Honest::start(door.path());
    honest.gets_on();
    let waiting = mischief(door.path(), file.raw());
    honest.gets_on();
    let mut new = Client::open(door.path()).expect("the door lets others in");
    ask(&mut new, &mut Random::new(3));
    drop((waiting, new));
    // A client that has left is put out.
    assert!(
        eventually(|| door.count("opened") == 1 + door.count("left") + door.count("poisoned")),
        "a client stays"
    );
    honest.gets_on();
    honest.stop();
    assert!(door.is_alive());
    true
}

/// With and before its hello. A kernel that lets in no descriptors lets in no message that has some.
fn hellos(path: &Path, fd: RawFd) -> Vec<Wire> {
    let hello = raw::hello(raw::PAGE as u32, 1, 1 << 30);
    let hellos: [(&[u8], &[RawFd]); 5] = [
        (&hello, &[fd]),
        (&hello, &[fd; 253]),
        (b"garbage", &[fd; 3]),
        (b"", &[fd]),
        (b"", &[]),
    ];
    let mut waiting = Vec::new();
    for (bytes, descriptors) in hellos {
        for more in [0, 3] {
            let wire = Wire::connect(path).expect("it listens");
            let _ = wire.send(bytes, descriptors);
            for _ in 0..more {
                let _ = wire.send(b"", &[]);
                let _ = wire.send(&hello, &[fd; 20]);
            }
            waiting.push(wire);
        }
    }
    waiting
}

/// In place of its memory.
fn memories(path: &Path, fd: RawFd) -> Vec<Wire> {
    let channel = raw::message(raw::CHANNEL, &[]);
    let send = |descriptors: &[RawFd]| {
        let half = Half::open(path, 1, 0).expect("it is welcome");
        half.wire.send(&channel, descriptors).expect("they are due");
        let _ = half.wire.send(&channel, descriptors);
        half.wire
    };
    [&[fd][..], &[fd; 2], &[fd; 3], &[fd; 253]].map(send).into()
}

/// For a call, and with another message.
fn parcels(kind: u32, count: usize) -> impl FnOnce(&Path, RawFd) -> Vec<Wire> {
    move |path, fd| {
        let message = raw::message_of_two(kind, 0, 1);
        let open = Channel::open(path, 1).expect("a channel");
        for _ in 0..2 {
            let _ = open.wire.send(&message, &[fd; 253][..count]);
        }
        if count == 16 {
            open.fill(0, 1, 4, 16 << 8, b"fds!");
            open.submit(0, 1);
        }
        Vec::new() // it leaves
    }
}

#[test]
fn a_descriptor_whose_close_never_returns_holds_up_no_door() {
    for options in [
        &[][..],
        &["descriptors=0"],
        &["old=kernel"],
        &["old=kernel", "descriptors=0"],
    ] {
        if !play_with(options, hellos) {
            return;
        }
        play_with(options, memories);
        for kind in [raw::PARCEL, raw::NUDGE] {
            for count in [1, 16, 17] {
                play_with(options, parcels(kind, count));
            }
        }
    }
}

/// A socket that lingers: once its sender has closed it, close(2) waits an hour for its unsent bytes.
#[test]
fn a_socket_that_lingers_holds_up_no_door() {
    for old in [&[][..], &["old=kernel"]] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut socket = std::net::TcpStream::connect(address).expect("it listens");
        let (far, _) = listener.accept().expect("a connection");
        socket.set_nonblocking(true).expect("a socket");
        // Until neither side's buffers have room.
        while socket.write(&[0; 65536]).is_ok() {}
        let linger = libc::linger {
            l_onoff: 1,
            l_linger: 3600,
        };
        // SAFETY: the option's value is valid for its size.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_LINGER,
                (&raw const linger).cast(),
                size_of_val(&linger) as libc::socklen_t,
            )
        };
        assert_eq!(set, 0);
        // The door must have the last one: ours is closed while it cannot do anything.
        let folder = Folder::new(&format!("lingers-{}", old.len()));
        let door = echo(&folder, 2, old);
        let half = Half::open(door.path(), 1, 0).expect("it is welcome");
        socket.set_nonblocking(false).expect("a socket");
        door.pause();
        half.wire
            .send(&raw::message(raw::CHANNEL, &[]), &[socket.as_raw_fd(); 20])
            .expect("they are due");
        drop(socket);
        door.go_on();
        for n in 0..3 {
            let mut new = Client::open(door.path()).expect("the door lets others in");
            ask(&mut new, &mut Random::new(n));
        }
        drop(far); // it is reset, and all of it is closed
    }
}

/// One user's budget, and that it is his again once the file system answers.
#[test]
fn who_sends_too_much_that_cannot_be_closed_is_turned_away_until_it_is() {
    let folder = Folder::new("budget");
    let mut door = echo(&folder, 2, &["old=kernel", "nofile=400"]);
    let Some(file) = HangingFile::start(HANGING_FILE) else {
        return;
    };
    let honest = Honest::start(door.path());
    honest.gets_on();
    let channel = raw::message(raw::CHANNEL, &[]);
    let refused = eventually(|| {
        if let Ok(half) = Half::open(door.path(), 1, 0) {
            let _ = half.wire.send(&channel, &[file.raw(); 2]);
            let _ = half.wire.receive(); // its refusal
        }
        door.count("refused") > 0
            && Client::open(door.path())
                .is_err_and(|error| error.to_string().contains("cannot be closed"))
    });
    assert!(refused, "there is no end to it");
    honest.gets_on();
    drop(file);
    assert!(
        eventually(|| Client::open(door.path()).is_ok()),
        "it stays out"
    );
    honest.gets_on();
    honest.stop();
    assert!(door.is_alive());
}

#[test]
fn storms_of_messages_keep_nobody_out() {
    let folder = Folder::new("storms");
    let door = echo(&folder, 2, &[]);
    let stop = AtomicBool::new(false);
    let options = OpenOptions {
        timeout: PATIENCE,
        ..OpenOptions::default()
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let channel = Channel::open(door.path(), 1).expect("a channel");
                let nudge = raw::message(raw::NUDGE, &[]);
                while !stop.load(Ordering::Relaxed) {
                    let _ = channel.wire.send(&nudge, &[]);
                }
            });
        }
        assert!(eventually(|| door.count("opened") == 4));
        for n in 0..30 {
            let opened = Client::open_with(door.path(), &options);
            let outcome = opened.map(|mut client| ask(&mut client, &mut Random::new(n)));
            // Before anything else, or the scope waits for the storm.
            if n == 29 || outcome.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            outcome.expect("the door lets others in");
        }
    });
}
