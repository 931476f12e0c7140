//! Many connections that ask the same questions again and again, and count the answers.
//!
//! One thread drives them all with poll(2), so that a load of 64 connections leaves a small machine to the
//! server. Each connection sends one request, waits for its answer, and sends the next one of its list.

use crate::PATIENCE;
use crate::client::get;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use transom_http::answer::{Framing, Part, Reader};

/// A request, and the answer that it should get.
#[derive(Debug, Clone)]
pub struct Kind {
    request: Vec<u8>,
    status: u16,
    part: &'static str,
}

impl Kind {
    /// The status that its answers should have.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// A GET that should be answered with a status, and with this text in the answer's head.
    #[must_use]
    pub fn get(path: &str, status: u16, part: &'static str) -> Self {
        Kind {
            request: get(path).into_bytes(),
            status,
            part,
        }
    }

    /// The same for a POST without a body.
    #[must_use]
    pub fn post(path: &str, status: u16, part: &'static str) -> Self {
        Self::post_body(path, "", status, part)
    }

    /// The same for a POST with a body.
    #[must_use]
    pub fn post_body(path: &str, body: &str, status: u16, part: &'static str) -> Self {
        let length = body.len();
        let request =
            format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n{body}");
        Kind {
            request: request.into_bytes(),
            status,
            part,
        }
    }
}

/// What to send, how often, to whom.
#[derive(Debug)]
pub struct Load<'s> {
    address: SocketAddr,
    connections: usize,
    kinds: Vec<Kind>,
    total: usize,
    until: Option<&'s AtomicBool>,
}

/// What came back.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// By kind: answers as they should be.
    pub good: Vec<usize>,
    /// All else, and how often: `/10: status 503`.
    pub bad: BTreeMap<String, usize>,
    /// By kind: how long each answer took, sorted.
    pub latencies: Vec<Vec<Duration>>,
    /// How long all of it took.
    pub took: Duration,
}

impl Report {
    /// The latency that so many of a thousand answers of a kind did not exceed.
    #[must_use]
    pub fn per_mille(&self, kind: usize, per_mille: usize) -> Duration {
        let sorted = &self.latencies[kind];
        let at = (sorted.len() * per_mille / 1000).min(sorted.len().saturating_sub(1));
        sorted.get(at).copied().unwrap_or_default()
    }

    /// Answers a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.good.iter().sum::<usize>() as f64 / self.took.as_secs_f64()
    }
}

struct Connection {
    stream: TcpStream,
    kind: usize,
    sent_at: Instant,
    /// False when the load is over and the last answer is there.
    busy: bool,
    reader: Reader,
    /// Head and body of the answer.
    received: Vec<u8>,
}

impl<'s> Load<'s> {
    /// A load of these requests in turn on each of so many connections.
    #[must_use]
    pub fn new(address: SocketAddr, connections: usize, kinds: Vec<Kind>) -> Self {
        Load {
            address,
            connections,
            kinds,
            total: usize::MAX,
            until: None,
        }
    }

    /// Ends after so many requests in all.
    #[must_use]
    pub fn total(mut self, total: usize) -> Self {
        self.total = total;
        self
    }

    /// Ends when this becomes true.
    #[must_use]
    pub fn until(mut self, end: &'s AtomicBool) -> Self {
        self.until = Some(end);
        self
    }

    /// Runs it. All answers that are owed at its end are waited for.
    ///
    /// # Panics
    /// If the server does not accept a connection, sends no answer for [`PATIENCE`], or sends bytes that are
    /// no answer with a length.
    #[must_use]
    pub fn run(&self) -> Report {
        let began = Instant::now();
        let mut report = Report {
            good: vec![0; self.kinds.len()],
            latencies: vec![Vec::new(); self.kinds.len()],
            ..Report::default()
        };
        let mut left = self.total;
        let mut connections: Vec<Connection> =
            (0..self.connections).map(|_| self.connect()).collect();
        for connection in &mut connections {
            self.send_next(connection, &mut left);
        }
        while connections.iter().any(|connection| connection.busy) {
            let mut polls: Vec<libc::pollfd> = connections
                .iter()
                .map(|connection| libc::pollfd {
                    fd: if connection.busy {
                        connection.stream.as_raw_fd()
                    } else {
                        -1
                    },
                    events: libc::POLLIN,
                    revents: 0,
                })
                .collect();
            let timeout = PATIENCE.as_millis() as libc::c_int;
            // SAFETY: the array is valid for its length.
            let ready =
                unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, timeout) };
            assert!(
                ready > 0,
                "no client has been answered for {PATIENCE:?}; so far {:?}, {:?}",
                report.good,
                report.bad
            );
            for (connection, poll) in connections.iter_mut().zip(&polls) {
                if poll.revents != 0 {
                    self.receive(connection, &mut report, &mut left);
                }
            }
        }
        report.took = began.elapsed();
        for latencies in &mut report.latencies {
            latencies.sort_unstable();
        }
        report
    }

    fn connect(&self) -> Connection {
        let stream = TcpStream::connect_timeout(&self.address, PATIENCE)
            .expect("the server accepts connections");
        stream.set_nodelay(true).expect("a TCP option");
        Connection {
            stream,
            kind: 0,
            sent_at: Instant::now(),
            busy: false,
            reader: Reader::strict(),
            received: Vec::new(),
        }
    }

    fn send_next(&self, connection: &mut Connection, left: &mut usize) {
        let ended = self.until.is_some_and(|end| end.load(Ordering::Relaxed));
        connection.busy = *left > 0 && !ended;
        if connection.busy {
            *left -= 1;
            connection.sent_at = Instant::now();
            connection.reader.expect(false);
            // A server that has just closed says so when the answer is read.
            let _ = connection
                .stream
                .write_all(&self.kinds[connection.kind].request);
        }
    }

    fn receive(&self, connection: &mut Connection, report: &mut Report, left: &mut usize) {
        let mut buffer = [0; 16 << 10];
        let trouble = match connection.stream.read(&mut buffer) {
            Ok(0) => "closed without an answer",
            Ok(len) => {
                let mut bytes = &buffer[..len];
                let received = &mut connection.received;
                let read = connection.reader.read(&mut bytes, &mut |part| match part {
                    Part::Head(part) | Part::Body(part) => received.extend_from_slice(part),
                });
                match read.expect("what comes is an answer") {
                    None => return,
                    Some(_) if !bytes.is_empty() => "more bytes than one answer",
                    Some(answer) => {
                        assert_eq!(answer.framing, Framing::Length, "each answer has a length");
                        self.judge(connection, answer.status, report);
                        connection.kind = (connection.kind + 1) % self.kinds.len();
                        self.send_next(connection, left);
                        return;
                    }
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return,
            Err(_) => "reset",
        };
        *report.bad.entry(trouble.to_owned()).or_default() += 1;
        let kind = connection.kind;
        *connection = Connection {
            kind: (kind + 1) % self.kinds.len(),
            ..self.connect()
        };
        self.send_next(connection, left);
    }

    fn judge(&self, connection: &mut Connection, status: u16, report: &mut Report) {
        let kind = &self.kinds[connection.kind];
        let answer = String::from_utf8_lossy(&connection.received);
        if status == kind.status && answer.contains(kind.part) {
            report.good[connection.kind] += 1;
            report.latencies[connection.kind].push(connection.sent_at.elapsed());
        } else {
            let line = kind
                .request
                .split(|&byte| byte == b'\r')
                .next()
                .unwrap_or_default();
            let line = String::from_utf8_lossy(line);
            *report
                .bad
                .entry(format!("{line}: status {status}"))
                .or_default() += 1;
        }
        connection.received.clear();
    }
}
