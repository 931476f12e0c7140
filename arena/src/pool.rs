//! A heap of fixed size in the region that threads share: talc under a mutex of ours, and how much of it is
//! in use.
//!
//! The shared heap, the overdraft and the C heap are each one. The last two also know which request a block
//! is charged to ([`Charged`]), so that a request can have a limit.
//!
//! Nothing here may be interrupted half-way by a stack overflow: the caller makes sure that there is stack.

use crate::bound::PAGE;
use crate::raw_mutex::RawMutex;
use crate::region::Part;
use lock_api::{Mutex, MutexGuard};
use std::alloc::Layout;
use std::cell::Cell;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering};
use talc::DefaultBinning;
use talc::base::{CHUNK_UNIT, Talc};
use talc::source::Manual;

/// The heap.
pub(crate) struct Pool {
    talc: Mutex<RawMutex, Talc<Manual, DefaultBinning>>,
    base: AtomicUsize,
    len: AtomicUsize,
    used: AtomicUsize,
}

// SAFETY: the talc is reached under the mutex only, and the memory that it refers to is not tied to a thread.
unsafe impl Sync for Pool {}

/// What talc takes for a block of so many bytes, its own word included. (talc, `required_chunk_size`.)
pub(crate) const fn chunk(size: usize) -> usize {
    (size + size_of::<usize>() + CHUNK_UNIT - 1) & !(CHUNK_UNIT - 1)
}

/// Why a pool was not given its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsuitable {
    /// It has some.
    Installed,
    /// Too little to begin with.
    TooSmall,
}

impl Pool {
    pub(crate) const fn new() -> Self {
        Pool {
            talc: Mutex::const_new(<RawMutex as lock_api::RawMutex>::INIT, Talc::new(Manual)),
            base: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            used: AtomicUsize::new(0),
        }
    }

    /// Gives the pool its memory, once and for ever. With a part of no bytes it has none.
    pub(crate) fn install(&self, part: Part) -> Result<(), Unsuitable> {
        if part.is_empty() {
            return Ok(());
        }
        let (base, len) = (part.base(), part.len());
        // SAFETY: a part is the only handle on its memory, which lives for ever.
        unsafe { self.claim(base, len) }
    }

    /// # Safety
    /// The memory is valid for ever and from here on used by the pool alone.
    pub(crate) unsafe fn claim(&self, base: NonNull<u8>, len: usize) -> Result<(), Unsuitable> {
        let address = base.as_ptr().addr();
        let taken = self
            .base
            .compare_exchange(0, address, Ordering::SeqCst, Ordering::SeqCst);
        if taken.is_err() {
            return Err(Unsuitable::Installed);
        }
        if len < PAGE {
            return Err(Unsuitable::TooSmall);
        }
        // SAFETY: by the caller's promise.
        let claimed = unsafe { self.talc.lock().claim(base.as_ptr(), len) };
        claimed.ok_or(Unsuitable::TooSmall)?;
        self.len.store(len, Ordering::SeqCst);
        Ok(())
    }

    /// Bytes that it has; 0 before it has any.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Bytes of it that are in use, its own bookkeeping included.
    #[inline]
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether an address lies in it.
    #[inline]
    pub(crate) fn owns(&self, address: usize) -> bool {
        address.wrapping_sub(self.base.load(Ordering::Relaxed)) < self.len()
    }

    pub(crate) fn lock(&self) -> Locked<'_> {
        Locked {
            talc: self.talc.lock(),
            pool: self,
        }
    }

    /// Holds the lock, so that no other thread does, until [`Pool::release`]: for a fork.
    pub(crate) fn hold(&self) {
        std::mem::forget(self.talc.lock());
    }

    /// # Safety
    /// This thread, or the one that it was forked from, has called [`Pool::hold`] and not released since.
    pub(crate) unsafe fn release(&self) {
        // SAFETY: held, by the caller's promise.
        unsafe { self.talc.force_unlock() };
    }
}

/// Free bytes that are kept for one change or request.
#[derive(Clone, Copy)]
pub(crate) struct Piece {
    block: NonNull<u8>,
    layout: Layout,
}

/// A pool that this thread has locked.
pub(crate) struct Locked<'p> {
    talc: MutexGuard<'p, RawMutex, Talc<Manual, DefaultBinning>>,
    pool: &'p Pool,
}

impl Locked<'_> {
    /// A block, of a layout whose size is not zero.
    pub(crate) fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        if self.pool.len() == 0 {
            return None;
        }
        debug_assert!(layout.size() > 0);
        // SAFETY: the size is not zero.
        let block = unsafe { self.talc.allocate(layout) }?;
        self.count(0, layout.size());
        Some(block)
    }

    /// Whether blocks of so many bytes would fit together, if they were made in this order. It is tried: the
    /// free bytes may be in many pieces.
    pub(crate) fn has_pieces(&mut self, sizes: [usize; 2]) -> bool {
        let pieces = self.take(sizes);
        pieces.is_some_and(|pieces| {
            self.give_back(pieces);
            true
        })
    }

    /// Takes pieces of so many bytes (0: none), in this order, or none of them. They are not counted as used.
    pub(crate) fn take(&mut self, sizes: [usize; 2]) -> Option<[Option<Piece>; 2]> {
        let layout_of = |size: usize| Layout::from_size_align(size, align_of::<usize>()).ok();
        let mut has_all = self.pool.len() > 0;
        let pieces = sizes.map(|size| {
            let layout = layout_of(size).filter(|_| has_all && size > 0);
            // SAFETY: the size is not zero.
            let piece = layout.and_then(|layout| unsafe { self.talc.allocate(layout) });
            has_all &= size == 0 || piece.is_some();
            piece
                .zip(layout)
                .map(|(block, layout)| Piece { block, layout })
        });
        if !has_all {
            self.give_back(pieces);
            return None;
        }
        Some(pieces)
    }

    /// Gives pieces back that were taken of this pool.
    pub(crate) fn give_back(&mut self, pieces: [Option<Piece>; 2]) {
        for piece in pieces.into_iter().flatten() {
            // SAFETY: made by `take` with this layout, and not in use. A piece is given back once: its owner
            // takes it out of its place to do so.
            unsafe { self.talc.deallocate(piece.block.as_ptr(), piece.layout) };
        }
    }

    /// # Safety
    /// The block came from this pool with this layout, and is not used again.
    pub(crate) unsafe fn deallocate(&mut self, block: NonNull<u8>, layout: Layout) {
        self.count(layout.size(), 0);
        // SAFETY: by the caller's promise.
        unsafe { self.talc.deallocate(block.as_ptr(), layout) };
    }

    /// Makes a block smaller, or larger if what follows it is free. True if it was done; the block stays
    /// where it is.
    ///
    /// # Safety
    /// The block came from this pool with this layout; the size is not zero.
    pub(crate) unsafe fn resize(
        &mut self,
        block: NonNull<u8>,
        layout: Layout,
        new_size: usize,
    ) -> bool {
        // SAFETY: by the caller's promise.
        let done = unsafe {
            self.talc
                .try_realloc_in_place(block.as_ptr(), layout, new_size)
        };
        if done {
            self.count(layout.size(), new_size);
        }
        done
    }

    fn count(&self, less: usize, more: usize) {
        let of = |size| if size == 0 { 0 } else { chunk(size) };
        // Written under the lock only.
        let used = self.pool.used.load(Ordering::Relaxed) - of(less) + of(more);
        self.pool.used.store(used, Ordering::Relaxed);
    }
}

/// What one request has of a [`Charged`] pool. Read and written under that pool's lock.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// Which request this is: blocks of an earlier one are not this one's.
    request: Cell<u32>,
    bytes: Cell<usize>,
}

impl Account {
    pub(crate) const fn new() -> Self {
        Account {
            request: Cell::new(0),
            bytes: Cell::new(0),
        }
    }
}

/// Lies right before each block.
#[derive(Clone, Copy)]
#[repr(C)]
struct Header {
    /// Bytes of the block itself.
    size: usize,
    request: u32,
    /// One more than the number of the account; 0: none.
    account: u16,
    /// From talc's block to ours, as a power of two: at least the header, and a multiple of the alignment.
    offset_log: u8,
    /// As in the claim.
    debtor: u8,
}

const HEADER: usize = size_of::<Header>();
const _: () = assert!(HEADER == 16 && align_of::<Header>() == 8);

impl Header {
    fn offset(self) -> usize {
        1 << self.offset_log
    }

    /// Of what talc has given.
    fn layout(self) -> Layout {
        // SAFETY: made by `layout_for`, which has checked it.
        unsafe { Layout::from_size_align_unchecked(self.offset() + self.size, self.offset()) }
    }

    /// What the block is charged with.
    fn charge(self) -> usize {
        chunk(self.layout().size())
    }

    /// # Safety
    /// The block came from a `Charged` pool and is live.
    unsafe fn of(block: NonNull<u8>) -> Self {
        // SAFETY: by the caller's promise a header lies right before it, aligned as the block is, to 16 at
        // least.
        unsafe { block.sub(HEADER).cast::<Header>().read() }
    }
}

/// A pool whose blocks know which request they are charged to. One that outlives it stays, charged to none.
pub(crate) struct Charged {
    pool: Pool,
    account_of: fn(u16) -> &'static Account,
    /// Bytes of blocks that are no living request's.
    kept: AtomicUsize,
    /// The most that one account has had.
    most: AtomicUsize,
}

/// How much may be taken, and by which account.
#[derive(Clone, Copy)]
pub(crate) struct Claim<'a> {
    /// The account, and its number; none for what is charged to no request.
    pub account: Option<(&'a Account, u16)>,
    /// The most that the account may have.
    pub limit: usize,
    /// What must stay free of the pool.
    pub reserve: usize,
    /// What the block stands in for, as a number of the caller's.
    pub debtor: u8,
}

/// Why there was no block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The account has what it may have.
    Limit,
    /// The pool has no such piece.
    Full,
}

impl Charged {
    pub(crate) const fn new(account_of: fn(u16) -> &'static Account) -> Self {
        Charged {
            pool: Pool::new(),
            account_of,
            kept: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        }
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Bytes of blocks that have outlived their requests.
    pub(crate) fn kept(&self) -> usize {
        self.kept.load(Ordering::Relaxed)
    }

    /// The most bytes that one account has had.
    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    /// The account has so much now. Under the lock.
    fn set(&self, account: &Account, bytes: usize) {
        account.bytes.set(bytes);
        if bytes > self.most.load(Ordering::Relaxed) {
            self.most.store(bytes, Ordering::Relaxed);
        }
    }

    fn add_kept(&self, bytes: usize) {
        let kept = self.kept.load(Ordering::Relaxed) + bytes; // written under the lock only
        self.kept.store(kept, Ordering::Relaxed);
    }

    /// What a block of that layout will be charged with.
    pub(crate) fn charge_for(layout: Layout) -> Option<usize> {
        let offset = layout.align().max(HEADER);
        Some(chunk(layout.size().checked_add(offset)?))
    }

    /// A block, charged to the account.
    pub(crate) fn allocate(
        &self,
        layout: Layout,
        claim: Claim<'_>,
    ) -> Result<NonNull<u8>, Refused> {
        let offset = layout.align().max(HEADER);
        let header = Header {
            size: layout.size(),
            request: claim
                .account
                .map_or(0, |(account, _)| account.request.get()),
            account: claim.account.map_or(0, |(_, number)| number + 1),
            offset_log: offset.ilog2() as u8,
            debtor: claim.debtor,
        };
        let whole = layout
            .size()
            .checked_add(offset)
            .and_then(|size| Layout::from_size_align(size, offset).ok())
            .ok_or(Refused::Full)?;
        let charge = chunk(whole.size());
        let mut locked = self.pool.lock();
        let has = claim.account.map_or(0, |(account, _)| account.bytes.get());
        if charge > claim.limit.saturating_sub(has) {
            return Err(Refused::Limit);
        }
        if charge + claim.reserve > self.pool.len().saturating_sub(self.pool.used()) {
            return Err(Refused::Full);
        }
        let start = locked.allocate(whole).ok_or(Refused::Full)?;
        match claim.account {
            Some((account, _)) => self.set(account, has + charge),
            None => self.add_kept(charge),
        }
        // SAFETY: within the block that was just made, `offset` is at least the header and aligned.
        unsafe {
            let block = start.add(offset);
            block.sub(HEADER).cast::<Header>().write(header);
            Ok(block)
        }
    }

    /// What the block stands in for, and what it is charged with.
    ///
    /// # Safety
    /// The block came from this pool and is live.
    pub(crate) unsafe fn debt_of(&self, block: NonNull<u8>) -> (u8, usize) {
        // SAFETY: by the caller's promise.
        let header = unsafe { Header::of(block) };
        (header.debtor, header.charge())
    }

    /// Bytes that a block was asked to have.
    ///
    /// # Safety
    /// The block came from this pool and is live.
    #[cfg(all(feature = "c-heap", not(miri)))]
    pub(crate) unsafe fn size_of(&self, block: NonNull<u8>) -> usize {
        // SAFETY: by the caller's promise.
        unsafe { Header::of(block) }.size
    }

    /// # Safety
    /// The block came from this pool and is not used again.
    pub(crate) unsafe fn deallocate(&self, block: NonNull<u8>) {
        let mut locked = self.pool.lock();
        // SAFETY: by the caller's promise; the offset is the one that `allocate` chose.
        unsafe {
            let header = Header::of(block);
            self.charge(header, header.charge(), 0);
            locked.deallocate(block.sub(header.offset()), header.layout());
        }
    }

    /// Makes a block smaller, or larger if what follows it is free and the limits allow it. True if it was
    /// done.
    ///
    /// # Safety
    /// The block came from this pool and is live; the size is not zero.
    #[cfg(all(feature = "c-heap", not(miri)))]
    pub(crate) unsafe fn resize(
        &self,
        block: NonNull<u8>,
        new_size: usize,
        claim: Claim<'_>,
    ) -> bool {
        let mut locked = self.pool.lock();
        // SAFETY: by the caller's promise.
        let header = unsafe { Header::of(block) };
        let Some(whole) = new_size.checked_add(header.offset()) else {
            return false;
        };
        let (had, wants) = (header.charge(), chunk(whole));
        if wants > had {
            let mine = claim.account.filter(|(account, number)| {
                header.account == number + 1 && header.request == account.request.get()
            });
            let has = mine.map_or(0, |(account, _)| account.bytes.get() - had);
            let free = self.pool.len().saturating_sub(self.pool.used());
            let fits =
                wants <= claim.limit.saturating_sub(has) && wants - had + claim.reserve <= free;
            if mine.is_none() || !fits {
                return false; // it moves, and is charged anew
            }
        }
        // SAFETY: by the caller's promise, with the offset and the layout that `allocate` chose.
        unsafe {
            let start = block.sub(header.offset());
            if !locked.resize(start, header.layout(), whole) {
                return false;
            }
            self.charge(header, had, wants);
            let header = Header {
                size: new_size,
                ..header
            };
            block.sub(HEADER).cast::<Header>().write(header);
        }
        true
    }

    /// Takes `less` from what the block is charged to, and adds `more`. Under the lock.
    fn charge(&self, header: Header, less: usize, more: usize) {
        let account = header
            .account
            .checked_sub(1)
            .map(self.account_of)
            .filter(|account| account.request.get() == header.request);
        match account {
            // The numbers of requests come round: a block may be one of 2^32 requests ago.
            Some(account) => self.set(account, (account.bytes.get() + more).saturating_sub(less)),
            None => {
                let kept = self.kept.load(Ordering::Relaxed) - less + more;
                self.kept.store(kept, Ordering::Relaxed);
            }
        }
    }

    /// The account's request has ended: what it has left is charged to no request now. How much that is.
    pub(crate) fn settle(&self, account: &Account) -> usize {
        let _locked = self.pool.lock();
        let left = account.bytes.replace(0);
        account.request.set(account.request.get().wrapping_add(1));
        self.add_kept(left);
        left
    }

    /// What the account has.
    pub(crate) fn charged(&self, account: &Account) -> usize {
        let _locked = self.pool.lock();
        account.bytes.get()
    }
}

/// Moves a block's bytes.
///
/// # Safety
/// Both blocks are valid for `len` bytes and do not overlap.
pub(crate) unsafe fn copy(from: NonNull<u8>, to: NonNull<u8>, len: usize) {
    // SAFETY: by the caller's promise.
    unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), len) };
}
