//! Runtimes that have threads of their own: tokio and rayon.

use crate::listing::{Rows, number, text};
use rayon::prelude::*;
use std::sync::LazyLock;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use transom::{Failure, Request};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).enable_all();
    builder.build().expect("threads can be started")
});

pub fn add(rows: &mut Rows) {
    rows.get(
        "/tokio/current_thread",
        "tokio: a current-thread runtime per request",
        current_thread,
    )
    .answers(|| text("slept, {n}"));
    rows.get(
        "/tokio/static",
        "tokio: a static runtime, `block_on` and `spawn`",
        with_static,
    )
    .answers(|| text("slept, {n}"));
    rows.get(
        "/rayon/par_iter",
        "rayon: `par_iter().sum()` over 10,000",
        par_iter,
    )
    .answers(|| text("{n} and 49995000"));
    rows.get("/rayon/scope", "rayon: `scope`", scope)
        .answers(|| text("left {n}, right {n}"));
}

async fn sleep(n: u64) -> String {
    tokio::time::sleep(Duration::from_micros(100)).await;
    format!("slept, {n}")
}

fn current_thread(request: &Request) -> Result<String, Failure> {
    let n = number(request)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(sleep(n)))
}

fn with_static(request: &Request) -> Result<String, Failure> {
    let n = number(request)?;
    Ok(RUNTIME.block_on(async move { tokio::spawn(sleep(n)).await })?)
}

fn par_iter(request: &Request) -> Result<String, Failure> {
    let n = number(request)?;
    let numbers: Vec<u64> = (0..10_000).collect();
    let sum: u64 = numbers.par_iter().sum();
    Ok(format!("{n} and {sum}"))
}

fn scope(request: &Request) -> Result<String, Failure> {
    let n = number(request)?;
    let (mut left, mut right) = (String::new(), String::new());
    rayon::scope(|scope| {
        scope.spawn(|_| left = format!("left {n}"));
        scope.spawn(|_| right = format!("right {n}"));
    });
    Ok(format!("{left}, {right}"))
}
