//! The cells that a request has locked: released for it when it does not return.

use super::lock::{Access, Lock};
use super::promise::Promise;
use crate::bucket::Bucket;
use crate::cleanup::WayOut;
use std::cell::Cell;
use std::ptr;

/// So many cells a request can hold at once.
const HELD_MAX: usize = 16;

/// One of them.
#[derive(Clone, Copy)]
pub(super) struct Held {
    pub lock: *const Lock,
    pub access: Access,
    /// What the thread's `net` was.
    pub since: isize,
    /// What its change was promised.
    pub promise: Option<Promise>,
}

/// Of one request, in the order in which they were locked.
pub(crate) struct HeldCells {
    cells: [Cell<Option<Held>>; HELD_MAX],
    count: Cell<usize>,
}

impl HeldCells {
    pub(crate) const fn new() -> Self {
        HeldCells {
            cells: [const { Cell::new(None) }; HELD_MAX],
            count: Cell::new(0),
        }
    }

    pub(super) fn has(&self, lock: &Lock) -> bool {
        let held = self.cells[..self.count.get()].iter();
        held.filter_map(Cell::get)
            .any(|held| ptr::eq(held.lock, lock))
    }

    /// # Panics
    /// If the request holds as many as it can.
    pub(super) fn make_room(&self) {
        assert!(
            self.count.get() < HELD_MAX,
            "a request can hold {HELD_MAX} Shared cells at once"
        );
    }

    pub(super) fn add(&self, held: Held) {
        self.cells[self.count.get()].set(Some(held));
        self.count.set(self.count.get() + 1);
    }

    pub(super) fn all(&self) -> &[Cell<Option<Held>>] {
        &self.cells[..self.count.get()]
    }

    /// The change of the cell with that address has this promise.
    pub(super) fn promise(&self, lock: usize, promise: Promise) {
        self.replace_promise(lock, Some(promise));
    }

    pub(super) fn take_promise(&self, lock: usize) -> Option<Promise> {
        self.replace_promise(lock, None)
    }

    fn replace_promise(&self, lock: usize, promise: Option<Promise>) -> Option<Promise> {
        let is_it = |held: &Held| held.lock.addr() == lock;
        let cell = self
            .all()
            .iter()
            .find(|cell| cell.get().as_ref().is_some_and(is_it))?;
        let mut held = cell.get()?;
        let before = std::mem::replace(&mut held.promise, promise);
        cell.set(Some(held));
        before
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count.get() == 0
    }

    /// It is released by its own frame. (The newest goes first, unless a coroutine holds one of them.)
    pub(super) fn remove(&self, lock: &Lock) {
        let held = &self.cells[..self.count.get()];
        let is_it =
            |cell: &Cell<Option<Held>>| cell.get().is_some_and(|held| ptr::eq(held.lock, lock));
        let Some(at) = held.iter().rposition(is_it) else {
            return;
        };
        for pair in held[at..].windows(2) {
            pair[0].set(pair[1].get());
        }
        self.count.set(held.len() - 1);
    }

    /// Its thread is gone, and has released what it held ([`give_up_closures`](super::give_up_closures)).
    /// What it has locked after that stays locked: it may have been a thread-local, which is gone with it.
    pub(crate) fn forget_all(&self) {
        for held in self.all().iter().filter_map(Cell::take) {
            held.promise.into_iter().for_each(Promise::end);
        }
        self.count.set(0);
    }

    /// Releases all of a request that did not return, newest first.
    pub(crate) fn release_all(&self, bucket: &Bucket, way_out: Option<WayOut>) {
        while self.count.get() > 0 {
            let newest = self.cells[self.count.get() - 1].take();
            self.count.set(self.count.get() - 1);
            let Some(Held {
                lock,
                access,
                since,
                promise,
            }) = newest
            else {
                continue;
            };
            promise.into_iter().for_each(Promise::end);
            if bucket.is_in_a_frame(lock as usize) {
                // A cell in a frame of the request is gone with the request, or parked with it. One in its
                // arena may be kept there, for others; and a thread-local one is there for the next request.
                super::disown(lock as usize); // another cell may lie there later
                continue;
            }
            // SAFETY: the cell lies outside the request's frames, and the frame that has borrowed it has not
            // returned: a jump has left it just now, or it is parked, or a coroutine's that is suspended or
            // was leaked, and those borrow only what lives for ever or what they own. So the cell lives, or
            // at least its memory is not used for anything else yet.
            unsafe { (*lock).leave(access, since, way_out) };
        }
    }
}
