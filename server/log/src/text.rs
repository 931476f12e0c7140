//! A line of text of fixed size, and the escaping of bytes for it.
//!
//! An event may be logged where nothing can be allocated: on a bucket that is exhausted, or on the signal
//! stack after a stack overflow. So its text goes into an array on the stack. What does not fit is cut and
//! marked with "…"; a few bytes are kept aside for that mark, so that a cut line still ends as its format
//! wants.
//!
//! It knows nothing of events, levels or formats.

use std::fmt::{self, Write};

/// Ends a text that was cut.
const ELLIPSIS: &str = "…";

/// Bytes that only [`Text::push_closing`] may use: the mark and the quote that may have to follow it.
const CLOSING_BYTES: usize = ELLIPSIS.len() + "\"".len();

/// At most `N` bytes of UTF-8, cut at a character's boundary.
pub(super) struct Text<const N: usize> {
    bytes: [u8; N],
    len: u16,
    cut: bool,
}

impl<const N: usize> Text<N> {
    const LIMIT: usize = {
        assert!(N >= CLOSING_BYTES && N <= u16::MAX as usize);
        N - CLOSING_BYTES
    };

    pub(super) const fn new() -> Self {
        Self {
            bytes: [0; N],
            len: 0,
            cut: false,
        }
    }

    /// Becomes a copy of `other`; copies only what is used of it.
    pub(super) fn copy_from(&mut self, other: &Self) {
        let used = other.as_bytes();
        self.bytes[..used.len()].copy_from_slice(used);
        self.len = other.len;
        self.cut = other.cut;
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len()]
    }

    pub(super) const fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether something was left out. From then on everything else is, too.
    pub(super) const fn is_cut(&self) -> bool {
        self.cut
    }

    /// Appends as much of `part` as fits.
    pub(super) fn push(&mut self, part: &str) {
        let room = self.room();
        if part.len() > room {
            self.append(&part[..part.floor_char_boundary(room)]);
            self.cut = true;
        } else {
            self.append(part);
        }
    }

    /// Appends all of `part`, or nothing.
    pub(super) fn push_whole(&mut self, part: &str) {
        if part.len() > self.room() {
            self.cut = true;
        } else {
            self.append(part);
        }
    }

    /// Appends "…" if the text was cut, and then `end`, for which there is always room once: at most one
    /// byte.
    pub(super) fn push_closing(&mut self, end: &str) {
        debug_assert!(end.len() <= CLOSING_BYTES - ELLIPSIS.len());
        if self.cut {
            self.append(ELLIPSIS);
        }
        self.append(end);
    }

    /// Takes back what was appended since the text was `len` bytes long; it counts as cut.
    pub(super) fn cut_back_to(&mut self, len: usize) {
        debug_assert!(len <= self.len());
        self.len = len as u16;
        self.cut = true;
    }

    fn room(&self) -> usize {
        if self.cut {
            0
        } else {
            Self::LIMIT.saturating_sub(self.len())
        }
    }

    fn append(&mut self, part: &str) {
        let start = self.len();
        self.bytes[start..start + part.len()].copy_from_slice(part.as_bytes());
        self.len += part.len() as u16;
    }
}

/// Which characters stand for themselves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Escape {
    /// All but control characters: what was logged can neither start a new line nor control a terminal.
    Controls,
    /// All but control characters, quotes and backslashes: the inside of a JSON string.
    Quoted,
}

/// Writes into a [`Text`] with the escapes of a JSON string, and stops its source at the first character left
/// out.
pub(super) struct Escaped<'a, const N: usize> {
    pub(super) text: &'a mut Text<N>,
    pub(super) escape: Escape,
}

impl<const N: usize> Write for Escaped<'_, N> {
    fn write_str(&mut self, mut part: &str) -> fmt::Result {
        let special =
            |c: char| c.is_control() || (self.escape == Escape::Quoted && matches!(c, '"' | '\\'));
        while let Some(at) = part.find(special) {
            let (plain, rest) = part.split_at(at);
            let mut rest = rest.chars();
            self.text.push(plain);
            match rest.next().expect("`find` found a character here") {
                '\n' => self.text.push_whole("\\n"),
                '\r' => self.text.push_whole("\\r"),
                '\t' => self.text.push_whole("\\t"),
                '"' => self.text.push_whole("\\\""),
                '\\' => self.text.push_whole("\\\\"),
                other => self.text.push_whole(control_escape(other, &mut [0; 6])),
            }
            if self.text.is_cut() {
                return Err(fmt::Error);
            }
            part = rest.as_str();
        }
        self.text.push(part);
        if self.text.is_cut() {
            Err(fmt::Error)
        } else {
            Ok(())
        }
    }
}

/// `\u001b` and the like; a control character is at most U+009F.
fn control_escape(control: char, buffer: &mut [u8; 6]) -> &str {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    debug_assert!(control.is_control());
    let code = control as usize;
    *buffer = [
        b'\\',
        b'u',
        b'0',
        b'0',
        HEX[code >> 4 & 0xF],
        HEX[code & 0xF],
    ];
    str::from_utf8(buffer).expect("ASCII is UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped<const N: usize>(part: &str, escape: Escape) -> Text<N> {
        let mut text = Text::new();
        let _ = Escaped {
            text: &mut text,
            escape,
        }
        .write_str(part);
        text.push_closing("");
        text
    }

    #[test]
    fn a_text_that_fits_to_the_last_byte_is_not_cut() {
        let text = escaped::<12>("12345678", Escape::Controls);
        assert_eq!(text.as_bytes(), b"12345678");
        assert!(!text.is_cut());
    }

    #[test]
    fn a_text_that_does_not_fit_is_cut_at_a_character_and_says_so() {
        assert_eq!(
            escaped::<12>("123456789", Escape::Controls).as_bytes(),
            "12345678…".as_bytes()
        );
        assert_eq!(
            escaped::<12>("1234567é", Escape::Controls).as_bytes(),
            "1234567…".as_bytes()
        );
    }

    #[test]
    fn an_escape_is_never_cut_in_two() {
        for room in 0..8 {
            let line = format!("{}\u{1b}", "x".repeat(room));
            let text = escaped::<12>(&line, Escape::Quoted);
            let expected = if room <= 2 {
                format!("{}\\u001b", "x".repeat(room))
            } else {
                format!("{}…", "x".repeat(room))
            };
            assert_eq!(str::from_utf8(text.as_bytes()).unwrap(), expected);
        }
    }

    #[test]
    fn after_a_cut_nothing_is_appended_even_if_it_would_fit() {
        let mut text = Text::<12>::new();
        text.push_whole("123456789");
        text.push("1");
        text.push_whole("2");
        assert_eq!(text.as_bytes(), b"");
        assert!(text.is_cut());
    }

    #[test]
    fn quotes_are_escaped_only_where_they_would_end_a_string() {
        assert_eq!(
            escaped::<64>("a \"b\" \\ \n\t\u{7f}\u{85}", Escape::Controls).as_bytes(),
            br#"a "b" \ \n\t\u007f\u0085"#
        );
        assert_eq!(
            escaped::<64>("a \"b\" \\ \r", Escape::Quoted).as_bytes(),
            br#"a \"b\" \\ \r"#
        );
    }
}
