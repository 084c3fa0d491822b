//! From a checkpoint to boxes that nobody drew: the exporter's model, the converter's annotations, and both again in Python.

use occlude_tests::{pictures, run, tolerance};
use serde_json::Value;
use std::path::Path;

const SCRIPT: &str = include_str!("pseudo_boxes.py");
/// Writes a checkpoint; see there.
const MAKE: &str = include_str!("export.py");

fn numbers(value: &Value) -> Vec<Vec<f64>> {
    let row = |v: &Value| v.as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect();
    value.as_array().unwrap().iter().map(row).collect()
}

#[test]
fn boxes_are_those_that_python_finds() {
    let folder = run::scratch("pseudo-boxes");
    let (checkpoint, model) = (folder.join("moco.pth.tar"), folder.join("m.onnx"));
    let (photos, out) = (folder.join("photos"), folder.join("coco.json"));
    run::python(MAKE, &[Path::new("make"), &checkpoint]);
    run::run("occlude-export", &[&"onnx", &checkpoint, &model, &"--image-size", &"192"]).ok();
    // Without loss, so that both see the same pixels.
    let mut random = pictures::Random::new(11);
    for (class, name) in pictures::CLASSES.iter().enumerate() {
        std::fs::create_dir_all(photos.join(name)).unwrap();
        for i in 0..5 {
            pictures::draw(class, &mut random).save(photos.join(format!("{name}/{i}.png"))).unwrap();
        }
    }
    pictures::broken(&photos.join("disc/broken.jpg"));
    let said =
        run::run("occlude-detectron", &[&"pseudo-boxes", &photos, &"--model", &model, &"-o", &out]).ok();
    assert_eq!(said.stdout.trim(), out.to_str().unwrap());
    assert!(said.stderr.contains("broken.jpg") && said.stderr.contains("1 skipped"), "{}", said.stderr);

    let found = run::python(SCRIPT, &[&model, &photos, &out]);
    let found = found.as_array().unwrap();
    assert_eq!(found.len(), 15);
    let mut boxes = 0;
    for picture in found {
        assert_eq!((&picture["masks"], &picture["size"]), (&true.into(), &true.into()), "{picture}");
        let (expected, got) = (numbers(&picture["expected"]), numbers(&picture["got"]));
        assert_eq!(expected.len(), got.len(), "{picture}");
        for (expected, got) in expected.iter().zip(&got) {
            assert_eq!(expected[..5], got[..5], "{picture}");
            assert!((expected[5] - got[5]).abs() < tolerance::MAP_SCORE, "{picture}");
        }
        boxes += got.len();
    }
    assert!(said.stderr.contains(&format!("{boxes} boxes in 15 pictures")) && boxes >= 15, "{}", said.stderr);
}
