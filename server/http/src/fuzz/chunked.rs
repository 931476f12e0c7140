//! A chunked body: decoded to the same bytes, or refused, in whatever pieces it comes and whatever room there
//! is for it.

use super::reference_chunked::{Reading, read};
use crate::{ChunkDecoder, Refusal};

/// Checks a chunked body: the rest of the bytes, of which the first two say how it is cut and what it may
/// weigh.
///
/// # Panics
/// If the decoder does not do with it what it should.
pub fn chunked(bytes: &[u8]) {
    let [cut, weight, input @ ..] = bytes else {
        return;
    };
    let body_max = match weight {
        255 => u64::MAX,
        weight => u64::from(*weight),
    };
    let reading = read(input, body_max);
    let whole = decode(input, input.len().max(1), 1 << 16, body_max);
    let agree = match (&whole, &reading) {
        (Ok(Some((body, used))), Reading::Accepted(theirs, theirs_used)) => {
            body == theirs && used == theirs_used
        }
        (Err(refusal), Reading::Refused(statuses)) => statuses.contains(&refusal.status),
        // It waits for the end of a line where the decoder has seen enough.
        (Err(_) | Ok(None), Reading::Unfinished) => true,
        _ => false,
    };
    assert!(
        agree,
        "{}\nthe decoder: {whole:?}\nthe reference: {reading:?}",
        input.escape_ascii()
    );

    let (piece, room) = (usize::from(cut >> 4) + 1, usize::from(cut & 15) + 1);
    let pieces = decode(input, piece, room, body_max);
    assert_eq!(
        pieces,
        whole,
        "pieces of {piece}, room for {room}: {}",
        input.escape_ascii()
    );

    let mut place = input.to_vec();
    match (
        ChunkDecoder::new(body_max).decode_in_place(&mut place),
        whole,
    ) {
        (Ok(step), Ok(Some((body, used)))) => {
            assert_eq!((&place[..step.produced], step.consumed), (&body[..], used));
            assert!(step.done);
        }
        (Ok(step), Ok(None)) => assert!(!step.done),
        (in_place, whole) => assert_eq!(in_place.err(), whole.err()),
    }
}

/// The body, and the bytes that it took; `None` if it does not end.
fn decode(
    input: &[u8],
    piece: usize,
    room: usize,
    body_max: u64,
) -> Result<Option<(Vec<u8>, usize)>, Refusal> {
    let mut decoder = ChunkDecoder::new(body_max);
    let (mut body, mut out) = (Vec::new(), vec![0; room]);
    let (mut at, mut end) = (0, 0);
    while end < input.len() {
        end = input.len().min(end + piece);
        loop {
            let step = decoder.decode(&input[at..end], &mut out)?;
            body.extend_from_slice(&out[..step.produced]);
            at += step.consumed;
            if step.done {
                return Ok(Some((body, at)));
            }
            if step.consumed == 0 {
                break;
            }
        }
    }
    Ok(None)
}
