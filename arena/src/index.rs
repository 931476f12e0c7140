//! Free blocks of one arena by their place and their size, for when the arena is almost full: a tree in which
//! a block is put, joined to its neighbours, found and taken out in as many steps as the tree is deep.
//!
//! From left to right blocks lie ever higher, and none is larger than the one above it in the tree. So the
//! root is the largest, and the highest block that is large enough is found on one way down. Of two that are
//! equally large a hash of their places decides which one is above: many of them make no list, but a tree
//! that is some two logarithms of their number deep. Sizes that differ make a way longer, but there cannot be
//! many: blocks of 1, 2, 3, … granules, a thousand of them, are 8 MiB.
//!
//! Only a block that is aligned to more than 16 bytes may cost more: if no block is so large that it fits
//! wherever that lies, all that are large enough without the alignment are looked at until one has a place.

use crate::granules::{Base, NIL, Stretch};
use std::cell::Cell;

/// A free block, as it lies in the arena.
#[repr(C)]
struct Settled {
    /// The blocks under it: those that lie lower than this one, and those that lie higher.
    lower: Cell<u32>,
    higher: Cell<u32>,
    /// Granules of this one.
    len: Cell<u32>,
}

/// The tree of one arena. All blocks in it are free, and no two are neighbours.
#[derive(Debug)]
pub(crate) struct Index {
    root: Cell<u32>,
    /// Granules of the arena.
    granules: u32,
    /// Where a block was found last after many were looked at; the next such search begins here.
    found: Cell<u32>,
}

fn node<'a>(base: Base, at: u32) -> &'a Settled {
    #[cfg(test)]
    crate::granules::LOOKS_TAKEN.set(crate::granules::LOOKS_TAKEN.get() + 1);
    // SAFETY: only granules of blocks in the tree are asked for. `put` has written a node there, of 12 bytes
    // where a block has 16 and is aligned to them, and nothing else refers to a free block's bytes. The node
    // is not used after its block was taken out.
    unsafe { base.pointer_to(at).cast::<Settled>().as_ref() }
}

fn stretch(base: Base, at: u32) -> Stretch {
    let len = node(base, at).len.get();
    Stretch { at, len }
}

impl Index {
    /// For an arena of so many granules.
    pub(crate) const fn new(granules: u32) -> Self {
        Index {
            root: Cell::new(NIL),
            granules,
            found: Cell::new(NIL),
        }
    }

    /// Whether the first is above the second. Places are counted from the arena's upper end, as arenas are
    /// filled: in one of another size it is the same.
    fn is_above(&self, one: Stretch, other: Stretch) -> bool {
        let rank = |block: Stretch| {
            let mixed = self
                .granules
                .wrapping_sub(block.at)
                .wrapping_mul(0x9E37_79B9);
            (block.len, (mixed ^ (mixed >> 15)).wrapping_mul(0x85EB_CA6B))
        };
        rank(one) > rank(other)
    }

    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.root.get() == NIL
    }

    /// Forgets all blocks, without looking at them.
    #[inline(always)]
    pub(crate) fn clear(&self) {
        self.root.set(NIL);
        self.found.set(NIL);
    }

    /// Granules of the largest block.
    pub(crate) fn largest(&self, base: Base) -> u32 {
        match self.root.get() {
            NIL => 0,
            root => node(base, root).len.get(),
        }
    }

    /// Puts a block in, joined to its neighbours.
    ///
    /// # Safety
    /// The block lies in the base's arena, is in no list or tree, and is not used until it is taken out.
    pub(crate) unsafe fn join(&self, base: Base, mut block: Stretch) {
        let [mut below, mut above] = [None; 2];
        let mut at = self.root.get();
        while at != NIL {
            let there = stretch(base, at);
            if at < block.at {
                below = (at + there.len == block.at).then_some(there);
                at = node(base, at).higher.get();
            } else {
                above = (at == block.at + block.len).then_some(there);
                at = node(base, at).lower.get();
            }
        }
        for neighbour in [below, above].into_iter().flatten() {
            self.take_at(base, neighbour.at);
            block.at = block.at.min(neighbour.at);
            block.len += neighbour.len;
        }
        // SAFETY: by the caller's promise, and of blocks that were just taken out.
        unsafe { self.put(base, block) };
    }

    /// # Safety
    /// As for [`Index::join`]; and no block in the tree is its neighbour.
    unsafe fn put(&self, base: Base, block: Stretch) {
        let mut link = &self.root;
        while link.get() != NIL && self.is_above(stretch(base, link.get()), block) {
            link = side(base, link.get(), block.at);
        }
        let mut rest = link.replace(block.at);
        let fresh = Settled {
            lower: Cell::new(NIL),
            higher: Cell::new(NIL),
            len: Cell::new(block.len),
        };
        // SAFETY: the block is ours by the caller's promise, aligned to 16, and of 16 bytes at least.
        unsafe { base.pointer_to(block.at).cast::<Settled>().write(fresh) };
        // What was there comes under it, parted by its place.
        let (mut lower, mut higher) = (&node(base, block.at).lower, &node(base, block.at).higher);
        while rest != NIL {
            let there = node(base, rest);
            if rest < block.at {
                lower.set(rest);
                lower = &there.higher;
                rest = lower.get();
            } else {
                higher.set(rest);
                higher = &there.lower;
                rest = higher.get();
            }
        }
        lower.set(NIL);
        higher.set(NIL);
    }

    /// Takes out the block that begins there, if there is one.
    pub(crate) fn take_at(&self, base: Base, at: u32) -> Option<Stretch> {
        let mut link = &self.root;
        while link.get() != NIL && link.get() != at {
            link = side(base, link.get(), at);
        }
        if link.get() == NIL {
            return None;
        }
        let block = stretch(base, at);
        let (mut lower, mut higher) = (node(base, at).lower.get(), node(base, at).higher.get());
        while lower != NIL && higher != NIL {
            if self.is_above(stretch(base, lower), stretch(base, higher)) {
                link.set(lower);
                link = &node(base, lower).higher;
                lower = link.get();
            } else {
                link.set(higher);
                link = &node(base, higher).lower;
                higher = link.get();
            }
        }
        link.set(lower.min(higher)); // one of them is `NIL`, which is above all
        Some(block)
    }

    /// Takes out any block.
    pub(crate) fn take_any(&self, base: Base) -> Option<Stretch> {
        self.take_at(base, self.root.get())
    }

    /// `len` granules out of a block that has them and is hardly larger, as far as one way down tells; the
    /// rest stays.
    pub(crate) fn take(&self, base: Base, len: u32) -> Option<u32> {
        let mut found = None;
        let mut at = self.root.get();
        while at != NIL && node(base, at).len.get() >= len {
            found = Some(stretch(base, at));
            let under = [node(base, at).lower.get(), node(base, at).higher.get()];
            let fits = |&at: &u32| at != NIL && node(base, at).len.get() >= len;
            let nearest = under.into_iter().filter(fits);
            at = nearest
                .min_by_key(|&at| node(base, at).len.get())
                .unwrap_or(NIL);
        }
        let block = found?;
        Some(self.cut(base, block, block.at, len))
    }

    /// `len` granules out of a block that has a place for them, as one of `enough` granules always has. Only
    /// with `thorough` other blocks are looked at, as many as it takes.
    pub(crate) fn take_where(
        &self,
        base: Base,
        [len, enough]: [u32; 2],
        thorough: bool,
        place: impl Fn(Stretch) -> Option<u32>,
    ) -> Option<u32> {
        let search = || {
            let starts = [self.found.get().saturating_add(1), NIL];
            let found = starts.into_iter().find_map(|start| {
                let mut block = self.highest(base, len, start)?;
                while place(block).is_none() {
                    block = self.highest(base, len, block.at)?;
                }
                Some(block)
            })?;
            self.found.set(found.at);
            Some(found)
        };
        let block = self
            .highest(base, enough, NIL)
            .or_else(|| thorough.then(search)?)?;
        Some(self.cut(base, block, place(block)?, len))
    }

    /// The highest block of so many granules that begins below a place.
    fn highest(&self, base: Base, least: u32, below: u32) -> Option<Stretch> {
        let mut found = None;
        let mut at = self.root.get();
        while at != NIL && node(base, at).len.get() >= least {
            at = if at < below {
                found = Some(stretch(base, at));
                node(base, at).higher.get()
            } else {
                node(base, at).lower.get()
            };
        }
        found
    }

    /// Takes `len` granules out of a block in the tree, from `at` on.
    fn cut(&self, base: Base, block: Stretch, at: u32, len: u32) -> u32 {
        self.take_at(base, block.at);
        let (end, above) = (block.at + block.len, at + len);
        for (at, end) in [(block.at, at), (above, end)] {
            if at < end {
                // SAFETY: a part of the block that was just taken out; what lies beside it is handed out.
                unsafe { self.put(base, Stretch { at, len: end - at }) };
            }
        }
        at
    }
}

/// Where the tree goes on from a block towards a place.
fn side<'a>(base: Base, from: u32, to: u32) -> &'a Cell<u32> {
    match to < from {
        true => &node(base, from).lower,
        false => &node(base, from).higher,
    }
}
