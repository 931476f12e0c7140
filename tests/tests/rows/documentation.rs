//! `docs/http.md` says which test holds which row. Here it is held to that.

use crate::matrix;
use std::path::Path;

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this crate lies in the workspace")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The text of every Rust file below a folder.
fn sources(folder: &Path, text: &mut String) {
    let entries =
        std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let path = entry.expect("a folder can be listed").path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|end| end == "rs") {
            // Without indentation: unit tests lie in modules.
            for line in read(&path).lines() {
                *text += line.trim_start();
                text.push('\n');
            }
        }
    }
}

/// The lines of the table under a heading, cut in cells.
fn table(heading: &str) -> Vec<Vec<String>> {
    let page = read(&workspace().join("docs/http.md"));
    let (_, section) = page
        .split_once(heading)
        .unwrap_or_else(|| panic!("docs/http.md has no {heading:?}"));
    let section = section.split("\n## ").next().unwrap_or_default();
    section
        .lines()
        .filter(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| {
            let cells = line.trim_matches('|').split(" | ");
            cells.map(|cell| cell.trim().to_owned()).collect()
        })
        .collect()
}

/// What stands between backquotes.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn every_test_that_the_documentation_names_exists_and_every_row_has_one() {
    let mut text = String::new();
    for folder in ["tests/tests", "server"] {
        sources(&workspace().join(folder), &mut text);
    }
    let rows = table("## The rows");
    let numbers: Vec<String> = rows.iter().map(|row| row[0].clone()).collect();
    let expected: Vec<String> = (1..=33).map(|row: u32| row.to_string()).collect();
    assert_eq!(numbers, expected, "each row once, in order");
    for row in &rows {
        let number: u32 = row[0].parse().expect("a number");
        let names: Vec<&str> = quoted(row.last().expect("a cell")).collect();
        let own = format!("row_{number:02}_");
        assert!(
            names.iter().any(|name| name.starts_with(&own)),
            "row {number} names no test of its own"
        );
        for name in names {
            let declaration = format!("#[test]\nfn {name}(");
            assert!(
                text.contains(&declaration),
                "row {number} names {name}, which is no test"
            );
        }
    }
    // And the other way round: no test of a row is left out.
    let page = read(&workspace().join("docs/http.md"));
    for declaration in text.split("#[test]\nfn ").skip(1) {
        let name = declaration.split('(').next().unwrap_or_default();
        let is_black_box = name.starts_with("row_") && name.as_bytes().get(6) == Some(&b'_');
        assert!(
            !is_black_box || page.contains(&format!("`{name}`")),
            "docs/http.md does not name {name}"
        );
    }
}

#[test]
fn the_documentation_says_of_every_case_what_its_test_expects() {
    let documented: Vec<(String, String)> = table("## The cases that other servers disagree on")
        .into_iter()
        .map(|row| (row[0].trim_matches('`').to_owned(), row[1].clone()))
        .collect();
    let tested: Vec<(String, String)> = matrix::cases()
        .iter()
        .map(|case| (case.name().to_owned(), case.answer()))
        .collect();
    assert_eq!(documented, tested);
}
