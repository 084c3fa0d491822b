//! Every crate that the workspace builds with, and every script of others in the server's page, has a licence of
//! `deny.toml`'s list: the part of `cargo deny` that needs no network, for everyone who has it not installed.

use occlude_tests::licence::accepted;
use serde_json::Value;
use xtask::{paths, sh};

/// The licences of `deny.toml`'s list.
fn list() -> Vec<String> {
    let text = std::fs::read_to_string(paths::root().join("deny.toml")).unwrap();
    let deny: toml::Table = toml::from_str(&text).unwrap();
    deny["licenses"]["allow"].clone().try_into().unwrap()
}

#[test]
fn licences_of_all_dependencies_are_on_the_list() {
    let allowed = list();
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

#[test]
fn scripts_of_others_in_the_page_say_their_licences() {
    let (allowed, folder) = (list(), paths::root().join("server/src/page/vendor"));
    let text = std::fs::read_to_string(folder.join("LICENCES.txt")).unwrap();
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split(" | ").collect())
        .filter(|row: &Vec<&str>| row.len() == 4)
        .collect();
    let files = std::fs::read_dir(&folder).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap());
    let scripts: Vec<String> = files.filter(|name| name != "LICENCES.txt").collect();
    assert!(!scripts.is_empty(), "the folder is found");
    for script in &scripts {
        assert!(rows.iter().any(|row| row[0] == script), "{script} is not in LICENCES.txt");
    }
    for row in rows {
        assert!(accepted(row[2], &allowed), "{row:?} is not on the list of `deny.toml`");
        assert!(scripts.iter().any(|script| script == row[0]), "{row:?} is of no file");
    }
}
