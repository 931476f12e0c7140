//! The reply frame and the pieces that may follow it: written by the application, read by the front end,
//! which does not trust them.

use std::ops::Range;

use super::{FrameError, TooLarge, UNKNOWN, VERSION, header, length_at, u16_at, u32_at};

const REPLY: u8 = b'R';
const PIECE: u8 = b'P';
const HEADER_LEN: usize = REPLY_HEADER_LEN;

/// Bytes before a reply's header block.
pub const REPLY_HEADER_LEN: usize = 24;

/// Bytes before a piece's body bytes.
pub const PIECE_HEADER_LEN: usize = 8;

const FLAGS: usize = 2;
const BODY_LEN: usize = 12;
const MORE: u8 = 1;

/// Writes a reply's head into a slot and gives the offset at which its body starts. `fields` are the parts of
/// the header block, written one after the other; `content_length` is the length of the whole body if it is
/// known.
///
/// Put the body at the offset, then call [`set_reply_body`]; the frame is the offset and the body long.
///
/// # Errors
/// [`TooLarge`] when header and header block do not fit the slot.
pub fn encode_reply_head(
    out: &mut [u8],
    status: u16,
    content_length: Option<u64>,
    fields: &[&[u8]],
) -> Result<usize, TooLarge> {
    let fields_len = fields
        .iter()
        .fold(0usize, |sum, part| sum.saturating_add(part.len()));
    let needed = HEADER_LEN.saturating_add(fields_len);
    // No number in the frame may exceed 32 bits, however large the slot.
    if needed > out.len().min(u32::MAX as usize) {
        return Err(TooLarge { needed });
    }
    let mut end = HEADER_LEN;
    for part in fields {
        out[end..end + part.len()].copy_from_slice(part);
        end += part.len();
    }
    let [status_low, status_high] = status.to_le_bytes();
    out[..8].copy_from_slice(&[REPLY, VERSION, 0, 0, status_low, status_high, 0, 0]);
    out[8..12].copy_from_slice(&(fields_len as u32).to_le_bytes());
    out[BODY_LEN..BODY_LEN + 4].fill(0);
    out[16..HEADER_LEN].copy_from_slice(&content_length.unwrap_or(UNKNOWN).to_le_bytes());
    Ok(end)
}

/// Says how much of the body lies in the reply's frame, and whether the rest of it comes in pieces.
///
/// # Panics
/// If `out` does not start with a reply's header, or the body is longer than 4 GiB: the caller's bugs.
pub fn set_reply_body(out: &mut [u8], body_len: usize, more: bool) {
    assert!(
        out.len() >= HEADER_LEN && out[0] == REPLY,
        "encode_reply_head comes first"
    );
    let body_len = u32::try_from(body_len).expect("a body in a slot is shorter than 4 GiB");
    out[BODY_LEN..BODY_LEN + 4].copy_from_slice(&body_len.to_le_bytes());
    out[FLAGS] = if more { MORE } else { 0 };
}

/// A reply as a peer alleges it. Having one proves that header block and body lie within the slot's bytes and
/// that the status is one of a final reply; the reader must check what the header block says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawReply<'a> {
    /// 200 to 599.
    pub status: u16,
    /// Pieces follow.
    pub more: bool,
    /// The length of the whole body, if the application knows it. Without `more` the body here may still be
    /// shorter: an answer to HEAD says how long the answer to GET would be.
    pub content_length: Option<u64>,
    /// `Name: value` and CRLF, repeated, if the peer is honest.
    pub fields: &'a [u8],
    /// The body, or its first part.
    pub body: &'a [u8],
}

/// Reads a reply from a slot's bytes, which must end where the frame ends.
///
/// # Errors
/// The first thing that is wrong with the bytes.
pub fn decode_reply(bytes: &[u8]) -> Result<RawReply<'_>, FrameError> {
    let head = decode_reply_head(bytes, bytes.len())?;
    Ok(RawReply {
        status: head.status,
        more: head.more,
        content_length: head.content_length,
        fields: &bytes[head.fields],
        body: &bytes[head.body],
    })
}

/// Where the parts of a reply lie in a frame of which only the first bytes have been looked at. Having one
/// proves what a [`RawReply`] proves, of a frame of the length that was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyHead {
    /// As [`RawReply::status`].
    pub status: u16,
    /// As [`RawReply::more`].
    pub more: bool,
    /// As [`RawReply::content_length`].
    pub content_length: Option<u64>,
    /// Where the header block lies.
    pub fields: Range<usize>,
    /// Where the body, or its first part, lies: from the header block to the frame's end.
    pub body: Range<usize>,
}

/// As [`decode_reply`], from the first bytes ([`REPLY_HEADER_LEN`] are enough) of a frame of `total` bytes:
/// for a reader that copies a frame's header to where its peer cannot change it before it believes any of it.
///
/// # Errors
/// The first thing that is wrong with the bytes.
pub fn decode_reply_head(first: &[u8], total: usize) -> Result<ReplyHead, FrameError> {
    let header = header::<HEADER_LEN>(first, REPLY)?;
    let flags = header[FLAGS];
    if flags & !MORE != 0 || header[3] != 0 || u16_at(header, 6) != 0 {
        return Err(FrameError::Header);
    }
    let status = u16_at(header, 4);
    if !(200..=599).contains(&status) {
        return Err(FrameError::Status(status));
    }
    let body_at = HEADER_LEN
        .checked_add(u32_at(header, 8) as usize)
        .filter(|&body_at| body_at <= total)
        .ok_or(FrameError::Length)?;
    let body_len = total - body_at;
    let content_length = length_at(header, 16);
    if body_len != u32_at(header, BODY_LEN) as usize
        || content_length.is_some_and(|whole| body_len as u64 > whole)
    {
        return Err(FrameError::Length);
    }
    Ok(ReplyHead {
        status,
        more: flags & MORE != 0,
        content_length,
        fields: HEADER_LEN..body_at,
        body: body_at..total,
    })
}

/// The next part of a streamed body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// No more follow. The last piece may be empty; the others may be too and then mean nothing.
    pub last: bool,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// Writes the header of a piece whose `len` bytes lie (or will lie) behind it, at [`PIECE_HEADER_LEN`].
///
/// # Panics
/// If `out` is shorter than the header, or the piece is longer than 4 GiB: the caller's bugs.
pub fn encode_piece(out: &mut [u8], len: usize, last: bool) {
    let len = u32::try_from(len).expect("a piece in a slot is shorter than 4 GiB");
    out[..4].copy_from_slice(&[PIECE, VERSION, u8::from(last), 0]);
    out[4..PIECE_HEADER_LEN].copy_from_slice(&len.to_le_bytes());
}

/// Reads a piece from a slot's bytes, which must end where the piece ends.
///
/// # Errors
/// The first thing that is wrong with the bytes.
pub fn decode_piece(bytes: &[u8]) -> Result<Piece<'_>, FrameError> {
    let last = decode_piece_head(bytes, bytes.len())?;
    Ok(Piece {
        last,
        bytes: &bytes[PIECE_HEADER_LEN..],
    })
}

/// As [`decode_piece`], from the first [`PIECE_HEADER_LEN`] bytes of a piece of `total` bytes; says whether
/// it is the last. Its bytes are all that follow the header.
///
/// # Errors
/// The first thing that is wrong with the bytes.
pub fn decode_piece_head(first: &[u8], total: usize) -> Result<bool, FrameError> {
    let header = header::<PIECE_HEADER_LEN>(first, PIECE)?;
    if header[2] > 1 || header[3] != 0 {
        return Err(FrameError::Header);
    }
    let len = total.checked_sub(PIECE_HEADER_LEN);
    if len != Some(u32_at(header, 4) as usize) {
        return Err(FrameError::Length);
    }
    Ok(header[2] == 1)
}
