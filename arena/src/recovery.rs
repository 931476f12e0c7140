//! Entering a handler, and every way out of it.
//!
//! | what ran out | [`Policy::Overdraft`] (any Rust handler) | [`Policy::Escape`] (the author's promise; C) |
//! |---|---|---|
//! | arena, through `&Bump` | unwinds | unwinds |
//! | arena, through the global allocator | served from the overdraft, and marked: it returns, its answer is a 500 | jump |
//! | its share of the overdraft | parked | |
//! | stack | its extension is opened, and the request marked; past that, parked | jump, where a frame of the program's own has overflowed; else the extension, and past that, parked |
//! | panic | unwinds | unwinds |
//!
//! A marked request is not unwound: an unwinding poisons every `Mutex` and `LazyLock` whose guard it passes,
//! and later requests want those. It learns from those calls into the platform that can fail that it is over
//! ([`exhausted`]).
//!
//! Whatever the way out, the request's failure is reported first ([`Report`]), and cleanups and destructors
//! of a payload run after that: they are the handler's code, and may never end.
//!
//! `GlobalAlloc::alloc` never unwinds (undefined behaviour), and Rust never calls `setjmp` (it returns twice,
//! which the compiler does not know): the guard is a closure, by `sjlj2`.
//!
//! # What a frame that never returns has lent
//!
//! A parked request's thread sleeps for ever, but its frames may have lent what they had to threads that do
//! not (`std::thread::scope`, rayon's scopes): those go on reading and writing it, for ever. So everything
//! that a frame can hold must stay as it is, not only for the frame. This is the list; `tests/lent.rs` and
//! the tests of the platform try each entry with a scoped thread that outlives the parking.
//!
//! | what a frame can hold | why it stays |
//! |---|---|
//! | its stack, and every local on it | the thread never ends, and the bucket is never used again: its state is `Parked` for good |
//! | blocks of its arena | the arena is reset by the bucket's thread only, between two requests |
//! | blocks of the overdraft, the shared heap, the C heap, the process heap | a block is freed only by its owner; settling an account only changes a number |
//! | a panic's note, `&Bump`, `&Request`, a body's reader | not `Sync`, so no other thread has them; they lie in the bucket |
//! | thread-locals lent by `with` | the thread never ends |
//! | a value in a [`Shared`](crate::Shared) cell | a cell that was left by parking, or by a request that has returned from beside a coroutine inside it, never again gives a `&mut` to the same storage; a fresh value goes into other storage |
//! | a cleanup's closure | `'static`: it owns what it uses, and is moved out of its block when it runs |
//! | the request's and the reply's bytes, and the connection's descriptor | the slot is never used again, and the descriptor never closed: `Call::emergency` in `transom-doors`, `application.rs` in `transom-platform` |
//! | guards of locks | never released, because what they guard may be half-way; a request that wants such a lock waits for ever, and is counted as lost when its deadline has passed |

use crate::bucket::{Bucket, BucketState};
use crate::cleanup::WayOut;
use crate::events::{
    ABORTING, BUMP_WAS_FULL, DRAWS, DREW_FAILING, FOUND_NO_PIECE, MARKED, NOTED, OUTGREW, REFUSED,
    REPORTED,
};
use crate::exhaustion::{CRefusal, Exhaustion, Reason};
use crate::panic::{self, PanicNote};
use crate::parking::{on_report_stack, park, sleep_for_ever};
use crate::signal;
use crate::thread::{bound, era, thread};
use crate::{overdraft, shared};
use bumpalo::Bump;
use std::alloc::Layout;
use std::any::Any;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::ptr::{self, NonNull};
use std::sync::atomic::{Ordering, compiler_fence};

/// Below this much stack we do not start anything that must not be interrupted half-way: a stack overflow
/// under one of our locks, or malloc's, would leave it locked for every thread.
pub(crate) const STACK_MARGIN: usize = 8 << 10;

/// What an answer, a log record and cleanups want; with less the report stack is used, which has as much.
const PARKING_STACK: usize = 24 << 10;

/// With less stack left than this a request is marked as one that has outgrown it.
pub(crate) const SOFT_STACK: usize = 16 << 10;

/// What is done when an allocation through the global allocator, or a stack, does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Serve it from the overdraft, and let the handler return. Sound for every handler: nothing is skipped.
    Overdraft,
    /// Jump to the recovery point. Only [`Tenant::enter_escaping`] sets it, which is `unsafe`.
    Escape,
}

/// Which free pieces of an arena a request can have, in a bucket where earlier requests have left something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pieces {
    /// All of them: for ordinary blocks under [`Policy::Overdraft`].
    All,
    /// Those below all that is kept: under [`Policy::Escape`], and for the `&Bump`.
    BelowTheKept,
}

/// Why a request has no answer of its own.
#[derive(Debug, Clone, Copy)]
pub enum Failed<'t> {
    /// It outgrew its bucket.
    Exhausted(Exhaustion),
    /// It panicked, or called `abort`.
    Panicked(&'t PanicNote),
}

/// What a request used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// The most arena bytes in use at once, what earlier requests have left included.
    pub high_water: usize,
    /// Bytes of the smallest arena in which it would have gone the same way: with the holes between what was
    /// in use.
    pub extent: usize,
    /// Bytes the arena has.
    pub capacity: usize,
    /// Bytes that it drew from the overdraft and had at its end.
    pub overdrawn: usize,
}

/// How a request ended.
#[derive(Debug)]
pub struct Outcome<'t, R> {
    /// The handler's value, or why there is none.
    pub result: Result<R, Failed<'t>>,
    /// What it used.
    pub usage: Usage,
    /// Bytes of its bucket that it has left in use. They stay where they are.
    pub left: usize,
    /// Bytes of the bucket that this and earlier requests have left in use.
    pub kept: usize,
    /// It has not got a block for which the bucket had bytes enough, but not in one of these pieces, and
    /// something is kept there. Of a `&Bump` that was full it is not known whether there were bytes enough.
    pub found_no_piece: Option<Pieces>,
    /// Bytes of the C heap that it has left in use.
    pub c_left: usize,
    /// What `malloc` has refused it last.
    pub c_refused: Option<CRefusal>,
    /// Where it has changed a [`Shared`](crate::Shared) cell last, if it has left something.
    pub last_change: Option<&'static Location<'static>>,
}

/// Who is told that a request has no answer of its own. A closure is told only of threads that are parked.
pub trait Report {
    /// The request has failed, and code of the handler's is still to run (its cleanups, a destructor of its
    /// panic's payload): they may take long, never return, or be parked. What the handler's frames held is
    /// given up. At most once for a request, and not if nothing is to run: then its [`Outcome`] is at hand at
    /// once. What is allocated here comes from the bucket's reserve. A panic is caught.
    fn failed(&self, failed: Failed<'_>);

    /// The thread will never return, and its client is to get an answer. This must not lock what a handler
    /// may hold, and must not panic. It may come after `failed`, of the same request.
    fn stuck(&self, failed: Failed<'_>);
}

impl<F: Fn(Failed<'_>)> Report for F {
    fn failed(&self, _: Failed<'_>) {}

    fn stuck(&self, failed: Failed<'_>) {
        self(failed);
    }
}

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
    /// Binds the current thread to a bucket that has none, without its stack: a stack overflow is then an
    /// ordinary one. For benchmarks, tests, and threads that the C library must make. `None` if the bucket is
    /// taken.
    #[must_use]
    pub fn adopt(bucket: &'static Bucket) -> Option<Self> {
        bucket.adopt().then(|| Self::of(bucket, false))
    }

    /// The caller has adopted the bucket.
    pub(crate) fn of(bucket: &'static Bucket, on_its_stack: bool) -> Self {
        panic::install_hook();
        // Where it matters, `start_thread` has reported the error.
        let _ = signal::install();
        signal::take_faults();
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

    /// Runs one request in the bucket, under [`Policy::Overdraft`].
    ///
    /// `report` is told if the request fails; if the thread is parked, this function never returns.
    /// What `f` returns must not refer to the bucket, which the bounds on `R` see to.
    ///
    /// # Panics
    /// If this thread is running a request already, or is inside [`outside`](crate::outside).
    pub fn enter<R: Copy + 'static>(
        &mut self,
        report: &dyn Report,
        f: impl FnOnce(&Bump) -> R,
    ) -> Outcome<'_, R> {
        // SAFETY: nothing is promised, and nothing is needed: under this policy no frame is skipped.
        unsafe { self.enter_with(Policy::Overdraft, report, f) }
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
        report: &dyn Report,
        f: impl FnOnce(&Bump) -> R,
    ) -> Outcome<'_, R> {
        // SAFETY: the caller's promise.
        unsafe { self.enter_with(Policy::Escape, report, f) }
    }

    /// # Safety
    /// Under Escape, the escape contract.
    #[inline]
    unsafe fn enter_with<R: Copy + 'static>(
        &mut self,
        policy: Policy,
        report: &dyn Report,
        f: impl FnOnce(&Bump) -> R,
    ) -> Outcome<'_, R> {
        let bucket = self.bucket;
        // SAFETY: only the lifetime changes; `report` is cleared before this frame ends, and a parked frame
        // never ends.
        let report = unsafe {
            std::mem::transmute::<*const (dyn Report + '_), *const (dyn Report + 'static)>(
                ptr::from_ref(report),
            )
        };
        assert!(
            thread(|t| t.bound.get().is_null() && t.outside.get() == 0),
            "a thread runs one request at a time, and begins it inside the bucket"
        );
        bucket.policy.set(policy);
        bucket.report.set(Some(report));
        bucket.events.clear();
        bucket.refusing.set(Refusing::default());
        bucket.last_change.set(None);
        bucket.heap().begin(policy == Policy::Overdraft);
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
                    clean_up_returned(bucket);
                }
                value
            }))
        });
        bucket.recovery.set(ptr::null_mut());

        let result = match landing {
            ControlFlow::Continue(Ok(_)) if bucket.events.any(OUTGREW) => {
                Err(Failed::Exhausted(bucket.exhaustion.get()))
            }
            ControlFlow::Continue(Ok(value)) => Ok(value),
            ControlFlow::Continue(Err(payload)) => Err(self.unwound(payload)),
            ControlFlow::Break(_) => Err(self.escaped()),
        };
        if shared::has_closures(bucket) {
            shared::give_up_closures(bucket, None);
        }
        thread(|t| {
            t.aim.set(ptr::null());
            t.bound.set(ptr::null());
        });
        bucket.report.set(None);
        self.leave(result)
    }

    /// Settles the accounts, and empties the bucket of what the request does not leave in use.
    #[inline]
    fn leave<'t, R>(&'t mut self, result: Result<R, Failed<'t>>) -> Outcome<'t, R> {
        let bucket = self.bucket;
        let mut usage = Usage {
            high_water: bucket.heap().high_water(),
            extent: bucket.heap().extent(),
            capacity: bucket.heap().capacity(),
            overdrawn: 0,
        };
        bucket.note_high_water(usage.high_water);
        bucket.stack_gauge.request_ended();
        let (mut c_left, mut c_refused, mut found_no_piece) = (0, None, None);
        if !bucket.events.none() {
            found_no_piece = pieces_looked_at(bucket);
            if bucket.events.any(REFUSED) {
                usage.extent = usage.extent.max(bucket.heap().take_wanted());
            }
            usage.overdrawn = overdraft::drawn(bucket);
            c_left = settle_pools(bucket);
            c_refused = bucket.c_refused.take();
            if bucket.is_extended() {
                signal::change_mask(libc::SIG_SETMASK, Some(&bucket.base_mask()), None);
            }
            // SAFETY: the request's frames have returned, or were left for good by a jump whose contract says
            // that they have lent nothing. This one is the caller's, further up.
            unsafe { bucket.close_extension() };
        }
        // Below the mark, and above it what there is more than before.
        let left = bucket.live() + bucket.heap().kept().saturating_sub(bucket.kept());
        // SAFETY: this is the bucket's thread, and the request is over. What it has left is counted. (After
        // an escape `escaped` has said that it left nothing, on the strength of the contract.)
        unsafe { bucket.reset() };
        bucket.set_state(BucketState::Idle);
        Outcome {
            result,
            usage,
            left,
            kept: bucket.kept(),
            found_no_piece,
            c_left,
            c_refused,
            last_change: if left > 0 {
                bucket.last_change.get()
            } else {
                None
            },
        }
    }

    /// Uses again what other threads have freed since the last request; gives how many bytes earlier requests
    /// have left in use.
    pub fn look_at_kept(&mut self) -> usize {
        self.bucket.look_at_kept()
    }

    /// Bytes of the arena that the next request cannot have in one, because of what earlier requests have
    /// left in use: all but the largest of these pieces. At least what is kept; more where that lies in the
    /// middle.
    pub fn cost_of_kept(&mut self, pieces: Pieces) -> usize {
        self.bucket.cost_of_kept(pieces)
    }

    /// Whether a request has left this thread inside a panic: in a coroutine, say, that was suspended in a
    /// destructor while a panic unwound, and is kept. Later requests would be taken for failing ones. The
    /// thread is of no more use, and another one can take its place.
    #[inline]
    #[must_use]
    pub fn is_spoilt(&self) -> bool {
        std::thread::panicking()
    }

    /// Says that the bucket is out of service for a while, or in it again. For observers. It stays so when
    /// this thread ends, until another one in its place says otherwise.
    pub fn set_resting(&mut self, rests: bool) {
        self.bucket.set_resting(rests);
    }

    #[cold]
    fn unwound(&self, payload: Box<dyn Any + Send>) -> Failed<'static> {
        let bucket = self.bucket;
        let is_noted = bucket.events.any(NOTED);
        bucket.panic_note.say_what(&*payload, is_noted);
        let failed = if bucket.panic_note.is_exhaustion() || bucket.events.any(MARKED) {
            Failed::Exhausted(bucket.exhaustion.get())
        } else {
            Failed::Panicked(&bucket.panic_note)
        };
        bucket.failing.set(true);
        let has_destructor = !payload.is::<&'static str>() && !payload.is::<String>();
        clean_up(bucket, WayOut::Unwound, failed, has_destructor);
        drop_payload(payload);
        clean_up(bucket, WayOut::Unwound, failed, false); // what the payload's destructor has registered
        bucket.failing.set(false);
        failed
    }

    #[cold]
    fn escaped(&self) -> Failed<'static> {
        let bucket = self.bucket;
        if let Some(mask) = bucket.mask.take() {
            signal::change_mask(libc::SIG_SETMASK, Some(&mask), None);
        }
        thread(|t| {
            t.outside.set(0);
            t.pool.set(0);
            t.writing.set(0);
            // What the jump has left behind may be half-way: the reserve serves what the cleanups allocate.
            t.aim.set(ptr::null());
        });
        bucket.refusing.set(Refusing::default());
        let exhaustion = bucket.exhaustion.get();
        let failed = Failed::Exhausted(exhaustion);
        bucket.failing.set(true);
        clean_up(bucket, way_out_of(exhaustion.reason), failed, false);
        bucket.failing.set(false);
        // By the escape contract nothing outside points into the bucket: what was live is dead, now that the
        // cleanups, which lay in it, have run.
        bucket.forget_live();
        failed
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        if !self.on_its_stack {
            self.bucket.disown();
        }
    }
}

/// The pieces among which the request has found none that was large enough, if that is so.
fn pieces_looked_at(bucket: &Bucket) -> Option<Pieces> {
    if bucket.events.any(BUMP_WAS_FULL) {
        return Some(Pieces::BelowTheKept);
    }
    let found_none = bucket.events.any(FOUND_NO_PIECE);
    found_none.then(|| match bucket.policy.get() {
        Policy::Overdraft => Pieces::All,
        Policy::Escape => Pieces::BelowTheKept,
    })
}

/// The request has ended, or will never end: what it has left in the pools is charged to no request now.
/// Gives the bytes of that in the C heap.
#[cold]
pub(crate) fn settle_pools(bucket: &Bucket) -> usize {
    if bucket.events.any(DRAWS) {
        overdraft::settle(bucket);
    }
    #[cfg(all(feature = "c-heap", not(miri)))]
    if bucket.events.any(crate::events::USES_C) {
        return crate::c_heap::settle(bucket);
    }
    0
}

/// The handler has returned, and its cleanups run. Once it is known that its answer is a 500, that comes
/// first.
#[cold]
fn clean_up_returned(bucket: &Bucket) {
    while !bucket.cleanups.is_empty() {
        if bucket.events.any(OUTGREW) {
            bucket.failing.set(true);
            report(bucket, Failed::Exhausted(bucket.exhaustion.get()));
            bucket.failing.set(false);
        }
        bucket.cleanups.run_newest(WayOut::Returned);
    }
    bucket.cleanups.run(WayOut::Returned); // what is to run at the very end
}

/// Tells that the request has failed, before anything else of it runs. Once, and while it is failing.
fn report(bucket: &Bucket, failed: Failed<'_>) {
    if bucket.events.any(REPORTED) {
        return;
    }
    bucket.events.add(REPORTED);
    if let Some(report) = bucket.report.get() {
        // SAFETY: set for exactly the time in which `enter_with`, whose argument it is, has not returned.
        let tell = || unsafe { (*report).failed(failed) };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(tell)) {
            drop_payload(payload);
        }
    }
}

/// For a request that did not return: releases the cells that it has locked, reports it if anything of it is
/// still to run (something `more`, or cleanups), then runs its cleanups, however many panic.
fn clean_up(bucket: &Bucket, way_out: WayOut, failed: Failed<'_>, more: bool) {
    // Cells that an unwinding has not released were held by no frame of it, but by a suspended coroutine.
    let left = (way_out != WayOut::Unwound).then_some(way_out);
    shared::give_up_closures(bucket, left);
    if more || !bucket.cleanups.is_empty() {
        report(bucket, failed);
    }
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
        Reason::Arena | Reason::SharedHeap => WayOut::Escaped,
        Reason::Stack => WayOut::Overflowed,
    }
}

/// An allocation does not fit this bucket's arena. A block from elsewhere, or no return at all; null only
/// inside [`refusing`].
///
/// Null would not do elsewhere: before the standard library aborts, it takes locks of its own, and with
/// `RUST_BACKTRACE` it allocates megabytes under one of them.
#[cold]
#[inline(never)]
pub(crate) fn does_not_fit(bucket: &'static Bucket, layout: Layout) -> *mut u8 {
    if let Some(block) = bucket.allocate_what_came_back(layout) {
        return block.as_ptr();
    }
    if bucket.heap().is_cut_for(layout.size()) {
        bucket.events.add(FOUND_NO_PIECE);
    }
    let refuses = refuses(bucket);
    if refuses {
        bucket.heap().note_refusal(layout.size());
    }
    if is_failing(bucket) {
        return while_failing(bucket, layout);
    }
    if refuses {
        return ptr::null_mut();
    }
    let exhaustion = arena_exhausted(bucket, layout.size());
    if may_jump(bucket) {
        bucket.exhaustion.set(exhaustion);
        jump(bucket);
    }
    served_or_parked(bucket, overdraft::allocate(bucket, layout), exhaustion)
}

/// With a block from the overdraft the request is marked; without one it is parked.
fn served_or_parked(
    bucket: &'static Bucket,
    block: Option<NonNull<u8>>,
    exhaustion: Exhaustion,
) -> *mut u8 {
    match block {
        Some(block) => {
            mark(bucket, exhaustion);
            bucket.heap().expect_failure();
            block.as_ptr()
        }
        None => park_exhausted(bucket, exhaustion),
    }
}

/// Memory for something that is to be done when the request ends; null where there is none. Unlike an
/// allocation it neither leaves the request nor parks it, because what is to be registered would be lost.
pub(crate) fn room_for_cleanup(
    bucket: &'static Bucket,
    layout: Layout,
    first: impl FnOnce() -> Option<NonNull<u8>>,
) -> Option<NonNull<u8>> {
    if let Some(block) = first().or_else(|| bucket.allocate_in_panic_room(layout)) {
        return Some(block);
    }
    let exhaustion = arena_exhausted(bucket, layout.size());
    let block = overdraft::allocate(bucket, layout)?;
    match is_failing(bucket) {
        true => note_drawn_failing(bucket, exhaustion),
        false => mark(bucket, exhaustion),
    }
    Some(block)
}

/// The request can have no more, and cannot go on without.
fn park_exhausted(bucket: &'static Bucket, exhaustion: Exhaustion) -> ! {
    bucket.exhaustion.set(exhaustion);
    bucket.events.remove(ABORTING);
    park_here_or_there(bucket)
}

/// Parks on the current stack, if there is enough of it. How much a coroutine has is not known.
fn park_here_or_there(bucket: &'static Bucket) -> ! {
    match stack_remaining() {
        Some(left) if left >= PARKING_STACK => park(bucket),
        _ => on_report_stack(bucket),
    }
}

/// For a thread that is panicking or cleaning up: the failure path must not depend on the arena that is full.
/// It may have a share of the overdraft like any other, and no more; inside [`refusing`] nothing of it.
#[cold]
pub(crate) fn while_failing(bucket: &'static Bucket, layout: Layout) -> *mut u8 {
    if let Some(block) = bucket.allocate_in_panic_room(layout) {
        return block.as_ptr();
    }
    if refuses(bucket) {
        return ptr::null_mut();
    }
    let from_overdraft = || {
        let exhaustion = arena_exhausted(bucket, layout.size());
        let block = if thread(|t| t.outside.get() > 0) {
            count_spill(bucket, layout);
            overdraft::allocate_owed(bucket, layout)?
        } else {
            overdraft::allocate(bucket, layout)?
        };
        bucket.heap().expect_failure();
        note_drawn_failing(bucket, exhaustion);
        Some(block)
    };
    match from_overdraft() {
        Some(block) => block.as_ptr(),
        None if bucket.state() == BucketState::Parked => sleep_for_ever(),
        None => park_exhausted(bucket, arena_exhausted(bucket, layout.size())),
    }
}

/// A request that is failing has drawn on the overdraft. It is not marked: if it is not caught, the panic is
/// why the request fails.
fn note_drawn_failing(bucket: &Bucket, exhaustion: Exhaustion) {
    bucket.events.add(DREW_FAILING);
    if !bucket.events.any(MARKED) {
        bucket.exhaustion.set(exhaustion);
    }
}

/// The request has outgrown its bucket, and goes on to its return.
pub(crate) fn mark(bucket: &Bucket, exhaustion: Exhaustion) {
    if !bucket.events.any(MARKED) {
        bucket.events.add(MARKED);
        bucket.exhaustion.set(exhaustion);
    }
}

/// What to report when `asked` bytes (0: not known) do not fit the arena.
pub(crate) fn arena_exhausted(bucket: &Bucket, asked: usize) -> Exhaustion {
    let heap = bucket.heap();
    Exhaustion {
        reason: Reason::Arena,
        asked,
        used: heap.used(),
        free: heap.reach(),
        size: heap.capacity(),
    }
}

/// An allocation does not fit the shared heap. As [`does_not_fit`].
#[cold]
#[inline(never)]
pub(crate) fn shared_heap_does_not_fit(layout: Layout) -> *mut u8 {
    let Some(bucket) = bound() else {
        return crate::allocator::from_process_heap(layout);
    };
    if is_failing(bucket) {
        return while_failing(bucket, layout);
    }
    if refuses(bucket) {
        return ptr::null_mut();
    }
    let (used, size) = crate::shared::shared_heap_usage();
    let exhaustion = Exhaustion {
        reason: Reason::SharedHeap,
        asked: layout.size(),
        used,
        free: size.saturating_sub(used),
        size,
    };
    // A cell that is being changed must not be left half-way: its closure goes on to its end.
    if thread(|t| t.writing.get()) == 0 && may_jump(bucket) {
        bucket.exhaustion.set(exhaustion);
        jump(bucket);
    }
    count_spill(bucket, layout);
    let block = overdraft::allocate_owed(bucket, layout);
    served_or_parked(bucket, block, exhaustion)
}

/// The shared heap has no room for so much.
fn count_spill(bucket: &Bucket, layout: Layout) {
    let (times, _) = bucket.spilled.get();
    bucket.spilled.set((times.wrapping_add(1), layout.size()));
}

fn stack_exhausted(bucket: &Bucket) -> Exhaustion {
    let size = bucket.geometry().stack_size();
    Exhaustion {
        reason: Reason::Stack,
        asked: 0,
        used: size,
        free: 0,
        size,
    }
}

/// The stack of this bucket has overflowed, or is about to. Not for a signal handler.
fn stack_overflowed(bucket: &'static Bucket) -> ! {
    if may_jump(bucket) {
        note_overflow(bucket);
        jump(bucket);
    }
    park_overflowed(bucket)
}

/// The same, where frames must not be left by a jump.
pub(crate) fn park_overflowed(bucket: &'static Bucket) -> ! {
    if bucket.state() == BucketState::Parked {
        sleep_for_ever(); // its report needs more than there is
    }
    note_overflow(bucket);
    on_report_stack(bucket)
}

/// Notes that it has, for the report.
pub(crate) fn note_overflow(bucket: &Bucket) {
    bucket.stack_gauge.overflowed();
    bucket.exhaustion.set(stack_exhausted(bucket));
    // The overflow is the reason, even if a panic was unwinding.
    bucket.events.remove(ABORTING);
}

/// Whether this request may be left by a jump now.
pub(crate) fn may_jump(bucket: &Bucket) -> bool {
    bucket.policy.get() == Policy::Escape
        && !bucket.recovery.get().is_null()
        && !is_failing(bucket)
        && thread(|t| t.in_c.get()) == 0
}

/// Leaves the request by a jump, after [`may_jump`] has said that it may be.
pub(crate) fn jump(bucket: &Bucket) -> ! {
    // SAFETY: the recovery point is set exactly while the frame of `catch_long_jump` in `enter_with` lives,
    // on this thread. The frames in between are the handler's, whose author has promised the escape contract,
    // and frames of the allocator and this module, which own nothing.
    unsafe { sjlj2::JumpPoint::from_raw(bucket.recovery.get()).long_jump(1) }
}

/// `abort` was called on the thread that runs this bucket's request: because a panic cannot unwind, or
/// because the handler or a library of it wanted to.
#[cfg(all(feature = "c-heap", not(miri)))]
pub(crate) fn aborted(bucket: &'static Bucket) -> ! {
    if bucket.state() == BucketState::Parked {
        sleep_for_ever();
    }
    if !bucket.events.any(ABORTING) {
        bucket.panic_note.say("abort was called");
        bucket.events.add(ABORTING);
    }
    park_here_or_there(bucket)
}

/// Bytes of stack left to the request that this thread is running; `None` on a thread whose stack is not in a
/// bucket.
///
/// What must not be interrupted half-way by a stack overflow (a lock, a queue) asks first.
#[must_use]
pub fn stack_remaining() -> Option<usize> {
    let bucket = bound()?;
    let marker = 0u8;
    let here = &raw const marker as usize;
    let left_of = |(bottom, size): (usize, usize)| {
        let left = here.wrapping_sub(bottom);
        (left < size).then_some(left)
    };
    left_of(bucket.open_stack()).or_else(|| left_of(bucket.report_stack()))
}

/// Returns if at least `margin` bytes of stack are left, or can be had; else the request ends here, as by a
/// stack overflow.
pub fn ensure_stack(margin: usize) {
    let Some(bucket) = bound() else {
        return;
    };
    if !is_stack_left(margin) && (may_jump(bucket) || !has_stack(margin)) {
        stack_overflowed(bucket);
    }
}

/// Whether at least `margin` bytes of stack are left as it is.
pub(crate) fn is_stack_left(margin: usize) -> bool {
    if bound().is_some_and(Bucket::is_extended) {
        // Once more: the stack may have been extended for a signal's handler, which has returned since.
        signal::block_those_of_others();
    }
    stack_remaining().is_none_or(|left| left >= margin)
}

/// Whether at least `margin` bytes of stack are left, or can be had.
pub(crate) fn has_stack(margin: usize) -> bool {
    let Some(bucket) = bound().filter(|_| !is_stack_left(margin)) else {
        return true;
    };
    if bucket.state() != BucketState::Parked {
        extend_stack(bucket, false);
    }
    is_stack_left(margin) // this function may have been the one that overflowed, and has extended it by that
}

/// As [`has_stack`], for a function that the C library has called.
#[cfg(all(feature = "c-heap", not(miri)))]
pub(crate) fn has_library_stack(margin: usize) -> bool {
    let may_extend = |bucket: &&Bucket| bucket.state() != BucketState::Parked;
    if !has_stack(margin)
        && let Some(bucket) = bound().filter(may_extend)
    {
        extend_stack(bucket, true);
    }
    is_stack_left(margin)
}

/// The stack has overflowed, or is about to: goes on with the extension, if that is closed yet. The request
/// has outgrown it. Async-signal-safe.
#[cold]
pub(crate) fn extend_stack(bucket: &Bucket, for_library: bool) -> bool {
    let extended = bucket.extend_stack(for_library);
    if extended {
        bucket.stack_gauge.overflowed();
        if !bucket.failing.get() {
            mark(bucket, stack_exhausted(bucket));
        }
    }
    extended
}

/// Whether the request that this thread runs has outgrown its bucket and is to end, and by what. Near the end
/// of its stack it has.
#[inline]
#[must_use]
pub fn exhausted() -> Option<Exhaustion> {
    let bucket = bound()?;
    if !bucket.events.any(MARKED) && stack_remaining().is_some_and(|left| left < SOFT_STACK) {
        mark(bucket, stack_exhausted(bucket));
    }
    bucket.events.any(MARKED).then(|| bucket.exhaustion.get())
}

/// How many closures of [`refusing`] run: of each kind of place, because what runs elsewhere meanwhile (what
/// an unwinding runs, the request of a coroutine that is suspended in one) is refused nothing.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Refusing([u16; 4]);

impl Refusing {
    /// The kind of this place: whether the thread unwinds, and whether this is the bucket's own stack.
    fn here() -> usize {
        2 * usize::from(std::thread::panicking()) + usize::from(stack_remaining().is_some())
    }

    fn begin(&mut self, kind: usize) {
        self.0[kind] += 1;
    }

    fn end(&mut self, kind: usize) {
        self.0[kind] = self.0[kind].saturating_sub(1);
    }

    /// A panic begins, perhaps in a destructor that runs because of another.
    pub(crate) fn end_unwinding(&mut self) {
        self.0[2..].fill(0);
    }
}

/// Runs `f`, in which an allocation that does not fit the arena gets nothing, instead of ending the request
/// or drawing on the overdraft. For code that can do without: `Vec::try_reserve` and the like. Other code
/// (`vec![]`, `Box::new`) aborts if it gets nothing, and its bucket is lost. It holds on the stack on which
/// it was begun, and not in a coroutine that `f` runs. If `f` panics, what the unwinding needs is served.
/// (Where `f` runs in a destructor while a panic unwinds already, a panic in it is the end of the refusing;
/// and one that `resume_unwind` goes on with there is not seen: what its unwinding needs is refused.)
pub fn refusing<R>(f: impl FnOnce() -> R) -> R {
    struct End(&'static Bucket, usize, u64);
    impl Drop for End {
        fn drop(&mut self) {
            // A coroutine's may end in a later request.
            if era() == self.2 {
                self.0.change_refusing(|refusing| refusing.end(self.1));
            }
        }
    }
    let _end = bound().map(|bucket| {
        let kind = Refusing::here();
        bucket.change_refusing(|refusing| refusing.begin(kind));
        End(bucket, kind, era())
    });
    f()
}

/// As [`refusing`], for what the request goes on without if it is refused: [`Usage::extent`] counts it then,
/// and is larger than the arena.
///
/// # Errors
/// Those of `f`.
pub fn refusing_or_noting<R, E>(f: impl FnOnce() -> Result<R, E>) -> Result<R, E> {
    let Some(bucket) = bound() else {
        return f();
    };
    bucket.heap().forget_refusal();
    let result = refusing(f);
    if result.is_err() {
        bucket.heap().want_refused();
        bucket.events.add(REFUSED);
    }
    result
}

/// Whether a block that does not fit is refused now.
fn refuses(bucket: &Bucket) -> bool {
    let refusing = bucket.refusing.get();
    refusing != Refusing::default() && refusing.0[Refusing::here()] > 0
}

/// While a thread panics or cleans up it must neither jump (the panic count would stay raised) nor be marked.
fn is_failing(bucket: &Bucket) -> bool {
    bucket.failing.get() || std::thread::panicking()
}

/// Registers a closure to run when the current request ends, on every way out, last registered first. It lies
/// in the bucket's arena. Returns false, without keeping it, on a thread that is not running a request (one
/// that ends, and runs destructors of its thread-locals, is not), and where the request has no memory left at
/// all.
///
/// On a way out other than [`WayOut::Returned`] allocations in it come from the bucket's reserve and the
/// overdraft. If the request is parked it does not run: nothing more of that request does.
pub fn defer<F: FnOnce(WayOut) + 'static>(closure: F) -> bool {
    bound().is_some_and(|bucket| bucket.defer(closure))
}

/// Whether something is to run when the request that this thread runs ends.
#[must_use]
pub fn is_deferred() -> bool {
    bound().is_some_and(|bucket| !bucket.cleanups.is_empty())
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

/// Says that the request that this thread is running would have given up in an arena that is smaller by more
/// than so many bytes: [`Usage::extent`] counts what it has asked for, although it may take less.
pub fn note_spare(bytes: usize) {
    if let Some(bucket) = bound() {
        bucket.heap().note_spare(bytes);
    }
}

/// Bytes of the largest block that the request that this thread begins can have, as far as that is known
/// without a search.
#[must_use]
pub fn current_largest_piece() -> Option<usize> {
    Some(bound()?.heap().largest_piece_now())
}

/// For a block of the request that this thread runs: bytes by which it can grow where it is, and bytes of the
/// largest block to which it could be moved. It is not read.
#[must_use]
pub fn current_room_to_grow(block: *const u8) -> Option<(usize, usize)> {
    let heap = bound()?.heap();
    Some((heap.room_beside(block.addr()), heap.largest_piece_joined()))
}

/// How many of the buckets are lost to parked requests.
#[must_use]
pub fn parked(buckets: crate::Buckets) -> usize {
    buckets
        .iter()
        .filter(|bucket| bucket.state() == BucketState::Parked)
        .count()
}
