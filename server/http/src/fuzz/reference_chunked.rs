//! A chunked body, read a second time: all of it at once, with no code of `crate::http`.

use std::collections::BTreeSet;

/// What the bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reading {
    /// The body does not end in them, and nothing is wrong with its whole lines.
    Unfinished,
    /// No body; its client may get any of these.
    Refused(BTreeSet<u16>),
    /// A body, and the bytes that it takes on the wire.
    Accepted(Vec<u8>, usize),
}

fn refused(statuses: impl IntoIterator<Item = u16>) -> Reading {
    Reading::Refused(statuses.into_iter().collect())
}

/// The line at a place, without its line end, and where the next one begins; whether it ends in CRLF.
fn line(bytes: &[u8], at: usize) -> Option<(&[u8], usize, bool)> {
    let len = bytes[at..].iter().position(|&byte| byte == b'\n')?;
    let line = &bytes[at..at + len];
    match line.strip_suffix(b"\r") {
        Some(line) => Some((line, at + len + 1, true)),
        None => Some((line, at + len + 1, false)),
    }
}

fn is_text(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .all(|&byte| byte == b'\t' || (byte >= 0x20 && byte != 0x7f))
}

fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// `text` without the blanks before it.
fn after_blanks(text: &[u8]) -> &[u8] {
    let blanks = text.iter().take_while(|byte| b" \t".contains(byte));
    &text[blanks.count()..]
}

/// `text` without the token before it, if there is one.
fn after_token(text: &[u8]) -> Option<&[u8]> {
    let len = text.iter().take_while(|&&byte| is_tchar(byte)).count();
    (len > 0).then(|| &text[len..])
}

/// `text` without the string in quotation marks before it, if there is one.
fn after_quoted(text: &[u8]) -> Option<&[u8]> {
    let mut rest = text.strip_prefix(b"\"")?;
    loop {
        rest = match rest {
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', _, rest @ ..] => rest,
            [byte, rest @ ..] if *byte != b'\\' => rest,
            _ => return None,
        };
    }
}

fn are_extensions(text: &[u8]) -> bool {
    let mut rest = text;
    while !rest.is_empty() {
        let Some(name) = after_blanks(rest).strip_prefix(b";") else {
            return false;
        };
        let Some(after_name) = after_token(after_blanks(name)) else {
            return false;
        };
        let Some(value) = after_blanks(after_name).strip_prefix(b"=") else {
            rest = after_name;
            continue;
        };
        let value = after_blanks(value);
        let Some(after_value) = after_quoted(value).or_else(|| after_token(value)) else {
            return false;
        };
        rest = after_value;
    }
    true
}

pub(super) fn read(bytes: &[u8], body_max: u64) -> Reading {
    let (mut body, mut at) = (Vec::new(), 0);
    let (mut announced, mut extensions) = (0_u128, 0);
    loop {
        let Some((size_line, next, has_crlf)) = line(bytes, at) else {
            return Reading::Unfinished;
        };
        let digits = size_line
            .iter()
            .position(|byte| !byte.is_ascii_hexdigit())
            .unwrap_or(size_line.len());
        let (digits, extension) = size_line.split_at(digits);
        extensions += extension.len();
        let is_extension = are_extensions(extension);
        if !has_crlf
            || !(1..=16).contains(&digits.len())
            || !is_extension
            || !is_text(extension)
            || extension.len() > 256
            || extensions > 16 * 1024
        {
            return refused([400]);
        }
        let text = std::str::from_utf8(digits).expect("digits are text");
        let size = u128::from_str_radix(text, 16).expect("digits are a number");
        at = next;
        if size == 0 {
            break;
        }
        announced += size;
        if announced > u128::from(body_max) {
            return refused([413]);
        }
        let Some(end) = usize::try_from(size)
            .ok()
            .and_then(|size| at.checked_add(size))
        else {
            return Reading::Unfinished;
        };
        if end > bytes.len() {
            return Reading::Unfinished;
        }
        body.extend_from_slice(&bytes[at..end]);
        match &bytes[end..] {
            [b'\r', b'\n', ..] => at = end + 2,
            [] | [b'\r'] => return Reading::Unfinished,
            _ => return refused([400]),
        }
    }
    trailers(bytes, at, body)
}

fn trailers(bytes: &[u8], start: usize, body: Vec<u8>) -> Reading {
    let mut broken = BTreeSet::new();
    let mut at = start;
    loop {
        let Some((line, next, has_crlf)) = line(bytes, at) else {
            return Reading::Unfinished;
        };
        at = next;
        if !has_crlf {
            broken.insert(400);
        }
        if line.is_empty() {
            break;
        }
        let mut parts = line.splitn(2, |&byte| byte == b':');
        let name = parts.next().unwrap_or_default();
        let is_name = after_token(name).is_some_and(<[u8]>::is_empty);
        if !is_name || !parts.next().is_some_and(is_text) {
            broken.insert(400);
        }
    }
    if at - start > 4096 {
        broken.insert(431);
    }
    if broken.is_empty() {
        Reading::Accepted(body, at)
    } else {
        Reading::Refused(broken)
    }
}
