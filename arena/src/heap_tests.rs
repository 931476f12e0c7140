//! The arena, by itself: where blocks lie, what is used again, what stays.

use super::*;
use crate::granules::LOOKS_TAKEN;
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
    fn new(wipe: Wipe) -> Self {
        Self::of(LEN, wipe)
    }

    fn of(len: usize, wipe: Wipe) -> Self {
        const PAGE: usize = 4 << 10; // arenas of buckets begin at one
        let mut memory = vec![0u128; (len + PAGE) / 16];
        let start: NonNull<u8> = NonNull::from(&mut memory[..]).cast();
        let before = start.as_ptr().align_offset(PAGE);
        // SAFETY: within the vector. Aligned to 16, `len` bytes, and kept in the same value as the heap.
        let heap =
            unsafe { Heap::new(start.add(before), len, wipe) }.expect("the allocator is ours");
        Lab {
            heap: ManuallyDrop::new(heap),
            _memory: memory,
        }
    }

    /// Ends a request: what is live is kept.
    fn end(&mut self) {
        // SAFETY: after a request the tests use only those of its blocks that they have not freed.
        unsafe { self.heap.end_request() };
        self.heap.begin(true);
    }

    /// Ends a request as a jump does: nothing of it is live.
    fn forget(&mut self) {
        self.heap.forget_live();
        self.end();
    }
}

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).expect("small")
}

/// A block with its pattern, which no other block may touch.
#[derive(Debug)]
struct Block {
    at: NonNull<u8>,
    layout: Layout,
    fill: u8,
}

impl Block {
    fn make(heap: &Heap, layout: Layout, fill: u8) -> Option<Self> {
        let at = heap.allocate(layout).ok()?;
        let block = Block { at, layout, fill };
        block.fill();
        Some(block)
    }

    fn free(self, heap: &Heap) {
        self.check(self.layout.size());
        // SAFETY: the block is live with this layout, and forgotten here.
        unsafe { heap.deallocate(self.at, self.layout) };
    }

    fn fill(&self) {
        // SAFETY: the block is live.
        unsafe { self.at.write_bytes(self.fill, self.layout.size()) };
    }

    fn check(&self, len: usize) {
        // SAFETY: the block is live, and `len` bytes of it were written.
        let bytes = unsafe { std::slice::from_raw_parts(self.at.as_ptr(), len) };
        assert!(bytes.iter().all(|&byte| byte == self.fill), "{self:?}");
    }
}

/// Small numbers in the same order each time, so that Miri can repeat a run.
struct Dice(u32);

impl Dice {
    fn throw(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) as usize % below
    }
}

/// A step of a random sequence.
fn step(heap: &Heap, dice: &mut Dice, live: &mut Vec<Block>, fill: u8) {
    let fresh = layout(1 + dice.throw(900), 1 << dice.throw(7));
    let index = dice.throw(live.len().max(1));
    match dice.throw(9) {
        0..=3 => live.extend(Block::make(heap, fresh, fill)),
        4 | 5 if !live.is_empty() => {
            let block = &mut live[index];
            let (old, new) = (block.layout, layout(fresh.size(), block.layout.align()));
            // SAFETY: the block is live with `old`.
            let moved = unsafe {
                if new.size() >= old.size() {
                    heap.grow(block.at, old, new)
                } else {
                    Ok(heap.shrink(block.at, old, new))
                }
            };
            if let Ok(at) = moved {
                (block.at, block.layout) = (at, new);
                block.check(old.size().min(new.size()));
                block.fill();
            }
        }
        6 => {
            // Of the bump itself: gone with the request.
            let _ = heap.bump().try_alloc_layout(fresh);
        }
        _ if !live.is_empty() => live.swap_remove(index).free(heap),
        _ => {}
    }
}

fn check_all(heap: &Heap, live: &[Block]) {
    for block in live {
        let at = block.at.as_ptr().addr();
        assert!(at.is_multiple_of(block.layout.align()));
        assert!(heap.owns(at) && heap.owns(at + block.layout.size() - 1));
        block.fill();
    }
    for block in live {
        block.check(block.layout.size()); // filled after the others: no block overlaps
    }
    let bytes: usize = live.iter().map(|block| block.layout.size()).sum();
    assert!(heap.used() >= bytes, "{} {bytes}", heap.used());
    assert_eq!(heap.used() + heap.free(), heap.capacity());
    let bytes = live.iter().map(|block| rounded(block.layout.size()));
    assert_eq!(heap.live() + heap.kept(), bytes.sum::<usize>());
}

#[test]
fn blocks_keep_their_bytes_through_every_sequence() {
    let mut lab = Lab::new(Wipe::None);
    for seed in 0..if cfg!(miri) { 2 } else { 400 } {
        let mut dice = Dice(seed);
        let mut live: Vec<Block> = Vec::new();
        for n in 0..60u8 {
            step(&lab.heap, &mut dice, &mut live, n);
            check_all(&lab.heap, &live);
        }
        for block in live.drain(..) {
            block.free(&lab.heap);
        }
        lab.end();
        let heap = &lab.heap;
        assert_eq!(
            (heap.used(), heap.live(), heap.high_water()),
            (0, 0, 0),
            "seed {seed}"
        );
    }
}

/// Requests one after the other, of which each may leave blocks to the next ones; some end by a jump.
#[test]
fn what_outlives_its_request_keeps_its_bytes_through_every_sequence() {
    for wipe in [Wipe::None, Wipe::Poison] {
        for seed in 0..if cfg!(miri) { 1 } else { 200 } {
            let mut lab = Lab::new(wipe);
            let mut dice = Dice(seed);
            let mut live: Vec<Block> = Vec::new();
            for request in 0..40u8 {
                if request % 5 == 4 {
                    lab.heap.begin(false);
                    for _ in 0..10 {
                        let _ = lab.heap.allocate(layout(1 + dice.throw(500), 8));
                    }
                    lab.forget();
                } else {
                    for n in 0..12 {
                        step(&lab.heap, &mut dice, &mut live, request * 3 + n % 3);
                    }
                    // Most are freed, so that the next ones have room.
                    while live.len() > 4 {
                        let index = dice.throw(live.len());
                        live.swap_remove(index).free(&lab.heap);
                    }
                    lab.end();
                }
                assert_eq!(lab.heap.live(), 0);
                check_all(&lab.heap, &live);
            }
            for block in live.drain(..) {
                block.free(&lab.heap);
            }
            lab.end();
            let all = layout(lab.heap.capacity(), 1);
            assert!(lab.heap.allocate(all).is_ok(), "the mark has moved back");
            lab.forget();
        }
    }
}

#[test]
fn an_arena_is_usable_to_its_last_byte_and_refuses_the_next() {
    let lab = Lab::new(Wipe::None);
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
fn a_block_that_was_freed_is_handed_out_again() {
    let lab = Lab::new(Wipe::None);
    let heap = &lab.heap;
    let first = Block::make(heap, layout(100, 8), 1).expect("fits");
    let pin = Block::make(heap, layout(16, 8), 2).expect("fits");
    let at = first.at;
    first.free(heap);
    assert_eq!(heap.used(), 16);
    let again = Block::make(heap, layout(97, 8), 3).expect("fits");
    assert_eq!(again.at, at, "of the same size, to 16 bytes");
    again.free(heap);
    pin.free(heap);
    assert_eq!(heap.used(), 0);
}

/// For any number of rounds: 12 bytes and a temporary are live at once.
#[test]
fn a_loop_that_replaces_a_value_needs_what_is_live() {
    let lab = Lab::new(Wipe::None);
    let heap = &lab.heap;
    let mut dice = Dice(1);
    let mut last = Block::make(heap, layout(12, 1), 0).expect("fits");
    for n in 0..if cfg!(miri) { 40 } else { 20_000 } {
        let size = 1 + dice.throw(700);
        let temporary = Block::make(heap, layout(size, 1), n as u8).expect("fits");
        let next = Block::make(heap, layout(size, 1), n as u8).expect("fits");
        std::mem::replace(&mut last, next).free(heap);
        temporary.free(heap);
    }
    assert!(heap.high_water() <= 4 << 10, "{}", heap.high_water());
}

#[test]
fn small_blocks_that_were_freed_make_room_for_a_large_one() {
    let lab = Lab::new(Wipe::None);
    let heap = &lab.heap;
    let mut blocks: Vec<Block> = Vec::new();
    while let Some(block) = Block::make(heap, layout(32, 8), 7) {
        blocks.push(block);
    }
    let last = blocks.pop().expect("many");
    // In an order in which none lies at the cursor.
    for block in blocks {
        block.free(heap);
    }
    let large = Block::make(heap, layout(LEN - 256, 16), 8).expect("they are joined");
    let aligned = Block::make(heap, layout(64, 64), 9);
    last.free(heap);
    large.free(heap);
    assert!(aligned.is_none_or(|block| {
        block.free(heap);
        true
    }));
    assert_eq!(heap.used(), 0);
}

#[test]
fn a_block_at_the_tip_grows_and_shrinks_where_it_is() {
    let lab = Lab::new(Wipe::None);
    let heap = &lab.heap;
    let mut at = heap.allocate(layout(16, 1)).expect("fits");
    let mut size = 16;
    while size < 8 << 10 {
        // SAFETY: live with this layout.
        at = unsafe { heap.grow(at, layout(size, 1), layout(2 * size, 1)) }.expect("fits");
        size *= 2;
        assert_eq!(heap.used(), size, "no copy is left behind");
    }
    // SAFETY: as above.
    at = unsafe { heap.shrink(at, layout(size, 1), layout(20, 1)) };
    assert_eq!(heap.used(), 32);
    // SAFETY: as above.
    unsafe { heap.deallocate(at, layout(20, 1)) };
    assert_eq!(heap.used(), 0);
}

#[test]
fn the_rest_of_a_block_that_shrinks_in_the_middle_is_used_again() {
    let lab = Lab::new(Wipe::None);
    let heap = &lab.heap;
    let block = heap.allocate(layout(400, 1)).expect("fits");
    let pin = heap.allocate(layout(16, 1)).expect("fits");
    // SAFETY: live with this layout.
    let block = unsafe { heap.shrink(block, layout(400, 1), layout(100, 1)) };
    assert_eq!(heap.used(), 112 + 16);
    let other = heap.allocate(layout(288, 1)).expect("fits");
    assert!(other > pin, "above the cursor");
    // SAFETY: each is live with its layout.
    unsafe {
        heap.deallocate(other, layout(288, 1));
        heap.deallocate(block, layout(100, 1));
        heap.deallocate(pin, layout(16, 1));
    }
    assert_eq!(heap.used(), 0);
}

#[test]
fn what_outlives_its_request_costs_its_own_bytes_and_not_what_was_freed_around_it() {
    let mut lab = Lab::new(Wipe::None);
    let before = Block::make(&lab.heap, layout(2000, 8), 1).expect("fits");
    let kept = Block::make(&lab.heap, layout(48, 8), 2).expect("fits");
    let after = Block::make(&lab.heap, layout(3000, 8), 3).expect("fits");
    before.free(&lab.heap);
    after.free(&lab.heap);
    lab.end();
    assert_eq!(lab.heap.kept(), 48);
    assert_eq!(lab.heap.used(), 48);
    // The next request uses what is free above the mark.
    let again = Block::make(&lab.heap, layout(2000, 8), 4).expect("fits");
    assert!(again.at > kept.at);
    again.free(&lab.heap);
    lab.end();
    kept.check(48);
    kept.free(&lab.heap);
    lab.end();
    assert_eq!((lab.heap.kept(), lab.heap.used()), (0, 0));
}

/// A cache of a few entries: each request puts a new one in and takes an old one out.
#[test]
fn a_bounded_cache_turns_over_for_ever_in_bounded_memory() {
    let mut lab = Lab::new(Wipe::None);
    let mut dice = Dice(3);
    let mut entries: Vec<Block> = Vec::new();
    let mut most = 0;
    for n in 0..if cfg!(miri) { 50 } else { 50_000 } {
        let temporary = Block::make(&lab.heap, layout(1 + dice.throw(2000), 8), 1).expect("fits");
        let entry = layout(8 + dice.throw(200), 8);
        let entry = Block::make(&lab.heap, entry, n as u8).expect("fits");
        temporary.free(&lab.heap);
        entries.push(entry);
        if entries.len() > 10 {
            entries.remove(0).free(&lab.heap);
        }
        lab.end();
        most = most.max(lab.heap.kept());
    }
    assert!(most <= 11 * 208, "{most}");
    for entry in entries {
        entry.free(&lab.heap);
    }
}

/// Memory that a handler takes from the `&Bump` is free when its request ends, even above a kept block.
#[test]
fn what_the_handler_took_from_the_bump_is_not_kept() {
    let mut lab = Lab::new(Wipe::None);
    let kept: Vec<Block> = (0..3)
        .map(|n| {
            lab.heap.bump().alloc_slice_fill_copy(1000, 0u8);
            Block::make(&lab.heap, layout(700, 8), n).expect("fits")
        })
        .collect();
    lab.heap.bump().alloc_slice_fill_copy(999, 0u8);
    lab.end();
    assert_eq!(lab.heap.kept(), 3 * 704);
    let above = lab.heap.top - lab.heap.mark();
    assert!(
        above >= 2 * 1000 + 3 * 704,
        "the mark is below all of it: {above}"
    );
    let large = Block::make(&lab.heap, layout(1000, 8), 4).expect("fits");
    assert!(large.at > kept[2].at, "in what was the bump's");
    large.free(&lab.heap);
    for block in kept {
        block.free(&lab.heap);
    }
    lab.end();
    assert_eq!(lab.heap.used(), 0);
}

/// Small pieces from the `&Bump` do not split the free memory around them either.
#[test]
fn a_small_piece_from_the_bump_parts_nothing_when_its_request_has_ended() {
    let mut lab = Lab::new(Wipe::None);
    let blocks: Vec<_> = (0..6)
        .map(|n| {
            lab.heap.bump().alloc_slice_fill_copy(40, 0u8);
            // More than half of a run, so that each block begins a run.
            Block::make(&lab.heap, layout(1100, 8), n).expect("fits")
        })
        .collect();
    let kept = Block::make(&lab.heap, layout(48, 8), 6).expect("fits");
    for block in blocks {
        block.free(&lab.heap);
    }
    lab.end();
    assert_eq!(lab.heap.kept(), 48);
    let large = Block::make(&lab.heap, layout(5 * 1100, 8), 7).expect("fits");
    assert!(large.at > kept.at, "above what is kept");
    large.free(&lab.heap);
    kept.free(&lab.heap);
    lab.end();
    assert_eq!(lab.heap.used(), 0);
}

/// One that may be left by a jump takes nothing from above the mark: it would never be given back.
#[test]
fn a_request_that_may_be_left_by_a_jump_leaks_nothing_above_the_mark() {
    let mut lab = Lab::new(Wipe::None);
    let freed = Block::make(&lab.heap, layout(1000, 8), 1).expect("fits");
    let kept = Block::make(&lab.heap, layout(48, 8), 2).expect("fits");
    freed.free(&lab.heap);
    lab.end();
    for _ in 0..100 {
        lab.heap.begin(false);
        while lab.heap.allocate(layout(1000, 8)).is_ok() {}
        lab.forget();
        assert_eq!(lab.heap.kept(), 48);
    }
    kept.free(&lab.heap);
    lab.end();
    assert_eq!(lab.heap.used(), 0);
}

#[test]
fn a_wiped_arena_is_wiped_wherever_it_was_written() {
    for (wipe, byte) in [(Wipe::Poison, Wipe::POISON), (Wipe::Zero, 0)] {
        let mut lab = Lab::new(wipe);
        let size = lab.heap.capacity();
        let at = lab.heap.allocate(layout(size, 1)).expect("all of it");
        // SAFETY: just allocated; given back through the bump, which no count of ours sees, and not used
        // again.
        unsafe {
            at.write_bytes(7, size);
            lab.heap.bump().deallocate(at, layout(size, 1));
        }
        lab.forget();
        let at = lab.heap.allocate(layout(size, 1)).expect("all of it again");
        // SAFETY: just allocated, and written by the wipe.
        let bytes = unsafe { std::slice::from_raw_parts(at.as_ptr(), size) };
        assert!(bytes.iter().all(|&b| b == byte), "{wipe:?}");
        lab.forget();
    }
}

/// What is free above the mark is wiped too, before another request can have it.
#[test]
fn what_was_freed_beside_something_kept_is_wiped() {
    let mut lab = Lab::new(Wipe::Zero);
    let secret = Block::make(&lab.heap, layout(500, 8), 0x5e).expect("fits");
    let kept = Block::make(&lab.heap, layout(48, 8), 2).expect("fits");
    secret.free(&lab.heap);
    lab.end();
    let reader = lab.heap.allocate(layout(500, 8)).expect("fits");
    assert!(reader > kept.at);
    // SAFETY: live; its first eight bytes held the list, the rest was wiped.
    let bytes = unsafe { std::slice::from_raw_parts(reader.as_ptr().add(8), 480) };
    assert!(bytes.iter().all(|&byte| byte == 0));
}

#[test]
#[cfg_attr(miri, ignore = "a chunk is abandoned on purpose, which Miri calls a leak")]
fn a_bump_whose_limit_was_lifted_is_closed_again_or_built_anew() {
    let mut lab = Lab::new(Wipe::None);
    let base = lab.heap.memory;
    for beyond in [false, true] {
        let kept = Block::make(&lab.heap, layout(64, 8), 5).expect("fits");
        lab.heap.bump().set_allocation_limit(None);
        if beyond {
            // This thread runs no request, so the second chunk comes from the process heap.
            let large = lab.heap.bump().alloc_slice_fill_copy(2 * LEN, 1u8);
            assert!(!lab.heap.owns(large.as_ptr().addr()));
            assert_eq!(
                lab.heap.allocate(layout(2 * BATCH, 1)),
                Err(DoesNotFit),
                "not from there"
            );
        }
        lab.end();
        assert!(
            lab.heap
                .bump()
                .try_alloc_slice_fill_copy(2 * LEN, 1u8)
                .is_err()
        );
        let at = lab.heap.allocate(layout(64, 16)).expect("as before");
        assert!(lab.heap.owns(at.as_ptr().addr()) && lab.heap.memory == base);
        // SAFETY: live with this layout.
        unsafe { lab.heap.deallocate(at, layout(64, 16)) };
        kept.free(&lab.heap);
        lab.end();
        assert_eq!(lab.heap.used(), 0);
    }
}

#[test]
fn memory_too_small_for_an_arena_is_refused() {
    let mut memory = [0u128; 2];
    let start = NonNull::from(&mut memory).cast();
    // SAFETY: aligned, 32 bytes, used by nothing else; nothing is built in it.
    assert!(unsafe { Heap::new(start, 32, Wipe::None) }.is_err());
}

/// One that fits below the mark searches for nothing above it.
#[test]
fn what_fits_below_the_mark_costs_no_search_above_it() {
    let mut lab = Lab::new(Wipe::None);
    let blocks: Vec<_> = (0..40)
        .map(|n| Block::make(&lab.heap, layout(64, 8), n).expect("fits"))
        .collect();
    let mut kept = Vec::new();
    for (n, block) in blocks.into_iter().enumerate() {
        match n % 2 {
            0 => block.free(&lab.heap),
            _ => kept.push(block),
        }
    }
    lab.end();
    assert_eq!(lab.heap.kept(), 20 * 64);
    for _ in 0..3 {
        for _ in 0..100 {
            Block::make(&lab.heap, layout(500, 8), 7)
                .expect("fits")
                .free(&lab.heap);
        }
        lab.end();
        assert!(!lab.heap.kept_freed.are_indexed());
    }
    // Above the mark there is still what is left of it.
    let small = Block::make(&lab.heap, layout(64, 8), 9).expect("fits");
    assert!(lab.heap.is_kept(small.at));
    kept.push(small);
    kept.into_iter().for_each(|block| block.free(&lab.heap));
}

/// A block of large alignment looks at as few free blocks above the mark as any other block. Otherwise a
/// cache that has shrunk would slow every later request down.
#[test]
fn few_free_blocks_are_looked_at_for_an_alignment() {
    let mut lab = Lab::new(Wipe::None);
    let heap = &lab.heap;
    let make = |size, align| Block::make(heap, layout(size, align), 7).expect("it fits");
    let (mut kept, mut freed) = (Vec::new(), vec![make(64, 64)]);
    while freed.len() <= 40 {
        let block = make(64, 16);
        if block.at.as_ptr().addr().is_multiple_of(64) {
            kept.extend([block, make(16, 16)]); // the next one begins elsewhere
        } else {
            kept.push(make(64, 16)); // so that no two lie side by side
            freed.push(block);
        }
    }
    let freed: Vec<_> = freed
        .into_iter()
        .map(|block| (block.at, block.layout))
        .collect();
    lab.end();
    for (at, layout) in freed {
        // SAFETY: live, and not used again.
        unsafe { lab.heap.deallocate(at, layout) };
    }
    let found = lab.heap.allocate(layout(64, 64)).expect("it fits");
    assert!(
        !lab.heap.is_kept(found),
        "the one that fits lies behind 40 others"
    );
}

/// Bytes of the largest piece between live blocks, and below them.
fn largest_gap(heap: &Heap, live: &[Block]) -> usize {
    let place = |block: &Block| {
        let at = block.at.as_ptr().addr();
        (at, at + rounded(block.layout.size()))
    };
    let mut places: Vec<_> = live.iter().map(place).collect();
    places.sort_unstable();
    places.push((heap.top, heap.top));
    let mut end = heap.top - heap.capacity();
    let gaps = places
        .into_iter()
        .map(|(at, above)| at - std::mem::replace(&mut end, above));
    gaps.max().expect("one at least")
}

#[test]
fn a_block_is_refused_only_if_no_piece_is_large_enough() {
    let mut lab = Lab::new(Wipe::None);
    let mut refused = 0;
    for seed in 0..if cfg!(miri) { 2 } else { 300 } {
        let mut dice = Dice(seed);
        let mut live: Vec<Block> = Vec::new();
        for _ in 0..if cfg!(miri) { 100 } else { 1000 } {
            let wanted = layout(1 + dice.throw(60) * dice.throw(60), 8);
            match Block::make(&lab.heap, wanted, 1) {
                Some(block) => live.push(block),
                None => {
                    refused += 1;
                    let gap = largest_gap(&lab.heap, &live);
                    assert!(
                        gap < rounded(wanted.size()),
                        "seed {seed}: {gap} for {wanted:?}"
                    );
                }
            }
            for _ in 0..dice.throw(3) {
                if !live.is_empty() {
                    live.swap_remove(dice.throw(live.len())).free(&lab.heap);
                }
            }
        }
        live.into_iter().for_each(|block| block.free(&lab.heap));
        lab.end();
    }
    // Under Miri there are too few to fill the arena.
    assert!(refused > 10 || cfg!(miri), "{refused}");
}

/// Blocks that come and go beside small holes are joined as often as they have to be.
#[test]
fn what_is_joined_again_and_again_is_always_found() {
    let lab = Lab::new(Wipe::None);
    let heap = &lab.heap;
    let (mut kept, mut holes) = (Vec::new(), Vec::new());
    for _ in 0..50 {
        kept.push(Block::make(heap, layout(48, 8), 1).expect("fits"));
        holes.push(Block::make(heap, layout(48, 8), 2).expect("fits"));
    }
    holes.into_iter().for_each(|hole| hole.free(heap));
    let room = heap.reach();
    for round in 0..if cfg!(miri) { 6 } else { 60_000 } {
        let each = layout(520 + round % 40 * 16, 8);
        let list: Vec<_> = (0..room / 2 / each.size())
            .map(|_| Block::make(heap, each, 3).unwrap_or_else(|| panic!("round {round}")))
            .collect();
        list.into_iter().for_each(|block| block.free(heap));
    }
    assert_eq!(heap.used(), 50 * 48);
}

/// Runs `each` in a small arena and a large one. It must cost hardly more looks at free blocks in the large
/// one: they lie in a tree.
fn looks_hardly_depend_on_the_arena(run: impl Fn(&Heap) -> u64) {
    let looks = |len| {
        let lab = Lab::of(len, Wipe::None);
        run(&lab.heap)
    };
    let few = looks(if cfg!(miri) { LEN } else { 128 << 10 });
    if !cfg!(miri) {
        let many = looks(1 << 20);
        assert!(many < 2 * few, "{few} {many}");
    }
}

/// Looks at free blocks that some rounds of `each` cost, after a first one, in which all may be looked at.
fn looks_of(mut each: impl FnMut()) -> u64 {
    each();
    let before = LOOKS_TAKEN.get();
    (0..if cfg!(miri) { 2 } else { 200 }).for_each(|_| each());
    LOOKS_TAKEN.get() - before
}

/// An arena that is full but for many holes that are too small for `layout`, and one block of that.
fn full_of_holes(heap: &Heap, hole: usize, layout: Layout, is_high: bool) -> Block {
    let first = Block::make(heap, layout, 1);
    let (mut holes, mut kept) = (Vec::new(), Vec::new());
    let pin = self::layout(16, 8);
    kept.extend(Block::make(heap, pin, 2));
    while heap.reach() > 4096 {
        holes.extend(Block::make(heap, self::layout(hole, 8), 2));
        kept.extend(Block::make(heap, self::layout(32, 8), 2)); // so that all have the same alignment
    }
    let last = Block::make(heap, layout, 1);
    while let Some(block) = Block::make(heap, pin, 2) {
        kept.push(block); // what is left, and lies at the tip
    }
    holes.into_iter().for_each(|hole| hole.free(heap));
    match is_high {
        true => first.expect("fits"),
        false => last.expect("fits"),
    }
}

#[test]
fn in_a_full_arena_a_block_costs_no_look_at_all_that_are_free() {
    let wanted = [(528, layout(752, 8)), (32, layout(32, 32))];
    for (is_high, (hole, wanted)) in [false, true]
        .into_iter()
        .flat_map(|h| wanted.map(|w| (h, w)))
    {
        looks_hardly_depend_on_the_arena(|heap| {
            let mut only = Some(full_of_holes(heap, hole, wanted, is_high));
            let each = layout(hole, 8);
            looks_of(|| {
                let others: Vec<_> = (0..12).map(|_| Block::make(heap, each, 3)).collect();
                only.take().expect("made").free(heap);
                others
                    .into_iter()
                    .flatten()
                    .for_each(|other| other.free(heap));
                only = Block::make(heap, wanted, 1);
            })
        });
    }
}

/// Two neighbours that are freed one after the other, and asked for as one.
#[test]
fn in_a_full_arena_neighbours_are_joined_without_a_look_at_all_that_are_free() {
    looks_hardly_depend_on_the_arena(|heap| {
        let make = |size| Block::make(heap, layout(size, 8), 1).expect("the two");
        let mut two = Some(full_of_holes(heap, 48, layout(608, 8), true));
        looks_of(|| {
            two.take().expect("made").free(heap);
            let [one, other] = [304, 304].map(make);
            one.free(heap);
            assert!(heap.allocate(layout(2000, 8)).is_err());
            other.free(heap);
            two = Some(make(608));
        })
    });
}

/// An aligned block, too, is refused only if there is no place for it.
#[test]
fn an_aligned_block_is_refused_only_if_no_piece_has_a_place_for_it() {
    for is_high in [false, true] {
        let lab = Lab::new(Wipe::None);
        let wanted = layout(32, 32);
        let only = full_of_holes(&lab.heap, 32, wanted, is_high);
        assert_eq!(lab.heap.allocate(wanted), Err(DoesNotFit));
        let at = only.at;
        only.free(&lab.heap);
        assert_eq!(lab.heap.allocate(wanted), Ok(at));
    }
}

/// Blocks that one request has joined have no effect on the next request.
#[test]
fn where_aligned_blocks_were_found_says_nothing_of_the_next_request() {
    let mut lab = Lab::new(Wipe::None);
    let mut places = Vec::new();
    for _ in 0..3 {
        let make = |size, align| Block::make(&lab.heap, layout(size, align), 1);
        let all: Vec<_> = std::iter::from_fn(|| make(400, 8)).collect();
        let (holes, mut live): (Vec<_>, Vec<_>) =
            all.into_iter().enumerate().partition(|(n, _)| n % 2 == 1);
        holes.into_iter().for_each(|(_, hole)| hole.free(&lab.heap));
        for _ in 0..5 {
            let block = make(256, 256).expect("one of the holes has a place for it");
            places.push(lab.heap.top - block.at.as_ptr().addr());
            live.push((0, block));
        }
        live.into_iter()
            .for_each(|(_, block)| block.free(&lab.heap));
        lab.end();
    }
    let (first, later) = places.split_at(5);
    assert!(later.chunks(5).all(|places| places == first), "{places:?}");
}

#[test]
fn a_request_finds_what_it_would_find_in_a_new_bucket() {
    let run = |heap: &Heap| {
        let make = |size| Block::make(heap, layout(size, 8), 1).expect("fits");
        let pieces = [304, 304, 16, 304, 16].map(make);
        let [a, b, _, c, _] = pieces;
        a.free(heap);
        c.free(heap);
        make(600).free(heap); // which looks at both
        b.free(heap);
        heap.top - make(608).at.as_ptr().addr()
    };
    let mut lab = Lab::new(Wipe::None);
    assert_eq!(run(&lab.heap), 608, "where the first two were");
    lab.forget();
    for ends_empty in [true, false] {
        let make = |_| Block::make(&lab.heap, layout(48, 8), 1).expect("fits");
        let mut blocks: Vec<_> = (0..81).map(make).collect();
        let holes = blocks.split_off(1);
        for (n, hole) in holes.into_iter().enumerate() {
            match n % 2 {
                0 => hole.free(&lab.heap),
                _ => blocks.push(hole),
            }
        }
        let large = Block::make(&lab.heap, layout(600, 8), 1).expect("fits");
        large.free(&lab.heap);
        if ends_empty {
            blocks.extend((0..40).map(make));
            blocks.sort_by_key(|block| block.at);
            blocks.into_iter().for_each(|block| block.free(&lab.heap));
            assert!(lab.heap.freed.is_empty());
        }
        lab.forget();
        assert_eq!(
            run(&lab.heap),
            608,
            "after one that ends empty: {ends_empty}"
        );
        lab.forget();
    }
}

/// The same above the mark.
#[test]
fn what_is_joined_above_the_mark_is_always_found() {
    let mut lab = Lab::new(Wipe::None);
    let list: Vec<_> = (0..20)
        .map(|_| Block::make(&lab.heap, layout(600, 8), 1))
        .collect();
    let kept = Block::make(&lab.heap, layout(16, 8), 2).expect("fits");
    list.into_iter()
        .flatten()
        .for_each(|block| block.free(&lab.heap));
    lab.end();
    let rest = Block::make(&lab.heap, layout(lab.heap.reach(), 1), 3).expect("below the mark");
    for round in 0..if cfg!(miri) { 6 } else { 60_000 } {
        let each = layout(600 + round % 40 * 16, 8);
        let list: Vec<_> = (0..6000 / each.size())
            .map(|_| Block::make(&lab.heap, each, 3).unwrap_or_else(|| panic!("round {round}")))
            .collect();
        list.into_iter().for_each(|block| block.free(&lab.heap));
    }
    rest.free(&lab.heap);
    kept.free(&lab.heap);
    lab.end();
    assert_eq!(lab.heap.used(), 0);
}

/// A large entry of a cache is replaced in one request after the other.
#[test]
fn what_a_request_frees_above_the_mark_it_can_use_itself() {
    let mut lab = Lab::new(Wipe::None);
    let most = layout(lab.heap.reach() - 64, 8);
    let mut entry = Block::make(&lab.heap, most, 0).expect("fits");
    for n in 1..10 {
        lab.end();
        assert!(lab.heap.allocate(layout(200, 8)).is_err());
        entry.free(&lab.heap);
        assert_eq!(lab.heap.reach(), 64, "below the mark");
        let small = Block::make(&lab.heap, layout(16, 8), n).expect("fits");
        small.free(&lab.heap);
        entry = Block::make(&lab.heap, most, n).expect("where the other was");
        entry.check(most.size());
    }
    // One that may be left by a jump would never give it back.
    lab.end();
    lab.heap.begin(false);
    entry.free(&lab.heap);
    assert_eq!(lab.heap.allocate(layout(200, 8)), Err(DoesNotFit));
    lab.forget();
    assert_eq!(lab.heap.used(), 0);
    assert!(lab.heap.allocate(most).is_ok());
}

/// In a smaller arena, which has this extent, everything lies where it has lain.
#[test]
fn an_arena_of_the_extent_serves_the_same_request() {
    let run = |lab: &mut Lab, seed: u32| {
        let mut dice = Dice(seed);
        let mut places = Vec::new();
        // Kept by an earlier request, with a hole above it.
        let hole = Block::make(&lab.heap, layout(2000, 8), 1).expect("fits");
        let kept = Block::make(&lab.heap, layout(100, 8), 1).expect("fits");
        hole.free(&lab.heap);
        lab.end();
        let mut live = vec![kept];
        for n in 0..if cfg!(miri) { 20u8 } else { 250 } {
            step(&lab.heap, &mut dice, &mut live, n);
            check_all(&lab.heap, &live);
            places.extend(
                live.iter()
                    .map(|block| lab.heap.top - block.at.as_ptr().addr()),
            );
            if n % 50 == 49 {
                live.drain(n as usize % live.len().max(1)..)
                    .for_each(|block| block.free(&lab.heap));
            }
        }
        let extent = lab.heap.extent();
        live.into_iter().for_each(|block| block.free(&lab.heap));
        lab.end();
        (places, extent)
    };
    for seed in 0..if cfg!(miri) { 1 } else { 300 } {
        let (places, extent) = run(&mut Lab::of(512 << 10, Wipe::None), seed);
        let len = (extent + HEAP_OVERHEAD).next_multiple_of(4 << 10);
        let mut small = Lab::of(len, Wipe::None);
        let (others, again) = run(&mut small, seed);
        assert!(places == others, "seed {seed}: {extent}");
        assert_eq!(extent, again, "seed {seed}");
    }
}

/// Also where it has joined what was free, and many free blocks are equally large.
#[test]
fn of_equal_blocks_that_were_joined_arenas_of_different_size_hand_out_the_same() {
    let places = |len: usize| {
        let lab = Lab::of(len, Wipe::None);
        let make = |n: usize| Block::make(&lab.heap, layout(1000, 8), n as u8).expect("fits");
        let (holes, _kept): (Vec<_>, Vec<_>) =
            (0..100).map(make).partition(|block| block.fill % 2 == 0);
        holes.into_iter().for_each(|hole| hole.free(&lab.heap));
        lab.heap.settle();
        let made = (0..40)
            .map(make)
            .map(|block| lab.heap.top - block.at.as_ptr().addr());
        made.collect::<Vec<_>>()
    };
    let first = places(128 << 10);
    for pages in 1..8 {
        assert_eq!(
            places((128 << 10) + (pages << 12)),
            first,
            "{pages} pages more"
        );
    }
}

#[test]
fn the_extent_is_exact_and_counts_holes_but_not_what_was_given_back_at_the_tip() {
    let mut lab = Lab::new(Wipe::None);
    let first = Block::make(&lab.heap, layout(1000, 8), 1).expect("fits");
    let second = Block::make(&lab.heap, layout(1500, 8), 2).expect("fits");
    first.free(&lab.heap); // a hole, too small for the next
    let third = Block::make(&lab.heap, layout(3000, 8), 3).expect("fits");
    assert_eq!(lab.heap.extent(), 1008 + 1504 + 3008);
    assert_eq!(lab.heap.high_water(), 1504 + 3008);
    third.free(&lab.heap);
    second.free(&lab.heap);
    assert_eq!(lab.heap.extent(), 1008 + 1504 + 3008, "the most there was");
    lab.end();
    assert_eq!(lab.heap.extent(), 0);
}

#[test]
fn the_high_water_does_not_fall_where_a_request_frees_what_was_kept() {
    let mut lab = Lab::new(Wipe::None);
    let pin = Block::make(&lab.heap, layout(16, 8), 1).expect("fits");
    let kept = Block::make(&lab.heap, layout(5008, 8), 1).expect("fits");
    lab.end();
    let own = Block::make(&lab.heap, layout(1008, 8), 2).expect("fits");
    assert_eq!(lab.heap.high_water(), 16 + 5008 + 1008);
    kept.free(&lab.heap);
    assert_eq!(lab.heap.used(), 16 + 1008);
    assert_eq!(lab.heap.high_water(), 16 + 5008 + 1008);
    own.free(&lab.heap);
    // Where the other was: no more than before.
    let kept = Block::make(&lab.heap, layout(5008, 8), 3).expect("fits");
    assert_eq!(lab.heap.high_water(), 16 + 5008 + 1008);
    let own = Block::make(&lab.heap, layout(2000, 8), 2).expect("fits");
    assert_eq!(lab.heap.high_water(), 16 + 5008 + 2000);
    [kept, own, pin]
        .into_iter()
        .for_each(|block| block.free(&lab.heap));
    assert_eq!(lab.heap.high_water(), 16 + 5008 + 2000);
    lab.end();
    assert_eq!((lab.heap.used(), lab.heap.high_water()), (0, 0));
}

#[test]
fn the_extent_counts_what_a_request_has_asked_for_and_not_taken() {
    let mut lab = Lab::new(Wipe::None);
    let spare = lab.heap.free() - 3000;
    let first = Block::make(&lab.heap, layout(1000, 8), 1).expect("fits");
    lab.heap.note_spare(spare);
    lab.heap.note_spare(spare + 1000);
    assert_eq!((lab.heap.extent(), lab.heap.high_water()), (3000, 1008));
    lab.heap.note_spare(usize::MAX);
    assert_eq!(lab.heap.extent(), 3000);
    lab.heap.note_spare(0);
    assert_eq!(lab.heap.extent(), lab.heap.capacity());
    first.free(&lab.heap);
    lab.end();
    assert_eq!(lab.heap.extent(), 0);
}
