//! Freed blocks of one arena, in lists by size, to be handed out again.
//!
//! Every block is a whole number of granules of 16 bytes, and every list is threaded through the blocks
//! themselves: a free block's first eight bytes say which block comes next and how long this one is. Small
//! sizes have a list each, so a block that was freed and the next one of its size cost a few instructions;
//! larger sizes share lists, two to a doubling, and are split. Neighbours are joined only on request
//! ([`FreeLists::join`]): at first those among the blocks that came since the last time, which costs each
//! block one look. Many small holes that have no neighbour are so looked at once, and not at each join.
//!
//! When that is not enough all blocks are settled ([`FreeLists::settle`]) in an [`Index`], which knows for
//! certain what is there.
//!
//! It knows nothing of where the arena ends, of marks or of requests. It is plain memory and arithmetic, so
//! that it runs under Miri.

use std::alloc::Layout;
use std::cell::Cell;
use std::ptr::NonNull;

#[cfg(test)]
use crate::granules::LOOKS_TAKEN;
use crate::granules::{Base, GRANULE, NIL, Stretch, rounded};
use crate::index::Index;

/// Blocks of at most this many bytes have a list for each size.
pub(crate) const SMALL_MAX: usize = 32 * GRANULE;

const SMALL_BINS: usize = SMALL_MAX / GRANULE;
const BINS: usize = u64::BITS as usize;

/// Set in the length of a block that was looked at to join it, and so has no neighbour among those that were
/// there then. New blocks go to the head of their list, so these lie behind them.
const SETTLED: u32 = 1 << 31;

/// The largest arena whose blocks have lengths below [`SETTLED`].
pub(crate) const ARENA_MAX: usize = (SETTLED - 1) as usize * GRANULE;

/// How many blocks of a shared list are looked at for one that is large enough, before a larger list is taken
/// instead.
const LOOKS: u32 = 8;

/// A free block, as it lies in the arena.
#[derive(Clone, Copy)]
#[repr(C)]
struct Free {
    /// The granule at which the next one begins.
    next: u32,
    /// Granules of this one, and [`SETTLED`].
    tagged: u32,
}

impl Free {
    fn len(self) -> u32 {
        self.tagged & !SETTLED
    }
}

impl Base {
    #[inline(always)]
    fn read(self, granule: u32) -> Free {
        #[cfg(test)]
        LOOKS_TAKEN.set(LOOKS_TAKEN.get() + 1);
        // SAFETY: only granules of free blocks are read, which `write` has written; aligned to 16.
        unsafe { self.pointer_to(granule).cast::<Free>().read() }
    }

    #[inline(always)]
    fn write(self, granule: u32, free: Free) {
        // SAFETY: the granule begins a block that was put into a list, so it belongs to the list alone.
        unsafe { self.pointer_to(granule).cast::<Free>().write(free) };
    }

    fn set_next(self, granule: u32, next: u32) {
        let tagged = self.read(granule).tagged;
        self.write(granule, Free { next, tagged });
    }
}

/// The lists of one arena. All blocks in them are free.
#[derive(Debug)]
pub(crate) struct FreeLists {
    /// Which lists have a block; the heads of the others mean nothing, so that emptying all lists is one
    /// store.
    occupied: Cell<u64>,
    heads: [Cell<u32>; BINS],
    /// Blocks that were put in since some were joined.
    fresh: Cell<u64>,
    /// Blocks that were put in before, since all were joined.
    earlier: Cell<u64>,
    /// Blocks that there were when all were joined.
    joined: Cell<u64>,
    /// All blocks but those that were put in since they were settled.
    index: Index,
}

/// The list that blocks of so many granules are in.
#[inline(always)]
fn bin_of(len: u32) -> usize {
    if len as usize <= SMALL_BINS {
        return (len as usize).wrapping_sub(1) % BINS;
    }
    // Two lists to a doubling, from 512 bytes: [512, 768), [768, 1024), [1024, 1536), …
    let log = len.ilog2();
    let half = (len >> (log - 1)) & 1;
    (SMALL_BINS + 2 * (log as usize - 5) + half as usize).min(BINS - 1)
}

impl FreeLists {
    /// For an arena of so many granules.
    pub(crate) const fn new(granules: u32) -> Self {
        FreeLists {
            occupied: Cell::new(0),
            heads: [const { Cell::new(NIL) }; BINS],
            fresh: Cell::new(0),
            earlier: Cell::new(0),
            joined: Cell::new(0),
            index: Index::new(granules),
        }
    }

    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.occupied.get() == 0 && self.index.is_empty()
    }

    /// Whether blocks were settled, and some of them are there.
    pub(crate) fn are_indexed(&self) -> bool {
        !self.index.is_empty()
    }

    /// Forgets all blocks, without looking at them.
    #[inline]
    pub(crate) fn clear(&self) {
        self.occupied.set(0);
        self.index.clear();
        self.forget_counts();
    }

    /// Forgets how many were put in and joined.
    #[inline(always)]
    pub(crate) fn forget_counts(&self) {
        self.fresh.set(0);
        self.earlier.set(0);
        self.joined.set(0);
    }

    /// Whether a block was put in since some were joined.
    pub(crate) fn have_fresh(&self) -> bool {
        self.fresh.get() > 0
    }

    /// Whether so many were put in since all were joined that another look at all of them costs each a few.
    pub(crate) fn are_worth_joining(&self) -> bool {
        self.unjoined() > self.joined.get() / 8
    }

    fn unjoined(&self) -> u64 {
        self.fresh.get() + self.earlier.get()
    }

    /// Puts a block in.
    ///
    /// # Safety
    /// The block lies in the base's arena, is not in a list, and is not used until it is taken out.
    #[inline(always)]
    pub(crate) unsafe fn put(&self, base: Base, block: Stretch) {
        self.fresh.set(self.fresh.get() + 1);
        // SAFETY: by the caller's promise.
        unsafe { self.link(base, block, 0) };
    }

    /// # Safety
    /// As for [`FreeLists::put`].
    #[inline(always)]
    unsafe fn link(&self, base: Base, block: Stretch, tag: u32) {
        let bin = bin_of(block.len);
        let bit = 1 << bin;
        let occupied = self.occupied.get();
        let next = if occupied & bit == 0 {
            NIL
        } else {
            self.heads[bin].get()
        };
        let tagged = block.len | tag;
        base.write(block.at, Free { next, tagged });
        self.heads[bin].set(block.at);
        self.occupied.set(occupied | bit);
    }

    /// A block of exactly so many bytes, at most [`SMALL_MAX`], if one is there.
    #[inline(always)]
    pub(crate) fn take_small(&self, base: Base, size: usize) -> Option<NonNull<u8>> {
        let occupied = self.occupied.get();
        if occupied == 0 {
            return None; // as it is while blocks are freed in the order in which they were made
        }
        let bin = (size / GRANULE - 1) % BINS; // which changes nothing, and needs no check
        let bit = 1u64 << bin;
        if occupied & bit == 0 {
            return None;
        }
        let at = self.heads[bin].get();
        let next = base.read(at).next;
        self.heads[bin].set(next);
        if next == NIL {
            self.occupied.set(self.occupied.get() & !bit);
        }
        Some(base.pointer_to(at))
    }

    /// A block for `size` bytes at an alignment of at most [`GRANULE`], of the nearest size that is there;
    /// the rest of the block stays. A few blocks of the nearest list are looked at, and then those that were
    /// settled.
    pub(crate) fn take(&self, base: Base, size: usize) -> Option<NonNull<u8>> {
        if size > ARENA_MAX {
            return None;
        }
        let len = (size / GRANULE) as u32;
        let bin = bin_of(len);
        if let Some(found) = self.unlink(base, bin, LOOKS, |block| block.len >= len) {
            return Some(self.split(base, found, 0, len));
        }
        if let Some(at) = self.index.take(base, len) {
            return Some(base.pointer_to(at));
        }
        // Whatever is in the lists above is large enough.
        let above = self.occupied.get() & (!1 << bin);
        if above == 0 {
            return None;
        }
        let found = self.unlink(base, above.trailing_zeros() as usize, 1, |_| true)?;
        Some(self.split(base, found, 0, len))
    }

    /// As [`take`](FreeLists::take), at a larger alignment: in each list it looks at as many. With `thorough`
    /// it looks at all blocks that were settled, if it has to.
    pub(crate) fn take_aligned(
        &self,
        base: Base,
        layout: Layout,
        thorough: bool,
    ) -> Option<NonNull<u8>> {
        let size = rounded(layout.size());
        if size > ARENA_MAX {
            return None;
        }
        let len = (size / GRANULE) as u32;
        let skip = |block: Stretch| {
            let address = base.address_of(block.at);
            (address.next_multiple_of(layout.align()) - address) / GRANULE
        };
        let fits = |block: Stretch| skip(block) + len as usize <= block.len as usize;
        let listed = (bin_of(len)..BINS).find_map(|bin| self.unlink(base, bin, LOOKS, fits));
        if let Some(found) = listed {
            return Some(self.split(base, found, skip(found) as u32, len));
        }
        let place = |block| fits(block).then(|| block.at + skip(block) as u32);
        let enough = u32::try_from(len as usize + layout.align() / GRANULE - 1).unwrap_or(NIL);
        let at = self
            .index
            .take_where(base, [len, enough], thorough, place)?;
        Some(base.pointer_to(at))
    }

    /// Joins all neighbours, so that [`take`](FreeLists::take) finds a block if there is one. Each block
    /// costs a way down a tree when it is settled, and no look until it is taken. Small blocks are no longer
    /// found by their size then.
    pub(crate) fn settle(&self, base: Base) {
        while self.occupied.get() != 0 {
            let bin = self.occupied.get().trailing_zeros() as usize;
            let mut at = self.heads[bin].get();
            self.occupied.set(self.occupied.get() & !(1 << bin));
            while at != NIL {
                let free = base.read(at);
                let len = free.len();
                // SAFETY: it was in a list, which is forgotten, and is nowhere now.
                unsafe { self.index.join(base, Stretch { at, len }) };
                at = free.next;
            }
        }
        self.forget_counts();
    }

    /// Takes out the block that begins there, if it was settled.
    pub(crate) fn take_at(&self, base: Base, at: u32) -> Option<Stretch> {
        self.index.take_at(base, at)
    }

    /// Takes out any block that was settled.
    pub(crate) fn take_any(&self, base: Base) -> Option<Stretch> {
        self.index.take_any(base)
    }

    /// The first block of a list.
    fn head(&self, bin: usize) -> u32 {
        match self.occupied.get() & (1 << bin) {
            0 => NIL,
            _ => self.heads[bin].get(),
        }
    }

    /// Takes the first block that `fits` off a list, looking at no more than so many.
    fn unlink(
        &self,
        base: Base,
        bin: usize,
        looks: u32,
        fits: impl Fn(Stretch) -> bool,
    ) -> Option<Stretch> {
        let bit = 1u64 << bin;
        if self.occupied.get() & bit == 0 {
            return None;
        }
        let mut before = NIL;
        let mut at = self.heads[bin].get();
        for _ in 0..looks {
            let free = base.read(at);
            let (next, len) = (free.next, free.len());
            let block = Stretch { at, len };
            if fits(block) {
                if before == NIL {
                    self.heads[bin].set(next);
                    if next == NIL {
                        self.occupied.set(self.occupied.get() & !bit);
                    }
                } else {
                    base.set_next(before, next);
                }
                return Some(block);
            }
            if next == NIL {
                return None;
            }
            (before, at) = (at, next);
        }
        None
    }

    /// Hands out `len` granules of a block that was taken off, after the first `skip`; the rest goes back.
    fn split(&self, base: Base, block: Stretch, skip: u32, len: u32) -> NonNull<u8> {
        let at = block.at + skip;
        let rest = Stretch {
            at: at + len,
            len: block.len - skip - len,
        };
        let before = Stretch {
            at: block.at,
            len: skip,
        };
        for part in [before, rest] {
            if part.len > 0 {
                // SAFETY: a part of a block that was in the lists of this base, and is in none now.
                unsafe { self.link(base, part, 0) };
            }
        }
        base.pointer_to(at)
    }

    /// Bytes of the largest block.
    pub(crate) fn largest(&self, base: Base) -> usize {
        let bin = self.occupied.get().checked_ilog2();
        let mut at = bin.map_or(NIL, |bin| self.heads[bin as usize].get());
        let mut largest = self.index.largest(base);
        while at != NIL {
            let free = base.read(at);
            largest = largest.max(free.len());
            at = free.next;
        }
        largest as usize * GRANULE
    }

    /// Joins neighbours among `all` blocks of the lists, or among those only that came since the last time;
    /// asks about each resulting block, lowest first, whether to keep it. The latter costs each of them one
    /// look, so it is not limited.
    pub(crate) fn join(&self, base: Base, all: bool, mut keep: impl FnMut(Stretch) -> bool) {
        let mut sorted = Sorted::default();
        let mut lists = self.occupied.get();
        while lists != 0 {
            let bin = lists.trailing_zeros() as usize;
            lists &= lists - 1;
            let rest = sorted.add_list(base, self.head(bin), all);
            self.heads[bin].set(rest);
            if rest == NIL {
                self.occupied.set(self.occupied.get() & !(1 << bin));
            }
        }
        let mut at = sorted.finish(base);
        let mut count = 0;
        while at != NIL {
            let free = base.read(at);
            let (mut next, mut len) = (free.next, free.len());
            while next != NIL && next == at + len {
                let neighbour = base.read(next);
                len += neighbour.len();
                next = neighbour.next;
            }
            let block = Stretch { at, len };
            if keep(block) {
                // SAFETY: made of blocks that were in the lists, and are in none now.
                unsafe { self.link(base, block, SETTLED) };
                count += 1;
            }
            at = next;
        }
        self.earlier.set(self.unjoined());
        self.fresh.set(0);
        if all {
            self.earlier.set(0);
            self.joined.set(count);
        }
    }
}

/// Blocks sorted by their place, lowest first: a merge sort of linked lists, which needs no memory.
struct Sorted {
    /// Lists of 1, 2, 4, … stretches that were sorted; NIL where there is none.
    runs: [u32; u32::BITS as usize],
}

impl Default for Sorted {
    fn default() -> Self {
        Sorted {
            runs: [NIL; u32::BITS as usize],
        }
    }
}

impl Sorted {
    /// Adds the blocks of a list, all or up to the first that is settled; gives the first that was not added.
    /// Blocks that lie in the list in order, as those of a dropped collection do, are sorted already.
    fn add_list(&mut self, base: Base, mut at: u32, all: bool) -> u32 {
        let is_taken = |at| at != NIL && (all || base.read(at).tagged & SETTLED == 0);
        while is_taken(at) {
            let (mut first, mut last) = (at, at);
            at = base.read(at).next;
            while at > last && is_taken(at) {
                last = at;
                at = base.read(at).next;
            }
            base.set_next(last, NIL);
            // Or the other way round, as a join leaves them.
            while first == last && at < last && is_taken(at) {
                let next = base.read(at).next;
                base.set_next(at, first);
                (first, last, at) = (at, at, next);
            }
            self.add(base, first);
        }
        at
    }

    fn add(&mut self, base: Base, mut list: u32) {
        for run in &mut self.runs {
            if *run == NIL {
                *run = list;
                return;
            }
            list = merge(base, std::mem::replace(run, NIL), list);
        }
        unreachable!("an arena has fewer than 2³² blocks");
    }

    fn finish(self, base: Base) -> u32 {
        let runs = self.runs.into_iter().filter(|&run| run != NIL);
        runs.reduce(|a, b| merge(base, a, b)).unwrap_or(NIL)
    }
}

/// Merges two sorted lists that are not empty.
fn merge(base: Base, mut a: u32, mut b: u32) -> u32 {
    if b < a {
        (a, b) = (b, a);
    }
    let first = a;
    let mut last = a;
    a = base.read(a).next;
    while a != NIL {
        if b < a {
            (a, b) = (b, a);
        }
        base.set_next(last, a);
        last = a;
        a = base.read(a).next;
    }
    base.set_next(last, b);
    first
}
