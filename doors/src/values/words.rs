//! The system's text for an error, without the process heap.

use std::ffi::CStr;
use std::fmt;
use std::io;

/// An error in the words of the standard library, which allocates to make them. So errors are written this
/// way once nothing may be allocated any more: in every line of the log after the start, and by every error
/// that may occur in one.
#[derive(Debug, Clone, Copy)]
pub struct Words<'e>(pub &'e io::Error);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(code) = self.0.raw_os_error() else {
            return fmt::Display::fmt(self.0, f);
        };
        let mut text = [0_u8; 128];
        // SAFETY: it writes at most so many bytes. The last one stays NUL in any case.
        unsafe { libc::strerror_r(code, text.as_mut_ptr().cast(), text.len() - 1) };
        let text = CStr::from_bytes_until_nul(&text).unwrap_or_default();
        match text.to_str() {
            Ok(text) => write!(f, "{text} (os error {code})"),
            Err(_) => write!(f, "os error {code}"), // in another encoding
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_those_of_the_standard_library() {
        for error in [
            io::Error::from_raw_os_error(libc::ENOENT),
            io::Error::from_raw_os_error(libc::EACCES),
            io::Error::from_raw_os_error(9999),
            io::ErrorKind::TimedOut.into(),
            io::Error::other("what it is"),
        ] {
            assert_eq!(Words(&error).to_string(), error.to_string());
        }
    }
}
