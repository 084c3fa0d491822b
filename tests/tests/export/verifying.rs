//! What `verify` finds, and what broken pictures cost.

use occlude_tests::{pictures, processor, run};
use std::ffi::OsStr;
use std::path::PathBuf;

use super::{SIDE, checkpoint, number, onnx, place};

/// Byte for byte the same file but for one number of the golden answer.
#[test]
fn verify_finds_a_wrong_golden_answer() {
    let (model, changed) = (onnx("right", ""), place().join("changed.onnx"));
    let mut bytes = std::fs::read(&model).expect("written");
    let key = b"golden_embedding";
    let at = bytes.windows(key.len()).position(|w| w == key).expect("has golden data") + key.len() + 32;
    bytes[at..at + 256].fill(b'Q');
    std::fs::write(&changed, bytes).expect("writes");
    let (checkpoint, pictures) = (checkpoint(), place().join("pictures"));
    let verify = |model: &PathBuf| {
        run::run("occlude-export", &[&"verify", model, &checkpoint, &pictures, &"--limit", &"1", &"--json"])
    };
    assert!(number(&verify(&model).ok().json()["golden"], "cosine") > 0.9999);
    let said = verify(&changed);
    assert_eq!(said.code, 3, "{}", said.stderr);
    assert!(said.stderr.contains("does not reproduce the outputs of its golden picture"), "{}", said.stderr);
}

#[test]
fn verify_holds_lower_precision_against_single() {
    let (checkpoint, pictures) = (checkpoint(), place().join("pictures"));
    let int8 = &format!("--precision int8 --calibrate @/pictures{}", processor::weight_bits());
    for (name, flags) in [("v16", "--precision fp16"), ("v8", int8)] {
        let model = onnx(name, flags);
        let verify = |more: &[&str]| {
            let mut arguments: Vec<&dyn AsRef<OsStr>> =
                vec![&"verify", &model, &checkpoint, &pictures, &"--json"];
            arguments.extend(more.iter().map(|m| m as &dyn AsRef<OsStr>));
            run::run("occlude-export", &arguments)
        };
        let found = verify(&[]).ok().json();
        assert_eq!(found["passed"], true, "{found}");
        assert!(found["neighbours"]["overlap"].as_f64().is_some_and(|o| o > 0.8), "{found}");
        assert!(found["neighbours"]["top1"].is_f64(), "the pictures lie in folders: {found}");
        // A difference that is there cannot pass a tolerance of nothing.
        assert_eq!(verify(&["--tolerance", "0"]).code, 3);
    }
}

/// One broken picture is named, skipped and counted, by calibration and by both kinds of `verify`; nothing but broken
/// ones is an error.
#[test]
fn broken_pictures_are_skipped_and_told() {
    let folder = run::scratch("export_broken");
    let (some, none) = (folder.join("some"), folder.join("none"));
    pictures::tree(&some, 8, 3);
    pictures::broken(&some.join("disc/broken.jpg"));
    std::fs::create_dir(&none).expect("a folder");
    ["a.jpg", "b.png"].iter().for_each(|name| pictures::broken(&none.join(name)));
    let checkpoint = checkpoint();
    let int8 = |out: &PathBuf, pictures: &PathBuf| {
        let mut arguments: Vec<&dyn AsRef<OsStr>> = vec![&"onnx", &checkpoint, out, &"--image-size", &SIDE];
        arguments.extend([&"--precision" as &dyn AsRef<OsStr>, &"int8", &"--calibrate", pictures]);
        let bits = processor::weight_bits().trim();
        if !bits.is_empty() {
            arguments.push(&bits);
        }
        run::run("occlude-export", &arguments)
    };
    let (single, integers, never) =
        (onnx("unbroken", ""), folder.join("int8.onnx"), folder.join("never.onnx"));
    let said = int8(&integers, &some).ok();
    for part in ["calibrated on 24 pictures", "1 skipped", "warning: skipped: ", "disc/broken.jpg"] {
        assert!(said.stderr.contains(part), "no `{part}` in: {}", said.stderr);
    }
    let said = int8(&never, &none);
    assert_eq!(said.code, 1, "{}", said.stderr);
    assert!(said.stderr.contains("none of the 2 pictures could be read; the first: "), "{}", said.stderr);
    assert!(!never.exists());
    for model in [&single, &integers] {
        let verify = |pictures: &PathBuf| {
            run::run(
                "occlude-export",
                &[&"verify", model, &checkpoint, pictures, &"--limit", &"0", &"--json"],
            )
        };
        let said = verify(&some).ok();
        assert_eq!(said.json()["skipped"], 1, "{}", said.stdout);
        for part in ["1 pictures skipped", "warning: skipped: ", "disc/broken.jpg"] {
            assert!(said.stderr.contains(part), "no `{part}` in: {}", said.stderr);
        }
        let said = verify(&none);
        assert_eq!((said.code, said.stdout.as_str()), (1, ""), "{}", said.stderr);
        assert!(said.stderr.contains("none of the 2 pictures could be read; the first: "), "{}", said.stderr);
    }
}

#[test]
fn verify_draws_the_maps_and_overwrites_nothing() {
    let (checkpoint, pictures) = (checkpoint(), place().join("pictures"));
    let (model, sheet) = (onnx("drawn", ""), place().join("maps.png"));
    let verify = |model: &PathBuf, more: &[&dyn AsRef<OsStr>]| {
        let mut arguments: Vec<&dyn AsRef<OsStr>> = vec![&"verify", model, &checkpoint, &pictures];
        arguments.extend([&"--limit" as &dyn AsRef<OsStr>, &"2"]);
        arguments.extend(more);
        run::run("occlude-export", &arguments)
    };
    verify(&model, &[&"--maps", &sheet]).ok();
    let drawn = std::fs::read(&sheet).expect("written");
    assert!(drawn.starts_with(b"\x89PNG"));
    let said = verify(&model, &[&"--maps", &sheet]);
    assert!(said.code == 1 && said.stderr.contains("--force"), "{}", said.stderr);
    verify(&model, &[&"--maps", &sheet, &"--force"]).ok();
    assert_eq!(std::fs::read(&sheet).expect("written"), drawn, "the same maps");
    let said = verify(&onnx("undrawn", "--outputs embedding"), &[&"--maps", &sheet, &"--force"]);
    assert!(said.code == 1 && said.stderr.contains("`saliency`"), "{}", said.stderr);
}
