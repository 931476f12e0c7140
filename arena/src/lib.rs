//! One region of memory, mapped at start and divided into buckets.
//!
//! A bucket is the place in which one request at a time lives: a stack, a bump arena, a reserve. The global
//! allocator of the program ([`TransomAllocator`]) gives a thread that is bound to a bucket memory of that
//! bucket only. What does not fit ends the request at its recovery point ([`Tenant::enter`]), and nothing
//! else.
//!
//! ```text
//! region   | guard | buckets …… | guard | other parts, from other terms of the bound …… | guard |
//! bucket   | guard | stack → (grows down) | guard | signal stack | arena ……………… | reserve |
//! ```
//!
//! This crate knows about memory and ways out. It knows nothing of HTTP, sockets or doors.

#[cfg(panic = "abort")]
compile_error!(
    "Transom needs `panic = \"unwind\"`: a panic in a handler is a 500, and not the end of the process. Remove `panic = \"abort\"` from the profile."
);

#[cfg(all(
    feature = "c-heap",
    not(all(target_os = "linux", target_env = "gnu", not(target_feature = "crt-static")))
))]
compile_error!(
    "the feature `c-heap` needs Linux with glibc, linked dynamically: its `malloc` falls through to `__libc_malloc`. Build with `default-features = false`; what C libraries allocate is then outside the bound."
);

mod allocator;
#[cfg(all(feature = "c-heap", not(miri)))]
mod blocked;
mod bound;
mod bucket;
mod bytes;
#[cfg(all(feature = "c-heap", not(miri)))]
mod c_heap;
mod cleanup;
mod events;
mod exhaustion;
#[cfg(not(miri))]
mod fork;
mod free_lists;
pub mod futex;
mod geometry;
mod granules;
mod heap;
mod index;
mod loaded;
mod mutex;
mod overdraft;
mod panic;
mod parking;
mod pool;
mod process_heap;
mod raw_mutex;
mod recovery;
mod region;
mod registered;
mod remote;
mod rwlock;
mod server_thread;
mod shared;
mod signal;
mod stack;
mod thread;

pub use allocator::TransomAllocator;
#[cfg(all(feature = "c-heap", not(miri)))]
pub use blocked::do_not_block_in_children;
pub use bound::{Bound, BoundError, MemoryLimit, PAGE, Place, Term, pages};
pub use bucket::{Bucket, BucketState, Buckets, BucketsError};
pub use bumpalo::Bump;
pub use bytes::{Bytes, ParseBytesError};
#[cfg(all(feature = "c-heap", not(miri)))]
pub use c_heap::{CHeapError, CHeapUsage, c_heap_usage, install_c_heap};
pub use cleanup::WayOut;
pub use exhaustion::{CRefusal, Exhaustion, Reason};
pub use geometry::{BUCKETS_MAX, BucketGeometry, GeometryError};
pub use heap::Wipe;
pub use loaded::statics;
pub use overdraft::{
    OverdraftError, OverdraftUsage, install_overdraft, overdraft_share, overdraft_usage,
};
pub use panic::{PanicNote, install_hook as install_panic_hook};
pub use process_heap::{
    attaching, attaching_allocations, count_attaching_apart, first_process_heap_allocation,
    forbid_process_heap, process_heap_allocations, seal, settle_process_heap,
};
pub use recovery::{
    Failed, Outcome, Pieces, Policy, Report, Tenant, Usage, current_bucket, current_largest_piece,
    current_room_to_grow, current_usage, defer, ensure_stack, exhausted, is_deferred, note_spare,
    parked, refusing, refusing_or_noting, stack_remaining,
};
pub use region::{Part, Region, RegionError, RegionOptions, guard_bytes, resident_bytes};
pub use registered::Registered;
pub use server_thread::ThreadMain;
pub use shared::{
    Shared, SharedError, SharedHeapError, install_shared_heap, outside, shared_heap_kept,
    shared_heap_refused, shared_heap_usage,
};
pub use signal::fault_signal_taken;
pub use stack::StackGauge;

/// The escape contract: what an application's author promises to [`Tenant::enter_escaping`].
///
/// Under [`Policy::Escape`] a request that outgrows its arena or its stack is left by a jump. The frames
/// between the failing allocation (or, for a stack overflow, *any* instruction) and the recovery point simply
/// cease to be: no destructor runs, no guard is released. That is sound only if for everything the handler
/// calls the five points below hold.
///
/// **Where they say "an allocation", in a handler that can overflow its stack they mean any call.** The jump
/// then comes from whatever function of the executable finds the stack full, and the standard library's are
/// in the executable too: a `println!` that finds it full leaves standard output locked for ever. So a
/// handler whose depth a client can choose prints nothing on the way down, and calls nothing there that locks
/// (`LazyLock`, `OnceLock`, channels, a logger). Or it bounds its depth.
///
/// 1. **No lock, borrow or scope is held across an allocation.** No `MutexGuard`, `RefMut`,
///    `std::thread::scope`, pinned future, or callback into a library that is in the middle of something.
///    [`Shared`] is made for this and is exempt. The standard library has such locks of its own:
///    `Backtrace::force_capture` (an `anyhow` error captures one, with `RUST_BACKTRACE=1`) and
///    `std::env::var` allocate while they hold one, and `std::env::set_var` waits for the latter.
///    `println!`, `eprintln!` and `dbg!` format under the lock of their stream: give them only what allocates
///    nothing to be formatted.
/// 2. **Nothing outside the bucket points into it.** No value of this request is in a `static`, a
///    thread-local, another thread, a channel. The bucket is reused at once.
/// 3. **Resources other than memory are owned by [`Registered`]**, or given up in [`defer`], or may leak:
///    descriptors, temporary files, child processes, what a C library has allocated. What is registered is
///    dropped after the jump, and must bear that between any two instructions at which the request can be
///    left.
/// 4. **No shared state is half-updated** at an allocation, except inside [`Shared::with`], which is
///    poisoned.
/// 5. **Only plain frames are crossed.** Frames with pending destructors are skipped, which Rust does not
///    define (RFC 2945 calls them not "plain old frames"); in practice, on the compilers this project is
///    tested with, they are deallocated without being run. C and Roc handlers have no destructors, so for
///    them this holds by itself.
///
/// Handlers that compute an answer from the request and `Shared` state, with ordinary `String`s and `Vec`s,
/// bound their depth, and call none of the functions named in 1, keep it without trying.
pub mod escape_contract {}
