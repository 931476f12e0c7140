//! What has happened to the request that a bucket holds, if it is out of the ordinary. It is one word, so a
//! request to which nothing has happened is begun with one test and ended with one test.
//!
//! The bucket's thread writes it, and so does the handler of a fault, which may interrupt that thread between
//! any two instructions (a signal that finds no room for its frame comes from outside). So each change is one
//! instruction of the processor, and none of the two undoes the other's.
//!
//! What else that handler writes into the state of the thread that it interrupts, and why nothing is lost:
//!
//! | what | why |
//! |---|---|
//! | how much of the stack's extension is open | `fetch_max`; it is closed where the stack is shallow |
//! | how a request is exhausted | written whole, and only by the first to add [`MARKED`]; an interrupted thread that was writing its own overwrites it afterwards, which tells of another shortage of the same request |
//! | the deepest use of the stack | `store` of the most there is, and `fetch_max` |
//! | the mask to go back to | only before a jump: the interrupted code does not go on |
//! | the registers at the last fault | the handler's alone |

use std::sync::atomic::{AtomicU16, Ordering};

/// The request has outgrown its bucket, and goes on to its return: its answer is a 500.
pub(crate) const MARKED: u16 = 1;
/// Its stack has overflowed, and is extended.
pub(crate) const EXTENDED: u16 = 1 << 1;
/// The panic hook has seen a panic after which the runtime aborts.
pub(crate) const ABORTING: u16 = 1 << 2;
/// There is a note of a panic.
pub(crate) const NOTED: u16 = 1 << 3;
/// It has drawn on the overdraft, and a share is set aside for it.
pub(crate) const DRAWS_ITS_SHARE: u16 = 1 << 4;
/// It has drawn on the overdraft, after it had waited in vain for a share: it takes what is free, up to as
/// much.
pub(crate) const DRAWS_WHAT_IS_FREE: u16 = 1 << 5;
/// It has drawn on the overdraft.
pub(crate) const DRAWS: u16 = DRAWS_ITS_SHARE | DRAWS_WHAT_IS_FREE;
/// It has asked the C heap for something.
#[cfg(all(feature = "c-heap", not(miri)))]
pub(crate) const USES_C: u16 = 1 << 6;
/// It has drawn on the overdraft while a panic unwound, or in a cleanup.
pub(crate) const DREW_FAILING: u16 = 1 << 7;
/// It has not got a block for which there were bytes enough, but not in one piece, in a bucket that keeps
/// something.
pub(crate) const FOUND_NO_PIECE: u16 = 1 << 8;
/// Its `&Bump` was full, in a bucket that keeps something. How large a piece was wanted is not known.
pub(crate) const BUMP_WAS_FULL: u16 = 1 << 9;
/// Its failure has been reported.
pub(crate) const REPORTED: u16 = 1 << 10;
/// It goes on without a block that was refused.
pub(crate) const REFUSED: u16 = 1 << 11;

/// If it returns, its answer is a 500. (One that has drawn on the overdraft in a panic has caught that
/// panic.)
pub(crate) const OUTGREW: u16 = MARKED | DREW_FAILING;

/// The word.
#[derive(Debug)]
pub(crate) struct Events(AtomicU16);

impl Events {
    pub(crate) const fn new() -> Self {
        Events(AtomicU16::new(0))
    }

    /// Whether one of these has happened.
    #[inline(always)]
    pub(crate) fn any(&self, of: u16) -> bool {
        self.0.load(Ordering::Relaxed) & of != 0
    }

    /// Whether nothing has.
    #[inline(always)]
    pub(crate) fn none(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    pub(crate) fn add(&self, event: u16) {
        self.0.fetch_or(event, Ordering::Relaxed);
    }

    pub(crate) fn remove(&self, event: u16) {
        self.0.fetch_and(!event, Ordering::Relaxed);
    }

    /// Resets it for the next request. A stack that is still extended stays so, until it can be closed.
    #[inline(always)]
    pub(crate) fn clear(&self) {
        if !self.none() {
            self.remove(!EXTENDED);
        }
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::{EXTENDED, Events, MARKED, NOTED};
    use std::ptr;
    use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
    use std::thread;

    static INTERRUPTED: AtomicPtr<Events> = AtomicPtr::new(ptr::null_mut());
    static SIGNALS: AtomicU32 = AtomicU32::new(0);

    extern "C" fn on_signal(_: libc::c_int) {
        // SAFETY: null, or the value on the stack of the test, which this thread interrupts.
        if let Some(events) = unsafe { INTERRUPTED.load(Ordering::Relaxed).as_ref() } {
            events.add(EXTENDED);
            SIGNALS.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// As when a profiler's signal finds no room for its frame while the request is being marked.
    #[test]
    fn what_a_signal_notes_is_not_lost_to_what_it_has_interrupted() {
        let events = Events::new();
        let (done, mut is_lost) = (AtomicBool::new(false), false);
        // SAFETY: the handler touches atomics only; no other test of this binary uses the signal.
        let target = unsafe {
            libc::signal(libc::SIGURG, on_signal as *const () as libc::sighandler_t);
            libc::pthread_self()
        };
        INTERRUPTED.store(ptr::from_ref(&events).cast_mut(), Ordering::Relaxed);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    // SAFETY: that thread waits for this one before it ends.
                    unsafe { libc::pthread_kill(target, libc::SIGURG) };
                    thread::yield_now();
                }
            });
            while SIGNALS.load(Ordering::Relaxed) < 5_000 && !is_lost {
                let seen = SIGNALS.load(Ordering::Relaxed);
                events.add(MARKED);
                events.add(NOTED);
                events.remove(NOTED);
                // One that came since has noted it, whatever it has interrupted.
                let came = SIGNALS.load(Ordering::Relaxed) != seen;
                is_lost = came && !events.any(EXTENDED);
                events.remove(EXTENDED | MARKED);
            }
            done.store(true, Ordering::Relaxed);
        });
        INTERRUPTED.store(ptr::null_mut(), Ordering::Relaxed);
        assert!(!is_lost, "what a signal has noted");
    }
}
