//! Where free blocks lie: an arena is counted in granules of 16 bytes, and a block is named by its first.
//! It is what the lists and the index of free blocks have in common.

#[cfg(test)]
use std::cell::Cell;
use std::ptr::NonNull;

/// Every block is a multiple of this, and aligned to it.
pub(crate) const GRANULE: usize = 16;

/// The end of a list; above the places of all blocks.
pub(crate) const NIL: u32 = u32::MAX;

#[cfg(test)]
thread_local! {
    /// How often a free block was looked at.
    pub(crate) static LOOKS_TAKEN: Cell<u64> = const { Cell::new(0) };
}

/// The bytes that a block of so many has.
#[inline(always)]
pub(crate) const fn rounded(size: usize) -> usize {
    // Cannot overflow: a layout's size is at most isize::MAX.
    (size + GRANULE - 1) & !(GRANULE - 1)
}

/// A stretch of an arena: where it begins and how long it is, in granules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub at: u32,
    pub len: u32,
}

impl Stretch {
    pub(crate) fn bytes(self) -> usize {
        self.len as usize * GRANULE
    }
}

/// The arena that free blocks lie in. They are named by their granule, and reached through this pointer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Base(NonNull<u8>);

impl Base {
    /// # Safety
    /// The memory is aligned to [`GRANULE`], and valid as far as granules are named with this base.
    pub(crate) unsafe fn new(memory: NonNull<u8>) -> Self {
        Base(memory)
    }

    #[inline(always)]
    pub(crate) fn granule_of(self, address: usize) -> u32 {
        ((address - self.0.as_ptr().addr()) / GRANULE) as u32
    }

    #[inline(always)]
    pub(crate) fn address_of(self, granule: u32) -> usize {
        self.0.as_ptr().addr() + granule as usize * GRANULE
    }

    #[inline(always)]
    pub(crate) fn pointer_to(self, granule: u32) -> NonNull<u8> {
        // SAFETY: granules that are named lie in the arena, by the promise of `new`.
        unsafe { self.0.add(granule as usize * GRANULE) }
    }
}
