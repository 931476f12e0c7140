//! Sends requests when they are due, and counts the answers: one thread, a fixed number of connections, no
//! waiting for the server before the next request.
//!
//! A request that finds every connection busy waits in a backlog, and its latency counts from when it was
//! due: a server that stops for a second is late for all the requests of that second, not only for one per
//! connection (coordinated omission).

use super::mix::Entry;
use super::random::Random;
use super::schedule::{Arrival, Schedule};
use super::tally::{Failure, Latencies, Tally};
use rustix::event::{Timespec, epoll};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use transom_http::answer::Reader;

/// How often requests are looked through for those that take too long.
const SWEEP: Duration = Duration::from_millis(50);

/// Events that one wait may return.
const EVENTS: usize = 64;

/// Bytes that one read may return.
const READ_BYTES: usize = 64 << 10;

/// What the generator may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections.
    pub connections: usize,
    /// Requests that wait for a connection.
    pub backlog: usize,
    /// The longest that a request may take once it is sent.
    pub timeout: Duration,
}

/// How far a phase is, for the display.
#[derive(Debug, Default)]
pub struct Progress {
    /// Requests answered, in all phases.
    pub answered: AtomicU64,
    /// Requests that failed, were not sent, or got another status than 2xx and 3xx.
    pub not_good: AtomicU64,
}

/// What one phase has seen.
#[derive(Debug)]
pub struct PhaseResult {
    /// By entry of the mix.
    pub tallies: Vec<Tally>,
    /// How late the generator itself was: from when a request was due to when it looked.
    pub lateness: Latencies,
    /// How long the phase took, to its last answer.
    pub took: Duration,
    /// The server answers no more, and the phase was ended.
    pub gone: bool,
}

/// Where requests come from.
#[derive(Debug)]
pub enum Source<'m> {
    /// A schedule.
    Open(Schedule<'m>),
    /// As soon as a connection is free: how capacity is measured.
    Closed {
        /// Which entries, in proportion to their shares.
        entries: Vec<usize>,
        /// For how long.
        length: Duration,
        /// Draws entries and sizes.
        random: Random,
    },
}

#[derive(Debug, Clone, Copy)]
struct InFlight {
    arrival: Arrival,
    sent: Instant,
    resent: bool,
}

#[derive(Debug)]
struct Connection {
    stream: Option<TcpStream>,
    reader: Reader,
    in_flight: Option<InFlight>,
    out: Vec<u8>,
    /// Bytes of `out` that are written.
    written: usize,
    /// Whether its epoll registration asks for room to write.
    wants_room: bool,
    /// Answers that came on it since it was opened.
    answered: u64,
}

/// The generator.
#[derive(Debug)]
pub struct Engine<'m> {
    mix: &'m [Entry],
    address: SocketAddr,
    host: String,
    limits: Limits,
    epoll: OwnedFd,
    connections: Vec<Connection>,
    /// Connections without a request; the last one is used next.
    idle: Vec<usize>,
    backlog: VecDeque<Arrival>,
    progress: Arc<Progress>,
    /// Requests in a row that reached no server.
    in_vain: usize,
}

impl<'m> Engine<'m> {
    /// A generator; nothing is sent yet. `host` is what requests say in their field of that name.
    ///
    /// # Errors
    /// If the kernel has no descriptor left.
    pub fn new(
        mix: &'m [Entry],
        address: SocketAddr,
        host: &str,
        limits: Limits,
        progress: Arc<Progress>,
    ) -> io::Result<Self> {
        // Otherwise the kernel may sleep 50 µs longer than asked, which is half of an ordinary request's
        // latency.
        rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
        let connections = (0..limits.connections).map(|_| Connection {
            stream: None,
            reader: Reader::new(),
            in_flight: None,
            out: Vec::with_capacity(256),
            written: 0,
            wants_room: false,
            answered: 0,
        });
        Ok(Engine {
            mix,
            address,
            host: host.to_owned(),
            limits,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            connections: connections.collect(),
            idle: (0..limits.connections).rev().collect(),
            backlog: VecDeque::with_capacity(limits.backlog),
            progress,
            in_vain: 0,
        })
    }

    /// Runs a phase, and waits for all answers that are owed at its end.
    ///
    /// # Errors
    /// If waiting itself fails. Whatever the server does is counted instead.
    pub fn run(&mut self, mut source: Source<'_>) -> io::Result<PhaseResult> {
        let mut outcome = PhaseResult {
            tallies: self.mix.iter().map(|_| Tally::new()).collect(),
            lateness: Latencies::new(),
            took: Duration::ZERO,
            gone: false,
        };
        let mut buffer = vec![0; READ_BYTES];
        let mut events = Vec::with_capacity(EVENTS);
        let began = Instant::now();
        let mut next_sweep = SWEEP;
        loop {
            let now = began.elapsed();
            let more = self.take_due(&mut source, now, &mut outcome);
            while let Some(&arrival) = self.backlog.front()
                && let Some(connection) = self.idle.pop()
            {
                self.backlog.pop_front();
                self.send(connection, arrival, false, began, &mut outcome);
            }
            if self.in_vain > 2 * self.connections.len() + 100 {
                outcome.gone = true;
                self.give_up();
                break;
            }
            let answers_owed = self.idle.len() < self.connections.len();
            if more.is_none() && self.backlog.is_empty() && !answers_owed {
                break;
            }
            if now >= next_sweep {
                next_sweep = now + SWEEP;
                self.sweep(began, &mut outcome);
                continue;
            }
            let until = more.unwrap_or(next_sweep).min(next_sweep);
            self.wait(&mut events, until.saturating_sub(began.elapsed()))?;
            for (connection, flags) in events.drain(..) {
                self.happened(connection, flags, &mut buffer, began, &mut outcome);
            }
        }
        outcome.took = began.elapsed();
        Ok(outcome)
    }

    /// Moves what is due to the backlog; when the next request is.
    fn take_due(
        &mut self,
        source: &mut Source<'_>,
        now: Duration,
        outcome: &mut PhaseResult,
    ) -> Option<Duration> {
        match source {
            Source::Open(schedule) => {
                while schedule.next_at().is_some_and(|at| at <= now)
                    && let Some(arrival) = schedule.next()
                {
                    let tally = &mut outcome.tallies[arrival.entry];
                    tally.due += 1;
                    outcome.lateness.record(now.saturating_sub(arrival.at));
                    if self.backlog.len() < self.limits.backlog {
                        self.backlog.push_back(arrival);
                    } else {
                        tally.unsent += 1;
                        self.progress.not_good.fetch_add(1, Ordering::Relaxed);
                    }
                }
                schedule.next_at()
            }
            Source::Closed {
                entries,
                length,
                random,
            } => {
                if now >= *length {
                    return None;
                }
                while self.backlog.len() < self.idle.len().min(self.limits.backlog) {
                    let entry = pick(self.mix, entries, random);
                    outcome.tallies[entry].due += 1;
                    self.backlog.push_back(Arrival {
                        at: now,
                        entry,
                        size: self.mix[entry].draw(random),
                    });
                }
                Some(*length)
            }
        }
    }

    fn wait(
        &self,
        events: &mut Vec<(usize, epoll::EventFlags)>,
        timeout: Duration,
    ) -> io::Result<()> {
        let timeout = Timespec {
            tv_sec: timeout.as_secs().cast_signed(),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let nothing = epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        };
        let mut ready = [nothing; EVENTS];
        match epoll::wait(&self.epoll, &mut ready[..], Some(&timeout)) {
            Ok(count) => {
                let ready = ready[..count].iter();
                events.extend(ready.map(|event| (event.data.u64() as usize, event.flags)));
                Ok(())
            }
            Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn send(
        &mut self,
        n: usize,
        arrival: Arrival,
        resent: bool,
        began: Instant,
        outcome: &mut PhaseResult,
    ) {
        let entry = &self.mix[arrival.entry];
        if self.connections[n].stream.is_none()
            && let Err(_) = self.open(n)
        {
            self.fail(arrival, Failure::NotConnected, began, outcome);
            self.idle.push(n);
            return;
        }
        let connection = &mut self.connections[n];
        connection.out.clear();
        entry.write_request(&self.host, arrival.size, &mut connection.out);
        connection.written = 0;
        connection.reader.expect(entry.method == "HEAD");
        connection.in_flight = Some(InFlight {
            arrival,
            sent: Instant::now(),
            resent,
        });
        self.write(n, began, outcome);
    }

    fn open(&mut self, n: usize) -> io::Result<()> {
        let family = match self.address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        match rustix::net::connect(&socket, &self.address) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        let data = epoll::EventData::new_u64(n as u64);
        epoll::add(&self.epoll, &stream, data, epoll::EventFlags::IN)?;
        let connection = &mut self.connections[n];
        connection.stream = Some(stream);
        connection.wants_room = false;
        connection.answered = 0;
        Ok(())
    }

    /// Writes as much of the request as there is room for. A connection that is still being made has none.
    fn write(&mut self, n: usize, began: Instant, outcome: &mut PhaseResult) {
        let connection = &mut self.connections[n];
        let Some(stream) = &mut connection.stream else {
            return;
        };
        while connection.written < connection.out.len() {
            match stream.write(&connection.out[connection.written..]) {
                Ok(len) => connection.written += len,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return self.lost(n, began, outcome),
            }
        }
        let wants_room = connection.written < connection.out.len();
        if wants_room != connection.wants_room {
            let mut flags = epoll::EventFlags::IN;
            flags.set(epoll::EventFlags::OUT, wants_room);
            let data = epoll::EventData::new_u64(n as u64);
            match epoll::modify(&self.epoll, &*stream, data, flags) {
                Ok(()) => connection.wants_room = wants_room,
                Err(_) => self.lost(n, began, outcome),
            }
        }
    }

    fn happened(
        &mut self,
        n: usize,
        flags: epoll::EventFlags,
        buffer: &mut [u8],
        began: Instant,
        outcome: &mut PhaseResult,
    ) {
        if flags == epoll::EventFlags::OUT {
            return self.write(n, began, outcome);
        }
        let connection = &mut self.connections[n];
        let Some(stream) = &mut connection.stream else {
            return;
        };
        let read = match stream.read(buffer) {
            Err(error)
                if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) =>
            {
                return;
            }
            Ok(len @ 1..) => connection.reader.feed(&buffer[..len], &mut |_| {}),
            // Its end may be how the answer's end is told.
            Ok(0) => match connection.reader.end() {
                None => return self.lost(n, began, outcome),
                answer => Ok(answer),
            },
            Err(_) => return self.lost(n, began, outcome),
        };
        match read {
            Ok(None) => {}
            Ok(Some(answer)) => {
                connection.answered += 1;
                if answer.closes {
                    connection.stream = None;
                }
                let Some(request) = connection.in_flight.take() else {
                    return;
                };
                self.in_vain = 0;
                let InFlight { arrival, .. } = request;
                let size = self.mix[arrival.entry].range.as_ref().map(|_| arrival.size);
                let latency = began.elapsed().saturating_sub(arrival.at);
                outcome.tallies[arrival.entry].answer(
                    answer.status,
                    answer.exhausted,
                    size,
                    latency,
                );
                self.progress.answered.fetch_add(1, Ordering::Relaxed);
                if !super::tally::is_good(answer.status) {
                    self.progress.not_good.fetch_add(1, Ordering::Relaxed);
                }
                self.idle.push(n);
            }
            Err(_) => {
                connection.stream = None;
                if let Some(request) = connection.in_flight.take() {
                    self.fail(request.arrival, Failure::Garbled, began, outcome);
                    self.idle.push(n);
                }
            }
        }
    }

    /// A connection has ended. What was sent on it is sent again, once, if the server closed it between two
    /// requests: then the request has not reached the server.
    fn lost(&mut self, n: usize, began: Instant, outcome: &mut PhaseResult) {
        let connection = &mut self.connections[n];
        connection.stream = None;
        let Some(request) = connection.in_flight.take() else {
            return;
        };
        let between = connection.answered > 0 && !connection.reader.has_begun();
        if between && !request.resent {
            outcome.tallies[request.arrival.entry].resent += 1;
            return self.send(n, request.arrival, true, began, outcome);
        }
        let never = connection.answered == 0 && connection.written == 0;
        let failure = match never {
            true => Failure::NotConnected,
            false => Failure::Cut,
        };
        self.fail(request.arrival, failure, began, outcome);
        self.idle.push(n);
    }

    fn fail(
        &mut self,
        arrival: Arrival,
        failure: Failure,
        began: Instant,
        outcome: &mut PhaseResult,
    ) {
        let tally = &mut outcome.tallies[arrival.entry];
        tally.failure(failure);
        if failure == Failure::TimedOut {
            // It took at least this long; without it, quantiles would make the server look better.
            tally
                .latencies
                .record(began.elapsed().saturating_sub(arrival.at));
        } else {
            self.in_vain += 1;
        }
        self.progress.not_good.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends requests that take too long.
    fn sweep(&mut self, began: Instant, outcome: &mut PhaseResult) {
        for n in 0..self.connections.len() {
            let connection = &mut self.connections[n];
            let late = |request: &InFlight| request.sent.elapsed() > self.limits.timeout;
            if connection.in_flight.as_ref().is_some_and(late)
                && let Some(request) = connection.in_flight.take()
            {
                connection.stream = None;
                self.fail(request.arrival, Failure::TimedOut, began, outcome);
                self.idle.push(n);
            }
        }
    }

    /// Forgets what is left to do.
    fn give_up(&mut self) {
        self.backlog.clear();
        for connection in &mut self.connections {
            connection.stream = None;
            connection.in_flight = None;
        }
        self.idle = (0..self.connections.len()).rev().collect();
    }
}

/// One of these entries, in proportion to their shares.
fn pick(mix: &[Entry], entries: &[usize], random: &mut Random) -> usize {
    let total: f64 = entries.iter().map(|&entry| mix[entry].share).sum();
    let mut left = random.part() * total;
    for &entry in entries {
        left -= mix[entry].share;
        if left < 0.0 {
            return entry;
        }
    }
    entries[entries.len() - 1]
}
