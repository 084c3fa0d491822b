//! ARCHITECTURE.md says which crate may depend on which; this holds it against the manifests.

use occlude_tests::map::{rows, violations};
use xtask::{paths, sh};

#[test]
fn the_crate_map_holds() {
    let document = std::fs::read_to_string(paths::root().join("ARCHITECTURE.md")).unwrap();
    let metadata = sh::capture(sh::cargo().args(["metadata", "--format-version", "1"])).unwrap();
    let found = violations(&rows(&document), &serde_json::from_str(&metadata).unwrap());
    assert!(found.is_empty(), "against the crate map of ARCHITECTURE.md:\n{}", found.join("\n"));
}
