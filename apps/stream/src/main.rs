//! Bodies of any length at constant memory, both ways, and server-sent events.
//!
//! | request | answer |
//! |---|---|
//! | `POST /sum` | how many bytes were sent, and their FNV-1a hash, taken while they came |
//! | `GET /bytes/{count}` | that many bytes of a sequence; with `?length=unknown` their number is not announced |
//! | `GET /events` | an event for each that is published, sent at once; a comment now and then |
//! | `POST /events` | publishes one |
//! | `GET /figures` | what became of the events' readers, and how far the last `/bytes` has got |

use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;
use transom::{BodyWriter, Failure, Request, Response, Router, is_draining, streaming};

/// How much of a body is hashed at a time. On the stack, whose size is the bucket's.
const STEP: usize = 16 << 10;

/// How often a handler without news looks whether its reader is still there. A reader that resets its
/// connection is seen so.
const LOOK: Duration = Duration::from_millis(50);

/// So many looks without news, and the reader is sent a comment, which it skips: a reader that closes its
/// connection is seen when something is sent to it. (The HTML standard suggests 15 s, for proxies; here a
/// bucket waits for it.)
const LOOKS_PER_COMMENT: u32 = 5;

/// How many events have been published. A number needs no memory but its own, so no `Shared` is needed around
/// it.
static PUBLISHED: Mutex<u64> = Mutex::new(0);
static NEWS: Condvar = Condvar::new();

/// Readers of events that are there, and those that were noticed to have left.
static READERS: AtomicU64 = AtomicU64::new(0);
static LEFT: AtomicU64 = AtomicU64::new(0);
/// Events that were handed to the client's socket.
static SENT: AtomicU64 = AtomicU64::new(0);
/// Bytes of the last `/bytes` that were handed to the reply slot.
static WRITTEN: AtomicU64 = AtomicU64::new(0);

fn sum(request: &Request) -> Result<Response<'_>, Failure> {
    let mut body = request.reader();
    let mut buffer = [0; STEP];
    let (mut count, mut hash) = (0, 0xcbf2_9ce4_8422_2325_u64);
    loop {
        let len = body.read(&mut buffer)?;
        if len == 0 {
            return Ok(Response::text(format!("{count} {hash:016x}\n")));
        }
        count += len as u64;
        for &byte in &buffer[..len] {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

/// The eight bytes of the sequence that begin at `8 * n`: any two differ, so that none can be lost or change
/// places.
fn word(n: u64) -> [u8; 8] {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()
}

fn bytes(request: &Request) -> Result<Response<'_>, Failure> {
    let count: u64 = request.param_as("count")?;
    let response = Response::stream(move |out| write_sequence(out, count));
    if request.query("length") == Some("unknown") {
        Ok(response)
    } else {
        Ok(response.with_length(count))
    }
}

fn write_sequence(out: &mut BodyWriter<'_>, count: u64) -> io::Result<()> {
    while out.written() < count {
        let at = out.written();
        let left = usize::try_from(count - at).unwrap_or(usize::MAX);
        let space = out.space()?;
        let len = space.len().min(left);
        let (first, rest) = space[..len].split_at_mut(len.min((8 - at % 8) as usize));
        first.copy_from_slice(&word(at / 8)[(at % 8) as usize..][..first.len()]);
        for (n, into) in rest.chunks_mut(8).enumerate() {
            into.copy_from_slice(&word(at / 8 + 1 + n as u64)[..into.len()]);
        }
        out.advance(len);
        WRITTEN.store(out.written(), Ordering::Relaxed);
    }
    Ok(())
}

/// Waits for each event and sends it at once, for as long as the reader is there and the server does not end.
/// A browser connects anew then.
fn events(_: &Request) -> Response<'_> {
    let response = Response::stream(|out| {
        READERS.fetch_add(1, Ordering::Relaxed);
        let ended = send_events(out);
        READERS.fetch_sub(1, Ordering::Relaxed);
        LEFT.fetch_add(1, Ordering::Relaxed);
        ended
    });
    response
        .header("Content-Type", "text/event-stream")
        .header("Cache-Control", "no-store")
}

fn send_events(out: &mut BodyWriter<'_>) -> io::Result<()> {
    let mut seen = published();
    send_event(out, seen)?;
    let mut quiet = 0;
    while !out.is_closed() {
        if is_draining() {
            return Ok(());
        }
        let now = wait_for_news(seen);
        if now != seen {
            (seen, quiet) = (now, 0);
            send_event(out, seen)?;
            continue;
        }
        quiet += 1;
        if quiet % LOOKS_PER_COMMENT == 0 {
            out.write_all(b":\n\n")?;
            out.flush()?;
        }
    }
    Err(io::ErrorKind::BrokenPipe.into())
}

fn send_event(out: &mut BodyWriter<'_>, number: u64) -> io::Result<()> {
    write!(out, "data: {number}\n\n")?;
    out.flush()?;
    SENT.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// How many events have been published, once there are more than that, or after a while.
fn wait_for_news(seen: u64) -> u64 {
    let guard = PUBLISHED.lock().unwrap_or_else(PoisonError::into_inner);
    let news = NEWS.wait_timeout_while(guard, LOOK, |now| *now == seen);
    *news.unwrap_or_else(PoisonError::into_inner).0
}

fn published() -> u64 {
    *PUBLISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn publish(_: &Request) -> String {
    let published = {
        let mut guard = PUBLISHED.lock().unwrap_or_else(PoisonError::into_inner);
        *guard += 1;
        *guard
    };
    NEWS.notify_all();
    format!("{published}\n")
}

fn figures(_: &Request) -> String {
    let [readers, left, sent, written] =
        [&READERS, &LEFT, &SENT, &WRITTEN].map(|figure| figure.load(Ordering::Relaxed));
    format!("readers={readers} left={left} sent={sent} written={written}\n")
}

fn main() -> ExitCode {
    let router = Router::new()
        .post("/sum", streaming(sum))
        .get("/bytes/{count}", bytes)
        .get("/events", events)
        .post("/events", publish)
        .get("/figures", figures);
    transom::serve(router)
}
