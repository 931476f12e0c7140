//! Handlers that are allowed and that nobody hopes for: the application for the edges of the front end.
//!
//! | request | does |
//! |---|---|
//! | `GET /bytes/STATUS/KIB` | answers KIB KiB with a status that may forbid a body |
//! | `GET /stream/STATUS` | the same piece by piece; the second piece looks like an answer |
//! | `GET /long/KIB` | streams KIB KiB whose length it has said |
//! | `POST /early` | sends the first piece of its answer before it reads any of the body, then counts that |
//! | `GET /stall` | sends a piece of its answer and never another, nor an end |
//! | `GET /lazy` | reads a static that is made where it is first read |
//! | `GET /fill/KIB` | allocates and overwrites |
//!
//! It lies here and not in `apps/` because it is nothing to learn from.

use std::hint::black_box;
use std::io::Write;
use std::process::ExitCode;
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;
use transom_platform::{Failure, Request, Response, Router, streaming};

/// What a client would take for another answer, if it were on the wire outside of a body.
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
        .get("/stall", stall)
        .get("/lazy", lazy)
        .get("/fill/{kib}", fill);
    transom::serve(router)
}
