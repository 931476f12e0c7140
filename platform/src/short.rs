//! [`Short`]: the beginning of a text that may be long.

use std::fmt::{self, Display, Write};

/// This many bytes of the text, and an ellipsis if that is not all. For texts that a client may influence.
pub(crate) struct Short<T>(pub usize, pub T);

impl<T: Display> Display for Short<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Beginning {
            left: self.0,
            out: f,
        };
        // An error of its own, or ours: what is shown ends there. It must not become a panic of `to_string`.
        match write!(out, "{}", self.1) {
            Err(_) => f.write_char('\u{2026}'),
            Ok(()) => Ok(()),
        }
    }
}

struct Beginning<'a, 'f> {
    left: usize,
    out: &'a mut fmt::Formatter<'f>,
}

impl Write for Beginning<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = text.floor_char_boundary(self.left);
        self.out.write_str(&text[..end])?;
        if end < text.len() {
            return Err(fmt::Error);
        }
        self.left -= end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_ends_with_an_ellipsis_and_what_is_short_is_whole() {
        assert_eq!(Short(4, "four").to_string(), "four");
        assert_eq!(Short(4, "fours").to_string(), "four\u{2026}");
        assert_eq!(Short(4, "thr\u{e9}e").to_string(), "thr\u{2026}");
        assert_eq!(Short(0, "").to_string(), "");
        let parts = format_args!("{}{}{}", "ab", "cd", "ef").to_string();
        assert_eq!(
            Short(3, format_args!("{parts}{parts}")).to_string(),
            "abc\u{2026}"
        );
    }
}
