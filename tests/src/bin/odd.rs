//! Handlers that are allowed but unwelcome: the application for the edges of the front end.
//!
//! | request | does |
//! |---|---|
//! | `GET /bytes/STATUS/KIB` | answers KIB KiB with a status that may forbid a body |
//! | `GET /stream/STATUS` | the same piece by piece; the second piece looks like an answer |
//! | `GET /long/KIB` | streams KIB KiB whose length it has said |
//! | `POST /early` | sends the first piece of its answer before it reads any of the body, then counts that |
//! | `GET /stall` | sends a piece of its answer and never another, nor an end |
//! | `GET /attend` | waits until its client is gone, or until `POST /release`; with `?piece`, after a piece of its answer |
//! | `GET /attended` | says how many wait so, and how many clients were gone |
//! | `GET /lazy` | reads a static that is made where it is first read |
//! | `GET /fill/KIB` | allocates and overwrites |
//! | `GET /field/KIB` | answers with a field of that length |
//!
//! It lies here and not in `apps/` because it is nothing to learn from.

use std::hint::black_box;
use std::io::Write;
use std::process::ExitCode;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;
use transom::{Failure, Request, Response, Router, streaming};

/// Bytes that a client would take for another answer, if they were on the wire outside of a body.
const FORGED: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged";

/// Numbers, so that overwriting any of them shows.
static LAZY: LazyLock<Vec<u32>> = LazyLock::new(|| (0..2000).collect());

fn kib(request: &Request) -> Result<usize, Failure> {
    Ok(request.param_as::<usize>("kib")?.min(1 << 20) << 10)
}

fn bytes(request: &Request) -> Result<Response<'_>, Failure> {
    let status: u16 = request.param_as("status")?;
    Ok(Response::text("x".repeat(kib(request)?)).with_status(status))
}

fn stream(request: &Request) -> Result<Response<'_>, Failure> {
    let status: u16 = request.param_as("status")?;
    let response = Response::stream(|out| {
        out.write_all(b"one\n")?;
        out.flush()?;
        out.write_all(FORGED)?;
        out.flush()
    });
    Ok(response.with_status(status))
}

fn long(request: &Request) -> Result<Response<'_>, Failure> {
    let len = kib(request)?;
    let response = Response::stream(move |out| {
        for _ in 0..len >> 10 {
            out.write_all(&[b'x'; 1 << 10])?;
        }
        Ok(())
    });
    Ok(response.with_length(len as u64))
}

fn field(request: &Request) -> Result<Response<'_>, Failure> {
    let value = "x".repeat(kib(request)?);
    Ok(Response::text("").header("x-long", &value))
}

fn early(request: &Request) -> Response<'_> {
    Response::stream(|out| {
        out.write_all(b"begun\n")?;
        out.flush()?;
        let len = std::io::copy(&mut request.body_reader(), &mut std::io::sink())?;
        writeln!(out, "{len} bytes")
    })
}

fn stall(_: &Request) -> Response<'_> {
    Response::stream(|out| {
        out.write_all(b"begun\n")?;
        out.flush()?;
        loop {
            thread::sleep(Duration::from_secs(3600));
        }
    })
}

/// Handlers that attend to their clients, clients that were gone, and handlers that may go on.
static ATTENDING: AtomicU64 = AtomicU64::new(0);
static GONE: AtomicU64 = AtomicU64::new(0);
static RELEASED: AtomicU64 = AtomicU64::new(0);

/// Waits until the client is gone; false if it is to go on before.
fn wait_for_leave(is_gone: impl Fn() -> bool) -> bool {
    let released = RELEASED.load(Ordering::SeqCst);
    ATTENDING.fetch_add(1, Ordering::SeqCst);
    let gone = loop {
        if is_gone() {
            GONE.fetch_add(1, Ordering::SeqCst);
            break true;
        }
        if RELEASED.load(Ordering::SeqCst) != released {
            break false;
        }
        thread::sleep(Duration::from_millis(1));
    };
    ATTENDING.fetch_sub(1, Ordering::SeqCst);
    gone
}

fn attend(request: &Request) -> Response<'_> {
    if request.query("piece").is_none() {
        wait_for_leave(|| request.client_is_gone());
        return Response::text("released\n");
    }
    Response::stream(|out| {
        assert!(!request.client_is_gone() && !out.is_closed());
        out.write_all(b"begun\n")?;
        out.flush()?;
        if wait_for_leave(|| out.is_closed()) {
            // It stays so, and says the same as a write.
            assert!(request.client_is_gone() && out.write_all(b"more").is_ok());
            assert!(out.flush().is_err() && out.is_closed());
        }
        out.write_all(b"released\n")
    })
}

fn attended(_: &Request) -> String {
    let [attending, gone] = [&ATTENDING, &GONE].map(|count| count.load(Ordering::SeqCst));
    format!("attending={attending} gone={gone}\n")
}

fn release(_: &Request) -> &'static str {
    RELEASED.fetch_add(1, Ordering::SeqCst);
    "told\n"
}

fn lazy(_: &Request) -> Response<'_> {
    let mut text = String::new();
    for number in LAZY.iter() {
        text += &format!("{number}\n");
    }
    Response::text(text)
}

fn fill(request: &Request) -> Result<Response<'_>, Failure> {
    let block = black_box(vec![0xFFu8; kib(request)?]);
    Ok(Response::text(format!("{} bytes\n", block.len())))
}

fn main() -> ExitCode {
    let router = Router::new()
        .get("/bytes/{status}/{kib}", bytes)
        .get("/stream/{status}", stream)
        .get("/long/{kib}", long)
        .post("/early", streaming(early))
        .get("/field/{kib}", field)
        .get("/stall", stall)
        .get("/attend", attend)
        .get("/attended", attended)
        .post("/release", release)
        .get("/lazy", lazy)
        .get("/fill/{kib}", fill);
    transom::serve(router)
}
