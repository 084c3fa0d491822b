//! A few iterations of training with the script, on a data set made here; skipped where Detectron2 is not.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use occlude_detectron::{DRIVER_NAME, Options, Recipe, convert, write_driver};
use occlude_encoder::Arch;

/// Settings under which an iteration takes seconds on a CPU.
const SMALL: &str = "DATASETS.TRAIN ('shapes',) DATASETS.TEST ('shapes',) MODEL.ROI_HEADS.NUM_CLASSES 3 \
    MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE 8 MODEL.RPN.POST_NMS_TOPK_TEST 10 TEST.DETECTIONS_PER_IMAGE 5 \
    INPUT.MIN_SIZE_TRAIN (64,) INPUT.MIN_SIZE_TEST 64 SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 2 SOLVER.STEPS () \
    SOLVER.BASE_LR 0.001 DATALOADER.NUM_WORKERS 0 TEST.PRECISE_BN.NUM_ITER 1";

struct Place {
    folder: tempfile::TempDir,
    python: PathBuf,
}

impl Place {
    /// Encoder, script and data set; `None` where Detectron2 is not.
    fn new(recipe: Recipe) -> Option<Self> {
        let python = common::python_with_detectron2()?;
        let place = Self { folder: tempfile::tempdir().expect("a folder"), python };
        let arch = if recipe == Recipe::CocoFpn1x { Arch::ResNet18 } else { Arch::ResNet50 };
        let checkpoint = place.file("encoder.safetensors");
        common::safetensors(&checkpoint, &common::encoder(arch, "encoder_q."));
        let options = common::options(&checkpoint, &place.file("encoder.pkl"));
        convert(&Options { recipe: Some(recipe), ..options }).expect("converted");
        write_driver(place.folder.path(), false).expect("written");
        let shapes = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/shapes.py");
        let made = Command::new(&place.python).arg(shapes).arg(place.file("shapes")).arg("4").status();
        assert!(made.expect("Python starts").success());
        Some(place)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs the script in the folder with `flags`, then the small settings, then `pairs`.
    fn run(&self, flags: &str, pairs: &str) -> (i32, String) {
        let line = format!(
            "{DRIVER_NAME} --config-file encoder.yaml --num-gpus 0 {flags} \
             --register shapes shapes/annotations.json shapes/images {SMALL} {pairs}"
        );
        let mut command = Command::new(&self.python);
        command.current_dir(self.folder.path()).args(line.split_whitespace());
        let (code, stdout, stderr) = common::said(&command.output().expect("Python starts"));
        (code, format!("{stdout}\n{stderr}"))
    }
}

fn trains_and_evaluates(place: &Place) {
    let (code, said) = place.run("--weights encoder.pkl", "");
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("encoder tensors loaded") && said.contains("BN instead of SyncBN"), "{said}");
    assert!(place.file("output/model_final.pth").is_file());
    let (code, said) = place.run("--eval-only --weights output/model_final.pth", "");
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("Evaluation results for bbox") && said.contains("AP50"), "{said}");
}

#[test]
fn fpn() {
    let Some(place) = Place::new(Recipe::CocoFpn1x) else { return };
    trains_and_evaluates(&place);
    let (code, said) = place.run("--resume", "SOLVER.MAX_ITER 3");
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("Starting training from iteration 2"), "{said}");
}

#[test]
fn c4() {
    let Some(place) = Place::new(Recipe::CocoC4_1x) else { return };
    trains_and_evaluates(&place);
    // The other way round as well: a trained C4 detector has its encoder in two places.
    let mut import = common::tool();
    import.arg("import").arg(place.file("output/model_final.pth")).arg(place.file("back.safetensors"));
    let (code, _, stderr) = common::said(&import.output().expect("starts"));
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("resnet50: 318 matched"), "{stderr}");
}

#[test]
fn what_cannot_work_is_refused_before_training() {
    let Some(place) = Place::new(Recipe::CocoFpn1x) else {
        return;
    };
    for (flags, pairs, words) in [
        ("--weights gone.pkl", "", "`gone.pkl` do not exist"),
        ("--weights encoder.pkl", "MODEL.ROI_HEADS.NUM_CLASSES 80", "append `MODEL.ROI_HEADS.NUM_CLASSES 3`"),
        ("--weights encoder.pkl --eval-only", "", "an encoder without"),
        ("--weights encoder.pkl", "MODEL.RESNETS.DEPTH 34", "the weights lack"),
        ("--weights encoder.pkl --register b gone.json shapes", "", "`gone.json` does not exist"),
    ] {
        let (code, said) = place.run(flags, pairs);
        assert!(code != 0 && said.contains(words), "{flags} {pairs}: {code}\n{said}");
    }
    let mut tensors = common::detectron2(Arch::ResNet18, str::to_owned);
    tensors.retain(|t| t.name != "res4.1.conv2.weight");
    common::pickle(&place.file("broken.pkl"), &tensors);
    let (code, said) = place.run("--weights broken.pkl", "");
    assert!(code != 0 && said.contains("backbone.bottom_up.res4.1.conv2.weight"), "{code}\n{said}");
}
