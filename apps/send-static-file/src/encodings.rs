//! Which precompressed copy of a file a client takes (RFC 9110 §12.5.3).

use crate::ranges::trim;

/// A coding, and what its copies' names end in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coding {
    /// What `Content-Encoding` says.
    pub name: &'static str,
    /// What is put behind the file's name.
    pub suffix: &'static str,
}

const BROTLI: Coding = Coding {
    name: "br",
    suffix: ".br",
};
const GZIP: Coding = Coding {
    name: "gzip",
    suffix: ".gz",
};

/// The codings that the value of an `Accept-Encoding` accepts, best first; of equals the one that is usually
/// smaller.
pub fn accepted(value: &[u8]) -> impl Iterator<Item = Coding> {
    let (brotli, gzip) = (quality(value, "br"), quality(value, "gzip"));
    let order = if gzip > brotli {
        [(gzip, GZIP), (brotli, BROTLI)]
    } else {
        [(brotli, BROTLI), (gzip, GZIP)]
    };
    let wanted = order.into_iter().filter(|&(quality, _)| quality > 0);
    wanted.map(|(_, coding)| coding)
}

/// How much a coding is wanted, in thousandths; 0 is not at all.
fn quality(value: &[u8], coding: &str) -> u16 {
    let mut any = 0;
    for member in value.split(|&byte| byte == b',') {
        let mut parts = member.split(|&byte| byte == b';');
        let name = trim(parts.next().unwrap_or_default());
        let quality = parts
            .next()
            .map_or(Some(1000), |weight| thousandths(trim(weight)));
        // A malformed member accepts nothing.
        let quality = quality.filter(|_| parts.next().is_none()).unwrap_or(0);
        if name.eq_ignore_ascii_case(coding.as_bytes()) {
            return quality;
        }
        if name == b"*" {
            any = quality;
        }
    }
    any
}

/// `q=0.123`.
fn thousandths(weight: &[u8]) -> Option<u16> {
    let [b'q' | b'Q', b'=', whole @ (b'0' | b'1'), rest @ ..] = weight else {
        return None;
    };
    let digits = match rest {
        [] => rest,
        [b'.', digits @ ..] if digits.len() <= 3 && digits.iter().all(u8::is_ascii_digit) => digits,
        _ => return None,
    };
    let mut sum = u16::from(whole - b'0');
    for at in 0..3 {
        sum = sum * 10 + digits.get(at).map_or(0, |digit| u16::from(digit - b'0'));
    }
    (sum <= 1000).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codings_come_in_the_order_in_which_they_are_wanted() {
        for (value, codings) in [
            ("", &[][..]),
            ("gzip", &["gzip"]),
            ("br", &["br"]),
            ("gzip, br", &["br", "gzip"]),
            ("GZIP;q=1, Br;q=0.5", &["gzip", "br"]),
            ("gzip;q=0.001", &["gzip"]),
            ("gzip;q=0, *", &["br"]),
            ("gzip;q=0.000, br;q=0", &[]),
            ("*", &["br", "gzip"]),
            ("*;q=0", &[]),
            ("identity, deflate", &[]),
            ("gzip ; Q=0.9 , br\t;q=0.8", &["gzip", "br"]),
            ("gzip;q=2", &[]),
            ("gzip;q=1.001", &[]),
            ("gzip;q=0.1234", &[]),
            ("gzip;q", &[]),
            ("gzip;level=9", &[]),
            ("xgzip, gzipx", &[]),
        ] {
            let found: Vec<&str> = accepted(value.as_bytes())
                .map(|coding| coding.name)
                .collect();
            assert_eq!(found, codings, "{value}");
        }
    }
}
