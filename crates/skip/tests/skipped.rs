//! A skipped test is heard past the harness and leaves its line.

use std::process::Command;

const CHILD: &str = "OCCLUDE_TEST_SKIPS";

/// The process that skips; in any other one there is nothing to do.
#[test]
fn child() {
    if std::env::var_os(CHILD).is_some() {
        occlude_skip::test("moon", "wait\tfor\nnight");
    }
}

#[test]
fn a_skip_is_heard_and_written_down() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("skipped");
    let run = |threads: &str| {
        let mut test = Command::new(std::env::current_exe().unwrap());
        test.args(["child", "--exact", "--test-threads", threads]).env(CHILD, "1");
        let output =
            test.env(occlude_skip::VARIABLE, &file).env("CARGO_PKG_NAME", "some-crate").output().unwrap();
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains("no moon"), "kept by the harness");
    };
    run("2");
    run("1");
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(lines[0], ["moon", "some-crate child", "wait for night"]);
    assert_eq!((lines[1][0], lines.len()), ("moon", 2));
}

#[test]
fn a_skip_that_cannot_be_written_down_fails() {
    let mut test = Command::new(std::env::current_exe().unwrap());
    test.args(["child", "--exact"]).env(CHILD, "1").env(occlude_skip::VARIABLE, "/no/such/folder/file");
    assert!(!test.output().unwrap().status.success());
}
