//! The application that the tests of `docs/http.md` ask: it says what it was given, and breaks the rules for
//! answers when asked.
//!
//! | request | does |
//! |---|---|
//! | `GET /` | answers `hello` |
//! | `POST`, `PUT`, `PATCH`, `DELETE /` | answers the body |
//! | `POST /stream` | the same while it comes |
//! | `GET /see`, `GET /see/…` | answers the target, the decoded path, the query, the host and all fields, a line each |
//! | `GET /field?name=N&value=V` | answers with that field |
//! | `GET /status/S` | answers with that status and no body |
//! | `GET /chunks` | streams `one`, `two` |
//! | `GET /short`, `GET /over` | streams one byte less, and one more, than announced |
//! | `GET /short-at-once` | the same as `/short`, before any byte is sent |
//! | `GET /fill/KIB` | allocates and fills |
//! | `GET /fill-late/KIB` | streams `begun`, then allocates |
//! | `GET /sleep/MS` | waits |
//! | `GET /big/KIB` | streams KIB KiB |

use std::fmt::Write as _;
use std::hint::black_box;
use std::io::{Read, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;
use transom::{Failure, Request, Response, Router, streaming};

fn hello(_: &Request) -> Response<'_> {
    Response::text("hello\n")
}

fn echo(request: &Request) -> Response<'_> {
    Response::bytes("application/octet-stream", request.body())
}

fn echo_stream(request: &Request) -> Response<'_> {
    Response::stream(|out| {
        let mut body = request.body_reader();
        loop {
            let space = out.space()?;
            let len = body.read(space)?;
            if len == 0 {
                return Ok(());
            }
            out.advance(len);
            out.flush()?;
        }
    })
}

fn see(request: &Request) -> Result<Response<'_>, Failure> {
    let mut text = String::new();
    writeln!(text, "target={}", request.raw_target())?;
    writeln!(text, "path={}", request.path())?;
    writeln!(text, "query={}", request.query_string().unwrap_or("-"))?;
    writeln!(text, "host={}", request.host().unwrap_or("-"))?;
    for (name, value) in request.headers() {
        writeln!(text, "field {name}={}", value.escape_ascii())?;
    }
    Ok(Response::text(text))
}

fn field(request: &Request) -> Response<'_> {
    let name = request.query("name").unwrap_or_default();
    let value = request.query("value").unwrap_or_default();
    Response::text("with a field\n").header(name, value)
}

fn status(request: &Request) -> Result<Response<'_>, Failure> {
    let status: u16 = request.param_as("status")?;
    Ok(Response::text("").with_status(status))
}

fn chunks(_: &Request) -> Response<'_> {
    Response::stream(|out| {
        out.write_all(b"one")?;
        out.flush()?;
        out.write_all(b"two")
    })
}

fn short(_: &Request) -> Response<'_> {
    Response::stream(|out| {
        out.write_all(b"four")?;
        out.flush()
    })
    .with_length(5)
}

fn short_at_once(_: &Request) -> Response<'_> {
    Response::stream(|out| out.write_all(b"four")).with_length(5)
}

fn over(_: &Request) -> Response<'_> {
    Response::stream(|out| out.write_all(b"sixsix")).with_length(5)
}

fn kib(request: &Request) -> Result<usize, Failure> {
    Ok(request.param_as::<usize>("kib")?.min(1 << 20) << 10)
}

fn fill(request: &Request) -> Result<Response<'_>, Failure> {
    let block = black_box(vec![7_u8; kib(request)?]);
    Ok(Response::text(format!("{} bytes\n", block.len())))
}

fn fill_late(request: &Request) -> Result<Response<'_>, Failure> {
    let len = kib(request)?;
    Ok(Response::stream(move |out| {
        out.write_all(b"begun")?;
        out.flush()?;
        let block = black_box(vec![7_u8; len]);
        writeln!(out, "{} bytes", block.len())
    }))
}

fn sleep(request: &Request) -> Result<Response<'_>, Failure> {
    thread::sleep(Duration::from_millis(request.param_as("ms")?));
    Ok(Response::text("slept\n"))
}

fn big(request: &Request) -> Result<Response<'_>, Failure> {
    let len = kib(request)?;
    Ok(Response::stream(move |out| {
        for _ in 0..len >> 10 {
            out.write_all(&[b'x'; 1 << 10])?;
        }
        Ok(())
    }))
}

fn main() -> ExitCode {
    let router = Router::new()
        .get("/", hello)
        .post("/", echo)
        .put("/", echo)
        .patch("/", echo)
        .delete("/", echo)
        .post("/stream", streaming(echo_stream))
        .get("/see", see)
        .get("/see/{*rest}", see)
        .get("/field", field)
        .get("/status/{status}", status)
        .get("/chunks", chunks)
        .get("/short", short)
        .get("/short-at-once", short_at_once)
        .get("/over", over)
        .get("/fill/{kib}", fill)
        .get("/fill-late/{kib}", fill_late)
        .get("/sleep/{ms}", sleep)
        .get("/big/{kib}", big);
    // SAFETY: the handlers hold no lock or scope, keep nothing beyond their request, and own nothing but
    // memory.
    unsafe { transom::serve_escaping(router) }
}
