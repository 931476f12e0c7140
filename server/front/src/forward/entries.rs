//! What a forward knows of each call in its door.

use crate::entrance::Calls;
use transom_doors::SlotId;

/// A call that has a slot.
pub(super) struct CallEntry<C> {
    pub(super) slot: SlotId,
    pub(super) call: C,
    /// Bytes of its frame.
    pub(super) len: usize,
    /// When it is given up; 0 for never.
    pub(super) due_ns: u64,
    /// It lies in its slot, to be submitted there or elsewhere.
    pub(super) unsent: bool,
    /// When its wait for an instance that accepts it ends; 0: it has not begun. All its waits share this.
    pub(super) waits_until_ns: u64,
}

/// The calls of one instance, by slot.
pub(super) struct Entries<C> {
    pub(super) by_slot: Box<[Option<CallEntry<C>>]>,
    /// Entries that there are.
    pub(super) count: usize,
    /// How many of them are unsent.
    pub(super) unsent: usize,
}

impl<C> Entries<C> {
    pub(super) fn new(slots: usize) -> Self {
        Entries {
            by_slot: (0..slots).map(|_| None).collect(),
            count: 0,
            unsent: 0,
        }
    }

    pub(super) fn put(&mut self, entry: CallEntry<C>) {
        let place = &mut self.by_slot[entry.slot.index()];
        debug_assert!(place.is_none(), "a slot has one call");
        self.count += 1;
        self.unsent += usize::from(entry.unsent);
        *place = Some(entry);
    }

    pub(super) fn take(&mut self, index: usize) -> Option<CallEntry<C>> {
        let entry = self.by_slot[index].take()?;
        self.count -= 1;
        self.unsent -= usize::from(entry.unsent);
        Some(entry)
    }

    /// A call was submitted, or was not accepted after that; it has so much time from now on.
    pub(super) fn set_unsent(&mut self, index: usize, unsent: bool, due_ns: u64) {
        if let Some(entry) = self.by_slot[index].as_mut() {
            self.unsent -= usize::from(entry.unsent);
            self.unsent += usize::from(unsent);
            entry.unsent = unsent;
            entry.due_ns = due_ns;
        }
    }
}

impl<C> Calls for Entries<C> {
    fn waiting(&self) -> usize {
        self.unsent
    }
}
