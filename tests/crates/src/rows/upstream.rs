//! Calls to another server over HTTP: the driver runs one.

use crate::listing::{Rows, number, text, variable};
use std::sync::LazyLock;
use transom::{Failure, Request};
use ureq::Agent;

static AGENT: LazyLock<Agent> = LazyLock::new(Agent::new_with_defaults);

pub fn add(rows: &mut Rows) {
    rows.get("/ureq/agent", "ureq: a static `Agent`", with_static)
        .answers(|| text("upstream {n}"));
    rows.get(
        "/ureq/get",
        "ureq: `get`, an agent per request",
        without_static,
    )
    .answers(|| text("upstream {n}"));
}

fn url(n: u64) -> String {
    format!("{}/?n={n}", variable("UPSTREAM"))
}

fn with_static(request: &Request) -> Result<String, Failure> {
    let mut answer = AGENT.get(url(number(request)?)).call()?;
    Ok(answer.body_mut().read_to_string()?)
}

fn without_static(request: &Request) -> Result<String, Failure> {
    let mut answer = ureq::get(url(number(request)?)).call()?;
    Ok(answer.body_mut().read_to_string()?)
}
