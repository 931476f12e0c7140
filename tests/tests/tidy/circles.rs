//! No file needs, by whatever way, a file that needs it.

use crate::hold;
use crate::source::{Source, is_test, sources};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use syn::visit::{self, Visit};

/// Files that need each other, and why.
const CIRCLES: &[&[&str]] = &[&[
    "arena/src/allocator.rs",
    "arena/src/blocked.rs",
    "arena/src/bucket.rs",
    "arena/src/c_heap/family.rs",
    "arena/src/c_heap/mod.rs",
    "arena/src/fork.rs",
    "arena/src/geometry.rs",
    "arena/src/heap.rs",
    "arena/src/overdraft.rs",
    "arena/src/panic.rs",
    "arena/src/parking.rs",
    "arena/src/process_heap.rs",
    "arena/src/recovery.rs",
    "arena/src/server_thread.rs",
    "arena/src/shared.rs",
    "arena/src/shared/cell.rs",
    "arena/src/shared/held.rs",
    "arena/src/shared/large.rs",
    "arena/src/shared/lock.rs",
    "arena/src/shared/promise.rs",
    "arena/src/signal.rs",
    "arena/src/thread.rs",
]];

/// A module's path in its crate, without `crate`.
type Module = Vec<String>;

/// The files of one crate as a graph of modules.
#[derive(Default)]
struct Crate {
    files: BTreeMap<Module, String>,
    /// The names that a module re-exports, and the path where each is defined.
    handed_on: HashMap<Module, HashMap<String, Module>>,
    /// Paths that a module names.
    named: BTreeMap<Module, BTreeSet<Module>>,
}

fn module_of(path: &str) -> Option<Module> {
    let (_, inside) = path.split_once("/src/")?;
    let mut parts: Vec<String> = inside
        .strip_suffix(".rs")?
        .split('/')
        .map(str::to_owned)
        .collect();
    if matches!(
        parts.last().map(String::as_str),
        Some("mod" | "lib" | "main")
    ) {
        parts.pop();
    }
    Some(parts)
}

/// Collects the paths that a file names, as paths of its crate.
struct Paths<'c> {
    module: &'c Module,
    /// The modules that this one declares.
    children: BTreeSet<String>,
    found: BTreeSet<Module>,
    handed_on: HashMap<String, Module>,
}

impl Paths<'_> {
    /// A path as it is written, from the root of its crate; nothing if it leads elsewhere.
    fn absolute(&self, path: &[String]) -> Option<Module> {
        let mut at = self.module.clone();
        let (first, mut rest) = path.split_first()?;
        match first.as_str() {
            "crate" => at.clear(),
            "self" => {}
            "super" => {
                at.pop()?;
                while rest.first().is_some_and(|name| name == "super") {
                    at.pop()?;
                    rest = &rest[1..];
                }
            }
            child if self.children.contains(child) => at.push(child.to_owned()),
            _ => return None,
        }
        at.extend(rest.iter().cloned());
        Some(at)
    }

    fn flatten(&mut self, tree: &syn::UseTree, before: &[String], is_public: bool) {
        let with = |name: &syn::Ident| {
            let mut path = before.to_vec();
            path.push(name.to_string());
            path
        };
        let (path, name) = match tree {
            syn::UseTree::Path(path) => {
                return self.flatten(&path.tree, &with(&path.ident), is_public);
            }
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.flatten(tree, before, is_public);
                }
                return;
            }
            syn::UseTree::Name(name) if name.ident == "self" => (before.to_vec(), None),
            syn::UseTree::Name(name) => (with(&name.ident), Some(name.ident.to_string())),
            syn::UseTree::Rename(rename) => (with(&rename.ident), Some(rename.rename.to_string())),
            syn::UseTree::Glob(_) => (before.to_vec(), None),
        };
        let Some(path) = self.absolute(&path) else {
            return;
        };
        match name {
            // A re-export is needed by the modules that use it from here.
            Some(name) if is_public => {
                self.handed_on.insert(name, path);
            }
            _ => {
                self.found.insert(path);
            }
        }
    }
}

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test(&item.attrs) && item.content.is_some() {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_test(&item.attrs) {
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !is_test(&item.attrs) {
            let is_public = !matches!(item.vis, syn::Visibility::Inherited);
            self.flatten(&item.tree, &[], is_public);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        if names.len() > 1
            && let Some(path) = self.absolute(&names)
        {
            self.found.insert(path);
        }
        visit::visit_path(self, path);
    }
}

impl Crate {
    fn read(files: &[&Source]) -> Self {
        let mut read = Crate::default();
        for source in files {
            let Some(module) = module_of(&source.path) else {
                continue;
            };
            let children = source.file.items.iter().filter_map(|item| match item {
                syn::Item::Mod(item) if item.content.is_none() => Some(item.ident.to_string()),
                _ => None,
            });
            let mut paths = Paths {
                module: &module,
                children: children.collect(),
                found: BTreeSet::new(),
                handed_on: HashMap::new(),
            };
            paths.visit_file(&source.file);
            read.handed_on.insert(module.clone(), paths.handed_on);
            read.named.insert(module.clone(), paths.found);
            read.files.insert(module, source.path.clone());
        }
        read
    }

    /// The module that defines what a path names.
    fn definer(&self, path: &[String]) -> Option<&Module> {
        let mut path = path.to_vec();
        for _ in 0..16 {
            let len = (0..=path.len())
                .rev()
                .find(|len| self.files.contains_key(&path[..*len]))?;
            let module = self.files.get_key_value(&path[..len])?.0;
            let target = path
                .get(len)
                .and_then(|name| self.handed_on.get(module)?.get(name));
            match target {
                Some(target) => {
                    let rest = path.split_off(len + 1);
                    path.clone_from(target);
                    path.extend(rest);
                }
                None => return Some(module),
            }
        }
        None
    }

    fn needs(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        self.named
            .iter()
            .map(|(module, paths)| {
                let file = self.files[module].as_str();
                let needed = paths
                    .iter()
                    .filter_map(|path| Some(self.files[self.definer(path)?].as_str()))
                    .filter(|needed| *needed != file);
                (file, needed.collect())
            })
            .collect()
    }
}

/// Files that need each other, each group once.
fn circles<'a>(needs: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> Vec<Vec<&'a str>> {
    let reached: BTreeMap<&str, BTreeSet<&str>> = needs
        .keys()
        .map(|start| {
            let mut seen = BTreeSet::new();
            let mut ahead = vec![*start];
            while let Some(file) = ahead.pop() {
                for next in needs.get(file).into_iter().flatten() {
                    if seen.insert(*next) {
                        ahead.push(next);
                    }
                }
            }
            (*start, seen)
        })
        .collect();
    let mut groups: Vec<Vec<&str>> = Vec::new();
    for (file, ahead) in &reached {
        if ahead.contains(file) && !groups.iter().any(|group| group.contains(file)) {
            let is_in_it =
                |other: &&&str| ahead.contains(**other) && reached[**other].contains(file);
            groups.push(reached.keys().filter(is_in_it).copied().collect());
        }
    }
    groups
}

#[test]
fn no_files_need_each_other() {
    let sources = sources();
    let mut crates: BTreeMap<&str, Vec<&Source>> = BTreeMap::new();
    for source in sources.iter().filter(|source| !source.is_for_tests()) {
        crates.entry(source.package()).or_default().push(source);
    }
    let named: Vec<String> = CIRCLES.iter().map(|files| files.join(" ")).collect();
    let excepted: Vec<_> = named
        .iter()
        .map(|files| (files.as_str(), "not yet"))
        .collect();
    let mut broken = Vec::new();
    for files in crates.values() {
        let read = Crate::read(files);
        for circle in circles(&read.needs()) {
            broken.push(circle.join(" "));
        }
    }
    hold(
        "files do not need each other in a circle",
        broken,
        &excepted,
    );
}

#[test]
fn a_circle_is_found_and_a_line_is_not() {
    let needs = |pairs: &[(&'static str, &'static str)]| {
        let mut needs: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (a, b) in pairs {
            needs.entry(b).or_default();
            needs.entry(a).or_default().insert(b);
        }
        circles(&needs)
    };
    assert!(needs(&[("a", "b"), ("b", "c"), ("a", "c")]).is_empty());
    assert_eq!(
        needs(&[("a", "b"), ("b", "c"), ("c", "b"), ("d", "a")]),
        [["b", "c"]]
    );
}
