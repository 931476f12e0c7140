//! [`try_reserve`]: room for more, if the bucket has it, and an error if not.
//!
//! The collections' own `try_reserve` does not fail where this one does: a global allocator is not told
//! whether it may refuse, so it serves what does not fit from the overdraft, and the request's answer is then
//! a 500.

use std::alloc::Layout;
use std::collections::{BinaryHeap, HashMap, HashSet, TryReserveError, VecDeque};
use std::hash::{BuildHasher, Hash};
use transom_arena::refusing_or_noting;

/// What can grow by so many elements at once, or say that it cannot.
pub trait TryReserve {
    /// The collection's own `try_reserve`.
    ///
    /// # Errors
    /// When there is no memory.
    fn try_reserve(&mut self, additional: usize) -> Result<(), TryReserveError>;

    /// The least size and alignment of the blocks that it can do without. All others that it asks for
    /// meanwhile are ordinary ones: a key's `Hash` runs where a table moves, and may allocate.
    fn least_block(&self, additional: usize) -> Layout {
        let _ = additional;
        ANY
    }
}

/// Every block.
pub(crate) const ANY: Layout = Layout::new::<()>();

/// The table of so many entries has at least their bytes, one more for each, and the alignment of what
/// hashbrown looks at in one step.
fn table_of<T>(len: usize, additional: usize) -> Layout {
    let group = if cfg!(target_feature = "sse2") { 16 } else { 8 };
    let entries = len.saturating_add(additional);
    let size = entries.saturating_mul(size_of::<T>() + 1);
    // What is too much for one block is refused before a key is looked at.
    Layout::from_size_align(size, group.max(align_of::<T>())).unwrap_or(ANY)
}

/// Makes room for `additional` more elements (bytes, of a `String`) in the bucket's arena, or inside
/// [`Shared::with`](crate::Shared::with) in the shared heap. Nothing is drawn from the overdraft: where it
/// does not fit, the collection stays as it is, and the request goes on. (What the keys of a map or set
/// allocate in their `Hash` is not asked for in this way: if that does not fit, the answer is a 500.)
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
    let least = collection.least_block(additional);
    refusing_or_noting(least, || collection.try_reserve(additional))
}

macro_rules! can_reserve {
    ($([$($parameters:tt)*] $collection:ty $(, of $entry:ty)?);* $(;)?) => {$(
        impl<$($parameters)*> TryReserve for $collection {
            fn try_reserve(&mut self, additional: usize) -> Result<(), TryReserveError> {
                self.try_reserve(additional)
            }

            $(fn least_block(&self, additional: usize) -> Layout {
                table_of::<$entry>(self.len(), additional)
            })?
        }
    )*};
}

can_reserve!(
    [T] Vec<T>;
    [] String;
    [T] VecDeque<T>;
    [T: Ord] BinaryHeap<T>;
    [K: Eq + Hash, V, S: BuildHasher] HashMap<K, V, S>, of (K, V);
    [T: Eq + Hash, S: BuildHasher] HashSet<T, S>, of T;
);
