//! The memory that a loop works in, beside its table and its doorways.

use crate::options::{READ_SIZE, Sizes};
use crate::places::Places;
use crate::pool::BufferPool;
use std::mem::MaybeUninit;
use transom_arena::Part;
use transom_doors::{Completion, SlotId};

/// What all connections of a loop share, one after the other, or take for a while.
pub(crate) struct Memory {
    /// Of what was read and cannot be used yet.
    pub pool: BufferPool,
    /// For one read.
    pub read: &'static mut [u8],
    /// For one answer, or a path.
    pub write: &'static mut [u8],
    /// For answers that wait for the next one.
    pub places: Places,
    /// For the completions of one door.
    pub completions: Vec<(SlotId, Completion)>,
}

impl Memory {
    /// Of these parts; `slots` is the most of any client of a door.
    pub(crate) fn new(sizes: &Sizes, buffers: Part, scratch: Part, slots: usize) -> Self {
        let (read, rest) = scratch.into_slice().split_at_mut(READ_SIZE);
        let (write, places) = rest.split_at_mut(sizes.write_scratch());
        Memory {
            pool: BufferPool::new(buffers, sizes.partial_heads, sizes.head_limit),
            // A read that is larger than a buffer could not be kept.
            read: &mut read[..READ_SIZE.min(sizes.head_limit)],
            write,
            places: Places::new(places),
            completions: touched(slots + 1),
        }
    }
}

/// Room for so many, every page of which was written to: a queue that goes round would meet a new one now and
/// then for as long as its memory lasts.
pub(crate) fn touched<T>(capacity: usize) -> Vec<T> {
    let mut room = Vec::with_capacity(capacity);
    // Unless it were hidden, the compiler could ask for zeroes instead, which the system gives without a
    // write.
    std::hint::black_box(&mut room)
        .spare_capacity_mut()
        .fill_with(MaybeUninit::zeroed);
    room
}
