//! The decoded path of a target: percent-decoded once, then freed of dot segments once.
//!
//! The order is the point. Escapes are undone first, so that `..%2F..` and `%2e%2e/` are dot
//! segments like any other and are resolved like any other; what comes out has none left, and is
//! never decoded again, so `%252e` stays the text `%2e`. `%2F` becomes a plain `/`: the router, the
//! handler and whatever opens a file then see one and the same string, and none of them can find a
//! separator that another missed. A client that means a slash *within* a segment has to look at the
//! raw target, which is kept beside it; so has a gateway in front of us that guards paths by
//! prefix, or it must decode as we do.

use super::Refusal;
use super::bytes::hex_digit;

/// Writes the decoded form of `raw`, a target's path, to the start of `out`; returns its length.
///
/// The result begins with `/`, holds no dot segment and no NUL, and is never longer than `raw`. It
/// is bytes, not text: escapes may spell anything. Empty segments (`//`) mean something and stay.
/// `..` at the root stays at the root.
///
/// # Errors
///
/// 400 if `raw` does not begin with `/` (an asterisk has no path), has a malformed escape, or holds
/// NUL; 414 if it is longer than `out`.
pub fn decode_path(raw: &[u8], out: &mut [u8]) -> Result<usize, Refusal> {
    let [b'/', segments @ ..] = raw else {
        return Err(Refusal::bad("a path that does not begin with /"));
    };
    if raw.len() > out.len() {
        return Err(Refusal::new(414, "a path longer than the place for it"));
    }
    // Most paths have nothing to decode or resolve.
    if !raw.iter().any(|byte| matches!(byte, b'%' | b'.' | 0)) {
        out[..raw.len()].copy_from_slice(raw);
        return Ok(raw.len());
    }

    let mut path = Segments {
        out,
        len: 0,
        segment: 1,
    };
    path.push(b'/');
    let mut rest = segments;
    while let [byte, after @ ..] = rest {
        let (byte, after) = if *byte == b'%' {
            unescape(after)?
        } else {
            (*byte, after)
        };
        match byte {
            0 => return Err(Refusal::bad("a NUL in the path")),
            b'/' => path.end_segment(),
            _ => path.push(byte),
        }
        rest = after;
    }
    path.resolve_dots();
    Ok(path.len)
}

/// The byte that the two digits at the start of `after` spell, and what follows them.
fn unescape(after: &[u8]) -> Result<(u8, &[u8]), Refusal> {
    if let [high, low, rest @ ..] = after
        && let (Some(high), Some(low)) = (hex_digit(*high), hex_digit(*low))
    {
        return Ok((high << 4 | low, rest));
    }
    Err(Refusal::bad(
        "a % in the path without two hexadecimal digits",
    ))
}

/// A path in the making: `out[..len]`, whose last segment begins at `segment`, right behind a `/`.
struct Segments<'a> {
    out: &'a mut [u8],
    len: usize,
    segment: usize,
}

impl Segments<'_> {
    fn push(&mut self, byte: u8) {
        self.out[self.len] = byte;
        self.len += 1;
    }

    /// A `/` has come: the last segment is whole.
    fn end_segment(&mut self) {
        if !self.resolve_dots() {
            self.push(b'/');
            self.segment = self.len;
        }
    }

    /// Takes the last segment away if it is `.`, and its parent too if it is `..`; says whether it
    /// did. Either way the path then ends in `/`.
    fn resolve_dots(&mut self) -> bool {
        match &self.out[self.segment..self.len] {
            b"." => {}
            b".." => {
                // The `/` before the last segment closes its parent; the one before that opens it.
                let parent = &self.out[..self.segment - 1];
                self.segment = parent
                    .iter()
                    .rposition(|&byte| byte == b'/')
                    .map_or(1, |slash| slash + 1);
            }
            _ => return false,
        }
        self.len = self.segment;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(raw: &[u8]) -> Result<Vec<u8>, u16> {
        let mut out = vec![0xdb; raw.len()];
        decode_path(raw, &mut out)
            .map(|len| out[..len].to_vec())
            .map_err(|refusal| refusal.status)
    }

    #[test]
    fn dot_segments_are_resolved_and_never_lead_above_the_root() {
        for (raw, path) in [
            ("/", "/"),
            ("/a", "/a"),
            ("/a/", "/a/"),
            ("/a/../b", "/b"),
            ("/a/./b", "/a/b"),
            ("/a/b/c/./../../g", "/a/g"),
            ("/..", "/"),
            ("/.", "/"),
            ("/../..", "/"),
            ("/../../x", "/x"),
            ("/a/..", "/"),
            ("/a/.", "/a/"),
            ("/a/b/..", "/a/"),
            ("//a", "//a"),
            ("/a//b", "/a//b"),
            ("/a//../b", "/a/b"),
            ("//..", "/"),
            ("/...", "/..."),
            ("/.a/..b/c.", "/.a/..b/c."),
            ("/x.html", "/x.html"),
        ] {
            assert_eq!(
                decode(raw.as_bytes()).as_deref(),
                Ok(path.as_bytes()),
                "{raw}"
            );
        }
    }

    #[test]
    fn escapes_are_undone_once_and_before_dot_segments() {
        for (raw, path) in [
            ("/%61", &b"/a"[..]),
            ("/a%20b", b"/a b"),
            ("/a%2Fb", b"/a/b"),
            ("/a%2fb", b"/a/b"),
            ("/static/..%2F..%2Fetc/passwd", b"/etc/passwd"),
            ("/a/%2e%2e/b", b"/b"),
            ("/a/.%2E", b"/"),
            ("/%252e%252e/b", b"/%2e%2e/b"),
            ("/%25", b"/%"),
            ("/%ff%0d%0a", b"/\xff\r\n"),
            ("/a%3Fb%23", b"/a?b#"),
        ] {
            assert_eq!(decode(raw.as_bytes()).as_deref(), Ok(path), "{raw}");
        }
    }

    #[test]
    fn a_malformed_path_is_refused() {
        for raw in [
            &b""[..],
            b"*",
            b"a",
            b"%2Fa",
            b"/%",
            b"/%4",
            b"/%zz",
            b"/%4g",
            b"/%00",
            b"/\0",
            b"/a%2500%00",
        ] {
            assert_eq!(decode(raw), Err(400), "{raw:?}");
        }
    }

    #[test]
    fn a_path_that_does_not_fit_is_refused_and_not_cut() {
        assert_eq!(decode_path(b"/abc", &mut [0; 3]).unwrap_err().status, 414);
        assert_eq!(decode_path(b"/abc", &mut [0; 4]), Ok(4));
    }

    proptest! {
        #[test]
        fn no_decoded_path_has_a_dot_segment_or_grows(raw in "/([./a]|%2[eEfF5]|%25){0,24}") {
            let path = decode(raw.as_bytes()).unwrap();
            prop_assert!(path.len() <= raw.len());
            prop_assert_eq!(path[0], b'/');
            prop_assert!(path.split(|&b| b == b'/').all(|segment| segment != b"." && segment != b".."));
        }

        #[test]
        fn arbitrary_bytes_never_panic(raw in proptest::collection::vec(any::<u8>(), 0..64), room in 0_usize..64) {
            let _ = decode_path(&raw, &mut vec![0; room]);
        }
    }
}
