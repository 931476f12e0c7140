//! The one buffer in which the writer thread gathers lines, so that many go out with one `write(2)`.

/// What a pipe takes at once (pipe(7): 16 pages).
pub(crate) const BATCH_BYTES: usize = 64 * 1024;

/// Whole lines, waiting to be written; before them the rest of one that was cut, if one was.
pub(crate) struct Batch {
    bytes: Box<[u8]>,
    len: usize,
    lines: u64,
    /// The first bytes are such a rest.
    begins_within: bool,
}

impl Batch {
    /// Allocates the buffer and touches all of it.
    pub(crate) fn new() -> Self {
        // Not zeroes: those may come as untouched pages.
        Self {
            bytes: vec![b' '; BATCH_BYTES].into_boxed_slice(),
            len: 0,
            lines: 0,
            begins_within: false,
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

    /// All of it has been written.
    pub(crate) fn clear(&mut self) {
        self.len = 0;
        self.lines = 0;
        self.begins_within = false;
    }

    /// After `written` bytes the sink takes no more: of the line that is cut there the rest is kept, to be
    /// written before anything else, and the lines behind it are given up. How many these are.
    pub(crate) fn keep_cut_line(&mut self, written: usize) -> u64 {
        let end = written + self.rest_of_line(written);
        let lost = newlines(&self.bytes[end..self.len]);
        self.bytes.copy_within(written..end, 0);
        self.len = end - written;
        self.begins_within = end > written;
        self.lines = u64::from(self.begins_within);
        lost
    }

    /// How many of the bytes from `written` on belong to a line that the sink has a part of.
    pub(crate) fn rest_of_line(&self, written: usize) -> usize {
        let is_within = match written {
            0 => self.begins_within,
            _ => self.bytes[written - 1] != b'\n',
        };
        let rest = &self.bytes[written..self.len];
        let end = rest.iter().position(|&byte| byte == b'\n');
        match is_within {
            true => end.map_or(rest.len(), |at| at + 1),
            false => 0,
        }
    }

    /// Gives up the rest of a line that was cut: what comes next begins elsewhere. Whether there was one.
    pub(crate) fn forget_cut_line(&mut self) -> bool {
        let rest = self.rest_of_line(0);
        self.bytes.copy_within(rest..self.len, 0);
        self.len -= rest;
        self.lines -= u64::from(rest > 0);
        self.begins_within = false;
        rest > 0
    }
}

/// Lines that end in these bytes.
pub(crate) fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&byte| byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(lines: &[&str]) -> Batch {
        let mut batch = Batch::new();
        for line in lines {
            batch.push(line.as_bytes());
            batch.end_line();
        }
        batch
    }

    #[test]
    fn the_rest_of_a_cut_line_comes_first_wherever_it_is_cut() {
        for cut in 0..="one\ntwo\nthree\n".len() {
            let mut file = Vec::new();
            let mut batch = batch(&["one", "two", "three"]);
            file.extend_from_slice(&batch.as_bytes()[..cut]);
            let lost = batch.keep_cut_line(cut);
            // The sink may refuse again, before it takes anything or in the middle of the rest.
            assert_eq!(batch.keep_cut_line(0), 0);
            let more = batch.as_bytes().len().min(1);
            file.extend_from_slice(&batch.as_bytes()[..more]);
            assert_eq!(batch.keep_cut_line(more), 0);
            batch.push(b"four");
            batch.end_line();
            file.extend_from_slice(batch.as_bytes());
            let text = String::from_utf8(file).expect("text");
            let lines: Vec<_> = text.lines().collect();
            let whole = ["one", "two", "three"].len() - lost as usize;
            assert_eq!(lines.len(), whole + 1, "{cut}: {text}");
            assert_eq!(lines[..whole], ["one", "two", "three"][..whole], "{cut}");
            assert_eq!(lines[whole], "four");
        }
    }

    #[test]
    fn a_cut_line_does_not_go_on_in_another_file() {
        let mut batch = batch(&["one", "two"]);
        assert_eq!(batch.keep_cut_line(5), 0);
        assert_eq!((batch.as_bytes(), batch.lines()), (&b"wo\n"[..], 1));
        assert!(batch.forget_cut_line());
        assert!(!batch.forget_cut_line());
        assert_eq!((batch.as_bytes(), batch.lines()), (&b""[..], 0));
    }
}
