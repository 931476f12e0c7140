//! Ordinary handlers whose requests leave holes in their buckets: collections that grow side by side, and
//! values that come and go beside others.

use serde::Deserialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::process::ExitCode;
use transom::{Failure, Request, Router};

/// Rows into columns.
fn columns(_: &Request) -> String {
    let (mut numbers, mut doubles) = (Vec::new(), Vec::new());
    let (mut floats, mut halves) = (Vec::new(), Vec::new());
    for n in 0..9000_u32 {
        numbers.push(u64::from(n));
        doubles.push(u64::from(n) * 2);
        floats.push(f64::from(n));
        halves.push(n);
    }
    let lengths = [numbers.len(), doubles.len(), floats.len(), halves.len()];
    format!("{lengths:?}\n")
}

fn groups(_: &Request) -> String {
    let mut groups: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for n in 0..60_000_u64 {
        let group = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 57;
        groups.entry(group).or_default().push(n);
    }
    format!("{}\n", groups.len())
}

fn words(_: &Request) -> String {
    let mut places: HashMap<String, Vec<u32>> = HashMap::new();
    for n in 0..8000 {
        let word = format!("word{}", (n * 7919) % 3001);
        places.entry(word).or_default().push(n);
    }
    let mut sorted: Vec<_> = places.iter().collect();
    sorted.sort();
    let lines = sorted
        .iter()
        .map(|(word, at)| format!("{word} {}\n", at.len()));
    lines.collect()
}

fn json(_: &Request) -> Result<String, Failure> {
    let entry = |n| format!("{{\"id\":{n},\"name\":\"name {n}\",\"tags\":[\"a\",\"b{n}\"]}}");
    let entries: Vec<_> = (0..600).map(entry).collect();
    let text = format!("[{}]", entries.join(","));
    drop(entries);
    let value: serde_json::Value = serde_json::from_str(&text)?;
    drop(text);
    Ok(value.to_string())
}

/// Numbers in lists in lists, which serde buffers.
#[derive(Deserialize)]
#[serde(untagged)]
enum Tree {
    Leaf(u64),
    Many(Vec<Tree>),
}

impl Tree {
    fn sum(&self) -> u64 {
        match self {
            Tree::Leaf(number) => *number,
            Tree::Many(list) => list.iter().map(Tree::sum).sum(),
        }
    }
}

fn tree(request: &Request) -> Result<String, Failure> {
    let tree: Tree = request.json()?;
    Ok(format!("{}\n", tree.sum()))
}

fn two(_: &Request) -> String {
    let (mut one, mut other) = (String::new(), String::new());
    for n in 0..20_000 {
        one.push_str("line ");
        other.push_str(&n.to_string());
    }
    format!("{}\n", one.len() + other.len())
}

/// Lists of strings that come and go beside a table of which every second entry was taken out.
fn lists(request: &Request) -> Result<String, Failure> {
    let number = |name: &str| request.param(name).unwrap_or("").parse::<usize>();
    let (holes, rounds) = (number("holes")?, number("rounds")?);
    let mut table: Vec<_> = (0..2 * holes).map(|_| Some(Box::new([0_u8; 48]))).collect();
    table.iter_mut().step_by(2).for_each(|entry| *entry = None);
    let mut lengths = 0;
    for round in 0..rounds {
        let each = 520 + round % 40 * 16;
        let list: Vec<_> = (0..500).map(|_| String::with_capacity(each)).collect();
        lengths += list.len();
    }
    Ok(format!("{lengths} {}\n", request.memory().high_water))
}

/// Needs little, and leaves 300 KiB in its bucket for all later requests.
fn keeps(_: &Request) -> String {
    thread_local! {
        static TABLE: Vec<u8> = vec![1; 300 << 10];
    }
    format!("{}\n", TABLE.with(Vec::len))
}

fn body(request: &Request) -> Result<String, Failure> {
    Ok(format!("{}\n", request.body().len()))
}

/// Asks for what it can do without.
fn reserve(request: &Request) -> Result<String, Failure> {
    let mut list: Vec<u8> = Vec::new();
    request.try_reserve(&mut list, 300_000)?;
    Ok(format!("{}\n", list.capacity()))
}

/// A key that allocates where its table moves.
#[derive(PartialEq, Eq)]
struct Formats(u64, bool);

impl Hash for Formats {
    fn hash<H: Hasher>(&self, state: &mut H) {
        format!("key number {:>60}", self.0).hash(state);
        if self.1 {
            // Blocks like those of tables, some of them larger.
            let tags: HashSet<u64> = (0..self.0 % 64).collect();
            vec![u128::from(self.0); tags.len() * 40].hash(state);
        }
    }
}

/// Leaves so many bytes free in one piece, and then asks for a larger table.
fn reserve_table(request: &Request) -> Result<String, Failure> {
    let has_tags = request.query("tags").is_some();
    let key = |n| Formats(n, has_tags);
    let mut map: HashMap<_, _> = (0..400).map(|n| (key(n), n)).collect();
    let mut set: HashSet<_> = (0..400).map(key).collect();
    let piece: Vec<u8> = Vec::with_capacity(request.param("left").unwrap_or("").parse()?);
    let (mut rest, mut bytes) = (Vec::with_capacity(5000), 64 << 10);
    while bytes >= 16 {
        let mut block: Vec<u8> = Vec::new();
        match request.try_reserve(&mut block, bytes) {
            Ok(()) => rest.push(block),
            Err(_) => bytes /= 2,
        }
    }
    drop(piece);
    match request.param("of") {
        Some("map") => request.try_reserve(&mut map, 500)?,
        _ => request.try_reserve(&mut set, 500)?,
    }
    Ok(format!("{} {}\n", map.capacity(), set.capacity()))
}

/// Needs more than a bucket, in one piece: as much is free, but in holes.
fn scattered(_: &Request) -> String {
    let mut list: Vec<_> = (0..12_000).map(|_| Some(Box::new([0_u8; 128]))).collect();
    list.iter_mut().step_by(2).for_each(|entry| *entry = None);
    format!("{}\n", vec![1_u8; 600_000].len())
}

fn main() -> ExitCode {
    let router = Router::new()
        .get("/columns", columns)
        .get("/groups", groups)
        .get("/words", words)
        .get("/json", json)
        .post("/tree", tree)
        .get("/two", two)
        .get("/keeps", keeps)
        .post("/body", body)
        .get("/reserve", reserve)
        .get("/reserve-table/{of}/{left}", reserve_table)
        .get("/lists/{holes}/{rounds}", lists)
        .get("/scattered", scattered);
    transom::serve(router)
}
