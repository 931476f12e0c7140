//! Frames and routes allocate nothing: they are used where that is not allowed. There is one test, alone in
//! its process, because the whole process is counted.

mod pure_support;

use bumpalo::Bump;
use pure_support::{frame, head, with_bytes};
use transom_arena::{process_heap_allocations, seal};
use transom_platform::{Request, Response, Router};
use transom_wire::frame::{
    RequestParts, decode_reply, decode_request, encode_reply_head, encode_request,
};

/// The fewest allocations seen in several runs: the test harness may allocate meanwhile, and only adds to the
/// count.
fn allocations(mut run: impl FnMut()) -> u64 {
    let one = |_| {
        let before = process_heap_allocations();
        run();
        process_heap_allocations() - before
    };
    (0..20).map(one).min().expect("there are runs")
}

#[test]
fn writing_and_reading_frames_and_finding_handlers_allocates_nothing() {
    fn fixed(request: &Request) -> Response<'_> {
        Response::text(request.param("b").unwrap_or("-"))
    }
    let routes = Router::new()
        .get("/{a}/{b}/{c}", fixed)
        .build()
        .expect("routes");
    seal();
    assert_eq!(
        allocations(|| drop(std::hint::black_box(Box::new(1)))),
        1,
        "the count works"
    );

    let text = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n";
    let parts = RequestParts {
        head: text,
        method: &text[..3],
        target: &text[4..6],
        path: b"/a",
        query: None,
        host: Some(&text[23..24]),
        minor: 1,
        peer: None,
        head_only: false,
        content_length: None,
    };
    let field: (&[u8], &[u8]) = (&text[17..21], &text[23..24]);
    let mut slot = [0; 512];
    let frames = allocations(|| {
        let encoded = encode_request(&mut slot, &parts, [field]).expect("it fits");
        let request = decode_request(&slot[..encoded.body_offset]).expect("a request");
        assert_eq!(request.fields.count(), 1);
        let end = encode_reply_head(&mut slot, 200, None, &[b"A: b\r\n"]).expect("it fits");
        assert!(decode_reply(&slot[..end]).is_ok());
    });
    assert_eq!(frames, 0);

    for (line, status) in [("GET /1/2/3", 200), ("GET /1", 404), ("BREW /", 501)] {
        let bytes = frame(&head(line), None, b"", false);
        let arena = Bump::new();
        let found = allocations(|| {
            with_bytes(&bytes, &arena, None, |request| {
                assert_eq!(routes.dispatch(request).status().code(), status);
            });
        });
        assert_eq!(found, 0, "{line}");
    }
}
