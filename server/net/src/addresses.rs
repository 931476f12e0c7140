//! How many connections each address has, over all loops.
//!
//! The kernel spreads the connections of one address over the loops, so the loops count in one table. It is
//! of a fixed size and has no lock: an entry is one word, with a keyed hash of the address in its upper half
//! and the count in the lower, and lies in one of the few places that the hash allows. Where counts are not
//! exact, the client gains: an address that finds no place is let in uncounted, and two loops that meet an
//! address for the first time at the same moment may give it two entries.
//!
//! An IPv6 address counts by its first 64 bits: a host that has one address with these has all of them.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};

/// Places that an address can have.
const WAYS: usize = 16;

/// Places for each connection that there can be. A quarter full, one address of a million finds all of its
/// own taken.
const PLACES_PER_CONNECTION: usize = 4;

/// An address that has been counted, by its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted(u64);

/// What a new connection's address says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It may come in; what was counted is taken back with [`Addresses::leave`].
    Admitted(Option<Counted>),
    /// It has as many connections as it may.
    Refused,
}

/// The table.
#[derive(Debug)]
pub struct Addresses {
    most: AtomicU64,
    sets: Box<[Set]>,
    keys: RandomState,
}

/// Two cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Set([AtomicU64; WAYS]);

/// The lower half of an entry.
const COUNT: u64 = u32::MAX as u64;

/// Sets of a table for so many connections.
fn sets(connections: usize) -> usize {
    (connections * PLACES_PER_CONNECTION)
        .div_ceil(WAYS)
        .next_power_of_two()
}

impl Addresses {
    /// Bytes of a table for so many connections.
    pub fn bytes(connections: usize) -> usize {
        sets(connections) * size_of::<Set>()
    }

    /// A table for so many connections, of which an address may have `most`.
    pub fn new(connections: usize, most: u32) -> Self {
        Addresses {
            most: AtomicU64::new(u64::from(most)),
            sets: (0..sets(connections)).map(|_| Set::default()).collect(),
            keys: RandomState::new(),
        }
    }

    /// From now on an address may have so many. Those that have more keep them.
    pub fn set_most(&self, most: u32) {
        self.most.store(u64::from(most), Ordering::Relaxed);
    }

    /// Counts a new connection, or refuses it. A peer without an address is not counted.
    pub fn enter(&self, peer: Option<SocketAddr>) -> Admission {
        let Some(peer) = peer else {
            return Admission::Admitted(None);
        };
        let hash = self.keys.hash_one(network(peer.ip()));
        let (set, tag) = self.place(hash);
        // The loser of a race looks again; by then the winner is done.
        loop {
            let mut free = None;
            let mut known = None;
            for entry in set {
                match entry.load(Ordering::Relaxed) {
                    0 => {
                        free.get_or_insert((entry, 0));
                    }
                    word if word & !COUNT == tag => {
                        known = Some((entry, word));
                        break;
                    }
                    _ => {}
                }
            }
            let Some((entry, word)) = known.or(free) else {
                return Admission::Admitted(None);
            };
            if word & COUNT >= self.most.load(Ordering::Relaxed) {
                return Admission::Refused;
            }
            let next = tag | ((word & COUNT) + 1);
            let (order, failed) = (Ordering::Relaxed, Ordering::Relaxed);
            if entry.compare_exchange(word, next, order, failed).is_ok() {
                return Admission::Admitted(Some(Counted(hash)));
            }
        }
    }

    /// A connection that was counted has ended.
    pub fn leave(&self, counted: Counted) {
        let (set, tag) = self.place(counted.0);
        for entry in set {
            let mut word = entry.load(Ordering::Relaxed);
            while word & !COUNT == tag && word & COUNT > 0 {
                let next = if word & COUNT == 1 { 0 } else { word - 1 };
                let (order, failed) = (Ordering::Relaxed, Ordering::Relaxed);
                match entry.compare_exchange(word, next, order, failed) {
                    Ok(_) => return,
                    Err(other) => word = other,
                }
            }
        }
    }

    fn place(&self, hash: u64) -> (&[AtomicU64; WAYS], u64) {
        // The lower half chooses the set, the upper half identifies the address; 0 stands for none.
        let set = hash as u32 as usize & (self.sets.len() - 1);
        (&self.sets[set].0, (hash & !COUNT).max(COUNT + 1))
    }
}

/// What is counted as one.
fn network(address: IpAddr) -> u64 {
    match address.to_canonical() {
        // No address of IPv6 begins with so many zeroes.
        IpAddr::V4(v4) => u64::from(u32::from(v4)),
        IpAddr::V6(v6) => (u128::from(v6) >> 64) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> Option<SocketAddr> {
        let ip: IpAddr = text.parse().expect("an address");
        Some(SocketAddr::new(ip, 1))
    }

    fn enter(table: &Addresses, text: &str) -> Option<Counted> {
        match table.enter(peer(text)) {
            Admission::Admitted(counted) => Some(counted.expect("there is room")),
            Admission::Refused => None,
        }
    }

    fn is_empty(table: &Addresses) -> bool {
        let mut words = table.sets.iter().flat_map(|set| &set.0);
        words.all(|word| word.load(Ordering::Relaxed) == 0)
    }

    #[test]
    fn an_address_has_as_many_connections_as_it_may() {
        let table = Addresses::new(64, 2);
        let first = enter(&table, "10.0.0.1").expect("the first");
        let second = enter(&table, "10.0.0.1").expect("the second");
        assert_eq!(enter(&table, "10.0.0.1"), None);
        assert_eq!(enter(&table, "::ffff:10.0.0.1"), None, "the same address");
        let other = enter(&table, "10.0.0.2").expect("another's");
        table.leave(first);
        let third = enter(&table, "10.0.0.1").expect("there is room again");
        for counted in [second, third, other] {
            table.leave(counted);
        }
        assert!(is_empty(&table));
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let table = Addresses::new(64, 1);
        assert!(enter(&table, "2001:db8:1:2::1").is_some());
        assert_eq!(enter(&table, "2001:db8:1:2:ffff::2"), None);
        assert!(enter(&table, "2001:db8:1:3::1").is_some());
    }

    #[test]
    fn who_has_no_address_is_not_counted() {
        let table = Addresses::new(1, 1);
        for _ in 0..3 {
            assert_eq!(table.enter(None), Admission::Admitted(None));
        }
    }

    #[test]
    fn more_addresses_than_places_are_let_in_and_leave_nothing_behind() {
        let table = Addresses::new(4, 1);
        let mut counted = Vec::new();
        for n in 0..1000_u32 {
            let address = format!("10.1.{}.{}", n / 256, n % 256);
            match table.enter(peer(&address)) {
                Admission::Admitted(Some(one)) => counted.push(one),
                Admission::Admitted(None) => {}
                Admission::Refused => panic!("{address} was never here"),
            }
        }
        assert_eq!(counted.len(), WAYS, "all places are taken");
        for one in counted {
            table.leave(one);
        }
        assert!(is_empty(&table));
    }

    #[test]
    fn loops_that_count_at_the_same_time_lose_nothing() {
        let table = Addresses::new(64, 100);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..20_000 {
                        let address = format!("10.0.0.{}", n % 7);
                        let mine: Vec<_> = (0..3).filter_map(|_| enter(&table, &address)).collect();
                        assert_eq!(mine.len(), 3, "4 × 3 are less than 100");
                        mine.into_iter().for_each(|counted| table.leave(counted));
                    }
                });
            }
        });
        assert!(is_empty(&table));
    }
}
