//! Who a request comes from, when its connection comes from a proxy: what is believed, and of whom.
//!
//! Bytes in, an address out; every function is pure.

pub mod forwarded;
pub mod proxy;

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// Whom a proxy names as its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// Nobody: the connection is the proxy's own business.
    Nobody,
    /// Somebody without an address, or with one that the proxy does not tell.
    Unknown,
    /// Somebody at an address; port 0 where none is told.
    At(SocketAddr),
}

/// What is no header, field or element of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// Those whose word on a client's address is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trusted {
    /// `10.0.0.0/8`, `2001:db8::/32`, `127.0.0.1`: a network, or a single address.
    Network {
        /// Its first address.
        base: IpAddr,
        /// How many bits its addresses have in common.
        bits: u8,
    },
    /// `unix:`: any process that may connect to a Unix socket that is listened on.
    Unix,
}

impl Trusted {
    /// Whether an address is one of them; `None` is a Unix socket's client.
    fn covers(self, address: Option<IpAddr>) -> bool {
        match (self, address) {
            (Trusted::Unix, None) => true,
            (Trusted::Network { base, bits }, Some(address)) => {
                width(base) == width(address)
                    && masked(number(base), bits, width(base))
                        == masked(number(address), bits, width(address))
            }
            _ => false,
        }
    }
}

/// Whether an address is one that is trusted; `None` is a Unix socket's client.
#[inline]
pub fn is_trusted(trusted: &[Trusted], address: Option<IpAddr>) -> bool {
    trusted.iter().any(|trusted| trusted.covers(address))
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// The first `bits` of a number of `width` bits.
fn masked(number: u128, bits: u8, width: u8) -> u128 {
    let cut = u32::from(width - bits);
    // All 128 bits cannot be shifted out at once.
    number.checked_shr(cut).unwrap_or(0)
}

impl FromStr for Trusted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "unix:" {
            return Ok(Trusted::Unix);
        }
        let wrong = || {
            format!(
                "{text:?} is not an address or a network, as in 127.0.0.1, 10.0.0.0/8 or 2001:db8::/32, nor unix: for the \
                 clients of Unix sockets"
            )
        };
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let base: IpAddr = address.parse().map_err(|_| wrong())?;
        let width = width(base);
        let bits = match bits {
            None => width,
            Some(bits) => {
                let digits = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit());
                let bits = bits.parse().ok().filter(|_| digits).ok_or_else(wrong)?;
                if bits > width {
                    return Err(format!(
                        "{text:?}: an address like that has only {width} bits"
                    ));
                }
                bits
            }
        };
        let cut = u32::from(width - bits);
        let first = masked(number(base), bits, width)
            .checked_shl(cut)
            .unwrap_or(0);
        if first != number(base) {
            let first = match base {
                IpAddr::V4(_) => IpAddr::V4((first as u32).into()),
                IpAddr::V6(_) => IpAddr::V6(first.into()),
            };
            return Err(format!(
                "{text:?} has bits beyond its prefix: for the whole network write {first}/{bits}, for the one address leave \
                 /{bits} out"
            ));
        }
        Ok(Trusted::Network { base, bits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_cover_their_addresses() {
        for (trusted, inside, outside) in [
            (
                "127.0.0.1",
                &["127.0.0.1"][..],
                &["127.0.0.2", "::1", "::7f00:1"][..],
            ),
            (
                "10.0.0.0/8",
                &["10.0.0.0", "10.255.255.255"],
                &["11.0.0.0", "9.255.255.255"],
            ),
            ("10.1.2.0/23", &["10.1.3.255"], &["10.1.4.0"]),
            (
                "0.0.0.0/0",
                &["1.2.3.4", "255.255.255.255"],
                &["::", "::1.2.3.4"],
            ),
            ("::/0", &["::1", "ffff::"], &["1.2.3.4"]),
            ("2001:db8::/33", &["2001:db8:7fff::1"], &["2001:db8:8000::"]),
            ("::1/128", &["::1"], &["::2"]),
        ] {
            let trusted: Trusted = trusted.parse().expect(trusted);
            let covers = |text: &&str| trusted.covers(Some(text.parse().expect(text)));
            assert!(inside.iter().all(covers), "{trusted:?}");
            assert!(!outside.iter().any(covers), "{trusted:?}");
            assert!(!trusted.covers(None));
        }
        let unix: Trusted = "unix:".parse().expect("it is one");
        assert!(unix.covers(None) && !unix.covers(Some(IpAddr::from([127, 0, 0, 1]))));
    }

    #[test]
    fn what_is_no_network_is_told() {
        for (text, part) in [
            ("localhost", "not an address"),
            ("", "not an address"),
            ("10.0.0.0/", "not an address"),
            ("10.0.0.0/+8", "not an address"),
            ("10.0.0.0/999", "not an address"),
            ("10.0.0.0/33", "only 32 bits"),
            ("::/129", "only 128 bits"),
            ("10.0.0.1/8", "write 10.0.0.0/8"),
            ("2001:db8::1/32", "write 2001:db8::/32"),
            ("1.2.3.4/0", "write 0.0.0.0/0"),
        ] {
            let error = text.parse::<Trusted>().expect_err(text);
            assert!(error.contains(part), "{error}");
        }
    }
}
