//! The large blocks of the pools, and which cell has made them. A vector or a hash map doubles in one piece,
//! and that piece must be allocated before its cell is changed.

use super::{POOLS, POOLS_MAX};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The owner of a block that belongs to no cell: the value that has it is lost.
const NO_CELL: usize = usize::MAX;

/// A block is large if it has at least a 64th of its pool. No more than 64 can exist at once.
const PARTS: usize = 64;

/// One of them; no address: none.
struct Block {
    address: AtomicUsize,
    size: AtomicUsize,
    owner: AtomicUsize,
}

/// Of one pool. Written under its lock.
struct Blocks {
    count: AtomicUsize,
    blocks: [Block; PARTS],
}

static OF_POOLS: [Blocks; POOLS_MAX] = [const { Blocks::new() }; POOLS_MAX];

impl Blocks {
    const fn new() -> Self {
        Blocks {
            count: AtomicUsize::new(0),
            blocks: [const {
                Block {
                    address: AtomicUsize::new(0),
                    size: AtomicUsize::new(0),
                    owner: AtomicUsize::new(0),
                }
            }; PARTS],
        }
    }

    /// The block with this address, or a free place, with address 0.
    fn find(&self, address: usize) -> Option<&Block> {
        let is_it = |block: &&Block| block.address.load(Ordering::Relaxed) == address;
        self.blocks.iter().find(is_it)
    }

    /// The pool's lock need not be held, only the cell's: its own blocks stay where they are noted, while
    /// others come and go before and behind them. So all places are looked at.
    fn largest_of(&self, owner: usize) -> usize {
        if self.count.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        let is_its = |block: &&Block| {
            block.address.load(Ordering::Acquire) != 0
                && block.owner.load(Ordering::Relaxed) == owner
        };
        let size = |block: &Block| block.size.load(Ordering::Relaxed);
        self.blocks
            .iter()
            .filter(is_its)
            .map(size)
            .max()
            .unwrap_or(0)
    }
}

fn limit(pool: usize) -> usize {
    POOLS[pool].len() / PARTS
}

/// A block was made, in a change of that cell (0: of none).
pub(super) fn made(pool: usize, address: usize, size: usize, owner: usize) {
    if size < limit(pool) {
        return;
    }
    let _locked = POOLS[pool].lock();
    let of_pool = &OF_POOLS[pool];
    if let Some(block) = of_pool.find(0) {
        block.size.store(size, Ordering::Relaxed);
        block.owner.store(owner, Ordering::Relaxed);
        block.address.store(address, Ordering::Release); // with its owner
        of_pool.count.fetch_add(1, Ordering::Relaxed);
    }
}

/// A block is about to go.
pub(super) fn gone(pool: usize, address: usize, size: usize) {
    if size < limit(pool) {
        return;
    }
    let _locked = POOLS[pool].lock();
    let of_pool = &OF_POOLS[pool];
    if let Some(block) = of_pool.find(address) {
        block.address.store(0, Ordering::Relaxed);
        of_pool.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The value of the cell is lost: its blocks are not those of the value that comes after it.
pub(super) fn disown(owner: usize) {
    hand_over(owner, NO_CELL);
}

/// What the one has made is the other's.
pub(super) fn hand_over(from: usize, to: usize) {
    for (pool, of_pool) in POOLS.iter().zip(&OF_POOLS) {
        if of_pool.largest_of(from) == 0 {
            continue;
        }
        let _locked = pool.lock();
        for block in &of_pool.blocks {
            if block.owner.load(Ordering::Relaxed) == from {
                block.owner.store(to, Ordering::Relaxed);
            }
        }
    }
}

/// The largest block that the cell may have, in its pool or in the heap of all. Of small ones it is not
/// known.
pub(super) fn largest_of(pool: usize, owner: usize) -> usize {
    let small = limit(pool).min(POOLS[pool].used());
    [0, pool].iter().fold(small, |most, &pool| {
        most.max(OF_POOLS[pool].largest_of(owner))
    })
}

#[cfg(test)]
mod tests {
    use super::Blocks;
    use std::sync::atomic::Ordering;

    /// What a scan finds that has read the count, before another cell's block was noted ahead of its own.
    #[test]
    fn a_block_counts_whatever_was_noted_before_it_meanwhile() {
        let blocks = Blocks::new();
        blocks.count.store(1, Ordering::Relaxed);
        for (block, owner) in blocks.blocks.iter().zip([8, 16]) {
            block.size.store(100 * owner, Ordering::Relaxed);
            block.owner.store(owner, Ordering::Relaxed);
            block.address.store(4096 * owner, Ordering::Relaxed);
        }
        assert_eq!(blocks.largest_of(16), 1600);
    }
}
