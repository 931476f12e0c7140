//! Which door server threads are idle, how they go to sleep, and how they are woken.
//!
//! **No lost wake-ups.** A sleeper sets its idle bit, then looks for work once more, then sleeps. A
//! submitter publishes work, then looks for an idle bit. Both steps are sequentially consistent, so
//! at least one of the two sees the other (Dekker). `tests/loom` model-checks these functions.
//!
//! **Which threads count.** A doorbell is wasted on a thread if another one is about to look for
//! work anyway. So threads that are about to look are counted: those that search, and those inside
//! a handler that is expected to be short. A thread whose handler is expected to be long, or turns
//! out to be, is *away* and not counted.
//!
//! **Last in, first out.** illumos keeps idle threads on a stack, so that the thread whose caches
//! are warm is reused. A shared stack is one contended word with an ABA problem. Here a wake takes
//! the *lowest* idle index: under any load that `n` threads can carry, threads `0..n` are the ones
//! used again and again, and higher ones stay cold, with the pages of their buckets. That is what
//! the stack is for, and it costs one load and one RMW.
//!
//! This file knows no channels: "is there work" is a closure.

use crate::rules::futex::Futex;
use crate::rules::sync::{AtomicI32, AtomicU32, AtomicU64, Line, Ordering, in_order};

const BITS: u32 = u64::BITS;
const AWAKE: u32 = 0;
const ASLEEP: u32 = 1;

/// Idle threads that are not asleep, after which a caller from outside asks the server's process: a board
/// that says nonsense must not cost it thousands of system calls.
const FAILED_MAX: u32 = 4;

/// Where a thread is, as far as others may count on it.
const SEARCHING: u32 = 0;
/// In a handler that is expected to be short: counted.
const BUSY: u32 = 1;
/// In a handler that takes long: not counted.
const AWAY: u32 = 2;

/// The words of an idle set that all processes may see: the server's process writes them, callers in
/// other processes read them, and wake sleepers through the beds.
///
/// All zero: no thread is idle, none runs.
#[derive(Clone, Copy, Debug)]
pub struct IdleWords<'a> {
    /// One bit for each thread: it is idle.
    pub idle: &'a [Line<AtomicU64>],
    /// One word for each thread, which means nothing: a thread sleeps on it besides its own, private one, so
    /// that a caller in another process can wake it. None if there is no such caller.
    pub beds: &'a [Line<Futex>],
    /// Threads that will look for work again before they sleep. The thread that clears an idle bit
    /// adds one, the thread that set it subtracts one *after* setting it, so that for a moment the
    /// count can be off in either direction, even negative; but never positive when no thread will
    /// look again.
    pub running: &'a Line<AtomicI32>,
}

/// How a caller in another process has fared in waking threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rung {
    /// Threads that were asleep and are on their way now.
    pub woken: u32,
    /// An idle thread was found that was not asleep: it may be on its way already, or about to
    /// sleep without having seen the work. Unless another one was woken, the server's process has
    /// to be asked to look.
    pub uncertain: bool,
}

impl IdleWords<'_> {
    /// Call after publishing work, or after `depart`: how many threads are sure to look for work
    /// after that.
    pub fn running(&self) -> u32 {
        in_order();
        u32::try_from(self.running.0.load(Ordering::SeqCst)).unwrap_or(0)
    }

    /// Whether a thread among the first `started` is idle. A hint.
    pub fn any_idle(&self, started: u32) -> bool {
        self.in_use(started)
            .iter()
            .any(|word| word.0.load(Ordering::SeqCst) != 0)
    }

    /// How many threads are idle. A hint, for people.
    pub fn count_idle(&self) -> u32 {
        self.idle
            .iter()
            .map(|word| word.0.load(Ordering::Relaxed).count_ones())
            .sum()
    }

    /// For a caller in another process, which can read these words but not write them, after
    /// publishing work: wakes up to `wanted` of the lowest idle threads among the first `started`.
    ///
    /// A sleeper that is woken so finds its words as they were: it takes any return from its sleep
    /// for a wake. A thread that is not asleep yet cannot be told: the kernel's answer says so, and
    /// then nothing is certain. Nor is it if a process that may open the door tampers with these
    /// words (futex(2) lets it take a wake for itself, or move a sleeper to another word): then the
    /// call waits until its caller asks the server's process, whose own wakes go by private words.
    pub fn wake_from_outside(&self, wanted: u32, started: u32) -> Rung {
        let mut rung = Rung {
            woken: 0,
            uncertain: false,
        };
        let mut failed = 0;
        in_order();
        for (place, word) in self.in_use(started).iter().enumerate() {
            let mut shown = word.0.load(Ordering::SeqCst);
            while shown != 0 && rung.woken < wanted {
                let index = place * BITS as usize + shown.trailing_zeros() as usize;
                shown &= shown - 1;
                match self.beds.get(index) {
                    Some(bed) if bed.0.wake_all() => rung.woken += 1,
                    _ => {
                        rung.uncertain = true;
                        failed += 1;
                        if failed == FAILED_MAX {
                            return rung;
                        }
                    }
                }
            }
        }
        rung
    }

    /// The words that can have bits set: a door with room for 16,384 threads that has started three
    /// scans one word.
    fn in_use(&self, started: u32) -> &[Line<AtomicU64>] {
        let words = started.div_ceil(BITS) as usize;
        &self.idle[..words.min(self.idle.len())]
    }
}

/// The door server threads of one door: which are idle, and which will look for work by themselves.
/// A view, as the server's process has it.
#[derive(Clone, Copy, Debug)]
pub struct IdleSet<'a> {
    words: IdleWords<'a>,
    /// Private to the server's process.
    own: &'a [Line<OwnWords>],
}

#[cfg(loom)]
impl OwnWords {
    /// The model's public word of the same thread.
    pub fn public_bed(&self) -> Futex {
        Futex::beside(&self.bed)
    }
}

/// What the server's process keeps of each thread, where no other process can reach it. All zero at first.
#[derive(Debug, Default)]
pub struct OwnWords {
    /// Where the thread is, as far as others may count on it.
    place: AtomicU32,
    /// On which it sleeps.
    bed: Futex,
}

impl<'a> IdleSet<'a> {
    /// A view of these words; `own` has some for each thread.
    pub fn new(words: IdleWords<'a>, own: &'a [Line<OwnWords>]) -> Self {
        Self { words, own }
    }

    /// A started thread begins to look for work.
    pub fn arrive(&self) {
        self.words.running.0.fetch_add(1, Ordering::SeqCst);
    }

    /// A thread will not look for work any more, or not soon. The caller looks for work *after*
    /// this, and wakes another thread if there is any: submitters may have counted on this one.
    pub fn depart(&self) {
        self.words.running.0.fetch_sub(1, Ordering::SeqCst);
        in_order();
    }

    /// Thread `index` begins a handler that is expected to be short.
    pub fn enter(&self, index: u32) {
        self.place(index).store(BUSY, Ordering::Relaxed);
    }

    /// Thread `index` is, or will be, in its handler for long. As for `depart`, the caller looks
    /// for work after this.
    pub fn go_away(&self, index: u32) {
        if self.place(index).swap(AWAY, Ordering::AcqRel) != AWAY {
            self.depart();
        }
    }

    /// Thread `index` is about to end its handler: it may be counted on, before its reply lets the
    /// next call come.
    pub fn come_back(&self, index: u32) {
        if self.place(index).load(Ordering::Relaxed) == AWAY {
            self.arrive();
            self.place(index).store(BUSY, Ordering::Relaxed);
        }
    }

    /// Whether no thread counts on thread `index`: it takes long, or has left.
    pub fn is_away(&self, index: u32) -> bool {
        self.place(index).load(Ordering::Relaxed) == AWAY
    }

    /// Thread `index` has left its handler and looks for work.
    pub fn search(&self, index: u32) {
        if self.place(index).swap(SEARCHING, Ordering::AcqRel) == AWAY {
            self.arrive();
        }
    }

    /// Stops counting on threads that are in handlers now: work was found waiting although they
    /// were expected to be short. As for `depart`, the caller looks for work after this.
    pub fn give_up_on_busy(&self, started: u32) {
        for own in &self.own[..started as usize] {
            if own
                .0
                .place
                .compare_exchange(BUSY, AWAY, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
            {
                self.depart();
            }
        }
    }

    /// Sleeps as thread `index` until it is woken, unless `work` says that there is something to
    /// do. Returns, awake and running, in either case; may return without work.
    pub fn sleep(&self, index: u32, work: impl Fn() -> bool) {
        let bed = &self.own[index as usize].0.bed;
        let word = &self.words.idle[(index / BITS) as usize].0;
        let bit = 1_u64 << (index % BITS);

        // A late token of an earlier wake may be erased here, or may come afterwards and wake us
        // for nothing. Both are harmless: we look for work after this in any case.
        // (Read-modify-writes on both sides, where stores would do, keep the tokens in one order
        // that the model checker can follow: it loses track of three unordered plain stores.)
        bed.word().swap(ASLEEP, Ordering::AcqRel);
        word.fetch_or(bit, Ordering::SeqCst);
        // After the bit: a submitter that still counts us as running did its publishing before this
        // line, and we look after it.
        self.words.running.0.fetch_sub(1, Ordering::SeqCst);
        in_order();
        if !work() {
            // Once: a caller in another process wakes us without changing a word.
            match self.words.beds.get(index as usize) {
                Some(public) => bed.wait_either(ASLEEP, &public.0),
                None => bed.wait_privately(ASLEEP),
            }
        }
        if word.fetch_and(!bit, Ordering::SeqCst) & bit != 0 {
            self.arrive();
        }
    }

    /// Call after publishing work: wakes the lowest idle thread among the first `started`. `false`:
    /// none is idle, and every live thread will look for work before it sleeps.
    pub fn wake_one(&self, started: u32) -> bool {
        in_order();
        let Some(index) = self.take_lowest(started) else {
            return false;
        };
        self.arrive();
        let bed = &self.own[index as usize].0.bed;
        if bed.word().swap(AWAKE, Ordering::AcqRel) == ASLEEP {
            bed.wake_privately();
        }
        true
    }

    /// Wakes every idle thread among the first `started`.
    pub fn wake_all(&self, started: u32) {
        while self.wake_one(started) {}
    }

    fn place(&self, index: u32) -> &AtomicU32 {
        &self.own[index as usize].0.place
    }

    fn take_lowest(&self, started: u32) -> Option<u32> {
        for (place, word) in self.words.in_use(started).iter().enumerate() {
            let mut shown = word.0.load(Ordering::SeqCst);
            while shown != 0 {
                let bit = shown.trailing_zeros();
                shown = word.0.fetch_and(!(1 << bit), Ordering::SeqCst);
                if shown & (1 << bit) != 0 {
                    return Some(place as u32 * BITS + bit);
                }
            }
        }
        None
    }
}
