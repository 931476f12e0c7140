//! Entering a handler, and every way out of it.
//!
//! | what ran out | [`Policy::Park`] (any Rust handler) | [`Policy::Escape`] (the author's promise; C) |
//! |---|---|---|
//! | arena, through `&Bump` | unwinds | unwinds |
//! | arena, through the global allocator | reply, then the thread sleeps for ever | jump |
//! | stack | the same, from the signal stack | jump |
//! | panic | unwinds | unwinds |
//!
//! Never unwound out of `GlobalAlloc::alloc` (undefined behaviour), never a `setjmp` in Rust (it returns twice and the
//! compiler does not know): the guard is a closure, by `sjlj2`.

use crate::allocator::{from_panic_room, from_process_heap};
use crate::bucket::{Bucket, BucketState};
use crate::cleanup::WayOut;
use crate::futex;
use crate::panic::{self, PanicNote};
use crate::signal;
use crate::thread::{bound, thread};
use bumpalo::Bump;
use std::alloc::Layout;
use std::any::Any;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering, compiler_fence};

/// Below this much stack we do not start anything that must not be interrupted half-way: a stack overflow under one of our
/// locks, or malloc's, would leave it locked for everybody.
pub(crate) const STACK_MARGIN: usize = 8 << 10;

/// What is done when an allocation through the global allocator, or a stack, does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Report, then sleep for ever. Sound for every handler: the allocation never returns and nothing is skipped.
    Park,
    /// Jump to the recovery point. Only [`Tenant::enter_escaping`] sets it, which is `unsafe`.
    Escape,
}

/// What ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The bucket's arena.
    Arena,
    /// The bucket's stack.
    Stack,
    /// The shared heap.
    SharedHeap,
}

impl Reason {
    /// The word for it in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Arena => "arena",
            Reason::Stack => "stack",
            Reason::SharedHeap => "shared-heap",
        }
    }

    /// The flag that would raise it.
    #[must_use]
    pub fn flag(self) -> &'static str {
        match self {
            Reason::Arena => "--bucket-size",
            Reason::Stack => "--stack-size",
            Reason::SharedHeap => "--shared-heap",
        }
    }
}

/// An allocation that did not fit, or a stack overflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exhaustion {
    /// What ran out.
    pub reason: Reason,
    /// Bytes asked for; 0 when the number is not known (a stack overflow; `&Bump`, of which only `free` is known to be
    /// too little).
    pub asked: usize,
    /// Bytes in use at that moment.
    pub used: usize,
    /// Bytes that were still free.
    pub free: usize,
    /// Bytes of what ran out.
    pub size: usize,
}

impl Exhaustion {
    pub(crate) const NOTHING: Exhaustion = Exhaustion {
        reason: Reason::Arena,
        asked: 0,
        used: 0,
        free: 0,
        size: 0,
    };
}

/// Why a request has no answer of its own.
#[derive(Debug, Clone, Copy)]
pub enum Failed<'t> {
    /// It outgrew its bucket.
    Exhausted(Exhaustion),
    /// It panicked.
    Panicked(&'t PanicNote),
}

/// What a request used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// The most arena bytes in use at once.
    pub high_water: usize,
    /// Bytes the arena has.
    pub capacity: usize,
}

/// How a request ended.
#[derive(Debug)]
pub struct Outcome<'t, R> {
    /// The handler's value, or why there is none.
    pub result: Result<R, Failed<'t>>,
    /// What it used.
    pub usage: Usage,
    /// Allocations of it that are still live: if not 0, the bucket is pinned.
    pub live: u32,
}

/// Called on a thread that will never return, so that its client gets an answer. May run on the signal stack, inside a
/// failing allocation: it must not allocate, lock, or panic.
pub(crate) type Stuck = *const (dyn Fn(Failed<'_>) + 'static);

/// The right to run requests in one bucket, on the thread that has it.
pub struct Tenant {
    bucket: &'static Bucket,
    /// The thread runs on the bucket's stack, and does so until after this value is gone.
    on_its_stack: bool,
    not_send: PhantomData<*const ()>,
}

impl std::fmt::Debug for Tenant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Tenant").field(&self.bucket).finish()
    }
}

impl Tenant {
    /// Binds the current thread to a bucket that has none, without its stack: a stack overflow is then an ordinary one.
    /// For benchmarks, tests, and threads that the C library must make. `None` if the bucket is taken.
    #[must_use]
    pub fn adopt(bucket: &'static Bucket) -> Option<Self> {
        bucket.adopt().then(|| Self::of(bucket, false))
    }

    /// The caller has adopted the bucket.
    pub(crate) fn of(bucket: &'static Bucket, on_its_stack: bool) -> Self {
        panic::install_hook();
        // Where it matters, `start_thread` has reported the error.
        let _ = signal::install();
        Tenant {
            bucket,
            on_its_stack,
            not_send: PhantomData,
        }
    }

    /// The bucket.
    #[must_use]
    pub fn bucket(&self) -> &'static Bucket {
        self.bucket
    }

    /// Runs one request in the bucket, under [`Policy::Park`].
    ///
    /// `stuck` is called if the thread is parked, so that somebody is told; this function then never returns.
    /// What `f` returns must not refer to the bucket, which the bounds on `R` see to.
    ///
    /// # Panics
    /// If this thread is running a request already, or is inside [`outside`](crate::outside).
    pub fn enter<R: Copy + 'static>(
        &mut self,
        stuck: &dyn Fn(Failed<'_>),
        f: impl FnOnce(&Bump) -> R,
    ) -> Outcome<'_, R> {
        // SAFETY: nothing is promised and nothing is needed under Park.
        unsafe { self.enter_with(Policy::Park, stuck, f) }
    }

    /// Runs one request in the bucket, under [`Policy::Escape`].
    ///
    /// # Safety
    /// The escape contract, for everything that `f` calls: see [`escape_contract`](crate::escape_contract).
    ///
    /// # Panics
    /// As [`enter`](Tenant::enter).
    pub unsafe fn enter_escaping<R: Copy + 'static>(
        &mut self,
        stuck: &dyn Fn(Failed<'_>),
        f: impl FnOnce(&Bump) -> R,
    ) -> Outcome<'_, R> {
        // SAFETY: the caller's promise.
        unsafe { self.enter_with(Policy::Escape, stuck, f) }
    }

    /// # Safety
    /// Under Escape, the escape contract.
    #[inline]
    unsafe fn enter_with<R: Copy + 'static>(
        &mut self,
        policy: Policy,
        stuck: &dyn Fn(Failed<'_>),
        f: impl FnOnce(&Bump) -> R,
    ) -> Outcome<'_, R> {
        let bucket = self.bucket;
        // SAFETY: only the lifetime changes; `stuck` is cleared before this frame ends, and a parked frame never ends.
        let stuck = unsafe {
            std::mem::transmute::<*const (dyn Fn(Failed<'_>) + '_), Stuck>(ptr::from_ref(stuck))
        };
        assert!(
            thread(|t| t.bound.get().is_null() && t.outside.get() == 0),
            "a thread runs one request at a time, and begins it inside the bucket"
        );
        bucket.policy.set(policy);
        bucket.stuck.set(Some(stuck));
        bucket.panic_note.clear();
        bucket.aborting.set(false);
        bucket.set_state(BucketState::Busy);
        thread(|t| {
            t.aim.set(bucket);
            t.bound.set(bucket);
        });

        // The closure given to sjlj2 must not have anything to drop, because a jump would skip it.
        let mut f = ManuallyDrop::new(f);
        let f = &mut f;
        let landing = sjlj2::catch_long_jump(|recovery_point| {
            bucket.recovery.set(recovery_point.as_raw());
            compiler_fence(Ordering::SeqCst); // our signal handler reads what was set above
            catch_unwind(AssertUnwindSafe(|| {
                // SAFETY: taken once; the closure runs once.
                let f = unsafe { ManuallyDrop::take(f) };
                let value = f(bucket.heap().bump());
                if !bucket.cleanups.is_empty() {
                    bucket.cleanups.run(WayOut::Returned);
                }
                value
            }))
        });
        bucket.recovery.set(ptr::null_mut());

        let result = match landing {
            ControlFlow::Continue(Ok(value)) => Ok(value),
            ControlFlow::Continue(Err(payload)) => Err(self.unwound(payload)),
            ControlFlow::Break(_) => Err(self.escaped()),
        };
        thread(|t| {
            t.aim.set(ptr::null());
            t.bound.set(ptr::null());
        });
        bucket.stuck.set(None);
        self.leave(result)
    }

    /// Accounts, and empties the bucket if nothing of the request lives on.
    #[inline]
    fn leave<'t, R>(&'t mut self, result: Result<R, Failed<'t>>) -> Outcome<'t, R> {
        let bucket = self.bucket;
        let usage = Usage {
            high_water: bucket.heap().high_water(),
            capacity: bucket.heap().capacity(),
        };
        bucket.note_high_water(usage.high_water);
        bucket.stack_gauge.request_ended();
        let live = bucket.live();
        if live == 0 {
            // SAFETY: this is the bucket's thread, the request is over, and nothing it allocated is live. (After an
            // escape `escaped` has said so on the strength of the contract.)
            unsafe { bucket.reset() };
            bucket.set_state(BucketState::Idle);
        }
        Outcome {
            result,
            usage,
            live,
        }
    }

    /// Blocks until the allocations that the last request left alive are freed, then empties the bucket. Returns at
    /// once if there are none. Call it before the next [`enter`](Tenant::enter) when [`Outcome::live`] was not 0.
    pub fn wait_until_unpinned(&mut self) {
        if self.bucket.live() != 0 {
            self.bucket.wait_until_unpinned();
        }
        // SAFETY: as in `leave`.
        unsafe { self.bucket.reset() };
    }

    #[cold]
    fn unwound(&self, payload: Box<dyn Any + Send>) -> Failed<'static> {
        let bucket = self.bucket;
        bucket.panic_note.say_if_silent(&*payload);
        self.clean_up(WayOut::Unwound);
        bucket.failing.set(true);
        drop_payload(payload);
        bucket.failing.set(false);
        if bucket.panic_note.is_exhaustion() {
            Failed::Exhausted(bucket.exhaustion.get())
        } else {
            Failed::Panicked(&bucket.panic_note)
        }
    }

    #[cold]
    fn escaped(&self) -> Failed<'static> {
        let bucket = self.bucket;
        thread(|t| t.outside.set(0));
        let exhaustion = bucket.exhaustion.get();
        self.clean_up(way_out_of(exhaustion.reason));
        // By the escape contract nothing outside points into the bucket: what was live is dead.
        bucket.forget_live();
        Failed::Exhausted(exhaustion)
    }

    /// Runs the cleanups of a request that did not return, allocating from the panic room.
    fn clean_up(&self, way_out: WayOut) {
        let bucket = self.bucket;
        bucket.failing.set(true);
        thread(|t| t.aim.set(ptr::null()));
        run_cleanups(bucket, way_out);
        bucket.failing.set(false);
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        self.wait_until_unpinned();
        if !self.on_its_stack {
            self.bucket.disown();
        }
    }
}

/// Runs all of them, however many panic.
fn run_cleanups(bucket: &Bucket, way_out: WayOut) {
    while let Err(payload) = catch_unwind(AssertUnwindSafe(|| bucket.cleanups.run(way_out))) {
        drop_payload(payload);
    }
}

/// A payload's destructor is the handler's code too: it may panic, with another payload that does the same.
fn drop_payload(mut payload: Box<dyn Any + Send>) {
    const CHANCES: u32 = 8;
    for _ in 0..CHANCES {
        match catch_unwind(AssertUnwindSafe(move || drop(payload))) {
            Ok(()) => return,
            Err(another) => payload = another,
        }
    }
    std::mem::forget(payload);
}

fn way_out_of(reason: Reason) -> WayOut {
    match reason {
        Reason::Arena | Reason::SharedHeap => WayOut::ExhaustedArena,
        Reason::Stack => WayOut::ExhaustedStack,
    }
}

/// An allocation does not fit this bucket's arena. Returns a block only to a thread that is failing already.
#[cold]
#[inline(never)]
pub(crate) fn does_not_fit(bucket: &Bucket, layout: Layout) -> NonNull<u8> {
    if is_failing(bucket) {
        return from_panic_room(bucket, layout);
    }
    fail(bucket, arena_exhausted(bucket, layout.size()))
}

/// What to report when `asked` bytes (0: not known) do not fit the arena.
pub(crate) fn arena_exhausted(bucket: &Bucket, asked: usize) -> Exhaustion {
    let heap = bucket.heap();
    Exhaustion {
        reason: Reason::Arena,
        asked,
        used: heap.used(),
        free: heap.free(),
        size: heap.capacity(),
    }
}

/// A thread that is failing already asked for more than the panic room and the process heap have.
#[cold]
pub(crate) fn nothing_is_left(bucket: &Bucket, layout: Layout) -> ! {
    let exhaustion = arena_exhausted(bucket, layout.size());
    park(
        bucket,
        Failed::Exhausted(exhaustion),
        WayOut::ExhaustedArena,
    )
}

/// An allocation does not fit the shared heap. Returns a block only to a thread that is not running a request, or that
/// is failing already.
#[cold]
#[inline(never)]
pub(crate) fn shared_heap_does_not_fit(layout: Layout) -> *mut u8 {
    match bound() {
        Some(bucket) if !is_failing(bucket) => {
            let (used, size) = crate::shared::shared_heap_usage();
            fail(
                bucket,
                Exhaustion {
                    reason: Reason::SharedHeap,
                    asked: layout.size(),
                    used,
                    free: size.saturating_sub(used),
                    size,
                },
            )
        }
        Some(bucket) => NonNull::new(from_process_heap(layout))
            .unwrap_or_else(|| nothing_is_left(bucket, layout))
            .as_ptr(),
        None => from_process_heap(layout),
    }
}

/// The stack of this bucket has overflowed. In the signal handler, on the signal stack.
pub(crate) fn stack_overflowed(bucket: &Bucket) -> ! {
    bucket.stack_gauge.overflowed();
    let size = bucket.geometry().stack_size();
    fail(
        bucket,
        Exhaustion {
            reason: Reason::Stack,
            asked: 0,
            used: size,
            free: 0,
            size,
        },
    )
}

/// Bytes of stack left to the request that this thread is running; `None` on a thread whose stack is not in a bucket.
///
/// What must not be interrupted half-way by a stack overflow (a lock, a queue) asks first.
#[must_use]
pub fn stack_remaining() -> Option<usize> {
    let bucket = bound()?;
    let marker = 0u8;
    let depth = (&raw const marker as usize).checked_sub(bucket.stack_bottom())?;
    (depth < bucket.geometry().stack_size()).then_some(depth)
}

/// Returns if at least `margin` bytes of stack are left; else the request ends here, as by a stack overflow.
pub fn ensure_stack(margin: usize) {
    if let (Some(bucket), Some(left)) = (bound(), stack_remaining())
        && left < margin
        && !is_failing(bucket)
    {
        stack_overflowed(bucket);
    }
}

/// While a thread panics or cleans up it must neither jump (the panic count would stay raised) nor park.
fn is_failing(bucket: &Bucket) -> bool {
    bucket.failing.get() || std::thread::panicking()
}

/// Leaves the request by a jump if it may be left so, else parks it.
fn fail(bucket: &Bucket, exhaustion: Exhaustion) -> ! {
    bucket.exhaustion.set(exhaustion);
    let recovery_point = bucket.recovery.get();
    if bucket.policy.get() == Policy::Escape && !recovery_point.is_null() && !is_failing(bucket) {
        // SAFETY: the recovery point is set exactly while the frame of `catch_long_jump` in `enter_with` lives, on this
        // thread. The frames in between are the handler's, whose author has promised the escape contract, and frames
        // of the allocator and this module, which own nothing.
        unsafe { sjlj2::JumpPoint::from_raw(recovery_point).long_jump(1) }
    }
    park(
        bucket,
        Failed::Exhausted(exhaustion),
        way_out_of(exhaustion.reason),
    )
}

/// Runs the cleanups, reports, and never returns. The frames of the handler stay as they are for ever.
pub(crate) fn park(bucket: &Bucket, failed: Failed<'_>, way_out: WayOut) -> ! {
    bucket.failing.set(true);
    thread(|t| t.aim.set(ptr::null()));
    run_cleanups(bucket, way_out);
    bucket.note_high_water(bucket.heap().high_water());
    bucket.set_state(BucketState::Parked);
    if let Some(stuck) = bucket.stuck.get() {
        // SAFETY: set for exactly the time in which `enter_with`, whose argument it is, has not returned.
        unsafe { (*stuck)(failed) };
    }
    let never = AtomicU32::new(0);
    loop {
        futex::wait(&never, 0);
    }
}

/// Registers a closure to run when the current request ends, on every way out, last registered first. It lies in the
/// bucket's arena. Returns false, without keeping it, on a thread that is not running a request.
///
/// On a way out other than [`WayOut::Returned`] allocations in it come from the panic room. If the request is parked,
/// it runs inside the failing allocation, or (stack overflow) on a signal stack of 16 KiB: keep it short.
pub fn defer<F: FnOnce(WayOut) + 'static>(closure: F) -> bool {
    match bound() {
        Some(bucket) => {
            bucket.defer(closure);
            true
        }
        None => false,
    }
}

/// The bucket whose request this thread is running.
#[must_use]
pub fn current_bucket() -> Option<&'static Bucket> {
    bound()
}

/// Bytes used, free and high water of the request that this thread is running.
#[must_use]
pub fn current_usage() -> Option<(usize, usize, usize)> {
    let heap = bound()?.heap();
    Some((heap.used(), heap.free(), heap.high_water()))
}

/// How many of the buckets are lost to parked requests.
#[must_use]
pub fn parked(buckets: crate::Buckets) -> usize {
    buckets
        .iter()
        .filter(|bucket| bucket.state() == BucketState::Parked)
        .count()
}
