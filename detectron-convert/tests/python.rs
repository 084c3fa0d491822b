//! The pickle beside the one that the usual Python script makes of the same checkpoint.

mod common;

use std::path::Path;
use std::process::Command;

use occlude_detectron::convert;

/// Runs a script of `fixtures/`; its stdout.
fn script(name: &str, arguments: &[&Path]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let output = Command::new(common::python()).arg(path).args(arguments).output().expect("Python starts");
    let (code, stdout, stderr) = common::said(&output);
    assert_eq!(code, 0, "{name}: {stderr}");
    stdout
}

#[test]
fn our_arrays_are_those_of_the_usual_conversion() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name);
    let (checkpoint, theirs, ours) = (file("moco.pth.tar"), file("theirs.pkl"), file("ours.pkl"));
    script("usual_conversion.py", &[&checkpoint, &theirs]);
    let done = convert(&common::options(&checkpoint, &ours)).expect("converted");
    assert_eq!(done.arrays, 318);
    assert_eq!(script("compare_pickles.py", &[&ours, &theirs]).trim(), "318");
}
