//! When a client is told of its replies: each at once, several together, or when there is nothing else to do.
//!
//! Nothing here allocates or locks: an emergency reply comes this way too, in a signal handler that may have
//! stopped the thread anywhere in here. Bits are published before they are forgotten, and an extra bit does
//! no harm.

use crate::memory::channel::Channel;
use crate::pool::shared::Pool;
use crate::pool::spin::Cpu;
use crate::rules::bitmap::BITS;
use crate::rules::late::Late;
use crate::rules::sync::Ordering;
use crate::rules::waiting::Patience;

/// So many completions are published together, at most: with two CPUs and 64 calls in flight a call took 239
/// ns with one, 200 with two, 174 with four, and 174 with eight.
const KEPT_MAX: u32 = 4;

/// A lazy client is told after this many completions at the latest, so that it refills its slots
/// while the server still has work: with two CPUs and 64 calls in flight a call took 225 ns so, 250 ns
/// with 8, 285 ns with 16, 360 ns with 32. One that sleeps on our own CPU is not told before the work is
/// done: a wake would only take the CPU from us, and give it back after a few calls.
const UNREPORTED_MAX: u32 = 4;

impl Pool {
    /// A reply is in `slot`: tells its client `at_once`, or when some more are there.
    pub(crate) fn tell_of(&self, channel: &Channel, thread: u32, slot: u32, at_once: bool) {
        let state = &self.threads[thread as usize].0;
        let word = slot / BITS;
        if state.kept.load(Ordering::Relaxed) != 0
            && state.kept_word.load(Ordering::Relaxed) != word
        {
            self.tell_of_kept(channel, thread);
        }
        let kept = state.kept.load(Ordering::Relaxed) | 1 << (slot % BITS);
        state.kept_word.store(word, Ordering::Relaxed);
        state.kept.store(kept, Ordering::Relaxed);
        let keep = !at_once
            && kept.count_ones() < KEPT_MAX
            && !self.pace().is_slow()
            && channel.layout.waiting().patience() != Some(Patience::Eager)
            && self.may_keep(thread);
        if keep {
            channel.layout.late().show(word as usize, kept);
            // Now, and not only before the next handler: this one may go on for long after its reply.
            if !Late::is_awaited(channel.layout.waiting()) {
                return;
            }
        }
        self.tell_of_kept(channel, thread);
    }

    /// Tells of what `thread` has kept back of its last call's channel.
    pub(crate) fn tell_of_kept(&self, channel: &Channel, thread: u32) {
        let state = &self.threads[thread as usize].0;
        let kept = state.kept.load(Ordering::Relaxed);
        if kept == 0 {
            return;
        }
        let word = state.kept_word.load(Ordering::Relaxed) as usize;
        channel.layout.complete().publish(word, kept);
        state.kept.store(0, Ordering::Relaxed);
        if self.keeper.load(Ordering::Relaxed) == thread + 1 {
            channel.layout.late().show(word, 0);
        }
        match channel.layout.waiting().patience() {
            // The client is awake and looks at its completions before it sleeps.
            None => {}
            Some(Patience::Eager) => channel.ring_if_due(),
            Some(Patience::Lazy) => {
                let before = state.unreported.load(Ordering::Relaxed);
                let unreported = before + kept.count_ones();
                state.unreported.store(unreported, Ordering::Relaxed);
                if unreported / UNREPORTED_MAX != before / UNREPORTED_MAX
                    && !channel.layout.waiting().is_on(Cpu::current().0)
                {
                    self.report(thread);
                }
            }
        }
    }

    /// Rings every client that sleeps and has a completion to see, whichever thread made it.
    pub(crate) fn report(&self, thread: u32) {
        self.threads[thread as usize]
            .0
            .unreported
            .store(0, Ordering::Relaxed);
        for channel in self.look(thread).channels() {
            channel.ring_if_due();
        }
    }

    /// Whether `thread` is the one that keeps completions back, or becomes it: what is shown has one writer.
    /// While handlers are short one thread serves nearly all calls.
    fn may_keep(&self, thread: u32) -> bool {
        match self.keeper.load(Ordering::Relaxed) {
            0 => self
                .keeper
                .compare_exchange(0, thread + 1, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok(),
            keeper => keeper == thread + 1,
        }
    }

    /// Before `thread`, which keeps nothing back any more, sleeps or ends.
    pub(crate) fn keep_no_more(&self, thread: u32) {
        if self.keeper.load(Ordering::Relaxed) == thread + 1 {
            self.keeper.store(0, Ordering::Release);
        }
    }
}
