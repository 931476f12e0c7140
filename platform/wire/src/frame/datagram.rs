//! The frames of a datagram and of its answer: written by the front end and the application, read by the
//! other.

use std::net::SocketAddr;

use super::peer::{address_at, decode_peer, encode_peer};
use super::{FrameError, VERSION, header, u16_at, u32_at};

const DATAGRAM: u8 = b'D';
const ANSWER: u8 = b'A';

/// Bytes before a datagram's own.
pub const DATAGRAM_HEADER_LEN: usize = 24;

/// Bytes before an answer's own.
pub const ANSWER_HEADER_LEN: usize = 8;

/// The most bytes that a datagram has: what UDP over IPv4 carries.
pub const DATAGRAM_MAX: usize = 65_507;

/// Writes the header of a datagram whose `len` bytes lie (or will lie) behind it, at [`DATAGRAM_HEADER_LEN`].
/// Flow label and scope of IPv6 are not kept.
///
/// # Panics
/// If `out` is shorter than the header, or the datagram longer than [`DATAGRAM_MAX`]: the caller's bugs.
pub fn encode_datagram(out: &mut [u8], peer: Option<SocketAddr>, len: usize) {
    assert!(len <= DATAGRAM_MAX, "a datagram of {len} bytes");
    let (kind, port, address) = encode_peer(peer);
    let ([port_low, port_high], [low, high]) = (port.to_le_bytes(), (len as u16).to_le_bytes());
    out[..8].copy_from_slice(&[DATAGRAM, VERSION, kind, 0, port_low, port_high, low, high]);
    out[8..DATAGRAM_HEADER_LEN].copy_from_slice(&address);
}

/// A datagram as it lies in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawDatagram<'a> {
    /// The sender; `None` for a Unix socket.
    pub peer: Option<SocketAddr>,
    /// What was sent; possibly nothing.
    pub bytes: &'a [u8],
}

/// Reads a datagram from a slot's bytes, which must end where it ends.
///
/// # Errors
/// The first thing that is wrong with the bytes.
pub fn decode_datagram(bytes: &[u8]) -> Result<RawDatagram<'_>, FrameError> {
    let header = header::<DATAGRAM_HEADER_LEN>(bytes, DATAGRAM)?;
    if header[3] != 0 {
        return Err(FrameError::Header);
    }
    let peer = decode_peer(header[2], u16_at(header, 4), address_at(header, 8))?;
    let payload = &bytes[DATAGRAM_HEADER_LEN..];
    if payload.len() > DATAGRAM_MAX || payload.len() != usize::from(u16_at(header, 6)) {
        return Err(FrameError::Length);
    }
    Ok(RawDatagram {
        peer,
        bytes: payload,
    })
}

/// Writes the header of an answer: `None` for none at all, else of so many bytes, which lie (or will lie)
/// behind it, at [`ANSWER_HEADER_LEN`]. Gives the frame's length.
///
/// # Panics
/// If `out` is shorter than the header, or the answer longer than [`DATAGRAM_MAX`]: the caller's bugs.
pub fn encode_answer(out: &mut [u8], len: Option<usize>) -> usize {
    let bytes = len.unwrap_or(0);
    assert!(bytes <= DATAGRAM_MAX, "an answer of {bytes} bytes");
    out[..4].copy_from_slice(&[ANSWER, VERSION, u8::from(len.is_some()), 0]);
    out[4..ANSWER_HEADER_LEN].copy_from_slice(&(bytes as u32).to_le_bytes());
    ANSWER_HEADER_LEN + bytes
}

/// Reads an answer from a slot's bytes, which must end where it ends: `None` if there is none to be sent.
///
/// # Errors
/// The first thing that is wrong with the bytes.
pub fn decode_answer(bytes: &[u8]) -> Result<Option<&[u8]>, FrameError> {
    let header = header::<ANSWER_HEADER_LEN>(bytes, ANSWER)?;
    if header[2] > 1 || header[3] != 0 {
        return Err(FrameError::Header);
    }
    let answer = &bytes[ANSWER_HEADER_LEN..];
    if answer.len() > DATAGRAM_MAX || answer.len() != u32_at(header, 4) as usize {
        return Err(FrameError::Length);
    }
    match (header[2], answer.is_empty()) {
        (1, _) => Ok(Some(answer)),
        (_, true) => Ok(None),
        (_, false) => Err(FrameError::Header),
    }
}
