//! Doors of this back end, over the stand-in for the kernel's calls.

#[path = "../../../tests/conformance/interface.rs"]
mod interface;
mod stand_in;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, OnceLock, mpsc};
use std::time::Duration;

use crate::{AsyncClient, Attachment, Call, Client, Door, DoorBuilder, DoorHandler};
use transom_doors::{
    AttachError, AttachOptions, CallError, CallOptions, ChannelGeometry, Completion, Limit,
    OpenError, OpenOptions, Patience, PeerState, Refusal, SlotId, Status, Unreferenced, Withdraw,
};

/// A path that no other test uses; a file there is removed at the end.
struct Name(PathBuf);

impl std::ops::Deref for Name {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        // A test that has failed early may have made nothing.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn path() -> Name {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!(
        "transom-door-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    Name(std::env::temp_dir().join(name))
}

const GEOMETRY: ChannelGeometry = ChannelGeometry {
    slots: 4,
    spares: 0,
    request_size: 4096,
    reply_size: 8192,
};

/// A started door with up to four threads.
fn door<H: DoorHandler + Sync>(builder: DoorBuilder, handler: &'static H) -> Door {
    let this: Arc<OnceLock<Door>> = Arc::default();
    let for_threads = Arc::clone(&this);
    let door = builder
        .threads_max(4)
        .channel_geometry(GEOMETRY)
        .server_create(move |thread| {
            let door = for_threads.get().expect("set before start").clone();
            std::thread::Builder::new().spawn(move || door.serve(thread, handler))?;
            Ok(())
        })
        .build()
        .expect("a door");
    this.set(door.clone()).expect("set once");
    door.start().expect("a thread");
    door
}

fn attached(door: &Door) -> (Name, Attachment) {
    let path = path();
    let attachment = door
        .attach(&path, &AttachOptions::default())
        .expect("a free path");
    (path, attachment)
}

fn echo(_: u32, call: &mut Call<'_>) {
    let request = call.request().to_vec();
    call.reply_mut()[..request.len()].copy_from_slice(&request);
    call.complete(request.len(), Status::OK);
}

/// Waits for the next completion, as an event loop would.
fn next(client: &mut AsyncClient) -> (SlotId, Completion) {
    loop {
        if let Some(found) = client.next_completion() {
            return found;
        }
        if client.prepare_wait(Patience::Eager) {
            wait_for(client.as_raw_fd());
            client.woke();
        }
    }
}

/// Waits until an eventfd has been rung, and takes the ring.
fn wait_for(fd: i32) {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 20_000) };
    assert_eq!(ready, 1, "it did not ring");
    let mut count = 0_u64;
    // SAFETY: eight bytes of a local.
    assert_eq!(unsafe { libc::read(fd, (&raw mut count).cast(), 8) }, 8);
}

fn submit(client: &mut AsyncClient, request: &[u8]) -> SlotId {
    let slot = client.reserve().expect("a free slot");
    client.request_mut(slot)[..request.len()].copy_from_slice(request);
    client.submit(slot, request.len(), 0);
    slot
}

#[test]
fn a_call_comes_back() {
    let door = door(Door::builder(), &echo);
    let (path, _attachment) = attached(&door);
    let mut client = Client::open(&path).expect("open");
    let mut reply = [0; 4096];
    for len in [0, 1, 100, 4064, 4065, 4096] {
        let request = vec![len as u8; len];
        assert_eq!(client.call(&request, &mut reply), Ok(len));
        assert_eq!(reply[..len], request);
    }
    assert_eq!(
        client.call(b"ten bytes!", &mut reply[..9]),
        Err(CallError::ReplyTooBig { needed: 10 })
    );
    // Not even the trailer needs room.
    assert_eq!(client.call(b"ten bytes!", &mut reply[..10]), Ok(10));
    assert_eq!(door.info().calls.served, 8);
}

#[test]
fn limits_are_told_by_name() {
    let door = door(Door::builder().data_min(2).data_max(10), &echo);
    let (path, _attachment) = attached(&door);
    let mut client = Client::open(&path).expect("a hello is not below the limit");
    let mut reply = [0; 64];
    let refused = |limit| Err(CallError::Refused(limit));
    assert_eq!(client.call(b"1", &mut reply), refused(Limit::DataMin));
    assert_eq!(client.call(b"12", &mut reply), Ok(2));
    assert_eq!(client.call(b"1234567890", &mut reply), Ok(10));
    assert_eq!(
        client.call(b"12345678901", &mut reply),
        refused(Limit::DataMax)
    );
    assert_eq!(
        door.info().calls.served,
        2,
        "refused calls never reach the process"
    );
}

#[test]
fn a_panic_fails_its_call_alone() {
    let door = door(Door::builder(), &|_: u32, call: &mut Call<'_>| {
        assert_ne!(call.request(), b"panic");
        echo(0, call);
    });
    let (path, _attachment) = attached(&door);
    let mut client = Client::open(&path).expect("open");
    let mut reply = [0; 64];
    assert_eq!(client.call(b"panic", &mut reply), Err(CallError::Fault));
    assert_eq!(client.call(b"again", &mut reply), Ok(5));
    assert_eq!(door.info().calls.faulted, 1);
}

#[test]
fn an_event_loop_has_many_calls_on_their_way() {
    static DEADLINE: AtomicU64 = AtomicU64::new(0);
    let door = door(Door::builder(), &|_: u32, call: &mut Call<'_>| {
        DEADLINE.fetch_max(call.deadline(), Ordering::Relaxed);
        echo(0, call);
    });
    let (path, _attachment) = attached(&door);
    let mut client = AsyncClient::open(&path, &OpenOptions::default()).expect("open");
    assert_eq!(client.geometry(), GEOMETRY);
    let (mut sent, mut received) = (0_u32, 0_u32);
    let mut expected = [0_u32; 4];
    while received < 400 {
        while sent < 400 && client.free_slots() > 0 {
            let slot = submit(&mut client, &sent.to_ne_bytes());
            expected[slot.index()] = sent;
            sent += 1;
        }
        client.flush().expect("a serving door");
        let (slot, completion) = next(&mut client);
        assert_eq!((completion.status, completion.len), (Status::OK, 4));
        assert_eq!(client.reply(slot), expected[slot.index()].to_ne_bytes());
        let mut tail = [0; 8];
        assert_eq!(client.copy_reply(slot, 3, &mut tail), 1);
        client.release(slot);
        received += 1;
    }
    assert_eq!((client.outstanding(), client.free_slots()), (0, 4));
    let slot = client.reserve().expect("a free slot");
    client.submit(slot, 0, 12_345);
    client.flush().expect("a serving door");
    next(&mut client);
    assert_eq!(DEADLINE.load(Ordering::Relaxed), 12_345);
}

#[test]
fn threads_grow_to_the_high_water() {
    static TOGETHER: Barrier = Barrier::new(3);
    // Without three threads at once no thread passes.
    let door = door(Door::builder(), &|_: u32, call: &mut Call<'_>| {
        TOGETHER.wait();
        call.complete(0, Status::OK);
    });
    let (path, _attachment) = attached(&door);
    let mut client = AsyncClient::open(&path, &OpenOptions::default()).expect("open");
    for _ in 0..3 {
        submit(&mut client, b"");
    }
    client.flush().expect("a serving door");
    for _ in 0..3 {
        assert_eq!(next(&mut client).1.status, Status::OK);
    }
    let info = door.info();
    assert_eq!(info.threads.high_water, 3);
    assert!((3..=4).contains(&info.threads.started), "{info:?}");
}

/// A handler that says when it has a call, and keeps it until it is told.
struct Held {
    began: mpsc::SyncSender<()>,
    go_on: std::sync::Mutex<mpsc::Receiver<()>>,
}

impl DoorHandler for Held {
    fn call(&self, _: u32, call: &mut Call<'_>) {
        self.began.send(()).expect("the test listens");
        self.go_on
            .lock()
            .expect("one call at a time")
            .recv()
            .expect("the test tells");
        call.complete(0, Status::OK);
    }
}

fn held() -> (&'static Held, mpsc::Receiver<()>, mpsc::SyncSender<()>) {
    let (began, has_begun) = mpsc::sync_channel(8);
    let (go_on, told) = mpsc::sync_channel(8);
    let held = Box::leak(Box::new(Held {
        began,
        go_on: std::sync::Mutex::new(told),
    }));
    (held, has_begun, go_on)
}

#[test]
fn a_call_in_progress_survives_a_revoke_and_a_later_one_is_given_back() {
    let (handler, began, go_on) = held();
    let door = door(Door::builder(), handler);
    let (path, _attachment) = attached(&door);
    let mut client = AsyncClient::open(&path, &OpenOptions::default()).expect("open");
    let first = submit(&mut client, b"first");
    client.flush().expect("a serving door");
    began.recv().expect("the handler has it");
    door.revoke();
    assert!(door.info().revoked);

    // The client does not know yet: the call itself finds out.
    let second = submit(&mut client, b"second");
    client.flush().expect("nothing is known yet");
    wait_for(client.peer_fd().expect("news"));
    assert_eq!(client.check_peer(), PeerState::Revoked);
    assert_eq!(client.next_completion(), None);
    assert_eq!(client.flush(), Err(CallError::NotAccepted));
    assert_eq!(client.next_lost(), Some((second, CallError::NotAccepted)));
    assert_eq!(client.request(second), b"second");
    client.release(second);

    // Now it does: nothing is sent.
    let third = submit(&mut client, b"third");
    assert_eq!(client.flush(), Err(CallError::NotAccepted));
    assert_eq!(client.withdraw(third), Withdraw::Withdrawn);
    client.release(third);
    assert_eq!(client.next_lost(), None);

    go_on.send(()).expect("the handler waits");
    let (slot, completion) = next(&mut client);
    assert_eq!((slot, completion.status), (first, Status::OK));
    client.release(slot);
    assert!(matches!(Client::open(&path), Err(OpenError::Away { .. })));
}

#[test]
fn a_call_may_have_run_when_its_process_ends() {
    let (handler, began, _go_on) = held();
    let door = door(Door::builder(), handler);
    let (path, _attachment) = attached(&door);
    let mut client = AsyncClient::open(&path, &OpenOptions::default()).expect("open");
    let slot = submit(&mut client, b"");
    let given_up = submit(&mut client, b"");
    client.flush().expect("a serving door");
    began.recv().expect("the handler has it");
    began.recv().expect("and the other one");
    client.abandon(given_up);
    stand_in::kill(std::os::fd::AsRawFd::as_raw_fd(
        &File::open(&*path).expect("the door"),
    ));
    wait_for(client.peer_fd().expect("news"));
    assert_eq!(client.check_peer(), PeerState::Gone);
    // Its end may still be on its way here.
    while client.next_completion().is_some() || client.lost_len() == 0 {
        wait_for(client.peer_fd().expect("news"));
    }
    // A call that may have run is nothing to be taken back and sent again.
    assert_eq!(client.withdraw(slot), Withdraw::Claimed);
    // The abandoned one is silent, the other one told once.
    assert_eq!(client.next_lost(), Some((slot, CallError::MayHaveRun)));
    assert_eq!(client.next_lost(), None);
}

#[test]
fn a_lost_call_can_still_be_given_up() {
    let (handler, began, _go_on) = held();
    let door = door(Door::builder(), handler);
    let (path, _attachment) = attached(&door);
    let mut client = AsyncClient::open(&path, &OpenOptions::default()).expect("open");
    let slot = submit(&mut client, b"");
    client.flush().expect("a serving door");
    began.recv().expect("the handler has it");
    stand_in::kill(std::os::fd::AsRawFd::as_raw_fd(
        &File::open(&*path).expect("the door"),
    ));
    while client.next_completion().is_some() || client.lost_len() == 0 {
        wait_for(client.peer_fd().expect("news"));
    }
    client.abandon(slot);
    assert_eq!(client.next_lost(), None);
    assert_eq!((client.outstanding(), client.free_slots()), (0, 4));
}

#[test]
fn descriptors_go_along_where_the_door_takes_them() {
    let door_with = door(Door::builder().descriptors_max(2), &|_: u32,
                                                               call: &mut Call<
        '_,
    >| {
        for descriptor in call.take_descriptors() {
            File::from(descriptor)
                .write_all(b"through the door")
                .expect("a pipe");
        }
        call.complete(0, Status::OK);
    });
    let (path, _attachment) = attached(&door_with);
    let mut client = AsyncClient::open(&path, &OpenOptions::default()).expect("open");
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let slot = client.reserve().expect("a slot");
    client
        .submit_with(slot, 0, 0, &[writer.as_fd()])
        .expect("room for one");
    drop(writer);
    client.flush().expect("a serving door");
    assert_eq!(next(&mut client).1.status, Status::OK);
    // The end comes only if every copy of the writing end is closed.
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("a pipe");
    assert_eq!(text, "through the door");

    let three = [reader.as_fd(), reader.as_fd(), reader.as_fd()];
    let slot = client.reserve().expect("a slot");
    assert_eq!(
        client.submit_with(slot, 0, 0, &three),
        Err(CallError::Refused(Limit::Descriptors))
    );

    let without = door(Door::builder(), &echo);
    let (path, _attachment) = attached(&without);
    let mut client = AsyncClient::open(&path, &OpenOptions::default()).expect("open");
    let slot = client.reserve().expect("a slot");
    assert_eq!(
        client.submit_with(slot, 0, 0, &[reader.as_fd()]),
        Err(CallError::Refused(Limit::Descriptors))
    );
    client.release(slot);
}

#[test]
fn a_path_has_one_living_door() {
    let (first, second) = (door(Door::builder(), &echo), door(Door::builder(), &echo));
    let (path, attachment) = attached(&first);
    let taken = second.attach(&path, &AttachOptions::default());
    assert!(matches!(taken, Err(AttachError::Taken { owner, .. }) if owner == std::process::id()));
    attachment.detach();
    assert!(matches!(Client::open(&path), Err(OpenError::Away { .. })));
    let attachment = second
        .attach(&path, &AttachOptions::default())
        .expect("free again");
    second.revoke();
    // A dead door does not keep its path, and its late end does not take ours.
    let _third = first
        .attach(&path, &AttachOptions::default())
        .expect("a dead door is replaced");
    drop(attachment);
    assert!(Client::open(&path).is_ok());
}

#[test]
fn who_calls_is_asked_at_each_call() {
    static WELCOME: AtomicU32 = AtomicU32::new(1);
    let builder = Door::builder().accept(|caller| {
        assert_eq!(caller.pid, std::process::id() as i32);
        WELCOME.load(Ordering::Relaxed) == 1
    });
    let door = door(builder, &echo);
    let (path, _attachment) = attached(&door);
    let mut client = Client::open(&path).expect("welcome");
    let mut reply = [0; 64];
    assert_eq!(client.call(b"hello", &mut reply), Ok(5));
    WELCOME.store(0, Ordering::Relaxed);
    assert_eq!(
        client.call(b"hello", &mut reply),
        Err(CallError::Refused(Limit::Accept))
    );
    assert!(matches!(
        Client::open(&path),
        Err(OpenError::Refused {
            why: Refusal::User { .. },
            ..
        })
    ));
}

#[test]
fn an_emergency_reply_parks_its_thread_and_the_door_goes_on() {
    static STUCK: AtomicU32 = AtomicU32::new(u32::MAX);
    // Every reply is the thread's index.
    let door = door(Door::builder(), &|thread: u32, call: &mut Call<'_>| {
        if call.request() == b"stuck" {
            STUCK.store(thread, Ordering::SeqCst);
            // These bytes are lent, and are no reply.
            call.reply_mut()[..4].copy_from_slice(b"lent");
            // SAFETY: on the handler's own thread and frame, once, and it does not come back.
            unsafe { call.emergency().complete(Status(500)) };
        }
        call.reply_mut()[0] = thread as u8;
        call.complete(1, Status::OK);
    });
    let (path, _attachment) = attached(&door);
    let mut client = Client::open(&path).expect("open");
    let mut reply = [99; 1];
    let answer = client.call_with(b"stuck", &mut reply, CallOptions::default());
    let answer = answer.expect("an end");
    assert_eq!((answer.len, answer.status), (0, Status(500)));
    for _ in 0..4 {
        assert_eq!(client.call(b"on", &mut reply), Ok(1));
        assert_ne!(
            u32::from(reply[0]),
            STUCK.load(Ordering::SeqCst),
            "a parked thread has served a call"
        );
    }
    assert_eq!(door.info().threads.parked, 1);
}

#[test]
fn an_unreferenced_door_says_so() {
    static TOLD: AtomicU32 = AtomicU32::new(0);
    let builder = Door::builder().unreferenced(Unreferenced::Multi, || {
        TOLD.fetch_add(1, Ordering::Relaxed);
    });
    let door = door(builder, &echo);
    let (path, _attachment) = attached(&door);
    let file = File::open(&*path).expect("the door");
    for _ in 0..2 {
        stand_in::unreferenced(std::os::fd::AsRawFd::as_raw_fd(&file));
    }
    assert_eq!(TOLD.load(Ordering::Relaxed), 2);
    assert_eq!(door.info().calls.served, 0, "a notification is no call");
}

#[test]
fn a_door_that_does_not_answer_is_not_waited_for() {
    // Its thread never serves.
    let silent = Door::builder()
        .channel_geometry(GEOMETRY)
        .server_create(|_| Ok(()))
        .build()
        .expect("a door");
    assert!(matches!(
        silent.attach(&path(), &AttachOptions::default()),
        Err(AttachError::NotStarted)
    ));
    silent.start().expect("a thread, they say");
    let (path, _attachment) = attached(&silent);
    let options = OpenOptions {
        timeout: Duration::from_millis(20),
        ..OpenOptions::default()
    };
    assert!(matches!(
        Client::open_with(&path, &options),
        Err(OpenError::TimedOut { .. })
    ));
    let few = OpenOptions {
        channel_bytes_max: 4096,
        slots: Some(4),
        ..OpenOptions::default()
    };
    let (path, _attachment) = attached(&door(Door::builder(), &echo));
    assert!(matches!(
        AsyncClient::open(&path, &few),
        Err(OpenError::Refused {
            why: Refusal::Bytes { allowed: 4096, .. },
            ..
        })
    ));
    let many = OpenOptions {
        slots: Some(5),
        ..OpenOptions::default()
    };
    let client = AsyncClient::open(&path, &many).expect("as many as the door offers");
    assert_eq!(client.geometry().slots, 4);
}

#[test]
fn a_call_with_a_timeout_gives_up_and_the_next_one_waits_for_its_slot() {
    let (handler, began, go_on) = held();
    let door = door(Door::builder(), handler);
    let (path, _attachment) = attached(&door);
    let mut client = Client::open(&path).expect("open");
    let brief = |timeout| CallOptions {
        timeout: Some(timeout),
        ..CallOptions::default()
    };
    let mut reply = [0; 64];
    let short = brief(Duration::from_millis(1));
    // One that its thread had not taken up in time is taken back; one that it had keeps the slot, for the
    // handler waits.
    loop {
        match client.call_with(b"", &mut reply, short) {
            Err(CallError::TimedOut) => {}
            Err(CallError::Full) => break,
            other => panic!("{other:?}"),
        }
    }
    began.recv().expect("the handler has it");
    go_on.send(()).expect("the handler waits");
    // The thread that made the call has to come back first.
    go_on.send(()).expect("room");
    let reply = loop {
        match client.call_with(b"", &mut reply, brief(Duration::from_secs(60))) {
            Err(CallError::Full) => std::thread::yield_now(),
            other => break other,
        }
    };
    assert_eq!(reply.expect("a reply").status, Status::OK);
}

#[test]
fn descriptors_come_back_with_a_reply() {
    let door = door(Door::builder(), &|_: u32, call: &mut Call<'_>| {
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        writer.write_all(b"from the door").expect("a pipe");
        call.complete_with(0, Status::OK, &[reader.as_fd()])
            .expect("one descriptor");
    });
    let (path, _attachment) = attached(&door);
    let read = |descriptor: std::os::fd::OwnedFd| {
        let mut text = String::new();
        // There is an end to be read only because the handler's own ends are closed.
        File::from(descriptor)
            .read_to_string(&mut text)
            .expect("a pipe");
        text
    };
    let mut client = Client::open(&path).expect("open");
    for timeout in [None, Some(Duration::from_secs(60))] {
        let options = CallOptions {
            timeout,
            ..CallOptions::default()
        };
        // Too small for the entries of descriptors: they come in a mapping.
        let mut reply = client
            .call_with(b"", &mut [0; 8], options)
            .expect("a reply");
        assert_eq!(reply.descriptors.len(), 1);
        let descriptor = reply.descriptors.next().expect("one");
        assert_eq!(read(descriptor), "from the door");
    }
    let mut client = AsyncClient::open(&path, &OpenOptions::default()).expect("open");
    submit(&mut client, b"");
    client.flush().expect("a serving door");
    let slot = next(&mut client).0;
    let descriptor = client.take_descriptors(slot).next().expect("one");
    assert_eq!(read(descriptor), "from the door");
    assert!(client.take_descriptors(slot).is_empty());
    client.release(slot);
}

#[test]
fn a_reply_that_is_too_big_tells_its_size() {
    let door = door(Door::builder(), &|_: u32, call: &mut Call<'_>| {
        call.reply_too_big(12_345);
    });
    let (path, _attachment) = attached(&door);
    let mut client = Client::open(&path).expect("open");
    for room in [0, 7, 8, 64] {
        assert_eq!(
            client.call(b"", &mut vec![0; room]),
            Err(CallError::ReplyTooBig { needed: 12_345 }),
            "{room} bytes"
        );
    }
    let mut client = AsyncClient::open(&path, &OpenOptions::default()).expect("open");
    submit(&mut client, b"");
    client.flush().expect("a serving door");
    let (slot, completion) = next(&mut client);
    assert_eq!(completion.status, Status::REPLY_TOO_BIG);
    assert_eq!(client.reply(slot), 12_345_u64.to_le_bytes());
}

interface::conforms!(native_over_the_stand_in, crate);
