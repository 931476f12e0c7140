//! [`Shared`]: a cell that handlers of all requests share.

use super::large::largest_of;
use super::lock::{Access, Lock, State};
use super::promise::{Promised, others_have_some};
use super::{POOLS, aimed_at, make_pool};
use crate::overdraft::{SetAside, owed_by, wait_a_moment};
use crate::pool::chunk;
use crate::recovery::{STACK_MARGIN, ensure_stack, exhausted};
use crate::thread::{bound, thread};
use std::cell::UnsafeCell;
use std::fmt;
use std::mem::ManuallyDrop;
use std::panic::Location;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// What a change may need, if nothing else is said: an entry of a map, a line of text.
const ROOM: usize = 4 << 10;

/// What a change may need in small blocks beside that: a key as long as a head may be by default, and nodes
/// of maps. (A `BTreeMap<String, String>` has nodes of 544 and 640 bytes, and splits one for each of its
/// levels.)
const SMALL_BLOCKS: usize = 20 << 10;

/// Of a small heap it is no more than so manieth.
const SMALL_PART: usize = 16;

/// The number of a cell that was to have a heap of its own, until it has one.
const NO_POOL_YET: usize = usize::MAX;

/// A cell that handlers of all requests share; its contents live in the shared heap.
///
/// ```
/// # use transom_arena as transom_platform;
/// use transom_platform::Shared;
/// static VISITS: Shared<u64> = Shared::new(0);
/// let now = VISITS.with(|visits| { *visits += 1; *visits })?;
/// # assert_eq!(now, 1);
/// # Ok::<(), transom_arena::SharedError>(())
/// ```
///
/// * Inside [`with`](Shared::with), allocations come from the shared heap: clone what you store *inside* the
///   closure (`with(|map| map.insert(key.to_owned(), n))`). A value that was made outside it lies in the
///   request's bucket and would stay there for as long as it is in the cell, so a closure that moves one in
///   does not compile.
/// * When the shared heap is full, `with` is an error of that request ([`SharedError::Full`]); the value is
///   whole. It is so too when it turns out inside the closure, which goes on to its end: then the value is as
///   the closure has left it. What makes room ([`with_room`](Shared::with_room) of 0 bytes) still works, and
///   so does reading.
/// * [`read`](Shared::read) lets readers in together.
/// * A panic inside the closure, or a stack overflow, poisons the cell, and unlocks it. Every later use says
///   [`SharedError::Poisoned`], until [`restore`](Shared::restore) puts a fresh value in.
/// * A request may end while a closure is inside the cell that never returns in it: a coroutine's, which the
///   request has left in a thread-local. The cell is then as after a request that was parked inside:
///   poisoned, or if it was reading, not to be changed any more. `restore` puts a fresh value elsewhere; the
///   coroutine has the old one for as long as it likes.
/// * A vector or a hash map doubles, in one piece. So a change also needs a free piece of twice the cell's
///   largest block, beside its own room (or, if that is more than the block, one of the block and the room
///   together), and 20 KiB for small blocks (of a small heap, a 16th). (What a block
///   is that is smaller than a 64th of the heap is not looked at: it counts as one. A block that is moved to
///   another cell counts for the one in which it was made, until it is freed.) Where that piece is not there,
///   and a request's share of the overdraft would hold it, a share is set aside while the closure runs;
///   without one the change is refused. One that may go without asks for what it needs itself: `with_room(0,
///   |list| refusing(|| list.try_reserve(1)).map(|()| list.push(n)))`, see [`refusing`](crate::refusing).
/// * What a change needs is kept for it until it ends, so that no change of another cell is let in for the
///   same bytes. One that finds too little because of that waits for a moment (25 ms), and then it is as if
///   they were in use. (Where the free bytes are in pieces, the piece for a block that grows by more than it
///   has is looked for, and not always kept. A thread that the handler has started itself is promised
///   nothing.)
/// * What the shared heap has no room for while the closure runs comes from the overdraft, and the request's
///   answer is a 500. What stays there is owed: for this cell the heap counts as full until there is room for
///   that too, or it is removed.
/// * A closure that wants more at once than that, and more than the shared heap and the overdraft have for
///   it, ends its request: the cell is poisoned, and its value is lost. Where a client says how much it is,
///   say so too: `with_room(text.len(), f)`. Several large pieces are said as their sum, and so are keys and
///   other small blocks of more than 20 KiB. What the lost value has stays in use, also of the cell's quota,
///   until the process ends. Not known is the largest block of a value that was moved in, or made before
///   there was a shared heap, until it has grown once.
pub struct Shared<T: 'static> {
    lock: Lock,
    /// The value, until a fresh one had to be put elsewhere.
    first: UnsafeCell<ManuallyDrop<T>>,
    /// Where the value lies now; null: in `first`.
    elsewhere: AtomicPtr<T>,
    /// Bytes of a heap of its own; 0: it uses the shared one.
    quota: usize,
    /// The pool that it allocates from.
    pool: AtomicUsize,
}

// SAFETY: the value is reached under the lock only, by one writer or by several readers at a time.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}
// SAFETY: moving the cell moves the value; the lock is not tied to a thread while it is free, and it is free
// when the cell can be moved, unless a request that will never end has it, whose borrow of the cell does not
// end either.
unsafe impl<T: Send> Send for Shared<T> {}

/// Why a cell could not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SharedError {
    /// A request ended while it was changing the value, which may be half-changed.
    #[error(
        "shared state is poisoned: an earlier request ended (panicked, ran out of stack, or left a coroutine behind) while it was changing it"
    )]
    Poisoned,
    /// A request that was ended for good while it was reading may still be reading: the value can be read,
    /// and not changed.
    #[error(
        "shared state cannot be changed any more: a request that was ended while it was reading it may still be reading it"
    )]
    Lent,
    /// The request has outgrown its bucket: its answer is a 500, so what it would change here had better not
    /// be. [`with_room`](Shared::with_room) of 0 bytes still works, to take something back.
    #[error("the request has outgrown its bucket")]
    Exhausted,
    /// There is no room for a change, or none in one piece. It was refused before it began; or, where its
    /// request has outgrown what it could have, it is done.
    #[error(
        "the shared heap is full: {asked} bytes were wanted, {used} of {size} are in use, and what is free is in smaller pieces or set aside; raise --shared-heap or the cell's quota, or remove something (Shared::with_room, with 0 bytes)"
    )]
    Full {
        /// Bytes that were wanted in one piece.
        asked: usize,
        /// Bytes in use.
        used: usize,
        /// Bytes there are.
        size: usize,
    },
}

impl<T: 'static> Shared<T> {
    /// A cell. What `value` owns already stays where it is; what it allocates from now on is shared memory.
    #[must_use]
    pub const fn new(value: T) -> Self {
        Self::with_quota(value, 0)
    }

    /// A cell with a heap of its own, of so many bytes, at least 64 KiB. They are taken from the shared heap
    /// at the first change, for good; other cells can use none of them, and it can use none of theirs. 0 is a
    /// cell without.
    #[must_use]
    pub const fn with_quota(value: T, bytes: usize) -> Self {
        assert!(
            bytes == 0 || bytes >= 64 << 10,
            "a quota is at least 64 KiB, or 0 for none"
        );
        Shared {
            lock: Lock::new(),
            first: UnsafeCell::new(ManuallyDrop::new(value)),
            elsewhere: AtomicPtr::new(ptr::null_mut()),
            quota: bytes,
            pool: AtomicUsize::new(if bytes == 0 { 0 } else { NO_POOL_YET }),
        }
    }

    /// Where the value lies. With the lock.
    fn value(&self) -> *mut T {
        let elsewhere = self.elsewhere.load(Ordering::Relaxed);
        if elsewhere.is_null() {
            self.first.get().cast()
        } else {
            elsewhere
        }
    }

    /// Locks, runs `f` on the value with allocations aimed at the shared heap, unlocks. There is room for 4
    /// KiB when `f` begins; where there is not, `f` is not run. To remove something also when the heap is
    /// full, use [`with_room(0, f)`](Shared::with_room).
    ///
    /// `f` must be `Copy`, which a closure is that moves nothing in and changes nothing outside: what is
    /// stored is cloned inside, what is found is returned.
    ///
    /// ```compile_fail
    /// # use transom_arena::Shared;
    /// static NAMES: Shared<Vec<String>> = Shared::new(Vec::new());
    /// let name = String::from("made in the request's bucket");
    /// NAMES.with(move |names| names.push(name));
    /// ```
    ///
    /// # Errors
    /// [`SharedError`].
    ///
    /// # Panics
    /// If this request holds the cell already, or 16 others.
    #[track_caller]
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R + Copy) -> Result<R, SharedError> {
        self.change(ROOM, f)
    }

    /// As [`with`](Shared::with), where `f` needs so much room: it is not run unless there is a free piece of
    /// so many bytes. That is for what is large; for keys and nodes of maps there are 20 KiB beside it (of a
    /// small heap, a 16th). With 0 it is run in any case, to remove something.
    ///
    /// # Errors
    /// [`SharedError`].
    ///
    /// # Panics
    /// As [`with`](Shared::with).
    #[track_caller]
    pub fn with_room<R>(
        &self,
        bytes: usize,
        f: impl FnOnce(&mut T) -> R + Copy,
    ) -> Result<R, SharedError> {
        self.change(bytes, f)
    }

    /// As [`with`](Shared::with), for a closure that changes something outside, or moves something in. What
    /// it moves in must have been made in the shared heap, inside [`outside`](crate::outside); of anything
    /// else the bucket it lies in keeps the bytes for as long as the cell has it. In a cell with a quota it
    /// counts from when it grows.
    ///
    /// # Errors
    /// [`SharedError`].
    ///
    /// # Panics
    /// As [`with`](Shared::with).
    #[track_caller]
    pub fn with_once<R>(&self, f: impl FnOnce(&mut T) -> R) -> Result<R, SharedError> {
        self.change(ROOM, f)
    }

    #[track_caller]
    fn change<R>(&self, room: usize, f: impl FnOnce(&mut T) -> R) -> Result<R, SharedError> {
        let place = Location::caller();
        // A closure that is not run, and a result that must not be given, are dropped when the cell is free
        // again: their destructors may want it, or a lock that a reader of it holds.
        let mut f = Some(f);
        let mut withheld = None;
        self.lock.locked(Access::Write, || {
            let pool = self.own_pool()?;
            if room > 0 && exhausted().is_some() {
                return Err(SharedError::Exhausted);
            }
            let _promised = self.check_room(pool, room)?;
            let bucket = bound();
            let before = bucket.map_or(0, |bucket| {
                bucket.last_change.set(Some(place));
                bucket.spilled.get().0
            });
            let f = f.take().expect("it is run once");
            // SAFETY: locked for writing, and whole: there is no other reference to the value.
            let result = aimed_at(pool, self.address(), || f(unsafe { &mut *self.value() }));
            match bucket {
                // The value is as the closure has left it, in part outside the shared heap; the request is
                // over.
                Some(bucket) if bucket.spilled.get().0 != before => {
                    withheld = Some(result);
                    Err(self.full(pool, bucket.spilled.get().1))
                }
                _ => Ok(result),
            }
        })
    }

    /// The number of the pool that it allocates from; it is made if the cell is to have its own.
    fn own_pool(&self) -> Result<usize, SharedError> {
        match self.pool.load(Ordering::Relaxed) {
            NO_POOL_YET if super::INSTALLED.load(Ordering::Relaxed) => {
                let number = make_pool(self.quota).ok_or_else(|| self.full(0, self.quota))?;
                self.pool.store(number, Ordering::Relaxed);
                Ok(number)
            }
            NO_POOL_YET => Ok(0),
            number => Ok(number),
        }
    }

    /// What the change needs, so that it can be done, or is refused before it begins: a free piece of `room`
    /// bytes, one to which the largest block may double, and small blocks, all at the same time; or one to
    /// which the largest block may grow by `room`. Where what grows has no piece, a share of the overdraft is
    /// set aside for it.
    fn check_room(
        &self,
        pool: usize,
        room: usize,
    ) -> Result<(Option<Promised<'static>>, Option<SetAside<'static>>), SharedError> {
        let Some(bucket) = bound().filter(|_| room > 0) else {
            return Ok((None, None));
        };
        let heap = &POOLS[pool];
        // What lies in the overdraft because there was no room here counts as if it lay here.
        let owed = owed_by(self.address());
        if owed > 0 && heap.used().saturating_add(owed).saturating_add(room) > heap.len() {
            return Err(self.full(pool, owed.saturating_add(room)));
        }
        let small = SMALL_BLOCKS.min(heap.len() / SMALL_PART);
        let with_small = |bytes: usize| chunk(bytes.min(isize::MAX as usize)) + small;
        let largest = largest_of(pool, self.address()).max(owed);
        let (room_piece, doubled) = (with_small(room), with_small(largest.saturating_mul(2)));
        // For a vector or a text that is extended by more than it has: then its own room comes in this piece.
        let grown = with_small(largest.saturating_add(largest.max(room)));
        let promised = |may_share: bool| {
            Promised::new(bucket, self.address(), pool, |locked| {
                // In one piece they fit in whatever order they are made. In two, each with room for all small
                // blocks, either may be made first, and then lies where the allocator puts it.
                let one = [room_piece.saturating_add(doubled) - small, 0];
                let two = [room_piece, doubled];
                if locked.has_pieces(one) {
                    Some(one)
                } else if [[grown, 0], two, [doubled, room_piece]]
                    .into_iter()
                    .all(|sizes| locked.has_pieces(sizes))
                {
                    let both = [grown, room_piece];
                    Some(if locked.has_pieces(both) { both } else { two })
                } else {
                    may_share.then_some([room_piece, 0])
                }
            })
        };
        // Pieces that others were promised come back in a moment.
        let mut promise = promised(false);
        let needed = room_piece.saturating_add(doubled) - small;
        let has_free = heap.used().saturating_add(needed) <= heap.len();
        if promise.is_none() && has_free && others_have_some(bucket, pool) {
            wait_a_moment(|| {
                promise = promised(false);
                promise.is_some() || !others_have_some(bucket, pool)
            });
        }
        if let Some(promise) = promise {
            return Ok((Some(promise), None));
        }
        let promise = promised(true).ok_or_else(|| self.full(pool, room))?;
        // Then the one that is made last is what does not fit.
        let share = SetAside::new(bucket, grown).ok_or_else(|| self.full(pool, grown))?;
        Ok((Some(promise), Some(share)))
    }

    /// The cell's address, by which it is noted as owner.
    fn address(&self) -> usize {
        self.lock.address()
    }

    fn full(&self, pool: usize, asked: usize) -> SharedError {
        super::REFUSED.fetch_add(1, Ordering::Relaxed);
        SharedError::Full {
            asked,
            used: POOLS[pool].used(),
            size: POOLS[pool].len(),
        }
    }

    /// Locks and runs `f` on the value for reading, beside other readers; allocations stay in the bucket, so
    /// clones are the request's own.
    ///
    /// A request that outgrows its arena in here does not poison the cell: nothing was being changed.
    ///
    /// # Errors
    /// [`SharedError::Poisoned`] and [`SharedError::Exhausted`].
    ///
    /// # Panics
    /// If this request holds the cell already, or 16 others.
    pub fn read<R>(&self, f: impl FnOnce(&T) -> R) -> Result<R, SharedError> {
        let mut f = Some(f); // dropped when the cell is free again, if it is not run
        self.lock.locked(Access::Read, || {
            if exhausted().is_some() {
                return Err(SharedError::Exhausted);
            }
            let f = f.take().expect("it is run once");
            // SAFETY: locked for reading, and no request that will never end changes it: there are only
            // shared references.
            Ok(f(unsafe { &*self.value() }))
        })
    }

    /// Whether an earlier request left the cell so that it cannot be changed: poisoned, or lent for good.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.lock.state() != State::Whole
    }

    /// Bytes in use of the heap that the cell allocates from, and its size: its own if it has a quota, else
    /// the shared one.
    #[must_use]
    pub fn usage(&self) -> (usize, usize) {
        let pool = match self.pool.load(Ordering::Relaxed) {
            NO_POOL_YET => return (0, self.quota),
            number => &POOLS[number],
        };
        (pool.used(), pool.len())
    }

    /// Puts a fresh value in and clears the poison.
    ///
    /// The old value is dropped if it is one: after a panic it is. After a stack overflow it may be
    /// half-changed, and what it owns stays allocated. If a request that will never end still has it, the
    /// fresh value goes into other storage.
    ///
    /// As in [`with`](Shared::with), `make` allocates from the cell's heap and must be `Copy`, so that no
    /// value is moved in that was made in the request's bucket:
    ///
    /// ```compile_fail
    /// # use transom_arena::Shared;
    /// static NAMES: Shared<Vec<String>> = Shared::new(Vec::new());
    /// let names = vec![String::from("made in the request's bucket")];
    /// NAMES.restore(move || names);
    /// ```
    ///
    /// # Panics
    /// As [`with`](Shared::with).
    pub fn restore(&self, make: impl FnOnce() -> T + Copy) {
        let pool = self.lock.seized(|| {
            if !matches!(self.lock.state(), State::Whole | State::Panicked) {
                self.lock.lose_value(); // before there is another one
            }
            self.own_pool().unwrap_or(0)
        });
        // If a request is parked in `make`, this cell has nothing of it: neither what it owes nor what it has
        // made.
        let maker = super::new_maker();
        let (fresh, bytes) = aimed_at(pool, maker, || {
            let before = thread(|t| t.net.get());
            let fresh = Box::new(make());
            (fresh, thread(|t| t.net.get()) - before)
        });
        ensure_stack(STACK_MARGIN + size_of::<T>());
        let old = self.lock.seized(|| {
            let state = self.lock.state();
            let value = self.value();
            let old = match state {
                State::Whole | State::Panicked => {
                    // SAFETY: locked for writing, and a value, which is not used again where it lies.
                    Some(unsafe { value.read() })
                }
                State::Broken | State::Read | State::Written => None,
            };
            match state {
                // SAFETY: locked for writing; there is no reference, and writing over bytes without reading
                // them is always allowed.
                State::Whole | State::Panicked | State::Broken => unsafe {
                    value.write(*fresh);
                },
                State::Read | State::Written => {
                    self.elsewhere
                        .store(Box::into_raw(fresh), Ordering::Relaxed);
                }
            }
            super::hand_over(maker, self.address());
            self.lock.set_bytes(bytes);
            self.lock.set_whole();
            old
        });
        drop(old);
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let is_value = matches!(self.lock.state(), State::Whole | State::Panicked);
        let elsewhere = *self.elsewhere.get_mut();
        if !is_value {
            ensure_stack(STACK_MARGIN);
            self.lock.lose_value();
            return; // what it owns stays allocated, as after `restore`
        }
        // SAFETY: nothing else has the cell, and the value is one; it is dropped once, here.
        unsafe {
            if elsewhere.is_null() {
                ManuallyDrop::drop(self.first.get_mut());
            } else {
                drop(Box::from_raw(elsewhere));
            }
        }
    }
}

impl<T> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("poisoned", &self.is_poisoned())
            .finish_non_exhaustive()
    }
}
