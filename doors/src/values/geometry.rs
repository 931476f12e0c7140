//! How large a channel is, and how its memory is divided. Arithmetic only: no pointer is followed
//! here.
//!
//! A channel is three regions with one writer each, as far as possible, so that three sealed memfds
//! can take their places between processes:
//!
//! | region | written by | holds |
//! |---|---|---|
//! | requests | the client | one [`RequestHeader`](crate::memory::layout::RequestHeader) per slot, then the requests' bytes |
//! | replies | the server | one [`ReplyHeader`](crate::memory::layout::ReplyHeader) per slot, then the replies' bytes |
//! | control | both | `waiting` flag, submit words, complete words, turn words |
//!
//! An in-process channel has the three in one piece of memory, in this order. Every part starts on
//! a page.

use crate::rules::bitmap::BITS;
use crate::rules::sync::Line;

/// Slot sizes and the parts of a channel are multiples of this: the smallest page of the machines
/// we run on.
pub const PAGE: usize = 4096;
/// The most slots that calls can be in at once, and the most spare ones beside them: 64 words of 64 each, so
/// that a client's summary of touched words is one number of 128 bits.
pub const SLOTS_MAX: u32 = 4096;

const LINE: usize = size_of::<Line<u8>>();

/// A channel that cannot exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// Too few or too many slots.
    #[error("a channel has 1 to {SLOTS_MAX} slots, not {given}")]
    Slots {
        /// The number of slots that was asked for.
        given: u32,
    },
    /// Too many spare slots.
    #[error("a channel has at most {SLOTS_MAX} spare slots, not {given}")]
    Spares {
        /// The number of spare slots that was asked for.
        given: u32,
    },
    /// Not a multiple of the page size, zero, or more than 2 GiB.
    #[error(
        "the request size of a slot is a multiple of {PAGE} bytes, at least one and at most 2 GiB; {given} is not"
    )]
    RequestSize {
        /// The size that was asked for, in bytes.
        given: usize,
    },
    /// Not a multiple of the page size, zero, or more than 2 GiB.
    #[error(
        "the reply size of a slot is a multiple of {PAGE} bytes, at least one and at most 2 GiB; {given} is not"
    )]
    ReplySize {
        /// The size that was asked for, in bytes.
        given: usize,
    },
}

/// The size of one channel: how many slots, and how many bytes each has. Decided before start,
/// never changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelGeometry {
    /// Calls that can be on their way at once, 1 to [`SLOTS_MAX`].
    pub slots: u32,
    /// Slots beside these, at most [`SLOTS_MAX`]. A lost call keeps its slot for ever (see
    /// [`EmergencyReply`](crate::EmergencyReply)), and a spare one takes its place: so many calls can be lost
    /// in this channel before fewer than `slots` can be on their way.
    pub spares: u32,
    /// Bytes per slot for a request, a multiple of [`PAGE`].
    pub request_size: usize,
    /// Bytes per slot for a reply, a multiple of [`PAGE`].
    pub reply_size: usize,
}

impl ChannelGeometry {
    /// Refuses a geometry that no channel can have.
    ///
    /// # Errors
    /// The field that is wrong, and what it may be.
    pub fn check(&self) -> Result<(), GeometryError> {
        if !(1..=SLOTS_MAX).contains(&self.slots) {
            return Err(GeometryError::Slots { given: self.slots });
        }
        if self.spares > SLOTS_MAX {
            return Err(GeometryError::Spares { given: self.spares });
        }
        // Lengths travel in 32-bit words.
        let fits = |size: usize| size != 0 && size.is_multiple_of(PAGE) && size <= 1 << 31;
        if !fits(self.request_size) {
            return Err(GeometryError::RequestSize {
                given: self.request_size,
            });
        }
        if !fits(self.reply_size) {
            return Err(GeometryError::ReplySize {
                given: self.reply_size,
            });
        }
        Ok(())
    }

    /// All slots, with the spare ones: what tables beside the channel need a place for.
    pub fn slots_in_all(&self) -> u32 {
        self.slots + self.spares
    }

    /// Bytes that an in-process channel of this geometry needs: a multiple of [`PAGE`].
    pub fn memory_len(&self) -> usize {
        let mut sum = 0;
        sum += self.requests_len(); // written by the client
        sum += self.replies_len(); // written by the server
        sum += self.control_len(); // written by both
        sum
    }

    /// Bytes of the region that the client writes.
    pub fn requests_len(&self) -> usize {
        self.headers_len() + self.slots_in_all() as usize * self.request_size
    }

    /// Bytes of the region that the server writes.
    pub fn replies_len(&self) -> usize {
        self.headers_len() + self.slots_in_all() as usize * self.reply_size
    }

    /// Bytes of the region that both write.
    pub fn control_len(&self) -> usize {
        let mut sum = 0;
        sum += LINE; // waiting flag
        sum += self.words() * LINE; // submit words
        sum += self.words() * LINE; // complete words
        sum += self.words() * LINE; // late words
        sum += self.slots_in_all() as usize * size_of::<u32>(); // turn words
        sum.next_multiple_of(PAGE)
    }

    /// Bytes from the start of the requests (or replies) region to the first slot's bytes.
    pub(crate) fn headers_len(&self) -> usize {
        (self.slots_in_all() as usize * LINE).next_multiple_of(PAGE)
    }

    /// Words of each bitmap.
    pub(crate) fn words(&self) -> usize {
        self.slots_in_all().div_ceil(BITS) as usize
    }
}
