//! Which of the two formats a log has, and what that means for a line.

use super::batch::Batch;
use super::line::Line;
use super::text::{Escape, Escaped, Text};
use super::{human, json, time};
use std::fmt::Write;
use tracing::Level;

/// What a line looks like, decided once at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Human { coloured: bool },
    Json,
}

/// Appends a line and its end to `batch`, which must have room for [`LINE_BYTES_MAX`].
///
/// [`LINE_BYTES_MAX`]: super::line::LINE_BYTES_MAX
pub(super) fn render(line: &Line<'_>, style: Style, batch: &mut Batch) {
    match style {
        Style::Human { coloured } => human::line(line, coloured, batch),
        Style::Json => json::line(line, batch),
    }
}

/// The line in which the writer thread says that `lines` others are missing.
pub(super) fn render_dropped(lines: u64, style: Style, batch: &mut Batch) {
    let mut text = Text::new();
    let message = format_args!("{lines} log lines dropped");
    match style {
        Style::Human { .. } => {
            let _ = Escaped {
                text: &mut text,
                escape: Escape::Controls,
            }
            .write_fmt(message);
        }
        Style::Json => {
            let mut members = json::Members { text: &mut text };
            members.string("message", |out| out.write_fmt(message));
            members.number("dropped", format_args!("{lines}"));
        }
    }
    let (unix_ms, level, target) = (time::now_ms(), Level::WARN, module_path!());
    let line = Line {
        unix_ms,
        level,
        target,
        text: &text,
    };
    render(&line, style, batch);
}
