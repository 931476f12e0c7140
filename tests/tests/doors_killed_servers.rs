//! A door's process dies again and again under calls. Alone in its process, because it counts what that
//! process holds.
#![cfg(target_os = "linux")]

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use transom_doors::{
    AsyncClient, CallError, Client, OpenOptions, Patience, PeerState, SlotId, Status,
};
use transom_tests::echo::{Echo, Holdings};
use transom_tests::raw::{Ears, Random};
use transom_tests::{Folder, PATIENCE};

const ECHO: &str = env!("CARGO_BIN_EXE_door-echo");
const ROUNDS: usize = 100;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Answered,
    NotAccepted,
    MayHaveRun,
}

impl From<CallError> for End {
    fn from(error: CallError) -> Self {
        match error {
            CallError::NotAccepted => End::NotAccepted,
            CallError::MayHaveRun => End::MayHaveRun,
            other => panic!("a call ended with {other:?}"),
        }
    }
}

#[derive(Default)]
struct Ends(HashMap<u64, End>);

impl Ends {
    fn note(&mut self, id: u64, end: End) {
        let before = self.0.insert(id, end);
        assert_eq!(before, None, "call {id} has ended twice: {end:?}");
    }
}

fn request(id: u64) -> [u8; 13] {
    let mut request = *b"count________";
    request[5..].copy_from_slice(&id.to_le_bytes());
    request
}

/// Keeps all slots busy, kills the door after some answers, and goes on until it sees that.
fn many_calls(client: &mut AsyncClient, door: &Echo, ids: &AtomicU64, after: usize) -> Ends {
    let ears = Ears::to(&[client.as_raw_fd(), client.peer_fd().expect("a peer")]);
    let mut ends = Ends::default();
    let mut under_way: HashMap<SlotId, u64> = HashMap::new();
    let mut answers = 0;
    let mut killed = false;
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        assert!(
            std::time::Instant::now() < deadline,
            "the death is not seen"
        );
        while let Some(slot) = client.reserve() {
            let id = ids.fetch_add(1, Ordering::Relaxed);
            client.request_mut(slot)[..13].copy_from_slice(&request(id));
            client.submit(slot, 13, 0);
            under_way.insert(slot, id);
        }
        if let Err(error) = client.flush() {
            assert_eq!(error, CallError::NotAccepted);
        }
        if client.prepare_wait(Patience::Eager) {
            let _ = ears.wait(1);
        }
        client.woke();
        client.nudge();
        let gone = client.check_peer() == PeerState::Gone;
        while let Some((slot, completion)) = client.next_completion() {
            let id = under_way.remove(&slot).expect("it was under way");
            let mut reply = [0; 8];
            assert_eq!(completion.status, Status::OK);
            assert_eq!(client.copy_reply(slot, 0, &mut reply), 8);
            assert_eq!(u64::from_le_bytes(reply), id);
            client.release(slot);
            ends.note(id, End::Answered);
            answers += 1;
        }
        while let Some((slot, error)) = client.next_lost() {
            let id = under_way.remove(&slot).expect("it was under way");
            if error == CallError::NotAccepted {
                assert_eq!(client.request(slot), request(id));
                client.release(slot);
            }
            ends.note(id, error.into());
        }
        if gone {
            assert!(under_way.is_empty(), "without an end: {under_way:?}");
            assert_eq!((client.outstanding(), client.free_slots()), (0, 64));
            return ends;
        }
        if answers >= after && !killed {
            killed = true;
            // SAFETY: a plain system call; the door has not been waited for, so the id is its own.
            unsafe { libc::kill(door.pid().cast_signed(), libc::SIGKILL) };
        }
    }
}

/// Calls one by one until the door is dead.
fn single_calls(path: &Path, ids: &AtomicU64) -> Ends {
    let mut client = Client::open(path).expect("the door is open");
    let mut ends = Ends::default();
    loop {
        let id = ids.fetch_add(1, Ordering::Relaxed);
        let mut reply = [0; 8];
        match client.call(&request(id), &mut reply) {
            Ok(8) => {
                assert_eq!(u64::from_le_bytes(reply), id);
                ends.note(id, End::Answered);
            }
            Ok(len) => panic!("a reply of {len} bytes"),
            Err(error) => {
                ends.note(id, error.into());
                break;
            }
        }
    }
    let id = ids.fetch_add(1, Ordering::Relaxed);
    let again = client.call(&request(id), &mut []);
    assert_eq!(again, Err(CallError::NotAccepted), "no server is there");
    ends.note(id, End::NotAccepted);
    ends
}

#[test]
fn every_call_ends_once_and_rightly_when_the_door_is_killed() {
    let folder = Folder::new("killed");
    let (path, log) = (folder.path().join("a.door"), folder.path().join("log"));
    let option = format!("log={}", log.display());
    let mut random = Random::new(Random::seed());
    let mut before = None;
    let mut sums = HashMap::new();
    for round in 0..=ROUNDS {
        let door = Echo::start(ECHO, &path, 4, &[&option]);
        let ids = Arc::new(AtomicU64::new(0));
        // At once: no time passes between the attach and an open.
        let mut client =
            AsyncClient::open(&path, &OpenOptions::default()).expect("the door is open");
        let single = std::thread::spawn({
            let (path, ids) = (path.clone(), Arc::clone(&ids));
            move || single_calls(&path, &ids)
        });
        while door.count("opened") < 2 {
            std::thread::yield_now();
        }
        let ends = many_calls(&mut client, &door, &ids, random.below(3000));
        let single = single.join().expect("its calls end rightly");
        drop((client, door));

        let log = fs::read(&log).expect("the door has logged");
        let mut ran: HashMap<u64, usize> = HashMap::new();
        for id in log.chunks(8) {
            let id = id.try_into().expect("eight bytes for each call");
            *ran.entry(u64::from_le_bytes(id)).or_default() += 1;
        }
        for (id, end) in ends.0.iter().chain(&single.0) {
            *sums.entry(format!("{end:?}")).or_insert(0_u64) += 1;
            match (end, ran.get(id)) {
                (End::Answered, Some(1))
                | (End::NotAccepted, None)
                | (End::MayHaveRun, None | Some(1)) => {}
                (end, times) => panic!("round {round}: {end:?}, but {id} ran {times:?} times"),
            }
        }
        let all = ends.0.len() + single.0.len();
        assert_eq!(all as u64, ids.load(Ordering::Relaxed));
        fs::write(folder.path().join("log"), "").expect("emptied");
        // The first round has made all that stays.
        if round == 0 {
            before = Some(Holdings::of(std::process::id()));
        }
    }
    println!("{sums:?}");
    assert!(
        sums["NotAccepted"] > 0 && sums["MayHaveRun"] > 0,
        "{sums:?}"
    );
    before.expect("a first round").wait_for(std::process::id());
}
