//! `GET /N` allocates N KiB, touches every page of them and says so: how the cost of a request grows with its
//! memory.

use std::hint::black_box;
use std::process::ExitCode;
use transom::{Failure, Request, Response, Router};

const PAGE: usize = 4096;

fn allocate(request: &Request) -> Result<Response<'_>, Failure> {
    let kib: u32 = request.param_as("kib")?;
    let mut block = Vec::<u8>::with_capacity(kib as usize * 1024);
    let room = block.spare_capacity_mut();
    for byte in room.iter_mut().step_by(PAGE) {
        byte.write(1);
    }
    let touched = black_box(room).len().div_ceil(PAGE);
    Ok(Response::text(format!("{kib} KiB, {touched} pages\n")))
}

fn main() -> ExitCode {
    let router = Router::new().get("/{kib}", allocate);
    // SAFETY: the handler holds no lock or scope, keeps nothing beyond its request, and owns nothing but
    // memory.
    unsafe { transom::serve_escaping(router) }
}
