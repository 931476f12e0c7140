//! Many requests to one route, over several connections at once, and the faults of their answers.

use crate::client;
use regex::Regex;
use rows::{Answer, Body, NUMBER, Row};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use transom_tests_client::{Answer as Reply, Client};

/// Bad answers one after the other, over all connections, after which the rest of the requests would say
/// nothing more.
const BAD_IN_A_ROW_MAX: u64 = 50;

/// Bad answers in all, for the same reason.
const BAD_MAX: u64 = 500;

/// How much of a wrong body is shown.
const SHOWN: usize = 120;

/// What to send, and to whom.
pub struct Load<'r> {
    address: SocketAddr,
    row: &'r Row,
    pattern: Option<Regex>,
    concurrency: usize,
    /// How long a part of it may take.
    time: Duration,
    next: AtomicU64,
}

/// What came back.
#[derive(Debug, Default)]
pub struct Tally {
    /// Requests that were answered, or should have been.
    pub sent: u64,
    /// What was wrong, and how often.
    pub bad: BTreeMap<String, u64>,
    /// The first wrong body.
    pub example: Option<String>,
    /// Why it ended before all were sent.
    pub gave_up: Option<&'static str>,
    /// How long it took.
    pub took: Duration,
}

impl Tally {
    /// All were sent, and all answers are as they must be.
    pub fn is_good(&self) -> bool {
        self.bad.is_empty() && self.gave_up.is_none()
    }

    /// Answers a second.
    pub fn rate(&self) -> f64 {
        self.sent as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

/// What the connections have in common.
struct Shared {
    end: u64,
    bad_in_a_row: AtomicU64,
    bad: AtomicU64,
    deadline: Instant,
    tally: Mutex<Tally>,
}

impl<'r> Load<'r> {
    /// A load of one route.
    ///
    /// # Errors
    /// The row's regular expression is none.
    pub fn new(
        address: SocketAddr,
        row: &'r Row,
        concurrency: usize,
        time: Duration,
    ) -> Result<Self, regex::Error> {
        let pattern = match &row.answer {
            Answer::Matches(pattern) => Some(Regex::new(pattern)?),
            Answer::Bytes(_) | Answer::Text(_) => None,
        };
        Ok(Load {
            address,
            row,
            pattern,
            concurrency,
            time,
            next: AtomicU64::new(0),
        })
    }

    /// Sends so many requests. Their numbers go on where the last run has ended.
    pub fn run(&mut self, requests: u64) -> Tally {
        let began = Instant::now();
        let first = *self.next.get_mut();
        let shared = Shared {
            end: first + requests,
            bad_in_a_row: AtomicU64::new(0),
            bad: AtomicU64::new(0),
            deadline: began + self.time,
            tally: Mutex::default(),
        };
        thread::scope(|scope| {
            for _ in 0..self.concurrency {
                scope.spawn(|| self.ask_again_and_again(&shared));
            }
        });
        *self.next.get_mut() = shared.end;
        let mut tally = shared.tally.into_inner().unwrap_or_default();
        tally.took = began.elapsed();
        tally
    }

    fn ask_again_and_again(&self, shared: &Shared) {
        let mut connection = None;
        let mut sent = 0;
        loop {
            let gave_up = shared.reason_to_give_up();
            let n = match gave_up {
                None => self.next.fetch_add(1, Ordering::Relaxed),
                Some(_) => shared.end,
            };
            if n >= shared.end {
                let mut tally = shared.tally.lock().expect("no thread panics with it");
                tally.sent += sent;
                tally.gave_up = tally.gave_up.or(gave_up);
                return;
            }
            sent += 1;
            match self.ask(&mut connection, n) {
                Ok(reply) => match self.mistake(&reply, n) {
                    None => shared.bad_in_a_row.store(0, Ordering::Relaxed),
                    Some(mistake) => shared.note(mistake, Some(&reply)),
                },
                Err(trouble) => shared.note(trouble.to_owned(), None),
            }
        }
    }

    fn ask(&self, connection: &mut Option<Client>, n: u64) -> Result<Reply, &'static str> {
        let mut open = match connection.take() {
            Some(open) => open,
            None => client::open(self.address)?,
        };
        let reply = client::ask(&mut open, &self.request(n))?;
        if !reply.closes() {
            *connection = Some(open);
        }
        Ok(reply)
    }

    fn request(&self, n: u64) -> Vec<u8> {
        let path = &self.row.path;
        let numbered;
        let (method, body) = match &self.row.body {
            Body::None => ("GET", &[][..]),
            Body::Bytes(bytes) => ("POST", bytes.as_slice()),
            Body::Text(text) => {
                numbered = text.replace(NUMBER, &n.to_string());
                ("POST", numbered.as_bytes())
            }
        };
        let length = body.len();
        let head = format!(
            "{method} {path}?n={n} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n"
        );
        [head.as_bytes(), body].concat()
    }

    /// What is wrong with an answer.
    fn mistake(&self, reply: &Reply, n: u64) -> Option<String> {
        let (status, body) = (self.row.status, &reply.body);
        if reply.status != status {
            return Some(format!("status {} instead of {status}", reply.status));
        }
        let right = match (&self.row.answer, &self.pattern) {
            (Answer::Bytes(bytes), _) => body == bytes,
            (Answer::Text(text), _) => *body == text.replace(NUMBER, &n.to_string()).into_bytes(),
            (Answer::Matches(_), pattern) => pattern.as_ref().is_some_and(|pattern| {
                str::from_utf8(body).is_ok_and(|text| pattern.is_match(text))
            }),
        };
        (!right).then(|| "wrong body".to_owned())
    }
}

impl Shared {
    fn reason_to_give_up(&self) -> Option<&'static str> {
        if self.bad_in_a_row.load(Ordering::Relaxed) >= BAD_IN_A_ROW_MAX {
            Some("50 bad answers one after the other")
        } else if self.bad.load(Ordering::Relaxed) >= BAD_MAX {
            Some("500 bad answers")
        } else if Instant::now() > self.deadline {
            Some("it takes too long")
        } else {
            None
        }
    }

    fn note(&self, mistake: String, reply: Option<&Reply>) {
        self.bad_in_a_row.fetch_add(1, Ordering::Relaxed);
        self.bad.fetch_add(1, Ordering::Relaxed);
        let mut tally = self.tally.lock().expect("no thread panics with it");
        if let (Some(reply), None) = (reply, &tally.example) {
            let text = String::from_utf8_lossy(&reply.body);
            tally.example = Some(text.chars().take(SHOWN).collect());
        }
        *tally.bad.entry(mistake).or_default() += 1;
    }
}
