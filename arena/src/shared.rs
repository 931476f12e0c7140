//! State that outlives a request: a heap of fixed size in the region, and cells whose contents live in it.
//!
//! A handler's ordinary allocations are gone when its request ends. What must stay goes through [`Shared`],
//! which allocates here while it is locked for writing, or through [`outside`]. The heap never grows;
//! `--shared-heap` sets it.

mod cell;
mod held;
mod large;
mod lock;
mod promise;

use crate::allocator;
use crate::bucket::Bucket;
use crate::cleanup::WayOut;
use crate::overdraft;
use crate::pool::{Pool, Unsuitable, chunk};
use crate::recovery::Refusing;
use crate::recovery::{STACK_MARGIN, ensure_stack};
use crate::region::Part;
use crate::thread::{begin_era, era, thread};
use std::alloc::Layout;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

pub use cell::{Shared, SharedError};
pub(crate) use held::HeldCells;

/// Cells that have a heap of their own, at most.
const QUOTAS: usize = 64;

/// The shared heap, and those.
pub(crate) const POOLS_MAX: usize = 1 + QUOTAS;

/// The shared heap; then the heaps of cells with a quota, each of which lies in a block of the first.
static POOLS: [Pool; POOLS_MAX] = [const { Pool::new() }; POOLS_MAX];
static POOLS_IN_USE: AtomicUsize = AtomicUsize::new(1);
/// There is a region. Before that, the process heap is used instead.
static INSTALLED: AtomicBool = AtomicBool::new(false);
static REFUSED: AtomicU64 = AtomicU64::new(0);
/// Bytes that closures hold which never return.
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// Gives the shared heap its memory. Once per process, before any thread is bound to a bucket. A part without
/// bytes leaves it without: then nothing fits.
///
/// # Errors
/// [`SharedHeapError`] when there is one already, or the part cannot hold a heap.
pub fn install_shared_heap(part: Part) -> Result<(), SharedHeapError> {
    let len = part.len();
    if INSTALLED.swap(true, Ordering::SeqCst) {
        return Err(SharedHeapError::Installed);
    }
    POOLS[0].install(part).map_err(|error| match error {
        Unsuitable::Installed => SharedHeapError::Installed,
        Unsuitable::TooSmall => SharedHeapError::TooSmall { bytes: len },
    })
}

/// Why there is no shared heap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SharedHeapError {
    /// Called twice.
    #[error("this process has its shared heap already")]
    Installed,
    /// Too small to begin with.
    #[error("--shared-heap: {bytes} bytes cannot hold a heap; give it at least 64KiB")]
    TooSmall {
        /// What was given.
        bytes: usize,
    },
}

/// Bytes of the shared heap in use, its own bookkeeping included, and its size.
#[must_use]
pub fn shared_heap_usage() -> (usize, usize) {
    (POOLS[0].used(), POOLS[0].len())
}

/// Bytes of the shared heap that closures of [`Shared`] and [`outside`] hold which never return, as far as it
/// is known: what they have made, and the values of the cells that they change. They stay in use until the
/// process ends.
#[must_use]
pub fn shared_heap_kept() -> usize {
    KEPT.load(Ordering::Relaxed).min(POOLS[0].used())
}

fn lose(bytes: isize) {
    // A word that all threads share is not written without need.
    if let Ok(bytes @ 1..) = usize::try_from(bytes) {
        KEPT.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// How often a change of a [`Shared`] cell was refused, because there was no room for it.
#[must_use]
pub fn shared_heap_refused() -> u64 {
    REFUSED.load(Ordering::Relaxed)
}

pub(crate) fn owns(address: usize) -> bool {
    POOLS[0].owns(address)
}

/// The number of the heap of a quota that an address of the shared heap lies in, or of the shared heap
/// itself.
fn pool_of(address: usize) -> usize {
    let in_use = POOLS_IN_USE.load(Ordering::Acquire);
    let is_in = |&number: &usize| POOLS[number].owns(address);
    (1..in_use).find(is_in).unwrap_or(0)
}

/// A block from the shared heap, or from the heap of the cell that is being changed; `None` when it does not
/// fit.
pub(crate) fn allocate(layout: Layout) -> Option<*mut u8> {
    if !INSTALLED.load(Ordering::Relaxed) {
        return Some(allocator::from_process_heap(layout));
    }
    let pool = thread(|t| t.pool.get());
    let block = promise::with_promises(pool, |locked| {
        let block = locked.allocate(layout)?;
        count(chunk(layout.size()) as isize);
        Some(block)
    })?;
    note_made(pool, block, layout.size());
    Some(block.as_ptr())
}

fn note_made(pool: usize, block: NonNull<u8>, size: usize) {
    large::made(pool, block.as_ptr().addr(), size, thread(|t| t.owner.get()));
}

fn note_freed(pool: usize, block: NonNull<u8>, size: usize) {
    large::gone(pool, block.as_ptr().addr(), size);
}

fn count(bytes: isize) {
    thread(|t| {
        if t.outside.get() > 0 {
            t.net.set(t.net.get() + bytes);
        }
    });
}

/// # Safety
/// The block lies in the shared heap, came from there with this layout, and is not used again.
pub(crate) unsafe fn deallocate(block: NonNull<u8>, layout: Layout) {
    ensure_stack(STACK_MARGIN);
    let pool = pool_of(block.as_ptr().addr());
    count(-(chunk(layout.size()) as isize));
    note_freed(pool, block, layout.size());
    // SAFETY: as promised by the caller.
    unsafe { POOLS[pool].lock().deallocate(block, layout) };
}

/// Makes a block smaller, or larger if what follows it is free. True if it was done. One that grows in a cell
/// of another heap is to move there, so that a quota holds.
///
/// # Safety
/// As [`deallocate`], but that the block stays in use; the size is not zero.
pub(crate) unsafe fn resize(block: NonNull<u8>, layout: Layout, new_size: usize) -> bool {
    ensure_stack(STACK_MARGIN);
    let pool = pool_of(block.as_ptr().addr());
    if new_size > layout.size() && thread(|t| t.outside.get() > 0 && t.pool.get() != pool) {
        return false;
    }
    let done = promise::with_promises(pool, |locked| {
        // SAFETY: as promised by the caller.
        let done = unsafe { locked.resize(block, layout, new_size) };
        if done {
            count(chunk(new_size) as isize - chunk(layout.size()) as isize);
        }
        done
    });
    if done {
        note_freed(pool, block, layout.size());
        note_made(pool, block, new_size);
    }
    done
}

/// The value of a cell is lost, by the cell's address: what it has stays where it is, and is not to be
/// charged to the value that comes after it.
#[cold]
fn disown(owner: usize) {
    large::disown(owner);
    overdraft::forgive(owner);
}

/// A number for the maker of a value that is in no cell yet. It is odd, so it is no cell's address, and no
/// other maker has it.
fn new_maker() -> usize {
    static LAST: AtomicUsize = AtomicUsize::new(1);
    LAST.fetch_add(2, Ordering::Relaxed)
}

/// The cell gets the value that this maker has made; what its old value has belongs to no cell from then on.
/// With the cell's lock.
#[cold]
fn hand_over(maker: usize, owner: usize) {
    ensure_stack(STACK_MARGIN);
    disown(owner);
    large::hand_over(maker, owner);
    overdraft::hand_over(maker, owner);
}

/// Makes a heap of so many bytes in a block of the shared heap. Its number; `None` if there is no room, or
/// there are as many as can be.
fn make_pool(bytes: usize) -> Option<usize> {
    let layout = Layout::from_size_align(bytes, crate::bound::PAGE).ok()?;
    ensure_stack(STACK_MARGIN);
    let mut shared_heap = POOLS[0].lock(); // two cells that want one come one after the other
    let number = POOLS_IN_USE.load(Ordering::Relaxed);
    let pool = POOLS.get(number)?;
    let block = shared_heap.allocate(layout)?;
    // SAFETY: a fresh block, which is never given back.
    if unsafe { pool.claim(block, bytes) }.is_err() {
        return None;
    }
    POOLS_IN_USE.store(number + 1, Ordering::Release);
    Some(number)
}

/// Runs `f` with this thread's allocations aimed at the shared heap, for what must outlive the request and is
/// not in a cell: a lazy value's first use, an entry of a cache.
///
/// An escape out of `f` (the shared heap is full, the stack overflows) leaks what `f` had allocated there.
pub fn outside<R>(f: impl FnOnce() -> R) -> R {
    aimed_at(0, 0, f)
}

/// Runs `f` with this thread's allocations aimed at the pool of that number, to change that cell.
fn aimed_at<R>(pool: usize, owner: usize, f: impl FnOnce() -> R) -> R {
    struct Restore {
        aim: (usize, usize),
        before: (usize, usize),
        era: u64,
    }
    impl Drop for Restore {
        fn drop(&mut self) {
            thread(|t| {
                if era() != self.era {
                    return; // it was given up, and the thread's words put right, when its request ended
                }
                // A thread that serves no request may end what another such one has begun.
                t.outside.set(t.outside.get().saturating_sub(1));
                // Unless another has begun since, and goes on.
                if (t.pool.get(), t.owner.get()) == self.aim {
                    t.pool.set(self.before.0);
                    t.owner.set(self.before.1);
                }
                // The last one to end, which may not be the first that began: a coroutine's may end before
                // one that began later.
                if t.outside.get() == 0 {
                    t.aim.set(t.aim_before.get());
                    t.pool.set(0);
                    t.owner.set(0);
                    if t.writing.get() == 0 {
                        t.net.set(0); // no cell is to be charged with it
                    }
                }
            });
        }
    }
    let _restore = thread(|t| {
        if t.outside.get() == 0 {
            t.aim_before.set(t.aim.replace(ptr::null()));
        }
        t.outside.set(t.outside.get() + 1);
        Restore {
            aim: (pool, owner),
            before: (t.pool.replace(pool), t.owner.replace(owner)),
            era: era(),
        }
    });
    f()
}

/// Whether a closure of the request is inside a cell or [`outside`].
#[inline]
pub(crate) fn is_inside(bucket: &Bucket) -> bool {
    !bucket.held.is_empty() || thread(|t| t.outside.get() > 0)
}

/// Whether a closure of the request is still inside a cell, [`outside`] or `refusing`.
#[inline]
pub(crate) fn has_closures(bucket: &Bucket) -> bool {
    bucket.refusing.get() != Refusing::default() || is_inside(bucket)
}

/// Gives up the closures of this thread's request that have not returned, and never will in it (no way out),
/// or were left by a jump: releases the cells they hold, and puts the thread's words right. One that a
/// coroutine goes on with later has nothing to give back any more.
#[cold]
pub(crate) fn give_up_closures(bucket: &Bucket, way_out: Option<WayOut>) {
    bucket.held.release_all(bucket, way_out);
    bucket.refusing.set(Refusing::default());
    thread(|t| {
        if t.outside.replace(0) > 0 {
            t.aim.set(t.aim_before.get());
        }
        t.pool.set(0);
        t.owner.set(0);
        t.writing.set(0);
        lose(t.net.replace(0));
    });
    begin_era();
}

/// For a fork: holds all locks until [`release`].
#[cfg(not(miri))]
pub(crate) fn hold() {
    // From the last: making a pool claims it under the lock of the first.
    POOLS[0].hold();
    POOLS[1..].iter().for_each(Pool::hold);
}

/// # Safety
/// As [`Pool::release`].
#[cfg(not(miri))]
pub(crate) unsafe fn release() {
    for pool in &POOLS {
        // SAFETY: by the caller's promise.
        unsafe { pool.release() };
    }
}
