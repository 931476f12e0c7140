//! The succession alone: its doors are of this process and have no threads, so calls stay where they are.

use super::*;
use std::collections::VecDeque;
use std::ptr::NonNull;
use transom_doors::{AsyncClient, ChannelGeometry, ChannelMemory, Door};
use transom_net::Epoll;

/// Calls of which so many are said to wait.
struct Weighed(usize);

impl Calls for Weighed {
    fn waiting(&self) -> usize {
        self.0
    }
}

/// Gives what lies in it, and counts.
#[derive(Default)]
struct Stock {
    clients: VecDeque<AsyncClient>,
    again_ns: u64,
    asked: usize,
    freed: usize,
}

impl Source<AsyncClient> for Stock {
    fn ask(&mut self, _: u64) -> Result<AsyncClient, u64> {
        self.asked += 1;
        self.clients.pop_front().ok_or(self.again_ns)
    }

    fn is_unwatched(&mut self, error: &io::Error) -> u64 {
        panic!("{error}");
    }

    fn free(&mut self, _: AsyncClient) {
        self.freed += 1;
    }
}

struct Porter {
    entrance: Entrance<AsyncClient, Weighed, Stock>,
    epoll: Epoll,
    now_ns: u64,
    patience_ns: Option<u64>,
    lost: Vec<(InstanceId, SlotId, bool)>,
    let_go: Vec<InstanceId>,
}

impl Porter {
    fn new(patience_ns: Option<u64>) -> Self {
        Porter {
            entrance: Entrance::new(0, [4; INSTANCES], |_| Weighed(0), Some(Stock::default()), 1),
            epoll: Epoll::new().expect("an epoll set"),
            now_ns: 1,
            patience_ns,
            lost: Vec::new(),
            let_go: Vec::new(),
        }
    }

    /// Puts a new instance into the stock.
    fn bring(&mut self, request_size: usize) -> Door {
        let (door, client) = instance(request_size);
        self.entrance.source().clients.push_back(client);
        door
    }

    /// Takes an instance on that has one call which does not end, and is then revoked.
    fn pass(&mut self) -> InstanceId {
        let door = self.bring(4096);
        self.tend(false);
        let (at, _) = self.entrance.reserve().expect("a slot");
        self.now_ns += 1;
        door.revoke();
        self.look_at_peer(at);
        assert_eq!(self.entrance.serving, None);
        at
    }
}

impl Keeper for Porter {
    type Events = Epoll;
    type Caller = AsyncClient;
    type Calls = Weighed;
    type Source = Stock;

    fn entrances(&mut self) -> &mut [Entrance<AsyncClient, Weighed, Stock>] {
        std::slice::from_mut(&mut self.entrance)
    }

    fn events(&self) -> &Epoll {
        &self.epoll
    }

    fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn patience_ns(&self) -> Option<u64> {
        self.patience_ns
    }

    fn look_again(&mut self) {}

    fn collect(&mut self, _: InstanceId) -> bool {
        false
    }

    fn on_lost(&mut self, at: InstanceId, slot: SlotId, has_not_run: bool) {
        self.lost.push((at, slot, has_not_run));
    }

    fn let_go(&mut self, at: InstanceId) {
        self.let_go.push(at);
    }
}

fn instance(request_size: usize) -> (Door, AsyncClient) {
    let create = |_| Ok(());
    let door = Door::builder().server_create(create).build();
    let door = door.expect("a door");
    let geometry = ChannelGeometry {
        slots: 4,
        spares: 0,
        request_size,
        reply_size: 4096,
    };
    let len = geometry.memory_len();
    let layout = std::alloc::Layout::from_size_align(len, 4096).expect("small");
    // SAFETY: not zero bytes; fresh, zeroed, page-aligned, never freed, known to no one else.
    let memory = unsafe {
        let base = NonNull::new(std::alloc::alloc_zeroed(layout)).expect("memory");
        ChannelMemory::new(base, len)
    };
    let client = door.channel(geometry, memory).expect("a channel");
    (door, client)
}

/// A call that was not accepted: where it lies.
fn refused(porter: &mut Porter, door: &Door) -> (InstanceId, SlotId) {
    let (at, slot) = porter.entrance.reserve().expect("a slot");
    let client = porter.entrance[at].client_mut();
    client.request_mut(slot)[..5].copy_from_slice(b"hello");
    client.submit(slot, 5, 0);
    door.revoke();
    assert!(porter.flush());
    assert_eq!(porter.lost, [(at, slot, true)]);
    assert_eq!(porter.entrance.serving, None);
    (at, slot)
}

#[test]
fn what_was_not_accepted_goes_to_the_next_instance_and_the_first_is_freed_then() {
    let mut porter = Porter::new(None);
    let first = porter.bring(4096);
    porter.tend(false);
    let (at, slot) = refused(&mut porter, &first);
    assert!(matches!(
        porter.entrance.carry_over(at, slot, 5),
        Carried::Not
    ));
    let _second = porter.bring(4096);
    porter.tend(false);
    assert_eq!(porter.entrance.source().freed, 0);
    let Carried::Over(to, new) = porter.entrance.carry_over(at, slot, 5) else {
        panic!("it is not carried over");
    };
    assert_ne!(to, at);
    assert_eq!(
        porter.entrance[to].client_mut().request_mut(new)[..5],
        *b"hello"
    );
    porter.tend(false);
    assert_eq!(porter.entrance.source().freed, 1);
    assert_eq!(porter.entrance.serving, Some(to));
}

#[test]
fn what_does_not_fit_the_next_instances_slots_keeps_no_slot() {
    let mut porter = Porter::new(None);
    let first = porter.bring(8192);
    porter.tend(false);
    let (at, slot) = refused(&mut porter, &first);
    let _second = porter.bring(4096);
    porter.tend(false);
    let carried = porter.entrance.carry_over(at, slot, 5000);
    assert!(matches!(carried, Carried::TooLarge));
    assert_eq!(porter.entrance.free_slots(), 4);
    assert!(porter.entrance[at].is_done_with());
}

#[test]
fn without_patience_the_instance_that_can_be_missed_best_makes_room_for_one_that_is_there() {
    for (waiting, missed_best) in [([0, 0], 0), ([1, 0], 1), ([1, 2], 0)] {
        let mut porter = Porter::new(None);
        for (at, waiting) in [porter.pass(), porter.pass()].into_iter().zip(waiting) {
            porter.entrance[at].calls.0 = waiting;
        }
        porter.tend(false);
        assert_eq!(porter.let_go, [], "none is there");
        let _third = porter.bring(4096);
        porter.tend(false);
        let at = InstanceId {
            doorway: 0,
            instance: missed_best,
        };
        assert_eq!(porter.let_go, [at]);
        assert_eq!(porter.entrance.serving, Some(at));
    }
}

#[test]
fn with_patience_the_first_that_left_makes_room_before_the_next_one_is_asked_for() {
    let mut porter = Porter::new(Some(10));
    let first = porter.pass();
    porter.pass();
    let _third = porter.bring(4096);
    porter.tend(false);
    let due_ns = porter.entrance.cramped_due_ns;
    assert_eq!(due_ns, porter.now_ns + 10);
    porter.now_ns = due_ns - 1;
    porter.tend(false);
    assert_eq!(porter.let_go, []);
    assert_eq!(porter.entrance.source().asked, 2);
    porter.now_ns = due_ns;
    porter.tend(false);
    assert_eq!(porter.let_go, [first]);
    assert_eq!(porter.entrance.serving, Some(first));
    assert_eq!(porter.entrance.cramped_due_ns, 0);
}

#[test]
fn a_source_is_asked_again_when_it_says_or_has_told() {
    let mut porter = Porter::new(None);
    porter.entrance.source().again_ns = 5;
    for (now_ns, is_told, asked) in [(1, false, 1), (4, false, 1), (5, false, 2), (6, true, 3)] {
        porter.now_ns = now_ns;
        porter.tend(is_told);
        assert_eq!(porter.entrance.source().asked, asked);
    }
    assert_eq!(porter.entrance.away_since_ns(), 1);
}
