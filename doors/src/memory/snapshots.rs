//! Private copies of requests that come from other processes: one place for each door server thread.
//!
//! The bytes that a handler sees must not change meanwhile. In illumos they lie on the server thread's stack;
//! here each thread has a place of a slot's size, there from the start.

use std::io;
use std::ptr::NonNull;

use memmap2::{MmapOptions, MmapRaw};

use crate::values::channel_memory::ChannelMemory;
use crate::values::error::BuildError;

/// `threads` places of `size` bytes.
#[derive(Debug)]
pub struct Snapshots {
    base: NonNull<u8>,
    size: usize,
    threads: u32,
    /// Keeps what `base` points to, unless that was handed over for ever.
    _memory: Option<MmapRaw>,
}

// SAFETY: only pointers to distinct places are given out, one to each thread; the memory lives as long as the
// value.
unsafe impl Send for Snapshots {}
// SAFETY: as above.
unsafe impl Sync for Snapshots {}

impl Snapshots {
    /// In `given`, or in memory of its own.
    pub fn new(
        given: Option<ChannelMemory>,
        threads: u32,
        size: usize,
    ) -> Result<Self, BuildError> {
        let needed = threads as usize * size;
        let (base, memory) = match given {
            Some(given) if given.bytes().len() < needed => {
                return Err(BuildError::Snapshots {
                    needed,
                    given: given.bytes().len(),
                });
            }
            Some(given) => (given.bytes().cast(), None),
            None => {
                let memory: MmapRaw = MmapOptions::new()
                    .len(needed)
                    .map_anon()
                    .map_err(BuildError::Memory)?
                    .into();
                let base = NonNull::new(memory.as_mut_ptr())
                    .ok_or_else(|| BuildError::Memory(io::ErrorKind::OutOfMemory.into()))?;
                (base, Some(memory))
            }
        };
        Ok(Self {
            base,
            size,
            threads,
            _memory: memory,
        })
    }

    /// Thread `thread`'s place.
    pub fn of(&self, thread: u32) -> NonNull<u8> {
        assert!(thread < self.threads);
        // SAFETY: inside the memory, because thread < threads.
        unsafe { self.base.add(thread as usize * self.size) }
    }
}
