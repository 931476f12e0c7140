//! The memory of a channel, as it is handed over.

use std::ptr::NonNull;

use crate::values::error::ChannelError;
use crate::values::geometry::{ChannelGeometry, PAGE};

/// Raw memory handed over to a channel for ever. Having one says that nothing else will ever touch
/// these bytes.
#[derive(Debug)]
pub struct ChannelMemory {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: by the contract of `new` the memory is owned by this value alone, like a `Box<[u8]>` that
// is never freed.
unsafe impl Send for ChannelMemory {}

impl ChannelMemory {
    /// Hands over `len` bytes at `base`.
    ///
    /// # Safety
    /// The bytes are mapped readable and writable and zeroed, start on a page, and stay mapped
    /// until the process ends. After this call nothing but the channel built from the value reads
    /// or writes them.
    pub unsafe fn new(base: NonNull<u8>, len: usize) -> Self {
        Self { base, len }
    }

    /// The bytes.
    pub fn bytes(&self) -> NonNull<[u8]> {
        NonNull::slice_from_raw_parts(self.base, self.len)
    }

    /// Whether a channel of this geometry fits. Returns its first byte.
    ///
    /// # Errors
    /// The geometry is refused, or the memory is too short for it or does not start on a page.
    pub fn check(&self, geometry: ChannelGeometry) -> Result<NonNull<u8>, ChannelError> {
        geometry.check()?;
        let (needed, given) = (geometry.memory_len(), self.len);
        if given < needed {
            return Err(ChannelError::MemoryTooShort { needed, given });
        }
        let address = self.base.addr().get();
        if !address.is_multiple_of(PAGE) {
            return Err(ChannelError::Unaligned { address });
        }
        Ok(self.base)
    }
}
