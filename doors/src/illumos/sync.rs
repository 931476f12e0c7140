//! On illumos, what the shared files need of `crate::sync`. There is no futex here, and nobody needs one.

pub use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// See the Linux twin.
#[inline(always)]
pub fn in_order() {}

/// A value alone on its cache line, so that writers of neighbours do not disturb it.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Line<T>(pub T);
