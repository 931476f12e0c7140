//! The panic hook: what a panic in a handler leaves behind, without allocating.
//!
//! The standard hook writes to standard error and, with `RUST_BACKTRACE=1`, symbolises a backtrace, which
//! allocates and maps files; in a bucket that has just run out, that would abort the process. Ours writes
//! into the bucket's control block: the message, the place, and with `RUST_BACKTRACE` the bare return
//! addresses, as offsets that `addr2line -e BINARY` takes. On threads that are not running a request the hook
//! that was there before is called.

use crate::bucket::Bucket;
use crate::events::{ABORTING, BUMP_WAS_FULL, NOTED};
use crate::recovery::{self, Refusing};
use crate::thread::bound;
use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::ffi::c_void;
use std::fmt::{self, Write};
use std::panic::PanicHookInfo;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

const MESSAGE_MAX: usize = 240;
/// Two of them, and what is between.
const BEFORE_MAX: usize = 2 * MESSAGE_MAX + THEN.len();
/// Between a panic and that of a destructor which it has run.
const THEN: &str = "; then ";
/// Between what a panic says and its place.
const AT: &str = ", at ";
pub(crate) const FRAMES_MAX: usize = 32;
/// Said of a payload that is neither a `&str` nor a `String`.
const NO_TEXT: &str = "a value that is no text";

static BACKTRACE: AtomicBool = AtomicBool::new(false);

/// What is known of a request's last panic. Lies in the bucket's control block.
pub struct PanicNote {
    message: UnsafeCell<Text<MESSAGE_MAX>>,
    /// The message before this one; of a panic that ends its thread, those that have led to it.
    before: UnsafeCell<Text<BEFORE_MAX>>,
    is_last: Cell<bool>,
    frames: UnsafeCell<[usize; FRAMES_MAX]>,
    frame_count: Cell<usize>,
    exhaustion: Cell<bool>,
}

impl PanicNote {
    pub(crate) const fn new() -> Self {
        PanicNote {
            message: UnsafeCell::new(Text::new()),
            before: UnsafeCell::new(Text::new()),
            is_last: Cell::new(false),
            frames: UnsafeCell::new([0; FRAMES_MAX]),
            frame_count: Cell::new(0),
            exhaustion: Cell::new(false),
        }
    }

    /// Message and place, in one line of at most 240 bytes; a longer one ends in `…`.
    #[must_use]
    pub fn message(&self) -> &str {
        // SAFETY: written only by the hook, on this thread, while no reference from here is held: a note is
        // handed out after the panic has been caught.
        unsafe { (*self.message.get()).as_str() }
    }

    /// What has led to a panic that the runtime would have ended the process with: the one that could not
    /// unwind; or the first, and that of a destructor which it ran, each with its place.
    #[must_use]
    pub fn before(&self) -> Option<&str> {
        // SAFETY: as for `message`.
        let before = unsafe { (*self.before.get()).as_str() };
        Some(before).filter(|before| self.is_last.get() && !before.is_empty())
    }

    /// Return addresses, innermost first, as offsets into the executable; empty unless `RUST_BACKTRACE` is
    /// set.
    #[must_use]
    pub fn frames(&self) -> &[usize] {
        // SAFETY: as for `message`.
        let frames = unsafe { &*self.frames.get() };
        &frames[..self.frame_count.get()]
    }

    /// Whether the panic was bumpalo's way of saying that the arena is full.
    pub(crate) fn is_exhaustion(&self) -> bool {
        self.exhaustion.get()
    }

    /// Notes a sentence, instead of what was there. On the bucket's thread, while no note is handed out.
    pub(crate) fn say(&self, sentence: &str) {
        self.frame_count.set(0);
        self.exhaustion.set(false);
        self.is_last.set(false);
        // SAFETY: see `message`; by the caller's promise no reference is held.
        let message = unsafe { &mut *self.message.get() };
        message.clear();
        let _ = message.write_str(sentence); // truncates, never fails
    }

    /// A payload that was thrown by `resume_unwind` has not been past the hook: note what it says, unless the
    /// last panic that `is_noted` has said the same. As for `say`.
    pub(crate) fn say_what(&self, payload: &(dyn Any + Send), is_noted: bool) {
        let said = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let said = said.unwrap_or(NO_TEXT);
        if !is_noted || !self.begins_with(said) {
            self.say(said);
        }
    }

    /// Whether the note is these words, and a place.
    fn begins_with(&self, said: &str) -> bool {
        let mut words = Text::<MESSAGE_MAX>::new();
        let _ = write!(words, "{said}{AT}"); // cut as `write_note` has cut it
        self.message().starts_with(words.as_str())
    }
}

impl fmt::Debug for PanicNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PanicNote")
            .field("message", &self.message())
            .finish_non_exhaustive()
    }
}

/// Installs the hook, once; what was installed before is called for threads that run no request.
pub fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let wanted = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
        BACKTRACE.store(wanted, Ordering::Relaxed);
        if wanted {
            // The unwinder's first walk looks up and caches the executable's tables: have it done now.
            let mut frames = [0; FRAMES_MAX];
            walk(&mut frames);
        }
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !note(info) {
                previous(info);
            }
        }));
        // A first unwinding brings the executable's unwind tables into memory: have that done now as well.
        let _ = std::panic::catch_unwind(|| std::panic::resume_unwind(Box::new(())));
    });
}

/// Writes the note; false if this thread is not running a request.
fn note(info: &PanicHookInfo<'_>) -> bool {
    let Some(bucket) = bound() else {
        return false;
    };
    let said = info.payload_as_str().unwrap_or(NO_TEXT);
    // After these two the runtime aborts the process. The thread is parked when it does (in `signal`), and
    // not here: the runtime's lock on the hook is held now, and a thread that set a hook later would wait for
    // ever.
    let of_two = said.starts_with("panic in a destructor during cleanup");
    let aborts = of_two || said.starts_with("panic in a function that cannot unwind");
    if !bucket.failing.get() {
        // What a cleanup says afterwards is not why the request ended.
        keep_what_was_before(bucket, of_two);
        bucket.panic_note.is_last.set(aborts);
        write_note(bucket, info, said);
    }
    if aborts {
        bucket.events.add(ABORTING);
    }
    // It may be one inside a destructor that runs already because of another.
    bucket.change_refusing(Refusing::end_unwinding);
    true
}

/// Before another note is written: keeps the last one, behind the one before it if the two belong together.
fn keep_what_was_before(bucket: &Bucket, of_two: bool) {
    let note = &bucket.panic_note;
    // SAFETY: the bucket's thread, and no reference into the note is held (see PanicNote::message). Of the
    // two, which are apart, one is written and one is read.
    let (before, message) = unsafe { (&mut *note.before.get(), (*note.message.get()).as_str()) };
    if !bucket.events.any(NOTED) {
        return before.clear(); // it is of an earlier request
    }
    if of_two && !before.is_empty() {
        let _ = before.write_str(THEN); // truncates, never fails
    } else {
        before.clear();
    }
    let _ = before.write_str(message);
}

fn write_note(bucket: &Bucket, info: &PanicHookInfo<'_>, said: &str) {
    let note = &bucket.panic_note;
    bucket.events.add(NOTED);
    let file = info.location().map_or("", std::panic::Location::file);
    // The first is said by `Bump`, the second by its collections.
    let full = file.contains("bumpalo")
        && (said == "out of memory" || said.starts_with("encountered allocation error"));
    note.exhaustion.set(full);
    if full {
        bucket.exhaustion.set(recovery::arena_exhausted(bucket, 0));
        if bucket.heap().is_cut_for(0) {
            bucket.events.add(BUMP_WAS_FULL);
        }
    }
    // SAFETY: the bucket's thread, and no reference into the note is held (see PanicNote::message).
    let message = unsafe { &mut *note.message.get() };
    message.clear();
    // Text never fails: it truncates.
    let _ = match info.location() {
        Some(place) => write!(message, "{said}{AT}{}:{}", place.file(), place.line()),
        None => message.write_str(said),
    };
    let frame_count = if BACKTRACE.load(Ordering::Relaxed) && !full {
        // SAFETY: as for the message.
        walk(unsafe { &mut *note.frames.get() })
    } else {
        0
    };
    note.frame_count.set(frame_count);
}

/// Text of at most N bytes, cut at a character's boundary.
struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
    cut: bool,
}

impl<const N: usize> Text<N> {
    const CUT: &'static str = "…";

    const fn new() -> Self {
        Text {
            bytes: [0; N],
            len: 0,
            cut: false,
        }
    }

    fn clear(&mut self) {
        self.len = 0;
        self.cut = false;
    }

    fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).unwrap_or("")
    }

    fn push(&mut self, text: &str) {
        self.bytes[self.len..self.len + text.len()].copy_from_slice(text.as_bytes());
        self.len += text.len();
    }
}

impl<const N: usize> Write for Text<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.cut {
            return Ok(());
        }
        let room = N - Self::CUT.len() - self.len;
        if text.len() <= room {
            self.push(text);
            return Ok(());
        }
        let end = (0..=room)
            .rev()
            .find(|&end| text.is_char_boundary(end))
            .unwrap_or(0);
        self.push(&text[..end]);
        self.push(Self::CUT);
        self.cut = true;
        Ok(())
    }
}

// The Itanium C++ ABI's unwinder, which the standard library links already (level 1, section 1.3 and 1.4).
#[cfg(not(miri))]
unsafe extern "C" {
    fn _Unwind_Backtrace(
        each: extern "C" fn(*mut c_void, *mut c_void) -> i32,
        argument: *mut c_void,
    ) -> i32;
    fn _Unwind_GetIP(context: *mut c_void) -> usize;
}

struct Walk<'f> {
    frames: &'f mut [usize; FRAMES_MAX],
    count: usize,
}

#[cfg(not(miri))]
extern "C" fn each_frame(context: *mut c_void, argument: *mut c_void) -> i32 {
    const GO_ON: i32 = 0;
    const STOP: i32 = 5;
    // SAFETY: `argument` is the Walk that `walk` passes, alive and unaliased during the call.
    let walk = unsafe { &mut *argument.cast::<Walk<'_>>() };
    if walk.count == FRAMES_MAX {
        return STOP;
    }
    // SAFETY: the unwinder calls us with a valid context.
    let address = unsafe { _Unwind_GetIP(context) };
    let (start, size) = executable();
    let offset = address.wrapping_sub(start);
    // Frames of the C library, which start a thread, mean nothing to `addr2line -e BINARY`.
    if offset < size {
        walk.frames[walk.count] = offset;
        walk.count += 1;
    }
    GO_ON
}

/// The return addresses of this call, innermost first, as offsets that `addr2line -e BINARY` takes, and how
/// many.
pub(crate) fn callers() -> ([usize; FRAMES_MAX], usize) {
    let mut frames = [0; FRAMES_MAX];
    let count = walk(&mut frames);
    (frames, count)
}

#[cfg(not(miri))]
fn walk(frames: &mut [usize; FRAMES_MAX]) -> usize {
    let mut walk = Walk { frames, count: 0 };
    // SAFETY: the callback matches the ABI and only touches `walk`.
    unsafe { _Unwind_Backtrace(each_frame, (&raw mut walk).cast()) };
    walk.count
}

#[cfg(miri)]
fn walk(_: &mut [usize; FRAMES_MAX]) -> usize {
    0
}

/// Whether an address lies in the executable, and not in a library.
pub(crate) fn lies_in_executable(address: usize) -> bool {
    let (start, size) = executable();
    address.wrapping_sub(start) < size
}

/// Where the executable is loaded, and how many bytes it has there.
#[cfg(not(miri))]
fn executable() -> (usize, usize) {
    unsafe extern "C" {
        /// The start of the ELF header of the object this is linked into (defined by the linker).
        static __ehdr_start: u8;
        /// The end of its last segment (defined by the linker).
        static _end: u8;
    }
    let start = (&raw const __ehdr_start) as usize;
    (start, (&raw const _end) as usize - start)
}

#[cfg(miri)]
fn executable() -> (usize, usize) {
    (0, usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_at_a_character_and_says_so() {
        let mut text = Text::<16>::new();
        let _ = text.write_str("ünïcödé text");
        let _ = text.write_str(" and more");
        assert_eq!(text.as_str(), "ünïcödé t…");
        let mut short = Text::<16>::new();
        let _ = short.write_str("short");
        assert_eq!(short.as_str(), "short");
    }
}
