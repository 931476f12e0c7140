//! Text: a regular expression in a static, JSON, CSV.

use crate::listing::{Rows, text};
use regex::Regex;
use rows::Body;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::LazyLock;
use transom::{Failure, Request, Response};

static WORD: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\w+").expect("it is well-formed"));

pub fn add(rows: &mut Rows) {
    rows.post(
        "/regex",
        r"regex: a static `LazyLock<Regex>`, `\w+`",
        sentence,
        words,
    )
    .answers(|| text("7 words, the longest is request"));
    rows.post("/serde_json/value", "serde_json: a `Value`", order, value)
        .answers(|| text(r#"{"customer":{"id":{n},"name":"Ada"},"items":[{"count":2,"price":3},{"count":1,"price":5}],"paid":true}"#));
    rows.post(
        "/serde_json/large",
        "serde_json: a `Value` of 87 KB, about 20 times as large in memory",
        catalogue,
        items,
    )
    .answers(|| text("1400 items for request {n}"));
    rows.post(
        "/serde_json/struct",
        "serde_json: derived structs",
        order,
        structure,
    )
    .answers(|| text(r#"{"id":{n},"total":11}"#));
    rows.post(
        "/form",
        "form_urlencoded: a form",
        || Body::Text("name=Ada+{n}&note=%C3%A9".to_owned()),
        greet,
    )
    .answers(|| text("hello Ada {n}\n"));
    rows.post(
        "/csv",
        "csv: read and write",
        || {
            let lines = (0..100).map(|line| format!("town{line},{{n}},{}\n", line * 10));
            Body::Text(format!(
                "name,request,people\n{}",
                lines.collect::<String>()
            ))
        },
        sums,
    )
    .answers(|| text("request,people\n{n},49500\n"));
}

fn sentence() -> Body {
    Body::Text("request {n} has seven words, nicht wahr".to_owned())
}

fn words(request: &Request) -> Result<String, Failure> {
    let words: Vec<&str> = WORD
        .find_iter(request.body_str()?)
        .map(|word| word.as_str())
        .collect();
    let longest = words.iter().rev().max_by_key(|word| word.len());
    let longest = longest.copied().unwrap_or_default();
    Ok(format!("{} words, the longest is {longest}", words.len()))
}

/// The recipe of docs/handlers.md, "Forms".
fn greet(request: &Request) -> Result<String, Failure> {
    let mut fields = form_urlencoded::parse(request.body());
    let name = fields
        .find(|(field, _)| field == "name")
        .map(|(_, value)| value);
    let name = name.ok_or_else(|| Failure::bad_request("the field name is missing"))?;
    Ok(format!("hello {name}\n"))
}

fn order() -> Body {
    let order = r#"{"customer": {"id": {n}, "name": "Ada"}, "items": [{"count": 2, "price": 3}, {"count": 1, "price": 5}]}"#;
    Body::Text(order.to_owned())
}

fn value(request: &Request) -> Result<String, Failure> {
    let mut order: serde_json::Value = serde_json::from_slice(request.body())?;
    order["paid"] = true.into();
    Ok(serde_json::to_string(&order)?)
}

fn catalogue() -> Body {
    let items =
        (0..1400).map(|id| format!(r#"{{"id": {id}, "name": "item {id}", "tags": ["a", "b"]}}"#));
    let items: Vec<String> = items.collect();
    Body::Text(format!(
        r#"{{"request": {{n}}, "items": [{}]}}"#,
        items.join(",\n")
    ))
}

/// The body is larger than a slot: it is collected into the bucket.
fn items(request: &Request) -> Result<String, Failure> {
    let catalogue: serde_json::Value = request.json()?;
    let count = catalogue["items"].as_array().map_or(0, Vec::len);
    Ok(format!(
        "{count} items for request {}",
        catalogue["request"]
    ))
}

#[derive(Deserialize)]
struct Order {
    customer: Customer,
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Customer {
    id: u64,
}

#[derive(Deserialize)]
struct Item {
    count: u64,
    price: u64,
}

#[derive(Serialize)]
struct Invoice {
    id: u64,
    total: u64,
}

fn structure(request: &Request) -> Result<Response<'_>, Failure> {
    let order: Order = request.json()?;
    let total = order.items.iter().map(|item| item.count * item.price).sum();
    let id = order.customer.id;
    Ok(Response::json(&Invoice { id, total }))
}

#[derive(Deserialize)]
struct Town {
    request: u64,
    people: u64,
}

fn sums(request: &Request) -> Result<Vec<u8>, Failure> {
    let mut reader = csv::Reader::from_reader(request.body());
    let mut sums: BTreeMap<u64, u64> = BTreeMap::new();
    for town in reader.deserialize() {
        let town: Town = town?;
        *sums.entry(town.request).or_default() += town.people;
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(["request", "people"])?;
    for (request, people) in sums {
        writer.serialize((request, people))?;
    }
    Ok(writer.into_inner()?)
}
