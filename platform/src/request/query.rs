//! Query strings, read as `application/x-www-form-urlencoded` (WHATWG URL Standard §5.1): that is what
//! browsers and the usual libraries send. Only what needs decoding is copied, into the arena.

use bumpalo::Bump;
use std::cell::OnceCell;

/// The names and values of a query, not decoded, in their order. Empty parts (`a&&b`) are skipped.
pub(super) fn pairs(query: Option<&str>) -> impl Iterator<Item = (&str, &str)> {
    let parts = query
        .unwrap_or_default()
        .split('&')
        .filter(|part| !part.is_empty());
    parts.map(|part| part.split_once('=').unwrap_or((part, "")))
}

/// Whether `raw` decodes to `name`.
pub(super) fn means(raw: &str, name: &str) -> bool {
    if is_plain(raw) {
        raw == name
    } else {
        Decoded(raw.as_bytes()).eq(name.bytes())
    }
}

/// Decodes a name or a value.
pub(super) fn decode<'r>(raw: &'r str, arena: &'r Bump, spilled: &'r Spilled) -> &'r str {
    if is_plain(raw) {
        return raw;
    }
    decode_in(arena, raw).unwrap_or_else(|| spilled.decode(raw))
}

fn decode_in<'r>(arena: &'r Bump, raw: &str) -> Option<&'r str> {
    let len = Decoded(raw.as_bytes()).count();
    let decoded = arena.try_alloc_slice_fill_copy(len, 0).ok()?;
    for (to, byte) in decoded.iter_mut().zip(Decoded(raw.as_bytes())) {
        *to = byte;
    }
    match str::from_utf8(decoded) {
        Ok(text) => Some(text),
        Err(_) => arena
            .try_alloc_str(&String::from_utf8_lossy(decoded))
            .ok()
            .map(|text| &*text),
    }
}

/// What was decoded where the arena had no room. The memory comes from the overdraft, so the request is
/// marked; but the caller may hold a lock, and must neither be unwound nor get anything wrong. Each part is
/// decoded once, so that all of them together need no more than the query is long.
#[derive(Default)]
pub(super) struct Spilled(OnceCell<Box<Text>>);

struct Text {
    of: *const u8,
    text: String,
    next: Spilled,
}

impl Spilled {
    fn decode(&self, raw: &str) -> &str {
        let mut place = &self.0;
        while let Some(text) = place.get() {
            if text.of == raw.as_ptr() {
                return &text.text;
            }
            place = &text.next.0;
        }
        let text = place.get_or_init(|| {
            let bytes: Vec<u8> = Decoded(raw.as_bytes()).collect();
            Box::new(Text {
                of: raw.as_ptr(),
                text: String::from_utf8_lossy(&bytes).into_owned(),
                next: Spilled::default(),
            })
        });
        &text.text
    }
}

/// One after the other, whatever stack there is.
impl Drop for Spilled {
    fn drop(&mut self) {
        let mut next = self.0.take();
        while let Some(mut text) = next {
            next = text.next.0.take();
        }
    }
}

fn is_plain(raw: &str) -> bool {
    !raw.bytes().any(|byte| byte == b'%' || byte == b'+')
}

/// The decoded bytes of a name or value.
struct Decoded<'a>(&'a [u8]);

impl Iterator for Decoded<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        match (first, rest) {
            (b'+', _) => Some(b' '),
            (b'%', [high, low, rest @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    self.0 = rest;
                    Some(high << 4 | low)
                }
                _ => Some(b'%'),
            },
            _ => Some(first),
        }
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(query: &str) -> Vec<(String, String)> {
        let arena = Bump::new();
        let spilled = Spilled::default();
        let decoded = |text| decode(text, &arena, &spilled).to_owned();
        pairs(Some(query))
            .map(|(name, value)| (decoded(name), decoded(value)))
            .collect()
    }

    fn check(query: &str, expected: &[(&str, &str)]) {
        let expected: Vec<_> = expected
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        assert_eq!(all(query), expected, "{query:?}");
    }

    #[test]
    fn queries_are_decoded_as_forms_are() {
        check("", &[]);
        check("a=1&b=2", &[("a", "1"), ("b", "2")]);
        check("a", &[("a", "")]);
        check("a=", &[("a", "")]);
        check("=b", &[("", "b")]);
        check("a=b=c", &[("a", "b=c")]);
        check("&&a=1&&", &[("a", "1")]);
        check("a+b=c+d", &[("a b", "c d")]);
        check("%61=%2B%26%3d%25", &[("a", "+&=%")]);
        check("a=caf%C3%A9", &[("a", "caf\u{e9}")]);
        check("a=%e4%BD%a0", &[("a", "\u{4f60}")]);
        check("a=1;b=2", &[("a", "1;b=2")]);
        check("a=?#/", &[("a", "?#/")]);
    }

    #[test]
    fn an_escape_that_is_none_stays_as_it_is() {
        check("a=%", &[("a", "%")]);
        check("a=%4", &[("a", "%4")]);
        check("a=%zz", &[("a", "%zz")]);
        check("a=100%&b=%%41", &[("a", "100%"), ("b", "%A")]);
    }

    #[test]
    fn nothing_is_decoded_twice() {
        check("a=%2541&b=%252B", &[("a", "%41"), ("b", "%2B")]);
    }

    #[test]
    fn bytes_that_are_no_text_become_replacement_characters() {
        check("a=x%FFy", &[("a", "x\u{fffd}y")]);
        check("a=%C3", &[("a", "\u{fffd}")]);
    }

    #[test]
    fn what_is_plain_is_not_copied() {
        let arena = Bump::new();
        let spilled = Spilled::default();
        let raw = "plain";
        assert!(std::ptr::eq(decode(raw, &arena, &spilled), raw));
        assert_eq!(arena.allocated_bytes(), 0);
    }

    #[test]
    fn without_room_in_the_arena_each_part_is_decoded_once_and_right() {
        let arena = Bump::new();
        arena.set_allocation_limit(Some(0));
        let spilled = Spilled::default();
        let query = "a=caf%C3%A9&%62=x%FFy&".to_owned() + &"c=%41&".repeat(100_000);
        let decoded = |part| decode(part, &arena, &spilled);
        let parts: Vec<_> = pairs(Some(&query)).take(20).collect();
        for _ in 0..2 {
            let texts: Vec<_> = parts
                .iter()
                .map(|&(n, v)| (decoded(n), decoded(v)))
                .collect();
            assert_eq!(
                texts[..3],
                [("a", "caf\u{e9}"), ("b", "x\u{fffd}y"), ("c", "A")]
            );
        }
        assert!(std::ptr::eq(decoded(parts[0].1), decoded(parts[0].1)));
        assert_eq!(arena.allocated_bytes(), 0);
    }

    #[test]
    fn a_name_is_found_however_it_is_written() {
        assert!(means("name", "name") && means("n%61me", "name") && means("a+b", "a b"));
        assert!(!means("nam", "name") && !means("n%61m", "name") && !means("%6e%61mee", "name"));
    }

    proptest! {
        #[test]
        fn any_text_survives_being_escaped(text in ".*") {
            let escaped: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
            let arena = Bump::new();
            let spilled = Spilled::default();
            prop_assert_eq!(decode(&escaped, &arena, &spilled), &text);
            prop_assert!(means(&escaped, &text));
        }

        #[test]
        fn any_query_decodes_without_a_panic(query in "[%+&=0-9a-f\u{e9}]*") {
            all(&query);
        }
    }
}
