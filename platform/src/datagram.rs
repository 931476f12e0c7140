//! A datagram in, at most one out.
//!
//! ```
//! use transom_platform::{Datagram, DatagramReply};
//!
//! fn echo(datagram: &Datagram, reply: &mut DatagramReply) {
//!     if datagram.bytes().starts_with(b"hello") {
//!         // Cannot fail: a datagram that came in is no larger than one that can go out.
//!         let _ = reply.send(datagram.bytes());
//!     }
//! }
//! ```

use std::net::SocketAddr;
use thiserror::Error;

use transom_wire::frame::{ANSWER_HEADER_LEN, DATAGRAM_MAX, RawDatagram, encode_answer};

/// What a client has sent.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'d>(RawDatagram<'d>);

impl<'d> Datagram<'d> {
    pub(crate) fn new(raw: RawDatagram<'d>) -> Self {
        Datagram(raw)
    }

    /// Its bytes; possibly none.
    #[must_use]
    pub fn bytes(&self) -> &'d [u8] {
        self.0.bytes
    }

    /// The client's address, as the front end saw it; `None` for a Unix socket. A sender can forge it.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        self.0.peer
    }
}

/// The answer to a [`Datagram`], built where it is sent from. Nothing is sent unless something is put into
/// it.
#[derive(Debug)]
pub struct DatagramReply<'r> {
    /// Begins with room for the frame's header.
    slot: &'r mut [u8],
    len: Option<usize>,
    /// So many bytes after the header are not of an earlier answer.
    clean: usize,
}

/// An answer is larger than a datagram, or than its slot.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("an answer of {len} bytes does not fit {room} (--reply-size)")]
pub struct AnswerTooLarge {
    /// Its bytes.
    pub len: usize,
    /// What there is room for.
    pub room: usize,
}

impl<'r> DatagramReply<'r> {
    pub(crate) fn new(slot: &'r mut [u8]) -> Self {
        DatagramReply {
            slot,
            len: None,
            clean: 0,
        }
    }

    /// Bytes that an answer may have.
    #[must_use]
    pub fn room(&self) -> usize {
        self.slot
            .len()
            .saturating_sub(ANSWER_HEADER_LEN)
            .min(DATAGRAM_MAX)
    }

    /// Answers with these bytes, instead of any that were there before.
    ///
    /// # Errors
    /// [`AnswerTooLarge`]; what was there before stays.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), AnswerTooLarge> {
        let (len, room) = (bytes.len(), self.room());
        if len > room {
            return Err(AnswerTooLarge { len, room });
        }
        self.slot[ANSWER_HEADER_LEN..][..len].copy_from_slice(bytes);
        self.clean = self.clean.max(len);
        self.len = Some(len);
        Ok(())
    }

    /// Where an answer can be built in place: zeros, or what this call has put there.
    /// [`set_len`](Self::set_len) sends it.
    pub fn space(&mut self) -> &mut [u8] {
        let room = self.room();
        self.clear_to(room);
        &mut self.slot[ANSWER_HEADER_LEN..][..room]
    }

    /// Clears what an earlier call has left in the first `len` bytes.
    fn clear_to(&mut self, len: usize) {
        if let Some(left) = self.slot[ANSWER_HEADER_LEN..].get_mut(self.clean..len) {
            left.fill(0);
            self.clean = len;
        }
    }

    /// Answers with the first bytes of [`space`](Self::space).
    ///
    /// # Errors
    /// [`AnswerTooLarge`]; what was there before stays.
    pub fn set_len(&mut self, len: usize) -> Result<(), AnswerTooLarge> {
        let room = self.room();
        if len > room {
            return Err(AnswerTooLarge { len, room });
        }
        self.clear_to(len);
        self.len = Some(len);
        Ok(())
    }

    /// Sends nothing after all.
    pub fn cancel(&mut self) {
        self.len = None;
    }

    /// Completes the frame, and gives its length.
    pub(crate) fn finish(self) -> usize {
        encode_answer(self.slot, self.len)
    }
}

/// A handler for datagrams, which any door server thread may call: a function from `&Datagram` and `&mut
/// DatagramReply`.
pub trait DatagramHandler: Send + Sync + 'static {
    /// Answers a datagram, or does not.
    fn call(&self, datagram: &Datagram<'_>, reply: &mut DatagramReply<'_>);
}

impl<F> DatagramHandler for F
where
    F: Fn(&Datagram<'_>, &mut DatagramReply<'_>) + Send + Sync + 'static,
{
    fn call(&self, datagram: &Datagram<'_>, reply: &mut DatagramReply<'_>) {
        self(datagram, reply);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use transom_wire::frame::decode_answer;

    #[test]
    fn nothing_is_sent_unless_something_is_put_there() {
        let mut slot = [0xdb; 64];
        let len = DatagramReply::new(&mut slot).finish();
        assert_eq!(decode_answer(&slot[..len]), Ok(None));
        let mut reply = DatagramReply::new(&mut slot);
        reply.send(b"more").expect("it fits");
        reply.cancel();
        let len = reply.finish();
        assert_eq!(decode_answer(&slot[..len]), Ok(None));
    }

    #[test]
    fn the_last_answer_that_fits_is_sent() {
        let mut slot = [0xdb; 64];
        let mut reply = DatagramReply::new(&mut slot);
        assert_eq!(reply.room(), 56);
        reply.send(b"first").expect("it fits");
        let too_large = Err(AnswerTooLarge { len: 57, room: 56 });
        assert_eq!(reply.send(&[0; 57]), too_large);
        assert_eq!(reply.set_len(57), too_large);
        let len = reply.finish();
        assert_eq!(decode_answer(&slot[..len]), Ok(Some(&b"first"[..])));
        let mut reply = DatagramReply::new(&mut slot);
        reply.space()[..3].copy_from_slice(b"abc");
        reply.set_len(2).expect("it fits");
        let len = reply.finish();
        assert_eq!(decode_answer(&slot[..len]), Ok(Some(&b"ab"[..])));
        let mut reply = DatagramReply::new(&mut slot);
        reply.send(b"").expect("it fits");
        let len = reply.finish();
        assert_eq!(decode_answer(&slot[..len]), Ok(Some(&b""[..])));
    }

    #[test]
    fn nothing_of_an_earlier_answer_can_be_seen_or_sent() {
        let mut slot = [0xdb; 64];
        let mut reply = DatagramReply::new(&mut slot);
        reply.set_len(3).expect("it fits");
        let len = reply.finish();
        assert_eq!(decode_answer(&slot[..len]), Ok(Some(&[0; 3][..])));
        slot.fill(0xdb);
        let mut reply = DatagramReply::new(&mut slot);
        reply.send(b"ab").expect("it fits");
        assert_eq!(reply.space()[..3], *b"ab\0");
        assert!(reply.space()[2..].iter().all(|&byte| byte == 0));
    }
}
