//! An answer, or a part of one, on its way out: what it is made of, and sending it from where it lies.
//!
//! A reply slot of this process is ours once its call has ended, and is sent from where it lies. One of
//! another process can still be written by it. So the fields of such a reply are checked in a private copy,
//! and sent from that copy; should the client take only a part of them, the rest is copied again later and
//! sent only if nothing has changed. The body means nothing to us, and is sent as it is at that moment.

use crate::transport::Transport;
use crate::world::{Caller, World};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::ptr::NonNull;
use transom_doors::SlotId;
use transom_http::reply::{CHUNK_END, CHUNK_PREFIX_MAX, HEAD_MAX, LAST_CHUNK, chunk_prefix};

const CHUNK_END_AND_LAST: &[u8] = b"\r\n0\r\n\r\n";
const MIDDLE_MAX: usize = b"\r\n".len() + CHUNK_PREFIX_MAX;

/// An answer, or a part of one, on its way out: five pieces in a row, of which the slot holds two.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) start: [u8; HEAD_MAX],
    pub(super) start_len: usize,
    /// In the reply slot.
    pub(super) fields: Range<usize>,
    middle: [u8; MIDDLE_MAX],
    middle_len: usize,
    /// In the reply slot.
    pub(super) body: Range<usize>,
    tail: &'static [u8],
    pub(super) sent: usize,
    /// A keyed hash of the fields that were checked, once the client has taken only a part of them.
    fields_seal: Option<u64>,
}

impl Default for Output {
    fn default() -> Self {
        Output {
            start: [0; HEAD_MAX],
            start_len: 0,
            fields: 0..0,
            middle: [0; MIDDLE_MAX],
            middle_len: 0,
            body: 0..0,
            tail: b"",
            sent: 0,
            fields_seal: None,
        }
    }
}

impl Output {
    pub(super) fn clear(&mut self) {
        self.start_len = 0;
        self.fields = 0..0;
        self.middle_len = 0;
        self.body = 0..0;
        self.tail = b"";
        self.sent = 0;
        self.fields_seal = None;
    }

    pub(super) fn put_middle(&mut self, bytes: &[u8]) {
        self.middle[self.middle_len..self.middle_len + bytes.len()].copy_from_slice(bytes);
        self.middle_len += bytes.len();
    }

    /// Bytes of all of it.
    pub(super) fn total(&self) -> usize {
        self.start_len + self.fields.len() + self.middle_len + self.body.len() + self.tail.len()
    }

    /// Bytes of the body that have been sent.
    pub(super) fn body_sent(&self) -> usize {
        let before = self.start_len + self.fields.len() + self.middle_len;
        self.sent.saturating_sub(before).min(self.body.len())
    }

    fn pieces<'a>(&'a self, reply: &'a [u8]) -> [&'a [u8]; 5] {
        [
            &self.start[..self.start_len],
            &reply[self.fields.clone()],
            &self.middle[..self.middle_len],
            &reply[self.body.clone()],
            self.tail,
        ]
    }
}

/// Where a private copy of a reply's fields lies in the scratch, with room before it for what comes before
/// it.
const COPY_AT: usize = HEAD_MAX;

/// Copies the fields of a reply into the scratch; `None` if they do not fit.
pub(super) fn copy_fields<'s>(
    client: &impl Caller,
    slot: SlotId,
    fields: &Range<usize>,
    scratch: &'s mut [u8],
) -> Option<&'s [u8]> {
    let room = scratch.len().saturating_sub(COPY_AT + MIDDLE_MAX);
    if fields.len() > room {
        return None;
    }
    let copy = &mut scratch[COPY_AT..COPY_AT + fields.len()];
    client.copy_reply(slot, fields.start, copy);
    Some(copy)
}

impl Output {
    /// Whether it goes as a whole into so many bytes, and through a scratch of that size: nothing of it has
    /// been sent.
    pub(super) fn fits(&self, room: usize, scratch: usize) -> bool {
        let total = self.total();
        self.sent == 0 && total <= room && COPY_AT + total <= scratch
    }

    /// Sends what is left of it: from a slot of another process, or of this one.
    pub(super) fn send<W: World>(
        &mut self,
        way: Way<'_>,
        (client, slot): (&W::Caller, SlotId),
        is_remote: bool,
        scratch: &mut [u8],
        keys: &RandomState,
    ) -> io::Result<usize> {
        if is_remote {
            self.send_remote::<W>(way, (client, slot), scratch, keys)
        } else {
            self.send_local::<W>(way, client.reply(slot), scratch)
        }
    }

    /// Sends from a slot of this process, through the scratch if it is short.
    fn send_local<W: World>(
        &self,
        way: Way<'_>,
        reply: &[u8],
        scratch: &mut [u8],
    ) -> io::Result<usize> {
        let pieces = self.pieces(reply);
        if self.total() - self.sent <= scratch.len() {
            let len = gather(&pieces, self.sent, scratch);
            way.send::<W>(&scratch[..len])
        } else {
            send_from::<W>(way.socket()?, &pieces, self.sent)
        }
    }

    /// Nothing of an answer from another process could be sent yet, and the scratch, which still has the
    /// fields that were checked, is about to be used for others: what is sent later must be the same.
    pub(super) fn put_off(&mut self, scratch: &[u8], keys: &RandomState) {
        let fields = COPY_AT..COPY_AT + self.fields.len();
        self.fields_seal
            .get_or_insert_with(|| keys.hash_one(&scratch[fields]));
    }

    /// Sends from a slot of another process; `InvalidData` if its fields have changed since they were
    /// checked. The first time the scratch still has the copy that was checked.
    fn send_remote<W: World>(
        &mut self,
        way: Way<'_>,
        (client, slot): (&W::Caller, SlotId),
        scratch: &mut [u8],
        keys: &RandomState,
    ) -> io::Result<usize> {
        let fields = COPY_AT..COPY_AT + self.fields.len();
        let head_len = self.start_len + fields.len() + self.middle_len;
        let mut head = COPY_AT..COPY_AT;
        if self.sent < head_len {
            if let Some(seal) = self.fields_seal {
                client.copy_reply(slot, self.fields.start, &mut scratch[fields.clone()]);
                if keys.hash_one(&scratch[fields.clone()]) != seal {
                    return Err(io::ErrorKind::InvalidData.into()); // they were changed meanwhile
                }
            }
            head = COPY_AT - self.start_len..fields.end + self.middle_len;
            scratch[head.start..COPY_AT].copy_from_slice(&self.start[..self.start_len]);
            scratch[fields.end..head.end].copy_from_slice(&self.middle[..self.middle_len]);
            head.start += self.sent;
        }
        let of_body = self.sent.saturating_sub(head_len);
        let body = self.body.start + of_body.min(self.body.len())..self.body.end;
        let tail = &self.tail[of_body.saturating_sub(self.body.len())..];
        let end = head.end + body.len() + tail.len();
        let result = if end <= scratch.len() {
            let (copy, behind) = scratch[head.end..end].split_at_mut(body.len());
            client.copy_reply(slot, body.start, copy);
            behind.copy_from_slice(tail);
            way.send::<W>(&scratch[head.start..end])
        } else {
            let transport = way.socket()?;
            let reply = client.reply_bytes(slot);
            assert!(body.end <= reply.len(), "checked with the frame");
            // SAFETY: within the reply's bytes, which are mapped as long as the client lives; the other two
            // are borrowed.
            unsafe {
                let body =
                    NonNull::slice_from_raw_parts(reply.cast::<u8>().add(body.start), body.len());
                let pieces = [NonNull::from(&scratch[head]), body, NonNull::from(tail)];
                transport.send_places::<W>(&pieces)
            }
        };
        let sent = self.sent + result.as_ref().map_or(0, |&sent| sent);
        if sent < head_len && self.fields_seal.is_none() {
            self.fields_seal = Some(keys.hash_one(&scratch[fields]));
        }
        result
    }
}

/// Where an answer goes.
pub(super) enum Way<'w> {
    /// To its client; `hold` as in [`transom_net::send_and_hold`].
    Socket {
        transport: &'w mut Transport,
        hold: bool,
    },
    /// To a place that has room for all of it; see [`Output::fits`].
    Place(&'w mut [u8]),
}

impl<'w> Way<'w> {
    fn send<W: World>(self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Way::Socket { transport, hold } => transport.send::<W>(bytes, hold),
            Way::Place(place) => {
                place[..bytes.len()].copy_from_slice(bytes);
                Ok(bytes.len())
            }
        }
    }

    /// The socket, for an answer that is sent from where it lies.
    fn socket(self) -> io::Result<&'w mut Transport> {
        match self {
            Way::Socket { transport, .. } => Ok(transport),
            Way::Place(_) => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

/// Chunk framing around the body of an output, and the end of the body if this is it.
pub(super) fn put_framing(output: &mut Output, chunked: bool, last: bool) {
    if !chunked {
        return;
    }
    let len = output.body.len() as u64;
    if len > 0 {
        let mut prefix = [0; CHUNK_PREFIX_MAX];
        let prefix_len = chunk_prefix(len, &mut prefix);
        output.put_middle(&prefix[..prefix_len]);
    }
    output.tail = match (len > 0, last) {
        (true, true) => CHUNK_END_AND_LAST,
        (true, false) => CHUNK_END,
        (false, true) => LAST_CHUNK,
        (false, false) => b"",
    };
}

/// Copies what is left of the pieces after `skip` bytes to the start of `out`.
fn gather(pieces: &[&[u8]; 5], mut skip: usize, out: &mut [u8]) -> usize {
    let mut len = 0;
    for piece in pieces {
        let from = skip.min(piece.len());
        skip -= from;
        let rest = &piece[from..];
        out[len..len + rest.len()].copy_from_slice(rest);
        len += rest.len();
    }
    len
}

/// Sends what is left of the pieces after `skip` bytes from where they lie.
fn send_from<W: World>(
    transport: &mut Transport,
    pieces: &[&[u8]; 5],
    mut skip: usize,
) -> io::Result<usize> {
    let slices = pieces.map(|piece| {
        let from = skip.min(piece.len());
        skip -= from;
        IoSlice::new(&piece[from..])
    });
    transport.send_all::<W>(&slices)
}

/// Says so if an answer could not be sent because it is not any more what was checked.
pub(super) fn tell_of_change(error: &std::io::Error) {
    if error.kind() == std::io::ErrorKind::InvalidData {
        transom_wire::own_log::error!(
            "an application changed the fields of a reply while they were sent: its connection is closed"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_an_output_is_the_same_wherever_it_was_interrupted() {
        let pieces: [&[u8]; 5] = [
            b"HTTP/1.1 200 OK\r\n",
            b"A: b\r\n",
            b"\r\n5\r\n",
            b"hello",
            b"\r\n",
        ];
        let whole = pieces.concat();
        for skip in 0..=whole.len() {
            let mut out = [0; 64];
            let len = gather(&pieces, skip, &mut out);
            assert_eq!(&out[..len], &whole[skip..]);
        }
    }

    #[test]
    fn chunks_frame_every_part_of_a_body_and_end_once() {
        for (len, last, expected) in [
            (5, false, &b"5\r\nhello\r\n"[..]),
            (5, true, b"5\r\nhello\r\n0\r\n\r\n"),
            (0, true, b"0\r\n\r\n"),
            (0, false, b""),
        ] {
            let mut output = Output {
                body: 0..len,
                ..Output::default()
            };
            put_framing(&mut output, true, last);
            assert_eq!(output.pieces(b"hello").concat(), expected);
        }
    }
}
