//! A channel's words over raw memory: the only file that turns addresses into headers, bitmaps and
//! slots.
//!
//! Nothing here allocates, and nothing here keeps state. The memory of a [`Layout`] is as long as its
//! geometry says, was zeroed when it was made, and is there as long as the channel.

use std::ptr::{self, NonNull};
use std::slice;

use crate::rules::bitmap::Bitmap;
use crate::rules::futex::Futex;
use crate::rules::late::Late;
use crate::rules::sync::{AtomicU32, AtomicU64, Line, Ordering};
use crate::rules::turn::Turn;
use crate::rules::waiting::Waiting;
use crate::values::channel_memory::ChannelMemory;
use crate::values::error::ChannelError;
use crate::values::geometry::ChannelGeometry;

/// What the client says about the request in a slot.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct RequestHeader {
    /// Which use of the slot this is; never 0.
    pub generation: AtomicU32,
    /// Bytes of the request.
    pub len: AtomicU32,
    /// [`SYNC`], and the number of descriptors that go along.
    pub flags: AtomicU32,
    /// The [`Cpu`](crate::pool::spin::Cpu) that the client ran on; a hint.
    pub cpu: AtomicU32,
    /// `CLOCK_MONOTONIC`, nanoseconds; 0: none.
    pub deadline_ns: AtomicU64,
}

/// A request's flag: the caller waits on the slot's turn word.
pub const SYNC: u32 = 1;
/// Where the number of descriptors begins in a request's flags.
pub const DESCRIPTORS_SHIFT: u32 = 8;

/// What the server says about the reply in a slot.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct ReplyHeader {
    /// The generation that a door server thread last claimed. Tells "never accepted" from "may have
    /// run".
    pub claim_generation: AtomicU32,
    /// The generation whose final reply is below. Written last.
    pub done_generation: AtomicU32,
    /// Bytes of the reply.
    pub len: AtomicU32,
    /// [`Status`](crate::Status) of a final reply.
    pub status: AtomicU32,
    /// The application's word for an interim reply.
    pub kind: AtomicU32,
    /// Descriptors that go along with a final reply.
    pub descriptors: AtomicU32,
    /// The [`Cpu`](crate::pool::spin::Cpu) that the server ran on, for a caller that waits; a hint.
    pub cpu: AtomicU32,
    /// 1 once the slot is lost with the call in it: threads of the server may use its bytes for ever. Written
    /// before `done_generation`, and never cleared, because the slot has no next call.
    pub lost: AtomicU32,
}

impl ReplyHeader {
    /// Client: whether this use of the slot has had its final reply.
    pub fn is_done(&self, generation: u32) -> bool {
        self.done_generation.load(Ordering::Acquire) == generation
    }

    /// Client, after `is_done`: whether the slot is lost with its call.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed) != 0
    }
}

// The layout is a protocol between processes: a change of these numbers is a change of its version.
const _: () = assert!(size_of::<RequestHeader>() == 64 && size_of::<ReplyHeader>() == 64);
const _: () = assert!(size_of::<Line<AtomicU64>>() == 64 && size_of::<Futex>() == 4);
const _: () = assert!(size_of::<Turn>() == 4);

/// A channel's memory, as typed places.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    geometry: ChannelGeometry,
    requests: NonNull<u8>,
    replies: NonNull<u8>,
    control: NonNull<u8>,
}

// SAFETY: everything shared is reached through atomics; the slots' bytes are given out as raw
// pointers, and the slot protocol decides which side may follow them (see `client` and `call`). The
// memory is mapped as long as the value is used.
unsafe impl Send for Layout {}
// SAFETY: as above.
unsafe impl Sync for Layout {}

impl Layout {
    /// Divides `memory`.
    pub fn new(geometry: ChannelGeometry, memory: &ChannelMemory) -> Result<Self, ChannelError> {
        let requests = memory.check(geometry)?;
        // SAFETY: the three lengths add up to `memory_len`, which is not more than the memory's
        // length, and the memory is handed over for ever.
        unsafe {
            let replies = requests.add(geometry.requests_len());
            let control = replies.add(geometry.replies_len());
            Ok(Self::of_parts(geometry, [requests, replies, control]))
        }
    }

    /// A channel whose requests, replies and control words lie in three places.
    ///
    /// # Safety
    /// The geometry was checked. Each part starts on a page, is as long as the geometry says, was zeroed when
    /// it was made, and stays mapped as long as the value is used. Our process writes the requests only as
    /// the client, the replies only as the server.
    pub unsafe fn of_parts(geometry: ChannelGeometry, parts: [NonNull<u8>; 3]) -> Self {
        let [requests, replies, control] = parts;
        Self {
            geometry,
            requests,
            replies,
            control,
        }
    }

    /// Its geometry.
    pub fn geometry(&self) -> ChannelGeometry {
        self.geometry
    }

    /// The header of the request in `slot`.
    pub fn request_header(&self, slot: u32) -> &RequestHeader {
        self.check_slot(slot);
        // SAFETY: the requests region starts with one header per slot; it is page-aligned, zero is
        // a valid header (the memory was zeroed), and both sides access its fields as atomics only.
        unsafe {
            self.requests
                .cast::<RequestHeader>()
                .add(slot as usize)
                .as_ref()
        }
    }

    /// The header of the reply in `slot`.
    pub fn reply_header(&self, slot: u32) -> &ReplyHeader {
        self.check_slot(slot);
        // SAFETY: as for `request_header`, in the replies region.
        unsafe {
            self.replies
                .cast::<ReplyHeader>()
                .add(slot as usize)
                .as_ref()
        }
    }

    /// The first of `request_size` bytes.
    pub fn request_bytes(&self, slot: u32) -> NonNull<u8> {
        self.check_slot(slot);
        let offset = self.geometry.headers_len() + slot as usize * self.geometry.request_size;
        // SAFETY: slot < slots_in_all, so the offset lies inside the requests region.
        unsafe { self.requests.add(offset) }
    }

    /// The first of `reply_size` bytes.
    pub fn reply_bytes(&self, slot: u32) -> NonNull<u8> {
        self.check_slot(slot);
        let offset = self.geometry.headers_len() + slot as usize * self.geometry.reply_size;
        // SAFETY: slot < slots_in_all, so the offset lies inside the replies region.
        unsafe { self.replies.add(offset) }
    }

    /// Makes the caches fetch what a server will read of a request: its header and its first bytes. They were
    /// last written by another CPU, and come while something else is done.
    pub fn prefetch_request(&self, slot: u32) {
        if slot < self.geometry.slots_in_all() {
            prefetch(ptr::from_ref(self.request_header(slot)).cast());
            prefetch(self.request_bytes(slot).as_ptr());
        }
    }

    /// The same of a reply, for the client.
    pub fn prefetch_reply(&self, slot: u32) {
        if slot < self.geometry.slots_in_all() {
            prefetch(ptr::from_ref(self.reply_header(slot)).cast());
            prefetch(self.reply_bytes(slot).as_ptr());
        }
    }

    /// The client's "I sleep" flag.
    pub fn waiting(&self) -> Waiting<'_> {
        // SAFETY: the control region starts with this line; zero is a valid atomic.
        let line = unsafe { self.control.cast::<Line<AtomicU32>>().as_ref() };
        Waiting::new(&line.0)
    }

    /// Submitted, unclaimed calls.
    pub fn submit(&self) -> Bitmap<'_> {
        Bitmap::new(self.words(1))
    }

    /// Replies that the client has not seen.
    pub fn complete(&self) -> Bitmap<'_> {
        Bitmap::new(self.words(1 + self.geometry.words()))
    }

    /// Replies that the server has not told of yet.
    pub fn late(&self) -> Late<'_> {
        Late::new(self.words(1 + 2 * self.geometry.words()))
    }

    /// The turn word of `slot`.
    pub fn turn(&self, slot: u32) -> &Turn {
        self.check_slot(slot);
        let lines = 1 + 3 * self.geometry.words();
        // SAFETY: the turn words follow the lines above, one per slot; `Turn` is a transparent
        // atomic u32.
        unsafe {
            let first = self
                .control
                .cast::<Line<AtomicU64>>()
                .add(lines)
                .cast::<Turn>();
            first.add(slot as usize).as_ref()
        }
    }

    fn words(&self, first_line: usize) -> &[Line<AtomicU64>] {
        // SAFETY: `control_len` counts one line, then three times `words` lines; zero is a valid
        // atomic.
        unsafe {
            let first = self.control.cast::<Line<AtomicU64>>().add(first_line);
            slice::from_raw_parts(first.as_ptr(), self.geometry.words())
        }
    }

    /// Slot numbers reach this file from bitmaps and from `SlotId`s; the bitmap's last word has
    /// bits beyond the last slot.
    fn check_slot(&self, slot: u32) {
        assert!(
            slot < self.geometry.slots_in_all(),
            "slot {slot} is not one of this channel's"
        );
    }
}

/// A hint to the caches.
#[inline]
fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing that the program sees, and does not fault.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{address}]", address = in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}
