//! The files of this repository, and what is in them.

use std::fs;
use std::path::{Path, PathBuf};

/// A file of Rust, parsed.
pub struct Source {
    /// Relative to the repository.
    pub path: String,
    pub text: String,
    pub file: syn::File,
}

pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this crate lies in the repository")
}

/// Every file below the repository whose name ends so, but for what is built and what is hidden.
pub fn files(ending: &str) -> Vec<String> {
    fn walk(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder of ours") {
            let path = entry.expect("a folder of ours").path();
            let name = path.file_name().expect("has a name").to_string_lossy();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    walk(&path, ending, found);
                }
            } else if name.ends_with(ending) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(repository(), ending, &mut found);
    let mut relative: Vec<String> = found
        .iter()
        .map(|path| {
            let path = path.strip_prefix(repository()).expect("below it");
            path.to_str().expect("our names are ASCII").to_owned()
        })
        .collect();
    relative.sort();
    relative
}

pub fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All files of Rust. What `syn` makes belongs to its thread, so each test reads them.
pub fn sources() -> Vec<Source> {
    let parse = |path: String| {
        let text = read(&path);
        let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
        Source { path, text, file }
    };
    files(".rs").into_iter().map(parse).collect()
}

impl Source {
    /// Whether all of it is for tests, fuzzing or measurements.
    pub fn is_for_tests(&self) -> bool {
        let name = self.path.rsplit('/').next().expect("not empty");
        self.path.starts_with("tests/")
            || self.path.starts_with("benches/")
            || self.path.contains("/tests/")
            || self.path.contains("/examples/")
            || self.path.contains("/fuzz/")
            || name == "tests.rs"
            || name.ends_with("_tests.rs")
            || name.ends_with("_rows.rs")
    }

    /// The folder of its crate.
    pub fn package(&self) -> &str {
        match self.path.split_once("/src/") {
            Some((package, _)) => package,
            None => self.path.split('/').next().expect("not empty"),
        }
    }
}

/// Whether it is compiled for tests alone.
pub fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let path = attribute.path();
        path.is_ident("test")
            || path.is_ident("cfg")
                && matches!(&attribute.meta, syn::Meta::List(list) if list.tokens.to_string() == "test")
    })
}
