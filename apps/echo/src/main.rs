//! `POST /` answers what it was sent; `POST /stream` does so while it is still being sent, whatever its size.

use std::io::{Read, Write};
use std::process::ExitCode;
use transom::{Request, Response, Router, streaming};

fn content_type(request: &Request) -> String {
    let sent = request.header("content-type");
    sent.unwrap_or("application/octet-stream").to_owned()
}

/// The body is there, in the slot or (a larger one) in the bucket.
fn echo(request: &Request) -> Response<'_> {
    Response::bytes(content_type(request), request.body())
}

/// The body comes and goes piece by piece, at constant memory.
fn echo_stream(request: &Request) -> Response<'_> {
    let response = Response::stream(|out| {
        out.flush()?; // some clients send nothing before they have the answer's head
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
    });
    response.header("Content-Type", content_type(request))
}

fn main() -> ExitCode {
    let router = Router::new()
        .post("/", echo)
        .post("/stream", streaming(echo_stream));
    transom::serve(router)
}
