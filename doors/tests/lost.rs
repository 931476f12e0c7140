//! Lost calls: their threads never run again, and their handlers' loans to other threads stay lent for ever.
#![cfg(not(loom))]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use common::{
    Caller, Gate, House, SMALL, hash, lend_request_and_lose, lend_room_and_lose, wait_until,
};
use transom_doors::{Call, ChannelGeometry, Kind, Resumed, SlotId, Status, Withdraw};

const LOST: Status = Status(16);

/// Answers with the request's hash, except for requests whose first word asks for a loan.
fn lending(changes: &Arc<AtomicU32>) -> impl Fn(u32, &mut Call<'_>) + Send + Sync + 'static {
    let changes = Arc::clone(changes);
    move |_, call| {
        match call.request() {
            request if request.starts_with(b"read") => lend_request_and_lose(call, LOST, &changes),
            request if request.starts_with(b"write") => lend_room_and_lose(call, LOST, &changes),
            _ => {}
        }
        let digest = hash(call.request());
        call.reply_mut()[..8].copy_from_slice(&digest);
        call.complete(8, Status::OK);
    }
}

fn slots(slots: u32, spares: u32) -> ChannelGeometry {
    ChannelGeometry {
        slots,
        spares,
        ..SMALL
    }
}

/// Makes a call that is lost.
fn lose(caller: &mut Caller, request: &[u8]) -> SlotId {
    let sent = caller.send(request);
    let (slot, completion) = caller.next();
    assert_eq!(
        (slot, completion.kind, completion.status, completion.len),
        (sent, Kind::Lost, LOST, 0)
    );
    slot
}

fn call_again_and_again(caller: &mut Caller) {
    for number in 0..500_u32 {
        let request = number.to_le_bytes().repeat(1 + number as usize % 1000);
        assert_eq!(caller.call(&request), (Status::OK, hash(&request).to_vec()));
    }
}

#[test]
fn what_a_lost_call_has_lent_is_used_for_no_other_call() {
    let changes = Arc::default();
    let house = House::new(6, lending(&changes));
    let mut caller = house.caller(slots(2, 4));
    house.door.start().unwrap();
    for request in [&b"read and keep"[..], b"write", b"read", b"write"] {
        let lost = lose(&mut caller, request);
        call_again_and_again(&mut caller);
        // Nothing of it is read, and nothing that is done with it brings it back.
        assert_eq!(caller.client.reply(lost), b"");
        assert_eq!(caller.client.copy_reply(lost, 0, &mut [0; 8]), 0);
        assert_eq!(caller.client.withdraw(lost), Withdraw::Claimed);
        caller.client.abandon(lost);
        caller.client.release(lost);
        assert_eq!(
            (caller.client.free_slots(), caller.client.outstanding()),
            (2, 0)
        );
    }
    assert_eq!(changes.load(Ordering::SeqCst), 0, "others came there");
    assert_eq!(
        (caller.client.lost_slots(), caller.client.usable_slots()),
        (4, 2)
    );
}

#[test]
fn spare_slots_take_the_place_of_lost_ones_and_then_there_are_fewer() {
    let changes = Arc::default();
    let house = House::new(8, lending(&changes));
    let mut caller = house.caller(slots(3, 2));
    house.door.start().unwrap();
    for (lost, usable) in [(0, 3), (1, 3), (2, 3), (3, 2), (4, 1)] {
        assert_eq!(
            (caller.client.lost_slots(), caller.client.usable_slots()),
            (lost, usable)
        );
        // So many at once, and no more.
        let all: Vec<_> = (0..usable).map(|_| caller.stage(b"at once")).collect();
        assert_eq!(caller.client.reserve(), None);
        caller.client.flush().unwrap();
        for _ in all {
            let (slot, completion) = caller.next();
            assert_eq!(completion.kind, Kind::Final);
            caller.client.release(slot);
        }
        lose(&mut caller, b"write");
    }
    assert_eq!(
        (caller.client.lost_slots(), caller.client.usable_slots()),
        (5, 0)
    );
    assert_eq!(
        (caller.client.free_slots(), caller.client.reserve()),
        (0, None)
    );
    // Another channel has its own.
    assert_eq!(changes.load(Ordering::SeqCst), 0);
}

#[test]
fn a_lost_call_that_was_given_up_before_is_not_told_and_its_slot_is_lost_all_the_same() {
    let (gate, changes) = (Arc::<Gate>::default(), Arc::default());
    let handler = {
        let (gate, lending) = (Arc::clone(&gate), lending(&changes));
        move |thread: u32, call: &mut Call<'_>| {
            if call.request().starts_with(b"write") {
                gate.pass();
                assert!(call.is_abandoned());
            }
            lending(thread, call);
        }
    };
    let house = House::new(3, handler);
    let mut caller = house.caller(slots(2, 0));
    house.door.start().unwrap();
    let given_up = caller.send(b"write");
    wait_until("it runs", || gate.waiting() == 1);
    caller.client.abandon(given_up);
    gate.open();
    wait_until("it is lost", || house.info().threads.parked == 1);
    while caller.client.outstanding() > 0 {
        caller
            .client
            .drain(|slot, _| panic!("{slot:?} was given up"));
    }
    assert_eq!(
        (caller.client.lost_slots(), caller.client.usable_slots()),
        (1, 1)
    );
    call_again_and_again(&mut caller);
    assert_eq!(changes.load(Ordering::SeqCst), 0);
}

/// A call may be lost while it waits for its client, which then has a piece of it, or writes one.
#[test]
fn a_call_that_is_lost_in_the_middle_of_a_piece_is_told_when_the_client_goes_on() {
    /// Second pieces that the client has taken.
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let house = House::new(6, |_: u32, call: &mut Call<'_>| {
        if call.request() != b"pieces" {
            return call.complete(0, Status::OK);
        }
        call.reply_mut()[..5].copy_from_slice(b"piece");
        assert_eq!(call.interim(5, 7), Ok(Resumed { request_len: 4 }));
        let before = TAKEN.load(Ordering::SeqCst);
        lose_this_thread_once(call, move || TAKEN.load(Ordering::SeqCst) > before);
        let _ = call.interim(5, 7);
        unreachable!("the thread is parked while it waits");
    });
    let mut caller = house.caller(slots(1, 4));
    house.door.start().unwrap();
    for lost in 1..=4 {
        let sent = caller.send(b"pieces");
        let (slot, completion) = caller.next();
        assert_eq!((slot, completion.kind), (sent, Kind::Interim(7)));
        caller.client.request_mut(slot)[..4].copy_from_slice(b"more");
        caller.client.resume(slot, 4);
        // The second piece: it is still whole, because it was handed over, whatever becomes of the call.
        let (slot, completion) = caller.next();
        assert_eq!((slot, completion.kind), (sent, Kind::Interim(7)));
        TAKEN.fetch_add(1, Ordering::SeqCst);
        wait_until("it is lost", || house.info().threads.parked == lost);
        caller
            .client
            .drain(|slot, _| panic!("{slot:?} has a piece that is not given back"));
        assert_eq!(caller.client.reply(slot), b"piece");
        if lost % 2 == 0 {
            caller.client.abandon(slot);
            caller
                .client
                .drain(|slot, _| panic!("{slot:?} was given up"));
            assert_eq!(
                (caller.client.outstanding(), caller.client.lost_slots()),
                (0, lost)
            );
            assert_eq!(caller.call(b"").0, Status::OK);
            continue;
        }
        caller.client.resume(slot, 0);
        let (slot, completion) = caller.next();
        assert_eq!(
            (slot, completion.kind, completion.status),
            (sent, Kind::Lost, LOST)
        );
        assert_eq!(
            (caller.client.outstanding(), caller.client.free_slots()),
            (0, 1)
        );
        assert_eq!(caller.call(b"").0, Status::OK);
    }
}

/// Another thread interrupts this one once `condition` holds, and this one ends its call from the signal's
/// handler.
fn lose_this_thread_once(call: &Call<'_>, condition: impl Fn() -> bool + Send + 'static) {
    use std::cell::Cell;
    thread_local! {
        static EMERGENCY: Cell<Option<transom_doors::EmergencyReply>> = const { Cell::new(None) };
    }
    extern "C" fn end(_: libc::c_int) {
        let emergency = EMERGENCY.get().expect("set before");
        // SAFETY: the handler's frames are below this one, on this thread; control never returns to them.
        unsafe { emergency.complete(LOST) };
        loop {
            // SAFETY: no arguments, no memory.
            unsafe { libc::pause() };
        }
    }
    EMERGENCY.set(Some(call.emergency()));
    // SAFETY: a zeroed action with its handler set, as sigaction(2) allows; SIGUSR1 is used by nothing else
    // here. This thread never ends, so its name stays valid.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = end as *const () as usize;
        assert_eq!(
            libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()),
            0
        );
    }
    // SAFETY: no preconditions.
    let this = unsafe { libc::pthread_self() };
    std::thread::spawn(move || {
        wait_until("it may be interrupted", condition);
        // SAFETY: the thread is there: it waits for its client.
        unsafe { libc::pthread_kill(this, libc::SIGUSR1) };
    });
}

#[cfg(target_os = "linux")]
mod between {
    use super::*;
    use std::path::PathBuf;
    use transom_doors::{
        AsyncClient, AttachOptions, Attachment, CallError, CallOptions, Client, Door, DoorBuilder,
        OpenError, OpenOptions, Patience, PeerState, Refusal,
    };

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let name = format!("lost-{}-{name}", std::process::id());
            let place = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&place).unwrap();
            Self(place)
        }

        fn door(&self) -> PathBuf {
            self.0.join("a.door")
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn builder() -> DoorBuilder {
        Door::builder().threads_max(8).channel_geometry(slots(2, 4))
    }

    fn attach(place: &Place, builder: DoorBuilder) -> (Door, Attachment) {
        let door = builder.build().unwrap();
        door.start().unwrap();
        let attachment = door
            .attach(&place.door(), &AttachOptions::default())
            .unwrap();
        (door, attachment)
    }

    fn open(place: &Place) -> AsyncClient {
        AsyncClient::open(&place.door(), &OpenOptions::default()).unwrap()
    }

    /// One call to its end: how, its status, and its reply.
    fn call(client: &mut AsyncClient, request: &[u8]) -> (Kind, Status, Vec<u8>) {
        let slot = client.reserve().expect("a free slot");
        client.request_mut(slot)[..request.len()].copy_from_slice(request);
        client.submit(slot, request.len(), 0);
        client.flush().unwrap();
        let deadline = std::time::Instant::now() + common::DEADLINE;
        loop {
            if let Some((found, completion)) = client.next_completion() {
                assert_eq!(found, slot);
                let mut reply = vec![0; completion.len];
                client.copy_reply(slot, 0, &mut reply);
                client.release(slot);
                return (completion.kind, completion.status, reply);
            }
            assert!(std::time::Instant::now() < deadline, "no reply");
            client.prepare_wait(Patience::Eager);
            client.woke();
            client.nudge();
        }
    }

    fn call_again_and_again(client: &mut AsyncClient) {
        for number in 0..500_u32 {
            let request = number.to_le_bytes().repeat(1 + number as usize % 1000);
            let expected = (Kind::Final, Status::OK, hash(&request).to_vec());
            assert_eq!(call(client, &request), expected);
        }
    }

    #[test]
    fn what_a_lost_call_has_lent_is_used_for_no_other_call() {
        let place = Place::new("lent");
        let changes = Arc::default();
        let (door, _attachment) = attach(&place, builder().handler(lending(&changes)));
        let mut client = open(&place);
        for request in [&b"read and keep"[..], b"write", b"read", b"write"] {
            assert_eq!(call(&mut client, request), (Kind::Lost, LOST, vec![]));
            call_again_and_again(&mut client);
        }
        assert_eq!(changes.load(Ordering::SeqCst), 0, "others came there");
        assert_eq!((client.lost_slots(), client.usable_slots()), (4, 2));
        door.revoke();
    }

    #[test]
    fn a_client_has_as_many_spare_slots_as_it_has_room_for() {
        let place = Place::new("spares");
        let changes = Arc::default();
        let (door, _attachment) = attach(&place, builder().handler(lending(&changes)));
        for (asked, slots, spares) in [
            (None, 2, 4),
            (Some(9), 2, 4),
            (Some(3), 2, 3),
            (Some(0), 2, 0),
        ] {
            let options = OpenOptions {
                spares: asked,
                ..OpenOptions::default()
            };
            let client = AsyncClient::open(&place.door(), &options).unwrap();
            let geometry = client.geometry();
            assert_eq!((geometry.slots, geometry.spares), (slots, spares));
        }
        door.revoke();
    }

    #[test]
    fn a_channel_stays_for_what_was_lent_of_it_when_its_client_leaves() {
        let place = Place::new("kept");
        let changes = Arc::default();
        let (door, attachment) =
            attach(&place, builder().channels_max(3).handler(lending(&changes)));
        for kept in 1..=2 {
            let mut client = open(&place);
            assert_eq!(call(&mut client, b"write").0, Kind::Lost);
            drop(client);
            wait_until("the client has left", || {
                let info = door.info();
                (info.clients, info.channels_kept) == (0, kept)
            });
            // The borrower goes on writing: it would die of that if its room were gone, or others would see
            // it.
            call_again_and_again(&mut open(&place));
            wait_until("the other one has left", || door.info().clients == 0);
        }
        assert_eq!(door.info().channels_kept, 2);
        // They are counted, because they take memory.
        let last = open(&place);
        let refused = AsyncClient::open(&place.door(), &OpenOptions::default());
        assert!(matches!(
            refused,
            Err(OpenError::Refused {
                why: Refusal::Channels { max: 3 },
                ..
            })
        ));
        drop(last);
        assert_eq!(changes.load(Ordering::SeqCst), 0);
        // Lost calls do not keep the porter: it ends once the last client has left.
        let path = attachment.path().to_owned();
        attachment.detach();
        let again = || door.attach(&path, &AttachOptions::default()).is_ok();
        wait_until("the door can have another path", again);
    }

    #[test]
    fn a_caller_that_waits_opens_the_door_anew_after_a_lost_call() {
        let place = Place::new("waits");
        let changes = Arc::default();
        let (door, attachment) = attach(&place, builder().handler(lending(&changes)));
        let mut client = Client::open(&place.door()).unwrap();
        let mut reply = [0; 4096];
        for lent in [&b"write"[..], b"read"] {
            let lost = client.call_with(lent, &mut reply, CallOptions::default());
            let lost = lost.expect("an end");
            assert_eq!((lost.len, lost.status), (0, LOST));
            for request in [&b"one"[..], b"two"] {
                assert_eq!(client.call(request, &mut reply), Ok(8));
                assert_eq!(reply[..8], hash(request));
            }
        }
        let _ = client.call(b"write", &mut reply);
        door.revoke();
        attachment.detach();
        assert_eq!(
            client.call(b"more", &mut reply),
            Err(CallError::NotAccepted)
        );
        assert_eq!(changes.load(Ordering::SeqCst), 0);
    }

    /// The thread that is past its reply must not take the next call in the same slot for its own.
    #[test]
    fn an_emergency_after_completion_does_not_lose_the_next_call_in_its_slot() {
        let place = Place::new("late");
        let (late, next) = (Arc::<Gate>::default(), Arc::<Gate>::default());
        let gates = (Arc::clone(&late), Arc::clone(&next));
        let handler = move |_: u32, call: &mut Call<'_>| {
            let emergency = call.emergency();
            match call.request() {
                b"late" => {
                    call.complete(0, Status::OK);
                    gates.0.pass();
                    // SAFETY: on the handler's thread, whose frame stays: the loop below never ends.
                    assert!(!unsafe { emergency.complete(LOST) });
                    loop {
                        std::thread::park();
                    }
                }
                b"next" => gates.1.pass(),
                _ => {}
            }
            call.complete(0, Status::OK);
        };
        let one = Door::builder().threads_max(4).channel_geometry(slots(1, 0));
        let (door, _attachment) = attach(&place, one.handler(handler));
        let mut client = open(&place);
        assert_eq!(call(&mut client, b"late").0, Kind::Final);
        wait_until("it is past its reply", || late.waiting() == 1);
        let slot = client.reserve().expect("the only one");
        client.request_mut(slot)[..4].copy_from_slice(b"next");
        client.submit(slot, 4, 0);
        client.flush().unwrap();
        wait_until("another thread has the slot", || {
            client.nudge();
            next.waiting() == 1
        });
        late.open();
        wait_until("the first one is parked", || {
            door.info().threads.parked == 1
        });
        client.drain(|slot, _| panic!("{slot:?} is still being served"));
        next.open();
        wait_until("it is served", || door.info().calls.served == 2);
        while client.outstanding() > 0 {
            client.drain(|_, completion| assert_eq!(completion.kind, Kind::Final));
        }
        assert_eq!(
            (client.lost_slots(), client.check_peer()),
            (0, PeerState::Serving)
        );
        door.revoke();
    }
}
