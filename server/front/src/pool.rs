//! Buffers for what has been read and cannot be used yet.

use std::ptr::NonNull;
use transom_arena::Part;

/// Buffers of one size for what has been read and cannot be used yet.
#[derive(Debug)]
pub(crate) struct BufferPool {
    base: NonNull<u8>,
    size: usize,
    free: Vec<u16>,
}

// SAFETY: the pool is the only handle on its part of the region, which lives for ever and is tied to no
// thread.
unsafe impl Send for BufferPool {}

impl BufferPool {
    /// `count` buffers of `size` bytes.
    ///
    /// # Panics
    /// If the part is too small: both come from the plan.
    pub(crate) fn new(part: Part, count: u16, size: usize) -> Self {
        assert!(part.len() >= usize::from(count) * size);
        BufferPool {
            base: part.base(),
            size,
            free: (0..count).rev().collect(),
        }
    }

    pub(crate) fn take(&mut self) -> Option<u16> {
        self.free.pop()
    }

    pub(crate) fn give_back(&mut self, buffer: u16) {
        self.free.push(buffer); // within the capacity it was made with
    }

    /// Where a buffer lies. Each has its own bytes, so one may be written while another is read.
    pub(crate) fn place(&self, buffer: u16) -> NonNull<[u8]> {
        // SAFETY: buffer < count, as only `take` gives them out, so the result lies in the part.
        let start = unsafe { self.base.add(usize::from(buffer) * self.size) };
        NonNull::slice_from_raw_parts(start, self.size)
    }

    pub(crate) fn bytes(&mut self, buffer: u16) -> &mut [u8] {
        // SAFETY: valid, initialised (zeroed by the kernel) and ours; `&mut self` keeps other borrows from
        // this function away, and the one that `parse_buffer` takes by `place` ends before this is called for
        // the same buffer.
        unsafe { self.place(buffer).as_mut() }
    }
}
