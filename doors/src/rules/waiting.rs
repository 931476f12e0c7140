//! The client's "I sleep" flag, and when a completion is worth a doorbell.
//!
//! A doorbell costs a system call and often a context switch; with 64 calls in flight nearly every
//! one of them is wasted, because the client is awake. So a sleeper raises this flag first and only
//! a raised flag is rung, once. The rule is the one of `idle`, with the sides exchanged: the client
//! raises the flag, then looks for completions; the server publishes a completion, then looks at
//! the flag.

use crate::rules::sync::{AtomicU32, Ordering, fence, in_order};

/// How soon a sleeping client wants to hear of a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Some completions may be gathered before the doorbell rings. The client must sleep with a
    /// short timeout.
    Lazy,
    /// Every completion rings at once. The client may sleep without a timeout.
    Eager,
}

const AWAKE: u32 = 0;
const LAZY: u32 = 1;
const EAGER: u32 = 2;
const PATIENCE: u32 = 0xff;
/// From here on the word says where the client went to sleep.
const CPU_SHIFT: u32 = 8;

/// A view of a channel's `waiting` word.
#[derive(Clone, Copy, Debug)]
pub struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    /// A view of `word`.
    pub fn new(word: &'a AtomicU32) -> Self {
        Self(word)
    }

    /// Client: raises the flag, then looks once more. `true`: nothing is there, sleep. `false`: the
    /// flag is down again, because `completions` found something.
    ///
    /// `cpu` stands for the one that it runs on; a hint, cut to 24 bits.
    pub fn announce(&self, patience: Patience, cpu: u32, completions: impl Fn() -> bool) -> bool {
        let raised = (cpu << CPU_SHIFT)
            | match patience {
                Patience::Lazy => LAZY,
                Patience::Eager => EAGER,
            };
        // A swap, where a store would do at the same price: see `idle` on the model checker.
        self.0.swap(raised, Ordering::SeqCst);
        match patience {
            // What is kept back was not published by a read-modify-write: see `late`.
            Patience::Eager => fence(Ordering::SeqCst),
            Patience::Lazy => in_order(),
        }
        if completions() {
            self.clear();
            return false;
        }
        true
    }

    /// Client: awake again.
    pub fn clear(&self) {
        self.0.swap(AWAKE, Ordering::SeqCst);
    }

    /// Server, after publishing a completion: how the client waits, if it does.
    pub fn patience(&self) -> Option<Patience> {
        in_order();
        self.shown()
    }

    /// The same, of a thread that has seen to the order itself.
    pub fn shown(&self) -> Option<Patience> {
        match self.0.load(Ordering::SeqCst) & PATIENCE {
            AWAKE => None,
            LAZY => Some(Patience::Lazy),
            // A value that a peer made up costs at most a doorbell.
            _ => Some(Patience::Eager),
        }
    }

    /// Server: whether the client went to sleep on this CPU. It cannot run there as long as we do.
    pub fn is_on(&self, cpu: u32) -> bool {
        // 0 is unknown.
        cpu != 0 && self.0.load(Ordering::Relaxed) >> CPU_SHIFT == cpu & (u32::MAX >> CPU_SHIFT)
    }

    /// Server: whether the caller must ring. Of several callers, one gets `true` per raised flag.
    pub fn take(&self) -> bool {
        self.0.swap(AWAKE, Ordering::SeqCst) != AWAKE
    }
}
