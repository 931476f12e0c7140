//! The time of day, in UTC and where the server is.

use crate::listing::{Rows, matches};
use chrono::{Local, Utc};
use transom::Request;

/// Central European Time with its rules, as POSIX writes it: it needs no file of time zones.
const ZONE: &str = "CET-1CEST,M3.5.0,M10.5.0/3";

pub fn add(rows: &mut Rows) {
    rows.get("/chrono/utc", "chrono: `Utc::now`", utc)
        .answers(|| matches(r"^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+\+00:00$"));
    rows.get("/chrono/local", "chrono: `Local::now`", local)
        .environment("TZ", ZONE)
        .answers(|| matches(r"^20\d\d-\d\d-\d\d \d\d:\d\d:\d\d \+0[12]:00$"));
    #[cfg(feature = "heavy")]
    rows.get("/time/local", "time: `OffsetDateTime::now_local`", offset)
        .environment("TZ", ZONE)
        .answers(|| matches(r"^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+\+0[12]:00$"));
}

fn utc(_: &Request) -> String {
    Utc::now().to_rfc3339()
}

fn local(_: &Request) -> String {
    Local::now().format("%Y-%m-%d %H:%M:%S %:z").to_string()
}

#[cfg(feature = "heavy")]
fn offset(_: &Request) -> Result<String, transom::Failure> {
    use time::OffsetDateTime;
    use time::format_description::well_known::Rfc3339;
    Ok(OffsetDateTime::now_local()?.format(&Rfc3339)?)
}
