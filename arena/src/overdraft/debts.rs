//! What cells of the shared heap owe: bytes that lie in the overdraft because their pool had no room for
//! them.
//!
//! Each of these blocks says in its header which debt it is of, so that the debt is less when it is freed,
//! whichever thread frees it. A cell whose value is lost (a closure that never returns has it) owes nothing
//! any more: nothing will ever be freed for it, and a fresh value is not to be charged with it.

use std::sync::atomic::{AtomicUsize, Ordering};

/// This many cells can owe something at once; further cells owe nothing. A block's header has a byte for the
/// number of its debt, and 0 is none.
const DEBTS: usize = u8::MAX as usize;

/// No cell lies there: what is left of the debt of one whose value is lost, until it is freed after all.
const NO_CELL: usize = usize::MAX;

/// One of them.
struct Debt {
    /// The cell, by its address; 0: there is no debt of this number.
    cell: AtomicUsize,
    bytes: AtomicUsize,
}

/// All of them. Changed under the overdraft's lock.
pub(super) struct Debts {
    debts: [Debt; DEBTS],
    /// How many there are.
    count: AtomicUsize,
}

impl Debts {
    pub(super) const fn new() -> Self {
        Debts {
            debts: [const {
                Debt {
                    cell: AtomicUsize::new(0),
                    bytes: AtomicUsize::new(0),
                }
            }; DEBTS],
            count: AtomicUsize::new(0),
        }
    }

    fn of(&self, cell: usize) -> impl Iterator<Item = (usize, &Debt)> {
        let is_its = move |(_, debt): &(usize, &Debt)| debt.cell.load(Ordering::Relaxed) == cell;
        self.debts.iter().enumerate().filter(is_its)
    }

    /// Bytes that the cell owes.
    pub(super) fn owed_by(&self, cell: usize) -> usize {
        if self.count.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        let debt = self.of(cell).next();
        debt.map_or(0, |(_, debt)| debt.bytes.load(Ordering::Relaxed))
    }

    /// The cell owes so many bytes more. The number of its debt; 0: there is no place for another one, or no
    /// cell (of address 0).
    pub(super) fn more(&self, cell: usize, bytes: usize) -> u8 {
        if cell == 0 {
            return 0;
        }
        let Some((index, debt)) = self.of(cell).next().or_else(|| self.of(0).next()) else {
            return 0;
        };
        if debt.cell.swap(cell, Ordering::Relaxed) == 0 {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        debt.bytes.fetch_add(bytes, Ordering::Relaxed);
        (index + 1) as u8 // at most DEBTS
    }

    /// So many bytes of that debt are freed, or were not had after all.
    pub(super) fn less(&self, number: u8, bytes: usize) {
        let Some(index) = usize::from(number).checked_sub(1) else {
            return;
        };
        let debt = &self.debts[index];
        if debt.bytes.fetch_sub(bytes, Ordering::Relaxed) == bytes {
            debt.cell.store(0, Ordering::Relaxed);
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The cell owes nothing any more.
    pub(super) fn forgive(&self, cell: usize) {
        self.hand_over(cell, NO_CELL);
    }

    /// What the one owes is owed by the other.
    pub(super) fn hand_over(&self, from: usize, to: usize) {
        for (_, debt) in self.of(from) {
            debt.cell.store(to, Ordering::Relaxed);
        }
    }
}
