//! A door's board: the words that tell callers which threads sleep, how many are about to look for work, how
//! long handlers take, and whether the door was revoked. And its threads' beds, the words through which they
//! can be woken.
//!
//! The server's process writes the board. Callers in other processes have it mapped for reading: they decide
//! which threads to wake as the server itself does. What it says is a hint to them: a server that writes
//! nonsense keeps only its own callers waiting.
//!
//! The beds lie apart and every process maps them for writing, although none writes there: for a word that is
//! mapped for reading, futex(2) first tries in vain to write, which is a thirtieth of a call (0.1 µs). What
//! is in them means nothing.

use std::ptr::NonNull;
use std::slice;

use crate::memory::mapping::{Mapping, Writer};
use crate::pool::pace::Pace;
use crate::rules::futex::Futex;
use crate::rules::idle::IdleWords;
use crate::rules::revoke::Revoked;
use crate::rules::sync::{AtomicI32, AtomicU32, AtomicU64, Line};
use crate::values::descriptors::Descriptors;
use crate::values::error::MemoryError;
use crate::values::geometry::PAGE;
use std::os::fd::OwnedFd;

#[derive(Debug, Default)]
#[repr(C)]
struct Header {
    running: Line<AtomicI32>,
    pace: Line<AtomicU32>,
    revoked: Line<AtomicU32>,
    started: Line<AtomicU32>,
}

const LINE: usize = size_of::<Line<u8>>();
const BITS: u32 = u64::BITS;

// The layout is a protocol between processes, as in `layout`.
const _: () = assert!(size_of::<Header>() == 4 * LINE && size_of::<Line<Futex>>() == LINE);

/// A door's board in memory that is all zero at first.
#[derive(Debug)]
pub struct Board {
    base: NonNull<Header>,
    threads: u32,
    /// None if no caller in another process sees them.
    beds: Option<Mapping>,
    /// Keeps what `base` points to.
    _memory: Memory,
}

#[derive(Debug)]
enum Memory {
    Private { _lines: Box<[Line<AtomicU64>]> },
    Between { _mapping: Mapping },
}

// SAFETY: everything in the memory is atomic, and the memory lives as long as the value.
unsafe impl Send for Board {}
// SAFETY: as above.
unsafe impl Sync for Board {}

impl Board {
    /// Bytes of the board of a door with room for `threads` threads, without its beds: a multiple of
    /// [`PAGE`].
    pub fn len(threads: u32) -> usize {
        let mut sum = size_of::<Header>();
        sum += threads.div_ceil(BITS) as usize * LINE; // idle bits
        sum.next_multiple_of(PAGE)
    }

    /// Bytes of the beds: a multiple of [`PAGE`].
    pub fn beds_len(threads: u32) -> usize {
        (threads as usize * LINE).next_multiple_of(PAGE)
    }

    /// A board that only this process sees.
    pub fn private(threads: u32) -> Self {
        let mut lines: Box<[_]> = (0..Self::len(threads) / LINE)
            .map(|_| Line(AtomicU64::new(0)))
            .collect();
        let base = NonNull::from(&mut *lines).cast();
        Self::begin(base, threads, None, Memory::Private { _lines: lines })
    }

    /// A board to be shown to callers, and the descriptors to give them: the board's and the beds'.
    pub fn between(threads: u32) -> Result<(Self, [OwnedFd; 2]), MemoryError> {
        let (mapping, fd) = Mapping::create(c"transom-board", Self::len(threads), Writer::Creator)?;
        let (beds, beds_fd) =
            Mapping::create(c"transom-beds", Self::beds_len(threads), Writer::Both)?;
        let base = mapping.base().cast();
        let memory = Memory::Between { _mapping: mapping };
        let board = Self::begin(base, threads, Some(beds), memory);
        Ok((board, [fd, beds_fd]))
    }

    /// The board and the beds of another process's door.
    pub fn receive(from: &mut Descriptors, threads: u32) -> Result<Self, MemoryError> {
        let mapping = Mapping::receive(from, Self::len(threads), Writer::Creator)?;
        let beds = Mapping::receive(from, Self::beds_len(threads), Writer::Both)?;
        Ok(Self {
            base: mapping.base().cast(),
            threads,
            beds: Some(beds),
            _memory: Memory::Between { _mapping: mapping },
        })
    }

    fn begin(base: NonNull<Header>, threads: u32, beds: Option<Mapping>, memory: Memory) -> Self {
        let board = Self {
            base,
            threads,
            beds,
            _memory: memory,
        };
        Pace::begin(&board.header().pace.0);
        board
    }

    fn header(&self) -> &Header {
        // SAFETY: `base` is aligned to a line (a page, or a box of lines) and at the start of at least `len`
        // bytes, all zero at first, which is a valid header; only atomics are in it.
        unsafe { self.base.as_ref() }
    }

    /// Which threads sleep, and how many do not.
    pub fn idle(&self) -> IdleWords<'_> {
        let words = self.threads.div_ceil(BITS) as usize;
        // SAFETY: `len` counts the header, then `words` lines; zero is valid for them.
        let idle = unsafe {
            let idle = self.base.add(1).cast::<Line<AtomicU64>>();
            slice::from_raw_parts(idle.as_ptr(), words)
        };
        let beds = self.beds.as_ref().map_or(&[][..], |beds| {
            let first = beds.base().cast::<Line<Futex>>();
            // SAFETY: `beds_len` counts `threads` lines, in a mapping that starts on a page and lives as long
            // as `self`; every value is valid for an atomic, which is all that a line has.
            unsafe { slice::from_raw_parts(first.as_ptr(), self.threads as usize) }
        });
        IdleWords {
            idle,
            beds,
            running: &self.header().running,
        }
    }

    /// How long handlers take.
    pub fn pace(&self) -> Pace<'_> {
        Pace::new(&self.header().pace.0)
    }

    /// Whether the door was revoked.
    pub fn revoked(&self) -> Revoked<'_> {
        Revoked::new(&self.header().revoked.0)
    }

    /// Threads that were started.
    pub fn started(&self) -> &AtomicU32 {
        &self.header().started.0
    }

    /// Threads that may exist.
    pub fn threads(&self) -> u32 {
        self.threads
    }
}
