//! The frame of a connection: the client's address. The connection itself travels beside it, as a descriptor.

use std::net::SocketAddr;

use super::peer::{address_at, decode_peer, encode_peer};
use super::{FrameError, VERSION, header, u16_at};

const KIND: u8 = b'C';

/// Bytes of a connection's frame, all of it header.
pub const CONNECTION_LEN: usize = 24;

/// Writes a connection's frame; it is [`CONNECTION_LEN`] bytes long. Flow label and scope of IPv6 are not
/// kept.
///
/// # Panics
/// If `out` is shorter: the caller's bug.
pub fn encode_connection(out: &mut [u8], peer: Option<SocketAddr>) {
    let (kind, port, address) = encode_peer(peer);
    let [low, high] = port.to_le_bytes();
    out[..8].copy_from_slice(&[KIND, VERSION, kind, 0, low, high, 0, 0]);
    out[8..CONNECTION_LEN].copy_from_slice(&address);
}

/// Reads a connection's frame: its peer, `None` for a Unix socket.
///
/// # Errors
/// The first thing that is wrong with the bytes.
pub fn decode_connection(bytes: &[u8]) -> Result<Option<SocketAddr>, FrameError> {
    let header = header::<CONNECTION_LEN>(bytes, KIND)?;
    if header[3] != 0 || header[6..8] != [0, 0] {
        return Err(FrameError::Header);
    }
    if bytes.len() != CONNECTION_LEN {
        return Err(FrameError::Length);
    }
    decode_peer(header[2], u16_at(header, 4), address_at(header, 8))
}
