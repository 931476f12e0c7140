//! The chunk decoder on raw bytes: row 16 of the contract, whole and in all kinds of pieces.

use super::chunked::*;
use proptest::prelude::*;

/// A whole body, and what of the input follows it.
type BodyAndRest = (Vec<u8>, Vec<u8>);

/// The body of `input`, fed in pieces of `piece` bytes into a buffer of `room`; what is left of the
/// input.
fn decode(
    input: &[u8],
    piece: usize,
    room: usize,
    body_max: u64,
) -> Result<Option<BodyAndRest>, u16> {
    let mut decoder = ChunkDecoder::new(body_max);
    let (mut body, mut at) = (Vec::new(), 0);
    let mut out = vec![0; room];
    let mut end = 0;
    while end < input.len() {
        end = input.len().min(end + piece);
        loop {
            let step = decoder
                .decode(&input[at..end], &mut out)
                .map_err(|refusal| refusal.status)?;
            body.extend_from_slice(&out[..step.produced]);
            at += step.consumed;
            if step.done {
                return Ok(Some((body, input[at..].to_vec())));
            }
            if step.consumed == 0 {
                break;
            }
        }
    }
    Ok(None)
}

/// The status that `input` is refused with, however it is split.
fn refused(input: &[u8]) -> u16 {
    let whole = decode(input, input.len(), 1 << 16, 1 << 20).expect_err("must be refused");
    let drip = decode(input, 1, 1, 1 << 20).expect_err("must be refused byte by byte");
    assert_eq!(whole, drip);
    whole
}

#[test]
fn a_body_is_the_data_of_its_chunks() {
    let input =
        b"5\r\nhello\r\n1;a=b\r\n,\r\n00006 ;x\r\n world\r\n0\r\nX-Sum: 1\r\nEmpty:\r\n\r\nGET /";
    let expected = Some((b"hello, world".to_vec(), b"GET /".to_vec()));
    for piece in [1, 2, 3, 7, input.len()] {
        for room in [1, 2, 5, 64] {
            assert_eq!(
                decode(input, piece, room, 12),
                Ok(expected.clone()),
                "piece {piece}, room {room}"
            );
        }
    }
}

#[test]
fn a_body_that_exactly_fits_its_place_ends_there() {
    let mut out = [0; 5];
    let step = ChunkDecoder::new(5).decode(b"5\r\nhello\r\n0\r\n\r\nX", &mut out);
    assert_eq!(
        step,
        Ok(Step {
            consumed: 15,
            produced: 5,
            done: true
        })
    );
    assert_eq!(&out, b"hello");
}

#[test]
fn an_ended_body_takes_no_more_bytes() {
    let mut decoder = ChunkDecoder::new(0);
    assert!(decoder.decode(b"0\r\n\r\n", &mut []).unwrap().done);
    let step = decoder.decode(b"5\r\nhello", &mut [0; 8]);
    assert_eq!(
        step,
        Ok(Step {
            consumed: 0,
            produced: 0,
            done: true
        })
    );
}

#[test]
fn malformed_framing_is_refused() {
    for wrong in [
        &b"\r\n"[..],
        b";a\r\n",
        b" 5\r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"5x\r\nhello\r\n",
        b"5\nhello\r\n",
        b"5\rhello\r\n",
        b"5 \r\nhello\r\n",
        b"5 5\r\nhello\r\n",
        b"5;a\nhello\r\n",
        b"5;a\rb\r\nhello\r\n",
        b"5;\"\n\"\r\nhello\r\n",
        b"5;a\0\r\nhello\r\n",
        b"5;\r\nhello\r\n",
        b"5;;\r\nhello\r\n",
        b"5;a;\r\nhello\r\n",
        b"5;=b\r\nhello\r\n",
        b"5;a=\r\nhello\r\n",
        b"5;a=;b\r\nhello\r\n",
        b"5;a==b\r\nhello\r\n",
        b"5;a b\r\nhello\r\n",
        b"5;a=b c\r\nhello\r\n",
        b"5;a \r\nhello\r\n",
        b"5;a=b \r\nhello\r\n",
        b"5;bad[=x\r\nhello\r\n",
        b"5;a=[x\r\nhello\r\n",
        b"5;a=\"b\r\nhello\r\n",
        b"5;a=\"b\\\"\r\nhello\r\n",
        b"5;a=\"b\"c\r\nhello\r\n",
        b"5;a=\"b\\\x01\"\r\nhello\r\n",
        b"5;\"a\"\r\nhello\r\n",
        b"5\r\nhello\n",
        b"5\r\nhelloX\r\n",
        b"5\r\nhello\r\r",
        b"5\r\nhello0\r\n\r\n",
        b"00000000000000005\r\nhello\r\n",
        b"-1\r\n",
        b"\n",
    ] {
        assert_eq!(
            refused(wrong),
            400,
            "{:?}",
            wrong.escape_ascii().to_string()
        );
    }
}

#[test]
fn well_formed_extensions_are_skipped() {
    for size in [
        "5;a",
        "5;a;b",
        "5;a=b;c=d",
        "5 ;\ta = b ; c",
        "5;a=\"\"",
        "5;a=\"b;c=d \\\" \\\\\"",
        "5;a=\"\u{e9}\" ;b",
        "5;chunk-signature=ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
    ] {
        let body = format!("{size}\r\nhello\r\n0{}\r\n\r\n", &size[1..]);
        let mut out = [0; 8];
        let step = ChunkDecoder::new(5).decode(body.as_bytes(), &mut out);
        let step = step.unwrap_or_else(|refusal| panic!("{size}: {refusal:?}"));
        assert!(step.done && out[..step.produced] == *b"hello", "{size}");
    }
}

#[test]
fn malformed_trailers_are_refused() {
    for wrong in [
        &b"0\r\n\n"[..],
        b"0\r\n\rX",
        b"0\r\nno colon\r\n\r\n",
        b"0\r\nA : b\r\n\r\n",
        b"0\r\n: b\r\n\r\n",
        b"0\r\nA: b\r\n folded\r\n\r\n",
        b"0\r\nA: b\n\r\n",
        b"0\r\nA: \x01\r\n\r\n",
        b"0\r\nA: b\rc\r\n\r\n",
        b"0\r\nA\r\n\r\n",
    ] {
        assert_eq!(
            refused(wrong),
            400,
            "{:?}",
            wrong.escape_ascii().to_string()
        );
    }
}

#[test]
fn a_body_beyond_its_limit_is_refused_before_its_data_is_read() {
    assert_eq!(decode(b"5\r\n", 1, 1, 4), Err(413));
    assert_eq!(decode(b"3\r\nabc\r\n2\r\n", 1, 1, 4), Err(413));
    assert_eq!(
        decode(b"ffffffffffffffff\r\n", 1, 1, u64::MAX - 1),
        Err(413)
    );
    assert_eq!(
        decode(b"1\r\na\r\nffffffffffffffff\r\n", 1, 1, u64::MAX),
        Err(413),
        "the sum wraps"
    );
    assert_eq!(decode(b"ffffffffffffffff\r\nab", 1, 1, u64::MAX), Ok(None));
}

#[test]
fn extensions_are_capped_by_line_and_by_body() {
    let line = |extension: usize| format!("1;{}\r\nx\r\n", "e".repeat(extension - 1));
    assert_eq!(decode(line(256).as_bytes(), 9, 9, 9), Ok(None));
    assert_eq!(refused(line(257).as_bytes()), 400);
    assert_eq!(
        refused(format!("1{};\r\n", " ".repeat(256)).as_bytes()),
        400
    );
    assert_eq!(
        decode(line(256).repeat(64).as_bytes(), 999, 9, 999),
        Ok(None)
    );
    assert_eq!(refused(line(256).repeat(65).as_bytes()), 400);
}

#[test]
fn a_long_trailer_section_is_refused_with_431() {
    // A line has 5 bytes besides its value, and the empty line at the end has 2.
    let trailer = |len: usize| format!("0\r\nA: {}\r\n\r\n", "v".repeat(len - 7));
    assert_eq!(
        decode(trailer(4096).as_bytes(), 50, 9, 9),
        Ok(Some((vec![], vec![])))
    );
    assert_eq!(refused(trailer(4097).as_bytes()), 431);
    assert_eq!(
        refused(format!("0\r\n{}", "A:\r\n".repeat(2000)).as_bytes()),
        431
    );
}

proptest! {
    #[test]
    fn any_splitting_gives_the_same_body(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6),
        extension in "([ \t]?;[ \t]?[!a-z]{1,8}([ \t]?=[ \t]?([a-z0-9]{1,8}|\"([ !#-\\[\\]-~]|\\\\[ -~]){0,9}\"))?){0,2}",
        piece in 1_usize..50,
        room in 1_usize..50,
    ) {
        let mut input = Vec::new();
        for chunk in &chunks {
            input.extend_from_slice(format!("{:X}{extension}\r\n", chunk.len()).as_bytes());
            input.extend_from_slice(chunk);
            input.extend_from_slice(b"\r\n");
        }
        input.extend_from_slice(b"0\r\nT: v\r\n\r\nrest");
        let body = chunks.concat();
        prop_assert_eq!(decode(&input, piece, room, 1 << 20), Ok(Some((body.clone(), b"rest".to_vec()))));

        let step = ChunkDecoder::new(1 << 20).decode_in_place(&mut input).unwrap();
        prop_assert_eq!((&input[..step.produced], step.done), (&body[..], true));
        prop_assert_eq!(&input[step.consumed..], b"rest");
    }

    #[test]
    fn splitting_does_not_change_the_verdict_on_arbitrary_bytes(
        input in proptest::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(&b"0123\r\n\r\n;: aA"[..])], 0..60),
        piece in 1_usize..10,
        room in 1_usize..10,
    ) {
        let whole = decode(&input, input.len().max(1), 64, 40);
        prop_assert_eq!(decode(&input, piece, room, 40), whole);
    }
}
