//! A door opened by its path: two mappings of the same memory, as two processes have them, in one process
//! here so that both ends can be looked at. Tests that need a second process (death, hostility) are the
//! workspace's black-box tests.
#![cfg(target_os = "linux")]
#![cfg(not(loom))]

mod common;

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::wait_until;
use transom_doors::{
    AsyncClient, AttachError, AttachOptions, Attachment, Call, CallError, CallOptions,
    ChannelGeometry, Client, Credentials, Door, DoorBuilder, DoorOwner, Limit, OpenError,
    OpenOptions, Patience, PeerState, Refusal, Status, Unreferenced,
};

const GEOMETRY: ChannelGeometry = ChannelGeometry {
    slots: 64,
    spares: 0,
    request_size: 4096,
    reply_size: 4096,
};

/// A directory of the test's own, removed at its end.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let place = std::env::temp_dir().join(format!("doors-{}-{name}", std::process::id()));
        fs::create_dir_all(&place).unwrap();
        Self(place)
    }

    fn door(&self) -> PathBuf {
        self.0.join("a.door")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn echo(_: u32, call: &mut Call<'_>) {
    let len = call.request().len();
    let request: Vec<u8> = call.request().to_vec();
    call.reply_mut()[..len].copy_from_slice(&request);
    call.complete(len, Status::OK);
}

fn builder() -> DoorBuilder {
    Door::builder().threads_max(4).channel_geometry(GEOMETRY)
}

fn attach(place: &Place, builder: DoorBuilder) -> (Door, Attachment) {
    let door = builder.build().unwrap();
    door.start().unwrap();
    let attachment = door
        .attach(&place.door(), &AttachOptions::default())
        .unwrap();
    (door, attachment)
}

#[test]
fn an_echo_comes_back_and_the_caller_is_known() {
    let place = Place::new("echo");
    let seen: Arc<std::sync::Mutex<Option<Credentials>>> = Arc::default();
    let handler = {
        let seen = Arc::clone(&seen);
        move |thread: u32, call: &mut Call<'_>| {
            *seen.lock().unwrap() = Some(call.cred());
            echo(thread, call);
        }
    };
    let (door, _attachment) = attach(&place, builder().handler(handler));
    let mut client = Client::open(&place.door()).unwrap();
    let mut reply = [0; 4096];
    for len in [0, 1, 100, 4096] {
        let request: Vec<u8> = (0..len).map(|n| n as u8).collect();
        assert_eq!(client.call(&request, &mut reply), Ok(len));
        assert_eq!(&reply[..len], &request);
    }
    let credentials = seen.lock().unwrap().expect("a call was made");
    assert_eq!(credentials.pid as u32, std::process::id());
    let info = client.door();
    assert_eq!((info.pid, info.id), (door.info().pid, door.info().id));
    assert_eq!(door.info().clients, 1);
    drop(client);
    wait_until("the client has left", || door.info().clients == 0);
    door.revoke();
}

#[test]
fn an_event_loop_keeps_all_slots_busy() {
    let place = Place::new("loop");
    let (door, _attachment) = attach(&place, builder().handler(echo));
    let mut client = AsyncClient::open(&place.door(), &OpenOptions::default()).unwrap();
    assert_eq!(client.geometry(), GEOMETRY);
    let mut bytes = [0; 8];
    let (mut sent, mut received) = (0_u64, 0_u64);
    while received < 20_000 {
        while sent < 20_000
            && let Some(slot) = client.reserve()
        {
            client.request_mut(slot)[..8].copy_from_slice(&sent.to_le_bytes());
            client.submit(slot, 8, 0);
            sent += 1;
        }
        client.flush().unwrap();
        if client.prepare_wait(Patience::Eager) {
            let mut poll = libc::pollfd {
                fd: client.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one entry, valid for the call. A bell that has rung once stays readable: it is never
            // read.
            unsafe { libc::poll(&raw mut poll, 1, 1) };
        }
        client.woke();
        client.nudge();
        while let Some((slot, completion)) = client.next_completion() {
            assert_eq!(completion.status, Status::OK);
            assert_eq!(client.copy_reply(slot, 0, &mut bytes), 8);
            assert!(u64::from_le_bytes(bytes) < sent);
            client.release(slot);
            received += 1;
        }
    }
    assert_eq!(door.info().calls.served, 20_000);
    door.revoke();
}

#[test]
fn a_door_of_another_user_is_not_spoken_to() {
    let place = Place::new("stranger");
    let (door, _attachment) = attach(&place, builder().handler(echo));
    let us = Credentials::ours();
    let open = |owner| {
        let options = OpenOptions {
            owner,
            ..OpenOptions::default()
        };
        AsyncClient::open(&place.door(), &options)
    };
    let error = open(DoorOwner::User(us.uid + 1)).expect_err("another one serves");
    assert!(
        matches!(error, OpenError::Stranger { server, .. } if server.uid == us.uid && server.pid == us.pid),
        "{error}"
    );
    for owner in [
        DoorOwner::Anybody,
        DoorOwner::User(us.uid),
        DoorOwner::UsOrRoot,
    ] {
        open(owner).expect("it is ours");
    }
    assert!(DoorOwner::UsOrRoot.admits(0) && !DoorOwner::UsOrRoot.admits(us.uid + 1));
    door.revoke();
}

#[test]
fn descriptors_go_both_ways() {
    let place = Place::new("descriptors");
    let handler = |_: u32, call: &mut Call<'_>| {
        let mut file = File::from(call.take_descriptors().next().expect("one was sent"));
        file.write_all(b"written by the handler").unwrap();
        file.rewind().unwrap();
        call.complete_with(0, Status(77), &[file.as_fd(), file.as_fd()])
            .unwrap();
    };
    let (door, _attachment) = attach(&place, builder().descriptors_max(1).handler(handler));
    let mut client = Client::open(&place.door()).unwrap();
    let path = place.0.join("file");
    let file = File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let descriptors = [file.as_fd()];
    let options = CallOptions {
        descriptors: &descriptors,
        ..CallOptions::default()
    };
    for _ in 0..3 {
        let reply = client.call_with(b"", &mut [], options).unwrap();
        assert_eq!(reply.status, Status(77));
        let mut back: Vec<_> = reply.descriptors.collect();
        assert_eq!(back.len(), 2);
        let mut text = String::new();
        File::from(back.remove(0))
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "written by the handler");
        (&file).rewind().unwrap();
    }
    let refusing = OpenOptions {
        take_descriptors: false,
        ..OpenOptions::default()
    };
    let mut other = Client::open_with(&place.door(), &refusing).unwrap();
    let lied = other.call_with(b"", &mut [], options);
    assert!(
        !matches!(&lied, Ok(reply) if !reply.descriptors.is_empty()),
        "no descriptors were asked for: {lied:?}"
    );
    assert!(
        other.call(b"", &mut []).is_err(),
        "it is not believed any more"
    );
    let two = [file.as_fd(), file.as_fd()];
    let too_many = CallOptions {
        descriptors: &two,
        ..options
    };
    assert!(matches!(
        client.call_with(b"", &mut [], too_many),
        Err(CallError::Refused(Limit::Descriptors))
    ));
    door.revoke();
}

/// Threads and the porter read one socket: if one of them has taken a message out of it and not stored it
/// yet, the others must wait.
#[test]
fn descriptors_of_many_calls_at_once_all_arrive() {
    const CALLS: u32 = 20_000;
    let place = Place::new("parcels");
    let handler = |_: u32, call: &mut Call<'_>| {
        let count = call.take_descriptors().count() as u32;
        call.complete(0, Status(count));
    };
    let (door, _attachment) = attach(&place, builder().descriptors_max(1).handler(handler));
    let mut client = AsyncClient::open(&place.door(), &OpenOptions::default()).unwrap();
    let file = File::open("/dev/null").unwrap();
    let (mut sent, mut received) = (0, 0);
    while received < CALLS {
        while sent < CALLS
            && let Some(slot) = client.reserve()
        {
            match client.submit_with(slot, 0, 0, &[file.as_fd()]) {
                Ok(()) => sent += 1,
                Err(CallError::Full) => {
                    client.release(slot);
                    break;
                }
                Err(error) => panic!("{error}"),
            }
            // Each by itself, so that threads are awake and look while the next descriptor is sent.
            client.flush().unwrap();
        }
        if client.prepare_wait(Patience::Eager) {
            let mut poll = libc::pollfd {
                fd: client.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one entry, valid for the call.
            unsafe { libc::poll(&raw mut poll, 1, 1) };
        }
        client.woke();
        client.nudge();
        while let Some((slot, completion)) = client.next_completion() {
            assert_eq!(completion.status, Status(1));
            client.release(slot);
            received += 1;
        }
    }
    assert_eq!(client.check_peer(), PeerState::Serving);
    door.revoke();
}

#[test]
fn limits_are_named() {
    let place = Place::new("limits");
    let handler = |_: u32, call: &mut Call<'_>| {
        if call.request() == b"big" {
            call.reply_too_big(123_456);
        } else if call.request() == b"panic" {
            panic!("asked for");
        } else {
            call.complete(100, Status::OK);
        }
    };
    let (door, _attachment) = attach(
        &place,
        builder().data_min(2).data_max(1000).handler(handler),
    );
    let mut client = Client::open(&place.door()).unwrap();
    let mut reply = [0; 4096];
    let mut call = |request: &[u8], room: usize| client.call(request, &mut reply[..room]);
    assert_eq!(call(b"1", 4096), Err(CallError::Refused(Limit::DataMin)));
    assert_eq!(
        call(&[0; 1001], 4096),
        Err(CallError::Refused(Limit::DataMax))
    );
    assert_eq!(
        call(b"big", 4096),
        Err(CallError::ReplyTooBig { needed: 123_456 })
    );
    assert_eq!(
        call(b"ordinary", 99),
        Err(CallError::ReplyTooBig { needed: 100 })
    );
    assert_eq!(call(b"panic", 4096), Err(CallError::Fault));
    assert_eq!(call(b"ordinary", 100), Ok(100));
    door.revoke();
}

#[test]
fn a_call_that_takes_too_long_is_given_up_and_the_next_one_finds_its_slot_again() {
    let place = Place::new("timeout");
    let (ask, answer) = std::sync::mpsc::channel::<()>();
    let answer = std::sync::Mutex::new(answer);
    let handler = move |_: u32, call: &mut Call<'_>| {
        if call.request() == b"slow" {
            assert!(call.deadline() > 0);
            let _ = answer.lock().unwrap().recv();
        }
        call.complete(0, Status::OK);
    };
    let (door, _attachment) = attach(&place, builder().handler(handler));
    let mut client = Client::open(&place.door()).unwrap();
    let options = CallOptions {
        timeout: Some(Duration::from_millis(20)),
        ..CallOptions::default()
    };
    let slow = client.call_with(b"slow", &mut [], options);
    assert!(matches!(slow, Err(CallError::TimedOut)), "{slow:?}");
    assert_eq!(client.call(b"quick", &mut []), Err(CallError::Full));
    ask.send(()).unwrap();
    wait_until("the slow call has ended", || door.info().calls.served == 1);
    assert_eq!(client.call(b"quick", &mut []), Ok(0));
    door.revoke();
}

#[test]
fn a_path_has_one_owner_with_permissions_and_a_stale_one_is_replaced() {
    let place = Place::new("owner");
    let options = AttachOptions {
        mode: 0o640,
        ..AttachOptions::default()
    };
    // What a killed owner leaves: a socket that no process serves, and an unlocked lock file.
    drop(std::os::unix::net::UnixListener::bind(place.door()).unwrap());
    let make = || {
        let door = builder().handler(echo).build().unwrap();
        door.start().unwrap();
        door
    };
    let (first, second) = (make(), make());
    let attachment = first.attach(&place.door(), &options).unwrap();
    let found = fs::metadata(place.door()).unwrap();
    assert_eq!(found.permissions().mode() & 0o777, 0o640);
    let taken = second.attach(&place.door(), &options).unwrap_err();
    let sentence = taken.to_string();
    assert!(matches!(taken, AttachError::Taken { .. }));
    assert!(
        sentence.contains(&std::process::id().to_string()),
        "{sentence}"
    );
    assert!(matches!(
        first.attach(&place.0.join("another"), &options),
        Err(AttachError::AlreadyAttached)
    ));

    // The first one leaves while the second one waits for that.
    let waiter = {
        let (second, path) = (second.clone(), place.door());
        std::thread::spawn(move || {
            let wait = Duration::from_secs(20);
            second.attach(&path, &AttachOptions { wait, ..options })
        })
    };
    let mut before = Client::open(&place.door()).unwrap();
    drop(attachment);
    let attachment = waiter.join().unwrap().unwrap();
    let mut after = Client::open(&place.door()).unwrap();
    assert_eq!(before.door().id, first.info().id);
    assert_eq!(after.door().id, second.info().id);
    assert_eq!(before.call(b"", &mut []), Ok(0), "it keeps it");
    assert_eq!(after.call(b"", &mut []), Ok(0));

    // Only what is ours is removed.
    fs::remove_file(place.door()).unwrap();
    fs::write(place.door(), "not the door's").unwrap();
    let inode = fs::metadata(place.door()).unwrap().ino();
    drop(attachment);
    assert_eq!(fs::metadata(place.door()).unwrap().ino(), inode);
    let third = make();
    assert!(matches!(
        third.attach(&place.door(), &options),
        Err(AttachError::NotASocket { .. })
    ));
    for door in [first, second, third] {
        door.revoke();
    }
}

#[test]
fn nobody_home_is_said_so() {
    let place = Place::new("away");
    assert!(matches!(
        Client::open(&place.door()),
        Err(OpenError::Away { .. })
    ));
    drop(std::os::unix::net::UnixListener::bind(place.door()).unwrap());
    assert!(matches!(
        Client::open(&place.door()),
        Err(OpenError::System { .. } | OpenError::Away { .. })
    ));
}

#[test]
fn a_long_path_is_as_good_as_a_short_one() {
    let place = Place::new("long");
    let mut long = place.0.clone();
    for _ in 0..4 {
        long.push("a-directory-with-a-rather-long-name-so-that-the-path-is-long");
    }
    fs::create_dir_all(&long).unwrap();
    let path = long.join("a.door");
    let door = builder().handler(echo).build().unwrap();
    door.start().unwrap();
    let _attachment = door.attach(&path, &AttachOptions::default()).unwrap();
    let mut client = Client::open(&path).unwrap();
    assert_eq!(client.call(b"", &mut []), Ok(0));
    door.revoke();
}

#[test]
fn who_may_come_in_is_limited_by_number_size_and_policy() {
    let place = Place::new("caps");
    let (door, _attachment) = attach(
        &place,
        builder().channels_max(3).channels_per_user(2).handler(echo),
    );
    let open = || Client::open(&place.door());
    let refused = |result: Result<Client, OpenError>| match result {
        Err(OpenError::Refused { why, .. }) => why,
        other => panic!("{other:?}"),
    };
    let (first, _second) = (open().unwrap(), open().unwrap());
    assert!(matches!(
        refused(open()),
        Refusal::ChannelsPerUser { max: 2, .. }
    ));
    drop(first);
    wait_until("a place is free", || door.info().clients == 1);
    assert_eq!(open().unwrap().call(b"", &mut []), Ok(0));

    let small = OpenOptions {
        channel_bytes_max: 4096,
        ..OpenOptions::default()
    };
    let open_small = || refused(Client::open_with(&place.door(), &small));
    // The thread that has answered the last one may still hold its channel, which counts until it is
    // released.
    wait_until("a place is free", || {
        !matches!(open_small(), Refusal::ChannelsPerUser { .. })
    });
    let why = open_small();
    assert!(matches!(why, Refusal::Bytes { allowed: 4096, .. }), "{why}");

    let elsewhere = Place::new("policy");
    let (private, _kept) = attach(
        &elsewhere,
        builder()
            .accept(|client| client.uid == 12_345)
            .handler(echo),
    );
    assert!(matches!(
        refused(Client::open(&elsewhere.door())),
        Refusal::User { .. }
    ));
    private.revoke();
    door.revoke();
}

#[test]
fn calls_in_progress_survive_a_revoke_and_new_ones_are_not_accepted() {
    let place = Place::new("revoke");
    let inside: Arc<AtomicU32> = Arc::default();
    let (ask, answer) = std::sync::mpsc::channel::<()>();
    let answer = std::sync::Mutex::new(answer);
    let handler = {
        let inside = Arc::clone(&inside);
        move |_: u32, call: &mut Call<'_>| {
            inside.fetch_add(1, Ordering::SeqCst);
            answer.lock().unwrap().recv().unwrap();
            call.complete(0, Status::OK);
        }
    };
    let (door, attachment) = attach(&place, builder().handler(handler));
    let mut waiting = Client::open(&place.door()).unwrap();
    let mut idle = AsyncClient::open(&place.door(), &OpenOptions::default()).unwrap();
    let caller = std::thread::spawn(move || waiting.call(b"", &mut []));
    wait_until("the call is under way", || {
        inside.load(Ordering::SeqCst) == 1
    });
    door.revoke();
    drop(attachment);
    let deadline = std::time::Instant::now() + common::DEADLINE;
    while idle.check_peer() == PeerState::Serving {
        assert!(std::time::Instant::now() < deadline);
    }
    assert_eq!(idle.peer_state(), PeerState::Revoked);
    let slot = idle.reserve().unwrap();
    idle.request_mut(slot)[..3].copy_from_slice(b"abc");
    idle.submit(slot, 3, 0);
    assert_eq!(idle.flush(), Err(CallError::NotAccepted));
    assert_eq!(idle.next_lost(), Some((slot, CallError::NotAccepted)));
    assert_eq!(idle.next_lost(), None);
    assert_eq!(idle.request(slot), b"abc", "to be sent to another door");
    idle.release(slot);
    ask.send(()).unwrap();
    assert_eq!(caller.join().unwrap(), Ok(0));
    assert!(matches!(
        Client::open(&place.door()),
        Err(OpenError::Away { .. })
    ));
}

#[test]
fn an_owner_is_told_once_or_every_time_that_nobody_has_its_door_open() {
    for (when, expected) in [(Unreferenced::Once, 1), (Unreferenced::Multi, 3)] {
        let place = Place::new(&format!("unref-{expected}"));
        let told: Arc<AtomicU32> = Arc::default();
        let (door, _attachment) = attach(
            &place,
            builder().handler(echo).unreferenced(when, {
                let told = Arc::clone(&told);
                move || {
                    told.fetch_add(1, Ordering::SeqCst);
                }
            }),
        );
        for round in 1..=3 {
            let client = Client::open(&place.door()).unwrap();
            wait_until("it is open", || door.info().clients == 1);
            drop(client);
            let due = round.min(expected);
            wait_until("the owner is told", || {
                door.info().clients == 0 && told.load(Ordering::SeqCst) >= due
            });
        }
        assert_eq!(told.load(Ordering::SeqCst), expected);
        door.revoke();
    }
}
