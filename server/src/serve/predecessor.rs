//! What an instance tells the one that it starts, beside what that needs to take over: when instances of this
//! server were last replaced for lost buckets, how long the next one has to wait for its turn, and which
//! buckets were lost.

use std::cell::Cell;
use std::io::Write;

/// Where a new instance finds it: the numbers of a [`Note`], or nothing.
pub(super) const VARIABLE: &str = "TRANSOM_PREDECESSOR";

/// More than six numbers with a space between them.
const TEXT_MAX: usize = 128;

/// What the instance before this one has told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Note {
    /// The process that tells it.
    pub pid: u32,
    /// How many of its buckets were lost when it started this one; 0: that was not the reason.
    pub lost: u32,
    /// How many it has.
    pub buckets: u32,
    /// When an instance was last replaced for lost buckets: `CLOCK_MONOTONIC`, nanoseconds; 0: never.
    pub recycled_ns: u64,
    /// How long after that the next one may be, in milliseconds.
    pub delay_ms: u64,
    /// How many were, one after the other.
    pub recycles: u64,
}

impl Note {
    /// What was told; `None` if nothing was. It is for whom that instance has handed something to.
    pub(super) fn take() -> Result<Option<Self>, String> {
        let Ok(text) = std::env::var(VARIABLE) else {
            return Ok(None);
        };
        if text.is_empty() {
            return Ok(None);
        }
        let note = Note::parse(&text);
        note.map(Some)
            .ok_or_else(|| format!("{VARIABLE} is not what an old instance writes: unset it"))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(' ').map(|word| word.parse::<u64>().ok());
        let mut number = || numbers.next().flatten();
        let mut small = || u32::try_from(number()?).ok();
        let (pid, lost, buckets) = (small()?, small()?, small()?);
        let note = Note {
            pid,
            lost,
            buckets,
            recycled_ns: number()?,
            delay_ms: number()?,
            recycles: number()?,
        };
        numbers.next().is_none().then_some(note)
    }

    /// Whether the process that has told it is there, and has started this one.
    pub(super) fn is_of_our_parent(&self) -> bool {
        // SAFETY: getppid has no preconditions.
        let parent = unsafe { libc::getppid() };
        i64::from(parent) == i64::from(self.pid)
    }
}

/// The variable in the environment of a process that is to be started: made before the process heap is
/// sealed, written to when it is used.
pub(super) struct Letter {
    /// `NAME=`, what is told, and zeros.
    bytes: Box<[Cell<u8>]>,
}

impl Letter {
    /// One that tells nothing.
    pub(super) fn new() -> Self {
        let start = VARIABLE.bytes().chain([b'=']);
        let rest = std::iter::repeat_n(0, TEXT_MAX + 1);
        Letter {
            bytes: start.chain(rest).map(Cell::new).collect(),
        }
    }

    /// The variable as `execve` takes it. It stays where it is for as long as the letter lives, and always
    /// ends with NUL.
    pub(super) fn as_ptr(&self) -> *mut libc::c_char {
        self.bytes.as_ptr().cast_mut().cast()
    }

    /// Tells that, or nothing.
    pub(super) fn write(&self, note: Option<&Note>) {
        let mut text = [0; TEXT_MAX];
        if let Some(note) = note {
            let Note {
                pid,
                lost,
                buckets,
                recycled_ns,
                delay_ms,
                recycles,
            } = note;
            write!(
                &mut text[..],
                "{pid} {lost} {buckets} {recycled_ns} {delay_ms} {recycles}"
            )
            .expect("six numbers fit");
        }
        // The last byte stays NUL.
        for (cell, byte) in self.bytes[VARIABLE.len() + 1..].iter().zip(text) {
            cell.set(byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    const NOTE: Note = Note {
        pid: u32::MAX,
        lost: u32::MAX,
        buckets: u32::MAX,
        recycled_ns: u64::MAX,
        delay_ms: u64::MAX,
        recycles: u64::MAX,
    };

    fn text(letter: &Letter) -> String {
        // SAFETY: the letter ends with NUL, and lives longer than what is read of it here.
        let variable = unsafe { CStr::from_ptr(letter.as_ptr()) };
        let text = variable.to_str().expect("digits").to_owned();
        text.strip_prefix("TRANSOM_PREDECESSOR=")
            .expect("its name")
            .to_owned()
    }

    #[test]
    fn what_is_written_is_read() {
        let letter = Letter::new();
        assert_eq!(text(&letter), "");
        letter.write(Some(&NOTE));
        assert_eq!(Note::parse(&text(&letter)), Some(NOTE));
        let short = Note { pid: 7, ..NOTE };
        letter.write(Some(&short));
        assert_eq!(Note::parse(&text(&letter)), Some(short));
        letter.write(None);
        assert_eq!(text(&letter), "");
    }

    #[test]
    fn a_text_that_no_instance_writes_is_refused() {
        for text in [
            "",
            "1",
            "1 2 3 4 5",
            "1 2 3 4 5 6 7",
            "1 2 3 4 5 x",
            "-1 2 3 4 5 6",
        ] {
            assert_eq!(Note::parse(text), None, "{text:?}");
        }
    }
}
