//! Where the bytes of a caller's slots lie.

use crate::wire::{HEADER_LEN, STRIDE_EXTRA};
use std::io;
use std::ptr::{self, NonNull};
use transom_doors::{ChannelGeometry, ChannelMemory};

/// Where the slots' bytes lie.
#[derive(Debug)]
pub struct Memory {
    pub geometry: ChannelGeometry,
    base: NonNull<u8>,
    /// Bytes to unmap at the end; 0 for memory that was handed over for ever.
    mapped: usize,
}

// SAFETY: plain addresses of memory that lives as long as the value; the lock decides which thread touches
// which slot.
unsafe impl Send for Memory {}
// SAFETY: as for Send; a shared reference gives out addresses only.
unsafe impl Sync for Memory {}

impl Memory {
    /// Fresh memory for a channel of this geometry.
    pub fn map(geometry: ChannelGeometry) -> io::Result<Self> {
        let mapped = geometry.memory_len();
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory that exists.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANON,
                -1,
                0,
            )
        };
        match NonNull::new(base.cast()) {
            Some(base) if base.as_ptr() != libc::MAP_FAILED.cast() => Ok(Self {
                geometry,
                base,
                mapped,
            }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Memory that was handed over; its owner has checked that it is as long as the geometry says.
    pub fn given(geometry: ChannelGeometry, memory: &ChannelMemory) -> Self {
        Self {
            geometry,
            base: memory.bytes().cast(),
            mapped: 0,
        }
    }

    /// Where the header of `slot` is; its request follows.
    pub fn message(&self, slot: u32) -> NonNull<u8> {
        let stride = STRIDE_EXTRA + self.geometry.request_size;
        let at = slot as usize * stride + STRIDE_EXTRA - HEADER_LEN;
        // SAFETY: the slots' strides fit the requests' part of the memory, which a test of `wire` holds.
        unsafe { self.base.add(at) }
    }

    pub fn request(&self, slot: u32) -> NonNull<u8> {
        // SAFETY: inside the slot's stride.
        unsafe { self.message(slot).add(HEADER_LEN) }
    }

    /// Where the reply of `slot` is; its trailer follows.
    pub fn reply(&self, slot: u32) -> NonNull<u8> {
        let at = self.geometry.requests_len() + slot as usize * self.reply_room();
        // SAFETY: as for `message`, in the replies' part, which comes after the requests'.
        unsafe { self.base.add(at) }
    }

    pub fn reply_room(&self) -> usize {
        self.geometry.reply_size + STRIDE_EXTRA
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.mapped != 0 {
            // SAFETY: the mapping is ours, and nothing has an address in it any more: clients and threads
            // keep this value.
            unsafe { libc::munmap(self.base.as_ptr().cast(), self.mapped) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slots_of_a_channel_do_not_overlap() {
        let geometry = ChannelGeometry {
            slots: 65,
            spares: 0,
            request_size: 4096,
            reply_size: 8192,
        };
        let memory = Memory::map(geometry).expect("memory");
        let start = memory.base.as_ptr() as usize;
        let mut end = start;
        for slot in 0..65 {
            assert!(memory.message(slot).as_ptr() as usize >= end);
            end = memory.request(slot).as_ptr() as usize + geometry.request_size;
        }
        assert!(end <= memory.reply(0).as_ptr() as usize);
        for slot in 0..65 {
            assert!(memory.reply(slot).as_ptr() as usize >= end);
            end = memory.reply(slot).as_ptr() as usize + memory.reply_room();
        }
        assert!(end <= start + geometry.memory_len());
    }
}
