//! What each application promises in its first lines.

use serde_json::{Value, json};
use transom_tests::{Kind, Load, Server};

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{text:?} is no JSON: {error}"))
}

#[test]
fn hello_answers_with_text_json_and_a_parameter() {
    let server = Server::start("hello", "--buckets 4");
    let text = server.get("/");
    assert_eq!(
        (text.text(), text.field("content-type")),
        ("hello, world\n", Some("text/plain; charset=utf-8"))
    );
    assert_eq!(
        server.get("/hello/Ada%20L%c3%b6velace").text(),
        "hello, Ada Lövelace\n"
    );
    let answer = server.get("/json?name=Ada");
    assert_eq!(answer.field("content-type"), Some("application/json"));
    assert_eq!(
        json_of(answer.text()),
        json!({"message": "hello", "to": "Ada"})
    );
    assert_eq!(
        json_of(server.get("/json").text()),
        json!({"message": "hello", "to": "world"})
    );
    let quoted = json_of(server.get("/json?name=%22%0a%01+x").text());
    assert_eq!(quoted["to"], "\"\n\u{1} x");
}

#[test]
fn hello_says_so_when_a_path_is_no_text() {
    let server = Server::start("hello", "--buckets 4");
    assert_eq!(server.get("/hello/%ff").status, 400);
}

#[test]
fn csv_svg_path_draws_a_line_through_its_points() {
    let server = Server::start("csv-svg-path", "--buckets 4");
    let answer = server.post("/", "1, 2\r\n\n 3.5 , -4e1\n5,6");
    assert_eq!(
        (answer.status, answer.field("content-type")),
        (200, Some("image/svg+xml"))
    );
    let svg = "<svg xmlns=\"http://www.w3.org/2000/svg\"><path fill=\"none\" stroke=\"black\" d=\"M1 2L3.5 -40L5 6\"/></svg>\n";
    assert_eq!(answer.text(), svg);
    let points: String = (0..5000).map(|n| format!("{n}, {}\n", n * 2)).collect();
    let answer = Server::start("csv-svg-path", "--bucket-size 2MiB").post("/", points);
    assert!(
        answer.status == 200 && answer.text().contains("L4999 9998\""),
        "{}",
        answer.head
    );
}

#[test]
fn csv_svg_path_names_the_line_that_is_wrong() {
    let server = Server::start("csv-svg-path", "--buckets 4");
    for wrong in [
        "1,2\n\n3;4\n",
        "1,2\n\n3,x\n",
        "1,2\n\n3,inf\n",
        "1,2\n\n3\n",
    ] {
        let answer = server.post("/", wrong);
        assert!(
            answer.status == 400 && answer.text().contains("line 3"),
            "{}",
            answer.text()
        );
    }
    assert_eq!(server.post("/", "\n\n").status, 400, "no points");
    assert_eq!(server.post("/", b"\xff,1").status, 400, "no text");
}

#[test]
fn counter_counts_across_requests_and_connections() {
    let server = Server::start("counter", "--buckets 4");
    for n in 1..=3 {
        assert_eq!(server.post("/a", "").text(), format!("{n}\n"));
    }
    let report = Load::new(server.address(), 32, vec![Kind::post("/b", 200, "")])
        .total(5000)
        .run();
    assert!(report.bad.is_empty(), "{:?}", report.bad);
    assert_eq!(
        server.post("/b", "").text(),
        "5001\n",
        "none was lost, none counted twice"
    );
    assert_eq!(json_of(server.get("/").text()), json!({"a": 3, "b": 5001}));
}

#[test]
fn counter_bounds_what_clients_can_make_it_keep() {
    let server = Server::start("counter", "--buckets 4");
    assert_eq!(server.post(&format!("/{}", "x".repeat(65)), "").status, 400);
    let mut client = server.connect();
    for n in 0..1000 {
        assert_eq!(client.post(&format!("/name-{n}"), "").text(), "1\n");
    }
    let answer = client.post("/one-more", "");
    assert!(
        answer.status == 400 && answer.text().contains("1000 names"),
        "{}",
        answer.text()
    );
    assert_eq!(
        client.post("/name-7", "").text(),
        "2\n",
        "those that are there go on"
    );
    assert_eq!(
        json_of(client.get("/").text())
            .as_object()
            .map(serde_json::Map::len),
        Some(1000)
    );
    drop(client);
    assert_eq!(server.stop().figure("process_heap_allocations"), 0);
}

#[test]
fn varying_allocations_says_what_it_touched_and_fails_where_it_does_not_fit() {
    let server = Server::start("varying-allocations", "--buckets 4");
    assert_eq!(server.get("/100").text(), "100 KiB, 25 pages\n");
    assert_eq!(server.get("/0").text(), "0 KiB, 0 pages\n");
    assert_eq!(
        server.get("/10000").field("transom-diagnostic"),
        Some("bucket-exhausted")
    );
    assert!(matches!(server.get("/many").status, 400 | 404));
}

#[test]
fn oom_does_what_it_is_asked_to() {
    let server = Server::start("oom", "--buckets 4");
    assert_eq!(server.get("/arena/10").text(), "10240 bytes\n");
    assert_eq!(server.get("/recurse/100").text(), "100 calls\n");
    assert_eq!(server.get("/hold/10/1").text(), "held 10240 bytes\n");
    assert_eq!(server.get("/18446744073709551615").status, 500);
}

#[test]
fn echo_gives_back_body_and_content_type() {
    let server = Server::start("echo", "--buckets 4");
    let answer = server.answer_to(
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Type: text/x-test\r\nContent-Length: 5\r\n\r\nhello",
    );
    assert_eq!(
        (answer.text(), answer.field("content-type")),
        ("hello", Some("text/x-test"))
    );
    assert_eq!(
        server.post("/stream", "hello").field("content-type"),
        Some("application/octet-stream")
    );
}
