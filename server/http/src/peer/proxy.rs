//! The PROXY protocol, versions 1 and 2: a header before the first byte of HTTP, in which a proxy says whose
//! connection it forwards (HAProxy's `doc/proxy-protocol.txt`).
//!
//! Strict: what the text does not allow is malformed, and the caller closes the connection. Parts of the
//! second version that are not about addresses (TLVs) are skipped.

use super::{Client, Malformed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest header of version 1, its CRLF included.
const V1_MAX: usize = 107;

/// What any limit of headers of version 2 has room for: the addresses of two Unix sockets, and then some for
/// TLVs.
pub const V2_MAX_LEAST: usize = 536;

const V1_START: &[u8] = b"PROXY ";
const V2_START: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Version, command, family and length follow the start of version 2.
const V2_FIXED: usize = 16;

/// Reads the header at the start of `bytes`: how many bytes it has, and whom it names. `None` if more of it
/// has to come. One of version 2 may have `v2_max` bytes; load balancers in clouds and meshes add TLVs of
/// some KiB.
pub fn parse(bytes: &[u8], v2_max: usize) -> Result<Option<(usize, Client)>, Malformed> {
    let begins = |start: &[u8]| bytes.iter().zip(start).all(|(a, b)| a == b);
    if begins(V1_START) {
        version_1(bytes)
    } else if begins(V2_START) {
        version_2(bytes, v2_max)
    } else {
        Err(Malformed("it begins with no PROXY header"))
    }
}

/// Whether what was to be a request begins with such a header. The first byte that no request begins with is
/// enough.
#[inline]
pub fn is_begun(bytes: &[u8]) -> bool {
    const REFUSED: usize = 5;
    let start = &bytes[..bytes.len().min(V2_START.len())];
    bytes.starts_with(V1_START) || (start.len() >= REFUSED && V2_START.starts_with(start))
}

fn version_1(bytes: &[u8]) -> Result<Option<(usize, Client)>, Malformed> {
    let line = &bytes[..bytes.len().min(V1_MAX)];
    let Some(end) = line.iter().position(|b| matches!(b, b'\r' | b'\n')) else {
        return if line.len() < V1_MAX {
            Ok(None)
        } else {
            Err(Malformed("a PROXY line has at most 107 bytes"))
        };
    };
    match &line[end..] {
        [b'\r', b'\n', ..] => {}
        [b'\r'] if line.len() < V1_MAX => return Ok(None),
        _ => return Err(Malformed("a PROXY line ends in CRLF")),
    }
    let line = std::str::from_utf8(&line[V1_START.len().min(end)..end])
        .map_err(|_| Malformed("a PROXY line is ASCII"))?;
    Ok(Some((end + 2, client_of_line(line)?)))
}

fn client_of_line(line: &str) -> Result<Client, Malformed> {
    let mut words = line.split(' ');
    let family = words.next();
    if family == Some("UNKNOWN") {
        return Ok(Client::Unknown); // whatever follows
    }
    let mut word = || words.next().unwrap_or_default();
    let (source, target, source_port, target_port) = (word(), word(), word(), word());
    let addresses = match family {
        Some("TCP4") => [v4(source), v4(target)],
        Some("TCP6") => [v6(source), v6(target)],
        _ => return Err(Malformed("a PROXY line names TCP4, TCP6 or UNKNOWN")),
    };
    let ports = [port(source_port), port(target_port)];
    match (addresses, ports, words.next()) {
        ([Some(source), Some(_)], [Some(port), Some(_)], None) => {
            Ok(Client::At(SocketAddr::new(source, port)))
        }
        _ => Err(Malformed("a PROXY line has two addresses and two ports")),
    }
}

fn v4(text: &str) -> Option<IpAddr> {
    text.parse().ok().map(IpAddr::V4)
}

fn v6(text: &str) -> Option<IpAddr> {
    let address: Ipv6Addr = text.parse().ok()?;
    Some(address.to_canonical())
}

/// Decimal digits without leading zeros.
pub(super) fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

fn version_2(bytes: &[u8], v2_max: usize) -> Result<Option<(usize, Client)>, Malformed> {
    // What is wrong is said as soon as it is there.
    let local = match bytes.get(12) {
        None => return Ok(None),
        Some(0x20) => true,
        Some(0x21) => false,
        Some(_) => {
            return Err(Malformed(
                "a PROXY header is of version 2, and LOCAL or PROXY",
            ));
        }
    };
    let Some(&family) = bytes.get(13) else {
        return Ok(None);
    };
    let needed = match family {
        _ if local => 0, // its addresses are to be ignored, and so is of which family they are
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        0x31 => 216,
        _ => {
            return Err(Malformed(
                "a PROXY header is for a stream over IPv4, IPv6 or Unix sockets",
            ));
        }
    };
    let Some(&[high, low]) = bytes.get(14..V2_FIXED) else {
        return Ok(None);
    };
    let len = usize::from(u16::from_be_bytes([high, low]));
    if V2_FIXED + len > v2_max {
        return Err(Malformed(
            "a PROXY header is longer than --proxy-header-limit",
        ));
    }
    if len < needed {
        return Err(Malformed("the addresses of a PROXY header are cut short"));
    }
    let Some(block) = bytes.get(V2_FIXED..V2_FIXED + len) else {
        return Ok(None);
    };
    let client = match family {
        _ if local => Client::Nobody,
        0x11 => at::<4>(block, |octets| Ipv4Addr::from(octets).into()),
        0x21 => at::<16>(block, |octets| Ipv6Addr::from(octets).to_canonical()),
        _ => Client::Unknown,
    };
    Ok(Some((V2_FIXED + len, client)))
}

/// Source, target, source port, target port.
fn at<const N: usize>(block: &[u8], address: impl Fn([u8; N]) -> IpAddr) -> Client {
    let port = block.get(2 * N..2 * N + 2);
    match (block.first_chunk::<N>(), port) {
        (Some(octets), Some(&[high, low])) => {
            let port = u16::from_be_bytes([high, low]);
            Client::At(SocketAddr::new(address(*octets), port))
        }
        _ => Client::Unknown, // not so: the length was checked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const V2_MAX: usize = V2_MAX_LEAST;

    fn parse(bytes: &[u8]) -> Result<Option<(usize, Client)>, Malformed> {
        super::parse(bytes, V2_MAX)
    }

    fn v2(command: u8, family: u8, len: u16, block: &[u8]) -> Vec<u8> {
        let mut bytes = V2_START.to_vec();
        bytes.extend([command, family]);
        bytes.extend(len.to_be_bytes());
        bytes.extend(block);
        bytes
    }

    fn whole(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        v2(command, family, block.len() as u16, block)
    }

    fn block<const N: usize>(source: [u8; N], port: u16, tlvs: usize) -> Vec<u8> {
        let mut block = source.to_vec();
        block.extend([9; N]);
        block.extend(port.to_be_bytes());
        block.extend([0, 80]);
        block.resize(block.len() + tlvs, 4);
        block
    }

    fn client(text: &str) -> Client {
        Client::At(text.parse().expect(text))
    }

    fn good() -> Vec<(Vec<u8>, Client)> {
        let line = |text: &str| text.as_bytes().to_vec();
        let v4 = [192, 0, 2, 1];
        let mut v6 = [0; 16];
        v6[0] = 0x20;
        v6[15] = 1;
        let longest = format!("PROXY UNKNOWN{}\r\n", " ".repeat(V1_MAX - 15));
        vec![
            (
                line("PROXY TCP4 192.0.2.1 10.0.0.1 1234 80\r\n"),
                client("192.0.2.1:1234"),
            ),
            (
                line("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n"),
                client("255.255.255.255:65535"),
            ),
            (
                line("PROXY TCP6 2001:db8::1 ::1 1 80\r\n"),
                client("[2001:db8::1]:1"),
            ),
            (
                line("PROXY TCP6 ::ffff:1.2.3.4 ::1 0 80\r\n"),
                client("1.2.3.4:0"),
            ),
            (line("PROXY UNKNOWN\r\n"), Client::Unknown),
            (
                line("PROXY UNKNOWN ffff:: any 1 2 thing\r\n"),
                Client::Unknown,
            ),
            (line(&longest), Client::Unknown),
            (
                whole(0x21, 0x11, &block(v4, 1234, 0)),
                client("192.0.2.1:1234"),
            ),
            (
                whole(0x21, 0x11, &block(v4, 1234, V2_MAX - 28)),
                client("192.0.2.1:1234"),
            ),
            (whole(0x21, 0x21, &block(v6, 5, 7)), client("[2000::1]:5")),
            (whole(0x21, 0x31, &[0; 216]), Client::Unknown),
            (whole(0x21, 0x00, &[]), Client::Unknown),
            (whole(0x21, 0x00, &[1; 40]), Client::Unknown),
            (whole(0x20, 0x00, &[]), Client::Nobody),
            (whole(0x20, 0x11, &block(v4, 1234, 0)), Client::Nobody),
            (whole(0x20, 0x77, &[1; 3]), Client::Nobody),
        ]
    }

    #[test]
    fn whole_headers_are_read_and_beginnings_waited_for() {
        for (bytes, client) in good() {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            for len in 0..bytes.len() {
                assert_eq!(parse(&bytes[..len]), Ok(None), "{len} of {text:?}");
            }
            let len = bytes.len();
            assert_eq!(parse(&bytes), Ok(Some((len, client))), "{text:?}");
            let more = [&bytes[..], b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(parse(&more), Ok(Some((len, client))), "{text:?}");
        }
    }

    #[test]
    fn all_else_is_malformed() {
        let line = |text: &str| text.as_bytes().to_vec();
        for bytes in [
            line("GET / HTTP/1.1\r\n"),
            line("proxy UNKNOWN\r\n"),
            line("PROXY\tUNKNOWN\r\n"),
            line("PROXY  UNKNOWN\r\n"),
            line("PROXY \r\n"),
            line("PROXY UNKNOWNS\r\n"),
            line("PROXY UNKNOWN\n"),
            line("PROXY UNKNOWN\r \n"),
            line("PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n"),
            line("PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n"),
            line("PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n"),
            line("PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n"),
            line("PROXY TCP4 1.2.3.4  1.2.3.4 1 2\r\n"),
            line("PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n"),
            line("PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n"),
            line("PROXY TCP4 ::1 ::1 1 2\r\n"),
            line("PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n"),
            line("PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n"),
            line("PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n"),
            line("PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n"),
            b"PROXY UNKNOWN \xff\r\n".to_vec(),
            line(&format!("PROXY UNKNOWN{}\r\n", " ".repeat(V1_MAX - 14))),
            line(&format!("PROXY UNKNOWN{}", " ".repeat(V1_MAX - 13))),
            whole(0x11, 0x11, &block([1; 4], 1, 0)),
            whole(0x22, 0x11, &block([1; 4], 1, 0)),
            whole(0x21, 0x12, &block([1; 4], 1, 0)),
            whole(0x21, 0x41, &block([1; 4], 1, 0)),
            whole(0x21, 0x11, &block([1; 4], 1, 0)[..11]),
            whole(0x21, 0x21, &block([1; 16], 1, 0)[..35]),
            v2(0x21, 0x11, (V2_MAX - V2_FIXED + 1) as u16, &[]),
            v2(0x20, 0x00, u16::MAX, &[]),
            b"\r\n\r\n\0\r\nQUIT\r".to_vec(),
            b"\r\nGET".to_vec(),
        ] {
            assert!(
                parse(&bytes).is_err(),
                "{:?}",
                String::from_utf8_lossy(&bytes)
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_wait_for_ever(
            which in 0..16usize,
            at in 0..300usize,
            byte: u8,
            tail in prop::collection::vec(any::<u8>(), 0..600),
        ) {
            let (mut bytes, _) = good().swap_remove(which);
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.extend(tail);
            match parse(&bytes) {
                Ok(Some((len, _))) => prop_assert!(len <= bytes.len() && len <= V2_MAX),
                Ok(None) => prop_assert!(bytes.len() < V2_MAX),
                Err(_) => {}
            }
        }
    }
}
