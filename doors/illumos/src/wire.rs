//! What stands before a request and after a reply on their way through a native door.
//!
//! A native call carries bytes and nothing else. The words that a channel keeps in its headers travel with
//! them here: the deadline before the request, how the call ended after the reply. It comes after, so that
//! the reply itself can land at the start of the caller's own buffer.
//!
//! Numbers are in the machine's order: a door does not leave the machine.

use transom_doors::{ChannelGeometry, Limits, Status};

/// Bytes before a request.
pub const HEADER_LEN: usize = 32;
/// Bytes after a reply.
pub const TRAILER_LEN: usize = 16;
/// Bytes of the answer to a hello.
pub const HELLO_LEN: usize = 64;
/// The version of this protocol.
pub const VERSION: u16 = 1;

const MAGIC: u32 = u32::from_be_bytes(*b"TRNS");

/// A slot of a channel keeps what stands before a request, or after a reply, on a cache line of its own. That
/// is also what a channel's geometry counts for a slot's header, so the two fit into the same memory.
pub const STRIDE_EXTRA: usize = 64;
const _: () = assert!(HEADER_LEN <= STRIDE_EXTRA && TRAILER_LEN <= STRIDE_EXTRA);

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A call for the handler.
    Call,
    /// Tell the geometry.
    Hello,
}

/// What stands before a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub purpose: Purpose,
    /// `CLOCK_MONOTONIC`, nanoseconds; 0: none.
    pub deadline_ns: u64,
    /// The most bytes of reply that the caller has room for; 0: it takes what comes.
    pub reply_max: u64,
}

/// What stands after a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    pub version: u16,
    pub status: Status,
    /// Bytes of the reply before the trailer.
    pub len: usize,
}

/// Why a request is not one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotOurs;

impl Header {
    /// As bytes.
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let purpose: u16 = match self.purpose {
            Purpose::Call => 0,
            Purpose::Hello => 1,
        };
        let mut bytes = [0; HEADER_LEN];
        bytes[0..4].copy_from_slice(&MAGIC.to_ne_bytes());
        bytes[4..6].copy_from_slice(&VERSION.to_ne_bytes());
        bytes[6..8].copy_from_slice(&purpose.to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.deadline_ns.to_ne_bytes());
        bytes[16..24].copy_from_slice(&self.reply_max.to_ne_bytes());
        bytes
    }

    /// The header at the start of `data`, and how many bytes of request follow it.
    pub fn decode(data: &[u8]) -> Result<(Self, usize), NotOurs> {
        let (bytes, request) = data.split_first_chunk::<HEADER_LEN>().ok_or(NotOurs)?;
        let purpose = match u16_at(bytes, 6) {
            0 => Purpose::Call,
            1 => Purpose::Hello,
            _ => return Err(NotOurs),
        };
        if u32_at(bytes, 0) != MAGIC || u16_at(bytes, 4) != VERSION {
            return Err(NotOurs);
        }
        let header = Self {
            purpose,
            deadline_ns: u64_at(bytes, 8),
            reply_max: u64_at(bytes, 16),
        };
        Ok((header, request.len()))
    }
}

impl Trailer {
    /// Our own.
    pub fn new(status: Status, len: usize) -> Self {
        Self {
            version: VERSION,
            status,
            len,
        }
    }

    /// As bytes. The length is at most 2 GiB: a geometry ensures that.
    pub fn encode(self) -> [u8; TRAILER_LEN] {
        let mut bytes = [0; TRAILER_LEN];
        bytes[0..4].copy_from_slice(&MAGIC.to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.version.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.status.0.to_ne_bytes());
        bytes[12..16].copy_from_slice(&(self.len as u32).to_ne_bytes());
        bytes
    }

    /// The trailer at the end of a reply of `data_size` bytes, if it is one and tells the length that came.
    pub fn decode(bytes: &[u8; TRAILER_LEN], data_size: usize) -> Option<Self> {
        let len = u32_at(bytes, 12) as usize;
        let fits = len.checked_add(TRAILER_LEN) == Some(data_size);
        (u32_at(bytes, 0) == MAGIC && fits).then(|| Self {
            version: u16_at(bytes, 4),
            status: Status(u32_at(bytes, 8)),
            len,
        })
    }
}

/// The answer to a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    pub geometry: ChannelGeometry,
    pub limits: Limits,
    /// The server's effective user and group, as it says: the kernel tells its process only.
    pub uid: u32,
    pub gid: u32,
}

impl Hello {
    /// As bytes.
    pub fn encode(self) -> [u8; HELLO_LEN] {
        let numbers = [
            u64::from(self.geometry.slots),
            self.geometry.request_size as u64,
            self.geometry.reply_size as u64,
            self.limits.data_min as u64,
            self.limits.data_max as u64,
            u64::from(self.limits.descriptors_max),
            u64::from(self.uid),
            u64::from(self.gid),
        ];
        let mut bytes = [0; HELLO_LEN];
        for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_ne_bytes());
        }
        bytes
    }

    /// From bytes; what they say is still to be checked.
    pub fn decode(bytes: &[u8; HELLO_LEN]) -> Option<Self> {
        Some(Self {
            geometry: ChannelGeometry {
                slots: u32::try_from(u64_at(bytes, 0)).ok()?,
                spares: 0,
                request_size: u64_at(bytes, 8) as usize,
                reply_size: u64_at(bytes, 16) as usize,
            },
            limits: Limits {
                data_min: u64_at(bytes, 24) as usize,
                data_max: u64_at(bytes, 32) as usize,
                descriptors_max: u32::try_from(u64_at(bytes, 40)).ok()?,
            },
            uid: u32::try_from(u64_at(bytes, 48)).ok()?,
            gid: u32::try_from(u64_at(bytes, 56)).ok()?,
        })
    }
}

/// Bytes that a request of `len` has on its way; `None` if that is no number.
pub fn request_size(len: usize) -> Option<usize> {
    len.checked_add(HEADER_LEN)
}

/// The limit that the system is to be told for a request of at most (or at least) `len` bytes.
pub fn request_limit(len: usize) -> usize {
    len.saturating_add(HEADER_LEN)
}

/// How much of a request the system's limit leaves.
pub fn request_room(limit: usize) -> usize {
    limit.saturating_sub(HEADER_LEN)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_ne_bytes(number)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_the_way() {
        for purpose in [Purpose::Call, Purpose::Hello] {
            let header = Header {
                purpose,
                deadline_ns: u64::MAX - 1,
                reply_max: 1 << 40,
            };
            let mut data = header.encode().to_vec();
            assert_eq!(Header::decode(&data), Ok((header, 0)));
            data.extend_from_slice(b"request");
            assert_eq!(Header::decode(&data), Ok((header, 7)));
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let good = Header {
            purpose: Purpose::Call,
            deadline_ns: 0,
            reply_max: 0,
        }
        .encode();
        for len in 0..HEADER_LEN {
            assert_eq!(Header::decode(&good[..len]), Err(NotOurs), "{len} bytes");
        }
        // Magic, version and purpose: any other bit in them is another protocol.
        for byte in 0..8 {
            let mut bad = good;
            bad[byte] ^= 0x80;
            assert_eq!(Header::decode(&bad), Err(NotOurs), "byte {byte}");
        }
    }

    #[test]
    fn a_trailer_must_tell_the_length_that_came() {
        let trailer = Trailer::new(Status(77), 1000);
        let bytes = trailer.encode();
        assert_eq!(Trailer::decode(&bytes, 1016), Some(trailer));
        for size in [0, 16, 1000, 1015, 1017, usize::MAX] {
            assert_eq!(Trailer::decode(&bytes, size), None, "{size} bytes");
        }
        let mut bad = bytes;
        bad[0] ^= 1;
        assert_eq!(Trailer::decode(&bad, 1016), None);
    }

    #[test]
    fn a_hello_survives_the_way() {
        let hello = Hello {
            geometry: ChannelGeometry {
                slots: 64,
                spares: 0,
                request_size: 16 << 10,
                reply_size: 64 << 10,
            },
            limits: Limits {
                data_min: 3,
                data_max: 16 << 10,
                descriptors_max: 2,
            },
            uid: 7,
            gid: u32::MAX,
        };
        assert_eq!(Hello::decode(&hello.encode()), Some(hello));
        let mut bytes = hello.encode();
        bytes[0..8].copy_from_slice(&u64::MAX.to_ne_bytes());
        assert_eq!(Hello::decode(&bytes), None);
    }

    #[test]
    fn limits_do_not_wrap() {
        assert_eq!(request_limit(usize::MAX), usize::MAX);
        assert_eq!(request_size(usize::MAX), None);
        assert_eq!(request_room(request_limit(4096)), 4096);
        assert_eq!(request_room(0), 0);
    }

    #[test]
    fn slots_with_header_and_trailer_fit_a_channels_memory() {
        for slots in [1, 63, 64, 65, 4096] {
            let geometry = ChannelGeometry {
                slots,
                spares: 0,
                request_size: 4096,
                reply_size: 8192,
            };
            let slots = slots as usize;
            assert!(slots * (STRIDE_EXTRA + geometry.request_size) <= geometry.requests_len());
            assert!(slots * (STRIDE_EXTRA + geometry.reply_size) <= geometry.replies_len());
        }
    }
}
