//! How many connections all loops together hold.
//!
//! The kernel spreads connections over the loops' listeners by a hash of their addresses, so some loops get
//! more than others. What is limited is their sum; a loop's own table has room for more than its share. A
//! loop that has a new connection, no place for it and no connection of its own to close asks the others to
//! close one that can be missed.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use transom_doors::Bell;

/// The places of all loops.
#[derive(Debug)]
pub struct ConnectionLimit {
    most: u32,
    taken: AtomicU32,
    /// A loop waits for a place.
    is_wanted: AtomicBool,
    /// Every loop's.
    bells: Box<[Bell]>,
}

impl ConnectionLimit {
    /// So many places, for the loops that have these doorbells.
    pub fn new(most: u32, bells: &[Bell]) -> Self {
        ConnectionLimit {
            most,
            taken: AtomicU32::new(0),
            is_wanted: AtomicBool::new(false),
            bells: bells.into(),
        }
    }

    /// Takes a place, if one is free. It is to be given back.
    pub(super) fn take(&self) -> bool {
        let (order, failed) = (Ordering::Relaxed, Ordering::Relaxed);
        let next = |taken| (taken < self.most).then_some(taken + 1);
        self.taken.fetch_update(order, failed, next).is_ok()
    }

    /// Gives one back.
    pub(super) fn give_back(&self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }

    /// Asks the other loops to close a connection that can be missed.
    pub(super) fn ask(&self) {
        if !self.is_wanted.swap(true, Ordering::SeqCst) {
            for bell in &self.bells {
                bell.ring();
            }
        }
    }

    /// Whether a loop waits for a place.
    pub(super) fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Relaxed)
    }

    /// Whether all places are taken.
    pub(super) fn is_full(&self) -> bool {
        self.taken.load(Ordering::Relaxed) >= self.most
    }

    /// Whether all loops together could take the last free place, if each takes so many.
    pub(super) fn is_nearly_full(&self, each: u32) -> bool {
        self.most - self.taken.load(Ordering::Relaxed) <= each * self.bells.len() as u32
    }

    /// Whether it still waits, and no other loop does something about it: the caller does.
    pub(super) fn answer(&self) -> bool {
        self.is_wanted.swap(false, Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_places_are_taken_than_there_are() {
        let limit = ConnectionLimit::new(100, &[]);
        let taken: u32 = std::thread::scope(|scope| {
            let threads = [(); 4].map(|()| {
                scope.spawn(|| {
                    let mut taken = 0;
                    for n in 0..1000 {
                        if limit.take() {
                            taken += 1;
                            if n % 3 == 0 {
                                limit.give_back();
                                taken -= 1;
                            }
                        }
                    }
                    taken
                })
            });
            threads
                .map(|thread| thread.join().expect("no panic"))
                .iter()
                .sum()
        });
        assert_eq!(taken, 100);
        assert!(!limit.take());
        limit.give_back();
        assert!(limit.take());
    }

    #[test]
    fn one_loop_answers_a_call_for_a_place() {
        let limit = ConnectionLimit::new(1, &[]);
        assert!(!limit.is_wanted() && !limit.answer());
        limit.ask();
        limit.ask();
        assert!(limit.is_wanted());
        assert_eq!([limit.answer(), limit.answer()], [true, false]);
    }
}
