//! Bodies that are larger than any slot or bucket, both ways, at constant memory; and events that a client
//! gets one by one. Each in one process and through a door.
//!
//! Large bodies have `TRANSOM_TEST_STREAM_MIB` MiB each, 1024 unless it is set, and an eighth of that where
//! their length is not announced: 4.5 GiB in all, which take some 8 s in a debug build.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};
use transom_tests::doors::{before, behind};
use transom_tests::{Client, Folder, PATIENCE, Sample, Server, eventually};

const MIB: u64 = 1 << 20;
/// How much of a body is sent or read at a time.
const STEP: usize = 64 << 10;
/// A large body takes longer than the time limits' defaults on a slow machine.
const FRONT: &str = "--deadline 0 --body-timeout 10m --body-limit 64GiB";

fn large() -> u64 {
    match std::env::var("TRANSOM_TEST_STREAM_MIB") {
        Ok(text) => {
            text.parse::<u64>()
                .expect("TRANSOM_TEST_STREAM_MIB is a number of MiB")
                * MIB
        }
        Err(_) => 1024 * MIB,
    }
}

/// An application, `stream` mostly, and what is before it.
struct Served {
    front: Server,
    application: Option<Server>,
    _folder: Folder,
}

impl Served {
    /// `stream` in one process, and through a door.
    fn both(name: &str, flags: &str) -> [Served; 2] {
        Self::both_of("stream", name, flags)
    }

    fn both_of(app: &str, name: &str, flags: &str) -> [Served; 2] {
        let folder = Folder::new(&format!("{name}-alone"));
        let alone = Served {
            front: Server::start(app, &format!("--buckets 4 {FRONT} {flags}")),
            application: None,
            _folder: folder,
        };
        let folder = Folder::new(&format!("{name}-door"));
        let door = folder.path().join("app.door");
        let application = behind(&door, app, "--buckets 4");
        let split = Served {
            front: before(&door, &format!("{FRONT} {flags}")),
            application: Some(application),
            _folder: folder,
        };
        [alone, split]
    }

    fn figure(&self, name: &str) -> u64 {
        let answer = self.front.get("/figures");
        let mut figures = answer
            .text()
            .split_whitespace()
            .filter_map(|figure| figure.split_once('='));
        let (_, value) = figures
            .find(|(key, _)| *key == name)
            .expect("it has this figure");
        value.parse().expect("a number")
    }

    /// The processes at rest.
    fn at_rest(&self) -> Vec<Sample> {
        let processes = std::iter::once(&self.front).chain(&self.application);
        processes
            .map(|server| Sample::at_rest(server.pid()))
            .collect()
    }

    fn now(&self) -> Vec<Sample> {
        let processes = std::iter::once(&self.front).chain(&self.application);
        processes.map(Server::sample).collect()
    }
}

/// Less than one per cent more, in each process.
fn assert_flat(before: &[Sample], after: &[Sample], when: &str) {
    for (before, after) in before.iter().zip(after) {
        assert!(
            after.rss <= before.rss + before.rss / 100,
            "RSS {} KiB -> {} KiB {when}",
            before.rss >> 10,
            after.rss >> 10
        );
    }
}

/// What `/bytes` should send from `at` on; `at` is a multiple of eight.
fn sequence(at: u64, into: &mut [u8]) {
    for (n, into) in into.chunks_mut(8).enumerate() {
        let word = (at / 8 + n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        into.copy_from_slice(&word.to_le_bytes()[..into.len()]);
    }
}

/// Sends a body of `count` bytes, calling `look` at every sixteenth of it; says what the answer should be.
fn upload(mut to: &TcpStream, count: u64, chunked: bool, mut look: impl FnMut()) -> String {
    let framing = if chunked {
        "Transfer-Encoding: chunked".to_owned()
    } else {
        format!("Content-Length: {count}")
    };
    let send = |mut to: &TcpStream, bytes: &[u8]| to.write_all(bytes).expect("the server reads on");
    send(
        to,
        format!("POST /sum HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n").as_bytes(),
    );
    let mut block = vec![0; STEP];
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let (mut sent, mut next_look) = (0, count / 16);
    while sent < count {
        let len = (count - sent).min(STEP as u64) as usize;
        sequence(sent, &mut block[..len]);
        for &byte in &block[..len] {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        if chunked {
            send(to, format!("{len:x}\r\n").as_bytes());
        }
        send(to, &block[..len]);
        if chunked {
            send(to, b"\r\n");
        }
        sent += len as u64;
        if sent >= next_look {
            look();
            next_look += count / 16;
        }
    }
    if chunked {
        to.write_all(b"0\r\n\r\n").expect("the server reads on");
    }
    format!("{count} {hash:016x}\n")
}

#[test]
fn a_large_upload_is_hashed_at_constant_memory() {
    for served in Served::both("upload", "") {
        for (chunked, count) in [(false, large()), (true, large() / 8)] {
            let mut client = served.front.connect();
            let expected = upload(&client.sender(), 4 * MIB, chunked, || {});
            assert_eq!(client.answer().text(), expected);
            let warm = served.at_rest();
            let expected = upload(&client.sender(), count, chunked, || {
                assert_flat(&warm, &served.now(), "on the way");
            });
            let answer = client.answer();
            assert_eq!((answer.status, answer.text()), (200, expected.as_str()));
            assert_flat(&warm, &served.at_rest(), "at the end");
        }
    }
}

/// Reads a body of `count` bytes and compares it, calling `look` at every sixteenth of it.
fn check_sequence(from: &mut impl Read, count: u64, mut look: impl FnMut()) {
    let (mut block, mut expected) = (vec![0; STEP], vec![0; STEP]);
    let (mut read, mut next_look) = (0, count / 16);
    while read < count {
        let len = (count - read).min(STEP as u64) as usize;
        from.read_exact(&mut block[..len])
            .expect("the answer goes on");
        sequence(read, &mut expected[..len]);
        assert!(
            block[..len] == expected[..len],
            "other bytes within {STEP} of {read}"
        );
        read += len as u64;
        if read >= next_look {
            look();
            next_look += count / 16;
        }
    }
}

/// An answer that is read as it comes.
struct Incoming {
    stream: BufReader<TcpStream>,
    head: String,
}

impl Incoming {
    fn of(served: &Served, request: &str) -> Self {
        let stream = TcpStream::connect(served.front.address()).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time");
        (&stream)
            .write_all(request.as_bytes())
            .expect("the server takes it");
        let mut this = Incoming {
            stream: BufReader::with_capacity(STEP, stream),
            head: String::new(),
        };
        this.read_head();
        this
    }

    /// Reads the next head.
    fn read_head(&mut self) {
        self.head.clear();
        while !self.head.ends_with("\r\n\r\n") {
            let read = self.stream.read_line(&mut self.head);
            assert!(
                read.expect("a head comes") > 0,
                "the connection ends after {:?}",
                self.head
            );
        }
    }

    fn send(&self, text: &str) {
        let sent = self.stream.get_ref().write_all(text.as_bytes());
        sent.expect("the server takes it");
    }

    fn has(&self, line: &str) -> bool {
        self.head
            .split("\r\n")
            .any(|other| other.eq_ignore_ascii_case(line))
    }

    /// The next chunk; it must not be longer than `most`.
    fn chunk(&mut self, most: usize) -> Vec<u8> {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("a chunk comes");
        let len = usize::from_str_radix(line.trim_end(), 16);
        let len = len.unwrap_or_else(|_| panic!("{line:?} is no chunk's size"));
        assert!(len <= most, "a chunk of {len} bytes");
        let mut bytes = vec![0; len + 2];
        self.stream
            .read_exact(&mut bytes)
            .expect("the chunk goes on");
        assert_eq!(&bytes[len..], b"\r\n");
        bytes.truncate(len);
        bytes
    }

    fn reset(self) {
        transom_tests::client::reset(self.stream.into_inner());
    }
}

/// Bodies in chunks, as one stream of bytes.
struct Unchunked<'a> {
    from: &'a mut Incoming,
    chunk: Vec<u8>,
    at: usize,
}

impl Read for Unchunked<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.chunk.len() {
            self.chunk = self.from.chunk(MIB as usize);
            self.at = 0;
        }
        let len = into.len().min(self.chunk.len() - self.at);
        into[..len].copy_from_slice(&self.chunk[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}

fn get(path: &str) -> String {
    transom_tests::client::get(path)
}

/// How a body is framed that comes in steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Chunked,
    Length,
}

impl Framing {
    fn field(self, whole: usize) -> String {
        match self {
            Framing::Chunked => "Transfer-Encoding: chunked".to_owned(),
            Framing::Length => format!("Content-Length: {whole}"),
        }
    }

    fn wrap(self, step: &str) -> String {
        match self {
            Framing::Chunked => format!("{:x}\r\n{step}\r\n", step.len()),
            Framing::Length => step.to_owned(),
        }
    }

    fn end(self) -> &'static str {
        match self {
            Framing::Chunked => "0\r\n\r\n",
            Framing::Length => "",
        }
    }
}

const STEPS: usize = 16;

fn step(n: usize) -> String {
    format!("step {n:2}\n")
}

/// The client sends a step only when it has the answer to the one before, and the first one before or after
/// the answer's head.
#[test]
fn sixteen_steps_go_back_and_forth_one_by_one() {
    let whole = STEPS * step(0).len();
    for served in Served::both_of("echo", "steps", "") {
        for framing in [Framing::Chunked, Framing::Length] {
            for with_head in [false, true] {
                let field = framing.field(whole);
                let mut request = format!("POST /stream HTTP/1.1\r\nHost: test\r\n{field}\r\n\r\n");
                if with_head {
                    request += &framing.wrap(&step(0));
                }
                let mut answer = Incoming::of(&served, &request);
                assert!(answer.head.starts_with("HTTP/1.1 200"), "{}", answer.head);
                for n in 0..STEPS {
                    if n > 0 || !with_head {
                        answer.send(&framing.wrap(&step(n)));
                    }
                    let echo = String::from_utf8(answer.chunk(100)).expect("text");
                    assert_eq!(echo, step(n), "{framing:?}, with the head: {with_head}");
                }
                answer.send(framing.end());
                assert_eq!(answer.chunk(0), b"", "the last chunk is empty");
                // The connection goes on.
                answer.send(&get("/"));
                answer.read_head();
                assert!(answer.head.starts_with("HTTP/1.1 405"), "{}", answer.head);
            }
        }
    }
}

/// As curl does it: it waits to be asked for its body, and is asked by the handler's first read.
#[test]
fn a_client_that_waits_to_be_asked_is_asked_when_the_handler_reads() {
    for served in Served::both_of("echo", "asked", "") {
        let request = "POST /stream HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n";
        let mut answer = Incoming::of(&served, request);
        assert!(answer.head.starts_with("HTTP/1.1 100"), "{}", answer.head);
        answer.send("hello");
        answer.read_head();
        assert!(answer.head.starts_with("HTTP/1.1 200"), "{}", answer.head);
        assert_eq!(answer.chunk(100), b"hello");
        answer.send("world");
        assert_eq!(answer.chunk(100), b"world");
        assert_eq!(answer.chunk(0), b"");
    }
}

/// More bodies than there are slots (eight) begin and stay out: to a handler that wants them whole they cost
/// neither buckets nor slots, and other requests are served meanwhile.
#[test]
fn bodies_that_stay_out_hold_up_no_other_request() {
    for served in Served::both_of("echo", "trickle", "--loops 1") {
        let mut slow: Vec<_> = (0..20)
            .map(|_| {
                let mut client = served.front.connect();
                client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nhello");
                client
            })
            .collect();
        for _ in 0..20 {
            let answer = served.front.post("/", "quick");
            assert_eq!((answer.status, answer.text()), (200, "quick"));
        }
        for client in &mut slow {
            client.send("world");
            let answer = client.answer();
            assert_eq!((answer.status, answer.text()), (200, "helloworld"));
        }
    }
}

#[test]
fn a_large_download_comes_at_constant_memory() {
    for served in Served::both("download", "") {
        let count = large();
        assert_eq!(
            served.front.get(&format!("/bytes/{}", 4 * MIB)).body.len() as u64,
            4 * MIB
        );
        let warm = served.at_rest();
        let look = || assert_flat(&warm, &served.now(), "on the way");

        let mut known = Incoming::of(&served, &get(&format!("/bytes/{count}")));
        assert!(
            known.has(&format!("Content-Length: {count}")),
            "{}",
            known.head
        );
        check_sequence(&mut known.stream, count, look);
        drop(known);

        let count = count / 8;
        let mut unknown = Incoming::of(&served, &get(&format!("/bytes/{count}?length=unknown")));
        assert!(
            unknown.has("Transfer-Encoding: chunked"),
            "{}",
            unknown.head
        );
        let mut body = Unchunked {
            from: &mut unknown,
            chunk: Vec::new(),
            at: 0,
        };
        check_sequence(&mut body, count, look);
        assert_eq!(body.at, body.chunk.len(), "bytes too many");
        assert_eq!(unknown.chunk(0), b"", "the last chunk is empty");
        assert_flat(&warm, &served.at_rest(), "at the end");
    }
}

#[test]
fn to_http_1_0_a_body_of_unknown_length_goes_until_the_connection_ends() {
    for served in Served::both("old", "") {
        for fields in ["", "Connection: keep-alive\r\n"] {
            let count = 3 * MIB + 5;
            let request = format!("GET /bytes/{count}?length=unknown HTTP/1.0\r\n{fields}\r\n");
            let mut answer = Incoming::of(&served, &request);
            let head = answer.head.to_ascii_lowercase();
            assert!(
                !head.contains("transfer-encoding") && !head.contains("content-length"),
                "{head}"
            );
            assert!(answer.has("Connection: close"), "{head}");
            check_sequence(&mut answer.stream, count, || {});
            let mut rest = Vec::new();
            answer
                .stream
                .read_to_end(&mut rest)
                .expect("an end, and no reset");
            assert!(rest.is_empty(), "{} bytes too many", rest.len());
        }
        let request = format!("GET /bytes/{MIB} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let mut answer = Incoming::of(&served, &request);
        assert!(
            answer.has(&format!("Content-Length: {MIB}")) && answer.has("Connection: keep-alive"),
            "{}",
            answer.head
        );
        check_sequence(&mut answer.stream, MIB, || {});
    }
}

#[test]
fn a_slow_reader_holds_up_the_writer() {
    // What lies between the two: the slot, and the buffers of two sockets.
    let between = 4 * MIB;
    for served in Served::both("slow", "") {
        let count = 32 * MIB;
        let client = Client::connect_with_buffer(served.front.address(), 4096);
        let mut stream = client.sender();
        stream.set_read_timeout(Some(PATIENCE)).expect("a time");
        stream
            .write_all(get(&format!("/bytes/{count}")).as_bytes())
            .expect("the server takes it");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a head comes");
            head.extend(byte);
        }
        let mut read = 0;
        check_sequence(&mut stream, count, || {
            read += count / 16;
            let written = served.figure("written");
            assert!(
                written <= read + between,
                "{written} bytes are written, and {read} read"
            );
        });
        assert_eq!(served.figure("written"), count);
    }
}

#[test]
fn an_upload_that_breaks_off_is_noticed_and_the_next_one_is_whole() {
    for served in Served::both("broken", "") {
        for reset in [false, true] {
            let mut client = served.front.connect();
            client.send(format!(
                "POST /sum HTTP/1.1\r\nHost: test\r\nContent-Length: {MIB}\r\n\r\n"
            ));
            client.send(vec![1; 200_000]);
            if reset {
                client.reset();
            } else {
                client.half_close();
                let answer = client.rest().unwrap_or_default();
                assert!(
                    !answer.starts_with(b"HTTP/1.1 200"),
                    "half a body was taken for a whole one"
                );
            }
        }
        // As many as there are buckets, at once: no broken stream still holds one.
        let whole: Vec<_> = (0..4)
            .map(|_| {
                let mut client = served.front.connect();
                thread::spawn(move || {
                    let expected = upload(&client.sender(), MIB, false, || {});
                    assert_eq!(client.answer().text(), expected);
                })
            })
            .collect();
        for client in whole {
            client.join().expect("it has its answer");
        }
    }
}

/// The connection's next event, in a chunk of its own; comments are none.
fn event(incoming: &mut Incoming) -> String {
    loop {
        let event = String::from_utf8(incoming.chunk(100)).expect("text");
        if event != ":\n\n" {
            return event;
        }
    }
}

/// A reader that has the event that is there to begin with.
fn reader(served: &Served) -> Incoming {
    let mut reader = Incoming::of(served, &get("/events"));
    assert!(
        reader.has("Content-Type: text/event-stream"),
        "{}",
        reader.head
    );
    assert!(reader.has("Transfer-Encoding: chunked"), "{}", reader.head);
    assert!(event(&mut reader).starts_with("data: "));
    reader
}

fn publish(served: &Served) -> String {
    format!("data: {}\n", served.front.post("/events", "").text())
}

#[test]
fn each_event_is_there_before_the_next_one_is_made() {
    for served in Served::both("events", "") {
        let (mut one, mut other) = (reader(&served), reader(&served));
        for _ in 0..100 {
            // The next event comes only after both readers have this one: one kept back would never come.
            let published = publish(&served);
            assert_eq!(event(&mut one), published);
            assert_eq!(event(&mut other), published);
        }
        assert_eq!((served.figure("readers"), served.figure("left")), (2, 0));
    }
}

/// The clean end of a body in chunks, and no cut at `--drain-timeout`.
#[test]
fn a_stream_without_end_ends_when_its_server_drains() {
    for served in Served::both("draining", "") {
        let mut reader = reader(&served);
        let draining = served.application.as_ref().unwrap_or(&served.front);
        draining.signal(libc::SIGTERM);
        let mut chunk = reader.chunk(100);
        while chunk == b":\n\n" {
            chunk = reader.chunk(100);
        }
        assert_eq!(chunk, b"");
        let ended = served.application.unwrap_or(served.front).wait();
        assert_eq!(ended.code(), 0, "{}", ended.stderr());
    }
}

#[test]
fn events_to_http_1_0_come_as_they_are() {
    for served in Served::both("old-events", "") {
        let mut reader = Incoming::of(&served, "GET /events HTTP/1.0\r\n\r\n");
        assert!(reader.has("Connection: close"), "{}", reader.head);
        let mut next = || {
            let mut event = String::new();
            while event.is_empty() || event == ":\n\n" {
                event.clear();
                for _ in 0..2 {
                    reader.stream.read_line(&mut event).expect("an event comes");
                }
            }
            event
        };
        assert_eq!(next(), "data: 0\n\n");
        for _ in 0..10 {
            let published = publish(&served);
            assert_eq!(next(), published);
        }
    }
}

#[test]
fn a_reader_that_leaves_is_noticed_by_the_next_write() {
    // One loop, so that it learns of the reader's end before it forwards later events.
    for served in Served::both("leaves", "--loops 1") {
        // Their handlers wait for news, and do not write any more, once their first event is out.
        let waits = |sent| eventually(|| served.figure("sent") == sent);
        // One that resets is known to be gone at once.
        let first = reader(&served);
        assert!(waits(1), "the first has its first one");
        first.reset();
        let _ = publish(&served);
        assert!(
            eventually(|| served.figure("left") == 1 && served.figure("readers") == 0),
            "it was not noticed"
        );
        // One that closes may have closed one direction only (RFC 9112 §9.6 lets it still read); the next
        // event finds out, and the one after it cannot be written.
        let second = reader(&served);
        assert!(waits(2), "the second has its first one");
        drop(second);
        let _ = publish(&served);
        assert!(
            eventually(|| served.figure("sent") == 3 || served.figure("left") == 2),
            "nothing was sent"
        );
        let _ = publish(&served);
        assert!(
            eventually(|| served.figure("left") == 2 && served.figure("readers") == 0),
            "it was not noticed"
        );
        let mut third = reader(&served);
        let published = publish(&served);
        assert_eq!(event(&mut third), published, "their buckets are free again");
    }
}

#[test]
fn more_readers_than_buckets_leave_and_none_keeps_its_bucket() {
    for served in Served::both("many", "--loops 1") {
        for round in 0..10 {
            // Three of four buckets; the last one publishes.
            let readers: Vec<Incoming> = (0..3).map(|_| reader(&served)).collect();
            for reader in readers {
                reader.reset();
            }
            let _ = publish(&served);
            let left = 3 * (round + 1);
            assert!(
                eventually(|| served.figure("left") == left),
                "{} of {left} were noticed",
                served.figure("left")
            );
        }
    }
}

/// How a reader vanishes.
#[derive(Clone, Copy, Debug)]
enum Vanishing {
    /// It closes its connection, having read all that has come or not.
    Closes,
    /// It resets its connection.
    Resets,
    /// It reads nothing for so long that its handler waits for it, then resets its connection.
    Stalls,
}

/// Each of them has a bucket, and no bucket is left for the next request.
#[test]
fn as_many_vanished_readers_as_there_are_buckets_keep_none_of_them() {
    let endless = format!("/bytes/{}", u64::MAX);
    let unannounced = format!("{endless}?length=unknown");
    for served in Served::both("vanish", "--queue-timeout 20s") {
        for path in ["/events", &endless, &unannounced] {
            for vanishing in [Vanishing::Closes, Vanishing::Resets, Vanishing::Stalls] {
                let mut readers: Vec<_> =
                    (0..4).map(|_| Incoming::of(&served, &get(path))).collect();
                for reader in &mut readers {
                    let mut bit = [0; 8];
                    reader.stream.read_exact(&mut bit).expect("it begins");
                }
                if matches!(vanishing, Vanishing::Stalls) && path != "/events" {
                    for reader in &readers {
                        wait_until_full(reader.stream.get_ref());
                    }
                }
                for reader in readers {
                    match vanishing {
                        Vanishing::Closes => drop(reader),
                        Vanishing::Resets | Vanishing::Stalls => reader.reset(),
                    }
                }
                let vanished = Instant::now();
                let answer = served.front.get("/figures");
                let after = vanished.elapsed();
                assert!(
                    answer.status == 200 && after < Duration::from_secs(1),
                    "{path}, {vanishing:?}: {} after {after:?}",
                    answer.status
                );
            }
        }
    }
}

/// Waits until nothing more comes to a socket that is not read, because there is no room left for it.
fn wait_until_full(stream: &TcpStream) {
    use std::os::fd::AsRawFd;
    let (mut last, mut same) = (0, 0);
    let full = eventually(|| {
        let mut unread: libc::c_int = 0;
        // SAFETY: the request writes one number.
        unsafe { libc::ioctl(stream.as_raw_fd(), libc::FIONREAD, &raw mut unread) };
        same = if unread > 0 && unread == last {
            same + 1
        } else {
            0
        };
        last = unread;
        same == 20
    });
    assert!(full, "the handler does not wait for its reader");
}
