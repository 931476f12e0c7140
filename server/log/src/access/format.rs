//! Lines: what a client has sent cannot end one, control a terminal, or pass for another part of the line.

use super::record::{AccessRecord, Excerpt, FIELD_MAX, REQUEST_MAX};
use crate::{Batch, common, rfc3339};
use std::fmt::{self, Write};

/// Where names of forwards and doors are cut; the path of a door has at most 107 bytes.
const NAME_MAX: usize = 256;

/// The most that one byte becomes: `\u001b`.
const ESCAPE_MAX: usize = 6;

/// Time, addresses, numbers, and the names of JSON's members.
const REST_MAX: usize = 768;

/// What a line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessStyle {
    /// Apache's combined format, and behind it what that does not have.
    Combined,
    /// One JSON object per line.
    Json,
}

/// No line is longer.
pub(super) const LINE_BYTES_MAX: usize =
    (REQUEST_MAX + 2 * FIELD_MAX + 2 * NAME_MAX) * ESCAPE_MAX + REST_MAX;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Texts by their numbers, escaped.
pub(super) struct Names(Box<[Box<[u8]>]>);

impl Names {
    pub(super) fn new(names: &[String], style: AccessStyle) -> Self {
        let escaped = names.iter().map(|name| {
            let end = name.floor_char_boundary(NAME_MAX);
            let mut bytes = Vec::new();
            escape(&name.as_bytes()[..end], style, |part| {
                bytes.extend_from_slice(part);
            });
            bytes.into_boxed_slice()
        });
        Names(escaped.collect())
    }

    fn get(&self, number: u16) -> Option<&[u8]> {
        self.0.get(usize::from(number)).map(AsRef::as_ref)
    }
}

/// What makes lines of records.
pub(super) struct Format {
    pub(super) style: AccessStyle,
    pub(super) forwards: Names,
    pub(super) doors: Names,
}

/// Formats into a batch.
struct Out<'b>(&'b mut Batch);

impl Write for Out<'_> {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        self.0.push(part.as_bytes());
        Ok(())
    }
}

impl Format {
    /// Appends a line and its end to `batch`, which must have room for [`LINE_BYTES_MAX`].
    pub(super) fn render(&self, record: &AccessRecord, batch: &mut Batch) {
        let written = match self.style {
            AccessStyle::Combined => self.combined(record, &mut Out(batch)),
            AccessStyle::Json => self.json(record, &mut Out(batch)),
        };
        debug_assert!(written.is_ok(), "a batch takes everything");
        batch.end_line();
    }

    /// `127.0.0.1 - - [21/Nov/2026:10:25:00 +0000] "GET / HTTP/1.1" 200 14 "-" "curl/8.5.0" duration_us=…`
    fn combined(&self, record: &AccessRecord, out: &mut Out<'_>) -> fmt::Result {
        match record.peer {
            Some(peer) => write!(out, "{}", peer.ip().to_canonical())?,
            None => out.write_str("-")?,
        }
        out.write_str(" - - [")?;
        out.0.push(&common(record.unix_ms));
        out.write_str("] ")?;
        quoted(&record.request, out)?;
        write!(out, " {} {} ", record.status, record.body_bytes)?;
        quoted(&record.referer, out)?;
        out.write_str(" ")?;
        quoted(&record.user_agent, out)?;
        write!(
            out,
            " duration_us={} waited_us={} number={}",
            record.duration_us, record.waited_us, record.number
        )?;
        for (name, value) in [
            (" forward=\"", self.forwards.get(record.forward)),
            (" door=\"", self.doors.get(record.doorway)),
        ] {
            out.write_str(name)?;
            out.0.push(value.unwrap_or(b"-"));
            out.write_str("\"")?;
        }
        let diagnostic = record
            .diagnostic
            .map_or("-", |diagnostic| diagnostic.text());
        write!(
            out,
            " diagnostic={diagnostic} aborted={} cut={}",
            record.aborted,
            record.is_cut()
        )
    }

    /// `{"time":"2026-11-21T10:25:00.123Z","peer":"127.0.0.1:40000",…}`; every member is always there.
    fn json(&self, record: &AccessRecord, out: &mut Out<'_>) -> fmt::Result {
        out.write_str("{\"time\":\"")?;
        out.0.push(&rfc3339(record.unix_ms));
        out.write_str("\",\"peer\":")?;
        match record.peer {
            Some(peer) => write!(out, "\"{peer}\"")?,
            None => out.write_str("null")?,
        }
        for (name, value) in [
            (",\"forward\":", self.forwards.get(record.forward)),
            (",\"door\":", self.doors.get(record.doorway)),
        ] {
            out.write_str(name)?;
            match value {
                Some(value) => {
                    out.write_str("\"")?;
                    out.0.push(value);
                    out.write_str("\"")?;
                }
                None => out.write_str("null")?,
            }
        }
        out.write_str(",\"request\":")?;
        string(&record.request, out)?;
        write!(
            out,
            ",\"status\":{},\"bytes\":{},\"referer\":",
            record.status, record.body_bytes
        )?;
        string(&record.referer, out)?;
        out.write_str(",\"user_agent\":")?;
        string(&record.user_agent, out)?;
        write!(
            out,
            ",\"duration_us\":{},\"waited_us\":{},\"number\":{},\"diagnostic\":",
            record.duration_us, record.waited_us, record.number
        )?;
        match record.diagnostic {
            Some(diagnostic) => write!(out, "\"{}\"", diagnostic.text())?,
            None => out.write_str("null")?,
        }
        write!(
            out,
            ",\"aborted\":{},\"cut\":{}}}",
            record.aborted,
            record.is_cut()
        )
    }
}

/// A quoted string of the combined format: `"-"` for nothing, and `...` where it was cut.
fn quoted<const N: usize>(value: &Excerpt<N>, out: &mut Out<'_>) -> fmt::Result {
    out.write_str("\"")?;
    escape(value.get().unwrap_or(b"-"), AccessStyle::Combined, |part| {
        out.0.push(part);
    });
    out.write_str(if value.is_cut() { "...\"" } else { "\"" })
}

/// A JSON string, or `null` for nothing; `…` where it was cut.
fn string<const N: usize>(value: &Excerpt<N>, out: &mut Out<'_>) -> fmt::Result {
    let Some(bytes) = value.get() else {
        return out.write_str("null");
    };
    out.write_str("\"")?;
    escape(bytes, AccessStyle::Json, |part| out.0.push(part));
    out.write_str(if value.is_cut() { "…\"" } else { "\"" })
}

/// Gives `bytes` to `push` as they may stand in a line.
fn escape(bytes: &[u8], style: AccessStyle, push: impl FnMut(&[u8])) {
    match style {
        AccessStyle::Combined => escape_bytes(bytes, push),
        AccessStyle::Json => escape_text(bytes, push),
    }
}

/// As nginx and Apache do: printable ASCII as it is, `\"` and `\\`, and `\x1b` for everything else.
fn escape_bytes(mut bytes: &[u8], mut push: impl FnMut(&[u8])) {
    let special = |byte: &u8| !matches!(byte, b' '..=b'~') || matches!(byte, b'"' | b'\\');
    while let Some(at) = bytes.iter().position(special) {
        push(&bytes[..at]);
        match bytes[at] {
            byte @ (b'"' | b'\\') => push(&[b'\\', byte]),
            byte => push(&[
                b'\\',
                b'x',
                HEX[usize::from(byte >> 4)],
                HEX[usize::from(byte & 15)],
            ]),
        }
        bytes = &bytes[at + 1..];
    }
    push(bytes);
}

/// As JSON has it; what is no UTF-8 becomes U+FFFD, and control characters stand as `\u001b`.
fn escape_text(bytes: &[u8], mut push: impl FnMut(&[u8])) {
    for chunk in bytes.utf8_chunks() {
        let mut text = chunk.valid();
        let special = |c: char| c.is_control() || matches!(c, '"' | '\\');
        while let Some(at) = text.find(special) {
            let (plain, rest) = text.split_at(at);
            push(plain.as_bytes());
            let mut rest = rest.chars();
            match rest.next().expect("`find` found a character here") {
                c @ ('"' | '\\') => push(&[b'\\', c as u8]),
                // A control character is at most U+009F.
                c => push(&[
                    b'\\',
                    b'u',
                    b'0',
                    b'0',
                    HEX[c as usize >> 4 & 15],
                    HEX[c as usize & 15],
                ]),
            }
            text = rest.as_str();
        }
        push(text.as_bytes());
        if !chunk.invalid().is_empty() {
            push("\u{fffd}".as_bytes());
        }
    }
}
