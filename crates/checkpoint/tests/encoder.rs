//! Loading encoders from safetensors files: layouts, strictness, reports, fingerprints.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{encoder_tensors, value};
use occlude_checkpoint::{
    Checkpoint, EncoderData, Error, Format, LoadOptions, TensorOut, Whitening, WhiteningInfo, load_encoder,
    meta, save_safetensors,
};
use occlude_encoder::Arch;

fn saved(dir: &Path, tensors: &[TensorOut<'_>], metadata: &[(&str, &str)]) -> Checkpoint {
    let path = dir.join("x.safetensors");
    let metadata: BTreeMap<_, _> = metadata.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    save_safetensors(&path, tensors, &metadata).expect("saves");
    Checkpoint::open(&path).expect("opens")
}

#[test]
fn loads_by_name_from_every_layout() {
    let dir = tempfile::tempdir().expect("folder");
    for prefix in ["", "encoder_q.", "module.encoder_q.", "online_net.backbone.", "teacher.backbone."] {
        let mut tensors = encoder_tensors(Arch::ResNet18, prefix);
        tensors.push(TensorOut::f32(format!("{prefix}fc.weight"), [1, 2], &[1.0, 2.0]));
        let checkpoint = saved(dir.path(), &tensors, &[]);
        assert_eq!(checkpoint.format(), Format::Safetensors);
        let encoder = load_encoder(&checkpoint, &LoadOptions::default()).expect("loads");
        assert_eq!((encoder.arch, encoder.layout.prefix.as_str()), (Arch::ResNet18, prefix));
        assert_eq!(encoder.report.matched, 120);
        assert_eq!(encoder.report.unused, [format!("{prefix}fc.weight")]);
        assert_eq!(encoder.f32("conv1.weight").map(|w| w[10]), Some(value(0, 10)));
        assert!(matches!(encoder.tensors["bn1.num_batches_tracked"].data, EncoderData::I64(1005)));
        assert_eq!(encoder.f32("bn1.num_batches_tracked"), None);
    }
}

#[test]
fn every_architecture_is_recognised() {
    let dir = tempfile::tempdir().expect("folder");
    // Those of torchvision's that take hundreds of megabytes: `layouts.rs`.
    for arch in Arch::ALL.into_iter().take(4) {
        let checkpoint = saved(dir.path(), &encoder_tensors(arch, ""), &[]);
        let encoder = load_encoder(&checkpoint, &LoadOptions::default()).expect("loads");
        assert_eq!(encoder.arch, arch);
    }
}

#[test]
fn optimiser_state_and_key_encoder_do_not_confuse() {
    let dir = tempfile::tempdir().expect("folder");
    let mut tensors = encoder_tensors(Arch::ResNet18, "encoder_q.");
    for prefix in ["encoder_k.", "optim.momentum.encoder_q."] {
        tensors.extend(encoder_tensors(Arch::ResNet18, prefix));
    }
    let checkpoint = saved(dir.path(), &tensors, &[(meta::ARCH, "resnet18")]);
    let encoder = load_encoder(&checkpoint, &LoadOptions::default()).expect("loads");
    assert_eq!(encoder.layout.prefix, "encoder_q.");
    assert!(encoder.report.unused.is_empty());
}

/// Which encoder is meant is for the file to say; a name of metadata that was copied without the tensors is none.
#[test]
fn the_metadata_name_the_encoder() {
    let dir = tempfile::tempdir().expect("folder");
    let mut tensors = encoder_tensors(Arch::ResNet18, "student.");
    tensors.extend(encoder_tensors(Arch::ResNet18, "tutor."));
    let prefix = |named: &[(&str, &str)], asked: Option<&str>| {
        let checkpoint = saved(dir.path(), &tensors, named);
        let options = LoadOptions { prefix: asked.map(str::to_owned), ..LoadOptions::default() };
        load_encoder(&checkpoint, &options).map(|e| e.layout.prefix).map_err(|e| e.to_string())
    };
    assert_eq!(prefix(&[(meta::ENCODER, "tutor.")], None).as_deref(), Ok("tutor."));
    assert_eq!(prefix(&[(meta::ENCODER, "tutor.")], Some("student")).as_deref(), Ok("student."));
    for named in [&[][..], &[(meta::ENCODER, "encoder_q.")]] {
        let error = prefix(named, None).expect_err("two encoders");
        assert!(error.contains("student.") && error.contains("tutor."), "{error}");
    }
}

#[test]
fn missing_and_mis_shaped_are_listed() {
    let dir = tempfile::tempdir().expect("folder");
    let mut tensors = encoder_tensors(Arch::ResNet18, "");
    tensors.retain(|t| t.name != "layer2.0.bn1.weight");
    tensors.retain(|t| t.name != "bn1.bias");
    tensors.push(TensorOut::f32("bn1.bias", [2], &[0.0, 1.0]));
    let checkpoint = saved(dir.path(), &tensors, &[]);
    let err = load_encoder(&checkpoint, &LoadOptions::default()).expect_err("strict");
    let text = err.to_string();
    assert!(matches!(err, Error::Strict { .. }), "{text}");
    for part in ["118 matched", "`layer2.0.bn1.weight`", "`bn1.bias`: expected [64], got [2]", "--arch"] {
        assert!(text.contains(part), "`{part}` not in: {text}");
    }
    let partial = LoadOptions { partial: true, ..LoadOptions::default() };
    let encoder = load_encoder(&checkpoint, &partial).expect("partial");
    assert_eq!(encoder.report.matched, 118);
    assert_eq!(encoder.f32("bn1.bias"), None);
}

#[test]
fn nothing_matched_is_an_error_even_when_partial() {
    let dir = tempfile::tempdir().expect("folder");
    let one = [0.0];
    let tensors = ["conv1.weight", "layer1.0.conv1.weight"].map(|n| TensorOut::f32(n, [1], &one));
    let checkpoint = saved(dir.path(), &tensors, &[]);
    let partial = LoadOptions { partial: true, ..LoadOptions::default() };
    let err = load_encoder(&checkpoint, &partial).expect_err("nothing matched");
    assert!(err.to_string().contains("0 matched"), "{err}");
}

#[test]
fn old_files_without_counters_load() {
    let dir = tempfile::tempdir().expect("folder");
    let mut tensors = encoder_tensors(Arch::ResNet18, "");
    tensors.retain(|t| !t.name.ends_with("num_batches_tracked"));
    let checkpoint = saved(dir.path(), &tensors, &[]);
    let encoder = load_encoder(&checkpoint, &LoadOptions::default()).expect("loads");
    assert_eq!(encoder.report.matched, 100);
    assert!(matches!(encoder.tensors["bn1.num_batches_tracked"].data, EncoderData::I64(0)));
}

#[test]
fn no_encoder_and_unknown_arch_are_errors() {
    let dir = tempfile::tempdir().expect("folder");
    let checkpoint = saved(dir.path(), &[TensorOut::i64("x", 1)], &[]);
    let err = load_encoder(&checkpoint, &LoadOptions::default()).expect_err("no encoder");
    assert!(matches!(err, Error::Layout { .. }), "{err}");
    let checkpoint = saved(dir.path(), &encoder_tensors(Arch::ResNet18, ""), &[(meta::ARCH, "resnet9")]);
    let err = load_encoder(&checkpoint, &LoadOptions::default()).expect_err("unknown");
    assert!(matches!(err, Error::Arch { .. }) && err.to_string().contains("resnet9"), "{err}");
}

#[test]
fn fingerprints_follow_weights_and_contract_only() {
    let dir = tempfile::tempdir().expect("folder");
    let fingerprint = |tensors: &[TensorOut<'_>], contract: &str| {
        let checkpoint = saved(dir.path(), tensors, &[]);
        load_encoder(&checkpoint, &LoadOptions::default()).expect("loads").fingerprint(contract)
    };
    let tensors = encoder_tensors(Arch::ResNet18, "");
    let print = fingerprint(&tensors, "{}");
    assert_eq!(print.len(), 64);
    assert_ne!(print, fingerprint(&tensors, "{\"crop\":64}"));
    let renamed: Vec<_> = encoder_tensors(Arch::ResNet18, "encoder_q.");
    assert_eq!(print, fingerprint(&renamed, "{}"));
    let mut counted = tensors.clone();
    for t in counted.iter_mut().filter(|t| t.name.ends_with("num_batches_tracked")) {
        *t = TensorOut::i64(t.name.clone(), 7);
    }
    assert_eq!(print, fingerprint(&counted, "{}"));
    let mut changed = tensors;
    changed[0].data.to_mut()[0] ^= 1;
    assert_ne!(print, fingerprint(&changed, "{}"));
}

#[test]
fn a_whitening_belongs_to_the_encoder_and_its_fingerprint() {
    let dir = tempfile::tempdir().expect("folder");
    let info = WhiteningInfo { pictures: 9, shrinkage: 0.0, variance: 1.0, encoder: String::new() };
    let of = |weight: Option<Vec<f32>>, outputs: usize| {
        Whitening::new(weight, vec![0.25; outputs], 512, info.clone()).expect("fits")
    };
    let load = |prefix: &str, whitening: Option<&Whitening>, said: bool| {
        let mut metadata = BTreeMap::new();
        whitening.filter(|_| said).inspect(|w| w.describe(&mut metadata));
        let metadata: Vec<(&str, &str)> = metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let mut tensors = encoder_tensors(Arch::ResNet18, prefix);
        tensors.extend(whitening.iter().flat_map(|w| w.tensors_out()));
        let checkpoint = saved(dir.path(), &tensors, &metadata);
        let encoder = load_encoder(&checkpoint, &LoadOptions::default()).expect("loads");
        (encoder.fingerprint("{}"), encoder.whitening.clone(), encoder.report.unused.len())
    };
    let (plain, none, _) = load("", None, true);
    assert!(none.is_none());
    let mut prints = vec![plain.clone()];
    for whitening in [of(Some(vec![0.5; 1024]), 2), of(Some(vec![0.75; 1024]), 2), of(None, 512)] {
        let (print, found, unused) = load("", Some(&whitening), true);
        assert_eq!((found.as_ref(), unused), (Some(&whitening), 0), "nothing of it is left over");
        assert_eq!(load("encoder_q.", Some(&whitening), true).0, print, "wherever the encoder is");
        assert!(!prints.contains(&print));
        prints.push(print);
    }
    let (print, found, unused) = load("", Some(&of(None, 512)), false);
    assert_eq!((print, found, unused), (plain, None, 1), "another project's tensors of these names");
}
