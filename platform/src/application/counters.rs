//! What an application counts itself.

use std::sync::atomic::AtomicU64;

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) calls: AtomicU64,
    pub(super) exhausted_arena: AtomicU64,
    pub(super) exhausted_stack: AtomicU64,
    pub(super) exhausted_shared_heap: AtomicU64,
    pub(super) panicked: AtomicU64,
    pub(super) largest_refused: AtomicU64,
    pub(super) threads_refused: AtomicU64,
    /// When a thread was refused last; 0: never, or one has been started since.
    pub(super) refused_ns: AtomicU64,
    /// When the log last said so.
    pub(super) said_ns: AtomicU64,
}
