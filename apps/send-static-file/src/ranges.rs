//! Which part of a file a `Range` field asks for (RFC 9110 §14).
//!
//! One part is served as a 206. A field that asks for several gets the whole file, which §14.2 allows: hardly
//! any client asks for several, and many small or overlapping parts are an old attack. A field that is
//! malformed, or of another unit, gets the whole file too.

/// What is to be sent of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// All of it.
    Whole,
    /// So many bytes, at least one, from an offset on.
    Part {
        /// Where they begin.
        start: u64,
        /// How many they are.
        len: u64,
    },
    /// Nothing of what was asked for is there.
    Unsatisfiable,
}

/// One member of the field's list.
enum Spec {
    /// From the first to the second, both included; to the end without a second.
    From(u64, Option<u64>),
    /// The last so many.
    Last(u64),
}

/// Reads a field's value for a file of `size` bytes.
pub fn select(value: &[u8], size: u64) -> Selection {
    let Some(specs) = value
        .split_at_checked(6)
        .filter(|(unit, _)| unit.eq_ignore_ascii_case(b"bytes="))
        .map(|(_, specs)| specs)
    else {
        return Selection::Whole;
    };
    let mut any = false;
    let mut selected = None;
    for spec in specs.split(|&byte| byte == b',') {
        let spec = trim(spec);
        // Empty members of a list mean nothing (RFC 9110 §5.6.1.2).
        if spec.is_empty() {
            continue;
        }
        let Some(spec) = parse(spec) else {
            return Selection::Whole;
        };
        any = true;
        let part = match spec {
            Spec::From(first, _) if first >= size => continue,
            Spec::From(first, last) => {
                let last = last.unwrap_or(u64::MAX).min(size - 1);
                (first, last - first + 1)
            }
            Spec::Last(0) => continue,
            // A range of an empty file is satisfiable, but `Content-Range` cannot express it.
            Spec::Last(_) if size == 0 => return Selection::Whole,
            Spec::Last(len) => (size - len.min(size), len.min(size)),
        };
        if selected.replace(part).is_some() {
            return Selection::Whole;
        }
    }
    match selected {
        Some((start, len)) => Selection::Part { start, len },
        None if any => Selection::Unsatisfiable,
        None => Selection::Whole,
    }
}

fn parse(spec: &[u8]) -> Option<Spec> {
    let dash = spec.iter().position(|&byte| byte == b'-')?;
    let (first, last) = (&spec[..dash], &spec[dash + 1..]);
    match (first, last) {
        (b"", last) => Some(Spec::Last(number(last)?)),
        (first, b"") => Some(Spec::From(number(first)?, None)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Spec::From(first, Some(last)))
        }
    }
}

/// A number of one or more digits; one beyond 64 bits is as good as the largest, because no file is as long.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add = |sum: u64, digit: &u8| {
        sum.saturating_mul(10)
            .saturating_add(u64::from(digit - b'0'))
    };
    Some(digits.iter().fold(0, add))
}

/// Without the spaces and tabs around it.
pub fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(start: u64, len: u64) -> Selection {
        Selection::Part { start, len }
    }

    #[test]
    fn one_range_is_a_part() {
        for (value, selection) in [
            ("bytes=0-0", part(0, 1)),
            ("bytes=0-9", part(0, 10)),
            ("bytes=0-", part(0, 10)),
            ("bytes=9-", part(9, 1)),
            ("bytes=3-4", part(3, 2)),
            ("bytes=3-100", part(3, 7)),
            ("bytes=3-99999999999999999999999", part(3, 7)),
            ("bytes=-1", part(9, 1)),
            ("bytes=-10", part(0, 10)),
            ("bytes=-11", part(0, 10)),
            ("bytes=-99999999999999999999999", part(0, 10)),
            ("BYTES=1-2", part(1, 2)),
            ("bytes= 1-2 ", part(1, 2)),
            ("bytes=,1-2,\t,", part(1, 2)),
            ("bytes=1-2,10-20", part(1, 2)),
        ] {
            assert_eq!(select(value.as_bytes(), 10), selection, "{value}");
        }
    }

    #[test]
    fn what_is_not_there_cannot_be_satisfied() {
        for value in [
            "bytes=10-",
            "bytes=10-20",
            "bytes=-0",
            "bytes=10-,-0",
            "bytes=99999999999999999999-",
        ] {
            assert_eq!(
                select(value.as_bytes(), 10),
                Selection::Unsatisfiable,
                "{value}"
            );
        }
        assert_eq!(select(b"bytes=0-", 0), Selection::Unsatisfiable);
        assert_eq!(select(b"bytes=-5", 0), Selection::Whole);
    }

    #[test]
    fn several_ranges_malformed_ones_and_other_units_get_the_whole() {
        for value in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=a-b",
            "bytes=1",
            "bytes=2-1",
            "bytes=1-2-3",
            "bytes=+1-2",
            "bytes=1 -2",
            "bytes 1-2",
            "bytes=0x1-2",
            "items=1-2",
            "bytes =1-2",
            "bytes=0-1,3-4",
            "bytes=0-,0-,0-",
            "bytes=0-1,junk",
            "bytes=10-,junk",
            "bytes=--1",
        ] {
            assert_eq!(select(value.as_bytes(), 10), Selection::Whole, "{value}");
        }
    }

    #[test]
    fn every_part_lies_within_its_file() {
        for size in 0..6u64 {
            for first in 0..8u64 {
                for last in 0..8u64 {
                    for value in [
                        format!("bytes={first}-{last}"),
                        format!("bytes={first}-"),
                        format!("bytes=-{last}"),
                    ] {
                        if let Selection::Part { start, len } = select(value.as_bytes(), size) {
                            assert!(len > 0 && start + len <= size, "{value} of {size}");
                        }
                    }
                }
            }
        }
    }
}
