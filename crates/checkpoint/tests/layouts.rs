//! The keys of published checkpoints, in files that PyTorch writes; `layouts.py` makes them.

mod common;

use std::path::Path;
use std::sync::OnceLock;

use common::python;
use occlude_checkpoint::{Checkpoint, Encoder, Error, LoadOptions, load_encoder, match_encoder};
use occlude_encoder::layout::Naming;
use occlude_encoder::{Arch, Graph};
use tempfile::TempDir;

/// The folder of the files, written once.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().expect("folder");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/layouts.py");
        let output = python().arg(script).arg(folder.path()).output().expect("runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        folder
    });
    folder.path()
}

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(folder().join(name)).unwrap_or_else(|e| panic!("{e}"))
}

/// Every parameter holds its position in torchvision's state dict.
fn assert_in_place(encoder: &Encoder<'_>, name: &str) {
    for (i, param) in Graph::new(encoder.arch).params().iter().enumerate() {
        if let Some(values) = encoder.f32(&param.name) {
            assert!(values.iter().all(|&v| v == i as f32), "{name}: {} is not number {i}", param.name);
        }
    }
}

/// (file, prefix, how many keys below it are no part of the encoder)
const LAYOUTS: [(&str, &str, usize); 22] = [
    ("bare", "", 0),
    ("classifier", "", 2),
    ("reference", "", 0),
    ("nested", "", 0),
    ("moco", "module.encoder_q.", 2),
    ("mixmask", "module.encoder_q.", 2),
    ("moco_v3", "module.base_encoder.", 0),
    ("lewel", "module.online_net.backbone.", 0),
    ("dino", "teacher.backbone.", 0),
    ("simclr", "backbone.", 2),
    ("simsiam", "module.encoder.", 0),
    ("swav", "module.", 3),
    ("barlow", "module.backbone.", 0),
    ("bolts", "online_network.encoder.", 0),
    ("solo", "backbone.", 0),
    ("lightly", "backbone.", 0),
    ("byol", "online_network_state_dict.encoder.", 0),
    ("openselfsup", "backbone.", 0),
    ("byol_pytorch", "net.", 0),
    ("compiled", "_orig_mod.", 0),
    ("fpn", "backbone.bottom_up.", 0),
    ("bare.legacy", "", 0),
];

#[test]
fn published_checkpoints_load_as_they_are() {
    for (name, prefix, unused) in LAYOUTS {
        let checkpoint = open(&format!("{name}.pth"));
        let encoder = load_encoder(&checkpoint, &LoadOptions::default()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((encoder.arch, encoder.layout.prefix.as_str()), (Arch::ResNet18, prefix), "{name}");
        assert_eq!(encoder.report.matched, 120, "{name}: {}", encoder.report);
        assert_eq!(encoder.report.unused.len(), unused, "{name}: {}", encoder.report);
        assert_in_place(&encoder, name);
    }
}

#[test]
fn the_legacy_stream_gives_the_same() {
    for (name, prefix, _) in LAYOUTS.into_iter().filter(|(name, ..)| !name.ends_with(".legacy")) {
        let checkpoint = open(&format!("{name}.legacy.pth"));
        let found = match_encoder(&checkpoint, &LoadOptions::default()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((found.layout.prefix.as_str(), found.report.matched), (prefix, 120), "{name}");
    }
}

#[test]
fn a_c4_detector_is_put_together() {
    let checkpoint = open("c4.pkl");
    let encoder = load_encoder(&checkpoint, &LoadOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((encoder.arch, encoder.layout.naming), (Arch::ResNet50, Naming::Detectron2));
    assert_eq!(encoder.report.matched, 265, "{}", encoder.report);
    assert_in_place(&encoder, "c4");
}

/// The reason why a file is refused.
fn refused(name: &str) -> Error {
    let result = match_encoder(&open(&format!("{name}.pth")), &LoadOptions::default());
    result.map(|found| panic!("{name} loads: {} {}", found.arch, found.report)).unwrap_err()
}

#[test]
fn other_networks_are_not_taken_for_one_of_ours() {
    for (name, reasons) in [
        ("ema", ["several encoders", "`state_dict_ema.`"]),
        ("deep_stem", ["no plain stem", "`conv1.0.weight`"]),
        ("resnet152", ["that the architecture lacks", "resnet101"]),
        ("wide", ["of the wrong shape", "resnet50"]),
        ("resnext", ["of the wrong shape", "resnet50"]),
        ("attention", ["that the architecture lacks", "`layer1.0.se.fc1.weight`"]),
        ("small_stem", ["`conv1.weight`: expected [64, 3, 7, 7], got [64, 3, 3, 3]", "resnet18"]),
        ("transformer", ["no ResNet encoder found", "expected"]),
    ] {
        let message = refused(name).to_string();
        for reason in reasons {
            assert!(message.contains(reason), "{name}: expected `{reason}` in: {message}");
        }
        assert!(message.len() < 2000, "{name}: {} bytes", message.len());
    }
}

#[test]
fn a_prefix_or_an_architecture_settles_it() {
    let prefix = |prefix: &str| LoadOptions { prefix: Some(prefix.into()), ..LoadOptions::default() };
    for (name, asked) in [
        ("ema", ""),
        ("ema", "state_dict_ema"),
        ("moco", "module.encoder_k"),
        ("dino", "student.module.backbone."),
    ] {
        let found =
            match_encoder(&open(&format!("{name}.pth")), &prefix(asked)).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(found.layout.prefix.trim_end_matches('.'), asked.trim_end_matches('.'), "{name}");
    }
    // Aliases can be asked for by either name.
    for asked in ["backbone", "encoder_q.0", "encoder_k.0"] {
        assert!(match_encoder(&open("openselfsup.pth"), &prefix(asked)).is_ok(), "{asked}");
    }
    let partial = LoadOptions { arch: Some(Arch::ResNet101), partial: true, ..LoadOptions::default() };
    let found = match_encoder(&open("resnet152.pth"), &partial).expect("asked for");
    assert!(!found.report.surplus.is_empty() && !found.report.is_complete());
}

#[test]
fn the_arch_of_scripts_is_metadata_only() {
    let checkpoint = open("moco.pth");
    assert_eq!(checkpoint.metadata().get("arch").map(String::as_str), Some("resnet18"));
    assert_eq!(checkpoint.metadata().get("epoch").map(String::as_str), Some("200"));
}
