//! What is refused, before anything is written.

use occlude_tests::run;
use std::ffi::OsStr;
use std::path::Path;

use super::{SCRIPT, SIDE, checkpoint, export, place};

#[test]
fn a_projection_needs_a_head() {
    let (bare, out) = (export("torch", "headless.pth", ""), place().join("never_projected.onnx"));
    let said = run::run("occlude-export", &[&"onnx", &bare, &out, &"--outputs", &"projection"]);
    assert_eq!(said.code, 1, "{}", said.stderr);
    assert!(said.stderr.contains("headless.pth") && said.stderr.contains("`fc.*`"), "{}", said.stderr);
    assert!(!out.exists());
}

#[test]
fn options_that_exclude_each_other_are_refused() {
    for (flags, word) in [
        (vec!["--precision", "fp16", "--no-fold"], "--no-fold"),
        (vec!["--precision", "int8", "--calibrate", "no-such-folder"], "no-such-folder"),
    ] {
        let (checkpoint, out) = (checkpoint(), place().join("never.onnx"));
        let mut arguments: Vec<&dyn AsRef<OsStr>> = vec![&"onnx", &checkpoint, &out];
        arguments.extend(flags.iter().map(|f| f as &dyn AsRef<OsStr>));
        let said = run::run("occlude-export", &arguments);
        assert_eq!(said.code, 1, "{}", said.stderr);
        assert!(said.stderr.contains(word), "{}", said.stderr);
        assert!(!out.exists());
    }
}

/// The checkpoint is worth more than what is made from it, by whatever name it goes.
#[test]
fn no_output_is_an_input() {
    let folder = run::scratch("export_onto_input");
    let at = |name: &str| folder.join(name);
    std::fs::copy(checkpoint(), at("s.pth")).expect("copied");
    let before = std::fs::read(at("s.pth")).expect("there");
    std::os::unix::fs::symlink(at("s.pth"), at("link.pth")).expect("linked");
    std::fs::hard_link(at("s.pth"), at("hard.pth")).expect("linked");
    // The weights of a model would be written beside it.
    std::fs::hard_link(at("s.pth"), at("beside.onnx.data")).expect("linked");
    for (command, out, flags) in [
        ("torch", "s.pth", vec![]),
        ("torch", "../occlude-export_onto_input/s.pth", vec![]),
        ("safetensors", "link.pth", vec![]),
        ("onnx", "hard.pth", vec![]),
        ("onnx", "beside.onnx", vec!["--external-data"]),
    ] {
        for force in [false, true] {
            let (input, out) = (at("s.pth"), at(out));
            let mut arguments: Vec<&dyn AsRef<OsStr>> = vec![&command, &input, &out];
            arguments.extend(flags.iter().map(|f| f as &dyn AsRef<OsStr>));
            if force {
                arguments.push(&"--force");
            }
            let said = run::run("occlude-export", &arguments);
            assert_eq!(said.code, 1, "{}", said.stderr);
            assert!(said.stderr.contains("the input would be lost"), "{}", said.stderr);
            assert_eq!(std::fs::read(at("s.pth")).expect("there"), before);
        }
    }
    assert!(!at("beside.onnx").exists());
}

#[test]
fn an_existing_output_needs_force() {
    let folder = run::scratch("export_existing");
    let input = checkpoint();
    for (command, name) in [("torch", "a.pth"), ("safetensors", "a.safetensors"), ("onnx", "a.onnx")] {
        let out = folder.join(name);
        std::fs::write(&out, "mine").expect("written");
        let said = run::run("occlude-export", &[&command, &input, &out]);
        assert_eq!(said.code, 1, "{}", said.stderr);
        assert!(said.stderr.contains("exists; hint: `--force` replaces it"), "{}", said.stderr);
        assert_eq!(std::fs::read(&out).expect("there"), b"mine");
        run::run("occlude-export", &[&command, &input, &out, &"--force"]).ok();
        assert!(out.metadata().expect("there").len() > 1 << 20);
    }
}

/// Values that no model can compute with are named, and nothing is written.
#[test]
fn values_are_checked_on_their_way() {
    let folder = run::scratch("export_values");
    run::python(SCRIPT, &[Path::new("values"), &folder]);
    for (name, command, flags, words) in [
        ("nan.pth", "onnx", vec![], vec!["`layer2.0.conv1.weight`", "holds NaN"]),
        ("nan.pth", "torch", vec![], vec!["`layer2.0.conv1.weight`", "holds NaN"]),
        ("infinite.pth", "safetensors", vec![], vec!["`bn1.bias`", "holds inf"]),
        ("negative.pth", "onnx", vec![], vec!["`layer1.1.bn2.running_var`", "holds -0.5", "variance"]),
        ("large.pth", "onnx", vec!["--precision", "fp16"], vec!["`layer3.0.conv1.weight`", "65504"]),
        ("loud.pth", "onnx", vec!["--precision", "fp16"], vec!["`layer1.0.", "65504"]),
        ("plain.pth", "onnx", vec!["--mean", "123.675,116.28,103.53"], vec!["`mean`", "0.485,0.456,0.406"]),
        ("plain.pth", "torch", vec!["--std", "58.395,57.12,57.375"], vec!["`std`", "0.229,0.224,0.225"]),
    ] {
        let (input, out) = (folder.join(name), folder.join("never"));
        let mut arguments: Vec<&dyn AsRef<OsStr>> = vec![&command, &input, &out, &"--image-size", &SIDE];
        arguments.extend(flags.iter().map(|f| f as &dyn AsRef<OsStr>));
        let said = run::run("occlude-export", &arguments);
        assert_eq!(said.code, 1, "{name}: {}", said.stderr);
        for word in words {
            assert!(said.stderr.contains(word), "{name}: no `{word}` in: {}", said.stderr);
        }
        assert!(!out.exists(), "{name}");
    }
    // In single precision the large ones are numbers, and the small ones are in halves, but badly.
    for name in ["large.pth", "loud.pth"] {
        let (input, out) = (folder.join(name), folder.join(name).with_extension("onnx"));
        run::run("occlude-export", &[&"onnx", &input, &out, &"--image-size", &SIDE]).ok();
    }
    let (input, out) = (folder.join("small.pth"), folder.join("small.onnx"));
    let said = run::run("occlude-export", &[&"onnx", &input, &out, &"--precision", &"fp16"]).ok();
    assert!(said.stderr.contains("warning: `layer4.1.conv2.weight` loses"), "{}", said.stderr);
    // And `inspect` shows what is wrong without refusing the file.
    let found = run::run("occlude-export", &[&"inspect", &folder.join("nan.pth"), &"--json"]).ok().json();
    let bad = found["encoder"]["bad_values"].to_string();
    assert!(bad.contains("layer2.0.conv1.weight"), "{found}");
}
