//! Between the threads that log and the one that writes: a bounded queue, and the rule by which the writer is
//! woken.
//!
//! A thread that logs takes no lock and never waits for the writer: it hands over a record, or counts it as
//! dropped. The records were all there from the start. They go around: from the free ones to the thread that
//! fills one, to the writer, and back; so what passes through the queues is a pointer, and a hand-over needs
//! little stack.
//!
//! Only a writer that sleeps is woken. No wake-up is lost because both sides publish before they look: the
//! thread pushes, then reads the writer's state; the writer states that it sleeps, then looks at the queue
//! once more (Dekker's rule, with a sequentially consistent fence between the two steps on either side).

use crossbeam_queue::ArrayQueue;
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering, fence};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// The writer runs: it need not be woken.
const AWAKE: u8 = 0;
/// The writer lets lines gather for [`NAP`]: rung when the queue is half full.
const NAPPING: u8 = 1;
/// The writer sleeps until it is rung.
const ASLEEP: u8 = 2;

/// How long lines gather after others were written. Under load this makes one `write(2)` and no ring at all
/// out of what would be hundreds of each; a line after silence goes out at once.
const NAP: Duration = Duration::from_millis(1);

/// More than a hand-over and a ring need of the stack: half as much in a debug build; see [`Queue::submit`].
const SUBMIT_STACK_BYTES: usize = 3 * 1024;

/// What goes through a queue: of fixed size, and written anew again and again.
pub trait Queued {
    /// One with nothing in it.
    fn blank() -> Self;

    /// Becomes a copy of another.
    fn copy_from(&mut self, other: &Self);
}

/// What the threads that log, the writer and the handles share.
pub(crate) struct Queue<R> {
    free: ArrayQueue<Box<R>>,
    ready: ArrayQueue<Box<R>>,
    dropped: AtomicU64,
    state: AtomicU8,
    closed: AtomicBool,
    /// The last flush that was asked for.
    asked: AtomicU64,
    writer: OnceLock<Thread>,
    progress: Mutex<Progress>,
    progressed: Condvar,
}

#[derive(Default)]
struct Progress {
    /// The last flush that was done.
    flushed: u64,
    /// The writer has gone, and writes no more.
    finished: bool,
}

/// What the writer found when it started a round.
#[derive(Clone, Copy)]
pub(crate) struct Round {
    pub(crate) closing: bool,
    asked: u64,
}

impl<R> Queue<R> {
    /// What a queue of `records` records takes on the heap.
    pub(crate) const fn memory_bytes(records: usize) -> usize {
        /// What an allocator notes beside an allocation.
        const NOTE_BYTES: usize = size_of::<usize>();
        /// A place in a queue has a stamp and a pointer.
        const PLACE_BYTES: usize = 2 * size_of::<usize>();

        records * (size_of::<R>() + NOTE_BYTES)    // going around
            + records * PLACE_BYTES                     // free
            + records * PLACE_BYTES // ready
    }
}

impl<R: Queued> Queue<R> {
    /// Allocates and touches room for `records`, which must not be 0.
    pub(crate) fn new(records: usize) -> Self {
        let free = ArrayQueue::new(records);
        for _ in 0..records {
            let pushed = free.push(Box::new(R::blank()));
            assert!(pushed.is_ok(), "there is a place for every record");
        }
        Self {
            free,
            ready: ArrayQueue::new(records),
            dropped: AtomicU64::new(0),
            state: AtomicU8::new(AWAKE),
            closed: AtomicBool::new(false),
            asked: AtomicU64::new(0),
            writer: OnceLock::new(),
            progress: Mutex::default(),
            progressed: Condvar::new(),
        }
    }

    /// Says which thread to wake, once.
    pub(crate) fn set_writer(&self, writer: Thread) {
        self.writer.set(writer).expect("a queue has one writer");
    }

    /// Hands `record` to the writer, or counts it as dropped and returns false. Safe to call in a signal
    /// handler: atomics, and at most one futex call.
    ///
    /// A thread that ran out of stack in the middle would leave a place in the queue taken and never filled,
    /// and the writer waiting for it. So the stack for it is touched first: it overflows here, where nothing
    /// is half done, or not.
    #[inline(never)]
    pub(crate) fn submit(&self, record: &R) -> bool {
        probe_stack();
        let free = if self.closed.load(Ordering::Relaxed) {
            None
        } else {
            self.free.pop()
        };
        let taken = if let Some(mut place) = free {
            place.copy_from(record);
            let pushed = self.ready.push(place);
            debug_assert!(pushed.is_ok(), "there is a place for every record");
            true
        } else {
            self.count_dropped(1);
            false
        };
        fence(Ordering::SeqCst);
        match self.state.load(Ordering::Relaxed) {
            AWAKE => {}
            NAPPING if self.ready.len() * 2 < self.ready.capacity() => {}
            _ => self.ring_once(),
        }
        taken
    }

    /// Records that wait for the writer.
    pub(crate) fn waiting(&self) -> usize {
        self.ready.len()
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub(crate) fn count_dropped(&self, lines: u64) {
        self.dropped.fetch_add(lines, Ordering::Relaxed);
    }

    /// No record gets in from now on, and the writer ends when it has written the others.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.ring();
    }

    /// Waits until what is in the queue now has been written. False if that took longer than until
    /// `deadline`.
    pub(crate) fn flush(&self, deadline: Instant) -> bool {
        let ticket = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        self.ring();
        self.wait_until(deadline, |progress| progress.flushed >= ticket)
    }

    /// Waits until the writer has gone. False if that took longer than until `deadline`.
    pub(crate) fn wait_finished(&self, deadline: Instant) -> bool {
        self.wait_until(deadline, |_| false)
    }

    fn wait_until(&self, deadline: Instant, done: impl Fn(&Progress) -> bool) -> bool {
        let mut progress = self.progress();
        while !(progress.finished || done(&progress)) {
            let Some(left) = deadline
                .checked_duration_since(Instant::now())
                .filter(|left| !left.is_zero())
            else {
                return false;
            };
            (progress, _) = self
                .progressed
                .wait_timeout(progress, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        // Two plain values: no panic can leave them half changed.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes a writer that naps or sleeps; of several threads that want to, one does.
    fn ring_once(&self) {
        if self.state.swap(AWAKE, Ordering::Relaxed) != AWAKE {
            self.ring();
        }
    }

    /// Makes the writer start another round, whatever it does now.
    pub(crate) fn ring(&self) {
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }
}

/// The writer's side: called by the writer thread only.
impl<R: Queued> Queue<R> {
    /// Starts a round: what was in the queue when a flush or the end was asked for is among the records of
    /// this round.
    pub(crate) fn begin_round(&self) -> Round {
        let closing = self.closed.load(Ordering::SeqCst);
        Round {
            closing,
            asked: self.asked.load(Ordering::SeqCst),
        }
    }

    /// Gives the records of one round to `write`, and says how many there were: no more than the queue holds,
    /// so that a round ends even if the queue never is empty.
    pub(crate) fn drain(&self, mut write: impl FnMut(&R)) -> usize {
        for drained in 0..self.ready.capacity() {
            let Some(record) = self.ready.pop() else {
                return drained;
            };
            write(&record);
            let pushed = self.free.push(record);
            debug_assert!(pushed.is_ok(), "there is a place for every record");
        }
        self.ready.capacity()
    }

    /// Everything of this round has been written, or counted as dropped.
    pub(crate) fn end_round(&self, round: Round) {
        let mut progress = self.progress();
        if progress.flushed != round.asked {
            progress.flushed = round.asked;
            self.progressed.notify_all();
        }
    }

    /// The writer has ended. Records that came in while the queue was being closed are not written any more.
    pub(crate) fn finish(&self) {
        self.count_dropped(self.ready.len() as u64);
        self.progress().finished = true;
        self.progressed.notify_all();
    }

    /// Lets lines gather, until there is a reason not to.
    pub(crate) fn nap(&self) {
        self.state.store(NAPPING, Ordering::Relaxed);
        std::thread::park_timeout(NAP);
        self.state.store(AWAKE, Ordering::Relaxed);
    }

    /// Sleeps until there is something to do that `round` did not see; `reported` is the number of dropped
    /// lines that have been reported. May return early.
    pub(crate) fn sleep(&self, round: Round, reported: u64) {
        self.state.store(ASLEEP, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let idle = self.ready.is_empty()
            && self.dropped() == reported
            && self.asked.load(Ordering::SeqCst) == round.asked
            && !self.closed.load(Ordering::SeqCst);
        if idle {
            // A ring between the look and this line is kept by `park` as a token: it returns at once.
            std::thread::park();
        }
        self.state.store(AWAKE, Ordering::Relaxed);
    }
}

/// Touches the stack [`SUBMIT_STACK_BYTES`] further down: less than a guard page, so that none is stepped
/// over.
#[inline(never)]
fn probe_stack() {
    const { assert!(SUBMIT_STACK_BYTES < 4096) };
    let mut stack = [MaybeUninit::<u8>::uninit(); SUBMIT_STACK_BYTES];
    stack[0].write(0);
    black_box(&mut stack);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        record::{Record as Event, tests::record_of},
        style::Style,
    };
    use std::sync::Arc;
    use std::thread;

    /// The writer's loop without naps and without a descriptor: it is about to sleep as often as can be.
    fn restless_writer(queue: Arc<Queue<Event>>, seen: Arc<AtomicU64>) {
        loop {
            let round = queue.begin_round();
            seen.fetch_add(queue.drain(|_| {}) as u64, Ordering::SeqCst);
            queue.end_round(round);
            if round.closing {
                return queue.finish();
            }
            queue.sleep(round, queue.dropped());
        }
    }

    #[test]
    fn no_wake_up_is_lost_however_a_push_meets_a_writer_that_falls_asleep() {
        const RECORDS: u64 = 200_000;
        let queue = Arc::new(Queue::new(4));
        let seen = Arc::new(AtomicU64::new(0));
        let writer = {
            let (queue, seen) = (Arc::clone(&queue), Arc::clone(&seen));
            thread::spawn(move || restless_writer(queue, seen))
        };
        queue.set_writer(writer.thread().clone());

        let record = record_of(Style::Json, || tracing::info!("m"));
        for pushed in 1..=RECORDS {
            queue.submit(&record);
            let deadline = Instant::now() + Duration::from_secs(20);
            while seen.load(Ordering::SeqCst) < pushed {
                assert!(Instant::now() < deadline, "record {pushed}: no wake-up");
                std::hint::spin_loop();
            }
            // Meet the writer a little later on its way to sleep each time.
            (0..pushed % 64).for_each(|_| std::hint::spin_loop());
        }
        queue.close();
        assert!(queue.wait_finished(Instant::now() + Duration::from_secs(20)));
        writer.join().expect("the writer did not panic");
        assert_eq!(queue.dropped(), 0);
    }

    #[test]
    fn a_flush_and_a_close_wake_a_writer_that_sleeps() {
        let queue = Arc::new(Queue::new(4));
        let writer = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || restless_writer(queue, Arc::default()))
        };
        queue.set_writer(writer.thread().clone());
        let deadline = Instant::now() + Duration::from_secs(10);
        let asleep = || {
            while queue.state.load(Ordering::SeqCst) != ASLEEP {
                assert!(Instant::now() < deadline, "the writer never sleeps");
                thread::yield_now();
            }
        };
        for _ in 0..1_000 {
            asleep();
            assert!(queue.flush(deadline));
        }
        asleep();
        queue.close();
        assert!(queue.wait_finished(deadline));
    }

    #[test]
    fn a_writer_that_naps_is_rung_when_the_queue_is_half_full() {
        let queue = Queue::new(4);
        let record = record_of(Style::Json, || tracing::info!("m"));
        queue.state.store(NAPPING, Ordering::SeqCst);
        queue.submit(&record);
        assert_eq!(queue.state.load(Ordering::SeqCst), NAPPING);
        queue.submit(&record);
        assert_eq!(queue.state.load(Ordering::SeqCst), AWAKE);
    }

    #[test]
    fn a_record_too_many_is_counted_and_those_before_it_stay() {
        let queue = Queue::new(2);
        let record = record_of(Style::Json, || tracing::info!("m"));
        (0..5).for_each(|_| {
            queue.submit(&record);
        });
        assert_eq!((queue.dropped(), queue.drain(|_| {})), (3, 2));
        queue.submit(&record);
        assert_eq!((queue.dropped(), queue.drain(|_| {})), (3, 1));
    }
}
