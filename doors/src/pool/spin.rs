//! Looking a little longer before going to sleep, where that pays: when the other side runs on another CPU,
//! and has lately been that quick.
//!
//! Between two CPUs a sleep and a wake cost several microseconds, most of them until the CPU that was idle
//! runs again. A thread that looks for that long before it sleeps wastes at most as much as it would have
//! cost to sleep at once. On one CPU it would only keep the other side from running, so no thread looks
//! there.

use crate::back_end::clock::now_ns;

/// How long: what a sleep and a wake cost on two CPUs, measured 4 to 5 µs each way.
const SPIN_NS: u64 = 5_000;
/// Looks between two readings of the clock.
const LOOKS: u32 = 8;
/// The highest score: so many failures in a row end it.
const SCORE_MAX: u32 = 8;
/// With no score left, one in this many occasions is still tried, to see whether it pays again.
const TRY_EVERY: u32 = 64;

/// A CPU's number plus one, as the other side is told of it: 0 is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu(pub u32);

impl Cpu {
    /// The one that this thread runs on now; a hint. A few nanoseconds (rseq or vDSO).
    pub fn current() -> Self {
        // SAFETY: no arguments. A failure, on kernels that lack it, is -1, which makes it unknown.
        let cpu = unsafe { libc::sched_getcpu() };
        Self((cpu as u32).wrapping_add(1))
    }

    /// Whether it is known, and another one than this thread's.
    fn is_elsewhere(self) -> bool {
        self != Self(0) && self != Self::current()
    }
}

/// Whether it has paid lately.
#[derive(Debug)]
pub struct Spins {
    /// Goes up with each success and down with each failure: it stays high where more than half succeed.
    score: u32,
    /// Occasions that were let pass since the score was used up.
    passed: u32,
}

impl Default for Spins {
    fn default() -> Self {
        Self {
            score: SCORE_MAX / 2,
            passed: 0,
        }
    }
}

impl Spins {
    /// Looks for what a thread waits for, which a thread on `other` is expected to bring, as long as it may
    /// pay. Returns whether it has come. `f` says so, or that it will not come soon (`Some(false)`).
    pub fn look(&mut self, other: Cpu, mut f: impl FnMut() -> Option<bool>) -> bool {
        if !other.is_elsewhere() || !self.is_worth_it() {
            return false;
        }
        let until_ns = now_ns() + SPIN_NS;
        loop {
            for _ in 0..LOOKS {
                match f() {
                    Some(true) => {
                        self.note(true);
                        return true;
                    }
                    Some(false) => return false,
                    None => {}
                }
                std::hint::spin_loop();
            }
            if now_ns() > until_ns {
                self.note(false);
                return false;
            }
        }
    }

    fn is_worth_it(&mut self) -> bool {
        if self.score == 0 {
            self.passed += 1;
            if self.passed < TRY_EVERY {
                return false;
            }
            self.passed = 0;
        }
        true
    }

    fn note(&mut self, success: bool) {
        self.score = if success {
            (self.score + 1).min(SCORE_MAX)
        } else {
            self.score.saturating_sub(1)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occasions(spins: &mut Spins, count: u32, success: bool) -> u32 {
        let mut tried = 0;
        for _ in 0..count {
            if spins.is_worth_it() {
                spins.note(success);
                tried += 1;
            }
        }
        tried
    }

    #[test]
    fn what_never_pays_is_tried_now_and_then() {
        let mut spins = Spins::default();
        assert_eq!(occasions(&mut spins, SCORE_MAX / 2, false), SCORE_MAX / 2);
        assert_eq!(occasions(&mut spins, 10 * TRY_EVERY, false), 10);
    }

    #[test]
    fn what_begins_to_pay_is_done_again_and_what_ends_to_pay_ends_soon() {
        let mut spins = Spins::default();
        occasions(&mut spins, 100, false);
        occasions(&mut spins, TRY_EVERY, true);
        assert_eq!(occasions(&mut spins, 100, true), 100);
        assert_eq!(
            occasions(&mut spins, SCORE_MAX + TRY_EVERY - 1, false),
            SCORE_MAX
        );
    }

    #[test]
    fn nobody_looks_longer_for_who_is_unknown_or_on_the_same_cpu() {
        let never = || -> Option<bool> { panic!("looked") };
        assert!(!Spins::default().look(Cpu(0), never));
        // This thread may be moved between the two questions, so a CPU that does not exist is no
        // counterexample: only the first one is certain.
        let mut looks = 0;
        let elsewhere = Cpu(u32::MAX);
        assert!(Spins::default().look(elsewhere, || {
            looks += 1;
            (looks == 3).then_some(true)
        }));
        assert_eq!(looks, 3);
        assert!(!Spins::default().look(elsewhere, || Some(false)));
    }
}
