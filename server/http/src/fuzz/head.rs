//! A head's verdict: the same however it arrives, the one that a slow reader gives, and never more than
//! httparse takes.

use super::reference_head::{Body, Limits, Parts, Reading, read};
use crate::{BodyFraming, HeadLimits, Parsed, Refusal, TargetForm, decode_path, parse};

/// The limits that the bytes are put to: those of a server, and some that short inputs reach.
const LIMITS: [HeadLimits; 2] = [
    HeadLimits {
        target_max: 8 * 1024,
        head_max: 16 * 1024,
        fields_max: 100,
    },
    HeadLimits {
        target_max: 60,
        head_max: 200,
        fields_max: 6,
    },
];

/// The most bytes of which every prefix is looked at.
const PREFIXES: usize = 256;

/// Checks a head.
///
/// # Panics
/// If its verdict is not what it should be.
pub fn head(bytes: &[u8]) {
    for limits in &LIMITS {
        let whole = verdict(bytes, limits);
        check_against_reference(bytes, limits, &whole);
        check_prefixes(bytes, limits, &whole);
        check_against_httparse(bytes, limits);
    }
}

/// A verdict without its borrows; `None` if the head is not whole.
type Verdict = Result<Option<Parts>, Refusal>;

fn verdict(bytes: &[u8], limits: &HeadLimits) -> Verdict {
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let Parsed::Complete(head) = parse(bytes, limits, &mut fields)? else {
        return Ok(None);
    };
    Ok(Some(Parts {
        method: head.method_text.to_owned(),
        target: head.target.to_owned(),
        path: head.path.to_owned(),
        query: head.query.map(str::to_owned),
        minor: head.version_minor,
        host: head.host.to_owned(),
        body: match head.body {
            BodyFraming::None => Body::None,
            BodyFraming::Length(length) => Body::Length(length),
            BodyFraming::Chunked => Body::Chunked,
        },
        keep_alive: head.keep_alive,
        expect_continue: head.expect_continue,
        fields: head
            .fields
            .iter()
            .map(|field| (field.name.to_owned(), field.value.to_vec()))
            .collect(),
        head_len: head.head_len,
    }))
}

fn check_against_reference(bytes: &[u8], limits: &HeadLimits, verdict: &Verdict) {
    let reading = read(
        bytes,
        Limits {
            target: limits.target_max,
            head: limits.head_max,
            fields: limits.fields_max,
        },
    );
    let agree = match (verdict, &reading) {
        (Ok(Some(parts)), Reading::Accepted(theirs)) => parts == theirs,
        (Err(refusal), Reading::Refused(statuses)) => statuses.contains(&refusal.status),
        // It waits for the end where the parser has seen enough.
        (Err(_) | Ok(None), Reading::Unfinished) => true,
        _ => false,
    };
    assert!(
        agree,
        "{}\nthe parser: {verdict:?}\nthe reference: {reading:?}",
        bytes.escape_ascii()
    );
}

/// Every prefix is partial until one gets the verdict of the whole, and each longer one gets it too.
fn check_prefixes(bytes: &[u8], limits: &HeadLimits, whole: &Verdict) {
    let mut decided = false;
    for len in 0..bytes.len().min(PREFIXES) {
        let prefix = verdict(&bytes[..len], limits);
        decided |= prefix != Ok(None);
        if decided {
            assert_eq!(
                &prefix,
                whole,
                "the first {len} bytes of {}",
                bytes.escape_ascii()
            );
        }
        if let Ok(Some(parts)) = prefix {
            assert!(parts.head_len <= len, "complete before its end");
        }
    }
}

/// What httparse makes of bytes that we accept. It knows 1.0 and 1.1 only, so other minor versions are put to
/// it as 1.1.
fn check_against_httparse(bytes: &[u8], limits: &HeadLimits) {
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let Ok(Parsed::Complete(head)) = parse(bytes, limits, &mut fields) else {
        return;
    };
    let mut bytes = bytes.to_vec();
    let version = bytes.windows(7).position(|window| window == b" HTTP/1");
    let version = version.expect("an accepted request line has a version");
    if bytes[version + 8] > b'1' {
        bytes[version + 8] = b'1';
    }
    let mut theirs = [httparse::EMPTY_HEADER; 100];
    let mut request = httparse::Request::new(&mut theirs);
    assert_eq!(
        request.parse(&bytes),
        Ok(httparse::Status::Complete(head.head_len))
    );
    assert_eq!(request.method, Some(head.method_text));
    assert_eq!(request.path, Some(head.target));
    assert_eq!(request.version, Some(head.version_minor));
    assert_eq!(&*request.headers, head.fields);
    if head.form == TargetForm::Asterisk {
        return;
    }
    let mut path = vec![0; head.path.len()];
    let len = decode_path(head.path.as_bytes(), &mut path).expect("an accepted path is decoded");
    let mut segments = path[..len].split(|&byte| byte == b'/');
    assert_eq!(
        segments.next(),
        Some(&b""[..]),
        "a path begins with a slash"
    );
    assert!(
        segments.all(|segment| segment != b"." && segment != b".."),
        "a dot segment is left in {}",
        path[..len].escape_ascii()
    );
}
