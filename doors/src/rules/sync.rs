//! The atomics and the fence that every rule of this crate is written with.
//!
//! Exists so that the model checker runs the very functions that production runs: under
//! `--cfg loom` the same names come from `loom`, which explores their interleavings and
//! weak orderings. It knows nothing of slots, threads or channels.

#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering, fence};

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering, fence};

/// Stands between two `SeqCst` accesses of a thread, to different words, whose order another thread relies
/// on. In production it is nothing: all `SeqCst` accesses have one order, which is that of the program. The
/// model checker treats them as acquire and release (so its manual says) and is given a fence. One in
/// production would cost some 10 ns.
#[inline(always)]
pub fn in_order() {
    #[cfg(loom)]
    fence(Ordering::SeqCst);
}

/// A value alone on its cache line, so that writers of neighbours do not disturb it.
///
/// 64 bytes is the line of every x86-64 and of nearly every AArch64 server CPU.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Line<T>(pub T);
