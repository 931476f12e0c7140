//! A reply out of a slot that a hostile application wrote: refused, or one answer that a client reads as it
//! is meant.

use crate::date::DateCache;
use crate::framing::framing;
use crate::reply::{HEAD_MAX, head};
use crate::{BodySize, Fate, ReplyFraming, validate_fields};
use transom_wire::frame::{decode_reply, decode_reply_head};

/// Checks a reply as it lies in a slot.
///
/// # Panics
/// If a client could be misled by it.
pub fn reply(bytes: &[u8]) {
    let first = &bytes[..bytes.len().min(transom_wire::frame::REPLY_HEADER_LEN)];
    let by_head = decode_reply_head(first, bytes.len());
    let Ok(reply) = decode_reply(bytes) else {
        assert!(by_head.is_err(), "{}", bytes.escape_ascii());
        return;
    };
    let by_head = by_head.expect("the header alone is enough");
    assert_eq!(&bytes[by_head.fields], reply.fields);
    assert_eq!(&bytes[by_head.body], reply.body);
    let Ok(facts) = validate_fields(reply.fields) else {
        return;
    };

    let bodiless = matches!(reply.status, 204 | 304);
    let size = match reply.content_length {
        _ if bodiless => BodySize::Known(0),
        Some(whole) => BodySize::Known(whole),
        None if reply.more => BodySize::Streamed,
        None => BodySize::Known(reply.body.len() as u64),
    };
    for minor in [0, 1] {
        let Ok(framing) = framing(reply.status, false, minor, size, &facts) else {
            continue;
        };
        let mut out = [0; HEAD_MAX];
        let date = DateCache::new(784_111_777);
        let date = (!facts.has_date).then_some(&date);
        let len = head(
            &mut out,
            reply.status,
            framing,
            Fate::after(true, minor),
            date,
        );
        let wire = [&out[..len], reply.fields, b"\r\n"].concat();
        let mut fields = vec![httparse::EMPTY_HEADER; wire.len()];
        let mut seen = httparse::Response::new(&mut fields);
        let parsed = seen.parse(&wire);
        assert_eq!(
            parsed,
            Ok(httparse::Status::Complete(wire.len())),
            "{}",
            wire.escape_ascii()
        );
        assert_eq!(seen.code, Some(reply.status));
        let count = |name: &str| {
            let named = seen
                .headers
                .iter()
                .filter(|field| field.name.eq_ignore_ascii_case(name));
            named.count()
        };
        assert!(count("date") == 1 && count("connection") <= 1);
        let (lengths, codings) = (count("content-length"), count("transfer-encoding"));
        let expected = match framing {
            _ if bodiless => (usize::from(reply.status == 304 && lengths == 1), 0),
            ReplyFraming::Length(_) | ReplyFraming::Stated => (1, 0),
            ReplyFraming::Chunked => (0, 1),
            ReplyFraming::UntilClose | ReplyFraming::NoBody => (0, 0),
        };
        assert_eq!((lengths, codings), expected, "{}", wire.escape_ascii());
        assert!(minor == 1 || codings == 0, "chunks for HTTP/1.0");
    }
}
