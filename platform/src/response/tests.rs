//! Responses as the platform will read them.

use std::io::{self, Write};

use super::*;

fn block(response: &Response<'_>) -> String {
    String::from_utf8(response.fields().concat()).expect("text")
}

fn bytes(response: Response<'_>) -> Vec<u8> {
    match response.into_body() {
        Body::Empty => Vec::new(),
        Body::Borrowed(bytes) => bytes.to_vec(),
        Body::Owned(bytes) => bytes,
        Body::Stream { .. } => panic!("a stream"),
    }
}

/// A reply slot of a few bytes, and what was taken from it.
struct Slot {
    slot: [u8; 4],
    used: usize,
    taken: Vec<Vec<u8>>,
    gone_after: usize,
}

impl Slot {
    fn new() -> Self {
        Self {
            slot: [0; 4],
            used: 0,
            taken: Vec::new(),
            gone_after: usize::MAX,
        }
    }
}

impl ReplySink for Slot {
    fn space(&mut self) -> &mut [u8] {
        &mut self.slot[self.used..]
    }

    fn advance(&mut self, len: usize) {
        self.used += len;
    }

    fn push_out(&mut self) -> io::Result<()> {
        if self.taken.len() >= self.gone_after {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if self.used > 0 {
            self.taken.push(self.slot[..self.used].to_vec());
            self.used = 0;
        }
        Ok(())
    }
}

#[test]
fn text_html_json_and_bytes_have_their_types() {
    assert_eq!(
        block(&Response::text("a")),
        "Content-Type: text/plain; charset=utf-8\r\n"
    );
    assert_eq!(
        block(&Response::html("a")),
        "Content-Type: text/html; charset=utf-8\r\n"
    );
    assert_eq!(
        block(&Response::json(&1)),
        "Content-Type: application/json\r\n"
    );
    assert_eq!(
        block(&Response::bytes("image/png", b"a")),
        "Content-Type: image/png\r\n"
    );
    assert_eq!(bytes(Response::json(&[1, 2])), b"[1,2]");
}

#[test]
fn an_empty_response_has_no_type_and_no_bytes() {
    let response = Response::empty(204);
    assert_eq!(
        (response.status(), response.content_length()),
        (Status::NO_CONTENT, Some(0))
    );
    assert_eq!(block(&response), "");
}

#[test]
fn a_redirect_names_its_place() {
    let response = Response::redirect(format_args!("/user/{}", 7));
    assert_eq!(response.status(), Status::SEE_OTHER);
    assert_eq!(block(&response), "Location: /user/7\r\n");
}

#[test]
fn headers_keep_their_order_and_repeat_but_there_is_one_type() {
    let response = Response::text("")
        .header("Set-Cookie", "a=1")
        .header("content-type", "text/css")
        .header("Set-Cookie", "b=2")
        .header("Retry-After", 5);
    let expected =
        "Content-Type: text/css\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nRetry-After: 5\r\n";
    assert_eq!(block(&response), expected);
}

#[test]
fn a_value_with_a_line_break_cannot_write_another_header() {
    for value in [
        "a\r\nSet-Cookie: admin=1",
        "a\nb",
        "a\rb",
        "a\0b",
        "a\u{7f}",
    ] {
        let response = Response::text("secret")
            .header("X-Name", value)
            .header("X-Other", "fine")
            .with_status(200);
        assert_eq!(
            response.status(),
            Status::INTERNAL_SERVER_ERROR,
            "{value:?}"
        );
        assert_eq!(
            block(&response),
            "Content-Type: text/plain; charset=utf-8\r\n",
            "{value:?}"
        );
        let reason = response.diagnostic().expect("a reason for the log");
        assert!(
            reason.contains("X-Name") && reason.contains("control byte"),
            "{reason}"
        );
        assert_eq!(bytes(response), b"Internal Server Error\n");
    }
}

#[test]
fn a_content_type_with_a_line_break_is_refused_wherever_it_comes_from() {
    let injected = "text/html\r\nX: y";
    for response in [
        Response::bytes(injected, "a"),
        Response::text("a").header("Content-Type", injected),
    ] {
        assert_eq!(response.status(), Status::INTERNAL_SERVER_ERROR);
        assert!(!block(&response).contains("X: y"));
    }
}

#[test]
fn framing_fields_and_names_that_are_no_tokens_make_a_500() {
    for name in [
        "Content-Length",
        "transfer-encoding",
        "CONNECTION",
        "a b",
        "",
        "a:b",
        "a\r\nb",
    ] {
        let response = Response::text("a").header(name, "1");
        assert_eq!(response.status(), Status::INTERNAL_SERVER_ERROR, "{name:?}");
    }
}

#[test]
fn try_header_leaves_the_response_as_it_was() {
    let mut response = Response::text("a").header("A", 1);
    assert_eq!(response.try_header("B", "x\ny"), Err(HeaderError::Value));
    assert_eq!(
        response.try_header("Connection", "close"),
        Err(HeaderError::Framing)
    );
    assert_eq!(response.try_header("C", 2), Ok(()));
    assert_eq!(response.status(), Status::OK);
    assert_eq!(
        block(&response),
        "Content-Type: text/plain; charset=utf-8\r\nA: 1\r\nC: 2\r\n"
    );
}

#[test]
fn a_number_that_is_no_final_status_makes_a_500() {
    for status in [0, 100, 101, 199, 600, 65535] {
        let response = Response::text("a").with_status(status);
        assert_eq!(response.status(), Status::INTERNAL_SERVER_ERROR, "{status}");
        assert!(
            response
                .diagnostic()
                .expect("a reason")
                .starts_with(&status.to_string())
        );
    }
    assert_eq!(Response::text("a").with_status(599).status().code(), 599);
}

#[test]
fn a_value_that_is_no_json_makes_a_500() {
    let keyed_by_pairs = std::collections::BTreeMap::from([((1, 2), 3)]);
    let response = Response::json(&keyed_by_pairs)
        .with_status(201)
        .with_diagnostic("fine");
    assert_eq!(response.status(), Status::INTERNAL_SERVER_ERROR);
    assert!(response.diagnostic().expect("a reason").contains("JSON"));
}

#[test]
fn a_streamed_body_goes_through_the_slot_in_order() {
    let mut slot = Slot::new();
    let Body::Stream { length, write } =
        Response::stream(|out| out.write_all(b"abcdefghij")).into_body()
    else {
        panic!("not a stream");
    };
    let mut writer = BodyWriter::new(&mut slot, length);
    write(&mut writer).expect("written");
    assert_eq!((writer.written(), writer.is_complete()), (10, true));
    writer.flush().expect("flushed");
    assert_eq!(
        slot.taken,
        [b"abcd".to_vec(), b"efgh".to_vec(), b"ij".to_vec()]
    );
}

#[test]
fn a_body_longer_than_announced_is_cut_and_known() {
    let mut slot = Slot::new();
    let mut writer = BodyWriter::new(&mut slot, Some(6));
    let error = writer.write_all(b"abcdefghij").expect_err("too long");
    assert_eq!(error.kind(), io::ErrorKind::WriteZero);
    assert!(writer.overran() && writer.is_complete());
    writer.flush().expect("flushed");
    assert_eq!(slot.taken.concat(), b"abcdef");
}

#[test]
fn a_body_shorter_than_announced_is_not_complete() {
    let mut slot = Slot::new();
    let mut writer = BodyWriter::new(&mut slot, Some(6));
    writer.write_all(b"abc").expect("written");
    assert!(!writer.is_complete() && !writer.overran());
}

#[test]
fn a_writer_whose_client_has_gone_learns_of_it() {
    let mut slot = Slot {
        gone_after: 1,
        ..Slot::new()
    };
    let mut writer = BodyWriter::new(&mut slot, None);
    let error = writer.write_all(&[0; 64]).expect_err("gone");
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(writer.written(), 8);
}

#[test]
fn space_can_be_filled_in_place() {
    let mut slot = Slot::new();
    let mut writer = BodyWriter::new(&mut slot, Some(5));
    for part in [&b"wxyz"[..], b"!"] {
        writer.space().expect("space")[..part.len()].copy_from_slice(part);
        writer.advance(part.len());
    }
    assert!(writer.space().expect("no more").is_empty());
    writer.flush().expect("flushed");
    assert_eq!(slot.taken.concat(), b"wxyz!");
}

#[test]
fn nothing_of_an_earlier_answer_is_in_the_space() {
    let mut slot = Slot::new();
    slot.slot.fill(0xdb);
    let mut writer = BodyWriter::new(&mut slot, None);
    writer.write_all(b"ab").expect("written");
    for _ in 0..3 {
        let space = writer.space().expect("space");
        assert!(!space.is_empty() && !space.contains(&0xdb), "{space:?}");
        let len = space.len();
        writer.advance(len);
    }
}

#[test]
fn a_length_is_for_streams_and_must_be_true_elsewhere() {
    assert_eq!(
        Response::stream(|_| Ok(())).with_length(7).content_length(),
        Some(7)
    );
    assert_eq!(Response::stream(|_| Ok(())).content_length(), None);
    assert_eq!(Response::text("abc").with_length(3).status(), Status::OK);
    assert_eq!(
        Response::text("abc").with_length(4).status(),
        Status::INTERNAL_SERVER_ERROR
    );
}

#[test]
fn what_a_handler_may_return_becomes_the_response_it_means() {
    fn status<'r>(value: impl IntoResponse<'r>) -> (u16, Vec<u8>) {
        let response = value.into_response();
        (response.status().code(), bytes(response))
    }
    assert_eq!(status("a"), (200, b"a".to_vec()));
    assert_eq!(status(String::from("a")), (200, b"a".to_vec()));
    assert_eq!(status(vec![1u8, 2]), (200, vec![1, 2]));
    assert_eq!(status(()), (204, vec![]));
    assert_eq!(status(Status::GONE), (410, vec![]));
    assert_eq!(status((404, "a")), (404, b"a".to_vec()));
    assert_eq!(
        status((Status::CREATED, serde_json::json!({"a": 1}))),
        (201, br#"{"a":1}"#.to_vec())
    );
    assert_eq!(status((99, "a")).0, 500);
    assert_eq!(status(Ok::<_, crate::Failure>("a")), (200, b"a".to_vec()));
    assert_eq!(
        status(Err::<(), _>(crate::Failure::conflict("no"))),
        (409, b"no\n".to_vec())
    );
}

#[test]
fn bodies_come_from_whatever_holds_bytes() {
    let bump = bumpalo::Bump::new();
    let mut in_bucket = bumpalo::collections::String::new_in(&bump);
    in_bucket.push_str("bump");
    assert_eq!(bytes(Response::bytes("a/b", in_bucket)), b"bump");
    assert_eq!(
        bytes(Response::bytes("a/b", bumpalo::vec![in &bump; 1u8, 2])),
        [1, 2]
    );
    assert_eq!(
        bytes(Response::bytes("a/b", Cow::Borrowed(&b"cow"[..]))),
        b"cow"
    );
    assert_eq!(
        bytes(Response::bytes(format!("a/{}", "b"), String::from("s"))),
        b"s"
    );
    assert_eq!(bytes(Response::text(Cow::Borrowed("text"))), b"text");
}
