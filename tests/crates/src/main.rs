//! A server with one route per crate or habit, each handler written as a user of that crate would write it.
//!
//! It is served with `transom::serve`: no handler makes a promise, and no handler knows of buckets.
//! `--rows` prints what the driver has to know of each route. `CRATES_ROW` is the path of the route under
//! test. Only that route's start-up work is done in `main`, because a process can have one logger.

mod listing;
mod rows;

use listing::Rows;
use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut rows = Rows::default();
    rows::add(&mut rows);
    if env::args().nth(1).as_deref() == Some("--rows") {
        return rows.print();
    }
    let chosen = env::var("CRATES_ROW").unwrap_or_default();
    transom::serve(rows.into_router(&chosen))
}
