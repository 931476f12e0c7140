//! A bucket: the fixed slice of the region in which one request at a time lives, and the thread bound to it.
//!
//! The control block lies in the bucket's own reserve. Most of it belongs to the bucket's thread; the fields
//! that other threads touch are atomics, and are named in [`Bucket`].

use crate::allocator::TransomAllocator;
use crate::cleanup::{Cleanups, Deferred, Owner, WayOut};
use crate::events::{EXTENDED, Events};
use crate::exhaustion::{CRefusal, Exhaustion};
use crate::geometry::{BucketGeometry, EXTENSION_SIZE, GUARD_SIZE, extension_size};
use crate::granules::{GRANULE, rounded};
use crate::heap::{Heap, Wipe};
use crate::overdraft;
use crate::panic::PanicNote;
use crate::pool::Account;
use crate::recovery::{self, Pieces, Policy, Refusing, Report};
use crate::region::{self, Part, Region};
use crate::remote::Remote;
use crate::server_thread::ThreadMain;
use crate::shared::{self, HeldCells};
use crate::stack::StackGauge;
use crate::thread::thread;
use std::alloc::{GlobalAlloc, Layout};
use std::cell::{Cell, UnsafeCell};
use std::panic::Location;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

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
    /// It is out of service, with a thread or without one: what earlier requests have left in it is more than
    /// may be kept.
    Resting = 3,
    /// Its request will never return.
    Parked = 4,
}

/// The control block. `#[repr(C)]`, at the start of the reserve.
#[repr(C)]
pub struct Bucket {
    // Owned by the bucket's thread.
    heap: UnsafeCell<Heap>,
    pub(crate) recovery: Cell<*mut ()>,
    pub(crate) policy: Cell<Policy>,
    pub(crate) report: Cell<Option<*const dyn Report>>,
    /// Since the request began to fail: it must neither jump nor be marked any more.
    pub(crate) failing: Cell<bool>,
    /// What has happened to the request.
    pub(crate) events: Events,
    /// An allocation that does not fit is refused for now, and does not end the request.
    pub(crate) refusing: Cell<Refusing>,
    /// How it has outgrown its bucket, if it has.
    pub(crate) exhaustion: Cell<Exhaustion>,
    pub(crate) panic_note: PanicNote,
    /// What was registered with `defer`.
    pub(crate) cleanups: Cleanups,
    /// Cells that are locked.
    pub(crate) held: HeldCells,
    pub(crate) stack_gauge: StackGauge,
    /// Bytes of the stack's extension that are open. It is a word of its own, besides `EXTENDED`: the handler
    /// of a fault sets it when the interrupted code may be changing the events.
    extended: AtomicUsize,
    /// Where the frames of its thread begin, which grow down from here.
    first_frame: Cell<usize>,
    /// What its thread had blocked when it began. While the stack is extended it has more.
    base_mask: Cell<u64>,
    /// What its thread would block without our handler of faults, which was left by a jump.
    pub(crate) mask: Cell<Option<u64>>,
    panic_room_used: Cell<usize>,
    panic_room_live: Cell<u32>,
    /// How often the shared heap had nothing for it, and how many bytes it has asked it for then.
    pub(crate) spilled: Cell<(u32, usize)>,
    /// Where it has changed a `Shared` cell last.
    pub(crate) last_change: Cell<Option<&'static Location<'static>>>,
    /// What its thread runs; written before the thread is created.
    main: Cell<Option<(ThreadMain, usize)>>,
    // Under the lock of the pool that it is an account of.
    pub(crate) overdraft: Account,
    pub(crate) c_account: Account,
    /// What `malloc` has refused its request last.
    pub(crate) c_refused: Cell<Option<CRefusal>>,
    // Any thread.
    remote: Remote,
    state: AtomicU32,
    /// It rests, whatever its thread does and whether it has one.
    rests: AtomicBool,
    adopted: AtomicU32,
    /// The thread that has returned from its main function and was not joined; 0: none.
    returned: AtomicUsize,
    high_water: AtomicUsize,
    last_high_water: AtomicUsize,
    kept: AtomicUsize,
    kept_max: AtomicUsize,
    // Constant.
    geometry: BucketGeometry,
    base: usize,
    index: u32,
}

const _: () = assert!(size_of::<Bucket>() <= crate::geometry::CONTROL_SIZE);

// SAFETY: the non-atomic fields are reached only by the thread that holds the bucket's one `Tenant`, or by
// that thread's allocator and signal handler; everything else reads atomics and constants.
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
    Overdraft,
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
    if overdraft::owns(address) {
        return Home::Overdraft;
    }
    Home::Process
}

/// The bucket of this number, which there is.
pub(crate) fn numbered(number: u16) -> &'static Bucket {
    debug_assert!(usize::from(number) < COUNT.load(Ordering::Relaxed));
    control_block(usize::from(number))
}

/// `index` must be below COUNT.
fn control_block(index: usize) -> &'static Bucket {
    let address = BASE.load(Ordering::Relaxed)
        + index * STRIDE.load(Ordering::Relaxed)
        + RESERVE_OFFSET.load(Ordering::Relaxed);
    // SAFETY: COUNT is raised only after every control block below it has been written, and they live for
    // ever.
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
    /// Divides a part of the region into buckets. Once per process, between [`Region::map`] and
    /// [`Region::commit`].
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
        assert!(part.len() >= part.count * geometry.stride());
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
        STRIDE.store(geometry.stride(), Ordering::SeqCst);
        RESERVE_OFFSET.store(geometry.reserve_offset(), Ordering::SeqCst);
        let count = u32::try_from(part.count).expect("at most BUCKETS_MAX");
        for index in 0..count {
            // SAFETY: index < count, and the part holds count buckets.
            let bucket = unsafe { base.add(index as usize * geometry.stride()) };
            // SAFETY: both guards lie in this bucket, in memory that nothing refers to.
            unsafe {
                region.guard(bucket, GUARD_SIZE + EXTENSION_SIZE);
                region.guard(bucket.add(geometry.second_guard_offset()), GUARD_SIZE);
            }
            // SAFETY: the bucket's memory is zeroed, page-aligned, valid for ever, and only we refer to it.
            unsafe { Bucket::build(bucket, index, geometry, wipe)? };
        }
        COUNT.store(part.count, Ordering::SeqCst);
        Ok(Buckets { first: 0, count })
    }

    /// Splits off the last so many buckets, which are kept aside.
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
    /// `base` is the start of a zeroed bucket of this geometry. Nothing refers to it, and it lives for ever.
    unsafe fn build(
        base: NonNull<u8>,
        index: u32,
        geometry: BucketGeometry,
        wipe: Wipe,
    ) -> Result<(), BucketsError> {
        // SAFETY: offsets within the bucket; the arena is page-aligned, and nothing else uses it.
        unsafe {
            let arena = base.add(geometry.arena_offset());
            let heap = Heap::new(arena, geometry.arena_size(), wipe)
                .map_err(|_| BucketsError::ForeignAllocator)?;
            base.add(geometry.reserve_offset()).cast().write(Bucket {
                heap: UnsafeCell::new(heap),
                recovery: Cell::new(ptr::null_mut()),
                policy: Cell::new(Policy::Overdraft),
                report: Cell::new(None),
                failing: Cell::new(false),
                events: Events::new(),
                refusing: Cell::new(Refusing::default()),
                exhaustion: Cell::new(Exhaustion::NOTHING),
                panic_note: PanicNote::new(),
                cleanups: Cleanups::new(),
                held: HeldCells::new(),
                stack_gauge: StackGauge::new(
                    base.as_ptr() as usize + geometry.stack_offset(),
                    geometry.stack_size(),
                ),
                extended: AtomicUsize::new(0),
                first_frame: Cell::new(0),
                base_mask: Cell::new(0),
                mask: Cell::new(None),
                panic_room_used: Cell::new(0),
                panic_room_live: Cell::new(0),
                spilled: Cell::new((0, 0)),
                last_change: Cell::new(None),
                main: Cell::new(None),
                overdraft: Account::new(),
                c_account: Account::new(),
                c_refused: Cell::new(None),
                remote: Remote::new(),
                state: AtomicU32::new(BucketState::Unbound as u32),
                rests: AtomicBool::new(false),
                adopted: AtomicU32::new(0),
                returned: AtomicUsize::new(0),
                high_water: AtomicUsize::new(0),
                last_high_water: AtomicUsize::new(0),
                kept: AtomicUsize::new(0),
                kept_max: AtomicUsize::new(0),
                geometry,
                base: base.as_ptr() as usize,
                index,
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
            4 => BucketState::Parked,
            _ if self.rests.load(Ordering::Relaxed) => BucketState::Resting,
            1 => BucketState::Idle,
            2 => BucketState::Busy,
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

    /// Bytes that earlier requests have left in it and that are still in use, as its thread has last seen.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.kept.load(Ordering::Relaxed)
    }

    /// The most of these that its thread has ever seen.
    #[must_use]
    pub fn kept_max(&self) -> usize {
        self.kept_max.load(Ordering::Relaxed)
    }

    pub(crate) fn set_state(&self, state: BucketState) {
        self.state.store(state as u32, Ordering::Relaxed);
    }

    pub(crate) fn set_resting(&self, rests: bool) {
        self.rests.store(rests, Ordering::Relaxed);
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
        // SAFETY: `&mut Heap` exists only inside `reset`, which runs on the bucket's thread and calls nothing
        // that allocates; this is called on that thread only.
        unsafe { &*self.heap.get() }
    }

    /// Says that nothing allocated by the request in the arena is live, whatever was counted. What lies in
    /// the reserve goes on being counted: cleanups have made something there that lives on, or registered
    /// something.
    pub(crate) fn forget_live(&self) {
        self.forget_freed();
        self.heap().forget_live();
    }

    /// Takes what other threads have freed off the stack that it is on, before its bytes are used again. What
    /// lies below the mark is dead with the request, whose lists may be half-way.
    fn forget_freed(&self) {
        self.remote.take_all(|block, size| {
            if self.heap().is_kept(block) {
                // SAFETY: as in `take_back`.
                unsafe {
                    let layout = Layout::from_size_align_unchecked(size, GRANULE);
                    self.heap().deallocate(block, layout);
                }
            } else if !self.heap().owns(block.as_ptr().addr()) {
                self.freed_in_panic_room();
            }
        });
    }

    /// Whether an address lies in a frame of this bucket's thread. Above the first frame there are its
    /// thread-local variables.
    pub(crate) fn is_in_a_frame(&self, address: usize) -> bool {
        let (bottom, _) = self.open_stack();
        (bottom..self.first_frame.get()).contains(&address)
    }

    /// Its thread begins: its frames lie below this address, and it has so much blocked.
    pub(crate) fn thread_begins(&self, address: usize, mask: u64) {
        self.first_frame.set(address);
        self.base_mask.set(mask);
    }

    pub(crate) fn change_refusing(&self, change: impl FnOnce(&mut Refusing)) {
        let mut refusing = self.refusing.get();
        change(&mut refusing);
        self.refusing.set(refusing);
    }

    pub(crate) fn base_mask(&self) -> u64 {
        self.base_mask.get()
    }

    pub(crate) fn is_extended(&self) -> bool {
        self.extended.load(Ordering::Relaxed) > 0
    }

    /// The lowest address of the stack.
    pub(crate) fn stack_bottom(&self) -> usize {
        self.base + self.geometry.stack_offset()
    }

    /// The stack, with its extension while that is open: its lowest address, and its size.
    pub(crate) fn open_stack(&self) -> (usize, usize) {
        let more = self.extended.load(Ordering::Relaxed);
        (
            self.stack_bottom() - more,
            self.geometry.stack_size() + more,
        )
    }

    /// Opens the stack's extension, for a function of the C library all of it. False if so much is open, or
    /// cannot be opened. Async-signal-safe.
    pub(crate) fn extend_stack(&self, for_library: bool) -> bool {
        let size = extension_size(for_library);
        let is_open = self.extended.load(Ordering::Relaxed) >= size;
        let opens = !is_open && region::open(self.stack_bottom() - size, size);
        if opens {
            // The handler of a fault may have opened more since.
            self.extended.fetch_max(size, Ordering::Relaxed);
            self.events.add(EXTENDED);
        }
        opens
    }

    /// Closes it, and gives its memory back. Where the kernel refuses that, it stays open.
    ///
    /// # Safety
    /// No frame that lies on it is used again.
    #[cold]
    pub(crate) unsafe fn close_extension(&self) {
        let size = self.extended.load(Ordering::Relaxed);
        // SAFETY: what lies there is frames of this bucket's thread, and by the caller's promise none of them
        // is used again.
        if size > 0 && unsafe { region::close(self.stack_bottom() - size, size) } {
            self.extended.store(0, Ordering::Relaxed);
            self.events.remove(EXTENDED);
        }
    }

    /// Whether an address lies in the stack's extension or in the guard below it.
    pub(crate) fn in_stack_guard(&self, address: usize) -> bool {
        let size = GUARD_SIZE + EXTENSION_SIZE;
        address.wrapping_sub(self.stack_bottom() - size) < size
    }

    /// Whether an address lies in what [`extend_stack`](Bucket::extend_stack) opens.
    pub(crate) fn in_extension(&self, address: usize, for_library: bool) -> bool {
        let size = extension_size(for_library);
        address.wrapping_sub(self.stack_bottom() - size) < size
    }

    /// Whether an address lies in the guard below the report stack.
    pub(crate) fn in_report_guard(&self, address: usize) -> bool {
        address.wrapping_sub(self.base + self.geometry.second_guard_offset()) < GUARD_SIZE
    }

    /// The stack on which a request that has none left is reported: its lowest address, and its size.
    pub(crate) fn report_stack(&self) -> (usize, usize) {
        (
            self.base + self.geometry.report_stack_offset(),
            self.geometry.report_stack_size(),
        )
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

    /// The thread's main function has returned: from here on it only runs destructors of its thread-locals.
    /// None of them is a request's, so nothing that they register would run before the next thread's first
    /// one ends.
    pub(crate) fn begin_to_end(&self) {
        self.cleanups.open(false);
        self.failing.set(true);
        self.policy.set(Policy::Overdraft);
        thread(|t| {
            t.aim.set(self);
            t.bound.set(self);
        });
    }

    /// Notes that it has, and which thread it is. After this the thread only frees what its destructors free.
    pub(crate) fn has_returned(&self, thread: libc::pthread_t) {
        self.returned.store(thread as usize, Ordering::Release);
    }

    /// The thread whose main function has returned, if it has. The caller must join it, or put it back by
    /// [`has_returned`](Bucket::has_returned); no other caller gets it meanwhile.
    pub(crate) fn take_thread_that_returned(&self) -> Option<libc::pthread_t> {
        match self.returned.swap(0, Ordering::Acquire) {
            0 => None,
            thread => Some(thread as libc::pthread_t),
        }
    }

    /// Called by the thread that has joined the bucket's thread: the bucket is as it was before it had one,
    /// except for what it keeps.
    pub(crate) fn end_of_thread(&self) {
        self.failing.set(false);
        self.cleanups.open(true);
        // SAFETY: the thread is gone, and its frames with it.
        unsafe { self.close_extension() };
        recovery::settle_pools(self);
        self.held.forget_all();
        self.look_at_kept();
    }

    /// The caller has adopted the bucket and no thread runs on it yet.
    pub(crate) fn set_main(&self, main: ThreadMain, argument: usize) {
        self.main.set(Some((main, argument)));
    }

    pub(crate) fn main(&self) -> (ThreadMain, usize) {
        self.main.get().expect("set before the thread is created")
    }

    /// A block from the reserve. Its bytes come back when none of them is live.
    pub(crate) fn allocate_in_panic_room(&self, layout: Layout) -> Option<NonNull<u8>> {
        let start = self.base + self.geometry.panic_room_offset();
        let end = start + crate::geometry::PANIC_ROOM_SIZE;
        // If another thread frees it, what was freed is noted in the block.
        let align = layout.align().max(GRANULE);
        let address = (start + self.panic_room_used.get()).next_multiple_of(align);
        let next = address.checked_add(rounded(layout.size()))?;
        if next > end {
            return None;
        }
        self.panic_room_used.set(next - start);
        self.panic_room_live.set(self.panic_room_live.get() + 1);
        NonNull::new(address as *mut u8)
    }

    /// A block of the reserve is not live any more. On the bucket's thread.
    pub(crate) fn freed_in_panic_room(&self) {
        let live = self.panic_room_live.get().wrapping_sub(1);
        self.panic_room_live.set(live);
        if live == 0 {
            self.panic_room_used.set(0);
        }
    }

    /// Registers a closure to run at the end of this thread's request. False, and the closure is dropped, if
    /// the request has no memory left at all, and on a thread that ends.
    pub(crate) fn defer<F: FnOnce(WayOut) + 'static>(&'static self, closure: F) -> bool {
        if !self.cleanups.is_open() {
            return false;
        }
        let layout = Layout::new::<Deferred<F, InBucket>>();
        let in_the_arena = || self.heap().allocate(layout).ok();
        let block = recovery::room_for_cleanup(self, layout, in_the_arena);
        let Some(block) = block.map(NonNull::cast) else {
            return false;
        };
        // SAFETY: a fresh block of its layout, live until the closure is taken out of it; registered once.
        unsafe {
            block.write(Deferred::new(closure));
            self.cleanups.push(Deferred::<F, InBucket>::node(block));
        }
        true
    }

    /// A block of this bucket was freed by a thread that is not running its request.
    ///
    /// # Safety
    /// It has `size` bytes, a multiple of 16, was made in this bucket's arena or reserve, and is not in use.
    pub(crate) unsafe fn freed_from_afar(&self, block: NonNull<u8>, size: usize) {
        // SAFETY: by the caller's promise.
        unsafe { self.remote.push(block, size) };
    }

    /// Takes back what other threads have freed. On the bucket's thread.
    #[cold]
    fn take_back(&self) {
        // A jump half-way would lose the rest of them.
        recovery::ensure_stack(2 * recovery::STACK_MARGIN);
        self.remote.take_all(|block, size| {
            if self.heap().owns(block.as_ptr().addr()) {
                // SAFETY: the size is a multiple of 16 and the block's own, at which rounding changes
                // nothing; it was made by this heap, and freed once, by the thread that has pushed it.
                unsafe {
                    let layout = Layout::from_size_align_unchecked(size, GRANULE);
                    self.heap().deallocate(block, layout);
                }
            } else {
                self.freed_in_panic_room();
            }
        });
    }

    /// A block out of what other threads have freed since the request began, if that makes room. On the
    /// bucket's thread.
    pub(crate) fn allocate_what_came_back(&self, layout: Layout) -> Option<NonNull<u8>> {
        if self.remote.is_empty() {
            return None;
        }
        self.take_back();
        self.heap().allocate(layout).ok()
    }

    /// Bytes of the request's blocks that are still live, after it has ended.
    pub(crate) fn live(&self) -> usize {
        if !self.remote.is_empty() {
            self.take_back();
        }
        self.heap().live()
    }

    /// What other threads have freed since is used again; gives how many bytes are still kept. On the
    /// bucket's thread, with no request in it.
    pub(crate) fn look_at_kept(&self) -> usize {
        self.live();
        // SAFETY: no request is in it, so nothing below the mark is used.
        unsafe { self.reset() };
        self.kept()
    }

    /// Bytes of the arena that the next request cannot have in one, because of what earlier requests have
    /// left: all but the largest of these pieces. On the bucket's thread, with no request in it.
    pub(crate) fn cost_of_kept(&self, pieces: Pieces) -> usize {
        self.heap().capacity() - self.heap().largest_piece(pieces == Pieces::All)
    }

    /// Makes what the request has left the thread's own, if it has left anything, and empties the rest for
    /// the next one.
    ///
    /// # Safety
    /// On the bucket's thread; the request in it has ended, and nothing of it is used again but the blocks
    /// that are live.
    #[inline]
    pub(crate) unsafe fn reset(&self) {
        // SAFETY: by the caller's promise no reference to the heap or into it is in use.
        let heap = unsafe { &mut *self.heap.get() };
        // SAFETY: by the caller's promise.
        unsafe { heap.end_request() };
        let kept = heap.kept();
        if self.kept.load(Ordering::Relaxed) != kept {
            self.kept.store(kept, Ordering::Relaxed);
            let most = self.kept_max().max(kept);
            self.kept_max.store(most, Ordering::Relaxed);
        }
    }
}

/// Cleanups whose blocks come from the memory of the request that has registered them.
struct InBucket;

impl Owner for InBucket {
    unsafe fn give_back<F>(block: NonNull<Deferred<F, Self>>) {
        let layout = Layout::new::<Deferred<F, Self>>();
        // SAFETY: made by `defer`, by this allocator or by what stands in for it, with this layout; the
        // caller's promise.
        unsafe { TransomAllocator.dealloc(block.cast().as_ptr(), layout) };
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
