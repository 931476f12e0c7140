//! Calls that go well: echo, many at once, several channels, large channels, geometry that is
//! refused.
#![cfg(not(loom))]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{Caller, House, Random, SMALL, geometry, hash, memory};
use transom_doors::{
    BuildError, Call, CallError, ChannelError, ChannelGeometry, Door, GeometryError, Kind,
    Patience, Status,
};

/// Replies with the hash of the request.
fn echo(_: u32, call: &mut Call<'_>) {
    let digest = hash(call.request());
    call.reply_mut()[..8].copy_from_slice(&digest);
    call.complete(8, Status::OK);
}

/// Keeps `in_flight` calls under way until `total` have come back, and checks every reply.
fn drive(caller: &mut Caller, in_flight: usize, total: u64) {
    let (mut sent, mut seen) = (0_u64, 0_u64);
    let mut expected = vec![[0; 8]; caller.client.geometry().slots as usize];
    while seen < total {
        while sent < total && caller.client.outstanding() < in_flight {
            let request = [sent.to_le_bytes(), (!sent).to_le_bytes()].concat();
            let slot = caller.stage(&request);
            expected[slot.index()] = hash(&request);
            sent += 1;
        }
        caller.client.flush().unwrap();
        let (slot, completion) = caller.next();
        assert_eq!(
            (completion.status, completion.kind),
            (Status::OK, Kind::Final)
        );
        assert_eq!(caller.client.reply(slot), expected[slot.index()]);
        caller.client.release(slot);
        seen += 1;
    }
    assert_eq!(caller.client.outstanding(), 0);
}

#[test]
fn one_call_at_a_time_is_echoed() {
    let house = House::new(4, echo);
    let mut caller = house.caller(SMALL);
    house.door.start().unwrap();
    drive(&mut caller, 1, 5_000);
    assert_eq!(house.info().calls.served, 5_000);
}

#[test]
fn sixty_four_calls_in_flight_are_each_served_once_over_several_channels() {
    const CALLS: u64 = 50_000;
    let house = House::new(4, echo);
    let callers: Vec<_> = (0..3).map(|_| house.caller(SMALL)).collect();
    house.door.start().unwrap();
    std::thread::scope(|scope| {
        for mut caller in callers {
            scope.spawn(move || drive(&mut caller, 64, CALLS));
        }
    });
    // Replies are checked one by one; the count shows that none was served twice.
    assert_eq!(house.info().calls.served, 3 * CALLS);
}

#[test]
fn a_channel_of_many_words_serves_every_slot() {
    let house = House::new(3, echo);
    let mut caller = house.caller(geometry(4096));
    house.door.start().unwrap();
    drive(&mut caller, 4096, 30_000);
}

#[test]
fn a_channel_may_have_fewer_slots_than_a_word_has_bits() {
    let house = House::new(2, echo);
    let mut caller = house.caller(geometry(65));
    let mut single = house.caller(geometry(1));
    house.door.start().unwrap();
    drive(&mut caller, 65, 5_000);
    drive(&mut single, 1, 100);
}

#[test]
fn a_call_knows_its_slot_its_channel_and_its_deadline() {
    let seen = Arc::new(AtomicU64::new(0));
    let house = House::new(1, {
        let seen = Arc::clone(&seen);
        move |_: u32, call: &mut Call<'_>| {
            seen.store(call.deadline(), Ordering::SeqCst);
            assert!(call.claimed_at_ns() > 0);
            let words = [call.channel(), call.slot(), call.generation()];
            for (place, word) in call.reply_mut().chunks_mut(4).zip(words) {
                place.copy_from_slice(&word.to_le_bytes());
            }
            call.complete(12, Status(77));
        }
    });
    let _first = house.caller(SMALL);
    let mut second = house.caller(SMALL);
    house.door.start().unwrap();
    let slot = second.client.reserve().unwrap();
    second.client.submit(slot, 0, 123_456);
    second.client.flush().unwrap();
    let (slot, completion) = second.next();
    assert_eq!(completion.status, Status(77));
    let expected = [1, slot.index() as u32, slot.generation()]
        .map(u32::to_le_bytes)
        .concat();
    assert_eq!(second.client.reply(slot), expected);
    assert_eq!(seen.load(Ordering::SeqCst), 123_456);
}

#[test]
fn a_full_request_and_a_full_reply_fit() {
    let house = House::new(1, |_: u32, call: &mut Call<'_>| {
        let request = call.request().to_vec();
        let len = call.reply_mut().len();
        for (to, from) in call.reply_mut().iter_mut().zip(request.iter().cycle()) {
            *to = *from;
        }
        call.complete(len, Status::OK);
    });
    let mut caller = house.caller(ChannelGeometry {
        slots: 2,
        spares: 0,
        request_size: 4096,
        reply_size: 16384,
    });
    house.door.start().unwrap();
    let mut random = Random::new(7);
    let request: Vec<u8> = (0..4096).map(|_| random.next() as u8).collect();
    let (status, reply) = caller.call(&request);
    assert_eq!((status, reply), (Status::OK, request.repeat(4)));
}

#[test]
fn slots_are_used_last_in_first_out_and_a_stale_id_is_refused() {
    let house = House::new(1, echo);
    let mut caller = house.caller(SMALL);
    house.door.start().unwrap();
    let first = caller.client.reserve().unwrap();
    caller.client.release(first);
    let again = caller.client.reserve().unwrap();
    assert_eq!(first.index(), again.index());
    assert_ne!(first, again);
    let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        caller.client.release(first);
    }));
    assert!(refused.is_err());
}

#[test]
fn no_slot_is_given_twice_and_none_beyond_the_last() {
    let house = House::new(1, echo);
    let mut caller = house.caller(geometry(3));
    let slots = [(); 3].map(|()| caller.client.reserve().unwrap());
    assert_eq!(
        (caller.client.free_slots(), caller.client.reserve()),
        (0, None)
    );
    for slot in slots {
        caller.client.release(slot);
    }
    assert_eq!(caller.client.free_slots(), 3);
}

#[test]
fn calls_submitted_before_the_start_are_served_after_it() {
    let house = House::new(2, echo);
    let mut caller = house.caller(SMALL);
    for number in 0..10_u8 {
        caller.send(&[number]);
    }
    assert!(caller.client.backlog());
    house.door.start().unwrap();
    for _ in 0..10 {
        caller.next();
    }
    assert!(!caller.client.backlog());
}

#[test]
fn an_eager_sleeper_is_rung_for_every_reply_and_an_awake_client_is_not() {
    let house = House::new(1, echo);
    let mut caller = house.caller(SMALL);
    house.door.start().unwrap();
    for number in 0..200_u8 {
        caller.send(&[number]);
        if caller.client.prepare_wait(Patience::Eager) {
            assert!(caller.sleep(common::DEADLINE), "slept over a reply");
        }
        caller.client.woke();
        let (slot, _) = caller
            .client
            .next_completion()
            .expect("announced by the bell, or by prepare_wait");
        caller.client.release(slot);
    }
    // A late ring of the last call: a thread has rung before it sleeps.
    common::wait_until("the thread sleeps", || house.info().threads.idle == 1);
    caller.sleep(Duration::ZERO);
    for number in 0..60_u8 {
        caller.send(&[number]);
    }
    common::wait_until("all are served", || house.info().calls.served == 260);
    common::wait_until("the thread sleeps", || house.info().threads.idle == 1);
    assert!(!caller.sleep(Duration::ZERO), "rung while awake");
}

#[test]
fn another_thread_can_ring_the_clients_bell() {
    let house = House::new(1, echo);
    let mut caller = house.caller(SMALL);
    let bell = caller.client.bell();
    let ringer = std::thread::spawn(move || bell.expect("in-process").ring());
    assert!(caller.sleep(common::DEADLINE));
    ringer.join().unwrap();
    assert!(!caller.sleep(Duration::ZERO), "one ring is one edge");
}

#[test]
fn a_geometry_that_cannot_be_is_refused_with_its_field() {
    let wrong = |geometry: ChannelGeometry| geometry.check().unwrap_err();
    assert_eq!(wrong(geometry(0)), GeometryError::Slots { given: 0 });
    assert_eq!(wrong(geometry(4097)), GeometryError::Slots { given: 4097 });
    assert_eq!(
        wrong(ChannelGeometry {
            spares: 4097,
            ..SMALL
        }),
        GeometryError::Spares { given: 4097 }
    );
    assert_eq!(
        wrong(ChannelGeometry {
            request_size: 0,
            ..SMALL
        }),
        GeometryError::RequestSize { given: 0 }
    );
    assert_eq!(
        wrong(ChannelGeometry {
            request_size: 5000,
            ..SMALL
        }),
        GeometryError::RequestSize { given: 5000 }
    );
    assert_eq!(
        wrong(ChannelGeometry {
            reply_size: 100,
            ..SMALL
        }),
        GeometryError::ReplySize { given: 100 }
    );
    assert_eq!(SMALL.check(), Ok(()));
    assert_eq!(SMALL.memory_len() % 4096, 0);
}

#[test]
fn memory_that_does_not_fit_and_channels_after_the_start_are_refused() {
    let house = House::new(1, echo);
    let short = house
        .door
        .channel(SMALL, memory(SMALL.memory_len() - 4096))
        .unwrap_err();
    assert!(
        matches!(short, ChannelError::MemoryTooShort { needed, given } if needed == given + 4096)
    );
    house.door.start().unwrap();
    let late = house
        .door
        .channel(SMALL, memory(SMALL.memory_len()))
        .unwrap_err();
    assert!(matches!(late, ChannelError::Started));
    assert_eq!(
        house.door.start().unwrap_err().kind(),
        std::io::ErrorKind::AlreadyExists
    );
}

#[test]
fn a_door_without_threads_or_without_a_way_to_start_them_is_refused() {
    let none = Door::builder()
        .threads_max(0)
        .server_create(|_| Ok(()))
        .build()
        .unwrap_err();
    assert!(matches!(none, BuildError::ThreadsMax { given: 0 }));
    assert!(matches!(
        Door::builder().build().unwrap_err(),
        BuildError::ServerCreate
    ));
    assert!(
        CallError::NotAccepted.is_safe_to_resend() && !CallError::MayHaveRun.is_safe_to_resend()
    );
}
