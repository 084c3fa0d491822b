//! ARCHITECTURE.md says which crate may depend on which; this holds it against the manifests. Within a crate no modules
//! may refer to each other in a circle.

use occlude_tests::map::{rows, violations};
use occlude_tests::modules::{cycles, roots};
use serde_json::Value;
use std::path::Path;
use xtask::{paths, sh};

fn metadata(flags: &[&str]) -> Value {
    let mut cargo = sh::cargo();
    cargo.args(["metadata", "--format-version", "1"]).args(flags);
    serde_json::from_str(&sh::capture(&mut cargo).unwrap()).unwrap()
}

#[test]
fn the_crate_map_holds() {
    let document = std::fs::read_to_string(paths::root().join("ARCHITECTURE.md")).unwrap();
    let found = violations(&rows(&document), &metadata(&[]));
    assert!(found.is_empty(), "against the crate map of ARCHITECTURE.md:\n{}", found.join("\n"));
}

#[test]
fn no_modules_refer_to_each_other_in_a_circle() {
    let read = |path: &Path| std::fs::read_to_string(paths::root().join(path)).ok();
    let roots = roots(&metadata(&["--no-deps"]));
    assert!(roots.iter().any(|root| root.ends_with("server/src/lib.rs")), "the crates are found: {roots:?}");
    let found = roots.iter().flat_map(|root| cycles(root.strip_prefix(paths::root()).unwrap_or(root), &read));
    let told: Vec<String> = found.map(|cycle| format!("in a circle:\n{cycle}")).collect();
    assert!(
        told.is_empty(),
        "modules refer to each other; hint: move what several need into a file below them\n{}",
        told.join("\n")
    );
}
