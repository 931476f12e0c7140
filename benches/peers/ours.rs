//! The application that the harness measures: the answers of `servers/src/lib.rs`, on this platform.

use serde::Serialize;
use std::hint::black_box;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;
use transom_platform::{Failure, Request, Response, Router};

/// How long `/attack/{kib}` would hold what it has allocated.
const HOLD: Duration = Duration::from_millis(50);

const PAGE: usize = 4096;

#[derive(Serialize)]
struct Message {
    message: &'static str,
}

fn plaintext(_: &Request) -> Response<'_> {
    Response::text("hello, world\n")
}

fn json(_: &Request) -> Response<'_> {
    Response::json(&Message {
        message: "Hello, World!",
    })
}

fn echo(request: &Request) -> Response<'_> {
    Response::bytes("application/octet-stream", request.body())
}

/// Made where it is sent from: a body of any length needs no more of the bucket than a short one.
fn size(request: &Request) -> Result<Response<'_>, Failure> {
    let bytes: u64 = request.param_as("bytes")?;
    let response = Response::stream(move |out| {
        while out.written() < bytes {
            let left = usize::try_from(bytes - out.written()).unwrap_or(usize::MAX);
            let space = out.space()?;
            let len = space.len().min(left);
            space[..len].fill(b'x');
            out.advance(len);
        }
        Ok(())
    });
    Ok(response.with_length(bytes))
}

fn alloc(request: &Request) -> Result<Response<'_>, Failure> {
    let kib: usize = request.param_as("kib")?;
    let mut block = Vec::<u8>::with_capacity(kib * 1024);
    let room = block.spare_capacity_mut();
    for byte in room.iter_mut().step_by(PAGE) {
        byte.write(1);
    }
    let pages = black_box(room).len().div_ceil(PAGE);
    Ok(Response::text(format!("{kib} KiB, {pages} pages\n")))
}

fn attack(request: &Request) -> Result<Response<'_>, Failure> {
    let kib: usize = request.param_as("kib")?;
    let block = black_box(vec![7u8; kib * 1024]);
    thread::sleep(HOLD);
    Ok(Response::text(format!("held {} bytes\n", block.len())))
}

fn main() -> ExitCode {
    let router = Router::new()
        .get("/", plaintext)
        .get("/json", json)
        .post("/echo", echo)
        .get("/size/{bytes}", size)
        .get("/alloc/{kib}", alloc)
        .get("/attack/{kib}", attack);
    // SAFETY: the handlers hold no lock or scope, keep nothing beyond their request, and own nothing but
    // memory.
    unsafe { transom::serve_escaping(router) }
}
