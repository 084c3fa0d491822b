//! Every crate that the workspace builds with has a licence of `deny.toml`'s list: the part of `cargo deny` that
//! needs no network, for everyone who has it not installed.

use occlude_tests::licence::accepted;
use serde_json::Value;
use xtask::{paths, sh};

#[test]
fn licences_of_all_dependencies_are_on_the_list() {
    let text = std::fs::read_to_string(paths::root().join("deny.toml")).unwrap();
    let deny: toml::Table = toml::from_str(&text).unwrap();
    let allowed: Vec<String> = deny["licenses"]["allow"].clone().try_into().unwrap();
    let metadata = sh::capture(sh::cargo().args(["metadata", "--format-version", "1"])).unwrap();
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 20, "only {} packages", packages.len());
    let refused: Vec<String> = packages
        .iter()
        .filter(|package| !accepted(package["license"].as_str().unwrap_or_default(), &allowed))
        .map(|package| format!("{} {}: {}", package["name"], package["version"], package["license"]))
        .collect();
    assert!(refused.is_empty(), "not on the list of `deny.toml`:\n{}", refused.join("\n"));
}
