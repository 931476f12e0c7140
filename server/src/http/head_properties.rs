//! What must hold of a head's verdict for any bytes at all.

use super::*;
use proptest::prelude::*;

const LIMITS: HeadLimits = HeadLimits {
    target_max: 60,
    head_max: 200,
    fields_max: 6,
};

/// Requests to start from: bytes that are nearly right find more than random ones.
const SEEDS: [&[u8]; 7] = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\r\nPOST /a%20b?c HTTP/1.1\r\nHost: a:80\r\nContent-Length: 5\r\n\r\nhello",
    b"PUT http://b/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n0\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost:\r\nConnection: close, x\r\nX:\ty z\t\r\n\r\n",
    b"HEAD /../x HTTP/1.0\r\nConnection: keep-alive\r\nAccept: */*\r\n\r\n",
    b"DELETE / HTTP/1.3\r\nHost: [::1]\r\nA:\r\nB: \xfc\r\nC: d\r\nE: f\r\n\r\n",
    b"BREW /pot HTTP/2.0\r\nHost: a\r\n\r\n",
];

/// A seed with a few bytes replaced, put in or taken out.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![any::<u8>(), prop::sample::select(&b"\r\n \t:%/#,5aA"[..])];
    let edits = proptest::collection::vec((any::<prop::sample::Index>(), byte, 0..3_u8), 0..5);
    (prop::sample::select(&SEEDS[..]), edits).prop_map(|(seed, edits)| {
        let mut bytes = seed.to_vec();
        for (place, byte, edit) in edits {
            let at = place.index(bytes.len());
            match edit {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        bytes
    })
}

/// A verdict without its borrows.
#[derive(Debug, PartialEq)]
enum Verdict {
    Partial,
    Refused(Refusal),
    Complete(String),
}

fn verdict(bytes: &[u8]) -> (Verdict, usize) {
    let mut fields = [httparse::EMPTY_HEADER; 8];
    match parse(bytes, &LIMITS, &mut fields) {
        Ok(Parsed::Partial) => (Verdict::Partial, 0),
        Ok(Parsed::Complete(head)) => (Verdict::Complete(format!("{head:?}")), head.head_len),
        Err(refusal) => (Verdict::Refused(refusal), 0),
    }
}

/// Every prefix is partial until one gets the verdict of the whole, and each longer one gets it
/// too.
fn check_prefixes(bytes: &[u8]) -> Result<(), TestCaseError> {
    let (whole, head_len) = verdict(bytes);
    let mut decided = false;
    for len in 0..bytes.len() {
        let (prefix, _) = verdict(&bytes[..len]);
        decided |= prefix != Verdict::Partial;
        if decided {
            prop_assert_eq!(&prefix, &whole, "the first {} bytes", len);
            prop_assert!(len >= head_len, "complete before its end");
        }
    }
    Ok(())
}

/// What httparse makes of bytes that we accept. It knows 1.0 and 1.1 only, so other minor versions
/// are put to it as 1.1.
fn check_against_httparse(bytes: &[u8]) -> Result<(), TestCaseError> {
    let mut fields = [httparse::EMPTY_HEADER; 8];
    let Ok(Parsed::Complete(head)) = parse(bytes, &LIMITS, &mut fields) else {
        return Ok(());
    };
    let mut bytes = bytes.to_vec();
    let version = bytes
        .windows(7)
        .position(|window| window == b" HTTP/1")
        .unwrap();
    if bytes[version + 8] > b'1' {
        bytes[version + 8] = b'1';
    }
    let mut theirs = [httparse::EMPTY_HEADER; 8];
    let mut request = httparse::Request::new(&mut theirs);
    prop_assert_eq!(
        request.parse(&bytes),
        Ok(httparse::Status::Complete(head.head_len))
    );
    prop_assert_eq!(request.method, Some(head.method_text));
    prop_assert_eq!(request.path, Some(head.target));
    prop_assert_eq!(request.version, Some(head.version_minor));
    prop_assert_eq!(&*request.headers, head.fields);
    // And the rules that httparse has not.
    let text = &bytes[..head.head_len];
    prop_assert!(text.ends_with(b"\r\n\r\n"));
    prop_assert_eq!(
        text.split(|&b| b == b'\n')
            .filter(|line| line.ends_with(b"\r"))
            .count()
            + 1,
        text.split(|&b| b == b'\n').count()
    );
    prop_assert!(
        head.form == TargetForm::Asterisk
            || decode_path(head.path.as_bytes(), &mut [0; 64]).is_ok()
    );
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arbitrary_bytes_get_one_verdict_however_they_arrive(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        check_prefixes(&bytes)?;
    }

    #[test]
    fn nearly_right_bytes_get_one_verdict_however_they_arrive(bytes in mutated()) {
        check_prefixes(&bytes)?;
    }

    #[test]
    fn what_is_accepted_httparse_accepts_with_the_same_parts(bytes in mutated()) {
        check_against_httparse(&bytes)?;
    }
}

#[test]
fn every_seed_but_the_last_is_accepted() {
    for seed in &SEEDS[..6] {
        assert!(
            matches!(verdict(seed).0, Verdict::Complete(_)),
            "{}",
            seed.escape_ascii()
        );
        check_against_httparse(seed).unwrap();
    }
    assert!(matches!(
        verdict(SEEDS[6]).0,
        Verdict::Refused(Refusal { status: 505, .. })
    ));
}
