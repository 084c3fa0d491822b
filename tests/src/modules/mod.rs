//! Modules of a crate that refer to each other in a circle.
//!
//! A module is a file here, and refers to another by what it imports and by paths that begin with `crate`, `super` or
//! `self`; where these lead to a name that a module in between only imports, they lead on to where it comes from. Code
//! under `#[cfg(test)]` does not count, nor does what a folder's own file says of the files below it: it declares them
//! and gives out their names.

mod references;
#[cfg(test)]
mod tests;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use references::{Reference, declared, references};
use tokens::{live, tokens};

/// Modules that refer to each other in a circle: each with those of them that it refers to.
#[derive(Debug, PartialEq, Eq)]
pub struct Cycle(pub BTreeMap<PathBuf, BTreeSet<PathBuf>>);

impl fmt::Display for Cycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |files: &BTreeSet<PathBuf>| {
            files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
        };
        for (file, others) in &self.0 {
            writeln!(f, "    {} refers to {}", file.display(), names(others))?;
        }
        Ok(())
    }
}

/// The cycles among the modules of the crate whose `lib.rs` or `main.rs` this is. `read` gives the text of a file,
/// or nothing where there is no such file.
pub fn cycles(root: &Path, read: &dyn Fn(&Path) -> Option<String>) -> Vec<Cycle> {
    let modules = Modules::of(root, read);
    let reached: BTreeMap<&Name, BTreeSet<&Name>> =
        modules.edges.keys().map(|name| (name, modules.reached(name))).collect();
    let mut found: BTreeMap<&Name, Cycle> = BTreeMap::new();
    for (name, far) in reached.iter().filter(|(name, far)| far.contains(*name)) {
        let circle: BTreeSet<&Name> =
            far.iter().copied().filter(|other| reached[other].contains(name)).collect();
        let others = modules.edges[*name].iter().filter(|other| circle.contains(other));
        let others = others.map(|other| modules.files[other].clone()).collect();
        let Some(first) = circle.first() else { continue };
        found
            .entry(first)
            .or_insert_with(|| Cycle(BTreeMap::new()))
            .0
            .insert(modules.files[*name].clone(), others);
    }
    found.into_values().collect()
}

/// Where the crates of a workspace begin, by `cargo metadata --no-deps`: the files of libraries and programs.
pub fn roots(metadata: &Value) -> Vec<PathBuf> {
    let list =
        |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let packages = list(metadata, "packages");
    let targets = packages.iter().flat_map(|package| list(package, "targets"));
    let counts = |target: &Value| {
        let kinds = list(target, "kind");
        !kinds.iter().any(|kind| ["test", "bench", "example", "custom-build"].iter().any(|k| kind == k))
    };
    let path = |target: Value| target.get("src_path").and_then(Value::as_str).map(PathBuf::from);
    targets.filter(counts).filter_map(path).collect()
}

/// The path of a module in its crate, or of something in one; empty for the crate's root.
type Name = Vec<String>;

/// Imports of imports that are followed; more are a circle.
const MOST_IMPORTS: usize = 16;

#[derive(Default)]
struct Modules {
    files: BTreeMap<Name, PathBuf>,
    /// From the name that something has in a module that imports it to where it was imported from.
    imports: BTreeMap<Name, Name>,
    /// Who refers to whom.
    edges: BTreeMap<Name, BTreeSet<Name>>,
}

impl Modules {
    fn of(root: &Path, read: &dyn Fn(&Path) -> Option<String>) -> Self {
        let mut modules = Self::default();
        let said = modules.read(root, read);
        for (module, references) in &said {
            for reference in references {
                if let Some(name) = &reference.name {
                    let key = [module.as_slice(), std::slice::from_ref(name)].concat();
                    modules.imports.insert(key, absolute(module, reference));
                }
            }
        }
        for (module, references) in said {
            let targets = references.iter().map(|reference| modules.target(absolute(&module, reference)));
            let counted = targets.filter(|target| !target.starts_with(&module)).collect();
            modules.edges.insert(module, counted);
        }
        modules
    }

    /// Finds the files of all modules; gives what each of them says.
    fn read(
        &mut self,
        root: &Path,
        read: &dyn Fn(&Path) -> Option<String>,
    ) -> BTreeMap<Name, Vec<Reference>> {
        let mut said = BTreeMap::new();
        let folder = root.parent().unwrap_or(Path::new("")).to_owned();
        let mut open = vec![(Name::new(), root.to_owned(), folder)];
        while let Some((name, file, folder)) = open.pop() {
            let Some(source) = read(&file) else { continue };
            let tokens = live(&tokens(&source));
            for child in declared(&tokens) {
                let below = folder.join(&child);
                let files = [below.with_extension("rs"), below.join("mod.rs")];
                let file = files.into_iter().find(|file| read(file).is_some());
                open.extend(file.map(|file| ([name.as_slice(), &[child]].concat(), file, below)));
            }
            said.insert(name.clone(), references(&tokens));
            self.files.insert(name, file);
        }
        said
    }

    /// The module in whose file a path ends.
    fn target(&self, mut path: Name) -> Name {
        for _ in 0..MOST_IMPORTS {
            let module = self.module(&path);
            let Some(from) = path.get(..=module).and_then(|key| self.imports.get(key)) else { break };
            path = [from.as_slice(), &path[module + 1..]].concat();
        }
        path.truncate(self.module(&path));
        path
    }

    /// How many segments of a path name a module.
    fn module(&self, path: &[String]) -> usize {
        (0..=path.len()).rev().find(|&length| self.files.contains_key(&path[..length])).unwrap_or(0)
    }

    /// All modules that one refers to, directly or by others.
    fn reached(&self, from: &Name) -> BTreeSet<&Name> {
        let mut seen = BTreeSet::new();
        let mut open: Vec<&Name> = self.edges[from].iter().collect();
        while let Some(name) = open.pop() {
            if seen.insert(name) {
                open.extend(&self.edges[name]);
            }
        }
        seen
    }
}

/// A path in the crate, from its root.
fn absolute(module: &[String], reference: &Reference) -> Name {
    let mut path = [module, &reference.within].concat();
    for segment in &reference.path {
        match segment.as_str() {
            "crate" => path.clear(),
            "super" => drop(path.pop()),
            "self" => {}
            name => path.push(name.to_owned()),
        }
    }
    path
}
