//! The part of a cell that does not depend on its type: which threads may go in, and the state in which the
//! last one has left it.

use super::SharedError;
use super::held::Held;
use crate::cleanup::WayOut;
use crate::futex::{AtomicU32, Ordering};
use crate::recovery::{STACK_MARGIN, ensure_stack};
use crate::rwlock;
use crate::thread::{bound, era, thread};
use std::sync::atomic::{AtomicIsize, AtomicU8, AtomicUsize};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// What the last request to leave the cell has made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum State {
    /// Whole.
    Whole = 0,
    /// A panic has unwound out of a change: the value is a value, but may be half-changed.
    Panicked = 1,
    /// A change was left by a jump: the value may be no value.
    Broken = 2,
    /// A request that will never end has a `&T`: no other may have a `&mut T` to the same storage again.
    Read = 3,
    /// A request that will never end has a `&mut T`: no other may have a reference to the same storage again.
    Written = 4,
}

impl State {
    fn of(number: u8) -> Self {
        match number {
            0 => State::Whole,
            1 => State::Panicked,
            2 => State::Broken,
            3 => State::Read,
            _ => State::Written,
        }
    }

    /// The state of a cell that is in both states. To a broken value that a request refers to for ever, no
    /// other may have a reference.
    fn and(self, other: State) -> State {
        match (self, other) {
            (State::Broken, State::Read) | (State::Read, State::Broken) => State::Written,
            (one, other) => one.max(other),
        }
    }
}

pub(super) struct Lock {
    word: AtomicU32,
    state: AtomicU8,
    /// The writer's thread, to turn a self-deadlock into a panic. Zero: none.
    writer: AtomicUsize,
    /// Bytes of the shared heap that the value has, as far as changes have shown. Written with the lock held
    /// for writing.
    bytes: AtomicIsize,
}

impl Lock {
    pub(super) const fn new() -> Self {
        Lock {
            word: AtomicU32::new(rwlock::FREE),
            state: AtomicU8::new(State::Whole as u8),
            writer: AtomicUsize::new(0),
            bytes: AtomicIsize::new(0),
        }
    }

    pub(super) fn state(&self) -> State {
        State::of(self.state.load(Ordering::Acquire))
    }

    pub(super) fn set_whole(&self) {
        self.state.store(State::Whole as u8, Ordering::Release);
    }

    /// Changes the state only for the worse: a reader that leaves must not hide what another has done.
    fn worsen(&self, state: State) {
        let worse = |now: u8| Some(State::of(now).and(state) as u8);
        let _ = self
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, worse);
    }

    /// Whether the value may be had that way.
    fn check(&self, access: Access) -> Result<(), SharedError> {
        match (self.state(), access) {
            (State::Whole, _) | (State::Read, Access::Read) => Ok(()),
            (State::Read, Access::Write) => Err(SharedError::Lent),
            (State::Panicked | State::Broken | State::Written, _) => Err(SharedError::Poisoned),
        }
    }

    /// Runs `f` while the lock is held, and unlocks on every way out.
    pub(super) fn locked<R>(
        &self,
        access: Access,
        f: impl FnOnce() -> Result<R, SharedError>,
    ) -> Result<R, SharedError> {
        struct Guard<'l> {
            lock: &'l Lock,
            access: Access,
            since: isize,
            era: u64,
            returned: bool,
        }
        impl Drop for Guard<'_> {
            fn drop(&mut self) {
                if self.era != era() {
                    return; // it was given up, and released, when its request ended
                }
                let way_out = match self.returned {
                    true => WayOut::Returned,
                    false => WayOut::Unwound,
                };
                self.lock.give_back(self.access, self.since, way_out);
            }
        }
        ensure_stack(STACK_MARGIN);
        let since = self.acquire(access);
        let mut guard = Guard {
            lock: self,
            access,
            since,
            era: era(),
            returned: false,
        };
        // The state is looked at with the lock, so that a thread that waits learns what the one before it has
        // left.
        let result = self.check(access).and_then(|()| f());
        guard.returned = true;
        result
    }

    /// Takes the lock, and notes it for the way out of the request. What the thread's `net` is then.
    fn acquire(&self, access: Access) -> isize {
        let me = thread(|t| std::ptr::from_ref(t) as usize);
        let bucket = bound();
        let has_it = self.writer.load(Ordering::Relaxed) == me
            || bucket.is_some_and(|bucket| bucket.held.has(self));
        assert!(
            !has_it,
            "this request holds the Shared already: locking it again would wait for itself for ever"
        );
        if let Some(bucket) = bucket {
            bucket.held.make_room();
        }
        match access {
            Access::Read => rwlock::read(&self.word),
            Access::Write => {
                rwlock::write(&self.word);
                self.writer.store(me, Ordering::Relaxed);
                thread(|t| t.writing.set(t.writing.get() + 1));
            }
        }
        let since = thread(|t| t.net.get());
        if let Some(bucket) = bucket {
            bucket.held.add(Held {
                lock: self,
                access,
                since,
                promise: None,
            });
        }
        since
    }

    /// The value has so many bytes.
    pub(super) fn set_bytes(&self, bytes: isize) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// What the value has stays in use for ever, because it may be no value, or a request may refer to it.
    pub(super) fn lose_value(&self) {
        super::lose(self.bytes.swap(0, Ordering::Relaxed));
        super::disown(self.address());
    }

    /// Which cell it is, where that is noted.
    pub(super) fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// The frame that has taken the lock gives it back.
    fn give_back(&self, access: Access, since: isize, way_out: WayOut) {
        if let Some(bucket) = bound() {
            bucket.held.remove(self);
        }
        self.leave(access, since, Some(way_out));
    }

    /// Releases the lock for the request that has it, and notes what it leaves behind: without a way out, a
    /// frame that never returns.
    pub(super) fn leave(&self, access: Access, since: isize, way_out: Option<WayOut>) {
        let Some(way_out) = way_out else {
            let left = match access {
                Access::Write => State::Written,
                Access::Read => State::Read,
            };
            return self.leave_as(access, since, left);
        };
        let left = match (access, way_out) {
            (_, WayOut::Returned) => State::Whole,
            (Access::Write, WayOut::Unwound) => State::Panicked,
            // A reader that was stopped between two arbitrary instructions counts as a writer: it may have
            // been changing something through `&T`.
            (Access::Write, WayOut::Escaped | WayOut::Overflowed)
            | (Access::Read, WayOut::Overflowed) => State::Broken,
            (Access::Read, WayOut::Unwound | WayOut::Escaped) => State::Whole,
        };
        self.leave_as(access, since, left);
    }

    fn leave_as(&self, access: Access, since: isize, left: State) {
        if access == Access::Write {
            let net = thread(|t| t.net.replace(since)) - since;
            self.bytes.fetch_add(net, Ordering::Relaxed);
        }
        if matches!(left, State::Broken | State::Written) {
            self.lose_value();
        }
        self.worsen(left);
        match access {
            Access::Read => rwlock::unlock_read(&self.word),
            Access::Write => {
                self.writer.store(0, Ordering::Relaxed);
                thread(|t| t.writing.set(t.writing.get().saturating_sub(1)));
                rwlock::unlock_write(&self.word);
            }
        }
    }

    /// Runs `f` with the lock held for writing, whatever state the cell is in.
    pub(super) fn seized<R>(&self, f: impl FnOnce() -> R) -> R {
        ensure_stack(STACK_MARGIN);
        let since = self.acquire(Access::Write);
        let result = f();
        self.give_back(Access::Write, since, WayOut::Returned);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::State;

    #[test]
    fn a_cell_is_as_bad_as_all_that_have_left_it() {
        let all = [0, 1, 2, 3, 4].map(State::of);
        for one in all {
            for other in all {
                let both = one.and(other);
                assert_eq!(both, other.and(one));
                assert!(both >= one && both >= other);
                let is_no_value = |state| matches!(state, State::Broken | State::Written);
                if is_no_value(one) || is_no_value(other) {
                    assert!(is_no_value(both), "{one:?} {other:?}");
                }
            }
        }
        assert_eq!(State::Broken.and(State::Read), State::Written);
    }
}
