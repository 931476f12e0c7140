//! Everything at once, at random, against a model of what the caller must see. A failure prints the
//! seed; `DOORS_SEED` repeats its choices (not the threads' timing).
#![cfg(not(loom))]

mod common;

use std::collections::HashMap;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::{House, Random, SMALL, hash, lend_room_and_lose};
use transom_doors::{Call, ChannelGeometry, Gone, Kind, SlotId, Status, Withdraw};

const PLAIN: u8 = 0;
const STREAM: u8 = 1;
const PANIC: u8 = 2;
const SLOW: u8 = 3;
const LOSE: u8 = 4;

/// Calls that may still be lost, and how often a lost one's room was found to be written by others.
static MAY_BE_LOST: AtomicI32 = AtomicI32::new(0);
static CHANGES: AtomicU32 = AtomicU32::new(0);

/// The first byte says what to do; the reply is the hash of the request, or of each piece.
fn handler(_: u32, call: &mut Call<'_>) {
    let digest = hash(call.request());
    match call.request()[0] {
        STREAM => loop {
            let digest = hash(call.request());
            call.reply_mut()[..8].copy_from_slice(&digest);
            match call.interim(8, u32::from(STREAM)) {
                Ok(resumed) if resumed.request_len == 0 => return call.complete(0, Status::OK),
                Ok(_) => {}
                Err(Gone) => return call.complete(0, Status::FAULT),
            }
        },
        LOSE if MAY_BE_LOST.fetch_sub(1, Ordering::SeqCst) > 0 => {
            lend_room_and_lose(call, Status(LOSE.into()), &CHANGES)
        }
        // Without the hook's output: thousands of these are wanted.
        PANIC => std::panic::resume_unwind(Box::new("part of the test")),
        SLOW => {
            let until = Instant::now() + Duration::from_micros(200);
            while Instant::now() < until {
                std::thread::yield_now();
            }
        }
        _ => {}
    }
    call.reply_mut()[..8].copy_from_slice(&digest);
    call.complete(8, Status::OK);
}

/// What the model knows of a slot that the caller holds.
#[derive(Clone, Debug)]
enum Held {
    /// Submitted, with the request's bytes.
    Submitted(Vec<u8>),
    /// An interim reply was told.
    Interim,
}

struct Model {
    random: Random,
    held: HashMap<SlotId, Held>,
    submitted: u64,
    withdrawn: u64,
    finished: u64,
    abandoned: u64,
    lost: u64,
}

impl Model {
    fn request(&mut self) -> Vec<u8> {
        let often = [PLAIN, PLAIN, PLAIN, PLAIN, STREAM, STREAM, PANIC, SLOW];
        let kind = match self.random.below(200) {
            0 => LOSE,
            n => often[n % 8],
        };
        let mut request = vec![kind];
        let len = self.random.below(64);
        request.extend((0..len).map(|_| self.random.next() as u8));
        request
    }

    fn pick(&mut self) -> Option<SlotId> {
        let mut slots: Vec<_> = self.held.keys().copied().collect();
        // A map's order is not repeatable.
        slots.sort_by_key(|slot| slot.index());
        (!slots.is_empty()).then(|| slots[self.random.below(slots.len())])
    }
}

fn run(seed: u64, slots: u32, threads: u32, steps: u32) {
    println!("DOORS_SEED={seed} slots={slots} threads={threads}");
    // Those that are lost take their threads with them, and one must be left.
    let may_be_lost = (threads - 1).min(8);
    MAY_BE_LOST.store(may_be_lost as i32, Ordering::SeqCst);
    let house = House::new(threads, handler);
    let mut caller = house.caller(ChannelGeometry {
        slots,
        spares: may_be_lost,
        ..SMALL
    });
    house.door.start().unwrap();
    let mut model = Model {
        random: Random::new(seed),
        held: HashMap::new(),
        submitted: 0,
        withdrawn: 0,
        finished: 0,
        abandoned: 0,
        lost: 0,
    };
    for _ in 0..steps {
        match model.random.below(20) {
            0..=9 => {
                for _ in 0..model.random.below(slots as usize) {
                    if caller.client.free_slots() == 0 {
                        break;
                    }
                    let request = model.request();
                    let slot = caller.stage(&request);
                    assert!(model.held.insert(slot, Held::Submitted(request)).is_none());
                    model.submitted += 1;
                }
                if model.random.below(4) != 0 {
                    caller.client.flush().unwrap();
                }
            }
            10..=13 => step_replies(&mut caller, &mut model),
            14 => {
                let Some(slot) = model.pick() else { continue };
                if !matches!(model.held[&slot], Held::Submitted(_)) {
                    continue;
                }
                if caller.client.withdraw(slot) == Withdraw::Withdrawn {
                    model.held.remove(&slot);
                    model.withdrawn += 1;
                    caller.client.release(slot);
                }
            }
            15 => {
                let Some(slot) = model.pick() else { continue };
                model.held.remove(&slot);
                model.abandoned += 1;
                caller.client.abandon(slot);
            }
            16 => {
                caller.client.nudge();
            }
            17 => {
                caller.client.flush().unwrap();
                // Nothing held: nothing will ring.
                if caller.client.outstanding() > 0
                    && caller.client.prepare_wait(transom_doors::Patience::Lazy)
                {
                    caller.sleep(Duration::from_micros(50));
                    caller.client.woke();
                }
            }
            _ => std::thread::yield_now(),
        }
        let info = house.info();
        assert!(info.threads.started <= threads);
        assert!(
            caller.client.outstanding()
                >= model
                    .held
                    .values()
                    .filter(|held| matches!(held, Held::Interim))
                    .count()
        );
    }
    caller.client.flush().unwrap();
    let deadline = Instant::now() + common::DEADLINE;
    while caller.client.outstanding() > 0 {
        assert!(
            Instant::now() < deadline,
            "stalled: {:?}, {} outstanding",
            house.info(),
            caller.client.outstanding()
        );
        step_replies(&mut caller, &mut model);
        if caller.client.prepare_wait(transom_doors::Patience::Eager) {
            if !caller.sleep(Duration::from_millis(1)) {
                caller.client.nudge();
            }
            caller.client.woke();
        }
    }
    assert!(model.held.is_empty(), "never told: {:?}", model.held);
    assert_eq!(caller.client.free_slots(), slots as usize);
    assert_eq!(
        model.submitted,
        model.finished + model.withdrawn + model.abandoned + model.lost
    );
    // An abandoned call may have been taken back before a thread had it; every other one ran once.
    let (served, told) = (house.info().calls.served, model.finished + model.lost);
    assert!(
        (told..=told + model.abandoned).contains(&served),
        "{served} of {told}"
    );
    let lost = caller.client.lost_slots();
    assert_eq!(lost, house.info().threads.parked);
    assert!(lost <= may_be_lost && u64::from(lost) >= model.lost);
    assert_eq!(CHANGES.load(Ordering::SeqCst), 0);
}

/// Drains, checks each reply against the model, and answers pieces.
fn step_replies(caller: &mut common::Caller, model: &mut Model) {
    while let Some((slot, completion)) = caller.client.next_completion() {
        let held = model
            .held
            .remove(&slot)
            .unwrap_or_else(|| panic!("{slot:?} is not held"));
        let Held::Submitted(request) = held else {
            panic!("{slot:?} was told twice: {held:?}")
        };
        let reply = caller.client.reply(slot);
        match completion.kind {
            Kind::Interim(kind) => {
                assert_eq!(kind, u32::from(STREAM));
                assert_eq!(reply, hash(&request));
                model.held.insert(slot, Held::Interim);
                match model.random.below(4) {
                    0 => {
                        model.held.remove(&slot);
                        model.abandoned += 1;
                        caller.client.abandon(slot);
                    }
                    1 => {
                        let mut piece = model.request();
                        piece[0] = STREAM;
                        caller.client.request_mut(slot)[..piece.len()].copy_from_slice(&piece);
                        caller.client.resume(slot, piece.len());
                        model.held.insert(slot, Held::Submitted(piece));
                    }
                    _ => {
                        caller.client.resume(slot, 0);
                        model.held.insert(slot, Held::Submitted(vec![STREAM]));
                    }
                }
            }
            Kind::Lost => {
                assert_eq!(
                    (request[0], completion.status, reply),
                    (LOSE, Status(LOSE.into()), &[][..])
                );
                model.lost += 1;
            }
            Kind::Final => {
                match request[0] {
                    PANIC => assert_eq!((completion.status, reply), (Status::FAULT, &[][..])),
                    STREAM => assert_eq!((completion.status, reply), (Status::OK, &[][..])),
                    _ => assert_eq!(
                        (completion.status, reply),
                        (Status::OK, &hash(&request)[..])
                    ),
                }
                model.finished += 1;
                caller.client.release(slot);
            }
        }
    }
}

#[test]
fn random_operations_agree_with_the_model() {
    let given = std::env::var("DOORS_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let seed: u64 = given.unwrap_or(now.as_nanos() as u64);
    for (round, (slots, threads)) in [(64, 4), (1, 1), (7, 3), (200, 8), (64, 70), (130, 2)]
        .into_iter()
        .enumerate()
    {
        run(seed.wrapping_add(round as u64), slots, threads, 3_000);
    }
}
