//! A client's address as every frame that comes from one carries it: a kind, a port, sixteen bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::FrameError;

/// Kind, port and address of a peer. Flow label and scope of IPv6 are not kept.
pub(super) fn encode_peer(peer: Option<SocketAddr>) -> (u8, u16, [u8; 16]) {
    let mut address = [0; 16];
    match peer.map(|peer| (peer.ip(), peer.port())) {
        None => (0, 0, address),
        Some((IpAddr::V4(ip), port)) => {
            address[..4].copy_from_slice(&ip.octets());
            (4, port, address)
        }
        Some((IpAddr::V6(ip), port)) => (6, port, ip.octets()),
    }
}

/// The peer that these say; each has one encoding.
pub(super) fn decode_peer(
    kind: u8,
    port: u16,
    address: [u8; 16],
) -> Result<Option<SocketAddr>, FrameError> {
    let [a, b, c, d, zeros @ ..] = address;
    match kind {
        0 if port == 0 && address == [0; 16] => Ok(None),
        4 if zeros == [0; 12] => Ok(Some((Ipv4Addr::new(a, b, c, d), port).into())),
        6 => Ok(Some((Ipv6Addr::from(address), port).into())),
        _ => Err(FrameError::Header),
    }
}

/// The sixteen bytes of an address at a constant offset of a header whose length has been checked.
pub(super) fn address_at(header: &[u8], at: usize) -> [u8; 16] {
    let mut address = [0; 16];
    address.copy_from_slice(&header[at..at + 16]);
    address
}
