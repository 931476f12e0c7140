//! Byte classes of RFC 9110 and 3986, and an appending writer for fixed buffers.
//!
//! One table answers every "may this byte stand here?", so that the request line, fields, trailers
//! and the handler's own fields cannot come to disagree about it.

use transom_wire::syntax::{is_token_byte, is_value_byte};

/// `tchar` of RFC 9110 §5.6.2: methods and field names.
const TOKEN: u8 = 1;
/// What a field value may hold: HTAB, SP, VCHAR and obs-text, but no other control byte (RFC 9110
/// §5.5).
const VALUE: u8 = 2;
/// What a request target may hold: VCHAR but `#`, whose fragment no client sends (RFC 9112 §3.2).
const TARGET: u8 = 4;
/// `unreserved` and `sub-delims` of RFC 3986 §3.2.2: a registered name, escapes aside.
const REG_NAME: u8 = 8;

const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        let unreserved = b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
        if is_token_byte(b) {
            classes[byte] |= TOKEN;
        }
        if is_value_byte(b) {
            classes[byte] |= VALUE;
        }
        // `"<>\^`{|}` are no URI characters either, but browsers send several of them in queries
        // and no two recipients cut a target in different places because of them.
        if b.is_ascii_graphic() && b != b'#' {
            classes[byte] |= TARGET;
        }
        if unreserved
            || matches!(
                b,
                b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'='
            )
        {
            classes[byte] |= REG_NAME;
        }
        byte += 1;
    }
    classes
};

/// Whether `byte` may stand in a method or field name.
#[inline]
pub const fn is_token(byte: u8) -> bool {
    CLASSES[byte as usize] & TOKEN != 0
}

/// Whether `byte` may stand in a field value.
#[inline]
pub(super) const fn is_value(byte: u8) -> bool {
    CLASSES[byte as usize] & VALUE != 0
}

/// How many bytes at the beginning may stand in a field value.
pub(super) fn value_len(bytes: &[u8]) -> usize {
    // Eight at a time while none of them is a control byte or DEL: a tab, which may stand there, is looked at
    // closer.
    let (chunks, _) = bytes.as_chunks::<8>();
    let plain = chunks.iter().take_while(|chunk| is_plain(**chunk)).count() * 8;
    let rest = &bytes[plain..];
    let bad = rest.iter().position(|&byte| !is_value(byte));
    plain + bad.unwrap_or(rest.len())
}

/// Whether none of eight bytes is below a space, or DEL.
const fn is_plain(chunk: [u8; 8]) -> bool {
    const ONES: u64 = u64::MAX / 0xff;
    let bytes = u64::from_ne_bytes(chunk);
    // The highest bit of a byte is set where the byte is below (a borrow may set it above a byte for which
    // that is so).
    let controls = bytes.wrapping_sub(ONES * 0x20) & !bytes;
    let del = bytes ^ (ONES * 0x7f);
    let dels = del.wrapping_sub(ONES) & !del;
    (controls | dels) & (ONES * 0x80) == 0
}

/// Whether `byte` may stand in a request target. `%` may, if two hexadecimal digits follow.
#[inline]
pub(super) const fn is_target(byte: u8) -> bool {
    CLASSES[byte as usize] & TARGET != 0
}

/// Whether `byte` may stand unescaped in a registered name.
pub(super) const fn is_reg_name(byte: u8) -> bool {
    CLASSES[byte as usize] & REG_NAME != 0
}

/// The value of one hexadecimal digit of either case.
#[inline]
pub(super) const fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// `value` without the optional white space (SP and HTAB) around it.
pub(super) const fn trim_ows(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// 1*DIGIT that fits a `u64`; no sign, no white space, no list (RFC 9112 §6.2).
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, byte| match byte {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}

/// Appends to a fixed buffer, without the formatting machinery and what it may allocate.
///
/// Its users own a buffer whose size is a constant that a test holds against the longest text they
/// write.
pub(super) struct Pen<'a> {
    buffer: &'a mut [u8],
    len: usize,
}

impl<'a> Pen<'a> {
    pub(super) fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, len: 0 }
    }

    /// Appends `bytes`.
    ///
    /// # Panics
    ///
    /// If the buffer is full: its size is then wrong, not its content.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.buffer[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Appends `value` in decimal digits.
    pub(super) fn put_decimal(&mut self, value: u64) {
        self.put_digits(value, 10);
    }

    /// Appends `value` in lower-case hexadecimal digits.
    pub(super) fn put_hex(&mut self, value: u64) {
        self.put_digits(value, 16);
    }

    fn put_digits(&mut self, mut value: u64, base: u64) {
        // u64::MAX has 20 decimal digits.
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b"0123456789abcdef"[(value % base) as usize];
            value /= base;
            if value == 0 {
                break;
            }
        }
        self.put(&digits[at..]);
    }

    /// How many bytes have been written.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_the_standard_library_writes_them() {
        for value in [0, 1, 9, 10, 15, 16, 255, 4096, u64::MAX - 1, u64::MAX] {
            let mut buffer = [0; 64];
            let mut pen = Pen::new(&mut buffer);
            pen.put_decimal(value);
            pen.put(b" ");
            pen.put_hex(value);
            let len = pen.len();
            assert_eq!(
                std::str::from_utf8(&buffer[..len]).unwrap(),
                format!("{value} {value:x}")
            );
        }
    }

    #[test]
    fn eight_bytes_at_a_time_are_judged_as_one_by_one() {
        for wrong in 0..=255_u8 {
            for around in [b'a', b'\t', b' ', 0x7e, 0x80, 0xff] {
                for at in 0..20 {
                    let mut bytes = [around; 20];
                    bytes[at] = wrong;
                    let slowly = bytes.iter().position(|&byte| !is_value(byte));
                    assert_eq!(value_len(&bytes), slowly.unwrap_or(20), "{bytes:?}");
                }
            }
        }
        assert_eq!(value_len(b""), 0);
    }

    #[test]
    fn a_decimal_is_digits_only_and_fits_64_bits() {
        assert_eq!(decimal(b"0"), Some(0));
        assert_eq!(decimal(b"007"), Some(7));
        assert_eq!(decimal(b"18446744073709551615"), Some(u64::MAX));
        for wrong in [
            &b""[..],
            b"+5",
            b"-5",
            b" 5",
            b"5 ",
            b"5,5",
            b"0x5",
            b"18446744073709551616",
            b"5\xb2",
        ] {
            assert_eq!(decimal(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn white_space_is_trimmed_at_the_ends_only() {
        assert_eq!(trim_ows(b" \t a b\t "), b"a b");
        assert_eq!(trim_ows(b" \t"), b"");
        assert_eq!(trim_ows(b"\x0ba"), b"\x0ba");
    }

    #[test]
    fn no_class_admits_a_line_end_or_nul() {
        for byte in [b'\r', b'\n', 0] {
            assert!(!is_token(byte) && !is_value(byte) && !is_target(byte) && !is_reg_name(byte));
        }
        assert!(is_value(0x80) && !is_target(0x80) && !is_token(0x80) && !is_value(0x7f));
    }
}
