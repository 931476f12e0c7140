//! `GET /` says where the request came from.

use std::process::ExitCode;
use transom::{Request, Response, Router};

fn peer(request: &Request) -> Response<'_> {
    match request.peer() {
        Some(peer) => Response::text(format!("{peer}\n")),
        None => Response::text("nowhere\n"),
    }
}

fn main() -> ExitCode {
    transom::serve(Router::new().get("/", peer))
}
