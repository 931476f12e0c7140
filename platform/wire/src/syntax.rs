//! Bytes of tokens and values (RFC 9110 §5), and the names of fields that the front end alone writes.

/// Fields that say how a message is framed or what becomes of its connection (RFC 9110 §7.6.1). An
/// application may not set them, and the front end sends none that it finds in a reply. `Content-Length` is
/// not among them, because an application may state how long its body is, and must keep to it. `Date` is not
/// either: a handler that passes on an older answer may know better.
pub const RESERVED: [&str; 7] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Whether a field is the front end's, however its name is written.
#[inline]
#[must_use]
pub fn is_reserved(name: &[u8]) -> bool {
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    // The length tells nearly all other fields apart without looking at them.
    match name.len() {
        2 => is("te"),
        7 => is("trailer") || is("upgrade"),
        10 => is("connection") || is("keep-alive"),
        16 => is("proxy-connection"),
        17 => is("transfer-encoding"),
        _ => false,
    }
}

/// Which bytes a token may have. A table, because every name of every request is looked at.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte: u8 = 0;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let marks = b"!#$%&'*+-.^_`|~";
    let mut at = 0;
    while at < marks.len() {
        table[marks[at] as usize] = true;
        at += 1;
    }
    table
};

/// `tchar` of RFC 9110 §5.6.2: whether a byte may stand in a token.
#[inline]
#[must_use]
pub const fn is_token_byte(byte: u8) -> bool {
    TOKEN[byte as usize]
}

/// Whether `bytes` is a token: what a method and a field name are made of.
#[inline]
#[must_use]
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| is_token_byte(byte))
}

/// Whether a byte may stand in a field's value: HTAB, SP, VCHAR and obs-text, but no other control byte (RFC
/// 9110 §5.5).
#[inline]
#[must_use]
pub const fn is_value_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserved_fields_are_those_of_the_list() {
        for name in RESERVED {
            assert!(is_reserved(name.as_bytes()), "{name}");
            assert!(is_reserved(name.to_ascii_uppercase().as_bytes()), "{name}");
            assert!(!is_reserved(&name.as_bytes()[1..]), "{name}");
        }
        for name in [
            "date",
            "content-length",
            "content-type",
            "connections",
            "tf",
            "",
        ] {
            assert!(!is_reserved(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn a_token_has_letters_digits_and_fifteen_marks() {
        let count = (0..=255).filter(|&byte| is_token_byte(byte)).count();
        assert_eq!(count, 26 + 26 + 10 + 15);
        assert!(is_token(b"X_1.2~") && !is_token(b"") && !is_token(b"a b") && !is_token(b"\xc3"));
    }

    #[test]
    fn a_value_has_no_control_byte_but_the_tab() {
        for byte in 0..=255u8 {
            let control = (byte < 0x20 && byte != b'\t') || byte == 0x7f;
            assert_eq!(is_value_byte(byte), !control, "byte {byte:#04x}");
        }
    }
}
