//! Interim replies: pieces through one slot, both ways, and callers that leave in the middle.
#![cfg(not(loom))]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use common::{House, SMALL, geometry, wait_until};
use transom_doors::{Call, Gone, Kind, Status};

const PIECE: u32 = 7;

/// Sends the numbers from 0 up to the request's first byte, one piece each.
fn count_up(_: u32, call: &mut Call<'_>) {
    let pieces = call.request()[0];
    for number in 0..pieces {
        call.reply_mut()[0] = number;
        match call.interim(1, PIECE) {
            Ok(resumed) => assert_eq!(resumed.request_len, 0),
            Err(Gone) => return call.complete(0, Status(99)),
        }
    }
    call.reply_mut()[..3].copy_from_slice(b"end");
    call.complete(3, Status::OK);
}

#[test]
fn a_reply_larger_than_its_slot_comes_in_pieces_and_in_order() {
    let house = House::new(2, count_up);
    let mut caller = house.caller(geometry(1));
    house.door.start().unwrap();
    let sent = caller.send(&[200]);
    for number in 0..200 {
        let (slot, completion) = caller.next();
        assert_eq!(
            (slot, completion.kind, completion.len),
            (sent, Kind::Interim(PIECE), 1)
        );
        assert_eq!(caller.client.reply(slot), [number]);
        assert_eq!(caller.client.outstanding(), 1);
        caller.client.resume(slot, 0);
    }
    let (slot, completion) = caller.next();
    assert_eq!((slot, completion.kind), (sent, Kind::Final));
    assert_eq!(caller.client.reply(slot), b"end");
    caller.client.release(slot);
}

#[test]
fn a_request_larger_than_its_slot_goes_in_pieces() {
    let house = House::new(2, |_: u32, call: &mut Call<'_>| {
        let mut sum = 0_u64;
        while !call.request().is_empty() {
            sum += call
                .request()
                .iter()
                .map(|byte| u64::from(*byte))
                .sum::<u64>();
            let resumed = call.interim(0, PIECE).expect("the caller stays");
            assert_eq!(resumed.request_len, call.request().len());
        }
        call.reply_mut()[..8].copy_from_slice(&sum.to_le_bytes());
        call.complete(8, Status::OK);
    });
    let mut caller = house.caller(SMALL);
    house.door.start().unwrap();
    let mut sent_sum = 3;
    caller.send(&[1, 2]);
    for len in [4096, 1, 100, 4096, 7, 0] {
        let (slot, completion) = caller.next();
        assert_eq!(completion.kind, Kind::Interim(PIECE));
        caller.client.request_mut(slot)[..len].fill(5);
        caller.client.resume(slot, len);
        sent_sum += 5 * len as u64;
    }
    let (slot, completion) = caller.next();
    assert_eq!(completion.kind, Kind::Final);
    assert_eq!(caller.client.reply(slot), sent_sum.to_le_bytes());
}

#[test]
fn a_caller_that_leaves_is_told_to_the_server_and_the_slot_comes_back() {
    let gone = Arc::new(AtomicU32::new(0));
    let house = House::new(2, {
        let gone = Arc::clone(&gone);
        move |thread, call: &mut Call<'_>| {
            while call.interim(1, PIECE).is_ok() {}
            // It stays so.
            assert_eq!(call.interim(1, PIECE), Err(Gone));
            gone.fetch_add(1, Ordering::SeqCst);
            let _ = thread;
            call.complete(0, Status::OK);
        }
    });
    let mut caller = house.caller(geometry(2));
    house.door.start().unwrap();
    for round in 0..300 {
        caller.send(&[255]);
        for _ in 0..round % 3 {
            let (slot, _) = caller.next();
            caller.client.resume(slot, 0);
        }
        // While we have the piece, and (every other time) while the server works on the next one.
        let (slot, _) = caller.next();
        if round % 2 == 0 {
            caller.client.resume(slot, 0);
        }
        caller.client.abandon(slot);
        let deadline = std::time::Instant::now() + common::DEADLINE;
        while caller.client.outstanding() != 0 {
            caller
                .client
                .drain(|slot, _| panic!("{slot:?} was abandoned"));
            assert!(
                std::time::Instant::now() < deadline,
                "the server never heard of it"
            );
        }
        assert_eq!(caller.client.free_slots(), 2);
    }
    assert_eq!(gone.load(Ordering::SeqCst), 300);
}

#[test]
fn a_client_that_is_dropped_lets_its_streaming_servers_go() {
    let house = House::new(4, count_up);
    let mut caller = house.caller(SMALL);
    house.door.start().unwrap();
    for _ in 0..3 {
        caller.send(&[255]);
    }
    caller.next();
    drop(caller);
    house.door.revoke();
    wait_until("the threads end", || {
        house.ended.load(Ordering::SeqCst) == house.info().threads.started as usize
    });
}

#[test]
fn a_streaming_call_that_waits_for_its_caller_does_not_hold_up_others() {
    let house = House::new(8, count_up);
    let mut slow = house.caller(SMALL);
    let mut quick = house.caller(SMALL);
    house.door.start().unwrap();
    for _ in 0..5 {
        slow.send(&[1]);
    }
    let held: Vec<_> = (0..5).map(|_| slow.next().0).collect();
    for _ in 0..100 {
        assert_eq!(quick.call(&[0]).1, b"end");
    }
    for slot in held {
        slow.client.resume(slot, 0);
    }
    for _ in 0..5 {
        assert_eq!(slow.next().1.kind, Kind::Final);
    }
}

#[test]
fn a_stream_ends_in_order_when_the_door_is_revoked_meanwhile() {
    let house = House::new(1, count_up);
    let mut caller = house.caller(SMALL);
    house.door.start().unwrap();
    caller.send(&[20]);
    for number in 0..20 {
        let (slot, _) = caller.next();
        if number == 5 {
            house.door.revoke();
        }
        caller.client.resume(slot, 0);
    }
    assert_eq!(caller.next().1.kind, Kind::Final);
}
