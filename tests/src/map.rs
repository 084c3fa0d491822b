//! The crate map of ARCHITECTURE.md, held against what cargo says.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// One row: where a crate lies and what it may depend on.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    /// Folder of the crate, as `crates/encoder`.
    pub folder: String,
    /// Folders' last parts and foreign crates that it may depend on; `None` means all.
    pub may: Option<BTreeSet<String>>,
    /// Foreign or own crates that nothing it depends on may need, however far down.
    pub never: BTreeSet<String>,
}

/// Reads the table whose header is `| crate | ... | may depend on |`. A cell reads `nothing`, `all`, or names
/// separated by commas, with `never a, b` after a semicolon.
pub fn rows(document: &str) -> Vec<Row> {
    let header =
        |line: &&str| line.starts_with("| crate |") && line.trim_end().ends_with("| may depend on |");
    let mut lines = document.lines().skip_while(|line| !header(line)).skip(2);
    let mut rows = Vec::new();
    for line in lines.by_ref().take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let (Some(first), Some(last)) = (cells.first(), cells.last()) else { continue };
        let (may, never) = last.split_once("; never ").unwrap_or((last, ""));
        rows.push(Row {
            folder: first.trim_matches('`').to_owned(),
            may: (may != "all").then(|| names(may)),
            never: names(never),
        });
    }
    rows
}

fn names(cell: &str) -> BTreeSet<String> {
    let names = cell.split(',').map(|name| name.trim().trim_matches('`'));
    names.filter(|name| !name.is_empty() && *name != "nothing").map(str::to_owned).collect()
}

/// Foreign crates that the map speaks about; every other one is nobody's concern.
const WATCHED: [&str; 4] = ["tch", "torch-sys", "ort", "tract-onnx"];

/// What `cargo metadata` breaks of the map, in words; empty when it holds.
pub fn violations(rows: &[Row], metadata: &Value) -> Vec<String> {
    let graph = Graph::of(metadata);
    let mut found = Vec::new();
    for (id, folder) in &graph.members {
        let Some(row) = rows.iter().find(|row| row.folder == *folder) else {
            found.push(format!("`{folder}` has no row in the crate map"));
            continue;
        };
        for dependency in graph.direct(id) {
            let name = graph.short(dependency);
            let spoken_of = graph.members.contains_key(dependency) || WATCHED.contains(&name.as_str());
            if spoken_of && row.may.as_ref().is_some_and(|may| !may.contains(&name)) {
                found.push(format!("`{folder}` depends on `{name}`"));
            }
        }
        let reached = graph.reached(id);
        found.extend(row.never.intersection(&reached).map(|name| format!("`{folder}` reaches `{name}`")));
    }
    for row in rows.iter().filter(|row| !graph.members.values().any(|folder| *folder == row.folder)) {
        found.push(format!("the crate map speaks of `{}`, which is no member", row.folder));
    }
    found
}

/// Packages of a workspace and what each needs to build and run. Dependencies of tests only are left out.
struct Graph<'a> {
    /// Identifier -> folder.
    members: BTreeMap<&'a str, String>,
    names: BTreeMap<&'a str, &'a str>,
    edges: BTreeMap<&'a str, Vec<&'a str>>,
}

impl<'a> Graph<'a> {
    fn of(metadata: &'a Value) -> Self {
        let list =
            |value: &'a Value, key: &str| value.get(key).and_then(Value::as_array).into_iter().flatten();
        let text = |value: &'a Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
        let root = format!("{}/", text(metadata, "workspace_root"));
        let members: BTreeSet<&str> = list(metadata, "workspace_members").filter_map(Value::as_str).collect();
        let mut graph = Self { members: BTreeMap::new(), names: BTreeMap::new(), edges: BTreeMap::new() };
        for package in list(metadata, "packages") {
            let id = text(package, "id");
            graph.names.insert(id, text(package, "name"));
            if members.contains(id) {
                let folder = text(package, "manifest_path").trim_end_matches("/Cargo.toml");
                graph.members.insert(id, folder.strip_prefix(&root).unwrap_or(folder).to_owned());
            }
        }
        let wanted = |dep: &Value| list_kinds(dep).iter().any(|kind| kind != "dev");
        for node in metadata.get("resolve").map(|resolve| list(resolve, "nodes")).into_iter().flatten() {
            let deps = list(node, "deps").filter(|dep| wanted(dep)).map(|dep| text(dep, "pkg")).collect();
            graph.edges.insert(text(node, "id"), deps);
        }
        graph
    }

    fn direct(&self, id: &str) -> &[&'a str] {
        self.edges.get(id).map_or(&[], Vec::as_slice)
    }

    /// The name that the map uses: the folder's last part for a member, the crate's name otherwise.
    fn short(&self, id: &str) -> String {
        match self.members.get(id) {
            Some(folder) => folder.rsplit('/').next().unwrap_or(folder).to_owned(),
            None => self.names.get(id).copied().unwrap_or(id).to_owned(),
        }
    }

    fn reached(&self, from: &str) -> BTreeSet<String> {
        let mut seen = BTreeSet::new();
        let mut open: Vec<&str> = self.direct(from).to_vec();
        while let Some(id) = open.pop() {
            if seen.insert(id) {
                open.extend(self.direct(id));
            }
        }
        seen.into_iter().map(|id| self.short(id)).collect()
    }
}

fn list_kinds(dep: &Value) -> Vec<String> {
    let kinds = dep.get("dep_kinds").and_then(Value::as_array).into_iter().flatten();
    kinds.map(|kind| kind.get("kind").and_then(Value::as_str).unwrap_or("normal").to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const DOCUMENT: &str = "# X\n\n| crate | what | may depend on |\n|---|---|---|\n| `crates/a` | parts | nothing |\n\
                            | `b` | whole | a, ort; never tch |\n\nend\n";

    /// Two members; `b` has the given edges, `deep` is a foreign crate that needs tch.
    fn metadata(edges: &[(&str, Option<&str>)]) -> Value {
        let deps: Vec<_> =
            edges.iter().map(|(to, kind)| json!({"pkg": to, "dep_kinds": [{"kind": kind}]})).collect();
        let package = |id: &str, folder: &str| json!({"id": id, "name": id, "manifest_path": format!("/w/{folder}/Cargo.toml")});
        json!({
            "workspace_root": "/w", "workspace_members": ["a", "b"],
            "packages": [package("a", "crates/a"), package("b", "b"), package("deep", "x"), package("tch", "y"), package("ort", "z")],
            "resolve": {"nodes": [
                {"id": "a", "deps": []}, {"id": "b", "deps": deps},
                {"id": "deep", "deps": [{"pkg": "tch", "dep_kinds": [{"kind": null}]}]},
            ]},
        })
    }

    #[test]
    fn the_table_is_read() {
        let rows = rows(DOCUMENT);
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].may, Some(BTreeSet::new()));
        assert_eq!(rows[1].never, BTreeSet::from(["tch".to_owned()]));
    }

    #[test]
    fn allowed_edges_and_those_of_tests_pass() {
        let found =
            violations(&rows(DOCUMENT), &metadata(&[("a", None), ("ort", None), ("deep", Some("dev"))]));
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn an_edge_against_the_map_is_found() {
        let document = DOCUMENT.replace("| a, ort;", "| ort;");
        let found = violations(&rows(&document), &metadata(&[("a", None)]));
        assert_eq!(found, ["`b` depends on `a`"]);
    }

    #[test]
    fn a_forbidden_crate_is_found_however_deep() {
        let found = violations(&rows(DOCUMENT), &metadata(&[("deep", Some("build"))]));
        assert_eq!(found, ["`b` reaches `tch`"]);
    }

    #[test]
    fn a_watched_crate_that_the_row_leaves_out_is_found() {
        let found = violations(&rows(&DOCUMENT.replace(", ort", "")), &metadata(&[("ort", None)]));
        assert_eq!(found, ["`b` depends on `ort`"]);
    }

    #[test]
    fn rows_and_members_must_match() {
        let document = DOCUMENT.replace("`crates/a`", "`crates/gone`");
        let found = violations(&rows(&document), &metadata(&[]));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(violations(&[], &metadata(&[]))[0].contains("no row"));
    }
}
