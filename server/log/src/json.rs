//! Lines for programs: `{"time":"…","level":"INFO","target":"…","message":"…","field":value}`.
//!
//! Every line is valid JSON, also one that was cut: a string that did not fit ends with "…", members after it
//! are left out, and the line says `"truncated":true`. Numbers and booleans are not quoted. A field that is
//! named like one of our own members gets an underscore: duplicate names are legal JSON, but readers disagree
//! on what they mean.

use super::batch::Batch;
use super::line::{Line, TARGET_BYTES, TEXT_BYTES, name_of, write_error};
use super::text::{Escape, Escaped, Text};
use super::time::rfc3339;
use std::error::Error;
use std::fmt::{self, Arguments, Debug, Write};
use tracing::field::{Field, Visit};

/// Writes an event's message and fields into a record, as members of an object, each with a comma before it.
pub(super) struct Members<'a> {
    pub(super) text: &'a mut Text<TEXT_BYTES>,
}

impl Members<'_> {
    /// Adds a string member whose value is what `write` writes, as far as it fits.
    pub(super) fn string(&mut self, name: &str, write: impl FnOnce(&mut dyn Write) -> fmt::Result) {
        let before = self.text.len();
        self.name(name);
        self.text.push_whole("\"");
        if self.text.is_cut() {
            return self.text.cut_back_to(before);
        }
        // An error is a cut, which the text marks itself, or the value's own, which cannot be reported
        // anywhere else.
        let _ = write(&mut Escaped {
            text: self.text,
            escape: Escape::Quoted,
        });
        self.text.push_closing("\"");
    }

    /// Adds a member whose value is JSON as it stands, or nothing if it does not fit.
    pub(super) fn number(&mut self, name: &str, value: Arguments<'_>) {
        let before = self.text.len();
        self.name(name);
        let _ = Escaped {
            text: self.text,
            escape: Escape::Quoted,
        }
        .write_fmt(value);
        if self.text.is_cut() {
            self.text.cut_back_to(before);
        }
    }

    fn name(&mut self, name: &str) {
        self.text.push_whole(",\"");
        let _ = Escaped {
            text: self.text,
            escape: Escape::Quoted,
        }
        .write_str(name);
        if matches!(name, "time" | "level" | "target" | "truncated") {
            self.text.push_whole("_");
        }
        self.text.push_whole("\":");
    }
}

impl Visit for Members<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.string(name_of(field), |out| write!(out, "{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.string(name_of(field), |out| out.write_str(value));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.string(name_of(field), |out| write_error(out, value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.number(name_of(field), format_args!("{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.number(name_of(field), format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.number(name_of(field), format_args!("{value}"));
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.number(name_of(field), format_args!("{value}"));
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.number(name_of(field), format_args!("{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            // `Debug` writes 1e300 as such; `Display` writes its three hundred zeroes.
            self.number(name_of(field), format_args!("{value:?}"));
        } else {
            // JSON cannot express these, and other writers use null.
            self.number(name_of(field), format_args!("null"));
        }
    }
}

/// Appends one line to `batch`.
pub(super) fn line(line: &Line<'_>, batch: &mut Batch) {
    let mut target = Text::<TARGET_BYTES>::new();
    let _ = Escaped {
        text: &mut target,
        escape: Escape::Quoted,
    }
    .write_str(line.target);
    target.push_closing("");

    batch.push(b"{\"time\":\"");
    batch.push(&rfc3339(line.unix_ms));
    batch.push(b"\",\"level\":\"");
    batch.push(line.level.as_str().as_bytes());
    batch.push(b"\",\"target\":\"");
    batch.push(target.as_bytes());
    batch.push(b"\"");
    batch.push(line.text.as_bytes());
    if line.text.is_cut() {
        batch.push(b",\"truncated\":true");
    }
    batch.push(b"}");
    batch.end_line();
}

#[cfg(test)]
mod tests {
    use crate::{line::TEXT_BYTES, record::tests::line_of, style::Style};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn parsed(log: impl FnOnce()) -> Value {
        let line = line_of(Style::Json, log);
        let body = line.strip_suffix('\n').expect("a line has an end");
        assert!(!body.contains('\n'), "one event is one line");
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    #[test]
    fn a_line_has_time_level_target_message_and_fields_in_this_order() {
        let line = line_of(Style::Json, || {
            tracing::info!(target: "door", route = %"/user/{id}", bytes = 1_024_u64, "a request was served");
        });
        assert_eq!(
            line,
            concat!(
                r#"{"time":"1970-01-01T00:00:00.000Z","level":"INFO","target":"door","#,
                r#""message":"a request was served","route":"/user/{id}","bytes":1024}"#,
                "\n"
            )
        );
    }

    #[test]
    fn numbers_and_booleans_stand_unquoted() {
        let value = parsed(|| {
            tracing::warn!(
                a = -1_i64,
                b = u64::MAX,
                c = true,
                d = 1e300,
                e = 0.1,
                f = f64::NAN,
                g = f64::INFINITY,
                h = "1"
            );
        });
        assert_eq!(value["a"], json!(-1));
        assert_eq!(value["b"], json!(u64::MAX));
        assert_eq!(value["c"], json!(true));
        assert_eq!(value["d"], json!(1e300));
        assert_eq!(value["e"], json!(0.1));
        assert_eq!(value["f"], Value::Null);
        assert_eq!(value["g"], Value::Null);
        assert_eq!(value["h"], json!("1"));
    }

    #[test]
    fn a_field_named_like_one_of_ours_is_told_apart() {
        let value = parsed(|| {
            tracing::info!(
                level = 3,
                time = "now",
                target = "x",
                truncated = false,
                "m"
            );
        });
        assert_eq!(value["level"], json!("INFO"));
        assert_eq!(value["level_"], json!(3));
        assert_eq!(value["time_"], json!("now"));
        assert_eq!(value["target_"], json!("x"));
        assert_eq!(value["truncated_"], json!(false));
        assert_eq!(value.get("truncated"), None);
    }

    #[test]
    fn a_field_s_name_is_escaped_too() {
        let value = parsed(|| tracing::info!("a \"b\" \\" = 1, r#type = 2));
        assert_eq!(value["a \"b\" \\"], json!(1));
        assert_eq!(value["type"], json!(2));
    }

    #[test]
    fn a_string_that_is_cut_is_marked_and_what_follows_is_left_out() {
        let value = parsed(|| tracing::info!(a = 1, long = "y".repeat(2_000), after = 2, "m"));
        assert_eq!(value["a"], json!(1));
        assert!(value["long"].as_str().unwrap().ends_with("y…"));
        assert_eq!(value.get("after"), None);
        assert_eq!(value["truncated"], json!(true));
    }

    #[test]
    fn a_line_is_valid_wherever_it_is_cut() {
        for length in TEXT_BYTES - 80..TEXT_BYTES + 8 {
            let value = parsed(|| {
                tracing::info!(
                    number = 1_234_567,
                    text = "a\"b",
                    flag = true,
                    "{}",
                    "x".repeat(length)
                );
            });
            let whole = value["message"].as_str().unwrap().len() == length
                && value["text"] == "a\"b"
                && value["flag"] == true;
            assert_eq!(value.get("truncated").is_none(), whole, "{value}");
        }
    }

    proptest! {
        #[test]
        fn any_text_comes_back_as_it_was_or_marked_as_cut(text in any::<String>(), long in ".{0,400}", number in any::<f64>()) {
            let value = parsed(|| tracing::info!(number, shown = %long, "{text}"));
            if value.get("truncated").is_none() {
                prop_assert_eq!(value["message"].as_str(), Some(&*text));
                prop_assert_eq!(value["shown"].as_str(), Some(&*long));
            } else {
                let all = value["message"].as_str().unwrap().chars().count() + value["shown"].as_str().map_or(0, |s| s.chars().count());
                prop_assert!(all <= text.chars().count() + long.chars().count() + 2);
            }
        }
    }
}
