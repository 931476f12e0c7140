//! Code that reads, writes or appends for a request asks here first whether the request has outgrown its
//! bucket. The answer is then a 500 in any case, so the work should end.

use std::io;
use transom_arena::exhausted;

/// An error of reading or writing where the request that this thread runs has outgrown its bucket.
#[inline]
pub(crate) fn io_unless_exhausted() -> io::Result<()> {
    match exhausted() {
        None => Ok(()),
        Some(_) => Err(io::ErrorKind::OutOfMemory.into()),
    }
}

/// Appends, unless there is no room and the request has outgrown its bucket.
#[inline]
pub(crate) fn append(bytes: &mut Vec<u8>, part: &[u8]) -> io::Result<()> {
    if part.len() > bytes.capacity() - bytes.len() {
        io_unless_exhausted()?;
    }
    bytes.extend_from_slice(part);
    Ok(())
}
