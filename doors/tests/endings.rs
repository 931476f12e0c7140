//! Calls that end in other ways: withdrawn, abandoned, revoked, panicked, answered in an emergency.
#![cfg(not(loom))]

mod common;

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use common::{Gate, House, SMALL, geometry, hash, wait_until};
use transom_doors::{Call, CallError, EmergencyReply, Status, Withdraw};

fn gated(gate: &Arc<Gate>) -> impl Fn(u32, &mut Call<'_>) + Send + Sync + 'static {
    let gate = Arc::clone(gate);
    move |_, call| {
        if call.request() == b"wait" {
            gate.pass();
        }
        let digest = hash(call.request());
        call.reply_mut()[..8].copy_from_slice(&digest);
        call.complete(8, Status::OK);
    }
}

#[test]
fn a_call_that_nobody_claimed_is_withdrawn_and_can_be_sent_again() {
    let gate = Arc::<Gate>::default();
    let house = House::new(1, gated(&gate));
    let mut caller = house.caller(SMALL);
    house.door.start().unwrap();
    let running = caller.send(b"wait");
    wait_until("it runs", || gate.waiting() == 1);
    let waiting = caller.send(b"first");
    assert_eq!(caller.client.withdraw(running), Withdraw::Claimed);
    assert_eq!(caller.client.withdraw(waiting), Withdraw::Withdrawn);
    assert_eq!(caller.client.outstanding(), 1);
    let staged = caller.stage(b"never");
    assert_eq!(caller.client.withdraw(staged), Withdraw::Withdrawn);
    caller.client.release(staged);

    caller.client.request_mut(waiting)[..6].copy_from_slice(b"second");
    caller.client.submit(waiting, 6, 0);
    caller.client.flush().unwrap();
    gate.open();
    let (mut replies, mut seen) = (Vec::new(), 0);
    while seen < 2 {
        let (slot, _) = caller.next();
        replies.push((slot, caller.client.reply(slot).to_vec()));
        seen += 1;
    }
    assert!(replies.contains(&(waiting, hash(b"second").to_vec())));
    assert_eq!(house.info().calls.served, 2);
}

#[test]
fn a_withdraw_that_races_a_claim_has_one_winner() {
    let served = Arc::new(AtomicU32::new(0));
    let house = House::new(2, {
        let served = Arc::clone(&served);
        move |_: u32, call: &mut Call<'_>| {
            served.fetch_add(1, Ordering::SeqCst);
            call.complete(0, Status::OK);
        }
    });
    let mut caller = house.caller(SMALL);
    house.door.start().unwrap();
    let (mut claimed, mut withdrawn) = (0, 0);
    for round in 0..20_000 {
        let slot = caller.send(b"");
        for _ in 0..round % 40 {
            std::hint::spin_loop();
        }
        match caller.client.withdraw(slot) {
            Withdraw::Withdrawn => withdrawn += 1,
            Withdraw::Claimed => {
                claimed += 1;
                assert_eq!(caller.next().0, slot);
            }
        }
        caller.client.release(slot);
    }
    assert_eq!(claimed + withdrawn, 20_000);
    assert_eq!(served.load(Ordering::SeqCst), claimed);
}

#[test]
fn an_abandoned_call_keeps_its_slot_until_its_late_reply_which_is_not_told() {
    let gate = Arc::<Gate>::default();
    let house = House::new(2, gated(&gate));
    let mut caller = house.caller(geometry(2));
    house.door.start().unwrap();
    let given_up = caller.send(b"wait");
    wait_until("it runs", || gate.waiting() == 1);
    caller.client.abandon(given_up);
    assert_eq!(
        (caller.client.free_slots(), caller.client.outstanding()),
        (1, 1),
        "in quarantine"
    );
    for _ in 0..100 {
        assert_eq!(caller.call(b"other").1, hash(b"other"));
    }
    gate.open();
    wait_until("the late reply", || house.info().calls.served == 101);
    // The reply's bit follows its count at once; drain until it has been seen.
    let deadline = std::time::Instant::now() + common::DEADLINE;
    while caller.client.outstanding() != 0 {
        caller
            .client
            .drain(|slot, _| panic!("{slot:?} was abandoned"));
        assert!(std::time::Instant::now() < deadline);
    }
    assert_eq!(caller.client.free_slots(), 2);
}

/// Answers at once and goes on at a gate; counts in `sound` if it sees nothing of its slot any more.
fn early(gate: &Arc<Gate>, sound: &Arc<AtomicU32>) -> impl Fn(u32, &mut Call<'_>) + use<> {
    let (gate, sound) = (Arc::clone(gate), Arc::clone(sound));
    move |_, call| {
        let (digest, goes_on) = (hash(call.request()), call.request() == b"wait");
        call.reply_mut()[..8].copy_from_slice(&digest);
        if !goes_on {
            return call.complete(8, Status::OK);
        }
        let before = (call.slot(), call.generation());
        assert!(!call.is_completed() && !call.is_abandoned());
        call.complete_early(8, Status::OK);
        gate.pass();
        let is_over = call.is_completed() && call.is_abandoned();
        let has_nothing = call.request().is_empty() && call.reply_mut().is_empty();
        if is_over && has_nothing && before == (call.slot(), call.generation()) {
            sound.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[test]
fn the_slot_of_a_call_that_is_answered_early_is_free_while_its_handler_goes_on() {
    let (gate, sound) = (Arc::<Gate>::default(), Arc::<AtomicU32>::default());
    let house = House::new(2, early(&gate, &sound));
    let mut caller = house.caller(geometry(1));
    house.door.start().unwrap();
    let first = caller.send(b"wait");
    let (slot, completion) = caller.next();
    assert_eq!((slot, completion.status), (first, Status::OK));
    wait_until("it goes on", || gate.waiting() == 1);
    assert_eq!(caller.client.reply(slot), hash(b"wait"));
    let left = (caller.client.outstanding(), caller.client.free_slots());
    assert_eq!(left, (0, 0), "until the reply is given back");
    caller.client.release(slot);
    for _ in 0..100 {
        assert_eq!(caller.call(b"other").1, hash(b"other"));
    }
    // One that waits when the first handler ends is not taken for that.
    let other = caller.send(b"wait");
    assert_eq!(caller.next().0, other);
    wait_until("both go on", || gate.waiting() == 2);
    gate.open();
    wait_until("both have ended", || sound.load(Ordering::SeqCst) == 2);
    assert_eq!(caller.client.reply(other), hash(b"wait"));
    caller.client.release(other);
    assert_eq!(caller.call(b"other").1, hash(b"other"));
    assert_eq!(house.info().calls.served, 103);
}

/// The one thread is with a handler that goes on: the next call waits for its end, and is taken then.
#[test]
fn a_call_behind_one_that_is_answered_early_waits_for_the_thread() {
    let (gate, sound) = (Arc::<Gate>::default(), Arc::<AtomicU32>::default());
    let house = House::new(1, early(&gate, &sound));
    let mut caller = house.caller(SMALL);
    house.door.start().unwrap();
    let first = caller.send(b"wait");
    assert_eq!(caller.next().0, first);
    wait_until("it goes on", || gate.waiting() == 1);
    let second = caller.send(b"other");
    assert_eq!(caller.client.withdraw(second), Withdraw::Withdrawn);
    caller.client.submit(second, 5, 0);
    caller.client.flush().unwrap();
    gate.open();
    assert_eq!(caller.next().0, second);
    assert_eq!(caller.client.reply(second), hash(b"other"));
    assert_eq!(sound.load(Ordering::SeqCst), 1);
}

#[test]
fn a_caller_that_has_its_early_answer_may_leave() {
    let (gate, sound) = (Arc::<Gate>::default(), Arc::<AtomicU32>::default());
    let house = House::new(2, early(&gate, &sound));
    let (mut caller, mut another) = (house.caller(geometry(2)), house.caller(geometry(1)));
    house.door.start().unwrap();
    for _ in 0..2 {
        caller.send(b"wait");
    }
    caller.next();
    caller.next();
    wait_until("both go on", || gate.waiting() == 2);
    drop(caller);
    another.send(b"other");
    gate.open();
    another.next();
    wait_until("both have ended", || sound.load(Ordering::SeqCst) == 2);
}

#[test]
fn an_abandoned_call_that_nobody_claimed_frees_its_slot_at_once() {
    let gate = Arc::<Gate>::default();
    let house = House::new(1, gated(&gate));
    let mut caller = house.caller(geometry(4));
    house.door.start().unwrap();
    caller.send(b"wait");
    wait_until("it runs", || gate.waiting() == 1);
    let waiting = caller.send(b"");
    caller.client.abandon(waiting);
    let staged = caller.stage(b"");
    caller.client.abandon(staged);
    assert_eq!(
        (caller.client.free_slots(), caller.client.outstanding()),
        (3, 1)
    );
    gate.open();
    caller.next();
    assert_eq!(house.info().calls.served, 1);
}

#[test]
fn calls_in_progress_and_accepted_calls_complete_after_a_revoke_and_new_ones_are_refused() {
    let gate = Arc::<Gate>::default();
    let house = House::new(2, gated(&gate));
    let mut caller = house.caller(SMALL);
    house.door.start().unwrap();
    for _ in 0..6 {
        caller.send(b"wait");
    }
    wait_until("two calls run", || gate.waiting() == 2);
    house.door.revoke();
    let (refused, error) = caller.try_send(b"late").unwrap_err();
    assert_eq!(error, CallError::NotAccepted);
    assert_eq!(caller.client.withdraw(refused), Withdraw::Withdrawn);
    caller.client.release(refused);
    gate.open();
    for _ in 0..6 {
        let (slot, completion) = caller.next();
        assert_eq!(completion.status, Status::OK);
        caller.client.release(slot);
    }
    wait_until("the threads end", || {
        house.ended.load(Ordering::SeqCst) == house.info().threads.started as usize
    });
    assert_eq!(
        (caller.client.outstanding(), caller.client.free_slots()),
        (0, 64)
    );
    assert!(house.info().revoked);
}

#[test]
fn no_call_is_lost_when_a_revoke_comes_in_the_middle_of_submits() {
    for round in 0..200 {
        let house = House::new(2, gated(&Arc::default()));
        let mut caller = house.caller(SMALL);
        house.door.start().unwrap();
        let revoker = std::thread::spawn({
            let door = house.door.clone();
            move || {
                for _ in 0..round * 20 {
                    std::hint::spin_loop();
                }
                door.revoke();
            }
        });
        let (mut accepted, mut refused) = (0_u64, 0);
        for number in 0..60_u8 {
            match caller.try_send(&[number]) {
                Ok(_) => accepted += 1,
                Err((slot, _)) => {
                    refused += 1;
                    caller.client.release(slot);
                }
            }
        }
        for _ in 0..accepted {
            caller.next();
        }
        revoker.join().unwrap();
        wait_until("the threads end", || {
            house.ended.load(Ordering::SeqCst) == house.info().threads.started as usize
        });
        assert_eq!(
            (accepted + refused, house.info().calls.served),
            (60, accepted)
        );
    }
}

#[test]
fn a_handler_that_panics_or_forgets_its_call_is_a_fault_and_the_channel_lives() {
    let house = House::new(2, |_: u32, call: &mut Call<'_>| match call.request() {
        b"panic" => panic!("this panic is part of the test"),
        b"forget" => {}
        b"too much" => call.complete(4097, Status::OK),
        _ => call.complete(0, Status::OK),
    });
    let mut caller = house.caller(SMALL);
    house.door.start().unwrap();
    for _ in 0..20 {
        for fault in [&b"panic"[..], b"forget", b"too much"] {
            assert_eq!(caller.call(fault), (Status::FAULT, vec![]));
        }
        assert_eq!(caller.call(b"fine").0, Status::OK);
    }
    let info = house.info();
    assert_eq!((info.calls.served, info.calls.faulted), (80, 60));
    assert!(info.threads.started <= 2);
}

#[test]
fn a_panic_after_completion_does_not_change_the_reply() {
    let house = House::new(1, |_: u32, call: &mut Call<'_>| {
        call.reply_mut()[..2].copy_from_slice(b"ok");
        call.complete(2, Status::OK);
        assert!(call.is_completed() && call.request().is_empty() && call.reply_mut().is_empty());
        panic!("this panic is part of the test");
    });
    let mut caller = house.caller(SMALL);
    house.door.start().unwrap();
    for _ in 0..10 {
        assert_eq!(caller.call(b"x"), (Status::OK, b"ok".to_vec()));
    }
    assert_eq!(house.info().calls.faulted, 0);
}

thread_local! {
    static CALL: Cell<Option<EmergencyReply>> = const { Cell::new(None) };
}

const EXHAUSTED: Status = Status(16);

/// What a platform does when a stack overflows: reply from the signal stack, park for ever.
extern "C" fn answer_and_park(_: libc::c_int) {
    let reply = CALL.get().expect("set by the handler");
    // SAFETY: the handler's frame is below this one, on this thread; control never returns to it.
    unsafe { reply.complete(EXHAUSTED) };
    loop {
        // SAFETY: no arguments, no memory.
        unsafe { libc::pause() };
    }
}

/// Serves on; at `park` it raises a signal on an alternate stack, whose handler never returns.
fn parking(_: u32, call: &mut Call<'_>) {
    if call.request() == b"park" {
        CALL.set(Some(call.emergency()));
        let stack = Box::leak(vec![0_u8; 64 << 10].into_boxed_slice());
        let alternate = libc::stack_t {
            ss_sp: stack.as_mut_ptr().cast(),
            ss_flags: 0,
            ss_size: stack.len(),
        };
        // SAFETY: the stack is leaked, so it outlives the thread; the action is a zeroed struct
        // with its handler set, as sigaction(2) allows; SIGUSR2 is used by nothing else here.
        unsafe {
            assert_eq!(
                libc::sigaltstack(&raw const alternate, std::ptr::null_mut()),
                0
            );
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = answer_and_park as *const () as usize;
            action.sa_flags = libc::SA_ONSTACK;
            assert_eq!(
                libc::sigaction(libc::SIGUSR2, &raw const action, std::ptr::null_mut()),
                0
            );
            libc::raise(libc::SIGUSR2);
        }
        unreachable!("the thread is parked");
    }
    call.complete(0, Status::OK);
}

#[test]
fn an_emergency_reply_from_a_signal_stack_answers_and_the_door_serves_on_without_the_thread() {
    let house = House::new(4, parking);
    let mut caller = house.caller(SMALL);
    house.door.start().unwrap();
    for parked in 1..=3 {
        assert_eq!(caller.call(b"park"), (EXHAUSTED, vec![]));
        for _ in 0..200 {
            assert_eq!(caller.call(b"").0, Status::OK);
        }
        wait_until("it is counted", || house.info().threads.parked == parked);
    }
    assert_eq!(house.info().threads.started, 4);
    assert_eq!(house.info().calls.served, 603);
}

#[test]
fn calls_that_counted_on_a_thread_that_parks_are_served_by_another() {
    let house = House::new(3, parking);
    let mut caller = house.caller(SMALL);
    house.door.start().unwrap();
    for _ in 0..2 {
        caller.stage(b"park");
        for _ in 0..30 {
            caller.stage(b"");
        }
        caller.client.flush().unwrap();
        let mut parked = 0;
        for _ in 0..31 {
            let (slot, completion) = caller.next();
            parked += u32::from(completion.status == EXHAUSTED);
            caller.client.release(slot);
        }
        assert_eq!(parked, 1);
    }
}

#[test]
fn an_emergency_after_completion_does_not_change_the_reply() {
    let gate = Arc::<Gate>::default();
    let held = Arc::clone(&gate);
    let house = House::new(4, move |_: u32, call: &mut Call<'_>| {
        let emergency = call.emergency();
        let late = call.request() == b"late";
        call.reply_mut()[..2].copy_from_slice(b"ok");
        call.complete(2, Status::OK);
        if !late {
            return;
        }
        held.pass();
        // SAFETY: on the handler's thread, whose frame stays: the loop below never ends.
        assert!(!unsafe { emergency.complete(EXHAUSTED) });
        loop {
            std::thread::park();
        }
    });
    let mut caller = house.caller(geometry(1));
    house.door.start().unwrap();
    assert_eq!(caller.call(b"late"), (Status::OK, b"ok".to_vec()));
    wait_until("it is past its reply", || gate.waiting() == 1);
    // The same slot is used again, by other threads, before the emergency comes.
    for _ in 0..3 {
        assert_eq!(caller.call(b""), (Status::OK, b"ok".to_vec()));
    }
    gate.open();
    wait_until("it parks", || house.info().threads.parked == 1);
    assert_eq!(caller.call(b""), (Status::OK, b"ok".to_vec()));
    caller
        .client
        .drain(|slot, _| panic!("{slot:?} was told twice"));
}
