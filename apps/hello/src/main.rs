//! The smallest application: text, JSON, a parameter.

use serde::Serialize;
use std::process::ExitCode;
use transom::{Request, Response, Router};

#[derive(Serialize)]
struct Greeting<'r> {
    message: &'r str,
    to: &'r str,
}

/// Text that is the same for all clients.
fn hello(_: &Request) -> Response<'_> {
    Response::text("hello, world\n")
}

/// A parameter of the path; the text is made in the bucket.
fn hello_name(request: &Request) -> Response<'_> {
    let name = request.param("name").unwrap_or("world");
    Response::text(format!("hello, {name}\n"))
}

/// A parameter of the query, answered as JSON.
fn json(request: &Request) -> Response<'_> {
    Response::json(&Greeting {
        message: "hello",
        to: request.query("name").unwrap_or("world"),
    })
}

fn main() -> ExitCode {
    let router = Router::new()
        .get("/", hello)
        .get("/hello/{name}", hello_name)
        .get("/json", json);
    transom::serve(router)
}
