//! One line as both formats see it: its parts, how much of them fits, and how names and errors are written.

use super::text::Text;
use std::error::Error;
use std::fmt::{self, Write};
use tracing::Level;
use tracing::field::Field;

/// Room for a message and its fields: what is left of 1 KiB for a record and the heap's own note of it.
pub(super) const TEXT_BYTES: usize = 981;

/// No line is longer: the text, and in front of it time, level and target, and JSON's own names.
pub(super) const LINE_BYTES_MAX: usize = TEXT_BYTES + TARGET_BYTES + 128;

/// Where targets are cut; the longest in this workspace has 40 bytes.
pub(super) const TARGET_BYTES: usize = 128;

/// The parts of a line.
pub(super) struct Line<'a> {
    pub(super) unix_ms: u64,
    pub(super) level: Level,
    pub(super) target: &'a str,
    pub(super) text: &'a Text<TEXT_BYTES>,
}

/// `name` as it was written: a raw identifier keeps its `r#` in tracing's metadata.
pub(super) fn name_of(field: &Field) -> &'static str {
    field.name().strip_prefix("r#").unwrap_or(field.name())
}

/// An error with its causes: `cannot read the file: permission denied`.
pub(super) fn write_error(out: &mut dyn Write, error: &dyn Error) -> fmt::Result {
    write!(out, "{error}")?;
    let mut cause = error.source();
    while let Some(error) = cause {
        write!(out, ": {error}")?;
        cause = error.source();
    }
    Ok(())
}
