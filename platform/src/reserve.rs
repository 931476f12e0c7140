//! [`try_reserve`]: room for more, if the bucket has it, and an error if not.
//!
//! The collections' own `try_reserve` does not fail where this one does: a global allocator is not told
//! whether it may refuse, so it serves what does not fit from the overdraft, and the request's answer is then
//! a 500.

use std::collections::{BinaryHeap, HashMap, HashSet, TryReserveError, VecDeque};
use std::hash::{BuildHasher, Hash};
use transom_arena::refusing_or_noting;

/// What can grow by so many elements at once, or say that it cannot.
pub trait TryReserve {
    /// As [`try_reserve`]: with the collection's own `try_reserve`, inside [`refusing`](crate::refusing).
    ///
    /// # Errors
    /// When it does not fit.
    fn try_reserve(&mut self, additional: usize) -> Result<(), TryReserveError>;
}

/// Makes room for `additional` more elements (bytes, of a `String`) in the bucket's arena, or inside
/// [`Shared::with`](crate::Shared::with) in the shared heap. Nothing is drawn from the overdraft: where it
/// does not fit, the collection stays as it is, and the request goes on.
///
/// For a map or set it is asked first whether the table fits that it has when it grows, and then it grows as
/// always: what its keys allocate in their `Hash` may be drawn. So may a table that is twice as large, which
/// a map takes from which entries were removed; or one for which there was room in a shared heap a moment
/// ago. (Such a map may also be refused where it would have put its table in order in its place.)
///
/// ```
/// use transom_platform::{Failure, Request, try_reserve};
///
/// fn squares(request: &Request) -> Result<String, Failure> {
///     let n: usize = request.query_as("n")?.unwrap_or(10);
///     let mut squares = Vec::new();
///     try_reserve(&mut squares, n).map_err(|_| Failure::content_too_large("too many"))?;
///     squares.extend((0..n as u64).map(|n| n * n));
///     Ok(format!("{squares:?}"))
/// }
/// ```
///
/// # Errors
/// When it does not fit.
pub fn try_reserve(
    collection: &mut impl TryReserve,
    additional: usize,
) -> Result<(), TryReserveError> {
    collection.try_reserve(additional)
}

macro_rules! can_reserve {
    ($([$($parameters:tt)*] $collection:ty),* $(,)?) => {$(
        impl<$($parameters)*> TryReserve for $collection {
            fn try_reserve(&mut self, additional: usize) -> Result<(), TryReserveError> {
                refusing_or_noting(|| self.try_reserve(additional))
            }
        }
    )*};
}

can_reserve!(
    [T] Vec<T>,
    [] String,
    [T] VecDeque<T>,
    [T: Ord] BinaryHeap<T>,
);

/// A map runs its keys' `Hash` where it grows, which may allocate and cannot do without. So nothing is
/// refused then, and it is asked before whether there is room for the table.
macro_rules! can_reserve_a_table {
    ($([$($parameters:tt)*] $collection:ty, of $entry:ty);* $(;)?) => {$(
        impl<$($parameters)*> TryReserve for $collection {
            fn try_reserve(&mut self, additional: usize) -> Result<(), TryReserveError> {
                if additional > self.capacity() - self.len() {
                    look_for_table::<$entry>(self.len(), additional, self.capacity())?;
                }
                self.try_reserve(additional)
            }
        }
    )*};
}

can_reserve_a_table!(
    [K: Eq + Hash, V, S: BuildHasher] HashMap<K, V, S>, of (K, V);
    [T: Eq + Hash, S: BuildHasher] HashSet<T, S>, of T;
);

/// Whether there is room for the table that a map of so many entries, with room for so many, has when it
/// grows.
///
/// It is that of hashbrown, which the standard library has: a power of two of places, of which seven eighths
/// are used, a byte for each, and at most a cache line more. (A map from which much was removed may put its
/// table in order instead, or take a larger one: then there is room for it, or it is drawn from the
/// overdraft.)
fn look_for_table<T>(
    len: usize,
    additional: usize,
    capacity: usize,
) -> Result<(), TryReserveError> {
    const MORE: usize = 64;
    let entries = len
        .saturating_add(additional)
        .max(capacity.saturating_add(1));
    let places = match entries {
        0..4 => Some(4),
        4..8 => Some(8),
        8.. => (entries.saturating_mul(8) / 7).checked_next_power_of_two(),
    };
    let bytes = places.and_then(|places| places.checked_mul(size_of::<T>() + 1));
    let bytes = bytes
        .unwrap_or(usize::MAX)
        .saturating_add(MORE + align_of::<T>());
    refusing_or_noting(|| Vec::<u8>::new().try_reserve_exact(bytes))
}
