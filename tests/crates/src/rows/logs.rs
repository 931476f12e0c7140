//! Logging: with the platform's own subscriber, and with what an application installs in `main`.

use crate::listing::{Rows, number, text};
use transom::{Failure, Request};

pub fn add(rows: &mut Rows) {
    rows.get(
        "/tracing",
        "tracing: a span and an event, the platform's log",
        traced,
    )
    .answers(|| text("traced {n}"))
    .prints_some("an event of request ");
    #[cfg(feature = "heavy")]
    rows.get(
        "/tracing/fmt",
        "tracing_subscriber: `fmt::init()` in `main`",
        traced,
    )
    .before(tracing_subscriber::fmt::init)
    .answers(|| text("traced {n}"))
    .prints("an event of request ");
    #[cfg(feature = "heavy")]
    rows.get(
        "/log/env_logger",
        "log: `env_logger::init()` in `main`",
        logged,
    )
    .before(env_logger::init)
    .environment("RUST_LOG", "info")
    .answers(|| text("logged {n}"))
    .prints("a line of request ");
}

fn traced(request: &Request) -> Result<String, Failure> {
    let n = number(request)?;
    let span = tracing::info_span!("handler", n, path = request.path());
    let _entered = span.enter();
    tracing::info!(answer = "soon", "an event of request {n}");
    Ok(format!("traced {n}"))
}

#[cfg(feature = "heavy")]
fn logged(request: &Request) -> Result<String, Failure> {
    let n = number(request)?;
    log::info!("a line of request {n}");
    Ok(format!("logged {n}"))
}
