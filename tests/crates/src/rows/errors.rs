//! Errors that take a backtrace where they are made.

use crate::listing::{Rows, matches, number, text};
use anyhow::Context;
use transom::{Failure, Request, Status};

pub fn add(rows: &mut Rows) {
    rows.get(
        "/anyhow",
        "anyhow: a chain of errors, `RUST_BACKTRACE=1`",
        chain,
    )
    .environment("RUST_BACKTRACE", "1")
    .status(404)
    .answers(|| text("no user \"{n}!\": invalid digit found in string"));
    rows.get(
        "/anyhow/backtrace",
        "anyhow: `{:?}`, `RUST_BACKTRACE=1`, `--bucket-size 64MiB --keep 48MiB`",
        backtrace,
    )
    .environment("RUST_BACKTRACE", "1")
    .status(404)
    .flags("--bucket-size 64MiB --keep 48MiB") // for the symbols of the whole program
    .answers(|| matches(r"(?s)^no user.*Caused by:.*Stack backtrace:.*errors::find"));
}

fn find(name: &str) -> anyhow::Result<u64> {
    name.parse().with_context(|| format!("no user {name:?}"))
}

fn chain(request: &Request) -> Result<(Status, String), Failure> {
    Ok(match find(&format!("{}!", number(request)?)) {
        Ok(id) => (Status::OK, format!("user {id}")),
        Err(error) => (Status::NOT_FOUND, format!("{error:#}")),
    })
}

fn backtrace(request: &Request) -> Result<(Status, String), Failure> {
    Ok(match find(&format!("{}!", number(request)?)) {
        Ok(id) => (Status::OK, format!("user {id}")),
        Err(error) => (Status::NOT_FOUND, format!("{error:?}")),
    })
}
