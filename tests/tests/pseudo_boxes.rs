//! From a checkpoint to boxes that nobody drew: the exporter's model, the converter's annotations, and both again in Python.

use occlude_tests::{pictures, run, tolerance};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use xtask::paths;

const SCRIPT: &str = include_str!("pseudo_boxes.py");
/// Writes a checkpoint; see there.
const MAKE: &str = include_str!("export.py");

fn numbers(value: &Value) -> Vec<Vec<f64>> {
    let row = |v: &Value| v.as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect();
    value.as_array().unwrap().iter().map(row).collect()
}

/// A checkpoint `moco.pth.tar`, its model `m.onnx`, and 15 pictures in `photos`.
fn prepare(folder: &Path) {
    let checkpoint = folder.join("moco.pth.tar");
    run::python(MAKE, &[Path::new("make"), &checkpoint]);
    run::run("occlude-export", &[&"onnx", &checkpoint, &folder.join("m.onnx"), &"--image-size", &"192"]).ok();
    // Without loss, so that both see the same pixels.
    let mut random = pictures::Random::new(11);
    for (class, name) in pictures::CLASSES.iter().enumerate() {
        let class_folder = folder.join("photos").join(name);
        std::fs::create_dir_all(&class_folder).unwrap();
        for i in 0..5 {
            pictures::draw(class, &mut random).save(class_folder.join(format!("{i}.png"))).unwrap();
        }
    }
}

#[test]
fn boxes_are_those_that_python_finds() {
    let folder = run::scratch("pseudo-boxes");
    prepare(&folder);
    let (model, photos, out) = (folder.join("m.onnx"), folder.join("photos"), folder.join("coco.json"));
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

/// No package registry has Detectron2.
fn detectron2() -> bool {
    let python = paths::python();
    let found = Command::new(&python).args(["-c", "import detectron2._C"]).output().expect("starts").status;
    if !found.success() {
        let hint = format!("`{}` cannot import detectron2: build it from its source there", python.display());
        occlude_skip::test("Detectron2", &hint);
    }
    found.success()
}

#[test]
fn a_detector_trains_and_is_judged_on_them() {
    if !detectron2() {
        return;
    }
    let folder = run::scratch("pseudo-detector");
    prepare(&folder);
    let at = |name: &str| folder.join(name);
    let tool = |arguments: &[&dyn AsRef<std::ffi::OsStr>]| run::run("occlude-detectron", arguments).ok();
    tool(&[&"pseudo-boxes", &at("photos"), &"--model", &at("m.onnx"), &"-o", &at("objects.json")]);
    tool(&[&"convert", &at("moco.pth.tar"), &at("objects.pkl"), &"--recipe", &"coco-fpn-1x"]);
    tool(&[&"driver", &folder]);
    // Masks, too: they are run-length encodings.
    let line = "train_detector.py --config-file objects.yaml --weights objects.pkl --num-gpus 0 \
        --register objects objects.json photos DATASETS.TRAIN ('objects',) DATASETS.TEST ('objects',) \
        MODEL.ROI_HEADS.NUM_CLASSES 1 INPUT.MASK_FORMAT bitmask MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE 8 \
        MODEL.RPN.POST_NMS_TOPK_TEST 10 TEST.DETECTIONS_PER_IMAGE 5 INPUT.MIN_SIZE_TRAIN (64,) INPUT.MIN_SIZE_TEST 64 \
        SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 2 SOLVER.STEPS () SOLVER.BASE_LR 0.001 DATALOADER.NUM_WORKERS 0 \
        TEST.PRECISE_BN.NUM_ITER 1";
    let mut command = Command::new(paths::python());
    let output = command.current_dir(&folder).args(line.split_whitespace()).output().expect("Python starts");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("encoder tensors loaded"), "{said}");
    for kind in ["bbox", "segm"] {
        assert!(said.contains(&format!("Evaluation results for {kind}")), "{said}");
    }
}
