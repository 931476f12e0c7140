//! Servers that lie to a client of theirs: it never blocks and never falls, it gets an error.
#![cfg(target_os = "linux")]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use transom_doors::{
    AsyncClient, CallError, CallOptions, Client, Kind, OpenError, OpenOptions, Patience, PeerState,
};
use transom_tests::hanging::{HangingFile, forget_passrights};
use transom_tests::raw::{
    CHANNEL, FIXED, HELLO, Memory, NUDGE, ONE_WRITER, PAGE, PARCEL, READY, Random, Welcome, Wire,
    memfd, message, message_of_two, number_at,
};
use transom_tests::{Folder, eventually};

const HANGING_FILE: &str = env!("CARGO_BIN_EXE_hanging-file");

const HONEST: Welcome = Welcome {
    threads: 4,
    slots: 1,
    request_size: 4096,
    reply_size: 4096,
    spares: 0,
};

/// Serves one client as `serve` does, and lets `visit` be that client; both must come to an end.
fn against<T: Send + 'static>(
    name: &str,
    serve: impl FnOnce(Wire) + Send + 'static,
    visit: impl FnOnce(&Path) -> T + Send + 'static,
) -> T {
    let folder = Folder::new(&format!("server-{name}"));
    let path = folder.path().join("a.door");
    let listener = Wire::listen(&path).expect("a listener");
    let server = std::thread::spawn(move || serve(listener.accept().expect("a client")));
    let client = std::thread::spawn(move || visit(&path));
    assert!(
        eventually(|| client.is_finished()),
        "{name}: the client hangs"
    );
    let outcome = client.join().expect("the client does not panic");
    assert!(
        eventually(|| server.is_finished()),
        "{name}: the server does not see that the client has gone"
    );
    server.join().expect("the server does what it should");
    outcome
}

fn patient(timeout: Duration) -> OpenOptions {
    OpenOptions {
        timeout,
        slots: Some(1),
        ..OpenOptions::default()
    }
}

fn hear(wire: &Wire, kind: u32) -> Vec<OwnedFd> {
    let (bytes, descriptors) = wire.receive().expect("the client speaks");
    assert_eq!(number_at(&bytes, 12), kind);
    descriptors
}

fn wait_for_hangup(wire: &Wire) {
    while let Ok((bytes, _)) = wire.receive() {
        if bytes.is_empty() {
            return;
        }
    }
}

fn eventfd() -> OwnedFd {
    // SAFETY: the new descriptor has no other owner.
    unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)) }
}

/// An epoll set that hears an eventfd.
fn ear_of(bell: &OwnedFd) -> OwnedFd {
    let mut event = libc::epoll_event {
        events: (libc::EPOLLIN | libc::EPOLLET) as u32,
        u64: 0,
    };
    // SAFETY: the new descriptor has no other owner; the event is valid for the call.
    unsafe {
        let ear = OwnedFd::from_raw_fd(libc::epoll_create1(libc::EPOLL_CLOEXEC));
        let (set, bell) = (ear.as_raw_fd(), bell.as_raw_fd());
        let added = libc::epoll_ctl(set, libc::EPOLL_CTL_ADD, bell, &raw mut event);
        assert_eq!(added, 0);
        ear
    }
}

/// A door's board and beds, and a channel's replies, as they should be.
fn memories(welcome: &Welcome) -> [Memory; 3] {
    [
        Memory::create(welcome.board_len(), ONE_WRITER).expect("a board"),
        Memory::create(welcome.beds_len(), FIXED).expect("beds"),
        Memory::create(welcome.replies_len(), ONE_WRITER).expect("replies"),
    ]
}

/// A server's end of a channel.
struct Served {
    wire: Wire,
    board: Memory,
    replies: Memory,
    requests: Memory,
    control: Memory,
    bell: OwnedFd,
}

impl Served {
    fn open(wire: Wire) -> Self {
        Self::open_with(wire, HONEST, eventfd())
    }

    fn open_with(wire: Wire, welcome: Welcome, bell: OwnedFd) -> Self {
        hear(&wire, HELLO);
        let [board, beds, replies] = memories(&welcome);
        let ear = ear_of(&bell);
        let give = [&board.fd, &beds.fd, &replies.fd, &ear].map(AsRawFd::as_raw_fd);
        wire.send(&welcome.encode(), &give).expect("it is heard");
        let mut halves = hear(&wire, CHANNEL).into_iter();
        let mut map = |len, writable| {
            let fd = halves.next().expect("two descriptors");
            Memory::map(fd, len, writable).expect("as agreed")
        };
        let requests = map(welcome.requests_len(), false);
        let control = map(welcome.control_len(), true);
        wire.send(&message(READY, &[]), &[]).expect("it is heard");
        Self {
            wire,
            board,
            replies,
            requests,
            control,
            bell,
        }
    }

    fn ring(&self) {
        let one = 1_u64;
        // SAFETY: eight bytes of a local.
        unsafe { libc::write(self.bell.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    /// Until the client has gone: `mischief` again and again.
    fn until_it_goes(&self, mut mischief: impl FnMut()) {
        // Sampled now and then, so that the mischief is done at full speed.
        while !self.has_gone() {
            for _ in 0..1000 {
                mischief();
            }
        }
    }

    fn has_gone(&self) -> bool {
        let mut poll = libc::pollfd {
            fd: self.wire.0.as_raw_fd(),
            events: libc::POLLRDHUP,
            revents: 0,
        };
        // SAFETY: one entry, valid for the call.
        unsafe { libc::poll(&raw mut poll, 1, 0) > 0 }
    }
}

fn open_error(name: &str, serve: impl FnOnce(Wire) + Send + 'static) -> OpenError {
    let options = patient(Duration::from_millis(300));
    let opened = against(name, serve, move |path| {
        AsyncClient::open(path, &options).map(drop)
    });
    opened.expect_err("this is no door")
}

#[test]
fn a_door_that_hangs_up_or_is_silent_at_any_step_is_away_or_late() {
    for step in 0..3 {
        for silent in [false, true] {
            let serve = move |wire: Wire| {
                if step >= 1 {
                    hear(&wire, HELLO);
                }
                let [board, beds, replies] = memories(&HONEST);
                if step >= 2 {
                    let ear = ear_of(&eventfd());
                    let give = [&board.fd, &beds.fd, &replies.fd, &ear].map(AsRawFd::as_raw_fd);
                    wire.send(&HONEST.encode(), &give).expect("it is heard");
                    hear(&wire, CHANNEL);
                }
                if silent {
                    wait_for_hangup(&wire);
                }
            };
            let error = open_error(&format!("step-{step}-{silent}"), serve);
            match (silent, &error) {
                (true, OpenError::TimedOut { .. })
                | (false, OpenError::Away { .. } | OpenError::System { .. }) => {}
                _ => panic!("step {step}, silent {silent}: {error}"),
            }
        }
    }
}

#[test]
fn a_geometry_that_cannot_be_is_not_believed() {
    let with = |change: fn(&mut Welcome)| {
        let mut welcome = HONEST;
        change(&mut welcome);
        welcome
    };
    let absurd = [
        with(|w| w.slots = 0),
        with(|w| w.slots = 2),
        with(|w| w.slots = 4097),
        with(|w| w.slots = u32::MAX),
        with(|w| w.request_size = 0),
        with(|w| w.request_size = 100),
        with(|w| w.request_size = 1 << 31),
        with(|w| w.request_size = 1 << 63),
        with(|w| w.request_size = u64::MAX),
        with(|w| w.reply_size = 0),
        with(|w| w.reply_size = 1 << 31),
        with(|w| w.reply_size = u64::MAX - 4095),
        with(|w| w.spares = 4097),
        with(|w| w.spares = u32::MAX),
        with(|w| w.threads = 0),
        with(|w| w.threads = 16_385),
        with(|w| w.threads = u32::MAX),
    ];
    for (n, welcome) in absurd.into_iter().enumerate() {
        let error = open_error(&format!("absurd-{n}"), move |wire| {
            hear(&wire, HELLO);
            let [board, beds, replies] = memories(&HONEST);
            let give = [
                board.fd.as_raw_fd(),
                beds.fd.as_raw_fd(),
                replies.fd.as_raw_fd(),
                0,
            ];
            wire.send(&welcome.encode(), &give).expect("it is heard");
            wait_for_hangup(&wire);
        });
        assert!(
            matches!(
                error,
                OpenError::Protocol { .. } | OpenError::Refused { .. }
            ),
            "{welcome:?}: {error}"
        );
    }
}

#[test]
fn memory_of_a_door_that_is_not_as_agreed_is_not_mapped() {
    let make = |len, seals| {
        let memory = Memory::create(len, seals).expect("memory");
        memory.fd.try_clone().expect("a descriptor")
    };
    let (board, replies) = (HONEST.board_len(), HONEST.replies_len());
    let beds = HONEST.beds_len();
    let good = move || {
        vec![
            make(board, ONE_WRITER),
            make(beds, FIXED),
            make(replies, ONE_WRITER),
            eventfd(),
        ]
    };
    let swap = |n: usize, fd: OwnedFd| {
        let mut fds = good();
        fds[n] = fd;
        fds
    };
    let null = || OwnedFd::from(std::fs::File::open("/dev/null").expect("it is there"));
    let mut swapped = good();
    swapped.swap(0, 1);
    let mut three = good();
    three.truncate(3);
    let cases = [
        swap(0, memfd(c"none", board).expect("memory")),
        swap(2, memfd(c"none", replies).expect("memory")),
        swap(1, memfd(c"none", beds).expect("memory")),
        swap(1, make(beds, libc::F_SEAL_SEAL)),
        swap(1, make(beds + PAGE, FIXED)),
        swap(0, make(board, FIXED)),
        swap(2, make(replies, FIXED)),
        swap(
            2,
            make(replies, libc::F_SEAL_SEAL | libc::F_SEAL_FUTURE_WRITE),
        ),
        swap(0, make(board + PAGE, ONE_WRITER)),
        swap(0, make(PAGE / 2, ONE_WRITER)),
        swap(2, make(replies - PAGE, ONE_WRITER)),
        swap(2, make(replies + PAGE, ONE_WRITER)),
        swap(0, null()),
        swap(2, eventfd()),
        swapped,
        three,
        Vec::new(),
    ];
    for (n, fds) in cases.into_iter().enumerate() {
        let error = open_error(&format!("memory-{n}"), move |wire| {
            hear(&wire, HELLO);
            let give: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
            wire.send(&HONEST.encode(), &give).expect("it is heard");
            wait_for_hangup(&wire);
        });
        assert!(
            matches!(error, OpenError::Memory { .. } | OpenError::Protocol { .. }),
            "case {n}: {error}"
        );
    }
}

#[test]
fn what_is_no_answer_is_said_so() {
    let mut other_version = message(4, &[]);
    other_version[8] = 9;
    let mut refusal_of_no_kind = message(3, &99_u32.to_le_bytes());
    refusal_of_no_kind[8] = 9;
    let mut too_long = message(3, &1_u32.to_le_bytes());
    too_long.push(0);
    let answers = [
        vec![0xff; 128],
        vec![1; 7],
        vec![2; 1000],
        message(READY, &[]),
        message(NUDGE, &[]),
        message(HELLO, &[]),
        message(77, &[]),
        other_version,
        refusal_of_no_kind,
        too_long,
    ];
    for (n, answer) in answers.into_iter().enumerate() {
        let error = open_error(&format!("answer-{n}"), move |wire| {
            hear(&wire, HELLO);
            wire.send(&answer, &[0; 20]).expect("it is heard");
            wait_for_hangup(&wire);
        });
        assert!(matches!(error, OpenError::Protocol { .. }), "{n}: {error}");
    }
}

/// A blocking client makes ten calls of at most `ms` each, or fewer if one fails; returns the first error.
fn calls(ms: u64) -> impl FnOnce(&Path) -> Result<(), CallError> + Send + 'static {
    move |path| {
        let mut client = Client::open(path).expect("it looks like a door");
        for _ in 0..10 {
            let options = CallOptions {
                timeout: Some(Duration::from_millis(ms)),
                ..CallOptions::default()
            };
            let mut reply = [0; 4096];
            let got = client.call_with(b"are you there?", &mut reply, options)?;
            assert!(got.len <= 4096);
        }
        Ok(())
    }
}

#[test]
fn a_door_that_never_answers_is_late() {
    let outcome = against(
        "never",
        |wire| {
            let served = Served::open(wire);
            wait_for_hangup(&served.wire);
        },
        calls(50),
    );
    assert_eq!(outcome, Err(CallError::TimedOut));
}

#[test]
fn a_reply_longer_than_its_slot_is_cut_to_it() {
    let serve = |wire| {
        let served = Served::open(wire);
        served.until_it_goes(|| {
            let generation = served.requests.word(0).load(Ordering::SeqCst);
            served.replies.word(8).store(u32::MAX, Ordering::SeqCst);
            served.replies.word(4).store(generation, Ordering::SeqCst);
            served
                .control
                .long(HONEST.complete(0))
                .store(1, Ordering::SeqCst);
            served.replies.wake(4);
        });
    };
    assert_eq!(against("long", serve, calls(1000)), Ok(()));
}

/// A server that says of every call both that it was lost and that it was answered, and changes its words
/// all the time.
#[test]
fn slots_that_are_said_to_be_lost_are_gone_and_nothing_of_them_is_read() {
    const MANY: Welcome = Welcome {
        slots: 3,
        spares: 2,
        ..HONEST
    };
    let serve = |wire| {
        let served = Served::open_with(wire, MANY, eventfd());
        let mut n = 0;
        served.until_it_goes(|| {
            n += 1;
            for slot in 0..MANY.all() {
                let generation = served.requests.word(64 * slot).load(Ordering::SeqCst);
                let word = |at| served.replies.word(64 * slot + at);
                word(8).store(u32::MAX - n, Ordering::SeqCst);
                word(12).store(n % 20, Ordering::SeqCst);
                word(28).store(n | 1, Ordering::SeqCst);
                word(4).store(generation, Ordering::SeqCst);
            }
            let complete = served.control.long(MANY.complete(0));
            complete.store(u64::MAX, Ordering::SeqCst);
        });
    };
    against("lost", serve, |path| {
        let options = OpenOptions::default();
        let mut client = AsyncClient::open(path, &options).expect("it looks like a door");
        for lost in 1..=5 {
            let slot = client.reserve().expect("there are spare ones");
            client.submit(slot, 10, 0);
            client.flush().expect("it takes calls");
            let completion = loop {
                if let Some((found, completion)) = client.next_completion() {
                    assert_eq!(found, slot);
                    break completion;
                }
            };
            assert_eq!((completion.kind, completion.len), (Kind::Lost, 0));
            assert_eq!(client.reply_bytes(slot).len(), 0);
            assert!(client.take_descriptors(slot).is_empty());
            client.release(slot);
            assert_eq!((client.lost_slots(), client.outstanding()), (lost, 0));
        }
        assert_eq!((client.reserve(), client.usable_slots()), (None, 0));
    });
    // One that calls and waits asks at the door again, for no longer than it has time.
    let serve = |wire| {
        let served = Served::open(wire);
        served.until_it_goes(|| {
            let generation = served.requests.word(0).load(Ordering::SeqCst);
            served.replies.word(28).store(1, Ordering::SeqCst);
            served.replies.word(4).store(generation, Ordering::SeqCst);
            served
                .control
                .long(HONEST.complete(0))
                .store(1, Ordering::SeqCst);
            // It waits on this word, and looks at the reply then.
            served
                .control
                .word(HONEST.turn(0))
                .store(3, Ordering::SeqCst);
        });
    };
    let began = std::time::Instant::now();
    assert_eq!(
        against("lost-blocking", serve, calls(50)),
        Err(CallError::NotAccepted)
    );
    assert!(
        began.elapsed() < Duration::from_millis(900),
        "it waits for too long"
    );
}

#[test]
fn completions_that_are_none_do_not_keep_a_client() {
    // Bits for slots that are idle or beyond the last, by more threads than can be off their CPUs at once.
    const MANY: Welcome = Welcome {
        slots: 256,
        ..HONEST
    };
    fn serve(wire: Wire, welcome: Welcome) {
        let served = Served::open_with(wire, welcome, eventfd());
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        for word in 0..welcome.words() {
                            let complete = served.control.long(welcome.complete(word));
                            complete.store(u64::MAX, Ordering::SeqCst);
                        }
                    }
                });
            }
            wait_for_hangup(&served.wire);
            stop.store(true, Ordering::Relaxed);
        });
    }
    let outcome = against("spam", |wire| serve(wire, HONEST), calls(100));
    assert_eq!(outcome, Err(CallError::TimedOut));
    let looks = against(
        "spam-async",
        |wire| serve(wire, MANY),
        |path| {
            let options = OpenOptions::default();
            let mut client = AsyncClient::open(path, &options).expect("it looks like a door");
            let slot = client.reserve().expect("a slot");
            client.submit(slot, 10, 0);
            client.flush().expect("it takes calls");
            let mut looks = 0;
            while looks < 1000 {
                // Counted only when there was something to look at.
                looks += u32::from(!client.prepare_wait(Patience::Eager));
                client.woke();
                assert_eq!(client.next_completion(), None);
            }
            looks
        },
    );
    assert_eq!(looks, 1000);
}

#[test]
fn a_doorbell_that_rings_for_nothing_is_given_up() {
    let serve = |wire| {
        let served = Served::open(wire);
        served.until_it_goes(|| served.ring());
    };
    let rings = against("bells", serve, |path| {
        let options = patient(Duration::from_secs(10));
        let mut client = AsyncClient::open(path, &options).expect("it looks like a door");
        let slot = client.reserve().expect("a slot");
        client.submit(slot, 10, 0);
        client.flush().expect("it takes calls");
        let ears = transom_tests::raw::Ears::to(&[client.as_raw_fd()]);
        let mut rings = 0;
        while client.peer_state() != PeerState::Gone {
            if client.prepare_wait(Patience::Eager) && ears.wait(20) {
                rings += 1;
                client.note_ring(false);
            }
            client.woke();
            assert!(rings < 1_000_000);
        }
        assert_eq!(client.next_lost(), Some((slot, CallError::NotAccepted)));
        rings
    });
    assert!(rings >= 1000);
    assert_eq!(
        against("bells-blocking", serve, calls(100)),
        Err(CallError::TimedOut)
    );
}

#[test]
fn a_socket_that_never_runs_dry_does_not_keep_a_client() {
    let revoked = message(8, &[]);
    let parcel = message_of_two(PARCEL, 0, 5);
    for (name, bytes, fds) in [("revoked", revoked, 0), ("parcels", parcel, 2)] {
        let serve = move |wire: Wire| {
            let served = Served::open(wire);
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        while !stop.load(Ordering::Relaxed) {
                            let _ = served.wire.send(&bytes, &[0; 2][..fds]);
                        }
                    });
                }
                while !served.has_gone() {
                    std::thread::yield_now();
                }
                stop.store(true, Ordering::Relaxed);
            });
        };
        let states = against(name, serve, |path| {
            let options = patient(Duration::from_secs(10));
            let mut client = AsyncClient::open(path, &options).expect("it looks like a door");
            (0..200).map(|_| client.check_peer()).last()
        });
        assert!(states.is_some(), "{name}");
    }
}

#[test]
fn what_means_nothing_on_the_socket_ends_the_channel() {
    let sayings: [(Vec<u8>, usize); 5] = [
        (vec![9; 128], 0),
        (message(READY, &[]), 0),
        (message(HELLO, &[]), 3),
        (message_of_two(PARCEL, 1, 1), 4),
        (vec![8; 1000], 20),
    ];
    for (n, (bytes, fds)) in sayings.into_iter().enumerate() {
        let serve = move |wire: Wire| {
            let served = Served::open(wire);
            served.wire.send(&bytes, &[0; 20][..fds]).expect("sent");
            wait_for_hangup(&served.wire);
        };
        let outcome = against(&format!("saying-{n}"), serve, calls(5000));
        assert_eq!(outcome, Err(CallError::NotAccepted), "{n}");
    }
}

#[test]
fn a_board_and_control_words_full_of_garbage_cost_time_and_nothing_else() {
    let seed = Random::seed();
    for round in 0..20 {
        let serve = move |wire| {
            let welcome = Welcome {
                threads: 200,
                ..HONEST
            };
            let served = Served::open_with(wire, welcome, eventfd());
            let mut random = Random::new(seed.wrapping_add(round));
            served.until_it_goes(|| {
                let place = 8 * random.below(served.board.len() / 8);
                let board = served.board.long(place);
                board.store(random.next_number(), Ordering::SeqCst);
                let place = 8 * random.below(served.control.len() / 8);
                let control = served.control.long(place);
                control.store(random.next_number(), Ordering::SeqCst);
                let place = 8 * random.below(served.replies.len() / 8);
                let reply = served.replies.long(place);
                reply.store(random.next_number(), Ordering::SeqCst);
                let turn = served.control.word(HONEST.turn(0));
                turn.store(random.next_number() as u32 % 3, Ordering::SeqCst);
            });
        };
        let name = format!("garbage-{round}");
        // Whatever it is: it has an end.
        match against(&name, serve, calls(50)) {
            Ok(())
            | Err(
                CallError::NotAccepted
                | CallError::MayHaveRun
                | CallError::TimedOut
                | CallError::Streamed
                | CallError::Fault
                | CallError::Refused(_)
                | CallError::ReplyTooBig { .. },
            ) => {}
            Err(CallError::Full) => panic!("a client with one call has room for it"),
        }
    }
}

#[test]
fn pieces_that_a_blocking_client_cannot_take_are_an_error() {
    let serve = |wire| {
        let served = Served::open(wire);
        served.until_it_goes(|| {
            let turn = served.control.word(HONEST.turn(0));
            turn.store(1, Ordering::SeqCst);
            served
                .control
                .long(HONEST.complete(0))
                .store(1, Ordering::SeqCst);
        });
    };
    assert_eq!(
        against("pieces", serve, calls(5000)),
        Err(CallError::Streamed)
    );
    let kinds = against("pieces-async", serve, |path| {
        let options = patient(Duration::from_secs(10));
        let mut client = AsyncClient::open(path, &options).expect("it looks like a door");
        let slot = client.reserve().expect("a slot");
        client.submit(slot, 10, 0);
        client.flush().expect("it takes calls");
        let mut kinds = 0;
        while kinds < 100 {
            if let Some((slot, completion)) = client.next_completion() {
                assert!(matches!(completion.kind, Kind::Interim(_)));
                client.resume(slot, 0);
                kinds += 1;
            }
        }
        client.abandon(slot);
        kinds
    });
    assert_eq!(kinds, 100);
}

#[test]
fn descriptors_and_a_doorbell_of_another_kind_do_not_block_a_client() {
    // Descriptors that are always readable, that never are, and that cannot be waited for.
    let (mut ends, pair) = ([0; 2], libc::SOCK_STREAM | libc::SOCK_CLOEXEC);
    // SAFETY: two descriptors of room.
    let made = unsafe { libc::socketpair(libc::AF_UNIX, pair, 0, ends.as_mut_ptr()) };
    assert_eq!(made, 0);
    // SAFETY: both are new and have no other owner.
    let [near, far] = ends.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    drop(far);
    let file = std::fs::File::open("/proc/self/maps").expect("it is there");
    let memory = memfd(c"bell", 4096).expect("memory");
    for (n, bell) in [near, file.into(), memory, eventfd()]
        .into_iter()
        .enumerate()
    {
        let serve = move |wire: Wire| {
            hear(&wire, HELLO);
            let [board, beds, replies] = memories(&HONEST);
            let give = [&board.fd, &beds.fd, &replies.fd, &bell].map(AsRawFd::as_raw_fd);
            wire.send(&HONEST.encode(), &give).expect("it is heard");
            wait_for_hangup(&wire);
        };
        let error = open_error(&format!("bell-{n}"), serve);
        assert!(matches!(error, OpenError::Protocol { .. }), "{n}: {error}");
    }
}

/// Where a server may put a descriptor that hangs.
#[derive(Clone, Copy, Debug)]
enum At {
    /// In a welcome, in this place, with so many descriptors behind those that are due.
    Welcome(usize, usize),
    /// With the message that says that it is ready.
    Ready,
    /// In messages that are never read.
    Behind,
    /// With a reply.
    Parcel,
}

#[test]
fn a_descriptor_whose_close_never_returns_holds_up_no_client() {
    let places = (0..4).map(|place| At::Welcome(place, 0));
    let rest = [
        At::Welcome(4, 1),
        At::Welcome(4, 200),
        At::Ready,
        At::Behind,
        At::Parcel,
    ];
    for (n, at) in places.chain(rest).enumerate() {
        for old_kernel in [false, true] {
            // A file for each turn, so that hanging descriptors are closed before the next turn: no user's
            // budget is used up.
            let Some(file) = HangingFile::start(HANGING_FILE) else {
                return;
            };
            let fd = file.raw();
            let serve = move |wire: Wire| {
                hear(&wire, HELLO);
                let [board, beds, replies] = memories(&HONEST);
                let ear = ear_of(&eventfd());
                let mut give: Vec<RawFd> = [&board.fd, &beds.fd, &replies.fd, &ear]
                    .map(AsRawFd::as_raw_fd)
                    .into();
                if let At::Welcome(place, more) = at {
                    give.resize(4 + more, fd);
                    if place < 4 {
                        give[place] = fd;
                    }
                }
                wire.send(&HONEST.encode(), &give).expect("it is heard");
                if let At::Behind = at {
                    for _ in 0..10 {
                        let _ = wire.send(&[], &[]);
                        let _ = wire.send(b"", &[fd; 100]);
                    }
                }
                // After such messages the client may have gone.
                if let At::Behind = at {
                    while wire.receive().is_ok_and(|(bytes, _)| !bytes.is_empty()) {}
                    return;
                }
                if let At::Ready | At::Parcel = at {
                    hear(&wire, CHANNEL);
                    let with: &[RawFd] = if let At::Ready = at { &[fd] } else { &[] };
                    // A kernel that refuses the descriptors refuses the message.
                    if wire.send(&message(READY, &[]), with).is_err() {
                        return;
                    }
                    let _ = wire.send(&message_of_two(PARCEL, 0, 1), &[fd; 16]);
                    let _ = wire.send(&message_of_two(PARCEL, 0, 1), &[fd; 16]);
                }
                wait_for_hangup(&wire);
            };
            against(&format!("hangs-{n}-{old_kernel}"), serve, move |path| {
                if old_kernel {
                    forget_passrights().expect("a filter");
                }
                let options = OpenOptions {
                    take_descriptors: matches!(at, At::Parcel),
                    ..patient(Duration::from_millis(300))
                };
                match AsyncClient::open(path, &options) {
                    Ok(mut client) => {
                        client.check_peer();
                    }
                    Err(OpenError::Refused { why, .. }) => panic!("{why}"),
                    Err(_) => {}
                }
            });
        }
    }
}

#[test]
fn a_server_that_blocks_and_fills_all_it_was_given_blocks_nobody() {
    let serve = |wire: Wire| {
        let served = Served::open(wire);
        let given = [
            served.wire.0.as_raw_fd(),
            served.requests.fd.as_raw_fd(),
            served.control.fd.as_raw_fd(),
        ];
        for fd in given {
            // SAFETY: plain system calls on open descriptors.
            unsafe {
                let flags = libc::fcntl(fd, libc::F_GETFL);
                libc::fcntl(fd, libc::F_SETFL, flags & !libc::O_NONBLOCK);
            }
        }
        let parcel = message_of_two(PARCEL, 0, 1);
        while served.wire.send(&parcel, &[]).is_ok() {}
        let done = Arc::new(AtomicBool::new(false));
        // It reads nothing, so that what the client sends fills the socket as well.
        while !served.has_gone() {
            std::thread::yield_now();
        }
        done.store(true, Ordering::Relaxed);
    };
    let outcome = against("full", serve, |path| {
        let mut client = Client::open(path).expect("it looks like a door");
        let mut last = Ok(0);
        for _ in 0..30 {
            let file = std::fs::File::open("/dev/null").expect("it is there");
            let descriptors = [std::os::fd::AsFd::as_fd(&file)];
            let options = CallOptions {
                timeout: Some(Duration::from_millis(5)),
                descriptors: &descriptors,
            };
            last = client.call_with(b"hello", &mut [], options).map(|r| r.len);
        }
        last
    });
    assert!(outcome.is_err(), "{outcome:?}");
}
