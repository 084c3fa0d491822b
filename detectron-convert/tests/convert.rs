//! One test per way in which `convert` and `driver` refuse.

mod common;

use std::fs;
use std::path::PathBuf;

use occlude_checkpoint::{TensorOut, save_safetensors};
use occlude_detectron::{DRIVER, Error, Options, Recipe, convert, write_driver};
use occlude_encoder::Arch;
use occlude_output::Refused;

/// A folder with `encoder.safetensors`, a ResNet-18 of MoCo's layout, and options to convert it.
fn place() -> (tempfile::TempDir, Options) {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoint = folder.path().join("encoder.safetensors");
    common::safetensors(&checkpoint, &common::encoder(Arch::ResNet18, "encoder_q."));
    let options = common::options(&checkpoint, &folder.path().join("out.pkl"));
    (folder, options)
}

fn refused(options: &Options) -> Error {
    let error = convert(options).expect_err("refused");
    assert!(!options.out.exists() && !options.out.with_extension("yaml").exists(), "something was written");
    error
}

#[test]
fn detectron2_reads_pickles_by_their_extension() {
    let (folder, options) = place();
    let options = Options { out: folder.path().join("out.pickle"), ..options };
    assert!(matches!(refused(&options), Error::Extension(_)));
}

#[test]
fn existing_files_are_kept() {
    let (_folder, options) = place();
    let yaml = options.out.with_extension("yaml");
    fs::write(&yaml, "mine").expect("written");
    assert!(matches!(convert(&options), Err(Error::Output(Refused::Exists(path))) if path == yaml));
    assert_eq!(fs::read_to_string(&yaml).expect("read"), "mine");
    convert(&Options { force: true, ..options }).expect("replaced");
}

#[test]
fn the_checkpoint_is_not_overwritten() {
    let (folder, options) = place();
    let pickle = folder.path().join("in.pkl");
    common::pickle(&pickle, &common::detectron2(Arch::ResNet18, str::to_owned));
    let before = fs::read(&pickle).expect("written");
    let hard = folder.path().join("hard.pkl");
    fs::hard_link(&pickle, &hard).expect("linked");
    // The YAML beside the pickle is an output like it.
    let yaml = folder.path().join("sidecar.yaml");
    fs::hard_link(&pickle, &yaml).expect("linked");
    for out in [pickle.clone(), hard, yaml.with_extension("pkl")] {
        let options = Options { checkpoint: pickle.clone(), out, force: true, ..options.clone() };
        assert!(matches!(convert(&options), Err(Error::Output(Refused::Input { .. }))), "{:?}", options.out);
    }
    assert_eq!(fs::read(&pickle).expect("there"), before);
}

#[test]
fn a_head_is_kept_where_there_is_one() {
    let (_folder, options) = place();
    let options = Options { keep_head: true, ..options };
    assert!(matches!(refused(&options), Error::NoHead { .. }));
    let mut tensors = common::encoder(Arch::ResNet18, "encoder_q.");
    tensors.push(TensorOut::f32("encoder_q.fc.0.bias", [2], &[1.0, 2.0]));
    common::safetensors(&options.checkpoint, &tensors);
    assert_eq!(convert(&options).expect("converted").arrays, 121);
    assert!(common::contents(&options.out, "").contains_key("stem.fc.0.bias"));
}

#[test]
fn c4_wants_bottlenecks() {
    let (_folder, options) = place();
    let options = Options { recipe: Some(Recipe::VocC4_24k), ..options };
    assert!(matches!(refused(&options), Error::RecipeArch { arch: Arch::ResNet18, .. }));
}

#[test]
fn networks_for_small_pictures_are_not_detectron2s() {
    let (_folder, options) = place();
    common::safetensors(&options.checkpoint, &common::encoder(Arch::ResNet18Small, "encoder_q."));
    let error = refused(&options);
    assert!(matches!(error, Error::NotDetectron { arch: Arch::ResNet18Small }), "{error}");
    assert!(error.to_string().contains("7x7 convolution") && error.to_string().contains("hint: "), "{error}");
}

#[test]
fn vision_transformers_are_refused_with_what_to_use() {
    let (_folder, options) = place();
    let arch = "vit_32x2x4_patch8_32".parse().expect("a network");
    let metadata = [("occlude.arch".to_owned(), "vit_32x2x4_patch8_32".to_owned())].into();
    save_safetensors(&options.checkpoint, &common::encoder(arch, ""), &metadata).expect("written");
    let error = refused(&options);
    assert!(matches!(error, Error::Transformer { .. }), "{error}");
    assert!(error.to_string().contains("pseudo-boxes"), "{error}");
}

#[test]
fn a_contract_that_cannot_be_read_is_an_error() {
    let (_folder, options) = place();
    let metadata = [("occlude.preprocess".to_owned(), "{}".to_owned())].into();
    let tensors = common::encoder(Arch::ResNet18, "encoder_q.");
    save_safetensors(&options.checkpoint, &tensors, &metadata).expect("written");
    assert!(matches!(refused(&options), Error::Contract { .. }));
}

#[test]
fn an_incomplete_checkpoint_is_an_error() {
    let (_folder, options) = place();
    let mut tensors = common::encoder(Arch::ResNet18, "encoder_q.");
    tensors.retain(|t| t.name != "encoder_q.layer3.0.conv1.weight");
    common::safetensors(&options.checkpoint, &tensors);
    assert!(matches!(refused(&options), Error::Checkpoint(_)));
}

#[test]
fn what_cannot_be_written_is_an_error() {
    let (folder, options) = place();
    let options = Options { out: folder.path().join("nowhere/out.pkl"), ..options };
    let error = refused(&options);
    assert!(
        matches!(&error, Error::Output(Refused::NoFolder { path, .. }) if *path == options.out),
        "{error}"
    );
    let nowhere = folder.path().join("nowhere/driver.py");
    let refused = write_driver(&nowhere, false).expect_err("no folder");
    assert!(
        matches!(&refused, Error::Output(Refused::NoFolder { path, .. }) if *path == nowhere),
        "{refused}"
    );
}

#[test]
fn the_driver_is_written_once() {
    let (folder, _) = place();
    let expected: PathBuf = folder.path().join("train_detector.py");
    assert_eq!(write_driver(folder.path(), false).expect("written"), expected);
    assert_eq!(fs::read_to_string(&expected).expect("read"), DRIVER);
    assert!(matches!(write_driver(&expected, false), Err(Error::Output(Refused::Exists(_)))));
    write_driver(&expected, true).expect("replaced");
}
