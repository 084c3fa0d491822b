//! Pickles that are right, and one thing wrong with each of the others. The structural check runs everywhere; where
//! the environment's Python can import Detectron2, its checkpointer must come to the same answer.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use occlude_checkpoint::{Dtype, TensorOut};
use occlude_detectron::{Error, Structure, VerifyOptions, structure, verify};
use occlude_encoder::Arch;
use occlude_pickle::Encoder;

fn file(name: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    (folder, path)
}

/// The structure of a ResNet-18's pickle after a change.
fn changed(change: impl FnOnce(&mut Vec<TensorOut<'static>>)) -> Structure {
    let (_folder, path) = file("x.pkl");
    let mut tensors = common::detectron2(Arch::ResNet18, str::to_owned);
    change(&mut tensors);
    common::pickle(&path, &tensors);
    structure(&path, None).expect("readable")
}

fn problem(change: impl FnOnce(&mut Vec<TensorOut<'static>>)) -> String {
    changed(change).problems.join("\n")
}

#[test]
fn what_convert_writes_is_right() {
    for arch in [Arch::ResNet18, Arch::ResNet50] {
        let (folder, _) = file("");
        let (_, pickle) = common::converted(folder.path(), arch);
        let found = structure(&pickle, None).expect("readable");
        assert_eq!((found.arch, &*found.problems, found.unloadable), (arch, [].as_slice(), None));
        assert_eq!(found.author.as_deref(), Some("Occlude"));
    }
}

#[test]
fn a_projection_head_is_no_problem() {
    let found = changed(|t| t.push(TensorOut::f32("stem.fc.0.bias", [1], &[1.0])));
    assert_eq!((found.problems, found.head), (vec![], vec!["stem.fc.0.bias".to_owned()]));
}

#[test]
fn one_wrong_thing_each() {
    let name = "res3.1.conv2.norm.bias";
    assert!(problem(|t| t.retain(|t| t.name != name)).contains("`res3.1.conv2.norm.bias` is missing"));
    let shape = problem(|t| *common::tensor(t, name) = TensorOut::f32(name, [1], &[1.0]));
    assert!(shape.contains("expected the shape [128], got [1]"), "{shape}");
    let dtype = problem(|t| {
        let tensor = common::tensor(t, name);
        tensor.dtype = Dtype::F16;
        tensor.data = vec![0; 256].into();
    });
    assert!(dtype.contains("expected the type F32, got F16"), "{dtype}");
    let infinite = problem(|t| common::fill(common::tensor(t, name), f32::NAN));
    assert!(infinite.contains("not finite"), "{infinite}");
    let negative = problem(|t| common::fill(common::tensor(t, "res3.1.conv2.norm.running_var"), -1.0));
    assert!(negative.contains("negative variances"), "{negative}");
    let other = problem(|t| t.push(TensorOut::f32("queue", [1], &[1.0])));
    assert!(other.contains("`queue` is not a name of an encoder"), "{other}");
    let block = problem(|t| t.push(TensorOut::f32("res3.9.conv2.norm.bias", [1], &[1.0])));
    assert!(block.contains("is not part of resnet18"), "{block}");
}

#[test]
fn long_names_are_a_problem() {
    let (_folder, path) = file("x.pkl");
    common::pickle(&path, &common::detectron2(Arch::ResNet18, |name| format!("backbone.{name}")));
    let found = structure(&path, None).expect("readable");
    assert!(found.problems.first().is_some_and(|p| p.contains("should be named `stem.conv1.weight`")));
}

/// What is around the arrays of a pickle.
struct Around {
    author: bool,
    heuristics: bool,
    global: Option<(&'static str, &'static str)>,
}

fn written(path: &Path, around: &Around) {
    let mut pickle = Encoder::new(fs::File::create(path).expect("a file")).expect("begun");
    let mut write = || -> std::io::Result<()> {
        pickle.dict_start()?;
        pickle.str("model")?;
        pickle.dict_start()?;
        for tensor in common::detectron2(Arch::ResNet18, str::to_owned) {
            let counter = tensor.dtype == Dtype::I64;
            let kind = if counter { occlude_pickle::ArrayType::I64 } else { occlude_pickle::ArrayType::F32 };
            pickle.str(&tensor.name)?;
            pickle.ndarray(kind, &tensor.shape, &tensor.data)?;
        }
        pickle.dict_end()?;
        if around.author {
            pickle.str("__author__")?;
            pickle.str("a test")?;
        }
        pickle.str("matching_heuristics")?;
        pickle.bool(around.heuristics)?;
        if let Some((module, name)) = around.global {
            pickle.str("more")?;
            pickle.global(module, name)?;
        }
        pickle.dict_end()
    };
    write().expect("written");
    pickle.finish().expect("finished");
}

#[test]
fn a_wrong_outer_dictionary_is_found_and_not_given_to_python() {
    let right = Around { author: true, heuristics: true, global: None };
    for (around, words) in [
        (Around { author: false, ..right }, "no text `__author__`"),
        (Around { heuristics: false, ..right }, "`matching_heuristics` is not True"),
        (Around { global: Some(("json", "loads")), ..right }, "refers to `json.loads`"),
    ] {
        let (_folder, path) = file("x.pkl");
        written(&path, &around);
        // An interpreter that does not exist: starting it would be an error.
        let python = Some("/nonexistent/python".into());
        let options = VerifyOptions { pickle: path, python, ..VerifyOptions::default() };
        let found = verify(&options).expect("verified");
        assert!(found.structure.problems.iter().any(|p| p.contains(words)), "{found}");
        assert!(!found.passed() && found.loaded.is_none(), "{found}");
    }
}

#[test]
fn arrays_without_a_dictionary_around_them_are_found() {
    let (_folder, path) = file("x.pkl");
    let mut pickle = Encoder::new(fs::File::create(&path).expect("a file")).expect("begun");
    pickle.dict_start().expect("written");
    pickle.str("stem.conv1.weight").expect("written");
    pickle.ndarray(occlude_pickle::ArrayType::F32, &[1], &[0; 4]).expect("written");
    pickle.dict_end().expect("written");
    pickle.finish().expect("finished");
    let found = structure(&path, None).expect("readable");
    assert!(found.problems.first().is_some_and(|p| p.contains("no dictionary `model`")), "{found:?}");
}

#[test]
fn files_of_another_kind_are_errors() {
    let (folder, path) = file("x.pkl");
    let missing = structure(&path, None).expect_err("absent");
    assert!(matches!(missing, Error::Read { .. }), "{missing}");
    common::safetensors(&path, &common::encoder(Arch::ResNet18, ""));
    let other = structure(&path, None).expect_err("no pickle");
    assert!(matches!(other, Error::NoPickle { .. }) && other.to_string().contains("safetensors"), "{other}");
    let attack = folder.path().join("attack.pkl");
    fs::write(&attack, b"cos\nsystem\n(S'true'\ntR.").expect("written");
    let error = structure(&attack, None).expect_err("refused");
    assert!(matches!(error, Error::Checkpoint(_)) && error.to_string().contains("os.system"), "{error}");
}

#[test]
fn settings_and_interpreters_that_do_not_exist_are_errors() {
    let (folder, _) = file("");
    let (_, pickle) = common::converted(folder.path(), Arch::ResNet18);
    let options = VerifyOptions { pickle, ..VerifyOptions::default() };
    let config = VerifyOptions { config: Some("gone.yaml".into()), ..options.clone() };
    assert!(matches!(verify(&config), Err(Error::NoConfig(path)) if path == Path::new("gone.yaml")));
    let python = VerifyOptions { python: Some("/nonexistent/python".into()), ..options };
    assert!(matches!(verify(&python), Err(Error::Python { .. })));
}

#[test]
fn exit_codes() {
    let (folder, _) = file("");
    let (_, pickle) = common::converted(folder.path(), Arch::ResNet18);
    let run = |arguments: &[&str]| {
        let output = common::tool().arg("verify").arg(&pickle).args(arguments).output().expect("starts");
        common::said(&output)
    };
    // `true` starts, says nothing and has no Detectron2: an answer that is not understood is no success.
    let (code, stdout, stderr) = run(&["--python", "true"]);
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    let mut tensors = common::detectron2(Arch::ResNet18, str::to_owned);
    tensors.pop();
    tensors.retain(|t| t.name != "res5.1.conv2.weight");
    common::pickle(&pickle, &tensors);
    let python = common::python();
    let (code, stdout, stderr) = run(&["--python", &python.to_string_lossy()]);
    assert_eq!(code, 3, "{stdout}{stderr}");
    assert!(
        stdout.contains("`res5.1.conv2.weight` is missing") && stderr.contains("hint:"),
        "{stdout}{stderr}"
    );
}

#[test]
fn without_detectron2_the_answer_says_so() {
    let (folder, _) = file("");
    let (_, pickle) = common::converted(folder.path(), Arch::ResNet18);
    let run = |more: &[&str]| {
        // `-S -E` leaves Python without any installed package.
        let python = folder.path().join("python");
        let script = format!("#!/bin/sh\nexec '{}' -S -E \"$@\"\n", common::python().display());
        fs::write(&python, script).expect("written");
        make_executable(&python);
        let output =
            common::tool().arg("verify").arg(&pickle).arg("--python").arg(&python).args(more).output();
        common::said(&output.expect("starts"))
    };
    let (code, stdout, stderr) = run(&[]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("NOT CHECKED") && stdout.contains("detectron2"), "{stdout}");
    let (code, _, stderr) = run(&["--require-detectron2"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("cannot be imported"), "{stderr}");
}

fn make_executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("permissions");
}

#[test]
fn detectron2_loads_every_tensor() {
    let Some(python) = common::python_with_detectron2() else { return };
    for (arch, tensors) in [(Arch::ResNet18, 120), (Arch::ResNet50, 318)] {
        let (folder, _) = file("");
        let (_, pickle) = common::converted(folder.path(), arch);
        let python = Some(python.clone());
        let found = verify(&VerifyOptions { pickle, python, ..VerifyOptions::default() }).expect("verified");
        assert!(found.passed(), "{found}");
        assert_eq!(found.loaded.map(|l| l.matched), Some(tensors));
    }
}

#[test]
fn detectron2_finds_a_tensor_that_is_missing() {
    let Some(python) = common::python_with_detectron2() else {
        return;
    };
    let (_folder, pickle) = file("x.pkl");
    let mut tensors = common::detectron2(Arch::ResNet50, str::to_owned);
    tensors.retain(|t| t.name != "res5.1.conv2.weight");
    common::pickle(&pickle, &tensors);
    let options = VerifyOptions { pickle, python: Some(python), ..VerifyOptions::default() };
    let found = verify(&options).expect("verified");
    assert!(!found.passed(), "{found}");
    assert_eq!(found.loaded.map(|l| l.missing), Some(vec!["res5.1.conv2.weight".to_owned()]));
}
