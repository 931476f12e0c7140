//! JSON that is written.

use crate::outgrown::append;
use serde::Serialize;
use std::io::{self, Write};

/// Writes a value. It stops growing at the mark.
pub(crate) fn write(value: &(impl Serialize + ?Sized)) -> serde_json::Result<Vec<u8>> {
    let mut out = Growing(Vec::with_capacity(128));
    serde_json::to_writer(&mut out, value)?;
    Ok(out.0)
}

struct Growing(Vec<u8>);

impl Write for Growing {
    #[inline]
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        self.write_all(part)?;
        Ok(part.len())
    }

    #[inline]
    fn write_all(&mut self, part: &[u8]) -> io::Result<()> {
        append(&mut self.0, part)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
