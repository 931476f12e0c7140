//! Which crate may use which, and how large one may be.

use crate::hold;
use crate::source::{read, sources};
use std::collections::BTreeMap;

/// Every room, from the ground up, and what it may use of ours.
const ROOMS: &[(&str, &[&str])] = &[
    ("arena", &[]),
    ("doors", &[]),
    ("doors/illumos", &["doors"]),
    ("platform/wire", &[]),
    ("platform", &["arena", "doors", "platform/wire"]),
    ("server/http", &["platform/wire"]),
    ("server/log", &["doors", "platform/wire"]),
    ("server/net", &[]),
    (
        "server/front",
        &[
            "arena",
            "doors",
            "platform/wire",
            "server/http",
            "server/log",
            "server/net",
        ],
    ),
    (
        "server",
        &[
            "arena",
            "doors",
            "platform/wire",
            "platform",
            "server/http",
            "server/front",
            "server/log",
            "server/net",
        ],
    ),
    ("server/tools/plot", &[]),
    (
        "server/tools",
        &["arena", "server", "server/http", "server/tools/plot"],
    ),
];

/// Outside crates that belong to some rooms only: a handler's author and a door know no command line, the
/// arena no documents.
const OUTSIDE: &[(&str, &[&str])] = &[
    ("clap", &["server", "server/tools"]),
    ("crossbeam-queue", &["server/log"]),
    ("httparse", &["server/http"]),
    ("matchit", &["platform"]),
    ("ratatui", &["server/tools"]),
    ("serde_json", &["platform", "server", "server/tools"]),
    ("sjlj2", &["arena"]),
    ("talc", &["arena"]),
    ("toml", &["server"]),
];

/// What a crate's manifest names under `[dependencies]`.
fn dependencies(room: &str) -> Vec<String> {
    let manifest = read(&format!("{room}/Cargo.toml"));
    let lines = manifest
        .lines()
        .skip_while(|line| *line != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['));
    lines
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

/// The name of the crate in a room.
fn package(room: &str) -> String {
    let manifest = read(&format!("{room}/Cargo.toml"));
    let (_, rest) = manifest.split_once("name = \"").expect("it has a name");
    rest.split('"').next().expect("it ends").to_owned()
}

#[test]
fn rooms_use_what_is_below_them() {
    let names: BTreeMap<String, &str> = ROOMS
        .iter()
        .map(|(room, _)| (package(room), *room))
        .collect();
    let mut broken = Vec::new();
    for (room, may_use) in ROOMS {
        for dependency in dependencies(room) {
            let is_allowed = match names.get(&dependency) {
                Some(other) => may_use.contains(other),
                None => OUTSIDE
                    .iter()
                    .find(|(name, _)| *name == dependency)
                    .is_none_or(|(_, rooms)| rooms.contains(room)),
            };
            if !is_allowed {
                broken.push(format!("{room} uses {dependency}"));
            }
        }
    }
    hold("a room uses what is below it", broken, &[]);
}

#[test]
fn every_crate_that_is_not_a_test_or_an_example_is_a_room() {
    let broken = crate::source::files("Cargo.toml")
        .into_iter()
        .filter(|path| {
            let room = path.strip_suffix("/Cargo.toml").unwrap_or(".");
            let is_apart = ["apps/", "benches", "tests"]
                .iter()
                .any(|at| room.starts_with(at));
            room != "." && !is_apart && !ROOMS.iter().any(|(known, _)| *known == room)
        });
    hold("every crate is a room with its place", broken, &[]);
}

/// The examples show what an author needs: the facade and ordinary crates.
#[test]
fn every_package_has_the_text_of_its_licences() {
    let broken = crate::source::files("Cargo.toml")
        .into_iter()
        .filter_map(|path| {
            let manifest = read(&path);
            let (folder, _) = path.rsplit_once('/')?;
            manifest.contains("\ninclude = [").then_some(())?;
            let is_there = ["LICENSE-MIT", "LICENSE-APACHE"]
                .map(|name| read(&format!("{folder}/{name}")) == read(name));
            let is_whole = manifest.contains("\"LICENSE-*\"") && is_there == [true; 2];
            (!is_whole).then(|| format!("{path}: its package has no text of both licences"))
        });
    hold("every package has the text of its licences", broken, &[]);
}

#[test]
fn an_application_has_one_dependency_of_ours() {
    let broken = crate::source::files("Cargo.toml")
        .into_iter()
        .filter(|path| {
            let is_app = path.starts_with("apps/");
            is_app && read(path).lines().any(|line| line.starts_with("transom-"))
        });
    hold("an application depends on transom alone", broken, &[]);
}

#[test]
fn no_room_holds_more_than_a_quarter() {
    let mut lines: BTreeMap<String, usize> = BTreeMap::new();
    for source in sources().iter().filter(|source| !source.is_for_tests()) {
        *lines.entry(source.package().to_owned()).or_default() += source.text.lines().count();
    }
    let all: usize = lines.values().sum();
    let broken = lines
        .into_iter()
        .filter(|(_, lines)| lines * 4 > all)
        .map(|(room, _)| room);
    hold("a room holds at most a quarter of the code", broken, &[]);
}
