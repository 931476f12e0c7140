//! Lines for people: `2026-11-21T10:25:00.123Z  INFO message field=value`.
//!
//! Strings with spaces or quotes are quoted. What a field's own `Display` or `Debug` wrote stays as it is,
//! except control characters: no value can forge a line. Programs that parse lines should read the JSON.

use super::batch::Batch;
use super::line::{Line, TEXT_BYTES, name_of, write_error};
use super::text::{Escape, Escaped, Text};
use super::time::rfc3339;
use std::error::Error;
use std::fmt::{Debug, Write};
use tracing::Level;
use tracing::field::{Field, Visit};

/// Writes an event's message and fields into a record.
pub(super) struct Fields<'a> {
    pub(super) text: &'a mut Text<TEXT_BYTES>,
}

impl<'a> Fields<'a> {
    /// Writes what stands before a value, and returns where to write the value.
    fn value_of(&mut self, field: &Field) -> Escaped<'_, TEXT_BYTES> {
        if self.text.len() > 0 {
            self.text.push_whole(" ");
        }
        let mut out = Escaped {
            text: self.text,
            escape: Escape::Controls,
        };
        if field.name() != "message" {
            let _ = write!(out, "{}=", name_of(field));
        }
        out
    }
}

// What does not fit is marked in the text itself: the results of writing are of no use here.
impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.value_of(field), "{value:?}");
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let mut out = self.value_of(field);
        let plain = !value.is_empty() && !value.contains([' ', '"', '=', '\\']);
        if plain || field.name() == "message" {
            let _ = out.write_str(value);
        } else {
            out.text.push_whole("\"");
            out.escape = Escape::Quoted;
            let _ = out.write_str(value);
            out.text.push_whole("\"");
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        let _ = write_error(&mut self.value_of(field), value);
    }
}

/// Appends one line to `batch`; only the level is ever coloured.
pub(super) fn line(line: &Line<'_>, coloured: bool, batch: &mut Batch) {
    let (level, colour) = match line.level {
        Level::ERROR => ("ERROR", "\x1b[31m"),
        Level::WARN => (" WARN", "\x1b[33m"),
        Level::INFO => (" INFO", "\x1b[32m"),
        Level::DEBUG => ("DEBUG", "\x1b[34m"),
        Level::TRACE => ("TRACE", "\x1b[35m"),
    };
    batch.push(&rfc3339(line.unix_ms));
    batch.push(b" ");
    if coloured {
        batch.push(colour.as_bytes());
        batch.push(level.as_bytes());
        batch.push(b"\x1b[0m");
    } else {
        batch.push(level.as_bytes());
    }
    batch.push(b" ");
    batch.push(line.text.as_bytes());
    batch.end_line();
}

#[cfg(test)]
mod tests {
    use crate::{record::tests::line_of, style::Style};

    const PLAIN: Style = Style::Human { coloured: false };

    #[test]
    fn a_line_has_time_level_message_and_fields() {
        let line = line_of(PLAIN, || {
            tracing::info!(route = %"/user/{id}", bytes = 1_024_u64, ok = true, reason = ?Some(1), "a request was served");
        });
        assert_eq!(
            line,
            "1970-01-01T00:00:00.000Z  INFO a request was served route=/user/{id} bytes=1024 ok=true reason=Some(1)\n"
        );
    }

    #[test]
    fn an_event_without_a_message_is_its_fields() {
        let line = line_of(PLAIN, || tracing::warn!(r#type = "arena", used = -1));
        assert_eq!(line, "1970-01-01T00:00:00.000Z  WARN type=arena used=-1\n");
    }

    #[test]
    fn strings_are_quoted_only_where_they_need_it() {
        let line = line_of(PLAIN, || {
            tracing::info!(
                a = "",
                b = "x y",
                c = "say \"x\"",
                d = "a=b",
                e = "x/y",
                "m"
            );
        });
        assert_eq!(
            &line[31..],
            "m a=\"\" b=\"x y\" c=\"say \\\"x\\\"\" d=\"a=b\" e=x/y\n"
        );
    }

    #[test]
    fn no_value_can_start_a_line_or_steer_the_terminal() {
        let evil = "x\n1970-01-01T00:00:00.000Z ERROR forged\x1b[2J";
        let line = line_of(
            PLAIN,
            || tracing::info!(shown = %evil, text = evil, "{evil}"),
        );
        assert_eq!(line.matches('\n').count(), 1);
        assert!(!line.contains('\x1b'));
        assert_eq!(line.matches("x\\n1970").count(), 3);
    }

    #[test]
    fn only_the_level_is_coloured() {
        let line = line_of(Style::Human { coloured: true }, || tracing::error!("m"));
        assert_eq!(line, "1970-01-01T00:00:00.000Z \x1b[31mERROR\x1b[0m m\n");
    }

    #[test]
    fn a_line_that_is_cut_ends_with_an_ellipsis() {
        let long = "é".repeat(1_000);
        for line in [
            line_of(PLAIN, || tracing::info!(after = 1, "{long}")),
            line_of(PLAIN, || tracing::info!(shown = %long, after = 1, "m")),
            line_of(PLAIN, || {
                tracing::info!(text = format!(" {long}"), after = 1, "m");
            }),
        ] {
            assert!(line.ends_with("é…\n"), "{line}");
        }
    }
}
