//! Bounded state in statics that outlives its requests: moka, dashmap, parking_lot.

use crate::listing::{Rows, matches, number, text};
use dashmap::DashMap;
use moka::sync::Cache;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::LazyLock;
use transom::{Failure, Request};

/// Entries that any of them may have.
const ENTRIES: u64 = 100;

static CACHE: LazyLock<Cache<u64, String>> = LazyLock::new(|| Cache::new(ENTRIES));

static VISITS: LazyLock<DashMap<String, u64>> = LazyLock::new(DashMap::new);

static LATEST: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

pub fn add(rows: &mut Rows) {
    rows.get(
        "/moka",
        "moka: a cache of 100 entries, a new key each time",
        moka,
    )
    .answers(|| text("page {n}"));
    rows.get("/dashmap", "dashmap: counters under 100 names", dashmap)
        .answers(|| matches(r"^name \d{1,2}: \d+$"));
    rows.get(
        "/parking_lot",
        "parking_lot: a static `Mutex`, the latest 100 texts",
        parking_lot,
    )
    .answers(|| text("the last of at most 100 is text {n}"));
}

fn moka(request: &Request) -> Result<String, Failure> {
    let n = number(request)?;
    Ok(CACHE.get_with(n, || format!("page {n}")))
}

fn dashmap(request: &Request) -> Result<String, Failure> {
    let name = format!("name {}", number(request)? % ENTRIES);
    let mut visits = VISITS.entry(name.clone()).or_default();
    *visits += 1;
    Ok(format!("{name}: {}", *visits))
}

fn parking_lot(request: &Request) -> Result<String, Failure> {
    let n = number(request)?;
    let mut latest = LATEST.lock();
    latest.push_back(format!("text {n}"));
    if latest.len() as u64 > ENTRIES {
        latest.pop_front();
    }
    let last = latest.back().map_or("", String::as_str);
    Ok(format!("the last of at most {ENTRIES} is {last}"))
}
