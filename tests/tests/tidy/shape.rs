//! Sizes, names and marks of single files.

use crate::hold;
use crate::source::{Source, is_test, sources};
use std::collections::BTreeMap;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// Lines of a function, from its signature to its closing brace.
const FUNCTION_LINES: usize = 70;
/// Fields of a struct.
const STRUCT_FIELDS: usize = 15;
/// Lines of a file, without the tests in it.
const FILE_LINES: usize = 600;
/// Columns of a comment.
const COMMENT_COLUMNS: usize = 110;

/// What the rules look at in one file.
#[derive(Default)]
struct Shape {
    functions: Vec<(String, usize)>,
    structs: Vec<(String, usize)>,
    types: Vec<String>,
    lines_of_tests: usize,
}

fn lines(item: &impl Spanned) -> usize {
    let span = item.span();
    span.end().line - span.start().line + 1
}

/// Lines from `fn` on: not its documentation.
fn function(signature: &syn::Signature, body: &syn::Block) -> (String, usize) {
    let lines = body.span().end().line - signature.span().start().line + 1;
    (signature.ident.to_string(), lines)
}

/// Flags for clap and rows that are serialised have as many fields as there are flags and columns.
fn is_row(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else {
            return false;
        };
        let tokens = list.tokens.to_string();
        match attribute.path() {
            path if path.is_ident("derive") => ["Args", "Parser", "Serialize", "Deserialize"]
                .iter()
                .any(|name| tokens.contains(name)),
            _ => false,
        }
    })
}

impl<'ast> Visit<'ast> for Shape {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if is_test(&item.attrs) {
            self.lines_of_tests += lines(item);
        } else {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_test(&item.attrs) {
            self.functions.push(function(&item.sig, &item.block));
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_test(&item.attrs) {
            self.functions.push(function(&item.sig, &item.block));
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.types.push(item.ident.to_string());
        if !is_row(&item.attrs) {
            self.structs
                .push((item.ident.to_string(), item.fields.len()));
        }
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.types.push(item.ident.to_string());
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.types.push(item.ident.to_string());
        visit::visit_item_trait(self, item);
    }

    // What a function declares inside is its own.
    fn visit_block(&mut self, _: &'ast syn::Block) {}
}

fn shape(source: &Source) -> Shape {
    let mut shape = Shape::default();
    shape.visit_file(&source.file);
    shape
}

fn ours() -> Vec<Source> {
    let mut sources = sources();
    sources.retain(|source| !source.is_for_tests());
    sources
}

#[test]
fn functions_fit_a_screen() {
    let sources = ours();
    let broken = sources.iter().flat_map(|source| {
        let long = |(name, lines): (String, usize)| {
            (lines > FUNCTION_LINES).then(|| format!("{}: {name}", source.path))
        };
        shape(source).functions.into_iter().filter_map(long)
    });
    hold("a function has at most 70 lines", broken, &[]);
}

#[test]
fn structs_are_about_one_thing() {
    let sources = ours();
    let broken = sources.iter().flat_map(|source| {
        let wide = |(name, fields): (String, usize)| {
            (fields > STRUCT_FIELDS).then(|| format!("{}: {name}", source.path))
        };
        shape(source).structs.into_iter().filter_map(wide)
    });
    hold(
        "a struct has at most 15 fields",
        broken,
        &[
            ("arena/src/bucket.rs: Bucket", "not yet"),
            ("arena/src/heap.rs: Heap", "not yet"),
        ],
    );
}

#[test]
fn files_are_about_one_thing() {
    let sources = ours();
    let broken = sources.iter().filter_map(|source| {
        let lines = source.text.lines().count() - shape(source).lines_of_tests;
        (lines > FILE_LINES).then(|| source.path.clone())
    });
    hold(
        "a file has at most 600 lines",
        broken,
        &[
            ("arena/src/bucket.rs", "not yet"),
            ("arena/src/heap.rs", "not yet"),
            ("arena/src/recovery.rs", "not yet"),
        ],
    );
}

#[test]
fn comments_fit_beside_the_code() {
    let sources = sources();
    let broken = sources.iter().flat_map(|source| {
        let long = |(number, line): (usize, &str)| {
            // A row of a table cannot be broken.
            let comment = line.trim_start().starts_with("//");
            (comment && line.chars().count() > COMMENT_COLUMNS && !line.contains(" | "))
                .then(|| format!("{}:{}", source.path, number + 1))
        };
        source.text.lines().enumerate().filter_map(long)
    });
    hold("a comment has at most 110 columns", broken, &[]);
}

#[test]
fn nothing_is_left_to_do() {
    // In two pieces, or this line would be found.
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("to", "do!("),
        concat!("unimplemen", "ted!("),
    ];
    let sources = sources();
    let broken = sources.iter().flat_map(|source| {
        let marked = move |(number, line): (usize, &str)| {
            marks
                .iter()
                .any(|mark| line.contains(mark))
                .then(|| format!("{}:{}", source.path, number + 1))
        };
        source.text.lines().enumerate().filter_map(marked)
    });
    hold("what is left to do is in the roadmap", broken, &[]);
}

#[test]
fn a_type_name_has_one_meaning_in_its_crate() {
    let mut places: BTreeMap<(&str, String), Vec<&str>> = BTreeMap::new();
    let sources = ours();
    for source in &sources {
        for name in shape(source).types {
            let at = places.entry((source.package(), name)).or_default();
            at.push(&source.path);
        }
    }
    let broken = places
        .into_iter()
        .filter(|(_, at)| at.len() > 1)
        .map(|((package, name), _)| format!("{package}: {name}"));
    hold("a type's name is there once in a crate", broken, &[]);
}

/// A lint of unsafe blocks works only where it is on.
#[test]
fn every_crate_has_the_lints_of_the_workspace() {
    let workspace = crate::source::read("Cargo.toml");
    assert!(workspace.contains("undocumented_unsafe_blocks = \"deny\""));
    let broken = crate::source::files("Cargo.toml")
        .into_iter()
        .filter(|path| {
            let text = crate::source::read(path);
            text.contains("[package]")
                && !text.contains("[lints]\nworkspace = true")
                && !text.contains("undocumented_unsafe_blocks")
        });
    hold("a crate has the workspace's lints", broken, &[]);
}
