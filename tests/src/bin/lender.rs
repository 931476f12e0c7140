//! Handlers that lend what they were given to a thread of their own, and outgrow their bucket while it is
//! lent: the application that tests what becomes of the loan.
//!
//! `LENDS` says what it serves: `requests`, `connections` or `datagrams`. A loan lasts as long as the
//! process.
//!
//! | request | does |
//! |---|---|
//! | `POST /body` | lends the body to a reader |
//! | `POST /upload` | reads a part of a long body, then lends a field of the head to a reader |
//! | `GET /space` | lends the room for the answer to a writer |
//! | `GET /piece` | the same after the first piece of the answer has been sent |
//! | `GET /report` | says what the borrowers have found |
//! | `POST /echo/N` | sends N and the body back |
//! | `GET /wait` | waits for `POST /go` |
//!
//! A connection's first line, or a datagram, is `read` or `write` for a loan, `report`, or is sent back.

use std::hint::black_box;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;
use transom::{
    App, Connection, Datagram, DatagramReply, Failure, Request, Response, Router, streaming,
};

/// Threads that have borrowed something, and have begun to use it.
static BORROWERS: AtomicU64 = AtomicU64::new(0);
/// How often a borrower found its loan changed.
static CHANGES: AtomicU64 = AtomicU64::new(0);

/// Requests that wait to be told to go on, and whether they are.
static WAITING: AtomicU64 = AtomicU64::new(0);
static GO: AtomicBool = AtomicBool::new(false);

/// Between two uses of what was borrowed.
const PAUSE: Duration = Duration::from_micros(20);

/// What a writer writes.
const MARK: u8 = 0xEE;

/// Has a thread of a scope borrow, and outgrows the bucket once it does. The scope never ends.
fn lend(borrow: impl FnOnce() + Send) {
    let before = BORROWERS.load(Ordering::Acquire);
    thread::scope(|scope| {
        scope.spawn(borrow);
        while BORROWERS.load(Ordering::Acquire) == before {
            thread::yield_now();
        }
        drop(black_box(vec![0_u8; 1 << 30]));
    });
}

/// Reads what was lent again and again: it must stay as it is.
fn watch(lent: &[u8]) {
    let kept = lent.to_vec();
    BORROWERS.fetch_add(1, Ordering::Release);
    loop {
        if black_box(lent) != kept {
            CHANGES.fetch_add(1, Ordering::Relaxed);
        }
        thread::sleep(PAUSE);
    }
}

/// Writes what was lent again and again: it must stay as it was written.
fn scribble(lent: &mut [u8]) {
    lent.fill(MARK);
    BORROWERS.fetch_add(1, Ordering::Release);
    loop {
        if black_box(&*lent).iter().any(|&byte| byte != MARK) {
            CHANGES.fetch_add(1, Ordering::Relaxed);
        }
        black_box(&mut *lent).fill(MARK);
        thread::sleep(PAUSE);
    }
}

/// Reads from a connection that was lent: nothing comes any more.
fn listen(mut lent: &TcpStream) {
    BORROWERS.fetch_add(1, Ordering::Release);
    loop {
        if matches!(lent.read(&mut [0; 64]), Ok(1..)) {
            CHANGES.fetch_add(1, Ordering::Relaxed);
        }
        thread::sleep(PAUSE);
    }
}

/// Writes to a connection that was lent: it goes nowhere.
fn talk(mut lent: &TcpStream) {
    BORROWERS.fetch_add(1, Ordering::Release);
    loop {
        let _ = lent.write(&[MARK]);
        thread::sleep(PAUSE);
    }
}

fn report() -> String {
    let [borrowers, changes, waiting] =
        [&BORROWERS, &CHANGES, &WAITING].map(|count| count.load(Ordering::Relaxed));
    format!("borrowers={borrowers} changes={changes} waiting={waiting}\n")
}

fn body(request: &Request) -> Response<'_> {
    let body = request.body();
    lend(|| watch(body));
    Response::text("returned\n")
}

fn upload(request: &Request) -> Result<Response<'_>, Failure> {
    let mut reader = request.body_reader();
    let mut part = [0; 4096];
    // More than a slot holds, so that a piece has been asked for.
    for _ in 0..40 {
        reader.read_exact(&mut part)?;
    }
    let field = request.header_bytes("secret").unwrap_or_default();
    lend(|| watch(field));
    Ok(Response::text("returned\n"))
}

fn space(_: &Request) -> Response<'_> {
    Response::stream(|out| {
        let space = out.space()?;
        lend(|| scribble(space));
        Ok(())
    })
}

fn piece(_: &Request) -> Response<'_> {
    Response::stream(|out| {
        out.write_all(b"begun\n")?;
        out.flush()?;
        let space = out.space()?;
        lend(|| scribble(space));
        Ok(())
    })
}

fn echo(request: &Request) -> Result<Response<'_>, Failure> {
    let number: u64 = request.param_as("number")?;
    let mut answer = format!("{number} ").into_bytes();
    answer.extend_from_slice(request.body());
    Ok(Response::bytes("application/octet-stream", answer))
}

fn wait(_: &Request) -> &'static str {
    WAITING.fetch_add(1, Ordering::Relaxed);
    while !GO.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(1));
    }
    "went on\n"
}

fn go(_: &Request) -> &'static str {
    GO.store(true, Ordering::Relaxed);
    "told\n"
}

fn requests() -> App {
    App::new(
        Router::new()
            .post("/body", body)
            .post("/upload", streaming(upload))
            .get("/space", space)
            .get("/piece", piece)
            .get("/report", |_: &Request| report())
            .post("/echo/{number}", echo)
            .get("/wait", wait)
            .post("/go", go),
    )
}

fn connection(connection: &mut Connection) -> io::Result<()> {
    let stream = connection.stream();
    let mut line = [0; 64];
    let len = connection.read(&mut line)?;
    match &line[..len] {
        b"read\n" => lend(|| listen(stream)),
        b"write\n" => lend(|| talk(stream)),
        b"report\n" => return connection.write_all(report().as_bytes()),
        b"number\n" => return writeln!(connection, "{}", stream.as_raw_fd()),
        other => return connection.write_all(other),
    }
    Ok(())
}

fn datagram(datagram: &Datagram, reply: &mut DatagramReply) {
    match datagram.bytes() {
        b"read" => {
            let bytes = datagram.bytes();
            lend(|| watch(bytes));
        }
        b"write" => {
            let space = reply.space();
            lend(|| scribble(space));
        }
        b"report" => reply.send(report().as_bytes()).expect("it is short"),
        other => reply.send(other).expect("a datagram fits an answer"),
    }
}

fn main() -> ExitCode {
    match std::env::var("LENDS").as_deref() {
        Ok("connections") => App::connections(connection),
        Ok("datagrams") => App::datagrams(datagram),
        _ => requests(),
    }
    .serve()
}
