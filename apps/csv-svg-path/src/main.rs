//! `POST /` with lines of `x, y`: answers an SVG path through the points.

use std::fmt::Write;
use std::process::ExitCode;
use transom::{Failure, Request, Response, Router};

fn point(line: &str) -> Option<(f64, f64)> {
    let (x, y) = line.split_once(',')?;
    let number = |text: &str| text.trim().parse().ok().filter(|n: &f64| n.is_finite());
    Some((number(x)?, number(y)?))
}

fn path(request: &Request) -> Result<Response<'_>, Failure> {
    let mut path = String::new();
    for (number, line) in request.body_str()?.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let Some((x, y)) = point(line) else {
            let number = number + 1;
            return Err(Failure::bad_request(format!(
                "line {number} is not `x, y` with two finite numbers"
            )));
        };
        let command = if path.is_empty() { 'M' } else { 'L' };
        write!(path, "{command}{x} {y}")?;
    }
    if path.is_empty() {
        return Err(Failure::bad_request(
            "there are no points: send lines of `x, y`",
        ));
    }
    let svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\"><path fill=\"none\" stroke=\"black\" d=\"{path}\"/></svg>\n"
    );
    Ok(Response::bytes("image/svg+xml", svg))
}

fn main() -> ExitCode {
    let router = Router::new().post("/", path);
    // SAFETY: the handler holds no lock or scope, keeps nothing beyond its request, and owns nothing but
    // memory.
    unsafe { transom::serve_escaping(router) }
}
