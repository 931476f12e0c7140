//! The `Date` line of replies, written once a second instead of once a reply.
//!
//! It has no clock: the loop that owns it reads one anyway.

use std::fmt::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

/// The length of `Date: Sun, 06 Nov 1994 08:49:37 GMT` and CRLF (RFC 9110 §5.6.7: IMF-fixdate).
pub const DATE_LINE_LEN: usize = b"Date: ".len() + DATE_LEN + b"\r\n".len();

const DATE_LEN: usize = 29;

/// The last second that an IMF-fixdate can spell, with its year of four digits: the end of 9999.
const LAST_SECOND: u64 = 253_402_300_799;

/// A rendered `Date` line, and the second for which it was rendered.
#[derive(Debug, Clone, Copy)]
pub struct DateCache {
    unix_secs: u64,
    /// A status line of 200 before it.
    text: [u8; OK.len() + DATE_LINE_LEN],
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\n";

impl DateCache {
    /// The line for `unix_secs`, in seconds since 1970.
    #[must_use]
    pub fn new(unix_secs: u64) -> Self {
        let mut cache = Self {
            unix_secs,
            text: *b"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n",
        };
        cache.render();
        cache
    }

    /// Renders the line anew if the second has changed, in either direction: clocks are set back.
    #[inline]
    pub fn update(&mut self, unix_secs: u64) {
        if unix_secs != self.unix_secs {
            self.unix_secs = unix_secs;
            self.render();
        }
    }

    /// The second that the line names.
    #[must_use]
    #[inline]
    pub fn unix_seconds(&self) -> u64 {
        self.unix_secs
    }

    /// A status line of 200 and the field line, which is how most replies begin.
    #[must_use]
    pub(super) fn ok_and_line(&self) -> &[u8] {
        &self.text
    }

    /// The field line, with CRLF.
    #[must_use]
    #[inline]
    pub fn line(&self) -> &[u8] {
        &self.text[OK.len()..]
    }

    fn render(&mut self) {
        // Beyond its years httpdate panics; a wrong clock is no reason to end a loop.
        let time = UNIX_EPOCH + Duration::from_secs(self.unix_secs.min(LAST_SECOND));
        let date = &mut self.text[OK.len() + b"Date: ".len()..][..DATE_LEN];
        write!(Fixed(date), "{}", httpdate::HttpDate::from(time))
            .expect("an IMF-fixdate is 29 bytes");
    }
}

/// Takes formatted text into a fixed place, where a `String` would allocate.
struct Fixed<'a>(&'a mut [u8]);

impl Write for Fixed<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let place = std::mem::take(&mut self.0);
        let (here, rest) = place.split_at_mut_checked(text.len()).ok_or(fmt::Error)?;
        here.copy_from_slice(text.as_bytes());
        self.0 = rest;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_follows_the_clock_both_ways() {
        let mut date = DateCache::new(784_111_777);
        assert_eq!(date.line(), b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n");
        date.update(784_111_778);
        assert_eq!(date.line(), b"Date: Sun, 06 Nov 1994 08:49:38 GMT\r\n");
        date.update(0);
        assert_eq!(date.line(), b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n");
    }

    #[test]
    fn a_clock_beyond_the_year_9999_shows_its_last_second() {
        assert_eq!(
            DateCache::new(u64::MAX).line(),
            b"Date: Fri, 31 Dec 9999 23:59:59 GMT\r\n"
        );
    }
}
