//! Detectron2 files back to torchvision's names.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use occlude_checkpoint::{Checkpoint, LoadOptions, TensorOut, load_encoder, meta};
use occlude_detectron::{Error, Import, ImportOptions, ORIGIN, import};
use occlude_encoder::Arch;
use occlude_output::Refused;

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes the tensors as a pickle and imports it as `out.safetensors`.
    fn import(&self, tensors: &[TensorOut<'_>]) -> Result<Import, Error> {
        let file = self.file("in.pkl");
        common::pickle(&file, tensors);
        import(&options(&file, &self.file("out.safetensors")))
    }

    /// The error of a file that must be refused; nothing may have been written.
    fn refused(&self, tensors: &[TensorOut<'_>]) -> Error {
        let error = self.import(tensors).expect_err("refused");
        assert!(!self.file("out.safetensors").exists(), "something was written");
        error
    }
}

fn options(file: &Path, out: &Path) -> ImportOptions {
    ImportOptions { file: file.to_owned(), out: out.to_owned(), arch: None, force: false }
}

/// Where C4 detectors keep the encoder.
fn c4(name: &str) -> String {
    format!("{}.{name}", if name.starts_with("res5.") { "roi_heads" } else { "backbone" })
}

fn fpn(name: &str) -> String {
    format!("backbone.bottom_up.{name}")
}

#[test]
fn convert_and_import_give_the_same_bits() {
    for arch in [Arch::ResNet18, Arch::ResNet50] {
        let place = Place::new();
        let (checkpoint, pickle) = common::converted(place.0.path(), arch);
        let out = place.file("back.safetensors");
        let done = import(&options(&pickle, &out)).expect("imported");
        assert_eq!((done.arch, done.left_out), (arch, 0));
        assert_eq!(common::contents(&out, ""), common::contents(&checkpoint, "module.encoder_q."));
    }
}

#[test]
fn detectors_are_imported_without_their_heads() {
    for place_of in [c4, fpn] {
        let place = Place::new();
        let mut tensors = common::detectron2(Arch::ResNet50, place_of);
        for name in ["roi_heads.res5.norm.weight", "backbone.fpn_lateral2.weight", "proposal_generator.x"] {
            tensors.push(TensorOut::f32(name, [2], &[1.0, 2.0]));
        }
        let done = place.import(&tensors).expect("imported");
        assert_eq!((done.arch, done.left_out, done.report.matched), (Arch::ResNet50, 3, 318));
        let expected = place.file("expected.safetensors");
        common::safetensors(&expected, &common::encoder(Arch::ResNet50, ""));
        assert_eq!(common::contents(&place.file("out.safetensors"), ""), common::contents(&expected, ""));
    }
}

#[test]
fn a_training_checkpoint_of_torch_is_read() {
    let place = Place::new();
    let (weights, file) = (place.file("weights.safetensors"), place.file("model_final.pth"));
    common::safetensors(&weights, &common::detectron2(Arch::ResNet18, fpn));
    let script = "import sys, torch\n\
                  from safetensors.torch import load_file\n\
                  model = load_file(sys.argv[1])\n\
                  state = {0: {'momentum_buffer': torch.ones(3)}}\n\
                  torch.save({'model': model, 'optimizer': {'state': state}, 'iteration': 9}, sys.argv[2])";
    let status = Command::new(common::python()).args(["-c", script]).args([&weights, &file]).status();
    assert!(status.expect("Python starts").success());
    let out = place.file("out.safetensors");
    let done = import(&options(&file, &out)).expect("imported");
    assert_eq!((done.arch, done.report.matched, done.left_out), (Arch::ResNet18, 120, 1));
    let origin = Checkpoint::open(&out).expect("opens").metadata().get(ORIGIN).cloned();
    assert_eq!(origin.as_deref(), Some("detectron2, torch zip: model_final.pth"));
}

#[test]
fn the_metadata_says_what_the_other_tools_ask_for() {
    let place = Place::new();
    let done = place.import(&common::detectron2(Arch::ResNet18, str::to_owned)).expect("imported");
    assert!(done.warnings.iter().any(|w| w.contains("assumes RGB")), "{:?}", done.warnings);
    let checkpoint = Checkpoint::open(place.file("out.safetensors")).expect("opens");
    let of = |key: &str| checkpoint.metadata().get(key).cloned().unwrap_or_default();
    assert_eq!(of(meta::ARCH), "resnet18");
    assert_eq!(of(ORIGIN), "detectron2, numpy pickle: in.pkl by a test");
    assert!(of(meta::PREPROCESS).contains("0.485"), "{}", of(meta::PREPROCESS));
    let encoder = load_encoder(&checkpoint, &LoadOptions::default()).expect("strict");
    assert_eq!(of(meta::FINGERPRINT), encoder.fingerprint(&of(meta::PREPROCESS)));
    assert_eq!(done.fingerprint, of(meta::FINGERPRINT));
}

#[test]
fn pixel_statistics_of_the_detector_become_the_contract() {
    let place = Place::new();
    let mut tensors = common::detectron2(Arch::ResNet18, fpn);
    tensors.push(TensorOut::f32("pixel_mean", [3, 1, 1], &[127.5, 127.5, 127.5]));
    tensors.push(TensorOut::f32("pixel_std", [3, 1, 1], &[51.0, 51.0, 51.0]));
    let done = place.import(&tensors).expect("imported");
    assert_eq!(done.warnings, [""; 0]);
    let checkpoint = Checkpoint::open(place.file("out.safetensors")).expect("opens");
    let contract = checkpoint.metadata().get(meta::PREPROCESS).cloned().unwrap_or_default();
    assert!(contract.contains(r#""mean":[0.5,0.5,0.5],"std":[0.2,0.2,0.2]"#), "{contract}");
}

#[test]
fn counters_may_be_absent() {
    let place = Place::new();
    let mut tensors = common::detectron2(Arch::ResNet18, str::to_owned);
    tensors.retain(|t| !t.name.ends_with("num_batches_tracked"));
    assert_eq!(place.import(&tensors).expect("imported").report.matched, 100);
    let counter = common::contents(&place.file("out.safetensors"), "bn1.num_batches_tracked");
    assert_eq!(counter.get(""), Some(&(vec![], "I64".to_owned(), vec![0; 8])));
}

#[test]
fn an_existing_file_is_kept() {
    let place = Place::new();
    let tensors = common::detectron2(Arch::ResNet18, str::to_owned);
    place.import(&tensors).expect("imported");
    assert!(
        matches!(place.import(&tensors), Err(Error::Output(Refused::Exists(path))) if path == place.file("out.safetensors"))
    );
    let forced =
        ImportOptions { force: true, ..options(&place.file("in.pkl"), &place.file("out.safetensors")) };
    import(&forced).expect("replaced");
    let onto_itself = ImportOptions { out: place.file("in.pkl"), ..forced };
    assert!(matches!(import(&onto_itself), Err(Error::Output(Refused::Input { .. }))));
}

#[test]
fn caffe2_names_are_refused() {
    let tensors = [TensorOut::f32("conv1_w", [1], &[1.0]), TensorOut::f32("res_conv1_bn_s", [1], &[1.0])];
    let error = Place::new().refused(&tensors);
    assert!(matches!(&error, Error::Caffe2 { name, .. } if name == "conv1_w"), "{error}");
    assert!(error.to_string().contains("BGR"), "{error}");
}

#[test]
fn a_detector_that_started_from_caffe2_is_refused() {
    let mut tensors = common::detectron2(Arch::ResNet18, fpn);
    common::fill(common::tensor(&mut tensors, "backbone.bottom_up.stem.conv1.norm.running_mean"), 0.0);
    common::fill(common::tensor(&mut tensors, "backbone.bottom_up.stem.conv1.norm.running_var"), 1.0 - 1e-5);
    let error = Place::new().refused(&tensors);
    assert!(matches!(error, Error::FrozenNorm { .. }), "{error}");
}

/// Mean 0 and variance 1, but scale 1 and shift 0 as well: nobody has trained it, and nothing is wrong with it.
#[test]
fn an_untrained_encoder_is_no_caffe2() {
    let mut tensors = common::detectron2(Arch::ResNet18, str::to_owned);
    for (leaf, value) in [("running_mean", 0.0), ("running_var", 1.0), ("weight", 1.0), ("bias", 0.0)] {
        common::fill(common::tensor(&mut tensors, &format!("stem.conv1.norm.{leaf}")), value);
    }
    Place::new().import(&tensors).expect("imported");
}

#[test]
fn bgr_and_undivided_pixels_are_refused() {
    for (mean, std) in
        [([103.53, 116.28, 123.675], [57.375, 57.12, 58.395]), ([123.675, 116.28, 103.53], [1.0; 3])]
    {
        let mut tensors = common::detectron2(Arch::ResNet18, fpn);
        tensors.push(TensorOut::f32("pixel_mean", [3], &mean));
        tensors.push(TensorOut::f32("pixel_std", [3], &std));
        let error = Place::new().refused(&tensors);
        assert!(matches!(error, Error::Pixels { .. }), "{error}");
    }
}

#[test]
fn pixel_statistics_that_no_contract_has_are_refused() {
    let usual = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]);
    for (mean, std) in [
        ([f32::NAN; 3], usual.1),
        ([300.0, 200.0, 100.0], usual.1),
        ([-1.0, -2.0, -3.0], usual.1),
        (usual.0, [300.0; 3]),
        (usual.0, [57.0, f32::NAN, 57.0]),
        (usual.0, [f32::INFINITY; 3]),
    ] {
        let mut tensors = common::detectron2(Arch::ResNet18, fpn);
        tensors.push(TensorOut::f32("pixel_mean", [3, 1, 1], &mean));
        tensors.push(TensorOut::f32("pixel_std", [3, 1, 1], &std));
        let error = Place::new().refused(&tensors);
        assert!(matches!(error, Error::Statistics { .. }), "{error}");
        let said = error.to_string();
        for part in ["in.pkl", "`pixel_mean`", "`pixel_std`", "hint: "] {
            assert!(said.contains(part), "no `{part}` in {said}");
        }
    }
}

#[test]
fn other_projects_names_are_refused_with_a_hint() {
    let error = Place::new().refused(&common::encoder(Arch::ResNet18, "module.encoder_q."));
    assert!(matches!(error, Error::NoEncoder(_)), "{error}");
    assert!(error.to_string().contains("occlude-export safetensors"), "{error}");
}

#[test]
fn missing_mis_shaped_and_superfluous_parameters_are_named() {
    let mut missing = common::detectron2(Arch::ResNet18, str::to_owned);
    missing.retain(|t| t.name != "res3.1.conv2.weight");
    let mut shaped = common::detectron2(Arch::ResNet18, str::to_owned);
    *common::tensor(&mut shaped, "res4.0.conv1.norm.bias") =
        TensorOut::f32("res4.0.conv1.norm.bias", [1], &[1.0]);
    let mut more = common::detectron2(Arch::ResNet18, str::to_owned);
    more.push(TensorOut::f32("res4.7.conv1.norm.bias", [1], &[1.0]));
    for (tensors, name) in
        [(missing, "layer2.1.conv2.weight"), (shaped, "layer3.0.bn1.bias"), (more, "layer3.7.bn1.bias")]
    {
        let error = Place::new().refused(&tensors);
        assert!(matches!(error, Error::Incomplete { arch: Arch::ResNet18, .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn another_architecture_does_not_fit() {
    let place = Place::new();
    common::pickle(&place.file("in.pkl"), &common::detectron2(Arch::ResNet18, str::to_owned));
    let asked = ImportOptions {
        arch: Some(Arch::ResNet50),
        ..options(&place.file("in.pkl"), &place.file("out.safetensors"))
    };
    assert!(matches!(import(&asked), Err(Error::Incomplete { arch: Arch::ResNet50, .. })));
}

#[test]
fn networks_for_small_pictures_are_refused() {
    let place = Place::new();
    let (file, out) = (place.file("x.pkl"), place.file("x.safetensors"));
    common::pickle(&file, &common::detectron2(Arch::ResNet18Small, str::to_owned));
    let asked = ImportOptions { arch: Some(Arch::ResNet18Small), ..options(&file, &out) };
    assert!(matches!(import(&asked), Err(Error::NotDetectron { .. })));
    let error = import(&options(&file, &out)).expect_err("another stem").to_string();
    assert!(error.contains("`conv1.weight`: expected [64, 3, 7, 7], got [64, 3, 3, 3]"), "{error}");
}

#[test]
fn two_encoders_are_refused() {
    let mut tensors = common::detectron2(Arch::ResNet18, str::to_owned);
    tensors.extend(common::detectron2(Arch::ResNet18, fpn));
    let error = Place::new().refused(&tensors);
    assert!(matches!(error, Error::TwoNames { .. }), "{error}");
}

#[test]
fn weights_that_are_no_floats_are_refused() {
    let mut tensors = common::detectron2(Arch::ResNet18, str::to_owned);
    let bias = common::tensor(&mut tensors, "res2.0.conv1.norm.bias");
    bias.dtype = occlude_checkpoint::Dtype::I32;
    let error = Place::new().refused(&tensors);
    assert!(matches!(&error, Error::Dtype { name, .. } if name == "res2.0.conv1.norm.bias"), "{error}");
}
