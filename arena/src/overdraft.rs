//! The overdraft: memory for requests that have outgrown their arena, so that they can go on to their return.
//!
//! An allocation that cannot be refused must be served, or its thread can never go on: the locks and borrows
//! of its frames would be held for ever. So there is a pool beside the buckets, and each request may have a
//! **share** of it. A request that draws on it is marked: its answer is a 500, whatever it returns. What it
//! has drawn is given back when it ends.
//!
//! Shares are set aside before they are drawn on. As many requests as the pool has shares for draw at the
//! same time, and each of them can have all of its share without waiting, so it ends by itself. The others
//! wait for one of those to end before they draw anything. A request that waits may hold a lock that one of
//! those wants. So no request waits for longer than [`PATIENCE`]: then it draws on what is free, set aside or
//! not, and it gets nothing only when nothing is free.

mod debts;

use crate::bucket::{self, Bucket, BucketState};
use crate::events::{DRAWS, DRAWS_ITS_SHARE, DRAWS_WHAT_IS_FREE};
use crate::futex::{self, AtomicU32, Ordering};
use crate::pool::{Charged, Claim, Refused, Unsuitable};
use crate::recovery::{STACK_MARGIN, ensure_stack};
use crate::region::Part;
use crate::thread::{era, thread};
use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use debts::Debts;

/// How long a request waits for others to give memory back. It is longer than handlers take that do not wait
/// themselves, and short compared with the time in which a client expects an answer.
const PATIENCE: Duration = Duration::from_millis(250);

/// How long a request waits that can do without: for closures of others, which are short.
const A_MOMENT: Duration = Duration::from_millis(25);

/// The debtor of a block that stands in for no block of the shared heap.
const NOBODY: u8 = 0;
/// Bytes that lie here in place of blocks of the shared heap.
static OWED: Debts = Debts::new();
/// How many sleep on [`CAME_BACK`], or are about to.
static WAITING: AtomicU32 = AtomicU32::new(0);

static OVERDRAFT: Charged = Charged::new(|number| &bucket::numbered(number).overdraft);
static SHARE: AtomicUsize = AtomicUsize::new(0);
/// Bytes that are set aside for requests that draw.
static SET_ASIDE: AtomicUsize = AtomicUsize::new(0);
/// Counts the times that memory came back: threads that wait sleep on it.
static CAME_BACK: AtomicU32 = AtomicU32::new(0);

/// Gives the overdraft its memory, and says how much of it a request may have. Once per process, before any
/// thread is bound to a bucket. With a part of no bytes there is none: then a request that outgrows its arena
/// ends at once.
///
/// # Errors
/// [`OverdraftError`].
pub fn install_overdraft(part: Part, share: usize) -> Result<(), OverdraftError> {
    let len = part.len();
    if len > 0 && (share == 0 || share > len) {
        return Err(OverdraftError::Share { share, len });
    }
    OVERDRAFT
        .pool()
        .install(part)
        .map_err(|error| match error {
            Unsuitable::Installed => OverdraftError::Installed,
            Unsuitable::TooSmall => OverdraftError::TooSmall { bytes: len },
        })?;
    SHARE.store(share, Ordering::SeqCst);
    Ok(())
}

/// Why there is no overdraft.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OverdraftError {
    /// Called twice.
    #[error("this process has its overdraft already")]
    Installed,
    /// Too small to begin with.
    #[error(
        "--overdraft: {bytes} bytes cannot hold anything; give it at least 64KiB, or 0 for none"
    )]
    TooSmall {
        /// What was given.
        bytes: usize,
    },
    /// No share, or one that is larger than the whole.
    #[error(
        "--overdraft-per-request is {share} bytes; it must be at least 1 and at most --overdraft, which is {len} bytes"
    )]
    Share {
        /// What was given.
        share: usize,
        /// What there is.
        len: usize,
    },
}

/// What the overdraft holds, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverdraftUsage {
    /// In use.
    pub used: usize,
    /// Of that, what has outlived its request.
    pub kept: usize,
    /// The most that one request has had.
    pub most: usize,
    /// All of it.
    pub size: usize,
}

/// What the overdraft holds now.
#[must_use]
pub fn overdraft_usage() -> OverdraftUsage {
    OverdraftUsage {
        used: OVERDRAFT.pool().used(),
        kept: OVERDRAFT.kept(),
        most: OVERDRAFT.most(),
        size: OVERDRAFT.pool().len(),
    }
}

/// Bytes that one request may have.
#[must_use]
pub fn overdraft_share() -> usize {
    SHARE.load(Ordering::Relaxed)
}

pub(crate) fn owns(address: usize) -> bool {
    OVERDRAFT.pool().owns(address)
}

/// A block for the request in this bucket, whose thread this is. Nothing if it has had its share, or the pool
/// has no such piece even after others had time to give theirs back.
#[cold]
pub(crate) fn allocate(bucket: &Bucket, layout: Layout) -> Option<NonNull<u8>> {
    allocate_for(NOBODY, bucket, layout)
}

/// The same, in place of a block of the shared heap, which has no room: until it is freed, the cell that this
/// thread changes owes so much.
#[cold]
pub(crate) fn allocate_owed(bucket: &Bucket, layout: Layout) -> Option<NonNull<u8>> {
    ensure_stack(STACK_MARGIN);
    let charge = Charged::charge_for(layout)?;
    let more = || {
        let _locked = OVERDRAFT.pool().lock();
        OWED.more(thread(|t| t.owner.get()), charge)
    };
    let debtor = more();
    let block = allocate_for(debtor, bucket, layout);
    if block.is_none() {
        ensure_stack(STACK_MARGIN);
        let _locked = OVERDRAFT.pool().lock();
        OWED.less(debtor, charge);
    }
    block
}

/// Bytes that lie here because the pool of that cell of the shared heap had no room for them.
pub(crate) fn owed_by(cell: usize) -> usize {
    OWED.owed_by(cell)
}

/// The value of that cell is lost, and so is what it has here: the cell owes nothing any more.
pub(crate) fn forgive(cell: usize) {
    if OWED.owed_by(cell) > 0 {
        let _locked = OVERDRAFT.pool().lock();
        OWED.forgive(cell);
    }
}

/// The debt of one cell passes to another, which owes nothing yet.
pub(crate) fn hand_over(from: usize, to: usize) {
    if OWED.owed_by(from) > 0 {
        let _locked = OVERDRAFT.pool().lock();
        OWED.hand_over(from, to);
    }
}

fn allocate_for(debtor: u8, bucket: &Bucket, layout: Layout) -> Option<NonNull<u8>> {
    let share = overdraft_share();
    if share == 0 || layout.size() > share {
        return None;
    }
    ensure_stack(STACK_MARGIN); // a stack overflow under the pool's lock would leave it locked
    if bucket.state() == BucketState::Parked {
        // For its report. It gives nothing back, so no request is charged; and half is for the others.
        let claim = Claim {
            account: None,
            limit: share,
            reserve: OVERDRAFT.pool().len() / 2,
            debtor,
        };
        return OVERDRAFT.allocate(layout, claim).ok();
    }
    let until = Instant::now() + PATIENCE;
    if !bucket.events.any(DRAWS) {
        bucket.events.add(match wait_for_share(share, until) {
            true => DRAWS_ITS_SHARE,
            false => DRAWS_WHAT_IS_FREE,
        });
    }
    let number = u16::try_from(bucket.index()).expect("at most BUCKETS_MAX");
    let claim = Claim {
        account: Some((&bucket.overdraft, number)),
        limit: share,
        reserve: 0,
        debtor,
    };
    let mut block = None;
    wait_until(until, || match OVERDRAFT.allocate(layout, claim) {
        Ok(made) => {
            block = Some(made);
            true
        }
        Err(Refused::Limit) => true,
        Err(Refused::Full) => false,
    });
    block
}

/// Tries until it is done, or the time has come. Between two tries it sleeps until something has come back.
fn wait_until(until: Instant, mut is_done: impl FnMut() -> bool) -> bool {
    loop {
        let seen = CAME_BACK.load(Ordering::SeqCst);
        if is_done() {
            return true;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        WAITING.fetch_add(1, Ordering::SeqCst);
        futex::wait_for(&CAME_BACK, seen, left);
        WAITING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Tries until it is done, for [`A_MOMENT`] at most.
pub(crate) fn wait_a_moment(is_done: impl FnMut() -> bool) -> bool {
    wait_until(Instant::now() + A_MOMENT, is_done)
}

/// Bytes that can be set aside in all.
fn usable() -> usize {
    OVERDRAFT.pool().len().saturating_sub(OVERDRAFT.kept())
}

/// Sets a share aside. Waits for others to give theirs back if need be; false if there is none `until` then.
/// What is kept may leave no share, whatever is given back.
fn wait_for_share(share: usize, until: Instant) -> bool {
    share <= usable() && wait_until(until, || set_aside(share))
}

/// Sets a share aside, if what is not set aside or kept has one.
fn set_aside(share: usize) -> bool {
    let usable = usable();
    SET_ASIDE
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |aside| {
            (aside + share <= usable).then_some(aside + share)
        })
        .is_ok()
}

/// The request in this bucket has ended, or will never end. What it has not given back stays, and is charged
/// to no request.
pub(crate) fn settle(bucket: &Bucket) {
    OVERDRAFT.settle(&bucket.overdraft);
    end_drawing(bucket);
}

fn end_drawing(bucket: &Bucket) {
    if bucket.events.any(DRAWS_ITS_SHARE) {
        SET_ASIDE.fetch_sub(overdraft_share(), Ordering::SeqCst);
    }
    bucket.events.remove(DRAWS);
    came_back();
}

/// Memory came back that others may wait for, here or in the shared heap.
pub(crate) fn came_back() {
    CAME_BACK.fetch_add(1, Ordering::SeqCst);
    // A thread that comes to wait after this look sees that the count has changed, and does not sleep.
    if WAITING.load(Ordering::SeqCst) > 0 {
        futex::wake(&CAME_BACK, i32::MAX);
    }
}

/// A share that is set aside for what may need it, before it begins. It goes back with this value if nothing
/// of it is in use then, else when the request ends.
pub(crate) struct SetAside<'b> {
    /// Nothing, where the request had its share already.
    bucket: Option<&'b Bucket>,
    era: u64,
}

impl<'b> SetAside<'b> {
    /// A share of which a block of so many bytes can be had. Waits for [`A_MOMENT`] at most.
    pub(crate) fn new(bucket: &'b Bucket, bytes: usize) -> Option<Self> {
        if bytes > overdraft_share().saturating_sub(drawn(bucket)) {
            return None;
        }
        let has_it = bucket.events.any(DRAWS_ITS_SHARE);
        let gets_it = || {
            !bucket.events.any(DRAWS)
                && overdraft_share() > 0
                && wait_for_share(overdraft_share(), Instant::now() + A_MOMENT)
        };
        if !has_it {
            if !gets_it() {
                return None;
            }
            bucket.events.add(DRAWS_ITS_SHARE);
        }
        let share = SetAside {
            bucket: (!has_it).then_some(bucket),
            era: era(),
        };
        // What is kept may have cut the free bytes in pieces.
        ensure_stack(STACK_MARGIN);
        let has_piece = OVERDRAFT.pool().lock().has_pieces([bytes, 0]);
        has_piece.then_some(share)
    }
}

impl Drop for SetAside<'_> {
    fn drop(&mut self) {
        // In a later era the request that had it has ended, and its account is settled.
        if let Some(bucket) = self.bucket
            && self.era == era()
            && drawn(bucket) == 0
        {
            end_drawing(bucket);
        }
    }
}

/// Bytes that the request in this bucket has drawn.
pub(crate) fn drawn(bucket: &Bucket) -> usize {
    if bucket.events.any(DRAWS) {
        ensure_stack(STACK_MARGIN);
        OVERDRAFT.charged(&bucket.overdraft)
    } else {
        0
    }
}

/// # Safety
/// The block lies in the overdraft, is live, and is not used again.
pub(crate) unsafe fn deallocate(block: NonNull<u8>) {
    ensure_stack(STACK_MARGIN);
    // SAFETY: by the caller's promise.
    unsafe {
        let (debtor, charge) = OVERDRAFT.debt_of(block);
        if debtor != NOBODY {
            let _locked = OVERDRAFT.pool().lock();
            OWED.less(debtor, charge);
        }
        OVERDRAFT.deallocate(block);
    }
}

/// For a fork: holds the lock until [`release`].
pub(crate) fn hold() {
    OVERDRAFT.pool().hold();
}

/// # Safety
/// As [`Pool::release`](crate::pool::Pool::release).
pub(crate) unsafe fn release() {
    // SAFETY: by the caller's promise.
    unsafe { OVERDRAFT.pool().release() };
}
