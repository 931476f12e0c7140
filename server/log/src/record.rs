//! One event as a record of fixed size.
//!
//! The thread that logs writes the event's message and fields into the record, because it alone can still see
//! them. Time, level and target are put in front by the writer thread, which has the time for it.

use super::line::{Line, TEXT_BYTES};
use super::style::Style;
use super::text::{Escape, Escaped, Text};
use super::{human, json, queue, time};
use std::fmt::Write;
use tracing::{Event, Level};

/// One event on its way to the writer thread.
pub(super) struct Record {
    unix_ms: u64,
    level: Level,
    target: &'static str,
    text: Text<TEXT_BYTES>,
}

const _: () = assert!(size_of::<Record>() == 1024 - size_of::<usize>());

impl Record {
    pub(super) const fn blank() -> Self {
        Self {
            unix_ms: 0,
            level: Level::TRACE,
            target: "",
            text: Text::new(),
        }
    }

    /// Makes a blank record the record of `event`.
    ///
    /// Runs the `Debug` and `Display` code of the event's fields, which may panic, log, or outgrow the
    /// thread's bucket: nothing is held while it runs.
    pub(super) fn fill(&mut self, event: &Event<'_>, style: Style) {
        let text = &mut self.text;
        match style {
            Style::Human { .. } => {
                event.record(&mut human::Fields { text });
                text.push_closing("");
            }
            Style::Json => event.record(&mut json::Members { text }),
        }
        self.unix_ms = time::now_ms();
        self.level = *event.metadata().level();
        self.target = event.metadata().target();
    }

    /// Makes a blank record the record of a line of the crate `log`.
    pub(super) fn fill_from_log(&mut self, line: &::log::Record<'_>, style: Style) {
        let text = &mut self.text;
        match style {
            Style::Human { .. } => {
                // What does not fit is marked in the text itself.
                let _ = Escaped {
                    text,
                    escape: Escape::Controls,
                }
                .write_fmt(*line.args());
                text.push_closing("");
            }
            Style::Json => {
                json::Members { text }.string("message", |out| out.write_fmt(*line.args()));
            }
        }
        self.unix_ms = time::now_ms();
        self.level = level_of(line.level());
        self.target = line.module_path_static().unwrap_or("log");
    }

    pub(super) fn line(&self) -> Line<'_> {
        Line {
            unix_ms: self.unix_ms,
            level: self.level,
            target: self.target,
            text: &self.text,
        }
    }
}

/// What a level of the crate `log` is called by `tracing`.
pub(super) fn level_of(level: ::log::Level) -> Level {
    match level {
        ::log::Level::Error => Level::ERROR,
        ::log::Level::Warn => Level::WARN,
        ::log::Level::Info => Level::INFO,
        ::log::Level::Debug => Level::DEBUG,
        ::log::Level::Trace => Level::TRACE,
    }
}

impl queue::Queued for Record {
    fn blank() -> Self {
        Record::blank()
    }

    /// Most texts are short: only what is used of them is copied.
    fn copy_from(&mut self, other: &Self) {
        self.unix_ms = other.unix_ms;
        self.level = other.level;
        self.target = other.target;
        self.text.copy_from(&other.text);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::Batch;
    use crate::line::LINE_BYTES_MAX;
    use crate::style::render;
    use std::error::Error;
    use std::sync::{Arc, Mutex};
    use tracing::{Metadata, Subscriber, span};

    struct Capture {
        style: Style,
        records: Arc<Mutex<Vec<Record>>>,
    }

    impl Subscriber for Capture {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.is_event()
        }
        fn event(&self, event: &Event<'_>) {
            let mut record = Record::blank();
            record.fill(event, self.style);
            self.records.lock().unwrap().push(record);
        }
        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            unreachable!("spans are not enabled")
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    /// The record of the one event that `log` logs.
    pub(crate) fn record_of(style: Style, log: impl FnOnce()) -> Record {
        let records = Arc::default();
        let capture = Capture {
            style,
            records: Arc::clone(&records),
        };
        tracing::subscriber::with_default(capture, log);
        let mut records = records.lock().unwrap();
        assert_eq!(records.len(), 1);
        records.remove(0)
    }

    /// The line of the one event that `log` logs, as it would have been written at the start of 1970.
    pub(crate) fn line_of(style: Style, log: impl FnOnce()) -> String {
        let record = record_of(style, log);
        let mut batch = Batch::new();
        let line = Line {
            unix_ms: 0,
            ..record.line()
        };
        render(&line, style, &mut batch);
        String::from_utf8(batch.as_bytes().to_vec()).expect("lines are UTF-8")
    }

    #[test]
    fn the_longest_line_fits_the_bound_of_a_line() {
        // Every byte of this target needs an escape, and every byte of the message is used.
        const TARGET: &str = "\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"";
        let message = "m".repeat(2_000);
        for style in [Style::Human { coloured: true }, Style::Json] {
            let line = line_of(style, || tracing::error!(target: TARGET, "{message}"));
            assert!(
                line.len() <= LINE_BYTES_MAX && line.len() > TEXT_BYTES,
                "{} bytes",
                line.len()
            );
        }
    }

    #[test]
    fn an_error_is_written_with_its_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot read the file")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("the disk is on fire"));
        let line = line_of(Style::Human { coloured: false }, || {
            tracing::error!(error = &error as &dyn Error, "no configuration");
        });
        assert!(
            line.ends_with("no configuration error=cannot read the file: the disk is on fire\n"),
            "{line}"
        );
    }
}
