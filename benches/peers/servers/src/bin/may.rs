//! may_minihttp on one worker: `peer-may ADDRESS:PORT`. It has no `Connection: close`.

use may_minihttp::{HttpServer, HttpService, Request, Response};
use std::io::{self, Read};

#[derive(Clone)]
struct Answers;

impl HttpService for Answers {
    fn call(&mut self, request: Request, response: &mut Response) -> io::Result<()> {
        match request.path() {
            "/" => {
                response.header("Content-Type: text/plain; charset=utf-8");
                response.body(answers::PLAINTEXT);
            }
            "/json" => {
                response.header("Content-Type: application/json");
                response.body_vec(answers::json());
            }
            "/echo" => {
                response.header("Content-Type: application/octet-stream");
                response.body_vec(body(request)?);
            }
            "/csv" => match answers::svg(&body(request)?) {
                Some(svg) => {
                    response.header("Content-Type: image/svg+xml");
                    response.body_vec(svg.into());
                }
                None => {
                    response.status_code(400, "Bad Request");
                }
            },
            path => {
                if let Some(bytes) = answers::number(path, "/size/") {
                    response.body_vec(answers::size(bytes));
                } else if let Some(kib) = answers::number(path, "/alloc/") {
                    response.body_vec(answers::alloc(kib).into());
                } else if let Some(kib) = answers::number(path, "/attack/") {
                    let block = answers::attack(kib);
                    may::coroutine::sleep(answers::HOLD);
                    response.body_vec(answers::held(&block).into());
                } else {
                    response.status_code(404, "Not Found");
                }
            }
        }
        Ok(())
    }
}

/// All of a body. Its reader does not end by itself when the connection does, only after as many bytes as
/// were announced.
fn body(request: Request) -> io::Result<Vec<u8>> {
    let announced = request
        .headers()
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .and_then(|header| str::from_utf8(header.value).ok()?.parse().ok())
        .filter(|&bytes| bytes <= answers::BODY_MAX)
        .ok_or_else(|| io::Error::other("no Content-Length, or too large a body"))?;
    let mut body = vec![0; announced];
    request.body().read_exact(&mut body)?;
    Ok(body)
}

fn main() -> io::Result<()> {
    let (address, _) = answers::arguments("peer-may ADDRESS:PORT");
    may::config().set_workers(1);
    let server = HttpServer(Answers).start(address)?;
    server
        .join()
        .map_err(|_| io::Error::other("the listener's coroutine panicked"))
}
