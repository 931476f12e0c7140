//! Lines are read back: by a JSON parser, and by a strict reader of the combined format.

use super::format::{Format, LINE_BYTES_MAX, Names};
use super::record::{Excerpt, FIELD_MAX, REQUEST_MAX};
use super::*;
use crate::{Batch, Queued};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

fn put<const N: usize>(value: &mut Excerpt<N>, bytes: Option<&[u8]>) {
    if let Some(bytes) = bytes {
        value.push(bytes);
    }
}

fn record(
    request: Option<&[u8]>,
    referer: Option<&[u8]>,
    user_agent: Option<&[u8]>,
) -> AccessRecord {
    let mut record = AccessRecord::blank();
    put(&mut record.request, request);
    put(&mut record.referer, referer);
    put(&mut record.user_agent, user_agent);
    record.unix_ms = 1_795_256_700_123;
    record.peer = Some("192.0.2.7:4711".parse().unwrap());
    record.status = 200;
    record.body_bytes = 14;
    record.duration_us = 120;
    record.waited_us = 7;
    record.number = 3;
    record.forward = 0;
    record.doorway = 1;
    record
}

fn format(style: AccessStyle) -> Format {
    let names = |names: &[&str]| {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        Names::new(&names, style)
    };
    Format {
        style,
        forwards: names(&["http://127.0.0.1:80"]),
        doors: names(&["/run/a.door", "/run/\"b\".door"]),
    }
}

fn line(style: AccessStyle, record: &AccessRecord) -> String {
    let mut batch = Batch::new();
    format(style).render(record, &mut batch);
    assert!(batch.as_bytes().len() <= LINE_BYTES_MAX);
    let text = String::from_utf8(batch.as_bytes().to_vec()).expect("lines are UTF-8");
    let body = text.strip_suffix('\n').expect("a line has an end");
    assert!(!body.contains(char::is_control), "{body:?}");
    body.to_owned()
}

#[test]
fn a_combined_line_is_what_other_servers_write_and_more_behind_it() {
    let seen = record(
        Some(b"GET /a HTTP/1.1"),
        Some(b"http://b/"),
        Some(b"c \"d\" \\"),
    );
    assert_eq!(
        line(AccessStyle::Combined, &seen),
        concat!(
            r#"192.0.2.7 - - [21/Nov/2026:10:25:00 +0000] "GET /a HTTP/1.1" 200 14 "http://b/" "c \"d\" \\" "#,
            r#"duration_us=120 waited_us=7 number=3 forward="http://127.0.0.1:80" door="/run/\"b\".door" "#,
            r#"diagnostic=- aborted=false cut=false"#
        )
    );
}

#[test]
fn a_json_line_has_every_member_always() {
    let mut seen = record(Some(b"GET /a HTTP/1.1"), None, Some(b"c"));
    seen.diagnostic = Some(Diagnostic::BucketExhausted);
    let value: Value = serde_json::from_str(&line(AccessStyle::Json, &seen)).expect("it is JSON");
    assert_eq!(
        value,
        json!({
            "time": "2026-11-21T10:25:00.123Z", "peer": "192.0.2.7:4711",
            "forward": "http://127.0.0.1:80", "door": "/run/\"b\".door",
            "request": "GET /a HTTP/1.1", "status": 200, "bytes": 14, "referer": null, "user_agent": "c",
            "duration_us": 120, "waited_us": 7, "number": 3, "diagnostic": "bucket-exhausted",
            "aborted": false, "cut": false,
        })
    );
    let nothing: Value =
        serde_json::from_str(&line(AccessStyle::Json, &AccessRecord::blank())).expect("JSON");
    assert_eq!(
        nothing.as_object().map(serde_json::Map::len),
        value.as_object().map(serde_json::Map::len)
    );
    for name in ["peer", "forward", "door", "request", "diagnostic"] {
        assert_eq!(nothing[name], Value::Null, "{name}");
    }
}

#[test]
fn what_is_too_long_is_cut_at_a_character_and_marked() {
    let fits = "é".repeat(FIELD_MAX / 2);
    let long = format!("x{fits}");
    let seen = record(None, Some(fits.as_bytes()), Some(long.as_bytes()));
    let value: Value = serde_json::from_str(&line(AccessStyle::Json, &seen)).expect("JSON");
    assert_eq!(value["referer"], json!(fits));
    let kept = "é".repeat(FIELD_MAX / 2 - 1);
    assert_eq!(value["user_agent"], json!(format!("x{kept}…")));
    assert_eq!(value["cut"], json!(true));

    let seen = record(Some(&[b'r'; REQUEST_MAX + 1]), None, None);
    let text = line(AccessStyle::Combined, &seen);
    let kept = "r".repeat(REQUEST_MAX);
    assert!(
        text.contains(&format!("\"{kept}...\" 200 14 \"-\" \"-\"")),
        "{text}"
    );
    assert!(text.ends_with("cut=true"), "{text}");
}

#[test]
fn the_longest_line_fits_the_bound_of_a_line() {
    let worst = |len| vec![0x1b; len];
    let mut seen = record(
        Some(&worst(REQUEST_MAX + 1)),
        Some(&worst(FIELD_MAX + 1)),
        Some(&worst(FIELD_MAX + 1)),
    );
    seen.peer = Some(
        "[2001:db8:1111:2222:3333:4444:5555:6666%4294967295]:65535"
            .parse()
            .unwrap(),
    );
    seen.status = u16::MAX;
    for number in [
        &mut seen.body_bytes,
        &mut seen.duration_us,
        &mut seen.waited_us,
    ] {
        *number = u64::MAX;
    }
    seen.number = u32::MAX;
    seen.diagnostic = Some(Diagnostic::BucketExhausted);
    seen.doorway = 0;
    let name = String::from_utf8(worst(1000)).unwrap();
    for style in [AccessStyle::Combined, AccessStyle::Json] {
        let format = Format {
            style,
            forwards: Names::new(std::slice::from_ref(&name), style),
            doors: Names::new(std::slice::from_ref(&name), style),
        };
        let mut batch = Batch::new();
        format.render(&seen, &mut batch);
        assert!(batch.as_bytes().len() <= LINE_BYTES_MAX);
    }
}

/// Reads a quoted string of the combined format: what it stands for, and what follows it.
fn unquote(text: &str) -> Option<(Vec<u8>, &str)> {
    let mut rest = text.strip_prefix('"')?;
    let mut bytes = Vec::new();
    loop {
        let at = rest.find(['"', '\\'])?;
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let (special, after) = rest[at..].split_at(1);
        if special == "\"" {
            return Some((bytes, after));
        }
        rest = if let Some(hex) = after.strip_prefix('x') {
            bytes.push(u8::from_str_radix(hex.get(..2)?, 16).ok()?);
            &hex[2..]
        } else {
            let byte = *after.as_bytes().first()?;
            matches!(byte, b'"' | b'\\').then_some(())?;
            bytes.push(byte);
            &after[1..]
        };
    }
}

/// As much as is kept of a value, and the mark.
fn kept(value: Option<&[u8]>, most: usize, read: &[u8]) -> bool {
    match value {
        None => read == b"-",
        Some(value) if value.len() <= most => read == value,
        Some(value) => read
            .strip_suffix(b"...")
            .is_some_and(|read| value.starts_with(read) && read.len() + 4 > most),
    }
}

fn anything() -> impl Strategy<Value = Option<Vec<u8>>> {
    let hostile = prop_oneof![
        Just(b'"'),
        Just(b'\\'),
        Just(b'\n'),
        Just(0x1b),
        Just(0x9b),
        Just(0xc2),
        any::<u8>()
    ];
    prop_oneof![
        Just(None),
        any::<String>().prop_map(|text| Some(text.into_bytes())),
        vec(hostile, 0..700).prop_map(Some),
    ]
}

#[test]
fn of_a_cut_value_no_more_is_left_out_than_half_a_character() {
    // The last is no character: it has a byte too many.
    for (end, left_out) in [
        ("é".as_bytes(), 1),
        ("€".as_bytes(), 2),
        ("😀".as_bytes(), 3),
        (&[0xc2, 0x9b, 0x9b, 0xa6, 0xb0], 0),
    ] {
        let mut value = vec![b'a'; FIELD_MAX + 1 - end.len()];
        value.extend_from_slice(end);
        let line = line(AccessStyle::Combined, &record(None, Some(&value), None));
        let (_, rest) = line.split_once(" 200 14 ").expect("status and bytes");
        let (read, _) = unquote(rest).expect("a referer");
        let read = read.strip_suffix(b"...").expect("it is cut");
        assert_eq!(read, &value[..FIELD_MAX - left_out], "{end:?}");
    }
}

proptest! {
    #[test]
    fn a_combined_line_is_printable_ascii_and_its_parts_can_be_told_apart(
        request in anything(), referer in anything(), user_agent in anything()
    ) {
        let seen = record(request.as_deref(), referer.as_deref(), user_agent.as_deref());
        let line = line(AccessStyle::Combined, &seen);
        prop_assert!(line.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{}", line);
        let (_, rest) = line.split_once("] ").expect("a time");
        let (read, rest) = unquote(rest).expect("a request line");
        prop_assert!(kept(request.as_deref(), REQUEST_MAX, &read), "{}", line);
        let rest = rest.strip_prefix(" 200 14 ").expect("status and bytes");
        let (read, rest) = unquote(rest).expect("a referer");
        prop_assert!(kept(referer.as_deref(), FIELD_MAX, &read), "{}", line);
        let (read, rest) = unquote(&rest[1..]).expect("a user agent");
        prop_assert!(kept(user_agent.as_deref(), FIELD_MAX, &read), "{}", line);
        prop_assert!(rest.starts_with(" duration_us=120 "), "{}", line);
    }

    #[test]
    fn a_json_line_is_json_and_says_what_was_sent(
        request in anything(), referer in anything(), user_agent in anything()
    ) {
        let seen = record(request.as_deref(), referer.as_deref(), user_agent.as_deref());
        let line = line(AccessStyle::Json, &seen);
        let value: Value = serde_json::from_str(&line).expect("it is JSON");
        for (name, sent, most) in [
            ("request", &request, REQUEST_MAX),
            ("referer", &referer, FIELD_MAX),
            ("user_agent", &user_agent, FIELD_MAX),
        ] {
            match (sent, value[name].as_str()) {
                (None, None) => prop_assert_eq!(&value[name], &Value::Null),
                (Some(sent), Some(read)) if sent.len() <= most => {
                    prop_assert_eq!(read, &*String::from_utf8_lossy(sent));
                }
                (Some(_), Some(read)) => prop_assert!(read.ends_with('…'), "{}", line),
                (sent, read) => prop_assert!(false, "{:?} became {:?}", sent, read),
            }
        }
    }

    #[test]
    fn a_record_that_was_used_before_says_nothing_of_it(first in anything(), second in anything()) {
        let mut place = AccessRecord::blank();
        place.copy_from(&record(first.as_deref(), first.as_deref(), first.as_deref()));
        let mut entry = record(first.as_deref(), first.as_deref(), first.as_deref());
        entry.clear();
        put(&mut entry.request, second.as_deref());
        place.copy_from(&entry);
        let mut fresh = AccessRecord { request: Excerpt::NOTHING, referer: Excerpt::NOTHING, user_agent: Excerpt::NOTHING, ..entry.clone() };
        put(&mut fresh.request, second.as_deref());
        prop_assert_eq!(line(AccessStyle::Json, &place), line(AccessStyle::Json, &fresh));
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn log_into(sink: File, path: Option<CString>, queue: usize) -> AccessLog {
    start(AccessOptions {
        style: AccessStyle::Json,
        queue,
        sink,
        path,
        forwards: Vec::new(),
        doors: Vec::new(),
    })
    .expect("it starts")
}

#[test]
fn every_line_is_written_or_counted_also_those_that_nobody_reads() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let fd = writer.as_raw_fd();
    // As a file of ours is: not blocking.
    // SAFETY: a plain system call on a descriptor of ours.
    unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) };
    let log = log_into(File::from(OwnedFd::from(writer)), None, 16);
    let seen = record(Some(b"GET / HTTP/1.1"), None, None);
    let is_full = || {
        let mut poll = libc::pollfd {
            fd,
            events: libc::POLLOUT,
            revents: 0,
        };
        // SAFETY: `poll` is one valid pollfd; the log's writer keeps the descriptor open.
        let writable = unsafe { libc::poll(&raw mut poll, 1, 0) };
        writable == 0 && log.0.queue.waiting() == 16
    };
    let mut submitted: u64 = 0;
    let deadline = soon();
    while !(is_full() && log.0.queue.dropped() > 0) {
        assert!(Instant::now() < deadline, "{submitted} lines fill no pipe");
        submitted += 1;
        log.submit(&seen, submitted);
    }
    // The pipe is not read: the shutdown does not wait for ever, and counts lines on the way as dropped.
    let dropped = log.shutdown(Instant::now() + Duration::from_millis(200));
    assert!(dropped > 0);
    let mut in_pipe = [0; 1 << 17];
    let len = reader.read(&mut in_pipe).unwrap();
    let lines = in_pipe[..len].iter().filter(|&&byte| byte == b'\n').count();
    assert_eq!(lines as u64 + dropped, submitted);
}

#[test]
fn a_file_that_was_renamed_is_left_for_a_new_one() {
    let folder = std::env::temp_dir().join(format!("transom-access-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("access.log");
    let name = CString::new(path.as_os_str().as_bytes()).unwrap();
    let log = log_into(open(&name).unwrap(), Some(name), 16);
    let seen = record(Some(b"GET / HTTP/1.1"), None, None);
    let lines = |path: &std::path::Path| {
        std::fs::read_to_string(path).map_or(0, |text| text.lines().count())
    };
    let wait_for = |path: &std::path::Path, count| {
        let deadline = soon();
        while lines(path) != count {
            assert!(Instant::now() < deadline, "{} lines", lines(path));
            std::thread::yield_now();
        }
    };
    log.submit(&seen, 1);
    wait_for(&path, 1);
    let old = folder.join("access.log.1");
    std::fs::rename(&path, &old).unwrap();
    log.submit(&seen, 2);
    wait_for(&old, 2);
    log.reopen();
    let deadline = soon();
    while !path.exists() {
        assert!(Instant::now() < deadline, "there is no new file");
        std::thread::yield_now();
    }
    log.submit(&seen, 3);
    wait_for(&path, 1);
    assert_eq!((lines(&old), log.shutdown(soon())), (2, 0));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error_at_once() {
    for (path, code) in [
        (c"/no/such/folder/log", libc::ENOENT),
        (c"/tmp", libc::EISDIR),
    ] {
        let error = open(path).expect_err("it is no file");
        assert_eq!(error.raw_os_error(), Some(code), "{path:?}");
    }
}
