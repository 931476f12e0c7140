//! Frames: what is written is read, and whatever is read is checked.

mod pure_support;

use proptest::collection::vec;
use proptest::prelude::*;
use pure_support::{encode, frame, head};
use transom_wire::frame::{
    EncodeError, FrameError, PIECE_HEADER_LEN, REPLY_HEADER_LEN, RequestParts, decode_piece,
    decode_piece_head, decode_reply, decode_reply_head, decode_request, encode_piece,
    encode_reply_head, encode_request, outcome, set_reply_body, set_request_body,
};

const HEAD: &str =
    "POST /caf%C3%A9?q=1 HTTP/1.1\r\nHost: example.org:8080\r\nX-Empty:\r\nAccept: */*\r\n\r\n";

fn reply(status: u16, length: Option<u64>, fields: &[&[u8]], body: &[u8], more: bool) -> Vec<u8> {
    let mut slot = vec![0xdb; 4096];
    let offset = encode_reply_head(&mut slot, status, length, fields).expect("it fits");
    slot[offset..offset + body.len()].copy_from_slice(body);
    set_reply_body(&mut slot, body.len(), more);
    slot.truncate(offset + body.len());
    slot
}

#[test]
fn a_request_is_read_as_it_was_written() {
    let bytes = frame(HEAD, Some("/caf\u{e9}"), b"body", false);
    let request = decode_request(&bytes).expect("a request");
    assert_eq!(
        (request.method, request.target, request.path),
        ("POST", "/caf%C3%A9?q=1", "/caf\u{e9}")
    );
    assert_eq!(
        (request.query, request.host),
        (Some("q=1"), Some("example.org:8080"))
    );
    assert_eq!(
        (request.minor, request.head_only, request.streamed),
        (1, false, false)
    );
    assert_eq!(request.peer, Some(([192, 0, 2, 7], 4711).into()));
    assert_eq!((request.content_length, request.body), (None, &b"body"[..]));
    let fields: Vec<_> = request.fields.collect();
    let expected: [(&[u8], &[u8]); 3] = [
        (b"Host", b"example.org:8080"),
        (b"X-Empty", b""),
        (b"Accept", b"*/*"),
    ];
    assert_eq!(fields, expected);
    assert_eq!(request.fields.len(), 3);
}

#[test]
fn peers_of_every_kind_are_kept() {
    let v6 = "[2001:db8::7]:443".parse().expect("an address");
    for peer in [None, Some(([127, 0, 0, 1], 1).into()), Some(v6)] {
        let head = b"GET / HTTP/1.0\r\n\r\n";
        let parts = RequestParts {
            head,
            method: &head[..3],
            target: &head[4..5],
            path: b"/",
            query: None,
            host: None,
            minor: 0,
            peer,
            head_only: true,
            content_length: Some(0),
        };
        let mut slot = [0xdb; 256];
        let encoded = encode_request(&mut slot, &parts, []).expect("it fits");
        let request = decode_request(&slot[..encoded.body_offset]).expect("a request");
        assert_eq!(
            (request.peer, request.host, request.query),
            (peer, None, None)
        );
        assert_eq!(
            (request.minor, request.head_only, request.content_length),
            (0, true, Some(0))
        );
    }
}

#[test]
fn an_empty_query_is_not_the_absence_of_one() {
    assert_eq!(
        decode_request(&frame(&head("GET /?"), None, b"", false))
            .expect("one")
            .query,
        Some("")
    );
    assert_eq!(
        decode_request(&frame(&head("GET /"), None, b"", false))
            .expect("one")
            .query,
        None
    );
}

#[test]
fn a_request_that_does_not_fit_says_what_it_needs_and_then_fits_exactly() {
    let mut whole = vec![0; 4096];
    let needed = encode(&mut whole, HEAD, None).expect("it fits").body_offset;
    for len in [0, 10, 80, HEAD.len(), needed - 17, needed - 1] {
        let Err(EncodeError::TooLarge(error)) = encode(&mut vec![0; len], HEAD, None) else {
            panic!("it cannot fit {len} bytes");
        };
        assert_eq!(error.needed, needed, "in {len} bytes");
    }
    assert!(encode(&mut vec![0; needed], HEAD, None).is_ok());
}

#[test]
fn a_part_that_is_no_slice_of_the_head_is_refused() {
    let head = b"GET / HTTP/1.1\r\n\r\n";
    let parts = RequestParts {
        head,
        method: &head[..3],
        target: &head[4..5],
        path: b"/",
        query: None,
        host: Some(b"elsewhere"),
        minor: 1,
        peer: None,
        head_only: false,
        content_length: None,
    };
    let mut slot = [0; 256];
    assert_eq!(
        encode_request(&mut slot, &parts, []),
        Err(EncodeError::OutsideHead)
    );
    let parts = RequestParts {
        host: None,
        ..parts
    };
    let stray: (&[u8], &[u8]) = (&head[..3], b"elsewhere");
    assert_eq!(
        encode_request(&mut slot, &parts, [stray]),
        Err(EncodeError::OutsideHead)
    );
}

#[test]
fn a_body_shorter_than_announced_needs_the_mark_that_more_follows() {
    let head = head("POST /");
    let mut slot = vec![0; 4096];
    let offset = encode(&mut slot, &head, None).expect("it fits").body_offset;
    let announce =
        |slot: &mut [u8], length: u64| slot[24..32].copy_from_slice(&length.to_le_bytes());
    for (announced, here, streamed, fine) in [
        (4, 4, false, true),
        (9, 4, true, true),
        (9, 4, false, false),
        (3, 4, false, false),
        (3, 4, true, false),
    ] {
        announce(&mut slot, announced);
        set_request_body(&mut slot, here, streamed);
        let read = decode_request(&slot[..offset + here]);
        assert_eq!(
            read.is_ok(),
            fine,
            "{here} of {announced}, streamed: {streamed}"
        );
    }
}

#[test]
fn each_lie_about_a_request_has_its_error() {
    let bytes = frame(HEAD, None, b"body", false);
    let head_len = HEAD.len();
    let after = |at: usize, lie: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + lie.len()].copy_from_slice(lie);
        decode_request(&bytes).expect_err("a lie")
    };
    assert_eq!(
        decode_request(&bytes[..79]).expect_err("short"),
        FrameError::Truncated
    );
    assert_eq!(
        decode_request(&bytes[..bytes.len() - 1]).expect_err("short"),
        FrameError::Length
    );
    assert_eq!(after(0, b"R"), FrameError::Kind);
    assert_eq!(after(1, &[1]), FrameError::Version(1));
    assert_eq!(after(2, &[2]), FrameError::Header);
    assert_eq!(after(3, &[32]), FrameError::Header);
    assert_eq!(
        after(3, &[4 + 8 + 16]),
        FrameError::Header,
        "a body that is still coming and does not come in pieces"
    );
    assert_eq!(
        after(3, &[0]),
        FrameError::Header,
        "a query without its flag"
    );
    assert_eq!(after(4, &[5]), FrameError::Header);
    assert_eq!(after(4, &[0]), FrameError::Header, "an unexpected address");
    assert_eq!(after(5, &[1]), FrameError::Header);
    for length in [32, 36, 40, 44] {
        assert_eq!(after(length, &u32::MAX.to_le_bytes()), FrameError::Length);
    }
    for part in [48, 56, 64, 72] {
        assert_eq!(
            after(part, &(head_len as u32 + 1).to_le_bytes()),
            FrameError::Part
        );
        assert_eq!(after(part + 4, &u32::MAX.to_le_bytes()), FrameError::Part);
    }
    assert_eq!(after(52, &[0; 4]), FrameError::Text, "no method");
    assert_eq!(after(60, &[0; 4]), FrameError::Text, "no target");
    assert_eq!(after(80, b"P ST"), FrameError::Text);
    assert_eq!(after(80 + head_len, b"/\xff"), FrameError::PathNotUtf8);
    let index = 80 + head_len + "/caf%C3%A9".len();
    assert_eq!(after(index, &u32::MAX.to_le_bytes()), FrameError::Part);
    assert_eq!(after(index + 12, &u32::MAX.to_le_bytes()), FrameError::Part);
    assert_eq!(
        after(index + 4, &[0; 4]),
        FrameError::Text,
        "a field without a name"
    );
}

#[test]
fn a_reply_is_read_as_it_was_written() {
    let bytes = reply(
        404,
        Some(4),
        &[b"A: b\r\n", b"", b"C: d\r\n"],
        b"body",
        false,
    );
    let read = decode_reply(&bytes).expect("a reply");
    assert_eq!(
        (read.status, read.more, read.content_length),
        (404, false, Some(4))
    );
    assert_eq!(
        (read.fields, read.body),
        (&b"A: b\r\nC: d\r\n"[..], &b"body"[..])
    );
    let streamed = reply(200, None, &[], b"first", true);
    let read = decode_reply(&streamed).expect("a reply");
    assert_eq!(
        (read.more, read.content_length, read.fields, read.body),
        (true, None, &b""[..], &b"first"[..])
    );
}

#[test]
fn a_reply_head_that_does_not_fit_says_what_it_needs() {
    let error = encode_reply_head(&mut [0; 29], 200, None, &[b"A: b\r\n"]).expect_err("too large");
    assert_eq!(error.needed, 30);
    assert_eq!(
        encode_reply_head(&mut [0; 30], 200, None, &[b"A: b\r\n"]),
        Ok(30)
    );
}

#[test]
fn each_lie_about_a_reply_has_its_error() {
    let bytes = reply(200, Some(4), &[b"A: b\r\n"], b"body", false);
    let after = |at: usize, lie: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + lie.len()].copy_from_slice(lie);
        decode_reply(&bytes).map(|reply| reply.status)
    };
    assert_eq!(decode_reply(&bytes[..23]), Err(FrameError::Truncated));
    assert_eq!(
        decode_reply(&bytes[..bytes.len() - 1]),
        Err(FrameError::Length)
    );
    assert_eq!(after(0, b"Q"), Err(FrameError::Kind));
    assert_eq!(after(1, &[0]), Err(FrameError::Version(0)));
    for zero in [3, 6, 7] {
        assert_eq!(after(zero, &[1]), Err(FrameError::Header));
    }
    assert_eq!(after(2, &[2]), Err(FrameError::Header));
    for status in [0, 101, 199, 600] {
        assert_eq!(
            after(4, &u16::to_le_bytes(status)),
            Err(FrameError::Status(status))
        );
    }
    for length in [8, 12] {
        assert_eq!(
            after(length, &u32::MAX.to_le_bytes()),
            Err(FrameError::Length)
        );
    }
    assert_eq!(
        after(16, &3u64.to_le_bytes()),
        Err(FrameError::Length),
        "more than the whole"
    );
    assert!(
        after(16, &9u64.to_le_bytes()).is_ok(),
        "an answer to HEAD has less than the whole"
    );
}

#[test]
fn pieces_are_read_as_they_were_written() {
    for (body, last) in [(&b"more"[..], false), (b"", true), (b"end", true)] {
        let mut bytes = [&[0; PIECE_HEADER_LEN][..], body].concat();
        encode_piece(&mut bytes, body.len(), last);
        let piece = decode_piece(&bytes).expect("a piece");
        assert_eq!((piece.bytes, piece.last), (body, last));
        assert_eq!(
            decode_piece(&[&bytes[..], b"!"].concat()),
            Err(FrameError::Length)
        );
        bytes[2] = 2;
        assert_eq!(decode_piece(&bytes), Err(FrameError::Header));
    }
    assert_eq!(decode_piece(b"P"), Err(FrameError::Truncated));
}

#[test]
fn our_outcomes_keep_clear_of_the_doors_own() {
    let ours = [
        outcome::EXHAUSTED_ARENA,
        outcome::EXHAUSTED_STACK,
        outcome::EXHAUSTED_QUOTA,
        outcome::PANICKED,
        outcome::BAD_FRAME,
        outcome::REPLY_TOO_LARGE,
        outcome::STREAM_BROKEN,
        outcome::EXHAUSTED_SHARED_HEAP,
        outcome::UNWRITTEN,
    ];
    for (at, outcome) in ours.into_iter().enumerate() {
        assert!(outcome >= 16 && !ours[..at].contains(&outcome));
        assert!(outcome::diagnostic(outcome).is_some());
    }
    assert_eq!((outcome::OK, outcome::diagnostic(outcome::OK)), (0, None));
    assert_eq!(
        outcome::diagnostic(outcome::EXHAUSTED_ARENA),
        Some("bucket-exhausted")
    );
    assert_eq!(
        outcome::diagnostic(outcome::PANICKED),
        Some("handler-panicked")
    );
}

/// A frame that decodes must be usable to its last byte, and its header alone must say the same as all of it.
fn touch(bytes: &[u8]) {
    let first = |len| &bytes[..bytes.len().min(len)];
    let head = decode_reply_head(first(REPLY_HEADER_LEN), bytes.len());
    assert_eq!(
        head.as_ref()
            .map(|head| (&bytes[head.fields.clone()], &bytes[head.body.clone()]))
            .map_err(|&error| error),
        decode_reply(bytes).map(|reply| (reply.fields, reply.body))
    );
    assert_eq!(
        decode_piece_head(first(PIECE_HEADER_LEN), bytes.len()),
        decode_piece(bytes).map(|piece| piece.last)
    );
    if let Ok(request) = decode_request(bytes) {
        assert_eq!(request.fields.len(), request.fields.count());
        assert!(request.body.len() < bytes.len());
    }
    if let Ok(reply) = decode_reply(bytes) {
        assert!(reply.fields.len() + reply.body.len() < bytes.len());
    }
    if let Ok(piece) = decode_piece(bytes) {
        assert!(piece.bytes.len() < bytes.len());
    }
}

proptest! {
    #[test]
    fn any_request_survives_the_slot(
        method in "[A-Z]{1,20}",
        target in "/[!-~&&[^?]]{0,60}",
        query in proptest::option::of("[!-~]{0,40}"),
        path in "/[^\u{0}]{0,40}",
        fields in vec(("[A-Za-z-]{1,12}", "[ -~]{0,30}"), 0..20),
        body in vec(any::<u8>(), 0..300),
        minor in 0u8..2,
        head_only: bool,
        streamed: bool,
    ) {
        let target = match &query { Some(query) => format!("{target}?{query}"), None => target };
        let mut head = format!("{method} {target} HTTP/1.{minor}\r\n");
        let mut places = Vec::new();
        for (name, value) in &fields {
            let start = head.len();
            head.push_str(&format!("{name}: {value}\r\n"));
            places.push((start..start + name.len(), start + name.len() + 2..head.len() - 2));
        }
        head.push_str("\r\n");
        let head = head.as_bytes();
        let target_start = method.len() + 1;
        let target_end = target_start + target.len();
        let query_len = query.as_ref().map(String::len);
        let content_length = streamed.then_some(body.len() as u64 + 5);
        let parts = RequestParts {
            head,
            method: &head[..method.len()],
            target: &head[target_start..target_end],
            path: path.as_bytes(),
            query: query_len.map(|len| &head[target_end - len..target_end]),
            host: None,
            minor,
            peer: None,
            head_only,
            content_length,
        };
        let mut slot = vec![0xdb; 8192];
        let index = places.iter().map(|(name, value)| (&head[name.clone()], &head[value.clone()]));
        let encoded = encode_request(&mut slot, &parts, index).expect("it fits");
        prop_assert_eq!(encoded.head_len, head.len());
        let end = encoded.body_offset + body.len();
        slot[encoded.body_offset..end].copy_from_slice(&body);
        set_request_body(&mut slot, body.len(), streamed);

        let read = decode_request(&slot[..end]).expect("a request");
        prop_assert_eq!((read.method, read.target, read.path), (&*method, &*target, &*path));
        prop_assert_eq!((read.query, read.host), (query.as_deref(), None));
        prop_assert_eq!((read.minor, read.head_only, read.streamed), (minor, head_only, streamed));
        prop_assert_eq!((read.content_length, read.body), (content_length, &body[..]));
        let expected: Vec<_> = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
        prop_assert_eq!(read.fields.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn any_reply_survives_the_slot(
        status in 200u16..600,
        fields in vec(any::<u8>(), 0..200),
        body in vec(any::<u8>(), 0..200),
        more: bool,
        known: bool,
    ) {
        let length = known.then_some(body.len() as u64);
        let bytes = reply(status, length, &[&fields], &body, more);
        let read = decode_reply(&bytes).expect("a reply");
        prop_assert_eq!((read.status, read.more, read.content_length), (status, more, length));
        prop_assert_eq!((read.fields, read.body), (&fields[..], &body[..]));
    }

    #[test]
    fn a_header_alone_gives_the_places_in_a_frame_of_that_length_only(
        fields in vec(any::<u8>(), 0..200),
        body in vec(any::<u8>(), 0..200),
        total in 0usize..500,
    ) {
        let bytes = reply(200, None, &[&fields], &body, false);
        let head = decode_reply_head(&bytes[..REPLY_HEADER_LEN], total);
        if total == bytes.len() {
            let head = head.expect("a reply");
            prop_assert_eq!((&bytes[head.fields], &bytes[head.body]), (&fields[..], &body[..]));
        } else {
            prop_assert_eq!(head, Err(FrameError::Length));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(kind in prop::sample::select(b"QRP".to_vec()), bytes in vec(any::<u8>(), 0..400)) {
        touch(&bytes);
        touch(&[&[kind, 1][..], &bytes].concat());
    }

    #[test]
    fn a_changed_frame_never_panics(changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8), cut: prop::sample::Index) {
        for mut bytes in [frame(HEAD, None, b"body", false), reply(200, None, &[b"A: b\r\n"], b"body", true)] {
            for (at, byte) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            touch(&bytes);
            touch(&bytes[..cut.index(bytes.len())]);
        }
    }
}
