//! A bucket: the fixed slice of the region in which one request at a time lives, and the thread bound to it.
//!
//! The control block lies in the bucket's own reserve. Most of it belongs to the bucket's thread; the fields that other
//! threads touch are atomics, and are named in [`Bucket`].

use crate::bound::PAGE;
use crate::cleanup::{Cleanups, Deferred, Node, WayOut};
use crate::geometry::BucketGeometry;
use crate::heap::{Heap, Wipe};
use crate::panic::PanicNote;
use crate::pin::Pin;
use crate::recovery::{Exhaustion, Policy, Stuck};
use crate::region::{Part, Region};
use crate::server_thread::ThreadMain;
use crate::shared;
use crate::stack::StackGauge;
use std::alloc::Layout;
use std::cell::{Cell, UnsafeCell};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// What a bucket is doing, for observers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum BucketState {
    /// No thread has been bound to it yet.
    Unbound = 0,
    /// Its thread waits for a call.
    Idle = 1,
    /// A request lives in it.
    Busy = 2,
    /// Its request is over, but allocations of that request still live.
    Pinned = 3,
    /// Its request was exhausted and will never return.
    Parked = 4,
}

/// The control block. `#[repr(C)]`, at the start of the reserve.
#[repr(C)]
pub struct Bucket {
    // Owned by the bucket's thread.
    heap: UnsafeCell<Heap>,
    pub(crate) recovery: Cell<*mut ()>,
    pub(crate) policy: Cell<Policy>,
    pub(crate) stuck: Cell<Option<Stuck>>,
    /// Since the request began to fail: allocations come from the panic room.
    pub(crate) failing: Cell<bool>,
    /// Since the panic hook has seen a panic after which the runtime aborts.
    pub(crate) aborting: Cell<bool>,
    pub(crate) exhaustion: Cell<Exhaustion>,
    pub(crate) panic_note: PanicNote,
    pub(crate) cleanups: Cleanups,
    pub(crate) stack_gauge: StackGauge,
    panic_room_used: Cell<usize>,
    /// What its thread runs; written before the thread is created.
    main: Cell<Option<(ThreadMain, usize)>>,
    // Any thread.
    pin: Pin,
    state: AtomicU32,
    adopted: AtomicU32,
    high_water: AtomicUsize,
    last_high_water: AtomicUsize,
    // Constant.
    geometry: BucketGeometry,
    base: usize,
    index: u32,
    pub(crate) wipe: Wipe,
}

const _: () = assert!(size_of::<Bucket>() <= crate::geometry::CONTROL_SIZE);

// SAFETY: the non-atomic fields are reached only by the thread that holds the bucket's one `Tenant`, or by that thread's
// allocator and signal handler; everything else reads atomics and constants.
unsafe impl Sync for Bucket {}
// SAFETY: a Bucket is only ever referred to, in the region.
unsafe impl Send for Bucket {}

/// Where the buckets and nothing else lie. Written once, before any thread is bound.
static BASE: AtomicUsize = AtomicUsize::new(0);
static STRIDE: AtomicUsize = AtomicUsize::new(1);
static COUNT: AtomicUsize = AtomicUsize::new(0);
static RESERVE_OFFSET: AtomicUsize = AtomicUsize::new(0);

/// Where a block lies.
pub(crate) enum Home {
    Arena(&'static Bucket),
    Reserve(&'static Bucket),
    SharedHeap,
    Process,
}

/// Finds out by address alone.
pub(crate) fn home_of(address: usize) -> Home {
    let stride = STRIDE.load(Ordering::Relaxed);
    let offset = address.wrapping_sub(BASE.load(Ordering::Relaxed));
    let index = offset / stride;
    if index < COUNT.load(Ordering::Relaxed) {
        let bucket = control_block(index);
        if offset % stride >= RESERVE_OFFSET.load(Ordering::Relaxed) {
            return Home::Reserve(bucket);
        }
        return Home::Arena(bucket);
    }
    if shared::owns(address) {
        return Home::SharedHeap;
    }
    Home::Process
}

/// `index` must be below COUNT.
fn control_block(index: usize) -> &'static Bucket {
    let address = BASE.load(Ordering::Relaxed)
        + index * STRIDE.load(Ordering::Relaxed)
        + RESERVE_OFFSET.load(Ordering::Relaxed);
    // SAFETY: COUNT is raised only after every control block below it has been written, and they live for ever.
    unsafe { &*(address as *const Bucket) }
}

/// All buckets of the process.
#[derive(Debug, Clone, Copy)]
pub struct Buckets {
    first: u32,
    count: u32,
}

/// Why there are no buckets.
#[derive(Debug, thiserror::Error)]
pub enum BucketsError {
    /// One region per process.
    #[error("this process has its buckets already")]
    Installed,
    /// The arena's chunk did not come from the bucket.
    #[error(
        "the program's global allocator is not TransomAllocator, so nothing would be kept in the buckets: declare `#[global_allocator] static GLOBAL: transom_arena::TransomAllocator = transom_arena::TransomAllocator;` or remove the other one"
    )]
    ForeignAllocator,
}

impl Buckets {
    /// Divides a part of the region into buckets. Once per process, between [`Region::map`] and [`Region::commit`].
    ///
    /// # Errors
    /// [`BucketsError`].
    ///
    /// # Panics
    /// If the part is smaller than its count of buckets of this geometry: both come from one [`crate::Term`].
    pub fn install(
        region: &mut Region,
        part: &Part,
        geometry: BucketGeometry,
        wipe: Wipe,
    ) -> Result<Self, BucketsError> {
        let base = part.base();
        assert!(part.len() >= part.count * geometry.bucket_size());
        if BASE
            .compare_exchange(
                0,
                base.as_ptr() as usize,
                Ordering::SeqCst,
                Ordering::SeqCst,
            )
            .is_err()
        {
            return Err(BucketsError::Installed);
        }
        STRIDE.store(geometry.bucket_size(), Ordering::SeqCst);
        RESERVE_OFFSET.store(geometry.reserve_offset(), Ordering::SeqCst);
        let count = u32::try_from(part.count).expect("at most BUCKETS_MAX");
        for index in 0..count {
            // SAFETY: index < count, and the part holds count buckets.
            let bucket = unsafe { base.add(index as usize * geometry.bucket_size()) };
            // SAFETY: both guards lie in this bucket, in memory nobody refers to.
            unsafe {
                region.guard(bucket);
                region.guard(bucket.add(geometry.second_guard_offset()));
            }
            // SAFETY: the bucket's memory is zeroed, page-aligned, valid for ever, and only we refer to it.
            unsafe { Bucket::build(bucket, index, geometry, wipe)? };
        }
        COUNT.store(part.count, Ordering::SeqCst);
        Ok(Buckets { first: 0, count })
    }

    /// All but the last so many, and those: buckets that are kept aside.
    ///
    /// # Panics
    /// If there are fewer.
    #[must_use]
    pub fn keep_aside(self, count: u32) -> (Buckets, Buckets) {
        let left = self
            .count
            .checked_sub(count)
            .expect("there are as many as are kept aside");
        let first = self.first;
        let aside = Buckets {
            first: first + left,
            count,
        };
        (Buckets { first, count: left }, aside)
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.count
    }

    /// Never, unless all were kept aside: a region has at least one bucket.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, index: u32) -> Option<&'static Bucket> {
        (index < self.count).then(|| control_block((self.first + index) as usize))
    }

    /// The place of a bucket among these, from 0, if it is one of them.
    #[must_use]
    pub fn place_of(&self, bucket: &Bucket) -> Option<u32> {
        let place = bucket.index.checked_sub(self.first)?;
        (place < self.count).then_some(place)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &'static Bucket> + use<> {
        (self.first as usize..(self.first + self.count) as usize).map(control_block)
    }
}

impl Bucket {
    /// # Safety
    /// `base` is the start of a zeroed bucket of this geometry that nobody refers to and that lives for ever.
    unsafe fn build(
        base: NonNull<u8>,
        index: u32,
        geometry: BucketGeometry,
        wipe: Wipe,
    ) -> Result<(), BucketsError> {
        // SAFETY: offsets within the bucket; the arena is page-aligned and nobody else's.
        unsafe {
            let arena = base.add(geometry.arena_offset());
            let heap = Heap::new(arena, geometry.arena_size())
                .map_err(|_| BucketsError::ForeignAllocator)?;
            base.add(geometry.reserve_offset()).cast().write(Bucket {
                heap: UnsafeCell::new(heap),
                recovery: Cell::new(ptr::null_mut()),
                policy: Cell::new(Policy::Park),
                stuck: Cell::new(None),
                failing: Cell::new(false),
                aborting: Cell::new(false),
                exhaustion: Cell::new(Exhaustion::NOTHING),
                panic_note: PanicNote::new(),
                cleanups: Cleanups::new(),
                stack_gauge: StackGauge::new(
                    base.as_ptr() as usize + geometry.stack_offset(),
                    geometry.stack_size(),
                ),
                panic_room_used: Cell::new(0),
                main: Cell::new(None),
                pin: Pin::new(),
                state: AtomicU32::new(BucketState::Unbound as u32),
                adopted: AtomicU32::new(0),
                high_water: AtomicUsize::new(0),
                last_high_water: AtomicUsize::new(0),
                geometry,
                base: base.as_ptr() as usize,
                index,
                wipe,
            });
        }
        Ok(())
    }

    /// Its number in the region, from 0.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Its division.
    #[must_use]
    pub fn geometry(&self) -> BucketGeometry {
        self.geometry
    }

    /// What it is doing now.
    #[must_use]
    pub fn state(&self) -> BucketState {
        match self.state.load(Ordering::Relaxed) {
            1 => BucketState::Idle,
            2 => BucketState::Busy,
            3 => BucketState::Pinned,
            4 => BucketState::Parked,
            _ => BucketState::Unbound,
        }
    }

    /// The most arena bytes any request has used in it.
    #[must_use]
    pub fn high_water(&self) -> usize {
        self.high_water.load(Ordering::Relaxed)
    }

    /// The most arena bytes that the last request to end in it has used.
    #[must_use]
    pub fn last_high_water(&self) -> usize {
        self.last_high_water.load(Ordering::Relaxed)
    }

    /// The deepest its stack has been seen, in bytes, to the page; sampled. See [`StackGauge`].
    #[must_use]
    pub fn stack_high_water(&self) -> usize {
        self.stack_gauge.high_water()
    }

    pub(crate) fn set_state(&self, state: BucketState) {
        self.state.store(state as u32, Ordering::Relaxed);
    }

    pub(crate) fn note_high_water(&self, bytes: usize) {
        self.last_high_water.store(bytes, Ordering::Relaxed);
        if bytes > self.high_water.load(Ordering::Relaxed) {
            self.high_water.store(bytes, Ordering::Relaxed);
        }
    }

    /// The arena. Only for the bucket's thread.
    #[inline(always)]
    pub(crate) fn heap(&self) -> &Heap {
        // SAFETY: `&mut Heap` exists only inside `reset`, which runs on the bucket's thread and calls nothing that
        // allocates; this is called on that thread only.
        unsafe { &*self.heap.get() }
    }

    /// Whether an address lies anywhere in this bucket, its stack included.
    pub(crate) fn contains(&self, address: usize) -> bool {
        address.wrapping_sub(self.base) < self.geometry.bucket_size()
    }

    /// The lowest address of the stack.
    pub(crate) fn stack_bottom(&self) -> usize {
        self.base + self.geometry.stack_offset()
    }

    /// Whether an address lies in the guard page below the stack.
    pub(crate) fn in_stack_guard(&self, address: usize) -> bool {
        address.wrapping_sub(self.stack_bottom() - PAGE) < PAGE
    }

    pub(crate) fn signal_stack(&self) -> (usize, usize) {
        (
            self.base + self.geometry.signal_stack_offset(),
            self.geometry.signal_stack_size(),
        )
    }

    /// Marks the bucket as taken by a thread; false if it has one.
    pub(crate) fn adopt(&self) -> bool {
        let first = self.adopted.swap(1, Ordering::SeqCst) == 0;
        if first {
            self.set_state(BucketState::Idle);
        }
        first
    }

    /// Undoes [`Bucket::adopt`]: the thread could not be started, or its tenant is gone.
    pub(crate) fn disown(&self) {
        self.set_state(BucketState::Unbound);
        self.adopted.store(0, Ordering::SeqCst);
    }

    /// The caller has adopted the bucket and no thread runs on it yet.
    pub(crate) fn set_main(&self, main: ThreadMain, argument: usize) {
        self.main.set(Some((main, argument)));
    }

    pub(crate) fn main(&self) -> (ThreadMain, usize) {
        self.main.get().expect("set before the thread is created")
    }

    /// A block from the reserve, counted as live like one from the arena: both are gone with the request.
    pub(crate) fn allocate_in_panic_room(&self, layout: Layout) -> Option<NonNull<u8>> {
        let start = self.base + self.geometry.panic_room_offset();
        let end = start + crate::geometry::PANIC_ROOM_SIZE;
        let address = (start + self.panic_room_used.get()).next_multiple_of(layout.align());
        let next = address.checked_add(layout.size())?;
        if next > end {
            return None;
        }
        self.panic_room_used.set(next - start);
        self.heap().count_allocation();
        NonNull::new(address as *mut u8)
    }

    /// A block for a cleanup, in the arena and not counted as live. Does not return if it does not fit.
    pub(crate) fn cleanup_block<T>(&self, value: T) -> NonNull<T> {
        let layout = Layout::new::<T>();
        let block = match self.heap().allocate(layout) {
            Ok(block) => block.cast::<T>(),
            // Only a thread that is failing gets one from here.
            Err(_) => crate::recovery::does_not_fit(self, layout).cast(),
        };
        if self.contains(block.as_ptr() as usize) {
            self.heap().count_deallocation();
        }
        // SAFETY: a fresh block of T's layout.
        unsafe { block.write(value) };
        block
    }

    /// # Safety
    /// As for [`Cleanups::push`]; on the bucket's thread.
    pub(crate) unsafe fn push_cleanup(&self, node: NonNull<Node>) {
        // SAFETY: as promised by the caller.
        unsafe { self.cleanups.push(node) };
    }

    /// Withdraws a registered block and gives its bytes back if it is the arena's last.
    pub(crate) fn withdraw_cleanup<T>(&self, block: NonNull<T>) {
        use allocator_api2::alloc::Allocator;
        // SAFETY: the block was pushed by this request and its memory stays valid to the request's end.
        let is_off = unsafe { self.cleanups.withdraw(block.cast()) };
        if is_off && self.heap().owns(block.as_ptr() as usize) {
            // SAFETY: it came from this bump with this layout and is off the list.
            unsafe {
                self.heap()
                    .bump()
                    .deallocate(block.cast(), Layout::new::<T>());
            };
        }
    }

    /// Registers a closure to run at the end of this thread's request.
    pub(crate) fn defer<F: FnOnce(WayOut) + 'static>(&self, closure: F) {
        let block = self.cleanup_block(Deferred::new(closure));
        // SAFETY: the block lies in the arena to the request's end; registered once.
        unsafe { self.push_cleanup(Deferred::node(block.as_ref())) };
    }

    /// An allocation of this bucket was freed by a thread that is not running its request.
    pub(crate) fn freed_from_afar(&self) {
        self.pin.freed_from_afar();
    }

    /// Allocations of the request that are still live, after it has ended.
    pub(crate) fn live(&self) -> u32 {
        self.pin.live(self.heap().live())
    }

    /// Says that nothing allocated by the request is live, whatever the count says.
    pub(crate) fn forget_live(&self) {
        self.heap().set_live(self.pin.freed());
    }

    /// Blocks until no allocation of the finished request is live.
    pub(crate) fn wait_until_unpinned(&self) {
        self.set_state(BucketState::Pinned);
        self.pin.wait_until_free(self.heap().live());
        self.set_state(BucketState::Idle);
    }

    /// Empties the bucket for the next request.
    ///
    /// # Safety
    /// On the bucket's thread, with no request in it, and nothing allocated in it is used again.
    pub(crate) unsafe fn reset(&self) {
        // SAFETY: by the caller's promise no reference to the heap or into it is in use.
        unsafe { (*self.heap.get()).reset(self.wipe) };
        self.pin.reset();
        self.panic_room_used.set(0);
    }
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bucket")
            .field("index", &self.index)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
