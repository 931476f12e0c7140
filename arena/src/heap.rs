//! The arena of one bucket: a `bumpalo::Bump` whose only chunk is the memory it is given and which can never
//! grow, and lists of the blocks in it that were freed.
//!
//! ```text
//! | free ………… ← cursor | run: low … ← tip | this request's blocks | mark | what earlier requests left |
//! ```
//!
//! The bump fills its chunk downwards. What a request allocates comes from a **run** that was taken from the
//! bump a little at a time: so most allocations move one number, and the handler's own use of the bump finds
//! the rest. A block that is freed at the tip of the run moves it back; any other goes into the lists and is
//! handed out again, so that what a request needs follows what it has live. What is still live when a request
//! has ended stays where it is: everything above the **mark** belongs to the thread from then on (a
//! thread-local, a lazy value, an entry of a cache), with free lists of its own, and the arena goes on with
//! the rest. When nothing of that is live any more, the mark moves back.
//!
//! It knows nothing of threads, regions or recovery: an allocation that does not fit is an `Err`, and the
//! caller decides what that means. It is plain memory and arithmetic, so that it runs under Miri.

use allocator_api2::alloc::Allocator;
use bumpalo::Bump;
use std::alloc::Layout;
use std::cell::Cell;
use std::mem;
use std::ptr::{self, NonNull};

use crate::allocator;
use crate::free_lists::{ARENA_MAX, FreeLists, SMALL_MAX};
use crate::granules::{Base, GRANULE, Stretch, rounded};
use crate::recovery::{STACK_MARGIN, ensure_stack};

/// What bumpalo and its caller need of the memory beside the arena proper: its footer, and the 16 bytes by
/// which it rounds its chunks down for the sake of other allocators.
pub const HEAP_OVERHEAD: usize = 64;

/// Bytes that are taken from the bump at a time. Twice as many may stay unused in a run when blocks are
/// freed.
const BATCH: usize = 2 << 10;

/// An allocation does not fit. Carries nothing: the caller knows what it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DoesNotFit;

/// A bump arena over fixed memory that uses freed blocks again, knows what is live, and has a high water.
#[derive(Debug)]
#[repr(C)] // what most allocations and frees need lies side by side
pub struct Heap {
    memory: NonNull<u8>,
    /// Where the next block of the run ends. What was taken from the bump and is not handed out lies between
    /// `low` and here.
    tip: Cell<NonNull<u8>>,
    /// `low`; or a number above all addresses, where a block is to be looked for elsewhere before it is taken
    /// from the run: above the mark, or in the lists.
    floor: Cell<usize>,
    /// A block at the tip that ends above this is not simply given back: it lies above the mark, or the run
    /// would become too long.
    ceiling: Cell<usize>,
    /// While the tip is not below it, less is live than at some time before.
    lowest: Cell<usize>,
    /// Bytes below the mark.
    room: Cell<usize>,
    /// The bump's cursor is here, unless the handler has used the bump since.
    low: Cell<usize>,
    /// Blocks below the mark that were given back.
    freed: FreeLists,
    /// Bytes between the tip and the mark that are not handed out: what is in the lists, and what the handler
    /// has taken from the bump.
    holes: Cell<usize>,
    bump: Bump,
    len: usize,
    capacity: usize,
    /// Where the chunk's data ends.
    top: usize,
    /// The limit that closes the bump: what its one chunk has.
    limit: usize,
    /// The most that was live, as far as it was looked at; or so much that with what is kept now it makes the
    /// most that was in use.
    live_peak: Cell<usize>,
    /// The lowest that the tip was in this request, as far as it was looked at, or would have been if it had
    /// taken all that it has asked for. It is not above `lowest`, if that is an address.
    deepest: Cell<usize>,
    /// See [`Heap::take_wanted`].
    wanted: Cell<usize>,
    /// Bytes of the last block that was refused, as its request has asked for.
    refused: Cell<usize>,
    /// Bytes that the handler has taken from the bump, as far as there are notes on them.
    taken: Cell<usize>,
    /// Whether this request uses what is free above the mark.
    uses_kept: Cell<UsesKept>,
    /// Bytes of blocks above the mark that are live.
    kept: Cell<usize>,
    /// Blocks above the mark that were given back.
    kept_freed: FreeLists,
    /// The block right above the mark was given back, so that the mark may rise.
    may_rise: Cell<bool>,
    /// This request found no block above the mark, and might have if neighbours were joined.
    misses_joined: Cell<bool>,
    /// The request fails in any case, so it does not look at all free blocks for one that is aligned.
    is_to_fail: Cell<bool>,
    /// The newest of the notes on what the handler has used.
    gaps: Cell<*const Gap>,
    wipe: Wipe,
}

/// Whether a request uses what is free above the mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UsesKept {
    /// Nothing was free there yet.
    NotYet,
    Yes,
    /// It must not.
    Never,
}

/// A note on a stretch that a handler has taken from the `&Bump`. It lies right below that stretch, is
/// aligned as a block is, and is not given back before the request ends, so the cursor cannot come back to
/// the stretch either.
#[repr(C)]
#[derive(Debug)]
struct Gap {
    older: *const Gap,
    bytes: usize,
}

impl Heap {
    /// Builds the arena in `memory`.
    ///
    /// # Errors
    /// `DoesNotFit` when bumpalo did not take its chunk from `memory`: the program's global allocator is not
    /// [`crate::TransomAllocator`], or the memory is smaller than [`HEAP_OVERHEAD`] plus a page.
    ///
    /// # Safety
    /// `memory` must be aligned to 16, valid for reads and writes of `len` bytes for as long as the heap and
    /// everything allocated from it live, and referred to by nothing else. The heap must never be dropped (it
    /// would hand its chunk to the global allocator): keep it in a `static`, in the region, or in
    /// `ManuallyDrop`.
    pub(crate) unsafe fn new(
        memory: NonNull<u8>,
        len: usize,
        wipe: Wipe,
    ) -> Result<Self, DoesNotFit> {
        let capacity = len.checked_sub(HEAP_OVERHEAD).ok_or(DoesNotFit)?;
        if len > ARENA_MAX {
            return Err(DoesNotFit);
        }
        // SAFETY: the caller gives us the memory; the carve hands it to at most one allocation, the chunk.
        let bump = unsafe {
            allocator::carve(memory, len, || Bump::try_with_capacity(capacity))
                .map_err(|_| DoesNotFit)?
        };
        let free = bump.chunk_capacity();
        let top = memory.as_ptr().addr() + free;
        let granules = (free / GRANULE) as u32;
        let heap = Heap {
            memory,
            len,
            capacity,
            top,
            limit: bump.allocated_bytes(),
            holes: Cell::new(0),
            live_peak: Cell::new(0),
            deepest: Cell::new(top),
            wanted: Cell::new(0),
            refused: Cell::new(0),
            taken: Cell::new(0),
            low: Cell::new(top),
            // SAFETY: the end of the chunk's data, which lies in the memory.
            tip: Cell::new(unsafe { memory.add(free) }),
            ceiling: Cell::new(top),
            floor: Cell::new(top),
            lowest: Cell::new(top),
            room: Cell::new(free),
            uses_kept: Cell::new(UsesKept::Never),
            kept: Cell::new(0),
            freed: FreeLists::new(granules),
            kept_freed: FreeLists::new(granules),
            may_rise: Cell::new(false),
            misses_joined: Cell::new(false),
            is_to_fail: Cell::new(false),
            gaps: Cell::new(ptr::null()),
            wipe,
            bump,
        };
        heap.close();
        heap.begin(false);
        let probe = heap.bump.try_alloc_layout(Layout::new::<u8>());
        match probe {
            Ok(byte) if heap.owns(byte.as_ptr() as usize) && free >= capacity => {
                // SAFETY: the probe was just made with this layout, and nothing else has it.
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

    /// The arena itself, as the lists see it.
    #[inline(always)]
    fn base(&self) -> Base {
        // SAFETY: `new`'s caller promised that the memory is aligned to 16 and valid for as long as the heap
        // lives.
        unsafe { Base::new(self.memory) }
    }

    /// Whether an address lies in this arena.
    #[inline(always)]
    pub(crate) fn owns(&self, address: usize) -> bool {
        address.wrapping_sub(self.memory.as_ptr() as usize) < self.len
    }

    /// Whether a block of this arena was left by an earlier request.
    pub(crate) fn is_kept(&self, block: NonNull<u8>) -> bool {
        let address = block.as_ptr().addr();
        self.owns(address) && address >= self.mark()
    }

    /// Where what earlier requests have left begins; the top if there is nothing.
    #[inline(always)]
    fn mark(&self) -> usize {
        self.memory.as_ptr().addr() + self.room.get()
    }

    fn move_mark(&self, address: usize) {
        self.room.set(address - self.memory.as_ptr().addr());
        self.move_ceiling();
    }

    /// After the mark or the run's lower end has moved.
    fn move_ceiling(&self) {
        let most = self.low.get().saturating_add(2 * BATCH);
        self.ceiling.set(most.min(self.mark()));
    }

    /// The arena itself, for handlers that allocate explicitly. Allocations made here are not counted as
    /// live: they cannot outlive the borrow.
    #[inline]
    pub(crate) fn bump(&self) -> &Bump {
        &self.bump
    }

    /// Bytes an empty arena can hand out.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes still free, in one piece or in several.
    #[inline]
    #[must_use]
    pub fn free(&self) -> usize {
        self.capacity - self.used()
    }

    /// Whether so many bytes are free, but not in one piece, because of what earlier requests have left.
    /// (Pieces that the request itself has made count too.)
    pub(crate) fn is_cut_for(&self, size: usize) -> bool {
        self.kept.get() > 0 && size <= self.free()
    }

    /// Bytes of the largest block that the next request can have, after neighbours above the mark were
    /// joined. With no request in it.
    pub(crate) fn largest_piece(&self, uses_kept: bool) -> usize {
        let mut largest = self.room.get();
        if uses_kept {
            self.kept_freed.settle(self.base());
            largest = largest.max(self.kept_freed.largest(self.base()));
        }
        largest.min(self.capacity)
    }

    /// Bytes of the largest block that the request that begins can have, if no neighbours are joined.
    pub(crate) fn largest_piece_now(&self) -> usize {
        match self.uses_kept() {
            true => self.reach().max(self.kept_freed.largest(self.base())),
            false => self.reach(),
        }
    }

    /// Bytes of the largest block that could be made now beside what is in use, if no block that was freed is
    /// large enough.
    pub(crate) fn reach(&self) -> usize {
        (self.end() - self.memory.as_ptr().addr()).min(self.capacity)
    }

    /// Below this nothing was handed out, as far as the bump's cursor tells.
    fn end(&self) -> usize {
        let low = self.low.get();
        match self.has_other_chunks() {
            true => low,
            false if self.cursor() == low => self.tip(),
            false => self.cursor(),
        }
    }

    /// Bytes of the largest block that this request can have, after neighbours above the mark were joined.
    pub(crate) fn largest_piece_joined(&self) -> usize {
        if self.uses_kept() {
            self.kept_freed.settle(self.base());
        }
        self.largest_piece_now()
    }

    /// Bytes by which the block at this address can grow without being moved elsewhere.
    pub(crate) fn room_beside(&self, address: usize) -> usize {
        let is_tip = address == self.tip() && address < self.mark();
        match is_tip && !self.has_other_chunks() && self.cursor() == self.low.get() {
            true => self.reach(),
            false => 0,
        }
    }

    /// Bytes in use: blocks, what earlier requests left, and what the handler took from the `&Bump`.
    #[inline]
    #[must_use]
    pub fn used(&self) -> usize {
        let used = self.live() + self.not_ours();
        used.min(self.capacity)
    }

    /// Bytes in use that are no blocks of this request.
    fn not_ours(&self) -> usize {
        let taken_since = match self.has_other_chunks() {
            true => 0,
            false => self.low.get().saturating_sub(self.cursor()),
        };
        self.kept.get() + self.taken.get() + taken_since
    }

    /// The most bytes in use at once since the last reset. What the handler took from the `&Bump` is counted
    /// as if it had been in use at that moment; what it gave back there itself is not seen.
    #[inline]
    #[must_use]
    pub fn high_water(&self) -> usize {
        let live = self.live().max(self.live_peak.get());
        (live + self.not_ours()).min(self.capacity)
    }

    /// Bytes of the smallest arena in which this request would have found what it has found: from the top
    /// down to the lowest place that it has reached. Holes count, which [`Heap::high_water`] does not see:
    /// blocks that were too small for what came later, or cut off from each other by others. In an arena of
    /// this size each block has the same place, because nothing but the end of the arena depends on its size.
    /// What the handler gave back to the `&Bump` itself is not seen.
    #[inline]
    #[must_use]
    pub fn extent(&self) -> usize {
        (self.top - self.deepest.get().min(self.end())).min(self.capacity)
    }

    /// A block of so many bytes was refused, as its request has asked for.
    pub(crate) fn note_refusal(&self, bytes: usize) {
        self.refused.set(bytes);
    }

    /// Forgets the last block that was refused.
    pub(crate) fn forget_refusal(&self) {
        self.refused.set(0);
    }

    /// Bytes of the arena that the request would have taken with the largest block that it goes on without; 0
    /// if there is none. Forgets it.
    pub(crate) fn take_wanted(&self) -> usize {
        self.wanted.take()
    }

    /// The request goes on without the last block that was refused, and would have taken it.
    pub(crate) fn want_refused(&self) {
        let asked = self.refused.take();
        if asked > 0 {
            let reach = self.reach();
            let wanted = (self.capacity - reach).saturating_add(asked.max(reach + 1));
            self.wanted.set(self.wanted.get().max(wanted));
        }
    }

    /// The request would have given up in an arena that is smaller by more than so many bytes, whether or not
    /// it takes what it has asked for.
    pub(crate) fn note_spare(&self, bytes: usize) {
        let deepest = self.top - self.capacity.saturating_sub(bytes);
        self.deepest.set(self.deepest.get().min(deepest));
    }

    /// The request has got no block, and will fail for that.
    pub(crate) fn expect_failure(&self) {
        self.is_to_fail.set(true);
    }

    /// Bytes of blocks of this request that are not given back: all between tip and mark that is no hole.
    #[inline(always)]
    pub(crate) fn live(&self) -> usize {
        self.mark() - self.tip() - self.holes.get()
    }

    /// Bytes that earlier requests have left and that are still in use.
    pub(crate) fn kept(&self) -> usize {
        self.kept.get()
    }

    /// Blocks above the mark are handed out or given back. The most that was in use at once stays what it
    /// was.
    fn change_kept(&self, kept: usize) {
        let most = self.high_water();
        self.kept.set(kept);
        let not_ours = self.not_ours();
        let live = most.saturating_sub(not_ours).max(self.live());
        self.live_peak.set(live);
        self.lowest.set(usize::MAX); // it may be less than before, so it is to be looked at
    }

    fn more_holes(&self, bytes: usize) {
        self.holes.set(self.holes.get() + bytes);
    }

    /// Bytes of the lists are handed out again, or the tip has moved over them.
    #[inline(always)]
    fn fewer_holes(&self, bytes: usize) {
        self.holes.set(self.holes.get() - bytes);
        // More may be live now than ever before, wherever the tip is.
        self.lowest.set(usize::MAX);
    }

    /// Before something is given back.
    #[inline(always)]
    fn note_peak(&self) {
        if self.tip() < self.lowest.get() {
            self.live_peak.set(self.live_peak.get().max(self.live()));
            self.deepest.set(self.deepest.get().min(self.tip()));
            self.lowest.set(self.tip());
        }
    }

    /// Says that nothing below the mark is live, whatever was counted.
    pub(crate) fn forget_live(&self) {
        self.holes.set(self.mark() - self.tip());
    }

    /// Says whether the request that begins now may use what is free above the mark. One that may be left by
    /// a jump must not: what it takes there would never be given back.
    #[inline(always)]
    pub(crate) fn begin(&self, uses_kept: bool) {
        self.uses_kept
            .set(match (uses_kept, self.kept_freed.is_empty()) {
                (false, _) => UsesKept::Never,
                (true, true) => UsesKept::NotYet,
                (true, false) => UsesKept::Yes,
            });
        self.move_floor();
    }

    #[inline(always)]
    fn uses_kept(&self) -> bool {
        self.uses_kept.get() == UsesKept::Yes
    }

    /// After the run's lower end has moved, or something was taken out of the lists.
    #[inline(always)]
    fn move_floor(&self) {
        self.floor
            .set(match self.uses_kept() || !self.freed.is_empty() {
                true => usize::MAX,
                false => self.low.get(),
            });
    }

    /// Moves the run's lower end.
    fn move_low(&self, address: usize) {
        self.low.set(address);
        self.move_ceiling();
        self.move_floor();
    }

    /// A small block at the tip of the run, if it has one and no block that was freed is to be used again.
    /// For the most frequent calls: if it has none, [`Heap::allocate`] may have one.
    #[inline(always)]
    pub(crate) fn allocate_at_tip(&self, layout: Layout) -> Option<NonNull<u8>> {
        let size = rounded(layout.size());
        let tip = self.tip.get();
        let is_small = size <= SMALL_MAX && layout.align() <= GRANULE;
        // So small a size does not wrap.
        if !is_small || tip.as_ptr().addr() - size < self.floor.get() {
            return None;
        }
        // SAFETY: within the run, which lies in the arena.
        let block = unsafe { tip.sub(size) };
        self.tip.set(block);
        Some(block)
    }

    /// A block that was free. Uninitialised.
    #[inline]
    pub(crate) fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, DoesNotFit> {
        let size = rounded(layout.size());
        if size <= SMALL_MAX && layout.align() <= GRANULE && !self.uses_kept() {
            let small = || self.freed.take_small(self.base(), size);
            let block = self.take_from_lists(size, small);
            if let Some(block) = block.or_else(|| self.take_from_run(size)) {
                return Ok(block);
            }
        }
        self.allocate_otherwise(layout, size)
    }

    /// A large block, one of unusual alignment, one from above the mark, or one that does not fit below the
    /// cursor.
    #[inline(never)]
    fn allocate_otherwise(&self, layout: Layout, size: usize) -> Result<NonNull<u8>, DoesNotFit> {
        if size > self.len {
            return Err(DoesNotFit);
        }
        if let Some(block) = self.take_above_the_mark(layout, size, false) {
            return Ok(block);
        }
        let block = if layout.align() > GRANULE {
            self.allocate_aligned(layout, size)
        } else {
            self.allocate_by_size(size)
        };
        block
            .or_else(|| self.take_above_the_mark(layout, size, true))
            .ok_or(DoesNotFit)
    }

    fn allocate_by_size(&self, size: usize) -> Option<NonNull<u8>> {
        let take = || self.freed.take(self.base(), size);
        let near = || match size <= SMALL_MAX {
            true => self.freed.take_small(self.base(), size),
            false => take(),
        };
        self.take_from_lists(size, near)
            .or_else(|| {
                self.join_early(size).then_some(())?;
                self.take_from_lists(size, near)
            })
            .or_else(|| self.take_from_bump(size, GRANULE))
            .or_else(|| self.settle_and_take(size, GRANULE, take))
    }

    /// Before the run grows for a large block: joins what was freed, if that has bytes enough and costs each
    /// block a few looks. Collections that grow side by side then use what they have left, and the request
    /// reaches hardly further than it has to.
    fn join_early(&self, size: usize) -> bool {
        let joins = size > SMALL_MAX && self.holes.get() >= size && self.freed.have_fresh();
        if joins {
            self.join_freed();
        }
        joins
    }

    /// A block that `take` takes out of the lists, if it finds one.
    #[inline(always)]
    fn take_from_lists(
        &self,
        size: usize,
        take: impl FnOnce() -> Option<NonNull<u8>>,
    ) -> Option<NonNull<u8>> {
        let block = take()?;
        self.move_floor();
        self.fewer_holes(size);
        Some(block)
    }

    #[cold]
    fn allocate_aligned(&self, layout: Layout, size: usize) -> Option<NonNull<u8>> {
        let take = || {
            let thorough = !self.is_to_fail.get();
            self.freed.take_aligned(self.base(), layout, thorough)
        };
        self.take_from_bump(size, layout.align())
            .or_else(|| self.settle_and_take(size, layout.align(), take))
    }

    /// A block where the request would get nothing otherwise. There is none only if no free piece is large
    /// enough; or if the request is to fail, and the block is aligned.
    fn settle_and_take(
        &self,
        size: usize,
        align: usize,
        take: impl FnOnce() -> Option<NonNull<u8>>,
    ) -> Option<NonNull<u8>> {
        if self.free() < size {
            return None;
        }
        self.settle();
        self.take_from_bump(size, align)
            .or_else(|| self.take_from_lists(size, take))
    }

    /// What was freed above the mark goes first: a block that outlives its request then costs nothing more.
    /// Neighbours are joined there if nothing else is left, or after the request, for the next one.
    fn take_above_the_mark(
        &self,
        layout: Layout,
        size: usize,
        is_last_resort: bool,
    ) -> Option<NonNull<u8>> {
        let free = self.top - self.mark() - self.kept.get();
        if !self.uses_kept() || free < size {
            return None;
        }
        let base = self.base();
        let lists = &self.kept_freed;
        if is_last_resort {
            lists.settle(base);
        }
        let thorough = is_last_resort && !self.is_to_fail.get();
        let block = match layout.align() > GRANULE {
            true => lists.take_aligned(base, layout, thorough),
            false => lists.take(base, size),
        };
        match block {
            Some(_) => self.change_kept(self.kept.get() + size),
            None => self.misses_joined.set(true),
        }
        block
    }

    /// A block at the tip of the run.
    #[inline(always)]
    fn take_from_run(&self, size: usize) -> Option<NonNull<u8>> {
        let tip = self.tip.get();
        if size > tip.as_ptr().addr() - self.low.get() {
            return None;
        }
        // SAFETY: within the run, which lies in the arena.
        let block = unsafe { tip.sub(size) };
        self.tip.set(block);
        Some(block)
    }

    /// The address of the tip.
    #[inline(always)]
    fn tip(&self) -> usize {
        self.tip.get().as_ptr().addr()
    }

    /// Moves the tip to an address of the arena.
    fn move_tip(&self, address: usize) {
        self.tip.set(self.pointer_to(address));
    }

    /// A block at the tip, after as much was taken from the bump as that needs.
    fn take_from_bump(&self, size: usize, align: usize) -> Option<NonNull<u8>> {
        self.extend(size).then_some(())?;
        if align <= GRANULE {
            return self.take_from_run(size);
        }
        // Padding included it may need more than the run has, and another one may have to begin.
        let place = |tip: usize| (tip - size) & !(align - 1);
        let mut tip = self.tip();
        self.extend(tip - place(tip)).then_some(())?;
        if tip != self.tip() {
            tip = self.tip();
            self.extend(tip - place(tip)).then_some(())?;
        }
        let at = place(tip);
        self.move_tip(at);
        let above = at + size;
        if tip > above {
            // SAFETY: of the run, so it is free.
            unsafe { self.put(self.pointer_to(above), tip - above) };
            self.more_holes(tip - above);
        }
        Some(self.pointer_to(at))
    }

    /// Makes the run hold so many bytes, if the bump has them.
    #[inline(never)]
    fn extend(&self, size: usize) -> bool {
        if size <= self.tip() - self.low.get() {
            return true;
        }
        // A handler can lift the limit of its `&Bump`, which then continues in another chunk, which may even
        // lie in this arena: nothing is to be had from there.
        if self.has_other_chunks() {
            return false;
        }
        let cursor = self.cursor();
        if cursor != self.low.get() && !self.begin_run(cursor, size) {
            return false;
        }
        let wanted = size - (self.tip() - self.low.get());
        // The cursor is at the run's lower end, which is aligned; so what is taken follows it. Asked for more
        // than it has, a bump without a limit would ask the global allocator, that is us, for a chunk.
        let room = self.low.get() - self.memory.as_ptr().addr();
        if wanted > room {
            return false;
        }
        let taken = wanted.max(BATCH.min(room));
        // SAFETY: a power of two, and a size that is far from overflowing.
        let layout = unsafe { Layout::from_size_align_unchecked(taken, GRANULE) };
        let Ok(block) = self.bump.try_alloc_layout(layout) else {
            return false;
        };
        debug_assert_eq!(block.as_ptr().addr(), self.low.get() - taken);
        self.move_low(block.as_ptr().addr());
        true
    }

    /// The handler has used the bump below the run, which ends there; another one begins at the bump's
    /// cursor, if that has `size` bytes, and notes what lies above it.
    fn begin_run(&self, cursor: usize, size: usize) -> bool {
        let (low, tip) = (self.low.get(), self.tip());
        let start = cursor & !(GRANULE - 1);
        // What the handler has taken is free when its request ends, which matters when something below it is
        // not: that is noted, however little it is, because what lies on both sides of it cannot be joined
        // otherwise.
        let note = match start < low {
            true => size_of::<Gap>(),
            false => 0,
        };
        let first = note + (cursor - start);
        if first + size > cursor - self.memory.as_ptr().addr() {
            return false;
        }
        if first > 0 {
            // SAFETY: an alignment of one, and a size that is there.
            let layout = unsafe { Layout::from_size_align_unchecked(first, 1) };
            if self.bump.try_alloc_layout(layout).is_err() {
                return false;
            }
        }
        if tip > low {
            // SAFETY: the rest of the old run is free.
            unsafe { self.put(self.pointer_to(low), tip - low) };
        }
        self.taken.set(self.taken.get() + low.saturating_sub(start));
        let begin = start - note;
        if note > 0 {
            let gap = Gap {
                older: self.gaps.get(),
                bytes: (low - start) & !(GRANULE - 1),
            };
            let place = self.pointer_to(begin).cast::<Gap>();
            // SAFETY: just taken from the bump, in the arena, and aligned.
            unsafe { place.write(gap) };
            self.gaps.set(place.as_ptr());
        }
        self.more_holes(tip - begin);
        self.move_low(begin);
        self.move_tip(begin);
        true
    }

    /// Whether the bump's current chunk is not the arena.
    #[inline(always)]
    fn has_other_chunks(&self) -> bool {
        self.bump.allocated_bytes() != self.limit
    }

    /// A pointer to an address of the arena.
    #[inline(always)]
    fn pointer_to(&self, address: usize) -> NonNull<u8> {
        // SAFETY: by the caller's word the address lies in the arena, or at its end.
        unsafe { self.memory.add(address - self.memory.as_ptr().addr()) }
    }

    /// Joins what was freed: all, if enough came since all were joined last, or else what came since some
    /// were. What lies at the tip goes back to the run.
    fn join_freed(&self) {
        if self.freed.are_indexed() {
            return self.settle();
        }
        self.note_peak(); // the tip moves
        let base = self.base();
        let all = self.freed.are_worth_joining();
        self.freed.join(base, all, |block| {
            let is_tip = base.address_of(block.at) == self.tip();
            if is_tip {
                self.take_back(block);
            }
            !is_tip
        });
        self.move_floor();
        self.give_back_to_bump();
    }

    /// Joins all that was freed, for certain.
    fn settle(&self) {
        self.note_peak(); // the tip moves
        let base = self.base();
        self.freed.settle(base);
        if let Some(block) = self.freed.take_at(base, base.granule_of(self.tip())) {
            self.take_back(block);
        }
        self.move_floor();
        self.give_back_to_bump();
    }

    /// A block that was freed, and lies at the tip, goes back to the run.
    fn take_back(&self, block: Stretch) {
        self.move_tip(self.tip() + block.bytes());
        self.fewer_holes(block.bytes());
    }

    /// The bump's cursor, if its current chunk is the arena.
    #[inline(always)]
    fn cursor(&self) -> usize {
        self.memory.as_ptr().addr() + self.bump.chunk_capacity()
    }

    /// Leaves the run what the next few blocks will need, and gives the rest to the bump.
    #[cold]
    fn give_back_to_bump(&self) {
        let (low, tip) = (self.low.get(), self.tip());
        let too_much = (tip - low).saturating_sub(BATCH) & !(GRANULE - 1);
        if too_much == 0 || self.has_other_chunks() || self.cursor() != low {
            return;
        }
        // SAFETY: an alignment and a size that are possible.
        let layout = unsafe { Layout::from_size_align_unchecked(too_much, GRANULE) };
        // SAFETY: the lower end of the run: handed out by this bump, as its last bytes, and not in use.
        unsafe { (&self.bump).deallocate(self.pointer_to(low), layout) };
        self.move_low(low + too_much);
    }

    /// Gives a block back: to the run if it is the last one made, else to the lists.
    ///
    /// # Safety
    /// `block` came from [`Heap::allocate`], [`Heap::grow`] or [`Heap::shrink`] of this heap with `layout`,
    /// and is not used again.
    #[inline(always)]
    pub(crate) unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
        let size = rounded(layout.size());
        if block.as_ptr().addr() >= self.mark() {
            // SAFETY: as promised by the caller.
            return unsafe { self.give_back_kept(block, size) };
        }
        // SAFETY: as promised by the caller.
        unsafe { self.give_back(block, size) };
    }

    /// Gives back the block at the tip of the run, if this is it and nothing else is to be done. For the most
    /// frequent calls. True if it was done.
    ///
    /// # Safety
    /// As for [`Heap::deallocate`].
    #[inline(always)]
    pub(crate) unsafe fn deallocate_at_tip(&self, block: NonNull<u8>, layout: Layout) -> bool {
        let above = block.as_ptr().addr().wrapping_add(rounded(layout.size()));
        // A block above the mark ends above the ceiling.
        if block != self.tip.get() || above > self.ceiling.get() {
            return false;
        }
        self.note_peak();
        // SAFETY: the end of a block of the arena.
        self.tip.set(unsafe { block.add(rounded(layout.size())) });
        true
    }

    /// # Safety
    /// The bytes lie below the mark, were handed out, and are not in use.
    #[inline(always)]
    unsafe fn give_back(&self, block: NonNull<u8>, size: usize) {
        self.note_peak();
        let tip = self.tip.get();
        if block == tip {
            // SAFETY: the end of a block of the arena.
            let above = unsafe { tip.add(size) };
            self.tip.set(above);
            if above.as_ptr().addr() - self.low.get() > 2 * BATCH {
                self.give_back_to_bump();
            }
        } else {
            // SAFETY: as promised by the caller.
            unsafe { self.put(block, size) };
            self.more_holes(size);
        }
    }

    /// Puts bytes into the lists.
    ///
    /// # Safety
    /// As for [`Heap::give_back`].
    #[inline(always)]
    unsafe fn put(&self, block: NonNull<u8>, size: usize) {
        // SAFETY: by the caller's promise they are not in use, and lie in the arena.
        unsafe { self.freed.put(self.base(), self.stretch(block, size)) };
        self.floor.set(usize::MAX);
    }

    /// # Safety
    /// The bytes lie above the mark, were handed out, and are not in use.
    #[cold]
    unsafe fn give_back_kept(&self, block: NonNull<u8>, size: usize) {
        // Its lists outlive this request, also if that is left by a jump: nothing may end in the middle of
        // this.
        ensure_stack(STACK_MARGIN);
        let stretch = self.stretch(block, size);
        self.change_kept(self.kept.get().wrapping_sub(size));
        if block.as_ptr().addr() == self.mark() {
            self.may_rise.set(true);
        }
        self.wipe_block(stretch);
        // SAFETY: by the caller's promise.
        unsafe { self.kept_freed.put(self.base(), stretch) };
        if self.uses_kept.get() == UsesKept::NotYet {
            self.uses_kept.set(UsesKept::Yes);
            self.move_floor();
        }
    }

    #[inline(always)]
    fn stretch(&self, block: NonNull<u8>, size: usize) -> Stretch {
        Stretch {
            at: self.base().granule_of(block.as_ptr().addr()),
            len: (size / GRANULE) as u32,
        }
    }

    /// What is free above the mark is not wiped between requests, so it is when it is put there.
    fn wipe_block(&self, block: Stretch) {
        if let Some(byte) = self.wipe.byte() {
            let at = self.base().pointer_to(block.at);
            // SAFETY: the block is free.
            unsafe { at.write_bytes(byte, block.bytes()) };
        }
    }

    /// Makes a block larger: by the difference if it is the last one made, else by a copy.
    ///
    /// # Safety
    /// As for [`Heap::deallocate`]; `new.size() ≥ old.size()`, equal alignment. On `Err` the block is as it
    /// was.
    #[inline]
    pub(crate) unsafe fn grow(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<u8>, DoesNotFit> {
        let (had, wants) = (rounded(old.size()), rounded(new.size()));
        if had == wants {
            return Ok(block);
        }
        let more = wants - had;
        let at = block.as_ptr().addr();
        // At the tip it grows downwards, and its bytes move; unless the handler has used the bump since, and
        // a new run begins.
        let has_room = || more <= at - self.low.get() || (self.extend(more) && at == self.tip());
        if at == self.tip() && at < self.mark() && old.align() <= GRANULE && has_room() {
            self.move_tip(at - more);
            let grown = self.pointer_to(at - more);
            // SAFETY: both lie in the run or in the block, and the bytes are the block's.
            unsafe { ptr::copy(block.as_ptr(), grown.as_ptr(), old.size()) };
            return Ok(grown);
        }
        let grown = self.allocate(new)?;
        // SAFETY: both are live and do not overlap; the old one is not used again, by the caller's promise.
        unsafe {
            ptr::copy_nonoverlapping(block.as_ptr(), grown.as_ptr(), old.size());
            self.deallocate(block, old);
        }
        Ok(grown)
    }

    /// Makes a block smaller, and gives the rest back.
    ///
    /// # Safety
    /// As for [`Heap::deallocate`]; `new.size() ≤ old.size()`, equal alignment.
    #[inline]
    pub(crate) unsafe fn shrink(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> NonNull<u8> {
        let (had, wants) = (rounded(old.size()), rounded(new.size()));
        if had == wants {
            return block;
        }
        let less = had - wants;
        let is_kept = block.as_ptr().addr() >= self.mark();
        // At the tip its bytes move to its upper end, if the two do not overlap; else its upper end goes to
        // the lists.
        let is_tip = block == self.tip.get() && !is_kept;
        if is_tip && wants <= less && old.align() <= GRANULE {
            // SAFETY: within the block.
            let moved = unsafe { block.add(less) };
            // SAFETY: both lie in the block and do not overlap; then its lower part is not in use.
            unsafe {
                ptr::copy_nonoverlapping(block.as_ptr(), moved.as_ptr(), new.size());
                self.give_back(block, less);
            }
            return moved;
        }
        // SAFETY: the block's upper end, which is not used again by the caller's promise.
        unsafe {
            let rest = block.add(wants);
            if is_kept {
                self.give_back_kept(rest, less);
            } else {
                self.give_back(rest, less);
            }
        }
        block
    }

    /// Ends a request: what it has left in use is kept, everything else is free.
    ///
    /// # Safety
    /// The request has ended: no borrow of [`Heap::bump`] lives, and nothing of it is used again but the
    /// blocks that are live.
    #[inline(always)]
    pub(crate) unsafe fn end_request(&mut self) {
        let is_clean = self.tip() == self.mark()
            && self.gaps.get().is_null()
            && !self.has_other_chunks()
            && self.cursor() == self.low.get()
            && (self.kept.get() != 0 || self.mark() == self.top)
            && !self.may_rise.get()
            && self.wipe == Wipe::None;
        if is_clean {
            // Everything was given back to where it was taken from. What the run holds may stay in it.
            self.close(); // a handler with the `&Bump` may have lifted it
            debug_assert!(
                self.freed.is_empty(),
                "they lie between the tip and the mark"
            );
            self.freed.forget_counts();
            self.is_to_fail.set(false);
            self.live_peak.set(0);
            self.deepest.set(self.mark());
            self.lowest.set(self.mark());
        } else {
            // SAFETY: by the caller's promise.
            unsafe { self.clear_up() };
        }
    }

    /// # Safety
    /// As for [`Heap::end_request`].
    #[inline(never)]
    unsafe fn clear_up(&mut self) {
        if self.live() != 0 {
            // SAFETY: by the caller's promise.
            unsafe { self.keep() };
        }
        // SAFETY: what is live lies above the mark now.
        unsafe { self.reset() };
    }

    /// Moves the mark below everything of this request that is still live: it belongs to the thread from now
    /// on. What the request has given back, and what it has used of the bump itself, is free above the mark.
    ///
    /// # Safety
    /// The request has ended: no borrow of [`Heap::bump`] lives, and nothing allocated through it is used
    /// again.
    unsafe fn keep(&mut self) {
        // SAFETY: as for this function.
        unsafe { self.discard_other_chunks() };
        let live = self.live();
        let base = self.base();
        // Below the tip lie the rest of the run and the handler's own use of the bump.
        let mut lowest = self.tip();
        self.free_gaps();
        self.freed.settle(base);
        // What is free right above the tip is skipped, so that the mark lies above it.
        if let Some(block) = self.freed.take_at(base, base.granule_of(lowest)) {
            lowest += block.bytes();
        }
        while let Some(block) = self.freed.take_any(base) {
            self.wipe_block(block);
            // SAFETY: a block of the arena's, in no list any more.
            unsafe { self.kept_freed.put(base, block) };
        }
        self.freed.clear();
        if self.misses_joined.get() {
            self.kept_freed.settle(base);
        }
        self.move_mark(lowest);
        self.may_rise.set(false); // what lies right above it now is live
        self.kept.set(self.kept.get() + live);
        self.forget_live();
    }

    /// Moves the mark up to the lowest block above it that is live. There is one.
    fn raise_mark(&self) {
        let base = self.base();
        self.kept_freed.settle(base);
        if let Some(block) = self.kept_freed.take_at(base, base.granule_of(self.mark())) {
            self.move_mark(self.mark() + block.bytes());
        }
    }

    /// Puts what the handler has used of the bump, as far as there are notes on it, into the lists.
    fn free_gaps(&self) {
        let base = self.base();
        let mut gap = self.gaps.replace(ptr::null());
        // SAFETY: the notes lie in the arena, below what they tell of, and were never given back.
        while let Some(note) = unsafe { gap.as_ref() } {
            let stretch = Stretch {
                at: base.granule_of(gap.addr()),
                len: ((size_of::<Gap>() + note.bytes) / GRANULE) as u32,
            };
            gap = note.older;
            // SAFETY: the note is done with, and what the handler took from the bump is not used again.
            unsafe { self.freed.put(base, stretch) };
        }
    }

    /// Empties the arena below the mark by moving its cursor back to it; and moves the mark to the top, if
    /// nothing above it is live.
    ///
    /// # Safety
    /// Nothing below the mark is used again, and no borrow of [`Heap::bump`] lives.
    unsafe fn reset(&mut self) {
        if self.kept.get() == 0 && self.mark() != self.top {
            self.kept_freed.clear();
            self.move_mark(self.top);
        } else if self.may_rise.get() {
            self.raise_mark();
        }
        self.may_rise.set(false);
        self.misses_joined.set(false);
        if let Some(byte) = self.wipe.byte() {
            // All of it: no high water tells what bumpalo's collections have used and given back again.
            // SAFETY: the chunk's data below the mark is the first bytes of our memory; by the caller's
            // promise it is not used again.
            unsafe {
                self.memory.write_bytes(byte, self.room.get());
            };
        }
        // SAFETY: as for this function.
        unsafe { self.discard_other_chunks() };
        if self.has_other_chunks() {
            // SAFETY: the memory was given to us for ever in `new`, and no bump has it now.
            let fresh = unsafe {
                allocator::carve(self.memory, self.len, || {
                    Bump::try_with_capacity(self.capacity)
                })
            };
            self.bump = fresh.expect("the same memory has held the same arena before");
        } else {
            self.bump.reset();
        }
        self.close(); // a handler with the `&Bump` may have lifted it
        let kept = self.top - self.mark();
        if kept > 0 {
            // SAFETY: a size within the chunk, and an alignment of one.
            let layout = unsafe { Layout::from_size_align_unchecked(kept, 1) };
            // The bump is empty and hands out from the top: this is what lies above the mark. It is not
            // written to.
            let above = self.bump.try_alloc_layout(layout);
            debug_assert!(above.is_ok_and(|at| at.as_ptr().addr() == self.mark()));
        }
        self.freed.clear();
        self.holes.set(0);
        self.live_peak.set(0);
        self.deepest.set(self.mark());
        self.lowest.set(self.mark());
        self.taken.set(0);
        self.gaps.set(ptr::null());
        self.move_low(self.mark());
        self.move_tip(self.mark());
        self.is_to_fail.set(false);
    }

    /// The bump may have other chunks than ours, because a handler lifted its limit. Then all others are
    /// freed, ours is not, and until the next reset there is a bump without memory.
    ///
    /// # Safety
    /// No borrow of [`Heap::bump`] lives, and nothing allocated through it is used again.
    #[inline(always)]
    unsafe fn discard_other_chunks(&mut self) {
        if self.has_other_chunks() {
            let bump = mem::replace(&mut self.bump, Bump::new());
            let memory = self.memory.as_ptr().addr();
            let (below, above) = allocator::discard(bump, memory, self.len, self.mark());
            self.more_holes(below);
            self.kept.set(self.kept.get() - above);
        }
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
#[path = "heap_tests.rs"]
mod tests;
