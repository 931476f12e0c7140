//! The links, paths and flags that documents name exist. And every flag is in a document.

use crate::hold;
use crate::source::{files, read, repository};
use std::collections::BTreeSet;
use std::process::Command;
use transom_tests::build::binary;

/// Folders whose paths the documents name.
const FOLDERS: [&str; 9] = [
    "apps/",
    "arena/",
    "benches/",
    "docs/",
    "doors/",
    "platform/",
    "server/",
    "tests/",
    ".ci/",
];

/// Flags of other programs that the documents name: cargo's, curl's, docker's and so on.
const OF_OTHERS: &[&str] = &[
    "--allow-to-run-as-root",
    "--bench",
    "--bin",
    "--cfg",
    "--exclude",
    "--fpm-config",
    "--init",
    "--kill-whom",
    "--light",
    "--limit",
    "--no-block",
    "--now",
    "--release",
    "--restart",
    "--retry",
    "--retry-all-errors",
    "--retry-connrefused",
    "--retry-delay",
    "--signal",
    "--system",
    "--unix-socket",
    "--user-group",
    "--workspace",
];

fn is_there(path: &str) -> bool {
    repository().join(path).exists()
}

/// Every `](target)` of a document that is not on the web, without its anchor.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter(|target| !target.contains("://") && !target.starts_with('#'))
        .map(|target| target.split('#').next().expect("not empty"))
}

/// What stands between backticks on one line.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2))
}

#[test]
fn every_link_leads_somewhere() {
    let mut broken = Vec::new();
    for document in files(".md") {
        let folder = document.rsplit_once('/').map_or("", |(folder, _)| folder);
        for target in links(&read(&document)) {
            if !is_there(&format!("{folder}/{target}"))
                && !is_there(&format!("./{folder}/{target}"))
            {
                broken.push(format!("{document}: {target}"));
            }
        }
    }
    hold("a link of a document leads somewhere", broken, &[]);
}

#[test]
fn every_path_in_a_document_is_there() {
    let mut broken = Vec::new();
    for document in files(".md").iter().filter(|path| *path != "CHANGELOG.md") {
        for word in quoted(&read(document)).flat_map(str::split_whitespace) {
            let path = word.trim_end_matches([',', '.', ':', ';']);
            let is_path = FOLDERS.iter().any(|folder| path.starts_with(folder));
            let is_pattern = path.contains(['*', '{', '<', '…', '=']);
            if is_path && !is_pattern && !is_there(path.split(':').next().expect("not empty")) {
                broken.push(format!("{document}: {path}"));
            }
        }
    }
    hold(
        "a path that a document names is there",
        broken,
        &[(
            "docs/testing.md: tests/black_box.rs",
            "an application's own",
        )],
    );
}

/// Long flags in a text.
fn flags(text: &str) -> BTreeSet<String> {
    let is_of_flag = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("--") {
        let is_alone = !text[..at].ends_with(|c: char| is_of_flag(c) || c.is_ascii_alphanumeric());
        let name: String = text[at + 2..]
            .chars()
            .take_while(|c| is_of_flag(*c))
            .collect();
        if is_alone && name.starts_with(|c: char| c.is_ascii_lowercase()) {
            found.insert(format!("--{}", name.trim_end_matches('-')));
        }
    }
    found
}

/// What a program says of its own flags.
fn help(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(binary(program))
        .args(arguments)
        .arg("--help")
        .output()
        .expect("it was built");
    assert!(output.status.success(), "{program} {arguments:?} --help");
    String::from_utf8(output.stdout).expect("text")
}

fn all_flags() -> BTreeSet<String> {
    let commands = ["serve", "check", "bound", "plan", "load", "top"];
    let of_commands = commands.map(|command| help("transom", &[command]));
    let of_apps = ["hello", "send-static-file", "oom", "stream", "dns"].map(|app| help(app, &[]));
    of_commands
        .iter()
        .chain(&of_apps)
        .flat_map(|help| flags(help))
        .collect()
}

fn of_documents() -> BTreeSet<String> {
    let documents = files(".md");
    let texts = documents.iter().map(|path| read(path));
    texts.flat_map(|text| flags(&text)).collect()
}

#[test]
fn every_flag_is_in_a_document() {
    let written = of_documents();
    let broken = all_flags()
        .into_iter()
        .filter(|flag| !written.contains(flag));
    hold("a flag is in a document", broken, &[]);
}

#[test]
fn every_flag_in_a_document_is_there() {
    let ours = all_flags();
    let broken = of_documents()
        .into_iter()
        .filter(|flag| !ours.contains(flag) && !OF_OTHERS.contains(&flag.as_str()));
    hold(
        "a flag that a document names is there",
        broken,
        &[(
            "--parked-limit",
            "an earlier name of --lost-limit, which still works",
        )],
    );
}
