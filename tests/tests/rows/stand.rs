//! A server in one process and the same one behind a door, and cases that are put to both.

use std::sync::atomic::{AtomicU32, Ordering};
use transom_tests::doors::Folder;
use transom_tests::{Answer, Client, Launch, Sample, Server, Trouble};

/// A running server.
#[derive(Debug)]
pub struct Stand {
    /// `in one process` or `through a door`.
    pub name: &'static str,
    /// The server that clients talk to.
    pub front: Server,
    /// The application, where it is a process of its own.
    pub application: Option<Server>,
    _folder: Option<Folder>,
}

/// The two ways to run the application of these tests. `front` has flags of the front end, `application`
/// those of the rest.
#[must_use]
pub fn both(front: &str, application: &str) -> [Stand; 2] {
    [
        alone(front, application),
        through_a_door(front, application),
    ]
}

fn app() -> Launch {
    Launch::of_file(env!("CARGO_BIN_EXE_rows"))
}

fn alone(front: &str, application: &str) -> Stand {
    Stand {
        name: "in one process",
        front: app()
            .flags(&format!("--loops 1 {front} {application}"))
            .start(),
        application: None,
        _folder: None,
    }
}

fn through_a_door(front: &str, application: &str) -> Stand {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let folder = Folder::new(&format!("rows-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    let door = folder.path("rows.door");
    let application = app()
        .flags(&format!("--door {} {application}", door.display()))
        .start();
    let serve = format!("serve --forward http://127.0.0.1:0={}", door.display());
    let front = Launch::of("transom")
        .flags(&format!("{serve} --loops 1 {front}"))
        .start();
    Stand {
        name: "through a door",
        front,
        application: Some(application),
        _folder: Some(folder),
    }
}

impl Stand {
    /// A new connection.
    #[must_use]
    pub fn connect(&self) -> Client {
        self.front.connect()
    }

    /// The answer to these bytes on a connection of its own.
    #[must_use]
    pub fn answer_to(&self, bytes: impl AsRef<[u8]>) -> Answer {
        self.front.answer_to(bytes)
    }

    /// A fresh connection is served.
    #[track_caller]
    pub fn assert_serves(&self, after: &str) {
        let answer = self.front.get("/");
        let got = (answer.status, &answer.body[..]);
        assert_eq!(got, (200, &b"hello\n"[..]), "{}, after {after}", self.name);
    }

    /// Where the handlers run.
    #[must_use]
    pub fn handlers(&self) -> &Server {
        self.application.as_ref().unwrap_or(&self.front)
    }

    /// Resident bytes of its processes, once they are at rest.
    #[must_use]
    pub fn memory(&self) -> Vec<u64> {
        let processes = [Some(&self.front), self.application.as_ref()];
        processes
            .into_iter()
            .flatten()
            .map(|process| Sample::at_rest(process.pid()).rss)
            .collect()
    }

    /// Drains it: no process may end in another way than it should, and in one process nothing may have been
    /// allocated outside of buckets. (Opening a door allocates, in both processes.)
    pub fn stop(self) {
        let front = self.front.stop();
        assert_eq!(front.code(), 0, "{}: {}", self.name, front.stderr());
        match self.application {
            Some(application) => assert_eq!(application.stop().code(), 0, "{}", self.name),
            None => assert_eq!(front.figure("process_heap_allocations"), 0),
        }
    }
}

/// What becomes of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The next request on it is served.
    Open,
    /// It is closed in order: no reset, no further byte.
    Closed,
}

/// Bytes on a new connection, and what must come back.
#[derive(Debug)]
pub struct Case {
    name: &'static str,
    send: Vec<u8>,
    then: Vec<u8>,
    half_close: bool,
    answers: Vec<u16>,
    end: End,
    text: Option<String>,
}

impl Case {
    /// One 200, and the connection stays open.
    #[must_use]
    pub fn served(name: &'static str, send: impl AsRef<[u8]>) -> Self {
        Self::answered(name, &[200], End::Open, send)
    }

    /// One answer with this status that announces the close, and the close.
    #[must_use]
    pub fn refused(name: &'static str, status: u16, send: impl AsRef<[u8]>) -> Self {
        Self::answered(name, &[status], End::Closed, send)
    }

    /// These answers, and this end.
    #[must_use]
    pub fn answered(name: &'static str, answers: &[u16], end: End, send: impl AsRef<[u8]>) -> Self {
        Self {
            name,
            send: send.as_ref().to_vec(),
            then: Vec::new(),
            half_close: false,
            answers: answers.to_vec(),
            end,
            text: None,
        }
    }

    /// Sends more once the first answer is there.
    #[must_use]
    pub fn then_send(mut self, bytes: &str) -> Self {
        self.then = bytes.as_bytes().to_vec();
        self
    }

    /// Says that nothing more will be sent.
    #[must_use]
    pub fn half_closed(mut self) -> Self {
        self.half_close = true;
        self
    }

    /// The last answer has this body.
    #[must_use]
    pub fn text(mut self, text: &str) -> Self {
        self.text = Some(text.to_owned());
        self
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What must come back, as the documentation writes it.
    #[must_use]
    pub fn answer(&self) -> String {
        let answers: Vec<String> = self.answers.iter().map(ToString::to_string).collect();
        let end = if self.end == End::Closed { " X" } else { "" };
        answers.join(", ") + end
    }

    /// Puts it to a server, the first bytes in two writes if `cut`.
    fn put_to(&self, stand: &Stand, cut: bool) {
        let what = format!("{} ({}, cut: {cut})", self.name, stand.name);
        let mut client = stand.connect();
        let (first, second) = self
            .send
            .split_at(if cut { self.send.len() / 2 } else { 0 });
        // A request that has been refused already need not be taken whole.
        for part in [first, second] {
            let taken = part.is_empty() || client.try_send(part);
            assert!(taken || self.end == End::Closed, "{what}: not all is taken");
        }
        if self.half_close {
            client.half_close();
        }
        for (at, &expected) in self.answers.iter().enumerate() {
            let answer = next_answer(&mut client, &self.send)
                .unwrap_or_else(|trouble| panic!("{what}: {trouble:?} for answer {at}"));
            assert_eq!(answer.status, expected, "{what}: {}", answer.head);
            let last = at + 1 == self.answers.len();
            let closes = last && self.end == End::Closed && !self.half_close;
            if answer.status >= 200 {
                assert_eq!(answer.closes(), closes, "{what}: {}", answer.head);
                assert_eq!(answer.count("date"), 1, "{what}: {}", answer.head);
            }
            if answer.status >= 400 {
                assert_eq!(answer.count("content-length"), 1, "{what}: {}", answer.head);
            }
            if let (true, Some(text)) = (last, &self.text) {
                assert_eq!(answer.text(), text, "{what}: {}", answer.head);
            }
            if at == 0 && !self.then.is_empty() {
                client.send(&self.then);
            }
        }
        match self.end {
            End::Closed => assert_eq!(client.rest(), Ok(Vec::new()), "{what}: closed in order"),
            End::Open => assert_eq!(
                client.get("/").text(),
                "hello\n",
                "{what}: the next request on it"
            ),
        }
        stand.assert_serves(&what);
    }
}

fn next_answer(client: &mut Client, request: &[u8]) -> Result<Answer, Trouble> {
    let mut line = request;
    while let Some(rest) = line.strip_prefix(b"\r\n") {
        line = rest;
    }
    if line.starts_with(b"HEAD ") {
        Ok(client.answer_to_head())
    } else {
        client.try_answer()
    }
}

/// Puts all cases to a server in one process and to one behind a door, each case whole and cut in two, and
/// all of them twice: memory must not grow after the first time.
pub fn check(cases: &[Case]) {
    check_with("", "", cases);
}

/// As [`check`], with flags.
pub fn check_with(front: &str, application: &str, cases: &[Case]) {
    for stand in both(front, &format!("--buckets 1 {application}")) {
        let round = || {
            for case in cases {
                case.put_to(&stand, false);
                case.put_to(&stand, true);
            }
        };
        round();
        let before = stand.memory();
        round();
        let after = stand.memory();
        let grown = before
            .iter()
            .zip(&after)
            .any(|(before, after)| after > before);
        assert!(!grown, "{}: {before:?} bytes, then {after:?}", stand.name);
        stand.stop();
    }
}

/// A GET with these lines besides Host, each without its CRLF.
#[must_use]
pub fn with(lines: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n").into_bytes()
}

/// A GET for this target.
#[must_use]
pub fn to(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes()
}

/// A POST with these lines besides Host, and what follows its head.
#[must_use]
pub fn post(lines: &str, rest: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n{rest}").into_bytes()
}

/// A POST whose body comes as these chunks.
#[must_use]
pub fn chunked(chunks: &str) -> Vec<u8> {
    post("Transfer-Encoding: chunked", chunks)
}

/// A request that must not be answered: only a front end that was fooled would find it.
pub const SMUGGLED: &str = "GET /see/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
