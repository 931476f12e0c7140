//! What the changes that run now were promised: pieces of their pools, which are kept from others until the
//! change has ended.
//!
//! The pieces are allocated in the pool, and not counted as used. When the thread whose change it is
//! allocates, it gives them back, allocates, and takes them again, less what the change has made by then, all
//! under the pool's lock. So a block lies where it would without them, and no other thread gets in between.

use super::held::Held;
use super::{POOLS, POOLS_MAX};
use crate::bucket::Bucket;
use crate::overdraft;
use crate::pool::{Locked, Piece};
use crate::recovery::{STACK_MARGIN, ensure_stack};
use crate::thread::{bound, era, thread};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many changes have a promise of each pool.
static PROMISES: [AtomicUsize; POOLS_MAX] = [const { AtomicUsize::new(0) }; POOLS_MAX];

/// What one change was promised. It lies with the cell that its request holds.
#[derive(Clone, Copy)]
pub(super) struct Promise {
    pool: usize,
    sizes: [usize; 2],
    /// What the thread's `net` was.
    since: isize,
    pieces: [Option<Piece>; 2],
}

impl Promise {
    /// Takes the pieces again, less so many bytes that the change has made, as far as they are there.
    fn renew(&mut self, locked: &mut Locked<'_>, made: isize) {
        let made = usize::try_from(made).unwrap_or(0);
        let [one, other] = self.sizes;
        let (less, other_less) = (one.saturating_sub(made), other.saturating_sub(made));
        let choices = [[less, other], [one, other_less], [less, 0], [0, other_less]];
        let pieces = choices.into_iter().find_map(|sizes| locked.take(sizes));
        self.pieces = pieces.unwrap_or_default();
    }

    /// The change has ended, or will never end. The caller has made sure that there is stack.
    pub(super) fn end(self) {
        POOLS[self.pool].lock().give_back(self.pieces);
        PROMISES[self.pool].fetch_sub(1, Ordering::SeqCst);
        overdraft::came_back();
    }
}

/// Runs `f` with the pool's lock, and with what changes of this thread were promised of it.
pub(super) fn with_promises<R>(pool: usize, f: impl FnOnce(&mut Locked<'_>) -> R) -> R {
    ensure_stack(STACK_MARGIN); // a stack overflow under this lock would leave it locked
    let held = bound().map_or(&[][..], |bucket| bucket.held.all());
    let change = |cell: &Cell<Option<Held>>, f: &mut dyn FnMut(&mut Promise, isize), net: isize| {
        let mut held = cell.get()?;
        if let Some(promise) = held.promise.as_mut().filter(|promise| promise.pool == pool) {
            f(promise, net - promise.since);
            cell.set(Some(held));
        }
        Some(held.since)
    };
    let mut locked = POOLS[pool].lock();
    for cell in held {
        let mut give_back = |promise: &mut Promise, _| {
            locked.give_back(std::mem::take(&mut promise.pieces));
        };
        change(cell, &mut give_back, 0);
    }
    let result = f(&mut locked);
    // What existed when the inner change began was made by the outer one.
    let mut net = thread(|t| t.net.get());
    for cell in held.iter().rev() {
        let mut renew = |promise: &mut Promise, made| promise.renew(&mut locked, made);
        net = change(cell, &mut renew, net).unwrap_or(net);
    }
    result
}

/// Whether changes of other threads have promises of the pool.
pub(super) fn others_have_some(bucket: &Bucket, pool: usize) -> bool {
    let held = bucket.held.all().iter().filter_map(Cell::get);
    let own = held
        .filter_map(|held| held.promise)
        .filter(|promise| promise.pool == pool);
    PROMISES[pool].load(Ordering::SeqCst) > own.count()
}

/// A promise for the change of a cell that the request holds; it ends with this value, unless the change was
/// given up before.
pub(super) struct Promised<'b> {
    bucket: &'b Bucket,
    lock: usize,
    era: u64,
}

impl<'b> Promised<'b> {
    /// For the change of the cell with that address. `choose` says which pieces it is to be.
    pub(super) fn new(
        bucket: &'b Bucket,
        lock: usize,
        pool: usize,
        choose: impl FnOnce(&mut Locked<'_>) -> Option<[usize; 2]>,
    ) -> Option<Self> {
        let promise = with_promises(pool, |locked| {
            let sizes = choose(locked)?;
            let pieces = locked.take(sizes)?;
            let since = thread(|t| t.net.get());
            Some(Promise {
                pool,
                sizes,
                since,
                pieces,
            })
        })?;
        PROMISES[pool].fetch_add(1, Ordering::SeqCst);
        bucket.held.promise(lock, promise);
        Some(Promised {
            bucket,
            lock,
            era: era(),
        })
    }
}

impl Drop for Promised<'_> {
    fn drop(&mut self) {
        if self.era != era() {
            return; // it was ended when the change was given up
        }
        ensure_stack(STACK_MARGIN); // before it is taken from where it would be ended otherwise
        if let Some(promise) = self.bucket.held.take_promise(self.lock) {
            promise.end();
        }
    }
}
