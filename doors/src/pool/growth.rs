//! Which thread to wake, and when to start one.
//!
//! **Growth.** As libc does for illumos doors: a thread that takes the last idle thread's place
//! starts another one *before* it runs its handler, so one spare is there at all times and threads
//! are started only at a new high water of concurrency, one at a time, never beyond `threads_max`.
//! Two departures, with their reasons:
//! - A claimer whose handler is expected to be short, with nothing waiting behind it, does not
//!   start a spare: a door of tiny handlers would otherwise grow to a number of threads that it can
//!   never use.
//! - So a handler can block while no spare exists. Then the side that finds the waiting call asks for
//!   the thread: the submitter at once if no thread can be counted on, else the client's `nudge`.
//!   `server_create` may therefore be called on a client's thread.
//!
//! This file is only policy: the rules by which no wake-up is lost are in `idle`.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::back_end::clock::now_ns;
use crate::pool::shared::Pool;
use crate::rules::sync::Ordering;

/// After a thread could not be started, the next attempt waits this long: a failing pthread_create
/// per call would slow down the calls that the other threads still carry.
const RETRY_NS: u64 = 10_000_000;

impl Pool {
    /// Wakes the lowest idle thread; see [`IdleSet::wake_one`](crate::rules::idle::IdleSet::wake_one).
    pub fn wake_one(&self) -> bool {
        self.idle().wake_one(self.started())
    }

    /// Rings for `calls` calls that have just been published.
    pub fn ring_for(&self, calls: u32) {
        let running = self.board.idle().running();
        for woken in 0..self.pace().threads_for(calls, running) {
            if !self.wake_one() {
                // A thread that was woken or is searching starts the next one when it leaves for its
                // handler and calls still wait: only then is it known that they need one each.
                if woken == 0 && running == 0 {
                    self.grow();
                }
                return;
            }
        }
    }

    /// Before thread `thread` runs a handler: another must be there for the next call. Returns whether
    /// that took time.
    pub fn leave_to_handler(&self, thread: u32) -> bool {
        if thread >= self.growth.high_water.load(Ordering::Relaxed) {
            self.growth
                .high_water
                .fetch_max(thread + 1, Ordering::Relaxed);
        }
        if self.pace().is_slow() {
            self.idle().go_away(thread);
            return self.board.idle().running() == 0 && self.find_company(self.backlog(thread));
        }
        self.idle().enter(thread);
        let started = self.started();
        started < self.threads_max()
            && !self.board.idle().any_idle(started)
            && self.backlog(thread)
            && self.grow()
    }

    /// No thread looks for work, and one is about to be away for long: wakes a thread if one is needed
    /// now, starts one if no spare is left.
    fn find_company(&self, needed_now: bool) -> bool {
        if needed_now && self.wake_one() {
            return true;
        }
        let started = self.started();
        started < self.threads_max() && !self.board.idle().any_idle(started) && self.grow()
    }

    /// Before thread `thread` blocks inside its handler, where this crate can see it.
    pub fn leave_to_block(&self, thread: u32) {
        self.idle().go_away(thread);
        if self.board.idle().running() == 0 {
            self.find_company(self.backlog(thread));
        }
    }

    /// For calls that have waited too long: the thread that was expected to take them is inside a handler
    /// that blocks. Returns whether a thread is on its way; if not, every thread is busy, and the next one
    /// that gets free takes the call without being asked.
    pub fn nudge(&self) -> bool {
        self.idle().give_up_on_busy(self.started());
        // A thread was woken, but has no CPU yet: on a loaded machine a second one would only queue behind
        // it.
        if self.board.idle().running() > 0 {
            return true;
        }
        let helped = self.wake_one() || self.grow();
        if helped {
            self.pace().assume_slow();
        }
        helped
    }

    /// Asks for one more thread, unless all exist, one is on its way, or the last attempt failed
    /// just now. Returns whether one is on its way.
    pub fn grow(&self) -> bool {
        if self.started() >= self.threads_max() || !self.channels.is_sealed() {
            return false;
        }
        let retry_after_ns = self.growth.retry_after_ns.load(Ordering::Relaxed);
        if retry_after_ns != 0 && now_ns() < retry_after_ns {
            return false;
        }
        match self.start_thread() {
            Some(started) => started.is_ok(),
            None => self.growth.starting.load(Ordering::SeqCst),
        }
    }

    /// A started thread is here.
    pub fn thread_arrived(&self, thread: u32) {
        assert!(
            thread < self.started(),
            "thread {thread} serves, but was never asked for"
        );
        if self.idle().is_away(thread) {
            // In the place of one that has left.
            self.ended.fetch_sub(1, Ordering::SeqCst);
            self.idle().search(thread);
            return;
        }
        self.idle().arrive();
        self.growth.starting.store(false, Ordering::SeqCst);
        if self.started() < self.growth.threads_min {
            self.grow();
        }
    }

    /// The number of a thread that was not asked for, and that will serve.
    pub fn bind(&self) -> io::Result<u32> {
        if !self.channels.is_sealed() {
            return Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "the door has not been started",
            ));
        }
        let starting = &self.growth.starting;
        // One thread comes at a time; another one that is on its way arrives soon.
        while starting.swap(true, Ordering::SeqCst) {
            std::thread::yield_now();
        }
        let thread = self.started();
        if thread >= self.threads_max() {
            starting.store(false, Ordering::SeqCst);
            return Err(io::Error::new(
                io::ErrorKind::OutOfMemory,
                "the door has all the threads that it may have (threads_max)",
            ));
        }
        self.board.started().store(thread + 1, Ordering::SeqCst);
        Ok(thread)
    }

    /// Starts the next thread; `None` if another start is in progress or all threads exist.
    pub fn start_thread(&self) -> Option<io::Result<()>> {
        if self.growth.starting.load(Ordering::Relaxed)
            || self.growth.starting.swap(true, Ordering::SeqCst)
        {
            return None;
        }
        let index = self.started();
        if index >= self.threads_max() {
            self.growth.starting.store(false, Ordering::SeqCst);
            return None;
        }
        // Before the thread exists: a scan of the idle set must look as far as its bit.
        self.board.started().store(index + 1, Ordering::SeqCst);
        let create = || (self.growth.server_create)(index);
        let outcome = catch_unwind(AssertUnwindSafe(create))
            .unwrap_or_else(|_| Err(io::Error::other("server_create panicked")));
        if outcome.is_err() {
            self.growth.starts_failed.fetch_add(1, Ordering::Relaxed);
            self.growth
                .retry_after_ns
                .store(now_ns() + RETRY_NS, Ordering::Relaxed);
            self.board.started().store(index, Ordering::SeqCst);
            self.growth.starting.store(false, Ordering::SeqCst);
        }
        Some(outcome)
    }
}
