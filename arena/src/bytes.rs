//! Sizes as people write them: `64KiB`, `1MiB`, `1048576`.
//!
//! Only binary units are accepted. `KB` is refused with a sentence: some readers take it for 1000 bytes,
//! others for 1024, and a memory bound must not depend on that.

use std::fmt;
use std::str::FromStr;

/// A number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes(pub usize);

impl Bytes {
    /// `n` KiB (1024 bytes each).
    #[must_use]
    pub const fn kib(n: usize) -> Self {
        Bytes(n * 1024)
    }

    /// `n` MiB (1024 KiB each).
    #[must_use]
    pub const fn mib(n: usize) -> Self {
        Bytes(n * 1024 * 1024)
    }

    /// The plain number.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0
    }
}

const UNITS: [(&str, u32); 5] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];

impl fmt::Display for Bytes {
    /// Exact: the largest unit that divides the number without a rest, so that what is printed can be pasted
    /// back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in UNITS {
            let step = 1usize << shift;
            if self.0 >= step && self.0.is_multiple_of(step) {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseBytesError {
    /// No digits at the start.
    #[error(
        "{0:?} is not a size: write a whole number of bytes, or one with B, KiB, MiB, GiB or TiB, as in 64KiB"
    )]
    NotANumber(String),
    /// Digits, then something that is no unit.
    #[error("{unit:?} in {text:?} is not a unit: use B, KiB, MiB, GiB or TiB (powers of 1024)")]
    UnknownUnit {
        /// The whole text.
        text: String,
        /// What stood where the unit belongs.
        unit: String,
    },
    /// More than an address space holds.
    #[error("{0:?} is more than {max} bytes, the largest size this machine can name", max = usize::MAX)]
    TooLarge(String),
}

impl FromStr for Bytes {
    type Err = ParseBytesError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let trimmed = text.trim();
        let digits_end = trimmed
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(trimmed.len());
        let (digits, rest) = trimmed.split_at(digits_end);
        if digits.is_empty() {
            return Err(ParseBytesError::NotANumber(text.to_owned()));
        }
        let unit = rest.trim_start();
        let shift = if unit.is_empty() {
            0
        } else {
            let known = UNITS
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(unit));
            match known {
                Some((_, shift)) => *shift,
                None => {
                    return Err(ParseBytesError::UnknownUnit {
                        text: text.to_owned(),
                        unit: unit.to_owned(),
                    });
                }
            }
        };
        digits
            .parse::<usize>()
            .ok()
            .and_then(|n| n.checked_mul(1usize << shift))
            .map(Bytes)
            .ok_or_else(|| ParseBytesError::TooLarge(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_with_and_without_a_unit() {
        for (text, bytes) in [
            ("64KiB", 65_536),
            ("1MiB", 1_048_576),
            ("1048576", 1_048_576),
            ("2 gib", 2 << 30),
            ("0", 0),
            ("7B", 7),
        ] {
            assert_eq!(text.parse::<Bytes>(), Ok(Bytes(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_printed_parses_back_to_the_same_number() {
        for n in [0, 1, 1023, 1024, 1536, 65_536, 524_288, 3 << 30, usize::MAX] {
            let text = Bytes(n).to_string();
            assert_eq!(text.parse::<Bytes>(), Ok(Bytes(n)), "{text}");
        }
        assert_eq!(Bytes(524_288).to_string(), "512KiB");
        assert_eq!(Bytes(1536).to_string(), "1536B");
    }

    #[test]
    fn decimal_units_garbage_and_overflow_are_refused_with_the_reason() {
        for (text, part) in [
            ("64KB", "is not a unit"),
            ("64k", "is not a unit"),
            ("1.5MiB", "is not a unit"),
            ("-1", "is not a size"),
            ("", "is not a size"),
            ("MiB", "is not a size"),
            ("99999999999999999999", "is more than"),
            ("99999999TiB", "is more than"),
        ] {
            let error = text.parse::<Bytes>().expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
