//! A reply written into its slot, and a body read out of it, piece by piece when they are larger than the
//! slot.
//!
//! Both directions give the slot to the front end and wait until it comes back ([`Call::interim`]), so a slow
//! client slows its own handler and costs no memory.

use crate::memory::Memory;
use crate::response::{Body, BodyWriter, ReplySink, Response};
use crate::sign::Sign;
use std::cell::RefCell;
use std::io::{self, Read, Write as _};
use std::ops::Range;
use std::ptr::NonNull;
use transom_arena::ensure_stack;
use transom_doors::{Call, Resumed, Status};
use transom_wire::frame::{self, PIECE_HEADER_LEN, TooLarge};

/// A stack overflow in the middle of handing a slot over would leave it half handed over; so that much must
/// be left.
const STACK_MARGIN: usize = 8 << 10;

/// The call of this thread, lent to what writes or reads just now; and the sign that says whether it streams.
pub(crate) struct Port<'p, 'c>(RefCell<&'p mut Call<'c>>, &'p Sign);

impl<'p, 'c> Port<'p, 'c> {
    pub(crate) fn new(call: &'p mut Call<'c>, sign: &'p Sign) -> Self {
        Port(RefCell::new(call), sign)
    }

    pub(crate) fn reply_slot(&self) -> NonNull<[u8]> {
        NonNull::from(self.0.borrow_mut().reply_mut())
    }

    /// Bytes of the request slot.
    pub(crate) fn request_slot_len(&self) -> usize {
        self.0.borrow().request_slot().len()
    }

    /// Whether the caller waits no longer for this call.
    pub(crate) fn client_is_gone(&self) -> bool {
        // It is borrowed for writing only inside this type's methods, none of which asks this.
        self.0.borrow().is_abandoned()
    }

    /// Makes the first `len` bytes of the reply slot the final reply, though what runs on this thread goes
    /// on.
    ///
    /// # Safety
    /// The frames that have used the port have ended, or were left for good by a jump.
    pub(crate) unsafe fn answer_early(&self, len: usize, status: Status) {
        // SAFETY: no reference to the call is in use, by the caller's promise. (A jump may have left it noted
        // as borrowed.)
        unsafe { &mut *self.0.as_ptr() }.complete_early(len, status);
    }

    fn hand_over(&self, len: usize, kind: u32) -> io::Result<Resumed> {
        ensure_stack(STACK_MARGIN);
        self.1.streams();
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.0.borrow_mut().interim(len, kind).map_err(gone)
    }
}

/// `Transom-Memory: used=N; size=N`, with its end of line.
const MEMORY_FIELD_MAX: usize = 72;

/// How the writing of a reply ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// So many bytes of the reply slot are the reply, or its last piece.
    Whole(usize),
    /// Status and header block do not fit the slot: they need so many bytes.
    TooLarge(usize),
    /// The body broke off after its first part was sent.
    Broken,
    /// The body could not be written, and nothing of the reply has been sent.
    Unwritten,
    /// No handler has run, and none will before the request's body is there; with the outcome that says so.
    BodyFirst(u32),
}

/// Writes a response into the reply slot; with a field that says what the request has used so far, if that is
/// wanted. Tells why a handler's streamed body ends early, unless it is because the client has gone.
pub(crate) fn write_response(
    response: Response<'_>,
    port: &Port<'_, '_>,
    head_only: bool,
    memory_header: bool,
    failed: impl FnOnce(&io::Error),
) -> Written {
    let memory = memory_header.then(Memory::now).flatten();
    let mut sink = match SlotSink::new(port, &response, memory) {
        Ok(sink) => sink,
        Err(TooLarge { needed }) => return Written::TooLarge(needed),
    };
    if head_only || matches!(response.status().code(), 204 | 304) {
        return sink.finish();
    }
    let length = response.content_length();
    let written = match response.into_body() {
        Body::Empty => Ok(()),
        Body::Borrowed(bytes) => sink.write_all(bytes),
        Body::Owned(bytes) => sink.write_all(&bytes),
        Body::Stream { write, .. } => {
            let mut writer = BodyWriter::new(&mut sink, length);
            let written = match write(&mut writer) {
                // A body shorter than announced is never padded (RFC 9112 §6.3): the connection is cut.
                Ok(()) if !writer.is_complete() => Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the body is shorter than was announced",
                )),
                // One that is longer is cut where it was announced to end.
                Err(_) if writer.overran() && writer.is_complete() => Ok(()),
                result => result,
            };
            if let Err(error) = &written
                && !writer.is_closed()
            {
                failed(error);
            }
            written
        }
    };
    match written {
        Ok(()) => sink.finish(),
        Err(_) if sink.started => Written::Broken,
        Err(_) => Written::Unwritten,
    }
}

/// The reply slot as a place to write a body to.
struct SlotSink<'s, 'p, 'c> {
    port: &'s Port<'p, 'c>,
    slot: NonNull<[u8]>,
    /// Where the body's bytes begin in the frame that is being filled.
    body_at: usize,
    body_len: usize,
    /// The reply's head has gone; what follows are pieces.
    started: bool,
}

impl<'s, 'p, 'c> SlotSink<'s, 'p, 'c> {
    fn new(
        port: &'s Port<'p, 'c>,
        response: &Response<'_>,
        memory: Option<Memory>,
    ) -> Result<Self, TooLarge> {
        let mut sink = SlotSink {
            port,
            slot: port.reply_slot(),
            body_at: 0,
            body_len: 0,
            started: false,
        };
        let (status, length, fields) = (
            response.status().code(),
            response.content_length(),
            response.fields(),
        );
        let [name, value, end, block] = fields;
        let mut line = [0; MEMORY_FIELD_MAX];
        let mut rest = &mut line[..];
        if let Some(memory) = memory {
            let (high_water, size) = (memory.high_water, memory.size());
            write!(rest, "Transom-Memory: used={high_water}; size={size}\r\n")
                .expect("it has room for two numbers of 64 bits");
        }
        let len = MEMORY_FIELD_MAX - rest.len();
        let fields = [name, value, end, block, &line[..len]];
        sink.body_at = frame::encode_reply_head(sink.bytes(), status, length, &fields)?;
        Ok(sink)
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the slot's reply part is valid as long as the call, which outlives `port`; it is ours to
        // write until it is handed over, and after that again once `hand_over` has returned. No other
        // reference to it exists meanwhile: `Port` gives none out.
        unsafe { self.slot.as_mut() }
    }

    fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        loop {
            let space = self.space();
            let len = space.len().min(bytes.len());
            space[..len].copy_from_slice(&bytes[..len]);
            self.advance(len);
            bytes = &bytes[len..];
            if bytes.is_empty() {
                return Ok(());
            }
            self.push_out()?;
        }
    }

    fn finish(mut self) -> Written {
        self.seal_frame(true);
        Written::Whole(self.body_at + self.body_len)
    }

    /// Completes the header of the frame in the slot.
    fn seal_frame(&mut self, last: bool) {
        let (len, started) = (self.body_len, self.started);
        if started {
            frame::encode_piece(self.bytes(), len, last);
        } else {
            frame::set_reply_body(self.bytes(), len, !last);
        }
    }
}

impl ReplySink for SlotSink<'_, '_, '_> {
    fn space(&mut self) -> &mut [u8] {
        let from = self.body_at + self.body_len;
        &mut self.bytes()[from..]
    }

    fn advance(&mut self, len: usize) {
        self.body_len += len;
    }

    fn push_out(&mut self) -> io::Result<()> {
        if self.started && self.body_len == 0 {
            return Ok(());
        }
        self.seal_frame(false);
        let len = self.body_at + self.body_len;
        self.started = true;
        (self.body_at, self.body_len) = (PIECE_HEADER_LEN, 0);
        self.port.hand_over(len, frame::interim::REPLY)?;
        Ok(())
    }

    fn is_closed(&self) -> bool {
        self.port.client_is_gone()
    }
}

/// The rest of a streamed body, asked for piece by piece.
pub(crate) struct SlotBody<'s, 'p, 'c> {
    port: &'s Port<'p, 'c>,
    /// The body's place in the request slot, to the slot's end; pieces come to its start.
    place: NonNull<[u8]>,
    /// Where in the slot that is.
    start: usize,
    /// What of it has not been read yet.
    unread: Range<usize>,
    ended: bool,
}

impl<'s, 'p, 'c> SlotBody<'s, 'p, 'c> {
    /// A body whose first `len` bytes lie at the end of a frame of `frame_len` bytes.
    pub(crate) fn new(port: &'s Port<'p, 'c>, frame_len: usize, len: usize) -> Self {
        let slot = port.0.borrow().request_slot();
        let start = frame_len - len;
        // SAFETY: the frame lies in the slot, so its body's place does.
        let place = unsafe { slot.cast::<u8>().add(start) };
        SlotBody {
            port,
            place: NonNull::slice_from_raw_parts(place, slot.len() - start),
            start,
            unread: 0..len,
            ended: false,
        }
    }
}

impl Read for SlotBody<'_, '_, '_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() || self.ended {
            return Ok(0);
        }
        if self.unread.is_empty() {
            let piece = self
                .port
                .hand_over(0, frame::interim::WANT_BODY)?
                .request_len;
            if piece > self.place.len() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.port.0.borrow_mut().fetch_request(self.start, piece);
            self.unread = 0..piece;
            self.ended = piece == 0;
        }
        let len = self.unread.len().min(out.len());
        // SAFETY: `unread` lies within `place`, whose bytes are initialised (zeroed, then written by the
        // front end), and which the front end does not touch until the next hand-over.
        let piece = unsafe {
            std::slice::from_raw_parts(self.place.cast::<u8>().as_ptr().add(self.unread.start), len)
        };
        out[..len].copy_from_slice(piece);
        self.unread.start += len;
        Ok(len)
    }
}
