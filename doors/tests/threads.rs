//! Which thread serves, when threads are started, and that a blocked handler blocks no other thread.
#![cfg(not(loom))]

mod common;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use common::{Gate, House, SMALL, geometry, wait_until};
use transom_doors::{Call, Door, SlotId, Status};

/// A handler that waits at the gate if the request says so, and replies with its thread's index.
fn gated(gate: &Arc<Gate>) -> impl Fn(u32, &mut Call<'_>) + Send + Sync + 'static {
    let gate = Arc::clone(gate);
    move |thread, call| {
        if call.request() == b"wait" {
            gate.pass();
        }
        call.reply_mut()[..4].copy_from_slice(&thread.to_le_bytes());
        call.complete(4, Status::OK);
    }
}

fn thread_of(reply: &[u8]) -> u32 {
    u32::from_le_bytes(reply.try_into().unwrap())
}

/// Teaches the door that its handlers are short.
fn make_fast(house: &House, caller: &mut common::Caller) {
    wait_until_fast(house, || drop(caller.call(b"")));
}

fn wait_until_fast(house: &House, mut call: impl FnMut()) {
    let deadline = std::time::Instant::now() + common::DEADLINE;
    while house.info().calls.average_ns > 2_000 {
        assert!(
            std::time::Instant::now() < deadline,
            "the door never learns that it is fast"
        );
        call();
    }
}

#[test]
fn calls_one_after_the_other_are_served_by_the_same_warm_thread() {
    let house = House::new(8, gated(&Arc::default()));
    let mut caller = house.caller(SMALL);
    house.door.start().unwrap();
    caller.call(b"");
    wait_until("the spare is idle too", || house.info().threads.idle == 2);
    let mut elsewhere = 0;
    for _ in 0..2_000 {
        let (_, reply) = caller.call(b"");
        elsewhere += u32::from(thread_of(&reply) != 0);
    }
    // On a loaded machine a thread that has lost its CPU looks like one that blocks, and the spare
    // takes its call. If threads took turns, there would be a thousand.
    assert!(
        elsewhere < 300,
        "{elsewhere} calls were served by a cold thread"
    );
    assert!(house.info().threads.started <= 4, "{:?}", house.info());
}

/// Two calls are there when the thread looks, so that it has more to do after the first reply; and then it
/// does not come back.
fn reply_before_a_handler_that_blocks(see: impl Fn(&mut common::Caller) -> SlotId) {
    let gate = Arc::<Gate>::default();
    let house = House::new(1, gated(&gate));
    let mut caller = house.caller(SMALL);
    house.door.start().unwrap();
    make_fast(&house, &mut caller);
    // Every call so far was in slot 0, so slot 1 has its turn.
    let blocks = caller.stage(b"wait");
    let returns = caller.stage(b"");
    assert_eq!((blocks.index(), returns.index()), (0, 1));
    caller.client.flush().unwrap();
    assert_eq!(see(&mut caller), returns);
    wait_until("the other call is in its handler", || gate.waiting() == 1);
    gate.open();
    assert_eq!(caller.next().0, blocks);
}

#[test]
fn a_caller_that_goes_to_sleep_sees_a_reply_whose_thread_is_in_a_handler_that_blocks() {
    reply_before_a_handler_that_blocks(|caller| caller.next().0);
}

#[test]
fn a_caller_that_never_sleeps_sees_it_too() {
    reply_before_a_handler_that_blocks(|caller| {
        let deadline = std::time::Instant::now() + common::DEADLINE;
        loop {
            if let Some((slot, _)) = caller.client.next_completion() {
                return slot;
            }
            assert!(std::time::Instant::now() < deadline, "no reply");
            std::thread::yield_now();
        }
    });
}

#[test]
fn threads_are_started_only_at_a_new_high_water_and_one_spare_is_kept() {
    let gate = Arc::<Gate>::default();
    let house = House::new(32, gated(&gate));
    let mut caller = house.caller(SMALL);
    house.door.start().unwrap();
    for blocked in 1..=5 {
        caller.send(b"wait");
        wait_until("the call runs", || gate.waiting() == blocked);
        wait_until("the spare is there", || house.info().threads.idle == 1);
        assert_eq!(house.info().threads.started, blocked as u32 + 1);
    }
    gate.open();
    for _ in 0..5 {
        let (slot, _) = caller.next();
        caller.client.release(slot);
    }
    wait_until("all are idle", || house.info().threads.idle == 6);
    // The same peak again needs no new thread.
    for _ in 0..200 {
        let slots = [(); 5].map(|()| caller.stage(b""));
        caller.client.flush().unwrap();
        for _ in slots {
            let (slot, _) = caller.next();
            caller.client.release(slot);
        }
    }
    let info = house.info();
    assert_eq!((info.threads.started, info.threads.high_water), (6, 5));
}

#[test]
fn there_are_never_more_threads_than_the_maximum_and_the_calls_wait() {
    let gate = Arc::<Gate>::default();
    let house = House::new(3, gated(&gate));
    let mut caller = house.caller(SMALL);
    house.door.start().unwrap();
    for _ in 0..10 {
        caller.send(b"wait");
    }
    wait_until("three calls run", || gate.waiting() == 3);
    assert!(caller.client.backlog());
    assert!(
        !caller.client.nudge(),
        "nothing can be done when every thread is busy"
    );
    assert_eq!((house.info().threads.started, gate.waiting()), (3, 3));
    gate.open();
    for _ in 0..10 {
        let (slot, completion) = caller.next();
        assert_eq!(completion.status, Status::OK);
        caller.client.release(slot);
    }
    assert_eq!(house.info().threads.started, 3);
}

#[test]
fn a_burst_gets_as_many_threads_as_it_has_blocking_calls() {
    let gate = Arc::<Gate>::default();
    let house = House::new(32, gated(&gate));
    let mut caller = house.caller(SMALL);
    house.door.start().unwrap();
    for _ in 0..20 {
        caller.stage(b"wait");
    }
    caller.client.flush().unwrap();
    // No client nudges: a door that is not known to be fast grows by itself.
    wait_until("all twenty run at once", || gate.waiting() == 20);
    assert!(house.info().threads.started <= 21);
    gate.open();
}

#[test]
fn a_fast_door_stays_small_under_many_calls() {
    let house = House::new(64, gated(&Arc::default()));
    let mut caller = house.caller(SMALL);
    house.door.start().unwrap();
    make_fast(&house, &mut caller);
    let before = house.info().threads.started;
    for _ in 0..2_000 {
        for _ in 0..64 {
            caller.stage(b"");
        }
        caller.client.flush().unwrap();
        let mut seen = 0;
        while seen < 64 {
            let (slot, _) = caller.next();
            caller.client.release(slot);
            seen += 1;
        }
    }
    // A busy machine may interrupt a handler and so make the door look slow for a while.
    assert!(
        house.info().threads.started <= before + 8,
        "{:?}",
        house.info()
    );
}

#[test]
fn a_handler_that_blocks_on_a_fast_door_does_not_block_the_others() {
    let gate = Arc::<Gate>::default();
    let house = House::new(4, gated(&gate));
    let mut caller = house.caller(SMALL);
    house.door.start().unwrap();
    make_fast(&house, &mut caller);
    let stuck = caller.send(b"wait");
    wait_until("it blocks", || gate.waiting() == 1);
    for _ in 0..100 {
        let sent = caller.send(b"");
        let (slot, _) = caller.next();
        assert_eq!(slot, sent);
        caller.client.release(slot);
    }
    gate.open();
    assert_eq!(caller.next().0, stuck);
}

#[test]
fn a_channel_full_of_waiting_calls_does_not_starve_another() {
    let gate = Arc::<Gate>::default();
    let served = Arc::new(AtomicU32::new(0));
    let house = House::new(1, {
        let (gate, served) = (Arc::clone(&gate), Arc::clone(&served));
        move |_: u32, call: &mut Call<'_>| {
            gate.pass();
            let order = served.fetch_add(1, Ordering::SeqCst);
            call.reply_mut()[..4].copy_from_slice(&order.to_le_bytes());
            call.complete(4, Status::OK);
        }
    });
    let mut busy = house.caller(SMALL);
    let mut quiet = house.caller(SMALL);
    for _ in 0..64 {
        busy.stage(b"");
    }
    busy.client.flush().unwrap();
    house.door.start().unwrap();
    wait_until("the first call runs", || gate.waiting() == 1);
    quiet.send(b"");
    gate.open();
    let (slot, _) = quiet.next();
    assert!(
        thread_of(quiet.client.reply(slot)) <= 2,
        "served out of turn"
    );
}

#[test]
fn a_slot_does_not_wait_behind_neighbours_that_are_used_again_and_again() {
    let gate = Arc::<Gate>::default();
    let house = House::new(1, gated(&gate));
    let mut caller = house.caller(geometry(128));
    // The lowest slots come back at once; the call in slot 100 must have its turn.
    let slots: Vec<_> = (0..101).map(|_| caller.client.reserve().unwrap()).collect();
    let patient = *slots.last().unwrap();
    caller.client.submit(patient, 0, 0);
    for slot in &slots[..100] {
        caller.client.release(*slot);
    }
    caller.stage(b"wait");
    caller.client.flush().unwrap();
    house.door.start().unwrap();
    wait_until("the first call runs", || gate.waiting() == 1);
    gate.open();
    for _ in 0..1_000 {
        caller.send(b"");
        let (slot, _) = caller.next();
        if slot == patient {
            return;
        }
        caller.client.release(slot);
    }
    panic!("the patient call was passed over a thousand times");
}

#[test]
fn a_failed_start_is_counted_and_tried_again() {
    let refuse = Arc::new(AtomicBool::new(false));
    let gate = Arc::<Gate>::default();
    let house = House::with_starts(4, gated(&gate), {
        let refuse = Arc::clone(&refuse);
        move |_| {
            if refuse.load(Ordering::SeqCst) {
                Err(io::Error::other("no more threads"))
            } else {
                Ok(())
            }
        }
    });
    let mut caller = house.caller(SMALL);
    house.door.start().unwrap();
    refuse.store(true, Ordering::SeqCst);
    caller.send(b"wait");
    wait_until("the only thread is busy", || gate.waiting() == 1);
    caller.send(b"");
    wait_until("the failure is told", || {
        house.info().threads.starts_failed > 0
    });
    assert_eq!(house.info().threads.started, 1);
    refuse.store(false, Ordering::SeqCst);
    let (_, completion) = caller.next();
    assert_eq!(completion.status, Status::OK);
    assert!(house.info().threads.started >= 2);
    gate.open();
}

#[test]
fn a_start_that_panics_counts_as_failed_and_the_call_is_served() {
    let house = House::with_starts(4, gated(&Arc::default()), |thread| {
        assert_eq!(thread, 0, "this panic is part of the test");
        Ok(())
    });
    let mut caller = house.caller(SMALL);
    house.door.start().unwrap();
    assert_eq!(caller.call(b"").0, Status::OK);
    assert!(house.info().threads.starts_failed > 0);
}

#[test]
fn a_door_whose_first_thread_cannot_be_started_says_so_and_can_be_started_again() {
    let refuse = Arc::new(AtomicBool::new(true));
    let house = House::with_starts(1, gated(&Arc::default()), {
        let refuse = Arc::clone(&refuse);
        move |_| {
            if refuse.load(Ordering::SeqCst) {
                Err(io::Error::other("not yet"))
            } else {
                Ok(())
            }
        }
    });
    let mut caller = house.caller(SMALL);
    assert_eq!(house.door.start().unwrap_err().to_string(), "not yet");
    refuse.store(false, Ordering::SeqCst);
    house.door.start().unwrap();
    assert_eq!(caller.call(b"").0, Status::OK);
}

#[test]
fn a_pool_has_a_low_water_and_may_be_fixed() {
    for (fixed, expected) in [(false, 3), (true, 5)] {
        let builder = Door::builder()
            .threads_max(5)
            .threads_min(3)
            .handler(|_: u32, call: &mut Call<'_>| call.complete(0, Status::OK));
        let door = if fixed {
            builder.no_depletion_callback()
        } else {
            builder
        };
        let door = door.build().unwrap();
        door.start().unwrap();
        wait_until("the first threads are idle", || {
            door.info().threads.idle == expected
        });
        assert_eq!(door.info().threads.started, expected);
        door.revoke();
    }
    let wrong = Door::builder()
        .threads_max(2)
        .threads_min(3)
        .handler(|_: u32, call: &mut Call<'_>| call.complete(0, Status::OK));
    assert!(matches!(
        wrong.build(),
        Err(transom_doors::BuildError::ThreadsMin { min: 3, max: 2 })
    ));
}

#[test]
fn a_thread_can_bind_itself_and_is_unbound_by_a_revoke() {
    let handler = |thread: u32, call: &mut Call<'_>| call.complete(0, Status(100 + thread));
    let door = Door::builder()
        .threads_max(2)
        .handler(handler)
        .build()
        .unwrap();
    assert!(door.bind().is_err(), "not before it has started");
    door.start().unwrap();
    let volunteer = {
        let door = door.clone();
        let thread = door.bind().unwrap();
        std::thread::spawn(move || door.serve(thread, &handler))
    };
    wait_until("both are idle", || door.info().threads.idle == 2);
    assert!(door.bind().is_err(), "there is room for two");
    door.revoke();
    volunteer.join().unwrap();
}
