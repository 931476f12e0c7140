//! The one buffer in which the writer thread gathers lines, so that many go out with one `write(2)`.

/// What a pipe takes at once (pipe(7): 16 pages).
pub(crate) const BATCH_BYTES: usize = 64 * 1024;

/// Whole lines, waiting to be written.
pub(crate) struct Batch {
    bytes: Box<[u8]>,
    len: usize,
    lines: u64,
}

impl Batch {
    /// Allocates the buffer and touches all of it.
    pub(crate) fn new() -> Self {
        // Not zeroes: those may come as untouched pages.
        Self {
            bytes: vec![b' '; BATCH_BYTES].into_boxed_slice(),
            len: 0,
            lines: 0,
        }
    }

    pub(crate) fn has_room_for(&self, bytes: usize) -> bool {
        self.bytes.len() - self.len >= bytes
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub(crate) fn lines(&self) -> u64 {
        self.lines
    }

    pub(crate) fn push(&mut self, part: &[u8]) {
        self.bytes[self.len..self.len + part.len()].copy_from_slice(part);
        self.len += part.len();
    }

    pub(crate) fn end_line(&mut self) {
        self.push(b"\n");
        self.lines += 1;
    }

    pub(crate) fn clear(&mut self) {
        self.len = 0;
        self.lines = 0;
    }
}
