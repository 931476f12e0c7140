//! The cells that a request has locked: released for it when it does not return.

use super::lock::{Access, Lock};
use crate::bucket::Bucket;
use crate::cleanup::WayOut;
use std::cell::Cell;

/// So many cells a request can hold at once.
const HELD_MAX: usize = 16;

/// One of them.
#[derive(Clone, Copy)]
pub(super) struct Held {
    pub lock: *const Lock,
    pub access: Access,
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
            .any(|held| std::ptr::eq(held.lock, lock))
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

    /// The newest is released by its own frame. (They are locked by closures, so the newest goes first.)
    pub(super) fn remove(&self) {
        self.count.set(self.count.get() - 1);
        self.cells[self.count.get()].set(None);
    }

    /// Releases all of a request that did not return, newest first.
    pub(crate) fn release_all(&self, bucket: &Bucket, way_out: WayOut) {
        while self.count.get() > 0 {
            let newest = self.cells[self.count.get() - 1].take();
            self.count.set(self.count.get() - 1);
            let Some(Held { lock, access }) = newest else {
                continue;
            };
            if bucket.is_on_a_stack(lock as usize) {
                // A cell on the request's own stack is gone with the request, or parked with it. One in its arena may be kept
                // there, for others.
                continue;
            }
            // SAFETY: the cell lies outside the request's frames, whose borrow of it has not ended by returning: it still
            // lives, or at least its memory is nobody else's yet.
            unsafe { (*lock).leave(access, way_out) };
        }
    }
}
