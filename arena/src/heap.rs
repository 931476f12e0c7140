//! The arena of one bucket: a `bumpalo::Bump` whose only chunk is the memory it is given, and which can never grow.
//!
//! Knows nothing of threads, regions or recovery: an allocation that does not fit is an `Err`, and what that means is
//! for the caller to say. Plain memory and arithmetic, so that it runs under Miri.

use allocator_api2::alloc::Allocator;
use bumpalo::Bump;
use std::alloc::Layout;
use std::cell::Cell;
use std::mem;
use std::ptr::NonNull;

use crate::allocator;

/// What bumpalo and its caller need of the memory beside the arena proper: its footer, and the 16 bytes by which it
/// rounds its chunks down for the sake of other allocators.
pub const HEAP_OVERHEAD: usize = 64;

/// An allocation does not fit. Carries nothing: the caller knows what it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DoesNotFit;

/// A bump arena over fixed memory, with a count of live allocations and a high water.
#[derive(Debug)]
pub struct Heap {
    bump: Bump,
    memory: NonNull<u8>,
    len: usize,
    capacity: usize,
    /// Allocations made through [`Heap::allocate`] and not yet given back. Wrapping: an escape leaves it behind.
    live: Cell<u32>,
    /// The most bytes in use before a give-back lowered the number. See [`Heap::high_water`].
    peak: Cell<usize>,
    /// What cannot be used by alignment of the chunk; so that "used" starts at zero.
    initial_free: usize,
    /// The limit that closes the bump: what its one chunk has.
    limit: usize,
}

impl Heap {
    /// Builds the arena in `memory`.
    ///
    /// # Errors
    /// `DoesNotFit` when bumpalo did not take its chunk from `memory`: the program's global allocator is not
    /// [`crate::TransomAllocator`], or the memory is smaller than [`HEAP_OVERHEAD`] plus a page.
    ///
    /// # Safety
    /// `memory` must be aligned to 16, valid for reads and writes of `len` bytes for as long as the heap and everything
    /// allocated from it live, and referred to by nothing else. The heap must never be dropped (it would hand its chunk
    /// to the global allocator): keep it in a `static`, in the region, or in `ManuallyDrop`.
    pub(crate) unsafe fn new(memory: NonNull<u8>, len: usize) -> Result<Self, DoesNotFit> {
        let capacity = len.checked_sub(HEAP_OVERHEAD).ok_or(DoesNotFit)?;
        // SAFETY: the caller gives us the memory; the carve hands it to at most one allocation, the chunk.
        let bump = unsafe {
            allocator::carve(memory, len, || Bump::try_with_capacity(capacity))
                .map_err(|_| DoesNotFit)?
        };
        let heap = Heap {
            memory,
            len,
            capacity,
            live: Cell::new(0),
            peak: Cell::new(0),
            initial_free: bump.chunk_capacity(),
            limit: bump.allocated_bytes(),
            bump,
        };
        heap.close();
        let probe = heap.bump.try_alloc_layout(Layout::new::<u8>());
        match probe {
            Ok(byte) if heap.owns(byte.as_ptr() as usize) && heap.initial_free >= capacity => {
                // SAFETY: the probe was just made with this layout and nobody has it.
                unsafe { (&heap.bump).deallocate(byte, Layout::new::<u8>()) };
                Ok(heap)
            }
            _ => {
                // The chunk came from elsewhere; giving it back there is not ours to do.
                mem::forget(heap);
                Err(DoesNotFit)
            }
        }
    }

    /// With a limit of what it has, every further chunk is refused.
    fn close(&self) {
        self.bump.set_allocation_limit(Some(self.limit));
    }

    /// Whether an address lies in this arena.
    #[inline(always)]
    pub(crate) fn owns(&self, address: usize) -> bool {
        address.wrapping_sub(self.memory.as_ptr() as usize) < self.len
    }

    /// The arena itself, for handlers that allocate explicitly. Allocations made here are not counted as live: they
    /// cannot outlive the borrow.
    #[inline]
    pub(crate) fn bump(&self) -> &Bump {
        &self.bump
    }

    /// Bytes an empty arena can hand out.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes still free.
    #[inline]
    #[must_use]
    pub fn free(&self) -> usize {
        self.bump.chunk_capacity()
    }

    /// Bytes in use, holes and alignment included.
    #[inline]
    #[must_use]
    pub fn used(&self) -> usize {
        self.initial_free.saturating_sub(self.free())
    }

    /// The most bytes in use since the last reset. Give-backs by bumpalo's own collections between two calls of ours are
    /// not seen, so for those it is a lower bound.
    #[inline]
    #[must_use]
    pub fn high_water(&self) -> usize {
        self.peak.get().max(self.used())
    }

    /// Allocations not yet given back.
    #[inline]
    pub(crate) fn live(&self) -> u32 {
        self.live.get()
    }

    /// Counts a block that was made for the same request elsewhere.
    #[inline(always)]
    pub(crate) fn count_allocation(&self) {
        self.live.set(self.live.get().wrapping_add(1));
    }

    /// Counts such a block as given back.
    #[inline(always)]
    pub(crate) fn count_deallocation(&self) {
        self.live.set(self.live.get().wrapping_sub(1));
    }

    pub(crate) fn set_live(&self, live: u32) {
        self.live.set(live);
    }

    /// Bumps. The block is uninitialised, and lies in this arena: a handler that has lifted the limit of its `&Bump` may
    /// have made that continue elsewhere, and a block from there must not be freed as one of ours later.
    #[inline(always)]
    pub(crate) fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, DoesNotFit> {
        match self.bump.try_alloc_layout(layout) {
            Ok(block) if self.owns(block.as_ptr() as usize) => {
                self.count_allocation();
                Ok(block)
            }
            _ => Err(DoesNotFit),
        }
    }

    /// Gives a block back: its bytes at once if it is the last one made, else when the arena is reset.
    ///
    /// # Safety
    /// `block` came from [`Heap::allocate`], [`Heap::grow`] or [`Heap::shrink`] of this heap with `layout`, and is not used again.
    #[inline(always)]
    pub(crate) unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
        self.count_deallocation();
        self.note_peak();
        // SAFETY: as promised by the caller.
        unsafe { (&self.bump).deallocate(block, layout) };
    }

    /// Makes a block larger: by the difference if it is the last one made, else by a copy that leaves a hole.
    ///
    /// # Safety
    /// As for [`Heap::deallocate`]; `new.size() ≥ old.size()`, equal alignment. On `Err` the block is as it was.
    #[inline]
    pub(crate) unsafe fn grow(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<u8>, DoesNotFit> {
        // SAFETY: as promised by the caller.
        match unsafe { (&self.bump).grow(block, old, new) } {
            Ok(grown) if self.owns(grown.as_ptr().addr()) => Ok(grown.cast()),
            _ => Err(DoesNotFit),
        }
    }

    /// Makes a block smaller, giving bytes back where bumpalo finds it worth the copy.
    ///
    /// # Safety
    /// As for [`Heap::deallocate`]; `new.size() ≤ old.size()`, equal alignment.
    #[inline]
    pub(crate) unsafe fn shrink(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<u8>, DoesNotFit> {
        self.note_peak();
        // SAFETY: as promised by the caller.
        match unsafe { (&self.bump).shrink(block, old, new) } {
            Ok(shrunk) => Ok(shrunk.cast()),
            Err(_) => Err(DoesNotFit),
        }
    }

    #[inline(always)]
    fn note_peak(&self) {
        let used = self.used();
        if used > self.peak.get() {
            self.peak.set(used);
        }
    }

    /// Empties the arena by moving its cursor back.
    ///
    /// # Safety
    /// Nothing allocated from it is used again, and no borrow of [`Heap::bump`] lives.
    pub(crate) unsafe fn reset(&mut self, wipe: Wipe) {
        if let Some(byte) = wipe.byte() {
            // All of it: what bumpalo's collections have used and given back again, no high water knows.
            // SAFETY: the chunk's data is the first `initial_free` bytes of our memory, its footer follows; by the
            // caller's promise nobody uses the data.
            unsafe { self.memory.write_bytes(byte, self.initial_free) };
        }
        if self.bump.allocated_bytes() == self.limit {
            self.bump.reset();
            self.close(); // a handler with the `&Bump` may have lifted it
        } else {
            // SAFETY: as for this function.
            unsafe { self.rebuild() };
        }
        self.live.set(0);
        self.peak.set(0);
    }

    /// The bump has a second chunk, because a handler lifted its limit. It would now give our memory back and keep the
    /// other; so it is abandoned, with that chunk, and built anew.
    ///
    /// # Safety
    /// As for [`Heap::reset`].
    #[cold]
    unsafe fn rebuild(&mut self) {
        // SAFETY: the memory was given to us for good in `new`, and the old bump, which referred to it, is forgotten.
        let fresh = unsafe { Heap::new(self.memory, self.len) };
        let fresh = fresh.expect("the same memory has held the same arena before");
        mem::forget(mem::replace(self, fresh));
    }
}

/// What happens to an arena's bytes between two requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wipe {
    /// Nothing: the cursor moves, the bytes stay until they are overwritten. Fastest.
    #[default]
    None,
    /// The whole arena is zeroed, so that no request can read what an earlier one left, even through a bug.
    Zero,
    /// The whole arena is overwritten with [`Wipe::POISON`], so that a use after the request's end is seen.
    Poison,
}

impl Wipe {
    /// The byte that poisons.
    pub const POISON: u8 = 0xDB;

    fn byte(self) -> Option<u8> {
        match self {
            Wipe::None => None,
            Wipe::Zero => Some(0),
            Wipe::Poison => Some(Self::POISON),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::ManuallyDrop;

    /// Without it no heap can be built, see [`Heap::new`]. It serves all unit tests of this crate.
    #[global_allocator]
    static GLOBAL: crate::TransomAllocator = crate::TransomAllocator;

    const LEN: usize = 16 << 10;

    /// A heap over a vector's memory.
    struct Lab {
        heap: ManuallyDrop<Heap>,
        // Referred to by the heap alone, which is never dropped; 16-aligned, as it wants it.
        _memory: Vec<u128>,
    }

    impl Lab {
        fn new() -> Self {
            let mut memory = vec![0u128; LEN / 16];
            let start = NonNull::new(memory.as_mut_ptr().cast()).expect("not empty");
            // SAFETY: aligned to 16, LEN bytes, and kept in the same value as the heap.
            let heap = unsafe { Heap::new(start, LEN) }.expect("the allocator is ours");
            Lab {
                heap: ManuallyDrop::new(heap),
                _memory: memory,
            }
        }
    }

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).expect("small")
    }

    /// A block with its pattern, which no other block may touch.
    struct Block {
        at: NonNull<u8>,
        layout: Layout,
        fill: u8,
    }

    impl Block {
        fn fill(&self) {
            // SAFETY: the block is live.
            unsafe { self.at.write_bytes(self.fill, self.layout.size()) };
        }

        fn check(&self, len: usize) {
            // SAFETY: the block is live, and `len` bytes of it were written.
            let bytes = unsafe { std::slice::from_raw_parts(self.at.as_ptr(), len) };
            assert!(bytes.iter().all(|&byte| byte == self.fill));
        }
    }

    /// Small numbers in an order that is the same each time, so that Miri can run what it has run before.
    struct Dice(u32);

    impl Dice {
        fn throw(&mut self, below: usize) -> usize {
            self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (self.0 >> 8) as usize % below
        }
    }

    #[test]
    fn blocks_keep_their_bytes_through_every_sequence() {
        let mut lab = Lab::new();
        for seed in 0..if cfg!(miri) { 8 } else { 400 } {
            let heap = &lab.heap;
            let mut dice = Dice(seed);
            let mut live: Vec<Block> = Vec::new();
            for step in 0..60u8 {
                let fresh = layout(1 + dice.throw(600), 1 << dice.throw(7));
                let index = dice.throw(live.len().max(1));
                match dice.throw(4) {
                    0 | 1 => live.extend(heap.allocate(fresh).ok().map(|at| Block {
                        at,
                        layout: fresh,
                        fill: step,
                    })),
                    2 if !live.is_empty() => {
                        let block = &mut live[index];
                        let (old, new) = (block.layout, layout(fresh.size(), block.layout.align()));
                        // SAFETY: the block is live with `old`.
                        let moved = unsafe {
                            if new.size() >= old.size() {
                                heap.grow(block.at, old, new)
                            } else {
                                heap.shrink(block.at, old, new)
                            }
                        };
                        if let Ok(at) = moved {
                            (block.at, block.layout) = (at, new);
                            block.check(old.size().min(new.size()));
                        }
                    }
                    _ if !live.is_empty() => {
                        let block = live.swap_remove(index);
                        block.check(block.layout.size());
                        // SAFETY: the block is live with this layout, and forgotten here.
                        unsafe { heap.deallocate(block.at, block.layout) };
                    }
                    _ => {}
                }
                for block in &live {
                    let at = block.at.as_ptr().addr();
                    assert!(at.is_multiple_of(block.layout.align()));
                    assert!(heap.owns(at) && heap.owns(at + block.layout.size() - 1));
                    block.fill();
                }
                for block in &live {
                    block.check(block.layout.size()); // filled after the others: nobody overlaps
                }
                assert_eq!(heap.live() as usize, live.len());
                assert_eq!(heap.used() + heap.free(), heap.capacity());
            }
            // SAFETY: the blocks are forgotten with this iteration.
            unsafe { lab.heap.reset(Wipe::None) };
            assert_eq!(
                (lab.heap.used(), lab.heap.live(), lab.heap.high_water()),
                (0, 0, 0)
            );
        }
    }

    #[test]
    fn an_arena_is_usable_to_its_last_byte_and_refuses_the_next() {
        let lab = Lab::new();
        let all = lab
            .heap
            .allocate(layout(lab.heap.capacity(), 1))
            .expect("all of it");
        assert_eq!(lab.heap.free(), 0);
        assert_eq!(lab.heap.allocate(layout(1, 1)), Err(DoesNotFit));
        // SAFETY: live with this layout.
        let grown = unsafe {
            let had = layout(lab.heap.capacity(), 1);
            lab.heap.grow(all, had, layout(lab.heap.capacity() + 1, 1))
        };
        assert_eq!(grown, Err(DoesNotFit));
        assert_eq!(lab.heap.high_water(), lab.heap.capacity());
    }

    #[test]
    fn a_wiped_arena_is_wiped_wherever_it_was_written() {
        let mut lab = Lab::new();
        for (wipe, byte) in [(Wipe::Poison, Wipe::POISON), (Wipe::Zero, 0)] {
            let size = lab.heap.capacity();
            let at = lab.heap.allocate(layout(size, 1)).expect("all of it");
            // SAFETY: just allocated; given back through the bump, which no count of ours sees, and not used again.
            unsafe {
                at.write_bytes(7, size);
                lab.heap.bump().deallocate(at, layout(size, 1));
                lab.heap.peak.set(0);
                lab.heap.reset(wipe);
            }
            let at = lab.heap.allocate(layout(size, 1)).expect("all of it again");
            // SAFETY: just allocated, and written by the wipe.
            let bytes = unsafe { std::slice::from_raw_parts(at.as_ptr(), size) };
            assert!(bytes.iter().all(|&b| b == byte), "{wipe:?}");
            // SAFETY: not used again.
            unsafe { lab.heap.reset(Wipe::None) };
        }
    }

    #[test]
    #[cfg_attr(
        miri,
        ignore = "a chunk is abandoned on purpose, which Miri calls a leak"
    )]
    fn a_bump_whose_limit_was_lifted_is_closed_again_or_built_anew() {
        let mut lab = Lab::new();
        let base = lab.heap.memory;
        for beyond in [false, true] {
            lab.heap.bump().set_allocation_limit(None);
            if beyond {
                // This thread runs no request, so the second chunk comes from the process heap.
                let large = lab.heap.bump().alloc_slice_fill_copy(2 * LEN, 1u8);
                assert!(!lab.heap.owns(large.as_ptr().addr()));
                assert_eq!(
                    lab.heap.allocate(layout(1, 1)),
                    Err(DoesNotFit),
                    "not from there"
                );
            }
            // SAFETY: nothing allocated is used again.
            unsafe { lab.heap.reset(Wipe::None) };
            assert!(
                lab.heap
                    .bump()
                    .try_alloc_slice_fill_copy(2 * LEN, 1u8)
                    .is_err()
            );
            let at = lab.heap.allocate(layout(64, 16)).expect("as before");
            assert!(lab.heap.owns(at.as_ptr().addr()) && lab.heap.memory == base);
            // SAFETY: nothing allocated is used again.
            unsafe { lab.heap.reset(Wipe::None) };
        }
    }

    #[test]
    fn memory_too_small_for_an_arena_is_refused() {
        let mut memory = [0u128; 2];
        let start = NonNull::from(&mut memory).cast();
        // SAFETY: aligned, 32 bytes, not used by anybody else; nothing is built in it.
        assert!(unsafe { Heap::new(start, 32) }.is_err());
    }
}
