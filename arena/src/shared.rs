//! State that outlives a request: a heap of fixed size in the region, and cells whose contents live in it.
//!
//! A handler's ordinary allocations are gone when its request ends. What must stay goes through [`Shared`], which
//! allocates here while it is locked for writing, or through [`outside`]. The heap never grows; `--shared-heap` sets it.

use crate::allocator;
use crate::cleanup::{Node, WayOut};
use crate::futex::RawMutex;
use crate::recovery::{self, STACK_MARGIN};
use crate::region::Part;
use crate::thread::{bound, thread};
use lock_api::RawMutex as _;
use std::alloc::Layout;
use std::cell::UnsafeCell;
use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use talc::TalcLock;
use talc::source::Manual;

static HEAP: TalcLock<RawMutex, Manual> = TalcLock::new(Manual);
static BASE: AtomicUsize = AtomicUsize::new(0);
static LEN: AtomicUsize = AtomicUsize::new(0);
static USED: AtomicUsize = AtomicUsize::new(0);

/// Gives the shared heap its memory. Once per process, before any thread is bound to a bucket.
///
/// # Errors
/// [`SharedHeapError`] when there is one already, or the part cannot hold a heap.
pub fn install_shared_heap(part: Part) -> Result<(), SharedHeapError> {
    let (base, len) = (part.base().as_ptr() as usize, part.len());
    if BASE
        .compare_exchange(0, base, Ordering::SeqCst, Ordering::SeqCst)
        .is_err()
    {
        return Err(SharedHeapError::Installed);
    }
    let memory = part.into_slice();
    // SAFETY: the slice is ours for ever and from here on only talc touches it.
    let claimed = unsafe { HEAP.lock().claim(memory.as_mut_ptr(), memory.len()) };
    if claimed.is_none() {
        return Err(SharedHeapError::TooSmall { bytes: len });
    }
    LEN.store(len, Ordering::SeqCst);
    Ok(())
}

/// Why there is no shared heap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SharedHeapError {
    /// Called twice.
    #[error("this process has its shared heap already")]
    Installed,
    /// Too small to begin with.
    #[error(
        "--shared-heap: {bytes} bytes cannot hold a heap; give it at least 64KiB, or 0 for none"
    )]
    TooSmall {
        /// What was given.
        bytes: usize,
    },
}

/// Bytes of the shared heap in use, as asked for (its own bookkeeping not counted), and its size.
#[must_use]
pub fn shared_heap_usage() -> (usize, usize) {
    (USED.load(Ordering::Relaxed), LEN.load(Ordering::Relaxed))
}

pub(crate) fn owns(address: usize) -> bool {
    address.wrapping_sub(BASE.load(Ordering::Relaxed)) < LEN.load(Ordering::Relaxed)
}

/// A block from the shared heap; `None` when it does not fit. Before there is a shared heap, the process heap stands in.
pub(crate) fn allocate(layout: Layout) -> Option<*mut u8> {
    if LEN.load(Ordering::Relaxed) == 0 {
        return Some(allocator::from_process_heap(layout));
    }
    recovery::ensure_stack(STACK_MARGIN); // a stack overflow under this lock would leave it locked
    // SAFETY: the layout's size is not zero (GlobalAlloc's contract).
    let block = unsafe { HEAP.lock().allocate(layout) }?;
    USED.fetch_add(layout.size(), Ordering::Relaxed);
    Some(block.as_ptr())
}

/// # Safety
/// The block came from [`allocate`] with this layout, lies in the shared heap, and is not used again.
pub(crate) unsafe fn deallocate(block: NonNull<u8>, layout: Layout) {
    recovery::ensure_stack(STACK_MARGIN);
    USED.fetch_sub(layout.size(), Ordering::Relaxed);
    // SAFETY: as promised by the caller.
    unsafe { HEAP.lock().deallocate(block.as_ptr(), layout) };
}

/// Runs `f` with this thread's allocations aimed at the shared heap, for what must outlive the request: a lazy value's
/// first use, an entry of a cache.
///
/// An escape out of `f` (the shared heap is full, the stack overflows) leaks what `f` had allocated there.
pub fn outside<R>(f: impl FnOnce() -> R) -> R {
    struct Restore(*const crate::Bucket);
    impl Drop for Restore {
        fn drop(&mut self) {
            thread(|t| {
                t.outside.set(t.outside.get() - 1);
                t.aim.set(self.0);
            });
        }
    }
    let _restore = thread(|t| {
        t.outside.set(t.outside.get() + 1);
        Restore(t.aim.replace(std::ptr::null()))
    });
    f()
}

/// A cell that handlers of all requests share; its contents live in the shared heap.
///
/// ```
/// use transom_arena::Shared;
/// static VISITS: Shared<u64> = Shared::new(0);
/// let now = VISITS.with(|visits| { *visits += 1; *visits })?;
/// # assert_eq!(now, 1);
/// # Ok::<(), transom_arena::Poisoned>(())
/// ```
///
/// * Inside [`with`](Shared::with), allocations come from the shared heap: clone what you store *inside* the closure
///   (`with(|map| map.insert(key.to_owned(), n))`), or the bucket that owns it is pinned.
/// * What you return from the closure should own no shared memory: an escape later in the request would leak it.
/// * A request that ends inside the closure in any other way than by returning (panic, exhaustion) poisons the cell, and
///   unlocks it. Every later use says [`Poisoned`], until [`restore`](Shared::restore) puts a fresh value in.
pub struct Shared<T: 'static> {
    lock: Lock,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached only under the lock, by one thread at a time.
unsafe impl<T: Send> Sync for Shared<T> {}
// SAFETY: moving the cell moves the value; the lock is not tied to a thread while it is free, and it is free when the cell
// can be moved.
unsafe impl<T: Send> Send for Shared<T> {}

/// The part of a cell that a cleanup needs, whatever its type.
struct Lock {
    mutex: RawMutex,
    poisoned: AtomicBool,
    /// The holder's thread, to turn a self-deadlock into a panic. Zero: none.
    holder: AtomicUsize,
}

/// The cell was locked by a request that did not return; its value may be half-updated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "shared state is poisoned: an earlier request ended (panicked or ran out of memory) while it was changing it"
)]
pub struct Poisoned;

impl<T: 'static> Shared<T> {
    /// A cell. What `value` owns already stays where it is; what it allocates from now on is shared memory.
    #[must_use]
    pub const fn new(value: T) -> Self {
        Shared {
            lock: Lock {
                mutex: RawMutex::INIT,
                poisoned: AtomicBool::new(false),
                holder: AtomicUsize::new(0),
            },
            value: UnsafeCell::new(value),
        }
    }

    /// Locks, runs `f` on the value with allocations aimed at the shared heap, unlocks.
    ///
    /// # Errors
    /// [`Poisoned`].
    ///
    /// # Panics
    /// If this thread holds the cell already.
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> Result<R, Poisoned> {
        self.lock.locked(Access::Write, || {
            // SAFETY: locked; nobody else has a reference to the value.
            outside(|| f(unsafe { &mut *self.value.get() }))
        })
    }

    /// Locks and runs `f` on the value for reading; allocations stay in the bucket, so clones are the request's own.
    ///
    /// A request that outgrows its arena in here does not poison the cell: nothing was being changed.
    ///
    /// # Errors
    /// [`Poisoned`].
    ///
    /// # Panics
    /// If this thread holds the cell already.
    pub fn read<R>(&self, f: impl FnOnce(&T) -> R) -> Result<R, Poisoned> {
        self.lock.locked(Access::Read, || {
            // SAFETY: locked; nobody else has a reference to the value.
            f(unsafe { &*self.value.get() })
        })
    }

    /// Whether an earlier request left the cell poisoned.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.lock.poisoned.load(Ordering::Acquire)
    }

    /// Puts a fresh value in and clears the poison. The old value is not dropped, because it may be half-updated: what it
    /// owned in the shared heap stays allocated.
    pub fn restore(&self, make: impl FnOnce() -> T) {
        let fresh = outside(make);
        recovery::ensure_stack(STACK_MARGIN + size_of::<T>());
        self.lock.acquire();
        // SAFETY: locked; writing over the old value without reading it is always allowed.
        unsafe { self.value.get().write(fresh) };
        self.lock.poisoned.store(false, Ordering::Release);
        // SAFETY: acquired above by this thread.
        unsafe { self.lock.release() };
    }
}

impl<T> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("poisoned", &self.is_poisoned())
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

/// Registered while a cell is locked inside a request.
#[repr(C)]
struct Held {
    node: Node,
    lock: *const Lock,
    access: Access,
}

impl Held {
    /// # Safety
    /// `node` is the first field of a valid `Held` whose lock this thread holds and will not release itself.
    unsafe fn run(node: NonNull<Node>, way_out: WayOut) {
        // SAFETY: by the caller's promise.
        let held = unsafe { node.cast::<Held>().as_ref() };
        if bound().is_some_and(|bucket| bucket.contains(held.lock as usize)) {
            // A cell on the request's own stack or in its arena is gone with the request, and nobody else knew it.
            return;
        }
        // SAFETY: the cell lies outside the request, whose borrow of it has not ended by returning: it still lives.
        unsafe { (*held.lock).leave(held.access, way_out) };
    }
}

impl Lock {
    fn locked<R>(&self, access: Access, f: impl FnOnce() -> R) -> Result<R, Poisoned> {
        struct Guard<'l> {
            lock: &'l Lock,
            access: Access,
            held: Option<NonNull<Held>>,
            returned: bool,
        }
        impl Drop for Guard<'_> {
            fn drop(&mut self) {
                if let (Some(held), Some(bucket)) = (self.held, bound()) {
                    bucket.withdraw_cleanup(held);
                }
                let way_out = if self.returned {
                    WayOut::Returned
                } else {
                    WayOut::Unwound
                };
                // SAFETY: acquired below by this thread, and the cleanup that would release it is withdrawn.
                unsafe { self.lock.leave(self.access, way_out) };
            }
        }
        recovery::ensure_stack(STACK_MARGIN);
        let held = bound().map(|bucket| {
            bucket.cleanup_block(Held {
                node: Node::new(Held::run),
                lock: self,
                access,
            })
        });
        self.acquire();
        let mut guard = Guard {
            lock: self,
            access,
            held,
            returned: false,
        };
        if let (Some(held), Some(bucket)) = (held, bound()) {
            // SAFETY: the block lies in the arena until the request's end and was not registered before.
            unsafe { bucket.push_cleanup(held.cast()) };
        }
        if self.poisoned.load(Ordering::Acquire) {
            guard.access = Access::Read;
            guard.returned = true;
            return Err(Poisoned);
        }
        let result = f();
        guard.returned = true;
        Ok(result)
    }

    fn acquire(&self) {
        let me = thread(|t| std::ptr::from_ref(t) as usize);
        assert!(
            self.holder.load(Ordering::Relaxed) != me,
            "this request holds the Shared already: locking it again would wait for itself for ever"
        );
        self.mutex.lock();
        self.holder.store(me, Ordering::Relaxed);
    }

    /// # Safety
    /// This thread holds the lock.
    unsafe fn release(&self) {
        self.holder.store(0, Ordering::Relaxed);
        // SAFETY: held, by the caller's promise.
        unsafe { self.mutex.unlock() };
    }

    /// # Safety
    /// This thread holds the lock.
    unsafe fn leave(&self, access: Access, way_out: WayOut) {
        let poisons = match (access, way_out) {
            (_, WayOut::Returned) => false,
            (Access::Write, _) | (Access::Read, WayOut::ExhaustedStack) => true,
            (Access::Read, WayOut::Unwound | WayOut::ExhaustedArena) => false,
        };
        if poisons {
            self.poisoned.store(true, Ordering::Release);
        }
        // SAFETY: held, by the caller's promise.
        unsafe { self.release() };
    }
}
