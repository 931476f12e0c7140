//! Bodies that are larger than a slot: read piece by piece, or collected into the bucket's arena.

use std::cell::RefCell;
use std::collections::TryReserveError;
use std::io::{self, Read};
use std::mem;
use std::ptr::NonNull;

use transom_arena::{current_room_to_grow, refusing_or_noting};

use crate::failure::Failure;
use crate::outgrown::io_unless_exhausted;

/// How much a body of unknown length is collected at a time: the size of a page, an arbitrary choice.
const STEP_BYTES: usize = 4096;

/// A body is small compared with a piece that is this many times larger.
const SMALL_PART: usize = 64;

/// The source of a streamed body, behind a cell because handlers have only `&Request`.
pub(super) struct Stream(RefCell<Option<NonNull<dyn Read>>>);

impl Stream {
    pub(super) fn none() -> Self {
        Self(RefCell::new(None))
    }

    /// # Safety
    /// The source must live, and be used by nothing else, as long as this value.
    pub(super) unsafe fn new(source: Option<&mut dyn Read>) -> Self {
        let erase = |source: &mut dyn Read| {
            let source: NonNull<dyn Read + '_> = NonNull::from(source);
            // SAFETY: only the lifetime changes, and the caller promises that it is long enough.
            unsafe { mem::transmute::<NonNull<dyn Read + '_>, NonNull<dyn Read>>(source) }
        };
        Self(RefCell::new(source.map(erase)))
    }

    fn read(&self, out: &mut [u8]) -> io::Result<usize> {
        // A source that reads from the request it belongs to would be a bug of the platform: it gets an
        // error.
        let mut source = self
            .0
            .try_borrow_mut()
            .map_err(|_| io::ErrorKind::Deadlock)?;
        match source.as_mut() {
            // SAFETY: `new`'s caller promised that it lives and is ours, and the cell's guard makes us its
            // only user.
            Some(source) => unsafe { source.as_mut() }.read(out),
            None => Ok(0),
        }
    }
}

/// Reads a request's body; see [`Request::body_reader`](crate::Request::body_reader).
pub struct BodyReader<'r> {
    rest: &'r [u8],
    stream: &'r Stream,
}

impl<'r> BodyReader<'r> {
    pub(super) fn new(rest: &'r [u8], stream: &'r Stream) -> Self {
        Self { rest, stream }
    }
}

impl Read for BodyReader<'_> {
    /// Waits for the next bytes of the body; 0 at its end.
    ///
    /// # Errors
    /// When the client has gone, was too slow, or sent what is no body.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        io_unless_exhausted()?;
        if self.rest.is_empty() {
            self.stream.read(out)
        } else {
            self.rest.read(out)
        }
    }
}

/// Reads all of `stream` into the bucket, or says with a 413 that it does not fit: a body too large for its
/// bucket is refused, so that it does not exhaust it. An announced length is taken at once, so that nothing
/// is copied. It is an ordinary block, and not one of the `&Bump`, which has no room but below what earlier
/// requests have left.
pub(super) fn collect(stream: &Stream, length: Option<u64>) -> Result<Vec<u8>, Failure> {
    let Some(length) = length else {
        return collect_unknown(stream);
    };
    let length = usize::try_from(length).map_err(|_| too_large())?;
    let mut body = Vec::new();
    refusing_or_noting(|| body.try_reserve_exact(length)).map_err(|_| too_large())?;
    body.resize(length, 0);
    BodyReader::new(&[], stream)
        .read_exact(&mut body)
        .map_err(cut_short)?;
    Ok(body)
}

fn collect_unknown(stream: &Stream) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    loop {
        let start = body.len();
        if body.capacity() - start < STEP_BYTES {
            refusing_or_noting(|| make_room(&mut body)).map_err(|_| too_large())?;
        }
        body.resize(start + STEP_BYTES, 0);
        let read = stream.read(&mut body[start..]).map_err(cut_short)?;
        body.truncate(start + read);
        if read == 0 {
            body.shrink_to_fit();
            return Ok(body);
        }
    }
}

/// Makes room for one step more, and for as many as there are bytes already, if that can be. So the bytes are
/// moved a few times only, however many come.
fn make_room(body: &mut Vec<u8>) -> Result<(), TryReserveError> {
    let had = body.len();
    let (beside, largest) = current_room_to_grow(body.as_ptr()).unwrap_or((0, usize::MAX));
    // A body that cannot grow in place needs a second piece for each move. While it is small, there is room
    // for both. Then it moves once more, into the largest piece, and has all of that.
    let is_last_move = had > largest / SMALL_PART && had + beside < largest;
    if is_last_move && body.try_reserve_exact(largest - had).is_ok() {
        return Ok(());
    }
    let mut more = had.max(STEP_BYTES);
    loop {
        match body.try_reserve_exact(more) {
            Err(_) if more > STEP_BYTES => more = (more / 2).max(STEP_BYTES),
            result => return result,
        }
    }
}

fn too_large() -> Failure {
    Failure::content_too_large("the body does not fit the memory that a request has here")
}

fn cut_short(error: io::Error) -> Failure {
    Failure::bad_request(format!("the body did not arrive whole: {error}"))
}
